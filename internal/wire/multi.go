package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	subject := b.api + "DIRECT.GET." + b.stream
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

func (b *Bucket) collectOnce(ctx context.Context, subject string, request []byte) (answers []*nats.Msg, end *nats.Msg, err error) {
	inbox := b.nc.NewInbox()
	delivery := make(chan *nats.Msg, mostMatches+1)
	sub, err := b.nc.ChanSubscribe(inbox, delivery)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		// On a closed connection the subscription is gone already.
		if e := sub.Unsubscribe(); e != nil && err == nil && !errors.Is(e, nats.ErrConnectionClosed) && !errors.Is(e, nats.ErrBadSubscription) {
			err = e
		}
	}()
	epoch := b.epoch()
	if err := b.nc.PublishRequest(subject, inbox, request); err != nil {
		return nil, nil, err
	}
	ticker := time.NewTicker(lossCheck)
	defer ticker.Stop()
	for {
		select {
		case msg, ok := <-delivery:
			if !ok {
				return nil, nil, nats.ErrConnectionClosed
			}
			if msg.Header.Get(statusHeader) != "" {
				return answers, msg, nil
			}
			answers = append(answers, msg)
		case <-ticker.C:
			if b.nc.IsClosed() {
				return nil, nil, nats.ErrConnectionClosed
			}
			if b.epoch() != epoch {
				return nil, nil, errConnectionLost
			}
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// epoch counts the client's reconnects: what was under way in an earlier one is lost.
func (c *Conn) epoch() uint64 { return c.nc.Stats().Reconnects }
