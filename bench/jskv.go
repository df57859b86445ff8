package main

import (
	"context"
	"iter"

	"github.com/seed646b090f/jskv"
)

// jskvStore is this library.
type jskvStore struct {
	bucket  *jskv.Bucket[[]byte]
	numbers *jskv.Bucket[int] // the same bucket
}

func newJSKVStore(bucket *jskv.Bucket[[]byte]) *jskvStore {
	return &jskvStore{bucket: bucket, numbers: jskv.As(bucket, jskv.JSON[int]())}
}

func (s *jskvStore) name() string             { return ours }
func (s *jskvStore) means() map[string]string { return nil }

func (s *jskvStore) put(ctx context.Context, key string, value []byte) (uint64, error) {
	return s.bucket.Put(ctx, key, value)
}

func (s *jskvStore) get(ctx context.Context, key string) ([]byte, uint64, error) {
	e, err := s.bucket.Entry(ctx, key)
	return e.Value, e.Revision, err
}

func (s *jskvStore) update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return s.bucket.Update(ctx, key, value, revision)
}

func (s *jskvStore) remove(ctx context.Context, key string) error {
	_, err := s.bucket.Delete(ctx, key)
	return err
}

func (s *jskvStore) keys(ctx context.Context) (n int, err error) {
	for _, err := range s.bucket.Keys(ctx) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (s *jskvStore) entries(ctx context.Context) (tally, error) {
	return tallyOf(s.bucket.Entries(ctx))
}

func tallyOf(entries iter.Seq2[jskv.Entry[[]byte], error]) (t tally, err error) {
	for e, err := range entries {
		if err != nil {
			return t, err
		}
		t.add(e.Value)
	}
	return t, nil
}

func (s *jskvStore) getMany(ctx context.Context, keys []string) (t tally, err error) {
	entries, err := s.bucket.GetMany(ctx, keys...)
	for _, e := range entries {
		t.add(e.Value)
	}
	return t, err
}

func (s *jskvStore) putMany(ctx context.Context, keys []string, value []byte) error {
	_, err := s.bucket.PutMany(ctx, func(yield func(string, []byte) bool) {
		for _, key := range keys {
			if !yield(key, value) {
				return
			}
		}
	})
	return err
}

func (s *jskvStore) putAll(ctx context.Context, keys []string, value []byte) error {
	batch := s.bucket.NewBatch()
	for _, key := range keys {
		batch.Put(key, value)
	}
	_, err := batch.Commit(ctx)
	return err
}

func (s *jskvStore) transact(ctx context.Context, keys []string, value []byte) error {
	_, err := s.bucket.Transact(ctx, func(tx *jskv.Tx[[]byte]) error {
		entries, err := tx.GetMany(keys...)
		for key := range entries {
			tx.Put(key, value)
		}
		return err
	})
	return err
}

func (s *jskvStore) increment(ctx context.Context, key string) error {
	_, err := s.numbers.Modify(ctx, key, func(current jskv.Entry[int], _ bool) (int, error) {
		return current.Value + 1, nil
	})
	return err
}

func (s *jskvStore) snapshot(ctx context.Context) (tally, error) {
	w, err := s.bucket.Watch(ctx, jskv.AllKeys)
	if err != nil {
		return tally{}, err
	}
	defer w.Stop()
	return tallyOf(w.Snapshot())
}

func (s *jskvStore) watch(ctx context.Context) (watcher, error) {
	w, err := s.bucket.Watch(ctx, jskv.AllKeys, jskv.UpdatesOnly())
	if err != nil {
		return nil, err
	}
	return jskvWatcher{w}, nil
}

type jskvWatcher struct{ w *jskv.Watcher[[]byte] }

func (w jskvWatcher) next(ctx context.Context) (uint64, error) {
	e, err := w.w.Next(ctx)
	return e.Revision, err
}

func (w jskvWatcher) stop() error {
	w.w.Stop()
	return nil
}
