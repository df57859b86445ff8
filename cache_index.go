package jskv

import (
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Index finds the entries of a Cache by something other than their key. NewIndex makes one; the
// zero value is not usable. It is safe for concurrent use, and as current as the cache.
type Index[T any] struct {
	terms func(Entry[T]) []string
	feed  *feed[T]

	mu     sync.RWMutex
	byTerm map[string]map[string]*item[T]
	byKey  map[string][]string // the terms of each key
}

// NewIndex makes an index of the entries of c. terms returns the terms under which an entry is
// found; it may return none. The index lives as long as the cache.
//
// The index is brought up to date when it is read: NewIndex, Find and Terms call terms for the
// entries that have changed since, on the caller's goroutine and one call at a time. Until then
// only the newest state of each of them is kept. terms must not use the index. When it panics,
// whoever is reading the index gets the panic, and the key is not in the index until it changes
// again.
func NewIndex[T any](c *Cache[T], terms func(Entry[T]) []string) *Index[T] {
	content, f := c.subscribe()
	x := &Index[T]{terms: terms, feed: f, byTerm: map[string]map[string]*item[T]{}, byKey: map[string][]string{}}
	runtime.AddCleanup(x, c.unsubscribe, f) // nobody can read it any more
	content.Scan(func(it *item[T]) bool {
		x.add(it)
		return true
	})
	return x
}

// update takes in what has changed.
func (x *Index[T]) update() {
	if x.feed.empty() {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for s := x.feed.take(); s != nil; s = x.feed.take() {
		x.remove(s.now.Key)
		if s.exists {
			x.add(s.now)
		}
	}
}

func (x *Index[T]) remove(key string) {
	for _, term := range x.byKey[key] {
		delete(x.byTerm[term], key)
		if len(x.byTerm[term]) == 0 {
			delete(x.byTerm, term)
		}
	}
	delete(x.byKey, key)
}

func (x *Index[T]) add(it *item[T]) {
	terms := slices.Clone(x.terms(it.Entry))
	if len(terms) == 0 {
		return
	}
	x.byKey[it.Key] = terms
	for _, term := range terms {
		if x.byTerm[term] == nil {
			x.byTerm[term] = map[string]*item[T]{}
		}
		x.byTerm[term][it.Key] = it
	}
}

// Find returns the entries under term, in key order.
func (x *Index[T]) Find(term string) []Entry[T] {
	x.update()
	x.mu.RLock()
	found := make([]Entry[T], 0, len(x.byTerm[term]))
	for _, it := range x.byTerm[term] {
		found = append(found, it.Entry)
	}
	x.mu.RUnlock()
	slices.SortFunc(found, func(a, b Entry[T]) int { return strings.Compare(a.Key, b.Key) })
	return found
}

// Terms yields every term that has entries, with their number, in no particular order.
func (x *Index[T]) Terms() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		x.update()
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
