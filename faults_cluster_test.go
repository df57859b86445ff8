package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// What the stock client gets wrong on three replicas (jetstream.KeyValue of nats.go v1.55.0 with
// nats-server v2.15.2), named by its number. Each test shows that the stock client still has the
// fault, and that this package has not, in the same place. One that fails because the stock client
// no longer has it has become a piece of news, and not a regression.

// untilStock tries both clients in turn, at least n times and until the stock client has shown its
// fault. ours tells what is wrong with this package.
func untilStock(t *testing.T, n int, stock func(i int) (wrong bool), ours func(i int) error) {
	t.Helper()
	shown, begun := 0, time.Now()
	for i := 0; i < n || shown == 0; i++ {
		require.True(t, shown > 0 || time.Since(begun) < atLongest, "the stock client does not show the fault")
		if stock(i) {
			shown++
		}
		require.NoError(t, ours(i))
	}
	t.Logf("the stock client: %d times", shown)
}

// staleGet reads what the stock client was just acknowledged for.
func staleGet(t testing.TB, kv jetstream.KeyValue) (stale func(int) bool) {
	return func(int) bool {
		revision, err := kv.PutString(testContext(t), "stock", "v")
		require.NoError(t, err)
		e, err := kv.Get(testContext(t), "stock")
		return errors.Is(err, jetstream.ErrKeyNotFound) || err == nil && e.Revision() < revision
	}
}

// besideALaggingReplica are both clients on a server that has no replica: what they read is read from each of
// three, of which one lags by so much that it has not what was just acknowledged.
func besideALaggingReplica(t testing.TB) (*jskv.Bucket[string], jetstream.KeyValue) {
	t.Helper()
	cluster := newOutsideCluster(t)
	createBucket(t, cluster.JetStream(), jetstream.KeyValueConfig{Replicas: 3, Storage: jetstream.MemoryStorage})
	cluster.WaitCurrent("b")
	waitForReplicas(t, cluster.Cluster)
	cluster.lag(t, 300*time.Millisecond)
	js := cluster.Server(cluster.outside).JetStream()
	return openBucket(t, js), stockBucket(t, js)
}

func TestFault9AReplicatedGetRightAfterAnAcknowledgedPutIsStale(t *testing.T) {
	t.Parallel()
	b, kv := besideALaggingReplica(t)
	untilStock(t, 15, staleGet(t, kv), func(int) error {
		revision := mustPut(t, b, "ours", "v")
		e, err := b.Entry(testContext(t), "ours")
		if err == nil && e.Revision != revision {
			return fmt.Errorf("revision %d, not %d", e.Revision, revision)
		}
		return err
	})
}

// Writes guarded by a key that nobody writes: the server answers 10164 while another of them is in
// flight.
func TestFault11AReplicatedConditionIsRefusedThoughNothingChanged(t *testing.T) {
	t.Parallel()
	const writers = 16
	cluster, b := newReplicatedBucket(t, jetstream.KeyValueConfig{})
	guard := mustPut(t, b, "guard", "v")
	all := handles(t, cluster, 3)
	js := make([]jetstream.JetStream, 3)
	for i := range js {
		js[i] = cluster.JetStream()
	}
	untilStock(t, 10, func(int) bool {
		ctx, refused := testContext(t), false
		for _, err := range atOnce(all, writers, func(_ *jskv.Bucket[string], i int) error {
			_, err := js[i%3].Publish(ctx, fmt.Sprint("$KV.b.stock", i), nil, jetstream.WithExpectLastSequenceForSubject(guard, "$KV.b.guard"))
			return err
		}) {
			var refusal *jetstream.APIError
			refused = refused || errors.As(err, &refusal) && refusal.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant
		}
		return refused
	}, func(int) error {
		ctx := testContext(t)
		return errors.Join(atOnce(all, writers, func(b *jskv.Bucket[string], i int) error {
			return second(b.NewBatch().Put(fmt.Sprint("ours", i), "v").Require("guard", guard).Commit(ctx))
		})...)
	})
}

func TestFault25ALosingCreateOnADeletedReplicatedKeyIsNoErrKeyExists(t *testing.T) {
	t.Parallel()
	const racers = 8
	cluster, b := newReplicatedBucket(t, jetstream.KeyValueConfig{})
	all := handles(t, cluster, 3)
	var kvs []jetstream.KeyValue
	for range all {
		kvs = append(kvs, stockBucket(t, cluster.JetStream()))
	}
	untilStock(t, 20, func(i int) bool {
		ctx, key := testContext(t), fmt.Sprint("stock", i)
		require.NoError(t, kvs[0].Delete(ctx, key))
		raw := false
		for _, err := range atOnce(all, racers, func(_ *jskv.Bucket[string], i int) error {
			return second(kvs[i%3].Create(ctx, key, nil))
		}) {
			raw = raw || err != nil && !errors.Is(err, jetstream.ErrKeyExists)
		}
		return raw
	}, func(i int) error {
		ctx, key, winners := testContext(t), fmt.Sprint("ours", i), 0
		_, err := b.Delete(ctx, key)
		require.NoError(t, err)
		for _, err := range atOnce(all, racers, func(b *jskv.Bucket[string], i int) error { return second(b.Create(ctx, key, "v")) }) {
			if err == nil {
				winners++
			} else if !errors.Is(err, jetstream.ErrKeyExists) {
				return err
			}
		}
		require.Equal(t, 1, winners)
		return nil
	})
}

func TestFault26PutDeleteCreateOfOneReplicatedClientGivesErrKeyExists(t *testing.T) {
	t.Parallel()
	b, kv := besideALaggingReplica(t)
	untilStock(t, 15, func(i int) bool {
		ctx, key := testContext(t), fmt.Sprint("stock", i)
		_, err := kv.PutString(ctx, key, "v")
		require.NoError(t, err)
		require.NoError(t, kv.Delete(ctx, key))
		_, err = kv.Create(ctx, key, nil)
		return errors.Is(err, jetstream.ErrKeyExists)
	}, func(i int) error {
		ctx, key := testContext(t), fmt.Sprint("ours", i)
		mustPut(t, b, key, "v")
		_, err := b.Delete(ctx, key)
		require.NoError(t, err)
		return second(b.Create(ctx, key, "v"))
	})
}

// The answer is lost with the connection that it would have come on, as with a leader that dies.
func TestFault32AWriteThatTimedOutConflictsWithItself(t *testing.T) {
	t.Parallel()
	cluster, near := newReplicatedBucket(t, jetstream.KeyValueConfig{})
	// waiting is for who gives up when the answer is lost.
	lost := func(write func(ctx, waiting context.Context, js jetstream.JetStream, revision uint64) error) error {
		proxy := jskvtest.NewProxy(t, cluster.Server(0).URL())
		js := firstOf(t, proxy.URL())
		revision := mustPut(t, near, "k", "v")
		cut := proxy.CutOn(jskvtest.ToClient, fmt.Sprintf(`{"stream":"KV_b","seq":%d`, revision+1))
		ctx := testContext(t)
		waiting, giveUp := context.WithCancel(ctx)
		defer giveUp()
		go func() {
			select {
			case <-cut:
				giveUp()
			case <-waiting.Done():
			}
		}()
		err := write(ctx, waiting, js, revision)
		<-cut
		return err
	}
	err := lost(func(ctx, waiting context.Context, js jetstream.JetStream, revision uint64) error {
		kv := stockBucket(t, js)
		_, err := kv.Update(waiting, "k", nil, revision)
		require.ErrorIs(t, err, context.Canceled, "the stock client")
		eventually(t, func() bool { return js.Conn().Stats().Reconnects > 0 && js.Conn().IsConnected() }, "it does not send it where it is lost")
		return second(kv.Update(ctx, "k", nil, revision))
	})
	require.ErrorIs(t, err, jetstream.ErrKeyRevisionMismatch, "the stock client, that repeats what had succeeded")

	err = lost(func(ctx, _ context.Context, js jetstream.JetStream, revision uint64) error {
		made, err := openIdempotent(t, js).Update(ctx, "k", "w", revision)
		if err == nil && made != revision+1 {
			return fmt.Errorf("revision %d, not %d", made, revision+1)
		}
		return err
	})
	require.NoError(t, err, "with idempotent writes")

	err = lost(func(_, waiting context.Context, js jetstream.JetStream, revision uint64) error {
		return second(openBucket(t, js).Update(waiting, "k", "w", revision))
	})
	requireIs(t, err, jskv.ErrOutcomeUnknown)
	require.False(t, jskv.SafeToRetry(err), "without, it says that it does not know")
}

// splitCluster is a cluster of three servers whose routes go through proxies, so that one of them
// can be cut off from the others, but not from its clients.
type splitCluster struct {
	servers []*server.Server
	routes  map[[2]int]*jskvtest.Proxy // from, to
}

func newSplitCluster(t testing.TB) *splitCluster {
	t.Helper()
	const n = 3
	c := &splitCluster{routes: map[[2]int]*jskvtest.Proxy{}}
	var listeners [n]net.Listener // each keeps a port until its server takes it
	for i := range listeners {
		var err error
		listeners[i], err = net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
	}
	port := func(i int) int { return listeners[i].Addr().(*net.TCPAddr).Port }
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true,
			JetStream: true, StoreDir: t.TempDir(),
			// What the servers tell each other of their addresses leads nowhere: only the proxies do.
			Cluster: server.ClusterOpts{Name: "split", Host: "127.0.0.1", Port: port(i), Advertise: "127.0.0.1:1", PoolSize: -1},
		}
		for j := range n {
			if i != j {
				proxy := jskvtest.NewProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(port(j))))
				c.routes[[2]int{i, j}] = proxy
				to, err := url.Parse(proxy.URL())
				require.NoError(t, err)
				o.Routes = append(o.Routes, to)
			}
		}
		ns, err := server.NewServer(o)
		require.NoError(t, err)
		require.NoError(t, listeners[i].Close())
		ns.Start()
		t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
		c.servers = append(c.servers, ns)
	}
	for _, ns := range c.servers {
		require.True(t, ns.ReadyForConnections(20*time.Second))
		eventually(t, ns.JetStreamIsCurrent, "the cluster has a leader")
	}
	return c
}

// cutOff separates server i from the others until heal is called.
func (c *splitCluster) cutOff(i int) (heal func()) {
	var cut []*jskvtest.Proxy
	for ends, proxy := range c.routes {
		if ends[0] == i || ends[1] == i {
			proxy.Blackhole(jskvtest.Both)
			cut = append(cut, proxy)
		}
	}
	return func() {
		for _, proxy := range cut {
			proxy.Heal()
		}
	}
}

// leaders are the servers that believe that they lead bucket "b".
func (c *splitCluster) leaders() (all []int) {
	for i, ns := range c.servers {
		if ns.JetStreamIsStreamLeader("$G", "KV_b") {
			all = append(all, i)
		}
	}
	return all
}
