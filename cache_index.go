package jskv

import (
	"iter"
	"slices"
	"strings"
	"sync"
)

// Index finds the entries of a Cache by something else than their key. It is safe for concurrent
// use, and as current as the cache.
type Index[T any] struct {
	terms func(Entry[T]) []string

	mu     sync.RWMutex
	byTerm map[string]map[string]Entry[T]
}

// NewIndex makes an index of the entries of c, under the terms that terms returns for each, which
// may be none. terms is called on the goroutine that keeps the cache, so it must be quick; it
// must return the same terms for the same entry, and not call c. The index lives as long as the
// cache.
func NewIndex[T any](c *Cache[T], terms func(Entry[T]) []string) *Index[T] {
	x := &Index[T]{terms: terms, byTerm: map[string]map[string]Entry[T]{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tree.Scan(func(it *item[T]) bool {
		x.apply(Change[T]{New: it.Entry, Exists: true})
		return true
	})
	c.indexes = append(c.indexes, x)
	return x
}

func (x *Index[T]) apply(change Change[T]) {
	var before, after []string
	if change.Existed {
		before = x.terms(change.Old)
	}
	if change.Exists {
		after = x.terms(change.New)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, term := range before {
		delete(x.byTerm[term], change.Old.Key)
		if len(x.byTerm[term]) == 0 {
			delete(x.byTerm, term)
		}
	}
	for _, term := range after {
		entries := x.byTerm[term]
		if entries == nil {
			entries = map[string]Entry[T]{}
			x.byTerm[term] = entries
		}
		entries[change.New.Key] = change.New
	}
}

// Find returns the entries under term, in key order.
func (x *Index[T]) Find(term string) []Entry[T] {
	x.mu.RLock()
	found := make([]Entry[T], 0, len(x.byTerm[term]))
	for _, e := range x.byTerm[term] {
		found = append(found, e)
	}
	x.mu.RUnlock()
	slices.SortFunc(found, func(a, b Entry[T]) int { return strings.Compare(a.Key, b.Key) })
	return found
}

// Terms yields every term that has entries, with their number, in no particular order.
func (x *Index[T]) Terms() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		x.mu.RLock()
		numbers := make(map[string]int, len(x.byTerm))
		for term, entries := range x.byTerm {
			numbers[term] = len(entries)
		}
		x.mu.RUnlock()
		for term, n := range numbers {
			if !yield(term, n) {
				return
			}
		}
	}
}
