package jskvtest

import (
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// electTimeout bounds the wait for leaders and replicas. A server that waits for a silent
// leader does so for up to 9 seconds, and the vote may have to be repeated.
const electTimeout = 40 * time.Second

// Cluster is a number of servers that replicate JetStream among themselves, in the test's
// process. NewCluster makes one; the zero value is not usable.
//
// Safe for concurrent use; the methods end the test when they fail, as those of Server do.
type Cluster struct {
	tb      testing.TB
	account string
	servers []*Server

	mu    sync.Mutex // guards conns
	conns []*nats.Conn
}

// NewCluster starts n servers, at least two, on free ports of 127.0.0.1, that know each other
// and returns when they have elected a leader and all of them have caught up with it. When the
// test ends, its connections are closed and then the servers are stopped.
//
// The test ends at once when n is too small, when a server does not start and when the cluster
// is not ready within 40 seconds.
func NewCluster(tb testing.TB, n int, opts ...Option) *Cluster {
	tb.Helper()
	if n < 2 {
		// nats-server elects nobody then: a vote needs somebody to answer it.
		tb.Fatalf("jskvtest: a cluster of %d servers: want at least 2", n)
	}
	cfg := newConfig(opts)
	c := &Cluster{tb: tb, account: cfg.account, servers: make([]*Server, n)}
	ports, routes := routePorts(tb, n)
	for i := range c.servers {
		c.servers[i] = &Server{
			tb: tb, cfg: cfg, name: "s" + strconv.Itoa(i), dir: tb.TempDir(), port: reserve(tb), routes: routes,
			cluster: &server.ClusterOpts{Name: "jskvtest", Host: "127.0.0.1", Port: ports[i]},
		}
	}
	tb.Cleanup(c.end)
	c.Start()
	return c
}

// routePorts picks the ports on which the servers talk to each other, in advance: all routes
// are known then to all servers, and come back after every restart.
func routePorts(tb testing.TB, n int) (ports []int, routes []*url.URL) {
	tb.Helper()
	for range n {
		port := reserve(tb)
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))})
	}
	return ports, routes
}

// end is what happens to the cluster when the test ends.
func (c *Cluster) end() {
	c.mu.Lock()
	conns := c.conns
	c.conns = nil
	c.mu.Unlock()
	for _, nc := range conns {
		nc.Close()
	}
	for _, s := range c.servers {
		s.closeConns()
	}
	c.Stop()
}

// Servers returns all servers, in the order of their indexes.
func (c *Cluster) Servers() []*Server {
	return slices.Clone(c.servers)
}

// Server returns the server with index i, from 0 up. One can be stopped, started and
// connected to on its own.
func (c *Cluster) Server(i int) *Server {
	c.tb.Helper()
	if i < 0 || i >= len(c.servers) {
		c.tb.Fatalf("jskvtest: no server %d in a cluster of %d", i, len(c.servers))
	}
	return c.servers[i]
}

// URLs returns the addresses of all servers, in the order of their indexes.
func (c *Cluster) URLs() []string {
	urls := make([]string, len(c.servers))
	for i, s := range c.servers {
		urls[i] = s.URL()
	}
	return urls
}

// Conn returns a new connection to any server of the cluster, closed when the test ends. When
// its server stops, it goes to another one; it reconnects for ever, every 50 ms. opts come on
// top. The test ends when no server can be connected to.
func (c *Cluster) Conn(opts ...nats.Option) *nats.Conn {
	c.tb.Helper()
	urls := c.URLs()
	// nats.go shuffles, too, but only what comes after the first address.
	rand.Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] })
	nc := connect(c.tb, strings.Join(urls, ","), opts)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, nc)
	return nc
}

// ConnTo returns a new connection to the server with index i and to no other: it is
// Server(i).Conn.
func (c *Cluster) ConnTo(i int, opts ...nats.Option) *nats.Conn {
	c.tb.Helper()
	return c.Server(i).Conn(opts...)
}

// JetStream returns the cluster's JetStream on a new connection from Conn.
func (c *Cluster) JetStream(opts ...nats.Option) jetstream.JetStream {
	c.tb.Helper()
	return newJetStream(c.tb, c.Conn(opts...))
}

// Start starts all servers that are stopped and waits as WaitReady does.
func (c *Cluster) Start() {
	c.tb.Helper()
	for _, s := range c.servers {
		s.Start()
	}
	c.WaitReady()
}

// Stop stops all servers, at the same time, and returns when they have ended.
func (c *Cluster) Stop() {
	var wg sync.WaitGroup
	for _, s := range c.servers {
		wg.Go(s.Stop)
	}
	wg.Wait()
}

// Restart is Stop and Start: the cluster as a whole was away.
func (c *Cluster) Restart() {
	c.tb.Helper()
	c.Stop()
	c.Start()
}

// WaitReady returns when the servers that are running have a leader, know each other and have
// caught up with the leader's knowledge of streams and consumers, or ends the test after 40
// seconds: as when too few are running for a majority. The streams' own contents may still
// lag: see WaitCurrent.
func (c *Cluster) WaitReady() {
	c.tb.Helper()
	if !poll(electTimeout, c.ready) {
		c.tb.Fatalf("jskvtest: %d of %d servers are running and have not become a cluster within %v",
			len(c.running()), len(c.servers), electTimeout)
	}
}

func (c *Cluster) ready() bool {
	var peers []string
	running := c.running()
	for _, ns := range running {
		if !ns.JetStreamIsCurrent() {
			return false
		}
		if ns.JetStreamIsLeader() {
			peers = ns.JetStreamClusterPeers()
		}
	}
	return len(peers) > 0 && !slices.ContainsFunc(running, func(ns *server.Server) bool {
		return !slices.Contains(peers, ns.Name())
	})
}

// running are the servers that are not stopped.
func (c *Cluster) running() []*server.Server {
	var running []*server.Server
	for _, s := range c.servers {
		if ns := s.NATS(); ns != nil {
			running = append(running, ns)
		}
	}
	return running
}
