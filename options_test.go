package jskv_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// expired polls until the key's value has gone, and returns what is there instead.
func expired(t *testing.T, b *jskv.Bucket[string], key string) jskv.Entry[string] {
	t.Helper()
	var e jskv.Entry[string]
	eventually(t, func() bool {
		var err error
		e, err = b.Entry(testContext(t), key)
		require.True(t, err == nil || errors.Is(err, jskv.ErrKeyNotFound), "%v", err)
		return err != nil
	}, "the value expires")
	return e
}

// requireNothingBack wants what is there instead of a value that expired to be its marker, or nothing where a slow
// machine comes after the marker's end.
func requireNothingBack(t *testing.T, b *jskv.Bucket[string], e jskv.Entry[string]) {
	t.Helper()
	require.True(t, e.Expired() || e.Revision == 0, "no older value comes back in %s: %+v", b.Name(), e)
}

func TestTTLLetsAValueExpireAndLeavesAMarker(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute})
	mustPut(t, b, "update", "old")
	mustPut(t, b, "modify", "old")
	begun, written := time.Now(), map[string]uint64{}
	for key, write := range map[string]func(ttl jskv.WriteOption) (uint64, error){
		"put":    func(ttl jskv.WriteOption) (uint64, error) { return b.Put(ctx, "put", "v", ttl) },
		"create": func(ttl jskv.WriteOption) (uint64, error) { return b.Create(ctx, "create", "v", ttl) },
		"update": func(ttl jskv.WriteOption) (uint64, error) { return b.Update(ctx, "update", "v", 1, ttl) },
		"modify": func(ttl jskv.WriteOption) (uint64, error) {
			e, err := b.Modify(ctx, "modify", func(jskv.Entry[string], bool) (string, error) { return "v", nil }, ttl)
			return e.Revision, err
		},
	} {
		sent := time.Now()
		revision, err := write(jskv.TTL(time.Second))
		require.NoError(t, err, key)
		written[key] = revision
		e, err := b.Entry(ctx, key)
		if errors.Is(err, jskv.ErrKeyNotFound) && time.Since(sent) >= time.Second {
			continue // a slow machine comes after its end
		}
		require.NoError(t, err, key)
		require.Equal(t, "v", e.Value)
		require.Equal(t, revision, e.Revision)
		require.False(t, e.Expired())
	}
	for _, key := range []string{"put", "create", "update", "modify"} {
		e := expired(t, b, key)
		require.True(t, e.Expired(), key)
		require.Equal(t, jskv.OpPurge, e.Operation)
		require.Greater(t, e.Revision, written[key])
		require.Empty(t, e.Value)
		require.WithinRange(t, e.Created, begun, time.Now())
		_, err := b.Get(ctx, key)
		requireIs(t, err, jskv.ErrKeyNotFound, jetstream.ErrKeyNotFound)
		_, err = b.Create(ctx, key, "new")
		require.NoError(t, err, "over the marker of an expired value")
	}
}

func TestTTLsThatTheBucketCannotKeepAreRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	for _, test := range []struct {
		because string
		cfg     jetstream.KeyValueConfig
		ttl     time.Duration
	}{
		{"zero would be no TTL", jetstream.KeyValueConfig{LimitMarkerTTL: time.Second}, 0},
		{"negative would be no TTL", jetstream.KeyValueConfig{LimitMarkerTTL: time.Second}, -time.Second},
		{"the shortest of all times", jetstream.KeyValueConfig{LimitMarkerTTL: time.Second}, -1 << 63},
		{"less than a second", jetstream.KeyValueConfig{LimitMarkerTTL: time.Second}, 999 * time.Millisecond},
		{"a broken second, which the server cuts", jetstream.KeyValueConfig{LimitMarkerTTL: time.Second}, 1500 * time.Millisecond},
		{"a nanosecond too much", jetstream.KeyValueConfig{LimitMarkerTTL: time.Second}, time.Second + 1},
		{"the bucket has no TTLs", jetstream.KeyValueConfig{}, time.Minute},
		{"the bucket has no TTLs of keys", jetstream.KeyValueConfig{TTL: time.Hour}, time.Minute},
		{"the bucket's own age ends the value earlier", jetstream.KeyValueConfig{TTL: time.Hour, LimitMarkerTTL: time.Second}, 2 * time.Hour},
		{"with history the server lengthens it to LimitMarkerTTL", jetstream.KeyValueConfig{History: 2, LimitMarkerTTL: time.Minute}, 59 * time.Second},
	} {
		test.cfg.Bucket, test.cfg.Storage = "b", jetstream.MemoryStorage
		b := createBucket(t, js, test.cfg)
		old := mustPut(t, b, "k", "old")
		for name, write := range map[string]func(jskv.WriteOption) error{
			"put": func(ttl jskv.WriteOption) error {
				_, err := b.Put(ctx, "k", "v", ttl)
				return err
			},
			"create": func(ttl jskv.WriteOption) error {
				_, err := b.Create(ctx, "new", "v", ttl)
				return err
			},
			"update": func(ttl jskv.WriteOption) error {
				_, err := b.Update(ctx, "k", "v", old, ttl)
				return err
			},
			"modify": func(ttl jskv.WriteOption) error {
				_, err := b.Modify(ctx, "k", func(jskv.Entry[string], bool) (string, error) { return "v", nil }, ttl)
				return err
			},
			"purge": func(ttl jskv.WriteOption) error {
				_, err := b.Purge(ctx, "k", ttl)
				return err
			},
		} {
			err := write(jskv.TTL(test.ttl))
			require.ErrorIs(t, err, jskv.ErrInvalidOption, "%s: %s", name, test.because)
			requireIs(t, err, jetstream.ErrInvalidOption)
			requireNames(t, err, name+" b/")
			require.Contains(t, err.Error(), "TTL")
		}
		info, err := b.Stream().Info(ctx)
		require.NoError(t, err)
		require.Equal(t, old, info.State.LastSeq, "nothing was stored: %s", test.because)
		require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
	}
}

func TestTTLsThatTheBucketCanKeep(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	for _, test := range []struct {
		because string
		cfg     jetstream.KeyValueConfig
		ttl     time.Duration
	}{
		{"without history a TTL may be below LimitMarkerTTL", jetstream.KeyValueConfig{LimitMarkerTTL: time.Hour}, time.Minute},
		{"with history it may be as long", jetstream.KeyValueConfig{History: 2, LimitMarkerTTL: time.Minute}, time.Minute},
		{"it may be as long as the bucket's own", jetstream.KeyValueConfig{TTL: time.Hour, LimitMarkerTTL: time.Second}, time.Hour},
		{"a century", jetstream.KeyValueConfig{LimitMarkerTTL: time.Second}, 100 * 365 * 24 * time.Hour},
	} {
		test.cfg.Bucket, test.cfg.Storage = "b", jetstream.MemoryStorage
		b := createBucket(t, js, test.cfg)
		revision, err := b.Put(ctx, "k", "v", jskv.TTL(test.ttl))
		require.NoError(t, err, test.because)
		msg, err := b.Stream().JetStream().GetMsg(ctx, revision)
		require.NoError(t, err)
		kept, err := time.ParseDuration(msg.Header.Get(jetstream.MsgTTLHeader) + "s")
		require.NoError(t, err)
		require.Equal(t, test.ttl, kept, "the server kept what was asked for: %s", test.because)
		require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
	}
}

func TestTTLIsNotForDelete(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second})
	mustPut(t, b, "k", "v")
	_, err := b.Delete(ctx, "k", jskv.TTL(time.Minute))
	requireIs(t, err, jskv.ErrInvalidOption)
	requireNames(t, err, "delete b/k: ")
	value, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func TestTTLOnPurgeLetsTheMarkerVanish(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 3, LimitMarkerTTL: time.Second})
	mustPut(t, b, "k", "a")
	newest := mustPut(t, b, "k", "b")
	marker, err := b.Purge(ctx, "k", jskv.TTL(time.Second), jskv.IfRevision(newest))
	require.NoError(t, err)
	e, err := b.Entry(ctx, "k")
	requireIs(t, err, jskv.ErrKeyNotFound)
	if e.Revision != 0 { // else a slow machine comes after its end
		require.Equal(t, marker, e.Revision)
		require.False(t, e.Expired(), "purged, not expired")
	}
	eventually(t, func() bool {
		e, err = b.Entry(ctx, "k")
		requireIs(t, err, jskv.ErrKeyNotFound)
		return e.Revision != marker
	}, "the marker expires")
	require.Zero(t, e, "and leaves nothing")
	_, err = b.Update(ctx, "k", "new", 0)
	require.NoError(t, err)
}

func TestALaterWriteMakesAKeyPermanentAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second, History: 3})
	short := func(key string) uint64 {
		revision, err := b.Put(ctx, key, "short", jskv.TTL(time.Second))
		require.NoError(t, err)
		return revision
	}
	eventually(t, func() bool { // a slow machine may come after its end
		short("put")
		mustPut(t, b, "put", "long")
		return history(t, b, "put") == "Put short, Put long" || history(t, b, "put") == "Put long"
	}, "put while it lives")
	eventually(t, func() bool {
		_, err := b.Update(ctx, "update", "long", short("update"))
		return err == nil
	}, "updated while it lives")
	short("witness")
	expired(t, b, "witness")
	eventually(t, func() bool { return history(t, b, "put") == "Put long" }, "what expired is gone, and that alone")
	eventually(t, func() bool { return history(t, b, "update") == "Put long" }, "what expired is gone, and that alone")
}

// A handle learns of a bucket's configuration when it is opened. That somebody changes it later
// must not change what a TTL means.
func TestTTLIsKeptByABucketThatHasLearntItSince(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	_, err := b.Put(ctx, "k", "v", jskv.TTL(time.Minute))
	requireIs(t, err, jskv.ErrInvalidOption)
	_, err = jskv.CreateOrUpdateBucket(ctx, server.JetStream(), jetstream.KeyValueConfig{Bucket: "b", LimitMarkerTTL: time.Second}, jskv.String())
	require.NoError(t, err)
	_, err = b.Put(ctx, "k", "v", jskv.TTL(time.Minute))
	require.NoError(t, err, "the bucket can keep it now")
}

func TestTTLOnABucketThatHasGotAHistorySinceBringsNothingBack(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second})
	_, err := jskv.CreateOrUpdateBucket(ctx, server.JetStream(), jetstream.KeyValueConfig{Bucket: "b", History: 5}, jskv.String())
	require.NoError(t, err)
	mustPut(t, b, "k", "old")
	revision, err := b.Put(ctx, "k", "short", jskv.TTL(time.Second))
	require.NoError(t, err)
	var e jskv.Entry[string]
	eventually(t, func() bool {
		e, err = b.Entry(ctx, "k")
		return e.Revision != revision
	}, "the value expires")
	requireIs(t, err, jskv.ErrKeyNotFound)
	requireNothingBack(t, b, e)
}

func TestAValueThatExpiredIsNeitherListedNorFound(t *testing.T) {
	t.Parallel()
	for history, lives := range map[uint8]struct{ value, marker time.Duration }{
		1: {time.Second, time.Hour},
		2: {3 * time.Second, 3 * time.Second}, // with a history the marker lives no longer than the value
	} {
		t.Run(fmt.Sprintf("history %d", history), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			b, _ := newBucket(t, jetstream.KeyValueConfig{History: history, LimitMarkerTTL: lives.marker})
			revision, err := b.Put(ctx, "k", "v", jskv.TTL(lives.value))
			require.NoError(t, err)
			mustPut(t, b, "live", "v")
			marker := expired(t, b, "k")
			keys, err := jskv.Collect(b.Keys(ctx))
			require.NoError(t, err)
			require.Equal(t, []string{"live"}, keys)
			_, err = b.Entry(ctx, "k", jskv.AtRevision(revision))
			requireIs(t, err, jskv.ErrKeyNotFound)
			_, err = b.Update(ctx, "k", "w", revision)
			requireConflict(t, err, "k", revision, marker.Revision)
			_, err = b.Update(ctx, "k", "w", marker.Revision)
			require.NoError(t, err)
		})
	}
}

func TestATTLOfTheBucketEndsValuesToo(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{TTL: time.Second})
	mustPut(t, b, "k", "v")
	e := expired(t, b, "k")
	require.Zero(t, e, "a bucket without LimitMarkerTTL leaves no marker")
	_, err := b.Create(ctx, "k", "w")
	require.NoError(t, err)
}
