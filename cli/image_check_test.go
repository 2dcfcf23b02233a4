package cli_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle/jobimage"
)

// jobImage builds an image as a builder does, of layers that each have these
// files. A name with " -> " is a link.
func jobImage(t *testing.T, architecture string, layers ...[]string) v1.Image {
	t.Helper()
	built := empty.Image
	for _, names := range layers {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, file := range names {
			header := &tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o755}
			if link, to, ok := strings.Cut(file, " -> "); ok {
				header = &tar.Header{Name: link, Linkname: to, Typeflag: tar.TypeSymlink, Mode: 0o777}
			}
			if err := w.WriteHeader(header); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
		if err != nil {
			t.Fatal(err)
		}
		if built, err = mutate.AppendLayers(built, layer); err != nil {
			t.Fatal(err)
		}
	}
	file, err := built.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", architecture
	if built, err = mutate.ConfigFile(built, file); err != nil {
		t.Fatal(err)
	}
	return built
}

// TestImageCheck checks images that a builder's library made, in a registry over
// HTTP, and reads what is printed.
func TestImageCheck(t *testing.T) {
	home := t.TempDir()
	for _, variable := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DOCKER_CONFIG"} {
		t.Setenv(variable, home)
	}
	fake := fakeregistry.New(fakeregistry.Config{})
	server := httptest.NewServer(fake)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	reference := func(tag string) name.Tag {
		ref, err := name.NewTag(host + "/team/ci:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	base := []string{"bin -> usr/bin", "usr/bin/busybox", "usr/bin/sh -> busybox", "usr/bin/grep -> /bin/busybox"}
	index := v1.ImageIndex(empty.Index)
	for architecture, layers := range map[string][][]string{"amd64": {base, {"usr/local/bin/git"}}, "arm64": {base, {"usr/bin/.wh.grep"}}} {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: jobImage(t, architecture, layers...), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	if err := remote.WriteIndex(reference("both"), index); err != nil {
		t.Fatal(err)
	}
	data := "--data=" + t.TempDir()

	out, errs, code := run(t, "image", "check", data, host+"/team/ci:both", "--platform", "linux/amd64", "--needs", "git")
	if code != 0 || errs != "" {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	// Digests of layers depend on the compressor.
	got := regexp.MustCompile(`\b[0-9a-f]{12}\b|[0-9.]+ kB`).ReplaceAllString(strings.ReplaceAll(out, host, "HOST"), "-")
	want := `HOST/team/ci:both -: fits
  linux/amd64: fits
    sh: sh at /usr/bin/sh is /usr/bin/busybox of layer 1 (-), by /usr/bin/sh -> busybox of layer 1
    shell: /usr/bin/sh is /usr/bin/busybox of layer 1 (-), by /usr/bin/sh -> busybox of layer 1
    grep: grep at /usr/bin/grep is /usr/bin/busybox of layer 1 (-), by /usr/bin/grep -> /bin/busybox of layer 1, /bin -> usr/bin of layer 1
    git: git at /usr/local/bin/git of layer 2 (-)
    downloaded - of -, of 2 of 2 layers, in 4 requests
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// The base is known by now; on the other platform a layer takes grep away.
	out, errs, code = run(t, "image", "check", data, host+"/team/ci:both", "--platform", "all", "-o", "json")
	if code != 12 || !strings.Contains(errs, "there is no grep for linux/arm64\n") || strings.Contains(errs, "amd64") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	var reports []jobimage.Report
	if err := json.Unmarshal([]byte(out), &reports); err != nil || len(reports) != 1 || len(reports[0].Platforms) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, p := range reports[0].Platforms {
		verdict, reading := jobimage.Fits, jobimage.Remembered
		if p.Platform == "linux/arm64" {
			verdict = jobimage.Unfit
		}
		if p.Verdict != verdict || p.Layers[0].Reading != reading || p.Layers[0].Fetched != 0 {
			t.Errorf("%s: %s, and the base was %s", p.Platform, p.Verdict, p.Layers[0].Reading)
		}
	}

	// Bash is not enough: the runner begins with sh.
	if err := remote.Write(reference("bash"), jobImage(t, "amd64", []string{"bin/bash", "bin/grep"})); err != nil {
		t.Fatal(err)
	}
	out, errs, code = run(t, "image", "check", data, host+"/team/ci:bash", "--platform", "linux/amd64")
	if code != 12 || !strings.Contains(errs, "there is no sh for linux/amd64\n") || !strings.Contains(out, "shell: /bin/bash of layer 1") || !strings.Contains(out, "note: there is /bin/bash and no sh in PATH") {
		t.Errorf("exit code %d: %s\n%s", code, errs, out)
	}

	// One that fits does not hide one that does not, and the other way round.
	if err := remote.Write(reference("bare"), jobImage(t, "amd64", []string{"app"})); err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference("odd"), jobImage(t, "amd64", []string{"bin/sh -> \x1b[2J"})); err != nil {
		t.Fatal(err)
	}
	out, _, code = run(t, "image", "check", data, host+"/team/ci:odd", "--platform", "linux/amd64")
	if code != 12 || strings.Contains(out, "\x1b") || !strings.Contains(out, `\x1b[2J`) {
		t.Errorf("exit code %d: %q", code, out)
	}
	out, errs, code = run(t, "image", "check", data, host+"/team/ci:bare", host+"/team/ci:nope", host+"/team/ci:both", "--platform", "linux/amd64")
	if code == 0 || !strings.Contains(out, "ci:bare") || !strings.Contains(out, "ci:both") || !strings.Contains(errs, "no sh for linux/amd64, no shell for linux/amd64, no grep for linux/amd64") || !strings.Contains(errs, "ci:nope") {
		t.Errorf("exit code %d: %s\n%s", code, errs, out)
	}
}
