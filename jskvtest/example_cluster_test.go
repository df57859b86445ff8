package jskvtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv/jskvtest"
)

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

func ExampleCluster_Leader() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	bucket(c.JetStream(), 3)
	c.WaitCurrent("profiles")
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
	c.WaitCurrent("profiles")
	old := c.Leader("profiles")
	leader := c.StepDown("profiles")
	fmt.Println(leader != old, leader == c.Leader("profiles"))
	// Output:
	// true true
}

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

func ExampleCluster_URLs() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	c.Server(0).Stop()
	c.Server(1).Stop()
	nc, err := nats.Connect(strings.Join(c.URLs(), ","), nats.Timeout(10*time.Second))
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	fmt.Println(nc.ConnectedServerName())
	// Output:
	// s2
}

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

func ExampleWithOptions_routes() {
	t := &fakeT{}
	defer t.end()

	var proxies []*jskvtest.Proxy
	c := jskvtest.NewCluster(t, 3, jskvtest.WithOptions(func(o *server.Options) {
		o.Cluster.Advertise = "127.0.0.1:1" // or the servers tell each other ways past the proxies
		for i, direct := range o.Routes {
			proxy := jskvtest.NewProxy(t, direct.Host)
			o.Routes[i] = &url.URL{Scheme: direct.Scheme, Host: strings.TrimPrefix(proxy.URL(), "nats://")}
			proxies = append(proxies, proxy)
		}
	}))
	for _, proxy := range proxies {
		proxy.Delay(jskvtest.Both, 10*time.Millisecond)
	}
	bucket(c.JetStream(), 3)
	c.WaitCurrent("profiles")
	fmt.Println(c.Leader("profiles") != c.Follower("profiles"))
	// Output:
	// true
}

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

func ExampleCluster_Conn() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	back := make(chan struct{})
	nc := c.Conn(nats.ReconnectHandler(func(*nats.Conn) { close(back) }))
	first := nc.ConnectedServerName()
	for _, srv := range c.Servers() {
		if srv.Name() == first {
			srv.Stop()
		}
	}
	<-back
	fmt.Println(nc.IsConnected(), nc.ConnectedServerName() != first)
	// Output:
	// true true
}

func ExampleCluster_ConnTo() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	fmt.Println(c.ConnTo(1).ConnectedServerName())
	// Output:
	// s1
}

func ExampleCluster_Follower() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	kv := bucket(c.JetStream(), 3)
	c.WaitCurrent("profiles")
	if _, err := kv.PutString(context.Background(), "sue.color", "blue"); err != nil {
		panic(err)
	}
	c.WaitCurrent("profiles")
	follower := c.Server(c.Follower("profiles"))
	near, err := follower.JetStream().KeyValue(context.Background(), "profiles")
	if err != nil {
		panic(err)
	}
	entry, err := near.Get(context.Background(), "sue.color")
	if err != nil {
		panic(err)
	}
	fmt.Println(string(entry.Value()))
	// Output:
	// blue
}

func ExampleCluster_JetStream() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	status, err := bucket(c.JetStream(), 3).Status(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Println(status.Config().Replicas, "replicas")
	// Output:
	// 3 replicas
}

func ExampleCluster_Server() {
	t := &fakeT{}
	defer t.end()

	fmt.Println(jskvtest.NewCluster(t, 3).Server(2).Name())
	// Output:
	// s2
}

func ExampleCluster_Servers() {
	t := &fakeT{}
	defer t.end()

	for _, srv := range jskvtest.NewCluster(t, 3).Servers() {
		fmt.Println(srv.Name(), srv.NATS().JetStreamEnabled())
	}
	// Output:
	// s0 true
	// s1 true
	// s2 true
}

func ExampleCluster_Stop() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	lost := make(chan struct{})
	c.Conn(nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(lost) }))
	c.Stop()
	<-lost
	_, err := nats.Connect(strings.Join(c.URLs(), ","))
	fmt.Println(errors.Is(err, nats.ErrNoServers))
	// Output:
	// true
}

func ExampleCluster_Start() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	c.Server(0).Stop()
	c.Start()
	fmt.Println(c.ConnTo(0).IsConnected())
	// Output:
	// true
}

func ExampleCluster_Restart() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	kv := bucket(c.JetStream(), 3)
	c.WaitCurrent("profiles")
	if _, err := kv.PutString(context.Background(), "sue.color", "blue"); err != nil {
		panic(err)
	}
	c.Restart()
	c.WaitCurrent("profiles")
	// On a new connection: the first may still be reconnecting.
	kv, err := c.JetStream().KeyValue(context.Background(), "profiles")
	if err != nil {
		panic(err)
	}
	entry, err := kv.Get(context.Background(), "sue.color")
	if err != nil {
		panic(err)
	}
	fmt.Println(string(entry.Value()))
	// Output:
	// blue
}

func ExampleCluster_WaitCurrent() {
	t := &fakeT{}
	defer t.end()

	c := jskvtest.NewCluster(t, 3)
	kv := bucket(c.JetStream(), 3)
	c.WaitCurrent("profiles")
	revision, err := kv.PutString(context.Background(), "sue.color", "blue")
	fmt.Println(revision, err)
	// Output:
	// 1 <nil>
}
