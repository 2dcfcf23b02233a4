package lifecycle_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
)

func (k *kit) mirror(to *kit, path string, fixed func(string) bool, rules ...plan.Rule) *lifecycle.MirrorPlan {
	k.Helper()
	source := k.inventory("app")
	there, err := lifecycle.ReadTags(k.Context(), to.Registry, repository(path))
	if err != nil {
		k.Fatal(err)
	}
	wanted := plan.Decide(plan.Policy{Rules: rules}, source, plan.Facts{Now: epoch.Add(24 * time.Hour)})
	return lifecycle.DecideMirror(wanted, source, repository(path), there, fixed)
}

func (k *kit) carry(p *lifecycle.MirrorPlan, to *kit) error {
	k.Helper()
	return lifecycle.NewCopier(lifecycle.Copying{}).Mirror(k.Context(), p, k.Registry, k.inventory("app"), to.place(p.To.Path, ""), nil)
}

func deeds(p *lifecycle.MirrorPlan) []string {
	var list []string
	for _, s := range p.Steps {
		list = append(list, s.Tag+" "+string(s.Deed))
	}
	return list
}

func TestMirror(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{NoReferrers: true}), newKit(t, fakeregistry.Config{NoReferrers: true})
	from.builds("app", 4)
	to.index("copies/app", "b3", "another", epoch)
	to.index("copies/app", "b2", "another", epoch)
	fixed := func(tag string) bool { return tag == "b2" }
	rule := plan.Rule{Last: 3}

	p := from.mirror(to, "copies/app", fixed, rule)
	if diff := cmp.Diff([]string{"b1 copy", "b2 leave", "b3 move"}, deeds(p)); diff != "" {
		t.Errorf("deeds (-want +got):\n%s", diff)
	}
	if err := from.carry(p, to); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"b1", "b3"} {
		to.whole("copies/app", tag)
		to.whole("copies/app", image.ReferrersTag(from.inventory("app").Tags[tag].Digest)+".sig")
	}
	to.gone("copies/app", "b0")

	// All is there: nothing is written, and a tag costs one request.
	to.fake.Requests()
	p = from.mirror(to, "copies/app", fixed, rule)
	if diff := cmp.Diff([]string{"b1 keep", "b2 leave", "b3 keep"}, deeds(p)); diff != "" {
		t.Errorf("deeds when all is there (-want +got):\n%s", diff)
	}
	if err := from.carry(p, to); err != nil {
		t.Fatal(err)
	}
	for _, request := range to.fake.Requests() {
		if !strings.HasPrefix(request, "HEAD") && !strings.HasPrefix(request, "GET") {
			t.Errorf("a write: %s", request)
		}
	}

	// A signature that came later is brought.
	signed := from.inventory("app").Tags["b1"].Digest
	from.artifact("app", image.ReferrersTag(signed)+".att", "attestation", nil)
	p = from.mirror(to, "copies/app", fixed, rule)
	if diff := cmp.Diff([]string{"b1 copy", "b2 leave", "b3 keep"}, deeds(p)); diff != "" {
		t.Errorf("deeds after a signature (-want +got):\n%s", diff)
	}
	if err := from.carry(p, to); err != nil {
		t.Fatal(err)
	}
	to.whole("copies/app", image.ReferrersTag(signed)+".att")
}

// What fails keeps nothing else from being copied, and is brought by the next run.
func TestMirrorGoesOn(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	from := newKit(t, fakeregistry.Config{NoReferrers: true})
	to := newKit(t, fakeregistry.Config{NoReferrers: true, Before: func(w http.ResponseWriter, r *http.Request) bool {
		if down.Load() && r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/b1") {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}})
	from.builds("app", 3)
	down.Store(true)
	err := from.carry(from.mirror(to, "app", nil, plan.Rule{Last: 10}), to)
	if err == nil || errors.Is(err, image.ErrMoved) {
		t.Errorf("the error is %v", err)
	}
	down.Store(false)
	p := from.mirror(to, "app", nil, plan.Rule{Last: 10})
	if got := p.Changes(); got != 1 {
		t.Errorf("%d images are left to copy, want 1: %v", got, deeds(p))
	}
	if err := from.carry(p, to); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		to.whole("app", fmt.Sprint("b", n))
	}
}
