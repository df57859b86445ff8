package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// Option changes what Start does. An invalid one makes Start fail; the last of several of
// one kind counts.
type Option func(*config)

// config is what the options fill in; serverOptions checks it.
type config struct {
	listen string
	domain string
	log    *slog.Logger
}

// Listen lets other programs connect to the server, over TCP at addr, which is host:port as
// in "127.0.0.1:4222". Port 0 takes a free port: URL tells which. The host must be stated,
// because the server asks nobody for a password: "0.0.0.0" is every interface, and an empty
// host is an error. Without Listen the server is reachable only from inside the program.
func Listen(addr string) Option {
	return func(c *config) { c.listen = addr }
}

// Domain puts the server's JetStream into a domain, under which other servers and clients
// address it (jetstream.NewWithDomain). The JetStream method works with or without. A domain
// is one subject token: it may not contain a dot, a space, * or >. Without Domain there is none.
func Domain(name string) Option {
	return func(c *config) { c.domain = name }
}

// Logger sends the server's log to l: its notices as Info, its fatal errors as Error, and its
// debug lines when l is enabled for slog.LevelDebug at the time of Start. Handlers must not
// call the server. Without Logger, or with nil, the server is silent.
func Logger(l *slog.Logger) Option {
	return func(c *config) { c.log = l }
}

// serverOptions is the one place that checks what the caller asked for.
func serverOptions(dir string, c config) (*server.Options, error) {
	if dir == "" {
		return nil, errors.New("no directory to store in")
	}
	if strings.ContainsAny(c.domain, ".*> \t\r\n") {
		return nil, fmt.Errorf("domain %q is not a subject token", c.domain)
	}
	opts := &server.Options{
		JetStream:       true,
		StoreDir:        dir,
		JetStreamDomain: c.domain,
		DontListen:      true,
		NoSigs:          true, // Signals are the program's business.
		NoLog:           true,
	}
	if c.listen == "" {
		return opts, nil
	}
	host, port, err := splitAddr(c.listen)
	if err != nil {
		return nil, err
	}
	opts.DontListen, opts.Host, opts.Port = false, host, port
	return opts, nil
}

// splitAddr takes addr apart; the port is in the server's way of saying it, where zero means
// 4222 and RANDOM_PORT means any.
func splitAddr(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("listen address: %w", err)
	}
	if host == "" {
		return "", 0, fmt.Errorf("listen address %q: no host", addr)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q: port is not a number from 0 to 65535", addr)
	}
	if n == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(n), nil
}
