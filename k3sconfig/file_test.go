package k3sconfig_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/regkeeper/regkeeper/k3sconfig"
)

// TestOthersWriteInBetween keeps what another program writes while a login is
// put in.
func TestOthersWriteInBetween(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registries.yaml")
	theirs := "mirrors: {} # ours\nconfigs:\n  x: {tls: {}}\n"
	for when := range 3 {
		if err := os.WriteFile(path, []byte("configs: {}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		calls := 0
		changed, err := k3sconfig.File(path, 0, nil).Update(t.Context(), func(doc *k3sconfig.Document) (bool, error) {
			if calls == when {
				if err := os.WriteFile(path, []byte(theirs), 0o600); err != nil {
					t.Error(err)
				}
			}
			calls++
			return doc.Set("h", login("u", "p"))
		})
		if err != nil || !changed {
			t.Fatalf("Update says %v, %v", changed, err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := theirs + "  \"h\":\n    auth:\n      username: 'u'\n      password: 'p'\n"
		if when < calls && string(text) != want {
			t.Errorf("written at call %d of %d, the file is\n%s", when, calls, text)
		}
	}
}
