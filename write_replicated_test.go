package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// A replicated stream refuses a conditional write when another one to the key is just under way
// (10164), and does not say at which revision the key is: that must not look like a conflict
// where there is none, nor like another error where there is one.
func TestConditionalWritesToAReplicatedBucket(t *testing.T) {
	t.Parallel()
	cluster, b := newReplicatedBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: 3})
	handles := []*jskv.Bucket[string]{b, openBucket(t, cluster.JetStream()), openBucket(t, cluster.JetStream())}

	t.Run("of racing creates one wins", func(t *testing.T) {
		ctx := testContext(t)
		for round := range 10 {
			key := fmt.Sprint("create", round)
			if round%2 == 1 {
				_, err := b.Delete(ctx, key)
				require.NoError(t, err)
			}
			won := 0
			for i, err := range race(func(i int) error { return second(handles[i%3].Create(ctx, key, fmt.Sprint(i))) }) {
				if err == nil {
					won++
					value, err := handles[i%3].Get(ctx, key)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(i), value)
					continue
				}
				requireIs(t, err, jskv.ErrKeyExists)
				require.NotErrorIs(t, err, jskv.ErrRevisionMismatch)
			}
			require.Equal(t, 1, won)
		}
	})
	t.Run("of racing updates one wins and is named", func(t *testing.T) {
		ctx := testContext(t)
		revision := mustPut(t, b, "update", "0")
		for range 10 {
			var won []uint64
			errs := race(func(i int) error {
				newest, err := handles[i%3].Update(ctx, "update", fmt.Sprint(i), revision)
				if err == nil {
					won = append(won, newest) // one alone gets here, or the count is wrong anyway
				}
				return err
			})
			require.Len(t, won, 1)
			for _, err := range errs {
				if err != nil {
					requireConflict(t, err, "update", revision, won[0])
				}
			}
			revision = won[0]
		}
	})
	t.Run("one writer alone has no conflicts", func(t *testing.T) {
		ctx := testContext(t)
		for i := range 60 {
			revision := mustPut(t, b, "alone", fmt.Sprint(i))
			revision, err := b.Update(ctx, "alone", "updated", revision)
			require.NoError(t, err)
			_, err = b.Delete(ctx, "alone", jskv.IfRevision(revision))
			require.NoError(t, err)
			_, err = b.Create(ctx, "alone", "again")
			require.NoError(t, err)
		}
	})
	t.Run("increments are counted once", func(t *testing.T) {
		ctx := testContext(t)
		errs := race(func(i int) error {
			n := jskv.As(handles[i%3], jskv.JSON[int]())
			for range 5 {
				if _, err := n.Modify(ctx, "n", func(current jskv.Entry[int], _ bool) (int, error) { return current.Value + 1, nil }); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(t, errors.Join(errs...))
		cluster.WaitCurrent("b") // or b reads a replica that lags behind what the other handles wrote
		value, err := jskv.As(b, jskv.JSON[int]()).Get(ctx, "n")
		require.NoError(t, err)
		require.Equal(t, 5*racers, value)
		require.Equal(t, fmt.Sprintf("Put %d, Put %d, Put %d", value-2, value-1, value), history(t, b, "n"))
	})
}

const racers = 6

// Most of the servers are gone, so that nobody leads and nobody takes what is written.
func TestWritesWaitUntilThereIsALeader(t *testing.T) {
	t.Parallel()
	cluster, _ := newReplicatedBucket(t, jetstream.KeyValueConfig{}, jskv.WithTransactions())
	left := cluster.Follower("b")
	nc := cluster.ConnTo(left)
	b := openBucket(t, hasty(t, nc, 4*time.Second))
	asked, err := cluster.ConnTo(left).SubscribeSync("$JS.API.STREAM.INFO.KV_b")
	require.NoError(t, err)
	writes := []func(ctx context.Context) error{
		func(ctx context.Context) error { return second(b.Put(ctx, "put", "v")) },
		func(ctx context.Context) error { return second(b.Create(ctx, "created", "v")) },
		func(ctx context.Context) error { return second(twoPuts(b).Commit(ctx)) },
		func(ctx context.Context) error { return second(b.PutMany(ctx, valued([]string{"many", "more"}))) },
	}
	for i, srv := range cluster.Servers() {
		if i != left {
			srv.Stop()
		}
	}
	// What is sent before this server has heard of the end of the others would be lost on its way.
	eventually(t, func() bool {
		_, err := nc.Request("$KV.b.probe", nil, 100*time.Millisecond)
		return errors.Is(err, nats.ErrNoResponders)
	}, "nobody takes writes")
	done := make(chan error, len(writes))
	ctx := testContext(t)
	for _, write := range writes {
		go func() { done <- write(ctx) }()
	}
	for range writes {
		_, err = asked.NextMsgWithContext(testContext(t))
		require.NoError(t, err, "why there is nobody")
	}
	for i, srv := range cluster.Servers() {
		if i != left {
			srv.Start()
		}
	}
	for range writes {
		require.NoError(t, <-done)
	}
	require.Len(t, getMany(t, b, "put", "created", "first", "second", "many", "more"), 6)
}

// race calls run at the same time from several goroutines and returns their errors.
func race(run func(i int) error) []error {
	errs := make([]error, racers)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() { errs[i] = run(i) })
	}
	group.Wait()
	return errs
}
