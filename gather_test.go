package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// crowd is how many goroutines read by one handle in these tests. More than a few that come at the
// same time share requests.
const crowd = 64

// spy counts the requests for the keys of bucket "b" that reach a server.
type spy struct{ single, shared atomic.Int64 }

func newSpy(t testing.TB, nc *nats.Conn) *spy {
	t.Helper()
	s := new(spy)
	for subject, n := range map[string]*atomic.Int64{"$JS.API.DIRECT.GET.KV_b.>": &s.single, "$JS.API.DIRECT.GET.KV_b": &s.shared} {
		_, err := nc.Subscribe(subject, func(*nats.Msg) { n.Add(1) })
		require.NoError(t, err)
	}
	require.NoError(t, nc.Flush())
	return s
}

// asks returns what waits until a crowd that will ask then has asked: by a request for several keys, or each by
// itself, where the one who was to ask for the others stood still for too long. It reports whether it was the former.
func (s *spy) asks(t testing.TB) (asked func() (together bool)) {
	single, shared := s.single.Load(), s.shared.Load()
	return func() bool {
		assert.Eventually(t, func() bool { return s.shared.Load() > shared || s.single.Load() >= single+crowd }, soon, tick, "the crowd asks")
		return s.shared.Load() > shared
	}
}

// inCrowd has goroutines do it at the same time, and waits for them.
func inCrowd(do func(i int)) {
	var group sync.WaitGroup
	for i := range crowd {
		group.Go(func() { do(i) })
	}
	group.Wait()
}

// crowdKeys puts a key for every goroutine, with its own name for a value, and reads one, so that
// the handle knows how large values are.
func crowdKeys(t testing.TB, b *jskv.Bucket[string]) []string {
	t.Helper()
	keys := make([]string, crowd)
	for i := range keys {
		keys[i] = fmt.Sprint("key.", i)
		mustPut(t, b, keys[i], keys[i])
	}
	_, err := b.Get(testContext(t), keys[0])
	require.NoError(t, err)
	return keys
}

// While writers write by the same handle, every read has what any of them was acknowledged for when
// it began, of its own key; what is missing is missing, and what was deleted has its marker.
func TestReadsThatShareARequestHaveWhatTheHandleWasAcknowledgedFor(t *testing.T) {
	t.Parallel()
	b, srv := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	spy := newSpy(t, srv.Conn())
	crowdReads(t, b)
	eventually(t, func() bool { return spy.shared.Load() > 0 }, "requests are shared")
}

func TestReadsThatShareARequestOfReplicasHaveWhatTheHandleWasAcknowledgedFor(t *testing.T) {
	t.Parallel()
	cluster, _ := newReplicatedBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	waitForReplicas(t, cluster)
	stop := writeLoad(t, cluster.JetStream())
	defer stop()
	for _, b := range handles(t, cluster, 3) {
		crowdReads(t, b)
	}
	b := handles(t, cluster, 1)[0]
	stop()
	var found findings
	stepDowns(t, cluster, 200*time.Millisecond, &found)
	sessions(t, &found, slices.Repeat([]*jskv.Bucket[string]{b}, 16), *duration, 0, 50)
}

func crowdReads(t *testing.T, b *jskv.Bucket[string]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // for thousands of reads
	defer cancel()
	keys := crowdKeys(t, b)
	marker, err := b.Delete(ctx, "deleted")
	require.NoError(t, err)
	var (
		found findings
		acked [crowd]atomic.Uint64
		done  atomic.Bool
		group sync.WaitGroup
	)
	for w := range 4 {
		group.Go(func() {
			for i := w; !done.Load(); i = (i + 4) % crowd {
				if revision, err := b.Put(ctx, keys[i], keys[i]); err == nil { // replicas may be without a leader
					acked[i].Store(revision)
				}
			}
		})
	}
	inCrowd(func(i int) {
		for n := range 100 {
			at := (i + n) % crowd
			known := acked[at].Load()
			e, err := b.Entry(ctx, keys[at])
			found.check(err == nil && e.Key == keys[at] && e.Value == keys[at] && e.Revision >= known && e.Delta == 0,
				"%s of at least revision %d: %+v, %v", keys[at], known, e, err)
			switch n % 10 {
			case 0:
				e, err = b.Entry(ctx, fmt.Sprint("missing.", i))
				found.check(errors.Is(err, jskv.ErrKeyNotFound) && e.Revision == 0, "a missing key: %+v, %v", e, err)
				found.check(strings.HasPrefix(err.Error(), fmt.Sprintf("jskv: get b/missing.%d: ", i)), "the error names operation and key: %v", err)
			case 5:
				e, err = b.Entry(ctx, "deleted")
				found.check(errors.Is(err, jskv.ErrKeyNotFound) && e.Revision == marker && e.Operation == jskv.OpDelete, "a deleted key: %+v, %v", e, err)
			}
		}
	})
	done.Store(true)
	group.Wait()
	found.requireNone(t, crowd*100)
}

// One message is the answer to many: none may see what another does with its value and headers.
func TestReadersOfOneKeyHaveAValueOfTheirOwnEach(t *testing.T) {
	t.Parallel()
	text, srv := newBucket(t, jetstream.KeyValueConfig{})
	ctx := testContext(t)
	_, err := srv.JetStream().PublishMsg(ctx, &nats.Msg{Subject: "$KV.b.k", Header: nats.Header{"X-Author": {"sue"}}, Data: []byte("value")})
	require.NoError(t, err)
	b := jskv.As(text, jskv.Bytes())
	_, err = b.Get(ctx, "k")
	require.NoError(t, err)
	spy := newSpy(t, srv.Conn())
	var found findings
	inCrowd(func(int) {
		for range 20 {
			e, err := b.Entry(testContext(t), "k")
			found.check(err == nil && string(e.Value) == "value" && e.Header.Get("X-Author") == "sue" && len(e.Header) == 1, "%+v, %v", e, err)
			copy(e.Value, "spoil")
			e.Header["X-Author"][0] = "joe"
			e.Header.Set("X-Other", "joe")
		}
	})
	found.requireNone(t, crowd*20)
	eventually(t, func() bool { return spy.shared.Load() > 0 }, "requests are shared")
}

// A reader that gives up, whether it asks for others or waits for their request, ends at once, and
// takes nobody with it.
func TestAReaderThatGivesUpTakesNobodyWithIt(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	proxy := jskvtest.NewProxy(t, srv.URL())
	b := createBucket(t, hasty(t, proxy.Conn(), time.Minute), jetstream.KeyValueConfig{})
	keys := crowdKeys(t, b)
	spy := newSpy(t, srv.Conn())
	together := 0
	for round := range 8 {
		asked := spy.asks(t)
		impatient, giveUp := context.WithCancel(context.Background())
		proxy.Stall(jskvtest.ToClient)
		var found findings
		var gone sync.WaitGroup
		gone.Add(crowd / 2)
		healed := make(chan struct{})
		go func() {
			defer close(healed)
			defer proxy.Heal()
			defer giveUp()
			if asked() {
				together++
			}
			giveUp()
			gone.Wait()
		}()
		inCrowd(func(i int) {
			if i%2 == round%2 {
				_, err := b.Get(impatient, keys[i])
				found.check(errors.Is(err, context.Canceled), "%v", err)
				gone.Done()
				return
			}
			value, err := b.Get(context.Background(), keys[i])
			found.check(err == nil && value == keys[i], "%q, %v", value, err)
		})
		<-healed
		found.requireNone(t, crowd)
	}
	require.Positive(t, together, "requests are shared")
}

// What was asked is lost with the connection. Every reader has its answer all the same, by the end
// of its context or long before.
func TestReadersWhoseSharedRequestIsLostAreAnswered(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	proxy := jskvtest.NewProxy(t, srv.URL())
	b := createBucket(t, proxy.JetStream(nats.ReconnectWait(50*time.Millisecond)), jetstream.KeyValueConfig{})
	keys := crowdKeys(t, b)
	spy := newSpy(t, srv.Conn())
	for because, lose := range map[string]func(){
		"the connection is cut":   proxy.Cut,
		"the connection is reset": proxy.Reset,
		"the answer is swallowed": proxy.Heal, // which resets what has lost something
	} {
		onceInThree(t, true, func() (together bool) {
			asked := spy.asks(t)
			proxy.Blackhole(jskvtest.ToClient)
			var (
				found findings
				lost  sync.WaitGroup
			)
			lost.Go(func() {
				defer proxy.Heal()
				together = asked()
				lose()
			})
			inCrowd(func(i int) {
				value, err := b.Get(testContext(t), keys[i])
				found.check(err == nil && value == keys[i], "%s: %q, %v", because, value, err)
			})
			lost.Wait()
			found.requireNone(t, crowd)
			return together
		}, "a request is shared")
	}
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	proxy.Stall(jskvtest.Both)
	defer proxy.Heal()
	var found findings
	inCrowd(func(i int) {
		_, err := b.Get(short, keys[i])
		found.check(errors.Is(err, context.DeadlineExceeded), "%v", err)
		found.check(err != nil && strings.HasPrefix(err.Error(), "jskv: get b/"+keys[i]+": "), "%v", err)
	})
	found.requireNone(t, 2*crowd)
}

// An account may allow single keys only. Readers find that out once.
func TestReadersThatMayNotReadSeveralKeysAtOnceReadOneEach(t *testing.T) {
	t.Parallel()
	const denied = "$JS.API.DIRECT.GET.KV_b"
	srv := guarded(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{denied, "mark"}}})
	keys := crowdKeys(t, createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{}))
	var violations, marks atomic.Int64
	nc := srv.Conn(as("guest"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+denied+`"`) {
			violations.Add(1)
		}
		if strings.Contains(err.Error(), `"mark"`) {
			marks.Add(1)
		}
	}))
	counted := func() int64 { // what the client was told of before, it tells in order
		before := marks.Load()
		require.NoError(t, nc.Publish("mark", nil))
		eventually(t, func() bool { return marks.Load() > before }, "the violations are told")
		return violations.Load()
	}
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	b := openBucket(t, js)
	_, err = b.Get(testContext(t), keys[0])
	require.NoError(t, err)
	read := func() {
		var found findings
		inCrowd(func(i int) {
			for range 10 {
				value, err := b.Get(testContext(t), keys[i])
				found.check(err == nil && value == keys[i], "%q, %v", value, err)
			}
		})
		found.requireNone(t, crowd*10)
	}
	read()
	before := counted()
	require.Positive(t, before, "a request for several keys was tried")
	read()
	require.Equal(t, before, counted(), "it was tried again")
}

// What many large values take must not come at once, and is not faster in one answer.
func TestReadersOfLargeValuesShareNoRequest(t *testing.T) {
	t.Parallel()
	b, srv := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	ctx := testContext(t)
	large := strings.Repeat("v", 300<<10)
	for i := range 8 {
		mustPut(t, b, fmt.Sprint("large.", i), large)
	}
	_, err := b.Get(ctx, "large.0")
	require.NoError(t, err)
	spy := newSpy(t, srv.Conn())
	read := func(handle *jskv.Bucket[string]) {
		var found findings
		inCrowd(func(i int) {
			value, err := handle.Get(testContext(t), fmt.Sprint("large.", i%8))
			found.check(err == nil && value == large, "%d bytes, %v", len(value), err)
		})
		found.requireNone(t, crowd)
	}
	read(b)
	eventually(t, func() bool { return spy.single.Load() >= crowd }, "all requests have come")
	require.Zero(t, spy.shared.Load())

	// One that believes that values are small is answered in part, and asks for the rest.
	proxy := jskvtest.NewProxy(t, srv.URL())
	js := proxy.JetStream()
	mustPut(t, b, "small", "v")
	onceInThree(t, true, func() (together bool) {
		believer := openBucket(t, js)
		_, err = believer.Get(ctx, "small")
		require.NoError(t, err)
		asked := spy.asks(t)
		proxy.Stall(jskvtest.ToClient) // the first answer tells how large they are
		var answered sync.WaitGroup
		answered.Go(func() {
			defer proxy.Heal()
			together = asked()
		})
		read(believer)
		answered.Wait()
		return together
	}, "a request is shared")
}
