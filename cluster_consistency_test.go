package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// Where the stock client is stale in every tenth read: see faults_cluster_test.go.
func TestReadsOnReplicas(t *testing.T) {
	t.Parallel()
	cluster, _ := newReplicatedBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	waitForReplicas(t, cluster)
	writeLoad(t, cluster.JetStream())
	for _, test := range []struct {
		name string
		run  func(t *testing.T, cluster *jskvtest.Cluster)
	}{
		{"have the handle's writes, on every server", func(t *testing.T, cluster *jskvtest.Cluster) {
			sessions(t, new(findings), handles(t, cluster, 3), *duration, 5, 50)
		}},
		{"have the writes of another handle where asked for", writesOfAnotherHandle},
		{"never go back", readsNeverGoBack},
		{"watch updates from behind the handle's writes", watchOfUpdates},
		{"have the handle's writes while leaders change", func(t *testing.T, cluster *jskvtest.Cluster) {
			var found findings
			defer stepDowns(t, cluster, 200*time.Millisecond, &found)()
			sessions(t, &found, handles(t, cluster, 3), *duration, 10, 20)
		}},
		{"are answered while leaders change", answeredWhileLeadersChange},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, cluster) })
	}
}

// What is asked in the moment without a leader nobody answers.
func answeredWhileLeadersChange(t *testing.T, cluster *jskvtest.Cluster) {
	var (
		found findings
		group sync.WaitGroup
	)
	defer stepDowns(t, cluster, 100*time.Millisecond, &found)()
	end := time.Now().Add(*duration)
	for _, b := range handles(t, cluster, 3) {
		for name, ask := range map[string]func(ctx context.Context) error{
			"FromLeader": func(ctx context.Context) error { return second(b.Entry(ctx, "load.1", jskv.FromLeader())) },
			"missing":    func(ctx context.Context) error { return second(b.Entry(ctx, "missing")) },
			"History":    func(ctx context.Context) error { return last(b.History(ctx, "load.1")) },
		} {
			group.Go(func() {
				for found.unfinished(end, 50) {
					err := ask(testContext(t))
					found.check(err == nil || errors.Is(err, jskv.ErrKeyNotFound), "%s: %v", name, err)
				}
			})
		}
	}
	group.Wait()
	found.requireNone(t, 50)
}

// One process tells another the revision that it was acknowledged for; or asks the leader; or reads
// a list, which is at least what the leader had when the call began.
func writesOfAnotherHandle(t *testing.T, cluster *jskvtest.Cluster) {
	all := handles(t, cluster, 4)
	writer, readers := all[3], all[:3]
	var found findings
	for i, end := 0, time.Now().Add(*duration); found.unfinished(end, 18); i++ {
		ctx := testContext(t)
		value := fmt.Sprint(i)
		revision := mustPut(t, writer, "k", value)
		fresh := mustPut(t, writer, "fresh."+value, value)
		for _, reader := range readers {
			for name, option := range map[string]jskv.ReadOption{"AtLeast": jskv.AtLeast(fresh), "FromLeader": jskv.FromLeader()} {
				e, err := reader.Entry(ctx, "k", option)
				found.check(err == nil && e.Revision == revision && e.Value == value, "%s %d: %d, %v", name, revision, e.Revision, err)
				_, err = reader.Get(ctx, "fresh."+value, option)
				found.check(err == nil, "%s: a key just made: %v", name, err)
				_, err = reader.Get(ctx, "missing", option)
				found.check(errors.Is(err, jskv.ErrKeyNotFound), "%s: a missing key: %v", name, err)
			}
			if i%10 > 0 {
				continue
			}
			keys, err := jskv.Collect(reader.Keys(ctx, "fresh.*"))
			found.check(err == nil && slices.Contains(keys, "fresh."+value), "Keys: %v, %v", keys, err)
			entries, err := jskv.Collect(reader.History(ctx, "k"))
			is, _ := newest(entries, "k")
			found.check(err == nil && is == revision, "History of %d: %d, %v", revision, is, err)
		}
	}
	found.requireNone(t, 18)
}

// The readers write nothing, so nothing but what they have read tells them what is old.
func readsNeverGoBack(t *testing.T, cluster *jskvtest.Cluster) {
	all := handles(t, cluster, 7)
	writer, readers := all[6], all[:6]
	end := time.Now().Add(*duration)
	var (
		found findings
		group sync.WaitGroup
	)
	group.Go(func() {
		for found.unfinished(end, 100) {
			_, err := writer.Put(testContext(t), "k", "v")
			found.check(err == nil, "Put: %v", err)
		}
	})
	for i, b := range readers {
		group.Go(func() {
			revision := uint64(0)
			for n := 0; found.unfinished(end, 100); n++ {
				var options []jskv.ReadOption
				if i%2 == 1 && n%10 == 0 {
					options = append(options, jskv.FromLeader())
				}
				e, err := b.Entry(testContext(t), "k", options...)
				// Another server may have come further than the leader.
				found.check(e.Revision >= revision, "reader %d: %d after %d, %v", i, e.Revision, revision, err)
				revision = max(revision, e.Revision)
			}
		})
	}
	group.Wait()
	found.requireNone(t, 100)
}

// A view of the handle through another type shares what it was acknowledged for; a handle opened
// anew does not, and may be as late as a server is.
func watchOfUpdates(t *testing.T, cluster *jskvtest.Cluster) {
	var found findings
	for i, b := range handles(t, cluster, 3) {
		key := fmt.Sprint("k", i)
		for round := range 10 {
			mustPut(t, b, key, "before")
			w, err := jskv.As(b, jskv.Bytes()).Watch(testContext(t), key, jskv.UpdatesOnly())
			require.NoError(t, err)
			after := mustPut(t, b, key, "after")
			e, err := w.Next(testContext(t))
			found.check(err == nil && e.Revision == after, "round %d: %d %q, not %d, %v", round, e.Revision, e.Value, after, err)
			w.Stop()
		}
	}
	found.requireNone(t, 30)
}

// answeringMirror makes a bucket that mirrors bucket "b" and answers direct gets for it, and returns when
// it does.
func answeringMirror(t *testing.T, js jetstream.JetStream, name string, source jetstream.StreamSource) {
	t.Helper()
	source.Name = "KV_b"
	_, err := js.CreateStream(testContext(t), jetstream.StreamConfig{
		Name: "KV_" + name, Mirror: &source, MirrorDirect: true, AllowDirect: true,
		MaxMsgsPerSubject: 1, DenyDelete: true, AllowRollup: true, Storage: jetstream.MemoryStorage,
	})
	require.NoError(t, err)
	eventually(t, func() bool {
		request := &nats.Msg{Subject: "$JS.API.DIRECT.GET.KV_b", Data: []byte(`{"last_by_subj":"$KV.b.>"}`)}
		answer, err := js.Conn().RequestMsg(request, time.Second)
		return err == nil && answer.Header.Get(jetstream.StreamHeader) == "KV_"+name
	}, "the mirror answers for its origin")
}

// Nothing in the origin's configuration tells of a mirror.
func TestReadsHaveTheHandlesWritesThroughMirrors(t *testing.T) {
	t.Parallel()
	origin, server := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	mustPut(t, origin, "first", "v")
	for _, name := range []string{"m1", "m2"} {
		answeringMirror(t, server.JetStream(), name, jetstream.StreamSource{})
	}
	mirror, err := jskv.OpenBucket(testContext(t), server.JetStream(), "m1", jskv.String())
	require.NoError(t, err)
	all := []*jskv.Bucket[string]{origin, mirror, openBucket(t, server.JetStream())}
	sessions(t, new(findings), all, *duration/4, 5, 20)
	writeLoad(t, server.JetStream())
	sessions(t, new(findings), all, *duration/4, 10, 20)

	// The first read of a handle cannot know yet that there are mirrors.
	var found findings
	for range 40 {
		b := openBucket(t, server.JetStream())
		revision := mustPut(t, b, "k", "v")
		e, err := b.Entry(testContext(t), "k")
		found.check(err == nil && e.Revision == revision, "first read: %d, not %d, %v", e.Revision, revision, err)

		b, revision = openBucket(t, server.JetStream()), 0 // and one that writes nothing
		for range 5 {
			mustPut(t, origin, "k", "v")
			e, err := b.Entry(testContext(t), "k")
			found.check(err == nil && e.Revision >= revision, "%d after %d, %v", e.Revision, revision, err)
			revision = e.Revision
		}
	}
	found.requireNone(t, 40)
}

// The mirror has come as far as its origin, and lacks what it was not to mirror.
func TestAMirrorOfAPartIsNotTakenForTheWhole(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	origin, server := newBucket(t, jetstream.KeyValueConfig{})
	left := mustPut(t, origin, "left.k", "v")
	mustPut(t, origin, "right.k", "v")
	answeringMirror(t, server.JetStream(), "m", jetstream.StreamSource{FilterSubject: "$KV.b.right.>"})
	right := mustPut(t, origin, "right.k", "w")
	var found findings
	for range 50 {
		for name, b := range map[string]*jskv.Bucket[string]{"writer": origin, "reader": openBucket(t, server.JetStream())} {
			e, err := b.Entry(ctx, "left.k", jskv.AtLeast(right))
			found.check(err == nil && e.Revision == left, "%s: Entry: revision %d, %v", name, e.Revision, err)
			many, err := b.GetMany(ctx, "left.k", "right.k")
			found.check(err == nil && len(many) == 2, "%s: GetMany: %d of 2 keys, %v", name, len(many), err)
			keys, err := jskv.Collect(b.Keys(ctx))
			found.check(err == nil && len(keys) == 2, "%s: Keys: %d of 2 keys, %v", name, len(keys), err)
			entries, err := jskv.Collect(b.Entries(ctx, "*.k"))
			found.check(err == nil && len(entries) == 2, "%s: Entries: %d of 2 keys, %v", name, len(entries), err)
		}
	}
	found.requireNone(t, 400)
}

// Its configuration said one replica when the handle was opened, and it does nothing that would
// tell it of more.
func TestAHandleNoticesThatItsBucketGotReplicas(t *testing.T) {
	t.Parallel()
	cluster := newOutsideCluster(t)
	js := cluster.JetStream()
	createBucket(t, js, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	cluster.WaitCurrent("b")
	all := handles(t, cluster.Cluster, 4)
	for _, b := range all {
		mustPut(t, b, "k", "v")
	}
	setConfig(t, js, "KV_b", map[string]any{"num_replicas": 3})
	cluster.WaitCurrent("b")
	waitForReplicas(t, cluster.Cluster)
	cluster.lag(t, 300*time.Millisecond)
	kv := stockBucket(t, cluster.Server(cluster.outside).JetStream())
	untilStock(t, 15, staleGet(t, kv), func(int) error {
		for i, b := range all {
			revision := mustPut(t, b, "k", "v")
			e, err := b.Entry(testContext(t), "k")
			if err != nil || e.Revision < revision {
				return fmt.Errorf("handle %d: revision %d, not %d: %w", i, e.Revision, revision, err)
			}
		}
		return nil
	})
}

// An answer that nothing was found does not tell how far its server has come, and the message that
// would is not there.
func TestAtLeastWaitsThoughTheNewestRevisionIsGone(t *testing.T) {
	t.Parallel()
	_, b := newReplicatedBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	mustPut(t, b, "there", "v")
	_, err := b.Delete(testContext(t), "gone")
	require.NoError(t, err)
	_, err = b.PurgeDeletes(testContext(t), 0)
	require.NoError(t, err)
	for _, key := range []string{"there", "missing"} {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		_, err := b.Entry(ctx, key, jskv.AtLeast(5))
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, key)
	}
	_, err = b.Entry(testContext(t), "missing", jskv.AtLeast(2))
	requireIs(t, err, jskv.ErrKeyNotFound)
}

// A leader that is cut off does not know for some seconds that the others have elected another
// one. What it answers is old, and there is no way to ask whether it is; what it acknowledges, and
// what this package knows to be newer, is never affected.
func TestADeposedLeaderThatDoesNotKnowIt(t *testing.T) {
	needsTrouble(t)
	t.Parallel()
	const patience = 100 * time.Millisecond
	cluster := newSplitCluster(t)
	js := firstOf(t, cluster.servers[0].ClientURL())
	createBucket(t, js, jetstream.KeyValueConfig{Replicas: 3})
	eventually(t, func() bool { return len(cluster.leaders()) == 1 }, "the bucket has a leader")
	deposed := cluster.leaders()[0]
	there := openBucket(t, firstOf(t, cluster.servers[deposed].ClientURL()))
	var old uint64
	eventually(t, func() (ok bool) {
		var err error
		old, err = there.Put(testContext(t), "k", "old")
		return err == nil
	}, "the leader takes writes")
	own := mustPut(t, there, "own", "v")

	heal := cluster.cutOff(deposed)
	eventually(t, func() bool { return len(cluster.leaders()) == 2 }, "the others elect another leader")
	elected := slices.DeleteFunc(cluster.leaders(), func(i int) bool { return i == deposed })[0]
	proxy := jskvtest.NewProxy(t, cluster.servers[elected].ClientURL())
	js = firstOf(t, proxy.URL(), cluster.servers[deposed].ClientURL())
	here := openBucket(t, js)
	newest := mustPut(t, here, "k", "new")
	require.Greater(t, newest, old)
	require.Len(t, cluster.leaders(), 2, "while the first still believes to lead")

	briefly := func(do func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return do(ctx)
	}
	e, err := there.Entry(testContext(t), "k", jskv.FromLeader())
	require.NoError(t, err)
	require.Equal(t, "old", e.Value, "the server's limit: a deposed leader answers")
	e, err = there.Entry(testContext(t), "own")
	require.NoError(t, err)
	require.Equal(t, own, e.Revision, "what the handle wrote is there")
	for name, options := range map[string][]jskv.ReadOption{
		"from anybody": {jskv.AtLeast(newest)}, "from the leader": {jskv.AtLeast(newest), jskv.FromLeader()},
	} {
		err = briefly(func(ctx context.Context) error { return second(there.Entry(ctx, "k", options...)) })
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
	}
	err = briefly(func(ctx context.Context) error { return second(there.Put(ctx, "lost", "v")) })
	requireIs(t, err, jskv.ErrOutcomeUnknown, context.DeadlineExceeded)

	// The handle that wrote is thrown back to the deposed leader.
	proxy.Refuse()
	proxy.Cut()
	eventually(t, func() bool {
		return js.Conn().IsConnected() && js.Conn().ConnectedServerName() == cluster.servers[deposed].Name()
	}, "the client has found the other server")
	for _, call := range []func(ctx context.Context) error{
		func(ctx context.Context) error { return second(here.Update(ctx, "k", "newer", newest)) },
		func(ctx context.Context) error { return second(here.Entry(ctx, "k")) },
		func(ctx context.Context) error { return second(here.Entry(ctx, "k", jskv.FromLeader())) },
		func(ctx context.Context) error { return second(here.Entry(ctx, "missing", jskv.FromLeader())) },
		func(ctx context.Context) error { return second(here.GetMany(ctx, "k", "own")) },
		func(ctx context.Context) error { return last(here.Keys(ctx)) },
		func(ctx context.Context) error { return last(here.Entries(ctx)) },
		func(ctx context.Context) error { return last(here.History(ctx, "k")) },
	} {
		err := briefly(call)
		require.Error(t, err, "no answer, rather than an old one")
		require.NotErrorIs(t, err, jskv.ErrKeyNotFound)
		require.NotErrorIs(t, err, jskv.ErrRevisionMismatch)
	}

	// For a moment both are there for everybody, until the first hears of the second.
	heal()
	var found findings
	for end := time.Now().Add(20 * time.Second); len(cluster.leaders()) != 1 && time.Now().Before(end); {
		for name, read := range map[string]func(ctx context.Context) (jskv.Entry[string], error){
			"AtLeast": func(ctx context.Context) (jskv.Entry[string], error) {
				return there.Entry(ctx, "k", jskv.AtLeast(newest))
			},
			"own": func(ctx context.Context) (jskv.Entry[string], error) { return here.Entry(ctx, "k") },
		} {
			var e jskv.Entry[string]
			err := briefly(func(ctx context.Context) (err error) { e, err = read(ctx); return err })
			found.check(err != nil || e.Revision == newest, "%s: revision %d, not %d", name, e.Revision, newest)
		}
	}
	found.requireNone(t, 0)
	e, err = there.Entry(testContext(t), "k", jskv.AtLeast(newest))
	require.NoError(t, err)
	require.Equal(t, newest, e.Revision)
	eventually(t, func() bool {
		_, err = here.Entry(testContext(t), "lost", jskv.FromLeader())
		return errors.Is(err, jskv.ErrKeyNotFound)
	}, "what was not acknowledged is gone")
}
