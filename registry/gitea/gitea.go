// Package gitea is the registry of a Gitea or Forgejo server, with what only the
// server's package API tells: when a tag was pushed, and which manifests have no
// tag. Images are read and written by the OCI API beneath it.
//
// It refuses to delete by digest through the OCI API: there Gitea deletes every
// tag of the digest. Gitea leaves the children of a deleted index; whoever
// deletes one deletes them too.
package gitea

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sdk "code.gitea.io/sdk/gitea"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
)

// Config is how one server is spoken to.
type Config struct {
	// OCI is the same server's registry.
	OCI image.Registry
	// URL is the server's root, for example https://gitea.example.com.
	URL string
	// Transport sends the requests to the package API.
	Transport http.RoundTripper
	// Login is asked for the login before each use, and once more when the
	// server refuses it. It is the one for the registry: a user with a token or
	// a password.
	Login func(ctx context.Context) (credential.Login, error)
	// Now is the clock.
	Now func() time.Time
}

// Registry is a server's registry. Its tags are in lower case, as Gitea keeps
// them, while any case is taken for them. Dates have a resolution of a second.
// Its methods may be called at the same time.
type Registry struct {
	image.Registry
	config Config

	// searched says that the server cannot list the versions of one package.
	searched atomic.Bool

	mu   sync.Mutex
	kept map[string]*kept
}

var (
	_ image.Lister  = (*Registry)(nil)
	_ image.Deleter = (*Registry)(nil)
	_ image.Writer  = (*Registry)(nil)
)

const (
	kind = "container"
	// pageSize is Gitea's limit of a page, unless MAX_RESPONSE_ITEMS is set.
	pageSize = 50
	// mostWalks is how often a list is begun anew that changes as it is read.
	mostWalks = 5
	// keptFor is how long one half of a list is kept for who asks for it next.
	keptFor = time.Minute
)

// New makes the registry. It sends nothing.
func New(config Config) *Registry {
	return &Registry{Registry: config.OCI, config: config, kept: map[string]*kept{}}
}

// Tags lists the tags with when each was pushed, the latest first. It asks for
// one page of 50 rows after another, of which each tag is one, and each manifest
// without. The other half of what comes is for [Registry.Untagged]: it is used
// once, if it is asked for within a minute and nothing was changed through this
// Registry meanwhile. What others push or delete while the list is read has it
// read again, so that nothing is left out. See [image.Reader].
func (r *Registry) Tags(ctx context.Context, repository string) iter.Seq2[image.Tag, error] {
	return r.half(ctx, repository, true)
}

// Untagged lists the manifests that were pushed by digest, with when. A tag may
// lead to one as well: Gitea then has it twice. See [Registry.Tags], which has
// the other half of the same list, and [image.Lister].
func (r *Registry) Untagged(ctx context.Context, repository string) iter.Seq2[image.Tag, error] {
	return r.half(ctx, repository, false)
}

// kept is the half of a list that nobody has asked for yet.
type kept struct {
	tags  bool
	rows  []image.Tag
	until time.Time
}

func (r *Registry) half(ctx context.Context, repository string, tags bool) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		mark := &kept{tags: !tags}
		if before := r.begin(repository, mark); before != nil && before.tags == tags && r.config.Now().Before(before.until) {
			for _, row := range before.rows {
				if !yield(row, nil) {
					return
				}
			}
			return
		}
		var other []image.Tag
		for row, err := range r.rows(ctx, repository) {
			if err != nil {
				yield(image.Tag{}, err)
				return
			}
			if (row.Name != "") != tags {
				other = append(other, row)
			} else if !yield(row, nil) {
				return
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.kept[repository] == mark {
			mark.rows, mark.until = other, r.config.Now().Add(keptFor)
		}
	}
}

// Forget implements [image.Forgetter].
func (r *Registry) Forget(repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.kept, repository)
}

// begin puts a mark where the half of a list will be kept, and returns what was
// there. A change takes the mark away.
func (r *Registry) begin(repository string, mark *kept) *kept {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.kept[repository]
	r.kept[repository] = mark
	return before
}

func (r *Registry) changed(repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.kept, repository)
}

// rows lists the versions of a package: those with a name are tags.
func (r *Registry) rows(ctx context.Context, repository string) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		p, err := packageOf(repository)
		if err != nil {
			yield(image.Tag{}, err)
			return
		}
		seen := map[string]bool{}
		stopped := false
		each := func(row *sdk.Package) bool {
			if seen[row.Version] {
				return true
			}
			seen[row.Version] = true
			tag := image.Tag{Name: row.Version, Pushed: row.CreatedAt}
			if d := digest.Digest(row.Version); d.Validate() == nil {
				tag.Name, tag.Digest = "", d
			}
			stopped = !yield(tag, nil)
			return !stopped
		}
		for range mostWalks {
			whole, err := r.walk(ctx, p, each)
			if stopped {
				return
			}
			if err != nil {
				yield(image.Tag{}, err)
				return
			}
			if !whole {
				continue
			}
			if len(seen) == 0 {
				// Whether there is such a repository is for the registry to say.
				for tag, err := range r.Registry.Tags(ctx, repository) {
					if !yield(tag, err) {
						return
					}
				}
			}
			return
		}
		yield(image.Tag{}, problem.New(problem.Unreachable, "try again when less is pushed or deleted there",
			"list the versions of %s at %s: the list changed %d times as it was read", repository, r.config.URL, mostWalks))
	}
}

// walk reads a package's versions page by page, until each returns false. It
// says whether they were all there are: when some are deleted meanwhile, others
// move to pages that were read before. The latest come first, so that one that
// is pushed meanwhile moves the others to pages that are yet to be read, and
// cannot make up for one that was missed.
func (r *Registry) walk(ctx context.Context, p pkg, each func(*sdk.Package) bool) (whole bool, err error) {
	list, found := r.versions, false
	if r.searched.Load() {
		list = r.search
	}
	ids := map[int64]bool{}
	total := 0
	for page := 1; ; page++ {
		rows, count, err := list(ctx, p, page)
		if errors.Is(err, errNoList) {
			if page > 1 {
				return false, nil
			}
			list = r.search
			rows, count, err = list(ctx, p, page)
			found = true
		}
		if err != nil {
			return false, err
		}
		if page > 1 && count != total {
			return false, nil
		}
		total = count
		for _, row := range rows {
			ids[row.ID] = true
			if row.Type != kind || !strings.EqualFold(row.Name, p.name) {
				continue
			}
			if found {
				// What can be found could have been listed, were there a list.
				r.searched.Store(true)
			}
			if !each(row) {
				return false, nil
			}
		}
		if len(rows) == 0 || len(ids) >= total {
			return len(ids) == total, nil
		}
	}
}

// pkg is a repository as a package: what its owner has it under.
type pkg struct{ owner, name string }

func (p pkg) String() string { return p.owner + "/" + p.name }

func packageOf(repository string) (pkg, error) {
	owner, name, _ := strings.Cut(repository, "/")
	if owner == "" || name == "" {
		return pkg{}, problem.New(problem.Usage, "write it as owner/name, with the user or organization that it belongs to", "repository %q", repository)
	}
	return pkg{owner, name}, nil
}

// errNoList says that there is no such package, or no list of one package's
// versions: servers before Gitea 1.26 have none.
var errNoList = errors.New("no list of versions")

// versions is a page of a package's versions, and how many there are in all.
func (r *Registry) versions(ctx context.Context, p pkg, page int) ([]*sdk.Package, int, error) {
	rows, total, err := r.page(ctx, p, page, func(c *sdk.Client, options sdk.ListPackagesOptions) ([]*sdk.Package, *sdk.Response, error) {
		return c.ListPackageVersions(p.owner, kind, p.name, options)
	})
	if errors.Is(err, image.ErrMissing) || errors.Is(err, errForeign) {
		return nil, 0, errNoList
	}
	return rows, total, err
}

// search is a page of the versions of all packages of the owner in whose names
// the package's name is, and how many there are in all.
func (r *Registry) search(ctx context.Context, p pkg, page int) ([]*sdk.Package, int, error) {
	return r.page(ctx, p, page, func(c *sdk.Client, options sdk.ListPackagesOptions) ([]*sdk.Package, *sdk.Response, error) {
		options.Type, options.Q = kind, p.name
		return c.ListPackages(p.owner, options)
	})
}

func (r *Registry) page(ctx context.Context, p pkg, page int, list func(*sdk.Client, sdk.ListPackagesOptions) ([]*sdk.Package, *sdk.Response, error)) (rows []*sdk.Package, total int, err error) {
	what := fmt.Sprintf("list the versions of %s", p)
	response, err := r.ask(ctx, what, readHint, func(c *sdk.Client) (response *sdk.Response, err error) {
		rows, response, err = list(c, sdk.ListPackagesOptions{ListOptions: sdk.ListOptions{Page: page, PageSize: pageSize}})
		return response, err
	})
	if err != nil {
		return nil, 0, err
	}
	if _, err := fmt.Sscan(response.Header.Get("X-Total-Count"), &total); err != nil {
		return nil, 0, problem.Wrap(err, problem.Unreachable, foreignHint, "%s at %s: read how many there are", what, r.config.URL)
	}
	return rows, total, nil
}

// DeleteTag deletes the one version that the tag is. See [image.Deleter].
func (r *Registry) DeleteTag(ctx context.Context, repository, tag string) error {
	if digest.Digest(tag).Validate() == nil {
		return problem.New(problem.Usage, "", "%q is no tag", tag)
	}
	return r.deleteVersion(ctx, repository, tag)
}

// DeleteManifest deletes the version that was pushed by the digest. It fails
// where a tag leads to the manifest: that is a version of its own. The children
// of an index stay. See [image.Deleter].
func (r *Registry) DeleteManifest(ctx context.Context, repository string, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return problem.Wrap(err, problem.Usage, "", "digest %q", d)
	}
	if err := r.deleteVersion(ctx, repository, d.String()); err != nil {
		return err
	}
	_, err := r.Registry.Resolve(ctx, repository, d.String())
	if err == nil {
		return problem.New(problem.Denied, "delete its tags first", "delete manifest %s@%s: a tag leads to it", repository, d)
	}
	if errors.Is(err, image.ErrMissing) {
		return nil
	}
	return fmt.Errorf("look whether manifest %s is gone: %w", d, err)
}

func (r *Registry) deleteVersion(ctx context.Context, repository, version string) error {
	p, err := packageOf(repository)
	if err != nil {
		return err
	}
	defer r.changed(repository)
	_, err = r.ask(ctx, fmt.Sprintf("delete version %s of %s", version, p), writeHint, func(c *sdk.Client) (*sdk.Response, error) {
		response, err := c.DeletePackage(p.owner, kind, p.name, version)
		if err == nil && response.StatusCode != http.StatusNoContent {
			// Such as the page for people that a proxy led to.
			err = fmt.Errorf("answered %s", response.Status)
		}
		return response, err
	})
	if errors.Is(err, image.ErrMissing) {
		return nil
	}
	return err
}

// WriteBlob writes by the OCI API. See [image.Writer].
func (r *Registry) WriteBlob(ctx context.Context, repository string, blob image.Blob, mount string, open func(context.Context) (io.ReadCloser, error)) (image.Outcome, error) {
	return r.Registry.WriteBlob(ctx, repository, blob, mount, open)
}

// WriteManifest writes by the OCI API. See [image.Writer].
func (r *Registry) WriteManifest(ctx context.Context, repository, tag, mediaType string, raw []byte) (digest.Digest, error) {
	defer r.changed(repository)
	return r.Registry.WriteManifest(ctx, repository, tag, mediaType, raw)
}

const (
	readHint    = "the package API wants a token with the scope read:package, or a password, of a user who may see the owner's packages"
	writeHint   = "the package API wants a token with the scope write:package, or a password, of a user who may change the owner's packages"
	foreignHint = "the answer is not Gitea's: check the url, and proxies before the server"
)

// errForeign is in the chain when it was not Gitea's API that answered.
var errForeign = errors.New("not an answer of the package API")

// ask asks the package API with the login, and with another one if that is
// refused and there is one.
func (r *Registry) ask(ctx context.Context, what, hint string, call func(*sdk.Client) (*sdk.Response, error)) (*sdk.Response, error) {
	where := fmt.Sprintf("%s at %s", what, r.config.URL)
	var last credential.Login
	for again := false; ; again = true {
		login, err := r.config.Login(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: get the login: %w", where, err)
		}
		client, err := r.client(ctx, login)
		if err != nil {
			return nil, problem.Wrap(err, problem.Config, "", "%s", where)
		}
		response, err := call(client)
		if err == nil {
			return response, nil
		}
		if refused := status(response) == http.StatusUnauthorized; refused && !again {
			last = login
			if next, err := r.config.Login(ctx); err == nil && !next.Equal(last) {
				continue
			}
		}
		return nil, explain(response, transport.Conceal(err, login.Username, login.Secret.Reveal()), where, hint)
	}
}

func (r *Registry) client(ctx context.Context, login credential.Login) (*sdk.Client, error) {
	auth := sdk.SetBasicAuth(login.Username, login.Secret.Reveal())
	if login.Username == "" {
		auth = sdk.SetToken(login.Secret.Reveal())
	}
	return sdk.NewClient(r.config.URL,
		sdk.SetContext(ctx),
		sdk.SetHTTPClient(transport.Client(r.config.Transport)),
		auth,
		// Forgejo's version says nothing of Gitea's API, and asking costs a
		// request.
		sdk.SetGiteaVersion(""),
	)
}

// status is the answer's, or zero.
func status(response *sdk.Response) int {
	if response == nil || response.Response == nil {
		return 0
	}
	return response.StatusCode
}

// explain makes a problem of the server's answer.
func explain(response *sdk.Response, err error, where, hint string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", where, err)
	}
	switch code := status(response); code {
	case 0:
		return problem.Wrap(err, problem.Unreachable, "check that the server is up, and its url in the configuration", "%s", where)
	case http.StatusOK:
		return problem.Wrap(fmt.Errorf("%w: %w", errForeign, err), problem.Unreachable, foreignHint, "%s", where)
	case http.StatusUnauthorized, http.StatusForbidden:
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied, hint, "%s", where)
	case http.StatusNotFound:
		// A 404 of another server says nothing of this one.
		if media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); media == "application/json" {
			return problem.Wrap(fmt.Errorf("%w: %w", image.ErrMissing, err), problem.NotFound, "check the owner and the name, and that the user may see them", "%s", where)
		}
		return problem.Wrap(fmt.Errorf("%w: %w", errForeign, err), problem.Unreachable, foreignHint, "%s", where)
	}
	return problem.Wrap(err, problem.Unreachable, "the server answered with an error of its own: look at its log", "%s", where)
}
