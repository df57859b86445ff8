package jskv

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/seed646b090f/jskv/internal/wire"
)

// Transact runs fn on a consistent view of the bucket and commits what it wrote, all or nothing,
// if nothing that it read has changed; else it starts over, with jittered backoff, until ctx ends.
// (Each read and the commit have their own bound where ctx has none.) Transactions are
// serializable, with each other and with every other write. fn may run more than once, so it must
// not do what cannot be done again.
//
// It returns the revision of the last write, 0 when there was none: a transaction that only reads
// commits nothing and costs its reads. One that writes a single key needs no WithTransactions.
//
// An error of fn ends it and is returned as it is, with nothing written; so does a panic. Other
// errors: those of Commit, and the context's, which then tells of the last conflict.
func (b *Bucket[T]) Transact(ctx context.Context, fn func(tx *Tx[T]) error) (uint64, error) {
	const op = "transact on"
	var backoff wire.Backoff
	for {
		if err := ctx.Err(); err != nil {
			return 0, b.failed(op, "", err)
		}
		tx := &Tx[T]{ctx: ctx, bucket: b, view: b.core.NewView(), writes: map[string]*Entry[T]{}}
		err := fn(tx)
		switch {
		case tx.err != nil:
			// A read failed; fn may have taken that for something else.
			if err = tx.err; ctx.Err() != nil {
				return 0, b.failed(op, "", ctx.Err())
			}
			if !wire.Moved(err) {
				return 0, err
			}
		case err != nil:
			return 0, err
		default:
			var revision uint64
			if revision, err = tx.commit(); err == nil {
				return revision, nil
			}
		}
		if !errors.Is(err, ErrRevisionMismatch) && !wire.Moved(err) {
			return 0, b.batchFailed(op, err)
		}
		if waited := backoff.Wait(ctx); waited != nil {
			return 0, b.failed(op, "", fmt.Errorf("%w: %v", waited, err))
		}
	}
}

// Tx is a transaction under way: a view of the bucket at one moment, and writes on top of it
// that nobody else sees until they are committed. It is valid while the function that was given
// it runs, and not safe for concurrent use.
type Tx[T any] struct {
	ctx    context.Context
	bucket *Bucket[T]
	view   *wire.View
	order  []string
	writes map[string]*Entry[T] // nil for a delete
	err    error                // of a read or write, which fails the transaction whatever fn makes of it
}

// Get returns the value of key, of the moment of the transaction's first read, or of its own last
// write. ErrKeyNotFound when there is none, a *DecodeError when it does not decode; any other error
// (ErrInvalidKey, or what Transact makes a retry of) is the end of this attempt: return it.
func (tx *Tx[T]) Get(key string) (T, error) {
	e, err := tx.Entry(key)
	return e.Value, err
}

// Entry returns the newest revision of key, as Get does the value. The transaction's own write has no
// revision and no time yet. Errors as Get; with ErrKeyNotFound comes the marker, if there is one.
func (tx *Tx[T]) Entry(key string) (Entry[T], error) {
	const op = "get"
	if own, ok := tx.writes[key]; ok {
		if own == nil {
			return Entry[T]{}, tx.bucket.failed(op, key, fmt.Errorf("%w: the transaction deleted it", ErrKeyNotFound))
		}
		return *own, nil
	}
	found, err := tx.read(op, []string{key})
	if err != nil {
		return Entry[T]{}, err
	}
	m, ok := found[key]
	if !ok {
		return Entry[T]{}, tx.bucket.failed(op, key, ErrKeyNotFound)
	}
	e, err := tx.bucket.entry(&m, false)
	if err == nil && m.Deleted() {
		err = tx.bucket.failed(op, key, fmt.Errorf("%w: revision %d is a marker (%v)", ErrKeyNotFound, e.Revision, e.Operation))
	}
	return e, err
}

// GetMany returns the newest revisions of keys, in one round trip for what the transaction has
// not read yet. Missing and deleted keys are not in the map. Values that do not decode are
// joined into the error, and left out; any other error is the end of this attempt.
func (tx *Tx[T]) GetMany(keys ...string) (map[string]Entry[T], error) {
	unwritten := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, own := tx.writes[key]
		return own
	})
	found, err := tx.read("get many of", unwritten)
	if err != nil {
		return nil, err
	}
	entries := make(map[string]Entry[T], len(keys))
	var undecoded []error
	for _, key := range keys {
		if own, ok := tx.writes[key]; ok {
			if own != nil {
				entries[key] = *own
			}
			continue
		}
		m, ok := found[key]
		if !ok || m.Deleted() {
			continue
		}
		e, err := tx.bucket.entry(&m, false)
		if err != nil {
			undecoded = append(undecoded, err)
			continue
		}
		entries[key] = e
	}
	return entries, errors.Join(undecoded...)
}

func (tx *Tx[T]) read(op string, keys []string) (map[string]wire.Message, error) {
	if tx.err != nil {
		return nil, tx.err
	}
	found, err := tx.view.Read(tx.ctx, keys)
	if err == nil {
		return found, nil
	}
	key := ""
	if len(keys) == 1 {
		key = keys[0]
	}
	tx.err = err
	if !wire.Moved(err) {
		tx.err = tx.bucket.failed(op, key, err)
	}
	return nil, tx.err
}

// Put writes value when the transaction commits; of several writes of a key the last one counts. An
// invalid key fails the transaction.
func (tx *Tx[T]) Put(key string, value T) {
	tx.write("put", key, &Entry[T]{Bucket: tx.bucket.Name(), Key: key, Value: value})
}

// Delete leaves a delete marker when the transaction commits, whether the key is there or not. An
// invalid key fails the transaction.
func (tx *Tx[T]) Delete(key string) { tx.write("delete", key, nil) }

func (tx *Tx[T]) write(op, key string, e *Entry[T]) {
	if err := wire.CheckKey(key); err != nil {
		if tx.err == nil {
			tx.err = tx.bucket.failed(op, key, err)
		}
		return
	}
	if _, again := tx.writes[key]; !again {
		tx.order = append(tx.order, key)
	}
	tx.writes[key] = e
}

// commit stores the newest write of each key, if what was read is still so.
func (tx *Tx[T]) commit() (uint64, error) {
	if len(tx.order) == 0 {
		return 0, nil
	}
	writes := make([]wire.Write, len(tx.order))
	for i, key := range tx.order {
		w := wire.Write{Key: key, Op: wire.OpDelete}
		if e := tx.writes[key]; e != nil {
			w.Op = wire.OpPut
			if err := tx.bucket.prepare(&w, &e.Value, nil); err != nil {
				return 0, &wire.KeyError{Key: key, Err: err}
			}
		}
		writes[i] = w
	}
	return tx.view.Commit(tx.ctx, writes)
}
