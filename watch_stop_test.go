package jskv_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestUpdatesEndsWithoutAnErrorWhenTheWatcherIsStopped(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	w := r.watch()
	r.put("a", "1")
	r.put("b", "2") // not read any more
	n := 0
	for _, err := range w.Updates() {
		require.NoError(t, err)
		n++
		w.Stop() // from inside the loop
		r.requireNothingLeft()
	}
	require.Equal(t, 1, n)
	require.Empty(t, collect(t, w.Updates()), "again when it is ranged over again")
	_, err := w.Next(testContext(t))
	require.ErrorIs(t, err, jskv.ErrWatcherStopped)
}

// A snapshot that ends without an error was whole, so Stop has to be one.
func TestASnapshotThatIsStoppedEndsWithAnError(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, long} {
		r := newReading(t, jetstream.KeyValueConfig{})
		r.fill(size, strings.Repeat("v", 2000))
		w := r.watch()
		n, last := 0, error(nil)
		for _, err := range w.Snapshot() {
			require.NoError(t, last, "a pair after the error")
			if last = err; err == nil {
				n++
				w.Stop()
				r.requireNothingLeft()
			}
		}
		require.Equal(t, 1, n)
		require.ErrorIs(t, last, jskv.ErrWatcherStopped)
		require.False(t, w.Synced())
		n, last = lastPair(t, w.Snapshot())
		require.ErrorIs(t, last, jskv.ErrWatcherStopped)
		require.Zero(t, n)
		require.Empty(t, collect(t, w.Updates()))
		_, err := w.Next(testContext(t))
		require.ErrorIs(t, err, jskv.ErrWatcherStopped)
	}
}

func TestStopWakesAReaderThatWaits(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	w := r.watch()
	result := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := w.Next(context.Background())
		result <- err
	})
	requireWaiting(t, r)
	w.Stop()
	r.requireNothingLeft()
	require.ErrorIs(t, <-result, jskv.ErrWatcherStopped)
	wg.Wait()

	w = r.watch()
	ended := make(chan error, 1)
	wg.Go(func() {
		_, err := jskv.Collect(w.Updates())
		ended <- err
	})
	requireWaiting(t, r)
	w.Stop()
	r.requireNothingLeft()
	require.NoError(t, <-ended)
	wg.Wait()
}

// requireWaiting waits until a pull of the bucket's only consumer is waiting for messages.
func requireWaiting(t *testing.T, r *reading) {
	t.Helper()
	require.Eventually(t, func() bool {
		for info := range r.Stream().JetStream().ListConsumers(testContext(t)).Info() {
			if info.NumWaiting > 0 {
				return true
			}
		}
		return false
	}, soon, tick)
}

func TestStopMayBeCalledTwiceAndFromAnywhere(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(100, "v")
	for at := range 5 {
		w := r.watch()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if i == 0 {
					_, _ = jskv.Collect(w.Updates())
				}
				w.Stop()
				w.Stop()
			})
		}
		for range at {
			_, _ = w.Next(testContext(t)) // may be stopped already
		}
		wg.Wait()
		w.Stop()
		r.requireNothingLeft()
	}
}

func TestStopReturnsOnlyWhenNothingIsLeftWhoeverCalledItFirst(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(100, "v")
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		w, err := r.Watch(ctx, jskv.AllKeys)
		require.NoError(t, err)
		ended := time.Now()
		var wg sync.WaitGroup
		wg.Go(cancel) // ends it at the same time
		wg.Go(w.Stop)
		w.Stop()
		r.requireNothingLeftSince(ended)
		wg.Wait()
	}
}

func TestAWatchersLoopsCanBeLeftAndEnteredAgain(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(6, "v")
	w := r.watch()
	var revisions []uint64
	for range 2 {
		for e, err := range w.Snapshot() {
			require.NoError(t, err)
			revisions = append(revisions, e.Revision)
			if e.Revision%2 == 0 {
				break
			}
		}
	}
	revisions = append(revisions, next(t, w).Revision)
	for _, e := range collect(t, w.Snapshot()) {
		revisions = append(revisions, e.Revision)
	}
	require.Equal(t, []uint64{1, 2, 3, 4, 5, 6}, revisions, "nothing twice, nothing left out")

	r.put("a", "7")
	r.put("b", "8")
	r.put("c", "9")
	for range 2 {
		for e, err := range w.Updates() {
			require.NoError(t, err)
			revisions = append(revisions, e.Revision)
			break
		}
	}
	require.Equal(t, []uint64{7, 8}, revisions[6:])
	require.Equal(t, uint64(9), next(t, w).Revision)
}

func TestUpdatesSkipsWhatIsLeftOfTheSnapshot(t *testing.T) {
	t.Parallel()
	for _, size := range []int{3, long} {
		r := newReading(t, jetstream.KeyValueConfig{})
		r.fill(size, strings.Repeat("v", 2000)) // no number
		for _, read := range []int{0, 1} {
			w := watch(t, jskv.As(r.Bucket, jskv.JSON[int]()), jskv.AllKeys) // those do not decode
			for range read {
				_, err := w.Next(testContext(t))
				var decode *jskv.DecodeError
				require.ErrorAs(t, err, &decode)
			}
			revision := r.put("a", "1")
			for e, err := range w.Updates() {
				require.NoError(t, err)
				require.Equal(t, revision, e.Revision)
				break
			}
			require.True(t, w.Synced())
			w.Stop()
			r.del("a")
		}
	}
}
