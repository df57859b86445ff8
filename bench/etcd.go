package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// What etcd takes in one transaction, if not told otherwise: so many operations, and 1.5 MiB, of which
// some is left for all that is not a value.
const (
	maxTxnOps   = 128
	maxTxnBytes = 1 << 20
)

// etcdStore is one node of etcd. What the others call a bucket is a prefix of its keys.
type etcdStore struct {
	client *clientv3.Client
	prefix string
}

func (s *etcdStore) name() string { return etcdName }

func (s *etcdStore) means() map[string]string {
	return map[string]string{
		opKeys:      "Get of the prefix, keys only",
		opEntries:   "Get of the prefix",
		opSnapshot:  "Get of the prefix, and Watch from the revision after it",
		opUpdate:    "Txn that compares the key's revision",
		opModify:    "Get and Txn, again at once after a conflict",
		opGetMany:   "Txn with a Get for each key, 128 at a time",
		opPutMany:   "Txn with a Put for each key, 128 at a time",
		opBatch:     "Txn with a Put for each key",
		opTransact:  "Txn with Gets, and Txn that compares their revisions",
		opCacheLoad: "Get of the prefix into a map, and Watch",
	}
}

func (s *etcdStore) put(ctx context.Context, key string, value []byte) (uint64, error) {
	answer, err := s.client.Put(ctx, s.prefix+key, string(value))
	if err != nil {
		return 0, err
	}
	return uint64(answer.Header.Revision), nil
}

func (s *etcdStore) get(ctx context.Context, key string) ([]byte, uint64, error) {
	answer, err := s.client.Get(ctx, s.prefix+key)
	if err != nil || len(answer.Kvs) != 1 {
		return nil, 0, errors.Join(fmt.Errorf("etcd has no %s", key), err)
	}
	return answer.Kvs[0].Value, uint64(answer.Kvs[0].ModRevision), nil
}

func (s *etcdStore) update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	made, swapped, err := s.swap(ctx, key, value, revision)
	if err == nil && !swapped {
		err = fmt.Errorf("revision %d of %s is not the newest", revision, key)
	}
	return made, err
}

func (s *etcdStore) swap(ctx context.Context, key string, value []byte, revision uint64) (made uint64, swapped bool, err error) {
	answer, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(s.prefix+key), "=", int64(revision))).
		Then(clientv3.OpPut(s.prefix+key, string(value))).Commit()
	if err != nil {
		return 0, false, err
	}
	return uint64(answer.Header.Revision), answer.Succeeded, nil
}

func (s *etcdStore) remove(ctx context.Context, key string) error {
	answer, err := s.client.Delete(ctx, s.prefix+key)
	if err == nil && answer.Deleted != 1 {
		err = fmt.Errorf("deleted %d keys", answer.Deleted)
	}
	return err
}

func (s *etcdStore) keys(ctx context.Context) (int, error) {
	answer, err := s.client.Get(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return 0, err
	}
	return len(answer.Kvs), nil
}

func (s *etcdStore) entries(ctx context.Context) (tally, error) {
	t, _, err := s.read(ctx, func(string, []byte) {})
	return t, err
}

// read visits all keys and returns the revision at which they were like that.
func (s *etcdStore) read(ctx context.Context, visit func(key string, value []byte)) (t tally, revision int64, err error) {
	answer, err := s.client.Get(ctx, s.prefix, clientv3.WithPrefix())
	if err != nil {
		return t, 0, err
	}
	for _, kv := range answer.Kvs {
		t.add(kv.Value)
		visit(string(kv.Key), kv.Value)
	}
	return t, answer.Header.Revision, nil
}

func (s *etcdStore) getMany(ctx context.Context, keys []string) (t tally, err error) {
	for chunk := range slices.Chunk(keys, maxTxnOps) {
		_, err := s.getAll(ctx, chunk, &t)
		if err != nil {
			return t, err
		}
	}
	return t, nil
}

// getAll returns comparisons that hold as long as none of the keys is written again.
func (s *etcdStore) getAll(ctx context.Context, keys []string, t *tally) ([]clientv3.Cmp, error) {
	gets := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		gets[i] = clientv3.OpGet(s.prefix + key)
	}
	answer, err := s.client.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return nil, err
	}
	unchanged := make([]clientv3.Cmp, 0, len(keys))
	for _, response := range answer.Responses {
		for _, kv := range response.GetResponseRange().Kvs {
			t.add(kv.Value)
			unchanged = append(unchanged, clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision))
		}
	}
	return unchanged, nil
}

func (s *etcdStore) putMany(ctx context.Context, keys []string, value []byte) error {
	for chunk := range slices.Chunk(keys, max(1, min(maxTxnOps, maxTxnBytes/max(len(value), 1)))) {
		if err := s.putAll(ctx, chunk, value); err != nil {
			return err
		}
	}
	return nil
}

func (s *etcdStore) putAll(ctx context.Context, keys []string, value []byte) error {
	return s.commit(ctx, keys, value)
}

func (s *etcdStore) commit(ctx context.Context, keys []string, value []byte, conditions ...clientv3.Cmp) error {
	puts := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		puts[i] = clientv3.OpPut(s.prefix+key, string(value))
	}
	answer, err := s.client.Txn(ctx).If(conditions...).Then(puts...).Commit()
	if err == nil && !answer.Succeeded {
		err = errors.New("somebody has written meanwhile")
	}
	return err
}

func (s *etcdStore) transact(ctx context.Context, keys []string, value []byte) error {
	var t tally
	unchanged, err := s.getAll(ctx, keys, &t)
	if err != nil {
		return err
	}
	return s.commit(ctx, keys, value, unchanged...)
}

func (s *etcdStore) increment(ctx context.Context, key string) error {
	for {
		value, revision, err := s.get(ctx, key)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(value))
		if err != nil {
			return err
		}
		_, swapped, err := s.swap(ctx, key, strconv.AppendInt(nil, int64(n+1), 10), revision)
		if err != nil || swapped {
			return err
		}
	}
}

func (s *etcdStore) snapshot(ctx context.Context) (tally, error) {
	t, revision, err := s.read(ctx, func(string, []byte) {})
	if err != nil {
		return t, err
	}
	w, err := s.watchFrom(ctx, revision+1)
	if err != nil {
		return t, err
	}
	return t, w.stop()
}

func (s *etcdStore) watch(ctx context.Context) (watcher, error) { return s.watchFrom(ctx, 0) }

// watchFrom returns when the server has the watch, as the other contenders do.
func (s *etcdStore) watchFrom(ctx context.Context, revision int64) (*etcdWatcher, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &etcdWatcher{cancel: cancel}
	w.events = s.client.Watch(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithCreatedNotify())
	if first, ok := <-w.events; !ok || !first.Created {
		return nil, errors.Join(fmt.Errorf("no watch: %+v", first), first.Err(), w.stop())
	}
	return w, nil
}

type etcdWatcher struct {
	cancel  context.CancelFunc
	events  clientv3.WatchChan
	pending []*clientv3.Event
}

func (w *etcdWatcher) next(ctx context.Context) (uint64, error) {
	for len(w.pending) == 0 {
		select {
		case some, ok := <-w.events:
			if !ok || some.Err() != nil {
				return 0, errors.Join(errors.New("the watch has ended"), some.Err())
			}
			w.pending = some.Events
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	event := w.pending[0]
	w.pending = w.pending[1:]
	return uint64(event.Kv.ModRevision), nil
}

func (w *etcdWatcher) stop() error {
	w.cancel()
	for range w.events { // until it is closed
	}
	return nil
}
