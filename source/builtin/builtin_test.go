package builtin_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/regkeeper/regkeeper/credential"
	registry "github.com/regkeeper/regkeeper/registry/builtin"
	"github.com/regkeeper/regkeeper/source/builtin"
	"github.com/regkeeper/regkeeper/source/sourcetest"
)

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
		dir := t.TempDir()
		tokens := open(t, filepath.Join(dir, "tokens.json"))
		broken := filepath.Join(dir, "broken.json")
		down := open(t, broken)
		if err := os.WriteFile(broken, []byte(`{"version": 1, "tokens": [{"hash": "hunter2"`), 0o600); err != nil {
			t.Fatal(err)
		}
		everything := []string{"*"}
		return sourcetest.Fixture{
			Source: builtin.New(builtin.Config{Tokens: tokens, User: "runner", Repositories: everything}),
			Down:   builtin.New(builtin.Config{Tokens: down, User: "runner", Repositories: everything}),
			Host:   "localhost:5000",
			// It has no pages, and each token is a write to the disk.
			Many:    10,
			Asked:   credential.ScopesOf(credential.Pull, credential.Push),
			Secrets: []string{"hunter2"},
			Foreign: func(t testing.TB, name string) {
				// The same name for another user is somebody else's too.
				for _, user := range []string{"runner", "admin"} {
					request := registry.TokenRequest{
						User: user, Name: name, Scopes: credential.ScopesOf(credential.Pull), Repositories: everything,
					}
					if _, _, err := tokens.Create(t.Context(), request); err != nil {
						t.Fatal(err)
					}
				}
			},
			Names: func(t testing.TB) (names []string) {
				list, err := tokens.List(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, token := range list {
					names = append(names, token.Name)
				}
				return names
			},
			Accepts: func(_ testing.TB, login credential.Credential) (credential.Scopes, bool) {
				token, err := tokens.Authenticate(login.Secret)
				return token.Scopes, err == nil
			},
		}
	})
}

func open(t *testing.T, path string) *registry.TokenStore {
	t.Helper()
	tokens, err := registry.OpenTokens(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}
