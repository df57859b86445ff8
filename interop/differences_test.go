package interop

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// Every test here shows a line of docs/interop.md: what one client does, and the others do not.

// trio is a server with all three clients.
func trio(t *testing.T) (js jetstream.JetStream, tool *cli, node *natsJS) {
	t.Helper()
	server := jskvtest.NewServer(t)
	return server.JetStream(), startCLI(t, server), startNatsJS(t, server)
}

func TestOnlyNatsJSListsKeysThatHaveExpired(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute})
	written(t)(bucket.Put(testContext(t), "alive", "v"))
	written(t)(bucket.Create(testContext(t), "expired", "v", jskv.TTL(time.Second)))
	require.True(t, expired(t, bucket, "expired").Expired())

	keys, err := jskv.Collect(bucket.Keys(testContext(t)))
	require.NoError(t, err)
	require.Equal(t, []string{"alive"}, keys)
	require.Equal(t, []string{"alive"}, tool.keys("b"))
	require.Equal(t, []string{"alive", "expired"}, node.keys("b"))
}

func TestOnlyNatsJSReturnsTheMarkerOfADeletedKeyAsAValue(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	written(t)(bucket.Put(testContext(t), "k", "v"))
	written(t)(bucket.Delete(testContext(t), "k"))

	marker, err := node.get("b", "k")
	require.NoError(t, err)
	require.Equal(t, revision{"k", "", 2, jskv.OpDelete}, marker)
	_, err = tool.get("b", "k")
	require.ErrorIs(t, err, errNotFound)
	e, err := bucket.Entry(testContext(t), "k")
	require.ErrorIs(t, err, jskv.ErrKeyNotFound)
	require.Equal(t, marker, revisionOf(e), "beside the error")
	_, err = node.get("b", "missing")
	require.ErrorIs(t, err, errNotFound, "null is for keys without any revision")
}

func TestOnlyNatsJSOpensABucketOfOtherSettingsInsteadOfCreatingOne(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{History: 5})
	other := jetstream.KeyValueConfig{Bucket: "b", History: 2, Description: "other"}

	require.NoError(t, node.createBucket(other))
	require.ErrorContains(t, tool.createBucket(other), "already in use")
	_, err := jskv.CreateBucket(testContext(t), js, other, jskv.String())
	require.ErrorIs(t, err, jskv.ErrBucketExists)
	status, err := bucket.Status(testContext(t))
	require.NoError(t, err)
	require.Equal(t, int64(5), status.History())
}

func TestOnlyNatsJSShowsPurgesToAWatcherThatIgnoresDeletes(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	ctx, must := testContext(t), written(t)
	mine := watch(t, bucket, jskv.IgnoreDeletes())
	tools, nodes := tool.watchWith("b", "--no-deletes"), node.watchWith("b", args{"ignoreDeletes": true})
	must(bucket.Delete(ctx, "deleted"))
	must(bucket.Purge(ctx, "purged"))
	must(bucket.Put(ctx, "put", "v"))

	put := revision{"put", "v", 3, jskv.OpPut}
	require.Equal(t, put, revisionOf(next(t, mine)))
	require.Equal(t, tools.shown(put), tools.next())
	require.Equal(t, revision{"purged", "", 2, jskv.OpPurge}, nodes.next())
	require.Equal(t, put, nodes.next())
}

func TestOnlyNatsJSDeletesEveryKeyOfAPattern(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	for _, key := range []string{"sue.color", "sue.size", "tom.color"} {
		written(t)(bucket.Put(testContext(t), key, "v"))
	}
	require.ErrorContains(t, tool.delete("b", "sue.*"), "invalid key")
	_, err := bucket.Delete(testContext(t), "sue.*")
	require.ErrorIs(t, err, jskv.ErrInvalidKey)
	require.NoError(t, node.delete("b", "sue.*"))
	keys, err := jskv.Collect(bucket.Keys(testContext(t)))
	require.NoError(t, err)
	require.Equal(t, []string{"tom.color"}, keys)
}

func TestRevisionZeroIsARevisionOnlyToJskvAndTheTool(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	require.NoError(t, tool.update("b", "tool", "v", 0))
	written(t)(bucket.Update(testContext(t), "jskv", "v", 0))
	require.ErrorContains(t, node.update("b", "node", "v", 0), "version must be greater than 0")

	_, err := bucket.Delete(testContext(t), "jskv", jskv.IfRevision(0))
	require.ErrorIs(t, err, jskv.ErrRevisionMismatch)
	require.ErrorContains(t, node.do(nil, "delete", args{"bucket": "b", "key": "jskv", "revision": 9}), "wrong last sequence: 2")
	require.NoError(t, node.do(nil, "delete", args{"bucket": "b", "key": "jskv", "revision": 0}), "no condition at all")
	_, err = bucket.Get(testContext(t), "jskv")
	require.ErrorIs(t, err, jskv.ErrKeyNotFound)
}

func TestNatsJSBlamesJetStreamForABucketThatIsMissing(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	require.NoError(t, jskv.DeleteBucket(testContext(t), js, "b"))

	require.EqualError(t, node.put("b", "k", "v"), "JetStreamNotEnabled: jetstream is not enabled")
	_, err := node.get("b", "k")
	require.EqualError(t, err, "StreamNotFoundError: stream not found")
	require.EqualError(t, tool.put("b", "k", "v"), "nats: error: nats: bucket not found")
	_, err = tool.get("b", "k")
	require.EqualError(t, err, "nats: error: nats: bucket not found")
	_, err = bucket.Get(testContext(t), "k")
	require.ErrorIs(t, err, jskv.ErrBucketNotFound)
	_, err = bucket.Put(testContext(t), "k", "v")
	require.ErrorIs(t, err, jskv.ErrBucketNotFound)
}

func TestNatsJSSendsKeysWithEmptyTokens(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	ours(t, js, jetstream.KeyValueConfig{})
	require.EqualError(t, node.put("b", "a..b", "v"), "JetStreamNotEnabled: jetstream is not enabled")
	require.EqualError(t, tool.put("b", "a..b", "v"), "nats: error: nats: invalid key")
}

func TestNatsJSReadsFromTheLeaderUnlessAsked(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	written(t)(bucket.Put(testContext(t), "k", "v"))
	requests, err := js.Conn().SubscribeSync("$JS.API.*.*.>")
	require.NoError(t, err)
	require.NoError(t, js.Conn().Flush())
	read := func(get func() error) string {
		require.NoError(t, get())
		for {
			msg, err := requests.NextMsgWithContext(testContext(t))
			require.NoError(t, err)
			if _, what, _ := strings.Cut(msg.Subject, "$JS.API."); !strings.HasPrefix(what, "STREAM.INFO.") {
				return what
			}
		}
	}
	require.Equal(t, "STREAM.MSG.GET.KV_b", read(func() error { _, err := node.get("b", "k"); return err }))
	direct := args{"bucket": "b", "key": "k", "options": args{"allow_direct": true}}
	require.Equal(t, "DIRECT.GET.KV_b.$KV.b.k", read(func() error { _, err := node.entry(direct); return err }))
	require.Equal(t, "DIRECT.GET.KV_b.$KV.b.k", read(func() error { _, err := tool.run("kv", "get", "b", "k"); return err }))
	require.Equal(t, "DIRECT.GET.KV_b.$KV.b.k", read(func() error { _, err := bucket.Get(testContext(t), "k"); return err }))
}

func TestOnlyTheToolsEditSwitchesTransactionsOff(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{}, jskv.WithTransactions())
	commit := func() error {
		_, err := bucket.NewBatch().Put("a", "1").Put("b", "2").Commit(testContext(t))
		return err
	}
	node.must(nil, "describe", args{"bucket": "b", "description": "by nats.js"})
	require.NoError(t, commit())

	tool.must("kv", "edit", "b", "--description", "by nats kv edit")
	require.ErrorIs(t, commit(), jskv.ErrTransactionsDisabled)
	var err error
	bucket, err = jskv.CreateOrUpdateBucket(testContext(t), js, jetstream.KeyValueConfig{Bucket: "b"}, jskv.String(), jskv.WithTransactions())
	require.NoError(t, err)
	require.NoError(t, commit())
	require.Equal(t, "by nats kv edit", rawConfig(t, js, "b")["description"])
}

func TestTheToolShortensLongValuesAndEncodesBytesUnlessAskedForThemRaw(t *testing.T) {
	t.Parallel()
	js, tool, _ := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	long := strings.Repeat("0123456789", 20)
	written(t)(bucket.Put(testContext(t), "long", long))
	written(t)(bucket.Put(testContext(t), "bytes", "\x00\x01"))

	require.Equal(t, long, tool.must("kv", "get", "b", "long", "--raw"))
	require.Contains(t, tool.must("kv", "get", "b", "long"), "\n"+long[:120]+"\n")
	require.Equal(t, "012345678901234...567890123456789", tool.history("b", "long")[0].Value)
	require.Equal(t, "\x00\x01", tool.must("kv", "get", "b", "bytes", "--raw"))
	require.Contains(t, tool.must("kv", "get", "b", "bytes"), "\nAAE=\n")
}

func TestTheToolTakesAnEmptyValueForTheStandardInput(t *testing.T) {
	t.Parallel()
	js, tool, _ := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	_, err := tool.runWith("from the input", "kv", "put", "b", "k", "")
	require.NoError(t, err)
	value, err := bucket.Get(testContext(t), "k")
	require.NoError(t, err)
	require.Equal(t, "from the input", value)
}

func TestOnlyNatsJSAndJskvTellTheRevisionOfAWrite(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	require.Equal(t, "v\n", tool.must("kv", "put", "b", "k", "v"))
	told := func(op string, a args) (revision uint64) {
		a["bucket"], a["key"], a["value"] = "b", "k", []byte("v")
		node.must(&revision, op, a)
		return revision
	}
	require.Equal(t, uint64(2), told("put", args{}))
	require.Equal(t, uint64(3), told("update", args{"revision": 2}))
	require.Zero(t, told("delete", args{}))
	require.Equal(t, uint64(5), told("create", args{}))
	require.Zero(t, told("purge", args{}))

	ctx, must := testContext(t), written(t)
	require.Equal(t, uint64(7), must(bucket.Create(ctx, "k", "v")))
	require.Equal(t, uint64(8), must(bucket.Delete(ctx, "k")))
	require.Equal(t, uint64(9), must(bucket.Purge(ctx, "k")))
}

func TestHeadersAreShownByJskvAndByTheToolsStreamCommand(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{}, jskv.WithTransactions(), jskv.WithIdempotentWrites())
	_, err := bucket.NewBatch().Put("a", "1").Put("b", "2").Commit(testContext(t))
	require.NoError(t, err)
	e, err := bucket.Entry(testContext(t), "b")
	require.NoError(t, err)
	require.Contains(t, e.Header, "Nats-Batch-Id")

	require.Contains(t, tool.must("stream", "get", "KV_b", "2"), "Nats-Batch-Id: "+e.Header.Get("Nats-Batch-Id"))
	require.NotContains(t, tool.must("kv", "get", "b", "b"), "Nats-")
	var fields []string
	node.must(&fields, "fields", args{"bucket": "b", "key": "b"})
	require.Subset(t, fields, []string{"key", "value", "revision", "operation", "created"})
	require.NotContains(t, fields, "headers")
	require.NotContains(t, fields, "header")
}

func TestOnlyJskvRefusesATTLThatTheServerChanges(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute})
	short, between := 500*time.Millisecond, 20500*time.Millisecond
	w := watch(t, bucket)
	for _, ttl := range []time.Duration{short, between} {
		_, err := bucket.Create(testContext(t), "jskv", "v", jskv.TTL(ttl))
		require.ErrorIs(t, err, jskv.ErrInvalidOption)
	}
	require.ErrorContains(t, tool.create("b", "tool", "v", short), "invalid per-message TTL")
	require.ErrorContains(t, node.create("b", "node", "v", short), "invalid per-message TTL")
	require.NoError(t, tool.create("b", "tool", "v", between))
	require.NoError(t, node.create("b", "node", "v", between))
	require.Equal(t, between, ttlOf(t, next(t, w)))
	require.Equal(t, between, ttlOf(t, next(t, w)))
}

func TestEveryClientSaysThatABucketHasNoTTLs(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	_, err := bucket.Create(testContext(t), "jskv", "v", jskv.TTL(time.Second))
	require.ErrorIs(t, err, jskv.ErrInvalidOption)
	for _, err := range []error{
		tool.create("b", "tool", "v", time.Second), tool.purge("b", "tool", time.Second),
		node.create("b", "node", "v", time.Second), node.purge("b", "node", time.Second),
	} {
		require.ErrorContains(t, err, "per-message TTL is disabled")
	}
	require.Zero(t, newest(t, bucket), "nothing was stored")
}

func TestOnlyJskvRefusesAWildcardInsideAToken(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	written(t)(bucket.Put(testContext(t), "user1", "v"))
	_, err := jskv.Collect(bucket.Keys(testContext(t), "user*"))
	require.ErrorIs(t, err, jskv.ErrInvalidFilter)
	require.Equal(t, "No keys found in bucket\n", tool.must("kv", "ls", "b", "user*"))
	var keys []string
	node.must(&keys, "keys", args{"bucket": "b", "filter": "user*"})
	require.Empty(t, keys)
}

func TestWhatEachClientSaysOfConflicts(t *testing.T) {
	t.Parallel()
	js, tool, node := trio(t)
	bucket := ours(t, js, jetstream.KeyValueConfig{})
	ctx := testContext(t)
	written(t)(bucket.Put(ctx, "k", "v"))
	written(t)(bucket.Put(ctx, "k", "v"))
	said := func(_ any, err error) error { return err }

	require.EqualError(t, said(bucket.Update(ctx, "k", "v", 1)), "jskv: update b/k: revision 1 is not the newest (2)")
	require.EqualError(t, tool.update("b", "k", "v", 1), "nats: error: nats: nats: API error: code=400 err_code=10071 description=wrong last sequence: 2: nats: key revision mismatch")
	require.EqualError(t, node.update("b", "k", "v", 1), "JetStreamApiError: wrong last sequence: 2")

	require.EqualError(t, said(bucket.Create(ctx, "k", "v")), "jskv: create b/k: key exists at revision 2")
	require.EqualError(t, tool.create("b", "k", "v", 0), "nats: error: nats: nats: API error: code=400 err_code=10071 description=wrong last sequence: 2: key exists")
	require.EqualError(t, node.create("b", "k", "v", 0), "JetStreamApiError: wrong last sequence: 2")

	require.EqualError(t, said(bucket.Get(ctx, "missing")), "jskv: get b/missing: key not found")
	require.EqualError(t, said(tool.run("kv", "get", "b", "missing")), "nats: error: nats: key not found")
}
