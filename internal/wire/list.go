package wire

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// listBytes bounds what a listing takes by one direct request; past it a consumer is cheaper.
const listBytes = 256 << 10

// List hands the newest revision of every live key to yield, each key once, until yield returns
// false. It ends without an error only when the list is whole.
func (b *Bucket) List(ctx context.Context, filters []string, keysOnly bool, yield func(*Message) bool) error {
	for _, filter := range filters {
		if err := CheckFilter(filter); err != nil {
			return err
		}
	}
	small, done, err := b.listDirect(ctx, filters)
	if err != nil {
		return err
	}
	if done {
		for i := range small {
			if !small[i].Deleted() && !yield(&small[i]) {
				break
			}
		}
		return nil
	}
	_, err = b.read(ctx, ReaderConfig{Filters: filters, KeysOnly: keysOnly, SkipMarkers: true, Unique: true, Once: true}, yield)
	return err
}

// listDirect lists a small bucket by one request. It is not done when there is too much for
// that, when the stream allows no direct gets, when whoever answered has not come as far as the
// stream's leader, or when nobody answers soon: a server that has to find out that too much
// matches may look for seconds.
func (b *Bucket) listDirect(ctx context.Context, filters []string) (found []Message, done bool, err error) {
	if facts := b.facts.Load(); !facts.direct || facts.large && len(filters) == 0 {
		return nil, false, nil // the reader, when it begins, looks whether it is still so large
	}
	folded, exact := FoldFilters(filters)
	if len(folded) == 0 {
		folded = []string{AllKeys}
	}
	target := b.high()
	if b.cautious() {
		info, err := b.Info(ctx)
		if err != nil {
			return nil, false, err
		}
		target = max(b.high(), info.State.LastSeq)
	}
	attempt, cancel := context.WithTimeout(ctx, firstPatience)
	defer cancel()
	a, err := b.lastOf(attempt, folded, listBytes)
	switch {
	case errors.Is(err, errTooManyMatches), errors.Is(err, errNoDirect), errors.Is(err, errForeign), errors.Is(err, ErrKeyNotFound):
		// An answer that nothing was found does not tell whose it is.
		return nil, false, nil
	case isTimeout(err) && ctx.Err() == nil && !errors.Is(err, ErrPermission):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case !a.whole, !a.own, a.upTo < target:
		return nil, false, nil
	}
	found = a.found
	if !exact {
		kept := found[:0]
		for _, m := range found {
			if matchAny(filters, m.Key) {
				kept = append(kept, m)
			}
		}
		found = kept
	}
	return found, true, nil
}

// History hands the stored revisions of key to yield, oldest first.
func (b *Bucket) History(ctx context.Context, key string, yield func(*Message) bool) error {
	_, err := b.read(ctx, ReaderConfig{Filters: []string{key}, Start: StartAt, Once: true}, yield)
	return err
}

// read hands out what a reader reads, once, and returns the sequence that the stream had come to at
// least. yield does not keep what it is given.
func (b *Bucket) read(ctx context.Context, cfg ReaderConfig, yield func(*Message) bool) (uint64, error) {
	r, err := b.OpenReader(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer r.Stop()
	var m Message // one for all: it escapes
	for !r.Synced() {
		m, err = r.Next(ctx)
		if errors.Is(err, ErrSynced) {
			break
		}
		if err != nil {
			return 0, err
		}
		if !yield(&m) {
			break
		}
	}
	return r.Target(), nil
}

// PurgeMarkers removes the markers older than olderThan with what is under them.
func (b *Bucket) PurgeMarkers(ctx context.Context, olderThan time.Duration) (int, error) {
	if olderThan < 0 {
		return 0, fmt.Errorf("%w: a negative age %v", ErrInvalidOption, olderThan)
	}
	info, err := b.Info(ctx)
	if err != nil {
		return 0, err
	}
	newest := info.TimeStamp.Add(-olderThan)
	var markers []Message
	_, err = b.read(ctx, ReaderConfig{KeysOnly: true, Once: true}, func(m *Message) bool {
		// One under a key with a wildcard would be purged with all that this matches.
		if m.Deleted() && !m.Time.After(newest) && !hasWildcard(m.Key) {
			markers = append(markers, *m)
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	return b.purgeAll(ctx, markers)
}

// purgeAll removes markers, several at a time: each is a request of its own.
func (b *Bucket) purgeAll(ctx context.Context, markers []Message) (purged int, err error) {
	const workers = 32
	work := make(chan Message)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu   sync.Mutex
		done sync.WaitGroup
	)
	for range min(workers, len(markers)) {
		done.Go(func() {
			for m := range work {
				e := b.purgeUpTo(ctx, m)
				mu.Lock()
				if e == nil {
					purged++
				} else if err == nil {
					err = e
					cancel()
				}
				mu.Unlock()
			}
		})
	}
feed:
	for _, m := range markers {
		select {
		case work <- m:
		case <-ctx.Done():
			break feed
		}
	}
	close(work)
	done.Wait()
	if err == nil && purged < len(markers) {
		err = ctx.Err()
	}
	return purged, err
}

// purgeUpTo removes the messages of a marker's key up to the marker: whatever was written to the
// key since has a higher sequence. A mirror does not follow its origin's purges.
func (b *Bucket) purgeUpTo(ctx context.Context, marker Message) error {
	targets := []struct {
		place
		subject string
	}{{b.origin, keySpaceOf(b.origin.stream) + marker.Key}}
	if self := (place{b.api, b.stream}); self != b.origin {
		targets = append(targets, struct {
			place
			subject string
		}{self, marker.Subject})
	}
	for _, target := range targets {
		var done struct {
			Success bool `json:"success"`
		}
		request := map[string]any{"filter": target.subject, "seq": marker.Sequence + 1}
		if err := b.apiRequest(ctx, target.api, "STREAM.PURGE."+target.stream, request, &done); err != nil {
			return err
		}
	}
	return nil
}
