package jskvtest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/seed646b090f/jskv/jskvtest"
)

// A program that talks to the server through the proxy notices nothing until it is told to make
// a fault.
func ExampleNewProxy() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	proxy := jskvtest.NewProxy(t, srv.URL())
	kv := bucket(proxy.JetStream(), 1)
	revision, err := kv.PutString(context.Background(), "sue.color", "blue")
	fmt.Println(revision, err)
	// Output:
	// 1 <nil>
}

// The answer to a write is lost: the client does not know what became of it.
func ExampleProxy_CutOn() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	proxy := jskvtest.NewProxy(t, srv.URL())
	kv := bucket(proxy.JetStream(), 1)
	lost := proxy.CutOn(jskvtest.ToClient, `"seq":1`)
	ctx, giveUp := context.WithCancel(context.Background())
	go func() { <-lost; giveUp() }()
	_, err := kv.PutString(ctx, "sue.color", "blue")
	fmt.Println(err)

	near, err := srv.JetStream().KeyValue(context.Background(), "profiles")
	if err != nil {
		panic(err)
	}
	e, err := near.Get(context.Background(), "sue.color")
	if err != nil {
		panic(err)
	}
	fmt.Println(string(e.Value()), "was written")
	// Output:
	// context canceled
	// blue was written
}

// Nothing arrives for a while, then everything does.
func ExampleProxy_Stall() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	nc := proxy.Conn()
	proxy.Stall(jskvtest.ToClient)
	fmt.Println(nc.FlushTimeout(50 * time.Millisecond))
	proxy.Heal()
	fmt.Println(nc.Flush(), nc.Stats().Reconnects, "reconnects")
	// Output:
	// nats: timeout
	// <nil> 0 reconnects
}

// awaitLoss waits until the proxy has swallowed something: what a client has sent it takes in its own time, and
// a connection that has lost nothing goes on after Heal.
func awaitLoss(proxy *jskvtest.Proxy) {
	for proxy.Lossy() == 0 {
		time.Sleep(tick)
	}
}

// Nothing arrives for a while, and what was sent meanwhile is lost with the connection.
func ExampleProxy_Blackhole() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	back := make(chan struct{})
	nc := proxy.Conn(nats.ReconnectHandler(func(*nats.Conn) { close(back) }))
	proxy.Blackhole(jskvtest.Both)
	fmt.Println(nc.FlushTimeout(50*time.Millisecond), nc.Status())
	awaitLoss(proxy)
	proxy.Heal()
	<-back
	fmt.Println(nc.Flush(), nc.Status())
	// Output:
	// nats: timeout CONNECTED
	// <nil> CONNECTED
}

// A server that is far away.
func ExampleProxy_Delay() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	nc := proxy.Conn()
	proxy.Delay(jskvtest.Both, 20*time.Millisecond)
	rtt, err := nc.RTT()
	if err != nil {
		panic(err)
	}
	fmt.Println(rtt >= 40*time.Millisecond)
	// Output:
	// true
}

func ExampleProxy_Cut() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	back := make(chan struct{})
	nc := proxy.Conn(nats.ReconnectHandler(func(*nats.Conn) { close(back) }))
	proxy.Cut()
	<-back
	fmt.Println(nc.Status(), "again")
	// Output:
	// CONNECTED again
}

// The server is there, but this client cannot get to it.
func ExampleProxy_Refuse() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	nc := proxy.Conn()
	lost, back := nc.StatusChanged(nats.RECONNECTING), nc.StatusChanged(nats.CONNECTED)
	proxy.Refuse()
	proxy.Reset()
	fmt.Println(<-lost)
	proxy.Accept()
	fmt.Println(<-back)
	// Output:
	// RECONNECTING
	// CONNECTED
}

// The directions can be combined.
func ExampleDirection() {
	fmt.Println(jskvtest.ToServer|jskvtest.ToClient == jskvtest.Both)
	// Output:
	// true
}

func ExampleDirection_String() {
	fmt.Println(jskvtest.ToServer, jskvtest.ToClient, jskvtest.Both)
	// Output:
	// ToServer ToClient Both
}

// A program that lets go of its connections leaves none behind.
func ExampleProxy_Connections() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	proxy.Conn()
	fmt.Println(proxy.Connections())
	proxy.Close()
	fmt.Println(proxy.Connections())
	// Output:
	// 1
	// 0
}

// New connections are taken again.
func ExampleProxy_Accept() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	proxy.Refuse()
	_, err := nats.Connect(proxy.URL())
	fmt.Println(err != nil)
	proxy.Accept()
	fmt.Println(proxy.Conn().IsConnected())
	// Output:
	// true
	// true
}

// Nobody listens any more.
func ExampleProxy_Close() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	proxy.Close()
	proxy.Close() // does nothing
	_, err := nats.Connect(proxy.URL())
	fmt.Println(errors.Is(err, nats.ErrNoServers))
	// Output:
	// true
}

// A connection through the proxy knows no other way to the server.
func ExampleProxy_Conn() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	nc := proxy.Conn(nats.Name("worker"))
	fmt.Println(nc.Opts.Name, nc.ConnectedUrl() == proxy.URL())
	// Output:
	// worker true
}

// All faults end at once, of both kinds.
func ExampleProxy_Heal() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	proxy.Refuse()
	proxy.Delay(jskvtest.Both, time.Hour)
	proxy.Heal()
	fmt.Println(proxy.Conn().Flush())
	// Output:
	// <nil>
}

// One client is behind the proxy, the other is not, and only the first feels its faults.
func ExampleProxy_JetStream() {
	t := &fakeT{}
	defer t.end()

	srv := jskvtest.NewServer(t)
	proxy := jskvtest.NewProxy(t, srv.URL())
	near, far := srv.JetStream(), proxy.JetStream()
	proxy.Stall(jskvtest.Both)
	_, err := near.AccountInfo(context.Background())
	fmt.Println(err)
	err = within(50*time.Millisecond, func(ctx context.Context) error {
		_, err := far.AccountInfo(ctx)
		return err
	})
	fmt.Println(err)
	// Output:
	// <nil>
	// context deadline exceeded
}

// A connection is lost the rough way, and the client comes back.
func ExampleProxy_Reset() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	nc := proxy.Conn()
	lost, back := nc.StatusChanged(nats.RECONNECTING), nc.StatusChanged(nats.CONNECTED)
	proxy.Reset()
	fmt.Println(<-lost)
	fmt.Println(<-back)
	// Output:
	// RECONNECTING
	// CONNECTED
}

// A client that makes its connections itself goes through the proxy by its address.
func ExampleProxy_URL() {
	t := &fakeT{}
	defer t.end()

	proxy := jskvtest.NewProxy(t, jskvtest.NewServer(t).URL())
	nc, err := nats.Connect(proxy.URL(), nats.Timeout(10*time.Second))
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	fmt.Println(nc.IsConnected(), proxy.Connections())
	// Output:
	// true 1
}
