package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// revisionOf is what both clients should say of one revision.
type revisionOf struct {
	Bucket, Key, Value string
	Revision           uint64
	Operation          string
	Created            int64
}

func ours(e jskv.Entry[string]) revisionOf {
	return revisionOf{e.Bucket, e.Key, e.Value, e.Revision, e.Operation.String(), e.Created.UnixNano()}
}

func theirs(e jetstream.KeyValueEntry) revisionOf {
	op := map[jetstream.KeyValueOp]string{
		jetstream.KeyValuePut: "Put", jetstream.KeyValueDelete: "Delete", jetstream.KeyValuePurge: "Purge",
	}[e.Operation()]
	return revisionOf{e.Bucket(), e.Key(), string(e.Value()), e.Revision(), op, e.Created().UnixNano()}
}

// requireSame wants both clients to see the same of every key, in every way of reading.
func requireSame(t *testing.T, b *jskv.Bucket[string], kv jetstream.KeyValue, keys ...string) {
	t.Helper()
	ctx := testContext(t)
	for _, key := range keys {
		mine, err := b.Entry(ctx, key)
		stock, stockErr := kv.Get(ctx, key)
		if stockErr == nil {
			require.NoError(t, err, key)
			require.Equal(t, theirs(stock), ours(mine))
		} else {
			requireIs(t, stockErr, jetstream.ErrKeyNotFound)
			requireIs(t, err, jskv.ErrKeyNotFound)
		}
		var want, got []revisionOf
		stockHistory, stockErr := kv.History(ctx, key)
		require.True(t, stockErr == nil || errors.Is(stockErr, jetstream.ErrKeyNotFound), "%v", stockErr)
		for _, e := range stockHistory {
			want = append(want, theirs(e))
			mine, err := b.Entry(ctx, key, jskv.AtRevision(e.Revision()))
			require.Equal(t, e.Operation() == jetstream.KeyValuePut, err == nil, "%v", err)
			require.Equal(t, theirs(e), ours(mine))
		}
		entries, err := jskv.Collect(b.History(ctx, key))
		require.NoError(t, err)
		for _, e := range entries {
			got = append(got, ours(e))
		}
		require.Equal(t, want, got, "history of %s", key)
	}
	want, err := kv.Keys(ctx)
	require.True(t, err == nil || errors.Is(err, jetstream.ErrNoKeysFound), "%v", err)
	got, err := jskv.Collect(b.Keys(ctx))
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
}

func TestTheStockClientReadsWhatOursWrites(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	for _, history := range []uint8{1, 5} {
		b, server := newBucket(t, jetstream.KeyValueConfig{History: history})
		kv := stockBucket(t, server.JetStream())
		watcher, err := kv.WatchAll(ctx)
		require.NoError(t, err)
		require.Nil(t, <-watcher.Updates(), "an empty bucket")
		var want []string
		wrote := func(key, value, op string) func(uint64, error) {
			return func(revision uint64, err error) {
				t.Helper()
				require.NoError(t, err)
				want = append(want, fmt.Sprint(op, " ", key, " ", value, " ", revision))
				e := <-watcher.Updates()
				seen := theirs(e)
				require.Equal(t, want[len(want)-1], fmt.Sprint(seen.Operation, " ", seen.Key, " ", seen.Value, " ", seen.Revision))
			}
		}
		wrote("put", "a", "Put")(b.Put(ctx, "put", "a"))
		wrote("put", "b", "Put")(b.Put(ctx, "put", "b"))
		wrote("create", "a", "Put")(b.Create(ctx, "create", "a"))
		wrote("put", "c", "Put")(b.Update(ctx, "put", "c", 2))
		wrote("delete", "a", "Put")(b.Put(ctx, "delete", "a"))
		wrote("delete", "", "Delete")(b.Delete(ctx, "delete"))
		wrote("purge", "a", "Put")(b.Put(ctx, "purge", "a"))
		wrote("purge", "", "Purge")(b.Purge(ctx, "purge"))
		wrote("again", "", "Delete")(b.Delete(ctx, "again"))
		wrote("again", "a", "Put")(b.Create(ctx, "again", "a"))
		e, err := b.Modify(ctx, "put", func(current jskv.Entry[string], _ bool) (string, error) { return current.Value + "!", nil })
		wrote("put", "c!", "Put")(e.Revision, err)
		wrote("empty", "", "Put")(b.Put(ctx, "empty", ""))
		require.NoError(t, watcher.Stop())
		requireSame(t, b, kv, "put", "create", "delete", "purge", "again", "empty", "missing")

		revision, err := kv.Update(ctx, "put", []byte("theirs"), e.Revision)
		require.NoError(t, err, "a revision of ours is one of theirs")
		_, err = kv.Create(ctx, "delete", []byte("b"))
		require.NoError(t, err, "a marker of ours is one of theirs")
		require.NoError(t, kv.Delete(ctx, "put", jetstream.LastRevision(revision)))
		n, err := b.PurgeDeletes(ctx, 0)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		requireSame(t, b, kv, "put", "create", "delete", "purge", "again", "empty")
	}
}

func TestOursReadsWhatTheStockClientWrites(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	for _, history := range []uint8{1, 5} {
		js := jskvtest.NewServer(t).JetStream()
		kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", History: history})
		require.NoError(t, err)
		b := openBucket(t, js)
		put := func(key, value string) uint64 {
			t.Helper()
			revision, err := kv.PutString(ctx, key, value)
			require.NoError(t, err)
			return revision
		}
		put("put", "a")
		newest := put("put", "b")
		_, err = kv.Create(ctx, "create", []byte("a"))
		require.NoError(t, err)
		newest, err = kv.Update(ctx, "put", []byte("c"), newest)
		require.NoError(t, err)
		put("delete", "a")
		require.NoError(t, kv.Delete(ctx, "delete"))
		put("purge", "a")
		require.NoError(t, kv.Purge(ctx, "purge"))
		require.NoError(t, kv.Delete(ctx, "again"))
		_, err = kv.Create(ctx, "again", []byte("a"))
		require.NoError(t, err)
		put("empty", "")
		requireSame(t, b, kv, "put", "create", "delete", "purge", "again", "empty", "missing")

		_, err = b.Update(ctx, "put", "ours", newest)
		require.NoError(t, err, "a revision of theirs is one of ours")
		_, err = b.Create(ctx, "delete", "b")
		require.NoError(t, err, "a marker of theirs is one of ours")
		_, err = b.Create(ctx, "create", "b")
		requireIs(t, err, jskv.ErrKeyExists)
		requireSame(t, b, kv, "put", "create", "delete", "purge", "again", "empty")
	}
}

func TestValuesAndMarkersThatExpireAreTheSameToBothClients(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", LimitMarkerTTL: time.Minute})
	require.NoError(t, err)
	b := openBucket(t, js)
	watcher, err := kv.WatchAll(ctx, jetstream.UpdatesOnly())
	require.NoError(t, err)
	sent, err := js.Conn().SubscribeSync("$KV.b.>")
	require.NoError(t, err)
	_, err = kv.Create(ctx, "theirs", []byte("v"), jetstream.KeyTTL(time.Second))
	require.NoError(t, err)
	_, err = b.Create(ctx, "ours", "v", jskv.TTL(time.Second))
	require.NoError(t, err)
	for _, key := range []string{"theirs.purged", "ours.purged"} {
		mustPut(t, b, key, "v")
	}
	const watched = 3 * time.Second // in which the watcher sees the markers
	require.NoError(t, kv.Purge(ctx, "theirs.purged", jetstream.PurgeTTL(watched)))
	_, err = b.Purge(ctx, "ours.purged", jskv.TTL(watched))
	require.NoError(t, err)

	var ttls []time.Duration // on the wire
	for range 6 {
		msg, err := sent.NextMsgWithContext(ctx)
		require.NoError(t, err)
		header := msg.Header.Get(jetstream.MsgTTLHeader)
		if header == "" {
			continue
		}
		d, err := time.ParseDuration(header)
		if err != nil {
			d, err = time.ParseDuration(header + "s")
		}
		require.NoError(t, err)
		ttls = append(ttls, d)
	}
	require.Equal(t, []time.Duration{time.Second, time.Second, watched, watched}, ttls)

	for _, key := range []string{"theirs", "ours"} {
		e := expired(t, b, key)
		require.True(t, e.Expired(), key)
		require.Equal(t, jskv.OpPurge, e.Operation)
	}
	for _, key := range []string{"theirs.purged", "ours.purged"} {
		eventually(t, func() bool {
			e, err := b.Entry(ctx, key)
			requireIs(t, err, jskv.ErrKeyNotFound)
			return e.Revision == 0
		}, "the marker goes without another")
	}
	requireSame(t, b, kv, "theirs", "ours", "theirs.purged", "ours.purged")
	purges := map[string]int{}
	for len(purges) < 4 {
		select {
		case e := <-watcher.Updates():
			if e.Operation() == jetstream.KeyValuePurge {
				purges[e.Key()]++
			}
		case <-ctx.Done():
			require.Fail(t, "markers that did not come", "%v", purges)
		}
	}
	require.NoError(t, watcher.Stop())
	_, err = kv.Create(ctx, "ours", []byte("again"))
	require.NoError(t, err)
	_, err = b.Create(ctx, "theirs", "again")
	require.NoError(t, err)
}

func TestBothClientsCompeteForTheSameRevisions(t *testing.T) {
	t.Parallel()
	const each = 40
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // for thousands of requests
	defer cancel()
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	kv := stockBucket(t, server.JetStream())
	mustPut(t, b, "n", "")
	done := make(chan error)
	go func() {
		for range each {
			for {
				e, err := kv.Get(ctx, "n")
				if err == nil {
					_, err = kv.Update(ctx, "n", append(e.Value(), 't'), e.Revision())
				}
				if err == nil {
					break
				}
				if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	for range each {
		_, err := b.Modify(ctx, "n", func(current jskv.Entry[string], _ bool) (string, error) { return current.Value + "o", nil })
		require.NoError(t, err)
	}
	require.NoError(t, <-done)
	value, err := b.Get(ctx, "n")
	require.NoError(t, err)
	require.Len(t, value, 2*each, "every step was taken once")
}

// Buckets of other clients' older releases lack what newer ones set.
func TestOldBucketsOpen(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "KV_b", Subjects: []string{"$KV.b.>"}, MaxMsgsPerSubject: 3, AllowRollup: true, DenyDelete: true, Discard: jetstream.DiscardOld,
	})
	require.NoError(t, err)
	b, kv := openBucket(t, js), stockBucket(t, js)
	mustPut(t, b, "k", "a")
	mustPut(t, b, "k", "b")
	_, err = b.Delete(ctx, "gone")
	require.NoError(t, err)
	requireSame(t, b, kv, "k", "gone", "missing")
	_, err = b.Put(ctx, "k", "v", jskv.TTL(time.Minute))
	requireIs(t, err, jskv.ErrInvalidOption)
	_, err = jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "b", History: 3}, jskv.String())
	requireIs(t, err, jskv.ErrBucketExists)
}
