package jskv_test

import (
	"errors"
	"fmt"
	"iter"
	"maps"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// Keys that are not there are not in the map.
func ExampleBucket_GetMany() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "bob.color", "green")
	colors, err := profiles.GetMany(ctx, "sue.color", "bob.color", "eve.color")
	check(err)

	_, eve := colors["eve.color"]
	fmt.Println(colors["sue.color"].Value, colors["bob.color"].Value, eve)
	// Output:
	// blue green false
}

func ExampleBucket_PutMany() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	// What is written need not fit into memory: any sequence will do.
	var users iter.Seq2[string, string] = func(yield func(string, string) bool) {
		for i := range 5000 {
			if !yield(fmt.Sprintf("user.%d", i), "new") {
				return
			}
		}
	}
	fmt.Println(profiles.PutMany(ctx, users))
	// Output:
	// 5000 <nil>
}

func ExampleProgress() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	colors := map[string]string{"sue.color": "blue", "bob.color": "green"}
	_, err := profiles.PutMany(ctx, maps.All(colors), jskv.Progress(func(done int) {
		fmt.Println(done, "of", len(colors))
	}))
	check(err)
	// Output:
	// 1 of 2
	// 2 of 2
}

// One at a time leaves the server to others.
func ExampleMaxPending() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	colors := map[string]string{"sue.color": "blue", "bob.color": "green"}
	fmt.Println(profiles.PutMany(ctx, maps.All(colors), jskv.MaxPending(1)))
	// Output:
	// 2 <nil>
}

// A write that fails by itself does not end the others.
func ExampleBulkError() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	colors := map[string]string{"sue.color": "blue", "bob color": "green"}
	done, err := profiles.PutMany(ctx, maps.All(colors))
	fmt.Println(done, "written")

	if failed, ok := errors.AsType[*jskv.BulkError](err); ok {
		for key, err := range failed.Failed {
			fmt.Printf("%q: %t\n", key, errors.Is(err, jskv.ErrInvalidKey))
		}
	}
	// Output:
	// 1 written
	// "bob color": true
}
