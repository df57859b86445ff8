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

// Cache is a live copy of part of a bucket in this process: reads cost no network. Bucket.Cache
// makes one; the zero value is not usable. It is safe for concurrent use, and readers do not wait
// for writers. The values are shared by all who read them: do not write to what a value points to.
//
// It follows every change in revision order. After every interruption it takes a fresh snapshot, so
// that what was deleted, purged or expired meanwhile is gone. When the bucket is deleted the copy
// becomes empty; when it is created again the copy follows its new content. Stale tells for how
// long the server has not been heard.
//
// A key whose newest value does not decode is not in the copy, rather than there with an older
// value: Changes reports it, and Undecoded lists it. The codec decodes on the cache's own
// goroutine: one that is slow makes the cache late, and one that panics ends the program. Delta of
// an entry is what it was when the server sent it.
//
// Where the bucket's TTL leaves no markers (LimitMarkerTTL is not set), expired keys leave the copy
// up to three seconds late; that a bucket was given a TTL is noticed within five seconds. A cache
// that is so far behind that markers may have expired, or whose snapshot took longer than three
// quarters of a second while others wrote, takes a fresh snapshot too: after as long as the last
// one took, and where that happens again and again after up to 64 times as long. Two removals leave
// no trace that the server would send: a message that is deleted from the stream, and a marker that
// is purged before the server has sent it. Such a key leaves the copy with the next snapshot, or has
// the older value then that came back in the bucket.
//
// It holds some 200 bytes for each key beside the bytes of key and value (measured with 1,000,000
// keys of 16 bytes and values of 64), 20 fewer as long as nobody has asked for their order; the
// headers of a message come on top.
type Cache[T any] struct {
	bucket   *Bucket[T]
	follower *wire.Follower
	end      context.CancelCauseFunc
	ready    chan struct{} // closed with the first complete snapshot
	done     chan struct{} // closed when the cache has ended

	revision atomic.Uint64 // of the newest change applied
	seed     maphash.Seed
	shards   [shards]shard[T]

	mu         sync.Mutex
	live       bool                    // the first snapshot is complete, and there are readers
	planting   sync.Once               // of the tree
	tree       *btree.BTreeG[*item[T]] // the keys in order, nil until who needs that has planted it
	generation uint32
	first      uint32             // snapshot of the bucket: what was last seen before it is of another
	snapshot   bool               // one is under way
	older      map[string]step[T] // what it has of keys that were known at later revisions
	undecoded  map[string]undecodedKey
	feeds      map[*feed[T]]struct{}
	progress   progress
	waiters    map[*waiter]struct{}
	err        error
}

// shards is how many parts the keys are spread over for lookups, each with a lock that a writer
// holds while it sets one pointer.
const shards = 64

type shard[T any] struct {
	mu      sync.RWMutex
	items   map[string]*item[T]
	loading []*item[T] // what of the first snapshot is not in items yet
	_       [8]byte    // a cache line of its own
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

// Cache makes a copy of the keys that one of the filters matches, or of all keys when there is
// none, and returns when the copy is complete. It lives until ctx ends or Close.
//
// Errors: ErrInvalidFilter, ErrBucketNotFound, ErrPermission, and the context's when ctx ends;
// where ctx has no deadline, one when the server does not answer for the default timeout (5 s).
func (b *Bucket[T]) Cache(ctx context.Context, filters ...string) (*Cache[T], error) {
	life, end := context.WithCancelCause(ctx)
	c := &Cache[T]{
		bucket:    b,
		end:       end,
		ready:     make(chan struct{}),
		done:      make(chan struct{}),
		seed:      maphash.MakeSeed(),
		older:     map[string]step[T]{},
		undecoded: map[string]undecodedKey{},
		feeds:     map[*feed[T]]struct{}{},
		waiters:   map[*waiter]struct{}{},
	}
	c.follower = b.core.NewFollower(append([]string(nil), filters...), (*sink[T])(c))
	go c.run(life)
	if err := c.untilReady(ctx); err != nil {
		c.end(nil) // first: Close would wait longer for the server
		c.Close()
		return nil, b.failed("cache", "", err)
	}
	return c, nil
}

// untilReady waits for the first complete snapshot.
func (c *Cache[T]) untilReady(ctx context.Context) error {
	const check = 100 * time.Millisecond
	patience := time.NewTicker(check)
	defer patience.Stop()
	_, bounded := ctx.Deadline()
	taken, progress := uint64(0), time.Now()
	for {
		select {
		case <-c.ready:
			return nil
		case <-c.done:
			if lost := c.follower.Lost(); lost != nil && ctx.Err() != nil {
				return fmt.Errorf("%w: %w", ctx.Err(), lost)
			}
			return c.err
		case <-patience.C:
			if now := c.follower.Taken(); now != taken {
				taken, progress = now, time.Now()
			}
			limit := c.bucket.core.Timeout()
			if bounded || min(c.follower.Quiet(), time.Since(progress)) <= limit {
				continue
			}
			if lost := c.follower.Lost(); lost != nil {
				return fmt.Errorf("no answer for %v: %w: %w", limit, context.DeadlineExceeded, lost)
			}
			return fmt.Errorf("no answer for %v: %w", limit, context.DeadlineExceeded)
		}
	}
}

// run follows the bucket until the cache ends.
func (c *Cache[T]) run(ctx context.Context) {
	defer close(c.done)
	err := c.follower.Run(ctx)
	if context.Cause(ctx) == ErrWatcherStopped { // itself: the caller's context may end with another's
		err = errClosed
	}
	c.end(nil) // of ctx nobody needs to be told any more
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for w := range c.waiters {
		w.end(cacheEnded{err})
	}
}

// errClosed ends a cache by Close, which is no failure.
var errClosed = fmt.Errorf("the cache was closed: %w", ErrWatcherStopped)

// Get returns the value of key, and whether there is one. It allocates nothing.
func (c *Cache[T]) Get(key string) (T, bool) {
	it := c.lookup(key)
	if it == nil {
		var none T
		return none, false
	}
	return it.Value, true
}

// Entry returns the newest revision of key, and whether there is one. It allocates nothing.
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

// All yields the copy as it was when the sequence was begun, in key order. Beginning one is cheap
// and does not hold up the cache. Only the first call of All, Changes or NewIndex has to put the
// keys in order, and others that begin meanwhile wait for it: 30 ms with 100,000 keys, half a
// second with 1,000,000.
func (c *Cache[T]) All() iter.Seq2[string, Entry[T]] {
	return func(yield func(string, Entry[T]) bool) {
		c.content(nil).Scan(func(it *item[T]) bool { return yield(it.Key, it.Entry) })
	}
}

// Len returns the number of keys in the copy.
func (c *Cache[T]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count()
}

func (c *Cache[T]) count() (n int) {
	for i := range c.shards {
		n += len(c.shards[i].items)
	}
	return n
}

// Revision returns the revision of the newest change applied, 0 when there was none. In a bucket
// that was deleted and created again revisions begin anew.
func (c *Cache[T]) Revision() uint64 { return c.revision.Load() }

// Stale returns for how long the server has not been heard, 0 while it is known to be answering. A
// silence is noticed after 1.5 s, a lost connection after a quarter of a second.
func (c *Cache[T]) Stale() time.Duration {
	if c.isDone() {
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

// Err returns why the cache stopped: the error of its context, a connection that is closed or being
// drained, a missing permission. It is nil while the cache lives, and after Close.
func (c *Cache[T]) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.err, errClosed) {
		return nil
	}
	return c.bucket.failed("cache", "", c.err)
}

// Close ends the cache and waits until nothing of it runs, for two seconds at most for the server to
// confirm that there is nothing left of it there. What it has copied stays readable. It may be called
// twice, and from inside a loop over the cache.
func (c *Cache[T]) Close() {
	c.end(ErrWatcherStopped)
	<-c.done
}

// Undecoded returns the keys that are missing from the copy because their newest value does not
// decode, in no particular order.
func (c *Cache[T]) Undecoded() []*DecodeError {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*DecodeError, 0, len(c.undecoded))
	for _, u := range c.undecoded {
		all = append(all, u.err)
	}
	return all
}
