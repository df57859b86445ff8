package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// mostBatches is how many batches a server keeps under way in one stream.
const mostBatches = 50

// occupy begins as many batches in bucket "b" as the server lets it, and returns how many those
// are and what ends them.
func occupy(t testing.TB, nc *nats.Conn) (n int, end func()) {
	t.Helper()
	part := func(id, sequence int) *nats.Msg {
		return &nats.Msg{Subject: "$KV.b.slot", Header: nats.Header{
			"Nats-Batch-Id": {fmt.Sprint("slot-", id)}, "Nats-Batch-Sequence": {strconv.Itoa(sequence)},
		}}
	}
	for {
		reply, err := nc.RequestMsgWithContext(testContext(t), part(n, 1))
		require.NoError(t, err)
		if len(reply.Data) > 0 {
			require.Contains(t, string(reply.Data), "10210", "no other reason than that there are too many")
			return n, func() {
				for id := range n {
					require.NoError(t, nc.PublishMsg(part(id, 3))) // a gap
				}
				require.NoError(t, nc.Flush())
			}
		}
		n++
	}
}

// requireNoBatchUnderWay wants nobody to have left a batch behind. What ended the last of them may have been sent on
// another connection and be on its way: it is waited for, but less long than a server keeps a batch by itself, 10 s.
func requireNoBatchUnderWay(t testing.TB, nc *nats.Conn) {
	t.Helper()
	for begun, n := time.Now(), 0; n < mostBatches; { // or more, where to begin them takes as long as that
		require.Less(t, time.Since(begun), 5*time.Second, "only %d batches could be begun", n)
		var end func()
		n, end = occupy(t, nc)
		end()
	}
}

// twoPuts is a batch of two writes.
func twoPuts(b *jskv.Bucket[string]) *jskv.Batch[string] {
	return b.NewBatch().Put("first", "1").Put("second", "2")
}

func TestBatchesOverTheServersLimitAreRefused(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory, jskv.WithTransactions())
	for _, n := range []int{1001, 1002, 3000} {
		batch := b.NewBatch()
		for _, key := range numbered(n) {
			batch.Put(key, "v")
		}
		begun := time.Now()
		_, err := batch.Commit(testContext(t))
		requireIs(t, err, jskv.ErrTooManyOperations)
		requireNames(t, err, " b: ", "1000")
		require.Less(t, time.Since(begun), soon, "it was not tried again until its context ended")

		_, err = b.Transact(testContext(t), func(tx *jskv.Tx[string]) error {
			for _, key := range numbered(n) {
				tx.Put(key, "v")
			}
			return nil
		})
		requireIs(t, err, jskv.ErrTooManyOperations)
	}
	require.Zero(t, lastRevision(t, b))
	batch := b.NewBatch()
	for _, key := range numbered(1000) {
		batch.Put(key, "v")
	}
	revisions := commit(t, batch)
	require.EqualValues(t, 1, revisions[0])
	require.EqualValues(t, 1000, revisions[999])
	requireNoBatchUnderWay(t, server.Conn())

	many := b.NewBatch().Put("k", "v")
	for _, key := range numbered(1025) {
		many.Require(key, 0)
	}
	_, err := many.Commit(testContext(t))
	requireIs(t, err, jskv.ErrTooManyOperations)
}

func TestBatchWithAValueThatIsTooLargeNamesIt(t *testing.T) {
	t.Parallel()
	cfg := inMemory
	cfg.MaxValueSize = 1000
	b, server := newBucket(t, cfg, jskv.WithTransactions())
	for _, size := range []int{950, 1001, 2 << 20} { // in a batch, its headers count too
		big := strings.Repeat("x", size)
		for place, batch := range map[string]*jskv.Batch[string]{
			"first":  b.NewBatch().Put("big", big).Put("a", "1"),
			"middle": b.NewBatch().Put("a", "1").Put("big", big).Put("b", "2"),
			"last":   b.NewBatch().Put("a", "1").Put("big", big),
			"only":   b.NewBatch().Put("big", big),
		} {
			if place == "only" && size < 1000 {
				continue
			}
			_, err := batch.Commit(testContext(t))
			require.ErrorIs(t, err, jskv.ErrValueTooLarge, place)
			requireNames(t, err, " b/big: ")
		}
	}
	require.Zero(t, lastRevision(t, b))
	requireNoBatchUnderWay(t, server.Conn())
}

func TestBatchIntoAFullBucket(t *testing.T) {
	t.Parallel()
	cfg := inMemory
	cfg.MaxBytes = 3000
	b, server := newBucket(t, cfg, jskv.WithTransactions())
	_, err := b.NewBatch().Put("a", strings.Repeat("x", 2000)).Put("b", strings.Repeat("x", 2000)).Commit(testContext(t))
	requireIs(t, err, jskv.ErrBucketFull)
	require.Zero(t, lastRevision(t, b))
	requireNoBatchUnderWay(t, server.Conn())
}

func TestBatchWaitsWhileTooManyAreUnderWay(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory, jskv.WithTransactions())
	nc := server.Conn()
	n, end := occupy(t, nc)
	require.Equal(t, mostBatches, n)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := twoPuts(b).Commit(ctx)
	requireIs(t, err, context.DeadlineExceeded) // and ErrOutcomeUnknown, if that was in the midst of an attempt
	requireNames(t, err, " b: ")
	require.Zero(t, lastRevision(t, b))

	committed := make(chan error)
	go func() {
		_, err := twoPuts(b).Commit(testContext(t))
		committed <- err
	}()
	end()
	require.NoError(t, <-committed)
}

func TestManyBatchesAtATime(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, jetstream.KeyValueConfig{}, jskv.WithTransactions()) // on a disk, where a batch takes its time
	var group sync.WaitGroup
	for i := range 2 * mostBatches {
		group.Go(func() {
			batch := b.NewBatch()
			for k := range 5 {
				batch.Put(fmt.Sprint("k", k), strconv.Itoa(i))
			}
			if _, err := batch.Commit(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 5*2*mostBatches, lastRevision(t, b))
	got := getMany(t, b, "k0", "k1", "k2", "k3", "k4")
	require.Equal(t, got["k0"].Revision+4, got["k4"].Revision)
	requireNoBatchUnderWay(t, server.Conn())
}

func TestBatchGivenUpMidwayLeavesNothingUnderWay(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory, jskv.WithTransactions())
	nc := server.Conn()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for range 2 * mostBatches {
		_, err := twoPuts(direct).Commit(ended)
		requireIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
	}
	requireNoBatchUnderWay(t, nc)

	proxy := jskvtest.NewProxy(t, server.URL())
	b := openBucket(t, proxy.JetStream())
	lost := 0
	for i := range 40 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*100*time.Microsecond)
		if _, err := twoPuts(b).Commit(ctx); err != nil {
			lost++
			requireIs(t, err, context.DeadlineExceeded)
		}
		cancel()
	}
	require.Positive(t, lost)
	require.NoError(t, b.Stream().JetStream().Purge(testContext(t))) // behind all that was sent
	requireNoBatchUnderWay(t, nc)
}

// What is left of a batch is not sent when nobody waits for it any more.
func TestBatchThatIsBeingSentEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	createBucket(t, server.JetStream(), inMemory, jskv.WithTransactions())
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	keys := numbered(100)
	nc := server.Conn(nats.SetCustomDialer(&tapped{sending: func(data string) string {
		if strings.Contains(data, "$KV.b."+keys[0]) { // a client sends what is so large before it takes the next
			cancel()
		}
		return data
	}}))
	b := openBucket(t, hasty(t, nc, time.Minute))
	batch := b.NewBatch()
	for _, key := range keys {
		batch.Put(key, strings.Repeat("v", 64<<10))
	}
	sent := nc.Stats().OutMsgs
	_, err := batch.Commit(ctx)
	requireIs(t, err, context.Canceled)
	require.True(t, jskv.SafeToRetry(err))
	require.Less(t, nc.Stats().OutMsgs-sent, uint64(len(keys)))
	require.NoError(t, b.Stream().JetStream().Purge(testContext(t))) // behind all that was sent
	requireNoBatchUnderWay(t, server.Conn())
}

// A client keeps what is sent while it has no connection, and no more than its buffer holds: the beginning
// of a batch alone must not be what comes to the server.
func TestBatchWithoutAConnectionLeavesNothingUnderWay(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory, jskv.WithTransactions())
	proxy := jskvtest.NewProxy(t, server.URL())
	nc := proxy.Conn(nats.ReconnectBufSize(500), nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	b := openBucket(t, hasty(t, nc, 5*time.Second))
	proxy.Refuse()
	proxy.Cut()
	eventually(t, nc.IsReconnecting, "the connection is lost")
	large := b.NewBatch()
	for _, key := range numbered(10) {
		large.Put(key, strings.Repeat("v", 100))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := large.Commit(ctx)
	requireIs(t, err, context.DeadlineExceeded)
	require.True(t, jskv.SafeToRetry(err), "nothing was sent")
	proxy.Accept()
	eventually(t, nc.IsConnected, "the connection is back")
	require.NoError(t, nc.FlushWithContext(testContext(t)))
	requireNoBatchUnderWay(t, server.Conn())
	require.Zero(t, lastRevision(t, direct))
	require.Len(t, commit(t, large), 10)
}

func TestBatchWhoseAnswerIsLostMayHaveHappened(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory, jskv.WithTransactions())
	proxy := jskvtest.NewProxy(t, server.URL())
	js := proxy.JetStream()
	b := openBucket(t, js)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	lost := proxy.CutOn(jskvtest.ToClient, `"seq":2`)
	go func() { <-lost; cancel() }()
	_, err := twoPuts(b).Commit(ctx)
	requireIs(t, err, jskv.ErrOutcomeUnknown, context.Canceled)
	requireNames(t, err, " b: ")
	require.False(t, jskv.SafeToRetry(err))
	require.Len(t, getMany(t, direct, "first", "second"), 2)

	idempotent, err := jskv.OpenBucket(testContext(t), js, "b", jskv.String(), jskv.WithIdempotentWrites())
	require.NoError(t, err)
	lost = proxy.CutOn(jskvtest.ToClient, `"seq":4`)
	revisions, err := idempotent.NewBatch().Update("first", "3", 1).Delete("second").Commit(testContext(t))
	<-lost
	require.NoError(t, err)
	require.Equal(t, []uint64{3, 4}, revisions)
	lost = proxy.CutOn(jskvtest.ToClient, `"seq":5`)
	revisions, err = idempotent.NewBatch().Update("first", "5", 3).Commit(testContext(t))
	<-lost
	require.NoError(t, err)
	require.Equal(t, []uint64{5}, revisions)
	require.EqualValues(t, 5, lastRevision(t, direct), "nothing was stored twice")
	requireNoBatchUnderWay(t, server.Conn())
}

// A batch whose answer is lost is looked for as long as there is somebody to ask.
func TestBatchThatIsLookedForEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory, jskv.WithTransactions())
	proxy := jskvtest.NewProxy(t, server.URL())
	js := proxy.JetStream()
	b := openIdempotent(t, js)
	proxy.Stall(jskvtest.ToClient)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- second(twoPuts(b).Commit(ctx)) }()
	eventually(t, func() bool { return lastRevision(t, direct) == 2 }, "it is stored")
	js.Conn().Close()
	eventually(t, func() bool { return len(done) == 1 }, "it has ended")
	requireIs(t, <-done, jskv.ErrOutcomeUnknown, nats.ErrConnectionClosed)
}

// A connection that is cut in the middle of a batch never leaves half of it.
func TestBatchCutInItsMiddleIsStoredWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory, jskv.WithTransactions())
	proxy := jskvtest.NewProxy(t, server.URL())
	nc := proxy.Conn()
	b := openBucket(t, hasty(t, nc, time.Minute))
	for i, part := range []string{"part 0", "part 1", "part 2"} {
		ctx, cancel := context.WithCancel(testContext(t))
		reconnects := nc.Stats().Reconnects
		cut := proxy.CutOn(jskvtest.ToServer, part)
		go func() { <-cut; time.AfterFunc(500*time.Millisecond, cancel) }()
		batch := b.NewBatch()
		for j := range 3 {
			batch.Put(strconv.Itoa(j), fmt.Sprint("part ", j, " of ", i))
		}
		_, err := batch.Commit(ctx)
		<-cut
		got := getMany(t, direct, "0", "1", "2")
		stored := strings.HasSuffix(got["0"].Value, fmt.Sprint(" of ", i))
		switch {
		case err == nil:
			require.True(t, stored)
		case stored: // it has come again, and its answer too late
			requireIs(t, err, jskv.ErrOutcomeUnknown)
		default:
			requireIs(t, err, context.Canceled)
			require.True(t, errors.Is(err, jskv.ErrOutcomeUnknown) || jskv.SafeToRetry(err), "%v", err)
		}
		for j := range 3 {
			e := got[strconv.Itoa(j)]
			require.Equal(t, stored, strings.HasSuffix(e.Value, fmt.Sprint(" of ", i)), "%q after %v", e.Value, err)
		}
		eventually(t, func() bool { return nc.Stats().Reconnects > reconnects && nc.IsConnected() }, "the connection is back")
		require.NoError(t, nc.FlushWithContext(testContext(t)))
	}
}

func TestASingleWriteThatIsGivenUpSendsNothingElse(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory)
	proxy := jskvtest.NewProxy(t, server.URL())
	b := openBucket(t, proxy.JetStream())
	nc := server.Conn()
	published, err := nc.SubscribeSync("$KV.b.>")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	proxy.Stall(jskvtest.ToClient)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- second(b.NewBatch().Put("k", "v").Commit(ctx)) }()
	for _, want := range []string{"$KV.b.k", "$KV.b.behind"} {
		msg, err := published.NextMsgWithContext(testContext(t))
		require.NoError(t, err)
		require.Equal(t, want, msg.Subject)
		require.Empty(t, msg.Header, "a server without batches would store this one")
		if want == "$KV.b.k" {
			cancel()
			requireIs(t, <-ended, jskv.ErrOutcomeUnknown)
			proxy.Heal()
			mustPut(t, b, "behind", "v")
		}
	}
	require.Equal(t, "v", getMany(t, direct, "k")["k"].Value)
}

func TestBatchWithAKeyThatMayNotBeWrittenSaysSo(t *testing.T) {
	t.Parallel()
	const users = `authorization: { users: [
		{user: "all", password: "p"},
		{user: "some", password: "p", permissions: {publish: {deny: "$KV.b.secret"}}}
	]}`
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		if err := o.ProcessConfigString(users); err != nil {
			t.Error(err)
		}
	}))
	all := createBucket(t, srv.JetStream(nats.UserInfo("all", "p")), inMemory, jskv.WithTransactions())
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	b := openBucket(t, hasty(t, srv.Conn(nats.UserInfo("some", "p"), quiet), untilReported))
	for place, batch := range map[string]*jskv.Batch[string]{
		"first": b.NewBatch().Put("secret", "1").Put("a", "2"),
		"last":  b.NewBatch().Put("a", "1").Put("secret", "2"),
		"only":  b.NewBatch().Put("secret", "1"),
	} {
		onceInThree(t, true, func() (told bool) {
			_, err := batch.Commit(context.Background())
			require.Error(t, err, place)
			t.Log(place, err)
			return errors.Is(err, jskv.ErrPermission) && jskv.SafeToRetry(err)
		}, "it may not, and nothing was stored")
	}
	requireNoBatchUnderWay(t, srv.Conn(nats.UserInfo("all", "p")))
	require.Zero(t, lastRevision(t, all))

	onceInThree(t, true, func() (told bool) {
		n, err := b.PutMany(context.Background(), valued([]string{"a", "secret", "b"}))
		t.Log(err)
		require.Equal(t, 2, n)
		failed := requireBulkError(t, err, "secret")
		return errors.Is(err, jskv.ErrPermission) && !errors.Is(failed.Failed["secret"], jskv.ErrOutcomeUnknown)
	}, "it may not, and nothing was stored")
}

func TestBatchesAndTransactionsOnADeletedBucket(t *testing.T) {
	t.Parallel()
	_, server := newBucket(t, inMemory, jskv.WithTransactions())
	b := openBucket(t, hasty(t, server.Conn(), time.Minute))
	nc := server.Conn()
	closed := openBucket(t, hasty(t, nc, time.Minute))
	nc.Close()
	require.NoError(t, jskv.DeleteBucket(testContext(t), server.JetStream(), "b"))
	for handle, want := range map[*jskv.Bucket[string]]error{b: jskv.ErrBucketNotFound, closed: nats.ErrConnectionClosed} {
		for name, verb := range map[string]func() error{
			"batch":   func() error { _, err := twoPuts(handle).Commit(context.Background()); return err },
			"one":     func() error { _, err := handle.NewBatch().Put("k", "v").Commit(context.Background()); return err },
			"require": func() error { _, err := handle.NewBatch().Require("k", 1).Commit(context.Background()); return err },
			"read": func() error {
				_, err := handle.Transact(context.Background(), func(tx *jskv.Tx[string]) error { _, err := tx.Get("k"); return err })
				return err
			},
			"write": func() error {
				_, err := handle.Transact(context.Background(), func(tx *jskv.Tx[string]) error { tx.Put("k", "v"); return nil })
				return err
			},
		} {
			begun := time.Now()
			err := verb()
			require.ErrorIs(t, err, want, name)
			require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
			requireNames(t, err, want.Error())
			requireBucketOnce(t, err)
			require.Less(t, time.Since(begun), soon)
		}
	}
}
