package jskv_test

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

type profile struct {
	Name  string            `json:"name"`
	Age   int               `json:"age,omitempty"`
	Tags  []string          `json:"tags,omitempty"`
	Extra map[string]string `json:"extra,omitempty"`
}

func TestJSONStoresWhatEveryLanguageReads(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, server := newBucket(t, jetstream.KeyValueConfig{})
	profiles := jskv.As(text, jskv.JSON[profile]())
	want := profile{Name: "süe <&>", Age: 7, Tags: []string{"a", "b"}, Extra: map[string]string{"k": "v"}}
	_, err := profiles.Put(ctx, "sue", want)
	require.NoError(t, err)
	got, err := profiles.Get(ctx, "sue")
	require.NoError(t, err)
	require.Equal(t, want, got)
	stock, err := stockBucket(t, server.JetStream()).Get(ctx, "sue")
	require.NoError(t, err)
	var read profile
	require.NoError(t, json.Unmarshal(stock.Value(), &read))
	require.Equal(t, want, read)

	mustPut(t, text, "joe", " {\"age\": 9, \"name\": \"joe\", \"unknown\": []}\n")
	got, err = profiles.Get(ctx, "joe")
	require.NoError(t, err, "as others write it")
	require.Equal(t, profile{Name: "joe", Age: 9}, got)
}

func TestJSONOfValuesThatAreNoStructs(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{})
	stores := func(want string, put func() error) {
		t.Helper()
		require.NoError(t, put())
		stored, err := text.Get(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, want, stored)
	}
	stores("42", func() error { return second(jskv.As(text, jskv.JSON[int]()).Put(ctx, "k", 42)) })
	stores(`"a"`, func() error { return second(jskv.As(text, jskv.JSON[string]()).Put(ctx, "k", "a")) })
	stores("null", func() error { return second(jskv.As(text, jskv.JSON[*profile]()).Put(ctx, "k", nil)) })
	stores("[1,2]", func() error { return second(jskv.As(text, jskv.JSON[[]int]()).Put(ctx, "k", []int{1, 2})) })
	stores(`"2024-02-03T04:05:06Z"`, func() error {
		return second(jskv.As(text, jskv.JSON[time.Time]()).Put(ctx, "k", time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)))
	})
	mustPut(t, text, "k", "null")
	none, err := jskv.As(text, jskv.JSON[*profile]()).Get(ctx, "k")
	require.NoError(t, err)
	require.Nil(t, none)
	raw, err := jskv.As(text, jskv.JSON[json.RawMessage]()).Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "null", string(raw))
}

func TestStringAndBytesStoreWhatTheyAreGiven(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{})
	bytes := jskv.As(text, jskv.Bytes())
	for _, value := range []string{"", "blue", "\x00\xff", "\"quoted\"", "line\nline"} {
		mustPut(t, text, "k", value)
		read, err := bytes.Get(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, value, string(read))
		require.NotNil(t, read, "a value that is there is no nil")
		_, err = bytes.Put(ctx, "k2", []byte(value))
		require.NoError(t, err)
		got, err := text.Get(ctx, "k2")
		require.NoError(t, err)
		require.Equal(t, value, got)
	}
	_, err := bytes.Put(ctx, "k", nil)
	require.NoError(t, err)
	for _, options := range [][]jskv.ReadOption{nil, {jskv.FromLeader()}, {jskv.AtLeast(1)}} {
		read, err := bytes.Get(ctx, "k", options...)
		require.NoError(t, err, "an empty value, not a deleted key")
		require.Equal(t, []byte{}, read)
	}
}

func TestBytesThatWereReadBelongToTheReader(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{History: 2})
	bytes := jskv.As(text, jskv.Bytes())
	for range 3 {
		mustPut(t, text, "a", "aaaa")
		mustPut(t, text, "b", "bbbb")
	}
	entries, err := jskv.Collect(bytes.Entries(ctx))
	require.NoError(t, err)
	require.Len(t, entries, 2)
	for _, e := range entries {
		grown := append(e.Value, "grown"...)
		copy(grown, "xxxx")
		copy(e.Value, "yyyy")
	}
	for key, want := range map[string]string{"a": "aaaa", "b": "bbbb"} {
		value, err := text.Get(ctx, key)
		require.NoError(t, err)
		require.Equal(t, want, value)
	}
	revisions, err := jskv.Collect(bytes.History(ctx, "a"))
	require.NoError(t, err)
	require.Len(t, revisions, 2)
	_ = append(revisions[0].Value, "over the next one"...)
	require.Equal(t, "aaaa", string(revisions[1].Value))
}

// picky fails when it should.
type picky struct{}

var errPicky = errors.New("not to my taste")

func (picky) Encode(value string) ([]byte, error) {
	if value == "bad" {
		return []byte("half of it"), errPicky
	}
	return []byte(value), nil
}

func (picky) Decode(data []byte) (string, error) {
	if string(data) == "foul" {
		return "half of it", errPicky
	}
	return string(data), nil
}

func TestAValueThatCannotBeEncodedIsNotStored(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{})
	b := jskv.As(text, picky{})
	for name, write := range map[string]func() (uint64, error){
		"put":    func() (uint64, error) { return b.Put(ctx, "k", "bad") },
		"create": func() (uint64, error) { return b.Create(ctx, "k", "bad") },
		"update": func() (uint64, error) { return b.Update(ctx, "k", "bad", 0) },
		"modify": func() (uint64, error) {
			e, err := b.Modify(ctx, "k", func(jskv.Entry[string], bool) (string, error) { return "bad", nil })
			return e.Revision, err
		},
	} {
		revision, err := write()
		require.ErrorIs(t, err, errPicky)
		require.Zero(t, revision)
		requireNames(t, err, name+" b/k: ", errPicky.Error())
	}
	_, err := jskv.As(text, jskv.JSON[float64]()).Put(ctx, "k", math.NaN())
	var unsupported *json.UnsupportedValueError
	require.ErrorAs(t, err, &unsupported)
	info, err := text.Stream().Info(ctx)
	require.NoError(t, err)
	require.Zero(t, info.State.LastSeq)
}

func TestAValueThatCannotBeDecodedIsHandedOutAsItIs(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{})
	b := jskv.As(text, picky{})
	revision := mustPut(t, text, "k", "foul")
	for _, options := range [][]jskv.ReadOption{nil, {jskv.FromLeader()}, {jskv.AtRevision(revision)}} {
		e, err := b.Entry(ctx, "k", options...)
		var undecoded *jskv.DecodeError
		require.ErrorAs(t, err, &undecoded)
		require.Equal(t, jskv.DecodeError{Bucket: "b", Key: "k", Revision: revision, Data: []byte("foul"), Err: errPicky}, *undecoded)
		require.ErrorIs(t, err, errPicky)
		require.NotErrorIs(t, err, jskv.ErrKeyNotFound)
		requireNames(t, err, "b/k: ", errPicky.Error())
		require.Equal(t, revision, e.Revision)
		require.Equal(t, "k", e.Key)
		require.Equal(t, "b", e.Bucket)
		require.False(t, e.Created.IsZero())
		require.Empty(t, e.Value, "nothing, not half of it")
		value, err := b.Get(ctx, "k", options...)
		require.ErrorAs(t, err, &undecoded)
		require.Empty(t, value)
	}
	mustPut(t, text, "n", "no number")
	_, err := jskv.As(text, jskv.JSON[int]()).Get(ctx, "n")
	var syntax *json.SyntaxError
	require.ErrorAs(t, err, &syntax, "the codec's error is there for errors.As")
}

func TestAMarkerIsNotDecoded(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	text, _ := newBucket(t, jetstream.KeyValueConfig{})
	numbers := jskv.As(text, jskv.JSON[int]())
	_, err := numbers.Delete(ctx, "k")
	require.NoError(t, err)
	_, err = numbers.Get(ctx, "k")
	requireIs(t, err, jskv.ErrKeyNotFound)
	var undecoded *jskv.DecodeError
	require.False(t, errors.As(err, &undecoded), "no bytes are no JSON, and none were expected")
}
