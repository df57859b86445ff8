package main

import (
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
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
	var sue string
	_, err := js.Conn().Subscribe("$KV.sessions.>", func(msg *nats.Msg) {
		switch {
		case strings.Contains(string(msg.Data), `"sue"`) && sue == "":
			sue = msg.Subject
		case strings.Contains(string(msg.Data), `"eve"`):
			marker := nats.NewMsg(sue)
			marker.Header.Set("KV-Operation", "DEL")
			_ = js.Conn().PublishMsg(marker) // the program's end tells whether it came
		}
	})
	require.NoError(t, err)
	require.NoError(t, js.Conn().Flush())

	got := exampletest.Run(t, srv.URL())
	require.NotZero(t, got.Exit)
	require.Regexp(t, "and not bob after|please log in again", got.Stderr, "sue may click before her session's end is told")
	require.Empty(t, exampletest.Streams(t, js), "it removed its bucket")
}
