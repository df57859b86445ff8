package wire

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reconnect tries to make another consumer, once.
func (r *Reader) reconnect(ctx context.Context) error {
	const mostCut = 3
	both, cancel := ctx, context.CancelFunc(nil)
	if r.cut < mostCut {
		both, cancel = context.WithCancel(ctx)
	} else {
		// Whoever calls with so little time each time would never get anywhere.
		both, cancel = context.WithTimeout(context.WithoutCancel(ctx), firstPatience)
	}
	defer cancel()
	defer context.AfterFunc(r.life, cancel)()
	if r.losses++; r.losses > 1 && r.backoff.Wait(both) != nil {
		return r.ended(ctx)
	}
	if r.cfg.Once && r.patience > 0 && time.Since(r.progress) > r.patience {
		r.fail(fmt.Errorf("no answer for %v: %w", r.patience, r.lost))
		return nil
	}
	err := r.attempt(both)
	if err == nil {
		r.cut = 0
		return nil
	}
	if ctx.Err() != nil {
		r.cut++
	}
	if ended := r.ended(ctx); ended != nil {
		return ended
	}
	if final(err) {
		r.fail(err)
		return nil
	}
	r.change(err)
	r.lost = err
	return nil
}

// final reports whether err of a reader is one that waiting does not mend.
func final(err error) bool {
	return errors.Is(err, ErrBucketNotFound) || errors.Is(err, ErrBucketReplaced) ||
		errors.Is(err, ErrPermission) || errors.Is(err, nats.ErrConnectionClosed)
}

// attempt is connect within a time that doubles with each attempt: what is asked in the moment in
// which a leader changes stays without an answer, and a large stream takes its time.
func (r *Reader) attempt(ctx context.Context) error {
	const first, doublings = firstPatience, 6
	bound := first << min(r.attempts, doublings)
	if r.cfg.Once && r.patience > 0 {
		bound = max(first, min(bound, r.patience-time.Since(r.progress)))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bound, errAttemptOver)
	defer cancel()
	r.attempts++
	err := r.connect(ctx)
	if err == nil {
		r.attempts = 0
	}
	return err
}

// errAttemptOver ends an attempt that is worth another.
var errAttemptOver = errors.New("no answer for a while")

// transient reports whether a first attempt that failed with err is worth another.
func transient(err error) bool {
	var apiErr *jetstream.APIError
	return isTimeout(err) && !errors.Is(err, ErrPermission) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) ||
		errors.As(err, &apiErr) && (apiErr.Code == serviceUnavailable || apiErr.ErrorCode == codeDuplicateInProcess || apiErr.ErrorCode == codeTooManyRequests)
}

// connect checks that the stream is the one that is being read, and makes a consumer that goes
// on behind the cursor.
func (r *Reader) connect(ctx context.Context) error {
	if err := r.b.connected(ctx); err != nil {
		return err
	}
	info, err := r.identify(ctx)
	if err != nil {
		return err
	}
	if r.cfg.onAgain != nil && (r.lost != nil || !r.snapshot) {
		r.cfg.onAgain()
		return nil
	}
	if r.created.IsZero() {
		r.created = info.Created
		r.reached = info.State.LastSeq
		r.target = info.State.LastSeq
		if r.cfg.Start == StartNew {
			// Never the server's "new": a consumer made again before the first message came
			// would begin after what was stored in between.
			r.cursor = info.State.LastSeq
			r.synced.Store(true)
		}
		if r.cfg.Once && info.State.Msgs == 0 {
			r.snapshot = false
			return nil
		}
	}
	cfg := r.consumerConfig()
	// The server puts a header in the place of a value, which costs both sides more than a small one.
	cfg.HeadersOnly = cfg.HeadersOnly || r.cfg.KeysOnly && averageSize(info) > smallMessage
	r.consumer, err = r.b.newConsumer(ctx, cfg, info, r.cfg.bulk)
	if err == nil {
		r.expected, r.epoch = int(r.consumer.pending), r.consumer.epoch
	}
	if err == nil && r.snapshot && r.cfg.Start == StartLast && (r.cfg.Unique || r.cfg.SkipMarkers) && r.b.shared() {
		// The server that told the target has it. Another may come to it only while it delivers,
		// and deliver a key before its newest revision of then, which may be a marker, and after.
		r.hold = r.hold || info.Cluster == nil || r.consumer.host != info.Cluster.Leader
	}
	if err == nil && r.consumer.empty {
		r.snapshot = false
	}
	return err
}

// identify asks for the stream's state and compares it with what the reader knows.
func (r *Reader) identify(ctx context.Context) (*jetstream.StreamInfo, error) {
	var backoff Backoff
	for confirmed := false; ; {
		info, err := r.b.Info(ctx)
		switch {
		case errors.Is(err, ErrBucketNotFound):
			// A server of a cluster that has just started may not know its streams yet; and one that
			// was deleted may be made again at once, which is another thing to tell.
			if confirmed || r.created.IsZero() && !r.b.facts.Load().clustered {
				return nil, err
			}
			if err := pause(ctx, lossCheck); err != nil {
				return nil, err
			}
			confirmed = true
		case err != nil:
			return nil, err
		case !r.created.IsZero() && !info.Created.Equal(r.created):
			return nil, ErrBucketReplaced
		case info.State.LastSeq >= max(r.reached, r.b.high.Load()):
			r.behind = time.Time{}
			return info, nil
		case r.behind.IsZero():
			// A leader just elected may still be applying what its predecessor acknowledged.
			r.behind = time.Now()
		case time.Since(r.behind) > r.b.timeout/2 && !r.b.facts.Load().mirror: // which may be as late as it likes
			r.b.forget(info.State.LastSeq)
			return nil, fmt.Errorf("%w: it ends at revision %d, not %d", ErrBucketReplaced, info.State.LastSeq, r.reached)
		}
		if err := backoff.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

func (r *Reader) consumerConfig() jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.cursor + 1,
		HeadersOnly:       r.cfg.HeadersOnly,
		InactiveThreshold: inactive,
		MemoryStorage:     true,
		Replicas:          1,
	}
	if r.snapshot && r.cfg.Start == StartLast && (r.cursor == 0 || r.b.facts.Load().history != 1) {
		// Begun anew in the middle of the snapshot it repeats what the cursor then drops; with one
		// revision a key it need not.
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverLastPerSubjectPolicy, 0
	}
	if len(r.subjects) == 1 {
		cfg.FilterSubject = r.subjects[0]
	} else {
		cfg.FilterSubjects = r.subjects
	}
	return cfg
}
