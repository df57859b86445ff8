package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// atOnce calls do n times at once, each with one of the handles, and returns the errors.
func atOnce(all []*jskv.Bucket[string], n int, do func(b *jskv.Bucket[string], i int) error) []error {
	errs := make([]error, n)
	var ready, racers sync.WaitGroup
	ready.Add(n)
	for i := range n {
		racers.Go(func() {
			ready.Done()
			ready.Wait()
			errs[i] = do(all[i%len(all)], i)
		})
	}
	racers.Wait()
	return errs
}

func TestConflictsOnReplicas(t *testing.T) {
	t.Parallel()
	cluster, _ := newReplicatedBucket(t, jetstream.KeyValueConfig{History: 3})
	waitForReplicas(t, cluster)
	all := handles(t, cluster, 6)
	for name, test := range map[string]func(*testing.T, []*jskv.Bucket[string]){
		"of 64 racing updates exactly one wins":               racingUpdates,
		"writers of their own keys never conflict":            ownKeys,
		"of racing creates on a deleted key exactly one wins": racingCreates,
		"Modify counts every increment once":                  increments,
		"a conflict tells the actual revision":                actualRevisions,
	} {
		t.Run(name, func(t *testing.T) { test(t, all) })
	}
	writeLoad(t, cluster.JetStream())
	t.Run("and under load", func(t *testing.T) { actualRevisions(t, all) })
}

func racingUpdates(t *testing.T, all []*jskv.Bucket[string]) {
	ctx := testContext(t)
	b := all[0]
	for round := range 8 {
		key := fmt.Sprint("update", round)
		first := mustPut(t, b, key, "first")
		revisions := make([]uint64, 64)
		errs := atOnce(all, len(revisions), func(b *jskv.Bucket[string], i int) (err error) {
			revisions[i], err = b.Update(ctx, key, fmt.Sprint(i), first)
			return err
		})
		winner := -1
		for i, err := range errs {
			if err == nil {
				require.Equal(t, -1, winner, "one winner")
				winner = i
			}
		}
		require.NotEqual(t, -1, winner, "a winner")
		for i, err := range errs {
			if i != winner {
				requireConflict(t, err, key, first, revisions[winner])
			}
		}
		e, err := b.Entry(ctx, key, jskv.FromLeader())
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(winner), e.Value)
		require.Equal(t, revisions[winner], e.Revision)
	}
}

func ownKeys(t *testing.T, all []*jskv.Bucket[string]) {
	ctx := testContext(t)
	for _, err := range atOnce(all, 16, func(b *jskv.Bucket[string], i int) error {
		key := fmt.Sprint("own", i)
		for range 8 {
			revision, err := b.Create(ctx, key, "v")
			for range 3 {
				if err == nil {
					revision, err = b.Update(ctx, key, "w", revision)
				}
			}
			if err == nil {
				_, err = b.Delete(ctx, key, jskv.IfRevision(revision))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}) {
		require.NoError(t, err)
	}
}

func racingCreates(t *testing.T, all []*jskv.Bucket[string]) {
	ctx := testContext(t)
	b := all[0]
	for round := range 30 {
		key := fmt.Sprint("create", round%3)
		_, err := b.Delete(ctx, key)
		require.NoError(t, err)
		winner := -1
		for i, err := range atOnce(all, 12, func(b *jskv.Bucket[string], i int) error {
			return second(b.Create(ctx, key, fmt.Sprint(i)))
		}) {
			if err == nil {
				require.Equal(t, -1, winner, "one winner")
				winner = i
				continue
			}
			requireIs(t, err, jskv.ErrKeyExists, jetstream.ErrKeyExists)
			require.NotErrorIs(t, err, jskv.ErrRevisionMismatch)
		}
		value, err := b.Get(ctx, key, jskv.FromLeader())
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(winner), value)
	}
}

func actualRevisions(t *testing.T, all []*jskv.Bucket[string]) {
	ctx := testContext(t)
	b := all[0]
	for round := range 20 {
		key := fmt.Sprint("actual", round)
		old := mustPut(t, b, key, "old")
		newest := mustPut(t, b, key, "new")
		_, err := b.Update(ctx, key, "mine", old)
		requireConflict(t, err, key, old, newest)
		_, err = b.Delete(ctx, key, jskv.IfRevision(old))
		requireConflict(t, err, key, old, newest)
		_, err = b.Update(ctx, key, "mine", 0)
		requireConflict(t, err, key, 0, newest)
		_, err = b.Update(ctx, key+".missing", "mine", newest)
		requireConflict(t, err, key+".missing", newest, 0)
		_, err = b.Create(ctx, key, "mine")
		requireIs(t, err, jskv.ErrKeyExists)
	}
}

func increments(t *testing.T, all []*jskv.Bucket[string]) {
	const workers, each = 12, 10
	ctx := testContext(t)
	b := all[0]
	for _, err := range atOnce(all, workers, func(b *jskv.Bucket[string], _ int) error {
		for range each {
			if _, err := increment(ctx, b); err != nil {
				return err
			}
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	n, err := jskv.As(b, jskv.JSON[int]()).Get(ctx, "n", jskv.FromLeader())
	require.NoError(t, err)
	require.Equal(t, workers*each, n)
}

// increment adds one to key "n".
func increment(ctx context.Context, b *jskv.Bucket[string]) (uint64, error) {
	e, err := jskv.As(b, jskv.JSON[int]()).Modify(ctx, "n", func(current jskv.Entry[int], _ bool) (int, error) {
		return current.Value + 1, nil
	})
	return e.Revision, err
}

// An increment whose outcome is unknown may have been counted or not; every other one that
// succeeded was counted once, and none that failed was.
func TestModifyCountsOnceWhileLeadersChange(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]jskv.BucketOption{"plain": nil, "idempotent": {jskv.WithIdempotentWrites()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, b := newReplicatedBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage})
			waitForReplicas(t, cluster)
			var (
				found            findings // none: it tells when to end
				mu               sync.Mutex
				counted, unknown int
			)
			stop := stepDowns(t, cluster, 150*time.Millisecond, &found)
			const least = 11
			end := time.Now().Add(*duration)
			for _, err := range atOnce(handles(t, cluster, 3, opts...), 6, func(b *jskv.Bucket[string], _ int) error {
				for found.unfinished(end, least) {
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
					_, err := increment(ctx, b)
					cancel()
					mu.Lock()
					switch {
					case err == nil:
						found.check(true, "")
						counted++
					case errors.Is(err, jskv.ErrOutcomeUnknown):
						unknown++
					case !jskv.SafeToRetry(err):
						mu.Unlock()
						return err
					}
					mu.Unlock()
				}
				return nil
			}) {
				require.NoError(t, err)
			}
			stop()
			found.requireNone(t, least)
			var n int
			require.Eventually(t, func() bool {
				var err error
				n, err = jskv.As(b, jskv.JSON[int]()).Get(testContext(t), "n", jskv.FromLeader())
				return err == nil
			}, 20*time.Second, 10*time.Millisecond)
			t.Logf("%d counted, %d unknown, the key says %d", counted, unknown, n)
			require.GreaterOrEqual(t, n, counted)
			require.LessOrEqual(t, n, counted+unknown)
		})
	}
}

func TestSafeToRetryOfEveryError(t *testing.T) {
	t.Parallel()
	for because, test := range map[string]struct {
		err  error
		safe bool
	}{
		"it happened":                                  {nil, false},
		"nobody knows":                                 {jskv.ErrOutcomeUnknown, false},
		"nobody knows, in words of its own":            {fmt.Errorf("saving sue: %w", jskv.ErrOutcomeUnknown), false},
		"nobody knows, as the time was up":             {fmt.Errorf("%w: %w", jskv.ErrOutcomeUnknown, context.DeadlineExceeded), false},
		"one of several is unknown":                    {errors.Join(jskv.ErrKeyExists, jskv.ErrOutcomeUnknown), false},
		"a key of a bulk is unknown":                   {&jskv.BulkError{Failed: map[string]error{"k": jskv.ErrOutcomeUnknown, "l": jskv.ErrBucketFull}}, false},
		"the keys of a bulk that failed did so surely": {&jskv.BulkError{Failed: map[string]error{"k": jskv.ErrBucketFull}}, true},
		"it was a read":                                {jskv.ErrKeyNotFound, true},
		"there is a value":                             {jskv.ErrKeyExists, true},
		"a conflict":                                   {jskv.ErrRevisionMismatch, true},
		"a conflict, told in full":                     {&jskv.RevisionError{Bucket: "b", Key: "k", Expected: 1, Actual: 2}, true},
		"nothing was sent, for the key":                {jskv.ErrInvalidKey, true},
		"nothing was sent, for the bucket":             {jskv.ErrInvalidBucketName, true},
		"nothing was sent, for an option":              {jskv.ErrInvalidOption, true},
		"nothing was sent, for the filter":             {jskv.ErrInvalidFilter, true},
		"nothing was sent, as ctx had ended":           {context.Canceled, true},
		"nothing was sent, as the time was up before":  {context.DeadlineExceeded, true},
		"nothing was sent, as the connection is gone":  {nats.ErrConnectionClosed, true},
		"nobody was there":                             {nats.ErrNoResponders, true},
		"no bucket":                                    {jskv.ErrBucketNotFound, true},
		"another bucket":                               {jskv.ErrBucketExists, true},
		"a bucket made again":                          {jskv.ErrBucketReplaced, true},
		"no room":                                      {jskv.ErrBucketFull, true},
		"too large":                                    {jskv.ErrValueTooLarge, true},
		"not permitted":                                {jskv.ErrPermission, true},
		"stored elsewhere":                             {jskv.ErrWrongStream, true},
		"no batches here":                              {jskv.ErrTransactionsDisabled, true},
		"a batch too large":                            {jskv.ErrTooManyOperations, true},
		"a watcher stopped":                            {jskv.ErrWatcherStopped, true},
		"a value that does not decode":                 {&jskv.DecodeError{Bucket: "b", Key: "k", Err: io.ErrUnexpectedEOF}, true},
		"the server refused":                           {&jetstream.APIError{Code: 400, ErrorCode: 10109}, true},
	} {
		require.Equal(t, test.safe, jskv.SafeToRetry(test.err), because)
	}
}
