package jskv_test

import (
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// cachedKeys is how many keys the large buckets have.
const cachedKeys = 100_000

// BenchmarkCacheLoad is the time until a copy of a bucket is complete. The stock client has no
// cache; what programs write instead is a map that is filled from WatchAll.
func BenchmarkCacheLoad(b *testing.B) {
	r := newRivals(b, cachedKeys)
	ctx := b.Context()
	perKey(b, "jskv", cachedKeys, func() int {
		c, err := r.jskv.Cache(ctx)
		require.NoError(b, err)
		defer c.Close()
		return c.Len()
	})
	perKey(b, "stock", cachedKeys, func() int {
		w, err := r.stock.WatchAll(ctx)
		require.NoError(b, err)
		entries := map[string]jetstream.KeyValueEntry{}
		for e := range w.Updates() {
			if e == nil {
				break
			}
			entries[e.Key()] = e
		}
		require.NoError(b, w.Stop())
		return len(entries)
	})
}

// BenchmarkCacheGet reads from the copy, and as the stock client does, from the server: a thousand
// keys in turn, and all of them in random order ("cold"), where each read waits for memory.
func BenchmarkCacheGet(b *testing.B) {
	for _, n := range []int{cachedKeys, 10 * cachedKeys} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := newRivals(b, n)
			c := cacheOf(b, r.jskv)
			keys := keyNames(n)
			rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			for name, keys := range map[string][]string{"jskv": keys[:1000], "jskv-cold": keys} {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for i := 0; b.Loop(); i++ {
						if v, ok := c.Get(keys[i%len(keys)]); !ok || v != benchValue {
							b.Fatal(v, ok)
						}
					}
				})
			}
			b.Run("jskv-parallel", func(b *testing.B) {
				b.RunParallel(func(pb *testing.PB) {
					for i := rand.IntN(n); pb.Next(); i++ {
						if v, ok := c.Get(keys[i%1000]); !ok || v != benchValue {
							b.Error(v, ok)
						}
					}
				})
			})
			b.Run("stock", func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if e, err := r.stock.Get(b.Context(), keys[i%1000]); err != nil || string(e.Value()) != benchValue {
						b.Fatal(e, err)
					}
				}
			})
		})
	}
}

func cacheOf(b *testing.B, bucket *jskv.Bucket[string]) *jskv.Cache[string] {
	b.Helper()
	c, err := bucket.Cache(b.Context())
	require.NoError(b, err)
	b.Cleanup(c.Close)
	return c
}

// BenchmarkCacheAll walks through the copy in the order of the keys; "jskv-first" puts them in order.
func BenchmarkCacheAll(b *testing.B) {
	r := newRivals(b, cachedKeys)
	c := cacheOf(b, r.jskv)
	perKey(b, "jskv", cachedKeys, func() (count int) {
		for key, e := range c.All() {
			if e.Key != key {
				b.Fatal(key, e)
			}
			count++
		}
		return count
	})
	b.Run("jskv-first", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			c, err := r.jskv.Cache(b.Context())
			require.NoError(b, err)
			b.StartTimer()
			for range c.All() {
				break
			}
			b.StopTimer()
			c.Close()
			b.StartTimer()
		}
	})
}

// BenchmarkCacheMemory is what the copy of a key holds, beside the bytes of key and value: before and
// after the keys are put in order.
func BenchmarkCacheMemory(b *testing.B) {
	for _, n := range []int{cachedKeys, 10 * cachedKeys} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := newRivals(b, n)
			own := 0
			for _, key := range keyNames(n) {
				own += len(key) + len(benchValue)
			}
			for b.Loop() {
				before := heap()
				c, err := r.jskv.Cache(b.Context())
				require.NoError(b, err)
				require.Equal(b, n, c.Len())
				unordered := float64(heap() - before)
				b.ReportMetric((unordered-float64(own))/float64(n), "unordered-extra-B/key")
				for range c.All() {
					break
				}
				used := float64(heap() - before)
				b.ReportMetric(used/float64(n), "B/key")
				b.ReportMetric((used-float64(own))/float64(n), "extra-B/key")
				c.Close()
			}
		})
	}
}

// heap is what is in use after the garbage is gone.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
