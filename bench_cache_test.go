package jskv_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// cachedKeys is a large bucket for a cache.
const cachedKeys = 100_000

// BenchmarkCacheLoad is the time until a copy of a bucket is complete. The stock client has no
// cache: what everybody writes instead is a map filled from WatchAll.
func BenchmarkCacheLoad(b *testing.B) {
	r := newRivals(b, cachedKeys)
	ctx := b.Context()
	perKey(b, "jskv", cachedKeys, func() int {
		c, err := r.jskv.Cache(ctx)
		require.NoError(b, err)
		defer c.Close()
		return c.Len()
	})
	perKey(b, "watch", cachedKeys, func() (count int) {
		w, err := r.jskv.Watch(ctx, jskv.AllKeys)
		require.NoError(b, err)
		defer w.Stop()
		for range w.Snapshot() {
			count++
		}
		return count
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
