package main

import (
	"context"
	"errors"
	"io"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

func newTestBench(t *testing.T) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return &bench{ctx: ctx, scale: scale{rounds: 4, round: time.Millisecond, slowRounds: 2}, progress: io.Discard, dir: t.TempDir(), began: time.Now()}
}

func TestContendersTakeTurnsToBeFirst(t *testing.T) {
	var order string
	contender := func(name string, value float64) run {
		return run{contender: name, calls: 10, do: func(n int) ([]float64, error) {
			require.Equal(t, 10, n)
			order += name[:1]
			return []float64{value}, nil
		}}
	}
	b := newTestBench(t)
	b.measure(trial{Result: Result{Operation: opPut, Stock: stockKV, Floor: bare}, runs: []run{contender(ours, 3), contender(stockKV, 6), contender(bare, 2)}})

	require.Equal(t, "jsr"+"srj"+"rjs"+"jsr", order)
	require.Empty(t, b.failures)
	require.Len(t, b.results, 1)
	us := b.results[0].of(ours)
	require.Equal(t, &Spread{0.5, 0.5, 0.5}, us.ToStock)
	require.Equal(t, &Spread{1.5, 1.5, 1.5}, us.ToFloor)
	require.Equal(t, 4, us.Rounds)
}

func TestWrongAnswerFailsTheRunAndLeavesNoFigure(t *testing.T) {
	b := newTestBench(t)
	b.measure(trial{Result: Result{Setting: inProcess, Operation: opKeys}, runs: []run{{contender: ours, do: timed(1, func(int) error {
		return tally{entries: 1}.check(tally{entries: 2}, nil)
	})}}})
	require.Empty(t, b.results)
	require.Equal(t, []string{"process/Keys: jskv: read 1 entries with 0 bytes: want 2 with 0"}, b.failures)
}

func TestOnlyWhatWasAskedForIsMeasured(t *testing.T) {
	b := newTestBench(t)
	b.only = regexp.MustCompile("process/(Put|Keys)$")
	require.True(t, b.wants(inProcess, opEntry, opPut))
	require.False(t, b.wants(inProcess, opPutMany))
	require.False(t, b.wants(inCluster, opPut))
	b.measure(trial{Result: Result{Setting: inCluster, Operation: opPut}, runs: []run{{do: func(int) ([]float64, error) { return nil, errors.New("measured") }}}})
	require.Empty(t, b.failures)
}

func TestCallsAreSharedAmongGoroutines(t *testing.T) {
	const calls = 103
	done := make([]int, calls)
	require.NoError(t, share(8, calls, func(worker, i int) error {
		require.Equal(t, worker, i%8)
		done[i]++
		return nil
	}))
	for i, times := range done {
		require.Equal(t, 1, times, "call %d", i)
	}
	require.ErrorContains(t, share(8, calls, func(_, i int) error {
		if i == 77 {
			return errors.New("call 77")
		}
		return nil
	}), "call 77")
}

// The contenders give the same answers to the same questions on a real server, or comparing them
// would be pointless. etcd has a process of its own only, and is checked by every run of the program.
func TestContendersAgreeOnARealServer(t *testing.T) {
	b := newTestBench(t)
	b.inArena(inLoopback, []section{b.lists(10), b.getMany(10), b.batches(3), b.single(smallValue, []int{1, 4}, opPut, opEntry, opUpdate, opDelete), b.modify(4)})
	require.Empty(t, b.failures)
	require.Len(t, b.results, 3+1+2+8+1)
	for _, r := range b.results {
		require.Positive(t, r.of(ours).ToStock.Median, r.name())
		require.Nil(t, r.of(ours).Allocs, "the server's would be among them")
	}
}
