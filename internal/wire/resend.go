package wire

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// resend sends again, in order, what the server had no room for or nobody took, and what was lost and
// is certain not to be stored.
func (p *Pipeline) resend() error {
	if !p.since.IsZero() {
		if err := p.nobody(&p.since); err != nil {
			return err
		}
	}
	byKey := map[string][]sent{}
	for _, id := range slices.Sorted(maps.Keys(p.again)) {
		s := p.again[id]
		byKey[s.write.Key] = append(byKey[s.write.Key], s)
	}
	if !p.sift(byKey) {
		return p.ctx.Err() // another step asks again
	}
	for _, id := range slices.Sorted(maps.Keys(p.again)) {
		s := p.again[id]
		delete(p.again, id) // what an error leaves is reported when the pipeline is closed
		if err := p.send(s, false); err != nil {
			return err
		}
	}
	if len(p.pending) == 0 {
		p.since, p.tried = time.Time{}, false
		clear(p.acked)
	}
	return nil
}

// nobody waits a while when nobody has taken what was sent since then, if that may still change.
func (p *Pipeline) nobody(since *time.Time) error {
	if err := p.b.nobody(p.ctx, since); err != nil {
		return err
	}
	return pause(p.ctx, noRespondersPause)
}

// mostAsked is the number of keys that are asked for at a time.
const mostAsked = 64

// sift leaves of the writes that are to be sent again those that may be: which were not stored, and
// would not be stored behind a newer one of their key. The others are reported: as written, also where
// a newer one has replaced them, or as unknown. It returns false when that could not be told of all.
func (p *Pipeline) sift(byKey map[string][]sent) bool {
	var (
		fates   = make(chan fate, len(byKey))
		room    = make(chan struct{}, mostAsked)
		asking  sync.WaitGroup
		unknown atomic.Bool // for the moment
	)
	for key, writes := range byKey {
		room <- struct{}{}
		if unknown.Load() {
			break
		}
		asking.Go(func() {
			f, known := p.fate(key, writes)
			if !known {
				unknown.Store(true)
			}
			fates <- f
			<-room
		})
	}
	asking.Wait()
	close(fates)
	for f := range fates {
		for _, s := range f.stored {
			delete(p.again, s.id)
			p.since = time.Now()
			p.report(s.write.Key, nil)
		}
		for _, s := range f.doubtful {
			delete(p.again, s.id)
			p.report(s.write.Key, p.outcome(s.write.Key, f.why))
		}
	}
	return !unknown.Load()
}

// fate is what became of a key's writes, but for those that may be sent again.
type fate struct {
	stored   []sent
	doubtful []sent
	why      error
}

// fate finds out what became of one key's writes. It is false when not all of that could be told, for a
// reason that passes.
func (p *Pipeline) fate(key string, writes []sent) (fate, bool) {
	ctx, cancel := context.WithTimeout(p.ctx, attemptTimeout)
	defer cancel()
	stored, revision, err := p.newestStored(ctx, key, writes)
	if transient(err) {
		return fate{}, false
	}
	f := fate{stored: writes[:stored]}
	for _, s := range slices.Backward(writes[stored:]) {
		if s.lost && err == nil {
			s.first.known = max(s.first.known, revision)
			err = p.b.forgotten(ctx, &s.write, s.first)
		}
		if transient(err) {
			return f, false
		}
		if err != nil {
			f.doubtful, f.why = append(f.doubtful, s), err
		}
	}
	return f, true
}

// newestStored finds, among writes of one key, the newest that is known to be stored, or replaced by
// one that was acknowledged: how many there are up to it, and its revision if that was heard.
func (p *Pipeline) newestStored(ctx context.Context, key string, writes []sent) (n int, revision uint64, err error) {
	for n < len(writes) && writes[n].id < p.acked[key] {
		n++
	}
	for i := len(writes) - 1; i >= n; i-- {
		if !writes[i].lost {
			continue
		}
		revision, known, err := p.b.knows(ctx, p.b.writePrefix+key, writes[i].first.id)
		switch {
		case err != nil:
			return n, 0, err
		case known:
			return i + 1, revision, nil
		}
	}
	return n, 0, nil
}
