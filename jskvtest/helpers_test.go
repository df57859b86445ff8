package jskvtest_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/internal/leak"
)

// soon and tick bound and pace the polling of conditions.
const (
	soon = 20 * time.Second
	tick = 5 * time.Millisecond
)

func TestMain(m *testing.M) {
	leak.VerifyTestMain(m)
}

// fakeT stands in for the test where a helper is to fail, or where there is no test.
type fakeT struct {
	testing.TB // nil: what is not overridden is not used

	mu       sync.Mutex
	cleanups []func()
	failure  string
}

func (f *fakeT) Helper()      {}
func (f *fakeT) Name() string { return "fake" }

func (f *fakeT) Cleanup(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cleanups = append(f.cleanups, do)
}

func (f *fakeT) TempDir() string {
	dir, err := os.MkdirTemp("", "jskvtest")
	if err != nil {
		f.Fatalf("%v", err)
	}
	f.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (f *fakeT) Errorf(format string, v ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failure = fmt.Sprintf(format, v...)
}

func (f *fakeT) Fatalf(format string, v ...any) {
	f.Errorf(format, v...)
	runtime.Goexit()
}

// end is the end of the fake test.
func (f *fakeT) end() {
	for _, do := range slices.Backward(f.cleanups) {
		do()
	}
}

// failureOf runs a test of its own and returns the message with which it failed, or "".
func failureOf(test func(tb testing.TB)) string {
	f := &fakeT{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(f)
	}()
	<-done
	f.end()
	return f.failure
}

// newBucket creates a bucket with one replica.
func newBucket(t *testing.T, js jetstream.JetStream, name string) jetstream.KeyValue {
	t.Helper()
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: name})
	require.NoError(t, err)
	return kv
}

// bind is the bucket as the client of js sees it.
func bind(t *testing.T, js jetstream.JetStream, bucket string) jetstream.KeyValue {
	t.Helper()
	kv, err := js.KeyValue(t.Context(), bucket)
	require.NoError(t, err)
	return kv
}

// put puts a value; it must work at once.
func put(t *testing.T, kv jetstream.KeyValue, key, value string) {
	t.Helper()
	_, err := kv.PutString(t.Context(), key, value)
	require.NoError(t, err)
}

// requireConnected waits until the client has a connection that a server answers on: one that is lost
// counts as there until the client has noticed.
func requireConnected(t *testing.T, nc *nats.Conn) {
	t.Helper()
	require.Eventually(t, func() bool { return nc.IsConnected() && nc.FlushTimeout(soon/10) == nil }, soon, tick)
}

// get returns a value that must be there.
func get(t *testing.T, kv jetstream.KeyValue, key string) string {
	t.Helper()
	e, err := kv.Get(t.Context(), key)
	require.NoError(t, err)
	return string(e.Value())
}

// closed says whether ch is closed.
func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// address is the host and port of a URL.
func address(url string) string { return strings.TrimPrefix(url, "nats://") }
