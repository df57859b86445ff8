package jskvtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// apiTimeout bounds what the helpers ask of JetStream.
const apiTimeout = 30 * time.Second

// DeleteConsumers deletes all consumers of the bucket behind the backs of the clients that use
// them, as an operator or a server that has lost them might, and returns how many it deleted.
// The test ends when JetStream answers with an error, as when there is no such bucket.
func DeleteConsumers(tb testing.TB, js jetstream.JetStream, bucket string) int {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	stream, names := consumers(ctx, tb, js, bucket)
	deleted := 0
	for _, name := range names {
		err := stream.DeleteConsumer(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound): // gone by itself meanwhile
		case err != nil:
			tb.Fatalf("jskvtest: delete consumer %s of bucket %s: %v", name, bucket, err)
		default:
			deleted++
		}
	}
	return deleted
}

// ConsumerCount returns how many consumers the bucket has: of watchers, listings and the like.
// The test ends when JetStream answers with an error, as when there is no such bucket.
func ConsumerCount(tb testing.TB, js jetstream.JetStream, bucket string) int {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	_, names := consumers(ctx, tb, js, bucket)
	return len(names)
}

func consumers(ctx context.Context, tb testing.TB, js jetstream.JetStream, bucket string) (jetstream.Stream, []string) {
	tb.Helper()
	stream, err := js.Stream(ctx, streamName(bucket))
	if err != nil {
		tb.Fatalf("jskvtest: stream of bucket %s: %v", bucket, err)
	}
	lister := stream.ConsumerNames(ctx)
	var names []string
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		tb.Fatalf("jskvtest: list consumers of bucket %s: %v", bucket, err)
	}
	return stream, names
}
