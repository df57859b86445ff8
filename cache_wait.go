package jskv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Wait waits until a revision of the bucket is applied. After it returns nil the copy has what the
// write that returned revision stored, or something newer. It also returns nil when the cache's
// filters do not match that write's key and the cache has come past the revision. Where keys are
// overwritten faster than the cache is sent their revisions, it may take a fresh snapshot to tell.
// Of several writes in one batch each has its own revision to wait for. The revision must be one of
// the bucket that the cache follows now: one that is created again counts anew.
//
// It ends with an error when ctx ends (where ctx has no deadline: after the default timeout, 5 s)
// or when the cache does (ErrWatcherStopped after Close).
func (c *Cache[T]) Wait(ctx context.Context, revision uint64) error {
	ctx, cancel := c.bucket.core.Bound(ctx)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	w := &waiter{revision: revision, begun: time.Now(), end: end}
	c.enlist(w)
	defer c.forget(w)
	return c.bucket.failed("wait for", "", c.await(ctx, w))
}

// waiter waits for a revision.
type waiter struct {
	revision uint64
	whole    span // instead, that everything from here to there comes, see ask
	begun    time.Time
	end      context.CancelCauseFunc
}

// errReached ends a waiter whose revision is applied, cacheEnded one whose cache has ended.
var errReached = errors.New("the revision is applied")

type cacheEnded struct{ error }

func (c *Cache[T]) enlist(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.progress.has(w.revision):
		w.end(errReached)
	case c.err != nil:
		w.end(cacheEnded{c.err})
	default:
		c.waiters[w] = struct{}{}
	}
}

func (c *Cache[T]) forget(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiters, w)
}

// await waits for w. A revision that matches the filters and is not replaced comes by itself. That
// nothing more is to come the server tells by itself within a second, and at once when it is asked.
func (c *Cache[T]) await(ctx context.Context, w *waiter) error {
	const first, later = 5 * time.Millisecond, 100 * time.Millisecond
	timer := time.NewTimer(first)
	defer timer.Stop()
	var asked error // why the server could not be asked
	for {
		select {
		case <-timer.C:
			nothing, err := c.ask(ctx, w)
			if nothing {
				return nil
			}
			if err != nil && ctx.Err() == nil {
				asked = err
			}
			timer.Reset(later)
		case <-ctx.Done():
			cause := context.Cause(ctx)
			if cause == errReached {
				return nil
			}
			if ended, ok := cause.(cacheEnded); ok {
				return ended.error
			}
			err := fmt.Errorf("revision %d has not come: %w", w.revision, ctx.Err())
			if asked != nil {
				err = fmt.Errorf("%w; %w", err, asked)
			}
			return err
		}
	}
}

// ask asks the server whether there is nothing to wait for. It cannot say so when the revision is
// gone and something else was stored after it. Then w waits for everything that the bucket has from
// where the cache is up to its last revision: when all of that has come, with nothing of it
// replaced meanwhile, the copy has what w waits for.
func (c *Cache[T]) ask(ctx context.Context, w *waiter) (nothing bool, err error) {
	c.mu.Lock()
	from := c.progress.reached
	c.mu.Unlock()
	nothing, last, err := c.follower.NothingUpTo(ctx, from, w.revision)
	if nothing || last == 0 {
		return nothing, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if from > c.progress.reached { // of another bucket
		return false, nil
	}
	w.whole = span{from + 1, last}
	const enough = 500 * time.Millisecond
	if time.Since(w.begun) > enough { // something is always replaced on the way
		c.follower.Refresh()
	}
	return c.progress.hasAll(w.whole), nil
}

// progress is how far a cache has come.
//
// Coming to a revision is not enough to have it: what was replaced before the server came by is not
// sent, and what replaced it may be still to come.
type progress struct {
	reached uint64
	skipped []span // in order; what did not come, since the server last had nothing more to send
}

// span is the revisions from one to another, both included.
type span struct{ from, to uint64 }

// mostSkipped bounds what is known of skipped revisions. A cache with filters skips many.
const mostSkipped = 256

// came notes a revision.
func (p *progress) came(revision uint64) {
	if revision <= p.reached {
		return
	}
	if revision > p.reached+1 {
		p.skipped = append(p.skipped, span{p.reached + 1, revision - 1})
	}
	if len(p.skipped) > mostSkipped { // of the older half not every one needs to be known
		const half = mostSkipped / 2
		p.skipped = slices.Replace(p.skipped, 0, half, span{p.skipped[0].from, p.skipped[half-1].to})
	}
	p.reached = revision
}

// settle notes that the copy has what the bucket had at revision.
func (p *progress) settle(revision uint64) {
	p.reached = max(p.reached, revision)
	p.skipped = slices.DeleteFunc(p.skipped, func(s span) bool { return s.to <= revision })
}

func (p *progress) has(revision uint64) bool { return p.hasAll(span{revision, revision}) }

func (p *progress) hasAll(all span) bool {
	return all.to <= p.reached && !slices.ContainsFunc(p.skipped, func(s span) bool { return s.from <= all.to && all.from <= s.to })
}

// came notes a revision that was applied, and wakes who waits for it.
func (c *Cache[T]) came(revision uint64) {
	c.progress.came(revision)
	c.wake(func(w *waiter) bool {
		return w.revision == revision || w.whole.to > 0 && w.whole.to <= revision && c.progress.hasAll(w.whole)
	})
}

// settle notes that the copy has what the bucket had at revision, and wakes who waits for that.
func (c *Cache[T]) settle(revision uint64) {
	c.progress.settle(revision)
	c.wake(func(w *waiter) bool { return w.revision <= revision })
}

func (c *Cache[T]) wake(those func(*waiter) bool) {
	for w := range c.waiters {
		if those(w) {
			w.end(errReached)
			delete(c.waiters, w)
		}
	}
}
