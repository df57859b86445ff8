package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/embed"
)

// The other side of a child: the servers, all on 127.0.0.1.

const (
	serveCommand = "serve"
	startTimeout = 60 * time.Second
	maxConsumers = 20_000  // of a stream: each watcher is one, and the default is too few for 10,000
	maxPayload   = 8 << 20 // nats-server's default of 1 MiB has no room for a value of 1 MiB and a header
	etcdQuota    = 8 << 30 // etcd's default of 2 GiB is for its history, which a benchmark fills quickly
)

// serveOptions are what a child is told on its command line.
type serveOptions struct {
	kind string // kindNATS, kindCluster or kindEtcd
	dir  string
	port int  // for clients; 0 takes a free one
	sync bool // every write, before it is acknowledged
}

const (
	kindNATS    = "nats-server"
	kindCluster = "cluster"
	kindEtcd    = "etcd"
)

func (o serveOptions) args() []string {
	return []string{serveCommand, "-kind", o.kind, "-dir", o.dir, "-port", strconv.Itoa(o.port), "-sync=" + strconv.FormatBool(o.sync)}
}

// serve runs servers until standard input ends.
func serve(args []string) error {
	// A terminal sends it to the whole group: the parent decides when its servers end.
	signal.Ignore(os.Interrupt)
	var o serveOptions
	flags := flag.NewFlagSet(serveCommand, flag.ContinueOnError)
	flags.StringVar(&o.kind, "kind", "", "what to serve")
	flags.StringVar(&o.dir, "dir", "", "where to store it")
	flags.IntVar(&o.port, "port", 0, "for clients, 0: a free one")
	flags.BoolVar(&o.sync, "sync", false, "sync every write to the disk")
	if err := flags.Parse(args); err != nil {
		return err
	}
	stop, err := o.start()
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// start starts the servers, prints their addresses and returns what stops them.
func (o serveOptions) start() (stop func(), err error) {
	switch o.kind {
	case kindNATS:
		return printed(startNATS(o.dir, o.port, o.sync))
	case kindCluster:
		return printed(startCluster(o.dir))
	case kindEtcd:
		return startEtcd(o)
	}
	return nil, fmt.Errorf("no server is called %q", o.kind)
}

func printed(servers []*server.Server, err error) (stop func(), _ error) {
	for _, ns := range servers {
		fmt.Println(ns.ClientURL())
	}
	return func() { shutdown(servers) }, err
}

func shutdown(servers []*server.Server) {
	for _, ns := range servers {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
}

func natsOptions(dir string, port int, sync bool) *server.Options {
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return &server.Options{
		Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: dir, SyncAlways: sync,
		JetStreamLimits: server.JSLimitOpts{DefaultMaxConsumers: maxConsumers},
	}
}

func startNATS(dir string, port int, sync bool) ([]*server.Server, error) {
	ns, err := server.NewServer(natsOptions(dir, port, sync))
	if err != nil {
		return nil, err
	}
	ns.Start()
	if !ns.ReadyForConnections(startTimeout) || !ns.JetStreamEnabled() {
		shutdown([]*server.Server{ns})
		return nil, errors.New("nats-server is not ready for connections")
	}
	return []*server.Server{ns}, nil
}

// startCluster starts three servers that replicate among themselves.
func startCluster(dir string) (servers []*server.Server, err error) {
	defer func() {
		if err != nil {
			shutdown(servers)
		}
	}()
	ports, routes, err := routePorts(3)
	if err != nil {
		return nil, err
	}
	for i, port := range ports {
		opts := natsOptions(filepath.Join(dir, strconv.Itoa(i)), 0, false)
		opts.ServerName = "s" + strconv.Itoa(i)
		opts.Cluster = server.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: port}
		opts.Routes = routes
		ns, err := server.NewServer(opts)
		if err != nil {
			return servers, err
		}
		ns.Start()
		servers = append(servers, ns)
	}
	return servers, awaitCluster(servers)
}

// routePorts picks the ports on which the servers find each other. All are held until all are
// known, so that they differ.
func routePorts(n int) (ports []int, routes []*url.URL, err error) {
	for range n {
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		defer func() { _ = listener.Close() }() // nobody has used it
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: listener.Addr().String()})
	}
	return ports, routes, nil
}

// awaitCluster returns when the servers have elected a leader and know what it knows.
func awaitCluster(servers []*server.Server) error {
	deadline := time.Now().Add(startTimeout)
	for _, ns := range servers {
		for !ns.ReadyForConnections(time.Second) || !ns.JetStreamIsCurrent() {
			if time.Now().After(deadline) {
				return fmt.Errorf("the cluster is not ready after %v", startTimeout)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

func startEtcd(o serveOptions) (stop func(), err error) {
	cfg := embed.NewConfig()
	cfg.Dir = o.dir
	cfg.LogLevel = "fatal"
	cfg.UnsafeNoFsync = !o.sync
	cfg.QuotaBackendBytes = etcdQuota
	client := url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(o.port))}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		return nil, err
	case <-time.After(startTimeout):
		etcd.Close()
		return nil, errors.New("etcd is not ready")
	}
	fmt.Println(etcd.Clients[0].Addr())
	return etcd.Close, nil
}
