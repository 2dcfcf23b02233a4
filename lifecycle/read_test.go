package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle"
)

func TestReadFindsEverything(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]fakeregistry.Config{"referrers": {}, "no referrers API": {NoReferrers: true}, "pages": {Page: 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, config)
			one := k.index("team/app", "one", "one", epoch)
			two := k.platform("team/app", "two", "amd64", "two", epoch.Add(time.Hour))
			signature := k.sign("team/app", one)
			k.sign("team/app", signature)
			sbom := k.artifact("team/app", "", "sbom", &two)
			k.artifact("team/app", "", "signature of the sbom", &sbom)
			v := k.inventory("team/app")
			if len(v.Unread) != 0 || len(v.Missing) != 0 {
				t.Fatalf("not known: %v %v", v.Unread, v.Missing)
			}
			want := 1 + 2 + 1 + 2 + 2
			if config.NoReferrers {
				want -= 2 // nothing tells of what has no tag
			}
			if v.Manifests.Len() != want {
				t.Errorf("%d manifests, want %d", v.Manifests.Len(), want)
			}
			if diff := cmp.Diff([]string{"one", "two"}, tagsOf(v.Images())); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
			if got := v.Built(one.Digest); !got.Equal(epoch) {
				t.Errorf("the index was built %v, want %v", got, epoch)
			}
		})
	}
}

func tagsOf(images []image.Image) []string {
	tags := []string{}
	for _, i := range images {
		tags = append(tags, i.Tags...)
	}
	if len(tags) == 2 && tags[0] > tags[1] {
		tags[0], tags[1] = tags[1], tags[0]
	}
	return tags
}

// What is cached is not asked for again: then a tag costs one request, by HEAD,
// which no registry counts as a download.
func TestReadAgainCosts(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	for n := range 10 {
		k.index("app", fmt.Sprint("tag", n), fmt.Sprint(n), epoch)
	}
	cache, err := imagecache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var requests [2]int
	for round := range requests {
		k.fake.Requests()
		if _, err := lifecycle.Read(t.Context(), k.Registry, repository("app"), lifecycle.Reading{Dates: true, Cache: cache}); err != nil {
			t.Fatal(err)
		}
		sent := k.fake.Requests()
		requests[round] = len(sent)
		gets := slices.DeleteFunc(slices.Clone(sent), func(request string) bool { return !strings.HasPrefix(request, "GET") })
		if round == 1 && len(gets) > 1 { // the list of tags
			t.Errorf("the second reading sent %v", gets)
		}
	}
	t.Logf("10 tags of 2 platforms: %d requests, then %d", requests[0], requests[1])
	if want := 10 + 2; requests[1] > want {
		t.Errorf("the second reading took %d requests, want %d at most", requests[1], want)
	}
}

func TestUnreadIsTold(t *testing.T) {
	t.Parallel()
	var broken atomic.Pointer[string]
	k := newKit(t, fakeregistry.Config{NoReferrers: true, Before: func(w http.ResponseWriter, r *http.Request) bool {
		if at := broken.Load(); at != nil && strings.Contains(r.URL.Path, *at) {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}})
	one := k.index("app", "one", "one", epoch)
	k.index("app", "two", "two", epoch)
	at := one.Digest.String()
	broken.Store(&at)
	v := k.inventory("app")
	if len(v.Unread) != 1 || v.Unread[0].What != at {
		t.Errorf("unread is %v, want %s", v.Unread, at)
	}
	if len(v.Tags) != 2 {
		t.Errorf("tags are %v", v.Tags)
	}
	all := "/manifests/"
	broken.Store(&all)
	if v, err := lifecycle.Read(t.Context(), k.Registry, repository("app"), lifecycle.Reading{}); err == nil && len(v.Unread) != 2 {
		t.Errorf("unread is %v, want both tags", v.Unread)
	}
}

// A registry that went away is given up, not asked a thousand times.
func TestDeadRegistryIsGivenUp(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	k := newKit(t, fakeregistry.Config{NoReferrers: true, Before: func(w http.ResponseWriter, r *http.Request) bool {
		if down.Load() && strings.Contains(r.URL.Path, "/manifests/") {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	}})
	for n := range 100 {
		k.platform("app", fmt.Sprint("tag", n), "amd64", fmt.Sprint(n), epoch)
	}
	down.Store(true)
	k.fake.Requests()
	_, err := lifecycle.Read(t.Context(), k.Registry, repository("app"), lifecycle.Reading{Parallel: 2})
	if err == nil {
		t.Fatal("it was read")
	}
	if got := len(k.fake.Requests()); got > 60 {
		t.Errorf("%d requests were sent to a registry that is down", got)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{})
	k.index("app", "one", "one", epoch)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lifecycle.Read(ctx, k.Registry, repository("app"), lifecycle.Reading{}); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

func TestRepositories(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{})
	for _, path := range []string{"team/a", "team/b", "other/c", "team/sub/d"} {
		k.platform(path, "latest", "amd64", path, epoch)
	}
	for _, test := range []struct {
		patterns []string
		want     []string
		requests string
	}{
		{[]string{host + "/team/*"}, []string{"team/a", "team/b"}, ""},
		{[]string{host + "/team/**"}, []string{"team/a", "team/b", "team/sub/d"}, ""},
		{[]string{host + "/team/a", host + "/team/*"}, []string{"team/a", "team/b"}, ""},
		{[]string{host + "/not/there"}, []string{"not/there"}, "none"},
		{[]string{"elsewhere.example.com/team/*"}, nil, ""},
	} {
		k.fake.Requests()
		var got []string
		for repository, err := range lifecycle.Repositories(t.Context(), k.Registry, host, test.patterns...) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, repository.Path)
		}
		if diff := cmp.Diff(test.want, got, cmp.Transformer("sorted", sorted)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.patterns, diff)
		}
		if asked := len(k.fake.Requests()); test.requests == "none" && asked != 0 {
			t.Errorf("%v: %d requests for a list that nobody needs", test.patterns, asked)
		}
	}
}
