package lifecycle_test

import (
	"context"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/oci"
)

// between answers some requests in place of the registry, as what stands before
// one may.
type between struct {
	http.RoundTripper
	method, suffix string
	body           string // without one, the answer is that of a route nobody knows
	on             bool
}

func (b *between) RoundTrip(r *http.Request) (*http.Response, error) {
	if !b.on || r.Method != b.method || !strings.HasSuffix(r.URL.Path, b.suffix) {
		return b.RoundTripper.RoundTrip(r)
	}
	kind := "text/plain; charset=utf-8"
	if b.body != "" {
		kind = "application/json"
	}
	return &http.Response{
		StatusCode: http.StatusNotFound, Status: "404 Not Found", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(b.body)), ContentLength: -1, Request: r,
	}, nil
}

func newKitBetween(t *testing.T, b *between) *kit {
	t.Helper()
	fake := fakeregistry.New(fakeregistry.Config{NoReferrers: true})
	b.RoundTripper = fake
	return &kit{T: t, fake: fake, Registry: oci.New(oci.Config{Host: host, Transport: b})}
}

// lists is a registry that tells of manifests without a tag, as Gitea does of the
// platforms of indexes.
type lists struct {
	*oci.Registry
	rows []image.Tag
}

func (l lists) Untagged(context.Context, string) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		for _, row := range l.rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}

// children lists what no tag leads to, pushed at a time.
func (k *kit) children(path string, at time.Time) lists {
	k.Helper()
	l := lists{Registry: k.Registry}
	v := k.inventory(path)
	graph := v.Graph()
	for d := range v.Manifests.Digests() {
		if len(graph.Tags(d)) == 0 {
			l.rows = append(l.rows, image.Tag{Digest: d, Pushed: at})
		}
	}
	return l
}

func prune(t *testing.T, registry lifecycle.Registry, limits lifecycle.Limits, rules ...plan.Rule) (lifecycle.Pruned, error) {
	t.Helper()
	v, err := lifecycle.Read(t.Context(), registry, repository("app"), lifecycle.Reading{Dates: true})
	if err != nil {
		t.Fatal(err)
	}
	p := plan.Decide(plan.Policy{Rules: rules, Grace: 24 * time.Hour}, v, plan.Facts{Now: epoch.Add(24 * time.Hour)})
	return lifecycle.Apply(t.Context(), registry, p, lifecycle.Pruning{Limits: limits})
}

const ages = 90 * 24 * time.Hour

// A proxy that knows a path for lists and none for a tag says 404 for it: that is
// not the registry's word, and neither the tag nor its platforms go.
func TestProxyIsNotTheRegistry(t *testing.T) {
	t.Parallel()
	b := &between{method: http.MethodHead, suffix: "/manifests/prod"}
	k := newKitBetween(t, b)
	k.index("app", "prod", "one", epoch.Add(-ages))
	k.builds("app", 3)
	l := k.children("app", epoch.Add(-ages))
	b.on = true
	if result, err := prune(t, l, all, plan.Rule{Last: 1}); err != nil || result.Deleted > 0 {
		t.Errorf("%d deletions, %v", result.Deleted, err)
	}
	b.on = false
	k.whole("app", "prod")
}

// An index that the registry lost for a moment needs platforms that nobody knows.
func TestMissingIndexKeepsWhatItMayNeed(t *testing.T) {
	t.Parallel()
	b := &between{method: http.MethodGet, body: `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`}
	k := newKitBetween(t, b)
	b.suffix = k.index("app", "prod", "one", epoch.Add(-ages)).Digest.String()
	k.index("app", "b1", "two", epoch)
	l := k.children("app", epoch.Add(-ages))
	b.on = true
	if _, err := prune(t, l, all, plan.Rule{Last: 30}); err != nil {
		t.Fatal(err)
	}
	b.on = false
	k.whole("app", "prod")
}

func TestLimitsCountImagesWithoutATag(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.index("app", "stays", "one", epoch)
	l := lists{Registry: k.Registry}
	for i := range 10 {
		d := k.index("app", "", strings.Repeat("x", i+1), epoch.Add(-ages))
		l.rows = append(l.rows, image.Tag{Digest: d.Digest, Pushed: epoch.Add(-ages)})
	}
	if _, err := prune(t, l, lifecycle.Limits{Images: 9, Share: 1}, plan.Rule{Last: 30}); problem.KindOf(err) != problem.Refused {
		t.Errorf("10 images without a tag, of which 9 may go: %v", err)
	}
	if got := k.fake.Count("DELETE"); got > 0 {
		t.Errorf("%d deletions", got)
	}
}

// A plan from a file is held to what it says of itself.
func TestPlanThatIsNotWhatItSays(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*plan.Plan){
		"kept, and deleted": func(p *plan.Plan) {
			for i := range p.Images {
				p.Images[i].Keep = true
			}
		},
		"deleted, and not judged": func(p *plan.Plan) { p.Images = p.Images[:1] },
		"a day old":               func(p *plan.Plan) { p.Made = time.Now().Add(-25 * time.Hour) },
		"not read":                func(p *plan.Plan) { p.Unread = []image.Unread{{What: "tag b0", Why: "down"}} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, fakeregistry.Config{NoReferrers: true})
			k.builds("app", 4)
			p := k.decide("app", plan.Rule{Last: 1})
			edit(p)
			if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all}); err == nil {
				t.Error("it was carried out")
			}
			if got := k.fake.Count("DELETE"); got > 0 {
				t.Errorf("%d deletions", got)
			}
		})
	}
}

// What came into use since the plan was made stays, with what belongs to it; and
// if that cannot be asked, nothing goes.
func TestPruneAsksAgainWhatIsInUse(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.builds("app", 4)
	b1 := k.inventory("app").Tags["b1"].Digest
	p := k.decide("app", plan.Rule{Last: 1})
	down := func(context.Context) ([]image.Use, []string) {
		return nil, []string{"context prod: connection refused"}
	}
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all, Uses: down}); problem.KindOf(err) != problem.Unreachable {
		t.Errorf("the cluster does not answer: %v", err)
	}
	uses := func(context.Context) ([]image.Use, []string) {
		return []image.Use{{Reference: image.Reference{Repository: repository("app"), Tag: "b1"}, Where: "Deployment web/api"}}, nil
	}
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all, Uses: uses}); err != nil {
		t.Fatal(err)
	}
	k.whole("app", "b1")
	k.whole("app", image.ReferrersTag(b1)+".sig")
	k.gone("app", "b0")
	k.gone("app", "b2")
}

// A registry and its mirrors have several names: what runs under another one is in
// use.
func TestUseUnderAnotherName(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.builds("app", 3)
	b0 := k.inventory("app").Tags["b0"].Digest
	for _, text := range []string{
		host + ":443/app:b0", "mirror.example.com/app:b0", "mirror.example.com/copies/app@" + b0.String(), "registry.svc.cluster.local:5000/app@" + b0.String(),
	} {
		ref, err := image.ParseReference(text)
		if err != nil {
			t.Fatal(err)
		}
		p := k.decideWith("app", plan.Facts{Uses: []image.Use{{Reference: ref, Where: "Pod web/api"}}}, plan.Rule{Deployed: true})
		for _, v := range p.Images {
			if slices.Contains(v.Tags, "b0") && !v.Keep {
				t.Errorf("a pod runs %s, and b0 goes", text)
			}
		}
	}
}

type wrongType struct {
	*oci.Registry
	wrong bool
}

func (w *wrongType) Manifest(ctx context.Context, path string, d digest.Digest) (string, []byte, error) {
	mediaType, raw, err := w.Registry.Manifest(ctx, path, d)
	if w.wrong {
		mediaType = "text/plain"
	}
	return mediaType, raw, err
}

// No digest vouches for a media type: a wrong one is not remembered.
func TestCacheForgetsAWrongType(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.put("app", "x", "application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "layers": []any{},
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": k.blob("app", "", "{}").Digest, "size": 2},
	})
	cache, err := imagecache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []bool{true, false} {
		v, err := lifecycle.Read(t.Context(), &wrongType{k.Registry, wrong}, repository("app"), lifecycle.Reading{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if unread := len(v.Unread) > 0; unread != wrong {
			t.Errorf("wrong type %v: not read is %v", wrong, v.Unread)
		}
	}
}

// Gitea tells of pushes to the second, and of platforms by themselves: of two
// images of one second, the later built is the newer.
func TestImagesOfOneSecond(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.builds("app", 6)
	v, err := lifecycle.Read(t.Context(), pushedAtOnce{k.children("app", epoch)}, repository("app"), lifecycle.Reading{Dates: true})
	if err != nil {
		t.Fatal(err)
	}
	p := plan.Decide(plan.Policy{Rules: []plan.Rule{{Last: 2}}}, v, plan.Facts{Now: epoch.Add(time.Hour)})
	for _, verdict := range p.Images {
		if stays := slices.Contains(verdict.Tags, "b4") || slices.Contains(verdict.Tags, "b5"); verdict.Keep != stays {
			t.Errorf("%v stays %v: %v", verdict.Tags, verdict.Keep, verdict.Reasons)
		}
	}
}

// pushedAtOnce tells one time for all.
type pushedAtOnce struct{ lists }

func (p pushedAtOnce) Tags(ctx context.Context, repository string) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		for tag, err := range p.lists.Tags(ctx, repository) {
			tag.Pushed = epoch
			if !yield(tag, err) {
				return
			}
		}
	}
}
