package jskv

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/seed646b090f/jskv/internal/wire"
)

// sink is the side of a Cache that is written to, by the goroutine that follows.
type sink[T any] Cache[T]

// Begin starts a snapshot of about n keys.
func (s *sink[T]) Begin(another bool, n int) {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.snapshot, c.another = true, c.another || another
	if another {
		c.revision.Store(0)
		c.reached.Store(0)
	}
	if c.planted {
		return
	}
	for i := range c.shards { // of a cache that nobody has yet
		c.shards[i].items = make(map[string]*item[T], n/shards)
	}
	c.loaded = make([]*item[T], 0, n)
	clear(c.undecoded)
}

// Apply takes one revision of a key.
func (s *sink[T]) Apply(m *wire.Message) {
	c := (*Cache[T])(s)
	e, err := c.bucket.entry(m, false)
	undecoded, _ := errors.AsType[*DecodeError](err)
	now := &item[T]{e, c.generation}
	if !c.planted && undecoded == nil && !m.Deleted() {
		c.load(now)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	shard := c.shard(m.Key)
	old := shard.items[m.Key] // nobody else writes
	if old != nil && !c.another && m.Sequence <= old.Revision {
		old.generation = c.generation
		return
	}
	if len(c.undecoded) > 0 {
		delete(c.undecoded, m.Key)
	}
	switch {
	case undecoded != nil:
		c.undecoded[m.Key] = undecodedKey{undecoded, c.generation}
		c.drop(shard, old, now, undecoded)
	case m.Deleted():
		c.drop(shard, old, now, nil)
	default:
		c.set(shard, old, now)
	}
	c.revision.Store(max(c.revision.Load(), m.Sequence))
	if !c.snapshot { // in one, deletions may be still to come
		c.reach(m.Sequence)
	}
}

// Complete drops what the snapshot did not have.
func (s *sink[T]) Complete() {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.planted {
		c.dropIf(
			func(it *item[T]) bool { return it.generation != c.generation },
			func(u undecodedKey) bool { return u.generation != c.generation })
	} else {
		c.plant()
		defer close(c.ready)
	}
	c.snapshot, c.another = false, false
	c.reach(c.revision.Load())
}

// load takes a value before anybody reads: what it replaces need not be looked for, and nothing
// has to be locked.
func (c *Cache[T]) load(now *item[T]) {
	if len(c.undecoded) > 0 {
		delete(c.undecoded, now.Key)
	}
	c.shard(now.Key).items[now.Key] = now
	c.loaded = append(c.loaded, now)
}

// plant makes the tree, in one go: key by key it costs a third of the load.
func (c *Cache[T]) plant() {
	newest := c.revision.Load()
	for _, it := range c.loaded {
		newest = max(newest, it.Revision)
	}
	c.revision.Store(newest)
	n := 0
	for i := range c.shards {
		n += len(c.shards[i].items)
	}
	if n < len(c.loaded) { // some were replaced or deleted while they were read
		c.loaded = slices.DeleteFunc(c.loaded, func(it *item[T]) bool { return c.shard(it.Key).items[it.Key] != it })
	}
	slices.SortFunc(c.loaded, func(a, b *item[T]) int { return strings.Compare(a.Key, b.Key) })
	for _, it := range c.loaded {
		c.tree.Load(it)
	}
	c.loaded, c.planted = nil, true
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

// dropIf drops keys that are gone without a marker.
func (c *Cache[T]) dropIf(item func(*item[T]) bool, undecoded func(undecodedKey) bool) {
	maps.DeleteFunc(c.undecoded, func(_ string, u undecodedKey) bool { return undecoded(u) })
	for _, it := range c.selected(item) {
		c.drop(c.shard(it.Key), it, nameOf(it), nil)
	}
}

func (c *Cache[T]) selected(is func(*item[T]) bool) (selected []*item[T]) {
	c.tree.Scan(func(it *item[T]) bool {
		if is(it) {
			selected = append(selected, it)
		}
		return true
	})
	return selected
}

// nameOf is what takes the place of a key whose marker is gone too.
func nameOf[T any](it *item[T]) *item[T] {
	return &item[T]{Entry: Entry[T]{Bucket: it.Bucket, Key: it.Key}}
}

// Passed takes note that nothing up to revision is left to apply.
func (s *sink[T]) Passed(revision uint64) {
	c := (*Cache[T])(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reach(revision)
}

// set puts an item in the place of old, which may be nil.
func (c *Cache[T]) set(shard *shard[T], old, now *item[T]) {
	shard.mu.Lock()
	shard.items[now.Key] = now
	shard.mu.Unlock()
	c.tree.Set(now)
	c.changed(step[T]{old: old, now: now, exists: true})
}

// drop takes a key out, if it is there. marker is what took its place.
func (c *Cache[T]) drop(shard *shard[T], old, marker *item[T], undecoded *DecodeError) {
	if old == nil && undecoded == nil {
		return
	}
	if old != nil {
		shard.mu.Lock()
		delete(shard.items, old.Key)
		shard.mu.Unlock()
		c.tree.Delete(old) // which is not planted while it is loaded
	}
	c.changed(step[T]{old: old, now: marker, undecoded: undecoded})
}

// changed tells the feeds.
func (c *Cache[T]) changed(s step[T]) {
	for f := range c.feeds {
		f.offer(s)
	}
}
