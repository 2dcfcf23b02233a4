package builtin

import (
	"fmt"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/regkeeper/regkeeper/credential"
)

// bearerLife is how long a bearer token lasts. It is not how long a revoked
// token does: each request looks that up.
const bearerLife = 5 * time.Minute

// maxLoginForm is the longest form in bytes that a client may log in with.
const maxLoginForm = 64 << 10

// bearer signs and verifies the tokens of distribution's
// docs/spec/auth/jwt.md, as JWT by RFC 7519 with HS256.
type bearer struct {
	key     []byte
	service string
	now     func() time.Time
	parser  *jwt.Parser
}

// claims are what a bearer token says: which token it stands for, and what
// was asked for and granted.
type claims struct {
	jwt.RegisteredClaims
	Token  string   `json:"token_id"`
	Access []access `json:"access"`
}

func newBearer(key []byte, service string, now func() time.Time) *bearer {
	return &bearer{key: key, service: service, now: now, parser: jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithIssuer(service),
		jwt.WithAudience(service),
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(now),
	)}
}

func (b *bearer) sign(token Token, granted []access, issued time.Time) (string, error) {
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID:        randomHex(8),
			Issuer:    b.service,
			Audience:  jwt.ClaimStrings{b.service},
			Subject:   token.User,
			IssuedAt:  jwt.NewNumericDate(issued),
			NotBefore: jwt.NewNumericDate(issued),
			ExpiresAt: jwt.NewNumericDate(issued.Add(bearerLife)),
		},
		Token:  token.ID,
		Access: granted,
	}).SignedString(b.key)
	if err != nil {
		return "", fmt.Errorf("sign bearer token: %w", err)
	}
	return signed, nil
}

// verify returns the id of the token that a bearer token stands for, and what
// it grants. Every error has [credential.ErrRefused] in its chain, and none
// repeats the bearer token.
func (b *bearer) verify(signed string) (id string, granted []access, err error) {
	var c claims
	if _, err := b.parser.ParseWithClaims(signed, &c, func(*jwt.Token) (any, error) { return b.key, nil }); err != nil {
		return "", nil, refused()
	}
	return c.Token, c.Access, nil
}

// loginAnswer is what a client gets for its login: distribution's
// docs/spec/auth/token.md and oauth.md.
type loginAnswer struct {
	Token       string    `json:"token"`
	AccessToken string    `json:"access_token"`
	ExpiresIn   int       `json:"expires_in"`
	IssuedAt    time.Time `json:"issued_at"`
	Scope       string    `json:"scope,omitempty"`
}

// issue answers a request for a bearer token, in either of the two forms that
// Docker's clients know.
func (g *Registry) issue(w http.ResponseWriter, r *http.Request) (caller, error) {
	login, err := readLogin(w, r)
	if err != nil {
		return caller{}, err
	}
	token, err := g.config.Tokens.Authenticate(login.secret)
	if err != nil {
		return caller{}, g.refuseLogin(err)
	}
	by := caller{token: token}
	granted := grant(token, parseScopes(login.scopes))
	issued := g.config.Now().UTC().Truncate(time.Second)
	signed, err := g.bearer.sign(token, granted, issued)
	if err != nil {
		return by, err
	}
	answer := loginAnswer{Token: signed, AccessToken: signed, ExpiresIn: int(bearerLife.Seconds()), IssuedAt: issued}
	if r.Method == http.MethodPost {
		answer.Scope = formatScopes(granted)
	}
	w.Header().Set("Cache-Control", "no-store")
	return by, writeJSON(w, http.StatusOK, answer)
}

type login struct {
	secret credential.Secret
	scopes []string
}

// readLogin reads the login of GET with Basic credentials, and of POST with a
// form: the password grant of RFC 6749 section 4.3. A refresh token is never
// handed out, so none can come back. In a POST the query is not read: it ends
// up in the logs of proxies.
func readLogin(w http.ResponseWriter, r *http.Request) (login, error) {
	if r.Method == http.MethodGet {
		_, password, _ := r.BasicAuth()
		return login{secret: credential.NewSecret(password), scopes: r.URL.Query()["scope"]}, nil
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLoginForm)
	if err := r.ParseForm(); err != nil {
		return login{}, &refusal{status: http.StatusBadRequest, code: codeUnsupported, message: "form cannot be read"}
	}
	form := r.PostForm
	if form.Get("grant_type") != "password" {
		return login{}, &refusal{status: http.StatusBadRequest, code: codeUnsupported, message: "grant_type must be password"}
	}
	return login{
		secret: credential.NewSecret(form.Get("password")),
		scopes: form["scope"],
	}, nil
}

func (g *Registry) refuseLogin(err error) error {
	if asRefusal(err).status == http.StatusServiceUnavailable {
		return err
	}
	return &refusal{
		status:    http.StatusUnauthorized,
		code:      codeUnauthorized,
		message:   "the user or the token is wrong, was revoked or has expired",
		challenge: "Basic realm=" + quote(g.config.Service),
	}
}
