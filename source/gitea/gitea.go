// Package gitea is the source that mints personal access tokens at a Gitea or
// Forgejo server, with the scopes for packages alone.
package gitea

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says where tokens are minted, and for whom.
type Config struct {
	// URL is the server's root, for example https://gitea.example.com.
	URL string
	// User is the account that the tokens belong to.
	User string
	// Password is the account's password, or a token of it with the scope
	// write:user: Gitea mints tokens for Basic authentication alone.
	Password secretref.Ref
	// Transport sends the requests.
	Transport http.RoundTripper
	// Now is the clock.
	Now func() time.Time
}

// Source mints personal access tokens. A token's ID is its name, since deleting
// by name can touch none but our own. Gitea's tokens do not expire.
type Source struct{ config Config }

var _ credential.Minter = (*Source)(nil)

// pageSize is Gitea's default limit of a page (MAX_RESPONSE_ITEMS).
const pageSize = 50

// New makes the source. It sends nothing yet.
func New(config Config) *Source { return &Source{config: config} }

// Issue mints a token; see [credential.Source].
func (s *Source) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	client, login, err := s.client(ctx)
	if err != nil {
		return credential.Credential{}, err
	}
	scopes := []sdk.AccessTokenScope{sdk.AccessTokenScopeReadPackage}
	if req.Scopes.Has(credential.Push) || req.Scopes.Has(credential.Delete) {
		scopes = append(scopes, sdk.AccessTokenScopeWritePackage)
	}
	token, response, err := client.CreateAccessToken(sdk.CreateAccessTokenOption{Name: req.Name, Scopes: scopes})
	if err != nil {
		return credential.Credential{}, s.explain(response, err, login, "mint a token")
	}
	if token.Name != req.Name || token.Token == "" {
		return credential.Credential{}, problem.New(problem.Unreachable, "check that url is the root of a Gitea or Forgejo server",
			"mint a token for %s at %s: the answer has no token", s.config.User, s.config.URL)
	}
	return credential.Credential{
		ID: token.Name, Name: token.Name, Host: req.Host, Username: s.config.User,
		Secret: credential.NewSecret(token.Token), Scopes: req.Scopes, Issued: s.config.Now(),
	}, nil
}

// Issued lists the tokens with our mark; see [credential.Minter].
func (s *Source) Issued(ctx context.Context, mark credential.Mark) iter.Seq2[credential.Issued, error] {
	return func(yield func(credential.Issued, error) bool) {
		client, login, err := s.client(ctx)
		if err != nil {
			yield(credential.Issued{}, err)
			return
		}
		seen := map[int64]bool{}
		for page := 1; ; page++ {
			options := sdk.ListAccessTokensOptions{ListOptions: sdk.ListOptions{Page: page, PageSize: pageSize}}
			tokens, response, err := client.ListAccessTokens(options)
			if err != nil {
				yield(credential.Issued{}, s.explain(response, err, login, "list tokens"))
				return
			}
			if len(tokens) == 0 {
				return
			}
			fresh := false
			for _, token := range tokens {
				if seen[token.ID] {
					continue
				}
				seen[token.ID], fresh = true, true
				if !mark.Owns(token.Name) {
					continue
				}
				if !yield(credential.Issued{ID: token.Name, Name: token.Name, Created: token.Created}, nil) {
					return
				}
			}
			if !fresh {
				yield(credential.Issued{}, problem.New(problem.Unreachable, "check the url, and proxies before the server: one of them ignores which page it is asked for",
					"list tokens for %s at %s: the list goes in circles", s.config.User, s.config.URL))
				return
			}
		}
	}
}

// Revoke deletes a token; see [credential.Minter]. Bearer tokens that Gitea's
// registry handed out for it stay good for up to 24 hours.
func (s *Source) Revoke(ctx context.Context, id string) error {
	client, login, err := s.client(ctx)
	if err != nil {
		return err
	}
	response, err := client.DeleteAccessToken(id)
	if response != nil && response.StatusCode == http.StatusNotFound {
		return nil
	}
	return s.explain(response, err, login, "delete a token")
}

// client also returns the login it was made with.
func (s *Source) client(ctx context.Context) (*sdk.Client, credential.Login, error) {
	password, err := s.config.Password.Resolve(ctx)
	if err != nil {
		return nil, credential.Login{}, fmt.Errorf("get the password of %s: %w", s.config.User, err)
	}
	client, err := sdk.NewClient(s.config.URL,
		sdk.SetContext(ctx),
		sdk.SetHTTPClient(transport.Client(s.config.Transport)),
		sdk.SetBasicAuth(s.config.User, password.Reveal()),
		// Forgejo's version says nothing of Gitea's API, and asking costs a
		// request; what is used here is older than package registries are.
		sdk.SetGiteaVersion(""),
	)
	return client, credential.Login{Username: s.config.User, Secret: password}, err
}

// explain makes a problem of the server's answer. It returns nil for nil.
func (s *Source) explain(response *sdk.Response, err error, login credential.Login, what string) error {
	if err == nil {
		return nil
	}
	err = transport.Conceal(err, login.Username, login.Secret.Reveal())
	where := fmt.Sprintf("%s for %s at %s", what, s.config.User, s.config.URL)
	if response == nil || response.Response == nil {
		if errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", where, err)
		}
		return problem.Wrap(err, problem.Unreachable, "check that the server is up, and its url in the configuration", "%s", where)
	}
	switch response.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied,
			"check user and password; an account with two-factor authentication needs a token with the scope write:user in place of its password",
			"%s", where)
	case http.StatusNotFound:
		return problem.Wrap(err, problem.NotFound, "check user and url in the configuration", "%s", where)
	}
	return problem.Wrap(err, problem.Unreachable, "the server answered with an error of its own: look at its log", "%s", where)
}
