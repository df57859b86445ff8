package jskv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{})
	for _, test := range []struct{ key, because string }{
		{"", "it is empty"},
		{".", "two empty tokens"},
		{"..", "three empty tokens"},
		{".a", "an empty token in front"},
		{"a.", "an empty token at the end"},
		{"a..b", "an empty token inside, which is no subject"},
		{"a b", "a space ends a subject in the protocol"},
		{" ", "a space"},
		{"a ", "a space at the end"},
		{"a\tb", "a tab ends a subject, too"},
		{"a\r\nPUB x 0", "a line break would be another command of the protocol"},
		{"a\n", "a line break at the end, which a regular expression's $ may let pass"},
		{"a\x00", "a control character"},
		{"a\x7f", "a control character"},
		{"*", "a wildcard"},
		{">", "a wildcard"},
		{"a.*", "a wildcard"},
		{"a.>", "a wildcard"},
		{"a*b", "a wildcard inside a token"},
		{"schlüssel", "a letter beyond ASCII"},
		{"鍵", "a letter beyond ASCII"},
		{"é", "a letter beyond ASCII, composed"},
		{"a\xff", "no UTF-8 at all"},
		{"a\u200b", "a space that nobody sees"},
		{"a:b", "not among ADR-8's characters"},
		{"a\\b", "not among ADR-8's characters"},
		{"$a", "not among ADR-8's characters"},
		{"a+b", "not among ADR-8's characters"},
		{`"a"`, "not among ADR-8's characters"},
		{strings.Repeat("k", 4096), "as long as the server's protocol line, which would end the connection"},
		{strings.Repeat("k", 1<<20), "a megabyte"},
		{strings.Repeat("k.", 1<<19) + "k", "a megabyte of tokens"},
	} {
		for _, call := range keyVerbs {
			err := call(ctx, b, test.key)
			require.ErrorIs(t, err, jskv.ErrInvalidKey, test.because)
			require.ErrorIs(t, err, jetstream.ErrInvalidKey, test.because)
			require.Less(t, len(err.Error()), 400, "an error is a line, not a megabyte")
			require.NotContains(t, err.Error(), "\n", "an error is one line")
			requireNames(t, err, " b: invalid key: ")
		}
	}
	info, err := b.Stream().Info(ctx)
	require.NoError(t, err)
	require.Zero(t, info.State.LastSeq, "nothing was stored")
}

// keyVerbs are the operations on one key.
var keyVerbs = []func(ctx context.Context, b *jskv.Bucket[string], key string) error{
	func(ctx context.Context, b *jskv.Bucket[string], key string) error {
		_, err := b.Put(ctx, key, "v")
		return err
	},
	func(ctx context.Context, b *jskv.Bucket[string], key string) error {
		_, err := b.Create(ctx, key, "v")
		return err
	},
	func(ctx context.Context, b *jskv.Bucket[string], key string) error {
		_, err := b.Update(ctx, key, "v", 1)
		return err
	},
	func(ctx context.Context, b *jskv.Bucket[string], key string) error {
		_, err := b.Delete(ctx, key)
		return err
	},
	func(ctx context.Context, b *jskv.Bucket[string], key string) error {
		_, err := b.Purge(ctx, key)
		return err
	},
	func(ctx context.Context, b *jskv.Bucket[string], key string) error {
		_, err := b.Get(ctx, key)
		return err
	},
	func(ctx context.Context, b *jskv.Bucket[string], key string) error {
		_, err := b.Entry(ctx, key, jskv.AtRevision(1))
		return err
	},
	func(ctx context.Context, b *jskv.Bucket[string], key string) error {
		_, err := b.Modify(ctx, key, func(jskv.Entry[string], bool) (string, error) {
			return "", errors.New("fn was called for a key that cannot be")
		})
		return err
	},
	func(ctx context.Context, b *jskv.Bucket[string], key string) error { return last(b.History(ctx, key)) },
}

func TestKeysThatAreAccepted(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{})
	for _, key := range []string{
		"a", "A", "0", "-", "_", "/", "=", "a/b", "/a/", "a=b==", "sue.color", "a.b.c.d.e.f.g", "-.-", "KV.b", "DEL", "API",
		strings.Repeat("k", 3000), strings.TrimSuffix(strings.Repeat("k.", 500), "."),
	} {
		revision, err := b.Put(ctx, key, "v")
		require.NoError(t, err, key)
		e, err := b.Entry(ctx, key)
		require.NoError(t, err, key)
		require.Equal(t, key, e.Key)
		require.Equal(t, revision, e.Revision)
		_, err = b.Entry(ctx, key, jskv.AtRevision(revision), jskv.FromLeader())
		require.NoError(t, err, key)
	}
}

func TestWritesReturnTheRevisionThatTheyMade(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 5})
	for want, write := range []func() (uint64, error){
		func() (uint64, error) { return b.Put(ctx, "k", "a") },
		func() (uint64, error) { return b.Create(ctx, "other", "b") },
		func() (uint64, error) { return b.Update(ctx, "k", "c", 1) },
		func() (uint64, error) { return b.Delete(ctx, "k") },
		func() (uint64, error) { return b.Create(ctx, "k", "d") },
		func() (uint64, error) { return b.Update(ctx, "missing", "e", 0) },
	} {
		revision, err := write()
		require.NoError(t, err)
		require.EqualValues(t, want+1, revision)
	}
	require.Equal(t, "Put a, Put c, Delete, Put d", history(t, b, "k"))
	revision, err := b.Purge(ctx, "k")
	require.NoError(t, err)
	require.EqualValues(t, 7, revision)
	require.Equal(t, "Purge", history(t, b, "k"), "a purge drops what was before it")
}

func TestCreateWantsAKeyWithoutAValue(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 3})
	_, err := b.Create(ctx, "k", "a")
	require.NoError(t, err)
	revision, err := b.Create(ctx, "k", "b")
	requireIs(t, err, jskv.ErrKeyExists, jetstream.ErrKeyExists)
	require.NotErrorIs(t, err, jskv.ErrRevisionMismatch)
	require.Zero(t, revision)
	requireNames(t, err, "create b/k: key exists")
	for _, remove := range []func(context.Context, string, ...jskv.WriteOption) (uint64, error){b.Delete, b.Purge} {
		_, err = remove(ctx, "k")
		require.NoError(t, err)
		_, err = b.Create(ctx, "k", "c")
		require.NoError(t, err, "a marker is no value")
		_, err = b.Create(ctx, "k", "d")
		requireIs(t, err, jskv.ErrKeyExists)
	}
	value, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "c", value)
}

func TestOfRacingCreatesExactlyOneWins(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	other := openBucket(t, server.JetStream())
	for round := range 20 {
		key := fmt.Sprint("fresh", round)
		if round%2 == 1 {
			key = fmt.Sprint("deleted", round)
			_, err := b.Delete(ctx, key)
			require.NoError(t, err)
		}
		errs := make([]error, 8)
		var racers sync.WaitGroup
		for i := range errs {
			racers.Go(func() {
				_, errs[i] = []*jskv.Bucket[string]{b, other}[i%2].Create(ctx, key, fmt.Sprint(i))
			})
		}
		racers.Wait()
		winners := 0
		for i, err := range errs {
			if err == nil {
				winners++
				value, err := b.Get(ctx, key)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(i), value)
				continue
			}
			requireIs(t, err, jskv.ErrKeyExists)
		}
		require.Equal(t, 1, winners, key)
	}
}

func TestUpdateWantsTheNewestRevision(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 3})
	first := mustPut(t, b, "k", "a")
	second, err := b.Update(ctx, "k", "b", first)
	require.NoError(t, err)

	revision, err := b.Update(ctx, "k", "c", first)
	requireConflict(t, err, "k", first, second)
	require.Zero(t, revision)
	require.Equal(t, "jskv: update b/k: revision 1 is not the newest (2)", err.Error())
	_, err = b.Update(ctx, "k", "c", 99)
	requireConflict(t, err, "k", 99, second)
	_, err = b.Update(ctx, "k", "c", 0)
	requireConflict(t, err, "k", 0, second)
	_, err = b.Update(ctx, "missing", "c", 7)
	requireConflict(t, err, "missing", 7, 0)
	require.Equal(t, "jskv: update b/missing: revision 7 is not the newest, the key has none", err.Error())

	marker, err := b.Delete(ctx, "k")
	require.NoError(t, err)
	_, err = b.Update(ctx, "k", "c", second)
	requireConflict(t, err, "k", second, marker)
	_, err = b.Update(ctx, "k", "c", 0)
	requireConflict(t, err, "k", 0, marker)
	_, err = b.Update(ctx, "k", "c", marker)
	require.NoError(t, err, "a marker is a revision like others")
	require.Equal(t, "Put b, Delete, Put c", history(t, b, "k"))
	_, err = b.Update(ctx, "fresh", "a", 0)
	require.NoError(t, err)
}

func TestDeleteAndPurgeAreConditionalWithIfRevision(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 3})
	for op, remove := range map[string]func(context.Context, string, ...jskv.WriteOption) (uint64, error){"delete": b.Delete, "purge": b.Purge} {
		old := mustPut(t, b, op, "a")
		newest := mustPut(t, b, op, "b")
		for _, revision := range []uint64{0, old, newest + 100} {
			_, err := remove(ctx, op, jskv.IfRevision(revision))
			requireConflict(t, err, op, revision, newest)
			requireNames(t, err, op+" b/"+op)
		}
		value, err := b.Get(ctx, op)
		require.NoError(t, err)
		require.Equal(t, "b", value)
		_, err = remove(ctx, op, jskv.IfRevision(newest))
		require.NoError(t, err)
		_, err = b.Get(ctx, op)
		requireIs(t, err, jskv.ErrKeyNotFound)

		_, err = remove(ctx, "missing."+op, jskv.IfRevision(1))
		requireConflict(t, err, "missing."+op, 1, 0)
		_, err = remove(ctx, "missing."+op, jskv.IfRevision(0))
		require.NoError(t, err, "0 is the revision of a key that has none")
		revision, err := remove(ctx, "absent."+op)
		require.NoError(t, err, "unconditional, a missing key is no error")
		require.NotZero(t, revision)
	}
	require.Equal(t, "Put a, Put b, Delete", history(t, b, "delete"))
	require.Equal(t, "Purge", history(t, b, "purge"))
}

func TestOptionsThatDoNotFitAWriteAreRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{})
	_, err := b.Put(ctx, "k", "v", jskv.IfRevision(0))
	requireIs(t, err, jskv.ErrInvalidOption, jetstream.ErrInvalidOption)
	requireNames(t, err, "put b/k: ")
	_, err = b.Create(ctx, "k", "v", jskv.IfRevision(0))
	requireIs(t, err, jskv.ErrInvalidOption)
	_, err = b.Update(ctx, "k", "v", 1, jskv.IfRevision(1))
	requireIs(t, err, jskv.ErrInvalidOption)
	_, err = b.Modify(ctx, "k", func(jskv.Entry[string], bool) (string, error) { return "v", nil }, jskv.IfRevision(1))
	requireIs(t, err, jskv.ErrInvalidOption)
	_, err = b.Get(ctx, "k")
	requireIs(t, err, jskv.ErrKeyNotFound)
	_, err = b.Put(ctx, "k", "v", nil)
	require.NoError(t, err, "a nil option is none")
	_, err = b.Get(ctx, "k", nil)
	require.NoError(t, err)
}

func TestValuesUpToTheBucketsLimit(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{MaxValueSize: 100, LimitMarkerTTL: time.Second})
	b := jskv.As(text, jskv.Bytes())
	_, err := b.Put(ctx, "k", make([]byte, 100))
	require.NoError(t, err, "at the limit")
	value, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, make([]byte, 100), value)
	_, err = b.Update(ctx, "k", make([]byte, 100), 1)
	requireIs(t, err, jskv.ErrValueTooLarge) // the server counts a conditional write's headers
	for _, write := range []func([]byte) (uint64, error){
		func(v []byte) (uint64, error) { return b.Put(ctx, "k", v) },
		func(v []byte) (uint64, error) { return b.Create(ctx, "new", v) },
		func(v []byte) (uint64, error) { return b.Update(ctx, "k", v, 1) },
		func(v []byte) (uint64, error) {
			e, err := b.Modify(ctx, "k", func(jskv.Entry[[]byte], bool) ([]byte, error) { return v, nil })
			return e.Revision, err
		},
	} {
		revision, err := write(make([]byte, 101))
		requireIs(t, err, jskv.ErrValueTooLarge)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
		require.Zero(t, revision)
	}
	info, err := b.Stream().Info(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, info.State.LastSeq, "nothing else was stored")
}

func TestValuesUpToTheServersPayload(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	const payload = 4096
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) { o.MaxPayload = payload }))
	b := jskv.As(createBucket(t, srv.JetStream(), jetstream.KeyValueConfig{}), jskv.Bytes())
	_, err := b.Put(ctx, "k", bytes.Repeat([]byte{7}, payload))
	require.NoError(t, err, "at the limit")
	value, err := b.Get(ctx, "k")
	require.NoError(t, err, "which is read all the same, headers and all")
	require.Len(t, value, payload)
	_, err = b.Entry(ctx, "k", jskv.FromLeader())
	require.NoError(t, err)
	_, err = b.Put(ctx, "k", make([]byte, payload+1))
	requireIs(t, err, jskv.ErrValueTooLarge, nats.ErrMaxPayload)
	require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
	requireNames(t, err, "put b/k: ")
	_, err = b.Update(ctx, "k", make([]byte, payload), 1)
	requireIs(t, err, jskv.ErrValueTooLarge)
	_, err = b.Put(ctx, "k", make([]byte, 10))
	require.NoError(t, err, "the connection lives on")
}

func TestAWriteDoesNotKeepTheCallersBytes(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{})
	b := jskv.As(text, jskv.Bytes())
	value := []byte("value")
	_, err := b.Put(ctx, "k", value)
	require.NoError(t, err)
	copy(value, "other")
	read, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "value", string(read))
	copy(read, "other")
	again, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "value", string(again), "what was read belongs to the reader")
}

// deafened has bucket b not listen to what is written, until listen says so.
func deafened(t testing.TB, srv *jskvtest.Server) (listen func(bool)) {
	t.Helper()
	ctx := testContext(t)
	js := srv.JetStream()
	stream, err := js.Stream(ctx, "KV_b")
	require.NoError(t, err)
	usual := stream.CachedInfo().Config
	listen = func(is bool) {
		t.Helper()
		cfg := usual
		if !is {
			cfg.Subjects = []string{"elsewhere"}
		}
		_, err := js.UpdateStream(ctx, cfg)
		require.NoError(t, err)
	}
	listen(false)
	return listen
}

// requireWaits checks that a write is done that has asked so many times whether the bucket is there before that
// listens.
func requireWaits(t testing.TB, srv *jskvtest.Server, b *jskv.Bucket[string], times int, listen func(bool)) {
	t.Helper()
	ctx := testContext(t)
	spy := srv.Conn()
	asked, err := spy.SubscribeSync("$JS.API.STREAM.INFO.KV_b")
	require.NoError(t, err)
	require.NoError(t, spy.Flush())

	written := make(chan error, 1)
	go func() { written <- second(b.Put(ctx, "k", "v")) }()
	for range times {
		_, err := asked.NextMsgWithContext(ctx)
		require.NoError(t, err, "whether the bucket is there")
	}
	listen(true)
	require.NoError(t, <-written)
}

// A leader may lead, and say so, before the server that the writer is connected to has heard that it listens.
func TestAWriteWaitsUntilTheBucketListens(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, srv := newBucket(t, jetstream.KeyValueConfig{})
	listen := deafened(t, srv)
	requireWaits(t, srv, b, 6, listen)

	listen(false)
	_, err := openBucket(t, hasty(t, srv.Conn(), 2*time.Second)).Put(ctx, "k", "v")
	requireIs(t, err, nats.ErrNoResponders, jetstream.ErrNoStreamResponse)
	require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
	require.True(t, jskv.SafeToRetry(err))
}

// unled is a connection over which no answer tells who leads, as where nobody does: a server that has been without a
// leader for some 10 s tells of the stream all the same.
type unled struct{ net.Conn }

func (c unled) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	copy(p, bytes.ReplaceAll(p[:n], []byte(`"leader":`), []byte(`"nobody":`)))
	return n, err
}

// Dial makes the connection of a client.
func (unled) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return unled{conn}, err
}

// That the stream was there counted as that somebody led it, and the default timeout ended a wait that had more time.
func TestAWriteWaitsForALeaderUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	_, srv := newBucket(t, jetstream.KeyValueConfig{})
	b := openBucket(t, hasty(t, srv.Conn(nats.SetCustomDialer(unled{})), 300*time.Millisecond))
	requireWaits(t, srv, b, 5, deafened(t, srv)) // for more than the default timeout
}
