package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/regkeeper/regkeeper/e2e/peers/buildx"
	"github.com/regkeeper/regkeeper/e2e/peers/commands"
	"github.com/regkeeper/regkeeper/e2e/peers/cosign"
	"github.com/regkeeper/regkeeper/e2e/peers/distribution"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/stock"
)

// place is a repository of a real registry, and who may write to it.
type place struct {
	repository         string // host/name
	username, password string
	// config has the login, stranger none and liar a wrong one.
	config, stranger, liar string
}

func newPlace(t *testing.T, repository, username, password string) place {
	p := place{repository: repository, username: username, password: password}
	p.config = writeConfig(t, p.host(), username, password)
	p.stranger, p.liar = writeConfig(t, p.host(), username, ""), writeConfig(t, p.host(), username, wrong)
	return p
}

func (p place) host() string {
	host, _, _ := strings.Cut(p.repository, "/")
	return host
}

// places are the registries that images are pushed to and signed in.
var places = map[string]func(t *testing.T) place{
	"gitea": func(t *testing.T) place {
		server := gitea.Start(t)
		_, token := server.CreateToken(owner, server.CreateUser(owner), "ci-images", "write:package")
		return newPlace(t, server.Host+"/"+owner+"/app", owner, token)
	},
	"distribution 2": func(t *testing.T) place {
		server := distribution.Start(t, distribution.Options{DeleteEnabled: true, Users: map[string]string{owner: "right"}})
		t.Log(server.Version)
		return newPlace(t, server.Host+"/app", owner, "right")
	},
	"distribution 3": func(t *testing.T) place {
		server := distribution.Start(t, distribution.Options{V3: true, DeleteEnabled: true, Users: map[string]string{owner: "right"}})
		t.Log(server.Version)
		return newPlace(t, server.Host+"/app", owner, "right")
	},
}

func TestPeersImages(t *testing.T) {
	t.Parallel()
	builder, signer, other := buildx.Start(t), cosign.New(t), cosign.New(t)
	t.Logf("buildx %s, BuildKit %s, cosign %s", builder.Version, builder.DaemonVersion, signer.Version)
	if out, err := builder.Buildctl(t, "debug", "workers"); err != nil || !strings.Contains(out, "linux/amd64") {
		t.Errorf("workers of BuildKit: %s, %v", out, err)
	}
	for kind, start := range places {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			for who, config := range map[string]string{"none": p.stranger, "wrong": p.liar} {
				_, err := builder.Push(t.Context(), config, buildx.Image{Ref: p.repository + ":v1"})
				refused(t, who, err)
			}
			first := builder.Multiarch(t, p.config, p.repository+":v1", "first")
			second := builder.Multiarch(t, p.config, p.repository+":v2", "second")
			if first == second {
				t.Errorf("images with other content have one digest: %s", first)
			}
			want := []string{"linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"}
			if diff := cmp.Diff(want, p.platforms(t, first)); diff != "" {
				t.Errorf("manifests of the index (-want +got):\n%s", diff)
			}
			p.signs(t, signer, other, p.repository+"@"+first, p.repository+"@"+second)
			p.lists(t)
		})
	}
}

// platforms are those of an index's manifests.
func (p place) platforms(t *testing.T, digest string) (all []string) {
	t.Helper()
	for _, m := range p.index(t, digest).Manifests {
		all = append(all, m.Platform.String())
	}
	slices.Sort(all)
	return all
}

func (p place) index(t *testing.T, digest string) *v1.IndexManifest {
	t.Helper()
	ref, err := name.ParseReference(p.repository + "@" + digest)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref, p.login(t)...)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return manifest
}

func (p place) login(t *testing.T) []remote.Option {
	return []remote.Option{
		remote.WithAuth(&authn.Basic{Username: p.username, Password: p.password}),
		remote.WithContext(t.Context()),
	}
}

// signs wants cosign to verify what it signed and attested, in the form it did
// it, with its own key only.
func (p place) signs(t *testing.T, signer, other *cosign.Signer, signed, plain string) {
	t.Helper()
	attest := func(how func(context.Context, string, string, ...string) error) func(context.Context, string, ...string) error {
		return func(ctx context.Context, config string, refs ...string) error {
			return how(ctx, config, `{"tests": "passed"}`, refs...)
		}
	}
	type step func(ctx context.Context, config string, refs ...string) error
	for _, form := range []struct {
		name               string
		sign, verify, liar step
	}{
		{"signature before bundles", signer.SignLegacy, signer.VerifyLegacy, other.VerifyLegacy},
		{"attestation before bundles", attest(signer.AttestLegacy), signer.VerifyAttestationLegacy, other.VerifyAttestationLegacy},
		{"signature", signer.Sign, signer.Verify, other.Verify},
		{"attestation", attest(signer.Attest), signer.VerifyAttestation, other.VerifyAttestation},
	} {
		if err := form.verify(t.Context(), p.config, signed); err == nil {
			t.Errorf("%s: verified before it was made", form.name)
		}
		if err := form.sign(t.Context(), p.stranger, signed); err == nil {
			t.Errorf("%s: made without a login", form.name)
		}
		if err := form.sign(t.Context(), p.config, signed); err != nil {
			t.Errorf("%s: %v", form.name, err)
			continue
		}
		if err := form.verify(t.Context(), p.config, signed); err != nil {
			t.Errorf("%s: %v", form.name, err)
		}
		if err := form.verify(t.Context(), p.config, plain); err == nil {
			t.Errorf("%s: an image without one is verified", form.name)
		}
		if err := form.liar(t.Context(), p.config, signed); err == nil {
			t.Errorf("%s: another's key verifies it", form.name)
		}
	}
}

// lists wants each command to list the tags of the repository, with the login
// only.
func (p place) lists(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		command *commands.Command
		args    []string
	}{
		{commands.Crane(t), []string{"ls", p.repository}},
		{commands.Skopeo(t), []string{"list-tags", "--tls-verify=false", "docker://" + p.repository}},
		{commands.Oras(t), []string{"repo", "tags", "--plain-http", p.repository}},
		{commands.Regctl(t, p.host()), []string{"tag", "ls", p.repository}},
	} {
		out, err := c.command.Run(t.Context(), p.config, c.args...)
		if err != nil {
			t.Errorf("%s %s: %v", c.command.Name, c.command.Version, err)
		}
		for _, tag := range []string{"v1", "v2", ".sig"} {
			if !strings.Contains(out, tag) {
				t.Errorf("%s does not list %s: %s", c.command.Name, tag, out)
			}
		}
		if _, err := c.command.Run(t.Context(), p.stranger, c.args...); err == nil {
			t.Errorf("%s lists tags without a login", c.command.Name)
		}
		_, err = c.command.Run(t.Context(), p.liar, c.args...)
		refused(t, c.command.Name+" wrong", err)
	}
}

func TestDistributionCollectsGarbage(t *testing.T) {
	t.Parallel()
	builder := buildx.Start(t)
	for version, v3 := range map[string]bool{"2": false, "3": true} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := distribution.Start(t, distribution.Options{V3: v3, DeleteEnabled: true})
			keeps := distribution.Start(t, distribution.Options{V3: v3})
			regctl := commands.Regctl(t, server.Host, keeps.Host)
			image := func(host string) string {
				return host + "/app@" + builder.Multiarch(t, "", host+"/app:v1", "kept")
			}
			if _, err := regctl.Run(t.Context(), "", "manifest", "delete", image(keeps.Host)); err == nil {
				t.Error("a registry that lets nothing be deleted deleted a manifest")
			}
			if _, err := regctl.Run(t.Context(), "", "manifest", "delete", image(server.Host)); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(server.Log(), "DELETE /v2/app/manifests/sha256:") {
				t.Error("the log of the server does not tell of the deletion")
			}
			before := blobs(t, server.Storage)
			server.Stop()
			t.Log(server.CollectGarbage(true))
			server.Restart()
			if after := blobs(t, server.Storage); before == 0 || after != 0 {
				t.Errorf("%d blobs before, %d after, want none", before, after)
			}
			if resp, err := http.Get(server.URL + "/v2/"); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("the registry does not answer after a restart: %v", err)
			}
		})
	}
}

func TestDistributionTakesSettings(t *testing.T) {
	t.Parallel()
	for version, v3 := range map[string]bool{"2": false, "3": true} {
		for _, relative := range []bool{false, true} {
			server := distribution.Start(t, distribution.Options{V3: v3, HTTP: map[string]any{"relativeurls": relative}})
			resp, err := http.Post(server.URL+"/v2/app/blobs/uploads/", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if location := resp.Header.Get("Location"); strings.HasPrefix(location, "/v2/") != relative {
				t.Errorf("version %s, relative %t: an upload goes to %q", version, relative, location)
			}
		}
	}
}

// blobs counts the blobs in a registry's storage.
func blobs(t *testing.T, storage string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(storage, "docker/registry/v2/blobs"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "data" {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRegsync mirrors a repository with what refers to its images.
func TestRegsync(t *testing.T) {
	t.Parallel()
	builder, regsync, signer := buildx.Start(t), commands.Regsync(t), cosign.New(t)
	from, to := distribution.Start(t, distribution.Options{}), distribution.Start(t, distribution.Options{V3: true})
	digest := builder.Multiarch(t, "", from.Host+"/app:v1")
	if err := signer.Sign(t.Context(), "", from.Host+"/app@"+digest); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "regsync.yml")
	text, err := json.Marshal(map[string]any{
		"version": 1,
		"creds":   []any{map[string]any{"registry": from.Host, "tls": "disabled"}, map[string]any{"registry": to.Host, "tls": "disabled"}},
		"sync":    []any{map[string]any{"source": from.Host + "/app", "target": to.Host + "/mirror", "type": "repository", "referrers": true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := signer.Verify(t.Context(), "", to.Host+"/mirror@"+digest); err == nil {
		t.Error("verified before it was mirrored")
	}
	if _, err := regsync.Run(t.Context(), "", "once", "--config", config); err != nil {
		t.Fatal(err)
	}
	if err := signer.Verify(t.Context(), "", to.Host+"/mirror@"+digest); err != nil {
		t.Error(err)
	}
}

// stocked is how many images the test of the stock puts into a repository.
const stocked = 8

// TestStock fills repositories as a project's CI does over weeks, and says how
// long it takes.
func TestStock(t *testing.T) {
	t.Parallel()
	builder, signer := buildx.Start(t), cosign.New(t)
	newest := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	for kind, start := range places {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			begun := time.Now()
			images, err := stock.Fill(t.Context(), builder, signer, p.config, stock.Plan{
				Repository: p.repository, Tags: stock.Numbered("v1.", stocked),
				Newest: newest, Every: 24 * time.Hour, Sign: true, SignLegacy: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d images, signed twice, in %v", len(images), time.Since(begun).Round(time.Millisecond))
			digests := map[string]bool{}
			for _, image := range images {
				digests[image.Digest] = true
			}
			if len(digests) != stocked {
				t.Errorf("%d digests of %d images", len(digests), stocked)
			}
			last := images[len(images)-1]
			if !last.Created.Equal(newest) || last.Tag != fmt.Sprintf("v1.%d", stocked) {
				t.Errorf("the newest image is %+v", last)
			}
			for _, image := range []stock.Image{images[0], last} {
				if err := signer.Verify(t.Context(), p.config, image.Ref); err != nil {
					t.Error(err)
				}
				if err := signer.VerifyLegacy(t.Context(), p.config, image.Ref); err != nil {
					t.Error(err)
				}
				for _, created := range p.created(t, image.Tag) {
					if !created.Equal(image.Created) {
						t.Errorf("%s was created at %v, want %v", image.Tag, created, image.Created)
					}
				}
			}
		})
	}
}

// created is when the images of a tag say they were.
func (p place) created(t *testing.T, tag string) (all []time.Time) {
	t.Helper()
	for _, platform := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}} {
		ref, err := name.ParseReference(p.repository + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(ref, append(p.login(t), remote.WithPlatform(platform))...)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, config.Created.Time)
	}
	return all
}
