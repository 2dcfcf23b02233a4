// Package peers owns the real programs that the end-to-end tests run against:
// Gitea, the Gitea runner, a Docker daemon, a Kubernetes cluster, registries,
// the registry clients, and what builds and signs images.
//
// It refuses stand-ins. A peer is the program its users run, built from a
// pinned version or taken from the distribution, on loopback and free ports,
// with its data in temporary folders, and it is dead when its test ends, also
// when the test is killed.
package peers

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Root is the word for [Need] that asks for user id 0.
const Root = "root"

// packages names the Debian package that holds each tool.
var packages = map[string]string{
	"/usr/lib/cni/bridge": "containernetworking-plugins",
	"/usr/sbin/sshd":      "openssh-server",
	"busybox":             "busybox-static",
	"dockerd":             "docker.io",
	"docker":              "docker.io",
	"docker-registry":     "docker-registry",
	"gcc":                 "gcc",
	"git":                 "git",
	"gpg":                 "gnupg",
	"ip":                  "iproute2",
	"nsenter":             "util-linux",
	"pass":                "pass",
	"podman":              "podman",
	"runc":                "runc",
	"skopeo":              "skopeo",
	"ssh":                 "openssh-client",
	"ssh-keygen":          "openssh-client",
	"unshare":             "util-linux",
}

// Need ends the test unless every tool is installed: with a failure in CI (the
// variable CI is not empty), with a skip that says what to install elsewhere.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	var faults []string
	for _, tool := range tools {
		switch _, err := exec.LookPath(tool); {
		case tool == Root && os.Geteuid() == 0:
		case tool == Root:
			faults = append(faults, "run as root")
		case err != nil && packages[tool] != "":
			faults = append(faults, fmt.Sprintf("install %s (apt-get install %s)", tool, packages[tool]))
		case err != nil:
			faults = append(faults, "install "+tool)
		}
	}
	if len(faults) == 0 {
		return
	}
	text := "PEER MISSING, this test proves nothing here: " + strings.Join(faults, "; ")
	if os.Getenv("CI") != "" {
		t.Fatal(text)
		return
	}
	t.Skip(text)
}

// FreeAddress names a port of host that was free a moment ago, for a program
// that cannot be handed a listener.
func FreeAddress(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
