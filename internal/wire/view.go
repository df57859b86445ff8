package wire

import (
	"context"
	"errors"
	"fmt"
)

// View is what a transaction reads: the bucket as it was at one sequence, which its first read
// fixes. It is used by one goroutine.
//
// A key whose newest revision is at most the view's sequence had that revision then too; where
// it is above, the view is gone.
type View struct {
	b        *Bucket
	fixed    bool   // something was read
	at       uint64 // the view's sequence
	found    map[string]Message
	revision map[string]uint64 // of every key read, 0 when it had none
}

// NewView returns a view that nothing was read from.
func (b *Bucket) NewView() *View {
	return &View{b: b, found: map[string]Message{}, revision: map[string]uint64{}}
}

// Read returns the newest revisions of keys in the view, markers included. Moved tells the error
// of a view that is gone.
func (v *View) Read(ctx context.Context, keys []string) (map[string]Message, error) {
	var unread []string
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return nil, err
		}
		if _, read := v.revision[key]; !read {
			unread = append(unread, key)
		}
	}
	for _, part := range v.b.requests(unread) {
		if err := v.readPart(ctx, part); err != nil {
			return nil, err
		}
	}
	return v.found, nil
}

func (v *View) readPart(ctx context.Context, keys []string) error {
	found, upTo, err := v.b.view(ctx, keys, v.at)
	if err != nil {
		return err
	}
	if !v.fixed {
		v.fixed, v.at = true, upTo
	}
	for i := range found {
		m := found[i]
		if m.Sequence > v.at {
			return fmt.Errorf("%w: %s was written", errBucketMoved, Quote(m.Key))
		}
		v.found[m.Key] = m
	}
	for _, key := range keys {
		v.revision[key] = v.found[key].Sequence
	}
	return nil
}

// Commit stores writes if nothing that was read has changed, and returns the revision of the last.
// ErrRevisionMismatch, or Moved, when something has.
func (v *View) Commit(ctx context.Context, writes []Write) (uint64, error) {
	batch := Batch{Writes: writes, Last: v.at}
	written := make(map[string]struct{}, len(writes))
	for i := range writes {
		w := &writes[i]
		written[w.Key] = struct{}{}
		w.Revision, w.Expect = v.revision[w.Key], false
		if _, read := v.revision[w.Key]; read {
			w.Expect = true
		}
	}
	for key, revision := range v.revision {
		if _, ok := written[key]; !ok {
			batch.Guards = append(batch.Guards, Guard{key, revision})
		}
	}
	revisions, err := v.b.Commit(ctx, batch)
	if err != nil {
		return 0, err
	}
	if len(revisions) == 0 {
		return 0, errors.New("a commit without writes")
	}
	return revisions[len(revisions)-1], nil
}
