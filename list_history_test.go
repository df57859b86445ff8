package jskv_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestAHistoryHasTheStoredRevisionsOldestFirstWithMarkers(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{History: 4}, func(t *testing.T, r *reading) {
		ctx := testContext(t)
		r.put("a", "1")
		r.put("a.b", "other")
		r.put("a", "3")
		r.put("aa", "other")
		r.del("a")
		r.put("a", "6")
		entries := collect(t, r.History(ctx, "a"))
		require.Equal(t, []string{"a@1 1", "a@3 3", "a@5 Delete", "a@6 6"}, brief(entries...))
		for i, e := range entries {
			require.Equal(t, uint64(len(entries)-1-i), e.Delta, "how many were still to come")
			require.Equal(t, "b", e.Bucket)
		}
		r.put("a", "7")
		require.Equal(t, []string{"a@3 3", "a@5 Delete", "a@6 6", "a@7 7"}, brief(collect(t, r.History(ctx, "a"))...),
			"the bucket keeps four")
		r.purge("a")
		require.Equal(t, []string{"a@8 Purge"}, brief(collect(t, r.History(ctx, "a"))...))
		require.Equal(t, []string{"a.b@2 other"}, brief(collect(t, r.History(ctx, "a.b"))...))
		r.requireNothingLeft()
	})
}

func TestAHistoryOfMoreRevisionsThanAPull(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 64})
	for i := range 80 {
		r.put("a", fmt.Sprint(i))
	}
	entries := collect(t, r.History(testContext(t), "a"))
	require.Len(t, entries, 64)
	for i, e := range entries {
		require.Equal(t, fmt.Sprintf("a@%d %d", i+17, i+16), brief(e)[0])
	}
}

func TestAHistoryEndsWithTheMarkerOfAnExpiredValue(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Hour})
	ctx := testContext(t)
	w := r.watch(jskv.UpdatesOnly())
	r.put("a", "1")
	r.put("stays", "2")
	_, err := r.Put(ctx, "one", "3", jskv.TTL(time.Second))
	require.NoError(t, err)
	require.Equal(t, []string{"a@1 1", "stays@2 2"}, brief(nextAll(t, w, 2)...))

	marker := next(t, w)
	if !marker.Expired() { // else a slow machine came after the value's end
		require.Equal(t, []string{"one@3 3"}, brief(marker))
		marker = next(t, w) // comes when the server has removed the value
	}
	require.Equal(t, []string{"one@4 Purge"}, brief(marker))
	require.True(t, marker.Expired())
	require.Equal(t, "MaxAge", marker.Header.Get(jetstream.MarkerReasonHeader))

	history := collect(t, r.History(ctx, "one"))
	require.Equal(t, []string{"one@4 Purge"}, brief(history...))
	require.True(t, history[0].Expired())
	require.Equal(t, []string{"a", "stays"}, sorted(t, r.Keys(ctx)))
	snapshot := collect(t, r.watch().Snapshot())
	require.Equal(t, []string{"a@1 1", "stays@2 2", "one@4 Purge"}, brief(snapshot...))
	require.True(t, snapshot[2].Expired())
	require.Equal(t, []string{"a@1 1", "stays@2 2"}, brief(collect(t, r.watch(jskv.IgnoreDeletes()).Snapshot())...))
}

func TestAHistoryIsOfOneKey(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 5})
	r.put("a", "1")
	for _, key := range []string{"", "*", ">", "a.*", "a.", "a b", "ä"} {
		n, err := lastPair(t, r.History(testContext(t), key))
		require.ErrorIs(t, err, jskv.ErrInvalidKey, "%q", key)
		require.ErrorIs(t, err, jetstream.ErrInvalidKey)
		require.Zero(t, n)
	}
}
