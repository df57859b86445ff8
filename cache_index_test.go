package jskv_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// words are the terms of a value.
func words(e jskv.Entry[string]) []string { return strings.Fields(e.Value) }

func found[T any](x *jskv.Index[T], term string) string {
	var keys []string
	for _, e := range x.Find(term) {
		keys = append(keys, fmt.Sprintf("%s@%d", e.Key, e.Revision))
	}
	return strings.Join(keys, " ")
}

func TestAnIndexIsAsCurrentAsItsCache(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("b", "red round")
	r.put("a", "red")
	r.put("none", "")
	c := newCache(t, r.Bucket)
	x := jskv.NewIndex(c, words)
	require.Equal(t, "a@2 b@1", found(x, "red"), "in key order")
	require.Equal(t, map[string]int{"red": 2, "round": 1}, maps.Collect(x.Terms()))

	requireWait(t, c, r.put("b", "blue round round"))
	require.Equal(t, "a@2", found(x, "red"))
	require.Equal(t, "b@4", found(x, "blue"))
	require.Equal(t, "b@4", found(x, "round"), "of terms that are said twice, too")
	requireWait(t, c, r.put("c", "red"))
	require.Equal(t, "a@2 c@5", found(x, "red"))
	requireWait(t, c, r.del("b"))
	requireWait(t, c, r.purge("a"))
	require.Equal(t, map[string]int{"red": 1}, maps.Collect(x.Terms()), "no term without entries")
	require.Empty(t, x.Find("never"))
	for range x.Terms() {
		break
	}
	c.Close()
	require.Equal(t, "c@5", found(x, "red"))
}

func TestAnIndexIsCurrentForWritersWhoWait(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	c := newCache(t, r.Bucket)
	x := jskv.NewIndex(c, words)
	var writing sync.WaitGroup
	for w := range 4 {
		writing.Go(func() {
			for i := range 100 {
				value := fmt.Sprintf("w%d all v%d", w, i)
				revision, err := r.Put(testContext(t), fmt.Sprint("k", w), value)
				if err == nil {
					err = c.Wait(testContext(t), revision)
				}
				if mine := x.Find(fmt.Sprint("w", w)); err != nil || len(mine) != 1 || mine[0].Value != value {
					t.Errorf("wrote %q, found %+v, %v", value, mine, err)
					return
				}
			}
		})
	}
	writing.Wait()
	require.Len(t, x.Find("all"), 4)
	require.Equal(t, map[string]int{"all": 4, "v99": 4, "w0": 1, "w1": 1, "w2": 1, "w3": 1}, maps.Collect(x.Terms()))
}

// terms is the program's code: it may be slow, call the cache, and panic, and the cache goes on.
func TestWhatTheTermsFunctionDoesReachesOnlyTheIndexsReaders(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "red")
	c := newCache(t, r.Bucket)
	x := jskv.NewIndex(c, func(e jskv.Entry[string]) []string {
		if e.Value == "bad" {
			panic(fmt.Sprintf("bad, at %d keys", c.Len()))
		}
		return words(e)
	})
	r.put("b", "bad")
	requireWait(t, c, r.put("c", "red"))
	require.PanicsWithValue(t, "bad, at 3 keys", func() { x.Find("red") })
	require.Equal(t, "a@1 c@3", found(x, "red"), "the key is left out until it changes")
	requireWait(t, c, r.put("b", "red"))
	require.Equal(t, "a@1 b@4 c@3", found(x, "red"))
	require.PanicsWithValue(t, "at once", func() {
		jskv.NewIndex(c, func(jskv.Entry[string]) []string { panic("at once") })
	})
	requireCopy(t, r.Bucket, c)
}

func TestAnIndexKeepsNothingOfTheSliceThatItIsGiven(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "red round")
	c := newCache(t, r.Bucket)
	var mine []string
	x := jskv.NewIndex(c, func(e jskv.Entry[string]) []string {
		mine = append(mine[:0], strings.Fields(e.Value)...)
		return mine
	})
	requireWait(t, c, r.put("b", "blue square"))
	require.Equal(t, "b@2", found(x, "blue"))
	requireWait(t, c, r.del("a"))
	require.Equal(t, []string{"blue", "square"}, slices.Sorted(maps.Keys(maps.Collect(x.Terms()))))
}
