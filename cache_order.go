package jskv

import (
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// content returns what the cache has just now, in key order. f, unless it is nil, is told what
// changes from there on.
func (c *Cache[T]) content(f *feed[T]) *btree.BTreeG[*item[T]] {
	c.planting.Do(c.plant)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f != nil {
		c.feeds[f] = struct{}{}
	}
	return c.tree.Copy()
}

// plant makes the tree, for the first who needs it. A program that only looks keys up by name never
// does, and making the tree while the cache loads would make that longer than the stock client's.
// The cache goes on meanwhile; what changes comes by a feed.
func (c *Cache[T]) plant() {
	items, f := c.unordered()
	slices.SortFunc(items, byKey)
	tree := btree.NewBTreeGOptions(func(a, b *item[T]) bool { return a.Key < b.Key }, btree.Options{NoLocks: true})
	for _, it := range items {
		tree.Load(it)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.feeds, f)
	for s := f.take(); s != nil; s = f.take() {
		if s.exists {
			tree.Set(s.now)
		} else {
			tree.Delete(s.now)
		}
	}
	c.tree = tree
}

// unordered returns what the cache has, and a feed of what changes from there on.
func (c *Cache[T]) unordered() ([]*item[T], *feed[T]) {
	f := newFeed[T]()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feeds[f] = struct{}{}
	items := make([]*item[T], 0, c.count())
	for i := range c.shards {
		items = slices.AppendSeq(items, maps.Values(c.shards[i].items))
	}
	return items, f
}

func byKey[T any](a, b *item[T]) int { return strings.Compare(a.Key, b.Key) }
