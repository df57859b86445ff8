package wire

import (
	"context"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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

// A leader of the metadata that has not applied yet what made the bucket refuses to read from it. A test cannot
// make it lag: a relay sends the question on to a stream that does not exist, whose refusal is the same.
func TestABucketJustMadeIsNotGoneWhereTheMetadataLeaderDoesNotKnowItYet(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server := jskvtest.NewServer(t)
	_, err := server.JetStream().CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	relay := server.Conn()
	var refusals atomic.Int32 // to give
	_, err = relay.Subscribe("relay.API.>", func(question *nats.Msg) {
		subject := strings.Replace(question.Subject, "relay.API.", jetstream.DefaultAPIPrefix, 1)
		if !strings.Contains(subject, infoOf) && strings.HasSuffix(subject, ".KV_b") && refusals.Add(-1) >= 0 {
			subject = strings.Replace(subject, ".KV_b", ".KV_none", 1)
		}
		_ = relay.PublishMsg(&nats.Msg{Subject: subject, Reply: question.Reply, Header: question.Header, Data: question.Data})
	})
	require.NoError(t, err)
	require.NoError(t, relay.Flush())
	js, err := jetstream.NewWithAPIPrefix(server.Conn(), "relay.API")
	require.NoError(t, err)
	b, err := Open(ctx, js, "b", Options{})
	require.NoError(t, err)
	marker, err := server.JetStream().PublishMsg(ctx, &nats.Msg{Subject: "$KV.b.k", Header: nats.Header{"KV-Operation": {"DEL"}}})
	require.NoError(t, err)

	refusals.Store(2)
	m, err := b.Get(ctx, "k", Read{Leader: true})
	require.NoError(t, err)
	require.Equal(t, marker.Sequence, m.Sequence)
	require.Negative(t, refusals.Load())

	refusals.Store(math.MaxInt32)
	soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = b.Get(soon, "k", Read{Leader: true})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, ErrBucketNotFound, "it is there")
	refusals.Store(0)

	require.NoError(t, server.JetStream().DeleteKeyValue(ctx, "b"))
	_, err = b.Get(ctx, "k", Read{Leader: true})
	require.ErrorIs(t, err, ErrBucketNotFound)
}
