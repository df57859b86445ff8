package wire

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
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
	stream   time.Time            // identity of the one to go on in, which had come to where it starts
	opening  context.Context      // bounds OpenReader, beside the reader's life
	exact    bool                 // the snapshot has nothing that was gone before, as with Once
	onEnd    func()               // the reader has been torn down
	onHeard  func()               // something came from the server
	onPassed func(uint64)         // there is nothing to hand out up to this sequence that was not
	onAgain  func()               // a consumer is to be made in the place of one that was lost
	drains   <-chan chan struct{} // what comes here is closed when everything received is handed out
}

// ErrSynced is returned by Next, once, where the snapshot ends and there is nothing to hand out
// beside that.
var ErrSynced = errors.New("the snapshot has ended")

const (
	// What a reader takes before Open returns, so that a write right after it replaces nothing
	// that the caller was promised. It goes on to the end of a snapshot of as much: until that is known, what
	// is written then may still be delivered as a part of it.
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
	asked    time.Time // when that was asked for
	begun    bool      // what the stream had then is known
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

	consumer  *consumer
	abandoned []leftover
	expected  int       // messages, when the latest was made
	epoch     uint64    // of the connection then
	attempts  int       // to connect, since the last that succeeded
	cut       int       // attempts and questions that the caller's context has cut short
	losses    int       // of consumers and attempts, since something came
	taken     int       // messages received
	behind    time.Time // since when the stream has less than it had
	backoff   Backoff
	progress  time.Time     // when the server last answered
	ahead     time.Duration // of the server's clock, at most, was the client's when the stream was last looked at
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
	if !cfg.stream.IsZero() {
		r.created, r.reached = cfg.stream, r.cursor
	}
	if _, ok := ctx.Deadline(); !ok {
		r.patience = b.timeout
	}
	r.life, r.end = context.WithCancelCause(ctx)
	bounded, cancel := b.Bound(r.life)
	defer cancel()
	if cfg.opening != nil {
		bounded, cancel = context.WithCancel(bounded)
		defer cancel()
		defer context.AfterFunc(cfg.opening, cancel)()
	}
	err := bounded.Err() // else a consumer would be asked for all the same, see create
	if err == nil {
		err = r.open(bounded)
	}
	if err != nil {
		r.end(nil)
		r.tidy()
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
	for r.snapshot && values <= eagerMessages && r.taken < eagerReceived && bytes <= eagerBytes {
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
	if cause := context.Cause(life); cause == ErrWatcherStopped { // itself: the caller's context may end with another's
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
		r.tidy()
		r.turn.Unlock()
		if r.cfg.onEnd != nil {
			r.cfg.onEnd()
		}
	})
}

// tidy gives up what the reader has on the server, and what the server may have made of attempts that
// it did not answer, and waits until that is gone; but a caller whose time is over does not wait for
// long.
func (r *Reader) tidy() {
	patience := closeTimeout
	if r.life.Err() != nil && cause(r.life) != ErrWatcherStopped {
		patience = grace
	}
	var group sync.WaitGroup
	for _, left := range r.abandoned {
		group.Go(func() { r.b.deleteConsumer(left.name, patience) })
	}
	r.disconnect(patience)
	group.Wait()
	r.abandoned = nil
}

// disconnect gives up the consumer, if there is one, see deleteConsumer.
func (r *Reader) disconnect(patience time.Duration) {
	if r.consumer != nil {
		r.consumer.close(patience)
		r.consumer = nil
	}
}

// leftover is a consumer that the server may have, without having said so or since the reader could not
// tell it that it needs it no more.
type leftover struct {
	name  string
	since time.Time
}

// abandon notes a leftover. Those of long ago the server has dropped by itself.
func (r *Reader) abandon(name string) {
	now := time.Now()
	r.abandoned = slices.DeleteFunc(r.abandoned, func(l leftover) bool { return now.Sub(l.since) > 2*inactive })
	r.abandoned = append(r.abandoned, leftover{name, now})
}
