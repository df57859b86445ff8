package jskv_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// onAllServers makes a bucket on all servers of a cluster and opens it once more, impatiently.
func onAllServers(t *testing.T, cluster *jskvtest.Cluster, name string, opts ...jskv.BucketOption) (b, hurried *jskv.Bucket[string]) {
	t.Helper()
	cfg := jetstream.KeyValueConfig{Bucket: name, Storage: jetstream.MemoryStorage, Replicas: 3}
	b = createBucket(t, cluster.JetStream(), cfg, jskv.WithTransactions())
	cluster.WaitCurrent(name)
	patience := time.Second // with which what was lost is waited for
	if len(opts) > 0 {
		patience = 5 * time.Second // it is sent again only once, which must not be lost to a short wait
	}
	hurried, err := jskv.OpenBucket(testContext(t), hasty(t, cluster.Conn(), patience), name, jskv.String(), opts...)
	require.NoError(t, err)
	return b, hurried
}

// On replicas the server refuses a write while another one is in flight whose guard is the same
// key, although that stays as it is.
func requireOneGuardForMany(t *testing.T, cluster *jskvtest.Cluster) {
	b, other := onAllServers(t, cluster, "guarded")
	lock := mustPut(t, b, "lock", "mine")
	write := func(b *jskv.Bucket[string], i int) error {
		key := fmt.Sprint("k", i)
		_, err := b.NewBatch().Put(key, "v").Put(key+".too", "v").Require("lock", lock).Commit(testContext(t))
		return err
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 10 {
				if err := write([]*jskv.Bucket[string]{b, other}[i%2], i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	stolen := mustPut(t, b, "lock", "theirs")
	requireConflict(t, write(other, 0), "lock", lock, stolen)
	require.Equal(t, stolen, lastRevision(t, b))
}

// putThroughStepDown has the leader change while many writes are on their way to it.
func putThroughStepDown(t *testing.T, cluster *jskvtest.Cluster, name string, opts ...jskv.BucketOption) {
	b, hurried := onAllServers(t, cluster, name, opts...)
	var group sync.WaitGroup
	var changed atomic.Bool
	var keys []string
	n, err := hurried.PutMany(testContext(t), func(yield func(string, string) bool) {
		for left := 500; left > 0; {
			if changed.Load() {
				left--
			}
			key := fmt.Sprintf("n.%06d", len(keys))
			if keys = append(keys, key); !yield(key, "v of "+key) {
				return
			}
		}
	}, jskv.MaxPending(200), jskv.Progress(func(done int) {
		if done == 500 {
			group.Go(func() {
				defer changed.Store(true)
				cluster.StepDown(name)
			})
		}
	}))
	group.Wait()
	cluster.WaitCurrent(name)
	if len(opts) == 0 && err != nil {
		requireHonest(t, b, keys, n, err)
		return
	}
	require.NoError(t, err)
	require.Equal(t, len(keys), n)
	requireAllStored(t, b, keys)
	if len(opts) > 0 {
		require.EqualValues(t, len(keys), lastRevision(t, b), "none was stored twice")
	}
}

func requireAllStored(t *testing.T, b *jskv.Bucket[string], keys []string) {
	t.Helper()
	got := getMany(t, b, keys...)
	require.Len(t, got, len(keys))
	for _, key := range keys {
		require.Equal(t, "v of "+key, got[key].Value)
	}
}
