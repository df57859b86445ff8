package jskv

import (
	"fmt"
	"time"

	"github.com/seed646b090f/jskv/internal/wire"
)

// BucketOption changes how a bucket is made or opened.
type BucketOption interface {
	applyBucket(*wire.Options)
}

type bucketOption func(*wire.Options)

func (o bucketOption) applyBucket(opts *wire.Options) { o(opts) }

// WithTransactions makes the bucket accept atomic batches (ADR-50; server 2.12 or later). By
// default a bucket is created without them. OpenBucket changes no bucket: with this option it fails
// with ErrTransactionsDisabled when the bucket does not accept them.
func WithTransactions() BucketOption {
	return bucketOption(func(opts *wire.Options) { opts.Transactions = true })
}

// WithFastIngest makes the bucket accept batches in which the server acknowledges writes by the
// hundred (ADR-50; server 2.14 or later), so that PutMany takes about three quarters of the time.
// By default a bucket is created without them. OpenBucket changes no bucket: with this option it
// fails with ErrInvalidOption when the bucket does not accept them. PutMany uses them wherever the
// bucket accepts them, also on a handle that was opened without the option.
//
// The promises of PutMany stay as they are, also when a connection is lost: then the server tells
// how much of the batch it has stored, and the rest is sent again. Only a server that has restarted
// or fallen silent leaves what was on its way ErrOutcomeUnknown. Progress is called by the hundred
// too. The revisions of a batch are known only when it ends: while PutMany runs, a read that a
// mirror answers may be behind what Progress has reported.
//
// PutMany works without batches, and is as fast as without the option, where the bucket is in a
// cluster, is a mirror or has MaxBytes; over a connection to another server than the bucket's; with
// WithIdempotentWrites; and with MaxPending below 8.
func WithFastIngest() BucketOption {
	return bucketOption(func(opts *wire.Options) { opts.FastIngest = true })
}

// WithIdempotentWrites stamps every write with an id (the header Nats-Msg-Id), so that a write
// whose answer was lost is sent again, within the context's deadline, without being applied twice.
// By default a lost answer is ErrOutcomeUnknown at once.
//
// With the option the outcome stays unknown only where nobody can tell it: when the deadline passes
// first; and when the server does not know the id, may have forgotten it (it was restarted, or
// another leads now), and the key was written meanwhile or is not there. The server remembers ids
// for the stream's duplicate window (2 minutes unless the bucket's TTL is less); one that is
// restarted forgets those of revisions that are gone. A batch is not sent again: when its answer is
// lost, it is looked for in the bucket. docs/consistency.md says more.
func WithIdempotentWrites() BucketOption {
	return bucketOption(func(opts *wire.Options) { opts.Idempotent = true })
}

func bucketOptions(opts []BucketOption) wire.Options {
	var all wire.Options
	for _, opt := range opts {
		if opt != nil {
			opt.applyBucket(&all)
		}
	}
	return all
}

// ReadOption changes what Entry and Get read, and from whom.
type ReadOption interface {
	applyRead(*readOptions)
}

type readOptions struct {
	wire.Read
	atRevision bool
}

type readOption func(*readOptions)

func (o readOption) applyRead(opts *readOptions) { o(opts) }

// AtRevision reads this very revision of the key instead of the newest. The error is ErrKeyNotFound
// when the bucket does not have it, or no longer, when it is a marker (which Entry returns beside
// the error), and when it is another key's. Revision 0 is an ErrInvalidOption.
func AtRevision(revision uint64) ReadOption {
	return readOption(func(opts *readOptions) { opts.Revision, opts.atRevision = revision, true })
}

// AtLeast asks for an answer that has seen at least this revision of the bucket, for example one
// that another process was acknowledged for. Without it an answer has seen the handle's own writes.
// When the bucket does not reach the revision in time, the error is the context's.
func AtLeast(revision uint64) ReadOption {
	return readOption(func(opts *readOptions) { opts.AtLeast = max(opts.AtLeast, revision) })
}

// FromLeader asks the stream's leader, never a replica or a mirror; for a mirror, the leader of its
// origin. It is the newest answer that a server can give, for the price of a slower request; in a
// cluster, where the key is older than what this handle last wrote or read, of three requests. A
// leader that has been deposed and does not know it yet may still answer, but not with less than
// this handle was acknowledged for or has read.
func FromLeader() ReadOption {
	return readOption(func(opts *readOptions) { opts.Leader = true })
}

func collectRead(opts []ReadOption) (wire.Read, error) {
	var all readOptions
	for _, opt := range opts {
		if opt != nil {
			opt.applyRead(&all)
		}
	}
	if all.atRevision && all.Revision == 0 {
		return all.Read, fmt.Errorf("%w: AtRevision(0): revisions begin with 1", ErrInvalidOption)
	}
	return all.Read, nil
}

// WriteOption changes how a write is stored.
type WriteOption interface {
	applyWrite(*writeOptions)
}

type writeOptions struct {
	ttl         time.Duration
	hasTTL      bool
	revision    uint64
	hasRevision bool
}

type writeOption func(*writeOptions)

func (o writeOption) applyWrite(opts *writeOptions) { o(opts) }

// TTL lets the value (or, on Purge, the marker) expire after d: whole seconds, at least one, on a
// bucket with LimitMarkerTTL (ADR-43, ADR-48; server 2.11 or later). When a value expires, the
// server leaves a marker for which Entry.Expired is true.
//
// On a bucket with history it drops the key's older revisions, which would come back otherwise, and
// must not be shorter than LimitMarkerTTL, to which the server would silently lengthen it. It must
// not exceed the bucket's own TTL. What cannot be kept is refused with ErrInvalidOption, and so is
// a TTL on Delete.
//
// By default a value does not expire: a later write without TTL makes the key permanent again.
func TTL(d time.Duration) WriteOption {
	return writeOption(func(opts *writeOptions) { opts.ttl, opts.hasTTL = d, true })
}

// IfRevision makes Delete and Purge conditional, as Update is: they succeed only when revision is
// the key's newest, else they return a *RevisionError. 0 is not "unset": it means that the key must
// have no revision at all. On other writes it is an ErrInvalidOption.
func IfRevision(revision uint64) WriteOption {
	return writeOption(func(opts *writeOptions) { opts.revision, opts.hasRevision = revision, true })
}

// collectWrite applies opts to w, whose operation decides which of them it may have.
func collectWrite(w *wire.Write, opts []WriteOption) error {
	if len(opts) == 0 {
		return nil
	}
	var all writeOptions
	for _, opt := range opts {
		if opt != nil {
			opt.applyWrite(&all)
		}
	}
	if all.hasRevision {
		if w.Op == wire.OpPut {
			return fmt.Errorf("%w: IfRevision is for Delete and Purge, use Update", ErrInvalidOption)
		}
		w.Expect, w.Revision = true, all.revision
	}
	if all.hasTTL {
		if all.ttl == 0 {
			return fmt.Errorf("%w: TTL 0s must be whole seconds, at least one", ErrInvalidOption)
		}
		w.TTL = all.ttl
	}
	return nil
}
