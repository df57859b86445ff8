package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

var born = time.Date(2024, 2, 3, 4, 5, 6, 7, time.UTC)

// directAnswer is what a server answers to a direct get of a message stored with these headers.
func directAnswer(stored nats.Header, data string) *nats.Msg {
	header := nats.Header{}
	for name, values := range stored {
		header[name] = append([]string(nil), values...)
	}
	for name, value := range map[string]string{
		"Nats-Stream": "KV_b", "Nats-Subject": "$KV.b.sue.color", "Nats-Sequence": "7", "Nats-Time-Stamp": born.Format(time.RFC3339Nano),
	} {
		header[name] = append(header[name], value)
	}
	return &nats.Msg{Header: header, Data: []byte(data)}
}

func TestADirectAnswerIsTheStoredMessage(t *testing.T) {
	b := &Bucket{readPrefix: "$KV.b."}
	for because, stored := range map[string]nats.Header{
		"no headers":           nil,
		"headers of its own":   {"X": {"1", "2"}},
		"the server's, stored": {"Nats-Sequence": {"3"}, "Nats-Subject": {"$KV.other.k"}, "Nats-Stream": {"KV_other"}, "Nats-Time-Stamp": {"never"}},
		"one of them twice":    {"Nats-Sequence": {"3", "4"}},
	} {
		m, stream, err := b.decodeDirect(directAnswer(stored, "blue"))
		require.NoError(t, err, because)
		require.Equal(t, "KV_b", stream)
		require.Equal(t, Message{
			Subject: "$KV.b.sue.color", Key: "sue.color", Sequence: 7, Time: born, Header: stored, Data: []byte("blue"),
		}, m, because)
	}
}

func TestADirectAnswerThatMakesNoSenseIsRefused(t *testing.T) {
	b := &Bucket{readPrefix: "$KV.b."}
	for because, change := range map[string]func(nats.Header){
		"no sequence":            func(h nats.Header) { h.Del("Nats-Sequence") },
		"no number":              func(h nats.Header) { h.Set("Nats-Sequence", "seven") },
		"a negative number":      func(h nats.Header) { h.Set("Nats-Sequence", "-7") },
		"a number without end":   func(h nats.Header) { h.Set("Nats-Sequence", strings.Repeat("9", 99)) },
		"no time":                func(h nats.Header) { h.Del("Nats-Time-Stamp") },
		"no time of this format": func(h nats.Header) { h.Set("Nats-Time-Stamp", "yesterday") },
		"no subject":             func(h nats.Header) { h.Del("Nats-Subject") },
	} {
		answer := directAnswer(nil, "")
		change(answer.Header)
		_, _, err := b.decodeDirect(answer)
		require.ErrorIs(t, err, jetstream.ErrInvalidJetStreamResponse, because)
	}
}

func TestOperationsAreThoseOfADR8(t *testing.T) {
	for _, test := range []struct {
		op, reason string
		want       Op
	}{
		{"", "", OpPut},
		{"DEL", "", OpDelete},
		{"PURGE", "", OpPurge},
		{"", "MaxAge", OpPurge},
		{"", "Purge", OpPurge},
		{"", "Remove", OpDelete},
		{"", "Whim", OpPut},
		{"PUT", "MaxAge", OpPut},
		{"DEL", "MaxAge", OpDelete},
		{"PURGE", "Remove", OpPurge},
	} {
		header := nats.Header{}
		if test.op != "" {
			header.Set("KV-Operation", test.op)
		}
		if test.reason != "" {
			header.Set("Nats-Marker-Reason", test.reason)
		}
		require.Equal(t, test.want, operation(header), "%+v", test)
		require.Equal(t, test.op == "" && test.reason == "MaxAge", Expired(header), "%+v", test)
	}
	require.Equal(t, OpPut, operation(nil))
	require.False(t, Expired(nil))
}

func TestAcknowledgementsAreReadInEveryForm(t *testing.T) {
	for data, want := range map[string]pubAck{
		`{"stream":"KV_b","seq":7}`:                            {Stream: "KV_b", Sequence: 7},
		`{"stream":"KV_b", "seq":7}`:                           {Stream: "KV_b", Sequence: 7},
		`{"stream":"KV_b","seq":7,"duplicate":true}`:           {Stream: "KV_b", Sequence: 7, Duplicate: true},
		`{"stream":"KV_b","domain":"hub","seq":7}`:             {Stream: "KV_b", Sequence: 7},
		`{"seq":7,"stream":"KV_other"}`:                        {Stream: "KV_other", Sequence: 7},
		`{"stream":"KV_b","seq":18446744073709551615}`:         {Stream: "KV_b", Sequence: 1<<64 - 1},
		`{"error":{"code":503,"err_code":10077},"stream":"x"}`: {Stream: "x", Error: &jetstream.APIError{Code: 503, ErrorCode: 10077}},
	} {
		ack, err := decodeAck([]byte(data), "KV_b")
		require.NoError(t, err, data)
		require.Equal(t, want, ack, data)
	}
	for _, data := range []string{
		``, `{}`, `null`, `[]`, `7`, `+ACK`, `{"stream":"KV_b","seq":0}`, `{"stream":"KV_b"}`, `{"seq":7}`, `{"stream":"KV_b","seq":-7}`, `{"stream":"KV_b","seq":}`,
		`{"stream":"KV_b","seq":7`, `{"stream":"KV_b","seq":7.5}`, `{"stream":"KV_b","seq":007}`, `{"stream":"KV_b","seq":18446744073709551616}`,
	} {
		ack, err := decodeAck([]byte(data), "KV_b")
		require.ErrorIs(t, err, jetstream.ErrInvalidJSAck, data)
		require.Zero(t, ack, data)
	}
}

func TestReplySubjectsAreReadInEveryForm(t *testing.T) {
	b := &Bucket{readPrefix: "$KV.b."}
	numbers := fmt.Sprintf("1.7.3.%d.5", born.UnixNano())
	for _, reply := range []string{"$JS.ACK.KV_b.c." + numbers, "$JS.ACK.hub.hash.KV_b.c." + numbers, "$JS.ACK.hub.hash.KV_b.c." + numbers + ".token"} {
		var m Message
		delivered, err := b.decodeConsumed(&nats.Msg{Subject: "$KV.b.k", Reply: reply, Sub: &nats.Subscription{}, Data: []byte("v")}, &m)
		require.NoError(t, err, reply)
		require.EqualValues(t, 3, delivered)
		require.Equal(t, Message{Subject: "$KV.b.k", Key: "k", Sequence: 7, Time: born, Pending: 5, Data: []byte("v")}, m)
	}
	for _, reply := range []string{"", "_INBOX.a.b", "$JS.ACK", "$JS.ACK.KV_b.c.1.2.3", strings.Repeat(".", 8)} {
		var m Message
		_, err := b.decodeConsumed(&nats.Msg{Subject: "$KV.b.k", Reply: reply, Sub: &nats.Subscription{}}, &m)
		require.ErrorIs(t, err, jetstream.ErrInvalidJetStreamResponse, reply)
	}
}

// FuzzDecode feeds the decoders with what a server might send at its worst.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"stream":"KV_b","seq":7}`, `{"stream":"KV_b","seq":7,"duplicate":true}`, `{"stream":"KV_b","seq":}`, `{"stream":"KV_b","seq":07}`,
		`{"stream":"KV_b","seq":99999999999999999999}`, `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 7"}}`, `{"Stream":"KV_b","SEQ":7}`,
		"NATS/1.0\r\nNats-Sequence: 7\r\nNats-Subject: $KV.b.k\r\nNats-Time-Stamp: 2024-02-03T04:05:06Z\r\nNats-Stream: KV_b\r\n\r\n",
		"NATS/1.0 404 Message Not Found\r\n\r\n", "NATS/1.0\r\nKV-Operation: DEL\r\n\r\n", "NATS/1.0\r\n",
		"$JS.ACK.KV_b.c.1.7.3.1706933106000000007.5", "$JS.ACK.hub.hash.KV_b.c.1.7.3.1706933106000000007.5.x", "$JS.ACK.KV_b.c.1.2.3.4.", "$JS.ACK........",
		"$JS.ACK.KV_b.c.1.9999999999999999999.3.9999999999999999999.5",
	} {
		f.Add([]byte(seed))
	}
	b := &Bucket{readPrefix: "$KV.b.", stream: "KV_b"}
	f.Fuzz(func(t *testing.T, data []byte) {
		given := bytes.Clone(data)
		sameAsJSON(t, data)
		sameAsMetadata(t, b, string(data))
		header, err := nats.DecodeHeadersMsg(data)
		if err == nil {
			if m, _, err := b.decodeDirect(&nats.Msg{Header: header, Data: data}); err == nil {
				require.NotEmpty(t, m.Subject)
				require.False(t, m.Header != nil && len(m.Header) == 0, "no headers are nil")
			} else {
				require.ErrorIs(t, err, jetstream.ErrInvalidJetStreamResponse)
			}
			_ = directStatus(&nats.Msg{Header: header})
		}
		var stored storedMessage
		stored.Message.Subject, stored.Message.Header, stored.Message.Data = "$KV.b.k", data, data
		if m, err := b.decodeStored(&stored); err == nil {
			require.Equal(t, "k", m.Key)
			require.NotNil(t, m.Data)
		}
		require.Equal(t, given, data, "what was received is not written to")
	})
}

// sameAsJSON wants decodeAck to see in data what encoding/json does.
func sameAsJSON(t *testing.T, data []byte) {
	t.Helper()
	ack, err := decodeAck(data, "KV_b")
	var want pubAck
	if json.Unmarshal(data, &want) != nil || want.Error == nil && (want.Stream == "" || want.Sequence == 0) {
		require.ErrorIs(t, err, jetstream.ErrInvalidJSAck, "%q", data)
		return
	}
	require.NoError(t, err, "%q", data)
	require.Equal(t, want, ack, "%q", data)
}

// sameAsMetadata wants a reply subject to be read as package nats does.
func sameAsMetadata(t *testing.T, b *Bucket, reply string) {
	t.Helper()
	msg := &nats.Msg{Subject: "$KV.b.k", Reply: reply, Sub: &nats.Subscription{}}
	var m Message
	delivered, err := b.decodeConsumed(msg, &m)
	meta, metaErr := msg.Metadata()
	require.Equal(t, metaErr == nil, err == nil, "%q: %v, %v", reply, err, metaErr)
	if err == nil {
		require.Equal(t, meta.Sequence.Consumer, delivered, "%q", reply)
		require.Equal(t, meta.Sequence.Stream, m.Sequence, "%q", reply)
		require.Equal(t, meta.NumPending, m.Pending, "%q", reply)
		require.True(t, meta.Timestamp.Equal(m.Time), "%q: %v, %v", reply, meta.Timestamp, m.Time)
	}
}
