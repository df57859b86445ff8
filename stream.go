package jskv

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv/internal/wire"
)

// RawStream is the stream KV_<bucket> as it is: subjects, sequences, headers. Bucket.Stream returns
// it. It is safe for concurrent use.
type RawStream struct {
	core *wire.Bucket
}

// Name returns the stream's name, such as KV_profiles. It sends no request.
func (s *RawStream) Name() string { return s.core.StreamName() }

// Subject returns the subject under which the stream stores key, such as $KV.profiles.sue.color; in
// a mirror that is its origin's. It does not check the key.
func (s *RawStream) Subject(key string) string { return s.core.Subject(key) }

// Info returns the stream's configuration and state as the server has them now. Errors:
// ErrBucketNotFound when the stream is gone, ErrPermission, and the context's or a timeout.
func (s *RawStream) Info(ctx context.Context) (*jetstream.StreamInfo, error) {
	info, err := s.core.Info(ctx)
	return info, failed("info of", s.core.Name(), "", err)
}

// JetStream returns the stream as package jetstream has it, for everything else. Its errors are
// those of that package. The bucket's handles do not know what was changed through it: their reads
// may not have it at once.
func (s *RawStream) JetStream() jetstream.Stream { return s.core.Stream() }

// RawOption changes what Messages reads.
type RawOption interface {
	applyRaw(*rawOptions)
}

type rawOptions struct {
	filters     []string
	from        uint64
	headersOnly bool
}

type rawOption func(*rawOptions)

func (o rawOption) applyRaw(opts *rawOptions) { o(opts) }

// RawFilter reads only the messages of keys that one of the filters matches. They are key
// patterns, as in Watch, and may overlap. By default the whole stream is read.
func RawFilter(filters ...string) RawOption {
	filters = append([]string(nil), filters...)
	return rawOption(func(opts *rawOptions) { opts.filters = append(opts.filters, filters...) })
}

// RawFrom starts at this sequence, or at the next one that is still stored. By default reading
// starts with the first stored message.
func RawFrom(sequence uint64) RawOption {
	return rawOption(func(opts *rawOptions) { opts.from = sequence })
}

// RawHeadersOnly leaves the messages' data out: the server does not send them. It tells the size of
// each, in bytes, in the header Nats-Msg-Size.
func RawHeadersOnly() RawOption {
	return rawOption(func(opts *rawOptions) { opts.headersOnly = true })
}

// RawMessage is one message of the stream.
type RawMessage struct {
	Subject   string      // under which it is stored
	Key       string      // the subject without the bucket's prefix
	Sequence  uint64      // the revision
	Time      time.Time   // when the server stored it
	Pending   uint64      // how many matching messages were still to come when this one was sent
	Header    nats.Header // nil when there is none
	Data      []byte      // the reader's to keep and to change
	Operation Operation   // what it did to the key, as its headers say
}

// RawMessages reads a stream's messages in sequence order. RawStream.Messages makes one; the zero
// value is not usable. One goroutine reads it at a time; Stop may be called from any. It survives
// what a Watcher survives, and ends as a Watcher ends.
type RawMessages struct {
	core   *wire.Bucket
	reader *wire.Reader
}

// Messages starts reading the stored messages and then the new ones, in sequence order. It lives
// until ctx ends or Stop. Errors: ErrInvalidFilter, ErrBucketNotFound, ErrPermission, and the
// context's or a timeout.
func (s *RawStream) Messages(ctx context.Context, opts ...RawOption) (*RawMessages, error) {
	const op = "messages of"
	var all rawOptions
	for _, opt := range opts {
		if opt != nil {
			opt.applyRaw(&all)
		}
	}
	reader, err := s.core.OpenReader(ctx, wire.ReaderConfig{
		Filters:     all.filters,
		Whole:       len(all.filters) == 0,
		Start:       wire.StartAt,
		Sequence:    all.from,
		HeadersOnly: all.headersOnly,
	})
	if err != nil {
		return nil, failed(op, s.core.Name(), "", err)
	}
	return &RawMessages{core: s.core, reader: reader}, nil
}

// Next returns the next message. It waits for one to be stored until ctx ends; the error of ctx is
// not the end of the messages: the next call goes on. After Stop it returns ErrWatcherStopped.
// ErrBucketNotFound, ErrBucketReplaced, ErrPermission, nats.ErrConnectionClosed,
// nats.ErrConnectionDraining and the error of the context of Messages end them.
func (m *RawMessages) Next(ctx context.Context) (RawMessage, error) {
	for {
		msg, err := m.reader.Next(ctx)
		if errors.Is(err, wire.ErrSynced) {
			continue
		}
		if err != nil {
			return RawMessage{}, failed("messages of", m.core.Name(), "", err)
		}
		return RawMessage{
			Subject:   msg.Subject,
			Key:       msg.Key,
			Sequence:  msg.Sequence,
			Time:      msg.Time,
			Pending:   msg.Pending,
			Header:    msg.Header,
			Data:      msg.Data,
			Operation: Operation(msg.Op),
		}, nil
	}
}

// All yields the messages until the context of Messages ends (the last pair is its error), Stop (it
// ends with no error), or a failure. It can be ranged over again and goes on where it was left.
func (m *RawMessages) All() iter.Seq2[RawMessage, error] {
	return func(yield func(RawMessage, error) bool) {
		for {
			msg, err := m.Next(context.Background())
			if errors.Is(err, ErrWatcherStopped) || !yield(msg, err) || err != nil {
				return
			}
		}
	}
}

// Stop ends the reading and waits until nothing of it is left, as Watcher.Stop does. It may be called
// twice, from any goroutine, and from inside the loop.
func (m *RawMessages) Stop() { m.reader.Stop() }
