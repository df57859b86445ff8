package main

import "time"

// scale is how much a run measures.
type scale struct {
	name       string
	rounds     int
	round      time.Duration // of one contender
	slowRounds int           // for what takes a second or so
	restarts   int
	burst      int // events, for the throughput of a watch

	growKeys, growWatchers, growGoroutines, growBytes []int
}

// Both scales measure every operation at the sizes that the goals are about.
var (
	quick = scale{
		name: "quick", rounds: 5, round: 8 * time.Millisecond, slowRounds: 2, restarts: 1, burst: 2000,
		growKeys: []int{100, 1000, 10_000}, growWatchers: []int{1, 10, 100},
		growGoroutines: []int{1, 8, 64}, growBytes: []int{16, 4 << 10, 256 << 10},
	}
	full = scale{
		name: "full", rounds: 25, round: 20 * time.Millisecond, slowRounds: 5, restarts: 3, burst: 5000,
		growKeys: []int{100, 1000, 10_000, 100_000, 1_000_000}, growWatchers: []int{1, 10, 100, 1000, 10_000},
		growGoroutines: []int{1, 4, 16, 64, 256}, growBytes: []int{16, 256, 4 << 10, 64 << 10, 1 << 20},
	}
)
