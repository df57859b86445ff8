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

func TestEveryLinkOfTheDocumentationLeadsSomewhere(t *testing.T) {
	t.Parallel()
	link, heading := regexp.MustCompile(`\]\(([\w./-]*)(?:#([\w-]+))?\)`), regexp.MustCompile(`(?m)^#+ (.*)$`)
	links := 0
	for _, page := range pages(t) {
		for _, match := range link.FindAllStringSubmatch(prose(repositoryFile(t, page)), -1) {
			links++
			target := page
			if match[1] != "" {
				target = filepath.Join(filepath.Dir(page), match[1])
			}
			require.FileExists(t, target, "%s links to it", page)
			if match[2] != "" {
				var anchors []string
				for _, title := range heading.FindAllStringSubmatch(repositoryFile(t, target), -1) {
					anchors = append(anchors, anchor(title[1]))
				}
				require.Contains(t, anchors, match[2], "%s links to that of %s", page, target)
			}
		}
	}
	require.Greater(t, links, 50)
}

func TestNoPageHasWhatAMergeLeftOpen(t *testing.T) {
	t.Parallel()
	for _, page := range pages(t) {
		require.NotRegexp(t, `(?m)^(<{7}|={7}|>{7})( |$)`, repositoryFile(t, page), page)
	}
}

// pages are the pages of the documentation.
func pages(t testing.TB) (pages []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "*/*.md"} {
		some, err := filepath.Glob(pattern)
		require.NoError(t, err)
		pages = append(pages, some...)
	}
	require.Contains(t, pages, "CHANGELOG.md")
	return pages
}

// prose is a page without its blocks of code.
func prose(page string) string {
	return regexp.MustCompile("(?s:```.*?```)|(?m:^    .*$)").ReplaceAllString(page, "")
}

// anchor is what a heading is linked to by.
func anchor(title string) string {
	bare := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(title), "")
	return strings.ReplaceAll(bare, " ", "-")
}
