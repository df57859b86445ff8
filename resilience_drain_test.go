package jskv_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// drain drains nc, which goes on until the test ends: a handler of the program is at work as long.
func drain(t testing.TB, nc *nats.Conn) {
	t.Helper()
	busy, done := make(chan struct{}), make(chan struct{})
	_, err := nc.Subscribe("work", func(*nats.Msg) {
		close(busy)
		<-done
	})
	require.NoError(t, err)
	require.NoError(t, nc.Publish("work", nil))
	<-busy
	closed := nc.StatusChanged(nats.CLOSED)
	require.NoError(t, nc.Drain())
	t.Cleanup(func() {
		close(done)
		<-closed
	})
}

// A program that ends drains its connection while its handlers go on. The client has unsubscribed by then from
// where the answers come to that are of several messages: who read hung until the connection was closed.
func TestAHandleGoesOnWhileItsConnectionIsDrained(t *testing.T) {
	t.Parallel()
	inMemory := jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage}
	for name, open := range map[string]func() *reading{
		"one server": func() *reading { return newReading(t, inMemory) },
		"replicas":   func() *reading { return newClusterReading(t, inMemory).reading },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			r := open()
			keys := crowdKeys(t, r.Bucket)
			inCrowd(func(i int) {
				for range 10 {
					_, err := r.Get(ctx, keys[i])
					assert.NoError(t, err)
				}
			})
			w := r.watch()
			nextAll(t, w, len(keys))
			drain(t, r.nc)

			inCrowd(func(i int) {
				value, err := r.Get(ctx, keys[i])
				assert.NoError(t, err)
				assert.Equal(t, keys[i], value)
				revision, err := r.Put(ctx, keys[i], "w")
				assert.NoError(t, err)
				revision, err = r.Update(ctx, keys[i], "x", revision)
				assert.NoError(t, err)
				e, err := r.Entry(ctx, keys[i])
				assert.NoError(t, err)
				assert.Equal(t, revision, e.Revision)
				_, err = r.Get(ctx, "missing")
				assert.ErrorIs(t, err, jskv.ErrKeyNotFound)
			})
			setConfig(t, r.admin, "KV_b", map[string]any{"allow_atomic": true})
			_, err := r.NewBatch().Put("k", "v").Delete(keys[1]).Commit(ctx)
			require.NoError(t, err)
			last, err := r.Modify(ctx, "k", func(jskv.Entry[string], bool) (string, error) { return "w", nil })
			require.NoError(t, err)
			again, err := jskv.OpenBucket(ctx, r.js, "b", jskv.String())
			require.NoError(t, err)
			value, err := again.Get(ctx, keys[0], jskv.AtLeast(last.Revision)) // a replica may lag behind what r wrote
			require.NoError(t, err)
			require.Equal(t, "x", value)

			for {
				if _, err = w.Next(ctx); err != nil { // after what had come before
					break
				}
			}
			require.ErrorIs(t, err, nats.ErrConnectionDraining)
			for name, verb := range map[string]func(context.Context) error{
				"GetMany": func(ctx context.Context) error { return second(r.GetMany(ctx, keys...)) },
				"Keys":    func(ctx context.Context) error { return second(jskv.Collect(r.Keys(ctx))) },
				"Watch":   func(ctx context.Context) error { return second(r.Watch(ctx, jskv.AllKeys)) },
				"PutMany": func(ctx context.Context) error {
					return second(r.PutMany(ctx, func(yield func(string, string) bool) { yield("k", "v") }))
				},
				"Transact": func(ctx context.Context) error {
					return second(r.Transact(ctx, func(tx *jskv.Tx[string]) error { return second(tx.GetMany(keys...)) }))
				},
			} {
				require.ErrorIs(t, verb(ctx), nats.ErrConnectionDraining, name)
			}
		})
	}
}

// So did what was under way.
func TestWhatIsUnderWayWhenItsConnectionIsDrainedEnds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	r := newReading(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	r.fillLong()
	cache, err := r.Cache(ctx, "none.>")
	require.NoError(t, err)
	defer cache.Close()
	var underWay sync.WaitGroup
	underWay.Add(2)
	drained := make(chan struct{})
	stored := 0
	writing := make(chan error, 1)
	go func() {
		writing <- second(r.PutMany(ctx, func(yield func(string, string) bool) {
			for yield("k", "v") {
			}
		}, jskv.Progress(func(done int) {
			if stored = done; done == 1 {
				underWay.Done()
			}
		})))
	}()
	listing := make(chan error, 1)
	go func() {
		_, err := lastPair(t, do(1, func() { underWay.Done(); <-drained }, r.Entries(ctx), func(jskv.Entry[string]) {}))
		listing <- err
	}()
	underWay.Wait()
	drain(t, r.nc)
	close(drained)

	require.ErrorIs(t, <-listing, nats.ErrConnectionDraining)
	err = <-writing
	require.ErrorIs(t, err, nats.ErrConnectionDraining)
	failed, ok := errors.AsType[*jskv.BulkError](err)
	require.True(t, ok)
	require.ErrorIs(t, failed, jskv.ErrOutcomeUnknown)
	require.NotZero(t, stored)
	eventually(t, func() bool { return errors.Is(cache.Err(), nats.ErrConnectionDraining) }, "the cache ends")
}
