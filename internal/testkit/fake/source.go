package fake

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Names of calls, for [Calls].
const (
	Issue   = "Issue"
	Issued  = "Issued"
	Revoke  = "Revoke"
	Verify  = "Verify"
	Check   = "Check"
	Places  = "Places"
	Held    = "Held"
	Deliver = "Deliver"
	Load    = "Load"
	Save    = "Save"
)

// Token is a login as the fake source keeps it.
type Token struct {
	ID, Name, Username string
	Secret             credential.Secret
	Scopes             credential.Scopes
	Created, Expires   time.Time
}

// Source is a fake token service of one registry. It makes tokens, and says
// which of them are good.
type Source struct {
	Calls
	// Clock dates the tokens.
	Clock *Clock
	// Host is the registry that the tokens are for.
	Host credential.Host
	// User has the tokens.
	User string
	// Locked refuses the source's own login.
	Locked bool
	// Lifetimes makes tokens expire when a request says so; a source that
	// cannot ignores it.
	Lifetimes bool
	// OnRevoke is told of each token that Revoke is about to end.
	OnRevoke func(Token)

	mu     sync.Mutex
	serial int
	tokens []Token
}

var _ credential.Minter = (*Source)(nil)

// Issue makes a token; see [credential.Source].
func (s *Source) Issue(ctx context.Context, req credential.Request) (made credential.Credential, err error) {
	err = s.Calls.do(Issue, func() error {
		if err := s.open(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if slices.ContainsFunc(s.tokens, func(t Token) bool { return t.Name == req.Name }) {
			return problem.New(problem.Usage, "", "a token %q exists", req.Name)
		}
		token := s.add(req.Name, req.Scopes)
		if s.Lifetimes {
			token.Expires = req.Expires
		}
		made = credential.Credential{
			ID: token.ID, Name: token.Name, Host: req.Host, Username: token.Username, Secret: token.Secret,
			Scopes: token.Scopes, Issued: token.Created, Expires: token.Expires,
		}
		return nil
	})
	if err != nil {
		return credential.Credential{}, err
	}
	return made, nil
}

// Issued lists the tokens with the mark; see [credential.Minter].
func (s *Source) Issued(ctx context.Context, mark credential.Mark) iter.Seq2[credential.Issued, error] {
	return func(yield func(credential.Issued, error) bool) {
		err := s.Calls.do(Issued, func() error { return s.open(ctx) })
		if err != nil {
			yield(credential.Issued{}, err)
			return
		}
		for _, token := range s.Live() {
			if mark.Owns(token.Name) && !yield(credential.Issued{ID: token.ID, Name: token.Name, Created: token.Created}, nil) {
				return
			}
		}
	}
}

// Revoke ends a token; see [credential.Minter].
func (s *Source) Revoke(ctx context.Context, id string) error {
	return s.Calls.do(Revoke, func() error {
		if err := s.open(ctx); err != nil {
			return err
		}
		if s.OnRevoke != nil {
			for _, token := range s.Live() {
				if token.ID == id {
					s.OnRevoke(token)
				}
			}
		}
		s.Delete(id)
		return nil
	})
}

// Add makes a token behind everybody's back.
func (s *Source) Add(name string, scopes ...credential.Scope) Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.add(name, scopes)
}

// Delete ends a token behind everybody's back.
func (s *Source) Delete(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = slices.DeleteFunc(s.tokens, func(t Token) bool { return t.ID == id })
}

// Live are the tokens there are, oldest first, those that have expired
// included.
func (s *Source) Live() []Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.tokens)
}

// Accepts says whether the registry would let the login in, and for what.
func (s *Source) Accepts(login credential.Login) (credential.Scopes, bool) {
	now := s.Clock.Now()
	for _, token := range s.Live() {
		if token.Username == login.Username && token.Secret.Equal(login.Secret) {
			if !token.Expires.IsZero() && !now.Before(token.Expires) {
				return nil, false
			}
			return token.Scopes, true
		}
	}
	return nil, false
}

// Last is a copy of the youngest token.
func (s *Source) Last() Token {
	live := s.Live()
	if len(live) == 0 {
		return Token{}
	}
	return live[len(live)-1]
}

func (s *Source) add(name string, scopes credential.Scopes) *Token {
	s.serial++
	prefix := strings.Split(string(s.Host), ".")[0]
	s.tokens = append(s.tokens, Token{
		ID: fmt.Sprintf("%s%d", prefix, s.serial), Name: name, Username: s.User,
		Secret: credential.NewSecret(fmt.Sprintf("SECRET-%s-%d", prefix, s.serial)),
		Scopes: slices.Clone(scopes), Created: s.Clock.Now(),
	})
	return &s.tokens[len(s.tokens)-1]
}

func (s *Source) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.Locked {
		return problem.Wrap(credential.ErrRefused, problem.Denied, "unlock the fake source", "log in to the fake source")
	}
	return nil
}

// Fixed is a fake source that was told its login: it mints nothing.
type Fixed struct {
	Calls
	mu    sync.Mutex
	login credential.Login
}

var _ credential.Source = (*Fixed)(nil)

// Set changes the login.
func (f *Fixed) Set(login credential.Login) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.login = login
}

// Issue returns the login as it is; see [credential.Source].
func (f *Fixed) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	var login credential.Login
	err := f.Calls.do(Issue, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		login = f.login
		return ctx.Err()
	})
	if err != nil {
		return credential.Credential{}, err
	}
	id := "fixed-" + login.Secret.Fingerprint()
	return credential.Credential{
		ID: id, Name: id, Host: req.Host, Username: login.Username, Secret: login.Secret, Scopes: req.Scopes,
	}, nil
}

// Verifier is a fake of the registries' side: it accepts what their sources
// hold, with the scopes they have.
type Verifier struct {
	Calls
	// Accepts are the registries; one that is missing cannot be reached.
	Accepts map[credential.Host]func(credential.Login) (credential.Scopes, bool)
}

var _ credential.Verifier = (*Verifier)(nil)

// Verify tries a login for its scopes; see [credential.Verifier].
func (v *Verifier) Verify(ctx context.Context, login credential.Credential, probe string) (credential.Proof, error) {
	err := v.Calls.do(Verify, func() error { return v.try(ctx, login, login.Scopes) })
	if err != nil {
		return credential.Proof{}, err
	}
	return credential.Proof{Image: probe, Scheme: "Fake"}, nil
}

// Check tries a login; see [credential.Verifier].
func (v *Verifier) Check(ctx context.Context, login credential.Credential, proof credential.Proof) error {
	return v.Calls.do(Check, func() error {
		if proof.Scheme != "Fake" {
			return problem.New(problem.Internal, "", "checked without a proof")
		}
		return v.try(ctx, login, nil)
	})
}

func (v *Verifier) try(ctx context.Context, login credential.Credential, scopes credential.Scopes) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	accepts := v.Accepts[login.Host]
	if accepts == nil {
		return problem.New(problem.Unreachable, "", "no registry at %s", login.Host)
	}
	has, ok := accepts(login.Login())
	for _, scope := range scopes {
		ok = ok && has.Has(scope)
	}
	if !ok {
		return problem.Wrap(credential.ErrRefused, problem.Denied, "", "log in to %s", login.Host)
	}
	return nil
}
