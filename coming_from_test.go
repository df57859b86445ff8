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

// section is the part of a page below a heading, up to the next one of its level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(repositoryFile(t, page), "\n"+heading+"\n")
	require.True(t, ok, "%s has no section %s", page, heading)
	level, _, _ := strings.Cut(heading, " ")
	part, _, _ := strings.Cut(rest, "\n"+level+" ")
	return part
}

const comingFrom = "docs/coming-from.md"

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
		requireMethods(t, section(t, comingFrom, "### "+title), types...)
	}
}

func TestTheShortFormInTheReadmeHasEveryVerbOfTheStockClient(t *testing.T) {
	t.Parallel()
	stock := column(section(t, "README.md", "## Coming from jetstream.KeyValue"), 0)
	requireMethods(t, strings.Join(stock, "\n"),
		reflect.TypeFor[jetstream.KeyValueManager](), reflect.TypeFor[jetstream.KeyValue](), reflect.TypeFor[jetstream.KeyWatcher]())
}

// requireMethods wants a call of every method of types in text.
func requireMethods(t *testing.T, text string, types ...reflect.Type) {
	t.Helper()
	for _, typ := range types {
		require.NotZero(t, typ.NumMethod())
		for i := range typ.NumMethod() {
			if method := typ.Method(i).Name; !strings.Contains(text, "."+method+"(") {
				t.Errorf("nothing says what is instead of %v.%s", typ, method)
			}
		}
	}
}

// column are the cells of a column of the tables in text.
func column(text string, i int) []string {
	var cells []string
	for line := range strings.Lines(text) {
		row, ok := strings.CutPrefix(strings.TrimSpace(line), "| ")
		if all := strings.Split(row, " | "); ok && len(all) > i {
			cells = append(cells, strings.TrimSuffix(all[i], " |"))
		}
	}
	return cells
}

func TestEveryOptionOfTheStockClientHasItsCounterpart(t *testing.T) {
	t.Parallel()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/nats-io/nats.go/jetstream").Output()
	require.NoError(t, err)
	section, options := section(t, comingFrom, "### Options"), 0
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
	for _, page := range []struct {
		text  string
		least int // names to check
	}{
		{repositoryFile(t, comingFrom), 100},
		{section(t, "README.md", "## Coming from jetstream.KeyValue"), 30},
		{section(t, "README.md", "## Coming from etcd"), 20},
	} {
		checked := 0
		for _, cell := range column(page.text, 1) {
			for _, span := range code.FindAllString(cell, -1) {
				for _, used := range name.FindAllString(span, -1) {
					if checked++; !ours[used] {
						t.Errorf("there is no %s: %s", used, cell)
					}
				}
			}
		}
		require.Greater(t, checked, page.least)
	}
}
