package jskv_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// Faults of the stock client (nats.go v1.55.0) with single keys and buckets, by their numbers in
// our list. Each test first shows the fault where that is cheap, so that we learn when the stock
// client has mended it.

// The mismatch of an Update also was ErrKeyExists, on a stream with one replica.
func TestFault10AMismatchIsNotAnExistingKey(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	first := mustPut(t, b, "k", "a")
	second := mustPut(t, b, "k", "b")
	_, err := stockBucket(t, server.JetStream()).Update(ctx, "k", nil, first)
	requireIs(t, err, jetstream.ErrKeyExists)

	_, err = b.Update(ctx, "k", "c", first)
	requireConflict(t, err, "k", first, second)
	_, err = b.Delete(ctx, "k", jskv.IfRevision(first))
	requireConflict(t, err, "k", first, second)
	_, err = b.Purge(ctx, "k", jskv.IfRevision(first))
	requireConflict(t, err, "k", first, second)
}

// PurgeDeletes removed a key that was put again between its listing and its purge, because it
// purged the whole subject.
func TestFault12PurgeDeletesLeavesAKeyThatWasPutAgain(t *testing.T) {
	t.Parallel()
	const keys = 50 // more than are purged at a time
	lost := func(purge func(ctx context.Context, js jetstream.JetStream) error) (lost int) {
		b, srv := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
		for i := range keys {
			_, err := b.Delete(testContext(t), fmt.Sprint("k", i))
			require.NoError(t, err)
		}
		putAgain := sync.OnceFunc(func() {
			for i := range keys {
				if _, err := b.Put(testContext(t), fmt.Sprint("k", i), "again"); err != nil {
					t.Error(err)
				}
			}
		})
		js, err := jetstream.New(srv.Conn(nats.SetCustomDialer(&tapped{sending: func(data string) string {
			if strings.Contains(data, "$JS.API.STREAM.PURGE.") { // between the list and the first purge
				putAgain()
			}
			return data
		}})))
		require.NoError(t, err)
		require.NoError(t, purge(testContext(t), js))
		for i := range keys {
			if _, err := b.Get(testContext(t), fmt.Sprint("k", i)); err != nil {
				requireIs(t, err, jskv.ErrKeyNotFound)
				lost++
			}
		}
		return lost
	}
	require.NotZero(t, lost(func(ctx context.Context, js jetstream.JetStream) error {
		return stockBucket(t, js).PurgeDeletes(ctx, jetstream.DeleteMarkersOlderThan(-1))
	}), "the stock client")
	require.Zero(t, lost(func(ctx context.Context, js jetstream.JetStream) error {
		_, err := openBucket(t, js).PurgeDeletes(ctx, 0)
		return err
	}))
}

// UpdateKeyValue switched atomic publish off without a word.
func TestFault13AnUpdateLeavesTransactionsOn(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	cfg := jetstream.KeyValueConfig{Bucket: "b", Description: "new"}
	createBucket(t, js, jetstream.KeyValueConfig{}, jskv.WithTransactions())
	_, err := js.UpdateKeyValue(ctx, cfg)
	require.NoError(t, err)
	require.NotContains(t, rawConfig(t, js, "KV_b"), "allow_atomic")

	require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
	createBucket(t, js, jetstream.KeyValueConfig{}, jskv.WithTransactions())
	_, err = jskv.CreateOrUpdateBucket(ctx, js, cfg, jskv.String())
	require.NoError(t, err)
	require.Equal(t, true, rawConfig(t, js, "KV_b")["allow_atomic"])
	require.Equal(t, "new", rawConfig(t, js, "KV_b")["description"])
}

// A mirror in its origin's domain could not be read: the stock client asked for subjects of the
// mirror's name, and the stored ones are its origin's.
func TestFault14AMirrorOfTheSameDomainIsRead(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	origin := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin", History: 5})
	mustPut(t, origin, "k", "v")
	mirror := mirrorOf(t, js, origin, &jetstream.StreamSource{Name: "origin"})
	kv, err := js.KeyValue(ctx, "mirror")
	require.NoError(t, err)
	_, err = kv.Get(ctx, "k")
	requireIs(t, err, jetstream.ErrKeyNotFound)
	_, err = kv.Keys(ctx)
	requireIs(t, err, jetstream.ErrNoKeysFound)

	value, err := mirror.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "v", value)
	keys, err := jskv.Collect(mirror.Keys(ctx))
	require.NoError(t, err)
	require.Equal(t, []string{"k"}, keys)
}

// When a value with a TTL expired in a bucket with history, the value before it came back.
func TestFault15AnExpiredValueDoesNotBringBackAnOlderOne(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{History: 5, LimitMarkerTTL: time.Second})
	for _, key := range []string{"stock", "put", "update", "create"} {
		mustPut(t, b, key, "old")
	}
	_, err := server.JetStream().Publish(ctx, "$KV.b.stock", []byte("short"), jetstream.WithMsgTTL(time.Second))
	require.NoError(t, err, "the stock way to put with a TTL")
	_, err = b.Put(ctx, "put", "short", jskv.TTL(time.Second))
	require.NoError(t, err)
	_, err = b.Update(ctx, "update", "short", 3, jskv.TTL(time.Second))
	require.NoError(t, err)
	_, err = b.Delete(ctx, "create")
	require.NoError(t, err)
	_, err = b.Create(ctx, "create", "short", jskv.TTL(time.Second))
	require.NoError(t, err)
	eventually(t, func() bool {
		e, err := b.Entry(ctx, "stock")
		return err == nil && e.Value == "old"
	}, "the older value is back")
	for _, key := range []string{"put", "update", "create"} {
		expired(t, b, key)
		require.Contains(t, []string{"Purge", ""}, history(t, b, key), "%s: a marker, which expires, too", key)
	}
}

// Put and Update could set no TTL, and made a key that had one permanent.
func TestFault16PutAndUpdateCanKeepAKeyShortLived(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute})
	revision, err := b.Create(ctx, "update", "a", jskv.TTL(time.Minute))
	require.NoError(t, err)
	_, err = b.Update(ctx, "update", "b", revision, jskv.TTL(time.Second))
	require.NoError(t, err)
	_, err = b.Put(ctx, "put", "a", jskv.TTL(time.Minute))
	require.NoError(t, err)
	_, err = b.Put(ctx, "put", "b", jskv.TTL(time.Second))
	require.NoError(t, err)
	require.True(t, expired(t, b, "update").Expired())
	require.True(t, expired(t, b, "put").Expired())
}

// Delete with the last revision 0 was unconditional, though 0 means "must not exist" to Update.
func TestFault17RevisionZeroIsARevision(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	kv := stockBucket(t, server.JetStream())
	mustPut(t, b, "stock", "v")
	require.NoError(t, kv.Delete(ctx, "stock", jetstream.LastRevision(0)))
	_, err := kv.Get(ctx, "stock")
	requireIs(t, err, jetstream.ErrKeyNotFound)

	revision := mustPut(t, b, "k", "v")
	_, err = b.Delete(ctx, "k", jskv.IfRevision(0))
	requireConflict(t, err, "k", 0, revision)
	_, err = b.Purge(ctx, "k", jskv.IfRevision(0))
	requireConflict(t, err, "k", 0, revision)
	_, err = b.Get(ctx, "k")
	require.NoError(t, err)
}

// A delete did not return its revision, its marker could not be read, and a conflict did not say
// which revision was in the way.
func TestFault20DeletesAndConflictsTellTheirRevisions(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	kv := stockBucket(t, server.JetStream())
	mustPut(t, b, "k", "v")
	marker, err := b.Delete(ctx, "k")
	require.NoError(t, err)
	stock, err := kv.Get(ctx, "k")
	requireIs(t, err, jetstream.ErrKeyNotFound)
	require.Nil(t, stock)

	e, err := b.Entry(ctx, "k")
	requireIs(t, err, jskv.ErrKeyNotFound)
	require.Equal(t, marker, e.Revision)
	require.Equal(t, jskv.OpDelete, e.Operation)
	_, err = b.Update(ctx, "k", "w", 1)
	requireConflict(t, err, "k", 1, marker)
	require.Contains(t, err.Error(), fmt.Sprint(marker))
}

// CreateOrUpdateKeyValue reset every setting that it was not given: a history of 10 became 1 and
// the revisions were gone.
func TestFault24AnUpdateKeepsWhatItWasNotGiven(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	for _, stock := range []bool{true, false} {
		b := createBucket(t, js, jetstream.KeyValueConfig{History: 10, MaxValueSize: 100, TTL: time.Hour, Metadata: map[string]string{"team": "red"}})
		mustPut(t, b, "k", "a")
		mustPut(t, b, "k", "b")
		before := rawConfig(t, js, "KV_b")
		var err error
		if cfg := (jetstream.KeyValueConfig{Bucket: "b"}); stock {
			_, err = js.CreateOrUpdateKeyValue(ctx, cfg)
		} else {
			_, err = jskv.CreateOrUpdateBucket(ctx, js, cfg, jskv.String())
		}
		require.NoError(t, err)
		if stock {
			require.Equal(t, "Put b", history(t, b, "k"))
		} else {
			require.Equal(t, "Put a, Put b", history(t, b, "k"))
			require.Equal(t, before, rawConfig(t, js, "KV_b"))
		}
		require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
	}
}

// A missing permission looked like a timeout.
func TestFault28AMissingPermissionIsNamed(t *testing.T) {
	t.Parallel()
	srv := guarded(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.b.secret", "$JS.API.DIRECT.GET.KV_b.$KV.b.secret"}}})
	createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	js := hasty(t, srv.Conn(as("guest"), quiet), 300*time.Millisecond)
	kv := stockBucket(t, js)
	_, err := kv.Put(context.Background(), "secret", nil)
	require.Error(t, err)
	require.NotErrorIs(t, err, nats.ErrPermissionViolation)

	b := openBucket(t, js)
	put := refusal(t, func() error { return second(b.Put(context.Background(), "secret", "v")) })
	get := refusal(t, func() error { return second(b.Get(context.Background(), "secret")) })
	for _, err := range []error{put, get} {
		requireIs(t, err, jskv.ErrPermission, nats.ErrPermissionViolation)
		require.Contains(t, err.Error(), "$KV.b.secret")
	}
}

// On a deleted bucket Put, Get, Keys and Status gave four different errors, none of them
// ErrBucketNotFound. (TestEveryVerbSaysThatTheBucketWasDeleted goes through the others.)
func TestFault29ADeletedBucketIsNotFound(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	js := server.JetStream()
	kv := stockBucket(t, js)
	require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
	_, stockPut := kv.Put(ctx, "k", nil)
	_, stockGet := kv.Get(ctx, "k")
	_, stockKeys := kv.Keys(ctx)
	_, stockStatus := kv.Status(ctx)
	for _, err := range []error{stockPut, stockGet, stockKeys, stockStatus} {
		require.Error(t, err)
		require.NotErrorIs(t, err, jetstream.ErrBucketNotFound)
	}
	_, put := b.Put(ctx, "k", "v")
	_, get := b.Get(ctx, "k")
	_, status := b.Status(ctx)
	for _, err := range []error{put, get, status, last(b.Keys(ctx))} {
		requireIs(t, err, jskv.ErrBucketNotFound, jetstream.ErrBucketNotFound)
	}
}

// A TTL of zero or less was no TTL, without a word, and one that is shorter than the marker's was
// lengthened to it in a bucket with history.
func TestFault30ATTLThatCannotBeKeptIsRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{History: 2, LimitMarkerTTL: time.Minute})
	kv := stockBucket(t, server.JetStream())
	kept := func(revision uint64) string {
		msg, err := b.Stream().JetStream().GetMsg(ctx, revision)
		require.NoError(t, err)
		return msg.Header.Get(jetstream.MsgTTLHeader)
	}
	for key, want := range map[string]string{"0s": "", "-5s": "", "2s": "60"} {
		ttl, err := time.ParseDuration(key)
		require.NoError(t, err)
		revision, err := kv.Create(ctx, strings.Trim(key, "-"), nil, jetstream.KeyTTL(ttl))
		require.NoError(t, err)
		require.Equal(t, want, kept(revision))

		_, err = b.Create(ctx, "k", "v", jskv.TTL(ttl))
		requireIs(t, err, jskv.ErrInvalidOption)
		_, err = b.Get(ctx, "k")
		requireIs(t, err, jskv.ErrKeyNotFound)
	}
}

// A full bucket with history refused overwrites, deletes and purges with an error that had no
// name.
func TestFault31AFullBucketIsNamed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{History: 5, MaxBytes: 1000})
	require.Error(t, fill(ctx, b, "k", "v"))
	kv := stockBucket(t, server.JetStream())
	refused := kv.Delete(ctx, "k0")
	require.Error(t, refused)
	require.NotErrorIs(t, refused, jskv.ErrBucketFull)
	_, put := b.Put(ctx, "k0", "w")
	_, remove := b.Delete(ctx, "k0")
	_, purge := b.Purge(ctx, "k0")
	for _, err := range []error{put, remove, purge} {
		requireIs(t, err, jskv.ErrBucketFull)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
	}
	require.Equal(t, "Put v", history(t, b, "k0"))
}
