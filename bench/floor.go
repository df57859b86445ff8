package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// bareStore is the floor: the requests that nobody can do without, over the plain connection, and as
// little done with the answers as it takes to see that they are right.
type bareStore struct {
	nc     *nats.Conn
	bucket string
}

func (s *bareStore) name() string { return bare }

func (s *bareStore) means() map[string]string {
	return map[string]string{
		opKeys:      "one consumer, one pull of all, headers only",
		opEntries:   "one consumer, one pull of all",
		opSnapshot:  "one consumer, one pull of all",
		opGetMany:   "one multi_last direct get",
		opPutMany:   "publishes with a reply subject, at most 4,000 unanswered",
		opBatch:     "publishes, and one request that commits",
		opTransact:  "one multi_last direct get, and a batch without expectations",
		opCacheLoad: "one pull of all into a map",
	}
}

func (s *bareStore) subject(key string) string { return "$KV." + s.bucket + "." + key }
func (s *bareStore) stream() string            { return "KV_" + s.bucket }

func (s *bareStore) put(ctx context.Context, key string, value []byte) (uint64, error) {
	return s.write(ctx, &nats.Msg{Subject: s.subject(key), Data: value})
}

func (s *bareStore) write(ctx context.Context, msg *nats.Msg) (uint64, error) {
	answer, err := s.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return 0, err
	}
	return ackedSequence(answer.Data)
}

// refusal is the server's error in the answer to a write.
func refusal(answer []byte) error {
	var refused struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer, &refused); err != nil || refused.Error == nil {
		return fmt.Errorf("the answer to a write is %s", answer)
	}
	return refused.Error
}

// ackedSequence reads {"stream":"KV_b", "seq":12} with as little as it takes.
func ackedSequence(ack []byte) (uint64, error) {
	_, rest, found := strings.Cut(string(ack), `"seq":`)
	if !found || strings.Contains(string(ack), `"error":`) {
		return 0, refusal(ack)
	}
	return strconv.ParseUint(rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))], 10, 64)
}

func (s *bareStore) get(ctx context.Context, key string) ([]byte, uint64, error) {
	answer, err := s.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: "$JS.API.DIRECT.GET." + s.stream() + "." + s.subject(key)})
	if err != nil {
		return nil, 0, err
	}
	revision, err := strconv.ParseUint(answer.Header.Get(jetstream.SequenceHeader), 10, 64)
	return answer.Data, revision, err
}

func (s *bareStore) update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return again(ctx, func() (uint64, error) { return s.compareAndSet(ctx, key, value, revision) })
}

func (s *bareStore) compareAndSet(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return s.write(ctx, &nats.Msg{
		Subject: s.subject(key),
		Header:  nats.Header{jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(revision, 10)}},
		Data:    value,
	})
}

func (s *bareStore) remove(ctx context.Context, key string) error {
	_, err := s.write(ctx, &nats.Msg{Subject: s.subject(key), Header: nats.Header{"KV-Operation": {"DEL"}}})
	return err
}

func (s *bareStore) keys(ctx context.Context) (int, error) {
	t, err := s.pull(ctx, true, func(*nats.Msg) {})
	return t.entries, err
}

func (s *bareStore) entries(ctx context.Context) (tally, error) {
	return s.pull(ctx, false, func(*nats.Msg) {})
}

// pull makes a consumer, takes all messages in one pull and deletes the consumer.
func (s *bareStore) pull(ctx context.Context, headersOnly bool, visit func(*nats.Msg)) (t tally, err error) {
	name := nuid.Next()
	pending, err := s.createConsumer(ctx, name, headersOnly)
	if err != nil {
		return t, err
	}
	delivery := make(chan *nats.Msg, pending)
	inbox := s.nc.NewInbox()
	sub, err := s.nc.ChanSubscribe(inbox, delivery)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, sub.Unsubscribe(), s.deleteConsumer(ctx, name)) }()
	for t.entries < pending {
		pull := fmt.Appendf(nil, `{"batch":%d,"no_wait":true}`, pending-t.entries)
		if err := s.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+s.stream()+"."+name, inbox, pull); err != nil {
			return t, err
		}
		if err := t.receive(ctx, delivery, pending, visit); err != nil {
			return t, err
		}
	}
	return t, nil
}

// receive takes what a pull brings. In a cluster a pull is lost when the server that it is sent to has
// not heard of the consumer yet: then it ends with less.
func (t *tally) receive(ctx context.Context, delivery <-chan *nats.Msg, pending int, visit func(*nats.Msg)) error {
	const patience = time.Second
	lost := time.NewTimer(patience)
	defer lost.Stop()
	for t.entries < pending {
		select {
		case msg := <-delivery:
			if msg.Header.Get("Status") != "" {
				return nil // it had no more
			}
			t.add(msg.Data)
			visit(msg)
		case <-lost.C:
			if t.entries == 0 {
				return nil
			}
			lost.Reset(patience)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// createConsumer returns how many messages it has to deliver.
func (s *bareStore) createConsumer(ctx context.Context, name string, headersOnly bool) (pending int, err error) {
	wanted, err := json.Marshal(map[string]any{"stream_name": s.stream(), "config": map[string]any{
		"name": name, "deliver_policy": "last_per_subject", "filter_subject": s.subject(">"),
		"ack_policy": "none", "headers_only": headersOnly, "mem_storage": true, "num_replicas": 1,
	}})
	if err != nil {
		return 0, err
	}
	answer, err := s.nc.RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE."+s.stream()+"."+name+"."+s.subject(">"), wanted)
	if err != nil {
		return 0, err
	}
	var made struct {
		Pending int `json:"num_pending"`
		Error   any `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &made); err != nil || made.Error != nil {
		return 0, fmt.Errorf("create a consumer: %s", answer.Data)
	}
	return made.Pending, nil
}

func (s *bareStore) deleteConsumer(ctx context.Context, name string) error {
	_, err := s.nc.RequestWithContext(ctx, "$JS.API.CONSUMER.DELETE."+s.stream()+"."+name, nil)
	return err
}

// getMany takes at most 1,024 keys, as the server does.
func (s *bareStore) getMany(ctx context.Context, keys []string) (t tally, err error) {
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = s.subject(key)
	}
	asked, err := json.Marshal(map[string]any{"multi_last": subjects})
	if err != nil {
		return t, err
	}
	answers := make(chan *nats.Msg, len(keys)+1)
	inbox := s.nc.NewInbox()
	sub, err := s.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, sub.Unsubscribe()) }()
	if err := s.nc.PublishRequest("$JS.API.DIRECT.GET."+s.stream(), inbox, asked); err != nil {
		return t, err
	}
	for {
		select {
		case msg := <-answers:
			if status := msg.Header.Get("Status"); status == "204" {
				return t, nil
			} else if status != "" {
				return t, fmt.Errorf("multi_last: %s %s", status, msg.Header.Get("Description"))
			}
			t.add(msg.Data)
		case <-ctx.Done():
			return t, ctx.Err()
		}
	}
}

func (s *bareStore) putMany(ctx context.Context, keys []string, value []byte) error {
	const window = 4000
	acks := make(chan *nats.Msg, window)
	inbox := s.nc.NewInbox()
	sub, err := s.nc.ChanSubscribe(inbox, acks)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // it fails only with the connection, as what came before would have
	for sent, acked := 0, 0; acked < len(keys); acked++ {
		for ; sent < len(keys) && sent-acked < window; sent++ {
			if err := s.nc.PublishRequest(s.subject(keys[sent]), inbox, value); err != nil {
				return err
			}
		}
		select {
		case ack := <-acks:
			if _, err := ackedSequence(ack.Data); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *bareStore) putAll(ctx context.Context, keys []string, value []byte) error {
	id := nuid.Next()
	for i, key := range keys {
		msg := &nats.Msg{Subject: s.subject(key), Data: value, Header: nats.Header{
			"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)},
		}}
		if i == len(keys)-1 {
			msg.Header["Nats-Batch-Commit"] = []string{"1"}
			_, err := s.write(ctx, msg)
			return err
		}
		if err := s.nc.PublishMsg(msg); err != nil {
			return err
		}
	}
	return nil
}

func (s *bareStore) transact(ctx context.Context, keys []string, value []byte) error {
	t, err := s.getMany(ctx, keys)
	if err == nil && t.entries != len(keys) {
		err = fmt.Errorf("read %d of %d keys", t.entries, len(keys))
	}
	if err != nil {
		return err
	}
	return s.putAll(ctx, keys, value)
}
