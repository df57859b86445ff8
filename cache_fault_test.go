package jskv_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// Whatever happens while the server is out of reach, the copy is the bucket's content afterwards.
func TestACacheIsTheBucketsContentAfterEveryInterruption(t *testing.T) {
	t.Parallel()
	for _, what := range interruptions {
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, jetstream.KeyValueConfig{Storage: jetstream.FileStorage})
			s.fill(20, "before")
			all, some := newCache(t, s.Bucket), newCache(t, s.Bucket, "k000001", "k000002", "new", "*.>")
			what.begin(s)
			beside := openBucket(t, s.admin)
			for _, key := range []string{"k000001", "k000011"} {
				_, err := beside.Delete(testContext(t), key)
				require.NoError(t, err)
			}
			_, err := beside.Purge(testContext(t), "k000002")
			require.NoError(t, err)
			_, err = beside.PurgeDeletes(testContext(t), 0)
			require.NoError(t, err)
			s.again("k000003", "new")
			if what.patient {
				long := 2 * time.Second
				eventually(t, func() bool { return min(all.Stale(), some.Stale()) > long }, "the silence is noticed")
			}
			ended := time.Now()
			if what.end != nil {
				what.end(s)
			}
			revision := mustPut(t, beside, "k000004", "after")
			requireWait(t, all, revision)
			requireWait(t, some, revision)
			require.Less(t, time.Since(ended), 5*time.Second)
			requireCopy(t, beside, all)
			requireCopy(t, beside, some, "k000001", "k000002", "new", "*.>")
		})
	}
}

func TestStaleTellsForHowLongTheServerIsAway(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{Storage: jetstream.FileStorage})
	s.store("v", "k")
	c := newCache(t, s.Bucket)
	require.Zero(t, c.Stale())
	require.Never(t, func() bool { return c.Stale() > 0 }, 2*time.Second, 10*time.Millisecond, "an idle bucket is no silence")
	s.server.Stop()
	eventually(t, func() bool { return c.Stale() > time.Second }, "it grows")
	value, ok := c.Get("k")
	require.True(t, ok, "what was copied stays readable")
	require.Equal(t, "v", value)
	require.NoError(t, c.Err())
	s.server.Start()
	eventually(t, func() bool { return c.Stale() == 0 }, "the server is back")
}

func TestABucketThatIsDeletedIsEmptyAndOneMadeAgainIsFollowed(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	s.fill(10, "old")
	c := newCache(t, s.Bucket)
	for round := range 3 {
		require.NoError(t, jskv.DeleteBucket(testContext(t), s.admin, "b"))
		eventually(t, func() bool { return c.Len() == 0 }, "nothing is in a bucket that is not there")
		require.Zero(t, c.Stale(), "the server answers")
		require.NoError(t, c.Err())
		b := createBucket(t, s.admin, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
		s.store(fmt.Sprint("new ", round), "a", "k000001")
		requireWait(t, c, mustPut(t, b, "b", "last"))
		requireCopy(t, b, c)
	}
}

func TestABucketThatWasReplacedDuringACut(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	keys := s.fill(10, "old")
	c := newCache(t, s.Bucket)
	s.proxy.Refuse()
	s.proxy.Reset()
	b := s.replace()
	s.fill(10, "new") // the same keys at the same revisions
	s.proxy.Accept()
	eventually(t, func() bool { value, _ := c.Get(keys[0]); return value == "new" }, "another value at the revision that was known")
	requireCopy(t, b, c)
}

// The usual TTL of a bucket leaves no markers: nobody is told of what expires.
func TestWhatExpiresWithoutAMarkerLeavesTheCopy(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{TTL: 2 * time.Second})
	keys := r.fill(10, "v")
	c := newCache(t, r.Bucket)
	seen := follow(t, c)
	require.Equal(t, 10, c.Len())
	begun := time.Now()
	for kept := 0; c.Len() > 1; kept++ {
		requireWait(t, c, r.put(keys[0], fmt.Sprint(kept))) // is overwritten, and lives
		_, ok := c.Get(keys[0])
		require.True(t, ok)
		require.Less(t, time.Since(begun), soon)
	}
	eventually(t, func() bool { return c.Len() == 0 }, "and then that expires, too")
	seen.requireState(map[string]string{})
}

func TestATTLOfOneKeyThatRunsOutLeavesTheCopy(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second})
	_, err := s.Put(testContext(t), "seen", "v", jskv.TTL(time.Second))
	require.NoError(t, err)
	_, err = s.Put(testContext(t), "missed", "v", jskv.TTL(3*time.Second))
	require.NoError(t, err)
	c := newCache(t, s.Bucket)
	require.Equal(t, 2, c.Len())
	eventually(t, func() bool { return c.Len() == 1 }, "the marker tells it")
	s.proxy.Refuse()
	s.proxy.Reset()
	stream, err := s.admin.Stream(testContext(t), "KV_b")
	require.NoError(t, err)
	eventually(t, func() bool {
		info, err := stream.Info(testContext(t))
		return err == nil && info.State.Msgs == 0
	}, "value and marker are gone during the cut")
	require.Equal(t, 1, c.Len())
	s.proxy.Accept()
	eventually(t, func() bool { return c.Len() == 0 }, "the snapshot tells it")
}
