package jskv_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// repositoryFile returns the text of a file of the repository.
func repositoryFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(name))
	require.NoError(t, err)
	return string(text)
}

// writtenIn are the files and folders that a page names in code: `kv.go`, `embedded/`.
func writtenIn(page string) []string {
	var names []string
	for _, match := range regexp.MustCompile("`([a-z0-9_./*-]+(?:\\.go|/))`").FindAllStringSubmatch(page, -1) {
		names = append(names, match[1])
	}
	return names
}

// folders are those of the repository, without what tools leave in it.
func folders(t *testing.T) []string {
	t.Helper()
	var all []string
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || !entry.IsDir() || name == ".":
			return err
		case entry.Name() == "testdata" || entry.Name() == "node_modules",
			strings.HasPrefix(name, ".") && name != ".ci" && name != ".github" && !strings.HasPrefix(name, ".github/"):
			return fs.SkipDir
		}
		all = append(all, name)
		return nil
	})
	require.NoError(t, err)
	require.Contains(t, all, "internal/wire")
	return all
}

func TestEveryFileIsOnThePageThatShowsTheHouse(t *testing.T) {
	t.Parallel()
	page := writtenIn(repositoryFile(t, "docs/layout.md"))
	for _, folder := range []string{".", "internal/wire"} {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		require.NoError(t, err)
		require.Greater(t, len(files), 10)
		for _, file := range files {
			if file = filepath.ToSlash(file); !strings.HasSuffix(file, "_test.go") && !slices.Contains(page, file) {
				t.Errorf("docs/layout.md does not name %s", file)
			}
		}
	}
}

// A folder is named itself, or one above it is. Those of the examples have a page of their own.
func TestEveryFolderIsOnThePageThatShowsTheHouse(t *testing.T) {
	t.Parallel()
	page, examples := repositoryFile(t, "docs/layout.md"), repositoryFile(t, "examples/README.md")
	for _, folder := range folders(t) {
		top, rest, _ := strings.Cut(folder, "/")
		if example, _, _ := strings.Cut(rest, "/"); top == "examples" && example != "" {
			if !strings.Contains(examples, example+"/") {
				t.Errorf("examples/README.md does not name %s", folder)
			}
		}
		if top != "internal" && !strings.Contains(page, "`"+top+"/`") || top == "internal" && !strings.Contains(page, "`"+folder+"`") && rest != "" {
			t.Errorf("docs/layout.md does not name %s", folder)
		}
	}
}

// In the text a file of the core may go by its last name.
func TestEveryFileThatThePageShowsIsThere(t *testing.T) {
	t.Parallel()
	names := writtenIn(repositoryFile(t, "docs/layout.md"))
	require.Greater(t, len(names), 40)
	for _, name := range names {
		found := 0
		for _, pattern := range []string{name, path.Join("internal/wire", name)} {
			files, err := filepath.Glob(filepath.FromSlash(pattern))
			require.NoError(t, err)
			found += len(files)
		}
		if found == 0 {
			t.Errorf("docs/layout.md names %s, which is not there", name)
		}
	}
}
