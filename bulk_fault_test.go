package jskv_test

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
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
	nc := proxy.Conn()
	b := openBucket(t, hasty(t, nc, 5*time.Second))
	lost := proxy.CutOn(jskvtest.ToClient, `"seq":500}`) // an acknowledgement
	keys := numbered(2000)
	n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
		for i, key := range keys {
			if i == 500 {
				<-lost
				eventually(t, func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() }, "it comes back")
			}
			if !yield(key, "v of "+key) {
				return
			}
		}
	}, jskv.MaxPending(1000)) // more than may be lost, so that there is room for others
	failed := requireHonest(t, direct, keys, n, err)
	require.Contains(t, failed.Failed, "n.00499")
	for key, err := range failed.Failed {
		require.LessOrEqual(t, key, "n.00499", "it went on with a new connection")
		requireIs(t, err, jskv.ErrOutcomeUnknown, nats.ErrTimeout)
		require.False(t, jskv.SafeToRetry(err))
	}
}

func TestPutManyWithIdsSendsAgainWhatWasLost(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory)
	proxy := jskvtest.NewProxy(t, server.URL())
	b, err := jskv.OpenBucket(testContext(t), hasty(t, proxy.Conn(), 2*time.Second), "b", jskv.String(), jskv.WithIdempotentWrites())
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

// It was sent and is to be sent again, which its time does not allow.
func TestPutManyWithIdsDoesNotKnowWhatItCouldNotSendAgain(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	near := createBucket(t, srv.JetStream(), jetstream.KeyValueConfig{})
	proxy := jskvtest.NewProxy(t, srv.URL())
	b := openIdempotent(t, hasty(t, proxy.Conn(), 200*time.Millisecond))
	proxy.Stall(jskvtest.ToClient)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	beside := srv.Conn()
	_, err := beside.Subscribe("$JS.API.STREAM.INFO.KV_b", func(*nats.Msg) { cancel() }) // it has waited long enough
	require.NoError(t, err)
	require.NoError(t, beside.Flush())
	done, err := b.PutMany(ctx, maps.All(map[string]string{"k": "v"}))
	require.Zero(t, done)
	requireIs(t, err, jskv.ErrOutcomeUnknown, context.Canceled)
	require.False(t, jskv.SafeToRetry(err))
	eventually(t, func() bool { return history(t, near, "k") == "Put v" }, "it was stored, or is on its way")
}

// The bucket was full, and said so too late: when there was room again, and the write had been sent once more. That
// was taken for the answer to what was stored.
func TestPutManyWithIdsDoesNotTakeALateRefusalForTheAnswerToWhatItSentAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	srv := jskvtest.NewServer(t)
	near := createBucket(t, srv.JetStream(), jetstream.KeyValueConfig{MaxBytes: 1000, Storage: jetstream.MemoryStorage})
	mustPut(t, near, "large", strings.Repeat("v", 800))
	proxy := jskvtest.NewProxy(t, srv.URL())
	b := openIdempotent(t, hasty(t, proxy.Conn(), 500*time.Millisecond))
	beside := srv.Conn()
	sent, err := beside.SubscribeSync("$KV.b.k")
	require.NoError(t, err)
	asked, err := beside.SubscribeSync("$JS.API.STREAM.INFO.KV_b")
	require.NoError(t, err)
	require.NoError(t, beside.Flush())
	proxy.Stall(jskvtest.ToClient)

	var answered sync.WaitGroup
	defer answered.Wait()
	answered.Go(func() {
		n, err := b.PutMany(ctx, maps.All(map[string]string{"k": strings.Repeat("k", 300)}))
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
	_, err = sent.NextMsgWithContext(ctx)
	require.NoError(t, err)
	_, err = near.Put(ctx, "other", strings.Repeat("v", 300))
	require.Error(t, err, "it is full, and has refused what came before")
	_, err = asked.NextMsgWithContext(ctx)
	require.NoError(t, err, "the writer has waited long enough")
	_, err = near.Purge(ctx, "large")
	require.NoError(t, err)
	proxy.Heal()
	answered.Wait()
	require.Len(t, getMany(t, near, "k"), 1)
}

// The older value of a key was lost with the connection, and sent again behind the newer one.
func TestPutManyWithIdsKeepsTheOrderOfOneKey(t *testing.T) {
	t.Parallel()
	for name, acknowledged := range map[string]bool{"the newer one was acknowledged": true, "its acknowledgement was lost too": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := jskvtest.NewServer(t)
			direct := createBucket(t, server.JetStream(), jetstream.KeyValueConfig{History: 5, Storage: jetstream.MemoryStorage})
			proxy := jskvtest.NewProxy(t, server.URL())
			nc := proxy.Conn()
			b, err := jskv.OpenBucket(testContext(t), hasty(t, nc, 2*time.Second), "b", jskv.String(), jskv.WithIdempotentWrites())
			require.NoError(t, err)
			lost := proxy.CutOn(jskvtest.ToServer, "older")
			_, err = b.PutMany(testContext(t), func(yield func(string, string) bool) {
				if !yield("k", "older") {
					return
				}
				<-lost
				eventually(t, func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() }, "it comes back")
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
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		b, server := newBucket(t, inMemory, opts...)
		require.NoError(t, jskv.DeleteBucket(testContext(t), server.JetStream(), "b"))
		ctx := testContext(t)
		begun := time.Now()
		var yielded int
		n, err := b.PutMany(ctx, endless(&yielded))
		require.Less(t, time.Since(begun), soon)
		require.Zero(t, n)
		requireIs(t, err, jskv.ErrBucketNotFound)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown, "nothing was stored")
		requireBulkError(t, err, numbered(yielded)...)
	})
}

// For a moment nobody takes the bucket's writes, as when its leader changes. What was refused then
// is sent again, each key's writes in their order.
// withoutResponders has nobody there for what is published to bucket "b", until a writer has asked whether
// the bucket is there. It returns a function that waits for that.
func withoutResponders(t *testing.T, js jetstream.JetStream) (back func()) {
	t.Helper()
	setConfig(t, js, "KV_b", map[string]any{"subjects": []string{"elsewhere.>"}})
	asked, err := js.Conn().SubscribeSync("$JS.API.STREAM.INFO.KV_b")
	require.NoError(t, err)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_, _ = asked.NextMsg(2 * time.Second)
		setConfig(t, js, "KV_b", map[string]any{"subjects": []string{"$KV.b.>"}})
	})
	return waiting.Wait
}

func TestPutManyOutlastsAMomentWithoutResponders(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		b, server := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: 20}, opts...)
		var value []byte // the sequence yields the same bytes again and again
		n, err := jskv.As(b, jskv.Bytes()).PutMany(testContext(t), func(yield func(string, []byte) bool) {
			for i := range 20 {
				if i == 5 {
					eventually(t, func() bool { return lastRevision(t, b) == 5 }, "those before are stored")
					defer withoutResponders(t, server.JetStream())()
				}
				value = strconv.AppendInt(value[:0], int64(i), 10)
				if !yield([]string{"a", "b", "c"}[i%3], value) {
					return
				}
			}
		})
		require.NoError(t, err)
		require.Equal(t, 20, n)
		require.Equal(t, "Put 0, Put 3, Put 6, Put 9, Put 12, Put 15, Put 18", history(t, b, "a"))
		require.Equal(t, "Put 1, Put 4, Put 7, Put 10, Put 13, Put 16, Put 19", history(t, b, "b"))
		require.Equal(t, "Put 2, Put 5, Put 8, Put 11, Put 14, Put 17", history(t, b, "c"))
	})
}

// Nobody was there once, and after a long time in which all was refused nobody is there for a moment again.
func TestPutManyOutlastsAMomentWithoutRespondersAfterRefusals(t *testing.T) {
	t.Parallel()
	_, server := newBucket(t, jetstream.KeyValueConfig{MaxValueSize: 100})
	const patience = 3 * time.Second // in which the subjects are back for certain
	b := openBucket(t, hasty(t, server.Conn(), patience))
	n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
		tooLarge := strings.Repeat("v", 200)
		back := withoutResponders(t, server.JetStream())
		for _, key := range []string{"large.1", "large.2", "large.3"} {
			require.True(t, yield(key, tooLarge))
		}
		back()
		begun := time.Now()
		eventually(t, func() bool { return time.Since(begun) > patience }, "that is long ago")
		back = withoutResponders(t, server.JetStream())
		_ = yield("small.1", "v") && yield("small.2", "v")
		back()
	}, jskv.MaxPending(1))
	require.Equal(t, 2, n)
	failed, _ := errors.AsType[*jskv.BulkError](err)
	require.Len(t, failed.Failed, 3)
	requireIs(t, failed.Failed["large.3"], jskv.ErrValueTooLarge)
}

func TestPutManyLeavesNothingBehindWhenItsSequencePanics(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		server := jskvtest.NewServer(t)
		nc := server.Conn()
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		b := createBucket(t, js, inMemory, opts...)
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
		calls := 0
		require.PanicsWithValue(t, "enough", func() {
			_, _ = b.PutMany(testContext(t), valued(numbered(10_000)), jskv.Progress(func(done int) {
				if done >= 1000 {
					calls++
					panic("enough")
				}
			}))
		})
		require.Equal(t, 1, calls, "what panicked is not called again")
		require.Equal(t, subs, nc.NumSubscriptions())
		require.NoError(t, nc.Flush())
		store(t, b, numbered(100))
		require.Equal(t, subs, nc.NumSubscriptions())
	})
}

// Nobody took what a sequence had yielded when it panicked.
func TestPutManyCountsNothingThatWasNotWrittenWhenItsSequencePanics(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		server := jskvtest.NewServer(t)
		nc := server.Conn()
		b := createBucket(t, hasty(t, nc, 5*time.Second), inMemory, opts...)
		require.NoError(t, jskv.DeleteBucket(testContext(t), server.JetStream(), "b"))
		done := 0
		require.PanicsWithValue(t, "enough", func() {
			_, _ = b.PutMany(testContext(t), func(yield func(string, string) bool) {
				yield("k", "v")
				require.NoError(t, nc.Flush()) // behind which is the answer that nobody is there
				panic("enough")
			}, jskv.Progress(func(n int) { done = n }))
		})
		require.Zero(t, done)
	})
}

func TestPutManyOnAClosedConnection(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		server := jskvtest.NewServer(t)
		direct := createBucket(t, server.JetStream(), inMemory, opts...)
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
	})
}

// lostMany is a PutMany with ids, all of whose writes were stored and none of whose answers came.
type lostMany struct {
	proxy *jskvtest.Proxy // takes no new connections, until Heal
	done  chan struct{}
	n     int // what it returned
	err   error
}

// loseMany stores pairs of keys and values and loses the answers. near is another handle on the bucket, url
// the address of one of its servers.
func loseMany(t *testing.T, near *jskv.Bucket[string], url string, pairs ...string) *lostMany {
	t.Helper()
	l := &lostMany{proxy: jskvtest.NewProxy(t, url), done: make(chan struct{})}
	b := openIdempotent(t, firstOf(t, l.proxy.URL()))
	before := lastRevision(t, near)
	l.proxy.Stall(jskvtest.ToClient)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	go func() {
		defer close(l.done)
		l.n, l.err = b.PutMany(ctx, func(yield func(string, string) bool) {
			for i := 0; i < len(pairs) && yield(pairs[i], pairs[i+1]); i += 2 {
			}
		})
	}()
	eventually(t, func() bool { return lastRevision(t, near) == before+uint64(len(pairs)/2) }, "all are stored")
	l.proxy.Refuse()
	l.proxy.Reset()
	return l
}

func TestPutManyWithIdsFindsWhatWasStoredAndDoesNotStoreItAgain(t *testing.T) {
	t.Parallel()
	onOneAndThree(t, func(t *testing.T, near *jskv.Bucket[string], url string) {
		l := loseMany(t, near, url, "a", "mine", "b", "mine", "b", "mine again", "c", "mine")
		mustPut(t, near, "b", "theirs")
		_, err := near.Delete(testContext(t), "c")
		require.NoError(t, err)
		stored := lastRevision(t, near)
		l.proxy.Heal()
		<-l.done
		require.NoError(t, l.err)
		require.Equal(t, 4, l.n)
		require.Equal(t, "Put mine", history(t, near, "a"))
		require.Equal(t, "Put mine, Put mine again, Put theirs", history(t, near, "b"))
		require.Equal(t, "Put mine, Delete", history(t, near, "c"))
		require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
	})
}

// Asked for one after the other, what was lost took longer than its time where the server is far.
func TestPutManyWithIdsFindsManyAtATime(t *testing.T) {
	t.Parallel()
	near, server := newBucket(t, inMemory)
	var pairs []string
	for _, key := range numbered(500) {
		pairs = append(pairs, key, "v of "+key)
	}
	l := loseMany(t, near, server.URL(), pairs...)
	l.proxy.Heal()
	const away = 50 * time.Millisecond
	l.proxy.Delay(jskvtest.ToClient, away)
	begun := time.Now()
	<-l.done
	require.NoError(t, l.err)
	require.Equal(t, 500, l.n)
	require.Less(t, time.Since(begun), 500*away/2)
	require.EqualValues(t, 500, lastRevision(t, near), "none was stored twice")
}

// A server that restarts knows the ids of what is still stored. What others have written since looks
// new to it, and was put back over what they wrote.
func TestPutManyWithIdsDoesNotPutBackWhatItsServerHasForgotten(t *testing.T) {
	t.Parallel()
	near, server := newBucket(t, jetstream.KeyValueConfig{})
	l := loseMany(t, near, server.URL(), "a", "mine", "b", "mine", "c", "mine", "d", "older", "d", "newer", "e", "older", "e", "newer")
	mustPut(t, near, "b", "theirs")
	_, err := near.Delete(testContext(t), "c")
	require.NoError(t, err)
	mustPut(t, near, "e", "theirs")
	stored := lastRevision(t, near)
	server.Restart()
	l.proxy.Heal()
	<-l.done
	failed := requireBulkError(t, l.err, "b", "c", "e")
	for _, err := range failed.Failed {
		requireIs(t, err, jskv.ErrOutcomeUnknown)
		require.False(t, jskv.SafeToRetry(err))
	}
	require.Equal(t, 3, l.n, "a, and d twice: the newer one has replaced the older one")
	for key, is := range map[string]string{"a": "Put mine", "b": "Put theirs", "c": "Delete", "d": "Put newer", "e": "Put theirs"} {
		require.Equal(t, is, history(t, near, key), key)
	}
	require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
}

// The key has changed since, so that a server which has forgotten the newer write could not tell; but
// it knows the older one, and nobody has written behind that.
func TestPutManyWithIdsSendsAgainWhatCannotHaveBeenStoredBehindItsOlderWrite(t *testing.T) {
	t.Parallel()
	near, server := newBucket(t, jetstream.KeyValueConfig{History: 5})
	proxy := jskvtest.NewProxy(t, server.URL())
	b := openIdempotent(t, firstOf(t, proxy.URL()))
	proxy.Stall(jskvtest.ToClient)
	lost := proxy.CutOn(jskvtest.ToServer, "newer")
	n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
		if !yield("k", "older") {
			return
		}
		eventually(t, func() bool { return len(getMany(t, near, "k")) == 1 }, "the older one is stored")
		proxy.Refuse()
		if !yield("k", "newer") {
			return
		}
		<-lost
		server.Restart()
		proxy.Heal()
	})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, "Put older, Put newer", history(t, near, "k"))
	require.EqualValues(t, 2, lastRevision(t, near))
}

func TestPutManyWithIdsOutlivesItsLeader(t *testing.T) {
	t.Parallel()
	cluster, _ := newReplicatedBucket(t, jetstream.KeyValueConfig{})
	leader, other := cluster.Server(cluster.Leader("b")), cluster.Server(cluster.Follower("b"))
	near := openBucket(t, other.JetStream())
	// Finding out what became of two thousand writes takes its time on a slow machine.
	b := openIdempotent(t, hasty(t, firstOf(t, leader.URL(), other.URL()).Conn(), 20*time.Second))
	keys := numbered(20_000)
	n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
		for i, key := range keys {
			if i == len(keys)/2 {
				leader.Stop()
			}
			if !yield(key, "v of "+key) {
				return
			}
		}
	})
	require.NoError(t, err)
	require.Equal(t, len(keys), n)
	cluster.WaitCurrent("b") // or near reads a replica that lags behind what b wrote
	requireValued(t, getMany(t, near, keys...), keys)
	require.EqualValues(t, len(keys), lastRevision(t, near), "none was stored twice")
}
