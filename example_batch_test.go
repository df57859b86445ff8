package jskv_test

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// All of it is stored, or nothing.
func ExampleBatch() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	seen := put(ctx, profiles, "sue.seat", "12A")
	revisions, err := profiles.NewBatch().
		Update("sue.seat", "14C", seen).
		Create("bob.seat", "12A").
		Commit(ctx)
	fmt.Println(revisions, err)

	// Sue has moved since, so bob is not moved either.
	_, err = profiles.NewBatch().
		Update("sue.seat", "1A", seen).
		Put("bob.seat", "14C").
		Commit(ctx)
	fmt.Println(err)
	// Output:
	// [2 3] <nil>
	// jskv: commit batch to profiles/sue.seat: revision 1 is not the newest (2)
}

func ExampleBucket_NewBatch() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	batch := profiles.NewBatch()
	for _, name := range []string{"sue", "bob", "eve"} {
		batch.Put(name+".color", "blue")
	}
	fmt.Println(batch.Commit(ctx))
	// Output:
	// [1 2 3] <nil>
}

func ExampleBatch_Put() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	fmt.Println(profiles.NewBatch().Put("sue.color", "blue").Put("bob.color", "green").Commit(ctx))
	// Output:
	// [1 2] <nil>
}

func ExampleBatch_Create() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	_, err := profiles.NewBatch().Create("bob.color", "green").Create("sue.color", "red").Commit(ctx)
	fmt.Println(errors.Is(err, jskv.ErrKeyExists))

	_, err = profiles.Get(ctx, "bob.color")
	fmt.Println(errors.Is(err, jskv.ErrKeyNotFound))
	// Output:
	// true
	// true
}

func ExampleBatch_Update() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	sue, bob := put(ctx, profiles, "sue.seat", "12A"), put(ctx, profiles, "bob.seat", "14C")
	fmt.Println(profiles.NewBatch().Update("sue.seat", "14C", sue).Update("bob.seat", "12A", bob).Commit(ctx))
	// Output:
	// [3 4] <nil>
}

// A key moves to another name.
func ExampleBatch_Delete() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	seen := put(ctx, profiles, "sue.colour", "blue")
	_, err := profiles.NewBatch().
		Delete("sue.colour", jskv.IfRevision(seen)).
		Create("sue.color", "blue").
		Commit(ctx)
	check(err)
	fmt.Println(jskv.Collect(profiles.Keys(ctx)))
	// Output:
	// [sue.color] <nil>
}

func ExampleBatch_Purge() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 5}, jskv.WithTransactions())
	defer stop()

	for _, color := range []string{"blue", "green"} {
		put(ctx, profiles, "sue.color", color)
	}
	fmt.Println(profiles.NewBatch().Purge("sue.color").Put("sue.left", "today").Commit(ctx))
	// Output:
	// [3 4] <nil>
}

// A batch may depend on a key that it does not write: here a lock that is still held.
func ExampleBatch_Require() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	lock, err := profiles.Create(ctx, "lock", "me")
	check(err)
	write := func() error {
		_, err := profiles.NewBatch().Require("lock", lock).Put("sue.color", "blue").Put("bob.color", "green").Commit(ctx)
		return err
	}
	fmt.Println(write())

	put(ctx, profiles, "lock", "somebody else")
	fmt.Println(errors.Is(write(), jskv.ErrRevisionMismatch))
	// Output:
	// <nil>
	// true
}

func ExampleBatch_Len() {
	_, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	fmt.Println(profiles.NewBatch().Put("sue.color", "blue").Delete("bob.color").Require("lock", 1).Len())
	// Output:
	// 2
}

// A bucket takes batches of several writes only if it was made for them.
func ExampleBatch_Commit() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	_, err := profiles.NewBatch().Put("sue.color", "blue").Put("bob.color", "green").Commit(ctx)
	fmt.Println(errors.Is(err, jskv.ErrTransactionsDisabled))
	// Output:
	// true
}

// Readers can tell what was written together.
func ExampleEntry_Batch() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	put(ctx, profiles, "eve.color", "red")
	_, err := profiles.NewBatch().Put("sue.color", "blue").Put("bob.color", "green").Commit(ctx)
	check(err)

	for _, key := range []string{"eve.color", "bob.color"} {
		entry, err := profiles.Entry(ctx, key)
		check(err)
		_, batched := entry.Batch()
		fmt.Println(key, batched)
	}
	// Output:
	// eve.color false
	// bob.color true
}

func ExampleBatchPosition() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	watcher, err := profiles.Watch(ctx, jskv.AllKeys)
	check(err)
	defer watcher.Stop()
	_, err = profiles.NewBatch().Put("sue.color", "blue").Put("bob.color", "green").Commit(ctx)
	check(err)

	for entry, err := range watcher.Updates() {
		check(err)
		position, _ := entry.Batch()
		fmt.Println(entry.Key, position.Sequence, position.Last)
		if position.Last {
			break
		}
	}
	// Output:
	// sue.color 1 false
	// bob.color 2 true
}
