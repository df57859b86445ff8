package wire

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// privateWatchers is how many watchers of single keys a handle gives a consumer of their own;
	// those beyond share one. A consumer costs its server some 45 KB and a share of every write.
	privateWatchers = 16

	// shareQueue is how many messages a sharing watcher may leave unread before it gets a reader
	// of its own, which goes on where it was.
	shareQueue = 256
)

// Source is what a watcher reads: a Reader, or its part of a shared one.
type Source interface {
	Next(ctx context.Context) (Message, error)
	Synced() bool
	Target() uint64
	Stop()
}

// Watch opens a reader for a watcher, a shared one where many watch single keys.
func (b *Bucket) Watch(ctx context.Context, cfg ReaderConfig) (Source, error) {
	if !single(cfg) || CheckFilter(cfg.Filters[0]) != nil {
		return b.OpenReader(ctx, cfg)
	}
	if b.shares.private.Add(1) > privateWatchers {
		b.shares.private.Add(-1)
		if s, err := b.share(ctx, cfg); err == nil || ctx.Err() != nil {
			return s, err
		}
		// The common pattern may be more than the account may read.
		return b.OpenReader(ctx, cfg)
	}
	cfg.onEnd = func() { b.shares.private.Add(-1) }
	r, err := b.OpenReader(ctx, cfg)
	if err != nil {
		cfg.onEnd()
		return nil, err
	}
	return r, nil
}

// single reports whether cfg is for the present and future of one key.
func single(cfg ReaderConfig) bool {
	return len(cfg.Filters) == 1 && cfg.Start != StartAt && !cfg.HeadersOnly && !cfg.Once &&
		!strings.ContainsAny(cfg.Filters[0], "*>")
}

// shares is what the watchers of a handle's single keys have in common.
type shares struct {
	private atomic.Int64
	mu      sync.Mutex
	hub     *hub // nil while nobody shares
}

// hub reads for the watchers that share it. Its goroutine ends when the last of them has left,
// who waits for that.
type hub struct {
	b    *Bucket
	life context.Context
	end  context.CancelFunc
	open chan struct{} // closed when reading has begun or failed
	done chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex
	byKey    map[string][]*shared
	members  int
	cover    string // pattern that matches all their keys
	reader   *Reader
	position uint64 // everything under the reader's pattern up to here has been handed out
	widening bool   // cover is wider than the reader's pattern
	resume   uint64 // position when that began: behind it the reader to come has to start
	lost     error
	failed   error
}

// share is a watcher's part of the hub, begun with its key's present revision.
func (b *Bucket) share(ctx context.Context, cfg ReaderConfig) (*shared, error) {
	life, end := context.WithCancelCause(ctx)
	s := &shared{b: b, cfg: cfg, key: cfg.Filters[0], life: life, end: end, wake: make(chan struct{}, 1)}
	s.join()
	if err := s.begin(ctx); err != nil {
		end(nil)
		s.leave()
		return nil, err
	}
	s.unwatch = context.AfterFunc(life, s.leave)
	return s, nil
}

func (s *shared) join() {
	shares := &s.b.shares
	shares.mu.Lock()
	defer shares.mu.Unlock()
	h := shares.hub
	if h == nil || h.hasFailed() {
		h = &hub{b: s.b, open: make(chan struct{}), done: make(chan struct{}), byKey: map[string][]*shared{}, cover: s.key}
		h.life, h.end = context.WithCancel(context.Background())
		shares.hub = h
		go h.run()
	}
	h.add(s)
	s.hub = h
}

func (h *hub) hasFailed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed != nil
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
	for _, watchers := range h.byKey {
		for _, s := range watchers {
			s.fail(err)
		}
	}
	h.mu.Unlock()
}

func (h *hub) read() error {
	var once sync.Once
	opened := func() { once.Do(func() { close(h.open) }) }
	defer opened()
	cfg := ReaderConfig{Start: StartNew, OnChange: h.change, onPassed: h.passed}
	for {
		h.mu.Lock()
		pattern := h.cover
		if cfg.Start == StartAt {
			cfg.Sequence = h.resume + 1
		}
		h.mu.Unlock()
		cfg.Filters = []string{pattern}
		r, err := h.b.OpenReader(h.life, cfg)
		if err != nil {
			return err
		}
		h.mu.Lock()
		if cfg.Start == StartNew {
			h.position, h.resume = r.cursor, r.cursor
		}
		ready := h.cover == pattern
		if ready {
			h.reader, h.widening = r, false
		}
		h.mu.Unlock()
		opened()
		cfg.Start = StartAt
		if ready {
			err = h.distribute(r)
		}
		h.mu.Lock()
		h.reader = nil
		h.mu.Unlock()
		r.Stop()
		if err != nil && !errors.Is(err, ErrWatcherStopped) {
			return err
		}
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
		h.position = max(h.position, m.Sequence)
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
		h.end()
		<-h.done
	}
}

// shared is one watcher's part of a hub.
type shared struct {
	b       *Bucket
	cfg     ReaderConfig
	key     string
	life    context.Context
	end     context.CancelCauseFunc
	unwatch func() bool
	hub     *hub
	left    sync.Once
	wake    chan struct{} // there is something new below
	synced  atomic.Bool
	target  uint64 // sequence of the snapshot
	cursor  uint64 // last sequence handed out

	mu      sync.Mutex
	private *Reader // once it has parted
	queue   []Message
	more    bool // the queue was full, what came then is not in it
	notices []error
	failed  error
}

// begin reads the key's present revision, from somebody who has seen all that the hub has
// handed out before s joined: what is later comes from there.
func (s *shared) begin(ctx context.Context) error {
	ctx, cancel := s.b.Bound(ctx)
	defer cancel()
	select {
	case <-s.hub.open:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.hub.mu.Lock()
	position, err := s.hub.position, s.hub.failed
	s.hub.mu.Unlock()
	if err != nil {
		return err
	}
	m, err := s.b.Get(ctx, s.key, Read{AtLeast: position})
	switch {
	case errors.Is(err, ErrKeyNotFound):
		s.cursor = position
	case err != nil:
		return err
	case s.cfg.Start == StartNew || s.cfg.SkipMarkers && m.Deleted():
		s.cursor = m.Sequence
	default:
		s.cursor, s.target = m.Sequence-1, m.Sequence
		s.mu.Lock()
		s.queue = slices.Insert(s.queue, 0, m)
		s.mu.Unlock()
		return nil
	}
	s.synced.Store(true)
	return nil
}

func (s *shared) offer(m Message) {
	s.mu.Lock()
	if len(s.queue) >= shareQueue {
		s.more = true
	}
	if !s.more {
		s.queue = append(s.queue, m)
	}
	s.mu.Unlock()
	s.signal()
}

func (s *shared) tell(err error) {
	if s.cfg.OnChange == nil {
		return
	}
	s.mu.Lock()
	s.notices = append(s.notices, err)
	s.mu.Unlock()
	s.signal()
}

func (s *shared) fail(err error) {
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
	s.signal()
}

func (s *shared) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *shared) Target() uint64 { return s.target }

func (s *shared) Synced() bool { return s.synced.Load() }

func (s *shared) Next(ctx context.Context) (Message, error) {
	for {
		if s.life.Err() != nil {
			return Message{}, cause(s.life)
		}
		if err := ctx.Err(); err != nil {
			return Message{}, err
		}
		if private := s.parted(); private != nil {
			m, err := private.Next(ctx)
			if errors.Is(err, ErrSynced) {
				continue
			}
			return m, err
		}
		s.mu.Lock()
		notices := s.notices
		s.notices = nil
		m, ok := s.pop()
		more, failed := s.more, s.failed
		s.mu.Unlock()
		for _, notice := range notices {
			s.cfg.OnChange(notice)
		}
		switch {
		case ok:
			return m, nil
		case more:
			if err := s.part(); err != nil {
				return Message{}, err
			}
			continue
		case failed != nil:
			return Message{}, failed
		}
		select {
		case <-s.wake:
		case <-s.life.Done():
		case <-ctx.Done():
		}
	}
}

// pop takes the oldest message that was not handed out before.
func (s *shared) pop() (Message, bool) {
	for len(s.queue) > 0 {
		m := s.queue[0]
		s.queue[0] = Message{}
		if s.queue = s.queue[1:]; len(s.queue) == 0 {
			s.queue = nil
		}
		if m.Sequence <= s.cursor {
			continue
		}
		s.cursor = m.Sequence
		if s.cfg.SkipMarkers && m.Deleted() {
			continue
		}
		s.synced.Store(true)
		return m, true
	}
	return Message{}, false
}

// part goes on with a reader of its own.
func (s *shared) part() error {
	cfg := s.cfg
	cfg.Start, cfg.Sequence = StartAt, s.cursor+1
	r, err := s.b.OpenReader(s.life, cfg)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.private = r
	s.mu.Unlock()
	s.hub.remove(s)
	return nil
}

func (s *shared) parted() *Reader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.private
}

// Stop ends the watcher's part, and the hub with the last one.
func (s *shared) Stop() {
	s.unwatch()
	s.end(ErrWatcherStopped)
	s.leave()
}

func (s *shared) leave() {
	s.left.Do(func() {
		if private := s.parted(); private != nil {
			private.Stop()
		}
		s.hub.remove(s)
	})
}
