// Package builtin is the source that makes tokens of the embedded registry.
package builtin

import (
	"context"
	"iter"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

// Config says whose tokens are made, and for what.
type Config struct {
	Tokens *builtin.TokenStore
	User   string
	// Repositories are patterns: see [builtin.TokenRequest].
	Repositories []string
}

// Source makes tokens.
type Source struct{ config Config }

var _ credential.Minter = (*Source)(nil)

// New makes the source.
func New(config Config) *Source { return &Source{config: config} }

// Issue makes a token; see [credential.Source].
func (s *Source) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	token, secret, err := s.config.Tokens.Create(ctx, builtin.TokenRequest{
		User: s.config.User, Name: req.Name, Scopes: req.Scopes, Repositories: s.config.Repositories, Expires: req.Expires,
	})
	if err != nil {
		return credential.Credential{}, err
	}
	return credential.Credential{
		ID: token.ID, Name: token.Name, Host: req.Host, Username: token.User, Secret: secret,
		Scopes: token.Scopes, Issued: token.Created, Expires: token.Expires,
	}, nil
}

// Issued lists the user's tokens with our mark; see [credential.Minter].
func (s *Source) Issued(ctx context.Context, mark credential.Mark) iter.Seq2[credential.Issued, error] {
	return func(yield func(credential.Issued, error) bool) {
		tokens, err := s.config.Tokens.List(ctx)
		if err != nil {
			yield(credential.Issued{}, err)
			return
		}
		for _, token := range tokens {
			if token.User != s.config.User || !mark.Owns(token.Name) {
				continue
			}
			if !yield(credential.Issued{ID: token.ID, Name: token.Name, Created: token.Created}, nil) {
				return
			}
		}
	}
}

// Revoke ends a token; see [credential.Minter].
func (s *Source) Revoke(ctx context.Context, id string) error {
	return s.config.Tokens.Revoke(ctx, id)
}
