package lifecycle

import (
	"bytes"
	"crypto/sha256"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/cache"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
)

// Cache keeps manifests and configs of images in a folder, by digest: they never
// change. What was not used for five days may be removed. Several processes may
// use one folder. A nil Cache keeps nothing.
type Cache struct {
	files *cache.Cache
}

// OpenCache opens a cache in a folder, which is made if there is none.
func OpenCache(folder string) (*Cache, error) {
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

// manifest answers from the cache what has the digest, or else what read gives.
// An entry is the media type, a line end, and the document.
func (c *Cache) manifest(d digest.Digest, read func() (string, []byte, error)) (mediaType string, raw []byte, err error) {
	if entry, ok := c.get("manifest", d); ok {
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
		c.put("manifest", d, append([]byte(mediaType+"\n"), raw...))
	}
	return mediaType, raw, nil
}

func (c *Cache) config(d digest.Digest, read func() ([]byte, error)) ([]byte, error) {
	if raw, ok := c.get("config", d); ok && d.Algorithm().FromBytes(raw) == d {
		return raw, nil
	}
	raw, err := read()
	if err == nil {
		c.put("config", d, raw)
	}
	return raw, err
}

func key(kind string, d digest.Digest) cache.ActionID {
	return sha256.Sum256([]byte(kind + " " + d.String()))
}

func (c *Cache) get(kind string, d digest.Digest) ([]byte, bool) {
	if c == nil {
		return nil, false
	}
	raw, _, err := c.files.GetBytes(key(kind, d))
	return raw, err == nil
}

// put keeps what it can: a cache that cannot be written costs requests, no more.
func (c *Cache) put(kind string, d digest.Digest, raw []byte) {
	if c != nil {
		_ = c.files.PutBytes(key(kind, d), raw)
	}
}
