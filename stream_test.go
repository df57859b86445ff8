package jskv_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/jskvtest"
)

// messages starts reading the raw stream until the test ends.
func (r *reading) messages(opts ...jskv.RawOption) *jskv.RawMessages {
	r.t.Helper()
	m, err := r.Stream().Messages(testContext(r.t), opts...)
	require.NoError(r.t, err)
	r.t.Cleanup(m.Stop)
	return m
}

// nextRaw is the next n messages, which must come.
func nextRaw(t testing.TB, m *jskv.RawMessages, n int) []jskv.RawMessage {
	t.Helper()
	all := make([]jskv.RawMessage, n)
	for i := range all {
		var err error
		all[i], err = m.Next(testContext(t))
		require.NoError(t, err)
	}
	return all
}

func sequences(msgs []jskv.RawMessage) []uint64 {
	var all []uint64
	for _, msg := range msgs {
		all = append(all, msg.Sequence)
	}
	return all
}

func TestTheRawStreamOfABucket(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{Bucket: "profiles", History: 3})
	ctx := testContext(t)
	r.put("sue.color", "blue")
	s := r.Stream()
	require.Equal(t, "KV_profiles", s.Name())
	require.Equal(t, "$KV.profiles.sue.color", s.Subject("sue.color"))

	info, err := s.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, "KV_profiles", info.Config.Name)
	require.Equal(t, int64(3), info.Config.MaxMsgsPerSubject)
	require.Equal(t, uint64(1), info.State.Msgs)
	r.put("sue.color", "green")
	info, err = s.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, uint64(2), info.State.Msgs, "asked anew")

	msg, err := s.JetStream().GetLastMsgForSubject(ctx, s.Subject("sue.color"))
	require.NoError(t, err)
	require.Equal(t, "green", string(msg.Data))

	require.NoError(t, jskv.DeleteBucket(ctx, r.js, "profiles"))
	_, err = s.Info(ctx)
	require.ErrorIs(t, err, jskv.ErrBucketNotFound)
	_, err = s.Messages(ctx)
	require.ErrorIs(t, err, jskv.ErrBucketNotFound)
}

func TestRawMessagesAreTheStoredOnesAndThenTheNew(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{History: 5})
	before := time.Now()
	r.put("a", "1")
	r.put("a", "2")
	r.del("a")
	_, err := r.js.PublishMsg(testContext(t), &nats.Msg{
		Subject: r.Stream().Subject("x.y"), Header: nats.Header{"X-By": {"me", "you"}}, Data: []byte("4"),
	})
	require.NoError(t, err)
	m := r.messages()
	r.purge("b")
	r.put("a", "")
	got := nextRaw(t, m, 6)
	for i, msg := range got {
		require.WithinRange(t, msg.Time, before, time.Now())
		require.Equal(t, uint64(i+1), msg.Sequence)
		if i < 4 {
			require.Equal(t, uint64(3-i), msg.Pending, "how many stored ones were still to come")
		}
		got[i].Time, got[i].Pending = time.Time{}, 0
	}
	require.Equal(t, []jskv.RawMessage{
		{Subject: "$KV.b.a", Key: "a", Sequence: 1, Data: []byte("1")},
		{Subject: "$KV.b.a", Key: "a", Sequence: 2, Data: []byte("2")},
		{Subject: "$KV.b.a", Key: "a", Sequence: 3, Data: []byte{}, Operation: jskv.OpDelete, Header: nats.Header{"KV-Operation": {"DEL"}}},
		{Subject: "$KV.b.x.y", Key: "x.y", Sequence: 4, Data: []byte("4"), Header: nats.Header{"X-By": {"me", "you"}}},
		{Subject: "$KV.b.b", Key: "b", Sequence: 5, Data: []byte{}, Operation: jskv.OpPurge,
			Header: nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}},
		{Subject: "$KV.b.a", Key: "a", Sequence: 6, Data: []byte{}},
	}, got)
}

func TestRawFromStartsAtASequence(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	for _, value := range []string{"1", "2", "3"} { // 1 and 2 are gone
		r.put("a", value)
	}
	r.put("b", "4")
	cases := []struct {
		reason string
		opts   []jskv.RawOption
		want   []uint64
	}{
		{"the first stored by default", nil, []uint64{3, 4, 5}},
		{"zero is no sequence", []jskv.RawOption{jskv.RawFrom(0)}, []uint64{3, 4, 5}},
		{"gone: the first after it", []jskv.RawOption{jskv.RawFrom(1)}, []uint64{3, 4, 5}},
		{"stored", []jskv.RawOption{jskv.RawFrom(4)}, []uint64{4, 5}},
		{"the last one counts", []jskv.RawOption{jskv.RawFrom(1), jskv.RawFrom(4)}, []uint64{4, 5}},
		{"the next", []jskv.RawOption{jskv.RawFrom(5)}, []uint64{5}},
		{"in the future", []jskv.RawOption{jskv.RawFrom(6)}, nil},
		{"of some keys", []jskv.RawOption{jskv.RawFrom(2), jskv.RawFilter("a")}, []uint64{3}},
	}
	all := make([]*jskv.RawMessages, len(cases))
	for i, test := range cases {
		all[i] = r.messages(test.opts...)
	}
	r.put("c", "5")
	for i, test := range cases {
		require.Equal(t, test.want, sequences(nextRaw(t, all[i], len(test.want))), test.reason)
	}
	r.put("a", "6")
	for i, test := range cases {
		require.Equal(t, []uint64{6}, sequences(nextRaw(t, all[i], 1)), test.reason)
		all[i].Stop()
	}
	r.requireNothingLeft()
}

func TestRawFilterReadsTheKeysThatAnyFilterMatchesOnce(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.putFilterKeys()
	for _, test := range filterCases {
		t.Run(test.reason, func(t *testing.T) {
			filters := append([]string{}, test.filters...)
			m := r.messages(jskv.RawFilter(filters...))
			clear(filters)
			var keys []string
			for _, msg := range nextRaw(t, m, len(test.want)) {
				require.Equal(t, "of "+msg.Key, string(msg.Data))
				keys = append(keys, msg.Key)
			}
			slices.Sort(keys)
			require.Equal(t, test.want, keys)
			_, err := m.Next(soonContext(t))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			m.Stop()
		})
	}
	r.requireNothingLeft()
}

func TestRawHeadersOnlyLeavesTheDataOut(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.put("a", "12345")
	r.del("b")
	got := nextRaw(t, r.messages(jskv.RawHeadersOnly()), 2)
	require.Empty(t, got[0].Data)
	require.Equal(t, "5", got[0].Header.Get("Nats-Msg-Size"))
	require.Equal(t, jskv.OpDelete, got[1].Operation)
	require.Equal(t, "DEL", got[1].Header.Get("KV-Operation"))
}

func TestRawMessagesEndAsTheyAreEnded(t *testing.T) {
	t.Parallel()
	r := newReading(t, jetstream.KeyValueConfig{})
	r.fill(5, "v")

	t.Run("by Stop, inside the loop and twice: with no error", func(t *testing.T) {
		m := r.messages()
		n := 0
		for msg, err := range m.All() {
			require.NoError(t, err)
			n++
			if msg.Sequence == 2 {
				m.Stop()
				m.Stop()
				r.requireNothingLeft()
			}
		}
		require.Equal(t, 2, n)
		_, err := m.Next(testContext(t))
		require.ErrorIs(t, err, jskv.ErrWatcherStopped)
		require.Empty(t, collect(t, m.All()))
	})

	t.Run("by Stop from another goroutine", func(t *testing.T) {
		m := r.messages(jskv.RawFrom(6))
		var wg sync.WaitGroup
		ended := make(chan error, 1)
		wg.Go(func() {
			_, err := jskv.Collect(m.All())
			ended <- err
		})
		requireWaiting(t, r)
		m.Stop()
		r.requireNothingLeft()
		require.NoError(t, <-ended)
		wg.Wait()
	})

	t.Run("by their context: with its error", func(t *testing.T) {
		onceInThree(t, 0, func() int { // whose time is over waits for the end of its consumer only a moment
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			m, err := r.Stream().Messages(ctx)
			require.NoError(t, err)
			n, last := 0, error(nil)
			for _, err := range m.All() {
				require.NoError(t, last, "a pair after the error")
				if last = err; err == nil {
					n++
					cancel()
				}
			}
			require.Equal(t, 1, n)
			require.ErrorIs(t, last, context.Canceled)
			require.ErrorContains(t, last, "messages of b")
			m.Stop()
			require.Equal(t, r.subs, r.nc.NumSubscriptions())
			return jskvtest.ConsumerCount(t, r.admin, "b")
		}, "consumers")
	})

	t.Run("a context of Next ends nothing", func(t *testing.T) {
		m := r.messages(jskv.RawFrom(6))
		canceled, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := m.Next(canceled)
		require.ErrorIs(t, err, context.Canceled)
		_, err = m.Next(soonContext(t))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		revision := r.put("a", "1")
		require.Equal(t, []uint64{revision}, sequences(nextRaw(t, m, 1)))
		m.Stop()
	})

	t.Run("a loop can be left and entered again", func(t *testing.T) {
		m := r.messages()
		for want := uint64(1); want <= 3; want++ {
			for msg, err := range m.All() {
				require.NoError(t, err)
				require.Equal(t, want, msg.Sequence)
				break
			}
		}
		require.Equal(t, []uint64{4, 5}, sequences(nextRaw(t, m, 2)))
		m.Stop()
		r.requireNothingLeft()
	})
}
