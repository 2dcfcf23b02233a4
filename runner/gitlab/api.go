package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	sdk "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/internal/transport/gitlabapi"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runnerconfig"
)

// IsRunnerToken says whether a token is that of a runner which was created at the
// server, and that the server has the settings of (gitlab-runner,
// network/gitlab.go, TokenIsCreatedRunnerToken).
func IsRunnerToken(token string) bool { return strings.HasPrefix(token, "glrt-") }

// answer is what the server tells of a runner (GitLab's documentation, "Runners
// API").
type answer struct {
	ID      int64      `json:"id"`
	Token   string     `json:"token"`
	Expires *time.Time `json:"token_expires_at"`
}

// info is what is told of this machine. Without the features, GitLab takes the
// runner for one that cannot be told to cancel jobs gracefully, for most of an
// hour (gitlab-runner, network/gitlab.go, VerifyRunner).
type info struct {
	Platform     string          `json:"platform"`
	Architecture string          `json:"architecture"`
	Executor     string          `json:"executor,omitempty"`
	Features     map[string]bool `json:"features"`
}

func machine(executor string) info {
	return info{Platform: runtime.GOOS, Architecture: runtime.GOARCH, Executor: executor, Features: map[string]bool{"cancelable": true, "cancel_gracefully": true}}
}

// withToken sends a runner's token as the runner does, in place of a user's.
type withToken struct {
	next  http.RoundTripper
	token string
}

func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Del("PRIVATE-TOKEN")
	if t.token != "" {
		r.Header.Set("RUNNER-TOKEN", t.token)
	}
	return t.next.RoundTrip(r)
}

// server is where a runner's server is, and the file with the certificates that are
// trusted for it; empty for none of its own.
type server struct{ url, ca string }

// transport is for a server (gitlab-runner, network/client.go: ensureTLSConfig).
func (f *Fleet) transport(s server) (http.RoundTripper, error) {
	if f.config.Trust == nil {
		return f.config.Transport, nil
	}
	path := s.ca
	if path == "" {
		host := ""
		if u, err := url.Parse(s.url); err == nil {
			host = u.Hostname()
		}
		path = filepath.Join(filepath.Dir(f.config.Path), "certs", filepath.Base(host)+".crt")
	}
	pem, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && s.ca == "" {
		return f.config.Transport, nil
	}
	if err != nil {
		return nil, disk.Problem(err, "read certificates %s", path)
	}
	made, err := f.config.Trust(pem)
	return made, problem.Wrap(err, problem.Config, "put certificates there in PEM", "certificates %s", path)
}

// send asks the server as a runner. The library has these requests without their
// answers, or sends the token in the URL, where logs have it.
func (f *Fleet) send(ctx context.Context, at server, token, method, path string, body, into any, what string, hints gitlabapi.Hints) error {
	through, err := f.transport(at)
	if err != nil {
		return err
	}
	client, err := gitlabapi.New(root(at.url), credential.Secret{}, withToken{through, token})
	if err != nil {
		return err
	}
	request, err := client.NewRequest(method, path, nil, []sdk.RequestOptionFunc{sdk.WithContext(ctx)})
	if err != nil {
		return problem.New(problem.Config, "give the root of the server, for example https://gitlab.example.com", "%s: the url cannot be used", what)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if err := request.SetBody(text); err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request, into)
	if code := gitlabapi.Status(err); (code == http.StatusUnauthorized || code == http.StatusForbidden) &&
		(response == nil || !strings.HasPrefix(response.Header.Get("Content-Type"), "application/json")) {
		// A proxy's no is not the server's: by that no runner is taken out.
		return problem.New(problem.Unreachable, "the answer is not GitLab's: check the url, and proxies before the server", "%s at %s: answered %d", what, root(at.url), code)
	}
	return transport.Conceal(client.Explain(response, err, what, hints), "", token)
}

// verify asks whether a token is good, and makes this machine known to the runner.
func (f *Fleet) verify(ctx context.Context, at server, token, system, executor string) (a answer, err error) {
	err = f.send(ctx, at, token, http.MethodPost, "runners/verify",
		map[string]any{"token": token, "system_id": system, "info": machine(executor)}, &a, "verify a runner",
		gitlabapi.Hints{Denied: "the runner was removed at the server, or its token was reset or has expired"})
	return a, err
}

func (f *Fleet) reset(ctx context.Context, r runnerconfig.Runner) (a answer, err error) {
	err = f.send(ctx, server{address(r), r.CA}, r.Token, http.MethodPost, "runners/reset_authentication_token", map[string]any{"token": r.Token}, &a,
		"reset the token of runner "+r.Name, gitlabapi.Hints{
			Denied: "the runner was removed at the server, or its token has expired: register it again",
		})
	if err == nil && a.Token == "" {
		return a, problem.New(problem.Unreachable, "check that url is the root of a GitLab server", "reset the token of runner %s: the answer has no token", r.Name)
	}
	return a, err
}

func (f *Fleet) remove(ctx context.Context, r runnerconfig.Runner, system string) error {
	path, body := "runners", map[string]any{"token": bearer(r)}
	if IsRunnerToken(bearer(r)) {
		path, body["system_id"] = "runners/managers", system
	}
	return f.send(ctx, server{address(r), r.CA}, bearer(r), http.MethodDelete, path, body, nil, "unregister runner "+r.Name, gitlabapi.Hints{})
}

// create makes a runner of a user's (POST /user/runners).
func (f *Fleet) create(ctx context.Context, r *Request) (answer, error) {
	through, err := f.transport(r.server())
	if err != nil {
		return answer{}, err
	}
	client, err := gitlabapi.New(root(r.URL), r.AccessToken, through)
	if err != nil {
		return answer{}, err
	}
	options := &sdk.CreateUserRunnerOptions{
		RunnerType: new(string(r.Type)), Description: &r.Name, Paused: r.Paused, Locked: r.Locked, RunUntagged: new(r.untagged()),
	}
	if r.GroupID != 0 {
		options.GroupID = &r.GroupID
	}
	if r.ProjectID != 0 {
		options.ProjectID = &r.ProjectID
	}
	if len(r.TagList) > 0 {
		options.TagList = &r.TagList
	}
	if r.AccessLevel != "" {
		options.AccessLevel = &r.AccessLevel
	}
	if r.MaximumTimeout != 0 {
		options.MaximumTimeout = &r.MaximumTimeout
	}
	if r.MaintenanceNote != "" {
		options.MaintenanceNote = &r.MaintenanceNote
	}
	created, response, err := client.Users.CreateUserRunner(options, sdk.WithContext(ctx))
	if err != nil {
		return answer{}, client.Explain(response, err, "create a runner", gitlabapi.Hints{
			Denied:  "the token needs the scope create_runner; its user must be an administrator for an instance runner, an Owner of the group, or a Maintainer of the project",
			Missing: "check the number of the group or project, and that the token's user is a member",
			Invalid: "change the settings that the server names",
		})
	}
	if created.Token == "" {
		return answer{}, problem.New(problem.Unreachable, "check that url is the root of a GitLab server", "create a runner at %s: the answer has no token", root(r.URL))
	}
	return answer{ID: created.ID, Token: created.Token, Expires: created.TokenExpiresAt}, nil
}

// register is the way with a registration token (POST /runners), which servers may
// have turned off.
func (f *Fleet) register(ctx context.Context, r *Request) (a answer, err error) {
	token := r.RegistrationToken.Reveal()
	body := map[string]any{
		"token": token, "description": r.Name, "info": machine(r.Executor), "run_untagged": r.untagged(), "locked": r.Locked == nil || *r.Locked,
		"paused": r.Paused != nil && *r.Paused,
	}
	if len(r.TagList) > 0 {
		body["tag_list"] = strings.Join(r.TagList, ",")
	}
	if r.AccessLevel != "" {
		body["access_level"] = r.AccessLevel
	}
	if r.MaximumTimeout != 0 {
		body["maximum_timeout"] = r.MaximumTimeout
	}
	if r.MaintenanceNote != "" {
		body["maintenance_note"] = r.MaintenanceNote
	}
	err = f.send(ctx, r.server(), token, http.MethodPost, "runners", body, &a, "register a runner", gitlabapi.Hints{
		Denied:  "check the registration token; better, create a runner at the server and give its token (glrt-...) with --token",
		Invalid: "change the settings that the server names",
	})
	if gitlabapi.Status(err) == http.StatusGone {
		return a, problem.New(problem.Refused,
			"create the runner at the server, and give its token (glrt-...) with --token; or give an access token with the scope create_runner with --access-token-file",
			"register a runner at %s: the server has registration tokens turned off", root(r.URL))
	}
	if err == nil && a.Token == "" {
		return a, problem.New(problem.Unreachable, "check that url is the root of a GitLab server", "register a runner at %s: the answer has no token", root(r.URL))
	}
	return a, err
}
