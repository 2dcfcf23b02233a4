package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/clients"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/keeper"
)

// owner owns the private images of the tests.
const owner = "acme"

func basic(username, password string) *authn.Basic {
	return &authn.Basic{Username: username, Password: password}
}

// giteaSource is a configuration's source at a server.
func giteaSource(server *gitea.Server, user, password string) string {
	return fmt.Sprintf("gitea: {url: %q, user: %s, password: %s}", server.URL, user, password)
}

// account is a user of a Gitea, with a private image.
type account struct {
	*gitea.Server
	t        testing.TB
	name     string
	password string
	ref      string
}

func newAccount(t testing.TB, server *gitea.Server, name string) account {
	t.Helper()
	a := account{server, t, name, server.CreateUser(name), server.Host + "/" + name + "/app:v1"}
	_, token := server.CreateToken(name, a.password, "pusher", "write:package")
	pushSmall(t, a.ref, basic(name, token))
	return a
}

// owned lists the names of the tokens with a mark.
func (a account) owned(mark credential.Mark) (names []string) {
	a.t.Helper()
	for _, token := range a.ListTokens(a.name, a.password) {
		if mark.Owns(token.Name) {
			names = append(names, token.Name)
		}
	}
	return names
}

// forget deletes all tokens with a mark, as an administrator might.
func (a account) forget(mark credential.Mark) {
	a.t.Helper()
	for _, name := range a.owned(mark) {
		if _, err := a.Client(a.name, a.password).DeleteAccessToken(name); err != nil {
			a.t.Fatal(err)
		}
	}
}

// wantForce wants the login that status names to be the only one with our mark.
func (a account) wantForce(p *product) {
	a.t.Helper()
	current := p.status().Registries[0].Credential
	if diff := cmp.Diff([]string{current}, a.owned(p.mark(a.Host))); diff != "" {
		a.t.Errorf("tokens at Gitea (-want +got):\n%s", diff)
	}
}

func wantLogin(t testing.TB, path, host, ref string) *authn.Basic {
	t.Helper()
	login, err := loginIn(path, host)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := accepted(t.Context(), ref, login, http.DefaultTransport); err != nil || !ok {
		t.Errorf("the delivered login is accepted: %v, %v", ok, err)
	}
	return login
}

func wantRefused(t testing.TB, login *authn.Basic, ref string) {
	t.Helper()
	if ok, err := accepted(t.Context(), ref, login, http.DefaultTransport); err != nil || ok {
		t.Errorf("a login that is to be refused is accepted: %v, %v", ok, err)
	}
}

func TestGiteaMintDeliverRotate(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	table := clients.All(t, docker.Start(t))
	a := newAccount(t, server, owner)
	file := filepath.Join(t.TempDir(), "runner", ".docker", "config.json")
	registry := kept{host: server.Host, source: giteaSource(server, owner, "{env: GITEA_PASSWORD}"), overlap: "400ms"}
	p := newProduct(t, configText([]kept{registry}, "", file), "GITEA_PASSWORD="+a.password)
	none := writeConfig(t, server.Host, owner, "")

	pulls := func(path string) {
		t.Helper()
		for _, client := range table {
			if err := client.Pull(t.Context(), a.ref, path); err != nil {
				t.Errorf("%s: %v", client.Name, err)
			}
		}
	}

	result := decode[keeper.Result](t, p.must("sync", "-o", "json"))
	var actions []string
	for _, step := range result.Done {
		actions = append(actions, string(step.Action))
	}
	if diff := cmp.Diff([]string{"mint", "deliver"}, actions); diff != "" {
		t.Errorf("first pass (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("delivered file: %v, %v", info, err)
	}
	first := wantLogin(t, file, server.Host, a.ref)
	pulls(file)
	for _, client := range table {
		refused(t, "none", client.Pull(t.Context(), a.ref, none))
	}
	status := p.status()
	if !status.Ready || status.Registries[0].Phase != keeper.OK || status.Targets[0].Path != file || status.Targets[0].Verified == nil {
		t.Errorf("status after the first pass: %+v", status)
	}
	a.wantForce(p)
	if out := p.must("sync"); !strings.Contains(out, "nothing to do") {
		t.Errorf("a second pass:\n%s", out)
	}
	scopes := map[string]string{}
	for _, token := range server.ListTokens(owner, a.password) {
		scopes[token.Name] = fmt.Sprint(token.Scopes)
	}
	if got := scopes[status.Registries[0].Credential]; got != "[read:package]" {
		t.Errorf("scopes of the minted token: %s, want [read:package]", got)
	}

	p.must("rotate")
	second := wantLogin(t, file, server.Host, a.ref)
	if second.Password == first.Password {
		t.Error("rotate delivered the same login")
	}
	if ok, err := accepted(t.Context(), a.ref, first, http.DefaultTransport); !ok {
		t.Errorf("the old login is refused within the overlap: %v", err)
	}
	p.settled(20 * time.Second)
	a.wantForce(p)
	wantRefused(t, first, a.ref)
	pulls(file)
	old := writeConfig(t, server.Host, first.Username, first.Password)
	for _, client := range table {
		refused(t, "replaced", client.Pull(t.Context(), a.ref, old))
	}

	// A login that may only read does not push; one with the scope push does.
	for _, client := range table {
		refused(t, "pull only", client.Push(t.Context(), server.Host+"/"+owner+"/"+client.Name+":v1", file))
	}
	registry.scopes = "pull, push"
	p.configure(configText([]kept{registry}, "", file))
	p.must("sync")
	for _, client := range table {
		ref := server.Host + "/" + owner + "/" + client.Name + ":v1"
		if err := client.Push(t.Context(), ref, file); err != nil {
			t.Errorf("%s: %v", client.Name, err)
		}
		if err := client.Pull(t.Context(), ref, file); err != nil {
			t.Errorf("%s: %v", client.Name, err)
		}
	}
	p.settled(20 * time.Second)
	a.wantForce(p)
	wantRefused(t, second, a.ref)
}

// The document's mistake: a token without a package scope.
func TestGiteaWrongScope(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	a := newAccount(t, server, owner)
	id, narrow := server.CreateToken(owner, a.password, "narrow", "read:user", "read:repository")
	_, reader := server.CreateToken(owner, a.password, "reader", "read:package")
	file := filepath.Join(t.TempDir(), "config.json")
	secret := filepath.Join(t.TempDir(), "token")
	write := func(token string) { writeText(t, secret, token+"\n") }
	source := fmt.Sprintf("static: {username: %s, password: {file: %q}}", owner, secret)
	for _, probe := range []string{"", a.ref} {
		write(narrow)
		p := newProduct(t, configText([]kept{{host: server.Host, source: source, probe: probe}}, "", file))
		got := p.fails(5, []string{"read:package"}, "sync")
		t.Logf("probe %q: %s", probe, got.err)
		if strings.Contains(got.err+got.out, narrow) {
			t.Error("the token is in the output")
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("something was delivered: %v", err)
		}
		if status := p.status(); status.Ready || status.Registries[0].Phase != keeper.Failed || status.Registries[0].Hint == "" {
			t.Errorf("status: %+v", status)
		}
		// A token with the scope in its place is taken up at the next pass.
		write(reader)
		p.must("sync")
		wantLogin(t, file, server.Host, a.ref)
		// Later the wrong one again: the good one stays delivered.
		write(narrow)
		p.fails(5, []string{"read:package"}, "sync")
		wantLogin(t, file, server.Host, a.ref)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	// A reader where push was asked for.
	write(reader)
	p := newProduct(t, configText([]kept{{host: server.Host, source: source, scopes: "pull, push"}}, "", file))
	got := p.fails(5, []string{"write:package"}, "sync")
	t.Log(got.err)
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("something was delivered: %v", err)
	}
	server.DeleteToken(owner, a.password, id)
}

func TestGiteaTokenDeletedBehindOurBack(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	a := newAccount(t, server, owner)
	file := filepath.Join(t.TempDir(), "config.json")
	registry := kept{host: server.Host, source: giteaSource(server, owner, "{env: GITEA_PASSWORD}"), overlap: "400ms"}
	text := configText([]kept{registry}, "", file) + "resync: 1s\n"
	p := newProduct(t, text, "GITEA_PASSWORD="+a.password)

	p.must("sync")
	first := wantLogin(t, file, server.Host, a.ref)
	a.forget(p.mark(server.Host))
	wantRefused(t, first, a.ref)
	p.must("sync")
	second := wantLogin(t, file, server.Host, a.ref)
	if err := pullAll(t.Context(), file, a.ref, http.DefaultTransport); err != nil {
		t.Errorf("pull with the new login: %v", err)
	}
	p.settled(20 * time.Second)
	a.wantForce(p)

	daemon := p.up()
	a.forget(p.mark(server.Host))
	wantRefused(t, second, a.ref)
	began := time.Now()
	eventually(t, 10*time.Second, "the daemon to replace the login", func() error {
		return pullAll(t.Context(), file, a.ref, http.DefaultTransport)
	})
	t.Logf("the daemon replaced the login after %v, with a resync of 1s", time.Since(began).Round(time.Millisecond))
	eventually(t, 10*time.Second, "one login at Gitea", func() error {
		if owned := a.owned(p.mark(server.Host)); len(owned) != 1 {
			return fmt.Errorf("tokens: %q", owned)
		}
		return nil
	})
	daemon.Stop()
	a.wantForce(p)
}

func TestGiteaWrongPassword(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	a := newAccount(t, server, owner)
	file := filepath.Join(t.TempDir(), "config.json")
	secret := filepath.Join(t.TempDir(), "password")
	write := func(password string) { writeText(t, secret, password) }
	registry := kept{host: server.Host, source: giteaSource(server, owner, fmt.Sprintf("{file: %q}", secret)), overlap: "400ms"}
	p := newProduct(t, configText([]kept{registry}, "", file))
	write("not-the-password")
	got := p.fails(5, []string{owner, "password"}, "sync")
	t.Log(got.err)
	if strings.Contains(got.err+got.out, "not-the-password") {
		t.Error("the password is in the output")
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("something was delivered: %v", err)
	}
	write(a.password)
	p.must("sync")
	good := wantLogin(t, file, server.Host, a.ref)

	// The password is changed behind our back: the login in force outlives it.
	write("not-the-password")
	p.fails(5, []string{owner, "password"}, "rotate")
	if now := wantLogin(t, file, server.Host, a.ref); *now != *good {
		t.Error("a rotation that failed changed the delivered login")
	}
	p.must("sync")
	write(a.password)
	p.must("rotate")
	p.settled(20 * time.Second)
	a.wantForce(p)
	wantLogin(t, file, server.Host, a.ref)
}

func TestGiteaOutage(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	a := newAccount(t, server, owner)
	file := filepath.Join(t.TempDir(), "config.json")
	registry := kept{host: server.Host, source: giteaSource(server, owner, "{env: GITEA_PASSWORD}"), overlap: "400ms"}
	p := newProduct(t, configText([]kept{registry}, "", file)+"resync: 1s\n", "GITEA_PASSWORD="+a.password)
	p.must("sync")
	good := wantLogin(t, file, server.Host, a.ref)

	server.Stop()
	for _, command := range []string{"sync", "rotate"} {
		got := p.fails(6, []string{server.Host, "check that"}, command)
		t.Logf("%s: %s", command, got.err)
	}
	if now, err := loginIn(file, server.Host); err != nil || *now != *good {
		t.Errorf("the delivered login changed during the outage: %v", err)
	}
	fresh := newProduct(t, configText([]kept{registry}, "", filepath.Join(t.TempDir(), "config.json")), "GITEA_PASSWORD="+a.password)
	fresh.fails(6, []string{server.Host}, "sync")

	server.Restart()
	p.must("sync")
	if now := wantLogin(t, file, server.Host, a.ref); *now != *good {
		t.Error("the login changed though the old one is good")
	}
	p.must("rotate")
	p.settled(20 * time.Second)
	a.wantForce(p)
	wantRefused(t, good, a.ref)

	// The same for a daemon.
	daemon := p.up()
	second := wantLogin(t, file, server.Host, a.ref)
	server.Stop()
	p.fails(6, []string{server.Host}, "rotate")
	if status := p.status(); status.Ready || status.Registries[0].Phase != keeper.Failed || status.Registries[0].Problem == "" {
		t.Errorf("status during the outage: %+v", status)
	}
	if now, err := loginIn(file, server.Host); err != nil || *now != *second {
		t.Errorf("the delivered login changed during the outage: %v", err)
	}
	server.Restart()
	eventually(t, 30*time.Second, "the daemon to recover", func() error {
		if status := p.status(); !status.Ready {
			return fmt.Errorf("status: %+v", status)
		}
		return nil
	})
	wantLogin(t, file, server.Host, a.ref)
	daemon.Stop()
	p.settled(20 * time.Second)
	a.wantForce(p)
}
