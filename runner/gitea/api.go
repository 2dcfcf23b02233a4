package gitea

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	runnerv1 "code.gitea.io/actions-proto-go/runner/v1"
	"code.gitea.io/actions-proto-go/runner/v1/runnerv1connect"
	sdk "code.gitea.io/sdk/gitea"
	"connectrpc.com/connect"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
)

// The headers by which a runner says who it is (gitea.com/gitea/runner,
// internal/pkg/client/header.go).
const (
	uuidHeader  = "x-runner-uuid"
	tokenHeader = "x-runner-token"
)

// version is what a runner has that was never started; it says its own then.
const version = "regkeeper"

// unregistered is all by which a server tells that it does not know a runner: the
// code of its answer is that of any error (Gitea,
// routers/api/actions/runner/interceptor.go).
const unregistered = "unregistered runner"

// protocol is the runners' own (code.gitea.io/actions-proto-def).
func (f *Fleet) protocol(url string) runnerv1connect.RunnerServiceClient {
	return runnerv1connect.NewRunnerServiceClient(&http.Client{Transport: f.config.Transport}, root(url)+"/api/actions")
}

// register makes a runner of a registration token.
func (f *Fleet) register(ctx context.Context, url string, token credential.Secret, name string, labels []string, ephemeral bool) (*registration, error) {
	names := make([]string, len(labels))
	for i, label := range labels {
		names[i], _, _ = strings.Cut(label, ":")
	}
	response, err := f.protocol(url).Register(ctx, connect.NewRequest(&runnerv1.RegisterRequest{
		Name: name, Token: token.Reveal(), Version: version, Labels: names, Ephemeral: ephemeral,
	}))
	if err != nil {
		err = transport.Conceal(err, "", token.Reveal())
		where := "register a runner at " + root(url)
		var refused *connect.Error
		if errors.As(err, &refused) && connect.IsWireError(refused) {
			return nil, problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied,
				"get a registration token that is in force, from the settings' Actions > Runners of the instance, organization, user or repository", "%s", where)
		}
		return nil, problem.Wrap(err, problem.Unreachable, "check that the server is up, that --url is its root, and that it has Actions", "%s", where)
	}
	made := response.Msg.GetRunner()
	if made.GetUuid() == "" || made.GetToken() == "" {
		return nil, problem.New(problem.Unreachable, "check that --url is the root of a Gitea or Forgejo server", "register a runner at %s: the answer has no runner", root(url))
	}
	return &registration{
		ID: made.GetId(), UUID: made.GetUuid(), Name: made.GetName(), Token: made.GetToken(), Address: root(url), Labels: labels, Ephemeral: made.GetEphemeral(),
	}, nil
}

// ask says how a runner is.
func (f *Fleet) ask(ctx context.Context, reg *registration) (health runner.Health, reason string) {
	request := connect.NewRequest(&runnerv1.UpdateLogRequest{})
	request.Header().Set(uuidHeader, reg.UUID)
	request.Header().Set(tokenHeader, reg.Token)
	_, err := f.protocol(reg.Address).UpdateLog(ctx, request)
	var said *connect.Error
	switch {
	case err == nil:
	case !errors.As(err, &said) || !connect.IsWireError(said):
		return runner.Unknown, transport.Conceal(err, "", reg.Token).Error()
	case said.Code() == connect.CodeUnauthenticated || strings.Contains(said.Message(), unregistered):
		return runner.Removed, "the server does not know the runner: it was removed there, or its token was replaced"
	}
	return runner.Alive, "the server knows the runner by its token"
}

// client is for the API.
func (f *Fleet) client(ctx context.Context, url string) (*sdk.Client, error) {
	if f.config.AccessToken.Empty() {
		return nil, problem.New(problem.Usage, "give one with --access-token-file FILE; its scope is write:admin, write:organization, write:user or write:repository",
			"the API of %s takes an access token", root(url))
	}
	client, err := sdk.NewClient(root(url), sdk.SetContext(ctx), sdk.SetHTTPClient(&http.Client{Transport: f.config.Transport}),
		sdk.SetToken(f.config.AccessToken.Reveal()),
		// Forgejo's version says nothing of Gitea's API.
		sdk.SetGiteaVersion(""))
	return client, transport.Conceal(err, "", f.config.AccessToken.Reveal())
}

// registrationToken is that of the scope. Gitea makes it by POST; Forgejo tells it
// by GET, at a place of its own for the whole instance.
func (f *Fleet) registrationToken(ctx context.Context, url string) (credential.Secret, error) {
	const what = "get a registration token"
	client, err := f.client(ctx, url)
	if err != nil {
		return credential.Secret{}, err
	}
	var token *sdk.RegistrationToken
	var response *sdk.Response
	path, owner, repository := "", f.config.Scope.Owner, f.config.Scope.Repository
	switch f.config.Scope.Kind {
	case Organization:
		token, response, err = client.CreateOrgActionRunnerRegistrationToken(owner)
		path = "orgs/" + owner + "/actions"
	case User:
		token, response, err = client.CreateUserActionRunnerRegistrationToken()
		path = "user/actions"
	case Repository:
		token, response, err = client.CreateRepoActionRunnerRegistrationToken(owner, repository)
		path = "repos/" + owner + "/" + repository + "/actions"
	default:
		token, response, err = client.CreateAdminActionRunnerRegistrationToken()
		path = "admin"
	}
	if err != nil && response != nil && response.Response != nil &&
		(response.StatusCode == http.StatusMethodNotAllowed || response.StatusCode == http.StatusNotFound) {
		if found, ok := f.forgejoToken(ctx, url, path); ok {
			return found, nil
		}
	}
	if err != nil {
		return credential.Secret{}, f.explain(response, err, url, what)
	}
	if token.Token == "" {
		return credential.Secret{}, problem.New(problem.Unreachable, "check that --url is the root of a Gitea or Forgejo server", "%s at %s: the answer has none", what, root(url))
	}
	return credential.NewSecret(token.Token), nil
}

// answerLimit bounds in bytes what is read of an answer.
const answerLimit = 64 << 10

func (f *Fleet) forgejoToken(ctx context.Context, url, path string) (credential.Secret, bool) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, root(url)+"/api/v1/"+path+"/runners/registration-token", nil)
	if err != nil {
		return credential.Secret{}, false
	}
	request.Header.Set("Authorization", "token "+f.config.AccessToken.Reveal())
	response, err := (&http.Client{Transport: f.config.Transport}).Do(request)
	if err != nil {
		return credential.Secret{}, false
	}
	defer func() { _ = response.Body.Close() }()
	var token sdk.RegistrationToken
	err = json.NewDecoder(http.MaxBytesReader(nil, response.Body, answerLimit)).Decode(&token)
	return credential.NewSecret(token.Token), err == nil && response.StatusCode == http.StatusOK && token.Token != ""
}

// status is what the server shows of a runner.
type status struct{ offline, busy bool }

// status asks for a runner. The error is of kind [problem.NotFound] if there is
// none of that number.
func (f *Fleet) status(ctx context.Context, url string, id int64) (status, error) {
	client, err := f.client(ctx, url)
	if err != nil {
		return status{}, err
	}
	var made *sdk.ActionRunner
	var response *sdk.Response
	switch s := f.config.Scope; s.Kind {
	case Organization:
		made, response, err = client.GetOrgActionRunner(s.Owner, id)
	case User:
		made, response, err = client.GetUserActionRunner(id)
	case Repository:
		made, response, err = client.GetRepoActionRunner(s.Owner, s.Repository, id)
	default:
		made, response, err = client.GetAdminActionRunner(id)
	}
	if err != nil {
		return status{}, f.explain(response, err, url, fmt.Sprintf("look at runner %d", id))
	}
	return status{offline: made.Status == "offline", busy: made.Busy}, nil
}

// remove deletes a runner; gone says that there was none.
func (f *Fleet) remove(ctx context.Context, url string, id int64) (gone bool, err error) {
	client, err := f.client(ctx, url)
	if err != nil {
		return false, err
	}
	var response *sdk.Response
	switch s := f.config.Scope; s.Kind {
	case Organization:
		response, err = client.DeleteOrgActionRunner(s.Owner, id)
	case User:
		response, err = client.DeleteUserActionRunner(id)
	case Repository:
		response, err = client.DeleteRepoActionRunner(s.Owner, s.Repository, id)
	default:
		response, err = client.DeleteAdminActionRunner(id)
	}
	err = f.explain(response, err, url, fmt.Sprintf("delete runner %d", id))
	if problem.KindOf(err) == problem.NotFound {
		return true, nil
	}
	return false, err
}

// explain makes a problem of the API's answer. It returns nil for nil.
func (f *Fleet) explain(response *sdk.Response, err error, url, what string) error {
	if err == nil {
		return nil
	}
	err = transport.Conceal(err, "", f.config.AccessToken.Reveal())
	where := fmt.Sprintf("%s of %s at %s", what, f.config.Scope, root(url))
	if response == nil || response.Response == nil {
		if errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", where, err)
		}
		return problem.Wrap(err, problem.Unreachable, "check that the server is up, and --url", "%s", where)
	}
	switch response.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied,
			"the access token needs the scope write:admin for the instance, write:organization, write:user or write:repository, and its user that right", "%s", where)
	case http.StatusNotFound:
		return problem.Wrap(err, problem.NotFound, "check the organization or repository, and that the server has Actions and this API (Gitea 1.25)", "%s", where)
	}
	return problem.Wrap(err, problem.Unreachable, "the server answered with an error of its own: look at its log", "%s", where)
}
