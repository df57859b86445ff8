package jskv_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// fillWithMarkers stores n keys, of which those that `marker` tells are deleted.
func (r *reading) fillWithMarkers(n int, marker func(i int) bool) (live []string) {
	r.t.Helper()
	for i := range n {
		key := fmt.Sprintf("k%06d", i)
		msg := &nats.Msg{Subject: r.Stream().Subject(key), Data: []byte("v")}
		if marker(i) {
			msg.Header, msg.Data = nats.Header{"KV-Operation": {"DEL"}}, nil
		} else {
			live = append(live, key)
		}
		_, err := r.admin.PublishMsgAsync(msg, jetstream.WithRetryAttempts(20))
		require.NoError(r.t, err)
		if i%1000 == 999 {
			r.stored()
		}
	}
	r.stored()
	return live
}

func (r *reading) stored() {
	r.t.Helper()
	select {
	case <-r.admin.PublishAsyncComplete():
	case <-time.After(soon):
		require.Fail(r.t, "not everything was stored")
	}
}

// What comes from the leader is handed out at once, what comes from another server is held back. A
// snapshot that lost its consumer went from one to the other, and lost a key, or had deleted ones.
func TestASnapshotWhoseConsumersAreOnDifferentServersIsWhole(t *testing.T) {
	t.Parallel()
	r := newClusterReading(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	live := r.fillWithMarkers(20_000, func(i int) bool { return i%10 == 5 })
	stream, err := r.admin.Stream(testContext(t), "KV_b")
	require.NoError(t, err)
	for range 10 {
		ctx, cancel := context.WithCancel(testContext(t))
		var group sync.WaitGroup
		group.Go(func() {
			for deleted := 0; deleted < 4 && wait(ctx, 5*time.Millisecond); {
				for info := range stream.ListConsumers(ctx).Info() {
					if stream.DeleteConsumer(ctx, info.Name) == nil {
						deleted++
					}
				}
			}
		})
		var keys []string
		w := watch(t, r.Bucket, "*", jskv.IgnoreDeletes())
		for e, err := range w.Snapshot() {
			require.NoError(t, err)
			if keys = append(keys, e.Key); len(keys)%200 == 0 {
				wait(ctx, time.Millisecond) // or it is over before a consumer is deleted
			}
		}
		cancel()
		group.Wait()
		w.Stop()
		slices.Sort(keys)
		requireSameKeys(t, live, keys)
	}
}

// Of more than a snapshot takes at once nothing but markers was held back, and so nothing was left to
// hand out, with which the snapshot would have ended.
func TestASnapshotOfMarkersThatAreIgnoredEnds(t *testing.T) {
	t.Parallel()
	r := newClusterReading(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	r.fillWithMarkers(20_000, func(int) bool { return true })
	r.putBeside("zz.other", "v")
	for range 6 { // some of which read from another server than the leader
		w := watch(t, r.Bucket, "*", jskv.IgnoreDeletes())
		require.Empty(t, collect(t, w.Snapshot()))
		require.True(t, w.Synced())
		w.Stop()
	}
}

// What comes from another server than the leader is held back, and so in memory until it is whole.
func TestALargeListingIsReadFromTheLeaderAndNotHeldBack(t *testing.T) {
	t.Parallel()
	r := newClusterReading(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	const values, size = 12, 1 << 20
	for i := range values {
		mustPut(t, r.Bucket, fmt.Sprintf("k%d", i), strings.Repeat("v", size-1024))
	}
	for range 5 {
		n := 0
		for _, err := range r.Entries(testContext(t)) {
			require.NoError(t, err)
			if n++; n == 1 {
				// Whoever is asked for all consumers does not wait for a server that is late with its own.
				eventually(t, func() bool {
					return slices.Contains(r.consumerServers(), r.cluster.Server(r.cluster.Leader("b")).Name())
				}, "it is read from the leader")
			}
		}
		require.Equal(t, values, n)
	}
	require.Equal(t, r.subs, r.nc.NumSubscriptions())
	// A server that answers may hear of it a moment later.
	require.Eventually(t, func() bool { return jskvtest.ConsumerCount(t, r.admin, "b") == 0 }, soon, tick)
}

// consumerServers are the servers that have consumers of the bucket: beside the one that reads there may be
// others for a moment, which were given up because they are not where the leader is.
func (r *clusterReading) consumerServers() (names []string) {
	r.t.Helper()
	stream, err := r.admin.Stream(testContext(r.t), "KV_b")
	require.NoError(r.t, err)
	lister := stream.ListConsumers(testContext(r.t))
	for info := range lister.Info() {
		names = append(names, info.Cluster.Leader)
	}
	require.NoError(r.t, lister.Err())
	return names
}
