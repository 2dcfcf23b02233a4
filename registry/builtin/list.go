package builtin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const indexType = "application/vnd.oci.image.index.v1+json"

// The filter of a list of referrers and the header that tells of it: OCI
// distribution specification 1.1, section Listing Referrers.
const (
	filterParam  = "artifactType"
	filterHeader = "OCI-Filters-Applied"
)

// missing answers a reading or deleting request for a repository that is not
// there. A list of referrers is never 404: OCI distribution specification 1.1,
// section Listing Referrers.
func missing(w http.ResponseWriter, r *http.Request, to route) error {
	switch to.endpoint {
	case referrers:
		return noReferrers(w, r)
	case blobs:
		return errNoBlob
	case manifests:
		return errNoManifest
	}
	return errNoName
}

// listTags answers with the tags in the order that section Listing Tags of the
// OCI distribution specification 1.1 asks for, which does not tell upper case
// from lower. olareg's order does, and it cannot list no tags at all.
func (g *Registry) listTags(w http.ResponseWriter, r *http.Request, to route) error {
	all, err := g.tagsOf(r.Context(), to.repository)
	if err != nil {
		return err
	}
	return writeTags(w, r, to.repository, all)
}

// writeTags answers with the page of the tags that is asked for.
func writeTags(w http.ResponseWriter, r *http.Request, repository string, all []string) error {
	page, err := paginate(w, r, all)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{repository, page})
}

func (g *Registry) tagsOf(ctx context.Context, repository string) ([]string, error) {
	got, err := g.ask(ctx, http.MethodGet, "/v2/"+repository+"/tags/list", nil, nil)
	if err != nil {
		return nil, err
	}
	if got.status != http.StatusOK {
		return nil, fmt.Errorf("list tags of %s: storage answers %d", repository, got.status)
	}
	var list struct{ Tags []string }
	if err := json.Unmarshal(got.body.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("list tags of %s: %w", repository, err)
	}
	return list.Tags, nil
}

// listRepositories answers with the repositories that the caller may pull from:
// distribution's docs/spec/api.md, section Listing Repositories. A folder that
// cannot be read fails the listing: half a list would look like a whole one.
func (g *Registry) listRepositories(w http.ResponseWriter, r *http.Request, by caller) error {
	var all []string
	for name, err := range g.repositories(r.Context()) {
		if err != nil {
			return err
		}
		if by.token.Allows(name, pulling) {
			all = append(all, name)
		}
	}
	page, err := paginate(w, r, all)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct {
		Repositories []string `json:"repositories"`
	}{page})
}

// repositories lists the repositories that hold something, copies of other
// registries' among them.
func (g *Registry) repositories(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for name, err := range g.allRepositories(ctx) {
			if err == nil && !g.filled(name) {
				continue
			}
			if err != nil {
				err = fmt.Errorf("list repositories: %w", err)
			}
			if !yield(name, err) || err != nil {
				return
			}
		}
	}
}

// repositoriesIn lists what is stored below a folder.
func repositoriesIn(ctx context.Context, root string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case entry.IsDir() && file != root && (entry.Name() == blobsFolder || strings.HasPrefix(entry.Name(), "_")):
				return fs.SkipDir
			case entry.IsDir() || entry.Name() != indexFile:
				return ctx.Err()
			}
			dir, err := filepath.Rel(root, filepath.Dir(file))
			if err != nil {
				return err
			}
			if name := filepath.ToSlash(dir); validName(name) && !yield(name, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield("", err)
		}
	}
}

// paginate cuts a list to the page that the parameters n and last ask for, and
// names the next page in a Link header, RFC 8288.
func paginate(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	query := r.URL.Query()
	limit := len(all)
	if text := query.Get("n"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, &refusal{status: http.StatusBadRequest, code: codeUnsupported, message: "n is no number of entries"}
		}
		limit = n
	}
	page := slices.Clone(all)
	slices.SortFunc(page, compareNames)
	if last := query.Get("last"); last != "" {
		page = slices.DeleteFunc(page, func(name string) bool { return compareNames(name, last) <= 0 })
	}
	if len(page) > limit {
		page = page[:limit]
		if limit > 0 {
			next := url.Values{"n": {strconv.Itoa(limit)}, "last": {page[limit-1]}}
			w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, path.Clean(r.URL.Path), next.Encode()))
		}
	}
	return append([]string{}, page...), nil
}

// compareNames orders without regard to case, and by case what is the same but
// for it.
func compareNames(a, b string) int {
	return cmp.Or(strings.Compare(strings.ToLower(a), strings.ToLower(b)), strings.Compare(a, b))
}

// listReferrers passes on a list of referrers, and mends what olareg's pages
// lack: the header that tells of a filter when the list comes from memory, and
// the check that a page kept in memory is this repository's.
func (g *Registry) listReferrers(w http.ResponseWriter, r *http.Request, to route) error {
	query := r.URL.Query()
	if kept := query.Get("cache"); kept != "" && !g.holds(r, to.repository, kept) {
		query.Del("cache")
		query.Del("page")
		r = r.Clone(r.Context())
		r.URL.RawQuery = query.Encode()
	}
	answer := &captured{header: http.Header{}}
	g.forward(answer, r, to)
	if answer.status == http.StatusNotFound {
		return noReferrers(w, r)
	}
	if answer.status == http.StatusOK && query.Get(filterParam) != "" {
		answer.header.Set(filterHeader, filterParam)
	}
	return answer.send(w)
}

// holds says whether a repository has a blob.
func (g *Registry) holds(r *http.Request, repository, digest string) bool {
	got, err := g.ask(r.Context(), http.MethodHead, "/v2/"+repository+"/blobs/"+digest, nil, nil)
	return err == nil && got.status == http.StatusOK
}

func noReferrers(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", indexType)
	if r.URL.Query().Get(filterParam) != "" {
		w.Header().Set(filterHeader, filterParam)
	}
	return writeJSON(w, http.StatusOK, struct {
		SchemaVersion int      `json:"schemaVersion"`
		MediaType     string   `json:"mediaType"`
		Manifests     []string `json:"manifests"`
	}{2, indexType, []string{}})
}
