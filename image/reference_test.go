package image_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

var some = digest.FromString("some")

func TestParseReference(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want, target string }{
		{"alpine", "docker.io/library/alpine:latest", "latest"},
		{"alpine:3.20", "docker.io/library/alpine:3.20", "3.20"},
		{"grafana/grafana", "docker.io/grafana/grafana:latest", "latest"},
		{"docker.io/alpine", "docker.io/library/alpine:latest", "latest"},
		{"index.docker.io/grafana/grafana:1", "docker.io/grafana/grafana:1", "1"},
		{"registry-1.docker.io/library/alpine:1", "docker.io/library/alpine:1", "1"},
		{"gitea.example.com/admin/api:237c6b8", "gitea.example.com/admin/api:237c6b8", "237c6b8"},
		{"gitea.example.com:3000/admin/api", "gitea.example.com:3000/admin/api:latest", "latest"},
		{"gitea.example.com:3000/admin/api:V1.0-RC1", "gitea.example.com:3000/admin/api:V1.0-RC1", "V1.0-RC1"},
		{"localhost/api:1", "localhost/api:1", "1"},
		{"localhost:5000/a/b/c:1", "localhost:5000/a/b/c:1", "1"},
		{"127.0.0.1:5000/api:1", "127.0.0.1:5000/api:1", "1"},
		{"[::1]:5000/api:1", "[::1]:5000/api:1", "1"},
		{"[fd00::a]/api:1", "[fd00::a]/api:1", "1"},
		{"GITEA.Example.com/admin/api:1", "gitea.example.com/admin/api:1", "1"},
		{"gitea.example.com/api@" + some.String(), "gitea.example.com/api@" + some.String(), some.String()},
		{"gitea.example.com/api:v1@" + some.String(), "gitea.example.com/api:v1@" + some.String(), some.String()},
		{"docker-pullable://gitea.example.com/api@" + some.String(), "gitea.example.com/api@" + some.String(), some.String()},
		{"docker://gitea.example.com/api:1", "gitea.example.com/api:1", "1"},
		{"gitea.example.com/a__b/c-d.e:_x", "gitea.example.com/a__b/c-d.e:_x", "_x"},
	} {
		ref, err := image.ParseReference(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := ref.String(); got != c.want {
			t.Errorf("%s is read as %s, want %s", c.text, got, c.want)
		}
		if got := ref.Target(); got != c.target {
			t.Errorf("of %s the registry is asked for %s, want %s", c.text, got, c.target)
		}
		var again image.Reference
		raw, err := ref.MarshalText()
		if err == nil {
			err = again.UnmarshalText(raw)
		}
		if err != nil || again != ref {
			t.Errorf("%s comes back as %+v, %v", raw, again, err)
		}
	}
	for _, text := range []string{
		"", ":", "/", "@", "a:", "gitea.example.com/", "gitea.example.com/Api:1", "gitea.example.com/api:a b", "gitea.example.com/api:" + strings.Repeat("a", 129),
		"gitea.example.com/api@sha256:123", "gitea.example.com/api@md5:d41d8cd98f00b204e9800998ecf8427e", "gitea.example.com/../api", "gitea.example.com//api",
		"docker-pullable://" + some.String(), some.String(), "containerd://" + some.Encoded(), strings.Repeat("a", 64), "docker://",
		"GITEA/admin/api", "user:secret@gitea.example.com/api", "gitea.example.com/api?x", "ex\x00ample/api",
	} {
		ref, err := image.ParseReference(text)
		var p *problem.Error
		if !errors.As(err, &p) {
			t.Errorf("%q is read as %q, %v", text, ref, err)
		}
	}
}

func TestParseRepository(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"alpine":                         "docker.io/library/alpine",
		"gitea.example.com:3000/admin/a": "gitea.example.com:3000/admin/a",
		"[::1]:5000/a":                   "[::1]:5000/a",
	} {
		got, err := image.ParseRepository(text)
		if err != nil || got.String() != want {
			t.Errorf("%s is read as %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "gitea.example.com/a:1", "gitea.example.com/a@" + some.String(), "gitea.example.com/A", "gitea.example.com/*"} {
		if got, err := image.ParseRepository(text); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, text := range []string{"alpine", "a.b:5/c:d@" + some.String(), "docker-pullable://a.b/c", "[::1]:5000/x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := image.ParseReference(text)
		if err != nil {
			return
		}
		again, err := image.ParseReference(ref.String())
		if err != nil {
			t.Fatalf("%q is read as %q, and that is not: %v", text, ref, err)
		}
		if diff := cmp.Diff(ref, again); diff != "" {
			t.Errorf("%q (-first +again):\n%s", text, diff)
		}
		if ref.Target() == "" {
			t.Errorf("%q asks for nothing", text)
		}
	})
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, repository string
		want                bool
	}{
		{"gitea.example.com/admin/api", "gitea.example.com/admin/api", true},
		{"gitea.example.com/admin/*", "gitea.example.com/admin/api", true},
		{"gitea.example.com/admin/*", "gitea.example.com/admin/api/cache", false},
		{"gitea.example.com/admin/*", "gitea.example.com/admin", false},
		{"gitea.example.com/*/api", "gitea.example.com/admin/api", true},
		{"gitea.example.com/**", "gitea.example.com/admin/api/cache", true},
		{"gitea.example.com/**", "gitea.example.com/api", true},
		{"gitea.example.com/admin/**", "gitea.example.com/admin", false},
		{"gitea.example.com/admin/**", "gitea.example.com/administrator/api", false},
		{"gitea.example.com/admin/api", "gitea.example.com:3000/admin/api", false},
		{"gitea.example.com:*/admin/api", "gitea.example.com:3000/admin/api", true},
		{"gitea.example.com/admin/a?i", "gitea.example.com/admin/api", true},
		{"gitea.example.com/admin/[a-c]pi", "gitea.example.com/admin/api", true},
		{"*/admin/api", "gitea.example.com/admin/api", true},
		{"gitea.example.com", "gitea.example.com/api", false},
		{"gitea.example.com/[", "gitea.example.com/a", false},
		{"", "gitea.example.com/a", false},
		{"**", "gitea.example.com/a", true},
		{"gitea.example.com/**/api", "gitea.example.com/a/b/api", false}, // only as the last part
	} {
		r, err := image.ParseRepository(c.repository)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Matches(c.pattern); got != c.want {
			t.Errorf("%s covers %s: %v, want %v", c.pattern, c.repository, got, c.want)
		}
	}
}

func TestAttached(t *testing.T) {
	t.Parallel()
	long := digest.SHA512.FromString("some")
	for tag, want := range map[string]digest.Digest{
		"sha256-" + some.Encoded():               some,
		"sha256-" + some.Encoded() + ".sig":      some,
		"sha256-" + some.Encoded() + ".att":      some,
		"sha256-" + some.Encoded() + ".sbom":     some,
		"sha256-" + some.Encoded() + ".x1":       some,
		image.ReferrersTag(some):                 some,
		image.ReferrersTag(long):                 "", // a part of it is all that there is room for
		image.ReferrersTag(long) + ".sig":        "",
		"sha512-" + long.Encoded()[:64] + ".att": "",
	} {
		got, ok := image.Attached(tag)
		if !ok || got != want {
			t.Errorf("%s is attached to %q (%v), want %q", tag, got, ok, want)
		}
	}
	for _, tag := range []string{
		"", "v1", "sha256", "sha256-", "sha-237c6b8", "sha256-237c6b8", "sha256-" + strings.ToUpper(some.Encoded()), "sha256-" + some.Encoded() + "-amd64",
		"sha256-" + some.Encoded() + ".", "sha256-" + some.Encoded() + ".sig.x", "x-sha256-" + some.Encoded(), "sha256-" + some.Encoded() + "0",
		"sha256-" + some.Encoded()[1:], "sha256-" + long.Encoded(), "sha256-" + some.Encoded() + "\n", "md5-d41d8cd98f00b204e9800998ecf8427e",
	} {
		if got, ok := image.Attached(tag); ok {
			t.Errorf("%q is attached to %s", tag, got)
		}
	}
	for _, d := range []digest.Digest{some, long} {
		if tag := image.ReferrersTag(d); len(tag) > 128 || strings.ContainsAny(tag, ":+") {
			t.Errorf("%q is no tag", tag)
		}
	}
	if got, want := image.ReferrersTag(some), "sha256-"+some.Encoded(); got != want {
		t.Errorf("the tag is %s, want %s", got, want)
	}
}
