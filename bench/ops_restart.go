package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// How long a watch says nothing after its server was restarted: from the moment in which the server
// is ready again and is written to, to the first event. All watchers wait for the same restart.

func (b *bench) restarts() {
	if !b.wants(inProcess, opRecovery) || b.ctx.Err() != nil {
		return
	}
	t := trial{Result: Result{Setting: inProcess, Operation: opRecovery, Unit: "ns", Stock: stockKV}, noAllocs: true}
	silences := map[string][]float64{}
	for i := range b.scale.restarts {
		b.say("restart %d of %d", i+1, b.scale.restarts)
		if err := b.restart(silences); err != nil {
			b.fail(t.name(), err)
			return
		}
	}
	for _, name := range []string{ours, stockKV, etcdName} {
		t.runs = append(t.runs, run{contender: name, samples: [][]float64{silences[name]}})
	}
	b.keep(&t)
}

// restart starts servers of its own and restarts each once.
func (b *bench) restart(silences map[string][]float64) error {
	for _, kind := range []string{kindNATS, kindEtcd} {
		dir, err := os.MkdirTemp(b.dir, "restart")
		if err != nil {
			return err
		}
		if err := b.restartOne(serveOptions{kind: kind, dir: dir}, silences); err != nil {
			return fmt.Errorf("restart %s: %w", kind, err)
		}
	}
	return nil
}

func (b *bench) restartOne(o serveOptions, silences map[string][]float64) (err error) {
	server, err := startChild(b.ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	a, err := connectTo(o.kind, server.urls[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	patients, err := b.patients(o.kind, a)
	if err != nil {
		return err
	}
	if err := server.stop(); err != nil {
		return err
	}
	if o.port, err = portOf(server.urls[0]); err != nil {
		return err
	}
	again, err := startChild(b.ctx, o)
	if err != nil {
		return err
	}
	server.cmd, server.stdin = again.cmd, again.stdin // it is what is stopped in the end
	return b.awaitRecovery(patients, silences)
}

// connectTo is an arena with the one server only.
func connectTo(kind, address string) (*arena, error) {
	a := &arena{setting: inProcess, replicas: 1, conns: map[string]*nats.Conn{}}
	var err error
	if kind == kindEtcd {
		if a.etcd, err = connectEtcd(address); err == nil {
			a.closers = append(a.closers, a.etcd.Close)
		}
		return a, err
	}
	for _, contender := range []string{ours, stockKV, bare} {
		if a.conns[contender], err = connectNATS(address); err != nil {
			return nil, errors.Join(err, a.close())
		}
		a.onClose(a.conns[contender].Close)
	}
	return a, nil
}

// patient is a watcher that waits for its server.
type patient struct {
	name string
	watcher
	put func(ctx context.Context) error // so that there is something to see
}

func (b *bench) patients(kind string, a *arena) ([]patient, error) {
	var stores []watching
	var put func(ctx context.Context) error
	if kind == kindEtcd {
		s := &etcdStore{client: a.etcd, prefix: "b/"}
		stores, put = []watching{s}, putTo(s)
	} else {
		f, err := b.newField(a, 1, smallValue)
		if err != nil {
			return nil, err
		}
		stores, put = []watching{f.ours, f.stock}, putTo(f.bare)
	}
	var patients []patient
	for _, s := range stores {
		w, err := s.watch(b.ctx)
		if err != nil {
			return nil, err
		}
		patients = append(patients, patient{s.name(), w, put})
	}
	// Before the restart they work.
	if err := put(b.ctx); err != nil {
		return nil, err
	}
	for _, p := range patients {
		if _, err := p.next(b.ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return patients, nil
}

func putTo(s store) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := s.put(ctx, "k", []byte("v"))
		return err
	}
}

// awaitRecovery writes until every watcher has told of something. Writes may fail while the
// connection is being made again.
func (b *bench) awaitRecovery(patients []patient, silences map[string][]float64) error {
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	type recovery struct {
		name string
		took time.Duration
		err  error
	}
	begun := time.Now()
	recovered := make(chan recovery, len(patients))
	for _, p := range patients {
		go func() { // awaited below
			_, err := p.next(ctx)
			recovered <- recovery{p.name, time.Since(begun), err}
		}()
	}
	var failed error
	for waiting := len(patients); waiting > 0; {
		attempt, done := context.WithTimeout(ctx, 100*time.Millisecond)
		_ = patients[0].put(attempt) // it is done again
		done()
		select {
		case r := <-recovered:
			waiting--
			silences[r.name] = append(silences[r.name], float64(r.took))
			failed = errors.Join(failed, r.err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.Join(failed, stopAll(patients))
}

func stopAll(patients []patient) (err error) {
	for _, p := range patients {
		err = errors.Join(err, p.stop())
	}
	return err
}

// portOf reads nats://127.0.0.1:4222 and 127.0.0.1:2379.
func portOf(address string) (int, error) {
	_, port, err := net.SplitHostPort(address[strings.LastIndex(address, "/")+1:])
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}
