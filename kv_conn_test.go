package jskv_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

func TestEveryVerbWorksOnConnectionsOfEveryKind(t *testing.T) {
	t.Parallel()
	for because, options := range map[string][]nats.Option{
		"with an inbox of its own":     {nats.CustomInboxPrefix("guest.inbox")},
		"with requests of the old way": {nats.UseOldRequestStyle(), nats.CustomInboxPrefix("guest.old")},
		"without echo":                 {nats.NoEcho(), nats.CustomInboxPrefix("guest.x")},
	} {
		t.Run(because, func(t *testing.T) {
			t.Parallel()
			// Nothing may be received elsewhere.
			srv := guarded(t, &server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{"guest.>"}}})
			origin := createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{History: 5})
			requireWholeBucket(t, openBucket(t, srv.JetStream(append(options, as("guest"))...)), origin)
		})
	}
}

func TestAHandleGoesOnAfterItsServerWasRestarted(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, srv := newBucket(t, jetstream.KeyValueConfig{})
	before := mustPut(t, b, "k", "v")
	_, err := jskv.Collect(b.Keys(ctx)) // sets up what is kept between calls
	require.NoError(t, err)
	for range 2 {
		srv.Stop()
		answer := make(chan error)
		go func() {
			_, err := b.Get(ctx, "k")
			answer <- err
		}()
		srv.Start()
		require.NoError(t, <-answer, "a question waits for the server")
		value, err := b.Get(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, "v", value)
		after := mustPut(t, b, "k", "v")
		require.Greater(t, after, before)
		keys, err := jskv.Collect(b.Keys(ctx))
		require.NoError(t, err)
		require.Equal(t, []string{"k"}, keys)
	}
}

func TestTheLongestKeyOfTheLongestBucket(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	const longest = 3072
	js := jskvtest.NewServer(t).JetStream()
	bucket := strings.Repeat("b", 252)
	b := createBucket(t, js, jetstream.KeyValueConfig{Bucket: bucket, History: 5, LimitMarkerTTL: time.Second})
	key := strings.Repeat("k", longest)
	_, err := b.Put(ctx, key+"k", "v")
	requireIs(t, err, jskv.ErrInvalidKey)
	revision := mustPut(t, b, key, "v")
	for _, options := range [][]jskv.ReadOption{nil, {jskv.FromLeader()}, {jskv.AtRevision(revision)}, {jskv.AtLeast(revision)}} {
		value, err := b.Get(ctx, key, options...)
		require.NoError(t, err)
		require.Equal(t, "v", value)
	}
	watcher, err := b.Watch(ctx, key)
	require.NoError(t, err)
	defer watcher.Stop()
	e, err := watcher.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, key, e.Key)
	_, err = b.Update(ctx, key, "w", revision, jskv.TTL(time.Minute))
	require.NoError(t, err)
	e, err = watcher.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, "w", e.Value)
	keys, err := jskv.Collect(b.Keys(ctx, key))
	require.NoError(t, err)
	require.Equal(t, []string{key}, keys)
	require.Equal(t, "Put w", history(t, b, key))
	_, err = b.Purge(ctx, key)
	require.NoError(t, err)
	n, err := b.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.True(t, js.Conn().IsConnected())
	require.Zero(t, js.Conn().Stats().Reconnects, "no line was too long for the server")
}

func TestCreateBucketMayRaceWithItself(t *testing.T) {
	t.Parallel()
	js := jskvtest.NewServer(t).JetStream()
	for round := range 20 {
		ctx := testContext(t)
		cfg := jetstream.KeyValueConfig{Bucket: fmt.Sprint("b", round), History: 3}
		for _, err := range race(func(int) error { return second(jskv.CreateBucket(ctx, js, cfg, jskv.String())) }) {
			require.NoError(t, err)
		}
	}
}
