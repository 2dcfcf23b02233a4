package differential_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

func FuzzDocker(f *testing.F)              { fuzz(f, "docker") }
func FuzzDocker28(f *testing.F)            { fuzz(f, "docker-28.2") }
func FuzzBuildkit(f *testing.F)            { fuzz(f, "buildkit") }
func FuzzGgcr(f *testing.F)                { fuzz(f, "go-containerregistry") }
func FuzzOras(f *testing.F)                { fuzz(f, "oras") }
func FuzzPodman(f *testing.F)              { fuzz(f, "podman") }
func FuzzKubelet(f *testing.F)             { fuzz(f, "kubelet") }
func FuzzGitlabRunner(f *testing.F)        { fuzz(f, "gitlab-runner") }
func FuzzGitlabRunnerCluster(f *testing.F) { fuzz(f, "gitlab-runner-kubernetes") }
func FuzzAct(f *testing.F)                 { fuzz(f, "act") }
func FuzzGiteaRunner(f *testing.F)         { fuzz(f, "gitea-runner") }

// oddities are documents that have been written by hand, or by programs that were
// wrong about the form.
var oddities = []string{
	`{"auths": {"reg.example.com": {"auth": "dXNlcjpwYXNz"}}}`,
	`{"auths": {"https://reg.example.com/v1/": {"auth": "dXNlcjpwYXNz"}, "http://reg.example.com": {"auth": "b3RoZXI6cGFzcw=="}}}`,
	`{"auths": {"reg.example.com/team/app": {"auth": "dXNlcjpwYXNz"}, "reg.example.com/team": {"auth": "b3RoZXI6cGFzcw=="}, "reg.example.com": {}}}`,
	`{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNz"}, "docker.io": {"auth": "b3RoZXI6cGFzcw=="}, "index.docker.io": {"auth": "bW9yZTpwYXNz"}}}`,
	`{"auths": {"*.example.com": {"auth": "dXNlcjpwYXNz"}, "reg.*.com:443": {"auth": "b3RoZXI6cGFzcw=="}, "[2001:db8::1]:5000": {"auth": "bW9yZTpwYXNz"}}}`,
	`{"auths": {"reg.example.com": {"username": "user", "password": "pass", "identitytoken": "t", "registrytoken": "r", "email": "e"}}}`,
	`{"auths": {"reg.example.com": {"auth": "dXNlcjpwYXNzAAA="}, "other": {"auth": "!!!"}}, "credsStore": "some"}`,
	`{"credHelpers": {"reg.example.com": "token", "https://index.docker.io/v1/": "none"}, "auths": {"reg.example.com": {"registrytoken": "r"}}}`,
	`{"auths": {"reg.example.com": {"auth": "dXNlcjpwYXNz"}}, "Auths": {"reg.example.com": {"auth": "b3RoZXI6cGFzcw=="}}} trailing`,
	`{"auths": [], "credsStore": 1}`, `[]`, `null`, ``, ` `, "\ufeff{}",
	`{"reg.example.com": {"auth": "dXNlcjpwYXNz", "email": "e"}}`,
}

// fuzz holds a client to a document, an image and a variable of any form.
func fuzz(f *testing.F, client string) {
	var b *bench
	for _, c := range clients {
		if c.client == client {
			b = newBench(f, client, c.program, c.as)
		}
	}
	for i, text := range oddities {
		f.Add([]string{"reg.example.com/team/app", "app", "[2001:db8::1]:5000/app@sha256:" + strings.Repeat("0", 64)}[i%3], text, "")
		f.Add("reg.example.com/team/app:1.2", `{"auths": {}}`, text)
	}
	drawn := rapid.Custom(func(t *rapid.T) [3]string {
		w := draw(t, client)
		d := &draws{T: t, host: "reg.example.com", path: "team/app"}
		return [3]string{w.image, d.document(false), d.variable()}
	})
	for i := range 10 {
		of := drawn.Example(i)
		f.Add(of[0], of[1], of[2])
	}
	f.Fuzz(func(t *testing.T, image, text, variable string) {
		if strings.ContainsRune(variable, 0) || strings.Contains(text, `\u0000`) {
			t.Skip("no environment holds it, and no line of a helper's input")
		}
		w := world{image: image, files: map[string]content{}, env: map[string]string{"DOCKER_AUTH_CONFIG": variable}}
		switch client {
		case "kubelet":
			w.pulls = []peer.PullSecret{
				{Name: "pull", Type: "kubernetes.io/dockerconfigjson", Data: map[string][]byte{".dockerconfigjson": []byte(text)}},
				{Name: "legacy", Type: "kubernetes.io/dockercfg", Data: map[string][]byte{".dockercfg": []byte(variable)}},
			}
		case "gitlab-runner", "gitlab-runner-kubernetes":
			w.variables = &variable
		}
		w.files["/home/user/.docker/config.json"] = content{text: text}
		if _, err := b.client.Decide(image, b.surroundings(w)); err != nil {
			t.Skip("it is no image")
		}
		if fault := b.compare(w); fault != "" {
			t.Fatalf("%s\n%s", fault, w)
		}
	})
}
