// Package stock owns what a project's CI leaves in a repository over time:
// many images, each for two architectures, with attestations of provenance and
// signatures.
//
// It refuses short cuts: buildx builds and pushes the images, and cosign signs
// them.
package stock

import (
	"context"
	"fmt"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers/buildx"
	"github.com/regkeeper/regkeeper/e2e/peers/cosign"
)

// Plan says what a repository gets.
type Plan struct {
	// Repository is host/name.
	Repository string
	// Tags names the images, the oldest first; each is one image.
	Tags []string
	// Newest is when the last image was created, and Every how long after the
	// one before it. They have whole seconds.
	Newest time.Time
	Every  time.Duration
	// Sign adds bundles, SignLegacy signatures from before bundles.
	Sign, SignLegacy bool
}

// Image is an image that a registry has.
type Image struct {
	Tag     string
	Digest  string // of its index
	Ref     string // host/name@digest
	Created time.Time
}

// Numbered names n images after a prefix: prefix1, prefix2, ...
func Numbered(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%d", prefix, i+1)
	}
	return all
}

// Fill builds the images, pushes and signs them with the logins of one
// config.json. It returns them in the order of their tags. They are pushed in no
// order: what the registry itself says of their age tells nothing.
//
// An image takes 0.1 to 0.3 s, each of its signatures 0.2 to 0.4 s, which cosign
// spends on the password of its key.
func Fill(ctx context.Context, b *buildx.Builder, s *cosign.Signer, configJSONPath string, p Plan) ([]Image, error) {
	images := make([]Image, len(p.Tags))
	builds := make([]buildx.Image, len(p.Tags))
	for i, tag := range p.Tags {
		created := p.Newest.Add(-time.Duration(len(p.Tags)-1-i) * p.Every).UTC()
		images[i] = Image{Tag: tag, Created: created}
		builds[i] = buildx.Image{Ref: p.Repository + ":" + tag, Content: p.Repository + ":" + tag, Created: created}
	}
	digests, err := b.Push(ctx, configJSONPath, builds...)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", p.Repository, err)
	}
	refs := make([]string, len(images))
	for i, digest := range digests {
		refs[i] = p.Repository + "@" + digest
		images[i].Digest, images[i].Ref = digest, refs[i]
	}
	if p.Sign {
		if err := s.Sign(ctx, configJSONPath, refs...); err != nil {
			return nil, fmt.Errorf("sign %s: %w", p.Repository, err)
		}
	}
	if p.SignLegacy {
		if err := s.SignLegacy(ctx, configJSONPath, refs...); err != nil {
			return nil, fmt.Errorf("sign %s: %w", p.Repository, err)
		}
	}
	return images, nil
}
