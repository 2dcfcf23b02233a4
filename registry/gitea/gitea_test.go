package gitea_test

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
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitea"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/gitea"
	"github.com/regkeeper/regkeeper/registry/oci"
	"github.com/regkeeper/regkeeper/registry/registrytest"
)

const (
	owner    = "acme"
	password = "hunter2-of-acme"
	repo     = owner + "/team/app"
)

func logins(secrets ...string) func(context.Context) (credential.Login, error) {
	var asked atomic.Int64
	return func(context.Context) (credential.Login, error) {
		secret := secrets[min(int(asked.Add(1)), len(secrets))-1]
		return credential.Login{Username: owner, Secret: credential.NewSecret(secret)}, nil
	}
}

// clock is a clock that a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func start(t *testing.T, config fakegitea.Config) (*fakegitea.Server, *gitea.Registry, *clock) {
	t.Helper()
	time := &clock{time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)}
	config.Username, config.Password, config.Now = owner, password, time.Now
	if config.Blobs == nil {
		config.Blobs = fakeregistry.New(fakeregistry.Config{})
	}
	fake := fakegitea.New(config)
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	return fake, at(server.URL, time, logins(password)), time
}

func at(url string, clock *clock, login func(context.Context) (credential.Login, error)) *gitea.Registry {
	host := credential.Host(strings.TrimPrefix(url, "http://"))
	sent := transport.New(transport.Config{})
	return gitea.New(gitea.Config{
		OCI: oci.New(oci.Config{Host: host, Transport: sent, Login: logins(password)}),
		URL: url, Transport: sent, Login: login, Now: clock.Now,
	})
}

// push writes an image of no layers, under the tags and under its digest, if a
// tag is empty.
func push(t *testing.T, r *gitea.Registry, repository, content string, tags ...string) digest.Digest {
	t.Helper()
	config := []byte(fmt.Sprintf(`{"os":"linux","architecture":"amd64","author":%q}`, content))
	b := image.Blob{Digest: digest.FromBytes(config), Size: int64(len(config)), MediaType: ocispec.MediaTypeImageConfig}
	_, err := r.WriteBlob(t.Context(), repository, b, "", func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(config))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size}, Layers: []ocispec.Descriptor{},
	})
	if err != nil {
		t.Fatal(err)
	}
	var d digest.Digest
	for _, tag := range tags {
		if d, err = r.WriteManifest(t.Context(), repository, tag, ocispec.MediaTypeImageManifest, raw); err != nil {
			t.Fatal(err)
		}
	}
	return d
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
	for name, config := range map[string]fakegitea.Config{
		"versions": {}, "search": {NoVersions: true}, "small pages": {Page: 7},
	} {
		t.Run(name, func(t *testing.T) {
			registrytest.Run(t, func(t *testing.T) registrytest.Setup {
				blobs := fakeregistry.New(fakeregistry.Config{})
				config.Blobs = blobs
				fake, r, time := start(t, config)
				url := httptest.NewServer(fake)
				t.Cleanup(url.Close)
				gone := httptest.NewServer(http.NotFoundHandler())
				gone.Close()
				refused := logins("hunter2-wrong")
				host := credential.Host(strings.TrimPrefix(url.URL, "http://"))
				return registrytest.Setup{
					Reader: r, Writer: r, Deleter: r, Repository: repo, Other: owner + "/other",
					Catalog: true, Mounts: true, Deletes: true, Many: 120,
					Corrupt: func(_ testing.TB, d digest.Digest) {
						fake.Corrupt(d)
						blobs.Corrupt(d)
					},
					Refused: gitea.New(gitea.Config{
						OCI: oci.New(oci.Config{Host: host, Transport: http.DefaultTransport, Login: refused}),
						URL: url.URL, Transport: http.DefaultTransport, Login: refused, Now: time.Now,
					}),
					Down: at(gone.URL, time, logins(password)), Secrets: []string{"hunter2"},
				}
			})
		})
	}
}

// TestDates sees that tags and manifests come with when they were pushed, the
// tags in lower case, and that both are one walk.
func TestDates(t *testing.T) {
	for name, config := range map[string]fakegitea.Config{"versions": {}, "search": {NoVersions: true}} {
		t.Run(name, func(t *testing.T) {
			fake, r, clock := start(t, config)
			first := clock.now
			push(t, r, repo, "a", "V1")
			push(t, r, owner+"/team/app2", "a", "v9")
			clock.now = first.Add(time.Hour)
			child := push(t, r, repo, "b", "")
			push(t, r, repo, "c", "v2", "latest")
			fake.Requests()
			want := []image.Tag{{Name: "latest", Pushed: clock.now}, {Name: "v2", Pushed: clock.now}, {Name: "v1", Pushed: first}}
			if diff := cmp.Diff(want, list(t, r.Tags(t.Context(), repo))); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			want = []image.Tag{{Digest: child, Pushed: clock.now}}
			if diff := cmp.Diff(want, list(t, r.Untagged(t.Context(), repo))); diff != "" {
				t.Errorf("untagged (-want +got):\n%s", diff)
			}
			if got := fake.Requests(); len(got) > 2 {
				t.Errorf("both were asked for with %q", got)
			}
			// That a server has no list of versions is learned once.
			list(t, r.Tags(t.Context(), repo))
			if got := fake.Requests(); len(got) != 1 {
				t.Errorf("a list was asked for anew with %q", got)
			}
			if _, err := r.Resolve(t.Context(), repo, "V2"); err != nil {
				t.Errorf("a tag in upper case: %v", err)
			}
			if n := fake.Downloads(repo); n != 0 {
				t.Errorf("%d downloads were counted", n)
			}
		})
	}
}

// TestRequests counts what 4,000 tags cost.
func TestRequests(t *testing.T) {
	fake, r, _ := start(t, fakegitea.Config{})
	var tags []string
	for n := range 4000 {
		tags = append(tags, fmt.Sprint("v", n))
	}
	push(t, r, repo, "a", tags...)
	fake.Requests()
	if got := len(list(t, r.Tags(t.Context(), repo))); got != len(tags) {
		t.Errorf("%d tags are listed, want %d", got, len(tags))
	}
	if got := list(t, r.Untagged(t.Context(), repo)); len(got) != 0 {
		t.Errorf("untagged are %v", got)
	}
	if got := len(fake.Requests()); got != 80 {
		t.Errorf("%d requests were made, want 80", got)
	}
}

// TestKept sees when the other half of a list is asked for anew.
func TestKept(t *testing.T) {
	fake, r, clock := start(t, fakegitea.Config{})
	push(t, r, repo, "a", "v1", "")
	for _, test := range []struct {
		name string
		do   func()
		want int
	}{
		{"at once", func() {}, 0},
		{"a second time", func() { list(t, r.Untagged(t.Context(), repo)) }, 1},
		{"later", func() { clock.now = clock.now.Add(time.Minute) }, 1},
		{"after a push", func() { push(t, r, repo, "b", "v2") }, 1},
		{"after a deletion", func() { _ = r.DeleteTag(t.Context(), repo, "v2") }, 1},
		{"of another repository", func() { push(t, r, owner+"/other", "b", "v2") }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Whichever half is kept now, it is used up.
			list(t, r.Untagged(t.Context(), repo))
			list(t, r.Untagged(t.Context(), repo))
			list(t, r.Tags(t.Context(), repo))
			list(t, r.Tags(t.Context(), repo))
			test.do()
			fake.Requests()
			list(t, r.Untagged(t.Context(), repo))
			if got := len(fake.Requests()); got != test.want {
				t.Errorf("%d requests were made, want %d", got, test.want)
			}
		})
	}
}

// TestAPushDuringTheListIsSeen sees that a list that was read before a change is
// not kept.
func TestAPushDuringTheListIsSeen(t *testing.T) {
	_, r, _ := start(t, fakegitea.Config{})
	push(t, r, repo, "a", "v1")
	for _, err := range r.Tags(t.Context(), repo) {
		if err != nil {
			t.Fatal(err)
		}
		push(t, r, repo, "b", "")
	}
	if got := list(t, r.Untagged(t.Context(), repo)); len(got) != 1 {
		t.Errorf("untagged are %v, want one", got)
	}
}

// TestChangesDuringTheList sees that a tag that moves to a page that was read is
// not left out, and that a list that never stands still is an error.
func TestChangesDuringTheList(t *testing.T) {
	var tags []string
	for n := range 20 {
		tags = append(tags, fmt.Sprintf("v%02d", n))
	}
	api := "/api/v1/packages/" + owner + "/container/team%2Fapp/"
	for _, test := range []struct {
		name   string
		change func(other *gitea.Registry, n int) error // at the nth second page
		want   []string                                 // none if it is an error
	}{
		{"deleted", func(other *gitea.Registry, n int) error {
			if n > 0 {
				return nil
			}
			return other.DeleteTag(t.Context(), repo, "v19")
		}, tags},
		{"deleted and pushed", func(other *gitea.Registry, n int) error {
			if n > 0 {
				return nil
			}
			push(t, other, repo, "a", "z")
			return other.DeleteTag(t.Context(), repo, "v00")
		}, append(tags[1:20:20], "z")},
		{"for ever", func(other *gitea.Registry, n int) error {
			return other.DeleteTag(t.Context(), repo, tags[19-n])
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var other atomic.Pointer[gitea.Registry]
			var pages atomic.Int64
			_, r, _ := start(t, fakegitea.Config{Page: 5, Before: func(_ http.ResponseWriter, request *http.Request) bool {
				if strings.HasPrefix(request.URL.EscapedPath()+"/", api) && request.URL.Query().Get("page") == "2" {
					if err := test.change(other.Load(), int(pages.Add(1)-1)); err != nil {
						t.Error(err)
					}
				}
				return false
			}})
			other.Store(r)
			push(t, r, repo, "a", tags...)
			if test.want == nil {
				if err := failure(r.Tags(t.Context(), repo)); problem.KindOf(err) != problem.Unreachable {
					t.Errorf("a list that never stands still: %v", err)
				}
				return
			}
			var got []string
			for _, tag := range list(t, r.Tags(t.Context(), repo)) {
				got = append(got, tag.Name)
			}
			slices.Sort(got)
			if test.name == "deleted and pushed" && len(got) > 0 && got[0] == "v00" {
				got = got[1:] // it may have been read before it went
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDeletes sees what goes and what stays.
func TestDeletes(t *testing.T) {
	fake, r, _ := start(t, fakegitea.Config{})
	d := push(t, r, repo, "a", "", "v1", "v2")
	alone := push(t, r, repo, "b", "")
	// A tag stays when the row of its digest goes.
	if err := r.DeleteManifest(t.Context(), repo, d); problem.KindOf(err) != problem.Denied {
		t.Errorf("delete a manifest with tags: %v", err)
	}
	if err := r.DeleteTag(t.Context(), repo, "V1"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{alone.String(), "v2"}, fake.Versions(repo)); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	if err := r.DeleteManifest(t.Context(), repo, alone); err != nil {
		t.Error(err)
	}
	if err := r.DeleteTag(t.Context(), repo, alone.String()); problem.KindOf(err) != problem.Usage {
		t.Errorf("delete a digest as a tag: %v", err)
	}
	for _, name := range []string{"app", "/app", "acme/"} {
		if err := r.DeleteTag(t.Context(), name, "v1"); problem.KindOf(err) != problem.Usage {
			t.Errorf("delete a tag of %s: %v", name, err)
		}
	}
}

// TestReplacedLogin sees that a login that was replaced meanwhile is used.
func TestReplacedLogin(t *testing.T) {
	_, r, clock := start(t, fakegitea.Config{})
	push(t, r, repo, "a", "v1")
	fake, _, _ := start(t, fakegitea.Config{})
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	changing := at(server.URL, clock, logins("hunter2-old", password))
	push(t, at(server.URL, clock, logins(password)), repo, "a", "v1")
	if got := list(t, changing.Tags(t.Context(), repo)); len(got) != 1 {
		t.Errorf("tags are %v", got)
	}
	failing := at(server.URL, clock, func(context.Context) (credential.Login, error) { return credential.Login{}, io.ErrUnexpectedEOF })
	if err := failure(failing.Tags(t.Context(), repo)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a login that cannot be got: %v", err)
	}
}

// TestRedirect sees that no request goes to where the server redirects.
func TestRedirect(t *testing.T) {
	came := 0
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		came++
		w.WriteHeader(http.StatusNoContent)
	}))
	defer other.Close()
	_, r, _ := start(t, fakegitea.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/api/") {
			return false
		}
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}})
	for _, err := range []error{failure(r.Tags(t.Context(), repo)), r.DeleteTag(t.Context(), repo, "v1")} {
		if problem.KindOf(err) != problem.Unreachable || errors.Is(err, image.ErrMissing) || !strings.Contains(fmt.Sprint(err), "redirects to "+other.URL) {
			t.Errorf("redirected: %v", err)
		}
	}
	if came > 0 {
		t.Errorf("%d requests came to the other host", came)
	}
}

// TestOddAnswers sees that nothing but Gitea's own word makes a list, or
// something missing.
func TestOddAnswers(t *testing.T) {
	for _, test := range []struct {
		name    string
		answer  http.HandlerFunc
		want    problem.Kind
		missing bool
	}{
		{"server error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, problem.Unreachable, false},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"message":"scopes"}`, http.StatusForbidden)
		}, problem.Denied, false},
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, problem.Unreachable, false},
		{"another server's 404", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, problem.Unreachable, false},
		{"no count", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("[]")) }, problem.Unreachable, false},
		{"the password", func(w http.ResponseWriter, r *http.Request) {
			_, secret, _ := r.BasicAuth()
			http.Error(w, `{"message":"no `+secret+r.Header.Get("Authorization")+`"}`, http.StatusUnauthorized)
		}, problem.Denied, false},
		{"no such owner", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"message":"user does not exist"}`))
		}, problem.NotFound, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, r, _ := start(t, fakegitea.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, "/api/") {
					return false
				}
				test.answer(w, r)
				return true
			}})
			err := failure(r.Tags(t.Context(), repo))
			if problem.KindOf(err) != test.want || errors.Is(err, image.ErrMissing) != test.missing {
				t.Errorf("list: error of kind %q, want %q: %v", problem.KindOf(err), test.want, err)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "Basic YW")) {
				t.Errorf("the error holds a secret: %v", err)
			}
			deleted := r.DeleteTag(t.Context(), repo, "v1")
			if test.missing != (deleted == nil) {
				t.Errorf("delete: %v", deleted)
			}
		})
	}
}
