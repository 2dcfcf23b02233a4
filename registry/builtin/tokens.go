package builtin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// secretPrefix lets people and secret scanners recognise a token.
const secretPrefix = "rkp_"

// Token is a login of the registry: whose it is, what it may do and where. Its
// secret is told once, by [TokenStore.Create].
type Token struct {
	ID   string `json:"id"`
	User string `json:"user"`
	// Name tells the user's tokens apart. It never parses as a number.
	Name   string            `json:"name"`
	Scopes credential.Scopes `json:"scopes"`
	// Repositories are patterns: see [TokenRequest].
	Repositories []string  `json:"repositories"`
	Created      time.Time `json:"created"`
	// Expires is the first moment at which the token is refused. Zero means
	// that it does not expire.
	Expires time.Time `json:"expires,omitzero"`
	// Used is when the token last opened the registry, up to a minute old.
	// Zero means never.
	Used time.Time `json:"used,omitzero"`
}

// Allows says whether the token has the scope on the repository.
func (t Token) Allows(repository string, scope credential.Scope) bool {
	return t.Scopes.Has(scope) && slices.ContainsFunc(t.Repositories, func(pattern string) bool {
		return matchRepository(pattern, repository)
	})
}

func (t Token) expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// TokenRequest asks for a token.
type TokenRequest struct {
	// User is whose token it is; clients are shown it as the username. It need
	// not be unique: a user may have several tokens.
	User string
	// Name tells the user's tokens apart and must not parse as a number.
	Name string
	// Scopes are the rights. Pushing does not include pulling, and Docker's
	// clients look before they push: give them both.
	Scopes credential.Scopes
	// Repositories are patterns: "*" is every repository, "team/*" everything
	// below team/ however deep but not team itself, "team/app" that one alone.
	Repositories []string
	// Expires is when the token ends by itself; zero means never.
	Expires time.Time
}

var (
	userForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$`)
	nameHint = "use letters, digits and . _ - @ +, at most 128, and no number"
)

// check refuses what could not be used or would be read otherwise than meant.
func (r TokenRequest) check(now time.Time) error {
	switch {
	case !userForm.MatchString(r.User):
		return problem.New(problem.Usage, "use letters, digits and . _ - @ +, at most 128", "user %q is not valid", r.User)
	case !userForm.MatchString(r.Name):
		return problem.New(problem.Usage, nameHint, "token name %q is not valid", r.Name)
	case isNumber(r.Name):
		return problem.New(problem.Usage, nameHint, "token name %q is a number", r.Name)
	case !r.Expires.IsZero() && !now.Before(r.Expires):
		return problem.New(problem.Usage, "choose a time to come", "token would expire at %s, before it is made", r.Expires.Format(time.RFC3339))
	}
	return checkRights(r.Scopes, r.Repositories)
}

func checkRights(scopes credential.Scopes, repositories []string) error {
	if len(scopes) == 0 {
		return problem.New(problem.Usage, "give pull, push or delete", "token has no scope")
	}
	for _, scope := range scopes {
		if !allScopes.Has(scope) {
			return problem.New(problem.Usage, "give pull, push or delete", "scope %q is not known", scope)
		}
	}
	if len(repositories) == 0 {
		return problem.New(problem.Usage, "give * for every repository", "token has no repository")
	}
	for _, pattern := range repositories {
		if err := checkRepositoryPattern(pattern); err != nil {
			return err
		}
	}
	return nil
}

func isNumber(text string) bool {
	_, notInt := strconv.ParseInt(text, 0, 64)
	_, notFloat := strconv.ParseFloat(text, 64)
	return notInt == nil || notFloat == nil
}

// TokenStore holds the tokens of a registry in one file, which any number of
// processes may use at once: each change is made under a lock between
// processes and replaces the file whole, and each login looks whether the file
// has changed. So a token that one process revokes is refused by the others at
// their next request.
//
// A file that cannot be read lets nobody in, and is never written over:
// whatever was known before might have been revoked since.
type TokenStore struct {
	path string
	now  func() time.Time

	mu   sync.Mutex
	seen snapshot

	usage usage
}

// OpenTokens opens a token file, which need not exist yet. A nil clock means
// [time.Now]. Nothing is written until a token is created.
//
// The error is of kind [problem.Damaged] with the place in the file, or
// [problem.Storage].
func OpenTokens(path string, now func() time.Time) (*TokenStore, error) {
	if now == nil {
		now = time.Now
	}
	s := &TokenStore{path: path, now: now}
	s.usage.init(path, now)
	if _, err := s.current(); err != nil {
		return nil, err
	}
	return s, nil
}

// Create makes a token and returns it with its secret, which is kept nowhere.
//
// Its errors are of kind [problem.Usage] (also when the user has a token of
// that name), [problem.Damaged], [problem.Storage] and, when another process
// holds the file for seconds, [problem.Busy].
func (s *TokenStore) Create(ctx context.Context, req TokenRequest) (Token, credential.Secret, error) {
	now := s.now().UTC().Round(0)
	if err := req.check(now); err != nil {
		return Token{}, credential.Secret{}, err
	}
	secret := newSecret()
	token := Token{
		ID:           "rkt" + randomHex(8),
		User:         req.User,
		Name:         req.Name,
		Scopes:       credential.ScopesOf(req.Scopes...),
		Repositories: slices.Clone(req.Repositories),
		Created:      now,
		Expires:      req.Expires.UTC().Round(0),
	}
	err := s.update(ctx, func(doc *tokenFile) (bool, error) {
		for _, other := range doc.Tokens {
			if other.User == req.User && other.Name == req.Name {
				return false, problem.New(problem.Usage, "choose another name, or revoke the other token first",
					"user %s has a token %q already", req.User, req.Name)
			}
		}
		doc.Tokens = append(doc.Tokens, record{Token: token, Hash: hashSecret(secret).String()})
		return true, nil
	})
	if err != nil {
		return Token{}, credential.Secret{}, err
	}
	return token, secret, nil
}

// List returns the tokens, ordered by user and name, those that have expired
// included. Its errors are of kind [problem.Damaged] and [problem.Storage].
func (s *TokenStore) List(context.Context) ([]Token, error) {
	known, err := s.current()
	if err != nil {
		return nil, err
	}
	used := s.usage.all()
	list := make([]Token, 0, len(known.byID))
	for id, token := range known.byID {
		token.Used = used[id]
		list = append(list, token.clone())
	}
	slices.SortFunc(list, func(a, b Token) int {
		return strings.Compare(a.User+"\x00"+a.Name, b.User+"\x00"+b.Name)
	})
	return list, nil
}

// Revoke ends a token; one that is gone is no error. When it returns, no
// process accepts the token any more. Its errors are of kind
// [problem.Damaged], [problem.Storage] and [problem.Busy].
func (s *TokenStore) Revoke(ctx context.Context, id string) error {
	return s.update(ctx, func(doc *tokenFile) (bool, error) {
		before := len(doc.Tokens)
		doc.Tokens = slices.DeleteFunc(doc.Tokens, func(r record) bool { return r.ID == id })
		return len(doc.Tokens) != before, nil
	})
}

// Authenticate returns the token that a secret belongs to. What is given as the
// username does not matter, as with the tokens of the forges: the secret alone
// says who it is. The error has [credential.ErrRefused] in its chain when the
// secret is wrong, revoked or expired, and is of kind [problem.Damaged] or
// [problem.Storage] when nobody can tell.
//
// The token is found by the hash of the secret. How long that takes tells
// something about hashes, which whoever sends the secret cannot choose.
func (s *TokenStore) Authenticate(secret credential.Secret) (Token, error) {
	known, err := s.current()
	if err != nil {
		return Token{}, err
	}
	token, ok := known.byHash[hashSecret(secret)]
	if !ok {
		return Token{}, refused()
	}
	return s.accept(token)
}

// lookup returns a token that a bearer token was signed for, as it is now. Its
// errors are those of Authenticate.
func (s *TokenStore) lookup(id string) (Token, error) {
	known, err := s.current()
	if err != nil {
		return Token{}, err
	}
	token, ok := known.byID[id]
	if !ok {
		return Token{}, refused()
	}
	return s.accept(token)
}

func (s *TokenStore) accept(token Token) (Token, error) {
	if token.expired(s.now()) {
		return Token{}, refused()
	}
	if s.usage.note(token.ID) {
		// When a token was used is worth no failed login. The times stay in
		// memory, and FlushUsed reports what is wrong.
		_ = s.flush(s.tryLock)
	}
	return token.clone(), nil
}

func (t Token) clone() Token {
	t.Scopes = slices.Clone(t.Scopes)
	t.Repositories = slices.Clone(t.Repositories)
	return t
}

func refused() error {
	return problem.Wrap(credential.ErrRefused, problem.Denied, "check the user and the token, and whether it was revoked or has expired", "log in")
}

// hash is what is kept of a secret.
type hash [sha256.Size]byte

const hashPrefix = "sha256:"

// String writes the hash as the token file has it.
func (h hash) String() string { return hashPrefix + hex.EncodeToString(h[:]) }

// hashSecret hashes with SHA-256. A slow hash, as for passwords, would protect
// secrets that can be guessed; these are 256 random bits, and the one thing a
// slow hash would do is slow down each pull.
func hashSecret(secret credential.Secret) hash { return sha256.Sum256([]byte(secret.Reveal())) }

func newSecret() credential.Secret { return credential.NewSecret(secretPrefix + randomHex(32)) }

func randomHex(n int) string {
	b := make([]byte, n)
	// It never fails: crypto/rand ends the process instead.
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
