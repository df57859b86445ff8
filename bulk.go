package jskv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/seed646b090f/jskv/internal/wire"
)

// GetMany reads the newest revisions of many keys in as few round trips as the server allows, one
// for every 1024 keys or 8 MB (ADR-31). What one round trip reads is one consistent snapshot of the
// bucket; what several read is not. It has seen the writes that Entry has seen. Missing and deleted
// keys are not in the map.
//
// Values that do not decode are left out and reported, each as a *DecodeError, joined into one
// error; the other entries are returned beside it. Other errors are those of Entry, and come
// without entries.
func (b *Bucket[T]) GetMany(ctx context.Context, keys ...string) (map[string]Entry[T], error) {
	found, err := b.core.GetMany(ctx, keys)
	if err != nil {
		return nil, b.failed("get many of", "", err)
	}
	entries := make(map[string]Entry[T], len(found))
	var undecoded []error
	for i := range found {
		if found[i].Deleted() {
			continue
		}
		e, err := b.entry(&found[i], false)
		if err != nil {
			undecoded = append(undecoded, err)
			continue
		}
		entries[e.Key] = e
	}
	return entries, errors.Join(undecoded...)
}

// BulkOption changes how PutMany writes.
type BulkOption interface {
	applyBulk(*bulkOptions)
}

type bulkOptions struct {
	progress   func(done int)
	maxPending int
	hasPending bool
}

type bulkOption func(*bulkOptions)

func (o bulkOption) applyBulk(opts *bulkOptions) { o(opts) }

// Progress has report called with the number of writes acknowledged so far, after each of them, on
// the goroutine that called PutMany.
func Progress(report func(done int)) BulkOption {
	return bulkOption(func(opts *bulkOptions) { opts.progress = report })
}

// MaxPending bounds how many writes may be on their way to the server, from 1 (less is an
// ErrInvalidOption) to 65536 (more is taken for 65536). The default is 2048. Whatever it is, no
// more than 16 MB are on their way.
func MaxPending(n int) BulkOption {
	return bulkOption(func(opts *bulkOptions) { opts.maxPending, opts.hasPending = n, true })
}

// PutMany writes what seq yields, pipelined, and returns how many writes were acknowledged. Each is
// a write like Put: they are stored in the order of seq, and of several writes of one key the last
// one counts. In a bucket made WithFastIngest it takes about three quarters of the time.
//
// On failure the error is a *BulkError with the keys that were not written, and why; everything
// else is stored. A write that fails by itself does not end the others. The end of ctx, or of the
// connection, does: seq is not asked for more, the writes on their way are ErrOutcomeUnknown, and
// the BulkError Is the context's error too.
//
// A write that the server had no room for at the moment is sent again. So is, with
// WithIdempotentWrites, one whose answer was lost, if it was not stored. It is not sent again when
// a newer write of its key has replaced it by then: it counts as written, although no revision may
// ever have had its value.
func (b *Bucket[T]) PutMany(ctx context.Context, seq iter.Seq2[string, T], opts ...BulkOption) (int, error) {
	const op = "put many into"
	var all bulkOptions
	for _, opt := range opts {
		if opt != nil {
			opt.applyBulk(&all)
		}
	}
	if all.hasPending && all.maxPending < 1 {
		return 0, b.failed(op, "", fmt.Errorf("%w: MaxPending(%d) is less than one", ErrInvalidOption, all.maxPending))
	}
	done, failures := 0, map[string]error{}
	fail := func(key string, err error) {
		if !errors.Is(failures[key], ErrOutcomeUnknown) { // which no later failure undoes
			failures[key] = b.failed("put", key, err)
		}
	}
	pipeline, err := b.core.NewPipeline(ctx, all.maxPending, func(key string, err error) {
		if err != nil {
			fail(key, err)
			return
		}
		done++
		if report := all.progress; report != nil {
			all.progress = nil // one that panics is not called again when the pipeline is closed
			report(done)
			all.progress = report
		}
	})
	if err != nil {
		return 0, b.failed(op, "", err)
	}
	// Whatever ends this, a panic of seq included, the pipeline is closed.
	var cause error
	defer func() { pipeline.Close(cause) }()
	for key, value := range seq {
		w := wire.Write{Key: key}
		if err := b.prepareKept(&w, &value, nil); err != nil {
			fail(key, err)
			continue
		}
		if cause = pipeline.Put(w); cause != nil {
			break
		}
	}
	if cause == nil {
		cause = pipeline.Flush()
	}
	pipeline.Close(cause)
	if cause == nil && len(failures) == 0 {
		return done, nil
	}
	return done, &BulkError{Bucket: b.Name(), Failed: failures, cause: cause}
}

// BulkError lists the keys of which a write failed, and why. It Is every one of these errors, and
// what ended the writing early.
type BulkError struct {
	Bucket string           // the bucket's name
	Failed map[string]error // why, by key; of several failed writes of a key one that is ErrOutcomeUnknown, else the last

	cause error // what ended the writing before its end, if that happened
}

// Error names the bucket, the number of keys, and one of them.
func (e *BulkError) Error() string {
	text := where("put many into", e.Bucket, "") + ": "
	if e.cause != nil {
		text += fmt.Sprintf("ended early: %v; ", e.cause)
	}
	if len(e.Failed) == 0 {
		return text + "no key failed"
	}
	first := slices.Min(slices.Collect(maps.Keys(e.Failed)))
	return text + fmt.Sprintf("%d keys failed, among them: %v", len(e.Failed), e.Failed[first])
}

// Unwrap returns why the writing ended early, if it did, and the errors of the keys.
func (e *BulkError) Unwrap() []error {
	var all []error
	if e.cause != nil {
		all = append(all, e.cause)
	}
	for _, key := range slices.Sorted(maps.Keys(e.Failed)) {
		all = append(all, e.Failed[key])
	}
	return all
}
