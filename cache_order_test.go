package jskv_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// The first who needs the keys in order puts them so. One writer puts the keys in turn, so that at any
// moment their revisions are consecutive.
func TestTheFirstAllOfACacheIsOneMomentsViewWhileWritersGoOn(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 64})
	keys := r.fill(3000, "v")
	defer r.inTurn(keys, func() {})()
	var caches []*jskv.Cache[string]
	for range 10 {
		c := newCache(t, r.Bucket)
		caches = append(caches, c)
		var views [3][]jskv.Entry[string]
		var reading sync.WaitGroup
		for i := range views {
			reading.Go(func() { views[i] = copied(c) })
		}
		reading.Wait()
		for _, entries := range append(views[:], copied(c)) {
			_, wrong := consecutive(len(keys), entries)
			require.Empty(t, wrong)
		}
	}
	for _, c := range caches { // what was missed then would be missing now
		_, wrong := consecutive(len(keys), copied(c))
		require.Empty(t, wrong)
	}
}

// Keys are deleted and stored while they are put in order, and some of that is hidden by an
// interruption.
func TestWhatChangesWhileTheKeysArePutInOrderIsInTheCopy(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	for round := range 5 {
		keys := r.fill(10_000, fmt.Sprint("round ", round))
		c := newCache(t, r.Bucket)
		var beside sync.WaitGroup
		ordered := make(chan struct{})
		beside.Go(func() {
			for i := 0; i < 300 && !isClosed(ordered); i++ {
				r.del(keys[i])
			}
		})
		beside.Go(func() {
			for chunk := range slices.Chunk(keys[300:], 50) {
				if isClosed(ordered) {
					break // or what was missed would be replaced
				}
				r.again(chunk...)
			}
		})
		if round%2 == 1 {
			beside.Go(func() { jskvtest.DeleteConsumers(t, r.admin, "b") })
		}
		requireWait(t, c, r.put("begun", "v"))
		view := copied(c)
		close(ordered)
		beside.Wait()
		require.True(t, slices.IsSortedFunc(view, byKey))
		require.GreaterOrEqual(t, len(view), len(keys)-300)
		requireWait(t, c, r.put("last", "v"))
		requireCopy(t, r.Bucket, c)
		c.Close()
	}
}

func TestACacheMayBeClosedWhileItsKeysArePutInOrder(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(10_000, "v")
	for range 5 {
		c := newCache(t, r.Bucket)
		var reading sync.WaitGroup
		var view []jskv.Entry[string]
		var told int
		reading.Go(func() { view = copied(c) })
		reading.Go(func() {
			for _, err := range c.Changes(context.Background()) {
				if err != nil {
					panic(err)
				}
				told++
			}
		})
		c.Close()
		reading.Wait()
		require.Len(t, view, len(keys))
		require.Equal(t, len(keys), told)
		r.requireNothingLeft()
	}
}

// Their markers come within the snapshot, behind values that were on their way.
func TestKeysThatAreDeletedDuringTheLoadAreNotInTheCopy(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.store("first", "first")
	keys := r.fill(5000, strings.Repeat("v", 4<<10))
	s := stops{"first": make(chan struct{})}
	loaded := make(chan *jskv.Cache[string], 1)
	go func() {
		c, err := jskv.As(r.Bucket, s).Cache(testContext(t))
		if err != nil {
			panic(err)
		}
		loaded <- c
	}()
	eventually(t, func() bool { return r.nc.Stats().InMsgs > 1500 }, "the server sends ahead")
	deleted := keys[1100:1200]
	for _, key := range deleted {
		r.del(key)
	}
	s.pass("first")
	c := receive(t, loaded)
	t.Cleanup(c.Close)
	requireCopy(t, r.Bucket, c)
	require.Equal(t, 1+len(keys)-len(deleted), c.Len())
}
