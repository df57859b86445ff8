package wire

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// era is the time in which one stream takes the bucket's writes: a sequence tells nothing in another's.
type era struct {
	born  atomic.Int64  // when the stream was made, 0 while that is not known
	named time.Time     // since when it is known: what is asked later is told by it, or by a later one
	high  atomic.Uint64 // the highest revision that this handle has been acknowledged for, or has read
	last  *era          // the one before, until it is known what of that was acknowledged in this one; see seeing
}

func (e *era) begin(created int64) {
	e.named = time.Now()
	e.born.Store(created)
}

func (b *Bucket) era() *era { return b.present.Load() }

// over reports whether another stream is known to have taken the place of the era's.
func (e *era) over(b *Bucket) bool { return b.era() != e }

// high is the highest revision that this handle has been acknowledged for, or has read.
func (b *Bucket) high() uint64 { return b.era().high.Load() }

// sawOrigin takes in the answer to a question that was asked at a time. It is false when it has to be asked again:
// the answer came so late that the stream which it names may be the one that was there before the one that is
// known; or it is the first to name another stream, which may have acknowledged something since it was given.
func (b *Bucket) sawOrigin(asked time.Time, info *jetstream.StreamInfo) bool {
	b.seeing.Lock()
	defer b.seeing.Unlock()
	e, created := b.era(), info.Created.UnixNano()
	switch known := e.born.Load(); {
	case known == created:
		if e.last != nil && asked.After(e.named) {
			e.acknowledged(min(e.last.high.Load(), info.State.LastSeq))
			e.last = nil
		}
	case known == 0:
		e.begin(created)
	case !asked.After(e.named):
		return false // the times of creation do not tell: what is restored from a backup keeps its own
	default:
		next := &era{last: e}
		next.begin(created)
		next.acknowledged(min(e.high.Load(), info.State.LastSeq)) // the new stream may have acknowledged it
		e.last = nil
		b.present.Store(next)
		return false
	}
	b.rules.Store(factsOf(info))
	if b.origin == (place{b.api, b.stream}) {
		b.saw(asked, info)
	}
	return true
}

// acknowledged remembers a revision that the server acknowledged to this handle.
func (e *era) acknowledged(revision uint64) {
	for {
		high := e.high.Load()
		if revision <= high || e.high.CompareAndSwap(high, revision) {
			return
		}
	}
}

// acknowledged remembers the revision of a write that was sent in an era. When that is over, nothing tells
// which stream acknowledged it, but the one that is there now has come as far if it was that. Where it cannot be
// asked, because ctx has ended, the write is one that the handle does not know of.
func (b *Bucket) acknowledged(ctx context.Context, in *era, revision uint64) {
	in.acknowledged(revision)
	if !in.over(b) {
		return
	}
	if info, err := b.originInfo(ctx); err == nil {
		b.era().acknowledged(min(revision, info.State.LastSeq))
	}
}

// forget takes back what was acknowledged and is lost: the stream ends at sequence last.
func (b *Bucket) forget(last uint64) {
	e := b.era()
	for high := e.high.Load(); high > last; high = e.high.Load() {
		if e.high.CompareAndSwap(high, last) {
			return
		}
	}
}
