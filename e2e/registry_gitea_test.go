package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	peer "github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/gitea"
	"github.com/regkeeper/regkeeper/registry/oci"
	"github.com/regkeeper/regkeeper/registry/registrytest"
)

// requests counts what is sent to each API.
type requests struct{ oci, native atomic.Int64 }

func (c *requests) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasPrefix(r.URL.Path, "/api/") {
		c.native.Add(1)
	} else {
		c.oci.Add(1)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// packagesAt is the adapter at a real server, and its count of requests.
func packagesAt(server *peer.Server, user, secret string) (*gitea.Registry, *requests) {
	count := &requests{}
	sent := transport.New(transport.Config{Base: count})
	login := func(context.Context) (credential.Login, error) {
		return credential.Login{Username: user, Secret: credential.NewSecret(secret)}, nil
	}
	return gitea.New(gitea.Config{
		OCI: oci.New(oci.Config{Host: credential.Host(server.Host), Transport: sent, Login: login}),
		URL: server.URL, Transport: sent, Login: login, Now: time.Now,
	}), count
}

func TestGiteaPackagesConform(t *testing.T) {
	t.Parallel()
	server := peer.Start(t)
	password := server.CreateUser(owner)
	_, token := server.CreateToken(owner, password, "packages", "write:package")
	r, _ := packagesAt(server, owner, token)
	refused, _ := packagesAt(server, owner, "hunter2-wrong")
	down, _ := packagesAt(&peer.Server{URL: "http://127.0.0.1:1", Host: "127.0.0.1:1"}, owner, token)
	n := 0
	registrytest.Run(t, func(*testing.T) registrytest.Setup {
		n++
		return registrytest.Setup{
			Reader: r, Writer: r, Deleter: r,
			Repository: fmt.Sprintf("%s/team/sub/app%d", owner, n), Other: fmt.Sprintf("%s/other%d", owner, n),
			Catalog: true, Mounts: true, Deletes: true, Many: 120,
			Refused: refused, Down: down, Secrets: []string{token, password, "hunter2"},
		}
	})
}

// TestGiteaPackages sees at a real server what the adapter rests on: dates, what
// goes with what, and how much it asks.
func TestGiteaPackages(t *testing.T) {
	t.Parallel()
	server := peer.Start(t)
	password := server.CreateUser(owner)
	_, token := server.CreateToken(owner, password, "packages", "write:package")
	_, reading := server.CreateToken(owner, password, "reading", "read:package")
	_, elsewhere := server.CreateToken(owner, password, "elsewhere", "write:repository")
	r, count := packagesAt(server, owner, token)
	repo := owner + "/team/app"

	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}`)
	b := image.Blob{Digest: digest.FromBytes(config), Size: int64(len(config)), MediaType: "application/vnd.oci.image.config.v1+json"}
	write := func(repo, tag, note string, children ...digest.Digest) digest.Digest {
		t.Helper()
		mediaType := "application/vnd.oci.image.manifest.v1+json"
		doc := map[string]any{
			"schemaVersion": 2, "mediaType": mediaType, "annotations": map[string]string{"note": note}, "layers": []any{},
			"config": map[string]any{"mediaType": b.MediaType, "digest": b.Digest, "size": b.Size},
		}
		if len(children) > 0 {
			mediaType = "application/vnd.oci.image.index.v1+json"
			var list []any
			for _, c := range children {
				d, err := r.Resolve(t.Context(), repo, c.String())
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, map[string]any{"mediaType": d.MediaType, "digest": c, "size": d.Size})
			}
			doc = map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": list}
		}
		raw, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		d, err := r.WriteManifest(t.Context(), repo, tag, mediaType, raw)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	blob := func(repo string) {
		t.Helper()
		if _, err := r.WriteBlob(t.Context(), repo, b, "", func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(string(config))), nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(repo string) (tags []string, untagged []digest.Digest) {
		t.Helper()
		for tag, err := range r.Tags(t.Context(), repo) {
			if err != nil {
				t.Fatal(err)
			}
			tags = append(tags, tag.Name)
		}
		for tag, err := range r.Untagged(t.Context(), repo) {
			if err != nil {
				t.Fatal(err)
			}
			untagged = append(untagged, tag.Digest)
		}
		slices.Sort(tags)
		return tags, untagged
	}

	// Dates are of the push.
	began := time.Now().Truncate(time.Second)
	blob(repo)
	write(repo, "V1.0", "a")
	for tag, err := range r.Tags(t.Context(), repo) {
		if err != nil || tag.Name != "v1.0" || tag.Pushed.Before(began) || tag.Pushed.After(time.Now()) || tag.Digest != "" {
			t.Errorf("a tag is listed as %+v, %v", tag, err)
		}
	}
	if _, err := r.Resolve(t.Context(), repo, "V1.0"); err != nil {
		t.Errorf("resolve in upper case: %v", err)
	}
	if err := r.DeleteTag(t.Context(), repo, "V1.0"); err != nil {
		t.Error(err)
	}

	// With the last manifest that names a blob goes the blob.
	if _, err := r.Blob(t.Context(), repo, b.Digest); !errors.Is(err, image.ErrMissing) {
		t.Errorf("read the blob of what was deleted: %v", err)
	}
	blob(repo)

	// The children of an index are manifests without a tag. They stay when it
	// goes, and go one by one.
	child, other := write(repo, "", "b"), write(repo, "", "c")
	index := write(repo, "all", "", child, other)
	write(repo, "ALL-too", "", child, other)
	tags, untagged := list(repo)
	if diff := cmp.Diff([]string{"all", "all-too"}, tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]digest.Digest{other, child}, untagged); diff != "" {
		t.Errorf("untagged (-want +got):\n%s", diff)
	}
	if err := r.DeleteManifest(t.Context(), repo, index); problem.KindOf(err) != problem.Denied {
		t.Errorf("delete an index with tags: %v", err)
	}
	if err := r.DeleteTag(t.Context(), repo, "all"); err != nil {
		t.Error(err)
	}
	if tags, untagged = list(repo); len(tags) != 1 || len(untagged) != 2 {
		t.Errorf("left are %v and %v", tags, untagged)
	}
	if err := r.DeleteTag(t.Context(), repo, "all-too"); err != nil {
		t.Error(err)
	}
	if tags, untagged = list(repo); len(tags) != 0 || len(untagged) != 2 {
		t.Errorf("left are %v and %v", tags, untagged)
	}
	for _, d := range []digest.Digest{child, other} {
		if err := r.DeleteManifest(t.Context(), repo, d); err != nil {
			t.Error(err)
		}
	}
	if tags, untagged = list(repo); len(tags) != 0 || len(untagged) != 0 {
		t.Errorf("left are %v and %v", tags, untagged)
	}

	blob(repo)

	// A manifest that was pushed by digest and by tag is there twice.
	twice := write(repo, "", "d")
	write(repo, "twice", "d")
	if tags, untagged = list(repo); len(tags) != 1 || len(untagged) != 1 {
		t.Errorf("pushed by digest and by tag: %v and %v", tags, untagged)
	}
	if err := r.DeleteManifest(t.Context(), repo, twice); problem.KindOf(err) != problem.Denied {
		t.Errorf("delete a manifest that a tag leads to: %v", err)
	}
	if _, err := r.Resolve(t.Context(), repo, "twice"); err != nil {
		t.Errorf("its tag: %v", err)
	}

	// A thousand tags cost 20 requests.
	many := owner + "/many"
	blob(many)
	for n := range 1000 {
		write(many, fmt.Sprint("v", n), "a")
	}
	count.native.Store(0)
	count.oci.Store(0)
	started := time.Now()
	tags, _ = list(many)
	native, others := count.native.Load(), count.oci.Load()
	if len(tags) != 1000 || native != 20 || others != 0 {
		t.Errorf("%d tags were listed with %d requests to the package API and %d to the registry", len(tags), native, others)
	}
	t.Logf("1000 tags in %s", time.Since(started))
	started = time.Now()
	for n := range 50 {
		if err := r.DeleteTag(t.Context(), many, fmt.Sprint("v", n)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("50 deletions by the package API in %s", time.Since(started))
	started = time.Now()
	for n := range 50 {
		if err := r.Registry.DeleteTag(t.Context(), many, fmt.Sprint("v", 50+n)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("50 deletions by the OCI API in %s", time.Since(started))

	// Rights.
	reader, _ := packagesAt(server, owner, reading)
	if err := reader.DeleteTag(t.Context(), many, "v999"); problem.KindOf(err) != problem.Denied || !strings.Contains(problem.HintOf(err), "write:package") {
		t.Errorf("delete with a token for reading: %v", err)
	}
	foreign, _ := packagesAt(server, owner, elsewhere)
	for _, err := range foreign.Tags(t.Context(), many) {
		if problem.KindOf(err) != problem.Denied || !strings.Contains(problem.HintOf(err), "read:package") {
			t.Errorf("list with a token for something else: %v", err)
		}
	}
	withPassword, _ := packagesAt(server, owner, password)
	n := 0
	for _, err := range withPassword.Tags(t.Context(), many) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 900 {
		t.Errorf("%d tags are listed with the password, want 900", n)
	}
	for _, err := range r.Tags(t.Context(), "nobody/app") {
		if problem.KindOf(err) != problem.NotFound {
			t.Errorf("list of an unknown owner: %v", err)
		}
	}
}
