// Command transfer moves money between accounts: transactions on a bucket, a conflict and its
// retry, and many clerks at a time who lose nothing.
//
// It starts a server of its own inside the program. With NATS_URL set it uses that server, and
// refuses to touch a bucket "accounts" that is there already.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/embedded"
)

const bucket = "accounts"

// Account is what the bucket stores of one customer, whose name is the key.
type Account struct {
	Balance int `json:"balance"` // in cents, never below zero
}

// errPoor is why a transfer is refused. An error of its function ends a transaction, with nothing
// written.
var errPoor = errors.New("not enough money")

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	js, closeServer, err := connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer closeServer()
	if _, err := jskv.OpenBucket(ctx, js, bucket, jskv.JSON[Account]()); err == nil {
		return fmt.Errorf("a bucket %q is already there; this program would write to it and remove it", bucket)
	} else if !errors.Is(err, jskv.ErrBucketNotFound) {
		return err
	}
	accounts, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: bucket}, jskv.JSON[Account](), jskv.WithTransactions())
	if err != nil {
		return err
	}
	defer func() {
		// The program's context may be what ended it.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, jskv.DeleteBucket(ctx, js, bucket))
	}()
	b := &bank{accounts}
	for _, step := range []func(context.Context) error{b.open, b.one, b.refused, b.conflict, b.outdated, b.crowd} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// connect uses the server at url, or starts one in this program that is gone when it ends.
func connect(url string) (jetstream.JetStream, func(), error) {
	if url != "" {
		nc, err := nats.Connect(url, nats.Timeout(10*time.Second))
		if err != nil {
			return nil, nil, fmt.Errorf("NATS_URL=%s: %w", url, err)
		}
		js, err := jetstream.New(nc)
		return js, nc.Close, err
	}
	dir, err := os.MkdirTemp("", "jskv-transfer-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() {
		if err := os.RemoveAll(dir); err != nil {
			log.Print(err)
		}
	}
	server, err := embedded.Start(dir)
	if err != nil {
		remove()
		return nil, nil, err
	}
	stop := func() {
		server.Shutdown()
		remove()
	}
	js, err := server.JetStream()
	if err != nil {
		stop()
		return nil, nil, err
	}
	return js, stop, nil
}

type bank struct {
	accounts *jskv.Bucket[Account]
}

var customers = []string{"bob", "eve", "sue"}

// transfer moves cents from one account to another, or does nothing. What it reads is one moment
// of the bucket; if that is over when it commits, the function runs again.
func (b *bank) transfer(ctx context.Context, from, to string, cents int, saw func(giver, taker Account) error) error {
	_, err := b.accounts.Transact(ctx, func(tx *jskv.Tx[Account]) error {
		giver, err := tx.Get(from)
		if err != nil {
			return err
		}
		taker, err := tx.Get(to)
		if err != nil {
			return err
		}
		if err := saw(giver, taker); err != nil {
			return err
		}
		if giver.Balance < cents {
			return errPoor
		}
		tx.Put(from, Account{giver.Balance - cents})
		tx.Put(to, Account{taker.Balance + cents})
		return nil
	})
	return err
}

func ignore(Account, Account) error { return nil }

// open makes three accounts, or none.
func (b *bank) open(ctx context.Context) error {
	revisions, err := b.accounts.NewBatch().
		Create("bob", Account{2000}).
		Create("eve", Account{0}).
		Create("sue", Account{10000}).
		Commit(ctx)
	if err != nil {
		return err
	}
	fmt.Println("opened, revisions", revisions)
	return b.show(ctx)
}

func (b *bank) one(ctx context.Context) error {
	if err := b.transfer(ctx, "sue", "bob", 3000, ignore); err != nil {
		return err
	}
	fmt.Println("sue paid bob 30.00")
	return b.show(ctx)
}

func (b *bank) refused(ctx context.Context) error {
	err := b.transfer(ctx, "eve", "sue", 1, ignore)
	if !errors.Is(err, errPoor) {
		return fmt.Errorf("eve paid without money: %v", err)
	}
	fmt.Println("eve cannot pay sue 0.01:", err)
	return b.show(ctx)
}

// conflict has bob pay while sue's transfer is under way: that one starts over by itself.
func (b *bank) conflict(ctx context.Context) error {
	attempts := 0
	err := b.transfer(ctx, "sue", "eve", 5000, func(sue, _ Account) error {
		attempts++
		fmt.Printf("attempt %d: sue has %s\n", attempts, money(sue.Balance))
		if attempts > 1 {
			return nil
		}
		fmt.Println("meanwhile bob pays sue 10.00")
		return b.transfer(ctx, "bob", "sue", 1000, ignore)
	})
	if err != nil {
		return err
	}
	fmt.Println("sue paid eve 50.00")
	return b.show(ctx)
}

// outdated shows what a transaction does by itself: a batch whose conditions no longer hold stores
// nothing, and says which did not.
func (b *bank) outdated(ctx context.Context) error {
	seen, err := b.accounts.GetMany(ctx, customers...)
	if err != nil {
		return err
	}
	if err := b.transfer(ctx, "sue", "bob", 500, ignore); err != nil {
		return err
	}
	batch := b.accounts.NewBatch()
	for _, name := range customers {
		batch.Update(name, Account{seen[name].Value.Balance + 1}, seen[name].Revision) // interest
	}
	_, err = batch.Commit(ctx)
	conflict, ok := errors.AsType[*jskv.RevisionError](err)
	if !ok {
		return fmt.Errorf("interest on outdated balances gave %v", err)
	}
	fmt.Printf("no interest: %s was written since\n", conflict.Key)
	return b.show(ctx)
}

// crowd has clerks transfer at the same time, while an auditor counts.
func (b *bank) crowd(ctx context.Context) error {
	const clerks, each = 4, 15
	before, err := b.total(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, clerks+1)
	var working, auditing sync.WaitGroup
	for i := range clerks {
		working.Go(func() {
			for n := 0; n < each && errs[i] == nil; n++ {
				at := rand.Perm(len(customers))
				errs[i] = b.transfer(ctx, customers[at[0]], customers[at[1]], 1+rand.IntN(1000), ignore)
				if errors.Is(errs[i], errPoor) {
					errs[i] = nil
				}
			}
		})
	}
	done := make(chan struct{})
	auditing.Go(func() {
		for errs[clerks] == nil {
			total, err := b.total(ctx)
			if err == nil && total != before {
				err = fmt.Errorf("%s have become %s", money(before), money(total))
			}
			errs[clerks] = err
			select {
			case <-done:
				return
			default:
			}
		}
	})
	working.Wait()
	close(done)
	auditing.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Printf("%d transfers by %d clerks, audited all the while: %s\n", clerks*each, clerks, money(before))
	return nil
}

// total is what all accounts have together at one moment.
func (b *bank) total(ctx context.Context) (cents int, err error) {
	entries, err := b.accounts.GetMany(ctx, customers...)
	for _, e := range entries {
		cents += e.Value.Balance
	}
	return cents, err
}

func (b *bank) show(ctx context.Context) error {
	entries, err := b.accounts.GetMany(ctx, customers...)
	if err != nil {
		return err
	}
	for _, name := range customers {
		fmt.Printf("  %s has %s (revision %d)\n", name, money(entries[name].Value.Balance), entries[name].Revision)
	}
	return nil
}

func money(cents int) string { return fmt.Sprintf("%d.%02d", cents/100, cents%100) }
