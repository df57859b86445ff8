package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// What the tests of lists, watchers and the raw stream share.

const (
	// soon bounds, and tick paces, the polling for what must come.
	soon = 20 * time.Second
	tick = 2 * time.Millisecond
)

// reading is a bucket of strings, and what its readers may leave behind.
type reading struct {
	*jskv.Bucket[string]
	t      testing.TB
	server *jskvtest.Server
	nc     *nats.Conn          // the bucket's own connection
	js     jetstream.JetStream // on nc
	admin  jetstream.JetStream // on a connection of its own
	subs   int                 // of nc before anything was read
}

// newReading makes a bucket in memory, named "b", on a server of its own.
func newReading(t testing.TB, cfg jetstream.KeyValueConfig, opts ...jskvtest.Option) *reading {
	t.Helper()
	server := jskvtest.NewServer(t, opts...)
	cfg.Storage = jetstream.MemoryStorage
	return readingOn(t, server, server.Conn(), cfg)
}

// readingOn makes the bucket through nc, which may go through a proxy.
func readingOn(t testing.TB, server *jskvtest.Server, nc *nats.Conn, cfg jetstream.KeyValueConfig) *reading {
	t.Helper()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	r := &reading{t: t, server: server, nc: nc, js: js, admin: server.JetStream()}
	r.Bucket = createBucket(t, js, cfg)
	r.subs = nc.NumSubscriptions()
	return r
}

// withoutDirect makes every listing use a consumer, however small the bucket: it opens the bucket
// anew after its stream has been told to allow no direct gets.
func (r *reading) withoutDirect() *reading {
	r.t.Helper()
	ctx := testContext(r.t)
	info, err := r.Stream().Info(ctx)
	require.NoError(r.t, err)
	info.Config.AllowDirect = false
	_, err = r.admin.UpdateStream(ctx, info.Config)
	require.NoError(r.t, err)
	r.Bucket, err = jskv.OpenBucket(ctx, r.js, r.Name(), jskv.String())
	require.NoError(r.t, err)
	r.subs = r.nc.NumSubscriptions()
	return r
}

// replace deletes the bucket and makes another of the same name, as somebody else may.
func (r *reading) replace() *jskv.Bucket[string] {
	r.t.Helper()
	ctx := testContext(r.t)
	info, err := r.admin.Stream(ctx, r.Stream().Name())
	require.NoError(r.t, err)
	require.NoError(r.t, jskv.DeleteBucket(ctx, r.admin, r.Name()))
	old := info.CachedInfo().Config
	cfg := jetstream.KeyValueConfig{Bucket: r.Name(), History: uint8(old.MaxMsgsPerSubject), LimitMarkerTTL: old.SubjectDeleteMarkerTTL}
	var made *jskv.Bucket[string]
	require.Eventually(r.t, func() bool { // the server may still be removing the old one's files (10049)
		made, err = jskv.CreateBucket(ctx, r.admin, cfg, jskv.String())
		return err == nil
	}, soon, tick)
	return made
}

// bothWays runs test on a bucket that is listed by one direct request, and on one that is listed
// by a consumer.
func bothWays(t *testing.T, cfg jetstream.KeyValueConfig, test func(t *testing.T, r *reading)) {
	t.Helper()
	t.Run("by one request", func(t *testing.T) { t.Parallel(); test(t, newReading(t, cfg)) })
	t.Run("by a consumer", func(t *testing.T) { t.Parallel(); test(t, newReading(t, cfg).withoutDirect()) })
}

// bothHistories runs test for the two kinds of streams: the server walks along a stream with one
// revision a key, and along a list of keys where there are more.
func bothHistories(t *testing.T, test func(t *testing.T, history uint8)) {
	t.Helper()
	for _, history := range []uint8{1, 5} {
		t.Run(fmt.Sprintf("history %d", history), func(t *testing.T) { t.Parallel(); test(t, history) })
	}
}

// requireNothingLeft holds at once after a reader was stopped: nothing is waited for.
func (r *reading) requireNothingLeft() {
	r.t.Helper()
	require.Equal(r.t, r.subs, r.nc.NumSubscriptions(), "subscriptions")
	require.Zero(r.t, jskvtest.ConsumerCount(r.t, r.admin, r.Name()), "consumers")
}

// requireNothingLeftSince is requireNothingLeft after readers whose contexts ended since then. With no more time one
// waits only half a second for the server to end its consumer; if that was all it had, the consumer goes soon.
func (r *reading) requireNothingLeftSince(ended time.Time) {
	r.t.Helper()
	const grace = 500 * time.Millisecond
	if time.Since(ended) >= grace {
		require.Eventually(r.t, func() bool { return jskvtest.ConsumerCount(r.t, r.admin, r.Name()) == 0 }, 5*time.Second, tick, "consumers")
	}
	r.requireNothingLeft()
}

// fill stores keys k000000, k000001, ... each with that value.
func (r *reading) fill(n int, value string) []string {
	r.t.Helper()
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("k%06d", i)
	}
	r.store(value, keys...)
	return keys
}

// long is how many keys fillLong stores.
const long = 8000

// fillLong stores so much that a snapshot or a listing takes several requests (of 8 MB): Watch has
// taken a part of it when it returns.
func (r *reading) fillLong() []string {
	r.t.Helper()
	return r.fill(long, strings.Repeat("v", 2000))
}

// again stores a new revision of each of keys, in their order.
func (r *reading) again(keys ...string) {
	r.t.Helper()
	r.store("again", keys...)
}

// store writes pipelined, through the connection that has nothing to do with the readers.
func (r *reading) store(value string, keys ...string) {
	r.t.Helper()
	const window = 256
	acks := make([]jetstream.PubAckFuture, len(keys))
	for i := range len(keys) + window {
		if i < len(keys) {
			var err error
			acks[i], err = r.admin.PublishAsync(r.Stream().Subject(keys[i]), []byte(value))
			require.NoError(r.t, err)
		}
		if i < window {
			continue
		}
		select {
		case <-acks[i-window].Ok():
		case err := <-acks[i-window].Err():
			require.NoError(r.t, err)
		}
	}
}

// restart restarts the server and waits until both connections are back: what is sent on one
// that has not noticed is lost.
func (r *reading) restart() {
	r.t.Helper()
	r.restartUnder(r.nc, r.admin.Conn())
}

func (r *reading) restartUnder(conns ...*nats.Conn) {
	r.t.Helper()
	before := make([]uint64, len(conns))
	for i, nc := range conns {
		before[i] = nc.Stats().Reconnects
	}
	r.server.Restart()
	for i, nc := range conns {
		require.Eventually(r.t, func() bool { return nc.Stats().Reconnects > before[i] && nc.IsConnected() }, soon, tick)
	}
}

// putBeside stores a value past the readers' connection, which may be cut just now.
func (r *reading) putBeside(key, value string) uint64 {
	r.t.Helper()
	ack, err := r.admin.Publish(testContext(r.t), r.Stream().Subject(key), []byte(value))
	require.NoError(r.t, err)
	return ack.Sequence
}

func (r *reading) put(key, value string) uint64 {
	r.t.Helper()
	return mustPut(r.t, r.Bucket, key, value)
}

func (r *reading) del(key string) uint64 {
	r.t.Helper()
	revision, err := r.Delete(testContext(r.t), key)
	require.NoError(r.t, err)
	return revision
}

func (r *reading) purge(key string) uint64 {
	r.t.Helper()
	revision, err := r.Purge(testContext(r.t), key)
	require.NoError(r.t, err)
	return revision
}

// watch watches every key until the test ends.
func (r *reading) watch(opts ...jskv.WatchOption) *jskv.Watcher[string] {
	r.t.Helper()
	return watch(r.t, r.Bucket, jskv.AllKeys, opts...)
}

// watch watches until the test ends, or 30 s: a loop over its updates does not hang.
func watch[T any](t testing.TB, b *jskv.Bucket[T], filter string, opts ...jskv.WatchOption) *jskv.Watcher[T] {
	t.Helper()
	w, err := b.Watch(testContext(t), filter, opts...)
	require.NoError(t, err)
	t.Cleanup(w.Stop)
	return w
}

// next is the watcher's next entry, which must come.
func next[T any](t testing.TB, w *jskv.Watcher[T]) jskv.Entry[T] {
	t.Helper()
	e, err := w.Next(testContext(t))
	require.NoError(t, err)
	return e
}

// nextAll is the watcher's next n entries.
func nextAll[T any](t testing.TB, w *jskv.Watcher[T], n int) []jskv.Entry[T] {
	t.Helper()
	entries := make([]jskv.Entry[T], n)
	for i := range entries {
		entries[i] = next(t, w)
	}
	return entries
}

// collect gathers a sequence that must end without an error.
func collect[V any](t testing.TB, seq iter.Seq2[V, error]) []V {
	t.Helper()
	all, err := jskv.Collect(seq)
	require.NoError(t, err)
	return all
}

// sorted is a listing of keys that must be whole, in order.
func sorted(t testing.TB, seq iter.Seq2[string, error]) []string {
	t.Helper()
	return slices.Sorted(slices.Values(collect(t, seq)))
}

// brief shows entries as "key@revision value", or the operation in the value's place.
func brief(entries ...jskv.Entry[string]) []string {
	all := make([]string, len(entries))
	for i, e := range entries {
		what := e.Value
		if e.Operation != jskv.OpPut {
			what = e.Operation.String()
		}
		all[i] = fmt.Sprintf("%s@%d %s", e.Key, e.Revision, what)
	}
	return all
}

// lastPair ranges over a sequence to its end and returns how many pairs had no error, and the
// error of the last one. An error before the last pair fails the test.
func lastPair[V any](t testing.TB, seq iter.Seq2[V, error]) (n int, last error) {
	t.Helper()
	for _, err := range seq {
		require.NoError(t, last, "a pair after the error")
		if last = err; err == nil {
			n++
		}
	}
	return n, last
}

// soonContext ends so soon that a Next which has nothing to return ends by it.
func soonContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// requireNothingNext checks that there is nothing for a watcher to hand out just now.
func requireNothingNext[T any](t testing.TB, w *jskv.Watcher[T]) {
	t.Helper()
	e, err := w.Next(soonContext(t))
	if !errors.Is(err, context.DeadlineExceeded) {
		require.FailNow(t, "there is something", "%+v %v", e, err)
	}
}
