package jskv_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

var (
	duration = flag.Duration("consistency.duration", time.Second, "how long each of the tests of consistency under load runs")
	seed     = flag.Uint64("consistency.seed", 0, "what the linearizability test's faults and operations are drawn from, 0 for a new one")
)

// newReplicatedBucket makes bucket "b" on all servers of a cluster of three, ready for use.
func newReplicatedBucket(t testing.TB, cfg jetstream.KeyValueConfig, opts ...jskv.BucketOption) (*jskvtest.Cluster, *jskv.Bucket[string]) {
	t.Helper()
	cluster := jskvtest.NewCluster(t, 3)
	cfg.Replicas = 3
	b := createBucket(t, cluster.JetStream(), cfg, opts...)
	cluster.WaitCurrent("b")
	return cluster, b
}

// handles are handles on bucket "b", each on a connection of its own, the i-th to server i modulo
// the number of servers and to no other.
func handles(t testing.TB, cluster *jskvtest.Cluster, n int, opts ...jskv.BucketOption) []*jskv.Bucket[string] {
	t.Helper()
	all := make([]*jskv.Bucket[string], n)
	for i := range all {
		js, err := jetstream.New(cluster.ConnTo(i % len(cluster.Servers())))
		require.NoError(t, err)
		all[i], err = jskv.OpenBucket(testContext(t), js, "b", jskv.String(), opts...)
		require.NoError(t, err)
	}
	return all
}

// waitForReplicas returns when three servers answer direct gets: those that do not lead the bucket
// begin with it two seconds after it was made.
func waitForReplicas(t testing.TB, cluster *jskvtest.Cluster) {
	t.Helper()
	eventually(t, func() bool {
		answering := 0
		for _, srv := range cluster.Servers() {
			subs, err := srv.NATS().Subsz(&server.SubszOptions{Account: "$G", Subscriptions: true, Test: "$JS.API.DIRECT.GET.KV_b"})
			answers := func(sub server.SubDetail) bool { return strings.Contains(sub.Subject, ".DIRECT.GET.") }
			if err == nil && slices.ContainsFunc(subs.Subs, answers) {
				answering++
			}
		}
		return answering == 3
	}, "every replica answers direct gets")
}

// writeLoad writes to other keys of bucket "b" until stop is called: it is what makes replicas lag.
// It does so in bursts. As fast as can be is too much: then reads wait as long as replication does
// (stale reads of the stock client: 4 of 5 gone, and the machine is busy with nothing else).
func writeLoad(t testing.TB, js jetstream.JetStream) (stop func()) {
	t.Helper()
	const burst, pause = 50, 5 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; wait(ctx, pause); i++ {
			for j := range burst {
				// What is lost here nobody misses.
				_, _ = js.PublishAsync(fmt.Sprint("$KV.b.load.", (i*burst+j)%100), []byte("load"))
			}
			settle(ctx, js)
		}
		settle(context.Background(), js)
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// settle waits until what was published has been answered.
func settle(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
	}
}

// stepDowns makes whoever leads the bucket step down every d, until stop is called. What is found is to be so
// with more than one. It does not wait for the next leader, but leaves it the time for some of what is checked:
// on a slow machine there would be none for anything.
func stepDowns(t testing.TB, cluster *jskvtest.Cluster, d time.Duration, found *findings) (stop func()) {
	t.Helper()
	const some = 10
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var steps atomic.Int64
	found.lacks = func() bool { return steps.Load() < 2 }
	go func() {
		defer close(done)
		for next := int64(0); wait(ctx, d); {
			if found.checks.Load() >= next && stepDown(cluster) {
				steps.Add(1)
				next = found.checks.Load() + some
			}
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func stepDown(cluster *jskvtest.Cluster) bool {
	for _, srv := range cluster.Servers() {
		if ns := srv.NATS(); ns != nil && ns.JetStreamIsStreamLeader("$G", "KV_b") {
			return ns.JetStreamStepdownStream("$G", "KV_b") == nil
		}
	}
	return false
}

// wait lets d pass and reports whether ctx has not ended meanwhile.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// atLongest bounds what takes long where leaders change and the machine is slow.
const atLongest = time.Minute

// findings gathers what is wrong in goroutines, which may not end a test themselves.
type findings struct {
	lacks  func() bool // whether too little has happened meanwhile, nil where nothing has to
	checks atomic.Int64
	mu     sync.Mutex
	wrong  []string
}

// check notes the text unless ok.
func (f *findings) check(ok bool, format string, args ...any) {
	f.checks.Add(1)
	if ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
}

// unfinished reports whether there is to be more checked: until end, and where the machine has
// much else to do until `least` checks were made and nothing lacks.
func (f *findings) unfinished(end time.Time, least int64) bool {
	left := time.Until(end)
	return left > 0 || left > -atLongest && (f.checks.Load() < least || f.lacks != nil && f.lacks())
}

// requireNone wants nothing to be wrong after at least `least` checks, and nothing to lack.
func (f *findings) requireNone(t testing.TB, least int64) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Empty(t, f.wrong[:min(5, len(f.wrong))], "%d of %d checks", len(f.wrong), f.checks.Load())
	require.GreaterOrEqual(t, f.checks.Load(), least, "too little was checked")
	require.False(t, f.lacks != nil && f.lacks(), "too little happened meanwhile")
}

// session writes and reads by one handle, and checks that every read has what the handle was
// acknowledged for.
type session struct {
	*findings
	b    *jskv.Bucket[string]
	name string // prefix of its keys, which nobody else writes
}

// sessions runs one for each handle at the same time, for so long; every `lists` rounds they read
// lists, too, unless it is 0. It wants nothing to be wrong, and `least` checks.
func sessions(t testing.TB, found *findings, all []*jskv.Bucket[string], length time.Duration, lists int, least int64) {
	t.Helper()
	end := time.Now().Add(length)
	var group sync.WaitGroup
	for i, b := range all {
		s := session{found, b, fmt.Sprint("session", i)}
		group.Go(func() {
			for round := 0; found.unfinished(end, least); round++ {
				s.round(fmt.Sprint(round), lists > 0 && round%lists == 0)
			}
		})
	}
	group.Wait()
	found.requireNone(t, least)
}

func (s *session) round(value string, lists bool) {
	ctx, cancel := context.WithTimeout(context.Background(), atLongest)
	defer cancel()
	key, fresh := s.name+".key", s.name+".fresh"+value
	revision, ok := s.write(key, value)
	if !ok {
		return
	}
	e, err := s.b.Entry(ctx, key)
	s.check(err == nil && e.Revision == revision && e.Value == value, "Entry of revision %d: %d, %v", revision, e.Revision, err)
	e, err = s.b.Entry(ctx, key, jskv.FromLeader())
	s.check(err == nil && e.Revision == revision, "Entry FromLeader of revision %d: %d, %v", revision, e.Revision, err)
	if lists {
		s.lists(ctx, key)
		if revision, ok = s.write(key, value); !ok {
			return
		}
	}
	first, ok := s.write(fresh, value)
	if !ok {
		return
	}
	got, err := s.b.Get(ctx, fresh)
	s.check(err == nil && got == value, "Get of a key just made: %q, %v", got, err)
	many, err := s.b.GetMany(ctx, key, fresh, "missing")
	s.check(err == nil && len(many) == 2 && many[key].Revision == revision && many[fresh].Revision == first,
		"GetMany of revisions %d and %d: %d and %d, %v", revision, first, many[key].Revision, many[fresh].Revision, err)
	marker, ok := s.write(fresh, "")
	if !ok {
		return
	}
	e, err = s.b.Entry(ctx, fresh)
	s.check(errors.Is(err, jskv.ErrKeyNotFound) && e.Revision == marker, "Entry of a key just deleted: revision %d, not %d, %v", e.Revision, marker, err)
	many, err = s.b.GetMany(ctx, fresh)
	s.check(err == nil && len(many) == 0, "GetMany of a key just deleted: %v, %v", many, err)
}

// lists checks that every way to read several revisions has a key that was written just before, and
// no longer has one that was deleted just before.
func (s *session) lists(ctx context.Context, key string) {
	watch := func(options ...jskv.WatchOption) ([]jskv.Entry[string], error) {
		w, err := s.b.Watch(ctx, s.name+".*", options...)
		if err != nil {
			return nil, err
		}
		defer w.Stop()
		return jskv.Collect(w.Snapshot())
	}
	fresh := key + ".fresh"
	for name, list := range map[string]func(key string) ([]jskv.Entry[string], error){
		"Entries":             func(key string) ([]jskv.Entry[string], error) { return jskv.Collect(s.b.Entries(ctx, key, "none")) },
		"Entries of all":      func(string) ([]jskv.Entry[string], error) { return jskv.Collect(s.b.Entries(ctx)) },
		"History":             func(key string) ([]jskv.Entry[string], error) { return jskv.Collect(s.b.History(ctx, key)) },
		"Watch":               func(string) ([]jskv.Entry[string], error) { return watch(jskv.AndFilter(s.name + ".>")) },
		"Watch IgnoreDeletes": func(string) ([]jskv.Entry[string], error) { return watch(jskv.IgnoreDeletes(), jskv.AndFilter(fresh)) },
		"Keys": func(key string) (entries []jskv.Entry[string], err error) {
			for key, err := range s.b.Keys(ctx, key, "none") {
				if err != nil {
					return nil, err
				}
				entries = append(entries, jskv.Entry[string]{Key: key})
			}
			return entries, nil
		},
	} {
		if revision, ok := s.write(key, name); ok {
			entries, err := list(key)
			found, times := newest(entries, key)
			once := times == 1 || name == "History" // on a replica that lags there may still be an older one
			s.check(err == nil && once && (found == revision || name == "Keys"), "%s: revision %d, not %d, %d times, %v", name, found, revision, times, err)
		}
		if _, ok := s.write(fresh, name); !ok {
			continue
		}
		if revision, ok := s.write(fresh, ""); ok {
			entries, err := list(fresh)
			found, times := newest(entries, fresh)
			s.check(err == nil && (times == 0 || found == revision), "%s of a key just deleted: revision %d, not %d, %d times, %v", name, found, revision, times, err)
		}
	}
}

// newest is the revision of key's last entry, 0 when there is none, and how many it has.
func newest(entries []jskv.Entry[string], key string) (revision uint64, times int) {
	for _, e := range entries {
		if e.Key == key {
			revision = e.Revision
			times++
		}
	}
	return revision, times
}

// write puts a value, or deletes the key where it is "", and returns the revision. That it fails is
// no finding: a leader may just be changing.
func (s *session) write(key, value string) (revision uint64, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var err error
	if value == "" {
		revision, err = s.b.Delete(ctx, key)
	} else {
		revision, err = s.b.Put(ctx, key, value)
	}
	return revision, err == nil
}

// faultyNet is a cluster's servers and the proxies in front of them, and what can happen to them.
type faultyNet struct {
	cluster *jskvtest.Cluster
	proxies []*jskvtest.Proxy
	faults  []func(t testing.TB, rng *rand.Rand) (name string)
	made    map[string]int // faults, by name
}

func newFaultyNet(t testing.TB, cluster *jskvtest.Cluster) *faultyNet {
	t.Helper()
	n := &faultyNet{cluster: cluster, made: map[string]int{}}
	for _, srv := range cluster.Servers() {
		n.proxies = append(n.proxies, jskvtest.NewProxy(t, srv.URL()))
	}
	n.faults = []func(testing.TB, *rand.Rand) string{n.leaderSteps, n.answerLost, n.serverStops, n.reset, n.stall, n.leaderStops}
	return n
}

// open opens bucket "b" on a connection that begins with one of the proxies and may go to all of
// them; the handles with odd numbers write idempotently.
func (n *faultyNet) open(t testing.TB, i int) *jskv.Bucket[string] {
	t.Helper()
	var urls []string
	for j := range n.proxies {
		urls = append(urls, n.proxies[(i+j)%len(n.proxies)].URL())
	}
	if i%2 == 1 {
		return openIdempotent(t, firstOf(t, urls...))
	}
	return openBucket(t, firstOf(t, urls...))
}

// fault makes the first faults in order, so that each kind is there, and then any; and leaves the
// cluster a moment of peace after it.
func (n *faultyNet) fault(t testing.TB, rng *rand.Rand, i int) {
	t.Helper()
	if i >= len(n.faults) {
		i = rng.IntN(len(n.faults))
	}
	n.made[n.faults[i](t, rng)]++
	wait(context.Background(), upTo(rng, 200*time.Millisecond))
}

func (n *faultyNet) heal(t testing.TB) {
	t.Helper()
	for _, proxy := range n.proxies {
		proxy.Heal()
	}
	n.cluster.Start()
	n.cluster.WaitCurrent("b")
}

// upTo is a time up to d.
func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

func (n *faultyNet) any(rng *rand.Rand) *jskvtest.Proxy { return n.proxies[rng.IntN(len(n.proxies))] }

func (n *faultyNet) leaderSteps(testing.TB, *rand.Rand) string {
	stepDown(n.cluster)
	return "leader stepped down"
}

func (n *faultyNet) answerLost(_ testing.TB, rng *rand.Rand) string {
	lost := n.any(rng).CutOn(jskvtest.ToClient, `{"stream":"KV_b","seq":`)
	select {
	case <-lost:
	case <-time.After(time.Second): // nobody writes there
	}
	return "answer lost"
}

func (n *faultyNet) reset(_ testing.TB, rng *rand.Rand) string {
	n.any(rng).Reset()
	return "connections reset"
}

func (n *faultyNet) stall(_ testing.TB, rng *rand.Rand) string {
	proxy := n.any(rng)
	proxy.Stall([]jskvtest.Direction{jskvtest.ToClient, jskvtest.ToServer, jskvtest.Both}[rng.IntN(3)])
	wait(context.Background(), upTo(rng, 1500*time.Millisecond))
	proxy.Heal()
	return "connections stalled"
}

func (n *faultyNet) serverStops(t testing.TB, rng *rand.Rand) string {
	n.stop(t, rng, rng.IntN(len(n.proxies)))
	return "server stopped and started"
}

func (n *faultyNet) leaderStops(t testing.TB, rng *rand.Rand) string {
	n.stop(t, rng, n.cluster.Leader("b"))
	return "leader stopped and started"
}

func (n *faultyNet) stop(t testing.TB, rng *rand.Rand, i int) {
	t.Helper()
	n.cluster.Server(i).Stop()
	wait(context.Background(), upTo(rng, 500*time.Millisecond))
	n.cluster.Server(i).Start()
	n.cluster.WaitReady()
}
