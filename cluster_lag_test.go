package jskv_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// routes are the proxies through which a cluster's servers talk to each other: by the name of the
// server that dials and the index of the other.
type routes map[hop]*jskvtest.Proxy

type hop struct {
	from string
	to   int
}

// option leads the routes of a cluster through proxies.
func (all routes) option(t testing.TB) jskvtest.Option {
	t.Helper()
	return jskvtest.WithOptions(func(o *server.Options) {
		// What the servers tell each other of their addresses leads nowhere, or they would make routes
		// that go past the proxies.
		o.Cluster.Advertise = "127.0.0.1:1"
		for to, direct := range o.Routes {
			proxy := jskvtest.NewProxy(t, direct.Host)
			through, err := url.Parse(proxy.URL())
			require.NoError(t, err)
			o.Routes[to] = through
			all[hop{o.ServerName, to}] = proxy
		}
	})
}

// delay holds back what one server says to another.
func (all routes) delay(cluster *jskvtest.Cluster, from, to int, d time.Duration) {
	all[hop{cluster.Server(from).Name(), to}].Delay(jskvtest.ToServer, d)
	all[hop{cluster.Server(to).Name(), from}].Delay(jskvtest.ToClient, d)
}

// part keeps two servers from talking to each other, until join.
func (all routes) part(cluster *jskvtest.Cluster, one, other int) {
	for _, proxy := range all.between(cluster, one, other) {
		proxy.Refuse()
		proxy.Cut()
	}
}

func (all routes) join(cluster *jskvtest.Cluster, one, other int) {
	for _, proxy := range all.between(cluster, one, other) {
		proxy.Accept()
	}
}

func (all routes) between(cluster *jskvtest.Cluster, one, other int) []*jskvtest.Proxy {
	return []*jskvtest.Proxy{all[hop{cluster.Server(one).Name(), other}], all[hop{cluster.Server(other).Name(), one}]}
}

// outsideCluster has four servers, of which bucket "b" is on three. Whoever is connected to the fourth is
// answered by any of those, also by the one that lags.
type outsideCluster struct {
	*jskvtest.Cluster
	routes  routes
	outside int // the server without a replica
	leader  int
	lagging int
}

func newOutsideCluster(t testing.TB) *outsideCluster {
	t.Helper()
	all := routes{}
	return &outsideCluster{Cluster: jskvtest.NewCluster(t, 4, all.option(t)), routes: all}
}

// lag makes one replica of bucket "b", which has three and has come to rest, lag by d.
func (c *outsideCluster) lag(t testing.TB, d time.Duration) {
	t.Helper()
	stream, err := c.JetStream().Stream(testContext(t), "KV_b")
	require.NoError(t, err)
	has := func(name string) bool {
		at := stream.CachedInfo().Cluster
		return at.Leader == name || slices.ContainsFunc(at.Replicas, func(p *jetstream.PeerInfo) bool { return p.Name == name })
	}
	c.leader = c.Leader("b")
	for i, s := range c.Servers() {
		switch {
		case !has(s.Name()):
			c.outside = i
		case i != c.leader:
			c.lagging = i
		}
	}
	c.routes.delay(c.Cluster, c.leader, c.lagging, d)
}

// lagged is what the replica that lags has of bucket "b".
func (c *outsideCluster) lagged(t testing.TB) server.StreamState {
	t.Helper()
	account, err := c.Server(c.lagging).NATS().JszAccount(&server.JSzOptions{Account: "$G", Streams: true})
	require.NoError(t, err)
	require.Len(t, account.Streams, 1)
	return account.Streams[0].State
}

// laggingReading is a bucket of which one replica hears of everything late. The client is connected to
// the third server, which has what the leader has and leads the cluster: what is written is
// acknowledged at once, and consumers are made at once, on the replica that lags, too.
type laggingReading struct {
	*clusterReading
	routes          routes
	leader, lagging int
}

func newLaggingReading(t testing.TB, cfg jetstream.KeyValueConfig) *laggingReading {
	t.Helper()
	all := routes{}
	r := &laggingReading{clusterReading: newClusterReading(t, cfg, all.option(t)), routes: all}
	third := slices.IndexFunc(r.cluster.Servers(), func(s *jskvtest.Server) bool { return s.NATS().JetStreamIsLeader() })
	r.leader = r.cluster.Leader("b")
	for r.leader == third {
		r.leader = r.cluster.StepDown("b")
	}
	r.lagging = 3 - r.leader - third
	r.cluster.WaitCurrent("b")
	r.admin = r.cluster.Server(third).JetStream()
	r.readThrough(r.cluster.ConnTo(third))
	return r
}

// lag makes the replica lag by d.
func (r *laggingReading) lag(d time.Duration) {
	r.routes.delay(r.cluster, r.leader, r.lagging, d)
}

// late reports whether the replica that lags has a consumer and has not come to a revision.
func (r *laggingReading) late(revision uint64) bool {
	r.t.Helper()
	account, err := r.cluster.Server(r.lagging).NATS().JszAccount(&server.JSzOptions{Account: "$G", Streams: true, Consumer: true})
	require.NoError(r.t, err)
	require.Len(r.t, account.Streams, 1)
	return len(account.Streams[0].Consumer) > 0 && account.Streams[0].State.LastSeq < revision
}

// read is what a reading of the whole bucket gave.
type read struct {
	entries []jskv.Entry[string] // of Keys without revisions
	err     error
}

// from runs a reading and reports whether it was done by the replica that lags, while that had not come
// to a revision.
func (r *laggingReading) from(revision uint64, reading func(ctx context.Context) ([]jskv.Entry[string], error)) (read, bool) {
	r.t.Helper()
	done := make(chan read, 1)
	ctx := testContext(r.t)
	go func() {
		entries, err := reading(ctx)
		done <- read{entries, err}
	}()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	late := false
	for {
		select {
		case result := <-done:
			return result, late
		case <-ticker.C:
			late = late || r.late(revision)
		}
	}
}

// wholeReadings are the ways to read all live keys.
func (r *reading) wholeReadings() map[string]func(ctx context.Context) ([]jskv.Entry[string], error) {
	return map[string]func(ctx context.Context) ([]jskv.Entry[string], error){
		"Keys": func(ctx context.Context) (entries []jskv.Entry[string], err error) {
			keys, err := jskv.Collect(r.Keys(ctx))
			for _, key := range keys {
				entries = append(entries, jskv.Entry[string]{Key: key})
			}
			return entries, err
		},
		"Entries": func(ctx context.Context) ([]jskv.Entry[string], error) { return jskv.Collect(r.Entries(ctx)) },
		"Watch with IgnoreDeletes": func(ctx context.Context) ([]jskv.Entry[string], error) {
			w, err := r.Watch(ctx, jskv.AllKeys, jskv.IgnoreDeletes())
			if err != nil {
				return nil, err
			}
			defer w.Stop()
			return jskv.Collect(w.Snapshot())
		},
	}
}

// requireLive wants each key once, at its newest revision.
func requireLive(t testing.TB, want map[string]uint64, got read) {
	t.Helper()
	require.NoError(t, got.err)
	found := map[string]uint64{}
	for _, e := range got.entries {
		require.NotContains(t, found, e.Key, "twice")
		found[e.Key] = e.Revision
		if e.Revision == 0 {
			found[e.Key] = want[e.Key]
		}
	}
	require.Equal(t, want, found)
}

// Replicas of a cluster in one process hardly lag. This one does by half a second, and a reading that
// it serves waits for it: or it would miss what was just made, have what was just deleted, and of what
// was just overwritten the older revision.
func TestAReadingFromAReplicaThatLagsHasWhatWasAcknowledgedBeforeIt(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newLaggingReading(t, jetstream.KeyValueConfig{History: history, Storage: jetstream.MemoryStorage})
		r.withoutDirect() // a consumer, however few there are
		live := map[string]uint64{"overwritten": 0}
		for i := range 200 {
			key := fmt.Sprintf("k%03d", i)
			live[key] = r.put(key, "v")
		}
		r.lag(500 * time.Millisecond)
		next := 0
		for name, reading := range r.wholeReadings() {
			for tries, late := 0, false; !late; tries++ {
				require.Less(t, tries, 40, "%s was never done by the replica that lags", name)
				deleted, made := fmt.Sprintf("k%03d", next), fmt.Sprintf("n%03d", next)
				next++
				r.del(deleted)
				delete(live, deleted)
				live["overwritten"] = r.put("overwritten", fmt.Sprint(next))
				live[made] = r.put(made, "v")
				var got read
				got, late = r.from(live[made], reading)
				requireLive(t, live, got)
			}
		}
	})
}

// A replica that its leader sends a snapshot, because it was out of touch for too long, drops first what
// was overwritten meanwhile, and then gets what took its place.
func TestAKeyIsNeverMissingWithAReplicaThatCatchesUp(t *testing.T) {
	t.Parallel()
	cluster := newOutsideCluster(t)
	createBucket(t, cluster.JetStream(), jetstream.KeyValueConfig{Replicas: 3, Storage: jetstream.MemoryStorage})
	cluster.WaitCurrent("b")
	waitForReplicas(t, cluster.Cluster)
	onceInThree(t, true, func() bool { return keysOfACatchUp(t, cluster) }, "the replica was behind all the time")
}

// keysOfACatchUp reads keys while a replica catches up, and reports whether that was behind all the time: it is
// kept so once it was seen to be, if it does not come further in between.
func keysOfACatchUp(t *testing.T, cluster *outsideCluster) bool {
	cluster.WaitCurrent("b")
	cluster.lag(t, 500*time.Millisecond) // time to see it catch up
	writer := openBucket(t, cluster.Server(cluster.leader).JetStream())
	mustPut(t, writer, "other", "v")
	old := mustPut(t, writer, "k", "old")
	eventually(t, func() bool { return cluster.lagged(t).LastSeq == old }, "all replicas have both keys")

	ctx := testContext(t)
	outside := cluster.Server(cluster.outside).JetStream()
	handles := make([]*jskv.Bucket[string], 40)
	for i := range handles {
		handles[i] = openBucket(t, outside)
		_, err := handles[i].Entry(ctx, "k")
		require.NoError(t, err)
	}
	between := cluster.routes.between(cluster.Cluster, cluster.leader, cluster.lagging)
	for _, proxy := range between {
		defer proxy.Heal()
	}
	cluster.routes.part(cluster.Cluster, cluster.leader, cluster.lagging)
	mustPut(t, writer, "k", "new")
	require.NoError(t, cluster.Server(cluster.leader).NATS().JetStreamSnapshotStream("$G", "KV_b"))
	last := mustPut(t, writer, "other", "v")
	cluster.routes.join(cluster.Cluster, cluster.leader, cluster.lagging)
	eventually(t, func() bool {
		state := cluster.lagged(t)
		return state.Msgs == 1 || state.LastSeq == last
	}, "the replica has dropped what was overwritten")
	for _, proxy := range between {
		proxy.Stall(jskvtest.ToServer)
		proxy.Stall(jskvtest.ToClient)
	}
	for _, b := range handles {
		_, err := b.Entry(ctx, "k")
		require.NoError(t, err)
	}
	for range handles {
		many, err := openBucket(t, outside).GetMany(ctx, "other", "k")
		require.NoError(t, err)
		require.Len(t, many, 2)
		_, err = openBucket(t, outside).Transact(ctx, func(tx *jskv.Tx[string]) error {
			many, err := tx.GetMany("other", "k")
			if err != nil {
				return err // it starts over
			}
			require.Len(t, many, 2)
			return nil
		})
		require.NoError(t, err)
	}
	return cluster.lagged(t).LastSeq < last
}

// A replica may come to a key's marker, and to the purge of that, in one moment: its consumer, which has delivered
// the value before, does not see either. A listing showed such a key, and a cache kept it.
func TestAReadingFromAReplicaThatLagsHasNoKeyWhoseMarkerWasPurged(t *testing.T) {
	t.Parallel()
	r := newLaggingReading(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	r.withoutDirect() // a consumer, however few there are
	r.put("other", "v")
	c := newCache(t, r.Bucket)
	for range 12 {
		ctx := testContext(t)
		revision := r.put("k", "v")
		requireWait(t, c, revision)
		eventually(t, func() bool { return r.lastOfLagging() >= revision }, "all replicas have the key")
		heal := r.stall()
		r.del("k")
		_, err := r.PurgeDeletes(ctx, 0)
		require.NoError(t, err)
		later := time.AfterFunc(100*time.Millisecond, heal) // when a consumer there would have delivered it
		jskvtest.DeleteConsumers(t, r.admin, "b")           // and so the cache is loaded anew
		requireSameKeys(t, []string{"other"}, sorted(t, r.Keys(ctx)))
		requireWait(t, c, r.put("other", "v"))
		require.Equal(t, 1, c.Len())
		later.Stop()
		heal()
	}
}

// stall keeps from the replica that lags what the leader says, until heal is called.
func (r *laggingReading) stall() (heal func()) {
	leader, lagging := r.cluster.Server(r.leader), r.cluster.Server(r.lagging)
	there, back := r.routes[hop{leader.Name(), r.lagging}], r.routes[hop{lagging.Name(), r.leader}]
	there.Stall(jskvtest.ToServer)
	back.Stall(jskvtest.ToClient)
	return func() { there.Heal(); back.Heal() }
}

// lastOfLagging is the revision to which the replica that lags has come.
func (r *laggingReading) lastOfLagging() uint64 {
	r.t.Helper()
	account, err := r.cluster.Server(r.lagging).NATS().JszAccount(&server.JSzOptions{Account: "$G", Streams: true})
	require.NoError(r.t, err)
	require.Len(r.t, account.Streams, 1)
	return account.Streams[0].State.LastSeq
}
