package jskv_test

import (
	"context"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// What the stock client (jetstream.KeyValue of nats.go v1.55.0) gets wrong in lists. Where it is
// cheap, a test also asserts that the stock client still does: a test that fails there tells that
// nats.go was repaired, and the fault can be struck from the README.

// stock is the same bucket, as the stock client sees it through js.
func (r *reading) stock(js jetstream.JetStream) jetstream.KeyValue {
	r.t.Helper()
	kv, err := js.KeyValue(testContext(r.t), r.Name())
	require.NoError(r.t, err)
	return kv
}

// requireStockShows repeats what the stock client does until it shows its fault.
func requireStockShows(t *testing.T, tries int, shows func() bool) {
	t.Helper()
	for range tries {
		if shows() {
			return
		}
	}
	require.Failf(t, "the stock client has been repaired", "not seen in %d tries", tries)
}

// The stock Keys(ctx) whose deadline fires midway returned the keys that it had so far, and no
// error: 76 of 100 runs on 100,000 keys.
func TestFault1KeysWhoseDeadlineFiresMidwayIsNeverShort(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		const size = 8000
		r.fill(size, "v")
		// Else a machine with one processor hands out all of it before it looks at the time.
		keys := func(ctx context.Context) iter.Seq2[string, error] {
			n := 0
			return func(yield func(string, error) bool) {
				for key, err := range r.Keys(ctx) {
					if n++; n%500 == 0 {
						wait(ctx, time.Millisecond)
					}
					if !yield(key, err) {
						return
					}
				}
			}
		}
		start := time.Now()
		require.Len(t, collect(t, keys(testContext(t))), size)
		whole := time.Since(start)
		cut := 0
		for try := 0; try < 20 || cut < 5 && try < 400; try++ {
			ctx, cancel := context.WithTimeout(context.Background(), rand.N(2*whole))
			begun := time.Now()
			n, err := lastPair(t, keys(ctx))
			cancel()
			if err == nil {
				require.Equal(t, size, n)
				whole = time.Since(begun) // how fast the machine is changes
				continue
			}
			require.ErrorIs(t, err, context.DeadlineExceeded)
			if n > 0 {
				cut++
			} else {
				whole += whole / 8
			}
		}
		require.NotZero(t, cut, "no deadline fired midway")
		// A deadline that fires while the consumer is made leaves no more for long: well below the
		// 10 s after which the server drops one that nobody uses.
		require.Eventually(t, func() bool { return jskvtest.ConsumerCount(t, r.admin, "b") == 0 }, 8*time.Second, tick)
		r.requireNothingLeft()
	})

	t.Run("the stock client", func(t *testing.T) {
		t.Parallel()
		r := newReading(t, jetstream.KeyValueConfig{})
		const size = 10000
		r.fill(size, "v")
		kv := r.stock(r.js)
		whole := 10 * time.Millisecond // what a listing takes, as far as is known
		requireStockShows(t, 300, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), rand.N(2*whole))
			defer cancel()
			begun := time.Now()
			keys, err := kv.Keys(ctx)
			switch {
			case err != nil: // it had not begun
				whole += whole / 8
			case len(keys) == size:
				whole = time.Since(begun)
			}
			return err == nil && len(keys) < size
		})
	})
}

// When the connection was closed midway, the stock Keys returned part of the keys (8,049 of
// 50,000) and no error, and ListKeys has no error to ask for.
func TestFault2AListingWhoseConnectionIsClosedMidwayIsNeverShort(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.fillLong()
		open := func() (*nats.Conn, *jskv.Bucket[string]) {
			nc := r.server.Conn()
			js, err := jetstream.New(nc)
			require.NoError(t, err)
			b, err := jskv.OpenBucket(testContext(t), js, "b", jskv.String())
			require.NoError(t, err)
			return nc, b
		}
		for _, at := range []int{1, 100, 5000, long - 1} {
			nc, b := open()
			n, err := closeAt(t, nc, at, b.Keys(testContext(t)))
			if err == nil { // its keys may all have come with the first request
				require.Equal(t, long, n)
			} else {
				require.ErrorIs(t, err, nats.ErrConnectionClosed)
			}

			nc, b = open()
			n, err = closeAt(t, nc, at, b.Entries(testContext(t)))
			switch {
			case at <= 100:
				require.ErrorIs(t, err, nats.ErrConnectionClosed, "16 MB do not come with the first request")
			case err == nil:
				require.Equal(t, long, n)
			default:
				require.ErrorIs(t, err, nats.ErrConnectionClosed)
			}
		}

		nc := r.server.Conn()
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		lister, err := r.stock(js).ListKeys(testContext(t))
		require.NoError(t, err)
		n := 0
		for range lister.Keys() {
			if n++; n == 100 {
				nc.Close()
			}
		}
		require.Less(t, n, long, "the stock client has been repaired")
	})
}

// closeAt closes the connection at the nth pair of a sequence, and returns how many there were
// without an error, and the error of the last one.
func closeAt[V any](t *testing.T, nc *nats.Conn, at int, seq iter.Seq2[V, error]) (n int, last error) {
	t.Helper()
	return lastPair(t, func(yield func(V, error) bool) {
		for v, err := range seq {
			if n++; n == at {
				nc.Close()
			}
			if !yield(v, err) {
				return
			}
		}
	})
}

// The stock WatchFiltered wrote the bucket's prefix into the caller's slice of filters.
func TestFault4TheCallersFiltersAreNotWrittenTo(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.putFilterKeys()
	ctx := testContext(t)
	for _, test := range filterCases {
		filters := slices.Clone(test.filters)
		collect(t, r.Keys(ctx, filters...))
		collect(t, r.Entries(ctx, filters...))
		w := watch(t, r.Bucket, "c", jskv.AndFilter(filters...))
		collect(t, w.Snapshot())
		w.Stop()
		r.messages(jskv.RawFilter(filters...)).Stop()
		require.Equal(t, test.filters, filters)
	}

	filters := []string{"a"}
	w, err := r.stock(r.js).WatchFiltered(ctx, filters)
	require.NoError(t, err)
	require.NoError(t, w.Stop())
	require.Equal(t, []string{"$KV.b.a"}, filters, "the stock client has been repaired")
}

// To the stock client an empty bucket was an error, ErrNoKeysFound.
func TestFault5AnEmptyBucketIsNoError(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	ctx := testContext(t)
	n, err := lastPair(t, r.Keys(ctx))
	require.NoError(t, err)
	require.Zero(t, n)
	r.put("a", "1")
	r.del("a")
	n, err = lastPair(t, r.Keys(ctx))
	require.NoError(t, err)
	require.Zero(t, n)

	_, err = r.stock(r.js).Keys(ctx)
	require.ErrorIs(t, err, jetstream.ErrNoKeysFound, "the stock client has been repaired")
}

// overwrite writes to the keys in random order, with some writers, until the test has called
// what it returns.
func (r *reading) overwrite(writers int, keys []string) (stop func()) {
	r.t.Helper()
	conns := make([]*nats.Conn, writers)
	for i := range conns {
		conns[i] = r.server.Conn()
	}
	return r.overwriteThrough(math.MaxInt, keys, conns...)
}

// overwriteThrough is overwrite with a writer on each of the connections, which writes at most so often.
func (r *reading) overwriteThrough(most int, keys []string, conns ...*nats.Conn) (stop func()) {
	r.t.Helper()
	var (
		wg   sync.WaitGroup
		done atomic.Bool
	)
	for _, nc := range conns {
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(32))
		require.NoError(r.t, err)
		wg.Go(func() {
			acks := make([]jetstream.PubAckFuture, 16)
			for i, n := 0, 0; n < most && !done.Load(); i, n = (i+1)%len(acks), n+1 {
				if acks[i] != nil {
					<-acks[i].Ok()
				}
				acks[i], err = js.PublishAsync(r.Stream().Subject(keys[rand.IntN(len(keys))]), []byte("again"))
				if err != nil {
					r.t.Errorf("overwrite: %v", err)
					return
				}
			}
			<-js.PublishAsyncComplete()
		})
	}
	stop = sync.OnceFunc(func() { done.Store(true); wg.Wait() })
	r.t.Cleanup(stop)
	return stop
}

// While keys were merely overwritten, with no deletes and on one server, the stock Keys missed live
// keys in two thirds of its listings with four writers: up to 100 of 5,000.
func TestFault22NoLiveKeyIsMissingWhileOthersAreOverwritten(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(5000, "v")
	stop := r.overwrite(4, keys)
	for range 20 {
		requireSameKeys(t, keys, sorted(t, r.Keys(testContext(t))))
	}
	r.requireNothingLeft()
	kv := r.stock(r.admin)
	requireStockShows(t, 300, func() bool {
		listed, err := kv.Keys(testContext(t))
		require.NoError(t, err)
		slices.Sort(listed)
		return len(slices.Compact(listed)) < len(keys)
	})
	stop()
}

// With a history of more than one, a short cut of the connection ended the stock Keys early, with
// no error (7 to 10 of 12), because the consumer made anew counts anew; a watch then delivered
// superseded revisions, and its marker came early.
func TestFault23ACutConnectionNeitherShortensAListingNorRepeatsRevisions(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		server := jskvtest.NewServer(t)
		proxy := jskvtest.NewProxy(t, server.URL())
		nc := proxy.Conn(nats.ReconnectWait(time.Millisecond)) // while the server still delivers
		r := readingOn(t, server, nc, jetstream.KeyValueConfig{History: history, Storage: jetstream.MemoryStorage})
		keys := r.fill(6000, "superseded")
		r.againTwice(keys)
		for _, at := range []int{0, 3000, 5500, 5999} {
			// Behind the message's subject in the protocol comes a space.
			cut := proxy.CutOn(jskvtest.ToClient, r.Stream().Subject(keys[at])+" ")
			requireSameKeys(t, keys, sorted(t, r.Keys(testContext(t))))
			<-cut

			cut = proxy.CutOn(jskvtest.ToClient, r.Stream().Subject(keys[at])+" ")
			w := r.watch()
			snapshot := collect(t, w.Snapshot())
			<-cut
			require.Equal(t, len(keys), len(snapshot), "every key")
			for i, e := range snapshot {
				if e.Revision != uint64(len(keys)+2*(i+1)) || e.Key != keys[i] || e.Value != "again" {
					require.Failf(t, "not the newest revisions in order", "at %d: %+v", i, e)
				}
			}
			require.True(t, w.Synced())
			w.Stop()
		}
		require.Eventually(t, func() bool { return r.nc.NumSubscriptions() == r.subs }, soon, tick)
	})

	t.Run("the stock client", func(t *testing.T) {
		t.Parallel()
		server := jskvtest.NewServer(t)
		proxy := jskvtest.NewProxy(t, server.URL())
		nc := proxy.Conn(nats.ReconnectWait(time.Millisecond))
		r := readingOn(t, server, nc, jetstream.KeyValueConfig{History: 5, Storage: jetstream.MemoryStorage})
		keys := r.fill(6000, "superseded")
		r.againTwice(keys)
		kv := r.stock(r.js)
		requireStockShows(t, 40, func() bool {
			proxy.CutOn(jskvtest.ToClient, r.Stream().Subject(keys[3000])+" ")
			defer proxy.Heal() // for the listing that did not come so far
			listed, err := kv.Keys(testContext(t))
			return err == nil && len(listed) < len(keys)
		})
	})
}

// againTwice stores two new revisions of each of keys, one after the other: the first is among the
// newest ones of the others, and superseded.
func (r *reading) againTwice(keys []string) {
	r.t.Helper()
	var twice []string
	for _, key := range keys {
		twice = append(twice, key, key)
	}
	r.again(twice...)
}

// The stock client let a filter with a wildcard inside a token pass. The server takes such a
// wildcard for a character, so it matched nothing, or a watch on it was silent.
func TestFault27AWildcardInsideATokenIsRefused(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	ctx := testContext(t)
	for i := range 3 {
		r.put(fmt.Sprintf("key.0%d", i), "v")
	}
	for _, filter := range []string{"key.0*", "k*.01", "key.0>"} {
		n, err := lastPair(t, r.Keys(ctx, filter))
		require.ErrorIs(t, err, jskv.ErrInvalidFilter)
		require.ErrorContains(t, err, "part of a token")
		require.Zero(t, n)
		_, err = r.Watch(ctx, filter)
		require.ErrorIs(t, err, jskv.ErrInvalidFilter)
	}

	listing, cancel := context.WithCancel(ctx)
	defer cancel()
	lister, err := r.stock(r.js).ListKeysFiltered(listing, "key.0*")
	require.NoError(t, err, "the stock client has been repaired")
	time.AfterFunc(200*time.Millisecond, cancel)
	n := 0
	for range lister.Keys() {
		n++
	}
	require.Zero(t, n, "the stock client has been repaired")
}
