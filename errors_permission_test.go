package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// guarded is a server with a user "admin", who may do everything, and a user "guest" with these
// permissions.
func guarded(t *testing.T, guest *server.Permissions) *jskvtest.Server {
	t.Helper()
	return jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		o.Users = []*server.User{{Username: "admin", Password: "x"}, {Username: "guest", Password: "x", Permissions: guest}}
	}))
}

func as(user string) nats.Option { return nats.UserInfo(user, "x") }

// untilReported is how long a call waits that is not permitted. What the server has not reported by then is not
// known to be missing.
const untilReported = 3 * time.Second

// unpermitted is what a call returns for which a permission is missing. The server's report is not waited for without
// end: where it is late, the call is made again, twice.
func unpermitted(t testing.TB, call func() error) (err error) {
	t.Helper()
	for range 3 {
		if err = call(); err == nil || errors.Is(err, jskv.ErrPermission) {
			break
		}
		t.Log("again:", err)
	}
	return err
}

// quiet keeps the client from printing each violation.
var quiet = nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})

// What lacks a permission gets no answer: the library must say why, and not only that the time
// is up.
func TestEveryVerbSaysThatAPermissionIsMissing(t *testing.T) {
	t.Parallel()
	srv := guarded(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{
		"$KV.>", "$JS.API.DIRECT.>", "$JS.API.STREAM.MSG.GET.>", "$JS.API.CONSUMER.>", "$JS.API.STREAM.PURGE.>",
	}}})
	admin := createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	mustPut(t, admin, "k", "v")
	_, err := admin.Delete(testContext(t), "deleted")
	require.NoError(t, err)
	// The server reports violations on the connection, which all share.
	b := openBucket(t, hasty(t, srv.Conn(as("guest"), quiet), untilReported))
	call := func(v verb) error { return unpermitted(t, func() error { return v.call(context.Background(), b) }) }
	together(t, call, func(t *testing.T, v verb, err error) {
		if v.name == "Status" || v.name == "Stream Info" {
			require.NoError(t, err, "this one is allowed")
			return
		}
		requireIs(t, err, jskv.ErrPermission, nats.ErrPermissionViolation)
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown, "nothing was stored")
		require.NotErrorIs(t, err, jskv.ErrBucketNotFound)
		requireBucketOnce(t, err)
		requireNames(t, err, "not permitted")
	})
	require.Equal(t, "Put v", history(t, admin, "k"), "nothing was stored")
}

func TestBucketsSayThatAPermissionIsMissing(t *testing.T) {
	t.Parallel()
	srv := guarded(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.>"}}})
	createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	js := hasty(t, srv.Conn(as("guest"), quiet), untilReported)
	for name, err := range bucketErrors(context.Background(), js) {
		requireIs(t, err, jskv.ErrPermission, nats.ErrPermissionViolation)
		requireNames(t, err, name)
	}
	_, err := jskv.OpenBucket(testContext(t), srv.JetStream(as("admin")), "b", jskv.String())
	require.NoError(t, err, "it was not deleted")
}

// The client remembers one violation only, the last: each of several calls at once must still
// find its own.
func TestMissingPermissionsOfSeveralCallsAtOnce(t *testing.T) {
	t.Parallel()
	srv := guarded(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.b.secret.>"}}})
	createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	b := openBucket(t, hasty(t, srv.Conn(as("guest"), quiet), untilReported))
	errs := make([]error, 10)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			errs[i] = unpermitted(t, func() error { return second(b.Put(context.Background(), fmt.Sprint("secret.", i), "v")) })
		})
	}
	group.Wait()
	for i, err := range errs {
		require.ErrorIs(t, err, jskv.ErrPermission, "call %d", i)
		require.Contains(t, err.Error(), fmt.Sprintf("$KV.b.secret.%d", i))
	}
	mustPut(t, b, "open", "v")
}

// Who may publish but not receive the answer stores and does not learn of it.
func TestAWriteWhoseAnswerIsNotPermittedMayHaveHappened(t *testing.T) {
	t.Parallel()
	var denied atomic.Bool
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		guest := &server.User{Username: "guest", Password: "x"}
		if denied.Load() {
			guest.Permissions = &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}}
		}
		o.Users = []*server.User{{Username: "admin", Password: "x"}, guest}
	}))
	admin := createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	nc := srv.Conn(as("guest"), quiet)
	b := openBucket(t, hasty(t, nc, untilReported))
	denied.Store(true)
	srv.Restart()
	eventually(t, func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() }, "the client comes back")

	err := unpermitted(t, func() error { return second(b.Put(context.Background(), "k", "v")) })
	requireIs(t, err, jskv.ErrPermission)
	var read error
	eventually(t, func() bool {
		_, read = admin.Get(testContext(t), "k")
		return read == nil
	}, "the write was permitted and stored")
	requireIs(t, err, jskv.ErrOutcomeUnknown)
	_, err = b.Get(context.Background(), "k")
	requireIs(t, err, jskv.ErrPermission)
	require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown)
}

// The connection reports every violation, also those that have nothing to do with the bucket.
func TestAViolationOfSomethingElseDoesNotExplainALostAnswer(t *testing.T) {
	t.Parallel()
	srv := guarded(t, &server.Permissions{Subscribe: &server.SubjectPermission{Allow: []string{"_INBO.>"}}})
	createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	proxy := jskvtest.NewProxy(t, srv.URL())
	nc := proxy.Conn(as("guest"), quiet, nats.CustomInboxPrefix("_INBO"))
	b := openBucket(t, hasty(t, nc, 300*time.Millisecond))
	_, err := nc.SubscribeSync("_INBOX.another")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	require.ErrorIs(t, nc.LastError(), nats.ErrPermissionViolation)

	proxy.Stall(jskvtest.ToClient)
	_, err = b.Put(context.Background(), "k", "v")
	requireIs(t, err, jskv.ErrOutcomeUnknown, nats.ErrTimeout)
	require.NotErrorIs(t, err, jskv.ErrPermission)
}

// What the server once reported says nothing of a write whose answer is lost after the permission was given.
func TestAWriteThatIsPermittedByNowMayHaveHappened(t *testing.T) {
	t.Parallel()
	var opts *server.Options
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		opts = o
		o.Users = []*server.User{{Username: "admin", Password: "x"}, {Username: "guest", Password: "x", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"$KV.b.k"}},
		}}}
	}))
	admin := createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	proxy := jskvtest.NewProxy(t, srv.URL())
	b := openBucket(t, hasty(t, proxy.Conn(as("guest"), quiet), untilReported))
	requireIs(t, unpermitted(t, func() error { return second(b.Put(context.Background(), "k", "v")) }), jskv.ErrPermission)
	freed := *opts
	freed.Users = []*server.User{opts.Users[0], {Username: "guest", Password: "x"}}
	require.NoError(t, srv.NATS().ReloadOptions(&freed))
	mustPut(t, b, "k", "permitted")
	proxy.Stall(jskvtest.ToClient)
	_, err := b.Put(context.Background(), "k", "unheard")
	requireIs(t, err, jskv.ErrOutcomeUnknown)
	require.NotErrorIs(t, err, jskv.ErrPermission)
	eventually(t, func() bool { return history(t, admin, "k") == "Put unheard" }, "it was stored, or is on its way")
}

// Over a link on which a report takes longer to come than a server nearby may take.
func TestAPermissionThatIsMissingIsToldOverASlowLink(t *testing.T) {
	t.Parallel()
	srv := guarded(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.b.secret"}}})
	createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
	proxy := jskvtest.NewProxy(t, srv.URL())
	b := openBucket(t, hasty(t, proxy.Conn(as("guest"), quiet), time.Second))
	proxy.Delay(jskvtest.ToClient, 400*time.Millisecond)
	onceInThree(t, true, func() bool { // a report that is late by more than the link makes it is not waited for
		_, err := b.Put(context.Background(), "secret", "v")
		t.Log(err)
		return errors.Is(err, jskv.ErrPermission) && !errors.Is(err, jskv.ErrOutcomeUnknown)
	})
	mustPut(t, b, "open", "v")
}

// The server reports one violation at a time, and each question about another takes a round trip.
func TestAMissingPermissionOfManyWritesIsToldInTime(t *testing.T) {
	t.Parallel()
	srv := guarded(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.b.secret.>"}}})
	createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{}, jskv.WithTransactions())
	proxy := jskvtest.NewProxy(t, srv.URL())
	b := openBucket(t, hasty(t, proxy.Conn(as("guest"), quiet), time.Second))
	proxy.Delay(jskvtest.ToClient, 20*time.Millisecond)

	const inTime = 4 * time.Second
	t.Run("in a batch", func(t *testing.T) {
		onceInThree(t, true, func() bool {
			batch := b.NewBatch()
			for i := range 500 {
				batch.Put(fmt.Sprint("open.", i), "v")
			}
			ctx, cancel := context.WithTimeout(context.Background(), inTime)
			defer cancel()
			_, err := batch.Put("secret.key", "v").Put("open.last", "v").Commit(ctx)
			t.Log(err)
			return errors.Is(err, jskv.ErrPermission) && strings.Contains(err.Error(), "$KV.b.secret.key") && ctx.Err() == nil
		})
	})
	t.Run("in PutMany", func(t *testing.T) {
		onceInThree(t, true, func() bool {
			begun := time.Now()
			_, err := b.PutMany(context.Background(), func(yield func(string, string) bool) {
				for i := 0; i < 1000 && yield(fmt.Sprint("secret.", i), "v"); i++ {
				}
			})
			t.Log(err)
			return errors.Is(err, jskv.ErrPermission) && time.Since(begun) < inTime
		})
	})
}

// It was asked of each write whether it was permitted, and then there was no time to send them again.
func TestABatchThatCameIncompleteIsSentAgainWhateverTheConnectionReported(t *testing.T) {
	t.Parallel()
	srv := guarded(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"another"}}})
	createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{}, jskv.WithTransactions())
	proxy := jskvtest.NewProxy(t, srv.URL())
	var lost atomic.Bool
	nc := proxy.Conn(as("guest"), quiet, nats.SetCustomDialer(&tapped{sending: func(data string) string {
		const second = "Nats-Batch-Sequence: 2\r\n"
		if strings.Contains(data, second) && lost.CompareAndSwap(false, true) {
			return strings.Replace(data, second, strings.Replace(second, "2", "9", 1), 1)
		}
		return data
	}}))
	b := openBucket(t, hasty(t, nc, 5*time.Second))
	require.NoError(t, nc.Publish("another", nil))
	require.NoError(t, nc.Flush())
	require.ErrorIs(t, nc.LastError(), nats.ErrPermissionViolation)
	proxy.Delay(jskvtest.ToClient, 20*time.Millisecond)
	batch := b.NewBatch()
	for _, key := range numbered(500) {
		batch.Put(key, "v")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := batch.Commit(ctx)
	require.NoError(t, err)
	require.True(t, lost.Load())
}
