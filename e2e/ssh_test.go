package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/ssh"
	"github.com/regkeeper/regkeeper/target/targettest"
)

// sshd is a real OpenSSH server on loopback, whose clients at the registry are
// configured in a folder of its own.
type sshd struct {
	t       testing.TB
	folder  string
	host    ssh.Host
	process *process.Process
}

const sshdPath = "/usr/sbin/sshd"

// startSSHD starts a server that lets the key in; lines are more of its
// configuration. It ends with the test.
func startSSHD(t testing.TB, key string, lines ...string) *sshd {
	t.Helper()
	peers.Need(t, sshdPath, "ssh", "ssh-keygen")
	if os.Geteuid() == 0 {
		// The service makes it elsewhere, which does not run here.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := &sshd{t: t, folder: t.TempDir()}
	generate(t, s.path("host_key"))
	address, err := peers.FreeAddress("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	name, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.host = ssh.Host{Name: name, Port: number, User: me.Username}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	writeText(t, s.path("authorized_keys"), string(public))
	writeText(t, s.path("sshd_config"), strings.Join(append(lines,
		"ListenAddress "+address, "HostKey "+s.path("host_key"), "AuthorizedKeysFile "+s.path("authorized_keys"), "PidFile none", "UsePAM no",
		"PasswordAuthentication no", "StrictModes no", "PermitRootLogin prohibit-password", "MaxStartups 100", "SetEnv DOCKER_CONFIG="+s.path("docker"),
	), "\n")+"\n")
	s.start()
	return s
}

func (s *sshd) start() {
	s.t.Helper()
	s.process = process.Start(s.t, exec.Command(sshdPath, "-D", "-e", "-f", s.path("sshd_config")))
	s.process.Until(s.t, 20*time.Second, "sshd", func() bool {
		connection, err := net.DialTimeout("tcp", net.JoinHostPort(s.host.Name, strconv.Itoa(s.host.Port)), time.Second)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
}

func (s *sshd) path(name string) string { return filepath.Join(s.folder, name) }

func (s *sshd) file() string { return s.path("docker/config.json") }

// known is the server's line of a known_hosts file.
func (s *sshd) known() string {
	s.t.Helper()
	public, err := os.ReadFile(s.path("host_key.pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("[%s]:%d %s", s.host.Name, s.host.Port, public)
}

func generate(t testing.TB, path string) {
	t.Helper()
	if _, err := process.Output(t.Context(), exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)); err != nil {
		t.Fatal(err)
	}
}

// newKey makes a key pair.
func newKey(t testing.TB) string {
	t.Helper()
	peers.Need(t, "ssh-keygen")
	path := filepath.Join(t.TempDir(), "a key 100%")
	generate(t, path)
	return path
}

// sshConfig is of a target of the servers, with nothing of the user's own
// configuration.
func sshConfig(t testing.TB, key string, servers ...*sshd) ssh.Config {
	t.Helper()
	known := filepath.Join(t.TempDir(), "known hosts")
	config := ssh.Config{Identity: key, KnownHosts: known, File: "none"}
	text := ""
	for _, s := range servers {
		config.Hosts = append(config.Hosts, s.host)
		text += s.known()
	}
	writeText(t, known, text)
	return config
}

// The conformance suite of targets, by connections that ssh shares, as its
// configuration has it: they outlive the runs of ssh, and hold up none.
func TestSSHConformance(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	servers := []*sshd{startSSHD(t, key), startSSHD(t, key)}
	shared := filepath.Join(t.TempDir(), "config")
	writeText(t, shared, "ControlMaster auto\nControlPath "+filepath.Dir(shared)+"/%C\nControlPersist 600\n")
	t.Cleanup(func() {
		for _, s := range servers {
			end := exec.Command("ssh", "-F", shared, "-O", "exit", "-p", strconv.Itoa(s.host.Port), "-l", s.host.User, s.host.Name)
			if out, err := end.CombinedOutput(); err != nil {
				t.Errorf("end the shared connection: %v: %s", err, out)
			}
		}
	})
	sshConfig := func(t testing.TB, key string, servers ...*sshd) ssh.Config {
		config := sshConfig(t, key, servers...)
		config.File = shared
		return config
	}
	at := map[credential.Place]*sshd{}
	for _, s := range servers {
		at[credential.Place(s.host.String()+":config.json")] = s
	}
	targettest.Run(t, targettest.Harness{
		New: func(t testing.TB) credential.Target {
			for _, s := range servers {
				if err := os.RemoveAll(s.path("docker")); err != nil {
					t.Fatal(err)
				}
			}
			return ssh.New(sshConfig(t, key, servers...))
		},
		Again: func(t testing.TB) credential.Target { return ssh.New(sshConfig(t, key, servers...)) },
		Put: func(t testing.TB, place credential.Place, host credential.Host, l credential.Login) {
			if _, err := (dockerconfig.File{Path: at[place].file()}).Update(t.Context(), func(doc *dockerconfig.Document) bool { return doc.Set(host, l) }); err != nil {
				t.Fatal(err)
			}
		},
		Raw: func(t testing.TB, place credential.Place) []byte {
			text, err := os.ReadFile(at[place].file())
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			return text
		},
		Whole: func(content []byte) error { return json.Unmarshal(content, new(any)) },
		Remove: func(t testing.TB, place credential.Place) {
			if err := os.RemoveAll(at[place].path("docker")); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// Every way in which ssh itself fails, by the real programs.
func TestSSHFailures(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	server := startSSHD(t, key)
	logins := map[credential.Host]credential.Login{"h": {Username: "u", Secret: credential.NewSecret("s3cr3t")}}
	deliver := func(config ssh.Config) error {
		target := ssh.New(config)
		places, err := target.Places(t.Context())
		if err != nil {
			return err
		}
		return target.Deliver(t.Context(), places[0], logins)
	}
	want := func(what string, err error, kind problem.Kind, text, hint string) {
		t.Helper()
		if problem.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), text) || !strings.Contains(problem.HintOf(err), hint) {
			t.Errorf("%s: it fails with kind %s: %v\nhint: %s\nwant kind %s: %s", what, problem.KindOf(err), err, problem.HintOf(err), kind, text)
		}
	}
	config := func() ssh.Config { return sshConfig(t, key, server) }
	if err := deliver(config()); err != nil {
		t.Fatal(err)
	}

	c := config()
	writeText(t, c.KnownHosts, "")
	want("an unknown host", deliver(c), problem.Denied, "its host key is not known", "fingerprint")
	other := newKey(t)
	public, err := os.ReadFile(other + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	writeText(t, c.KnownHosts, fmt.Sprintf("[%s]:%d %s", server.host.Name, server.host.Port, public))
	want("a changed host key", deliver(c), problem.Denied, "another than the known one", "in between")
	c = config()
	c.Identity = other
	want("another key", deliver(c), problem.Denied, "does not let us in", "authorized_keys")
	c = config()
	c.Identity = filepath.Join(t.TempDir(), "none")
	want("no key", deliver(c), problem.Denied, "does not let us in", "identity:")
	c = config()
	c.Hosts[0].Name = "no-such-host.invalid"
	want("no such name", deliver(c), problem.Unreachable, "its name is not known", "DNS")
	c = config()
	c.File = filepath.Join(t.TempDir(), "config")
	writeText(t, c.File, "NoSuchOption yes\n")
	want("an option that is none", deliver(c), problem.Config, "ssh_config is at fault", "line")
	c = config()
	c.Path = "/proc/none/config.json"
	want("a folder that cannot be made", deliver(c), problem.Storage, "/proc/none/config.json of", "")
	want("a command in place of a shell", deliver(sshConfig(t, key, startSSHD(t, key, "ForceCommand echo hello; exit 3"))), problem.Config, "ran no script: exit code 3", "command=")
	want("no sh", deliver(sshConfig(t, key, startSSHD(t, key, "ForceCommand no-such-shell"))), problem.Config, "has no sh to run: exit code 127", "login shell")

	// One that accepts connections and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c = config()
	c.Hosts[0].Port, c.Timeout = silent.Addr().(*net.TCPAddr).Port, 500*time.Millisecond
	want("silence", deliver(c), problem.Unreachable, "did not answer within 500ms", "ssh -o BatchMode=yes -p")

	server.process.Stop()
	want("a host that is down", deliver(config()), problem.Unreachable, "Connection refused", "tried again")
	server.start()
	if err := deliver(config()); err != nil {
		t.Errorf("a host that is up again: %v", err)
	}
}

// Through a jump host that only ssh_config knows, and by -J.
func TestSSHJump(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	jump, end := startSSHD(t, key), startSSHD(t, key)
	file := filepath.Join(t.TempDir(), "config")
	config := sshConfig(t, key, jump, end)
	writeText(t, file, fmt.Sprintf("Host *\n  IdentityFile \"%s\"\n  UserKnownHostsFile \"%s\"\nHost gate\n  HostName %s\n  Port %d\n  HostKeyAlias [%[3]s]:%[4]d\nHost build\n  HostName %s\n  Port %d\n  ProxyJump gate\n",
		strings.ReplaceAll(key, "%", "%%"), config.KnownHosts, jump.host.Name, jump.host.Port, end.host.Name, end.host.Port))
	logins := map[credential.Host]credential.Login{"h": {Username: "u", Secret: credential.NewSecret("p")}}
	for name, c := range map[string]ssh.Config{
		"ssh_config": {Hosts: []ssh.Host{{Name: "build"}}, File: file},
		"-J":         {Hosts: []ssh.Host{end.host}, File: file, Jump: "gate"},
	} {
		before := strings.Count(jump.process.Log(), "Accepted publickey")
		if err := os.RemoveAll(end.path("docker")); err != nil {
			t.Fatal(err)
		}
		target := ssh.New(c)
		places, err := target.Places(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := target.Deliver(t.Context(), places[0], logins); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := loginIn(end.file(), "h"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Count(jump.process.Log(), "Accepted publickey") == before {
			t.Errorf("%s: nobody came through the jump host", name)
		}
	}
}
