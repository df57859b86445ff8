package jskv_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// verb is one operation of a bucket that talks to the server.
type verb struct {
	name   string
	writes bool // it stores something in one request, so that its outcome may be unknown
	call   func(ctx context.Context, b *jskv.Bucket[string]) error
}

// last is the error that ends a sequence, nil when it was complete.
func last[V any](seq func(func(V, error) bool)) error {
	_, err := jskv.Collect(seq)
	return err
}

// verbs are all operations on key "k", which must be live for the reads to find it.
var verbs = []verb{
	{"Put", true, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Put(ctx, "k", "v")
		return err
	}},
	{"Create", true, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Create(ctx, "new", "v")
		return err
	}},
	{"Update", true, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Update(ctx, "k", "v", 1)
		return err
	}},
	{"Delete", true, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Delete(ctx, "k")
		return err
	}},
	{"Purge", true, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Purge(ctx, "k")
		return err
	}},
	{"Delete IfRevision", true, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Delete(ctx, "k", jskv.IfRevision(1))
		return err
	}},
	{"Get", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Get(ctx, "k")
		return err
	}},
	{"Entry", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Entry(ctx, "k")
		return err
	}},
	{"Entry of a missing key", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Entry(ctx, "missing")
		return err
	}},
	{"Entry AtRevision", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Entry(ctx, "k", jskv.AtRevision(1))
		return err
	}},
	{"Entry AtLeast", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Entry(ctx, "k", jskv.AtLeast(1))
		return err
	}},
	{"Entry FromLeader", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Entry(ctx, "k", jskv.FromLeader())
		return err
	}},
	{"Modify", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Modify(ctx, "k", func(jskv.Entry[string], bool) (string, error) { return "v", nil })
		return err
	}},
	{"PurgeDeletes", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.PurgeDeletes(ctx, 0)
		return err
	}},
	{"Keys", false, func(ctx context.Context, b *jskv.Bucket[string]) error { return last(b.Keys(ctx)) }},
	{"Entries", false, func(ctx context.Context, b *jskv.Bucket[string]) error { return last(b.Entries(ctx)) }},
	{"History", false, func(ctx context.Context, b *jskv.Bucket[string]) error { return last(b.History(ctx, "k")) }},
	{"Watch", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		w, err := b.Watch(ctx, jskv.AllKeys)
		if err != nil {
			return err
		}
		defer w.Stop()
		return last(w.Snapshot())
	}},
	{"Messages", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		m, err := b.Stream().Messages(ctx)
		if err != nil {
			return err
		}
		defer m.Stop()
		_, err = m.Next(ctx)
		return err
	}},
	{"Status", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Status(ctx)
		return err
	}},
	{"Stream Info", false, func(ctx context.Context, b *jskv.Bucket[string]) error {
		_, err := b.Stream().Info(ctx)
		return err
	}},
}

// together calls every verb at the same time, as most of them will wait for something, and hands
// the error of each to check.
func together(t *testing.T, call func(v verb) error, check func(t *testing.T, v verb, err error)) {
	t.Helper()
	errs := make([]error, len(verbs))
	var group sync.WaitGroup
	for i, v := range verbs {
		group.Go(func() { errs[i] = call(v) })
	}
	group.Wait()
	for i, v := range verbs {
		t.Run(v.name, func(t *testing.T) { check(t, v, errs[i]) })
	}
}

// requireIs wants err to be every one of targets.
func requireIs(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		require.ErrorIs(t, err, target)
	}
}

// requireNames wants err's text to begin as all of this package's do, and to name each of the
// parts exactly once.
func requireNames(t testing.TB, err error, parts ...string) {
	t.Helper()
	require.Error(t, err)
	text := err.Error()
	require.True(t, strings.HasPrefix(text, "jskv: "), text)
	for _, part := range append([]string{"jskv"}, parts...) {
		require.Equal(t, 1, strings.Count(text, part), "%q in %q", part, text)
	}
}

// requireConflict wants err to be a *RevisionError with these revisions, and no other conflict.
func requireConflict(t testing.TB, err error, key string, expected, actual uint64) {
	t.Helper()
	var conflict *jskv.RevisionError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, key, conflict.Key)
	require.NotEmpty(t, conflict.Bucket)
	require.Equal(t, expected, conflict.Expected, "expected revision of %v", err)
	require.Equal(t, actual, conflict.Actual, "actual revision of %v", err)
	requireIs(t, err, jskv.ErrRevisionMismatch, jetstream.ErrKeyRevisionMismatch)
	require.NotErrorIs(t, err, jskv.ErrKeyExists)
	require.NotErrorIs(t, err, jetstream.ErrKeyExists)
}

// openBucket opens bucket "b" on js.
func openBucket(t testing.TB, js jetstream.JetStream) *jskv.Bucket[string] {
	t.Helper()
	b, err := jskv.OpenBucket(testContext(t), js, "b", jskv.String())
	require.NoError(t, err)
	return b
}

// stockBucket is the stock client's handle on bucket "b".
func stockBucket(t testing.TB, js jetstream.JetStream) jetstream.KeyValue {
	t.Helper()
	kv, err := js.KeyValue(testContext(t), "b")
	require.NoError(t, err)
	return kv
}

// hasty is a JetStream that waits for answers no longer than timeout when a context does not
// say so.
func hasty(t testing.TB, nc *nats.Conn, timeout time.Duration) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(timeout))
	require.NoError(t, err)
	return js
}

// rawConfig is a stream's configuration as the server has it, with settings that no client
// library knows.
func rawConfig(t testing.TB, js jetstream.JetStream, stream string) map[string]any {
	t.Helper()
	msg, err := js.Conn().RequestWithContext(testContext(t), "$JS.API.STREAM.INFO."+stream, nil)
	require.NoError(t, err)
	var info struct {
		Config map[string]any `json:"config"`
		Error  any            `json:"error"`
	}
	require.NoError(t, json.Unmarshal(msg.Data, &info))
	require.Nil(t, info.Error)
	return info.Config
}

// setConfig changes settings of a stream behind everybody's back.
func setConfig(t testing.TB, js jetstream.JetStream, stream string, settings map[string]any) {
	t.Helper()
	config := rawConfig(t, js, stream)
	for name, value := range settings {
		config[name] = value
	}
	data, err := json.Marshal(config)
	require.NoError(t, err)
	msg, err := js.Conn().RequestWithContext(testContext(t), "$JS.API.STREAM.UPDATE."+stream, data)
	require.NoError(t, err)
	var reply struct {
		Error any `json:"error"`
	}
	require.NoError(t, json.Unmarshal(msg.Data, &reply))
	require.Nil(t, reply.Error)
}

// history is the key's stored revisions, oldest first, as in "Put a, Delete".
func history(t testing.TB, b *jskv.Bucket[string], key string) string {
	t.Helper()
	entries, err := jskv.Collect(b.History(testContext(t), key))
	require.NoError(t, err)
	revisions := make([]string, len(entries))
	for i, e := range entries {
		revisions[i] = strings.TrimSpace(fmt.Sprint(e.Operation, " ", e.Value))
	}
	return strings.Join(revisions, ", ")
}

// eventually polls until cond holds.
func eventually(t testing.TB, cond func() bool, because string) {
	t.Helper()
	require.Eventually(t, cond, 30*time.Second, 5*time.Millisecond, because)
}
