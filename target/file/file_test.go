package file_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/file"
	"github.com/regkeeper/regkeeper/target/targettest"
)

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

// put has another program write, as the docker CLI does: a new file takes the
// place of the old.
func put(t testing.TB, place credential.Place, host credential.Host, l credential.Login) {
	t.Helper()
	path := string(place)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	doc, err := dockerconfig.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	doc.Set(host, l)
	must(t, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+"123", doc.Bytes(), 0o600), os.Rename(path+"123", path))
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestTarget(t *testing.T) {
	for name, paths := range map[string][]string{
		"paths":    {"a/config.json", "b/.docker/config.json", "config.json"},
		"patterns": {"home/*/.docker/config.json"},
	} {
		t.Run(name, func(t *testing.T) {
			targettest.Run(t, targettest.Harness{
				New: func(t testing.TB) credential.Target {
					folder := t.TempDir()
					must(t, os.MkdirAll(filepath.Join(folder, "home/ann"), 0o700), os.MkdirAll(filepath.Join(folder, "home/bob"), 0o700))
					var all []string
					for _, path := range paths {
						all = append(all, filepath.Join(folder, path))
					}
					return file.New(file.Config{Paths: all})
				},
				Put: put,
				Raw: func(t testing.TB, place credential.Place) []byte {
					text, err := os.ReadFile(string(place))
					if err != nil {
						t.Error(err)
					}
					return text
				},
				Whole: func(text []byte) error {
					_, err := dockerconfig.Parse(text)
					return err
				},
				Remove: func(t testing.TB, place credential.Place) { must(t, os.RemoveAll(filepath.Dir(string(place)))) },
			})
		})
	}
}

func TestPlaces(t *testing.T) {
	folder := t.TempDir()
	for _, path := range []string{"home/ann", "home/bob/.docker", "home/.hidden", "srv/runner-1/work", "srv/runner-2/work", "srv/other"} {
		must(t, os.MkdirAll(filepath.Join(folder, path), 0o700))
	}
	must(t, os.WriteFile(filepath.Join(folder, "home/file"), nil, 0o600), os.WriteFile(filepath.Join(folder, "srv/a.json"), nil, 0o600),
		os.Symlink("ann", filepath.Join(folder, "home/link")), os.Symlink("none", filepath.Join(folder, "home/dangling")))
	for _, c := range []struct {
		name  string
		paths []string
		want  []string
	}{
		{"none", nil, nil},
		{"plain", []string{"x/config.json"}, []string{"x/config.json"}},
		{"unclean and doubled", []string{"x//y/../config.json", "x/config.json"}, []string{"x/config.json"}},
		{"homes", []string{"home/*/.docker/config.json"},
			[]string{"home/.hidden/.docker/config.json", "home/ann/.docker/config.json", "home/bob/.docker/config.json", "home/link/.docker/config.json"}},
		{"part of a name", []string{"srv/runner-?/work/.docker/config.json"}, []string{"srv/runner-1/work/.docker/config.json", "srv/runner-2/work/.docker/config.json"}},
		{"class", []string{"srv/runner-[2-9]/config.json"}, []string{"srv/runner-2/config.json"}},
		{"two patterns", []string{"*/runner-*/config.json"}, []string{"srv/runner-1/config.json", "srv/runner-2/config.json"}},
		{"in the file's name", []string{"srv/*.json"}, []string{"srv/a.json"}},
		{"nothing matches", []string{"none/*/config.json"}, nil},
		{"pattern and path overlap", []string{"srv/runner-1/config.json", "srv/runner-*/config.json"}, []string{"srv/runner-1/config.json", "srv/runner-2/config.json"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var paths, got []string
			for _, path := range c.paths {
				paths = append(paths, folder+"/"+path)
			}
			places, err := file.New(file.Config{Paths: paths}).Places(t.Context())
			must(t, err)
			for _, place := range places {
				rel, err := filepath.Rel(folder, string(place))
				must(t, err)
				got = append(got, rel)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("places (-want +got):\n%s", diff)
			}
		})
	}
	_, err := file.New(file.Config{Paths: []string{folder + "/[/config.json"}}).Places(t.Context())
	if problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
		t.Errorf("a broken pattern gives %v of kind %s", err, problem.KindOf(err))
	}
}

func TestHelperInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	target := file.New(file.Config{Paths: []string{path}})
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{`{"credsStore":"desktop"}`, false},
		{`{"credHelpers":{"h":"gcloud"}}`, false},
		{`{"credsStore":"desktop","credHelpers":{"h":""}}`, true},
		{`{"credHelpers":{"other":"gcloud"}}`, true},
	} {
		must(t, os.WriteFile(path, []byte(c.text), 0o600))
		_, err := target.Held(t.Context(), credential.Place(path), []credential.Host{"h"})
		if c.ok != (err == nil) {
			t.Errorf("%s: Held says %v", c.text, err)
		}
		if err != nil && (problem.KindOf(err) != problem.Config || !strings.Contains(problem.HintOf(err), `"credHelpers": {"h": ""}`)) {
			t.Errorf("%s: error has kind %s and hint %q", c.text, problem.KindOf(err), problem.HintOf(err))
		}
	}
}

func TestModeAndOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x", "config.json")
	config := file.Config{Paths: []string{path}, Mode: 0o640}
	if os.Geteuid() == 0 {
		config.Owner = &dockerconfig.Owner{UID: 12345, GID: 12346}
	}
	must(t, file.New(config).Deliver(t.Context(), credential.Place(path), map[credential.Host]credential.Login{"h": login("u", "p")}))
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v", info.Mode())
	}
	checkOwner(t, config.Owner, path, filepath.Dir(path))
}

// watch starts a watch and returns its calls.
func watch(t *testing.T, paths ...string) (calls <-chan []credential.Place) {
	t.Helper()
	return watchWith(t, func() {}, paths...)
}

func watchWith(t *testing.T, during func(), paths ...string) <-chan []credential.Place {
	t.Helper()
	calls := make(chan []credential.Place, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- file.New(file.Config{Paths: paths}).Watch(ctx, func(places ...credential.Place) {
			during()
			calls <- places
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Watch ends with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Watch does not end with its context")
		}
	})
	return calls
}

// untilSeen repeats a change until the watch tells of one: there is no telling
// when it has begun.
func untilSeen(t *testing.T, calls <-chan []credential.Place, change func()) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		change()
		select {
		case <-calls:
			quiet(t, calls)
			return
		case <-deadline:
			t.Fatal("a change is not seen")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// quiet waits until the watch has nothing more to tell, and fails if it never
// stops.
func quiet(t *testing.T, calls <-chan []credential.Place) {
	t.Helper()
	for range 50 {
		select {
		case <-calls:
		case <-time.After(80 * time.Millisecond):
			return
		}
	}
	t.Fatal("the watch never gets quiet")
}

// seen waits for one call.
func seen(t *testing.T, calls <-chan []credential.Place, what string) {
	t.Helper()
	select {
	case <-calls:
		quiet(t, calls)
	case <-time.After(10 * time.Second):
		t.Fatalf("%s is not seen", what)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "config.json")
	place := credential.Place(path)
	calls := watch(t, path)
	untilSeen(t, calls, func() { put(t, place, "h", login("docker", time.Now().String())) })

	put(t, place, "h", login("docker", "renamed"))
	seen(t, calls, "a rename")
	must(t, os.WriteFile(path, []byte("{}"), 0o600))
	seen(t, calls, "a write in place")
	must(t, os.Remove(path))
	seen(t, calls, "a removal")
	target := file.New(file.Config{Paths: []string{path}})
	must(t, target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"h": login("u", "p")}))
	seen(t, calls, "a delivery")

	// Neither a neighbour, nor temporary files, nor a delivery of the same.
	must(t, os.WriteFile(filepath.Join(folder, "other.json"), []byte("{}"), 0o600), os.WriteFile(filepath.Join(folder, ".config.json.regkeeper-1-2"), nil, 0o600),
		os.Remove(filepath.Join(folder, ".config.json.regkeeper-1-2")), os.Chmod(path, 0o644))
	must(t, target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"h": login("u", "p")}))
	select {
	case <-calls:
		t.Error("the watch tells of what is no change")
	case <-time.After(80 * time.Millisecond):
	}
}

// TestWatchAndDeliver is what a daemon does: it delivers whenever it is told.
func TestWatchAndDeliver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), ".docker", "config.json")
	place := credential.Place(path)
	target := file.New(file.Config{Paths: []string{path}})
	want := login("u", "p")
	calls := watchWith(t, func() {
		if err := target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"h": want}); err != nil {
			t.Error(err)
		}
	}, path)
	untilSeen(t, calls, func() { put(t, place, "h", login("docker", time.Now().String())) })
	put(t, place, "h", login("docker", "took it out"))
	seen(t, calls, "docker's write")
	if held, err := target.Held(t.Context(), place, []credential.Host{"h"}); err != nil || !held["h"].Equal(want) {
		t.Errorf("the place holds %v, %v", held, err)
	}
}

func TestWatchFolderThatComes(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	path := filepath.Join(home, "a", "b", "config.json")
	calls := watch(t, path)
	untilSeen(t, calls, func() {
		must(t, os.RemoveAll(filepath.Join(home, "a")), os.MkdirAll(filepath.Join(home, "a"), 0o700))
	})
	must(t, os.Mkdir(filepath.Join(home, "a", "b"), 0o700))
	seen(t, calls, "the folder")
	put(t, credential.Place(path), "h", login("u", "p"))
	seen(t, calls, "the file")
	must(t, os.RemoveAll(filepath.Join(home, "a")))
	seen(t, calls, "the removal")
	put(t, credential.Place(path), "h", login("u", "p"))
	seen(t, calls, "the file made again with its folders")
}

// TestWatchMissesNothingWhileToldOf writes the file while the watcher's caller
// is told of its folder.
func TestWatchMissesNothingWhileToldOf(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	path := filepath.Join(home, ".docker", "config.json")
	wrote := false
	calls := watchWith(t, func() {
		if _, err := os.Stat(filepath.Dir(path)); err == nil && !wrote {
			wrote = true
			put(t, credential.Place(path), "h", login("u", "p"))
		}
	}, path)
	deadline := time.After(10 * time.Second)
	for told := 0; told < 2; {
		if told == 0 {
			_ = os.Remove(filepath.Dir(path))
			_ = os.Mkdir(filepath.Dir(path), 0o700)
		}
		select {
		case <-calls:
			if _, err := os.Stat(path); err == nil {
				told++
			}
		case <-time.After(200 * time.Millisecond):
			if told == 1 {
				t.Fatal("the file written during the first call is not seen")
			}
		case <-deadline:
			t.Fatal("nothing is seen")
		}
	}
}

func TestWatchLinks(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	must(t, os.Mkdir(filepath.Join(folder, "here"), 0o700), os.Mkdir(filepath.Join(folder, "there"), 0o700))
	path, end := filepath.Join(folder, "here", "config.json"), filepath.Join(folder, "there", "real.json")
	must(t, os.Symlink("../there/real.json", path))
	calls := watch(t, path)
	untilSeen(t, calls, func() { put(t, credential.Place(end), "h", login("u", time.Now().String())) })
	put(t, credential.Place(end), "h", login("u", "again"))
	seen(t, calls, "a change of what the link leads to")
	must(t, os.Remove(end))
	seen(t, calls, "its removal")
	put(t, credential.Place(end), "h", login("u", "back"))
	seen(t, calls, "its return")
	must(t, os.WriteFile(path+"123", []byte("{}"), 0o600), os.Rename(path+"123", path))
	seen(t, calls, "a file in the link's place")
	put(t, credential.Place(path), "h", login("u", "p"))
	seen(t, calls, "a change of that file")
}

func TestWatchManyPlaces(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(folder, "home/ann"), 0o700), os.MkdirAll(filepath.Join(folder, "home/bob"), 0o700))
	calls := watch(t, filepath.Join(folder, "home/*/.docker/config.json"))
	for _, home := range []string{"ann", "bob"} {
		place := credential.Place(filepath.Join(folder, "home", home, ".docker/config.json"))
		untilSeen(t, calls, func() { put(t, place, "h", login("u", time.Now().String())) })
		put(t, place, "h", login("u", "p"))
		seen(t, calls, home)
	}
}
