package jskvtest

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reconnectWait is short, so that a test does not wait long for a server that is back, and
// has no jitter worth mentioning, so that how long it waits does not vary.
const reconnectWait = 50 * time.Millisecond

// connectAttempts is how often a connection is tried that does not come about in the client's 2 s, in which a
// machine may stand still. A longer time would hold for reconnecting too, where the client does nothing else
// meanwhile.
const connectAttempts = 5

// connect returns a connection with options that suit tests, and opts on top.
func connect(tb testing.TB, urls string, opts []nats.Option) *nats.Conn {
	tb.Helper()
	all := append([]nats.Option{
		nats.Name(tb.Name()),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(time.Millisecond, time.Millisecond),
	}, opts...)
	nc, err := nats.Connect(urls, all...)
	for range connectAttempts - 1 {
		if late, ok := errors.AsType[net.Error](err); !ok || !late.Timeout() {
			break
		}
		nc, err = nats.Connect(urls, all...)
	}
	if err != nil {
		tb.Fatalf("jskvtest: connect to %s: %v", urls, err)
	}
	return nc
}

func newJetStream(tb testing.TB, nc *nats.Conn) jetstream.JetStream {
	tb.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatalf("jskvtest: JetStream: %v", err)
	}
	return js
}
