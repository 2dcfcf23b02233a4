package gitea

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
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

// taskless is how a server refuses a log line for no task, which it does after it
// has taken the runner's token (Gitea, routers/api/actions/runner/runner.go,
// UpdateLog). Here too the code is that of any error.
var taskless = []string{"get task: ", "invalid runner for task"}

// tokenless is how a server refuses a registration before it makes anything (the same
// file, Register).
var tokenless = []string{"registration token", "missing runner token", "of the token not found"}

func saysOne(text string, of []string) bool {
	return slices.ContainsFunc(of, func(part string) bool { return strings.Contains(text, part) })
}

// answerLimit bounds in bytes what is read of an answer.
const answerLimit = 1 << 20

// http sends tokens to the server that they are for alone: no redirect is followed,
// which net/http would do with all headers but its own.
func (f *Fleet) http() *http.Client {
	return &http.Client{
		Transport:     bounded{f.config.Transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// bounded ends answers at the limit, for who reads them to the end.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, answerLimit), response.Body}
	return response, nil
}

// protocol is the runners' own (code.gitea.io/actions-proto-def).
func (f *Fleet) protocol(url string) runnerv1connect.RunnerServiceClient {
	return runnerv1connect.NewRunnerServiceClient(f.http(), root(url)+"/api/actions", connect.WithReadMaxBytes(answerLimit))
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
		if refuses(err) {
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

// refuses says whether a server has refused a registration, and so made nothing. Of
// another error it may have come to afterwards.
func refuses(err error) bool {
	var said *connect.Error
	if !errors.As(err, &said) || !connect.IsWireError(said) {
		return false
	}
	switch said.Code() {
	case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeInvalidArgument, connect.CodeNotFound:
		return true
	case connect.CodeUnknown:
		return saysOne(said.Message(), tokenless)
	}
	return false
}

// ask says how a runner is. The server takes it for a sign of life of the runner.
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
	case !saysOne(said.Message(), taskless):
		return runner.Unknown, "the server answered with an error of its own: " + transport.Conceal(err, "", reg.Token).Error()
	}
	return runner.Alive, "the server knows the runner by its token"
}

// client is for the API.
func (f *Fleet) client(ctx context.Context, url string) (*sdk.Client, error) {
	if f.config.Scope.Kind == "" {
		return nil, problem.New(problem.Usage, "give --scope instance, user, org:NAME or repo:OWNER/NAME, as the runner was registered",
			"whose jobs the runner takes is not said: the API of %s has a place for each", root(url))
	}
	if f.config.AccessToken.Empty() {
		return nil, problem.New(problem.Usage, "give one with --access-token-file FILE; its scope is write:admin, write:organization, write:user or write:repository",
			"the API of %s takes an access token", root(url))
	}
	client, err := sdk.NewClient(root(url), sdk.SetContext(ctx), sdk.SetHTTPClient(f.http()),
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

func (f *Fleet) forgejoToken(ctx context.Context, url, path string) (credential.Secret, bool) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, root(url)+"/api/v1/"+path+"/runners/registration-token", nil)
	if err != nil {
		return credential.Secret{}, false
	}
	request.Header.Set("Authorization", "token "+f.config.AccessToken.Reveal())
	response, err := f.http().Do(request)
	if err != nil {
		return credential.Secret{}, false
	}
	defer func() { _ = response.Body.Close() }()
	var token sdk.RegistrationToken
	err = json.NewDecoder(response.Body).Decode(&token)
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

// remove deletes a runner. One that the server does not show is gone only if it does
// not take the runner's token any more either: it shows none in a scope that is not
// the runner's, and a server without this API, or a proxy, answers the same.
func (f *Fleet) remove(ctx context.Context, reg *registration) (gone bool, err error) {
	client, err := f.client(ctx, reg.Address)
	if err != nil {
		return false, err
	}
	var response *sdk.Response
	switch s := f.config.Scope; s.Kind {
	case Organization:
		response, err = client.DeleteOrgActionRunner(s.Owner, reg.ID)
	case User:
		response, err = client.DeleteUserActionRunner(reg.ID)
	case Repository:
		response, err = client.DeleteRepoActionRunner(s.Owner, s.Repository, reg.ID)
	default:
		response, err = client.DeleteAdminActionRunner(reg.ID)
	}
	err = f.explain(response, err, reg.Address, fmt.Sprintf("delete runner %d", reg.ID))
	if problem.KindOf(err) == problem.NotFound {
		return true, f.confirm(ctx, reg, err)
	}
	return false, err
}

// confirm has the runner's own token decide whether a runner that the API does not
// show is gone. It returns nil if it is.
func (f *Fleet) confirm(ctx context.Context, reg *registration, unseen error) error {
	switch health, reason := f.ask(ctx, reg); health {
	case runner.Removed:
		return nil
	case runner.Alive:
		return problem.Wrap(unseen, problem.NotFound, "check --scope: the server takes the runner's token, so that the runner is there; and that the server has this API (Gitea 1.25)",
			"runner %d is not shown for %s, and is not gone", reg.ID, f.config.Scope)
	default:
		return problem.Wrap(unseen, problem.Unreachable, "try again when the server answers", "whether runner %d is gone is not known: %s", reg.ID, reason)
	}
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
	if response.StatusCode/100 == 3 {
		return problem.Wrap(err, problem.Unreachable, "give the server's own url: no token is sent along with a redirect", "%s", where)
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
