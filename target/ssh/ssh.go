// Package ssh is the target of config.json files on other hosts, read and
// written through the OpenSSH client.
//
// It refuses to hand a secret to anything but a program's standard input, to ask
// for a password, and to take a host key that is not known: what ssh would ask a
// person is an error here.
package ssh

import (
	"context"
	"slices"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/shellfile"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says which hosts, and how they are reached. What is not set here is as
// ssh_config(5) of the user that regkeeper runs as has it: jump hosts, agents,
// connections that are shared.
type Config struct {
	// Hosts are the hosts; none twice.
	Hosts []Host
	// Path is of the file on the hosts; ~/ is the home folder of the user there.
	// Empty: $DOCKER_CONFIG/config.json, or ~/.docker/config.json.
	Path string
	// Identity is the path of a private key: no other is tried then. Empty: those
	// of the agent and of ssh_config.
	Identity string
	// KnownHosts is the path of a file with the host keys: no other counts then.
	KnownHosts string
	// File is the path of a file as of ssh_config(5), read in place of the user's
	// and the system's.
	File string
	// Jump is a host to go through, or several with commas (ssh -J).
	Jump string
	// Timeout bounds a run of ssh, the connection with it; zero means
	// [DefaultTimeout].
	Timeout time.Duration
	// Runner runs ssh; one that finds it on PATH if nil.
	Runner Runner
}

// DefaultTimeout bounds a run of ssh unless it is set.
const DefaultTimeout = 30 * time.Second

// Target delivers to files on other hosts. A place is [user@]host[:port]:path.
// A file that exists keeps its owner and permissions; one that is made is 0600,
// and folders are 0700.
type Target struct{ config Config }

var _ credential.Confirmer = (*Target)(nil)

// New makes the target. It connects to nothing.
func New(config Config) *Target {
	if config.Timeout == 0 {
		config.Timeout = DefaultTimeout
	}
	if config.Runner == nil {
		config.Runner = Program("ssh")
	}
	return &Target{config: config}
}

// Places lists the files, one on each host. It asks no host.
func (t *Target) Places(context.Context) ([]credential.Place, error) {
	if err := t.config.Check(); err != nil {
		return nil, err
	}
	var places []credential.Place
	for _, host := range t.config.Hosts {
		places = append(places, t.place(host))
	}
	slices.Sort(places)
	return places, nil
}

func (t *Target) place(host Host) credential.Place {
	path := t.config.Path
	if path == "" {
		path = "config.json"
	}
	return credential.Place(host.String() + ":" + path)
}

// Held reads the file, by one run of ssh. It fails if a credential helper
// answers for one of the hosts: clients then never look at what is delivered.
func (t *Target) Held(ctx context.Context, at credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	file, err := t.file(at)
	if err != nil {
		return nil, err
	}
	a, err := file.Read(ctx)
	if err != nil {
		return nil, err
	}
	return dockerconfig.Held(file.Where(a), a.Content, hosts)
}

// Deliver merges the logins into the file. It fails, and writes nothing, if a
// credential helper answers for one of the hosts: a secret that nobody reads is
// better not there.
func (t *Target) Deliver(ctx context.Context, at credential.Place, logins map[credential.Host]credential.Login) error {
	_, err := t.DeliverConfirmed(ctx, at, logins, nil)
	return err
}

// DeliverConfirmed is Deliver, then Held, by two runs of ssh: what was written
// comes back with the second.
func (t *Target) DeliverConfirmed(ctx context.Context, at credential.Place, logins map[credential.Host]credential.Login, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	file, err := t.file(at)
	if err != nil {
		return nil, err
	}
	a, _, err := file.Update(ctx, nil, func(a shellfile.Answer) (after []byte, changed bool, err error) {
		return dockerconfig.Delivered(file.Where(a), a.Content, logins)
	})
	if err != nil {
		return nil, err
	}
	return dockerconfig.Held(file.Where(a), a.Content, hosts)
}

// maxContent bounds in bytes what is written to a file: what the script says of
// it must fit into its output.
const maxContent = maxStdout - 8<<10

// file is the place's file, which the script reads and writes.
func (t *Target) file(at credential.Place) (shellfile.File, error) {
	if err := t.config.Check(); err != nil {
		return shellfile.File{}, err
	}
	i := slices.IndexFunc(t.config.Hosts, func(host Host) bool { return t.place(host) == at })
	if i < 0 {
		return shellfile.File{}, problem.Wrap(credential.ErrGone, problem.NotFound, "", "%s", at)
	}
	host := t.config.Hosts[i]
	return shellfile.File{
		Path: t.config.Path, Keep: true, Named: host.String(), Limit: maxContent, Hints: hints(host),
		Shell: func(ctx context.Context, stdin []byte, arguments ...string) (shellfile.Output, error) {
			return t.run(ctx, host, stdin, arguments)
		},
	}, nil
}
