// Command audit tells who did what to the documents of a bucket: the history of one of them, and
// everything that the stream under the bucket still has, in the order in which it happened.
//
// It starts a server of its own inside the program. With NATS_URL set it uses that server, and
// refuses to touch a bucket "documents" that is there already. With -times it prints the times too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/seed646b090f/jskv"
	"github.com/seed646b090f/jskv/embedded"
)

const (
	bucket = "documents"

	// authorHeader is this program's own: other programs see the value and need not know of it.
	authorHeader = "Author"
	// operationHeader tells a marker from a value, in every client (ADR-8).
	operationHeader = "KV-Operation"
)

var times = flag.Bool("times", false, "print when it happened, too")

func main() {
	log.SetFlags(0)
	flag.Parse()
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	js, closeServer, err := connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer closeServer()
	if _, err := jskv.OpenBucket(ctx, js, bucket, jskv.String()); err == nil {
		return fmt.Errorf("a bucket %q is already there; this program would write to it and remove it", bucket)
	} else if !errors.Is(err, jskv.ErrBucketNotFound) {
		return err
	}
	// A bucket is as good a log as its history: 3 revisions of each document here, 64 at the most.
	documents, err := jskv.CreateBucket(ctx, js, jetstream.KeyValueConfig{Bucket: bucket, History: 3}, jskv.String())
	if err != nil {
		return err
	}
	defer func() {
		// The program's context may be what ended it.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, jskv.DeleteBucket(ctx, js, bucket))
	}()
	return week(ctx, &archive{js, documents})
}

// connect uses the server at url, or starts one in this program that is gone when it ends.
func connect(url string) (jetstream.JetStream, func(), error) {
	if url != "" {
		nc, err := nats.Connect(url, nats.Timeout(10*time.Second))
		if err != nil {
			return nil, nil, fmt.Errorf("NATS_URL=%s: %w", url, err)
		}
		js, err := jetstream.New(nc)
		return js, nc.Close, err
	}
	dir, err := os.MkdirTemp("", "jskv-audit-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() {
		if err := os.RemoveAll(dir); err != nil {
			log.Print(err)
		}
	}
	server, err := embedded.Start(dir)
	if err != nil {
		remove()
		return nil, nil, err
	}
	stop := func() {
		server.Shutdown()
		remove()
	}
	js, err := server.JetStream()
	if err != nil {
		stop()
		return nil, nil, err
	}
	return js, stop, nil
}

// change is one write to a document, or its end when op says so.
type change struct {
	by, key, value string
	op             jskv.Operation
}

// archive is the bucket and what its authors publish with.
type archive struct {
	js        jetstream.JetStream
	documents *jskv.Bucket[string]
}

func (a *archive) apply(ctx context.Context, changes ...change) error {
	for _, c := range changes {
		if err := a.sign(ctx, c); err != nil {
			return fmt.Errorf("%s changes %s: %w", c.by, c.key, err)
		}
	}
	return nil
}

// sign writes under the author's name. That is a header of the message, because a delete has no
// value to put it into. Put and Delete take no headers, so this publishes to the subject that the
// stream has for the key; to everybody else it is a write like others. The handle does not know of
// it: whoever must read it through the handle asks for AtLeast the sequence in the acknowledgement.
func (a *archive) sign(ctx context.Context, c change) error {
	stream := a.documents.Stream()
	msg := nats.NewMsg(stream.Subject(c.key))
	msg.Header.Set(authorHeader, c.by)
	switch c.op {
	case jskv.OpPut:
		msg.Data = []byte(c.value)
	case jskv.OpDelete:
		msg.Header.Set(operationHeader, "DEL")
	default:
		return fmt.Errorf("there is no signed %v here", c.op)
	}
	// The server refuses it if another stream than the bucket's would store it.
	_, err := a.js.PublishMsg(ctx, msg, jetstream.WithExpectStream(stream.Name()))
	return err
}

// week is what happens to the documents, with an audit in the middle and one at the end.
func week(ctx context.Context, a *archive) error {
	err := a.apply(ctx,
		change{by: "ann", key: "plan", value: "a house"},
		change{by: "bob", key: "plan", value: "a tower"},
		change{by: "ann", key: "notes", value: ""},
		change{by: "ann", key: "notes", op: jskv.OpDelete},
	)
	if err != nil {
		return err
	}
	// A program that signs nothing.
	if _, err := a.documents.Put(ctx, "plan", "a bridge"); err != nil {
		return err
	}
	if err := history(ctx, a.documents, "plan"); err != nil {
		return err
	}
	fmt.Println("everything:")
	next, err := audit(ctx, a.documents.Stream(), 1)
	if err != nil {
		return err
	}

	if err := a.apply(ctx, change{by: "bob", key: "plan", value: "a tunnel"}); err != nil {
		return err
	}
	if _, err := a.documents.Purge(ctx, "notes"); err != nil {
		return err
	}
	if err := a.apply(ctx, change{by: "ann", key: "notes", value: "ask bob why"}); err != nil {
		return err
	}
	// An auditor who remembers how far he came reads on from there.
	fmt.Println("since then:")
	if _, err := audit(ctx, a.documents.Stream(), next); err != nil {
		return err
	}
	fmt.Println("what is left of everything:")
	_, err = audit(ctx, a.documents.Stream(), 1)
	return err
}

// history prints the stored revisions of one key, oldest first, as typed entries.
func history(ctx context.Context, documents *jskv.Bucket[string], key string) error {
	fmt.Printf("the history of %s:\n", key)
	for entry, err := range documents.History(ctx, key) {
		if err != nil {
			return err
		}
		show(entry.Revision, entry.Key, describe(entry.Operation, entry.Value), entry.Header, entry.Created)
	}
	return nil
}

// audit prints what happened to all keys from a revision on, up to where the stream ended when it
// began, and returns the revision to go on with. The messages are raw: what is no value of the
// bucket's type is in them too, whatever client wrote it.
func audit(ctx context.Context, stream *jskv.RawStream, next uint64) (uint64, error) {
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	if info.State.Msgs == 0 {
		return next, nil
	}
	messages, err := stream.Messages(ctx, jskv.RawFrom(next))
	if err != nil {
		return 0, err
	}
	defer messages.Stop()
	for next <= info.State.LastSeq {
		msg, err := messages.Next(ctx)
		if err != nil {
			return 0, err
		}
		// What is not there has happened: a document's history is shorter than what happened to
		// it, or was purged.
		if gone := msg.Sequence - next; gone > 0 {
			fmt.Printf("  from %d on: gone, %d revisions\n", next, gone)
		}
		show(msg.Sequence, msg.Key, describe(msg.Operation, string(msg.Data)), msg.Header, msg.Time)
		next = msg.Sequence + 1
	}
	return next, nil
}

// describe tells an empty value from none at all: only the operation does.
func describe(op jskv.Operation, value string) string {
	if op == jskv.OpPut {
		return fmt.Sprintf("%v %q", op, value)
	}
	return op.String()
}

func show(revision uint64, key, what string, header nats.Header, at time.Time) {
	who := header.Get(authorHeader)
	if who == "" {
		who = "somebody"
	}
	when := ""
	if *times {
		when = at.UTC().Format(time.RFC3339Nano) + " "
	}
	fmt.Printf("  %s%d %s: %s by %s\n", when, revision, key, what, who)
}
