package e2e_test

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers/buildx"
	"github.com/regkeeper/regkeeper/e2e/peers/cosign"
	"github.com/regkeeper/regkeeper/e2e/peers/distribution"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/lifecycle"
)

// beside is a regkeeper that has several registries in its configuration.
func beside(t *testing.T, yards ...*yard) *product {
	t.Helper()
	var pairs, env []string
	for _, y := range yards {
		pairs = append(pairs, y.host(), y.source)
		env = append(env, y.env...)
	}
	return newProduct(t, registriesText("", pairs...), env...)
}

// copied is the shelf, elsewhere.
func (s *shelf) copied(p place) *shelf { return &shelf{place: p, tags: s.tags, signed: s.signed} }

// TestCopyWithAllThatBelongsToIt copies images from Gitea to the others at once,
// from each of these on to another, and back to Gitea.
func TestCopyWithAllThatBelongsToIt(t *testing.T) {
	t.Parallel()
	builder, with := buildx.Start(t), newTools(t)
	git, debian := giteaYard(t), distributionYard(t, distribution.Options{DeleteEnabled: true})
	v3, embedded := distributionYard(t, distribution.Options{V3: true}), embeddedYard(t)
	keeper := beside(t, git, debian, v3, embedded)

	s := newShelf(git.place)
	both := s.push(t, builder, buildx.Image{}, "both", "latest")
	old := s.push(t, builder, buildx.Image{}, "old")
	bare := s.push(t, builder, buildx.Image{Bare: true, Platforms: []string{"linux/arm64"}}, "bare")
	arm := s.child(t, both, "linux/arm64")
	s.sign(t, with.signer, bundle, both, bare, arm)
	s.sign(t, with.signer, legacy, both, old, arm)
	s.sign(t, with.signer, attested, both)
	s.sign(t, with.signer, attestedLegacy, old)

	// brings copies every image to places, and then wants nothing sent again.
	brings := func(from place, to ...place) {
		t.Helper()
		for _, tag := range []string{"both", "old", "bare"} {
			args := []string{"image", "copy", "-o", "json", from.repository + ":" + tag}
			for _, p := range to {
				args = append(args, p.repository)
			}
			for again := range 2 {
				for i, done := range decode[[]lifecycle.Copied](t, keeper.must(args...)) {
					if done.Digest.String() != s.tags[tag] {
						t.Errorf("%s is %s at %s, want %s", tag, done.Digest, done.To, s.tags[tag])
					}
					if sent := done.Blobs + done.Mounted + done.Manifests; (sent == 0) != (again == 1) {
						t.Errorf("%s to %s, time %d: %+v", tag, to[i].repository, again+1, done)
					}
				}
			}
		}
		for _, p := range to {
			there := s.copied(p)
			there.whole(t, with, "both", "old", "bare")
			for _, f := range s.signed[arm] {
				if err := p.verify(t, with.signer, f, arm); err != nil {
					t.Errorf("%s of a platform at %s: %v", forms[f], p.repository, err)
				}
			}
			if got := p.list(t); slices.Contains(got, "latest") {
				t.Errorf("%s has a tag that was not copied: %v", p.repository, got)
			}
		}
	}
	for _, y := range []*yard{debian, v3, embedded} {
		if err := y.verify(t, with.signer, bundle, both); err == nil {
			t.Fatalf("%s verifies before it was copied", y.repository)
		}
	}
	brings(git.place, debian.place, v3.place, embedded.place)
	brings(debian.place, embedded.repo("from-debian"), git.repo("from-debian"))
	brings(v3.place, debian.repo("from-3"))
	brings(embedded.place, git.repo("from-embedded"), debian.repo("from-embedded"))

	// What was signed there and what was signed here since come together.
	here, there := cosign.New(t), cosign.New(t)
	git.sign(t, here, bundle, both)
	debian.sign(t, there, bundle, both)
	keeper.must("image", "copy", git.repository+":both", debian.repository)
	for _, signer := range []*cosign.Signer{with.signer, here, there} {
		if err := debian.verify(t, signer, bundle, both); err != nil {
			t.Errorf("after a copy to where others signed: %v", err)
		}
	}

	// A tag is not moved unless told to.
	got := keeper.run("image", "copy", git.repository+":old", debian.repository+":both")
	if got.code == 0 || debian.leads(t, "both") != both {
		t.Errorf("a copy moved a tag: exit code %d, %s", got.code, got.err)
	}
	keeper.must("image", "copy", "--force", git.repository+":old", debian.repository+":both")
	if debian.leads(t, "both") != old {
		t.Error("a copy by force did not move the tag")
	}

	// Of some platforms.
	part := decode[[]lifecycle.Copied](t, keeper.must("image", "copy", "-o", "json", "--platform", "linux/arm64", git.repository+":both", debian.repo("part").repository))
	with.alone(t, debian.repo("part"), "both", part[0].Digest.String(), "linux/arm64")
}

// alone wants an image to have one platform, with what is attested of it.
func (with tools) alone(t *testing.T, p place, tag, digest, platform string) {
	t.Helper()
	p.pulls(t, with, p.repository+":"+tag, digest)
	if got := p.platforms(t, digest); !slices.Equal(got, []string{platform, "unknown/unknown"}) {
		t.Errorf("the platforms are %v", got)
	}
}

// cutOff is how often a copy is killed, at least.
const cutOff = 12

// TestCopyKilled kills copies at random moments. A tag that is there leads to an
// image with everything.
func TestCopyKilled(t *testing.T) {
	t.Parallel()
	with := newTools(t)
	from := distributionYard(t, distribution.Options{})
	s := newShelf(from.place)
	large := make([]byte, 6<<20)
	_, _ = crand.Read(large)
	digest := s.push(t, buildx.Start(t), buildx.Image{Content: hex.EncodeToString(large)}, "v1")
	s.sign(t, with.signer, bundle, digest)
	s.sign(t, with.signer, legacy, digest)
	for _, kind := range []string{"embedded", "gitea", "distribution 2", "distribution 3"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			to := yards[kind](t)
			keeper := beside(t, from, to)
			began := time.Now()
			keeper.must("image", "copy", from.repository+":v1", to.repo("first").repository)
			usual := time.Since(began)
			killed, tagged := 0, 0
			for round := 0; killed < cutOff; round++ {
				if round > 10*cutOff {
					t.Fatalf("of %d copies %d were killed", round, killed)
				}
				there := s.copied(to.repo(fmt.Sprintf("app%d", round/4)))
				cmd := keeper.command("image", "copy", from.repository+":v1", there.repository)
				if !killedWithin(t, cmd, rand.N(usual)) {
					continue
				}
				killed++
				if there.leads(t, "v1") != "" {
					tagged++
					there.whole(t, with, "v1")
				}
			}
			for round := 0; ; round++ {
				there := s.copied(to.repo(fmt.Sprintf("app%d", round)))
				if len(there.list(t)) == 0 && round > 0 {
					break
				}
				keeper.must("image", "copy", from.repository+":v1", there.repository)
				there.whole(t, with, "v1")
			}
			t.Logf("a copy takes %v; killed %d, of which %d had a tag", usual.Round(time.Millisecond), killed, tagged)
		})
	}
}

// killedWithin runs a command that is to succeed, and says whether it was killed
// before it ended.
func killedWithin(t *testing.T, cmd *exec.Cmd, after time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTime+after)
	defer cancel()
	_, err := process.Output(ctx, cmd)
	if err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	return err != nil
}
