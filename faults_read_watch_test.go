package jskv_test

import (
	"context"
	"fmt"
	"regexp"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/internal/leak"
	"github.com/seed646b090f/jskv/jskvtest"
)

// What the stock client gets wrong in watches; see faults_read_test.go.

// A watcher or lister of the stock client that was stopped with entries unread left a goroutine
// behind, blocked for ever on its channel: 10 of 10 watchers.
func TestFault3AReaderStoppedHalfReadLeavesNoGoroutine(t *testing.T) {
	// Not parallel: it counts goroutines.
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(7000, "v")
	r.requireNothingLeft() // with it the connections have made the subscriptions that they keep
	before := goleak.IgnoreCurrent()
	for i := range 30 {
		w := watch(t, r.Bucket, jskv.AllKeys)
		for range i {
			next(t, w)
		}
		r.put("update", "unread")
		w.Stop()
		for range r.Keys(testContext(t)) {
			break
		}
		for range r.Entries(testContext(t)) {
			break
		}
		m := r.messages()
		nextRaw(t, m, i)
		m.Stop()
		r.requireNothingLeft()
	}
	require.NoError(t, leak.Find(before))

	blocked := func() int { return len(stockBlocked.FindAllString(goroutines(t), -1)) }
	others := blocked() // of earlier tests
	w, err := r.stock(r.js).WatchAll(testContext(t))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(w.Updates()) == cap(w.Updates()) }, soon, tick)
	require.Eventually(t, func() bool { return blocked() > others }, soon, tick, "the next one is to be delivered")
	require.NoError(t, w.Stop())
	left := blocked()
	for range cap(w.Updates()) + 1 { // or our own goleak would report it
		<-w.Updates()
	}
	require.Greater(t, left, others, "the stock client has been repaired")
}

// stockBlocked is a goroutine of a stock watcher that nobody reads.
var stockBlocked = regexp.MustCompile(`\[chan send[^\n]*\n[^\n]*WatchFiltered\.func1`)

func goroutines(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&text, 2))
	return text.String()
}

// onReconnect returns a connection to the server and a channel that gets the time of each of its
// reconnects.
func onReconnect(server *jskvtest.Server) (*nats.Conn, <-chan time.Time) {
	at := make(chan time.Time, 100)
	nc := server.Conn(nats.ReconnectHandler(func(*nats.Conn) { at <- time.Now() }))
	return nc, at
}

// The stock watcher was silent for 10 to 20 s after its server was restarted (17.6 s, 19.5 s).
func TestFault6AWatcherGoesOnSoonAfterItsServerRestarted(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	nc, reconnected := onReconnect(server)
	r := readingOn(t, server, nc, jetstream.KeyValueConfig{})
	r.put("a", "1")
	w := r.watch()
	stock, err := r.stock(r.js).WatchAll(testContext(t))
	require.NoError(t, err)
	defer func() { _ = stock.Stop() }()
	next(t, w)
	require.Equal(t, uint64(1), (<-stock.Updates()).Revision())
	require.Nil(t, <-stock.Updates())

	r.restart()
	revision := r.put("a", "2")
	require.Equal(t, revision, next(t, w).Revision)
	silent := time.Since(<-reconnected)
	t.Logf("delivered %v after the reconnect", silent)
	require.Less(t, silent, stockSilence)
	require.Empty(t, stock.Updates(), "the stock client has been repaired")
}

// When its bucket was deleted the stock watcher fell silent; when it was made again too, its
// channel closed with no error, or events were lost.
func TestFault7AWatcherOfADeletedBucketEndsWithAnError(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		for _, again := range []bool{false, true} {
			t.Run(map[bool]string{false: "deleted", true: "and made again"}[again], func(t *testing.T) {
				t.Parallel()
				r := newReading(t, jetstream.KeyValueConfig{History: history})
				r.put("a", "1")
				r.put("b", "2")
				watchers := []*jskv.Watcher[string]{
					r.watch(), r.watch(jskv.UpdatesOnly()), r.watch(jskv.FromRevision(100)), watch(t, r.Bucket, "a"),
				}
				nextAll(t, watchers[0], 2)
				next(t, watchers[3])
				raw := r.messages(jskv.RawFrom(3))
				stock, err := r.stock(r.js).WatchAll(testContext(t))
				require.NoError(t, err)
				defer func() { _ = stock.Stop() }()
				require.Eventually(t, func() bool { return len(stock.Updates()) == 3 }, soon, tick)

				want := jskv.ErrBucketNotFound
				if !again {
					require.NoError(t, jskv.DeleteBucket(testContext(t), r.admin, "b"))
				} else {
					want = jskv.ErrBucketReplaced
					made := r.replace()
					for i := range 5 { // more revisions than the old one had
						mustPut(t, made, fmt.Sprint("new", i), "v")
					}
				}
				ctx := testContext(t)
				for _, w := range watchers {
					_, err := w.Next(ctx)
					require.ErrorIs(t, err, want)
					require.ErrorContains(t, err, "watch b/")
					_, err = w.Next(ctx)
					require.ErrorIs(t, err, want, "it stays so")
					n, err := lastPair(t, w.Updates())
					require.ErrorIs(t, err, want)
					require.Zero(t, n)
					w.Stop()
				}
				_, err = raw.Next(ctx)
				require.ErrorIs(t, err, want)
				raw.Stop()
				require.Len(t, stock.Updates(), 3, "the stock client has been repaired: two entries and nil, then silence")
			})
		}
	})
}

// A stock watcher with UpdatesOnly that was reset before its first event replayed the whole
// history (200 revisions); as an ordered pull consumer with DeliverNew it lost what was written
// in the gap (5 of 10).
func TestFault8UpdatesOnlyNeitherReplaysNorLosesWhenItIsResetBeforeTheFirstEvent(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) (*reading, *jskvtest.Proxy) {
		t.Parallel()
		server := jskvtest.NewServer(t)
		proxy := jskvtest.NewProxy(t, server.URL())
		r := readingOn(t, server, proxy.Conn(), jetstream.KeyValueConfig{History: 64})
		r.fill(200, "before")
		return r, proxy
	}
	resets := []struct {
		reason string
		reset  func(r *reading, proxy *jskvtest.Proxy)
	}{
		{"its consumer is deleted", func(r *reading, _ *jskvtest.Proxy) {
			require.NotZero(r.t, jskvtest.DeleteConsumers(r.t, r.admin, "b"))
		}},
		{"its connection is cut", func(r *reading, proxy *jskvtest.Proxy) { proxy.Refuse(); proxy.Reset() }},
		{"its server is restarted", func(r *reading, _ *jskvtest.Proxy) { r.restart() }},
	}
	for _, test := range resets {
		t.Run(test.reason, func(t *testing.T) {
			r, proxy := begin(t)
			w, from := r.watch(jskv.UpdatesOnly()), r.watch(jskv.FromRevision(203))
			test.reset(r, proxy)
			r.again("gap", "gap", "gap") // while the watcher is away
			proxy.Heal()
			r.again("after")
			require.Equal(t, []string{"gap@201 again", "gap@202 again", "gap@203 again", "after@204 again"}, brief(nextAll(t, w, 4)...))
			require.Equal(t, []string{"gap@203 again", "after@204 again"}, brief(nextAll(t, from, 2)...))
			requireNothingNext(t, w)
			requireNothingNext(t, from)
		})
	}

	// With its first event, which does not arrive, goes the connection.
	lose := func(r *reading, proxy *jskvtest.Proxy) <-chan struct{} {
		lost := proxy.CutOn(jskvtest.ToClient, r.Stream().Subject("gap")+" ")
		r.again("gap")
		return lost
	}
	t.Run("its first event is lost", func(t *testing.T) {
		r, proxy := begin(t)
		w := r.watch(jskv.UpdatesOnly())
		lost := lose(r, proxy)
		require.Equal(t, []string{"gap@201 again"}, brief(next(t, w)))
		<-lost
		r.again("after")
		require.Equal(t, []string{"after@202 again"}, brief(next(t, w)))
		requireNothingNext(t, w)
	})
	t.Run("the stock client, whose first event is lost", func(t *testing.T) {
		r, proxy := begin(t)
		stock, err := r.stock(r.js).WatchAll(testContext(t), jetstream.UpdatesOnly())
		require.NoError(t, err)
		defer func() { _ = stock.Stop() }()
		<-lose(r, proxy)
		r.again("after") // by which it notices
		for i := range 200 {
			require.Equal(t, uint64(i+1), (<-stock.Updates()).Revision(), "the stock client has been repaired")
		}
	})
}

// In the stock watcher's channel a nil meant that the initial values were done, and a closed
// channel gave nil, too: an empty bucket and a lost watcher looked the same.
func TestFault18TheEndOfTheSnapshotAndTheEndOfTheWatcherAreToldApart(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	done, stopped := r.watch(), r.watch()
	stopped.Stop()
	require.True(t, done.Synced())
	_, err := lastPair(t, done.Snapshot())
	require.NoError(t, err)
	_, err = done.Next(soonContext(t))
	require.ErrorIs(t, err, context.DeadlineExceeded, "alive")
	_, err = stopped.Next(soonContext(t))
	require.ErrorIs(t, err, jskv.ErrWatcherStopped)

	r.put("a", "1")
	midway := r.watch()
	midway.Stop()
	_, err = lastPair(t, midway.Snapshot())
	require.ErrorIs(t, err, jskv.ErrWatcherStopped)

	kv := r.stock(r.js)
	w, err := kv.Watch(testContext(t), "none")
	require.NoError(t, err)
	require.Nil(t, <-w.Updates(), "the initial values are done")
	require.NoError(t, w.Stop())
	require.Nil(t, <-w.Updates(), "the stock client has been repaired") // the channel is closed
}

// When the context given to Watch ended, the stock watcher's channel closed, with no error for who
// reads it.
func TestFault19TheEndOfTheWatchersContextIsAnError(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	w, err := r.Watch(ctx, jskv.AllKeys)
	require.NoError(t, err)
	stock, err := r.stock(r.js).WatchAll(ctx)
	require.NoError(t, err)
	require.Nil(t, <-stock.Updates())
	cancel()
	n, err := lastPair(t, w.Updates())
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, n)
	w.Stop()

	e, open := <-stock.Updates()
	require.Nil(t, e)
	require.False(t, open, "the stock client has been repaired")
}

// The stock watcher counts what was pending in the beginning: when some of that was purged away
// while it was read, the marker of the end never came.
func TestFault21TheSnapshotEndsThoughPendingKeysArePurgedAway(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fillLong() // also more than flow control lets the stock client have
	w := r.watch()
	stock, err := r.stock(r.js).WatchAll(testContext(t))
	require.NoError(t, err)
	defer func() { _ = stock.Stop() }()
	require.Eventually(t, func() bool { return len(stock.Updates()) == cap(stock.Updates()) }, soon, tick)

	require.NoError(t, r.Stream().JetStream().Purge(testContext(t)))
	n, err := lastPair(t, w.Snapshot())
	require.NoError(t, err)
	require.Less(t, n, len(keys))
	require.True(t, w.Synced())
	revision := r.put("after", "1")
	require.Equal(t, revision, next(t, w).Revision)

	for {
		select {
		case e := <-stock.Updates():
			require.NotNil(t, e, "the stock client has been repaired")
			if e.Revision() == revision {
				return // an update, and the marker did not come
			}
		case <-time.After(soon):
			require.Fail(t, "the stock watcher delivers nothing at all")
		}
	}
}
