package jskv_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestAWatcherHandsOutTheSnapshotAndThenEveryChange(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.put("a", "1")
		r.put("b", "1")
		r.put("c", "1")
		r.put("a", "2")
		r.del("b")
		r.purge("none")

		w := r.watch()
		require.Equal(t, []string{"c@3 1", "a@4 2", "b@5 Delete", "none@6 Purge"}, brief(collect(t, w.Snapshot())...))
		require.True(t, w.Synced())
		r.put("a", "3")
		r.purge("c")
		r.put("c", "4")
		var got []string
		for e, err := range w.Updates() {
			require.NoError(t, err)
			if got = append(got, brief(e)[0]); e.Revision == 9 {
				break
			}
		}
		if history == 1 {
			// c's marker may be gone from the bucket before anyone came by, and need not come.
			require.Equal(t, []string{"a@7 3", "c@9 4"}, []string{got[0], got[len(got)-1]})
			return
		}
		require.Equal(t, []string{"a@7 3", "c@8 Purge", "c@9 4"}, got)
	})
}

func TestNextHandsOutTheSnapshotFirst(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "1")
	r.put("b", "2")
	w := r.watch()
	r.put("c", "3")
	require.Equal(t, []string{"a@1 1", "b@2 2", "c@3 3"}, brief(nextAll(t, w, 3)...))
}

func TestAWatchedEntryHasAllItsFields(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	before := time.Now()
	ctx := testContext(t)
	w := r.watch()
	r.put("a", "1")
	_, err := r.js.PublishMsg(ctx, &nats.Msg{
		Subject: r.Stream().Subject("b"), Header: nats.Header{"X-By": {"me"}}, Data: []byte("2"),
	})
	require.NoError(t, err)
	r.del("c")
	updates := nextAll(t, w, 3)
	snapshot := collect(t, r.watch().Snapshot())
	for i := range updates {
		require.WithinRange(t, updates[i].Created, before, time.Now())
		require.Equal(t, uint64(2-i), snapshot[i].Delta, "how many were still to come")
		updates[i].Delta, snapshot[i].Delta = 0, 0
		require.Equal(t, updates[i], snapshot[i], "the same revision, whichever way it comes")
	}
	require.Nil(t, updates[0].Header)
	require.Equal(t, nats.Header{"X-By": {"me"}}, updates[1].Header)
	require.Equal(t, nats.Header{"KV-Operation": {"DEL"}}, updates[2].Header)
	require.Equal(t, []string{"a@1 1", "b@2 2", "c@3 Delete"}, brief(updates...))
	require.Equal(t, "b", updates[0].Bucket)

	alone, err := r.Entry(ctx, "b")
	require.NoError(t, err)
	require.Equal(t, alone, updates[1], "as it is read alone")
}

func TestAnEmptyBucketIsSyncedAtOnce(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		w := r.watch()
		require.True(t, w.Synced())
		require.Empty(t, collect(t, w.Snapshot()))
		requireNothingNext(t, w)
		r.put("a", "1")
		require.Equal(t, []string{"a@1 1"}, brief(next(t, w)))

		other := watch(t, r.Bucket, "b.*") // nothing that it matches
		require.True(t, other.Synced())
		require.Empty(t, collect(t, other.Snapshot()))
	})
}

// Synced turns true in the moment in which the last entry of the snapshot is handed out, for
// whoever loops on it: one more Next would wait for an update.
func TestSyncedIsTrueOnceTheLastEntryOfTheSnapshotWasHandedOut(t *testing.T) {
	t.Parallel()
	cases := []struct {
		reason string
		opts   []jskv.WatchOption
		write  func(r *reading)
		want   int
	}{
		{"an empty bucket", nil, func(*reading) {}, 0},
		{"one key", nil, func(r *reading) { r.put("a", "1") }, 1},
		{"three keys", nil, func(r *reading) { r.fill(3, "v") }, 3},
		{"a marker last", nil, func(r *reading) { r.put("a", "1"); r.del("b") }, 2},
		{"a marker last, ignored", []jskv.WatchOption{jskv.IgnoreDeletes()}, func(r *reading) { r.put("a", "1"); r.del("b") }, 1},
		{"markers only, ignored", []jskv.WatchOption{jskv.IgnoreDeletes()}, func(r *reading) { r.del("a"); r.purge("b") }, 0},
		{"a history", []jskv.WatchOption{jskv.WithHistory()}, func(r *reading) { r.put("a", "1"); r.put("a", "2"); r.put("b", "3") }, 3},
		{"updates only", []jskv.WatchOption{jskv.UpdatesOnly()}, func(r *reading) { r.fill(3, "v") }, 0},
		{"from the last revision", []jskv.WatchOption{jskv.FromRevision(3)}, func(r *reading) { r.fill(3, "v") }, 1},
		{"from a revision to come", []jskv.WatchOption{jskv.FromRevision(9)}, func(r *reading) { r.fill(3, "v") }, 0},
		{"as many as Watch takes itself", nil, func(r *reading) { r.fill(4096, "v") }, 4096},
		{"as many as a request", nil, func(r *reading) { r.fill(5000, "v") }, 5000},
		{"more than that", nil, func(r *reading) { r.fillLong() }, long},
		{"ignored markers at the end of a long one", []jskv.WatchOption{jskv.IgnoreDeletes()}, func(r *reading) {
			for _, key := range r.fill(5100, "v")[5000:] {
				r.del(key)
			}
		}, 5000},
		{"filters that are checked here", []jskv.WatchOption{jskv.AndFilter("k.*", "*.k")}, func(r *reading) {
			r.put("k.a", "1")
			r.put("x.x", "2")
			r.put("x.y", "3")
		}, 1},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			bothHistories(t, func(t *testing.T, history uint8) {
				want := test.want
				if test.reason == "a history" && history == 1 {
					want-- // of two revisions of one key
				}
				r := newReading(t, jetstream.KeyValueConfig{History: history})
				test.write(r)
				filter := jskv.AllKeys
				if test.reason == "filters that are checked here" {
					filter = "none"
				}
				w := watch(t, r.Bucket, filter, test.opts...)
				n := 0
				for !w.Synced() {
					next(t, w)
					n++
				}
				require.Equal(t, want, n)
				require.Empty(t, collect(t, w.Snapshot()), "it has been handed out")
				requireNothingNext(t, w)
				require.True(t, w.Synced(), "it stays so")
			})
		})
	}
}

func TestTheEndOfNextsContextEndsAndLosesNothing(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "1")
	w := r.watch()
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for range 3 {
		_, err := w.Next(canceled)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.False(t, w.Synced())
	require.Equal(t, []string{"a@1 1"}, brief(next(t, w)))
	for i := range 20 {
		requireNothingNext(t, w)
		r.put("a", string(rune('a'+i)))
		_, err := w.Next(canceled)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, uint64(i+2), next(t, w).Revision)
	}
}

// However short the contexts of Next are, together they see everything once.
func TestManyShortNextsLoseNothing(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 64})
	w := r.watch()
	const n = 3000
	r.fill(n, "v")
	last, patience := uint64(0), time.Microsecond
	for deadline := time.Now().Add(soon); last < n; patience = min(2*patience, 10*time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "after revision %d", last)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		e, err := w.Next(ctx)
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			continue
		}
		require.Equal(t, last+1, e.Revision)
		last, patience = e.Revision, time.Microsecond
	}
}

// ending is a context that ends, with an error of the test's choice, when the test says so.
type ending struct {
	context.Context
	done chan struct{}
	err  error
}

func (c *ending) Done() <-chan struct{} { return c.done }

func (c *ending) Err() error {
	if isClosed(c.done) {
		return c.err
	}
	return nil
}

// A context may end because another watcher was stopped, as the one of a group of goroutines does with the first
// error. The others were not stopped.
func TestAContextThatEndsWithAnothersStopIsNoStop(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	for because, cause := range map[string]error{
		"a watcher was stopped": fmt.Errorf("another: %w", jskv.ErrWatcherStopped),
		"a cache was closed": func() error {
			c := newCache(t, r.Bucket)
			c.Close()
			return c.Wait(testContext(t), 1000)
		}(),
	} {
		require.ErrorIs(t, cause, jskv.ErrWatcherStopped)
		ctx, cancel := context.WithCancelCause(context.Background())
		w, err := r.Watch(ctx, jskv.AllKeys)
		require.NoError(t, err)
		c, err := r.Cache(ctx)
		require.NoError(t, err)
		ended := time.Now()
		cancel(cause)
		_, err = w.Next(testContext(t))
		requireIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, jskv.ErrWatcherStopped, because)
		eventually(t, func() bool { return c.Err() != nil }, "the cache ends")
		requireIs(t, c.Err(), context.Canceled)
		w.Stop()
		c.Close()
		requireIs(t, c.Err(), context.Canceled)
		r.requireNothingLeftSince(ended)
	}
}

func TestUpdatesEndsWithTheErrorOfTheWatchersContext(t *testing.T) {
	t.Parallel()
	for _, want := range []error{context.Canceled, context.DeadlineExceeded} {
		t.Run(want.Error(), func(t *testing.T) {
			t.Parallel()
			r := newReading(t, jetstream.KeyValueConfig{})
			r.put("a", "1")
			ctx := &ending{context.Background(), make(chan struct{}), want}
			w, err := r.Watch(ctx, jskv.AllKeys)
			require.NoError(t, err)
			r.put("b", "2")
			n, last := 0, error(nil)
			var ended time.Time
			for e, err := range w.Updates() {
				require.NoError(t, last, "a pair after the error")
				if last = err; err != nil {
					require.Zero(t, e)
					continue
				}
				n++
				ended = time.Now()
				close(ctx.done)
			}
			require.ErrorIs(t, last, want)
			require.ErrorContains(t, last, "watch b")
			require.Equal(t, 1, n)

			_, err = w.Next(testContext(t))
			require.ErrorIs(t, err, want)
			n, err = lastPair(t, w.Updates())
			require.ErrorIs(t, err, want, "again when it is ranged over again")
			require.Zero(t, n)
			require.Eventually(t, func() bool { return r.nc.NumSubscriptions() == r.subs }, soon, tick)
			w.Stop()
			r.requireNothingLeftSince(ended)
		})
	}
}

func TestTheEndOfTheWatchersContextWithinTheSnapshotIsItsError(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(10, "v")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, err := r.Watch(ctx, jskv.AllKeys)
	require.NoError(t, err)
	n := 0
	var last error
	var ended time.Time
	for _, err := range w.Snapshot() {
		if last = err; err == nil {
			n++
			ended = time.Now()
			cancel()
		}
	}
	require.Equal(t, 1, n)
	require.ErrorIs(t, last, context.Canceled)
	require.False(t, w.Synced())
	w.Stop()
	r.requireNothingLeftSince(ended)
}

func TestAWatchThatCannotBegin(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	before := r.nc.Stats().OutMsgs
	_, err := r.Watch(ctx, jskv.AllKeys)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "watch b")
	require.Equal(t, before, r.nc.Stats().OutMsgs, "nothing is sent")
	r.requireNothingLeft()

	require.NoError(t, jskv.DeleteBucket(testContext(t), r.admin, "b"))
	_, err = r.Watch(testContext(t), jskv.AllKeys)
	require.ErrorIs(t, err, jskv.ErrBucketNotFound)
	require.Equal(t, r.subs, r.nc.NumSubscriptions())

	r.nc.Close()
	_, err = r.Watch(testContext(t), jskv.AllKeys)
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
}
