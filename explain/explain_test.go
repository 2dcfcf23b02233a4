package explain_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/explain"
	"github.com/regkeeper/regkeeper/internal/testkit/recorded"
	"github.com/regkeeper/regkeeper/registry/trial"
)

const secret = "the-secret-of-the-bot"

var (
	now   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	early = now.Add(-time.Hour)
	late  = now.Add(23 * time.Hour)
)

// scene is a client with what it finds, and what happened then.
type scene struct {
	// client is its name, docker if empty; image what it pulls, of Gitea if empty.
	client, image string
	around        consumer.Surroundings
	// files are by path; the client's home is /home.
	files map[string]string
	// registry answers, if not nil: it stands in for the image's host.
	registry *recorded.Recording
	// answers come in place of a registry.
	answers []trial.Trial
	facts   explain.Facts
	// want are the codes, the worst first.
	want []explain.Code
	// says are pieces of what must be said.
	says []string
}

const file = "/home/.docker/config.json"

// with is a config.json with a login for the keys.
func with(keys ...string) string {
	auths := map[string]any{}
	for _, key := range keys {
		auths[key] = map[string]string{"auth": "Ym90OnRoZS1zZWNyZXQtb2YtdGhlLWJvdA=="}
	}
	text, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// helpers fail, or have a login.
type helpers struct{ err error }

func (h helpers) Get(string, string) (string, string, error) { return "helped", secret, h.err }
func (h helpers) List(string) ([]string, error)              { return nil, h.err }

var errHelper = errors.New("exec: \"docker-credential-ecr-login\": executable file not found in $PATH")

func recording(r recorded.Recording, change func(*recorded.Recording)) *recorded.Recording {
	if change != nil {
		change(&r)
	}
	return &r
}

// failed is an answer that ended with a fault.
func failed(stage trial.Stage, kind trial.FaultKind, certificate *trial.Certificate) []trial.Trial {
	return []trial.Trial{{Answer: trial.Answer{Kind: trial.Password, Username: "bot", Steps: []trial.Step{{
		Stage: stage, Asked: "GET https://gitea.example.com/v2/", Certificate: certificate,
		Fault: &trial.Fault{Kind: kind, Host: "gitea.example.com", Status: 407, Text: "what the library says"},
	}}}}}
}

// by is the answer of a recording to the bot with a login that says when it ends.
func token(t *testing.T, r recorded.Recording, login consumer.Login, ends *time.Time) []trial.Trial {
	t.Helper()
	server := recorded.Start(t, r)
	answer, err := trial.New(trial.Config{}).Try(t.Context(), trial.Question{Image: server.Host() + "/team/app:v1", Login: login})
	if err != nil {
		t.Fatal(err)
	}
	answer.Ends, answer.Time = ends, now
	return []trial.Trial{{Answer: answer}}
}

const image = "gitea.example.com/team/app:v1"

func scenes(t *testing.T) map[string]scene {
	t.Helper()
	gitea, hub, harbor, gitlab, ecr, distribution := recorded.Gitea(), recorded.Hub(), recorded.Harbor(), recorded.GitLab(), recorded.ECR(), recorded.Distribution()
	login := map[string]string{file: with("{host}")}
	nobody := map[string]string{}
	certificate := &trial.Certificate{
		Subject: "CN=other", Issuer: "CN=own", Names: []string{"registry.example.com"}, NotBefore: early, NotAfter: early,
	}
	bot := consumer.Login{Username: "bot", Password: credential.NewSecret(secret)}
	registryToken := consumer.Login{RegistryToken: credential.NewSecret(secret)}
	all := map[string]scene{
		"Gitea, works": {registry: &gitea, files: login, want: codes("login-works")},
		"public":       {registry: &hub, files: nobody, want: codes("image-public")},

		"Gitea, wrong token": {
			registry: recording(gitea, func(r *recorded.Recording) { r.Token, r.Known = recorded.GiteaAsks, recorded.GiteaAsks }), files: login,
			want: codes("gitea-token-wrong"), says: []string{"24 hours"},
		},
		"Gitea, no scope": {
			registry: recording(gitea, func(r *recorded.Recording) { r.Token = recorded.GiteaAsks }), files: login,
			want: codes("gitea-token-without-scope"), says: []string{"read:package"},
		},
		"Gitea, private owner": {
			registry: recording(gitea, func(r *recorded.Recording) { r.Manifest = recorded.GiteaPackageAccess }), files: login,
			want: codes("gitea-owner-private"), says: []string{"team is private", "reqPackageAccess"},
		},
		"Gitea, nobody": {registry: &gitea, files: nobody, want: codes("gitea-login-missing")},
		"Gitea, no owner": {
			registry: recording(gitea, func(r *recorded.Recording) { r.Manifest = recorded.GiteaNoOwner }), files: login, want: codes("gitea-owner-unknown"),
		},
		"Gitea, no tag": {
			registry: recording(gitea, func(r *recorded.Recording) { r.Manifest = recorded.GiteaNoManifest }), files: login, want: codes("tag-missing"),
		},
		"Gitea, sign-in required": {
			registry: recording(gitea, func(r *recorded.Recording) { r.NobodyToken = recorded.GiteaAsks }), files: nobody, want: codes("login-missing"),
		},
		"Gitea, registry token": {answers: token(t, gitea, registryToken, &late), want: codes("gitea-token-outlives-revocation"), says: []string{"2026-03-02 11:00 UTC"}},

		"distribution, wrong password": {
			registry: recording(distribution, func(r *recorded.Recording) { r.Manifest = recorded.DistributionAsks }), files: login, want: codes("login-wrong"),
		},
		"distribution, nobody": {registry: &distribution, files: nobody, want: codes("login-missing")},
		"distribution, no tag": {
			registry: recording(distribution, func(r *recorded.Recording) { r.Manifest = recorded.DistributionNoManifest }), files: login, want: codes("tag-missing"),
		},

		"Docker Hub, wrong password": {
			registry: recording(hub, func(r *recorded.Recording) { r.Token, r.NobodyManifest = recorded.HubWrong, recorded.HubDenied }), files: login,
			want: codes("login-wrong"), says: []string{"incorrect username or password"},
		},
		"Docker Hub, no access or no repository": {
			registry: recording(hub, func(r *recorded.Recording) {
				r.Manifest, r.NobodyManifest, r.Grants = recorded.HubDenied, recorded.HubDenied, []string{}
			}), files: login,
			want: codes("access-or-unknown"),
		},
		"Docker Hub, nobody, private": {
			registry: recording(hub, func(r *recorded.Recording) { r.NobodyManifest, r.Grants = recorded.HubDenied, []string{} }), files: nobody,
			want: codes("login-missing"),
		},
		"Docker Hub, limit": {
			registry: recording(hub, func(r *recorded.Recording) { r.NobodyManifest = recorded.HubLimited }), files: nobody,
			want: codes("rate-limited"), says: []string{"100 pulls in 21600 seconds", "203.0.113.7 (an address", "Retry-After: 60"},
		},
		"Docker Hub, none left": {
			registry: recording(hub, func(r *recorded.Recording) { r.NobodyManifest = recorded.HubLastImage }), files: nobody, want: codes("rate-limit-reached"),
		},
		"stale login, public image": {
			registry: recording(hub, func(r *recorded.Recording) { r.Token = recorded.HubWrong }), files: login,
			want: codes("login-wrong", "stale-login-public-image"),
		},
		"stale login, public image, act": {
			client: "act", registry: recording(hub, func(r *recorded.Recording) { r.Token = recorded.HubWrong }), files: login,
			want: codes("login-wrong", "anonymous-retry"), says: []string{"which is public"},
		},
		"stale login, private image, gitea-runner": {
			client: "gitea-runner", registry: recording(gitea, func(r *recorded.Recording) { r.Token, r.Known = recorded.GiteaAsks, recorded.GiteaAsks }), files: login,
			want: codes("gitea-token-wrong", "anonymous-retry"), says: []string{"the refusal of nobody"},
		},

		"ECR, expired": {answers: token(t, *recording(ecr, func(r *recorded.Recording) { r.Manifest = recorded.ECRExpired }), bot, &early), want: codes("ecr-token-expired"), says: []string{
			"ended at 2026-03-01 11:00 UTC", "Reauthenticate",
		}},
		"ECR, expired by its message": {
			registry: recording(ecr, func(r *recorded.Recording) { r.Manifest = recorded.ECRExpired }), files: login, want: codes("ecr-token-expired"),
		},
		"ECR, no right": {
			registry: recording(ecr, func(r *recorded.Recording) { r.Manifest = recorded.ECRDenied }), files: login, want: codes("ecr-denied"),
		},
		"ECR, no repository": {
			registry: recording(ecr, func(r *recorded.Recording) { r.Manifest = recorded.ECRNoRepository }), files: login, want: codes("repository-unknown"),
		},
		"ECR, nobody": {registry: &ecr, files: nobody, want: codes("login-missing")},

		"Harbor, wrong password": {
			registry: recording(harbor, func(r *recorded.Recording) { r.Token = recorded.HarborWrong }), files: login, want: codes("login-wrong"),
		},
		"Harbor, robot without the project": {
			registry: recording(harbor, func(r *recorded.Recording) { r.Manifest, r.Grants = recorded.HarborDenied, []string{} }), files: login,
			want: codes("access-or-unknown"),
		},
		"Harbor, no artifact": {
			registry: recording(harbor, func(r *recorded.Recording) { r.Manifest = recorded.HarborNoArtifact }), files: login, want: codes("tag-missing"),
		},
		"Harbor, expired robot": {
			answers: token(t, *recording(harbor, func(r *recorded.Recording) { r.Token = recorded.HarborWrong }), bot, &early), want: codes("login-expired"),
		},
		"identity token": {
			registry: recording(harbor, func(r *recorded.Recording) { r.Token = recorded.HarborWrong }),
			files:    map[string]string{file: `{"auths":{"{host}":{"identitytoken":"the-secret-of-the-bot"}}}`}, want: codes("identity-token-refused"),
		},

		"GitLab, wrong token": {
			registry: recording(gitlab, func(r *recorded.Recording) { r.Token = recorded.GitLabWrong }), files: login, want: codes("login-wrong"),
		},
		"GitLab, no right": {
			registry: recording(gitlab, func(r *recorded.Recording) { r.Token = recorded.GitLabDenied }), files: login, want: codes("access-or-unknown"),
		},
		"GitLab, nobody": {registry: &gitlab, files: nobody, want: codes("login-missing")},

		"no registry there": {
			registry: recording(hub, func(r *recorded.Recording) {
				r.Root = recorded.Reply{Status: 404, Header: map[string]string{"Content-Type": "text/html"}, Body: "<h1>nginx</h1>"}
			}), files: nobody,
			want: codes("not-a-registry"), says: []string{"Not Found"},
		},
		"registry broken": {
			registry: recording(hub, func(r *recorded.Recording) { r.Root = recorded.Reply{Status: 502} }), files: nobody, want: codes("registry-error"),
		},
		"no known answer": {
			registry: recording(hub, func(r *recorded.Recording) { r.NobodyManifest = recorded.Reply{Status: 418} }), files: nobody, want: codes("unclear"),
		},

		"helper fails": {
			registry: &gitea, files: map[string]string{file: `{"credHelpers":{"{host}":"ecr-login"}}`},
			around: consumer.Surroundings{Helpers: helpers{errHelper}}, want: codes("helper-failed"), says: []string{"not found in $PATH"},
		},
		"helper fails, public image": {
			client: "gitea-runner", registry: &hub, files: map[string]string{file: `{"credsStore":"ecr-login"}`},
			around: consumer.Surroundings{Helpers: helpers{errHelper}}, want: codes("helper-fails-public-image", "helper-failed"),
		},
		"helper fails, docker before 28.3": {
			client: "docker-28.2", registry: &hub, files: map[string]string{file: `{"credsStore":"ecr-login"}`},
			around: consumer.Surroundings{Helpers: helpers{errHelper}}, want: codes("helper-fails-silently", "image-public"),
		},
		"helper comes before the file": {
			registry: &gitea, files: map[string]string{file: strings.Replace(with("{host}"), `{"auths"`, `{"credsStore":"pass","auths"`, 1)},
			around: consumer.Surroundings{Helpers: helpers{}}, want: codes("login-works", "helper-hides-entries"),
		},
		"GitLab Runner, one helper and all entries": {
			client: "gitlab-runner", registry: &gitea,
			files:  map[string]string{file: strings.Replace(with("{host}"), `{"auths"`, `{"credHelpers":{"1.dkr.ecr.eu-west-1.amazonaws.com":"ecr-login"},"auths"`, 1)},
			around: consumer.Surroundings{Helpers: helpers{errHelper}}, want: codes("gitea-login-missing", "source-dropped"),
		},

		"key of Docker Hub": {
			image: "busybox:1", files: map[string]string{file: with("index.docker.io")}, want: codes("key-never-matches"),
			says: []string{"https://index.docker.io/v1/"},
		},
		"key with another port": {image: image, files: map[string]string{file: with("gitea.example.com:443")}, want: codes("key-never-matches")},
		"key with a path, GitLab Runner": {
			client: "gitlab-runner", image: image, files: map[string]string{file: with("gitea.example.com/v2")}, want: codes("key-never-matches"),
		},
		"keys with paths": {
			image: image, files: map[string]string{file: with("gitea.example.com/team", "gitea.example.com/other")}, want: codes("login-by-chance"),
			says: []string{"gitea.example.com/other, gitea.example.com/team"},
		},
		"file broken":              {image: image, files: map[string]string{file: `{"auths":`}, want: codes("config-broken")},
		"file broken, act":         {client: "act", image: image, files: map[string]string{file: `{"auths":`}, want: codes("client-gives-up", "config-broken")},
		"entry empty":              {image: image, files: map[string]string{file: `{"auths":{"gitea.example.com":{}}}`}, want: codes("entry-empty")},
		"identity token, act":      {client: "act", image: image, files: map[string]string{file: `{"auths":{"gitea.example.com":{"identitytoken":"x"}}}`}, want: codes("identity-token-ignored")},
		"secrets of the workflows": {client: "gitea-runner", image: image, around: consumer.Surroundings{Job: consumer.Job{Secrets: map[string]string{"DOCKER_USERNAME": "hub", "DOCKER_PASSWORD": secret}}}, want: codes("docker-secrets-everywhere")},
		"a longer path comes first": {
			client: "gitlab-runner", image: image, files: map[string]string{file: with("gitea.example.com", "gitea.example.com/team")}, want: codes("login-hidden"),
		},
		"DOCKER_AUTH_CONFIG first": {
			image: image, files: map[string]string{file: with("gitea.example.com")},
			around: consumer.Surroundings{Env: map[string]string{"DOCKER_AUTH_CONFIG": with("gitea.example.com")}}, want: codes("docker-auth-config-shadows"),
		},
		"DOCKER_AUTH_CONFIG with more fields": {
			image: image, around: consumer.Surroundings{Env: map[string]string{"DOCKER_AUTH_CONFIG": `{"auths":{},"credsStore":"x"}`}},
			want: codes("docker-auth-config-ignored"),
		},
		"DOCKER_AUTH_CONFIG, docker before 28.3": {
			client: "docker-28.2", image: image, around: consumer.Surroundings{Env: map[string]string{"DOCKER_AUTH_CONFIG": with("gitea.example.com")}},
			want: codes("docker-auth-config-ignored"),
		},
		"pull Secret missing": {
			client: "kubelet", image: image, around: consumer.Surroundings{Pod: consumer.Pod{Secrets: []consumer.PullSecret{{Namespace: "ci", Name: "gitea", Missing: true}}}},
			want: codes("pull-secret-unusable"),
		},
		"containerd": {
			client: "containerd", image: image, files: map[string]string{"/etc/containerd/config.toml": "version = 2\n" +
				"[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n" +
				"[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"gitea.example.com\".auth]\nusername = \"bot\"\npassword = \"the-secret-of-the-bot\"\n"},
			want: codes("containerd-login-ignored"),
		},

		"file read-only":         {image: image, files: map[string]string{file: with("gitea.example.com")}, facts: explain.Facts{Places: []explain.Place{{Path: file, ReadOnly: true}, {Path: "/elsewhere"}}}, want: codes("config-read-only"), says: []string{"read only"}},
		"file a mount":           {image: image, files: map[string]string{file: with("gitea.example.com")}, facts: explain.Facts{Places: []explain.Place{{Path: file, Mounted: true}}}, want: codes("config-read-only"), says: []string{"replaced"}},
		"pull Secrets":           {client: "gitea-runner", image: image, facts: explain.Facts{PullSecrets: []string{"gitea-credentials"}}, want: codes("pull-secrets-unused")},
		"daemon of dind":         {client: "gitea-runner", image: image, facts: explain.Facts{DockerHost: "tcp://localhost:2376", DaemonLogin: "/root/.docker/config.json of the container dind"}, want: codes("login-beside-daemon", "daemon-elsewhere")},
		"image is there":         {client: "gitlab-runner", registry: recording(gitea, func(r *recorded.Recording) { r.Token, r.Known = recorded.GiteaAsks, recorded.GiteaAsks }), files: login, facts: explain.Facts{Present: true}, want: codes("gitea-token-wrong", "image-present")},
		"image is there, policy": {client: "gitlab-runner", registry: recording(gitea, func(r *recorded.Recording) { r.Token, r.Known = recorded.GiteaAsks, recorded.GiteaAsks }), files: login, facts: explain.Facts{Present: true, PullPolicy: "Always"}, want: codes("gitea-token-wrong")},
		"image and login":        {client: "gitlab-runner", registry: &gitea, files: login, facts: explain.Facts{Present: true}, want: codes("login-works")},
	}
	for kind, code := range map[trial.FaultKind]explain.Code{
		trial.NameUnknown: "dns-unknown-host", trial.NameFailed: "dns-failed", trial.Refused: "connection-refused", trial.NoRoute: "unreachable",
		trial.Timeout: "unreachable", trial.Broken: "connection-broken", trial.UnknownAuthority: "tls-unknown-authority",
		trial.WrongName: "tls-wrong-name", trial.Expired: "tls-expired", trial.NotYet: "tls-not-yet", trial.BadCertificate: "tls-bad-certificate",
		trial.Alert: "tls-refused-by-server", trial.PlainSpoken: "registry-speaks-plain-http", trial.TLSSpoken: "registry-speaks-tls",
		trial.ProxyUnreachable: "proxy-unreachable", trial.ProxyLogin: "proxy-login", trial.ProxyRefused: "proxy-refused",
		trial.PlainRealm: "token-server-plain-http", trial.BadRealm: "token-server-broken", trial.BadToken: "token-server-broken",
		trial.Redirect: "redirect-refused", trial.Other: "unclear",
	} {
		all["fault "+string(kind)] = scene{image: image, answers: failed(trial.TLS, kind, certificate), want: codes(code), says: []string{"what the library says"}}
		all["fault without a certificate "+string(kind)] = scene{image: image, answers: failed(trial.Root, kind, nil), want: codes(code)}
	}
	return all
}

func codes(list ...explain.Code) []explain.Code { return list }

// play has the client decide, tries its logins, and explains.
func play(t *testing.T, s scene) []explain.Diagnosis {
	t.Helper()
	client := s.client
	if client == "" {
		client = "docker"
	}
	host := "gitea.example.com"
	if s.registry != nil {
		host = recorded.Start(t, *s.registry).Host()
		s.image = host + "/team/app:v1"
	}
	if s.image == "" {
		s.image = image
	}
	s.around.Home = "/home"
	s.around.ReadFile = func(path string) ([]byte, error) {
		if text, ok := s.files[path]; ok {
			return []byte(strings.ReplaceAll(text, "{host}", host)), nil
		}
		return nil, fs.ErrNotExist
	}
	c, err := consumer.Find(client)
	if err != nil {
		t.Fatal(err)
	}
	decision, err := c.Decide(s.image, s.around)
	if err != nil {
		t.Fatal(err)
	}
	s.facts.Trials = s.answers
	if s.registry != nil {
		if s.facts.Trials, err = trial.New(trial.Config{}).TryAll(t.Context(), decision, trial.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	return explain.Diagnose(decision, s.facts)
}

func TestDiagnose(t *testing.T) {
	t.Parallel()
	for name, s := range scenes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			diagnoses := play(t, s)
			var got []explain.Code
			for _, d := range diagnoses {
				got = append(got, d.Code)
			}
			if diff := cmp.Diff(s.want, got); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
			text, err := json.Marshal(diagnoses)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), secret) {
				t.Errorf("the secret is told: %s", text)
			}
			if left := regexp.MustCompile(`\{[a-z ]+\}`).FindString(fmt.Sprintf("%+v", diagnoses)); left != "" {
				t.Errorf("%s is not filled: %+v", left, diagnoses)
			}
			flat := fmt.Sprintf("%+v", diagnoses)
			for _, piece := range s.says {
				if !strings.Contains(flat, piece) {
					t.Errorf("%q is not said: %s", piece, flat)
				}
			}
			for _, d := range diagnoses {
				if d.Title == "" || d.Cause == "" || d.Cure == "" && d.Severity == explain.Error || len(d.Evidence) == 0 || d.Doc == "" {
					t.Errorf("it says too little: %+v", d)
				}
			}
		})
	}
}

// Every code is found by some scene, and has a page; every page has a code.
func TestEveryCode(t *testing.T) {
	t.Parallel()
	var known, found []string
	for _, e := range explain.Entries() {
		known = append(known, string(e.Code))
	}
	for _, s := range scenes(t) {
		for _, code := range s.want {
			found = append(found, string(code))
		}
	}
	slices.Sort(found)
	if diff := cmp.Diff(slices.Sorted(slices.Values(known)), slices.Compact(found)); diff != "" {
		t.Errorf("codes that a scene wants (-table +scenes):\n%s", diff)
	}
	pages, err := filepath.Glob("../docs/diagnoses/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var paged []string
	for _, path := range pages {
		if name := strings.TrimSuffix(filepath.Base(path), ".md"); name != "README" {
			paged = append(paged, name)
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(known)), paged); diff != "" {
		t.Errorf("codes that have a page (-table +docs/diagnoses):\n%s", diff)
	}
	for _, e := range explain.Entries() {
		text, err := os.ReadFile(filepath.Join("..", e.Doc))
		if err != nil {
			continue
		}
		if !strings.HasPrefix(string(text), "# "+e.Title+"\n") {
			t.Errorf("%s does not begin with its title %q", e.Doc, e.Title)
		}
		for _, part := range []string{"## How it shows", "## Check by hand", "## Cure"} {
			if !strings.Contains(string(text), part+"\n") {
				t.Errorf("%s has no part %q", e.Doc, part)
			}
		}
		if !strings.Contains(string(text), "`"+string(e.Code)+"`") {
			t.Errorf("%s does not name its code", e.Doc)
		}
	}
}

// The rules that the tables name are those of package consumer.
func TestRulesExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../consumer/rules.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range explain.RuleIDs() {
		if !strings.Contains(string(text), "\t\t\""+id+"\", ") {
			t.Errorf("no rule %q", id)
		}
	}
}

// Whatever a registry answers, something is said of it, and no place is left open.
func TestSomethingIsSaid(t *testing.T) {
	t.Parallel()
	stages := []trial.Stage{trial.Name, trial.Connect, trial.TLS, trial.Root, trial.Token, trial.Known, trial.Manifest, trial.Reason, "another"}
	kinds := []trial.Kind{trial.Nobody, trial.Password, trial.IdentityToken, trial.RegistryToken}
	errorCodes := []string{"UNAUTHORIZED", "DENIED", "NAME_UNKNOWN", "MANIFEST_UNKNOWN", "NOT_FOUND", "TOOMANYREQUESTS", ""}
	services := []string{"container_registry", "ecr.amazonaws.com", "registry.docker.io", ""}
	realms := []string{"https://host/v2/token", "Gitea Package API", "", "{image}"}
	faults := []trial.FaultKind{"", "", "", trial.NameUnknown, trial.Expired, trial.ProxyLogin, "another"}
	clients := consumer.All()
	rapid.Check(t, func(t *rapid.T) {
		var steps []trial.Step
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			s := trial.Step{
				Stage: rapid.SampledFrom(stages).Draw(t, "stage"), Asked: "GET", Status: rapid.SampledFrom([]int{0, 200, 400, 401, 403, 404, 418, 429, 500}).Draw(t, "status"),
				Challenges: []trial.Challenge{{
					Scheme: rapid.SampledFrom([]string{"basic", "bearer"}).Draw(t, "scheme"), Realm: rapid.SampledFrom(realms).Draw(t, "realm"),
					Service: rapid.SampledFrom(services).Draw(t, "service"),
				}},
				Errors: []trial.RegistryError{{Code: rapid.SampledFrom(errorCodes).Draw(t, "code"), Message: rapid.String().Draw(t, "message")}},
				Header: map[string]string{"Ratelimit-Remaining": rapid.SampledFrom([]string{"0;w=1", "1;w=1", "", "x"}).Draw(t, "left")},
			}
			if kind := rapid.SampledFrom(faults).Draw(t, "fault"); kind != "" {
				s.Fault = &trial.Fault{Kind: kind, Host: "host", Text: "text"}
			}
			steps = append(steps, s)
		}
		answer := trial.Answer{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Steps: steps, Time: now}
		if rapid.Bool().Draw(t, "ends") {
			answer.Ends = &early
		}
		decision, err := rapid.SampledFrom(clients).Draw(t, "client").Decide(image, consumer.Surroundings{})
		if err != nil {
			t.Fatal(err)
		}
		diagnoses := explain.Diagnose(decision, explain.Facts{Trials: []trial.Trial{{Answer: answer}}})
		if len(diagnoses) == 0 {
			t.Fatal("nothing is said")
		}
		for _, d := range diagnoses {
			if d.Cause == "" || d.Title == "" || regexp.MustCompile(`\{[a-z]+\}`).MatchString(d.Cause+d.Cure) {
				t.Errorf("diagnosis %+v", d)
			}
		}
	})
}
