package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// Each proof is an invariant that every transaction keeps, so that whoever sees it broken has seen
// something that no order of whole transactions explains.
var proofs = map[string]func(t *testing.T, s *stage){
	"bank transfers lose no money":          proveTransfers,
	"no update is lost":                     proveNoLostUpdate,
	"no write skew":                         proveNoWriteSkew,
	"no read skew":                          proveNoReadSkew,
	"what is not there stays away":          proveNoPhantom,
	"reads have seen the handle's writes":   proveReadYourWrites,
	"histories have an order that explains": proveHistories,
	"what goes without a trace goes whole":  provePairsStayTogether,
}

func TestTransactionsAreSerializableOnOneServer(t *testing.T) {
	t.Parallel()
	for name, proof := range proofs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proof(t, newStage(t))
		})
	}
}

func TestTransactionsAreSerializableOnAClusterInTrouble(t *testing.T) {
	t.Parallel()
	cluster := jskvtest.NewCluster(t, 3)
	for name, proof := range proofs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bucket := regexp.MustCompile("[^a-z]").ReplaceAllString(name, "_")
			proof(t, newTroubledStage(t, cluster, bucket))
		})
	}
	for name, test := range map[string]func(t *testing.T, cluster *jskvtest.Cluster){
		"one guard for many writers":            requireOneGuardForMany,
		"PutMany through a change of leaders":   func(t *testing.T, c *jskvtest.Cluster) { putThroughStepDown(t, c, "plain") },
		"and with ids, which lose nothing then": func(t *testing.T, c *jskvtest.Cluster) { putThroughStepDown(t, c, "ids", jskv.WithIdempotentWrites()) },
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, cluster) })
	}
}

// stage is where a proof takes place.
type stage struct {
	t       *testing.T
	b       *jskv.Bucket[int]   // for what is not to be disturbed
	workers []*jskv.Bucket[int] // each on a connection of its own
	trouble []disturbance       // what disturbs them, one after the other
	work    int64               // to be done before each of those
	settle  func()              // waits until every server has what was stored

	stop    atomic.Bool
	done    atomic.Int64 // transactions that were acknowledged
	unknown atomic.Int64 // of which nobody knows
}

// disturbance begins one, and returns what tells whether it has come.
type disturbance func() (over func() bool)

// sudden is a disturbance that has come when it has begun.
func sudden(disturb func()) disturbance {
	return func() func() bool {
		disturb()
		return func() bool { return true }
	}
}

const workers = 8

// newStage is a server on which nothing fails.
func newStage(t *testing.T) *stage {
	t.Helper()
	text, server := newBucket(t, inMemory, jskv.WithTransactions())
	s := &stage{t: t, b: jskv.As(text, jskv.JSON[int]()), work: 250, settle: func() {}}
	for range workers {
		s.workers = append(s.workers, jskv.As(openBucket(t, server.JetStream()), jskv.JSON[int]()))
	}
	return s
}

// newTroubledStage is a bucket on a cluster whose leader changes and whose connections are cut.
func newTroubledStage(t *testing.T, cluster *jskvtest.Cluster, bucket string) *stage {
	t.Helper()
	const patience = time.Second // that an answer is waited for
	cfg := jetstream.KeyValueConfig{Bucket: bucket, Storage: jetstream.MemoryStorage, Replicas: 3}
	b, err := jskv.CreateBucket(testContext(t), cluster.JetStream(), cfg, jskv.JSON[int](), jskv.WithTransactions())
	require.NoError(t, err)
	settle := func() { cluster.WaitCurrent(bucket) }
	settle()
	s := &stage{t: t, b: b, work: 60, settle: settle}
	for i, server := range cluster.Servers() {
		proxy := jskvtest.NewProxy(t, server.URL())
		for range []int{3, 3, 2}[i] {
			worker, err := jskv.OpenBucket(testContext(t), hasty(t, proxy.Conn(), patience), bucket, jskv.JSON[int]())
			require.NoError(t, err)
			s.workers = append(s.workers, worker)
		}
		switch i {
		case 0: // a transaction that was stored is not acknowledged
			s.trouble = append(s.trouble, func() func() bool {
				cut := proxy.CutOn(jskvtest.ToClient, `"batch":`)
				return func() bool { return isClosed(cut) }
			})
		case 1:
			s.trouble = append(s.trouble, sudden(func() { cluster.StepDown(bucket) }))
		case 2:
			s.trouble = append(s.trouble, sudden(proxy.Reset))
		}
	}
	return s
}

// run has every worker work, and two more look, until all troubles are over and work was done
// after each. They read what s.b has written before, and s.b reads what they have written after it: other
// handles' writes, which a replica that lags need not have.
func (s *stage) run(work func(i int, b *jskv.Bucket[int]) error, look func(b *jskv.Bucket[int]) error) {
	s.t.Helper()
	s.settle()
	defer s.settle()
	var group sync.WaitGroup
	defer group.Wait()
	defer s.stop.Store(true) // also where it does not go on
	loop := func(do func() error, count *atomic.Int64) {
		group.Go(func() {
			for !s.stop.Load() {
				if s.tolerate(do()) {
					count.Add(1)
				}
			}
		})
	}
	for i, b := range s.workers {
		loop(func() error { return work(i, b) }, &s.done)
	}
	var looks atomic.Int64
	for _, i := range []int{0, workers - 1} {
		loop(func() error { return look(s.workers[i]) }, &looks)
	}
	for _, disturb := range append(s.trouble, sudden(func() {})) {
		before, looked := s.done.Load(), looks.Load()
		s.await(func() bool { return s.done.Load() >= before+s.work && looks.Load() >= looked+20 })
		s.await(disturb())
	}
	before := s.done.Load()
	s.await(func() bool { return s.done.Load() >= before+s.work })
}

func (s *stage) await(reached func() bool) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.stop.Load() || reached() }, 2*atLongest, tick, "it goes on")
}

// violated ends the stage.
func (s *stage) violated(format string, args ...any) {
	s.t.Errorf(format, args...)
	s.stop.Store(true)
}

// tolerate reports whether an operation happened. That it fails is right only where there is
// trouble, and never right is that it fails with a conflict.
func (s *stage) tolerate(err error) bool {
	switch {
	case err == nil:
		return true
	case len(s.trouble) == 0, errors.Is(err, jskv.ErrRevisionMismatch), errors.Is(err, jskv.ErrKeyExists),
		errors.Is(err, jskv.ErrInvalidOption), errors.Is(err, jskv.ErrKeyNotFound), errors.Is(err, jskv.ErrBucketNotFound):
		s.violated("%v", err)
	case !jskv.SafeToRetry(err):
		s.unknown.Add(1)
	}
	return false
}

// number is key's value in a transaction, 0 when it has none.
func number(tx *jskv.Tx[int], key string) (int, error) {
	n, err := tx.Get(key)
	if errors.Is(err, jskv.ErrKeyNotFound) {
		err = nil
	}
	return n, err
}

func names(kind string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s.%d", kind, i)
	}
	return all
}

func proveTransfers(t *testing.T, s *stage) {
	const each, total = 100, 100 * 100
	accounts := names("account", 100)
	_, err := s.b.PutMany(testContext(t), func(yield func(string, int) bool) {
		for _, account := range accounts {
			if !yield(account, each) {
				return
			}
		}
	})
	require.NoError(t, err)
	errPoor := errors.New("not enough money")
	transfer := func(_ int, b *jskv.Bucket[int]) error {
		from, to := rand.IntN(len(accounts)), rand.IntN(len(accounts)-1)
		if to >= from {
			to++
		}
		amount := 1 + rand.IntN(each)
		_, err := b.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
			got, err := tx.GetMany(accounts[from], accounts[to])
			if err != nil {
				return err
			}
			if got[accounts[from]].Value < amount {
				return errPoor
			}
			tx.Put(accounts[from], got[accounts[from]].Value-amount)
			tx.Put(accounts[to], got[accounts[to]].Value+amount)
			return nil
		})
		if err == errPoor {
			err = nil
		}
		return err
	}
	sum := func(got map[string]jskv.Entry[int]) {
		total := total
		for _, e := range got {
			if total -= e.Value; e.Value < 0 {
				s.violated("%s has %d", e.Key, e.Value)
			}
		}
		if len(got) != len(accounts) || total != 0 {
			s.violated("%d of %d accounts, and %d is missing", len(got), len(accounts), total)
		}
	}
	s.run(transfer, func(b *jskv.Bucket[int]) error {
		got, err := b.GetMany(context.Background(), accounts...)
		if err == nil {
			sum(got)
		}
		return err
	})
	sum(getMany(t, s.b, accounts...))
}

// Every increment of a counter goes with one of the worker's own tally of it.
func proveNoLostUpdate(t *testing.T, s *stage) {
	counters := names("counter", 3)
	tally := func(i, counter int) string { return fmt.Sprintf("tally.%d.%d", counter, i) }
	all := append([]string(nil), counters...)
	for counter := range counters {
		for i := range workers {
			all = append(all, tally(i, counter))
		}
	}
	sum := func(got map[string]jskv.Entry[int]) (sum int64) {
		for counter, name := range counters {
			tallied := 0
			for i := range workers {
				tallied += got[tally(i, counter)].Value
			}
			if tallied != got[name].Value {
				s.violated("%s is %d after %d increments", name, got[name].Value, tallied)
			}
			sum += int64(tallied)
		}
		return sum
	}
	s.run(func(i int, b *jskv.Bucket[int]) error {
		counter := rand.IntN(len(counters))
		_, err := b.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
			n, err := number(tx, counters[counter])
			own, err2 := number(tx, tally(i, counter))
			tx.Put(counters[counter], n+1)
			tx.Put(tally(i, counter), own+1)
			return errors.Join(err, err2)
		})
		return err
	}, func(b *jskv.Bucket[int]) error {
		got, err := b.GetMany(context.Background(), all...)
		if err == nil {
			sum(got)
		}
		return err
	})
	made := sum(getMany(t, s.b, all...))
	require.GreaterOrEqual(t, made, s.done.Load(), "an increment was acknowledged and is not there")
	require.LessOrEqual(t, made, s.done.Load()+s.unknown.Load(), "an increment was made twice")
}

// Of two doctors one must be on call. Each looks at both and changes only itself.
func proveNoWriteSkew(t *testing.T, s *stage) {
	doctors := names("doctor", 2)
	transact(t, s.b, func(tx *jskv.Tx[int]) error {
		tx.Put(doctors[0], 1)
		tx.Put(doctors[1], 1)
		return nil
	})
	s.run(func(i int, b *jskv.Bucket[int]) error {
		me, other := doctors[i%2], doctors[1-i%2]
		_, err := b.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
			mine, err := number(tx, me)
			theirs, err2 := number(tx, other)
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			if mine+theirs == 0 {
				s.violated("a transaction saw that nobody was on call")
			}
			tx.Put(me, 1-mine*theirs)
			if i%4 < 2 {
				// With this write there is room for a guard of the other doctor's key; without
				// it the whole bucket is guarded.
				tx.Put(fmt.Sprint("log.", i), mine)
			}
			return nil
		})
		return err
	}, func(b *jskv.Bucket[int]) error {
		got, err := b.GetMany(context.Background(), doctors...)
		if err == nil && got[doctors[0]].Value+got[doctors[1]].Value == 0 {
			s.violated("nobody was on call")
		}
		return err
	})
}

// Half of the workers write the same to many keys, the others read them one by one.
func proveNoReadSkew(_ *testing.T, s *stage) {
	keys := names("same", 10)
	var next atomic.Int64
	s.run(func(i int, b *jskv.Bucket[int]) error {
		_, err := b.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
			if i%2 == 0 {
				n := int(next.Add(1))
				for _, key := range keys {
					tx.Put(key, n)
				}
				return nil
			}
			first, err := number(tx, keys[0])
			if err != nil {
				return err
			}
			for _, at := range rand.Perm(len(keys))[:3] {
				n, err := number(tx, keys[at])
				if err != nil {
					return err
				}
				if n != first {
					s.violated("a transaction read %d and then %d", first, n)
				}
			}
			return nil
		})
		return err
	}, func(b *jskv.Bucket[int]) error {
		got, err := b.GetMany(context.Background(), keys...)
		for _, e := range got {
			if e.Value != got[keys[0]].Value || len(got) != len(keys) {
				s.violated("half of a transaction: %v", got)
			}
		}
		return err
	})
}

// Guests take seats that nobody has, and give them back.
func proveNoPhantom(_ *testing.T, s *stage) {
	seats, guests := names("seat", 10), names("guest", workers)
	s.run(func(i int, b *jskv.Bucket[int]) error {
		_, err := b.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
			mine, err := number(tx, guests[i])
			if err != nil {
				return err
			}
			seat := rand.IntN(len(seats))
			if mine != 0 {
				seat = mine - 1
			}
			taken, err := number(tx, seats[seat])
			switch {
			case err != nil:
			case mine != 0 && taken != i+1:
				s.violated("guest %d has seat %d, which guest %d has", i, seat, taken-1)
			case mine != 0:
				tx.Delete(seats[seat])
				tx.Delete(guests[i])
			case taken == 0:
				tx.Put(seats[seat], i+1)
				tx.Put(guests[i], seat+1)
			}
			return err
		})
		return err
	}, func(b *jskv.Bucket[int]) error {
		got, err := b.GetMany(context.Background(), append(seats[:len(seats):len(seats)], guests...)...)
		if err != nil {
			return err
		}
		for i, seat := range seats {
			if e, taken := got[seat]; taken && got[guests[e.Value-1]].Value != i+1 {
				s.violated("%s has %d, who has %+v", seat, e.Value-1, got[guests[e.Value-1]])
			}
		}
		for i, guest := range guests {
			if e, sits := got[guest]; sits && got[seats[e.Value-1]].Value != i+1 {
				s.violated("%s has %d, who has %+v", guest, e.Value-1, got[seats[e.Value-1]])
			}
		}
		return nil
	})
}

// On replicas a read may be answered by one that lags.
func proveReadYourWrites(_ *testing.T, s *stage) {
	keys := names("own", workers)
	written := make([]int, workers)
	s.run(func(i int, b *jskv.Bucket[int]) error {
		next := written[i] + 1
		see := func(n int) {
			if n < written[i] {
				s.violated("%d after %d was written", n, written[i])
			}
		}
		_, err := b.NewBatch().Put(keys[i], next).Put("noise", next).Commit(context.Background())
		if err != nil {
			return err
		}
		written[i] = next
		got, err := b.GetMany(context.Background(), keys[i], "missing")
		if err != nil {
			return err
		}
		see(got[keys[i]].Value)
		_, err = b.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
			n, err := number(tx, keys[i])
			if err == nil {
				see(n)
			}
			return err
		})
		return err
	}, func(b *jskv.Bucket[int]) error {
		_, err := b.GetMany(context.Background(), keys...)
		return err
	})
}
