package jskv

import (
	"errors"
	"maps"
	"slices"

	"github.com/seed646b090f/jskv/internal/wire"
)

// loadedAtOnce is how many keys are entered into a shard together, see load.
const loadedAtOnce = 512

// sink is the side of a Cache that is written to, by the goroutine that follows.
type sink[T any] Cache[T]

// Begin starts a snapshot of about n keys.
func (s *sink[T]) Begin(another bool, n int) {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.snapshot = true
	clear(c.older)
	if another {
		c.first = c.generation
		c.revision.Store(0)
		c.progress = progress{}
		for w := range c.waiters {
			w.whole = span{}
		}
	}
	if c.live {
		return
	}
	for i := range c.shards { // of a cache that nobody has yet
		s := &c.shards[i]
		s.items = make(map[string]*item[T], n/shards)
		s.loading = make([]*item[T], 0, min(1+n/shards, loadedAtOnce))
	}
	clear(c.undecoded)
}

// Apply takes one revision of a key.
func (s *sink[T]) Apply(m *wire.Message) {
	c := (*Cache[T])(s)
	e, err := c.bucket.entry(m, false)
	undecoded, _ := errors.AsType[*DecodeError](err)
	now := &item[T]{e, c.generation}
	took := step[T]{now: now, exists: undecoded == nil && !m.Deleted(), undecoded: undecoded}
	if !c.live && took.exists {
		c.load(now)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.live {
		c.enter(c.shard(now.Key)) // what it replaces may be there
	}
	if c.live && c.snapshot && c.known(took) {
		return
	}
	c.take(took)
	c.revision.Store(max(c.revision.Load(), m.Sequence))
	if !c.snapshot { // in one, deletions may be still to come
		c.came(m.Sequence)
	}
}

// known reports whether s, of a snapshot, is nothing new: the copy has had that revision, or a
// later one. Where it does not have it now, either a replica has not yet come to where the copy is,
// or the bucket has lost what came later. The end of the snapshot shows which.
func (c *Cache[T]) known(s step[T]) bool {
	key, revision := s.now.Key, s.now.Revision
	delete(c.older, key)
	old, u, bad := c.had(key)
	if old != nil && old.Revision == revision && !old.Created.Equal(s.now.Created) {
		return false // the server has lost what it had there
	}
	if old != nil {
		old.generation = c.generation
	}
	switch {
	case old != nil && old.Revision == revision:
	case bad && u.err.Revision == revision:
		c.undecoded[key] = undecodedKey{u.err, c.generation}
	case revision > c.revision.Load():
		return false
	case old != nil || bad || s.exists || s.undecoded != nil: // else it is the marker of a key that is gone
		c.older[key] = s
	}
	return true
}

// had is what the copy has of a key in this bucket.
func (c *Cache[T]) had(key string) (old *item[T], u undecodedKey, bad bool) {
	if it := c.shard(key).items[key]; it != nil && it.generation >= c.first {
		old = it
	}
	u, bad = c.undecoded[key]
	return old, u, bad && u.generation >= c.first
}

// take puts a revision of a key in the place of what was there.
func (c *Cache[T]) take(s step[T]) {
	key := s.now.Key
	shard := c.shard(key)
	old := shard.items[key] // nobody else writes
	if len(c.undecoded) > 0 {
		delete(c.undecoded, key)
	}
	switch {
	case s.undecoded != nil:
		c.undecoded[key] = undecodedKey{s.undecoded, s.now.generation}
		c.drop(shard, old, s.now, s.undecoded)
	case s.exists:
		c.set(shard, old, s.now)
	default:
		c.drop(shard, old, s.now, nil)
	}
}

// Complete drops what the snapshot did not have.
func (s *sink[T]) Complete() {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live {
		for _, older := range slices.SortedFunc(maps.Values(c.older), byRevision) {
			c.take(older)
		}
		clear(c.older)
		c.dropIf(
			func(it *item[T]) bool { return it.generation != c.generation },
			func(u undecodedKey) bool { return u.generation != c.generation })
	} else {
		for i := range c.shards {
			c.enter(&c.shards[i])
			c.shards[i].loading = nil
		}
		c.live = true
		defer close(c.ready)
	}
	c.snapshot = false
	c.settle(c.revision.Load())
}

// load takes a value before anybody reads: what it replaces need not be looked for, and nothing has
// to be locked. Keys that are entered one by one cost half as much again, because each waits for
// memory that is not in the processor's cache.
func (c *Cache[T]) load(now *item[T]) {
	if len(c.undecoded) > 0 {
		delete(c.undecoded, now.Key)
	}
	s := c.shard(now.Key)
	s.loading = append(s.loading, now)
	if len(s.loading) == cap(s.loading) {
		c.enter(s)
	}
}

// enter puts into a shard what was loaded.
func (c *Cache[T]) enter(s *shard[T]) {
	newest := c.revision.Load()
	for _, it := range s.loading {
		s.items[it.Key] = it
		newest = max(newest, it.Revision)
	}
	c.revision.Store(newest)
	clear(s.loading)
	s.loading = s.loading[:0]
}

// Expired drops what is older than revision: the bucket does not have it any more.
func (s *sink[T]) Expired(revision uint64) {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropIf(
		func(it *item[T]) bool { return it.Revision < revision },
		func(u undecodedKey) bool { return u.err.Revision < revision })
}

// dropIf drops keys that are gone without a marker, in key order.
func (c *Cache[T]) dropIf(item func(*item[T]) bool, undecoded func(undecodedKey) bool) {
	gone := c.selected(item)
	for key, u := range c.undecoded {
		if undecoded(u) {
			delete(c.undecoded, key)
			gone = append(gone, key)
		}
	}
	slices.Sort(gone)
	for _, key := range gone {
		shard := c.shard(key)
		c.drop(shard, shard.items[key], c.nameOf(key), nil)
	}
}

// nameOf is what takes the place of a key whose marker is gone too.
func (c *Cache[T]) nameOf(key string) *item[T] {
	return &item[T]{Entry: Entry[T]{Bucket: c.bucket.core.Name(), Key: key}}
}

func (c *Cache[T]) selected(is func(*item[T]) bool) (keys []string) {
	for i := range c.shards {
		for key, it := range c.shards[i].items {
			if is(it) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// Passed takes note that nothing up to revision is left to apply.
func (s *sink[T]) Passed(revision uint64) {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(revision)
}

// set puts an item in the place of old, which may be nil.
func (c *Cache[T]) set(shard *shard[T], old, now *item[T]) {
	shard.mu.Lock()
	shard.items[now.Key] = now
	shard.mu.Unlock()
	if c.tree != nil {
		c.tree.Set(now)
	}
	c.changed(step[T]{old: old, now: now, exists: true})
}

// drop takes a key out, if it is there. marker is what took its place. Where it is not there, a feed may
// have that it did not decode.
func (c *Cache[T]) drop(shard *shard[T], old, marker *item[T], undecoded *DecodeError) {
	if old != nil {
		shard.mu.Lock()
		delete(shard.items, old.Key)
		shard.mu.Unlock()
		if c.tree != nil {
			c.tree.Delete(old)
		}
	}
	c.changed(step[T]{old: old, now: marker, undecoded: undecoded})
}

// changed tells the feeds.
func (c *Cache[T]) changed(s step[T]) {
	for f := range c.feeds {
		f.offer(s)
	}
}
