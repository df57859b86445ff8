package jskv_test

import (
	"context"
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

// foreign makes the bucket's stream take other subjects, too, and stores something under one.
func (r *reading) foreign() {
	r.t.Helper()
	setConfig(r.t, r.admin, "KV_b", map[string]any{"subjects": []string{"$KV.b.>", "other.>"}})
	r.other()
}

func (r *reading) other() {
	r.t.Helper()
	_, err := r.admin.Publish(testContext(r.t), "other.k", []byte("not the bucket's"))
	require.NoError(r.t, err)
}

// A reader of all keys asks for all that the stream has, where it is the bucket's alone. It may be given
// other subjects at any time.
func TestReadersOfAllKeysLeaveOutWhatIsNotTheBuckets(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history}).withoutDirect()
		begun := r.watch()
		require.Empty(t, collect(t, begun.Snapshot()))
		cache, err := r.Cache(testContext(t), jskv.AllKeys)
		require.NoError(t, err)
		t.Cleanup(cache.Close)

		r.foreign()
		require.Empty(t, collect(t, r.watch().Snapshot()), "of a bucket that has nothing")
		require.Empty(t, sorted(t, r.Keys(testContext(t))))
		var want []string
		var revision uint64
		for i := range 5 {
			revision = r.put(fmt.Sprint("k", i), "v")
			want = append(want, fmt.Sprintf("k%d@%d v", i, revision))
			r.other()
		}
		require.Equal(t, want, brief(nextAll(t, begun, 5)...))
		require.Equal(t, want, brief(collect(t, r.watch().Snapshot())...))
		require.Equal(t, want, brief(collect(t, r.watch(jskv.WithHistory()).Snapshot())...))
		require.Equal(t, want, brief(collect(t, r.Entries(testContext(t)))...))
		require.Equal(t, []string{"k0", "k1", "k2", "k3", "k4"}, sorted(t, r.Keys(testContext(t))))
		require.NoError(t, cache.Wait(testContext(t), revision))
		require.Equal(t, 5, cache.Len())
	})
}

// The filter that says the same with the bucket's name is all that some accounts may use.
func TestReadersOfAllKeysMayBeAllowedTheBucketsFilterOnly(t *testing.T) {
	t.Parallel()
	srv := guarded(t, bucketsFilterOnly)
	admin := createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	put := mustPut(t, admin, "k", "v")
	violations := make(chan error, 100)
	nc := srv.Conn(as("guest"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	reported := func() (n int) { // until now: they come in order, the last one is of what is sent here
		require.NoError(t, nc.Publish("forbidden", nil))
		for {
			err := receive(t, violations)
			require.ErrorIs(t, err, nats.ErrPermissionViolation)
			if strings.Contains(err.Error(), "forbidden") {
				return n
			}
			n++
		}
	}
	b := openBucket(t, js)
	want := []string{fmt.Sprintf("k@%d v", put)}
	require.Equal(t, want, brief(collect(t, watch(t, b, jskv.AllKeys).Snapshot())...), "found out at the first")
	require.NotZero(t, reported())
	require.Equal(t, want, brief(collect(t, watch(t, b, jskv.AllKeys).Snapshot())...))
	require.Equal(t, want, brief(collect(t, watch(t, b, jskv.AllKeys, jskv.FromRevision(1)).Snapshot())...))
	require.Zero(t, reported(), "and not again")
}

// So is it where an account imports no more of the API: nobody answers what asks for everything.
func TestReadersOfAllKeysMayHaveImportedTheBucketsFilterOnly(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		err := o.ProcessConfigString(`accounts {
			owner {
				jetstream: enabled
				users: [{user: admin, password: x}]
				exports: [{service: "$JS.API.>", response_type: stream}]
			}
			guest {
				users: [{user: guest, password: x}]
				imports: [
					{service: {account: owner, subject: "$JS.API.STREAM.INFO.KV_b"}, to: "owner.STREAM.INFO.KV_b"}
					{service: {account: owner, subject: "$JS.API.CONSUMER.CREATE.KV_b.*.$KV.b.>"}, to: "owner.CONSUMER.CREATE.KV_b.*.$KV.b.>"}
					{service: {account: owner, subject: "$JS.API.CONSUMER.MSG.NEXT.KV_b.*"}, to: "owner.CONSUMER.MSG.NEXT.KV_b.*"}
					{service: {account: owner, subject: "$JS.API.CONSUMER.DELETE.KV_b.*"}, to: "owner.CONSUMER.DELETE.KV_b.*"}
				]
			}
		}`)
		if err != nil {
			t.Error(err)
		}
	}))
	admin := createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	put := mustPut(t, admin, "k", "v")
	js, err := jetstream.NewWithAPIPrefix(srv.Conn(as("guest")), "owner")
	require.NoError(t, err)
	b := openBucket(t, js)
	want := []string{fmt.Sprintf("k@%d v", put)}
	require.Equal(t, want, brief(collect(t, watch(t, b, jskv.AllKeys).Snapshot())...))
}

// It may become the bucket's filter only while a cache goes on, whose attempts are too short for another.
func TestACacheThatIsAllowedTheBucketsFilterOnlyGoesOn(t *testing.T) {
	t.Parallel()
	srv := guarded(t, bucketsFilterOnly)
	admin := srv.JetStream(as("admin"))
	b := createBucket(t, admin, jetstream.KeyValueConfig{History: 5})
	setConfig(t, admin, "KV_b", map[string]any{"subjects": []string{"$KV.b.>", "other.>"}})
	hurried := openBucket(t, hasty(t, srv.Conn(as("guest"), quiet), 400*time.Millisecond))
	c, err := hurried.Cache(context.Background())
	for start := time.Now(); err != nil; c, err = hurried.Cache(context.Background()) { // a server may be slow
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), soon)
	}
	t.Cleanup(c.Close)
	setConfig(t, admin, "KV_b", map[string]any{"subjects": []string{"$KV.b.>"}})
	jskvtest.DeleteConsumers(t, admin, "b")
	requireWait(t, c, mustPut(t, b, "k", "v"))
}

// bucketsFilterOnly permits what a watcher needs, but no consumer without the bucket's name in its filter.
var bucketsFilterOnly = &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{
	"$JS.API.STREAM.INFO.KV_b", "$JS.API.CONSUMER.CREATE.KV_b.*.$KV.b.>", "$JS.API.CONSUMER.MSG.NEXT.KV_b.*", "$JS.API.CONSUMER.DELETE.KV_b.*",
}}}
