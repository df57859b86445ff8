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

	// shareQueue and shareBytes are how much a sharing watcher may leave unread before it gets a
	// reader of its own, which goes on where it was.
	shareQueue = 256
	shareBytes = 1 << 20
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
		s, err := b.share(ctx, cfg)
		if errors.Is(err, ErrPermission) {
			// The common pattern may be more than the account may read.
			return b.OpenReader(ctx, cfg)
		}
		if err != nil {
			return nil, err
		}
		return s, nil
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
		h.life, h.end = context.WithCancelCause(context.Background())
		shares.hub = h
		go h.run()
	}
	h.add(s)
	s.hub = h
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
	parting sync.Mutex    // held while it gets a reader of its own, or leaves
	wake    chan struct{} // there is something new below
	synced  atomic.Bool
	target  uint64 // sequence of the snapshot
	cursor  uint64 // last sequence handed out
	backoff Backoff
	cut     int // attempts to get a reader of its own that the caller's context has cut short

	mu      sync.Mutex
	private *Reader // once it has parted
	queue   []Message
	bytes   int  // in the queue
	more    bool // the queue was full, what came then is not in it
	notices []error
	lost    error // what was told last
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
		s.bytes += len(m.Data)
		s.mu.Unlock()
		return nil
	}
	s.synced.Store(true)
	return nil
}

func (s *shared) offer(m Message) {
	s.mu.Lock()
	if len(s.queue) >= shareQueue || s.bytes >= shareBytes {
		s.more = true
	}
	if !s.more {
		s.queue = append(s.queue, m)
		s.bytes += len(m.Data)
	}
	s.mu.Unlock()
	s.signal()
}

func (s *shared) tell(err error) {
	if s.cfg.OnChange == nil {
		return
	}
	s.mu.Lock()
	if (err == nil) != (s.lost == nil) {
		s.lost = err
		s.notices = append(s.notices, err)
	}
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
		if s.notify() {
			continue
		}
		if private := s.parted(); private != nil {
			m, err := private.Next(ctx)
			if errors.Is(err, ErrSynced) {
				continue
			}
			return m, err
		}
		s.mu.Lock()
		m, ok := s.pop()
		more, failed := s.more, s.failed
		s.mu.Unlock()
		switch {
		case ok:
			return m, nil
		case more, errors.Is(failed, ErrPermission):
			if err := s.part(ctx); err != nil {
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

// notify calls OnChange with what is to be told, if anything is. OnChange may stop the watcher.
func (s *shared) notify() bool {
	s.mu.Lock()
	notices := s.notices
	s.notices = nil
	s.mu.Unlock()
	for _, notice := range notices {
		s.cfg.OnChange(notice)
	}
	return len(notices) > 0
}

// pop takes the oldest message that was not handed out before.
func (s *shared) pop() (Message, bool) {
	for len(s.queue) > 0 {
		m := s.queue[0]
		s.queue[0] = Message{}
		s.bytes -= len(m.Data)
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

// part goes on with a reader of its own, or returns without an error for another attempt.
func (s *shared) part(ctx context.Context) error {
	s.parting.Lock()
	defer s.parting.Unlock()
	uncut, cancel := s.b.uncut(ctx, s.cut)
	defer cancel()
	cfg := s.cfg
	cfg.Start, cfg.Sequence, cfg.stream, cfg.opening = StartAt, s.cursor+1, s.hub.stream(), uncut
	r, err := s.b.OpenReader(s.life, cfg)
	switch {
	case err == nil:
		s.tell(nil)
	case s.life.Err() != nil:
		return cause(s.life)
	case ctx.Err() != nil:
		s.cut++
		return ctx.Err()
	case !transient(err):
		return err
	default:
		s.tell(err)
		if s.backoff.Wait(ctx) != nil {
			return ctx.Err()
		}
		return nil
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
		s.parting.Lock() // which nobody keeps for long once life has ended
		defer s.parting.Unlock()
		if private := s.parted(); private != nil {
			private.Stop()
		}
		s.hub.remove(s)
	})
}
