// Command intro is the tour of a bucket: every verb, on a real server.
//
// It starts a server of its own inside the program. With NATS_URL set it uses that server, and
// refuses to touch a bucket "profiles" that is there already.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/embedded"
)

const bucket = "profiles"

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	js, closeServer, err := connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer closeServer()

	// CreateBucket would bind to a bucket of the same configuration. This tour removes its bucket
	// when it ends, so it must be sure that it made it.
	if _, err := jskv.OpenBucket(ctx, js, bucket, jskv.String()); err == nil {
		return fmt.Errorf("a bucket %q is already there; the tour would write to it and remove it", bucket)
	} else if !errors.Is(err, jskv.ErrBucketNotFound) {
		return err
	}
	profiles, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: bucket}, jskv.String())
	if err != nil {
		return err
	}
	defer func() {
		// The tour's context may be what ended it.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, jskv.DeleteBucket(ctx, js, bucket))
	}()
	return tour(ctx, js, profiles)
}

// connect uses the server at url, or starts one in this program that is gone when it ends.
func connect(url string) (jetstream.JetStream, func(), error) {
	if url != "" {
		nc, err := nats.Connect(url, nats.Timeout(10*time.Second))
		if err != nil {
			return nil, nil, fmt.Errorf("NATS_URL=%s: %w", url, err)
		}
		js, err := jetstream.New(nc)
		return js, nc.Close, err
	}
	dir, err := os.MkdirTemp("", "jskv-intro-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() {
		if err := os.RemoveAll(dir); err != nil {
			log.Print(err)
		}
	}
	server, err := embedded.Start(dir)
	if err != nil {
		remove()
		return nil, nil, err
	}
	stop := func() {
		server.Shutdown()
		remove()
	}
	js, err := server.JetStream()
	if err != nil {
		stop()
		return nil, nil, err
	}
	return js, stop, nil
}

func tour(ctx context.Context, js jetstream.JetStream, profiles *jskv.Bucket[string]) error {
	// A put makes a revision; an entry is a value with its revision.
	if _, err := profiles.Put(ctx, "sue.color", "blue"); err != nil {
		return err
	}
	if err := show(ctx, profiles, "sue.color"); err != nil {
		return err
	}
	if _, err := profiles.Put(ctx, "sue.color", "green"); err != nil {
		return err
	}
	if err := show(ctx, profiles, "sue.color"); err != nil {
		return err
	}

	// Update is a put that succeeds only if nobody wrote in between: revision 1 is outdated.
	_, err := profiles.Update(ctx, "sue.color", "red", 1)
	if !errors.Is(err, jskv.ErrRevisionMismatch) {
		return fmt.Errorf("an update of revision 1 gave %v, not a mismatch", err)
	}
	fmt.Println("expected error:", err)
	if _, err := profiles.Update(ctx, "sue.color", "red", 2); err != nil {
		return err
	}
	if err := show(ctx, profiles, "sue.color"); err != nil {
		return err
	}

	// A listing is whole or ends with an error.
	keys, err := jskv.Collect(profiles.Keys(ctx))
	if err != nil {
		return err
	}
	fmt.Println("All keys:", keys)

	// A bucket is a stream, and a key is a subject in it.
	stream := profiles.Stream()
	names := js.StreamNames(ctx)
	var all []string
	for name := range names.Name() {
		all = append(all, name)
	}
	if err := names.Err(); err != nil {
		return err
	}
	if !slices.Contains(all, stream.Name()) {
		return fmt.Errorf("there is no stream %s among %v", stream.Name(), all)
	}
	fmt.Println("KV stream name:", stream.Name())

	// The bucket keeps one revision of a key, so the first message stored is already revision 3.
	messages, err := stream.Messages(ctx)
	if err != nil {
		return err
	}
	defer messages.Stop()
	if _, err := showRaw(ctx, messages); err != nil {
		return err
	}
	if _, err := profiles.Put(ctx, "sue.color", "yellow"); err != nil {
		return err
	}
	if _, err := showRaw(ctx, messages); err != nil {
		return err
	}

	// A delete is a message too: empty, with a header that tells it from an empty value.
	if _, err := profiles.Delete(ctx, "sue.color"); err != nil {
		return err
	}
	deleted, err := showRaw(ctx, messages)
	if err != nil {
		return err
	}
	fmt.Println("headers:", deleted.Header)

	// A watcher hands out what the bucket had when Watch returned, then what changes. The delete
	// is the newest revision of its key, so the snapshot has it, although a put follows at once.
	watcher, err := profiles.Watch(ctx, "sue.*")
	if err != nil {
		return err
	}
	defer watcher.Stop()
	if _, err := profiles.Put(ctx, "sue.color", "purple"); err != nil {
		return err
	}
	for entry, err := range watcher.Snapshot() {
		if err != nil {
			return err
		}
		showEvent(entry)
	}

	// Revisions count the writes of the whole bucket: the first of another key is 7.
	for entry, err := range watcher.Updates() {
		if err != nil {
			return err
		}
		showEvent(entry)
		if entry.Key == "sue.food" {
			break
		}
		if _, err := profiles.Put(ctx, "sue.food", "pizza"); err != nil {
			return err
		}
	}
	return nil
}

func show(ctx context.Context, profiles *jskv.Bucket[string], key string) error {
	entry, err := profiles.Entry(ctx, key)
	if err != nil {
		return err
	}
	fmt.Printf("%s @ %d -> %q\n", entry.Key, entry.Revision, entry.Value)
	return nil
}

func showRaw(ctx context.Context, messages *jskv.RawMessages) (jskv.RawMessage, error) {
	msg, err := messages.Next(ctx)
	if err != nil {
		return msg, err
	}
	fmt.Printf("%s @ %d -> %q\n", msg.Subject, msg.Sequence, msg.Data)
	return msg, nil
}

func showEvent(entry jskv.Entry[string]) {
	fmt.Printf("%s @ %d -> %q (op: %v)\n", entry.Key, entry.Revision, entry.Value, entry.Operation)
}
