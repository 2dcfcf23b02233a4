// Command docker28 answers for the docker CLI before 28.3, with its own code.
package main

import (
	"context"
	"errors"
	"io"
	"net"
	_ "unsafe" // for go:linkname

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/trust"
	"github.com/docker/docker/api/types/registry"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

// resetConfigDir has the environment looked at again, as a process that starts does.
//
//go:linkname resetConfigDir github.com/docker/cli/cli/config.resetConfigDir
func resetConfigDir()

func main() {
	// Whether a registry is an insecure one is looked up by its name, which does not
	// bear on logins.
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("there is no network")
	}}
	peer.Serve(map[string]peer.Client{"docker-28.2": docker})
}

// docker is what "docker pull" sends to the daemon: runPull of cli/command/image.
func docker(q peer.Question) ([]peer.Login, error) {
	resetConfigDir()
	file := config.LoadDefaultConfigFile(io.Discard)
	image, err := trust.GetImageReferencesAndAuth(context.Background(), func(_ context.Context, index *registry.IndexInfo) registry.AuthConfig {
		return command.ResolveAuthConfig(file, index)
	}, q.Image)
	if err != nil {
		return nil, err
	}
	ac := image.AuthConfig()
	return peer.One(peer.Login{Username: ac.Username, Password: ac.Password, IdentityToken: ac.IdentityToken, RegistryToken: ac.RegistryToken}), nil
}
