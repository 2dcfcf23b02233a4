package gitlab_test

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
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitlab"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/gitlab"
	"github.com/regkeeper/regkeeper/registry/oci"
	"github.com/regkeeper/regkeeper/registry/registrytest"
)

const (
	password = "hunter2-of-the-registry"
	token    = "glpat-hunter2-of-the-api"
	project  = "acme/sub/app"
	repo     = project + "/worker"
)

func tokens(all ...string) func(context.Context) (credential.Secret, error) {
	var asked atomic.Int64
	return func(context.Context) (credential.Secret, error) {
		secret := all[min(int(asked.Add(1)), len(all))-1]
		return credential.NewSecret(secret), nil
	}
}

// clock is a clock that a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func start(t *testing.T, config fakegitlab.Config) (*fakegitlab.Server, *gitlab.Registry, *clock) {
	t.Helper()
	time := &clock{time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)}
	config.Username, config.Password, config.Token, config.Now = "bot", password, token, time.Now
	config.Projects = append([]string{"acme/other", "closed/app", project}, config.Projects...)
	config.Off = []string{"closed/app"}
	if config.Images == nil {
		config.Images = fakeregistry.New(fakeregistry.Config{})
	}
	fake := fakegitlab.New(config)
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	return fake, at(server.URL, password, token), time
}

func at(url, password string, all ...string) *gitlab.Registry {
	sent := transport.New(transport.Config{})
	return gitlab.New(gitlab.Config{
		OCI: oci.New(oci.Config{Host: credential.Host(strings.TrimPrefix(url, "http://")), Transport: sent,
			Login: func(context.Context) (credential.Login, error) {
				return credential.Login{Username: "bot", Secret: credential.NewSecret(password)}, nil
			}}),
		URL: url, Transport: sent, Token: tokens(all...),
	})
}

// push writes an image of no layers under the tags.
func push(t *testing.T, r *gitlab.Registry, repository, note string, tags ...string) digest.Digest {
	t.Helper()
	b := image.Blob{Digest: digest.FromString("{}"), Size: 2}
	if _, err := r.WriteBlob(t.Context(), repository, b, "", func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("{}")), nil
	}); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{},
		Config:      ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: b.Digest, Size: b.Size},
		Annotations: map[string]string{"note": note},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		if _, err := r.WriteManifest(t.Context(), repository, tag, ocispec.MediaTypeImageManifest, raw); err != nil {
			t.Fatal(err)
		}
	}
	return digest.FromBytes(raw)
}

func list[T any](t *testing.T, rows iter.Seq2[T, error]) []T {
	t.Helper()
	all := []T{}
	for row, err := range rows {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, row)
	}
	return all
}

func failure[T any](rows iter.Seq2[T, error]) (err error) {
	for _, err = range rows {
	}
	return err
}

func TestConformance(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Setup {
		images := fakeregistry.New(fakeregistry.Config{})
		fake, r, _ := start(t, fakegitlab.Config{Images: images})
		server := httptest.NewServer(fake)
		t.Cleanup(server.Close)
		gone := httptest.NewServer(http.NotFoundHandler())
		gone.Close()
		return registrytest.Setup{
			Reader: r, Writer: r, Deleter: r, Repository: repo, Other: project,
			Catalog: true, Referrers: true, Mounts: true, Deletes: true, Many: 220,
			Corrupt: func(_ testing.TB, d digest.Digest) { images.Corrupt(d) },
			Refused: at(server.URL, "hunter2-wrong", "glpat-hunter2-wrong"), Down: at(gone.URL, password, token),
			Secrets: []string{"hunter2"},
		}
	})
}

// TestTags sees that tags come with what GitLab tells of them, and counts what
// 250 of them cost.
func TestTags(t *testing.T) {
	fake, r, clock := start(t, fakegitlab.Config{})
	made := clock.now
	var tags []string
	for n := range 250 {
		tags = append(tags, fmt.Sprintf("v%03d", n))
	}
	d := push(t, r, repo, "a", tags...)
	clock.now = time.Unix(0, 0)
	push(t, r, repo, "a", "zero")
	push(t, r, "acme/other", "a", "v1")
	fake.Requests()
	got := list(t, r.Tags(t.Context(), repo))
	if len(got) != 251 {
		t.Fatalf("%d tags are listed, want 251", len(got))
	}
	if diff := cmp.Diff(image.Tag{Name: "v000", Digest: d, Pushed: made}, got[0]); diff != "" {
		t.Errorf("a tag (-want +got):\n%s", diff)
	}
	// A time that no registry has seen keeps nothing from being kept.
	if diff := cmp.Diff(image.Tag{Name: "zero", Digest: d}, got[250]); diff != "" {
		t.Errorf("a tag of 1970 (-want +got):\n%s", diff)
	}
	// Two for the project (acme/sub is none), three pages twice, one for each tag.
	if got := len(fake.Requests()); got != 2+6+251 {
		t.Errorf("%d requests were made, want %d", got, 2+6+251)
	}
	list(t, r.Tags(t.Context(), repo))
	if got := len(fake.Requests()); got != 6+251 {
		t.Errorf("%d requests were made the second time, want %d", got, 6+251)
	}
}

func TestRepositories(t *testing.T) {
	var many []string
	for n := range 120 {
		many = append(many, fmt.Sprintf("many/p%03d", n))
	}
	fake, r, _ := start(t, fakegitlab.Config{Projects: many})
	want := []string{"acme/other", project, repo}
	for _, name := range append(slices.Clone(want), many...) {
		push(t, r, name, "a", "v1")
	}
	fake.Requests()
	if diff := cmp.Diff(append(want, many...), list(t, r.Repositories(t.Context()))); diff != "" {
		t.Errorf("repositories (-want +got):\n%s", diff)
	}
	if got := len(fake.Requests()); got != 4+123 {
		t.Errorf("%d requests were made, want %d", got, 4+123)
	}
	for path := range r.Repositories(t.Context()) {
		if path != want[0] {
			t.Errorf("%s came after the end", path)
		}
		break
	}
}

// TestDeleteTag sees what is deleted, and that nothing is said to be gone that
// is not.
func TestDeleteTag(t *testing.T) {
	fake, r, _ := start(t, fakegitlab.Config{})
	push(t, r, repo, "a", "v1", "v2")
	fake.Requests()
	if err := r.DeleteTag(t.Context(), repo, "v1"); err != nil {
		t.Fatal(err)
	}
	for _, request := range fake.Requests() {
		if method, path, _ := strings.Cut(request, " "); method == http.MethodDelete && !strings.HasSuffix(path, "/tags/v1") {
			t.Errorf("deleted by %s", request)
		}
	}
	if got := list(t, r.Tags(t.Context(), repo)); len(got) != 1 || got[0].Name != "v2" {
		t.Errorf("tags are %v", got)
	}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	// To one who is no member of the project, GitLab says that there is none.
	blind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message":"404 Project Not Found"}`))
	}))
	t.Cleanup(blind.Close)
	other := gitlab.New(gitlab.Config{OCI: r, URL: blind.URL, Transport: http.DefaultTransport, Token: tokens(token)})
	if err := other.DeleteTag(t.Context(), repo, "v2"); problem.KindOf(err) != problem.Denied {
		t.Errorf("delete a tag that the API hides: %v", err)
	}
	if err := failure(other.Tags(t.Context(), repo)); problem.KindOf(err) != problem.NotFound {
		t.Errorf("list what the API hides: %v", err)
	}
	if err := r.DeleteTag(t.Context(), repo, digest.FromString("x").String()); problem.KindOf(err) != problem.Usage {
		t.Errorf("delete a digest as a tag: %v", err)
	}
	if err := r.DeleteTag(t.Context(), "app", "v1"); problem.KindOf(err) != problem.Usage {
		t.Errorf("delete a tag of a path without a group: %v", err)
	}
}

// TestChangesDuringTheList sees that a tag that moves to a page that was read is
// not left out, also where as much comes as goes.
func TestChangesDuringTheList(t *testing.T) {
	var tags []string
	for n := range 150 {
		tags = append(tags, fmt.Sprintf("v%03d", n))
	}
	for _, replaced := range []bool{false, true} {
		var other atomic.Pointer[gitlab.Registry]
		var done atomic.Bool
		_, r, _ := start(t, fakegitlab.Config{Before: func(_ http.ResponseWriter, request *http.Request) bool {
			if request.URL.Query().Get("page") == "2" && done.CompareAndSwap(false, true) {
				if err := other.Load().DeleteTag(t.Context(), repo, "v000"); err != nil {
					t.Error(err)
				}
				if replaced {
					push(t, other.Load(), repo, "b", "z")
				}
			}
			return false
		}})
		other.Store(r)
		push(t, r, repo, "a", tags...)
		want := tags
		if replaced {
			want = append(tags[:150:150], "z")
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

// direct answers without a network, so that time can be a test's own. What asks
// for a tag waits for the gate.
type direct struct {
	http.Handler
	gate    chan struct{}
	waiting atomic.Int64
}

func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.Path, "/tags/") {
		d.waiting.Add(1)
		<-d.gate
		d.waiting.Add(-1)
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// TestParallel sees how many tags are asked for at the same time.
func TestParallel(t *testing.T) {
	fake, filled, _ := start(t, fakegitlab.Config{})
	for n := range 20 {
		push(t, filled, repo, "a", fmt.Sprint("v", n))
	}
	for parallel, want := range map[int]int64{0: 8, 3: 3} {
		synctest.Test(t, func(t *testing.T) {
			d := &direct{Handler: fake, gate: make(chan struct{})}
			r := gitlab.New(gitlab.Config{OCI: filled, URL: "http://gitlab.example.com", Transport: d, Token: tokens(token), Parallel: parallel})
			var got []image.Tag
			done := make(chan struct{})
			go func() {
				defer close(done)
				got = list(t, r.Tags(t.Context(), repo))
			}()
			synctest.Wait()
			if n := d.waiting.Load(); n != want {
				t.Errorf("%d are asked for at the same time, want %d", n, want)
			}
			close(d.gate)
			<-done
			if len(got) != 20 {
				t.Errorf("%d tags are listed", len(got))
			}
		})
	}
}

// TestReplacedToken sees that a token that was replaced meanwhile is used.
func TestReplacedToken(t *testing.T) {
	fake, r, _ := start(t, fakegitlab.Config{})
	push(t, r, repo, "a", "v1")
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	if got := list(t, at(server.URL, password, "glpat-hunter2-old", token).Tags(t.Context(), repo)); len(got) != 1 {
		t.Errorf("tags are %v", got)
	}
}

// TestOddAnswers sees that nothing but GitLab's own word makes a list, or
// something missing, and that the token goes nowhere else.
func TestOddAnswers(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(elsewhere.Close)
	circle := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Link", "<https://gitlab.example.com/x?"+r.URL.RawQuery+`>; rel="next"`)
		_, _ = w.Write([]byte(`[]`))
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   problem.Kind
	}{
		{"server error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, problem.Unreachable},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, problem.Denied},
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, problem.Unreachable},
		{"a page to log in at", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		}, problem.Unreachable},
		{"another server's 404", http.NotFound, problem.Unreachable},
		{"a circle", circle, problem.Unreachable},
		{"the token", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"message":"no ` + r.Header.Get("PRIVATE-TOKEN") + `"}`))
		}, problem.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, r, _ := start(t, fakegitlab.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, "/api/") {
					return false
				}
				test.answer(w, r)
				return true
			}})
			push(t, r, repo, "a", "v1")
			for what, err := range map[string]error{
				"tags": failure(r.Tags(t.Context(), repo)), "delete": r.DeleteTag(t.Context(), repo, "v1"), "repositories": failure(r.Repositories(t.Context())),
			} {
				if problem.KindOf(err) != test.want || errors.Is(err, image.ErrMissing) {
					t.Errorf("%s: error of kind %q, want %q: %v", what, problem.KindOf(err), test.want, err)
				}
				if err != nil && strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%s: the error holds a secret: %v", what, err)
				}
			}
		})
	}
}
