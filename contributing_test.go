package jskv_test

import (
	"flag"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func workflows(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(".github/workflows/*.yml")
	require.NoError(t, err)
	require.NotEmpty(t, names)
	return names
}

// A command that nobody tries is soon one that does not work.
func TestTheCommandsInTheDocumentationNameWhatIsThere(t *testing.T) {
	t.Parallel()
	sources := ""
	for _, pattern := range []string{"*_test.go", "internal/wire/*_test.go"} {
		names, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, name := range names {
			sources += repositoryFile(t, name)
		}
	}
	flags, tests := 0, 0
	for _, page := range append(workflows(t), "CONTRIBUTING.md", "docs/consistency.md") {
		text := repositoryFile(t, page)
		for _, match := range regexp.MustCompile(`-((?:random|consistency|list)\.[a-z]+|trouble)\b`).FindAllStringSubmatch(text, -1) {
			flags++
			require.NotNil(t, flag.Lookup(match[1]), "%s: there is no flag -%s", page, match[1])
		}
		for _, name := range regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`).FindAllString(text, -1) {
			tests++
			require.Contains(t, sources, "\nfunc "+name, "%s: there is no such test", page)
		}
	}
	require.Greater(t, flags, 5)
	require.Greater(t, tests, 10)
}

func TestTheWorkflowsTrustOnlyWhatTheyPinned(t *testing.T) {
	t.Parallel()
	pinned := regexp.MustCompile(`uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for _, name := range workflows(t) {
		text := repositoryFile(t, name)
		require.Contains(t, text, "\npermissions:\n  contents: read\n", name)
		require.NotContains(t, text, "secrets.", name)
		used := 0
		for line := range strings.Lines(text) {
			if strings.Contains(line, "uses:") {
				used++
				require.Regexp(t, pinned, strings.TrimSpace(line), name)
			}
		}
		require.NotZero(t, used, name)
		require.Equal(t, strings.Count(text, "runs-on:"), strings.Count(text, "timeout-minutes:"), "%s: every job has its bound", name)
	}
}
