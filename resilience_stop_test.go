package jskv_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
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

// A watcher of the stock client that was stopped half-read left a goroutine behind.
func TestAThousandWatchersStoppedHalfReadLeaveNothing(t *testing.T) {
	// Not parallel: it counts goroutines.
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(100, "v")
	r.requireNothingLeft()
	before := goleak.IgnoreCurrent()
	const workers, each = 20, 50
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := range each {
				filter := jskv.AllKeys
				if i%2 == 0 {
					filter = keys[(worker+i)%len(keys)]
				}
				w, err := r.Watch(context.Background(), filter)
				if err != nil {
					t.Errorf("watch: %v", err)
					return
				}
				for range i % 5 {
					short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
					_, _ = w.Next(short) // of one key there may be no other entry
					cancel()
				}
				w.Stop()
			}
		})
	}
	wg.Wait()
	r.requireNothingLeft()
	require.NoError(t, leak.Find(before))
}

// stopCases are the moments in which a reader is stopped.
var stopCases = []struct {
	reason    string
	reachable bool // the server can be asked to delete consumers; else it does so by itself, later
	begin     func(s *scene)
}{
	{"while it waits", true, func(*scene) {}},
	{"while entries come", true, func(s *scene) { s.again("a", "b", "c") }},
	{"while the network is away", false, func(s *scene) { s.proxy.Refuse(); s.proxy.Reset() }},
	{"while the network swallows everything", false, func(s *scene) { s.proxy.Blackhole(jskvtest.Both) }},
	{"while the server is stopped", false, func(s *scene) { s.server.Stop() }},
	{"when the bucket is gone", false, func(s *scene) { require.NoError(s.t, s.admin.DeleteKeyValue(testContext(s.t), "b")) }},
	{"when the connection is closed", false, func(s *scene) { s.nc.Close() }},
	{"when its consumer is gone", true, func(s *scene) { jskvtest.DeleteConsumers(s.t, s.admin, "b") }},
}

func TestStopReturnsSoonInEveryMoment(t *testing.T) {
	t.Parallel()
	for _, test := range stopCases {
		for _, patience := range []time.Duration{0, 100 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s, after %v", test.reason, patience), func(t *testing.T) {
				t.Parallel()
				s := newScene(t, jetstream.KeyValueConfig{})
				s.fill(10, "v")
				all := map[*recorder]func(){}
				for _, filter := range []string{jskv.AllKeys, "k000001"} {
					for range 20 { // of one key, some share
						w := watch(t, s.Bucket, filter)
						all[record(t, filter, w)] = w.Stop
					}
				}
				m := s.messages()
				all[recordRaw(t, "raw", m)] = m.Stop
				test.begin(s)
				later := time.NewTimer(patience)
				<-later.C
				start := time.Now()
				var wg sync.WaitGroup
				for r, stop := range all {
					wg.Go(func() {
						stop()
						<-r.done
						stop()
					})
				}
				wg.Wait()
				require.Less(t, time.Since(start), soon)
				if !s.nc.IsClosed() {
					require.Equal(t, s.subs, s.nc.NumSubscriptions())
				}
				if test.reachable {
					require.Zero(t, jskvtest.ConsumerCount(t, s.admin, "b"))
				}
			})
		}
	}
}

func TestStopAtRandomMomentsOfASnapshotLeavesNothing(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.fillLong()
		for range 25 {
			w := r.watch()
			var wg sync.WaitGroup
			wg.Go(func() {
				_, _ = jskv.Collect(w.Snapshot())
			})
			later := time.NewTimer(rand.N(15 * time.Millisecond))
			<-later.C
			w.Stop()
			r.requireNothingLeft()
			wg.Wait()
		}
	})
}

// A reader that does not read costs bounded memory on both sides, also when the server has dropped
// its consumer meanwhile (after 10 s), and then gets everything that the bucket still has.
func TestAReaderThatDoesNotReadForLongGetsEverythingThen(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	r := readingOn(t, server, server.Conn(), jetstream.KeyValueConfig{History: 64, Storage: jetstream.MemoryStorage})
	r.put("first", "1")
	endless := context.Background() // the server alone takes its time
	w, err := r.Watch(endless, jskv.AllKeys)
	require.NoError(t, err)
	t.Cleanup(w.Stop)
	single, err := r.Watch(endless, "k000001")
	require.NoError(t, err)
	t.Cleanup(single.Stop)
	raw, err := r.Stream().Messages(endless)
	require.NoError(t, err)
	t.Cleanup(raw.Stop)
	next(t, w)
	requireNothingNext(t, w) // it is waiting for more
	requireNothingNext(t, single)
	nextRaw(t, raw, 1)
	_, err = raw.Next(soonContext(t))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	before := r.nc.Stats()
	const n = 16000
	keys := r.fill(n, strings.Repeat("v", 2000)) // 32 MB
	require.Less(t, r.nc.Stats().InBytes-before.InBytes, uint64(17<<20), "8 MB for each of two readers")
	require.Less(t, r.nc.Stats().InMsgs-before.InMsgs, uint64(2*(512+64)), "or 512 messages")
	require.Eventually(t, func() bool { return jskvtest.ConsumerCount(t, r.admin, "b") == 0 }, 20*time.Second, 100*time.Millisecond,
		"the server does not keep them for a reader that does not read")

	last := r.put("last", "v")
	for want := uint64(2); want <= last; want++ {
		require.Equal(t, want, next(t, w).Revision)
		require.Equal(t, want, nextRaw(t, raw, 1)[0].Sequence)
	}
	require.Equal(t, keys[1], next(t, single).Key)
	w.Stop()
	raw.Stop()
	single.Stop()
	r.requireNothingLeft()
}

// A consumer that was given up while the client was not connected was left to the server, also when it
// could be reached again.
func TestStopAfterAnInterruptionLeavesNoConsumer(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	onChange, reports := interruptionReports()
	w := s.watch(onChange)
	r := record(t, "watcher", w)
	s.proxy.Refuse()
	s.proxy.Reset()
	require.Error(t, receive(t, reports))
	s.proxy.Accept()
	require.NoError(t, receive(t, reports))
	w.Stop()
	<-r.done
	s.requireNothingLeft()
}

// It returned while the reader that takes the shared one's place was being made.
func TestStopOfASharedWatcherWaitsForTheReaderThatItIsGiven(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{History: 64})
	s.crowd()
	const notGiven = -1
	onceInThree(t, 0, func() int { // out of touch, the shared reader has another consumer for a moment
		slow, fast := watch(t, s.Bucket, "busy"), watch(t, s.Bucket, "busy")
		for range 300 {
			s.again("busy")
			next(t, fast)
		}
		before := jskvtest.ConsumerCount(t, s.admin, "b")
		s.proxy.Delay(jskvtest.ToClient, 200*time.Millisecond)
		defer s.proxy.Heal()
		r := record(t, "slow", slow)
		given := false
		for late := time.Now().Add(soon); !given && time.Now().Before(late); time.Sleep(tick) {
			given = jskvtest.ConsumerCount(t, s.admin, "b") > before
		}
		slow.Stop()
		left := jskvtest.ConsumerCount(t, s.admin, "b") - before
		<-r.done
		if !given { // before may have been that moment
			return notGiven
		}
		return left
	})
}

// It waited for that no longer than who has no more time.
func TestStopOfTheLastSharedWatcherWaitsForTheEndOfItsConsumer(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	var slow atomic.Bool
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		if slow.Load() && strings.Contains(msg.Subject, "CONSUMER.DELETE.") {
			<-time.After(800 * time.Millisecond)
		}
		pass(msg)
	})
	onceInThree(t, 0, func() int { // a machine that stands still makes the answer later than Stop waits for it
		slow.Store(false)
		all := make([]*jskv.Watcher[string], enough)
		for i := range all {
			all[i] = watch(t, r.Bucket, "k")
		}
		for _, w := range all[:enough-1] {
			w.Stop()
		}
		slow.Store(true)
		all[enough-1].Stop()
		return jskvtest.ConsumerCount(t, r.admin, "b")
	})
}
