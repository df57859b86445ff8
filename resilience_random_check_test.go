package jskv_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv"
)

// The second half of the random test: what the readers were handed out is compared with the
// stream's content, read by the stock client, and with the writers' acknowledgements.

// finish ends the writing, waits until every reader has come to the end, and checks them.
func (w *world) finish() {
	w.t.Helper()
	w.cancel()
	w.wg.Wait()
	healed := time.Now()
	last := w.end()
	content := w.content()
	for _, r := range w.readers {
		w.requireReader(r, content)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Empty(w.t, w.reports, "OnInterruption")
	w.t.Logf("%d readers, %d revisions of which %d are stored, everything delivered %v after the end; listings: %v",
		len(w.readers), last, len(content), time.Since(healed).Round(time.Millisecond), w.listings)
}

// end writes one more revision of every key, so that each reader has something to come to.
func (w *world) end() uint64 {
	w.t.Helper()
	w.lastRevision()             // the server may just have been restarted
	for _, nc := range w.conns { // a write that nobody waits for any more may be on its way
		require.Eventually(w.t, func() bool { return nc.IsConnected() && nc.Flush() == nil }, soon, tick)
	}
	b := w.handle("end")
	for i := range aliveKeys + otherKeys {
		e := event{key: fmt.Sprint("x.", i)}
		if i >= aliveKeys {
			e.key = fmt.Sprint("y.", i-aliveKeys)
		}
		e.value = "last of " + e.key
		w.note(e)
		revision, err := b.Put(testContext(w.t), e.key, e.value)
		require.NoError(w.t, err)
		w.acked[revision] = e
	}
	return w.lastRevision()
}

// content is what the stream has at the end.
func (w *world) content() []event {
	w.t.Helper()
	ctx := testContext(w.t)
	stream, err := w.admin.Stream(ctx, "KV_b")
	require.NoError(w.t, err)
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	require.NoError(w.t, err)
	stored := int(stream.CachedInfo().State.Msgs)
	batch, err := consumer.Fetch(stored, jetstream.FetchMaxWait(soon))
	require.NoError(w.t, err)
	var content []event
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		require.NoError(w.t, err)
		e := event{revision: meta.Sequence.Stream, key: strings.TrimPrefix(msg.Subject(), "$KV.b."), value: string(msg.Data())}
		switch msg.Headers().Get("KV-Operation") {
		case "DEL":
			e.op = jskv.OpDelete
		case "PURGE":
			e.op = jskv.OpPurge
		}
		content = append(content, e)
	}
	require.NoError(w.t, batch.Error())
	require.Len(w.t, content, stored)
	return content
}

// requireReader checks that what r was handed out is in order, true, and complete.
func (w *world) requireReader(r *reader, content []event) {
	w.t.Helper()
	var want []event
	for _, e := range content {
		if e.revision >= r.from && r.wants(e) {
			want = append(want, e)
		}
	}
	r.until(want[len(want)-1].revision)
	seen, err := r.events()
	require.NoError(w.t, err, r.name)
	got := make(map[uint64]event, len(seen))
	last := uint64(0)
	for _, e := range seen {
		if e.revision <= last {
			require.Failf(w.t, "repeated or out of order", "%s: %d after %d", r.name, e.revision, last)
		}
		last = e.revision
		e.at = time.Time{}
		got[e.revision] = e
		if e.revision < r.least || !r.wants(e) {
			require.Failf(w.t, "not wanted", "%s: %+v", r.name, e)
		}
		if err := w.invented(e); err != nil {
			require.NoError(w.t, err, r.name)
		}
	}
	for _, e := range want {
		if got[e.revision] != e {
			require.Failf(w.t, "lost", "%s: %+v, there is %+v", r.name, e, got[e.revision])
		}
	}
}

// wants reports whether the reader is to be handed e out.
func (r *reader) wants(e event) bool {
	if r.ignore && e.op != jskv.OpPut {
		return false
	}
	for _, filter := range r.filters {
		prefix, rest, _ := strings.Cut(filter, ".")
		key, number, _ := strings.Cut(e.key, ".")
		if filter == jskv.AllKeys || (prefix == "*" || prefix == key) && (rest == "*" || rest == number) {
			return true
		}
	}
	return false
}

// invented tells when nobody wrote what was handed out.
func (w *world) invented(e event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	wrote, known := w.acked[e.revision]
	switch {
	case known:
		wrote.revision = e.revision
	case e.op == jskv.OpPut:
		if wrote, known = w.intents[e.value]; !known {
			return fmt.Errorf("nobody wrote %+v", e)
		}
		wrote.revision = e.revision
	case w.unknown[e.key] > 0:
		return nil
	}
	if wrote != e {
		return errors.Join(fmt.Errorf("written was %+v", wrote), fmt.Errorf("handed out %+v", e))
	}
	return nil
}
