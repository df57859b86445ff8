package jskv_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// mirrorOf makes bucket "mirror" of bucket "origin" and waits until it has its messages.
func mirrorOf(t *testing.T, js jetstream.JetStream, origin *jskv.Bucket[string], source *jetstream.StreamSource) *jskv.Bucket[string] {
	t.Helper()
	cfg := jetstream.KeyValueConfig{Bucket: "mirror", History: 5, Mirror: source}
	mirror := createBucket(t, js, cfg)
	eventually(t, func() bool {
		want, err := origin.Stream().Info(testContext(t))
		require.NoError(t, err)
		got, err := mirror.Stream().Info(testContext(t))
		require.NoError(t, err)
		return want.State.LastSeq == got.State.LastSeq
	}, "the mirror catches up")
	mirror, err := jskv.OpenBucket(testContext(t), js, "mirror", jskv.String())
	require.NoError(t, err)
	return mirror
}

// requireWholeBucket takes b, whose writes arrive at origin, through every verb.
func requireWholeBucket(t *testing.T, b, origin *jskv.Bucket[string]) {
	t.Helper()
	ctx := testContext(t)
	first := mustPut(t, b, "sue.color", "blue")
	e, err := b.Entry(ctx, "sue.color")
	require.NoError(t, err, "a handle reads its own writes")
	require.Equal(t, "sue.color", e.Key)
	require.Equal(t, "blue", e.Value)
	require.Equal(t, first, e.Revision)
	require.Equal(t, b.Name(), e.Bucket)
	require.Nil(t, e.Header)
	stored, err := origin.Entry(ctx, "sue.color", jskv.AtLeast(first)) // another handle's write, and a mirror may answer
	require.NoError(t, err, "writes arrive at the origin")
	require.Equal(t, first, stored.Revision)

	_, err = b.Create(ctx, "sue.color", "red")
	requireIs(t, err, jskv.ErrKeyExists)
	_, err = b.Create(ctx, "joe.color", "red")
	require.NoError(t, err)
	second, err := b.Update(ctx, "sue.color", "green", first)
	require.NoError(t, err)
	_, err = b.Update(ctx, "sue.color", "red", first)
	requireConflict(t, err, "sue.color", first, second)
	modified, err := b.Modify(ctx, "sue.color", func(current jskv.Entry[string], exists bool) (string, error) {
		require.True(t, exists)
		require.Equal(t, second, current.Revision)
		return current.Value + "ish", nil
	})
	require.NoError(t, err)
	require.Equal(t, "greenish", modified.Value)
	for name, options := range map[string][]jskv.ReadOption{"newest": nil, "leader": {jskv.FromLeader()}, "at least": {jskv.AtLeast(modified.Revision)}} {
		value, err := b.Get(ctx, "sue.color", options...)
		require.NoError(t, err, name)
		require.Equal(t, "greenish", value, name)
	}
	value, err := b.Get(ctx, "sue.color", jskv.AtRevision(second))
	require.NoError(t, err)
	require.Equal(t, "green", value)
	_, err = b.Entry(ctx, "missing")
	requireIs(t, err, jskv.ErrKeyNotFound)
	_, err = b.Entry(ctx, "missing", jskv.FromLeader())
	requireIs(t, err, jskv.ErrKeyNotFound)

	mustPut(t, b, "deleted", "v")
	marker, err := b.Delete(ctx, "deleted")
	require.NoError(t, err)
	e, err = b.Entry(ctx, "deleted")
	requireIs(t, err, jskv.ErrKeyNotFound)
	require.Equal(t, marker, e.Revision)
	mustPut(t, b, "purged", "v")
	_, err = b.Purge(ctx, "purged")
	require.NoError(t, err)
	_, err = b.Get(ctx, "purged")
	requireIs(t, err, jskv.ErrKeyNotFound)

	eventually(t, func() bool { return history(t, b, "purged") == "Purge" }, "a purge gets through")
	require.Equal(t, "Put blue, Put green, Put greenish", history(t, b, "sue.color"))
	keys, err := jskv.Collect(b.Keys(ctx))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"sue.color", "joe.color"}, keys)
	keys, err = jskv.Collect(b.Keys(ctx, "sue.*"))
	require.NoError(t, err)
	require.Equal(t, []string{"sue.color"}, keys)
	entries, err := jskv.Collect(b.Entries(ctx))
	require.NoError(t, err)
	require.Len(t, entries, 2)
	requireWatched(t, b)

	n, err := b.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, 3, n, "deleted, purged, sue.shape")
	for _, bucket := range []*jskv.Bucket[string]{b, origin} {
		require.Empty(t, history(t, bucket, "deleted"), "of %s", bucket.Name())
		require.Empty(t, history(t, bucket, "purged"), "of %s", bucket.Name())
	}
	status, err := b.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, b.Name(), status.Bucket())
	info, err := b.Stream().Info(ctx)
	require.NoError(t, err)
	require.Equal(t, "KV_"+b.Name(), info.Config.Name)
}

// requireWatched watches a write through b itself.
func requireWatched(t *testing.T, b *jskv.Bucket[string]) {
	t.Helper()
	ctx := testContext(t)
	watcher, err := b.Watch(ctx, "sue.>")
	require.NoError(t, err)
	defer watcher.Stop()
	snapshot, err := jskv.Collect(watcher.Snapshot())
	require.NoError(t, err)
	require.Len(t, snapshot, 1)
	revision := mustPut(t, b, "sue.shape", "round")
	e, err := watcher.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, "sue.shape", e.Key)
	require.Equal(t, revision, e.Revision)
	_, err = b.Purge(ctx, "sue.shape")
	require.NoError(t, err)
	_, err = watcher.Next(ctx)
	require.NoError(t, err)
	n, err := b.PurgeDeletes(ctx, time.Hour)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = b.Create(ctx, "sue.shape", "flat")
	require.NoError(t, err, "over the marker at the origin")
	_, err = watcher.Next(ctx)
	require.NoError(t, err)
	_, err = b.Purge(ctx, "sue.shape")
	require.NoError(t, err)
	_, err = watcher.Next(ctx)
	require.NoError(t, err)
}

func TestEveryVerbWorksOnAMirror(t *testing.T) {
	t.Parallel()
	for because, source := range map[string]*jetstream.StreamSource{
		"of the same domain":        {Name: "origin"},
		"named as the stream":       {Name: "KV_origin"},
		"under subjects of its own": {Name: "origin", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "$KV.origin.>", Destination: "$KV.mirror.>"}}},
	} {
		t.Run(because, func(t *testing.T) {
			t.Parallel()
			js := jskvtest.NewServer(t).JetStream()
			origin := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin", History: 5})
			mirror := mirrorOf(t, js, origin, source)
			require.Equal(t, "mirror", mirror.Name())
			require.Equal(t, "KV_mirror", mirror.Stream().Name())
			if source.SubjectTransforms == nil {
				require.Equal(t, "$KV.origin.k", mirror.Stream().Subject("k"), "a mirror stores its origin's subjects")
			} else {
				require.Equal(t, "$KV.mirror.k", mirror.Stream().Subject("k"))
			}
			requireWholeBucket(t, mirror, origin)
		})
	}
}

func TestEveryVerbWorksOnAMirrorOfAMirror(t *testing.T) {
	t.Parallel()
	js := jskvtest.NewServer(t).JetStream()
	origin := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin", History: 5})
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "between", History: 5, Mirror: &jetstream.StreamSource{Name: "origin"}})
	requireWholeBucket(t, mirrorOf(t, js, origin, &jetstream.StreamSource{Name: "between"}), origin)
}

func TestEveryVerbWorksOnABucketWithSources(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	source := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "source"})
	mustPut(t, source, "from.source", "v")
	b := createBucket(t, js, jetstream.KeyValueConfig{History: 5, Sources: []*jetstream.StreamSource{{Name: "source"}}})
	eventually(t, func() bool {
		value, err := b.Get(ctx, "from.source")
		return err == nil && value == "v"
	}, "the source's keys are the bucket's")
	_, err := b.Purge(ctx, "from.source")
	require.NoError(t, err)
	_, err = b.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	requireWholeBucket(t, b, b)
	value, err := source.Get(ctx, "from.source")
	require.NoError(t, err)
	require.Equal(t, "v", value, "the source was left alone")
}

// A mirror answers direct gets of its origin, too, and lags.
func TestAHandleReadsItsOwnWritesBesideAndThroughAMirror(t *testing.T) {
	t.Parallel()
	js := jskvtest.NewServer(t).JetStream()
	origin := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin", Storage: jetstream.MemoryStorage})
	mustPut(t, origin, "k", "what makes the mirror answer")
	mirror := mirrorOf(t, js, origin, &jetstream.StreamSource{Name: "origin"})
	elsewhere, err := jskv.OpenBucket(testContext(t), js, "origin", jskv.String())
	require.NoError(t, err)
	for _, b := range []*jskv.Bucket[string]{origin, mirror} {
		for i := range 150 {
			ctx := testContext(t) // of a round: there are many
			want := fmt.Sprint("value ", i)
			revision := mustPut(t, b, "k", want)
			value, err := b.Get(ctx, "k")
			require.NoError(t, err)
			require.Equal(t, want, value)
			value, err = elsewhere.Get(ctx, "k", jskv.AtLeast(revision))
			require.NoError(t, err)
			require.Equal(t, want, value, "as new as another handle's write")
			fresh := fmt.Sprint(b.Name(), i)
			mustPut(t, b, fresh, want)
			_, err = b.Get(ctx, fresh)
			require.NoError(t, err)
			_, err = b.Delete(ctx, fresh)
			require.NoError(t, err)
			_, err = b.Get(ctx, fresh)
			requireIs(t, err, jskv.ErrKeyNotFound)
		}
	}
}

func TestAMirrorReadsOnWithoutItsOrigin(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	origin := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin", History: 5})
	mustPut(t, origin, "k", "v")
	mirror := mirrorOf(t, js, origin, &jetstream.StreamSource{Name: "origin"})
	require.NoError(t, jskv.DeleteBucket(ctx, js, "origin"))
	again, err := jskv.OpenBucket(ctx, js, "mirror", jskv.String())
	require.NoError(t, err)
	for _, b := range []*jskv.Bucket[string]{mirror, again} {
		value, err := b.Get(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, "v", value)
		keys, err := jskv.Collect(b.Keys(ctx))
		require.NoError(t, err)
		require.Equal(t, []string{"k"}, keys)
		_, err = b.Get(ctx, "missing")
		requireIs(t, err, jskv.ErrKeyNotFound)
		_, err = b.Put(ctx, "k", "w")
		requireIs(t, err, jskv.ErrBucketNotFound)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
	}
}

// Its subjects are those of the first of all, which only the one between could tell.
func TestAMirrorOfAMirrorThatWasDeletedIsReadOn(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	first := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "first"})
	mustPut(t, first, "k", "v")
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin", Mirror: &jetstream.StreamSource{Name: "first"}})
	mirrorOf(t, js, first, &jetstream.StreamSource{Name: "origin"})
	require.NoError(t, jskv.DeleteBucket(ctx, js, "origin"))
	b, err := jskv.OpenBucket(ctx, js, "mirror", jskv.String())
	require.NoError(t, err)
	value, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "v", value)
	keys, err := jskv.Collect(b.Keys(ctx))
	require.NoError(t, err)
	require.Equal(t, []string{"k"}, keys)
	_, err = b.Put(ctx, "k", "w")
	requireIs(t, err, jskv.ErrBucketNotFound)
}

// A mirror cannot have a LimitMarkerTTL and may have another history: what counts for a write is
// its origin's.
func TestTTLThroughAMirrorIsItsOrigins(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	origin := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin", History: 5, LimitMarkerTTL: time.Second})
	cfg := jetstream.KeyValueConfig{Bucket: "mirror", History: 1, Mirror: &jetstream.StreamSource{Name: "origin"}}
	mirror := createBucket(t, js, cfg)
	mustPut(t, mirror, "k", "old")
	_, err := mirror.Put(ctx, "k", "short", jskv.TTL(time.Second))
	require.NoError(t, err)
	_, err = mirror.Put(ctx, "k2", "short", jskv.TTL(500*time.Millisecond))
	requireIs(t, err, jskv.ErrInvalidOption)
	for _, b := range []*jskv.Bucket[string]{origin, mirror} {
		requireNothingBack(t, b, expired(t, b, "k"))
	}
}

// It never comes to what was written to the rest, and was waited for until the caller's time was over.
func TestAMirrorOfAPartIsListedAndWatchedAfterAWriteToTheRest(t *testing.T) {
	t.Parallel()
	for part, source := range map[string]*jetstream.StreamSource{
		"by a filter":      {Name: "KV_origin", FilterSubject: "$KV.origin.mine.>"},
		"by its transform": {Name: "KV_origin", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "$KV.origin.mine.>", Destination: "$KV.origin.mine.>"}}},
	} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			js := jskvtest.NewServer(t).JetStream()
			origin := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin", History: 5})
			mustPut(t, origin, "mine.0", "v")
			mirror := mirrorOf(t, js, origin, source)
			for i := range 10 {
				mine := fmt.Sprint("mine.", i)
				mustPut(t, mirror, mine, "v")
				last := mustPut(t, mirror, fmt.Sprint("rest.", i), "v")
				require.Contains(t, collect(t, mirror.Keys(testContext(t))), mine, "what the handle wrote")
				w := watch(t, mirror, jskv.AllKeys)
				require.Len(t, collect(t, w.Snapshot()), i+1)
				w.Stop()
				info, err := mirror.Stream().Info(testContext(t))
				require.NoError(t, err)
				require.Less(t, info.State.LastSeq, last)
			}
		})
	}
}

// A mirror does not notice that its origin was deleted and made again, and answered for it with what the
// other had had: the handle did not read what it had just written.
func TestAMirrorOfADeletedBucketIsNotBelievedOfTheOneMadeAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	old, server := newBucket(t, inMemory)
	js := server.JetStream()
	for range 20 {
		mustPut(t, old, "k", "old")
	}
	answeringMirror(t, js, "m", jetstream.StreamSource{})
	eventually(t, func() bool {
		mirror, err := js.Stream(testContext(t), "KV_m")
		return err == nil && mirror.CachedInfo().State.LastSeq == 20
	}, "the mirror has it all")
	require.NoError(t, js.DeleteStream(ctx, "KV_b"))
	b := createBucket(t, js, inMemory)
	for range 10 {
		b := openBucket(t, js)
		_, err := b.Entry(ctx, "k", jskv.AtRevision(20))
		requireIs(t, err, jskv.ErrKeyNotFound)
		revision := mustPut(t, b, "k", "new")
		for range 10 {
			e, err := b.Entry(ctx, "k")
			require.NoError(t, err)
			require.Equal(t, revision, e.Revision)
			require.Equal(t, revision, getMany(t, b, "k", "missing")["k"].Revision)
		}
	}
	entries, err := jskv.Collect(b.Entries(ctx))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, "new", entries[0].Value)
}

// Where only a mirror answers, here because direct gets are switched off (or it is the nearer one), reads
// waited until their end for a mirror of a part to come to what it has no part of, and no transaction
// that the whole bucket guards was committed.
func TestWhatOnlyAMirrorOfAPartAnswersIsReadFromTheStreamInTheEnd(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	writer, server := newBucket(t, inMemory, jskv.WithTransactions())
	commit(t, writer.NewBatch().Put("right.a", "v").Put("right.b", "v"))
	js := server.JetStream()
	answeringMirror(t, js, "m", jetstream.StreamSource{FilterSubject: "$KV.b.right.>"})
	before := openBucket(t, js)
	setConfig(t, js, "KV_b", map[string]any{"allow_direct": false})
	for name, b := range map[string]*jskv.Bucket[string]{"opened before": before, "opened since": openBucket(t, js)} {
		mustPut(t, b, "left", "v")
		_, err := b.Entry(ctx, "right.a")
		require.NoError(t, err, name)
		require.Len(t, getMany(t, b, "right.a", "right.b", "left", "missing"), 3, name)
		transact(t, openBucket(t, js), func(tx *jskv.Tx[string]) error {
			got, err := tx.GetMany("right.a", "right.b")
			if err != nil {
				return err // it starts over, as when the mirror has only the first of them yet
			}
			require.Len(t, got, 2)
			tx.Put("sum", "v")
			return nil
		})
	}
}

// The first that such a handle heard of its origin it took for another bucket of the name, which knows nothing of
// what was to be waited for.
func TestTheFirstReadThroughAMirrorWaitsForWhatItIsToHaveSeen(t *testing.T) {
	t.Parallel()
	origin, server := newBucket(t, inMemory)
	last := mustPut(t, origin, "k", "old")
	js := server.JetStream()
	mirrorOf(t, js, origin, &jetstream.StreamSource{Name: "KV_b"})
	for name, options := range map[string][]jskv.ReadOption{
		"from whoever has it": {jskv.AtLeast(last + 1)},
		"from the leader":     {jskv.AtLeast(last + 1), jskv.FromLeader()},
		"one revision":        {jskv.AtLeast(last + 1), jskv.AtRevision(last)},
	} {
		mirror, err := jskv.OpenBucket(testContext(t), js, "mirror", jskv.String())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err = mirror.Entry(ctx, "k", options...)
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
	}
}
