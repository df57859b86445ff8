package jskv_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// relayed opens the bucket anew under an API prefix, from where each request is passed on to the server,
// or handled otherwise.
func (r *reading) relayed(handle func(msg *nats.Msg, pass func(*nats.Msg))) {
	r.t.Helper()
	nc := r.server.Conn()
	pass := func(msg *nats.Msg) {
		err := nc.PublishMsg(&nats.Msg{Subject: "$JS" + strings.TrimPrefix(msg.Subject, "relay"), Reply: msg.Reply, Data: msg.Data})
		if err != nil && !nc.IsClosed() { // as it is when the test has ended: nobody waits for the last DELETE
			r.t.Errorf("relay %s: %v", msg.Subject, err)
		}
		_ = nc.Flush() // what the test does then through another connection comes after it
	}
	sub, err := nc.Subscribe("relay.API.>", func(msg *nats.Msg) { handle(msg, pass) })
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, sub.Unsubscribe()) })
	require.NoError(r.t, nc.Flush())
	js, err := jetstream.NewWithAPIPrefix(r.nc, "relay.API")
	require.NoError(r.t, err)
	r.Bucket, err = jskv.OpenBucket(testContext(r.t), js, r.Name(), jskv.String())
	require.NoError(r.t, err)
}

// A watcher asks for the stream's state and makes its consumer at once. What happened between the two
// was missing in the snapshot, when nothing had been there before; and a cache that began so took itself
// to be complete.
func TestWhatIsStoredWhileAWatchBeginsIsInItsSnapshot(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(r *reading){
		"the key is put": func(*reading) {},
		"the bucket is replaced, and the key put": func(r *reading) { r.replace() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReading(t, jetstream.KeyValueConfig{})
			r.putBeside("other", "v")
			var begins atomic.Bool
			var asked *nats.Msg
			holds := 3
			r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
				switch {
				case !begins.Load():
					pass(msg)
				case strings.Contains(msg.Subject, "STREAM.INFO.") && holds > 0:
					// Later it is passed on: who does not ask at once gets an answer as well. An attempt may end before it
					// has asked for the consumer, on a machine that stands still for a moment.
					asked, holds = msg, holds-1
				case strings.Contains(msg.Subject, "CONSUMER.CREATE."):
					begins.Store(false)
					answer, err := r.admin.Conn().Request("$JS"+strings.TrimPrefix(msg.Subject, "relay"), msg.Data, soon)
					if err != nil {
						t.Errorf("make a consumer: %v", err)
						return
					}
					between(r)
					r.putBeside("key", "v")
					if asked != nil {
						pass(asked)
					}
					if err := msg.Respond(answer.Data); err != nil {
						t.Errorf("tell of a consumer: %v", err)
					}
				default:
					pass(msg)
				}
			})
			begins.Store(true)
			w := watch(t, r.Bucket, "key")
			require.Len(t, collect(t, w.Snapshot()), 1)
		})
	}
}

// The stream that told its last revision was replaced before the consumer was made, which the server
// then begins behind that revision: a watcher of updates was silent until the new stream came there.
func TestAWatchThatBeginsWhileItsBucketIsReplacedIsNotSilent(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(100, "v")
	var begins atomic.Bool
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		if strings.Contains(msg.Subject, "CONSUMER.CREATE.") && begins.CompareAndSwap(true, false) {
			r.replace()
		}
		pass(msg)
	})
	begins.Store(true)
	w, err := r.Watch(testContext(t), jskv.AllKeys, jskv.UpdatesOnly())
	require.False(t, begins.Load())
	start := time.Now()
	if err == nil { // else replacing it took so long that another attempt saw that
		t.Cleanup(w.Stop)
		r.putBeside("key", "v")
		_, err = w.Next(testContext(t))
	}
	require.ErrorIs(t, err, jskv.ErrBucketReplaced)
	require.Less(t, time.Since(start), soon)
}

// It has to ask once more, and each caller has less time than the answer takes.
func TestAWatchWhoseBucketWasReplacedIsNotSilentToHastyCallers(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(100, "v")
	var begins, slow atomic.Bool
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		if strings.Contains(msg.Subject, "CONSUMER.CREATE.") && begins.CompareAndSwap(true, false) {
			r.replace()
		}
		if strings.Contains(msg.Subject, "STREAM.INFO.") && slow.Load() {
			<-time.After(100 * time.Millisecond)
		}
		pass(msg)
	})
	begins.Store(true)
	w, err := r.Watch(testContext(t), jskv.AllKeys, jskv.UpdatesOnly())
	if errors.Is(err, jskv.ErrBucketReplaced) {
		return // replacing it took so long that another attempt saw that
	}
	require.NoError(t, err)
	t.Cleanup(w.Stop)
	slow.Store(true)
	eventually(t, func() bool {
		_, err := w.Next(soonContext(t))
		return errors.Is(err, jskv.ErrBucketReplaced)
	}, "the bucket was replaced")
}

// Each watcher has to know that its consumer is on the stream that it asked about. Whoever asks later
// answers that for all that were there before.
func TestManyWatchersConfirmEachOther(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	var asked atomic.Int64
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		if strings.Contains(msg.Subject, "STREAM.INFO.") {
			asked.Add(1)
		}
		pass(msg)
	})
	const watchers = 20
	onceInThree(t, int64(watchers+1), func() int64 {
		before := asked.Load()
		all := make([]*jskv.Watcher[string], watchers)
		for i := range all {
			all[i] = watch(t, r.Bucket, jskv.AllKeys, jskv.UpdatesOnly())
		}
		var idle sync.WaitGroup
		for _, w := range all {
			idle.Go(func() {
				defer w.Stop()
				ctx, cancel := context.WithTimeout(testContext(t), time.Second) // four looks
				defer cancel()
				_, err := w.Next(ctx)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		idle.Wait()
		return asked.Load() - before
	}, "one each to begin, and one for the last")
}

// A program writes all the time, on the handle that watches: the server's answer is older than what is
// acknowledged when it comes.
func TestAWatchBeginsWhileItsHandleWrites(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	admin := r.admin.Conn()
	var begins atomic.Bool
	var answers sync.WaitGroup
	defer answers.Wait()
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		subject := strings.TrimPrefix(msg.Subject, "relay.API.")
		switch {
		case strings.HasPrefix(subject, "$KV."):
			if err := admin.PublishMsg(&nats.Msg{Subject: subject, Reply: msg.Reply, Header: msg.Header, Data: msg.Data}); err != nil {
				t.Errorf("pass a write on: %v", err)
			}
		case strings.HasPrefix(subject, "STREAM.INFO.") && begins.Load():
			answers.Go(func() {
				answer, err := admin.Request("$JS.API."+subject, msg.Data, soon)
				if err == nil {
					_, err = r.Put(context.Background(), "key", "v")
				}
				if err == nil {
					err = msg.Respond(answer.Data)
				}
				if err != nil {
					t.Errorf("ask, and write before the answer: %v", err)
				}
			})
		default:
			pass(msg)
		}
	})
	r.put("other", "v")
	begins.Store(true)
	promptly(t, time.Second, func() time.Duration {
		start := time.Now()
		w := r.watch()
		defer w.Stop()
		require.Equal(t, "other", next(t, w).Key)
		return time.Since(start)
	})
}

// Far from its server each round trip counts: a third one is more than a first attempt's time over 170 ms.
func TestAWatcherThatLostItsConsumerGoesOnAfterTwoRoundTrips(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	asked := make(chan string, 100)
	r.relayed(func(msg *nats.Msg, pass func(*nats.Msg)) {
		asked <- strings.Join(strings.Split(msg.Subject, ".")[2:4], ".")
		pass(msg)
	})
	onceInThree(t, []string{"CONSUMER.CREATE", "STREAM.INFO", "CONSUMER.MSG"}, func() (questions []string) {
		w := r.watch(jskv.UpdatesOnly())
		defer w.Stop()
		requireNothingNext(t, w)
		for len(asked) > 0 {
			<-asked
		}
		jskvtest.DeleteConsumers(t, r.admin, "b")
		r.putBeside("k", "v")
		next(t, w)
		for len(asked) > 0 {
			if question := <-asked; question != "CONSUMER.DELETE" { // for which nobody waits
				questions = append(questions, question)
			}
		}
		return questions
	})
}
