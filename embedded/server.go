package embedded

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// readyTimeout bounds the wait for a server that neither gets ready nor reports an error.
const readyTimeout = 10 * time.Second

// errShutdown is what a Server says that has been shut down.
var errShutdown = errors.New("embedded: the server has been shut down")

// Server is a NATS server with JetStream that runs inside the program. Start makes one; the
// zero value is not usable. Safe for concurrent use.
type Server struct {
	ns       *server.Server
	release  func() // the directory
	url      string
	shutdown sync.Once

	mu      sync.Mutex // guards what follows
	stopped bool
	nc      *nats.Conn // under js, made at its first use
	js      jetstream.JetStream
}

// Start starts a server that keeps its streams below dir, in the folder jetstream, and
// returns when it is ready to be used. dir and its parents are made when missing; what an
// earlier server stored there is served again. The caller ends the server with Shutdown; the
// server handles no signals.
//
// Start fails when dir is empty, cannot be written to, or belongs to a server of this package that
// has not been shut down, in this program or in another; when an option is invalid, when the
// address to listen on is taken, or when the server is not ready within 10 seconds. Nothing
// that it started is running then.
func Start(dir string, opts ...Option) (*Server, error) {
	var c config
	for _, opt := range opts {
		opt(&c)
	}
	s, err := start(dir, c)
	if err != nil {
		return nil, fmt.Errorf("embedded: start server: %w", err)
	}
	return s, nil
}

func start(dir string, c config) (*Server, error) {
	opts, err := serverOptions(dir, c)
	if err != nil {
		return nil, err
	}
	release, err := take(dir)
	if err != nil {
		return nil, err
	}
	ns, err := run(opts, c)
	if err != nil {
		release()
		return nil, err
	}
	return &Server{ns: ns, release: release, url: clientURL(ns)}, nil
}

// run returns a server that is ready, or none that is running.
func run(opts *server.Options, c config) (*server.Server, error) {
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	log := newServerLog(c.log)
	ns.SetLoggerV2(log, log.debug(), false, false)
	ns.Start()
	if err := waitReady(ns, log); err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, err
	}
	return ns, nil
}

func waitReady(ns *server.Server, log *serverLog) error {
	// ns.Start returns early after a fatal error: waiting would only hide the reason.
	if text := log.fatalError(); text != "" {
		return errors.New(text)
	}
	if !ns.ReadyForConnections(readyTimeout) {
		return fmt.Errorf("not ready for connections after %v", readyTimeout)
	}
	if !ns.JetStreamEnabled() {
		return errors.New("JetStream is not enabled")
	}
	return nil
}

// Conn returns a new connection to the server, through memory and not through the network,
// set up by opts; options about addresses and TLS have no effect. The caller closes it. The
// connection outlives the server: after Shutdown it tries to reconnect, in vain. It has ten seconds for each
// attempt to connect, unless opts say otherwise (nats.Timeout).
//
// It fails after Shutdown, and when the connection cannot be made as opts want it.
func (s *Server) Conn(opts ...nats.Option) (*nats.Conn, error) {
	s.mu.Lock()
	stopped := s.stopped
	s.mu.Unlock()
	if stopped {
		return nil, errShutdown
	}
	return s.connect(opts)
}

// connect needs no lock: the server refuses by itself when it is shutting down.
func (s *Server) connect(opts []nats.Option) (*nats.Conn, error) {
	// The default of 2 s is not enough on a machine that stands still for a moment.
	all := append([]nats.Option{nats.InProcessServer(s.ns), nats.Timeout(readyTimeout)}, opts...)
	nc, err := nats.Connect("", all...)
	if err != nil {
		return nil, fmt.Errorf("embedded: connect: %w", err)
	}
	return nc, nil
}

// JetStream returns the server's JetStream, on a connection that the server keeps and that
// Shutdown closes. Every call returns the same one. It fails after Shutdown.
func (s *Server) JetStream() (jetstream.JetStream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, errShutdown
	}
	if s.js != nil {
		return s.js, nil
	}
	nc, err := s.connect([]nats.Option{nats.Name("embedded"), nats.MaxReconnects(-1)})
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("embedded: JetStream: %w", err)
	}
	s.nc, s.js = nc, js
	return js, nil
}

// URL returns the address for programs on this machine, as in "nats://127.0.0.1:4222", and ""
// for a server that does not listen. It stays the same after Shutdown.
func (s *Server) URL() string {
	return s.url
}

// clientURL is the address that ns is bound to, as someone on this machine dials it.
func clientURL(ns *server.Server) string {
	addr, ok := ns.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	if addr.IP.IsUnspecified() {
		addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: addr.Port}
	}
	return "nats://" + addr.String()
}

// Shutdown closes the connection under JetStream, shuts the server down and waits for its
// end. What was acknowledged stays in the directory. It may be called more than once and from
// several goroutines: every call returns after the end.
func (s *Server) Shutdown() {
	s.shutdown.Do(func() {
		s.mu.Lock()
		s.stopped = true
		nc := s.nc
		s.mu.Unlock()
		if nc != nil {
			nc.Close()
		}
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
		s.release()
	})
}
