package main

import (
	"context"

	"github.com/seed646b090f/jskv"
)

// Many keys at a time.

const nsPerKey = "ns/key"

// keyTrial is one whose every call does n keys.
func (f *field) keyTrial(operation string, n int) trial {
	t := f.trial(operation, count(n, "key"), nsPerKey)
	t.perUnit = n
	return t
}

func (b *bench) lists(n int) section {
	return b.withField([]string{opKeys, opEntries, opSnapshot}, n, smallValue, func(f *field) error {
		b.listTrials(f, "")
		return nil
	})
}

// listTrials reads all of the bucket, as one point of the axis if there is one: then without
// Entries, which grow as the initial values of a watch do.
func (b *bench) listTrials(f *field, axis string) {
	n := len(f.keys)
	keys, entries, snapshot := f.keyTrial(opKeys, n), f.keyTrial(opEntries, n), f.keyTrial(opSnapshot, n)
	keys.each(f.stores(), func(s store) func(int) error {
		return repeat(func() error {
			n, err := s.keys(b.ctx)
			return tally{entries: n}.check(tally{entries: len(f.keys)}, err)
		})
	})
	entries.each(f.stores(), func(s store) func(int) error {
		return repeat(func() error { return checked(f.whole())(s.entries(b.ctx)) })
	})
	snapshot.each(f.stores(), func(s store) func(int) error {
		return repeat(func() error { return checked(f.whole())(initialValues(b.ctx, s)) })
	})
	trials := []trial{keys, entries, snapshot}
	if axis != "" {
		trials = []trial{keys.at(axis, n), snapshot.at(axis, n)}
	}
	for _, t := range trials {
		t.slow(b, n)
		b.measure(t)
	}
}

// slow takes fewer rounds of what takes long, and no more than one call in each.
func (t *trial) slow(b *bench, n int) {
	if n < manyKeys {
		return
	}
	t.rounds = max(2, b.scale.slowRounds*manyKeys/n)
	for i := range t.runs {
		t.runs[i].calls = 1
	}
}

// initialValues reads them the way the store has; the floor of that is a list.
func initialValues(ctx context.Context, s store) (tally, error) {
	if w, ok := s.(watching); ok {
		return w.snapshot(ctx)
	}
	return s.entries(ctx)
}

func checked(want tally) func(tally, error) error {
	return func(got tally, err error) error { return got.check(want, err) }
}

func repeat(call func() error) func(n int) error {
	return func(n int) error {
		for range n {
			if err := call(); err != nil {
				return err
			}
		}
		return nil
	}
}

func (b *bench) getMany(n int) section {
	return b.withField([]string{opGetMany}, n, smallValue, func(f *field) error {
		t := f.keyTrial(opGetMany, n)
		t.each(f.stores(), func(s store) func(int) error {
			return repeat(func() error { return checked(f.whole())(s.getMany(b.ctx, f.keys)) })
		})
		b.measure(t)
		return nil
	})
}

// putMany overwrites many keys. The stock client's two ways are both contenders: one Put after the
// other of some of the keys, as all of them would take long, and asynchronous publishing.
func (b *bench) putMany() section {
	const sequential = 2000
	return b.withField([]string{opPutMany}, manyKeys, smallValue, func(f *field) error {
		t := f.trial(opPutMany, count(manyKeys, "key"), nsPerKey)
		t.rounds = b.scale.slowRounds
		add := func(contender, means string, n int, put func(keys []string) error) {
			t.runs = append(t.runs, run{contender: contender, means: means, calls: n, do: timed(1, func(n int) error {
				return put(f.keys[:n])
			})})
		}
		for _, s := range f.stores() {
			n := manyKeys
			if s.name() == stockKV {
				n = sequential
			}
			add(s.name(), s.means()[opPutMany], n, func(keys []string) error { return s.putMany(b.ctx, keys, f.value) })
		}
		add("stock async", "PublishAsync of package jetstream, outside its KeyValue, with a longer stall wait", manyKeys, func(keys []string) error {
			return f.stock.publishAsync(b.ctx, f.bucket, keys, f.value)
		})
		b.measure(t)
		return b.allThere(f)
	})
}

// allThere checks that writing kept every key.
func (b *bench) allThere(f *field) error {
	for _, s := range f.stores() {
		if err := checked(f.whole())(s.entries(b.ctx)); err != nil {
			return err
		}
	}
	return nil
}

// batches writes n keys at once, blindly and after reading them.
func (b *bench) batches(n int) section {
	return b.withField([]string{opBatch, opTransact}, n, smallValue, func(f *field) error {
		batch, transact := f.keyTrial(opBatch, n), f.keyTrial(opTransact, n)
		batch.each(f.stores(), func(s store) func(int) error {
			return repeat(func() error { return s.putAll(b.ctx, f.keys, f.value) })
		})
		transact.each(f.stores(), func(s store) func(int) error {
			return repeat(func() error { return s.transact(b.ctx, f.keys, f.value) })
		})
		b.measure(batch)
		b.measure(transact)
		return b.allThere(f)
	}, jskv.WithTransactions())
}
