package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Read says which revision of a key is wanted and how fresh the answer must be.
type Read struct {
	Revision uint64 // that very revision, 0 for the newest
	AtLeast  uint64 // the answer has seen this revision of the bucket
	Leader   bool   // ask the stream's leader only
}

// Get reads one revision of key. The answer has seen every write that this handle was
// acknowledged for. ErrKeyNotFound when there is none; a marker is returned as it is.
func (b *Bucket) Get(ctx context.Context, key string, r Read) (Message, error) {
	leader, in := r.Leader || !b.facts.Load().direct, b.era()
	if r.AtLeast > 0 && (leader || r.Revision != 0) {
		if err := b.await(ctx, r.AtLeast); err != nil {
			return Message{}, err
		}
	}
	switch {
	case leader && r.Revision != 0:
		return b.revisionFromLeader(ctx, key, r.Revision)
	case leader:
		m, err := b.newestOfLeader(ctx, key)
		if err == nil {
			b.learned(in, m.Sequence)
		}
		return m, err
	case r.Revision != 0:
		return b.revision(ctx, key, r.Revision)
	}
	m, err := b.gathered(ctx, key, r.AtLeast)
	if err == nil {
		b.learned(in, m.Sequence)
	}
	return m, err
}

// learned notes a revision that a server answered with in an era, so that the next read of this handle is
// not older, also when a mirror answers that nobody knew of. A handle on a mirror has to read it
// without its origin, which alone could confirm that something is not there.
func (b *Bucket) learned(in *era, revision uint64) {
	if !b.facts.Load().mirror {
		in.acknowledged(revision)
	}
}

// newestOfLeader reads the newest revision of key at the leader. One that was deposed, or was just elected,
// may be behind what this handle knows. What it answers is then older than that, and counts only when it
// has come as far.
func (b *Bucket) newestOfLeader(ctx context.Context, key string) (Message, error) {
	seen := b.high()
	m, err := b.fromLeader(ctx, key)
	if err != nil && !errors.Is(err, ErrKeyNotFound) || m.Sequence >= seen || b.oneServer() {
		return m, err
	}
	return b.confirm(ctx, key, 0)
}

// newestFrom reads the newest revision of key from whoever answers, if that has seen enough.
func (b *Bucket) newestFrom(ctx context.Context, key string, atLeast uint64) (Message, error) {
	seen := max(b.high(), atLeast)
	if seen > 0 && b.shared() {
		return b.fresh(ctx, key, atLeast)
	}
	m, stream, err := b.direct(ctx, b.directGet+"."+b.readPrefix+key, nil)
	switch {
	case errors.Is(err, errNoDirect):
		return b.confirm(ctx, key, atLeast)
	case errors.Is(err, ErrKeyNotFound) && seen == 0 && b.facts.Load().mirror:
		return m, err // a mirror is read as it is, within or without reach of its origin
	case errors.Is(err, ErrKeyNotFound):
		// Nothing says who found nothing: it may be a mirror that lags, or has only other keys.
		if b.shared() {
			return b.fresh(ctx, key, atLeast)
		}
		return b.confirm(ctx, key, atLeast)
	case err != nil:
		return m, err
	case stream != b.stream:
		b.mirrored.Store(true)
		if m.Sequence < seen || b.foreign(&m, stream) {
			return b.fresh(ctx, key, atLeast)
		}
	case m.Sequence < atLeast && atLeast > b.high():
		return b.fresh(ctx, key, atLeast)
	}
	return m, nil
}

// foreign reports whether a mirror answered with what another bucket of the name had: it does not notice
// that its origin was made again, and has what is older than that.
func (b *Bucket) foreign(m *Message, stream string) bool {
	return stream != b.stream && m.Time.UnixNano() < b.era().born.Load()
}

// direct asks for one message by a direct get (ADR-31).
func (b *Bucket) direct(ctx context.Context, subject string, request []byte) (Message, string, error) {
	watched, gone := b.vigil(ctx, place{b.api, b.stream})
	msg, err := b.ask(watched, subject, request)
	if e := gone(); e != nil {
		err = e
	}
	if errors.Is(err, nats.ErrNoResponders) {
		// The client also takes for that an empty value which was stored with the header Status: 503. The
		// leader's answer has the headers within.
		if err = b.noDirect(ctx, err); errors.Is(err, jetstream.ErrNoStreamResponse) {
			err = errNoDirect
		}
		return Message{}, "", err
	}
	if err != nil {
		return Message{}, "", err
	}
	if err := directStatus(msg); err != nil {
		return Message{}, "", err
	}
	return b.decodeDirect(msg)
}

// noDirect finds out why nobody answers direct gets.
func (b *Bucket) noDirect(ctx context.Context, err error) error {
	info, gone := b.Info(ctx)
	switch {
	case gone != nil:
		return fmt.Errorf("%w: %w", gone, err)
	case !info.Config.AllowDirect:
		return errNoDirect
	}
	return fmt.Errorf("%w: %w", jetstream.ErrNoStreamResponse, err)
}

// errNoDirect says that direct gets were switched off since the bucket was opened, or have no answer.
var errNoDirect = errors.New("the stream answers no direct gets")

// directStatus turns the status of an answer to a direct get into an error.
func directStatus(msg *nats.Msg) error {
	if !isStatus(msg) {
		return nil
	}
	switch status := msg.Header.Get(statusHeader); status {
	case "404":
		return ErrKeyNotFound
	default:
		return fmt.Errorf("%w: direct get answered %s %s", jetstream.ErrInvalidJetStreamResponse, status, msg.Header.Get("Description"))
	}
}

// revision reads one stored revision, which never changes: whoever has it may answer.
func (b *Bucket) revision(ctx context.Context, key string, revision uint64) (Message, error) {
	m, stream, err := b.direct(ctx, b.directGet, mustJSON(map[string]uint64{"seq": revision}))
	if errors.Is(err, ErrKeyNotFound) || errors.Is(err, errNoDirect) || err == nil && b.foreign(&m, stream) {
		// Who answered may not have it yet, or have another bucket's.
		return b.revisionFromLeader(ctx, key, revision)
	}
	return b.ofKey(key, m, err)
}

func (b *Bucket) revisionFromLeader(ctx context.Context, key string, revision uint64) (Message, error) {
	m, err := b.stored(ctx, map[string]any{"seq": revision})
	return b.ofKey(key, m, err)
}

// ofKey checks that a message read by its sequence is one of key's.
func (b *Bucket) ofKey(key string, m Message, err error) (Message, error) {
	if err == nil && m.Key != key {
		return Message{}, fmt.Errorf("%w: revision %d is of another key", ErrKeyNotFound, m.Sequence)
	}
	return m, err
}

// fromLeader reads the newest revision at the leader of the stream that takes the writes.
func (b *Bucket) fromLeader(ctx context.Context, key string) (Message, error) {
	return b.stored(ctx, map[string]any{"last_by_subj": keySpaceOf(b.origin.stream) + key})
}

// stored asks the leader for one message.
func (b *Bucket) stored(ctx context.Context, request map[string]any) (Message, error) {
	var stored storedMessage
	err := b.askLeader(ctx, request, &stored)
	if errors.Is(err, ErrKeyNotFound) {
		return Message{}, ErrKeyNotFound // which says it, without the API's wording
	}
	if err != nil {
		return Message{}, err
	}
	// A mirror may store what its origin has under other subjects; a handle knows its own.
	if key, ok := strings.CutPrefix(stored.Message.Subject, keySpaceOf(b.origin.stream)); ok {
		stored.Message.Subject = b.readPrefix + key
	}
	return b.decodeStored(&stored)
}

// askLeader asks the leader for one message. In a cluster the leader of the metadata may say that there is no
// stream until it has applied its creation (2.15.2). So askLeader asks whether the stream is there, and while it
// is, asks for the message again, for the default timeout at most.
func (b *Bucket) askLeader(ctx context.Context, request map[string]any, stored *storedMessage) error {
	subject := "STREAM.MSG.GET." + b.origin.stream
	refused := b.apiRequest(ctx, b.origin.api, subject, request, stored)
	if !errors.Is(refused, ErrBucketNotFound) {
		return refused // the common case is one request, which bounds itself
	}
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	var backoff Backoff
	for begun := time.Now(); errors.Is(refused, ErrBucketNotFound) && time.Since(begun) < b.timeout; {
		switch err := b.gone(ctx, b.origin); {
		case errors.Is(err, ErrBucketNotFound), errors.Is(err, ErrPermission), errors.Is(err, nats.ErrNoResponders):
			return refused
		case err != nil:
			return err
		}
		if err := backoff.Wait(ctx); err != nil {
			return err
		}
		refused = b.apiRequest(ctx, b.origin.api, subject, request, stored)
	}
	return refused
}

// fresh reads the newest revision of key from somebody who has seen what this handle was
// acknowledged for, and the bucket's revision atLeast, and whose answer says so. The leader's does
// not: after a partition two servers may take themselves for it. Only a mirror, which may be as
// late as it likes, is not waited for longer than a second; then its origin's leader is asked. So is it
// over a connection that is drained, which takes no answers but those of one message.
func (b *Bucket) fresh(ctx context.Context, key string, atLeast uint64) (Message, error) {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	attempt, cancelAttempt := ctx, context.CancelFunc(func() {})
	if b.facts.Load().mirror {
		attempt, cancelAttempt = context.WithTimeout(ctx, time.Second)
	}
	defer cancelAttempt()
	found, _, err := b.view(attempt, []string{key}, atLeast)
	switch {
	case err == nil && len(found) > 0:
		return found[0], nil
	case err == nil:
		return Message{}, ErrKeyNotFound
	case ctx.Err() == nil && attempt.Err() != nil, errors.Is(err, errBucketMoved), errors.Is(err, nats.ErrConnectionDraining):
		return b.confirm(ctx, key, atLeast)
	}
	return Message{}, err
}

// confirm reads the newest revision of key at the leader, once that has come to what this handle
// was acknowledged for and to atLeast.
func (b *Bucket) confirm(ctx context.Context, key string, atLeast uint64) (Message, error) {
	if seen := max(b.high(), atLeast); seen > 0 {
		if err := b.await(ctx, seen); err != nil {
			return Message{}, err
		}
	}
	return b.fromLeader(ctx, key)
}

// await waits until the leader has come to sequence seen.
func (b *Bucket) await(ctx context.Context, seen uint64) error {
	ctx, cancel := b.Bound(ctx)
	defer cancel()
	var backoff Backoff
	for since := b.era(); ; {
		if has, err := b.leaderHas(ctx, seen); has || err != nil {
			return err
		}
		if since.over(b) {
			return nil // another bucket of the name, which knows nothing of seen
		}
		if err := backoff.Wait(ctx); err != nil {
			return notSeen(seen, err)
		}
	}
}

func notSeen(seen uint64, err error) error {
	return fmt.Errorf("no server has seen revision %d of the bucket yet: %w", seen, err)
}

// leaderHas reports whether the leader of the stream that takes the writes has come to
// sequence seen. A leader just elected may still be applying what its predecessor acknowledged.
func (b *Bucket) leaderHas(ctx context.Context, seen uint64) (bool, error) {
	if b.oneServer() && seen <= b.high() {
		return true, nil
	}
	info, err := b.originInfo(ctx)
	if err != nil {
		return false, err
	}
	return info.State.LastSeq >= seen, nil
}

// oneServer reports whether only one can lead the stream that takes the writes: the one that acknowledged.
func (b *Bucket) oneServer() bool { return !b.facts.Load().clustered && b.origin.stream == b.stream }
