package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// mostMatches is the number of subjects that a server returns to one multi_last request; it
	// refuses a request that matches more (413).
	mostMatches = 1024

	// lossCheck is how often a reader that waits looks whether the connection was lost under it.
	lossCheck = 250 * time.Millisecond
)

var errTooManyMatches = errors.New("the filters match more than one request may return")

// answer is what one multi_last request returned: one consistent view of the server that
// answered.
type answer struct {
	found []Message
	upTo  uint64 // the sequence up to which that server had come
	whole bool   // false when the server sent only the oldest of what it found
	own   bool   // it was the stream's, not a mirror's, which may have only part of it
}

// lastOf reads the newest messages under subjects (which may be patterns) in one request.
// ErrKeyNotFound when there are none, errTooManyMatches when they are more than the server
// returns. maxBytes bounds what it sends at once.
func (b *Bucket) lastOf(ctx context.Context, subjects []string, maxBytes int) (answer, error) {
	a := answer{own: true}
	request, err := json.Marshal(struct {
		Subjects []string `json:"multi_last"`
		MaxBytes int      `json:"max_bytes"`
	}{subjects, maxBytes})
	if err != nil {
		return a, err
	}
	messages, end, err := b.collect(ctx, request)
	if err != nil {
		return a, err
	}
	var ok bool
	if a.upTo, ok = uintHeader(end.Header, upToHeader); !ok {
		return a, fmt.Errorf("%w: a multi_last answer ended without %s", jetstream.ErrInvalidJetStreamResponse, upToHeader)
	}
	unsent, _ := uintHeader(end.Header, batchPending)
	a.whole = unsent == 0
	a.found = make([]Message, 0, len(messages))
	for i, msg := range messages {
		// Each message tells how many follow it: none may be missing in between.
		left, ok := uintHeader(msg.Header, batchPending)
		if !ok || left != uint64(len(messages)-1-i)+unsent {
			return a, fmt.Errorf("%w: a multi_last answer has gaps", jetstream.ErrInvalidJetStreamResponse)
		}
		dropLast(msg.Header, batchPending)
		dropLast(msg.Header, jetstream.LastSequenceHeader)
		m, stream, err := b.decodeDirect(msg)
		if err != nil {
			return a, err
		}
		if stream != b.stream {
			a.own = false
			b.mirrored.Store(true)
		}
		m.Pending = left
		a.found = append(a.found, m)
	}
	return a, nil
}

// collect sends a direct get that is answered by several messages, and gathers them up to the
// one that ends them. Where nothing comes, because the connection or the server that was asked is
// lost, the question is asked anew.
func (b *Bucket) collect(ctx context.Context, request []byte) (answers []*nats.Msg, end *nats.Msg, err error) {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	ctx, gone := b.vigil(ctx, place{b.api, b.stream})
	defer func() {
		if e := gone(); e != nil {
			err = e
		}
	}()
	subject := b.api + directGet + b.stream
	for patience := firstPatience; ; patience = min(2*patience, attemptTimeout) {
		answers, end, err = b.collectOnce(ctx, subject, request, patience)
		if err == nil {
			break
		}
		if !errors.Is(err, errConnectionLost) {
			return nil, nil, b.denied(err, subject)
		}
		if violation := b.violation(subject); violation != nil {
			return nil, nil, violation
		}
	}
	switch end.Header.Get(statusHeader) {
	case "204":
		return answers, end, nil
	case "413":
		return nil, nil, errTooManyMatches
	case "503":
		return nil, nil, b.noDirect(ctx, nats.ErrNoResponders)
	default:
		return nil, nil, directStatus(end)
	}
}

var errConnectionLost = errors.New("connection or server lost while reading")

func (b *Bucket) collectOnce(ctx context.Context, subject string, request []byte, patience time.Duration) ([]*nats.Msg, *nats.Msg, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	in := b.answers
	if in == nil {
		var err error
		if in, err = b.newInbox(); err != nil {
			return nil, nil, err
		}
		defer in.close()
	}
	c, reply := in.expect()
	defer in.forget(reply)
	epoch, begun := b.epoch(), time.Now()
	if err := b.nc.PublishRequest(subject, reply, request); err != nil {
		return nil, nil, err
	}
	timer := time.NewTimer(lossCheck)
	defer timer.Stop()
	for {
		select {
		case <-c.done:
			return c.answers, c.end, nil
		case <-timer.C:
			if b.nc.IsClosed() {
				return nil, nil, nats.ErrConnectionClosed
			}
			if b.epoch() != epoch || c.silent() && time.Since(begun) >= patience {
				return nil, nil, errConnectionLost
			}
			timer.Reset(lossCheck)
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

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

// call gathers the answers to one request.
type call struct {
	answers []*nats.Msg
	end     *nats.Msg
	some    atomic.Bool   // something has come
	done    chan struct{} // closed with the message that ends them
}

// silent reports whether nothing has come yet.
func (c *call) silent() bool { return !c.some.Load() }

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

// keepInbox gives the handle an inbox that lives as long as the connection, or until the handle
// is garbage.
func (b *Bucket) keepInbox() error {
	in, err := b.newInbox()
	if err != nil {
		return err
	}
	b.answers = in
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

func (in *inbox) expect() (*call, string) {
	c := &call{done: make(chan struct{})}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.next++
	reply := in.prefix + strconv.FormatUint(in.next, 36)
	in.calls[reply] = c
	return c, reply
}

func (in *inbox) forget(reply string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.calls, reply)
}

// take runs on the subscription's goroutine: the answers of a call come one after the other.
func (in *inbox) take(msg *nats.Msg) {
	in.mu.Lock()
	c := in.calls[msg.Subject]
	in.mu.Unlock()
	if c == nil || c.end != nil {
		return
	}
	c.some.Store(true)
	switch {
	case isStatus(msg):
		c.end = msg
		close(c.done)
	default:
		c.answers = append(c.answers, msg)
	}
}

// isStatus tells an answer that ends a request from a message of the stream, which may have been
// stored with a header of that name.
func isStatus(msg *nats.Msg) bool {
	return len(msg.Header[statusHeader]) > 0 && len(msg.Header[jetstream.SequenceHeader]) == 0
}

// epoch counts the client's reconnects: what was under way in an earlier one is lost.
func (c *Conn) epoch() uint64 { return c.nc.Stats().Reconnects }
