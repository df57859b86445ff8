package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// A batch ends with the first write that fails; what was on its way behind it has to be sent again.
func TestPutManyStoresWhatIsBehindAFailureInItsOrder(t *testing.T) {
	for name, every := range map[string]int{"one": 1500, "every other": 2, "every hundredth": 100} {
		t.Run(name, func(t *testing.T) {
			onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
				b, server := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: 64, MaxValueSize: 100}, opts...)
				spy := spyOnBatches(t, server.Conn())
				keys := numbered(100)
				want := map[string][]string{}
				failed := map[string]bool{}
				total := 0
				n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
					for i := range 3000 {
						key, value := keys[i%len(keys)], "v"+strings.Repeat("x", i%64)
						if i%every == every-1 {
							value = strings.Repeat("x", 101)
							key = "large." + key
							failed[key] = true
						} else {
							want[key] = append(want[key], "Put "+value)
							total++
						}
						if !yield(key, value) {
							return
						}
					}
				}, few)
				require.Equal(t, total, n)
				requireIs(t, err, jskv.ErrValueTooLarge)
				requireBulkError(t, err, sortedKeys(failed)...)
				for key, values := range want {
					require.Equal(t, strings.Join(values, ", "), history(t, b, key))
				}
				require.EqualValues(t, total, lastRevision(t, b), "none was stored twice")
				eventually(t, func() bool { return len(opts) > 0 == (spy.look().batched > 0) }, "it is written in batches where that is allowed")
			})
		})
	}
}

// The server tells over the next connection how much of the batch it has stored.
func TestPutManyFindsOutWhatABatchStoredBeforeTheConnectionWasLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]struct {
		dir     jskvtest.Direction
		pattern string
	}{
		"an acknowledgement was lost": {jskvtest.ToClient, `"type":"ack","seq":16`},
		"a write was lost":            {jskvtest.ToServer, "v of n.01500"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := jskvtest.NewServer(t)
			direct := createBucket(t, server.JetStream(), inMemory, jskv.WithFastIngest())
			spy := spyOnBatches(t, server.Conn())
			proxy := jskvtest.NewProxy(t, server.URL())
			nc := proxy.Conn()
			b := openBucket(t, hasty(t, nc, 5*time.Second))
			lost := proxy.CutOn(lose.dir, lose.pattern)
			keys := numbered(3000)
			n, err := b.PutMany(testContext(t), valued(keys), few)
			<-lost
			require.NoError(t, err)
			require.Equal(t, len(keys), n)
			requireValued(t, getMany(t, direct, keys...), keys)
			require.EqualValues(t, len(keys), lastRevision(t, direct), "none was stored twice")
			eventually(t, func() bool { return spy.look().begun > 1 }, "it goes on with another batch")
		})
	}
}

// What a server was storing when it stopped may be stored or not.
func TestPutManyThroughARestartOfTheServer(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		putThroughRestart(t, 2*time.Second, func(*jskv.Bucket[string]) {}, opts...)
	})
}

// With its memory of the batch a server loses what it would say of it. A batch that it ends as it stops is
// another matter: what it did not store is sent one by one then, and lost.
func TestPutManyGoesOnWithAnotherBatchAfterARestartOfTheServer(t *testing.T) {
	t.Parallel()
	asked := putThroughRestart(t, 20*time.Second, func(b *jskv.Bucket[string]) {
		eventually(t, func() bool { return lastRevision(t, b) == 1500 }, "it has stored all")
	}, jskv.WithFastIngest())
	require.Len(t, asked, 3000)
}

// putThroughRestart has the server restart amid many writes, once ready has returned. What is lost is waited for
// with patience. It returns the keys that were asked for.
func putThroughRestart(t *testing.T, patience time.Duration, ready func(*jskv.Bucket[string]), opts ...jskv.BucketOption) (asked []string) {
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), jetstream.KeyValueConfig{}, opts...)
	nc := server.Conn()
	b := openBucket(t, hasty(t, nc, patience))
	n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
		for i, key := range numbered(3000) {
			if i == 1500 {
				ready(direct)
				server.Restart()
				eventually(t, nc.IsConnected, "it comes back")
			}
			if asked = append(asked, key); !yield(key, "v of "+key) {
				return
			}
		}
	}, few)
	if err == nil { // it was so slow to stop that everything was acknowledged before
		require.Equal(t, len(asked), n)
		requireValued(t, getMany(t, direct, asked...), asked)
		return asked
	}
	failed := requireHonest(t, direct, asked, n, err)
	require.LessOrEqual(t, len(failed.Failed), 64+1)
	return asked
}

func TestPutManyOfAKeyThatMayNotBeWrittenInABatch(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		const users = `authorization: { users: [
			{user: "all", password: "p"},
			{user: "some", password: "p", permissions: {publish: {deny: "$KV.b.n.01500"}}}
		]}`
		srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
			if err := o.ProcessConfigString(users); err != nil {
				t.Error(err)
			}
		}))
		all := createBucket(t, srv.JetStream(nats.UserInfo("all", "p")), inMemory, opts...)
		b := openBucket(t, hasty(t, srv.Conn(nats.UserInfo("some", "p"), quiet), untilReported))
		keys := numbered(3000)
		onceInThree(t, true, func() (told bool) {
			n, err := b.PutMany(context.Background(), valued(keys), few)
			t.Log(err)
			require.Equal(t, len(keys)-1, n)
			failed := requireBulkError(t, err, keys[1500])
			return errors.Is(err, jskv.ErrPermission) && !errors.Is(failed.Failed[keys[1500]], jskv.ErrOutcomeUnknown)
		}, "it may not, and nothing was stored")
		require.Len(t, getMany(t, all, keys...), len(keys)-1)
	})
}

// A bucket that is deleted under way takes with it what the server would say of the batch.
func TestPutManyOfABucketThatIsDeletedMeanwhile(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		promptly(t, 3*time.Second, func() time.Duration {
			b, server := newBucket(t, inMemory, opts...)
			keys := numbered(3000)
			begun := time.Now()
			n, err := b.PutMany(testContext(t), waiting(keys, map[int]func(){1500: func() {
				eventually(t, func() bool { return lastRevision(t, b) == 1500 }, "those before are stored")
				require.NoError(t, jskv.DeleteBucket(testContext(t), server.JetStream(), "b"))
				begun = time.Now()
			}}), few)
			took := time.Since(begun)
			requireIs(t, err, jskv.ErrBucketNotFound)
			require.LessOrEqual(t, n, 1500)
			require.GreaterOrEqual(t, n, 1500-64)
			return took
		})
	})
}

// Everything was stored and nothing heard, not even that the batch was begun; and then the server that
// knew it was gone. Sent again, it was all stored twice.
func TestPutManyDoesNotKnowOfABatchThatIsForgottenBeforeItIsHeardOf(t *testing.T) {
	t.Parallel()
	onceInThree(t, true, func() (inBatch bool) {
		near, server := newBucket(t, jetstream.KeyValueConfig{}, jskv.WithFastIngest())
		spy := spyOnBatches(t, server.Conn())
		proxy := jskvtest.NewProxy(t, server.URL())
		nc := proxy.Conn()
		b := openBucket(t, hasty(t, nc, 5*time.Second))
		keys := numbered(100)
		heard := nc.Stats().InMsgs
		n, err := b.PutMany(testContext(t), waiting(keys, map[int]func(){
			1: func() {
				eventually(t, func() bool { return nc.Stats().InMsgs > heard }, "the first is acknowledged, by itself")
				require.NoError(t, nc.Flush()) // behind the acknowledgement
				proxy.Stall(jskvtest.ToClient)
			},
			50: func() { // not where the machine stands still before: a batch is ended then, and waited for
				eventually(t, func() bool { return lastRevision(t, near) == 50 }, "those before are stored")
				proxy.Refuse()
				proxy.Reset()
				eventually(t, func() bool { return spy.look().batched+spy.alone == 50 }, "they have come")
				inBatch = spy.begun == 1 && spy.batched == 49
				server.Restart()
				proxy.Heal()
				eventually(t, func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() }, "it comes back")
			},
		}))
		if !inBatch {
			return false
		}
		failed := requireHonest(t, near, keys, n, err)
		require.Equal(t, keys[1:50], slices.Sorted(maps.Keys(failed.Failed)), "it goes on")
		for _, err := range failed.Failed {
			requireIs(t, err, jskv.ErrOutcomeUnknown)
		}
		require.EqualValues(t, len(keys), lastRevision(t, near), "none was stored twice")
		return true
	}, "they come in a batch")
}

// A connection that is lost all the time. Over the next one the server tells what it has stored: of a
// batch, or under an id.
func TestPutManyThroughManyCutsStoresOnceAndInOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		made   []jskv.BucketOption
		opened []jskv.BucketOption
		whole  bool // no write is replaced by a newer one of its key before it can be sent again
	}{
		"in batches": {made: []jskv.BucketOption{jskv.WithFastIngest()}, whole: true},
		"with ids":   {opened: []jskv.BucketOption{jskv.WithIdempotentWrites()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const keys, values = 20, 60
			filler := strings.Repeat("x", 2000) // so that some are being published when a connection breaks
			near, server := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: 64}, test.made...)
			proxy := jskvtest.NewProxy(t, server.URL())
			b, err := jskv.OpenBucket(testContext(t), hasty(t, proxy.Conn(quiet), 5*time.Second), "b", jskv.String(), test.opened...)
			require.NoError(t, err)
			end := time.Now().Add(*duration)
			for round := 0; round < 2 || time.Now().Before(end); round++ {
				key := func(i int) string { return fmt.Sprintf("r%d.%d", round, i%keys) }
				n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
					for i := range keys * values {
						if i%300 == 150+round%100 {
							proxy.Reset()
						}
						if !yield(key(i), fmt.Sprintf("%02d", i/keys)+filler) {
							return
						}
					}
				}, few) // so that none is on its way by itself when there are batches
				require.NoError(t, err)
				require.Equal(t, keys*values, n)
				for i := range keys {
					is := strings.Split(history(t, near, key(i)), ", ")
					for j, value := range is[1:] {
						require.Less(t, is[j], value)
					}
					require.Equal(t, "Put 59"+filler, is[len(is)-1])
					if test.whole {
						require.Len(t, is, values)
					}
				}
			}
		})
	}
}
