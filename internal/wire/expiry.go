package wire

import (
	"context"
	"time"
)

// judge decides whether markers of keys that the sink was given may have expired before the server came by
// them, within the snapshot. They have not where nothing was stored meanwhile but what came, up to this
// revision.
func (f *Follower) judge(ctx context.Context, r *Reader, all uint64) {
	f.again, f.took = time.Time{}, time.Since(r.asked)
	if f.markersExpire() && f.took > lateAfter && !f.endsAt(ctx, all) {
		f.doubt()
	}
	f.read = time.Now()
}

// doubt makes another snapshot due. What leaves a doubt each time (a large bucket that is always written
// to, a slow network) has ever fewer of them.
func (f *Follower) doubt() {
	const most = 6
	if time.Since(f.read) > 2*f.took<<most {
		f.doubts = 0
	}
	f.again = time.Now().Add(f.took << f.doubts)
	f.doubts = min(f.doubts+1, most)
}

// sooner makes another snapshot due for who waits for it, unless one is due before that.
func (f *Follower) sooner() bool {
	const rest = 4 // times as long as it takes
	due := f.read.Add(rest * f.took)
	if !f.again.IsZero() && !due.Before(f.again) {
		return false
	}
	f.again = due
	return true
}

// endsAt reports whether the stream is known to end at a revision.
func (f *Follower) endsAt(ctx context.Context, revision uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	info, err := f.b.Info(ctx) // without an answer the next snapshot tells
	return err == nil && info.Created.Equal(f.created) && info.State.LastSeq <= revision
}

// lateAfter is when markers may have expired before the server sent them: they live for a second at
// least.
const lateAfter = 750 * time.Millisecond

func (f *Follower) markersExpire() bool { return f.b.facts.Load().markerTTL > 0 }

// late reports whether a message that was stored at that time comes so late that markers behind it
// may have expired.
func (f *Follower) late(stored time.Time) bool { return f.clock(stored)-f.ahead > lateAfter }

// clock compares the client's clock with a time of the server that has passed.
func (f *Follower) clock(server time.Time) time.Duration {
	since := time.Duration(time.Now().UnixNano() - server.UnixNano())
	f.ahead = min(f.ahead, since)
	return since
}

// expiresSilently reports whether values expire without leaving markers.
func (f *Follower) expiresSilently() bool {
	facts := f.b.facts.Load()
	return facts.maxAge > 0 && facts.markerTTL == 0
}

// sweep finds what has expired in a bucket whose values do so without leaving markers. They do in
// the order of their revisions, so that the first which the stream has tells it; the sink must
// have what came in the place of those before it.
func (f *Follower) sweep(ctx context.Context) {
	if f.last > 0 && f.position >= f.last && f.first > f.expired && f.expiresSilently() {
		f.expired = f.first
		f.sink.Expired(f.first)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	info, err := f.b.Info(ctx)
	if err != nil || !info.Created.Equal(f.created) {
		return // the reader will notice, and the next sweep tries again
	}
	f.clock(info.TimeStamp)
	f.first, f.last = info.State.FirstSeq, info.State.LastSeq
}
