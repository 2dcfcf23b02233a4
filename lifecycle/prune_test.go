package lifecycle_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/problem"
)

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

var all = lifecycle.Limits{Images: 1 << 20, Share: 1}

func (k *kit) decide(path string, rules ...plan.Rule) *plan.Plan {
	k.Helper()
	return k.decideWith(path, plan.Facts{}, rules...)
}

func (k *kit) decideWith(path string, facts plan.Facts, rules ...plan.Rule) *plan.Plan {
	k.Helper()
	facts.Now = epoch.Add(24 * time.Hour)
	return plan.Decide(plan.Policy{Rules: rules}, k.inventory(path), facts)
}

// builds pushes signed images, the oldest first, tagged b0, b1 ...
func (k *kit) builds(path string, n int) {
	k.Helper()
	for i := range n {
		built := k.index(path, fmt.Sprint("b", i), fmt.Sprint(i), epoch.Add(time.Duration(i)*time.Minute))
		k.sign(path, built)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]fakeregistry.Config{
		"referrers": {}, "no referrers API": {NoReferrers: true}, "no tag delete": {NoTagDelete: true, NoReferrers: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, config)
			k.builds("app", 6)
			p := k.decide("app", plan.Rule{Last: 2})
			if got := p.Gone(); got != 4 {
				t.Fatalf("%d images go, want 4", got)
			}
			before := k.inventory("app")
			result, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all})
			if err != nil || len(result.Failed)+len(result.Skipped) > 0 {
				t.Fatalf("%+v %v", result, err)
			}
			v := k.inventory("app")
			var tags []string
			for _, i := range v.Images() {
				tags = append(tags, i.Tags...)
			}
			if got := sorted(tags); !slices.Equal(got, []string{"b4", "b5"}) {
				t.Errorf("left are %v", got)
			}
			for _, tag := range []string{"b4", "b5"} {
				k.whole("app", tag)
				k.whole("app", image.ReferrersTag(v.Tags[tag].Digest)+".sig")
			}
			for d := range before.Manifests.Digests() {
				if !v.Manifests.Has(d) {
					k.gone("app", d.String())
				}
			}
			if again := k.decide("app", plan.Rule{Last: 2}); len(again.Steps) > 0 {
				t.Errorf("pruned again, there is %v to do", again.Steps)
			}
		})
	}
}

// Between the plan and its steps the world goes on.
func TestPruneLooksAgain(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.builds("app", 4)
	b0, b1 := k.inventory("app").Tags["b0"].Digest, k.inventory("app").Tags["b1"].Digest
	p := k.decide("app", plan.Rule{Last: 1})

	k.index("app", "b0", "rebuilt", epoch.Add(time.Hour)) // b0 moved
	mediaType, raw, err := k.Manifest(t.Context(), "app", b1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.WriteManifest(t.Context(), "app", "release", mediaType, raw); err != nil { // b1 has one more tag
		t.Fatal(err)
	}
	result, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all})
	if err != nil || len(result.Failed) > 0 {
		t.Fatalf("%+v %v", result, err)
	}
	for _, tag := range []string{"b0", "b3", "release", image.ReferrersTag(b1) + ".sig"} {
		k.whole("app", tag)
	}
	k.gone("app", "b2")
	k.gone("app", b0.String())
	if len(result.Skipped) == 0 {
		t.Error("nothing was told of as left")
	}
}

// Killed at any deletion, what stays is whole, and the next run ends the work.
func TestPruneKilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, noTags := range []bool{false, true} {
		for at := int64(1); ; at++ {
			if done := killedAt(t, at, noTags); done {
				t.Logf("no tag delete %v: %d deletions, killed at each", noTags, at-1)
				break
			}
			if t.Failed() {
				t.Fatalf("killed at deletion %d", at)
			}
		}
	}
}

func killedAt(t *testing.T, at int64, noTags bool) (done bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var deletions atomic.Int64
	k := newKit(t, fakeregistry.Config{NoReferrers: true, NoTagDelete: noTags, Before: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete && deletions.Add(1) == at {
			cancel()
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	}})
	k.builds("app", 4)
	ledger := lifecycle.FileLedger{Folder: t.TempDir()}
	stays := []string{"b2", "b3"}
	for _, tag := range stays {
		stays = append(stays, image.ReferrersTag(k.inventory("app").Tags[tag].Digest)+".sig")
	}
	rule := plan.Rule{Last: 2}
	result, err := lifecycle.Apply(ctx, k.Registry, k.decide("app", rule), lifecycle.Pruning{Limits: all, Ledger: ledger})
	done = deletions.Load() < at
	if (err == nil && len(result.Failed) == 0) != done {
		t.Fatalf("killed at %d of %d: %v", at, deletions.Load(), err)
	}
	for _, tag := range stays {
		k.whole("app", tag)
	}
	// Another process goes on.
	deleted, err := ledger.Deleted(t.Context(), repository("app"))
	if err != nil {
		t.Fatal(err)
	}
	p := k.decideWith("app", plan.Facts{Deleted: deleted}, rule)
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all, Ledger: ledger}); err != nil {
		t.Fatal(err)
	}
	v := k.inventory("app")
	if got := slices.Sorted(maps.Keys(v.Tags)); !slices.Equal(got, sorted(stays)) {
		t.Errorf("killed at deletion %d, in the end there are %v, want %v", at, got, sorted(stays))
	}
	for _, tag := range stays {
		k.whole("app", tag)
	}
	return done
}

func TestLimits(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.builds("app", 4)
	p := k.decide("app", plan.Rule{Last: 1})
	for _, test := range []struct {
		limits lifecycle.Limits
		hint   string
	}{
		{lifecycle.Limits{Images: 2, Share: 1}, "--max-deletes 3"},
		{lifecycle.Limits{Images: 3, Share: 0.5}, "--max-share 75"},
		{lifecycle.Limits{}, "--max-deletes 3"},
	} {
		_, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: test.limits})
		if problem.KindOf(err) != problem.Refused || !strings.Contains(problem.HintOf(err), test.hint) {
			t.Errorf("%+v: %v (%s)", test.limits, err, problem.HintOf(err))
		}
	}
	if got := k.fake.Count("DELETE"); got != 0 {
		t.Errorf("%d deletions were sent", got)
	}
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: lifecycle.Limits{Images: 3, Share: 0.75}}); err != nil {
		t.Error(err)
	}
}

// What cannot be read just before deleting stops all deleting.
func TestPruneFailsClosed(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	k := newKit(t, fakeregistry.Config{NoReferrers: true, Before: func(w http.ResponseWriter, r *http.Request) bool {
		if broken.Load() && r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "/manifests/b3") {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}})
	k.builds("app", 4)
	p := k.decide("app", plan.Rule{Last: 1})
	broken.Store(true)
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all}); problem.KindOf(err) != problem.Unreachable {
		t.Errorf("the error is %v", err)
	}
	if got := k.fake.Count("DELETE"); got != 0 {
		t.Errorf("%d deletions were sent", got)
	}
}

func TestDeletingIsForbidden(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true, NoDelete: true})
	k.builds("app", 4)
	p := k.decide("app", plan.Rule{Last: 1})
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all}); err == nil {
		t.Error("no error")
	}
	for n := range 4 {
		k.whole("app", fmt.Sprint("b", n))
	}
}

// A pod may run an image whose tag was moved. Registries that list no manifests
// without a tag are asked for it by its digest, and what it shares stays.
func TestPruneKeepsWhatRunsByDigest(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	runs := k.index("app", "b0", "one", epoch)
	mediaType, raw, err := k.Manifest(t.Context(), "app", runs.Digest)
	if err != nil {
		t.Fatal(err)
	}
	k.index("app", "b0", "two", epoch.Add(time.Hour)) // the tag moves
	// Another index of the same platforms goes.
	var other ocispec.Index
	if err := json.Unmarshal(raw, &other); err != nil {
		t.Fatal(err)
	}
	other.Annotations = map[string]string{"of": "another"}
	k.put("app", "old", mediaType, other)
	k.index("app", "newest", "three", epoch.Add(2*time.Hour))
	uses := []image.Use{{Reference: image.Reference{Repository: repository("app"), Digest: runs.Digest}, Where: "Pod web/api"}}
	inventory, err := lifecycle.Read(t.Context(), k.Registry, repository("app"), lifecycle.Reading{Dates: true, Also: []digest.Digest{runs.Digest, digest.FromString("elsewhere")}})
	if err != nil {
		t.Fatal(err)
	}
	p := plan.Decide(plan.Policy{Rules: []plan.Rule{{Last: 1}, {Deployed: true}}}, inventory, plan.Facts{Now: epoch.Add(24 * time.Hour), Uses: uses})
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all}); err != nil {
		t.Fatal(err)
	}
	k.whole("app", runs.Digest.String())
	k.gone("app", "old")
}
