package main

import (
	"context"
	"fmt"
)

// The names of the contenders, as they stand in tables and pictures.
const (
	ours     = "jskv"
	stockKV  = "stock"   // jetstream.KeyValue
	bare     = "request" // the floor: the requests that cannot be done without
	etcdName = "etcd"
)

// store is what all contenders can do with one bucket. Its methods check that the answer is one;
// the trials check what it says.
type store interface {
	name() string
	put(ctx context.Context, key string, value []byte) (revision uint64, err error)
	get(ctx context.Context, key string) (value []byte, revision uint64, err error)
	update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	remove(ctx context.Context, key string) error
	keys(ctx context.Context) (n int, err error)
	entries(ctx context.Context) (tally, error)
	getMany(ctx context.Context, keys []string) (tally, error)
	putMany(ctx context.Context, keys []string, value []byte) error  // all of them, in any order
	putAll(ctx context.Context, keys []string, value []byte) error   // in one batch, if it has such a thing
	transact(ctx context.Context, keys []string, value []byte) error // reads the keys and writes them all, if nobody has meanwhile
	means() map[string]string                                        // by operation: how it does it, where it lacks it
}

// watching is a store that can watch all of its bucket.
type watching interface {
	store
	snapshot(ctx context.Context) (tally, error) // start a watch, read the initial values, stop it
	watch(ctx context.Context) (watcher, error)  // changes only
	increment(ctx context.Context, key string) error
}

// watcher hands out the revisions of one watch.
type watcher interface {
	next(ctx context.Context) (revision uint64, err error)
	stop() error
}

// tally is what was read: how many entries, and how many bytes of values.
type tally struct{ entries, bytes int }

func (t *tally) add(value []byte) {
	t.entries++
	t.bytes += len(value)
}

func (t tally) check(want tally, err error) error {
	if err == nil && t != want {
		return fmt.Errorf("read %d entries with %d bytes: want %d with %d", t.entries, t.bytes, want.entries, want.bytes)
	}
	return err
}
