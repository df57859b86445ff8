package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// View is what a transaction reads: the bucket as it was at one sequence, which its first read
// fixes. It is used by one goroutine.
//
// A key whose newest revision is at most the view's sequence had that revision then too; where
// it is above, the view is gone.
type View struct {
	b        *Bucket
	at       uint64 // the view's sequence, 0 before the first read
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
	slices.Sort(unread)
	for chunk := range slices.Chunk(slices.Compact(unread), mostMatches) {
		if err := v.readChunk(ctx, chunk); err != nil {
			return nil, err
		}
	}
	return v.found, nil
}

func (v *View) readChunk(ctx context.Context, keys []string) error {
	found, upTo, err := v.b.view(ctx, keys, v.at)
	if err != nil {
		return err
	}
	if v.at == 0 {
		if v.at = upTo; upTo == 0 {
			// An answer without any key does not tell its moment: let the view be what the leader
			// has now, and the keys be absent in it.
			info, err := v.b.originInfo(ctx)
			if err != nil {
				return err
			}
			v.at = info.State.LastSeq
			if found, _, err = v.b.view(ctx, keys, v.at); err != nil {
				return err
			}
		}
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
