package builtin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
)

// askTime is how long an upstream may take to answer for a manifest.
const askTime = time.Minute

// serveCopy answers a reading request for an upstream's content.
func (g *Registry) serveCopy(w http.ResponseWriter, r *http.Request, u *upstream, to route) error {
	switch to.endpoint {
	case manifests:
		return g.serveManifest(w, r, u, to)
	case blobs:
		return g.serveBlob(w, r, u, to)
	case tags:
		return g.serveTags(w, r, u, to)
	}
	return g.serveReferrers(w, r, u, to)
}

// found is a manifest, and how current it is.
type found struct {
	*storedManifest
	fetched bool
	// stale says that the upstream was not heard; asked, that it was asked.
	stale, asked bool
	why          error
}

func (g *Registry) serveManifest(w http.ResponseWriter, r *http.Request, u *upstream, to route) error {
	got, err := g.findManifest(r.Context(), u, to)
	if err != nil {
		return u.failure(err, errNoManifest)
	}
	if got.fetched {
		u.fetched.Add(1)
	} else {
		u.copies.Add(1)
	}
	if got.stale {
		u.warn(w.Header(), got.asked, got.why)
	}
	tag := ""
	if tagForm.MatchString(to.reference) {
		tag = to.reference
	}
	if r.Header.Get(UncountedHeader) == "" {
		g.history.pulled(to.repository, got.digest, tag)
	}
	w.Header().Set("Content-Type", got.mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(got.raw)))
	w.Header().Set("Docker-Content-Digest", got.digest)
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := w.Write(got.raw); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// findManifest finds a manifest here or at the upstream. Requests for the same
// one wait for the same answer.
func (g *Registry) findManifest(ctx context.Context, u *upstream, to route) (found, error) {
	find := g.findDigest
	if tagForm.MatchString(to.reference) {
		find = g.findTag
	}
	type outcome struct {
		found
		err error
	}
	waiting := make(chan outcome, 1)
	g.work.Go(func() {
		got, err, _ := g.flights.Do(to.repository+"@"+to.reference, func() (any, error) {
			// Who asked first may go away before the others.
			return find(g.running, u, to.repository, to.reference)
		})
		waiting <- outcome{got.(found), err}
	})
	select {
	case done := <-waiting:
		return done.found, done.err
	case <-ctx.Done():
		return found{}, ctx.Err()
	}
}

func (g *Registry) findDigest(ctx context.Context, u *upstream, repository, reference string) (found, error) {
	have, err := g.copyOf(ctx, repository, reference)
	if err == nil {
		return found{storedManifest: have}, nil
	}
	if !errors.Is(err, errNoManifest) {
		return found{}, err
	}
	return g.fetch(ctx, u, repository, reference, "")
}

// findTag is the part of the table at [Upstream] that is about tags.
func (g *Registry) findTag(ctx context.Context, u *upstream, repository, tag string) (found, error) {
	have, err := g.copyOf(ctx, repository, tag)
	if err != nil && !errors.Is(err, errNoManifest) {
		return found{}, err
	}
	now := g.config.Now()
	limit := askTime
	if have != nil {
		if since := now.Sub(g.history.checked(repository, tag)); since >= 0 && since < u.Fresh {
			return found{storedManifest: have}, nil
		}
		if u.resting(now) {
			return found{storedManifest: have, stale: true}, nil
		}
		limit = u.Patience
	}
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	leads, err := u.Reader.Resolve(asking, u.path(repository), tag)
	if err == nil && !digestForm.MatchString(leads.Digest.String()) {
		err = fmt.Errorf("%s tells no digest of %s:%s that is one", u.Host, repository, tag)
	}
	u.answered(err, g.config.Now())
	switch {
	case errors.Is(err, image.ErrMissing):
		if have != nil {
			if err := g.dropTag(ctx, repository, tag); err != nil {
				return found{}, err
			}
		}
		return found{}, errNoManifest
	case err != nil && have != nil:
		return found{storedManifest: have, stale: true, asked: true, why: err}, nil
	case err != nil:
		return found{}, err
	case have != nil && have.digest == leads.Digest.String():
		g.history.check(repository, tag, have.digest)
		return found{storedManifest: have}, nil
	}
	// A tag that moved may have moved to what is here.
	moved, err := g.copyOf(ctx, repository, leads.Digest.String())
	if err == nil {
		got := found{storedManifest: moved}
		return got, g.keep(ctx, repository, tag, moved)
	}
	got, err := g.fetch(ctx, u, repository, leads.Digest.String(), tag)
	if err != nil && have != nil {
		return found{storedManifest: have, stale: true, asked: true, why: err}, nil
	}
	return got, err
}

// copyOf reads a manifest that is here. The error is errNoManifest if it is not.
// olareg must not be asked for a repository that is not there.
func (g *Registry) copyOf(ctx context.Context, repository, reference string) (*storedManifest, error) {
	if !g.exists(repository) {
		return nil, errNoManifest
	}
	return g.manifest(ctx, repository, reference)
}

// fetch reads a manifest from the upstream and stores it. It is returned even if
// it cannot be stored.
func (g *Registry) fetch(ctx context.Context, u *upstream, repository, reference, tag string) (found, error) {
	asking, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	want := digest.Digest(reference)
	mediaType, raw, err := u.Reader.Manifest(asking, u.path(repository), want)
	if err == nil && want.Algorithm().FromBytes(raw) != want {
		err = fmt.Errorf("what %s has for %s is something else", u.Host, want)
	}
	u.answered(err, g.config.Now())
	if err != nil {
		return found{}, err
	}
	got := &storedManifest{digest: reference, mediaType: mediaType, raw: raw}
	if err := g.keep(ctx, repository, tag, got); err != nil {
		g.config.Log.WarnContext(ctx, "copy not stored", "repository", repository, "digest", reference, "error", err)
	}
	return found{storedManifest: got, fetched: true}, nil
}

// keep stores a manifest, under a tag where one is given.
func (g *Registry) keep(ctx context.Context, repository, tag string, m *storedManifest) error {
	if err := g.create(ctx, repository); err != nil {
		return err
	}
	path := "/v2/" + repository + "/manifests/" + m.digest
	lock := g.locks.of(repository)
	lock.Lock()
	defer lock.Unlock()
	// By digest, since the tag says nothing of its algorithm.
	query := ""
	if tag != "" {
		query = "tag=" + tag
	}
	put, err := g.askQuery(ctx, http.MethodPut, path, query, http.Header{"Content-Type": {m.mediaType}}, m.raw)
	if err != nil {
		return err
	}
	if put.status != http.StatusCreated {
		return fmt.Errorf("store manifest %s of %s: storage answers %d", m.digest, repository, put.status)
	}
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	g.history.pushed(repository, m.digest, tags)
	if tag != "" {
		g.history.check(repository, tag, m.digest)
	}
	return nil
}

// dropTag takes a tag away, and leaves what it led to.
func (g *Registry) dropTag(ctx context.Context, repository, tag string) error {
	lock := g.locks.of(repository)
	lock.Lock()
	defer lock.Unlock()
	return g.drop(ctx, repository, tag)
}

// serveTags lists the upstream's tags, or those of the copies if it does not
// answer.
func (g *Registry) serveTags(w http.ResponseWriter, r *http.Request, u *upstream, to route) error {
	have := g.exists(to.repository)
	if !have || !u.resting(g.config.Now()) {
		limit := askTime
		if have {
			limit = u.Patience
		}
		asking, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		all, err := []string{}, error(nil)
		for tag, tagErr := range u.Reader.Tags(asking, u.path(to.repository)) {
			if err = tagErr; err != nil {
				break
			}
			all = append(all, tag.Name)
		}
		if r.Context().Err() == nil {
			u.answered(err, g.config.Now())
		}
		if err == nil {
			return writeTags(w, r, to.repository, all)
		}
		if !have || errors.Is(err, image.ErrMissing) {
			return u.failure(err, errNoName)
		}
		u.warn(w.Header(), true, err)
		return g.listTags(w, r, to)
	}
	u.warn(w.Header(), false, nil)
	return g.listTags(w, r, to)
}

// serveReferrers lists the upstream's referrers or, if it does not answer, those
// that were copied. Where the upstream has no such list the answer is 404, by
// which clients look for a tag (OCI distribution specification 1.1, section
// Referrers Tag Schema).
func (g *Registry) serveReferrers(w http.ResponseWriter, r *http.Request, u *upstream, to route) error {
	have := g.exists(to.repository)
	asked := false
	var err error
	if !have || !u.resting(g.config.Now()) {
		asked = true
		limit := askTime
		if have {
			limit = u.Patience
		}
		asking, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		var list []image.Descriptor
		list, err = u.Reader.Referrers(asking, u.path(to.repository), digest.Digest(to.reference))
		if r.Context().Err() == nil {
			u.answered(err, g.config.Now())
		}
		switch {
		case err == nil:
			return writeReferrers(w, r, list)
		case errors.Is(err, image.ErrUnsupported):
			return &refusal{status: http.StatusNotFound, code: codeUnsupported, message: fmt.Sprintf("%s keeps no list of referrers", u.Host)}
		case errors.Is(err, image.ErrMissing):
			return noReferrers(w, r)
		case !have:
			return u.failure(err, errNoManifest)
		}
	}
	u.warn(w.Header(), asked, err)
	return g.listReferrers(w, r, to)
}

func writeReferrers(w http.ResponseWriter, r *http.Request, list []image.Descriptor) error {
	type listed struct {
		MediaType    string `json:"mediaType"`
		Digest       string `json:"digest"`
		Size         int64  `json:"size"`
		ArtifactType string `json:"artifactType,omitempty"`
	}
	filter := r.URL.Query().Get(filterParam)
	all := []listed{}
	for _, d := range list {
		if filter == "" || d.ArtifactType == filter {
			all = append(all, listed{d.MediaType, d.Digest.String(), d.Size, d.ArtifactType})
		}
	}
	if filter != "" {
		w.Header().Set(filterHeader, filterParam)
	}
	w.Header().Set("Content-Type", indexType)
	return writeJSON(w, http.StatusOK, struct {
		SchemaVersion int      `json:"schemaVersion"`
		MediaType     string   `json:"mediaType"`
		Manifests     []listed `json:"manifests"`
	}{2, indexType, all})
}

// serveBlob answers with a blob that is here, or with what arrives of it while it
// is being stored.
func (g *Registry) serveBlob(w http.ResponseWriter, r *http.Request, u *upstream, to route) error {
	d := g.download(u, to.repository, to.reference)
	if d == nil {
		u.copies.Add(1)
		g.forward(w, r, to)
		return nil
	}
	defer d.leave()
	if r.Method == http.MethodHead {
		if err := d.wait(r.Context()); err != nil {
			return u.failure(err, errNoBlob)
		}
		u.fetched.Add(1)
		g.forward(w, r, to)
		return nil
	}
	if err := d.begun(r.Context()); err != nil {
		return u.failure(err, errNoBlob)
	}
	u.fetched.Add(1)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", to.reference)
	w.WriteHeader(http.StatusOK)
	if err := d.copyTo(r.Context(), w); err != nil {
		g.config.Log.WarnContext(r.Context(), "copy broke off", "repository", to.repository, "digest", to.reference, "error", err)
		// A body that ended would look whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// blobFile is where a blob is.
func (g *Registry) blobFile(repository, reference string) string {
	return blobFileIn(g.folderOf(repository), reference)
}

func blobFileIn(folder, reference string) string {
	algorithm, hex, _ := strings.Cut(reference, ":")
	return filepath.Join(folder, blobsFolder, algorithm, hex)
}

// holdsFile says whether a blob is there.
func (g *Registry) holdsFile(repository, reference string) bool {
	info, err := os.Stat(g.blobFile(repository, reference))
	return err == nil && info.Mode().IsRegular() && g.stored(repository)
}
