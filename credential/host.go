package credential

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"github.com/regkeeper/regkeeper/problem"
)

// Host names a registry: host or host:port, in lower case, without scheme or
// path. Two spellings of one registry are one Host.
type Host string

// DockerHub is the registry that an image without a host is pulled from.
const DockerHub Host = "docker.io"

// AuthVariable is the environment variable that holds a config.json document: GitLab
// Runner looks there first, and the docker CLI does from 28.3 on.
const AuthVariable = "DOCKER_AUTH_CONFIG"

// dockerHubKey is the only key under which every consumer finds a login for
// Docker Hub: registry.IndexServer of the docker CLI.
const dockerHubKey = "https://index.docker.io/v1/"

// hostCharacters are those of a name, and of an address and port in brackets.
const hostCharacters = "abcdefghijklmnopqrstuvwxyz0123456789-._:[]"

const hostHint = "write the registry as host or host:port, for example gitea.example.com"

// ParseHost reads a registry host as people write it. A scheme, a trailing
// slash and the /v1 and /v2 that clients put behind it are dropped, and the
// names of Docker Hub become [DockerHub]. A port is never added or dropped:
// clients treat host and host:443 as two registries.
//
// The error is a [problem.Error] of kind [problem.Config].
func ParseHost(text string) (Host, error) {
	bad := func(why string) (Host, error) {
		shown := text
		if at := strings.LastIndexByte(text, '@'); at >= 0 {
			shown = redacted + text[at:] // a password may stand there
		}
		return "", problem.New(problem.Config, hostHint, "registry host %q %s", shown, why)
	}
	// Lower case of some letters from elsewhere is a letter of a host's.
	if strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) {
		return bad("has a character that no host has")
	}
	host := strings.ToLower(strings.TrimSpace(text))
	host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
	host = strings.TrimSuffix(host, "/")
	host = strings.TrimSuffix(strings.TrimSuffix(host, "/v1"), "/v2")
	switch {
	case host == "":
		return bad("is empty")
	case strings.Contains(host, "/"):
		return bad("has a path")
	case strings.ContainsFunc(host, func(r rune) bool { return !strings.ContainsRune(hostCharacters, r) }):
		return bad("has a character that no host has")
	}
	name := host
	if h, port, err := net.SplitHostPort(host); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad("has no valid port")
		}
		name = h
	} else if strings.Contains(host, ":") && !strings.HasSuffix(host, "]") {
		return bad("has no valid port")
	}
	if strings.HasPrefix(host, "[") {
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
		if err != nil || !addr.Is6() {
			return bad("is no IPv6 address")
		}
	} else if strings.ContainsAny(name, "[]:") {
		return bad("has a character that no host has")
	}
	if name == "" {
		return bad("is empty")
	}
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return DockerHub, nil
	}
	return Host(host), nil
}

// Key is the key of the registry under "auths" in a config.json, the one form
// that every consumer matches.
func (h Host) Key() string {
	if h == DockerHub {
		return dockerHubKey
	}
	return string(h)
}

// API is the host and port that serve the registry's API. It differs from the
// name for Docker Hub only.
func (h Host) API() string {
	if h == DockerHub {
		return "registry-1.docker.io"
	}
	return string(h)
}

// Loopback says whether the registry is on this machine. Docker speaks plain
// HTTP to such a registry without being told.
func (h Host) Loopback() bool {
	name := string(h)
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
	return err == nil && addr.IsLoopback()
}
