package wire

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// sentinel is an error of the library that also Is the error of package jetstream that means
// the same.
type sentinel struct {
	text string
	same error
}

func (s *sentinel) Error() string { return s.text }
func (s *sentinel) Unwrap() error { return s.same }

// The errors of the library; package jskv documents them.
var (
	ErrKeyNotFound          error = &sentinel{"key not found", jetstream.ErrKeyNotFound}
	ErrKeyExists            error = &sentinel{"key exists", jetstream.ErrKeyExists}
	ErrRevisionMismatch     error = &sentinel{"revision mismatch", jetstream.ErrKeyRevisionMismatch}
	ErrInvalidKey           error = &sentinel{"invalid key", jetstream.ErrInvalidKey}
	ErrInvalidBucketName    error = &sentinel{"invalid bucket name", jetstream.ErrInvalidBucketName}
	ErrBucketNotFound       error = &sentinel{"bucket not found", jetstream.ErrBucketNotFound}
	ErrBucketExists         error = &sentinel{"bucket exists with another configuration", jetstream.ErrBucketExists}
	ErrBucketReplaced       error = &sentinel{"bucket was replaced by another of the same name", nil}
	ErrInvalidOption        error = &sentinel{"invalid option", jetstream.ErrInvalidOption}
	ErrWatcherStopped       error = &sentinel{"reading was stopped", nil}
	ErrTransactionsDisabled error = &sentinel{"the bucket does not accept transactions, CreateOrUpdateBucket with WithTransactions enables them", nil}
	ErrTooManyOperations    error = &sentinel{"too many operations", nil}
	ErrInvalidFilter        error = &sentinel{"invalid filter", nil}
	ErrBucketFull           error = &sentinel{"bucket is full", nil}
	ErrOutcomeUnknown       error = &sentinel{"the write may or may not have happened", nil}
	ErrValueTooLarge        error = &sentinel{"value too large", nil}
	ErrPermission           error = &sentinel{"not permitted", nats.ErrPermissionViolation}
	errAnswerDenied         error = &sentinel{"not permitted to receive the answer", ErrPermission}
	ErrWrongStream          error = &sentinel{"another stream stored the write", nil}
)

// Conflict says that a key was not at the revision that a write expected. Actual is the
// revision that it was at, 0 when the key had none.
type Conflict struct {
	Expected, Actual uint64
}

func (c *Conflict) Error() string { return ConflictText(c.Expected, c.Actual) }
func (c *Conflict) Unwrap() error { return ErrRevisionMismatch }

// ConflictText is the wording of a conflict.
func ConflictText(expected, actual uint64) string {
	switch {
	case expected == 0:
		return fmt.Sprintf("the key has a revision already (%d)", actual)
	case actual == 0:
		return fmt.Sprintf("revision %d is not the newest, the key has none", expected)
	default:
		return fmt.Sprintf("revision %d is not the newest (%d)", expected, actual)
	}
}

// Error codes of the server (its errors.json) that package jetstream has no names for.
const (
	codeStreamStoreFailed  jetstream.ErrorCode = 10077
	codeStoreNotCreated    jetstream.ErrorCode = 10049
	codeNotAvailable       jetstream.ErrorCode = 10008
	codeRollupFailed       jetstream.ErrorCode = 10111
	codeDuplicateInProcess jetstream.ErrorCode = 10158
	codeMessageTTLInvalid  jetstream.ErrorCode = 10165
	codeMessageTTLDisabled jetstream.ErrorCode = 10166
	codeTooManyRequests    jetstream.ErrorCode = 10167
	codeAtomicDisabled     jetstream.ErrorCode = 10174
	codeBatchIncomplete    jetstream.ErrorCode = 10176
	codeBatchTooLarge      jetstream.ErrorCode = 10199
	codeBatchDuplicate     jetstream.ErrorCode = 10201
	codeIngestDisabled     jetstream.ErrorCode = 10205
	codeIngestUnknown      jetstream.ErrorCode = 10208
	codeBatchesInFlight    jetstream.ErrorCode = 10210

	// serviceUnavailable is the status of errors that pass: no leader, not ready.
	serviceUnavailable = 503
)

// fromServer turns an error of the server into one of ours. It is the only place that does.
// What has no name of ours comes through with its code and text.
func fromServer(apiErr *jetstream.APIError) error {
	if apiErr == nil {
		return nil
	}
	switch apiErr.ErrorCode {
	case jetstream.JSErrCodeStreamNotFound:
		return fmt.Errorf("%w: %w", ErrBucketNotFound, apiErr)
	case jetstream.JSErrCodeStreamNameInUse:
		return fmt.Errorf("%w: %w", ErrBucketExists, apiErr)
	case jetstream.JSErrCodeMessageNotFound:
		return fmt.Errorf("%w: %w", ErrKeyNotFound, apiErr)
	case jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return fmt.Errorf("%w: %w", ErrValueTooLarge, apiErr)
	case codeMessageTTLInvalid, codeMessageTTLDisabled:
		return fmt.Errorf("%w: %w", ErrInvalidOption, apiErr)
	case codeAtomicDisabled:
		return fmt.Errorf("%w: %w", ErrTransactionsDisabled, apiErr)
	case codeBatchTooLarge:
		return fmt.Errorf("%w: %w", ErrTooManyOperations, apiErr)
	case codeStreamStoreFailed:
		// The one code for whatever the store refuses; only the text tells which limit it was.
		if strings.Contains(apiErr.Description, "maximum bytes exceeded") ||
			strings.Contains(apiErr.Description, "maximum messages exceeded") {
			return fmt.Errorf("%w: %w", ErrBucketFull, apiErr)
		}
	}
	return apiErr
}

// fromJetStream does the same for an error that came through package jetstream.
func fromJetStream(err error) error {
	var apiErr *jetstream.APIError
	if errors.As(err, &apiErr) {
		if mapped := fromServer(apiErr); mapped != error(apiErr) {
			return mapped
		}
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("%w: %w", jetstream.ErrJetStreamNotEnabled, err)
	}
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return ErrBucketNotFound
	}
	return err
}

// waitedOut is err of the last attempt of a call whose context has ended meanwhile.
func waitedOut(ended, err error) error {
	if errors.Is(err, ended) {
		return err
	}
	return fmt.Errorf("%w: %w", ended, err)
}

// wrongLastSequence reports whether the server refused a write's expectation, and the
// sequence that the subject was at when the answer tells it (10071 does in its text, 10164 of
// a replicated stream does not: it may only mean that another write is in flight).
func wrongLastSequence(apiErr *jetstream.APIError) (actual uint64, known, refused bool) {
	switch apiErr.ErrorCode {
	case jetstream.JSErrCodeStreamWrongLastSequence:
		if i := strings.LastIndexByte(apiErr.Description, ' '); i >= 0 {
			if n, err := strconv.ParseUint(apiErr.Description[i+1:], 10, 64); err == nil {
				return n, true, true
			}
		}
		return 0, false, true
	case jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return 0, false, true
	}
	return 0, false, false
}

// notStored reports whether the stream's store refused a write, as a full one does. The server gives that the
// status of what passes, but it stays so until somebody makes room.
func notStored(err error) bool {
	var apiErr *jetstream.APIError
	return errors.As(err, &apiErr) && apiErr.ErrorCode == codeStreamStoreFailed
}

// isTimeout reports whether nothing came back in time.
func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
}

// neverSent reports whether err of a request means that nothing left the client or that nobody
// was there to take it.
func neverSent(err error) bool {
	if errors.Is(err, errAnswerDenied) {
		return false
	}
	for _, definite := range []error{
		nats.ErrNoResponders, nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrReconnectBufExceeded,
		nats.ErrConnectionDraining, nats.ErrConnectionReconnecting, nats.ErrHeadersNotSupported,
		nats.ErrInvalidConnection, ErrPermission,
	} {
		if errors.Is(err, definite) {
			return true
		}
	}
	return false
}
