// Command podman answers for podman, buildah and skopeo, with their own code.
package main

import (
	"errors"
	"io/fs"
	"os"

	"go.podman.io/common/pkg/auth"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/docker/config"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

func main() {
	peer.Serve(map[string]peer.Client{
		"podman": func(q peer.Question) ([]peer.Login, error) { return ask(q, auth.GetDefaultAuthFile()) },
		// The option of skopeo, cmd/skopeo/utils.go, has that default.
		"skopeo": func(q peer.Question) ([]peer.Login, error) { return ask(q, os.Getenv("REGISTRY_AUTH_FILE")) },
	})
}

func ask(q peer.Question, authFile string) ([]peer.Login, error) {
	named, err := reference.ParseNormalizedNamed(q.Image)
	if err != nil {
		return nil, err
	}
	// Nothing of the machine's own configuration is read.
	conf := q.Root + "/etc/containers/registries.conf"
	if _, err := os.Stat(conf); errors.Is(err, fs.ErrNotExist) {
		conf = os.DevNull
	}
	sys := &types.SystemContext{
		AuthFilePath:                authFile,
		SystemRegistriesConfPath:    conf,
		SystemRegistriesConfDirPath: q.Root + "/etc/containers/registries.conf.d",
	}
	if q.Env["XDG_RUNTIME_DIR"] == "" {
		sys.RootForImplicitAbsolutePaths = q.Root
	}
	sysregistriesv2.InvalidateCache()
	found, err := config.GetCredentialsForRef(sys, named)
	if err != nil {
		return nil, err
	}
	return peer.One(peer.Login{Username: found.Username, Password: found.Password, IdentityToken: found.IdentityToken}), nil
}
