package jskv_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const modulePath = "github.com/seed646b090f/jskv"

// loadDoc reads the documentation of a package of this module, with its examples.
func loadDoc(t *testing.T, folder string) *doc.Package {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*.go"))
	require.NoError(t, err)
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		require.NoError(t, err)
		files = append(files, file)
	}
	pkg, err := doc.NewFromFiles(fset, files, path.Join(modulePath, folder))
	require.NoError(t, err)
	return pkg
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{".", "embedded", "jskvtest"} {
		pkg := loadDoc(t, folder)
		names := 0
		documented := func(name, text string) {
			names++
			if strings.TrimSpace(text) == "" {
				t.Errorf("%s.%s has no doc comment", pkg.Name, name)
			}
		}
		documented("the package", pkg.Doc)
		funcs, values := pkg.Funcs, slices.Concat(pkg.Consts, pkg.Vars)
		for _, typ := range pkg.Types {
			documented(typ.Name, typ.Doc)
			funcs = append(funcs, slices.Concat(typ.Funcs, typ.Methods)...)
			values = append(values, slices.Concat(typ.Consts, typ.Vars)...)
		}
		for _, fn := range funcs {
			documented(strings.TrimLeft(fn.Recv+"."+fn.Name, "*."), fn.Doc)
		}
		for _, group := range values {
			for _, spec := range group.Decl.Specs {
				value := spec.(*ast.ValueSpec)
				for _, name := range value.Names {
					if name.IsExported() {
						documented(name.Name, group.Doc+value.Doc.Text()+value.Comment.Text())
					}
				}
			}
		}
		require.Greater(t, names, 5, "names of %s", folder)
	}
}

func TestEveryVerbAndTypeHasAnExample(t *testing.T) {
	t.Parallel()
	// What the language or package errors calls is shown by its type's example.
	implicit := []string{"Error", "Unwrap"}
	pkg := loadDoc(t, ".")
	require.NotEmpty(t, pkg.Examples, "examples of the package")
	for _, fn := range pkg.Funcs {
		if len(fn.Examples) == 0 {
			t.Errorf("there is no Example%s", fn.Name)
		}
	}
	for _, typ := range pkg.Types {
		shown := len(typ.Examples)
		for _, fn := range typ.Funcs {
			shown += len(fn.Examples)
			if len(fn.Examples) == 0 {
				t.Errorf("there is no Example%s", fn.Name)
			}
		}
		for _, method := range typ.Methods {
			shown += len(method.Examples)
			if len(method.Examples) == 0 && !slices.Contains(implicit, method.Name) {
				t.Errorf("there is no Example%s_%s", typ.Name, method.Name)
			}
		}
		if shown == 0 {
			t.Errorf("there is no Example%s", typ.Name)
		}
	}
}

func TestEveryExampleChecksItsOutput(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("example*_test.go")
	require.NoError(t, err)
	checked := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		require.NoError(t, err)
		for _, example := range doc.Examples(file) {
			checked++
			if example.Output == "" && !example.EmptyOutput {
				t.Errorf("Example%s in %s has no Output", example.Name, name)
			}
		}
	}
	require.NotZero(t, checked)
}
