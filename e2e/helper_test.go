package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/clients"
	"github.com/regkeeper/regkeeper/e2e/peers/distribution"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/state"
)

// helperBinary is the credential helper as its users build it, beside regkeeper.
var helperBinary = sync.OnceValues(func() (string, error) {
	beside, err := binary()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(beside), "docker-credential-regkeeper")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./cmd/docker-credential-regkeeper")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build docker-credential-regkeeper: %w: %s", err, out)
	}
	return path, nil
})

// puller is who runs clients: a home folder, and programs on a PATH. Nothing tells the
// clients of a file with logins.
type puller struct {
	t         testing.TB
	home, bin string
	docker    *docker.Daemon
}

func (u *puller) run(ctx context.Context, in string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = u.home
	cmd.Env = append(u.docker.Env(), "PATH="+u.bin+":"+os.Getenv("PATH"), "HOME="+u.home, "XDG_RUNTIME_DIR="+filepath.Join(u.home, "run"))
	cmd.Stdin = strings.NewReader(in)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := process.Run(ctx, cmd); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", args[0], err, out.String())
	}
	return out.String(), nil
}

// pulls are the clients, by name: each pulls an image anew.
func (u *puller) pulls() map[string]func(ref string) error {
	u.t.Helper()
	peers.Need(u.t, "docker", "podman", "skopeo")
	crane := build.Go(u.t, clients.CraneTool).Path
	run := func(args ...string) error {
		_, err := u.run(u.t.Context(), "", args...)
		return err
	}
	// podman takes no long names of folders.
	store, err := os.MkdirTemp("", "rk")
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { os.RemoveAll(store) })
	podman := func(args ...string) error {
		return run(append([]string{
			"podman", "--root=" + filepath.Join(store, "root"), "--runroot=" + filepath.Join(store, "run"),
			"--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none",
		}, args...)...)
	}
	return map[string]func(ref string) error{
		"docker": func(ref string) error {
			_ = run("docker", "rmi", "--force", ref) // there may be none
			return run("docker", "pull", ref)
		},
		"podman": func(ref string) error {
			return errors.Join(podman("rmi", "--all", "--force"), podman("pull", "--tls-verify=false", ref))
		},
		"skopeo": func(ref string) error {
			return run("skopeo", "copy", "--src-tls-verify=false", "docker://"+ref, "dir:"+u.t.TempDir())
		},
		"crane": func(ref string) error { return run(crane, "pull", ref, filepath.Join(u.t.TempDir(), "image.tar")) },
	}
}

// filesOf are the contents and times of all files in folders.
func filesOf(t testing.TB, folders ...string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			text, err := os.ReadFile(path)
			files[path] = info.ModTime().String() + "\n" + string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// Every client pulls a private image by the helper alone, through a rotation that
// writes no file of the clients', and a public image of another registry; whether
// regkeeper runs or not.
func TestHelperWithClients(t *testing.T) {
	t.Parallel()
	own, err := helperBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := newProduct(t, "")
	served := serveEmbedded(t, p.data())
	host := credential.Host(served.host)
	public := distribution.Start(t, distribution.Options{})
	ref, open := served.host+"/team/app:v1", public.Host+"/open/app:v1"
	pushSmall(t, ref, served.pusher)
	pushSmall(t, open, authn.Anonymous)
	p.configure(fmt.Sprintf(`registries:
  - host: %q
    source: {builtin: {}}
    scopes: [pull]
    rotate: {every: 30d, overlap: 400ms}
serve:
  health: {listen: "127.0.0.1:0"}
`, served.host))
	p.must("sync")

	u := &puller{t: t, home: p.home, bin: filepath.Join(t.TempDir(), "bin"), docker: docker.Start(t)}
	config := filepath.Join(p.home, ".docker", "config.json")
	if err := os.MkdirAll(filepath.Join(p.home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	// A stale login is there, and the helper is named for a registry that regkeeper
	// does not keep, too.
	before := fmt.Sprintf(`{"auths": {%q: {"auth": "c3RhbGU6c3RhbGU="}}, "credHelpers": {%q: "regkeeper"}}`, served.host, public.Host)
	writeText(t, config, before)
	p.must("install", "helper", "--write", "--registry", served.host, "--bin", u.bin, "--consumer-path", u.bin)
	if link, err := os.Readlink(filepath.Join(u.bin, filepath.Base(own))); err != nil || link != own {
		t.Errorf("the program is linked to %q, %v", link, err)
	}

	pulls := u.pulls()
	all := func(when string) {
		t.Helper()
		for name, pull := range pulls {
			if err := pull(ref); err != nil {
				t.Errorf("%s, %s, private: %v", when, name, err)
			}
			if err := pull(open); err != nil {
				t.Errorf("%s, %s, public: %v", when, name, err)
			}
		}
	}
	current := func() *state.Credential {
		t.Helper()
		doc, err := state.Read(p.data())
		if err != nil {
			t.Fatal(err)
		}
		return doc.Registries[host].Current
	}
	all("at first")

	first := current()
	files := filesOf(t, filepath.Dir(config), filepath.Join(p.home, ".config"))
	p.must("rotate")
	p.settled(time.Minute)
	all("after a rotation")
	if now := current(); now.ID == first.ID {
		t.Errorf("nothing was rotated")
	}
	wantRefused(t, &authn.Basic{Username: first.Username, Password: first.Secret.Reveal()}, ref)
	if diff := cmp.Diff(files, filesOf(t, filepath.Dir(config), filepath.Join(p.home, ".config"))); diff != "" {
		t.Errorf("files of the clients were written:\n%s", diff)
	}

	// docker login and logout do not touch the login.
	out, err := u.run(t.Context(), served.pusher.Password, "docker", "login", "--username", served.pusher.Username, "--password-stdin", served.host)
	if err == nil || !strings.Contains(out, "nothing was stored") || strings.Contains(out, served.pusher.Password) {
		t.Errorf("docker login: %v, %s", err, out)
	}
	if out, err := u.run(t.Context(), "", "docker", "login", served.host); err != nil || !strings.Contains(out, "Login Succeeded") {
		t.Errorf("docker login with the login in force: %v, %s", err, out)
	}
	_, _ = u.run(t.Context(), "", "docker", "logout", served.host)
	all("after docker logout")

	// A daemon whose state is elsewhere is asked: here it is reached from a folder
	// that has nothing but the socket.
	daemon := p.up()
	elsewhere, err := os.MkdirTemp("", "rk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(elsewhere) })
	if err := os.Symlink(filepath.Join(p.data(), "control.sock"), filepath.Join(elsewhere, "control.sock")); err != nil {
		t.Fatal(err)
	}
	ask := func(folder string) (string, error) {
		return u.run(t.Context(), served.host, "env", "REGKEEPER_DATA="+folder, own, "get")
	}
	told, err := ask(elsewhere)
	if atRest, restErr := ask(p.data()); err != nil || restErr != nil || told != atRest || !strings.Contains(told, current().Secret.Reveal()) {
		t.Errorf("the daemon and the folder tell different logins: %v, %v", err, restErr)
	}
	daemon.Stop()
	if told, err := ask(elsewhere); err == nil || !strings.Contains(told, "no daemon runs") {
		t.Errorf("without the daemon: %v, %s", err, told)
	}

	// What is wrong is told by the clients that tell such things.
	if err := os.Rename(p.data(), p.data()+".away"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"podman", "skopeo", "crane"} {
		if err := pulls[name](ref); err == nil || !strings.Contains(err.Error(), "does not exist") {
			t.Errorf("%s without the data folder: %v", name, err)
		}
	}
	if err := os.Rename(p.data()+".away", p.data()); err != nil {
		t.Fatal(err)
	}

	// Without the helper nobody pulls.
	p.must("install", "helper", "--remove", "--write")
	for name, pull := range pulls {
		refused(t, name+", helper removed", pull(ref))
		if err := pull(open); err != nil {
			t.Errorf("%s, helper removed, public: %v", name, err)
		}
	}
}
