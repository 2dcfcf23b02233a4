package builtin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/regkeeper/regkeeper/problem"
)

// immutableTags are the tags of some repositories that never move.
type immutableTags struct{ repository, tag string }

// parseImmutable reads the patterns of [Config.Immutable] and reports all
// faults together.
func parseImmutable(texts []string) ([]immutableTags, error) {
	var all []immutableTags
	var faults []error
	for _, text := range texts {
		one := immutableTags{repository: everything, tag: text}
		if repository, tag, ok := strings.Cut(text, ":"); ok {
			one = immutableTags{repository, tag}
		}
		_, err := path.Match(one.tag, "")
		if err != nil || one.tag == "" || strings.ContainsAny(one.tag, "/:") || checkRepositoryPattern(one.repository) != nil {
			faults = append(faults, problem.New(problem.Config, `write "v*" or "team/*:v*"`, "immutable tag pattern %q is not valid", text))
			continue
		}
		all = append(all, one)
	}
	return all, errors.Join(faults...)
}

// immutableIn returns the patterns for tags of a repository.
func (g *Registry) immutableIn(repository string) []string {
	var patterns []string
	for _, one := range g.immutable {
		if matchRepository(one.repository, repository) {
			patterns = append(patterns, one.tag)
		}
	}
	return patterns
}

func matchTag(patterns []string, tag string) bool {
	for _, pattern := range patterns {
		if ok, err := path.Match(pattern, tag); ok && err == nil {
			return true
		}
	}
	return false
}

// checkOverwrite refuses to move a tag that never moves. Pushing what is there
// already is allowed, so that a job can run again. The caller holds the
// repository's lock.
func (g *Registry) checkOverwrite(r *http.Request, to route, body []byte) error {
	patterns := g.immutableIn(to.repository)
	if len(patterns) == 0 {
		return nil
	}
	digest, names := newDigest(r, to, body)
	for _, tag := range names {
		if !matchTag(patterns, tag) || !tagForm.MatchString(tag) {
			continue
		}
		stored, err := g.manifest(r.Context(), to.repository, tag)
		switch {
		case errors.Is(err, errNoManifest):
		case err != nil:
			return err
		case stored.digest != digest:
			return immutableRefusal(fmt.Sprintf("tag %s of %s is immutable and stands for %s", tag, to.repository, stored.digest))
		}
	}
	return nil
}

// newDigest returns the digest that olareg would store a manifest under, and
// the tags it would give it: by the path, or by tag parameters beside a digest.
// That the digest is right is olareg's to check.
func newDigest(r *http.Request, to route, body []byte) (digest string, tags []string) {
	query := r.URL.Query()
	if digestForm.MatchString(to.reference) {
		return to.reference, query["tag"]
	}
	if digest := query.Get("digest"); digest != "" {
		return digest, []string{to.reference}
	}
	return sha256Digest(body), []string{to.reference}
}

// checkDelete refuses to delete a tag that never moves, and everything that
// such a tag is made of. The caller holds the repository's lock.
func (g *Registry) checkDelete(ctx context.Context, to route) error {
	patterns := g.immutableIn(to.repository)
	if len(patterns) == 0 {
		return nil
	}
	if to.endpoint == manifests && tagForm.MatchString(to.reference) {
		if !matchTag(patterns, to.reference) {
			return nil
		}
		_, err := g.manifest(ctx, to.repository, to.reference)
		if err != nil {
			return err
		}
		return immutableRefusal(fmt.Sprintf("tag %s of %s is immutable", to.reference, to.repository))
	}
	all, err := g.tagsOf(ctx, to.repository)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, tag := range all {
		if !matchTag(patterns, tag) {
			continue
		}
		if err := g.madeOf(ctx, to.repository, tag, seen); err != nil {
			return err
		}
		if seen[to.reference] {
			return immutableRefusal(fmt.Sprintf("%s belongs to tag %s of %s, which is immutable", to.reference, tag, to.repository))
		}
	}
	return nil
}

// madeOf adds the digests of all that a manifest is made of to seen. Children
// that were never pushed are made of nothing.
func (g *Registry) madeOf(ctx context.Context, repository, reference string, seen map[string]bool) error {
	stored, err := g.manifest(ctx, repository, reference)
	if errors.Is(err, errNoManifest) {
		return nil
	}
	if err != nil {
		return err
	}
	seen[stored.digest] = true
	seen[stored.Config.Digest] = true
	for _, layer := range stored.Layers {
		seen[layer.Digest] = true
	}
	for _, child := range stored.Manifests {
		if seen[child.Digest] || !digestForm.MatchString(child.Digest) {
			continue
		}
		seen[child.Digest] = true
		if err := g.madeOf(ctx, repository, child.Digest, seen); err != nil {
			return err
		}
	}
	return nil
}

func immutableRefusal(message string) error {
	return &refusal{status: http.StatusForbidden, code: codeDenied, message: message}
}
