package jskvtest_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// quiet is how long nothing has to arrive before we believe that nothing does.
const quiet = 100 * time.Millisecond

// newProxied starts a server and a proxy to it.
func newProxied(t *testing.T) (*jskvtest.Server, *jskvtest.Proxy) {
	t.Helper()
	srv := jskvtest.NewServer(t)
	return srv, jskvtest.NewProxy(t, srv.URL())
}

// counted connects through the proxy and counts the disconnections.
func counted(p *jskvtest.Proxy) (*nats.Conn, *atomic.Int32) {
	var n atomic.Int32
	return p.Conn(nats.DisconnectErrHandler(func(*nats.Conn, error) { n.Add(1) })), &n
}

// requireCuts waits for so many disconnections, which the client tells of on a goroutine of its own.
func requireCuts(t *testing.T, cuts *atomic.Int32, n int32) {
	t.Helper()
	require.Eventually(t, func() bool { return cuts.Load() >= n }, soon, tick)
	require.Equal(t, n, cuts.Load())
}

// request asks the echo service once.
func request(nc *nats.Conn, limit time.Duration) error {
	_, err := nc.Request("echo", []byte("hello"), limit)
	return err
}

// serveEcho answers requests, on a connection of its own that no fault touches.
func serveEcho(t *testing.T, srv *jskvtest.Server) {
	t.Helper()
	nc := srv.Conn()
	_, err := nc.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
}

func TestProxyForwards(t *testing.T) {
	srv, p := newProxied(t)
	kv := newBucket(t, p.JetStream(), "profiles")
	big := string(make([]byte, 700_000))
	put(t, kv, "big", big)
	require.Equal(t, big, get(t, bind(t, srv.JetStream(), "profiles"), "big"))
	require.Equal(t, 1, p.Connections())
	require.Equal(t, []string{p.URL()}, p.Conn().Servers())
}

func TestProxyTakesAnAddressInEveryForm(t *testing.T) {
	srv := jskvtest.NewServer(t)
	address := strings.TrimPrefix(srv.URL(), "nats://")
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	for _, target := range []string{address, "localhost:" + port, "nats://" + address, "tls://" + address, "nats://sue:secret@" + address} {
		p := jskvtest.NewProxy(t, target)
		nc, err := nats.Connect(p.URL(), nats.NoReconnect(), nats.Timeout(soon))
		require.NoError(t, err, target)
		nc.Close()
	}
}

func TestCutAndResetEndAllConnections(t *testing.T) {
	tests := []struct {
		why string
		cut func(*jskvtest.Proxy)
		end error // of reading
	}{
		{"the orderly end", (*jskvtest.Proxy).Cut, io.EOF},
		{"the disorderly end", (*jskvtest.Proxy).Reset, syscall.ECONNRESET},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			t.Run("seen by TCP", func(t *testing.T) {
				near, far, p := newPipe(t)
				tt.cut(p)
				for _, conn := range []net.Conn{near, far} {
					_, err := conn.Read(make([]byte, 1))
					require.ErrorIs(t, err, tt.end)
				}
				require.Eventually(t, func() bool { return p.Connections() == 0 }, soon, tick)
			})
			t.Run("seen by NATS", func(t *testing.T) {
				_, p := newProxied(t)
				one, cuts := counted(p)
				two := p.Conn()
				tt.cut(p)
				for _, nc := range []*nats.Conn{one, two} {
					require.Eventually(t, func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() }, soon, tick)
				}
				requireCuts(t, cuts, 1)
			})
		})
	}
}

// firstRead connects to the proxy and returns the error of dialling or of the first read.
func firstRead(p *jskvtest.Proxy) error {
	conn, err := net.Dial("tcp", address(p.URL()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1))
	return err
}

func TestRefuseKeepsClientsOutUntilAccept(t *testing.T) {
	_, p := newProxied(t)
	nc := p.Conn()
	p.Refuse()
	require.NoError(t, nc.Flush(), "connections that exist go on")
	p.Cut()
	require.Eventually(t, nc.IsReconnecting, soon, tick)
	require.ErrorIs(t, firstRead(p), syscall.ECONNRESET)
	require.True(t, nc.IsReconnecting())

	p.Accept()
	requireConnected(t, nc)
}

func TestProxyWithoutServerResets(t *testing.T) {
	srv, p := newProxied(t)
	nc := p.Conn()
	srv.Stop()
	require.Eventually(t, nc.IsReconnecting, soon, tick, "the end of the server's stream is passed on")
	require.ErrorIs(t, firstRead(p), syscall.ECONNRESET)

	srv.Start()
	requireConnected(t, nc)
}

func TestDelayIsLatencyAndNotBandwidth(t *testing.T) {
	srv, p := newProxied(t)
	serveEcho(t, srv)
	nc := p.Conn()
	const d = 100 * time.Millisecond
	p.Delay(jskvtest.ToServer, d)
	p.Delay(jskvtest.ToClient, d)

	start := time.Now()
	require.NoError(t, request(nc, soon))
	require.GreaterOrEqual(t, time.Since(start), 2*d)

	start = time.Now()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { assert.NoError(t, request(nc, soon)) })
	}
	wg.Wait()
	require.Less(t, time.Since(start), 50*d, "requests that are on the way at the same time wait at the same time")

	p.Delay(jskvtest.Both, 0)
	require.Eventually(t, func() bool { // a busy machine delays some, too
		start = time.Now()
		return request(nc, soon) == nil && time.Since(start) < 2*d
	}, soon, tick)
}

func TestStallLosesNothing(t *testing.T) {
	for _, dir := range []jskvtest.Direction{jskvtest.ToServer, jskvtest.ToClient, jskvtest.Both} {
		t.Run(dir.String(), func(t *testing.T) {
			srv, p := newProxied(t)
			serveEcho(t, srv)
			nc, cuts := counted(p)
			require.NoError(t, request(nc, soon))
			sub, err := nc.SubscribeSync("answers")
			require.NoError(t, err)

			p.Stall(dir)
			for i := range 100 {
				require.NoError(t, nc.PublishRequest("echo", "answers", fmt.Append(nil, i)))
			}
			require.ErrorIs(t, request(nc, quiet), nats.ErrTimeout)

			p.Heal()
			for i := range 100 {
				m, err := sub.NextMsg(soon)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(i), string(m.Data))
			}
			require.Zero(t, cuts.Load())
		})
	}
}

// healer ends a proxy's faults when it is dialled for the second time.
type healer struct {
	proxy *jskvtest.Proxy
	dials atomic.Int64
}

func (h *healer) Dial(network, address string) (net.Conn, error) {
	if h.dials.Add(1) == 2 {
		h.proxy.Heal()
	}
	return net.Dial(network, address)
}

func TestConnIsMadeAlthoughNobodyAnswersForAMoment(t *testing.T) {
	t.Parallel() // it waits most of the time
	_, p := newProxied(t)
	p.Stall(jskvtest.ToClient)
	h := &healer{proxy: p}
	requireConnected(t, p.Conn(nats.Timeout(time.Second), nats.SetCustomDialer(h)))
	require.GreaterOrEqual(t, h.dials.Load(), int64(2))
}

func TestStallHidesTheServersEnd(t *testing.T) {
	srv, p := newProxied(t)
	nc, cuts := counted(p)
	p.Stall(jskvtest.ToClient)
	srv.Stop()
	require.Error(t, nc.FlushTimeout(quiet))
	require.True(t, nc.IsConnected())
	require.Zero(t, cuts.Load())

	p.Heal()
	require.Eventually(t, nc.IsReconnecting, soon, tick)
}

func TestBlackholeLosesAndHealResets(t *testing.T) {
	tests := []struct {
		dir     jskvtest.Direction
		applied bool
	}{
		{jskvtest.ToServer, false},
		{jskvtest.ToClient, true},
	}
	for _, tt := range tests {
		t.Run(tt.dir.String(), func(t *testing.T) {
			srv, p := newProxied(t)
			nc, cuts := counted(p)
			reader := srv.Conn()
			sub, err := reader.SubscribeSync("news")
			require.NoError(t, err)
			require.NoError(t, reader.Flush())

			p.Blackhole(tt.dir)
			require.NoError(t, nc.Publish("news", []byte("one")), "the sender notices nothing")
			require.Error(t, nc.FlushTimeout(quiet))
			require.Eventually(t, func() bool { return p.Lossy() == 1 }, soon, tick)
			require.True(t, nc.IsConnected())

			p.Heal()
			require.Eventually(t, func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() }, soon, tick)
			requireCuts(t, cuts, 1)
			want := []string{"two"}
			if tt.applied {
				want = []string{"one", "two"}
			}
			require.NoError(t, nc.Publish("news", []byte("two")))
			for _, w := range want {
				m, err := sub.NextMsg(soon)
				require.NoError(t, err)
				require.Equal(t, w, string(m.Data))
			}
		})
	}
}

func TestBlackholeSparesSilentConnections(t *testing.T) {
	// A server pings a new client after two seconds, which may be just now.
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) { o.DisableShortFirstPing = true }))
	p := jskvtest.NewProxy(t, srv.URL())
	serveEcho(t, srv)
	nc, cuts := counted(p)
	require.NoError(t, request(nc, soon))
	p.Blackhole(jskvtest.Both)
	p.Heal()
	require.NoError(t, request(nc, soon))
	require.Zero(t, cuts.Load())
}

func TestStallAfterBlackholeResets(t *testing.T) {
	_, p := newProxied(t)
	nc, cuts := counted(p)
	p.Blackhole(jskvtest.ToServer)
	require.Error(t, nc.FlushTimeout(quiet))
	require.Eventually(t, func() bool { return p.Lossy() == 1 }, soon, tick)
	p.Stall(jskvtest.ToServer)
	requireCuts(t, cuts, 1)
	p.Heal()
	requireConnected(t, nc)
}

func TestProxyEnds(t *testing.T) {
	srv := jskvtest.NewServer(t)
	var nc *nats.Conn
	t.Run("with the test, in whatever state", func(t *testing.T) {
		p := jskvtest.NewProxy(t, address(srv.URL()))
		nc = p.Conn()
		p.Delay(jskvtest.ToServer, time.Hour)
		p.Stall(jskvtest.ToClient)
		p.CutOn(jskvtest.Both, "never")
		require.NoError(t, nc.Publish("news", nil))
	})
	require.True(t, nc.IsClosed())
	require.Eventually(t, func() bool { return srv.NATS().NumClients() == 0 }, soon, tick)

	t.Run("with Close, which may be called again", func(t *testing.T) {
		p := jskvtest.NewProxy(t, srv.URL())
		nc := p.Conn()
		p.Close()
		p.Close()
		require.Zero(t, p.Connections())
		require.Eventually(t, nc.IsReconnecting, soon, tick)
		_, err := net.Dial("tcp", address(p.URL()))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

func TestDirectionsHaveNames(t *testing.T) {
	require.Equal(t, "ToServer ToClient Both Direction(0)",
		fmt.Sprint(jskvtest.ToServer, " ", jskvtest.ToClient, " ", jskvtest.Both, " ", jskvtest.Direction(0)))
}
