package interop

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// requireSame wants the other client and jskv to see the same of every key, in every way of
// reading.
func (b *bench) requireSame(bucket *jskv.Bucket[string], keys ...string) {
	b.t.Helper()
	ctx := testContext(b.t)
	for _, key := range keys {
		mine, err := bucket.Entry(ctx, key)
		other, otherErr := b.client.get("b", key)
		switch {
		case err == nil:
			require.NoError(b.t, otherErr, key)
			require.Equal(b.t, revisionOf(mine), other)
		case otherErr == nil: // a marker that the client hands out
			require.ErrorIs(b.t, err, jskv.ErrKeyNotFound)
			require.Equal(b.t, revisionOf(mine), other)
		default:
			require.ErrorIs(b.t, err, jskv.ErrKeyNotFound)
			require.ErrorIs(b.t, otherErr, errNotFound)
		}
		history, err := jskv.Collect(bucket.History(ctx, key))
		require.NoError(b.t, err)
		require.Equal(b.t, revisionsOf(history), b.client.history("b", key), "oldest first")
		for _, e := range history {
			if e.Operation == jskv.OpPut {
				other, err := b.client.getRevision("b", key, e.Revision)
				require.NoError(b.t, err)
				require.Equal(b.t, revisionOf(e), other)
			}
		}
	}
	mine, err := jskv.Collect(bucket.Keys(ctx))
	require.NoError(b.t, err)
	require.ElementsMatch(b.t, mine, b.client.keys("b"))
}

// what is a write, and what of it a watcher is to see.
type what struct {
	key, value string
	operation  jskv.Operation
	write      func() error
}

// requireSeen does each write and wants next to tell of it.
func requireSeen(t *testing.T, newest func() uint64, shown func(revision) revision, next func() revision, writes ...what) {
	t.Helper()
	for _, w := range writes {
		require.NoError(t, w.write(), "%v %s", w.operation, w.key)
		require.Equal(t, shown(revision{w.key, w.value, newest(), w.operation}), next())
	}
}

// newest is the bucket's newest revision.
func newest(t *testing.T, bucket *jskv.Bucket[string]) func() uint64 {
	return func() uint64 {
		t.Helper()
		info, err := bucket.Stream().Info(testContext(t))
		require.NoError(t, err)
		return info.State.LastSeq
	}
}

func TestJskvReadsWhatTheOtherClientWrites(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		bucket := b.theirs(jetstream.KeyValueConfig{History: 5})
		c, w := b.client, watch(t, bucket)
		requireSeen(t, newest(t, bucket), func(r revision) revision { return r }, func() revision { return revisionOf(next(t, w)) },
			what{"put", "a", jskv.OpPut, func() error { return c.put("b", "put", "a") }},
			what{"put", "b", jskv.OpPut, func() error { return c.put("b", "put", "b") }},
			what{"put", "c", jskv.OpPut, func() error { return c.update("b", "put", "c", 2) }},
			what{"create", "a", jskv.OpPut, func() error { return c.create("b", "create", "a", 0) }},
			what{"delete", "a", jskv.OpPut, func() error { return c.put("b", "delete", "a") }},
			what{"delete", "", jskv.OpDelete, func() error { return c.delete("b", "delete") }},
			what{"purge", "a", jskv.OpPut, func() error { return c.put("b", "purge", "a") }},
			what{"purge", "", jskv.OpPurge, func() error { return c.purge("b", "purge", 0) }},
			what{"again", "", jskv.OpDelete, func() error { return c.delete("b", "again") }},
			what{"again", "b", jskv.OpPut, func() error { return c.create("b", "again", "b", 0) }},
			what{"empty", "", jskv.OpPut, func() error { return c.put("b", "empty", "") }},
			what{"sue.color/a=1_2-3", "blue", jskv.OpPut, func() error { return c.put("b", "sue.color/a=1_2-3", "blue") }},
		)
		b.requireSame(bucket, "put", "create", "delete", "purge", "again", "empty", "sue.color/a=1_2-3", "missing")
	})
}

func TestTheOtherClientReadsWhatJskvWrites(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx := testContext(t)
		bucket := ours(t, b.js, jetstream.KeyValueConfig{History: 5})
		w := b.client.watch("b")
		failed := func(_ uint64, err error) error { return err }
		requireSeen(t, newest(t, bucket), w.shown, w.next,
			what{"put", "a", jskv.OpPut, func() error { return failed(bucket.Put(ctx, "put", "a")) }},
			what{"put", "b", jskv.OpPut, func() error { return failed(bucket.Put(ctx, "put", "b")) }},
			what{"put", "c", jskv.OpPut, func() error { return failed(bucket.Update(ctx, "put", "c", 2)) }},
			what{"create", "a", jskv.OpPut, func() error { return failed(bucket.Create(ctx, "create", "a")) }},
			what{"delete", "a", jskv.OpPut, func() error { return failed(bucket.Put(ctx, "delete", "a")) }},
			what{"delete", "", jskv.OpDelete, func() error { return failed(bucket.Delete(ctx, "delete")) }},
			what{"purge", "a", jskv.OpPut, func() error { return failed(bucket.Put(ctx, "purge", "a")) }},
			what{"purge", "", jskv.OpPurge, func() error { return failed(bucket.Purge(ctx, "purge")) }},
			what{"again", "", jskv.OpDelete, func() error { return failed(bucket.Delete(ctx, "again")) }},
			what{"again", "b", jskv.OpPut, func() error { return failed(bucket.Create(ctx, "again", "b")) }},
			what{"empty", "", jskv.OpPut, func() error { return failed(bucket.Put(ctx, "empty", "")) }},
			what{"sue.color/a=1_2-3", "blue", jskv.OpPut, func() error { return failed(bucket.Put(ctx, "sue.color/a=1_2-3", "blue")) }},
		)
		b.requireSame(bucket, "put", "create", "delete", "purge", "again", "empty", "sue.color/a=1_2-3", "missing")
	})
}

// A watcher that starts later sees the newest revision of each key, markers too.
func TestTheOtherClientsWatcherStartsWithWhatJskvWrote(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx := testContext(t)
		bucket := ours(t, b.js, jetstream.KeyValueConfig{History: 5})
		must := written(t)
		must(bucket.Put(ctx, "a", "old"))
		must(bucket.Put(ctx, "b", "v"))
		must(bucket.Put(ctx, "c", "v"))
		must(bucket.Delete(ctx, "b"))
		must(bucket.Put(ctx, "a", "new"))
		must(bucket.Purge(ctx, "c"))
		w := b.client.watch("b")
		for _, want := range []revision{
			{"b", "", 4, jskv.OpDelete}, {"a", "new", 5, jskv.OpPut}, {"c", "", 6, jskv.OpPurge},
		} {
			require.Equal(t, w.shown(want), w.next())
		}
	})
}

func TestARevisionOfTheOneIsARevisionOfTheOther(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx, c := testContext(t), b.client
		bucket := ours(t, b.js, jetstream.KeyValueConfig{})
		must := written(t)

		require.NoError(t, c.put("b", "k", "theirs"))
		must(bucket.Update(ctx, "k", "ours", 1))
		require.NoError(t, c.update("b", "k", "theirs", 2))

		_, err := bucket.Update(ctx, "k", "ours", 2)
		require.NotErrorIs(t, err, jskv.ErrKeyExists)
		conflict := (*jskv.RevisionError)(nil)
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, uint64(3), conflict.Actual, "the revision that they wrote")

		must(bucket.Put(ctx, "k", "ours"))
		require.ErrorContains(t, c.update("b", "k", "theirs", 3), "wrong last sequence: 4", "the revision that we wrote")
		require.ErrorContains(t, c.update("b", "none", "theirs", 3), "wrong last sequence: 0")

		e, err := bucket.Entry(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, revision{"k", "ours", 4, jskv.OpPut}, revisionOf(e), "a refused write leaves nothing")
	})
}

func TestBothCreateOnlyWhereTheOtherHasNoLiveValue(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx, c := testContext(t), b.client
		bucket := b.theirs(jetstream.KeyValueConfig{})
		must := written(t)

		require.NoError(t, c.put("b", "theirs", "v"))
		_, err := bucket.Create(ctx, "theirs", "v")
		require.ErrorIs(t, err, jskv.ErrKeyExists)
		must(bucket.Put(ctx, "ours", "v"))
		require.ErrorContains(t, c.create("b", "ours", "v", 0), "wrong last sequence: 2")

		require.NoError(t, c.delete("b", "theirs"))
		must(bucket.Create(ctx, "theirs", "over their delete"))
		require.NoError(t, c.purge("b", "theirs", 0))
		must(bucket.Create(ctx, "theirs", "over their purge"))
		must(bucket.Delete(ctx, "ours"))
		require.NoError(t, c.create("b", "ours", "over our delete", 0))
		must(bucket.Purge(ctx, "ours"))
		require.NoError(t, c.create("b", "ours", "over our purge", 0))
		b.requireSame(bucket, "theirs", "ours")
	})
}

func TestEveryByteOfAValueArrives(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx := testContext(t)
		bucket := ours(t, b.js, jetstream.KeyValueConfig{})
		var every [256]byte
		for i := range every {
			every[i] = byte(i)
		}
		for reason, value := range map[string]string{
			"text":         "Zoë put ü\nand a line",
			"bytes":        string(every[:]),
			"large":        strings.Repeat("0123456789", 50_000),
			"no-UTF-8":     "\xff\xfe",
			"final-breaks": "v\n\n",
		} {
			written(t)(bucket.Put(ctx, "ours."+reason, value))
			got, err := b.client.get("b", "ours."+reason)
			require.NoError(t, err)
			require.True(t, got.Value == value, "ours: %s", reason)

			require.NoError(t, b.client.put("b", "theirs."+reason, value))
			mine, err := bucket.Get(ctx, "theirs."+reason)
			require.NoError(t, err)
			require.True(t, mine == value, "theirs: %s", reason)
		}
	})
}

func TestNobodyTakesAKeyThatTheOthersCannotRead(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		bucket := ours(t, b.js, jetstream.KeyValueConfig{})
		for _, key := range []string{"with space", "Zoë", "a*", "a.>", ".a", "a.", "a..b", "a:b", "a$b", "a,b", `a\b`, "a\tb"} {
			require.Error(t, b.client.put("b", key, "v"), "%q", key)
			_, err := bucket.Put(testContext(t), key, "v")
			require.ErrorIs(t, err, jskv.ErrInvalidKey, "%q", key)
		}
		require.Zero(t, newest(t, bucket)(), "nothing was stored")
		for _, key := range []string{"-", "=", "/", "_", "_kv.reserved", "a/b=c-d_e.F.0", "--dash"} {
			require.NoError(t, b.client.put("b", key, "theirs"), "%q", key)
			value, err := bucket.Get(testContext(t), key)
			require.NoError(t, err, "%q", key)
			require.Equal(t, "theirs", value)
		}
	})
}

func TestBothListAndDeleteEachOthersBuckets(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		ctx, c := testContext(t), b.client
		b.theirs(jetstream.KeyValueConfig{})
		_, err := jskv.CreateBucket(ctx, b.js, jetstream.KeyValueConfig{Bucket: "ours"}, jskv.String())
		require.NoError(t, err)
		names, err := jskv.Collect(jskv.BucketNames(ctx, b.js))
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"b", "ours"}, names)
		require.ElementsMatch(t, names, c.buckets())

		require.NoError(t, c.deleteBucket("ours"))
		_, err = jskv.OpenBucket(ctx, b.js, "ours", jskv.String())
		require.ErrorIs(t, err, jskv.ErrBucketNotFound)
		require.NoError(t, jskv.DeleteBucket(ctx, b.js, "b"))
		require.Empty(t, c.buckets())
		_, err = c.get("b", "k")
		require.Error(t, err)
		require.False(t, errors.Is(err, errNotFound), "no bucket is not no key: %v", err)
	})
}

func TestAWatcherOfJskvEndsWhenTheOtherClientDeletesTheBucket(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		bucket := b.theirs(jetstream.KeyValueConfig{})
		w := watch(t, bucket)
		require.NoError(t, b.client.deleteBucket("b"))
		_, err := w.Next(testContext(t))
		require.ErrorIs(t, err, jskv.ErrBucketNotFound)
	})
}
