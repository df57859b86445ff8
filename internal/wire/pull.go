package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// Half as much again is on its way while the first half is read. A quarter of it, or half, takes
	// up to a twentieth longer.
	snapshotBatch = 1 << 15
	liveBatch     = 512
	smallMessage  = 512
	pullBytes     = 8 << 20

	// heartbeat is how often the server says that it is there while a pull waits.
	heartbeat   = 750 * time.Millisecond
	pullExpires = 20 * time.Second

	// inactive is when the server drops a consumer that nobody pulls from: a client that died,
	// or one that does not read, which then begins anew where it was.
	inactive = 10 * time.Second

	// A probe is a pull with heartbeats so close that the server soon tells how far it has come.
	shortestProbe = 200 * time.Microsecond
	longestProbe  = 10 * time.Millisecond
	probeExpires  = 10 * longestProbe

	// A consumer that walks along a list loses the entry for which a pull has no room or no time
	// left: the server takes it from the list before it looks (2.15.2). Its pulls are bounded by
	// the number of messages only, and one that expires ends the consumer.
	listBeat    = 2 * time.Millisecond
	listProbe   = 100 * listBeat
	listExpires = 6 * heartbeat
	beatsAtEnd  = 3

	// A pull ahead of the others waits no longer, should there be less than the server counted.
	aheadBeat    = 20 * time.Millisecond
	aheadExpires = 2 * heartbeat

	// closeTimeout is how long the end of a reader waits for the server to confirm that its
	// consumer is gone.
	closeTimeout = attemptTimeout

	// grace is how long a caller whose time is over waits at most for what keeps the server clean.
	grace = 500 * time.Millisecond

	// statusRoom is what a subscription holds beside messages: heartbeats and ends of pulls.
	statusRoom = 512
)

// consumer is one ephemeral pull consumer on the server and the subscription that it delivers
// to. It is used by one goroutine at a time.
type consumer struct {
	b        *Bucket
	name     string
	created  time.Time // by its server's clock
	host     string    // the server that it is on, in a cluster
	inbox    string    // prefix of the pulls' reply subjects
	sub      *nats.Subscription
	delivery chan *nats.Msg
	timer    *time.Timer
	epoch    uint64    // of the connection when it was made
	made     time.Time // when it was known to be there
	heard    time.Time // when something came from it, or was asked of it
	dormant  bool      // nothing was for so long that the server may have dropped it
	waiting  bool      // for a message, and timer runs
	sure     bool      // it is on the stream that is to be read

	sequence uint64    // of the last message delivered
	pending  uint64    // messages to come, by the server's count
	batch    int       // of a pull in the snapshot
	id       uint64    // of the latest pull
	left     int       // messages asked for that have not come
	received int       // since the latest pull
	room     int       // bytes that the latest pull may return
	tooLarge bool      // the next message exceeds that
	drained  bool      // the last pull delivered messages, and then there were none
	pulled   time.Time // when the latest pull was sent
	signed   time.Time // when the previous one was that ended with "no messages"; before the first, when the consumer was asked for
	read     int       // of what the server sent
	came     int       // of that, what had come when last looked at
	cameAt   time.Time // a time by which it had come; zero while none is noted
	probing  bool
	probe    time.Duration
	noWait   bool          // the latest pull ends where there is nothing more
	beat     time.Duration // between heartbeats of the latest pull, 0 without
	idleAt   uint64        // position of the last heartbeat
	beats    int           // how many came, one after the other
	same     int           // of these, at one position
	limits   jetstream.ConsumerConfig

	// A consumer of the newest revisions, where there are older ones, delivers along a list that
	// the server made with it; and goes on behind the list's end.
	skipping bool
	skipTo   uint64 // the list ends at or before this sequence
	listed   uint64 // what is left of the list, 0 when that is not known
	empty    bool   // nothing was there to deliver when it was made
}

// makeConsumer makes a consumer, which can be used once it is prepared. abandon is told the name of one
// that the server may have made without an answer.
func (b *Bucket) makeConsumer(ctx context.Context, cfg jetstream.ConsumerConfig, abandon func(name string)) (*consumer, error) {
	now := time.Now()
	c := &consumer{
		b: b, name: rand.Text(), inbox: b.nc.NewInbox(),
		timer: time.NewTimer(time.Hour), epoch: b.epoch(), heard: now, signed: now,
		probe: shortestProbe,
	}
	cfg.Name = c.name
	if err := c.create(ctx, cfg, abandon); err != nil {
		return nil, err
	}
	return c, nil
}

// prepare makes ready a consumer that was just made. info is the stream's state just before; where that
// has no history it may be of a moment later, or of the stream that came in its place.
func (c *consumer) prepare(ctx context.Context, info *jetstream.StreamInfo) (err error) {
	newestOnly := c.limits.DeliverPolicy == jetstream.DeliverLastPerSubjectPolicy
	c.skipping = newestOnly && info.Config.MaxMsgsPerSubject != 1
	c.probing = c.pending == 0
	c.batch = int(min(snapshotBatch, max(liveBatch, c.pending+liveBatch/2)))
	if average := averageSize(info); average > 0 && (c.skipping || !c.limits.HeadersOnly) {
		c.batch = int(min(uint64(c.batch), max(1, pullBytes/average)))
	}
	if newestOnly && (c.skipping || c.pending == 0) {
		if err := c.survey(ctx, info.State.LastSeq); err != nil {
			return err
		}
	}
	c.delivery = make(chan *nats.Msg, 2*c.batch+liveBatch+statusRoom)
	c.sub, err = c.b.nc.ChanSubscribe(c.inbox+".*", c.delivery)
	return err
}

// create makes the consumer on the server. A caller who gives up for good has to wait a little for the
// answer: what the server is still making cannot be deleted.
func (c *consumer) create(ctx context.Context, cfg jetstream.ConsumerConfig, abandon func(name string)) error {
	patient, cancel := context.WithCancel(context.WithoutCancel(ctx))
	subject := consumerCreateSubject(c.b, cfg)
	stop := whenOver(ctx, func() {
		defer cancel()
		expected := c.b.nc.IsConnected() && c.b.epoch() == c.epoch && c.b.violation(subject) == nil
		if why := context.Cause(ctx); expected && why != errAttemptOver && why != errCut {
			_ = pause(patient, grace) // ends early with the answer
		}
	})
	defer func() { cancel(); stop() }()
	made, err := c.b.js.CreateConsumer(patient, c.b.stream, cfg)
	given := ctx.Err()
	switch {
	case err == nil && given == nil:
		info := made.CachedInfo()
		c.made = time.Now()
		c.created, c.pending, c.limits = info.Created, info.NumPending, info.Config
		if info.Cluster != nil {
			c.host = info.Cluster.Leader
		}
		return nil
	case err == nil:
		c.close(grace)
		return given
	}
	if err = fromJetStream(err); given != nil {
		err = given
	}
	err = c.b.denied(err, subject)
	if _, refused := errors.AsType[*jetstream.APIError](err); !refused && !neverSent(err) {
		abandon(c.name)
	}
	unheard := errors.Is(err, ErrPermission) || errors.Is(err, nats.ErrNoResponders) || context.Cause(ctx) == errAttemptOver
	if cfg.FilterSubject == AllKeys && unheard {
		return fmt.Errorf("%w: %w", errNarrow, err)
	}
	return err
}

// averageSize is what a message of the stream takes in its store.
func averageSize(info *jetstream.StreamInfo) uint64 {
	return info.State.Bytes / max(info.State.Msgs, 1)
}

// survey finds out more about what a new consumer has to deliver. before is the last sequence of the
// stream before it was made. The server's count of pending messages is exact when nothing was
// written meanwhile, and its server is the stream's only one; else a key that is overwritten may
// just be missing in it.
func (c *consumer) survey(ctx context.Context, before uint64) error {
	info, err := c.b.Info(ctx)
	if err != nil {
		return err
	}
	c.skipTo = info.State.LastSeq
	switch {
	case c.b.cautious():
	case c.skipping, c.b.shared():
		if info.State.LastSeq == before {
			c.listed, c.empty = c.pending, c.pending == 0
		}
	default:
		// Here "before" may have been a moment later, or another stream's, see begin. Both times are of
		// one clock, as they are not in a cluster.
		const writing = 20 * time.Millisecond // at most, from a message's time until it is counted
		quiet := c.created.Add(-writing)
		c.empty = info.Created.Before(c.created) && info.State.LastTime.Before(quiet)
	}
	return nil
}

func consumerCreateSubject(b *Bucket, cfg jetstream.ConsumerConfig) string {
	subject := b.api + "CONSUMER.CREATE." + b.stream + "." + cfg.Name
	if cfg.FilterSubject != "" {
		subject += "." + cfg.FilterSubject
	}
	return subject
}

// wants reports whether it is time to ask for more messages. Towards the snapshot's end one pull
// follows the other, since each end tells something; before and later there is always one that
// waits.
func (c *consumer) wants(snapshot bool) bool {
	if snapshot {
		return c.left == 0 || c.left <= c.batch/2 && c.ahead()
	}
	return c.left <= liveBatch/2
}

// ahead reports whether there is so much to come that a pull may be sent before the one under way
// has ended, which it then does not tell: the server need not wait until all of that has been read. Not so
// behind one that does not wait: whose end does not say how much of it is left.
func (c *consumer) ahead() bool {
	return !c.skipping && !c.probing && !c.tooLarge && (!c.noWait || c.left == 0) && c.pending >= uint64(c.left+c.batch)
}

// pull asks for more messages. In the snapshot the server answers at once with what it has, and
// after a pull that brought nothing certain it is probed; later it waits for messages to come.
func (c *consumer) pull(snapshot bool) error {
	c.id++
	c.received, c.drained = 0, false
	c.idleAt, c.beats, c.same, c.beat = 0, 0, 0, 0
	c.noWait = false
	now := time.Now()
	c.dormant, c.heard, c.pulled = now.Sub(c.heard) > inactive, now, now
	batch, limit, ahead := liveBatch-c.left, pullBytes, false
	if snapshot {
		batch, ahead = c.batch, c.ahead()
	}
	if c.skipping {
		limit = 0
	}
	if c.tooLarge {
		batch, limit, c.tooLarge = 1, 0, false
	}
	if most := c.limits.MaxRequestBatch; most > 0 {
		batch = min(batch, most)
	}
	if most := c.limits.MaxRequestMaxBytes; most > 0 && limit > 0 {
		limit = min(limit, most)
	}
	c.left += batch
	c.room = limit
	request := fmt.Appendf(nil, `{"batch":%d`, batch)
	if limit > 0 {
		request = fmt.Appendf(request, `,"max_bytes":%d`, limit)
	}
	switch {
	case c.skipping:
		// With no_wait and a time to wait it ends at once where there is nothing more, but only
		// if it has delivered something.
		expires, beat := listExpires, heartbeat
		if c.probing {
			expires, beat = listProbe, listBeat
		}
		c.beat = beat
		request = fmt.Appendf(request, `,"no_wait":true,"expires":%d,"idle_heartbeat":%d}`, expires, beat)
	case ahead:
		c.beat = aheadBeat
		request = fmt.Appendf(request, `,"expires":%d,"idle_heartbeat":%d}`, aheadExpires, aheadBeat)
	case snapshot && c.probing:
		c.beat = c.probe
		request = fmt.Appendf(request, `,"expires":%d,"idle_heartbeat":%d}`, min(50*c.probe, probeExpires), c.probe)
		c.probe = min(2*c.probe, longestProbe)
	case snapshot:
		c.noWait = true
		request = append(request, `,"no_wait":true}`...)
	default:
		expires := pullExpires
		if most := c.limits.MaxRequestExpires; most > 0 {
			expires = max(min(expires, most), 2*heartbeat)
		}
		request = fmt.Appendf(request, `,"expires":%d,"idle_heartbeat":%d}`, expires, heartbeat)
	}
	reply := c.inbox + "." + strconv.FormatUint(c.id, 10)
	return c.b.nc.PublishRequest(c.next(), reply, request)
}

// next is the subject of pulls.
func (c *consumer) next() string {
	return c.b.api + "CONSUMER.MSG.NEXT." + c.b.stream + "." + c.name
}

// expected notes a delivered message; it is not the expected one when others were lost.
func (c *consumer) expected(sequence, pending uint64) bool {
	if sequence != c.sequence+1 {
		return false
	}
	c.sequence, c.pending = sequence, pending
	c.idleAt, c.beats, c.same = 0, 0, 0
	c.received++
	c.probing = false
	if c.listed > 0 {
		c.listed--
		c.skipping = c.skipping && c.listed > 0
	}
	c.left = max(c.left-1, 0)
	return true
}

type pullEvent uint8

const (
	pullNothing pullEvent = iota
	pullEnded             // there was nothing more, or the wait is over
	pullIdle              // there is nothing more for now
	pullUnsure            // the consumer may leave something out
	pullLost              // the consumer is gone, or delivered what did not arrive
)

// status takes what the server says about a pull. With an idle heartbeat comes the sequence up
// to which it has looked through the stream.
func (c *consumer) status(msg *nats.Msg) (pullEvent, uint64) {
	current := strings.HasSuffix(msg.Subject, "."+strconv.FormatUint(c.id, 10))
	switch status := msg.Header.Get(statusHeader); status {
	case "100":
		if delivered, ok := uintHeader(msg.Header, lastConsumer); ok && delivered > c.sequence {
			return pullLost, 0
		}
		position, ok := uintHeader(msg.Header, lastStream)
		if !ok || !current {
			return pullNothing, 0
		}
		if c.idleAt != position {
			c.same = 0
		}
		c.idleAt = position
		c.beats++
		c.same++
		return pullIdle, position
	case "404", "408":
		c.ended(msg)
		if !current {
			return pullNothing, 0
		}
		if status == "408" && c.skipping {
			return pullUnsure, 0
		}
		c.drained = status == "404" && c.received > 0
		// A pull that brought messages is followed by one that does not wait: while messages keep coming there
		// may never be time for heartbeats.
		c.probing = c.skipping || c.received == 0
		if c.received > 0 {
			c.probe = shortestProbe
		}
		return pullEnded, 0
	case "503":
		if c.dormant {
			return pullUnsure, 0 // nobody read for a while, which is no interruption
		}
	case "409":
		switch description := msg.Header.Get("Description"); {
		case strings.HasPrefix(description, "Message Size Exceeds MaxBytes"):
			c.ended(msg)
			room, _ := uintHeader(msg.Header, pendingBytesHeader)
			c.tooLarge = room == uint64(c.room)
			return pullNothing, 0
		case strings.HasPrefix(description, "Batch Completed"):
			return pullNothing, 0
		}
	}
	return pullLost, 0
}

// ended notes the end of a pull, with which the server tells how much of it is left, except where
// it was the only one.
func (c *consumer) ended(msg *nats.Msg) {
	if unused, ok := uintHeader(msg.Header, pendingMessages); ok {
		c.left = max(c.left-int(unused), 0)
	} else {
		c.left = 0
	}
}

// close ends the subscription and deletes the consumer, see deleteConsumer.
func (c *consumer) close(patience time.Duration) {
	c.timer.Stop()
	if c.sub != nil {
		_ = c.sub.Unsubscribe() // fails on a closed connection, which has no subscriptions
	}
	c.b.deleteConsumer(c.name, patience)
}

// deleteConsumer deletes a consumer on the server, which has confirmed that when deleteConsumer returns,
// unless that takes longer than patience; with none it is not waited for. Where the server cannot be
// asked it drops the consumer by itself.
func (b *Bucket) deleteConsumer(name string, patience time.Duration) {
	if !b.nc.IsConnected() {
		return
	}
	subject := "CONSUMER.DELETE." + b.stream + "." + name
	if patience <= 0 {
		_ = b.nc.Publish(b.api+subject, nil) // see above: the server drops it by itself
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var done struct{}
	_ = b.apiRequest(ctx, b.api, subject, nil, &done) // see above
}

// connected waits until the client is connected.
func (c *Conn) connected(ctx context.Context) error {
	const check = 20 * time.Millisecond
	for !c.nc.IsConnected() {
		if c.nc.IsClosed() {
			return nats.ErrConnectionClosed
		}
		if err := pause(ctx, check); err != nil {
			return fmt.Errorf("%w: %w", nats.ErrDisconnected, err)
		}
	}
	return nil
}
