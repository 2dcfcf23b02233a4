package place_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/explain/place"
)

func TestPlain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.json")
	for range 2 {
		got, err := place.At(file)
		if diff := cmp.Diff(place.Place{Path: file}, got); diff != "" || err != nil {
			t.Errorf("%v, (-want +got):\n%s", err, diff)
		}
		if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := place.At(filepath.Join(file+".d", "config.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
}

func TestOf(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.json")
	got := place.Of(consumer.Decision{Looked: []consumer.Look{
		{Where: "$DOCKER_AUTH_CONFIG"}, {Where: file}, {Where: file, Key: "host"}, {Where: "/no/such/folder/config.json"},
	}})
	if diff := cmp.Diff([]place.Place{{Path: file}}, got); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
}
