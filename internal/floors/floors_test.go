// Package floors_test holds the packages to their floors: a package imports
// lower floors only. It parses the files itself, so that a changed import is
// never hidden by a cached result.
package floors_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/regkeeper/regkeeper"

// floors is the table of docs/ARCHITECTURE.md. The longest prefix counts.
var floors = map[string]int{
	"problem": 0,

	"credential":    1,
	"internal/disk": 1,

	"dockerconfig":       2,
	"image":              2,
	"internal/filewatch": 2,
	"internal/kube":      2,
	"internal/secretref": 2,
	"internal/shellfile": 2,
	"internal/transport": 2,
	"k3sconfig":          2,
	"runnerconfig":       2,
	"webhook":            2,
	"state":              2,

	"advise":              3,
	"consumer":            3,
	"controller":          3,
	"growth":              3,
	"helper":              3,
	"internal/imagecache": 3,
	"mirrorconfig":        3,
	"plan":                3,
	"plan/peer":           4,
	"registry":            3,
	"registry/trial":      4,
	"state/secret":        3,
	"target":              3,
	"workload":            3,

	"explain/place":    4,
	"explain/scene":    4,
	"keeper":           4,
	"kubelet":          4,
	"source":           4,
	"lifecycle":        4,
	"release/build":    4,
	"release/revision": 4,
	"release/rollout":  4,
	"runner":           4,
	"runner/gitea":     5,
	"runner/gitlab":    5,

	"config":  5,
	"daemon":  5,
	"explain": 5,
	"release": 5,

	"app":       6,
	"manifests": 6,

	"cli": 7,
	"cmd": 8,

	// Suites and kits of tests may use what they test.
	"registry/registrytest":         4,
	"source/sourcetest":             5,
	"state/statetest":               4,
	"target/targettest":             4,
	"internal/testkit":              8,
	"internal/testkit/fakeregistry": 7,
	"internal/floors":               8,
}

func floor(path string) (int, bool) {
	for p := path; p != "."; p = filepath.Dir(p) {
		if f, ok := floors[p]; ok {
			return f, true
		}
	}
	return 0, false
}

func TestImportsGoDown(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path == root {
				return nil
			}
			if strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		own, ok := floor(folder)
		if !ok {
			t.Errorf("package %s has no floor: give it one here and in docs/ARCHITECTURE.md", folder)
			return nil
		}
		files++
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			local, ok := strings.CutPrefix(imported, module+"/")
			if !ok {
				continue
			}
			below, ok := floor(local)
			if !ok {
				t.Errorf("%s imports %s, which has no floor", path, local)
				continue
			}
			if below >= own {
				t.Errorf("%s is on floor %d and imports %s on floor %d", path, own, local, below)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Fatal("no file was looked at")
	}
}
