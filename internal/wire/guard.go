package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Guard is a key that a batch requires to be at a revision and does not write.
type Guard struct {
	Key      string
	Revision uint64
	Marker   bool // it is one, and is as good as none
}

// holds reports whether the key is as it was. A marker counts as no revision: an origin may have
// lost it, while its mirror keeps it for ever.
func (g Guard) holds(actual uint64) bool { return actual == g.Revision || g.Marker && actual == 0 }

// overMarkers reads the keys that are to be created and whose revision is required too: that must
// be a marker. The server would accept any revision.
func (b *Bucket) overMarkers(ctx context.Context, writes []Write) error {
	for i := range writes {
		w := &writes[i]
		if !w.Create || w.Revision == 0 {
			continue
		}
		current, err := b.confirm(ctx, w.Key, 0)
		switch {
		case err != nil && !errors.Is(err, ErrKeyNotFound):
			return err
		case current.Sequence != w.Revision:
			return &BatchConflict{w.Key, Conflict{w.Revision, current.Sequence}}
		case !current.Deleted():
			return &KeyError{w.Key, fmt.Errorf("%w at revision %d", ErrKeyExists, current.Sequence)}
		}
		w.Create = false // this revision or none
	}
	return nil
}

// checkGuards reads the guarded keys at one moment and returns the bucket's sequence at which they hold.
func (b *Bucket) checkGuards(ctx context.Context, guards []Guard) (uint64, error) {
	if len(guards) == 0 {
		return 0, nil
	}
	info, err := b.originInfo(ctx)
	if err != nil {
		return 0, err
	}
	if b.facts.Load().mirror {
		return b.checkAtOrigin(ctx, guards, info)
	}
	if len(guards) > mostMatches {
		return 0, fmt.Errorf("%w: %d required keys, at most %d can be read at one moment", ErrTooManyOperations, len(guards), mostMatches)
	}
	keys := make([]string, len(guards))
	for i, g := range guards {
		keys[i] = g.Key
	}
	v := b.NewView()
	v.at = info.State.LastSeq
	found, err := v.Read(ctx, keys)
	if Moved(err) {
		return 0, fmt.Errorf("%w: %w", errBatchAgain, err)
	}
	for _, g := range guards {
		if actual := found[g.Key].Sequence; err == nil && !g.holds(actual) {
			err = &BatchConflict{g.Key, Conflict{g.Revision, actual}}
		}
	}
	return v.at, err
}

// checkAtOrigin does the work of checkGuards for a mirror. The mirror may have only a part of the
// keys, may lag, and keeps what its origin purges, so the origin is asked for one key after the
// other. before is the state of the origin before that. The answers are of one moment if nothing
// was stored meanwhile and the leader is the same: a new one may just be applying what was stored
// before.
func (b *Bucket) checkAtOrigin(ctx context.Context, guards []Guard, before *jetstream.StreamInfo) (uint64, error) {
	for _, g := range guards {
		actual, err := b.newest(ctx, g.Key)
		if err != nil {
			return 0, err
		}
		if !g.holds(actual) {
			return 0, &BatchConflict{g.Key, Conflict{g.Revision, actual}}
		}
	}
	after, err := b.originInfo(ctx)
	if err == nil && (after.State.LastSeq != before.State.LastSeq || factsOf(after).leader != factsOf(before).leader) {
		err = fmt.Errorf("%w: %w", errBatchAgain, errBucketMoved)
	}
	return before.State.LastSeq, err
}
