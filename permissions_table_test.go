package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// allowance is a verb and the least that an account must allow its user for it. The tables of
// docs/permissions.md are those of this file.
type allowance struct {
	verb      string
	when      string
	publish   []string // without one of them the verb fails, and names it
	better    []string // without one of them the verb succeeds all the same
	subscribe []string
	run       func(ctx context.Context, g *guest) error
}

// guest is a user with few permissions, and what it opened when it still had them all.
type guest struct {
	js     jetstream.JetStream
	bucket string
	b      *jskv.Bucket[string]

	// The same of somebody who may do everything.
	adminJS jetstream.JetStream
	admin   *jskv.Bucket[string]
}

const (
	streamInfo     = "$JS.API.STREAM.INFO.KV_b"
	streamCreate   = "$JS.API.STREAM.CREATE.KV_b"
	streamUpdate   = "$JS.API.STREAM.UPDATE.KV_b"
	storedMessage  = "$JS.API.STREAM.MSG.GET.KV_b"
	directKey      = "$JS.API.DIRECT.GET.KV_b.$KV.b.>"
	directMany     = "$JS.API.DIRECT.GET.KV_b"
	consumerCreate = "$JS.API.CONSUMER.CREATE.KV_b.>"
	consumerNext   = "$JS.API.CONSUMER.MSG.NEXT.KV_b.>"
	consumerDelete = "$JS.API.CONSUMER.DELETE.KV_b.>"
	anyKey         = "$KV.b.>"
)

var (
	inbox    = []string{"_INBOX.>"}
	tidy     = []string{consumerDelete}
	toFollow = []string{streamInfo, consumerCreate, consumerNext}
)

// oneServer are the verbs on a bucket of a server that is in no cluster.
var oneServer = []allowance{
	{"`OpenBucket`", "", []string{streamInfo}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(jskv.OpenBucket(ctx, g.js, g.bucket, jskv.String()))
	}},
	{"`CreateBucket`", "", []string{streamCreate}, nil, inbox, func(ctx context.Context, g *guest) error {
		if err := jskv.DeleteBucket(ctx, g.adminJS, g.bucket); err != nil {
			return err
		}
		return g.create(ctx)
	}},
	{"`CreateBucket`", "with LimitMarkerTTL or `WithTransactions`", []string{"$JS.API.INFO", streamCreate}, nil, inbox, func(ctx context.Context, g *guest) error {
		if err := jskv.DeleteBucket(ctx, g.adminJS, g.bucket); err != nil {
			return err
		}
		return g.create(ctx, jskv.WithTransactions())
	}},
	{"`CreateOrUpdateBucket`", "there is none", []string{streamInfo, streamCreate}, nil, inbox, func(ctx context.Context, g *guest) error {
		if err := jskv.DeleteBucket(ctx, g.adminJS, g.bucket); err != nil {
			return err
		}
		return untilRemoved(ctx, func() error {
			return second(jskv.CreateOrUpdateBucket(ctx, g.js, jetstream.KeyValueConfig{Bucket: g.bucket}, jskv.String()))
		})
	}},
	{"`CreateOrUpdateBucket`", "there is one", []string{streamInfo, streamUpdate}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(jskv.CreateOrUpdateBucket(ctx, g.js, jetstream.KeyValueConfig{Bucket: g.bucket, History: 7, Storage: jetstream.MemoryStorage}, jskv.String()))
	}},
	{"`DeleteBucket`", "", []string{"$JS.API.STREAM.DELETE.KV_b"}, nil, inbox, func(ctx context.Context, g *guest) error {
		return jskv.DeleteBucket(ctx, g.js, g.bucket)
	}},
	{"`BucketNames`", "", []string{"$JS.API.STREAM.NAMES"}, nil, inbox, func(ctx context.Context, g *guest) error {
		return last(jskv.BucketNames(ctx, g.js))
	}},
	{"`Status`", "", []string{streamInfo}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Status(ctx))
	}},
	{"`RawStream.Info`", "", []string{streamInfo}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Stream().Info(ctx))
	}},
	{"`Get`, `Entry`", "", []string{directKey}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k"))
	}},
	{"`Get`, `Entry`", "there is no such key", []string{directKey, storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Entry(ctx, "missing")))
	}},
	{"`Get`, `Entry` with `AtRevision`", "", []string{directMany}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k", jskv.AtRevision(2)))
	}},
	{"`Get`, `Entry` with `AtRevision`", "that revision is gone", []string{directMany, storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Get(ctx, "k", jskv.AtRevision(99))))
	}},
	{"`Get`, `Entry` with `AtLeast`", "", []string{directKey, directMany}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k", jskv.AtLeast(3)))
	}},
	{"`Get`, `Entry` with `AtLeast`", "there is no such key", []string{directKey, streamInfo, storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Get(ctx, "missing", jskv.AtLeast(3))))
	}},
	{"`Get`, `Entry` with `FromLeader`", "", []string{storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k", jskv.FromLeader()))
	}},
	{"`Put`, `Update`, `Delete`, `Purge`", "", []string{anyKey}, nil, inbox, writeAll},
	{"`Create`", "", []string{anyKey}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Create(ctx, "new", "v"))
	}},
	{"`Create`", "there is a value or a marker", []string{anyKey, storedMessage}, nil, inbox, createOverMarker},
	{"`Modify`", "", []string{directKey, anyKey}, nil, inbox, modify("k")},
	{"`Modify`", "there is no such key", []string{directKey, storedMessage, anyKey}, nil, inbox, modify("missing")},
	{"`PurgeDeletes`", "", append(slices.Clone(toFollow), "$JS.API.STREAM.PURGE.KV_b"), tidy, inbox, purgeDeletes},
	{"`Keys`, `Entries`", "up to 1024 keys and 256 KB", []string{directMany}, nil, inbox, listSome},
	{"`Keys`, `Entries`", "more, or no key at all", append([]string{directMany}, toFollow...), tidy, inbox, listAll},
	{"`History`", "", toFollow, tidy, inbox, func(ctx context.Context, g *guest) error {
		return last(g.b.History(ctx, "k"))
	}},
	{"`Watch`", "", toFollow, tidy, inbox, watchAll},
	{"`Watch`", "more than 16 single keys by one handle", toFollow, []string{directKey, storedMessage, consumerDelete}, inbox, func(ctx context.Context, g *guest) error {
		var stops sync.WaitGroup
		defer stops.Wait()
		for range 20 {
			w, err := g.b.Watch(ctx, "k")
			if err != nil {
				return err
			}
			defer stops.Go(w.Stop)
			if err := last(w.Snapshot()); err != nil {
				return err
			}
		}
		return nil
	}},
	{"`RawStream.Messages`", "", toFollow, tidy, inbox, func(ctx context.Context, g *guest) error {
		m, err := g.b.Stream().Messages(ctx)
		if err != nil {
			return err
		}
		defer m.Stop()
		return second(m.Next(ctx))
	}},
	{"`Cache`", "", toFollow, tidy, inbox, func(ctx context.Context, g *guest) error {
		c, err := g.b.Cache(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Wait(ctx, 1)
	}},
	{"`Cache.Wait`", "for a revision of a key that is not in the cache", toFollow, append([]string{storedMessage}, tidy...), inbox, func(ctx context.Context, g *guest) error {
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
	}},
	{"`GetMany`", "", []string{directMany}, nil, inbox, readMany("k", "missing")},
	{"`GetMany`", "there is none of the keys", []string{directMany, streamInfo, storedMessage}, nil, inbox, readMany("missing")},
	{"`GetMany`", "there is none of the keys, and the one that was written last is gone", []string{directMany, streamInfo, storedMessage, consumerCreate}, []string{consumerNext, consumerDelete}, inbox, func(ctx context.Context, g *guest) error {
		if _, err := g.admin.Delete(ctx, "k"); err != nil {
			return err
		}
		if _, err := g.admin.PurgeDeletes(ctx, 0); err != nil {
			return err
		}
		return second(g.b.GetMany(ctx, "missing"))
	}},
	{"`PutMany`", "", []string{anyKey}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.PutMany(ctx, func(yield func(string, string) bool) { _ = yield("a", "v") && yield("b", "v") }))
	}},
	{"`Batch.Commit`", "", []string{anyKey}, nil, inbox, commitBatch},
	{"`Batch.Commit`", "a condition fails, or `Create` finds a marker", []string{anyKey, storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.NewBatch().Create("deleted", "v").Put("b", "v").Commit(ctx))
	}},
	{"`Batch.Commit`", "more keys are required than written", []string{anyKey, streamInfo, directMany}, nil, inbox, func(ctx context.Context, g *guest) error {
		revision, err := g.b.Put(ctx, "other", "v")
		if err != nil {
			return err
		}
		return second(g.b.NewBatch().Put("a", "v").Require("k", 2).Require("other", revision).Commit(ctx))
	}},
	{"`Transact`", "", []string{directMany, anyKey}, nil, inbox, readAndWrite("k")},
	{"`Transact`", "there is none of the keys that it reads", []string{directMany, streamInfo, storedMessage, anyKey}, nil, inbox, readAndWrite("missing")},
}

// inACluster are the verbs that need more on a bucket of a cluster, whether it has replicas or not:
// who answers must have seen what the handle knows.
var inACluster = []allowance{
	{"`Get`, `Entry`", "also after a write or read by the same handle", []string{directKey, directMany}, nil, inbox, func(ctx context.Context, g *guest) error {
		return errors.Join(second(g.b.Get(ctx, "k")), second(g.b.Get(ctx, "k")))
	}},
	{"`Get`, `Entry`", "there is no such key", []string{directKey, directMany, streamInfo, storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Entry(ctx, "missing")))
	}},
	{"`Get`, `Entry` with `FromLeader`", "", []string{storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k", jskv.FromLeader()))
	}},
	{"`Put`, `Update`, `Delete`, `Purge`", "", []string{anyKey}, nil, inbox, writeAll},
	{"`Update`, `IfRevision`", "that fail", []string{anyKey, streamInfo, storedMessage}, nil, inbox, failToUpdate},
	{"`Create`", "there is a value or a marker", []string{anyKey, streamInfo, storedMessage}, nil, inbox, createOverMarker},
	{"`Modify`", "there is no such key", []string{directKey, directMany, streamInfo, storedMessage, anyKey}, nil, inbox, modify("missing")},
	{"`Modify`", "", []string{directKey, directMany, anyKey}, nil, inbox, func(ctx context.Context, g *guest) error {
		return errors.Join(modify("k")(ctx, g), modify("k")(ctx, g))
	}},
	{"`Keys`, `Entries`", "up to 1024 keys and 256 KB", []string{streamInfo, directMany}, nil, inbox, listSome},
	{"`Keys`, `Entries`", "more, or no key at all", append([]string{directMany}, toFollow...), tidy, inbox, listAll},
	{"`Transact`", "", []string{directMany, anyKey}, nil, inbox, readAndWrite("k")},
}

// onAMirror are the verbs on bucket "m", which mirrors "b".
var onAMirror = []allowance{
	{"`OpenBucket`", "", []string{mirrored(streamInfo)}, []string{streamInfo}, inbox, func(ctx context.Context, g *guest) error {
		return second(jskv.OpenBucket(ctx, g.js, g.bucket, jskv.String()))
	}},
	{"`Get`, `Entry`", "", []string{mirrored(directKey)}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k"))
	}},
	{"`Get`, `Entry`", "there is no such key", []string{mirrored(directKey)}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Get(ctx, "missing")))
	}},
	{"`Get`, `Entry`", "after a write by the same handle", []string{anyKey, mirrored(directMany)}, []string{streamInfo, storedMessage}, inbox, func(ctx context.Context, g *guest) error {
		if _, err := g.b.Put(ctx, "k", "v"); err != nil {
			return err
		}
		return second(g.b.Get(ctx, "k"))
	}},
	{"`Get`, `Entry` with `FromLeader`", "", []string{storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k", jskv.FromLeader()))
	}},
	{"`Put`, `Update`, `Delete`, `Purge`", "", []string{anyKey}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Put(ctx, "k", "v"))
	}},
	{"`Put`, `Update`, `Delete`, `Purge`", "with `TTL`", []string{anyKey, streamInfo}, nil, inbox, writeAll},
	{"`Update`, `IfRevision`", "that fail", []string{anyKey, streamInfo, storedMessage}, nil, inbox, failToUpdate},
	{"`Create`", "there is a value or a marker", []string{anyKey, streamInfo, storedMessage}, nil, inbox, createOverMarker},
	{"`Modify`", "", []string{mirrored(directKey), anyKey}, nil, inbox, modify("k")},
	{"`GetMany`", "", []string{mirrored(directMany)}, nil, inbox, readMany("k", "missing")},
	{"`Batch.Commit`", "", []string{anyKey, streamInfo}, nil, inbox, commitBatch},
	{"`Transact`", "", []string{mirrored(directMany), anyKey, streamInfo}, nil, inbox, readAndWrite("k")},
	{"`Keys`, `Entries`", "up to 1024 keys and 256 KB", []string{mirrored(streamInfo), mirrored(directMany)}, nil, inbox, listSome},
	{"`Keys`, `Entries`", "more, or no key at all", append([]string{mirrored(directMany)}, mirroredAll(toFollow)...), mirroredAll(tidy), inbox, listAll},
	{"`Watch`", "", mirroredAll(toFollow), mirroredAll(tidy), inbox, watchAll},
	{"`PurgeDeletes`", "", append(mirroredAll(toFollow), "$JS.API.STREAM.PURGE.KV_b", "$JS.API.STREAM.PURGE.KV_m"), mirroredAll(tidy), inbox, purgeDeletes},
}

// mirrored is a subject of the API for the mirror.
func mirrored(subject string) string { return strings.Replace(subject, "KV_b", "KV_m", 1) }

func mirroredAll(subjects []string) []string {
	all := make([]string, len(subjects))
	for i, subject := range subjects {
		all[i] = mirrored(subject)
	}
	return all
}

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

func writeAll(ctx context.Context, g *guest) error {
	revision, err := g.b.Put(ctx, "k", "v", jskv.TTL(time.Hour))
	if err == nil {
		revision, err = g.b.Update(ctx, "k", "v", revision)
	}
	if err == nil {
		_, err = g.b.Delete(ctx, "k", jskv.IfRevision(revision))
	}
	if err == nil {
		_, err = g.b.Purge(ctx, "k")
	}
	return err
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

// create makes the bucket that was just deleted.
func (g *guest) create(ctx context.Context, opts ...jskv.BucketOption) error {
	return untilRemoved(ctx, func() error {
		return second(jskv.CreateBucket(ctx, g.js, jetstream.KeyValueConfig{Bucket: g.bucket}, jskv.String(), opts...))
	})
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
