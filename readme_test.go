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

// A claim in the README is shown by the test that stands beside it.
func TestTheTestsThatTheReadmeNamesAreThere(t *testing.T) {
	t.Parallel()
	sources, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	defined := map[string]bool{}
	for _, name := range sources {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, match := range regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+|Benchmark\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			defined[match[1]] = true
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z0-9]\\w*)`").FindAllStringSubmatch(readme(t), -1)
	require.NotEmpty(t, named)
	for _, match := range named {
		if !defined[match[1]] {
			t.Errorf("the README names %s, which is not there", match[1])
		}
	}
}
