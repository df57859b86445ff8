package jskv_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// tapped tells what is sent over a connection before it is, and sends what it is told instead.
type tapped struct {
	net.Conn
	sending func(data string) string
}

func (c *tapped) Write(data []byte) (int, error) {
	_, err := c.Conn.Write([]byte(c.sending(string(data))))
	return len(data), err
}

// Dial makes the connection of a client.
func (c *tapped) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &tapped{conn, c.sending}, err
}

// rivalBefore is a handle on bucket "b" that sends what is recognized only after act, once. What did not go
// well is told by the returned function, and whether act was called.
func rivalBefore(t testing.TB, server *jskvtest.Server, is func(data string) bool, act func() error) (b *jskv.Bucket[string], acted func() bool) {
	t.Helper()
	done := make(chan error, 1)
	act = sync.OnceValue(act)
	nc := server.Conn(nats.SetCustomDialer(&tapped{sending: func(data string) string {
		if is(data) {
			select {
			case done <- act():
			default:
			}
		}
		return data
	}}))
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return openBucket(t, js), func() bool {
		select {
		case err := <-done:
			require.NoError(t, err)
			return true
		default:
			return false
		}
	}
}

// rivalBetween is rivalBefore the second request of a read. The first one is asked again where its answer is late.
func rivalBetween(t testing.TB, server *jskvtest.Server, act func() error) (b *jskv.Bucket[string], acted func() bool) {
	t.Helper()
	first := ""
	return rivalBefore(t, server, func(data string) bool {
		_, subject, reads := strings.Cut(data, "$JS.API.")
		opens := strings.HasPrefix(subject, "STREAM.INFO.KV_b ") && first == ""
		if !reads || opens {
			return false
		}
		subject, _, _ = strings.Cut(subject, " ")
		_, question, _ := strings.Cut(data, "\r\n")
		if first == "" {
			first = subject + question
		}
		return subject+question != first
	}, act)
}

// replaced puts one key in the place of another, of which then nothing tells.
func replaced(b *jskv.Bucket[string], put, gone string) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := b.NewBatch().Put(put, "new").Delete(gone).Commit(ctx)
		if err == nil {
			_, err = b.PurgeDeletes(ctx, 0)
		}
		return err
	}
}

// requireReplaced wants a transaction's read to have seen all of replaced, or nothing.
func requireReplaced(t testing.TB, got map[string]jskv.Entry[string], put, gone string) {
	t.Helper()
	_, there := got[gone]
	require.NotEqual(t, there, got[put].Value == "new", "read skew: %s is there: %v, and %s is %q", gone, there, put, got[put].Value)
}

// What a server cut off of its answer was read later, and not being there was taken for true of the
// first answer's moment.
func TestTransactReadsMoreThanAServerSendsAtOnceAtOneMoment(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory, jskv.WithTransactions())
	keys := append(names("big", 10), "gone", "missing")
	for _, key := range keys[:11] {
		mustPut(t, writer, key, strings.Repeat("x", 1_000_000))
	}
	b, acted := rivalBetween(t, server, replaced(writer, keys[0], "gone"))
	_, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany(keys...)
		if err == nil {
			requireReplaced(t, got, keys[0], "gone")
			require.Len(t, got, 10)
		}
		return err
	})
	require.True(t, acted())
	require.Equal(t, 2, runs)
	_, runs = transact(t, b, func(tx *jskv.Tx[string]) error {
		for _, key := range keys { // what is not there comes last, after more than one answer has room for
			if _, err := tx.Get(key); err != nil && !errors.Is(err, jskv.ErrKeyNotFound) {
				return err
			}
			mustPut(t, writer, "other", "v")
		}
		return nil
	})
	require.Equal(t, 1, runs)
}

// What a mirror of a part has not was read from the stream, later.
func TestTransactReadsThroughAMirrorOfAPartAtOneMoment(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory, jskv.WithTransactions())
	mustPut(t, writer, "right", "old")
	answeringMirror(t, server.JetStream(), "m", jetstream.StreamSource{FilterSubject: "$KV.b.right"})
	count := 0
	for end := time.Now().Add(20 * time.Second); count < 5; {
		require.True(t, time.Now().Before(end), "the mirror answers")
		commit(t, writer.NewBatch().Put("left", "old").Put("right", "old"))
		b, acted := rivalBetween(t, server, replaced(writer, "right", "left"))
		transact(t, b, func(tx *jskv.Tx[string]) error {
			got, err := tx.GetMany("left", "right")
			if err == nil {
				requireReplaced(t, got, "right", "left")
			}
			return err
		})
		if acted() {
			count++
		}
	}
}

// What a mirror lacks was read from a stream that was behind it: of another moment. Here that is a bucket
// that was made again, which its mirror does not notice; or it is a leader just elected.
func TestTransactReadsNothingFromAStreamThatIsBehindItsMirror(t *testing.T) {
	t.Parallel()
	old, server := newBucket(t, inMemory)
	js := server.JetStream()
	for range 10 {
		mustPut(t, old, "right", "old")
	}
	answeringMirror(t, js, "m", jetstream.StreamSource{FilterSubject: "$KV.b.right"})
	eventually(t, func() bool {
		mirror, err := js.Stream(testContext(t), "KV_m")
		return err == nil && mirror.CachedInfo().State.LastSeq == 10
	}, "the mirror has it all")
	readers := make([]*jskv.Bucket[string], 20) // which do not know yet that the bucket is another
	for i := range readers {
		readers[i] = openBucket(t, js)
	}
	require.NoError(t, js.DeleteStream(testContext(t), "KV_b"))
	again := createBucket(t, js, inMemory, jskv.WithTransactions())
	commit(t, again.NewBatch().Put("left", "new").Put("right", "new"))
	for _, b := range readers {
		transact(t, b, func(tx *jskv.Tx[string]) error {
			got, err := tx.GetMany("left", "right")
			if err == nil {
				require.Equal(t, "new", got["right"].Value, "read skew: left is %q", got["left"].Value)
			}
			return err
		})
	}
}

// A purge of the stream moves no sequence that would tell of it.
func TestTransactNoticesWhatAPurgeOfTheStreamTakes(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]map[string]any{"direct gets": {}, "none": {"allow_direct": false}} {
		for first, second := range map[string]string{"a": "b", "never": "a"} {
			t.Run(name+", "+first+" first", func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				writer, server := newBucket(t, inMemory, jskv.WithTransactions())
				setConfig(t, server.JetStream(), "KV_b", config)
				commit(t, writer.NewBatch().Put("a", "v").Put("b", "v").Put("c", "v"))
				b := openBucket(t, server.JetStream())
				purge := once(func() { require.NoError(t, b.Stream().JetStream().Purge(ctx)) })
				transact(t, b, func(tx *jskv.Tx[string]) error {
					one, err := tx.GetMany(first)
					if err != nil {
						return err
					}
					purge()
					other, err := tx.GetMany(second, "c")
					if err == nil && first == "a" {
						require.Equal(t, 2*len(one), len(other), "what is purged together is gone together")
					}
					return err
				})
			})
		}
	}
}

// It started over as often as the bucket moved on.
func TestTransactReadsAKeyThatIsNotThereBesideManyThatAre(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	keys := numbered(1500)
	store(t, b, keys)
	_, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany(append(keys[:1200:1200], "none")...)
		if err != nil {
			return err
		}
		require.Len(t, got, 1200)
		mustPut(t, b, "other", "v")
		got, err = tx.GetMany(append(keys, "nothing")...)
		if err != nil {
			return err
		}
		requireValued(t, got, keys)
		mustPut(t, b, "other", "v")
		tx.Put(keys[7], "mine")
		if _, err = tx.Get("never"); !errors.Is(err, jskv.ErrKeyNotFound) {
			return err
		}
		return nil
	})
	require.Equal(t, 1, runs)
	require.Equal(t, "mine", getMany(t, b, keys[7])[keys[7]].Value)
}

// It is asked for together with what was read before; who asks first reads what is there in one.
func TestTransactPaysOneMoreRequestForAKeyThatIsNotThere(t *testing.T) {
	t.Parallel()
	writer, server := newBucket(t, inMemory)
	keys := numbered(1024)
	store(t, writer, keys)
	b, count := counted(t, server)
	requests := func(tx *jskv.Tx[string], keys ...string) int {
		return count(func() {
			_, err := tx.GetMany(keys...)
			require.NoError(t, err)
		})
	}
	onceInThree(t, []int{1, 1, 2, 1, 0}, func() (made []int) {
		transact(t, b, func(tx *jskv.Tx[string]) error {
			made = []int{
				requests(tx, append(keys[:500:500], "none")...),
				requests(tx, keys[:800]...),
				requests(tx, "neither"),
				requests(tx, keys...),
				requests(tx, "none", "neither", keys[0]),
			}
			return nil
		})
		return made
	})
}

// So many keys that are not there that no request has room for them.
func TestTransactReadsMoreKeysThatAreNotThereThanARequestHasRoomFor(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	commit(t, b.NewBatch().Put("a", "old").Put("b", "old"))
	absent := make([]string, 6000)
	for i := range absent {
		absent[i] = fmt.Sprint(strings.Repeat("long.", 40), i)
	}
	rival := once(func() { require.NoError(t, replaced(b, "a", "b")()) })
	_, runs := transact(t, b, func(tx *jskv.Tx[string]) error {
		a, err := tx.Get("a")
		if err != nil {
			return err
		}
		got, err := tx.GetMany(absent...)
		require.Empty(t, got)
		if err != nil {
			return err
		}
		rival()
		if _, err = tx.Get("b"); errors.Is(err, jskv.ErrKeyNotFound) {
			require.Equal(t, "new", a, "read skew")
			return nil
		}
		return err
	})
	require.Equal(t, 2, runs)
}

// A handle on a mirror of a part takes what that has not for what is not there; its origin does not.
func TestTransactOnAMirrorOfAPartCommitsNothingThatItsOriginContradicts(t *testing.T) {
	t.Parallel()
	origin, server := newBucket(t, inMemory, jskv.WithTransactions())
	part := partOf(t, server, origin)
	outside := []string{"other.a", "other.b"}
	commit(t, origin.NewBatch().Put(outside[0], "v").Put(outside[1], "v").Put("some.x", "v"))
	eventually(t, func() bool { return len(getMany(t, part, "some.x")) == 1 }, "the mirror has come as far")
	last := lastRevision(t, origin)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := part.Transact(ctx, func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany(outside...)
		tx.Put("some.n", fmt.Sprint(len(got)))
		return err
	})
	requireIs(t, err, context.DeadlineExceeded)
	_, err = part.NewBatch().Put("some.n", "0").Require(outside[0], 0).Require(outside[1], 0).Commit(testContext(t))
	requireConflict(t, err, outside[0], 0, 1)
	_, err = part.NewBatch().Require("some.x", 3).Require(outside[1], 0).Commit(testContext(t))
	requireConflict(t, err, outside[1], 0, 2)
	require.Equal(t, last, lastRevision(t, origin))

	mustPut(t, origin, outside[0], "w") // which moves the origin on and leaves the mirror
	transact(t, part, func(tx *jskv.Tx[string]) error {
		got, err := tx.GetMany("some.x", "some.y", "some.z")
		tx.Put("some.n", fmt.Sprint(len(got)))
		return err
	})
	require.Equal(t, "1", getMany(t, origin, "some.n")["some.n"].Value)
}

// A mirror keeps a marker that its origin has no more: whoever had read it through the mirror could
// commit nothing, ever.
func TestTransactOnAMirrorThatKeepsAMarkerItsOriginHasNoMore(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	origin, server := newBucket(t, inMemory, jskv.WithTransactions())
	part := partOf(t, server, origin)
	for _, key := range []string{"some.a", "some.b", "some.c", "some.d"} {
		_, err := origin.Delete(ctx, key)
		require.NoError(t, err)
	}
	mustPut(t, origin, "some.last", "v")
	eventually(t, func() bool { return len(getMany(t, part, "some.last")) == 1 }, "the mirror has come as far")
	purged, err := origin.PurgeDeletes(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, 4, purged)
	for name, keys := range map[string][]string{
		"written": {"some.a"}, "guarded": {"some.b"}, "more than are written": {"some.b", "some.d"}, "and written": {"some.c", "some.b", "some.missing"},
	} {
		_, runs := transact(t, part, func(tx *jskv.Tx[string]) error {
			got, err := tx.GetMany(keys...)
			require.Empty(t, got)
			if name == "written" || name == "and written" {
				tx.Put(keys[0], name)
			} else {
				tx.Put("some.n", name)
			}
			return err
		})
		require.Equal(t, 1, runs, name)
	}
	_, err = origin.Create(ctx, "some.b", "v")
	require.NoError(t, err, "nobody wrote it")
}

// partOf is a handle on a mirror of what is under "some".
func partOf(t testing.TB, server *jskvtest.Server, origin *jskv.Bucket[string]) *jskv.Bucket[string] {
	t.Helper()
	js := server.JetStream()
	_, err := js.CreateStream(testContext(t), jetstream.StreamConfig{
		Name: "KV_part", Storage: jetstream.MemoryStorage, MaxMsgsPerSubject: 1, AllowDirect: true, AllowRollup: true,
		Mirror: &jetstream.StreamSource{Name: "KV_b", FilterSubject: origin.Stream().Subject("some.>")},
	})
	require.NoError(t, err)
	part, err := jskv.OpenBucket(testContext(t), js, "part", jskv.String())
	require.NoError(t, err)
	return part
}

// The mirror never comes to what the handle has written: the read went on for ever.
func TestTransactDoesNotReadForEver(t *testing.T) {
	t.Parallel()
	origin, server := newBucket(t, inMemory, jskv.WithTransactions())
	partOf(t, server, origin)
	part, err := jskv.OpenBucket(testContext(t), hasty(t, server.Conn(), 300*time.Millisecond), "part", jskv.String())
	require.NoError(t, err)
	mustPut(t, part, "some.x", "v")
	eventually(t, func() bool { return len(getMany(t, part, "some.x")) == 1 }, "the mirror has it")
	mustPut(t, part, "other", "v")
	ended := make(chan error, 1)
	go func() {
		_, err := part.Transact(context.Background(), func(tx *jskv.Tx[string]) error { _, err := tx.Get("some.x"); return err })
		ended <- err
	}()
	select {
	case err := <-ended:
		requireIs(t, err, context.DeadlineExceeded)
	case <-time.After(10 * time.Second):
		require.Fail(t, "it still reads")
	}
}

// Pairs come together, and go together, with a trace or without one.
func provePairsStayTogether(_ *testing.T, s *stage) {
	pair := names("pair", 2)
	change := func(b *jskv.Bucket[int]) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		n := 1 + rand.IntN(1_000_000)
		_, err := b.NewBatch().Put(pair[0], n).Put(pair[1], n).Commit(ctx)
		if err != nil || n%3 == 0 {
			return err
		}
		if n%3 == 1 {
			return b.Stream().JetStream().Purge(ctx, jetstream.WithPurgeSubject(b.Stream().Subject("pair.>")))
		}
		if _, err = b.NewBatch().Delete(pair[0]).Delete(pair[1]).Commit(ctx); err == nil {
			_, err = b.PurgeDeletes(ctx, 0)
		}
		return err
	}
	look := func(b *jskv.Bucket[int]) error {
		first := rand.IntN(2)
		_, err := b.Transact(context.Background(), func(tx *jskv.Tx[int]) error {
			one, err := number(tx, pair[first])
			if err != nil {
				return err
			}
			other, err := number(tx, pair[1-first])
			if err == nil && one != other {
				s.violated("a transaction read %d and %d", one, other)
			}
			return err
		})
		return err
	}
	s.run(func(i int, b *jskv.Bucket[int]) error {
		if i == 0 {
			return change(b)
		}
		return look(b)
	}, look)
}
