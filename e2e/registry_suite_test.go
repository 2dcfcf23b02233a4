package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/registry/oci"
	"github.com/regkeeper/regkeeper/registry/registrytest"
)

// abilities are what a registry can do.
type abilities struct{ catalog, referrers, mounts bool }

// TestRegistriesConform runs the conformance suite of registries against real
// ones, by the API that all have.
func TestRegistriesConform(t *testing.T) {
	t.Parallel()
	for kind, can := range map[string]abilities{
		"embedded":       {catalog: true, referrers: true, mounts: true},
		"gitea":          {catalog: true, mounts: true},
		"distribution 2": {catalog: true, mounts: true},
		"distribution 3": {catalog: true, mounts: true},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			y := yards[kind](t)
			sent := transport.New(transport.Config{Base: http.DefaultTransport})
			as := func(host, password string) *oci.Registry {
				return oci.New(oci.Config{Host: credential.Host(host), Transport: sent, Login: func(context.Context) (credential.Login, error) {
					return credential.Login{Username: y.username, Secret: credential.NewSecret(password)}, nil
				}})
			}
			tested := as(y.host(), y.password)
			n := 0
			registrytest.Run(t, func(*testing.T) registrytest.Setup {
				n++
				var corrupt func(testing.TB, digest.Digest)
				if y.storage != "" {
					corrupt = y.corrupt
				}
				return registrytest.Setup{
					Reader: tested, Writer: tested, Deleter: tested,
					Repository: fmt.Sprintf("%s/team/app%d", owner, n), Other: fmt.Sprintf("%s/other%d", owner, n),
					Catalog: can.catalog, Referrers: can.referrers, Mounts: can.mounts, Deletes: true,
					Corrupt: corrupt,
					Refused: as(y.host(), wrong), Down: as("127.0.0.1:1", y.password), Secrets: []string{y.password, wrong},
				}
			})
		})
	}
}

// corrupt changes a blob or manifest in the storage of distribution.
func (y *yard) corrupt(t testing.TB, d digest.Digest) {
	t.Helper()
	path := filepath.Join(y.storage, "docker/registry/v2/blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	writeText(t, path, string(raw))
}
