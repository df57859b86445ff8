package wire

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// Every field of a bucket's configuration must state what it stands for and nothing else; one
// that nats.go adds fails here first.
func TestEachFieldOfAConfigurationStatesItsOwnSettings(t *testing.T) {
	for field, test := range map[string]struct {
		value any
		want  []string
	}{
		"Description":    {"text", []string{"description"}},
		"MaxValueSize":   {int32(100), []string{"max_msg_size"}},
		"History":        {uint8(5), []string{"max_msgs_per_subject"}},
		"TTL":            {time.Hour, []string{"duplicate_window", "max_age"}},
		"MaxBytes":       {int64(1 << 20), []string{"max_bytes"}},
		"Storage":        {jetstream.MemoryStorage, []string{"storage"}},
		"Replicas":       {3, []string{"num_replicas"}},
		"Placement":      {&jetstream.Placement{Cluster: "c"}, []string{"placement"}},
		"RePublish":      {&jetstream.RePublish{Destination: "copy.>"}, []string{"republish"}},
		"Mirror":         {&jetstream.StreamSource{Name: "origin"}, []string{"mirror", "mirror_direct"}},
		"Sources":        {[]*jetstream.StreamSource{{Name: "origin"}}, []string{"sources"}},
		"Compression":    {true, []string{"compression"}},
		"LimitMarkerTTL": {time.Minute, []string{"allow_msg_ttl", "subject_delete_marker_ttl"}},
		"Metadata":       {map[string]string{"team": "red"}, []string{"metadata"}},
		"Bucket":         {"other", nil},
	} {
		cfg := jetstream.KeyValueConfig{Bucket: "b"}
		reflect.ValueOf(&cfg).Elem().FieldByName(field).Set(reflect.ValueOf(test.value))
		got := statedSettings(t, cfg, Options{})
		require.Equal(t, test.want, slices.Sorted(maps.Keys(got)), field)
		for name, value := range got {
			require.NotEmpty(t, value, "%s of %s", name, field)
		}
	}
	known := reflect.TypeFor[jetstream.KeyValueConfig]().NumField()
	require.Equal(t, 15, known, "a field that is not among those above")
	require.Empty(t, statedSettings(t, jetstream.KeyValueConfig{Bucket: "b"}, Options{}))
	require.Equal(t, []string{"allow_atomic"}, slices.Sorted(maps.Keys(statedSettings(t, jetstream.KeyValueConfig{Bucket: "b"}, Options{Transactions: true}))))
}

func statedSettings(t *testing.T, cfg jetstream.KeyValueConfig, opts Options) map[string]json.RawMessage {
	t.Helper()
	current := map[string]json.RawMessage{"duplicate_window": json.RawMessage("1000"), "metadata": json.RawMessage(`{"_nats.level":"3","team":"blue"}`)}
	given := maps.Clone(current)
	settings, err := stated(cfg, streamConfig(cfg, opts), opts, current)
	require.NoError(t, err)
	require.Equal(t, given, current, "what the bucket has is not written to")
	return settings
}

func TestStatedMetadataKeepsTheServersNotes(t *testing.T) {
	cfg := jetstream.KeyValueConfig{Bucket: "b", Metadata: map[string]string{"floor": "2"}}
	settings := statedSettings(t, cfg, Options{})
	require.JSONEq(t, `{"_nats.level":"3","floor":"2"}`, string(settings["metadata"]))
	require.Equal(t, map[string]string{"floor": "2"}, cfg.Metadata)
	cfg.Metadata = map[string]string{}
	require.JSONEq(t, `{"_nats.level":"3"}`, string(statedSettings(t, cfg, Options{})["metadata"]), "empty metadata is stated, too")
}

func TestAStatedAgeNarrowsTheDuplicateWindowOnlyWhereItMust(t *testing.T) {
	for _, test := range []struct {
		current, age time.Duration
		want         string
	}{
		{2 * time.Minute, time.Hour, "120000000000"},
		{2 * time.Minute, time.Minute, "60000000000"},
		{time.Second, time.Minute, "1000000000"},
	} {
		cfg := jetstream.KeyValueConfig{Bucket: "b", TTL: test.age}
		window, err := json.Marshal(test.current)
		require.NoError(t, err)
		settings, err := stated(cfg, streamConfig(cfg, Options{}), Options{}, map[string]json.RawMessage{"duplicate_window": window})
		require.NoError(t, err)
		require.Equal(t, test.want, string(settings["duplicate_window"]))
	}
}

func TestSourcesAreTranslatedInCopies(t *testing.T) {
	transform := []jetstream.SubjectTransformConfig{{Source: "orders.>", Destination: "$KV.b.>"}}
	own := &jetstream.StreamSource{Name: "ORDERS", SubjectTransforms: transform}
	plain := &jetstream.StreamSource{Name: "origin", Domain: "hub"}
	same := &jetstream.StreamSource{Name: "KV_b", External: &jetstream.ExternalStream{APIPrefix: "$JS.hub.API"}}
	scfg := streamConfig(jetstream.KeyValueConfig{Bucket: "b", Sources: []*jetstream.StreamSource{own, plain, same}}, Options{})
	require.Equal(t, "ORDERS", scfg.Sources[0].Name, "one with transforms of its own is taken as it is")
	require.Equal(t, transform, scfg.Sources[0].SubjectTransforms)
	require.Equal(t, "KV_origin", scfg.Sources[1].Name)
	require.Equal(t, []jetstream.SubjectTransformConfig{{Source: "$KV.origin.>", Destination: "$KV.b.>"}}, scfg.Sources[1].SubjectTransforms)
	require.Equal(t, "$JS.hub.API", scfg.Sources[1].External.APIPrefix)
	require.Empty(t, scfg.Sources[2].SubjectTransforms, "the same bucket elsewhere has the same subjects")
	require.Equal(t, &jetstream.StreamSource{Name: "origin", Domain: "hub"}, plain)
	require.Equal(t, "KV_b", same.Name)
	require.Equal(t, []string{"$KV.b.>"}, scfg.Subjects)
}

func TestSameJSONLooksAtValues(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, true},
		{`[1,2]`, `[2,1]`, false},
		{`1`, `1.0`, true},
		{`"s2"`, `"none"`, false},
		{``, `null`, false},
		{``, ``, true},
		{`{"src":">","dest":"c"}`, `{ "src": ">", "dest": "c" }`, true},
	} {
		require.Equal(t, test.want, sameJSON(json.RawMessage(test.a), json.RawMessage(test.b)), "%s and %s", test.a, test.b)
	}
}
