package interop

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// tests are the names of the tests in the files that match.
func tests(t *testing.T, pattern string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(pattern)
	require.NoError(t, err)
	names := map[string]bool{}
	for _, file := range files {
		for _, match := range regexp.MustCompile(`(?m)^func (Test\w+)\(t `).FindAllStringSubmatch(readFile(t, file), -1) {
			names[match[1]] = true
		}
	}
	require.NotEmpty(t, names, pattern)
	return names
}

func TestThePageNamesTheTestsThatShowIt(t *testing.T) {
	t.Parallel()
	page := readFile(t, "..", "docs", "interop.md")
	all, named := tests(t, "*_test.go"), map[string]bool{}
	for _, match := range regexp.MustCompile("`(Test[A-Z]\\w*)`").FindAllStringSubmatch(page, -1) {
		named[match[1]] = true
		require.True(t, all[match[1]], "the page names %s, which is not there", match[1])
	}
	for _, pattern := range []string{"values_test.go", "ttl_test.go", "transactions_test.go", "buckets_test.go", "differences_test.go"} {
		for name := range tests(t, pattern) {
			require.True(t, named[name], "the page does not name %s", name)
		}
	}
}

func TestThePageNamesTheVersionsThatAreTested(t *testing.T) {
	t.Parallel()
	page := readFile(t, "..", "docs", "interop.md")
	for file, modules := range map[string][]string{
		"go.mod":                           {"nats-server/v2"},
		filepath.Join("natscli", "go.mod"): {"natscli", "nats.go"},
	} {
		text := readFile(t, file)
		for _, module := range modules {
			match := regexp.MustCompile(`github\.com/nats-io/(` + regexp.QuoteMeta(module) + `) (v\S+)`).FindStringSubmatch(text)
			require.NotNil(t, match, "%s in %s", module, file)
			require.Regexp(t, regexp.MustCompile(`\b`+regexp.QuoteMeta(regexp.MustCompile(`/v2$`).ReplaceAllString(module, ""))+` `+regexp.QuoteMeta(match[2])+`\b`), page)
		}
	}
	for _, name := range []string{"kv", "jetstream", "transport-node"} {
		var installed struct{ Version string }
		require.NoError(t, json.Unmarshal([]byte(readFile(t, "node_modules", "@nats-io", name, "package.json")), &installed))
		require.Regexp(t, "`@nats-io/"+name+"`[^|]* "+regexp.QuoteMeta(installed.Version)+`\b`, page)
		require.Contains(t, readFile(t, "package.json"), `"@nats-io/`+name+`": "`+installed.Version+`"`, "npm --prefix interop ci brings what package.json names")
	}
}

// The addresses of a registry belong to the machine that made the file.
func TestTheLockFileNamesNoRegistry(t *testing.T) {
	t.Parallel()
	lock := readFile(t, "package-lock.json")
	require.Contains(t, lock, `"integrity"`)
	require.NotContains(t, lock, `"resolved"`)
	require.NotContains(t, lock, "://")
}
