package jskv

import (
	"errors"
	"maps"

	"github.com/seed646b090f/jskv/internal/wire"
)

// sink is the side of a Cache that is written to, by the goroutine that follows.
type sink[T any] Cache[T]

// Begin starts a snapshot.
func (s *sink[T]) Begin(another bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	if another {
		// Its revisions begin anew, and so does what was waited for.
		s.another = true
		s.revision.Store(0)
		s.passed.Store(0)
	}
}

// Apply takes one revision of a key.
func (s *sink[T]) Apply(m *wire.Message) {
	c := (*Cache[T])(s)
	e, err := c.bucket.entry(m, false)
	undecoded, _ := errors.AsType[*DecodeError](err)

	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.lookup(m.Key)
	if old != nil && !c.another && m.Sequence <= old.Revision {
		old.generation = c.generation
		return
	}
	delete(c.undecoded, m.Key)
	switch {
	case undecoded != nil:
		c.undecoded[m.Key] = undecodedKey{undecoded, c.generation}
		c.drop(old, e, undecoded)
	case m.Deleted():
		c.drop(old, e, nil)
	default:
		c.set(old, &item[T]{Entry: e, generation: c.generation})
	}
	c.advance(&c.revision, m.Sequence)
}

// Complete drops what the snapshot did not have.
func (s *sink[T]) Complete() {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	var gone []*item[T]
	c.tree.Scan(func(it *item[T]) bool {
		if it.generation != c.generation {
			gone = append(gone, it)
		}
		return true
	})
	maps.DeleteFunc(c.undecoded, func(_ string, u undecodedKey) bool { return u.generation != c.generation })
	for _, it := range gone {
		c.drop(it, Entry[T]{Bucket: it.Bucket, Key: it.Key}, nil)
	}
	c.another = false
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
}

// Passed takes note that nothing up to revision is left to apply.
func (s *sink[T]) Passed(revision uint64) {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance(&c.passed, revision)
}

// Lost is told by Stale.
func (s *sink[T]) Lost(error) {}

// advance raises one of the cache's positions and wakes who waits for it.
func (c *Cache[T]) advance(position interface {
	Load() uint64
	Store(uint64)
}, to uint64) {
	if to <= position.Load() {
		return
	}
	position.Store(to)
	for w := range c.waiters {
		if w.revision <= to {
			close(w.reached)
			delete(c.waiters, w)
		}
	}
}

// set puts an item in the place of old, which may be nil.
func (c *Cache[T]) set(old, it *item[T]) {
	s := c.shard(it.Key)
	s.mu.Lock()
	s.items[it.Key] = it
	s.mu.Unlock()
	c.tree.Set(it)
	c.changed(Change[T]{Old: entryOf(old), New: it.Entry, Existed: old != nil, Exists: true}, nil)
}

// drop takes a key out, if it is there. marker is what took its place.
func (c *Cache[T]) drop(old *item[T], marker Entry[T], undecoded *DecodeError) {
	if old == nil {
		if undecoded != nil {
			c.changed(Change[T]{New: marker}, undecoded)
		}
		return
	}
	s := c.shard(old.Key)
	s.mu.Lock()
	delete(s.items, old.Key)
	s.mu.Unlock()
	c.tree.Delete(old)
	c.changed(Change[T]{Old: old.Entry, New: marker, Existed: true}, undecoded)
}

func entryOf[T any](it *item[T]) Entry[T] {
	if it == nil {
		return Entry[T]{}
	}
	return it.Entry
}

// changed tells the indexes and the readers of Changes.
func (c *Cache[T]) changed(change Change[T], undecoded *DecodeError) {
	for _, index := range c.indexes {
		index.apply(change)
	}
	for f := range c.feeds {
		f.offer(change, undecoded)
	}
}
