package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// recorder reads a watcher or the raw stream on a goroutine of its own and keeps what it got.
type recorder struct {
	t    testing.TB
	name string
	mu   sync.Mutex
	seen []event
	err  error // how it ended
	done chan struct{}
}

// event is one revision that was handed out.
type event struct {
	revision uint64
	key      string
	value    string
	op       jskv.Operation
	at       time.Time
}

// record reads until the watcher ends, which it does with the test.
func record(t testing.TB, name string, w *jskv.Watcher[string]) *recorder {
	t.Helper()
	return startRecorder(t, name, w.Stop, func() (event, error) {
		e, err := w.Next(context.Background())
		return event{e.Revision, e.Key, e.Value, e.Operation, time.Now()}, err
	})
}

func recordRaw(t testing.TB, name string, m *jskv.RawMessages) *recorder {
	t.Helper()
	return startRecorder(t, name, m.Stop, func() (event, error) {
		msg, err := m.Next(context.Background())
		return event{msg.Sequence, msg.Key, string(msg.Data), msg.Operation, time.Now()}, err
	})
}

func startRecorder(t testing.TB, name string, stop func(), read func() (event, error)) *recorder {
	t.Helper()
	r := &recorder{t: t, name: name, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for {
			e, err := read()
			r.mu.Lock()
			if r.err = err; err == nil {
				r.seen = append(r.seen, e)
			}
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { stop(); <-r.done })
	return r
}

// events is what came so far, and how it ended.
func (r *recorder) events() ([]event, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]event(nil), r.seen...), r.err
}

// until waits for a revision and returns when it came.
func (r *recorder) until(revision uint64) time.Time {
	r.t.Helper()
	var at time.Time
	require.Eventually(r.t, func() bool {
		seen, err := r.events()
		if len(seen) > 0 && seen[len(seen)-1].revision >= revision {
			at = seen[len(seen)-1].at
		}
		return err != nil || !at.IsZero()
	}, soon, tick, "%s: revision %d does not come", r.name, revision)
	_, err := r.events()
	require.NoError(r.t, err, r.name)
	return at
}

// requireExactly checks that it got these revisions, each once and in order.
func (r *recorder) requireExactly(from, to uint64) {
	r.t.Helper()
	seen, err := r.events()
	require.NoError(r.t, err, r.name)
	for i, e := range seen {
		require.Equal(r.t, from+uint64(i), e.revision, "%s: the %dth", r.name, i)
	}
	require.Equal(r.t, int(to-from+1), len(seen), r.name)
}

// interruption is something that happens between readers and their server.
type interruption struct {
	name    string
	begin   func(s *scene)
	end     func(s *scene) // nil when it is over at once
	patient bool           // the client does not notice: its silence has to be noticed first
	like    bool           // much like the one before it
}

// scene is where interruptions happen: readers behind a proxy.
type scene struct {
	*reading
	proxy       *jskvtest.Proxy
	reconnected chan time.Time // when the readers' connection was back
}

func newScene(t testing.TB, cfg jetstream.KeyValueConfig) *scene {
	t.Helper()
	server := jskvtest.NewServer(t)
	s := &scene{proxy: jskvtest.NewProxy(t, server.URL()), reconnected: make(chan time.Time, 1000)}
	nc := s.proxy.Conn(
		nats.ReconnectHandler(func(*nats.Conn) { s.reconnected <- time.Now() }),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // else it prints them
	s.reading = readingOn(t, server, nc, cfg)
	return s
}

// stockSilence is less than the stock client's watchers are silent after any of these, and far more than ours: a
// machine may be slow.
const stockSilence = 8 * time.Second

// promptly wants what course measures to be less than limit, once in three times: a machine that stands still for a
// moment makes it late now and then, a fault each time.
func promptly(t testing.TB, limit time.Duration, course func() time.Duration) {
	t.Helper()
	var took [3]time.Duration
	for i := range took {
		if took[i] = course(); took[i] < limit {
			return
		}
	}
	require.Fail(t, "late each time", "%v, not %v", took, limit)
}

// onceInThree wants course to come to want, once in three times: what is asked is asked again where the answer is late,
// and who is not answered is out of touch, on a machine that stands still for a moment.
func onceInThree[V any](t testing.TB, want V, course func() V, because ...any) {
	t.Helper()
	for range 2 {
		if assert.ObjectsAreEqual(want, course()) {
			return
		}
	}
	require.Equal(t, want, course(), because...)
}

var interruptions = []interruption{
	{name: "a connection that is reset", begin: func(s *scene) { s.proxy.Reset() }},
	{name: "a connection that is closed", like: true, begin: func(s *scene) { s.proxy.Cut() }},
	{name: "a network that is away for a while",
		begin: func(s *scene) { s.proxy.Refuse(); s.proxy.Reset() },
		end:   func(s *scene) { s.proxy.Accept() }},
	{name: "a network that swallows everything", patient: true,
		begin: func(s *scene) { s.proxy.Blackhole(jskvtest.Both) },
		end:   func(s *scene) { s.proxy.Heal() }},
	{name: "a network that swallows what comes from the server", patient: true, like: true,
		begin: func(s *scene) { s.proxy.Blackhole(jskvtest.ToClient) },
		end:   func(s *scene) { s.proxy.Heal() }},
	{name: "a network that stands still", patient: true, like: true,
		begin: func(s *scene) { s.proxy.Stall(jskvtest.Both) },
		end:   func(s *scene) { s.proxy.Heal() }},
	{name: "a restart of the server", begin: func(s *scene) { s.restart() }},
	{name: "consumers that are deleted", begin: func(s *scene) { jskvtest.DeleteConsumers(s.t, s.admin, "b") }},
}

// Every kind of reader, through every kind of interruption: what is written before, meanwhile and
// afterwards comes once, in order, and soon.
func TestNothingIsLostOrRepeatedThroughInterruptions(t *testing.T) {
	t.Parallel()
	for _, what := range interruptions {
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, jetstream.KeyValueConfig{History: 64})
			s.fill(20, "before")
			interrupted := make(chan error, 1000)
			onChange := jskv.OnInterruption(func(err error) { interrupted <- err })
			all := []*recorder{
				record(t, "from the first revision", s.watch()),
				record(t, "with history", s.watch(jskv.WithHistory())),
				record(t, "keys only", s.watch(jskv.KeysOnly())),
				record(t, "from a revision", s.watch(jskv.FromRevision(1))),
				record(t, "filtered", watch(t, s.Bucket, "k.>", jskv.AndFilter("*"))),
				recordRaw(t, "raw", s.messages()),
			}
			fresh := []*recorder{ // no event before the interruption
				record(t, "updates only", s.watch(jskv.UpdatesOnly(), onChange)),
				record(t, "from a revision to come", s.watch(jskv.FromRevision(21))),
				recordRaw(t, "raw from a sequence to come", s.messages(jskv.RawFrom(21))),
			}
			for _, r := range all {
				r.until(20)
			}
			last := uint64(20)
			rounds := 2 // the second time the readers have been reset already
			if what.patient {
				rounds = 1
			}
			for range rounds {
				what.begin(s)
				s.again("while", "it", "lasts")
				if what.patient {
					require.Error(t, receive(t, interrupted))
				}
				ended := time.Now()
				if what.end != nil {
					what.end(s)
				}
				s.again("after", "it")
				last += 5
				for _, r := range append(all, fresh...) {
					at := r.until(last)
					require.Less(t, at.Sub(ended), stockSilence, r.name)
				}
				t.Logf("everything delivered %v after the end", time.Since(ended))
				if what.patient {
					require.NoError(t, receive(t, interrupted))
				}
			}
			for _, r := range all {
				r.requireExactly(1, last)
			}
			for _, r := range fresh {
				r.requireExactly(21, last)
			}
		})
	}
}

func receive[T any](t testing.TB, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(soon):
		require.Fail(t, "nothing came")
	}
	return v
}

// The stock watcher is silent for 10 to 20 s.
func TestDeliveryGoesOnSoonAfterTheClientHasReconnected(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	waiting := record(t, "waiting", s.watch())
	shared := make([]*recorder, enough)
	for i := range shared {
		shared[i] = record(t, fmt.Sprint("shared ", i), watch(t, s.Bucket, "a"))
	}
	for _, away := range []string{"restart", "refused"} {
		promptly(t, 2*time.Second, func() time.Duration {
			for len(s.reconnected) > 0 {
				<-s.reconnected
			}
			if away == "restart" {
				s.restart()
			} else {
				s.proxy.Refuse()
				s.proxy.Reset()
				require.Eventually(t, s.nc.IsReconnecting, soon, tick)
				s.proxy.Accept()
			}
			back := receive(t, s.reconnected)
			revision := mustPut(t, createBucket(t, s.admin, jetstream.KeyValueConfig{}), "a", away)
			silent := waiting.until(revision).Sub(back)
			for _, r := range shared {
				silent = max(silent, r.until(revision).Sub(back))
			}
			t.Logf("%s: delivered %v after the reconnect", away, silent)
			return silent
		})
	}
}

func TestAReaderThatWaitsIsToldThatItsBucketIsGone(t *testing.T) {
	t.Parallel()
	cases := []struct {
		reason string
		do     func(s *scene)
		want   error
	}{
		{"deleted", func(s *scene) {
			require.NoError(s.t, jskv.DeleteBucket(testContext(s.t), s.admin, "b"))
		}, jskv.ErrBucketNotFound},
		{"replaced", func(s *scene) { s.replace() }, jskv.ErrBucketReplaced},
		{"deleted while the network is away", func(s *scene) {
			s.proxy.Refuse()
			s.proxy.Reset()
			require.NoError(s.t, jskv.DeleteBucket(testContext(s.t), s.admin, "b"))
			s.proxy.Accept()
		}, jskv.ErrBucketNotFound},
		{"replaced while the network is away, and written to", func(s *scene) {
			s.proxy.Refuse()
			s.proxy.Reset()
			s.replace()
			s.fill(50, "another's")
			s.proxy.Accept()
		}, jskv.ErrBucketReplaced},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			promptly(t, 5*time.Second, func() time.Duration {
				s := newScene(t, jetstream.KeyValueConfig{})
				s.fill(5, "v")
				all := []*recorder{
					record(t, "plain", s.watch()),
					record(t, "updates only", s.watch(jskv.UpdatesOnly())),
					record(t, "from a revision to come", s.watch(jskv.FromRevision(40))),
					recordRaw(t, "raw", s.messages()),
				}
				for i := range enough {
					all = append(all, record(t, fmt.Sprint("single ", i), watch(t, s.Bucket, "k000001")))
				}
				all[0].until(5)
				start := time.Now()
				test.do(s)
				for _, r := range all {
					require.Eventually(t, func() bool { return isClosed(r.done) }, soon, tick, r.name)
					seen, err := r.events()
					if !errors.Is(err, jskv.ErrBucketNotFound) || test.reason != "replaced" { // it may come in between
						require.ErrorIs(t, err, test.want, r.name)
					}
					require.False(t, errors.Is(err, jskv.ErrWatcherStopped))
					for _, e := range seen {
						require.Equal(t, "v", e.value, "%s: not of this bucket", r.name)
					}
				}
				t.Logf("all ended after %v", time.Since(start))
				return time.Since(start)
			})
		})
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// The server may be back without what it had: a restart of memory storage, or an older backup.
func TestAServerThatComesBackWithoutTheBucketIsNoSilence(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	s.fill(5, "v")
	r := record(t, "plain", s.watch())
	r.until(5)
	s.restart()
	require.Eventually(t, func() bool { return isClosed(r.done) }, soon, tick)
	_, err := r.events()
	if !errors.Is(err, jskv.ErrBucketReplaced) { // the server may make an empty one of the same name
		require.ErrorIs(t, err, jskv.ErrBucketNotFound)
	}
}
