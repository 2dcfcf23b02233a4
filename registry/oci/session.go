package oci

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// session speaks to a registry with one set of rights. It shows one pass until
// the registry refuses it, whoever asks.
type session struct {
	registry *Registry
	scopes   []string
	client   *http.Client

	turn    chan struct{} // held while a pass is got
	current atomic.Pointer[pass]
	refused *refusal // the last; read and written by who has the turn
}

// refusal is what a login got in place of a pass. It holds for a while, so that
// not all who ask at the same time ask the registry.
type refusal struct {
	login credential.Login
	err   error
	until time.Time
}

// refusalHolds is how long that is.
const refusalHolds = 10 * time.Second

// pass is what a session shows.
type pass struct {
	header string // Authorization; empty for anybody
	login  credential.Login
	bearer bool
	until  time.Time // when it ends, if that was told
	worked atomic.Bool
}

// errSame says that there is no other pass than the one that was refused.
var errSame = errors.New("no other login is at hand")

// session returns the one session for the scopes.
func (r *Registry) session(scopes ...string) *session {
	key := strings.Join(scopes, " ")
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[key]; s != nil {
		return s
	}
	s := &session{registry: r, scopes: scopes, turn: make(chan struct{}, 1)}
	s.client = &http.Client{Transport: s, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) >= mostRedirects {
			return fmt.Errorf("stopped after %d redirects", mostRedirects)
		}
		return nil
	}}
	r.sessions[key] = s
	return s
}

// reach asks the registry once how it wants logins, and returns the root of its
// API.
func (r *Registry) reach(ctx context.Context) (*url.URL, error) {
	if base := r.base.Load(); base != nil {
		return base, nil
	}
	if _, err := r.ping(ctx); err != nil {
		return nil, err
	}
	return r.base.Load(), nil
}

func (r *Registry) ping(ctx context.Context) (*transport.Challenge, error) {
	if err := take(ctx, r.turn); err != nil {
		return nil, err
	}
	defer func() { <-r.turn }()
	if r.challenge != nil {
		return r.challenge, nil
	}
	registry, err := r.registryName()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	challenge, err := transport.Ping(ctx, registry, bounded{patient{r.config.Transport}})
	if err != nil {
		return nil, err
	}
	root := &url.URL{Scheme: "https", Host: registry.RegistryStr(), Path: "/v2/"}
	if challenge.Insecure {
		if !r.config.Insecure && !r.config.Host.Loopback() {
			return nil, problem.New(problem.Unreachable, "the registry redirects to plain HTTP: allow that for it, or have it speak HTTPS",
				"registry %s speaks plain HTTP", r.config.Host)
		}
		root.Scheme = "http"
	}
	r.challenge = challenge
	r.base.Store(root)
	return challenge, nil
}

// forget has the registry asked anew how it wants logins.
func (r *Registry) forget(ctx context.Context, challenge *transport.Challenge) {
	if take(ctx, r.turn) != nil {
		return
	}
	if r.challenge == challenge {
		r.challenge = nil
	}
	<-r.turn
}

// take waits for a turn.
func take(ctx context.Context, turn chan struct{}) error {
	select {
	case turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pass returns the session's pass: another than the bad one, which was refused.
// Of those who ask at the same time one gets it for all.
func (s *session) pass(ctx context.Context, bad *pass) (*pass, error) {
	good := func() *pass {
		p := s.current.Load()
		if p == nil || p == bad || !p.until.IsZero() && time.Now().After(p.until) {
			return nil
		}
		return p
	}
	if p := good(); p != nil {
		return p, nil
	}
	if err := take(ctx, s.turn); err != nil {
		return nil, err
	}
	defer func() { <-s.turn }()
	if p := good(); p != nil {
		return p, nil
	}
	login, err := s.registry.login(ctx)
	if err != nil {
		return nil, err
	}
	// A token that once was good has ended. One that never was will not be good
	// a second time, and neither will a password.
	if bad != nil && login.Equal(bad.login) && (!bad.bearer || !bad.worked.Load()) {
		return nil, errSame
	}
	if s.refused != nil && s.refused.login.Equal(login) && time.Now().Before(s.refused.until) {
		return nil, s.refused.err
	}
	p, err := s.show(ctx, login)
	if isRefusal(err) {
		// The login may have been replaced since it was asked for.
		other, again := s.registry.login(ctx)
		if again == nil && !other.Equal(login) {
			login = other
			p, err = s.show(ctx, login)
		}
	}
	if isRefusal(err) {
		s.refused = &refusal{login, err, time.Now().Add(refusalHolds)}
	}
	if err != nil {
		return nil, err
	}
	s.current.Store(p)
	return p, nil
}

func isRefusal(err error) bool {
	code := status(err)
	return code == http.StatusUnauthorized || code == http.StatusForbidden
}

func (r *Registry) login(ctx context.Context) (credential.Login, error) {
	if r.config.Login == nil {
		return credential.Login{}, nil
	}
	login, err := r.config.Login(ctx)
	if err != nil {
		return credential.Login{}, fmt.Errorf("get the login for %s: %w", r.config.Host, err)
	}
	r.mu.Lock()
	r.shown = login
	r.mu.Unlock()
	return login, nil
}

// anybody says whether a login is none.
func anybody(login credential.Login) bool { return login.Username == "" && login.Secret.Empty() }

// show makes a pass of a login: a bearer token where the registry hands them
// out.
func (s *session) show(ctx context.Context, login credential.Login) (*pass, error) {
	challenge, err := s.registry.ping(ctx)
	if err != nil {
		return nil, err
	}
	if !strings.EqualFold(challenge.Scheme, "bearer") {
		p := &pass{login: login}
		if !anybody(login) {
			p.header = "Basic " + base64.StdEncoding.EncodeToString([]byte(login.Username+":"+login.Secret.Reveal()))
		}
		return p, nil
	}
	registry, err := s.registry.registryName()
	if err != nil {
		return nil, err
	}
	who := authn.Anonymous
	if !anybody(login) {
		who = &authn.Basic{Username: login.Username, Password: login.Secret.Reveal()}
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	asked := time.Now()
	token, err := transport.Exchange(ctx, registry, who, bounded{patient{s.registry.config.Transport}}, s.scopes, challenge)
	if err != nil {
		if !isRefusal(err) && ctx.Err() == nil {
			// The place that hands out tokens may have moved.
			s.registry.forget(ctx, challenge)
		}
		return nil, err
	}
	text := token.Token
	if token.AccessToken != "" {
		text = token.AccessToken
	}
	p := &pass{header: "Bearer " + text, login: login, bearer: true}
	if token.ExpiresIn > 0 {
		// Not at its very end: a request takes its time.
		p.until = asked.Add(time.Duration(token.ExpiresIn) * time.Second * 9 / 10)
	}
	return p, nil
}

// RoundTrip sends a request with the session's pass, and once more with another
// if that is refused. Only the registry itself is shown the pass: to where a
// redirect leads, storage or a mirror, the request goes without.
func (s *session) RoundTrip(request *http.Request) (*http.Response, error) {
	next := patient{s.registry.config.Transport}
	if base := s.registry.base.Load(); base == nil || request.URL.Scheme != base.Scheme || request.URL.Host != base.Host {
		return next.RoundTrip(request)
	}
	ctx := request.Context()
	shown, err := s.pass(ctx, nil)
	if err != nil {
		closeBody(request)
		return nil, err
	}
	response, err := next.RoundTrip(shown.on(request))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusUnauthorized {
		shown.worked.Store(true)
		return response, nil
	}
	again, err := rewound(request)
	if err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	if again == nil {
		return response, nil
	}
	shown, err = s.pass(ctx, shown)
	if err != nil {
		closeBody(again)
		if errors.Is(err, errSame) {
			return response, nil
		}
		_ = response.Body.Close()
		return nil, err
	}
	drain(response)
	response, err = next.RoundTrip(shown.on(again))
	if err == nil && response.StatusCode != http.StatusUnauthorized {
		shown.worked.Store(true)
	}
	return response, err
}

// on puts the pass on a copy of the request.
func (p *pass) on(request *http.Request) *http.Request {
	request = request.Clone(request.Context())
	if p.header != "" {
		request.Header.Set("Authorization", p.header)
	}
	return request
}

// rewound is the request with its body from the beginning, or nil if it cannot
// be sent again.
func rewound(request *http.Request) (*http.Request, error) {
	if request.Body == nil || request.Body == http.NoBody {
		return request, nil
	}
	if request.GetBody == nil {
		return nil, nil
	}
	body, err := request.GetBody()
	if err != nil {
		return nil, err
	}
	again := request.Clone(request.Context())
	again.Body = body
	return again, nil
}

func closeBody(request *http.Request) {
	if request.Body != nil {
		_ = request.Body.Close()
	}
}

// drain ends an answer that nobody reads, so that its connection is used again.
func drain(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, errorLimit)
	_ = response.Body.Close()
}
