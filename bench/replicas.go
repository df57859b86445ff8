package main

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// replica is a copy of a bucket in memory.
type replica interface {
	get(key string) ([]byte, bool)
	all(visit func(key string, value []byte))
	close()
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
