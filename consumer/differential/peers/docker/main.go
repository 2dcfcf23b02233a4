// Command docker answers for the docker CLI, BuildKit's client, go-containerregistry
// and ORAS, with their own code.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	_ "unsafe" // for go:linkname

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/session/auth/authprovider"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

// resetConfigDir has the environment looked at again, as a process that starts does.
//
//go:linkname resetConfigDir github.com/docker/cli/cli/config.resetConfigDir
func resetConfigDir()

func main() {
	peer.Serve(map[string]peer.Client{"docker": docker, "buildkit": buildkit, "ggcr": ggcr, "oras": oras})
}

// docker is what "docker pull" sends to the daemon.
func docker(q peer.Question) ([]peer.Login, error) {
	resetConfigDir()
	token, err := command.RetrieveAuthTokenFromImage(config.LoadDefaultConfigFile(io.Discard), q.Image)
	if err != nil {
		return nil, err
	}
	return fromToken(token)
}

// fromToken reads the X-Registry-Auth header as the daemon does: of "auth" it makes
// no use.
func fromToken(token string) ([]peer.Login, error) {
	text, err := base64.URLEncoding.DecodeString(token)
	if err != nil {
		return nil, err
	}
	var login struct{ Username, Password, IdentityToken, RegistryToken string }
	if err := json.Unmarshal(text, &login); err != nil {
		return nil, err
	}
	return peer.One(login), nil
}

// buildkit is what buildctl lends to buildkitd, which asks for Docker Hub by the name
// of its API.
func buildkit(q peer.Question) ([]peer.Login, error) {
	resetConfigDir()
	named, err := reference.ParseNormalizedNamed(q.Image)
	if err != nil {
		return nil, err
	}
	host := reference.Domain(named)
	if host == "docker.io" {
		host = authprovider.DockerHubRegistryHost
	}
	ac, err := authprovider.LoadAuthConfig(config.LoadDefaultConfigFile(io.Discard))(context.Background(), host, nil, nil)
	if err != nil {
		return nil, err
	}
	return peer.One(peer.Login{Username: ac.Username, Password: ac.Password, IdentityToken: ac.IdentityToken, RegistryToken: ac.RegistryToken}), nil
}

func ggcr(q peer.Question) ([]peer.Login, error) {
	resetConfigDir()
	ref, err := name.ParseReference(q.Image)
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	found, err := authn.DefaultKeychain.Resolve(ref.Context())
	if err != nil {
		return nil, err
	}
	ac, err := found.Authorization()
	if err != nil {
		return nil, err
	}
	return peer.One(peer.Login{Username: ac.Username, Password: ac.Password, IdentityToken: ac.IdentityToken, RegistryToken: ac.RegistryToken}), nil
}

// oras is what "oras pull" does, with the options that oras gives
// (internal/credential/store.go of oras): its command line takes full names only, so that
// short ones are written out first.
func oras(q peer.Question) ([]peer.Login, error) {
	named, err := reference.ParseNormalizedNamed(q.Image)
	if err != nil {
		return nil, err
	}
	text := named.String()
	if tagged, _, ok := strings.Cut(text, "@"); ok {
		text = tagged
	}
	ref, err := registry.ParseReference(text)
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{AllowPlaintextPut: true})
	if err != nil {
		return nil, err
	}
	c, err := credentials.Credential(store)(context.Background(), ref.Host())
	if err != nil {
		return nil, err
	}
	return peer.One(peer.Login{Username: c.Username, Password: c.Password, IdentityToken: c.RefreshToken, RegistryToken: c.AccessToken}), nil
}
