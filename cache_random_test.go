package jskv_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// Rounds of writes and faults in random order, and a quiet point after each: there every cache has
// what the bucket has, and so do its index and everybody who followed its changes. Each change
// that was told is checked against what its reader was told before. Seed and order of the faults
// are in the log; how they meet the caches is not repeatable to the last packet.
func TestRandomFaultsLeaveEveryCacheEqualToTheBucket(t *testing.T) {
	for _, history := range []uint8{1, 5} {
		t.Run(fmt.Sprintf("history %d", history), func(t *testing.T) {
			t.Parallel()
			seed := *randomSeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			t.Logf("-random.seed=%d", seed)
			w := newCacheWorld(t, history, rand.New(rand.NewPCG(seed, uint64(history))))
			defer func() { t.Logf("%d rounds: %s", len(w.made), strings.Join(w.made, ", ")) }()
			for end := time.Now().Add(*randomDuration); time.Now().Before(end); {
				w.round()
				w.requireQuiet()
			}
		})
	}
}

// cacheWorld is one run.
type cacheWorld struct {
	*scene
	rng      *rand.Rand           // of the test's goroutine alone
	beside   *jskv.Bucket[string] // on a connection that no fault but the server's own disturbs
	caches   []*randomCache
	made     []string // the faults
	replaced uint64   // buckets

	mu      sync.Mutex
	written map[string]string // key by value, of the puts that were tried
}

type randomCache struct {
	*jskv.Cache[string]
	filters   []string
	byWriter  *jskv.Index[string]
	followers []*follower
}

func newCacheWorld(t *testing.T, history uint8, rng *rand.Rand) *cacheWorld {
	w := &cacheWorld{
		scene: newScene(t, jetstream.KeyValueConfig{History: history, LimitMarkerTTL: time.Second}), rng: rng,
		written: map[string]string{},
	}
	w.beside = openBucket(t, w.admin)
	for _, filters := range [][]string{nil, {"x.*"}, {"x.*", "*.1", "y.2"}, {"y.3"}} {
		c := &randomCache{Cache: newCache(t, w.Bucket, filters...), filters: filters}
		c.byWriter = jskv.NewIndex(c.Cache, words)
		w.caches = append(w.caches, c)
		w.follow(c)
	}
	return w
}

// follow adds readers of a cache's changes, a quick one and a slow one.
func (w *cacheWorld) follow(c *randomCache) {
	slow := rand.New(rand.NewPCG(w.rng.Uint64(), 0))
	pause := func() {
		if slow.IntN(8) == 0 {
			<-time.After(time.Duration(slow.IntN(5)) * time.Millisecond)
		}
	}
	c.followers = append(c.followers, follow(w.t, c.Cache), followAt(w.t, c.Cache, pause))
}

// round is a fault among writes.
func (w *cacheWorld) round() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	round := len(w.made)
	for i := range 2 {
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), 0))
		writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				w.write(rng, fmt.Sprintf("w%d %d.%d", i, round, n))
			}
		})
	}
	w.idle(20)
	fault := w.fault()
	w.made = append(w.made, fault.name)
	fault.do()
	w.idle(100)
	cancel()
	writing.Wait()
	require.Eventually(w.t, func() bool { // a write that nobody waits for any more may be on its way, before this one
		return w.put("z.0", fmt.Sprintf("w0 %d.end", round)) == nil
	}, soon, tick)
	if fault.quiet != nil {
		fault.quiet()
	}
	w.proxy.Heal()
}

func (w *cacheWorld) idle(most int) {
	<-time.After(time.Duration(w.rng.IntN(most)) * time.Millisecond)
}

// randomFault is what happens to the caches while others write, and when those have stopped.
type randomFault struct {
	name      string
	do, quiet func()
}

func (w *cacheWorld) fault() randomFault {
	nothing := func() {}
	direction := jskvtest.Direction(1 + w.rng.IntN(3))
	away := func() { w.proxy.Refuse(); w.proxy.Reset() }
	faults := []randomFault{
		{"none", nothing, nil},
		{"reset", w.proxy.Reset, nil},
		{"cut", w.proxy.Cut, nil},
		{"away", away, nil},
		{"away, markers purged", away, w.purgeMarkers},
		{"away, replaced", away, w.replaceBucket},
		{"blackhole", func() { w.proxy.Blackhole(direction) }, nil},
		{"stall", func() { w.proxy.Stall(direction) }, nil},
		{"consumers deleted", func() { jskvtest.DeleteConsumers(w.t, w.admin, "b") }, nil},
		{"restart", func() { w.restartUnder(w.admin.Conn()) }, nil},
		{"replaced", nothing, w.replaceBucket},
		{"expiry", nothing, w.expire},
		{"away, expiry", away, w.expire},
		{"late readers", func() { w.follow(w.caches[w.rng.IntN(len(w.caches))]) }, nil},
	}
	return faults[w.rng.IntN(len(faults))]
}

// write does one random write. What became of it shows at the quiet point.
func (w *cacheWorld) write(rng *rand.Rand, value string) {
	key := fmt.Sprintf("%c.%d", "xyz"[rng.IntN(3)], rng.IntN(12))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	switch rng.IntN(8) {
	case 0, 1:
		_, _ = w.beside.Delete(ctx, key) // fails while the server restarts
	case 2:
		_, _ = w.beside.Purge(ctx, key)
	default:
		_ = w.put(key, value)
	}
}

func (w *cacheWorld) put(key, value string) error {
	w.mu.Lock()
	w.written[value] = key
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return second(w.beside.Put(ctx, key, value))
}

func (w *cacheWorld) purgeMarkers() {
	_, err := w.beside.PurgeDeletes(testContext(w.t), 0)
	require.NoError(w.t, err)
}

func (w *cacheWorld) replaceBucket() {
	w.replaced++
	w.replace()
	for n := range w.rng.IntN(100) { // it may come to the revisions that the old one had
		w.write(w.rng, fmt.Sprintf("w0 %d.%d again", len(w.made), n))
	}
}

// expire has keys expire, and waits until their markers are gone, too.
func (w *cacheWorld) expire() {
	var last uint64
	for n := range 3 {
		key, value := fmt.Sprint("x.", n), fmt.Sprintf("w1 %d.%d short", len(w.made), n)
		w.mu.Lock()
		w.written[value] = key
		w.mu.Unlock()
		var err error
		last, err = w.beside.Put(testContext(w.t), key, value, jskv.TTL(time.Second))
		require.NoError(w.t, err)
	}
	eventually(w.t, func() bool {
		info, err := w.beside.Stream().Info(testContext(w.t))
		return err == nil && info.State.LastSeq > last && info.State.FirstSeq > 0 && !w.stores("x.0", "x.1", "x.2")
	}, "values and markers expire")
}

func (w *cacheWorld) stores(keys ...string) bool {
	for _, key := range keys {
		if len(history(w.t, w.beside, key)) > 0 {
			return true
		}
	}
	return false
}

// requireQuiet waits until everybody has what the bucket has.
func (w *cacheWorld) requireQuiet() {
	w.t.Helper()
	for _, c := range w.caches {
		entries := stored(w.t, w.beside, c.filters...)
		want := brief(entries...)
		require.Eventually(w.t, func() bool {
			// What has a TTL may expire while it is compared.
			entries = stored(w.t, w.beside, c.filters...)
			want = brief(entries...)
			got := copied(c.Cache)
			return fmt.Sprint(brief(got...)) == fmt.Sprint(want) && len(got) == c.Len()
		}, soon, tick, "%v has not what the bucket has after %v", c.filters, w.made)
		values := map[string]string{}
		writers := map[string][]string{}
		for _, e := range entries {
			values[e.Key] = e.Value
			value, ok := c.Get(e.Key)
			require.True(w.t, ok && value == e.Value, e.Key)
			writer := strings.Fields(e.Value)[0]
			writers[writer] = append(writers[writer], e.Key)
		}
		for _, writer := range []string{"w0", "w1"} {
			var keys []string
			for _, e := range c.byWriter.Find(writer) {
				keys = append(keys, e.Key)
			}
			require.Equal(w.t, writers[writer], keys, "index")
		}
		for _, f := range c.followers {
			w.requireFollower(f, values)
		}
		require.NoError(w.t, c.Err())
	}
}

func (w *cacheWorld) requireFollower(f *follower, values map[string]string) {
	w.t.Helper()
	f.requireState(values)
	f.mu.Lock()
	defer f.mu.Unlock()
	require.NoError(w.t, f.err)
	require.LessOrEqual(w.t, f.made, w.replaced, "revision order begins anew with another bucket only")
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, e := range f.state {
		require.Equal(w.t, key, w.written[e.Value], "nobody wrote %+v", e)
	}
}
