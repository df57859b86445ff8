package jskv_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"iter"
	"os/exec"
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

// packages are those of this module that others can import, by their folders.
func packages(t *testing.T) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-f", `{{if ne .Name "main"}}{{.ImportPath}}{{end}}`, "./...")
	paths, err := list.Output()
	require.NoError(t, err)
	var all []string
	for _, name := range strings.Fields(string(paths)) {
		if !slices.Contains(strings.Split(name, "/"), "internal") {
			all = append(all, path.Join(".", strings.TrimPrefix(name, modulePath)))
		}
	}
	require.Subset(t, all, []string{".", "embedded", "jskvtest"})
	return all
}

// Every exported name of every package has a comment: functions, types, methods, constants,
// variables, fields of structs and methods of interfaces. One comment behind several names on a
// line is for all of them.
func TestEveryExportedNameIsDocumented(t *testing.T) {
	t.Parallel()
	for _, folder := range packages(t) {
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
			for field := range members(typ) {
				for _, name := range field.Names {
					if name.IsExported() {
						documented(typ.Name+"."+name.Name, field.Doc.Text()+field.Comment.Text())
					}
				}
			}
			funcs = append(funcs, slices.Concat(typ.Funcs, typ.Methods)...)
			values = append(values, slices.Concat(typ.Consts, typ.Vars)...)
		}
		for _, fn := range funcs {
			documented(fullName(fn), fn.Doc)
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

// fullName is a function's name, or a method's with its type's before it.
func fullName(fn *doc.Func) string {
	receiver, _, _ := strings.Cut(strings.TrimLeft(fn.Recv, "*"), "[")
	return strings.TrimPrefix(receiver+"."+fn.Name, ".")
}

// members yields the fields of a struct or the methods of an interface.
func members(typ *doc.Type) iter.Seq[*ast.Field] {
	return func(yield func(*ast.Field) bool) {
		var list *ast.FieldList
		switch t := typ.Decl.Specs[0].(*ast.TypeSpec).Type.(type) {
		case *ast.StructType:
			list = t.Fields
		case *ast.InterfaceType:
			list = t.Methods
		default:
			return
		}
		for _, field := range list.List {
			if !yield(field) {
				return
			}
		}
	}
}

// Every function, method and type has an example of its own, by its name; a type's may be that of a
// function that makes it, or of a method.
func TestEveryVerbAndTypeHasAnExample(t *testing.T) {
	t.Parallel()
	// What the language or package errors calls is shown by its type's example.
	implicit := []string{"Error", "Unwrap"}
	shown := func(fn *doc.Func) bool { return len(fn.Examples) > 0 || slices.Contains(implicit, fn.Name) }
	for _, folder := range packages(t) {
		pkg := loadDoc(t, folder)
		require.True(t, folder != "." || len(pkg.Examples) > 0, "an example of the package")
		for _, fn := range pkg.Funcs {
			if !shown(fn) {
				t.Errorf("%s.%s has no example", pkg.Name, fn.Name)
			}
		}
		for _, typ := range pkg.Types {
			examples := len(typ.Examples)
			for _, fn := range slices.Concat(typ.Funcs, typ.Methods) {
				examples += len(fn.Examples)
				if !shown(fn) {
					t.Errorf("%s.%s has no example", pkg.Name, fullName(fn))
				}
			}
			if examples == 0 {
				t.Errorf("%s.%s has no example", pkg.Name, typ.Name)
			}
		}
	}
}

// examplesIn reads the examples of the files that match pattern.
func examplesIn(t *testing.T, pattern string) []*doc.Example {
	t.Helper()
	names, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, names)
	var all []*doc.Example
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		all = append(all, doc.Examples(file)...)
	}
	return all
}

func TestEveryExampleChecksItsOutput(t *testing.T) {
	t.Parallel()
	for _, folder := range packages(t) {
		for _, example := range examplesIn(t, filepath.Join(folder, "*_test.go")) {
			if example.Output == "" && !example.EmptyOutput {
				t.Errorf("Example%s in %s has no Output", example.Name, folder)
			}
		}
	}
}
