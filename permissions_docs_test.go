package jskv_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
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

// markdown is a table of docs/permissions.md.
func markdown(rows []allowance) string {
	cell := func(subjects []string) string {
		if len(subjects) == 0 {
			return ""
		}
		return "`" + strings.Join(subjects, "` `") + "`"
	}
	var table strings.Builder
	table.WriteString("| verb | when | publish | publish, better | subscribe |\n|---|---|---|---|---|\n")
	for _, row := range rows {
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s |\n", row.verb, row.when, cell(row.publish), cell(row.better), cell(row.subscribe))
	}
	return table.String()
}

func TestThePermissionsThatAreDocumentedAreThoseThatAreTried(t *testing.T) {
	t.Parallel()
	text := repositoryFile(t, "docs/permissions.md")
	rows := 0
	for _, table := range [][]allowance{oneServer, inACluster, onReplicas, onAMirror} {
		require.True(t, strings.Contains(text, markdown(table)), "docs/permissions.md lacks this table:\n%s", markdown(table))
		rows += len(table) + 2
	}
	require.Equal(t, rows, strings.Count(text, "\n|"), "there is no other table")
}

// A place's own table says only what is different there.
func TestNoRowOfThePermissionsRepeatsAnother(t *testing.T) {
	t.Parallel()
	for _, table := range []struct{ own, elsewhere []allowance }{
		{inACluster, oneServer},
		{onReplicas, heldTo(inACluster, slices.Clone[[]string])},
		{onAMirror, heldTo(nil, mirroredAll)},
	} {
		for _, row := range table.own {
			i := slices.IndexFunc(table.elsewhere, row.sameCase)
			if i >= 0 && slices.Equal(row.publish, table.elsewhere[i].publish) && slices.Equal(row.better, table.elsewhere[i].better) {
				t.Errorf("%s: it needs no row of its own", &permit{&row, ""})
			}
		}
	}
}

func TestThePermissionsOfNoMethodAreLeftOut(t *testing.T) {
	t.Parallel()
	text := repositoryFile(t, "docs/permissions.md")
	for prefix, typ := range map[string]reflect.Type{
		"":           reflect.TypeFor[*jskv.Bucket[string]](),
		"RawStream.": reflect.TypeFor[*jskv.RawStream](),
	} {
		require.NotZero(t, typ.NumMethod())
		for i := range typ.NumMethod() {
			require.Contains(t, text, "`"+prefix+typ.Method(i).Name+"`")
		}
	}
}

// The users of the configuration that is documented may do what is said there, and nothing else.
func TestTheUsersThatAreDocumented(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) {
		if err := o.ProcessConfigString(block(t, repositoryFile(t, "docs/permissions.md"), "conf")); err != nil {
			t.Error(err)
		}
	}))
	user := func(name string) jetstream.JetStream {
		return hasty(t, srv.Conn(nats.UserInfo(name, name), quiet), untilReported)
	}
	owner := createBucket(t, user("owner"), jetstream.KeyValueConfig{History: 5, LimitMarkerTTL: time.Second}, jskv.WithTransactions())
	mustPut(t, owner, "k", "v")
	mustPut(t, owner, "sue.color", "blue")

	t.Run("the owner and the writer may use every verb", func(t *testing.T) {
		for _, name := range []string{"owner", "writer"} {
			b := openBucket(t, user(name))
			for _, v := range verbs {
				require.NotErrorIs(t, v.call(testContext(t), b), jskv.ErrPermission, "%s of %s", v.name, name)
			}
		}
		require.ErrorIs(t, jskv.DeleteBucket(context.Background(), user("writer"), "b"), jskv.ErrPermission)
	})
	mustPut(t, owner, "k", "v")
	_, err := owner.Delete(testContext(t), "deleted")
	require.NoError(t, err)
	// Each verb has a connection of its own: one remembers its last violation only, and a request to
	// purge cannot be tried again for another look.
	apart := func(t *testing.T, name string, may func(v verb) bool, check func(t *testing.T, v verb, err error)) {
		buckets := map[string]*jskv.Bucket[string]{}
		for _, v := range verbs {
			buckets[v.name] = openBucket(t, user(name))
		}
		call := func(v verb) error {
			if may(v) {
				return v.call(testContext(t), buckets[v.name])
			}
			return unpermitted(t, func() error { return v.call(context.Background(), buckets[v.name]) })
		}
		together(t, call, func(t *testing.T, v verb, err error) {
			if may(v) {
				check(t, v, err)
				return
			}
			requireIs(t, err, jskv.ErrPermission)
		})
	}
	t.Run("the reader may read", func(t *testing.T) {
		reads := func(v verb) bool { return !v.writes && v.name != "Modify" && v.name != "PurgeDeletes" }
		apart(t, "reader", reads, func(t *testing.T, _ verb, err error) { require.NotErrorIs(t, err, jskv.ErrPermission) })
	})
	t.Run("the watcher may watch", func(t *testing.T) {
		may := func(v verb) bool {
			return slices.Contains([]string{"History", "Watch", "Messages", "Status", "Stream Info"}, v.name)
		}
		apart(t, "watcher", may, func(t *testing.T, _ verb, err error) { require.NoError(t, err) })
		c, err := openBucket(t, user("watcher")).Cache(testContext(t))
		require.NoError(t, err)
		defer c.Close()
		revision := mustPut(t, owner, "k", "seen")
		require.NoError(t, c.Wait(testContext(t), revision))
		value, _ := c.Get("k")
		require.Equal(t, "seen", value)
	})
	t.Run("sue may use her keys", func(t *testing.T) {
		ctx := testContext(t)
		b := openBucket(t, user("sue"))
		_, err := b.Put(ctx, "sue.color", "green")
		require.NoError(t, err)
		value, err := b.Get(ctx, "sue.color")
		require.NoError(t, err)
		require.Equal(t, "green", value)
		require.Equal(t, "Put blue, Put green", history(t, b, "sue.color"))
		w, err := b.Watch(ctx, "sue.>")
		require.NoError(t, err)
		require.NoError(t, last(w.Snapshot()))
		w.Stop()

		var group sync.WaitGroup
		refused := map[string]func(ctx context.Context, b *jskv.Bucket[string]) error{
			"Put": func(ctx context.Context, b *jskv.Bucket[string]) error { return second(b.Put(ctx, "joe.color", "red")) },
			"Get": func(ctx context.Context, b *jskv.Bucket[string]) error { return second(b.Get(ctx, "k")) },
			"Get FromLeader": func(ctx context.Context, b *jskv.Bucket[string]) error {
				return second(b.Get(ctx, "k", jskv.FromLeader()))
			},
			"History": func(ctx context.Context, b *jskv.Bucket[string]) error { return last(b.History(ctx, "k")) },
			"Keys":    func(ctx context.Context, b *jskv.Bucket[string]) error { return last(b.Keys(ctx)) },
			"Watch":   func(ctx context.Context, b *jskv.Bucket[string]) error { return second(b.Watch(ctx, "k")) },
			"Watch of several": func(ctx context.Context, b *jskv.Bucket[string]) error {
				return second(b.Watch(ctx, "k", jskv.AndFilter("sue.>")))
			},
			"Messages": func(ctx context.Context, b *jskv.Bucket[string]) error { return second(b.Stream().Messages(ctx)) },
		}
		for name, call := range refused {
			b := openBucket(t, user("sue"))
			group.Go(func() {
				assert.ErrorIs(t, unpermitted(t, func() error { return call(context.Background(), b) }), jskv.ErrPermission, name)
			})
		}
		group.Wait()
	})
}
