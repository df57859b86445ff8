package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"time"
)

// bench is one run of the program.
type bench struct {
	ctx      context.Context
	scale    scale
	only     *regexp.Regexp // of "setting/Operation"; nil is all
	progress io.Writer
	dir      string // temporary, for the servers
	began    time.Time
	results  []Result
	failures []string
}

// trial is one operation in one setting, to be done by several contenders. They take turns: in each
// round each does the same for about the same time, and each is first as often as the others.
type trial struct {
	Result            // what it will be, without the measurements
	metrics  []string // suffixes of the operation, one for each value that a run's do returns; nil is one without
	perUnit  int      // units that one call does; 0 is 1
	noAllocs bool     // a server, or the rest of the trial, shares this process
	steady   bool     // nothing is left that would have to be collected
	rounds   int      // 0 is the scale's
	runs     []run
}

// run is one contender's part in a trial.
type run struct {
	contender string
	means     string                         // how it does it, where it lacks the operation
	calls     int                            // in a round; 0 is as many as the scale's time for a round has room for
	prepare   func(n int) error              // before each round, while no clock runs; may be nil
	do        func(n int) ([]float64, error) // n calls, checked; one value for each metric
	samples   [][]float64                    // by metric, a value a round
	allocs    []float64                      // per unit, a value a round
	bytes     []float64
}

// timed is a run's do that returns nanoseconds for each unit.
func timed(perUnit int, calls func(n int) error) func(n int) ([]float64, error) {
	return func(n int) ([]float64, error) {
		begun := time.Now()
		err := calls(n)
		return []float64{float64(time.Since(begun)) / float64(n*max(perUnit, 1))}, err
	}
}

// wants says whether any of the operations in the setting was asked for.
func (b *bench) wants(setting string, operations ...string) bool {
	for _, operation := range operations {
		if b.only == nil || b.only.MatchString(setting+"/"+operation) {
			return true
		}
	}
	return false
}

// fail takes note of a failure: the run goes on, and ends with a non-zero status.
func (b *bench) fail(what string, err error) {
	if err == nil {
		return
	}
	text := fmt.Sprintf("%s: %v", what, err)
	b.failures = append(b.failures, text)
	b.say("FAILED %s", text)
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, "%5.0fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// trialTimeout is after what time a contender hangs.
const trialTimeout = 2 * time.Minute

// measure runs a trial, if it was asked for, and keeps its results.
func (b *bench) measure(t trial) {
	if !b.wants(t.Setting, t.Operation) || b.ctx.Err() != nil {
		return
	}
	whole := b.ctx
	ctx, cancel := context.WithTimeout(whole, trialTimeout)
	b.ctx = ctx // the trial's calls are made with it
	defer func() {
		cancel()
		b.ctx = whole
	}()
	if err := b.takeTurns(&t); err != nil {
		b.fail(t.name(), err)
		return
	}
	b.keep(&t)
}

func (b *bench) takeTurns(t *trial) error {
	for i := range t.runs {
		if err := b.calibrate(&t.runs[i]); err != nil {
			return fmt.Errorf("%s: %w", t.runs[i].contender, err)
		}
	}
	rounds := t.rounds
	if rounds == 0 {
		rounds = b.scale.rounds
	}
	for round := range rounds {
		for turn := range t.runs {
			r := &t.runs[(turn+round)%len(t.runs)]
			if err := r.sample(t); err != nil {
				return fmt.Errorf("%s: %w", r.contender, err)
			}
			if err := b.ctx.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// calibrate warms the run up and finds how many calls fill a round.
func (b *bench) calibrate(r *run) error {
	if r.calls > 0 {
		return nil
	}
	for r.calls = 1; ; {
		took, err := r.once()
		if err != nil || took >= b.scale.round/2 {
			r.calls = max(1, int(float64(r.calls)*float64(b.scale.round)/float64(max(took, 1))))
			return err
		}
		r.calls *= int(min(10, max(2, b.scale.round/max(took, 1))))
	}
}

func (r *run) once() (time.Duration, error) {
	if r.prepare != nil {
		if err := r.prepare(r.calls); err != nil {
			return 0, err
		}
	}
	begun := time.Now()
	_, err := r.do(r.calls)
	return time.Since(begun), err
}

// sample is one round. What the one before has left is collected first, or the next contender
// would pay for it.
func (r *run) sample(t *trial) error {
	if r.prepare != nil {
		if err := r.prepare(r.calls); err != nil {
			return err
		}
	}
	var before, after runtime.MemStats
	if !t.steady {
		runtime.GC()
	}
	runtime.ReadMemStats(&before)
	values, err := r.do(r.calls)
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&after)
	if r.samples == nil {
		r.samples = make([][]float64, len(values))
	}
	for metric, value := range values {
		r.samples[metric] = append(r.samples[metric], value)
	}
	units := float64(r.calls * max(t.perUnit, 1))
	r.allocs = append(r.allocs, float64(after.Mallocs-before.Mallocs)/units)
	r.bytes = append(r.bytes, float64(after.TotalAlloc-before.TotalAlloc)/units)
	return nil
}

// keep makes a result for each metric of the trial.
func (b *bench) keep(t *trial) {
	for metric := range max(1, len(t.metrics)) {
		result := t.Result
		if t.metrics != nil {
			result.Operation += " " + t.metrics[metric]
		}
		stock, floor := t.samplesOf(t.Stock, metric), t.samplesOf(t.Floor, metric)
		for i := range t.runs {
			result.Measurements = append(result.Measurements, t.runs[i].measurement(t, metric, stock, floor))
		}
		b.results = append(b.results, result)
		b.say("%s", summary(&result))
	}
}

func (t *trial) samplesOf(contender string, metric int) []float64 {
	for _, r := range t.runs {
		if r.contender == contender {
			return r.samples[metric]
		}
	}
	return nil
}

func (r *run) measurement(t *trial, metric int, stock, floor []float64) Measurement {
	m := Measurement{Contender: r.contender, Means: r.means, Rounds: len(r.samples[metric]), Value: spread(r.samples[metric])}
	if stock != nil && r.contender != t.Stock {
		m.ToStock = new(ratios(r.samples[metric], stock))
	}
	if floor != nil && r.contender != t.Floor {
		m.ToFloor = new(ratios(r.samples[metric], floor))
	}
	if !t.noAllocs {
		m.Allocs, m.Bytes = new(spread(r.allocs).Median), new(spread(r.bytes).Median)
	}
	return m
}
