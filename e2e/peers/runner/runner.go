// Package runner owns a real Gitea runner that takes jobs of a real Gitea and
// runs them in containers of a private Docker daemon.
//
// It refuses to help the runner find a login: it gets one config.json by
// DOCKER_CONFIG, as a runner host does, and no secret in the repository. A job
// that passes therefore proves that the runner pulled the job's image with
// that file.
package runner

import (
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Tool is the runner's binary.
var Tool = build.Tool{
	Name:       "gitea-runner",
	Package:    "gitea.com/gitea/runner",
	Module:     "runner/build",
	VersionVar: "gitea.com/gitea/runner/internal/pkg/ver.version",
}

// jobLimit is how long a job may take, from the push of its workflow.
const jobLimit = 2 * time.Minute

// Runner is a registered runner that waits for jobs.
type Runner struct {
	Version string // v1.2.3

	t       testing.TB
	gitea   *gitea.Server
	label   string // its own, so that no other runner of the server takes its jobs
	process *process.Process
}

// Result is how a job ended.
type Result struct {
	Conclusion string // "success", "failure", ...
	Log        string // of the job, as Gitea shows it
	RunnerLog  string // of the runner's process
}

// Passed says whether the job did.
func (r Result) Passed() bool { return r.Conclusion == "success" }

//go:embed config.yaml
var config []byte

// Start registers a runner for the whole server and starts it. It reads its
// logins from configJSONPath, which must be named config.json, before each
// pull. It ends with the test.
func Start(t testing.TB, g *gitea.Server, d *docker.Daemon, configJSONPath string) *Runner {
	t.Helper()
	bin := build.Go(t, Tool)
	token, _, err := g.Client(g.Admin, g.Password).CreateAdminActionRunnerRegistrationToken()
	if err != nil {
		t.Fatalf("create registration token: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), config, 0o600); err != nil {
		t.Fatalf("write runner config: %v", err)
	}
	label := "runner-" + strings.ToLower(rand.Text())
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(bin.Path, append(args, "--config", "config.yaml")...)
		cmd.Dir = dir
		cmd.Env = append(d.Env(), "PATH="+os.Getenv("PATH"), "HOME="+dir, "DOCKER_CONFIG="+filepath.Dir(configJSONPath))
		return cmd
	}
	if _, err := process.Output(t.Context(), command("register", "--no-interactive",
		"--instance", g.URL, "--token", token.Token, "--name", label, "--labels", label+":host")); err != nil {
		t.Fatalf("register runner: %v", err)
	}
	r := &Runner{Version: bin.Version, t: t, gitea: g, label: label, process: process.Start(t, command("daemon"))}
	r.process.Until(t, 30*time.Second, "runner", func() bool {
		return strings.Contains(r.process.Log(), "declare successfully")
	})
	return r
}

// Run pushes a workflow whose job runs in image to a new repository, and
// returns when the job has ended.
func (r *Runner) Run(image string) Result {
	r.t.Helper()
	client := r.gitea.Client(r.gitea.Admin, r.gitea.Password)
	repo, _, err := client.CreateRepo(sdk.CreateRepoOption{Name: "job-" + strings.ToLower(rand.Text()), Private: true, AutoInit: true, DefaultBranch: "main"})
	if err != nil {
		r.t.Fatalf("create repository: %v", err)
	}
	owner := repo.Owner.UserName
	if _, _, err := client.CreateFile(owner, repo.Name, ".gitea/workflows/job.yml", sdk.CreateFileOptions{
		Content: base64.StdEncoding.EncodeToString([]byte(r.workflow(image))),
	}); err != nil {
		r.t.Fatalf("push workflow: %v", err)
	}
	var job *sdk.ActionWorkflowJob
	r.process.Until(r.t, jobLimit, "end of the job", func() bool {
		jobs, _, err := client.ListRepoActionJobs(owner, repo.Name, sdk.ListRepoActionJobsOptions{})
		if err != nil {
			r.t.Fatalf("list jobs: %v", err)
		}
		if len(jobs.Jobs) == 0 || jobs.Jobs[0].Status != "completed" {
			return false
		}
		job = jobs.Jobs[0]
		return true
	})
	log, _, err := client.GetRepoActionJobLogs(owner, repo.Name, job.ID)
	if err != nil {
		r.t.Fatalf("read job log: %v", err)
	}
	return Result{Conclusion: job.Conclusion, Log: string(log), RunnerLog: r.process.Log()}
}

// PullJobImage starts a runner with the logins of configJSONPath and runs one
// job in image.
func PullJobImage(t testing.TB, g *gitea.Server, d *docker.Daemon, configJSONPath, image string) Result {
	t.Helper()
	return Start(t, g, d, configJSONPath).Run(image)
}

func (r *Runner) workflow(image string) string {
	return `on: push
jobs:
  job:
    runs-on: ` + r.label + `
    container:
      image: ` + image + `
    steps:
      - run: |
          echo "` + Mark + `$((6 * 7))"
`
}

// Mark begins the line that a job's script prints; 42 follows it only in the
// output of the shell in the image, not in the script's echo in the log.
const Mark = "inside the job image: "
