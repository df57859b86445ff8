package jskv_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

// Each new snapshot may come from a replica that has not yet come to where the copy is, and has what
// the copy knows to be replaced or deleted.
func TestACacheOnReplicasNeverGoesBack(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newClusterReading(t, jetstream.KeyValueConfig{History: history, Storage: jetstream.MemoryStorage})
		c := newCache(t, r.Bucket)
		seen := follow(t, c)
		stop := make(chan struct{})
		var writing sync.WaitGroup
		stopWriting := sync.OnceFunc(func() { close(stop); writing.Wait() })
		defer stopWriting()
		for w := range 4 {
			writing.Go(func() {
				for i := 0; !isClosed(stop); i++ {
					key := fmt.Sprintf("k%d.%d", w, i%10)
					ctx, cancel := context.WithTimeout(context.Background(), soon)
					revision, err := r.Put(ctx, key, "v")
					if i%3 == 0 && err == nil {
						revision, err = r.Delete(ctx, key)
					}
					if err == nil {
						err = c.Wait(ctx, revision)
					}
					cancel()
					if e, ok := c.Entry(key); err != nil || ok == (i%3 == 0) || ok && e.Revision != revision {
						t.Errorf("%s: %d left revision %d, found %+v %v, %v", key, i, revision, e, ok, err)
						return
					}
				}
			})
		}
		for range 25 {
			jskvtest.DeleteConsumers(t, r.admin, "b")
			requireWait(t, c, r.put("snapshot", "v"))
		}
		stopWriting()
		requireWait(t, c, r.put("end", "v"))
		requireCopy(t, r.Bucket, c)
		want := map[string]string{}
		for _, e := range stored(t, r.Bucket) {
			want[e.Key] = e.Value
		}
		seen.requireState(want)
		require.Zero(t, seen.made, "changes come in revision order")
	})
}

func TestACacheFollowsWhileLeadersAndServersChange(t *testing.T) {
	t.Parallel()
	r := newClusterReading(t, jetstream.KeyValueConfig{})
	keys := []string{"k0", "k1", "k2", "k3", "k4", "k5"}
	all, some := newCache(t, r.Bucket), newCache(t, r.Bucket, "k1", "k3", "x.>")
	changes := []func(){
		func() { r.cluster.StepDown("b") },
		func() {
			stopped := r.cluster.Server(r.cluster.Leader("b"))
			stopped.Stop()
			defer stopped.Start()
			r.surely("k1", "without one server")
		},
		func() { jskvtest.DeleteConsumers(t, r.admin, "b") },
	}
	for round, change := range changes {
		for _, key := range keys {
			r.surely(key, fmt.Sprint("before ", round))
		}
		change()
		var last uint64
		for _, key := range keys {
			last = r.surely(key, fmt.Sprint("after ", round))
		}
		requireWait(t, all, last)
		requireWait(t, some, last)
		r.cluster.WaitCurrent("b")
		eventually(t, func() bool { // what was written again because its answer was late may still be stored
			return slices.Equal(brief(stored(t, r.Bucket)...), brief(copied(all)...)) &&
				slices.Equal(brief(stored(t, r.Bucket, "k1", "k3", "x.>")...), brief(copied(some)...))
		}, "they have what the bucket has")
		eventually(t, func() bool { return max(all.Stale(), some.Stale()) == 0 }, "somebody answers")
	}
}

func TestACacheOfAMirrorHasWhatItsHandleWroteToTheOrigin(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]*jetstream.StreamSource{
		"under its origin's subjects": {Name: "origin"},
		"under subjects of its own":   {Name: "origin", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "$KV.origin.>", Destination: "$KV.mirror.>"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := jskvtest.NewServer(t).JetStream()
			origin := createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin"})
			mustPut(t, origin, "a", "early")
			mirror := mirrorOf(t, js, origin, source)
			all, some := newCache(t, mirror), newCache(t, mirror, "a", "b.*")
			for i := range 50 {
				for _, key := range []string{"a", "b.1", "elsewhere"} {
					value := fmt.Sprint(i)
					revision := mustPut(t, mirror, key, value)
					requireWait(t, all, revision)
					requireWait(t, some, revision)
					got, _ := all.Get(key)
					require.Equal(t, value, got)
				}
				if i%25 == 0 {
					jskvtest.DeleteConsumers(t, js, "mirror")
				}
			}
			revision, err := mirror.Delete(testContext(t), "a")
			require.NoError(t, err)
			requireWait(t, all, revision)
			requireCopy(t, mirror, all)
			requireWait(t, some, revision)
			requireCopy(t, mirror, some, "a", "b.*")
			eventually(t, func() bool { return all.Stale() == 0 }, "the server answers")
		})
	}
}
