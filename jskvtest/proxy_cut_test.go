package jskvtest_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// newPipe is a TCP connection through a proxy: near is the client's end, far the server's.
func newPipe(t *testing.T) (near, far net.Conn, p *jskvtest.Proxy) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	p = jskvtest.NewProxy(t, l.Addr().String())
	near, err = net.Dial("tcp", address(p.URL()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = near.Close() })
	far, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = far.Close() })
	require.Eventually(t, func() bool { return p.Connections() == 1 }, soon, tick)
	return near, far, p
}

// requireUnanswered puts a value and gives up when lost is closed.
func requireUnanswered(t *testing.T, kv jetstream.KeyValue, lost <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-lost; cancel() }()
	_, err := kv.PutString(ctx, "sue.color", "green")
	require.ErrorIs(t, err, context.Canceled)
}

func TestCutOnLosesTheAnswer(t *testing.T) {
	srv, p := newProxied(t)
	js := p.JetStream()
	kv := newBucket(t, js, "profiles")
	put(t, kv, "sue.color", "blue")
	lost := p.CutOn(jskvtest.ToClient, `"seq":2`)
	require.False(t, closed(lost))
	requireUnanswered(t, kv, lost)

	require.Equal(t, "green", get(t, bind(t, srv.JetStream(), "profiles"), "sue.color"), "it was written")
	requireConnected(t, js.Conn())
	put(t, kv, "sue.color", "red") // and the client is back
}

func TestCutOnLosesTheRequest(t *testing.T) {
	srv, p := newProxied(t)
	js := p.JetStream()
	kv := newBucket(t, js, "profiles")
	lost := p.CutOn(jskvtest.ToServer, "$KV.profiles.sue.color")

	put(t, kv, "sue.food", "pizza") // does not match
	require.False(t, closed(lost))
	requireUnanswered(t, kv, lost)

	keys, err := bind(t, srv.JetStream(), "profiles").Keys(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"sue.food"}, keys)
}

func TestCutOnForwardsWhatComesBefore(t *testing.T) {
	tests := []struct {
		why    string
		chunks []string
		want   string
	}{
		{"one chunk: up to the pattern", []string{"before>>LOST behind"}, "before>>"},
		{"the pattern comes in two chunks: its beginning is gone already", []string{"before LO", "ST behind"}, "before LO"},
		{"byte by byte", strings.Split("before LOST", ""), "before LOS"},
		{"a beginning that does not go on", []string{"LOS", "LOLO", "ST"}, "LOSLOLO"},
		{"a beginning within a beginning", []string{"LOSLO", "ST"}, "LOSLO"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			near, far, p := newPipe(t)
			lost := p.CutOn(jskvtest.ToServer, "LOST")
			var got []byte
			for i, chunk := range tt.chunks {
				_, err := io.WriteString(near, chunk)
				require.NoError(t, err)
				if i == len(tt.chunks)-1 {
					break
				}
				// Reading it keeps the chunks apart.
				buf := make([]byte, len(chunk))
				_, err = io.ReadFull(far, buf)
				require.NoError(t, err)
				got = append(got, buf...)
			}
			<-lost
			rest, err := io.ReadAll(far)
			require.Error(t, err, "it is reset and not closed")
			require.Equal(t, tt.want, string(got)+string(rest))
		})
	}
}

func TestCutOnHappensOnce(t *testing.T) {
	_, p := newProxied(t)
	nc, cuts := counted(p)
	first, second := p.CutOn(jskvtest.Both, "news.first"), p.CutOn(jskvtest.Both, "news.second")
	for _, lost := range []<-chan struct{}{first, second} {
		require.NoError(t, nc.Publish("news.first", nil))
		require.NoError(t, nc.Publish("news.second", nil))
		require.Eventually(t, func() bool { return closed(lost) }, soon, tick)
		require.Eventually(t, func() bool { return nc.IsConnected() && nc.Flush() == nil }, soon, tick)
	}
	require.NoError(t, nc.Publish("news.first", nil))
	require.NoError(t, nc.Publish("news.second", nil))
	require.NoError(t, nc.Flush())
	requireCuts(t, cuts, 2)
}

// What a connection had left to forward when it was cut sprang the next trap, which then waited for no other.
func TestCutOnIsNotSprungByWhatAConnectionThatWasCutHadLeft(t *testing.T) {
	for range 20 { // every second one failed
		near, _, p := newPipe(t)
		p.Delay(jskvtest.ToServer, time.Hour)
		first, second := p.CutOn(jskvtest.ToServer, "FIRST"), p.CutOn(jskvtest.ToServer, "SECOND")
		_, err := io.WriteString(near, "FIRST"+strings.Repeat(".", 100_000)+"SECOND") // more than it takes at a time
		require.NoError(t, err)
		p.Delay(jskvtest.ToServer, 0)
		<-first
		require.Eventually(t, func() bool { return p.Connections() == 0 }, soon, tick)
		require.False(t, closed(second))
	}
}

func TestHealCallsCutOnOff(t *testing.T) {
	_, p := newProxied(t)
	nc, cuts := counted(p)
	lost := p.CutOn(jskvtest.ToServer, "news")
	p.Heal()
	require.NoError(t, nc.Publish("news", nil))
	require.NoError(t, nc.Flush())
	require.False(t, closed(lost))
	require.Zero(t, cuts.Load())
}

func TestCutOnNeedsAPattern(t *testing.T) {
	require.Contains(t, failureOf(func(tb testing.TB) {
		jskvtest.NewProxy(tb, "127.0.0.1:1").CutOn(jskvtest.Both, "")
	}), "CutOn without a pattern")
}
