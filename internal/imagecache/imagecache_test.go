package imagecache_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/problem"
)

var (
	manifest = []byte(`{"schemaVersion":2,"manifests":[]}`)
	config   = []byte(`{"os":"linux"}`)
)

func open(t *testing.T, folder string) *imagecache.Cache {
	t.Helper()
	c, err := imagecache.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// asked reads both from the cache, and returns how often each had to be read.
func asked(t *testing.T, c *imagecache.Cache) (manifests, configs int) {
	t.Helper()
	mediaType, raw, err := c.Manifest(digest.FromBytes(manifest), func() (string, []byte, error) {
		manifests++
		return ocispec.MediaTypeImageIndex, manifest, nil
	})
	if err != nil || mediaType != ocispec.MediaTypeImageIndex || string(raw) != string(manifest) {
		t.Fatalf("the manifest is %s %q: %v", mediaType, raw, err)
	}
	raw, err = c.Config(digest.FromBytes(config), func() ([]byte, error) {
		configs++
		return config, nil
	})
	if err != nil || string(raw) != string(config) {
		t.Fatalf("the config is %q: %v", raw, err)
	}
	return manifests, configs
}

func TestReadOnce(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "a", "b")
	c := open(t, folder)
	for _, want := range []int{1, 0} {
		if m, n := asked(t, c); m != want || n != want {
			t.Errorf("read are %d manifests and %d configs, want %d of each", m, n, want)
		}
		c.Trim()
		c = open(t, folder)
	}
	info, err := os.Stat(folder)
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the folder is %v: %v", info.Mode(), err)
	}
}

// What is in the folder and does not have its digest is read again.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, entry := range map[string]string{
		"other": ocispec.MediaTypeImageIndex + "\n{}", "none": "", "no type": string(manifest),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t, t.TempDir())
			c.Put("manifest "+digest.FromBytes(manifest).String(), []byte(entry))
			c.Put("config "+digest.FromBytes(config).String(), []byte(entry))
			for _, want := range []int{1, 0} {
				if m, n := asked(t, c); m != want || n != want {
					t.Errorf("read are %d manifests and %d configs, want %d of each", m, n, want)
				}
			}
		})
	}
}

func TestNotKept(t *testing.T) {
	t.Parallel()
	c := open(t, t.TempDir())
	broken := errors.New("broken")
	if _, _, err := c.Manifest(digest.FromBytes(manifest), func() (string, []byte, error) { return "", manifest, broken }); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	if _, err := c.Config(digest.FromBytes(config), func() ([]byte, error) { return config, broken }); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	// A type that does not fit the document is passed on.
	mediaType, _, err := c.Manifest(digest.FromBytes(manifest), func() (string, []byte, error) { return ocispec.MediaTypeImageManifest, manifest, nil })
	if err != nil || mediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("the type is %s: %v", mediaType, err)
	}
	if m, n := asked(t, c); m != 1 || n != 1 {
		t.Errorf("read are %d manifests and %d configs, want one of each", m, n)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	open(t, folder).Put("tree 1", []byte("leaves"))
	c := open(t, folder)
	if raw, ok := c.Get("tree 1"); !ok || string(raw) != "leaves" {
		t.Errorf("got %q, %v", raw, ok)
	}
	if raw, ok := c.Get("tree 2"); ok {
		t.Errorf("got %q", raw)
	}
}

// Without a cache all is read each time.
func TestNil(t *testing.T) {
	t.Parallel()
	var c *imagecache.Cache
	c.Trim()
	c.Put("tree", nil)
	if _, ok := c.Get("tree"); ok {
		t.Error("it keeps something")
	}
	for range 2 {
		if m, n := asked(t, c); m != 1 || n != 1 {
			t.Errorf("read are %d manifests and %d configs, want one of each", m, n)
		}
	}
}

func TestNoFolder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := imagecache.Open(file); problem.KindOf(err) != problem.Storage {
		t.Errorf("the error is %v", err)
	}
}
