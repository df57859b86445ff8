package jskv_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

var (
	randomDuration = flag.Duration("random.duration", 2*time.Second, "how long the random test makes faults, for each history")
	randomSeed     = flag.Uint64("random.seed", 0, "the seed of the random test; 0: another one each time")
)

// Writers write, faults come in random order, watchers and listers of all kinds read; then what
// each was handed out is checked against what the stream has and against what the writers were
// acknowledged for. Seed and order of the faults are in the log; how they meet the readers is not
// repeatable to the last packet.
func TestRandomFaultsNeitherLoseNorRepeatNorInvent(t *testing.T) {
	for _, history := range []uint8{1, 5, 64} {
		t.Run(fmt.Sprintf("history %d", history), func(t *testing.T) {
			t.Parallel()
			seed := *randomSeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			t.Logf("-random.seed=%d", seed)
			w := newWorld(t, history, rand.New(rand.NewPCG(seed, uint64(history))))
			w.start()
			w.disturb(*randomDuration)
			w.finish()
		})
	}
}

// world is one run.
type world struct {
	*scene
	rng     *rand.Rand // of the test's goroutine alone
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	readers []*reader
	conns   []*nats.Conn // the writers'

	mu       sync.Mutex
	intents  map[string]event  // by value, of the puts that were tried
	acked    map[uint64]event  // what the writers know
	unknown  map[string]int    // markers by key whose outcome is not known
	listings map[string]int    // by how they ended
	reports  map[string]string // what is wrong with the order of an OnInterruption's calls
}

// reader is a watcher and what may be expected of it.
type reader struct {
	*recorder
	filters []string
	ignore  bool   // markers
	least   uint64 // nothing before this revision may come
	from    uint64 // from this revision on everything has to come that the stream still has at the end
}

const (
	aliveKeys = 40 // x.0, x.1, ...: only overwritten
	otherKeys = 40 // y.0, y.1, ...: deleted, purged and made again, too
)

func newWorld(t *testing.T, history uint8, rng *rand.Rand) *world {
	w := &world{
		scene: newScene(t, jetstream.KeyValueConfig{History: history}), rng: rng,
		intents: map[string]event{}, acked: map[uint64]event{}, unknown: map[string]int{},
		listings: map[string]int{}, reports: map[string]string{},
	}
	for i := range aliveKeys {
		key := fmt.Sprint("x.", i)
		w.note(event{key: key, value: "first of " + key})
		w.acked[w.put(key, "first of "+key)] = event{key: key, value: "first of " + key}
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() { w.cancel(); w.wg.Wait() })
	return w
}

func (w *world) start() {
	for i := range 3 {
		b := w.handle(fmt.Sprint("writer ", i))
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), 0))
		w.wg.Go(func() {
			for n := 0; w.ctx.Err() == nil; n++ {
				w.write(b, rng, fmt.Sprintf("%d of writer %d", n, i))
			}
		})
	}
	w.open("all", nil)
	w.openUpdatesOnly("updates only")
	w.open("history", nil, jskv.WithHistory()).from = 1
	fromRevision := w.open("from a revision", nil, jskv.FromRevision(10))
	fromRevision.least, fromRevision.from = 10, 10
	w.open("no markers", nil, jskv.IgnoreDeletes()).ignore = true
	w.open("overlapping filters", []string{"x.*", "*.1", "y.2"})
	for i := range enough {
		w.open(fmt.Sprint("single ", i), []string{fmt.Sprint("y.", i)})
	}
	w.openRaw()
	for range 2 {
		w.wg.Go(w.list)
	}
}

// handle is the bucket on a connection of its own, that no fault but the server's own disturbs.
func (w *world) handle(name string) *jskv.Bucket[string] {
	w.t.Helper()
	nc := w.server.Conn()
	w.conns = append(w.conns, nc)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(500*time.Millisecond))
	require.NoError(w.t, err, name)
	b, err := jskv.OpenBucket(testContext(w.t), js, "b", jskv.String())
	require.NoError(w.t, err, name)
	return b
}

// write does one random write. What became of it may stay unknown.
func (w *world) write(b *jskv.Bucket[string], rng *rand.Rand, value string) {
	e := event{key: fmt.Sprint("x.", rng.IntN(aliveKeys)), value: value}
	switch rng.IntN(4) {
	case 0, 1:
		e.key = fmt.Sprint("y.", rng.IntN(otherKeys))
		e.op = jskv.Operation(max(0, rng.IntN(5)-2))
	case 2: // stays as it is, however short the history
		e.key = "z." + strings.ReplaceAll(value, " ", "-")
	}
	if e.op != jskv.OpPut {
		e.value = ""
	}
	w.note(e)
	var revision uint64
	var err error
	switch e.op {
	case jskv.OpDelete:
		revision, err = b.Delete(context.Background(), e.key)
	case jskv.OpPurge:
		revision, err = b.Purge(context.Background(), e.key)
	default:
		revision, err = b.Put(context.Background(), e.key, e.value)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.acked[revision] = e
	case e.op != jskv.OpPut:
		w.unknown[e.key]++
	}
}

// note remembers a put before it is tried.
func (w *world) note(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.op == jskv.OpPut {
		w.intents[e.value] = e
	}
}

// lastRevision is the stream's, once its server is there to tell.
func (w *world) lastRevision() uint64 {
	w.t.Helper()
	var last uint64
	require.Eventually(w.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s, err := w.admin.Stream(ctx, "KV_b")
		if err == nil {
			last = s.CachedInfo().State.LastSeq
		}
		return err == nil
	}, soon, tick)
	return last
}

// open begins to watch. No fault is in force.
func (w *world) open(name string, filters []string, opts ...jskv.WatchOption) *reader {
	w.t.Helper()
	if filters == nil {
		filters = []string{jskv.AllKeys}
	}
	opts = append(opts, jskv.AndFilter(filters[1:]...), w.alternates(name))
	ctx, cancel := context.WithTimeout(context.Background(), *randomDuration+5*time.Minute) // with a deadline it waits for the server
	w.t.Cleanup(cancel)
	watcher, err := w.Watch(ctx, filters[0], opts...)
	require.NoError(w.t, err, name)
	r := &reader{filters: filters, from: w.lastRevision() + 1, recorder: record(w.t, name, watcher)}
	w.readers = append(w.readers, r)
	return r
}

func (w *world) openUpdatesOnly(name string) {
	w.t.Helper()
	least := w.lastRevision() + 1
	w.open(name, nil, jskv.UpdatesOnly()).least = least
}

func (w *world) openRaw() {
	w.t.Helper()
	m, err := w.Stream().Messages(context.Background())
	require.NoError(w.t, err)
	w.readers = append(w.readers, &reader{recorder: recordRaw(w.t, "raw", m), filters: []string{jskv.AllKeys}, from: 1})
}

// alternates reports it when OnInterruption is not told a reason and nil by turns.
func (w *world) alternates(name string) jskv.WatchOption {
	lost := false
	return jskv.OnInterruption(func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if lost == (err != nil) {
			w.reports[name] = fmt.Sprintf("told %v when it was lost: %v", err, lost)
		}
		lost = err != nil
	})
}

// list lists until the run ends. A listing is whole or ends with an error.
func (w *world) list() {
	for n := 0; w.ctx.Err() == nil; n++ {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		seen, alive := map[string]bool{}, 0
		var last error
		for e, err := range w.Entries(ctx) {
			if last = err; err != nil {
				break
			}
			if seen[e.Key] || e.Operation != jskv.OpPut {
				w.t.Errorf("listed twice, or a marker: %+v", e)
			}
			if seen[e.Key] = true; e.Key[0] == 'x' {
				alive++
			}
		}
		cancel()
		if last == nil && alive != aliveKeys {
			w.t.Errorf("a listing without an error has %d of %d live keys", alive, aliveKeys)
		}
		w.mu.Lock()
		w.listings[fmt.Sprint(errors.Is(last, context.DeadlineExceeded), last == nil)]++
		w.mu.Unlock()
	}
}

// disturb makes faults, one after the other, and then ends them all.
func (w *world) disturb(d time.Duration) {
	w.t.Helper()
	faults := []struct {
		name string
		do   func()
	}{
		{"reset", w.proxy.Reset},
		{"cut", w.proxy.Cut},
		{"refuse", func() { w.proxy.Refuse(); w.proxy.Reset() }},
		{"blackhole", func() { w.proxy.Blackhole(w.direction()) }},
		{"stall", func() { w.proxy.Stall(w.direction()) }},
		{"delay", func() { w.proxy.Delay(w.direction(), time.Duration(w.rng.IntN(30))*time.Millisecond) }},
		{"delete consumers", func() { jskvtest.DeleteConsumers(w.t, w.admin, "b") }},
		{"restart", func() { w.restartUnder(w.admin.Conn()) }},
		{"another watcher", func() {
			w.proxy.Heal()
			w.open(fmt.Sprint("late ", len(w.readers)), nil)
			w.openUpdatesOnly(fmt.Sprint("late updates only ", len(w.readers)))
		}},
		{"heal", w.proxy.Heal},
	}
	var made []string
	defer func() { w.t.Logf("faults: %s", strings.Join(made, ", ")) }()
	for end := time.Now().Add(d); time.Now().Before(end); {
		fault := faults[w.rng.IntN(len(faults))]
		made = append(made, fault.name)
		fault.do()
		pause := time.NewTimer(time.Duration(w.rng.IntN(400)) * time.Millisecond)
		<-pause.C
		if w.rng.IntN(2) == 0 {
			w.proxy.Heal()
		}
	}
	w.proxy.Heal()
}

func (w *world) direction() jskvtest.Direction {
	return jskvtest.Direction(1 + w.rng.IntN(3))
}
