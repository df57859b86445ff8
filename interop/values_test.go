package interop

import (
	"errors"
	"strings"
	"testing"
	"time"

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

// newest is the bucket's newest revision.
func newest(t *testing.T, bucket *jskv.Bucket[string]) uint64 {
	t.Helper()
	info, err := bucket.Stream().Info(testContext(t))
	require.NoError(t, err)
	return info.State.LastSeq
}

// jskvWriter is jskv as a writer of its only bucket.
type jskvWriter struct {
	t      *testing.T
	bucket *jskv.Bucket[string]
}

func (w jskvWriter) put(_, key, value string) error {
	_, err := w.bucket.Put(testContext(w.t), key, value)
	return err
}

func (w jskvWriter) create(_, key, value string, _ time.Duration) error {
	_, err := w.bucket.Create(testContext(w.t), key, value)
	return err
}

func (w jskvWriter) update(_, key, value string, revision uint64) error {
	_, err := w.bucket.Update(testContext(w.t), key, value, revision)
	return err
}

func (w jskvWriter) delete(_, key string) error {
	_, err := w.bucket.Delete(testContext(w.t), key)
	return err
}

func (w jskvWriter) purge(_, key string, _ time.Duration) error {
	_, err := w.bucket.Purge(testContext(w.t), key)
	return err
}

// writeEverything does one write after the other and wants a watcher to tell of each, under the
// revisions from 1. It returns the history that each key has then, in a bucket that keeps 5.
func writeEverything(t *testing.T, w writer, next func() revision, shown func(revision) revision) map[string][]revision {
	t.Helper()
	histories := map[string][]revision{}
	for i, write := range []struct {
		key, value string
		operation  jskv.Operation
		do         func(key, value string) error
	}{
		{"put", "a", jskv.OpPut, func(key, value string) error { return w.put("b", key, value) }},
		{"put", "b", jskv.OpPut, func(key, value string) error { return w.put("b", key, value) }},
		{"put", "c", jskv.OpPut, func(key, value string) error { return w.update("b", key, value, 2) }},
		{"create", "a", jskv.OpPut, func(key, value string) error { return w.create("b", key, value, 0) }},
		{"delete", "a", jskv.OpPut, func(key, value string) error { return w.put("b", key, value) }},
		{"delete", "", jskv.OpDelete, func(key, _ string) error { return w.delete("b", key) }},
		{"purge", "a", jskv.OpPut, func(key, value string) error { return w.put("b", key, value) }},
		{"purge", "", jskv.OpPurge, func(key, _ string) error { return w.purge("b", key, 0) }},
		{"again", "", jskv.OpDelete, func(key, _ string) error { return w.delete("b", key) }},
		{"again", "b", jskv.OpPut, func(key, value string) error { return w.create("b", key, value, 0) }},
		{"empty", "", jskv.OpPut, func(key, value string) error { return w.put("b", key, value) }},
		{"sue.color/a=1_2-3", "blue", jskv.OpPut, func(key, value string) error { return w.put("b", key, value) }},
	} {
		require.NoError(t, write.do(write.key, write.value), "%v %s", write.operation, write.key)
		r := revision{write.key, write.value, uint64(i + 1), write.operation}
		require.Equal(t, shown(r), next())
		if r.Operation == jskv.OpPurge {
			histories[r.Key] = nil
		}
		histories[r.Key] = append(histories[r.Key], r)
	}
	return histories
}

// requireHistories wants both to have exactly these histories, and to see the same otherwise.
func (b *bench) requireHistories(bucket *jskv.Bucket[string], histories map[string][]revision) {
	b.t.Helper()
	for key, want := range histories {
		require.Equal(b.t, want, b.client.history("b", key))
		b.requireSame(bucket, key)
	}
	b.requireSame(bucket, "missing")
}

func TestJskvReadsWhatTheOtherClientWrites(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		bucket := b.theirs(jetstream.KeyValueConfig{History: 5})
		w := watch(t, bucket)
		b.requireHistories(bucket, writeEverything(t, b.client,
			func() revision { return revisionOf(next(t, w)) },
			func(r revision) revision { return r }))
	})
}

func TestTheOtherClientReadsWhatJskvWrites(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		bucket := ours(t, b.js, jetstream.KeyValueConfig{History: 5})
		w := b.client.watch("b")
		b.requireHistories(bucket, writeEverything(t, jskvWriter{t, bucket}, w.next, w.shown))
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
		require.Zero(t, newest(t, bucket), "nothing was stored")
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
