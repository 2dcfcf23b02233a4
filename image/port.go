package image

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrMissing is in the chain of an error when the registry says that it does not
// have what it was asked for. That is a fact; any other error leaves it open.
var ErrMissing = errors.New("not in the registry")

// ErrUnsupported is in the chain of an error when a registry has no such
// function, whoever asks.
var ErrUnsupported = errors.New("not supported by this registry")

// ErrMoved is in the chain of an error when a tag does not lead to what it was
// expected to.
var ErrMoved = errors.New("the tag has moved")

// Tag is a name of a manifest, and what the registry tells of it without being
// asked for each. What it does not tell is zero.
type Tag struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest,omitempty"`
	// Pushed is when the tag was last written, Pulled when it was last read.
	Pushed time.Time `json:"pushed,omitzero"`
	Pulled time.Time `json:"pulled,omitzero"`
}

// Descriptor is what a registry answers for the header of a manifest.
type Descriptor struct {
	MediaType    string
	ArtifactType string
	Digest       digest.Digest
	Size         int64 // in bytes; 0 where it is not told
}

// Reader reads one registry. Repositories are given by their paths. Its methods
// may be called at the same time. [credential.ErrRefused] may be in the chain of
// every error.
type Reader interface {
	// Repositories lists the repositories, in the registry's order. Its error
	// may have ErrUnsupported in its chain. It stops after the first error.
	Repositories(ctx context.Context) iter.Seq2[string, error]
	// Tags lists a repository's tags, in the registry's order. It stops after
	// the first error, in whose chain ErrMissing may be. Every tag is listed
	// once.
	Tags(ctx context.Context, repository string) iter.Seq2[Tag, error]
	// Resolve tells what a tag or digest leads to, by HEAD: some registries
	// count a GET as a download. ErrMissing may be in the error's chain.
	Resolve(ctx context.Context, repository, target string) (Descriptor, error)
	// Manifest reads a manifest. What comes has the digest asked for. ErrMissing
	// may be in the error's chain.
	Manifest(ctx context.Context, repository string, d digest.Digest) (mediaType string, raw []byte, err error)
	// Referrers lists the manifests whose subject is the one given, as the
	// registry's own list of them tells. ErrUnsupported is in the error's chain
	// where it keeps none.
	Referrers(ctx context.Context, repository string, d digest.Digest) ([]Descriptor, error)
	// Blob reads a blob of a repository. Reading to the end fails unless what
	// came has the digest. ErrMissing may be in the error's chain.
	Blob(ctx context.Context, repository string, d digest.Digest) (io.ReadCloser, error)
}

// Lister is a registry that also tells of manifests without a tag.
type Lister interface {
	Reader
	// Untagged lists the manifests of a repository that have no tag: Name is
	// empty. It stops after the first error.
	Untagged(ctx context.Context, repository string) iter.Seq2[Tag, error]
}

// Forgetter is a reader that may answer from what it was told a moment ago.
type Forgetter interface {
	Reader
	// Forget has what is asked next of a repository asked anew.
	Forget(repository string)
}

// Deleter is a registry of which manifests can be deleted. What is gone already
// is no error.
type Deleter interface {
	// DeleteTag deletes one tag, and no other tag of the same manifest.
	// ErrUnsupported is in the error's chain where the registry has no way.
	DeleteTag(ctx context.Context, repository, tag string) error
	// DeleteManifest deletes a manifest. Tags that lead to it may go with it,
	// or make it fail.
	DeleteManifest(ctx context.Context, repository string, d digest.Digest) error
}

// Registry is a registry of which images can be read, written and deleted.
type Registry interface {
	Reader
	Writer
	Deleter
}

// Outcome is how a blob came to be where it is.
type Outcome string

// The outcomes.
const (
	Present  Outcome = "present"  // it was there
	Mounted  Outcome = "mounted"  // taken over from another repository of the registry
	Uploaded Outcome = "uploaded" // sent
)

// Writer is a registry that takes images.
type Writer interface {
	// WriteBlob has a blob in a repository, from open if it must be sent. A
	// mount from another repository of the registry is tried first where one is
	// given.
	WriteBlob(ctx context.Context, repository string, blob Blob, mount string, open func(context.Context) (io.ReadCloser, error)) (Outcome, error)
	// WriteManifest writes a manifest under a tag, or under its digest where the
	// tag is empty. Everything that it names must be there.
	WriteManifest(ctx context.Context, repository, tag, mediaType string, raw []byte) (digest.Digest, error)
}
