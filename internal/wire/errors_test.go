package wire

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestErrorsOfTheServerGetOurNames(t *testing.T) {
	for _, test := range []struct {
		code        jetstream.ErrorCode
		description string
		want        error
	}{
		{10059, "stream not found", ErrBucketNotFound},
		{10058, "stream name already in use with a different configuration", ErrBucketExists},
		{10037, "no message found", ErrKeyNotFound},
		{10054, "message size exceeds maximum allowed", ErrValueTooLarge},
		{10165, "invalid per-message TTL", ErrInvalidOption},
		{10166, "per-message TTL is disabled", ErrInvalidOption},
		{10077, "maximum bytes exceeded", ErrBucketFull},
		{10077, "maximum messages exceeded", ErrBucketFull},
		{10077, "maximum messages per subject exceeded", nil},
		{10077, "no space left on device", nil},
		{10109, "invalid operation on sealed stream", nil},
		{10008, "JetStream system temporarily unavailable", nil},
		{0, "", nil},
	} {
		apiErr := &jetstream.APIError{Code: 400, ErrorCode: test.code, Description: test.description}
		for _, err := range []error{fromServer(apiErr), fromJetStream(fmt.Errorf("nats: %w", apiErr))} {
			var kept *jetstream.APIError
			require.ErrorAs(t, err, &kept)
			require.Equal(t, apiErr, kept, "with its code and text")
			for _, ours := range ourErrors {
				require.Equal(t, ours == test.want, errors.Is(err, ours), "%v is %v", err, ours)
			}
		}
	}
	require.NoError(t, fromServer(nil))
	require.NoError(t, fromJetStream(nil))
	require.Equal(t, context.Canceled, fromJetStream(context.Canceled))
}

var ourErrors = []error{
	ErrKeyNotFound, ErrKeyExists, ErrRevisionMismatch, ErrInvalidKey, ErrInvalidBucketName, ErrBucketNotFound, ErrBucketExists, ErrBucketReplaced,
	ErrInvalidOption, ErrWatcherStopped, ErrTransactionsDisabled, ErrTooManyOperations, ErrInvalidFilter, ErrBucketFull, ErrOutcomeUnknown,
	ErrValueTooLarge, ErrPermission, ErrWrongStream,
}

func TestAConflictTellsTheRevisionWhereTheServerDoes(t *testing.T) {
	for _, test := range []struct {
		code           jetstream.ErrorCode
		description    string
		actual         uint64
		known, refused bool
	}{
		{10071, "wrong last sequence: 7", 7, true, true},
		{10071, "wrong last sequence: 0", 0, true, true},
		{10071, "wrong last sequence: 18446744073709551615", 1<<64 - 1, true, true},
		{10071, "wrong last sequence", 0, false, true},
		{10071, "wrong last sequence: many", 0, false, true},
		{10071, "", 0, false, true},
		{10164, "wrong last sequence", 0, false, true},
		{10164, "wrong last sequence: 7", 0, false, true},
		{10077, "maximum bytes exceeded: 7", 0, false, false},
	} {
		actual, known, refused := wrongLastSequence(&jetstream.APIError{ErrorCode: test.code, Description: test.description})
		require.Equal(t, test.refused, refused, "%+v", test)
		require.Equal(t, test.known, known, "%+v", test)
		require.Equal(t, test.actual, actual, "%+v", test)
	}
}

func TestConflictsHaveWords(t *testing.T) {
	for _, test := range []struct {
		conflict Conflict
		want     string
	}{
		{Conflict{Expected: 1, Actual: 2}, "revision 1 is not the newest (2)"},
		{Conflict{Expected: 0, Actual: 2}, "the key has a revision already (2)"},
		{Conflict{Expected: 1, Actual: 0}, "revision 1 is not the newest, the key has none"},
	} {
		require.Equal(t, test.want, test.conflict.Error())
		require.ErrorIs(t, &test.conflict, ErrRevisionMismatch)
		require.NotErrorIs(t, &test.conflict, ErrKeyExists)
		require.NotErrorIs(t, &test.conflict, jetstream.ErrKeyExists)
	}
}

// That a write was not sent must be certain: who believes it may send it again.
func TestOnlyWhatIsCertainWasNeverSent(t *testing.T) {
	for _, err := range []error{
		nats.ErrNoResponders, nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrConnectionDraining, nats.ErrReconnectBufExceeded, ErrPermission,
	} {
		require.True(t, neverSent(fmt.Errorf("put: %w", err)), "%v", err)
	}
	for _, err := range []error{
		nats.ErrTimeout, context.DeadlineExceeded, context.Canceled, nats.ErrDisconnected, nats.ErrConnectionClosed, nats.ErrStaleConnection,
		errAnswerDenied, errors.New("whatever"),
	} {
		require.False(t, neverSent(fmt.Errorf("put: %w", err)), "%v", err)
	}
	require.True(t, isTimeout(fmt.Errorf("get: %w", nats.ErrTimeout)))
	require.True(t, isTimeout(fmt.Errorf("get: %w", context.DeadlineExceeded)))
	require.False(t, isTimeout(context.Canceled))
}
