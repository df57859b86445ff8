package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/seed646b090f/jskv/examples/internal/exampletest"
	"github.com/seed646b090f/jskv/jskvtest"
)

// output is what the program must print, byte for byte.
const output = `the history of plan:
  1 plan: Put "a house" by ann
  2 plan: Put "a tower" by bob
  5 plan: Put "a bridge" by somebody
everything:
  1 plan: Put "a house" by ann
  2 plan: Put "a tower" by bob
  3 notes: Put "" by ann
  4 notes: Delete by ann
  5 plan: Put "a bridge" by somebody
since then:
  6 plan: Put "a tunnel" by bob
  7 notes: Purge by somebody
  8 notes: Put "ask bob why" by ann
what is left of everything:
  from 1 on: gone, 1 revisions
  2 plan: Put "a tower" by bob
  from 3 on: gone, 2 revisions
  5 plan: Put "a bridge" by somebody
  6 plan: Put "a tunnel" by bob
  7 notes: Purge by somebody
  8 notes: Put "ask bob why" by ann
`

func TestMain(m *testing.M) { os.Exit(exampletest.Main(m)) }

func TestTheAuditPrintsWhatItMust(t *testing.T) {
	t.Parallel()
	exampletest.Manners(t, exampletest.Prints(output), "documents")
}

func TestTheTimesArePrintedOnDemand(t *testing.T) {
	t.Parallel()
	before := time.Now().Add(-time.Minute)
	got := exampletest.Run(t, "", "-times")
	require.Zero(t, got.Exit, got.Stderr)
	var without strings.Builder
	for line := range strings.Lines(got.Stdout) {
		first, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		at, err := time.Parse(time.RFC3339Nano, first)
		if err != nil { // a title, or what is gone
			without.WriteString(line)
			continue
		}
		require.WithinRange(t, at, before, time.Now().Add(time.Minute))
		without.WriteString("  " + rest + "\n")
	}
	require.Equal(t, output, without.String())
	require.Equal(t, 16, strings.Count(got.Stdout, "Z "), "every message and entry has its time")
}

// Somebody deletes the bucket's stream in the middle: there is nothing to remove, and it says so.
func TestABucketThatIsDeletedMeanwhileIsAnError(t *testing.T) {
	t.Parallel()
	srv := jskvtest.NewServer(t)
	js := srv.JetStream()
	got := exampletest.Run(t, exampletest.Meanwhile(t, srv.URL(), `"seq":3}`, func() {
		assert.NoError(t, js.DeleteStream(t.Context(), "KV_documents"))
	}))
	require.NotZero(t, got.Exit)
	require.Contains(t, got.Stderr, "jskv: delete bucket documents: bucket not found")
	require.Empty(t, exampletest.Streams(t, js))
}
