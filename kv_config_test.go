package jskv_test

import (
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

func TestABucketIsTheStreamThatTheStockClientWouldMake(t *testing.T) {
	t.Parallel()
	start := time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)
	source := func(names ...string) (sources []*jetstream.StreamSource) {
		for _, name := range names {
			sources = append(sources, &jetstream.StreamSource{Name: name})
		}
		return sources
	}
	tests := []struct {
		because string
		cfg     jetstream.KeyValueConfig
	}{
		{"nothing stated", jetstream.KeyValueConfig{}},
		{"a description", jetstream.KeyValueConfig{Description: "profiles of people"}},
		{"the largest value", jetstream.KeyValueConfig{MaxValueSize: 1000}},
		{"no largest value", jetstream.KeyValueConfig{MaxValueSize: -1}},
		{"history of one", jetstream.KeyValueConfig{History: 1}},
		{"some history", jetstream.KeyValueConfig{History: 5}},
		{"all history", jetstream.KeyValueConfig{History: 64}},
		{"an age above the duplicate window", jetstream.KeyValueConfig{TTL: time.Hour}},
		{"an age below the duplicate window", jetstream.KeyValueConfig{TTL: 30 * time.Second}},
		{"an age of the duplicate window", jetstream.KeyValueConfig{TTL: 2 * time.Minute}},
		{"a size", jetstream.KeyValueConfig{MaxBytes: 1 << 20}},
		{"no size", jetstream.KeyValueConfig{MaxBytes: -1}},
		{"in memory", jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage}},
		{"one replica, stated", jetstream.KeyValueConfig{Replicas: 1}},
		{"a place", jetstream.KeyValueConfig{Placement: &jetstream.Placement{Cluster: "c", Tags: []string{"ssd"}}}},
		{"an empty place", jetstream.KeyValueConfig{Placement: &jetstream.Placement{}}},
		{"republished", jetstream.KeyValueConfig{RePublish: &jetstream.RePublish{Source: ">", Destination: "copy.>", HeadersOnly: true}}},
		{"compressed", jetstream.KeyValueConfig{Compression: true}},
		{"metadata", jetstream.KeyValueConfig{Metadata: map[string]string{"team": "red", "": "empty name"}}},
		{"empty metadata", jetstream.KeyValueConfig{Metadata: map[string]string{}}},
		{"markers", jetstream.KeyValueConfig{LimitMarkerTTL: time.Second}},
		{"markers of broken seconds", jetstream.KeyValueConfig{LimitMarkerTTL: 1500 * time.Millisecond}},
		{"markers and an age", jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute, TTL: time.Hour}},
		{"a mirror", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{Name: "origin"}}},
		{"a mirror of a stream's name", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{Name: "KV_origin"}}},
		{"a mirror with a history and an age", jetstream.KeyValueConfig{History: 3, TTL: time.Hour, Mirror: &jetstream.StreamSource{Name: "origin"}}},
		{"a mirror from a time on", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{Name: "origin", OptStartTime: &start}}},
		{"a mirror of some keys", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{Name: "origin", FilterSubject: "$KV.origin.sue.>"}}},
		{"a mirror of another domain", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{Name: "far", Domain: "elsewhere"}}},
		{"a mirror by an API prefix", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{Name: "far", External: &jetstream.ExternalStream{APIPrefix: "$JS.elsewhere.API", DeliverPrefix: "deliver"}}}},
		{"a mirror is no source, too", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{Name: "origin"}, Sources: source("other")}},
		{"sources", jetstream.KeyValueConfig{Sources: source("origin", "KV_other")}},
		{"no sources", jetstream.KeyValueConfig{Sources: source()}},
		{"a source from a sequence on", jetstream.KeyValueConfig{Sources: []*jetstream.StreamSource{{Name: "origin", OptStartSeq: 7}}}},
		{"a source with its own transform", jetstream.KeyValueConfig{Sources: []*jetstream.StreamSource{{
			Name: "KV_origin", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "$KV.origin.>", Destination: "$KV.b.sub.>"}},
		}}}},
		{"a source in another domain", jetstream.KeyValueConfig{Sources: []*jetstream.StreamSource{{Name: "far", Domain: "elsewhere"}}}},
		{"a source of the same name in another domain", jetstream.KeyValueConfig{Sources: []*jetstream.StreamSource{{Name: "b", Domain: "elsewhere"}}}},
		{"a source of the same name by an API prefix", jetstream.KeyValueConfig{Sources: []*jetstream.StreamSource{{
			Name: "b", External: &jetstream.ExternalStream{APIPrefix: "$JS.elsewhere.API"},
		}}}},
		{"all at once", jetstream.KeyValueConfig{
			Description: "all", MaxValueSize: 512, History: 7, TTL: time.Minute, MaxBytes: 1 << 16, Storage: jetstream.MemoryStorage,
			Replicas: 1, Compression: true, LimitMarkerTTL: 3 * time.Second, Metadata: map[string]string{"a": "b"}, Sources: source("origin"),
			RePublish: &jetstream.RePublish{Destination: "copy.>"},
		}},
	}
	js := jskvtest.NewServer(t, jskvtest.WithOptions(func(o *server.Options) { o.JetStreamDomain = "here" })).JetStream()
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin"})
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "other"})
	elsewhere(t, js)
	for _, test := range tests {
		t.Run(test.because, func(t *testing.T) {
			ctx := testContext(t)
			test.cfg.Bucket = "b"
			require.NoError(t, untilRemoved(ctx, func() error { return second(js.CreateKeyValue(ctx, test.cfg)) }))
			stock := rawConfig(t, js, "KV_b")
			_, err := jskv.CreateBucket(ctx, js, test.cfg, jskv.String())
			require.NoError(t, err, "ours takes the stock client's for its own")
			_, err = jskv.CreateOrUpdateBucket(ctx, js, test.cfg, jskv.String())
			require.NoError(t, err)
			require.Equal(t, stock, rawConfig(t, js, "KV_b"), "nothing to update")

			for name, make := range map[string]func() error{
				"CreateBucket": func() error {
					_, err := jskv.CreateBucket(ctx, js, test.cfg, jskv.String())
					return err
				},
				"CreateOrUpdateBucket": func() error {
					_, err := jskv.CreateOrUpdateBucket(ctx, js, test.cfg, jskv.String())
					return err
				},
			} {
				require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
				require.NoError(t, untilRemoved(ctx, make), name)
				require.Equal(t, stock, rawConfig(t, js, "KV_b"), name)
			}
			_, err = js.CreateKeyValue(ctx, test.cfg)
			require.NoError(t, err, "the stock client takes ours for its own")
			require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
		})
	}
}

// elsewhere answers what a server asks of the domain "elsewhere", for it would wait up to 30 s for
// an answer, longer than it lives.
func elsewhere(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	_, err := js.Conn().Subscribe("$JS.elsewhere.API.>", func(msg *nats.Msg) {
		_ = msg.Respond([]byte(`{"error":{"code":404,"err_code":10059,"description":"stream not found"}}`))
	})
	require.NoError(t, err)
}

func TestABucketsOptionsSetOneSettingMoreEach(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b", History: 2})
	require.NoError(t, err)
	want := rawConfig(t, js, "KV_b")
	// The server's note of what it takes to read the stream.
	delete(want["metadata"].(map[string]any), "_nats.req.level")
	for setting, option := range map[string]jskv.BucketOption{"allow_atomic": jskv.WithTransactions(), "allow_batched": jskv.WithFastIngest()} {
		require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
		createBucket(t, js, jetstream.KeyValueConfig{History: 2}, option)
		got := rawConfig(t, js, "KV_b")
		require.Equal(t, true, got[setting])
		delete(got, setting)
		delete(got["metadata"].(map[string]any), "_nats.req.level")
		require.Equal(t, want, got)
	}
}

// Everything that a bucket may be given, by whoever, must survive an update that states one
// thing.
func TestCreateOrUpdateBucketChangesWhatIsStatedAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		stated  string
		cfg     jetstream.KeyValueConfig
		opts    []jskv.BucketOption
		changed map[string]any
	}{
		{stated: "nothing"},
		{stated: "a description", cfg: jetstream.KeyValueConfig{Description: "new"}, changed: map[string]any{"description": "new"}},
		{stated: "a largest value", cfg: jetstream.KeyValueConfig{MaxValueSize: 99}, changed: map[string]any{"max_msg_size": 99.}},
		{stated: "any value", cfg: jetstream.KeyValueConfig{MaxValueSize: -1}, changed: map[string]any{"max_msg_size": -1.}},
		{stated: "more history", cfg: jetstream.KeyValueConfig{History: 20}, changed: map[string]any{"max_msgs_per_subject": 20.}},
		{stated: "less history", cfg: jetstream.KeyValueConfig{History: 2}, changed: map[string]any{"max_msgs_per_subject": 2.}},
		{stated: "an age", cfg: jetstream.KeyValueConfig{TTL: 2 * time.Hour}, changed: map[string]any{"max_age": float64(2 * time.Hour)}},
		{
			stated: "an age below the duplicate window", cfg: jetstream.KeyValueConfig{TTL: 20 * time.Second},
			changed: map[string]any{"max_age": float64(20 * time.Second), "duplicate_window": float64(20 * time.Second)},
		},
		{stated: "a size", cfg: jetstream.KeyValueConfig{MaxBytes: 1 << 22}, changed: map[string]any{"max_bytes": float64(1 << 22)}},
		{stated: "any size", cfg: jetstream.KeyValueConfig{MaxBytes: -1}, changed: map[string]any{"max_bytes": -1.}},
		{
			stated: "a marker's life", cfg: jetstream.KeyValueConfig{LimitMarkerTTL: 2 * time.Minute},
			changed: map[string]any{"subject_delete_marker_ttl": float64(2 * time.Minute)},
		},
		{
			stated: "where it is republished", cfg: jetstream.KeyValueConfig{RePublish: &jetstream.RePublish{Destination: "new.>"}},
			changed: map[string]any{"republish": map[string]any{"src": ">", "dest": "new.>"}},
		},
		{stated: "what it has", cfg: jetstream.KeyValueConfig{History: 10, TTL: time.Hour, Compression: true, Replicas: 1}},
		{stated: "transactions, which it has", opts: []jskv.BucketOption{jskv.WithTransactions()}},
		{stated: "fast ingest, which it has", opts: []jskv.BucketOption{jskv.WithFastIngest()}},
	} {
		t.Run(test.stated, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			js := jskvtest.NewServer(t).JetStream()
			b := createBucket(t, js, jetstream.KeyValueConfig{
				Description: "old", MaxValueSize: 1000, History: 10, TTL: time.Hour, MaxBytes: 1 << 20, Compression: true,
				LimitMarkerTTL: time.Minute, Metadata: map[string]string{"team": "red"}, RePublish: &jetstream.RePublish{Destination: "old.>"},
			})
			setConfig(t, js, "KV_b", map[string]any{
				"allow_atomic": true, "allow_batched": true, "consumer_limits": map[string]any{"max_ack_pending": 500}, "duplicate_window": time.Minute,
			})
			want := rawConfig(t, js, "KV_b")
			require.Equal(t, true, want["allow_batched"])
			mustPut(t, b, "k", "1")
			mustPut(t, b, "k", "2")

			test.cfg.Bucket = "b"
			_, err := jskv.CreateOrUpdateBucket(ctx, js, test.cfg, jskv.String(), test.opts...)
			require.NoError(t, err)
			maps.Copy(want, test.changed)
			require.Equal(t, want, rawConfig(t, js, "KV_b"))
			require.Equal(t, "Put 1, Put 2", history(t, b, "k"), "revisions stay")
		})
	}
}

func TestCreateOrUpdateBucketAddsWhatWasNotThere(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	js := server.JetStream()
	mustPut(t, b, "k", "v")
	cfg := jetstream.KeyValueConfig{
		Bucket: "b", History: 3, LimitMarkerTTL: time.Second, Compression: true, Metadata: map[string]string{"team": "red"},
		Placement: &jetstream.Placement{Tags: []string{}},
	}
	updated, err := jskv.CreateOrUpdateBucket(ctx, js, cfg, jskv.String(), jskv.WithTransactions(), jskv.WithFastIngest())
	require.NoError(t, err)
	got := rawConfig(t, js, "KV_b")
	require.Equal(t, true, got["allow_atomic"])
	require.Equal(t, true, got["allow_batched"])
	require.Equal(t, true, got["allow_msg_ttl"])
	require.Equal(t, "s2", got["compression"])
	require.Equal(t, "red", got["metadata"].(map[string]any)["team"])
	_, err = updated.Put(ctx, "k", "w", jskv.TTL(time.Minute))
	require.NoError(t, err, "the handle knows what it can do now")

	cfg = jetstream.KeyValueConfig{Bucket: "b", Metadata: map[string]string{"floor": "2"}}
	_, err = jskv.CreateOrUpdateBucket(ctx, js, cfg, jskv.String())
	require.NoError(t, err)
	metadata := rawConfig(t, js, "KV_b")["metadata"].(map[string]any)
	require.Equal(t, "2", metadata["floor"])
	require.NotContains(t, metadata, "team", "stated metadata replaces the bucket's")
	require.Contains(t, metadata, "_nats.req.level", "the server's own notes stay")
}

func TestCreateOrUpdateBucketSaysWhatTheServerDoesNotAllow(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, server := newBucket(t, jetstream.KeyValueConfig{})
	js := server.JetStream()
	before := rawConfig(t, js, "KV_b")
	for _, test := range []struct {
		because string
		cfg     jetstream.KeyValueConfig
	}{
		{"the storage of a bucket cannot change", jetstream.KeyValueConfig{Storage: jetstream.MemoryStorage}},
		{"a bucket cannot become a mirror", jetstream.KeyValueConfig{Mirror: &jetstream.StreamSource{Name: "other"}}},
		{"one server cannot replicate", jetstream.KeyValueConfig{Replicas: 3}},
	} {
		test.cfg.Bucket = "b"
		b, err := jskv.CreateOrUpdateBucket(ctx, js, test.cfg, jskv.String())
		var refusal *jetstream.APIError
		require.ErrorAs(t, err, &refusal, test.because)
		require.Nil(t, b)
		requireNames(t, err, "update bucket b:", refusal.Description)
		require.Equal(t, before, rawConfig(t, js, "KV_b"), test.because)
	}
}

func TestCreateOrUpdateBucketLeavesAMirrorAMirror(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin"})
	cfg := jetstream.KeyValueConfig{Bucket: "b", Mirror: &jetstream.StreamSource{Name: "origin"}}
	createBucket(t, js, cfg)
	want := rawConfig(t, js, "KV_b")
	for _, cfg := range []jetstream.KeyValueConfig{cfg, {Bucket: "b"}} {
		_, err := jskv.CreateOrUpdateBucket(ctx, js, cfg, jskv.String())
		require.NoError(t, err)
		require.Equal(t, want, rawConfig(t, js, "KV_b"))
	}
}

func TestCreateOrUpdateBucketMayRaceWithItself(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	var racers sync.WaitGroup
	for round := range 5 {
		errs := make([]error, 8)
		for i := range errs {
			racers.Go(func() {
				cfg := jetstream.KeyValueConfig{Bucket: fmt.Sprint("b", round), Storage: jetstream.MemoryStorage, History: uint8(i + 1)}
				_, errs[i] = jskv.CreateOrUpdateBucket(ctx, js, cfg, jskv.String())
			})
		}
		racers.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
	}
}

// A cluster may leave the one who makes a bucket without an answer when another updates it at once.
func TestCreateOrUpdateBucketMayRaceWithItselfInACluster(t *testing.T) {
	t.Parallel()
	cluster := jskvtest.NewCluster(t, 3)
	var clients []jetstream.JetStream
	for _, server := range cluster.Servers() {
		clients = append(clients, server.JetStream())
	}
	for round := range 8 {
		ctx := testContext(t)
		errs := make([]error, 9)
		var racers sync.WaitGroup
		for i := range errs {
			racers.Go(func() {
				cfg := jetstream.KeyValueConfig{Bucket: fmt.Sprint("b", round), Storage: jetstream.MemoryStorage, Replicas: 3, History: uint8(i + 1)}
				_, errs[i] = jskv.CreateOrUpdateBucket(ctx, clients[i%len(clients)], cfg, jskv.String())
			})
		}
		racers.Wait()
		for _, err := range errs {
			require.NoError(t, err, "round %d", round)
		}
	}
}

// A history would cost it messages.
func TestCreateOrUpdateBucketLeavesAStreamThatIsNoBucketAlone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "KV_b", Subjects: []string{"events.>"}})
	require.NoError(t, err)
	for range 3 {
		_, err := js.Publish(ctx, "events.login", nil)
		require.NoError(t, err)
	}
	before := rawConfig(t, js, "KV_b")
	for _, cfg := range []jetstream.KeyValueConfig{{History: 1}, {Description: "a bucket"}, {}} {
		cfg.Bucket = "b"
		_, err := jskv.CreateOrUpdateBucket(ctx, js, cfg, jskv.String())
		requireIs(t, err, jetstream.ErrBadBucket)
		requireNames(t, err, "update bucket b:")
	}
	require.Equal(t, before, rawConfig(t, js, "KV_b"))
	info, err := stream.Info(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, info.State.Msgs)
}

func TestTheConfigurationIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	js := jskvtest.NewServer(t).JetStream()
	elsewhere(t, js)
	createBucket(t, js, jetstream.KeyValueConfig{Bucket: "origin"})
	config := func() jetstream.KeyValueConfig {
		return jetstream.KeyValueConfig{
			Bucket: "b", Metadata: map[string]string{"team": "red"}, Placement: &jetstream.Placement{Tags: []string{"ssd"}},
			RePublish: &jetstream.RePublish{Destination: "copy.>"},
			Sources:   []*jetstream.StreamSource{{Name: "origin"}, {Name: "far", Domain: "elsewhere"}},
		}
	}
	cfg := config()
	_, err := jskv.CreateBucket(ctx, js, cfg, jskv.String())
	require.NoError(t, err)
	require.Equal(t, config(), cfg)
	_, err = jskv.CreateOrUpdateBucket(ctx, js, cfg, jskv.String())
	require.NoError(t, err)
	require.Equal(t, config(), cfg)

	mirror := jetstream.KeyValueConfig{Bucket: "m", Mirror: &jetstream.StreamSource{Name: "origin", Domain: "elsewhere"}}
	_, err = jskv.CreateBucket(ctx, js, mirror, jskv.String())
	require.NoError(t, err)
	require.Equal(t, &jetstream.StreamSource{Name: "origin", Domain: "elsewhere"}, mirror.Mirror)
}
