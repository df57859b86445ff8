package main

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/seed646b090f/jskv"
)

// The operations, as they stand in tables and pictures.
const (
	opPut         = "Put"
	opEntry       = "Entry"
	opUpdate      = "Update"
	opDelete      = "Delete"
	opModify      = "Modify"
	opKeys        = "Keys"
	opEntries     = "Entries"
	opSnapshot    = "Watch, initial values"
	opGetMany     = "GetMany"
	opPutMany     = "PutMany"
	opBatch       = "Batch"
	opTransact    = "Transact"
	opLive        = "Watch, throughput"
	opLatency     = "Put to event,"
	opFanOut      = "Put to all watchers"
	opCacheGet    = "Cache.Get"
	opCacheAll    = "Cache.All"
	opCacheLoad   = "Cache, load"
	opCacheMemory = "Cache, memory"
	opRecovery    = "Watch, recovery after a restart"
)

const (
	smallValue = 128
	largeValue = 16 << 10
	manyKeys   = 100_000
)

// suite measures everything that was asked for.
func (b *bench) suite() {
	b.inArena(inProcess, b.processSections())
	b.inArena(inSynced, []section{b.single(smallValue, []int{1, 64}, opPut)})
	b.inArena(inLoopback, []section{
		b.single(smallValue, []int{1, 64}, opPut, opEntry, opUpdate, opDelete),
		b.lists(1000), b.latency(),
	})
	b.inArena(inCluster, []section{
		b.single(smallValue, []int{1, 64}, opPut, opEntry, opUpdate, opDelete),
		b.lists(1000), b.getMany(100), b.batches(10), b.latency(),
	})
	b.restarts()
}

func (b *bench) processSections() []section {
	sections := []section{
		b.single(smallValue, []int{1, 64}, opPut, opEntry, opUpdate, opDelete),
		b.single(largeValue, []int{1, 64}, opPut, opEntry, opUpdate, opDelete),
		b.modify(1), b.modify(8),
		b.lists(10), b.lists(1000), b.lists(manyKeys),
		b.getMany(10), b.getMany(100), b.getMany(1000),
		b.putMany(),
		b.batches(2), b.batches(10), b.batches(100),
		b.live(), b.latency(),
		b.fanOut(1, false), b.fanOut(100, false), b.fanOut(1000, false),
		b.caches(),
	}
	return append(sections, b.growth()...)
}

// section is some trials that share a bucket.
type section struct {
	operations []string
	measure    func(a *arena) error
}

// inArena measures the sections that were asked for in one setting.
func (b *bench) inArena(setting string, sections []section) {
	var a *arena
	for _, s := range sections {
		if b.ctx.Err() != nil || !b.wants(setting, s.operations...) {
			continue
		}
		if a == nil {
			var err error
			b.say("start the servers of setting %q", setting)
			if a, err = b.openArena(setting); err != nil {
				b.fail(setting, err)
				return
			}
			defer func() { b.fail(setting, a.close()) }()
		}
		if err := s.measure(a); err != nil {
			b.fail(setting+"/"+s.operations[0], err)
		}
	}
}

// withField makes a section of trials on one bucket.
func (b *bench) withField(operations []string, n, bytes int, measure func(f *field) error, opts ...jskv.BucketOption) section {
	return section{operations, func(a *arena) error {
		f, err := b.newField(a, n, bytes, opts...)
		if err != nil {
			return err
		}
		err = measure(f)
		if b.ctx.Err() != nil {
			return b.ctx.Err() // the servers end now
		}
		return errors.Join(err, f.delete(b.ctx))
	}}
}

// share lets goroutines do n calls between them.
func share(goroutines, n int, call func(worker, i int) error) error {
	if goroutines == 1 {
		return work(0, 1, n, call)
	}
	failures := make([]error, goroutines)
	var group sync.WaitGroup
	for worker := range goroutines {
		group.Go(func() { failures[worker] = work(worker, goroutines, n, call) })
	}
	group.Wait()
	return errors.Join(failures...)
}

func work(worker, workers, n int, call func(worker, i int) error) error {
	for i := worker; i < n; i += workers {
		if err := call(worker, i); err != nil {
			return err
		}
	}
	return nil
}

// ascending checks that a worker's revisions do.
type ascending []uint64

func (a ascending) add(worker int, revision uint64, err error) error {
	if err == nil && revision <= a[worker] {
		err = fmt.Errorf("revision %d after %d", revision, a[worker])
	}
	a[worker] = revision
	return err
}

// count is 12,345 and a noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return grouped(n) + " " + noun
}

func grouped(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}

func size(bytes int) string {
	switch {
	case bytes >= 1<<20:
		return fmt.Sprintf("%d MB", bytes>>20)
	case bytes >= 1<<10:
		return fmt.Sprintf("%d KB", bytes>>10)
	}
	return fmt.Sprintf("%d B", bytes)
}
