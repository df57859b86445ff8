package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of atomic batches (ADR-50).
const (
	BatchIDHeader       = "Nats-Batch-Id"
	BatchSequenceHeader = "Nats-Batch-Sequence"
	BatchCommitHeader   = "Nats-Batch-Commit"

	expectedSubjectHeader = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// Batch is a set of writes that are stored together or not at all.
type Batch struct {
	Writes []Write
	Guards []Guard

	// Last, when it is not 0, is a sequence of the bucket at which the guards are known to hold:
	// where there are more of them than writes to carry them, the bucket must not have moved on.
	Last uint64
}

// BatchConflict says which key of a batch was not at its revision.
type BatchConflict struct {
	Key string
	Conflict
}

// Unwrap returns ErrRevisionMismatch.
func (c *BatchConflict) Unwrap() error { return &c.Conflict }

// KeyError is an error of one key among several.
type KeyError struct {
	Key string
	Err error
}

// Error names the key.
func (e *KeyError) Error() string { return Quote(e.Key) + ": " + e.Err.Error() }

// Unwrap returns the key's error.
func (e *KeyError) Unwrap() error { return e.Err }

// Commit stores the batch and returns the revision of each write. A *BatchConflict names the key
// that was at another revision; a *KeyError the one that is wrong otherwise.
func (b *Bucket) Commit(ctx context.Context, batch Batch) ([]uint64, error) {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	batch, err := b.plan(batch)
	if err != nil {
		return nil, err
	}
	if err := b.overMarkers(ctx, batch.Writes); err != nil {
		return nil, err
	}
	var backoff Backoff
	for {
		revisions, err := b.commitOnce(ctx, &batch)
		if err == nil || !errors.Is(err, errBatchAgain) {
			return revisions, err
		}
		if waited := backoff.Wait(ctx); waited != nil {
			return nil, waitedOut(waited, err)
		}
	}
}

// errBatchAgain says that nothing was stored, for a reason that passes.
var errBatchAgain = errors.New("the batch was not taken")

// plan checks what the server would refuse, or store otherwise than it reads.
func (b *Bucket) plan(batch Batch) (Batch, error) {
	written := make(map[string]int, len(batch.Writes))
	writes := append([]Write(nil), batch.Writes...)
	for i := range writes {
		w := &writes[i]
		if w.Create {
			w.Expect, w.Revision = true, 0
		}
		if _, again := written[w.Key]; again {
			switch {
			case w.Expect:
				return batch, &KeyError{w.Key, fmt.Errorf("%w: a condition on a key that the batch has written already", ErrInvalidOption)}
			case w.Op == OpPurge, w.TTL != 0:
				return batch, &KeyError{w.Key, fmt.Errorf("%w: a purge or TTL on a key that the batch has written already", ErrInvalidOption)}
			}
			continue
		}
		written[w.Key] = i
	}
	var guards []Guard
	for _, g := range batch.Guards {
		i, ok := written[g.Key]
		switch {
		case !ok:
			guards = append(guards, g)
		case writes[i].Create && writes[i].Revision == 0:
			// Both hold where the revision is a marker, or none.
			writes[i].Revision, writes[i].Create = g.Revision, g.Revision != 0
		case writes[i].Expect && writes[i].Revision != g.Revision:
			return batch, &KeyError{g.Key, fmt.Errorf("%w: two conditions that cannot both hold", ErrInvalidOption)}
		default:
			// The condition belongs to the key's first write.
			writes[i].Expect, writes[i].Revision = true, g.Revision
		}
	}
	batch.Writes, batch.Guards = writes, guards
	return batch, nil
}

// commitOnce sends the batch. A single write needs none: it is a message with conditions.
func (b *Bucket) commitOnce(ctx context.Context, batch *Batch) ([]uint64, error) {
	if len(batch.Writes) == 0 {
		_, err := b.checkGuards(ctx, batch.Guards)
		return nil, err
	}
	messages, whole, err := b.messages(ctx, batch)
	if err != nil {
		return nil, err
	}
	id := rand.Text()
	if b.idempotent && len(messages) == 1 {
		stamped(messages[0].Header, id)
	}
	if len(messages) > 1 {
		for i, m := range messages {
			m.Header[BatchIDHeader] = []string{id}
			m.Header[BatchSequenceHeader] = []string{strconv.Itoa(i + 1)}
		}
		messages[len(messages)-1].Header[BatchCommitHeader] = []string{"1"}
	}
	if err := b.fits(ctx, messages); err != nil {
		return nil, err
	}
	in := b.era()
	last, apiErr, err := b.sendBatch(ctx, messages, id)
	switch {
	case err != nil:
		return nil, err
	case apiErr != nil:
		return nil, b.refused(ctx, batch, messages, whole, apiErr)
	}
	revisions := make([]uint64, len(messages))
	for i := range revisions {
		revisions[i] = last - uint64(len(messages)-1-i)
	}
	b.acknowledged(ctx, in, last)
	return revisions, nil
}

// fits checks what a server would find only when it had taken other messages of the batch, or,
// one that knows no batches, when it had stored them.
func (b *Bucket) fits(ctx context.Context, messages []*nats.Msg) error {
	rules, err := b.writeRules(ctx, false)
	if err == nil && (len(messages) > 1 && !rules.atomic || rules.tooLarge(messages) != nil) {
		rules, err = b.writeRules(ctx, true) // it may have been changed since this handle looked
	}
	if err != nil {
		return err
	}
	if len(messages) > 1 && !rules.atomic {
		return ErrTransactionsDisabled
	}
	if m := rules.tooLarge(messages); m != nil {
		return &KeyError{m.Subject[len(b.writePrefix):], fmt.Errorf("%w: %w", ErrValueTooLarge, jetstream.ErrStreamMessageExceedsMaximum)}
	}
	for _, m := range messages {
		if most := b.nc.MaxPayload(); most > 0 && payload(m) > most {
			return &KeyError{m.Subject[len(b.writePrefix):], fmt.Errorf("%w: %w", ErrValueTooLarge, nats.ErrMaxPayload)}
		}
	}
	return nil
}

// tooLarge finds a message that exceeds what the stream takes.
func (f *facts) tooLarge(messages []*nats.Msg) *nats.Msg {
	for _, m := range messages {
		if f.maxSize > 0 && payload(m) > int64(f.maxSize) {
			return m
		}
	}
	return nil
}

// payload is the size of a message's headers and data.
func payload(m *nats.Msg) int64 { return int64(m.Size() - len(m.Subject) - len(m.Reply)) }

// messages builds the batch's messages, with a condition each where there is room for one. The
// server takes one guard a message, of exact subjects: a pattern would not be safe against
// writers in flight on replicas. When there is not room for all, the whole bucket must not have
// moved.
func (b *Bucket) messages(ctx context.Context, batch *Batch) (messages []*nats.Msg, whole bool, err error) {
	messages = make([]*nats.Msg, len(batch.Writes))
	free := make([]nats.Header, 0, len(batch.Writes))
	for i := range batch.Writes {
		w := &batch.Writes[i]
		header, err := b.header(ctx, w)
		if err != nil {
			return nil, false, &KeyError{w.Key, err}
		}
		if header == nil {
			header = make(nats.Header, 4)
		}
		messages[i] = &nats.Msg{Subject: b.writePrefix + w.Key, Header: header, Data: w.Data}
		if !w.Expect {
			free = append(free, header)
		}
	}
	if len(batch.Guards) > len(free) {
		last := batch.Last
		if last == 0 || b.facts.Load().mirror {
			if last, err = b.checkGuards(ctx, batch.Guards); err != nil {
				return nil, false, err
			}
		}
		messages[0].Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(last, 10)}
		return messages, true, nil
	}
	for i, g := range batch.Guards {
		free[i][jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(g.Revision, 10)}
		free[i][expectedSubjectHeader] = []string{keySpaceOf(b.origin.stream) + g.Key}
	}
	return messages, false, nil
}

// sendBatch publishes all messages and waits for the answer to the last, which commits them.
func (b *Bucket) sendBatch(ctx context.Context, messages []*nats.Msg, id string) (uint64, *jetstream.APIError, error) {
	if b.nc.IsClosed() {
		return 0, nil, nats.ErrConnectionClosed
	}
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	if len(messages) > 1 {
		// The client's buffer may hold the beginning of a batch and nothing to end it with.
		if err := b.connected(ctx); err != nil {
			return 0, nil, err
		}
	}
	commit := messages[len(messages)-1]
	for i, m := range messages[:len(messages)-1] {
		err := ctx.Err() // a slow connection may take long for all of them
		if err == nil {
			err = b.nc.PublishMsg(m)
		}
		if err != nil {
			b.abandon(messages, i, id)
			return 0, nil, err
		}
	}
	attempt, cancel := ctx, context.CancelFunc(func() {})
	if b.idempotent {
		attempt, cancel = context.WithTimeout(ctx, attemptTimeout/2) // which leaves time to find out
	}
	defer cancel()
	sequence, apiErr, err := b.publish(attempt, commit.Subject, commit.Header, commit.Data)
	if errors.Is(err, ErrOutcomeUnknown) && b.idempotent {
		sequence, apiErr, err = b.findBatch(ctx, messages, id, err)
	}
	if err != nil {
		b.abandon(messages, len(messages), id)
	}
	return sequence, apiErr, err
}

// abandon makes the server forget the beginning of a batch, which would hold one of its 50
// places for 10 s: a gap in the sequence ends it.
func (b *Bucket) abandon(messages []*nats.Msg, sent int, id string) {
	if sent == 0 || len(messages) == 1 {
		return
	}
	subject := messages[0].Subject // which the account may publish, since the server took it
	// A connection that does not take it is gone; then the server notices in its 10 s.
	_ = b.nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{
		BatchIDHeader:       {id},
		BatchSequenceHeader: {strconv.Itoa(sent + 2)},
		BatchCommitHeader:   {"1"},
	}})
}

// findBatch finds out whether a batch was stored whose answer was lost: then, in one of its keys,
// there is a message of it.
func (b *Bucket) findBatch(ctx context.Context, messages []*nats.Msg, id string, lost error) (uint64, *jetstream.APIError, error) {
	var backoff Backoff
	for {
		for _, m := range messages {
			key := m.Subject[len(b.writePrefix):]
			found, err := b.fromLeader(ctx, key)
			if final(err) {
				return 0, nil, fmt.Errorf("%w: %w", lost, err)
			}
			if err != nil {
				continue
			}
			switch {
			case len(messages) == 1 && found.Header.Get(jetstream.MsgIDHeader) == id:
				return found.Sequence, nil, nil
			case len(messages) > 1 && found.Header.Get(BatchIDHeader) == id:
				n, err := strconv.Atoi(found.Header.Get(BatchSequenceHeader))
				if err == nil {
					return found.Sequence + uint64(len(messages)-n), nil, nil
				}
			}
		}
		if err := backoff.Wait(ctx); err != nil {
			return 0, nil, lost
		}
	}
}

// refused finds out what the server's refusal of a batch means.
func (b *Bucket) refused(ctx context.Context, batch *Batch, messages []*nats.Msg, whole bool, apiErr *jetstream.APIError) error {
	again := func() error { return fmt.Errorf("%w: %w", errBatchAgain, apiErr) }
	switch apiErr.ErrorCode {
	case codeBatchIncomplete:
		if denied := b.deniedOf(ctx, messages); denied != nil {
			return denied
		}
		return again()
	case codeBatchesInFlight, codeTooManyRequests:
		return again()
	}
	if _, _, mismatch := wrongLastSequence(apiErr); !mismatch {
		return fromServer(apiErr)
	}
	// Whoever made a view makes another, unless that would be the same again: of a mirror that keeps a
	// marker.
	moved := whole && batch.Last != 0 && !b.facts.Load().mirror
	if moved && !b.mirrored.Load() {
		return errBucketMoved
	}
	// The answer does not tell whose condition failed. On replicas it may be none: another write
	// was in flight.
	for i := range batch.Writes {
		w := &batch.Writes[i]
		if !w.Expect {
			continue
		}
		current, err := b.confirm(ctx, w.Key, 0)
		actual := current.Sequence
		switch {
		case errors.Is(err, ErrKeyNotFound):
			actual = 0
		case err != nil:
			return err
		}
		switch {
		case actual == w.Revision:
		case w.Marker && actual == 0:
			w.Revision, moved = 0, false
		case !w.Create:
			return &BatchConflict{w.Key, Conflict{w.Revision, actual}}
		case actual != 0 && !current.Deleted():
			return &KeyError{w.Key, fmt.Errorf("%w at revision %d", ErrKeyExists, actual)}
		default:
			w.Revision = actual // over a marker, or after one that has expired
		}
	}
	switch {
	case moved && len(batch.Guards) > mostMatches:
		return errBucketMoved
	case moved:
		batch.Last = 0 // a mirror told it, and may of a part do so for ever: look at the guards themselves
		return again()
	}
	for i := range batch.Guards {
		g := &batch.Guards[i]
		actual, err := b.newest(ctx, g.Key)
		if err != nil {
			return err
		}
		if !g.holds(actual) {
			return &BatchConflict{g.Key, Conflict{g.Revision, actual}}
		}
		g.Revision = actual
	}
	return again()
}

// deniedOf finds the message that the account may not publish. It begins with the one that the server
// has just reported. To ask for each of the others takes a round trip or two, and leaves time to send the
// batch again.
func (b *Bucket) deniedOf(ctx context.Context, messages []*nats.Msg) error {
	last := b.nc.LastError()
	if !errors.Is(last, nats.ErrPermissionViolation) {
		return nil
	}
	if i := slices.IndexFunc(messages, func(m *nats.Msg) bool { return b.reported(last, m.Subject) != nil }); i > 0 {
		messages = slices.Concat(messages[i:i+1], messages)
	}
	for begun, i := time.Now(), 0; i < len(messages) && ctx.Err() == nil && time.Since(begun) < reportPatience; i++ {
		m := messages[i]
		if violation := b.violation(m.Subject); violation != nil {
			return &KeyError{m.Subject[len(b.writePrefix):], violation}
		}
	}
	return nil
}

// errBucketMoved says that the bucket has moved on behind Batch.Last, although no guard has.
var errBucketMoved = errors.New("the bucket has moved on")

// Moved reports whether a commit failed only because the bucket has moved on.
func Moved(err error) bool { return errors.Is(err, errBucketMoved) }
