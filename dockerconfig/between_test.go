package dockerconfig_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/dockerconfig"
)

// dockerChange is one run of the docker CLI: load, change, save.
func dockerChange(path string, change func(map[string]types.AuthConfig)) error {
	cli := configfile.New(path)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := cli.LoadFromReader(strings.NewReader(string(text))); err != nil {
		return err
	}
	change(cli.GetAuthConfigs())
	return cli.Save()
}

func dockerLogin(t testing.TB, path, host string) {
	t.Helper()
	err := dockerChange(path, func(m map[string]types.AuthConfig) { m[host] = types.AuthConfig{Username: "docker", Password: host} })
	if err != nil {
		t.Errorf("docker login %s: %v", host, err)
	}
}

func dockerLogout(t testing.TB, path, host string) {
	t.Helper()
	if err := dockerChange(path, func(m map[string]types.AuthConfig) { delete(m, host) }); err != nil {
		t.Errorf("docker logout %s: %v", host, err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// hosts lists the keys under "auths" as the docker CLI reads them.
func hosts(t testing.TB, path string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for key := range docker(t, text).AuthConfigs {
		keys[key] = true
	}
	return keys
}

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, name := range names {
		m[name] = true
	}
	return m
}

// noTemps holds the folder to the files named.
func noTemps(t testing.TB, folder string, want ...string) {
	t.Helper()
	list, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, entry := range list {
		got[entry.Name()] = true
	}
	if diff := cmp.Diff(set(want...), got); diff != "" {
		t.Errorf("folder %s (-want +got):\n%s", filepath.Base(folder), diff)
	}
}

const start = `{"auths":{"old":{"auth":"dTpw"},"out":{"auth":"dTpw"}},"n":1e400}`

// TestWhatComesBetweenIsKept has another program write after the document was
// read and before it is replaced, by way of edit, which runs then.
func TestWhatComesBetweenIsKept(t *testing.T) {
	const start = `{"auths":{"old":{"auth":"dTpw"},"out":{"auth":"dTpw"}}}`
	for _, c := range []struct {
		name    string
		before  string
		between func(t testing.TB, path string)
		want    map[string]bool
	}{
		{"nothing", start, func(testing.TB, string) {}, set("old", "out", "h")},
		{"login", start, func(t testing.TB, p string) { dockerLogin(t, p, "new") }, set("old", "out", "new", "h")},
		{"logout", start, func(t testing.TB, p string) { dockerLogout(t, p, "out") }, set("old", "h")},
		{"login and logout", start, func(t testing.TB, p string) { dockerLogin(t, p, "new"); dockerLogout(t, p, "out") }, set("old", "new", "h")},
		{"login to our host", start, func(t testing.TB, p string) { dockerLogin(t, p, "h") }, set("old", "out", "h")},
		{"removed", start, func(t testing.TB, p string) {
			if err := os.Remove(p); err != nil {
				t.Error(err)
			}
		}, set("h")},
		{"made", "", func(t testing.TB, p string) { dockerLogin(t, p, "new") }, set("new", "h")},
		{"emptied for good", start, func(t testing.TB, p string) { write(t, p, "") }, set("h")},
		{"rewritten in place", start, func(t testing.TB, p string) { write(t, p, `{"auths":{"new":{}}}`) }, set("new", "h")},
		{"old file moved in", start, func(t testing.TB, p string) {
			moved := p + ".bak"
			write(t, moved, `{"auths":{"new":{}}}`)
			long := time.Now().Add(-24 * time.Hour)
			if err := errors.Join(os.Chtimes(moved, long, long), os.Rename(moved, p)); err != nil {
				t.Error(err)
			}
		}, set("new", "h")},
		{"replaced by a link", start, func(t testing.TB, p string) {
			other := filepath.Join(filepath.Dir(p), "other.json")
			write(t, other, `{"auths":{"new":{}}}`)
			if err := errors.Join(os.Remove(p), os.Symlink("other.json", p)); err != nil {
				t.Error(err)
			}
		}, set("new", "h")},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.json")
			if c.before != "" {
				write(t, path, c.before)
			}
			calls := 0
			changed, err := dockerconfig.File{Path: path}.Update(t.Context(), func(doc *dockerconfig.Document) bool {
				if calls++; calls == 2 {
					c.between(t, path)
				}
				return doc.Set("h", login("robot", "s3cret"))
			})
			if err != nil || !changed {
				t.Fatalf("Update says %v, %v", changed, err)
			}
			if diff := cmp.Diff(c.want, hosts(t, path)); diff != "" {
				t.Errorf("logins (-want +got):\n%s", diff)
			}
			if c.name == "replaced by a link" {
				noTemps(t, filepath.Dir(path), "config.json", "other.json")
				return
			}
			noTemps(t, filepath.Dir(path), "config.json")
			doc, err := dockerconfig.File{Path: path}.Read()
			if err != nil {
				t.Fatal(err)
			}
			checkEntry(t, doc, "h", "robot", "s3cret")
		})
	}
}

// TestTornWriteBetweenIsKept has another program open and truncate the file in
// place, and write it in two parts after ours took its place.
func TestTornWriteBetweenIsKept(t *testing.T) {
	whole := `{"auths":{"old":{"auth":"dTpw"},"new":{"auth":"dTpw"}}}`
	for name, cut := range map[string]int{"nothing yet": 0, "one byte": 1, "half": len(whole) / 2, "all but one byte": len(whole) - 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "config.json")
			write(t, path, start)
			wrote := make(chan error, 1)
			calls := 0
			_, err := dockerconfig.File{Path: path}.Update(t.Context(), func(doc *dockerconfig.Document) bool {
				if calls++; calls == 2 {
					file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
					if err != nil {
						t.Error(err)
						return false
					}
					if _, err := file.WriteString(whole[:cut]); err != nil {
						t.Error(err)
					}
					time.AfterFunc(60*time.Millisecond, func() {
						_, err := file.WriteString(whole[cut:])
						wrote <- errors.Join(err, file.Close())
					})
				}
				return doc.Set("h", login("robot", "s3cret"))
			})
			if err != nil {
				t.Error(err)
			}
			if err := <-wrote; err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(set("old", "new", "h"), hosts(t, path)); diff != "" {
				t.Errorf("logins (-want +got):\n%s", diff)
			}
			noTemps(t, filepath.Dir(path), "config.json")
		})
	}
}

// TestTornFileIsWaitedFor finds a file that another program is just writing.
func TestTornFileIsWaitedFor(t *testing.T) {
	whole := `{"auths":{"new":{"auth":"dTpw"}}}`
	for name, cut := range map[string]int{"nothing yet": 0, "half": len(whole) / 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "config.json")
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString(whole[:cut]); err != nil {
				t.Fatal(err)
			}
			wrote := make(chan error, 1)
			time.AfterFunc(60*time.Millisecond, func() {
				_, err := file.WriteString(whole[cut:])
				wrote <- errors.Join(err, file.Close())
			})
			_, err = dockerconfig.File{Path: path}.Update(t.Context(), func(doc *dockerconfig.Document) bool {
				return doc.Set("h", login("robot", "s3cret"))
			})
			if err := errors.Join(err, <-wrote); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(set("new", "h"), hosts(t, path)); diff != "" {
				t.Errorf("logins (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFailureBetweenLosesNothing ends Update at each call of edit: what another
// program wrote must be there whether Update failed or not.
func TestFailureBetweenLosesNothing(t *testing.T) {
	for at := 1; at <= 4; at++ {
		path := filepath.Join(t.TempDir(), "config.json")
		write(t, path, start)
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		_, err := dockerconfig.File{Path: path}.Update(ctx, func(doc *dockerconfig.Document) bool {
			calls++
			if calls == 2 {
				write(t, path, `{"auths":{"new":{}}}`)
			}
			if calls == at {
				cancel()
			}
			return doc.Set("h", login("robot", "s3cret"))
		})
		cancel()
		if calls < at {
			break
		}
		got := hosts(t, path)
		if at >= 2 && (!got["new"] || got["old"]) {
			t.Errorf("ctx ended at edit %d, error %v: what another program wrote is lost: %v", at, err, got)
		}
		if err == nil && !got["h"] || err != nil && got["h"] {
			t.Errorf("ctx ended at edit %d, error %v: logins are %v", at, err, got)
		}
		noTemps(t, filepath.Dir(path), "config.json")
	}
}
