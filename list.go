package jskv

import (
	"context"
	"iter"

	"github.com/seed646b090f/jskv/internal/wire"
)

// Keys yields every live key once, in no particular order. A key that is alive from the call to the
// end is never missing, however many writers overwrite it meanwhile. An empty bucket is an empty
// sequence, no error.
//
// Filters are NATS subject patterns over keys ("sue.*", "sue.>"); none means every key. They may
// overlap; one that is no pattern over keys gives ErrInvalidFilter.
//
// As with every sequence of this package, one that ends without an error was complete, and a
// non-nil error is the last pair. Nothing is sent before the first step, breaking out releases
// everything, and a sequence can be ranged over again. Where ctx has no deadline, a server that
// does not answer for the default timeout (5 s) ends the sequence with an error. Other errors:
// ErrInvalidFilter, ErrBucketNotFound, ErrBucketReplaced, ErrPermission, the context's.
//
// On a replicated bucket a list that is too large for one request (1024 keys, 256 KB) may be held
// in memory until it is whole. That is so where the server that delivers it is not the stream's
// leader: it may lag, and would begin with what is older than this handle's own writes.
func (b *Bucket[T]) Keys(ctx context.Context, filters ...string) iter.Seq2[string, error] {
	filters = append([]string(nil), filters...)
	return func(yield func(string, error) bool) {
		err := b.core.List(ctx, filters, true, func(m *wire.Message) bool {
			return yield(m.Key, nil)
		})
		if err != nil {
			yield("", b.failed("list keys of", "", err))
		}
	}
}

// Entries yields the newest revision of every live key, once, in no particular order. It keeps the
// contract of Keys, with one exception: a value that does not decode does not end the sequence. Its
// pair is the entry without the value and a *DecodeError, and the sequence goes on.
func (b *Bucket[T]) Entries(ctx context.Context, filters ...string) iter.Seq2[Entry[T], error] {
	filters = append([]string(nil), filters...)
	return func(yield func(Entry[T], error) bool) {
		err := b.core.List(ctx, filters, false, func(m *wire.Message) bool {
			return yield(b.entry(m, false))
		})
		if err != nil {
			yield(Entry[T]{}, b.failed("list entries of", "", err))
		}
	}
}

// History yields the stored revisions of key, oldest first, markers included. A key without any is
// an empty sequence. While the key is being written, the sequence may be longer than what the bucket
// keeps, and have a gap: revisions that were there when it began, and those that came in their place.
// Its errors are those of Entries, and ErrInvalidKey.
func (b *Bucket[T]) History(ctx context.Context, key string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		err := wire.CheckKey(key)
		if err == nil {
			err = b.core.History(ctx, key, func(m *wire.Message) bool {
				return yield(b.entry(m, false))
			})
		}
		if err != nil {
			yield(Entry[T]{}, b.failed("history of", key, err))
		}
	}
}

// Collect gathers a sequence into a slice; on an error it returns what came before it too. A value
// that does not decode ends it as any other error does.
func Collect[V any](seq iter.Seq2[V, error]) ([]V, error) {
	var all []V
	for v, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}
