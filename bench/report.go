package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const (
	modulePath  = "github.com/seed646b090f/jskv"
	figuresFile = "performance.json"
	textFile    = "performance.md"
	pictures    = "performance" // the folder
)

// docsFolder is the one of the repository, from wherever in it the program is run.
func docsFolder() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		if bytes.HasPrefix(text, []byte("module "+modulePath+"\n")) {
			return filepath.Join(dir, "docs"), nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository: say with -out where to write to")
		}
		dir = parent
	}
}

// publish writes all that a run leaves.
func (r *Report) publish(w io.Writer, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	path := filepath.Join(out, figuresFile)
	if err := r.write(path); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "\nwrote %s\n", path)
	return r.draw(w, out)
}

// redraw makes everything again that is made from the figures.
func redraw(w io.Writer, out string) error {
	r, err := readReport(filepath.Join(out, figuresFile))
	if err != nil {
		return err
	}
	return r.draw(w, out)
}

// draw makes the pictures, and the tables in the text when there is one.
func (r *Report) draw(w io.Writer, out string) error {
	names, err := r.pictures(filepath.Join(out, pictures))
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "wrote %s to %s\n", count(len(names), "picture"), filepath.Join(out, pictures))
	path := filepath.Join(out, textFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rewritten, err := rewrite(string(text), r.blocks())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(rewritten), 0o644); err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "wrote the tables of %s\n", path)
	return nil
}
