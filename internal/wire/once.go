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
		server  = b.nc.ConnectedServerId()
		known   = b.high.Load()
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
		conflict, refused := errors.AsType[*Conflict](err)
		switch {
		case refused && lost == nil, errors.Is(err, ErrPermission) && lost == nil:
			return 0, err
		case refused && conflict.Actual <= known && (lost == nil || conflict.Actual > 0):
			return 0, err // this write would have made a later revision
		case errors.Is(err, ErrOutcomeUnknown):
			lost = err
		case refused, isTimeout(err), transient(err):
			// Refused by its own first attempt, or not sent this time.
		case lost != nil:
			return 0, fmt.Errorf("%w: %w", lost, err)
		default:
			return 0, err
		}
		if lost != nil {
			revision, found, err := b.findOut(ctx, subject, w, id, known, begun, server)
			switch {
			case found:
				return revision, nil
			case err != nil && ctx.Err() != nil:
				return 0, waitedOut(err, lost)
			case err != nil:
				return 0, fmt.Errorf("%w: %w", lost, err)
			case refused:
				return 0, conflict
			}
		}
		if waited := backoff.Wait(ctx); waited != nil {
			if lost != nil {
				return 0, waitedOut(waited, lost)
			}
			return 0, waitedOut(waited, err)
		}
	}
}

// findOut asks whether a write was stored until that is certain: sent again without being so, it might
// be stored twice.
func (b *Bucket) findOut(ctx context.Context, subject string, w *Write, id string, known uint64, begun time.Time, server string) (revision uint64, found bool, err error) {
	var backoff Backoff
	for {
		revision, found, err = b.wasStored(ctx, subject, w, id, known, begun, server)
		if err == nil || errors.Is(err, errForgotten) || !transient(err) {
			return revision, found, err
		}
		if waited := backoff.Wait(ctx); waited != nil {
			return 0, false, waited
		}
	}
}

// errForgotten says that a server does not know an id, and may have forgotten it.
var errForgotten = errors.New("the server may have forgotten the write's id")

// wasStored finds out whether the write with id, sent since begun, was stored. Without an error the
// answer is certain, unless a copy of the write is still on its way.
//
// A server that has restarted knows the ids only of what is still stored. So when it does not
// know the id, and may have restarted, the key must not have been written since begun: what was
// written may have been this write and what replaced it.
func (b *Bucket) wasStored(ctx context.Context, subject string, w *Write, id string, known uint64, begun time.Time, server string) (revision uint64, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout/2)
	defer cancel()
	if revision, found, err = b.knows(ctx, subject, id); found || err != nil {
		return revision, found, err
	}
	asked := time.Now()
	info, err := b.originInfo(ctx)
	if err != nil {
		return 0, false, err
	}
	rules := b.rules.Load()
	if !rules.clustered && b.nc.ConnectedServerId() == server && time.Since(begun) < rules.remembers {
		return 0, false, nil
	}
	newest, err := b.confirm(ctx, w.Key, 0)
	if errors.Is(err, ErrKeyNotFound) && w.TTL == 0 && rules.maxAge == 0 {
		return 0, false, nil // nor has it expired
	}
	if errors.Is(err, ErrKeyNotFound) {
		return 0, false, errForgotten
	}
	if err != nil {
		return 0, false, err
	}
	if newest.Sequence <= known || w.Expect && newest.Sequence == w.Revision {
		return 0, false, nil // this write would have made a later revision
	}
	// By the server's clock, which tells the time of what is stored.
	const margin = time.Second
	begunThere := info.TimeStamp.Add(begun.Sub(asked) - margin)
	if newest.Time.After(begunThere) {
		return 0, false, errForgotten
	}
	return 0, false, nil
}

// knows asks the server for the revision that was stored under a write's id, with a message that it
// refuses after it has looked for the id: with a rollup of a kind that there is not. (An expected
// last message id that does not hold would do on one server; replicas refuse it only when it has
// been agreed on, and then give up the stream.)
func (b *Bucket) knows(ctx context.Context, subject, id string) (revision uint64, known bool, err error) {
	const noRollup = "none"
	revision, apiErr, err := b.publish(ctx, subject, nats.Header{
		jetstream.MsgIDHeader: {id},
		jetstream.MsgRollup:   {noRollup},
	}, nil)
	switch {
	case err != nil:
		return 0, false, err
	case apiErr == nil:
		b.acknowledged(revision)
		return revision, true, nil
	case apiErr.ErrorCode != codeRollupFailed:
		return 0, false, fromServer(apiErr)
	}
	return 0, false, nil
}

// stamped is header with a message's id.
func stamped(header nats.Header, id string) nats.Header {
	if header == nil {
		header = make(nats.Header, 1)
	}
	header[jetstream.MsgIDHeader] = []string{id}
	return header
}
