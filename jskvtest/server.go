package jskvtest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// readyTimeout bounds the wait for one server to start.
const readyTimeout = 20 * time.Second

// authTimeout is how long a client may take to say who it is, unless options say otherwise. A server's default are
// 2 s, in which a machine may stand still, and what the client is told then is no timeout.
const authTimeout = 20 * time.Second

// Server is a NATS server with JetStream inside the test's process, which can be stopped and
// started again with its data and its address. NewServer makes one, NewCluster several that
// belong together; the zero value is not usable.
//
// Safe for concurrent use. The methods end the test when they fail, which works only in the
// test's own goroutine (see testing.T.FailNow); in others the test is marked as failed and
// the goroutine ends.
type Server struct {
	tb      testing.TB
	cfg     config
	name    string
	dir     string
	port    int
	cluster *server.ClusterOpts // nil for a server on its own
	routes  []*url.URL

	lifecycle sync.Mutex // held through Start and Stop

	mu    sync.Mutex // guards what follows
	ns    *server.Server
	conns []*nats.Conn
}

// NewServer starts a server that listens on a free port of 127.0.0.1 and stores in a
// temporary directory, and returns when it is ready. When the test ends, its connections are
// closed and then the server is stopped.
//
// The test ends at once when the server cannot be started.
func NewServer(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	// The directory comes first: cleanups run backwards, and it must outlive the server.
	s := &Server{tb: tb, cfg: newConfig(opts), name: "jskvtest", dir: tb.TempDir()}
	s.port = reserve(tb)
	tb.Cleanup(s.end)
	s.Start()
	return s
}

// reserve is reservePort for the length of the test.
func reserve(tb testing.TB) int {
	tb.Helper()
	port, release, err := reservePort()
	if err != nil {
		tb.Fatalf("jskvtest: %v", err)
	}
	tb.Cleanup(release)
	return port
}

// end is what happens to the server when the test ends.
func (s *Server) end() {
	s.closeConns()
	s.Stop()
}

// URL returns the server's address, as in "nats://127.0.0.1:34567". It stays the same through
// stops and starts.
func (s *Server) URL() string {
	return "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
}

// Name returns the server's name, which server and client use for it in their messages: in
// a cluster "s0" is the server with index 0.
func (s *Server) Name() string {
	return s.name
}

// NATS returns the server itself, for what this package does not offer, and nil while it is
// stopped. Every start makes a new one.
func (s *Server) NATS() *server.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ns
}

// Conn returns a new connection to this server and to no other, closed when the test ends. It
// reconnects for ever, every 50 ms; opts come on top and may change that. The test ends when
// the connection cannot be made, as when the server is stopped (unless opts have
// nats.RetryOnFailedConnect).
func (s *Server) Conn(opts ...nats.Option) *nats.Conn {
	s.tb.Helper()
	nc := connect(s.tb, s.URL(), append([]nats.Option{nats.IgnoreDiscoveredServers()}, opts...))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, nc)
	return nc
}

// JetStream returns the server's JetStream on a new connection from Conn.
func (s *Server) JetStream(opts ...nats.Option) jetstream.JetStream {
	s.tb.Helper()
	return newJetStream(s.tb, s.Conn(opts...))
}

// Start starts the server again after Stop, with the same address and the same data, and
// returns when it accepts connections and JetStream has recovered its streams. In a cluster
// that does not mean that its replicas have caught up: see Cluster.WaitCurrent. It does
// nothing when the server is running. The test ends when the server does not start.
func (s *Server) Start() {
	s.tb.Helper()
	if err := s.start(); err != nil {
		s.tb.Fatalf("jskvtest: start server %s: %v", s.name, err)
	}
}

// Stop shuts the server down as an operator would and returns when it has ended: it hands its
// leaderships over, data stays. Clients see their connections closed. It does nothing when
// the server is stopped.
func (s *Server) Stop() {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	s.mu.Lock()
	ns := s.ns
	s.ns = nil
	s.mu.Unlock()
	if ns != nil {
		shutdown(ns)
	}
}

// Restart is Stop and Start.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	s.Start()
}

func (s *Server) start() error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	if s.NATS() != nil {
		return nil
	}
	ns, err := server.NewServer(s.options())
	if err != nil {
		return err
	}
	log := &failLog{}
	ns.SetLoggerV2(log, false, false, false)
	ns.Start()
	if err := waitReady(ns, log); err != nil {
		shutdown(ns)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ns = ns
	return nil
}

// options makes the options anew for every start, because the server writes into its own.
func (s *Server) options() *server.Options {
	o := &server.Options{Routes: slices.Clone(s.routes)}
	s.own(o) // for change to see
	for _, change := range s.cfg.change {
		change(o)
	}
	s.own(o)
	if o.AuthTimeout == 0 {
		o.AuthTimeout = authTimeout.Seconds()
	}
	return o
}

// own sets what is not to be changed.
func (s *Server) own(o *server.Options) {
	o.ServerName = s.name
	o.Host, o.Port, o.DontListen = "127.0.0.1", s.port, false
	o.JetStream, o.StoreDir = true, s.dir
	o.NoSigs, o.NoLog = true, true
	if c := s.cluster; c != nil {
		o.Cluster.Name, o.Cluster.Host, o.Cluster.Port = c.Name, c.Host, c.Port
	}
}

func waitReady(ns *server.Server, log *failLog) error {
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

func shutdown(ns *server.Server) {
	ns.Shutdown()
	ns.WaitForShutdown()
}

func (s *Server) closeConns() {
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for _, nc := range conns {
		nc.Close()
	}
}
