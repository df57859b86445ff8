package wire

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reconnect tries to make another consumer, once.
func (r *Reader) reconnect(ctx context.Context) error {
	both, cancel := r.b.uncut(ctx, r.cut)
	defer cancel()
	defer context.AfterFunc(r.life, cancel)()
	if r.losses++; r.losses > 1 && r.backoff.Wait(both) != nil {
		r.cut++
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

// uncut is the caller's ctx, for what the server is asked; but whoever calls with so little time each time
// would never get anywhere, and waits some longer, up to a bound that doubles while it is not enough. cut
// is how often it was not, one after the other. For the connection nobody has to wait longer.
func (c *Conn) uncut(ctx context.Context, cut int) (context.Context, context.CancelFunc) {
	const mostCut, doublings = 3, 2
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	end := time.Now()
	if cut >= mostCut && c.nc.IsConnected() {
		end = end.Add(firstPatience << min(cut-mostCut, doublings))
	}
	stop := whenOver(ctx, func() {
		_ = pause(longer, time.Until(end)) // ends early when that has not been needed
		cancel(errCut)
	})
	return longer, func() { cancel(nil); stop() }
}

// final reports whether err of a reader is one that waiting does not mend.
func final(err error) bool {
	return errors.Is(err, ErrBucketNotFound) || errors.Is(err, ErrBucketReplaced) || forbidden(err) || over(err)
}

// forbidden reports whether a permission is missing to which there is no other way.
func forbidden(err error) bool { return errors.Is(err, ErrPermission) && !errors.Is(err, errNarrow) }

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
	switch {
	case err == nil:
		r.attempts = 0
	case errors.Is(err, errNarrow):
		r.b.narrow.Store(true)
	}
	return err
}

// errAttemptOver ends an attempt that is worth another.
var errAttemptOver = errors.New("no answer for a while")

// errCut ends an attempt whose caller has no more time, while others may still call.
var errCut = errors.New("no time for an answer")

// errNarrow ends an attempt to make a consumer without a filter, because the user or the account is
// not allowed to. Either the server refuses it, or nobody answers although the stream was there:
// the account has not imported the subject, or a leaf node does not let it pass.
var errNarrow = errors.New("no consumer of everything")

// transient reports whether a first attempt that failed with err is worth another.
func transient(err error) bool {
	if final(err) {
		return false
	}
	var apiErr *jetstream.APIError
	return isTimeout(err) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, errNarrow) ||
		errors.As(err, &apiErr) && (apiErr.Code == serviceUnavailable || apiErr.ErrorCode == codeDuplicateInProcess || apiErr.ErrorCode == codeTooManyRequests)
}

// connect checks that the stream is the one that is being read, and makes a consumer that goes
// on behind the cursor.
func (r *Reader) connect(ctx context.Context) error {
	if err := r.b.connected(ctx); err != nil {
		return err
	}
	known := !r.created.IsZero()
	info, early, err := r.begin(ctx)
	if err != nil {
		return err
	}
	if r.cfg.onAgain != nil && (r.lost != nil || !r.snapshot || r.taken > 0) {
		r.cfg.onAgain()
		return nil
	}
	if !r.begun {
		r.begun = true
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
	for tries := 1; ; tries++ {
		if r.consumer, early = early, nil; r.consumer == nil {
			if r.consumer, err = r.b.makeConsumer(ctx, cfg, r.abandon); err != nil {
				return err
			}
		}
		if err := r.consumer.prepare(ctx, info); err != nil {
			r.disconnect(grace)
			return err
		}
		if !r.mayLag(info) {
			break
		}
		few := !r.exact() && r.consumer.pending*averageSize(info) < heldBytes
		if few || info.Config.Replicas == 1 || tries == mostPlacings {
			r.hold = true
			break
		}
		r.abandon(r.consumer.name) // the server may not know yet that it has just made it
		r.disconnect(0)
	}
	if known && !r.consumer.sure {
		// See goOn.
		if _, err := r.identify(ctx); err != nil {
			r.disconnect(grace)
			return err
		}
		r.consumer.sure = true
	}
	r.expected, r.epoch = int(r.consumer.pending), r.consumer.epoch
	if r.consumer.empty {
		r.snapshot = false
	}
	return nil
}

const (
	// heldBytes is how much a reader holds back; for more it tries to get a consumer that need not
	// be waited for, and so does one that has to be exact. The server places each at random.
	heldBytes    = 8 << 20
	mostPlacings = 32
)

// exact reports whether the snapshot may have nothing that was gone before. Holding back is not enough for
// that: a server that comes to a marker and to the purge of it in one moment delivers neither.
func (r *Reader) exact() bool { return r.cfg.Once || r.cfg.exact }

// mayLag reports whether what the consumer delivers has to be held back until it is whole. The
// server that told the target has everything up to it. Another server may come to the target only
// while it delivers: then it delivers an older revision of a key first, and the newest, which may
// be a marker, after that.
func (r *Reader) mayLag(info *jetstream.StreamInfo) bool {
	return r.snapshot && r.cfg.Start == StartLast && (r.exact() || r.cfg.SkipMarkers) && r.b.shared() &&
		(info.Cluster == nil || r.consumer.host != info.Cluster.Leader)
}

// begin identifies the stream and, where its answer does not matter for that, makes the consumer at the
// same time: a round trip less for a watcher.
func (r *Reader) begin(ctx context.Context) (*jetstream.StreamInfo, *consumer, error) {
	if r.begun && r.cfg.onAgain == nil && !(r.snapshot && r.cfg.Start == StartLast) {
		return r.goOn(ctx)
	}
	facts := r.b.facts.Load()
	if !r.created.IsZero() || r.cfg.Once || r.cfg.Start != StartLast || facts.history != 1 || r.b.shared() {
		info, err := r.identify(ctx)
		return info, nil, err
	}
	var (
		early *consumer
		made  error
		group sync.WaitGroup
	)
	group.Go(func() { early, made = r.b.makeConsumer(ctx, r.consumerConfig(), r.abandon) })
	info, err := r.identify(ctx)
	group.Wait()
	if err == nil {
		err = made
	}
	if early != nil && (err != nil || info.Config.MaxMsgsPerSubject != 1 || r.b.shared()) {
		early.close(grace)
		early = nil
	}
	return info, early, err
}

// goOn makes a consumer behind the cursor, and identifies the stream after that: in one that came before
// the consumer was made, it would leave out what the reader takes for read. What the stream had before
// does not matter here, and need not be asked for.
func (r *Reader) goOn(ctx context.Context) (*jetstream.StreamInfo, *consumer, error) {
	for again := false; ; again = true {
		c, made := r.b.makeConsumer(ctx, r.consumerConfig(), r.abandon)
		info, err := r.identify(ctx)
		switch {
		case err == nil && made == nil:
			c.sure = true
			return info, c, nil
		case err == nil && !again && (errors.Is(made, ErrBucketNotFound) || errors.Is(made, nats.ErrNoResponders)):
			continue // a server that has just started did not know it yet
		case err == nil:
			return nil, nil, made
		case made == nil:
			c.close(grace)
		}
		return nil, nil, err
	}
}

// identify asks for the stream's state and compares it with what the reader knows.
func (r *Reader) identify(ctx context.Context) (*jetstream.StreamInfo, error) {
	var backoff Backoff
	for confirmed := false; ; {
		// What is acknowledged meanwhile the answer need not have; one of another stream takes back what that cannot have acknowledged.
		asked, acknowledged := time.Now(), r.b.high()
		info, err := r.b.Info(ctx)
		least := max(r.reached, min(acknowledged, r.b.high()))
		switch {
		case errors.Is(err, ErrBucketNotFound):
			// A bucket that was deleted may be made again at once, which is another error.
			if confirmed || r.created.IsZero() || r.b.facts.Load().clustered {
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
		case info.State.LastSeq >= least:
			r.behind = time.Time{}
			r.ahead = time.Since(info.TimeStamp)
			if r.created.IsZero() {
				r.asked = asked
			}
			return info, nil
		case r.behind.IsZero():
			// A leader just elected may still be applying what its predecessor acknowledged.
			r.behind = time.Now()
		case info.Config.Mirror != nil: // which may be as late as it likes
			if info.State.LastSeq >= r.reached && r.b.nothingToMirror(ctx, info) {
				return info, nil
			}
		case time.Since(r.behind) > r.b.timeout/2:
			r.b.forget(info.State.LastSeq)
			return nil, fmt.Errorf("%w: it ends at revision %d, not %d", ErrBucketReplaced, info.State.LastSeq, least)
		}
		if err := backoff.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// nothingToMirror reports whether a mirror of a part, whose state info is, has all that its origin has for
// it: then it need not come to what this handle was acknowledged for, which is of another part.
func (b *Bucket) nothingToMirror(ctx context.Context, info *jetstream.StreamInfo) bool {
	mirror := info.Config.Mirror
	var parts []string
	if mirror.FilterSubject != "" {
		parts = append(parts, mirror.FilterSubject)
	}
	for _, transform := range mirror.SubjectTransforms {
		parts = append(parts, transform.Source)
	}
	if len(parts) == 0 || mirror.Name != b.origin.stream { // a mirror in between may have other subjects
		return false
	}
	if has, err := b.leaderHas(ctx, b.high()); !has || err != nil {
		return false
	}
	for _, part := range parts {
		_, err := b.stored(ctx, map[string]any{"seq": info.State.LastSeq + 1, "next_by_subj": part})
		if !errors.Is(err, ErrKeyNotFound) {
			return false
		}
	}
	return true
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
	switch {
	case len(r.subjects) != 1:
		cfg.FilterSubjects = r.subjects
	case r.subjects[0] == r.b.readPrefix+AllKeys && r.b.facts.Load().own && !r.b.narrow.Load():
		// It says the same, and the server compares no subjects: it saves a twentieth of its time.
		// Should the stream get other subjects, what comes from them is dropped.
		cfg.FilterSubject = AllKeys
	default:
		cfg.FilterSubject = r.subjects[0]
	}
	return cfg
}
