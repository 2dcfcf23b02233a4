package static_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/source/sourcetest"
	"github.com/regkeeper/regkeeper/source/static"
)

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
		path := filepath.Join(t.TempDir(), "password")
		write(t, path, "hunter2-first\n")
		source := func(path string) *static.Source {
			return static.New(static.Config{Username: "acme", Password: secretref.Ref{File: path}})
		}
		return sourcetest.Fixture{
			Source: source(path), Host: "registry.example.com", Secrets: []string{"hunter2"},
			Down:   source(path + "-missing"),
			Change: func(t testing.TB) { write(t, path, "hunter2-second") },
		}
	})
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
