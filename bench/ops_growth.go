package main

import "fmt"

// How cost grows. What grows stands on the axis of a picture; one contender's points make a curve.

const (
	axisKeys       = "keys in the bucket"
	axisWatchers   = "watchers"
	axisGoroutines = "goroutines"
	axisBytes      = "bytes of a value"
)

func (b *bench) growth() []section {
	sections := []section{b.growKeys(), b.growGoroutines()}
	for _, n := range b.scale.growWatchers {
		sections = append(sections, b.fanOut(n, true))
	}
	for _, n := range b.scale.growBytes {
		sections = append(sections, b.growBytes(n))
	}
	return sections
}

// growKeys lets one bucket grow.
func (b *bench) growKeys() section {
	return b.withField([]string{opKeys, opSnapshot, opEntry}, 0, smallValue, func(f *field) error {
		for _, n := range b.scale.growKeys {
			if err := f.grow(b.ctx, n); err != nil {
				return fmt.Errorf("grow to %d keys: %w", n, err)
			}
			b.listTrials(f, axisKeys)
			b.measure(b.singleTrial(f, opEntry, count(n, "key"), 1).at(axisKeys, n))
		}
		return nil
	})
}

// at is the trial as the point x of the axis.
func (t trial) at(axis string, x int) trial {
	t.Axis, t.X = axis, float64(x)
	return t
}

func (b *bench) growGoroutines() section {
	operations := []string{opPut, opEntry}
	return b.withField(operations, 1000, smallValue, func(f *field) error {
		for _, n := range b.scale.growGoroutines {
			for _, operation := range operations {
				b.measure(b.singleTrial(f, operation, count(n, "goroutine"), n).at(axisGoroutines, n))
			}
		}
		return nil
	})
}

func (b *bench) growBytes(n int) section {
	operations := []string{opPut, opEntry}
	return b.withField(operations, 10, n, func(f *field) error {
		for _, operation := range operations {
			b.measure(b.singleTrial(f, operation, size(n), 1).at(axisBytes, n))
		}
		return nil
	})
}
