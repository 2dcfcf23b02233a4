package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/e2e/peers/runner"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/giteasecret"
	"github.com/regkeeper/regkeeper/target/targettest"
)

// forge is a Gitea with an account that owns repositories and organisations.
type forge struct {
	*gitea.Server
	t        testing.TB
	password string
	client   *sdk.Client
	made     int
}

func newForge(t testing.TB) *forge {
	t.Helper()
	server := gitea.Start(t)
	f := &forge{Server: server, t: t, password: server.CreateUser(owner)}
	f.client = server.Client(owner, f.password)
	return f
}

// repository makes a repository.
func (f *forge) repository() string {
	f.t.Helper()
	f.made++
	repo, _, err := f.client.CreateRepo(sdk.CreateRepoOption{
		Name: fmt.Sprint("repository-", f.made), Private: true, AutoInit: true, DefaultBranch: "main",
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return repo.FullName
}

// organization makes an organisation.
func (f *forge) organization() string {
	f.t.Helper()
	f.made++
	org, _, err := f.client.CreateOrg(sdk.CreateOrgOption{Name: fmt.Sprint("organization-", f.made), Visibility: sdk.VisibleTypePrivate})
	if err != nil {
		f.t.Fatal(err)
	}
	return org.Name
}

// config is of a target that shows user and password, or a token alone.
func (f *forge) config(user, password string) giteasecret.Config {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "password")
	writeText(f.t, file, password)
	return giteasecret.Config{
		URL: f.URL, User: user, Password: secretref.Ref{File: file}, Name: "DOCKER_AUTH_CONFIG",
		Transport: transport.New(transport.Config{}),
	}
}

// The conformance suite of targets, against a real Gitea. That nobody can read
// secrets leaves out what needs it.
func TestGiteaSecretConformance(t *testing.T) {
	t.Parallel()
	f := newForge(t)
	_, token := f.CreateToken(owner, f.password, "actions", "write:repository", "write:organization")
	pair := func(c *giteasecret.Config) { c.Name, c.Prefix, c.Host = "", "registry", targettest.Host }
	document := func(*giteasecret.Config) {}
	for name, c := range map[string]struct {
		user, password string
		change         func(*giteasecret.Config)
		variables, one bool
	}{
		"secrets/config.json by password":          {owner, f.password, document, false, false},
		"secrets/username and password by token":   {"", token, pair, false, true},
		"variables/config.json by token":           {"", token, document, true, false},
		"variables/username and password by token": {"", token, pair, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			var config giteasecret.Config
			target := func(testing.TB) credential.Target {
				if c.variables {
					return giteasecret.NewVariables(config)
				}
				return giteasecret.New(config)
			}
			h := targettest.Harness{
				One: c.one,
				New: func(t testing.TB) credential.Target {
					config = f.config(c.user, c.password)
					c.change(&config)
					config.Repositories, config.Organizations = []string{f.repository()}, []string{f.organization()}
					return target(t)
				},
				Again: target,
				Remove: func(t testing.TB, place credential.Place) {
					for _, at := range pathsOf(place) {
						if status := f.ask(t, "DELETE", at, nil, nil); status != 204 {
							t.Errorf("delete %s: %d", at, status)
						}
					}
				},
			}
			if c.variables {
				h.Raw = func(t testing.TB, place credential.Place) []byte {
					paths := pathsOf(place)
					var v sdk.ActionVariable
					if f.ask(t, "GET", paths[len(paths)-1], nil, &v) == 404 {
						return nil
					}
					return []byte(v.Data)
				}
			}
			if c.variables && !c.one {
				h.Whole = func(content []byte) error { return json.Unmarshal(content, new(any)) }
				h.Put = func(t testing.TB, place credential.Place, host credential.Host, l credential.Login) {
					text := h.Raw(t, place)
					doc, err := dockerconfig.Parse(text)
					if err != nil {
						t.Fatal(err)
					}
					doc.Set(host, l)
					method := "PUT"
					if text == nil {
						method = "POST"
					}
					if status := f.ask(t, method, pathsOf(place)[0], map[string]string{"value": string(doc.Bytes())}, nil); status >= 300 {
						t.Errorf("write %s: %d", place, status)
					}
				}
			}
			targettest.Run(t, h)
		})
	}
}

// pathsOf are the paths of what is in a place, in the server's API.
func pathsOf(place credential.Place) []string {
	path := strings.NewReplacer("/secrets/", "/actions/secrets/", "/variables/", "/actions/variables/").Replace(string(place))
	if prefix, ok := strings.CutSuffix(path, "*"); ok {
		return []string{prefix + "USERNAME", prefix + "PASSWORD"}
	}
	return []string{path}
}

// ask asks the server's API as the owner, and returns the status.
func (f *forge) ask(t testing.TB, method, path string, body, answer any) (status int) {
	t.Helper()
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			t.Fatal(err)
		}
	}
	request, err := http.NewRequestWithContext(context.Background(), method, f.URL+"/api/v1/"+path, &text)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(owner, f.password)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer != nil && response.StatusCode == http.StatusOK {
		if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
			t.Fatal(err)
		}
	}
	return response.StatusCode
}

// What the server refuses, and what people write beside us.
func TestGiteaSecretRefusals(t *testing.T) {
	t.Parallel()
	f := newForge(t)
	repository := f.repository()
	at := credential.Place("repos/" + repository + "/secrets/DOCKER_AUTH_CONFIG")
	config := f.config(owner, f.password)
	config.Repositories = []string{repository}
	login := credential.Login{Username: "u", Secret: credential.NewSecret("p")}
	logins := map[credential.Host]credential.Login{"h": login}
	asked := map[credential.Host][]credential.Login{"h": {login}}
	want := func(err error, kind problem.Kind, text string) {
		t.Helper()
		if problem.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), text) || strings.Contains(fmt.Sprint(err), f.password) {
			t.Errorf("it fails with kind %s: %v, want kind %s: %s", problem.KindOf(err), err, kind, text)
		}
	}
	write := func(text string) {
		t.Helper()
		if _, err := f.client.CreateRepoActionSecret(owner, strings.TrimPrefix(repository, owner+"/"), "DOCKER_AUTH_CONFIG", sdk.CreateOrUpdateSecretOption{Data: text}); err != nil {
			t.Fatal(err)
		}
	}

	write("somebody's")
	want(giteasecret.New(config).Deliver(t.Context(), at, logins), problem.Refused, "is there already")
	config.Adopt = true
	if err := giteasecret.New(config).Deliver(t.Context(), at, logins); err != nil {
		t.Fatal(err)
	}
	config.Adopt = false
	held, unknown, err := giteasecret.New(config).Recognize(t.Context(), at, asked)
	if err != nil || !held["h"].Equal(login) || len(unknown) > 0 {
		t.Errorf("after adoption: %d held, unknown %v, %v", len(held), unknown, err)
	}
	write("somebody's again")
	if held, unknown, err := giteasecret.New(config).Recognize(t.Context(), at, asked); err != nil || len(held) > 0 || len(unknown) != 1 {
		t.Errorf("after somebody wrote: %d held, unknown %v, %v", len(held), unknown, err)
	}

	_, reader := f.CreateToken(owner, f.password, "reader", "read:repository")
	weak := f.config("", reader)
	weak.Repositories = []string{repository}
	want(giteasecret.New(weak).Deliver(t.Context(), at, logins), problem.Denied, "repos/"+repository)
	stranger := f.config("stranger", f.CreateUser("stranger"))
	stranger.Repositories = []string{repository}
	want(giteasecret.New(stranger).Deliver(t.Context(), at, logins), problem.NotFound, "repos/"+repository)
	wrong := f.config(owner, "not-the-password")
	wrong.Repositories = []string{repository}
	want(giteasecret.New(wrong).Deliver(t.Context(), at, logins), problem.Denied, "repos/"+repository)

	// The secrets of the account itself.
	mine := f.config(owner, f.password)
	mine.Own = true
	place := credential.Place("user/secrets/DOCKER_AUTH_CONFIG")
	want(giteasecret.New(mine).Deliver(t.Context(), place, logins), problem.Refused, "does not tell whether")
	mine.Adopt = true
	for _, secret := range []string{"p", "p2"} {
		l := credential.Login{Username: "u", Secret: credential.NewSecret(secret)}
		if err := giteasecret.New(mine).Deliver(t.Context(), place, map[credential.Host]credential.Login{"h": l}); err != nil {
			t.Fatal(err)
		}
		held, _, err := giteasecret.New(mine).Recognize(t.Context(), place, map[credential.Host][]credential.Login{"h": {login, l}})
		if err != nil || !held["h"].Equal(l) {
			t.Errorf("of the account's own: %d held, %v", len(held), err)
		}
	}
}

// A job of the real runner finds what was delivered, and after a rotation the
// login in force.
func TestGiteaSecretInAJob(t *testing.T) {
	t.Parallel()
	f := newForge(t)
	repository := f.repository()
	label := f.hostRunner()
	config := f.config(owner, f.password)
	config.Repositories = []string{repository}
	target := giteasecret.New(config)
	at := credential.Place("repos/" + repository + "/secrets/DOCKER_AUTH_CONFIG")
	second := f.config(owner, f.password)
	second.Repositories, second.Name, second.Prefix, second.Host = []string{repository}, "", "REGISTRY", "registry.example"
	pair := giteasecret.New(second)

	for i := range 2 {
		login := credential.Login{Username: "ci-bot", Secret: credential.NewSecret(rand.Text())}
		logins := map[credential.Host]credential.Login{"registry.example": login}
		if err := target.Deliver(t.Context(), at, logins); err != nil {
			t.Fatal(err)
		}
		if err := pair.Deliver(t.Context(), credential.Place("repos/"+repository+"/secrets/REGISTRY_*"), logins); err != nil {
			t.Fatal(err)
		}
		auth := base64.StdEncoding.EncodeToString([]byte("ci-bot:" + login.Secret.Reveal()))
		log := f.job(repository, fmt.Sprint("job-", i), label)
		for what, content := range map[string]string{
			"document": auth, "username": "ci-bot", "password": login.Secret.Reveal(),
		} {
			if want := fmt.Sprintf("%s %x", what, sha256.Sum256([]byte(content))); !strings.Contains(log, want) {
				t.Errorf("round %d: the job does not find the %s:\n%s", i, what, log)
			}
			if what == "password" && strings.Contains(log, content) {
				t.Errorf("round %d: the log shows the password", i)
			}
		}
	}
}

// hostRunner registers a runner that runs jobs on this machine, without Docker,
// and returns its label.
func (f *forge) hostRunner() (label string) {
	f.t.Helper()
	bin := build.Go(f.t, runner.Tool)
	token, _, err := f.Client(f.Admin, f.Password).CreateAdminActionRunnerRegistrationToken()
	if err != nil {
		f.t.Fatal(err)
	}
	dir := f.t.TempDir()
	writeText(f.t, filepath.Join(dir, "config.yaml"), "log: {level: info}\nrunner: {file: .runner, fetch_interval: 1s}\ncache: {enabled: false}\nhost: {workdir_parent: "+dir+"/work}\n")
	label = "host-" + strings.ToLower(rand.Text())
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(bin.Path, append(args, "--config", "config.yaml")...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		return cmd
	}
	if _, err := process.Output(f.t.Context(), command("register", "--no-interactive",
		"--instance", f.URL, "--token", token.Token, "--name", label, "--labels", label+":host")); err != nil {
		f.t.Fatalf("register runner: %v", err)
	}
	started := process.Start(f.t, command("daemon"))
	started.Until(f.t, 30*time.Second, "runner", func() bool { return strings.Contains(started.Log(), "declare successfully") })
	return label
}

// job pushes a workflow that tells the hashes of what it finds, and returns the
// log of its job.
func (f *forge) job(repository, name, label string) (log string) {
	f.t.Helper()
	user, repo, _ := strings.Cut(repository, "/")
	workflow := `on: {push: {paths: [".gitea/workflows/` + name + `.yml"]}}
jobs:
  ` + name + `:
    runs-on: ` + label + `
    steps:
      - env:
          DOCUMENT: ${{ secrets.DOCKER_AUTH_CONFIG }}
          USERNAME: ${{ secrets.REGISTRY_USERNAME }}
          PASSWORD: ${{ secrets.REGISTRY_PASSWORD }}
        run: |
          hash() { printf '%s ' "$1"; printf %s "$2" | sha256sum; }
          hash document "$(printf %s "$DOCUMENT" | tr -d ' \t\n' | sed 's/^{"auths":{"registry.example":{"auth":"\(.*\)"}}}$/\1/')"
          hash username "$USERNAME"
          hash password "$PASSWORD"
          echo "$PASSWORD"
`
	if _, _, err := f.client.CreateFile(user, repo, ".gitea/workflows/"+name+".yml", sdk.CreateFileOptions{
		Content: base64.StdEncoding.EncodeToString([]byte(workflow)),
	}); err != nil {
		f.t.Fatalf("push workflow: %v", err)
	}
	var id int64
	eventually(f.t, 2*time.Minute, "the job to end", func() error {
		jobs, _, err := f.client.ListRepoActionJobs(user, repo, sdk.ListRepoActionJobsOptions{})
		if err != nil {
			return err
		}
		for _, job := range jobs.Jobs {
			if job.Name == name && job.Status == "completed" {
				id = job.ID
				return nil
			}
		}
		return fmt.Errorf("%d jobs, none of them ended", len(jobs.Jobs))
	})
	text, _, err := f.client.GetRepoActionJobLogs(user, repo, id)
	if err != nil {
		f.t.Fatalf("read job log: %v", err)
	}
	return string(text)
}
