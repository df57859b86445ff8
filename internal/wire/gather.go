package wire

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// fewCalls is how many reads at a time each send a request of their own.
	fewCalls = 3

	// flightBytes bounds what one request reads for several calls.
	flightBytes = 256 << 10

	// largeValue is the average size from which on nothing is gained: to send it is most of the work.
	largeValue = 2 << 10
)

// gathering lets reads of single keys that come at the same time share a request. They wait for
// nothing: the first of them gives way to the goroutines that are ready to run, as they are when
// many have just been answered, and asks for the keys of those that want one, too.
type gathering struct {
	calls atomic.Int64 // under way
	size  atomic.Int64 // of a value, the recent ones counting most; 0 while none is known
	off   atomic.Bool  // the account may not read several keys at once
	mu    sync.Mutex
	open  *flight // nil while there is none to join
}

// flight is one request for the keys of many calls. The call that began it makes it; the others wait
// for it, or until their own contexts end. Whatever goes wrong with it, it has then found nothing, and
// each call asks for itself.
type flight struct {
	calls map[string]int // how many want a key; not written once the flight has left
	of    int            // calls
	room  int            // keys
	done  chan struct{}  // closed when what follows is set

	found map[string]Message
	whole bool // what was not found was not there
	seen  bool // with somebody who has seen all that this handle was acknowledged for
}

// gathered reads the newest revision of key, by a request of its own or in a flight. A flight leaves
// after the call has begun: either sees what the handle was acknowledged for by then.
func (b *Bucket) gathered(ctx context.Context, key string, atLeast uint64) (Message, error) {
	g := &b.gathering
	defer g.calls.Add(-1)
	if g.calls.Add(1) > fewCalls && b.gathers(atLeast) && ctx.Err() == nil {
		f, first := g.join(key)
		if first {
			b.lead(ctx, f)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return Message{}, ctx.Err()
		}
		switch m, found := f.take(key); {
		case found:
			return m, nil
		case f.whole && f.seen:
			return Message{}, ErrKeyNotFound
		case f.whole:
			return b.confirm(ctx, key, 0)
		}
	}
	m, err := b.newestFrom(ctx, key, atLeast)
	if err == nil {
		g.weigh(len(m.Data))
	}
	return m, err
}

// gathers reports whether a flight would do for a read.
func (b *Bucket) gathers(atLeast uint64) bool {
	size, high := b.gathering.size.Load(), b.high()
	switch {
	case size == 0, size > largeValue, atLeast > high, b.gathering.off.Load():
		return false
	case b.facts.Load().mirror:
		return false // it is read as it is, which one answer for several keys cannot tell
	}
	return high > 0 || !b.shared()
}

// weigh takes the size of a value into the average.
func (g *gathering) weigh(size int) {
	const share = 8
	known := g.size.Load()
	if known == 0 {
		known = int64(size)
	}
	g.size.Store(max(1, known+(int64(size)-known)/share))
}

// join returns the flight that asks for key, and whether the caller is its first and has to let
// it leave.
func (g *gathering) join(key string) (f *flight, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		first = true
		room := min(mostMatches, flightBytes/max(1, int(g.size.Load())))
		g.open = &flight{calls: make(map[string]int), room: room, done: make(chan struct{})}
	}
	f = g.open
	f.of++
	if f.calls[key]++; len(f.calls) == f.room {
		g.open = nil
	}
	return f, first
}

// close lets nobody join f any more.
func (g *gathering) close(f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == f {
		g.open = nil
	}
}

// lead lets others join f and makes the request.
func (b *Bucket) lead(ctx context.Context, f *flight) {
	defer close(f.done) // whatever happens
	// The second time is for those that the first ones wake: of 64 goroutines it gathers 25, not 15.
	for range 2 {
		runtime.Gosched()
	}
	b.gathering.close(f)
	if f.of == 1 {
		return
	}
	// No longer than it takes to find that an answer is lost.
	ctx, cancel := context.WithTimeout(ctx, min(firstPatience, b.timeout))
	defer cancel()
	err := b.keepInbox()
	if err == nil {
		err = b.fly(ctx, f)
	}
	if errors.Is(err, ErrPermission) {
		b.gathering.off.Store(true)
	}
}

func (b *Bucket) fly(ctx context.Context, f *flight) error {
	parts := b.requests(slices.Collect(maps.Keys(f.calls)), 0)
	keys, all := parts[0], len(parts) == 1 // keys so long that there are several ask for themselves
	seen, shared := b.high(), b.shared()
	a, err := b.lastOf(ctx, keys, flightBytes)
	if shared && (err != nil || !a.own || a.upTo < seen) {
		found, _, err := b.view(ctx, keys, 0)
		if err == nil {
			b.gathering.land(f, found)
			f.whole, f.seen = all, true
		}
		return err
	}
	switch {
	case errors.Is(err, ErrKeyNotFound):
		f.whole = all
	case err != nil:
		return err
	case a.own: // and not a mirror's, of which nobody knew
		b.gathering.land(f, a.found)
		f.whole = all && a.whole
	}
	return nil
}

func (g *gathering) land(f *flight, found []Message) {
	f.found = make(map[string]Message, len(found))
	for _, m := range found {
		m.Pending = 0
		f.found[m.Key] = m
		g.weigh(len(m.Data))
	}
}

// take returns what was found of key, for each of several calls a copy of its own.
func (f *flight) take(key string) (Message, bool) {
	m, found := f.found[key]
	if found && f.calls[key] > 1 {
		m = m.Clone()
	}
	return m, found
}
