package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// output is what the program must print, byte for byte, but for the error's text.
const output = `sue.color @ 1 -> "blue"
sue.color @ 2 -> "green"
expected error: <error>
sue.color @ 3 -> "red"
All keys: [sue.color]
KV stream name: KV_profiles
$KV.profiles.sue.color @ 3 -> "red"
$KV.profiles.sue.color @ 4 -> "yellow"
$KV.profiles.sue.color @ 5 -> ""
headers: map[KV-Operation:[DEL]]
sue.color @ 5 -> "" (op: Delete)
sue.color @ 6 -> "purple" (op: Put)
sue.food @ 7 -> "pizza" (op: Put)
`

// program is the built program.
var program string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "jskv-intro-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "intro")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	return m.Run()
}

// result is one run of the program.
type result struct {
	stdout, stderr string
	exit           int
	temp           []string // what it left in its temporary directory
}

// runProgram runs the program with a temporary directory of its own, and with NATS_URL when url
// is not empty.
func runProgram(t *testing.T, url string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	temp := t.TempDir()
	cmd := exec.CommandContext(ctx, program)
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
	return result{
		stdout: stdout.String(),
		stderr: stderr.String(),
		exit:   cmd.ProcessState.ExitCode(),
		temp:   append(namesIn(t, temp), namesIn(t, cmd.Dir)...),
	}
}

func namesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

var errorText = regexp.MustCompile(`(?m)^expected error: .+$`)

// requireTour checks a run that went well.
func requireTour(t *testing.T, got result) {
	t.Helper()
	require.Zero(t, got.exit, got.stderr)
	require.Equal(t, output, errorText.ReplaceAllString(got.stdout, "expected error: <error>"))
	require.Contains(t, got.stdout, "revision", "the error says what it is about")
	require.Empty(t, got.stderr)
	require.Empty(t, got.temp, "nothing is left behind")
}

func TestTheTourWithItsOwnServer(t *testing.T) {
	t.Parallel()
	requireTour(t, runProgram(t, ""))
}

func TestTheTourOnAnotherServerLeavesThatAsItWas(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "other"})
	require.NoError(t, err)
	for range 2 { // a second time, because the first removed its bucket
		requireTour(t, runProgram(t, srv.URL()))
		require.Equal(t, []string{"KV_other"}, streams(t, js))
	}
}

func streams(t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	var names []string
	lister := js.StreamNames(t.Context())
	for name := range lister.Name() {
		names = append(names, name)
	}
	require.NoError(t, lister.Err())
	return names
}

func TestABucketThatWasThereBeforeIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]jetstream.KeyValueConfig{
		"configured like the tour's": {Bucket: "profiles"},
		"configured otherwise":       {Bucket: "profiles", History: 5, Description: "mine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := jskvtest.NewServer(t)
			js := srv.JetStream()
			kv, err := js.CreateKeyValue(t.Context(), cfg)
			require.NoError(t, err)
			_, err = kv.PutString(t.Context(), "sue.color", "mine")
			require.NoError(t, err)
			before, err := js.Stream(t.Context(), "KV_profiles")
			require.NoError(t, err)

			got := runProgram(t, srv.URL())
			require.NotZero(t, got.exit)
			require.Empty(t, got.stdout)
			require.Contains(t, got.stderr, `"profiles"`)
			require.Contains(t, got.stderr, "already")

			after, err := js.Stream(t.Context(), "KV_profiles")
			require.NoError(t, err)
			require.Equal(t, before.CachedInfo().Created, after.CachedInfo().Created)
			require.Equal(t, before.CachedInfo().Config, after.CachedInfo().Config)
			require.Equal(t, before.CachedInfo().State, after.CachedInfo().State)
		})
	}
}

// Somebody else writes to the tour's key, so its update of revision 2 fails. The network is slow
// enough that he is in time.
func TestTheBucketIsRemovedOnAnErrorToo(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	proxy := jskvtest.NewProxy(t, srv.URL())
	proxy.Delay(jskvtest.Both, 20*time.Millisecond)
	_, err := js.Conn().Subscribe("$KV.profiles.sue.color", func(msg *nats.Msg) {
		if string(msg.Data) == "green" {
			_ = js.Conn().Publish(msg.Subject, []byte("mine")) // the tour's end tells whether it came
		}
	})
	require.NoError(t, err)
	require.NoError(t, js.Conn().Flush())

	got := runProgram(t, proxy.URL())
	require.NotZero(t, got.exit)
	require.Contains(t, got.stderr, "profiles/sue.color")
	require.Contains(t, got.stderr, "revision 2 is not the newest (3)")
	require.True(t, strings.HasPrefix(got.stdout, "sue.color @ 1 -> \"blue\"\n"), got.stdout)
	require.Empty(t, streams(t, js), "it removed its bucket")
	require.Empty(t, got.temp)
}

func TestAServerThatCannotBeReachedIsAClearError(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	srv.Stop()
	got := runProgram(t, srv.URL())
	require.NotZero(t, got.exit)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, srv.URL())
}
