package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// A copy of the bucket in the client. The stock client has none: what it is compared with is the map
// that its users write. The floor of reading is a plain Go map under an RWMutex.

const (
	lockedMap = "RWMutex map"
	syncMap   = "sync.Map"

	// hotKeys are read again and again from a copy of manyKeys: they fit into a processor's cache.
	hotKeys = 1000
)

// replica is a copy of a bucket in memory.
type replica interface {
	get(key string) ([]byte, bool)
	all(visit func(key string, value []byte))
	close()
}

func (b *bench) caches() section {
	operations := []string{opCacheGet, opCacheAll, opCacheLoad, opCacheMemory}
	return b.withField(operations, manyKeys, smallValue, func(f *field) error {
		return errors.Join(b.cacheReads(f), b.cacheLoads(f))
	})
}

func (b *bench) cacheReads(f *field) error {
	copied, err := loadJSKV(b.ctx, f.ours)
	if err != nil {
		return err
	}
	defer copied.close()
	locked, concurrent := &lockedReplica{values: map[string][]byte{}}, new(concurrentReplica)
	copied.all(func(key string, value []byte) {
		locked.values[key] = value
		concurrent.values.Store(key, value)
	})
	replicas := []struct {
		name string
		replica
	}{{ours, copied}, {lockedMap, locked}, {syncMap, concurrent}}

	for _, c := range []struct{ keys, goroutines int }{{hotKeys, 1}, {hotKeys, 64}, {manyKeys, 1}, {manyKeys, 64}} {
		t := f.trial(opCacheGet, count(c.keys, "key")+", "+count(c.goroutines, "goroutine"), "ns/op")
		t.Stock, t.Floor, t.steady = "", lockedMap, true
		for _, r := range replicas {
			t.runs = append(t.runs, run{contender: r.name, do: timed(1, func(n int) error {
				return share(c.goroutines, n, func(_, i int) error {
					key := f.keys[i*7919%c.keys] // a prime: neighbours are not read together
					if value, ok := r.get(key); !ok || len(value) != len(f.value) {
						return fmt.Errorf("%s has %d bytes, %t", key, len(value), ok)
					}
					return nil
				})
			})})
		}
		b.measure(t)
	}
	t := f.keyTrial(opCacheAll, manyKeys)
	t.Stock, t.Floor, t.steady = "", lockedMap, true
	for _, r := range replicas {
		t.runs = append(t.runs, run{contender: r.name, means: map[string]string{ours: "in key order", lockedMap: "in no order", syncMap: "in no order"}[r.name],
			do: timed(manyKeys, repeat(func() error {
				var got tally
				r.all(func(_ string, value []byte) { got.add(value) })
				return got.check(f.whole(), nil)
			}))})
	}
	b.measure(t)
	return nil
}

// loader makes a copy of the bucket that it keeps until it is closed.
type loader struct {
	store
	load func() (replica, error)
}

func (b *bench) loaders(f *field) []loader {
	loaders := []loader{
		{f.ours, func() (replica, error) { return loadJSKV(b.ctx, f.ours) }},
		{f.stock, func() (replica, error) { return loadStock(b.ctx, f.stock) }},
		{f.bare, func() (replica, error) { return loadBare(b.ctx, f.bare) }},
	}
	if f.etcd != nil {
		loaders = append(loaders, loader{f.etcd, func() (replica, error) { return loadEtcd(b.ctx, f.etcd) }})
	}
	return loaders
}

func (b *bench) cacheLoads(f *field) error {
	load, memory := f.keyTrial(opCacheLoad, manyKeys), f.keyTrial(opCacheMemory, manyKeys)
	memory.Unit, memory.noAllocs = "B/key", true
	for _, l := range b.loaders(f) {
		means := l.means()[opCacheLoad]
		load.runs = append(load.runs, run{contender: l.name(), means: means, do: timed(manyKeys, repeat(func() error {
			r, err := l.load()
			if err == nil {
				r.close()
			}
			return err
		}))})
		memory.runs = append(memory.runs, run{contender: l.name(), means: means, calls: 1, do: func(int) ([]float64, error) {
			return b.heapPerKey(f, l)
		}})
	}
	load.slow(b, manyKeys)
	memory.rounds = b.scale.slowRounds
	b.measure(load)
	b.measure(memory)
	return nil
}

// heapPerKey is what a copy weighs, keys and values included.
func (b *bench) heapPerKey(f *field, l loader) ([]float64, error) {
	before := liveHeap()
	r, err := l.load()
	if err != nil {
		return nil, err
	}
	after := liveHeap()
	var got tally
	r.all(func(_ string, value []byte) { got.add(value) })
	r.close()
	return []float64{(after - before) / float64(len(f.keys))}, got.check(f.whole(), nil)
}

// liveHeap collects twice: what a pool holds survives once.
func liveHeap() float64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}

// cacheReplica is this library's.
type cacheReplica struct{ c *jskv.Cache[[]byte] }

func (r cacheReplica) get(key string) ([]byte, bool) { return r.c.Get(key) }
func (r cacheReplica) close()                        { r.c.Close() }

func (r cacheReplica) all(visit func(key string, value []byte)) {
	for key, e := range r.c.All() {
		visit(key, e.Value)
	}
}

func loadJSKV(ctx context.Context, s *jskvStore) (replica, error) {
	c, err := s.bucket.Cache(ctx)
	if err != nil {
		return nil, err
	}
	return cacheReplica{c}, nil
}

// lockedReplica is a plain map; stop ends what would keep it up to date.
type lockedReplica struct {
	mu     sync.RWMutex
	values map[string][]byte
	stop   func()
}

func (r *lockedReplica) get(key string) ([]byte, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	value, ok := r.values[key]
	return value, ok
}

func (r *lockedReplica) all(visit func(key string, value []byte)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for key, value := range r.values {
		visit(key, value)
	}
}

func (r *lockedReplica) set(key string, value []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values[key] = value
}

func (r *lockedReplica) close() {
	if r.stop != nil {
		r.stop()
	}
}

type concurrentReplica struct{ values sync.Map }

func (r *concurrentReplica) get(key string) ([]byte, bool) {
	value, ok := r.values.Load(key)
	if !ok {
		return nil, false
	}
	return value.([]byte), true
}

func (r *concurrentReplica) all(visit func(key string, value []byte)) {
	r.values.Range(func(key, value any) bool {
		visit(key.(string), value.([]byte))
		return true
	})
}

func (r *concurrentReplica) close() {}

// loadStock leaves the watch running, as it would be to follow the changes.
func loadStock(ctx context.Context, s *stockStore) (replica, error) {
	w, err := s.kv.WatchAll(ctx)
	if err != nil {
		return nil, err
	}
	r := &stockReplica{entries: map[string]jetstream.KeyValueEntry{}, w: w}
	for e := range w.Updates() {
		if e == nil {
			return r, nil
		}
		r.set(e)
	}
	return nil, errors.New("the initial values have no end")
}

// stockReplica keeps entries: who needs the revision keeps them.
type stockReplica struct {
	mu      sync.RWMutex
	entries map[string]jetstream.KeyValueEntry
	w       jetstream.KeyWatcher
}

func (r *stockReplica) set(e jetstream.KeyValueEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries[e.Key()] = e
}

func (r *stockReplica) get(key string) ([]byte, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.entries[key]
	if !ok {
		return nil, false
	}
	return e.Value(), true
}

func (r *stockReplica) all(visit func(key string, value []byte)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for key, e := range r.entries {
		visit(key, e.Value())
	}
}

func (r *stockReplica) close() { _ = r.w.Stop() } // the bucket is read again right after it, and would tell

func loadBare(ctx context.Context, s *bareStore) (replica, error) {
	r := &lockedReplica{values: map[string][]byte{}}
	prefix := s.subject("")
	_, err := s.pull(ctx, false, func(msg *nats.Msg) { r.set(strings.TrimPrefix(msg.Subject, prefix), msg.Data) })
	return r, err
}

func loadEtcd(ctx context.Context, s *etcdStore) (replica, error) {
	r := &lockedReplica{values: map[string][]byte{}}
	_, revision, err := s.read(ctx, r.set)
	if err != nil {
		return nil, err
	}
	w, err := s.watchFrom(ctx, revision+1)
	if err != nil {
		return nil, err
	}
	r.stop = func() { _ = w.stop() } // it returns nil always
	return r, nil
}
