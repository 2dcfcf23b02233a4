package cli_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
)

// TestInspectRepeats has indexes in indexes, each of which names the one below
// twice: unfolded, the tree would have more rows than there are atoms in a cup.
func TestInspectRepeats(t *testing.T) {
	home := t.TempDir()
	for _, variable := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DOCKER_CONFIG"} {
		t.Setenv(variable, home)
	}
	server := httptest.NewServer(fakeregistry.New(fakeregistry.Config{}))
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/app:deep")
	if err != nil {
		t.Fatal(err)
	}
	const depth = 80
	var tree mutate.Appendable = jobImage(t, "amd64", []string{"bin/sh"})
	for range depth {
		platform := mutate.IndexAddendum{Add: tree, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}}
		other := platform
		other.Platform = &v1.Platform{OS: "linux", Architecture: "arm64"}
		tree = mutate.AppendManifests(empty.Index, platform, other)
	}
	if err := remote.WriteIndex(ref, tree.(v1.ImageIndex)); err != nil {
		t.Fatal(err)
	}
	out, told, code := run(t, "image", "inspect", ref.String())
	if rows := strings.Count(out, " index ") + 1; code != 0 || rows != 2*depth-1 {
		t.Errorf("exit code %d, %d rows of indexes, want %d: %s", code, rows, 2*depth-1, told)
	}
}
