package jskvtest_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// newReplicatedBucket creates a bucket on all servers of a cluster of three, ready for use.
func newReplicatedBucket(t *testing.T, c *jskvtest.Cluster, js jetstream.JetStream) jetstream.KeyValue {
	t.Helper()
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "profiles", Replicas: 3})
	require.NoError(t, err)
	c.WaitCurrent("profiles")
	return kv
}

// eventuallyPut puts a value while the bucket's leader may be changing.
func eventuallyPut(t *testing.T, kv jetstream.KeyValue, key, value string) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := kv.PutString(ctx, key, value)
		return err == nil
	}, soon, tick)
}

// lastSequence is what server i itself holds of the bucket.
func lastSequence(t *testing.T, c *jskvtest.Cluster, i int) uint64 {
	t.Helper()
	acc, err := c.Server(i).NATS().JszAccount(&server.JSzOptions{Account: "$G", Streams: true})
	require.NoError(t, err)
	for _, stream := range acc.Streams {
		if stream.Name == "KV_profiles" {
			return stream.State.LastSeq
		}
	}
	return 0
}

func TestClusterIsReadyAtOnce(t *testing.T) {
	c := jskvtest.NewCluster(t, 3)
	require.Len(t, c.Servers(), 3)
	require.Len(t, c.URLs(), 3)
	leaders := 0
	for i, srv := range c.Servers() {
		require.Same(t, srv, c.Server(i))
		require.Equal(t, srv.URL(), c.URLs()[i])
		require.Eventually(t, srv.NATS().JetStreamIsCurrent, soon, tick) // not in a moment in which it applies something
		if srv.NATS().JetStreamIsLeader() {
			leaders++
			require.Len(t, srv.NATS().JetStreamClusterPeers(), 3)
		}
	}
	require.Equal(t, 1, leaders)

	kv := newReplicatedBucket(t, c, c.JetStream())
	put(t, kv, "sue.color", "blue")
	c.WaitCurrent("profiles")
	for i := range 3 {
		require.Equal(t, uint64(1), lastSequence(t, c, i))
	}
}

func TestConnectionsOfACluster(t *testing.T) {
	c := jskvtest.NewCluster(t, 3)
	for i, srv := range c.Servers() {
		require.Equal(t, srv.Name(), c.ConnTo(i).ConnectedServerName())
		require.Equal(t, srv.Name(), srv.Conn().ConnectedServerName())
	}

	to0, any, pinned := c.Conn(), c.Conn(), c.ConnTo(0)
	for to0.ConnectedServerName() != "s0" {
		to0 = c.Conn() // which server is chance, so that tests do not come to rely on one
	}
	c.Server(0).Stop()
	require.Eventually(t, func() bool { return to0.IsConnected() && to0.ConnectedServerName() != "s0" }, soon, tick,
		"it goes to another server")
	requireConnected(t, any)
	require.Eventually(t, pinned.IsReconnecting, soon, tick)
	require.Equal(t, c.URLs()[:1], pinned.Servers(), "it knows no other server")

	c.Server(0).Start()
	requireConnected(t, pinned)
	require.Equal(t, "s0", pinned.ConnectedServerName())
}

func TestStepDownMovesTheLeader(t *testing.T) {
	c := jskvtest.NewCluster(t, 3)
	kv := newReplicatedBucket(t, c, c.JetStream())
	for range 3 {
		old := c.Leader("profiles")
		require.NotEqual(t, old, c.Follower("profiles"))
		leader := c.StepDown("profiles")
		require.NotEqual(t, old, leader)
		require.Equal(t, leader, c.Leader("profiles"))
		c.WaitCurrent("profiles")
		eventuallyPut(t, kv, "sue.color", c.Server(leader).Name())
	}
	info, err := c.JetStream().Stream(t.Context(), "KV_profiles")
	require.NoError(t, err)
	require.Equal(t, c.Server(c.Leader("profiles")).Name(), info.CachedInfo().Cluster.Leader)
}

func TestConsumerLeaderIsTheConsumersHost(t *testing.T) {
	c := jskvtest.NewCluster(t, 3)
	js := c.JetStream()
	newReplicatedBucket(t, c, js)
	cons, err := js.CreateConsumer(t.Context(), "KV_profiles", jetstream.ConsumerConfig{Name: "reader", Replicas: 1})
	require.NoError(t, err)
	host := c.ConsumerLeader("profiles", "reader")
	require.Equal(t, c.Server(host).Name(), cons.CachedInfo().Cluster.Leader)
}

func TestServerThatWasAwayCatchesUp(t *testing.T) {
	t.Parallel() // it waits for the replication most of the time
	c := jskvtest.NewCluster(t, 3)
	kv := newReplicatedBucket(t, c, c.JetStream())
	away := c.Leader("profiles")

	c.Server(away).Stop()
	require.NotEqual(t, away, c.Leader("profiles"), "another one takes over")
	eventuallyPut(t, kv, "sue.color", "blue")
	c.WaitReady()
	c.WaitCurrent("profiles") // of those that are running

	c.Server(away).Start()
	c.WaitReady()
	c.WaitCurrent("profiles")
	require.Equal(t, lastSequence(t, c, c.Leader("profiles")), lastSequence(t, c, away))
}

func TestWholeClusterRestarts(t *testing.T) {
	t.Parallel() // it waits for the election most of the time
	c := jskvtest.NewCluster(t, 3)
	js := c.JetStream()
	kv := newReplicatedBucket(t, c, js)
	put(t, kv, "sue.color", "blue")

	c.Restart()
	c.WaitCurrent("profiles")

	requireConnected(t, js.Conn())
	require.NotZero(t, js.Conn().Stats().Reconnects)
	require.Equal(t, "blue", get(t, kv, "sue.color"))
}

func TestClusterHelpersLookIntoTheAccount(t *testing.T) {
	config := jskvtest.WithOptions(func(o *server.Options) {
		require.NoError(t, o.ProcessConfigString(`accounts {
			TEAM { jetstream: enabled, users: [{user: sue, password: pw}] }
			$SYS { users: [{user: admin, password: pw}] }
		}`))
	})
	c := jskvtest.NewCluster(t, 3, config, jskvtest.WithAccount("TEAM"))
	kv := newReplicatedBucket(t, c, c.JetStream(nats.UserInfo("sue", "pw")))
	put(t, kv, "sue.color", "blue")
	require.NotEqual(t, c.Leader("profiles"), c.StepDown("profiles"))
	c.WaitCurrent("profiles")
}

func TestRoutesOfAClusterCanLeadThroughProxies(t *testing.T) {
	t.Parallel()
	var proxies []*jskvtest.Proxy
	var told []string
	c := jskvtest.NewCluster(t, 3, jskvtest.WithOptions(func(o *server.Options) {
		told = append(told, o.ServerName)
		o.Cluster.Name, o.Cluster.Port = "other", 1 // not to be changed
		o.Cluster.Advertise = "127.0.0.1:1"
		for i, direct := range o.Routes {
			proxy := jskvtest.NewProxy(t, direct.Host)
			through, err := url.Parse(proxy.URL())
			require.NoError(t, err)
			o.Routes[i] = through
			proxies = append(proxies, proxy)
		}
	}))
	require.Equal(t, []string{"s0", "s1", "s2"}, told)
	require.Len(t, proxies, 9)
	require.Eventually(t, func() bool {
		through, routes := 0, 0
		for _, proxy := range proxies {
			through += proxy.Connections()
		}
		for _, srv := range c.Servers() {
			routes += srv.NATS().NumRoutes()
		}
		return routes > 0 && 2*through == routes // each has two ends
	}, soon, tick)
}

func TestClusterOfTwo(t *testing.T) {
	c := jskvtest.NewCluster(t, 2)
	kv := newBucket(t, c.JetStream(), "profiles")
	c.WaitCurrent("profiles")
	put(t, kv, "sue.color", "blue")
	require.Contains(t, []int{0, 1}, c.Leader("profiles"))
}

func TestClusterFailuresEndTheTest(t *testing.T) {
	tests := []struct {
		why  string
		test func(tb testing.TB)
		want string
	}{
		{"one server elects nobody", func(tb testing.TB) { jskvtest.NewCluster(tb, 1) }, "a cluster of 1 servers: want at least 2"},
		{"no such server", func(tb testing.TB) { jskvtest.NewCluster(tb, 2).Server(2) }, "no server 2 in a cluster of 2"},
		{"one replica has no follower", func(tb testing.TB) {
			c := jskvtest.NewCluster(tb, 2)
			newBucket(t, c.JetStream(), "profiles")
			c.Follower("profiles")
		}, "bucket profiles has no follower"},
		{"one replica cannot hand over", func(tb testing.TB) {
			c := jskvtest.NewCluster(tb, 2)
			newBucket(t, c.JetStream(), "profiles")
			c.StepDown("profiles")
		}, "bucket profiles has one replica, which cannot step down"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			require.Contains(t, failureOf(tt.test), tt.want)
		})
	}
}
