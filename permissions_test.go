package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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

// permit is one trial of an allowance, with one of its subjects taken away or, with none, whole.
type permit struct {
	*allowance
	without string
}

func (p *permit) String() string {
	name := p.verb
	if p.when != "" {
		name += ", " + p.when
	}
	if p.without != "" {
		name += " without " + p.without
	}
	return name
}

// permits are the trials of all rows.
func permits(rows []allowance) []permit {
	var all []permit
	for i := range rows {
		all = append(all, permit{&rows[i], ""})
		for _, subject := range slices.Concat(rows[i].publish, rows[i].better, rows[i].subscribe) {
			all = append(all, permit{&rows[i], subject})
		}
	}
	return all
}

// route is how a trial's bucket is reached: its name is "b" and its number, a mirror's "m".
type route struct {
	number     int
	api, inbox string // prefixes, with their dots
}

// subject translates one of the tables, which are for bucket "b" under the usual prefixes.
func (r route) subject(subject string) string {
	number := strconv.Itoa(r.number)
	subject = strings.NewReplacer("KV_b", "KV_b"+number, "$KV.b.", "$KV.b"+number+".", "KV_m", "KV_m"+number).Replace(subject)
	switch {
	case strings.HasPrefix(subject, usualAPI):
		return r.api + strings.TrimPrefix(subject, usualAPI)
	case strings.HasPrefix(subject, usualInbox):
		return r.inbox + strings.TrimPrefix(subject, usualInbox)
	case r.api != usualAPI:
		return r.api + subject
	}
	return subject
}

const usualAPI, usualInbox = "$JS.API.", "_INBOX."

// permissions are those for a trial.
func (r route) permissions(p permit) *server.Permissions {
	only := func(subjects ...string) *server.SubjectPermission {
		allowed := []string{"nothing"} // none at all would be no restriction
		for _, subject := range subjects {
			if subject != p.without {
				allowed = append(allowed, r.subject(subject))
			}
		}
		return &server.SubjectPermission{Allow: allowed}
	}
	return &server.Permissions{
		Publish:   only(slices.Concat(p.publish, p.better)...),
		Subscribe: only(p.subscribe...),
	}
}

// site is where the rows of a table are tried.
type site struct {
	rows       []allowance
	bucketAPI  string // prefix for the clients, with its dot
	allowedAPI string // and as it has to be allowed
	inbox      string
	trials     []permit
}

func newSite(rows []allowance, bucketAPI, allowedAPI, inbox string) *site {
	return &site{rows, bucketAPI, allowedAPI, inbox, permits(rows)}
}

func (s *site) route(number int) route { return route{number, s.allowedAPI, s.inbox} }

// users configures "admin", who may do everything, and a user for every trial.
func (s *site) users() jskvtest.Option {
	return jskvtest.WithOptions(func(o *server.Options) {
		o.Users = []*server.User{{Username: "admin", Password: "x"}}
		for i, p := range s.trials {
			o.Users = append(o.Users, &server.User{Username: guestName(i), Password: "x", Permissions: s.route(i).permissions(p)})
		}
	})
}

func guestName(number int) string { return fmt.Sprint("guest", number) }

// turning is a connection of "admin" that is the guest's after a call of the returned function: what
// was opened with all permissions goes on with few.
func (s *site) turning(t testing.TB, connect func(...nats.Option) *nats.Conn, number int) (jetstream.JetStream, func()) {
	t.Helper()
	var narrow atomic.Bool
	nc := connect(quiet, nats.CustomInboxPrefix(strings.TrimSuffix(s.inbox, ".")), nats.UserInfoHandler(func() (string, string) {
		if narrow.Load() {
			return guestName(number), "x"
		}
		return "admin", "x"
	}))
	js, err := jetstream.NewWithAPIPrefix(nc, s.bucketAPI, jetstream.WithDefaultTimeout(8*time.Second))
	require.NoError(t, err)
	return js, func() {
		narrow.Store(true)
		require.NoError(t, nc.ForceReconnect())
		eventually(t, func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() }, "the guest is connected")
	}
}

// try runs many trials at the same time, as most of them wait for something, and holds what they
// return against what was allowed.
func (s *site) try(t *testing.T, connect func(...nats.Option) *nats.Conn, prepare func(js jetstream.JetStream, number int) *guest) {
	t.Helper()
	guests, turns := make([]*guest, len(s.trials)), make([]func(), len(s.trials))
	for i := range s.trials {
		var js jetstream.JetStream
		js, turns[i] = s.turning(t, connect, i)
		guests[i] = prepare(js, i)
	}
	for i, g := range guests {
		g.requireReady(t)
		turns[i]()
	}
	const atOnce = 32 // that a slow machine still answers in time
	errs, slots := make([]error, len(s.trials)), make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i, p := range s.trials {
		slots <- struct{}{}
		group.Go(func() {
			errs[i] = p.call(t, guests[i])
			<-slots
		})
	}
	group.Wait()
	for i, p := range s.trials {
		t.Run(p.String(), func(t *testing.T) { p.check(t, s.route(i), errs[i]) })
	}
}

// call gives what is to succeed more time than what waits for an answer that does not come.
func (p *permit) call(t testing.TB, g *guest) error {
	if p.fails() {
		return unpermitted(t, func() error { return p.run(context.Background(), g) })
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return p.run(ctx, g)
}

func (p *permit) fails() bool { return p.without != "" && !slices.Contains(p.better, p.without) }

func (p *permit) check(t *testing.T, r route, err error) {
	if !p.fails() {
		require.NoError(t, err)
		return
	}
	requireIs(t, err, jskv.ErrPermission, nats.ErrPermissionViolation)
	require.Contains(t, err.Error(), `"`+strings.TrimSuffix(r.subject(p.without), ">"))
	if slices.Contains(p.publish, p.without) {
		require.NotErrorIs(t, err, jskv.ErrOutcomeUnknown, "nothing was stored")
	}
}

// prepare makes a trial's bucket, and stores what the verbs find: at revision 1 a value that no
// list by one request has room for, at 2 key "k", at 4 a marker.
func prepare(t testing.TB, admin, js jetstream.JetStream, number, replicas int) *guest {
	t.Helper()
	g := &guest{js: js, bucket: fmt.Sprint("b", number), adminJS: admin}
	cfg := jetstream.KeyValueConfig{Bucket: g.bucket, History: 5, LimitMarkerTTL: time.Second, Storage: jetstream.MemoryStorage, Replicas: replicas}
	g.admin = createBucket(t, admin, cfg, jskv.WithTransactions())
	mustPut(t, g.admin, "large", strings.Repeat("v", 300<<10))
	mustPut(t, g.admin, "k", "v")
	mustPut(t, g.admin, "deleted", "v")
	_, err := g.admin.Delete(testContext(t), "deleted")
	require.NoError(t, err)
	eventually(t, func() bool { // in a cluster, another connection's server may be late to know it
		g.b, err = jskv.OpenBucket(testContext(t), js, g.bucket, jskv.String())
		return !errors.Is(err, jskv.ErrBucketNotFound)
	}, "the bucket is known")
	require.NoError(t, err)
	return g
}

// prepareMirror makes a mirror of such a bucket besides.
func prepareMirror(t testing.TB, admin, js jetstream.JetStream, number int) *guest {
	t.Helper()
	g := prepare(t, admin, js, number, 1)
	g.origin, g.bucket = g.bucket, fmt.Sprint("m", number)
	cfg := g.config()
	cfg.History = 5
	createBucket(t, admin, cfg)
	var err error
	g.b, err = jskv.OpenBucket(testContext(t), js, g.bucket, jskv.String())
	require.NoError(t, err)
	return g
}

// requireReady waits until a mirror has what its origin has.
func (g *guest) requireReady(t testing.TB) {
	t.Helper()
	eventually(t, func() bool {
		info, err := g.b.Stream().Info(testContext(t))
		return err == nil && info.State.LastSeq == 4
	}, "the mirror catches up")
}

// The least permissions of each verb suffice, and of those none can be left out without the error
// saying which.
func TestTheLeastPermissionsOfEveryVerb(t *testing.T) {
	t.Parallel()
	t.Run("on one server", func(t *testing.T) {
		t.Parallel()
		s := newSite(oneServer, usualAPI, usualAPI, usualInbox)
		srv := jskvtest.NewServer(t, s.users())
		admin := srv.JetStream(as("admin"))
		s.try(t, srv.Conn, func(js jetstream.JetStream, number int) *guest { return prepare(t, admin, js, number, 1) })
	})
	t.Run("with a private inbox, by the name of the server's own domain", func(t *testing.T) {
		t.Parallel()
		// A server translates the name of its own domain before it looks at the permissions.
		s := newSite(oneServer, "$JS.hub.API.", usualAPI, "_INBOX_guest.")
		srv := jskvtest.NewServer(t, s.users(), jskvtest.WithOptions(func(o *server.Options) { o.JetStreamDomain = "hub" }))
		admin := srv.JetStream(as("admin"))
		s.try(t, srv.Conn, func(js jetstream.JetStream, number int) *guest { return prepare(t, admin, js, number, 1) })
	})
	for replicas, own := range map[int][]allowance{1: inACluster, 3: slices.Concat(inACluster, onReplicas)} {
		t.Run(fmt.Sprintf("in a cluster, replicas: %d", replicas), func(t *testing.T) {
			t.Parallel()
			s := newSite(heldTo(own, slices.Clone[[]string]), usualAPI, usualAPI, usualInbox)
			cluster := jskvtest.NewCluster(t, 3, s.users())
			admin := cluster.JetStream(as("admin"))
			s.try(t, cluster.Conn, func(js jetstream.JetStream, number int) *guest {
				g := prepare(t, admin, js, number, replicas)
				cluster.WaitCurrent(g.bucket) // or a replica that lags has no key, which takes more permissions to read
				return g
			})
		})
	}
	t.Run("on a mirror", func(t *testing.T) {
		t.Parallel()
		s := newSite(slices.DeleteFunc(heldTo(onAMirror, mirroredAll), allowance.notOnAMirror), usualAPI, usualAPI, usualInbox)
		srv := jskvtest.NewServer(t, s.users())
		admin := srv.JetStream(as("admin"))
		s.try(t, srv.Conn, func(js jetstream.JetStream, number int) *guest {
			return prepareMirror(t, admin, js, number)
		})
	})
	t.Run("in another domain", func(t *testing.T) {
		t.Parallel()
		s := newSite(oneServer, "$JS.hub.API.", "$JS.hub.API.", usualInbox)
		hub, leaf := hubAndLeaf(t, s.users())
		admin := hub.JetStream()
		s.try(t, leaf.Conn, func(js jetstream.JetStream, number int) *guest { return prepare(t, admin, js, number, 1) })
	})
}

// A write that is lost on its way is repeated when the server has told that it has not got it.
func TestALostWriteThatTheServerMayNotBeAskedFor(t *testing.T) {
	t.Parallel()
	for _, publish := range [][]string{{"$KV.b.>", streamInfo}, {"$KV.b.>"}} {
		guest := &server.Permissions{Publish: &server.SubjectPermission{Allow: publish}}
		srv := guarded(t, guest)
		createBucket(t, srv.JetStream(as("admin")), jetstream.KeyValueConfig{})
		proxy := jskvtest.NewProxy(t, srv.URL())
		user := "admin"
		nc := proxy.Conn(quiet, nats.UserInfoHandler(func() (string, string) { return user, "x" }))
		b := openIdempotent(t, hasty(t, nc, 5*time.Second))
		user = "guest" // from the loss of the connection on
		lost := proxy.CutOn(jskvtest.ToServer, "$KV.b.k")
		if slices.Contains(publish, streamInfo) {
			mustPut(t, b, "k", "v")
			<-lost
			continue
		}
		_, err := b.Put(context.Background(), "k", "v")
		<-lost
		requireIs(t, err, jskv.ErrOutcomeUnknown, jskv.ErrPermission)
		require.Contains(t, err.Error(), streamInfo)
	}
}
