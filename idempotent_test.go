package jskv_test

import (
	"context"
	"errors"
	"fmt"
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

// onceOrTwice are the writes that a lost answer leaves open. Each is prepared by before, which
// returns the revision that the key must be at.
var onceOrTwice = []struct {
	name   string
	before func(t testing.TB, b *jskv.Bucket[string], key string) uint64
	call   func(ctx context.Context, b *jskv.Bucket[string], key string, revision uint64) (uint64, error)
	after  string // the key's history
}{
	{"Put", absent, func(ctx context.Context, b *jskv.Bucket[string], key string, _ uint64) (uint64, error) {
		return b.Put(ctx, key, "mine")
	}, "Put mine"},
	{"Create", absent, func(ctx context.Context, b *jskv.Bucket[string], key string, _ uint64) (uint64, error) {
		return b.Create(ctx, key, "mine")
	}, "Put mine"},
	{"Create over a marker", deleted, func(ctx context.Context, b *jskv.Bucket[string], key string, _ uint64) (uint64, error) {
		return b.Create(ctx, key, "mine")
	}, "Delete, Put mine"},
	{"Update", present, func(ctx context.Context, b *jskv.Bucket[string], key string, revision uint64) (uint64, error) {
		return b.Update(ctx, key, "mine", revision)
	}, "Put theirs, Put mine"},
	{"Delete", present, func(ctx context.Context, b *jskv.Bucket[string], key string, _ uint64) (uint64, error) {
		return b.Delete(ctx, key)
	}, "Put theirs, Delete"},
	{"Delete IfRevision", present, func(ctx context.Context, b *jskv.Bucket[string], key string, revision uint64) (uint64, error) {
		return b.Delete(ctx, key, jskv.IfRevision(revision))
	}, "Put theirs, Delete"},
	{"Purge", present, func(ctx context.Context, b *jskv.Bucket[string], key string, _ uint64) (uint64, error) {
		return b.Purge(ctx, key)
	}, "Purge"},
	{"Modify", present, func(ctx context.Context, b *jskv.Bucket[string], key string, _ uint64) (uint64, error) {
		e, err := b.Modify(ctx, key, func(current jskv.Entry[string], _ bool) (string, error) { return current.Value + " and mine", nil })
		return e.Revision, err
	}, "Put theirs, Put theirs and mine"},
}

func absent(testing.TB, *jskv.Bucket[string], string) uint64 { return 0 }

func present(t testing.TB, b *jskv.Bucket[string], key string) uint64 {
	t.Helper()
	return mustPut(t, b, key, "theirs")
}

func deleted(t testing.TB, b *jskv.Bucket[string], key string) uint64 {
	t.Helper()
	revision, err := b.Delete(testContext(t), key)
	require.NoError(t, err)
	return revision
}

// openIdempotent opens bucket "b" with idempotent writes.
func openIdempotent(t testing.TB, js jetstream.JetStream) *jskv.Bucket[string] {
	t.Helper()
	b, err := jskv.OpenBucket(testContext(t), js, "b", jskv.String(), jskv.WithIdempotentWrites())
	require.NoError(t, err)
	return b
}

// onOneAndThree runs a test with a bucket on one server, and with one on three; near is a handle on
// it, url the address of one of its servers.
func onOneAndThree(t *testing.T, run func(t *testing.T, near *jskv.Bucket[string], url string)) {
	t.Run("one replica", func(t *testing.T) {
		t.Parallel()
		b, server := newBucket(t, jetstream.KeyValueConfig{History: 10})
		run(t, b, server.URL())
	})
	t.Run("three replicas", func(t *testing.T) {
		t.Parallel()
		cluster, b := newReplicatedBucket(t, jetstream.KeyValueConfig{History: 10})
		run(t, b, cluster.Server(cluster.Follower("b")).URL())
	})
}

// keyOf makes a key of a test's name.
func keyOf(name string) string { return strings.ReplaceAll(name, " ", ".") }

// lostWrite is one of a bucket's writes, under way on a connection that was reset when its answer,
// or the write itself, went through it.
type lostWrite struct {
	name, key, after string
	proxy            *jskvtest.Proxy
	made             uint64     // the revision that it makes
	nc               *nats.Conn // on which it was lost
	cancel           func()
	done             chan struct{}
	revision         uint64 // what it returned
	err              error
}

// lose begins a write on the first of urls, through a proxy, and returns when it is lost: in
// direction ToClient it has been stored then. The connection cannot come back to the first of
// urls until proxy.Accept.
func lose(t *testing.T, i int, near *jskv.Bucket[string], dir jskvtest.Direction, urls []string, opts ...jskv.BucketOption) *lostWrite {
	t.Helper()
	write := onceOrTwice[i]
	l := &lostWrite{name: write.name, key: keyOf(write.name), after: write.after, done: make(chan struct{})}
	l.proxy = jskvtest.NewProxy(t, urls[0])
	js := firstOf(t, append([]string{l.proxy.URL()}, urls[1:]...)...)
	l.nc = js.Conn()
	far, err := jskv.OpenBucket(testContext(t), js, "b", jskv.String(), opts...)
	require.NoError(t, err)
	expect := write.before(t, near, l.key)
	l.made = lastRevision(t, near) + 1
	lost := l.proxy.CutOn(dir, map[jskvtest.Direction]string{
		jskvtest.ToClient: fmt.Sprintf(`{"stream":"KV_b","seq":%d`, l.made),
		jskvtest.ToServer: "PUB $KV.b." + l.key,
	}[dir])
	l.proxy.Refuse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	l.cancel = cancel
	t.Cleanup(cancel)
	go func() {
		defer close(l.done)
		l.revision, l.err = write.call(ctx, far, l.key, expect)
	}()
	<-lost
	return l
}

// loseAll loses one write after the other.
func loseAll(t *testing.T, near *jskv.Bucket[string], urls []string, opts ...jskv.BucketOption) []*lostWrite {
	t.Helper()
	all := make([]*lostWrite, len(onceOrTwice))
	for i := range all {
		all[i] = lose(t, i, near, jskvtest.ToClient, urls, opts...)
	}
	return all
}

func TestAnIdempotentWriteWhoseAnswerIsLostIsStoredOnce(t *testing.T) {
	t.Parallel()
	onOneAndThree(t, func(t *testing.T, near *jskv.Bucket[string], url string) {
		all := loseAll(t, near, []string{url}, jskv.WithIdempotentWrites())
		stored := lastRevision(t, near)
		for _, l := range all {
			l.proxy.Accept()
			<-l.done
			require.NoError(t, l.err, l.name)
			require.Equal(t, l.made, l.revision, l.name)
			require.Equal(t, l.after, history(t, near, l.key))
		}
		require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
	})
}

// The writes never came to a server: they are sent again, but for those of which a server that has come
// to lead since cannot know that.
func TestAnIdempotentWriteThatIsLostOnItsWayIsStoredOnce(t *testing.T) {
	t.Parallel()
	onOneAndThree(t, func(t *testing.T, near *jskv.Bucket[string], url string) {
		eventually(t, func() bool { return time.Since(leadsSince(t, near)) > 3*time.Second }, "the leader has led for longer than it takes to ask it")
		since := leadsSince(t, near)
		var all []*lostWrite
		for i, write := range onceOrTwice {
			if write.name != "Create over a marker" { // its first request stores nothing anyway
				all = append(all, lose(t, i, near, jskvtest.ToServer, []string{url}, jskv.WithIdempotentWrites()))
			}
		}
		stored := lastRevision(t, near)
		for _, l := range all {
			require.NotContains(t, history(t, near, l.key), "mine")
			l.proxy.Accept()
		}
		for _, l := range all {
			<-l.done
			if l.err != nil && !leadsSince(t, near).Equal(since) { // a busy machine's leader may be replaced
				requireIs(t, l.err, jskv.ErrOutcomeUnknown)
				continue
			}
			stored++
			require.NoError(t, l.err, l.name)
			require.Equal(t, l.after, history(t, near, l.key))
			e, _ := near.Entry(testContext(t), l.key, jskv.AtLeast(l.revision)) // another handle's write
			require.Equal(t, e.Revision, l.revision, l.name)
		}
		require.Equal(t, stored, lastRevision(t, near), "each is stored once")
	})
}

// leadsSince is when the server that leads the bucket has come to do so, which one alone does not say.
func leadsSince(t testing.TB, b *jskv.Bucket[string]) time.Time {
	t.Helper()
	info, err := b.Stream().Info(testContext(t))
	require.NoError(t, err)
	if info.Cluster == nil || info.Cluster.LeaderSince == nil {
		return time.Time{}
	}
	return *info.Cluster.LeaderSince
}

func TestAWriteWhoseAnswerIsLostIsNotRepeatedUnasked(t *testing.T) {
	t.Parallel()
	onOneAndThree(t, func(t *testing.T, near *jskv.Bucket[string], url string) {
		all := loseAll(t, near, []string{url})
		stored := lastRevision(t, near)
		for _, l := range all {
			l.proxy.Accept()
			eventually(t, func() bool { return l.nc.IsConnected() && l.nc.Flush() == nil }, "it could be repeated")
			l.cancel()
			<-l.done
			require.Zero(t, l.revision)
			requireIs(t, l.err, jskv.ErrOutcomeUnknown)
			require.True(t, errors.Is(l.err, context.Canceled) || errors.Is(l.err, nats.ErrDisconnected), "%v", l.err)
			require.False(t, jskv.SafeToRetry(l.err))
			require.NotErrorIs(t, l.err, jskv.ErrRevisionMismatch)
			require.NotErrorIs(t, l.err, jskv.ErrKeyExists)
			require.Equal(t, l.after, history(t, near, l.key))
			e, _ := near.Entry(testContext(t), l.key, jskv.AtLeast(l.made)) // another handle's write
			require.Equal(t, l.made, e.Revision)
			require.NotContains(t, e.Header, jetstream.MsgIDHeader, "nobody asked for it")
		}
		require.Equal(t, stored, lastRevision(t, near))
	})
}

// Somebody else has written since: what the writer must be told is still that it succeeded.
func TestAnIdempotentWriteIsFoundUnderALaterOne(t *testing.T) {
	t.Parallel()
	onOneAndThree(t, func(t *testing.T, near *jskv.Bucket[string], url string) {
		all := loseAll(t, near, []string{url}, jskv.WithIdempotentWrites())
		for _, l := range all {
			mustPut(t, near, l.key, "later")
		}
		stored := lastRevision(t, near)
		for _, l := range all {
			l.proxy.Accept()
			<-l.done
			require.NoError(t, l.err, l.name)
			require.Equal(t, l.made, l.revision, l.name)
			require.Equal(t, l.after+", Put later", history(t, near, l.key))
		}
		require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
	})
}

// The answers are lost with the leader that would have given them.
func TestAnIdempotentWriteOutlivesItsLeader(t *testing.T) {
	t.Parallel()
	cluster, _ := newReplicatedBucket(t, jetstream.KeyValueConfig{History: 10})
	leader, other := cluster.Server(cluster.Leader("b")), cluster.Server(cluster.Follower("b"))
	near := openBucket(t, other.JetStream())
	all := loseAll(t, near, []string{leader.URL(), other.URL()}, jskv.WithIdempotentWrites())
	stored := lastRevision(t, near)
	leader.Stop()
	for _, l := range all {
		<-l.done
		require.NoError(t, l.err, l.name)
		require.Equal(t, l.made, l.revision, l.name)
		require.Equal(t, l.after, history(t, near, l.key))
	}
	require.Equal(t, stored, lastRevision(t, near), "nothing was stored again")
}

// firstOf is a JetStream on a connection to the first of urls, which may go to the others later. A server that is late
// to answer is tried again: the client would go to another at once, or give up.
func firstOf(t testing.TB, urls ...string) jetstream.JetStream {
	t.Helper()
	var (
		nc  *nats.Conn
		err error
	)
	for range 5 {
		nc, err = nats.Connect(strings.Join(urls, ","), nats.DontRandomize(), nats.IgnoreDiscoveredServers(),
			nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err == nil {
			t.Cleanup(nc.Close)
			if nc.ConnectedUrl() == urls[0] {
				break
			}
			nc.Close()
		}
	}
	require.NoError(t, err)
	require.Equal(t, urls[0], nc.ConnectedUrl())
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// stalled is an idempotent handle whose connection has stopped, and a handle that is near.
type stalled struct {
	near, far *jskv.Bucket[string]
	proxy     *jskvtest.Proxy
	done      chan struct{}
	revision  uint64
	err       error
}

// stallBoth puts a key on one replica and on three at the same time, both stalled in that direction.
func stallBoth(t *testing.T, patience time.Duration, dir jskvtest.Direction) []*stalled {
	t.Helper()
	one, srv := newBucket(t, jetstream.KeyValueConfig{})
	cluster, three := newReplicatedBucket(t, jetstream.KeyValueConfig{})
	both := []*stalled{{near: one}, {near: three}}
	for i, url := range []string{srv.URL(), cluster.Server(cluster.Follower("b")).URL()} {
		s := both[i]
		s.proxy, s.done = jskvtest.NewProxy(t, url), make(chan struct{})
		s.far = openIdempotent(t, firstOf(t, s.proxy.URL()))
		s.proxy.Stall(dir)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		go func() {
			defer close(s.done)
			defer cancel()
			s.revision, s.err = s.far.Put(ctx, "k", "v")
		}()
	}
	return both
}

func TestAnIdempotentWriteIsUnknownWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	for _, s := range stallBoth(t, 4*time.Second, jskvtest.ToClient) {
		<-s.done
		requireIs(t, s.err, jskv.ErrOutcomeUnknown, context.DeadlineExceeded)
		require.Zero(t, s.revision)
		require.False(t, jskv.SafeToRetry(s.err))
		eventually(t, func() bool { return lastRevision(t, s.near) > 0 }, "it is stored")
		require.EqualValues(t, 1, lastRevision(t, s.near), "it was sent twice, and stored once")
	}
}

// Several attempts are on their way at once.
func TestAnIdempotentWriteThatIsLateIsStoredOnce(t *testing.T) {
	t.Parallel()
	both := stallBoth(t, 30*time.Second, jskvtest.ToServer)
	wait(testContext(t), 2200*time.Millisecond)
	for _, s := range both {
		s.proxy.Heal()
		<-s.done
		require.NoError(t, s.err)
		require.EqualValues(t, 1, s.revision)
		// On the same connection, so that everything before it has come.
		revision, err := s.far.Put(testContext(t), "last", "v")
		require.NoError(t, err)
		require.EqualValues(t, 2, revision)
		require.EqualValues(t, 2, lastRevision(t, s.near))
	}
}

// refusal is what a call that is refused returns. Where the server is so late to say so that it is taken for lost, the
// call is made again, twice.
func refusal(t *testing.T, call func() error) (err error) {
	t.Helper()
	for range 3 {
		if err = call(); !errors.Is(err, jskv.ErrOutcomeUnknown) && !errors.Is(err, nats.ErrTimeout) {
			break
		}
		t.Log("again:", err)
	}
	return err
}

// A conflict that is none of the write's own making is one, at once.
func TestAnIdempotentWriteConflictsWithOthers(t *testing.T) {
	t.Parallel()
	onOneAndThree(t, func(t *testing.T, near *jskv.Bucket[string], url string) {
		b := openIdempotent(t, firstOf(t, url))
		old := mustPut(t, near, "k", "old")
		newest := mustPut(t, near, "k", "new")
		err := refusal(t, func() error { return second(b.Update(testContext(t), "k", "mine", old)) })
		requireConflict(t, err, "k", old, newest)
		err = refusal(t, func() error { return second(b.Delete(testContext(t), "k", jskv.IfRevision(old))) })
		requireConflict(t, err, "k", old, newest)
		err = refusal(t, func() error { return second(b.Create(testContext(t), "k", "mine")) })
		requireIs(t, err, jskv.ErrKeyExists)
		require.Equal(t, newest, lastRevision(t, near))
	})
}

// Many writers, and a connection that breaks again and again.
func TestIdempotentWritesAreStoredOnceThroughManyCuts(t *testing.T) {
	t.Parallel()
	onOneAndThree(t, func(t *testing.T, near *jskv.Bucket[string], url string) {
		proxy := jskvtest.NewProxy(t, url)
		far := openIdempotent(t, firstOf(t, proxy.URL()))
		var (
			found   findings
			writers sync.WaitGroup
		)
		for w := range 8 {
			writers.Go(func() {
				key, stored := fmt.Sprint("k", w), ""
				var newest uint64
				for i := range 9 { // within the history
					value := fmt.Sprint(i)
					if i == w+1 { // one cut each, while it writes
						writers.Go(func() {
							wait(testContext(t), time.Duration(w)*200*time.Microsecond)
							proxy.Reset()
						})
					}
					var err error
					if i%2 == 0 {
						newest, err = far.Put(testContext(t), key, value)
					} else {
						newest, err = far.Update(testContext(t), key, value, newest)
					}
					found.check(err == nil, "write %d of %s: %v", i, key, err)
					if err != nil {
						return
					}
					stored += ", Put " + value
					wait(testContext(t), 20*time.Millisecond)
				}
				is := history(t, near, key)
				found.check(is == stored[2:], "%s is %q, not %q", key, is, stored[2:])
			})
		}
		writers.Wait()
		found.requireNone(t, 8*(9+1))
	})
}

// That a bucket is full does not pass by itself, although the server gives it the status of what does.
func TestAnIdempotentWriteIntoAFullBucketIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	onOneAndThree(t, func(t *testing.T, near *jskv.Bucket[string], url string) {
		setConfig(t, firstOf(t, url), "KV_b", map[string]any{"max_bytes": 1000})
		b := openIdempotent(t, firstOf(t, url))
		for name, write := range map[string]func(ctx context.Context) error{
			"put":    func(ctx context.Context) error { return second(b.Put(ctx, "k", strings.Repeat("v", 2000))) },
			"create": func(ctx context.Context) error { return second(b.Create(ctx, "k", strings.Repeat("v", 2000))) },
		} {
			err := refusal(t, func() error { return write(testContext(t)) })
			requireIs(t, err, jskv.ErrBucketFull)
			require.NotErrorIs(t, err, context.DeadlineExceeded, name)
		}
		require.Zero(t, lastRevision(t, near))
	})
}
