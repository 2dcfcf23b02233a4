package jobimage

import (
	"bytes"
	"encoding/gob"

	"github.com/klauspost/compress/zstd"

	"github.com/regkeeper/regkeeper/internal/imagecache"
)

// form is that of the trees that are kept: another form is another key.
const form = "jobimage 2 "

// mostCached bounds a tree that is read from the cache, in bytes: more than it has
// there it takes in memory.
const mostCached = DefaultMaxMemory

// cachedTree is what was kept of a layer; nil if nothing was. Of a layer that was not
// read to its end, no digest vouches for what came: that is kept for the repository
// that it came from alone, as a part.
func cachedTree(c *imagecache.Cache, key string) *node {
	raw, ok := c.Get(form + key)
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

func cacheTree(c *imagecache.Cache, key string, tree *node) {
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
		c.Put(form+key, encoder.EncodeAll(plain.Bytes(), nil))
	}
}
