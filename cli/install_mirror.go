package cli

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/mirrorconfig"
	"github.com/regkeeper/regkeeper/problem"
)

// puller is a program that pulls images and can be told of a mirror.
type puller struct {
	name string
	// file is where its document stands, by default.
	file   func(host credential.Host) string
	set    func(text []byte, m mirrorconfig.Mirror) ([]byte, error)
	remove func(text []byte, m mirrorconfig.Mirror) ([]byte, error)
	// after says what makes it read the document.
	after string
}

func containerd() puller {
	return puller{
		name: "containerd",
		file: func(host credential.Host) string {
			return "/etc/containerd/certs.d/" + mirrorconfig.ContainerdPath(host)
		},
		set:    mirrorconfig.Containerd,
		remove: mirrorconfig.RemoveContainerd,
		after:  "containerd reads it at each pull, if config_path in its config.toml names /etc/containerd/certs.d",
	}
}

func k3s() puller {
	return puller{
		name:   "k3s",
		file:   func(credential.Host) string { return "/etc/rancher/k3s/registries.yaml" },
		set:    mirrorconfig.K3s,
		remove: mirrorconfig.RemoveK3s,
		after:  "K3s reads it when it starts: systemctl restart k3s   # or k3s-agent",
	}
}

func docker() puller {
	return puller{
		name:   "docker",
		file:   func(credential.Host) string { return "/etc/docker/daemon.json" },
		set:    mirrorconfig.Docker,
		remove: mirrorconfig.RemoveDocker,
		after:  "dockerd reads it when it is told to: systemctl reload docker",
	}
}

// mirrorInstall is the flags of a command that tells a runtime of a mirror.
type mirrorInstall struct {
	*env
	host, url, prefix, username, file string
	password, write, remove           bool
}

func (m *mirrorInstall) flags(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&m.host, "for", "", "the registry that the mirror stands for, such as gitea.example.com")
	flags.StringVar(&m.url, "mirror", "", "the mirror's address, such as https://mirror.example.com")
	flags.StringVar(&m.prefix, "prefix", "", "what the mirror puts before the names of repositories; the embedded registry needs none")
	flags.StringVar(&m.username, "username", "", "the user for the mirror, if it wants a login")
	flags.BoolVar(&m.password, "password-stdin", false, "read the password for the mirror from standard input")
	flags.StringVar(&m.file, "document", "", "the document (default where the runtime looks for it)")
	flags.BoolVar(&m.remove, "remove", false, "take the mirror out")
}

// mirror reads the flags.
func (m *mirrorInstall) mirror() (mirrorconfig.Mirror, error) {
	if m.host == "" || m.url == "" {
		return mirrorconfig.Mirror{}, problem.New(problem.Usage, "for example --for gitea.example.com --mirror https://mirror.example.com", "the registry, or its mirror, is not said")
	}
	host, err := credential.ParseHost(m.host)
	if err != nil {
		return mirrorconfig.Mirror{}, err
	}
	mirror := mirrorconfig.Mirror{Host: host, URL: m.url, Prefix: m.prefix}
	if (m.username != "") != m.password {
		return mirror, problem.New(problem.Usage, "give both, or neither", "--username and --password-stdin belong together")
	}
	if !m.password {
		return mirror, nil
	}
	secret, err := io.ReadAll(io.LimitReader(m.In, 64<<10))
	if err != nil {
		return mirror, problem.Wrap(err, problem.Usage, "", "read the password")
	}
	mirror.Login = &credential.Login{Username: m.username, Secret: credential.NewSecret(strings.TrimRight(string(secret), "\r\n"))}
	if !m.write && !m.remove {
		return mirror, problem.New(problem.Usage, "add --write, or leave the login away", "a document with a login is not printed")
	}
	return mirror, nil
}

// holdsLogin matches the keys under which the documents have logins, wherever they
// stand.
var holdsLogin = regexp.MustCompile(`(?i)password|auth|token|header`)

// run prints the document as it would be, or writes it.
func (m *mirrorInstall) run(puller puller) error {
	mirror, err := m.mirror()
	if err != nil {
		return err
	}
	path := m.file
	if path == "" {
		path = puller.file(mirror.Host)
	}
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return disk.Problem(err, "read %s", path)
	}
	change := puller.set
	if m.remove {
		change = puller.remove
	}
	after, err := change(before, mirror)
	if err != nil {
		return err
	}
	switch {
	case !m.write && holdsLogin.Match(before):
		return problem.New(problem.Usage, "add --write", "%s has logins in it, and is not printed", path)
	case !m.write:
		m.printf("# %s\n%s", path, after)
		return nil
	case bytes.Equal(before, after):
		m.printf("%s is as it should be\n", path)
		return nil
	case m.remove && len(after) == 0:
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return disk.Problem(err, "remove %s", path)
		}
		m.printf("removed %s\n%s\n", path, puller.after)
		return nil
	}
	return m.replace(path, after, mirror.Login != nil, puller)
}

func (m *mirrorInstall) replace(path string, text []byte, secret bool, puller puller) error {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	if secret {
		mode = disk.PrivateFile
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // the runtimes' folders are for all to read
		return disk.Problem(err, "make folder %s", filepath.Dir(path))
	}
	if err := disk.WriteFile(path, text, mode); err != nil {
		return err
	}
	m.printf("wrote %s\n%s\n", path, puller.after)
	return nil
}

func newInstallMirror(e *env, puller puller, long string) *cobra.Command {
	m := mirrorInstall{env: e}
	c := &cobra.Command{
		Use:   puller.name,
		Short: "Have " + puller.name + " ask a mirror before a registry",
		Long:  long,
		Example: example(
			"regkeeper install "+puller.name+" --for docker.io --mirror https://mirror.example.com",
			"regkeeper install "+puller.name+" --for docker.io --mirror https://mirror.example.com --write"),
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return m.run(puller) },
	}
	m.flags(c)
	c.Flags().BoolVar(&m.write, "write", false, "write the document, instead of printing it")
	return c
}

func newInstallContainerd(e *env) *cobra.Command {
	return newInstallMirror(e, containerd(), `Install containerd prints the hosts.toml with which containerd asks a mirror before a
registry: the embedded registry with the registry among its upstreams, say. When the
mirror does not answer, containerd asks the registry itself; and when that is gone, the
mirror has what was pulled before. What else the document has stays as it is.

A login for the mirror is written as a header, and the file made readable by its owner
alone: such a document is written and not printed.`)
}

func newInstallDocker(e *env) *cobra.Command {
	return newInstallMirror(e, docker(), `Install docker prints the daemon.json with which dockerd asks a mirror before Docker Hub.
dockerd has mirrors of no other registry, and does not tell them of which registry a
repository is: the embedded registry must be asked by a name that stands for Docker Hub
alone (names of its upstream).`)
}
