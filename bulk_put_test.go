package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// endless yields keys n.00000, n.00001, ... as long as they are taken, and counts them.
func endless(yielded *int) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for *yielded = 0; ; *yielded++ {
			key := fmt.Sprintf("n.%05d", *yielded)
			if !yield(key, "v of "+key) {
				*yielded++
				return
			}
		}
	}
}

// requireBulkError wants err to be a *BulkError that names exactly these keys.
func requireBulkError(t testing.TB, err error, keys ...string) *jskv.BulkError {
	t.Helper()
	var failed *jskv.BulkError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, "b", failed.Bucket)
	require.Equal(t, slices.Sorted(slices.Values(keys)), sortedKeys(failed.Failed))
	require.True(t, strings.HasPrefix(err.Error(), "jskv: put many into b: "), err.Error())
	for key, err := range failed.Failed {
		require.ErrorIs(t, failed, errors.Unwrap(err), "the error of "+key)
	}
	return failed
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// requireHonest wants everything that was asked for to be either stored or named in err.
func requireHonest(t testing.TB, b *jskv.Bucket[string], asked []string, done int, err error) *jskv.BulkError {
	t.Helper()
	var failed *jskv.BulkError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, len(asked), done+len(failed.Failed), "acknowledged and failed")
	stored := getMany(t, b, asked...)
	for _, key := range asked {
		err, named := failed.Failed[key]
		_, there := stored[key]
		if !named {
			require.True(t, there, "%s was acknowledged, or not named", key)
			continue
		}
		if there {
			require.ErrorIs(t, err, jskv.ErrOutcomeUnknown, key)
		}
	}
	return failed
}

// onEitherKind runs test on a bucket whose writes are acknowledged one by one, and on one with fast
// ingest: what PutMany promises is the same.
func onEitherKind(t *testing.T, test func(t *testing.T, opts ...jskv.BucketOption)) {
	t.Helper()
	t.Parallel()
	t.Run("one by one", func(t *testing.T) {
		t.Parallel()
		test(t)
	})
	t.Run("fast ingest", func(t *testing.T) {
		t.Parallel()
		test(t, jskv.WithFastIngest())
	})
}

func TestPutManyStoresInOrder(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		b, server := newBucket(t, inMemory, opts...)
		all := numbered(5000)
		for i, options := range [][]jskv.BulkOption{nil, {jskv.MaxPending(1)}, {jskv.MaxPending(7)}, {nil, jskv.MaxPending(math.MaxInt)}} {
			keys := all
			if i == 1 {
				keys = all[:500] // each waits for the one before
			}
			before, err := b.Stream().Info(testContext(t))
			require.NoError(t, err)
			reports := 0
			options := append(options, jskv.Progress(func(done int) {
				reports++
				if done != reports {
					require.Equal(t, reports, done, "one more each time")
				}
			}))
			n, err := b.PutMany(testContext(t), valued(keys), options...)
			require.NoError(t, err)
			require.Equal(t, len(keys), n)
			require.Equal(t, n, reports)
			got := getMany(t, b, keys...)
			requireValued(t, got, keys)
			for i, key := range keys {
				require.Equal(t, before.State.LastSeq+uint64(i)+1, got[key].Revision)
			}
		}
		stock, err := stockBucket(t, server.JetStream()).Get(testContext(t), all[1])
		require.NoError(t, err)
		require.Equal(t, "v of "+all[1], string(stock.Value()))
	})
}

func TestPutManyTakesAnySequence(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		ctx := testContext(t)
		b, _ := newBucket(t, inMemory, opts...)
		n, err := b.PutMany(ctx, maps.All(map[string]string{}))
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = b.PutMany(ctx, maps.All(map[string]string{"a": "1", "b": "", "c": "3"}))
		require.NoError(t, err)
		require.Equal(t, 3, n)
		got := getMany(t, b, "a", "b", "c")
		require.Equal(t, "1", got["a"].Value)
		require.Equal(t, "", got["b"].Value)
		require.Len(t, got, 3)
	})
}

func TestPutManyKeepsTheOrderOfOneKey(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		b, _ := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: 64}, opts...)
		n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
			for i := range 150 {
				if !yield([]string{"a", "b", "c"}[i%3], strconv.Itoa(i)) {
					return
				}
			}
		})
		require.NoError(t, err)
		require.Equal(t, 150, n)
		for start, key := range []string{"a", "b", "c"} {
			var want []string
			for i := start; i < 150; i += 3 {
				want = append(want, "Put "+strconv.Itoa(i))
			}
			require.Equal(t, strings.Join(want, ", "), history(t, b, key))
		}
	})
}

// evenOnly refuses odd numbers.
type evenOnly struct{ jskv.Codec[int] }

var errOdd = errors.New("odd numbers are not for this codec")

func (c evenOnly) Encode(n int) ([]byte, error) {
	if n%2 != 0 {
		return nil, errOdd
	}
	return c.Codec.Encode(n)
}

func TestPutManyNamesTheKeysThatFailAndStoresTheOthers(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		ctx := testContext(t)
		cfg := inMemory
		cfg.MaxValueSize = 1000
		text, _ := newBucket(t, cfg, opts...)
		values := map[string]string{
			"good":     "v",
			"":         "no key",
			"bad key":  "v",
			"a..b":     "v",
			"larger":   strings.Repeat("x", 1001),  // than the bucket takes
			"largest":  strings.Repeat("x", 2<<20), // than a message can be
			"good.too": strings.Repeat("x", 1000),
		}
		n, err := text.PutMany(ctx, maps.All(values))
		require.Equal(t, 2, n)
		failed := requireBulkError(t, err, "", "bad key", "a..b", "larger", "largest")
		for key, err := range failed.Failed {
			require.True(t, jskv.SafeToRetry(err), "%v", err)
			if values[key] == "v" || key == "" {
				requireIs(t, err, jskv.ErrInvalidKey)
				requireNames(t, err, " b: ")
			} else {
				requireIs(t, err, jskv.ErrValueTooLarge)
				requireNames(t, err, " b/"+key+": ")
			}
		}
		requireIs(t, err, jskv.ErrInvalidKey, jskv.ErrValueTooLarge)
		require.Less(t, len(err.Error()), 400)
		require.Len(t, getMany(t, text, "good", "good.too", "larger", "largest"), 2)

		numbers := jskv.As(text, jskv.Codec[int](evenOnly{jskv.JSON[int]()}))
		n, err = numbers.PutMany(ctx, maps.All(map[string]int{"two": 2, "three": 3, "four": 4}))
		require.Equal(t, 2, n)
		requireBulkError(t, err, "three")
		requireIs(t, err, errOdd)
		require.Len(t, getMany(t, text, "two", "three", "four"), 2)
	})
}

func TestPutManyRefusesToHaveNothingPending(t *testing.T) {
	t.Parallel()
	b, _ := newBucket(t, inMemory)
	for _, most := range []int{0, -1, math.MinInt} {
		yielded := -1
		n, err := b.PutMany(testContext(t), endless(&yielded), jskv.MaxPending(most))
		requireIs(t, err, jskv.ErrInvalidOption)
		requireNames(t, err, " b: ", fmt.Sprintf("MaxPending(%d)", most))
		require.Zero(t, n)
		require.Equal(t, -1, yielded, "the sequence was not begun")
	}
}

func TestPutManyHasNoMorePendingThanItMayHave(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		const most = 5
		server := jskvtest.NewServer(t)
		createBucket(t, server.JetStream(), inMemory, opts...)
		proxy := jskvtest.NewProxy(t, server.URL())
		b := openBucket(t, proxy.JetStream())
		proxy.Stall(jskvtest.ToClient)
		acknowledged, yielded := 0, 0
		n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
			for _, key := range numbered(50) {
				yielded++
				// The one before this may still wait for its place.
				require.LessOrEqual(t, yielded-1-acknowledged, most)
				if yielded == most+1 {
					require.Zero(t, acknowledged, "what may be pending is sent without waiting")
					proxy.Heal()
				}
				if !yield(key, "v of "+key) {
					return
				}
			}
		}, jskv.MaxPending(most), jskv.Progress(func(done int) { acknowledged = done }))
		require.NoError(t, err)
		require.Equal(t, 50, n)
	})
}

// A server refuses more than 128 MB in front of a stream.
func TestPutManyBoundsTheBytesOnTheirWay(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		const size, most = 900_000, 16 << 20
		server := jskvtest.NewServer(t)
		direct := createBucket(t, server.JetStream(), inMemory, opts...)
		proxy := jskvtest.NewProxy(t, server.URL())
		b := openBucket(t, hasty(t, proxy.Conn(), time.Minute))
		value := strings.Repeat("x", size)
		proxy.Stall(jskvtest.ToClient)
		var yielded atomic.Int64
		var group sync.WaitGroup
		group.Go(func() {
			const room = most/size + 1 // one of them not sent yet
			assert.Eventually(t, func() bool { return yielded.Load() >= room }, soon, tick, "there is room")
			assert.Never(t, func() bool { return yielded.Load() > room }, 200*time.Millisecond, tick, "it waits")
			proxy.Heal()
		})
		n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
			for _, key := range numbered(30) {
				if yielded.Add(1); !yield(key, value) {
					return
				}
			}
		})
		group.Wait()
		require.NoError(t, err)
		require.Equal(t, 30, n)
		require.Len(t, getMany(t, direct, numbered(30)...), 30)
	})
}

func TestPutManyEndsSoonWhenItIsCancelled(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		onceInThree(t, true, func() (pending bool) { // who stands still then has heard of all that it has sent
			server := jskvtest.NewServer(t)
			direct := createBucket(t, server.JetStream(), inMemory, opts...)
			proxy := jskvtest.NewProxy(t, server.URL())
			b := openBucket(t, hasty(t, proxy.Conn(), time.Minute)) // for which it would wait for answers
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var yielded int
			var cancelled time.Time
			n, err := b.PutMany(ctx, endless(&yielded), jskv.MaxPending(100), jskv.Progress(func(done int) {
				if done == 500 {
					proxy.Stall(jskvtest.ToClient)
					cancelled = time.Now()
					time.AfterFunc(200*time.Millisecond, cancel) // when it waits, or not yet
				}
			}))
			require.Less(t, time.Since(cancelled), soon)
			requireIs(t, err, context.Canceled)
			require.GreaterOrEqual(t, n, 500)
			require.LessOrEqual(t, yielded, n+100+1)
			failed := requireHonest(t, direct, numbered(yielded), n, err)
			unknown := 0
			for _, err := range failed.Failed {
				requireIs(t, err, context.Canceled)
				if errors.Is(err, jskv.ErrOutcomeUnknown) {
					unknown++
				}
			}
			require.GreaterOrEqual(t, unknown, len(failed.Failed)-1, "those that were on their way, and one may have waited for its place")

			// A context that has ended already sends nothing.
			proxy.Heal()
			mustPut(t, b, "behind", "all that was on its way")
			before, err := direct.Stream().Info(testContext(t))
			require.NoError(t, err)
			n, err = direct.PutMany(ctx, endless(&yielded))
			require.Zero(t, n)
			requireIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
			require.LessOrEqual(t, yielded, 1)
			after, err := direct.Stream().Info(testContext(t))
			require.NoError(t, err)
			require.Equal(t, before.State.LastSeq, after.State.LastSeq)
			return unknown > 0
		}, "some were on their way")
	})
}
