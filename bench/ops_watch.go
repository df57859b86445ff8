package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Changes as they come. Who watches on nats-server is told of writes by somebody else, with the
// stock client's asynchronous publishing, so that they are the same for all.

// live is how long it takes until many changes have been stored and have arrived; the floor stores
// them and watches nothing.
func (b *bench) live() section {
	return b.withField([]string{opLive}, b.scale.burst, smallValue, func(f *field) error {
		t := f.trial(opLive, count(b.scale.burst, "change"), "ns/event")
		for _, s := range f.watching() {
			t.runs = append(t.runs, b.watched(s, b.scale.burst, func(n int, next func() error) ([]float64, error) {
				return b.burst(f, s, n, next)
			}))
		}
		t.runs = append(t.runs, run{contender: bare, means: "stores the changes and watches nothing", calls: b.scale.burst,
			do: func(n int) ([]float64, error) { return b.burst(f, f.bare, n, func() error { return nil }) }})
		b.measure(t)
		return nil
	})
}

// burst is nanoseconds an event.
func (b *bench) burst(f *field, s store, n int, next func() error) ([]float64, error) {
	var writing sync.WaitGroup
	var failed error
	begun := time.Now()
	writing.Go(func() { failed = b.writeAll(f, s, f.keys[:n]) })
	for range n {
		if err := next(); err != nil {
			return nil, err
		}
	}
	writing.Wait()
	return []float64{float64(time.Since(begun)) / float64(n)}, failed
}

// writeAll writes quickly to where s is told of it.
func (b *bench) writeAll(f *field, s store, keys []string) error {
	if s.name() == etcdName {
		return f.etcd.putMany(b.ctx, keys, f.value)
	}
	js, err := jetstream.New(f.conns[bare])
	if err != nil {
		return err
	}
	return (&stockStore{js: js}).publishAsync(b.ctx, f.bucket, keys, f.value)
}

// watched is a run with a watch that is started before each round and stopped after it, while no
// clock runs. next checks that revisions never go back.
func (b *bench) watched(s watching, calls int, do func(n int, next func() error) ([]float64, error)) run {
	var w watcher
	return run{
		contender: s.name(), means: s.means()[opLive], calls: calls,
		prepare: func(int) (err error) {
			w, err = s.watch(b.ctx)
			return err
		},
		do: func(n int) ([]float64, error) {
			newest := uint64(0)
			values, err := do(n, func() error {
				revision, err := w.next(b.ctx)
				if err == nil && revision < newest {
					err = fmt.Errorf("revision %d came after %d", revision, newest)
				}
				newest = revision
				return err
			})
			return values, errors.Join(err, w.stop())
		},
	}
}

// latency is the time from a bare put to its event; the floor is the put's own answer.
func (b *bench) latency() section {
	operations := []string{opLatency}
	return b.withField(operations, 1, smallValue, func(f *field) error {
		const puts = 300
		t := f.trial(opLatency, count(1, "watcher"), "ns/event")
		t.metrics = []string{"p50", "p99"}
		for _, s := range f.watching() {
			put := b.putter(f, s)
			t.runs = append(t.runs, b.watched(s, puts, func(n int, next func() error) ([]float64, error) { return latencies(n, put, next) }))
		}
		put := b.putter(f, f.bare)
		t.runs = append(t.runs, run{contender: bare, means: "the put is answered, nobody watches", calls: puts, do: func(n int) ([]float64, error) {
			return latencies(n, func() error { return nil }, put)
		}})
		b.measure(t)
		return nil
	})
}

// putter writes one key to where s is told of it.
func (b *bench) putter(f *field, s store) func() error {
	var to store = f.bare
	if s.name() == etcdName {
		to = f.etcd
	}
	return func() error {
		_, err := to.put(b.ctx, f.keys[0], f.value)
		return err
	}
}

// latencies are the median and the 99th percentile of the times from a put to its event, which may
// come before the put is answered.
func latencies(n int, put, next func() error) ([]float64, error) {
	took := make([]float64, n)
	answered := make(chan error, 1)
	for i := range took {
		begun := time.Now()
		go func() { answered <- put() }() // awaited below
		err := next()
		took[i] = float64(time.Since(begun))
		if err := errors.Join(err, <-answered); err != nil {
			return nil, err
		}
	}
	return percentiles(took, 0.5, 0.99), nil
}

// fanOut is the time until the last of n watchers, over one connection, has a put's event. Each
// contender has a bucket of its own, with its watchers only.
func (b *bench) fanOut(n int, growing bool) section {
	return section{[]string{opFanOut}, func(a *arena) (err error) {
		t := trial{Result: Result{Setting: a.setting, Operation: opFanOut, Params: count(n, "watcher"), Unit: "ns/put", Stock: stockKV}}
		if growing {
			t = t.at(axisWatchers, n)
		}
		names := []string{ours, stockKV}
		if a.etcd != nil {
			names = append(names, etcdName)
		}
		var crowds []*crowd
		defer func() { err = errors.Join(err, b.disperse(crowds)) }()
		for _, name := range names {
			c, err := b.gather(a, name, n)
			if err != nil {
				return fmt.Errorf("%s: start %d watchers: %w", name, n, err)
			}
			crowds = append(crowds, c)
			t.runs = append(t.runs, run{
				contender: name,
				// Nobody read while the others were at it: what has come meanwhile (a server says from
				// time to time that it is there) is no part of a put's way.
				prepare: func(int) error { return c.putAndWait(b.ctx, 1) },
				do:      timed(1, func(n int) error { return c.putAndWait(b.ctx, n) }),
			})
		}
		b.measure(t)
		return nil
	}}
}

// crowd is many watchers of one bucket.
type crowd struct {
	f        *field
	put      func() error
	watchers []watcher
}

func (b *bench) gather(a *arena, contender string, n int) (*crowd, error) {
	f, err := b.newField(a, 1, smallValue)
	if err != nil {
		return nil, err
	}
	c := &crowd{f: f, watchers: make([]watcher, n)}
	for _, s := range f.watching() {
		if s.name() == contender {
			c.put = b.putter(f, s)
			err = share(starters(n), n, func(_, i int) (err error) {
				c.watchers[i], err = s.watch(b.ctx)
				return err
			})
		}
	}
	if err != nil {
		return nil, errors.Join(err, b.disperse([]*crowd{c}))
	}
	return c, nil
}

// starters is how many goroutines start and stop n watchers.
func starters(n int) int { return min(n, 16) }

// putAndWait puts n times, each time when all watchers have had the one before.
func (c *crowd) putAndWait(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failures := make([]error, len(c.watchers))
	events := make(chan struct{}, len(c.watchers))
	var group sync.WaitGroup
	for i, w := range c.watchers {
		group.Go(func() {
			if failures[i] = receive(ctx, w, n, events); failures[i] != nil {
				cancel()
			}
		})
	}
	for range n {
		if err := c.put(); err != nil {
			cancel()
			group.Wait()
			return err
		}
		for range c.watchers {
			select {
			case <-events:
			case <-ctx.Done():
			}
		}
	}
	group.Wait()
	return errors.Join(failures...)
}

func receive(ctx context.Context, w watcher, n int, events chan<- struct{}) error {
	for range n {
		if _, err := w.next(ctx); err != nil {
			return err
		}
		events <- struct{}{} // it has room for one of each watcher
	}
	return nil
}

func (b *bench) disperse(crowds []*crowd) (err error) {
	for _, c := range crowds {
		n := len(c.watchers)
		err = errors.Join(err, share(starters(n), n, func(_, i int) error {
			if c.watchers[i] == nil {
				return nil
			}
			return c.watchers[i].stop()
		}), c.f.delete(b.ctx))
	}
	return err
}
