// Package gitlab is the registry of a GitLab server, with what only GitLab's API
// tells: when a tag was made; and with deletion of single tags by that API.
// Images are read and written by the OCI API beneath it.
//
// It refuses GitLab's deletion in bulk: that takes an expression, is carried out
// later, and tells nobody what it deleted; and cleanup by such expressions has
// deleted every image of a project (gitlab-org/gitlab issue 325429). It is no
// [image.Lister], since GitLab tells nothing of manifests without a tag.
//
// The five calls here are asked by package rest, as those of Harbor are; what makes
// tokens and variables at GitLab goes by its own library (package gitlabapi).
package gitlab

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/internal/transport/rest"
	"github.com/regkeeper/regkeeper/problem"
)

// Config is how one server is spoken to.
type Config struct {
	// OCI is the same server's registry, which often has another name.
	OCI image.Registry
	// URL is the server's root, for example https://gitlab.example.com.
	URL string
	// Transport sends the requests to GitLab's API.
	Transport http.RoundTripper
	// Token is asked for the token before each use, and once more when the
	// server refuses it: a personal, group or project access token with the
	// scope read_api, or api to delete. Deploy tokens, with which the registry
	// is content, the API does not take.
	Token func(ctx context.Context) (credential.Secret, error)
	// Parallel is how many tags are asked for at the same time; 8 if zero.
	Parallel int
}

// Registry is a server's registry. Its methods may be called at the same time.
type Registry struct {
	image.Registry
	config Config

	mu    sync.Mutex
	known map[string]string // the place of a repository in the API
}

var (
	_ image.Reader  = (*Registry)(nil)
	_ image.Deleter = (*Registry)(nil)
	_ image.Writer  = (*Registry)(nil)
)

const (
	// pageSize is the most that GitLab's API has on a page.
	pageSize        = 100
	defaultParallel = 8
	// mostWalks is how often a list is read that changes as it is read.
	mostWalks = 6
)

// firstRegistry is when there was the first registry. What was made before says
// a time that its builder made up.
var firstRegistry = time.Date(2013, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes the registry. It sends nothing.
func New(config Config) *Registry {
	if config.Parallel == 0 {
		config.Parallel = defaultParallel
	}
	return &Registry{Registry: config.OCI, config: config, known: map[string]string{}}
}

// Tags lists the tags with where they lead and when they were made: a request
// for each tag, and one or two for each 100. A server without the registry's
// metadata database tells when the image was built in place of when it was
// pushed, and nothing of an index; a time that no registry can have seen is left
// out. See [image.Reader].
func (r *Registry) Tags(ctx context.Context, repository string) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		what := fmt.Sprintf("list the tags of %s", repository)
		place, err := r.find(ctx, what, repository)
		if errors.Is(err, image.ErrMissing) {
			// Whether there is such a repository is for the registry to say.
			for _, told := range r.Registry.Tags(ctx, repository) {
				if told != nil {
					err = told
				}
				break
			}
		}
		if err != nil {
			yield(image.Tag{}, err)
			return
		}
		type name struct {
			Name string `json:"name"`
		}
		seen := map[string]bool{}
		stopped := false
		err = list(ctx, r, what, place+"/tags", nil, func(n name) string { return n.Name }, func(names []name) (bool, error) {
			names = slices.DeleteFunc(names, func(n name) bool { return seen[n.Name] })
			tags := make([]image.Tag, len(names))
			group, ctx := errgroup.WithContext(ctx)
			group.SetLimit(r.config.Parallel)
			for i, n := range names {
				seen[n.Name] = true
				group.Go(func() (err error) {
					tags[i], err = r.tag(ctx, place, repository, n.Name)
					return err
				})
			}
			if err := group.Wait(); err != nil {
				return false, err
			}
			for _, tag := range tags {
				if tag.Name != "" && !yield(tag, nil) {
					stopped = true
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil && !stopped {
			if errors.Is(err, image.ErrMissing) {
				r.forget(repository)
			}
			yield(image.Tag{}, err)
		}
	}
}

// tag asks for one tag, and returns none if it is gone.
func (r *Registry) tag(ctx context.Context, place, repository, name string) (image.Tag, error) {
	var told struct {
		Name    string        `json:"name"`
		Digest  digest.Digest `json:"digest"`
		Created time.Time     `json:"created_at"`
	}
	what := fmt.Sprintf("look at tag %s:%s", repository, name)
	_, err := r.ask(ctx, what, http.MethodGet, place+"/tags/"+url.PathEscape(name), nil, &told)
	if errors.Is(err, image.ErrMissing) {
		// GitLab says so of what it hides, too: where it leads is for the registry
		// to say.
		return image.Tag{Name: name}, nil
	}
	if err != nil {
		return image.Tag{}, err
	}
	if told.Name != name || told.Digest != "" && told.Digest.Validate() != nil {
		return image.Tag{}, problem.New(problem.Unreachable, foreignHint, "%s at %s: the server told of %q, %q", what, r.config.URL, told.Name, told.Digest)
	}
	if told.Created.Before(firstRegistry) {
		told.Created = time.Time{}
	}
	return image.Tag{Name: name, Digest: told.Digest, Pushed: told.Created}, nil
}

// repository is a repository of a project (GitLab's API, "List registry
// repositories").
type repository struct {
	ID   int64  `json:"id"`
	Path string `json:"path"`
}

// find returns a repository's place in the API. The error has
// [image.ErrMissing] in its chain where the API knows none.
func (r *Registry) find(ctx context.Context, what, path string) (string, error) {
	r.mu.Lock()
	place := r.known[path]
	r.mu.Unlock()
	if place != "" {
		return place, nil
	}
	parts := strings.Split(path, "/")
	if len(parts) < 2 || slices.Contains(parts, "") {
		return "", problem.New(problem.Usage, "write it as group/project or group/project/name", "repository %q", path)
	}
	// The project is a beginning of the path, and no group is called as one is.
	missing := fmt.Errorf("%s at %s: %w", what, r.config.URL, image.ErrMissing)
	for n := 2; n <= len(parts); n++ {
		project := projectAt(url.PathEscape(strings.Join(parts[:n], "/")))
		err := list(ctx, r, what, project, nil, func(r repository) string { return strconv.FormatInt(r.ID, 10) }, func(rows []repository) (bool, error) {
			for _, row := range rows {
				if row.Path == path {
					place = project + "/" + strconv.FormatInt(row.ID, 10)
					return false, nil
				}
			}
			return true, nil
		})
		switch {
		case errors.Is(err, image.ErrMissing):
			missing = err
			continue
		case err != nil:
			return "", err
		case place == "":
			return "", missing
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.known[path] = place
		return place, nil
	}
	return "", missing
}

func projectAt(id string) string { return "/projects/" + id + "/registry/repositories" }

func (r *Registry) forget(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, path)
}

// Repositories lists the repositories of the projects that the token's owner is
// a member of, by a request for each project, and one or two for each 100. Projects whose registry is off are left out. See [image.Reader].
func (r *Registry) Repositories(ctx context.Context) iter.Seq2[string, error] {
	type project struct {
		ID int64 `json:"id"`
	}
	return func(yield func(string, error) bool) {
		what, stopped := "list the repositories", false
		done, seen := map[int64]bool{}, map[int64]bool{}
		query := url.Values{"membership": {"true"}, "simple": {"true"}, "order_by": {"id"}, "sort": {"asc"}}
		err := list(ctx, r, what, "/projects", query, func(p project) string { return strconv.FormatInt(p.ID, 10) }, func(projects []project) (bool, error) {
			for _, p := range projects {
				if done[p.ID] {
					continue
				}
				done[p.ID] = true
				err := list(ctx, r, what, projectAt(strconv.FormatInt(p.ID, 10)), nil, func(r repository) string { return strconv.FormatInt(r.ID, 10) }, func(rows []repository) (bool, error) {
					for _, row := range rows {
						if seen[row.ID] {
							continue
						}
						seen[row.ID] = true
						if stopped = !yield(row.Path, nil); stopped {
							return false, nil
						}
					}
					return true, nil
				})
				off := rest.Status(err) == http.StatusForbidden || errors.Is(err, image.ErrMissing)
				if stopped || err != nil && !off {
					return false, err
				}
			}
			return true, nil
		})
		if err != nil && !stopped {
			yield("", err)
		}
	}
}

// list reads a list to its end, until each returns false. One of several pages
// is read until two readings agree: what moves from page to page meanwhile may
// be missed by one. Each is called in every reading.
func list[T any](ctx context.Context, r *Registry, what, path string, query url.Values, keyOf func(T) string, each func([]T) (bool, error)) error {
	var before map[string]bool
	for range mostWalks {
		found, pages, err := walk(ctx, r, what, path, query, keyOf, each)
		if err != nil || found == nil || pages == 1 || maps.Equal(before, found) {
			return err
		}
		before = found
	}
	return problem.New(problem.Unreachable, "try again when less is pushed or deleted there",
		"%s at %s: the list changed as it was read, %d times", what, r.config.URL, mostWalks)
}

// walk reads a list page by page. It returns the keys of all rows, or nil if
// each returned false.
func walk[T any](ctx context.Context, r *Registry, what, path string, query url.Values, keyOf func(T) string, each func([]T) (bool, error)) (found map[string]bool, pages int, err error) {
	found = map[string]bool{}
	asked := map[string]bool{}
	parameters := url.Values{"per_page": {strconv.Itoa(pageSize)}}
	maps.Copy(parameters, query)
	for {
		asked[parameters.Encode()] = true
		var rows []T
		header, err := r.ask(ctx, what, http.MethodGet, path, parameters, &rows)
		if err != nil {
			return nil, 0, err
		}
		for _, row := range rows {
			found[keyOf(row)] = true
		}
		if more, err := each(rows); err != nil || !more {
			return nil, 0, err
		}
		next, err := follow(header)
		if err != nil {
			return nil, 0, problem.Wrap(err, problem.Unreachable, foreignHint, "%s at %s", what, r.config.URL)
		}
		if next == nil {
			return found, len(asked), nil
		}
		if asked[next.Encode()] {
			return nil, 0, problem.New(problem.Unreachable, foreignHint, "%s at %s: the list goes in circles", what, r.config.URL)
		}
		parameters = next
	}
}

// follow returns the parameters of the next page, if there is one (GitLab's API,
// "Pagination Link header"). The server's name in it may be another than the one
// that it is reached by.
func follow(header http.Header) (url.Values, error) {
	for _, value := range header.Values("Link") {
		for link := range strings.SplitSeq(value, ",") {
			place, parameters, _ := strings.Cut(strings.TrimSpace(link), ";")
			if !strings.Contains(strings.ReplaceAll(parameters, `"`, ""), "rel=next") {
				continue
			}
			parsed, err := url.Parse(strings.Trim(place, "<> "))
			if err != nil {
				return nil, errors.New("where the next page is cannot be read")
			}
			return parsed.Query(), nil
		}
	}
	return nil, nil
}

// DeleteTag deletes one tag by GitLab's API. See [image.Deleter].
func (r *Registry) DeleteTag(ctx context.Context, path, tag string) error {
	if digest.Digest(tag).Validate() == nil {
		return problem.New(problem.Usage, "", "%q is no tag", tag)
	}
	what := fmt.Sprintf("delete tag %s:%s", path, tag)
	place, err := r.find(ctx, what, path)
	if err == nil {
		_, err = r.ask(ctx, what, http.MethodDelete, place+"/tags/"+url.PathEscape(tag), nil, nil)
	}
	if !errors.Is(err, image.ErrMissing) {
		return err
	}
	r.forget(path)
	// The API also says so of what the token's owner may not see.
	_, err = r.Registry.Resolve(ctx, path, tag)
	if err == nil {
		return problem.New(problem.Denied, deleteHint, "%s at %s: the API does not know the tag, and the registry has it", what, r.config.URL)
	}
	if errors.Is(err, image.ErrMissing) {
		return nil
	}
	return fmt.Errorf("%s: look whether it is gone: %w", what, err)
}

const (
	foreignHint = "the answer is not GitLab's: check the url, and proxies before the server"
	deleteHint  = "the API wants an access token with the scope api, of who may delete tags of the project"
)

// ask asks the API with the token, and with another one if that is refused and
// there is one.
func (r *Registry) ask(ctx context.Context, what, method, path string, query url.Values, out any) (http.Header, error) {
	where := fmt.Sprintf("%s at %s", what, r.config.URL)
	client := rest.Client{URL: strings.TrimSuffix(r.config.URL, "/") + "/api/v4", Transport: r.config.Transport}
	for again := false; ; again = true {
		token, err := r.config.Token(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: get the token: %w", where, err)
		}
		header, err := client.Do(ctx, method, path, query, func(request *http.Request) {
			if !token.Empty() {
				request.Header.Set("PRIVATE-TOKEN", token.Reveal())
			}
		}, out)
		if err == nil {
			return header, nil
		}
		if rest.Status(err) == http.StatusUnauthorized && !again {
			if next, err := r.config.Token(ctx); err == nil && !next.Equal(token) {
				continue
			}
		}
		return nil, explain(transport.Conceal(err, "", token.Reveal()), where, method)
	}
}

// explain makes a problem of the server's answer.
func explain(err error, where, method string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", where, err)
	}
	switch code := rest.Status(err); {
	case code == 0:
		return problem.Wrap(err, problem.Unreachable, "check that the server is up, and its url in the configuration", "%s", where)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		hint := "the API wants an access token with the scope read_api, of a member of the project; the registry's own deploy tokens it does not take"
		if method == http.MethodDelete {
			hint = deleteHint
		}
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied, hint, "%s", where)
	case rest.Missing(err):
		return problem.Wrap(fmt.Errorf("%w: %w", image.ErrMissing, err), problem.NotFound,
			"check the name, and that the token's owner is a member of the project: GitLab says so of what it does not show, too", "%s", where)
	case code == http.StatusNotFound || code/100 == 3:
		return problem.Wrap(err, problem.Unreachable, foreignHint, "%s", where)
	}
	return problem.Wrap(err, problem.Unreachable, "the server answered with an error of its own: look at its log", "%s", where)
}
