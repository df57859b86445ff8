package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSpreadIsTheMedianAndTheQuartiles(t *testing.T) {
	tests := []struct {
		why    string
		values []float64
		want   Spread
	}{
		{"no value has none", nil, Spread{}},
		{"one value is all three", []float64{7}, Spread{7, 7, 7}},
		{"an even number has its middle between two", []float64{4, 1, 3, 2}, Spread{2.5, 1.75, 3.25}},
		{"one far out does not move the middle", []float64{1, 1000, 2, 3, 4}, Spread{3, 2, 4}},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			before := append([]float64(nil), tt.values...)
			require.Equal(t, tt.want, spread(tt.values))
			require.Equal(t, before, append([]float64(nil), tt.values...), "the rounds stay in their order")
		})
	}
}

func TestRatiosAreMadeRoundByRound(t *testing.T) {
	// In the second round the machine was ten times as slow, for both.
	require.Equal(t, Spread{0.5, 0.5, 0.5}, ratios([]float64{1, 10, 1}, []float64{2, 20, 2}))
	require.Equal(t, Spread{3, 3, 3}, ratios([]float64{3, 4}, []float64{1}), "a round that only one has had")
	require.Equal(t, Spread{}, ratios([]float64{3}, []float64{0}))
}

func TestPercentilesOfManyValues(t *testing.T) {
	values := make([]float64, 101)
	for i := range values {
		values[i] = float64(100 - i)
	}
	require.Equal(t, []float64{50, 99}, percentiles(values, 0.5, 0.99))
}
