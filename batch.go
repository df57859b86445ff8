package jskv

import (
	"context"
	"errors"
	"strconv"

	"github.com/seed646b090f/jskv/internal/wire"
)

// Batch collects writes that happen all or not at all: the server's atomic batch (ADR-50; server
// 2.12 or later). NewBatch makes one; the zero value is not usable. It is not safe for concurrent
// use. Its methods return it, so that calls can be chained. What is wrong with an operation is
// reported by Commit, before anything is sent.
//
// The same key may be put and deleted several times: the operations are stored one after the other.
// A condition belongs to the first of them: Create, Update, IfRevision, a Purge or a TTL on a key
// that the batch has written already is an ErrInvalidOption.
//
// Require on a key that the batch writes, before or after, is a condition of its first write. Two
// conditions that no revision can meet are an ErrInvalidOption. Create and Require on one key go
// together where the required revision is a delete marker; the server cannot check that, so Commit
// asks for the key in a request of its own. Create with Require of 0 wants no revision at all, not
// even a marker.
type Batch[T any] struct {
	bucket *Bucket[T]
	batch  wire.Batch
	err    error // of the first operation that was wrong
}

// NewBatch returns an empty batch. It sends no request.
func (b *Bucket[T]) NewBatch() *Batch[T] { return &Batch[T]{bucket: b} }

// Put adds a write of value, whatever the key has then.
func (x *Batch[T]) Put(key string, value T, opts ...WriteOption) *Batch[T] {
	return x.add("put", wire.Write{Key: key}, &value, opts)
}

// Create adds a write that requires key to have no live value; else Commit fails with ErrKeyExists.
func (x *Batch[T]) Create(key string, value T, opts ...WriteOption) *Batch[T] {
	return x.add("create", wire.Write{Key: key, Create: true}, &value, opts)
}

// Update adds a write that requires revision to be the key's newest; 0 means that the key has no
// revision at all.
func (x *Batch[T]) Update(key string, value T, revision uint64, opts ...WriteOption) *Batch[T] {
	return x.add("update", wire.Write{Key: key, Expect: true, Revision: revision}, &value, opts)
}

// Delete adds a delete marker, whether the key is there or not. IfRevision makes it conditional.
func (x *Batch[T]) Delete(key string, opts ...WriteOption) *Batch[T] {
	return x.add("delete", wire.Write{Key: key, Op: wire.OpDelete}, nil, opts)
}

// Purge adds a marker that drops the key's older revisions. TTL and IfRevision work as in
// Bucket.Purge.
func (x *Batch[T]) Purge(key string, opts ...WriteOption) *Batch[T] {
	return x.add("purge", wire.Write{Key: key, Op: wire.OpPurge}, nil, opts)
}

// Require makes the batch depend on key being at revision, without writing it; 0 means that the key
// has no revision at all.
//
// The server checks only so many required keys as the batch has writes without a condition of their
// own. Where there are more, up to 1024, Commit reads them first, and the batch then depends on the
// whole bucket not changing until it is stored; when it does change, Commit tries again.
func (x *Batch[T]) Require(key string, revision uint64) *Batch[T] {
	if err := wire.CheckKey(key); err != nil {
		x.fail("require", key, err)
		return x
	}
	x.batch.Guards = append(x.batch.Guards, wire.Guard{Key: key, Revision: revision})
	return x
}

// Len returns the number of writes that were added. It does not count invalid ones, nor what is
// only required.
func (x *Batch[T]) Len() int { return len(x.batch.Writes) }

func (x *Batch[T]) add(op string, w wire.Write, value *T, opts []WriteOption) *Batch[T] {
	if err := x.bucket.prepareKept(&w, value, opts); err != nil {
		x.fail(op, w.Key, err)
		return x
	}
	x.batch.Writes = append(x.batch.Writes, w)
	return x
}

func (x *Batch[T]) fail(op, key string, err error) {
	if x.err == nil {
		x.err = x.bucket.failed(op, key, err)
	}
}

// Commit stores the writes and returns the revision that each made, in the order in which they were
// added. Nothing is stored unless everything is. It is one round trip, and none for an empty batch.
// A batch with one write is stored as a single write, which needs no WithTransactions. Commit does
// not empty the batch: called again, it stores the writes again.
//
// Errors: those of the operations; a *RevisionError that names the key whose condition failed, or
// ErrKeyExists for a Create (one of the two for a Create whose revision is also required);
// ErrTransactionsDisabled; ErrTooManyOperations over the server's limit (1000 writes by default);
// ErrOutcomeUnknown when no answer came. Where the server has too many batches under way (50 in a
// bucket by default) Commit waits and tries again.
func (x *Batch[T]) Commit(ctx context.Context) ([]uint64, error) {
	if x.err != nil {
		return nil, x.err
	}
	revisions, err := x.bucket.core.Commit(ctx, x.batch)
	return revisions, x.bucket.batchFailed("commit batch to", err)
}

// batchFailed is failed for an error that names one key of several.
func (b *Bucket[T]) batchFailed(op string, err error) error {
	if conflict, ok := errors.AsType[*wire.BatchConflict](err); ok {
		return b.failed(op, conflict.Key, &conflict.Conflict)
	}
	if keyed, ok := errors.AsType[*wire.KeyError](err); ok {
		return b.failed(op, keyed.Key, keyed.Err)
	}
	return b.failed(op, "", err)
}

// BatchPosition says which part of a batch an entry is.
type BatchPosition struct {
	ID       string // the batch's, the same for all its writes
	Sequence int    // 1 for its first write
	Last     bool   // whether it is the last write
}

// Batch reports whether the revision was stored by a batch or transaction of several writes, and
// which part of it the revision is. The writes of a batch have consecutive revisions, in their
// order.
//
// A reader may meet the first of them before the last is there. It does not see those that were
// replaced before it came to them, nor those that its filters leave out. So do not wait for a batch
// to be complete, but for a revision beyond it.
func (e Entry[T]) Batch() (BatchPosition, bool) {
	id := e.Header.Get(wire.BatchIDHeader)
	sequence, err := strconv.Atoi(e.Header.Get(wire.BatchSequenceHeader))
	if id == "" || err != nil {
		return BatchPosition{}, false
	}
	return BatchPosition{ID: id, Sequence: sequence, Last: e.Header.Get(wire.BatchCommitHeader) != ""}, true
}
