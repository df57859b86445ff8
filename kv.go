package jskv

import (
	"bytes"
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
// Where the context of a call has no deadline, a server that does not answer for the default
// timeout of the JetStream (5 s unless it was made with another) ends the call.
type Bucket[T any] struct {
	core  *wire.Bucket
	codec Codec[T]
}

// CreateBucket creates the bucket, or binds to it when it exists with the same configuration (else
// ErrBucketExists). What it creates is, byte for byte, the stream that other NATS clients create
// for cfg (ADR-8), plus what the options ask for; docs/interop.md names the one setting in which
// nats.js differs.
//
// Errors: ErrInvalidBucketName; ErrInvalidOption for a configuration that makes no sense or that
// the server does not support, and when codec is nil; ErrBucketExists, ErrPermission; and whatever
// else the server refuses, such as more storage than it has.
func CreateBucket[T any](ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, codec Codec[T], opts ...BucketOption) (*Bucket[T], error) {
	return bind("create bucket", cfg.Bucket, codec, func() (*wire.Bucket, error) {
		return wire.Create(ctx, js, cfg, bucketOptions(opts))
	})
}

// CreateOrUpdateBucket creates the bucket, or reconciles the configuration of one that exists: what
// cfg and the options state is applied, what they leave at zero stays as it is. (The stock client
// resets it: a history of 10 becomes 1 and the older revisions are gone, and atomic publish is
// switched off.) Metadata that cfg states replaces the bucket's, except for the server's own.
//
// The server has no conditional update: of two that change one bucket at the same time, the later may
// undo the earlier.
//
// Errors: those of CreateBucket except ErrBucketExists; the server's error for a change that it does
// not allow, such as another kind of storage; and jetstream.ErrBadBucket for a stream that is not a
// bucket, which is left as it is.
func CreateOrUpdateBucket[T any](ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig, codec Codec[T], opts ...BucketOption) (*Bucket[T], error) {
	return bind("update bucket", cfg.Bucket, codec, func() (*wire.Bucket, error) {
		return wire.CreateOrUpdate(ctx, js, cfg, bucketOptions(opts))
	})
}

// OpenBucket binds to an existing bucket, made by any client. A mirror reads its own copy and sends
// writes to its origin; a bucket of another JetStream domain is reached through a JetStream made
// for that domain. It takes one request, or two for a mirror. Many handles on one bucket may be
// open at once; each is sure to read its own writes only.
//
// Errors: ErrBucketNotFound, ErrInvalidBucketName, ErrPermission; ErrInvalidOption when codec is
// nil, and with WithFastIngest when the bucket does not accept that; ErrTransactionsDisabled with
// WithTransactions when the bucket does not accept those; jetstream.ErrBadBucket for a stream that
// is not a bucket.
func OpenBucket[T any](ctx context.Context, js jetstream.JetStream, bucket string, codec Codec[T], opts ...BucketOption) (*Bucket[T], error) {
	return bind("open bucket", bucket, codec, func() (*wire.Bucket, error) {
		return wire.Open(ctx, js, bucket, bucketOptions(opts))
	})
}

func bind[T any](op, bucket string, codec Codec[T], open func() (*wire.Bucket, error)) (*Bucket[T], error) {
	if codec == nil {
		return nil, failed(op, bucket, "", fmt.Errorf("%w: the codec is nil", ErrInvalidOption))
	}
	core, err := open()
	if err != nil {
		return nil, failed(op, bucket, "", err)
	}
	return &Bucket[T]{core: core, codec: codec}, nil
}

// DeleteBucket deletes a bucket with all its keys, for good. Its watchers end with
// ErrBucketNotFound, its caches become empty. Errors: ErrBucketNotFound, ErrInvalidBucketName,
// ErrPermission.
func DeleteBucket(ctx context.Context, js jetstream.JetStream, bucket string) error {
	return failed("delete bucket", bucket, "", wire.Delete(ctx, js, bucket))
}

// BucketNames yields the names of all buckets of the account, mirrors included, in no particular
// order. A name is all that it looks at: a stream KV_x that is no bucket is among them. It asks for
// one page of names after the other, so a bucket that is created or deleted meanwhile may or may not
// be among them; in a cluster the same goes for one that was created a moment ago. An error
// (ErrPermission, the context's, a timeout) is the last pair.
func BucketNames(ctx context.Context, js jetstream.JetStream) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for name, err := range wire.Names(ctx, js) {
			if !yield(name, failed("list buckets", "", "", err)) {
				return
			}
		}
	}
}

// As returns the same bucket seen through another value type. Both handles read what either of them
// wrote. It panics when codec is nil.
func As[U, T any](b *Bucket[T], codec Codec[U]) *Bucket[U] {
	if codec == nil {
		panic("jskv: As with a nil codec")
	}
	return &Bucket[U]{core: b.core, codec: codec}
}

// Name returns the bucket's name, without a prefix. It sends no request.
func (b *Bucket[T]) Name() string { return b.core.Name() }

// Status returns the bucket's state and configuration as the server has them now. The concrete type
// is *jetstream.KeyValueBucketStatus. Errors: ErrBucketNotFound, ErrPermission, and the context's
// or a timeout.
func (b *Bucket[T]) Status(ctx context.Context) (jetstream.KeyValueStatus, error) {
	status, err := b.core.Status(ctx)
	return status, b.failed("status of", "", err)
}

// Stream returns the raw view of the stream KV_<bucket> under the bucket (ADR-8). It sends no
// request.
func (b *Bucket[T]) Stream() *RawStream { return &RawStream{core: b.core} }

func (b *Bucket[T]) failed(op, key string, err error) error {
	return failed(op, b.core.Name(), key, err)
}

// Entry returns the newest revision of key, or what the options ask for. It is at least as new as
// every write that this handle has been acknowledged for (read your writes), on replicated buckets
// and through mirrors too.
//
// The error is ErrKeyNotFound when there is none; when the key was deleted, the Entry returned
// beside that error still carries the marker's revision, time and operation. A value that does not
// decode gives a *DecodeError, and the entry without the value. Other errors of every read:
// ErrInvalidKey and ErrInvalidOption before anything is sent; ErrBucketNotFound, ErrPermission; and
// the context's, or nats.ErrTimeout after the default timeout, when no answer came or no server had
// caught up with what the read must have seen.
//
// As a rule a read is one request, a direct get (ADR-31), which any server with a copy answers.
// Calls of several goroutines at the same time share requests.
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

// Get is Entry for those who want the value alone. Beside an error that is the zero value.
func (b *Bucket[T]) Get(ctx context.Context, key string, opts ...ReadOption) (T, error) {
	e, err := b.Entry(ctx, key, opts...)
	return e.Value, err
}

// Put stores value, whatever the key has now, and returns the revision that it made.
//
// Errors of every write: ErrInvalidKey, the codec's error, ErrInvalidOption and ErrValueTooLarge,
// with nothing stored; ErrBucketNotFound, ErrBucketFull, ErrPermission; ErrOutcomeUnknown when no
// answer came. SafeToRetry tells which of them leave no doubt.
func (b *Bucket[T]) Put(ctx context.Context, key string, value T, opts ...WriteOption) (uint64, error) {
	return b.write(ctx, "put", wire.Write{Key: key}, &value, opts)
}

// Create stores value only when key has no live value, else it fails with ErrKeyExists; over a
// delete marker it succeeds. Other errors as Put.
func (b *Bucket[T]) Create(ctx context.Context, key string, value T, opts ...WriteOption) (uint64, error) {
	return b.write(ctx, "create", wire.Write{Key: key, Create: true}, &value, opts)
}

// Update stores value only when revision is the key's newest, be that a value or a marker; else it
// returns a *RevisionError, which Is ErrRevisionMismatch and never ErrKeyExists. Revision 0 means
// that the key must have no revision at all, not even a marker. Other errors as Put.
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

// prepareKept is prepare for a write that is sent after the call which was given value has returned: what
// the codec makes of value may be the caller's own bytes, as with Bytes.
func (b *Bucket[T]) prepareKept(w *wire.Write, value *T, opts []WriteOption) error {
	err := b.prepare(w, value, opts)
	w.Data = bytes.Clone(w.Data)
	return err
}

// Modify reads key, calls fn and writes what it returns if nobody wrote in between; else it starts
// over, with jittered backoff, until ctx ends. fn may run more than once. exists is false when the
// key has no value; current then still has the revision of a marker, if there is one. Where ctx has
// no deadline, Modify tries for as long as the server answers: each read and each write has the
// default timeout.
//
// It returns the entry that it wrote. Created is the zero time in it: only a read tells the
// server's.
//
// An error of fn ends it and is returned as it is, with nothing written. Other errors are those of
// Entry, except ErrKeyNotFound, and of Put. When ctx ends after a conflict, the error is the
// context's and its text has the conflict.
func (b *Bucket[T]) Modify(ctx context.Context, key string, fn func(current Entry[T], exists bool) (T, error), opts ...WriteOption) (Entry[T], error) {
	const op = "modify"
	w := wire.Write{Key: key, Expect: true, Again: true}
	if err := b.prepare(&w, nil, opts); err != nil {
		return Entry[T]{}, b.failed(op, key, err)
	}
	var backoff wire.Backoff
	for {
		begun := time.Now()
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
		if waited := backoff.WaitConflict(ctx, time.Since(begun)); waited != nil {
			return Entry[T]{}, b.failed(op, key, fmt.Errorf("%w: %v", waited, err))
		}
	}
}

// PurgeDeletes removes the markers that are older than olderThan, with the older revisions under
// them, and returns how many markers it removed: those of Delete, of Purge and of TTLs that ran
// out. It never touches a key that was written again meanwhile. 0 means every marker; a negative
// age is an ErrInvalidOption. The server's clock alone decides what is old. Markers under a subject
// with a wildcard, which no client of buckets writes but any publisher can, stay: the server would
// purge all that it matches. PurgeDeletes reads the headers of the whole bucket, and sends one
// request for each marker. On an error (ErrBucketNotFound, ErrPermission, the context's, a timeout)
// the markers that were counted are gone.
func (b *Bucket[T]) PurgeDeletes(ctx context.Context, olderThan time.Duration) (int, error) {
	n, err := b.core.PurgeMarkers(ctx, olderThan)
	return n, b.failed("purge deletes of", "", err)
}
