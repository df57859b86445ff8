package jskv_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

func TestCreateBucketBindsToAnEqualBucketAndRefusesADifferentOne(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	first := createBucket(t, js, jetstream.KeyValueConfig{History: 3})
	revision := mustPut(t, first, "k", "v")

	again, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "b", History: 3}, jskv.String())
	require.NoError(t, err)
	e, err := again.Entry(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, revision, e.Revision, "what was there stays")

	_, err = jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "b", History: 4}, jskv.String())
	requireIs(t, err, jskv.ErrBucketExists, jetstream.ErrBucketExists)
	requireNames(t, err, "create bucket b:")
	_, err = jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "b", History: 3}, jskv.String(), jskv.WithTransactions())
	requireIs(t, err, jskv.ErrBucketExists)
	require.NotErrorIs(t, err, jskv.ErrBucketNotFound)
	status, err := first.Status(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, status.History(), "a refusal changes nothing")
}

func TestBucketNamesThatAreRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	for _, test := range []struct{ name, because string }{
		{"", "it is empty"},
		{".", "a dot is not allowed"},
		{"a.b", "a dot would be a token of the subject"},
		{".a", "a dot at the front"},
		{"a.", "a dot at the end"},
		{"a b", "a space ends a subject in the protocol"},
		{" a", "a space in front"},
		{"a\t", "a tab"},
		{"a\r\nb", "a line break would be another command of the protocol"},
		{"a\x00", "a control character"},
		{"*", "a wildcard"},
		{">", "a wildcard"},
		{"a*", "a wildcard inside"},
		{"bücket", "a letter beyond ASCII"},
		{"桶", "a letter beyond ASCII"},
		{"\xff", "no UTF-8 at all"},
		{"a/b", "allowed in keys only"},
		{"a=b", "allowed in keys only"},
		{"a$b", "part of no name"},
		{"a\\b", "a path on some systems"},
		{strings.Repeat("x", 253), "longer than a stream's name may be, KV_ included"},
		{strings.Repeat("x", 1<<20), "a megabyte"},
	} {
		_, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: test.name}, jskv.String())
		requireBadName(t, err, test.because)
		_, err = jskv.CreateOrUpdateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: test.name}, jskv.String())
		requireBadName(t, err, test.because)
		_, err = jskv.OpenBucket(ctx, js, test.name, jskv.String())
		requireBadName(t, err, test.because)
		requireBadName(t, jskv.DeleteBucket(ctx, js, test.name), test.because)
	}
	names, err := jskv.Collect(jskv.BucketNames(ctx, js))
	require.NoError(t, err)
	require.Empty(t, names)
}

func requireBadName(t *testing.T, err error, because string) {
	t.Helper()
	require.ErrorIs(t, err, jskv.ErrInvalidBucketName, because)
	require.ErrorIs(t, err, jetstream.ErrInvalidBucketName, because)
	require.Less(t, len(err.Error()), 400, "an error is a line, not a megabyte")
	require.NotContains(t, err.Error(), "\n")
}

func TestBucketNamesThatAreAccepted(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	accepted := []string{"a", "A-Z_0-9", "-", "_", "KV_b", "0", strings.Repeat("x", 252)}
	for _, name := range accepted {
		b, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: name, Storage: jetstream.MemoryStorage}, jskv.String())
		require.NoError(t, err, name)
		require.Equal(t, name, b.Name())
		require.Equal(t, "KV_"+name, b.Stream().Name())
		require.Equal(t, "$KV."+name+".sue.color", b.Stream().Subject("sue.color"))
		mustPut(t, b, "k", "v")
		_, err = b.Get(ctx, "k")
		require.NoError(t, err, name)
	}
	names, err := jskv.Collect(jskv.BucketNames(ctx, js))
	require.NoError(t, err)
	require.ElementsMatch(t, accepted, names)
	for _, name := range accepted {
		require.NoError(t, jskv.DeleteBucket(ctx, js, name))
	}
}

func TestBucketConfigurationsThatAreRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	for _, test := range []struct {
		because string
		cfg     jetstream.KeyValueConfig
		is      []error
	}{
		{"history ends at 64", jetstream.KeyValueConfig{History: 65}, []error{jskv.ErrInvalidOption, jetstream.ErrHistoryTooLarge}},
		{"a marker lives a second at least", jetstream.KeyValueConfig{LimitMarkerTTL: 500 * time.Millisecond}, []error{jskv.ErrInvalidOption}},
		{"a marker's life is not negative", jetstream.KeyValueConfig{LimitMarkerTTL: -time.Second}, []error{jskv.ErrInvalidOption}},
		{"a source is something", jetstream.KeyValueConfig{Sources: []*jetstream.StreamSource{nil}}, []error{jskv.ErrInvalidOption}},
		{"a source has a name", jetstream.KeyValueConfig{Sources: []*jetstream.StreamSource{{}}}, []error{jskv.ErrInvalidOption}},
		{"a mirror has an origin", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{}}, []error{jskv.ErrInvalidOption}},
		{"an origin is in one place", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{
			Name: "origin", Domain: "hub", External: &jetstream.ExternalStream{APIPrefix: "$JS.leaf.API"},
		}}, []error{jskv.ErrInvalidOption}},
		{"the server refuses a negative age", jetstream.KeyValueConfig{TTL: -time.Second}, nil},
		{"the server refuses negative replicas", jetstream.KeyValueConfig{Replicas: -1}, nil},
		{"one server cannot replicate", jetstream.KeyValueConfig{Replicas: 3}, nil},
	} {
		test.cfg.Bucket = "b"
		for _, make := range []func(context.Context, jetstream.JetStream, jetstream.KeyValueConfig, jskv.Codec[string], ...jskv.BucketOption) (*jskv.Bucket[string], error){
			jskv.CreateBucket[string], jskv.CreateOrUpdateBucket[string],
		} {
			b, err := make(ctx, js, test.cfg, jskv.String())
			require.Error(t, err, test.because)
			require.Nil(t, b)
			requireIs(t, err, test.is...)
			requireNames(t, err, " bucket b:")
			if test.is == nil {
				var refusal *jetstream.APIError
				require.ErrorAs(t, err, &refusal, test.because)
			}
		}
	}
	_, err := jskv.OpenBucket(ctx, js, "b", jskv.String())
	requireIs(t, err, jskv.ErrBucketNotFound)
}

func TestABucketNeedsACodecAndAConnection(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	js, cfg := server.JetStream(), jetstream.KeyValueConfig{Bucket: "new"}
	_, err := jskv.CreateBucket[string](ctx, js, cfg, nil)
	requireIs(t, err, jskv.ErrInvalidOption)
	_, err = jskv.CreateOrUpdateBucket[string](ctx, js, cfg, nil)
	requireIs(t, err, jskv.ErrInvalidOption)
	_, err = jskv.OpenBucket[string](ctx, js, "b", nil)
	requireIs(t, err, jskv.ErrInvalidOption)
	require.Panics(t, func() { jskv.As[int](b, nil) })

	_, err = jskv.CreateBucket(ctx, nil, cfg, jskv.String())
	requireIs(t, err, jskv.ErrInvalidOption)
	_, err = jskv.OpenBucket(ctx, nil, "b", jskv.String())
	requireIs(t, err, jskv.ErrInvalidOption)
	requireIs(t, jskv.DeleteBucket(ctx, nil, "b"), jskv.ErrInvalidOption)
	requireIs(t, last(jskv.BucketNames(ctx, nil)), jskv.ErrInvalidOption)

	names, err := jskv.Collect(jskv.BucketNames(ctx, js))
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, names, "nothing was made without a codec")
}

func TestOpenBucketFindsOnlyBuckets(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	_, err := jskv.OpenBucket(ctx, js, "b", jskv.String())
	requireIs(t, err, jskv.ErrBucketNotFound, jetstream.ErrBucketNotFound)
	requireNames(t, err, "open bucket b:")

	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "KV_events", Subjects: []string{"events.>"}})
	require.NoError(t, err)
	_, err = jskv.OpenBucket(ctx, js, "events", jskv.String())
	requireIs(t, err, jetstream.ErrBadBucket)
}

func TestOpenBucketWithTransactionsChangesNothing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "plain"})
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "atomic"}, jskv.WithTransactions())
	_, err := jskv.OpenBucket(ctx, js, "plain", jskv.String(), jskv.WithTransactions())
	requireIs(t, err, jskv.ErrTransactionsDisabled)
	require.Contains(t, err.Error(), "WithTransactions")
	require.NotContains(t, rawConfig(t, js, "KV_plain"), "allow_atomic")
	_, err = jskv.OpenBucket(ctx, js, "atomic", jskv.String(), jskv.WithTransactions())
	require.NoError(t, err)
	_, err = jskv.OpenBucket(ctx, js, "atomic", jskv.String())
	require.NoError(t, err, "transactions are offered, not demanded")
}

func TestOpenBucketWithFastIngestChangesNothing(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "plain"})
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "fast"}, jskv.WithFastIngest())
	_, err := jskv.OpenBucket(ctx, js, "plain", jskv.String(), jskv.WithFastIngest())
	requireIs(t, err, jskv.ErrInvalidOption)
	require.Contains(t, err.Error(), "WithFastIngest")
	require.NotContains(t, rawConfig(t, js, "KV_plain"), "allow_batched")
	_, err = jskv.OpenBucket(ctx, js, "fast", jskv.String(), jskv.WithFastIngest())
	require.NoError(t, err)
}

func TestDeleteBucketTakesItsKeysAlong(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	js := server.JetStream()
	mustPut(t, b, "k", "v")
	require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
	err := jskv.DeleteBucket(ctx, js, "b")
	requireIs(t, err, jskv.ErrBucketNotFound, jetstream.ErrBucketNotFound)
	requireNames(t, err, "delete bucket b:")

	b = createBucket(t, js, jetstream.KeyValueConfig{})
	_, err = b.Get(ctx, "k")
	requireIs(t, err, jskv.ErrKeyNotFound)
	require.EqualValues(t, 1, mustPut(t, b, "k", "v"), "revisions begin anew")
}

func TestBucketNamesYieldsBucketsAndMirrorsAndNothingElse(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	names, err := jskv.Collect(jskv.BucketNames(ctx, js))
	require.NoError(t, err)
	require.Empty(t, names)

	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin"})
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "mirror", Mirror: &jetstream.StreamSource{Name: "origin"}})
	_, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "stock"})
	require.NoError(t, err)
	_, err = js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "objects"})
	require.NoError(t, err)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "plain", Subjects: []string{"plain"}})
	require.NoError(t, err)

	for _, stream := range []string{"KV_", "KV_a$b"} {
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{stream}})
		require.NoError(t, err)
	}
	seq := jskv.BucketNames(ctx, js)
	names, err = jskv.Collect(seq)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"origin", "mirror", "stock"}, names)
	for range seq {
		break
	}
	again, err := jskv.Collect(seq)
	require.NoError(t, err)
	require.Equal(t, names, again, "a sequence can be ranged over again")
}

func TestBucketNamesYieldsMoreThanOnePage(t *testing.T) {
	t.Parallel()
	js := jskvtest.NewServer(t).JetStream()
	const page = 1024 // of the server's STREAM.NAMES
	var want []string
	for i := range page + 3 {
		name := fmt.Sprintf("b%04d", i)
		want = append(want, name)
		_, err := js.CreateStream(testContext(t), jetstream.StreamConfig{
			Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, MaxMsgsPerSubject: 1, Storage: jetstream.MemoryStorage,
		})
		require.NoError(t, err)
	}
	names, err := jskv.Collect(jskv.BucketNames(testContext(t), js))
	require.NoError(t, err)
	slices.Sort(names)
	require.Equal(t, want, names)
}

func TestBucketNamesEndsWithItsError(t *testing.T) {
	t.Parallel()
	js := jskvtest.NewServer(t).JetStream()
	createBucket(t, js, jetstream.KeyValueConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := last(jskv.BucketNames(ctx, js))
	requireIs(t, err, context.Canceled)
	requireNames(t, err, "list buckets")
	js.Conn().Close()
	requireIs(t, last(jskv.BucketNames(testContext(t), js)), nats.ErrConnectionClosed)
}

func TestStatusTellsStateAndConfiguration(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 5, TTL: time.Hour, LimitMarkerTTL: time.Minute, Compression: true, Metadata: map[string]string{"team": "red"}})
	mustPut(t, b, "k", "1")
	mustPut(t, b, "k", "2")
	status, err := b.Status(ctx)
	require.NoError(t, err)
	require.IsType(t, (*jetstream.KeyValueBucketStatus)(nil), status)
	require.Equal(t, "b", status.Bucket())
	require.EqualValues(t, 2, status.Values())
	require.EqualValues(t, 5, status.History())
	require.Equal(t, time.Hour, status.TTL())
	require.Equal(t, time.Minute, status.LimitMarkerTTL())
	require.True(t, status.IsCompressed())
	require.Equal(t, "red", status.Metadata()["team"])
	mustPut(t, b, "k", "3")
	status, err = b.Status(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, status.Values(), "asked anew every time")
}

func TestAsIsTheSameBucketThroughAnotherType(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{})
	numbers := jskv.As(text, jskv.JSON[int]())
	require.Equal(t, "b", numbers.Name())
	revision, err := numbers.Put(ctx, "n", 42)
	require.NoError(t, err)
	e, err := text.Entry(ctx, "n")
	require.NoError(t, err)
	require.Equal(t, "42", e.Value)
	require.Equal(t, revision, e.Revision)
	mustPut(t, text, "n", "no number")
	_, err = numbers.Get(ctx, "n")
	var undecoded *jskv.DecodeError
	require.ErrorAs(t, err, &undecoded)
	bytes, err := jskv.As(numbers, jskv.Bytes()).Get(ctx, "n")
	require.NoError(t, err)
	require.Equal(t, "no number", string(bytes))
}
