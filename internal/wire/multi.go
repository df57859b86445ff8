package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
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

// lastOf reads the newest messages under subjects (which may be patterns) in one request: one
// consistent view of the server that answers, and the sequence up to which that one had come.
// ErrKeyNotFound when there are none. What exceeds maxBytes (0: the server's limit), or the
// number of matches that the server allows, gives errTooManyMatches.
func (b *Bucket) lastOf(ctx context.Context, subjects []string, maxBytes int) (found []Message, upTo uint64, err error) {
	request, err := json.Marshal(struct {
		Subjects []string `json:"multi_last"`
		MaxBytes int      `json:"max_bytes,omitempty"`
	}{subjects, maxBytes})
	if err != nil {
		return nil, 0, err
	}
	answers, end, err := b.collect(ctx, request)
	if err != nil {
		return nil, 0, err
	}
	upTo, ok := uintHeader(end.Header, upToHeader)
	if !ok {
		return nil, 0, fmt.Errorf("%w: a multi_last answer ended without %s", jetstream.ErrInvalidJetStreamResponse, upToHeader)
	}
	if left, _ := uintHeader(end.Header, batchPending); left > 0 {
		return nil, 0, errTooManyMatches
	}
	found = make([]Message, 0, len(answers))
	for i, answer := range answers {
		// Each answer tells how many follow it: none may be missing in between.
		left, ok := uintHeader(answer.Header, batchPending)
		if !ok || left != uint64(len(answers)-1-i) {
			return nil, 0, fmt.Errorf("%w: a multi_last answer is not whole", jetstream.ErrInvalidJetStreamResponse)
		}
		dropLast(answer.Header, batchPending)
		dropLast(answer.Header, jetstream.LastSequenceHeader)
		m, stream, err := b.decodeDirect(answer)
		if err != nil {
			return nil, 0, err
		}
		if stream != b.stream {
			b.mirrored.Store(true)
		}
		m.Pending = left
		found = append(found, m)
	}
	return found, upTo, nil
}

// collect sends a direct get that is answered by several messages, and gathers them up to the
// one that ends them. A connection lost on the way is not an error: the question is asked anew.
func (b *Bucket) collect(ctx context.Context, request []byte) (answers []*nats.Msg, end *nats.Msg, err error) {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	subject := b.api + directGet + b.stream
	for {
		answers, end, err = b.collectOnce(ctx, subject, request)
		if err == nil {
			break
		}
		if !errors.Is(err, errConnectionLost) {
			return nil, nil, b.denied(err, subject)
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

var errConnectionLost = errors.New("connection lost while reading")

func (b *Bucket) collectOnce(ctx context.Context, subject string, request []byte) ([]*nats.Msg, *nats.Msg, error) {
	inbox, err := b.inbox()
	if err != nil {
		return nil, nil, err
	}
	c, reply := inbox.expect()
	defer inbox.forget(reply)
	epoch := b.epoch()
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
			if b.epoch() != epoch {
				return nil, nil, errConnectionLost
			}
			timer.Reset(lossCheck)
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// inbox is one subscription for the answers of all requests of a handle that are answered by
// several messages, as the client has one for those that are answered by one. A subscription
// for each would cost the server, and in a cluster its peers, two changes of interest a read.
type inbox struct {
	prefix string
	mu     sync.Mutex
	next   uint64
	calls  map[string]*call
}

// call gathers the answers to one request.
type call struct {
	answers []*nats.Msg
	end     *nats.Msg
	done    chan struct{} // closed with the message that ends them
}

// inbox returns the handle's inbox; the first use makes it. It lives as long as the connection,
// or until the handle is garbage.
func (b *Bucket) inbox() (*inbox, error) {
	b.answers.mu.Lock()
	defer b.answers.mu.Unlock()
	if b.answers.inbox != nil && b.answers.sub.IsValid() {
		return b.answers.inbox, nil
	}
	in := &inbox{prefix: b.nc.NewInbox() + ".", calls: map[string]*call{}}
	sub, err := b.nc.Subscribe(in.prefix+"*", in.take)
	if err != nil {
		return nil, err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, err
	}
	b.answers.inbox, b.answers.sub = in, sub
	runtime.AddCleanup(b, func(sub *nats.Subscription) {
		_ = sub.Unsubscribe() // fails on a closed connection, which has no subscriptions
	}, sub)
	return in, nil
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
	switch {
	case c == nil || c.end != nil:
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
