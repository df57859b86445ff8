package main

import (
	"os"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/examples/internal/exampletest"
	"github.com/seed646b090f/jskv/jskvtest"
)

// output is what the program must print, byte for byte.
const output = `sue logged in
bob logged in
eve logged in
eve logged out
bob was away for too long
bob clicks: please log in again
sue clicks, and is still there
sue logged out
`

func TestMain(m *testing.M) { os.Exit(exampletest.Main(m)) }

func TestTheSessionsPrintWhatTheyMust(t *testing.T) {
	t.Parallel()
	exampletest.Manners(t, exampletest.Prints(output), "sessions")
}

// Somebody else ends sue's session when eve has come.
func TestTheSessionsAreRemovedOnAnErrorToo(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	got := exampletest.Run(t, exampletest.Meanwhile(t, srv.URL(), `"seq":3}`, func() {
		stream, err := js.Stream(t.Context(), "KV_sessions")
		if !assert.NoError(t, err) {
			return
		}
		sue, err := stream.GetMsg(t.Context(), 1)
		if !assert.NoError(t, err) {
			return
		}
		marker := nats.NewMsg(sue.Subject)
		marker.Header.Set("KV-Operation", "DEL")
		_, err = js.PublishMsg(t.Context(), marker)
		assert.NoError(t, err)
	}))
	require.NotZero(t, got.Exit)
	require.Regexp(t, "and not bob after|please log in again", got.Stderr, "sue may click before her session's end is told")
	require.Empty(t, exampletest.Streams(t, js), "it removed its bucket")
}
