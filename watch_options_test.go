package jskv_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestUpdatesOnlyLeavesTheSnapshotOut(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.put("a", "1")
		r.put("b", "2")
		w := r.watch(jskv.UpdatesOnly())
		require.True(t, w.Synced())
		require.Empty(t, collect(t, w.Snapshot()))
		requireNothingNext(t, w)
		r.put("c", "3")
		r.del("a")
		require.Equal(t, []string{"c@3 3", "a@4 Delete"}, brief(nextAll(t, w, 2)...))

		again := r.watch(jskv.UpdatesOnly()) // not what the other has seen
		r.put("b", "5")
		require.Equal(t, []string{"b@5 5"}, brief(next(t, again)))
		for e, err := range w.Updates() {
			require.NoError(t, err)
			require.Equal(t, []string{"b@5 5"}, brief(e))
			break
		}
	})
}

func TestUpdatesOnlySeesAWriteRightAfterWatch(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	for range 200 {
		w := r.watch(jskv.UpdatesOnly())
		revision := r.put("a", "now")
		require.Equal(t, revision, next(t, w).Revision)
		w.Stop()
	}
	r.requireNothingLeft()
}

func TestWithHistoryTheSnapshotIsAllStoredRevisions(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 3})
	for _, value := range []string{"1", "2", "3", "4"} {
		r.put("a", value)
	}
	r.del("b")
	r.put("b", "6")
	w := r.watch(jskv.WithHistory())
	r.put("a", "7")
	snapshot := collect(t, w.Snapshot())
	require.Equal(t, []string{"a@2 2", "a@3 3", "a@4 4", "b@5 Delete", "b@6 6"}, brief(snapshot...))
	for i, e := range snapshot {
		require.Equal(t, uint64(4-i), e.Delta)
	}
	require.Equal(t, []string{"a@7 7"}, brief(next(t, w)))

	w = watch(t, r.Bucket, "b", jskv.WithHistory())
	require.Equal(t, []string{"b@5 Delete", "b@6 6"}, brief(collect(t, w.Snapshot())...))
	w = r.watch(jskv.WithHistory(), jskv.IgnoreDeletes())
	require.Equal(t, []string{"a@3 3", "a@4 4", "b@6 6", "a@7 7"}, brief(collect(t, w.Snapshot())...))
}

func TestIgnoreDeletesLeavesMarkersOut(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.put("a", "1")
		r.put("b", "2")
		r.del("a")
		r.purge("c")
		w := r.watch(jskv.IgnoreDeletes())
		require.Equal(t, []string{"b@2 2"}, brief(collect(t, w.Snapshot())...))
		r.del("b")
		r.purge("d")
		r.put("e", "7")
		require.Equal(t, []string{"e@7 7"}, brief(next(t, w)))
		updates := r.watch(jskv.IgnoreDeletes(), jskv.UpdatesOnly())
		r.del("e")
		r.put("f", "9")
		require.Equal(t, []string{"f@9 9"}, brief(next(t, updates)))
		require.Equal(t, []string{"f@9 9"}, brief(next(t, w)))
	})
}

func TestKeysOnlySendsAndDecodesNoValues(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "no number")
	r.del("b")
	w := watch(t, jskv.As(r.Bucket, jskv.JSON[int]()), jskv.AllKeys, jskv.KeysOnly())
	received := r.nc.Stats().InBytes
	r.put("c", string(make([]byte, 500_000)))
	entries := nextAll(t, w, 3)
	require.Less(t, r.nc.Stats().InBytes-received, uint64(100_000), "the value did not come")
	require.Equal(t, []jskv.Operation{jskv.OpPut, jskv.OpDelete, jskv.OpPut},
		[]jskv.Operation{entries[0].Operation, entries[1].Operation, entries[2].Operation})
	for i, e := range entries {
		require.Zero(t, e.Value)
		require.Equal(t, uint64(i+1), e.Revision)
		require.Equal(t, string(rune('a'+i)), e.Key)
	}
	require.Equal(t, "9", entries[0].Header.Get("Nats-Msg-Size"))
	require.Equal(t, "500000", entries[2].Header.Get("Nats-Msg-Size"))
}

func TestFromRevisionBeginsWithIt(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 2})
	for _, value := range []string{"1", "2", "3"} { // revision 1 is gone
		r.put("a", value)
	}
	r.put("b", "4")
	r.del("b")
	r.put("c", "6")
	all := []string{"a@2 2", "a@3 3", "b@4 4", "b@5 Delete", "c@6 6"}
	cases := []struct {
		reason string
		from   uint64
		filter string
		want   []string
	}{
		{"the first stored", 2, ">", all},
		{"one that is gone: the first after it", 1, ">", all},
		{"zero, before the first", 0, ">", all},
		{"one in the middle, with older revisions of a key", 3, ">", all[1:]},
		{"a marker", 5, ">", all[3:]},
		{"the last", 6, ">", all[4:]},
		{"the next: nothing is stored", 7, ">", nil},
		{"of another key than the filter's", 3, "b", all[2:4]},
		{"behind the last of the filter's", 6, "a", nil},
		{"one far in the future", 1000, ">", nil},
		{"the last there is", 1<<64 - 1, ">", nil},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			w := watch(t, r.Bucket, test.filter, jskv.FromRevision(test.from))
			require.Equal(t, len(test.want) == 0, w.Synced())
			entries := collect(t, w.Snapshot())
			require.Equal(t, append([]string{}, test.want...), brief(entries...))
			require.True(t, w.Synced())
			w.Stop()
		})
	}
	r.requireNothingLeft()
}

func TestFromRevisionInTheFutureBeginsWhenItComes(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "1")
	w := r.watch(jskv.FromRevision(4))
	require.True(t, w.Synced())
	r.put("b", "2")
	r.put("c", "3")
	requireNothingNext(t, w)
	r.put("d", "4")
	r.put("e", "5")
	require.Equal(t, []string{"d@4 4", "e@5 5"}, brief(nextAll(t, w, 2)...))
}

func TestFromRevisionWithOtherOptions(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 5})
	r.put("a", "1")
	r.put("a", "2")
	r.del("a")
	r.put("b", "4")
	require.Equal(t, []string{"a@2 2", "a@3 Delete", "b@4 4"},
		brief(collect(t, r.watch(jskv.FromRevision(2), jskv.WithHistory()).Snapshot())...), "WithHistory is included")
	require.Equal(t, []string{"a@2 2", "b@4 4"},
		brief(collect(t, r.watch(jskv.FromRevision(2), jskv.IgnoreDeletes()).Snapshot())...))
	require.Equal(t, []string{"a@2 ", "a@3 Delete", "b@4 "},
		brief(collect(t, r.watch(jskv.FromRevision(2), jskv.KeysOnly()).Snapshot())...))
}

func TestOptionsThatExcludeEachOtherAreRefused(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	cases := []struct {
		reason string
		opts   []jskv.WatchOption
	}{
		{"no snapshot, and a larger one", []jskv.WatchOption{jskv.UpdatesOnly(), jskv.WithHistory()}},
		{"the other way round", []jskv.WatchOption{jskv.WithHistory(), jskv.UpdatesOnly()}},
		{"two beginnings", []jskv.WatchOption{jskv.UpdatesOnly(), jskv.FromRevision(3)}},
		{"two beginnings, one of them zero", []jskv.WatchOption{jskv.FromRevision(0), jskv.UpdatesOnly()}},
	}
	for _, test := range cases {
		t.Run(test.reason, func(t *testing.T) {
			sent := r.nc.Stats().OutMsgs
			w, err := r.Watch(testContext(t), jskv.AllKeys, test.opts...)
			require.ErrorIs(t, err, jskv.ErrInvalidOption)
			require.ErrorIs(t, err, jetstream.ErrInvalidOption)
			require.Nil(t, w)
			require.Equal(t, sent, r.nc.Stats().OutMsgs, "nothing was sent")
		})
	}
}

func TestAWatcherHandsOutWhatAnyOfItsFiltersMatchesOnce(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		r := newReading(t, jetstream.KeyValueConfig{History: history})
		r.putFilterKeys()
		for _, test := range filterCases {
			t.Run(test.reason, func(t *testing.T) {
				if test.filters == nil {
					test.filters = []string{jskv.AllKeys}
				}
				mine := slices.Clone(test.filters)
				w := watch(t, r.Bucket, test.filters[0], jskv.AndFilter(mine[1:]...), jskv.AndFilter())
				clear(mine) // the options have their own
				require.Equal(t, test.want, keysOf(collect(t, w.Snapshot())))
				r.putFilterKeys()
				require.Equal(t, test.want, keysOf(nextAll(t, w, len(test.want))), "as updates, too")
				requireNothingNext(t, w)
				w.Stop()

				w = watch(t, r.Bucket, test.filters[0], jskv.UpdatesOnly(), jskv.AndFilter(test.filters[1:]...))
				r.putFilterKeys()
				require.Equal(t, test.want, keysOf(nextAll(t, w, len(test.want))))
				requireNothingNext(t, w)
				w.Stop()
			})
		}
		r.requireNothingLeft()
	})
}

// keysOf returns the entries' keys, in order.
func keysOf(entries []jskv.Entry[string]) []string {
	var keys []string
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	slices.Sort(keys)
	return keys
}

func TestAWatcherOfAThousandFilters(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	keys := r.fill(2000, "v")
	var even []string
	for i := 0; i < len(keys); i += 2 {
		even = append(even, keys[i])
	}
	w := watch(t, r.Bucket, even[0], jskv.AndFilter(even[1:]...))
	require.Equal(t, even, keysOf(collect(t, w.Snapshot())))
	r.put(keys[1], "not this")
	r.put(keys[2], "this")
	require.Equal(t, keys[2], next(t, w).Key)
	requireSameKeys(t, even, sorted(t, r.Keys(testContext(t), even...)))
}

func TestAValueThatDoesNotDecodeIsNoEndOfAWatcher(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	numbers := jskv.As(r.Bucket, jskv.JSON[int]())
	r.put("a", "one")
	r.put("b", "2")
	w := watch(t, numbers, jskv.AllKeys)
	requireDecodeError := func(e jskv.Entry[int], err error, revision uint64, data string) {
		t.Helper()
		var decode *jskv.DecodeError
		require.ErrorAs(t, err, &decode)
		require.Equal(t, []any{revision, data}, []any{decode.Revision, string(decode.Data)})
		require.Equal(t, []any{revision, decode.Key, 0}, []any{e.Revision, e.Key, e.Value})
	}
	values := 0
	for e, err := range w.Snapshot() {
		if e.Key == "a" {
			requireDecodeError(e, err, 1, "one")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, 2, e.Value)
		values++
	}
	require.Equal(t, 1, values, "the snapshot goes on")
	require.True(t, w.Synced())

	r.put("c", "three")
	r.put("d", "4")
	r.put("e", "five")
	r.put("f", "6")
	for e, err := range w.Updates() {
		if e.Revision == 3 {
			requireDecodeError(e, err, 3, "three")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, 4, e.Value)
		break
	}
	e, err := w.Next(testContext(t))
	requireDecodeError(e, err, 5, "five")
	require.Equal(t, 6, next(t, w).Value)
}
