package jskv_test

import (
	"context"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

func TestPutManyReportsWhatWasLostWithAConnection(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory)
	proxy := jskvtest.NewProxy(t, server.URL())
	b := openBucket(t, hasty(t, proxy.Conn(), 500*time.Millisecond))
	lost := proxy.CutOn(jskvtest.ToClient, `"seq":500}`) // an acknowledgement
	keys := numbered(2000)
	n, err := b.PutMany(testContext(t), valued(keys), jskv.MaxPending(50))
	<-lost
	failed := requireHonest(t, direct, keys, n, err)
	require.Contains(t, failed.Failed, "n.00499")
	require.LessOrEqual(t, len(failed.Failed), 50, "it went on with a new connection")
	for _, err := range failed.Failed {
		requireIs(t, err, jskv.ErrOutcomeUnknown, nats.ErrTimeout)
		require.False(t, jskv.SafeToRetry(err))
	}
}

func TestPutManyWithIdsSendsAgainWhatWasLost(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory)
	proxy := jskvtest.NewProxy(t, server.URL())
	b, err := jskv.OpenBucket(testContext(t), hasty(t, proxy.Conn(), 500*time.Millisecond), "b", jskv.String(), jskv.WithIdempotentWrites())
	require.NoError(t, err)
	keys := numbered(2000)
	lost := proxy.CutOn(jskvtest.ToClient, `"seq":500}`)
	unsent := proxy.CutOn(jskvtest.ToServer, "v of n.01500")
	n, err := b.PutMany(testContext(t), valued(keys), jskv.MaxPending(50))
	require.NoError(t, err)
	<-lost
	<-unsent
	require.Equal(t, len(keys), n)
	requireValued(t, getMany(t, direct, keys...), keys)
	info, err := direct.Stream().Info(testContext(t))
	require.NoError(t, err)
	require.EqualValues(t, len(keys), info.State.LastSeq, "none was stored twice")
}

// The older value of a key was lost with the connection, and sent again behind the newer one.
// It was sent and is to be sent again, which its time does not allow.
func TestPutManyWithIdsDoesNotKnowWhatItCouldNotSendAgain(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	near := createBucket(t, srv.JetStream(), jetstream.KeyValueConfig{})
	proxy := jskvtest.NewProxy(t, srv.URL())
	b := openIdempotent(t, hasty(t, proxy.Conn(), 200*time.Millisecond))
	proxy.Stall(jskvtest.ToClient)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	done, err := b.PutMany(ctx, maps.All(map[string]string{"k": "v"}))
	require.Zero(t, done)
	requireIs(t, err, jskv.ErrOutcomeUnknown)
	require.False(t, jskv.SafeToRetry(err))
	require.Equal(t, "Put v", history(t, near, "k"), "it was stored")
}

func TestPutManyWithIdsKeepsTheOrderOfOneKey(t *testing.T) {
	t.Parallel()
	for name, acknowledged := range map[string]bool{"the newer one was acknowledged": true, "its acknowledgement was lost too": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := jskvtest.NewServer(t)
			direct := createBucket(t, server.JetStream(), jetstream.KeyValueConfig{History: 5, Storage: jetstream.MemoryStorage})
			proxy := jskvtest.NewProxy(t, server.URL())
			nc := proxy.Conn()
			b, err := jskv.OpenBucket(testContext(t), hasty(t, nc, 500*time.Millisecond), "b", jskv.String(), jskv.WithIdempotentWrites())
			require.NoError(t, err)
			lost := proxy.CutOn(jskvtest.ToServer, "older")
			_, err = b.PutMany(testContext(t), func(yield func(string, string) bool) {
				if !yield("k", "older") {
					return
				}
				<-lost
				eventually(t, func() bool { return nc.Stats().Reconnects == 1 && nc.IsConnected() }, "it comes back")
				if !acknowledged {
					lost = proxy.CutOn(jskvtest.ToClient, `"seq":1}`)
				}
				if !yield("k", "newer") {
					return
				}
				eventually(t, func() bool { return len(getMany(t, direct, "k")) == 1 }, "the newer one is stored")
				<-lost
				yield("other", "v")
			})
			require.NoError(t, err)
			require.Equal(t, "newer", getMany(t, direct, "k")["k"].Value)
		})
	}
}

func TestPutManyIntoADeletedBucketSaysSoAtOnce(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory)
	require.NoError(t, jskv.DeleteBucket(testContext(t), server.JetStream(), "b"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	begun := time.Now()
	var yielded int
	n, err := b.PutMany(ctx, endless(&yielded))
	require.Less(t, time.Since(begun), 5*time.Second)
	require.Zero(t, n)
	requireIs(t, err, jskv.ErrBucketNotFound)
	require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown, "nothing was stored")
	requireBulkError(t, err, numbered(yielded)...)
}

// For a moment nobody takes the bucket's writes, as when its leader changes. What was refused then
// is sent again, each key's writes in their order.
func TestPutManyOutlastsAMomentWithoutResponders(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: 20})
	js := server.JetStream()
	var back sync.WaitGroup
	n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
		for i := range 20 {
			if i == 5 {
				eventually(t, func() bool { return lastRevision(t, b) == 5 }, "those before are stored")
				setConfig(t, js, "KV_b", map[string]any{"subjects": []string{"elsewhere.>"}})
				asked, err := js.Conn().SubscribeSync("$JS.API.STREAM.INFO.KV_b")
				require.NoError(t, err)
				back.Go(func() {
					_, _ = asked.NextMsg(2 * time.Second) // whether the stream is there
					setConfig(t, js, "KV_b", map[string]any{"subjects": []string{"$KV.b.>"}})
				})
			}
			if !yield([]string{"a", "b", "c"}[i%3], strconv.Itoa(i)) {
				return
			}
		}
	})
	back.Wait()
	require.NoError(t, err)
	require.Equal(t, 20, n)
	require.Equal(t, "Put 0, Put 3, Put 6, Put 9, Put 12, Put 15, Put 18", history(t, b, "a"))
	require.Equal(t, "Put 1, Put 4, Put 7, Put 10, Put 13, Put 16, Put 19", history(t, b, "b"))
	require.Equal(t, "Put 2, Put 5, Put 8, Put 11, Put 14, Put 17", history(t, b, "c"))
}

func TestPutManyLeavesNothingBehindWhenItsSequencePanics(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	nc := server.Conn()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	b := createBucket(t, js, inMemory)
	subs := nc.NumSubscriptions()
	require.PanicsWithValue(t, "enough", func() {
		_, _ = b.PutMany(testContext(t), func(yield func(string, string) bool) {
			for _, key := range numbered(100) {
				yield(key, "v")
			}
			panic("enough")
		})
	})
	require.PanicsWithValue(t, "enough", func() {
		_, _ = b.PutMany(testContext(t), valued(numbered(100)), jskv.Progress(func(int) { panic("enough") }))
	})
	require.Equal(t, subs, nc.NumSubscriptions())
	require.NoError(t, nc.Flush())
	store(t, b, numbered(100))
	require.Equal(t, subs, nc.NumSubscriptions())
}

func TestPutManyOnAClosedConnection(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory)
	nc := server.Conn()
	b := openBucket(t, hasty(t, nc, time.Minute))
	var asked []string
	n, err := b.PutMany(context.Background(), func(yield func(string, string) bool) {
		for _, key := range numbered(5000) {
			if len(asked) == 2000 {
				nc.Close()
			}
			asked = append(asked, key)
			if !yield(key, "v of "+key) {
				return
			}
		}
	}, jskv.MaxPending(50))
	require.Less(t, len(asked), 2100, "it ended")
	requireIs(t, err, nats.ErrConnectionClosed)
	requireHonest(t, direct, asked, n, err)
	n, err = b.PutMany(context.Background(), valued(asked))
	require.Zero(t, n)
	requireIs(t, err, nats.ErrConnectionClosed)
	require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
}
