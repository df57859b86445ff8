package wire

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// A server acknowledges so many writes together, or fewer when they are larger than that: on a
	// slow connection it must not take long until something is heard.
	ingestFlow  = 500
	ingestBytes = 256 << 10

	// fewestIngested is the number of writes that must be allowed on their way for batches to be
	// worth it.
	fewestIngested = 8

	// ingestTick is how long a batch waits for enough writes to be acknowledged, while the sequence
	// is at work. A server forgets a batch after ten seconds without a message.
	ingestTick = 250 * time.Millisecond
)

// What a message does to a batch, in its reply subject.
const (
	ingestStart  = 0
	ingestAppend = 1
	ingestEnd    = 3 // stores nothing itself

	ingestSuffix = ".$FI"
)

// ingest is a batch of fast ingest (ADR-50). The server stores its writes as they come, and says so
// by the hundred. With the first that it does not store the batch ends, and it tells the number
// of those before: what is stored is always the beginning of the batch.
type ingest struct {
	prefix string // of the replies to its messages
	flow   int
	begun  uint64 // the connection's epoch
	epoch  uint64 // when the batch was begun, or its end last asked for
	in     *era   // in which it was begun

	ids   []int // of the writes that are not acknowledged
	acked int   // how many are
	sent  int
	every int // the number that the server acknowledges together, 0 until it has begun the batch

	subject string    // of its newest write
	ended   bool      // nothing more can be added
	asked   bool      // for the number that are stored
	since   time.Time // when nobody took that question
	missing int       // the first write that nobody took, or that was refused

	ticked int // how many were sent at the last tick
	timer  *time.Timer
}

// ingests reports whether writes may go in batches. Their acknowledgements have no revision, which
// reads of replicas and mirrors need; the subjects of another domain do not keep the reply; and
// what is known of a batch that was given up depends on there being one server only.
func (b *Bucket) ingests() bool {
	rules := b.rules.Load()
	return rules != nil && rules.batched && !b.idempotent && !b.shared() && b.connectedTo(rules.leader)
}

// mayIngest is ingests for a handle that may not know yet which server the bucket is on: the answer
// to its making does not say so.
func (b *Bucket) mayIngest(ctx context.Context) bool {
	if rules := b.rules.Load(); rules == nil || !rules.batched {
		return false
	} else if rules.leader == "" {
		if _, err := b.originInfo(ctx); err != nil {
			return false // what is wrong is for the writes to find out
		}
	}
	return b.ingests()
}

// begin begins a batch when the server has just taken a write by itself: then the stream is there,
// and the right one. size is that of the batch's first write.
func (p *Pipeline) begin(size int) {
	if !p.batches || !p.trusted || p.batch != nil || !p.b.ingests() {
		return
	}
	average := (p.bytes+size)/(len(p.pending)+1) + 1
	g := &ingest{flow: max(min(p.most/4, ingestFlow, ingestBytes/average), 1), begun: p.b.epoch(), in: p.b.era()}
	g.epoch = g.begun
	g.prefix = fmt.Sprintf("%s%s.%d.fail.", p.prefix, rand.Text(), g.flow)
	p.batch = g
	p.arm(g)
}

// arm has the batch looked at in a while.
func (p *Pipeline) arm(g *ingest) {
	p.ticking.Add(1)
	g.timer = time.AfterFunc(ingestTick, func() {
		defer p.ticking.Done()
		p.tick(g)
	})
}

// tick ends a batch that gets its writes too slowly to be acknowledged soon, or to be kept. It runs
// while the pipeline's user does something else.
func (p *Pipeline) tick(g *ingest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.batch != g || g.ended:
	case g.sent-g.ticked < g.flow:
		_ = p.end() // asked again by whoever waits for the answer
	default:
		g.ticked = g.sent
		p.arm(g)
	}
}

// leave forgets the batch.
func (p *Pipeline) leave() {
	if g := p.batch; g != nil && g.timer.Stop() {
		p.ticking.Done()
	}
	p.batch = nil
}

// add sends a write in the batch.
func (p *Pipeline) add(msg *nats.Msg, id int) error {
	g := p.batch
	op := ingestAppend
	if g.sent == 0 {
		op = ingestStart
	}
	msg.Reply = g.reply(g.sent+1, op)
	if err := p.b.post(msg); err != nil {
		if g.sent == 0 {
			p.leave()
		}
		return err
	}
	g.sent++
	g.subject = msg.Subject
	g.ids = append(g.ids, id)
	return nil
}

func (g *ingest) reply(seq, op int) string {
	return g.prefix + strconv.Itoa(seq) + "." + strconv.Itoa(op) + ingestSuffix
}

// end closes the batch: the server answers with the number of writes that it has stored.
func (p *Pipeline) end() error {
	g := p.batch
	g.ended, g.asked = true, false
	g.epoch = p.b.epoch()
	err := p.b.post(&nats.Msg{Subject: g.subject, Reply: g.reply(g.sent+1, ingestEnd)})
	g.asked = err == nil
	return err
}

// conclude ends the batch when the pipeline is closed, so that it is not left to the server for ten
// seconds, and waits a moment for what it has stored.
func (p *Pipeline) conclude() {
	if p.batch == nil || !p.b.nc.IsConnected() || !p.batch.ended && p.end() != nil {
		return
	}
	patience := time.NewTimer(lossCheck)
	defer patience.Stop()
	for p.batch != nil {
		select {
		case msg := <-p.acks:
			p.take(msg)
		case <-patience.C:
			return
		}
	}
}

// hasten sees to it that an answer to the batch is on its way.
func (p *Pipeline) hasten() error {
	g := p.batch
	if g == nil {
		return nil
	}
	if g.ended && !g.asked && !g.since.IsZero() {
		if err := p.nobody(&g.since); err != nil {
			return err
		}
		return p.end()
	}
	soon := g.asked || !g.ended && (g.every == 0 || g.sent-g.acked >= g.every)
	if soon && g.epoch == p.b.epoch() {
		return nil
	}
	return p.end()
}

// ingestAnswer is whatever a server says of a batch.
type ingestAnswer struct {
	Type     string              `json:"type"`
	Stream   string              `json:"stream"`
	Sequence uint64              `json:"seq"` // of the batch, and when it has ended of the stream
	Every    int                 `json:"msgs"`
	Count    int                 `json:"count"`
	Error    *jetstream.APIError `json:"error"`
}

// answered takes an answer to the batch. One to an earlier batch tells nothing any more.
func (p *Pipeline) answered(msg *nats.Msg) {
	g := p.batch
	if g == nil || !strings.HasPrefix(msg.Subject, g.prefix) {
		return
	}
	digits, _, _ := strings.Cut(msg.Subject[len(g.prefix):], ".")
	seq, _ := strconv.Atoi(digits) // nobody else publishes there
	if msg.Header.Get(statusHeader) == "503" {
		p.untaken(seq)
		return
	}
	var a ingestAnswer
	if err := json.Unmarshal(msg.Data, &a); err != nil {
		p.abandon(g.sent, fmt.Errorf("%w: %w", jetstream.ErrInvalidJSAck, err))
		return
	}
	g.since = time.Time{}
	switch {
	case a.Type == "ack":
		g.every = a.Every
		p.confirm(int(a.Sequence))
	case a.Type != "":
		g.ended, g.asked = true, true // the number of those stored comes next
	case a.Error != nil:
		p.broken(seq, a.Error)
	case a.Stream != p.b.origin.stream:
		p.abandon(g.sent, wrongStream(a.Stream, p.b.origin.stream))
	default:
		p.acknowledged(g.in, a.Sequence)
		p.resolve(a.Count)
	}
}

// confirm reports the first n writes of the batch as stored, but for one that was refused: the server
// counts it, too, when that was for a limit which others had come up to in the same moment.
func (p *Pipeline) confirm(n int) {
	g := p.batch
	for g.acked < n && len(g.ids) > 0 {
		s := p.pending[g.ids[0]]
		g.ids = g.ids[1:]
		g.acked++
		p.settle(s)
		if g.acked == g.missing {
			p.again[s.id] = s
			continue
		}
		p.confirmed(s)
	}
}

// resolve ends the batch, of which the first n writes are stored and the others are not: those are
// to be sent by themselves, which tells what is wrong with them. A batch of which nothing was
// stored is the last.
func (p *Pipeline) resolve(n int) {
	p.confirm(n)
	g := p.batch
	p.leave()
	if len(g.ids) == 0 {
		return
	}
	p.trusted = false
	p.batches = p.batches && g.acked > 0
	for _, id := range g.ids {
		s := p.pending[id]
		p.settle(s)
		p.again[id] = s
	}
}

// abandon ends the batch when nothing tells whether its first n writes, as far as they are not
// acknowledged, were stored. Those behind them were not.
func (p *Pipeline) abandon(n int, cause error) {
	g := p.batch
	if !errors.Is(cause, ErrWrongStream) {
		cause = fmt.Errorf("%w: %w", ErrOutcomeUnknown, cause)
	}
	for g.acked < n && len(g.ids) > 0 {
		s := p.pending[g.ids[0]]
		g.ids = g.ids[1:]
		g.acked++
		p.settle(s)
		p.report(s.write.Key, cause)
	}
	p.resolve(n)
}

// lacks notes a message that is not stored.
func (g *ingest) lacks(seq int) {
	if seq <= g.sent && (g.missing == 0 || seq < g.missing) {
		g.missing = seq
	}
}

// untaken: nobody took a message of the batch.
func (p *Pipeline) untaken(seq int) {
	g := p.batch
	switch {
	case g.every == 0 && seq == 1:
		p.resolve(0)
	case seq > g.sent:
		g.asked = false
		if g.since.IsZero() {
			g.since = time.Now()
		}
	default:
		g.lacks(seq)
		if !g.ended {
			_ = p.end() // asked again by whoever waits for the answer
		}
	}
}

// broken: the server refused a message before it looked at what was in the batch, or could not store
// it after that.
func (p *Pipeline) broken(seq int, apiErr *jetstream.APIError) {
	g := p.batch
	gone := apiErr.ErrorCode == codeIngestDisabled || apiErr.ErrorCode == codeIngestUnknown
	if apiErr.ErrorCode == codeIngestDisabled {
		p.b.disabledBatches()
		p.batches = false
	}
	g.lacks(seq)
	switch {
	case g.every == 0 && seq == 1:
		p.resolve(0)
	case gone:
		p.forgotten(seq)
	case !g.ended:
		_ = p.end() // asked again by whoever waits for the answer
	}
}

// forgotten: the server knew nothing of the batch when it had a message of it. Those before it are
// stored, unless the batch was not even begun, if the server has seen them and refused none without a
// word: it takes what comes over one connection in its order, and drops only what is not permitted.
func (p *Pipeline) forgotten(seq int) {
	g := p.batch
	if g.missing > 0 {
		seq = min(seq, g.missing)
	}
	switch {
	case g.begun != p.b.epoch() || errors.Is(p.b.nc.LastError(), nats.ErrPermissionViolation):
		p.abandon(seq-1, errForgottenBatch)
	case g.every == 0:
		p.resolve(0)
	default:
		p.resolve(seq - 1)
	}
}

// errForgottenBatch says that a server does not know a batch any more, and how much of it is stored.
var errForgottenBatch = errors.New("the server has forgotten the batch")

// disabledBatches notes that the stream does not take batches any more.
func (b *Bucket) disabledBatches() {
	if known := b.rules.Load(); known != nil {
		rules := *known
		rules.batched = false
		b.rules.CompareAndSwap(known, &rules)
	}
}
