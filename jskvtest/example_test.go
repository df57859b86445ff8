package jskvtest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv/jskvtest"
)

// In the examples t stands for the *testing.T of a test, and t.end for its end.

// bucket creates a bucket with the given number of replicas.
func bucket(js jetstream.JetStream, replicas int) jetstream.KeyValue {
	cfg := jetstream.KeyValueConfig{Bucket: "profiles", Replicas: replicas}
	kv, err := js.CreateKeyValue(context.Background(), cfg)
	if err != nil {
		panic(err)
	}
	return kv
}

// within calls do with a context that ends after limit.
func within(limit time.Duration, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return do(ctx)
}

// A test gets a server of its own, which ends with it.

func ExampleNewServer() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	kv := bucket(srv.JetStream(), 1)
	revision, err := kv.PutString(context.Background(), "sue.color", "blue")
	fmt.Println(revision, err)
	// Output:
	// 1 <nil>
}

func ExampleServer_Restart() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	bucket(srv.JetStream(), 1)
	url := srv.URL()
	srv.Restart()
	_, err := srv.JetStream().KeyValue(context.Background(), "profiles")
	fmt.Println(srv.URL() == url, err)
	// Output:
	// true <nil>
}

// How a program behaves while there is no server, and when there is one again.

func ExampleServer_Stop() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	kv := bucket(js, 1)
	lost := js.Conn().StatusChanged(nats.RECONNECTING)
	srv.Stop()
	<-lost // what is sent from now on waits for the server
	err := within(50*time.Millisecond, func(ctx context.Context) error {
		_, err := kv.PutString(ctx, "sue.color", "blue")
		return err
	})
	fmt.Println(errors.Is(err, context.DeadlineExceeded))

	srv.Start()
	_, err = kv.PutString(context.Background(), "sue.color", "green")
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

// What was stored before is there again, at the same address.

func ExampleServer_Start() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	bucket(srv.JetStream(), 1)
	srv.Stop()
	srv.Start()
	srv.Start() // does nothing
	_, err := srv.JetStream().KeyValue(context.Background(), "profiles")
	fmt.Println(err)
	// Output:
	// <nil>
}

func ExampleServer_JetStream() {
	t := &fakeT{}
	defer t.end()

	js := jskvtest.NewServer(t).JetStream(nats.Name("worker"))
	fmt.Println(js.Conn().Opts.Name, js.Conn().IsConnected())
	// Output:
	// worker true
}

// The name tells which server a client is connected to.

func ExampleServer_Name() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	fmt.Println(srv.Conn().ConnectedServerName() == srv.Name())
	// Output:
	// true
}

// A program under test that makes its own connection is given the address.

func ExampleServer_URL() {
	t := &fakeT{}
	defer t.end()

	nc, err := nats.Connect(jskvtest.NewServer(t).URL(), nats.Timeout(10*time.Second))
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	fmt.Println(nc.IsConnected())
	// Output:
	// true
}

func ExampleServer_Conn() {
	t := &fakeT{}
	defer t.end()

	nc := jskvtest.NewServer(t).Conn(nats.Name("worker"))
	fmt.Println(nc.Opts.Name, nc.IsConnected())
	// Output:
	// worker true
}

func ExampleWithOptions() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) { o.MaxPayload = 1024 }))
	kv := bucket(srv.JetStream(), 1)
	_, err := kv.Put(context.Background(), "big", make([]byte, 2000))
	fmt.Println(err)
	// Output:
	// nats: maximum payload exceeded
}

// Three servers, of which one may fail.

// What a client sees that is connected to a follower.

// The server that a consumer depends on is the one to stop.

func ExampleDeleteConsumers() {
	t := &fakeT{}
	defer t.end()

	js := jskvtest.NewServer(t).JetStream()
	watcher, err := bucket(js, 1).WatchAll(context.Background())
	if err != nil {
		panic(err)
	}
	defer func() { _ = watcher.Stop() }()
	fmt.Println(jskvtest.DeleteConsumers(t, js, "profiles"), "consumer deleted")
	// Output:
	// 1 consumer deleted
}

// A test that nothing is left on the server.

func ExampleConsumerCount() {
	t := &fakeT{}
	defer t.end()

	js := jskvtest.NewServer(t).JetStream()
	watcher, err := bucket(js, 1).WatchAll(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Println(jskvtest.ConsumerCount(t, js, "profiles"))
	if err := watcher.Stop(); err != nil {
		panic(err)
	}
	fmt.Println(jskvtest.ConsumerCount(t, js, "profiles"))
	// Output:
	// 1
	// 0
}

// What the package has no word for is asked of the server itself.

func ExampleServer_NATS() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	srv.Conn()
	fmt.Println(srv.NATS().NumClients())
	srv.Stop()
	fmt.Println(srv.NATS() == nil)
	// Output:
	// 1
	// true
}

// A client that knows all servers of a cluster finds the one that is left.

// A cluster whose servers were restarted one by one is ready when it has a leader again.

// Buckets of an account are found when the cluster knows its name.

// A client of any server of a cluster outlives that server.

// A bucket is readable on a server that only follows.

// What a program sees of a cluster that is gone as a whole.

// Whatever is stopped is started, and has caught up with the others.

// What is acknowledged is there after everything was away.

// The first write to a replicated bucket that was just made would fail without it.
