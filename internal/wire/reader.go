package wire

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Start says where a Reader begins.
type Start uint8

const (
	// StartLast begins with the newest revision of every key.
	StartLast Start = iota
	// StartAt begins with the stored revision at a sequence, or the first after it.
	StartAt
	// StartNew begins with what is stored after the reader was opened.
	StartNew
)

// ReaderConfig says what a Reader reads.
type ReaderConfig struct {
	Filters     []string // patterns over keys, none: every key
	Whole       bool     // the whole stream, whatever its subjects; excludes Filters
	Start       Start
	Sequence    uint64 // with StartAt
	HeadersOnly bool
	KeysOnly    bool // values are not needed, and left out where that makes it faster
	SkipMarkers bool // hand out values only
	Unique      bool // hand out each key once
	Once        bool // read up to the end of the snapshot; a server that does not answer is an error

	// OnChange is told when the reader loses touch with the server (why), and again (nil) when
	// it has found it. It runs on the goroutine that reads, and may stop the reader.
	OnChange func(error)

	// For the rest of the core; all may be nil.
	opening  context.Context      // bounds OpenReader, beside the reader's life
	onEnd    func()               // the reader has been torn down
	onHeard  func()               // something came from the server
	onPassed func(uint64)         // there is nothing to hand out up to this sequence that was not
	onAgain  func()               // a consumer is to be made in the place of one that was lost
	drains   <-chan chan struct{} // what comes here is closed when everything received is handed out
	bulk     bool                 // what is read is kept anyway: larger pulls cost no more memory
}

// ErrSynced is returned by Next, once, where the snapshot ends and there is nothing to hand out
// beside that.
var ErrSynced = errors.New("the snapshot has ended")

const (
	// What a reader takes before Open returns, so that a write right after it replaces nothing
	// that the caller was promised.
	eagerMessages = 4096
	eagerReceived = 4 * eagerMessages // with what is left out
	eagerBytes    = 4 << 20

	// A reader that is told of the connection's loss, or that hears nothing for this long,
	// starts anew.
	silence = 2 * heartbeat

	// attemptTimeout bounds each request of a reader that starts anew.
	attemptTimeout = 2 * time.Second
)

// Reader reads a bucket's stream in order: first the snapshot, which is what the bucket has
// where it starts, then every change. It hands out no revision twice and none that the bucket
// still has is left out, through lost connections, consumers and servers.
//
// It has no goroutine: what it does it does for whoever calls Next, and a caller who does not
// read costs one pull's worth of messages. Next may be called by one goroutine at a time, Stop
// by any.
type Reader struct {
	b        *Bucket
	cfg      ReaderConfig
	subjects []string // filters of the consumer
	match    []string // filters to check here, when the consumer's match more

	life     context.Context // ends with the caller's, or by Stop
	end      context.CancelCauseFunc
	unwatch  func() bool
	patience time.Duration // with Once: how long without an answer, 0 for as long as life

	turn sync.Mutex // held by who reads or tears down
	tear sync.Once

	created  time.Time // identity of the stream
	reached  uint64    // a sequence that the stream is known to have come to
	target   uint64    // the snapshot has to cover the stream up to here
	cursor   uint64    // last sequence handed out or dropped
	snapshot bool      // the end of the snapshot is still to come
	synced   atomic.Bool
	queue    []Message // received and not handed out
	head     int
	unique   uniqueKeys
	opening  bool // what comes is compacted before any of it is handed out
	hold     bool // so it is, because it may be older than what the target has
	held     bool // some was held so
	draining []chan struct{}
	notices  []error // for OnChange
	lost     error   // why the reader is out of touch, nil while it is not
	failed   error   // why it ended

	consumer *consumer
	expected int       // messages, when the latest was made
	epoch    uint64    // of the connection then
	attempts int       // to connect, since the last that succeeded
	cut      int       // attempts that the caller's context has cut short
	losses   int       // of consumers and attempts, since something came
	taken    int       // messages received
	behind   time.Time // since when the stream has less than it had
	backoff  Backoff
	progress time.Time // when the server last answered
}

// OpenReader starts reading. The reader lives until ctx ends or Stop.
func (b *Bucket) OpenReader(ctx context.Context, cfg ReaderConfig) (*Reader, error) {
	r := &Reader{
		b: b, cfg: cfg,
		snapshot: cfg.Start != StartNew,
		progress: time.Now(),
	}
	if err := r.filter(); err != nil {
		return nil, err
	}
	if cfg.Start == StartAt && cfg.Sequence > 0 {
		r.cursor = cfg.Sequence - 1
	}
	if _, ok := ctx.Deadline(); !ok {
		r.patience = b.timeout
	}
	r.life, r.end = context.WithCancelCause(ctx)
	bounded, cancel := b.Bound(r.life)
	defer cancel()
	if cfg.opening != nil {
		defer context.AfterFunc(cfg.opening, cancel)()
	}
	if err := r.open(bounded); err != nil {
		r.end(nil)
		r.disconnect(true)
		return nil, err
	}
	r.unwatch = context.AfterFunc(r.life, r.teardown)
	return r, nil
}

func (r *Reader) filter() error {
	for _, filter := range r.cfg.Filters {
		if err := CheckFilter(filter); err != nil {
			return err
		}
	}
	if r.cfg.Whole {
		return nil
	}
	folded, exact := FoldFilters(r.cfg.Filters)
	if !exact {
		r.match = append(r.match, r.cfg.Filters...)
	}
	if len(folded) == 0 {
		folded = []string{AllKeys}
	}
	for _, filter := range folded {
		r.subjects = append(r.subjects, r.b.readPrefix+filter)
	}
	return nil
}

// open makes the first consumer, and unless the reader reads only once takes the beginning of
// the snapshot.
func (r *Reader) open(ctx context.Context) error {
	for {
		err := r.attempt(ctx)
		if err == nil {
			break
		}
		if !transient(err) {
			return err
		}
		if waited := r.backoff.Wait(ctx); waited != nil {
			return waitedOut(waited, err)
		}
	}
	if r.cfg.Once {
		return nil
	}
	if r.consumer != nil {
		r.queue = make([]Message, 0, min(eagerMessages, r.consumer.pending)+1)
	}
	r.opening = r.cfg.Start == StartLast
	values, bytes := 0, 0
	for r.snapshot && values < eagerMessages && r.taken < eagerReceived && bytes < eagerBytes {
		before := len(r.queue)
		if err := r.advance(ctx); err != nil {
			return err
		}
		if r.failed != nil {
			return r.failed
		}
		for _, m := range r.queue[before:] {
			bytes += len(m.Data)
			if !m.Deleted() || !r.cfg.SkipMarkers {
				values++
			}
		}
	}
	if r.opening {
		r.opening = false
		r.compact()
	}
	r.settle()
	return nil
}

// settle notes when the last message of the snapshot has been handed out.
func (r *Reader) settle() {
	if !r.snapshot && r.head == len(r.queue) {
		r.synced.Store(true)
	}
}

// Target is the sequence that the stream had come to when the reader was opened.
func (r *Reader) Target() uint64 { return r.target }

// Synced reports whether the whole snapshot has been handed out.
func (r *Reader) Synced() bool { return r.synced.Load() }

// Next returns the next message. ErrWatcherStopped after Stop; an error of ctx does not end the
// reader, any other does.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	for {
		if err := r.ended(ctx); err != nil {
			return Message{}, err
		}
		if len(r.notices) > 0 {
			if err := r.notify(ctx); err != nil {
				return Message{}, err
			}
			continue
		}
		if m, ok := r.pop(); ok {
			return m, nil
		}
		if r.failed != nil {
			return Message{}, r.failed
		}
		if r.cfg.Once && !r.snapshot {
			r.synced.Store(true)
			return Message{}, ErrSynced
		}
		if !r.snapshot && r.head == len(r.queue) && !r.synced.Load() {
			r.synced.Store(true)
			return Message{}, ErrSynced
		}
		if err := r.advance(ctx); err != nil {
			return Message{}, err
		}
	}
}

// ended tells whether and why nothing more is to be handed out.
func (r *Reader) ended(ctx context.Context) error {
	if r.life.Err() != nil {
		return cause(r.life)
	}
	return ctx.Err()
}

// cause is why a watcher's life has ended: ErrWatcherStopped or the error of its context.
func cause(life context.Context) error {
	if cause := context.Cause(life); cause == ErrWatcherStopped {
		return cause
	}
	return life.Err()
}

// notify calls OnChange outside the reader's turn, so that it may call Stop.
func (r *Reader) notify(ctx context.Context) error {
	notices := r.notices
	r.notices = nil
	r.turn.Unlock()
	defer r.turn.Lock() // also when OnChange panics: Next unlocks
	for _, notice := range notices {
		r.cfg.OnChange(notice)
	}
	return ctx.Err()
}

// change notes that touch with the server was lost, or found again.
func (r *Reader) change(err error) {
	if (err == nil) == (r.lost == nil) {
		return
	}
	r.lost = err
	if r.cfg.OnChange != nil {
		r.notices = append(r.notices, err)
	}
}

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
		r.disconnect(false)
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
		return msg, nil
	default:
		r.drained()
	}
	c.timer.Reset(lossCheck)
	select {
	case msg := <-c.delivery:
		if msg.Reply != "" {
			r.heard() // not for each message: the clock costs a twentieth of a listing
		}
		return msg, nil
	case drain := <-r.cfg.drains:
		r.draining = append(r.draining, drain)
		return nil, nil
	case <-c.timer.C:
		r.check()
		return nil, nil
	case <-r.life.Done():
		return nil, cause(r.life)
	case <-ctx.Done():
		return nil, ctx.Err()
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
func (r *Reader) check() {
	nc := r.b.nc
	switch {
	case nc.IsClosed():
		r.fail(nats.ErrConnectionClosed)
	case !nc.IsConnected() || r.b.epoch() != r.consumer.epoch:
		r.interrupted(errConnectionLost)
	case time.Since(r.consumer.heard) > silence:
		if violation := r.b.violation(r.consumer.next()); violation != nil {
			r.fail(violation)
			return
		}
		r.interrupted(jetstream.ErrNoHeartbeat)
	}
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
	r.disconnect(false)
}

func (r *Reader) fail(err error) {
	r.failed = err
	r.disconnect(false)
}

// complete decides whether the snapshot has been received whole. It has when, at some moment
// after it was begun, the consumer's server had nothing more to deliver and had itself come to
// what the stream's leader had when it was begun: a key's newest revision of that moment was
// there already when the reader came by it.
//
// A pull that ends with "no messages" after it delivered some, and an idle heartbeat, are such
// moments. One that ends so without having delivered any is not: the server answers it from a
// count of pending messages, which an overwritten key leaves and re-enters at different times.
func (r *Reader) complete(event pullEvent, position uint64) bool {
	c := r.consumer
	switch event {
	case pullEnded:
		if !c.drained || c.skipping && r.cursor <= c.skipTo {
			return false
		}
	case pullIdle:
		// A consumer that skips along a list of newest revisions pauses where one of them is
		// gone, and may say so twice before it goes on. At the end of the stream it says the same
		// as often as one likes.
		if c.skipping && (position < c.skipTo || position == c.skipTo && c.beats < beatsAtEnd) {
			return false
		}
	}
	return max(position, r.cursor) >= r.target || !r.b.cautious()
}

// Stop ends the reader: when it returns nothing of it is left, in the client or on the server.
// It may be called twice, and from anywhere.
func (r *Reader) Stop() {
	r.unwatch()
	r.end(ErrWatcherStopped)
	r.teardown()
}

// teardown waits for the turn, which nobody keeps for long once life has ended.
func (r *Reader) teardown() {
	r.tear.Do(func() {
		r.turn.Lock()
		r.disconnect(true)
		r.turn.Unlock()
		if r.cfg.onEnd != nil {
			r.cfg.onEnd()
		}
	})
}

// disconnect gives up the consumer, if there is one. With wait it is gone on the server too.
func (r *Reader) disconnect(wait bool) {
	if r.consumer != nil {
		r.consumer.close(wait)
		r.consumer = nil
	}
}
