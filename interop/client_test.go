package interop

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
)

// client is somebody else's client of the server. Its methods end the test when the client
// does something that makes no sense; the errors are what it tells its users.
type client interface {
	createBucket(cfg jetstream.KeyValueConfig) error
	deleteBucket(bucket string) error
	buckets() []string
	config(bucket string) jetstream.KeyValueConfig // what it shows of it

	writer

	// get and getRevision fail with errNotFound where the client says that there is nothing.
	get(bucket, key string) (revision, error)
	getRevision(bucket, key string, number uint64) (revision, error)
	keys(bucket string) []string
	history(bucket, key string) []revision
	watch(bucket string) watcher
}

// writer is how a client writes, jskv too.
type writer interface {
	put(bucket, key, value string) error
	create(bucket, key, value string, ttl time.Duration) error // without a TTL when it is 0
	update(bucket, key, value string, revision uint64) error
	delete(bucket, key string) error
	purge(bucket, key string, ttl time.Duration) error
}

// watcher shows the keys of a bucket and then what happens to them. Its client ends it with the
// test.
type watcher interface {
	next() revision
	shown(r revision) revision // what it tells of a revision
}

var errNotFound = errors.New("not found")

// revision is what every client should say of one revision.
type revision struct {
	Key, Value string
	Number     uint64
	Operation  jskv.Operation
}

func revisionOf(e jskv.Entry[string]) revision {
	return revision{e.Key, e.Value, e.Revision, e.Operation}
}

func revisionsOf(entries []jskv.Entry[string]) []revision {
	revisions := make([]revision, len(entries))
	for i, e := range entries {
		revisions[i] = revisionOf(e)
	}
	return revisions
}
