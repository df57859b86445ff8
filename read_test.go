package jskv_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

func TestGetReadsTheNewestValue(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{})
	value, err := b.Get(ctx, "k")
	requireIs(t, err, jskv.ErrKeyNotFound, jetstream.ErrKeyNotFound)
	require.Empty(t, value)
	requireNames(t, err, "get b/k: key not found")
	for _, want := range []string{"a", "", "c"} {
		mustPut(t, b, "k", want)
		value, err = b.Get(ctx, "k")
		require.NoError(t, err, "an empty value is a value")
		require.Equal(t, want, value)
	}
}

func TestEntryTellsAllOfARevision(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{})
	mustPut(t, b, "other", "x")
	before := time.Now()
	revision := mustPut(t, b, "sue.color", "blue")
	e, err := b.Entry(ctx, "sue.color")
	require.NoError(t, err)
	require.WithinRange(t, e.Created, before.Add(-time.Second), time.Now().Add(time.Second))
	want := jskv.Entry[string]{Bucket: "b", Key: "sue.color", Value: "blue", Revision: revision, Created: e.Created}
	require.Equal(t, want, e, "and no headers where there are none")
	require.Equal(t, jskv.OpPut, e.Operation)
	require.Nil(t, e.Header)

	for name, option := range map[string]jskv.ReadOption{"by revision": jskv.AtRevision(revision), "leader": jskv.FromLeader(), "at least": jskv.AtLeast(revision)} {
		same, err := b.Entry(ctx, "sue.color", option)
		require.NoError(t, err)
		require.True(t, e.Created.Equal(same.Created), "%s: %v is not %v", name, same.Created, e.Created)
		same.Created = e.Created
		require.Equal(t, want, same, name)
	}
}

func TestEntryOfADeletedKeyIsItsMarker(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 2})
	for _, test := range []struct {
		remove func(context.Context, string, ...jskv.WriteOption) (uint64, error)
		want   jskv.Operation
	}{{b.Delete, jskv.OpDelete}, {b.Purge, jskv.OpPurge}} {
		mustPut(t, b, "k", "v")
		before := time.Now()
		marker, err := test.remove(ctx, "k")
		require.NoError(t, err)
		for _, options := range [][]jskv.ReadOption{nil, {jskv.FromLeader()}, {jskv.AtLeast(marker)}, {jskv.AtRevision(marker)}} {
			e, err := b.Entry(ctx, "k", options...)
			requireIs(t, err, jskv.ErrKeyNotFound, jetstream.ErrKeyNotFound)
			requireNames(t, err, "get b/k: key not found", fmt.Sprint("revision ", marker))
			require.Equal(t, "b", e.Bucket)
			require.Equal(t, "k", e.Key)
			require.Empty(t, e.Value)
			require.Equal(t, marker, e.Revision)
			require.Equal(t, test.want, e.Operation)
			require.False(t, e.Expired())
			require.WithinRange(t, e.Created, before.Add(-time.Second), time.Now().Add(time.Second))
			value, err := b.Get(ctx, "k", options...)
			requireIs(t, err, jskv.ErrKeyNotFound)
			require.Empty(t, value)
		}
	}
	e, err := b.Entry(ctx, "missing")
	requireIs(t, err, jskv.ErrKeyNotFound)
	require.Zero(t, e)
}

func TestAtRevisionReadsThatVeryRevisionOfTheKey(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, _ := newBucket(t, jetstream.KeyValueConfig{History: 2})
	gone := mustPut(t, b, "k", "gone")
	old := mustPut(t, b, "k", "old")
	mustPut(t, b, "k", "new")
	other := mustPut(t, b, "k2", "other")
	for name, more := range map[string][]jskv.ReadOption{"from anybody": nil, "from the leader": {jskv.FromLeader()}} {
		e, err := b.Entry(ctx, "k", append(more, jskv.AtRevision(old))...)
		require.NoError(t, err, name)
		require.Equal(t, "old", e.Value)
		require.Equal(t, old, e.Revision)
		value, err := b.Get(ctx, "k", append(more, jskv.AtRevision(old))...)
		require.NoError(t, err)
		require.Equal(t, "old", value)
		for because, revision := range map[string]uint64{
			"pushed out of the history": gone, "another key's": other, "still to come": other + 1, "as large as can be": 1<<64 - 1,
		} {
			e, err = b.Entry(ctx, "k", append(more, jskv.AtRevision(revision))...)
			require.ErrorIs(t, err, jskv.ErrKeyNotFound, "%s, %s", because, name)
			require.Zero(t, e, because)
			requireNames(t, err, "get b/k: key not found")
		}
		_, err = b.Entry(ctx, "k", append(more, jskv.AtRevision(0))...)
		requireIs(t, err, jskv.ErrInvalidOption)
		requireNames(t, err, "get b/k: ")
	}
}

func TestAtLeastIsContentWithWhatTheBucketHas(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	first := mustPut(t, b, "k", "v")
	newest := mustPut(t, b, "other", "x")
	reader := openBucket(t, server.JetStream())
	for _, handle := range []*jskv.Bucket[string]{b, reader} {
		e, err := handle.Entry(ctx, "k", jskv.AtLeast(newest))
		require.NoError(t, err)
		require.Equal(t, first, e.Revision, "the revision is the bucket's, the key may be older")
		_, err = handle.Entry(ctx, "missing", jskv.AtLeast(newest))
		requireIs(t, err, jskv.ErrKeyNotFound)
		_, err = handle.Entry(ctx, "k", jskv.AtLeast(0))
		require.NoError(t, err)
	}
}

// The bucket has not come to the revision: only the context's end may end the wait for it,
// whoever is asked.
func TestAtLeastWaitsForARevisionToCome(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]jskv.ReadOption{"of anybody": nil, "of the leader": {jskv.FromLeader()}} {
		for _, direct := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, direct gets %t", name, direct), func(t *testing.T) {
				t.Parallel()
				b, server := newBucket(t, jetstream.KeyValueConfig{})
				setConfig(t, server.JetStream(), "KV_b", map[string]any{"allow_direct": direct})
				reader := openBucket(t, server.JetStream())
				future := mustPut(t, b, "k", "old") + 2
				all := append([]jskv.ReadOption{jskv.AtLeast(future)}, options...)
				for _, key := range []string{"k", "missing"} {
					short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
					defer cancel()
					_, err := reader.Entry(short, key, all...)
					requireIs(t, err, context.DeadlineExceeded)
					require.NotErrorIs(t, err, jskv.ErrKeyNotFound)
					requireNames(t, err, "get b/"+key)
				}
				answer := make(chan string)
				go func() {
					value, err := reader.Get(testContext(t), "k", all...)
					answer <- fmt.Sprint(value, err)
				}()
				mustPut(t, b, "k", "older")
				mustPut(t, b, "k", "new")
				require.Equal(t, "new<nil>", <-answer)
			})
		}
	}
}

func TestReadsFollowDirectGetsBeingSwitchedOffAndOn(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{History: 3})
	js := server.JetStream()
	old := mustPut(t, b, "k", "old")
	reader := openBucket(t, js)
	for _, direct := range []bool{true, false, true} {
		setConfig(t, js, "KV_b", map[string]any{"allow_direct": direct})
		want := fmt.Sprint("direct ", direct)
		mustPut(t, b, "k", want)
		for _, handle := range []*jskv.Bucket[string]{b, reader, openBucket(t, js)} {
			value, err := handle.Get(ctx, "k")
			require.NoError(t, err)
			require.Equal(t, want, value)
			_, err = handle.Get(ctx, "missing")
			requireIs(t, err, jskv.ErrKeyNotFound)
		}
		e, err := reader.Entry(ctx, "k", jskv.AtRevision(old+1))
		require.NoError(t, err)
		require.Equal(t, "direct true", e.Value)
	}
}

// Both ways of reading one message, and a consumer's, must show the headers that it was stored
// with, and none of those that the server sends along.
func TestHeadersAreThoseThatTheMessageWasStoredWith(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{History: 5})
	js := server.JetStream()
	for because, header := range map[string]nats.Header{
		"the program's own":                   {"X-Author": {"sue", "joe"}, "lower-case": {"kept"}},
		"a name that the server uses, too":    {"Nats-Sequence": {"99"}, "Nats-Stream": {"KV_other"}, "Nats-Subject": {"$KV.other.k"}, "Nats-Time-Stamp": {"2001-02-03T04:05:06Z"}},
		"several values of such a name":       {"Nats-Sequence": {"99", "98"}, "Nats-Subject": {"a", "b"}},
		"a name of answers to several gets":   {"Nats-Num-Pending": {"7"}, "Nats-Last-Sequence": {"3"}, "Nats-UpTo-Sequence": {"2"}},
		"the name of a status":                {"Status": {"404"}, "Description": {"Message Not Found"}},
		"the name of a status, of no meaning": {"Status": {"shipped"}},
		"a message id":                        {"Nats-Msg-Id": {"1"}},
		"an operation that nobody knows":      {"KV-Operation": {"FROBNICATE"}},
	} {
		t.Run(because, func(t *testing.T) {
			want := nats.Header{}
			for name, values := range header {
				want[name] = append([]string(nil), values...)
			}
			ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: "$KV.b.k", Header: header, Data: []byte("value")})
			require.NoError(t, err)
			reader := openBucket(t, js)
			for name, options := range map[string][]jskv.ReadOption{
				"direct": nil, "leader": {jskv.FromLeader()}, "at least": {jskv.AtLeast(ack.Sequence)}, "revision": {jskv.AtRevision(ack.Sequence)},
			} {
				for _, handle := range []*jskv.Bucket[string]{b, reader} {
					e, err := handle.Entry(ctx, "k", options...)
					require.NoError(t, err, name)
					require.Equal(t, want, e.Header, name)
					require.Equal(t, "k", e.Key)
					require.Equal(t, "value", e.Value)
					require.Equal(t, ack.Sequence, e.Revision)
					require.Equal(t, jskv.OpPut, e.Operation)
					require.WithinDuration(t, time.Now(), e.Created, time.Minute)
				}
			}
			entries, err := jskv.Collect(b.History(ctx, "k"))
			require.NoError(t, err)
			require.Equal(t, want, entries[len(entries)-1].Header, "history")
			listed, err := jskv.Collect(b.Entries(ctx))
			require.NoError(t, err)
			require.Len(t, listed, 1)
			require.Equal(t, want, listed[0].Header, "entries")
		})
	}
}

func TestAValueIsReadWholeWhateverItsBytes(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	for because, value := range map[string]string{
		"empty": "", "every byte": string(binary), "line breaks": "\r\n\r\n", "a command of the protocol": "PUB x 0\r\n\r\n",
		"a header": "NATS/1.0 404 Message Not Found\r\n\r\n", "half a megabyte": string(make([]byte, 1<<19)),
	} {
		mustPut(t, b, "k", value)
		for _, options := range [][]jskv.ReadOption{nil, {jskv.FromLeader()}, {jskv.AtLeast(1)}} {
			read, err := b.Get(ctx, "k", options...)
			require.NoError(t, err, because)
			require.True(t, value == read, because)
		}
		stock, err := stockBucket(t, server.JetStream()).Get(ctx, "k")
		require.NoError(t, err)
		require.True(t, value == string(stock.Value()), because)
	}
}

// Replicas answer reads and lag behind under load.
func TestAHandleReadsItsOwnWrites(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	cluster := jskvtest.NewCluster(t, 3)
	js := cluster.JetStream()
	b := createBucket(t, js, jetstream.KeyValueConfig{Replicas: 3, Storage: jetstream.MemoryStorage})
	stop := load(ctx, cluster, 4)
	defer stop()
	enough := time.Now().Add(5 * time.Second)
	for i := 0; i < 60 && time.Now().Before(enough); i++ {
		want := fmt.Sprint("value ", i)
		revision := mustPut(t, b, "k", want)
		e, err := b.Entry(ctx, "k")
		require.NoError(t, err)
		require.Equal(t, want, e.Value)
		require.Equal(t, revision, e.Revision)
		fresh := fmt.Sprint("fresh", i)
		mustPut(t, b, fresh, want)
		value, err := jskv.As(b, jskv.Bytes()).Get(ctx, fresh)
		require.NoError(t, err, "a view shares what the handle knows")
		require.Equal(t, want, string(value))
		marker, err := b.Delete(ctx, fresh)
		require.NoError(t, err)
		gone, err := b.Entry(ctx, fresh)
		requireIs(t, err, jskv.ErrKeyNotFound)
		require.Equal(t, marker, gone.Revision)
	}
}

// load keeps writers busy with other keys of bucket "b" until it is stopped.
func load(ctx context.Context, cluster *jskvtest.Cluster, writers int) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for range writers {
		js := cluster.JetStream()
		settle := func() {
			select {
			case <-js.PublishAsyncComplete():
			case <-ctx.Done(): // a server that was deposed meanwhile does not answer
			}
		}
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_, _ = js.PublishAsync(fmt.Sprint("$KV.b.noise", i%100), make([]byte, 200))
				if i%1000 == 0 {
					settle()
				}
			}
		})
	}
	return func() { cancel(); group.Wait() }
}

func TestAHandleReadsOnInABucketThatWasMadeAgain(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	for range 20 {
		mustPut(t, b, "k", "old")
	}
	js := server.JetStream()
	require.NoError(t, jskv.DeleteBucket(ctx, js, "b"))
	createBucket(t, js, jetstream.KeyValueConfig{})
	_, err := b.Get(ctx, "k")
	requireIs(t, err, jskv.ErrKeyNotFound)
	require.EqualValues(t, 1, mustPut(t, b, "k", "new"))
	value, err := b.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "new", value)
	_, err = b.Get(ctx, "missing")
	requireIs(t, err, jskv.ErrKeyNotFound)
	list, err := jskv.Collect(b.Keys(ctx))
	require.NoError(t, err)
	require.Equal(t, []string{"k"}, list)
}

// The answer is lost with the connection, and the question with it: nobody will answer.
func TestAReadWhoseAnswerIsLostIsAskedAgain(t *testing.T) {
	t.Parallel()
	server := jskvtest.NewServer(t)
	proxy := jskvtest.NewProxy(t, server.URL())
	b := createBucket(t, hasty(t, proxy.Conn(), 3*soon), jetstream.KeyValueConfig{})
	mustPut(t, b, "k", "lost on the way")
	endless, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer time.AfterFunc(soon, cancel).Stop()
	for name, ctx := range map[string]context.Context{"that cannot end": context.Background(), "that can": endless, "with a deadline": testContext(t)} {
		cut := proxy.CutOn(jskvtest.ToClient, "lost on the way")
		begun := time.Now()
		value, err := b.Get(ctx, "k")
		require.NoError(t, err, "a context %s", name)
		require.Equal(t, "lost on the way", value)
		<-cut
		require.Less(t, time.Since(begun), soon, "it did not wait for the default timeout")
	}
}

// Anybody may store a header that looks like the server's own answer; the client itself takes an empty
// message with a status of 503 for that nobody is there.
func TestReadsOfAValueWithAHeaderOfStatus(t *testing.T) {
	t.Parallel()
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	for _, status := range []string{"204", "404", "408", "503"} {
		ack, err := server.JetStream().PublishMsg(testContext(t), &nats.Msg{Subject: "$KV.b." + status, Header: nats.Header{"Status": {status}}})
		require.NoError(t, err)
		for name, options := range map[string][]jskv.ReadOption{
			"newest":      nil,
			"at revision": {jskv.AtRevision(ack.Sequence)},
			"from leader": {jskv.FromLeader()},
			"at least":    {jskv.AtLeast(ack.Sequence)},
		} {
			e, err := b.Entry(testContext(t), status, options...)
			require.NoError(t, err, "%s, %s", status, name)
			require.Equal(t, ack.Sequence, e.Revision)
			require.Equal(t, status, e.Header.Get("Status"))
			require.Empty(t, e.Value)
		}
		require.Len(t, getMany(t, b, status), 1)
		modified, err := b.Modify(testContext(t), status, func(_ jskv.Entry[string], exists bool) (string, error) {
			require.True(t, exists)
			return "v", nil
		})
		require.NoError(t, err)
		require.Equal(t, ack.Sequence+1, modified.Revision)
	}
}
