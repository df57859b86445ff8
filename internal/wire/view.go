package wire

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// View is what a transaction reads: the bucket as it was at one moment. It is used by one
// goroutine.
//
// A revision never comes back once it is gone. So when the newest revision of a key is at most the
// view's sequence, the key was at it at the view's moment too, however late it is read. When it is
// above, the key was written since, and the view is gone.
//
// A key that is not there tells nothing about an earlier moment: it may have been there, been
// deleted, and its marker be gone by now. So all keys that are not there are asked for in one
// request. The moment of its answer becomes the view's, provided that everything found before is
// found unchanged after it.
type View struct {
	b        *Bucket
	since    *era
	fixed    bool   // something was read
	at       uint64 // a sequence that the bucket had come to at the view's moment
	found    map[string]Message
	absent   []string
	revision map[string]uint64 // of every key read, 0 when it had none
}

// NewView returns a view that nothing was read from.
func (b *Bucket) NewView() *View {
	return &View{b: b, since: b.era(), found: map[string]Message{}, revision: map[string]uint64{}}
}

// Read returns the newest revisions of keys in the view, markers included. Moved tells the error
// of a view that is gone. After an error the view is not to be used.
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
	if len(unread) == 0 {
		return v.found, nil
	}
	ctx, cancel := v.b.Bound(ctx)
	defer cancel()
	parts := v.b.requests(unread, v.b.asked(v.along()...))
	one := len(parts) == 1 && v.nothingElse()
	var gone []string
	for _, part := range parts {
		missing, sure, err := v.readPart(ctx, part)
		if err != nil {
			return nil, err
		}
		gone = append(gone, missing...)
		one = one && sure
	}
	return v.found, v.lacks(ctx, gone, one)
}

// nothingElse reports whether the next answer tells of all that was read before, too.
func (v *View) nothingElse() bool { return len(v.found) == 0 && len(v.along()) == len(v.absent) }

// readPart reads what one request asks for and returns what is not there. It is sure when one moment
// of the stream said so.
func (v *View) readPart(ctx context.Context, keys []string) (missing []string, sure bool, err error) {
	sure = true
	for missing = keys; ; sure = false {
		first := v.nothingElse()
		a, err := v.ask(ctx, missing, v.at, first)
		if err != nil {
			return nil, false, err
		}
		if !v.fixed || first && a.oneMoment() {
			v.fixed, v.at = true, a.upTo
		}
		for i := range a.found {
			m := a.found[i]
			if m.Sequence > v.at {
				return nil, false, written(m.Key)
			}
			v.found[m.Key] = m
			v.revision[m.Key] = m.Sequence
		}
		missing = a.missing(missing)
		if a.whole {
			return missing, sure && a.oneMoment(), nil
		}
	}
}

func written(key string) error { return fmt.Errorf("%w: %s was written", errBucketMoved, Quote(key)) }

// along returns the keys that are not there, to be asked for beside other keys; none when a request
// has no room for them.
func (v *View) along() []string {
	if v.b.asked(v.absent...) > v.b.requestRoom()/2 {
		return nil
	}
	return v.absent
}

// ask asks for keys together with those that are not there. The replicas carry out a purge at
// different times, and only asking in the same request shows whether the one that answers has done
// so.
func (v *View) ask(ctx context.Context, keys []string, atLeast uint64, anchored bool) (answer, error) {
	a, err := v.b.moment(ctx, v.since, slices.Concat(keys, v.along()), atLeast, anchored)
	if errors.Is(err, ErrKeyNotFound) {
		return answer{upTo: atLeast, whole: true}, nil
	}
	if err != nil {
		return a, err
	}
	kept := a.found[:0]
	for _, m := range a.found {
		revision, read := v.revision[m.Key]
		switch {
		case !read || revision != 0:
			kept = append(kept, m)
		case a.own, m.Sequence > v.at: // else it is a mirror's, which keeps what its origin purges
			return a, written(m.Key)
		}
	}
	a.found = kept
	if missing := a.missing(keys); a.whole && !a.own && len(missing) > 0 {
		more, err := v.byReader(ctx, missing, max(atLeast, a.upTo))
		if err != nil {
			return a, err
		}
		a.found, a.late = append(a.found, more.found...), true
	}
	return a, nil
}

// byReader asks the stream itself, which knows more than a mirror, if it has come to atLeast.
func (v *View) byReader(ctx context.Context, keys []string, atLeast uint64) (answer, error) {
	a, err := v.b.byReader(ctx, keys)
	if err == nil && a.upTo < atLeast {
		err = errBehind
	}
	return a, err
}

// lacks notes that the keys in gone are not there. Unless same says that this is of the view's own
// moment, it moves the view on to a moment at which they are not there, nor are those that were not
// there before, and everything that was found is unchanged.
func (v *View) lacks(ctx context.Context, gone []string, same bool) error {
	if len(gone) == 0 {
		return nil
	}
	v.absent = append(v.absent, gone...)
	for _, key := range gone {
		v.revision[key] = 0
	}
	if same {
		return nil
	}
	present := slices.Collect(maps.Keys(v.found))
	if len(present) <= mostMatches && v.b.asked(present...)+v.b.asked(v.absent...) <= v.b.requestRoom() {
		a, err := v.b.moment(ctx, v.since, slices.Concat(present, v.absent), v.at, true)
		if err != nil {
			return err
		}
		if a.oneMoment() {
			v.at = a.upTo
			return v.same(present, a)
		}
	}
	upTo, err := v.away(ctx)
	if err != nil {
		return err
	}
	for _, part := range v.b.requests(present, v.b.asked(v.along()...)) {
		if err := v.again(ctx, part, upTo); err != nil {
			return err
		}
	}
	return nil
}

// same returns an error unless the answer has what was found before, and nothing else.
func (v *View) same(keys []string, a answer) error {
	for i := range a.found {
		if m := &a.found[i]; v.revision[m.Key] != m.Sequence {
			return written(m.Key)
		}
	}
	if missing := a.missing(keys); a.whole && len(missing) > 0 {
		return written(missing[0])
	}
	return nil
}

// again reads keys, which were found before, and returns an error unless they are unchanged.
// Whoever answers must have come to atLeast.
func (v *View) again(ctx context.Context, keys []string, atLeast uint64) error {
	for {
		a, err := v.ask(ctx, keys, atLeast, true)
		if err != nil {
			return err
		}
		if err := v.same(keys, a); err != nil || a.whole {
			return err
		}
		keys = a.missing(keys)
	}
}

// away makes the view's a moment at which none of what is not there is. It returns a sequence that
// the bucket had come to at that moment or after it.
func (v *View) away(ctx context.Context) (upTo uint64, err error) {
	anchor := v.smallest()
	if v.b.asked(v.absent...)+v.b.asked(anchor...) <= v.b.requestRoom() {
		a, err := v.b.moment(ctx, v.since, slices.Concat(v.absent, anchor), v.at, true)
		if err != nil {
			return 0, err
		}
		if a.oneMoment() {
			v.at = a.upTo
			return v.at, v.same(anchor, a)
		}
	}
	if v.at, err = v.awayByReader(ctx); err != nil {
		return 0, err
	}
	info, err := v.b.Info(ctx)
	if err != nil {
		return 0, err
	}
	return max(v.at, info.State.LastSeq), nil
}

// awayByReader does the same through a reader, where a request has no room for all keys or no
// direct get can tell for certain: what a reading has not found at its end was not there then.
func (v *View) awayByReader(ctx context.Context) (upTo uint64, err error) {
	cfg := ReaderConfig{KeysOnly: true, Once: true}
	if len(v.absent) <= mostMatches && v.b.asked(v.absent...) <= v.b.requestRoom() {
		cfg.Filters = v.absent // of more the server is faster with all keys
	}
	there := ""
	upTo, err = v.b.read(ctx, cfg, func(m *Message) bool {
		if revision, read := v.revision[m.Key]; read && revision == 0 {
			there = m.Key
		}
		return there == ""
	})
	switch {
	case err != nil:
		return 0, err
	case there != "":
		return 0, written(there)
	case upTo < v.at:
		return 0, errBehind
	}
	return upTo, nil
}

var errBehind = fmt.Errorf("%w: the stream's leader is behind", errBucketMoved)

// smallest returns the key of the smallest message found, if any. Asked for beside keys that are
// not there, it makes the server that answers say which stream it answers for and how far it has
// come.
func (v *View) smallest() []string {
	var key []string
	for k := range v.found {
		if len(key) == 0 || len(v.found[k].Data) < len(v.found[key[0]].Data) {
			key = []string{k}
		}
	}
	return key
}

// Commit stores writes if nothing that was read has changed, and returns the revision of the last.
// ErrRevisionMismatch, or Moved, when something has.
func (v *View) Commit(ctx context.Context, writes []Write) (uint64, error) {
	batch := Batch{Writes: writes, Last: v.at}
	written := make(map[string]struct{}, len(writes))
	for i := range writes {
		w := &writes[i]
		written[w.Key] = struct{}{}
		w.Revision, w.Expect = v.revision[w.Key]
		w.Marker = v.marker(w.Key)
	}
	for key, revision := range v.revision {
		if _, ok := written[key]; !ok {
			batch.Guards = append(batch.Guards, Guard{key, revision, v.marker(key)})
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

func (v *View) marker(key string) bool {
	m := v.found[key]
	return m.Deleted()
}
