package jskv_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// stockSection is the part of the page about one type of the stock client.
func stockSection(t *testing.T, title string) string {
	t.Helper()
	_, rest, ok := strings.Cut(repositoryFile(t, "docs/coming-from.md"), "\n### "+title+"\n")
	require.True(t, ok, "docs/coming-from.md has no section %s", title)
	section, _, _ := strings.Cut(rest, "\n### ")
	return section
}

func TestEveryMethodOfTheStockClientHasItsCounterpart(t *testing.T) {
	t.Parallel()
	for title, types := range map[string][]reflect.Type{
		"KeyValueManager": {
			reflect.TypeFor[jetstream.KeyValueManager](),
			reflect.TypeFor[jetstream.KeyValueLister](),
			reflect.TypeFor[jetstream.KeyValueNamesLister](),
		},
		"KeyValue":       {reflect.TypeFor[jetstream.KeyValue]()},
		"KeyLister":      {reflect.TypeFor[jetstream.KeyLister]()},
		"KeyWatcher":     {reflect.TypeFor[jetstream.KeyWatcher]()},
		"KeyValueEntry":  {reflect.TypeFor[jetstream.KeyValueEntry]()},
		"KeyValueStatus": {reflect.TypeFor[jetstream.KeyValueStatus]()},
	} {
		section := stockSection(t, title)
		for _, typ := range types {
			require.NotZero(t, typ.NumMethod())
			for i := range typ.NumMethod() {
				if method := typ.Method(i).Name; !strings.Contains(section, "."+method+"(") {
					t.Errorf("docs/coming-from.md does not say what is instead of %v.%s", typ, method)
				}
			}
		}
	}
}

func TestEveryOptionOfTheStockClientHasItsCounterpart(t *testing.T) {
	t.Parallel()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/nats-io/nats.go/jetstream").Output()
	require.NoError(t, err)
	section, options := stockSection(t, "Options"), 0
	for name := range declared(t, filepath.Join(strings.TrimSpace(string(dir)), "kv_options.go")) {
		if options++; !strings.Contains(section, "| `"+name+"(") {
			t.Errorf("docs/coming-from.md does not say what is instead of %s", name)
		}
	}
	require.Greater(t, options, 5)
}

// declared are the exported names that files declare, with methods and fields.
func declared(t *testing.T, pattern string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(pattern)
	require.NoError(t, err)
	names := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.FuncDecl:
				names[node.Name.Name] = node.Name.IsExported()
				return false
			case *ast.TypeSpec:
				names[node.Name.Name] = node.Name.IsExported()
			case *ast.ValueSpec, *ast.Field:
				for _, name := range identifiers(node) {
					names[name.Name] = name.IsExported()
				}
			}
			return true
		})
	}
	for name, exported := range names {
		if !exported {
			delete(names, name)
		}
	}
	return names
}

func identifiers(node ast.Node) []*ast.Ident {
	if field, ok := node.(*ast.Field); ok {
		return field.Names
	}
	return node.(*ast.ValueSpec).Names
}

// What the second column of a table calls is there to be called.
func TestTheCounterpartsAreThere(t *testing.T) {
	t.Parallel()
	ours, code, name := declared(t, "*.go"), regexp.MustCompile("`[^`]+`"), regexp.MustCompile(`\b[A-Z]\w+`)
	// Settings of a bucket's configuration, and a unit.
	stock := []string{"KeyValueConfig", "History", "MaxBytes", "LimitMarkerTTL", "Minute"}
	for _, other := range stock {
		ours[other] = true
	}
	checked := 0
	for line := range strings.Lines(repositoryFile(t, "docs/coming-from.md")) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "|") || len(cells) < 2 {
			continue
		}
		for _, span := range code.FindAllString(cells[1], -1) {
			for _, used := range name.FindAllString(span, -1) {
				if checked++; !ours[used] {
					t.Errorf("docs/coming-from.md: there is no %s: %s", used, line)
				}
			}
		}
	}
	require.Greater(t, checked, 50)
}
