package ssh_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/ssh"
	"github.com/regkeeper/regkeeper/target/targettest"
)

type logins = map[credential.Host]credential.Login

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// local is a fake of ssh: a login shell of this machine runs the command that
// ssh would hand to one of the host, in the home folder of the host.
type local struct {
	t     testing.TB
	shell []string
	homes map[string]string
	env   []string
	// change changes the result before it is seen.
	change func(*ssh.Result)
	// before is called before a run.
	before func(n int)
	runs   [][]string
}

func (l *local) Run(ctx context.Context, stdin []byte, arguments ...string) (ssh.Result, error) {
	if l.before != nil {
		l.before(len(l.runs))
	}
	if len(l.runs) < 100 {
		l.runs = append(l.runs, arguments)
	}
	i := slices.Index(arguments, "--")
	if i < 0 || len(arguments) != i+3 {
		return ssh.Result{}, fmt.Errorf("no host and command: %q", arguments)
	}
	home, ok := l.homes[arguments[i+1]]
	if !ok {
		return ssh.Result{Code: 255, Stderr: []byte("ssh: Could not resolve hostname x: Name or service not known\r\n")}, nil
	}
	cmd := exec.CommandContext(ctx, l.shell[0], append(l.shell[1:], "-c", arguments[i+2])...)
	cmd.Env = append([]string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}, l.env...)
	cmd.Dir = home
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return ssh.Result{}, err
	}
	result := ssh.Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	if l.change != nil {
		l.change(&result)
	}
	return result, nil
}

const at credential.Place = "build-1:config.json"

// one is a target of one host.
func one(t testing.TB, change ...func(*ssh.Config)) (*ssh.Target, *local, string) {
	t.Helper()
	home := t.TempDir()
	l := &local{t: t, shell: []string{"sh"}, homes: map[string]string{"build-1": home}}
	config := ssh.Config{Hosts: []ssh.Host{{Name: "build-1"}}, Runner: l}
	for _, change := range change {
		change(&config)
	}
	return ssh.New(config), l, filepath.Join(home, ".docker", "config.json")
}

func write(t testing.TB, path, text string, mode fs.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+"123", []byte(text), mode), os.Chmod(path+"123", mode), os.Rename(path+"123", path))
}

func put(t testing.TB, path string, host credential.Host, l credential.Login) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	doc, err := dockerconfig.Parse(text)
	must(t, err)
	doc.Set(host, l)
	write(t, path, string(doc.Bytes()), 0o600)
}

func holds(t testing.TB, path string, want logins) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	doc, err := dockerconfig.Parse(text)
	must(t, err)
	for host, login := range want {
		if got, ok := doc.Login(host); !ok || !got.Equal(login) {
			t.Errorf("%s holds another login for %s", path, host)
		}
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	homes := map[credential.Place]string{}
	file := func(place credential.Place) string { return filepath.Join(homes[place], ".docker", "config.json") }
	targettest.Run(t, targettest.Harness{
		New: func(t testing.TB) credential.Target {
			l := &local{t: t, shell: []string{"sh"}, homes: map[string]string{}}
			config := ssh.Config{Path: "~/.docker/config.json", Runner: &serial{l: l}}
			for i := range 2 {
				host := ssh.Host{Name: fmt.Sprint("build-", i), User: "ci", Port: 2222}
				l.homes[host.Name] = t.TempDir()
				homes[credential.Place(host.String()+":~/.docker/config.json")] = l.homes[host.Name]
				config.Hosts = append(config.Hosts, host)
			}
			return ssh.New(config)
		},
		Put: func(t testing.TB, place credential.Place, host credential.Host, l credential.Login) {
			put(t, file(place), host, l)
		},
		Raw: func(t testing.TB, place credential.Place) []byte {
			text, err := os.ReadFile(file(place))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			return text
		},
		Whole: func(content []byte) error { return json.Unmarshal(content, new(any)) },
		Remove: func(t testing.TB, place credential.Place) {
			must(t, os.RemoveAll(filepath.Dir(file(place))))
		},
	})
}

// TestShells has several shells be the login shell, and sh.
func TestShells(t *testing.T) {
	t.Parallel()
	for name, shell := range map[string][]string{"dash": {"dash"}, "bash": {"bash"}, "busybox": {"busybox", "sh"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(shell[0]); err != nil {
				leaveout.Out(t, "the script in "+name, "no "+shell[0]+" on this machine")
			}
			bin := t.TempDir()
			must(t, os.WriteFile(filepath.Join(bin, "sh"), []byte("#!/bin/sh\nexec "+strings.Join(shell, " ")+` "$@"`), 0o700))
			target, l, file := one(t)
			l.shell, l.env = shell, []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
			for _, secret := range []string{"one", `"\n%s$HOME'`} {
				want := logins{"h": login("u", secret)}
				held, err := target.DeliverConfirmed(t.Context(), at, want, []credential.Host{"h"})
				must(t, err)
				if !held["h"].Equal(want["h"]) {
					t.Errorf("held is another login")
				}
				holds(t, file, want)
			}
		})
	}
}

// serial keeps the fake's notes whole where several run at the same time.
type serial struct{ l *local }

func (s *serial) Run(ctx context.Context, stdin []byte, arguments ...string) (ssh.Result, error) {
	copied := *s.l
	return copied.Run(ctx, stdin, arguments...)
}

// TestArguments: what ssh is told, and that no secret is in it.
func TestArguments(t *testing.T) {
	t.Parallel()
	target, l, file := one(t, func(config *ssh.Config) {
		config.Hosts[0].User, config.Hosts[0].Port = "ci", 2222
		config.Identity, config.KnownHosts, config.File = "/keys/100% mine", "/keys/known hosts", "/etc/ssh/own"
		config.Jump, config.Path = "jump@gate:22", "~/it's \\n here/$(x)/config.json"
	})
	places, err := target.Places(t.Context())
	must(t, err, target.Deliver(t.Context(), places[0], logins{"h": login("user-of-login", "s3cr3t-of-login")}))
	holds(t, filepath.Join(filepath.Dir(filepath.Dir(file)), "it's \\n here", "$(x)", "config.json"), logins{"h": login("user-of-login", "s3cr3t-of-login")})
	if len(l.runs) != 2 {
		t.Errorf("a delivery takes %d runs", len(l.runs))
	}
	got := strings.Join(l.runs[1], " ")
	for _, want := range []string{
		"-T ", "BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15", "ForwardAgent=no", "-F /etc/ssh/own", `IdentityFile="/keys/100%% mine"`,
		`UserKnownHostsFile="/keys/known hosts"`, "IdentitiesOnly=yes", "-J jump@gate:22", "-l ci", "-p 2222", "-- build-1 exec sh -c",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("ssh is not told %s: %s", want, got)
		}
	}
	if strings.Contains(got, "of-login") || strings.Contains(got, "\n") || strings.Contains(got, "it's") {
		t.Errorf("ssh is told too much: %s", got)
	}
}

// TestPermissions: a file keeps what it has, one that is made is closed.
func TestPermissions(t *testing.T) {
	t.Parallel()
	for _, shell := range [][]string{{"sh"}, {"busybox", "sh"}} {
		for _, mode := range []fs.FileMode{0, 0o600, 0o640, 0o644, 0o660, 0o604, 0o400} {
			target, l, file := one(t)
			if l.shell = shell; shell[0] != "sh" {
				if _, err := exec.LookPath(shell[0]); err != nil {
					leaveout.Out(t, "permissions with "+shell[0], "not on this machine")
				}
			}
			want := mode
			if mode == 0 {
				want = 0o600
			} else {
				write(t, file, `{"x":1}`, mode)
			}
			root := os.Geteuid() == 0 && mode != 0
			if root {
				must(t, os.Chown(file, 1234, 5678))
			}
			must(t, target.Deliver(t.Context(), at, logins{"h": login("u", "p")}))
			holds(t, file, logins{"h": login("u", "p")})
			info, err := os.Stat(file)
			must(t, err)
			if info.Mode().Perm() != want {
				t.Errorf("a file of %o has %o afterwards", mode, info.Mode().Perm())
			}
			if uid, gid := owner(info); root && (uid != 1234 || gid != 5678) {
				t.Errorf("a file of 1234:5678 belongs to %d:%d afterwards", uid, gid)
			}
			folder, err := os.Stat(filepath.Dir(file))
			must(t, err)
			if folder.Mode().Perm() != 0o700 {
				t.Errorf("the folder has %o", folder.Mode().Perm())
			}
			if left, _ := filepath.Glob(filepath.Dir(file) + "/.*"); len(left) > 0 {
				t.Errorf("left behind is %v", left)
			}
		}
	}
}

// TestOthersWrite: what another program writes between is kept.
func TestOthersWrite(t *testing.T) {
	t.Parallel()
	target, l, file := one(t)
	l.before = func(n int) {
		if n == 1 || n == 2 {
			put(t, file, credential.Host(fmt.Sprint("other-", n)), login("o", "o"))
		}
	}
	held, err := target.DeliverConfirmed(t.Context(), at, logins{"h": login("u", "p")}, []credential.Host{"h", "other-1", "other-2", "none"})
	must(t, err)
	if len(held) != 3 || !held["h"].Equal(login("u", "p")) {
		t.Errorf("held are %d logins", len(held))
	}
	holds(t, file, logins{"h": login("u", "p"), "other-1": login("o", "o"), "other-2": login("o", "o")})

	l.before = func(n int) { put(t, file, credential.Host(fmt.Sprint("again-", n)), login("o", "o")) }
	err = target.Deliver(t.Context(), at, logins{"h": login("u", "p2")})
	if problem.KindOf(err) != problem.Busy {
		t.Errorf("with a program that writes all the time: %v", err)
	}
}

// TestSSHSays is about what ssh says in place of running the script. The words
// are those of OpenSSH 9.
func TestSSHSays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		result ssh.Result
		kind   problem.Kind
		text   string
		hint   string
	}{
		"refused":  {ssh.Result{Code: 255, Stderr: []byte("ssh: connect to host build-1 port 22: Connection refused\r\n")}, problem.Unreachable, "connect to build-1: ssh: connect to host build-1 port 22: Connection refused", "ssh -v"},
		"timeout":  {ssh.Result{Code: 255, Stderr: []byte("ssh: connect to host build-1 port 22: Connection timed out\r\n")}, problem.Unreachable, "timed out", "tried again"},
		"no name":  {ssh.Result{Code: 255, Stderr: []byte("ssh: Could not resolve hostname build-1: Name or service not known\r\n")}, problem.Unreachable, "its name is not known", "DNS"},
		"no key":   {ssh.Result{Code: 255, Stderr: []byte("ci@build-1: Permission denied (publickey).\r\n")}, problem.Denied, "does not let us in: ci@build-1: Permission denied (publickey).", "authorized_keys"},
		"unknown":  {ssh.Result{Code: 255, Stderr: []byte("No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict checking.\r\nHost key verification failed.\r\n")}, problem.Denied, "not known", "fingerprint"},
		"changed":  {ssh.Result{Code: 255, Stderr: []byte("@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nHost key verification failed.\r\n")}, problem.Denied, "another than the known one", "in between"},
		"no sh":    {ssh.Result{Code: 127, Stderr: []byte("exec: sh: not found\n")}, problem.Config, "has no sh to run: exit code 127: exec: sh: not found", "login shell"},
		"no login": {ssh.Result{Code: 1, Stdout: []byte("This account is currently not available.\n")}, problem.Config, "ran no script: exit code 1", "login shell"},
		"silence":  {ssh.Result{}, problem.Unreachable, "no answer of the script", "login shell"},
		"escape":   {ssh.Result{Code: 255, Stderr: []byte("\x1b[2Jkex_exchange_identification: x\n")}, problem.Unreachable, "?[2Jkex", "ssh -v"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target, l, file := one(t)
			l.change = func(result *ssh.Result) { *result = c.result }
			err := target.Deliver(t.Context(), at, logins{"h": login("u", "s3cr3t")})
			if problem.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.text) || !strings.Contains(problem.HintOf(err), c.hint) {
				t.Errorf("it fails with kind %s\n%v\nhint: %s", problem.KindOf(err), err, problem.HintOf(err))
			}
			if strings.ContainsAny(fmt.Sprint(err), "\x1b\n\r") {
				t.Errorf("this is not fit for people: %q", err)
			}
			_ = file
		})
	}
}

// TestFileSystemSays is about what the host's file system refuses.
func TestFileSystemSays(t *testing.T) {
	t.Parallel()
	check := func(err error, kind problem.Kind, text string) {
		t.Helper()
		if problem.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), text) || problem.HintOf(err) == "" {
			t.Errorf("it fails with kind %s: %v (hint %q), want kind %s: %s", problem.KindOf(err), err, problem.HintOf(err), kind, text)
		}
	}
	target, _, file := one(t)
	must(t, os.MkdirAll(file, 0o700))
	check(target.Deliver(t.Context(), at, logins{"h": login("u", "p")}), problem.Storage, "a folder stands there")

	target, _, file = one(t)
	write(t, file, `{"auths":[]}`, 0o600)
	check(target.Deliver(t.Context(), at, logins{"h": login("u", "p")}), problem.Damaged, "config.json of build-1")

	target, _, file = one(t)
	write(t, file, `{"credsStore":"pass"}`, 0o600)
	_, err := target.Held(t.Context(), at, []credential.Host{"h"})
	check(err, problem.Config, "config.json of build-1")
	if text, _ := os.ReadFile(file); string(text) != `{"credsStore":"pass"}` {
		t.Errorf("the file holds %s", text)
	}

	target, l, _ := one(t)
	l.env = []string{"PATH=" + t.TempDir()}
	if sh, err := exec.LookPath("sh"); err == nil {
		l.shell = []string{sh}
		check(target.Deliver(t.Context(), at, logins{"h": login("u", "p")}), problem.Config, "no sh to run")
	}

	target, _, _ = one(t, func(config *ssh.Config) { config.Path = "/dev/null/config.json" })
	check(target.Deliver(t.Context(), "build-1:/dev/null/config.json", logins{"h": login("u", "p")}), problem.Storage, "/dev/null/config.json of build-1")

	if err := target.Deliver(t.Context(), "elsewhere:config.json", nil); !errors.Is(err, credential.ErrGone) {
		t.Errorf("a host that is not configured: %v", err)
	}
}

// TestProgram is about a program that is not there, and one that hangs.
func TestProgram(t *testing.T) {
	t.Parallel()
	target, _, _ := one(t, func(config *ssh.Config) { config.Runner = ssh.Program("no-such-ssh-here") })
	if _, err := target.Held(t.Context(), at, nil); problem.KindOf(err) != problem.Config || !strings.Contains(problem.HintOf(err), "openssh-client") {
		t.Errorf("without ssh: %v", err)
	}
	hangs := filepath.Join(t.TempDir(), "ssh")
	must(t, os.WriteFile(hangs, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700))
	target, _, _ = one(t, func(config *ssh.Config) { config.Runner, config.Timeout = ssh.Program(hangs), 100*time.Millisecond })
	if _, err := target.Held(t.Context(), at, nil); problem.KindOf(err) != problem.Unreachable || !strings.Contains(fmt.Sprint(err), "within 100ms") {
		t.Errorf("with a host that hangs: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := target.Held(ctx, at, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("when the caller gave up: %v", err)
	}
	says := filepath.Join(t.TempDir(), "ssh")
	must(t, os.WriteFile(says, []byte("#!/bin/sh\necho $LC_ALL; cat; echo no >&2; exit 7\n"), 0o700))
	got, err := ssh.Program(says).Run(t.Context(), []byte("in"))
	must(t, err)
	if diff := cmp.Diff(ssh.Result{Code: 7, Stdout: []byte("C\nin"), Stderr: []byte("no\n")}, got); diff != "" {
		t.Errorf("the program's result (-want +got):\n%s", diff)
	}
}

func TestParseHost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ssh.Host{
		"build-1":                     {Name: "build-1"},
		"ci@build-1.example.com:2222": {Name: "build-1.example.com", User: "ci", Port: 2222},
		"192.0.2.7":                   {Name: "192.0.2.7"},
		"::1":                         {Name: "::1"},
		"[2001:db8::1]:22":            {Name: "2001:db8::1", Port: 22},
		"WIN$@x":                      {},
		"host$@x":                     {Name: "x", User: "host$"},
	} {
		got, err := ssh.ParseHost(text)
		if text == "WIN$@x" {
			want = ssh.Host{Name: "x", User: "WIN$"}
		}
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "-oProxyCommand=x", "@x", "-l@x", "x:0", "x:99999", "x:y", "x y", "x;y", "$(x)", "x%h", "x\ny", "a@b@c", "x/y", "`x`", "a'b@x", "ssh://x", "[0:0", "[::1", "0:0",
	} {
		if got, err := ssh.ParseHost(text); problem.KindOf(err) != problem.Config {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
}

// FuzzHost: what is taken for a host is nothing else to ssh, and reads as it is
// written.
func FuzzHost(f *testing.F) {
	for _, text := range []string{"ci@build-1:22", "[::1]:22", "-x", "a@-b", "::1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, err := ssh.ParseHost(text)
		if err != nil {
			return
		}
		if again, err := ssh.ParseHost(host.String()); err != nil || again != host {
			t.Errorf("%q is %+v, and read again %+v, %v", text, host, again, err)
		}
		for _, word := range []string{host.Name, host.User} {
			if strings.HasPrefix(word, "-") || strings.ContainsAny(word, " \t\n'\"`\\;&|<>(){}*?%") {
				t.Errorf("%q is given to ssh as %q", text, word)
			}
		}
	})
}

// TestCheck refuses what ssh would read in another way.
func TestCheck(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*ssh.Config){
		"option":   func(c *ssh.Config) { c.Hosts[0].Name = "-oProxyCommand=x" },
		"user":     func(c *ssh.Config) { c.Hosts[0].User = "-x" },
		"port":     func(c *ssh.Config) { c.Hosts[0].Port = 70000 },
		"twice":    func(c *ssh.Config) { c.Hosts = append(c.Hosts, c.Hosts[0]) },
		"jump":     func(c *ssh.Config) { c.Jump = "-x" },
		"identity": func(c *ssh.Config) { c.Identity = `a"b` },
		"path":     func(c *ssh.Config) { c.Path = "a\nb" },
	} {
		target, l, _ := one(t, change)
		if _, err := target.Places(t.Context()); problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if err := target.Deliver(t.Context(), at, logins{"h": login("u", "p")}); err == nil || len(l.runs) > 0 {
			t.Errorf("%s: ssh was run", name)
		}
	}
}

// TestPathsArriveAsTheyAre gives the script paths that shells read in another way.
func TestPathsArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"'", "''x", "a b", `\n`, `\\`, `\0101`, "$HOME", "`id`", "%s", "*", "-n", `"`, "!x", "ü", "~", "a;b#c&d|e>f"} {
		target, _, file := one(t, func(config *ssh.Config) { config.Path = "~/" + name + "/config.json" })
		must(t, target.Deliver(t.Context(), credential.Place("build-1:~/"+name+"/config.json"), logins{"h": login("u", "p")}))
		holds(t, filepath.Join(filepath.Dir(filepath.Dir(file)), name, "config.json"), logins{"h": login("u", "p")})
	}
}
