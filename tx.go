package jskv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seed646b090f/jskv/internal/wire"
)

// Transact runs fn on a consistent view of the bucket and commits what it wrote, all or nothing, if
// nothing that it read has changed; else it starts over, with jittered backoff, until ctx ends.
// Transactions are serializable, with each other and with every other write. fn may run more than
// once, so it must not do what cannot be done again. Where ctx has no deadline, Transact tries for
// as long as the server answers: each read and the commit have the default timeout.
//
// What fn reads is of one moment, however many keys and requests that takes, and whatever is
// deleted and purged meanwhile. Reading a key that is not there, after the first read, costs one
// request more for every 1024 keys or 8 MB that were read before: they are read again.
// docs/consistency.md says why, and has the limits, which are the server's: a purge of the stream
// does not conflict with a commit, and a mirror keeps what its origin purges.
//
// It returns the revision of the last write, 0 when there was none: a transaction that only reads
// commits nothing and costs its reads. One that writes a single key needs no WithTransactions.
//
// An error of fn ends it and is returned as it is, with nothing written; a panic of fn goes
// through, with nothing written either. Other errors are those of Commit. When ctx ends after a
// conflict, the error is the context's and its text has the conflict.
func (b *Bucket[T]) Transact(ctx context.Context, fn func(tx *Tx[T]) error) (uint64, error) {
	const op = "transact on"
	var backoff wire.Backoff
	for {
		if err := ctx.Err(); err != nil {
			return 0, b.failed(op, "", err)
		}
		begun := time.Now()
		tx := &Tx[T]{ctx: ctx, bucket: b, view: b.core.NewView(), writes: map[string]wire.Write{}}
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
		if waited := backoff.WaitConflict(ctx, time.Since(begun)); waited != nil {
			return 0, b.failed(op, "", fmt.Errorf("%w: %v", waited, err))
		}
	}
}

// Tx is a transaction under way: a view of the bucket at one moment, and writes on top of it that
// nobody else sees until they are committed. It is valid while the function that was given it runs,
// and not safe for concurrent use.
type Tx[T any] struct {
	ctx    context.Context
	bucket *Bucket[T]
	view   *wire.View
	order  []string
	writes map[string]wire.Write
	err    error // of a read or write, which fails the transaction whatever fn makes of it
}

// Get returns the value of key at the moment of which everything in the transaction is read, or the
// transaction's own last write of it. The error is ErrKeyNotFound when there is none, and a
// *DecodeError when it does not decode. Any other error (ErrInvalidKey, or one because of which
// Transact starts over) ends this attempt: return it.
func (tx *Tx[T]) Get(key string) (T, error) {
	e, err := tx.Entry(key)
	return e.Value, err
}

// Entry returns the newest revision of key, as Get does the value. The transaction's own write has
// no revision and no time yet. Errors as Get; beside ErrKeyNotFound the marker is returned, if
// there is one.
func (tx *Tx[T]) Entry(key string) (Entry[T], error) {
	const op = "get"
	if own, ok := tx.writes[key]; ok {
		if own.Op == wire.OpDelete {
			return Entry[T]{}, tx.bucket.failed(op, key, fmt.Errorf("%w: the transaction deleted it", ErrKeyNotFound))
		}
		return tx.decode(pending(own))
	}
	found, err := tx.read(op, []string{key})
	if err != nil {
		return Entry[T]{}, err
	}
	m, ok := found[key]
	if !ok {
		return Entry[T]{}, tx.bucket.failed(op, key, ErrKeyNotFound)
	}
	e, err := tx.decode(m)
	if err == nil && m.Deleted() {
		err = tx.bucket.failed(op, key, fmt.Errorf("%w: revision %d is a marker (%v)", ErrKeyNotFound, e.Revision, e.Operation))
	}
	return e, err
}

// GetMany returns the newest revisions of keys, in as few round trips as the server allows: for
// what the transaction has not read yet, and once more after the first read where a key is not there.
// That asks again for all that were not there, so read thousands of keys of which most are not there
// together, not by one Get each. Missing and deleted keys are not in the map. Values that do not
// decode are left out and joined into the error; any other error ends this attempt: return it.
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
		m, ok := found[key]
		if own, written := tx.writes[key]; written {
			m, ok = pending(own), true
		}
		if !ok || m.Deleted() {
			continue
		}
		e, err := tx.decode(m)
		if err != nil {
			undecoded = append(undecoded, err)
			continue
		}
		entries[key] = e
	}
	return entries, errors.Join(undecoded...)
}

// pending is the revision that a write is to make.
func pending(w wire.Write) wire.Message { return wire.Message{Key: w.Key, Data: w.Data, Op: w.Op} }

// decode decodes a copy: m may be read again, or be written.
func (tx *Tx[T]) decode(m wire.Message) (Entry[T], error) {
	m = m.Clone()
	return tx.bucket.entry(&m, false)
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

// Put writes value, as it is now, when the transaction commits; of several writes of a key the last
// one counts. An invalid key, or a value that cannot be encoded, makes Transact fail.
func (tx *Tx[T]) Put(key string, value T) { tx.write("put", wire.Write{Key: key}, &value) }

// Delete leaves a delete marker when the transaction commits, whether the key is there or not. An
// invalid key makes Transact fail.
func (tx *Tx[T]) Delete(key string) { tx.write("delete", wire.Write{Key: key, Op: wire.OpDelete}, nil) }

func (tx *Tx[T]) write(op string, w wire.Write, value *T) {
	if err := tx.bucket.prepareKept(&w, value, nil); err != nil {
		if tx.err == nil {
			tx.err = tx.bucket.failed(op, w.Key, err)
		}
		return
	}
	if _, again := tx.writes[w.Key]; !again {
		tx.order = append(tx.order, w.Key)
	}
	tx.writes[w.Key] = w
}

// commit stores the newest write of each key, if what was read is still so.
func (tx *Tx[T]) commit() (uint64, error) {
	if len(tx.order) == 0 {
		return 0, nil
	}
	writes := make([]wire.Write, len(tx.order))
	for i, key := range tx.order {
		writes[i] = tx.writes[key]
	}
	return tx.view.Commit(tx.ctx, writes)
}
