package builtin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// putManifest stores a manifest. The manifests of a repository are stored one
// after the other: olareg reads, extends and writes the list of a subject's
// referrers without a lock, and of two that come at once would forget one. So
// that a slow client does not hold up the others, the body is read first.
func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, by caller, to route) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return &refusal{status: http.StatusRequestEntityTooLarge, code: codeManifestInvalid, message: fmt.Sprintf("manifest is longer than %d bytes", tooLong.Limit)}
	case err != nil:
		return &refusal{status: http.StatusBadRequest, code: codeManifestInvalid, message: "manifest cannot be read"}
	}
	if err := g.create(r.Context(), to.repository); err != nil {
		return err
	}
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	answer := &captured{header: http.Header{}}
	err = func() error {
		lock := g.locks.of(to.repository)
		lock.Lock()
		defer lock.Unlock()
		if err := g.checkOverwrite(r, to, body); err != nil {
			return err
		}
		g.forward(answer, r, to)
		return nil
	}()
	if err != nil {
		return err
	}
	if answer.status == http.StatusCreated {
		digest, tags := newDigest(r, to, body)
		g.history.pushed(to.repository, digest, tags)
		g.tellPush(r, by, to, digest, tags, body)
	}
	return answer.send(w)
}

// deleteManifest deletes a manifest, or a tag of one. A manifest whose tag is
// deleted stays a referrer of its subject: olareg forgets that, and is reminded
// by having the manifest put again by its digest.
func (g *Registry) deleteManifest(w http.ResponseWriter, r *http.Request, by caller, to route) error {
	answer, err := g.delete(r, to)
	if err != nil {
		return err
	}
	if answer.status == http.StatusAccepted {
		g.history.deleted(to.repository, to.reference)
		g.tellDelete(r, by, to)
	}
	return answer.send(w)
}

func (g *Registry) delete(r *http.Request, to route) (*captured, error) {
	lock := g.locks.of(to.repository)
	lock.Lock()
	defer lock.Unlock()
	if err := g.checkDelete(r.Context(), to); err != nil {
		return nil, err
	}
	var referrer *storedManifest
	if tagForm.MatchString(to.reference) {
		stored, err := g.manifest(r.Context(), to.repository, to.reference)
		switch {
		case errors.Is(err, errNoManifest):
			// A tag whose manifest is lost can still be deleted.
		case err != nil:
			return nil, err
		case stored.Subject.Digest != "":
			referrer = stored
		}
	}
	answer := &captured{header: http.Header{}}
	g.forward(answer, r, to)
	if answer.status == http.StatusAccepted && referrer != nil {
		again, err := g.ask(r.Context(), http.MethodPut, "/v2/"+to.repository+"/manifests/"+referrer.digest,
			http.Header{"Content-Type": {referrer.mediaType}}, referrer.raw)
		if err == nil && again.status != http.StatusCreated {
			err = fmt.Errorf("keep referrer %s: storage answers %d", referrer.digest, again.status)
		}
		if err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// deleteBlob deletes a blob, unless a tag that never moves is made of it.
func (g *Registry) deleteBlob(w http.ResponseWriter, r *http.Request, to route) error {
	lock := g.locks.of(to.repository)
	lock.Lock()
	defer lock.Unlock()
	if err := g.checkDelete(r.Context(), to); err != nil {
		return err
	}
	g.forward(w, r, to)
	return nil
}

// storedManifest is a manifest or an index: the parts of both that name other
// content.
type storedManifest struct {
	digest    string
	mediaType string
	raw       []byte

	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
	Subject   descriptor   `json:"subject"`
}

type descriptor struct {
	Digest string `json:"digest"`
}

// manifest reads a manifest by its tag or digest. The error is errNoManifest
// if there is none.
func (g *Registry) manifest(ctx context.Context, repository, reference string) (*storedManifest, error) {
	got, err := g.ask(ctx, http.MethodGet, "/v2/"+repository+"/manifests/"+reference, nil, nil)
	if err != nil {
		return nil, err
	}
	switch got.status {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, errNoManifest
	default:
		return nil, fmt.Errorf("read manifest %s of %s: storage answers %d", reference, repository, got.status)
	}
	stored := &storedManifest{
		digest:    got.header.Get("Docker-Content-Digest"),
		mediaType: got.header.Get("Content-Type"),
		raw:       got.body.Bytes(),
	}
	if err := json.Unmarshal(stored.raw, stored); err != nil {
		return nil, fmt.Errorf("read manifest %s of %s: %w", reference, repository, err)
	}
	return stored, nil
}

func sha256Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
