package runnerconfig_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/problem"
	document "github.com/regkeeper/regkeeper/runnerconfig"
	"github.com/regkeeper/regkeeper/target/runnerconfig"
	"github.com/regkeeper/regkeeper/target/targettest"
)

const fleet = `concurrent = 2

# one
[[runners]]
  name = "one"
  token = "glrt-1"
  environment = ["A=1"] # kept
  [runners.docker]
    image = "alpine"

[[runners]]
  name = "two"
  token = "glrt-2"
`

func write(t testing.TB, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

// split is the file and the runner of a place.
func split(place credential.Place) (path, name string) {
	path, name, _ = strings.Cut(string(place), "#")
	return path, name
}

func edit(t testing.TB, place credential.Place, change func(*document.Document, int) error) {
	t.Helper()
	path, name := split(place)
	if _, err := document.File(path, 0, nil).Update(t.Context(), func(d *document.Document) (bool, error) {
		for i, r := range d.Runners() {
			if r.Name == name {
				return true, change(d, i)
			}
		}
		return false, errors.New("there is no such runner")
	}); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	targettest.Run(t, targettest.Harness{
		New: func(t testing.TB) credential.Target {
			return runnerconfig.New(runnerconfig.Config{Path: write(t, fleet)})
		},
		Put: func(t testing.TB, place credential.Place, host credential.Host, login credential.Login) {
			edit(t, place, func(d *document.Document, i int) error {
				value, _ := d.Runners()[i].Variable(credential.AuthVariable)
				config, err := dockerconfig.Parse([]byte(value))
				if err != nil {
					return err
				}
				config.Set(host, login)
				_, err = d.SetVariable(i, credential.AuthVariable, string(config.Bytes()))
				return err
			})
		},
		Raw: func(t testing.TB, place credential.Place) []byte {
			path, _ := split(place)
			return []byte(read(t, path))
		},
		Whole: func(content []byte) error {
			_, err := document.Parse(content)
			return err
		},
		Remove: func(t testing.TB, place credential.Place) {
			edit(t, place, func(d *document.Document, i int) error { return d.Remove(i) })
		},
	})
}

func TestDeliverTouchesTheVariableAlone(t *testing.T) {
	t.Parallel()
	path := write(t, fleet)
	target := runnerconfig.New(runnerconfig.Config{Path: path, Runners: []string{"one"}})
	places, err := target.Places(t.Context())
	if err != nil || len(places) != 1 {
		t.Fatalf("places %v, %v", places, err)
	}
	logins := map[credential.Host]credential.Login{"r.example": login("u", "p"), credential.DockerHub: login("hub", "q")}
	if err := target.Deliver(t.Context(), places[0], logins); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(fleet, `["A=1"]`,
		`['DOCKER_AUTH_CONFIG={"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnE="},"r.example":{"auth":"dTpw"}}}', "A=1"]`, 1)
	if diff := cmp.Diff(want, read(t, path)); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}

func TestForeignEntriesAreKept(t *testing.T) {
	t.Parallel()
	path := write(t, `[[runners]]
name = "one"
environment = ["DOCKER_AUTH_CONFIG={\"auths\": {\"other.example\": {\"auth\": \"eDp5\"}}, \"credHelpers\": {\"aws.example\": \"ecr-login\"}}"]
`)
	target := runnerconfig.New(runnerconfig.Config{Path: path})
	place := credential.Place(path + "#one")
	if err := target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"r.example": login("u", "p")}); err != nil {
		t.Fatal(err)
	}
	text := read(t, path)
	for _, part := range []string{`"other.example": {"auth": "eDp5"}`, `"credHelpers": {"aws.example": "ecr-login"}`, `"r.example"`} {
		if !strings.Contains(text, part) {
			t.Errorf("%s is not in:\n%s", part, text)
		}
	}
	err := target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"aws.example": login("u", "p")})
	if problem.KindOf(err) != problem.Config || read(t, path) != text {
		t.Errorf("behind a helper: %v", err)
	}
	if _, err := target.Held(t.Context(), place, []credential.Host{"aws.example"}); problem.KindOf(err) != problem.Config {
		t.Errorf("behind a helper: %v", err)
	}
}

func TestRunnersWithOneName(t *testing.T) {
	t.Parallel()
	path := write(t, "[[runners]]\nname = 'x'\n[[runners]]\nname = 'x'\nenvironment = ['DOCKER_AUTH_CONFIG={\"auths\":{\"r.example\":{\"auth\":\"dTpw\"}}}']\n")
	target := runnerconfig.New(runnerconfig.Config{Path: path})
	place := credential.Place(path + "#x")
	places, err := target.Places(t.Context())
	if diff := cmp.Diff([]credential.Place{place}, places); err != nil || diff != "" {
		t.Fatalf("places %v, %v", places, err)
	}
	hosts := []credential.Host{"r.example"}
	if held, err := target.Held(t.Context(), place, hosts); err != nil || len(held) != 0 {
		t.Errorf("with a login in one of two, they hold %v, %v", held, err)
	}
	if err := target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"r.example": login("u", "p")}); err != nil {
		t.Fatal(err)
	}
	if held, err := target.Held(t.Context(), place, hosts); err != nil || !held["r.example"].Equal(login("u", "p")) {
		t.Errorf("they hold %v, %v", held, err)
	}
	if n := strings.Count(read(t, path), "dTpw"); n != 2 {
		t.Errorf("the login is there %d times", n)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	path := write(t, "[[runners]]\nname = 'x'\nenvironment = ['DOCKER_AUTH_CONFIG={s3cret']\n")
	target := runnerconfig.New(runnerconfig.Config{Path: path})
	place := credential.Place(path + "#x")
	_, held := target.Held(t.Context(), place, []credential.Host{"r.example"})
	deliver := target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"r.example": login("u", "p")})
	for name, err := range map[string]error{"Held": held, "Deliver": deliver} {
		if problem.KindOf(err) != problem.Damaged || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s with a broken variable: %v", name, err)
		}
	}
	if _, err := runnerconfig.New(runnerconfig.Config{Path: path, Runners: []string{"y"}}).Places(t.Context()); problem.KindOf(err) != problem.NotFound ||
		!strings.Contains(problem.HintOf(err), "x") {
		t.Errorf("a runner that is not there: %v", err)
	}
	if places, err := runnerconfig.New(runnerconfig.Config{Path: path + "none"}).Places(t.Context()); err != nil || len(places) != 0 {
		t.Errorf("no file: %v, %v", places, err)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	path := write(t, fleet)
	target := runnerconfig.New(runnerconfig.Config{Path: path})
	ctx, cancel := context.WithCancel(t.Context())
	heard, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- target.Watch(ctx, func(...credential.Place) { heard <- struct{}{} }) }()
	place := credential.Place(path + "#one")
	// The watch begins some time after it was asked for.
	for n := 0; len(heard) == 0; n++ {
		if n == 500 {
			t.Fatal("a change was never told of")
		}
		if err := target.Deliver(t.Context(), place, map[credential.Host]credential.Login{"r.example": login("u", fmt.Sprint(n))}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
			heard <- struct{}{}
		case <-time.After(20 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the watch ended with %v", err)
	}
	if err := runnerconfig.New(runnerconfig.Config{Path: filepath.Join(path+".none", "x")}).Watch(t.Context(), nil); problem.KindOf(err) != problem.Storage {
		t.Errorf("without a folder: %v", err)
	}
}
