package jskv_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestAListingHasEveryLiveKeyOnceAndNoMarkers(t *testing.T) {
	t.Parallel()
	bothHistories(t, func(t *testing.T, history uint8) {
		bothWays(t, jetstream.KeyValueConfig{History: history}, func(t *testing.T, r *reading) {
			ctx := testContext(t)
			r.put("overwritten", "1")
			r.put("deleted", "1")
			r.put("purged", "1")
			r.put("made.again", "1")
			r.put("plain", "1")
			r.del("deleted")
			r.purge("purged")
			r.del("made.again")
			r.put("overwritten", "2")
			r.put("made.again", "2")
			r.del("never.there")

			require.Equal(t, []string{"made.again", "overwritten", "plain"}, sorted(t, r.Keys(ctx)))
			entries := collect(t, r.Entries(ctx))
			require.Equal(t, []string{"plain@5 1", "overwritten@9 2", "made.again@10 2"}, brief(entries...))
			for _, e := range entries {
				got, err := r.Entry(ctx, e.Key)
				require.NoError(t, err)
				e.Delta = 0 // of a read of a single key there is none
				require.Equal(t, got, e, "listed as it is read alone")
			}
		})
	})
}

func TestAnEntryOfAListingHasAllItsFields(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{}, func(t *testing.T, r *reading) {
		ctx := testContext(t)
		before := time.Now()
		r.put("a", "1")
		_, err := r.js.PublishMsg(ctx, &nats.Msg{
			Subject: r.Stream().Subject("b"), Header: nats.Header{"X-By": {"me", "you"}}, Data: []byte("2"),
		})
		require.NoError(t, err)

		entries := collect(t, r.Entries(ctx))
		require.Len(t, entries, 2)
		for _, e := range entries {
			require.Equal(t, "b", e.Bucket)
			require.Equal(t, jskv.OpPut, e.Operation)
			require.WithinRange(t, e.Created, before, time.Now())
		}
		require.Equal(t, []string{"a@1 1", "b@2 2"}, brief(entries...))
		require.Nil(t, entries[0].Header, "there are none")
		require.Equal(t, nats.Header{"X-By": {"me", "you"}}, entries[1].Header)
		require.Equal(t, []uint64{1, 0}, []uint64{entries[0].Delta, entries[1].Delta}, "how many were still to come")
	})
}

func TestAnEmptyListingIsNoError(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{History: 3}, func(t *testing.T, r *reading) {
		ctx := testContext(t)
		requireEmpty := func() {
			t.Helper()
			require.Empty(t, collect(t, r.Keys(ctx)))
			require.Empty(t, collect(t, r.Keys(ctx, "a.*", "b")))
			require.Empty(t, collect(t, r.Entries(ctx)))
			require.Empty(t, collect(t, r.Entries(ctx, "a.>")))
			require.Empty(t, collect(t, r.History(ctx, "none")))
		}
		requireEmpty()
		r.put("x", "1")
		r.del("x") // markers only
		requireEmpty()
		r.put("y", "1") // nothing that the filters match
		require.Empty(t, collect(t, r.Keys(ctx, "a.*", "b")))
		require.Empty(t, collect(t, r.Entries(ctx, "x", "y.*")))
		require.Empty(t, collect(t, r.History(ctx, "none")))
	})
}

// filterCases are over the keys of filterKeys.
var filterCases = []struct {
	reason  string
	filters []string
	want    []string
}{
	{"none means every key", nil, []string{"a", "a.b", "a.b.c", "a.c", "b.b", "b.c", "c"}},
	{"one exact key", []string{"a.b"}, []string{"a.b"}},
	{"one token below", []string{"a.*"}, []string{"a.b", "a.c"}},
	{"everything below, but not the token itself", []string{"a.>"}, []string{"a.b", "a.b.c", "a.c"}},
	{"all keys of one token", []string{"*"}, []string{"a", "c"}},
	{"a wildcard first", []string{"*.b"}, []string{"a.b", "b.b"}},
	{"a wildcard in the middle", []string{"a.*.c"}, []string{"a.b.c"}},
	{"several apart", []string{"c", "b.*"}, []string{"b.b", "b.c", "c"}},
	{"one within the other", []string{"a.b", "a.*"}, []string{"a.b", "a.c"}},
	{"one within the other, the wide one first", []string{">", "a.b"}, []string{"a", "a.b", "a.b.c", "a.c", "b.b", "b.c", "c"}},
	{"the same twice", []string{"a.b", "a.b"}, []string{"a.b"}},
	{"partly overlapping: neither contains the other", []string{"a.*", "*.b"}, []string{"a.b", "a.c", "b.b"}},
	{"partly overlapping, and one apart", []string{"c", "a.*", "*.b"}, []string{"a.b", "a.c", "b.b", "c"}},
	{"a union that overlaps what came before it", []string{"b.x", "a.*", "*.b"}, []string{"a.b", "a.c", "b.b"}},
	{"partly overlapping at different depths", []string{"a.>", "*.b"}, []string{"a.b", "a.b.c", "a.c", "b.b"}},
	{"nothing matches", []string{"x.>", "a.b.c.d"}, nil},
}

func (r *reading) putFilterKeys() {
	for _, key := range []string{"a", "a.b", "a.c", "a.b.c", "b.b", "b.c", "c"} {
		r.put(key, "of "+key)
	}
}

func TestAListingHasTheKeysThatItsFiltersMatch(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{}, func(t *testing.T, r *reading) {
		ctx := testContext(t)
		r.putFilterKeys()
		for _, test := range filterCases {
			t.Run(test.reason, func(t *testing.T) {
				require.Equal(t, test.want, sorted(t, r.Keys(ctx, test.filters...)))
				var keys []string
				for _, e := range collect(t, r.Entries(ctx, test.filters...)) {
					require.Equal(t, "of "+e.Key, e.Value)
					keys = append(keys, e.Key)
				}
				slices.Sort(keys)
				require.Equal(t, test.want, keys)
			})
		}
		r.requireNothingLeft()
	})
}

var invalidFilters = []struct{ reason, filter string }{
	{"empty", ""},
	{"a wildcard at the end of a token", "user.1*"},
	{"a wildcard at the start of a token", "user.*1"},
	{"a wildcard within a token", "us*er"},
	{"a full wildcard as part of a token", "user.a>"},
	{"a full wildcard before the end", "a.>.b"},
	{"a full wildcard first", ">.a"},
	{"two wildcards in a token", "a.**"},
	{"a dot first", ".a"},
	{"a dot last", "a."},
	{"only a dot", "."},
	{"an empty token", "a..b"},
	{"a space", "a b"},
	{"a space in front", " a"},
	{"only a space", " "},
	{"a tab", "a\tb"},
	{"a line's end, which would end the protocol line", "a\r\nPUB x 0\r\n"},
	{"a zero byte", "a\x00b"},
	{"not ASCII", "grün.*"},
	{"not UTF-8", "a\xff"},
	{"a character that no key may have", "a$b"},
	{"longer than a protocol line", strings.Repeat("a.", 1<<19) + "*"},
}

func TestAFilterThatIsNoPatternOverKeysIsRefused(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "1")
	ctx := testContext(t)
	for _, test := range invalidFilters {
		t.Run(test.reason, func(t *testing.T) {
			for _, filters := range [][]string{{test.filter}, {"a", test.filter}} {
				sent := r.nc.Stats().OutMsgs
				n, err := lastPair(t, r.Keys(ctx, filters...))
				require.ErrorIs(t, err, jskv.ErrInvalidFilter)
				require.Less(t, len(err.Error()), 300, "the text does not repeat a megabyte")
				require.Zero(t, n)
				n, err = lastPair(t, r.Entries(ctx, filters...))
				require.ErrorIs(t, err, jskv.ErrInvalidFilter)
				require.Zero(t, n)
				_, err = r.Watch(ctx, filters[0], jskv.AndFilter(filters[1:]...))
				require.ErrorIs(t, err, jskv.ErrInvalidFilter)
				_, err = r.Watch(ctx, "a", jskv.AndFilter(filters...))
				require.ErrorIs(t, err, jskv.ErrInvalidFilter)
				_, err = r.Stream().Messages(ctx, jskv.RawFilter(filters...))
				require.ErrorIs(t, err, jskv.ErrInvalidFilter)
				require.Equal(t, sent, r.nc.Stats().OutMsgs, "nothing was sent")
			}
		})
	}
	r.requireNothingLeft()
}

func TestAValueThatDoesNotDecodeIsNoEndOfAListing(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{History: 5}, func(t *testing.T, r *reading) {
		ctx := testContext(t)
		numbers := jskv.As(r.Bucket, jskv.JSON[int]())
		r.put("a", "1")
		r.put("b", "two")
		r.put("c", "3")
		r.put("b", "four")
		r.put("b", "5x")

		var values []int
		for e, err := range numbers.Entries(ctx) {
			if e.Key != "b" {
				require.NoError(t, err)
				values = append(values, e.Value)
				continue
			}
			var decode *jskv.DecodeError
			require.ErrorAs(t, err, &decode)
			require.Equal(t, []any{"b", "b", uint64(5), "5x"}, []any{decode.Bucket, decode.Key, decode.Revision, string(decode.Data)})
			require.Error(t, decode.Err)
			require.ErrorIs(t, err, decode.Err)
			require.Equal(t, []any{"b", uint64(5), 0}, []any{e.Bucket, e.Revision, e.Value}, "everything but the value")
			require.False(t, e.Created.IsZero())
		}
		require.Equal(t, []int{1, 3}, values, "the sequence goes on")

		var revisions []uint64
		for e, err := range numbers.History(ctx, "b") {
			var decode *jskv.DecodeError
			require.ErrorAs(t, err, &decode)
			require.Equal(t, e.Revision, decode.Revision)
			revisions = append(revisions, e.Revision)
		}
		require.Equal(t, []uint64{2, 4, 5}, revisions)

		require.Equal(t, []string{"a", "b", "c"}, sorted(t, numbers.Keys(ctx)), "Keys decodes nothing")
	})
}

func TestASequenceIsSetUpAtItsFirstStepAndCanBeRangedOverAgain(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{History: 5}, func(t *testing.T, r *reading) {
		ctx := testContext(t)
		sent := r.nc.Stats().OutMsgs
		keys, entries, history := r.Keys(ctx), r.Entries(ctx), r.History(ctx, "a")
		require.Equal(t, sent, r.nc.Stats().OutMsgs, "nothing is sent before the first step")
		r.put("a", "1")
		require.Equal(t, []string{"a"}, sorted(t, keys))
		require.Equal(t, []string{"a@1 1"}, brief(collect(t, entries)...))
		require.Equal(t, []string{"a@1 1"}, brief(collect(t, history)...))
		r.put("a", "2")
		r.put("b", "3")
		require.Equal(t, []string{"a", "b"}, sorted(t, keys))
		require.Equal(t, []string{"a@2 2", "b@3 3"}, brief(collect(t, entries)...))
		require.Equal(t, []string{"a@1 1", "a@2 2"}, brief(collect(t, history)...))
	})
}

func TestBreakingOutOfASequenceLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{History: 5}, func(t *testing.T, r *reading) {
		ctx := testContext(t)
		for _, key := range []string{"a", "b", "b", "b", "c"} {
			r.put(key, "no number")
		}
		for at := range 3 {
			requireBreak(t, r, at, r.Keys(ctx))
			requireBreak(t, r, at, r.Entries(ctx))
			requireBreak(t, r, at, r.History(ctx, "b"))
			requireBreak(t, r, at, jskv.As(r.Bucket, jskv.JSON[int]()).Entries(ctx)) // at a DecodeError
		}
		require.Equal(t, []string{"a", "b", "c"}, sorted(t, r.Keys(ctx)), "and it still works")
	})
}

// requireBreak breaks out of a sequence at a step.
func requireBreak[V any](t *testing.T, r *reading, at int, seq func(func(V, error) bool)) {
	t.Helper()
	steps := 0
	for range seq {
		if steps++; steps > at {
			break
		}
	}
	require.Equal(t, at+1, steps)
	r.requireNothingLeft()
}

func TestAPanicInTheLoopLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{}, func(t *testing.T, r *reading) {
		r.put("a", "1")
		require.PanicsWithValue(t, "mine", func() {
			for range r.Keys(testContext(t)) {
				panic("mine")
			}
		})
		r.requireNothingLeft()
	})
}

func TestCollectReturnsWhatCameBeforeAnError(t *testing.T) {
	t.Parallel()
	failure := errors.New("the end")
	all, err := jskv.Collect(func(yield func(int, error) bool) {
		_ = yield(1, nil) && yield(2, nil) && yield(0, failure)
	})
	require.Equal(t, failure, err)
	require.Equal(t, []int{1, 2}, all)

	all, err = jskv.Collect(func(func(int, error) bool) {})
	require.NoError(t, err)
	require.Empty(t, all)

	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "1")
	r.put("b", "two")
	r.put("c", "3")
	numbers, err := jskv.Collect(jskv.As(r.Bucket, jskv.JSON[int]()).Entries(testContext(t)))
	var decode *jskv.DecodeError
	require.ErrorAs(t, err, &decode)
	require.Len(t, numbers, 1)
	require.Equal(t, 1, numbers[0].Value)
}

func TestAListingThatCannotBeMadeIsOneError(t *testing.T) {
	t.Parallel()
	bothWays(t, jetstream.KeyValueConfig{}, func(t *testing.T, r *reading) {
		r.put("a", "1")
		requireOnly := func(ctx context.Context, want error) {
			t.Helper()
			n, err := lastPair(t, r.Keys(ctx))
			require.ErrorIs(t, err, want)
			require.ErrorContains(t, err, "list keys of b")
			require.Zero(t, n)
			n, err = lastPair(t, r.Entries(ctx))
			require.ErrorIs(t, err, want)
			require.Zero(t, n)
			n, err = lastPair(t, r.History(ctx, "a"))
			require.ErrorIs(t, err, want)
			require.ErrorContains(t, err, "history of b/a")
			require.Zero(t, n)
		}
		canceled, cancel := context.WithCancel(context.Background())
		cancel()
		requireOnly(canceled, context.Canceled)
		expired, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
		defer cancel()
		requireOnly(expired, context.DeadlineExceeded)
		r.requireNothingLeft()

		require.NoError(t, jskv.DeleteBucket(testContext(t), r.admin, "b"))
		requireOnly(testContext(t), jskv.ErrBucketNotFound)
		require.Equal(t, r.subs, r.nc.NumSubscriptions())

		r.nc.Close()
		requireOnly(testContext(t), nats.ErrConnectionClosed)
	})
}

// A key that is overwritten leaves the server's count of what is pending before it enters it again. In
// between a pull was told "no messages", which is not the end; and one consumer in a thousand was made
// with nothing pending, of which the listing was empty.
func TestAListingOfOneKeyThatIsOverwrittenAllTheTimeHasIt(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{}).withoutDirect()
	keys := r.fill(1, "v")
	stop := r.overwrite(4, keys)
	for range 600 {
		require.Equal(t, keys, collect(t, r.Keys(testContext(t))))
	}
	stop()
	r.requireNothingLeft()
}
