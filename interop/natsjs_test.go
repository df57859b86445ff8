package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// natsJS is nats.js in one process of Node, driven by client.mjs.
type natsJS struct {
	t        *testing.T
	process  *process
	watchers []*jsWatcher
}

// args are the arguments of a command of client.mjs, by their names there.
type args map[string]any

// jsEntry is an entry as client.mjs prints it.
type jsEntry struct {
	Key       string `json:"key"`
	Value     []byte `json:"value"`
	Revision  uint64 `json:"revision"`
	Operation string `json:"operation"`
}

// jsError is an error as nats.js tells it.
type jsError struct {
	Name    string `json:"name"`
	Message string `json:"message"`
	Code    any    `json:"code"`
}

func (e *jsError) Error() string { return e.Name + ": " + e.Message }

func startNatsJS(t *testing.T, server *jskvtest.Server) *natsJS {
	t.Helper()
	node, err := exec.LookPath("node")
	require.NoError(t, err, "these tests need Node 20 or later, and then the command: npm --prefix interop ci")
	_, err = os.Stat(filepath.Join("node_modules", "@nats-io", "kv"))
	require.NoError(t, err, "nats.js is not installed; in the repository's root, run: npm --prefix interop ci")
	c := &natsJS{t: t, process: startProcess(t, os.Environ(), node, "client.mjs", server.URL())}
	t.Cleanup(func() {
		if err := c.process.stop(); err != nil {
			t.Errorf("client.mjs: %v\n%s", err, c.process.stderr.String())
		}
	})
	return c
}

// do runs one command of client.mjs and decodes its result, if there is one, into result.
func (c *natsJS) do(result any, op string, a args) error {
	c.t.Helper()
	command := args{"op": op}
	for name, value := range a {
		command[name] = value
	}
	line, err := json.Marshal(command)
	require.NoError(c.t, err)
	_, err = c.process.stdin.Write(append(line, '\n'))
	require.NoError(c.t, err)
	for {
		answer := c.read()
		switch {
		case answer == nil: // of a watcher
		case answer.Error != nil:
			return answer.Error
		default:
			if result != nil && answer.Result != nil {
				require.NoError(c.t, json.Unmarshal(answer.Result, result))
			}
			return nil
		}
	}
}

type jsAnswer struct {
	Watch  *int            `json:"watch"`
	Entry  jsEntry         `json:"entry"`
	Result json.RawMessage `json:"result"`
	Error  *jsError        `json:"error"`
}

// read takes the next line. What a watcher saw goes to the watcher; there is no answer then.
func (c *natsJS) read() *jsAnswer {
	c.t.Helper()
	line := c.process.line()
	var answer jsAnswer
	require.NoError(c.t, json.Unmarshal([]byte(line), &answer), line)
	if answer.Watch == nil {
		return &answer
	}
	w := c.watchers[*answer.Watch]
	w.seen = append(w.seen, c.revision(answer.Entry))
	return nil
}

func (c *natsJS) must(result any, op string, a args) {
	c.t.Helper()
	require.NoError(c.t, c.do(result, op, a), "%s %v", op, a)
}

func (c *natsJS) revision(e jsEntry) revision {
	c.t.Helper()
	op, known := map[string]jskv.Operation{"PUT": jskv.OpPut, "DEL": jskv.OpDelete, "PURGE": jskv.OpPurge}[e.Operation]
	require.True(c.t, known, e.Operation)
	return revision{Key: e.Key, Value: string(e.Value), Number: e.Revision, Operation: op}
}

func (c *natsJS) createBucket(cfg jetstream.KeyValueConfig) error {
	options := args{"storage": map[jetstream.StorageType]string{jetstream.FileStorage: "file", jetstream.MemoryStorage: "memory"}[cfg.Storage]}
	option := func(given bool, name string, value any) {
		if given {
			options[name] = value
		}
	}
	option(cfg.Description != "", "description", cfg.Description)
	option(cfg.History != 0, "history", cfg.History)
	option(cfg.TTL != 0, "ttl", cfg.TTL.Milliseconds())
	option(cfg.LimitMarkerTTL != 0, "markerTTL", cfg.LimitMarkerTTL.Milliseconds())
	option(cfg.MaxBytes != 0, "max_bytes", cfg.MaxBytes)
	option(cfg.MaxValueSize != 0, "maxValueSize", cfg.MaxValueSize)
	option(cfg.Compression, "compression", true)
	option(cfg.Metadata != nil, "metadata", cfg.Metadata)
	if cfg.RePublish != nil {
		options["republish"] = args{"src": cfg.RePublish.Source, "dest": cfg.RePublish.Destination}
	}
	return c.do(nil, "createBucket", args{"bucket": cfg.Bucket, "options": options})
}

func (c *natsJS) deleteBucket(bucket string) error {
	return c.do(nil, "deleteBucket", args{"bucket": bucket})
}

func (c *natsJS) buckets() (names []string) {
	c.must(&names, "buckets", nil)
	return names
}

func (c *natsJS) config(bucket string) jetstream.KeyValueConfig {
	c.t.Helper()
	var status struct {
		Description  string
		History      uint8
		TTL          int64
		MarkerTTL    int64
		MaxBytes     int64 `json:"max_bytes"`
		MaxValueSize int32
		Storage      jetstream.StorageType
		Compression  bool
		Metadata     map[string]string
		Republish    struct{ Src, Dest string }
	}
	c.must(&status, "status", args{"bucket": bucket})
	return jetstream.KeyValueConfig{
		Bucket:         bucket,
		Description:    status.Description,
		MaxValueSize:   status.MaxValueSize,
		History:        status.History,
		TTL:            time.Duration(status.TTL) * time.Millisecond,
		LimitMarkerTTL: time.Duration(status.MarkerTTL) * time.Millisecond,
		MaxBytes:       status.MaxBytes,
		Storage:        status.Storage,
		Compression:    status.Compression,
		RePublish:      &jetstream.RePublish{Source: status.Republish.Src, Destination: status.Republish.Dest},
		Metadata:       status.Metadata,
	}
}

func (c *natsJS) put(bucket, key, value string) error {
	return c.do(nil, "put", args{"bucket": bucket, "key": key, "value": []byte(value)})
}

// seconds is a TTL as nats.js wants it.
func seconds(ttl time.Duration) any {
	if ttl == 0 {
		return nil
	}
	return ttl.String()
}

func (c *natsJS) create(bucket, key, value string, ttl time.Duration) error {
	return c.do(nil, "create", args{"bucket": bucket, "key": key, "value": []byte(value), "ttl": seconds(ttl)})
}

func (c *natsJS) update(bucket, key, value string, revision uint64) error {
	return c.do(nil, "update", args{"bucket": bucket, "key": key, "value": []byte(value), "revision": revision})
}

func (c *natsJS) delete(bucket, key string) error {
	return c.do(nil, "delete", args{"bucket": bucket, "key": key})
}

func (c *natsJS) purge(bucket, key string, ttl time.Duration) error {
	return c.do(nil, "purge", args{"bucket": bucket, "key": key, "ttl": seconds(ttl)})
}

func (c *natsJS) get(bucket, key string) (revision, error) {
	return c.entry(args{"bucket": bucket, "key": key})
}

func (c *natsJS) getRevision(bucket, key string, number uint64) (revision, error) {
	return c.entry(args{"bucket": bucket, "key": key, "revision": number})
}

func (c *natsJS) entry(a args) (revision, error) {
	c.t.Helper()
	var e *jsEntry
	if err := c.do(&e, "get", a); err != nil {
		return revision{}, err
	}
	if e == nil {
		return revision{}, fmt.Errorf("%w: null", errNotFound)
	}
	return c.revision(*e), nil
}

func (c *natsJS) keys(bucket string) (keys []string) {
	c.must(&keys, "keys", args{"bucket": bucket})
	return keys
}

func (c *natsJS) history(bucket, key string) []revision {
	c.t.Helper()
	var entries []jsEntry
	c.must(&entries, "history", args{"bucket": bucket, "key": key})
	revisions := make([]revision, len(entries))
	for i, e := range entries {
		revisions[i] = c.revision(e)
	}
	return revisions
}

// watch returns when the server has the watcher's consumer.
func (c *natsJS) watch(bucket string) watcher {
	c.t.Helper()
	return c.watchWith(bucket, nil)
}

func (c *natsJS) watchWith(bucket string, options args) *jsWatcher {
	c.t.Helper()
	w := &jsWatcher{client: c}
	id := len(c.watchers)
	c.watchers = append(c.watchers, w)
	c.must(nil, "watch", args{"id": id, "bucket": bucket, "options": options})
	return w
}

type jsWatcher struct {
	client *natsJS
	seen   []revision // and not yet handed out
}

func (w *jsWatcher) next() revision {
	w.client.t.Helper()
	for len(w.seen) == 0 {
		require.Nil(w.client.t, w.client.read(), "an answer that nobody asked for")
	}
	r := w.seen[0]
	w.seen = w.seen[1:]
	return r
}

func (w *jsWatcher) shown(r revision) revision { return r }
