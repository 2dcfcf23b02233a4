package app

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/runner/gitea"
	"github.com/regkeeper/regkeeper/runner/gitlab"
)

// GitLabRunners are the runners of a config.toml.
func GitLabRunners(path string) *gitlab.Fleet {
	return gitlab.New(gitlab.Config{Path: path, Transport: transport.New(transport.Config{Retries: httpRetries}), Trust: trusting, Now: time.Now})
}

// GiteaRunners are the runner of a .runner file, of Gitea or Forgejo.
func GiteaRunners(file string, scope gitea.Scope, accessToken credential.Secret) *gitea.Fleet {
	return gitea.New(gitea.Config{
		File: file, AccessToken: accessToken, Scope: scope, Transport: transport.New(transport.Config{Retries: httpRetries}), Now: time.Now,
	})
}

// trusting is a transport that also trusts the certificates.
func trusting(pem []byte) (http.RoundTripper, error) {
	config, found := trustingTLS(pem)
	if !found {
		return nil, errors.New("there is no certificate in it")
	}
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("the transport of this program takes no certificates")
	}
	base = base.Clone()
	base.TLSClientConfig = config
	return transport.New(transport.Config{Base: base, Retries: httpRetries}), nil
}

// trustingTLS trusts the certificates of files in PEM beside those of the system. found
// says that there is one.
func trustingTLS(files ...[]byte) (config *tls.Config, found bool) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	for _, pem := range files {
		found = roots.AppendCertsFromPEM(pem) || found
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, found
}
