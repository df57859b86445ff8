package wire

import (
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// inbox is a subscription for the answers of requests that are answered by several messages, as
// the client has one for those that are answered by one. A handle whose single reads need it has
// one for all: a subscription for each would cost the server, and in a cluster its peers, two
// changes of interest a read. Other handles make one where they need it.
type inbox struct {
	prefix string
	sub    *nats.Subscription
	ended  chan struct{} // closed when the subscription's goroutine has ended
	mu     sync.Mutex
	next   uint64
	calls  map[string]*call
}

// question is what was asked, once or several times.
type question struct {
	request []byte
	came    atomic.Int64 // how many messages have come
	ended   chan *call   // the first that is whole
	calls   []string     // the addresses of the answers, for each time

	// With the question there is room for the most frequent: asked once, and answered by one message.
	first   call
	address [1]string
	answer  [1]*nats.Msg
}

// call gathers the answers to a question that was asked once.
type call struct {
	of      *question
	answers []*nats.Msg
	end     *nats.Msg
}

var questions = sync.Pool{New: func() any { return &question{ended: make(chan *call, 1)} }}

// newQuestion returns a question that may have been used before. Give it back with release.
func newQuestion() *question {
	q := questions.Get().(*question)
	q.first.answers, q.calls = q.answer[:0], q.address[:0]
	return q
}

// release is called once, when no inbox knows q any more.
func (q *question) release() {
	select {
	case <-q.ended: // when nobody waited for it any more
	default:
	}
	q.came.Store(0)
	q.first, q.calls, q.address, q.answer = call{}, nil, [1]string{}, [1]*nats.Msg{}
	questions.Put(q)
}

func (b *Bucket) newInbox() (*inbox, error) {
	in := &inbox{prefix: b.nc.NewInbox() + ".", ended: make(chan struct{}), calls: map[string]*call{}}
	var err error
	if in.sub, err = b.nc.Subscribe(in.prefix+"*", in.take); err != nil {
		return nil, err
	}
	in.sub.SetClosedHandler(func(string) { close(in.ended) })
	// What comes is bounded by what was asked for.
	return in, in.sub.SetPendingLimits(-1, -1)
}

// keptInbox is a handle's own inbox, nil until one is needed.
type keptInbox struct {
	atomic.Pointer[inbox]
	making sync.Mutex
}

// keepInbox gives the handle an inbox that lives as long as the connection, or until the handle
// is garbage, unless it has one.
func (b *Bucket) keepInbox() error {
	b.answers.making.Lock()
	defer b.answers.making.Unlock()
	if b.answers.Load() != nil {
		return nil
	}
	in, err := b.newInbox()
	if err != nil {
		return err
	}
	b.answers.Store(in)
	runtime.AddCleanup(b, (*inbox).unsubscribe, in)
	return nil
}

func (in *inbox) unsubscribe() {
	_ = in.sub.Unsubscribe() // fails on a closed connection, which has no subscriptions
}

// close ends the subscription and waits for its goroutine. A connection that was closed in the
// moment of subscribing does not tell of its end.
func (in *inbox) close() {
	in.unsubscribe()
	select {
	case <-in.ended:
	case <-time.After(lossCheck):
	}
}

// expect returns where an answer to q may be sent to.
func (in *inbox) expect(q *question) (reply string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.next++
	reply = in.prefix + strconv.FormatUint(in.next, 36)
	c := &q.first
	if c.of != nil {
		c = &call{}
	}
	c.of = q
	in.calls[reply] = c
	q.calls = append(q.calls, reply)
	return reply
}

// forget drops what still comes for q.
func (in *inbox) forget(q *question) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, reply := range q.calls {
		delete(in.calls, reply)
	}
}

// take runs on the subscription's goroutine: the answers of a call come one after the other. What it
// does with them it does before its question can be forgotten, and used for something else.
func (in *inbox) take(msg *nats.Msg) {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.calls[msg.Subject]
	if c == nil || c.end != nil {
		return
	}
	c.of.came.Add(1)
	if !isStatus(msg) {
		c.answers = append(c.answers, msg)
		return
	}
	c.end = msg
	select {
	case c.of.ended <- c:
	default: // another is whole already
	}
}

// isStatus tells an answer that ends a request from a message of the stream, which may have been
// stored with a header of that name.
func isStatus(msg *nats.Msg) bool {
	return len(msg.Header[statusHeader]) > 0 && len(msg.Header[jetstream.SequenceHeader]) == 0
}
