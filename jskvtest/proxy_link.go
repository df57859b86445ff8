package jskvtest

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// link is one connection through a proxy: two TCP connections and what goes between them.
type link struct {
	p              *Proxy
	client, server *net.TCPConn
	lost           Direction // guarded by p.mu: where Blackhole swallowed something

	once sync.Once
	done chan struct{} // closed by end
}

// chunk is what one read brought.
type chunk struct {
	data []byte
	at   time.Time
	err  error // the stream ends behind data
}

// queueLength is how many chunks a stalled or delayed direction takes in before TCP has to
// hold the rest back; 32 KB each.
const (
	queueLength = 64
	chunkSize   = 32 << 10
)

// accept accepts connections until the listener is closed.
func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.tb.Errorf("jskvtest: proxy: accept: %v", err)
			return
		}
		p.wg.Go(func() { p.serve(conn.(*net.TCPConn)) })
	}
}

// serve forwards between client and server until one of them or the proxy ends it.
func (p *Proxy) serve(client *net.TCPConn) {
	l := p.dial(client)
	if l == nil {
		closeConn(client, true)
		return
	}
	l.run()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// dial connects client to the server. It returns nil when it may not or cannot.
func (p *Proxy) dial(client *net.TCPConn) *link {
	p.mu.Lock()
	refuse, cuts := p.refuse, p.cuts
	p.mu.Unlock()
	if refuse {
		return nil
	}
	var d net.Dialer
	server, err := d.DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		return nil
	}
	l := &link{p: p, client: client, server: server.(*net.TCPConn), done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.refuse || p.cuts != cuts {
		closeConn(l.server, true)
		return nil
	}
	p.links[l] = struct{}{}
	return l
}

// run forwards in both directions and returns when the link has ended.
func (l *link) run() {
	var wg sync.WaitGroup
	for _, way := range []struct {
		dir      Direction
		src, dst *net.TCPConn
	}{{ToServer, l.client, l.server}, {ToClient, l.server, l.client}} {
		// Reading goes on while writing waits, so that a delay does not become a narrow pipe.
		queue := make(chan chunk, queueLength)
		wg.Go(func() { l.read(way.src, queue) })
		wg.Go(func() { l.write(way.dir, way.dst, queue) })
	}
	wg.Wait()
}

func (l *link) read(src *net.TCPConn, queue chan<- chunk) {
	for {
		buf := make([]byte, chunkSize)
		n, err := src.Read(buf)
		select {
		case queue <- chunk{data: buf[:n], at: time.Now(), err: err}:
		case <-l.done:
			return
		}
		if err != nil {
			return
		}
	}
}

func (l *link) write(dir Direction, dst *net.TCPConn, queue <-chan chunk) {
	seen := make(tails)
	for {
		select {
		case c := <-queue:
			switch l.admit(dir, c) {
			case stall: // the link has ended
				return
			case forward:
				l.pass(dir, dst, c, seen)
			}
		case <-l.done:
			return
		}
	}
}

// admit waits until c may go on or is lost. It returns stall when the link ends before, or has ended: what
// is left in the queue then must spring no trap.
func (l *link) admit(dir Direction, c chunk) mode {
	for {
		select {
		case <-l.done:
			return stall
		default:
		}
		f, changed := l.p.fault(l, dir)
		if f.mode == swallow {
			return swallow
		}
		var due <-chan time.Time
		if f.mode == forward {
			wait := time.Until(c.at.Add(f.delay))
			if wait <= 0 {
				return forward
			}
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-changed:
		case <-l.done:
			return stall
		}
	}
}

// fault is what dir suffers from now, and a channel that is closed when that changes. If it
// swallows, the link is marked in the same step: Heal must not miss it.
func (p *Proxy) fault(l *link, dir Direction) (fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.faults[dir]
	if f.mode == swallow {
		l.lost |= dir
	}
	return f, p.changed
}

// pass writes c, or what a trap leaves of it, and ends the link behind it if it has to end.
func (l *link) pass(dir Direction, dst *net.TCPConn, c chunk, seen tails) {
	n, sprung := l.p.spring(dir, c.data, seen)
	_, err := dst.Write(c.data[:n])
	switch {
	case sprung != nil:
		l.end(true)
		close(sprung.done)
	case err != nil:
		l.end(true)
	case c.err != nil:
		l.end(!errors.Is(c.err, io.EOF))
	}
}

// end closes both connections; a reset makes them forget what they have not sent. Only the
// first call counts.
func (l *link) end(reset bool) {
	l.once.Do(func() {
		closeConn(l.client, reset)
		closeConn(l.server, reset)
		close(l.done)
	})
}

func closeConn(conn *net.TCPConn, reset bool) {
	if reset {
		_ = conn.SetLinger(0)
	}
	_ = conn.Close()
}
