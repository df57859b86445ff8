package jskv_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// Many watchers of single keys on one handle, one a session, are common in servers. They share a
// consumer from some number on; nobody may notice but the server.

// enough is how many watchers it takes to be sure that the last ones share.
const enough = 40

// crowd watches other keys until the test ends, so that whoever comes now shares.
func (r *reading) crowd() {
	r.t.Helper()
	for i := range enough {
		watch(r.t, r.Bucket, fmt.Sprintf("crowd.%d", i))
	}
}

func TestAThousandWatchersOfSingleKeysCostFewConsumers(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		keys := r.fill(1000, "v")
		watchers := make([]*jskv.Watcher[string], len(keys))
		for i, key := range keys {
			w, err := r.Watch(context.Background(), key) // all together may take a slow machine long
			require.NoError(t, err)
			t.Cleanup(w.Stop)
			watchers[i] = w
		}
		require.Less(t, jskvtest.ConsumerCount(t, r.admin, "b"), 50)
		require.Less(t, r.nc.NumSubscriptions(), r.subs+50)
		r.again(keys...)
		for i, w := range watchers {
			require.Equal(t, []string{fmt.Sprintf("%s@%d v", keys[i], i+1)}, brief(collect(t, w.Snapshot())...))
			require.Equal(t, []string{fmt.Sprintf("%s@%d again", keys[i], i+1001)}, brief(next(t, w)))
		}
		var wg sync.WaitGroup
		for _, w := range watchers {
			wg.Go(w.Stop)
		}
		wg.Wait()
		r.requireNothingLeft()
	})
}

func TestASharedWatcherKeepsTheContract(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.crowd()
		r.put("a.x", "1")
		r.put("b", "2")
		r.del("c.x.y")

		t.Run("snapshot, then updates", func(t *testing.T) {
			w := watch(t, r.Bucket, "a.x")
			revision := r.put("a.x", "new")
			require.False(t, w.Synced())
			snapshot := collect(t, w.Snapshot())
			require.Equal(t, []string{"a.x@1 1"}, brief(snapshot...))
			require.Equal(t, "b", snapshot[0].Bucket)
			require.True(t, w.Synced())
			require.Equal(t, revision, next(t, w).Revision)
			requireNothingNext(t, w)
		})
		t.Run("a marker is the key's current revision", func(t *testing.T) {
			w := watch(t, r.Bucket, "c.x.y")
			require.Equal(t, []string{"c.x.y@3 Delete"}, brief(collect(t, w.Snapshot())...))
		})
		t.Run("a key that is not there", func(t *testing.T) {
			w := watch(t, r.Bucket, "d")
			require.True(t, w.Synced())
			require.Empty(t, collect(t, w.Snapshot()))
			revision := r.put("d", "now")
			require.Equal(t, revision, next(t, w).Revision)
		})
		t.Run("a write right after Watch", func(t *testing.T) {
			for i := range 50 {
				w := watch(t, r.Bucket, fmt.Sprintf("new.%d", i), jskv.UpdatesOnly())
				revision := r.put(fmt.Sprintf("new.%d", i), "now")
				require.Equal(t, revision, next(t, w).Revision)
				w.Stop()
			}
		})
		t.Run("UpdatesOnly", func(t *testing.T) {
			w := watch(t, r.Bucket, "b", jskv.UpdatesOnly())
			require.True(t, w.Synced())
			requireNothingNext(t, w)
			revision := r.del("b")
			require.Equal(t, fmt.Sprintf("b@%d Delete", revision), brief(next(t, w))[0])
		})
		t.Run("IgnoreDeletes", func(t *testing.T) {
			w := watch(t, r.Bucket, "c.x.y", jskv.IgnoreDeletes())
			require.True(t, w.Synced(), "there is only a marker")
			r.purge("c.x.y")
			revision := r.put("c.x.y", "v")
			require.Equal(t, revision, next(t, w).Revision)
		})
		t.Run("the same key twice", func(t *testing.T) {
			one, two := watch(t, r.Bucket, "twice"), watch(t, r.Bucket, "twice")
			first := r.put("twice", "1")
			require.Equal(t, first, next(t, one).Revision)
			require.Equal(t, first, next(t, two).Revision)
			one.Stop()
			second := r.put("twice", "2")
			require.Equal(t, second, next(t, two).Revision)
			_, err := one.Next(testContext(t))
			require.ErrorIs(t, err, jskv.ErrWatcherStopped)
		})
		t.Run("a value that does not decode", func(t *testing.T) {
			w := watch(t, jskv.As(r.Bucket, jskv.JSON[int]()), "number")
			r.put("number", "one")
			_, err := w.Next(testContext(t))
			var decode *jskv.DecodeError
			require.ErrorAs(t, err, &decode)
			r.put("number", "2")
			require.Equal(t, 2, next(t, w).Value)
		})
		t.Run("Stop inside the loop", func(t *testing.T) {
			w := watch(t, r.Bucket, "a.x")
			r.put("a.x", "1")
			r.put("a.x", "2")
			n := 0
			for _, err := range w.Updates() {
				require.NoError(t, err)
				n++
				w.Stop()
				w.Stop()
			}
			require.Equal(t, 1, n)
		})
	})
}

func TestASharedWatcherEndsAsItIsEnded(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.crowd()
	r.put("a", "1")

	ctx, cancel := context.WithCancel(context.Background())
	w, err := r.Watch(ctx, "a")
	require.NoError(t, err)
	canceled, cancelNext := context.WithCancel(context.Background())
	cancelNext()
	_, err = w.Next(canceled)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, w.Synced(), "that ended nothing")
	require.Equal(t, uint64(1), next(t, w).Revision)
	var wg sync.WaitGroup
	ended := make(chan error, 1)
	wg.Go(func() {
		_, err := jskv.Collect(w.Updates())
		ended <- err
	})
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)

	stopped := watch(t, r.Bucket, "a")
	next(t, stopped)
	wg.Go(func() {
		_, err := jskv.Collect(stopped.Updates())
		ended <- err
	})
	stopped.Stop()
	require.NoError(t, <-ended)

	gone := watch(t, r.Bucket, "a")
	private := watch(t, r.Bucket, "*")
	require.NoError(t, jskv.DeleteBucket(testContext(t), r.admin, "b"))
	for _, w := range []*jskv.Watcher[string]{gone, private} {
		_, err = jskv.Collect(w.Updates())
		require.ErrorIs(t, err, jskv.ErrBucketNotFound)
	}
	wg.Wait()
}

// A sharing watcher that is not read gets a reader of its own, which goes on where it was; the
// others do not wait for it.
func TestASharedWatcherThatIsNotReadHoldsNobodyUpAndLosesNothing(t *testing.T) {
	t.Parallel()
	for _, history := range []uint8{1, 64} {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.crowd()
		slow, fast := watch(t, r.Bucket, "busy"), watch(t, r.Bucket, "busy")
		const n = 2000
		keys := make([]string, n)
		for i := range keys {
			keys[i] = "busy"
		}
		r.again(keys...)
		requireAscendingTo(t, fast, n, history)
		requireAscendingTo(t, slow, n, history)
		slow.Stop()
		fast.Stop()
	}
}

// It kept 256 messages, however large they were.
func TestASharedWatcherThatIsNotReadCostsBoundedMemory(t *testing.T) {
	// Not parallel: it measures memory.
	r := newReading(t, jetstream.KeyValueConfig{})
	r.crowd()
	slow, fast := watch(t, r.Bucket, "busy"), watch(t, r.Bucket, "busy")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	value := strings.Repeat("v", 1<<20-1000)
	for range 200 {
		r.putBeside("busy", value)
		next(t, fast)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(40<<20))
	requireAscendingTo(t, slow, 200, 1)
}

// requireAscendingTo reads up to a revision: in order, and with none of the last ones missing.
func requireAscendingTo(t *testing.T, w *jskv.Watcher[string], end uint64, history uint8) {
	t.Helper()
	last := uint64(0)
	for last < end {
		e := next(t, w)
		require.Greater(t, e.Revision, last)
		if e.Revision > end-uint64(history)+1 {
			require.Equal(t, last+1, e.Revision, "the bucket still has it")
		}
		last = e.Revision
	}
}

func TestSharedWatchersComeAndGoWhileOthersReadOn(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 64})
	r.crowd()
	steady := watch(t, r.Bucket, "steady.key")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 50 {
				// Of several depths, so that what they share has to grow.
				key := []string{"a", "a.b", "a.b.c", "x.y.z.w"}[(i+j)%4] + fmt.Sprint(".", i)
				w, err := r.Watch(context.Background(), key)
				if err != nil {
					t.Errorf("watch %s: %v", key, err)
					return
				}
				w.Stop()
			}
		})
	}
	for i := range uint64(60) {
		require.Equal(t, r.put("steady.key", "v"), next(t, steady).Revision, "put %d", i)
	}
	wg.Wait()
	revision := r.put("steady.key", "end")
	require.Equal(t, revision, next(t, steady).Revision)
}
