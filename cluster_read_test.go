package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// clusterReading is a bucket with three replicas, and its readers' connection.
type clusterReading struct {
	*reading
	cluster *jskvtest.Cluster
}

// newClusterReading makes the bucket on a cluster of its own. The readers' connection goes to any
// server that is there.
func newClusterReading(t testing.TB, cfg jetstream.KeyValueConfig, opts ...jskvtest.Option) *clusterReading {
	t.Helper()
	cluster := jskvtest.NewCluster(t, 3, opts...)
	cfg.Bucket, cfg.Replicas = "b", 3
	admin := cluster.JetStream()
	createBucket(t, admin, cfg)
	cluster.WaitCurrent("b")
	r := &clusterReading{cluster: cluster, reading: &reading{t: t, admin: admin}}
	r.readThrough(cluster.Conn())
	return r
}

// readThrough opens the bucket on another connection.
func (r *clusterReading) readThrough(nc *nats.Conn) {
	r.t.Helper()
	var err error
	r.nc = nc
	r.js, err = jetstream.New(nc)
	require.NoError(r.t, err)
	r.Bucket, err = jskv.OpenBucket(testContext(r.t), r.js, "b", jskv.String())
	require.NoError(r.t, err)
	r.subs = nc.NumSubscriptions()
}

// surely puts until it is acknowledged: around a change of leaders a write may fail. It returns
// the revision, which is the only one of that value unless a write that failed was stored.
func (r *clusterReading) surely(key, value string) uint64 {
	r.t.Helper()
	var revision uint64
	require.Eventually(r.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		ack, err := r.admin.Publish(ctx, r.Stream().Subject(key), []byte(value))
		if err == nil {
			revision = ack.Sequence
		}
		return err == nil
	}, soon, tick)
	return revision
}

// readers are the kinds of readers, begun when the stream was at revision last.
func (r *clusterReading) readers(last uint64) (all, fresh []*recorder) {
	r.t.Helper()
	all = []*recorder{
		record(r.t, "plain", r.watch()),
		record(r.t, "history", r.watch(jskv.WithHistory())),
		recordRaw(r.t, "raw", r.messages()),
	}
	for _, reader := range all {
		reader.until(last)
	}
	fresh = []*recorder{ // without an event before the first interruption
		record(r.t, "updates only", r.watch(jskv.UpdatesOnly())),
		record(r.t, "from a revision to come", r.watch(jskv.FromRevision(last+1))),
	}
	return all, fresh
}

func TestNothingIsLostWhenTheLeaderStepsDown(t *testing.T) {
	t.Parallel()
	r := newClusterReading(t, jetstream.KeyValueConfig{History: 64})
	first := r.put("first", "v") // no leader changes yet, and a second revision would hide the first
	all, fresh := r.readers(first)
	last := first
	for i := range 3 {
		r.cluster.StepDown("b")
		for j := range 5 {
			last = r.surely(fmt.Sprintf("k%d", i), fmt.Sprint(j))
		}
		acknowledged := time.Now()
		for _, reader := range slices.Concat(all, fresh) {
			require.Less(t, reader.until(last).Sub(acknowledged), stockSilence, reader.name)
		}
	}
	for _, reader := range all {
		reader.requireExactly(1, last)
	}
	for _, reader := range fresh {
		reader.requireExactly(first+1, last)
	}
}

// The consumer has one replica: when the server that hosts it dies, so does the consumer. The
// stock watcher was silent for 18 s.
func TestDeliveryGoesOnSoonWhenTheServerThatHostsTheConsumerDies(t *testing.T) {
	t.Parallel()
	promptly(t, 3*time.Second, func() time.Duration { return deathOfAHost(t) })
}

// deathOfAHost ends the server that hosts a consumer and tells how long after an acknowledged write the last reader
// got it.
func deathOfAHost(t *testing.T) time.Duration {
	t.Helper()
	r := newClusterReading(t, jetstream.KeyValueConfig{History: 64})
	first := r.put("first", "v") // no leader changes yet, and a second revision would hide the first
	seen := map[string]bool{}
	probe := r.watch()
	host := r.newHost(seen)
	probe.Stop()

	// All the readers are on servers that go on, and the consumer of one on the server that does
	// not: more are begun until that is so.
	r.readThrough(r.cluster.ConnTo((host + 1) % 3))
	r.admin = r.cluster.Server((host + 2) % 3).JetStream()
	var hosted []*recorder
	for found := false; !found; {
		require.Less(t, len(hosted), 50, "no consumer is made on server %d", host)
		hosted = append(hosted, record(t, "updates only", r.watch(jskv.UpdatesOnly())))
		found = r.newHost(seen) == host
	}
	plain := record(t, "plain", r.watch())
	plain.until(first)

	stopped := time.Now()
	r.cluster.Server(host).Stop()
	revision := r.surely("k", "v")
	acknowledged := time.Now()
	var late time.Duration
	for _, reader := range append(hosted, plain) {
		at := reader.until(revision)
		late = max(late, at.Sub(acknowledged))
		t.Logf("delivered %v after the server's end, %v after the write was acknowledged", at.Sub(stopped), at.Sub(acknowledged))
	}
	for _, reader := range hosted {
		reader.requireExactly(first+1, revision)
	}
	plain.requireExactly(1, revision)
	return late
}

// newHost is the server that hosts a consumer of the bucket that is not in seen, and puts that there. A consumer whose
// making was answered late may be gone in the next moment.
func (r *clusterReading) newHost(seen map[string]bool) int {
	r.t.Helper()
	host := -1
	eventually(r.t, func() bool {
		stream, err := r.admin.Stream(testContext(r.t), "KV_b")
		if err != nil {
			return false
		}
		for info := range stream.ListConsumers(testContext(r.t)).Info() {
			for i := range 3 {
				if !seen[info.Name] && r.cluster.Server(i).Name() == info.Cluster.Leader {
					host, seen[info.Name] = i, true
				}
			}
		}
		return host >= 0
	}, "a consumer has a host")
	return host
}

func TestNothingIsLostWhenTheClientsServerGoesAndComes(t *testing.T) {
	t.Parallel()
	r := newClusterReading(t, jetstream.KeyValueConfig{History: 64})
	first := r.put("first", "v") // no leader changes yet, and a second revision would hide the first
	all, fresh := r.readers(first)
	mine := slices.IndexFunc(r.cluster.Servers(), func(s *jskvtest.Server) bool { return s.Name() == r.nc.ConnectedServerName() })
	r.admin = r.cluster.Server((mine + 1) % 3).JetStream()
	r.cluster.Server(mine).Stop()
	last := r.surely("down", "v")
	for _, reader := range slices.Concat(all, fresh) {
		reader.until(last)
	}
	r.cluster.Server(mine).Start()
	r.cluster.WaitReady()
	r.cluster.WaitCurrent("b")
	last = r.surely("up", "v")
	for _, reader := range slices.Concat(all, fresh) {
		reader.until(last)
	}
	for _, reader := range all {
		reader.requireExactly(1, last)
	}
	for _, reader := range fresh {
		reader.requireExactly(first+1, last)
	}
}

// A replica may lag behind what the leader has acknowledged; a listing may not.
func TestAListingThroughAFollowerHasWhatWasAcknowledgedBeforeIt(t *testing.T) {
	t.Parallel()
	for _, size := range []int{20, 2000} { // by one request, and by a consumer
		t.Run(fmt.Sprintf("%d keys", size), func(t *testing.T) {
			t.Parallel()
			r := newClusterReading(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
			keys := r.fill(size, "v")
			r.readThrough(r.cluster.ConnTo(r.cluster.Follower("b")))
			stop := r.overwriteThrough(math.MaxInt, keys, r.cluster.Conn(), r.cluster.Conn()) // so that followers do lag
			for i := range 50 {
				keys = append(keys, fmt.Sprintf("n%06d", i))
				revision := r.surely(keys[len(keys)-1], "v")
				if i%2 == 0 {
					requireSameKeys(t, keys, sorted(t, r.Keys(testContext(t))))
					continue
				}
				w := r.watch()
				found := uint64(0)
				for e, err := range w.Snapshot() {
					require.NoError(t, err)
					if e.Key == keys[len(keys)-1] {
						found = e.Revision
					}
				}
				require.Equal(t, revision, found, "in the snapshot")
				w.Stop()
			}
			stop()
			require.Equal(t, r.subs, r.nc.NumSubscriptions())
			// A server that answers may hear of it a moment later.
			require.Eventually(t, func() bool { return jskvtest.ConsumerCount(t, r.admin, "b") == 0 }, soon, tick)
		})
	}
}

func TestAListingIsWholeOrAnErrorWhileLeadersStepDown(t *testing.T) {
	t.Parallel()
	r := newClusterReading(t, jetstream.KeyValueConfig{History: 5, Storage: jetstream.MemoryStorage})
	keys := r.fill(3000, "v")
	var (
		wg   sync.WaitGroup
		done atomic.Bool
	)
	stop := sync.OnceFunc(func() { done.Store(true); wg.Wait() })
	t.Cleanup(stop)
	wg.Go(func() {
		for !done.Load() {
			r.cluster.StepDown("b")
			for _, key := range keys[:50] {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_, _ = r.admin.Publish(ctx, r.Stream().Subject(key), []byte("again")) // may fail
				cancel()
			}
		}
	})
	var whole findings // counts whole listings only
	for end := time.Now().Add(4 * time.Second); whole.unfinished(end, 1); {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		listed, err := jskv.Collect(r.Keys(ctx))
		cancel()
		if err != nil {
			t.Logf("after %d keys: %v", len(listed), err)
			continue
		}
		slices.Sort(listed)
		requireSameKeys(t, keys, listed)
		whole.check(true, "")
	}
	stop()
	whole.requireNone(t, 1)
}

// What a read asked with is used again by the next: an answer that comes when its reader has given up
// must not be taken for another's, nor be written into it.
func TestReadsThatGiveUpDoNotDisturbOthers(t *testing.T) {
	t.Parallel()
	cluster, _ := newReplicatedBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	const rounds, longest = 2000, 300 * time.Microsecond
	b := handles(t, cluster, 1)[0]
	keys := crowdKeys(t, b)
	var (
		found  findings
		gaveUp atomic.Int64
		group  sync.WaitGroup
	)
	read := func(ctx context.Context, i int) error {
		if i%2 == 0 {
			e, err := b.Entry(ctx, keys[i])
			found.check(err != nil || e.Key == keys[i] && e.Value == keys[i], "%s is %+v", keys[i], e)
			return err
		}
		entries, err := b.GetMany(ctx, keys[:i]...)
		found.check(err != nil || len(entries) == i, "%d of %d keys", len(entries), i)
		for key, e := range entries {
			found.check(e.Value == key, "%s is %+v", key, e)
		}
		return err
	}
	for w := range 3 { // so few that each sends requests of its own
		group.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for range rounds {
				ctx, cancel := testContext(t), context.CancelFunc(func() {})
				if w > 0 {
					ctx, cancel = context.WithTimeout(ctx, upTo(rng, longest))
				}
				err := read(ctx, rng.IntN(len(keys)))
				cancel()
				if errors.Is(err, context.DeadlineExceeded) {
					gaveUp.Add(1)
					continue
				}
				found.check(err == nil, "read: %v", err)
			}
		})
	}
	group.Wait()
	require.Greater(t, gaveUp.Load(), int64(rounds/10), "reads give up before the answer comes")
	found.requireNone(t, rounds)
}

// A replica that lags does not have the key, and another is asked for it together with the bucket's last one,
// which was counted.
func TestAnEntryHasNoDeltaAlsoOfAKeyThatAReplicaDidNotHave(t *testing.T) {
	t.Parallel()
	b, _ := besideALaggingReplica(t)
	for i := range 30 {
		key := fmt.Sprint("k", i)
		mustPut(t, b, key, "v")
		mustPut(t, b, "last", "v")
		e, err := b.Entry(testContext(t), key)
		require.NoError(t, err)
		require.Zero(t, e.Delta)
	}
}
