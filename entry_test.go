package jskv_test

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

func TestOperationsHaveNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "Put", jskv.OpPut.String())
	require.Equal(t, "Delete", jskv.OpDelete.String())
	require.Equal(t, "Purge", jskv.OpPurge.String())
	require.NotContains(t, []string{"", "Put", "Delete", "Purge"}, jskv.Operation(99).String())
	require.Equal(t, jskv.OpPut, jskv.Entry[int]{}.Operation, "the zero value")
}

// What a message did to its key is told by two headers, of which the client's comes first.
func TestAnEntryTellsWhatItsHeadersSay(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{History: 3})
	js := server.JetStream()
	for _, test := range []struct {
		because string
		header  nats.Header
		want    jskv.Operation
		expired bool
	}{
		{"no header", nil, jskv.OpPut, false},
		{"a delete", nats.Header{"KV-Operation": {"DEL"}}, jskv.OpDelete, false},
		{"a purge", nats.Header{"KV-Operation": {"PURGE"}}, jskv.OpPurge, false},
		{"a put that says so", nats.Header{"KV-Operation": {"PUT"}}, jskv.OpPut, false},
		{"small letters are no operation", nats.Header{"KV-Operation": {"del"}}, jskv.OpPut, false},
		{"a value ran out", nats.Header{"Nats-Marker-Reason": {"MaxAge"}}, jskv.OpPurge, true},
		{"an operator purged", nats.Header{"Nats-Marker-Reason": {"Purge"}}, jskv.OpPurge, false},
		{"an operator removed", nats.Header{"Nats-Marker-Reason": {"Remove"}}, jskv.OpDelete, false},
		{"a reason that nobody knows", nats.Header{"Nats-Marker-Reason": {"Whim"}}, jskv.OpPut, false},
		{"a delete comes first", nats.Header{"KV-Operation": {"DEL"}, "Nats-Marker-Reason": {"MaxAge"}}, jskv.OpDelete, false},
	} {
		t.Run(test.because, func(t *testing.T) {
			ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: "$KV.b.k", Header: test.header, Data: []byte("v")})
			require.NoError(t, err)
			for _, options := range [][]jskv.ReadOption{nil, {jskv.FromLeader()}, {jskv.AtRevision(ack.Sequence)}} {
				e, err := b.Entry(ctx, "k", options...)
				require.Equal(t, test.want != jskv.OpPut, err != nil, "%v", err)
				if err != nil {
					requireIs(t, err, jskv.ErrKeyNotFound)
					require.Empty(t, e.Value, "a marker has no value")
				}
				require.Equal(t, test.want, e.Operation)
				require.Equal(t, test.expired, e.Expired())
			}
			stock, err := stockBucket(t, js).History(ctx, "k")
			require.NoError(t, err)
			require.Equal(t, jetstream.KeyValueOp(test.want), stock[len(stock)-1].Operation(), "as the stock client sees it")
		})
	}
}

func TestExpiredLooksAtTheHeaders(t *testing.T) {
	t.Parallel()
	require.False(t, jskv.Entry[string]{}.Expired())
	require.False(t, jskv.Entry[string]{Operation: jskv.OpPurge}.Expired())
	require.True(t, jskv.Entry[string]{Operation: jskv.OpPurge, Header: nats.Header{"Nats-Marker-Reason": {"MaxAge"}}}.Expired())
}

func TestAnEntryIsTheReadersOwn(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b, server := newBucket(t, jetstream.KeyValueConfig{})
	_, err := server.JetStream().PublishMsg(ctx, &nats.Msg{Subject: "$KV.b.k", Header: nats.Header{"X": {"1"}}, Data: []byte("v")})
	require.NoError(t, err)
	first, err := b.Entry(ctx, "k")
	require.NoError(t, err)
	first.Header.Set("X", "2")
	first.Value = "w"
	again, err := b.Entry(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, nats.Header{"X": {"1"}}, again.Header)
	require.Equal(t, "v", again.Value)
}
