// Package imagecache owns what is remembered of images in a folder: manifests and
// configs by their digests, since they never change, and what others make of them.
//
// It refuses to answer with a manifest or config that does not have its digest. All
// that it holds can be read again: one that cannot be written costs requests, no
// more.
package imagecache

import (
	"bytes"
	"crypto/sha256"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/cache"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
)

// Cache is a folder. What was not used for five days may be removed. Several
// processes may use one folder. A nil Cache keeps nothing.
type Cache struct {
	files *cache.Cache
}

// Open opens a cache in a folder, which is made if there is none. The error is a
// problem of kind [problem.Storage].
func Open(folder string) (*Cache, error) {
	if err := os.MkdirAll(folder, disk.PrivateFolder); err != nil {
		return nil, disk.Problem(err, "make cache folder %s", folder)
	}
	files, err := cache.Open(folder)
	if err != nil {
		return nil, disk.Problem(err, "open cache folder %s", folder)
	}
	return &Cache{files: files}, nil
}

// Trim removes what was not used for long.
func (c *Cache) Trim() {
	if c != nil {
		_ = c.files.Trim() // what cannot be removed is tried again
	}
}

// Manifest answers from the cache what has the digest, or else what read gives.
// Its error is that of read.
func (c *Cache) Manifest(d digest.Digest, read func() (mediaType string, raw []byte, err error)) (mediaType string, raw []byte, err error) {
	// An entry is the media type, a line end, and the document.
	key := "manifest " + d.String()
	if entry, ok := c.Get(key); ok {
		if mediaType, raw, ok := bytes.Cut(entry, []byte("\n")); ok && d.Algorithm().FromBytes(raw) == d {
			return string(mediaType), raw, nil
		}
	}
	mediaType, raw, err = read()
	if err != nil {
		return "", nil, err
	}
	// No digest vouches for the type: of what it does not fit nothing is kept.
	if _, err := image.ParseManifest(d, mediaType, raw); err == nil {
		c.Put(key, append([]byte(mediaType+"\n"), raw...))
	}
	return mediaType, raw, nil
}

// Config is Manifest for the config of an image.
func (c *Cache) Config(d digest.Digest, read func() ([]byte, error)) ([]byte, error) {
	key := "config " + d.String()
	if raw, ok := c.Get(key); ok && d.Algorithm().FromBytes(raw) == d {
		return raw, nil
	}
	raw, err := read()
	if err != nil {
		return nil, err
	}
	c.Put(key, raw)
	return raw, nil
}

// Get is what was put under the key. Nothing vouches for it but the folder.
func (c *Cache) Get(key string) ([]byte, bool) {
	if c == nil {
		return nil, false
	}
	raw, _, err := c.files.GetBytes(sha256.Sum256([]byte(key)))
	return raw, err == nil
}

// Put keeps it if it can. A key begins with what its entries are; those that begin
// with "manifest " and "config " are of [Cache.Manifest] and [Cache.Config].
func (c *Cache) Put(key string, raw []byte) {
	if c != nil {
		_ = c.files.PutBytes(sha256.Sum256([]byte(key)), raw)
	}
}
