package jskvtest

import (
	"bytes"
	"slices"
)

// trap waits for a pattern in the bytes that a proxy forwards.
type trap struct {
	dir     Direction
	pattern []byte
	done    chan struct{}
}

// tails is what one direction of a link has last forwarded under the eyes of each trap: as
// much as may be the beginning of its pattern.
type tails map[*trap][]byte

// CutOn resets the next connection in which pattern appears in direction dir, and returns a
// channel that is closed when that has happened. It is how to lose one answer, or one
// request: what came before the pattern arrives, its last byte and everything behind it do not,
// so that the message that contains it never does.
//
//	lost := proxy.CutOn(jskvtest.ToClient, `"seq":2`) // the acknowledgement of revision 2
//
// The pattern is found across the boundaries of reads, in what is forwarded after CutOn was
// called. It happens once; several CutOn wait independently. Heal calls off those that still
// wait, and their channels are never closed. An empty pattern ends the test.
func (p *Proxy) CutOn(dir Direction, pattern string) <-chan struct{} {
	p.tb.Helper()
	if pattern == "" {
		p.tb.Fatalf("jskvtest: CutOn without a pattern")
	}
	t := &trap{dir: dir, pattern: []byte(pattern), done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.traps = append(p.traps, t)
	return t.done
}

// spring looks for the traps' patterns in data. It returns how many bytes may be forwarded and
// the trap that was sprung, which then waits no more.
func (p *Proxy) spring(dir Direction, data []byte, seen tails) (n int, sprung *trap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = len(data)
	for _, t := range p.traps {
		if t.dir&dir == 0 {
			continue
		}
		if at := seen.find(t, data); at >= 0 && (sprung == nil || at < n) {
			n, sprung = at, t
		}
	}
	p.traps = slices.DeleteFunc(p.traps, func(t *trap) bool { return t == sprung })
	return n, sprung
}

// find returns the index in data from which nothing may be forwarded, or -1: the beginning of
// the pattern, or 0 if it began in earlier data, which is gone. It is not held back, because a
// message whose end looks like the pattern's beginning would then be stuck.
func (s tails) find(t *trap, data []byte) int {
	tail := s[t]
	joined := slices.Concat(tail, data)
	if i := bytes.Index(joined, t.pattern); i >= 0 {
		return max(0, i-len(tail))
	}
	s[t] = joined[max(0, len(joined)-len(t.pattern)+1):]
	return -1
}
