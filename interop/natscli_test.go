package interop

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// buildCLI builds the nats command line tool of natscli/go.mod into Go's cache and returns its path.
var buildCLI = sync.OnceValues(func() (string, error) {
	var stderr bytes.Buffer
	build := exec.Command("go", "-C", "natscli", "tool", "-n", "nats")
	build.Stderr = &stderr
	path, err := build.Output()
	if err != nil {
		return "", fmt.Errorf("build the nats command line tool (go -C interop/natscli tool -n nats): %w: %s", err, stderr.Bytes())
	}
	return strings.TrimSpace(string(path)), nil
})

// cli is the nats command line tool, one process a command.
type cli struct {
	t      *testing.T
	server *jskvtest.Server
	js     jetstream.JetStream
	path   string
	env    []string
}

func startCLI(t *testing.T, server *jskvtest.Server) *cli {
	t.Helper()
	path, err := buildCLI()
	require.NoError(t, err)
	// Nothing of the user's own configuration counts.
	home := t.TempDir()
	env := []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "PATH=" + os.Getenv("PATH"), "TZ=UTC"}
	return &cli{t: t, server: server, js: server.JetStream(), path: path, env: env}
}

// servers is the server five times over: the tool tries them one after the other, each for 2 s, in which a machine
// may stand still.
func (c *cli) servers() string {
	return strings.Repeat(c.server.URL()+",", 4) + c.server.URL()
}

// run runs one command and returns what it prints. The error is what it says when it fails.
func (c *cli) run(args ...string) (string, error) {
	return c.runWith("", args...)
}

func (c *cli) runWith(stdin string, args ...string) (string, error) {
	c.t.Helper()
	cmd := exec.CommandContext(testContext(c.t), c.path, append([]string{"--server", c.servers()}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.env, strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) && failed.Exited() {
		return stdout.String(), errors.New(strings.TrimSpace(stderr.String()))
	}
	require.NoError(c.t, err)
	return stdout.String(), nil
}

func (c *cli) must(args ...string) string {
	c.t.Helper()
	out, err := c.run(args...)
	require.NoError(c.t, err, "nats %v", args)
	return out
}

func (c *cli) createBucket(cfg jetstream.KeyValueConfig) error {
	args := []string{"kv", "add", cfg.Bucket}
	flag := func(given bool, name string, value any) {
		if given {
			args = append(args, fmt.Sprintf("--%s=%v", name, value))
		}
	}
	flag(cfg.Description != "", "description", cfg.Description)
	flag(cfg.History != 0, "history", cfg.History)
	flag(cfg.TTL != 0, "ttl", cfg.TTL)
	flag(cfg.LimitMarkerTTL != 0, "marker-ttl", cfg.LimitMarkerTTL)
	flag(cfg.MaxBytes != 0, "max-bucket-size", cfg.MaxBytes)
	flag(cfg.MaxValueSize != 0, "max-value-size", cfg.MaxValueSize)
	flag(cfg.Storage == jetstream.MemoryStorage, "storage", "memory")
	for name, value := range cfg.Metadata {
		flag(true, "metadata", name+":"+value)
	}
	if cfg.Compression {
		args = append(args, "--compress")
	}
	if cfg.RePublish != nil {
		flag(true, "republish-source", cfg.RePublish.Source)
		flag(true, "republish-destination", cfg.RePublish.Destination)
	}
	_, err := c.run(args...)
	return err
}

func (c *cli) deleteBucket(bucket string) error {
	_, err := c.run("kv", "del", bucket, "--force")
	return err
}

func (c *cli) buckets() []string {
	return strings.Fields(c.must("kv", "ls", "--names"))
}

// config reads the table of `nats kv info`.
func (c *cli) config(bucket string) jetstream.KeyValueConfig {
	c.t.Helper()
	text := c.must("kv", "info", bucket)
	row := func(label string) string {
		c.t.Helper()
		match := regexp.MustCompile(`(?m)^\s*` + label + `: (.*)$`).FindStringSubmatch(text)
		require.NotNil(c.t, match, "%q in\n%s", label, text)
		return match[1]
	}
	duration := func(label string) time.Duration {
		d, err := time.ParseDuration(strings.ReplaceAll(row(label), "unlimited", "0s"))
		require.NoError(c.t, err)
		return d
	}
	size := func(label string) int64 {
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.ReplaceAll(row(label), "unlimited", "-1 B"), " B"), 10, 64)
		require.NoError(c.t, err)
		return n
	}
	source, destination, _ := strings.Cut(row("Republishing"), " to ")
	history, err := strconv.ParseUint(row("History Kept"), 10, 8)
	require.NoError(c.t, err)
	return jetstream.KeyValueConfig{
		Bucket:         row("Bucket Name"),
		Description:    row("Description"),
		MaxValueSize:   int32(size("Maximum Value Size")),
		History:        uint8(history),
		TTL:            duration("Maximum Age"),
		LimitMarkerTTL: duration("Limit Marker TTL"),
		MaxBytes:       size("Maximum Bucket Size"),
		Storage:        map[string]jetstream.StorageType{"File": jetstream.FileStorage, "Memory": jetstream.MemoryStorage}[row("Storage")],
		Compression:    row("Compressed") == "true",
		RePublish:      &jetstream.RePublish{Source: source, Destination: destination},
		Metadata:       map[string]string{"team": row("team")},
	}
}

func (c *cli) put(bucket, key, value string) error {
	_, err := c.runWith(value, "kv", "put", bucket, "--", key)
	return err
}

func (c *cli) create(bucket, key, value string, ttl time.Duration) error {
	_, err := c.runWith(value, "kv", "create", "--ttl="+ttl.String(), bucket, "--", key)
	return err
}

func (c *cli) update(bucket, key, value string, revision uint64) error {
	_, err := c.run("kv", "update", bucket, "--", key, value, strconv.FormatUint(revision, 10))
	return err
}

func (c *cli) delete(bucket, key string) error {
	_, err := c.run("kv", "del", "--force", bucket, "--", key)
	return err
}

func (c *cli) purge(bucket, key string, ttl time.Duration) error {
	_, err := c.run("kv", "purge", "--force", "--ttl="+ttl.String(), bucket, "--", key)
	return err
}

func (c *cli) get(bucket, key string) (revision, error) {
	return c.read(bucket, key)
}

func (c *cli) getRevision(bucket, key string, number uint64) (revision, error) {
	return c.read(bucket, key, "--revision="+strconv.FormatUint(number, 10))
}

// read asks for the value, and for its revision. Deleted keys have neither.
func (c *cli) read(bucket, key string, flags ...string) (revision, error) {
	c.t.Helper()
	args := append(append([]string{"kv", "get", bucket}, flags...), "--", key)
	raw, err := c.run(append([]string{"kv", "get", "--raw"}, args[2:]...)...)
	if err != nil && strings.HasSuffix(err.Error(), "key not found") {
		return revision{}, fmt.Errorf("%w: %w", errNotFound, err)
	}
	if err != nil {
		return revision{}, err
	}
	text := c.must(args...)
	match := regexp.MustCompile(`^\S+ > (\S+) revision: (\d+) created @ `).FindStringSubmatch(text)
	require.NotNil(c.t, match, text)
	return revision{Key: match[1], Value: raw, Number: c.number(match[2]), Operation: jskv.OpPut}, nil
}

func (c *cli) number(text string) uint64 {
	c.t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(c.t, err)
	return n
}

func (c *cli) keys(bucket string) []string {
	out := c.must("kv", "ls", bucket)
	if out == "No keys found in bucket\n" {
		return nil
	}
	return strings.Fields(out)
}

func (c *cli) operation(name string) jskv.Operation {
	c.t.Helper()
	op, known := map[string]jskv.Operation{"PUT": jskv.OpPut, "DELETE": jskv.OpDelete, "PURGE": jskv.OpPurge}[name]
	require.True(c.t, known, name)
	return op
}

// history reads the table of `nats kv history`, which a key without revisions does not have.
func (c *cli) history(bucket, key string) []revision {
	c.t.Helper()
	out, err := c.run("kv", "history", bucket, key)
	if err != nil {
		require.ErrorContains(c.t, err, "key not found")
		return []revision{}
	}
	revisions := []revision{}
	for line := range strings.Lines(out) {
		cells := strings.Split(line, "│")
		if len(cells) != 8 || strings.TrimSpace(cells[1]) == "Key" {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		revisions = append(revisions, revision{
			Key: cells[1], Number: c.number(cells[2]), Operation: c.operation(cells[3]), Value: cells[6],
		})
	}
	return revisions
}

// watch returns when the server has the watcher's consumer.
func (c *cli) watch(bucket string) watcher {
	c.t.Helper()
	return c.watchWith(bucket)
}

func (c *cli) watchWith(bucket string, flags ...string) *cliWatcher {
	c.t.Helper()
	before := jskvtest.ConsumerCount(c.t, c.js, bucket)
	args := append([]string{"--server", c.servers(), "kv", "watch", bucket}, flags...)
	w := &cliWatcher{cli: c, process: startProcess(c.t, c.env, c.path, args...)}
	c.t.Cleanup(w.process.kill)
	eventually(c.t, func() bool { return jskvtest.ConsumerCount(c.t, c.js, bucket) > before }, "the watcher's consumer")
	return w
}

type cliWatcher struct {
	cli     *cli
	process *process
}

var watched = regexp.MustCompile(`^\[[^]]*\] ([A-Z]+) \S+ > ([^:]+?)(?:: (.*))?$`)

func (w *cliWatcher) next() revision {
	w.cli.t.Helper()
	line := w.process.line()
	match := watched.FindStringSubmatch(line)
	require.NotNil(w.cli.t, match, line)
	return revision{Key: match[2], Value: match[3], Operation: w.cli.operation(match[1])}
}

// shown: the tool's watcher prints no revisions.
func (w *cliWatcher) shown(r revision) revision {
	r.Number = 0
	return r
}
