package embedded_test

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/embedded"
	"github.com/seed646b090f/jskv/internal/leak"
)

func TestMain(m *testing.M) {
	leak.VerifyTestMain(m)
}

// start starts a server that is shut down with the test at the latest.
func start(t *testing.T, dir string, opts ...embedded.Option) *embedded.Server {
	t.Helper()
	srv, err := embedded.Start(dir, opts...)
	require.NoError(t, err)
	t.Cleanup(srv.Shutdown)
	return srv
}

// jetStream is the server's JetStream.
func jetStream(t *testing.T, srv *embedded.Server) jetstream.JetStream {
	t.Helper()
	js, err := srv.JetStream()
	require.NoError(t, err)
	return js
}

func TestServesWhatAnEarlierServerStored(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "does", "not", "exist")
	srv := start(t, dir)
	kv, err := jetStream(t, srv).CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "profiles"})
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "sue.color", "blue")
	require.NoError(t, err)
	srv.Shutdown()
	require.DirExists(t, filepath.Join(dir, "jetstream"))

	kv, err = jetStream(t, start(t, dir)).KeyValue(t.Context(), "profiles")
	require.NoError(t, err)
	e, err := kv.Get(t.Context(), "sue.color")
	require.NoError(t, err)
	require.Equal(t, "blue", string(e.Value()))
}

// Two would each acknowledge writes that the other does not know of.
func TestADirectoryBelongsToOneServer(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir)
	second, err := embedded.Start(filepath.Join(dir, "..", filepath.Base(dir)))
	require.ErrorContains(t, err, "embedded: start server: ")
	require.ErrorContains(t, err, "another server")
	require.Nil(t, second)
	_, err = jetStream(t, first).AccountInfo(t.Context())
	require.NoError(t, err, "the first is left alone")
	start(t, t.TempDir())

	first.Shutdown()
	_, err = embedded.Start(dir, embedded.Listen("127.0.0.1:-1"))
	require.Error(t, err)
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, err = embedded.Start(dir, embedded.Listen(taken.Addr().String()))
	require.Error(t, err)
	start(t, dir)
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	tests := []struct {
		why  string
		dir  string
		opt  embedded.Option
		want string
	}{
		{"no directory: the caller is to know where the data is", "", embedded.Domain("hub"), "no directory"},
		{"a file cannot hold streams", file, embedded.Domain("hub"), "JetStream"},
		{"the address is taken", t.TempDir(), embedded.Listen(taken.Addr().String()), "address already in use"},
		{"an address needs a port", t.TempDir(), embedded.Listen("127.0.0.1"), "missing port"},
		{"all interfaces only when asked for", t.TempDir(), embedded.Listen(":4222"), "no host"},
		{"a port is a number", t.TempDir(), embedded.Listen("127.0.0.1:nats"), "port is not a number"},
		{"a port has 16 bits", t.TempDir(), embedded.Listen("127.0.0.1:65536"), "port is not a number"},
		{"minus one means nothing here", t.TempDir(), embedded.Listen("127.0.0.1:-1"), "port is not a number"},
		{"a domain is one token of subjects", t.TempDir(), embedded.Domain("a.b"), `domain "a.b"`},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			srv, err := embedded.Start(tt.dir, tt.opt)
			require.ErrorContains(t, err, "embedded: start server: ")
			require.ErrorContains(t, err, tt.want)
			require.Nil(t, srv)
		})
	}
}

func TestIsReachableOnlyFromInside(t *testing.T) {
	srv := start(t, t.TempDir())
	require.Empty(t, srv.URL())
	nc, err := srv.Conn(nats.Name("inside"))
	require.NoError(t, err)
	defer nc.Close()
	require.Equal(t, "inside", nc.Opts.Name)
	require.Equal(t, "pipe", nc.LocalAddr())
	require.NoError(t, nc.Flush())
}

func TestListens(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "0.0.0.0:0", "localhost:0"} {
		t.Run(addr, func(t *testing.T) {
			srv := start(t, t.TempDir(), embedded.Listen(addr))
			require.True(t, strings.HasPrefix(srv.URL(), "nats://127.0.0.1:"), srv.URL())
			nc, err := nats.Connect(srv.URL(), nats.Timeout(10*time.Second))
			require.NoError(t, err)
			defer nc.Close()
			inside, err := srv.Conn()
			require.NoError(t, err)
			defer inside.Close()
			require.Equal(t, nc.ConnectedServerId(), inside.ConnectedServerId())
		})
	}
}

func TestDomain(t *testing.T) {
	js := jetStream(t, start(t, t.TempDir(), embedded.Domain("hub")))
	info, err := js.AccountInfo(t.Context())
	require.NoError(t, err)
	require.Equal(t, "hub", info.Domain)
	hub, err := jetstream.NewWithDomain(js.Conn(), "hub")
	require.NoError(t, err)
	_, err = hub.AccountInfo(t.Context())
	require.NoError(t, err)
}

func TestLoggerGetsTheServersLog(t *testing.T) {
	logged := func(level slog.Level) string {
		var buf bytes.Buffer
		srv := start(t, t.TempDir(), embedded.Logger(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: level}))))
		nc, err := srv.Conn()
		require.NoError(t, err)
		nc.Close()
		srv.Shutdown() // the handler's buffer is ours again
		return buf.String()
	}
	info := logged(slog.LevelInfo)
	require.Contains(t, info, "Server is ready")
	require.NotContains(t, info, "level=DEBUG")
	require.Contains(t, logged(slog.LevelDebug), "level=DEBUG")
}

func TestJetStreamIsAlwaysTheSame(t *testing.T) {
	srv := start(t, t.TempDir())
	got := make([]jetstream.JetStream, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			js, err := srv.JetStream()
			assert.NoError(t, err)
			got[i] = js
		})
	}
	wg.Wait()
	for _, js := range got {
		require.Same(t, got[0].Conn(), js.Conn())
	}
}

func TestShutdownEndsItOnceForAll(t *testing.T) {
	srv := start(t, t.TempDir(), embedded.Listen("127.0.0.1:0"))
	url := srv.URL()
	js := jetStream(t, srv)
	ours, err := srv.Conn(nats.ReconnectWait(time.Millisecond), nats.MaxReconnects(-1)) // or it gives up before it is looked at
	require.NoError(t, err)
	defer ours.Close()

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			srv.Shutdown()
			_, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
			assert.Error(t, err, "every call waits for the end")
		})
	}
	wg.Wait()
	srv.Shutdown()

	require.True(t, js.Conn().IsClosed())
	require.Equal(t, url, srv.URL())
	_, err = srv.Conn()
	require.EqualError(t, err, "embedded: the server has been shut down")
	_, err = srv.JetStream()
	require.EqualError(t, err, "embedded: the server has been shut down")
	require.Eventually(t, ours.IsReconnecting, 10*time.Second, time.Millisecond, "it is the caller's to close")
}

func TestConnectionsDuringShutdown(t *testing.T) {
	srv := start(t, t.TempDir())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				nc, err := srv.Conn(nats.NoReconnect())
				if err != nil {
					return
				}
				nc.Close()
				if _, err := srv.JetStream(); err != nil {
					return
				}
			}
		})
	}
	srv.Shutdown()
	wg.Wait()
}
