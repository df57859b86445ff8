package jskvtest

import "time"

// pollEvery is how often a condition of a server is looked at: it costs a few locks.
const pollEvery = 5 * time.Millisecond

// poll waits until cond holds and says whether it did within limit.
func poll(limit time.Duration, cond func() bool) bool {
	if cond() {
		return true
	}
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if cond() {
				return true
			}
		case <-deadline.C:
			return cond() // a slow machine may have let the ticks pass
		}
	}
}
