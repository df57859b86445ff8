package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// viewBytes bounds what a server sends at once to a read of many keys. Its own bound is also the
// one at which it closes a connection that does not take what it is sent.
const viewBytes = 8 << 20

// GetMany reads the newest revisions of keys, markers included, in as few round trips as the
// server allows. What one round trip reads is one consistent view.
func (b *Bucket) GetMany(ctx context.Context, keys []string) ([]Message, error) {
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return nil, err
		}
	}
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	for {
		// A bucket that was made again while the rest of an answer was read is read anew.
		if all, err := b.views(ctx, b.requests(keys, 0)); !Moved(err) {
			return all, err
		}
	}
}

// views is view of each of parts.
func (b *Bucket) views(ctx context.Context, parts [][]string) ([]Message, error) {
	var all []Message
	for _, part := range parts {
		found, _, err := b.view(ctx, part, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// requests divides keys, each once, into what one request may ask for, beside `along` bytes of
// other keys.
func (b *Bucket) requests(keys []string, along int) [][]string {
	keys = slices.Clone(keys)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	most := b.requestRoom() - along
	var parts [][]string
	for start := 0; start < len(keys); {
		end, bytes := start, 0
		for end < len(keys) && end-start < mostMatches {
			bytes += b.asked(keys[end])
			if bytes > most && end > start {
				break
			}
			end++
		}
		parts = append(parts, keys[start:end])
		start = end
	}
	return parts
}

// requestRoom is how many bytes of keys one request may ask for.
func (b *Bucket) requestRoom() int {
	const rest = 4096 // of a request
	return max(int(b.nc.MaxPayload()), 2*rest) - rest
}

// asked is what keys take of a request's room.
func (b *Bucket) asked(keys ...string) (bytes int) {
	const overhead = 3 // of a subject
	for _, key := range keys {
		bytes += len(b.readPrefix) + len(key) + overhead
	}
	return bytes
}

// view reads the newest revisions of what one request may ask for, as moment does. What one moment
// lacks is read after it: the rest of more than a server sends at once, and what a mirror has not.
func (b *Bucket) view(ctx context.Context, keys []string, atLeast uint64) (found []Message, upTo uint64, err error) {
	return b.viewIn(ctx, b.era(), keys, atLeast)
}

// viewIn is view of a bucket that was not made again since atLeast was told.
func (b *Bucket) viewIn(ctx context.Context, since *era, keys []string, atLeast uint64) (found []Message, upTo uint64, err error) {
	a, err := b.moment(ctx, since, keys, atLeast, true)
	if err != nil {
		return nil, 0, err
	}
	return b.complete(ctx, since, keys, a, atLeast)
}

// moment reads the newest revisions of what one request may ask for in one request, if it can, from
// who has come at least to what this handle was acknowledged for and to atLeast. Where there is none
// of them that is ErrKeyNotFound of whoever answers, or, anchored, what the stream says.
func (b *Bucket) moment(ctx context.Context, since *era, keys []string, atLeast uint64, anchored bool) (answer, error) {
	const look = 8
	var (
		backoff Backoff
		end     uint64 // where the leader said that the stream ends, 0 while it was not asked
	)
	here := b.era()
	for round := 0; ; {
		seen := max(b.high(), atLeast)
		a, err := b.lastOf(ctx, keys, viewBytes)
		if anchored && errors.Is(err, ErrKeyNotFound) {
			a, err = b.anchored(ctx, keys)
		}
		enough := true
		// A mirror that always answers may have a part only, and never come as far.
		stuck := err == nil && !a.own && a.upTo < seen && round >= look
		switch {
		case stuck, errors.Is(err, errNoDirect), errors.Is(err, errForeign):
			a, err = b.byReader(ctx, keys)
		case errors.Is(err, errAnchorGone):
			// The reader can confirm that there are none. What it finds is there for the next attempt,
			// unless it is a mirror that always answers, and that has none of them.
			a, err = b.byReader(ctx, keys)
			enough = len(a.found) == 0 || round >= look
		}
		switch {
		case errors.Is(err, errTooManyMatches):
			if len(keys) > mostMatches {
				return answer{}, fmt.Errorf("%w: there is more than there was", errBucketMoved)
			}
		case err != nil:
			return answer{}, err
		case enough && a.upTo >= seen:
			if sure, err := b.lacksForSure(ctx, keys, &a, &end); sure || err != nil {
				return a, err
			}
		}
		// Behind: a replica that lags, mostly for less than it takes to ask again; or another
		// bucket of the name, which its leader tells.
		if round++; round%look == 0 || !b.shared() {
			if _, err := b.originInfo(ctx); err != nil && !transient(err) {
				return answer{}, err
			}
		}
		if atLeast > 0 && since.over(b) {
			return answer{}, errBucketMoved
		}
		if now := b.era(); now != here {
			here, end = now, 0
		}
		if err := backoff.Wait(ctx); err != nil {
			return answer{}, notSeen(max(seen, end), err)
		}
	}
}

// lacksForSure reports whether what an answer lacks is not there. A replica that was out of touch for so long
// that its leader sends it a snapshot first drops all that was replaced up to there, and then gets what
// took its place. Meanwhile it lacks keys that were there all the time; it has them again when it
// has come to where the leader was, which is noted in end. (Not so one to whom all of that happens
// between two rounds of one reading.)
func (b *Bucket) lacksForSure(ctx context.Context, keys []string, a *answer, end *uint64) (bool, error) {
	if !a.whole || !a.own || b.facts.Load().mirror || !b.shared() || len(a.missing(keys)) == 0 {
		return true, nil // what a mirror, or a part of an answer, does not have is asked for by complete
	}
	*end = max(*end, a.end)
	if *end == 0 {
		info, err := b.originInfo(ctx)
		if transient(err) {
			return false, nil // nobody leads for a moment
		}
		if err != nil {
			return false, err
		}
		*end = info.State.LastSeq
	}
	return a.upTo >= *end, nil
}

// complete adds to an answer what it left out: the rest of one that the server cut, and what a
// mirror did not find, which may have only part of the bucket, from the stream that has come to atLeast.
func (b *Bucket) complete(ctx context.Context, since *era, keys []string, a answer, atLeast uint64) ([]Message, uint64, error) {
	if a.whole && a.own {
		return a.found, a.upTo, nil
	}
	rest := a.missing(keys)
	if len(rest) == 0 {
		return a.found, a.upTo, nil
	}
	var (
		more []Message
		err  error
	)
	if a.whole {
		var late answer
		late, err = b.byReaderAtLeast(ctx, since, rest, atLeast)
		more = late.found
	} else {
		more, _, err = b.viewIn(ctx, since, rest, a.upTo)
	}
	return append(a.found, more...), a.upTo, err
}

// byReaderAtLeast reads keys as byReader does, from a server that has come at least to atLeast.
func (b *Bucket) byReaderAtLeast(ctx context.Context, since *era, keys []string, atLeast uint64) (answer, error) {
	var backoff Backoff
	for {
		a, err := b.byReader(ctx, keys)
		switch {
		case err != nil || a.upTo >= atLeast:
			return a, err
		case since.over(b):
			return answer{}, errBucketMoved
		}
		if err := backoff.Wait(ctx); err != nil {
			return answer{}, notSeen(atLeast, err)
		}
	}
}

// anchored asks for keys of which none was found together with the key that was written last: an
// answer that nothing was found does not tell how far its server had come, one with something
// does.
func (b *Bucket) anchored(ctx context.Context, keys []string) (answer, error) {
	none := answer{whole: true, own: true}
	if b.facts.Load().mirror && b.high() == 0 {
		// A mirror is read as it is, within or without reach of its origin.
		info, err := b.Info(ctx)
		if err == nil {
			none.upTo = info.State.LastSeq
		}
		return none, err
	}
	info, err := b.originInfo(ctx)
	if err != nil {
		return none, err
	}
	none.end = info.State.LastSeq
	if info.State.Msgs == 0 {
		none.upTo = info.State.LastSeq
		return none, nil
	}
	anchor, err := b.stored(ctx, map[string]any{"seq": info.State.LastSeq})
	if errors.Is(err, ErrKeyNotFound) {
		return none, errAnchorGone // overwritten, purged, or expired
	}
	if err != nil {
		return none, err
	}
	if !strings.HasPrefix(anchor.Subject, b.readPrefix) || hasWildcard(anchor.Key) {
		return none, errAnchorGone // it is no key
	}
	a, err := b.lastOf(ctx, append(slices.Clone(keys), anchor.Key), viewBytes)
	a.end = info.State.LastSeq
	if errors.Is(err, ErrKeyNotFound) {
		return none, errAnchorGone
	}
	if err == nil && !slices.Contains(keys, anchor.Key) {
		at := slices.IndexFunc(a.found, func(m Message) bool { return m.Key == anchor.Key })
		if at < 0 {
			at = len(a.found) // it comes behind what was cut off, or not at all
		} else {
			a.found = slices.Delete(a.found, at, at+1)
		}
		for i := range a.found[:at] {
			a.found[i].Pending = max(a.found[i].Pending, 1) - 1 // which counted it
		}
	}
	return a, err
}

// errAnchorGone says that the key that was written last is gone, or is not with who answers.
var errAnchorGone = errors.New("the bucket's last key is gone")

// byReader reads keys one after the other: of a stream without direct gets, or to confirm that they
// are not there. At the end of the reading there was nothing of what it did not find; more keys than the
// server compares with each other in a moment take several readings.
func (b *Bucket) byReader(ctx context.Context, keys []string) (answer, error) {
	newest := make(map[string]Message, len(keys))
	a := answer{upTo: math.MaxUint64, whole: true, own: true}
	for part := range slices.Chunk(keys, mostMatches) {
		upTo, err := b.read(ctx, ReaderConfig{Filters: part, Once: true}, func(m *Message) bool {
			newest[m.Key] = *m
			return true
		})
		if err != nil {
			return answer{}, err
		}
		a.upTo = min(a.upTo, upTo)
	}
	a.end = a.upTo
	a.found = slices.Collect(maps.Values(newest))
	a.late = len(newest) > 0 || len(keys) > mostMatches
	return a, nil
}
