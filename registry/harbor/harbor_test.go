package harbor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeharbor"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/harbor"
	"github.com/regkeeper/regkeeper/registry/oci"
	"github.com/regkeeper/regkeeper/registry/registrytest"
)

const (
	user     = "robot$keeper"
	password = "hunter2-of-the-robot"
	project  = "acme"
	repo     = project + "/team/app"
)

func login(secrets ...string) func(context.Context) (credential.Login, error) {
	var asked atomic.Int64
	return func(context.Context) (credential.Login, error) {
		secret := secrets[min(int(asked.Add(1)), len(secrets))-1]
		return credential.Login{Username: user, Secret: credential.NewSecret(secret)}, nil
	}
}

// clock is a clock that a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func start(t *testing.T, config fakeharbor.Config) (*fakeharbor.Server, *harbor.Registry, *clock) {
	t.Helper()
	time := &clock{time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)}
	config.Username, config.Password, config.Project, config.Now = user, password, project, time.Now
	if config.Images == nil {
		config.Images = fakeregistry.New(fakeregistry.Config{})
	}
	fake := fakeharbor.New(config)
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	return fake, at(server.URL, password), time
}

func at(url, secret string) *harbor.Registry {
	sent := transport.New(transport.Config{})
	host := credential.Host(strings.TrimPrefix(url, "http://"))
	return harbor.New(harbor.Config{
		OCI: oci.New(oci.Config{Host: host, Transport: sent, Login: login(secret)}), URL: url, Transport: sent, Login: login(secret),
	})
}

// push writes a manifest that names an empty config, or an index, under the
// tags; an empty tag stands for its digest.
func push(t *testing.T, r *harbor.Registry, doc any, mediaType string, tags ...string) ocispec.Descriptor {
	t.Helper()
	config := []byte("{}")
	b := image.Blob{Digest: digest.FromBytes(config), Size: int64(len(config))}
	if _, err := r.WriteBlob(t.Context(), repo, b, "", func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(config))), nil
	}); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		if _, err := r.WriteManifest(t.Context(), repo, tag, mediaType, raw); err != nil {
			t.Fatal(err)
		}
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

func pushImage(t *testing.T, r *harbor.Registry, note string, subject *ocispec.Descriptor, tags ...string) ocispec.Descriptor {
	t.Helper()
	return push(t, r, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{},
		Config:  ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("{}"), Size: 2},
		Subject: subject, Annotations: map[string]string{"note": note},
	}, ocispec.MediaTypeImageManifest, tags...)
}

func pushIndex(t *testing.T, r *harbor.Registry, children []ocispec.Descriptor, tags ...string) ocispec.Descriptor {
	t.Helper()
	return push(t, r, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	}, ocispec.MediaTypeImageIndex, tags...)
}

func list(t *testing.T, tags iter.Seq2[image.Tag, error]) []image.Tag {
	t.Helper()
	all := []image.Tag{}
	for tag, err := range tags {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tag)
	}
	return all
}

func failure(tags iter.Seq2[image.Tag, error]) (err error) {
	for _, err = range tags {
	}
	return err
}

func TestConformance(t *testing.T) {
	for name, old := range map[string]bool{"now": false, "before 2.8": true} {
		t.Run(name, func(t *testing.T) {
			registrytest.Run(t, func(t *testing.T) registrytest.Setup {
				images := fakeregistry.New(fakeregistry.Config{NoReferrers: old})
				fake, r, _ := start(t, fakeharbor.Config{Images: images, CutFirst: old})
				server := httptest.NewServer(fake)
				t.Cleanup(server.Close)
				gone := httptest.NewServer(http.NotFoundHandler())
				gone.Close()
				return registrytest.Setup{
					Reader: r, Writer: r, Deleter: r, Repository: repo, Other: project + "/other",
					Catalog: true, Referrers: true, Mounts: true, Deletes: true, Many: 220,
					Corrupt: func(_ testing.TB, d digest.Digest) { images.Corrupt(d) },
					Refused: at(server.URL, "hunter2-wrong"), Down: at(gone.URL, password), Secrets: []string{"hunter2"},
				}
			})
		})
	}
}

// TestTimes sees when an image counts as pushed and as pulled.
func TestTimes(t *testing.T) {
	_, r, clock := start(t, fakeharbor.Config{})
	first := clock.now
	d := pushImage(t, r, "a", nil, "v1")
	clock.now = first.Add(time.Hour)
	pushImage(t, r, "a", nil, "v2")
	alone := pushImage(t, r, "b", nil, "")
	// What was never pulled counts as pulled when it was pushed.
	want := []image.Tag{
		{Name: "v1", Digest: d.Digest, Pushed: first, Pulled: first},
		{Name: "v2", Digest: d.Digest, Pushed: clock.now, Pulled: clock.now},
	}
	if diff := cmp.Diff(want, list(t, r.Tags(t.Context(), repo))); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	want = []image.Tag{{Digest: alone.Digest, Pushed: clock.now, Pulled: clock.now}}
	if diff := cmp.Diff(want, list(t, r.Untagged(t.Context(), repo))); diff != "" {
		t.Errorf("untagged (-want +got):\n%s", diff)
	}
	// A pull by digest counts for every tag of it, and HEAD for none.
	clock.now = first.Add(2 * time.Hour)
	if _, _, err := r.Manifest(t.Context(), repo, d.Digest); err != nil {
		t.Fatal(err)
	}
	read := clock.now
	clock.now = first.Add(3 * time.Hour)
	if _, err := r.Resolve(t.Context(), repo, "v1"); err != nil {
		t.Fatal(err)
	}
	for _, tag := range list(t, r.Tags(t.Context(), repo)) {
		if !tag.Pulled.Equal(read) {
			t.Errorf("%s was pulled at %s, want %s", tag.Name, tag.Pulled, read)
		}
	}
}

// TestRequests counts what 300 images cost, with as many signatures that are
// left out.
func TestRequests(t *testing.T) {
	for cutFirst, want := range map[bool]int{false: 6, true: 12} {
		fake, r, _ := start(t, fakeharbor.Config{CutFirst: cutFirst})
		var signed []ocispec.Descriptor
		for n := range 300 {
			signed = append(signed, pushImage(t, r, fmt.Sprint(n), nil, fmt.Sprint("v", n)))
		}
		for n, d := range signed {
			pushImage(t, r, fmt.Sprint("sig", n), nil, strings.Replace(d.Digest.String(), ":", "-", 1)+".sig")
		}
		fake.Requests()
		if got := len(list(t, r.Tags(t.Context(), repo))); got != 300 {
			t.Errorf("%d tags are listed, want 300", got)
		}
		if got := len(fake.Requests()); got != want {
			t.Errorf("%d requests were made, want %d", got, want)
		}
	}
}

// TestDeletes sees what goes, what stays, and what is refused.
func TestDeletes(t *testing.T) {
	_, r, _ := start(t, fakeharbor.Config{Immutable: func(tag string) bool { return strings.HasPrefix(tag, "release") }})
	child := pushImage(t, r, "child", nil, "")
	index := pushIndex(t, r, []ocispec.Descriptor{child}, "v1", "v2")
	signature := pushImage(t, r, "signature", &index, "")
	release := pushImage(t, r, "release", nil, "release-1")
	there := func(d ocispec.Descriptor) bool {
		t.Helper()
		_, err := r.Resolve(t.Context(), repo, d.Digest.String())
		if err != nil && !errors.Is(err, image.ErrMissing) {
			t.Fatal(err)
		}
		return err == nil
	}
	for what, err := range map[string]error{
		"an immutable tag":         r.DeleteTag(t.Context(), repo, "release-1"),
		"an image with tags":       r.DeleteManifest(t.Context(), repo, index.Digest),
		"the child of an index":    r.DeleteManifest(t.Context(), repo, child.Digest),
		"an image with such a tag": r.DeleteManifest(t.Context(), repo, release.Digest),
	} {
		if problem.KindOf(err) != problem.Denied || problem.HintOf(err) == "" || errors.Is(err, credential.ErrRefused) {
			t.Errorf("delete %s: %v", what, err)
		}
	}
	if got := list(t, r.Untagged(t.Context(), repo)); len(got) != 0 {
		t.Errorf("untagged are %v: a child and an accessory are none", got)
	}
	for _, tag := range []string{"v1", "v2"} {
		if err := r.DeleteTag(t.Context(), repo, tag); err != nil {
			t.Fatal(err)
		}
		if !there(index) || !there(child) || !there(signature) {
			t.Fatalf("with the tag %s went more", tag)
		}
	}
	if got := list(t, r.Untagged(t.Context(), repo)); len(got) != 1 || got[0].Digest != index.Digest {
		t.Errorf("untagged are %v", got)
	}
	if err := r.DeleteManifest(t.Context(), repo, index.Digest); err != nil {
		t.Fatal(err)
	}
	if there(index) || there(child) || there(signature) || !there(release) {
		t.Error("the index did not go with its own, and nothing else")
	}
	for _, d := range []ocispec.Descriptor{child, signature} {
		if err := r.DeleteManifest(t.Context(), repo, d.Digest); err != nil {
			t.Errorf("delete what is gone: %v", err)
		}
	}
}

// TestChangesDuringTheList sees that an image that moves to a page that was read
// is not left out, also where as much comes as goes.
func TestChangesDuringTheList(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		var done atomic.Bool
		var other atomic.Pointer[harbor.Registry]
		_, r, _ := start(t, fakeharbor.Config{Before: func(_ http.ResponseWriter, request *http.Request) bool {
			if request.URL.Query().Get("page") == "2" && done.CompareAndSwap(false, true) {
				if err := other.Load().DeleteTag(t.Context(), repo, "v249"); err != nil {
					t.Error(err)
				}
				if replaced {
					pushImage(t, other.Load(), "old", nil, "z")
				}
			}
			return false
		}})
		other.Store(r)
		pushImage(t, r, "old", nil, "")
		want := []string{}
		for n := range 250 {
			want = append(want, fmt.Sprintf("v%03d", n))
			pushImage(t, r, want[n], nil, want[n])
		}
		if replaced {
			want = append(want, "z")
		}
		var got []string
		for _, tag := range list(t, r.Tags(t.Context(), repo)) {
			got = append(got, tag.Name)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("tags (-want +got):\n%s", diff)
		}
	}
}

// TestReplacedLogin sees that a login that was replaced meanwhile is used.
func TestReplacedLogin(t *testing.T) {
	fake, r, _ := start(t, fakeharbor.Config{})
	pushImage(t, r, "a", nil, "v1")
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	changing := harbor.New(harbor.Config{OCI: r, URL: server.URL, Transport: http.DefaultTransport, Login: login("hunter2-old", password)})
	if got := list(t, changing.Tags(t.Context(), repo)); len(got) != 1 {
		t.Errorf("tags are %v", got)
	}
}

// TestOddAnswers sees that nothing but Harbor's own word makes a list, or
// something missing.
func TestOddAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   problem.Kind
	}{
		{"server error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, problem.Unreachable},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, problem.Denied},
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, problem.Unreachable},
		{"a page to log in at", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/c/login", http.StatusFound)
		}, problem.Unreachable},
		{"another server's 404", http.NotFound, problem.Unreachable},
		{"no count", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("[]"))
		}, problem.Unreachable},
		{"no digest", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Total-Count", "1")
			_, _ = w.Write([]byte(`[{"digest":"x"}]`))
		}, problem.Unreachable},
		{"rows that never come", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Total-Count", "7")
			_, _ = w.Write([]byte(`[]`))
		}, problem.Unreachable},
		{"the password", func(w http.ResponseWriter, r *http.Request) {
			_, secret, _ := r.BasicAuth()
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"errors":[{"message":"no ` + secret + r.Header.Get("Authorization") + `"}]}`))
		}, problem.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, r, _ := start(t, fakeharbor.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, "/api/") {
					return false
				}
				test.answer(w, r)
				return true
			}})
			pushImage(t, r, "a", nil, "v1")
			errs := []error{failure(r.Tags(t.Context(), repo)), failure(r.Untagged(t.Context(), repo))}
			if !strings.HasPrefix(test.name, "no ") && test.name != "rows that never come" {
				errs = append(errs, r.DeleteTag(t.Context(), repo, "v1"), r.DeleteManifest(t.Context(), repo, digest.FromString("x")))
			}
			for _, err := range errs {
				if problem.KindOf(err) != test.want || errors.Is(err, image.ErrMissing) {
					t.Errorf("error of kind %q, want %q: %v", problem.KindOf(err), test.want, err)
				}
				if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "Basic cm")) {
					t.Errorf("the error holds a secret: %v", err)
				}
			}
		})
	}
}
