package consumer

import (
	"fmt"
	"io/fs"
	"net"
	"strings"
)

// near tells of an entry that a person may have meant for the registry, and that
// the client does not take for it.
func (s *search) near(where, key, wanted string, rule Rule) {
	if why := mistaken(key, wanted); why != "" {
		s.look(where, key, Passed, rule, "%s", why)
	}
}

// hubNames are names of Docker Hub that stand in keys.
var hubNames = []string{"docker.io", hubIndex, hubAPI, "registry.hub.docker.com", "hub.docker.com"}

// mistaken says why a key that has to do with the wanted one is not taken for it;
// it says nothing of other registries' keys.
func mistaken(key, wanted string) string {
	bare := func(text string) (scheme, host, path string) {
		rest := strings.TrimSpace(text)
		if i := strings.Index(rest, "://"); i >= 0 {
			scheme, rest = rest[:i], rest[i+3:]
		}
		host, path, _ = strings.Cut(rest, "/")
		return scheme, strings.ToLower(strings.TrimSuffix(host, ".")), path
	}
	name := func(host string) string {
		if h, _, err := net.SplitHostPort(host); err == nil {
			return h
		}
		return host
	}
	scheme, host, path := bare(key)
	_, want, _ := bare(wanted)
	hub := func(host string) bool {
		for _, n := range hubNames {
			if name(host) == n {
				return true
			}
		}
		return false
	}
	switch {
	case hub(want) && hub(host):
		return fmt.Sprintf("of Docker Hub's names %s is looked for, written like that", wanted)
	case host == want && path != "":
		return fmt.Sprintf("it names the path /%s, and %s is looked for", path, wanted)
	case host == want && scheme != "":
		return fmt.Sprintf("it is written with %s://, and %s is looked for", scheme, wanted)
	case host == want:
		return fmt.Sprintf("it is written in another way than %s", wanted)
	case name(host) == name(want):
		return fmt.Sprintf("host and host:port are two registries: %s is looked for", wanted)
	case strings.Contains(host, "*") && globbed(host, want):
		return "patterns are not understood: only kubelets do"
	}
	return ""
}

// globbed says whether the pattern stands for the host, part by part.
func globbed(pattern, host string) bool {
	a, b := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != "*" && a[i] != b[i] {
			return false
		}
	}
	return true
}

// joined is one error of several, in one line.
func joined(faults []error, by string) error {
	err := faults[0]
	for _, f := range faults[1:] {
		err = fmt.Errorf("%w%s%w", err, by, f)
	}
	return err
}

// noFile is a file system without files.
func noFile(string) ([]byte, error) { return nil, fs.ErrNotExist }
