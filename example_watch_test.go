package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// A watcher delivers what is there, and then what changes.
func ExampleBucket_Watch() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	watcher, err := profiles.Watch(ctx, "sue.*")
	check(err)
	defer watcher.Stop()
	put(ctx, profiles, "sue.food", "pizza")
	put(ctx, profiles, "bob.color", "red") // which "sue.*" does not match
	_, err = profiles.Delete(ctx, "sue.color")
	check(err)

	for entry, err := range watcher.Snapshot() {
		check(err)
		fmt.Println("has", entry.Key, entry.Value)
	}
	for entry, err := range watcher.Updates() {
		check(err)
		fmt.Printf("%d: %v %s %q\n", entry.Revision, entry.Operation, entry.Key, entry.Value)
		if entry.Operation == jskv.OpDelete {
			break
		}
	}
	// Output:
	// has sue.color blue
	// 2: Put sue.food "pizza"
	// 4: Delete sue.color ""
}

func ExampleWatcher_Snapshot() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.food", "pizza")
	watcher, err := profiles.Watch(ctx, jskv.AllKeys)
	check(err)
	defer watcher.Stop()

	for entry, err := range watcher.Snapshot() {
		check(err)
		fmt.Println(entry.Key, entry.Value)
	}
	fmt.Println("and that is all")
	// Output:
	// sue.color blue
	// sue.food pizza
	// and that is all
}

func ExampleWatcher_Updates() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	watcher, err := profiles.Watch(ctx, jskv.AllKeys)
	check(err)
	put(ctx, profiles, "sue.food", "pizza")

	for entry, err := range watcher.Updates() { // skips the snapshot
		check(err)
		fmt.Println(entry.Key, entry.Value)
		watcher.Stop() // ends the loop as well
	}
	// Output:
	// sue.food pizza
}

// Next waits for one entry. Its context is its own: when that ends, the watcher goes on.
func ExampleWatcher_Next() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	watcher, err := profiles.Watch(ctx, jskv.AllKeys)
	check(err)
	defer watcher.Stop()

	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = watcher.Next(short)
	fmt.Println("nothing yet:", errors.Is(err, context.DeadlineExceeded))

	put(ctx, profiles, "sue.color", "blue")
	entry, err := watcher.Next(ctx)
	fmt.Println(entry.Value, err)
	// Output:
	// nothing yet: true
	// blue <nil>
}

// A program that loads its state with Next knows from Synced when it has all of it.
func ExampleWatcher_Synced() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.food", "pizza")
	watcher, err := profiles.Watch(ctx, jskv.AllKeys)
	check(err)
	defer watcher.Stop()

	for !watcher.Synced() {
		entry, err := watcher.Next(ctx)
		check(err)
		fmt.Println(entry.Key, watcher.Synced())
	}
	// Output:
	// sue.color false
	// sue.food true
}

func ExampleWatcher_Stop() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	watcher, err := profiles.Watch(ctx, jskv.AllKeys)
	check(err)
	watcher.Stop()
	watcher.Stop() // once more does no harm

	_, err = watcher.Next(ctx)
	fmt.Println(errors.Is(err, jskv.ErrWatcherStopped))
	// Output:
	// true
}

func ExampleAndFilter() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	for _, key := range []string{"sue.color", "bob.color", "eve.color"} {
		put(ctx, profiles, key, "blue")
	}
	watcher, err := profiles.Watch(ctx, "sue.*", jskv.AndFilter("eve.*"))
	check(err)
	defer watcher.Stop()

	for entry, err := range watcher.Snapshot() {
		check(err)
		fmt.Println(entry.Key)
	}
	// Output:
	// sue.color
	// eve.color
}

func ExampleUpdatesOnly() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	watcher, err := profiles.Watch(ctx, jskv.AllKeys, jskv.UpdatesOnly())
	check(err)
	defer watcher.Stop()

	put(ctx, profiles, "sue.color", "green")
	entry, err := watcher.Next(ctx)
	fmt.Println(entry.Value, err)
	// Output:
	// green <nil>
}

func ExampleWithHistory() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 5})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.color", "green")
	watcher, err := profiles.Watch(ctx, jskv.AllKeys, jskv.WithHistory())
	check(err)
	defer watcher.Stop()

	for entry, err := range watcher.Snapshot() {
		check(err)
		fmt.Println(entry.Revision, entry.Value)
	}
	// Output:
	// 1 blue
	// 2 green
}

func ExampleIgnoreDeletes() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "bob.color", "green")
	_, err := profiles.Delete(ctx, "bob.color")
	check(err)
	watcher, err := profiles.Watch(ctx, jskv.AllKeys, jskv.IgnoreDeletes())
	check(err)
	defer watcher.Stop()

	for entry, err := range watcher.Snapshot() {
		check(err)
		fmt.Println(entry.Key)
	}
	// Output:
	// sue.color
}

func ExampleKeysOnly() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	watcher, err := profiles.Watch(ctx, jskv.AllKeys, jskv.KeysOnly())
	check(err)
	defer watcher.Stop()

	for entry, err := range watcher.Snapshot() {
		check(err)
		fmt.Printf("%s @ %d %q\n", entry.Key, entry.Revision, entry.Value)
	}
	// Output:
	// sue.color @ 1 ""
}

// A program that noted how far it had come goes on from there.
func ExampleFromRevision() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	done := put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "bob.color", "green")
	put(ctx, profiles, "eve.color", "red")
	watcher, err := profiles.Watch(ctx, jskv.AllKeys, jskv.FromRevision(done+1))
	check(err)
	defer watcher.Stop()

	for entry, err := range watcher.Snapshot() {
		check(err)
		fmt.Println(entry.Key, entry.Value)
	}
	// Output:
	// bob.color green
	// eve.color red
}

// An interruption loses nothing, but a program may want to say that what it shows may be old.
func ExampleOnInterruption() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	var news []string
	watcher, err := profiles.Watch(ctx, jskv.AllKeys, jskv.OnInterruption(func(err error) {
		if err != nil {
			news = append(news, "out of touch")
		} else {
			news = append(news, "in touch again")
		}
	}))
	check(err)
	defer watcher.Stop()
	entry, err := watcher.Next(ctx)
	fmt.Println(entry.Value, err)

	// What the watcher has on the server gets lost, as when that restarts.
	news = nil // a server that is busy may have been silent before
	consumers := profiles.Stream().JetStream()
	for name := range consumers.ConsumerNames(ctx).Name() {
		check(consumers.DeleteConsumer(ctx, name))
	}
	put(ctx, profiles, "sue.color", "green")

	entry, err = watcher.Next(ctx)
	fmt.Println(entry.Value, err)
	fmt.Println(strings.Join(news, ", "))
	// Output:
	// blue <nil>
	// green <nil>
	// out of touch, in touch again
}
