package interop

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/internal/leak"
	"github.com/seed646b090f/jskv/jskvtest"
)

func TestMain(m *testing.M) {
	leak.VerifyTestMain(m)
}

// patience bounds everything that a test waits for, far above what it needs.
const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until cond holds, in the test's own goroutine, in which cond may end the test.
func eventually(t *testing.T, cond func() bool, because string) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			require.FailNow(t, "in vain", because)
		}
	}
}

// bench is a server with one other client of it, and jskv.
type bench struct {
	t      *testing.T
	js     jetstream.JetStream
	client client
}

// eachClient runs a test once for each other client, each on a server of its own.
func eachClient(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Parallel()
	t.Run("nats", func(t *testing.T) {
		server := jskvtest.NewServer(t)
		test(t, &bench{t: t, js: server.JetStream(), client: startCLI(t, server)})
	})
	t.Run("nats.js", func(t *testing.T) {
		server := jskvtest.NewServer(t)
		test(t, &bench{t: t, js: server.JetStream(), client: startNatsJS(t, server)})
	})
}

// open is jskv's handle on a bucket that is there.
func open(t *testing.T, js jetstream.JetStream, bucket string) *jskv.Bucket[string] {
	t.Helper()
	b, err := jskv.OpenBucket(testContext(t), js, bucket, jskv.String())
	require.NoError(t, err)
	return b
}

// theirs is a bucket named "b" that the other client made.
func (b *bench) theirs(cfg jetstream.KeyValueConfig) *jskv.Bucket[string] {
	b.t.Helper()
	cfg.Bucket = "b"
	require.NoError(b.t, b.client.createBucket(cfg))
	return open(b.t, b.js, "b")
}

// watch is a watcher of the whole bucket, stopped when the test ends.
func watch(t *testing.T, bucket *jskv.Bucket[string], opts ...jskv.WatchOption) *jskv.Watcher[string] {
	t.Helper()
	w, err := bucket.Watch(testContext(t), jskv.AllKeys, opts...)
	require.NoError(t, err)
	t.Cleanup(w.Stop)
	return w
}

// next is what a watcher of jskv sees next.
func next(t *testing.T, w *jskv.Watcher[string]) jskv.Entry[string] {
	t.Helper()
	e, err := w.Next(testContext(t))
	require.NoError(t, err)
	return e
}

// expired waits for the marker of a key whose TTL runs out.
func expired(t *testing.T, bucket *jskv.Bucket[string], key string) jskv.Entry[string] {
	t.Helper()
	var e jskv.Entry[string]
	eventually(t, func() bool {
		var err error
		e, err = bucket.Entry(testContext(t), key)
		return errors.Is(err, jskv.ErrKeyNotFound)
	}, "the end of "+key)
	return e
}

// rawConfig is the configuration of a bucket's stream as the server has it, less what the server
// notes in it for itself.
func rawConfig(t *testing.T, js jetstream.JetStream, bucket string) map[string]any {
	t.Helper()
	msg, err := js.Conn().RequestWithContext(testContext(t), "$JS.API.STREAM.INFO.KV_"+bucket, nil)
	require.NoError(t, err)
	var info struct {
		Config map[string]any `json:"config"`
		Error  any            `json:"error"`
	}
	require.NoError(t, json.Unmarshal(msg.Data, &info))
	require.Nil(t, info.Error)
	if metadata, ok := info.Config["metadata"].(map[string]any); ok {
		maps.DeleteFunc(metadata, func(name string, _ any) bool { return strings.HasPrefix(name, "_nats.") })
	}
	return info.Config
}

// ours is a bucket named "b" that jskv made.
func ours(t *testing.T, js jetstream.JetStream, cfg jetstream.KeyValueConfig, opts ...jskv.BucketOption) *jskv.Bucket[string] {
	t.Helper()
	cfg.Bucket = "b"
	bucket, err := jskv.CreateBucket(testContext(t), js, cfg, jskv.String(), opts...)
	require.NoError(t, err)
	return bucket
}

// written is the revision that a write of jskv made, which must have succeeded.
func written(t *testing.T) func(revision uint64, err error) uint64 {
	return func(revision uint64, err error) uint64 {
		t.Helper()
		require.NoError(t, err)
		return revision
	}
}

// readFile reads a file of the repository, by its path from this folder.
func readFile(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(text)
}
