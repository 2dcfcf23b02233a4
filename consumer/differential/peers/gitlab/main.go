// Command gitlab answers for GitLab Runner, with its own code.
package main

import (
	"encoding/json"

	"github.com/docker/cli/cli/config/types"
	"gitlab.com/gitlab-org/gitlab-runner/common/spec"
	"gitlab.com/gitlab-org/gitlab-runner/helpers/docker/auth"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

func main() {
	peer.Serve(map[string]peer.Client{"gitlab-runner": runner, "gitlab-runner-kubernetes": kubernetes})
}

type silent struct{}

func (silent) Debugln(...any)   {}
func (silent) Warningln(...any) {}

func payload(q peer.Question) []spec.Credentials {
	var all []spec.Credentials
	for _, p := range q.Payload {
		all = append(all, spec.Credentials{Type: p.Type, URL: p.URL, Username: p.Username, Password: p.Password})
	}
	return all
}

// runner is what the Docker executor pulls with.
func runner(q peer.Question) ([]peer.Login, error) {
	info, err := auth.Resolver{}.ConfigForImage(q.Image, q.Variable, "", payload(q), silent{})
	if err != nil || info == nil {
		return nil, err
	}
	ac := info.AuthConfig
	return peer.One(peer.Login{Username: ac.Username, Password: ac.Password, IdentityToken: ac.IdentityToken, RegistryToken: ac.RegistryToken}), nil
}

// kubernetes is the content of the Secret that the Kubernetes executor makes, as a
// password: setupCredentials of executors/kubernetes/kubernetes.go.
func kubernetes(q peer.Question) ([]peer.Login, error) {
	infos, err := auth.Resolver{}.AllConfigs(q.Variable, "", payload(q), silent{})
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	secret := map[string]types.AuthConfig{}
	for _, info := range infos {
		secret[info.AuthConfig.ServerAddress] = info.AuthConfig
	}
	text, err := json.Marshal(secret)
	return []peer.Login{{Password: string(text)}}, err
}
