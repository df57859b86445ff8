package wire

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Write is one message to store: a value or a marker.
type Write struct {
	Key      string
	Data     []byte
	Op       Op
	Create   bool   // store it only when the key has no value
	Expect   bool   // store it only when Revision is the key's newest
	Revision uint64 // 0 means that the key has no revision
	Marker   bool   // Revision is one, and is as good as none, in a Batch
	TTL      time.Duration
	Again    bool // after a conflict the caller reads anew, so it need not be a true one
}

// Write stores w and returns its revision: one request. A *Conflict says that the key was not at
// the expected revision, ErrKeyExists that it has a value.
func (b *Bucket) Write(ctx context.Context, w Write) (uint64, error) {
	if w.Create {
		return b.create(ctx, w)
	}
	return b.store(ctx, w)
}

func (b *Bucket) store(ctx context.Context, w Write) (uint64, error) {
	header, err := b.header(ctx, &w)
	if err != nil {
		return 0, err
	}
	subject := b.writePrefix + w.Key
	if b.idempotent {
		return b.storeOnce(ctx, subject, header, &w)
	}
	return b.send(ctx, subject, header, &w)
}

// send publishes a write and finds out what a refusal means.
func (b *Bucket) send(ctx context.Context, subject string, header nats.Header, w *Write) (uint64, error) {
	var backoff Backoff
	for {
		in := b.era()
		revision, apiErr, err := b.publish(ctx, subject, header, w.Data)
		if err != nil {
			return 0, err
		}
		if apiErr == nil {
			b.acknowledged(ctx, in, revision)
			return revision, nil
		}
		actual, known, refused := wrongLastSequence(apiErr)
		if !refused {
			return 0, fromServer(apiErr)
		}
		if !known && w.Again && !b.idempotent {
			return 0, errMaybeMoved
		}
		if !known || actual < w.Revision && b.shared() {
			// Error 10164 does not tell whether the key has moved or another write is just in
			// flight; and a leader that was deposed may not have the expected revision yet.
			if actual, err = b.newest(ctx, w.Key); err != nil {
				return 0, err
			}
		}
		if actual != w.Revision {
			b.learned(in, actual)
			return 0, &Conflict{Expected: w.Revision, Actual: actual}
		}
		if backoff == (Backoff{}) {
			// The common case is one request, which bounds itself.
			var cancel context.CancelFunc
			ctx, cancel = b.Bound(ctx)
			defer cancel()
		}
		if err := backoff.Wait(ctx); err != nil {
			return 0, waitedOut(err, apiErr)
		}
	}
}

// errMaybeMoved is a conflict, or a write that was in flight.
var errMaybeMoved = fmt.Errorf("%w, or another write was in flight", ErrRevisionMismatch)

// newest is the sequence of a key's newest message at the leader, once that has come to what this
// handle knows; 0 when there is none.
func (b *Bucket) newest(ctx context.Context, key string) (uint64, error) {
	m, err := b.confirm(ctx, key, 0)
	if errors.Is(err, ErrKeyNotFound) {
		return 0, nil
	}
	return m.Sequence, err
}

// header builds the headers of a write, nil when it needs none. What the bucket could not keep
// is refused here, before anything is sent.
func (b *Bucket) header(ctx context.Context, w *Write) (nats.Header, error) {
	if w.Op == OpPut && !w.Expect && w.TTL == 0 {
		return nil, nil
	}
	header := make(nats.Header, 3)
	switch w.Op {
	case OpDelete:
		header[opHeader] = []string{opDelete}
	case OpPurge:
		header[opHeader] = []string{opPurge}
		header[jetstream.MsgRollup] = []string{jetstream.MsgRollupSubject}
	}
	if w.Expect {
		header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(w.Revision, 10)}
	}
	if w.TTL != 0 {
		if w.TTL < time.Second || w.TTL%time.Second != 0 {
			return nil, fmt.Errorf("%w: TTL %v must be whole seconds, at least one", ErrInvalidOption, w.TTL)
		}
		if w.Op == OpDelete {
			return nil, fmt.Errorf("%w: a TTL on Delete would bring older revisions back, use Purge", ErrInvalidOption)
		}
		f, err := b.writeRules(ctx, false)
		if err == nil && f.checkTTL(w) != nil {
			f, err = b.writeRules(ctx, true) // it may have been changed since this handle looked
		}
		if err == nil {
			err = f.checkTTL(w)
		}
		if err != nil {
			return nil, err
		}
		header[jetstream.MsgTTLHeader] = []string{strconv.FormatInt(int64(w.TTL/time.Second), 10)}
		if f.rollup || f.history != 1 {
			// When the newest revision expires the one before it would be the newest again. With
			// a history of one there is none, unless it was raised since.
			header[jetstream.MsgRollup] = []string{jetstream.MsgRollupSubject}
		}
	}
	return header, nil
}

// checkTTL reports why the bucket cannot keep w's TTL (ADR-43).
func (f *facts) checkTTL(w *Write) error {
	switch ttl := w.TTL; {
	case !f.ttls:
		return fmt.Errorf("%w: TTL: the bucket has no LimitMarkerTTL, which CreateOrUpdateBucket can set", ErrInvalidOption)
	case f.maxAge > 0 && ttl > f.maxAge:
		return fmt.Errorf("%w: TTL %v is longer than the bucket's own %v", ErrInvalidOption, ttl, f.maxAge)
	case f.history != 1 && ttl < f.markerTTL:
		return fmt.Errorf("%w: TTL %v is shorter than the bucket's LimitMarkerTTL %v, to which the server would lengthen it", ErrInvalidOption, ttl, f.markerTTL)
	}
	return nil
}

// publish sends one message and returns its revision, or the server's refusal. Any other
// error says, by wrapping ErrOutcomeUnknown or not, whether the message may have been stored.
func (b *Bucket) publish(ctx context.Context, subject string, header nats.Header, data []byte) (uint64, *jetstream.APIError, error) {
	if b.nc.IsClosed() {
		return 0, nil, nats.ErrConnectionClosed
	}
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	watched, gone := b.vigil(ctx, b.origin)
	msg, err := b.request(watched, subject, header, data)
	if e := gone(); e != nil {
		return 0, nil, e
	}
	if errors.Is(err, nats.ErrNoResponders) {
		msg, err = b.republish(ctx, subject, header, data)
	}
	if err != nil {
		return 0, nil, b.unanswered(err, subject)
	}
	ack, err := decodeAck(msg.Data, b.origin.stream)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	if ack.Error != nil {
		return 0, ack.Error, nil
	}
	if ack.Stream != b.origin.stream {
		return 0, nil, wrongStream(ack.Stream, b.origin.stream)
	}
	return ack.Sequence, nil, nil
}

func wrongStream(stored, wanted string) error {
	return fmt.Errorf("%w: %s, not %s", ErrWrongStream, Quote(stored), wanted)
}

// republish tries again when nobody was there to take a message, and finds out why while there is still
// nobody.
func (b *Bucket) republish(ctx context.Context, subject string, header nats.Header, data []byte) (*nats.Msg, error) {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	since := time.Now()
	for {
		if err := pause(ctx, noRespondersPause); err != nil {
			return nil, fmt.Errorf("%w: %w", nats.ErrNoResponders, err)
		}
		msg, err := b.request(ctx, subject, header, data)
		if !errors.Is(err, nats.ErrNoResponders) {
			return msg, err
		}
		if why := b.nobody(ctx, &since); why != nil {
			return nil, fmt.Errorf("%w: %w", why, err)
		}
	}
}

// nobody tells why nobody takes what is written since then: ErrBucketNotFound when the stream is gone. It
// returns nil when that may still change. The stream is known to be there only when somebody leads it, who
// may not have been heard of yet by the server that asks: the time in which nobody does so does not count. A
// server that has been without a leader for some 10 s tells of the stream all the same (2.15.2): it is waited on
// where ctx has a deadline.
func (b *Bucket) nobody(ctx context.Context, since *time.Time) error {
	asked := time.Now()
	info, err := b.streamInfo(ctx, b.origin)
	if err != nil {
		return err
	}
	if _, bounded := ctx.Deadline(); bounded && info.Cluster != nil && info.Cluster.Leader == "" {
		*since = time.Now()
		return nil
	}
	*since = since.Add(time.Since(asked))
	if time.Since(*since) > b.timeout {
		return jetstream.ErrNoStreamResponse
	}
	return nil
}

// unanswered tells what became of a write that got no answer.
func (b *Bucket) unanswered(err error, subject string) error {
	err = b.denied(err, subject)
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("%w: %w", ErrValueTooLarge, err)
	}
	if neverSent(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// create stores the first revision of a key, or the first after a marker.
func (b *Bucket) create(ctx context.Context, w Write) (uint64, error) {
	w.Expect, w.Revision = true, 0
	for attempt := 0; ; attempt++ {
		revision, err := b.store(ctx, w)
		var conflict *Conflict
		if !errors.As(err, &conflict) {
			return revision, err
		}
		if attempt == 0 {
			// The common case is one request, which bounds itself.
			var cancel context.CancelFunc
			ctx, cancel = b.Bound(ctx)
			defer cancel()
		}
		current, err := b.confirm(ctx, w.Key, conflict.Actual)
		switch {
		case errors.Is(err, ErrKeyNotFound):
			w.Revision = 0 // the marker has expired meanwhile
		case err != nil:
			return 0, err
		case !current.Deleted():
			return 0, fmt.Errorf("%w at revision %d", ErrKeyExists, current.Sequence)
		default:
			w.Revision = current.Sequence
		}
	}
}

// Backoff waits between attempts, longer each time and with jitter so that rivals part.
// The zero value is ready.
type Backoff struct {
	attempt int
}

// Wait waits for the next attempt or until ctx ends.
func (b *Backoff) Wait(ctx context.Context) error {
	const shortest, longest = 200 * time.Microsecond, 50 * time.Millisecond
	limit := min(shortest<<min(b.attempt, 10), longest)
	b.attempt++
	return pause(ctx, rand.N(limit)+limit/4)
}

// WaitConflict waits for the next attempt at what somebody else was faster with, or until ctx ends. An
// attempt fails when another succeeds while it lasts, so the waits are multiples of how long the last
// one took. They stop growing early: who has lost often must not wait for those who come new.
func (b *Backoff) WaitConflict(ctx context.Context, took time.Duration) error {
	const doublings, longest = 2, 50 * time.Millisecond
	limit := min(took<<min(b.attempt, doublings), longest)
	b.attempt++
	return pause(ctx, rand.N(max(limit, 1)))
}
