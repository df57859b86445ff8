package jskv_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// interruptionReports is an OnInterruption option and what it was told.
func interruptionReports() (jskv.WatchOption, <-chan error) {
	reports := make(chan error, 1000)
	return jskv.OnInterruption(func(err error) { reports <- err }), reports
}

func TestOnInterruptionTellsWhenTheWatcherIsOutOfTouchAndWhenItIsBack(t *testing.T) {
	t.Parallel()
	for _, what := range interruptions {
		if what.like {
			continue
		}
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, jetstream.KeyValueConfig{})
			s.fill(10, "v")
			onChange, reports := interruptionReports()
			r := record(t, "watcher", s.watch(onChange))
			for i := range enough {
				record(t, fmt.Sprint("single ", i), watch(t, s.Bucket, "k000001"))
			}
			onShared, sharedReports := interruptionReports()
			record(t, "shared", watch(t, s.Bucket, "k000001", onShared))
			r.until(10)
			last := uint64(10)
			onceInThree(t, 0, func() int { // a machine that stands still for a moment is another interruption
				for len(reports)+len(sharedReports) > 0 {
					for _, each := range []<-chan error{reports, sharedReports} {
						if len(each) > 0 {
							require.Error(t, receive(t, each))
							require.NoError(t, receive(t, each), "reasons and nil take turns")
						}
					}
				}
				start := time.Now()
				what.begin(s)
				require.Error(t, receive(t, reports))
				require.Error(t, receive(t, sharedReports))
				if what.end != nil {
					t.Logf("noticed after %v", time.Since(start))
					require.Less(t, time.Since(start), stockSilence)
					what.end(s)
				}
				require.NoError(t, receive(t, reports))
				require.NoError(t, receive(t, sharedReports))
				s.again("k000001")
				last++
				r.until(last)
				return len(reports) + len(sharedReports)
			}, "nothing else has happened")
		})
	}
}

func TestOnInterruptionIsToldNothingOfAStop(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	s.fill(10, "v")
	onceInThree(t, 0, func() int {
		onChange, reports := interruptionReports()
		w := s.watch(onChange)
		r := record(t, "watcher", w)
		r.until(10)
		w.Stop()
		<-r.done
		ctx, cancel := context.WithCancel(context.Background())
		w, err := s.Watch(ctx, jskv.AllKeys, onChange)
		require.NoError(t, err)
		r = record(t, "watcher", w)
		r.until(10)
		cancel()
		<-r.done
		return len(reports)
	})
}

// The stock's ordered consumer deadlocks when it is stopped inside its error handler.
func TestStopInsideOnInterruption(t *testing.T) {
	t.Parallel()
	for _, single := range []bool{false, true} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprintf("single key %v, when it is back %v", single, back), func(t *testing.T) {
				t.Parallel()
				s := newScene(t, jetstream.KeyValueConfig{})
				s.fill(10, "v")
				filter := jskv.AllKeys
				if single {
					filter = "k000001"
					for range enough {
						watch(t, s.Bucket, filter)
					}
				}
				var w *jskv.Watcher[string]
				stopped := make(chan struct{})
				w = watch(t, s.Bucket, filter, jskv.OnInterruption(func(err error) {
					if (err == nil) == back {
						w.Stop()
						w.Stop()
						close(stopped)
					}
				}))
				r := record(t, "watcher", w)
				s.proxy.Reset()
				receive(t, stopped)
				receive(t, r.done)
				_, err := r.events()
				require.ErrorIs(t, err, jskv.ErrWatcherStopped)
			})
		}
	}
}

func TestAnInterruptedWatcherThatNobodyReadsIsToldLater(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	onChange, reports := interruptionReports()
	w := s.watch(onChange)
	requireNothingNext(t, w)
	jskvtest.DeleteConsumers(t, s.admin, "b")
	s.again("a")
	require.Equal(t, uint64(1), next(t, w).Revision)
	require.Error(t, receive(t, reports), "by the time it has the entry it has been told")
	require.NoError(t, receive(t, reports))
}

// They come so close together that the server has no cause for a heartbeat.
func TestAWatcherThatNobodyReadForAWhileIsNotInterruptedByWhatCameMeanwhile(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 64}) // else a server that is late has some of it no more
	onceInThree(t, 0, func() int {
		onChange, reports := interruptionReports()
		w := r.watch(jskv.UpdatesOnly(), onChange)
		defer w.Stop()
		requireNothingNext(t, w)
		first := r.put("k", "first")
		require.Equal(t, first, next(t, w).Revision)
		const n, apart = 7, 300 * time.Millisecond
		ticker := time.NewTicker(apart)
		defer ticker.Stop()
		for range n {
			<-ticker.C
			r.put("k", "v")
		}
		require.Len(t, nextAll(t, w, n), n)
		requireNothingNext(t, w)
		r.put("k", "last")
		require.Equal(t, "last", next(t, w).Value)
		return len(reports)
	})
}

// What a sharing watcher that nobody read had to be told was told by whoever stopped it, so that a
// report that stops the watcher waited for itself.
func TestStopOfAnInterruptedSharedWatcherThatNobodyReads(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	s.crowd()
	var w *jskv.Watcher[string]
	var told atomic.Int64
	w = watch(t, s.Bucket, "k", jskv.OnInterruption(func(error) { told.Add(1); w.Stop() }))
	onOther, reports := interruptionReports()
	other := record(t, "other", watch(t, s.Bucket, "k", onOther))
	other.until(s.put("k", "v"))
	s.proxy.Reset()
	require.Error(t, receive(t, reports))
	require.NoError(t, receive(t, reports), "both have been told, and one listens")
	stopped := make(chan struct{})
	go func() { w.Stop(); close(stopped) }()
	receive(t, stopped)
	require.Zero(t, told.Load(), "nobody reads it")
}
