// Package static is the source of logins that someone else made: a username,
// and a secret that is kept in the environment, a file, or a program's output.
// It mints nothing; when the secret changes there, the login does.
package static

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
)

// Config is a login's whereabouts.
type Config struct {
	Username string
	Password secretref.Ref
	// Salt makes the login's ID useless for guessing the password; the
	// instance id.
	Salt string
}

// Source gives one login.
type Source struct{ config Config }

var _ credential.Source = (*Source)(nil)

// New makes the source. It reads nothing yet.
func New(config Config) *Source { return &Source{config: config} }

// Issue returns the login as it is now. Its ID follows the secret, and who does
// not know the salt learns nothing of the secret from it. Which scopes it has is for verification to find out.
func (s *Source) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	secret, err := s.config.Password.Resolve(ctx)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("get the password of %s: %w", s.config.Username, err)
	}
	id := "static-" + s.config.Username + "-" + s.mark(secret)
	return credential.Credential{
		ID: id, Name: id, Host: req.Host, Username: s.config.Username, Secret: secret, Scopes: req.Scopes,
	}, nil
}

// mark is a name for the secret: the first eight hex digits of HMAC-SHA-256
// (RFC 2104) with the salt as its key. 32 bits tell secrets apart.
func (s *Source) mark(secret credential.Secret) string {
	sum := hmac.New(sha256.New, []byte(s.config.Salt))
	_, _ = sum.Write([]byte(secret.Reveal()))
	return hex.EncodeToString(sum.Sum(nil)[:4])
}
