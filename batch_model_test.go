package jskv_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// keyState is what a model knows of a key: its newest revision and value.
type keyState struct {
	revision uint64
	value    string // empty for a marker
}

// step is one operation of a random batch.
type step struct {
	op, key  string
	value    string
	revision uint64 // expected, of those operations that expect one
}

func (s step) String() string { return fmt.Sprintf("%s(%s, %s, %d)", s.op, s.key, s.value, s.revision) }

// add adds the step to a batch.
func (s step) add(x *jskv.Batch[string]) {
	switch s.op {
	case "put":
		x.Put(s.key, s.value)
	case "create":
		x.Create(s.key, s.value)
	case "update":
		x.Update(s.key, s.value, s.revision)
	case "delete":
		x.Delete(s.key)
	case "delete if":
		x.Delete(s.key, jskv.IfRevision(s.revision))
	case "purge":
		x.Purge(s.key)
	case "purge if":
		x.Purge(s.key, jskv.IfRevision(s.revision))
	case "require":
		x.Require(s.key, s.revision)
	}
}

var stepNames = []string{"put", "put", "put", "create", "update", "delete", "delete if", "purge", "purge if", "require", "require"}

// judge says what must become of a batch: whether it is refused as it stands, and else which keys
// are not as it expects.
func judge(steps []step, state map[string]keyState) (invalid bool, conflicts map[string]bool) {
	conflicts = map[string]bool{}
	expected := map[string]uint64{} // of keys that are written, by their first writes and Require
	written := map[string]bool{}
	for _, s := range steps {
		switch {
		case s.op == "require":
			continue
		case written[s.key] && s.op != "put" && s.op != "delete":
			return true, nil
		case written[s.key]:
			continue
		}
		written[s.key] = true
		now := state[s.key]
		switch s.op {
		case "create":
			if now.value != "" {
				conflicts[s.key] = true
			}
		case "update", "delete if", "purge if":
			expected[s.key] = s.revision
			conflicts[s.key] = conflicts[s.key] || now.revision != s.revision
		}
	}
	for _, s := range steps {
		if s.op != "require" {
			continue
		}
		if before, ok := expected[s.key]; ok && before != s.revision {
			return true, nil
		}
		if written[s.key] {
			expected[s.key] = s.revision
		}
		if state[s.key].revision != s.revision {
			conflicts[s.key] = true
		}
	}
	return false, conflicts
}

// A random run of batches is compared with a model of a few keys.
func TestBatchesAgreeWithAModel(t *testing.T) {
	t.Parallel()
	for _, history := range []uint8{1, 5} {
		b, _ := newBucket(t, jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage, History: history}, jskv.WithTransactions())
		state := map[string]keyState{}
		var last uint64
		seen := map[string]int{}
		for n := range 1500 {
			steps := make([]step, 1+rand.IntN(6))
			batch := b.NewBatch()
			for i := range steps {
				s := step{op: stepNames[rand.IntN(len(stepNames))], key: fmt.Sprint("k", rand.IntN(5)), value: strconv.Itoa(10*n + i + 1)}
				if rand.IntN(8) > 0 {
					s.revision = state[s.key].revision
				} else {
					s.revision = uint64(rand.IntN(int(last) + 1))
				}
				steps[i] = s
				s.add(batch)
			}
			invalid, conflicts := judge(steps, state)
			for key, conflict := range conflicts {
				if !conflict {
					delete(conflicts, key)
				}
			}
			revisions, err := batch.Commit(testContext(t))
			switch {
			case invalid:
				seen["invalid"]++
				require.ErrorIs(t, err, jskv.ErrInvalidOption, "%v on %v", steps, state)
			case len(conflicts) > 0:
				seen["conflict"]++
				require.Error(t, err, "%v on %v", steps, state)
				named := false
				for key := range conflicts {
					named = named || namesKey(err, key)
				}
				require.True(t, named, "%v: %v on %v", err, steps, state)
			default:
				seen["stored"]++
				require.NoError(t, err, "%v on %v", steps, state)
				for _, s := range steps {
					if s.op == "require" {
						continue
					}
					last++
					require.Equal(t, last, revisions[0])
					revisions = revisions[1:]
					state[s.key] = keyState{revision: last}
					if s.op == "put" || s.op == "create" || s.op == "update" {
						state[s.key] = keyState{last, s.value}
					}
				}
				require.Empty(t, revisions)
			}
			requireState(t, b, state)
		}
		for _, what := range []string{"invalid", "conflict", "stored"} {
			require.Greater(t, seen[what], 100, what)
		}
	}
}

// namesKey reports whether err is of a condition on key.
func namesKey(err error, key string) bool {
	text := fmt.Sprintf("jskv: commit batch to b/%s: ", key)
	return len(err.Error()) > len(text) && err.Error()[:len(text)] == text
}

func requireState(t *testing.T, b *jskv.Bucket[string], state map[string]keyState) {
	t.Helper()
	keys := make([]string, 0, len(state))
	live := 0
	for key, want := range state {
		keys = append(keys, key)
		if want.value != "" {
			live++
		}
	}
	got := getMany(t, b, keys...)
	require.Len(t, got, live)
	for key, e := range got {
		require.Equal(t, state[key], keyState{e.Revision, e.Value}, key)
	}
}

// Whoever reads along meets the writes of a batch one behind the other, whatever others write.
func TestBatchIsContiguousForWatchers(t *testing.T) {
	t.Parallel()
	const writers, each = 4, 50
	ctx := testContext(t)
	_, server := newBucket(t, inMemory, jskv.WithTransactions())
	w := watch(t, openBucket(t, server.JetStream()), jskv.AllKeys)
	var group sync.WaitGroup
	for i := range writers {
		handle := openBucket(t, server.JetStream())
		group.Go(func() {
			for n := range each {
				var err error
				if i == 0 {
					_, err = handle.Put(ctx, fmt.Sprint("alone.", n), "v")
				} else {
					batch := handle.NewBatch()
					for k := range 2 + n%5 {
						batch.Put(fmt.Sprintf("%d.%d.%d", i, n, k), "v")
					}
					_, err = batch.Commit(ctx)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	var open jskv.BatchPosition // the batch that is being read
	alone, whole := 0, 0
	for e, err := range w.Updates() {
		require.NoError(t, err)
		at, batched := e.Batch()
		switch {
		case !batched:
			require.Zero(t, open, "%s inside of a batch", e.Key)
			alone++
		case at.Sequence == 1:
			require.Zero(t, open, "a batch inside of another")
			open = at
		default:
			require.Equal(t, open.ID, at.ID)
			require.Equal(t, open.Sequence+1, at.Sequence)
			open = at
		}
		if at.Last {
			whole, open = whole+1, jskv.BatchPosition{}
		}
		if alone == each && whole == (writers-1)*each {
			break
		}
	}
	group.Wait()
}
