package jskv_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
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
			require.Len(t, copied(all), 20) // and the keys of some are put in order afterwards
			what.begin(s)
			beside := openBucket(t, s.admin)
			for _, key := range []string{"k000001", "k000011"} {
				_, err := beside.Delete(testContext(t), key)
				require.NoError(t, err)
			}
			purged, err := beside.Purge(testContext(t), "k000002")
			require.NoError(t, err)
			if what.end == nil { // it may be over: a marker must be delivered before it is purged
				requireWait(t, all, purged)
				requireWait(t, some, purged)
			}
			_, err = beside.PurgeDeletes(testContext(t), 0)
			require.NoError(t, err)
			s.again("k000003", "new")
			if what.patient {
				long := 3 * time.Second
				eventually(t, func() bool { return min(all.Stale(), some.Stale()) > long }, "the silence is noticed")
			}
			ended := time.Now()
			if what.end != nil {
				what.end(s)
			}
			revision := mustPut(t, beside, "k000004", "after")
			requireWait(t, all, revision)
			requireWait(t, some, revision)
			require.Less(t, time.Since(ended), stockSilence)
			requireCopy(t, beside, all)
			requireCopy(t, beside, some, "k000001", "k000002", "new", "*.>")
		})
	}
}

// It is late because its codec is slow, and the server always has more for it.
func TestACacheThatIsLateIsNotStale(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	pace := time.NewTicker(8 * time.Millisecond)
	defer pace.Stop()
	c := newCache(t, jskv.As(r.Bucket, paced{pace.C}))
	onceInThree(t, 0*time.Second, func() (stale time.Duration) {
		r.fill(400, "v")
		last := r.put("last", "v")
		eventually(t, func() bool {
			stale = max(stale, c.Stale())
			return c.Revision() == last
		}, "it has come to the end")
		return stale
	})
}

// paced is a codec of strings that decodes when it is told to.
type paced struct{ turns <-chan time.Time }

func (paced) Encode(value string) ([]byte, error) { return []byte(value), nil }

func (p paced) Decode(data []byte) (string, error) {
	<-p.turns
	return string(data), nil
}

func TestStaleTellsForHowLongTheServerIsAway(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{Storage: jetstream.FileStorage})
	s.store("v", "k")
	c := newCache(t, s.Bucket)
	quiet := time.Now() // since when it was never stale
	eventually(t, func() bool {
		if c.Stale() > 0 { // a busy machine may be silent for a moment
			quiet = time.Now()
		}
		return time.Since(quiet) > 2*time.Second
	}, "an idle bucket is no silence")
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
		eventually(t, func() bool { return c.Stale() == 0 }, "the server answers")
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
	eventually(t, func() bool { value, _ := c.Get(keys[9]); return value == "new" }, "another value at the revision that was known")
	requireCopy(t, b, c)
}

// The usual TTL of a bucket leaves no markers: nobody is told of what expires.
func TestWhatExpiresWithoutAMarkerLeavesTheCopy(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(10, "v")
	c := newCache(t, r.Bucket)
	seen := follow(t, c)
	require.Equal(t, 10, c.Len())
	const ttl = 2 * time.Second
	setConfig(t, r.admin, "KV_b", map[string]any{"max_age": ttl, "duplicate_window": ttl})
	begun := time.Now()
	for kept := 0; c.Len() > 1; kept++ {
		put := time.Now()
		requireWait(t, c, r.put(keys[0], fmt.Sprint(kept))) // is overwritten, and lives
		_, ok := c.Get(keys[0])
		require.True(t, ok || time.Since(put) > ttl)
		require.Less(t, time.Since(begun), soon)
	}
	eventually(t, func() bool { return c.Len() == 0 }, "and then that expires, too")
	seen.requireState(map[string]string{})
}

func TestATTLOfOneKeyThatRunsOutLeavesTheCopy(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second})
	beside := openBucket(t, s.admin)
	put := func(key string, ttl time.Duration) uint64 {
		revision, err := beside.Put(testContext(t), key, "v", jskv.TTL(ttl))
		require.NoError(t, err)
		return revision
	}
	c := newCache(t, s.Bucket)
	requireWait(t, c, put("seen", time.Second))
	eventually(t, func() bool { return c.Len() == 0 }, "the marker tells it")
	stream, err := s.admin.Stream(testContext(t), "KV_b")
	require.NoError(t, err)
	onceInThree(t, 1, func() int { // it may expire before the cut
		s.proxy.Accept()
		requireWait(t, c, put("missed", 2*time.Second))
		s.proxy.Refuse()
		s.proxy.Reset()
		eventually(t, func() bool {
			info, err := stream.Info(testContext(t))
			return err == nil && info.State.Msgs == 0
		}, "value and marker are gone during the cut")
		return c.Len()
	})
	s.proxy.Accept()
	eventually(t, func() bool { return c.Len() == 0 }, "the snapshot tells it")
}

// A value that expires where the bucket has older ones brings the newest of those back, unless its
// writer took care of that, as this package does. The server tells nobody.
func TestAnOlderValueThatIsBackComesWithTheNextSnapshot(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 5, LimitMarkerTTL: time.Second})
	r.put("value", "older")
	r.del("deleted")
	c := newCache(t, r.Bucket)
	seen := follow(t, c)
	onceInThree(t, true, func() (both bool) { // they may expire before they are seen
		for _, key := range []string{"value", "deleted"} {
			r.shortLived(key)
		}
		begun := time.Now()
		requireWait(t, c, lastRevision(t, r.Bucket))
		eventually(t, func() bool {
			values, _, _ := seen.values()
			both = values["value"] == "short-lived" && values["deleted"] == "short-lived"
			return both || time.Since(begun) > 2*time.Second
		}, "both are seen, or expire")
		return both
	})
	eventually(t, func() bool {
		entries := stored(t, r.Bucket)
		return len(entries) == 1 && entries[0].Value == "older"
	}, "it expires")
	jskvtest.DeleteConsumers(t, r.admin, "b")
	requireWait(t, c, r.put("end", "v"))
	requireCopy(t, r.Bucket, c)
	seen.requireState(map[string]string{"value": "older", "end": "v"})
}

// shortLived stores a value that expires and leaves what was before it, as this package does not.
func (r *reading) shortLived(key string) {
	r.t.Helper()
	_, err := r.admin.PublishMsg(testContext(r.t), &nats.Msg{
		Subject: r.Stream().Subject(key), Header: nats.Header{"Nats-TTL": {"1s"}}, Data: []byte("short-lived"),
	})
	require.NoError(r.t, err)
}

// A program that loads slowly is no server that does not answer.
func TestALoadThatTakesLongerThanTheTimeoutIsNoFailure(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(2000, "v")
	const timeout = 3 * time.Second
	b := openBucket(t, hasty(t, r.nc, timeout))
	c := newCache(t, jskv.As(b, takesTime(3*timeout/2/2000)))
	require.Equal(t, len(keys), c.Len())
}

// takesTime is a codec of strings that takes so long for each value.
type takesTime time.Duration

func (takesTime) Encode(value string) ([]byte, error) { return []byte(value), nil }

func (d takesTime) Decode(data []byte) (string, error) {
	<-time.After(time.Duration(d))
	return string(data), nil
}

// Markers that expire before the server could send them are not told of: a cache that was so far
// behind reads the bucket again.
func TestMarkersThatExpireWhileACacheIsBehindAreNotMissed(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second})
	c, stops := newStoppedCache(t, r.Bucket, []string{"a stop"})
	revision, err := r.Put(testContext(t), "expires", "v", jskv.TTL(time.Second))
	require.NoError(t, err)
	requireWait(t, c, revision)
	r.put("x", "a stop")
	r.fill(2*sentAhead, "v")
	eventually(t, func() bool { return len(history(t, r.Bucket, "expires")) == 0 }, "value and marker expire")
	stops.pass("a stop")
	requireWait(t, c, r.put("x", "goes on"))
	eventually(t, func() bool { _, ok := c.Get("expires"); return !ok }, "it is gone")
	requireCopy(t, r.Bucket, c)
}

func TestABucketThatIsGivenATTLLater(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(10, "v")
	c := newCache(t, r.Bucket)
	setConfig(t, r.admin, "KV_b", map[string]any{"max_age": 2 * time.Second, "duplicate_window": time.Second})
	eventually(t, func() bool { return c.Len() == 0 }, "what expires is gone")
}

// As above, where the cache has heard of no moment by the server's clock since it was made.
func TestMarkersThatExpireWhileACacheIsBehindItsFirstUpdateAreNotMissed(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second})
	r.put("purged", "v")
	c, stops := newStoppedCache(t, r.Bucket, []string{"a stop"})
	require.Equal(t, 1, c.Len())
	r.put("x", "a stop")
	r.fill(2*sentAhead, "v")
	r.purgeBriefly("purged")
	stops.pass("a stop")
	eventually(t, func() bool { _, ok := c.Get("purged"); return !ok }, "it is gone")
	requireCopy(t, r.Bucket, c)
}

// purgeBriefly purges a key and waits until the marker is gone, too.
func (r *reading) purgeBriefly(key string) {
	r.t.Helper()
	_, err := r.Purge(testContext(r.t), key, jskv.TTL(time.Second))
	require.NoError(r.t, err)
	eventually(r.t, func() bool { return len(history(r.t, r.Bucket, key)) == 0 }, "the marker expires")
}

// A load that takes so long that a marker behind it may have expired before the server came by.
func TestMarkersThatExpireDuringTheLoadAreNotMissed(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second, History: history})
		r.store("v", "purged")
		r.store("first", "first")
		r.fill(10_000, strings.Repeat("v", 4<<10))
		s := stops{"first": make(chan struct{})}
		loaded := make(chan *jskv.Cache[string], 1)
		go func() {
			c, err := jskv.As(r.Bucket, s).Cache(context.Background())
			if err != nil {
				panic(err)
			}
			loaded <- c
		}()
		eventually(t, func() bool { return r.nc.Stats().InMsgs > 1500 }, "the server sends ahead")
		r.purgeBriefly("purged")
		s.pass("first")
		c := receive(t, loaded)
		t.Cleanup(c.Close)
		eventually(t, func() bool { _, ok := c.Get("purged"); return !ok }, "it is gone")
		requireCopy(t, r.Bucket, c)
	})
}

// What the copy has of the new bucket is not told again, as it would be if it were still the old one's.
func TestAnInterruptionWhileABucketThatWasReplacedIsRead(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	s.fill(10, "old")
	c, stops := newStoppedCache(t, s.Bucket, []string{"a stop"})
	seen := follow(t, c)
	s.proxy.Refuse()
	s.proxy.Reset()
	b := s.replace()
	s.store("new", "a", "b")
	s.store("a stop", "stop")
	keys := s.fill(10_000, strings.Repeat("v", 4<<10))
	s.proxy.Accept()
	eventually(t, func() bool { _, ok := c.Get("b"); return ok }, "the new bucket is being read")
	jskvtest.DeleteConsumers(t, s.admin, "b")
	stops.pass("a stop")
	eventually(t, func() bool { return c.Len() == 3+len(keys) && c.Revision() == uint64(3+len(keys)) }, "all is there")
	requireWait(t, c, s.putBeside("last", "v"))
	requireCopy(t, b, c)
	want := map[string]string{}
	for _, e := range stored(t, b) {
		want[e.Key] = e.Value
	}
	seen.requireState(want)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	require.Zero(t, seen.made, "what was content came in key order, and all else in revision order")
	require.Equal(t, 10+len(want), seen.steps)
}

// A server that comes back from an older copy of its disk has other values at revisions that were known.
func TestAServerThatIsBackWithOlderData(t *testing.T) {
	t.Parallel()
	var disk string
	server := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) { disk = o.StoreDir }))
	proxy := jskvtest.NewProxy(t, server.URL())
	r := readingOn(t, server, proxy.Conn(), jetstream.KeyValueConfig{Storage: jetstream.FileStorage})
	// away stops the server while something is done, and waits until the connection beside is back.
	away := func(do func()) {
		before := r.admin.Conn().Stats().Reconnects
		server.Stop()
		do()
		server.Start()
		eventually(t, func() bool { return r.admin.Conn().Stats().Reconnects > before }, "the connection is back")
	}
	r.store("kept", "a", "b")
	backup := t.TempDir()
	away(func() { require.NoError(t, os.CopyFS(backup, os.DirFS(disk))) })
	r.store("lost", "a", "b", "c")
	c := newCache(t, r.Bucket)
	require.EqualValues(t, 5, c.Revision())
	proxy.Refuse()
	proxy.Reset()
	away(func() {
		require.NoError(t, os.RemoveAll(disk))
		require.NoError(t, os.CopyFS(disk, os.DirFS(backup)))
	})
	beside := openBucket(t, r.admin)
	r.store("other", "a", "c", "b")
	proxy.Accept()
	requireWait(t, c, mustPut(t, beside, "end", "v"))
	requireCopy(t, beside, c)
}

func TestOlderValuesThatAreBackAreToldInRevisionOrder(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 5, LimitMarkerTTL: time.Second})
	keys := r.fill(50, "older")
	for _, key := range keys {
		r.shortLived(key)
	}
	c := newCache(t, r.Bucket)
	seen := follow(t, c)
	eventually(t, func() bool {
		entries := stored(t, r.Bucket)
		return len(entries) == len(keys) && !slices.ContainsFunc(entries, func(e jskv.Entry[string]) bool { return e.Value != "older" })
	}, "they expire")
	jskvtest.DeleteConsumers(t, r.admin, "b")
	requireWait(t, c, r.put("end", "v"))
	requireCopy(t, r.Bucket, c)
	want := map[string]string{"end": "v"}
	for _, key := range keys {
		want[key] = "older"
	}
	seen.requireState(want)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	require.LessOrEqual(t, seen.made, uint64(1), "they may come behind the end")
}
