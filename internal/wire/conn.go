package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	defaultTimeout = 5 * time.Second

	// A stream has no responder for the moment in which its leader changes or it is being made;
	// package jetstream waits as long before it publishes again.
	noRespondersPause = 250 * time.Millisecond

	// nobodyAttempts is how often something is sent that nobody is there to take.
	nobodyAttempts = 4

	// firstPatience is how long a question waits for its answer before it is asked again: what was
	// asked of a server that went away, or of a stream that has no leader, stays without one.
	firstPatience = 500 * time.Millisecond

	// reportPatience is how long the server may take to report a violation: over a slow link longer than the
	// time for which a call whose context has ended should go on.
	reportPatience = time.Second

	statusHeader = "Status"
	directGet    = "DIRECT.GET."
	infoOf       = "STREAM.INFO."
)

// Conn sends requests over the connection of a JetStream, under its API prefix.
// It is safe for concurrent use.
type Conn struct {
	js      jetstream.JetStream
	nc      *nats.Conn
	api     string // API prefix with its dot: "$JS.API."
	timeout time.Duration

	provoking sync.Mutex
}

// NewConn wraps js, whose API prefix or domain it keeps.
func NewConn(js jetstream.JetStream) (*Conn, error) {
	if js == nil || js.Conn() == nil {
		return nil, fmt.Errorf("%w: there is no JetStream connection", ErrInvalidOption)
	}
	opts := js.Options()
	c := &Conn{js: js, nc: js.Conn(), api: jetstream.DefaultAPIPrefix, timeout: opts.DefaultTimeout}
	switch {
	case opts.Domain != "":
		c.api = "$JS." + opts.Domain + ".API."
	case opts.APIPrefix != "":
		c.api = strings.TrimSuffix(opts.APIPrefix, ".") + "."
	}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	return c, nil
}

// Bound gives ctx the default deadline when it has none. It and request are the places that add it.
func (c *Conn) Bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.timeout)
}

// request sends one request and waits for one answer, until ctx ends or the default timeout.
func (c *Conn) request(ctx context.Context, subject string, header nats.Header, data []byte) (*nats.Msg, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// A context that cannot end needs no timer context around it, which would cost as much as
	// the rest of a put.
	if ctx.Done() == nil {
		if header == nil {
			return c.nc.Request(subject, data, c.timeout)
		}
		return c.nc.RequestMsg(&nats.Msg{Subject: subject, Header: header, Data: data}, c.timeout)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		patient := withPatience(ctx, c.timeout)
		defer patient.release()
		ctx = patient
	}
	if header == nil {
		return c.nc.RequestWithContext(ctx, subject, data)
	}
	return c.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: header, Data: data})
}

// ask is request for questions. They may be repeated, so a connection or a server that is lost
// under one does not fail it: it is asked again after a while, and again.
func (c *Conn) ask(ctx context.Context, subject string, data []byte) (*nats.Msg, error) {
	begun := time.Now()
	for patience := firstPatience; ; patience = min(2*patience, attemptTimeout) {
		msg, err := c.askOnce(ctx, subject, data, patience)
		switch {
		case err == nil:
			return msg, nil
		case errors.Is(err, nats.ErrDisconnected) && !c.nc.IsClosed():
			// Sent again now it waits in the client's buffer for the connection to come back.
		case !isTimeout(err):
			return nil, err
		}
		if violation := c.violation(subject); violation != nil {
			return nil, violation
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if _, bounded := ctx.Deadline(); !bounded && time.Since(begun) >= c.timeout {
			return nil, nats.ErrTimeout
		}
	}
}

func (c *Conn) askOnce(ctx context.Context, subject string, data []byte, patience time.Duration) (*nats.Msg, error) {
	if ctx.Done() == nil {
		return c.nc.Request(subject, data, min(patience, c.timeout))
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= patience {
		return c.nc.RequestWithContext(ctx, subject, data)
	}
	attempt := withPatience(ctx, patience)
	defer attempt.release()
	return c.nc.RequestWithContext(attempt, subject, data)
}

// askThrough is ask for what package jetstream asks, on a subject of the API.
func askThrough[V any](ctx context.Context, c *Conn, subject string, question func(context.Context) (V, error)) (V, error) {
	subject = c.api + subject
	ctx, cancel := c.Bound(ctx)
	defer cancel()
	for patience := firstPatience; ; patience = min(2*patience, attemptTimeout) {
		attempt, cancelAttempt := context.WithTimeout(ctx, patience)
		answer, err := question(attempt)
		cancelAttempt()
		if isTimeout(err) && ctx.Err() == nil && c.violation(subject) == nil {
			continue
		}
		if err != nil {
			err = c.denied(fromJetStream(err), subject)
		}
		return answer, err
	}
}

// apiRequest asks the JetStream API and decodes its answer into reply.
func (c *Conn) apiRequest(ctx context.Context, prefix, subject string, request, reply any) error {
	var data []byte
	if request != nil {
		var err error
		if data, err = json.Marshal(request); err != nil {
			return err
		}
	}
	begun := time.Now()
	for attempt := 1; ; attempt++ {
		msg, err := c.ask(ctx, prefix+subject, data)
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			err = fromJetStream(err)
		case err != nil:
			return err
		default:
			var refusal *jetstream.APIError
			if refusal, err = decodeAPI(msg.Data, reply); refusal == nil {
				return err
			}
			if err = fromServer(refusal); refusal.ErrorCode != codeNotAvailable {
				return err
			}
		}
		// A server that has just started, or a group without a leader, which takes seconds to elect.
		nobody := errors.Is(err, nats.ErrNoResponders) && attempt == nobodyAttempts
		if nobody || time.Since(begun) > c.timeout || pause(ctx, noRespondersPause) != nil {
			return err
		}
	}
}

// decodeAPI decodes an answer of the JetStream API, or the refusal that it is.
func decodeAPI(data []byte, reply any) (refusal *jetstream.APIError, err error) {
	var head struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err = json.Unmarshal(data, &head); err == nil && head.Error == nil {
		err = json.Unmarshal(data, reply)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", jetstream.ErrInvalidJetStreamResponse, err)
	}
	return head.Error, nil
}

// denied explains a timeout that a missing permission caused.
func (c *Conn) denied(err error, subject string) error {
	if isTimeout(err) {
		if violation := c.violation(subject); violation != nil {
			return violation
		}
	}
	return err
}

// post publishes m. When the connection breaks at that, m may be on its way as well as not, like what was
// published before: that is no error, but nothing will be heard of it.
func (c *Conn) post(m *nats.Msg) error {
	err := c.nc.PublishMsg(m)
	if neverSent(err) || errors.Is(err, nats.ErrConnectionClosed) {
		return err
	}
	return nil
}

// violation is the error of a message to subject that the account may not publish, or whose
// answer it may not receive; nil when the server reported none. It drops such a message and
// reports that on the connection, beside the request.
func (c *Conn) violation(subject string) error {
	if !errors.Is(c.nc.LastError(), nats.ErrPermissionViolation) {
		return nil
	}
	// The connection keeps the last report only, which may be another call's by now, or of before the
	// permission was given: provoke ours again.
	for range 3 {
		others := false
		for _, provoke := range []func(string) error{c.provoke, c.provokeAnswer} {
			last := provoke(subject)
			if last == nil {
				return nil
			}
			if violation := c.reported(last, subject); violation != nil {
				return violation
			}
			others = others || !errors.Is(last, errNoReport)
		}
		if !others {
			break
		}
	}
	return nil
}

// reported is the report last of the server, if it is of a message to subject or of its answer.
func (c *Conn) reported(last error, subject string) error {
	text := last.Error()
	switch {
	case strings.Contains(text, `Publish to "`+subject+`"`), strings.Contains(text, `Publish to "`+atHome(subject)+`"`):
		return fmt.Errorf("%w: %w", ErrPermission, last)
	case strings.Contains(text, `Subscription to "`+c.inboxPrefix()+"."):
		return fmt.Errorf("%w: %w", errAnswerDenied, last)
	}
	return nil
}

// atHome is what a server of the domain that subject names makes of it before it looks at the
// permissions.
func atHome(subject string) string {
	domain, rest, named := strings.Cut(strings.TrimPrefix(subject, "$JS."), ".API.")
	switch {
	case !named, strings.Contains(domain, "."):
		return subject
	case strings.HasPrefix(rest, keySpace):
		return rest
	}
	return jetstream.DefaultAPIPrefix + rest
}

// provoke publishes something without consequence to subject, and returns what the server reports then: a
// message that no stream may store, or a question that nobody receives the answer to. Where there is no such
// thing it returns what was reported last. It returns nil when the server cannot tell.
func (c *Conn) provoke(subject string) error {
	msg := &nats.Msg{Subject: subject}
	switch {
	case strings.Contains(subject, keySpace) && !strings.Contains(subject, directGet) && !strings.Contains(subject, "CONSUMER.CREATE."):
		msg.Header = nats.Header{jetstream.ExpectedStreamHeader: {"none"}}
	case harmless(subject):
	default:
		return c.nc.LastError()
	}
	return c.flushed(func() error { return c.nc.PublishMsg(msg) })
}

// harmless reports whether an empty request to subject, without an address for the answer, has no
// effect, or the one that the caller asked for. One to purge would purge everything.
func harmless(subject string) bool {
	for _, api := range []string{directGet, infoOf, "STREAM.MSG.GET.", "STREAM.NAMES", "CONSUMER.CREATE.", "CONSUMER.MSG.NEXT.", "CONSUMER.DELETE."} {
		if strings.Contains(subject, api) {
			return true
		}
	}
	return false
}

// provokeAnswer subscribes to an address for answers, and returns what provoke does.
func (c *Conn) provokeAnswer(string) error {
	return c.flushed(func() error {
		sub, err := c.nc.SubscribeSync(c.nc.NewInbox())
		if err == nil {
			err = sub.Unsubscribe() // it reaches the server behind the subscription
		}
		return err
	})
}

// errNoReport says that the server has reported nothing.
var errNoReport = errors.New("nothing was reported")

// flushed is what the server last reported while it came to see what send sends, errNoReport when that was
// nothing, nil when there is no connection that could tell.
func (c *Conn) flushed(send func() error) error {
	c.provoking.Lock()
	defer c.provoking.Unlock()
	before := c.nc.LastError()
	if !c.nc.IsConnected() || send() != nil || c.nc.FlushTimeout(reportPatience) != nil {
		return nil
	}
	last := c.nc.LastError()
	if !errors.Is(last, nats.ErrPermissionViolation) || last == before { // each report is an error of its own
		return errNoReport
	}
	return last
}

// epoch counts the client's reconnects: what was under way in an earlier one is lost.
func (c *Conn) epoch() uint64 { return c.nc.Stats().Reconnects }

// ending tells why no subscription receives anything any more, nil while they do. A connection that is
// drained ends them first, and goes on for as long as one of them is still being handled.
func (c *Conn) ending() error {
	switch c.nc.Status() {
	case nats.CLOSED:
		return nats.ErrConnectionClosed
	case nats.DRAINING_SUBS, nats.DRAINING_PUBS:
		return nats.ErrConnectionDraining
	}
	return nil
}

// over reports whether err is one of a connection that ends.
func over(err error) bool {
	return errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining)
}

func (c *Conn) inboxPrefix() string {
	if c.nc.Opts.InboxPrefix != "" {
		return c.nc.Opts.InboxPrefix
	}
	return strings.TrimSuffix(nats.InboxPrefix, ".")
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// whenOver calls f in a goroutine of its own when ctx is over. What it returns keeps f from being called or
// waits for its end.
func whenOver(ctx context.Context, f func()) (stop func()) {
	ended := make(chan struct{})
	prevent := context.AfterFunc(ctx, func() { defer close(ended); f() })
	return func() {
		if prevent() {
			close(ended)
		}
		<-ended
	}
}
