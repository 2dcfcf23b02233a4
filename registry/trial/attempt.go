package trial

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/transport"
)

const (
	// readLimit bounds the bodies that are read, shownLimit what is kept of one.
	readLimit, shownLimit = 64 << 10, 512
	// mostRedirects is as in package net/http.
	mostRedirects = 10
	// clientID names a client to token servers that speak OAuth 2
	// (distribution, docs/spec/auth/oauth.md).
	clientID = "regkeeper"
)

// manifestTypes are what clients take for an image.
var manifestTypes = []string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}

// attempt is one login on its way.
type attempt struct {
	*Trier
	question   Question
	hide       *hide
	host       credential.Host
	repository string
	target     string
	answer     Answer

	client *http.Client
	// base is the root of the API, once it was reached.
	base *url.URL
	// challenge is how the registry wants logins; nil if it wants none.
	challenge *Challenge
	// show puts the login on a request to the registry, in the way as says.
	show func(*http.Request)
	as   string

	mu    sync.Mutex
	proxy *url.URL // on the way of the last request
}

// open makes a client of its own, so that what happens on the way is seen, and
// returns what ends it.
func (a *attempt) open() (end func()) {
	dialer := &net.Dialer{Timeout: a.config.Timeout, Resolver: a.config.Resolver}
	base := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			proxy, err := a.config.Proxy(r)
			a.mu.Lock()
			a.proxy = proxy
			a.mu.Unlock()
			return proxy, err
		},
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, response *http.Response) error {
			if response.StatusCode == http.StatusOK {
				return nil
			}
			return &proxyAnswer{proxy.Host, response.StatusCode}
		},
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: a.config.Timeout,
		ForceAttemptHTTP2:   true,
	}
	if a.config.TLS != nil {
		base.TLSClientConfig = a.config.TLS.Clone()
	}
	a.show = func(*http.Request) {}
	a.as = string(Nobody)
	a.client = &http.Client{Transport: transport.New(transport.Config{Base: base}), CheckRedirect: checkRedirect}
	return base.CloseIdleConnections
}

// checkRedirect keeps logins from where they were not meant to go.
func checkRedirect(r *http.Request, via []*http.Request) error {
	from := via[len(via)-1]
	switch {
	case len(via) >= mostRedirects:
		return fmt.Errorf("after %d redirects: %w", mostRedirects, errRedirect)
	case from.URL.Scheme == "https" && r.URL.Scheme != "https":
		return fmt.Errorf("from HTTPS to plain HTTP: %w", errRedirect)
	case r.Method == http.MethodPost && r.URL.Host != via[0].URL.Host:
		return fmt.Errorf("of a login to another host: %w", errRedirect)
	case r.URL.Host != via[0].URL.Host:
		r.Header.Del("Authorization")
	}
	return nil
}

// plainAllowed says whether plain HTTP may be spoken.
func (a *attempt) plainAllowed() bool {
	return a.question.Insecure || a.question.Plain || a.host.Loopback()
}

// root asks how the registry wants logins, and says whether to go on.
func (a *attempt) root(ctx context.Context) bool {
	schemes := []string{"https"}
	switch {
	case a.question.Plain:
		schemes = []string{"http"}
	case a.plainAllowed():
		schemes = append(schemes, "http")
	}
	for _, scheme := range schemes {
		place := &url.URL{Scheme: scheme, Host: a.host.API(), Path: "/v2/"}
		step, _ := a.send(ctx, Root, http.MethodGet, place, nil)
		if fault := step.Fault; fault != nil {
			if fault.Kind == PlainSpoken || fault.Kind == Refused || fault.Kind == Broken {
				continue
			}
			return false
		}
		a.base = place
		if step.Status == http.StatusBadRequest && scheme == "http" && a.speaksTLS(ctx) {
			a.answer.Steps[len(a.answer.Steps)-1].Fault = &Fault{
				Kind: TLSSpoken, Host: place.Host, Text: "the server speaks TLS, and was spoken to in plain HTTP",
			}
			return false
		}
		a.challenge = pick(step.Challenges)
		return step.Status == http.StatusOK || step.Status == http.StatusUnauthorized
	}
	return false
}

// speaksTLS says whether the registry's port does. No certificate is checked:
// nothing is sent.
func (a *attempt) speaksTLS(ctx context.Context) bool {
	a.mu.Lock()
	proxied := a.proxy != nil
	a.mu.Unlock()
	if proxied {
		return false
	}
	address := a.host.API()
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), "80")
	}
	ctx, cancel := context.WithTimeout(ctx, a.config.Timeout)
	defer cancel()
	dialer := tls.Dialer{
		NetDialer: &net.Dialer{Resolver: a.config.Resolver},
		Config:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // it only asks whether TLS is spoken
	}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// pick is the challenge that clients take of several: bearer, then basic.
func pick(challenges []Challenge) *Challenge {
	for _, scheme := range []string{"bearer", "basic"} {
		if at := slices.IndexFunc(challenges, func(c Challenge) bool { return c.Scheme == scheme }); at >= 0 {
			return &challenges[at]
		}
	}
	return nil
}

// login gets what the registry wants to be shown, and says whether to go on.
func (a *attempt) login(ctx context.Context) bool {
	login := a.question.Login
	switch {
	case a.answer.Kind == RegistryToken:
		a.bearer(login.RegistryToken.Reveal())
	case a.challenge == nil:
	case a.challenge.Scheme == "bearer":
		return a.token(ctx)
	case a.answer.Kind == Password:
		a.as, a.show = "basic", a.basic
	}
	return true
}

func (a *attempt) basic(r *http.Request) {
	r.SetBasicAuth(a.question.Login.Username, a.question.Login.Password.Reveal())
}

func (a *attempt) bearer(text string) {
	a.as = "bearer"
	a.show = func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+text) }
}

// token gets a token for the repository (distribution, docs/spec/auth/token.md
// and oauth.md).
func (a *attempt) token(ctx context.Context) bool {
	realm, err := url.Parse(a.challenge.Realm)
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		a.record(Step{Stage: Token, Asked: "GET " + a.hide.text(a.challenge.Realm), Fault: &Fault{
			Kind: BadRealm, Host: string(a.host), Text: fmt.Sprintf("the registry names no address of a token server: %q", a.hide.text(a.challenge.Realm)),
		}})
		return false
	}
	if realm.Scheme == "http" && a.base.Scheme == "https" && !a.plainAllowed() && a.answer.Kind != Nobody {
		a.record(Step{Stage: Token, Asked: "GET " + bare(realm), Fault: &Fault{
			Kind: PlainRealm, Host: realm.Host, Text: "the registry speaks HTTPS and sends logins to a token server in plain HTTP",
		}})
		return false
	}
	query := realm.Query()
	if a.challenge.Service != "" {
		query.Set("service", a.challenge.Service)
	}
	query.Set("scope", "repository:"+a.repository+":pull")
	var step Step
	var body []byte
	if a.answer.Kind == IdentityToken {
		form := url.Values{
			"grant_type": {"refresh_token"}, "client_id": {clientID}, "service": {a.challenge.Service},
			"scope": {query.Get("scope")}, "refresh_token": {a.question.Login.IdentityToken.Reveal()},
		}
		a.as = "oauth2"
		step, body = a.send(ctx, Token, http.MethodPost, realm, form)
	} else {
		if a.answer.Kind == Password {
			a.as, a.show = "basic", a.basic
		}
		realm.RawQuery = query.Encode()
		step, body = a.send(ctx, Token, http.MethodGet, realm, nil)
	}
	switch {
	case step.Fault != nil:
		return false
	case step.Status != http.StatusOK:
		a.known(ctx, step, realm)
		return false
	}
	var said struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	last := &a.answer.Steps[len(a.answer.Steps)-1]
	if err := json.Unmarshal(body, &said); err != nil || said.Token == "" && said.AccessToken == "" {
		last.Fault = &Fault{Kind: BadToken, Host: realm.Host, Text: "the token server answered without a token"}
		return false
	}
	text := said.Token
	if text == "" {
		text = said.AccessToken
	}
	a.hide.add(said.Token)
	a.hide.add(said.AccessToken)
	last.Granted = grants(text, a.repository)
	a.bearer(text)
	return true
}

// known asks Gitea and Forgejo whether they know a login that their token server
// refuses: the root of the API takes any token of a user, whatever its scopes
// (gitea, routers/api/packages/container, DetermineSupport).
func (a *attempt) known(ctx context.Context, refused Step, realm *url.URL) {
	if refused.Status != http.StatusUnauthorized || a.answer.Kind != Password || !giteaTokenServer(realm, a.challenge.Service) {
		return
	}
	a.as, a.show = "basic", a.basic
	a.send(ctx, Known, http.MethodGet, a.base, nil)
}

// giteaTokenServer says whether a token server is that of Gitea or Forgejo
// (routers/api/packages/container, APIUnauthorizedError).
func giteaTokenServer(realm *url.URL, service string) bool {
	return service == "container_registry" && strings.HasSuffix(realm.Path, "/v2/token")
}

// manifest asks for the manifest.
func (a *attempt) manifest(ctx context.Context) {
	place := a.base.JoinPath(a.repository, "manifests", a.target)
	step, _ := a.send(ctx, Manifest, http.MethodHead, place, nil)
	if step.Fault != nil {
		return
	}
	if step.Status == http.StatusUnauthorized && a.challenge == nil && a.answer.Kind != RegistryToken {
		// The root is open to all and the repository is not.
		if a.challenge = pick(step.Challenges); a.challenge != nil && (a.challenge.Scheme == "bearer" || a.answer.Kind == Password) {
			if !a.login(ctx) {
				return
			}
			if step, _ = a.send(ctx, Manifest, http.MethodHead, place, nil); step.Fault != nil {
				return
			}
		}
	}
	switch step.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		a.send(ctx, Reason, http.MethodGet, place, nil)
	}
}

// record adds a step. What it says of challenges is for people; the addresses in
// them may have keys in their queries.
func (a *attempt) record(step Step) {
	shown := slices.Clone(step.Challenges)
	for i := range shown {
		c := &shown[i]
		for _, text := range []*string{&c.Scheme, &c.Realm, &c.Service, &c.Scope, &c.Error} {
			*text = shorten(a.hide.text(*text))
		}
	}
	step.Challenges = shown
	a.answer.Steps = append(a.answer.Steps, step)
}

// bare is an address without what may be secret in it.
func bare(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
