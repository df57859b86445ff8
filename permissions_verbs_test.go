package jskv_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// What the rows of the tables run, where it is more than a line or is run by several.

// missing is nil for the error that says so.
func missing(err error) error {
	if errors.Is(err, jskv.ErrKeyNotFound) {
		return nil
	}
	if err == nil {
		return errors.New("there is such a key")
	}
	return err
}

func writeAll(opts ...jskv.WriteOption) func(context.Context, *guest) error {
	return func(ctx context.Context, g *guest) error {
		revision, err := g.b.Put(ctx, "k", "v", opts...)
		if err == nil {
			revision, err = g.b.Update(ctx, "k", "v", revision, opts...)
		}
		if err == nil {
			_, err = g.b.Delete(ctx, "k", jskv.IfRevision(revision))
		}
		if err == nil {
			_, err = g.b.Purge(ctx, "k", opts...)
		}
		return err
	}
}

func purgeDeletes(ctx context.Context, g *guest) error {
	n, err := g.b.PurgeDeletes(ctx, 0)
	if err == nil && n != 1 {
		err = fmt.Errorf("%d markers were purged", n)
	}
	return err
}

func listSome(ctx context.Context, g *guest) error {
	return errors.Join(last(g.b.Keys(ctx, "k")), last(g.b.Entries(ctx, "k")))
}

func listAll(ctx context.Context, g *guest) error {
	return errors.Join(last(g.b.Keys(ctx)), last(g.b.Entries(ctx)))
}

func watchAll(ctx context.Context, g *guest) error {
	w, err := g.b.Watch(ctx, jskv.AllKeys)
	if err != nil {
		return err
	}
	defer w.Stop()
	return last(w.Snapshot())
}

func failToUpdate(ctx context.Context, g *guest) error {
	_, err := g.b.Put(ctx, "k", "v")
	if err != nil {
		return err
	}
	_, err = g.b.Update(ctx, "k", "v", 99)
	if errors.Is(err, jskv.ErrRevisionMismatch) {
		return nil
	}
	return err
}

func createOverMarker(ctx context.Context, g *guest) error {
	_, err := g.b.Create(ctx, "deleted", "v")
	return err
}

func commitBatch(ctx context.Context, g *guest) error {
	return second(g.b.NewBatch().Put("a", "v").Put("b", "v").Require("k", 2).Commit(ctx))
}

func commitOverMarker(ctx context.Context, g *guest) error {
	if _, err := g.b.NewBatch().Create("deleted", "v").Put("b", "v").Commit(ctx); err != nil {
		return err
	}
	marker, err := g.admin.Delete(ctx, "other")
	if err != nil {
		return err
	}
	return second(g.b.NewBatch().Create("other", "v").Require("other", marker).Put("b", "v").Commit(ctx))
}

func commitGuarded(ctx context.Context, g *guest) error {
	revision, err := g.b.Put(ctx, "other", "v")
	if err != nil {
		return err
	}
	return second(g.b.NewBatch().Put("a", "v").Require("k", 2).Require("other", revision).Commit(ctx))
}

func waitForOther(ctx context.Context, g *guest) error {
	c, err := g.b.Cache(ctx, "k")
	if err != nil {
		return err
	}
	defer c.Close()
	revision, err := g.admin.Put(ctx, "other", "v")
	if err != nil {
		return err
	}
	return c.Wait(ctx, revision)
}

func getManyLastIsGone(ctx context.Context, g *guest) error {
	if _, err := g.admin.Delete(ctx, "k"); err != nil {
		return err
	}
	if _, err := g.admin.PurgeDeletes(ctx, 0); err != nil {
		return err
	}
	return second(g.b.GetMany(ctx, "missing"))
}

func readMany(keys ...string) func(context.Context, *guest) error {
	return func(ctx context.Context, g *guest) error { return second(g.b.GetMany(ctx, keys...)) }
}

func modify(key string) func(context.Context, *guest) error {
	return func(ctx context.Context, g *guest) error {
		return second(g.b.Modify(ctx, key, func(jskv.Entry[string], bool) (string, error) { return "v", nil }))
	}
}

func readAndWrite(key string) func(context.Context, *guest) error {
	return func(ctx context.Context, g *guest) error {
		return second(g.b.Transact(ctx, func(tx *jskv.Tx[string]) error {
			if _, err := tx.Get(key); err != nil && !errors.Is(err, jskv.ErrKeyNotFound) {
				return err
			}
			tx.Put("a", "v")
			tx.Put("b", "v")
			return nil
		}))
	}
}

// remove sees to it that there is no such bucket, also where it is done again.
func (g *guest) remove(ctx context.Context) error {
	if err := jskv.DeleteBucket(ctx, g.adminJS, g.bucket); !errors.Is(err, jskv.ErrBucketNotFound) {
		return err
	}
	return nil
}

// create makes the bucket that was just deleted.
func (g *guest) create(ctx context.Context, opts ...jskv.BucketOption) error {
	return untilRemoved(ctx, func() error {
		return second(jskv.CreateBucket(ctx, g.js, g.config(), jskv.String(), opts...))
	})
}

// config is the least with which the bucket is made again.
func (g *guest) config() jetstream.KeyValueConfig {
	cfg := jetstream.KeyValueConfig{Bucket: g.bucket, Storage: jetstream.MemoryStorage}
	if g.origin != "" {
		cfg.Mirror = &jetstream.StreamSource{Name: g.origin}
	}
	return cfg
}

// untilRemoved makes a bucket, of which the server may still be removing the files of the one before
// (10049).
func untilRemoved(ctx context.Context, make func() error) error {
	const storeFailed = 10049
	for {
		err := make()
		if apiErr, ok := errors.AsType[*jetstream.APIError](err); !ok || apiErr.ErrorCode != storeFailed || !wait(ctx, tick) {
			return err
		}
	}
}

func getInCrowd(ctx context.Context, g *guest) error {
	errs := make([]error, crowd+1)
	errs[crowd] = second(g.b.Get(ctx, "k"))
	inCrowd(func(i int) { errs[i] = second(g.b.Get(ctx, "k")) })
	return errors.Join(errs...)
}
