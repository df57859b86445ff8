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

func TestWaitReturnsForARevisionThatTheFiltersDoNotMatch(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("v", "x.1", "y.1")
	for _, filters := range [][]string{{"x.*"}, {"x.*", "*.1"}, {"nothing"}} {
		c := newCache(t, r.Bucket, filters...)
		for i := range 20 {
			begun := time.Now()
			requireWait(t, c, r.put("z.2", fmt.Sprint(i)))
			require.Less(t, time.Since(begun), 2*time.Second)
		}
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
	c := newCache(t, openBucket(t, hasty(t, r.nc, 200*time.Millisecond)))
	require.NoError(t, c.Wait(soonContext(t), revision))
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
