package jskv_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// One direct request returns 1024 keys at most, or 256 KB; beyond that a consumer is read.
func TestAListingIsWholeOnBothSidesOfEveryLimit(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		srv := jskvtest.NewServer(t)
		for _, size := range []int{0, 1, 2, 1023, 1024, 1025, 6000} {
			t.Run(fmt.Sprintf("%d keys", size), func(t *testing.T) {
				r := readingOn(t, srv, srv.Conn(), jetstream.KeyValueConfig{
					Bucket: fmt.Sprintf("size-%d", size), History: history, Storage: jetstream.MemoryStorage,
				})
				keys := r.fill(size, "v")
				r.requireWhole(keys)
				if size > 0 {
					r.put(keys[0], "again") // the stream no longer begins with the first key
					r.requireWhole(keys)
					r.del(keys[size-1]) // and ends with a marker
					r.requireWhole(keys[:size-1])
				}
				r.requireNothingLeft()
			})
		}
	})
}

// requireWhole lists the bucket, which must have exactly these keys.
func (r *reading) requireWhole(keys []string) {
	r.t.Helper()
	ctx := testContext(r.t)
	requireSameKeys(r.t, keys, sorted(r.t, r.Keys(ctx)))
	var listed []string
	for _, e := range collect(r.t, r.Entries(ctx)) {
		listed = append(listed, e.Key)
	}
	slices.Sort(listed)
	requireSameKeys(r.t, keys, listed)
}

// requireSameKeys is require.Equal for many keys: it reports the first difference alone.
func requireSameKeys(t testing.TB, want, got []string) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			require.Equal(t, want[i], got[i], "key %d of %d", i, len(got))
		}
	}
	require.Equal(t, len(want), len(got), "number of keys")
}

// Some ten seconds after it has made a consumer the server looks whether anybody pulls from it, and tells whoever
// does that there are no more messages. Listings ended there, with half of the keys and no error.
func TestAListingIsWholeThoughTheServerLooksWhetherAnybodyPulls(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	keys := r.fill(50_000, "v")
	const firstPull = 32_000 // or somewhat more: another follows
	ctx := testContext(t)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			looks := time.Now().Add(10*time.Second + 100*time.Millisecond) // or up to a second later
			n := 0
			for _, err := range r.Keys(ctx) {
				if err != nil {
					t.Error(err)
					return
				}
				if n++; n == firstPull {
					time.Sleep(time.Until(looks.Add(time.Duration(i) * time.Second / 16)))
				}
			}
			if n != len(keys) {
				t.Errorf("listing %d has %d of %d keys", i, n, len(keys))
			}
		})
	}
	group.Wait()
}

func TestAListingOfMegabytesIsWhole(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		// Exactly what the server lets through, three pulls' worth.
		value := strings.Repeat("x", 1<<20)
		keys := r.fill(20, value)
		r.requireWhole(keys)
		for _, e := range collect(t, r.Entries(testContext(t))) {
			require.Equal(t, len(value), len(e.Value))
		}
		require.Equal(t, keys[:2], sorted(t, r.Keys(testContext(t), keys[:2]...)))
		steps := 0
		for range r.Entries(testContext(t)) {
			if steps++; steps == 3 {
				break
			}
		}
		r.requireNothingLeft()
	})
}

// largePayload lets values through that are larger than what a reader asks for in one pull (8 MB).
func largePayload() jskvtest.Option {
	return jskvtest.WithOptions(func(o *server.Options) { o.MaxPayload, o.MaxPending = 16<<20, 64<<20 })
}

func TestValuesLargerThanAPullAreRead(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history}, largePayload())
		ctx := testContext(t)
		large, larger := strings.Repeat("l", 9<<20), strings.Repeat("L", 12<<20)
		r.put("a", "small")
		r.put("b", large)
		r.put("c", "small")
		r.put("d", larger)
		r.put("e", "small")
		want := []int{5, 9 << 20, 5, 12 << 20, 5}

		require.Equal(t, []string{"a", "b", "c", "d", "e"}, sorted(t, r.Keys(ctx)))
		require.Equal(t, want, sizes(collect(t, r.Entries(ctx))))

		w := r.watch()
		require.Equal(t, want, sizes(collect(t, w.Snapshot())))
		for _, value := range []string{larger, "small", large} { // now as updates
			r.put("b", value)
			require.Len(t, next(t, w).Value, len(value))
		}
		w.Stop()

		want = []int{9 << 20, 12 << 20, 5, 9 << 20}[4-min(history, 4):]
		require.Equal(t, want, sizes(collect(t, r.History(ctx, "b"))))
		m, err := r.Stream().Messages(ctx, jskv.RawFilter("b"))
		require.NoError(t, err)
		defer m.Stop()
		for _, size := range want {
			msg, err := m.Next(ctx)
			require.NoError(t, err)
			require.Len(t, msg.Data, size)
		}
		m.Stop()
		r.requireNothingLeft()
	})
}

func sizes(entries []jskv.Entry[string]) []int {
	var all []int
	for _, e := range entries {
		all = append(all, len(e.Value))
	}
	return all
}

// A listing hands out what it has when its context ends only if it has everything.
func TestAListingCancelledMidwayIsWholeOrAnError(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 6000} { // by one request, and by a consumer
		t.Run(fmt.Sprintf("%d keys", size), func(t *testing.T) {
			t.Parallel()
			r := newReading(t, jetstream.KeyValueConfig{})
			r.fill(size, "v")
			failed := 0
			for _, at := range []int{1, 2, size / 3, size - 1, size} {
				ctx, cancel := context.WithCancel(context.Background())
				n, last := 0, error(nil)
				var ended time.Time
				for _, err := range r.Keys(ctx) {
					require.NoError(t, last, "a pair after the error")
					if last = err; err != nil {
						continue
					}
					if n++; n == at {
						ended = time.Now()
						cancel()
					}
				}
				if last == nil {
					require.Equal(t, size, n)
				} else {
					require.ErrorIs(t, last, context.Canceled)
					failed++
				}
				cancel()
				r.requireNothingLeftSince(ended)
			}
			if size > 5000 {
				require.NotZero(t, failed, "the context was never looked at")
			}
		})
	}
}
