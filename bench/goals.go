package main

import "math"

// goal is something that the library sets out to reach; one run measures both sides of it.
type goal struct {
	text      string
	operation string
	params    string
	limit     float64
	unit      string                                   // of the limit
	figure    func(r *Result, m *Measurement) *float64 // what is measured; nil when it was not
	atLeast   bool                                     // the limit is a lower bound
}

// Outcome is what became of a goal.
type Outcome struct {
	Goal     string  `json:"goal"`
	Limit    float64 `json:"limit"`
	AtLeast  bool    `json:"atLeast,omitempty"`
	Unit     string  `json:"unit,omitempty"`
	Measured float64 `json:"measured"`
	Reached  bool    `json:"reached"`
}

var goals = allGoals()

func allGoals() []goal {
	var all []goal
	allocs := map[string]float64{opPut: 10, opEntry: 18, opUpdate: 14}
	for _, operation := range []string{opPut, opEntry, opUpdate} {
		one, many := "128 B, 1 goroutine", "128 B, 64 goroutines"
		all = append(all,
			goal{text: operation + ", time to stock", operation: operation, params: one, limit: 1.00, figure: toStock},
			goal{text: operation + ", time to the bare request", operation: operation, params: one, limit: 1.10, figure: toFloor},
			goal{text: operation + ", client allocations", operation: operation, params: one, limit: allocs[operation], figure: allocations},
			goal{text: operation + ", 64 goroutines, throughput to stock", operation: operation, params: many, limit: 1.15, figure: throughput, atLeast: true},
		)
	}
	return append(all,
		goal{text: "Keys of 100,000, time to stock", operation: opKeys, params: "100,000 keys", limit: 0.9, figure: toStock},
		goal{text: "Watch of 100,000 initial values, time to stock", operation: opSnapshot, params: "100,000 keys", limit: 0.9, figure: toStock},
		goal{text: "GetMany of 1,000, time to 1,000 stock Gets", operation: opGetMany, params: "1,000 keys", limit: 0.07, figure: toStock},
		goal{text: "PutMany of 100,000, time to stock Puts one by one", operation: opPutMany, params: "100,000 keys", limit: 0.10, figure: toStock},
		goal{text: "Watch, silence after a restart to stock", operation: opRecovery, limit: 0.15, figure: toStock},
		goal{text: "Cache.Get, 1,000 keys in turn, time", operation: opCacheGet, params: "1,000 keys, 1 goroutine", limit: 100, unit: "ns", figure: median},
		goal{text: "Cache.Get, 100,000 keys in turn, time", operation: opCacheGet, params: "100,000 keys, 1 goroutine", limit: 100, unit: "ns", figure: median},
		goal{text: "Cache.Get, allocations", operation: opCacheGet, params: "100,000 keys, 1 goroutine", limit: 0, figure: allocations},
	)
}

func toStock(_ *Result, m *Measurement) *float64     { return medianOf(m.ToStock) }
func toFloor(_ *Result, m *Measurement) *float64     { return medianOf(m.ToFloor) }
func allocations(_ *Result, m *Measurement) *float64 { return m.Allocs }
func median(_ *Result, m *Measurement) *float64      { return &m.Value.Median }

func medianOf(s *Spread) *float64 {
	if s == nil {
		return nil
	}
	return &s.Median
}

// throughput is how many times as much as the stock client's gets done.
func throughput(_ *Result, m *Measurement) *float64 {
	if m.ToStock == nil || m.ToStock.Median == 0 {
		return nil
	}
	return new(1 / m.ToStock.Median)
}

// outcomes are those of the goals that the results have something to say about.
func outcomes(results []Result) []Outcome {
	var found []Outcome
	for _, g := range goals {
		for i := range results {
			r := &results[i]
			if r.Setting != inProcess || r.Operation != g.operation || r.Params != g.params || r.Axis != "" {
				continue
			}
			if o, ok := g.outcome(r); ok {
				found = append(found, o)
			}
		}
	}
	return found
}

func (g goal) outcome(r *Result) (Outcome, bool) {
	m := r.of(ours)
	if m == nil {
		return Outcome{}, false
	}
	measured := g.figure(r, m)
	if measured == nil {
		return Outcome{}, false
	}
	o := Outcome{Goal: g.text, Limit: g.limit, AtLeast: g.atLeast, Unit: g.unit, Measured: g.rounded(*measured)}
	o.Reached = o.Measured <= g.limit
	if g.atLeast {
		o.Reached = o.Measured >= g.limit
	}
	return o, true
}

// rounded is to the two decimals of the goals. What a round of the harness itself allocates, and
// what runs beside it, comes to a small part of one allocation a call.
func (g goal) rounded(x float64) float64 {
	if g.limit >= 2 || g.limit == 0 {
		return math.Round(x)
	}
	return math.Round(x*100) / 100
}
