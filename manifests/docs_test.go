package manifests_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/manifests"
)

const (
	tableBegin = "<!-- rights: made by go test ./manifests -update -->\n"
	tableEnd   = "<!-- end of rights -->"
)

// TestRightsAreDocumented holds the table of docs/kubernetes.md to the rights
// that are given.
func TestRightsAreDocumented(t *testing.T) {
	path := filepath.Join("..", "docs", "kubernetes.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), tableBegin)
	_, after, closed := strings.Cut(rest, tableEnd)
	if !ok || !closed {
		t.Fatal("docs/kubernetes.md has no place for the table")
	}
	c, _ := load(t, "all.yaml")
	table := "| for | in | right | on | why |\n|---|---|---|---|---|\n"
	for _, r := range manifests.Rights(c, manifests.Options{}) {
		if r.Why == "" || r.For == "" {
			t.Errorf("nobody says what %v is for", r)
		}
		where, on := "`"+r.Namespace+"`", r.Resource
		if r.Namespace == "" {
			where = "the cluster"
		}
		if len(r.Names) > 0 {
			on += " `" + strings.Join(r.Names, "`, `") + "`"
		}
		table += fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", r.For, where, strings.Join(r.Verbs, ", "), on, r.Why)
	}
	golden(t, path, []byte(before+tableBegin+table+tableEnd+after))
}
