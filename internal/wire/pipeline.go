package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	defaultPending = 2048
	mostPending    = 1 << 16

	// pendingBytes bounds what is on its way to a server, which refuses more than 128 MB in front
	// of one stream.
	pendingBytes = 16 << 20
)

// againMark is what parts the number of a try from a write's id, in the subject of its answer.
const againMark = "-"

// Pipeline stores writes without waiting for the acknowledgement of one before the next. Writes
// of one key are stored in the order in which they were put. It is used by one goroutine.
type Pipeline struct {
	b       *Bucket
	ctx     context.Context
	most    int
	report  func(key string, err error)
	sub     *nats.Subscription
	acks    chan *nats.Msg // two a write: it may be sent again, or refused and its batch acknowledged
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

	// The highest revision that was acknowledged in an era when that was over; nil when there is none.
	over     *era
	outdated uint64

	explaining time.Time // since when it has been asked, for each write, whether that was permitted

	// What writes are sent in where the bucket takes batches, and its timer: mu is held by whoever
	// is at work on the pipeline.
	batches bool
	trusted bool // the newest answer to a write by itself was an acknowledgement
	batch   *ingest
	mu      sync.Mutex
	ticking sync.WaitGroup
}

type sent struct {
	id    int
	epoch uint64 // of the connection when it was sent
	since *era   // in which it was sent
	write Write
	bytes int
	first firstSent // with idempotent writes
	lost  bool      // it may have been stored, although nothing was heard
	tries int       // how often it was sent without an answer, which may still come
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
		acks: make(chan *nats.Msg, 2*most), prefix: b.nc.NewInbox() + ".",
		pending: map[int]sent{}, again: map[int]sent{}, acked: map[string]int{},
		batches: most >= fewestIngested && b.mayIngest(ctx),
	}
	answers := p.prefix + "*"
	if p.batches {
		answers = p.prefix + ">"
	}
	var err error
	p.sub, err = b.nc.ChanSubscribe(answers, p.acks)
	return p, err
}

// errUnfinished is why nothing more was heard of a write where whoever put it panics.
var errUnfinished = errors.New("the writing was not finished")

// Close ends the pipeline. It reports every write whose acknowledgement has not come, with cause.
func (p *Pipeline) Close(cause error) {
	if cause == nil {
		cause = errUnfinished
	}
	defer p.ticking.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conclude()
	_ = p.sub.Unsubscribe() // fails on a closed connection, which has no subscriptions
	p.drain()
	p.leave()
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
		if p.explaining.IsZero() {
			p.explaining = time.Now()
		}
		// Each takes a round trip or two, and there may be tens of thousands.
		if time.Since(p.explaining) < p.b.timeout {
			if violation := p.b.violation(p.b.writePrefix + key); neverSent(violation) {
				return violation
			}
		}
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, cause)
}

// Put sends a write when there is room for it. The error is one of the whole pipeline, after
// which nothing more can be sent; a write's own goes to report.
func (p *Pipeline) Put(w Write) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drain()
	size := len(w.Data) + len(w.Key)
	for p.crowded(size) {
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
	s := sent{id: p.next, write: w, bytes: size}
	if p.b.idempotent {
		s.first = p.b.firstSent()
	}
	p.begin(size)
	return p.send(s, p.batch != nil)
}

// crowded reports whether a write has to wait.
func (p *Pipeline) crowded(size int) bool {
	return len(p.again) > 0 || p.batch != nil && (p.batch.ended || p.batch.epoch != p.b.epoch()) ||
		len(p.pending) >= p.most || len(p.pending) > 0 && p.bytes+size > pendingBytes
}

// Flush waits until every write has been acknowledged or refused.
func (p *Pipeline) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.batch != nil && !p.batch.ended {
		if err := p.end(); err != nil {
			return err
		}
	}
	for len(p.pending) > 0 || len(p.again) > 0 || p.batch != nil {
		if err := p.step(); err != nil {
			return err
		}
	}
	if p.over != nil {
		p.b.acknowledged(p.ctx, p.over, p.outdated)
		p.outdated, p.over = 0, nil
	}
	return nil
}

// send sends a write in the batch, or by itself.
func (p *Pipeline) send(s sent, batched bool) error {
	header, err := p.b.header(p.ctx, &s.write)
	if err != nil {
		p.unsent(s, err)
		return p.ctx.Err()
	}
	if s.first.id != "" {
		header = stamped(header, s.first.id)
	}
	msg := &nats.Msg{Subject: p.b.writePrefix + s.write.Key, Header: header, Data: s.write.Data}
	s.epoch, s.since = p.b.epoch(), p.b.era()
	if batched {
		err = p.add(msg, s.id)
	} else {
		msg.Reply = p.prefix + strconv.Itoa(s.id)
		if s.tries > 0 {
			msg.Reply += againMark + strconv.Itoa(s.tries)
		}
		err = p.b.post(msg)
	}
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		p.report(s.write.Key, fmt.Errorf("%w: %w", ErrValueTooLarge, err))
		return nil
	case err != nil:
		p.unsent(s, err)
		return err
	}
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
	if err := p.hasten(); err != nil {
		return err
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
			if err := p.b.ending(); err != nil {
				return err
			}
			if time.Since(begun) >= p.b.timeout {
				return p.timedOut()
			}
			if p.b.idempotent && p.pending[p.oldestPending()].epoch != p.b.epoch() {
				return p.unanswered()
			}
			if err := p.hasten(); err != nil {
				return err
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
	if s, ok := p.pending[p.oldestPending()]; ok {
		if err := p.b.violation(p.b.writePrefix + s.write.Key); err != nil {
			return err
		}
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
		p.settle(s)
		s.lost = true
		s.tries++
		p.refused(s)
	}
	return nil
}

func (p *Pipeline) take(msg *nats.Msg) {
	if strings.HasSuffix(msg.Subject, ingestSuffix) {
		p.answered(msg)
		return
	}
	token, again, _ := strings.Cut(msg.Subject[len(p.prefix):], againMark)
	id, _ := strconv.Atoi(token) // nobody else publishes there: 0 is no id
	s, ok := p.pending[id]
	if !ok {
		return
	}
	ack, err := decodeAck(msg.Data, p.b.origin.stream)
	if tries, _ := strconv.Atoi(again); tries != s.tries && (err != nil || ack.Error != nil) {
		return // a late refusal says nothing of what was sent again since
	}
	p.settle(s)
	p.trusted = false
	if msg.Header.Get(statusHeader) == "503" {
		p.refused(s)
		return
	}
	switch {
	case err != nil:
		p.report(s.write.Key, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err))
	case ack.Error != nil && ack.Error.ErrorCode == codeTooManyRequests:
		p.refused(s)
	case ack.Error != nil && ack.Error.ErrorCode == codeDuplicateInProcess:
		s.lost = true // by what was lost before, or not, as will be known when it has been
		p.refused(s)
	case ack.Error != nil:
		p.since = time.Time{} // somebody is there, who will never take it
		p.report(s.write.Key, fromServer(ack.Error))
	case ack.Stream != p.b.origin.stream:
		p.report(s.write.Key, wrongStream(ack.Stream, p.b.origin.stream))
	default:
		p.trusted = true
		p.acknowledged(s.since, ack.Sequence)
		p.confirmed(s)
	}
}

// acknowledged notes the revision of a write that was sent in an era; of one that is over until the pipeline is
// flushed, see Bucket.acknowledged.
func (p *Pipeline) acknowledged(in *era, revision uint64) {
	in.acknowledged(revision)
	if in.over(p.b) && revision > p.outdated {
		p.outdated, p.over = revision, in
	}
}

// settle takes a write from those that are on their way.
func (p *Pipeline) settle(s sent) {
	delete(p.pending, s.id)
	p.bytes -= s.bytes
}

// confirmed reports a write that was acknowledged.
func (p *Pipeline) confirmed(s sent) {
	if len(p.again) > 0 || p.oldestPending() < s.id {
		p.acked[s.write.Key] = max(s.id, p.acked[s.write.Key])
	}
	p.since, p.tried = time.Time{}, false
	p.report(s.write.Key, nil)
}
