package jskvtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	kv := bucket(srv.JetStream(), 1)
	srv.Stop()
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
func ExampleNewCluster() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	bucket(c.JetStream(), 3)
	c.WaitCurrent("profiles")

	c.Server(c.Leader("profiles")).Stop()
	c.WaitCurrent("profiles")

	kv, err := c.JetStream().KeyValue(context.Background(), "profiles")
	if err != nil {
		panic(err)
	}
	revision, err := kv.PutString(context.Background(), "sue.color", "blue")
	fmt.Println(revision, err)
	// Output:
	// 1 <nil>
}

// What a client sees that is connected to a follower.
func ExampleCluster_Leader() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	bucket(c.JetStream(), 3)
	leader, follower := c.Leader("profiles"), c.Follower("profiles")
	nc := c.ConnTo(follower)
	fmt.Println(leader != follower, nc.ConnectedServerName() == c.Server(follower).Name())
	// Output:
	// true true
}

func ExampleCluster_StepDown() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	bucket(c.JetStream(), 3)
	old := c.Leader("profiles")
	leader := c.StepDown("profiles")
	fmt.Println(leader != old, leader == c.Leader("profiles"))
	// Output:
	// true true
}

// The server that a consumer depends on is the one to stop.
func ExampleCluster_ConsumerLeader() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	js := c.JetStream()
	bucket(js, 3)
	c.WaitCurrent("profiles")
	cons, err := js.CreateConsumer(context.Background(), "KV_profiles", jetstream.ConsumerConfig{Name: "reader", Replicas: 1})
	if err != nil {
		panic(err)
	}
	host := c.ConsumerLeader("profiles", "reader")
	fmt.Println(c.Server(host).Name() == cons.CachedInfo().Cluster.Leader)
	// Output:
	// true
}

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
func ExampleCluster_URLs() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	c.Server(0).Stop()
	c.Server(1).Stop()
	nc, err := nats.Connect(strings.Join(c.URLs(), ","))
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	fmt.Println(nc.ConnectedServerName())
	// Output:
	// s2
}

// A cluster whose servers were restarted one by one is ready when it has a leader again.
func ExampleCluster_WaitReady() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	for _, srv := range c.Servers() {
		srv.Restart()
		c.WaitReady()
	}
	_, err := c.JetStream().AccountInfo(context.Background())
	fmt.Println(err)
	// Output:
	// <nil>
}

// Buckets of an account are found when the cluster knows its name.
func ExampleWithAccount() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3, jskvtest.WithAccount("TEAM"), jskvtest.WithOptions(func(o *server.Options) {
		err := o.ProcessConfigString(`accounts {TEAM {jetstream: enabled, users: [{user: sue, password: pw}]}}`)
		if err != nil {
			panic(err)
		}
	}))
	bucket(c.JetStream(nats.UserInfo("sue", "pw")), 3)
	c.WaitCurrent("profiles")
	fmt.Println(c.Leader("profiles") != c.Follower("profiles"))
	// Output:
	// true
}
