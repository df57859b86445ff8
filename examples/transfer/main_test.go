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
const output = `opened, revisions [1 2 3]
  bob has 20.00 (revision 1)
  eve has 0.00 (revision 2)
  sue has 100.00 (revision 3)
sue paid bob 30.00
  bob has 50.00 (revision 5)
  eve has 0.00 (revision 2)
  sue has 70.00 (revision 4)
eve cannot pay sue 0.01: not enough money
  bob has 50.00 (revision 5)
  eve has 0.00 (revision 2)
  sue has 70.00 (revision 4)
attempt 1: sue has 70.00
meanwhile bob pays sue 10.00
attempt 2: sue has 80.00
sue paid eve 50.00
  bob has 40.00 (revision 6)
  eve has 50.00 (revision 9)
  sue has 30.00 (revision 8)
no interest: bob was written since
  bob has 45.00 (revision 11)
  eve has 50.00 (revision 9)
  sue has 25.00 (revision 10)
60 transfers by 4 clerks, audited all the while: 120.00
`

// program is the built program.
var program string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "jskv-transfer-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "transfer")
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

func requireTransfers(t *testing.T, got result) {
	t.Helper()
	require.Zero(t, got.exit, got.stderr)
	require.Equal(t, output, got.stdout)
	require.Empty(t, got.stderr)
}

func TestTheTransfersWithTheirOwnServer(t *testing.T) {
	t.Parallel()
	requireTransfers(t, runProgram(t, ""))
}

func TestTheTransfersOnAnotherServerLeaveThatAsItWas(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	for range 2 { // a second time, because the first removed its bucket
		requireTransfers(t, runProgram(t, srv.URL()))
		_, err := srv.JetStream().KeyValue(t.Context(), "accounts")
		require.ErrorIs(t, err, jetstream.ErrBucketNotFound)
	}
}

func TestAccountsThatWereThereBeforeAreLeftAlone(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	kv, err := srv.JetStream().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "accounts"})
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "sue", `{"balance":1}`)
	require.NoError(t, err)

	got := runProgram(t, srv.URL())
	require.NotZero(t, got.exit)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, "already")
	entry, err := kv.Get(t.Context(), "sue")
	require.NoError(t, err)
	require.EqualValues(t, 1, entry.Revision())
	require.Equal(t, `{"balance":1}`, string(entry.Value()))
}
