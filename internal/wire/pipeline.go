package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	defaultPending = 2048
	mostPending    = 1 << 16

	// pendingBytes bounds what is on its way to a server, which refuses more than 128 MB in front
	// of one stream.
	pendingBytes = 16 << 20
)

// Pipeline stores writes without waiting for the acknowledgement of one before the next. Writes
// of one key are stored in the order in which they were put. It is used by one goroutine.
type Pipeline struct {
	b       *Bucket
	ctx     context.Context
	most    int
	report  func(key string, err error)
	sub     *nats.Subscription
	acks    chan *nats.Msg
	prefix  string
	next    int
	oldest  int // no older write is pending
	pending map[int]sent
	bytes   int

	// What was refused for the moment, to be sent again, and since when; and the newest write of
	// each key that was acknowledged before an older one of any.
	again map[int]sent
	since time.Time
	acked map[string]int
	tried bool // what was unanswered for the whole timeout has been sent again
}

type sent struct {
	id    int
	epoch uint64 // of the connection when it was sent
	write Write
	bytes int
	lost  bool // it may have been stored, although nothing was heard
}

// NewPipeline starts a pipeline with at most `most` writes on their way, 0 for the default. report
// is told the outcome of each write, on the goroutine that uses the pipeline.
func (b *Bucket) NewPipeline(ctx context.Context, most int, report func(key string, err error)) (*Pipeline, error) {
	if most <= 0 {
		most = defaultPending
	}
	most = min(most, mostPending)
	p := &Pipeline{
		b: b, ctx: ctx, most: most, report: report,
		acks: make(chan *nats.Msg, most), prefix: b.nc.NewInbox() + ".",
		pending: map[int]sent{}, again: map[int]sent{}, acked: map[string]int{},
	}
	var err error
	p.sub, err = b.nc.ChanSubscribe(p.prefix+"*", p.acks)
	return p, err
}

// Close ends the pipeline. It reports every write whose acknowledgement has not come, with cause.
func (p *Pipeline) Close(cause error) {
	_ = p.sub.Unsubscribe() // fails on a closed connection, which has no subscriptions
	p.drain()
	for _, id := range slices.Sorted(maps.Keys(p.again)) {
		p.unsent(p.again[id], cause)
	}
	for _, id := range slices.Sorted(maps.Keys(p.pending)) {
		p.report(p.pending[id].write.Key, p.outcome(p.pending[id].write.Key, cause))
	}
	clear(p.again)
	clear(p.pending)
}

// unsent reports a write that was not sent, or not again.
func (p *Pipeline) unsent(s sent, err error) {
	if s.lost {
		err = p.outcome(s.write.Key, err)
	}
	p.report(s.write.Key, err)
}

// outcome is the error of a write that was sent and not acknowledged.
func (p *Pipeline) outcome(key string, cause error) error {
	if errors.Is(cause, ErrPermission) {
		if violation := p.b.violation(p.b.writePrefix + key); neverSent(violation) {
			return violation
		}
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, cause)
}

// Put sends a write when there is room for it. The error is one of the whole pipeline, after
// which nothing more can be sent; a write's own goes to report.
func (p *Pipeline) Put(w Write) error {
	p.drain()
	size := len(w.Data) + len(w.Key)
	for len(p.again) > 0 || len(p.pending) >= p.most || len(p.pending) > 0 && p.bytes+size > pendingBytes {
		if err := p.step(); err != nil {
			p.report(w.Key, err)
			return err
		}
	}
	if err := p.ctx.Err(); err != nil {
		p.report(w.Key, err)
		return err
	}
	p.next++
	if p.b.idempotent {
		w.id = rand.Text()
	}
	return p.send(sent{id: p.next, write: w, bytes: size})
}

// Flush waits until every write has been acknowledged or refused.
func (p *Pipeline) Flush() error {
	for len(p.pending) > 0 || len(p.again) > 0 {
		if err := p.step(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pipeline) send(s sent) error {
	header, err := p.b.header(p.ctx, &s.write)
	if err != nil {
		p.unsent(s, err)
		return p.ctx.Err()
	}
	if s.write.id != "" {
		header = stamped(header, s.write.id)
	}
	err = p.b.nc.PublishMsg(&nats.Msg{
		Subject: p.b.writePrefix + s.write.Key,
		Reply:   p.prefix + strconv.Itoa(s.id),
		Header:  header,
		Data:    s.write.Data,
	})
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		p.report(s.write.Key, fmt.Errorf("%w: %w", ErrValueTooLarge, err))
		return nil
	case err != nil:
		p.unsent(s, err)
		return err
	}
	s.epoch = p.b.epoch()
	p.pending[s.id] = s
	p.oldest = min(p.oldest, s.id)
	p.bytes += s.bytes
	return nil
}

// step waits for an acknowledgement, or once none is to come sends again what was refused.
func (p *Pipeline) step() error {
	if len(p.pending) == 0 && len(p.again) > 0 {
		return p.resend()
	}
	begun := time.Now()
	check := time.NewTimer(lossCheck)
	defer check.Stop()
	for {
		select {
		case msg := <-p.acks:
			p.take(msg)
			return nil
		case <-check.C:
			if p.b.nc.IsClosed() {
				return nats.ErrConnectionClosed
			}
			if time.Since(begun) >= p.b.timeout {
				return p.timedOut()
			}
			if p.b.idempotent && p.pending[p.oldestPending()].epoch != p.b.epoch() {
				return p.unanswered()
			}
			check.Reset(lossCheck)
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
}

// oldestPending is the id of the oldest write that is pending, or of the next when none is.
func (p *Pipeline) oldestPending() int {
	for p.oldest <= p.next {
		if _, ok := p.pending[p.oldest]; ok {
			break
		}
		p.oldest++
	}
	return p.oldest
}

// resend sends again, in order, what the server had no room for or nobody took. A key that has
// been written since must not get its older value back.
func (p *Pipeline) resend() error {
	if err := p.b.gone(p.ctx, p.b.origin); err != nil {
		return err
	}
	if !p.since.IsZero() && time.Since(p.since) > p.b.timeout {
		return jetstream.ErrNoStreamResponse
	}
	if err := pause(p.ctx, noRespondersPause); err != nil {
		return err
	}
	stored, err := p.storedUnheard()
	switch {
	case err != nil && transient(err):
		return p.ctx.Err() // another step asks again
	case err != nil:
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(p.again)) {
		s := p.again[id]
		delete(p.again, id) // what an error leaves is reported when the pipeline is closed
		if max(p.acked[s.write.Key], stored[s.write.Key]) > id {
			p.report(s.write.Key, nil) // it would have been replaced by now
			continue
		}
		if err := p.send(s); err != nil {
			return err
		}
	}
	if len(p.pending) == 0 {
		clear(p.acked)
	}
	return nil
}

// storedUnheard finds, of each key with several writes that are to be sent again, the newest that was
// stored although nothing was heard: one before it, sent again, would be stored behind it.
func (p *Pipeline) storedUnheard() (map[string]int, error) {
	byKey := map[string][]int{}
	for _, id := range slices.Sorted(maps.Keys(p.again)) {
		key := p.again[id].write.Key
		byKey[key] = append(byKey[key], id)
	}
	stored := map[string]int{}
	for key, ids := range byKey {
		for _, id := range slices.Backward(ids[1:]) {
			if !p.again[id].lost {
				continue
			}
			_, known, err := p.b.knows(p.ctx, p.b.writePrefix+key, p.again[id].write.id)
			if err != nil {
				return nil, err
			}
			if known {
				stored[key] = id
				break
			}
		}
	}
	return stored, nil
}

// refused keeps a write to be sent again.
func (p *Pipeline) refused(s sent) {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	p.again[s.id] = s
}

// drain takes the acknowledgements that have come.
func (p *Pipeline) drain() {
	for {
		select {
		case msg := <-p.acks:
			p.take(msg)
		default:
			return
		}
	}
}

// timedOut ends the pipeline when nothing is heard. Writes with ids are sent again, once.
func (p *Pipeline) timedOut() error {
	if err := p.b.violation(p.b.writePrefix + p.pending[p.oldestPending()].write.Key); err != nil {
		return err
	}
	if !p.b.idempotent || p.tried {
		return nats.ErrTimeout
	}
	p.tried, p.since = true, time.Now()
	return p.unanswered()
}

// unanswered takes back the writes of which nothing was heard; their ids let them be sent again.
func (p *Pipeline) unanswered() error {
	for _, id := range slices.Sorted(maps.Keys(p.pending)) {
		s := p.pending[id]
		s.lost = true
		p.refused(s)
		p.bytes -= s.bytes
		delete(p.pending, id)
	}
	return nil
}

func (p *Pipeline) take(msg *nats.Msg) {
	id, _ := strconv.Atoi(msg.Subject[len(p.prefix):]) // nobody else publishes there: 0 is no id
	s, ok := p.pending[id]
	if !ok {
		return
	}
	delete(p.pending, id)
	p.bytes -= s.bytes
	if msg.Header.Get(statusHeader) == "503" {
		p.refused(s)
		return
	}
	ack, err := decodeAck(msg.Data, p.b.origin.stream)
	switch {
	case err != nil:
		p.report(s.write.Key, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err))
	case ack.Error != nil && ack.Error.ErrorCode == codeTooManyRequests:
		p.refused(s)
	case ack.Error != nil:
		p.report(s.write.Key, fromServer(ack.Error))
	case ack.Stream != p.b.origin.stream:
		p.report(s.write.Key, wrongStream(ack.Stream, p.b.origin.stream))
	default:
		if len(p.again) > 0 || p.oldestPending() < s.id {
			p.acked[s.write.Key] = max(s.id, p.acked[s.write.Key])
		}
		p.since, p.tried = time.Time{}, false
		p.b.acknowledged(ack.Sequence)
		p.report(s.write.Key, nil)
	}
}
