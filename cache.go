package jskv

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"github.com/seed646b090f/jskv/internal/wire"
)

// Cache is a live copy of part of a bucket in this process: reads cost no network. It is safe for
// concurrent use, and readers do not wait for writers.
//
// It follows every change in revision order. After every interruption it takes a fresh snapshot,
// so that what was deleted, purged or expired meanwhile is gone; a bucket that is deleted is
// empty, and one that is made again is followed to its new content. Stale tells for how long the
// server has not been heard.
//
// A key whose newest value does not decode is not in the copy, rather than there with an older
// value: Changes reports it, and Undecoded lists it.
type Cache[T any] struct {
	bucket   *Bucket[T]
	follower *wire.Follower
	end      context.CancelCauseFunc
	ready    chan struct{} // closed with the first complete snapshot
	done     chan struct{} // closed when the cache has ended

	revision atomic.Uint64 // of the newest change applied
	passed   atomic.Uint64 // nothing up to here is left to apply
	seed     maphash.Seed
	shards   [shards]shard[T]

	mu         sync.Mutex
	tree       *btree.BTreeG[*item[T]]
	generation uint32
	another    bool // the snapshot under way is of another bucket of the same name
	undecoded  map[string]undecodedKey
	feeds      map[*feed[T]]struct{}
	indexes    []*Index[T]
	waiters    map[*waiter]struct{}
	err        error
}

// shards is how many parts the keys are spread over for lookups, each with a lock that a writer
// holds while it sets one pointer.
const shards = 64

type shard[T any] struct {
	mu    sync.RWMutex
	items map[string]*item[T]
	_     [32]byte // a cache line of its own
}

// item is an entry, which does not change, and the snapshot that it was last seen in, which
// belongs to the goroutine that follows.
type item[T any] struct {
	Entry[T]
	generation uint32
}

// undecodedKey is a key whose value did not decode, and the snapshot that it was last seen in.
type undecodedKey struct {
	err        *DecodeError
	generation uint32
}

type waiter struct {
	revision uint64
	reached  chan struct{}
}

// Cache makes a copy of the keys that filters match, none: of all, and returns when it is
// complete. It lives until ctx ends or Close.
//
// Errors: ErrInvalidFilter, ErrBucketNotFound, ErrPermission, the end of ctx; where ctx has no
// deadline, a server that does not answer for the default timeout (5 s).
func (b *Bucket[T]) Cache(ctx context.Context, filters ...string) (*Cache[T], error) {
	const op = "cache"
	life, end := context.WithCancelCause(ctx)
	c := &Cache[T]{
		bucket:    b,
		end:       end,
		ready:     make(chan struct{}),
		done:      make(chan struct{}),
		seed:      maphash.MakeSeed(),
		tree:      btree.NewBTreeGOptions(func(a, b *item[T]) bool { return a.Key < b.Key }, btree.Options{NoLocks: true}),
		undecoded: map[string]undecodedKey{},
		feeds:     map[*feed[T]]struct{}{},
		waiters:   map[*waiter]struct{}{},
	}
	for i := range c.shards {
		c.shards[i].items = map[string]*item[T]{}
	}
	c.follower = b.core.NewFollower(append([]string(nil), filters...), (*sink[T])(c))
	go c.run(life)

	const check = 100 * time.Millisecond
	patience := time.NewTicker(check)
	defer patience.Stop()
	_, bounded := ctx.Deadline()
	for {
		select {
		case <-c.ready:
			return c, nil
		case <-c.done:
			return nil, b.failed(op, "", c.Err())
		case <-patience.C:
			if !bounded && c.follower.Quiet() > b.core.Timeout() {
				c.Close()
				return nil, b.failed(op, "", fmt.Errorf("no answer for %v: %w", b.core.Timeout(), context.DeadlineExceeded))
			}
		}
	}
}

// run follows the bucket until the cache ends.
func (c *Cache[T]) run(ctx context.Context) {
	defer close(c.done)
	err := c.follower.Run(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, errClosed) {
		err = cause
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for f := range c.feeds {
		f.signal()
	}
}

// errClosed ends a cache by Close, which is no failure.
var errClosed = errors.New("cache closed")

// Get returns the value of key, and whether there is one. It allocates nothing.
func (c *Cache[T]) Get(key string) (T, bool) {
	it := c.lookup(key)
	if it == nil {
		var none T
		return none, false
	}
	return it.Value, true
}

// Entry returns the newest revision of key, and whether there is one.
func (c *Cache[T]) Entry(key string) (Entry[T], bool) {
	it := c.lookup(key)
	if it == nil {
		return Entry[T]{}, false
	}
	return it.Entry, true
}

func (c *Cache[T]) shard(key string) *shard[T] {
	return &c.shards[maphash.String(c.seed, key)%shards]
}

func (c *Cache[T]) lookup(key string) *item[T] {
	s := c.shard(key)
	s.mu.RLock()
	it := s.items[key]
	s.mu.RUnlock()
	return it
}

// All yields the copy as it was when the sequence was begun, in key order. Taking it is cheap,
// and does not hold up the cache.
func (c *Cache[T]) All() iter.Seq2[string, Entry[T]] {
	return func(yield func(string, Entry[T]) bool) {
		c.mu.Lock()
		tree := c.tree.Copy()
		c.mu.Unlock()
		tree.Scan(func(it *item[T]) bool { return yield(it.Key, it.Entry) })
	}
}

// Len returns the number of keys.
func (c *Cache[T]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tree.Len()
}

// Revision returns the revision of the newest change applied, 0 when there was none.
func (c *Cache[T]) Revision() uint64 { return c.revision.Load() }

// Wait waits until that revision of the bucket is applied: after it returns nil the copy has what
// a write that returned revision stored, or something newer. It also returns when the revision
// does not match the cache's filters and the cache has come past it. It ends with an error when
// ctx ends (without a deadline: after 5 s) or the cache does.
func (c *Cache[T]) Wait(ctx context.Context, revision uint64) error {
	const op = "wait for"
	if c.reached() >= revision {
		return nil
	}
	ctx, cancel := c.bucket.core.Bound(ctx)
	defer cancel()
	w := &waiter{revision: revision, reached: make(chan struct{})}
	c.mu.Lock()
	c.waiters[w] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiters, w)
		c.mu.Unlock()
	}()
	if c.reached() >= revision {
		return nil
	}
	// What matches comes by itself. What does not, never: ask the bucket whether there is
	// anything to wait for.
	const soon = 5 * time.Millisecond
	ask := time.NewTimer(soon)
	defer ask.Stop()
	for {
		select {
		case <-w.reached:
			return nil
		case <-ask.C:
			nothing, err := c.follower.NothingUpTo(ctx, c.reached(), revision)
			if nothing {
				return nil
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, wire.ErrBucketNotFound) {
				return c.bucket.failed(op, "", err)
			}
			ask.Reset(20 * soon)
		case <-c.done:
			return c.bucket.failed(op, "", c.ended())
		case <-ctx.Done():
			return c.bucket.failed(op, "", fmt.Errorf("revision %d has not come: %w", revision, ctx.Err()))
		}
	}
}

func (c *Cache[T]) reached() uint64 { return max(c.revision.Load(), c.passed.Load()) }

// Stale tells for how long the server has not been heard, 0 while it is known to be answering.
func (c *Cache[T]) Stale() time.Duration {
	if c.Err() != nil || c.isDone() {
		return max(c.follower.Quiet(), 1)
	}
	return c.follower.Silent()
}

func (c *Cache[T]) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Err tells why the cache stopped: the error of its context, a closed connection, a missing
// permission. It is nil while the cache lives, and after Close.
func (c *Cache[T]) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.err, errClosed) {
		return nil
	}
	return c.bucket.failed("cache", "", c.err)
}

func (c *Cache[T]) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the cache and waits until nothing of it runs. What it has copied stays readable. It
// may be called twice.
func (c *Cache[T]) Close() {
	c.end(errClosed)
	<-c.done
}

// Undecoded lists the keys that are missing because their newest value does not decode.
func (c *Cache[T]) Undecoded() []*DecodeError {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*DecodeError, 0, len(c.undecoded))
	for _, u := range c.undecoded {
		all = append(all, u.err)
	}
	return all
}
