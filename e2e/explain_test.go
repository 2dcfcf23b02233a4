package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	sdk "code.gitea.io/sdk/gitea"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/clients"
	"github.com/regkeeper/regkeeper/e2e/peers/distribution"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/e2e/peers/runner"
	"github.com/regkeeper/regkeeper/explain"
	mounts "github.com/regkeeper/regkeeper/explain/place"
	"github.com/regkeeper/regkeeper/registry/trial"
)

// failure is a real client that does not get an image, or gets it for a reason to
// know of, and what is said of it.
type failure struct {
	name string
	// client is who pulls, in the words of package consumer.
	client, image string
	// config is the config.json that it reads, env what is in its environment.
	config string
	env    map[string]string
	// pull has the client pull; its error holds what it printed.
	pull func() error
	// prints is a piece of what the client prints; empty for a pull that passes.
	prints string
	facts  explain.Facts
	trier  trial.Config
	plain  bool
	want   []explain.Code
}

// check has the client fail, and explains it.
func (f failure) check(t *testing.T) {
	t.Helper()
	switch err := f.pull(); {
	case err == nil && f.prints != "":
		t.Errorf("%s: the client got it, want %q", f.name, f.prints)
	case err != nil && f.prints == "":
		t.Errorf("%s: the client did not get it: %v", f.name, err)
	case err != nil && !strings.Contains(err.Error(), f.prints):
		t.Errorf("%s: the client says %v, want %q", f.name, err, f.prints)
	case err != nil:
		t.Logf("%s: %s says: %s", f.name, f.client, strings.TrimSpace(err.Error()))
	}
	var got []explain.Code
	for _, d := range explained(t, f) {
		got = append(got, d.Code)
		t.Logf("%s: %s %s: %s\n    cure: %s\n    %s", f.name, d.Severity, d.Code, d.Cause, d.Cure, strings.Join(d.Evidence, "\n    "))
	}
	if diff := cmp.Diff(f.want, got); diff != "" {
		t.Errorf("%s: diagnoses (-want +got):\n%s", f.name, diff)
	}
}

// explained is what regkeeper makes of it.
func explained(t *testing.T, f failure) []explain.Diagnosis {
	t.Helper()
	c, err := consumer.Find(f.client)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"DOCKER_CONFIG": filepath.Dir(f.config)}
	maps.Copy(env, f.env)
	decision, err := c.Decide(f.image, consumer.Surroundings{
		Env: env, Home: t.TempDir(), ReadFile: os.ReadFile, Helpers: realHelpers{t},
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.facts.Trials, err = trial.New(f.trier).TryAll(t.Context(), decision, trial.Options{Plain: f.plain}); err != nil {
		t.Fatal(err)
	}
	return explain.Diagnose(decision, f.facts)
}

// realHelpers runs the programs.
type realHelpers struct{ t *testing.T }

func (h realHelpers) Get(name, server string) (string, string, error) {
	cmd := exec.Command("docker-credential-"+name, "get")
	cmd.Stdin = strings.NewReader(server)
	_, err := process.Output(h.t.Context(), cmd)
	return "", "", err
}

func (realHelpers) List(string) ([]string, error) { return nil, errors.New("not asked") }

// visible sets who may see a user's packages: everybody or the user alone.
func visible(t *testing.T, server *gitea.Server, user string, to sdk.VisibleType) {
	t.Helper()
	if _, err := server.Client(server.Admin, server.Password).AdminEditUser(user, sdk.EditUserOption{LoginName: user, Visibility: &to}); err != nil {
		t.Fatal(err)
	}
}

// Each refusal of a real Gitea, as the docker CLI prints it, and what it means.
// What Gitea says as reqPackageAccess is printed so by daemons of our time; Debian's
// 20.10 makes "authentication required" of it.
func TestExplainGitea(t *testing.T) {
	t.Parallel()
	server, daemon := gitea.Start(t), docker.Start(t)
	a := newAccount(t, server, owner)
	stranger := server.CreateUser("stranger")
	visible(t, server, owner, sdk.VisibleTypePrivate)
	_, reader := server.CreateToken(owner, a.password, "reader", "read:package")
	_, narrow := server.CreateToken(owner, a.password, "narrow", "read:user", "read:repository")
	deletedID, deleted := server.CreateToken(owner, a.password, "deleted", "read:package")
	_, foreign := server.CreateToken("stranger", stranger, "reader", "read:package")
	old := giteaRegistryToken(t, server, owner, deleted)
	server.DeleteToken(owner, a.password, deletedID)
	registryToken := writeConfig(t, server.Host, "", "")
	writeText(t, registryToken, fmt.Sprintf(`{"auths":{%q:{"registrytoken":%q}}}`, server.Host, old))

	client := clients.Docker(t, daemon)
	t.Log(client.Version(), "against Gitea", server.Version)
	for _, f := range []failure{
		{name: "works", image: a.ref, config: writeConfig(t, server.Host, owner, reader), want: []explain.Code{"login-works"}},
		{
			name: "wrong token", image: a.ref, config: writeConfig(t, server.Host, owner, wrong),
			prints: "unauthorized", want: []explain.Code{"gitea-token-wrong"},
		},
		{
			name: "deleted token", image: a.ref, config: writeConfig(t, server.Host, owner, deleted),
			prints: "unauthorized", want: []explain.Code{"gitea-token-wrong"},
		},
		{
			name: "registry token of a deleted token", image: a.ref, config: registryToken,
			want: []explain.Code{"gitea-token-outlives-revocation"},
		},
		{
			name: "no package scope", image: a.ref, config: writeConfig(t, server.Host, owner, narrow),
			prints: "unauthorized", want: []explain.Code{"gitea-token-without-scope"},
		},
		{
			name: "private owner", image: a.ref, config: writeConfig(t, server.Host, "stranger", foreign),
			prints: "unauthorized", want: []explain.Code{"gitea-owner-private"},
		},
		{
			name: "no login", image: a.ref, config: writeConfig(t, server.Host, "", ""),
			prints: "unauthorized", want: []explain.Code{"gitea-login-missing"},
		},
		{
			name: "no tag", image: a.ref + "-not", config: writeConfig(t, server.Host, owner, reader),
			prints: "manifest unknown", want: []explain.Code{"tag-missing"},
		},
		{
			name: "no owner", image: server.Host + "/nobody-here/app:v1", config: writeConfig(t, server.Host, owner, reader),
			prints: "Not found.", want: []explain.Code{"gitea-owner-unknown"},
		},
		{
			name: "another port in the key", image: a.ref, config: writeConfig(t, strings.Split(server.Host, ":")[0]+":443", owner, reader),
			prints: "unauthorized", want: []explain.Code{"gitea-login-missing", "key-never-matches"},
		},
	} {
		f.client = "docker-28.2"
		f.pull = func() error { return client.Pull(t.Context(), f.image, f.config) }
		f.check(t)
	}

	visible(t, server, owner, sdk.VisibleTypePublic)
	for _, f := range []failure{
		{name: "public", image: a.ref, config: writeConfig(t, server.Host, "", ""), want: []explain.Code{"image-public"}},
		{
			name: "stale login, public image", image: a.ref, config: writeConfig(t, server.Host, owner, wrong),
			prints: "unauthorized", want: []explain.Code{"gitea-token-wrong", "stale-login-public-image"},
		},
	} {
		f.client = "docker-28.2"
		f.pull = func() error { return client.Pull(t.Context(), f.image, f.config) }
		f.check(t)
	}

	server.Stop()
	failure{
		name: "stopped", client: "docker-28.2", image: a.ref, config: writeConfig(t, server.Host, owner, reader),
		prints: "connection refused", want: []explain.Code{"connection-refused"},
		pull: func() error {
			return client.Pull(t.Context(), a.ref, writeConfig(t, server.Host, owner, reader))
		},
	}.check(t)
}

// giteaRegistryToken is what Gitea's token server gives for a token.
func giteaRegistryToken(t *testing.T, server *gitea.Server, user, token string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v2/token?service=container_registry&scope=*", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(user, token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var said struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&said); err != nil || said.Token == "" {
		t.Fatalf("token of Gitea: %s, %v", response.Status, err)
	}
	return said.Token
}

func TestExplainDistribution(t *testing.T) {
	t.Parallel()
	daemon := docker.Start(t)
	for _, v3 := range []bool{false, true} {
		server := distribution.Start(t, distribution.Options{V3: v3, Users: map[string]string{"bot": "right-password"}})
		client := clients.Docker(t, daemon)
		ref := server.Host + "/team/app:v1"
		pushSmall(t, ref, basic("bot", "right-password"))
		for _, f := range []failure{
			{name: "works", image: ref, config: writeConfig(t, server.Host, "bot", "right-password"), want: []explain.Code{"login-works"}},
			{
				name: "wrong password", image: ref, config: writeConfig(t, server.Host, "bot", wrong),
				prints: "unauthorized", want: []explain.Code{"login-wrong"},
			},
			{
				name: "no login", image: ref, config: writeConfig(t, server.Host, "", ""),
				prints: "no basic auth credentials", want: []explain.Code{"login-missing"},
			},
			{
				name: "no tag", image: ref + "-not", config: writeConfig(t, server.Host, "bot", "right-password"),
				prints: "manifest unknown", want: []explain.Code{"tag-missing"},
			},
			{
				name: "spoken to in plain HTTP", image: ref, config: writeConfig(t, server.Host, "bot", "right-password"), plain: true,
				want: []explain.Code{"login-works"},
			},
		} {
			f.name = "distribution " + server.Version + ", " + f.name
			f.client = "docker-28.2"
			f.pull = func() error { return client.Pull(t.Context(), f.image, f.config) }
			f.check(t)
		}
	}
}

// What the docker CLI makes of files, helpers and variables.
func TestExplainDockerFiles(t *testing.T) {
	t.Parallel()
	daemon := docker.Start(t)
	server := distribution.Start(t, distribution.Options{Users: map[string]string{"bot": "right-password"}})
	client := clients.Docker(t, daemon)
	ref := server.Host + "/team/app:v1"
	pushSmall(t, ref, basic("bot", "right-password"))
	const right, wrongAuth = "Ym90OnJpZ2h0LXBhc3N3b3Jk", "Ym90Ondyb25n"
	file := func(text string) string {
		path := writeConfig(t, server.Host, "", "")
		writeText(t, path, strings.ReplaceAll(text, "HOST", server.Host))
		return path
	}
	for _, f := range []failure{
		{
			name: "a helper that is not there, silently", config: file(`{"credsStore":"regkeeper-none"}`), prints: "no basic auth credentials",
			want: []explain.Code{"login-missing", "helper-fails-silently"},
		},
		{
			name: "a broken file", config: file(`{"auths":{"HOST":`), prints: "no basic auth credentials",
			want: []explain.Code{"login-missing", "config-broken"},
		},
		{
			name: "an empty entry", config: file(`{"auths":{"HOST":{}}}`), prints: "no basic auth credentials",
			want: []explain.Code{"login-missing", "entry-empty"},
		},
		{
			name: "another entry comes first", config: file(`{"auths":{"HOST":{"auth":"` + wrongAuth + `"},"https://HOST/v1/":{"auth":"` + right + `"}}}`),
			prints: "unauthorized", want: []explain.Code{"login-wrong", "login-hidden"},
		},
		{
			name: "a variable before 28.3", config: file(`{}`), env: map[string]string{"DOCKER_AUTH_CONFIG": `{"auths":{"` + server.Host + `":{"auth":"` + right + `"}}}`},
			prints: "no basic auth credentials", want: []explain.Code{"login-missing", "docker-auth-config-ignored"},
		},
	} {
		f.client, f.image = "docker-28.2", ref
		f.pull = func() error {
			if f.env == nil {
				return client.Pull(t.Context(), ref, f.config)
			}
			cmd := exec.Command("docker", "pull", ref)
			cmd.Env = append(daemon.Env(), "PATH="+os.Getenv("PATH"), "DOCKER_CONFIG="+filepath.Dir(f.config))
			for name, value := range f.env {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			_, err := process.Output(t.Context(), cmd)
			return err
		}
		f.check(t)
	}

	// Two entries with paths: one of them each time.
	config := file(`{"auths":{"HOST/team":{"auth":"` + right + `"},"HOST/other":{"auth":"` + wrongAuth + `"}}}`)
	passed, failed := 0, 0
	for range 40 {
		if client.Pull(t.Context(), ref, config) == nil {
			passed++
		} else {
			failed++
		}
		if passed > 0 && failed > 0 {
			break
		}
	}
	t.Logf("with two entries that have paths %d pulls passed and %d failed", passed, failed)
	if passed == 0 || failed == 0 {
		t.Error("docker takes the same entry each time")
	}
	failure{
		name: "two entries with paths", client: "docker-28.2", image: ref, config: config, pull: func() error { return nil },
		want: []explain.Code{"login-wrong", "login-by-chance", "login-works"},
	}.check(t)
}

// What is wrong on the way to a registry, as the docker daemon and skopeo say it.
func TestExplainTheWay(t *testing.T) {
	t.Parallel()
	daemon := docker.Start(t)
	dockerd, skopeo := clients.Docker(t, daemon), clients.Skopeo(t)
	ca, cert, key := certificates(t)
	listen, err := peers.FreeAddress("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	p := newProduct(t, configText([]kept{{host: listen, source: "builtin: {}"}},
		"  registry: {listen: \""+listen+"\", tls: {cert: \""+cert+"\", key: \""+key+"\"}}\n", filepath.Join(t.TempDir(), "config.json")), "SSL_CERT_FILE="+ca)
	p.up()
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	outside := otherAddress(t)
	plain := httptest.NewUnstartedServer(http.NotFoundHandler())
	plain.Listener.Close()
	if plain.Listener, err = net.Listen("tcp", net.JoinHostPort(outside, "0")); err != nil {
		t.Fatal(err)
	}
	plain.Start()
	t.Cleanup(plain.Close)

	proxied := func(status int) *url.URL {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(proxy.Close)
		u, err := url.Parse(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	closed, err := peers.FreeAddress("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	none := writeConfig(t, "x", "", "")
	throughProxy := func(proxy *url.URL) func() error {
		return func() error {
			cmd := exec.Command("skopeo", "inspect", "docker://registry.example.com/team/app:v1")
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "HTTPS_PROXY=" + proxy.String()}
			_, err := process.Output(t.Context(), cmd)
			return err
		}
	}
	for _, f := range []failure{
		{
			name: "unknown authority", client: "podman", image: listen + "/team/app:v1", prints: "certificate signed by unknown authority",
			pull: func() error { return inspect(t, listen+"/team/app:v1") }, want: []explain.Code{"tls-unknown-authority"},
		},
		{
			name: "another name", client: "podman", image: "localhost:" + port + "/team/app:v1", prints: "certificate",
			pull: func() error { return inspect(t, "localhost:"+port+"/team/app:v1") }, want: []explain.Code{"tls-wrong-name"},
		},
		{
			name: "TLS spoken to in plain HTTP", client: "podman", image: listen + "/team/app:v1", plain: true, prints: "certificate signed by unknown authority",
			pull: func() error { return inspect(t, listen+"/team/app:v1") }, want: []explain.Code{"registry-speaks-tls"},
		},
		{
			name: "plain HTTP", client: "docker-28.2", image: plain.Listener.Addr().String() + "/team/app:v1", prints: "server gave HTTP response to HTTPS client",
			pull: func() error { return dockerd.Pull(t.Context(), plain.Listener.Addr().String()+"/team/app:v1", none) },
			want: []explain.Code{"registry-speaks-plain-http"},
		},
		{
			name: "no registry", client: "podman", image: strings.TrimPrefix(notRegistry(t), "http://") + "/team/app:v1", prints: "404",
			want: []explain.Code{"not-a-registry"},
		},
		{
			name: "unknown name", client: "docker-28.2", image: "registry.regkeeper.invalid/team/app:v1", prints: "registry.regkeeper.invalid",
			pull: func() error { return dockerd.Pull(t.Context(), "registry.regkeeper.invalid/team/app:v1", none) },
			want: []explain.Code{"dns-unknown-host"},
		},
		{
			name: "refused", client: "docker-28.2", image: closed + "/team/app:v1", prints: "connection refused",
			pull: func() error { return dockerd.Pull(t.Context(), closed+"/team/app:v1", none) }, want: []explain.Code{"connection-refused"},
		},
		{
			name: "proxy wants a login", client: "podman", image: "registry.example.com/team/app:v1", prints: "Proxy Authentication Required",
			pull: throughProxy(proxied(407)), trier: trial.Config{Proxy: http.ProxyURL(proxied(407))}, want: []explain.Code{"proxy-login"},
		},
		{
			name: "proxy forbids", client: "podman", image: "registry.example.com/team/app:v1", prints: "Forbidden",
			pull: throughProxy(proxied(403)), trier: trial.Config{Proxy: http.ProxyURL(proxied(403))}, want: []explain.Code{"proxy-refused"},
		},
		{
			name: "proxy is down", client: "podman", image: "registry.example.com/team/app:v1", prints: "proxyconnect",
			pull:  throughProxy(&url.URL{Scheme: "http", Host: closed}),
			trier: trial.Config{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: closed})}, want: []explain.Code{"proxy-unreachable"},
		},
	} {
		f.config = none
		if f.pull == nil {
			f.pull = func() error { return skopeo.Pull(t.Context(), f.image, none) }
		}
		f.check(t)
	}
}

// inspect asks for an image by TLS alone.
func inspect(t *testing.T, ref string) error {
	t.Helper()
	cmd := exec.Command("skopeo", "inspect", "--tls-verify=true", "docker://"+ref)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	_, err := process.Output(t.Context(), cmd)
	return err
}

// notRegistry is a web server.
func notRegistry(t *testing.T) string {
	t.Helper()
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	return web.URL
}

// otherAddress is an address of this machine that is none of loopback.
func otherAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.To4() != nil && !network.IP.IsLoopback() {
			return network.IP.String()
		}
	}
	t.Skip("PEER MISSING, this test proves nothing here: this machine has no address but loopback")
	return ""
}

// The retry of the real runner, and what hides behind it; and a helper that keeps
// it from pulling at all.
func TestExplainRunner(t *testing.T) {
	t.Parallel()
	server, daemon := gitea.Start(t), docker.Start(t)
	password := server.CreateUser(owner)
	id, token := server.CreateToken(owner, password, "stale", "write:package")
	ref := server.Host + "/" + owner + "/job:latest"
	busybox.Push(t, ref, owner, token)
	visible(t, server, owner, sdk.VisibleTypePublic)
	config := writeConfig(t, server.Host, owner, token)
	r := runner.Start(t, server, daemon, config)
	job := func(when string, passes bool, prints string) func() error {
		return func() error {
			result := r.Run(ref)
			if !strings.Contains(result.Log, prints) {
				t.Errorf("%s: the job's log has no %q:\n%s", when, prints, result.Log)
			}
			for line := range strings.Lines(result.Log) {
				if strings.Contains(line, prints) {
					t.Logf("%s: the job's log: %s", when, line)
				}
			}
			if result.Passed() != passes {
				t.Errorf("%s: the job ended with %s:\n%s", when, result.Conclusion, result.Log)
			}
			return nil
		}
	}
	check := func(f failure) {
		t.Helper()
		f.client, f.image, f.config = "gitea-runner", ref, config
		f.check(t)
	}
	check(failure{name: "a good login", pull: job("a good login", true, "using DockerAuthConfig"), want: []explain.Code{"login-works"}})
	server.DeleteToken(owner, password, id)
	check(failure{
		name: "a stale login, a public image", pull: job("a stale login, a public image", true, "retrying without them"),
		want: []explain.Code{"gitea-token-wrong", "anonymous-retry"},
	})
	visible(t, server, owner, sdk.VisibleTypePrivate)
	check(failure{
		name: "a stale login, a private image", pull: job("a stale login, a private image", false, "authentication required"),
		want: []explain.Code{"gitea-token-wrong", "anonymous-retry"},
	})
	writeText(t, config, fmt.Sprintf(`{"auths":{%q:{"identitytoken":"x"}}}`, server.Host))
	check(failure{
		name: "an identity token", pull: job("an identity token", false, "unauthorized"),
		want: []explain.Code{"gitea-login-missing", "identity-token-ignored"},
	})
	visible(t, server, owner, sdk.VisibleTypePublic)
	writeText(t, config, `{"credsStore":"regkeeper-none"}`)
	check(failure{
		name: "a helper that is not there, a public image", pull: job("a helper that is not there", false, "docker-credential-regkeeper-none"),
		want: []explain.Code{"helper-fails-public-image", "helper-failed"},
	})
}

// A config.json that is mounted, and docker login beside it.
func TestExplainReadOnlyMount(t *testing.T) {
	t.Parallel()
	peers.Need(t, peers.Root, "unshare")
	daemon := docker.Start(t)
	server := distribution.Start(t, distribution.Options{Users: map[string]string{"bot": "right-password", "other": "right-password"}})
	ref := server.Host + "/team/app:v1"
	pushSmall(t, ref, basic("bot", "right-password"))
	for _, c := range []struct{ name, mount string }{
		{"a file that is a mount, read only", `mount --bind "$F" "$F" && mount -o remount,ro,bind "$F"`},
		{"a file that is a mount", `mount --bind "$F" "$F"`},
		{"a folder that is read only", `mount --bind "$D" "$D" && mount -o remount,ro,bind "$D"`},
	} {
		file := writeConfig(t, server.Host, "bot", "right-password")
		// What is looked at is looked at in the same mounts: this program is run
		// there again.
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		script := c.mount + ` && { echo right-password | docker login --username other --password-stdin "$H"; echo "docker login: $?"; "$SELF" -test.run='^TestPlaceThere$'; }`
		cmd := exec.Command("unshare", "--mount", "sh", "-c", script)
		cmd.Env = append(daemon.Env(), "PATH="+os.Getenv("PATH"), "HOME="+filepath.Dir(file), "DOCKER_CONFIG="+filepath.Dir(file),
			"F="+file, "D="+filepath.Dir(file), "H="+server.Host, "SELF="+self, placeVar+"="+file)
		out, err := process.Output(t.Context(), cmd)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if !strings.Contains(out, "docker login: 1") {
			t.Errorf("%s: docker login could save:\n%s", c.name, out)
		}
		_, text, ok := strings.Cut(out, placeMark)
		text, _, _ = strings.Cut(text, "\n")
		var at mounts.Place
		if err := json.Unmarshal([]byte(text), &at); err != nil || !ok {
			t.Fatalf("%s: no place in %q: %v", c.name, out, err)
		}
		failure{
			name: c.name, client: "docker-28.2", image: ref, config: file, facts: explain.Facts{Places: []explain.Place{at}},
			pull: func() error { return clients.Docker(t, daemon).Pull(t.Context(), ref, file) },
			want: []explain.Code{"config-read-only", "login-works"},
		}.check(t)
		t.Logf("%s: %s", c.name, strings.TrimSpace(out))
	}
}

// placeVar has this program look at a place, in the mounts it is run in.
const (
	placeVar  = "REGKEEPER_TEST_PLACE"
	placeMark = "place: "
)

// TestPlaceThere is the child of TestExplainReadOnlyMount.
func TestPlaceThere(t *testing.T) {
	path := os.Getenv(placeVar)
	if path == "" {
		t.Skip("it is run by TestExplainReadOnlyMount")
	}
	at, err := mounts.At(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(at)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(placeMark + string(text))
}

// The pull is that of a daemon which a runner's pod would use. That the pod has
// imagePullSecrets changes nothing for it.
func TestExplainPullSecrets(t *testing.T) {
	t.Parallel()
	server, daemon := gitea.Start(t), docker.Start(t)
	a := newAccount(t, server, owner)
	visible(t, server, owner, sdk.VisibleTypePrivate)
	none := writeConfig(t, server.Host, "", "")
	failure{
		name: "a runner's pod with pull Secrets", client: "gitea-runner", image: a.ref, config: none, prints: "unauthorized",
		pull:  func() error { return clients.Docker(t, daemon).Pull(t.Context(), a.ref, none) },
		facts: explain.Facts{PullSecrets: []string{"gitea-credentials"}, DockerHost: daemon.Host},
		want:  []explain.Code{"gitea-login-missing", "pull-secrets-unused", "daemon-elsewhere"},
	}.check(t)
}
