package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

const (
	// listPage is how many names one page has. More is refused by some
	// registries.
	listPage = 1000
	// listLimit bounds one page, in bytes: some registries send all there is.
	listLimit = 64 << 20
)

// Tags lists the tags by the registry's paging (OCI distribution specification,
// "Listing Tags"). One page is held at a time, and the names that were listed,
// since not every registry lists in an order. See [image.Reader].
func (r *Registry) Tags(ctx context.Context, path string) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		repo, err := r.in(path, transport.PullScope)
		if err != nil {
			yield(image.Tag{}, err)
			return
		}
		for name, err := range repo.names(ctx, repo.path+"/tags/list", "tags") {
			if !yield(image.Tag{Name: name}, r.explain(err, "list the tags of %s", repo.title())) {
				return
			}
		}
	}
}

// Repositories lists the repositories by the registry's catalog (distribution's
// API specification, "Catalog"), which many registries have not. See
// [image.Reader].
func (r *Registry) Repositories(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		session := r.session("registry:catalog:*")
		for name, err := range session.names(ctx, "_catalog", "repositories") {
			if a, ok := answered(err); ok && a.status() == http.StatusNotFound {
				err = fmt.Errorf("%w: %w", image.ErrUnsupported, err)
			}
			if !yield(name, r.explain(err, "list the repositories of %s", r.config.Host)) {
				return
			}
		}
	}
}

// names lists what the pages of a list name, each name once. It ends with an
// error where pages come again and again, and what they leave out is not known.
func (s *session) names(ctx context.Context, path, key string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		seen := map[string]bool{}
		paged := url.Values{"n": {fmt.Sprint(listPage)}}
		next := &ask{method: http.MethodGet, path: path, query: paged, good: []int{http.StatusOK}}
		whole := false
		for next != nil {
			names, link, err := s.page(ctx, *next, key)
			if err != nil {
				yield("", err)
				return
			}
			before := len(seen)
			for _, name := range names {
				if seen[name] {
					continue
				}
				seen[name] = true
				if !yield(name, nil) {
					return
				}
			}
			switch {
			case len(names) == 0:
				return // an end, whatever it links to
			case whole && link != nil:
				yield("", problem.New(problem.Damaged, "the registry's paging goes in circles: update the registry, or list by its own API",
					"the list begins anew before its end"))
				return
			case whole:
				return
			case len(seen) == before:
				// The list goes in circles. Some registries have no paging, and
				// list all when asked for no page.
				whole = true
				next = &ask{method: http.MethodGet, path: path, good: []int{http.StatusOK}}
			case link != nil:
				next = &ask{method: http.MethodGet, place: link, good: []int{http.StatusOK}}
			case len(names) == listPage:
				// Some registries cut the list without a word.
				query := url.Values{"n": paged["n"], "last": {names[len(names)-1]}}
				next = &ask{method: http.MethodGet, path: path, query: query, good: []int{http.StatusOK}}
			default:
				return
			}
		}
	}
}

// page reads one page, and where the next one is.
func (s *session) page(ctx context.Context, a ask, key string) ([]string, *url.URL, error) {
	header, raw, err := s.read(ctx, a, listLimit)
	if err != nil {
		return nil, nil, err
	}
	var doc map[string]json.RawMessage
	var names []string
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, nil, fmt.Errorf("parse the list: %w", err)
	}
	part, ok := doc[key]
	if !ok {
		return nil, nil, fmt.Errorf("parse the list: it has no %s", key)
	}
	if err := json.Unmarshal(part, &names); err != nil {
		return nil, nil, fmt.Errorf("parse the list: %w", err)
	}
	link, err := s.follow(a, header)
	return names, link, err
}

// follow returns where the next page is (RFC 8288), if there is one. It is of
// the same registry: another is nobody's next page.
func (s *session) follow(a ask, header http.Header) (*url.URL, error) {
	base := s.registry.base.Load()
	from := a.place
	if from == nil {
		from = base.JoinPath(a.path)
	}
	for _, value := range header.Values("Link") {
		for link := range strings.SplitSeq(value, ",") {
			place, parameters, _ := strings.Cut(strings.TrimSpace(link), ";")
			place, opened := strings.CutPrefix(strings.TrimSpace(place), "<")
			place, closed := strings.CutSuffix(place, ">")
			if !opened || !closed || !strings.Contains(strings.ReplaceAll(parameters, `"`, ""), "rel=next") {
				continue
			}
			next, err := from.Parse(place)
			if err != nil {
				return nil, fmt.Errorf("parse where the next page is: %w", err)
			}
			// A proxy may hide the registry's own name and scheme.
			next.Scheme, next.Host = base.Scheme, base.Host
			return next, nil
		}
	}
	return nil, nil
}

// Referrers lists by the referrers API (OCI distribution specification, "Listing
// Referrers"). Once a registry said that it has none, no registry is asked
// again. The tags that stand in for it are not looked at. See [image.Reader].
func (r *Registry) Referrers(ctx context.Context, path string, d digest.Digest) ([]image.Descriptor, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	repo, err := r.in(path, transport.PullScope)
	if err != nil {
		return nil, err
	}
	if r.noReferrers.Load() {
		return nil, r.explain(image.ErrUnsupported, "list the referrers of %s@%s", repo.title(), d)
	}
	all, err := repo.referrers(ctx, d)
	if a, ok := answered(err); ok && (a.status() == http.StatusNotFound || a.unsupported()) {
		// An unknown repository says nothing of the registry.
		if !a.has(transport.NameUnknownErrorCode) {
			r.noReferrers.Store(true)
		}
		err = fmt.Errorf("%w: %w", image.ErrUnsupported, err)
	}
	return all, r.explain(err, "list the referrers of %s@%s", repo.title(), d)
}

func (p repository) referrers(ctx context.Context, d digest.Digest) ([]image.Descriptor, error) {
	var all []image.Descriptor
	seen := map[digest.Digest]bool{}
	accept := http.Header{"Accept": {ocispec.MediaTypeImageIndex}}
	next := &ask{method: http.MethodGet, path: p.path + "/referrers/" + d.String(), header: accept, good: []int{http.StatusOK}}
	for next != nil {
		header, raw, err := p.read(ctx, *next, listLimit)
		if err != nil {
			return nil, err
		}
		var index ocispec.Index
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, fmt.Errorf("parse the list: %w", err)
		}
		if index.MediaType != ocispec.MediaTypeImageIndex && mediaType(header) != ocispec.MediaTypeImageIndex {
			return nil, fmt.Errorf("parse the list: it is of type %q", mediaType(header))
		}
		fresh := false
		for _, m := range index.Manifests {
			if err := checkDigest(m.Digest); err != nil {
				return nil, err
			}
			if !seen[m.Digest] {
				seen[m.Digest], fresh = true, true
				all = append(all, image.Descriptor{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: m.Digest, Size: m.Size})
			}
		}
		link, err := p.follow(*next, header)
		if err != nil {
			return nil, err
		}
		if link != nil && !fresh && len(index.Manifests) > 0 {
			return nil, problem.New(problem.Damaged, "the registry's paging goes in circles: update the registry", "the list begins anew before its end")
		}
		if link == nil || len(index.Manifests) == 0 {
			break
		}
		next = &ask{method: http.MethodGet, place: link, header: accept, good: []int{http.StatusOK}}
	}
	return slices.Clip(all), nil
}
