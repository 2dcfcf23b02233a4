package e2e_test

import (
	"encoding/base64"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "code.gitea.io/sdk/gitea"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/gitlabrunner"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/e2e/peers/runner"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitlabrunner"
	registered "github.com/regkeeper/regkeeper/runner"
)

// daemonConfig is that of a runner whose Docker daemon has no bridge, and which
// pulls each job's image.
const daemonConfig = `runner:
  file: .runner
  fetch_interval: 1s
  log_report_interval: 1s
  log_report_max_latency: 500ms
  state_report_interval: 1s
cache: {enabled: false}
container: {network: host, docker_host: "-", force_pull: true, require_docker: true}
`

// The whole way of a runner whose jobs run in a private image: it is registered by
// one command, and its first job passes; it gets another token, without a job that
// fails; and it goes. Nobody but regkeeper writes its files.
func TestRunnerRegister(t *testing.T) {
	t.Parallel()
	server, daemon := gitea.Start(t), docker.Start(t)
	password := server.CreateUser(owner)
	_, token := server.CreateToken(owner, password, "pusher", "write:package")
	ref := server.Host + "/" + owner + "/private/job:latest"
	busybox.Push(t, ref, owner, token)
	_, access := server.CreateToken(server.Admin, server.Password, "runners", "write:admin")

	logins := filepath.Join(t.TempDir(), "docker")
	source := kept{host: server.Host, source: giteaSource(server, owner, "{env: GITEA_PASSWORD}"), probe: ref}
	p := newProduct(t, strings.Replace(configText([]kept{source}, ""), "targets:\n", "", 1), "GITEA_PASSWORD="+password, "DOCKER_CONFIG="+logins, "RUNNER_ACCESS_TOKEN="+access)
	arguments := []string{
		"runner", "register", "--forge", "gitea", "--non-interactive", "--url", server.URL, "--name", "build-host",
		"--labels", "private:docker://" + ref, "-o", "json",
	}
	type result struct {
		Steps  []registered.Step
		Runner registered.Info
	}
	actions := func(steps []registered.Step) (list []registered.Action) {
		for _, step := range steps {
			list = append(list, step.Action)
		}
		return list
	}
	got := decode[result](t, p.must(arguments...))
	if diff := cmp.Diff([]registered.Action{registered.Deliver, registered.Create, registered.Write}, actions(got.Steps)); diff != "" {
		t.Errorf("register (-want +got):\n%s", diff)
	}
	wantLogin(t, filepath.Join(logins, "config.json"), server.Host, ref)
	if again := decode[result](t, p.must(arguments...)); again.Runner.ID != got.Runner.ID {
		t.Errorf("again, it is %+v", again.Runner)
	}
	health := func() registered.Health {
		t.Helper()
		verdicts := decode[struct{ Runners []registered.Verdict }](t, p.run("runner", "verify", "--forge", "gitea", "-o", "json").out)
		return verdicts.Runners[0].Health
	}
	if h := health(); h != registered.Alive {
		t.Errorf("health is %s", h)
	}

	writeText(t, filepath.Join(p.dir, "config.yaml"), daemonConfig)
	bin := build.Go(t, runner.Tool)
	start := func() *process.Process {
		cmd := exec.Command(bin.Path, "daemon", "--config", "config.yaml")
		cmd.Dir = p.dir
		cmd.Env = append(daemon.Env(), "PATH="+os.Getenv("PATH"), "HOME="+p.dir, "DOCKER_CONFIG="+logins)
		running := process.Start(t, cmd)
		running.Until(t, 30*time.Second, "runner", func() bool { return strings.Contains(running.Log(), "declare successfully") })
		return running
	}
	running := start()
	jobPasses(t, server, "first")

	steps := decode[result](t, p.must("runner", "rotate", "--forge", "gitea", "--scope", "instance", "-o", "json")).Steps
	if diff := cmp.Diff([]registered.Action{registered.Replace, registered.Keep}, actions(steps)); diff != "" {
		t.Errorf("rotate (-want +got):\n%s\n%v", diff, steps)
	}
	jobPasses(t, server, "between")
	running.Stop()
	running = start()
	// A real Gitea shows a runner for a minute after its last sign of life.
	eventually(t, 100*time.Second, "the runner before to be deleted", func() error {
		steps := decode[result](t, p.must("runner", "rotate", "--forge", "gitea", "--scope", "instance", "-o", "json")).Steps
		if diff := cmp.Diff([]registered.Action{registered.Delete}, actions(steps)); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	jobPasses(t, server, "after")
	all, _, err := server.Client(server.Admin, server.Password).ListAdminActionRunners(sdk.ListActionRunnersOptions{})
	if err != nil || len(all.Runners) != 1 || all.Runners[0].ID == got.Runner.ID {
		t.Errorf("the server has %+v, %v", all, err)
	}
	running.Stop()

	if _, err := server.Client(server.Admin, server.Password).DeleteAdminActionRunner(all.Runners[0].ID); err != nil {
		t.Fatal(err)
	}
	if h := health(); h != registered.Removed {
		t.Errorf("health of a runner that the server deleted is %s", h)
	}
	p.must(arguments...)
	p.must("runner", "unregister", "--forge", "gitea", "--scope", "instance")
	if all, _, err = server.Client(server.Admin, server.Password).ListAdminActionRunners(sdk.ListActionRunnersOptions{}); err != nil || len(all.Runners) != 0 {
		t.Errorf("the server has %+v, %v", all, err)
	}
}

// Whose jobs a runner takes, as a real Gitea tells it.
func TestRunnerScopes(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	password := server.CreateUser(owner)
	client := server.Client(owner, password)
	if _, _, err := client.CreateOrg(sdk.CreateOrgOption{Name: "team"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.CreateRepo(sdk.CreateRepoOption{Name: "app"}); err != nil {
		t.Fatal(err)
	}
	_, access := server.CreateToken(owner, password, "runners", "write:organization", "write:user", "write:repository")
	p := newProduct(t, "", "RUNNER_ACCESS_TOKEN="+access)
	for _, scope := range []string{"org:team", "user", "repo:" + owner + "/app"} {
		file := filepath.Join(p.dir, strings.NewReplacer(":", "-", "/", "-").Replace(scope))
		flags := []string{"--forge", "gitea", "--runner-config", file, "--scope", scope}
		p.must(slices.Concat([]string{"runner", "register", "--non-interactive", "--url", server.URL, "--name", "it", "--labels", "here:host"}, flags)...)
		p.must(slices.Concat([]string{"runner", "verify"}, flags)...)
		p.must(slices.Concat([]string{"runner", "rotate"}, flags)...)
		p.must(slices.Concat([]string{"runner", "unregister"}, flags)...)
	}
	p.fails(5, []string{"write:admin"}, "runner", "register", "--forge", "gitea", "--non-interactive", "--url", server.URL, "--name", "it", "--labels", "here:host")
	p.fails(5, []string{"registration token"}, "runner", "register", "--forge", "gitea", "--non-interactive", "--url", server.URL, "--name", "it",
		"--labels", "here:host", "--token", "wrong")
}

// jobPasses pushes a workflow for runners with the label private, and fails if its
// job does not pass in the image of that label.
func jobPasses(t *testing.T, server *gitea.Server, name string) {
	t.Helper()
	client := server.Client(server.Admin, server.Password)
	repo, _, err := client.CreateRepo(sdk.CreateRepoOption{Name: name, Private: true, AutoInit: true, DefaultBranch: "main"})
	if err != nil {
		t.Fatal(err)
	}
	const workflow = `on: push
jobs:
  job:
    runs-on: private
    steps:
      - shell: sh
        run: |
          echo "` + runner.Mark + `$((6 * 7))"
`
	if _, _, err := client.CreateFile(repo.Owner.UserName, repo.Name, ".gitea/workflows/job.yml", sdk.CreateFileOptions{
		Content: base64.StdEncoding.EncodeToString([]byte(workflow)),
	}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		jobs, _, err := client.ListRepoActionJobs(repo.Owner.UserName, repo.Name, sdk.ListRepoActionJobsOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(jobs.Jobs) > 0 && jobs.Jobs[0].Status == "completed" {
			log, _, err := client.GetRepoActionJobLogs(repo.Owner.UserName, repo.Name, jobs.Jobs[0].ID)
			if err != nil || jobs.Jobs[0].Conclusion != "success" || !strings.Contains(string(log), runner.Mark+"42") {
				t.Fatalf("%s: job ended with %q, %v:\n%s", name, jobs.Jobs[0].Conclusion, err, log)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: job never ended", name)
		}
	}
}

// What regkeeper writes for GitLab's runners, as the real GitLab Runner reads it:
// with every executor that the document names, with a template, with a login, after
// a rotation.
func TestGitLabRunnerReadsIt(t *testing.T) {
	t.Parallel()
	fake := fakegitlabrunner.New(fakegitlabrunner.Config{AccessToken: "glpat-access", Lifetime: 24 * time.Hour, Now: time.Now})
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	registry := serveEmbedded(t, t.TempDir())
	source := kept{host: registry.host, source: "static: {username: pusher, password: {env: PASSWORD}}"}
	p := newProduct(t, strings.Replace(configText([]kept{source}, ""), "targets:\n", "", 1), "RUNNER_ACCESS_TOKEN=glpat-access", "CONFIG_FILE=config.toml", "PASSWORD="+registry.pusher.Password)
	template := filepath.Join(p.dir, "template.toml")
	writeText(t, template, `[[runners]]
  [runners.docker]
    [[runners.docker.services]]
      name = "postgres:latest"
    [[runners.docker.services]]
      name = "mysql:latest"
  [runners.kubernetes]
    namespace = "ci"
    [runners.kubernetes.node_selector]
      "kubernetes.io/arch" = "amd64"
`)
	writeText(t, filepath.Join(p.dir, "config.toml"), "# of the build host\nconcurrent = 4\n\n[session_server]\n  session_timeout = 1800\n")
	for name, flags := range map[string][]string{
		"docker": {
			"--executor", "docker", "--docker-image", "ruby:3.3", "--docker-services", "redis:7", "--docker-volumes", "/data", "--docker-pull-policy", "always",
			"--docker-pull-policy", "if-not-present", "--docker-privileged", "--env", "A=1", "--env", `B="quoted" \n`, "--limit", "2", "--request-concurrency", "2",
		},
		"template":   {"--executor", "docker", "--docker-image", "ruby:3.3", "--template-config", template, "--login-in", "environment"},
		"windows":    {"--executor", "docker-windows", "--docker-image", "mcr.microsoft.com/windows/servercore:1809_amd64", "--no-login"},
		"shell":      {"--executor", "shell", "--no-login"},
		"kubernetes": {"--executor", "kubernetes", "--template-config", template, "--no-login"},
	} {
		if !slices.Contains(flags, "--no-login") && !slices.Contains(flags, "--login-in") {
			flags = append(flags, "--docker-config", filepath.Join(p.dir, "config.json"))
		}
		p.must(slices.Concat([]string{"runner", "register", "--non-interactive", "--url", server.URL, "--description", name}, flags)...)
	}
	p.must("runner", "rotate", "--all")
	text, err := os.ReadFile(filepath.Join(p.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	runners, err := gitlabrunner.Read(t, text)
	if err != nil {
		t.Fatalf("GitLab Runner does not read it: %v\n%s", err, text)
	}
	tokens := map[int64]string{}
	for _, has := range fake.Runners() {
		tokens[has.ID] = has.Token
	}
	seen := map[string]gitlabrunner.Runner{}
	for _, r := range runners {
		seen[r.Name] = r
		if r.Token == "" || r.Token != tokens[r.ID] || r.URL != server.URL || !r.TokenExpiresAt.After(time.Now()) || r.TokenObtainedAt.IsZero() {
			t.Errorf("%s is %+v", r.Name, r)
		}
	}
	if len(seen) != 5 || len(runners) != 5 {
		t.Fatalf("it has %d runners:\n%s", len(runners), text)
	}
	d := seen["docker"]
	if diff := cmp.Diff([]string{"A=1", `B="quoted" \n`}, d.Environment); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if d.Docker == nil || d.Docker.Image != "ruby:3.3" || !d.Docker.Privileged || len(d.Docker.Services) != 1 || !slices.Equal(d.Docker.Volumes, []string{"/data", "/cache"}) {
		t.Errorf("docker is %+v", d.Docker)
	}
	if got := seen["template"]; len(got.Docker.Services) != 2 || len(got.Environment) != 1 || !strings.HasPrefix(got.Environment[0], `DOCKER_AUTH_CONFIG={"auths":{"`+registry.host) {
		t.Errorf("template is %+v", got)
	}
	if w := seen["windows"]; w.Shell != "pwsh" || !slices.Equal(w.Docker.Volumes, []string{`c:\cache`}) {
		t.Errorf("windows is %+v", w)
	}
	if seen["shell"].Docker != nil || seen["kubernetes"].Docker != nil {
		t.Error("an executor has tables of another's")
	}
	// The check can fail.
	for _, broken := range []string{"[[runners]]\nnme = \"x\"\n", "[[runners]]\nid = \"x\"\n", "[[runners]]\nname = \n"} {
		if _, err := gitlabrunner.Read(t, []byte(broken)); err == nil {
			t.Errorf("%q is read", broken)
		}
	}
}
