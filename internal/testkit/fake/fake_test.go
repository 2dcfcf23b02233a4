package fake_test

import (
	"testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/source/sourcetest"
)

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(*testing.T) sourcetest.Fixture {
		source := newSource()
		refused, down := newSource(), newSource()
		refused.Locked = true
		for _, call := range []string{fake.Issue, fake.Issued, fake.Revoke} {
			down.FailBefore(call, -1)
		}
		return sourcetest.Fixture{
			Source: source, Refused: refused, Down: down, Host: source.Host, Secrets: []string{"SECRET"},
			Asked:   credential.ScopesOf(credential.Pull, credential.Push),
			Foreign: func(_ testing.TB, name string) { source.Add(name, credential.Pull) },
			Names: func(testing.TB) (names []string) {
				for _, token := range source.Live() {
					names = append(names, token.Name)
				}
				return names
			},
			Accepts: func(_ testing.TB, login credential.Credential) (credential.Scopes, bool) {
				return source.Accepts(login.Login())
			},
		}
	})
}

func TestFixed(t *testing.T) {
	sourcetest.Run(t, func(*testing.T) sourcetest.Fixture {
		source, down := &fake.Fixed{}, &fake.Fixed{}
		down.FailBefore(fake.Issue, -1)
		set := func(secret string) {
			source.Set(credential.Login{Username: "given", Secret: credential.NewSecret(secret)})
		}
		set("SECRET-one")
		return sourcetest.Fixture{
			Source: source, Down: down, Host: "c.example", Secrets: []string{"SECRET"},
			Change: func(testing.TB) { set("SECRET-two") },
		}
	})
}

func newSource() *fake.Source {
	return &fake.Source{Clock: fake.NewClock(), Host: "a.example", User: "bot"}
}
