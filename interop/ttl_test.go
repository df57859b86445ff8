package interop

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// ttl is long enough for a watcher to see what expires while it is there.
const ttl = 5 * time.Second

// ttlOf is the TTL that the message of an entry carries on the wire. Clients write it in their own
// ways.
func ttlOf(t *testing.T, e jskv.Entry[string]) time.Duration {
	t.Helper()
	header := e.Header.Get(jetstream.MsgTTLHeader)
	d, err := time.ParseDuration(header)
	if err != nil {
		d, err = time.ParseDuration(header + "s")
	}
	require.NoError(t, err)
	return d
}

func TestValuesExpireAlikeWhoeverWroteThem(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx, c := testContext(t), b.client
		bucket := b.theirs(jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute})
		ourWatcher, theirWatcher := watch(t, bucket), c.watch("b")
		require.NoError(t, c.create("b", "theirs", "v", ttl))
		written(t)(bucket.Create(ctx, "ours", "v", jskv.TTL(ttl)))

		values, markers := map[string]bool{}, map[string]revision{}
		for range 4 {
			e := next(t, ourWatcher)
			require.Equal(t, theirWatcher.shown(revisionOf(e)), theirWatcher.next(), "both see the same")
			if e.Expired() {
				markers[e.Key] = revisionOf(e)
				continue
			}
			values[e.Key] = true
			require.Equal(t, jskv.OpPut, e.Operation)
			require.Equal(t, ttl, ttlOf(t, e))
		}
		require.Equal(t, map[string]bool{"theirs": true, "ours": true}, values)
		require.Len(t, markers, 2)
		for key, marker := range markers {
			e, err := bucket.Entry(ctx, key)
			require.ErrorIs(t, err, jskv.ErrKeyNotFound)
			require.Equal(t, revision{key, "", e.Revision, jskv.OpPurge}, marker)
			require.Equal(t, []revision{marker}, c.history("b", key))
		}

		written(t)(bucket.Create(ctx, "theirs", "again"))
		require.NoError(t, c.create("b", "ours", "again", 0))
		b.requireSame(bucket, "theirs", "ours")
	})
}

func TestMarkersOfPurgesExpireAlikeWhoeverWroteThem(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx, c := testContext(t), b.client
		bucket := ours(t, b.js, jetstream.KeyValueConfig{History: 3, LimitMarkerTTL: time.Second})
		written(t)(bucket.Put(ctx, "theirs", "v"))
		written(t)(bucket.Put(ctx, "ours", "v"))
		w := watch(t, bucket, jskv.UpdatesOnly())
		require.NoError(t, c.purge("b", "theirs", ttl))
		written(t)(bucket.Purge(ctx, "ours", jskv.TTL(ttl)))
		for range 2 {
			e := next(t, w)
			require.Equal(t, jskv.OpPurge, e.Operation)
			require.False(t, e.Expired())
			require.Equal(t, ttl, ttlOf(t, e))
		}

		for _, key := range []string{"theirs", "ours"} {
			eventually(t, func() bool {
				e, err := bucket.Entry(ctx, key)
				require.ErrorIs(t, err, jskv.ErrKeyNotFound)
				return e.Revision == 0
			}, "the end of the marker")
			require.Empty(t, c.history("b", key))
			_, err := c.get("b", key)
			require.ErrorIs(t, err, errNotFound)
		}
		require.Equal(t, uint64(4), newest(t, bucket), "and none follows")
	})
}

func TestTheAgeOfABucketIsTheSameToBoth(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		bucket := b.theirs(jetstream.KeyValueConfig{TTL: time.Second})
		require.NoError(t, b.client.put("b", "theirs", "v"))
		written(t)(bucket.Put(testContext(t), "ours", "v"))
		for _, key := range []string{"theirs", "ours"} {
			require.Zero(t, expired(t, bucket, key).Revision, "without LimitMarkerTTL there is no marker")
		}
		require.Empty(t, b.client.keys("b"))
		b.requireSame(bucket, "theirs", "ours")
	})
}

// Neither client drops the older revisions when it creates a key with a TTL, so that one of them is
// there again, here a marker, and the server writes no other. Those of jskv do not come back.
func TestATTLOverAMarkerInAHistoryEndsWithoutAWord(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx, c := testContext(t), b.client
		bucket := ours(t, b.js, jetstream.KeyValueConfig{History: 5, LimitMarkerTTL: ttl}) // or the marker may be gone before it is looked at
		must := written(t)
		must(bucket.Delete(ctx, "theirs"))
		must(bucket.Delete(ctx, "ours"))
		require.NoError(t, c.create("b", "theirs", "v", ttl))
		must(bucket.Create(ctx, "ours", "v", jskv.TTL(ttl)))

		marker := expired(t, bucket, "theirs")
		require.Equal(t, revision{"theirs", "", 1, jskv.OpDelete}, revisionOf(marker), "the marker from before")
		require.False(t, marker.Expired())
		marker = expired(t, bucket, "ours")
		require.Equal(t, revision{"ours", "", 5, jskv.OpPurge}, revisionOf(marker))
		require.True(t, marker.Expired())
		require.Equal(t, uint64(5), newest(t, bucket), "there is no other")
	})
}
