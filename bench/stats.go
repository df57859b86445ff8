package main

import (
	"math"
	"slices"
)

// Spread is the middle of some values and the quartiles around it.
type Spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`  // a quarter of the values are below
	High   float64 `json:"high"` // a quarter of the values are above
}

// spread is that of values, which it leaves in their order; of none it is zero.
func spread(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	return Spread{Median: quantile(sorted, 0.5), Low: quantile(sorted, 0.25), High: quantile(sorted, 0.75)}
}

// quantile interpolates between the two values next to q, which is from 0 to 1.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	below := int(math.Floor(at))
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}

// ratios divides round by round: what else the machine did in a round fell on both.
func ratios(ours, theirs []float64) Spread {
	n := min(len(ours), len(theirs))
	quotients := make([]float64, 0, n)
	for i := range n {
		if theirs[i] > 0 {
			quotients = append(quotients, ours[i]/theirs[i])
		}
	}
	return spread(quotients)
}

func percentiles(values []float64, at ...float64) []float64 {
	sorted := slices.Sorted(slices.Values(values))
	found := make([]float64, len(at))
	for i, q := range at {
		found[i] = quantile(sorted, q)
	}
	return found
}
