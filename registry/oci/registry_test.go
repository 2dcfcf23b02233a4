package oci_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/oci"
)

// far is a registry that is reached without a network.
const far credential.Host = "registry.test"

// apart is a client of a fake, without a network.
func apart(fake http.RoundTripper, login func(context.Context) (credential.Login, error)) *oci.Registry {
	return oci.New(oci.Config{Host: far, Transport: fake, Login: login})
}

// roundTrip is a transport of a test's own.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// fill puts an image into a fake, whoever may, and returns its digest.
func fill(t *testing.T, registry *oci.Registry, path string, tags ...string) digest.Digest {
	t.Helper()
	config := fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","author":%q}`, rand.Text())
	b := image.Blob{Digest: digest.FromBytes(config), Size: int64(len(config))}
	if _, err := registry.WriteBlob(t.Context(), path, b, "", reading(config)); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "layers": []any{},
		"config": ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: b.Digest, Size: b.Size},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range append(tags, "") {
		if _, err := registry.WriteManifest(t.Context(), path, tag, ocispec.MediaTypeImageManifest, raw); err != nil {
			t.Fatal(err)
		}
	}
	return digest.FromBytes(raw)
}

func reading(raw []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
}

func blobOf(raw []byte) image.Blob {
	return image.Blob{Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

func collect[T any](all iter.Seq2[T, error]) ([]T, error) {
	var got []T
	for one, err := range all {
		if err != nil {
			return got, err
		}
		got = append(got, one)
	}
	return got, nil
}

// asked checks the requests that a fake has got since it was asked last.
func asked(t *testing.T, fake *fakeregistry.Registry, want ...string) {
	t.Helper()
	got := fake.Requests()
	for i, request := range got {
		if method, place, _ := strings.Cut(request, " "); strings.HasPrefix(place, "/token?") {
			got[i] = method + " /token"
		} else if before, _, ok := strings.Cut(request, "/blobs/uploads/"); ok {
			got[i] = before + "/blobs/uploads/"
		}
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestOneTokenForEachRepositoryAndRight(t *testing.T) {
	t.Parallel()
	fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Username: user, Password: secret})
	var password atomic.Value
	password.Store(secret)
	login := func(context.Context) (credential.Login, error) {
		return credential.Login{Username: user, Secret: credential.NewSecret(password.Load().(string))}, nil
	}
	host := served(t, fake)
	registry := client(host, login)
	repositories := []string{"team/api", "team/worker"}
	digests := map[string]digest.Digest{}
	for _, path := range repositories {
		digests[path] = fill(t, registry, path, "one")
	}
	all := func(registry *oci.Registry) {
		t.Helper()
		var group sync.WaitGroup
		for n := range 64 {
			path := repositories[n%2]
			group.Go(func() {
				if _, err := registry.Resolve(t.Context(), path, "one"); err != nil {
					t.Error(err)
				}
				if _, _, err := registry.Manifest(t.Context(), path, digests[path]); err != nil {
					t.Error(err)
				}
				if _, err := collect(registry.Tags(t.Context(), path)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	counts := func(what string, tokens, pings int) {
		t.Helper()
		if got := fake.Count("GET /token"); got != tokens {
			t.Errorf("%s: %d tokens were asked for, want %d", what, got, tokens)
		}
		got := slices.DeleteFunc(fake.Requests(), func(r string) bool { return r != "GET /v2/" })
		if len(got) != pings {
			t.Errorf("%s: the registry was pinged %d times, want %d", what, len(got), pings)
		}
	}
	counts("writing", 2, 1)
	all(registry)
	counts("reading", 2, 0)
	all(registry)
	counts("reading again", 0, 0)
	fake.EndTokens()
	all(registry)
	counts("when tokens have ended", 2, 0)
	fake.SetLogin(user, "another")
	password.Store("another")
	all(registry)
	counts("when the login has changed", 2, 0)
	all(client(host, login))
	counts("another client", 2, 1)
}

func TestRefusedLogins(t *testing.T) {
	t.Parallel()
	t.Run("refused at the token server", func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Username: user, Password: "another"})
		registry := apart(fake, as(user, secret))
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				_, err := registry.Resolve(t.Context(), "team/api", "one")
				want(t, err, problem.Denied, "wrong, revoked or expired")
			})
		}
		group.Wait()
		asked(t, fake, "GET /v2/", "GET /token")
	})
	t.Run("replaced meanwhile", func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Username: user, Password: "another"})
		passwords := []string{secret, "another"}
		_, err := apart(fake, func(ctx context.Context) (credential.Login, error) {
			next := passwords[0]
			passwords = passwords[1:]
			return as(user, next)(ctx)
		}).Resolve(t.Context(), "team/api", "one")
		if !errors.Is(err, image.ErrMissing) {
			t.Errorf("error is %v", err)
		}
		asked(t, fake, "GET /v2/", "GET /token", "GET /token", "HEAD /v2/team/api/manifests/one")
	})
	t.Run("a token that never is good", func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Username: user, Password: secret, Before: func(w http.ResponseWriter, r *http.Request) bool {
			refused := strings.HasPrefix(r.URL.Path, "/v2/team/")
			if refused {
				w.WriteHeader(http.StatusUnauthorized)
			}
			return refused
		}})
		registry := apart(fake, as(user, secret))
		for range 3 {
			_, err := registry.Resolve(t.Context(), "team/api", "one")
			want(t, err, problem.Denied, "lacks the right")
		}
		const head = "HEAD /v2/team/api/manifests/one"
		asked(t, fake, "GET /v2/", "GET /token", head, head, head)
	})
	t.Run("basic", func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Scheme: "Basic", Username: user, Password: secret})
		password := secret
		registry := apart(fake, func(ctx context.Context) (credential.Login, error) { return as(user, password)(ctx) })
		const head = "HEAD /v2/team/api/manifests/one"
		resolve := func() error {
			_, err := registry.Resolve(t.Context(), "team/api", "one")
			return err
		}
		if err := resolve(); !errors.Is(err, image.ErrMissing) {
			t.Errorf("error is %v", err)
		}
		asked(t, fake, "GET /v2/", head)
		fake.SetLogin(user, "another")
		want(t, resolve(), problem.Denied, "wrong, revoked or expired")
		asked(t, fake, head)
		password = "another"
		if err := resolve(); !errors.Is(err, image.ErrMissing) {
			t.Errorf("error is %v", err)
		}
		asked(t, fake, head, head)
	})
	t.Run("no login at hand", func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Username: user, Password: secret})
		_, err := apart(fake, nil).Resolve(t.Context(), "team/api", "one")
		want(t, err, problem.Denied, "no login for registry.test is at hand")
		broken := errors.New("the keyring is damaged")
		_, err = apart(fake, func(context.Context) (credential.Login, error) { return credential.Login{}, broken }).Resolve(t.Context(), "team/api", "one")
		if !errors.Is(err, broken) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestATokenIsReplacedBeforeItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Lifetime: 60})
		registry := apart(fake, nil)
		const head = "HEAD /v2/team/api/manifests/one"
		for _, wait := range []time.Duration{0, 50 * time.Second, 5 * time.Second} {
			time.Sleep(wait) // by the bubble's clock
			if _, err := registry.Resolve(t.Context(), "team/api", "one"); !errors.Is(err, image.ErrMissing) {
				t.Error(err)
			}
		}
		asked(t, fake, "GET /v2/", "GET /token", head, head, "GET /token", head)
	})
}

func TestRateLimitsAreWaitedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		after  func() string
		times  int
		took   time.Duration
		failed bool
	}{
		"seconds":         {http.StatusTooManyRequests, func() string { return "7" }, 2, 14 * time.Second, false},
		"a date":          {http.StatusTooManyRequests, func() string { return time.Now().Add(9 * time.Second).UTC().Format(http.TimeFormat) }, 1, 9 * time.Second, false},
		"not said":        {http.StatusTooManyRequests, func() string { return "" }, 3, 7 * time.Second, false},
		"unavailable":     {http.StatusServiceUnavailable, func() string { return "3" }, 1, 3 * time.Second, false},
		"too long":        {http.StatusTooManyRequests, func() string { return "3600" }, 1, 0, true},
		"without an end":  {http.StatusTooManyRequests, func() string { return "2" }, 99, 12 * time.Second, true},
		"broken, no time": {http.StatusServiceUnavailable, func() string { return "" }, 1, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left := 0
				fake := fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, _ *http.Request) bool {
					if left == 0 {
						return false
					}
					left--
					if text := test.after(); text != "" {
						w.Header().Set("Retry-After", text)
					}
					w.WriteHeader(test.status)
					return true
				}})
				registry := apart(fake, nil)
				d := fill(t, registry, "team/api", "one")
				left = test.times
				began := time.Now()
				_, _, err := registry.Manifest(t.Context(), "team/api", d)
				if failed := err != nil; failed != test.failed {
					t.Errorf("error is %v", err)
				}
				if test.failed {
					want(t, err, problem.Unreachable, "")
				}
				if took := time.Since(began); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				// What is sent is waited for, too.
				left = 0
				if test.failed {
					return
				}
				left = test.times
				if _, err := registry.WriteManifest(t.Context(), "team/api", "two", ocispec.MediaTypeImageManifest, manifestOf(t, registry, d)); err != nil {
					t.Error(err)
				}
			})
		})
	}
	t.Run("a context that ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			began := time.Now()
			_, err := apart(roundTrip(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"50"}}, Body: http.NoBody, Request: r}, nil
			}), nil).Resolve(ctx, "team/api", "one")
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
				t.Errorf("error is %v after %s", err, time.Since(began))
			}
		})
	})
}

func manifestOf(t *testing.T, registry *oci.Registry, d digest.Digest) []byte {
	t.Helper()
	_, raw, err := registry.Manifest(t.Context(), "team/api", d)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// lists answers lists of tags.
func lists(answer func(w http.ResponseWriter, query url.Values) []string) (*fakeregistry.Registry, *oci.Registry) {
	fake := fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") {
			return false
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"tags": answer(w, r.URL.Query())})
		return true
	}})
	return fake, apart(fake, nil)
}

func numbered(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("v%05d", i))
	}
	return names
}

func TestPaging(t *testing.T) {
	t.Parallel()
	link := func(w http.ResponseWriter, query string) {
		w.Header().Set("Link", `</v2/team/api/tags/list?`+query+`>; rel="next"`)
	}
	for name, test := range map[string]struct {
		answer   func(w http.ResponseWriter, query url.Values) []string
		want     []string
		requests int
		failed   bool
	}{
		"no tags": {func(http.ResponseWriter, url.Values) []string { return nil }, nil, 1, false},
		"pages of three": {func(w http.ResponseWriter, query url.Values) []string {
			from, _ := strconv.Atoi(query.Get("from"))
			if from+3 < 8 {
				link(w, fmt.Sprint("from=", from+3))
			}
			return numbered(8)[from:min(from+3, 8)]
		}, numbered(8), 3, false},
		"a link on the last page": {func(w http.ResponseWriter, query url.Values) []string {
			link(w, "last=x")
			if query.Get("last") == "x" {
				return nil
			}
			return numbered(2)
		}, numbered(2), 2, false},
		"a link for ever, and all when asked for no page": {func(w http.ResponseWriter, query url.Values) []string {
			if len(query) == 0 {
				return numbered(5)
			}
			link(w, "n=2&last=v00001")
			return numbered(2)
		}, numbered(5), 3, false},
		"a link for ever": {func(w http.ResponseWriter, _ url.Values) []string {
			link(w, "n=2")
			return numbered(2)
		}, numbered(2), 3, true},
		"pages that overlap, in no order": {func(w http.ResponseWriter, query url.Values) []string {
			if query.Has("more") {
				return []string{"a", "c", "b"}
			}
			link(w, "more=1")
			return []string{"b", "d", "b", "a"}
		}, []string{"b", "d", "a", "c"}, 2, false},
		"all at once, more than a page": {func(http.ResponseWriter, url.Values) []string { return numbered(2500) }, numbered(2500), 1, false},
		"cut without a word": {func(_ http.ResponseWriter, query url.Values) []string {
			all := numbered(2500)
			if last := query.Get("last"); last != "" {
				n, _ := slices.BinarySearch(all, last)
				all = all[n+1:]
			}
			n, _ := strconv.Atoi(query.Get("n"))
			return all[:min(n, len(all))]
		}, numbered(2500), 3, false},
		"begins anew behind the end, as go-containerregistry's": {func(http.ResponseWriter, url.Values) []string { return numbered(1000) }, numbered(1000), 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			fake, registry := lists(test.answer)
			tags, err := collect(registry.Tags(t.Context(), "team/api"))
			var got []string
			for _, tag := range tags {
				got = append(got, tag.Name)
			}
			if diff := gocmp.Diff(test.want, got); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			if failed := err != nil; failed != test.failed {
				t.Errorf("error is %v", err)
			}
			if test.failed {
				want(t, err, problem.Damaged, "circles")
			}
			if n := fake.Count("GET /v2/team/api/tags/list"); n != test.requests {
				t.Errorf("%d pages were asked for, want %d", n, test.requests)
			}
		})
	}
}

func TestPagesAreAskedForAsTheyAreRead(t *testing.T) {
	t.Parallel()
	fake := fakeregistry.New(fakeregistry.Config{Page: 2})
	registry := apart(fake, nil)
	fill(t, registry, "team/api", "a", "b", "c", "d", "e")
	fake.Requests()
	for tag := range registry.Tags(t.Context(), "team/api") {
		if tag.Name == "c" {
			break
		}
	}
	asked(t, fake, "GET /v2/team/api/tags/list?n=1000", "GET /v2/team/api/tags/list?last=b&n=2")
}

func TestALinkElsewhereIsNotFollowed(t *testing.T) {
	t.Parallel()
	_, registry := lists(func(w http.ResponseWriter, query url.Values) []string {
		if query.Has("more") {
			return []string{"b"}
		}
		w.Header().Set("Link", `<http://169.254.169.254/v2/team/api/tags/list?more=1>; rel="next"`)
		return []string{"a"}
	})
	tags, err := collect(registry.Tags(t.Context(), "team/api"))
	if err != nil || len(tags) != 2 {
		t.Errorf("tags are %v, %v", tags, err)
	}
}

func TestRepositories(t *testing.T) {
	t.Parallel()
	fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Page: 1})
	registry := apart(fake, nil)
	fill(t, registry, "team/api")
	fill(t, registry, "team/worker")
	got, err := collect(registry.Repositories(t.Context()))
	if diff := gocmp.Diff([]string{"team/api", "team/worker"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for status, unsupported := range map[int]bool{
		http.StatusNotFound: true, http.StatusMethodNotAllowed: true, http.StatusUnauthorized: false, http.StatusForbidden: false, http.StatusInternalServerError: false,
	} {
		registry := apart(fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/v2/_catalog" {
				return false
			}
			http.Error(w, "no", status)
			return true
		}}), nil)
		_, err := collect(registry.Repositories(t.Context()))
		if err == nil || errors.Is(err, image.ErrUnsupported) != unsupported || errors.Is(err, image.ErrMissing) {
			t.Errorf("%d: error is %v", status, err)
		}
	}
}

func TestResolveAsksByHead(t *testing.T) {
	t.Parallel()
	const place = " /v2/team/api/manifests/one"
	for name, test := range map[string]struct {
		config fakeregistry.Config
		want   []string
	}{
		"HEAD":            {fakeregistry.Config{}, []string{"HEAD" + place}},
		"no digest":       {fakeregistry.Config{NoDigest: true}, []string{"HEAD" + place, "GET" + place}},
		"HEAD is refused": {fakeregistry.Config{NoHead: true}, []string{"HEAD" + place, "GET" + place}},
	} {
		t.Run(name, func(t *testing.T) {
			fake := fakeregistry.New(test.config)
			registry := apart(fake, nil)
			d := fill(t, registry, "team/api", "one")
			fake.Requests()
			got, err := registry.Resolve(t.Context(), "team/api", "one")
			if err != nil || got.Digest != d || got.MediaType != ocispec.MediaTypeImageManifest || got.Size == 0 {
				t.Errorf("it leads to %+v, %v; want %s", got, err, d)
			}
			asked(t, fake, test.want...)
		})
	}
	lying := apart(fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Docker-Content-Digest", digest.FromString("another").String())
		return r.URL.Path != "/v2/"
	}}), nil)
	_, err := lying.Resolve(t.Context(), "team/api", digest.FromString("one").String())
	want(t, err, problem.Damaged, "do not use it")
}

// What a registry's proxy does not find says nothing of the registry.
func TestOnlyTheRegistrySaysMissing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kind, body string
		missing    bool
	}{
		"a manifest":     {"application/json", `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, true},
		"a repository":   {"application/json", `{"errors":[{"code":"NAME_UNKNOWN"}]}`, true},
		"a blob":         {"text/plain", `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, true},
		"Harbor":         {"application/json", `{"errors":[{"code":"NOT_FOUND"}]}`, true},
		"no word":        {"", "", true},
		"another server": {"text/html", "<h1>404</h1>", false},
		"a proxy":        {"text/plain", "404 page not found", false},
		"another code":   {"application/json", `{"errors":[{"code":"UNKNOWN"}]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			registry := apart(fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/v2/" {
					return false
				}
				if test.kind != "" {
					w.Header().Set("Content-Type", test.kind)
				}
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, test.body)
				return true
			}}), nil)
			d := digest.FromString("one")
			_, _, manifest := registry.Manifest(t.Context(), "team/api", d)
			_, blob := registry.Blob(t.Context(), "team/api", d)
			_, tags := collect(registry.Tags(t.Context(), "team/api"))
			for what, err := range map[string]error{"manifest": manifest, "blob": blob, "tags": tags} {
				if err == nil || errors.Is(err, image.ErrMissing) != test.missing {
					t.Errorf("%s: error is %v", what, err)
				}
			}
			if err := registry.DeleteManifest(t.Context(), "team/api", d); (err == nil) != test.missing {
				t.Errorf("delete: error is %v", err)
			}
		})
	}
}

// Neither do the places beside and behind a registry.
func TestOthersDoNotSayMissing(t *testing.T) {
	t.Parallel()
	notFound := func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[{"code":"NOT_FOUND"}]}`)
	}
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { notFound(w) }))
	t.Cleanup(storage.Close)
	for name, before := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"the root": func(w http.ResponseWriter, _ *http.Request) bool {
			notFound(w)
			return true
		},
		"the token server": func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				notFound(w)
			}
			return r.URL.Path == "/token"
		},
		"the storage": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/v2/team/") && r.Header.Get("Authorization") != "" {
				http.Redirect(w, r, storage.URL, http.StatusTemporaryRedirect)
				return true
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			registry := client(served(t, fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Before: before})), nil)
			_, resolve := registry.Resolve(t.Context(), "team/api", "one")
			_, blob := registry.Blob(t.Context(), "team/api", digest.FromString("one"))
			_, repositories := collect(registry.Repositories(t.Context()))
			deleted := registry.DeleteTag(t.Context(), "team/api", "one")
			for call, err := range map[string]error{"resolve": resolve, "blob": blob, "delete": deleted} {
				if err == nil || errors.Is(err, image.ErrMissing) || errors.Is(err, image.ErrUnsupported) {
					t.Errorf("%s: error is %v", call, err)
				}
			}
			if name != "the storage" && (repositories == nil || errors.Is(repositories, image.ErrUnsupported)) {
				t.Errorf("repositories: error is %v", repositories)
			}
		})
	}
}

func TestManifest(t *testing.T) {
	t.Parallel()
	var accepted []string
	size := 0
	fake := fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") || r.Method != http.MethodGet {
			return false
		}
		accepted = r.Header.Values("Accept")
		_, _ = w.Write(make([]byte, size))
		return size > 0
	}})
	registry := apart(fake, nil)
	d := fill(t, registry, "team/api", "one")
	fake.Requests()
	if _, _, err := registry.Manifest(t.Context(), "team/api", d); err != nil {
		t.Error(err)
	}
	asked(t, fake, "GET /v2/team/api/manifests/"+d.String())
	for _, kind := range []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, image.DockerIndex, image.DockerManifest} {
		if len(accepted) != 1 || !strings.Contains(accepted[0], kind) {
			t.Errorf("%s is not accepted, of %v", kind, accepted)
		}
	}
	size = 4<<20 + 1
	_, _, err := registry.Manifest(t.Context(), "team/api", d)
	want(t, err, problem.Damaged, "more than any registry")
	size = 100
	_, _, err = registry.Manifest(t.Context(), "team/api", d)
	want(t, err, problem.Damaged, "do not use it")
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	d := digest.FromString("one")
	t.Run("a registry without is asked once", func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{NoReferrers: true})
		registry := apart(fake, nil)
		for _, path := range []string{"team/api", "team/api", "team/worker"} {
			if _, err := registry.Referrers(t.Context(), path, d); !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("error is %v", err)
			}
		}
		asked(t, fake, "GET /v2/", "GET /v2/team/api/referrers/"+d.String())
	})
	t.Run("one repository says nothing of another", func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
			unknown := strings.HasPrefix(r.URL.Path, "/v2/team/none/")
			if unknown {
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`)
			}
			return unknown
		}})
		registry := apart(fake, nil)
		if _, err := registry.Referrers(t.Context(), "team/none", d); !errors.Is(err, image.ErrUnsupported) {
			t.Errorf("error is %v", err)
		}
		if all, err := registry.Referrers(t.Context(), "team/api", d); err != nil || len(all) != 0 {
			t.Errorf("referrers are %v, %v", all, err)
		}
	})
	t.Run("pages", func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{Page: 2})
		registry := apart(fake, nil)
		subject := fill(t, registry, "team/api", "one")
		for n := range 5 {
			raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"x/y","layers":[],"annotations":{"n":"%d"},"subject":{"digest":%q}}`,
				ocispec.MediaTypeImageManifest, n, subject)
			if _, err := registry.WriteManifest(t.Context(), "team/api", "", ocispec.MediaTypeImageManifest, raw); err != nil {
				t.Fatal(err)
			}
		}
		all, err := registry.Referrers(t.Context(), "team/api", subject)
		if err != nil || len(all) != 5 || all[0].ArtifactType != "x/y" || all[0].MediaType != ocispec.MediaTypeImageManifest {
			t.Errorf("referrers are %+v, %v", all, err)
		}
	})
	for name, body := range map[string]string{"pages without end": fmt.Sprintf(`{"mediaType":%q,"manifests":[{"digest":%q}]}`, ocispec.MediaTypeImageIndex, d), "no index": `{}`, "no JSON": "<html>"} {
		t.Run(name, func(t *testing.T) {
			registry := apart(fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/v2/" {
					return false
				}
				w.Header().Set("Link", `<?again>; rel="next"`)
				_, _ = io.WriteString(w, body)
				return true
			}}), nil)
			// Not known is not unsupported: tags in its stead would tell of less.
			if all, err := registry.Referrers(t.Context(), "team/api", d); err == nil || errors.Is(err, image.ErrUnsupported) {
				t.Errorf("referrers are %v, %v", all, err)
			}
		})
	}
}

// storage is a server of blobs whose connections break.
type storage struct {
	content []byte
	ranges  bool // it knows Range
	// cuts is after how many bytes of one answer the connection breaks; an
	// answer without one is whole.
	cuts []int
	// wrong begins the answer to a Range elsewhere.
	wrong bool

	asked         []string
	authorization []string
}

func (s *storage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, cmp.Or(r.Header.Get("Range"), "all"))
	s.authorization = append(s.authorization, r.Header.Values("Authorization")...)
	part, status := s.content, http.StatusOK
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && s.ranges {
		if s.wrong {
			from++
		}
		part, status = s.content[from:], http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(s.content)-1, len(s.content)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(part)))
	w.WriteHeader(status)
	if len(s.cuts) == 0 {
		_, _ = w.Write(part)
		return
	}
	cut := s.cuts[0]
	s.cuts = s.cuts[1:]
	_, _ = w.Write(part[:cut])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestBlobsAreReadOnWhereTheyBroke(t *testing.T) {
	t.Parallel()
	content := make([]byte, 300_000)
	_, _ = rand.Read(content)
	for name, test := range map[string]struct {
		storage storage
		want    []string
		kind    problem.Kind
	}{
		"whole":       {storage{}, []string{"all"}, ""},
		"ranges":      {storage{ranges: true, cuts: []int{100_000, 50_000}}, []string{"all", "bytes=100000-", "bytes=150000-"}, ""},
		"no ranges":   {storage{cuts: []int{100_000, 150_000}}, []string{"all", "bytes=100000-", "bytes=150000-"}, ""},
		"breaks soon": {storage{cuts: []int{100_000, 5}}, []string{"all", "bytes=100000-", "bytes=100000-"}, ""},
		"always breaks": {storage{ranges: true, cuts: []int{1, 1, 1, 1, 1, 1, 1, 1, 1}},
			[]string{"all", "bytes=1-", "bytes=2-", "bytes=3-", "bytes=4-", "bytes=5-"}, problem.Unreachable},
		"another part": {storage{ranges: true, wrong: true, cuts: []int{1}}, []string{"all", "bytes=1-"}, problem.Damaged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.storage.content = content
			behind := httptest.NewServer(&test.storage)
			t.Cleanup(behind.Close)
			fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Username: user, Password: secret, Before: func(w http.ResponseWriter, r *http.Request) bool {
				blob := strings.Contains(r.URL.Path, "/blobs/sha256:") && r.Header.Get("Authorization") != ""
				if blob {
					http.Redirect(w, r, behind.URL+"/x?X-Signature=hunter2-signature", http.StatusTemporaryRedirect)
				}
				return blob
			}})
			// One client for both: what is stored of one is never sent to the other.
			registry := client(served(t, fake), as(user, secret))
			body, err := registry.Blob(t.Context(), "team/api", digest.FromBytes(content))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = body.Close() }()
			got, err := io.ReadAll(body)
			if test.kind == "" && (err != nil || !bytes.Equal(got, content)) {
				t.Errorf("%d bytes came, %v", len(got), err)
			}
			if test.kind != "" {
				want(t, err, test.kind, "")
				if _, again := body.Read(make([]byte, 1)); again == nil || errors.Is(again, io.EOF) {
					t.Errorf("another read returns %v", again)
				}
			}
			behind.Close()
			if diff := gocmp.Diff(test.want, test.storage.asked); diff != "" {
				t.Errorf("parts that were asked for (-want +got):\n%s", diff)
			}
			if len(test.storage.authorization) > 0 {
				t.Error("the storage was shown the registry's token")
			}
			if n := fake.Count("GET /token"); n != 1 {
				t.Errorf("%d tokens were asked for, want 1", n)
			}
		})
	}
}

func TestABlobThatHangsIsReadOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		content := []byte("content")
		n := 0
		registry := apart(roundTrip(func(r *http.Request) (*http.Response, error) {
			response := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r, Body: http.NoBody, ContentLength: int64(len(content))}
			if r.URL.Path == "/v2/" {
				return response, nil
			}
			if n++; n == 1 {
				response.Body = io.NopCloser(io.MultiReader(bytes.NewReader(content[:3]), silent{r.Context()}))
				return response, nil
			}
			response.Body = io.NopCloser(bytes.NewReader(content))
			return response, nil
		}), nil)
		body, err := registry.Blob(t.Context(), "team/api", digest.FromBytes(content))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		got, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(got, content) || n != 2 {
			t.Errorf("%q came of %d requests, %v", got, n, err)
		}
		if took := time.Since(began); took < time.Minute || took > 2*time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// silent is a connection on which nothing comes.
type silent struct{ ctx context.Context }

func (s silent) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func TestRedirectsEnd(t *testing.T) {
	t.Parallel()
	fake := fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			return false
		}
		http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
		return true
	}})
	_, err := apart(fake, nil).Resolve(t.Context(), "team/api", "one")
	want(t, err, problem.Unreachable, "")
	if n := fake.Count("HEAD "); n > 11 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestDeleteTagByAManifestOfItsOwn(t *testing.T) {
	t.Parallel()
	debian := fakeregistry.Config{NoTagDelete: true, NoReferrers: true, IgnorePaging: true, Scheme: "Bearer"}
	const base = "/v2/team/api/"
	t.Run("deleted", func(t *testing.T) {
		fake := fakeregistry.New(debian)
		registry := apart(fake, nil)
		d := fill(t, registry, "team/api", "goes", "stays")
		fake.Requests()
		if err := registry.DeleteTag(t.Context(), "team/api", "goes"); err != nil {
			t.Fatal(err)
		}
		own := ""
		for _, request := range fake.Requests() {
			if digest, ok := strings.CutPrefix(request, "DELETE "+base+"manifests/sha256:"); ok && strings.Trim(digest, "0") != "" {
				own = digest
			}
		}
		if own == "" || own == d.Encoded() {
			t.Errorf("the digest %q was deleted", own)
		}
		if _, err := registry.Resolve(t.Context(), "team/api", "goes"); !errors.Is(err, image.ErrMissing) {
			t.Errorf("the tag leads on: %v", err)
		}
		if got, err := registry.Resolve(t.Context(), "team/api", "stays"); err != nil || got.Digest != d {
			t.Errorf("the sibling leads to %v, %v", got, err)
		}
		if fake.Uploads() != 0 {
			t.Error("an upload is open")
		}
		fake.Requests()
		if err := registry.DeleteTag(t.Context(), "team/api", "goes"); err != nil {
			t.Error(err)
		}
		asked(t, fake, "DELETE "+base+"manifests/goes", "GET "+base+"manifests/goes")
	})
	t.Run("nothing can be deleted", func(t *testing.T) {
		config := debian
		config.NoDelete = true
		fake := fakeregistry.New(config)
		registry := apart(fake, nil)
		d := fill(t, registry, "team/api", "goes")
		fake.Requests()
		err := registry.DeleteTag(t.Context(), "team/api", "goes")
		if !errors.Is(err, image.ErrUnsupported) || !strings.Contains(problem.HintOf(err), "REGISTRY_STORAGE_DELETE_ENABLED=true") {
			t.Errorf("error is %v, hint %q", err, problem.HintOf(err))
		}
		asked(t, fake, "GET /token", "DELETE "+base+"manifests/goes", "GET "+base+"manifests/goes",
			"DELETE "+base+"manifests/sha256:0000000000000000000000000000000000000000000000000000000000000000")
		if got, err := registry.Resolve(t.Context(), "team/api", "goes"); err != nil || got.Digest != d {
			t.Errorf("the tag leads to %v, %v", got, err)
		}
		if err := registry.DeleteManifest(t.Context(), "team/api", d); !errors.Is(err, image.ErrUnsupported) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("put back", func(t *testing.T) {
		config := debian
		config.Before = func(w http.ResponseWriter, r *http.Request) bool {
			fails := r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/manifests/sha256:") && !strings.Contains(r.URL.Path, "sha256:000000")
			if fails {
				w.WriteHeader(http.StatusInternalServerError)
			}
			return fails
		}
		fake := fakeregistry.New(config)
		registry := apart(fake, nil)
		d := fill(t, registry, "team/api", "goes")
		want(t, registry.DeleteTag(t.Context(), "team/api", "goes"), problem.Unreachable, "")
		if got, err := registry.Resolve(t.Context(), "team/api", "goes"); err != nil || got.Digest != d {
			t.Errorf("the tag leads to %v, %v; want %s", got, err, d)
		}
	})
	for status, hint := range map[int]string{http.StatusConflict: "immutable", http.StatusPreconditionFailed: "immutable"} {
		t.Run(fmt.Sprint("immutable, ", status), func(t *testing.T) {
			fake := fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodDelete {
					w.WriteHeader(status)
				}
				return r.Method == http.MethodDelete
			}})
			registry := apart(fake, nil)
			fill(t, registry, "team/api", "goes")
			fake.Requests()
			err := registry.DeleteTag(t.Context(), "team/api", "goes")
			if problem.KindOf(err) != problem.Denied || errors.Is(err, credential.ErrRefused) || !strings.Contains(problem.HintOf(err), hint) {
				t.Errorf("error is %v, hint %q", err, problem.HintOf(err))
			}
			asked(t, fake, "DELETE "+base+"manifests/goes")
		})
	}
}

func TestDeleteTagByTag(t *testing.T) {
	t.Parallel()
	fake := fakeregistry.New(fakeregistry.Config{})
	registry := apart(fake, nil)
	fill(t, registry, "team/api", "goes", "stays")
	fake.Requests()
	for range 2 {
		if err := registry.DeleteTag(t.Context(), "team/api", "goes"); err != nil {
			t.Error(err)
		}
	}
	asked(t, fake, "DELETE /v2/team/api/manifests/goes", "DELETE /v2/team/api/manifests/goes", "GET /v2/team/api/manifests/goes")
}

func TestWriteBlobAsksFirst(t *testing.T) {
	t.Parallel()
	fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer"})
	registry := apart(fake, nil)
	raw := []byte(rand.Text())
	b := blobOf(raw)
	write := func(path, mount string, outcome image.Outcome) {
		t.Helper()
		if got, err := registry.WriteBlob(t.Context(), path, b, mount, reading(raw)); err != nil || got != outcome {
			t.Errorf("the blob was %q, %v; want %q", got, err, outcome)
		}
	}
	head := func(path string) string { return "HEAD /v2/" + path + "/blobs/" + b.Digest.String() }
	const up = "/v2/team/api/blobs/uploads/"
	write("team/api", "", image.Uploaded)
	asked(t, fake, "GET /v2/", "GET /token", head("team/api"), "POST "+up, "PATCH "+up, "PUT "+up)
	write("team/api", "team/worker", image.Present)
	asked(t, fake, head("team/api"))
	write("team/worker", "team/api", image.Mounted)
	requests := fake.Requests()
	// The token for a mount is good for both repositories: the fake refuses another.
	if len(requests) != 4 || !strings.Contains(requests[2], url.QueryEscape("repository:team/api:pull")) || !strings.Contains(requests[3], "from=team") {
		t.Errorf("requests are %q", requests)
	}
	raw = nil
	b = blobOf(raw)
	write("team/api", "", image.Uploaded)
	write("team/api", "", image.Present)
}

func TestAFailedUploadIsRepeated(t *testing.T) {
	t.Parallel()
	raw := make([]byte, 100_000)
	_, _ = rand.Read(raw)
	for name, test := range map[string]struct {
		fails  func(n int, r *http.Request) int
		opened int
		kind   problem.Kind
	}{
		"once":             {func(n int, r *http.Request) int { return on(r, http.MethodPatch, n == 1, 500) }, 2, ""},
		"at its end":       {func(n int, r *http.Request) int { return on(r, http.MethodPut, n == 1, 502) }, 2, ""},
		"always":           {func(_ int, r *http.Request) int { return on(r, http.MethodPatch, true, 500) }, 3, problem.Unreachable},
		"refused":          {func(_ int, r *http.Request) int { return on(r, http.MethodPatch, true, 403) }, 1, problem.Denied},
		"its login ended":  {func(n int, r *http.Request) int { return on(r, http.MethodPatch, n == 1, 401) }, 2, ""},
		"the limit is met": {func(n int, r *http.Request) int { return on(r, http.MethodPatch, n == 1, 429) }, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				met := map[string]int{}
				fake := fakeregistry.New(fakeregistry.Config{Scheme: "Bearer", Before: func(w http.ResponseWriter, r *http.Request) bool {
					met[r.Method]++
					status := test.fails(met[r.Method], r)
					if status != 0 {
						w.WriteHeader(status)
					}
					return status != 0
				}})
				registry := apart(fake, nil)
				opened := 0
				_, err := registry.WriteBlob(t.Context(), "team/api", blobOf(raw), "", func(ctx context.Context) (io.ReadCloser, error) {
					opened++
					return reading(raw)(ctx)
				})
				if opened != test.opened {
					t.Errorf("the blob was read %d times, want %d", opened, test.opened)
				}
				if test.kind != "" {
					want(t, err, test.kind, "")
				} else if err != nil {
					t.Error(err)
				}
				if n := fake.Uploads(); n != 0 {
					t.Errorf("%d uploads are open", n)
				}
			})
		})
	}
}

func on(r *http.Request, method string, when bool, status int) int {
	if r.Method == method && when {
		return status
	}
	return 0
}

// A blob is never held in memory: the registry has its beginning before its end
// is there to be read.
func TestBlobsAreSentAsTheyAreRead(t *testing.T) {
	t.Parallel()
	half := bytes.Repeat([]byte{'x'}, 1<<20)
	arrived := make(chan struct{})
	fake := fakeregistry.New(fakeregistry.Config{Before: func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			first := make([]byte, 1000)
			if _, err := io.ReadFull(r.Body, first); err == nil {
				close(arrived)
				r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(first), r.Body))
			}
		}
		return false
	}})
	b := image.Blob{Digest: digest.FromBytes(append(bytes.Clone(half), half...)), Size: 2 << 20}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got, err := client(served(t, fake), nil).WriteBlob(ctx, "team/api", b, "", func(ctx context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(half), after{ctx, arrived}, bytes.NewReader(half))), nil
	})
	if err != nil || got != image.Uploaded {
		t.Errorf("the blob was %q, %v", got, err)
	}
}

// Not every registry looks at what it gets.
func TestWhatIsNotTheBlobIsNotCommitted(t *testing.T) {
	t.Parallel()
	fake := fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusCreated)
		}
		return r.Method == http.MethodPut
	}})
	registry := apart(fake, nil)
	const up = "/v2/team/api/blobs/uploads/"
	b := blobOf([]byte("content"))
	_, err := registry.WriteBlob(t.Context(), "team/api", b, "", reading([]byte("CONTENT")))
	want(t, err, problem.Damaged, "")
	asked(t, fake, "GET /v2/", "HEAD /v2/team/api/blobs/"+b.Digest.String(), "POST "+up, "PATCH "+up, "DELETE "+up)
}

func TestAnUploadThatStandsStillEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := fakeregistry.New(fakeregistry.Config{})
		stands := roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPatch {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return fake.RoundTrip(r)
		})
		raw := []byte("content")
		began := time.Now()
		_, err := apart(stands, nil).WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw))
		want(t, err, problem.Unreachable, "")
		if took := time.Since(began); took < 15*time.Minute || took > 16*time.Minute {
			t.Errorf("three tries took %s", took)
		}
	})
}

// after ends when something has happened.
type after struct {
	ctx  context.Context
	what chan struct{}
}

func (a after) Read([]byte) (int, error) {
	select {
	case <-a.what:
		return 0, io.EOF
	case <-a.ctx.Done():
		return 0, a.ctx.Err()
	}
}

func TestUploadsGoOnlyWithWhatIsTheirs(t *testing.T) {
	t.Parallel()
	var shown []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = append(shown, r.Header.Values("Authorization")...)
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", "/more?state=1")
		w.WriteHeader(map[string]int{http.MethodPatch: http.StatusAccepted, http.MethodPut: http.StatusCreated}[r.Method])
	}))
	t.Cleanup(other.Close)
	fake := fakeregistry.New(fakeregistry.Config{Scheme: "Basic", Username: user, Password: secret, Before: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", other.URL+"/upload")
			w.WriteHeader(http.StatusAccepted)
		}
		return r.Method == http.MethodPost
	}})
	raw := []byte(rand.Text())
	got, err := client(served(t, fake), as(user, secret)).WriteBlob(t.Context(), "team/api", blobOf(raw), "", reading(raw))
	if err != nil || got != image.Uploaded {
		t.Errorf("the blob was %q, %v", got, err)
	}
	if len(shown) > 0 {
		t.Error("another host was shown the login")
	}
}

func TestWriteManifestIsVerified(t *testing.T) {
	t.Parallel()
	raw := []byte(`{"schemaVersion":2,"layers":[]}`)
	for name, test := range map[string]struct {
		config fakeregistry.Config
		told   string
		want   []string
		kind   problem.Kind
	}{
		"told":     {fakeregistry.Config{}, "", []string{"PUT"}, ""},
		"not told": {fakeregistry.Config{NoDigest: true}, "", []string{"PUT", "HEAD", "GET"}, ""},
		"other":    {fakeregistry.Config{}, digest.FromString("another").String(), []string{"PUT"}, problem.Damaged},
	} {
		t.Run(name, func(t *testing.T) {
			test.config.Before = func(w http.ResponseWriter, r *http.Request) bool {
				if test.told == "" || r.Method != http.MethodPut {
					return false
				}
				w.Header().Set("Docker-Content-Digest", test.told)
				w.WriteHeader(http.StatusCreated)
				return true
			}
			fake := fakeregistry.New(test.config)
			d, err := apart(fake, nil).WriteManifest(t.Context(), "team/api", "one", ocispec.MediaTypeImageManifest, raw)
			if test.kind != "" {
				want(t, err, test.kind, "")
			} else if err != nil || d != digest.FromBytes(raw) {
				t.Errorf("it was written as %s, %v", d, err)
			}
			requests := []string{"GET /v2/"}
			for _, method := range test.want {
				requests = append(requests, method+" /v2/team/api/manifests/one")
			}
			asked(t, fake, requests...)
		})
	}
}

func TestWhatIsNoNameIsNotAskedFor(t *testing.T) {
	t.Parallel()
	registry := apart(roundTrip(func(r *http.Request) (*http.Response, error) {
		t.Errorf("%s %s was sent", r.Method, r.URL)
		return nil, errors.New("no")
	}), nil)
	for _, path := range []string{"", "../secrets", "team/../x", "team//x", "team/api?x", "team/api/manifests/x#", "Team/API/ü"} {
		if _, err := registry.Resolve(t.Context(), path, "one"); problem.KindOf(err) != problem.Usage {
			t.Errorf("repository %q: error is %v", path, err)
		}
	}
	for _, of := range []string{"", "../x", "a/b", "a?b", "sha256:12", ".x", "x y"} {
		if _, err := registry.Resolve(t.Context(), "team/api", of); problem.KindOf(err) != problem.Usage {
			t.Errorf("%q: error is %v", of, err)
		}
		if err := registry.DeleteTag(t.Context(), "team/api", of); problem.KindOf(err) != problem.Usage {
			t.Errorf("delete %q: error is %v", of, err)
		}
		if err := registry.DeleteManifest(t.Context(), "team/api", digest.Digest(of)); problem.KindOf(err) != problem.Usage {
			t.Errorf("delete %q: error is %v", of, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	registry := client(credential.Host(strings.TrimPrefix(server.URL, "http://")), as(user, secret))
	_, err := registry.Resolve(t.Context(), "team/api", "one")
	want(t, err, problem.Unreachable, "whether it speaks HTTPS")
	// Plain HTTP is for those that are allowed to speak it.
	plain := roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Scheme == "https" {
			return nil, errors.New("server gave HTTP response to HTTPS client")
		}
		return fakeregistry.New(fakeregistry.Config{}).RoundTrip(r)
	})
	_, err = oci.New(oci.Config{Host: far, Transport: plain}).Resolve(t.Context(), "team/api", "one")
	want(t, err, problem.Unreachable, "")
	_, err = oci.New(oci.Config{Host: far, Transport: plain, Insecure: true}).Resolve(t.Context(), "team/api", "one")
	if !errors.Is(err, image.ErrMissing) {
		t.Errorf("error is %v", err)
	}
}
