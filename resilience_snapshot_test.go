package jskv_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// In the middle of a long snapshot the consumer is lost, several times, while keys that were
// handed out and keys that were not are written to.
func TestASnapshotThatIsInterruptedHasEveryKeyAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	for _, what := range midway {
		if !what.whole {
			continue
		}
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			bothHistories(t, func(t *testing.T, history uint8) {
				s := newScene(t, jetstream.KeyValueConfig{History: history})
				keys := s.fillLong()
				w := s.watch()
				newest := make(map[string]uint64, long)
				for i, key := range keys {
					newest[key] = uint64(i + 1)
				}
				seen := make(map[string]uint64, long)
				last := uint64(0)
				take := func(e jskv.Entry[string]) {
					if e.Revision <= last {
						require.Greater(t, e.Revision, last, "in order, nothing twice")
					}
					last = e.Revision
					seen[e.Key] = e.Revision
				}
				n := 0
				for e, err := range w.Snapshot() {
					require.NoError(t, err)
					take(e)
					if n++; n%2500 == 0 && n < 7000 {
						what.do(s)
						for _, key := range []string{keys[n/2], keys[long-n/2], "new"} {
							newest[key] = s.putBeside(key, "newer")
						}
					}
				}
				require.True(t, w.Synced())
				end := s.putBeside("end", "v")
				newest["end"] = end
				for last < end {
					take(next(t, w))
				}
				require.Equal(t, len(newest), len(seen))
				for key, revision := range newest {
					if seen[key] != revision {
						require.Equal(t, revision, seen[key], key)
					}
				}
				w.Stop()
				require.Equal(t, s.subs, s.nc.NumSubscriptions())
			})
		})
	}
}

func TestAWatchWhoseContextEndsWhileItBeginsLeavesNothing(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.fillLong()
		failed := 0
		for i := range 40 {
			ctx, cancel := context.WithTimeout(context.Background(), rand.N(6*time.Millisecond))
			filter := jskv.AllKeys
			if i%2 == 0 {
				filter = "k000001"
			}
			w, err := r.Watch(ctx, filter)
			if err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Nil(t, w)
				failed++
			} else {
				w.Stop()
			}
			cancel()
			require.Equal(t, r.subs, r.nc.NumSubscriptions())
		}
		require.NotZero(t, failed)
		// Below the 10 s after which the server drops consumers that nobody uses.
		require.Eventually(t, func() bool { return jskvtest.ConsumerCount(t, r.admin, "b") == 0 }, 8*time.Second, tick)
	})
}

// Each attempt may have left a consumer, whose deletion nobody confirms either: each was waited for.
func TestAWatchWhoseTimeIsOverDoesNotWaitForEachOfItsAttempts(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	s.put("a", "1")
	s.proxy.Blackhole(jskvtest.ToClient)
	const patience = 4 * time.Second
	promptly(t, patience+1500*time.Millisecond, func() time.Duration {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		start := time.Now()
		_, err := s.Watch(ctx, jskv.AllKeys)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		return time.Since(start)
	})
}

func TestAWatchThatBeginsWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	for _, key := range []string{jskv.AllKeys, "k000001"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			s := newImpatientScene(t, jetstream.KeyValueConfig{})
			s.fill(10, "v")
			s.server.Stop()
			require.Eventually(t, s.nc.IsReconnecting, soon, tick)
			start := time.Now()
			_, err := s.Watch(context.Background(), key)
			require.Error(t, err, "it gives up after the default timeout")
			require.Less(t, time.Since(start), soon)

			watching := make(chan *jskv.Watcher[string], 1)
			go func() {
				w, err := s.Watch(testContext(t), key)
				if err != nil {
					t.Errorf("watch: %v", err)
				}
				watching <- w
			}()
			s.server.Start()
			w := <-watching
			require.NotNil(t, w, "with a deadline it waits for the server")
			defer w.Stop()
			require.Equal(t, "v", next(t, w).Value)
		})
	}
}

// The first one that shares had the handle's default timeout, whatever time its caller gave it.
func TestAWatchHasTheTimeOfItsContextToFindTheServer(t *testing.T) {
	t.Parallel()
	const private = 16 // of single keys, the next one shares
	for _, before := range []int{0, private} {
		t.Run(fmt.Sprintf("after %d others", before), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, jetstream.KeyValueConfig{})
			js, err := jetstream.New(s.nc, jetstream.WithDefaultTimeout(200*time.Millisecond))
			require.NoError(t, err)
			s.Bucket, err = jskv.OpenBucket(testContext(t), js, "b", jskv.String())
			require.NoError(t, err)
			for i := range before {
				watch(t, s.Bucket, fmt.Sprint("other.", i))
			}
			s.proxy.Refuse()
			s.proxy.Reset()
			back := time.AfterFunc(time.Second, s.proxy.Accept)
			defer back.Stop()
			w := watch(t, s.Bucket, "k")
			revision := s.putBeside("k", "v")
			require.Equal(t, revision, next(t, w).Revision)
		})
	}
}
