package jskvtest_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/jskvtest"
)

func TestDeleteConsumersTakesThemFromTheirClients(t *testing.T) {
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	kv := newBucket(t, js, "profiles")
	require.Zero(t, jskvtest.ConsumerCount(t, js, "profiles"))
	require.Zero(t, jskvtest.DeleteConsumers(t, js, "profiles"))

	w, err := kv.WatchAll(t.Context())
	require.NoError(t, err)
	defer func() { _ = w.Stop() }()
	_, err = js.CreateConsumer(t.Context(), "KV_profiles", jetstream.ConsumerConfig{Durable: "reader"})
	require.NoError(t, err)
	require.Equal(t, 2, jskvtest.ConsumerCount(t, js, "profiles"))

	require.Equal(t, 2, jskvtest.DeleteConsumers(t, js, "profiles"))
	require.Zero(t, jskvtest.ConsumerCount(t, js, "profiles"))
	_, err = js.Consumer(t.Context(), "KV_profiles", "reader")
	require.ErrorIs(t, err, jetstream.ErrConsumerNotFound)
}

func TestConsumersOfAMissingBucketEndTheTest(t *testing.T) {
	for _, helper := range []func(testing.TB, jetstream.JetStream, string) int{jskvtest.DeleteConsumers, jskvtest.ConsumerCount} {
		require.Contains(t, failureOf(func(tb testing.TB) {
			helper(tb, jskvtest.NewServer(tb).JetStream(), "nothing")
		}), "stream of bucket nothing: nats: API error: code=404")
	}
}
