package jskv_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// With a history of one, what is written right after Watch replaces what the snapshot promised, so
// it has to be here already when Watch returns. The walk-through depends on it.
func TestASnapshotIsWhatWasThereWhenWatchReturned(t *testing.T) {
	t.Parallel()
	cases := []struct {
		reason string
		keys   int
		value  string
	}{
		{"a few keys", 4, "v"},
		{"the most that Watch promises to take", 4096, "v"},
		{"the most bytes that Watch promises to take", 16, strings.Repeat("v", 256<<10)},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			bothHistories(t, func(t *testing.T, history uint8) {
				r := newReading(t, jetstream.KeyValueConfig{History: history})
				keys := r.fill(test.keys, test.value)
				n := uint64(test.keys)
				del := r.del(keys[1])

				w := r.watch()
				changed := r.put(keys[0], "changed")
				r.purge(keys[2])
				r.put(keys[1], "there again")
				r.put("new", "new")
				r.put(keys[len(keys)-1], "changed")

				snapshot := collect(t, w.Snapshot())
				require.Len(t, snapshot, test.keys)
				for i, e := range snapshot[:test.keys-1] {
					was := uint64(i + 1)
					if i > 0 {
						was++ // keys[1] is a marker at the end
					}
					require.Equal(t, was, e.Revision)
					require.Equal(t, test.value, e.Value)
				}
				require.Equal(t, fmt.Sprintf("%s@%d Delete", keys[1], del), brief(snapshot...)[test.keys-1])

				updates := nextAll(t, w, 5)
				require.Equal(t, []string{
					fmt.Sprintf("%s@%d changed", keys[0], changed),
					fmt.Sprintf("%s@%d Purge", keys[2], n+3),
					fmt.Sprintf("%s@%d there again", keys[1], n+4),
					fmt.Sprintf("new@%d new", n+5),
					fmt.Sprintf("%s@%d changed", keys[len(keys)-1], n+6),
				}, brief(updates...))
			})
		})
	}
}

// Watch takes some thousand keys itself before it returns. What is replaced meanwhile is left out.
func TestASnapshotHasEachKeyOnceThoughItIsWrittenToMeanwhile(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		keys := r.fill(1500, "v")
		nc := r.server.Conn()
		for range 15 {
			stop := r.overwriteThrough(2000, keys, nc) // with the keys less than Watch takes
			w := r.watch()
			last, snapshot := uint64(0), []string(nil)
			for e, err := range w.Snapshot() {
				require.NoError(t, err)
				if e.Revision <= last {
					require.Greater(t, e.Revision, last, "in order, nothing twice")
				}
				last = e.Revision
				snapshot = append(snapshot, e.Key)
			}
			require.True(t, w.Synced())
			stop()
			r.put(keys[0], "more")
			require.Greater(t, next(t, w).Revision, last)
			w.Stop()
			slices.Sort(snapshot)
			requireSameKeys(t, keys, snapshot)
		}
		r.requireNothingLeft()
	})
}

// What comes at once is read in more time than the server lets a consumer be inactive. What is overwritten
// meanwhile does not make the snapshot go on with it, again and again. It may come once: the server can be
// late with the end of what comes at once.
func TestASnapshotThatIsReadSlowlyEndsThoughItIsWrittenTo(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
	const eager, slow = 4096, 12 // Watch takes the eager ones
	r.fill(eager+slow, "v")
	w := r.watch()
	n := 0
	for e, err := range w.Snapshot() {
		require.NoError(t, err)
		if n++; n > eager {
			require.LessOrEqual(t, n, eager+2*slow, "it goes on with what was overwritten")
			r.put(e.Key, "again")
			time.Sleep(time.Second)
		}
	}
	require.True(t, w.Synced())
}

// A longer snapshot is not one moment: a key written meanwhile comes with its newer revision. But
// every key comes, in order, and nothing twice.
func TestALongSnapshotHasEveryKeyThoughManyAreWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		keys := r.fillLong()
		w := r.watch()
		newest := map[string]uint64{}
		for i := 0; i < len(keys); i += 100 {
			newest[keys[i]] = r.put(keys[i], "newer")
		}
		delete(newest, keys[100])
		r.purge(keys[100])
		newest["new"] = r.put("new", "new")

		seen := map[string]uint64{}
		last := uint64(0)
		for e, err := range w.Snapshot() {
			require.NoError(t, err)
			if e.Revision <= last {
				require.Greater(t, e.Revision, last, "in order, nothing twice")
			}
			seen[e.Key], last = e.Revision, e.Revision
		}
		for _, key := range keys {
			if seen[key] == 0 {
				require.Contains(t, seen, key)
			}
		}
		for key, revision := range newest {
			if seen[key] == revision {
				delete(newest, key)
			}
		}
		for len(newest) > 0 { // what is not in the snapshot is an update
			e := next(t, w)
			require.Greater(t, e.Revision, last)
			last = e.Revision
			if newest[e.Key] == e.Revision {
				delete(newest, e.Key)
			}
		}
		require.Equal(t, r.put("end", "end"), next(t, w).Revision)
	})
}

// A bucket with history is walked by the server along a list of the newest revisions. Where one of
// them is gone when it gets there it pauses, and a pull that expires in the middle of the list
// loses an entry.
func TestALongSnapshotGoesOnWhereRevisionsAreGone(t *testing.T) {
	t.Parallel()
	cases := []struct {
		reason   string
		from, to int // of the keys, of which Watch took some 4100 itself
	}{
		{"where the next request begins", 3900, 4500},
		{"many", 4100, 7000},
		{"in the middle of the next request", 6000, 6100},
		{"the last one", long - 1, long},
		{"the last ones", long - 1000, long},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			r := newReading(t, jetstream.KeyValueConfig{History: 2})
			keys := r.fillLong()
			w := r.watch()
			for range 2 {
				r.again(keys[test.from:test.to]...)
			}
			seen := make(map[string]bool, len(keys))
			for e, err := range w.Snapshot() {
				require.NoError(t, err)
				seen[e.Key] = true
			}
			r.put("end", "end")
			for key := ""; key != "end"; seen[key] = true {
				key = next(t, w).Key
			}
			for _, key := range keys {
				if !seen[key] {
					require.Fail(t, "a live key is missing", key)
				}
			}
		})
	}
}

// The stock client counts down from what was pending at the beginning, and waits for ever when
// some of that is purged away meanwhile.
func TestASnapshotEndsThoughItsRestIsPurgedAway(t *testing.T) {
	t.Parallel()
	cases := []struct {
		reason string
		opts   []jetstream.StreamPurgeOpt
		left   int // beside what Watch took
	}{
		{"everything", nil, 0},
		{"all but the last", []jetstream.StreamPurgeOpt{jetstream.WithPurgeKeep(1)}, 1},
		{"all but the last thousands", []jetstream.StreamPurgeOpt{jetstream.WithPurgeKeep(2000)}, 2000},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			bothHistories(t, func(t *testing.T, history uint8) {
				r := newReading(t, jetstream.KeyValueConfig{History: history})
				keys := r.fillLong()
				w := r.watch()
				next(t, w)
				require.NoError(t, r.Stream().JetStream().Purge(testContext(t), test.opts...))
				snapshot := collect(t, w.Snapshot())
				require.GreaterOrEqual(t, len(snapshot), max(2000, test.left))
				require.Less(t, len(snapshot), long-1)
				if test.left > 0 {
					require.Equal(t, keys[long-1], snapshot[len(snapshot)-1].Key)
				}
				require.True(t, w.Synced())
				revision := r.put("k000000", "again")
				require.Equal(t, revision, next(t, w).Revision)
			})
		})
	}
}

func TestAListingEndsThoughItsRestIsPurgedAway(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.fillLong()
		n := 0
		for _, err := range r.Entries(testContext(t)) {
			require.NoError(t, err)
			if n++; n == 1 {
				require.NoError(t, r.Stream().JetStream().Purge(testContext(t)))
			}
		}
		require.Less(t, n, long)
		require.Empty(t, collect(t, r.Keys(testContext(t))))
		r.requireNothingLeft()
	})
}

func TestAKeyThatIsDeletedAndMadeAgainWhileTheSnapshotIsRead(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		keys := r.fillLong()
		w := r.watch(jskv.IgnoreDeletes())
		first, last := keys[0], keys[len(keys)-1]
		r.del(first)
		r.del(last)
		again := r.put(first, "again")
		seen := map[string][]uint64{}
		for e, err := range w.Snapshot() {
			require.NoError(t, err)
			seen[e.Key] = append(seen[e.Key], e.Revision)
		}
		for seen[first][len(seen[first])-1] != again {
			e := next(t, w)
			seen[e.Key] = append(seen[e.Key], e.Revision)
		}
		require.Equal(t, []uint64{1, again}, seen[first])
	})
}
