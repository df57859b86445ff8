package jskv_test

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// A transfer reads two keys and writes both. Whoever else transfers at the same time, nothing is
// lost: the function runs again where what it read has changed.
func ExampleBucket_Transact() {
	ctx, bank, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	accounts := jskv.As(bank, jskv.JSON[int]())
	_, err := accounts.NewBatch().Put("sue", 100).Put("bob", 20).Commit(ctx)
	check(err)

	errPoor := errors.New("not enough money")
	transfer := func(from, to string, amount int) error {
		_, err := accounts.Transact(ctx, func(tx *jskv.Tx[int]) error {
			a, err := tx.Get(from)
			if err != nil {
				return err
			}
			b, err := tx.Get(to)
			if err != nil {
				return err
			}
			if a < amount {
				return errPoor // nothing is written
			}
			tx.Put(from, a-amount)
			tx.Put(to, b+amount)
			return nil
		})
		return err
	}
	fmt.Println(transfer("sue", "bob", 70))
	fmt.Println(transfer("sue", "bob", 70))

	balances, err := accounts.GetMany(ctx, "sue", "bob")
	fmt.Println(balances["sue"].Value, balances["bob"].Value, err)
	// Output:
	// <nil>
	// not enough money
	// 30 90 <nil>
}

// A transaction that only reads sees one moment of the bucket.
func ExampleTx_GetMany() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	put(ctx, profiles, "bob.color", "green")
	revision, err := profiles.Transact(ctx, func(tx *jskv.Tx[string]) error {
		colors, err := tx.GetMany("sue.color", "bob.color", "eve.color")
		fmt.Println(len(colors), colors["bob.color"].Value)
		return err
	})
	fmt.Println(revision, err)
	// Output:
	// 2 green
	// 0 <nil>
}

func ExampleTx_Get() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	_, err := profiles.Transact(ctx, func(tx *jskv.Tx[string]) error {
		_, err := tx.Get("sue.color")
		fmt.Println(errors.Is(err, jskv.ErrKeyNotFound))

		// It sees its own writes.
		tx.Put("sue.color", "blue")
		color, err := tx.Get("sue.color")
		fmt.Println(color)
		return err
	})
	check(err)
	// Output:
	// true
	// blue
}

func ExampleTx_Entry() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	put(ctx, profiles, "sue.color", "blue")
	_, err := profiles.Transact(ctx, func(tx *jskv.Tx[string]) error {
		entry, err := tx.Entry("sue.color")
		fmt.Println(entry.Value, entry.Revision)
		return err
	})
	check(err)
	// Output:
	// blue 1
}

func ExampleTx_Put() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	revision, err := profiles.Transact(ctx, func(tx *jskv.Tx[string]) error {
		tx.Put("sue.color", "blue")
		tx.Put("sue.food", "pizza")
		return nil
	})
	fmt.Println(revision, err) // of the last write
	// Output:
	// 2 <nil>
}

func ExampleTx_Delete() {
	ctx, profiles, stop := startBucket(jetstream.KeyValueConfig{}, jskv.WithTransactions())
	defer stop()

	put(ctx, profiles, "sue.colour", "blue")
	_, err := profiles.Transact(ctx, func(tx *jskv.Tx[string]) error {
		color, err := tx.Get("sue.colour")
		if err != nil {
			return err
		}
		tx.Delete("sue.colour")
		tx.Put("sue.color", color)
		return nil
	})
	check(err)
	fmt.Println(jskv.Collect(profiles.Keys(ctx)))
	// Output:
	// [sue.color] <nil>
}
