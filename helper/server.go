package helper

import (
	"strings"

	"github.com/regkeeper/regkeeper/credential"
)

// Name is what clients know the helper by: the value under "credHelpers".
const Name = "regkeeper"

// Program is the file that clients look for on their PATH: "docker-credential-" and
// the name (docker/cli, cli/config/credentials, NewNativeStore).
const Program = "docker-credential-" + Name

// hubTokens are keys under which the docker CLI keeps the tokens of a login by
// browser. They stand below Docker Hub's own key and are no login for it
// (docker/cli, cli/command/registry/login.go).
var hubTokens = []string{"/v1/access-token", "/v1/refresh-token"}

// ParseServer reads the server URL of a client's question: what it has as the key of
// a registry, with or without a scheme, and with any path, since regkeeper has one
// login for a registry. A port is never added or dropped. ok is false for what names
// no registry: for the client that is a server nobody keeps.
//
//	https://index.docker.io/v1/   docker, go-containerregistry, BuildKit and ORAS for Docker Hub
//	docker.io                     podman, buildah and skopeo for Docker Hub
//	host, host:port               all, for other registries
//	https://host, https://host/v2/, host/team/app   what was typed at docker login
func ParseServer(url string) (host credential.Host, ok bool) {
	rest := strings.TrimSpace(url)
	for _, scheme := range []string{"https://", "http://"} {
		if len(rest) >= len(scheme) && strings.EqualFold(rest[:len(scheme)], scheme) {
			rest = rest[len(scheme):]
			break
		}
	}
	name, path, _ := strings.Cut(rest, "/")
	host, err := credential.ParseHost(name)
	if err != nil {
		return "", false
	}
	if host == credential.DockerHub {
		for _, token := range hubTokens {
			if strings.EqualFold(strings.TrimSuffix("/"+path, "/"), token) {
				return "", false
			}
		}
	}
	return host, true
}
