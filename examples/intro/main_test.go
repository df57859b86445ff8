package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/examples/internal/exampletest"
	"github.com/seed646b090f/jskv/jskvtest"
)

// output is what the program must print, byte for byte, but for the error's text.
const output = `sue.color @ 1 -> "blue"
sue.color @ 2 -> "green"
expected error: <error>
sue.color @ 3 -> "red"
All keys: [sue.color]
KV stream name: KV_profiles
$KV.profiles.sue.color @ 3 -> "red"
$KV.profiles.sue.color @ 4 -> "yellow"
$KV.profiles.sue.color @ 5 -> ""
headers: map[KV-Operation:[DEL]]
sue.color @ 5 -> "" (op: Delete)
sue.color @ 6 -> "purple" (op: Put)
sue.food @ 7 -> "pizza" (op: Put)
`

func TestMain(m *testing.M) { os.Exit(exampletest.Main(m)) }

var errorText = regexp.MustCompile(`(?m)^expected error: .+$`)

func TestTheTourPrintsWhatItMust(t *testing.T) {
	t.Parallel()
	exampletest.Manners(t, func(t *testing.T, got exampletest.Result) {
		require.Contains(t, got.Stdout, "revision", "the error says what it is about")
		got.Stdout = errorText.ReplaceAllString(got.Stdout, "expected error: <error>")
		exampletest.Prints(output)(t, got)
	}, "profiles")
}

// Somebody else writes to the tour's key, so its update of revision 2 fails. Answers are slow until he has: so
// he is in time.
func TestTheBucketIsRemovedOnAnErrorToo(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	proxy := jskvtest.NewProxy(t, srv.URL())
	proxy.Delay(jskvtest.ToClient, 500*time.Millisecond)
	_, err := js.Conn().Subscribe("$KV.profiles.sue.color", func(msg *nats.Msg) {
		if string(msg.Data) == "green" {
			_, _ = js.Publish(t.Context(), msg.Subject, []byte("mine")) // the tour's end tells whether it came
			proxy.Delay(jskvtest.ToClient, 0)
		}
	})
	require.NoError(t, err)
	require.NoError(t, js.Conn().Flush())

	got := exampletest.Run(t, proxy.URL())
	require.NotZero(t, got.Exit)
	require.Contains(t, got.Stderr, "profiles/sue.color")
	require.Contains(t, got.Stderr, "revision 2 is not the newest (3)")
	require.True(t, strings.HasPrefix(got.Stdout, "sue.color @ 1 -> \"blue\"\n"), got.Stdout)
	require.Empty(t, exampletest.Streams(t, js), "it removed its bucket")
}
