package builtin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

func (f *fixture) dated(auth, path string) (list []image.Tag, link string) {
	f.t.Helper()
	got := f.do(request{method: "GET", path: "/v2/app/_regkeeper/" + path, auth: auth}).want(f.t, 200)
	var answer builtin.DatedTags
	if err := json.Unmarshal(got.body, &answer); err != nil || answer.Name != "app" || answer.Tags == nil {
		f.t.Fatalf("answer is %s, %v", got.body, err)
	}
	return answer.Tags, got.header.Get("Link")
}

func (f *fixture) wantDated(auth, path string, want ...image.Tag) {
	f.t.Helper()
	got, _ := f.dated(auth, path)
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestTimes(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	tick := func() time.Time {
		f.clock.Advance(time.Hour)
		return f.clock.Now()
	}
	t1 := tick()
	one, manifest := f.pushImage(auth, "app", "v1", "one")
	f.putManifest(auth, "app", "latest", manifest).want(t, 201)
	t2 := tick()
	two, _ := f.pushImage(auth, "app", "latest", "two")
	loose, _ := f.pushImage(auth, "app", "", "loose")
	first, second, untagged := digest.Digest(one), digest.Digest(two), digest.Digest(loose)

	// Looking is no pull, and neither is a pull that failed.
	f.do(request{method: "HEAD", path: "/v2/app/manifests/v1", auth: auth}).want(t, 200)
	f.do(request{method: "GET", path: "/v2/app/manifests/v1", auth: auth, header: map[string]string{builtin.UncountedHeader: "1"}}).want(t, 200)
	f.do(request{method: "GET", path: "/v2/app/manifests/v2", auth: auth}).want(t, 404)
	f.wantDated(auth, "tags/list", image.Tag{Name: "latest", Digest: second, Pushed: t2}, image.Tag{Name: "v1", Digest: first, Pushed: t1})
	f.wantDated(auth, "untagged/list", image.Tag{Digest: untagged, Pushed: t2})

	t3 := tick()
	f.do(request{method: "GET", path: "/v2/app/manifests/v1", auth: auth}).want(t, 200)
	f.do(request{method: "GET", path: "/v2/app/manifests/" + loose, auth: auth}).want(t, 200)
	t4 := tick()
	f.do(request{method: "GET", path: "/v2/app/manifests/" + two, auth: auth}).want(t, 200)
	for range 2 {
		f.wantDated(auth, "tags/list",
			image.Tag{Name: "latest", Digest: second, Pushed: t2, Pulled: t4}, image.Tag{Name: "v1", Digest: first, Pushed: t1, Pulled: t3})
		f.wantDated(auth, "untagged/list", image.Tag{Digest: untagged, Pushed: t2, Pulled: t3})
		f.restart()
	}
	// In pages, and in process.
	page, link := f.dated(auth, "tags/list?n=1")
	if len(page) != 1 || page[0].Name != "latest" || link != `</v2/app/_regkeeper/tags/list?last=latest&n=1>; rel="next"` {
		t.Errorf("first page is %v, %s", page, link)
	}
	if page, link = f.dated(auth, "tags/list?n=1&last=latest"); len(page) != 1 || page[0].Name != "v1" || link != "" {
		t.Errorf("second page is %v, %s", page, link)
	}
	tags, err := listed(f.registry.Tags(t.Context(), "app"))
	if err != nil || len(tags) != 2 {
		t.Errorf("Tags = %v, %v", tags, err)
	}
	for _, name := range []string{"none", "../app", ""} {
		if _, err := listed(f.registry.Untagged(t.Context(), name)); !errors.Is(err, image.ErrMissing) {
			t.Errorf("Untagged of %q = %v", name, err)
		}
	}
	// What is deleted is forgotten, and what loses its last tag is told of.
	f.do(request{method: "DELETE", path: "/v2/app/manifests/" + loose, auth: auth}).want(t, 202)
	f.do(request{method: "DELETE", path: "/v2/app/manifests/v1", auth: auth}).want(t, 202)
	f.wantDated(auth, "tags/list", image.Tag{Name: "latest", Digest: second, Pushed: t2, Pulled: t4})
	f.wantDated(auth, "untagged/list", image.Tag{Digest: first, Pushed: t1, Pulled: t3})
	f.do(request{method: "GET", path: "/v2/none/_regkeeper/tags/list", auth: auth}).wantCode(t, 404, "NAME_UNKNOWN")
	f.do(request{method: "GET", path: "/v2/app/_regkeeper/other/list", auth: auth}).want(t, 404)
	f.do(request{method: "GET", path: "/v2/_regkeeper/tags/list", auth: auth}).want(t, 404)
	pusher := f.login("pusher", "push", "*").basic()
	f.do(request{method: "GET", path: "/v2/app/_regkeeper/tags/list", auth: pusher}).wantCode(t, 403, "DENIED")
}

// A time that was lost is never made up too early, by which something would be
// old that is not.
func TestTimesAfterACrash(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	one, _ := f.pushImage(auth, "app", "v1", "one")
	kept := f.clock.Now()
	f.restart()
	history := filepath.Join(f.config.Dir, "app", ".history.json")
	before, err := os.ReadFile(history)
	if err != nil {
		t.Fatal(err)
	}
	_, other := f.pushImage(auth, "app", "", "other")
	f.age()
	f.putManifest(auth, "app", "lost", other).want(t, 201)
	f.restart()
	overwrite(t, history, string(before))
	index, err := os.Stat(filepath.Join(f.config.Dir, "app", "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	f.wantDated(auth, "tags/list",
		image.Tag{Name: "lost", Digest: digest.FromBytes(other), Pushed: index.ModTime().UTC()}, image.Tag{Name: "v1", Digest: digest.Digest(one), Pushed: kept})
	f.restart()
	// A repository that has no times gets those of its files; also one whose file
	// is damaged gets some.
	if err := os.Remove(history); err != nil {
		t.Fatal(err)
	}
	stored, err := os.Stat(f.blobFile("app", one))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := f.dated(auth, "tags/list"); len(got) != 2 || !got[1].Pushed.Equal(stored.ModTime()) {
		t.Errorf("tags are %v, want one of %s", got, stored.ModTime())
	}
	f.restart()
	overwrite(t, history, "{")
	if got, _ := f.dated(auth, "tags/list"); len(got) != 2 || got[0].Pushed.IsZero() || got[1].Pushed.IsZero() {
		t.Errorf("with a damaged file the tags are %v", got)
	}
}

func TestEvents(t *testing.T) {
	var told []builtin.Event
	f := start(t, func(c *builtin.Config) { c.Events = func(e builtin.Event) { told = append(told, e) } })
	ci := f.admin()
	auth := ci.basic()
	d, manifest := f.pushImage(auth, "app", "v1", "one")
	f.do(request{method: "PUT", path: "/v2/app/manifests/" + d + "?tag=a&tag=b", auth: auth,
		header: map[string]string{"Content-Type": manifestType}, body: manifest}).want(t, 201)
	f.putManifest(auth, "app", "v2", []byte("{}")).want(t, 400)
	f.do(request{method: "GET", path: "/v2/app/manifests/v1", auth: auth}).want(t, 200)
	f.do(request{method: "DELETE", path: "/v2/app/manifests/v1", auth: auth}).want(t, 202)
	f.do(request{method: "DELETE", path: "/v2/app/manifests/none", auth: auth}).want(t, 404)
	f.do(request{method: "DELETE", path: "/v2/app/manifests/" + d, auth: auth}).want(t, 202)
	var got []string
	ids := map[string]bool{}
	for _, e := range told {
		got = append(got, fmt.Sprintf("%s %s:%s@%s %d %s by %s", e.Action, e.Target.Repository, e.Target.Tag, e.Target.Digest, e.Target.Size, e.Request.Method, e.Actor.Name))
		ids[e.ID] = true
		if !e.Timestamp.Equal(f.clock.Now()) {
			t.Errorf("time is %s", e.Timestamp)
		}
	}
	size := len(manifest)
	want := []string{
		fmt.Sprintf("push app:v1@%s %d PUT by admin", d, size),
		fmt.Sprintf("push app:a@%s %d PUT by admin", d, size),
		fmt.Sprintf("push app:b@%s %d PUT by admin", d, size),
		"delete app:v1@ 0 DELETE by admin",
		"delete app:@" + d + " 0 DELETE by admin",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if len(ids) != len(told) {
		t.Errorf("%d events have %d ids", len(told), len(ids))
	}
	text, err := json.Marshal(builtin.Envelope{Events: told[:1]})
	if err != nil || !strings.Contains(string(text), `"target":{"mediaType":"`+manifestType+`","digest":"`+d) || strings.Contains(string(text), ci.secret.Reveal()) {
		t.Errorf("envelope is %s, %v", text, err)
	}
}
