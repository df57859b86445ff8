package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
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

// Somebody else writes to the tour's key, so its update of revision 2 fails.
func TestTheBucketIsRemovedOnAnErrorToo(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	got := exampletest.Run(t, exampletest.Meanwhile(t, srv.URL(), `"seq":2}`, func() {
		_, err := js.Publish(t.Context(), "$KV.profiles.sue.color", []byte("mine"))
		assert.NoError(t, err)
	}))
	require.NotZero(t, got.Exit)
	require.Contains(t, got.Stderr, "profiles/sue.color")
	require.Contains(t, got.Stderr, "revision 2 is not the newest (3)")
	require.True(t, strings.HasPrefix(got.Stdout, "sue.color @ 1 -> \"blue\"\n"), got.Stdout)
	require.Empty(t, exampletest.Streams(t, js), "it removed its bucket")
}
