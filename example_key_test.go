package jskv_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

func ExampleBucket_Put() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	revision, err := profiles.Put(ctx, "sue.color", "blue")
	fmt.Println(revision, err)

	// Revisions count the writes of the whole bucket.
	revision, err = profiles.Put(ctx, "bob.color", "green")
	fmt.Println(revision, err)

	_, err = profiles.Put(ctx, "sue color", "red")
	fmt.Println(errors.Is(err, jskv.ErrInvalidKey))
	// Output:
	// 1 <nil>
	// 2 <nil>
	// true
}

func ExampleBucket_Get() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	color, err := profiles.Get(ctx, "sue.color")
	fmt.Println(color, err)

	_, err = profiles.Get(ctx, "bob.color")
	fmt.Println(errors.Is(err, jskv.ErrKeyNotFound))
	// Output:
	// blue <nil>
	// true
}

// A deleted key still has a revision, which the entry beside the error tells.
func ExampleBucket_Entry() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	entry, err := profiles.Entry(ctx, "sue.color")
	check(err)
	fmt.Println(entry.Value, entry.Revision, entry.Operation)

	_, err = profiles.Delete(ctx, "sue.color")
	check(err)
	entry, err = profiles.Entry(ctx, "sue.color")
	fmt.Println(errors.Is(err, jskv.ErrKeyNotFound), entry.Revision, entry.Operation)
	// Output:
	// blue 1 Put
	// true 2 Delete
}

func ExampleBucket_Create() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	_, err := profiles.Create(ctx, "sue.color", "blue")
	check(err)
	_, err = profiles.Create(ctx, "sue.color", "green")
	fmt.Println(errors.Is(err, jskv.ErrKeyExists))

	// What was deleted can be created again.
	_, err = profiles.Delete(ctx, "sue.color")
	check(err)
	revision, err := profiles.Create(ctx, "sue.color", "red")
	fmt.Println(revision, err)
	// Output:
	// true
	// 3 <nil>
}

// Update writes only over the revision that the caller has seen.
func ExampleBucket_Update() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	seen := put(ctx, profiles, "sue.color", "blue")
	revision, err := profiles.Update(ctx, "sue.color", "green", seen)
	fmt.Println(revision, err)

	_, err = profiles.Update(ctx, "sue.color", "red", seen)
	fmt.Println(err)
	// Output:
	// 2 <nil>
	// jskv: update profiles/sue.color: revision 1 is not the newest (2)
}

// Delete leaves a marker. The history below it stays.
func ExampleBucket_Delete() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 5})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	revision, err := profiles.Delete(ctx, "sue.color")
	fmt.Println(revision, err)

	for entry, err := range profiles.History(ctx, "sue.color") {
		check(err)
		fmt.Printf("%d %v %q\n", entry.Revision, entry.Operation, entry.Value)
	}
	// Output:
	// 2 <nil>
	// 1 Put "blue"
	// 2 Delete ""
}

// Purge leaves a marker and nothing else.
func ExampleBucket_Purge() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 5})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	revision, err := profiles.Purge(ctx, "sue.color")
	fmt.Println(revision, err)

	for entry, err := range profiles.History(ctx, "sue.color") {
		check(err)
		fmt.Printf("%d %v %q\n", entry.Revision, entry.Operation, entry.Value)
	}
	// Output:
	// 2 <nil>
	// 2 Purge ""
}

// Modify reads, changes and writes, and starts over if somebody else wrote in between.
func ExampleBucket_Modify() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	visits := jskv.As(profiles, jskv.JSON[int]())
	count := func(current jskv.Entry[int], exists bool) (int, error) {
		return current.Value + 1, nil // the zero value where there is none
	}
	for range 3 {
		entry, err := visits.Modify(ctx, "sue.visits", count)
		check(err)
		fmt.Println(entry.Value, "at revision", entry.Revision)
	}
	// Output:
	// 1 at revision 1
	// 2 at revision 2
	// 3 at revision 3
}

// An error of the function ends it, with nothing written.
func ExampleBucket_Modify_refuse() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	errTaken := errors.New("somebody has the seat")
	take := func(current jskv.Entry[string], exists bool) (string, error) {
		if exists {
			return "", errTaken
		}
		return "sue", nil
	}
	_, err := profiles.Modify(ctx, "seat.1", take)
	fmt.Println(err)
	_, err = profiles.Modify(ctx, "seat.1", take)
	fmt.Println(err == errTaken)
	// Output:
	// <nil>
	// true
}

// Markers stay until they are cleaned up.
func ExampleBucket_PurgeDeletes() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	for _, key := range []string{"sue.color", "bob.color", "eve.color"} {
		put(ctx, profiles, key, "blue")
	}
	for _, key := range []string{"sue.color", "bob.color"} {
		_, err := profiles.Delete(ctx, key)
		check(err)
	}

	fmt.Println(profiles.PurgeDeletes(ctx, time.Hour)) // none of them is that old
	fmt.Println(profiles.PurgeDeletes(ctx, 0))
	// Output:
	// 0 <nil>
	// 2 <nil>
}

func ExampleAtRevision() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 5})
	defer stop()

	first := put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.color", "green")

	color, err := profiles.Get(ctx, "sue.color", jskv.AtRevision(first))
	fmt.Println(color, err)
	// Output:
	// blue <nil>
}

// A handle sees its own writes. AtLeast is for those of others, whose revision came by another
// way: in a message, say.
func ExampleAtLeast() {
	ctx, js, stop := startServer()
	defer stop()

	cfg := jetstream.KeyValueConfig{Bucket: "profiles"}
	sender, err := jskv.CreateBucket(ctx, js, cfg, jskv.String())
	check(err)
	receiver, err := jskv.OpenBucket(ctx, js, "profiles", jskv.String())
	check(err)

	message := put(ctx, sender, "sue.color", "blue")
	color, err := receiver.Get(ctx, "sue.color", jskv.AtLeast(message))
	fmt.Println(color, err)
	// Output:
	// blue <nil>
}

func ExampleFromLeader() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	color, err := profiles.Get(ctx, "sue.color", jskv.FromLeader())
	fmt.Println(color, err)
	// Output:
	// blue <nil>
}

// What the server could not keep exactly is refused and not rounded.
func ExampleTTL() {
	ctx, sessions, stop := startBucket(jetstream.KeyValueConfig{LimitMarkerTTL: time.Second})
	defer stop()

	_, err := sessions.Put(ctx, "sue", "logged in", jskv.TTL(30*time.Minute))
	fmt.Println(err)

	_, err = sessions.Put(ctx, "sue", "logged in", jskv.TTL(1500*time.Millisecond))
	fmt.Println(errors.Is(err, jskv.ErrInvalidOption))
	// Output:
	// <nil>
	// true
}

func ExampleIfRevision() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	seen := put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.color", "green")

	_, err := profiles.Delete(ctx, "sue.color", jskv.IfRevision(seen))
	fmt.Println(err)
	// Output:
	// jskv: delete profiles/sue.color: revision 1 is not the newest (2)
}

func ExampleEntry() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	entry, err := profiles.Entry(ctx, "sue.color")
	check(err)
	fmt.Println(entry.Bucket, entry.Key, entry.Value, entry.Revision, entry.Operation)
	fmt.Println(time.Since(entry.Created) < time.Minute)
	// Output:
	// profiles sue.color blue 1 Put
	// true
}

// A TTL that runs out leaves a marker, which watchers see.
func ExampleEntry_Expired() {
	ctx, sessions, stop := startBucket(jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute})
	defer stop()

	watcher, err := sessions.Watch(ctx, jskv.AllKeys)
	check(err)
	defer watcher.Stop()
	_, err = sessions.Put(ctx, "sue", "logged in", jskv.TTL(time.Second))
	check(err)

	for entry, err := range watcher.Updates() {
		check(err)
		if entry.Operation == jskv.OpPut {
			continue // which a watcher that is read late does not see
		}
		fmt.Printf("%s %v expired: %t\n", entry.Key, entry.Operation, entry.Expired())
		break
	}
	// Output:
	// sue Purge expired: true
}

func ExampleOperation_String() {
	fmt.Println(jskv.OpPut, jskv.OpDelete, jskv.OpPurge)
	// Output:
	// Put Delete Purge
}
