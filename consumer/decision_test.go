package consumer_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

var update = flag.Bool("update", false, "write the golden decisions")

const (
	home     = "/home/ci"
	file     = home + "/.docker/config.json"
	password = "p4ssw0rd-that-must-not-show"
)

// auth is a user's login as config.json has it. All passwords have the same part, by
// which they are found where they do not belong.
func auth(user string) string {
	return `{"auth": "` + base64.StdEncoding.EncodeToString([]byte(user+":"+password+"-of-"+user)) + `"}`
}

// auths is a config.json with a login for each key; its user is named for it.
func auths(keys ...string) string {
	entries := make([]string, len(keys))
	for i, key := range keys {
		entries[i] = strconv.Quote(key) + ": " + auth("user"+strconv.Itoa(i+1))
	}
	return `{"auths": {` + strings.Join(entries, ", ") + "}}"
}

// fakeHelpers are credential helpers by name: each has logins by server, and fails
// if it has none at all.
type fakeHelpers map[string]map[string][2]string

var _ consumer.Helpers = fakeHelpers{}

func (f fakeHelpers) Get(name, server string) (username, secret string, err error) {
	logins, ok := f[name]
	if !ok || logins == nil {
		return "", "", errors.New("the keychain is locked")
	}
	login, ok := logins[server]
	if !ok {
		return "", "", consumer.ErrNoLogin
	}
	return login[0], login[1], nil
}

func (f fakeHelpers) List(name string) ([]string, error) {
	if f[name] == nil {
		return nil, errors.New("the keychain is locked")
	}
	return slices.Sorted(maps.Keys(f[name])), nil
}

type files map[string]string

func (f files) read(name string) ([]byte, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(text), nil
}

// case of a decision. Its name is that of its golden file.
type decisionCase struct {
	name, client, image string
	files               files
	env                 map[string]string
	helpers             fakeHelpers
	store               string
	job                 consumer.Job
	pod                 consumer.Pod
	unasked             bool
}

func (c decisionCase) decide(t *testing.T) consumer.Decision {
	t.Helper()
	client, err := consumer.Find(c.client)
	if err != nil {
		t.Fatal(err)
	}
	around := consumer.Surroundings{
		Env: c.env, Home: home, UID: 1000, Dir: "/work", ReadFile: c.files.read, DefaultStore: c.store, Job: c.job, Pod: c.pod,
	}
	if !c.unasked {
		around.Helpers = c.helpers
	}
	d, err := client.Decide(c.image, around)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func secret(of string) credential.Secret { return credential.NewSecret(password + "-of-" + of) }

func pullSecret(name string, documents ...string) consumer.PullSecret {
	s := consumer.PullSecret{Namespace: "team", Name: name, Type: "kubernetes.io/dockerconfigjson", Data: map[string][]byte{}}
	for _, text := range documents {
		s.Data[".dockerconfigjson"] = []byte(text)
	}
	return s
}

const app = "reg.example.com/team/app:1.2"

var (
	keychain = fakeHelpers{
		"keychain": {"reg.example.com": {"helped", password}, "https://index.docker.io/v1/": {"hub", password}},
		"token":    {"reg.example.com": {"<token>", password}}, "none": {}, "locked": nil,
	}
	jobLogin = consumer.Payload{Type: "registry", URL: "reg.example.com", Username: "gitlab-ci-token", Password: secret("job")}
)

var cases = []decisionCase{
	// Of config.json, as the docker CLI reads it.
	{name: "docker-exact", client: "docker", image: app, files: files{file: auths("https://reg.example.com/v1/", "reg.example.com", "reg.example.com:443")}},
	{name: "docker-hostname", client: "docker", image: app, files: files{file: auths("https://reg.example.com/v1/", "*.example.com")}},
	{name: "docker-several", client: "docker", image: app, files: files{file: auths("reg.example.com/team", "reg.example.com/other")}},
	{name: "docker-hub", client: "docker", image: "ubuntu", files: files{file: auths("https://index.docker.io/v1/", "docker.io")}},
	{name: "docker-hub-wrong-key", client: "docker", image: "ubuntu", files: files{file: auths("docker.io", "index.docker.io")}},
	{name: "docker-hub-image-of-another", client: "docker", image: "registry-1.docker.io/library/ubuntu", files: files{file: auths("https://index.docker.io/v1/")}},
	{name: "docker-nothing", client: "docker", image: app},
	{name: "docker-port", client: "docker", image: "reg.example.com:5000/app", files: files{file: auths("reg.example.com")}},
	{name: "docker-empty-entry", client: "docker", image: app, files: files{file: `{"auths": {"reg.example.com": {}}}`}},
	{name: "docker-helper", client: "docker", image: app, helpers: keychain, files: files{file: `{"auths": {"reg.example.com": ` + auth("written") + `}, "credHelpers": {"reg.example.com": "keychain"}}`}},
	{name: "docker-helper-token", client: "docker", image: app, helpers: keychain, files: files{file: `{"credHelpers": {"reg.example.com": "token"}}`}},
	{name: "docker-store", client: "docker", image: app, helpers: keychain, files: files{file: `{"auths": {"reg.example.com": ` + auth("written") + `}, "credsStore": "none"}`}},
	{name: "docker-helper-fails", client: "docker", image: "ubuntu", helpers: keychain, files: files{file: `{"auths": {"https://index.docker.io/v1/": ` + auth("written") + `}, "credsStore": "locked"}`}},
	{name: "docker-helper-unasked", client: "docker", image: app, unasked: true, files: files{file: `{"credsStore": "keychain"}`}},
	{name: "docker-detected-store", client: "docker", image: app, helpers: keychain, store: "keychain", files: files{file: `{"auths": {}}`}},
	{name: "docker-variable", client: "docker", image: app, env: map[string]string{"DOCKER_AUTH_CONFIG": auths("reg.example.com")}, files: files{file: auths("reg.example.com")}},
	{name: "docker-variable-lax", client: "docker", image: app, env: map[string]string{"DOCKER_AUTH_CONFIG": `{"auths": {"reg.example.com": ` + auth("variable") + `}, "credsStore": ""}`}, files: files{file: auths("reg.example.com")}},
	{name: "docker-variable-two", client: "docker", image: app, env: map[string]string{"DOCKER_AUTH_CONFIG": auths("reg.example.com") + "{}"}},
	{name: "docker-config-env", client: "docker", image: app, env: map[string]string{"DOCKER_CONFIG": "/etc/docker-login"}, files: files{"/etc/docker-login/config.json": auths("reg.example.com"), file: auths("x", "reg.example.com")}},
	{name: "docker-broken-file", client: "docker", image: app, files: files{file: `{"auths": {"reg.example.com": {"username": "plain", "password": "` + password + `"}}, "proxies": []}`}},
	{name: "docker-broken-entry", client: "docker", image: app, files: files{file: `{"auths": {"reg.example.com": ` + auth("sound") + `, "other.example.com": {"auth": "!"}}}`}},
	{name: "docker28-variable", client: "docker-28.2", image: app, env: map[string]string{"DOCKER_AUTH_CONFIG": auths("reg.example.com")}, files: files{file: auths("x", "reg.example.com")}},
	{name: "docker28-helper-fails", client: "docker-28.2", image: app, helpers: keychain, files: files{file: `{"auths": {"reg.example.com": ` + auth("written") + `}, "credsStore": "locked"}`}},
	{name: "buildkit-hub", client: "buildkit", image: "ubuntu", files: files{file: auths("https://index.docker.io/v1/")}},

	// Of runners of Actions.
	{name: "gitea-workflow", client: "gitea-runner", image: app, job: consumer.Job{
		Credentials: map[string]string{"username": "workflow", "password": password}, Secrets: map[string]string{"DOCKER_USERNAME": "secrets", "DOCKER_PASSWORD": password},
	}, files: files{file: auths("reg.example.com")}},
	{name: "gitea-workflow-broken", client: "gitea-runner", image: app, job: consumer.Job{Credentials: map[string]string{"username": "workflow", "password": ""}}},
	{name: "gitea-secrets", client: "gitea-runner", image: "other.example.com/app", job: consumer.Job{Secrets: map[string]string{"DOCKER_USERNAME": "secrets", "DOCKER_PASSWORD": password}}, files: files{file: auths("other.example.com")}},
	{name: "gitea-secrets-half", client: "gitea-runner", image: app, job: consumer.Job{Secrets: map[string]string{"DOCKER_USERNAME": "secrets"}}, files: files{file: auths("reg.example.com")}},
	{name: "gitea-service", client: "gitea-runner", image: app, job: consumer.Job{Service: true, Secrets: map[string]string{"DOCKER_USERNAME": "secrets", "DOCKER_PASSWORD": password}}, files: files{file: auths("reg.example.com")}},
	{name: "gitea-token-only", client: "gitea-runner", image: app, helpers: keychain, files: files{file: `{"credHelpers": {"reg.example.com": "token"}}`}},
	{name: "gitea-broken-file", client: "gitea-runner", image: "ubuntu", files: files{file: `{`}},
	{name: "forgejo", client: "forgejo-runner", image: app, files: files{file: auths("reg.example.com")}},
	{name: "act-hub-written-out", client: "act", image: "docker.io/team/app", files: files{file: auths("https://index.docker.io/v1/")}},
	{name: "act-hub", client: "act", image: "team/app", files: files{file: auths("https://index.docker.io/v1/")}},

	// Of GitLab Runner.
	{name: "gitlab-longest", client: "gitlab-runner", image: app, job: consumer.Job{Payload: []consumer.Payload{jobLogin}}, files: files{file: auths("reg.example.com/team", "reg.example.com")}},
	{name: "gitlab-variable", client: "gitlab-runner", image: app, job: consumer.Job{
		Variables: map[string]string{"DOCKER_AUTH_CONFIG": auths("reg.example.com")}, Environment: map[string]string{"DOCKER_AUTH_CONFIG": auths("x", "reg.example.com")}, Payload: []consumer.Payload{jobLogin},
	}, files: files{file: auths("reg.example.com")}},
	{name: "gitlab-environment", client: "gitlab-runner", image: app, job: consumer.Job{Environment: map[string]string{"DOCKER_AUTH_CONFIG": auths("reg.example.com")}}},
	{name: "gitlab-key", client: "gitlab-runner", image: app, files: files{file: auths("reg.example.com/v2", "reg.example.com:443", "reg.example.com/v1/")}},
	{name: "gitlab-url", client: "gitlab-runner", image: app, files: files{file: auths("https://reg.example.com/any/path")}},
	{name: "gitlab-dropped", client: "gitlab-runner", image: app, helpers: keychain, files: files{file: `{"auths": {"reg.example.com": ` + auth("written") + `}, "credHelpers": {"other.example.com": "locked"}}`}},
	{name: "gitlab-store", client: "gitlab-runner", image: app, helpers: keychain, files: files{file: `{"auths": {"reg.example.com": ` + auth("written") + `}, "credsStore": "keychain"}`}},
	{name: "gitlab-helper-path", client: "gitlab-runner", image: app, files: files{file: `{"credHelpers": {"other.example.com": "../evil"}}`}},
	{name: "gitlab-helper-path-by-chance", client: "gitlab-runner", image: app, helpers: keychain, files: files{file: `{"credHelpers": {"other.example.com": "../evil", "reg.example.com": "locked"}}`}, job: consumer.Job{Payload: []consumer.Payload{jobLogin}}},
	{name: "gitlab-cluster", client: "gitlab-runner-kubernetes", image: app, job: consumer.Job{PullSecrets: []string{"first"}, Payload: []consumer.Payload{jobLogin}}, pod: consumer.Pod{Secrets: []consumer.PullSecret{
		pullSecret("first", auths("reg.example.com")), pullSecret("second", auths("reg.example.com")),
	}}},

	// Of kubelets.
	{name: "kubelet-order", client: "kubelet", image: app, pod: consumer.Pod{Secrets: []consumer.PullSecret{
		pullSecret("one", auths("reg.example.com", "reg.example.com/team/app", "*.example.com")), pullSecret("two", auths("reg.example.com/team", "reg.example.com:443")),
	}}, files: files{"/var/lib/kubelet/config.json": auths("reg.example.com")}},
	{name: "kubelet-hub", client: "kubelet", image: "ubuntu", pod: consumer.Pod{Secrets: []consumer.PullSecret{pullSecret("hub", auths("https://index.docker.io/v1/"))}}},
	{name: "kubelet-hub-exact", client: "kubelet", image: "ubuntu", pod: consumer.Pod{Secrets: []consumer.PullSecret{pullSecret("hub", auths("docker.io", "index.docker.io"))}}},
	{name: "kubelet-none", client: "kubelet", image: app, pod: consumer.Pod{Secrets: []consumer.PullSecret{{Namespace: "team", Name: "gone", Missing: true}, {Namespace: "team", Name: "opaque", Type: "Opaque", Data: map[string][]byte{".dockerconfigjson": []byte(auths("reg.example.com"))}}}}},
	{name: "kubelet-broken", client: "kubelet", image: app, pod: consumer.Pod{Secrets: []consumer.PullSecret{pullSecret("sound", auths("reg.example.com")), pullSecret("broken", `{"auths": {"reg.example.com": {"auth": "!"}}}`)}}},
	{name: "kubelet-legacy", client: "kubelet", image: app, pod: consumer.Pod{Secrets: []consumer.PullSecret{{
		Namespace: "team", Name: "legacy", Type: "kubernetes.io/dockercfg", Data: map[string][]byte{".dockercfg": []byte(`{"reg.example.com": ` + auth("legacy") + `}`)},
	}}}, files: files{"/work/config.json": "{", home + "/.dockercfg": `{"reg.example.com": ` + auth("node") + `}`}},
	{name: "kubelet-provider", client: "kubelet", image: app, pod: consumer.Pod{Providers: []consumer.Provider{
		{Name: "ecr", MatchImages: []string{"*.dkr.ecr.*.amazonaws.com"}},
		{Name: "own", MatchImages: []string{"*.example.com"}, Answer: map[string]consumer.Login{"reg.example.com": {Username: "provided", Password: secret("provided")}}},
		{Name: "failing", MatchImages: []string{"reg.example.com"}, Err: errors.New("the plugin timed out")},
	}}},

	// Of podman and what shares its way.
	{name: "podman-namespace", client: "podman", image: app, files: files{"/run/containers/1000/auth.json": auths("reg.example.com/team", "reg.example.com", "reg.example.com/team/other")}},
	{name: "podman-order", client: "podman", image: app, env: map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000", "XDG_CONFIG_HOME": "/conf"}, files: files{
		"/run/user/1000/containers/auth.json": auths("other.example.com"), "/conf/containers/auth.json": `{"auths": {"reg.example.com": {"username": "plain", "password": "` + password + `"}}}`, file: auths("https://reg.example.com/v1/"),
	}},
	{name: "podman-given", client: "podman", image: app, env: map[string]string{"REGISTRY_AUTH_FILE": "/given.json"}, files: files{file: auths("reg.example.com")}},
	{name: "podman-docker-config", client: "podman", image: app, env: map[string]string{"DOCKER_CONFIG": "/conf"}, files: files{"/run/containers/1000/auth.json": auths("reg.example.com"), "/conf/config.json": auths("x", "reg.example.com")}},
	{name: "skopeo-docker-config", client: "skopeo", image: app, env: map[string]string{"DOCKER_CONFIG": "/conf"}, files: files{"/run/containers/1000/auth.json": auths("reg.example.com"), "/conf/config.json": auths("x", "reg.example.com")}},
	{name: "podman-helper", client: "podman", image: app, helpers: keychain, files: files{file: `{"auths": {"reg.example.com/team": ` + auth("written") + `}, "credHelpers": {"reg.example.com": "keychain"}}`}},
	{name: "podman-broken", client: "podman", image: app, files: files{"/run/containers/1000/auth.json": `{"auths": {"reg.example.com": {"auth": "!"}}}`, file: auths("reg.example.com")}},
	{name: "podman-registries", client: "podman", image: app, helpers: keychain, files: files{"/etc/containers/registries.conf": `credential-helpers = ["locked", "keychain", "containers-auth.json"]`}},
	{name: "podman-registries-fails", client: "podman", image: app, helpers: keychain, files: files{"/etc/containers/registries.conf": `credential-helpers = ["locked", "none"]`}},
	{name: "podman-legacy", client: "podman", image: app, files: files{home + "/.dockercfg": `{"https://reg.example.com/v1/": ` + auth("legacy") + `}`}},
	{name: "podman-ipv6", client: "podman", image: "[2001:db8::1]:5000/app"},

	// Of the others.
	{name: "ggcr-repository", client: "go-containerregistry", image: app, files: files{file: auths("reg.example.com/team/app", "reg.example.com")}},
	{name: "ggcr-no-file", client: "go-containerregistry", image: app, env: map[string]string{"DOCKER_AUTH_CONFIG": auths("reg.example.com")}},
	{name: "ggcr-podman", client: "go-containerregistry", image: app, env: map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}, files: files{"/run/user/1000/containers/auth.json": auths("reg.example.com")}},
	{name: "kaniko", client: "kaniko", image: "ubuntu", files: files{"/kaniko/.docker/config.json": auths("https://index.docker.io/v1/")}},
	{name: "oras-broken-other", client: "oras", image: app, files: files{file: `{"auths": {"reg.example.com": ` + auth("sound") + `, "other.example.com": {"auth": "!"}}}`}},
	{name: "oras-broken", client: "oras", image: app, files: files{file: `{"auths": {"reg.example.com": {"auth": "!"}}}`}},
	{name: "oras-hub", client: "oras", image: "registry-1.docker.io/library/ubuntu", files: files{file: auths("https://index.docker.io/v1/")}},
	{name: "containerd", client: "containerd", image: app, files: files{"/etc/containerd/config.toml": `version = 2
[plugins."io.containerd.grpc.v1.cri".registry.configs."reg.example.com".auth]
username = "cri"
password = "` + password + `"
`}},
	{name: "containerd-hosts", client: "containerd", image: app, files: files{"/etc/containerd/config.toml": `version = 2
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.grpc.v1.cri".registry.configs."reg.example.com".auth]
username = "cri"
password = "` + password + `"
`}},
	{name: "containerd-broken", client: "containerd", image: app, files: files{"/etc/containerd/config.toml": `version = 2
[plugins."io.containerd.grpc.v1.cri".registry.configs."reg.example.com".auth]
auth = "!"
`}},
	{name: "k3s", client: "k3s", image: app, files: files{"/etc/rancher/k3s/registries.yaml": `configs:
  reg.example.com:
    auth:
      username: k3s
      password: ` + password + "\n"}},
}

// TestDecisions holds each rule to a case of it, with its reasons.
func TestDecisions(t *testing.T) {
	t.Parallel()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := render(c.decide(t))
			golden := filepath.Join("testdata", "decisions", c.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
	kept, err := filepath.Glob(filepath.Join("testdata", "decisions", "*.golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, golden := range kept {
		name := strings.TrimSuffix(filepath.Base(golden), ".golden")
		if !slices.ContainsFunc(cases, func(c decisionCase) bool { return c.name == name }) {
			t.Errorf("%s belongs to no case", golden)
		}
	}
}

// render is a decision for people: of a login its user and which fields it has, of a
// rule its name.
func render(d consumer.Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s for %s of %s\n", d.Consumer, d.Image, d.Host)
	for i, o := range d.Outcomes {
		fmt.Fprintf(&b, "outcome %d", i+1)
		switch {
		case o.Unknown:
			fmt.Fprintf(&b, ": unknown (%s)\n", o.Rule.ID)
		case o.Err != nil:
			fmt.Fprintf(&b, ": gives up: %v (%s)\n", o.Err, o.Rule.ID)
		case len(o.Tries) == 0:
			fmt.Fprintf(&b, ": asks as nobody (%s)\n", o.Rule.ID)
		default:
			b.WriteByte('\n')
		}
		for _, f := range o.Tries {
			fmt.Fprintf(&b, "  tries %s from %s", login(f.Login), f.Where)
			if f.Key != "" {
				fmt.Fprintf(&b, ", %s", f.Key)
			}
			fmt.Fprintf(&b, " (%s)\n", f.Rule.ID)
		}
	}
	for _, l := range d.Looked {
		fmt.Fprintf(&b, "%s: %s", l.Verdict, l.Where)
		if l.Key != "" {
			fmt.Fprintf(&b, ", %s", l.Key)
		}
		if l.Why != "" {
			fmt.Fprintf(&b, ": %s", l.Why)
		}
		if l.Rule.ID != "" {
			fmt.Fprintf(&b, " (%s)", l.Rule.ID)
		}
		b.WriteByte('\n')
	}
	for _, r := range d.Rules {
		fmt.Fprintf(&b, "rule: %s\n", r.ID)
	}
	return b.String()
}

func login(l consumer.Login) string {
	parts := []string{strconv.Quote(l.Username)}
	for name, s := range map[string]credential.Secret{"a password": l.Password, "an identity token": l.IdentityToken, "a registry token": l.RegistryToken} {
		if !s.Empty() {
			parts = append(parts, name)
		}
	}
	slices.Sort(parts[1:])
	return strings.Join(parts, " with ")
}

// TestEveryRule has a case for every rule that the package knows, and a name of its
// own, a sentence and a source for each.
func TestEveryRule(t *testing.T) {
	t.Parallel()
	seen := map[string]consumer.Rule{}
	for _, c := range cases {
		d := c.decide(t)
		note := func(r consumer.Rule) {
			if r == (consumer.Rule{}) {
				return
			}
			if before, ok := seen[r.ID]; ok && before != r {
				t.Errorf("two rules are named %s", r.ID)
			}
			if r.ID == "" || r.Text == "" || r.Source == "" {
				t.Errorf("%+v lacks something", r)
			}
			seen[r.ID] = r
		}
		for _, r := range d.Rules {
			note(r)
		}
		for _, l := range d.Looked {
			note(l.Rule)
		}
		for _, o := range d.Outcomes {
			note(o.Rule)
			for _, f := range o.Tries {
				note(f.Rule)
			}
		}
	}
	for _, id := range written(t) {
		if _, ok := seen[id]; !ok {
			t.Errorf("no case shows the rule %s", id)
		}
	}
}

// written are the names of the rules in rules.go.
func written(t *testing.T) []string {
	t.Helper()
	source, err := parser.ParseFile(token.NewFileSet(), "rules.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	ast.Inspect(source, func(n ast.Node) bool {
		if of, ok := n.(*ast.CompositeLit); ok && len(of.Elts) == 3 {
			if id, ok := of.Elts[0].(*ast.BasicLit); ok {
				text, err := strconv.Unquote(id.Value)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, text)
			}
		}
		return true
	})
	if len(ids) < 50 {
		t.Fatalf("only %d rules found in rules.go", len(ids))
	}
	return ids
}

// TestSecretsDoNotShow prints every decision in every way that one may be printed.
func TestSecretsDoNotShow(t *testing.T) {
	t.Parallel()
	logins := 0
	for _, c := range cases {
		d := c.decide(t)
		text, err := json.Marshal(d)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var logged strings.Builder
		slog.New(slog.NewJSONHandler(&logged, nil)).Info("decided", "decision", d)
		slog.New(slog.NewTextHandler(&logged, nil)).Info("decided", "decision", d)
		for _, shown := range []string{fmt.Sprintf("%v", d), fmt.Sprintf("%+v", d), fmt.Sprintf("%#v", d), string(text), logged.String(), render(d)} {
			if strings.Contains(shown, password) || strings.Contains(shown, base64.StdEncoding.EncodeToString([]byte(password))[:16]) {
				t.Errorf("%s shows a secret: %s", c.name, shown)
			}
		}
		for _, o := range d.Outcomes {
			for _, f := range o.Tries {
				if strings.Contains(f.Login.Password.Reveal()+f.Login.IdentityToken.Reveal(), password) {
					logins++
				}
			}
			if o.Err != nil && strings.Contains(o.Err.Error(), password) {
				t.Errorf("%s shows a secret in its error: %v", c.name, o.Err)
			}
		}
	}
	if logins < 40 {
		t.Errorf("only %d logins hold the secret that is looked for", logins)
	}
}

func TestFindUnknown(t *testing.T) {
	t.Parallel()
	_, err := consumer.Find("dokcer")
	if problem.KindOf(err) != problem.Usage {
		t.Errorf("kind %v of %v, want %v", problem.KindOf(err), err, problem.Usage)
	}
	for _, c := range consumer.All() {
		if c.Name == "" || c.About == "" || c.Places == "" {
			t.Errorf("%+v lacks something", c.Name)
		}
		if found, err := consumer.Find(c.Name); err != nil || found.Name != c.Name {
			t.Errorf("find %s: %v, %v", c.Name, found.Name, err)
		}
	}
}

func TestNoImage(t *testing.T) {
	t.Parallel()
	docker, err := consumer.Find("docker")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := docker.Decide("REG/Not An Image", consumer.Surroundings{}); problem.KindOf(err) != problem.Config {
		t.Errorf("kind %v of %v, want %v", problem.KindOf(err), err, problem.Config)
	}
	// Nothing around it is nothing that it could panic on.
	for _, c := range consumer.All() {
		if _, err := c.Decide(app, consumer.Surroundings{}); err != nil {
			t.Errorf("%s with nothing around it: %v", c.Name, err)
		}
	}
}
