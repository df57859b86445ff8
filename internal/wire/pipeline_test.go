package wire

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// The older write was refused in a moment without a leader; the newer one was stored just after, and
// its acknowledgement lost with the connection. No network can be made to do that at will.
func TestAnOlderWriteThatWasRefusedDoesNotReplaceANewerOneThatWasStoredUnheard(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	js := jskvtest.NewServer(t).JetStream()
	_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", History: 5, Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	b, err := Open(ctx, js, "b", Options{Idempotent: true})
	require.NoError(t, err)
	stored := 0
	p, err := b.NewPipeline(ctx, 0, func(_ string, err error) {
		require.NoError(t, err)
		stored++
	})
	require.NoError(t, err)
	_, err = js.Publish(ctx, "$KV.b.k", []byte("newer"), jetstream.WithMsgID("two"))
	require.NoError(t, err)
	p.next, p.oldest = 2, 2
	p.refused(sent{id: 1, write: Write{Key: "k", Data: []byte("older")}, first: firstSent{id: "one"}, bytes: 6})
	p.pending[2] = sent{id: 2, epoch: b.epoch() + 1, write: Write{Key: "k", Data: []byte("newer")}, first: firstSent{id: "two"}, bytes: 6}

	require.NoError(t, p.Flush())
	p.Close(nil)
	require.Equal(t, 2, stored)
	m, err := b.Get(ctx, "k", Read{})
	require.NoError(t, err)
	require.Equal(t, "newer", string(m.Data))
	require.EqualValues(t, 1, m.Sequence)
}

// The server looks at a write's limits before it counts it in its batch, and again when it stores it:
// others may have come up to one in between. No test can hit that moment.
func TestAWriteThatWasRefusedIsSentAgainAlthoughItsBatchCountsIt(t *testing.T) {
	t.Parallel()
	inTime(t, refuseOneInABatch)
}

// refuseOneInABatch returns false when a batch was ended before it had all three, because it waited for a moment.
func refuseOneInABatch(t *testing.T) bool {
	ctx := context.Background()
	js := jskvtest.NewServer(t).JetStream()
	b, err := Create(ctx, js, jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage}, Options{FastIngest: true})
	require.NoError(t, err)
	var reported []string
	p, err := b.NewPipeline(ctx, 0, func(key string, err error) {
		require.NoError(t, err)
		reported = append(reported, key)
	})
	require.NoError(t, err)
	require.NoError(t, p.Put(Write{Key: "alone"}))
	require.NoError(t, p.Flush())
	for _, key := range []string{"one", "two", "three"} {
		require.NoError(t, p.Put(Write{Key: key}))
	}
	p.mu.Lock()
	waits := p.batch != nil && p.batch.sent == 3 && p.batch.timer.Stop()
	if waits {
		p.ticking.Done()
		p.acks <- &nats.Msg{Subject: p.batch.reply(2, ingestAppend), Data: []byte(`{"error":{"code":400,"err_code":10002,"description":"no room"},"stream":"KV_b"}`)}
	}
	p.mu.Unlock()

	require.NoError(t, p.Flush())
	p.Close(nil)
	if !waits {
		return false
	}
	require.Equal(t, []string{"alone", "one", "three", "two"}, reported)
	m, err := b.Get(ctx, "two", Read{})
	require.NoError(t, err)
	require.EqualValues(t, 5, m.Sequence, "it was sent again")
	return true
}

// What was lost with a connection comes to a server of replicas after all, in the moment in which it is sent
// again: then that is refused, although the write is being stored. No network can be made to do that
// at will.
func TestAWriteThatIsBeingStoredAlreadyIsLookedForAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	js := jskvtest.NewServer(t).JetStream()
	_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	b, err := Open(ctx, js, "b", Options{Idempotent: true})
	require.NoError(t, err)
	stored := 0
	p, err := b.NewPipeline(ctx, 0, func(_ string, err error) {
		require.NoError(t, err)
		stored++
	})
	require.NoError(t, err)
	_, err = js.Publish(ctx, "$KV.b.k", []byte("v"), jetstream.WithMsgID("one"))
	require.NoError(t, err)
	p.next, p.oldest = 1, 1
	p.pending[1] = sent{id: 1, epoch: b.epoch(), write: Write{Key: "k", Data: []byte("v")}, first: firstSent{id: "one"}, bytes: 2}
	p.acks <- &nats.Msg{Subject: p.prefix + "1", Data: []byte(`{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"},"stream":"KV_b"}`)}

	require.NoError(t, p.Flush())
	p.Close(nil)
	require.Equal(t, 1, stored)
	m, err := b.Get(ctx, "k", Read{})
	require.NoError(t, err)
	require.EqualValues(t, 1, m.Sequence)
}
