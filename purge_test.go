package jskv_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestPurgeDeletesRemovesMarkersAndWhatIsUnderThem(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 5})
	n, err := b.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	require.Zero(t, n, "an empty bucket")
	for _, key := range []string{"deleted", "purged", "again", "live"} {
		mustPut(t, b, key, "a")
		mustPut(t, b, key, "b")
	}
	_, err = b.Delete(ctx, "deleted")
	require.NoError(t, err)
	_, err = b.Purge(ctx, "purged")
	require.NoError(t, err)
	_, err = b.Delete(ctx, "never")
	require.NoError(t, err)
	_, err = b.Delete(ctx, "again")
	require.NoError(t, err)
	mustPut(t, b, "again", "c")

	n, err = b.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, 3, n, "deleted, purged, never")
	for _, key := range []string{"deleted", "purged", "never"} {
		require.Empty(t, history(t, b, key))
		_, err = b.Update(ctx, key, "new", 0)
		require.NoError(t, err, "a key without any revision")
	}
	require.Equal(t, "Put a, Put b, Delete, Put c", history(t, b, "again"), "a live key keeps its history")
	require.Equal(t, "Put a, Put b", history(t, b, "live"))
	n, err = b.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestPurgeDeletesLeavesYoungMarkers(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 2})
	mustPut(t, b, "old", "v")
	_, err := b.Delete(ctx, "old")
	require.NoError(t, err)
	marker, err := b.Entry(ctx, "old")
	requireIs(t, err, jskv.ErrKeyNotFound)
	n, err := b.PurgeDeletes(ctx, time.Hour)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, "Put v, Delete", history(t, b, "old"), "nothing of it was removed")

	eventually(t, func() bool { return time.Since(marker.Created) > 3*time.Second }, "older than the next one by more than a machine stands still")
	mustPut(t, b, "young", "v")
	_, err = b.Delete(ctx, "young")
	require.NoError(t, err)
	n, err = b.PurgeDeletes(ctx, time.Since(marker.Created)) // which the younger one is not, when the server looks
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Empty(t, history(t, b, "old"))
	require.Equal(t, "Put v, Delete", history(t, b, "young"))

	_, err = b.PurgeDeletes(ctx, -time.Second)
	requireIs(t, err, jskv.ErrInvalidOption)
	requireNames(t, err, "purge deletes of b: ")
}

func TestPurgeDeletesNeverTouchesAKeyThatIsMadeAgain(t *testing.T) {
	t.Parallel()
	const keys = 40
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	writer := openBucket(t, server.JetStream())
	for round := range 10 {
		for i := range keys {
			_, err := writer.Delete(ctx, fmt.Sprint("k", i))
			require.NoError(t, err)
		}
		var (
			group sync.WaitGroup
			errs  [2]error
		)
		group.Go(func() { _, errs[0] = b.PurgeDeletes(ctx, 0) })
		group.Go(func() {
			for i := range keys {
				if _, err := writer.Create(ctx, fmt.Sprint("k", i), fmt.Sprint(round)); err != nil {
					errs[1] = err
				}
			}
		})
		group.Wait()
		require.NoError(t, errs[0])
		require.NoError(t, errs[1])
		for i := range keys {
			value, err := b.Get(ctx, fmt.Sprint("k", i))
			require.NoError(t, err, "round %d", round)
			require.Equal(t, fmt.Sprint(round), value)
		}
	}
}

func TestPurgeDeletesManyMarkers(t *testing.T) {
	t.Parallel()
	const markers = 3000
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	js := server.JetStream()
	mustPut(t, b, "live", "v")
	for i := range markers {
		_, err := js.PublishMsgAsync(&nats.Msg{Subject: fmt.Sprint("$KV.b.k", i), Header: nats.Header{"KV-Operation": {"DEL"}}})
		require.NoError(t, err)
	}
	<-js.PublishAsyncComplete()
	n, err := b.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, markers, n)
	info, err := b.Stream().Info(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, info.State.Msgs)
}

// Who publishes to the bucket's subjects can store what is a pattern to the server. It would purge all that
// the pattern matches.
func TestPurgeDeletesLeavesMarkersUnderPatternsAlone(t *testing.T) {
	t.Parallel()
	for _, storage := range []jetstream.StorageType{jetstream.FileStorage, jetstream.MemoryStorage} {
		b, server := newBucket(t, jetstream.KeyValueConfig{Storage: storage})
		mustPut(t, b, "sue.color", "blue")
		_, err := b.Delete(testContext(t), "gone")
		require.NoError(t, err)
		for _, key := range []string{"sue.*", "sue.>", ">", "su*.color"} {
			_, err := server.JetStream().PublishMsg(testContext(t), &nats.Msg{Subject: "$KV.b." + key, Header: nats.Header{"KV-Operation": {"DEL"}}})
			require.NoError(t, err)
		}
		n, err := b.PurgeDeletes(testContext(t), 0)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, "Put blue", history(t, b, "sue.color"))
		require.Empty(t, history(t, b, "gone"))
	}
}

func TestPurgeDeletesRemovesMarkersOfExpiredValues(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Hour})
	_, err := b.Put(ctx, "k", "v", jskv.TTL(time.Second))
	require.NoError(t, err)
	eventually(t, func() bool {
		e, err := b.Entry(ctx, "k")
		return err != nil && e.Expired()
	}, "the value expires")
	n, err := b.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	e, err := b.Entry(ctx, "k")
	requireIs(t, err, jskv.ErrKeyNotFound)
	require.Zero(t, e)
}

func TestPurgeDeletesSaysWhatTheServerRefuses(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	for i := range 10 {
		_, err := b.Delete(testContext(t), fmt.Sprint("k", i))
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n, err := b.PurgeDeletes(ctx, 0)
	requireIs(t, err, context.Canceled)
	require.Zero(t, n)

	setConfig(t, server.JetStream(), "KV_b", map[string]any{"deny_purge": true, "allow_rollup_hdrs": false})
	n, err = b.PurgeDeletes(testContext(t), 0)
	var refusal *jetstream.APIError
	require.ErrorAs(t, err, &refusal)
	requireNames(t, err, "purge deletes of b: ", refusal.Description)
	require.Zero(t, n)
	require.Equal(t, "Delete", history(t, b, "k0"))
}
