package jskv_test

import (
	"context"
	"errors"
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
	origin string // that the bucket mirrors, if it does
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

// Cases that are named twice.
const (
	severalAtATime = "by several goroutines at the same time"
	withFeatures   = "with LimitMarkerTTL, `WithTransactions` or `WithFastIngest`"
	lastIsGone     = "there is none of the keys, and the one that was written last is gone"
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
		if err := g.remove(ctx); err != nil {
			return err
		}
		return g.create(ctx)
	}},
	{"`CreateBucket`", withFeatures, []string{"$JS.API.INFO", streamCreate}, nil, inbox, func(ctx context.Context, g *guest) error {
		if err := g.remove(ctx); err != nil {
			return err
		}
		return g.create(ctx, jskv.WithTransactions(), jskv.WithFastIngest())
	}},
	{"`CreateOrUpdateBucket`", "there is none", []string{streamInfo, streamCreate}, nil, inbox, func(ctx context.Context, g *guest) error {
		if err := g.remove(ctx); err != nil {
			return err
		}
		return untilRemoved(ctx, func() error {
			return second(jskv.CreateOrUpdateBucket(ctx, g.js, g.config(), jskv.String()))
		})
	}},
	{"`CreateOrUpdateBucket`", "there is one", []string{streamInfo, streamUpdate}, nil, inbox, func(ctx context.Context, g *guest) error {
		cfg := g.config()
		cfg.History = 7
		return second(jskv.CreateOrUpdateBucket(ctx, g.js, cfg, jskv.String()))
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
	{"`Get`, `Entry`", severalAtATime, []string{directKey}, []string{directMany}, inbox, getInCrowd},
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
	{"`Put`, `Update`, `Delete`, `Purge`", "", []string{anyKey}, nil, inbox, writeAll()},
	{"`Put`, `Update`, `Delete`, `Purge`", "with `TTL`", []string{anyKey}, nil, inbox, writeAll(jskv.TTL(time.Hour))},
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
	{"`Cache.Wait`", "for a revision of a key that is not in the cache", toFollow, append([]string{storedMessage}, tidy...), inbox, waitForOther},
	{"`GetMany`", "", []string{directMany}, nil, inbox, readMany("k", "missing")},
	{"`GetMany`", "there is none of the keys", []string{directMany, streamInfo, storedMessage}, nil, inbox, readMany("missing")},
	{"`GetMany`", lastIsGone, []string{directMany, streamInfo, storedMessage, consumerCreate}, []string{consumerNext, consumerDelete}, inbox, getManyLastIsGone},
	{"`PutMany`", "", []string{anyKey}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.PutMany(ctx, func(yield func(string, string) bool) { _ = yield("a", "v") && yield("b", "v") }))
	}},
	{"`Batch.Commit`", "", []string{anyKey}, nil, inbox, commitBatch},
	{"`Batch.Commit`", "a condition fails, or `Create` finds a marker, or is of a key that is required too", []string{anyKey, storedMessage}, nil, inbox, commitOverMarker},
	{"`Batch.Commit`", "more keys are required than written", []string{anyKey, streamInfo, directMany}, nil, inbox, commitGuarded},
	{"`Transact`", "", []string{directMany, anyKey}, nil, inbox, readAndWrite("k")},
	{"`Transact`", "there is none of the keys that it reads", []string{directMany, streamInfo, storedMessage, anyKey}, nil, inbox, readAndWrite("missing")},
}

// inACluster are the verbs that need something else on a bucket of a cluster: who answers must have
// seen what the handle knows.
var inACluster = []allowance{
	{"`Get`, `Entry`", "also after a write or read by the same handle", []string{directKey, directMany}, nil, inbox, func(ctx context.Context, g *guest) error {
		return errors.Join(second(g.b.Get(ctx, "k")), second(g.b.Get(ctx, "k")))
	}},
	{"`Get`, `Entry`", severalAtATime, []string{directKey, directMany}, nil, inbox, getInCrowd},
	{"`Get`, `Entry`", "there is no such key", []string{directKey, directMany, streamInfo, storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Entry(ctx, "missing")))
	}},
	{"`Get`, `Entry` with `AtLeast`", "", []string{directMany}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k", jskv.AtLeast(3)))
	}},
	{"`Get`, `Entry` with `AtLeast`", "there is no such key", []string{directMany, streamInfo, storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Get(ctx, "missing", jskv.AtLeast(3))))
	}},
	{"`Get`, `Entry` with `FromLeader`", "of a key that is older than what the handle wrote or read", []string{streamInfo, storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		if err := second(g.admin.Put(ctx, "newer", "v")); err != nil {
			return err
		}
		return errors.Join(second(g.b.Get(ctx, "newer", jskv.FromLeader())), second(g.b.Get(ctx, "k", jskv.FromLeader())))
	}},
	{"`Update`, `IfRevision`", "that fail", []string{anyKey, streamInfo, storedMessage}, nil, inbox, failToUpdate},
	{"`Create`", "there is a value or a marker", []string{anyKey, streamInfo, storedMessage}, nil, inbox, createOverMarker},
	{"`Modify`", "also after a write or read by the same handle", []string{directKey, directMany, anyKey}, nil, inbox, func(ctx context.Context, g *guest) error {
		return errors.Join(modify("k")(ctx, g), modify("k")(ctx, g))
	}},
	{"`Modify`", "there is no such key", []string{directKey, directMany, streamInfo, storedMessage, anyKey}, nil, inbox, modify("missing")},
	{"`GetMany`", "", []string{directMany, streamInfo}, nil, inbox, readMany("k", "missing")},
	{"`Batch.Commit`", "a condition fails, or `Create` finds a marker, or is of a key that is required too", []string{anyKey, streamInfo, storedMessage}, nil, inbox, commitOverMarker},
}

// onReplicas are those that need something else again on a bucket with replicas.
var onReplicas = []allowance{
	{"`Keys`, `Entries`", "up to 1024 keys and 256 KB", []string{streamInfo, directMany}, nil, inbox, listSome},
	{"`GetMany`", lastIsGone, []string{directMany, streamInfo, storedMessage, consumerCreate, consumerNext}, tidy, inbox, getManyLastIsGone},
}

// onAMirror are the verbs that need something else on bucket "m", which mirrors "b".
var onAMirror = []allowance{
	{"`OpenBucket`", "", []string{mirrored(streamInfo)}, []string{streamInfo}, inbox, func(ctx context.Context, g *guest) error {
		return second(jskv.OpenBucket(ctx, g.js, g.bucket, jskv.String()))
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
	{"`Get`, `Entry` with `AtRevision`", "that revision is gone", []string{mirrored(directMany), storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Get(ctx, "k", jskv.AtRevision(99))))
	}},
	{"`Get`, `Entry` with `AtLeast`", "", []string{mirrored(directMany)}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k", jskv.AtLeast(3)))
	}},
	{"`Get`, `Entry` with `AtLeast`", "there is no such key", []string{mirrored(directMany), mirrored(streamInfo)}, nil, inbox, func(ctx context.Context, g *guest) error {
		return missing(second(g.b.Get(ctx, "missing", jskv.AtLeast(3))))
	}},
	{"`Get`, `Entry` with `FromLeader`", "", []string{storedMessage}, nil, inbox, func(ctx context.Context, g *guest) error {
		return second(g.b.Get(ctx, "k", jskv.FromLeader()))
	}},
	{"`Put`, `Update`, `Delete`, `Purge`", "with `TTL`", []string{anyKey, streamInfo}, nil, inbox, writeAll(jskv.TTL(time.Hour))},
	{"`Update`, `IfRevision`", "that fail", []string{anyKey, streamInfo, storedMessage}, nil, inbox, failToUpdate},
	{"`Create`", "there is a value or a marker", []string{anyKey, streamInfo, storedMessage}, nil, inbox, createOverMarker},
	{"`Modify`", "there is no such key", []string{mirrored(directKey), anyKey}, nil, inbox, modify("missing")},
	{"`PurgeDeletes`", "", append(mirroredAll(toFollow), "$JS.API.STREAM.PURGE.KV_b", "$JS.API.STREAM.PURGE.KV_m"), mirroredAll(tidy), inbox, purgeDeletes},
	{"`Keys`, `Entries`", "up to 1024 keys and 256 KB", []string{mirrored(streamInfo), mirrored(directMany)}, nil, inbox, listSome},
	{"`Cache.Wait`", "for a revision of a key that is not in the cache", mirroredAll(toFollow), append([]string{storedMessage}, mirroredAll(tidy)...), inbox, waitForOther},
	{"`GetMany`", "there is none of the keys", []string{mirrored(directMany), mirrored(streamInfo)}, nil, inbox, readMany("missing")},
	{"`GetMany`", lastIsGone, []string{mirrored(directMany), mirrored(streamInfo)}, nil, inbox, getManyLastIsGone},
	{"`Batch.Commit`", "", []string{anyKey, streamInfo}, nil, inbox, commitBatch},
	{"`Batch.Commit`", "a condition fails, or `Create` finds a marker, or is of a key that is required too", []string{anyKey, streamInfo, storedMessage}, nil, inbox, commitOverMarker},
	{"`Batch.Commit`", "more keys are required than written", []string{anyKey, streamInfo, storedMessage}, nil, inbox, commitGuarded},
	{"`Transact`", "", []string{mirrored(directMany), anyKey, streamInfo}, nil, inbox, readAndWrite("k")},
	{"`Transact`", "there is none of the keys that it reads", []string{mirrored(directMany), mirrored(streamInfo), anyKey, streamInfo}, nil, inbox, readAndWrite("missing")},
}

// notOnAMirror tells what a mirror cannot be made with: the server refuses.
func (a allowance) notOnAMirror() bool { return a.when == withFeatures }

// heldTo is what a place is held to: its own rows, and those of one server that it has no other
// word for, by their subjects there.
func heldTo(own []allowance, there func([]string) []string) []allowance {
	rows := slices.Clone(own)
	for _, row := range oneServer {
		if !slices.ContainsFunc(own, row.sameCase) {
			row.publish, row.better = there(row.publish), there(row.better)
			rows = append(rows, row)
		}
	}
	return rows
}

func (a allowance) sameCase(other allowance) bool {
	return a.verb == other.verb && a.when == other.when
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
