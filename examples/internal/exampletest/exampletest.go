// Package exampletest builds and runs an example for its tests, and checks what every example
// promises. The examples themselves share no code: whoever starts from one copies one file.
package exampletest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/internal/leak"
	"github.com/seed646b090f/jskv/jskvtest"
)

// program is the program of the folder that is being tested.
var program string

// Main builds the program of the test's folder and runs the tests, which must leave no goroutine
// behind. It returns their exit status.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "jskv-example-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "program")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	status := m.Run()
	if err := leak.Find(); status == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// Result is one run of the program.
type Result struct {
	Stdout, Stderr string
	Exit           int
}

// Run runs the program with NATS_URL when url is not empty, in a folder and with a temporary
// folder of its own, which it must leave empty.
func Run(t *testing.T, url string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	temp := t.TempDir()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = t.TempDir()
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "NATS_URL=") && !strings.HasPrefix(variable, "TMPDIR=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "TMPDIR="+temp)
	if url != "" {
		cmd.Env = append(cmd.Env, "NATS_URL="+url)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	for _, dir := range []string{temp, cmd.Dir} {
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left, "nothing is left behind")
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Meanwhile has do done before the server's first answer with the text in it is passed on: while a program that
// uses the address which it returns, for the server at url, waits for that answer.
func Meanwhile(t *testing.T, url, text string, do func()) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	var passing sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		passing.Wait()
	})
	passing.Go(func() {
		program, err := listener.Accept() // an example makes one connection
		if err != nil {
			return // the program's end tells that it made none
		}
		defer program.Close()
		server, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
		if !assert.NoError(t, err) {
			return
		}
		passing.Go(func() {
			_, _ = io.Copy(server, program) // until the program ends
			_ = server.Close()
		})
		_, _ = io.Copy(&trap{Conn: program, text: []byte(text), do: do}, server)
	})
	return "nats://" + listener.Addr().String()
}

// trap does something before it writes a text.
type trap struct {
	net.Conn
	text, seen []byte
	do         func() // nil when it is done
}

func (w *trap) Write(data []byte) (int, error) {
	if w.do != nil {
		w.seen = append(w.seen, data...)
		if bytes.Contains(w.seen, w.text) {
			w.do()
			w.do = nil
		}
	}
	return w.Conn.Write(data)
}

// Prints checks that a run went well, without a word on stderr, and printed output byte for byte.
func Prints(output string) func(*testing.T, Result) {
	return func(t *testing.T, got Result) {
		t.Helper()
		require.Zero(t, got.Exit, got.Stderr)
		require.Equal(t, output, got.Stdout)
		require.Empty(t, got.Stderr)
	}
}

// Manners checks what every example promises: it runs on a server of its own, and on another one
// that it leaves as it was; and it refuses to touch a bucket of its names that is there already.
// check is for the runs that go well.
func Manners(t *testing.T, check func(*testing.T, Result), buckets ...string) {
	t.Run("with its own server", func(t *testing.T) {
		t.Parallel()
		check(t, Run(t, ""))
	})
	t.Run("on another server, which it leaves as it was", func(t *testing.T) {
		t.Parallel()
		srv := jskvtest.NewServer(t)
		js := srv.JetStream()
		_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "other"})
		require.NoError(t, err)
		for range 2 { // a second time, because the first removed its buckets
			check(t, Run(t, srv.URL()))
			require.Equal(t, []string{"KV_other"}, Streams(t, js))
		}
	})
	for _, bucket := range buckets {
		t.Run("leaves alone a bucket "+bucket+" that was there before", func(t *testing.T) {
			t.Parallel()
			leavesAlone(t, jetstream.KeyValueConfig{Bucket: bucket})
			leavesAlone(t, jetstream.KeyValueConfig{Bucket: bucket, History: 7, Description: "mine"})
		})
	}
	t.Run("says which server cannot be reached", func(t *testing.T) {
		t.Parallel()
		srv := jskvtest.NewServer(t)
		srv.Stop()
		got := Run(t, srv.URL())
		require.NotZero(t, got.Exit)
		require.Empty(t, got.Stdout)
		require.Contains(t, got.Stderr, srv.URL())
	})
}

func leavesAlone(t *testing.T, cfg jetstream.KeyValueConfig) {
	t.Helper()
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	kv, err := js.CreateKeyValue(t.Context(), cfg)
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "sue", "mine")
	require.NoError(t, err)
	stream := "KV_" + cfg.Bucket
	before, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)

	got := Run(t, srv.URL())
	require.NotZero(t, got.Exit)
	require.Empty(t, got.Stdout)
	require.Contains(t, got.Stderr, `"`+cfg.Bucket+`"`)
	require.Contains(t, got.Stderr, "already")

	require.Equal(t, []string{stream}, Streams(t, js))
	after, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	require.Equal(t, before.CachedInfo().Created, after.CachedInfo().Created)
	require.Equal(t, before.CachedInfo().Config, after.CachedInfo().Config)
	require.Equal(t, before.CachedInfo().State, after.CachedInfo().State)
}

// Streams returns the names of a server's streams.
func Streams(t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	var names []string
	lister := js.StreamNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	require.NoError(t, lister.Err())
	return names
}
