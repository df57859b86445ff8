package wire

import (
	"context"
	"testing"

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
	p.refused(sent{id: 1, write: Write{Key: "k", Data: []byte("older"), id: "one"}, bytes: 6})
	p.pending[2] = sent{id: 2, epoch: b.epoch() + 1, write: Write{Key: "k", Data: []byte("newer"), id: "two"}, bytes: 6}

	require.NoError(t, p.Flush())
	p.Close(nil)
	require.Equal(t, 2, stored)
	m, err := b.Get(ctx, "k", Read{})
	require.NoError(t, err)
	require.Equal(t, "newer", string(m.Data))
	require.EqualValues(t, 1, m.Sequence)
}
