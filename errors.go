package jskv

import (
	"errors"
	"fmt"
	"strings"

	"github.com/seed646b090f/jskv/internal/wire"
)

// The errors of this package, to be tested for with errors.Is. Each Is the error of package
// jetstream that means the same, where there is one. What a method returns wraps one of these
// and its cause (the server's error with its code, the error of the context), and its text
// names the operation, the bucket and the key.
var (
	// ErrKeyNotFound: the key has no revision, or its newest is a delete marker. Is
	// jetstream.ErrKeyNotFound.
	ErrKeyNotFound = wire.ErrKeyNotFound

	// ErrKeyExists: Create found a live value. Is jetstream.ErrKeyExists.
	ErrKeyExists = wire.ErrKeyExists

	// ErrRevisionMismatch: a conditional write found another revision than the one it expected.
	// The error is a *RevisionError. Is jetstream.ErrKeyRevisionMismatch, and never ErrKeyExists.
	ErrRevisionMismatch = wire.ErrRevisionMismatch

	// ErrInvalidKey: the key is empty, is longer than 3072 bytes, has an empty token, or has a
	// character other than letters, digits and -/_=. (ADR-8). Nothing was sent. Is
	// jetstream.ErrInvalidKey.
	ErrInvalidKey = wire.ErrInvalidKey

	// ErrInvalidBucketName: the name is empty, is longer than 252 bytes, or has a character other
	// than letters, digits, - and _ (ADR-8). Nothing was sent. Is jetstream.ErrInvalidBucketName.
	ErrInvalidBucketName = wire.ErrInvalidBucketName

	// ErrBucketNotFound: there is no such bucket, or no longer. Every operation on a deleted
	// bucket gives it. Is jetstream.ErrBucketNotFound.
	ErrBucketNotFound = wire.ErrBucketNotFound

	// ErrBucketExists: CreateBucket found a bucket of the name with another configuration. Is
	// jetstream.ErrBucketExists.
	ErrBucketExists = wire.ErrBucketExists

	// ErrBucketReplaced: the bucket that was being read was deleted and created again, or lost
	// revisions that had been read already. Open it and read it anew.
	ErrBucketReplaced = wire.ErrBucketReplaced

	// ErrInvalidOption: an option that makes no sense, that does not go with another or with the
	// operation, or that the bucket cannot keep. Nothing was sent, unless the server refused it.
	// Is jetstream.ErrInvalidOption.
	ErrInvalidOption = wire.ErrInvalidOption

	// ErrWatcherStopped: Stop was called on the Watcher or RawMessages that was read.
	ErrWatcherStopped = wire.ErrWatcherStopped

	// ErrTransactionsDisabled: the bucket does not accept atomic batches.
	// CreateOrUpdateBucket with WithTransactions enables them.
	ErrTransactionsDisabled = wire.ErrTransactionsDisabled

	// ErrTooManyOperations: a batch has more writes than the server allows (1000 by default), or
	// requires more keys than can be read at one moment (1024). Nothing was stored.
	ErrTooManyOperations = wire.ErrTooManyOperations

	// ErrInvalidFilter: the filter is not a NATS subject pattern over keys. That includes a wildcard
	// that is part of a token ("user.1*"), which the server would take for a mere character. Nothing
	// was sent.
	ErrInvalidFilter = wire.ErrInvalidFilter

	// ErrBucketFull: the bucket has reached MaxBytes and the server refuses the write. Where the
	// history is greater than one, it refuses overwrites, deletes and purges too; where it is one,
	// those that make the key's message larger, as a condition or a TTL does.
	ErrBucketFull = wire.ErrBucketFull

	// ErrOutcomeUnknown: the write was sent and no answer came, so it may or may not have
	// happened. The error also Is the context's, nats.ErrTimeout, or the connection's. It may
	// even happen later. WithIdempotentWrites finds out what happened wherever that can be known.
	ErrOutcomeUnknown = wire.ErrOutcomeUnknown

	// ErrValueTooLarge: the encoded value and its headers exceed MaxValueSize of the bucket or
	// the server's largest payload. Nothing was stored.
	ErrValueTooLarge = wire.ErrValueTooLarge

	// ErrPermission: no answer came, and the server reported that the user may not publish the
	// request or receive its answer; the text names the subject. Nothing was stored, unless the
	// error Is ErrOutcomeUnknown too: then the answer was what the user may not receive. Is
	// nats.ErrPermissionViolation. The server does not answer such a request but reports the
	// violation on the connection, so a read takes half a second to find it, and a write all the
	// time that it has. docs/permissions.md lists what each verb needs.
	ErrPermission = wire.ErrPermission

	// ErrWrongStream: another stream than the bucket's stored the write, because its subjects overlap
	// with the bucket's. The bucket does not have the write.
	ErrWrongStream = wire.ErrWrongStream
)

// SafeToRetry reports whether the write that failed with err was certainly not stored, so that it
// may be repeated without being applied twice. It is false for ErrOutcomeUnknown, and for nil,
// because that write was stored. For a *BulkError it speaks of the keys in Failed. It does not say
// whether the repetition will succeed.
func SafeToRetry(err error) bool {
	return err != nil && !errors.Is(err, ErrOutcomeUnknown)
}

// RevisionError says which key was at which revision. It Is ErrRevisionMismatch.
type RevisionError struct {
	Bucket, Key      string // where
	Expected, Actual uint64 // Actual is 0 when the key has no revision at all

	op string
}

// Error names the operation, the bucket, the key, and both revisions.
func (e *RevisionError) Error() string {
	return where(e.op, e.Bucket, e.Key) + ": " + wire.ConflictText(e.Expected, e.Actual)
}

// Unwrap returns ErrRevisionMismatch.
func (e *RevisionError) Unwrap() error { return ErrRevisionMismatch }

// DecodeError carries what could not be decoded. The entry beside it has everything but the
// value.
type DecodeError struct {
	Bucket, Key string // where
	Revision    uint64 // of the key
	Data        []byte // what is stored
	Err         error  // the codec's error
}

// Error names the bucket, the key and the revision, and the codec's error.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("%s: revision %d: %v", where("decode", e.Bucket, e.Key), e.Revision, e.Err)
}

// Unwrap returns the codec's error.
func (e *DecodeError) Unwrap() error { return e.Err }

// where is the beginning of every error's text: "jskv: update profiles/sue.color".
func where(op, bucket, key string) string {
	place := bucket
	if key != "" {
		place += "/" + key
	}
	return strings.TrimSuffix("jskv: "+strings.TrimLeft(op+" "+place, " "), " ")
}

// failed is err of an operation on a bucket, or on one of its keys, named. It is the one place
// that words errors.
func failed(op, bucket, key string, err error) error {
	if err == nil {
		return nil
	}
	var conflict *wire.Conflict
	if errors.As(err, &conflict) {
		return &RevisionError{Bucket: bucket, Key: key, Expected: conflict.Expected, Actual: conflict.Actual, op: op}
	}
	if errors.Is(err, ErrInvalidKey) {
		key = "" // the error itself quotes it, cut where it is long
	}
	if errors.Is(err, ErrInvalidBucketName) {
		bucket = ""
	}
	return fmt.Errorf("%s: %w", where(op, bucket, key), err)
}
