package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// One key at a time.

func (b *bench) single(valueBytes int, goroutines []int, operations ...string) section {
	return b.withField(operations, 1000, valueBytes, func(f *field) error {
		for _, g := range goroutines {
			params := size(valueBytes) + ", " + count(g, "goroutine")
			for _, operation := range operations {
				b.measure(b.singleTrial(f, operation, params, g))
			}
		}
		return nil
	})
}

func (b *bench) singleTrial(f *field, operation, params string, goroutines int) trial {
	t := f.trial(operation, params, "ns/op")
	if operation == opDelete {
		b.deletes(f, goroutines, &t)
		return t
	}
	t.each(f.stores(), func(s store) func(n int) error {
		call := b.singleCall(f, s, operation, goroutines)
		return func(n int) error { return share(goroutines, n, call) }
	})
	return t
}

func (b *bench) singleCall(f *field, s store, operation string, goroutines int) func(worker, i int) error {
	switch operation {
	case opPut:
		return b.puts(f, s, goroutines)
	case opEntry:
		return b.gets(f, s)
	case opUpdate:
		return b.updates(s, f.value, goroutines)
	}
	return func(int, int) error { return fmt.Errorf("no operation is called %q", operation) }
}

func (b *bench) puts(f *field, s store, goroutines int) func(worker, i int) error {
	newest := make(ascending, goroutines)
	return func(worker, i int) error {
		revision, err := s.put(b.ctx, f.keys[i%len(f.keys)], f.value)
		return newest.add(worker, revision, err)
	}
}

func (b *bench) gets(f *field, s store) func(worker, i int) error {
	return func(_, i int) error {
		value, revision, err := s.get(b.ctx, f.keys[i%len(f.keys)])
		if err == nil && (revision == 0 || !bytes.Equal(value, f.value)) {
			err = fmt.Errorf("%s has %d bytes at revision %d", f.keys[i%len(f.keys)], len(value), revision)
		}
		return err
	}
}

// updates has a key for each worker of each contender, so that nothing conflicts.
func (b *bench) updates(s store, value []byte, goroutines int) func(worker, i int) error {
	newest := make(ascending, goroutines)
	keys := make([]string, goroutines)
	for worker := range keys {
		keys[worker] = "updated." + s.name() + "." + strconv.Itoa(worker)
	}
	return func(worker, _ int) error {
		if newest[worker] == 0 {
			revision, err := s.put(b.ctx, keys[worker], value)
			return newest.add(worker, revision, err)
		}
		revision, err := s.update(b.ctx, keys[worker], value, newest[worker])
		return newest.add(worker, revision, err)
	}
}

// deletes puts before each round what is deleted in it.
func (b *bench) deletes(f *field, goroutines int, t *trial) {
	for _, s := range f.stores() {
		var keys []string
		t.runs = append(t.runs, run{
			contender: s.name(),
			prepare: func(n int) error {
				for i := len(keys); i < n; i++ {
					keys = append(keys, "deleted."+strconv.Itoa(i))
				}
				return f.fill(b.ctx, keys[:n])
			},
			do: timed(1, func(n int) error {
				return share(goroutines, n, func(_, i int) error { return s.remove(b.ctx, keys[i]) })
			}),
		})
	}
}

// modify lets goroutines count on one key.
func (b *bench) modify(goroutines int) section {
	return b.withField([]string{opModify}, 1, smallValue, func(f *field) error {
		t := f.trial(opModify, "one key, "+count(goroutines, "goroutine"), "ns/op")
		t.Floor = ""
		for _, s := range f.watching() {
			counter := "counter." + s.name()
			if _, err := s.put(b.ctx, counter, []byte("0")); err != nil {
				return err
			}
			expected := 0
			t.runs = append(t.runs, run{contender: s.name(), means: s.means()[opModify], do: timed(1, func(n int) error {
				expected += n
				if err := share(goroutines, n, func(int, int) error { return s.increment(b.ctx, counter) }); err != nil {
					return err
				}
				got, _, err := s.get(b.ctx, counter)
				if err == nil && !slices.Equal(got, strconv.AppendInt(nil, int64(expected), 10)) {
					err = fmt.Errorf("counted to %s, not to %d", got, expected)
				}
				return err
			})})
		}
		b.measure(t)
		return nil
	})
}
