package manifests_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/manifests"
)

// TestKustomizeBase holds the base that is checked in to what is printed for its
// sample.
func TestKustomizeBase(t *testing.T) {
	folder := filepath.Join("..", "deploy", "kustomize")
	text, err := os.ReadFile(filepath.Join(folder, "sample.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("sample.yaml", manifests.Folder, text)
	if err != nil {
		t.Fatal(err)
	}
	set, err := manifests.Kubernetes(c, text, manifests.Options{Image: "ghcr.io/regkeeper/regkeeper:latest"})
	if err != nil {
		t.Fatal(err)
	}
	written, err := set.YAML("As `regkeeper install kubernetes --config sample.yaml` prints it.\nMade by go test ./manifests -update.")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join(folder, "regkeeper.yaml"), written)
}
