package wire

import (
	"context"
	"errors"
	"maps"
	"slices"
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
	var all []Message
	for _, part := range b.requests(keys) {
		found, _, err := b.view(ctx, part, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// requests divides keys, each once, into what one request may ask for.
func (b *Bucket) requests(keys []string) [][]string {
	const (
		room     = 4096 // for the rest of a request
		overhead = 3    // of a subject in it
	)
	keys = slices.Clone(keys)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	most := max(int(b.nc.MaxPayload()), 2*room) - room
	var parts [][]string
	for start := 0; start < len(keys); {
		end, bytes := start, 0
		for end < len(keys) && end-start < mostMatches {
			bytes += len(b.readPrefix) + len(keys[end]) + overhead
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

// view reads the newest revisions of what one request may ask for, at one moment, at which the
// server had come at least to what this handle was acknowledged for and to atLeast. It returns
// the sequence that it had come to. More than a server sends at once takes several requests,
// which then are not one moment, but none is before the first.
func (b *Bucket) view(ctx context.Context, keys []string, atLeast uint64) (found []Message, upTo uint64, err error) {
	subjects := b.subjects(keys)
	var backoff Backoff
	for round := 0; ; {
		born := b.born.Load()
		seen := max(b.high.Load(), atLeast)
		a, err := b.lastOf(ctx, subjects, viewBytes)
		if errors.Is(err, ErrKeyNotFound) {
			a, err = b.anchored(ctx, keys)
		}
		switch {
		case errors.Is(err, errNoDirect):
			return b.viewByReader(ctx, keys)
		case errors.Is(err, errAnchorGone):
			// The reader, which reads one after the other, can confirm that there are none. What it
			// finds is there for the next attempt.
			found, upTo, err := b.viewByReader(ctx, keys)
			if err != nil {
				return nil, 0, err
			}
			if len(found) == 0 && upTo >= seen {
				return nil, upTo, nil
			}
		case err != nil && !errors.Is(err, errTooManyMatches):
			return nil, 0, err
		case err == nil && a.upTo >= seen:
			return b.complete(ctx, keys, a)
		}
		// Behind: a replica that lags, mostly for less than it takes to ask again; or another
		// bucket of the name, which its leader tells.
		const look = 8
		if round++; round%look == 0 || !b.shared() {
			if _, err := b.originInfo(ctx); err != nil && !transient(err) {
				return nil, 0, err
			}
		}
		if atLeast > 0 && b.born.Load() != born {
			return nil, 0, errBucketMoved
		}
		if err := backoff.Wait(ctx); err != nil {
			return nil, 0, notSeen(seen, err)
		}
	}
}

func (b *Bucket) subjects(keys []string) []string {
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = b.readPrefix + key
	}
	return subjects
}

// complete adds to an answer what it left out: the rest of one that the server cut, and what a
// mirror did not find, which may have only part of the bucket.
func (b *Bucket) complete(ctx context.Context, keys []string, a answer) ([]Message, uint64, error) {
	if a.whole && a.own {
		return a.found, a.upTo, nil
	}
	missing := make(map[string]struct{}, len(keys))
	for _, key := range keys {
		missing[key] = struct{}{}
	}
	for i := range a.found {
		delete(missing, a.found[i].Key)
	}
	rest := slices.Sorted(maps.Keys(missing))
	if len(rest) == 0 {
		return a.found, a.upTo, nil
	}
	var (
		more []Message
		err  error
	)
	if a.whole {
		more, _, err = b.viewByReader(ctx, rest)
	} else {
		more, _, err = b.view(ctx, rest, a.upTo)
	}
	return append(a.found, more...), a.upTo, err
}

// anchored asks for keys of which none was found together with the key that was written last: an
// answer that nothing was found does not tell how far its server had come, one with something
// does.
func (b *Bucket) anchored(ctx context.Context, keys []string) (answer, error) {
	none := answer{whole: true, own: true}
	if b.facts.Load().mirror && b.high.Load() == 0 {
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
	a, err := b.lastOf(ctx, append(b.subjects(keys), anchor.Subject), viewBytes)
	if errors.Is(err, ErrKeyNotFound) {
		return none, errAnchorGone
	}
	if err == nil && !slices.Contains(keys, anchor.Key) {
		a.found = slices.DeleteFunc(a.found, func(m Message) bool { return m.Key == anchor.Key })
	}
	return a, err
}

// errAnchorGone says that the key that was written last is gone, or is not with who answers.
var errAnchorGone = errors.New("the bucket's last key is gone")

// viewByReader reads keys one after the other: of a stream without direct gets, or to confirm
// that they are not there.
func (b *Bucket) viewByReader(ctx context.Context, keys []string) ([]Message, uint64, error) {
	newest := make(map[string]Message, len(keys))
	upTo, err := b.read(ctx, ReaderConfig{Filters: keys, Once: true}, func(m *Message) bool {
		newest[m.Key] = *m
		return true
	})
	found := make([]Message, 0, len(newest))
	for _, m := range newest {
		found = append(found, m)
	}
	return found, upTo, err
}
