package main

import (
	"errors"
	"fmt"
	"runtime"
)

// A copy of the bucket in the client. The stock client has none: what it is compared with is the map
// that its users write. The floor of reading is a plain Go map under an RWMutex.

const (
	lockedMap = "RWMutex map"
	syncMap   = "sync.Map"

	// hotKeys are read again and again from a copy of manyKeys: they fit into a processor's cache.
	hotKeys = 1000
)

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
	replicas := []namedReplica{{ours, "in key order", copied}, {lockedMap, "in no order", locked}, {syncMap, "in no order", concurrent}}
	for _, c := range []struct{ keys, goroutines int }{{hotKeys, 1}, {hotKeys, 64}, {manyKeys, 1}, {manyKeys, 64}} {
		b.measure(cacheGet(f, replicas, c.keys, c.goroutines))
	}
	b.measure(cacheAll(f, replicas))
	return nil
}

// namedReplica also says in which order its All is.
type namedReplica struct {
	name, order string
	replica
}

func cacheGet(f *field, replicas []namedReplica, keys, goroutines int) trial {
	t := f.trial(opCacheGet, count(keys, "key")+", "+count(goroutines, "goroutine"), "ns/op")
	t.Stock, t.Floor, t.steady = "", lockedMap, true
	for _, r := range replicas {
		t.runs = append(t.runs, run{contender: r.name, do: timed(1, func(n int) error {
			return share(goroutines, n, func(_, i int) error {
				key := f.keys[i*7919%keys] // a prime: neighbours are not read together
				if value, ok := r.get(key); !ok || len(value) != len(f.value) {
					return fmt.Errorf("%s has %d bytes, %t", key, len(value), ok)
				}
				return nil
			})
		})})
	}
	return t
}

func cacheAll(f *field, replicas []namedReplica) trial {
	t := f.keyTrial(opCacheAll, manyKeys)
	t.Stock, t.Floor, t.steady = "", lockedMap, true
	for _, r := range replicas {
		t.runs = append(t.runs, run{contender: r.name, means: r.order, do: timed(manyKeys, repeat(func() error {
			var got tally
			r.all(func(_ string, value []byte) { got.add(value) })
			return got.check(f.whole(), nil)
		}))})
	}
	return t
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
	memory.rounds = (b.scale.slowRounds + 1) / 2 // it hardly varies
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
