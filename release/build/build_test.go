package build_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release/build"
)

const (
	host  credential.Host = "gitea.example.com"
	token string          = "s3cret-of-the-push"
)

var logins = build.Logins{host: {Username: "ci", Secret: credential.NewSecret(token)}}

func (b *bench) job() build.Job {
	return build.Job{
		Name: "api", Repository: image.Repository{Host: host, Path: "admin/honeydue-api"}, Context: b.context, Target: "api",
		Platforms: []string{"linux/amd64", "linux/arm64"},
	}
}

// full is a job that asks for everything.
func (b *bench) full() build.Job {
	job := b.job()
	job.Dockerfile = "Dockerfile"
	job.Args = map[string]string{"GOFLAGS": "-trimpath", "A": "1"}
	job.Contexts = map[string]string{"lib": b.home, "base": "docker-image://alpine:3"}
	job.Secrets = []build.Secret{{ID: "npm", Env: "NPM_TOKEN"}, {ID: "key", File: "/keys/a,b"}}
	job.Labels = map[string]string{"org.opencontainers.image.revision": "abc"}
	job.Annotations = map[string]string{"org.opencontainers.image.revision": "abc"}
	job.SBOM = "generator=example.com/scanner"
	job.Epoch = time.Unix(1700000000, 0)
	job.Insecure, job.Pull, job.NoCache = true, true, true
	return job
}

func buildx(b *bench, t *testing.T) *build.Buildx {
	t.Helper()
	x := build.NewBuildx(build.BuildxConfig{Tools: b.tools(), Builder: "honeydue-builder"})
	if err := x.Prepare(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return x
}

func TestBuildxArguments(t *testing.T) {
	b := newBench(t, "docker")
	t.Setenv("NPM_TOKEN", "npm-secret")
	x := buildx(b, t)
	built, err := x.Build(t.Context(), b.full(), logins, nil)
	if err != nil || built.Digest != digest.FromString("built") {
		t.Fatalf("built %+v, %v", built, err)
	}
	calls := b.calls()
	got := calls[len(calls)-1]
	metadata := got.Argv[slices.Index(got.Argv, "--metadata-file")+1]
	want := []string{
		"buildx", "build", "--builder", "honeydue-builder", "--progress", "plain", "--metadata-file", metadata,
		"--output", "type=image,name=gitea.example.com/admin/honeydue-api,push-by-digest=true,name-canonical=true,push=true,registry.insecure=true,rewrite-timestamp=true",
		"--file", filepath.Join(b.context, "Dockerfile"), "--target", "api", "--platform", "linux/amd64,linux/arm64", "--pull", "--no-cache",
		"--build-arg", "A=1", "--build-arg", "GOFLAGS=-trimpath", "--build-arg", "SOURCE_DATE_EPOCH=1700000000",
		"--build-context", "base=docker-image://alpine:3", "--build-context", "lib=" + b.home,
		"--label", "org.opencontainers.image.revision=abc", "--annotation", "index,manifest:org.opencontainers.image.revision=abc",
		"--secret", "id=npm,env=NPM_TOKEN", "--secret", `id=key,"src=/keys/a,b"`,
		"--provenance=mode=min", "--sbom=generator=example.com/scanner", b.context,
	}
	if diff := cmp.Diff(want, got.Argv); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}

	job := b.job()
	job.Platforms, job.Target, job.Provenance, job.SBOM = nil, "", "false", "false"
	job.Annotations = map[string]string{"a": "b"}
	if _, err := x.Build(t.Context(), job, logins, nil); err != nil {
		t.Fatal(err)
	}
	calls = b.calls()
	got = calls[len(calls)-1]
	metadata = got.Argv[slices.Index(got.Argv, "--metadata-file")+1]
	want = []string{
		"buildx", "build", "--builder", "honeydue-builder", "--progress", "plain", "--metadata-file", metadata,
		"--output", "type=image,name=gitea.example.com/admin/honeydue-api,push-by-digest=true,name-canonical=true,push=true",
		"--file", filepath.Join(b.context, "Dockerfile"), "--annotation", "manifest:a=b", "--provenance=false", "--sbom=false", b.context,
	}
	job.Provenance = "mode=min,inline-only=true"
	if _, err := x.Build(t.Context(), job, logins, nil); err != nil {
		t.Fatal(err)
	}
	if calls = b.calls(); !slices.Contains(calls[len(calls)-1].Argv, "manifest:a=b") {
		t.Errorf("an image without an index: %v", calls[len(calls)-1].Argv)
	}
	if diff := cmp.Diff(want, got.Argv); diff != "" {
		t.Errorf("arguments of a plain image (-want +got):\n%s", diff)
	}
}

func TestBuildctlArguments(t *testing.T) {
	b := newBench(t, "buildctl")
	t.Setenv("NPM_TOKEN", "npm-secret")
	x := build.NewBuildctl(build.BuildctlConfig{Tools: b.tools(), Address: "tcp://127.0.0.1:1234", TLS: "/certs"})
	if err := x.Prepare(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	built, err := x.Build(t.Context(), b.full(), logins, nil)
	if err != nil || built.Digest != digest.FromString("built") {
		t.Fatalf("built %+v, %v", built, err)
	}
	got := b.calls()[1]
	metadata := got.Argv[slices.Index(got.Argv, "--metadata-file")+1]
	want := []string{
		"--addr", "tcp://127.0.0.1:1234", "--tlsdir", "/certs", "build", "--progress", "plain", "--metadata-file", metadata,
		"--output", "type=image,name=gitea.example.com/admin/honeydue-api,push-by-digest=true,name-canonical=true,push=true,registry.insecure=true,rewrite-timestamp=true,annotation.org.opencontainers.image.revision=abc,annotation-index.org.opencontainers.image.revision=abc",
		"--frontend", "dockerfile.v0", "--local", "context=" + b.context, "--local", "dockerfile=" + b.context, "--opt", "filename=Dockerfile",
		"--opt", "target=api", "--opt", "platform=linux/amd64,linux/arm64", "--opt", "image-resolve-mode=pull", "--no-cache",
		"--opt", "build-arg:A=1", "--opt", "build-arg:GOFLAGS=-trimpath", "--opt", "build-arg:SOURCE_DATE_EPOCH=1700000000",
		"--local", "named-lib=" + b.home, "--opt", "context:base=docker-image://alpine:3", "--opt", "context:lib=local:named-lib",
		"--opt", "label:org.opencontainers.image.revision=abc",
		"--secret", "id=npm,env=NPM_TOKEN", "--secret", `id=key,"src=/keys/a,b"`,
		"--opt", "attest:provenance=mode=min", "--opt", "attest:sbom=generator=example.com/scanner",
	}
	if diff := cmp.Diff(want, got.Argv); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"--addr", "tcp://127.0.0.1:1234", "--tlsdir", "/certs", "debug", "workers"}, b.calls()[0].Argv); diff != "" {
		t.Errorf("arguments of the first look (-want +got):\n%s", diff)
	}
	if left := b.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

const usersConfig = `{
	"auths": {"gitea.example.com": {"auth": "bWU6bWluZQ=="}, "other.example": {"auth": "bWU6bWluZQ=="}},
	"credsStore": "desktop",
	"currentContext": "builder-vm",
	"cliPluginsExtraDirs": ["/opt/plugins"]
}
`

// TestLoginIsGoneAfterwards is about what a program gets while it builds, and
// what is left when it has ended, however that was.
func TestLoginIsGoneAfterwards(t *testing.T) {
	for _, how := range []string{"built", "fail", "hang"} {
		t.Run(how, func(t *testing.T) {
			b := newBench(t, "docker")
			path := filepath.Join(b.user, "config.json")
			must(os.WriteFile(path, []byte(usersConfig), 0o600))
			t.Setenv("REGISTRY_TOKEN", token)
			t.Setenv("NPM_TOKEN", "npm-secret")
			t.Setenv("KEPT_OUT", "x")
			x := buildx(b, t)
			b.say(how)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if how == "hang" {
				go func() {
					for ctx.Err() == nil {
						if _, err := os.Stat(filepath.Join(b.home, "hangs")); err == nil {
							cancel()
						}
						<-time.After(time.Millisecond)
					}
				}()
			}
			job := b.job()
			job.Secrets = []build.Secret{{ID: "npm", Env: "NPM_TOKEN"}}
			var told []string
			_, err := x.Build(ctx, job, logins, func(line string) { told = append(told, line) })
			switch how {
			case "built":
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff([]string{"#1 building", "#2 exporting"}, told); diff != "" {
					t.Errorf("told (-want +got):\n%s", diff)
				}
			case "fail":
				var failure *build.Failure
				if !errors.As(err, &failure) || failure.Code != 3 || len(failure.Lines) != 15 || failure.Lines[13] != "#39 line" || problem.KindOf(err) != problem.Config {
					t.Errorf("fails with %v", err)
				}
				if text := err.Error() + strings.Join(told, ""); strings.Contains(text, token) || !strings.Contains(text, "tells the secret [redacted]") {
					t.Errorf("the secret is told: %s", text)
				}
			case "hang":
				if !errors.Is(err, context.Canceled) {
					t.Errorf("ends with %v", err)
				}
			}

			calls := b.calls()
			got := calls[len(calls)-1]
			for _, c := range calls {
				for _, text := range append(slices.Clone(c.Argv), c.Env...) {
					if strings.Contains(text, token) || strings.HasPrefix(text, "KEPT_OUT") || strings.Contains(text, "npm-secret") && text != "NPM_TOKEN=npm-secret" {
						t.Errorf("%s of %v", text, c.Argv[:2])
					}
				}
			}
			if !slices.Contains(got.Env, "NPM_TOKEN=npm-secret") || !slices.Contains(got.Env, "BUILDX_CONFIG="+filepath.Join(b.user, "buildx")) {
				t.Errorf("environment %v", got.Env)
			}
			doc, err := dockerconfig.Parse([]byte(got.Config))
			must(err)
			count := 0
			for range doc.Logins() {
				count++
			}
			if login, ok := doc.Login(host); !ok || !login.Equal(logins[host]) || count != 1 || strings.Contains(got.Config, "credsStore") {
				t.Errorf("config.json of the build: %s", got.Config)
			}
			for _, word := range []string{"builder-vm", "/opt/plugins"} {
				if !strings.Contains(got.Config, word) {
					t.Errorf("config.json of the build lacks %s: %s", word, got.Config)
				}
			}
			if got.Modes["."].Perm() != 0o700 || got.Modes["config.json"].Perm() != 0o600 {
				t.Errorf("modes %v", got.Modes)
			}
			if diff := cmp.Diff([]string{"meta"}, got.Contexts); diff != "" {
				t.Errorf("docker contexts (-want +got):\n%s", diff)
			}
			if left := b.left(); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if _, err := os.Stat(filepath.Join(b.user, "contexts", "meta")); err != nil {
				t.Errorf("the user's contexts: %v", err)
			}
			after, err := os.ReadFile(path)
			if err != nil || string(after) != usersConfig {
				t.Errorf("the user's config.json is %s, %v", after, err)
			}
		})
	}
}

func TestFoldersOfTheDeadAreSwept(t *testing.T) {
	b := newBench(t, "docker")
	x := buildx(b, t)
	old := time.Now().Add(-time.Hour)
	for _, name := range []string{"regkeeper-build-dead", "regkeeper-build-early", "other"} {
		folder := filepath.Join(b.temp, name)
		must(os.Mkdir(folder, 0o700))
		if name == "regkeeper-build-dead" {
			must(os.WriteFile(filepath.Join(folder, "lock"), nil, 0o600))
		}
		must(os.Chtimes(folder, old, old))
	}
	if _, err := x.Build(t.Context(), b.job(), logins, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"other"}, b.left()); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestBuilderIsMadeOnce(t *testing.T) {
	b := newBench(t, "docker")
	x := build.NewBuildx(build.BuildxConfig{
		Tools: b.tools(), Options: map[string]string{"network": "host"},
		Registries: map[credential.Host]build.RegistryOptions{
			"localhost:5000": {HTTP: true},
			host:             {Insecure: true, CA: `/etc/a "b".pem`, Mirrors: []string{"mirror.example"}},
		},
	})
	for range 2 {
		if err := x.Prepare(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	var commands []string
	for _, c := range b.calls() {
		commands = append(commands, c.Argv[1])
		if c.Argv[1] == "create" {
			toml := c.Argv[slices.Index(c.Argv, "--buildkitd-config")+1]
			want := []string{"buildx", "create", "--name", "regkeeper", "--driver", "docker-container", "--driver-opt", "network=host", "--buildkitd-config", toml}
			if diff := cmp.Diff(want, c.Argv); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
			const text = `[registry."gitea.example.com"]
  insecure = true
  ca = ["/etc/a \"b\".pem"]
  mirrors = ["mirror.example"]
[registry."localhost:5000"]
  http = true
`
			if diff := cmp.Diff(text, c.Toml); diff != "" {
				t.Errorf("buildkitd.toml (-want +got):\n%s", diff)
			}
		}
	}
	if diff := cmp.Diff([]string{"ls", "create", "inspect", "ls", "inspect"}, commands); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if driver, present, err := x.Present(t.Context()); driver != "docker-container" || !present || err != nil {
		t.Errorf("present: %s %v %v", driver, present, err)
	}
	for range 2 {
		if err := x.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, present, err := x.Present(t.Context()); present || err != nil {
		t.Errorf("present after its removal: %v %v", present, err)
	}
	if left := b.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBuilderMadeByAnotherMeanwhile(t *testing.T) {
	b := newBench(t, "docker")
	b.say("late")
	if err := build.NewBuildx(build.BuildxConfig{Tools: b.tools()}).Prepare(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestBuilderThatCannotPushByDigest(t *testing.T) {
	b := newBench(t, "docker")
	keep(b.home, map[string]string{"default": "docker", "farm": "docker-container"})
	for _, name := range []string{"default", "farm"} {
		err := build.NewBuildx(build.BuildxConfig{Tools: b.tools(), Builder: name}).Prepare(t.Context(), nil)
		if problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
			t.Errorf("%s prepared: %v", name, err)
		}
	}
}

func TestWhatIsRefusedBeforeABuild(t *testing.T) {
	b := newBench(t, "docker")
	x := buildx(b, t)
	before := len(b.calls())
	for name, change := range map[string]func(*build.Job){
		"no context":             func(j *build.Job) { j.Context = filepath.Join(b.context, "nowhere") },
		"no Dockerfile":          func(j *build.Job) { j.Dockerfile = "other" },
		"a secret of two places": func(j *build.Job) { j.Secrets = []build.Secret{{ID: "a", Env: "PATH", File: "/x"}} },
		"a secret without id":    func(j *build.Job) { j.Secrets = []build.Secret{{Env: "PATH"}} },
		"a variable not set":     func(j *build.Job) { j.Secrets = []build.Secret{{ID: "a", Env: "NOT_SET_ANYWHERE"}} },
	} {
		job := b.job()
		change(&job)
		if _, err := x.Build(t.Context(), job, logins, nil); problem.KindOf(err) != problem.Config {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := len(b.calls()); after != before {
		t.Errorf("%d programs were run", after-before)
	}
	missing := build.NewBuildx(build.BuildxConfig{Tools: build.Tools{Program: filepath.Join(b.home, "none")}})
	if err := missing.Prepare(t.Context(), nil); problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
		t.Errorf("without docker: %v", err)
	}
}
