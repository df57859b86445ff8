package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// startCache starts a server with a bucket of strings, and a cache of all of it.
func startCache() (context.Context, *jskv.Bucket[string], *jskv.Cache[string], func()) {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "bob.color", "green")
	cache, err := profiles.Cache(ctx)
	check(err)
	return ctx, profiles, cache, func() {
		cache.Close()
		stop()
	}
}

// A cache follows the bucket. Reading it sends no request.
func ExampleCache() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	colors, err := profiles.Cache(ctx, "*.color")
	check(err)
	defer colors.Close()
	fmt.Println(colors.Get("sue.color"))

	revision := put(ctx, profiles, "sue.color", "green")
	check(colors.Wait(ctx, revision))
	fmt.Println(colors.Get("sue.color"))
	// Output:
	// blue true
	// green true
}

func ExampleBucket_Cache() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.food", "pizza")
	put(ctx, profiles, "bob.color", "green")
	sue, err := profiles.Cache(ctx, "sue.>")
	check(err)
	defer sue.Close()
	fmt.Println(sue.Len(), "keys")
	// Output:
	// 2 keys
}

func ExampleCache_Get() {
	_, _, cache, stop := startCache()
	defer stop()

	fmt.Println(cache.Get("sue.color"))
	_, ok := cache.Get("eve.color")
	fmt.Println(ok)
	// Output:
	// blue true
	// false
}

func ExampleCache_Entry() {
	_, _, cache, stop := startCache()
	defer stop()

	entry, ok := cache.Entry("bob.color")
	fmt.Println(entry.Value, entry.Revision, ok)
	// Output:
	// green 2 true
}

func ExampleCache_All() {
	_, _, cache, stop := startCache()
	defer stop()

	for key, entry := range cache.All() { // in key order
		fmt.Println(key, entry.Value)
	}
	// Output:
	// bob.color green
	// sue.color blue
}

func ExampleCache_Len() {
	_, _, cache, stop := startCache()
	defer stop()

	fmt.Println(cache.Len())
	// Output:
	// 2
}

func ExampleCache_Revision() {
	_, _, cache, stop := startCache()
	defer stop()

	fmt.Println(cache.Revision())
	// Output:
	// 2
}

// Whoever wrote can wait for the cache to have it.
func ExampleCache_Wait() {
	ctx, profiles, cache, stop := startCache()
	defer stop()

	revision, err := profiles.Delete(ctx, "bob.color")
	check(err)
	check(cache.Wait(ctx, revision))
	_, ok := cache.Get("bob.color")
	fmt.Println(ok)
	// Output:
	// false
}

// The present content comes first, each key as one that did not exist.
func ExampleCache_Changes() {
	ctx, profiles, cache, stop := startCache()
	defer stop()

	for change, err := range cache.Changes(ctx) {
		check(err)
		fmt.Println(change.New.Key, change.New.Value)
		if change.New.Key == "sue.color" {
			put(ctx, profiles, "eve.color", "red")
		}
		if change.New.Key == "eve.color" {
			break
		}
	}
	// Output:
	// bob.color green
	// sue.color blue
	// eve.color red
}

// A reader that falls behind sees the newest state of a key, not every step to it.
func ExampleChange() {
	ctx, profiles, cache, stop := startCache()
	defer stop()

	for change, err := range cache.Changes(ctx) {
		check(err)
		if !change.Existed {
			fmt.Println(change.New.Key, "is", change.New.Value)
			if change.New.Key == "sue.color" {
				put(ctx, profiles, "sue.color", "red")
				check(cache.Wait(ctx, put(ctx, profiles, "sue.color", "yellow")))
			}
			continue
		}
		fmt.Println(change.Old.Key, "was", change.Old.Value, "and is", change.New.Value)
		break
	}
	// Output:
	// bob.color is green
	// sue.color is blue
	// sue.color was blue and is yellow
}

// A program decides for itself how old its data may be.
func ExampleCache_Stale() {
	_, _, cache, stop := startCache()
	defer stop()

	fmt.Println("good enough:", cache.Stale() < 10*time.Second)
	// Output:
	// good enough: true
}

func ExampleCache_Err() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	life, cancel := context.WithCancel(ctx)
	cache, err := profiles.Cache(life)
	check(err)
	defer cache.Close()
	fmt.Println(cache.Err())

	cancel()
	for _, err := range cache.Changes(ctx) { // ends with the cache
		fmt.Println(errors.Is(err, context.Canceled))
	}
	fmt.Println(errors.Is(cache.Err(), context.Canceled))
	// Output:
	// <nil>
	// true
	// true
}

// What was copied stays readable.
func ExampleCache_Close() {
	_, _, cache, stop := startCache()
	defer stop()

	cache.Close()
	fmt.Println(cache.Get("sue.color"))
	// Output:
	// blue true
}

func ExampleCache_Undecoded() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.age", "41")
	put(ctx, profiles, "bob.age", "forty")
	ages, err := jskv.As(profiles, jskv.JSON[int]()).Cache(ctx)
	check(err)
	defer ages.Close()

	fmt.Println(ages.Get("sue.age"))
	for _, err := range ages.Undecoded() {
		fmt.Printf("%s: %q is no number\n", err.Key, err.Data)
	}
	// Output:
	// 41 true
	// bob.age: "forty" is no number
}

// An index answers who likes a color, and not only which color somebody likes.
func ExampleNewIndex() {
	ctx, profiles, cache, stop := startCache()
	defer stop()

	byColor := jskv.NewIndex(cache, func(e jskv.Entry[string]) []string { return []string{e.Value} })
	check(cache.Wait(ctx, put(ctx, profiles, "eve.color", "blue")))
	for _, entry := range byColor.Find("blue") {
		fmt.Println(entry.Key)
	}
	// Output:
	// eve.color
	// sue.color
}

func ExampleIndex_Find() {
	_, _, cache, stop := startCache()
	defer stop()

	byColor := jskv.NewIndex(cache, func(e jskv.Entry[string]) []string { return []string{e.Value} })
	fmt.Println(byColor.Find("green")[0].Key, len(byColor.Find("red")))
	// Output:
	// bob.color 0
}

func ExampleIndex_Terms() {
	_, _, cache, stop := startCache()
	defer stop()

	byColor := jskv.NewIndex(cache, func(e jskv.Entry[string]) []string { return []string{e.Value} })
	for color, n := range byColor.Terms() {
		fmt.Println(color, n)
	}
	// Unordered output:
	// blue 1
	// green 1
}
