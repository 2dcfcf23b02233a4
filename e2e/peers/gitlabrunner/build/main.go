// Command build reads a config.toml as GitLab Runner does: with its parser, into
// its types. The types are made of its source, since the program itself does not
// build of modules alone: some that it needs are not published.
//
// Its argument is the folder of GitLab Runner's source, its input the document. It
// prints the runners as JSON, and fails if the document is not read, or if it has a
// key that none of the types has.
package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	_ "gitlab.com/gitlab-org/gitlab-runner/helpers/homedir" // pins the source
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: build SOURCE < config.toml")
	}
	types := &types{source: os.Args[1], declared: map[string]map[string]ast.Expr{}, busy: map[string]bool{}}
	config, err := types.named("common", "Config")
	if err != nil {
		return err
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	value := reflect.New(config)
	meta, err := toml.Decode(string(text), value.Interface())
	if err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("GitLab Runner has no key %v", unknown)
	}
	return json.NewEncoder(os.Stdout).Encode(value.Elem().FieldByName("Runners").Interface())
}

// types makes types of Go source.
type types struct {
	source   string
	declared map[string]map[string]ast.Expr // by folder and name
	busy     map[string]bool
	custom   map[string]bool // types with a method by which they decode themselves
}

// loose is what a value is taken as whose type is not gone into.
var loose = reflect.TypeFor[any]()

func (t *types) load(folder string) error {
	if t.declared[folder] != nil {
		return nil
	}
	t.declared[folder] = map[string]ast.Expr{}
	if t.custom == nil {
		t.custom = map[string]bool{}
	}
	return filepath.WalkDir(filepath.Join(t.source, folder), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != filepath.Join(t.source, folder):
			return fs.SkipDir
		case entry.IsDir(), !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if s, ok := spec.(*ast.TypeSpec); ok {
						t.declared[folder][s.Name.Name] = s.Type
					}
				}
			case *ast.FuncDecl:
				if d.Recv != nil && (d.Name.Name == "UnmarshalTOML" || d.Name.Name == "UnmarshalText") {
					t.custom[folder+"."+receiver(d.Recv.List[0].Type)] = true
				}
			}
		}
		return nil
	})
}

func receiver(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// packages are the folders of other packages that the configuration's types are of.
var packages = map[string]string{"docker": "helpers/docker", "cacheconfig": "cache/cacheconfig"}

var basic = map[string]reflect.Type{
	"string": reflect.TypeFor[string](), "bool": reflect.TypeFor[bool](), "int": reflect.TypeFor[int](), "int64": reflect.TypeFor[int64](),
	"int32": reflect.TypeFor[int32](), "uint": reflect.TypeFor[uint](), "float64": reflect.TypeFor[float64](), "any": loose,
}

func (t *types) named(folder, name string) (reflect.Type, error) {
	if made, ok := basic[name]; ok {
		return made, nil
	}
	if err := t.load(folder); err != nil {
		return nil, err
	}
	expr, ok := t.declared[folder][name]
	key := folder + "." + name
	if !ok || t.custom[key] || t.busy[key] {
		return loose, nil
	}
	t.busy[key] = true
	defer delete(t.busy, key)
	return t.of(folder, expr)
}

func (t *types) of(folder string, expr ast.Expr) (reflect.Type, error) {
	switch e := expr.(type) {
	case *ast.Ident:
		return t.named(folder, e.Name)
	case *ast.StarExpr:
		inner, err := t.of(folder, e.X)
		if err != nil || inner == loose {
			return loose, err
		}
		return reflect.PointerTo(inner), nil
	case *ast.ArrayType:
		inner, err := t.of(folder, e.Elt)
		if err != nil {
			return nil, err
		}
		return reflect.SliceOf(inner), nil
	case *ast.MapType:
		inner, err := t.of(folder, e.Value)
		if err != nil {
			return nil, err
		}
		return reflect.MapOf(reflect.TypeFor[string](), inner), nil
	case *ast.SelectorExpr:
		in, _ := e.X.(*ast.Ident)
		switch {
		case in.Name == "time" && e.Sel.Name == "Time":
			return reflect.TypeFor[time.Time](), nil
		case in.Name == "time" && e.Sel.Name == "Duration":
			return reflect.TypeFor[time.Duration](), nil
		case packages[in.Name] != "":
			return t.named(packages[in.Name], e.Sel.Name)
		}
		return loose, nil
	case *ast.StructType:
		fields, err := t.fields(folder, e)
		if err != nil {
			return nil, err
		}
		return reflect.StructOf(fields), nil
	}
	return loose, nil
}

// fields are those of a struct that a document has; those of an embedded one are
// its own.
func (t *types) fields(folder string, of *ast.StructType) (fields []reflect.StructField, err error) {
	for _, field := range of.Fields.List {
		tag := ""
		if field.Tag != nil {
			if tag, err = strconv.Unquote(field.Tag.Value); err != nil {
				return nil, err
			}
		}
		key := reflect.StructTag(tag).Get("toml")
		if key == "-" {
			continue
		}
		if len(field.Names) == 0 && key == "" {
			inner, err := t.of(folder, field.Type)
			if err != nil {
				return nil, err
			}
			if inner.Kind() == reflect.Struct {
				for i := range inner.NumField() {
					fields = append(fields, inner.Field(i))
				}
			}
			continue
		}
		made, err := t.of(folder, field.Type)
		if err != nil {
			return nil, err
		}
		for _, name := range field.Names {
			if name.IsExported() {
				fields = append(fields, reflect.StructField{Name: name.Name, Type: made, Tag: reflect.StructTag(`toml:"` + key + `"`)})
			}
		}
	}
	return fields, nil
}
