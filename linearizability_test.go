package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// What one key of a bucket does, as a sequence of operations: each takes effect at one moment
// between its call and its return. One whose outcome is unknown takes effect at some moment after
// its call, or never.

// act is what a client asked for.
type act struct {
	verb     intent
	key      string
	value    string // unique, of what is written
	revision uint64 // of conditional writes
}

type intent uint8

const (
	toRead intent = iota
	toPut
	toCreate
	toUpdate // only at the revision
	toDelete
	toDeleteAt // only at the revision
)

// answer is what the client was told.
type answer struct {
	verdict  verdict
	revision uint64 // of what was written or read, 0 for a key that has none; with conflicted the actual one
	value    string // of what was read
	live     bool   // what was read is a value
}

type verdict uint8

const (
	done       verdict = iota
	conflicted         // the key is at another revision, or exists
	unanswered
)

// cell is the state of a key. The revision of a write with an unknown outcome is not known until
// somebody reads it, only that it is higher than the one before.
type cell struct {
	revision uint64
	above    bool // the revision is some one above that
	live     bool
	value    string
}

func (c cell) at(revision uint64) bool {
	if c.above {
		return revision > c.revision
	}
	return revision == c.revision
}

// known is c with the revision that it was found to be at.
func (c cell) known(revision uint64) cell {
	c.revision, c.above = revision, false
	return c
}

// after is the cell that a's write leaves.
func (c cell) after(a act) cell {
	c.live, c.value = a.verb != toDelete && a.verb != toDeleteAt, a.value
	return c
}

// step returns the states in which c may be after a was answered with out; none: it cannot have been.
func (c cell) step(a act, out answer) []any {
	if a.verb == toRead {
		if c.at(out.revision) && c.live == out.live && (!c.live || c.value == out.value) {
			return []any{c.known(out.revision)}
		}
		return nil
	}
	conditional := a.verb == toUpdate || a.verb == toDeleteAt
	switch allowed := !(conditional && !c.at(a.revision)) && !(a.verb == toCreate && c.live); out.verdict {
	case done:
		if allowed && out.revision > c.revision && out.revision > a.revision {
			return []any{c.after(a).known(out.revision)}
		}
	case conflicted:
		if a.verb == toCreate && c.live {
			return []any{c}
		}
		if conditional && a.revision != out.revision && c.at(out.revision) {
			return []any{c.known(out.revision)}
		}
	case unanswered:
		if !allowed {
			return []any{c}
		}
		written := c.after(a)
		written.revision, written.above = max(c.revision, a.revision), true
		return []any{c, written}
	}
	return nil
}

// keyModel is the model of a bucket: its keys are independent.
var keyModel = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range history {
			key := op.Input.(act).key
			byKey[key] = append(byKey[key], op)
		}
		parts := make([][]porcupine.Operation, 0, len(byKey))
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() []any { return []any{cell{}} },
	Step: func(state, input, output any) []any { return state.(cell).step(input.(act), output.(answer)) },
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%+v -> %+v", input, output)
	},
}).ToModel()

// The checker must find what is wrong, or that it finds nothing means nothing.
func TestTheModelOfAKeyKnowsWhatCannotBe(t *testing.T) {
	t.Parallel()
	put := func(value string) act { return act{verb: toPut, value: value} }
	read := act{}
	found := func(revision uint64, value string) answer {
		return answer{revision: revision, value: value, live: true}
	}
	made := func(revision uint64) answer { return answer{revision: revision} }
	type step struct {
		a         act
		out       answer
		call, ret int64
	}
	const open = 1000 // the return of what has none
	for because, test := range map[string]struct {
		possible bool
		steps    []step
	}{
		"a read of what was put":                             {true, []step{{put("a"), made(1), 0, 1}, {read, found(1, "a"), 2, 3}}},
		"a read of another revision":                         {false, []step{{put("a"), made(1), 0, 1}, {read, found(2, "a"), 2, 3}}},
		"a read of what was replaced":                        {false, []step{{put("a"), made(1), 0, 1}, {put("b"), made(2), 2, 3}, {read, found(1, "a"), 4, 5}}},
		"a read of what was just being replaced":             {true, []step{{put("a"), made(1), 0, 1}, {put("b"), made(2), 2, 5}, {read, found(1, "a"), 3, 4}}},
		"a key that comes and goes":                          {false, []step{{put("a"), made(1), 0, 9}, {read, found(1, "a"), 1, 2}, {read, answer{}, 3, 4}}},
		"an acknowledged write that is missing":              {false, []step{{put("a"), made(1), 0, 1}, {read, answer{}, 2, 3}}},
		"a revision below an older one":                      {false, []step{{put("a"), made(5), 0, 1}, {put("b"), made(4), 2, 3}}},
		"two updates of one revision":                        {false, []step{{put("a"), made(1), 0, 1}, {act{verb: toUpdate, value: "b", revision: 1}, made(2), 2, 9}, {act{verb: toUpdate, value: "c", revision: 1}, made(3), 2, 9}}},
		"a conflict with nothing":                            {false, []step{{put("a"), made(1), 0, 1}, {act{verb: toUpdate, value: "b", revision: 1}, answer{verdict: conflicted, revision: 1}, 2, 3}}},
		"a conflict with what was replaced":                  {false, []step{{put("a"), made(1), 0, 1}, {put("b"), made(2), 2, 3}, {act{verb: toUpdate, revision: 7}, answer{verdict: conflicted, revision: 1}, 4, 5}}},
		"a create of what exists":                            {false, []step{{put("a"), made(1), 0, 1}, {act{verb: toCreate, value: "b"}, made(2), 2, 3}}},
		"a create that is refused over a marker":             {false, []step{{put("a"), made(1), 0, 1}, {act{verb: toDelete}, made(2), 2, 3}, {act{verb: toCreate, value: "b"}, answer{verdict: conflicted}, 4, 5}}},
		"an unknown put that is read":                        {true, []step{{put("a"), answer{verdict: unanswered}, 0, open}, {read, found(1, "a"), 2, 3}}},
		"an unknown put that is never seen":                  {true, []step{{put("a"), answer{verdict: unanswered}, 0, open}, {read, answer{}, 2, 3}}},
		"an unknown put that is seen late":                   {true, []step{{put("a"), answer{verdict: unanswered}, 0, open}, {read, answer{}, 2, 3}, {read, found(1, "a"), 4, 5}}},
		"an unknown put that is stored twice":                {false, []step{{put("a"), answer{verdict: unanswered}, 0, open}, {read, found(1, "a"), 2, 3}, {put("b"), made(2), 4, 5}, {read, found(3, "a"), 6, 7}}},
		"an unknown update of another revision that is read": {false, []step{{put("a"), made(1), 0, 1}, {act{verb: toUpdate, value: "b", revision: 7}, answer{verdict: unanswered}, 2, open}, {read, found(8, "b"), 4, 5}}},
		"a value that was never written":                     {false, []step{{read, found(1, "a"), 2, 3}}},
	} {
		history := make([]porcupine.Operation, len(test.steps))
		for i, s := range test.steps {
			history[i] = porcupine.Operation{ClientId: i, Input: s.a, Output: s.out, Call: s.call, Return: s.ret}
		}
		require.Equal(t, test.possible, porcupine.CheckOperationsTimeout(keyModel, history, time.Minute) == porcupine.Ok, because)
	}
}

const (
	keysAtOnce   = 3
	keysLifetime = time.Second // then come others: what is unknown stays so in their history for ever
)

// client is one goroutine with a handle of its own. It records what it does and is told, and checks
// what is promised to it alone: its reads are never older than its writes and its earlier reads.
type client struct {
	*findings
	id       int
	b        *jskv.Bucket[string]
	patience time.Duration
	rng      *rand.Rand
	begun    time.Time
	history  []porcupine.Operation
	newest   map[string]uint64 // of each key, as this client knows it
	unknowns int
	refused  int // certainly did not happen
}

func (c *client) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		generation := int(time.Since(c.begun) / keysLifetime)
		a := act{key: fmt.Sprintf("g%d.k%d", generation, c.rng.IntN(keysAtOnce)), value: fmt.Sprintf("%d.%d", c.id, n)}
		a.revision = c.newest[a.key]
		switch p := c.rng.IntN(100); {
		case p < 25:
			c.session(a.key)
			continue
		case p < 50:
			a.verb = toRead
		case p < 65:
			a.verb = toPut
		case p < 75:
			a.verb = toCreate
		case p < 90:
			a.verb = toUpdate
		case p < 95:
			a.verb = toDelete
		default:
			a.verb = toDeleteAt
		}
		c.do(a)
	}
}

// do does one operation and records it.
func (c *client) do(a act) {
	if a.verb == toRead || a.verb == toDelete || a.verb == toDeleteAt {
		a.value = ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	defer cancel()
	op := porcupine.Operation{ClientId: c.id, Input: a, Call: time.Since(c.begun).Nanoseconds()}
	out, happened := c.ask(ctx, a)
	op.Output, op.Return = out, time.Since(c.begun).Nanoseconds()
	if !happened {
		c.refused++
		return
	}
	if out.verdict == unanswered {
		c.unknowns++
		op.Return = math.MaxInt64 // it may take effect until the end
	} else {
		c.newest[a.key] = max(c.newest[a.key], out.revision)
	}
	c.history = append(c.history, op)
}

// ask returns what the operation was answered with; not that it happened where it certainly did not.
func (c *client) ask(ctx context.Context, a act) (out answer, happened bool) {
	var (
		e        jskv.Entry[string]
		err      error
		conflict *jskv.RevisionError
	)
	switch a.verb {
	case toRead:
		e, err = c.b.Entry(ctx, a.key, jskv.FromLeader())
		out = answer{revision: e.Revision, value: e.Value, live: err == nil}
		return out, err == nil || errors.Is(err, jskv.ErrKeyNotFound)
	case toPut:
		out.revision, err = c.b.Put(ctx, a.key, a.value)
	case toCreate:
		out.revision, err = c.b.Create(ctx, a.key, a.value)
	case toUpdate:
		out.revision, err = c.b.Update(ctx, a.key, a.value, a.revision)
	case toDelete:
		out.revision, err = c.b.Delete(ctx, a.key)
	case toDeleteAt:
		out.revision, err = c.b.Delete(ctx, a.key, jskv.IfRevision(a.revision))
	}
	switch {
	case err == nil:
		return out, true
	case errors.As(err, &conflict):
		return answer{verdict: conflicted, revision: conflict.Actual}, true
	case errors.Is(err, jskv.ErrKeyExists):
		return answer{verdict: conflicted}, true
	case jskv.SafeToRetry(err):
		return out, false
	}
	c.check(errors.Is(err, jskv.ErrOutcomeUnknown), "an outcome that is neither known nor unknown: %v", err)
	return answer{verdict: unanswered}, true
}

// session reads a key as programs do, from whoever answers.
func (c *client) session(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	defer cancel()
	e, err := c.b.Entry(ctx, key)
	if err != nil && !errors.Is(err, jskv.ErrKeyNotFound) {
		return // no server could answer in time
	}
	c.check(e.Revision >= c.newest[key], "client %d reads %s at %d, after %d: %v", c.id, key, e.Revision, c.newest[key], err)
	c.newest[key] = max(c.newest[key], e.Revision)
}

// Where servers fall, come back and hand over, and connections break, the bucket behaves as if
// every operation took effect at one moment; nothing that was acknowledged is missing in the end,
// and nothing is there that failed.
func TestABucketIsLinearizableThroughFaults(t *testing.T) {
	t.Parallel()
	from := *seed
	if from == 0 {
		from = rand.Uint64()
	}
	t.Logf("-consistency.seed=%d", from)
	rng := rand.New(rand.NewPCG(from, 0))
	cluster, _ := newReplicatedBucket(t, jetstream.KeyValueConfig{History: 64})
	waitForReplicas(t, cluster)
	net := newFaultyNet(t, cluster)
	var found findings
	begun := time.Now()
	clients := make([]*client, 8)
	for i := range clients {
		clients[i] = &client{
			findings: &found, id: i, b: net.open(t, i), patience: time.Duration(1+i%2*3) * time.Second, begun: begun,
			rng: rand.New(rand.NewPCG(from, uint64(i)+1)), newest: map[string]uint64{},
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, c := range clients {
		group.Go(func() { c.run(ctx) })
	}
	const least = 10 // session reads
	for i := 0; i < len(net.faults) || found.unfinished(begun.Add(*duration), least); i++ {
		net.fault(t, rng, i)
	}
	cancel()
	group.Wait()
	net.heal(t)

	reader := openBucket(t, cluster.JetStream())
	history, unknowns, refused := finish(t, reader, clients, begun)
	result, info := porcupine.CheckOperationsVerbose(keyModel, history, 2*time.Minute)
	if result != porcupine.Ok {
		picture := filepath.Join(t.ArtifactDir(), "history.html")
		require.NoError(t, porcupine.VisualizePath(keyModel, info, picture))
		t.Errorf("the history is %s: see %s (go test -artifacts keeps it)", result, picture)
	}
	requireStored(t, reader, history)
	found.requireNone(t, least)
	t.Logf("%v: %d operations on %d keys, %d session reads; %d unknown outcomes, %d that did not happen; faults: %v",
		time.Since(begun).Round(time.Second), len(history), len(keyModel.Partition(history)), found.checks.Load(), unknowns, refused, net.made)
}

// finish reads every key once more, by the leader, and returns the whole history.
func finish(t *testing.T, reader *jskv.Bucket[string], clients []*client, begun time.Time) (history []porcupine.Operation, unknowns, refused int) {
	t.Helper()
	keys := map[string]bool{}
	for _, c := range clients {
		history = append(history, c.history...)
		unknowns, refused = unknowns+c.unknowns, refused+c.refused
	}
	for _, op := range history {
		keys[op.Input.(act).key] = true
	}
	last := &client{findings: &findings{}, id: len(clients), b: reader, patience: 20 * time.Second, begun: begun, newest: map[string]uint64{}}
	for key := range keys {
		last.do(act{verb: toRead, key: key})
	}
	require.Len(t, last.history, len(keys), "every key can be read")
	return append(history, last.history...), unknowns, refused
}

// requireStored wants every acknowledged write to be stored as it was acknowledged, unless newer
// ones have pushed it out of its key's history; and every value that is stored to have been
// written, once.
func requireStored(t *testing.T, b *jskv.Bucket[string], history []porcupine.Operation) {
	t.Helper()
	stored, values, oldest, revisions := map[uint64]jskv.Entry[string]{}, map[string]uint64{}, map[string]uint64{}, map[string]int{}
	w, err := b.Watch(testContext(t), jskv.AllKeys, jskv.WithHistory())
	require.NoError(t, err)
	defer w.Stop()
	for e, err := range w.Snapshot() {
		require.NoError(t, err)
		stored[e.Revision] = e
		if revisions[e.Key]++; oldest[e.Key] == 0 {
			oldest[e.Key] = e.Revision
		}
		if e.Operation == jskv.OpPut {
			require.Zero(t, values[e.Value], "%s was stored twice, at %d and %d", e.Value, values[e.Value], e.Revision)
			values[e.Value] = e.Revision
		}
	}
	for _, op := range history {
		a, out := op.Input.(act), op.Output.(answer)
		delete(values, a.value)
		if a.verb == toRead || out.verdict != done || revisions[a.key] == 64 && out.revision < oldest[a.key] {
			continue
		}
		e := stored[out.revision]
		require.Equal(t, a.key, e.Key, "revision %d, of %+v", out.revision, a)
		require.Equal(t, a.value, e.Value, "revision %d", out.revision)
		require.Equal(t, a.verb == toDelete || a.verb == toDeleteAt, e.Operation == jskv.OpDelete)
	}
	require.Empty(t, values, "stored, though the writers were told that it was not")
}
