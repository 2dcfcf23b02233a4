package gitlab

import (
	"context"
	"strconv"
	"strings"
	"time"

	sdk "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/regkeeper/regkeeper/internal/transport/gitlabapi"
)

// Where tokens are, as GitLab's API calls it.
const (
	projects = "projects"
	groups   = "groups"
)

// owner has tokens of a kind: a project or group, by number or path.
type owner struct {
	kind  Kind
	where string
	path  string
}

// order is a token to be made.
type order struct {
	name    string
	scopes  []string
	level   int
	expires time.Time
}

// token is one of either kind.
type token struct {
	id       int64
	name     string
	username string
	secret   string // told once, when it is made
	created  time.Time
	expires  time.Time
	ended    bool
}

// id names a token at the server.
func (o owner) id(number int64) string {
	return string(o.kind) + "/" + o.where + "/" + o.path + "/" + strconv.FormatInt(number, 10)
}

// parse is the inverse of id.
func parse(id string) (o owner, number int64, ok bool) {
	kind, rest, _ := strings.Cut(id, "/")
	where, rest, _ := strings.Cut(rest, "/")
	last := strings.LastIndexByte(rest, '/')
	if last < 1 {
		return owner{}, 0, false
	}
	number, err := strconv.ParseInt(rest[last+1:], 10, 64)
	o = owner{Kind(kind), where, rest[:last]}
	return o, number, err == nil && number > 0 && o.id(number) == id &&
		(o.kind == DeployToken || o.kind == AccessToken) && (where == projects || where == groups)
}

// label is what people call its tokens.
func (o owner) label() string {
	kind := "deploy token"
	if o.kind == AccessToken {
		kind = "access token"
	}
	return strings.TrimSuffix(o.where, "s") + " " + kind + " (" + o.path + ")"
}

func (o owner) hints() gitlabapi.Hints {
	role := "Maintainer of the project"
	if o.where == groups {
		role = "Owner of the group"
	}
	which := "an access token"
	if o.kind == AccessToken {
		which = "a personal access token"
	}
	invalid := "see what the server says of it"
	if o.kind == AccessToken {
		invalid = "the role of the API token's owner bounds access_level, and the server's limit how long a token may live: rotate more often if it is that"
	}
	return gitlabapi.Hints{
		Denied:  "the API wants " + which + " with the scope api, of the " + role,
		Missing: "check the path, and that the API token's owner is a " + role + ": GitLab says so of what it does not show, too",
		Invalid: invalid,
	}
}

// create makes a token.
func (o owner) create(ctx context.Context, client *sdk.Client, order order) (token, *sdk.Response, error) {
	with := sdk.WithContext(ctx)
	if o.kind == DeployToken {
		var expires *time.Time
		if !order.expires.IsZero() {
			expires = &order.expires
		}
		options := sdk.CreateProjectDeployTokenOptions{Name: &order.name, Scopes: &order.scopes, ExpiresAt: expires}
		var made *sdk.DeployToken
		var response *sdk.Response
		var err error
		if o.where == groups {
			of := sdk.CreateGroupDeployTokenOptions(options)
			made, response, err = client.DeployTokens.CreateGroupDeployToken(o.path, &of, with)
		} else {
			made, response, err = client.DeployTokens.CreateProjectDeployToken(o.path, &options, with)
		}
		if err != nil {
			return token{}, response, err
		}
		return deployToken(made), response, nil
	}
	level := sdk.AccessLevelValue(order.level)
	var expires *sdk.ISOTime
	if !order.expires.IsZero() {
		date := sdk.ISOTime(order.expires)
		expires = &date
	}
	options := sdk.CreateProjectAccessTokenOptions{Name: &order.name, Scopes: &order.scopes, AccessLevel: &level, ExpiresAt: expires}
	var made *sdk.PersonalAccessToken
	var response *sdk.Response
	var err error
	if o.where == groups {
		of := sdk.CreateGroupAccessTokenOptions(options)
		var one *sdk.GroupAccessToken
		if one, response, err = client.GroupAccessTokens.CreateGroupAccessToken(o.path, &of, with); one != nil {
			made = &one.PersonalAccessToken
		}
	} else {
		var one *sdk.ProjectAccessToken
		if one, response, err = client.ProjectAccessTokens.CreateProjectAccessToken(o.path, &options, with); one != nil {
			made = &one.PersonalAccessToken
		}
	}
	if err != nil {
		return token{}, response, err
	}
	return accessToken(made), response, nil
}

// list lists a page of the tokens: the first if next is nil.
func (o owner) list(ctx context.Context, client *sdk.Client, size int64, next sdk.RequestOptionFunc) (tokens []token, response *sdk.Response, err error) {
	with := []sdk.RequestOptionFunc{sdk.WithContext(ctx), next}
	page := sdk.ListOptions{PerPage: size}
	if o.kind == DeployToken {
		var list []*sdk.DeployToken
		if o.where == groups {
			list, response, err = client.DeployTokens.ListGroupDeployTokens(o.path, &sdk.ListGroupDeployTokensOptions{ListOptions: page}, with...)
		} else {
			list, response, err = client.DeployTokens.ListProjectDeployTokens(o.path, &sdk.ListProjectDeployTokensOptions{ListOptions: page}, with...)
		}
		for _, one := range list {
			tokens = append(tokens, deployToken(one))
		}
		return tokens, response, err
	}
	// Older servers do not know the state, and list revoked ones, too.
	if o.where == groups {
		active := sdk.AccessTokenStateActive
		list, response, err := client.GroupAccessTokens.ListGroupAccessTokens(o.path, &sdk.ListGroupAccessTokensOptions{ListOptions: page, State: &active}, with...)
		for _, one := range list {
			if one != nil {
				tokens = append(tokens, accessToken(&one.PersonalAccessToken))
			}
		}
		return tokens, response, err
	}
	active := string(sdk.AccessTokenStateActive)
	list, response, err := client.ProjectAccessTokens.ListProjectAccessTokens(o.path, &sdk.ListProjectAccessTokensOptions{ListOptions: page, State: &active}, with...)
	for _, one := range list {
		if one != nil {
			tokens = append(tokens, accessToken(&one.PersonalAccessToken))
		}
	}
	return tokens, response, err
}

// remove ends a token.
func (o owner) remove(ctx context.Context, client *sdk.Client, number int64) (*sdk.Response, error) {
	with := sdk.WithContext(ctx)
	switch {
	case o.kind == DeployToken && o.where == groups:
		return client.DeployTokens.DeleteGroupDeployToken(o.path, number, with)
	case o.kind == DeployToken:
		return client.DeployTokens.DeleteProjectDeployToken(o.path, number, with)
	case o.where == groups:
		return client.GroupAccessTokens.RevokeGroupAccessToken(o.path, number, with)
	}
	return client.ProjectAccessTokens.RevokeProjectAccessToken(o.path, number, with)
}

func deployToken(t *sdk.DeployToken) token {
	if t == nil {
		return token{}
	}
	own := token{id: t.ID, name: t.Name, username: t.Username, secret: t.Token, ended: t.Revoked || t.Expired}
	if t.ExpiresAt != nil {
		own.expires = *t.ExpiresAt
	}
	return own
}

// accessToken gives the token's name as username: the registry takes any that is
// not empty, and GitLab tells its own for it by another request alone.
func accessToken(t *sdk.PersonalAccessToken) token {
	if t == nil {
		return token{}
	}
	own := token{id: t.ID, name: t.Name, username: t.Name, secret: t.Token, ended: t.Revoked || !t.Active}
	if t.CreatedAt != nil {
		own.created = *t.CreatedAt
	}
	if t.ExpiresAt != nil {
		own.expires = time.Time(*t.ExpiresAt)
	}
	return own
}
