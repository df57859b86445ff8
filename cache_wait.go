package jskv

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// waiter waits for a revision to be reached.
type waiter struct {
	revision uint64
	reached  chan struct{}
}

// Wait waits until that revision of the bucket is applied: after it returns nil the copy has what
// a write that returned revision stored, or something newer. It also returns when the revision
// does not match the cache's filters and the cache has come past it. The revision is one of the
// bucket that the cache follows just now: a bucket that is made again counts anew.
//
// It ends with an error when ctx ends (without a deadline: after 5 s) or the cache does
// (ErrWatcherStopped after Close).
func (c *Cache[T]) Wait(ctx context.Context, revision uint64) error {
	if c.reached.Load() >= revision {
		return nil
	}
	ctx, cancel := c.bucket.core.Bound(ctx)
	defer cancel()
	w := c.wait(revision)
	defer c.forget(w)
	return c.bucket.failed("wait for", "", c.await(ctx, w))
}

func (c *Cache[T]) wait(revision uint64) *waiter {
	w := &waiter{revision: revision, reached: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reached.Load() >= revision {
		close(w.reached)
	} else {
		c.waiters[w] = struct{}{}
	}
	return w
}

func (c *Cache[T]) forget(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiters, w)
}

// await waits for w. What matches comes by itself. That there is nothing which does, the server
// tells within a second too; asked, it tells at once.
func (c *Cache[T]) await(ctx context.Context, w *waiter) error {
	const first, later = 5 * time.Millisecond, 100 * time.Millisecond
	ask := time.NewTimer(first)
	defer ask.Stop()
	var asked error // why the server could not be asked
	for {
		select {
		case <-w.reached:
			return nil
		case <-ask.C:
			nothing, err := c.follower.NothingUpTo(ctx, c.reached.Load(), w.revision)
			if nothing {
				return nil
			}
			if err != nil && ctx.Err() == nil {
				asked = err
			}
			ask.Reset(later)
		case <-c.done:
			return c.ended()
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("revision %d has not come: %w", w.revision, ctx.Err()), asked)
		}
	}
}

// ended is why the cache has ended, also when it was by Close.
func (c *Cache[T]) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// reach notes that everything up to revision is applied, and wakes who waits for that.
func (c *Cache[T]) reach(revision uint64) {
	if revision <= c.reached.Load() {
		return
	}
	c.reached.Store(revision)
	for w := range c.waiters {
		if w.revision <= revision {
			close(w.reached)
			delete(c.waiters, w)
		}
	}
}
