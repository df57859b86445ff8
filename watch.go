package jskv

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/seed646b090f/jskv/internal/wire"
)

// AllKeys is the filter that every key matches: ">".
const AllKeys = wire.AllKeys

// WatchOption changes what a watcher delivers.
type WatchOption interface {
	applyWatch(*watchOptions)
}

type watchOptions struct {
	filters      []string
	updatesOnly  bool
	history      bool
	ignore       bool
	keysOnly     bool
	fromRevision bool
	revision     uint64
	onStatus     func(error)
}

type watchOption func(*watchOptions)

func (o watchOption) applyWatch(opts *watchOptions) { o(opts) }

// AndFilter watches the keys that these filters match as well. They may overlap, with each other
// and with the filter of Watch; a key that several of them match comes once.
func AndFilter(filters ...string) WatchOption {
	filters = append([]string(nil), filters...)
	return watchOption(func(opts *watchOptions) { opts.filters = append(opts.filters, filters...) })
}

// UpdatesOnly leaves the snapshot out: only what is written after Watch returned is delivered.
// It excludes WithHistory and FromRevision.
func UpdatesOnly() WatchOption {
	return watchOption(func(opts *watchOptions) { opts.updatesOnly = true })
}

// WithHistory makes the snapshot all stored revisions, oldest first, and not just the newest of
// every key. It excludes UpdatesOnly.
func WithHistory() WatchOption {
	return watchOption(func(opts *watchOptions) { opts.history = true })
}

// IgnoreDeletes leaves out the markers of Delete, of Purge and of TTLs that ran out. By default
// they are delivered, in the snapshot too.
func IgnoreDeletes() WatchOption {
	return watchOption(func(opts *watchOptions) { opts.ignore = true })
}

// KeysOnly leaves values out: the server does not send them. It tells the size of each, in bytes,
// in the header Nats-Msg-Size.
func KeysOnly() WatchOption {
	return watchOption(func(opts *watchOptions) { opts.keysOnly = true })
}

// FromRevision begins with this revision, or with the next one that is still stored, instead of the
// newest of every key. The revisions from there on that are stored already are the snapshot, all of
// them, as with WithHistory. It excludes UpdatesOnly.
func FromRevision(revision uint64) WatchOption {
	return watchOption(func(opts *watchOptions) { opts.fromRevision, opts.revision = true, revision })
}

// OnInterruption has report called with the reason when the watcher loses touch with the server,
// and again with nil when the server serves it again. In between, what the watcher has delivered
// may be out of date; nothing is lost. report is called on the goroutine that reads the watcher, so
// it hears of nothing while nobody reads. It may call Stop.
func OnInterruption(report func(err error)) WatchOption {
	return watchOption(func(opts *watchOptions) { opts.onStatus = report })
}

func (opts *watchOptions) config() (wire.ReaderConfig, error) {
	cfg := wire.ReaderConfig{
		Filters:     opts.filters,
		HeadersOnly: opts.keysOnly,
		SkipMarkers: opts.ignore,
		OnChange:    opts.onStatus,
	}
	switch {
	case opts.updatesOnly && opts.history:
		return cfg, fmt.Errorf("%w: UpdatesOnly and WithHistory exclude each other", ErrInvalidOption)
	case opts.updatesOnly && opts.fromRevision:
		return cfg, fmt.Errorf("%w: UpdatesOnly and FromRevision exclude each other", ErrInvalidOption)
	case opts.updatesOnly:
		cfg.Start = wire.StartNew
	case opts.fromRevision || opts.history:
		cfg.Start, cfg.Sequence = wire.StartAt, opts.revision
	}
	return cfg, nil
}

// Watcher delivers, in revision order, first the keys' current revisions (the snapshot) and then
// every change that the bucket still has when the watcher gets to it: with a history of one, the
// newest of a key. Watch makes one; the zero value is not usable. One goroutine reads it at a time;
// Stop and Synced may be called from any.
//
// It survives reconnects, leader changes and server restarts without losing or repeating a revision
// that the bucket still has. When the bucket is deleted, or replaced by another of the same name,
// it ends with ErrBucketNotFound or ErrBucketReplaced instead of falling silent.
//
// It has no goroutine of its own and works while it is being read. One that is not read holds up
// nobody and gets everything later. It costs the memory of the messages that it had asked for:
// within the snapshot at most some 50,000, or 12 MB of what the server stores; after it 512, or 8
// MB.
type Watcher[T any] struct {
	bucket   *Bucket[T]
	reader   wire.Source
	filter   string
	keysOnly bool
}

// Watch starts watching the keys that filter matches and returns when the server has it: every
// write after that is seen. AllKeys watches every key. The watcher lives until ctx ends or Stop.
//
// Errors: ErrInvalidFilter, ErrInvalidOption, ErrBucketNotFound, ErrBucketReplaced (when that
// happens while it begins), ErrPermission, and the context's or a timeout.
func (b *Bucket[T]) Watch(ctx context.Context, filter string, opts ...WatchOption) (*Watcher[T], error) {
	const op = "watch"
	all := watchOptions{filters: []string{filter}}
	for _, opt := range opts {
		if opt != nil {
			opt.applyWatch(&all)
		}
	}
	cfg, err := all.config()
	if err != nil {
		return nil, b.failed(op, "", err)
	}
	reader, err := b.core.Watch(ctx, cfg)
	if err != nil {
		return nil, b.failed(op, "", err)
	}
	return &Watcher[T]{bucket: b, reader: reader, filter: filter, keysOnly: all.keysOnly}, nil
}

// Snapshot yields the current revision of every matching key and ends. Up to some thousand entries
// (4096, or 4 MB) it is the state at the moment in which Watch returned, each key once. In a longer
// one, a key that is written meanwhile comes with its newer revision, and may have come with the
// older one before. What Snapshot or Next has handed out already does not come again.
//
// It ends without an error when the snapshot is complete. Any other end is an error, which is the
// last pair: ErrWatcherStopped after Stop, the context's when that of Watch ends, and those of
// Updates. A *DecodeError does not end it, as in Entries.
func (w *Watcher[T]) Snapshot() iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		for !w.reader.Synced() {
			e, err := w.next(context.Background())
			if errors.Is(err, wire.ErrSynced) {
				return
			}
			if !yield(e, err) || ends(err) {
				return
			}
		}
	}
}

// Updates yields what comes after the snapshot (what is left of the snapshot is skipped), until the
// context of Watch ends (the last pair is its error), Stop (it ends with no error), or a failure:
// ErrBucketNotFound, ErrBucketReplaced, ErrPermission, nats.ErrConnectionClosed,
// nats.ErrConnectionDraining. A *DecodeError does not end it, as in Entries. It can be ranged over
// again and goes on where it was left.
func (w *Watcher[T]) Updates() iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		for {
			snapshot := !w.reader.Synced()
			e, err := w.next(context.Background())
			switch {
			case errors.Is(err, wire.ErrSynced):
				continue
			case snapshot && !ends(err) && e.Revision <= w.reader.Target():
				continue // what was written since Watch returned is an update, wherever it came
			case errors.Is(err, ErrWatcherStopped):
				return
			}
			if !yield(e, err) || ends(err) {
				return
			}
		}
	}
}

// Next is the pull form of both: snapshot entries first. It waits for the next entry until ctx
// ends. The error of ctx is not the end of the watcher: the next call goes on. After Stop it
// returns ErrWatcherStopped, unless the watcher had ended before; other errors are those of
// Updates. Where the watcher has to find the server again, and several calls in a row had too little
// time for it, one may take up to two seconds longer than its context.
func (w *Watcher[T]) Next(ctx context.Context) (Entry[T], error) {
	for {
		e, err := w.next(ctx)
		if !errors.Is(err, wire.ErrSynced) {
			return e, err
		}
	}
}

func (w *Watcher[T]) next(ctx context.Context) (Entry[T], error) {
	m, err := w.reader.Next(ctx)
	if err != nil {
		return Entry[T]{}, w.bucket.failed("watch", w.filter, err)
	}
	return w.bucket.entry(&m, w.keysOnly)
}

// ends reports whether err of an entry is the end of its sequence.
func ends(err error) bool {
	if err == nil {
		return false
	}
	_, decode := errors.AsType[*DecodeError](err)
	return !decode
}

// Synced reports whether the whole snapshot has been handed out; with UpdatesOnly it is true from
// the beginning. It may be called from any goroutine.
func (w *Watcher[T]) Synced() bool { return w.reader.Synced() }

// Stop ends the watcher and waits until nothing of it is left: no subscription, and no consumer on
// the server if the server can be reached. It may be called twice, from any goroutine, and from
// inside the loop.
func (w *Watcher[T]) Stop() { w.reader.Stop() }
