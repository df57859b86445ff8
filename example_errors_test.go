package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// A conflict tells what there is now, so nobody has to read it first.
func ExampleRevisionError() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.color", "green")
	_, err := profiles.Update(ctx, "sue.color", "red", 1)

	if conflict, ok := errors.AsType[*jskv.RevisionError](err); ok {
		fmt.Println(conflict.Key, "is at", conflict.Actual, "and not at", conflict.Expected)
	}
	fmt.Println(errors.Is(err, jskv.ErrRevisionMismatch), errors.Is(err, jskv.ErrKeyExists))
	// Output:
	// sue.color is at 2 and not at 1
	// true false
}

// One value that does not decode does not hide the others.
func ExampleDecodeError() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "bob.age", "forty")
	put(ctx, profiles, "sue.age", "41")

	ages := jskv.As(profiles, jskv.JSON[int]())
	for entry, err := range ages.Entries(ctx, "*.age") {
		if undecoded, ok := errors.AsType[*jskv.DecodeError](err); ok {
			fmt.Printf("%s: %q is no number\n", undecoded.Key, undecoded.Data)
			continue
		}
		check(err)
		fmt.Printf("%s: %d\n", entry.Key, entry.Value)
	}
	// Unordered output:
	// bob.age: "forty" is no number
	// sue.age: 41
}

func ExampleSafeToRetry() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	over, cancel := context.WithDeadline(ctx, time.Now())
	defer cancel()
	_, err := profiles.Put(over, "sue.color", "blue")
	fmt.Println(jskv.SafeToRetry(err)) // nothing was sent

	fmt.Println(jskv.SafeToRetry(fmt.Errorf("no answer: %w", jskv.ErrOutcomeUnknown)))
	// Output:
	// true
	// false
}
