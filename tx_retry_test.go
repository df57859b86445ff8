package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// Each rival changes something that the transaction has read, before it commits.
func TestTransactStartsOverWhenWhatItReadHasChanged(t *testing.T) {
	t.Parallel()
	few := numbered(2)
	for name, test := range map[string]struct {
		keys   []string
		writes int
	}{
		"no more keys than writes":         {few, 6},
		"more keys than writes":            {numbered(30), 2},
		"more keys than one request reads": {numbered(2500), 2},
	} {
		keys := test.keys
		for rivalry, act := range map[string]func(b *jskv.Bucket[string], ctx context.Context) error{
			"a put": func(b *jskv.Bucket[string], ctx context.Context) error { _, err := b.Put(ctx, few[1], "r"); return err },
			"a put, the same": func(b *jskv.Bucket[string], ctx context.Context) error {
				_, err := b.Put(ctx, few[0], "v of "+few[0])
				return err
			},
			"a delete": func(b *jskv.Bucket[string], ctx context.Context) error { _, err := b.Delete(ctx, few[0]); return err },
			"a purge":  func(b *jskv.Bucket[string], ctx context.Context) error { _, err := b.Purge(ctx, few[1]); return err },
			"a create": func(b *jskv.Bucket[string], ctx context.Context) error {
				_, err := b.Create(ctx, "missing", "r")
				return err
			},
			"of a written key": func(b *jskv.Bucket[string], ctx context.Context) error { _, err := b.Put(ctx, "w", "r"); return err },
			"of a marker": func(b *jskv.Bucket[string], ctx context.Context) error {
				_, err := b.Put(ctx, "deleted", "r")
				return err
			},
		} {
			t.Run(name+" and "+rivalry, func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				b := newBank(t)
				store(t, b, append(keys[:len(keys):len(keys)], "w"))
				_, err := b.Delete(ctx, "deleted")
				require.NoError(t, err)
				rival := once(func() { require.NoError(t, act(b, ctx)) })
				_, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
					_, err := tx.GetMany(append(keys[:len(keys):len(keys)], "w", "missing", "deleted")...)
					rival()
					tx.Put("w", "mine")
					for i := range test.writes {
						tx.Put(fmt.Sprint("x", i), "mine")
					}
					return err
				})
				require.Equal(t, 2, runs)
				require.Equal(t, "mine", getMany(t, b, "w")["w"].Value)
			})
		}
	}
}

func TestTransactIsNotDisturbedByWhatItHasNotRead(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	mustPut(t, b, "a", "1")
	mustPut(t, b, "b", "2")
	for _, blind := range []string{"b", "c"} {
		_, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
			_, err := tx.Get("a")
			mustPut(t, b, "other", "v")
			mustPut(t, b, "b", "rival")
			tx.Put("a", "3")
			tx.Put(blind, "mine")
			return err
		})
		require.Equal(t, 1, runs)
		require.Equal(t, "mine", getMany(t, b, blind)[blind].Value)
	}
}

func TestTransactStartsOverWhenItsViewIsGone(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(error) error{
		"returned":                 func(err error) error { return err },
		"swallowed":                func(error) error { return nil },
		"taken for something else": func(err error) error { return errors.New("no such account") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBank(t)
			commit(t, b.NewBatch().Put("a", "0").Put("b", "0"))
			rival := once(func() { commit(t, b.NewBatch().Put("a", "1").Put("b", "1")) })
			revision, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
				a, err := tx.Get("a")
				require.NoError(t, err)
				rival()
				bb, err := tx.Get("b")
				if err != nil {
					require.NotErrorIs(t, err, jskv.ErrKeyNotFound)
					_, again := tx.GetMany("a", "c")
					require.Error(t, again, "there is no view any more")
					tx.Put("c", "from a view that is gone")
					return handle(err)
				}
				require.Equal(t, a, bb, "read skew")
				tx.Put("c", a+bb)
				return nil
			})
			require.Equal(t, 2, runs)
			require.EqualValues(t, 5, revision)
			require.Equal(t, "11", getMany(t, b, "c")["c"].Value)
		})
	}
}

// A key that was deleted, and its marker purged, looks as if it had never been there: the view was
// taken to have no such key, next to what it was deleted together with.
func TestTransactStartsOverWhenAKeyOfItsViewIsGoneWithoutATrace(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newBank(t)
	commit(t, b.NewBatch().Put("a", "0").Put("b", "0"))
	rival := once(func() {
		commit(t, b.NewBatch().Put("a", "1").Delete("b"))
		_, err := b.PurgeDeletes(ctx, 0)
		require.NoError(t, err)
	})
	_, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
		a, err := tx.Get("a")
		require.NoError(t, err)
		rival()
		if _, err = tx.Get("b"); errors.Is(err, jskv.ErrKeyNotFound) {
			require.Equal(t, "1", a, "read skew")
			return nil
		}
		return err
	})
	require.Equal(t, 2, runs)
}

// The bucket moves on all the time, and a key was never there.
func TestTransactReadsAKeyThatIsNotThereWhileOthersWrite(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	commit(t, b.NewBatch().Put("a", "0").Put("b", "0"))
	_, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
		for _, key := range []string{"a", "none", "b", "neither"} {
			if _, err := tx.Get(key); err != nil && !errors.Is(err, jskv.ErrKeyNotFound) {
				return err
			}
			mustPut(t, b, "other", "v")
		}
		return nil
	})
	require.Equal(t, 1, runs)
}

func TestTransactEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	runs := 0
	revision, err := b.Transact(ctx, func(tx *jskv.Tx[string]) error {
		if runs++; runs == 5 {
			time.AfterFunc(0, cancel) // in the midst of what comes now, a pause perhaps
		}
		_, _ = tx.Get("k")
		mustPut(t, b, "k", strconv.Itoa(runs)) // always faster
		tx.Put("k", "never")
		tx.Put("l", "never")
		return nil
	})
	requireIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, jskv.ErrRevisionMismatch, "a conflict is nothing that Transact returns")
	var conflict *jskv.RevisionError
	require.False(t, errors.As(err, &conflict))
	requireNames(t, err, " b: ")
	require.Zero(t, revision)
	require.GreaterOrEqual(t, runs, 5, "it tried")
	require.Equal(t, strconv.Itoa(runs), getMany(t, b, "k", "l")["k"].Value)

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = b.Transact(ended, func(*jskv.Tx[string]) error {
		t.Error("fn was called though the context had ended")
		return nil
	})
	requireIs(t, err, context.Canceled)
	requireNames(t, err, " b: ")
}

func TestTransactIsNotRepeatedWhenItMayHaveHappened(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	direct := createBucket(t, server.JetStream(), inMemory, jskv.WithTransactions())
	proxy := jskvtest.NewProxy(t, server.URL())
	b := openBucket(t, hasty(t, proxy.Conn(), 2*time.Second))
	lost := proxy.CutOn(jskvtest.ToClient, `"seq":2`)
	runs := 0
	_, err := b.Transact(context.Background(), func(tx *jskv.Tx[string]) error {
		runs++
		tx.Put("a", "1")
		tx.Put("b", "1")
		return nil
	})
	receive(t, lost)
	requireIs(t, err, jskv.ErrOutcomeUnknown)
	requireNames(t, err, " b: ")
	require.Equal(t, 1, runs)
	require.Len(t, getMany(t, direct, "a", "b"), 2)
}

// Each of eight writers wants the same key, and none may be left behind for ever.
func TestTransactLetsEveryWriterOfOneKeyProgress(t *testing.T) {
	t.Parallel()
	const workers, each = 8, 25
	text, server := newBucket(t, inMemory, jskv.WithTransactions())
	runs := make([]int, workers)
	var group sync.WaitGroup
	for i := range workers {
		b := jskv.As(openBucket(t, server.JetStream()), jskv.JSON[int]())
		group.Go(func() {
			for range each {
				_, err := b.Transact(testContext(t), func(tx *jskv.Tx[int]) error {
					runs[i]++
					n, err := tx.Get("n")
					if err != nil && !errors.Is(err, jskv.ErrKeyNotFound) {
						return err
					}
					tx.Put("n", n+1)
					tx.Put(fmt.Sprint("worker.", i), n+1)
					return nil
				})
				if err != nil {
					t.Error(i, err)
					return
				}
			}
		})
	}
	group.Wait()
	b := jskv.As(text, jskv.JSON[int]())
	require.Equal(t, workers*each, getMany(t, b, "n")["n"].Value)
	for i, n := range runs {
		require.Less(t, n, 60*each, "worker %d of %v", i, runs)
	}
}
