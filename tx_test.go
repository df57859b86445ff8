package jskv_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// transact must succeed. It returns how often fn ran.
func transact[T any](t testing.TB, b *jskv.Bucket[T], fn func(tx *jskv.Tx[T]) error) (revision uint64, runs int) {
	t.Helper()
	revision, err := b.Transact(testContext(t), func(tx *jskv.Tx[T]) error {
		runs++
		return fn(tx)
	})
	require.NoError(t, err)
	return revision, runs
}

// once does what it is given the first time that it is called.
func once(do func()) func() {
	done := false
	return func() {
		if !done {
			done = true
			do()
		}
	}
}

func TestTransactSeesItsOwnWrites(t *testing.T) {
	t.Parallel()
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 10}, jskv.WithTransactions())
	old := mustPut(t, b, "old", "1")
	mustPut(t, b, "gone", "2")
	revision, _ := transact(t, b, func(tx *jskv.Tx[string]) error {
		e, err := tx.Entry("old")
		require.NoError(t, err)
		require.Equal(t, old, e.Revision)
		require.Equal(t, "1", e.Value)

		tx.Put("old", "3")
		tx.Put("new", "4")
		tx.Delete("gone")
		tx.Delete("never")
		for key, want := range map[string]string{"old": "3", "new": "4"} {
			e, err := tx.Entry(key)
			require.NoError(t, err)
			require.Equal(t, jskv.Entry[string]{Bucket: "b", Key: key, Value: want}, e)
			value, err := tx.Get(key)
			require.NoError(t, err)
			require.Equal(t, want, value)
		}
		for _, key := range []string{"gone", "never"} {
			_, err := tx.Get(key)
			requireIs(t, err, jskv.ErrKeyNotFound)
			requireNames(t, err, " b/"+key+": ")
		}
		got, err := tx.GetMany("new", "gone", "old", "old", "missing", "never")
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Equal(t, "3", got["old"].Value)
		require.Equal(t, "4", got["new"].Value)

		tx.Put("gone", "5")
		tx.Delete("new")
		tx.Put("new", "6")
		value, err := tx.Get("gone")
		require.Equal(t, "5", value)
		return err
	})
	require.Equal(t, lastRevision(t, b), revision)
	require.EqualValues(t, 6, revision, "each key is stored once, with its last value")
	for key, want := range map[string]string{"old": "Put 1, Put 3", "gone": "Put 2, Put 5", "new": "Put 6", "never": "Delete"} {
		require.Equal(t, want, history(t, b, key))
	}
}

func TestTransactStoresNothingWhenItsFunctionFails(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory, jskv.WithTransactions())
	mustPut(t, b, "k", "v")
	last := lastRevision(t, b)
	for _, mine := range []error{errors.New("not today"), jskv.ErrRevisionMismatch, jskv.ErrKeyNotFound, context.Canceled, jskv.ErrOutcomeUnknown} {
		runs := 0
		revision, err := b.Transact(testContext(t), func(tx *jskv.Tx[string]) error {
			runs++
			_, err := tx.Get("k")
			require.NoError(t, err)
			tx.Put("k", "w")
			tx.Put("other", "w")
			return mine
		})
		require.True(t, err == mine, "%v", err)
		require.Zero(t, revision)
		require.Equal(t, 1, runs)
	}
	require.PanicsWithValue(t, "enough", func() {
		_, _ = b.Transact(testContext(t), func(tx *jskv.Tx[string]) error {
			tx.Put("k", "w")
			tx.Put("other", "w")
			panic("enough")
		})
	})
	require.Equal(t, last, lastRevision(t, b))
	requireNoBatchUnderWay(t, server.Conn())
}

func TestTransactThatOnlyReadsWritesNothing(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory) // without transactions
	keys := numbered(100)
	store(t, writer, keys)
	b, count := counted(t, server)
	read := func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany(keys...)
		requireValued(t, got, keys)
		value, err2 := tx.Get(keys[7])
		require.Equal(t, "v of "+keys[7], value)
		return errors.Join(err, err2)
	}
	onceInThree(t, 1, func() int {
		return count(func() {
			revision, _ := transact(t, b, read)
			require.Zero(t, revision)
		})
	}, "one request")
	require.Zero(t, count(func() {
		revision, _ := transact(t, b, func(*jskv.Tx[string]) error { return nil })
		require.Zero(t, revision)
	}))
	require.Equal(t, uint64(len(keys)), lastRevision(t, b))
}

func TestTransactWithOneWriteNeedsNoTransactions(t *testing.T) {
	t.Parallel()
	b, _ := newBucket(t, inMemory)
	mustPut(t, b, "a", "1")
	rival := once(func() { mustPut(t, b, "b", "2") })
	revision, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany("a", "b", "c")
		rival()
		tx.Put("sum", strconv.Itoa(len(got)))
		return err
	})
	require.Equal(t, 2, runs)
	require.EqualValues(t, 3, revision)
	require.Equal(t, "2", getMany(t, b, "sum")["sum"].Value)
}

// The view of an empty bucket was taken anew with every read: here half of a batch was seen.
func TestTransactOnAnEmptyBucket(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	rival := once(func() { commit(t, b.NewBatch().Put("a", "1").Put("b", "1")) })
	transact(t, b, func(tx *jskv.Tx[string]) error {
		_, errA := tx.Get("a")
		rival()
		_, errB := tx.Get("b")
		if errA == nil || errB == nil {
			assert.NoError(t, errors.Join(errA, errB), "one without the other")
		}
		return nil
	})
	empty := newBank(t)
	revision, _ := transact(t, empty, func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany(numbered(20)...)
		require.Empty(t, got)
		tx.Put("first", "1")
		tx.Put("second", "2")
		return err
	})
	require.EqualValues(t, 2, revision)
}

func TestTransactRefusesAKeyThatIsNone(t *testing.T) {
	t.Parallel()
	_, server := newBucket(t, inMemory, jskv.WithTransactions())
	b, count := counted(t, server)
	for name, use := range map[string]func(tx *jskv.Tx[string]){
		"Put":     func(tx *jskv.Tx[string]) { tx.Put("a b", "v") },
		"Delete":  func(tx *jskv.Tx[string]) { tx.Delete("a b") },
		"Get":     func(tx *jskv.Tx[string]) { _, _ = tx.Get("a b") },
		"GetMany": func(tx *jskv.Tx[string]) { _, _ = tx.GetMany("ok", "a b") },
	} {
		runs := 0
		require.Zero(t, count(func() {
			_, err := b.Transact(testContext(t), func(tx *jskv.Tx[string]) error {
				runs++
				tx.Put("ok", "v")
				use(tx)
				return nil // it does not notice
			})
			require.ErrorIs(t, err, jskv.ErrInvalidKey, name)
			requireNames(t, err, ` b: `, `"a b"`)
		}))
		require.Equal(t, 1, runs)
	}
	odd := jskv.As(b, jskv.Codec[int](evenOnly{jskv.JSON[int]()}))
	_, err := odd.Transact(testContext(t), func(tx *jskv.Tx[int]) error {
		tx.Put("two", 2)
		tx.Put("three", 3)
		return nil
	})
	requireIs(t, err, errOdd)
	requireNames(t, err, " b/three: ")
	require.Zero(t, lastRevision(t, b))
}

func TestTransactLeavesItToItsFunctionWhatDoesNotDecode(t *testing.T) {
	t.Parallel()
	text := newBank(t)
	b := jskv.As(text, jskv.JSON[int]())
	mustPut(t, text, "one", "1")
	bad := mustPut(t, text, "bad", "no number")
	rival := once(func() { mustPut(t, text, "bad", "still none") })
	var undecoded *jskv.DecodeError
	_, runs := transact(t, b, func(tx *jskv.Tx[int]) error {
		e, err := tx.Entry("bad")
		require.ErrorAs(t, err, &undecoded)
		require.GreaterOrEqual(t, e.Revision, bad)
		got, err := tx.GetMany("one", "bad")
		require.ErrorAs(t, err, &undecoded)
		require.Len(t, got, 1)
		rival()
		tx.Put("bad", 0) // repaired
		tx.Put("repairs", 1)
		return nil
	})
	require.Equal(t, 2, runs, "it depends on what it could not read")
	require.Equal(t, "still none", string(undecoded.Data))
	require.Equal(t, 0, getMany(t, b, "bad")["bad"].Value)
	_, err := b.Transact(testContext(t), func(tx *jskv.Tx[int]) error {
		mustPut(t, text, "bad", "none again")
		_, err := tx.Get("bad")
		return err
	})
	require.ErrorAs(t, err, &undecoded)
}

// A value that was read belongs to the reader, who may write into it.
func TestTransactReadsTheSameAgainWhateverBecameOfWhatItRead(t *testing.T) {
	t.Parallel()
	strings, server := newBucket(t, inMemory)
	_, err := server.JetStream().PublishMsg(testContext(t), &nats.Msg{Subject: "$KV.b.k", Header: nats.Header{"H": {"h"}}, Data: []byte("value")})
	require.NoError(t, err)
	transact(t, jskv.As(strings, jskv.Bytes()), func(tx *jskv.Tx[[]byte]) error {
		for range 3 {
			e, err := tx.Entry("k")
			require.NoError(t, err)
			require.Equal(t, "value", string(e.Value))
			require.Equal(t, "h", e.Header.Get("H"))
			e.Value[0], e.Header["H"] = 'V', []string{"other"}
			got, err := tx.GetMany("k")
			require.NoError(t, err)
			require.Equal(t, "value", string(got["k"].Value))
			got["k"].Value[0], got["k"].Header["H"][0] = 'W', "another"
		}
		return nil
	})
}

// Who changed what it had read of its own write changed what was stored, and so did who changed what it had put.
func TestTransactStoresWhatWasPutWhateverBecameOfIt(t *testing.T) {
	t.Parallel()
	text, _ := newBucket(t, inMemory, jskv.WithTransactions())
	transact(t, jskv.As(text, jskv.Bytes()), func(tx *jskv.Tx[[]byte]) error {
		tx.Put("bytes", []byte("value"))
		for range 2 {
			value, err := tx.Get("bytes")
			require.NoError(t, err)
			require.Equal(t, "value", string(value))
			value[0] = 'V'
			got, err := tx.GetMany("bytes")
			require.NoError(t, err)
			require.Equal(t, "value", string(got["bytes"].Value))
			got["bytes"].Value[0] = 'W'
		}
		return nil
	})
	transact(t, jskv.As(text, jskv.JSON[map[string]int]()), func(tx *jskv.Tx[map[string]int]) error {
		counts := map[string]int{"a": 1}
		tx.Put("map", counts)
		counts["a"]++
		own, err := tx.Get("map")
		require.NoError(t, err)
		require.Equal(t, 1, own["a"])
		own["a"] = 7
		return nil
	})
	transact(t, jskv.As(text, jskv.Bytes()), func(tx *jskv.Tx[[]byte]) error {
		buffer := []byte("value")
		tx.Put("buffer", buffer)
		buffer[0] = 'V'
		return nil
	})
	got := getMany(t, text, "bytes", "map", "buffer")
	require.Equal(t, "value", got["buffer"].Value)
	require.Equal(t, "value", got["bytes"].Value)
	require.Equal(t, `{"a":1}`, got["map"].Value)
}

func TestTransactThroughAMirror(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, server := newBucket(t, inMemory, jskv.WithTransactions())
	js := server.JetStream()
	_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: "copy", Storage: jetstream.MemoryStorage, Mirror: &jetstream.StreamSource{Name: "KV_b"},
	})
	require.NoError(t, err)
	mirror, err := jskv.OpenBucket(ctx, js, "copy", jskv.String())
	require.NoError(t, err)
	b := jskv.As(mirror, jskv.JSON[int]())
	for i := range 50 {
		transact(t, b, func(tx *jskv.Tx[int]) error {
			got, err := tx.GetMany("a", "b")
			require.Equal(t, i, got["a"].Value)
			require.Equal(t, -i, got["b"].Value)
			tx.Put("a", got["a"].Value+1)
			tx.Put("b", got["b"].Value-1)
			return err
		})
	}
}

func TestTransactOnAStreamWithoutDirectGets(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory, jskv.WithTransactions())
	setConfig(t, server.JetStream(), "KV_b", map[string]any{"allow_direct": false})
	numbers := jskv.As(b, jskv.JSON[int]())
	other := jskv.As(openBucket(t, server.JetStream()), jskv.JSON[int]())
	for _, handle := range []*jskv.Bucket[int]{numbers, numbers, other, numbers} { // other had not seen those
		transact(t, handle, func(tx *jskv.Tx[int]) error {
			got, err := tx.GetMany("a", "b")
			tx.Put("a", got["a"].Value+1)
			tx.Put("b", got["b"].Value+1)
			return err
		})
	}
	require.Equal(t, 4, getMany(t, numbers, "a", "b")["b"].Value)
}

// The filters of one consumer are compared with each other by the server: of 8,000 that took half a minute.
func TestTransactReadsManyKeysThatAreNotThereWithoutDirectGets(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, inMemory)
	setConfig(t, server.JetStream(), "KV_b", map[string]any{"allow_direct": false})
	mustPut(t, b, "a", "v")
	spy := server.Conn()
	requests, err := spy.SubscribeSync("$JS.API.CONSUMER.CREATE.KV_b.>")
	require.NoError(t, err)
	require.NoError(t, requests.SetPendingLimits(-1, -1))
	require.NoError(t, spy.Flush())
	transact(t, b, func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany(numbered(3000)...)
		require.Empty(t, got)
		if err == nil {
			_, err = tx.Get("a")
		}
		return err
	})
	require.NoError(t, spy.Flush())
	made, _, err := requests.Pending()
	require.NoError(t, err)
	require.NotZero(t, made)
	for range made {
		request, err := requests.NextMsg(soon)
		require.NoError(t, err)
		var consumer struct {
			Config jetstream.ConsumerConfig `json:"config"`
		}
		require.NoError(t, json.Unmarshal(request.Data, &consumer))
		require.LessOrEqual(t, len(consumer.Config.FilterSubjects), 1024)
	}
}
