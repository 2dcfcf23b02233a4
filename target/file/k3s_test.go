package file_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/k3sconfig"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/file"
	"github.com/regkeeper/regkeeper/target/targettest"
)

// edit has someone write a login into registries.yaml, as an editor does: a new
// file takes the place of the old.
func edit(t testing.TB, place credential.Place, host credential.Host, l credential.Login) {
	t.Helper()
	path := string(place)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	doc, err := k3sconfig.Parse(text)
	must(t, err)
	_, err = doc.Set(host, l)
	must(t, err, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+"123", doc.Bytes(), 0o600), os.Rename(path+"123", path))
}

func TestK3sTarget(t *testing.T) {
	targettest.Run(t, targettest.Harness{
		New: func(t testing.TB) credential.Target {
			folder := t.TempDir()
			return file.New(file.Config{Format: file.K3s, Paths: []string{filepath.Join(folder, "k3s/registries.yaml"), filepath.Join(folder, "rke2/registries.yaml")}})
		},
		Put: edit,
		Raw: func(t testing.TB, place credential.Place) []byte {
			text, err := os.ReadFile(string(place))
			if err != nil {
				t.Error(err)
			}
			return text
		},
		Whole: func(text []byte) error {
			_, err := k3sconfig.Parse(text)
			return err
		},
		Remove: func(t testing.TB, place credential.Place) { must(t, os.RemoveAll(filepath.Dir(string(place)))) },
	})
}

// TestK3sFile holds the file to what the docker format's is held to: mode,
// link, everything else of the document.
func TestK3sFile(t *testing.T) {
	folder := t.TempDir()
	real, path := filepath.Join(folder, "real.yaml"), filepath.Join(folder, "registries.yaml")
	const before = `mirrors: # of the house
    "*":
configs:
    h:
        tls: {ca_file: /ca.pem}   # ours
        auth: {auth: b2xkOm9sZA==}
`
	must(t, os.WriteFile(real, []byte(before), 0o644), os.Symlink("real.yaml", path))
	place := credential.Place(path)
	target := file.New(file.Config{Format: file.K3s, Paths: []string{path}})
	held, err := target.Held(t.Context(), place, []credential.Host{"h"})
	if err != nil || !held["h"].Equal(login("old", "old")) {
		t.Errorf("held before is %v, %v", held, err)
	}
	must(t, target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"h": login("u", "p")}))
	want := strings.Replace(before, "{auth: b2xkOm9sZA==}", "{username: 'u', password: 'p'}", 1)
	text, err := os.ReadFile(real)
	must(t, err)
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 2 {
		t.Errorf("files left behind: %v, %v", entries, err)
	}
}

// TestK3sLeavesAlone holds a broken document, and one in which a login cannot
// be changed alone, to what they were.
func TestK3sLeavesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registries.yaml")
	place := credential.Place(path)
	target := file.New(file.Config{Format: file.K3s, Paths: []string{path}})
	for _, c := range []struct {
		text, says string
		held       bool
	}{
		{"configs:\n  h:\n    auth: {username: s3cret\n", path + ": broken YAML at line 3", false},
		{"configs:\n  x: &x\n    auth: {username: s3cret, password: b}\n  h: *x\n", path + ": the login for h cannot be changed", true},
	} {
		must(t, os.WriteFile(path, []byte(c.text), 0o640))
		_, err := target.Held(t.Context(), place, []credential.Host{"h"})
		if (err == nil) != c.held {
			t.Errorf("Held says %v", err)
		}
		err = target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"h": login("u", "p")})
		if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("Deliver says %v, of kind %s", err, problem.KindOf(err))
		}
		text, err := os.ReadFile(path)
		must(t, err)
		if diff := cmp.Diff(c.text, string(text)); diff != "" {
			t.Errorf("document (-before +after):\n%s", diff)
		}
	}
}
