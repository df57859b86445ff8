package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// access is one read or write of a register by a transaction. 0 stands for a key that has no
// value.
type access struct {
	register int
	write    bool
	value    int
}

func (a access) String() string {
	if a.write {
		return fmt.Sprintf("%c=%d", 'a'+a.register, a.value)
	}
	return fmt.Sprintf("%c is %d", 'a'+a.register, a.value)
}

const registers = 4

// bank is what the registers hold and, behind them, how many writes of each worker are in it.
type bank [registers + workers]int

// serial is a bank to which whole transactions happen, one after the other.
var serial = porcupine.Model{
	Init: func() any { return bank{} },
	Step: func(state, input, output any) (bool, any) {
		before := state.(bank)
		after := before
		for _, a := range input.([]access) {
			switch {
			case a.write:
				after[a.register] = a.value
			case after[a.register] != a.value:
				// Of which nobody knows whether it happened: not here, then.
				return output.(outcome) == unknown, before
			}
		}
		return true, after
	},
	DescribeOperation: func(input, output any) string {
		return strings.Trim(fmt.Sprint(input), "[]") + [...]string{"", "?"}[output.(outcome)]
	},
}

type outcome int

const (
	happened outcome = iota
	unknown
)

// chronicle keeps the history of a round.
type chronicle struct {
	s       *stage
	begun   time.Time
	next    atomic.Int64 // value: each is written once
	mu      sync.Mutex
	history []porcupine.Operation
	written [workers]struct {
		n    int   // writes that were acknowledged
		last int64 // when the last of them was called
	}
}

// record adds what do did, if it did something.
func (r *chronicle) record(i int, do func() ([]access, error)) {
	call := time.Since(r.begun)
	accesses, err := do()
	back := time.Since(r.begun)
	op := porcupine.Operation{ClientId: i, Input: accesses, Output: happened, Call: int64(call), Return: int64(back)}
	happens := r.s.tolerate(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	writes := false
	for _, a := range accesses {
		writes = writes || a.write
	}
	mine := &r.written[i]
	switch {
	case !happens && (jskv.SafeToRetry(err) || !writes):
		return
	case !happens:
		op.Output, op.Return = unknown, math.MaxInt64
	case writes:
		mine.n++
		mine.last = op.Call
		op.Input = append(accesses, access{registers + i, true, mine.n})
	default:
		// What only reads has seen the worker's own writes. On replicas it may be older than what
		// others wrote behind those, even when they were told so sooner.
		op.Input = append(accesses, access{registers + i, false, mine.n})
		if len(r.s.trouble) > 0 {
			op.Call = mine.last
		}
	}
	r.history = append(r.history, op)
}

// transaction does two to four random accesses. The keys that it writes without having read them
// decide, with those that it reads, which guards it needs.
func (r *chronicle) transaction(b *jskv.Bucket[int], keys []string) (accesses []access, err error) {
	plan := make([]int, 2+rand.IntN(3))
	for i := range plan {
		plan[i] = rand.IntN(2 * registers)
	}
	together := rand.IntN(3) == 0
	_, err = b.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
		accesses = accesses[:0:0]
		if together {
			got, err := tx.GetMany(keys...)
			if err != nil {
				return err
			}
			for register, key := range keys {
				accesses = append(accesses, access{register, false, got[key].Value})
			}
		}
		for _, what := range plan {
			a := access{register: what / 2, write: what%2 == 1}
			switch key := keys[a.register]; {
			case !a.write:
				var err error
				if a.value, err = number(tx, key); err != nil {
					return err
				}
			case rand.IntN(8) == 0:
				tx.Delete(key)
			default:
				a.value = int(r.next.Add(1))
				tx.Put(key, a.value)
			}
			accesses = append(accesses, a)
		}
		return nil
	})
	return accesses, err
}

// other does one of the other operations, with which transactions are serializable too.
func (r *chronicle) other(b *jskv.Bucket[int], keys []string) (accesses []access, err error) {
	ctx := context.Background()
	first := rand.IntN(registers)
	second := (first + 1) % registers
	switch rand.IntN(4) {
	case 0:
		got, err := b.GetMany(ctx, keys...)
		for register, key := range keys {
			accesses = append(accesses, access{register, false, got[key].Value})
		}
		return accesses, err
	case 1:
		a := access{first, true, int(r.next.Add(1))}
		_, err := b.Put(ctx, keys[first], a.value)
		return []access{a}, err
	case 2:
		accesses = []access{{first, true, 0}, {second, true, int(r.next.Add(1))}}
		_, err := b.NewBatch().Delete(keys[first]).Put(keys[second], accesses[1].value).Commit(ctx)
		return accesses, err
	}
	_, err = b.Modify(ctx, keys[first], func(current jskv.Entry[int], _ bool) (int, error) {
		accesses = []access{{first, false, current.Value}, {first, true, int(r.next.Add(1))}}
		return accesses[1].value, nil
	})
	return accesses, err
}

// proveHistories runs rounds of random transactions on a few keys and looks for an order of
// whole transactions that explains what each has seen, and is that of real time where they did
// not overlap.
func proveHistories(t *testing.T, s *stage) {
	rounds, each := 8, 25
	if len(s.trouble) > 0 {
		rounds, each = len(s.trouble), 20
	}
	for round := range rounds {
		r := &chronicle{s: s, begun: time.Now()}
		keys := names(fmt.Sprintf("round.%d", round), registers)
		var group sync.WaitGroup
		var waiting atomic.Int32
		disturbed, release := context.WithCancel(context.Background()) // or nothing is to disturb
		defer release()                                                // also where it does not go on
		for i, b := range s.workers {
			group.Go(func() {
				for n := 0; n < each && !s.stop.Load(); n++ {
					if n == each/2 { // what comes then comes amid their work
						waiting.Add(1)
						<-disturbed.Done()
					}
					if rand.IntN(4) == 0 {
						r.record(i, func() ([]access, error) { return r.other(b, keys) })
					} else {
						r.record(i, func() ([]access, error) { return r.transaction(b, keys) })
					}
				}
			})
		}
		if len(s.trouble) > 0 {
			half := func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(r.history) > each*workers/4 || waiting.Load() == workers
			}
			s.await(half)
			over := s.trouble[round]()
			release()
			s.await(over)
		}
		release()
		group.Wait()
		require.False(t, s.stop.Load())
		require.Greater(t, len(r.history), each*workers/3, "too little happened")
		switch porcupine.CheckOperationsTimeout(serial, r.history, 20*time.Second) {
		case porcupine.Illegal:
			require.Fail(t, "no order explains the history", "%s", explain(t, r.history))
		case porcupine.Unknown:
			require.Fail(t, "the history was not checked in time")
		}
	}
}

// explain writes a page that shows how far a history can be explained.
func explain(t *testing.T, history []porcupine.Operation) string {
	_, info := porcupine.CheckOperationsVerbose(serial, history, 20*time.Second)
	file := fmt.Sprintf("%s/%s.html", t.ArtifactDir(), strings.ReplaceAll(t.Name(), "/", "_"))
	return fmt.Sprint(file, errors.Join(porcupine.VisualizePath(serial, info, file)))
}
