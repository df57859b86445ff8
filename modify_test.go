package jskv_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestModifyCountsConcurrentIncrementsOnce(t *testing.T) {
	t.Parallel()
	const workers, each = 8, 25
	ctx := testContext(t)
	text, server := newBucket(t, jetstream.KeyValueConfig{})
	var attempts atomic.Int64
	increment := func(current jskv.Entry[int], exists bool) (int, error) {
		attempts.Add(1)
		if exists != (current.Revision != 0) || !exists && current.Value != 0 {
			return 0, errors.New("a value without a revision, or the other way round")
		}
		return current.Value + 1, nil
	}
	errs := make([]error, workers)
	var group sync.WaitGroup
	for i := range workers {
		b := jskv.As(text, jskv.JSON[int]())
		if i%2 == 1 {
			b = jskv.As(openBucket(t, server.JetStream()), jskv.JSON[int]())
		}
		group.Go(func() {
			for range each {
				if _, errs[i] = b.Modify(ctx, "n", increment); errs[i] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	e, err := jskv.As(text, jskv.JSON[int]()).Entry(ctx, "n")
	require.NoError(t, err)
	require.Equal(t, workers*each, e.Value)
	require.EqualValues(t, workers*each, e.Revision, "every increment was stored once")
	require.GreaterOrEqual(t, attempts.Load(), int64(e.Revision))
}

func TestModifyReturnsTheEntryThatItWrote(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{})
	old := mustPut(t, b, "k", "old")
	before := time.Now()
	e, err := b.Modify(ctx, "k", func(current jskv.Entry[string], exists bool) (string, error) {
		require.True(t, exists)
		require.Equal(t, "old", current.Value)
		require.Equal(t, old, current.Revision)
		require.Equal(t, "k", current.Key)
		return current.Value + "er", nil
	})
	require.NoError(t, err)
	require.Equal(t, "b", e.Bucket)
	require.Equal(t, "k", e.Key)
	require.Equal(t, "older", e.Value)
	require.Equal(t, old+1, e.Revision)
	require.Equal(t, jskv.OpPut, e.Operation)
	stored, err := b.Entry(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, stored.Revision, e.Revision)
	require.WithinRange(t, stored.Created, before.Add(-time.Second), time.Now().Add(time.Second))
}

func TestModifySeesWhatIsThereInsteadOfAValue(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 3})
	var seen jskv.Entry[string]
	modify := func() {
		_, err := b.Modify(ctx, "k", func(current jskv.Entry[string], exists bool) (string, error) {
			require.False(t, exists)
			seen = current
			return "new", nil
		})
		require.NoError(t, err)
	}
	modify()
	require.Zero(t, seen.Revision, "nothing at all")
	marker, err := b.Delete(ctx, "k")
	require.NoError(t, err)
	modify()
	require.Equal(t, marker, seen.Revision)
	require.Equal(t, jskv.OpDelete, seen.Operation)
	require.Empty(t, seen.Value)
	marker, err = b.Purge(ctx, "k")
	require.NoError(t, err)
	modify()
	require.Equal(t, marker, seen.Revision)
	require.Equal(t, jskv.OpPurge, seen.Operation)
	require.Equal(t, "Purge, Put new", history(t, b, "k"))
}

func TestModifyStartsOverWhenSomebodyWroteInBetween(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 5})
	mustPut(t, b, "k", "a")
	rival := []func(){
		func() { mustPut(t, b, "k", "b") },
		func() {
			_, err := b.Delete(ctx, "k")
			require.NoError(t, err)
		},
		func() {},
	}
	calls := 0
	e, err := b.Modify(ctx, "k", func(current jskv.Entry[string], exists bool) (string, error) {
		require.Equal(t, []string{"a", "b", ""}[calls], current.Value, "each time what is there now")
		require.Equal(t, calls < 2, exists)
		rival[calls]()
		calls++
		return "mine", nil
	})
	require.NoError(t, err)
	require.Equal(t, 3, calls)
	require.EqualValues(t, 4, e.Revision)
	require.Equal(t, "Put a, Put b, Delete, Put mine", history(t, b, "k"))
}

func TestModifyReturnsAnErrorOfItsFunctionAsItIs(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{})
	revision := mustPut(t, b, "k", "v")
	for _, mine := range []error{errors.New("not today"), jskv.ErrRevisionMismatch, jskv.ErrKeyNotFound, context.Canceled} {
		calls := 0
		e, err := b.Modify(ctx, "k", func(jskv.Entry[string], bool) (string, error) {
			calls++
			return "ignored", mine
		})
		require.True(t, err == mine, "%v", err)
		require.Zero(t, e)
		require.Equal(t, 1, calls)
	}
	e, err := b.Entry(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, revision, e.Revision, "nothing was written")
}

func TestModifyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b, _ := newBucket(t, jetstream.KeyValueConfig{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	calls := 0
	_, err := b.Modify(ctx, "k", func(jskv.Entry[string], bool) (string, error) {
		if calls++; calls == 5 {
			cancel()
		}
		mustPut(t, b, "k", strconv.Itoa(calls)) // always faster than Modify
		return "never", nil
	})
	requireIs(t, err, context.Canceled)
	requireNames(t, err, " b/k: ")
	require.Equal(t, 5, calls)
	value, err := b.Get(testContext(t), "k")
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(calls), value)

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = b.Modify(ended, "k", func(jskv.Entry[string], bool) (string, error) {
		t.Error("fn was called though the context had ended")
		return "", nil
	})
	requireIs(t, err, context.Canceled)
}

// The default timeout is for requests: without a deadline Modify has none.
func TestModifyWithoutADeadlineTriesAsLongAsItTakes(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	hurried := openBucket(t, hasty(t, server.Conn(), timeout))
	onceInThree(t, nil, func() error { // each of its requests has the default timeout, which a slow machine may take
		start := time.Now()
		_, err := hurried.Modify(context.Background(), "k", func(jskv.Entry[string], bool) (string, error) {
			if time.Since(start) < timeout*5/4 {
				mustPut(t, b, "k", "rival")
				wait(context.Background(), 20*time.Millisecond)
			}
			return "mine", nil
		})
		return err
	})
	value, err := b.Get(testContext(t), "k")
	require.NoError(t, err)
	require.Equal(t, "mine", value)
}

func TestModifyWritesWithItsOptions(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{LimitMarkerTTL: time.Second})
	e, err := b.Modify(ctx, "k", func(jskv.Entry[string], bool) (string, error) { return "v", nil }, jskv.TTL(90*time.Second))
	require.NoError(t, err)
	stream, err := server.JetStream().Stream(ctx, "KV_b")
	require.NoError(t, err)
	msg, err := stream.GetMsg(ctx, e.Revision)
	require.NoError(t, err)
	ttl := msg.Header.Get("Nats-TTL")
	require.Contains(t, []string{"90", "90s", "1m30s"}, ttl)
}

func TestModifyOfAValueThatDoesNotDecodeIsRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{})
	mustPut(t, text, "k", "no number")
	_, err := jskv.As(text, jskv.JSON[int]()).Modify(ctx, "k", func(jskv.Entry[int], bool) (int, error) {
		t.Error("fn was called with a value that is none")
		return 0, nil
	})
	var undecoded *jskv.DecodeError
	require.ErrorAs(t, err, &undecoded)
	require.Equal(t, "no number", string(undecoded.Data))
	value, err := text.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "no number", value)
}
