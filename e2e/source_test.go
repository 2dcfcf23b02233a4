package e2e_test

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/registry/oci"
	giteasource "github.com/regkeeper/regkeeper/source/gitea"
	"github.com/regkeeper/regkeeper/source/sourcetest"
)

// The conformance suite of sources, against a real Gitea.
func TestGiteaSourceConformance(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	a := newAccount(t, server, owner)
	client := transport.New(transport.Config{})
	source := func(url, password string) credential.Source {
		file := filepath.Join(t.TempDir(), "password")
		writeText(t, file, password)
		return giteasource.New(giteasource.Config{
			URL: url, User: owner, Password: secretref.Ref{File: file}, Transport: client, Now: time.Now,
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := "http://" + listener.Addr().String()
	listener.Close()

	verifier := &oci.Verifier{Transport: client}
	for _, asked := range []credential.Scopes{
		credential.ScopesOf(credential.Pull), credential.ScopesOf(credential.Pull, credential.Push),
	} {
		t.Run(asked.String(), func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
				return sourcetest.Fixture{
					Source: source(server.URL, a.password), Host: credential.Host(server.Host), Asked: asked, Remote: true,
					Secrets: []string{a.password, "not-the-password"},
					Foreign: func(_ testing.TB, name string) { server.CreateToken(owner, a.password, name, "read:user") },
					Names: func(testing.TB) (names []string) {
						for _, token := range server.ListTokens(owner, a.password) {
							names = append(names, token.Name)
						}
						return names
					},
					Accepts: func(t testing.TB, login credential.Credential) (has credential.Scopes, ok bool) {
						for _, scope := range []credential.Scope{credential.Pull, credential.Push} {
							login.Scopes = credential.ScopesOf(scope)
							probe := ""
							if scope == credential.Pull {
								probe = a.ref
							}
							switch _, err := verifier.Verify(t.Context(), login, probe); {
							case err == nil:
								has = append(has, scope)
							case !errors.Is(err, credential.ErrRefused):
								t.Errorf("ask for %s: %v", scope, err)
							}
						}
						return has, len(has) > 0
					},
					Refused: source(server.URL, "not-the-password"),
					Down:    source(down, a.password),
				}
			})
			// What the suite's own names left is for the next run of it.
			for _, token := range server.ListTokens(owner, a.password) {
				if token.Name != "pusher" {
					server.DeleteToken(owner, a.password, token.ID)
				}
			}
		})
	}
}
