package jskv

import (
	"cmp"
	"container/list"
	"context"
	"iter"
	"sync"

	"github.com/tidwall/btree"
)

// Change is one step of a Cache. A reader that falls behind sees the newest state of a key, not
// every step to it: Old is what this reader was shown before.
type Change[T any] struct {
	Old, New        Entry[T] // of a key that is gone New is the marker, or has only the name when the marker is gone too
	Existed, Exists bool     // whether the key had the value Old before, and has the value New now
}

// Changes yields first the present content, in key order, each key as one that did not exist
// before, and then every change, in revision order. Each reader has its own pace and slows down
// neither the cache nor other readers: of a key with several changes that it has not taken yet,
// only the newest state is kept.
//
// It ends with the error of ctx or of the cache as the last pair, and without one after Close. A
// key whose newest value does not decode comes as one that no longer exists, beside the
// *DecodeError, and the sequence goes on.
func (c *Cache[T]) Changes(ctx context.Context) iter.Seq2[Change[T], error] {
	return func(yield func(Change[T], error) bool) {
		content, f := c.subscribe()
		defer c.unsubscribe(f)
		goOn := true
		content.Scan(func(it *item[T]) bool {
			goOn = yield(Change[T]{New: it.Entry, Exists: true}, nil)
			return goOn && ctx.Err() == nil
		})
		content = nil // a copy that is kept is a copy that writes have to spare
		for goOn {
			s, err := c.next(ctx, f)
			switch {
			case s != nil && s.undecoded != nil:
				goOn = yield(s.change(), s.undecoded)
			case s != nil:
				goOn = yield(s.change(), nil)
			case err != nil:
				yield(Change[T]{}, err)
				return
			default:
				return
			}
		}
	}
}

// next waits for a step of f. There is none when the cache has ended, or ctx.
func (c *Cache[T]) next(ctx context.Context, f *feed[T]) (*step[T], error) {
	for {
		ended := c.isDone() // before looking, so that nothing can come in between
		if err := ctx.Err(); err != nil {
			return nil, c.bucket.failed("changes of", "", err)
		}
		if s := f.take(); s != nil {
			return s, nil
		}
		if ended {
			return nil, c.Err()
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
		case <-c.done:
		}
	}
}

// subscribe returns the present content, and a feed of what changes from here on.
func (c *Cache[T]) subscribe() (*btree.BTreeG[*item[T]], *feed[T]) {
	f := newFeed[T]()
	return c.content(f), f
}

func (c *Cache[T]) unsubscribe(f *feed[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.feeds, f)
}

// step is a change of a key, or several that became one.
type step[T any] struct {
	old       *item[T] // nil where it did not exist
	now       *item[T]
	exists    bool
	undecoded *DecodeError
}

func byRevision[T any](a, b step[T]) int { return cmp.Compare(a.now.Revision, b.now.Revision) }

func (s *step[T]) change() Change[T] {
	change := Change[T]{New: s.now.Entry, Exists: s.exists}
	if s.old != nil {
		change.Old, change.Existed = s.old.Entry, true
	}
	return change
}

// feed is what one reader has not taken, by key, in the order of the newest change.
type feed[T any] struct {
	mu      sync.Mutex
	pending map[string]*list.Element
	order   list.List // of *step[T]
	wake    chan struct{}
}

func newFeed[T any]() *feed[T] {
	return &feed[T]{pending: map[string]*list.Element{}, wake: make(chan struct{}, 1)}
}

func (f *feed[T]) offer(s step[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := s.now.Key
	if e, ok := f.pending[key]; ok {
		s.old = f.order.Remove(e).(*step[T]).old
		delete(f.pending, key)
	}
	if s.old == nil && !s.exists && s.undecoded == nil {
		return // it came and went unseen
	}
	f.pending[key] = f.order.PushBack(&s)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take returns the oldest step, nil when there is none.
func (f *feed[T]) take() *step[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	front := f.order.Front()
	if front == nil {
		return nil
	}
	s := f.order.Remove(front).(*step[T])
	delete(f.pending, s.now.Key)
	return s
}

func (f *feed[T]) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending) == 0
}
