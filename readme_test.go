package jskv_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	return string(text)
}

// block returns the first fenced block of a kind.
func block(t *testing.T, text, kind string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "```"+kind+"\n")
	require.True(t, ok, "there is no block of %s", kind)
	content, _, ok := strings.Cut(rest, "```")
	require.True(t, ok, "the block of %s has no end", kind)
	return content
}

// The program is built as a package of this module that is only laid over the folder, so that
// nothing is written beside the sources.
func TestTheProgramInTheReadmePrintsWhatItSays(t *testing.T) {
	t.Parallel()
	text, dir := readme(t), t.TempDir()
	source := filepath.Join(dir, "main.go")
	require.NoError(t, os.WriteFile(source, []byte(block(t, text, "go")), 0o600))
	here, err := os.Getwd()
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(here, "examples", "readme", "main.go"): source},
	})
	require.NoError(t, err)
	layer := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(layer, overlay, 0o600))

	program := filepath.Join(dir, "program")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", layer, "-o", program, "./examples/readme")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "go build: %s", output)

	run := exec.CommandContext(t.Context(), program)
	run.Dir = dir
	var stderr strings.Builder
	run.Stderr = &stderr
	printed, err := run.Output()
	require.NoError(t, err, stderr.String())
	require.Equal(t, block(t, text, "text"), string(printed))
}

// A claim in the README is shown by the test that stands beside it, a link to the file where it is.
func TestTheTestsThatTheReadmeNamesAreThere(t *testing.T) {
	t.Parallel()
	name := "`((?:Test|Fuzz|Benchmark)[A-Z0-9]\\w*)`"
	named := regexp.MustCompile(name).FindAllStringSubmatch(readme(t), -1)
	linked := regexp.MustCompile(`\[`+name+`\]\(([\w./]+)\)`).FindAllStringSubmatch(readme(t), -1)
	require.NotEmpty(t, named)
	require.Len(t, linked, len(named), "each is a link")
	for _, link := range linked {
		text, err := os.ReadFile(link[2])
		require.NoError(t, err)
		if !strings.Contains(string(text), "\nfunc "+link[1]+"(") {
			t.Errorf("the README names %s, which is not in %s", link[1], link[2])
		}
	}
}
