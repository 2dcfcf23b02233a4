package static_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/regkeeper/regkeeper/credential"
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

// The ID is in the state and the log: with another salt it is another one, and
// it is not what anybody can make of a guess.
func TestIDIsSalted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	write(t, path, "hunter2")
	seen := map[string]string{"static-acme-" + credential.NewSecret("hunter2").Fingerprint(): "no key at all"}
	for _, salt := range []string{"", "one", "two"} {
		source := static.New(static.Config{Username: "acme", Password: secretref.Ref{File: path}, Salt: salt})
		var ids [2]string
		for i := range ids {
			got, err := source.Issue(t.Context(), credential.Request{Host: "registry.example.com"})
			if err != nil {
				t.Fatal(err)
			}
			ids[i] = got.ID
		}
		if ids[0] != ids[1] {
			t.Errorf("with salt %q the ID is %s and then %s", salt, ids[0], ids[1])
		}
		if other, ok := seen[ids[0]]; ok {
			t.Errorf("with salt %q the ID is the one of %q", salt, other)
		}
		seen[ids[0]] = salt
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
