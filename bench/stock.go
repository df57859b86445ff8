package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// stockStore is jetstream.KeyValue, used as its documentation says.
type stockStore struct {
	kv jetstream.KeyValue
	js jetstream.JetStream
}

func (s *stockStore) name() string { return stockKV }

func (s *stockStore) means() map[string]string {
	return map[string]string{
		opEntries:   "WatchAll up to the nil that ends the initial values",
		opGetMany:   "a Get for each key, one after the other",
		opPutMany:   "a Put for each key, one after the other",
		opBatch:     "a Put for each key, one after the other, not atomic",
		opTransact:  "a Get and an Update for each key, not atomic",
		opUpdate:    "with replicas: again at once when another write was under way, which it reports as a conflict",
		opModify:    "Get and Update, again at once after a conflict",
		opCacheLoad: "WatchAll into a map",
	}
}

func (s *stockStore) put(ctx context.Context, key string, value []byte) (uint64, error) {
	return s.kv.Put(ctx, key, value)
}

func (s *stockStore) get(ctx context.Context, key string) ([]byte, uint64, error) {
	e, err := s.kv.Get(ctx, key)
	if err != nil {
		return nil, 0, err
	}
	return e.Value(), e.Revision(), nil
}

func (s *stockStore) update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return again(ctx, func() (uint64, error) { return s.kv.Update(ctx, key, value, revision) })
}

func (s *stockStore) remove(ctx context.Context, key string) error { return s.kv.Delete(ctx, key) }

func (s *stockStore) keys(ctx context.Context) (int, error) {
	keys, err := s.kv.Keys(ctx)
	return len(keys), err
}

func (s *stockStore) entries(ctx context.Context) (t tally, err error) {
	err = s.each(ctx, func(e jetstream.KeyValueEntry) { t.add(e.Value()) }, jetstream.IgnoreDeletes())
	return t, err
}

func (s *stockStore) snapshot(ctx context.Context) (t tally, err error) {
	err = s.each(ctx, func(e jetstream.KeyValueEntry) { t.add(e.Value()) })
	return t, err
}

// each visits the initial values of a watch.
func (s *stockStore) each(ctx context.Context, visit func(jetstream.KeyValueEntry), opts ...jetstream.WatchOpt) error {
	w, err := s.kv.WatchAll(ctx, opts...)
	if err != nil {
		return err
	}
	for e := range w.Updates() {
		if e == nil {
			return w.Stop()
		}
		visit(e)
	}
	return errors.Join(errors.New("the initial values have no end"), w.Stop())
}

func (s *stockStore) getMany(ctx context.Context, keys []string) (t tally, err error) {
	for _, key := range keys {
		e, err := s.kv.Get(ctx, key)
		if err != nil {
			return t, err
		}
		t.add(e.Value())
	}
	return t, nil
}

func (s *stockStore) putMany(ctx context.Context, keys []string, value []byte) error {
	for _, key := range keys {
		if _, err := s.kv.Put(ctx, key, value); err != nil {
			return err
		}
	}
	return nil
}

func (s *stockStore) putAll(ctx context.Context, keys []string, value []byte) error {
	return s.putMany(ctx, keys, value)
}

func (s *stockStore) transact(ctx context.Context, keys []string, value []byte) error {
	for _, key := range keys {
		e, err := s.kv.Get(ctx, key)
		if err != nil {
			return err
		}
		if _, err := s.kv.Update(ctx, key, value, e.Revision()); err != nil {
			return err
		}
	}
	return nil
}

func (s *stockStore) increment(ctx context.Context, key string) error {
	for {
		e, err := s.kv.Get(ctx, key)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(e.Value()))
		if err != nil {
			return err
		}
		_, err = s.kv.Update(ctx, key, strconv.AppendInt(nil, int64(n+1), 10), e.Revision())
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return err
		}
	}
}

func (s *stockStore) watch(ctx context.Context) (watcher, error) {
	w, err := s.kv.WatchAll(ctx, jetstream.UpdatesOnly())
	if err != nil {
		return nil, err
	}
	return stockWatcher{w}, nil
}

type stockWatcher struct{ w jetstream.KeyWatcher }

func (w stockWatcher) next(ctx context.Context) (uint64, error) {
	select {
	case e, ok := <-w.w.Updates():
		if !ok || e == nil {
			return 0, fmt.Errorf("no event but %v", e)
		}
		return e.Revision(), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (w stockWatcher) stop() error { return w.w.Stop() }

// publishAsync is what the stock client has for many writes, outside its key-value interface. It
// waits as long as it takes when many are unanswered: after the default of 200 ms it gives up, which
// on a busy machine it does.
func (s *stockStore) publishAsync(ctx context.Context, bucket string, keys []string, value []byte) error {
	futures := make([]jetstream.PubAckFuture, len(keys))
	for i, key := range keys {
		var err error
		if futures[i], err = s.js.PublishAsync("$KV."+bucket+"."+key, value, jetstream.WithStallWait(startTimeout)); err != nil {
			return err
		}
	}
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// codeInFlight is the server's error for an expectation that it could not check, because another write
// was under way on a stream with replicas. The stock client reports it as a conflict.
const codeInFlight = 10164

// again repeats a write that was refused for that reason alone: its key belongs to the caller.
func again(ctx context.Context, write func() (uint64, error)) (uint64, error) {
	for {
		revision, err := write()
		refusal, ok := errors.AsType[*jetstream.APIError](err)
		if !ok || refusal.ErrorCode != codeInFlight || ctx.Err() != nil {
			return revision, err
		}
	}
}
