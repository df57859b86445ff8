package jskv_test

import (
	"context"
	"flag"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/internal/leak"
	"github.com/seed646b090f/jskv/jskvtest"
)

// trouble is for tests whose course depends on elections and on what a server loses without a word:
// they are right on an idle machine, and no gate for others.
var trouble = flag.Bool("trouble", false, "also run the tests that depend on elections after partitions")

func needsTrouble(t *testing.T) {
	t.Helper()
	if !*trouble {
		t.Skip("needs the flag -trouble: what it shows depends on elections after a partition")
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	moreParallel()
	// Some tests show faults of the stock client, of which this is one: a watcher, or a list made by one, that
	// was stopped while it delivered may leave its goroutine behind. Nothing here makes such watchers else.
	leak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats.go/jetstream.(*kvs).WatchFiltered.func1"))
}

// moreParallel has three times as many tests run at a time as there are processors, unless the command
// line says otherwise: most of them wait for servers most of the time.
func moreParallel() {
	const name = "test.parallel"
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == name })
	if !said {
		_ = flag.Set(name, strconv.Itoa(3*runtime.GOMAXPROCS(0))) // fails for what is no number
	}
}

// testContext bounds a test's requests far above what they need.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newBucket makes a bucket of strings named "b" on a server of its own.
func newBucket(t testing.TB, cfg jetstream.KeyValueConfig, opts ...jskv.BucketOption) (*jskv.Bucket[string], *jskvtest.Server) {
	t.Helper()
	server := jskvtest.NewServer(t)
	return createBucket(t, server.JetStream(), cfg, opts...), server
}

// createBucket makes a bucket of strings, named "b" unless cfg says otherwise.
func createBucket(t testing.TB, js jetstream.JetStream, cfg jetstream.KeyValueConfig, opts ...jskv.BucketOption) *jskv.Bucket[string] {
	t.Helper()
	if cfg.Bucket == "" {
		cfg.Bucket = "b"
	}
	var b *jskv.Bucket[string]
	require.NoError(t, untilRemoved(testContext(t), func() (err error) {
		b, err = jskv.CreateBucket(testContext(t), js, cfg, jskv.String(), opts...)
		return err
	}))
	return b
}

// mustPut puts a value and returns its revision.
func mustPut(t testing.TB, b *jskv.Bucket[string], key, value string) uint64 {
	t.Helper()
	revision, err := b.Put(testContext(t), key, value)
	require.NoError(t, err)
	return revision
}
