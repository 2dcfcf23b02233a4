// Package gitlab is the source that mints tokens at a GitLab server with the
// scopes for its registry alone: deploy tokens, or access tokens, of one project or
// group.
//
// It refuses to rotate a token by GitLab's own request for that (POST
// .../access_tokens/:id/rotate), which revokes the old one at once: whoever still
// holds it is then refused. A second token beside the first, and the first revoked
// when nobody holds it any more, leaves no such gap. Deploy tokens have no such
// request at all.
package gitlab

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"time"

	sdk "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/transport/gitlabapi"
	"github.com/regkeeper/regkeeper/problem"
)

// Kind is what kind of token is minted.
type Kind string

// The kinds.
const (
	// DeployToken is a login for nothing but Git, packages and images. It ends at
	// the second that was asked for, or never.
	DeployToken Kind = "deploy-token"
	// AccessToken is that of a user made for it, who is a member of the project or
	// group with a role. It ends at the beginning of a day, UTC, at most a year
	// ahead; a server may let it live for ever.
	AccessToken Kind = "access-token"
)

// Config says where tokens are minted, and of which kind.
type Config struct {
	// URL is the server's root, for example https://gitlab.example.com. The registry
	// often has another name.
	URL string
	// Project or Group, one of them, is what the tokens are good for: its number, or
	// its path, for example acme/app. With a number, tokens are found again after it
	// was moved.
	Project, Group string
	// Kind is DeployToken if empty.
	Kind Kind
	// AccessLevel is the role of access tokens, as GitLab numbers it. Zero is the
	// least that the scopes take: 20 (Reporter) to pull, 30 (Developer) to push.
	AccessLevel int
	// Token is what the API is asked with: an access token with the scope api.
	//
	//	kind          of       whose
	//	deploy token  project  a Maintainer's of the project
	//	deploy token  group    an Owner's of the group
	//	access token  project  a Maintainer's, a personal access token
	//	access token  group    an Owner's, a personal access token
	//
	// Access tokens of projects and groups cannot make others of their like (GitLab's
	// API, "Create a project access token").
	Token secretref.Ref
	// Transport sends the requests.
	Transport http.RoundTripper
	// Now is the clock.
	Now func() time.Time
}

// Source mints tokens. A token's ID tells its kind, its project or group, and its
// number there, so that it is revoked at its own place also when the configuration
// has changed meanwhile.
type Source struct{ config Config }

var _ credential.Minter = (*Source)(nil)

// pageSize is the most that GitLab's API has on a page.
const pageSize = 100

// Least roles (GitLab's documentation, "Container registry visibility
// permissions").
const (
	reporter  = 20
	developer = 30
)

// maxDays is how many days an access token lives at most: 365 on any server that
// was not told otherwise, 400 on some (GitLab's documentation, "Access token
// expiration"). It is one less, since the server's day may lag behind ours.
const maxDays = 364

const day = 24 * time.Hour

// New makes the source. It sends nothing yet.
func New(config Config) *Source {
	if config.Kind == "" {
		config.Kind = DeployToken
	}
	return &Source{config: config}
}

// Issue mints a token; see [credential.Source]. A token never ends before it was
// asked to, with one exception: an access token that was asked to live longer than
// GitLab lets one live ends at that limit, as the credential then says.
func (s *Source) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	none := credential.Credential{}
	if req.Scopes.Has(credential.Delete) {
		return none, problem.Wrap(credential.ErrUnsupported, problem.Config,
			"leave delete out of the scopes; images are deleted with an access token of scope api, in GitLab's API",
			"mint a token at %s: GitLab's registry scopes pull and push, and never delete", s.config.URL)
	}
	client, err := s.client(ctx)
	if err != nil {
		return none, err
	}
	o, err := s.owner()
	if err != nil {
		return none, err
	}
	order := order{name: req.Name, scopes: []string{"read_registry"}, level: reporter}
	if req.Scopes.Has(credential.Push) {
		order.scopes, order.level = append(order.scopes, "write_registry"), developer
	}
	if s.config.AccessLevel != 0 {
		order.level = s.config.AccessLevel
	}
	order.expires = s.end(req.Expires)
	what := "mint a " + o.label()
	made, response, err := o.create(ctx, client.Client, order)
	if err != nil {
		return none, client.Explain(response, err, what, o.hints())
	}
	if made.name != req.Name || made.secret == "" || made.id <= 0 || made.username == "" {
		return none, problem.New(problem.Unreachable, "check that url is the root of a GitLab server", "%s at %s: the answer has no token", what, s.config.URL)
	}
	return credential.Credential{
		ID: o.id(made.id), Name: made.name, Host: req.Host, Username: made.username,
		Secret: credential.NewSecret(made.secret), Scopes: req.Scopes, Issued: s.config.Now(), Expires: made.expires,
	}, nil
}

// end is when a token is to end so that it does not before the time that was asked
// for: in the next second, or at the beginning of the next day. Zero stays.
func (s *Source) end(asked time.Time) time.Time {
	if asked.IsZero() {
		return asked
	}
	unit := time.Second
	if s.config.Kind == AccessToken {
		unit = day
	}
	end := asked.UTC().Truncate(unit)
	if end.Before(asked) {
		end = end.Add(unit)
	}
	if latest := s.config.Now().UTC().Truncate(day).AddDate(0, 0, maxDays); s.config.Kind == AccessToken && end.After(latest) {
		end = latest
	}
	return end
}

// Issued lists the tokens of the kind with our mark that can still be used; see
// [credential.Minter]. Of deploy tokens GitLab does not tell when they were made.
func (s *Source) Issued(ctx context.Context, mark credential.Mark) iter.Seq2[credential.Issued, error] {
	return func(yield func(credential.Issued, error) bool) {
		client, err := s.client(ctx)
		if err != nil {
			yield(credential.Issued{}, err)
			return
		}
		o, err := s.owner()
		if err != nil {
			yield(credential.Issued{}, err)
			return
		}
		what := "list the " + o.label() + "s"
		seen := map[int64]bool{}
		var next sdk.RequestOptionFunc
		for more := true; more; {
			tokens, response, err := o.list(ctx, client.Client, pageSize, next)
			if err != nil {
				yield(credential.Issued{}, client.Explain(response, err, what, o.hints()))
				return
			}
			fresh := false
			for _, t := range tokens {
				if seen[t.id] {
					continue
				}
				seen[t.id], fresh = true, true
				if t.ended || !mark.Owns(t.name) {
					continue
				}
				if !yield(credential.Issued{ID: o.id(t.id), Name: t.name, Created: t.created}, nil) {
					return
				}
			}
			if next, more = sdk.WithNext(response); more && !fresh {
				yield(credential.Issued{}, problem.New(problem.Unreachable, "check the url, and proxies before the server", "%s at %s: the list goes in circles", what, s.config.URL))
				return
			}
		}
	}
}

// Revoke ends a token by its ID; see [credential.Minter]. Bearer tokens that
// GitLab's registry handed out for it stay good for a few minutes
// (container_registry_token_expire_delay, 5 by default).
func (s *Source) Revoke(ctx context.Context, id string) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	o, number, parsed := parse(id)
	if !parsed {
		if o, err = s.owner(); err != nil {
			return err
		}
	}
	what := "revoke a " + o.label()
	if parsed {
		response, err := o.remove(ctx, client.Client, number)
		if gitlabapi.Status(err) != http.StatusNotFound {
			return client.Explain(response, err, what, o.hints())
		}
	}
	// GitLab says 404 of a project that is hidden from the token's owner, too, and a
	// login there is not gone. The list tells the two apart.
	if _, response, err := o.list(ctx, client.Client, 1, nil); err != nil {
		return client.Explain(response, err, what, o.hints())
	}
	if !parsed {
		return problem.New(problem.Config, "another source issued the login: revoke it there by hand", "%s at %s: %q is not the ID of one", what, s.config.URL, id)
	}
	return nil
}

func (s *Source) client(ctx context.Context) (*gitlabapi.Client, error) {
	token, err := s.config.Token.Resolve(ctx)
	if err != nil {
		return nil, fmt.Errorf("get the token for %s: %w", s.config.URL, err)
	}
	return gitlabapi.New(s.config.URL, token, s.config.Transport)
}

// owner is what the configuration names.
func (s *Source) owner() (owner, error) {
	c := s.config
	if (c.Project == "") == (c.Group == "") || c.Kind != DeployToken && c.Kind != AccessToken {
		return owner{}, problem.New(problem.Config, "give a project or a group, and deploy-token or access-token as kind", "source gitlab at %s", c.URL)
	}
	if c.Group != "" {
		return owner{c.Kind, groups, c.Group}, nil
	}
	return owner{c.Kind, projects, c.Project}, nil
}
