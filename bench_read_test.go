package jskv_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func BenchmarkKeys(b *testing.B) {
	for _, n := range []int{10, manyKeys} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := newRivals(b, n)
			ctx := b.Context()
			perKey(b, "jskv", n, func() (count int) {
				for key, err := range r.jskv.Keys(ctx) {
					if err != nil || key == "" {
						b.Fatal(key, err)
					}
					count++
				}
				return count
			})
			perKey(b, "stock", n, func() int {
				keys, err := r.stock.Keys(ctx)
				require.NoError(b, err)
				return len(keys)
			})
			perKey(b, "request", n, func() int { return r.pull(b, n, true) })
		})
	}
}

func BenchmarkWatchInitial(b *testing.B) {
	for _, n := range []int{10, manyKeys} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := newRivals(b, n)
			ctx := b.Context()
			perKey(b, "jskv", n, func() (count int) {
				w, err := r.jskv.Watch(ctx, jskv.AllKeys)
				require.NoError(b, err)
				defer w.Stop()
				for e, err := range w.Snapshot() {
					if err != nil || e.Value != benchValue {
						b.Fatal(e, err)
					}
					count++
				}
				return count
			})
			perKey(b, "stock", n, func() (count int) {
				w, err := r.stock.WatchAll(ctx)
				require.NoError(b, err)
				for e := range w.Updates() {
					if e == nil {
						break
					}
					if string(e.Value()) != benchValue {
						b.Fatal(e)
					}
					count++
				}
				require.NoError(b, w.Stop())
				return count
			})
			perKey(b, "request", n, func() int { return r.pull(b, n, false) })
		})
	}
}

// perKey measures what is done once for n keys.
func perKey(b *testing.B, name string, n int, do func() int) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if count := do(); count != n {
				b.Fatalf("%d keys, not %d", count, n)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/key")
	})
}

// pull is the floor of reading a bucket: it makes a consumer, takes n messages in one pull and
// deletes the consumer.
func (r *rivals) pull(b *testing.B, n int, headersOnly bool) (count int) {
	const name = "floor"
	made, err := json.Marshal(map[string]any{"stream_name": "KV_b", "config": map[string]any{
		"name": name, "deliver_policy": "last_per_subject", "filter_subject": "$KV.b.>",
		"ack_policy": "none", "headers_only": headersOnly, "mem_storage": true, "num_replicas": 1,
	}})
	require.NoError(b, err)
	delivery := make(chan *nats.Msg, n)
	inbox := r.nc.NewInbox()
	sub, err := r.nc.ChanSubscribe(inbox, delivery)
	require.NoError(b, err)
	_, err = r.nc.Request("$JS.API.CONSUMER.CREATE.KV_b."+name+".$KV.b.>", made, 5*time.Second)
	require.NoError(b, err)
	err = r.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.KV_b."+name, inbox, fmt.Appendf(nil, `{"batch":%d,"no_wait":true}`, n))
	require.NoError(b, err)
	for count < n {
		if msg := <-delivery; !headersOnly && string(msg.Data) != benchValue {
			b.Fatal(msg)
		}
		count++
	}
	require.NoError(b, sub.Unsubscribe())
	_, err = r.nc.Request("$JS.API.CONSUMER.DELETE.KV_b."+name, nil, 5*time.Second)
	require.NoError(b, err)
	return count
}

// BenchmarkLive is the time from a put, which is the same bare request for all, to its event.
func BenchmarkLive(b *testing.B) {
	r := newRivals(b, 1)
	ctx := b.Context()
	put := func(b *testing.B) {
		msg, err := r.nc.Request("$KV.b."+benchKey(0), []byte(benchValue), 5*time.Second)
		r.acked(b, msg, err)
	}
	b.Run("jskv", func(b *testing.B) {
		w, err := r.jskv.Watch(ctx, jskv.AllKeys, jskv.UpdatesOnly())
		require.NoError(b, err)
		defer w.Stop()
		b.ReportAllocs()
		for b.Loop() {
			put(b)
			if e, err := w.Next(ctx); err != nil || e.Revision != r.newest {
				b.Fatal(e, err)
			}
		}
	})
	b.Run("stock", func(b *testing.B) {
		w, err := r.stock.WatchAll(ctx, jetstream.UpdatesOnly())
		require.NoError(b, err)
		defer func() { require.NoError(b, w.Stop()) }()
		b.ReportAllocs()
		for b.Loop() {
			put(b)
			if e := <-w.Updates(); e.Revision() != r.newest {
				b.Fatal(e)
			}
		}
	})
	b.Run("request", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			put(b)
		}
	})
}

// BenchmarkLiveBurst is how long many changes take to be stored and to arrive; "request" stores
// them and watches nothing.
func BenchmarkLiveBurst(b *testing.B) {
	const burst = 5000
	r := newRivals(b, 1)
	keys := keyNames(burst)
	ctx := b.Context()
	writer, err := jskv.OpenBucket(ctx, benchJetStream(b, r.nc.ConnectedUrl()), "b", jskv.String())
	require.NoError(b, err)
	measure := func(b *testing.B, take func(revision uint64)) {
		b.ReportAllocs()
		for b.Loop() {
			var writing sync.WaitGroup
			writing.Go(func() { benchFill(b, writer, keys) })
			for range keys {
				r.newest++
				take(r.newest)
			}
			writing.Wait()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/burst, "ns/event")
	}
	b.Run("jskv", func(b *testing.B) {
		w, err := r.jskv.Watch(ctx, jskv.AllKeys, jskv.UpdatesOnly())
		require.NoError(b, err)
		defer w.Stop()
		measure(b, func(revision uint64) {
			if e, err := w.Next(ctx); err != nil || e.Revision != revision {
				b.Fatal(e, err)
			}
		})
	})
	b.Run("stock", func(b *testing.B) {
		w, err := r.stock.WatchAll(ctx, jetstream.UpdatesOnly())
		require.NoError(b, err)
		defer func() { require.NoError(b, w.Stop()) }()
		measure(b, func(revision uint64) {
			if e := <-w.Updates(); e.Revision() != revision {
				b.Fatal(e)
			}
		})
	})
	b.Run("request", func(b *testing.B) { measure(b, func(uint64) {}) })
}
