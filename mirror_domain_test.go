package jskv_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// hubAndLeaf are two servers, each with a JetStream domain of its own, of which the leaf knows
// the hub. The options are for the leaf: a user "admin" that it may have is used.
func hubAndLeaf(t *testing.T, options ...jskvtest.Option) (hub, leaf *jskvtest.Server) {
	t.Helper()
	var opts *server.Options
	hub = jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		o.JetStreamDomain, o.LeafNode.Host, o.LeafNode.Port = "hub", "127.0.0.1", -1
		if opts != nil { // it restarts, and the leaf knows where it was
			o.LeafNode.Port = opts.LeafNode.Port
		}
		opts = o
	}))
	address := &url.URL{Scheme: "nats-leaf", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(opts.LeafNode.Port))}
	leaf = jskvtest.NewServer(t, append(options, jskvtest.WithOptions(func(o *server.Options) {
		o.JetStreamDomain = "leaf"
		o.LeafNode.ReconnectInterval = 50 * time.Millisecond
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{address}}}
	}))...)
	js, err := jetstream.NewWithDomain(leaf.Conn(as("admin")), "hub")
	require.NoError(t, err)
	eventually(t, func() bool {
		_, err := js.AccountInfo(testContext(t))
		return err == nil
	}, "the leaf reaches the hub")
	return hub, leaf
}

func TestEveryVerbWorksOnABucketOfAnotherDomain(t *testing.T) {
	t.Parallel()
	hub, leaf := hubAndLeaf(t)
	for because, make := range map[string]func() (jetstream.JetStream, error){
		"by its domain":          func() (jetstream.JetStream, error) { return jetstream.NewWithDomain(leaf.Conn(), "hub") },
		"by its API prefix":      func() (jetstream.JetStream, error) { return jetstream.NewWithAPIPrefix(leaf.Conn(), "$JS.hub.API") },
		"from the domain itself": func() (jetstream.JetStream, error) { return jetstream.NewWithDomain(hub.Conn(), "hub") },
	} {
		t.Run(because, func(t *testing.T) {
			ctx := testContext(t)
			js, err := make()
			require.NoError(t, err)
			far := createBucket(t, js, jetstream.KeyValueConfig{History: 5, LimitMarkerTTL: time.Second})
			near := openBucket(t, hub.JetStream())
			requireWholeBucket(t, openBucket(t, js), near)
			_, err = far.Put(ctx, "short", "v", jskv.TTL(time.Second))
			require.NoError(t, err)
			_, err = jskv.CreateOrUpdateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: "b", Description: "far"}, jskv.String(), jskv.WithTransactions())
			require.NoError(t, err)
			names, err := jskv.Collect(jskv.BucketNames(ctx, js))
			require.NoError(t, err)
			require.Equal(t, []string{"b"}, names)
			require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
			_, err = jskv.OpenBucket(ctx, js, "b", jskv.String())
			requireIs(t, err, jskv.ErrBucketNotFound)
		})
	}
}

func TestEveryVerbWorksOnAMirrorOfAnotherDomain(t *testing.T) {
	t.Parallel()
	for because, source := range map[string]*jetstream.StreamSource{
		"by its domain":     {Name: "origin", Domain: "hub"},
		"by its API prefix": {Name: "origin", External: &jetstream.ExternalStream{APIPrefix: "$JS.hub.API"}},
	} {
		t.Run(because, func(t *testing.T) {
			t.Parallel()
			hub, leaf := hubAndLeaf(t)
			origin := createBucket(t, hub.JetStream(), jetstream.KeyValueConfig{Bucket: "origin", History: 5})
			mirror := mirrorOf(t, leaf.JetStream(), origin, source)
			require.Equal(t, "$KV.origin.k", mirror.Stream().Subject("k"))
			requireWholeBucket(t, mirror, origin)
		})
	}
}

// Between domains no server tells that nobody takes a message.
func TestADeletedBucketOfAnotherDomainIsNotFound(t *testing.T) {
	t.Parallel()
	hub, leaf := hubAndLeaf(t)
	js, err := jetstream.NewWithDomain(leaf.Conn(), "hub", jetstream.WithDefaultTimeout(5*time.Second))
	require.NoError(t, err)
	b := createBucket(t, js, jetstream.KeyValueConfig{})
	mustPut(t, b, "k", "v")
	require.NoError(t, jskv.DeleteBucket(testContext(t), hub.JetStream(), "b"))
	together(t, func(v verb) error { return v.call(context.Background(), b) }, func(t *testing.T, _ verb, err error) {
		requireIs(t, err, jskv.ErrBucketNotFound)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
	})
}

func TestAMirrorReadsOnWhenTheOtherDomainIsGone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	hub, leaf := hubAndLeaf(t)
	origin := createBucket(t, hub.JetStream(), jetstream.KeyValueConfig{Bucket: "origin"})
	mustPut(t, origin, "k", "v")
	mirrorOf(t, leaf.JetStream(), origin, &jetstream.StreamSource{Name: "origin", Domain: "hub"})
	hub.Stop()
	eventually(t, func() bool { return leaf.NATS().NumLeafNodes() == 0 }, "the leaf notices")
	js := hasty(t, leaf.Conn(), time.Second)
	mirror, err := jskv.OpenBucket(ctx, js, "mirror", jskv.String())
	require.NoError(t, err)
	value, err := mirror.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "v", value)
	_, err = mirror.Get(ctx, "missing")
	requireIs(t, err, jskv.ErrKeyNotFound)
	_, err = mirror.Put(ctx, "k", "w")
	require.Error(t, err, "there is nobody to write to")
	require.NotErrorIs(t, err, jskv.ErrBucketNotFound, "nobody knows that it was deleted")
}

func TestADomainThatNobodyKnowsIsNoMissingBucket(t *testing.T) {
	t.Parallel()
	js, err := jetstream.NewWithDomain(jskvtest.NewServer(t).Conn(), "nowhere", jetstream.WithDefaultTimeout(time.Second))
	require.NoError(t, err)
	for name, err := range bucketErrors(testContext(t), js) {
		require.True(t, errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, nats.ErrNoResponders), "%v", err)
		require.NotErrorIs(t, err, jskv.ErrBucketNotFound)
		requireNames(t, err, name)
	}
}

// An account may import the API and the keys of another under a prefix.
func TestSingleKeysWorkThroughAnImportOfAnotherAccount(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		err := o.ProcessConfigString(`accounts {
			owner {
				jetstream: enabled
				users: [{user: admin, password: x}]
				exports: [{service: "$JS.API.>", response_type: stream}, {service: "$KV.>"}]
			}
			guest {
				users: [{user: guest, password: x}]
				imports: [
					{service: {account: owner, subject: "$JS.API.>"}, to: "owner.>"}
					{service: {account: owner, subject: "$KV.>"}, to: "owner.$KV.>"}
				]
			}
		}`)
		if err != nil {
			t.Error(err)
		}
	}))
	createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{History: 5})
	origin := openBucket(t, srv.JetStream(as("admin")))
	js, err := jetstream.NewWithAPIPrefix(srv.Conn(as("guest")), "owner")
	require.NoError(t, err)
	requireWholeBucket(t, openBucket(t, js), origin)

	_, err = jskv.OpenBucket(testContext(t), hasty(t, srv.Conn(as("guest")), time.Second), "b", jskv.String())
	require.Error(t, err)
	require.NotErrorIs(t, err, jskv.ErrBucketNotFound, "an account without JetStream has no bucket to miss")
}
