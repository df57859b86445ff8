package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// output is what the program must print, byte for byte.
const output = `log: checkout.express is at 0 %
log: search.fuzzy is at 100 %
  checkout.express: 0 of 1000 users
  search.fuzzy: 1000 of 1000 users
log: checkout.express goes from 0 % to 10 %
  checkout.express: 106 of 1000 users
log: checkout.express goes from 10 % to 50 %
  checkout.express: 498 of 1000 users
log: checkout.express goes from 50 % to 100 %
  checkout.express: 1000 of 1000 users
log: checkout.express is gone
  checkout.express: 0 of 1000 users
log: search.voice is at 100 %
log: search.voice is off, its value is no flag: on
  search.fuzzy: 1000 of 1000 users
log: search.voice is at 20 %
of the team search:
  search.fuzzy, revision 2
  search.voice, revision 9
200000 decisions by 4 workers, and no request to the server
`

// program is the built program.
var program string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "jskv-config-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "config")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	return m.Run()
}

// result is one run of the program.
type result struct {
	stdout, stderr string
	exit           int
}

// runProgram runs the program with a temporary directory of its own, which it must leave empty,
// and with NATS_URL when url is not empty.
func runProgram(t *testing.T, url string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	temp := t.TempDir()
	cmd := exec.CommandContext(ctx, program)
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
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	require.Empty(t, left, "nothing is left behind")
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func requireFlags(t *testing.T, got result) {
	t.Helper()
	require.Zero(t, got.exit, got.stderr)
	require.Equal(t, output, got.stdout)
	require.Empty(t, got.stderr)
}

func TestTheFlagsWithTheirOwnServer(t *testing.T) {
	t.Parallel()
	requireFlags(t, runProgram(t, ""))
}

func TestTheFlagsOnAnotherServerLeaveThatAsItWas(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	for range 2 { // a second time, because the first removed its bucket
		requireFlags(t, runProgram(t, srv.URL()))
		_, err := srv.JetStream().KeyValue(t.Context(), "flags")
		require.ErrorIs(t, err, jetstream.ErrBucketNotFound)
	}
}

func TestFlagsThatWereThereBeforeAreLeftAlone(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	kv, err := srv.JetStream().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "flags"})
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "search.fuzzy", `{"percent":1}`)
	require.NoError(t, err)

	got := runProgram(t, srv.URL())
	require.NotZero(t, got.exit)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, "already")
	entry, err := kv.Get(t.Context(), "search.fuzzy")
	require.NoError(t, err)
	require.EqualValues(t, 1, entry.Revision())
	require.Equal(t, `{"percent":1}`, string(entry.Value()))
}
