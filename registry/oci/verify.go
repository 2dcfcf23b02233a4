// Package oci speaks to any registry that follows the OCI distribution
// specification. It owns verification, whether a login is good for what it was
// asked for, tried at the registry itself; and the ports of package image, by
// which images are read, written and deleted: paging, tokens, redirects, rate
// limits, broken connections, and the proof that what came is what was asked for.
//
// It refuses to decide what is read or deleted, and to keep anything: a Verifier
// changes nothing at a registry, and a Registry only what it was told to.
package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/regkeeper/regkeeper/credential"
	client "github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
)

// Verifier tries logins.
type Verifier struct {
	// Transport sends the requests.
	Transport http.RoundTripper
	// Insecure are the registries that may be spoken to in plain HTTP. Those
	// on this machine always may.
	Insecure map[credential.Host]bool
	// Scratch are repositories, by registry, in which pushing and deleting may
	// be tried where no image is known. Without one it is tried in
	// USER/regkeeper-probe.
	Scratch map[credential.Host]string
}

var _ credential.Verifier = (*Verifier)(nil)

const (
	// searchPage is how many repositories are looked through for an image.
	searchPage = 20
	// nowhere is a digest that nothing has.
	nowhere = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	// pushProbe is the repository, under the login's user, for which pushing
	// is tried where no image is known.
	pushProbe = "regkeeper-probe"
	// mostRedirects is how many redirects one request may lead through, as in
	// package net/http.
	mostRedirects = 10
	// patience is how long a registry may take for all that it is asked about
	// one login.
	patience = 2 * time.Minute
)

// Verify tries the login as a client would: it gets a bearer token where the
// registry hands them out, asks for a manifest, starts an upload and cancels
// it, and asks to delete what does not exist, each for the scope it belongs
// to. A manifest is asked for by HEAD: some registries count a GET as a
// download. See [credential.Verifier].
func (v *Verifier) Verify(ctx context.Context, login credential.Credential, probe string) (credential.Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	registry, err := v.registry(login.Host)
	if err != nil {
		return credential.Proof{}, err
	}
	challenge, err := transport.Ping(ctx, registry, v.transport())
	if err != nil {
		return credential.Proof{}, v.explain(err, login, "reach registry %s", login.Host)
	}
	proof := proofOf(registry, challenge)
	// Before anything else: some registries answer a manifest to anybody.
	if err := v.authenticate(ctx, login, registry, proof, challenge.Insecure); err != nil {
		return credential.Proof{}, err
	}
	image, err := v.pull(ctx, login, registry, probe)
	if err != nil {
		return credential.Proof{}, err
	}
	if image != nil {
		proof.Image = image.Name()
	}
	repository, err := v.scratch(registry, login)
	if image != nil {
		repository, err = image.Context(), nil
	}
	if err != nil {
		return credential.Proof{}, err
	}
	if login.Scopes.Has(credential.Push) {
		if err := v.push(ctx, login, repository); err != nil {
			return credential.Proof{}, err
		}
	}
	if login.Scopes.Has(credential.Delete) {
		if err := v.delete(ctx, login, repository); err != nil {
			return credential.Proof{}, err
		}
	}
	return proof, nil
}

// Check asks for a bearer token, or where the registry has none pings it with
// the login. See [credential.Verifier].
func (v *Verifier) Check(ctx context.Context, login credential.Credential, proof credential.Proof) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	registry, err := v.registry(login.Host)
	if err != nil {
		return err
	}
	if !strings.Contains(proof.Realm, "://") {
		_, err := v.Verify(ctx, login, "")
		return err
	}
	err = v.authenticate(ctx, login, registry, proof, strings.HasPrefix(proof.Realm, "http:"))
	if err == nil || errors.Is(err, credential.ErrRefused) || ctx.Err() != nil {
		return err
	}
	// The place that hands out tokens may have moved since.
	challenge, pingErr := transport.Ping(ctx, registry, v.transport())
	if pingErr != nil || proofOf(registry, challenge).Realm == proof.Realm {
		return err
	}
	return v.authenticate(ctx, login, registry, proofOf(registry, challenge), challenge.Insecure)
}

// proofOf is where a registry that answers with the challenge is shown a login:
// at its token server, or at the root of its API. The root is spoken to as it
// answered, so that no password goes over plain HTTP to a registry that has
// HTTPS.
func proofOf(registry name.Registry, challenge *transport.Challenge) credential.Proof {
	if strings.EqualFold(challenge.Scheme, "bearer") {
		return credential.Proof{
			Scheme: challenge.Scheme, Realm: challenge.Parameters["realm"], Service: challenge.Parameters["service"],
		}
	}
	root := url.URL{Scheme: "https", Host: registry.RegistryStr(), Path: "/v2/"}
	if challenge.Insecure {
		root.Scheme = "http"
	}
	return credential.Proof{Scheme: "Basic", Realm: root.String()}
}

func (v *Verifier) transport() http.RoundTripper { return bounded{v.Transport} }

// bounded ends a request that is redirected without end: go-containerregistry's
// clients follow redirects for as long as there are any.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	redirects := 0
	for from := r.Response; from != nil && from.Request != nil; from = from.Request.Response {
		redirects++
	}
	if redirects >= mostRedirects {
		return nil, fmt.Errorf("stopped after %d redirects", redirects)
	}
	return b.next.RoundTrip(r)
}

func (v *Verifier) registry(host credential.Host) (name.Registry, error) {
	var options []name.Option
	if v.plain(host) {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(string(host), options...)
	return registry, problem.Wrap(err, problem.Config, "", "registry %s", host)
}

// plain says whether a registry may be spoken to in plain HTTP. Package name
// knows localhost and 127.0.0.1 alone.
func (v *Verifier) plain(host credential.Host) bool { return v.Insecure[host] || host.Loopback() }

func authenticator(login credential.Credential) authn.Authenticator {
	return &authn.Basic{Username: login.Username, Password: login.Secret.Reveal()}
}

// scratch is the repository in which pushing and deleting are tried where no
// image is known.
func (v *Verifier) scratch(registry name.Registry, login credential.Credential) (name.Repository, error) {
	path := v.Scratch[login.Host]
	if path == "" {
		path = strings.ToLower(login.Username) + "/" + pushProbe
	}
	repository, err := name.NewRepository(registry.Name() + "/" + path)
	if err != nil {
		repository, err = name.NewRepository(registry.Name() + "/" + pushProbe)
	}
	repository.Registry = registry
	return repository, err
}

// authenticate shows the login where the registry asks for it: the token
// server, or the API root. At the root alone a login that was not asked for is
// not looked at by every registry.
//
// Plain says that the token server may be spoken to in plain HTTP.
func (v *Verifier) authenticate(ctx context.Context, login credential.Credential, registry name.Registry, proof credential.Proof, plain bool) error {
	if strings.EqualFold(proof.Scheme, "bearer") {
		challenge := &transport.Challenge{
			Scheme:     proof.Scheme,
			Parameters: map[string]string{"realm": proof.Realm, "service": proof.Service},
			Insecure:   plain,
		}
		_, err := transport.Exchange(ctx, registry, authenticator(login), v.transport(), nil, challenge)
		return v.explain(err, login, "get a token for %s", login.Host)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, proof.Realm, nil)
	if err != nil {
		return err
	}
	request.SetBasicAuth(login.Username, login.Secret.Reveal())
	response, err := v.transport().RoundTrip(request)
	if err != nil {
		return v.explain(err, login, "log in to %s", login.Host)
	}
	defer func() { _ = response.Body.Close() }()
	return v.explain(transport.CheckError(response, http.StatusOK), login, "log in to %s", login.Host)
}

// pull asks for the manifest of the probe, or of the first image it finds. It
// returns no image if there is none to be found.
func (v *Verifier) pull(ctx context.Context, login credential.Credential, registry name.Registry, probe string) (name.Reference, error) {
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(v.transport()), remote.WithAuth(authenticator(login)),
		// The transport repeats what may be repeated.
		remote.WithRetryStatusCodes(), remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithPageSize(searchPage),
	}
	if probe != "" {
		var parse []name.Option
		if v.plain(login.Host) {
			parse = append(parse, name.Insecure)
		}
		image, err := name.ParseReference(probe, parse...)
		if err != nil {
			return nil, problem.Wrap(err, problem.Config, "write it as host/repository:tag", "probe %q", probe)
		}
		if image.Context().RegistryStr() != registry.RegistryStr() {
			return nil, problem.New(problem.Config, "name an image of this registry",
				"probe %q is not an image of %s", probe, login.Host)
		}
		if !login.Scopes.Has(credential.Pull) {
			return image, nil
		}
		_, err = remote.Head(image, options...)
		return image, v.explain(err, login, "pull %s", probe)
	}
	if !login.Scopes.Has(credential.Pull) {
		return nil, nil
	}
	return v.search(registry, options), nil
}

// search looks for an image that the login can pull. Most registries do not
// list repositories to everyone, so finding none says nothing of the login.
func (v *Verifier) search(registry name.Registry, options []remote.Option) name.Reference {
	repositories, err := remote.CatalogPage(registry, "", searchPage, options...)
	if err != nil {
		return nil
	}
	for _, path := range repositories {
		repository := registry.Repo(strings.Split(path, "/")...)
		tags, err := remote.List(repository, options...)
		if err != nil || len(tags) == 0 {
			continue
		}
		image := repository.Tag(tags[0])
		if _, err := remote.Head(image, options...); err == nil {
			return image
		}
	}
	return nil
}

// push starts an upload and cancels it (OCI distribution specification, POST
// and DELETE of /v2/<name>/blobs/uploads/).
func (v *Verifier) push(ctx context.Context, login credential.Credential, repository name.Repository) error {
	session, err := transport.NewWithContext(ctx, repository.Registry, authenticator(login), v.transport(),
		[]string{repository.Scope(transport.PushScope)})
	if err != nil {
		return v.explain(err, login, "push to %s", repository)
	}
	start := url.URL{
		Scheme: repository.Scheme(), Host: repository.RegistryStr(),
		Path: "/v2/" + repository.RepositoryStr() + "/blobs/uploads/",
	}
	header, err := send(ctx, session, http.MethodPost, start.String(), http.StatusAccepted)
	if err != nil {
		return v.explain(err, login, "push to %s", repository)
	}
	upload, err := start.Parse(header.Get("Location"))
	if err != nil {
		// The error repeats the place, which may have a key in it.
		return problem.New(problem.Unreachable, "the registry answers as no registry does: look at its log, and at proxies before it",
			"push to %s: the place of an upload cannot be read", repository)
	}
	_, err = send(ctx, session, http.MethodDelete, upload.String(),
		http.StatusNoContent, http.StatusOK, http.StatusAccepted, http.StatusNotFound, http.StatusMethodNotAllowed)
	return v.explain(err, login, "cancel an upload to %s", repository)
}

// delete asks to delete a manifest that does not exist.
func (v *Verifier) delete(ctx context.Context, login credential.Credential, repository name.Repository) error {
	session, err := transport.NewWithContext(ctx, repository.Registry, authenticator(login), v.transport(),
		[]string{repository.Scope(transport.DeleteScope)})
	if err != nil {
		return v.explain(err, login, "delete from %s", repository)
	}
	manifest := url.URL{
		Scheme: repository.Scheme(), Host: repository.RegistryStr(),
		Path: "/v2/" + repository.RepositoryStr() + "/manifests/" + nowhere,
	}
	_, err = send(ctx, session, http.MethodDelete, manifest.String(),
		http.StatusAccepted, http.StatusNotFound, http.StatusMethodNotAllowed)
	return v.explain(err, login, "delete from %s", repository)
}

// send sends a request without a body and returns the answer's header. Another
// status than the good ones is a [transport.Error].
func send(ctx context.Context, session http.RoundTripper, method, target string, good ...int) (http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, err
	}
	response, err := session.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if err := transport.CheckError(response, good...); err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return response.Header, err
}

// explain makes a problem of what a registry said: refused, not there, or not
// reached. It returns nil for nil.
func (v *Verifier) explain(err error, login credential.Credential, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	err = client.Conceal(err, login.Username, login.Secret.Reveal())
	var answer *transport.Error
	if !errors.As(err, &answer) {
		if errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", what, err)
		}
		return problem.Wrap(err, problem.Unreachable,
			"check that the registry is up, its name and port, and whether it speaks HTTPS", "%s", what)
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		hint := fmt.Sprintf("the login %s is wrong, revoked or expired, or lacks a right among: %s", login.ID, login.Scopes)
		switch {
		case giteaTokenServer(answer.Request):
			hint = giteaTokenHint
		case strings.Contains(answer.Error(), "reqPackageAccess"):
			hint = giteaAccessHint
		}
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied, hint, "%s", what)
	case http.StatusNotFound:
		return problem.Wrap(err, problem.NotFound, "check the name of the image, and that its owner exists", "%s", what)
	}
	return problem.Wrap(err, problem.Unreachable, "the registry answered with an error of its own: look at its log", "%s", what)
}

const (
	giteaTokenHint  = "Gitea gives this one answer to a token that is wrong, that was revoked, and that lacks a package scope: mint one with read:package (write:package to push)"
	giteaAccessHint = "Gitea's reqPackageAccess: the token lacks read:package (write:package to push), or the image's owner is private to that user"
)

// giteaTokenServer says whether a request went to the token server of Gitea or
// Forgejo (routers/api/packages/container, Authenticate).
func giteaTokenServer(r *http.Request) bool {
	return r != nil && strings.HasSuffix(r.URL.Path, "/v2/token") && r.URL.Query().Get("service") == "container_registry"
}
