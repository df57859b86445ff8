package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/embedded"
)

// The examples run on a server inside the program. Elsewhere the JetStream comes from
// nats.Connect and jetstream.New, and everything after that is the same.

// startServer starts an example's server and returns its JetStream, a context for the example,
// and what ends both.
func startServer() (context.Context, jetstream.JetStream, func()) {
	dir, err := os.MkdirTemp("", "jskv-example-")
	check(err)
	server, err := embedded.Start(dir)
	check(err)
	js, err := server.JetStream()
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	return ctx, js, func() {
		cancel()
		server.Shutdown()
		check(os.RemoveAll(dir))
	}
}

// startBucket starts a server with a bucket "profiles" of strings.
func startBucket(cfg jetstream.KeyValueConfig, opts ...jskv.BucketOption) (context.Context, *jskv.Bucket[string], func()) {
	ctx, js, stop := startServer()
	cfg.Bucket = "profiles"
	profiles, err := jskv.CreateBucket(ctx, js, cfg, jskv.String(), opts...)
	check(err)
	return ctx, profiles, stop
}

// check ends an example that cannot go on.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// put is for examples that are about something else.
func put(ctx context.Context, b *jskv.Bucket[string], key, value string) uint64 {
	revision, err := b.Put(ctx, key, value)
	check(err)
	return revision
}

func Example() {
	ctx, js, stop := startServer()
	defer stop()

	profiles, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "profiles"}, jskv.String())
	check(err)
	revision, err := profiles.Put(ctx, "sue.color", "blue")
	check(err)

	// Somebody else is faster.
	_, err = profiles.Put(ctx, "sue.color", "green")
	check(err)

	_, err = profiles.Update(ctx, "sue.color", "red", revision)
	fmt.Println(err)
	for entry, err := range profiles.Entries(ctx) {
		check(err)
		fmt.Printf("%s @ %d -> %q\n", entry.Key, entry.Revision, entry.Value)
	}
	// Output:
	// jskv: update profiles/sue.color: revision 1 is not the newest (2)
	// sue.color @ 2 -> "green"
}

func ExampleCreateBucket() {
	ctx, js, stop := startServer()
	defer stop()

	cfg := jetstream.KeyValueConfig{Bucket: "profiles", History: 5}
	_, err := jskv.CreateBucket(ctx, js, cfg, jskv.String())
	check(err)

	// Creating it again with the same configuration binds to it.
	profiles, err := jskv.CreateBucket(ctx, js, cfg, jskv.String())
	fmt.Println(profiles.Name(), err)

	cfg.History = 10
	_, err = jskv.CreateBucket(ctx, js, cfg, jskv.String())
	fmt.Println(errors.Is(err, jskv.ErrBucketExists))
	// Output:
	// profiles <nil>
	// true
}

// What is not stated stays as it is.
func ExampleCreateOrUpdateBucket() {
	ctx, js, stop := startServer()
	defer stop()

	_, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "profiles", History: 5}, jskv.String())
	check(err)
	profiles, err := jskv.CreateOrUpdateBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket:      "profiles",
		Description: "who likes what",
	}, jskv.String())
	check(err)

	status, err := profiles.Status(ctx)
	check(err)
	fmt.Printf("%s: history %d\n", status.Config().Description, status.History())
	// Output:
	// who likes what: history 5
}

func ExampleOpenBucket() {
	ctx, js, stop := startServer()
	defer stop()

	// Any client may have made the bucket.
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "profiles"})
	check(err)
	_, err = kv.PutString(ctx, "sue.color", "blue")
	check(err)

	profiles, err := jskv.OpenBucket(ctx, js, "profiles", jskv.String())
	check(err)
	color, err := profiles.Get(ctx, "sue.color")
	fmt.Println(color, err)

	_, err = jskv.OpenBucket(ctx, js, "orders", jskv.String())
	fmt.Println(errors.Is(err, jskv.ErrBucketNotFound))
	// Output:
	// blue <nil>
	// true
}

func ExampleDeleteBucket() {
	ctx, js, stop := startServer()
	defer stop()

	_, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "profiles"}, jskv.String())
	check(err)
	fmt.Println(jskv.DeleteBucket(ctx, js, "profiles"))

	err = jskv.DeleteBucket(ctx, js, "profiles")
	fmt.Println(errors.Is(err, jskv.ErrBucketNotFound))
	// Output:
	// <nil>
	// true
}

func ExampleBucketNames() {
	ctx, js, stop := startServer()
	defer stop()

	for _, name := range []string{"orders", "profiles"} {
		_, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: name}, jskv.String())
		check(err)
	}
	for name, err := range jskv.BucketNames(ctx, js) {
		check(err)
		fmt.Println(name)
	}
	// Output:
	// orders
	// profiles
}

// One bucket may hold values of several types; a handle on it has one.
func ExampleAs() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	ages := jskv.As(profiles, jskv.JSON[int]())
	_, err := ages.Put(ctx, "sue.age", 41)
	check(err)

	text, err := profiles.Get(ctx, "sue.age")
	fmt.Printf("%q %v\n", text, err)
	// Output:
	// "41" <nil>
}

func ExampleWithTransactions() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	info, err := profiles.Stream().Info(ctx)
	check(err)
	fmt.Println("atomic batches:", info.Config.AllowAtomicPublish)
	// Output:
	// atomic batches: true
}

// PutMany is written as ever, and takes less time.
func ExampleWithFastIngest() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithFastIngest())
	defer stop()

	colors := map[string]string{"sue.color": "blue", "bob.color": "green"}
	fmt.Println(profiles.PutMany(ctx, maps.All(colors)))
	info, err := profiles.Stream().Info(ctx)
	check(err)
	fmt.Println("fast ingest:", info.Config.AllowBatchPublish)
	// Output:
	// 2 <nil>
	// fast ingest: true
}

// A write whose answer gets lost is sent again under the same id, and the server knows it.
func ExampleWithIdempotentWrites() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithIdempotentWrites())
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	entry, err := profiles.Entry(ctx, "sue.color")
	check(err)
	fmt.Println("has an id:", entry.Header.Get(jetstream.MsgIDHeader) != "")
	// Output:
	// has an id: true
}

func ExampleBucket_Name() {
	_, profiles, stop := startBucket(jetstream.KeyValueConfig{})
	defer stop()

	fmt.Println(profiles.Name())
	// Output:
	// profiles
}

func ExampleBucket_Status() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{History: 5})
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "sue.color", "green")
	status, err := profiles.Status(ctx)
	check(err)
	fmt.Printf("%s: %d revisions, history %d\n", status.Bucket(), status.Values(), status.History())
	// Output:
	// profiles: 2 revisions, history 5
}
