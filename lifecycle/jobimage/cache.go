package jobimage

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/cache"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// Cache keeps what layers have at which path, and manifests and configs, in a
// folder: by digest, since that never changes. What was not used for five days may
// be removed. Several processes may use one folder, and the cache of package
// lifecycle may be in it. A nil Cache keeps nothing.
//
// Of a layer that was not read to its end, no digest vouches for what came. That
// is kept for the repository that it came from alone, as a part.
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

// form is that of the trees that are kept: another form is another key.
const form = "jobimage 2 "

// mostCached bounds a tree that is read from the cache, in bytes: more than it has
// there it takes in memory.
const mostCached = DefaultMaxMemory

func (c *Cache) get(key string) ([]byte, bool) {
	if c == nil {
		return nil, false
	}
	raw, _, err := c.files.GetBytes(sha256.Sum256([]byte(form + key)))
	return raw, err == nil
}

// put keeps what it can: a cache that cannot be written costs requests, no more.
func (c *Cache) put(key string, raw []byte) {
	if c != nil {
		_ = c.files.PutBytes(sha256.Sum256([]byte(form+key)), raw)
	}
}

func (c *Cache) tree(key string) *node {
	raw, ok := c.get(key)
	if !ok {
		return nil
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(mostCached))
	if err != nil {
		return nil
	}
	defer decoder.Close()
	plain, err := decoder.DecodeAll(raw, nil)
	if err != nil {
		return nil
	}
	var tree node
	if err := gob.NewDecoder(bytes.NewReader(plain)).Decode(&tree); err != nil {
		return nil
	}
	return &tree
}

func (c *Cache) putTree(key string, tree *node) {
	if c == nil {
		return
	}
	var plain bytes.Buffer
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return
	}
	defer func() { _ = encoder.Close() }()
	if err := gob.NewEncoder(&plain).Encode(tree); err == nil {
		c.put(key, encoder.EncodeAll(plain.Bytes(), nil))
	}
}
