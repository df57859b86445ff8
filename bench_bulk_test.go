package jskv_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// BenchmarkGetMany reads a thousand keys: together, and with the stock client one by one.
func BenchmarkGetMany(b *testing.B) {
	r := newRivals(b, benchKeys)
	keys := keyNames(benchKeys)
	ctx := b.Context()
	perKey(b, "jskv", benchKeys, func() int {
		entries, err := r.jskv.GetMany(ctx, keys...)
		if err != nil || entries[keys[7]].Value != benchValue {
			b.Fatal(err)
		}
		return len(entries)
	})
	perKey(b, "stock", benchKeys, func() int {
		for i, key := range keys {
			e, err := r.stock.Get(ctx, key)
			if err != nil || e.Revision() != uint64(i+1) || string(e.Value()) != benchValue {
				b.Fatal(e, err)
			}
		}
		return len(keys)
	})
	absent := make([]string, benchKeys)
	for i := range absent {
		absent[i] = "absent." + strconv.Itoa(i)
	}
	perKey(b, "jskv absent", benchKeys, func() int {
		entries, err := r.jskv.GetMany(ctx, absent...)
		if err != nil || len(entries) != 0 {
			b.Fatal(entries, err)
		}
		return len(absent)
	})
}

// BenchmarkPutMany stores many keys: pipelined, with stock asynchronous publishing, and one by one.
func BenchmarkPutMany(b *testing.B) {
	for name, storage := range storages {
		b.Run(name, func(b *testing.B) {
			bucket, url := benchBucket(b, storage)
			keys := keyNames(manyKeys)
			var pairs iter.Seq2[string, string] = func(yield func(string, string) bool) {
				for _, key := range keys {
					if !yield(key, benchValue) {
						return
					}
				}
			}
			ctx := b.Context()
			perKey(b, "jskv", manyKeys, func() int {
				n, err := bucket.PutMany(ctx, pairs)
				if err != nil {
					b.Fatal(err)
				}
				return n
			})
			js, err := jetstream.New(benchJetStream(b, url).Conn())
			require.NoError(b, err)
			patience := jetstream.WithStallWait(time.Minute) // after the default of 200 ms it gives up, which on a busy machine it does
			perKey(b, "stock", manyKeys, func() int {
				futures := make([]jetstream.PubAckFuture, len(keys))
				for i, key := range keys {
					var err error
					if futures[i], err = js.PublishAsync("$KV.b."+key, []byte(benchValue), patience); err != nil {
						b.Fatal(err)
					}
				}
				<-js.PublishAsyncComplete()
				for _, future := range futures {
					select {
					case <-future.Ok():
					case err := <-future.Err():
						b.Fatal(err)
					}
				}
				return len(keys)
			})
			setConfig(b, js, "KV_b", map[string]any{"allow_batched": true})
			batched := openBucket(b, benchJetStream(b, url))
			perKey(b, "jskv fast ingest", manyKeys, func() int {
				n, err := batched.PutMany(ctx, pairs)
				if err != nil {
					b.Fatal(err)
				}
				return n
			})
			perKey(b, "fast ingest", manyKeys, func() int { return ingest(b, js.Conn(), keys) })
			perKey(b, "one by one", benchKeys, func() int {
				for _, key := range keys[:benchKeys] {
					if _, err := bucket.Put(ctx, key, benchValue); err != nil {
						b.Fatal(err)
					}
				}
				return benchKeys
			})
		})
	}
}

// ingest is the floor of the server's fast-ingest batches (ADR-50), which are acknowledged by the
// hundred: nothing is kept of what was sent, and whatever fails ends it.
func ingest(b *testing.B, nc *nats.Conn, keys []string) int {
	const window, flow = 2048, 500
	inbox := nc.NewInbox()
	acks, err := nc.SubscribeSync(inbox + ".>")
	require.NoError(b, err)
	defer func() { require.NoError(b, acks.Unsubscribe()) }()
	var ack struct {
		Type  string
		Seq   int // of the batch, and in the last answer of the stream
		Count int
		Error *jetstream.APIError
	}
	receive := func() {
		msg, err := acks.NextMsg(5 * time.Second)
		if err != nil || json.Unmarshal(msg.Data, &ack) != nil || ack.Error != nil {
			b.Fatal(err, ack.Error)
		}
	}
	for i, key := range keys {
		op := 1 // append
		switch i {
		case 0:
			op = 0 // start
		case len(keys) - 1:
			op = 2 // commit
		}
		reply := fmt.Sprintf("%s.batch.%d.fail.%d.%d.$FI", inbox, flow, i+1, op)
		if err := nc.PublishRequest("$KV.b."+key, reply, []byte(benchValue)); err != nil {
			b.Fatal(err)
		}
		for i == 0 && ack.Type == "" || i-ack.Seq >= window {
			receive()
		}
	}
	for ack.Count == 0 {
		receive()
	}
	return ack.Count
}

var storages = map[string]jetstream.StorageType{"file": jetstream.FileStorage, "memory": jetstream.MemoryStorage}

// benchBucket makes a bucket for transactions on a server in a process of its own.
func benchBucket(b *testing.B, storage jetstream.StorageType) (bucket *jskv.Bucket[string], url string) {
	b.Helper()
	url = startBenchServer(b)
	cfg := jetstream.KeyValueConfig{Storage: storage}
	return createBucket(b, benchJetStream(b, url), cfg, jskv.WithTransactions()), url
}

// BenchmarkCommit stores keys in a batch, in a transaction that has read them, and one by one.
func BenchmarkCommit(b *testing.B) {
	for name, storage := range storages {
		for _, n := range []int{2, 10, 100} {
			b.Run(name+"/"+strconv.Itoa(n), func(b *testing.B) {
				bucket, _ := benchBucket(b, storage)
				keys := keyNames(n)
				ctx := b.Context()
				perKey(b, "batch", n, func() int {
					batch := bucket.NewBatch()
					for _, key := range keys {
						batch.Put(key, benchValue)
					}
					revisions, err := batch.Commit(ctx)
					if err != nil {
						b.Fatal(err)
					}
					return len(revisions)
				})
				perKey(b, "transaction", n, func() int {
					_, err := bucket.Transact(ctx, func(tx *jskv.Tx[string]) error {
						entries, err := tx.GetMany(keys...)
						for key, e := range entries {
							tx.Put(key, e.Value)
						}
						return err
					})
					if err != nil {
						b.Fatal(err)
					}
					return n
				})
				perKey(b, "one by one", n, func() int {
					for _, key := range keys {
						if _, err := bucket.Put(ctx, key, benchValue); err != nil {
							b.Fatal(err)
						}
					}
					return n
				})
			})
		}
	}
}

// BenchmarkTransactRivals has eight workers transact on one key. The time of one transaction is
// that of the whole divided by their number: as if they had queued.
func BenchmarkTransactRivals(b *testing.B) {
	const rivals = 8
	for name, storage := range storages {
		b.Run(name, func(b *testing.B) {
			text, url := benchBucket(b, storage)
			var left, runs atomic.Int64
			left.Store(int64(b.N))
			var group sync.WaitGroup
			for i := range rivals {
				handle := jskv.As(openBucket(b, benchJetStream(b, url)), jskv.JSON[int]())
				group.Go(func() {
					for left.Add(-1) >= 0 {
						_, err := handle.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
							runs.Add(1)
							n, err := number(tx, "n")
							tx.Put("n", n+1)
							tx.Put("worker."+strconv.Itoa(i), n)
							return err
						})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(runs.Load())/float64(b.N), "runs/tx")
			n, err := jskv.As(text, jskv.JSON[int]()).Get(b.Context(), "n")
			if err != nil || n != b.N {
				b.Fatal(n, err)
			}
		})
	}
}
