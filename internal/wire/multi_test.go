package wire

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

func TestARequestForTheNewestOfKeysIsTheJSONOfTheirSubjects(t *testing.T) {
	t.Parallel()
	for because, keys := range map[string][]string{
		"one key":            {"sue.color"},
		"all that keys have": {"azAZ09-/_=.x", "b"},
		"filters":            {"a.*.b", ">"},
		"what JSON escapes":  {`quote"back\slash`, "tab\tnew\nline", "<&>", "Zoë", "del\x7f"},
	} {
		for _, prefix := range []string{"$KV.b.", `$KV."é\.`} {
			var want []string
			for _, key := range keys {
				want = append(want, prefix+key)
			}
			var got struct {
				Subjects []string `json:"multi_last"`
				MaxBytes int      `json:"max_bytes"`
			}
			require.NoError(t, json.Unmarshal(appendLastOf(nil, prefix, keys, viewBytes), &got), because)
			require.Equal(t, want, got.Subjects, because)
			require.Equal(t, viewBytes, got.MaxBytes)
		}
	}
}

// A mirror of a part may have come further than the leader of its stream that was just elected, and is
// asked for what the mirror lacks. No network can be made to do that at will.
func TestWhatAMirrorLacksIsReadFromAStreamThatHasComeAsFar(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	js := jskvtest.NewServer(t).JetStream()
	b, err := Create(ctx, js, jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage}, Options{})
	require.NoError(t, err)
	put := func(key string) {
		_, err := js.Publish(ctx, "$KV.b."+key, nil)
		require.NoError(t, err)
	}
	put("k")
	ofMirror := answer{upTo: 3, whole: true}
	soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, _, err = b.complete(soon, b.era(), []string{"k", "other"}, ofMirror, 3)
	require.ErrorIs(t, err, context.DeadlineExceeded, "the stream ends at 1")
	put("other")
	put("k")
	found, _, err := b.complete(ctx, b.era(), []string{"k", "other"}, ofMirror, 3)
	require.NoError(t, err)
	require.Len(t, found, 2)
}

// Keys that come between two questions are found beside the key that was written last, which is none of
// what was to come of them.
func TestTheKeyThatIsAskedForBesideOthersIsNotCounted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	js := jskvtest.NewServer(t).JetStream()
	b, err := Create(ctx, js, jetstream.KeyValueConfig{Bucket: "b", Storage: jetstream.MemoryStorage}, Options{})
	require.NoError(t, err)
	for _, key := range []string{"one", "two", "last"} {
		_, err := js.Publish(ctx, "$KV.b."+key, nil)
		require.NoError(t, err)
	}
	for _, keys := range [][]string{{"two"}, {"one", "two"}, {"one", "two", "last"}, {"none"}} {
		a, err := b.anchored(ctx, keys)
		require.NoError(t, err)
		for i, m := range a.found {
			require.Contains(t, keys, m.Key)
			require.EqualValues(t, len(a.found)-1-i, m.Pending, "%s of %v", m.Key, keys)
		}
	}
}
