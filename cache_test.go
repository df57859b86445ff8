package jskv_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// newCache makes a cache that ends with the test.
func newCache[T any](t testing.TB, b *jskv.Bucket[T], filters ...string) *jskv.Cache[T] {
	t.Helper()
	c, err := b.Cache(context.Background(), filters...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// sentAhead is more than the server sends to a reader that does not read.
const sentAhead = 600

// stops is a codec of strings that stops a cache where it comes to one of these values, until it is
// let pass.
type stops map[string]chan struct{}

// newStoppedCache makes a cache that stops at these values.
func newStoppedCache(t testing.TB, b *jskv.Bucket[string], values []string, filters ...string) (*jskv.Cache[string], stops) {
	t.Helper()
	s := stops{}
	for _, value := range values {
		s[value] = make(chan struct{})
	}
	c := newCache(t, jskv.As(b, s), filters...)
	t.Cleanup(func() { // before the cache is closed
		for value := range s {
			s.pass(value)
		}
	})
	return c, s
}

func (s stops) pass(value string) {
	if !isClosed(s[value]) {
		close(s[value])
	}
}

func (stops) Encode(value string) ([]byte, error) { return []byte(value), nil }

func (s stops) Decode(data []byte) (string, error) {
	if stop, ok := s[string(data)]; ok {
		<-stop
	}
	return string(data), nil
}

// copied is what a cache has, in its order.
func copied(c *jskv.Cache[string]) (entries []jskv.Entry[string]) {
	for key, e := range c.All() {
		if e.Key != key {
			panic(fmt.Sprint(key, e))
		}
		entries = append(entries, e)
	}
	return entries
}

// stored is what the bucket has, in the order of the keys.
func stored(t testing.TB, b *jskv.Bucket[string], filters ...string) []jskv.Entry[string] {
	t.Helper()
	entries := collect(t, b.Entries(testContext(t), filters...))
	slices.SortFunc(entries, byKey)
	return entries
}

func byKey(a, b jskv.Entry[string]) int { return slices.Compare([]string{a.Key}, []string{b.Key}) }

// requireCopy checks that a cache and the bucket have the same, whichever way the cache is read.
func requireCopy(t testing.TB, b *jskv.Bucket[string], c *jskv.Cache[string], filters ...string) {
	t.Helper()
	want := stored(t, b, filters...)
	require.Equal(t, brief(want...), brief(copied(c)...))
	require.Equal(t, len(want), c.Len())
	for _, e := range want {
		got, ok := c.Entry(e.Key)
		require.True(t, ok, e.Key)
		got.Delta, e.Delta = 0, 0
		require.Equal(t, e, got)
		value, ok := c.Get(e.Key)
		require.True(t, ok, e.Key)
		require.Equal(t, e.Value, value)
	}
}

func requireWait(t testing.TB, c interface {
	Wait(context.Context, uint64) error
}, revision uint64) {
	t.Helper()
	require.NoError(t, c.Wait(testContext(t), revision))
}

func TestACacheIsCompleteWhenItIsReturned(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		keys := r.fill(5000, "v")
		stop := make(chan struct{})
		var writing sync.WaitGroup
		defer writing.Wait()
		defer close(stop)
		writing.Go(func() {
			for i := 0; !isClosed(stop); i++ {
				r.again(keys[i*7919%len(keys)])
			}
		})
		for range 5 {
			c := newCache(t, r.Bucket)
			require.Equal(t, len(keys), c.Len())
			require.Len(t, copied(c), len(keys))
			c.Close()
		}
	})
}

func TestACacheOfAnEmptyBucketIsEmpty(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	c := newCache(t, r.Bucket)
	requireCopy(t, r.Bucket, c)
	require.Zero(t, c.Revision())
	_, ok := c.Entry("k")
	require.False(t, ok)
	requireWait(t, c, r.put("k", "v"))
	requireCopy(t, r.Bucket, c)
}

func TestACacheHasWhatItsFiltersMatch(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("v", "a", "b", "x.1", "x.2", "x.1.deep", "y.1", "y.2")
	cases := []struct {
		reason  string
		filters []string
		want    []string
	}{
		{"a key by its name", []string{"a"}, []string{"a"}},
		{"one token", []string{"*"}, []string{"a", "b"}},
		{"the rest", []string{"x.>"}, []string{"x.1", "x.1.deep", "x.2"}},
		{"several that have nothing in common", []string{"a", "y.*"}, []string{"a", "y.1", "y.2"}},
		{"several that overlap", []string{"x.*", "*.1"}, []string{"x.1", "x.2", "y.1"}},
		{"one within the other", []string{"x.>", "x.1"}, []string{"x.1", "x.1.deep", "x.2"}},
		{"nothing yet", []string{"z.*"}, nil},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			c := newCache(t, r.Bucket, test.filters...)
			requireCopy(t, r.Bucket, c, test.filters...)
			var keys []string
			for key := range c.All() {
				keys = append(keys, key)
			}
			require.Equal(t, test.want, keys)
			r.store("again", "x.1", "a", "y.2", "z.9")
			r.del("z.9")
			requireWait(t, c, r.del("b"))
			requireCopy(t, r.Bucket, c, test.filters...)
			r.store("v", "b")
		})
	}
}

func TestACacheFollowsEveryChange(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.store("v", "a", "b", "c")
		c := newCache(t, r.Bucket)
		require.EqualValues(t, 3, c.Revision())
		for _, change := range []func() uint64{
			func() uint64 { return r.put("a", "w") },
			func() uint64 { return r.del("b") },
			func() uint64 { return r.put("b", "back") },
			func() uint64 { return r.purge("c") },
			func() uint64 { return r.put("d", "new") },
			func() uint64 { return r.del("never.there") },
		} {
			revision := change()
			requireWait(t, c, revision)
			require.Equal(t, revision, c.Revision())
			requireCopy(t, r.Bucket, c)
		}
	})
}

// One writer puts the keys in turn, so at any moment their revisions are consecutive, as long as
// the bucket keeps every revision until the cache has come by. A cache that is out of touch meanwhile
// skips some with its next snapshot.
func TestAllIsOneMomentsViewWhileWritersGoOn(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 64})
	keys := r.fill(300, "v")
	c := newCache(t, r.Bucket)
	turns := 0
	defer r.inTurn(keys, func() {
		for turns++; c.Revision()+50*uint64(len(keys)) < uint64(turns*len(keys)); {
			wait(context.Background(), tick)
		}
	})()
	onceInThree(t, "", func() (wrong string) {
		requireWait(t, c, lastRevision(t, r.Bucket)) // by then such a snapshot has ended
		moments := map[uint64]bool{}
		for len(moments) < 50 && wrong == "" {
			var first uint64
			first, wrong = consecutive(len(keys), copied(c))
			moments[first] = true
		}
		return wrong
	})
}

// inTurn stores the keys one after the other, again and again until it is stopped. Before each turn it does what
// it is given.
func (r *reading) inTurn(keys []string, before func()) (stop func()) {
	stopped := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for !isClosed(stopped) {
			before()
			r.again(keys...)
		}
	})
	return func() { close(stopped); writing.Wait() }
}

// consecutive tells what is wrong with entries, unless they are n, in key order, and with consecutive revisions.
// It returns the first of those.
func consecutive(n int, entries []jskv.Entry[string]) (first uint64, wrong string) {
	revisions := make([]uint64, len(entries))
	for i, e := range entries {
		revisions[i] = e.Revision
	}
	slices.Sort(revisions)
	switch {
	case len(entries) != n:
		return 0, fmt.Sprintf("%d entries, not %d", len(entries), n)
	case !slices.IsSortedFunc(entries, byKey):
		return 0, "not in key order"
	case revisions[n-1]-revisions[0] != uint64(n-1):
		return 0, fmt.Sprintf("%d entries with revisions from %d to %d", n, revisions[0], revisions[n-1])
	}
	return revisions[0], ""
}

func TestAllThatHasBegunDoesNotSeeLaterWrites(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(1000, "v")
	c := newCache(t, r.Bucket)
	n := 0
	for _, e := range c.All() {
		if n++; n == 1 {
			r.fill(1000, "w")
			requireWait(t, c, r.del("k000999"))
			require.Equal(t, 999, c.Len())
		}
		require.Equal(t, "v", e.Value)
	}
	require.Equal(t, 1000, n)
	n = 0
	for range c.All() {
		if n++; n == 3 {
			break
		}
	}
	require.Equal(t, 3, n)
}

func TestGetAndEntryAllocateNothing(t *testing.T) { // alone: it counts what everybody allocates
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(100, "v")
	c := newCache(t, r.Bucket)
	i := 0
	read := func() {
		i++
		if v, ok := c.Get(keys[i%100]); !ok || v != "v" {
			panic(v)
		}
		if e, ok := c.Entry(keys[i%100]); !ok || e.Value != "v" {
			panic(e)
		}
		if _, ok := c.Get("none"); ok {
			panic("there is none")
		}
	}
	onceInThree(t, 0.0, func() float64 { return testing.AllocsPerRun(1000, read) })
}

func TestACacheThatCannotBeMadeSaysWhy(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("v", "a")
	b := r.Bucket
	_, err := b.Cache(context.Background(), "a.b*")
	requireIs(t, err, jskv.ErrInvalidFilter)
	requireNames(t, err, "cache b")

	over, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = b.Cache(over)
	requireIs(t, err, context.Canceled)
	requireNames(t, err, "cache b")

	require.NoError(t, jskv.DeleteBucket(testContext(t), r.admin, "b"))
	_, err = b.Cache(context.Background())
	requireIs(t, err, jskv.ErrBucketNotFound, jetstream.ErrBucketNotFound)
	requireNames(t, err, "cache b")

	createBucket(t, r.js, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	b = openBucket(t, hasty(t, r.nc, 300*time.Millisecond))
	r.server.Stop()
	promptly(t, 5*time.Second, func() time.Duration { // the connection's default timeout bounds it
		begun := time.Now()
		_, err := b.Cache(context.Background())
		requireIs(t, err, context.DeadlineExceeded)
		requireNames(t, err, "cache b")
		return time.Since(begun)
	})
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err = b.Cache(short)
	requireIs(t, err, context.DeadlineExceeded)

	r.nc.Close()
	_, err = b.Cache(context.Background())
	requireIs(t, err, nats.ErrConnectionClosed)
}

func TestAClosedCacheStaysReadableAndIsNoFailure(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("v", "a", "b")
	c := newCache(t, r.Bucket)
	require.NoError(t, c.Err())
	c.Close()
	r.requireNothingLeft()
	c.Close()
	require.NoError(t, c.Err())
	require.Positive(t, c.Stale())
	requireCopy(t, r.Bucket, c)
	require.NoError(t, c.Wait(testContext(t), 2), "that is there")
	err := c.Wait(testContext(t), 3)
	requireIs(t, err, jskv.ErrWatcherStopped)
	requireNames(t, err, "wait for b")
}

// It gave up after half a second, as if it had to hurry because its context had ended.
func TestCloseWaitsUntilTheServerHasNothingLeftOfTheCache(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	onceInThree(t, 0, func() int { // a server that is later still is not waited for
		c := newCache(t, s.Bucket)
		s.proxy.Delay(jskvtest.ToServer, 700*time.Millisecond)
		defer s.proxy.Heal()
		c.Close()
		return jskvtest.ConsumerCount(t, s.admin, "b")
	}, "consumers")
}

func TestACacheMayBeClosedFromInsideItsLoops(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("v", "a", "b")
	c := newCache(t, r.Bucket)
	for range c.All() {
		c.Close()
	}
	c = newCache(t, r.Bucket)
	n, err := lastPair(t, func(yield func(jskv.Change[string], error) bool) {
		for change, err := range c.Changes(testContext(t)) {
			if !yield(change, err) {
				return
			}
			c.Close()
		}
	})
	require.NoError(t, err)
	require.Equal(t, 2, n, "what is there is shown to the end")
	r.requireNothingLeft()
}

func TestErrTellsWhyACacheStopped(t *testing.T) {
	t.Parallel()
	cases := []struct {
		reason string
		stop   func(r *reading, cancel func())
		want   error
	}{
		{"its context was cancelled", func(_ *reading, cancel func()) { cancel() }, context.Canceled},
		{"the connection was closed", func(r *reading, _ func()) { r.nc.Close() }, nats.ErrConnectionClosed},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			r := newReading(t, jetstream.KeyValueConfig{})
			r.store("v", "a")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			c, err := r.Cache(ctx)
			require.NoError(t, err)
			waiting := make(chan error, 1)
			go func() { waiting <- c.Wait(testContext(t), 100) }()
			test.stop(r, cancel)
			n, err := lastPair(t, c.Changes(context.Background()))
			require.Equal(t, 1, n)
			requireIs(t, err, test.want)
			requireNames(t, err, "cache b")
			requireIs(t, c.Err(), test.want)
			requireIs(t, receive(t, waiting), test.want)
			require.Positive(t, c.Stale())
			c.Close()
			requireIs(t, c.Err(), test.want)
			_, ok := c.Get("a")
			require.True(t, ok)
		})
	}
}

// A value that does not decode is neither shown as zero nor hidden behind an older one.
func TestAKeyWhoseValueDoesNotDecodeIsNotInTheCopy(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("41", "early", "kept")
	r.store("forty", "bad")
	c := newCache(t, jskv.As(r.Bucket, jskv.JSON[int]()))
	undecoded := func() (keys []string) {
		for _, err := range c.Undecoded() {
			require.Equal(t, "b", err.Bucket)
			keys = append(keys, fmt.Sprintf("%s@%d %s", err.Key, err.Revision, err.Data))
		}
		slices.Sort(keys)
		return keys
	}
	require.Equal(t, []string{"bad@3 forty"}, undecoded())
	require.Equal(t, 2, c.Len())

	requireWait(t, c, r.put("early", "none"))
	_, ok := c.Get("early")
	require.False(t, ok)
	require.Equal(t, []string{"bad@3 forty", "early@4 none"}, undecoded())

	requireWait(t, c, r.put("early", "42"))
	value, ok := c.Get("early")
	require.True(t, ok)
	require.Equal(t, 42, value)
	requireWait(t, c, r.del("bad"))
	require.Empty(t, undecoded())

	requireWait(t, c, r.put("kept", "again none"))
	jskvtest.DeleteConsumers(t, r.admin, "b") // a new snapshot finds it again
	requireWait(t, c, r.put("early", "43"))
	require.Equal(t, []string{"kept@7 again none"}, undecoded())
}
