package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// storeOnce sends a write under an id, again while its answer is lost. A server that remembers
// the id answers with the revision that it made the first time.
func (b *Bucket) storeOnce(ctx context.Context, subject string, header nats.Header, w *Write) (uint64, error) {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	id := w.id
	if id == "" {
		id = rand.Text()
	}
	header = stamped(header, id)
	var (
		begun   = time.Now()
		epoch   = b.epoch()
		lost    error // why an earlier attempt may have been stored
		backoff Backoff
	)
	for {
		attempt, cancelAttempt := context.WithTimeout(ctx, attemptTimeout/2)
		revision, err := b.send(attempt, subject, header, w)
		cancelAttempt()
		if err == nil {
			return revision, nil
		}
		var conflict *Conflict
		switch {
		case errors.As(err, &conflict) && lost != nil:
			certain := !b.facts.Load().clustered && b.epoch() == epoch && time.Since(begun) < b.facts.Load().remembers
			return b.whose(ctx, subject, id, conflict, certain)
		case errors.Is(err, ErrPermission):
			return 0, err
		case errors.Is(err, ErrOutcomeUnknown):
			lost = err
		case isTimeout(err), lost != nil && transient(err):
			// Refused or not sent this time; the next attempt may tell more.
		case lost != nil:
			return 0, fmt.Errorf("%w: %w", lost, err)
		default:
			return 0, err
		}
		if waited := backoff.Wait(ctx); waited != nil {
			if lost != nil {
				return 0, waitedOut(waited, lost)
			}
			return 0, waitedOut(waited, err)
		}
	}
}

// stamped is header with a message's id.
func stamped(header nats.Header, id string) nats.Header {
	if header == nil {
		header = make(nats.Header, 1)
	}
	header[jetstream.MsgIDHeader] = []string{id}
	return header
}

// whose finds out whether a conflict of a write that was sent before is with that write itself.
// One server checks a write's expectation before its id, so the write is asked for with an
// expectation that is checked after the id and never holds. certain says that the server cannot
// have forgotten the id.
func (b *Bucket) whose(ctx context.Context, subject, id string, conflict *Conflict, certain bool) (uint64, error) {
	const never = "no message has this id"
	header := nats.Header{
		jetstream.MsgIDHeader:             {id},
		jetstream.ExpectedLastMsgIDHeader: {never},
	}
	revision, apiErr, err := b.publish(ctx, subject, header, nil)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	case apiErr == nil:
		b.acknowledged(revision)
		return revision, nil
	case apiErr.ErrorCode != codeWrongLastMsgID:
		return 0, fmt.Errorf("%w: %w", ErrOutcomeUnknown, fromServer(apiErr))
	case certain:
		return 0, conflict
	}
	return 0, fmt.Errorf("%w: %s, and the server may have forgotten the write's id", ErrOutcomeUnknown, conflict.Error())
}
