package giteasecret

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
)

// client is the way to the server, for one piece of work.
type client struct {
	*sdk.Client
	config Config
	key    string
	// conceal are the logins that no error may tell.
	conceal []credential.Login
}

// open finds a place, and the way to it.
func (c Config) open(ctx context.Context, kind kind, place credential.Place) (spot, *client, error) {
	if err := c.Check(); err != nil {
		return spot{}, nil, err
	}
	spots := c.spots()
	i := slices.IndexFunc(spots, func(s spot) bool { return c.at(s, kind) == place })
	if i < 0 {
		return spot{}, nil, problem.Wrap(credential.ErrGone, problem.NotFound, "", "%s", place)
	}
	at := spots[i]
	at.place = place
	password, err := c.Password.Resolve(ctx)
	if err != nil {
		return spot{}, nil, fmt.Errorf("get the password for %s: %w", c.URL, err)
	}
	options := []sdk.ClientOption{
		sdk.SetContext(ctx),
		sdk.SetHTTPClient(transport.Client(c.Transport)),
		// Forgejo's version says nothing of Gitea's API, and asking costs a request.
		sdk.SetGiteaVersion(""),
	}
	if c.User != "" {
		options = append(options, sdk.SetBasicAuth(c.User, password.Reveal()))
	} else {
		options = append(options, sdk.SetToken(password.Reveal()))
	}
	api, err := sdk.NewClient(c.URL, options...)
	if err != nil {
		return spot{}, nil, problem.Wrap(err, problem.Config, "check url of the target", "connect to %s", c.URL)
	}
	return at, &client{
		Client: api, config: c, key: password.Reveal(), conceal: []credential.Login{{Username: c.User, Secret: password}},
	}, nil
}

func (c *client) hash(place credential.Place, host credential.Host, login credential.Login) string {
	return hashOf(c.key, place, host, login)
}

// pageSize is Gitea's default limit of a page (MAX_RESPONSE_ITEMS).
const pageSize = 50

// list looks for secrets, and returns what the server tells of those that are
// there. A page with less than was asked for need not be the last one.
func (c *client) list(at spot, names []string) (found map[string]string, err error) {
	found = map[string]string{}
	seen := map[string]bool{}
	for page := 1; len(found) < len(names); page++ {
		options := sdk.ListOptions{Page: page, PageSize: pageSize}
		var list []*sdk.Secret
		var response *sdk.Response
		if at.organization != "" {
			list, response, err = c.ListOrgActionSecret(at.organization, sdk.ListOrgActionSecretOption{ListOptions: options})
		} else {
			list, response, err = c.ListRepoActionSecret(at.owner, at.repository, sdk.ListRepoActionSecretOption{ListOptions: options})
		}
		if err != nil {
			return nil, c.explain(response, err, at, "list secrets")
		}
		if len(list) == 0 {
			break
		}
		before := len(seen)
		for _, secret := range list {
			seen[secret.Name] = true
			if slices.Contains(names, secret.Name) {
				found[secret.Name] = secret.Created.UTC().Format(time.RFC3339) + " " + secret.Description
			}
		}
		if len(seen) == before {
			return nil, problem.New(problem.Unreachable, "check the url, and proxies before the server: one of them ignores which page it is asked for",
				"list secrets of %s at %s: the list goes in circles", at.where, c.config.URL)
		}
	}
	return found, nil
}

func (c *client) setSecret(at spot, name, text, description string) error {
	option := sdk.CreateOrUpdateSecretOption{Data: text, Description: description}
	var response *sdk.Response
	var err error
	switch {
	case at.organization != "":
		response, err = c.CreateOrgActionSecret(at.organization, name, option)
	case at.repository != "":
		response, err = c.CreateRepoActionSecret(at.owner, at.repository, name, option)
	default:
		response, err = c.CreateUserActionSecret(name, option)
	}
	return c.explain(response, err, at, "write the secret "+name)
}

// variable reads a variable; ok is false if there is none. A repository or
// organisation that cannot be seen is an error: what it has may be anything.
func (c *client) variable(at spot, name string) (text string, ok bool, err error) {
	var response *sdk.Response
	switch {
	case at.repository != "":
		var v *sdk.RepoActionVariable
		if v, response, err = c.GetRepoActionVariable(at.owner, at.repository, name); err == nil {
			return v.Value, true, nil
		}
	default:
		var v *sdk.ActionVariable
		if at.organization != "" {
			v, response, err = c.GetOrgActionVariable(at.organization, name)
		} else {
			v, response, err = c.GetUserActionVariable(name)
		}
		if err == nil {
			return v.Data, true, nil
		}
	}
	if response != nil && response.Response != nil && response.StatusCode == http.StatusNotFound {
		// The server says so of what it hides, too. The list tells the two apart.
		if response, err = c.look(at); err == nil {
			return "", false, nil
		}
	}
	return "", false, c.explain(response, err, at, "read the variable "+name)
}

// look asks for as little of the list of variables as there is to ask for.
func (c *client) look(at spot) (response *sdk.Response, err error) {
	one := sdk.ListOptions{Page: 1, PageSize: 1}
	switch {
	case at.repository != "":
		_, response, err = c.ListRepoActionVariable(at.owner, at.repository, sdk.ListRepoActionVariableOption{ListOptions: one})
	case at.organization != "":
		_, response, err = c.ListOrgActionVariable(at.organization, sdk.ListOrgActionVariableOption{ListOptions: one})
	default:
		_, response, err = c.ListUserActionVariable(one)
	}
	return response, err
}

// setVariable writes a variable, which is there already or is not.
func (c *client) setVariable(at spot, name, text string, there bool) error {
	var response *sdk.Response
	var err error
	what := "make the variable "
	if there {
		what = "change the variable "
	}
	switch {
	case at.repository != "" && there:
		response, err = c.UpdateRepoActionVariable(at.owner, at.repository, name, text)
	case at.repository != "":
		response, err = c.CreateRepoActionVariable(at.owner, at.repository, name, text)
	case at.organization != "" && there:
		response, err = c.UpdateOrgActionVariable(at.organization, name, sdk.UpdateActionVariableOption{Name: name, Value: text})
	case at.organization != "":
		response, err = c.CreateOrgActionVariable(at.organization, name, sdk.CreateActionVariableOption{Value: text})
	case there:
		response, err = c.UpdateUserActionVariable(name, sdk.UpdateActionVariableOption{Name: name, Value: text})
	default:
		response, err = c.CreateUserActionVariable(name, sdk.CreateActionVariableOption{Value: text})
	}
	return c.explain(response, err, at, what+name)
}

// explain makes a problem of the server's answer. It returns nil for nil. That a
// repository is not found does not say that it is gone: the server answers so for
// those that the account may not see.
func (c *client) explain(response *sdk.Response, err error, at spot, what string) error {
	if err == nil {
		return nil
	}
	for _, login := range c.conceal {
		err = transport.Conceal(err, login.Username, login.Secret.Reveal())
	}
	where := fmt.Sprintf("%s of %s at %s", what, at.where, c.config.URL)
	if response == nil || response.Response == nil {
		if errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", where, err)
		}
		return problem.Wrap(err, problem.Unreachable, "check that the server is up, and its url in the configuration", "%s", where)
	}
	switch response.StatusCode {
	case http.StatusUnauthorized:
		return problem.Wrap(err, problem.Denied, "check user and password of the target", "%s", where)
	case http.StatusForbidden:
		return problem.Wrap(err, problem.Denied,
			"the account must own the repository, or be an owner of the organisation; a token needs the scope write:repository, write:organization or write:user", "%s", where)
	case http.StatusNotFound:
		return problem.Wrap(err, problem.NotFound,
			"check its name, and that the account may see it; variables take Gitea 1.22 or Forgejo 8 at least", "%s", where)
	case http.StatusConflict:
		return problem.Wrap(err, problem.Busy, "it is tried again; find what else writes there", "%s", where)
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return problem.Wrap(err, problem.Config, "the server takes at most 64 KiB, and no name that begins with GITEA_ or GITHUB_", "%s", where)
	}
	return problem.Wrap(err, problem.Unreachable, "the server answered with an error of its own: look at its log", "%s", where)
}
