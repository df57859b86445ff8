package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

func TestWaitMakesEveryWriterSeeItsOwnWrites(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	c := newCache(t, r.Bucket)
	var writing sync.WaitGroup
	for w := range 4 {
		writing.Go(func() {
			key := fmt.Sprint("k", w)
			for i := range 200 {
				revision, err := r.Put(context.Background(), key, fmt.Sprint(i))
				if err == nil {
					err = c.Wait(context.Background(), revision)
				}
				if e, ok := c.Entry(key); err != nil || !ok || e.Revision != revision || e.Value != fmt.Sprint(i) {
					t.Errorf("%s: wrote revision %d, found %+v, %v", key, revision, e, err)
					return
				}
			}
		})
	}
	writing.Wait()
}

// With one revision a key, a cache is not sent what was replaced before its turn came. Between that
// and what replaced it there are other keys' revisions, which do not make up for it.
func TestWaitMakesWritersOfTheSameKeysSeeTheirOwnWritesOrNewerOnes(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	for _, filters := range [][]string{nil, {"k.*"}} {
		c := newCache(t, r.Bucket, filters...)
		var writing sync.WaitGroup
		for w := range 8 {
			writing.Go(func() {
				for i := range 2000 {
					key := fmt.Sprint("k.", (w+i)%3)
					revision, err := r.Put(context.Background(), key, "v")
					if err == nil {
						err = c.Wait(context.Background(), revision)
					}
					if e, _ := c.Entry(key); err != nil || e.Revision < revision {
						t.Errorf("%s: wrote revision %d, found %+v, %v", key, revision, e, err)
						return
					}
				}
			})
		}
		writing.Wait()
	}
}

func TestWaitForARevisionThatWasReplacedBeforeItWasSent(t *testing.T) {
	t.Parallel()
	for _, filters := range [][]string{nil, {"k", "a.>"}} {
		t.Run(fmt.Sprint("filters ", filters), func(t *testing.T) {
			t.Parallel()
			r := newReading(t, jetstream.KeyValueConfig{})
			c, stops := newStoppedCache(t, r.Bucket, []string{"a stop", "another"}, filters...)
			requireWait(t, c, r.put("k", "first"))
			r.put("a.1", "a stop")
			for i := range sentAhead {
				r.put(fmt.Sprint("a.b.", i), "v")
			}
			revision := r.put("k", "mine")
			r.put("a.2", "another")
			r.put("k", "theirs")
			stops.pass("a stop")
			requireIs(t, c.Wait(soonContext(t), revision), context.DeadlineExceeded)
			stops.pass("another")
			requireWait(t, c, revision)
			value, _ := c.Get("k")
			require.Equal(t, "theirs", value)
		})
	}
}

// The cache is always some revisions behind here: there is never a moment without more for it.
func TestWaitForAReplacedRevisionEndsWhileOthersGoOnWriting(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	keys := s.fill(5000, "v")
	c := newCache(t, s.Bucket)
	s.proxy.Delay(jskvtest.Both, 10*time.Millisecond)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	defer writing.Wait()
	defer close(stop)
	writing.Go(func() {
		pace := time.NewTicker(time.Millisecond) // which the cache can keep up with
		defer pace.Stop()
		for i := 0; !isClosed(stop); i = (i + 5) % len(keys) {
			s.again(keys[i : i+5]...)
			<-pace.C
		}
	})
	for range 5 {
		revision := s.putBeside("k", "replaced")
		s.putBeside("k", "in its place")
		requireWait(t, c, revision)
		e, ok := c.Entry("k")
		require.True(t, ok)
		require.GreaterOrEqual(t, e.Revision, revision)
	}
}

// outrun is a cache that is so far from its server that of each revision that it comes to others were
// replaced before it, until the test ends.
func outrun(t *testing.T, away time.Duration) (*scene, *jskv.Cache[string]) {
	t.Helper()
	s := newScene(t, jetstream.KeyValueConfig{})
	c := newCache(t, s.Bucket)
	s.proxy.Delay(jskvtest.Both, away)
	keys := make([]string, 300)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i%30)
	}
	t.Cleanup(s.inTurn(keys, func() {}))
	return s, c
}

// All that there was at some moment never comes.
func TestWaitForAReplacedRevisionEndsWhereTheCacheNeverCatchesUp(t *testing.T) {
	t.Parallel()
	s, c := outrun(t, 10*time.Millisecond)
	for i := range 3 {
		requireWait(t, c, s.putBeside("k1", fmt.Sprint(i)))
	}
}

// Far from its server a question takes long, and so did as many of them as it took to read the bucket anew.
func TestWaitEndsWithinItsTimeWhereACacheFarFromItsServerNeverCatchesUp(t *testing.T) {
	t.Parallel()
	s, c := outrun(t, 100*time.Millisecond)
	promptly(t, 5*time.Second, func() time.Duration { // the default timeout
		start := time.Now()
		requireWait(t, c, s.putBeside("k1", "v"))
		return time.Since(start)
	})
}

func TestWaitReturnsForARevisionThatTheFiltersDoNotMatch(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("v", "x.1", "y.1")
	for _, filters := range [][]string{{"x.*"}, {"x.*", "*.1"}, {"nothing"}} {
		c := newCache(t, r.Bucket, filters...)
		begun := time.Now()
		for i := range 20 {
			replaced := r.put("z.2", "for a moment")
			requireWait(t, c, r.put("z.2", fmt.Sprint(i)))
			requireWait(t, c, replaced)
		}
		require.Less(t, time.Since(begun), soon)
		revision := r.put("x.1", "matches")
		requireWait(t, c, r.put("z.2", "does not, and comes later"))
		if e, ok := c.Entry("x.1"); ok {
			require.Equal(t, revision, e.Revision, "what matches and came before is there")
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	revision := r.put("k", "v")
	c := newCache(t, openBucket(t, hasty(t, r.nc, 3*time.Second)))
	requireWait(t, c, revision)
	err := c.Wait(soonContext(t), revision+1)
	requireIs(t, err, context.DeadlineExceeded)
	requireNames(t, err, "wait for b", "revision 2")
	over, cancel := context.WithCancel(context.Background())
	cancel()
	requireIs(t, c.Wait(over, revision+1), context.Canceled)
	requireIs(t, c.Wait(context.Background(), revision+1), context.DeadlineExceeded)
	requireWait(t, c, r.put("k", "w"))
}

func TestWaitGoesOnThroughAnInterruption(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	s.store("v", "k")
	c := newCache(t, s.Bucket)
	s.proxy.Refuse()
	s.proxy.Reset()
	revision := s.putBeside("k", "w")
	waited := make(chan error, 1)
	go func() { waited <- c.Wait(testContext(t), revision) }()
	eventually(t, func() bool { return c.Stale() > 0 }, "the connection is lost")
	require.Empty(t, waited)
	s.proxy.Accept()
	require.NoError(t, receive(t, waited))
	value, _ := c.Get("k")
	require.Equal(t, "w", value)
}

// What Wait promises holds for deletions too whose markers are gone when the cache is back.
func TestWaitForADeletionWhoseMarkerIsGone(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	keys := s.fill(1000, "v")
	c := newCache(t, s.Bucket)
	for round := range 3 {
		key := keys[round]
		s.proxy.Refuse()
		s.proxy.Reset()
		beside := openBucket(t, s.admin)
		revision, err := beside.Delete(testContext(t), key)
		require.NoError(t, err)
		n, err := beside.PurgeDeletes(testContext(t), 0)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		s.again(keys[10:]...) // so that the snapshot passes the deletion's revision early
		waited := make(chan error, 1)
		go func() { waited <- c.Wait(testContext(t), revision) }()
		s.proxy.Accept()
		require.NoError(t, receive(t, waited))
		_, ok := c.Get(key)
		require.False(t, ok, "round %d", round)
	}
}

func TestWaitInABucketThatWasMadeAgain(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(50, "old")
	c := newCache(t, r.Bucket)
	b := r.replace()
	eventually(t, func() bool { return c.Len() == 0 }, "the old content is gone")
	require.Zero(t, c.Revision())
	err := c.Wait(soonContext(t), 50)
	require.True(t, errors.Is(err, context.DeadlineExceeded), err)
	requireWait(t, c, mustPut(t, b, "k", "new"))
	require.EqualValues(t, 1, c.Revision())
	requireCopy(t, b, c)
}
