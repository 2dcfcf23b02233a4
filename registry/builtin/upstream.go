package builtin

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

// defaultPatience is short enough for a pull that has a copy to fall back on.
const defaultPatience = 5 * time.Second

// restTime is how long an upstream that did not answer is left alone by pulls of
// what there is a copy of.
const restTime = 15 * time.Second

// Upstream is a registry of which this one keeps copies of what is pulled
// through it, so that pulls go on when the other does not answer.
//
// Its repository team/app is Prefix/team/app here. A client that was told to use
// this registry as the other's mirror asks for team/app with the parameter
// ns=Host, as containerd does (its docs/hosts.md), and gets the same.
//
//	asked for          copy  upstream            answer
//	digest             yes   not asked           the copy
//	digest             no    has it              what it has, stored
//	tag, asked lately  yes   not asked           the copy
//	tag                any   has it              what it has, stored if need be
//	tag                yes   does not have it    404, and the tag of the copy goes
//	tag                yes   refuses, or fails   the copy, with a Warning
//	any                no    does not have it    404
//	any                no    refuses, or fails   502
//
// Clients need rights on the repository as it is named here, and those rights
// alone decide: what was copied is served to them whether or not the upstream
// would still let this registry read it. Pushing is refused. Deleting takes away
// the copy.
type Upstream struct {
	// Host is the registry, as clients name it.
	Host credential.Host
	// Prefix is the first part of the names of its repositories here; it may
	// have several components. Empty means the host, with an underscore for the
	// colon before a port. Repositories of this registry's own below it are
	// not served any more.
	Prefix string
	// Names are the hosts, with their ports, under which this registry is asked
	// for nothing else: what is team/app there is Prefix/team/app. dockerd, which
	// sends no ns, can use one as Docker Hub's mirror.
	Names []string
	// Reader reads the registry, with a login of this registry's own.
	Reader image.Reader
	// Fresh is how long a tag is served without asking whether it has moved.
	// Zero asks every time.
	Fresh time.Duration
	// MaxAge is how long a copy stays that nobody pulls. Zero means for good.
	MaxAge time.Duration
	// Patience is how long the upstream may take to say whether a tag has moved,
	// where there is a copy. Zero means five seconds.
	Patience time.Duration
}

// UpstreamUse is what became of the requests for one upstream's content since the
// start.
type UpstreamUse struct {
	Host credential.Host
	// Copies were answered with a copy that was there, Fetched with what was
	// fetched for them.
	Copies, Fetched int64
	// Stale are those of the copies that were served because the upstream did
	// not say whether they are current.
	Stale int64
	// Failed could not be answered.
	Failed int64
	// Fallen is when the upstream last failed to answer, and has not answered
	// since; zero otherwise.
	Fallen time.Time
}

// upstream is an Upstream at work.
type upstream struct {
	Upstream
	copies, fetched, stale, failed atomic.Int64

	mu     sync.Mutex
	fallen time.Time
}

// parseUpstreams checks the upstreams and reports all faults together.
func parseUpstreams(configs []Upstream) ([]*upstream, error) {
	var all []*upstream
	var faults []error
	for _, config := range configs {
		if config.Prefix == "" {
			config.Prefix = strings.ReplaceAll(string(config.Host), ":", "_")
		}
		if config.Patience == 0 {
			config.Patience = defaultPatience
		}
		switch {
		case config.Host == "" || config.Reader == nil:
			faults = append(faults, problem.New(problem.Config, "name the registry", "an upstream has no host or no reader"))
			continue
		case !validName(config.Prefix):
			faults = append(faults, problem.New(problem.Config, "write it as the beginning of a repository's name, for example mirror/gitea",
				"prefix %q of upstream %s is not valid", config.Prefix, config.Host))
			continue
		}
		for _, other := range all {
			if other.Host == config.Host {
				faults = append(faults, problem.New(problem.Config, "name each registry once", "upstream %s is named twice", config.Host))
			} else if a, b := other.Prefix+"/", config.Prefix+"/"; strings.HasPrefix(a, b) || strings.HasPrefix(b, a) {
				faults = append(faults, problem.New(problem.Config, "give each registry a prefix of its own",
					"upstreams %s and %s have prefixes of which one holds the other", other.Host, config.Host))
			}
		}
		all = append(all, &upstream{Upstream: config})
	}
	return all, errors.Join(faults...)
}

// UpstreamUses tells how the upstreams were used, in the order of the
// configuration.
func (g *Registry) UpstreamUses() []UpstreamUse {
	uses := make([]UpstreamUse, 0, len(g.upstreams))
	for _, u := range g.upstreams {
		u.mu.Lock()
		fallen := u.fallen
		u.mu.Unlock()
		uses = append(uses, UpstreamUse{
			Host: u.Host, Copies: u.copies.Load(), Fetched: u.fetched.Load(), Stale: u.stale.Load(), Failed: u.failed.Load(), Fallen: fallen,
		})
	}
	return uses
}

// upstreamOf is the upstream whose copies a repository holds; nil if none.
func (g *Registry) upstreamOf(repository string) *upstream {
	for _, u := range g.upstreams {
		if strings.HasPrefix(repository, u.Prefix+"/") {
			return u
		}
	}
	return nil
}

// path is the repository's name at the upstream.
func (u *upstream) path(repository string) string {
	return strings.TrimPrefix(repository, u.Prefix+"/")
}

// named reads the parameter by which containerd tells a mirror of which registry
// a repository is. A registry that is not known has no repositories: this
// registry's own of that name are another's.
func (g *Registry) named(r *http.Request, to route) (route, error) {
	if to.repository == "" {
		return to, nil
	}
	ns := r.URL.Query().Get("ns")
	if ns == "" {
		for _, u := range g.upstreams {
			if slices.Contains(u.Names, r.Host) {
				return u.named(to)
			}
		}
		return to, nil
	}
	if ns == r.Host || g.url != nil && ns == g.url.Host {
		return to, nil
	}
	if host, err := credential.ParseHost(ns); err == nil {
		for _, u := range g.upstreams {
			if u.Host == host {
				return u.named(to)
			}
		}
	}
	to.repository = ""
	return to, errNoMirror
}

var errNoMirror = &refusal{status: http.StatusNotFound, code: codeNameUnknown, message: "this registry is no mirror of that one"}

// named puts the prefix before the name of the upstream's repository. K3s can be
// told to do so itself (rewrite).
func (u *upstream) named(to route) (route, error) {
	if strings.HasPrefix(to.repository, u.Prefix+"/") {
		return to, nil
	}
	name := u.Prefix + "/" + to.repository
	if !validName(name) {
		to.repository = ""
		return to, errNoMirror
	}
	to.path = "/v2/" + name + strings.TrimPrefix(to.path, "/v2/"+to.repository)
	to.repository = name
	return to, nil
}

func (u *upstream) refusePush() error {
	return &refusal{
		status:  http.StatusMethodNotAllowed,
		code:    codeUnsupported,
		message: fmt.Sprintf("%s/ holds copies of %s: push there", u.Prefix, u.Host),
		allow:   "DELETE, GET, HEAD",
	}
}

// resting says whether the upstream failed to answer a moment ago.
func (u *upstream) resting(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	since := now.Sub(u.fallen)
	return !u.fallen.IsZero() && since >= 0 && since < restTime
}

// answered notes how the upstream answered: that it refuses, or has not got what
// it was asked for, is an answer.
func (u *upstream) answered(err error, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil || errors.Is(err, image.ErrMissing) || errors.Is(err, image.ErrUnsupported) || errors.Is(err, credential.ErrRefused) {
		u.fallen = time.Time{}
		return
	}
	u.fallen = now
}

// failure is the answer where there is no copy.
func (u *upstream) failure(err error, unknown *refusal) error {
	switch {
	case errors.Is(err, image.ErrMissing):
		return unknown
	case errors.Is(err, errNoManifest), errors.Is(err, errNoBlob):
		return err
	case errors.Is(err, credential.ErrRefused):
		u.failed.Add(1)
		return &refusal{status: http.StatusBadGateway, code: codeUnavailable,
			message: fmt.Sprintf("%s refuses the login of this registry, and there is no copy here", u.Host), cause: err}
	}
	u.failed.Add(1)
	return &refusal{status: http.StatusBadGateway, code: codeUnavailable,
		message: fmt.Sprintf("%s does not answer, and there is no copy here", u.Host), cause: err}
}

// The warnings of RFC 7234 section 5.5, and the one that the OCI distribution
// specification 1.1, section Warnings, has for people.
const (
	warnStale   = `110 - "Response is Stale"`
	warnFailed  = `111 - "Revalidation Failed"`
	warnPeople  = "299 - "
	warnHeader  = "Warning"
	refusesText = "refuses the login of this registry"
	fallenText  = "does not answer"
)

// warn says in the header of an answer that it is a copy that may have been
// superseded.
func (u *upstream) warn(header http.Header, asked bool, err error) {
	u.stale.Add(1)
	what, why := warnStale, fallenText
	if asked {
		what = warnFailed
	}
	if errors.Is(err, credential.ErrRefused) {
		why = refusesText
	}
	header.Add(warnHeader, what)
	header.Add(warnHeader, warnPeople+quote(fmt.Sprintf("%s %s: this is a copy", u.Host, why)))
}
