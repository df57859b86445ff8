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
)

// GetMany reads the newest revisions of keys, markers included, in as few round trips as the
// server allows. What one round trip reads is one consistent view.
func (b *Bucket) GetMany(ctx context.Context, keys []string) ([]Message, error) {
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return nil, err
		}
	}
	keys = slices.Clone(keys)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	var all []Message
	for chunk := range slices.Chunk(keys, mostMatches) {
		found, _, err := b.view(ctx, chunk, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// view reads the newest revisions of at most mostMatches keys at one moment, at which the server
// had come at least to what this handle was acknowledged for and to atLeast. It returns the
// sequence up to which the server had come, 0 when none of the keys was there.
func (b *Bucket) view(ctx context.Context, keys []string, atLeast uint64) (found []Message, upTo uint64, err error) {
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = b.readPrefix + key
	}
	var backoff Backoff
	for {
		seen := max(b.high.Load(), atLeast)
		found, upTo, err := b.lastOf(ctx, subjects, 0)
		switch {
		case err == nil && upTo >= seen:
			return found, upTo, nil
		case err == nil:
		case errors.Is(err, errTooManyMatches) && len(keys) > 1:
			// More bytes than the server sends at once: then in two views.
			return b.halves(ctx, keys, atLeast)
		case errors.Is(err, errNoDirect):
			return b.viewByReader(ctx, keys)
		case errors.Is(err, ErrKeyNotFound):
			if absent, err := b.absent(ctx, keys, seen); absent || err != nil {
				return nil, 0, err
			}
		default:
			return nil, 0, err
		}
		if err := backoff.Wait(ctx); err != nil {
			return nil, 0, notSeen(seen, err)
		}
	}
}

// absent confirms that none of keys is there: an answer that nothing was found does not tell how
// far its server had come.
func (b *Bucket) absent(ctx context.Context, keys []string, seen uint64) (bool, error) {
	const few = 8
	if len(keys) > few {
		found, _, err := b.viewByReader(ctx, keys)
		return err == nil && len(found) == 0, err
	}
	if has, err := b.leaderHas(ctx, seen); !has || err != nil {
		return false, err
	}
	for _, key := range keys {
		if newest, err := b.newest(ctx, key); newest != 0 || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (b *Bucket) halves(ctx context.Context, keys []string, atLeast uint64) ([]Message, uint64, error) {
	half := len(keys) / 2
	first, upTo, err := b.view(ctx, keys[:half], atLeast)
	if err != nil {
		return nil, 0, err
	}
	second, _, err := b.view(ctx, keys[half:], atLeast)
	return append(first, second...), upTo, err
}

// viewByReader reads keys one after the other: of a stream without direct gets, or to confirm
// that they are not there.
func (b *Bucket) viewByReader(ctx context.Context, keys []string) ([]Message, uint64, error) {
	newest := make(map[string]Message, len(keys))
	err := b.read(ctx, ReaderConfig{Filters: keys, Once: true}, func(m *Message) bool {
		newest[m.Key] = *m
		return true
	})
	found := make([]Message, 0, len(newest))
	for _, m := range newest {
		found = append(found, m)
	}
	return found, 0, err
}

const (
	defaultPending = 2048

	// pendingBytes bounds what is on its way to a server, which refuses more than 128 MB in front
	// of one stream.
	pendingBytes = 16 << 20
)

// Pipeline stores writes without waiting for the acknowledgement of one before the next. It is
// used by one goroutine.
type Pipeline struct {
	b       *Bucket
	ctx     context.Context
	most    int
	report  func(key string, err error)
	sub     *nats.Subscription
	acks    chan *nats.Msg
	prefix  string
	next    int
	pending map[int]sent
	bytes   int
	again   []sent         // refused for the moment
	newest  map[string]int // id of a key's newest write among those
}

type sent struct {
	id    int
	write Write
	bytes int
}

// NewPipeline starts a pipeline with at most `most` writes on their way, 0 for the default. report is
// told the outcome of each write, on the goroutine that uses the pipeline.
func (b *Bucket) NewPipeline(ctx context.Context, most int, report func(key string, err error)) (*Pipeline, error) {
	if most <= 0 {
		most = defaultPending
	}
	p := &Pipeline{
		b: b, ctx: ctx, most: most, report: report,
		acks: make(chan *nats.Msg, most), prefix: b.nc.NewInbox() + ".", pending: map[int]sent{}, newest: map[string]int{},
	}
	var err error
	p.sub, err = b.nc.ChanSubscribe(p.prefix+"*", p.acks)
	return p, err
}

// Close ends the pipeline. It reports every write whose acknowledgement has not come.
func (p *Pipeline) Close(cause error) {
	_ = p.sub.Unsubscribe() // fails on a closed connection, which has no subscriptions
	p.drain()
	for id, s := range p.pending {
		delete(p.pending, id)
		p.report(s.write.Key, fmt.Errorf("%w: %w", ErrOutcomeUnknown, cause))
	}
	for _, s := range p.again {
		p.report(s.write.Key, cause)
	}
	p.again = nil
}

// Put sends a write when there is room for it. The error is one of the whole pipeline, after
// which nothing more can be sent; a write's own goes to report.
func (p *Pipeline) Put(w Write) error {
	header, err := p.b.header(p.ctx, &w)
	if err != nil {
		p.report(w.Key, err)
		return p.ctx.Err()
	}
	size := len(w.Data) + len(w.Key)
	for len(p.pending) >= p.most || len(p.pending) > 0 && p.bytes+size > pendingBytes {
		if err := p.wait(); err != nil {
			p.report(w.Key, err)
			return err
		}
	}
	p.drain()
	if err := p.ctx.Err(); err != nil {
		p.report(w.Key, err)
		return err
	}
	if p.b.idempotent {
		w.id = rand.Text()
		header = stamped(header, w.id)
	}
	p.next++
	err = p.b.nc.PublishMsg(&nats.Msg{
		Subject: p.b.writePrefix + w.Key,
		Reply:   p.prefix + strconv.Itoa(p.next),
		Header:  header,
		Data:    w.Data,
	})
	if err != nil {
		p.report(w.Key, p.b.unanswered(err, p.b.writePrefix+w.Key))
		if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining) {
			return err
		}
		return nil
	}
	p.pending[p.next] = sent{p.next, w, size}
	p.newest[w.Key] = p.next
	p.bytes += size
	return nil
}

// Flush waits until every write has been acknowledged or refused.
func (p *Pipeline) Flush() error {
	for len(p.pending) > 0 {
		if err := p.wait(); err != nil {
			return err
		}
	}
	for len(p.again) > 0 {
		// What the server had no room for, or nobody took: one by one, slowly. A key that was
		// written again since must not get its older value back.
		s := p.again[0]
		p.again = p.again[1:]
		err := errSuperseded
		if p.newest[s.write.Key] == s.id {
			_, err = p.b.Write(p.ctx, s.write)
		}
		p.report(s.write.Key, err)
		if err := p.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
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

// wait waits for an acknowledgement.
func (p *Pipeline) wait() error {
	timeout := time.NewTimer(p.b.timeout)
	defer timeout.Stop()
	select {
	case msg := <-p.acks:
		p.take(msg)
		return nil
	case <-timeout.C:
		return p.unanswered()
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// unanswered takes back the writes of which nothing was heard, when their ids let them be sent
// again.
func (p *Pipeline) unanswered() error {
	ids := slices.Sorted(maps.Keys(p.pending))
	if err := p.b.violation(p.b.writePrefix + p.pending[ids[0]].write.Key); err != nil {
		return err
	}
	if !p.b.idempotent {
		return nats.ErrTimeout
	}
	for _, id := range ids {
		p.again = append(p.again, p.pending[id])
		p.bytes -= p.pending[id].bytes
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
		p.again = append(p.again, s)
		return
	}
	ack, err := decodeAck(msg.Data, p.b.origin.stream)
	switch {
	case err != nil:
		p.report(s.write.Key, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err))
	case ack.Error != nil && ack.Error.ErrorCode == codeTooManyRequests:
		p.again = append(p.again, s)
	case ack.Error != nil:
		p.report(s.write.Key, fromServer(ack.Error))
	default:
		p.b.acknowledged(ack.Sequence)
		if p.newest[s.write.Key] == s.id {
			delete(p.newest, s.write.Key)
		}
		p.report(s.write.Key, nil)
	}
}

var errSuperseded = errors.New("refused for the moment, and written again since")
