package wire

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// advance does one step: it connects, or pulls, or takes what the server sent. An error is one
// of ctx, of the reader's life or of Stop; failures are kept in r.failed.
func (r *Reader) advance(ctx context.Context) error {
	if r.consumer == nil {
		return r.reconnect(ctx)
	}
	if r.consumer.wants(r.snapshot) {
		if err := r.consumer.pull(r.snapshot); err != nil {
			r.interrupted(err)
			return nil
		}
	}
	msg, err := r.receive(ctx)
	if err != nil || msg == nil {
		return err
	}
	if msg.Reply == "" {
		r.status(msg)
		return nil
	}
	m := r.slot()
	sequence, err := r.b.decodeConsumed(msg, m)
	switch {
	case err != nil:
		r.interrupted(err)
	case !r.consumer.expected(sequence, m.Pending):
		r.interrupted(errors.New("messages were lost on the way"))
	case r.accept(m):
		return nil
	}
	*m = Message{}
	r.queue = r.queue[:len(r.queue)-1]
	return nil
}

// accept reports whether a message is to be handed out: it is not known already, and wanted.
func (r *Reader) accept(m *Message) bool {
	r.taken++
	if m.Sequence <= r.cursor {
		return false
	}
	r.cursor = m.Sequence
	r.reached = max(r.reached, m.Sequence)
	switch {
	case !r.cfg.Whole && len(m.Key) == len(m.Subject): // not the bucket's, see consumerConfig
		return false
	case r.cfg.SkipMarkers && m.Deleted() && !r.opening && !r.hold:
		return false
	case r.match != nil && !matchAny(r.match, m.Key):
		return false
	}
	return true
}

// status takes a message that the server sent about a pull, not from the stream.
func (r *Reader) status(msg *nats.Msg) {
	if r.b.epoch() != r.consumer.epoch {
		// What came before it may have been lost with the old connection.
		r.interrupted(errConnectionLost)
		return
	}
	event, position := r.consumer.status(msg)
	if event != pullLost {
		r.heard()
	}
	switch event {
	case pullEnded, pullIdle:
		if r.snapshot && r.complete(event, position) {
			r.snapshot = false
			r.consumer.skipping = false
		}
		if !r.snapshot {
			// What lies between holds nothing for this reader: one begun anew need not look.
			r.cursor = max(r.cursor, position)
			if r.cfg.onPassed != nil && r.head == len(r.queue) {
				r.cfg.onPassed(r.cursor)
			}
		}
	case pullUnsure:
		// Made anew it repeats what the cursor then drops.
		r.disconnect(0)
	case pullLost:
		r.interrupted(fmt.Errorf("the consumer is gone: %s %s", msg.Header.Get(statusHeader), msg.Header.Get("Description")))
	}
}

// receive waits for the next message of the subscription; nil when there is something else to
// do first.
func (r *Reader) receive(ctx context.Context) (*nats.Msg, error) {
	c := r.consumer
	select {
	case msg := <-c.delivery:
		c.took()
		if !r.snapshot || r.lost != nil {
			r.came(msg)
		}
		return msg, nil
	default:
		r.drained()
	}
	if !c.waiting { // or it has been since an earlier call, whose time was shorter
		c.timer.Reset(lossCheck)
		c.waiting = true
	}
	select {
	case msg := <-c.delivery:
		c.took()
		c.waiting = false
		r.came(msg)
		return msg, nil
	case drain := <-r.cfg.drains:
		r.draining = append(r.draining, drain)
		return nil, nil
	case <-c.timer.C:
		c.waiting = false
		r.check(ctx)
		return nil, nil
	case <-r.life.Done():
		return nil, cause(r.life)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// came notes that the server delivers. That is not looked at for each message of a snapshot: the clock
// would cost a twentieth of a listing.
func (r *Reader) came(msg *nats.Msg) {
	if msg.Reply != "" {
		r.heard()
	}
}

// drained tells that everything received is handed out, to who asked before that was looked at.
func (r *Reader) drained() {
	if r.head < len(r.queue) {
		return
	}
	for _, drain := range r.draining {
		close(drain)
	}
	r.draining = nil
}

// check looks whether the reader is still in touch with its consumer.
func (r *Reader) check(ctx context.Context) {
	nc, ending := r.b.nc, r.b.ending()
	switch {
	case ending != nil:
		r.fail(ending)
	case !nc.IsConnected() || r.b.epoch() != r.consumer.epoch:
		r.interrupted(errConnectionLost)
	case time.Since(r.consumer.heard) > silence:
		if violation := r.b.violation(r.consumer.next()); violation != nil {
			r.fail(violation)
			return
		}
		r.interrupted(jetstream.ErrNoHeartbeat)
	case !r.consumer.sure:
		r.confirm(ctx)
	}
}

// confirm looks, once for each consumer and when there is nothing else to do, whether it is on the
// stream whose state was asked for before it was made. On one that came in between, it would be silent
// up to the other's last sequence. Whoever asks for the bucket's state confirms all consumers that are
// there, which many watchers do for each other.
func (r *Reader) confirm(ctx context.Context) {
	seen := r.b.witness.Load()
	if seen == nil || !seen.asked.After(r.consumer.made) {
		both, cancel := r.b.uncut(ctx, r.cut)
		defer cancel()
		defer context.AfterFunc(r.life, cancel)()
		// Waiting for the answer must not keep it from noticing that there is none.
		bounded, end := context.WithTimeout(both, min(firstPatience, silence-time.Since(r.consumer.heard)))
		defer end()
		info, err := r.b.Info(bounded)
		if err != nil { // and it is asked again, unless the next check finds out why
			if ctx.Err() != nil {
				r.cut++
			}
			return
		}
		r.cut = 0
		seen = &witness{created: info.Created}
	}
	if !seen.created.Equal(r.created) {
		r.fail(ErrBucketReplaced)
		return
	}
	r.consumer.sure = true
}

func (r *Reader) heard() {
	now := time.Now()
	r.consumer.heard, r.progress = now, now
	if r.cfg.onHeard != nil {
		r.cfg.onHeard()
	}
	r.backoff, r.losses = Backoff{}, 0
	r.change(nil)
}

// interrupted gives up the consumer; the next step makes another.
func (r *Reader) interrupted(err error) {
	if r.lost == nil {
		r.progress = time.Now() // up to now it was not the server that was waited for
	}
	r.change(err)
	r.abandon(r.consumer.name)
	r.disconnect(0)
}

func (r *Reader) fail(err error) {
	r.failed = err
	r.disconnect(0)
}
