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
	return b.withField([]string{opKeys, opEntries, opSnapshot, opEntry}, 0, smallValue, func(f *field) error {
		for _, n := range b.scale.growKeys {
			if err := f.grow(b.ctx, n); err != nil {
				return fmt.Errorf("grow to %d keys: %w", n, err)
			}
			b.listTrials(f, axisKeys)
			b.measure(b.point(f, opEntry, count(n, "key"), axisKeys, n, 1))
		}
		return nil
	})
}

// point is a trial of one operation, at x on the axis.
func (b *bench) point(f *field, operation, params, axis string, x, goroutines int) trial {
	t := b.singleTrial(f, operation, params, goroutines)
	t.Axis, t.X = axis, float64(x)
	return t
}

func (b *bench) growGoroutines() section {
	operations := []string{opPut, opEntry}
	return b.withField(operations, 1000, smallValue, func(f *field) error {
		for _, n := range b.scale.growGoroutines {
			for _, operation := range operations {
				b.measure(b.point(f, operation, count(n, "goroutine"), axisGoroutines, n, n))
			}
		}
		return nil
	})
}

func (b *bench) growBytes(n int) section {
	operations := []string{opPut, opEntry}
	return b.withField(operations, 10, n, func(f *field) error {
		for _, operation := range operations {
			b.measure(b.point(f, operation, size(n), axisBytes, n, 1))
		}
		return nil
	})
}
