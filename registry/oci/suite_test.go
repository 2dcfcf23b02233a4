package oci_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/registry/builtin"
	"github.com/regkeeper/regkeeper/registry/oci"
	"github.com/regkeeper/regkeeper/registry/registrytest"
)

// served is a registry that listens.
func served(t *testing.T, handler http.Handler) credential.Host {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return credential.Host(strings.TrimPrefix(server.URL, "http://"))
}

// as has a client show a login.
func as(username, password string) func(context.Context) (credential.Login, error) {
	return func(context.Context) (credential.Login, error) {
		return credential.Login{Username: username, Secret: credential.NewSecret(password)}, nil
	}
}

func client(host credential.Host, login func(context.Context) (credential.Login, error)) *oci.Registry {
	return oci.New(oci.Config{Host: host, Transport: http.DefaultTransport, Login: login})
}

// suite is what all registries have in common.
func suite(t *testing.T, host credential.Host, login func(context.Context) (credential.Login, error)) registrytest.Setup {
	t.Helper()
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	tested := client(host, login)
	return registrytest.Setup{
		Reader: tested, Writer: tested, Deleter: tested, Repository: "team/api", Other: "team/worker",
		Down:    client(credential.Host(strings.TrimPrefix(down.URL, "http://")), login),
		Secrets: []string{secret},
	}
}

func TestConformanceOfFakes(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]fakeregistry.Config{
		"open":       {},
		"bearer":     {Scheme: "Bearer", Page: 7},
		"basic":      {Scheme: "Basic", NoDigest: true},
		"as Debian":  {IgnorePaging: true, NoTagDelete: true, NoReferrers: true, NoMount: true},
		"no deletes": {NoDelete: true, NoCatalog: true, NoHead: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registrytest.Run(t, func(t *testing.T) registrytest.Setup {
				config.Username, config.Password = user, secret
				fake := fakeregistry.New(config)
				host := served(t, fake)
				s := suite(t, host, as(user, secret))
				s.Catalog, s.Referrers, s.Mounts, s.Deletes = !config.NoCatalog, !config.NoReferrers, !config.NoMount, !config.NoDelete
				s.Corrupt = func(_ testing.TB, d digest.Digest) { fake.Corrupt(d) }
				if config.Scheme != "" {
					s.Refused = client(host, as(user, "wrong"))
				}
				return s
			})
		})
	}
}

// go-containerregistry's own. It keeps a tag apart from the digest, and its
// lists restart where they end.
func TestConformanceOfGGCR(t *testing.T) {
	t.Parallel()
	registrytest.Run(t, func(t *testing.T) registrytest.Setup {
		log := registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))
		s := suite(t, served(t, registry.New(log, registry.WithReferrersSupport(true))), nil)
		s.Catalog, s.Referrers, s.Deletes = true, true, true
		s.Other = ""  // all repositories share their blobs
		s.Many = 1000 // one page, which may be all or not
		return s
	})
}

func TestConformanceOfTheEmbeddedRegistry(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tokens, err := builtin.OpenTokens(filepath.Join(dir, "tokens.json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := builtin.New(builtin.Config{Dir: filepath.Join(dir, "images"), Tokens: tokens, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = embedded.Close() })
	_, password, err := tokens.Create(t.Context(), builtin.TokenRequest{
		User: user, Name: "suite", Repositories: []string{"team/*"}, Scopes: credential.ScopesOf(credential.Pull, credential.Push, credential.Delete),
	})
	if err != nil {
		t.Fatal(err)
	}
	host := served(t, embedded)
	var serial atomic.Int32
	registrytest.Run(t, func(t *testing.T) registrytest.Setup {
		s := suite(t, host, as(user, password.Reveal()))
		n := serial.Add(1)
		s.Repository, s.Other = fmt.Sprintf("team/api-%d", n), fmt.Sprintf("team/worker-%d", n)
		s.Catalog, s.Referrers, s.Mounts, s.Deletes = true, true, true, true
		s.Many = 100
		s.Refused = client(host, as(user, "wrong"))
		s.Secrets = []string{password.Reveal()}
		return s
	})
}
