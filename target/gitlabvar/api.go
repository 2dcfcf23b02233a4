package gitlabvar

import (
	"context"
	"net/http"

	sdk "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/transport/gitlabapi"
	"github.com/regkeeper/regkeeper/problem"
)

// Levels at which there are variables, as GitLab's API calls them.
const (
	projects = "projects"
	groups   = "groups"
	instance = "admin/ci"
)

// anyScope is the environment scope of variables for all environments.
const anyScope = "*"

// description is shown in GitLab beside a variable that was made here.
const description = "Registry logins, kept by regkeeper"

// spot is where a variable is.
type spot struct{ level, path, key, scope string }

func (s spot) place() credential.Place {
	place := s.level + "/" + s.path
	if s.level == instance {
		place = s.level
	}
	place += "/variables/" + s.key
	if s.scope != anyScope {
		place += "?environment_scope=" + s.scope
	}
	return credential.Place(place)
}

func (s spot) hints() gitlabapi.Hints {
	who := map[string]string{projects: "a Maintainer of the project", groups: "an Owner of the group", instance: "an administrator"}[s.level]
	return gitlabapi.Hints{
		Denied:  "the API wants an access token with the scope api, of " + who,
		Missing: "check the path, and that the token's owner is " + who + ": GitLab says so of what it does not show, too",
		Invalid: "see what the server says of the variable; an older server masks no JSON: set unmasked: true there",
	}
}

// wire is a variable as the library has it.
type wire = sdk.ProjectVariable

func (s spot) filter() *sdk.VariableFilter { return &sdk.VariableFilter{EnvironmentScope: s.scope} }

// read reads the variable. A project or group that cannot be seen is an error: what
// it has may be anything.
func (s spot) read(ctx context.Context, client *gitlabapi.Client) (v variable, exists bool, err error) {
	what := "read " + string(s.place())
	found, response, err := s.get(ctx, client)
	if gitlabapi.Status(err) != http.StatusNotFound {
		if err != nil {
			return variable{}, false, client.Explain(response, err, what, s.hints())
		}
		v, err := s.take(found)
		return v, err == nil, err
	}
	// GitLab says 404 of a project that is hidden, too. The list tells the two apart.
	if response, err := s.look(ctx, client); err != nil {
		return variable{}, false, client.Explain(response, err, what, s.hints())
	}
	return variable{}, false, nil
}

// take makes our own of the library's, if it is the one asked for.
func (s spot) take(found *wire) (variable, error) {
	if found == nil || found.Key != s.key {
		return variable{}, problem.New(problem.Unreachable, "check the url, and proxies before the server", "%s: the answer is no variable of that name", s.place())
	}
	if found.EnvironmentScope != "" && found.EnvironmentScope != s.scope {
		return variable{}, s.unscoped()
	}
	return variable{
		value: found.Value, file: found.VariableType == sdk.FileVariableType, raw: found.Raw,
		masked: found.Masked, protected: found.Protected, hidden: found.Hidden,
	}, nil
}

// unscoped is the error of a server that ignores the scope, as GitLab does for groups
// without Premium: a login for one environment would be given to all.
func (s spot) unscoped() error {
	return problem.New(problem.Config, "leave the environment out, deliver to the projects, or use GitLab Premium",
		"%s: this server has no environment scopes for variables of groups", s.place())
}

func (s spot) get(ctx context.Context, client *gitlabapi.Client) (*wire, *sdk.Response, error) {
	with := sdk.WithContext(ctx)
	switch s.level {
	case groups:
		found, response, err := client.GroupVariables.GetVariable(s.path, s.key, &sdk.GetGroupVariableOptions{Filter: s.filter()}, with)
		return ofGroup(found), response, err
	case instance:
		found, response, err := client.InstanceVariables.GetVariable(s.key, with)
		return ofInstance(found), response, err
	}
	return client.ProjectVariables.GetVariable(s.path, s.key, &sdk.GetProjectVariableOptions{Filter: s.filter()}, with)
}

// look asks for as little of the list of variables as there is to ask for.
func (s spot) look(ctx context.Context, client *gitlabapi.Client) (response *sdk.Response, err error) {
	with, one := sdk.WithContext(ctx), sdk.ListOptions{PerPage: 1}
	switch s.level {
	case groups:
		_, response, err = client.GroupVariables.ListVariables(s.path, &sdk.ListGroupVariablesOptions{ListOptions: one}, with)
	case instance:
		_, response, err = client.InstanceVariables.ListVariables(&sdk.ListInstanceVariablesOptions{ListOptions: one}, with)
	default:
		_, response, err = client.ProjectVariables.ListVariables(s.path, &sdk.ListProjectVariablesOptions{ListOptions: one}, with)
	}
	return response, err
}

// create makes the variable. It is not done if there is one by now.
func (s spot) create(ctx context.Context, client *gitlabapi.Client, v variable) (now variable, done bool, err error) {
	if s.level == groups && s.scope != anyScope {
		return s.createScoped(ctx, client, v)
	}
	return s.post(ctx, client, v)
}

// createScoped makes the variable without a login in it first, since only the answer
// tells whether the server heeds the scope.
func (s spot) createScoped(ctx context.Context, client *gitlabapi.Client, v variable) (now variable, done bool, err error) {
	blank := v
	blank.value = empty
	options := sdk.CreateGroupVariableOptions(s.creation(blank))
	made, response, err := client.GroupVariables.CreateVariable(s.path, &options, sdk.WithContext(ctx))
	if err != nil {
		return s.taken(ctx, client, response, err)
	}
	if made == nil || made.EnvironmentScope != s.scope {
		_, err := client.GroupVariables.RemoveVariable(s.path, s.key, nil, sdk.WithContext(ctx))
		if err != nil {
			return variable{}, false, problem.Wrap(s.unscoped(), problem.Config, "delete the variable "+s.key+", which has no login in it", "made a variable for all environments")
		}
		return variable{}, false, s.unscoped()
	}
	return s.update(ctx, client, v)
}

func (s spot) post(ctx context.Context, client *gitlabapi.Client, v variable) (now variable, done bool, err error) {
	with := sdk.WithContext(ctx)
	var made *wire
	var response *sdk.Response
	switch s.level {
	case groups:
		options := sdk.CreateGroupVariableOptions(s.creation(v))
		options.EnvironmentScope = nil
		var one *sdk.GroupVariable
		one, response, err = client.GroupVariables.CreateVariable(s.path, &options, with)
		made = ofGroup(one)
	case instance:
		o := s.creation(v)
		var one *sdk.InstanceVariable
		one, response, err = client.InstanceVariables.CreateVariable(&sdk.CreateInstanceVariableOptions{
			Key: o.Key, Value: o.Value, Description: o.Description, Masked: o.Masked, Protected: o.Protected, Raw: o.Raw, VariableType: o.VariableType,
		}, with)
		made = ofInstance(one)
	default:
		options := s.creation(v)
		made, response, err = client.ProjectVariables.CreateVariable(s.path, &options, with)
	}
	if err != nil {
		return s.taken(ctx, client, response, err)
	}
	now, err = s.take(made)
	return now, err == nil, err
}

// taken tells a variable that somebody else made meanwhile from one that GitLab does
// not take: it says 400 of both.
func (s spot) taken(ctx context.Context, client *gitlabapi.Client, response *sdk.Response, failed error) (variable, bool, error) {
	failed = client.Explain(response, failed, "make "+string(s.place()), s.hints())
	if gitlabapi.Status(failed) == http.StatusBadRequest {
		if _, exists, err := s.read(ctx, client); err != nil || exists {
			return variable{}, false, err
		}
	}
	return variable{}, false, failed
}

func (s spot) creation(v variable) sdk.CreateProjectVariableOptions {
	text, kind := description, sdk.EnvVariableType
	return sdk.CreateProjectVariableOptions{
		Key: &s.key, Value: &v.value, Description: &text, EnvironmentScope: &s.scope,
		Masked: &v.masked, Protected: &v.protected, Raw: &v.raw, VariableType: &kind,
	}
}

// update changes the variable. It is not done if there is none any more. What is not
// named stays as it is.
func (s spot) update(ctx context.Context, client *gitlabapi.Client, v variable) (now variable, done bool, err error) {
	with := sdk.WithContext(ctx)
	var made *wire
	var response *sdk.Response
	switch s.level {
	case groups:
		var one *sdk.GroupVariable
		one, response, err = client.GroupVariables.UpdateVariable(s.path, s.key, &sdk.UpdateGroupVariableOptions{
			Value: &v.value, Masked: &v.masked, Protected: &v.protected, Raw: &v.raw, Filter: s.filter(),
		}, with)
		made = ofGroup(one)
	case instance:
		var one *sdk.InstanceVariable
		one, response, err = client.InstanceVariables.UpdateVariable(s.key, &sdk.UpdateInstanceVariableOptions{
			Value: &v.value, Masked: &v.masked, Protected: &v.protected, Raw: &v.raw,
		}, with)
		made = ofInstance(one)
	default:
		made, response, err = client.ProjectVariables.UpdateVariable(s.path, s.key, &sdk.UpdateProjectVariableOptions{
			Value: &v.value, Masked: &v.masked, Protected: &v.protected, Raw: &v.raw, Filter: s.filter(),
		}, with)
	}
	switch {
	case gitlabapi.Status(err) == http.StatusNotFound:
		// Reading tells why.
		return variable{}, false, nil
	case err != nil:
		return variable{}, false, client.Explain(response, err, "change "+string(s.place()), s.hints())
	}
	now, err = s.take(made)
	return now, err == nil, err
}

func ofGroup(v *sdk.GroupVariable) *wire {
	if v == nil {
		return nil
	}
	of := wire(*v)
	return &of
}

func ofInstance(v *sdk.InstanceVariable) *wire {
	if v == nil {
		return nil
	}
	return &wire{
		Key: v.Key, Value: v.Value, VariableType: v.VariableType, Protected: v.Protected, Masked: v.Masked, Raw: v.Raw, Description: v.Description,
	}
}
