package wire

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// hub reads for the watchers that share it. Its goroutine ends when the last of them has left,
// who waits for that.
type hub struct {
	b    *Bucket
	life context.Context
	end  context.CancelCauseFunc
	open chan struct{} // closed when reading has begun or failed
	done chan struct{} // closed when the goroutine has ended

	opened sync.Once // for open

	mu       sync.Mutex
	byKey    map[string][]*shared
	members  int
	created  time.Time // identity of the stream
	cover    string    // pattern that matches all their keys
	reader   *Reader
	position uint64 // everything under the reader's pattern up to here has been handed out
	widening bool   // cover is wider than the reader's pattern
	resume   uint64 // position when that began: behind it the reader to come has to start
	lost     error
	failed   error
}

func (h *hub) hasFailed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed != nil
}

// stream is the identity of the stream that is read.
func (h *hub) stream() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.created
}

func (h *hub) add(s *shared) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byKey[s.key] = append(h.byKey[s.key], s)
	h.members++
	if h.lost != nil {
		s.tell(h.lost)
	}
	if union := cover(h.cover, s.key); union != h.cover {
		h.cover = union
		if !h.widening {
			h.widening, h.resume = true, h.position
		}
		if h.reader != nil {
			h.reader.end(ErrWatcherStopped) // read goes on with the wider pattern
		}
	}
}

// run reads until the hub ends or the bucket does.
func (h *hub) run() {
	defer close(h.done)
	err := h.read()
	h.mu.Lock()
	h.failed = err
	h.opened.Do(func() { close(h.open) })
	for _, watchers := range h.byKey {
		for _, s := range watchers {
			s.fail(err)
		}
	}
	h.mu.Unlock()
}

func (h *hub) read() error {
	cfg := ReaderConfig{Start: StartNew, OnChange: h.change, onPassed: h.passed}
	var backoff Backoff
	for {
		h.mu.Lock()
		pattern := h.cover
		if cfg.Start == StartAt {
			cfg.Sequence = h.resume + 1
		}
		h.mu.Unlock()
		cfg.Filters = []string{pattern}
		r, err := h.b.OpenReader(h.life, cfg)
		switch {
		case err == nil:
			backoff = Backoff{}
		case cfg.Start == StartNew && !transient(err), h.life.Err() != nil, final(err):
			return err
		default:
			// The watchers may have more time than this attempt had; and a reader that was given up
			// for a wider pattern would have waited for the server.
			if cfg.Start != StartNew {
				h.change(err)
			}
			if err := backoff.Wait(h.life); err != nil {
				return err
			}
			continue
		}
		h.found()
		h.mu.Lock()
		if cfg.Start == StartNew {
			h.created, h.position, h.resume = r.created, r.cursor, r.cursor
			cfg.stream = r.created
		}
		ready := h.cover == pattern
		if ready {
			h.reader, h.widening = r, false
		}
		h.mu.Unlock()
		h.opened.Do(func() { close(h.open) })
		cfg.Start = StartAt
		if ready {
			err = h.distribute(r)
		}
		h.mu.Lock()
		h.reader = nil
		h.mu.Unlock()
		r.Stop()
		if err != nil && (h.life.Err() != nil || !errors.Is(err, ErrWatcherStopped)) {
			return err
		}
	}
}

// found tells that the server answers again, when it did not.
func (h *hub) found() {
	h.mu.Lock()
	lost := h.lost != nil
	h.mu.Unlock()
	if lost {
		h.change(nil)
	}
}

// passed notes that the reader has looked further without finding anything.
func (h *hub) passed(position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.widening {
		h.position = max(h.position, position)
	}
}

// distribute hands out what r reads until it ends, or is ended because its pattern is too narrow.
func (h *hub) distribute(r *Reader) error {
	for {
		m, err := r.Next(h.life)
		if errors.Is(err, ErrSynced) {
			continue
		}
		if err != nil {
			return err
		}
		h.mu.Lock()
		if !h.widening {
			h.position = m.Sequence
		}
		for _, s := range h.byKey[m.Key] {
			s.offer(m)
		}
		h.mu.Unlock()
	}
}

func (h *hub) change(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = err
	for _, watchers := range h.byKey {
		for _, s := range watchers {
			s.tell(err)
		}
	}
}

// remove takes s out, and ends the hub with the last one.
func (h *hub) remove(s *shared) {
	shares := &h.b.shares
	shares.mu.Lock()
	h.mu.Lock()
	watchers := h.byKey[s.key]
	if i := slices.Index(watchers, s); i >= 0 {
		if watchers = slices.Delete(watchers, i, i+1); len(watchers) == 0 {
			delete(h.byKey, s.key)
		} else {
			h.byKey[s.key] = watchers
		}
		h.members--
	}
	last := h.members == 0
	if last && shares.hub == h {
		shares.hub = nil
	}
	h.mu.Unlock()
	shares.mu.Unlock()
	if last {
		h.end(context.Cause(s.life)) // which says how long its consumer's end is waited for
		<-h.done
	}
}
