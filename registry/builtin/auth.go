package builtin

import (
	"errors"
	"net/http"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
)

// caller is who makes a request.
type caller struct {
	token Token
	// bearer says that the login is a bearer token, which may do what was
	// granted when it was signed and the token may do still.
	bearer  bool
	granted []access
}

// can says whether the caller has the scope on the repository.
func (c caller) can(repository string, scope credential.Scope) bool {
	return c.token.Allows(repository, scope) &&
		(!c.bearer || covers(c.granted, typeRepository, repository, string(scope)))
}

// may says whether the caller has the right that a request needs.
func (c caller) may(to route) bool {
	switch to.endpoint {
	case base:
		return true
	case catalog:
		return !c.bearer || covers(c.granted, typeRegistry, nameCatalog, "*")
	}
	return c.can(to.repository, to.scope)
}

// identify says who makes a request. The token is looked up each time, a bearer
// token's too: what was revoked, has expired or was narrowed counts from the
// next request on.
//
// The error has [credential.ErrRefused] in its chain unless nobody can tell.
func (g *Registry) identify(r *http.Request) (caller, error) {
	if _, password, ok := r.BasicAuth(); ok {
		token, err := g.config.Tokens.Authenticate(credential.NewSecret(password))
		return caller{token: token}, err
	}
	scheme, signed, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return caller{}, refused()
	}
	id, granted, err := g.bearer.verify(strings.TrimSpace(signed))
	if err != nil {
		return caller{bearer: true}, err
	}
	token, err := g.config.Tokens.lookup(id)
	return caller{token: token, bearer: true, granted: granted}, err
}

// challenge tells a caller who is nobody where to log in, by distribution's
// docs/spec/auth/token.md. It depends on the request alone.
func (g *Registry) challenge(r *http.Request, to route, err error) error {
	if !errors.Is(err, credential.ErrRefused) {
		return err
	}
	return g.unauthorized(r, to, "", "authentication required")
}

// deny refuses a caller who is known. A bearer token is asked to come back with
// more, as Docker's clients do; the same login would get the same answer, so a
// caller with Basic credentials is told so.
func (g *Registry) deny(r *http.Request, by caller, to route) error {
	const message = "the login has no right to do this here"
	if by.bearer {
		return g.unauthorized(r, to, "insufficient_scope", message)
	}
	return &refusal{status: http.StatusForbidden, code: codeDenied, message: message}
}

func (g *Registry) unauthorized(r *http.Request, to route, reason, message string) error {
	challenge := "Bearer realm=" + quote(g.realm(r)) + ",service=" + quote(g.config.Service)
	if scopes := to.scopes(); scopes != "" {
		challenge += ",scope=" + quote(scopes)
	}
	if reason != "" {
		challenge += ",error=" + quote(reason)
	}
	return &refusal{status: http.StatusUnauthorized, code: codeUnauthorized, message: message, challenge: challenge}
}

func (g *Registry) realm(r *http.Request) string {
	if g.url != nil {
		return g.url.Scheme + "://" + g.url.Host + "/v2/token"
	}
	if r.TLS != nil {
		return "https://" + r.Host + "/v2/token"
	}
	return "http://" + r.Host + "/v2/token"
}

// quote writes a quoted-string, RFC 9110 section 5.6.4.
func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
