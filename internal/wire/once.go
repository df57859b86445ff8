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

// firstSent says under what id, when and where to a write was sent for the first time: what tells
// whether a server that does not know it may have forgotten it.
type firstSent struct {
	id     string
	begun  time.Time
	server string
	in     *era   // which known is of
	known  uint64 // whatever revision the write made is later
}

// firstSent is that of a write that is about to be sent.
func (b *Bucket) firstSent() firstSent {
	in := b.era()
	return firstSent{rand.Text(), time.Now(), b.nc.ConnectedServerId(), in, in.high.Load()}
}

// knownBefore is a revision that whatever a write made is later than: 0 in a stream that has replaced the
// one of which more was known, whose revisions begin anew.
func (b *Bucket) knownBefore(first firstSent) uint64 {
	if b.era() != first.in {
		return 0
	}
	return first.known
}

// storeOnce sends a write under an id, again and again until an answer comes. A server that
// remembers the id answers with the revision that it made the first time.
func (b *Bucket) storeOnce(ctx context.Context, subject string, header nats.Header, w *Write) (uint64, error) {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	first := b.firstSent()
	header = stamped(header, first.id)
	var (
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
		case lost == nil && (refused || notStored(err) || errors.Is(err, ErrPermission)):
			return 0, err
		case refused && conflict.Actual <= b.knownBefore(first) && (lost == nil || conflict.Actual > 0):
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
			revision, found, err := b.findOut(ctx, subject, w, first)
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
func (b *Bucket) findOut(ctx context.Context, subject string, w *Write, first firstSent) (revision uint64, found bool, err error) {
	var backoff Backoff
	for {
		revision, found, err = b.wasStored(ctx, subject, w, first)
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

// wasStored finds out whether a write was stored. Without an error the answer is certain, unless a
// copy of the write is still on its way.
func (b *Bucket) wasStored(ctx context.Context, subject string, w *Write, first firstSent) (revision uint64, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout/2)
	defer cancel()
	if revision, found, err = b.knows(ctx, subject, first.id); found || err != nil {
		return revision, found, err
	}
	return 0, false, b.forgotten(ctx, w, first)
}

// forgotten returns errForgotten when a server that does not know a write's id may have forgotten it,
// and nil when the write was not stored.
//
// A server that has restarted knows the ids only of what is still stored. So when it does not
// know the id, and may have restarted, the key must not have been written since the write was sent
// first: what was written may have been this write and what replaced it.
func (b *Bucket) forgotten(ctx context.Context, w *Write, first firstSent) error {
	info, err := b.originInfo(ctx)
	if err != nil {
		return err
	}
	begun := info.TimeStamp.Add(-time.Since(first.begun)) // by the server's clock, or earlier
	if b.remembers(info, first, begun) {
		return nil
	}
	newest, err := b.confirm(ctx, w.Key, 0)
	if errors.Is(err, ErrKeyNotFound) {
		return b.purged(ctx, first)
	}
	if err != nil {
		return err
	}
	if newest.Sequence <= b.knownBefore(first) || w.Expect && newest.Sequence == w.Revision {
		return nil // this write would have made a later revision
	}
	const margin = time.Second // between the clocks of servers that led one after the other
	if newest.Time.After(begun.Add(-margin)) {
		return errForgotten
	}
	return nil
}

// remembers reports whether the server that told info would know a write's id if the write had been
// stored: it has led its replicas since before the write was begun, which was at begun by its clock, or
// it is alone and the one that the write was sent to.
func (b *Bucket) remembers(info *jetstream.StreamInfo, first firstSent, begun time.Time) bool {
	if info.Cluster == nil || time.Since(first.begun) >= info.Config.Duplicates {
		return false
	}
	if info.Cluster.Name != "" {
		since := info.Cluster.LeaderSince
		return since != nil && since.Before(begun)
	}
	return b.nc.ConnectedServerId() == first.server && b.connectedTo(info.Cluster.Leader)
}

// purged is forgotten for a key that is not there: if the write was stored, it has been removed
// since without a trace. That is ruled out only where the bucket still has every revision that was
// stored since.
func (b *Bucket) purged(ctx context.Context, first firstSent) error {
	info, err := b.originInfo(ctx) // of after the key was seen not to be there
	if err != nil {
		return err
	}
	known := b.knownBefore(first)
	missing := info.State.NumDeleted > 0 || info.State.FirstSeq > known+1
	if missing && info.State.LastSeq > known {
		return errForgotten
	}
	return nil
}

// knows asks the server for the revision that was stored under a write's id, with a message that it
// refuses after it has looked for the id: with a rollup of a kind that there is not. (An expected
// last message id that does not hold would do on one server; replicas refuse it only when it has
// been agreed on, and then give up the stream.)
func (b *Bucket) knows(ctx context.Context, subject, id string) (revision uint64, known bool, err error) {
	const noRollup = "none"
	in := b.era()
	revision, apiErr, err := b.publish(ctx, subject, nats.Header{
		jetstream.MsgIDHeader: {id},
		jetstream.MsgRollup:   {noRollup},
	}, nil)
	switch {
	case err != nil:
		return 0, false, err
	case apiErr == nil:
		b.acknowledged(ctx, in, revision)
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
