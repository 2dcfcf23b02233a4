// Command kubelet answers for the kubelet, with its own code.
package main

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"
	"k8s.io/kubernetes/pkg/util/parsers"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

func main() {
	peer.Serve(map[string]peer.Client{"kubelet": kubelet})
}

// kubelet is what EnsureImageExists looks up for an image.
func kubelet(q peer.Question) ([]peer.Login, error) {
	repository, _, _, err := parsers.ParseImageName(q.Image)
	if err != nil {
		return nil, err
	}
	credentialprovider.SetPreferredDockercfgPath(q.Root + "/var/lib/kubelet")
	var pulls []v1.Secret
	for _, s := range q.PullSecrets {
		secret := v1.Secret{Type: v1.SecretType(s.Type), Data: s.Data}
		secret.Name = s.Name
		pulls = append(pulls, secret)
	}
	// A keyring caches the node's file, so each question has one of its own.
	keyring, err := secrets.MakeDockerKeyring(pulls, credentialprovider.NewDefaultDockerKeyring())
	if err != nil {
		return nil, err
	}
	found, _ := keyring.Lookup(repository)
	var tries []peer.Login
	for _, f := range found {
		tries = append(tries, peer.Login{Username: f.Username, Password: f.Password, IdentityToken: f.IdentityToken, RegistryToken: f.RegistryToken})
	}
	return tries, nil
}
