package wire

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Sink is kept equal to a bucket by a Follower. Its methods are called one after the other, on
// the goroutine that follows.
type Sink interface {
	// Begin announces a snapshot: what the sink has and is not in it is gone. In another bucket
	// of the same name revisions count anew.
	Begin(another bool)
	// Apply takes one revision. It does not keep m.
	Apply(m *Message)
	// Complete ends the snapshot.
	Complete()
	// Passed tells that the bucket has nothing for the sink up to revision that it has not taken.
	Passed(revision uint64)
	// Lost tells why the bucket is out of reach. Begin tells that it is found again.
	Lost(err error)
}

// Follower keeps a Sink equal to what a bucket has, through everything that a Reader survives;
// after each interruption it takes a fresh snapshot, because the markers of keys that were
// deleted may be gone. A bucket that is deleted and made again is followed to its new content.
type Follower struct {
	b        *Bucket
	filters  []string
	sink     Sink
	created  time.Time    // of the stream that was last read
	gone     bool         // it is not there any more
	replaced bool         // it is another, or has lost revisions that it had
	heard    atomic.Int64 // when the server last answered, in Unix nanoseconds
	lost     atomic.Bool
}

// NewFollower makes a follower of the keys that filters match, none: of all.
func (b *Bucket) NewFollower(filters []string, sink Sink) *Follower {
	f := &Follower{b: b, filters: filters, sink: sink}
	f.heard.Store(time.Now().UnixNano())
	return f
}

// Silent is for how long the server has not been heard, 0 while it is known to be answering.
func (f *Follower) Silent() time.Duration {
	silent := time.Since(time.Unix(0, f.heard.Load()))
	if !f.lost.Load() && silent < silence {
		return 0
	}
	return max(silent, 1)
}

// Quiet is for how long nothing was heard, without judging it.
func (f *Follower) Quiet() time.Duration { return time.Since(time.Unix(0, f.heard.Load())) }

// Timeout is how long a server may take to answer.
func (b *Bucket) Timeout() time.Duration { return b.timeout }

// Run follows until ctx ends, or until what cannot pass: a closed connection, a missing
// permission, a filter that is none.
func (f *Follower) Run(ctx context.Context) error {
	var backoff Backoff
	for {
		err := f.follow(ctx, &backoff)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errFound):
			continue
		case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, ErrPermission), errors.Is(err, ErrInvalidFilter):
			return err
		case errors.Is(err, ErrBucketNotFound) && f.created.IsZero():
			return err
		case errors.Is(err, ErrBucketReplaced):
			f.replaced = true
		case errors.Is(err, ErrBucketNotFound) && !f.gone:
			// Nothing is in a bucket that is not there.
			f.gone = true
			f.sink.Begin(true)
			f.sink.Complete()
		}
		f.change(err)
		if err := backoff.Wait(ctx); err != nil {
			return err
		}
	}
}

// errFound says that a reader has found the server again.
var errFound = errors.New("touch with the server was found again")

// follow reads a snapshot and what comes after it, up to the next interruption.
func (f *Follower) follow(ctx context.Context, backoff *Backoff) error {
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	found, complete := false, false
	r, err := f.b.OpenReader(life, ReaderConfig{
		Filters: f.filters,
		OnChange: func(err error) {
			if f.change(err); err == nil {
				found = true
				end(errFound)
			}
		},
		onHeard: func() { f.heard.Store(time.Now().UnixNano()) },
		onPassed: func(position uint64) {
			if complete {
				f.sink.Passed(position)
			}
		},
	})
	if err != nil {
		return err
	}
	defer r.Stop()
	*backoff = Backoff{}
	another := f.replaced || !f.created.IsZero() && !r.created.Equal(f.created)
	f.created, f.gone, f.replaced = r.created, false, false
	f.change(nil)
	f.sink.Begin(another)
	var m Message
	for {
		if !complete && r.Synced() {
			complete = true
			f.sink.Complete()
			f.sink.Passed(max(r.Target(), r.cursor))
		}
		m, err = r.Next(ctx)
		switch {
		case found:
			return errFound
		case errors.Is(err, ErrSynced):
			continue
		case err != nil:
			return err
		}
		f.sink.Apply(&m)
	}
}

func (f *Follower) change(err error) {
	f.lost.Store(err != nil)
	if err != nil {
		f.sink.Lost(err)
	}
}

// NothingUpTo asks the leader, which must have come to revision, whether the bucket has nothing for
// the sink above after.
func (f *Follower) NothingUpTo(ctx context.Context, after, revision uint64) (bool, error) {
	if has, err := f.b.leaderHas(ctx, revision); !has || err != nil {
		return false, err
	}
	folded, _ := FoldFilters(f.filters)
	if len(folded) == 0 {
		folded = []string{AllKeys}
	}
	for _, filter := range folded {
		_, err := f.b.stored(ctx, map[string]any{
			"seq":          after + 1,
			"next_by_subj": keySpaceOf(f.b.origin.stream) + filter,
		})
		if !errors.Is(err, ErrKeyNotFound) {
			return false, err // what is there will come
		}
	}
	return true, nil
}
