package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
	end   uint64 // where the leader said before that the stream ends, 0 when it was not asked
	whole bool   // false when the server sent only the oldest of what it found
	own   bool   // it was the stream's, not a mirror's, which may have only part of it
	late  bool   // it was read one key after the other: what was found may have gone since, and what was not may have come
}

// oneMoment reports whether what was found was there, and what was not was not, at one moment of the
// stream.
func (a *answer) oneMoment() bool { return a.whole && a.own && !a.late }

// missing are those of keys that were not found, where nothing but keys was.
func (a *answer) missing(keys []string) []string {
	if len(a.found) == len(keys) {
		return nil
	}
	found := make(map[string]struct{}, len(a.found))
	for i := range a.found {
		found[a.found[i].Key] = struct{}{}
	}
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, ok := found[key]
		return ok
	})
}

// lastOf reads the newest messages of keys (which may be filters) in one request. ErrKeyNotFound
// when there are none, errTooManyMatches when they are more than the server returns. maxBytes
// bounds what it sends at once. An answer of which a part was lost is asked for again.
func (b *Bucket) lastOf(ctx context.Context, keys []string, maxBytes int) (answer, error) {
	const most = 8 // more can hardly be lost
	for tries := 1; ; tries++ {
		a, err := b.lastOnce(ctx, keys, maxBytes)
		if tries == most || !errors.Is(err, errTorn) {
			return a, err
		}
	}
}

func (b *Bucket) lastOnce(ctx context.Context, keys []string, maxBytes int) (answer, error) {
	q := newQuestion()
	defer q.release()
	q.request = appendLastOf(q.request[:0], b.readPrefix, keys, maxBytes)
	c, err := b.collect(ctx, q)
	if err != nil {
		return answer{}, err
	}
	return b.decodeLast(c)
}

// appendLastOf appends a multi_last request. A JSON encoder would take as long as all else that a read
// of one key does before it waits.
func appendLastOf(to []byte, prefix string, keys []string, maxBytes int) []byte {
	to = append(to, `{"multi_last":[`...)
	for i, key := range keys {
		if i > 0 {
			to = append(to, ',')
		}
		to = append(to, '"')
		to = appendEscaped(to, prefix)
		to = appendEscaped(to, key)
		to = append(to, '"')
	}
	to = append(to, `],"max_bytes":`...)
	to = strconv.AppendInt(to, int64(maxBytes), 10)
	return append(to, '}')
}

// appendEscaped appends s as it stands within a JSON string. Keys are what JSON does not escape; another
// subject may not be.
func appendEscaped(to []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == '"' || c == '\\' || c > '~' {
			quoted := mustJSON(s)
			return append(to, quoted[1:len(quoted)-1]...)
		}
	}
	return append(to, s...)
}

// errForeign says that a mirror answered with what another bucket of the name had.
var errForeign = errors.New("a mirror has what is older than the bucket")

// errTorn says that a part of an answer was lost, at its beginning, too: what follows comes over the new
// connection after one was lost, of the client or between servers.
var errTorn = fmt.Errorf("%w: a multi_last answer has gaps", jetstream.ErrInvalidJetStreamResponse)

// decodeLast decodes the answers to a multi_last request. Each tells which one was sent before it.
func (b *Bucket) decodeLast(c *call) (answer, error) {
	a := answer{own: true}
	var ok bool
	if a.upTo, ok = uintHeader(c.end.Header, upToHeader); !ok {
		return a, fmt.Errorf("%w: a multi_last answer ended without %s", jetstream.ErrInvalidJetStreamResponse, upToHeader)
	}
	unsent, _ := uintHeader(c.end.Header, batchPending)
	a.whole = unsent == 0
	a.found = make([]Message, 0, len(c.answers))
	sent := uint64(0)
	for _, msg := range c.answers {
		if before, ok := uintHeader(msg.Header, jetstream.LastSequenceHeader); !ok || before != sent {
			return a, errTorn
		}
		left, _ := uintHeader(msg.Header, batchPending)
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
		if b.foreign(&m, stream) {
			return a, errForeign
		}
		m.Pending = left
		sent = m.Sequence
		a.found = append(a.found, m)
	}
	if last, ok := uintHeader(c.end.Header, jetstream.LastSequenceHeader); !ok || last != sent {
		return a, errTorn
	}
	return a, nil
}

// collect sends a direct get that is answered by several messages, and gathers them up to the
// one that ends them. Where nothing comes, because the connection or the server that was asked is
// lost, the question is asked anew. A server may just take its time: whichever answer is whole
// first counts. What is slow to come over the connection is not asked for again.
func (b *Bucket) collect(ctx context.Context, q *question) (c *call, err error) {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	ctx, gone := b.vigil(ctx, place{b.api, b.stream})
	defer func() {
		if e := gone(); e != nil {
			err = e
		}
	}()
	in := b.answers.Load()
	if in == nil {
		if in, err = b.newInbox(); err != nil {
			return nil, err
		}
		defer in.close()
	}
	defer in.forget(q)
	for patience := firstPatience; ; patience = min(2*patience, attemptTimeout) {
		c, err := b.collectOnce(ctx, in, q, patience)
		if c == nil && err == nil {
			c = b.awaitPong(ctx, q)
		}
		switch {
		case err != nil:
			return nil, b.denied(err, b.directGet)
		case c != nil:
			return c, b.ended(ctx, c)
		}
		if violation := b.violation(b.directGet); violation != nil {
			return nil, violation
		}
	}
}

// awaitPong waits until the server has answered a ping, there is another connection or none, or an
// answer to q has come, which it returns. Before the pong an answer may be on its way: a server that is asked
// for another then holds both, and takes the client for a slow consumer when it holds too many.
func (b *Bucket) awaitPong(ctx context.Context, q *question) (c *call) {
	ctx, cancel := context.WithCancel(ctx)
	pong := make(chan struct{})
	go func() {
		defer close(pong)
		b.ping(ctx)
	}()
	select {
	case c = <-q.ended:
	case <-pong:
	}
	cancel()
	<-pong
	return c
}

// ping asks until one is answered, ctx ends, or there is another connection or none.
func (c *Conn) ping(ctx context.Context) {
	epoch := c.epoch()
	for patience := attemptTimeout; ctx.Err() == nil && c.ending() == nil && c.epoch() == epoch; patience *= 2 {
		attempt, cancel := context.WithTimeout(ctx, patience)
		err := c.nc.FlushWithContext(attempt)
		cancel()
		if err == nil {
			return
		}
	}
}

// ended tells what the message means that ended the answers.
func (b *Bucket) ended(ctx context.Context, c *call) error {
	switch c.end.Header.Get(statusHeader) {
	case "204":
		return nil
	case "413":
		return errTooManyMatches
	case "503":
		return b.noDirect(ctx, nats.ErrNoResponders)
	default:
		return directStatus(c.end)
	}
}

var errConnectionLost = errors.New("connection or server lost while reading")

// collectOnce asks q and waits for an answer to it, this time or an earlier one. It returns none
// when it is time to ask again.
func (b *Bucket) collectOnce(ctx context.Context, in *inbox, q *question, patience time.Duration) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := b.ending(); err != nil {
		return nil, err
	}
	epoch := b.epoch()
	if err := b.nc.PublishRequest(b.directGet, in.expect(q), q.request); err != nil {
		return nil, err
	}
	timer := startTimer(lossCheck)
	defer stopTimer(timer)
	for came, since := q.came.Load(), time.Now(); ; {
		select {
		case c := <-q.ended:
			return c, nil
		case <-timer.C:
			if err := b.ending(); err != nil {
				return nil, err
			}
			if n := q.came.Load(); n != came {
				came, since = n, time.Now()
			}
			if b.epoch() != epoch || time.Since(since) >= patience {
				return nil, nil
			}
			timer.Reset(lossCheck)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
