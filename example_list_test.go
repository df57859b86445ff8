package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

func ExampleBucket_Keys() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	for _, key := range []string{"sue.color", "sue.food", "bob.color"} {
		put(ctx, profiles, key, "?")
	}
	for key, err := range profiles.Keys(ctx, "sue.*") {
		if err != nil {
			fmt.Println("not the whole list:", err)
			break
		}
		fmt.Println(key)
	}
	// Unordered output:
	// sue.color
	// sue.food
}

// A list that is not complete ends with an error.
func ExampleBucket_Keys_cut() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	keys, err := jskv.Collect(profiles.Keys(ctx))
	fmt.Println(keys, errors.Is(err, context.Canceled))
	// Output:
	// [] true
}

func ExampleBucket_Entries() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.food", "pizza")
	for entry, err := range profiles.Entries(ctx) {
		check(err)
		fmt.Println(entry.Key, entry.Value, entry.Revision)
	}
	// Unordered output:
	// sue.color blue 1
	// sue.food pizza 2
}

func ExampleBucket_History() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 2})
	defer stop()

	for _, color := range []string{"blue", "green", "red"} {
		put(ctx, profiles, "sue.color", color)
	}
	for entry, err := range profiles.History(ctx, "sue.color") {
		check(err)
		fmt.Println(entry.Revision, entry.Value)
	}
	// Output:
	// 2 green
	// 3 red
}

func ExampleCollect() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "bob.color", "green")
	keys, err := jskv.Collect(profiles.Keys(ctx))
	slices.Sort(keys)
	fmt.Println(keys, err)
	// Output:
	// [bob.color sue.color] <nil>
}
