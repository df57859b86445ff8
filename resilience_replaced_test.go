package jskv_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// A bucket that is replaced by another of the same name just when a reader begins anew: what goes on in
// the new one behind the old one's revisions leaves out what comes first there, without a word.

// The stream was still there when the listing looked, and another when its next consumer was made.
func TestAListingThatBeginsAnewWhileItsBucketIsReplacedIsAnError(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.fillLong()
		var begins atomic.Bool
		r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
			if strings.Contains(msg.Subject, "CONSUMER.CREATE.") && begins.CompareAndSwap(true, false) {
				r.replace()
				r.putBeside("key", "another's")
			}
			pass(msg)
		})
		n := 0
		var last error
		for _, err := range r.Entries(testContext(t)) {
			if last = err; err != nil {
				break
			}
			if n++; n == 1 {
				begins.Store(true)
				jskvtest.DeleteConsumers(t, r.admin, "b")
			}
		}
		require.False(t, begins.Load())
		require.ErrorIs(t, last, jskv.ErrBucketReplaced, "it has %d of %d", n, long)
	})
}

// So it was when a watcher began anew, which took the new stream's revisions for those that it had.
func TestAWatcherThatBeginsAnewWhileItsBucketIsReplacedIsTold(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(10, "v")
	var begins atomic.Bool
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		if strings.Contains(msg.Subject, "CONSUMER.CREATE.") && begins.CompareAndSwap(true, false) {
			r.replace()
			r.fill(20, "another's")
		}
		pass(msg)
	})
	w := r.watch()
	nextAll(t, w, len(keys))
	begins.Store(true)
	jskvtest.DeleteConsumers(t, r.admin, "b")
	_, err := w.Next(testContext(t))
	require.ErrorIs(t, err, jskv.ErrBucketReplaced)
	require.False(t, begins.Load())
}

// The bucket was replaced while the shared reader looked for it, and then a watcher came for which it has
// to read more: it began anew, in another bucket, behind the last revision of the old one.
func TestASharedReaderThatWidensDoesNotGoOnInAnotherBucket(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(100, "v")
	var holds, joined atomic.Bool
	var held atomic.Int64
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		if strings.HasSuffix(msg.Subject, ".c.d") { // it has joined before it asks for its key
			joined.Store(true)
		}
		if strings.Contains(msg.Subject, "STREAM.INFO.") && holds.Load() {
			held.Add(1) // and asked again soon
			return
		}
		pass(msg)
	})
	for range enough {
		watch(t, r.Bucket, "a.b")
	}
	old := watch(t, r.Bucket, "a.b")
	requireNothingNext(t, old)
	holds.Store(true)
	jskvtest.DeleteConsumers(t, r.admin, "b")
	eventually(t, func() bool { return held.Load() > 0 }, "the shared reader looks for its bucket")
	r.replace()
	var late sync.WaitGroup
	defer late.Wait()
	late.Go(func() {
		if w, err := r.Watch(testContext(t), "c.d"); err == nil { // it may be told of the old bucket
			w.Stop()
		}
	})
	eventually(t, joined.Load, "it has joined")
	holds.Store(false)
	r.putBeside("a.b", "another's")
	_, err := old.Next(testContext(t))
	require.ErrorIs(t, err, jskv.ErrBucketReplaced)
}

// It had left so much unread that it gets a reader of its own, and meanwhile the bucket was replaced.
func TestASharedWatcherThatIsNotReadDoesNotGoOnInAnotherBucket(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.crowd()
	slow, fast := watch(t, r.Bucket, "busy"), watch(t, r.Bucket, "busy")
	for range 300 {
		r.again("busy")
		next(t, fast)
	}
	r.replace()
	_, err := jskv.Collect(fast.Updates())
	if !errors.Is(err, jskv.ErrBucketNotFound) { // it may come in between
		require.ErrorIs(t, err, jskv.ErrBucketReplaced)
	}
	r.putBeside("busy", "another's")
	entries, err := jskv.Collect(slow.Updates())
	require.ErrorIs(t, err, jskv.ErrBucketReplaced)
	for _, e := range entries {
		require.Equal(t, "again", e.Value)
	}
}

// A program that writes slowly takes what its writes were acknowledged with only when it goes on. Then that was of
// the bucket that is gone, and the handle waited for the one made since to come as far.
func TestWhatWasStoredInAReplacedBucketIsNotWaitedForInTheNewOne(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	r := newReading(t, jetstream.KeyValueConfig{})
	n, err := r.PutMany(ctx, func(yield func(string, string) bool) {
		for i := range 100 {
			yield(fmt.Sprint("old.", i), "v")
		}
		eventually(t, func() bool {
			info, err := r.admin.Stream(ctx, "KV_b")
			return err == nil && info.CachedInfo().State.LastSeq == 100
		}, "all are stored")
		r.replace()
		_, err := r.Stream().Info(ctx)
		require.NoError(t, err)
		yield("new", "v")
	})
	require.NoError(t, err)
	require.Equal(t, 101, n)
	got, err := r.GetMany(ctx, "old.1", "new")
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.EqualValues(t, 1, got["new"].Revision)
	keys, err := jskv.Collect(r.Keys(ctx))
	require.NoError(t, err)
	require.Equal(t, []string{"new"}, keys)
}

// Another call of the handle had noticed it, and then the transaction waited for the new bucket to come as far as
// the old one had.
func TestATransactionStartsOverInABucketThatIsMadeAgainMeanwhile(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(10, "old")
	ctx := testContext(t)
	runs := 0
	_, err := r.Transact(ctx, func(tx *jskv.Tx[string]) error {
		if _, err := tx.GetMany("k000001", "k000002"); err != nil {
			return err
		}
		if runs++; runs == 1 {
			mustPut(t, r.replace(), "k000003", "new")
			_, err := r.Stream().Info(ctx)
			require.NoError(t, err)
		}
		value, err := tx.Get("k000003")
		require.NotEqual(t, "old", value)
		return err
	})
	require.NoError(t, err)
	require.Equal(t, 2, runs)
}
