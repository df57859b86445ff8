package interop

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// everySetting states everything that all clients can say of a bucket on one server.
var everySetting = jetstream.KeyValueConfig{
	Bucket:         "b",
	Description:    "colours of people",
	MaxValueSize:   512,
	History:        7,
	TTL:            time.Hour,
	LimitMarkerTTL: 90 * time.Second,
	MaxBytes:       1000,
	Storage:        jetstream.MemoryStorage,
	Compression:    true,
	RePublish:      &jetstream.RePublish{Source: "$KV.b.>", Destination: "changes.>"},
	Metadata:       map[string]string{"team": "blue"},
}

// settings are those of everySetting that a bucket has, of jskv's view of it.
func settings(t *testing.T, bucket *jskv.Bucket[string]) jetstream.KeyValueConfig {
	t.Helper()
	status, err := bucket.Status(testContext(t))
	require.NoError(t, err)
	return known(status.Config())
}

// known leaves out what only jskv or the server knows of a bucket, so that the rest can be compared.
func known(cfg jetstream.KeyValueConfig) jetstream.KeyValueConfig {
	cfg.Replicas, cfg.Placement = 0, nil
	metadata := map[string]string{}
	if team, ok := cfg.Metadata["team"]; ok {
		metadata["team"] = team
	}
	cfg.Metadata = metadata
	return cfg
}

func TestBothReadTheSettingsThatTheOtherMade(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		bucket := b.theirs(everySetting)
		require.Equal(t, everySetting, settings(t, bucket), "theirs, to jskv")
		require.Equal(t, everySetting, known(b.client.config("b")), "theirs, to them")

		require.NoError(t, jskv.DeleteBucket(testContext(t), b.js, "b"))
		bucket = ours(t, b.js, everySetting)
		require.Equal(t, everySetting, settings(t, bucket), "ours, to jskv")
		require.Equal(t, everySetting, known(b.client.config("b")), "ours, to them")
	})
}

// bothStreams are the configurations of the streams that the other client and jskv make for a
// bucket.
func (b *bench) bothStreams(cfg jetstream.KeyValueConfig) (theirs, mine map[string]any) {
	b.t.Helper()
	b.theirs(cfg)
	theirs = rawConfig(b.t, b.js, "b")
	require.NoError(b.t, jskv.DeleteBucket(testContext(b.t), b.js, "b"))
	ours(b.t, b.js, cfg)
	mine = rawConfig(b.t, b.js, "b")
	require.NoError(b.t, jskv.DeleteBucket(testContext(b.t), b.js, "b"))
	return theirs, mine
}

// leavesDeletable tells that the other client's buckets allow what jskv's deny, that single messages
// are deleted. The setting is none of jetstream.KeyValueConfig.
func (b *bench) leavesDeletable() bool {
	_, js := b.client.(*natsJS)
	return js
}

func TestBothMakeTheSameStreamForABucket(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		for _, cfg := range []jetstream.KeyValueConfig{{Bucket: "b"}, {TTL: time.Minute}, everySetting} {
			theirs, mine := b.bothStreams(cfg)
			require.Equal(t, b.leavesDeletable(), theirs["deny_delete"] == false)
			theirs["deny_delete"] = true
			require.Equal(t, theirs, mine)
		}
	})
}

func TestBothBindToABucketOfTheSameSettings(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		create := func() (*jskv.Bucket[string], error) {
			return jskv.CreateBucket(testContext(t), b.js, everySetting, jskv.String())
		}
		bucket := ours(t, b.js, everySetting)
		require.NoError(t, b.client.createBucket(everySetting))
		written(t)(bucket.Put(testContext(t), "k", "v"))

		require.NoError(t, b.client.deleteBucket("b"))
		b.theirs(everySetting)
		bucket, err := create()
		if b.leavesDeletable() {
			require.ErrorIs(t, err, jskv.ErrBucketExists)
			_, err = b.js.CreateKeyValue(testContext(t), everySetting)
			require.ErrorIs(t, err, jetstream.ErrBucketExists, "the stock client says the same")
			bucket, err = jskv.CreateOrUpdateBucket(testContext(t), b.js, everySetting, jskv.String())
		}
		require.NoError(t, err)
		written(t)(bucket.Put(testContext(t), "k", "v"))
	})
}

func TestJskvChangesTheSettingsOfTheOtherClientsBucket(t *testing.T) {
	eachClient(t, func(t *testing.T, b *bench) {
		b.theirs(everySetting)
		before := rawConfig(t, b.js, "b")
		bucket, err := jskv.CreateOrUpdateBucket(testContext(t), b.js,
			jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage, Description: "changed"}, jskv.String(), jskv.WithTransactions())
		require.NoError(t, err)
		want := everySetting
		want.Description = "changed"
		require.Equal(t, want, settings(t, bucket))
		require.Equal(t, want, known(b.client.config("b")))

		before["description"], before["allow_atomic"] = "changed", true
		require.Equal(t, before, rawConfig(t, b.js, "b"), "nothing else has changed")
		_, err = bucket.NewBatch().Put("a", "1").Put("b", "2").Commit(testContext(t))
		require.NoError(t, err)
		b.requireSame(bucket, "a", "b")
	})
}
