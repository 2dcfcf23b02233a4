// Package mirrorconfig writes what tells container runtimes to ask a mirror before
// a registry: containerd's hosts.toml, K3s's registries.yaml and Docker's
// daemon.json. Everything else in these documents stays as it was, byte for byte.
//
// It is pure: it is given a document's text and returns another. It refuses a
// document that it cannot read, or cannot change without changing anything else;
// and what the runtime cannot do.
package mirrorconfig

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/k3sconfig"
	"github.com/regkeeper/regkeeper/problem"
)

// Mirror is a place to ask before a registry. The registry itself is asked next.
type Mirror struct {
	// Host is the registry, as images name it.
	Host credential.Host
	// URL is the mirror's address without a path, https://registry.example.com.
	URL string
	// Prefix is put before the names of repositories at the mirror; empty for
	// none. The embedded registry needs none from containerd and K3s, which tell
	// it of which registry a repository is.
	Prefix string
	// Login is the login for the mirror; nil for none, or where the runtime finds
	// it elsewhere.
	Login *credential.Login
}

// prefixForm is that of a repository's name: OCI distribution specification 1.1,
// section Pulling manifests.
var prefixForm = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*$`)

// check reads the address.
func (m Mirror) check() (*url.URL, error) {
	const hint = "write the mirror as https://registry.example.com"
	u, err := url.Parse(m.URL)
	switch {
	case err != nil:
		// It may hold a password, which the error would repeat.
		return nil, problem.New(problem.Config, hint, "the address of the mirror of %s cannot be read", m.Host)
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "", u.User != nil, strings.Trim(u.Path, "/") != "",
		u.RawQuery != "", u.Fragment != "", strings.ContainsAny(m.URL, "\"'\\\n"):
		return nil, problem.New(problem.Config, hint, "the address %q is more or less than a scheme and a host", u.Redacted())
	case m.Host == "":
		return nil, problem.New(problem.Config, "name the registry", "the mirror %s is of no registry", m.URL)
	case m.Prefix != "" && !prefixForm.MatchString(m.Prefix):
		return nil, problem.New(problem.Config, "write it as the beginning of a repository's name", "prefix %q is not valid", m.Prefix)
	}
	u.Path = ""
	return u, nil
}

// K3s adds a mirror to a registries.yaml of K3s or RKE2, with its login under
// "configs" if there is one. K3s reads the document when it starts. The error is of
// kind [problem.Config] or [problem.Damaged].
func K3s(text []byte, m Mirror) ([]byte, error) {
	u, err := m.check()
	if err != nil {
		return nil, err
	}
	doc, err := k3sconfig.Parse(text)
	if err != nil {
		return nil, err
	}
	if _, err := doc.SetMirror(m.Host, k3sconfig.Mirror{Endpoint: u.String(), Prefix: m.Prefix}); err != nil {
		return nil, err
	}
	if m.Login != nil {
		host, err := credential.ParseHost(u.Host)
		if err != nil {
			return nil, err
		}
		if _, err := doc.Set(host, *m.Login); err != nil {
			return nil, err
		}
	}
	return doc.Bytes(), nil
}

// RemoveK3s takes a mirror out of a registries.yaml. A login stays: it may serve
// more than the mirror.
func RemoveK3s(text []byte, m Mirror) ([]byte, error) {
	u, err := m.check()
	if err != nil {
		return nil, err
	}
	doc, err := k3sconfig.Parse(text)
	if err != nil {
		return nil, err
	}
	if _, err := doc.RemoveMirror(m.Host, k3sconfig.Mirror{Endpoint: u.String(), Prefix: m.Prefix}); err != nil {
		return nil, err
	}
	return doc.Bytes(), nil
}
