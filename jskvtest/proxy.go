package jskvtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Direction is the way that bytes go through a Proxy. The directions can be combined.
type Direction uint8

// The directions.
const (
	ToServer Direction = 1 << iota // from the client to the server
	ToClient                       // from the server to the client

	Both = ToServer | ToClient
)

// String returns the direction's name in Go.
func (d Direction) String() string {
	switch d {
	case ToServer:
		return "ToServer"
	case ToClient:
		return "ToClient"
	case Both:
		return "Both"
	}
	return fmt.Sprintf("Direction(%d)", uint8(d))
}

// Proxy is a TCP proxy between clients and one server which makes the faults that networks
// make. NewProxy makes one, which forwards everything; the zero value is not usable.
//
// Faults hold for connections that exist and for those to come, until the fault is replaced or
// Heal ends it. When a method returns, its fault is in force, but what the proxy was just
// passing on in that moment may still arrive.
//
// Safe for concurrent use.
type Proxy struct {
	tb       testing.TB
	target   string
	listener net.Listener
	ctx      context.Context // ends with the proxy; for its dialling
	cancel   context.CancelFunc
	wg       sync.WaitGroup // all goroutines

	mu      sync.Mutex // guards what follows
	closed  bool
	refuse  bool
	cuts    int // so that connections being made during a cut are cut, too
	faults  map[Direction]fault
	changed chan struct{} // closed and replaced whenever faults change
	traps   []*trap
	links   map[*link]struct{}
	conns   []*nats.Conn
}

// fault is what happens to the bytes of one direction.
type fault struct {
	mode  mode
	delay time.Duration
}

type mode uint8

const (
	forward mode = iota
	stall
	swallow
)

// NewProxy starts a proxy on a free port of 127.0.0.1 to target, which is an address like
// "127.0.0.1:4222" or the URL of a server. The server need not be running: a connection
// without a server behind it is reset. The proxy ends with the test, after the connections
// that Conn made.
//
// The test ends at once when the proxy cannot listen.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("jskvtest: start proxy: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{
		tb:       tb,
		target:   address(target),
		listener: listener,
		ctx:      ctx,
		cancel:   cancel,
		faults:   make(map[Direction]fault),
		changed:  make(chan struct{}),
		links:    make(map[*link]struct{}),
	}
	p.wg.Go(p.accept)
	tb.Cleanup(p.end)
	return p
}

// address is what to dial: of a URL, which may name a user too, its host and port.
func address(target string) string {
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		return u.Host
	}
	return target
}

// end is what happens to the proxy when the test ends.
func (p *Proxy) end() {
	p.Heal() // a connection whose bytes nobody takes would not close in time
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for _, nc := range conns {
		nc.Close()
	}
	p.Close()
}

// URL returns the proxy's address for clients, as in "nats://127.0.0.1:34567".
func (p *Proxy) URL() string {
	return "nats://" + p.listener.Addr().String()
}

// Conn returns a new connection to the server through the proxy and on no other way, closed
// when the test ends. It reconnects for ever, every 50 ms; opts come on top. The test ends
// when the connection cannot be made.
func (p *Proxy) Conn(opts ...nats.Option) *nats.Conn {
	p.tb.Helper()
	nc := connect(p.tb, p.URL(), append([]nats.Option{nats.IgnoreDiscoveredServers()}, opts...))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, nc)
	return nc
}

// JetStream returns the server's JetStream on a new connection from Conn.
func (p *Proxy) JetStream(opts ...nats.Option) jetstream.JetStream {
	p.tb.Helper()
	return newJetStream(p.tb, p.Conn(opts...))
}

// Connections returns the number of connections that the proxy is holding.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Close ends the proxy: its connections are closed, new ones are not accepted. It returns when
// nothing of it is running, and may be called more than once. The test's end does it, too.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	_ = p.listener.Close()
	p.cut(false)
	p.wg.Wait()
}

// Cut closes all connections in the orderly way (FIN): both ends see the end of the stream.
// New connections are accepted, so clients come back at once; call Refuse first if they shall
// not.
func (p *Proxy) Cut() { p.cut(false) }

// Reset is Cut in the disorderly way (RST): both ends see "connection reset by peer", and what
// was under way is lost.
func (p *Proxy) Reset() { p.cut(true) }

func (p *Proxy) cut(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts++
	for l := range p.links {
		l.end(reset)
	}
}

// Refuse makes the proxy reset every new connection at once, as if nobody listened. Those that
// exist go on.
func (p *Proxy) Refuse() { p.setRefuse(true) }

// Accept ends Refuse.
func (p *Proxy) Accept() { p.setRefuse(false) }

func (p *Proxy) setRefuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Delay holds back all bytes in direction dir for d: this is latency, not bandwidth. Zero ends
// it.
func (p *Proxy) Delay(dir Direction, d time.Duration) {
	p.change(dir, func(f *fault) { f.delay = d })
}

// Stall stops forwarding in direction dir without losing anything: bytes wait in the proxy,
// then in the buffers of TCP, and when those are full the sender's writes block. Connections
// stay open, even when the other end goes. After Heal everything arrives, late. It replaces
// Blackhole.
func (p *Proxy) Stall(dir Direction) {
	p.change(dir, func(f *fault) { f.mode = stall })
}

// Blackhole swallows all bytes in direction dir: the sender goes on, nothing arrives.
// Connections stay open, even when the other end goes. As the bytes are gone for good, Heal,
// or Stall after Blackhole, resets the connections that have lost some, as they would be
// garbled; those that were silent all the time go on. It replaces Stall.
func (p *Proxy) Blackhole(dir Direction) {
	p.change(dir, func(f *fault) { f.mode = swallow })
}

// Heal ends all faults: it accepts connections, forwards without delay, and no CutOn is waiting
// any more.
func (p *Proxy) Heal() {
	p.change(Both, func(f *fault) { *f = fault{} })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
	p.traps = nil
}

// change lets do set the faults of dir and wakes up whoever waits because of the old ones.
func (p *Proxy) change(dir Direction, do func(*fault)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range []Direction{ToServer, ToClient} {
		if dir&d == 0 {
			continue
		}
		f := p.faults[d]
		do(&f)
		p.faults[d] = f
		if f.mode != swallow {
			p.resetLossy(d)
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// resetLossy resets the connections that lost bytes in direction dir. p.mu is held.
func (p *Proxy) resetLossy(dir Direction) {
	for l := range p.links {
		if l.lost&dir != 0 {
			l.end(true)
		}
	}
}
