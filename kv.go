package jskv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv/internal/wire"
)

// Bucket is a typed handle on one JetStream key-value bucket. It is safe for concurrent use, and
// needs no closing. CreateBucket, CreateOrUpdateBucket and OpenBucket make one; the zero value is
// not usable.
//
// A call whose context has no deadline gives up after the default timeout of its JetStream (5 s
// unless it was made with another).
type Bucket[T any] struct {
	core  *wire.Bucket
	codec Codec[T]
}

// CreateBucket creates the bucket, or binds to it when it exists with the same configuration
// (else ErrBucketExists). What it creates is the stream that every other NATS client would create
// for cfg (ADR-8), plus what the options ask for.
//
// Errors: ErrInvalidBucketName; ErrInvalidOption for a configuration that makes no sense or that
// the server does not support, and when codec is nil; ErrBucketExists, ErrPermission; and what the
// server refuses, as too little storage.
func CreateBucket[T any](ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, codec Codec[T], opts ...BucketOption) (*Bucket[T], error) {
	return bind("create bucket", cfg.Bucket, codec, func() (*wire.Bucket, error) {
		return wire.Create(ctx, js, cfg, bucketOptions(opts))
	})
}

// CreateOrUpdateBucket creates the bucket, or reconciles the configuration of one that exists:
// what cfg and the options state is applied, what they leave at zero stays as it is. (The stock
// client resets it: a history of 10 becomes 1 and the older revisions are gone.) Metadata that
// is stated replaces the bucket's, except for the server's own.
//
// Errors: as CreateBucket but for ErrBucketExists, and a change that the server does not allow, as
// of the storage.
func CreateOrUpdateBucket[T any](ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, codec Codec[T], opts ...BucketOption) (*Bucket[T], error) {
	return bind("update bucket", cfg.Bucket, codec, func() (*wire.Bucket, error) {
		return wire.CreateOrUpdate(ctx, js, cfg, bucketOptions(opts))
	})
}

// OpenBucket binds to an existing bucket, made by any client. A mirror reads its own copy and
// sends writes to its origin; a bucket of another JetStream domain is reached through a
// JetStream made for that domain. One request, two for a mirror. Many handles on one bucket may be
// opened; each reads its own writes.
//
// Errors: ErrBucketNotFound, ErrInvalidBucketName, ErrPermission, ErrInvalidOption when codec is
// nil, ErrTransactionsDisabled with WithTransactions, jetstream.ErrBadBucket for a stream that is no
// bucket.
func OpenBucket[T any](ctx context.Context, js jetstream.JetStream, bucket string, codec Codec[T], opts ...BucketOption) (*Bucket[T], error) {
	return bind("open bucket", bucket, codec, func() (*wire.Bucket, error) {
		return wire.Open(ctx, js, bucket, bucketOptions(opts))
	})
}

func bind[T any](op, bucket string, codec Codec[T], open func() (*wire.Bucket, error)) (*Bucket[T], error) {
	if codec == nil {
		return nil, failed(op, bucket, "", fmt.Errorf("%w: there is no codec", ErrInvalidOption))
	}
	core, err := open()
	if err != nil {
		return nil, failed(op, bucket, "", err)
	}
	return &Bucket[T]{core: core, codec: codec}, nil
}

// DeleteBucket deletes a bucket with all its keys, for good. Watchers of it end with
// ErrBucketNotFound, caches become empty. Errors: ErrBucketNotFound, ErrInvalidBucketName,
// ErrPermission.
func DeleteBucket(ctx context.Context, js jetstream.JetStream, bucket string) error {
	return failed("delete bucket", bucket, "", wire.Delete(ctx, js, bucket))
}

// BucketNames yields the names of all buckets of the account, mirrors included, in no order that is
// promised. It asks for a page of names at a time: one that is made or deleted meanwhile may be in
// it or not. An error (ErrPermission, the context's, a timeout) is the last pair.
func BucketNames(ctx context.Context, js jetstream.JetStream) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for name, err := range wire.Names(ctx, js) {
			if !yield(name, failed("list buckets", "", "", err)) {
				return
			}
		}
	}
}

// As is the same bucket seen through another value type: the handles share what they know of
// each other's writes. It panics when codec is nil.
func As[U, T any](b *Bucket[T], codec Codec[U]) *Bucket[U] {
	if codec == nil {
		panic("jskv: As with a nil codec")
	}
	return &Bucket[U]{core: b.core, codec: codec}
}

// Name returns the bucket's name, without a prefix. It asks nobody.
func (b *Bucket[T]) Name() string { return b.core.Name() }

// Status asks for the bucket's state and configuration. The concrete type is
// *jetstream.KeyValueBucketStatus. Errors: ErrBucketNotFound, ErrPermission, and the context's or a
// timeout.
func (b *Bucket[T]) Status(ctx context.Context) (jetstream.KeyValueStatus, error) {
	status, err := b.core.Status(ctx)
	return status, b.failed("status", "", err)
}

// Stream is the raw view of the stream KV_<bucket> under the bucket (ADR-8). It asks nobody.
func (b *Bucket[T]) Stream() *RawStream { return &RawStream{core: b.core} }

func (b *Bucket[T]) failed(op, key string, err error) error {
	return failed(op, b.core.Name(), key, err)
}

// Entry returns the newest revision of key, or what the options ask for. It is at least as new as
// every write that this handle has been acknowledged for (read your writes), on replicated
// buckets and through mirrors too.
//
// ErrKeyNotFound when there is none; when the key was deleted, the Entry returned beside that
// error still carries the marker's revision, time and operation. A value that does not decode
// gives a *DecodeError and the entry without it. Other errors of every read: ErrInvalidKey and
// ErrInvalidOption before anything is sent; ErrBucketNotFound, ErrPermission; the context's, or
// nats.ErrTimeout after the default timeout, when no answer came or no server has seen enough.
//
// As a rule it is one request, a direct get (ADR-31), which any server with a copy answers.
func (b *Bucket[T]) Entry(ctx context.Context, key string, opts ...ReadOption) (Entry[T], error) {
	return b.read(ctx, "get", key, opts)
}

func (b *Bucket[T]) read(ctx context.Context, op, key string, opts []ReadOption) (Entry[T], error) {
	var read wire.Read
	if err := wire.CheckKey(key); err != nil {
		return Entry[T]{}, b.failed(op, key, err)
	}
	if len(opts) > 0 {
		var err error
		if read, err = collectRead(opts); err != nil {
			return Entry[T]{}, b.failed(op, key, err)
		}
	}
	m, err := b.core.Get(ctx, key, read)
	if err != nil {
		return Entry[T]{}, b.failed(op, key, err)
	}
	e, err := b.entry(&m, false)
	if err == nil && m.Deleted() {
		err = b.failed(op, key, fmt.Errorf("%w: revision %d is a marker (%v)", ErrKeyNotFound, e.Revision, e.Operation))
	}
	return e, err
}

// Get is Entry for those who want the value alone, which is the zero value beside an error.
func (b *Bucket[T]) Get(ctx context.Context, key string, opts ...ReadOption) (T, error) {
	e, err := b.Entry(ctx, key, opts...)
	return e.Value, err
}

// Put stores value, whatever is there, and returns the revision that it made.
//
// Errors of every write: ErrInvalidKey, the codec's error, ErrInvalidOption and ErrValueTooLarge
// before anything is stored; ErrBucketNotFound, ErrBucketFull, ErrPermission; ErrOutcomeUnknown
// when no answer came.
func (b *Bucket[T]) Put(ctx context.Context, key string, value T, opts ...WriteOption) (uint64, error) {
	return b.write(ctx, "put", wire.Write{Key: key}, &value, opts)
}

// Create stores the first revision of key. It fails with ErrKeyExists when key has a live value;
// over a delete marker it succeeds. Other errors as Put.
func (b *Bucket[T]) Create(ctx context.Context, key string, value T, opts ...WriteOption) (uint64, error) {
	return b.write(ctx, "create", wire.Write{Key: key, Create: true}, &value, opts)
}

// Update stores value only when revision is the key's newest, a marker's included; else it returns a
// *RevisionError, which Is ErrRevisionMismatch and never ErrKeyExists. Revision 0 means that the
// key must have no revision at all, not even a marker. Other errors as Put.
func (b *Bucket[T]) Update(ctx context.Context, key string, value T, revision uint64, opts ...WriteOption) (uint64, error) {
	return b.write(ctx, "update", wire.Write{Key: key, Expect: true, Revision: revision}, &value, opts)
}

// Delete leaves a delete marker, whether the key was there or not, and returns its revision. Older
// revisions stay in the history. IfRevision makes it conditional. Errors as Put and Update.
func (b *Bucket[T]) Delete(ctx context.Context, key string, opts ...WriteOption) (uint64, error) {
	return b.write(ctx, "delete", wire.Write{Key: key, Op: wire.OpDelete}, nil, opts)
}

// Purge leaves a marker and drops the key's older revisions, in one step, and returns the marker's
// revision. TTL lets the marker expire, IfRevision makes it conditional. Errors as Put and Update.
func (b *Bucket[T]) Purge(ctx context.Context, key string, opts ...WriteOption) (uint64, error) {
	return b.write(ctx, "purge", wire.Write{Key: key, Op: wire.OpPurge}, nil, opts)
}

func (b *Bucket[T]) write(ctx context.Context, op string, w wire.Write, value *T, opts []WriteOption) (uint64, error) {
	err := b.prepare(&w, value, opts)
	if err != nil {
		return 0, b.failed(op, w.Key, err)
	}
	revision, err := b.core.Write(ctx, w)
	if err != nil {
		return 0, b.failed(op, w.Key, err)
	}
	return revision, nil
}

// prepare checks a write and encodes its value, before anything is sent.
func (b *Bucket[T]) prepare(w *wire.Write, value *T, opts []WriteOption) error {
	if err := wire.CheckKey(w.Key); err != nil {
		return err
	}
	if err := collectWrite(w, opts); err != nil {
		return err
	}
	if value == nil {
		return nil
	}
	data, err := b.codec.Encode(*value)
	if err != nil {
		return fmt.Errorf("the value cannot be encoded: %w", err)
	}
	w.Data = data
	return nil
}

// Modify reads key, calls fn and writes what it returns if nobody wrote in between; else it
// starts over, with jittered backoff, until ctx ends. (Each read and write has its own bound where
// ctx has none: a server that does not answer ends it.) fn may run more than once. exists is false
// when the key has no value; current then still has the revision of a marker, if there is one. It
// returns the entry that it wrote, without its time, which only a read tells.
//
// An error of fn ends it and is returned as it is, with nothing written. Other errors as Entry, but
// for ErrKeyNotFound, and Put; one of the context tells of the last conflict.
func (b *Bucket[T]) Modify(ctx context.Context, key string, fn func(current Entry[T], exists bool) (T, error), opts ...WriteOption) (Entry[T], error) {
	const op = "modify"
	w := wire.Write{Key: key, Expect: true}
	if err := b.prepare(&w, nil, opts); err != nil {
		return Entry[T]{}, b.failed(op, key, err)
	}
	var backoff wire.Backoff
	for {
		current, err := b.read(ctx, op, key, nil)
		exists := err == nil
		if !exists && !errors.Is(err, ErrKeyNotFound) {
			return Entry[T]{}, err
		}
		value, err := fn(current, exists)
		if err != nil {
			return Entry[T]{}, err
		}
		if w.Data, err = b.codec.Encode(value); err != nil {
			return Entry[T]{}, b.failed(op, key, fmt.Errorf("the value cannot be encoded: %w", err))
		}
		w.Revision = current.Revision
		revision, err := b.core.Write(ctx, w)
		if err == nil {
			return Entry[T]{Bucket: b.Name(), Key: key, Value: value, Revision: revision}, nil
		}
		if !errors.Is(err, ErrRevisionMismatch) {
			return Entry[T]{}, b.failed(op, key, err)
		}
		if waited := backoff.Wait(ctx); waited != nil {
			return Entry[T]{}, b.failed(op, key, fmt.Errorf("%w: %v", waited, err))
		}
	}
}

// PurgeDeletes removes delete markers (of TTLs that ran out too) older than olderThan and what is
// under them, and returns how many. It never touches a key that was written again meanwhile.
// 0 means every marker; less is an ErrInvalidOption. Ages are the server's: its clock gave both
// times. It reads the headers of the whole bucket, and sends a request for each marker. On an error
// (ErrBucketNotFound, ErrPermission, the context's, a timeout) the markers that were counted are
// gone.
func (b *Bucket[T]) PurgeDeletes(ctx context.Context, olderThan time.Duration) (int, error) {
	n, err := b.core.PurgeMarkers(ctx, olderThan)
	return n, b.failed("purge deletes", "", err)
}
