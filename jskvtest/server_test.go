package jskvtest_test

import (
	"net"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

func TestRestartKeepsAddressAndData(t *testing.T) {
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	kv := newBucket(t, js, "profiles")
	put(t, kv, "sue.color", "blue")
	url, before := srv.URL(), srv.NATS()

	srv.Restart()

	require.Equal(t, url, srv.URL())
	require.NotSame(t, before, srv.NATS())
	requireConnected(t, js.Conn())
	require.Equal(t, "blue", get(t, kv, "sue.color"))
	require.Equal(t, "blue", get(t, bind(t, srv.JetStream(), "profiles"), "sue.color"))
}

func TestStoppedServerRefusesConnections(t *testing.T) {
	srv := jskvtest.NewServer(t)
	nc := srv.Conn()

	srv.Stop()

	require.Nil(t, srv.NATS())
	require.Eventually(t, nc.IsReconnecting, soon, tick)
	_, err := net.Dial("tcp", address(srv.URL()))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	_, err = nats.Connect(srv.URL())
	require.ErrorIs(t, err, nats.ErrNoServers)

	srv.Start()
	requireConnected(t, nc)
}

func TestStopAndStartAreIdempotentAndConcurrent(t *testing.T) {
	srv := jskvtest.NewServer(t)
	for _, do := range []func(){srv.Start, srv.Stop, srv.Start} {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(do)
		}
		wg.Wait()
	}
	require.True(t, srv.NATS().Running())
	require.True(t, srv.Conn().IsConnected())
}

func TestRestartManyTimesWhileClientsDial(t *testing.T) {
	// The port is nobody's while the server is stopped, and everybody wants ports.
	srv := jskvtest.NewServer(t)
	var clients []*nats.Conn
	for range 10 {
		clients = append(clients, srv.Conn(nats.ReconnectWait(1),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))) // errors are expected
	}
	for range 10 {
		srv.Restart()
	}
	for _, nc := range clients {
		requireConnected(t, nc)
	}
}

func TestConnIsNewEachTime(t *testing.T) {
	srv := jskvtest.NewServer(t)
	one, two := srv.Conn(), srv.Conn(nats.Name("two"))
	require.NotSame(t, one, two)
	require.Equal(t, t.Name(), one.Opts.Name)
	require.Equal(t, "two", two.Opts.Name, "the caller's options come last")
	require.NotSame(t, srv.JetStream().Conn(), srv.JetStream().Conn())
}

func TestWithOptionsChangesTheServer(t *testing.T) {
	srv := jskvtest.NewServer(t,
		jskvtest.WithOptions(func(o *server.Options) {
			o.JetStreamDomain = "hub"
			o.Port, o.StoreDir, o.JetStream = 1, "/nowhere", false // not to be changed
		}),
		jskvtest.WithOptions(func(o *server.Options) { o.MaxPayload = 4096 }))

	check := func() {
		js := srv.JetStream()
		require.Equal(t, int64(4096), js.Conn().MaxPayload())
		info, err := js.AccountInfo(t.Context())
		require.NoError(t, err)
		require.Equal(t, "hub", info.Domain)
	}
	check()
	srv.Restart()
	check()
}

func TestWithOptionsTakesAWholeConfiguration(t *testing.T) {
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		require.NoError(t, o.ProcessConfigString(`accounts {
			TEAM { jetstream: enabled, users: [{user: sue, password: pw}] }
		}`))
	}))
	newBucket(t, srv.JetStream(nats.UserInfo("sue", "pw")), "profiles")

	failure := failureOf(func(tb testing.TB) {
		jskvtest.NewServer(tb, jskvtest.WithOptions(func(o *server.Options) { o.Authorization = "secret" })).Conn()
	})
	require.Contains(t, failure, "Authorization Violation")
}

func TestEverythingEndsWithTheTest(t *testing.T) {
	var (
		nc  *nats.Conn
		ns  *server.Server
		dir string
	)
	t.Run("a test", func(t *testing.T) {
		srv := jskvtest.NewServer(t)
		t.Cleanup(func() { require.True(t, nc.IsConnected(), "cleanups of the test still have the connection") })
		nc, ns = srv.Conn(nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			assert.NoError(t, err, "the connection is closed before the server is stopped")
		})), srv.NATS()
		dir = ns.StoreDir()
	})
	require.True(t, nc.IsClosed())
	require.False(t, ns.Running())
	_, err := os.Stat(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestServerFailuresEndTheTest(t *testing.T) {
	tests := []struct {
		why  string
		test func(tb testing.TB)
		want string
	}{
		{"options that nats-server rejects", func(tb testing.TB) {
			jskvtest.NewServer(tb, jskvtest.WithOptions(func(o *server.Options) { o.MaxPayload, o.MaxPending = 10, 5 }))
		}, "start server jskvtest: max_payload"},
		{"a fatal error of nats-server", func(tb testing.TB) {
			jskvtest.NewServer(tb, jskvtest.WithOptions(func(o *server.Options) { o.PidFile = "/nowhere/pid" }))
		}, "start server jskvtest: Could not write pidfile"},
		{"a connection to a stopped server", func(tb testing.TB) {
			srv := jskvtest.NewServer(tb)
			srv.Stop()
			srv.Conn()
		}, "no servers available"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			require.Contains(t, failureOf(tt.test), tt.want)
		})
	}
}
