package wire

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Sink is kept equal to a bucket by a Follower. Its methods are called one after the other, on
// the goroutine that follows.
type Sink interface {
	// Begin announces a snapshot of about n keys: what the sink has and is not in it is gone. In
	// another bucket of the same name revisions count anew.
	Begin(another bool, n int)
	// Apply takes one revision. It does not keep m.
	Apply(m *Message)
	// Complete ends the snapshot.
	Complete()
	// Passed tells that the bucket has nothing for the sink up to revision that it has not taken.
	Passed(revision uint64)
	// Expired tells that the bucket has nothing any more below revision.
	Expired(revision uint64)
}

// Follower keeps a Sink equal to what a bucket has, through everything that a Reader survives;
// after each interruption it takes a fresh snapshot, because the markers of keys that were
// deleted may be gone. A bucket that is deleted and made again is followed to its new content.
type Follower struct {
	b        *Bucket
	filters  []string
	sink     Sink
	created  time.Time // of the stream that was last read
	gone     bool      // it is not there any more
	replaced bool      // it is another, or has lost revisions that it had
	position uint64    // the sink has what the stream had up to here

	expired     uint64        // the sink has nothing below it
	first, last uint64        // what the stream had when it was last looked at, see sweep
	ahead       time.Duration // of the server's clock, at most, is the client's
	read        time.Time     // when the latest snapshot was complete
	took        time.Duration // so long it took
	again       time.Time     // when another is due, see doubt
	doubts      int           // how many were so, one soon after the other

	wanted atomic.Bool           // is another, see Refresh
	taken  atomic.Uint64         // messages of snapshots
	drains chan chan struct{}    // see ReaderConfig
	heard  atomic.Int64          // when the server last answered, in Unix nanoseconds
	lost   atomic.Pointer[error] // why the bucket is out of reach, nil while it is not
	intact atomic.Uint64         // 1 + epoch of the connection since which the sink is complete, 0 while it is not
}

// NewFollower makes a follower of the keys that one of the filters matches, or of all keys when
// there is none.
func (b *Bucket) NewFollower(filters []string, sink Sink) *Follower {
	f := &Follower{b: b, filters: filters, sink: sink, drains: make(chan chan struct{})}
	f.hear()
	return f
}

func (f *Follower) hear() { f.heard.Store(time.Now().UnixNano()) }

// Quiet is for how long nothing was heard, without judging it.
func (f *Follower) Quiet() time.Duration { return time.Since(time.Unix(0, f.heard.Load())) }

// Silent is for how long the server has not been heard, 0 while it is known to be answering.
func (f *Follower) Silent() time.Duration {
	quiet := f.Quiet()
	if f.lost.Load() == nil && quiet < silence {
		return 0
	}
	return max(quiet, 1)
}

// Taken counts the messages of snapshots: while it grows nobody waits for the server.
func (f *Follower) Taken() uint64 { return f.taken.Load() }

// Refresh has the bucket read again soon, for who waits for a moment at which the sink has all.
func (f *Follower) Refresh() { f.wanted.Store(true) }

// Lost is why the bucket is out of reach, nil while it is not.
func (f *Follower) Lost() error {
	if why := f.lost.Load(); why != nil {
		return *why
	}
	return nil
}

func (f *Follower) change(err error) {
	if err == nil {
		f.lost.Store(nil)
		return
	}
	f.intact.Store(0)
	f.lost.Store(&err)
}

// Timeout is how long a server may take to answer.
func (b *Bucket) Timeout() time.Duration { return b.timeout }

// Run follows until ctx ends, or until what cannot pass: a connection that is closed or drained, a missing
// permission, and before the bucket was ever reached everything that waiting does not mend.
func (f *Follower) Run(ctx context.Context) error {
	var backoff Backoff
	for {
		err := f.follow(ctx, &backoff)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errAgain):
			continue
		case over(err), forbidden(err):
			return err
		case errors.Is(err, ErrBucketReplaced):
			f.replaced = true
		case f.created.IsZero() && !transient(err):
			return err
		case errors.Is(err, ErrBucketNotFound):
			if err := f.empty(ctx); err != nil {
				return err
			}
			continue
		}
		f.change(err)
		if err := backoff.Wait(ctx); err != nil {
			return err
		}
	}
}

// empty waits a while for a bucket that is not there, as the server says: nothing is in it.
func (f *Follower) empty(ctx context.Context) error {
	f.hear()
	f.change(nil)
	if !f.gone {
		f.gone = true
		f.sink.Begin(true, 0)
		f.sink.Complete()
	}
	return pause(ctx, lossCheck)
}

// errAgain says that a reader may have missed something.
var errAgain = errors.New("the bucket has to be read again")

// follow reads a snapshot and what comes after it, up to the next interruption.
func (f *Follower) follow(ctx context.Context, backoff *Backoff) error {
	f.intact.Store(0)
	f.wanted.Store(false)
	f.position, f.first, f.last, f.expired = 0, 0, 0, 0
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	r, err := f.b.OpenReader(life, ReaderConfig{
		Filters:  f.filters,
		exact:    true,
		OnChange: f.change,
		onHeard:  f.hear,
		onAgain:  func() { end(errAgain) },
		onPassed: f.passed,
		drains:   f.drains,
	})
	if context.Cause(life) == errAgain {
		err = errAgain
	}
	if err != nil {
		return err
	}
	defer r.Stop()
	*backoff = Backoff{}
	another := f.replaced || !f.created.IsZero() && !r.created.Equal(f.created)
	f.created, f.gone, f.replaced, f.ahead = r.created, false, false, r.ahead
	f.change(nil)
	f.hear()
	f.sink.Begin(another, r.expected)
	since, err := f.snapshot(ctx, r)
	if err == nil {
		f.sink.Complete()
		f.intact.Store(1 + r.epoch)
		f.passed(max(r.Target(), r.cursor))
		f.judge(ctx, r, r.Target()+since)
		err = f.updates(ctx, r)
	}
	if context.Cause(life) == errAgain {
		return errAgain
	}
	return err
}

// snapshot hands the sink what the bucket has, and counts what of that came after the reader was opened.
func (f *Follower) snapshot(ctx context.Context, r *Reader) (since uint64, err error) {
	var m Message
	for !r.Synced() {
		if m, err = r.Next(ctx); errors.Is(err, ErrSynced) {
			break
		}
		if err != nil {
			return since, err
		}
		if m.Sequence > r.Target() {
			since++
		}
		f.sink.Apply(&m)
		f.taken.Add(1)
	}
	return since, nil
}

// updates hands the sink what changes.
func (f *Follower) updates(ctx context.Context, r *Reader) error {
	for {
		turn, cancel := f.turn(ctx)
		err := f.until(turn, r)
		ended := turn.Err() != nil
		cancel()
		switch {
		case err != nil && (!ended || ctx.Err() != nil || r.life.Err() != nil):
			return err
		case !f.again.IsZero() && !time.Now().Before(f.again):
			return errAgain
		case ended:
			f.sweep(ctx)
		}
	}
}

// until hands the sink what comes within a turn, or up to a doubt.
func (f *Follower) until(turn context.Context, r *Reader) error {
	markersExpire := f.markersExpire()
	var m Message
	for {
		var err error
		if m, err = r.Next(turn); err != nil {
			return err
		}
		f.position = m.Sequence
		f.sink.Apply(&m)
		late := markersExpire && f.late(m.Time)
		switch {
		case f.wanted.Load() && f.sooner():
			return nil
		case late && f.again.IsZero():
			f.doubt()
			return nil
		}
	}
}

// passed notes how far the reader has looked. Within the snapshot that is no news.
func (f *Follower) passed(position uint64) {
	if f.intact.Load() == 0 {
		return
	}
	f.position = max(f.position, position)
	f.sink.Passed(position)
}

// turn is the time up to the next sweep.
func (f *Follower) turn(ctx context.Context) (context.Context, context.CancelFunc) {
	const period, otherwise = time.Second, 5 * time.Second
	turn := otherwise // it may be given a TTL
	if f.expiresSilently() {
		turn = period
	}
	if !f.again.IsZero() {
		turn = min(turn, time.Until(f.again))
	}
	return context.WithTimeout(ctx, turn)
}

// NothingUpTo asks the leader, which must have come to revision, whether the bucket has nothing for
// the sink above after that could be revision or have taken its place; and that the sink has taken
// what the server sent before it answered. It says no, too, while the sink may have missed something.
//
// When the revision is gone and something came after it, nobody knows whether that took its place.
// Then last is the bucket's last revision, else 0.
func (f *Follower) NothingUpTo(ctx context.Context, after, revision uint64) (nothing bool, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	intact := f.intact.Load()
	if intact != 1+f.b.epoch() {
		return false, 0, nil
	}
	if has, err := f.b.leaderHas(ctx, revision); !has || err != nil {
		return false, 0, err
	}
	next, err := f.nextAbove(ctx, after)
	switch {
	case err != nil || next > 0 && next <= revision:
		return false, 0, err // what is there will come
	case next > 0:
		if last, err := f.goneAt(ctx, revision); last > 0 || err != nil {
			return false, last, err
		}
	}
	return f.caughtUp(ctx) && f.intact.Load() == intact && f.b.epoch()+1 == intact, 0, nil
}

// caughtUp waits until the sink has taken what has come, which it does at once unless the reader
// is interrupted.
func (f *Follower) caughtUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, lossCheck)
	defer cancel()
	drained := make(chan struct{})
	select {
	case f.drains <- drained:
	case <-ctx.Done():
		return false
	}
	select {
	case <-drained:
		return true
	case <-ctx.Done():
		return false
	}
}

// nextAbove is the first revision above after that is for the sink, or may be, 0 when there is none.
func (f *Follower) nextAbove(ctx context.Context, after uint64) (first uint64, err error) {
	folded, _ := FoldFilters(f.filters)
	if len(folded) == 0 {
		folded = []string{AllKeys}
	}
	for _, pattern := range folded {
		next, err := f.nextOf(ctx, pattern, after)
		if err != nil {
			return 0, err
		}
		if first == 0 || next > 0 && next < first {
			first = next
		}
	}
	return first, nil
}

// nextOf is nextAbove for one of the patterns, which may match more than the filters do.
func (f *Follower) nextOf(ctx context.Context, pattern string, after uint64) (uint64, error) {
	const mostOthers = 16
	for range mostOthers {
		m, err := f.b.stored(ctx, map[string]any{"seq": after + 1, "next_by_subj": keySpaceOf(f.b.origin.stream) + pattern})
		switch {
		case errors.Is(err, ErrKeyNotFound):
			return 0, nil
		case err != nil:
			return 0, err
		case len(f.filters) == 0 || matchAny(f.filters, m.Key):
			return m.Sequence, nil
		}
		after = m.Sequence
	}
	return after, nil
}

// goneAt is the bucket's last revision when it does not have this one any more, else 0.
func (f *Follower) goneAt(ctx context.Context, revision uint64) (last uint64, err error) {
	_, err = f.b.stored(ctx, map[string]any{"seq": revision})
	if !errors.Is(err, ErrKeyNotFound) {
		return 0, err
	}
	info, err := f.b.originInfo(ctx)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}
