package peer_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/plan/peer"
)

const day = 24 * time.Hour

// noon is when everything is decided.
var noon = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

var here = image.Repository{Host: "registry.example.com", Path: "team/api"}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func parse(t *testing.T, kind peer.Kind, text string) peer.Policy {
	t.Helper()
	p, err := peer.Parse(kind, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func d(name string) digest.Digest { return digest.FromString(name) }

// shop is a repository in the making. What is in it is named, and the digests are
// those of the names.
type shop struct {
	*image.Inventory
	facts plan.Facts
	names map[digest.Digest]string
}

func newShop() *shop {
	return &shop{image.NewInventory(here), plan.Facts{Now: noon}, map[digest.Digest]string{}}
}

func (s *shop) add(name string, children ...string) *image.Manifest {
	m := &image.Manifest{Digest: d(name), MediaType: ocispec.MediaTypeImageManifest, Size: 100, Layers: []image.Blob{{Digest: d(name + " layer"), Size: 1000}}}
	if len(children) > 0 {
		m.MediaType, m.Layers = ocispec.MediaTypeImageIndex, nil
	}
	for _, c := range children {
		child := image.Child{Digest: d(c), Platform: "linux/amd64"}
		if strings.HasSuffix(c, " provenance") {
			child.Platform, child.Attests = "", d(strings.TrimSuffix(c, " provenance"))
		}
		m.Children = append(m.Children, child)
	}
	s.Manifests.Put(m)
	s.names[m.Digest] = name
	return m
}

// change has a manifest be another.
func (s *shop) change(name string, how func(m *image.Manifest)) {
	m := s.Manifests.Get(d(name))
	how(m)
	s.Manifests.Put(m)
}

// tag writes tags of a manifest, so long ago.
func (s *shop) tag(name string, ago time.Duration, tags ...string) {
	for _, tag := range tags {
		s.Tags[tag] = image.Tag{Name: tag, Digest: d(name), Pushed: noon.Add(-ago)}
	}
}

func (s *shop) pulled(ago time.Duration, tag string) {
	t := s.Tags[tag]
	t.Pulled = noon.Add(-ago)
	s.Tags[tag] = t
}

func (s *shop) untagged(name string, ago time.Duration) {
	s.Untagged[d(name)] = image.Tag{Digest: d(name), Pushed: noon.Add(-ago)}
}

// image adds an image of one platform, called as its first tag.
func (s *shop) image(ago time.Duration, tags ...string) {
	s.add(tags[0])
	s.tag(tags[0], ago, tags...)
}

// buildx adds what `docker buildx build --push` makes of one platform: an index of
// an image and of its attestation, which are pushed before it.
func (s *shop) buildx(ago time.Duration, tags ...string) {
	name := tags[0]
	amd := name + " amd64"
	s.add(amd)
	s.add(amd + " provenance")
	s.untagged(amd, ago)
	s.untagged(amd+" provenance", ago)
	s.add(name, amd, amd+" provenance")
	s.tag(name, ago, tags...)
}

// cosign signs as cosign does by default, a second after the push.
func (s *shop) cosign(name string, ago time.Duration) {
	sig := name + " signature"
	s.add(sig)
	s.tag(sig, ago-time.Second, sigTag(name))
	s.names[d(sig)] = sig
}

func sigTag(name string) string { return image.ReferrersTag(d(name)) + ".sig" }

// refers adds an artifact with a subject.
func (s *shop) refers(name, subject string, ago time.Duration) {
	s.add(name)
	s.change(name, func(m *image.Manifest) { m.Subject = d(subject) })
	s.untagged(name, ago)
}

func (s *shop) use(text, where string) {
	s.facts.Uses = append(s.facts.Uses, image.Use{Reference: must(image.ParseReference(here.String() + text)), Where: where})
}

// called are entries by their names.
func (s *shop) called(entries []peer.Entry) []string {
	list := []string{}
	for _, e := range entries {
		switch _, attached := image.Attached(e.Tag); {
		case e.Tag == "", attached:
			list = append(list, s.names[e.Digest])
		default:
			list = append(list, e.Tag)
		}
	}
	slices.Sort(list)
	return list
}

// lines are the differences, with names in place of digests.
func (s *shop) lines(diff peer.Difference) []string {
	var pairs []string
	for _, of := range slices.Sorted(maps.Keys(s.names)) {
		pairs = append(pairs, image.Short(of), s.names[of])
	}
	replacer := strings.NewReplacer(pairs...)
	lines := []string{}
	for _, i := range diff.Images {
		lines = append(lines, replacer.Replace(i.String()))
	}
	for _, b := range diff.Breaks {
		lines = append(lines, "! "+replacer.Replace(b.String()))
	}
	return lines
}

// judge compares a policy with the plan of its rules and of others.
func (s *shop) judge(p peer.Policy, more ...plan.Rule) (peer.Outcome, *plan.Plan, peer.Difference) {
	rules, _ := p.Rules(here)
	rules.Rules = append(rules.Rules, more...)
	o, made := p.Outcome(s.Inventory, s.facts), plan.Decide(rules, s.Inventory, s.facts)
	return o, made, peer.Compare(s.Inventory, s.facts, o, made)
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func version(n int) string { return fmt.Sprintf("v1.%d", n) }
