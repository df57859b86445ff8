package embedded_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv/embedded"
)

// The server's data is below a directory, and there for the next server.
func ExampleStart() {
	dir, err := os.MkdirTemp("", "embedded")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	for range 2 {
		srv, err := embedded.Start(dir)
		if err != nil {
			panic(err)
		}
		js, err := srv.JetStream()
		if err != nil {
			panic(err)
		}
		kv, err := js.CreateOrUpdateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: "starts"})
		if err != nil {
			panic(err)
		}
		revision, err := kv.PutString(context.Background(), "last", "now")
		if err != nil {
			panic(err)
		}
		fmt.Println("start number", revision)
		srv.Shutdown()
	}
	// Output:
	// start number 1
	// start number 2
}

// Other programs can connect to a server that listens.
func ExampleListen() {
	dir, err := os.MkdirTemp("", "embedded")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	srv, err := embedded.Start(dir, embedded.Listen("127.0.0.1:0"))
	if err != nil {
		panic(err)
	}
	defer srv.Shutdown()

	nc, err := nats.Connect(srv.URL(), nats.Timeout(10*time.Second))
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	fmt.Println(strings.HasPrefix(srv.URL(), "nats://127.0.0.1:"), nc.IsConnected())
	// Output:
	// true true
}

func ExampleDomain() {
	dir, err := os.MkdirTemp("", "embedded")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	srv, err := embedded.Start(dir, embedded.Domain("hub"))
	if err != nil {
		panic(err)
	}
	defer srv.Shutdown()

	js, err := srv.JetStream()
	if err != nil {
		panic(err)
	}
	info, err := js.AccountInfo(context.Background())
	if err != nil {
		panic(err)
	}
	fmt.Println(info.Domain)
	// Output:
	// hub
}

func ExampleLogger() {
	dir, err := os.MkdirTemp("", "embedded")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level:       slog.LevelWarn, // a server has much to say when it starts
		ReplaceAttr: withoutTime,
	}))
	srv, err := embedded.Start(dir, embedded.Logger(log))
	if err != nil {
		panic(err)
	}
	srv.Shutdown()
	fmt.Println("no warnings")
	// Output:
	// no warnings
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// A connection of your own has the options that you want, and is yours to close.
func ExampleServer_Conn() {
	dir, err := os.MkdirTemp("", "embedded")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	srv, err := embedded.Start(dir)
	if err != nil {
		panic(err)
	}
	defer srv.Shutdown()

	nc, err := srv.Conn(nats.Name("worker"))
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	fmt.Println(nc.Opts.Name, "is connected:", nc.IsConnected())
	// Output:
	// worker is connected: true
}

func ExampleServer_JetStream() {
	dir, err := os.MkdirTemp("", "embedded")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	srv, err := embedded.Start(dir)
	if err != nil {
		panic(err)
	}
	defer srv.Shutdown()

	js, err := srv.JetStream()
	if err != nil {
		panic(err)
	}
	kv, err := js.CreateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: "profiles"})
	if err != nil {
		panic(err)
	}
	fmt.Println(kv.PutString(context.Background(), "sue.color", "blue"))
	// Output:
	// 1 <nil>
}

func ExampleServer_Shutdown() {
	dir, err := os.MkdirTemp("", "embedded")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	srv, err := embedded.Start(dir)
	if err != nil {
		panic(err)
	}

	srv.Shutdown()
	srv.Shutdown() // does nothing
	_, err = srv.JetStream()
	fmt.Println(err)
	// Output:
	// embedded: the server has been shut down
}

// A server that does not listen has no address.
func ExampleServer_URL() {
	dir, err := os.MkdirTemp("", "embedded")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	srv, err := embedded.Start(dir)
	if err != nil {
		panic(err)
	}
	defer srv.Shutdown()

	fmt.Printf("%q\n", srv.URL())
	// Output:
	// ""
}
