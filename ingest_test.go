package jskv_test

import (
	"context"
	"errors"
	"iter"
	"strconv"
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

// batchSpy sees everything that is sent to bucket "b".
type batchSpy struct {
	t                    testing.TB
	sub                  *nats.Subscription
	begun, batched, ends int // batches, writes in them, and messages that end one
	alone                int // other writes
	marks                int
	open                 bool // the newest message leaves a batch open
}

func spyOnBatches(t testing.TB, nc *nats.Conn) *batchSpy {
	t.Helper()
	sub, err := nc.SubscribeSync(">")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	return &batchSpy{t: t, sub: sub}
}

// look counts what has come.
func (s *batchSpy) look() *batchSpy {
	s.t.Helper()
	msg, err := s.sub.NextMsg(0)
	for ; err == nil; msg, err = s.sub.NextMsg(0) {
		if msg.Subject == "mark" {
			s.marks++
		}
		if !strings.HasPrefix(msg.Subject, "$KV.b.") {
			continue
		}
		operation, batched := strings.CutSuffix(msg.Reply, ".$FI")
		s.open = batched && !strings.HasSuffix(operation, ".3")
		switch {
		case !batched:
			s.alone++
		case strings.HasSuffix(operation, ".3"):
			s.ends++
		case strings.HasSuffix(operation, ".0"):
			s.begun++
			fallthrough
		default:
			s.batched++
		}
	}
	require.ErrorIs(s.t, err, nats.ErrTimeout)
	return s
}

// all counts what sender has sent until now.
func (s *batchSpy) all(sender *nats.Conn) *batchSpy {
	s.t.Helper()
	marks := s.marks
	require.NoError(s.t, sender.Publish("mark", nil))
	eventually(s.t, func() bool { return s.look().marks > marks }, "what was sent last has come")
	return s
}

// few lets acknowledgements come before everything has been sent, so that there are batches.
var few = jskv.MaxPending(64)

func TestPutManyIsAcknowledgedByTheHundred(t *testing.T) {
	t.Parallel()
	_, server := newBucket(t, inMemory, jskv.WithFastIngest())
	spy := spyOnBatches(t, server.Conn())
	nc := server.Conn()
	b := openBucket(t, hasty(t, nc, 5*time.Second))
	keys := numbered(20_000)
	before := nc.Stats().InMsgs
	store(t, b, keys)
	require.Less(t, int(nc.Stats().InMsgs-before), len(keys)/4)
	requireValued(t, getMany(t, b, keys...), keys)
	spy.all(nc)
	require.Greater(t, spy.batched, len(keys)*3/4)
	require.Equal(t, spy.begun, spy.ends, "each was ended, which is when its revisions are known")
}

// What Progress reports has been acknowledged, so a handle's reads have to have seen it.
func TestReadsHaveSeenWhatABatchStoredAlsoThroughAMirror(t *testing.T) {
	t.Parallel()
	_, server := newBucket(t, inMemory, jskv.WithFastIngest())
	spy := spyOnBatches(t, server.Conn())
	js := server.JetStream()
	mirrorOf(t, js, openBucket(t, js), &jetstream.StreamSource{Name: "b"})
	keys := numbered(1000)
	for round := range 50 {
		b := openBucket(t, js) // does not know of the mirror
		want := strconv.Itoa(round)
		n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
			for _, key := range keys {
				if !yield(key, want) {
					return
				}
			}
		}, few)
		require.NoError(t, err)
		require.Equal(t, len(keys), n)
		value, err := b.Get(testContext(t), keys[999])
		require.NoError(t, err)
		require.Equal(t, want, value)
		spy.look()
	}
	eventually(t, func() bool { return spy.look().begun > 25 }, "it was written in batches")
}

func TestPutManyDoesWithoutBatchesWhereTheyWouldChangeSomething(t *testing.T) {
	t.Parallel()
	for because, test := range map[string]struct {
		cfg     jetstream.KeyValueConfig
		open    []jskv.BucketOption
		options []jskv.BulkOption
	}{
		"the bucket may be full":                    {cfg: jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, MaxBytes: 1 << 20}},
		"writes have ids":                           {cfg: inMemory, open: []jskv.BucketOption{jskv.WithIdempotentWrites()}},
		"so few may be pending that nothing is won": {cfg: inMemory, options: []jskv.BulkOption{jskv.MaxPending(7)}},
	} {
		t.Run(because, func(t *testing.T) {
			t.Parallel()
			_, server := newBucket(t, test.cfg, jskv.WithFastIngest())
			spy := spyOnBatches(t, server.Conn())
			nc := server.Conn()
			b, err := jskv.OpenBucket(testContext(t), hasty(t, nc, 5*time.Second), "b", jskv.String(), test.open...)
			require.NoError(t, err)
			keys := numbered(3000)
			n, err := b.PutMany(testContext(t), valued(keys), test.options...)
			require.NoError(t, err)
			require.Equal(t, len(keys), n)
			require.Zero(t, spy.all(nc).batched)
		})
	}
}

// A replica or a mirror has to know the revision that it must have seen.
func TestPutManyDoesWithoutBatchesWhereOthersAnswerReads(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, b *jskv.Bucket[string], nc *nats.Conn) {
		spy := spyOnBatches(t, nc)
		keys := numbered(3000)
		store(t, b, keys)
		other := openBucket(t, hasty(t, nc, 5*time.Second))
		eventually(t, func() bool { return len(getMany(t, other, keys...)) == len(keys) }, "who answers has them")
		requireValued(t, getMany(t, other, keys...), keys)
		eventually(t, func() bool { return spy.look().alone >= len(keys) }, "all writes have come")
		require.Zero(t, spy.batched)
	}
	t.Run("in a cluster", func(t *testing.T) {
		t.Parallel()
		cluster, _ := newReplicatedBucket(t, inMemory, jskv.WithFastIngest())
		nc := cluster.ConnTo(cluster.Leader("b"))
		check(t, openBucket(t, hasty(t, nc, 5*time.Second)), nc)
	})
	t.Run("through a mirror", func(t *testing.T) {
		t.Parallel()
		b, server := newBucket(t, inMemory, jskv.WithFastIngest())
		mirror := mirrorOf(t, server.JetStream(), b, &jetstream.StreamSource{Name: "b"})
		_, err := mirror.Put(testContext(t), "k", "v", jskv.TTL(time.Second))
		requireIs(t, err, jskv.ErrInvalidOption) // it has looked at what its origin allows
		check(t, mirror, server.Conn())
	})
}

// A full bucket takes what replaces as much as it brings. In a batch the server refuses it.
func TestPutManyOverwritesInABucketThatIsFull(t *testing.T) {
	onEitherKind(t, func(t *testing.T, opts ...jskv.BucketOption) {
		cfg := inMemory
		cfg.MaxBytes = 20_000
		b, server := newBucket(t, cfg, opts...)
		n, err := b.PutMany(testContext(t), valued(numbered(3000)), few)
		requireIs(t, err, jskv.ErrBucketFull)
		again := numbered(n)
		store(t, b, again)
		setConfig(t, server.JetStream(), "KV_b", map[string]any{"max_bytes": -1})
		early := openBucket(t, server.JetStream()) // does not know that it is full
		setConfig(t, server.JetStream(), "KV_b", map[string]any{"max_bytes": 20_000})
		store(t, early, again)
	})
}

// waiting yields keys, and calls wait before the ones that it has something for.
func waiting(keys []string, wait map[int]func()) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i, key := range keys {
			if do := wait[i]; do != nil {
				do()
			}
			if !yield(key, "v of "+key) {
				return
			}
		}
	}
}

// A server forgets a batch after a while without a message, and does not say what it has stored.
func TestPutManyEndsABatchThatHasToWait(t *testing.T) {
	t.Parallel()
	for name, patience := range map[string]time.Duration{"in time": time.Second, "when the server has forgotten it": 100 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) { o.JetStreamLimits.MaxBatchTimeout = patience }))
			createBucket(t, server.JetStream(), inMemory, jskv.WithFastIngest())
			spy := spyOnBatches(t, server.Conn())
			nc := server.Conn()
			b := openBucket(t, hasty(t, nc, 5*time.Second))
			keys := numbered(3000)
			begun, done := 0, 0
			ended := func() {
				spy.all(nc)
				eventually(t, func() bool { return !spy.look().open }, "it is ended")
				require.Greater(t, spy.begun, begun)
				begun = spy.begun
			}
			n, err := b.PutMany(testContext(t), waiting(keys, map[int]func(){
				1000: ended,
				1001: func() { require.GreaterOrEqual(t, done, 1000, "progress is reported with the next") },
				2000: ended,
			}), few, jskv.Progress(func(n int) { done = n }))
			require.NoError(t, err)
			require.Equal(t, len(keys), n)
			requireValued(t, getMany(t, b, keys...), keys)
			require.EqualValues(t, len(keys), lastRevision(t, b), "none was stored twice")
		})
	}
}

func TestPutManyReportsWhatIsWrittenSlowlyInTime(t *testing.T) {
	t.Parallel()
	promptly(t, 2*time.Second, func() (latest time.Duration) {
		b, server := newBucket(t, inMemory, jskv.WithFastIngest())
		spy := spyOnBatches(t, server.Conn())
		const pairs = 300
		var sent [pairs]time.Time
		n, err := b.PutMany(testContext(t), func(yield func(string, string) bool) {
			for i, key := range numbered(pairs) {
				sent[i] = time.Now()
				if spy.look().begun > 3 || !yield(key, "v") {
					return
				}
				eventually(t, func() bool { return lastRevision(t, b) == uint64(i+1) }, "it is stored")
			}
		}, jskv.Progress(func(done int) { latest = max(latest, time.Since(sent[done-1])) }))
		require.NoError(t, err)
		require.EqualValues(t, lastRevision(t, b), n)
		eventually(t, func() bool { return spy.look().begun > 1 }, "it was written in batches")
		return latest
	})
}

// The stream stops taking batches, or has no room for one more.
func TestPutManyGoesOnWithoutBatchesThatAreRefused(t *testing.T) {
	t.Parallel()
	t.Run("switched off", func(t *testing.T) {
		t.Parallel()
		_, server := newBucket(t, inMemory, jskv.WithFastIngest())
		spy := spyOnBatches(t, server.Conn())
		nc := server.Conn()
		b := openBucket(t, hasty(t, nc, 5*time.Second))
		keys := numbered(3000)
		begun := 0
		n, err := b.PutMany(testContext(t), waiting(keys, map[int]func(){
			1000: func() {
				setConfig(t, server.JetStream(), "KV_b", map[string]any{"allow_batched": false})
				begun = spy.all(nc).begun
				require.Positive(t, begun)
			},
		}), few)
		require.NoError(t, err)
		require.Equal(t, len(keys), n)
		requireValued(t, getMany(t, b, keys...), keys)
		require.EqualValues(t, len(keys), lastRevision(t, openBucket(t, server.JetStream())), "none was stored twice")
		batched := spy.all(nc).batched
		require.LessOrEqual(t, spy.begun, begun+1)
		store(t, b, keys)
		require.Equal(t, batched, spy.all(nc).batched, "the handle has learned it")
	})
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		server := oneBatchAtATime(t)
		createBucket(t, server.JetStream(), inMemory, jskv.WithFastIngest())
		nc, other := server.Conn(), server.Conn()
		b := openBucket(t, hasty(t, nc, 5*time.Second))
		answers, err := other.SubscribeSync("other.>")
		require.NoError(t, err)
		require.NoError(t, other.PublishRequest("$KV.b.other", "other.batch.1.fail.1.0.$FI", nil))
		_, err = answers.NextMsgWithContext(testContext(t))
		require.NoError(t, err)
		spy := spyOnBatches(t, server.Conn())
		keys := numbered(3000)
		n, err := b.PutMany(testContext(t), valued(keys), few)
		require.NoError(t, err)
		require.Equal(t, len(keys), n)
		requireValued(t, getMany(t, b, keys...), keys)
		require.Equal(t, 1, spy.all(nc).begun, "it was tried once")
	})
}

// oneBatchAtATime is a server that shows whether a batch was left open.
func oneBatchAtATime(t testing.TB) *jskvtest.Server {
	return jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) { o.JetStreamLimits.MaxBatchInflightPerStream = 1 }))
}

func TestPutManyLeavesNoBatchOpen(t *testing.T) {
	t.Parallel()
	server := oneBatchAtATime(t)
	createBucket(t, server.JetStream(), inMemory, jskv.WithFastIngest())
	spy := spyOnBatches(t, server.Conn())
	nc := server.Conn()
	b := openBucket(t, hasty(t, nc, 5*time.Second))
	keys := numbered(3000)
	requireRoom := func() {
		t.Helper()
		batched := spy.all(nc).batched
		n, err := b.PutMany(testContext(t), valued(keys), few)
		require.NoError(t, err)
		require.Equal(t, len(keys), n)
		require.Greater(t, spy.all(nc).batched-batched, len(keys)/2)
	}
	requireRoom()
	panics := waiting(keys, map[int]func(){2000: func() { panic("enough") }})
	require.PanicsWithValue(t, "enough", func() { _, _ = b.PutMany(testContext(t), panics, few) })
	requireRoom()
	require.PanicsWithValue(t, "enough", func() {
		_, _ = b.PutMany(testContext(t), valued(keys), few, jskv.Progress(func(done int) {
			if done == 1000 {
				panic("enough")
			}
		}))
	})
	requireRoom()
	onceInThree(t, true, func() (told bool) { // it is waited for only a moment
		ctx, cancel := context.WithCancel(testContext(t))
		before := lastRevision(t, b)
		n, err := b.PutMany(ctx, waiting(keys, map[int]func(){2000: cancel}), few)
		requireIs(t, err, context.Canceled)
		requireRoom()
		return !errors.Is(err, jskv.ErrOutcomeUnknown) && before+uint64(n+len(keys)) == lastRevision(t, b)
	}, "the server told what it has stored")
}
