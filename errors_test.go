package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

func TestErrorsAreThoseOfTheStockClientToo(t *testing.T) {
	t.Parallel()
	ours := map[error]error{
		jskv.ErrKeyNotFound:          jetstream.ErrKeyNotFound,
		jskv.ErrKeyExists:            jetstream.ErrKeyExists,
		jskv.ErrRevisionMismatch:     jetstream.ErrKeyRevisionMismatch,
		jskv.ErrInvalidKey:           jetstream.ErrInvalidKey,
		jskv.ErrInvalidBucketName:    jetstream.ErrInvalidBucketName,
		jskv.ErrBucketNotFound:       jetstream.ErrBucketNotFound,
		jskv.ErrBucketExists:         jetstream.ErrBucketExists,
		jskv.ErrBucketReplaced:       nil,
		jskv.ErrInvalidOption:        jetstream.ErrInvalidOption,
		jskv.ErrWatcherStopped:       nil,
		jskv.ErrTransactionsDisabled: nil,
		jskv.ErrTooManyOperations:    nil,
		jskv.ErrInvalidFilter:        nil,
		jskv.ErrBucketFull:           nil,
		jskv.ErrOutcomeUnknown:       nil,
		jskv.ErrValueTooLarge:        nil,
		jskv.ErrPermission:           nats.ErrPermissionViolation,
		jskv.ErrWrongStream:          nil,
	}
	texts := map[string]bool{}
	for err, stock := range ours {
		if stock != nil {
			require.ErrorIs(t, err, stock)
		}
		for other := range ours {
			require.Equal(t, err == other, errors.Is(err, other), "%v and %v", err, other)
		}
		require.NotEmpty(t, err.Error())
		require.False(t, texts[err.Error()], "%v has a text of its own", err)
		texts[err.Error()] = true
	}
	require.Contains(t, jskv.ErrTransactionsDisabled.Error(), "WithTransactions")
}

func TestErrorValuesOfTheirOwn(t *testing.T) {
	t.Parallel()
	conflict := &jskv.RevisionError{Bucket: "b", Key: "k", Expected: 3, Actual: 5}
	requireIs(t, conflict, jskv.ErrRevisionMismatch, jetstream.ErrKeyRevisionMismatch)
	require.NotErrorIs(t, conflict, jskv.ErrKeyExists)
	require.NotErrorIs(t, conflict, jetstream.ErrKeyExists)
	require.Equal(t, "jskv: b/k: revision 3 is not the newest (5)", conflict.Error())
	cause := errors.New("bad bytes")
	undecoded := &jskv.DecodeError{Bucket: "b", Key: "k", Revision: 7, Data: []byte("x"), Err: cause}
	require.ErrorIs(t, undecoded, cause)
	require.Equal(t, "jskv: decode b/k: revision 7: bad bytes", undecoded.Error())
}

func TestEveryVerbSaysThatTheBucketWasDeleted(t *testing.T) {
	t.Parallel()
	js := jskvtest.NewServer(t).JetStream()
	writer := createBucket(t, js, jetstream.KeyValueConfig{})
	mustPut(t, writer, "k", "v")
	reader := openBucket(t, js) // has been acknowledged for nothing
	careful := openIdempotent(t, js)
	require.NoError(t, jskv.DeleteBucket(testContext(t), js, "b"))
	for name, b := range map[string]*jskv.Bucket[string]{"writer": writer, "reader": reader, "careful": careful} {
		ctx := testContext(t)
		together(t, func(v verb) error { return v.call(ctx, b) }, func(t *testing.T, _ verb, err error) {
			requireIs(t, err, jskv.ErrBucketNotFound, jetstream.ErrBucketNotFound)
			require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown, "nothing was stored by the "+name)
			require.NotErrorIs(t, err, jskv.ErrKeyNotFound)
			requireNames(t, err, "bucket not found")
			requireBucketOnce(t, err)
		})
	}
}

// requireBucketOnce wants an error of bucket "b" to name it once, with or without a key.
func requireBucketOnce(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, 1, len(bucketB.FindAllString(err.Error(), -1)), "%v", err)
}

var bucketB = regexp.MustCompile(` b[:/]`)

func TestEveryVerbSaysThatTheConnectionIsClosed(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	mustPut(t, b, "k", "v")
	nc := server.Conn()
	b = openBucket(t, hasty(t, nc, time.Minute))
	nc.Close()
	together(t, func(v verb) error { return v.call(context.Background(), b) }, func(t *testing.T, _ verb, err error) {
		requireIs(t, err, nats.ErrConnectionClosed)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown, "nothing was sent")
		requireNames(t, err, nats.ErrConnectionClosed.Error())
		requireBucketOnce(t, err)
	})
	js := hasty(t, nc, time.Minute)
	for name, err := range bucketErrors(context.Background(), js) {
		requireIs(t, err, nats.ErrConnectionClosed)
		requireNames(t, err, name)
	}
}

// bucketErrors are the errors of what is done with buckets, under the text that must name it.
func bucketErrors(ctx context.Context, js jetstream.JetStream) map[string]error {
	_, create := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "b", History: 2}, jskv.String())
	_, update := jskv.CreateOrUpdateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "b"}, jskv.String())
	_, open := jskv.OpenBucket(ctx, js, "b", jskv.String())
	return map[string]error{
		"create bucket b": create,
		"update bucket b": update,
		"open bucket b":   open,
		"list buckets":    last(jskv.BucketNames(ctx, js)),
		"delete bucket b": jskv.DeleteBucket(ctx, js, "b"),
	}
}

func TestEveryVerbHeedsAContextThatHasEnded(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	mustPut(t, b, "k", "v")
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	expired, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Hour))
	defer cancel()
	for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: expired} {
		for _, verb := range verbs {
			err := verb.call(ctx, b)
			require.ErrorIs(t, err, want, verb.name)
			require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown, verb.name)
			requireNames(t, err, want.Error())
			requireBucketOnce(t, err)
		}
		for name, err := range bucketErrors(ctx, server.JetStream()) {
			require.ErrorIs(t, err, want, name)
			requireNames(t, err, name, want.Error())
		}
	}
	info, err := b.Stream().Info(testContext(t))
	require.NoError(t, err)
	require.EqualValues(t, 1, info.State.LastSeq, "nothing was stored")
}

// Without a deadline of its own a call is bounded by the default timeout of its JetStream (5 s
// where nothing else was said).
func TestEveryVerbGivesUpOnAServerThatIsDown(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	mustPut(t, b, "k", "v")
	js := hasty(t, server.Conn(), timeout)
	b = openBucket(t, js)
	server.Stop()
	eventually(t, js.Conn().IsReconnecting, "the client notices")
	giveUp := func(ctx context.Context, check func(t *testing.T, v verb, err error)) time.Duration {
		start := time.Now()
		together(t, func(v verb) error { return v.call(ctx, b) }, check)
		return time.Since(start)
	}
	promptly(t, 10*timeout, func() time.Duration {
		return giveUp(context.Background(), func(t *testing.T, v verb, err error) {
			requireTimeout(t, err)
			require.Equal(t, v.writes, errors.Is(err, jskv.ErrOutcomeUnknown), "%v", err)
			requireBucketOnce(t, err)
		})
	})
	endless, cancel := context.WithCancel(context.Background()) // which is none with a deadline
	defer cancel()
	promptly(t, 10*timeout, func() time.Duration {
		return giveUp(endless, func(t *testing.T, _ verb, err error) { requireTimeout(t, err) })
	})
	promptly(t, 10*timeout, func() time.Duration {
		ctx, cancel := context.WithTimeout(context.Background(), timeout/3)
		defer cancel()
		return giveUp(ctx, func(t *testing.T, _ verb, err error) { requireIs(t, err, context.DeadlineExceeded) })
	})
	promptly(t, 20*timeout, func() time.Duration {
		start := time.Now()
		for name, err := range bucketErrors(context.Background(), js) {
			requireTimeout(t, err)
			requireNames(t, err, name)
		}
		return time.Since(start)
	})
}

func requireTimeout(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.True(t, errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded), "%v", err)
}

func TestAWriteWithoutAnAnswerHasAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	const patience = 5 * time.Second // in which the write arrives
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	for because, test := range map[string]struct {
		timeout time.Duration
		end     func(proxy *jskvtest.Proxy, nc *nats.Conn, cancel func())
		is      error
	}{
		"the time is up":       {patience, func(*jskvtest.Proxy, *nats.Conn, func()) {}, context.DeadlineExceeded},
		"the caller gave up":   {time.Minute, func(_ *jskvtest.Proxy, _ *nats.Conn, cancel func()) { cancel() }, context.Canceled},
		"the client closed":    {time.Minute, func(_ *jskvtest.Proxy, nc *nats.Conn, _ func()) { nc.Close() }, nats.ErrConnectionClosed},
		"the connection broke": {patience, func(proxy *jskvtest.Proxy, _ *nats.Conn, _ func()) { proxy.Refuse(); proxy.Reset() }, nil},
	} {
		t.Run(because, func(t *testing.T) {
			t.Parallel()
			proxy := jskvtest.NewProxy(t, server.URL())
			js := proxy.JetStream()
			far := openBucket(t, js)
			proxy.Stall(jskvtest.ToClient)
			key := strings.ReplaceAll(because, " ", ".")
			ctx, cancel := context.WithTimeout(context.Background(), test.timeout)
			defer cancel()
			failure := make(chan error)
			go func() {
				revision, err := far.Put(ctx, key, "v")
				if revision != 0 {
					err = fmt.Errorf("revision %d beside %w", revision, err)
				}
				failure <- err
			}()
			eventually(t, func() bool {
				_, err := b.Get(testContext(t), key)
				return err == nil
			}, "the write arrives, its answer does not")
			test.end(proxy, js.Conn(), cancel)
			err := <-failure
			requireIs(t, err, jskv.ErrOutcomeUnknown)
			if test.is != nil {
				requireIs(t, err, test.is)
			}
			requireNames(t, err, "put b/"+key+": the write may or may not have happened")
		})
	}
}

func TestAFullBucketSaysSo(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	for _, history := range []uint8{1, 5} {
		b := createBucket(t, js, jetstream.KeyValueConfig{Bucket: fmt.Sprint("history", history), MaxBytes: 2000, History: history})
		value := strings.Repeat("v", 500)
		err := fill(ctx, b, "v", value)
		requireIs(t, err, jskv.ErrBucketFull)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
		var refusal *jetstream.APIError
		require.ErrorAs(t, err, &refusal, "with the server's own words")
		requireNames(t, err, "put "+b.Name()+"/v", "bucket is full")
		requireIs(t, fill(ctx, b, "brim", ""), jskv.ErrBucketFull)
		_, err = b.Create(ctx, "new", value)
		requireIs(t, err, jskv.ErrBucketFull)
		_, err = b.Update(ctx, "new", value, 0)
		requireIs(t, err, jskv.ErrBucketFull)
		read, err := b.Get(ctx, "v0")
		require.NoError(t, err, "reads go on")
		require.Equal(t, value, read)

		modify := func() error {
			_, err := b.Modify(ctx, "v1", func(jskv.Entry[string], bool) (string, error) { return "short", nil })
			return err
		}
		for i, err := range []error{second(b.Put(ctx, "v0", value)), modify(), second(b.Delete(ctx, "v1")), second(b.Purge(ctx, "v0"))} {
			if history == 1 {
				require.NoError(t, err, "write %d frees what it takes", i)
			} else {
				require.ErrorIs(t, err, jskv.ErrBucketFull, "write %d", i)
			}
		}
	}
}

// fill puts keys until the bucket takes no more, and returns the error that says so.
func fill(ctx context.Context, b *jskv.Bucket[string], prefix, value string) error {
	for i := 0; i < 100; i++ {
		if _, err := b.Put(ctx, fmt.Sprint(prefix, i), value); err != nil {
			return err
		}
	}
	return nil
}

// second is the error of a call.
func second[V any](_ V, err error) error { return err }

func TestServerErrorsWithoutANameOfOursComeThrough(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	mustPut(t, b, "k", "v")
	setConfig(t, server.JetStream(), "KV_b", map[string]any{"sealed": true})
	for _, verb := range verbs {
		if !verb.writes || strings.HasSuffix(verb.name, "IfRevision") {
			continue
		}
		err := verb.call(ctx, b)
		var refusal *jetstream.APIError
		require.ErrorAs(t, err, &refusal, verb.name)
		require.EqualValues(t, 10109, refusal.ErrorCode)
		requireNames(t, err, " b/", refusal.Description)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
	}
	value, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "v", value)
}

func TestAWriteThatAnotherStreamTookSaysSo(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	js := server.JetStream()
	require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "thief", Subjects: []string{"$KV.>"}})
	require.NoError(t, err)
	revision, err := b.Put(ctx, "k", "v")
	requireIs(t, err, jskv.ErrWrongStream)
	require.Zero(t, revision)
	requireNames(t, err, "put b/k: ", "thief")
}
