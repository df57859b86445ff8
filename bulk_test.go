package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// inMemory is a bucket that need not outlive its server.
var inMemory = jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage}

// numbered returns n keys.
func numbered(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("n.%05d", i)
	}
	return keys
}

// valued yields every key with a value of its own.
func valued(keys []string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, key := range keys {
			if !yield(key, "v of "+key) {
				return
			}
		}
	}
}

// store puts keys with the values of valued.
func store(t testing.TB, b *jskv.Bucket[string], keys []string) {
	t.Helper()
	n, err := b.PutMany(testContext(t), valued(keys))
	require.NoError(t, err)
	require.Equal(t, len(keys), n)
}

// getMany must succeed.
func getMany[T any](t testing.TB, b *jskv.Bucket[T], keys ...string) map[string]jskv.Entry[T] {
	t.Helper()
	entries, err := b.GetMany(testContext(t), keys...)
	require.NoError(t, err)
	require.NotNil(t, entries)
	return entries
}

// requireValued wants exactly keys, with the values of valued.
func requireValued(t testing.TB, got map[string]jskv.Entry[string], keys []string) {
	t.Helper()
	require.Len(t, got, len(keys))
	for _, key := range keys {
		if e := got[key]; e.Value != "v of "+key || e.Key != key || e.Bucket != "b" || e.Revision == 0 {
			require.FailNow(t, "not the entry of "+key, "%+v", e)
		}
	}
}

// counted opens bucket "b" on a connection of its own and returns what counts the messages that
// the connection publishes while do runs.
func counted(t testing.TB, server *jskvtest.Server) (*jskv.Bucket[string], func(do func()) int) {
	t.Helper()
	nc := server.Conn()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return openBucket(t, js), func(do func()) int {
		before := nc.Stats().OutMsgs
		do()
		return int(nc.Stats().OutMsgs - before)
	}
}

func TestGetManyReadsWhatEntryReads(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{History: 3})
	for _, key := range []string{"a", "b.c", "deleted", "purged", "again", "a"} {
		mustPut(t, b, key, "v of "+key)
	}
	_, err := b.Delete(ctx, "deleted")
	require.NoError(t, err)
	_, err = b.Purge(ctx, "purged")
	require.NoError(t, err)
	_, err = b.Delete(ctx, "again")
	require.NoError(t, err)
	mustPut(t, b, "again", "v of again")

	got := getMany(t, b, "b.c", "missing", "a", "deleted", "a", "again", "purged", "b.c")
	requireValued(t, got, []string{"a", "b.c", "again"})
	for key, e := range got {
		want, err := b.Entry(ctx, key)
		require.NoError(t, err)
		e.Delta = want.Delta // of those that were read together
		require.Equal(t, want, e, "the same entry as by itself")
	}
	reader := openBucket(t, server.JetStream()) // has written nothing
	for _, b := range []*jskv.Bucket[string]{b, reader} {
		require.Empty(t, getMany(t, b, "missing"))
		require.Empty(t, getMany(t, b, "deleted", "purged"), "only markers")
		require.Empty(t, getMany(t, b, numbered(100)...), "nothing of what was asked for is there")
	}
}

func TestGetManyOfNoKeysAsksNobody(t *testing.T) {
	t.Parallel()
	_, server := newBucket(t, inMemory)
	b, count := counted(t, server)
	require.Zero(t, count(func() { require.Empty(t, getMany(t, b)) }))
}

// What nobody asked for must not come along when the bucket's last message is a pattern to the server.
func TestGetManyHasNothingButWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	mustPut(t, b, "sue.color", "blue")
	_, err := server.JetStream().Publish(testContext(t), "$KV.b.sue.*", []byte("a pattern"))
	require.NoError(t, err)
	entries, err := b.GetMany(testContext(t), "missing", "missing.too")
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestGetManyReads1024KeysInARoundTrip(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory)
	keys := numbered(5000)
	store(t, writer, keys)
	b, count := counted(t, server)
	for n, trips := range map[int]int{1: 1, 2: 1, 1023: 1, 1024: 1, 1025: 2, 5000: 5} {
		var got map[string]jskv.Entry[string]
		twice := append(append([]string(nil), keys[:n]...), keys[:n]...)
		onceInThree(t, trips, func() int { return count(func() { got = getMany(t, b, twice...) }) }, "%d keys, each twice", n)
		requireValued(t, got, keys[:n])
	}
	// One that is missing in each round trip, and one round trip in which every key is.
	missing := append(keys[:2000:2000], numbered(7000)[5000:]...)
	requireValued(t, getMany(t, b, missing...), keys[:2000])
	require.Empty(t, getMany(t, writer, numbered(7000)[5000:]...))
}

func TestGetManyNamesAKeyThatIsNone(t *testing.T) {
	t.Parallel()
	mustHave, server := newBucket(t, inMemory)
	mustPut(t, mustHave, "a", "v")
	b, count := counted(t, server)
	for _, key := range []string{"", "a b", "a.>", "*"} {
		require.Zero(t, count(func() {
			got, err := b.GetMany(testContext(t), "a", key)
			requireIs(t, err, jskv.ErrInvalidKey)
			requireNames(t, err, " b: ", strconv.Quote(key))
			require.Empty(t, got)
		}), "nothing is asked")
	}
}

func TestGetManyReturnsWhatDecodesBesideWhatDoesNot(t *testing.T) {
	t.Parallel()
	text, _ := newBucket(t, inMemory)
	b := jskv.As(text, jskv.JSON[int]())
	mustPut(t, text, "one", "1")
	bad := mustPut(t, text, "bad", "no number")
	mustPut(t, text, "two", "2")
	mustPut(t, text, "worse", "")
	got, err := b.GetMany(testContext(t), "one", "bad", "missing", "worse", "two")
	require.Len(t, got, 2)
	require.Equal(t, 1, got["one"].Value)
	require.Equal(t, 2, got["two"].Value)

	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok, "%T", err)
	undecoded := map[string]*jskv.DecodeError{}
	for _, err := range joined.Unwrap() {
		var one *jskv.DecodeError
		require.ErrorAs(t, err, &one)
		requireNames(t, err, " b/"+one.Key+":")
		undecoded[one.Key] = one
	}
	require.Len(t, undecoded, 2)
	require.Equal(t, bad, undecoded["bad"].Revision)
	require.Equal(t, "no number", string(undecoded["bad"].Data))
	require.Contains(t, undecoded, "worse")
}

func TestGetManyIsOneMomentOfTheBucket(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, inMemory, jskv.WithTransactions())
	reader := openBucket(t, server.JetStream())
	keys := numbered(20)
	writes := 0
	written := make(chan struct{})
	var stop atomic.Bool
	go func() {
		defer close(written)
		for ; !stop.Load(); writes++ {
			batch := b.NewBatch()
			for _, key := range keys {
				batch.Put(key, strconv.Itoa(writes))
			}
			if _, err := batch.Commit(ctx); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	changes, last := 0, ""
	for changes < 200 {
		got := getMany(t, reader, keys...)
		for _, key := range keys {
			require.Equal(t, got[keys[0]].Value, got[key].Value, "half of a batch")
		}
		if value := got[keys[0]].Value; value != last {
			changes++
			last = value
		}
	}
	stop.Store(true)
	<-written
}

// When none of the keys was there they were read again, but one by one.
func TestGetManyOfKeysThatAreBeingWritten(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory, jskv.WithTransactions())
	reader := openBucket(t, server.JetStream())
	for round := range 100 {
		ctx := testContext(t)
		keys := numbered(10)
		for i := range keys {
			keys[i] = fmt.Sprintf("%d.%s", round, keys[i])
		}
		written := make(chan error)
		go func() {
			var err error
			for n := 0; n < 10 && err == nil; n++ {
				batch := b.NewBatch()
				for _, key := range keys {
					batch.Put(key, strconv.Itoa(n))
				}
				_, err = batch.Commit(ctx)
			}
			written <- err
		}()
		for last := ""; last != "9" && ctx.Err() == nil; {
			got := getMany(t, reader, keys...)
			last = got[keys[0]].Value
			for _, e := range got {
				require.Equal(t, last, e.Value, "half of a batch")
				require.Len(t, got, len(keys))
			}
		}
		require.NoError(t, <-written)
	}
}

// A server holds no more than its max_pending (64 MB by default) for a client that is slow to
// read, and cuts the connection behind it; left to itself it answers with as much as that.
func TestGetManyReadsWhatExceedsOneAnswer(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) { o.MaxPending = 32 << 20 }))
	writer := createBucket(t, server.JetStream(), inMemory)
	value := strings.Repeat("x", 800_000)
	keys := numbered(64)
	for _, key := range keys {
		mustPut(t, writer, key, value)
	}
	proxy := jskvtest.NewProxy(t, server.URL())
	reader := openBucket(t, proxy.JetStream())
	require.Len(t, getMany(t, reader, keys[0]), 1)
	proxy.Stall(jskvtest.ToClient)
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			got, err := reader.GetMany(testContext(t), append(keys[:64:64], "missing")...)
			assert.NoError(t, err)
			assert.Len(t, got, len(keys))
			for _, key := range keys {
				assert.Len(t, got[key].Value, len(value))
			}
		})
	}
	var queued int64
	steady := 0
	eventually(t, func() bool {
		info, err := server.NATS().Varz(nil)
		require.NoError(t, err)
		if steady++; info.OutBytes != queued {
			queued, steady = info.OutBytes, 0
		}
		return queued > 4<<20 && steady >= 10
	}, "the server has sent all that it wants to")
	proxy.Heal()
	group.Wait()
	require.Zero(t, server.NATS().NumSlowConsumers(), "the server took the reader for a slow consumer")
}

// Whoever is slow to read was asked for again what it had not read yet, until its server held too much for it.
func TestGetManyAsksOnceOverAConnectionThatIsSlow(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory)
	store(t, b, numbered(10))
	proxy := jskvtest.NewProxy(t, server.URL())
	reader := openBucket(t, proxy.JetStream())
	require.Len(t, getMany(t, reader, numbered(10)...), 10)
	questions := newSpy(t, server.Conn())
	proxy.Stall(jskvtest.ToClient)
	ctx, cancel := context.WithTimeout(testContext(t), 3*time.Second) // in which it was asked three times
	defer cancel()
	_, err := reader.GetMany(ctx, numbered(10)...)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualValues(t, 1, questions.shared.Load())
	proxy.Heal()
	require.Len(t, getMany(t, reader, numbered(10)...), 10)
}

// A request is a message, so the keys of one must fit into the server's largest payload.
func TestGetManyReadsKeysWhoseNamesExceedOneRequest(t *testing.T) {
	t.Parallel()
	b, _ := newBucket(t, inMemory, jskv.WithTransactions())
	keys := make([]string, 700)
	for i := range keys {
		keys[i] = strings.Repeat("k", 2000) + strconv.Itoa(i)
	}
	require.Empty(t, getMany(t, b, keys...))
	store(t, b, keys)
	requireValued(t, getMany(t, b, keys...), keys)
	_, err := b.Transact(testContext(t), func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany(keys...)
		require.Len(t, got, len(keys))
		return err
	})
	require.NoError(t, err)
}

func TestGetManyOfAStreamWithoutDirectGets(t *testing.T) {
	t.Parallel()
	early, server := newBucket(t, inMemory) // opened before they are switched off
	keys := numbered(1100)
	store(t, early, keys)
	setConfig(t, server.JetStream(), "KV_b", map[string]any{"allow_direct": false})
	for _, b := range []*jskv.Bucket[string]{early, openBucket(t, server.JetStream())} {
		requireValued(t, getMany(t, b, append(keys, "missing")...), keys)
		require.Empty(t, getMany(t, b, "missing"))
		mustPut(t, b, keys[0], "v of "+keys[0])
		requireValued(t, getMany(t, b, keys[:2]...), keys[:2])
	}
}

// The handle had been acknowledged for more than the new bucket has, and waited for it for ever.
func TestGetManyOfABucketThatWasMadeAgain(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory)
	store(t, b, numbered(10))
	js := server.JetStream()
	require.NoError(t, jskv.DeleteBucket(testContext(t), js, "b"))
	again := createBucket(t, js, inMemory)
	store(t, again, numbered(2))
	got, err := b.GetMany(testContext(t), numbered(10)...)
	require.NoError(t, err)
	requireValued(t, got, numbered(2))
}

func TestGetManySaysWhyItCannotRead(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory)
	nc := server.Conn()
	closed := openBucket(t, hasty(t, nc, time.Minute))
	nc.Close()
	_, err := closed.GetMany(context.Background(), "a", "b")
	requireIs(t, err, nats.ErrConnectionClosed)
	requireNames(t, err, " b: ")

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = b.GetMany(ended, "a", "b")
	requireIs(t, err, context.Canceled)
	requireNames(t, err, " b: ")

	require.NoError(t, jskv.DeleteBucket(testContext(t), server.JetStream(), "b"))
	got, err := b.GetMany(context.Background(), "a", "b")
	requireIs(t, err, jskv.ErrBucketNotFound)
	requireNames(t, err, " b: ")
	require.Empty(t, got)
	require.False(t, errors.Is(err, jskv.ErrKeyNotFound))
}

func TestGetManyThroughAMirrorHasSeenTheHandlesWrites(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, server := newBucket(t, inMemory)
	js := server.JetStream()
	_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: "copy", Storage: jetstream.MemoryStorage, Mirror: &jetstream.StreamSource{Name: "KV_b"},
	})
	require.NoError(t, err)
	mirror, err := jskv.OpenBucket(ctx, js, "copy", jskv.String())
	require.NoError(t, err)
	for i := range 100 {
		mustPut(t, mirror, "a", strconv.Itoa(i))
		mustPut(t, mirror, "b", strconv.Itoa(i))
		got := getMany(t, mirror, "a", "b", "missing")
		require.Equal(t, strconv.Itoa(i), got["a"].Value)
		require.Equal(t, strconv.Itoa(i), got["b"].Value)
	}
	_, err = mirror.Delete(ctx, "a")
	require.NoError(t, err)
	require.Empty(t, getMany(t, mirror, "a", "missing"))
}

func TestGetManyThroughAMirrorOfPartOfABucket(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, inMemory)
	mustPut(t, b, "some.a", "v")
	js := server.JetStream()
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "KV_part", Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1, AllowDirect: true, AllowRollup: true,
		Mirror: &jetstream.StreamSource{Name: "KV_b", FilterSubject: b.Stream().Subject("some.>")},
	})
	require.NoError(t, err)
	part, err := jskv.OpenBucket(ctx, js, "part", jskv.String())
	require.NoError(t, err)
	eventually(t, func() bool { return len(getMany(t, part, "some.a")) == 1 }, "the mirror has it")
	mustPut(t, b, "other", "v") // which the mirror leaves out
	for _, want := range []string{"some.a", "missing"} {
		got, err := part.GetMany(ctx, want, "some.missing")
		require.NoError(t, err)
		require.Equal(t, want == "some.a", len(got) == 1)
	}
}
