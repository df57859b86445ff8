package jskv

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/seed646b090f/jskv/internal/wire"
)

// Operation is what a revision did to its key (ADR-8).
type Operation uint8

// The operations.
const (
	OpPut    Operation = iota // stored a value
	OpDelete                  // left a delete marker; older revisions stay in the history
	OpPurge                   // left a marker and dropped the older revisions; also the marker of a TTL that ran out
)

// String returns "Put", "Delete" or "Purge".
func (op Operation) String() string {
	switch op {
	case OpPut:
		return "Put"
	case OpDelete:
		return "Delete"
	case OpPurge:
		return "Purge"
	}
	return "unknown operation"
}

// Entry is one revision of one key: a value, safe to copy and to keep. The zero value is no
// revision.
type Entry[T any] struct {
	Bucket    string      // the name that the handle was opened with
	Key       string      // without the bucket's prefix
	Value     T           // the zero value in a marker, beside a *DecodeError, and where values were not asked for
	Revision  uint64      // counts the writes of the whole bucket: the sequence in its stream
	Created   time.Time   // when the server stored it
	Delta     uint64      // how many matching revisions were still to come when this one was sent; 0 from Entry
	Operation Operation   // what the revision did to the key
	Header    nats.Header // the message's headers, nil when there are none
}

// Expired reports whether this is the marker that the server leaves when a TTL runs out
// (ADR-43). Its Operation is OpPurge.
func (e Entry[T]) Expired() bool { return wire.Expired(e.Header) }

// entry makes the typed entry of a message. A value that does not decode gives the entry
// without it and a *DecodeError.
func (b *Bucket[T]) entry(m *wire.Message, keysOnly bool) (Entry[T], error) {
	e := Entry[T]{
		Bucket:    b.core.Name(),
		Key:       m.Key,
		Revision:  m.Sequence,
		Created:   m.Time,
		Delta:     m.Pending,
		Operation: Operation(m.Op),
		Header:    m.Header,
	}
	if keysOnly || m.Deleted() {
		return e, nil
	}
	value, err := b.codec.Decode(m.Data)
	if err != nil {
		return e, &DecodeError{Bucket: e.Bucket, Key: e.Key, Revision: e.Revision, Data: m.Data, Err: err}
	}
	e.Value = value
	return e, nil
}
