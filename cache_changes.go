package jskv

import (
	"container/list"
	"context"
	"iter"
	"sync"
)

// Change is one step of a Cache. A reader that falls behind sees the newest state of a key, not
// every step to it: Old is what it was shown before.
type Change[T any] struct {
	Old, New        Entry[T] // New is the marker of a key that is gone, or only its name when the marker is gone too
	Existed, Exists bool
}

// Changes yields first the present content, each key as one that did not exist, and then every
// change, in revision order. Each reader has its own pace and does not slow down the cache or
// other readers: what it has not taken is kept once a key.
//
// It ends with the error of ctx or of the cache as the last pair, and without one after Close. A
// key whose newest value does not decode comes as one that no longer exists, beside the
// *DecodeError, and the sequence goes on.
func (c *Cache[T]) Changes(ctx context.Context) iter.Seq2[Change[T], error] {
	return func(yield func(Change[T], error) bool) {
		f := &feed[T]{pending: map[string]*list.Element{}, wake: make(chan struct{}, 1)}
		c.mu.Lock()
		tree := c.tree.Copy()
		c.feeds[f] = struct{}{}
		c.mu.Unlock()
		defer func() {
			c.mu.Lock()
			delete(c.feeds, f)
			c.mu.Unlock()
		}()
		stopped := false
		tree.Scan(func(it *item[T]) bool {
			stopped = !yield(Change[T]{New: it.Entry, Exists: true}, nil)
			return !stopped && ctx.Err() == nil
		})
		for !stopped {
			if err := ctx.Err(); err != nil {
				yield(Change[T]{}, c.bucket.failed("changes of", "", err))
				return
			}
			if step, ok := f.take(); ok {
				var err error
				if step.undecoded != nil {
					err = step.undecoded
				}
				stopped = !yield(step.change, err)
				continue
			}
			select {
			case <-f.wake:
			case <-ctx.Done():
			case <-c.done:
				if f.empty() {
					if err := c.Err(); err != nil {
						yield(Change[T]{}, err)
					}
					return
				}
			}
		}
	}
}

// feed is what one reader of Changes has not taken, by key, in the order of the newest change.
type feed[T any] struct {
	mu      sync.Mutex
	pending map[string]*list.Element
	order   list.List // of *step[T]
	wake    chan struct{}
}

type step[T any] struct {
	change    Change[T]
	undecoded *DecodeError
}

func (f *feed[T]) offer(change Change[T], undecoded *DecodeError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := change.New.Key
	s := &step[T]{change, undecoded}
	if e, ok := f.pending[key]; ok {
		before := f.order.Remove(e).(*step[T])
		delete(f.pending, key)
		s.change.Old, s.change.Existed = before.change.Old, before.change.Existed
		if !s.change.Existed && !s.change.Exists && undecoded == nil {
			return // it came and went unseen
		}
	}
	f.pending[key] = f.order.PushBack(s)
	f.signal()
}

func (f *feed[T]) take() (*step[T], bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	front := f.order.Front()
	if front == nil {
		return nil, false
	}
	s := f.order.Remove(front).(*step[T])
	delete(f.pending, s.change.New.Key)
	return s, true
}

func (f *feed[T]) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.order.Len() == 0
}

func (f *feed[T]) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
