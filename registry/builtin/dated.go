package builtin

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
)

// UncountedHeader is the header of a request for a manifest that does not count
// as a pull, whatever its value: who looks through a repository to see what is
// not pulled any more must not pull it.
const UncountedHeader = "Regkeeper-Uncounted"

// DatedTags is the answer for
//
//	GET /v2/<name>/_regkeeper/tags/list
//	GET /v2/<name>/_regkeeper/untagged/list
//
// which need the right to pull, and take the parameters n and last and answer
// with a Link header as a list of tags does: last is the name of a tag or, of the
// untagged, a digest. These are an extension by the OCI distribution
// specification 1.1, section Extensions.
//
// The tags are sorted by name. Pulled is when the tag was last read by GET, or the
// manifest by its digest, up to a minute before a crash; a zero time is left out
// and means never. Untagged lists the manifests without a tag that the
// repository's index names: no children of an index, and no referrers.
type DatedTags struct {
	Name string      `json:"name"`
	Tags []image.Tag `json:"tags"`
}

// notePull notes a manifest that was sent.
func (g *Registry) notePull(w http.ResponseWriter, r *http.Request, to route) {
	if r.Method != http.MethodGet || statusOf(w) != http.StatusOK || r.Header.Get(UncountedHeader) != "" {
		return
	}
	tag := ""
	if tagForm.MatchString(to.reference) {
		tag = to.reference
	}
	g.history.pulled(to.repository, w.Header().Get("Docker-Content-Digest"), tag)
}

// listDated answers with a [DatedTags].
func (g *Registry) listDated(w http.ResponseWriter, r *http.Request, to route) error {
	key := func(t image.Tag) string { return t.Name }
	if to.reference == listingUntagged {
		key = func(t image.Tag) string { return t.Digest.String() }
	}
	all, err := g.dated(to.repository, to.reference == listingTags)
	if err != nil {
		return err
	}
	names := make([]string, len(all))
	byName := make(map[string]image.Tag, len(all))
	for i, t := range all {
		names[i] = key(t)
		byName[key(t)] = t
	}
	page, err := paginate(w, r, names)
	if err != nil {
		return err
	}
	answer := DatedTags{Name: to.repository, Tags: make([]image.Tag, len(page))}
	for i, name := range page {
		answer.Tags[i] = byName[name]
	}
	return writeJSON(w, http.StatusOK, answer)
}

// dated lists tags, or manifests without one.
func (g *Registry) dated(repository string, tagged bool) ([]image.Tag, error) {
	if !validName(repository) {
		return nil, fmt.Errorf("list %q: %w", repository, image.ErrMissing)
	}
	lock := g.locks.of(repository)
	lock.RLock()
	index, err := readLayout(g.folderOf(repository))
	lock.RUnlock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s: %w", repository, image.ErrMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", repository, err)
	}
	tags, manifests := g.history.look(repository)
	named := map[string]bool{}
	for _, e := range index.Manifests {
		if e.tag() != "" {
			named[e.Digest] = true
		}
	}
	var all []image.Tag
	seen := map[string]bool{}
	for _, e := range index.Manifests {
		one := image.Tag{Name: e.tag(), Digest: digest.Digest(e.Digest), Pulled: manifests[e.Digest].Pulled}
		switch {
		case tagged && one.Name != "":
			if known := tags[one.Name]; known.Digest == e.Digest {
				one.Pushed, one.Pulled = known.Pushed, later(one.Pulled, known.Pulled)
			}
		case !tagged && one.Name == "" && e.subject() == "" && !named[e.Digest] && !seen[e.Digest]:
			one.Pushed = manifests[e.Digest].Pushed
			seen[e.Digest] = true
		default:
			continue
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b image.Tag) int {
		if a.Name != b.Name {
			return compareNames(a.Name, b.Name)
		}
		return strings.Compare(a.Digest.String(), b.Digest.String())
	})
	return all, nil
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
