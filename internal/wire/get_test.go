package wire

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// A leader that was deposed, or was just elected, answered with less than the handle was acknowledged for.
// No network can be made to do that at will.
func TestALeaderIsNotBelievedBeforeItHasComeAsFarAsTheHandle(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cluster := jskvtest.NewCluster(t, 2)
	js := cluster.JetStream()
	b, err := Create(ctx, js, jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage}, Options{})
	require.NoError(t, err)
	cluster.WaitCurrent("b") // or the stock client's writes may find nobody
	put := func(key string) {
		_, err := js.Publish(ctx, "$KV.b."+key, nil)
		require.NoError(t, err)
	}
	put("k")
	b.era().acknowledged(3)
	for _, key := range []string{"k", "missing"} {
		soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		_, err = b.Get(soon, key, Read{Leader: true})
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, "%s: the stream ends at 1", key)
	}
	put("other")
	put("other")
	m, err := b.Get(ctx, "k", Read{Leader: true})
	require.NoError(t, err)
	require.EqualValues(t, 1, m.Sequence)
	_, err = b.Get(ctx, "missing", Read{Leader: true})
	require.ErrorIs(t, err, ErrKeyNotFound)
}
