package wire

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// The server ends a pull without looking at the stream, once in the time in which a consumer may be inactive.
func TestOfTwoEndsOfPullsThatCameSoonOneIsTrue(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	c := &consumer{signed: ago(inactive / 2), limits: jetstream.ConsumerConfig{InactiveThreshold: inactive}}
	c.pulled = ago(inactive / 4)
	require.True(t, c.certain(), "the consumer is young")
	c.signed, c.pulled = ago(inactive), ago(inactive)
	require.False(t, c.certain(), "it may have been the server's look")
	c.pulled = ago(time.Minute)
	require.False(t, c.certain(), "so it may again: the pull before was sent too long ago")
	c.pulled = ago(inactive / 4)
	require.False(t, c.certain())
	require.True(t, c.certain(), "or this one, but not both")
}

// The end of a pull came with its messages, which took the reader long.
func TestAnEndThatCameLongBeforeItIsReadIsYoung(t *testing.T) {
	t.Parallel()
	c := &consumer{delivery: make(chan *nats.Msg, 4), limits: jetstream.ConsumerConfig{InactiveThreshold: inactive}}
	c.signed = time.Now()
	read := func() { <-c.delivery; c.took() }
	for range 3 {
		c.delivery <- nil
	}
	read()
	read()
	c.cameAt = c.cameAt.Add(-time.Nanosecond)
	noted := c.cameAt
	read()
	require.Equal(t, noted, c.arrived())
	require.True(t, c.certain())
	c.delivery <- nil
	read()
	require.NotEqual(t, noted, c.arrived(), "this one came later")
}

// A heartbeat between two messages is one that somebody else has caused.
func TestASnapshotEndsWithMoreThanOneHeartbeat(t *testing.T) {
	t.Parallel()
	r := &Reader{target: 5, consumer: &consumer{beats: 2}}
	require.True(t, r.complete(pullIdle, 5))
	require.False(t, r.complete(pullIdle, 4), "the server has not come so far")
	r.consumer.beats = 1
	require.False(t, r.complete(pullIdle, 5))
	r.consumer.beats, r.consumer.received = 2, 1
	require.False(t, r.complete(pullIdle, 5))
	r.consumer.same, r.consumer.beat = beatsAtEnd, shortestProbe
	require.False(t, r.complete(pullIdle, 5))
	r.consumer.beat = longestProbe
	require.True(t, r.complete(pullIdle, 5), "nothing has come for long")
}

// Its end would pass for that of both, and what the second brings for messages of a third.
func TestNoPullIsSentAheadOfTheEndOfOneThatDoesNotWait(t *testing.T) {
	t.Parallel()
	c := &consumer{batch: 100, left: 50, pending: 150}
	require.True(t, c.ahead())
	c.noWait = true
	require.False(t, c.ahead(), "the stream has grown since it was sent")
	c.left = 0
	require.True(t, c.ahead())
}

// A server that is late with the end delivers before it what was written after the reader was opened.
func TestTheEndOfASnapshotOfAsMuchAsAReaderTakesItselfIsKnownWhenItOpens(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	js := jskvtest.NewServer(t).JetStream()
	b, err := Create(ctx, js, jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage}, Options{})
	require.NoError(t, err)
	for prefix, most := range map[string]struct{ keys, size int }{"messages": {eagerMessages, 1}, "bytes": {16, eagerBytes / 16}} {
		for i := range most.keys {
			_, err := js.PublishAsync(fmt.Sprintf("$KV.b.%s.%d", prefix, i), make([]byte, most.size), jetstream.WithStallWait(time.Minute))
			require.NoError(t, err)
		}
		<-js.PublishAsyncComplete()
		r, err := b.OpenReader(ctx, ReaderConfig{Filters: []string{prefix + ".*"}})
		require.NoError(t, err)
		require.Len(t, r.queue, most.keys)
		require.False(t, r.snapshot, prefix)
		r.Stop()
	}
}
