package jskv_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

var listings = flag.Int("list.times", 12, "how many listings of each kind of bucket are checked while it is written to")

// A listing without a deadline gives up when the server has not answered for the default timeout,
// so these have a short one.
func newImpatientScene(t testing.TB, cfg jetstream.KeyValueConfig) *scene {
	t.Helper()
	s := newScene(t, cfg)
	js, err := jetstream.New(s.nc, jetstream.WithDefaultTimeout(2*time.Second))
	require.NoError(t, err)
	s.Bucket, err = jskv.OpenBucket(testContext(t), js, "b", jskv.String())
	require.NoError(t, err)
	return s
}

// Something happens in the middle of a listing.
var midway = []struct {
	name  string
	do    func(s *scene)
	whole bool  // it recovers: the listing has everything
	want  error // else, unless everything had come already
}{
	{name: "its consumer is deleted", whole: true, do: func(s *scene) { jskvtest.DeleteConsumers(s.t, s.admin, "b") }},
	{name: "the connection is reset", whole: true, do: func(s *scene) { s.proxy.Reset() }},
	{name: "the server is restarted", whole: true, do: func(s *scene) { s.restart() }},
	{name: "the server is stopped", do: func(s *scene) { s.server.Stop() }},
	{name: "the network swallows everything", do: func(s *scene) { s.proxy.Blackhole(jskvtest.Both) }},
	{name: "the network is away", do: func(s *scene) { s.proxy.Refuse(); s.proxy.Reset() }},
	{name: "the bucket is deleted", want: jskv.ErrBucketNotFound, do: func(s *scene) {
		require.NoError(s.t, jskv.DeleteBucket(testContext(s.t), s.admin, "b"))
	}},
	{name: "the bucket is replaced", want: jskv.ErrBucketReplaced, do: func(s *scene) {
		s.replace()
		s.fill(10, "another's")
	}},
	{name: "the connection is closed", want: nats.ErrConnectionClosed, do: func(s *scene) { s.nc.Close() }},
}

func TestAListingIsWholeOrAnErrorWhateverHappensMidway(t *testing.T) {
	t.Parallel()
	for _, what := range midway {
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			bothHistories(t, func(t *testing.T, history uint8) {
				at := 1
				if history > 1 {
					at = 5000
				}
				s := newImpatientScene(t, jetstream.KeyValueConfig{History: history})
				s.fillLong()
				ctx := context.Background()
				if what.whole || what.want != nil { // which may take a slow machine long
					ctx = testContext(t)
				}
				seen := make(map[string]bool, long)
				n, err := lastPair(t, do(at, func() { what.do(s) }, s.Entries(ctx), func(e jskv.Entry[string]) {
					require.False(t, seen[e.Key], "twice")
					require.NotEqual(t, "another's", e.Value)
					seen[e.Key] = true
				}))
				switch {
				case err == nil:
					require.Equal(t, long, n)
				case what.whole:
					require.NoError(t, err)
				case what.want != nil:
					require.ErrorIs(t, err, what.want)
				}
				if at == 1 && !what.whole {
					require.Error(t, err, "16 MB do not come with the first request")
				}
			})
		})
	}
}

// do calls act in the step in which the nth pair comes, and look with every value.
func do[V any](at int, act func(), seq iter.Seq2[V, error], look func(V)) iter.Seq2[V, error] {
	return func(yield func(V, error) bool) {
		n := 0
		for v, err := range seq {
			if err == nil {
				look(v)
			}
			if n++; n == at {
				act()
			}
			if !yield(v, err) {
				return
			}
		}
	}
}

// A small bucket is listed by one request, a large one by a consumer: both have to be asked.
func TestAListingOfAServerThatDoesNotAnswerEndsWithAnError(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 3000} {
		for _, how := range []string{"stopped", "silent", "away"} {
			t.Run(fmt.Sprintf("%d keys, %s", size, how), func(t *testing.T) {
				t.Parallel()
				s := newImpatientScene(t, jetstream.KeyValueConfig{})
				s.fill(size, "v")
				switch how {
				case "stopped":
					s.server.Stop()
				case "silent":
					s.proxy.Blackhole(jskvtest.Both)
				default:
					s.proxy.Refuse()
					s.proxy.Reset()
				}
				start := time.Now()
				n, err := lastPair(t, s.Keys(context.Background()))
				require.Error(t, err)
				require.Zero(t, n)
				require.Less(t, time.Since(start), soon)

				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancel()
				n, err = lastPair(t, s.Entries(ctx))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Zero(t, n)
			})
		}
	}
}

// The consumer of a listing that ends is to be deleted, which a server that does not answer confirms to
// nobody.
func TestAListingWhoseTimeIsOverDoesNotWaitForASilentServer(t *testing.T) {
	t.Parallel()
	const patience = 300 * time.Millisecond
	promptly(t, patience+1500*time.Millisecond, func() time.Duration {
		s := newScene(t, jetstream.KeyValueConfig{})
		s.fill(30_000, "v")
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		start, n := time.Now(), 0
		var last error
		for _, err := range s.Entries(ctx) {
			if n++; n == 10 {
				s.proxy.Blackhole(jskvtest.Both)
				<-ctx.Done()
			}
			last = err
		}
		require.ErrorIs(t, last, context.DeadlineExceeded)
		return time.Since(start)
	})
}

// A server that is slow to answer was asked again and again, and none of its answers was taken.
func TestAReadOfManyKeysTakesALateAnswer(t *testing.T) {
	t.Parallel()
	s := newScene(t, jetstream.KeyValueConfig{})
	keys := s.fill(10, "v")
	s.proxy.Delay(jskvtest.ToClient, 2200*time.Millisecond)
	found, err := s.GetMany(testContext(t), keys...)
	require.NoError(t, err)
	require.Len(t, found, len(keys))
}

// Writers overwrite some keys, which are alive all the time, and put, delete, purge and make
// others again.
type churn struct {
	alive, others []string
}

func (c churn) start(s *reading) (stop func()) {
	s.t.Helper()
	var (
		wg   sync.WaitGroup
		done atomic.Bool
	)
	for range 4 {
		js, err := jetstream.New(s.server.Conn())
		require.NoError(s.t, err)
		b, err := jskv.OpenBucket(testContext(s.t), js, "b", jskv.String())
		require.NoError(s.t, err)
		wg.Go(func() {
			for !done.Load() {
				if err := c.step(b); err != nil && !errors.Is(err, jskv.ErrKeyExists) {
					s.t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { done.Store(true); wg.Wait() })
	s.t.Cleanup(stop)
	return stop
}

func (c churn) step(b *jskv.Bucket[string]) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	other := c.others[rand.IntN(len(c.others))]
	switch rand.IntN(8) {
	case 0:
		_, err = b.Delete(ctx, other)
	case 1:
		_, err = b.Purge(ctx, other)
	case 2:
		_, err = b.Put(ctx, other, "other")
	case 3:
		_, err = b.Create(ctx, other, "other")
	default:
		_, err = b.Put(ctx, c.alive[rand.IntN(len(c.alive))], "alive")
	}
	return err
}

// The stock Keys misses live keys in two thirds of its listings while four writers merely
// overwrite. With -list.times=2000 these are thousands.
func TestAKeyThatIsAlwaysAliveIsInEveryListingOnce(t *testing.T) {
	t.Parallel()
	for _, size := range []int{500, 1500, 4000} { // by one request, and by a consumer
		t.Run(fmt.Sprintf("%d keys", size), func(t *testing.T) {
			t.Parallel()
			bothHistories(t, func(t *testing.T, history uint8) {
				r := newReading(t, jetstream.KeyValueConfig{History: history})
				keys := r.fill(size, "v")
				c := churn{alive: keys[:size*9/10], others: keys[size*9/10:]}
				alive := make(map[string]bool, len(c.alive))
				for _, key := range c.alive {
					alive[key] = true
				}
				stop := c.start(r)
				for i := range *listings {
					if i%2 == 0 {
						requireListed(t, alive, r.Keys(testContext(t)), func(key string) string { return key })
					} else {
						requireListed(t, alive, r.Entries(testContext(t)), func(e jskv.Entry[string]) string {
							require.Equal(t, jskv.OpPut, e.Operation)
							return e.Key
						})
					}
				}
				stop()
				r.requireNothingLeft()
			})
		})
	}
}

// requireListed checks that a listing has every key of alive, and no key twice.
func requireListed[V any](t *testing.T, alive map[string]bool, seq iter.Seq2[V, error], keyOf func(V) string) {
	t.Helper()
	seen, live := make(map[string]bool, 2*len(alive)), 0
	for v, err := range seq {
		require.NoError(t, err)
		key := keyOf(v)
		if seen[key] {
			require.Fail(t, "listed twice", key)
		}
		seen[key] = true
		if alive[key] {
			live++
		}
	}
	require.Equal(t, len(alive), live, "keys that are always alive")
}

func TestAHistoryIsWholeThroughInterruptions(t *testing.T) {
	t.Parallel()
	for _, what := range midway {
		if !what.whole {
			continue
		}
		t.Run(what.name, func(t *testing.T) {
			t.Parallel()
			s := newImpatientScene(t, jetstream.KeyValueConfig{History: 64})
			value := strings.Repeat("v", 200<<10) // 12 MB in all, more than a request
			for range 64 {
				s.store(value, "a")
			}
			want := uint64(0)
			n, err := lastPair(t, do(1, func() { what.do(s) }, s.History(testContext(t), "a"), func(e jskv.Entry[string]) {
				want++
				require.Equal(t, want, e.Revision)
				require.Len(t, e.Value, len(value))
			}))
			require.NoError(t, err)
			require.Equal(t, 64, n)
		})
	}
}
