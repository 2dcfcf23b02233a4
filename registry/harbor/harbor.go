// Package harbor is the registry of a Harbor server, with what only its own API
// tells: when a tag was pushed and pulled, where it leads, which artifacts have
// no tag; and with deletion of single tags, which Harbor's OCI API has not.
// Images are read and written by the OCI API beneath it.
//
// It refuses to delete an artifact that has tags, all of which would go with
// it. With an artifact Harbor itself deletes its children and its accessories
// (signatures, SBOMs); a child of an index cannot be deleted before.
//
// The API is asked without Harbor's own library, which brings twenty modules
// for the five calls here.
package harbor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/internal/transport/rest"
	"github.com/regkeeper/regkeeper/problem"
)

// Config is how one server is spoken to.
type Config struct {
	// OCI is the same server's registry.
	OCI image.Registry
	// URL is the server's root, for example https://harbor.example.com.
	URL string
	// Transport sends the requests to Harbor's API.
	Transport http.RoundTripper
	// Login is asked for the login before each use, and once more when the
	// server refuses it. It is the one for the registry: a user, or a robot
	// account with its secret.
	Login func(ctx context.Context) (credential.Login, error)
}

// Registry is a server's registry. Its methods may be called at the same time.
type Registry struct {
	image.Registry
	config Config
}

var (
	_ image.Lister  = (*Registry)(nil)
	_ image.Deleter = (*Registry)(nil)
	_ image.Writer  = (*Registry)(nil)
)

const (
	// pageSize is the most that Harbor's API has on a page.
	pageSize = 100
	// mostWalks is how often a list is read that changes as it is read.
	mostWalks = 6
	// mostEmpty is how many pages with nothing may follow one another before
	// the last row: Harbor cuts pages before it leaves accessories out.
	mostEmpty = 20
)

// New makes the registry. It sends nothing.
func New(config Config) *Registry { return &Registry{Registry: config.OCI, config: config} }

// artifact is a manifest (Harbor API 2.0, "Artifact").
type artifact struct {
	Digest digest.Digest `json:"digest"`
	Pushed time.Time     `json:"push_time"`
	Pulled time.Time     `json:"pull_time"` // the year 1 if never
	Tags   []struct {
		Name   string    `json:"name"`
		Pushed time.Time `json:"push_time"`
		Pulled time.Time `json:"pull_time"`
	} `json:"tags"`
}

// pulled is when an image was last read: by the tag, or by its digest, by which
// clusters pull. What never was counts as read when it was pushed, so that
// nothing counts as unused for longer than it has been there.
func pulled(pushed time.Time, times ...time.Time) time.Time {
	for _, at := range times {
		if at.After(pushed) {
			pushed = at
		}
	}
	return pushed
}

// Tags lists the tags with where they lead, when they were last moved and when
// what they lead to was last read: by a request for each 100 images, or two
// where there are more than 100. To Harbor whoever reads a manifest is a reader,
// regkeeper too; whoever resolves one is not. See [image.Reader].
func (r *Registry) Tags(ctx context.Context, repository string) iter.Seq2[image.Tag, error] {
	return r.artifacts(ctx, repository, "tags=*", func(a artifact, yield func(image.Tag) bool) bool {
		for _, tag := range a.Tags {
			if !yield(image.Tag{Name: tag.Name, Digest: a.Digest, Pushed: tag.Pushed, Pulled: pulled(tag.Pushed, tag.Pulled, a.Pulled)}) {
				return false
			}
		}
		return true
	})
}

// Untagged lists the artifacts without a tag. Children of an index, and
// accessories, may not be among them: they go with what they belong to. See
// [image.Lister].
func (r *Registry) Untagged(ctx context.Context, repository string) iter.Seq2[image.Tag, error] {
	return r.artifacts(ctx, repository, "tags=nil", func(a artifact, yield func(image.Tag) bool) bool {
		return len(a.Tags) > 0 || yield(image.Tag{Digest: a.Digest, Pushed: a.Pushed, Pulled: pulled(a.Pushed, a.Pulled)})
	})
}

// artifacts lists what tagsOf makes of the artifacts that a query finds.
func (r *Registry) artifacts(ctx context.Context, repository, query string, tagsOf func(artifact, func(image.Tag) bool) bool) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		path, err := pathOf(repository)
		if err != nil {
			yield(image.Tag{}, err)
			return
		}
		what := fmt.Sprintf("list the artifacts of %s", repository)
		seen, none := map[string]bool{}, true
		each := func(a artifact) bool {
			none = false
			return tagsOf(a, func(tag image.Tag) bool {
				key := cmp.Or(tag.Name, tag.Digest.String())
				if seen[key] {
					return true
				}
				seen[key] = true
				return yield(tag, nil)
			})
		}
		parameters := url.Values{"q": {query}, "with_tag": {"true"}}
		stopped, err := list(ctx, r, what, path+"/artifacts", parameters, func(a artifact) (string, error) { return a.Digest.String(), a.Digest.Validate() }, each)
		if stopped {
			return
		}
		if none && (err == nil || errors.Is(err, image.ErrMissing)) {
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
		}
	}
}

// Repositories lists the repositories that the login may see; no administrator
// is needed for that. See [image.Reader].
func (r *Registry) Repositories(ctx context.Context) iter.Seq2[string, error] {
	type repository struct {
		Name string `json:"name"`
	}
	return func(yield func(string, error) bool) {
		seen := map[string]bool{}
		stopped, err := list(ctx, r, "list the repositories", "/repositories", nil, func(r repository) (string, error) { return r.Name, nil }, func(r repository) bool {
			if seen[r.Name] {
				return true
			}
			seen[r.Name] = true
			return yield(r.Name, nil)
		})
		if err != nil && !stopped {
			yield("", err)
		}
	}
}

// list reads a list to its end, until each returns false. One of several pages
// is read until two readings agree: what moves from page to page meanwhile may
// be missed by one. Each is called in every reading.
func list[T any](ctx context.Context, r *Registry, what, path string, query url.Values, keyOf func(T) (string, error), each func(T) bool) (stopped bool, err error) {
	var before map[string]bool
	for range mostWalks {
		found, pages, stopped, err := walk(ctx, r, what, path, query, keyOf, each)
		if stopped || err != nil || pages == 1 && found != nil || found != nil && maps.Equal(before, found) {
			return stopped, err
		}
		before = found
	}
	return false, problem.New(problem.Unreachable, "try again when less is pushed or deleted there",
		"%s at %s: the list changed as it was read, %d times", what, r.config.URL, mostWalks)
}

// walk reads a list page by page. It returns the keys of all rows, or nil unless
// there were as many as the server tells.
func walk[T any](ctx context.Context, r *Registry, what, path string, query url.Values, keyOf func(T) (string, error), each func(T) bool) (found map[string]bool, pages int, stopped bool, err error) {
	found = map[string]bool{}
	empty := 0
	for page := 1; ; page++ {
		var rows []T
		parameters := url.Values{"page": {strconv.Itoa(page)}, "page_size": {strconv.Itoa(pageSize)}}
		maps.Copy(parameters, query)
		header, err := r.ask(ctx, what, http.MethodGet, path, parameters, &rows)
		if err != nil {
			return nil, 0, false, err
		}
		total, err := strconv.Atoi(header.Get("X-Total-Count"))
		if err != nil {
			return nil, 0, false, problem.Wrap(err, problem.Unreachable, foreignHint, "%s at %s: read how many there are", what, r.config.URL)
		}
		for _, row := range rows {
			key, err := keyOf(row)
			if err != nil {
				return nil, 0, false, problem.Wrap(err, problem.Unreachable, foreignHint, "%s at %s", what, r.config.URL)
			}
			found[key] = true
			if !each(row) {
				return nil, 0, true, nil
			}
		}
		empty++
		if len(rows) > 0 {
			empty = 0
		}
		switch {
		case len(found) == total:
			return found, page, false, nil
		case len(found) > total || empty > mostEmpty:
			return nil, page, false, nil
		}
	}
}

// Referrers lists by the OCI API, and by Harbor's list of accessories where a
// server before 2.8 has no such list. See [image.Reader].
func (r *Registry) Referrers(ctx context.Context, repository string, d digest.Digest) ([]image.Descriptor, error) {
	all, err := r.Registry.Referrers(ctx, repository, d)
	if !errors.Is(err, image.ErrUnsupported) {
		return all, err
	}
	path, err := pathOf(repository)
	if err != nil {
		return nil, err
	}
	type accessory struct {
		Digest digest.Digest `json:"digest"`
	}
	digests := map[digest.Digest]bool{}
	what := fmt.Sprintf("list the accessories of %s@%s", repository, d)
	_, err = list(ctx, r, what, path+"/artifacts/"+url.PathEscape(d.String())+"/accessories", nil,
		func(a accessory) (string, error) { return a.Digest.String(), a.Digest.Validate() },
		func(a accessory) bool { digests[a.Digest] = true; return true })
	if err != nil && !errors.Is(err, image.ErrMissing) {
		return nil, err
	}
	for d := range digests {
		described, err := r.Registry.Resolve(ctx, repository, d.String())
		if errors.Is(err, image.ErrMissing) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		all = append(all, described)
	}
	return all, nil
}

// DeleteTag deletes one tag; what it led to stays, without it. A rule of
// immutable tags makes it fail. See [image.Deleter].
func (r *Registry) DeleteTag(ctx context.Context, repository, tag string) error {
	if digest.Digest(tag).Validate() == nil {
		return problem.New(problem.Usage, "", "%q is no tag", tag)
	}
	path, err := pathOf(repository)
	if err != nil {
		return err
	}
	name := url.PathEscape(tag)
	return r.remove(ctx, fmt.Sprintf("delete tag %s:%s", repository, tag), path+"/artifacts/"+name+"/tags/"+name)
}

// DeleteManifest deletes an artifact that has no tag, and with it its children
// and accessories. It fails for one that has a tag, and for a child of an index.
// Harbor has no way to do both at once: a tag that comes between the look and
// the deletion goes, too. See [image.Deleter].
func (r *Registry) DeleteManifest(ctx context.Context, repository string, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return problem.Wrap(err, problem.Usage, "", "digest %q", d)
	}
	path, err := pathOf(repository)
	if err != nil {
		return err
	}
	path += "/artifacts/" + url.PathEscape(d.String())
	what := fmt.Sprintf("delete artifact %s@%s", repository, d)
	var found artifact
	if _, err := r.ask(ctx, what, http.MethodGet, path, url.Values{"with_tag": {"true"}}, &found); errors.Is(err, image.ErrMissing) {
		return nil
	} else if err != nil {
		return err
	}
	if found.Digest != d {
		return problem.New(problem.Unreachable, foreignHint, "%s: the server told of %q", what, found.Digest)
	}
	if len(found.Tags) > 0 {
		return problem.New(problem.Denied, "delete its tags first", "%s: tag %s leads to it", what, found.Tags[0].Name)
	}
	return r.remove(ctx, what, path)
}

func (r *Registry) remove(ctx context.Context, what, path string) error {
	_, err := r.ask(ctx, what, http.MethodDelete, path, nil, nil)
	if errors.Is(err, image.ErrMissing) {
		return nil
	}
	return err
}

// pathOf is a repository in the API: below its project, with slashes in its name
// escaped twice (Harbor API 2.0, "repository_name").
func pathOf(repository string) (string, error) {
	project, name, _ := strings.Cut(repository, "/")
	if project == "" || name == "" {
		return "", problem.New(problem.Usage, "write it as project/name", "repository %q", repository)
	}
	return "/projects/" + url.PathEscape(project) + "/repositories/" + url.PathEscape(url.PathEscape(name)), nil
}

const foreignHint = "the answer is not Harbor's: check the url, and proxies before the server"

// ask asks the API with the login, and with another one if that is refused and
// there is one.
func (r *Registry) ask(ctx context.Context, what, method, path string, query url.Values, out any) (http.Header, error) {
	where := fmt.Sprintf("%s at %s", what, r.config.URL)
	client := rest.Client{URL: strings.TrimSuffix(r.config.URL, "/") + "/api/v2.0", Transport: r.config.Transport}
	for again := false; ; again = true {
		login, err := r.config.Login(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: get the login: %w", where, err)
		}
		header, err := client.Do(ctx, method, path, query, func(request *http.Request) {
			if login.Username != "" {
				request.SetBasicAuth(login.Username, login.Secret.Reveal())
			}
		}, out)
		if err == nil {
			return header, nil
		}
		if rest.Status(err) == http.StatusUnauthorized && !again {
			if next, err := r.config.Login(ctx); err == nil && !next.Equal(login) {
				continue
			}
		}
		return nil, explain(transport.Conceal(err, login.Username, login.Secret.Reveal()), where, method)
	}
}

// explain makes a problem of the server's answer.
func explain(err error, where, method string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", where, err)
	}
	switch code := rest.Status(err); {
	case code == 0:
		return problem.Wrap(err, problem.Unreachable, "check that the server is up, its url, and that it is a Harbor of version 2", "%s", where)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		hint := "the user or robot account needs the rights to list repositories and artifacts of the project, and to read them"
		if method == http.MethodDelete {
			hint = "the user or robot account needs the rights to delete tags and artifacts of the project"
		}
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied, hint, "%s", where)
	case rest.Missing(err):
		return problem.Wrap(fmt.Errorf("%w: %w", image.ErrMissing, err), problem.NotFound, "check the project and the name", "%s", where)
	case code == http.StatusPreconditionFailed:
		return problem.Wrap(err, problem.Denied,
			"Harbor does not let it be deleted: a rule of immutable tags or a signature protects it, or it is part of an index, with which it goes", "%s", where)
	case code == http.StatusNotFound || code/100 == 3:
		return problem.Wrap(err, problem.Unreachable, foreignHint, "%s", where)
	}
	return problem.Wrap(err, problem.Unreachable, "the server answered with an error of its own: look at its log", "%s", where)
}
