package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Op is what a revision did to its key.
type Op uint8

// The operations, in the order of package jskv's.
const (
	OpPut Op = iota
	OpDelete
	OpPurge
)

const (
	opHeader     = "KV-Operation"
	opDelete     = "DEL"
	opPurge      = "PURGE"
	reasonMaxAge = "MaxAge"
	reasonPurge  = "Purge"
	reasonRemove = "Remove"
	batchPending = "Nats-Num-Pending"
	upToHeader   = "Nats-UpTo-Sequence"
	lastConsumer = "Nats-Last-Consumer"
	lastStream   = "Nats-Last-Stream"

	pendingMessages    = "Nats-Pending-Messages"
	pendingBytesHeader = "Nats-Pending-Bytes"
)

// Message is one message of a bucket's stream: one revision of one key.
type Message struct {
	Subject  string
	Key      string
	Sequence uint64
	Time     time.Time
	Pending  uint64
	Header   nats.Header
	Data     []byte
	Op       Op
}

// Clone returns m with data and headers of its own: they belong to whoever is given them.
func (m Message) Clone() Message {
	m.Data, m.Header = bytes.Clone(m.Data), maps.Clone(m.Header)
	for name, values := range m.Header {
		m.Header[name] = slices.Clone(values)
	}
	return m
}

// Deleted reports whether the message is a marker, not a value.
func (m *Message) Deleted() bool { return m.Op != OpPut }

// Expired reports whether header is that of a marker which the server left for a value whose
// TTL ran out (ADR-43).
func Expired(header nats.Header) bool {
	return header.Get(opHeader) == "" && header.Get(jetstream.MarkerReasonHeader) == reasonMaxAge
}

func operation(header nats.Header) Op {
	if len(header) == 0 {
		return OpPut
	}
	switch header.Get(opHeader) {
	case opDelete:
		return OpDelete
	case opPurge:
		return OpPurge
	case "":
		switch header.Get(jetstream.MarkerReasonHeader) {
		case reasonMaxAge, reasonPurge:
			return OpPurge
		case reasonRemove:
			return OpDelete
		}
	}
	return OpPut
}

// decode makes a revision of what was read, whichever way it came.
func (b *Bucket) decode(subject string, sequence uint64, at time.Time, header nats.Header, data []byte) (m Message) {
	b.decodeTo(&m, subject, sequence, at, header, data)
	return m
}

// decodeTo is the one place that does. It sets what m has, which copying a revision to it, as a list has
// to a hundred thousand times, takes longer.
func (b *Bucket) decodeTo(m *Message, subject string, sequence uint64, at time.Time, header nats.Header, data []byte) {
	m.Subject = subject
	m.Key = strings.TrimPrefix(subject, b.readPrefix)
	m.Sequence = sequence
	m.Time = at.UTC()
	m.Pending = 0
	m.Header = nil
	if len(header) > 0 {
		m.Header = header
	}
	m.Data = data
	m.Op = operation(header)
}

// decodeConsumed decodes a message that a consumer delivered, and tells its place among those.
func (b *Bucket) decodeConsumed(msg *nats.Msg, m *Message) (delivered uint64, err error) {
	if n, ok := ackNumbers(msg.Reply); ok {
		b.decodeTo(m, msg.Subject, n[1], time.Unix(0, int64(n[3])), msg.Header, msg.Data)
		m.Pending = n[4]
		return n[2], nil
	}
	meta, err := msg.Metadata()
	if err != nil {
		return 0, fmt.Errorf("%w: subject %s: %w", jetstream.ErrInvalidJetStreamResponse, Quote(msg.Subject), err)
	}
	b.decodeTo(m, msg.Subject, meta.Sequence.Stream, meta.Timestamp, msg.Header, msg.Data)
	m.Pending = meta.NumPending
	return meta.Sequence.Consumer, nil
}

// ackNumbers reads the common form of a delivered message's reply subject, nine tokens that end
// in five numbers: times delivered, stream and consumer sequence, time, pending. The client's
// Metadata, which reads every form, costs a tenth of a listing.
func ackNumbers(reply string) (n [5]uint64, ok bool) {
	const prefix, most = "$JS.ACK.", 19
	if !strings.HasPrefix(reply, prefix) {
		return n, false
	}
	rest := reply[len(prefix):]
	for i := len(n) - 1; i >= 0; i-- {
		dot := strings.LastIndexByte(rest, '.')
		if dot < 0 {
			return n, false
		}
		digits := rest[dot+1:]
		rest = rest[:dot]
		if digits == "" || len(digits) > most {
			return n, false
		}
		for j := 0; j < len(digits); j++ {
			if digits[j] < '0' || digits[j] > '9' {
				return n, false
			}
			n[i] = n[i]*10 + uint64(digits[j]-'0')
		}
	}
	return n, strings.Count(rest, ".") == 1 // stream and consumer
}

// decodeDirect decodes the answer to a direct get (ADR-31) and tells which stream gave it.
func (b *Bucket) decodeDirect(msg *nats.Msg) (m Message, stream string, err error) {
	header := msg.Header
	bad := func(name string) error {
		return fmt.Errorf("%w: direct get answered with the header %s %s", jetstream.ErrInvalidJetStreamResponse, name, Quote(lastOf(header, name)))
	}
	sequence, err := strconv.ParseUint(lastOf(header, jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return Message{}, "", bad(jetstream.SequenceHeader)
	}
	at, err := time.Parse(time.RFC3339Nano, lastOf(header, jetstream.TimeStampHeaer))
	if err != nil {
		return Message{}, "", bad(jetstream.TimeStampHeaer)
	}
	subject := lastOf(header, jetstream.SubjectHeader)
	if subject == "" {
		return Message{}, "", bad(jetstream.SubjectHeader)
	}
	stream = lastOf(header, jetstream.StreamHeader)
	for _, name := range []string{jetstream.StreamHeader, jetstream.SubjectHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer} {
		dropLast(header, name)
	}
	return b.decode(subject, sequence, at, header, msg.Data), stream, nil
}

// lastOf returns the last value of a header. The server appends its own to what is stored, so
// in a message that was stored with such a header already (a republished one) the last counts.
func lastOf(header nats.Header, name string) string {
	values := header[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// dropLast takes away the last value of a header, leaving what the message was stored with.
func dropLast(header nats.Header, name string) {
	if values := header[name]; len(values) > 1 {
		header[name] = values[:len(values)-1]
	} else {
		delete(header, name)
	}
}

func uintHeader(header nats.Header, name string) (uint64, bool) {
	n, err := strconv.ParseUint(lastOf(header, name), 10, 64)
	return n, err == nil
}

// storedMessage is a message as STREAM.MSG.GET answers it.
type storedMessage struct {
	Message struct {
		Subject  string    `json:"subject"`
		Sequence uint64    `json:"seq"`
		Header   []byte    `json:"hdrs"`
		Data     []byte    `json:"data"`
		Time     time.Time `json:"time"`
	} `json:"message"`
}

// decodeStored decodes a message that a stream's leader answered.
func (b *Bucket) decodeStored(stored *storedMessage) (Message, error) {
	var header nats.Header
	if len(stored.Message.Header) > 0 {
		var err error
		if header, err = nats.DecodeHeadersMsg(stored.Message.Header); err != nil {
			return Message{}, fmt.Errorf("%w: headers of %s: %w", jetstream.ErrInvalidJetStreamResponse, Quote(stored.Message.Subject), err)
		}
	}
	data := stored.Message.Data
	if data == nil {
		data = []byte{}
	}
	return b.decode(stored.Message.Subject, stored.Message.Sequence, stored.Message.Time, header, data), nil
}

// pubAck is the server's answer to a stored message.
type pubAck struct {
	Stream    string              `json:"stream"`
	Sequence  uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Error     *jetstream.APIError `json:"error"`
}

// decodeAck reads the common form of an acknowledgement, {"stream":"KV_b","seq":7}, without a
// JSON decoder, which would be a third of the allocations of a put.
func decodeAck(data []byte, stream string) (pubAck, error) {
	const head, middle = `{"stream":"`, `","seq":`
	s := data
	if n := len(head) + len(stream) + len(middle); len(s) > n+1 && s[len(s)-1] == '}' &&
		string(s[:len(head)]) == head && string(s[len(head):len(head)+len(stream)]) == stream &&
		string(s[len(head)+len(stream):n]) == middle {
		var sequence uint64
		digits := s[n : len(s)-1]
		plain := len(digits) < 20 && digits[0] != '0'
		for _, c := range digits {
			if c < '0' || c > '9' {
				plain = false
				break
			}
			sequence = sequence*10 + uint64(c-'0')
		}
		if plain && sequence > 0 {
			return pubAck{Stream: stream, Sequence: sequence}, nil
		}
	}
	var ack pubAck
	if err := json.Unmarshal(data, &ack); err != nil {
		return pubAck{}, fmt.Errorf("%w: %w", jetstream.ErrInvalidJSAck, err)
	}
	if ack.Error == nil && (ack.Stream == "" || ack.Sequence == 0) {
		return pubAck{}, jetstream.ErrInvalidJSAck
	}
	return ack, nil
}
