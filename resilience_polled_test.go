package jskv_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// A program that gives each Next little time is in it most of the time, but never for long: nobody
// looked whether the connection was still the one that the consumer had been made on.
func TestAWatcherThatIsPolledWithLittleTimeGoesOn(t *testing.T) {
	t.Parallel()
	for _, what := range interruptions {
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, jetstream.KeyValueConfig{})
			lost := false
			w := s.watch(jskv.OnInterruption(func(err error) { lost = lost || err != nil }))
			poll := func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancel()
				_, err := w.Next(ctx)
				if err != nil {
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				return err == nil
			}
			what.begin(s)
			if what.end != nil {
				for start := time.Now(); !lost; {
					require.False(t, poll())
					require.Less(t, time.Since(start), soon)
				}
				what.end(s)
			}
			s.putBeside("k", "v")
			for start := time.Now(); !poll(); {
				require.Less(t, time.Since(start), soon)
			}
		})
	}
}

// Far from its server, a question and its answer take longer than each Next has.
func TestAWatcherFarFromItsServerThatIsPolledWithLittleTimeGoesOn(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	w := s.watch()
	s.proxy.Delay(jskvtest.Both, 150*time.Millisecond)
	jskvtest.DeleteConsumers(t, s.admin, "b")
	s.putBeside("k", "v")
	for start := time.Now(); ; {
		_, err := w.Next(soonContext(t))
		if err == nil {
			break
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), soon)
	}
}

// Callers that had no patience made the watcher impatient with those that have.
func TestAWatcherIsAsPatientAsItsCallerWhateverOthersWere(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	var slow atomic.Bool
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		if slow.Load() && strings.Contains(msg.Subject, "CONSUMER.CREATE.") {
			time.AfterFunc(800*time.Millisecond, func() { pass(msg) })
			return
		}
		pass(msg)
	})
	w := r.watch()
	requireNothingNext(t, w)
	slow.Store(true)
	jskvtest.DeleteConsumers(t, r.admin, "b")
	for range 5 {
		_, err := w.Next(soonContext(t))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	r.putBeside("k", "v")
	next(t, w)
}

// A shared watcher that left so much unread gets a reader of its own while it is polled.
func TestASharedWatcherFarFromItsServerThatIsPolledWithLittleTimeGoesOn(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	w := s.unread()
	s.proxy.Delay(jskvtest.Both, 100*time.Millisecond)
	var last uint64
	for start := time.Now(); last < 600; {
		e, err := w.Next(soonContext(t))
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		last = e.Revision
		require.Less(t, time.Since(start), soon)
	}
}

// It took the time of Watch's context for that, and not the time of the caller's.
func TestASharedWatcherThatIsNotAnsweredReturnsWhenItsCallersTimeIsOver(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	w := s.unread()
	nextAll(t, w, 256)
	s.proxy.Blackhole(jskvtest.Both)
	defer s.proxy.Heal() // or each watcher that stops waits for an answer
	start := time.Now()
	_, err := w.Next(soonContext(t))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), soon)
}

// unread is a shared watcher that has left 600 revisions of a key unread, of which it keeps 256.
func (s *scene) unread() *jskv.Watcher[string] {
	s.t.Helper()
	s.crowd()
	w, fast := watch(s.t, s.Bucket, "busy"), watch(s.t, s.Bucket, "busy")
	for range 600 {
		s.again("busy")
		next(s.t, fast)
	}
	return w
}
