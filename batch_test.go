package jskv_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// newBank makes a bucket that accepts batches, on a server of its own. It lies in memory, where a
// batch costs no synchronization of a disk.
func newBank(t testing.TB) *jskv.Bucket[string] {
	t.Helper()
	b, _ := newBucket(t, inMemory, jskv.WithTransactions())
	return b
}

// commit must succeed.
func commit[T any](t testing.TB, batch *jskv.Batch[T]) []uint64 {
	t.Helper()
	revisions, err := batch.Commit(testContext(t))
	require.NoError(t, err)
	require.Len(t, revisions, batch.Len())
	return revisions
}

// lastRevision is the bucket's.
func lastRevision[T any](t testing.TB, b *jskv.Bucket[T]) uint64 {
	t.Helper()
	info, err := b.Stream().Info(testContext(t))
	require.NoError(t, err)
	return info.State.LastSeq
}

func TestBatchReturnsTheRevisionOfEveryWrite(t *testing.T) {
	t.Parallel()
	for name, storage := range map[string]jetstream.StorageType{"file": jetstream.FileStorage, "memory": jetstream.MemoryStorage} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := jetstream.KeyValueConfig{History: 5, Storage: storage}
			b, server := newBucket(t, cfg, jskv.WithTransactions())
			updated, deleted, purged := mustPut(t, b, "updated", "old"), mustPut(t, b, "deleted", "old"), mustPut(t, b, "purged", "old")
			required := mustPut(t, b, "required", "v")
			batch := b.NewBatch().
				Put("put", "1").
				Create("created", "2").
				Update("updated", "3", updated).
				Update("new", "4", 0).
				Delete("deleted").
				Purge("purged", jskv.IfRevision(purged)).
				Delete("never.there").
				Require("required", required).
				Require("missing", 0)
			require.Equal(t, 7, batch.Len())
			require.Equal(t, []uint64{5, 6, 7, 8, 9, 10, 11}, commit(t, batch))
			require.Greater(t, uint64(5), deleted)

			keys := []string{"put", "created", "updated", "new", "deleted", "purged", "never.there"}
			for i, want := range []string{"Put 1", "Put 2", "Put old, Put 3", "Put 4", "Put old, Delete", "Purge", "Delete"} {
				require.Equal(t, want, history(t, b, keys[i]))
				e, _ := b.Entry(testContext(t), keys[i])
				require.EqualValues(t, 5+i, e.Revision)
				at, ok := e.Batch()
				require.True(t, ok)
				require.Equal(t, i+1, at.Sequence)
				require.Equal(t, i == len(keys)-1, at.Last)
				require.NotEmpty(t, at.ID)
			}
			requireSame(t, b, stockBucket(t, server.JetStream()), keys...)
			require.EqualValues(t, 12, mustPut(t, b, "put", "alone"))
			e, err := b.Entry(testContext(t), "put")
			require.NoError(t, err)
			_, ok := e.Batch()
			require.False(t, ok)
		})
	}
}

func TestBatchThatFailsStoresNothingAndNamesTheKey(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newBank(t)
	mustPut(t, b, "live", "old")
	live := mustPut(t, b, "live", "v")
	marker, err := b.Delete(ctx, "deleted")
	require.NoError(t, err)
	last := lastRevision(t, b)
	type condition func(batch *jskv.Batch[string]) *jskv.Batch[string]
	exists := uint64(1 << 63) // instead of an expected revision: ErrKeyExists
	for name, test := range map[string]struct {
		add              condition
		key              string
		expected, actual uint64
	}{
		"Create of a live key": {func(x *jskv.Batch[string]) *jskv.Batch[string] { return x.Create("live", "n") }, "live", exists, 0},
		"Update of an old revision": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			return x.Update("live", "n", live-1)
		}, "live", live - 1, live},
		"Update of a revision to come": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			return x.Update("live", "n", 1000)
		}, "live", 1000, live},
		"Update of a live key that should not be": {func(x *jskv.Batch[string]) *jskv.Batch[string] { return x.Update("live", "n", 0) }, "live", 0, live},
		"Update of a marker that should not be": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			return x.Update("deleted", "n", 0)
		}, "deleted", 0, marker},
		"Update of a missing key": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			return x.Update("missing", "n", 3)
		}, "missing", 3, 0},
		"Delete IfRevision": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			return x.Delete("live", jskv.IfRevision(1))
		}, "live", 1, live},
		"Purge IfRevision": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			return x.Purge("live", jskv.IfRevision(0))
		}, "live", 0, live},
		"Require of an old revision": {func(x *jskv.Batch[string]) *jskv.Batch[string] { return x.Require("live", 1) }, "live", 1, live},
		"Require of no revision":     {func(x *jskv.Batch[string]) *jskv.Batch[string] { return x.Require("live", 0) }, "live", 0, live},
		"Require of a missing key":   {func(x *jskv.Batch[string]) *jskv.Batch[string] { return x.Require("missing", 1) }, "missing", 1, 0},
		"Require, two of one key": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			return x.Require("live", live).Require("live", live-1)
		}, "live", live - 1, live},
		"Require of more keys than there are writes": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			for _, key := range numbered(100) {
				x.Require(key, 0)
			}
			return x.Require("live", 1)
		}, "live", 1, live},
		"Require of a key that is written": {func(x *jskv.Batch[string]) *jskv.Batch[string] {
			return x.Put("live", "n").Put("live", "m").Require("live", 1)
		}, "live", 1, live},
	} {
		for place, batch := range map[string]*jskv.Batch[string]{
			"first":  test.add(b.NewBatch()).Put("other", "o").Create("another", "o"),
			"last":   test.add(b.NewBatch().Create("another", "o").Put("other", "o")),
			"middle": test.add(b.NewBatch().Put("other", "o").Require("deleted", marker)).Update("another", "o", 0),
			"one":    test.add(b.NewBatch().Put("other", "o")),
		} {
			if name == "Update of a marker that should not be" && place == "middle" {
				continue // would contradict itself
			}
			revisions, err := batch.Commit(ctx)
			require.Empty(t, revisions)
			if test.expected == exists {
				requireIs(t, err, jskv.ErrKeyExists)
				require.NotErrorIs(t, err, jskv.ErrRevisionMismatch, name)
			} else {
				requireConflict(t, err, test.key, test.expected, test.actual)
			}
			requireNames(t, err, " b/"+test.key+": ")
			require.True(t, jskv.SafeToRetry(err))
			require.Equal(t, last, lastRevision(t, b), "%s, %s: something was stored", name, place)
		}
	}
}

func TestBatchWritesAKeySeveralTimes(t *testing.T) {
	t.Parallel()
	for want, add := range map[string]func(x *jskv.Batch[string], revision uint64) *jskv.Batch[string]{
		"Put old, Put 1, Put 2": func(x *jskv.Batch[string], _ uint64) *jskv.Batch[string] { return x.Put("k", "1").Put("k", "2") },
		"Put old, Put 1, Delete, Put 2": func(x *jskv.Batch[string], _ uint64) *jskv.Batch[string] {
			return x.Put("k", "1").Delete("k").Put("k", "2")
		},
		"Put old, Put 3, Put 4": func(x *jskv.Batch[string], revision uint64) *jskv.Batch[string] {
			return x.Update("k", "3", revision).Put("k", "4")
		},
		"Put old, Delete, Put 5": func(x *jskv.Batch[string], revision uint64) *jskv.Batch[string] {
			return x.Delete("k", jskv.IfRevision(revision)).Put("k", "5")
		},
		"Purge, Put 6, Delete": func(x *jskv.Batch[string], _ uint64) *jskv.Batch[string] {
			return x.Purge("k").Put("k", "6").Delete("k")
		},
		"Put old, Put 7, Put 8": func(x *jskv.Batch[string], revision uint64) *jskv.Batch[string] {
			return x.Put("k", "7").Put("k", "8").Require("k", revision).Require("other", 0).Require("another", 0)
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			cfg := jetstream.KeyValueConfig{History: 10, Storage: jetstream.MemoryStorage}
			b, _ := newBucket(t, cfg, jskv.WithTransactions())
			revision := mustPut(t, b, "k", "old")
			revisions := commit(t, add(b.NewBatch(), revision))
			for i, made := range revisions {
				require.Equal(t, revision+uint64(i)+1, made)
			}
			require.Equal(t, want, history(t, b, "k"))
		})
	}
}

// What is wrong with an operation is said by Commit, and nothing is sent.
func TestBatchRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	_, server := newBucket(t, inMemory, jskv.WithTransactions())
	b, count := counted(t, server)
	for because, test := range map[string]struct {
		batch *jskv.Batch[string]
		err   error
		names string
	}{
		"no key":                                       {b.NewBatch().Put("", "v"), jskv.ErrInvalidKey, " b: "},
		"no key to be":                                 {b.NewBatch().Put("a", "v").Create("a b", "v"), jskv.ErrInvalidKey, `"a b"`},
		"a pattern cannot be required":                 {b.NewBatch().Put("a", "v").Require("a.*", 1), jskv.ErrInvalidKey, `"a.*"`},
		"Put knows no revision":                        {b.NewBatch().Put("k", "v", jskv.IfRevision(1)), jskv.ErrInvalidOption, " b/k: "},
		"a TTL is at least a second":                   {b.NewBatch().Put("k", "v", jskv.TTL(time.Millisecond)).Put("l", "v"), jskv.ErrInvalidOption, " b/k: "},
		"the bucket keeps no TTLs":                     {b.NewBatch().Put("l", "v").Put("k", "v", jskv.TTL(time.Second)), jskv.ErrInvalidOption, " b/k: "},
		"nobody can expect what is written now":        {b.NewBatch().Put("k", "v").Update("k", "w", 1), jskv.ErrInvalidOption, " b/k: "},
		"it exists by then":                            {b.NewBatch().Put("k", "v").Create("k", "w"), jskv.ErrInvalidOption, " b/k: "},
		"a condition comes first":                      {b.NewBatch().Put("k", "v").Delete("k", jskv.IfRevision(1)), jskv.ErrInvalidOption, " b/k: "},
		"the server cannot purge what the batch wrote": {b.NewBatch().Put("k", "v").Purge("k"), jskv.ErrInvalidOption, " b/k: "},
		"two conditions that cannot both hold":         {b.NewBatch().Update("k", "v", 1).Require("k", 2), jskv.ErrInvalidOption, " b/k: "},
	} {
		var revisions []uint64
		var err error
		// The bucket's configuration may be looked at again where a TTL is refused.
		onceInThree(t, true, func() bool {
			return count(func() { revisions, err = test.batch.Commit(testContext(t)) }) <= 1
		}, because)
		require.ErrorIs(t, err, test.err, because)
		requireNames(t, err, test.names)
		require.Empty(t, revisions)
	}
	odd := jskv.As(b, jskv.Codec[int](evenOnly{jskv.JSON[int]()}))
	require.Zero(t, count(func() {
		batch := odd.NewBatch().Put("two", 2).Put("three", 3).Put("bad key", 5)
		_, err := batch.Commit(testContext(t))
		requireIs(t, err, errOdd)
		requireNames(t, err, " b/three: ")
	}))
	require.Zero(t, lastRevision(t, b))
}

func TestBatchOfNothingAsksNobodyUnlessItRequires(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory, jskv.WithTransactions())
	revision := mustPut(t, writer, "k", "v")
	b, count := counted(t, server)
	require.Zero(t, count(func() { require.Empty(t, commit(t, b.NewBatch())) }))

	revisions, err := b.NewBatch().Require("k", revision).Require("missing", 0).Commit(testContext(t))
	require.NoError(t, err)
	require.Empty(t, revisions)
	_, err = b.NewBatch().Require("missing", 0).Require("k", revision+1).Commit(testContext(t))
	requireConflict(t, err, "k", revision+1, revision)
	require.Equal(t, revision, lastRevision(t, b))
}

func TestBatchCostsOneRoundTrip(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory, jskv.WithTransactions())
	seen := mustPut(t, writer, "seen", "v")
	b, count := counted(t, server)
	require.Equal(t, 3, count(func() { commit(t, b.NewBatch().Create("a", "1").Put("b", "2").Put("c", "3").Require("seen", seen)) }))
	require.Equal(t, 1, count(func() { commit(t, b.NewBatch().Put("a", "1").Require("seen", seen)) }))
}

func TestBatchCreatesOverMarkers(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	// With one revision a key a marker may live longer than the value, so that it is still there.
	b, _ := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, LimitMarkerTTL: time.Minute}, jskv.WithTransactions())
	_, err := b.Delete(ctx, "deleted")
	require.NoError(t, err)
	_, err = b.Purge(ctx, "purged")
	require.NoError(t, err)
	_, err = b.Put(ctx, "expired", "v", jskv.TTL(time.Second))
	require.NoError(t, err)
	eventually(t, func() bool {
		e, _ := b.Entry(ctx, "expired")
		return e.Expired()
	}, "its time is over")
	commit(t, b.NewBatch().Create("deleted", "1").Create("purged", "2").Create("expired", "3").Create("new", "4"))
	got := getMany(t, b, "deleted", "purged", "expired", "new")
	require.Len(t, got, 4)
	require.Equal(t, "3", got["expired"].Value)
	_, err = b.NewBatch().Create("newer", "5").Create("purged", "6").Commit(ctx)
	requireIs(t, err, jskv.ErrKeyExists)
	requireNames(t, err, " b/purged: ")
}

// It was refused as if that could not be.
func TestBatchCreatesOverTheMarkerThatItRequires(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: 4}, jskv.WithTransactions())
	one := func(x *jskv.Batch[string]) *jskv.Batch[string] { return x }
	several := func(x *jskv.Batch[string]) *jskv.Batch[string] { return x.Put("other", "v").Require("another", 0) }
	for name, beside := range map[string]func(*jskv.Batch[string]) *jskv.Batch[string]{"alone": one, "beside others": several} {
		live := mustPut(t, b, "live", name)
		deleted, err := b.Delete(ctx, "deleted")
		require.NoError(t, err)
		purged, err := b.Purge(ctx, "purged")
		require.NoError(t, err)
		passed, err := b.Delete(ctx, "passed")
		require.NoError(t, err)
		newer := mustPut(t, b, "passed", "v")
		last := lastRevision(t, b)

		_, err = beside(b.NewBatch().Create("live", "n").Require("live", live)).Commit(ctx)
		requireIs(t, err, jskv.ErrKeyExists)
		requireNames(t, err, " b/live: ")
		for _, test := range []struct {
			key              string
			expected, actual uint64
		}{
			{"passed", passed, newer}, {"deleted", 0, deleted}, {"deleted", deleted - 1, deleted}, {"purged", 1000, purged},
			{"missing", deleted, 0}, {"live", deleted, live},
		} {
			_, err = beside(b.NewBatch().Create(test.key, "n").Require(test.key, test.expected)).Commit(ctx)
			requireConflict(t, err, test.key, test.expected, test.actual)
		}
		_, err = beside(b.NewBatch().Create("deleted", "n").Require("deleted", deleted).Require("deleted", 0)).Commit(ctx)
		requireIs(t, err, jskv.ErrInvalidOption)
		require.Equal(t, last, lastRevision(t, b))

		rival, acted := rivalBefore(t, server, func(data string) bool { return strings.Contains(data, "Nats-Expected-") }, func() error {
			_, err := b.Delete(ctx, "deleted")
			return err
		})
		_, err = beside(rival.NewBatch().Create("deleted", "n").Require("deleted", deleted)).Commit(ctx)
		require.True(t, acted())
		requireConflict(t, err, "deleted", deleted, last+1)
		deleted = last + 1

		commit(t, beside(b.NewBatch().Require("deleted", deleted).Create("deleted", "n").Put("deleted", "m")))
		commit(t, beside(b.NewBatch().Create("purged", "n").Require("purged", purged).Require("purged", purged)))
		commit(t, beside(b.NewBatch().Create(name[:5], "n").Require(name[:5], 0)))
		got := getMany(t, b, "deleted", "purged", name[:5])
		require.Len(t, got, 3)
		require.Equal(t, "m", got["deleted"].Value)
	}
}

func TestBatchWritesWithATTL(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: 4, LimitMarkerTTL: time.Second}, jskv.WithTransactions())
	mustPut(t, b, "short", "old")
	mustPut(t, b, "long", "old")
	commit(t, b.NewBatch().Put("short", "1", jskv.TTL(time.Second)).Put("long", "2", jskv.TTL(time.Hour)).Put("ever", "3"))
	require.Equal(t, "Put 2", history(t, b, "long"), "what would come back is gone")
	e, err := b.Entry(ctx, "long")
	require.NoError(t, err)
	require.Equal(t, "3600", strings.TrimSuffix(e.Header.Get(jetstream.MsgTTLHeader), "s"))
	eventually(t, func() bool {
		got := getMany(t, b, "short", "long", "ever")
		return len(got) == 2 && got["long"].Value == "2" && got["ever"].Value == "3"
	}, "the short one expires, and nothing is in its place")
}

func TestASingleWriteNeedsNoTransactions(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, inMemory)
	lock := mustPut(t, b, "lock", "mine")
	require.Equal(t, []uint64{lock + 1}, commit(t, b.NewBatch().Put("k", "1").Require("lock", lock)))
	require.Equal(t, []uint64{lock + 2}, commit(t, b.NewBatch().Update("k", "2", lock+1).Require("lock", lock).Require("missing", 0)))
	_, err := b.Delete(ctx, "k")
	require.NoError(t, err)
	commit(t, b.NewBatch().Create("k", "3"))
	e, err := b.Entry(ctx, "k")
	require.NoError(t, err)
	_, batched := e.Batch()
	require.False(t, batched)
	require.Equal(t, "3", e.Value)

	mustPut(t, b, "lock", "theirs")
	_, err = b.NewBatch().Put("k", "4").Require("lock", lock).Commit(ctx)
	requireConflict(t, err, "lock", lock, lastRevision(t, b))
	_, err = b.NewBatch().Update("k", "4", 1).Commit(ctx)
	requireConflict(t, err, "k", 1, e.Revision)
}

func TestBatchWithoutTransactionsSaysHowToEnableThem(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, inMemory)
	// A server that does not know batches would store their messages one by one, so that nothing
	// may be sent to a bucket that does not accept them.
	seen := server.Conn()
	published, err := seen.SubscribeSync("$KV.b.>")
	require.NoError(t, err)
	require.NoError(t, seen.Flush())
	_, err = b.NewBatch().Put("a", "1").Put("b", "2").Commit(ctx)
	requireIs(t, err, jskv.ErrTransactionsDisabled)
	requireNames(t, err, " b: ", "WithTransactions")
	_, err = b.Transact(ctx, func(tx *jskv.Tx[string]) error {
		tx.Put("a", "1")
		tx.Put("b", "2")
		return nil
	})
	requireIs(t, err, jskv.ErrTransactionsDisabled)
	requireNames(t, err, " b: ", "WithTransactions")
	require.NoError(t, seen.Flush())
	_, err = published.NextMsg(10 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout, "a message was published")
	require.Zero(t, lastRevision(t, b))

	_, err = jskv.CreateOrUpdateBucket(ctx, server.JetStream(), jetstream.KeyValueConfig{Bucket: "b"}, jskv.String(), jskv.WithTransactions())
	require.NoError(t, err)
	commit(t, b.NewBatch().Put("a", "1").Put("b", "2"))
}

func TestBatchIsWhatStockWatchersSee(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	b, server := newBucket(t, inMemory, jskv.WithTransactions())
	stock, err := stockBucket(t, server.JetStream()).WatchAll(ctx)
	require.NoError(t, err)
	require.Nil(t, <-stock.Updates())
	mustPut(t, b, "gone", "v")
	require.Equal(t, "gone", (<-stock.Updates()).Key()) // before the batch replaces it
	batch := b.NewBatch()
	for i, key := range numbered(50) {
		batch.Put(key, strconv.Itoa(i))
	}
	revisions := commit(t, batch.Delete("gone"))
	for i, key := range numbered(50) {
		e := <-stock.Updates()
		require.Equal(t, key, e.Key())
		require.Equal(t, strconv.Itoa(i), string(e.Value()))
		require.Equal(t, revisions[i], e.Revision())
	}
	e := <-stock.Updates()
	require.Equal(t, jetstream.KeyValueDelete, e.Operation())
	require.NoError(t, stock.Stop())
}

func TestBatchDoesNotKeepTheCallersBytes(t *testing.T) {
	t.Parallel()
	b, _ := newBucket(t, inMemory, jskv.WithTransactions())
	value := []byte("first")
	batch := jskv.As(b, jskv.Bytes()).NewBatch().Put("a", value)
	copy(value, "other")
	_, err := batch.Put("b", value).Commit(testContext(t))
	require.NoError(t, err)
	require.Equal(t, "Put first", history(t, b, "a"))
	require.Equal(t, "Put other", history(t, b, "b"))
}
