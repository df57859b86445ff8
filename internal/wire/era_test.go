package wire

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// replacedBucket is a bucket named "b" that is replaced by another of the name, and a handle on it whose answers
// may come late.
type replacedBucket struct {
	*Bucket
	t     *testing.T
	admin jetstream.JetStream

	mu      sync.Mutex
	subject string      // the answer to the next question with this in its subject is kept
	kept    chan func() // gives it
}

func newReplacedBucket(t *testing.T) *replacedBucket {
	t.Helper()
	server := jskvtest.NewServer(t)
	r := &replacedBucket{t: t, admin: server.JetStream(), kept: make(chan func(), 1)}
	r.make()
	nc := server.Conn()
	sub, err := nc.Subscribe("relay.API.>", func(question *nats.Msg) { r.relay(nc, question) })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Unsubscribe()) })
	require.NoError(t, nc.Flush())
	js, err := jetstream.NewWithAPIPrefix(server.Conn(), "relay.API")
	require.NoError(t, err)
	r.Bucket, err = Open(context.Background(), js, "b", Options{})
	require.NoError(t, err)
	return r
}

func (r *replacedBucket) make() {
	r.t.Helper()
	require.Eventually(r.t, func() bool { // the server may still be removing what was there before (10049)
		_, err := r.admin.CreateKeyValue(context.Background(), jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage})
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

func (r *replacedBucket) replace() {
	r.t.Helper()
	require.NoError(r.t, r.admin.DeleteKeyValue(context.Background(), "b"))
	r.make()
}

// relay hands a question of the handle to the server, or asks itself where the answer is to be kept.
func (r *replacedBucket) relay(nc *nats.Conn, question *nats.Msg) {
	subject := strings.TrimPrefix(question.Subject, "relay.API.")
	if !strings.HasPrefix(subject, keySpace) {
		subject = jetstream.DefaultAPIPrefix + subject
	}
	r.mu.Lock()
	keeps := r.subject != "" && strings.Contains(subject, r.subject)
	if keeps {
		r.subject = ""
	}
	r.mu.Unlock()
	if !keeps {
		_ = nc.PublishMsg(&nats.Msg{Subject: subject, Reply: question.Reply, Header: question.Header, Data: question.Data})
		return // a connection that ends needs no answer
	}
	answer, err := nc.Request(subject, question.Data, 10*time.Second)
	if err != nil {
		r.t.Errorf("ask %s: %v", subject, err)
		return
	}
	r.kept <- func() { _ = question.RespondMsg(answer) }
}

// keep has the answer to the next question with subject in its subject kept.
func (r *replacedBucket) keep(subject string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subject = subject
}

func (r *replacedBucket) write(key string) {
	r.t.Helper()
	_, err := r.Write(context.Background(), Write{Key: key})
	require.NoError(r.t, err)
}

// An answer of the old bucket that came behind one of the new made the handle forget what the new one had acknowledged, so that a replica
// that lagged could answer its reads.
func TestALateAnswerOfABucketThatWasReplacedIsNotBelieved(t *testing.T) {
	t.Parallel()
	inTime(t, lateAnswer)
}

// inTime runs course until the machine was fast enough for it, which it reports.
func inTime(t *testing.T, course func(t *testing.T) bool) {
	t.Helper()
	for range 20 {
		if course(t) {
			return
		}
	}
	require.Fail(t, "it took too long each time")
}

// lateAnswer returns false when it took so long that the question may have been asked again before its answer was given.
func lateAnswer(t *testing.T) bool {
	ctx := context.Background()
	r := newReplacedBucket(t)
	r.write("old")
	r.keep(infoOf)
	begun := time.Now()
	var asking sync.WaitGroup
	var told *jetstream.StreamInfo
	var toldErr error
	asking.Go(func() { told, toldErr = r.Info(ctx) })
	late := <-r.kept
	r.replace()
	info, err := r.Info(ctx)
	require.NoError(t, err)
	r.write("new")
	r.write("new")
	late()
	asking.Wait()
	require.NoError(t, toldErr)
	if time.Since(begun) >= firstPatience {
		return false
	}
	require.EqualValues(t, 2, told.State.LastSeq)
	require.EqualValues(t, 2, r.high())
	require.Equal(t, info.Created.UnixNano(), r.era().born.Load())
	return true
}

// What the old bucket had acknowledged counted in the new one, which had not come as far: reads waited for that in vain.
func TestALateAcknowledgementOfABucketThatWasReplacedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := newReplacedBucket(t)
	for range 9 {
		r.write("old")
	}
	r.keep(keySpace)
	var writing sync.WaitGroup
	writing.Go(func() { r.write("old") })
	late := <-r.kept
	r.replace()
	_, err := r.Info(ctx)
	require.NoError(t, err)
	r.write("new")
	late()
	writing.Wait()
	found, err := r.GetMany(ctx, []string{"new", "old"})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.EqualValues(t, 1, r.high())
}

// A write that was on its way when the handle heard of the new bucket was stored there.
func TestALateAcknowledgementOfTheNewBucketCounts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := newReplacedBucket(t)
	r.replace()
	r.keep(keySpace)
	var writing sync.WaitGroup
	writing.Go(func() { r.write("new") })
	late := <-r.kept
	_, err := r.Info(ctx)
	require.NoError(t, err)
	late()
	writing.Wait()
	require.EqualValues(t, 1, r.high())
}
