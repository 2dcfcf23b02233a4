package ssh

import (
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/regkeeper/regkeeper/problem"
)

// Host is a host, and who regkeeper is there.
type Host struct {
	// Name is a host name, an address, or a Host of ssh_config.
	Name string
	// User is the user there; empty as ssh has it.
	User string
	// Port is the port; zero as ssh has it.
	Port int
}

// ParseHost reads [user@]host[:port]; an IPv6 address with a port stands in
// brackets. The error is a [problem.Error] of the kind [problem.Config].
func ParseHost(text string) (Host, error) {
	var h Host
	rest := text
	if user, after, ok := strings.Cut(rest, "@"); ok {
		if user == "" {
			return Host{}, h.refused(text)
		}
		h.User, rest = user, after
	}
	h.Name = rest
	switch name, port, err := net.SplitHostPort(rest); {
	case err == nil:
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			return Host{}, h.refused(text)
		}
		h.Name, h.Port = name, int(number)
	case strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]"):
		h.Name = rest[1 : len(rest)-1]
	}
	if !h.safe() {
		return Host{}, h.refused(text)
	}
	return h, nil
}

// String is the host as [ParseHost] reads it.
func (h Host) String() string {
	text := h.Name
	if h.Port != 0 {
		text = net.JoinHostPort(h.Name, strconv.Itoa(h.Port))
	}
	if h.User != "" {
		text = h.User + "@" + text
	}
	return text
}

var (
	// names are of hosts: nothing that ssh takes for an option, that a shell of
	// ProxyCommand reads, or that ssh_config replaces.
	names = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
	// users are of what POSIX takes for portable (IEEE Std 1003.1, 3.437), and the
	// end of a machine account.
	users = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9._-]*\$?$`)
	// jumps are [user@]host[:port] with commas, or URIs, as of ssh -J.
	jumps = regexp.MustCompile(`^[A-Za-z0-9_\[][A-Za-z0-9._:@,/\[\]-]*$`)
)

// safe says whether ssh can take the host for nothing but a host.
func (h Host) safe() bool {
	return (net.ParseIP(h.Name) != nil || names.MatchString(h.Name)) && (h.User == "" || users.MatchString(h.User)) && h.Port >= 0 && h.Port <= 65535
}

func (Host) refused(text string) error {
	return problem.New(problem.Config, "write it as [user@]host[:port]; what else it takes to reach the host goes into ssh_config(5), under a Host with a plain name",
		"host %q is none that ssh can be given safely", text)
}

// Check says what is wrong with the configuration. The error is a
// [problem.Error] of the kind [problem.Config].
func (c Config) Check() error {
	seen := map[string]bool{}
	for _, host := range c.Hosts {
		if !host.safe() {
			return host.refused(host.String())
		}
		if seen[host.String()] {
			return problem.New(problem.Config, "name it once", "host %s is named twice", host)
		}
		seen[host.String()] = true
	}
	if c.Jump != "" && !jumps.MatchString(c.Jump) {
		return problem.New(problem.Config, "write it as [user@]host[:port], several with commas", "jump host %q is none that ssh can be given safely", c.Jump)
	}
	for _, path := range []string{c.Identity, c.KnownHosts, c.File} {
		if strings.ContainsAny(path, "\"\n\x00") || strings.HasPrefix(path, "-") {
			return problem.New(problem.Config, "rename the file, or give its absolute path", "path %q is none that ssh can be given safely", path)
		}
	}
	if strings.ContainsAny(c.Path, "\n\x00") {
		return problem.New(problem.Config, "choose another path", "path %q holds a line break", c.Path)
	}
	return nil
}
