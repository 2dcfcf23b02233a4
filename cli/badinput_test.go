package cli_test

import (
	"bytes"
	"io/fs"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

// marker is a secret that must not be printed.
const marker = "hunter2-marker"

// box is the folder that a row runs in, and a registry beside it.
type box struct {
	*testing.T
	// host is the registry's; token makes a login for it, of user "me".
	host  string
	token func(scopes ...credential.Scope) string
	// port is one that is free.
	port string
	// hint stands in for the row's, where it depends on the machine.
	hint string
}

func (b *box) write(path, text string) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(b.expand(text)), 0o600); err != nil {
		b.Fatal(err)
	}
}

func (b *box) expand(text string) string {
	return strings.NewReplacer("$HOST", b.host, "$PORT", b.port, "$SECRET", marker).Replace(text)
}

// pass runs a command that has to succeed.
func (b *box) pass(args ...string) {
	b.Helper()
	if out, errs, code := run(b.T, args...); code != 0 {
		b.Fatalf("%v: exit code %d\n%s%s", args, code, out, errs)
	}
}

// halve cuts a file in half.
func (b *box) halve(path string) {
	b.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	b.write(path, string(text[:len(text)/2]))
}

// Configurations that rows share.
const (
	// good delivers a login that nobody tries: it needs nothing.
	good = `registries:
  - host: registry.invalid
    source: {static: {username: me, password: {env: REGKEEPER_TEST_SECRET}}}
    verify: false
targets:
  - name: out
    file: {path: out/config.json}
`
	// tried is as good, with a registry that is asked.
	tried = `registries:
  - host: $HOST
    source: {static: {username: me, password: {env: REGKEEPER_TEST_SECRET}}}
targets:
  - name: out
    file: {path: out/config.json}
`
	// minted has logins of the embedded registry.
	minted = `registries:
  - host: 127.0.0.1:$PORT
    source: {builtin: {}}
    verify: false
targets:
  - name: out
    file: {path: out/config.json}
serve: {health: {listen: "127.0.0.1:0"}}
`
	foreignFile = `{"auths": {"other.example.com": {"auth": "b3RoZXI6b25l"}}, "HttpHeaders": {"X": "y"}}`
)

var (
	check = []string{"config", "check"}
	syncs = []string{"sync"}
	up    = []string{"up"}
)

// badInput is the table of bad input: what is wrong, what is run, and what
// comes of it. Whatever the row does, no file that was there before changes,
// but those it names, and no secret is printed.
var badInput = []struct {
	name    string
	config  string
	setup   func(*box)
	args    []string
	code    int
	text    string
	hint    string
	changes []string
	after   func(*box)
}{
	// The document.
	{name: "unknown key", config: good + "resink: 1m\n", args: check, code: 4, text: `:8:1: unknown key "resink"`, hint: `did you mean "resync"?`},
	{name: "unknown key below", config: strings.Replace(good, "file: {path", "file: {pat", 1), args: syncs, code: 4, text: `unknown key "pat"`, hint: `did you mean "path"?`},
	{name: "wrong type", config: strings.Replace(good, "verify: false", "verify: 3", 1), args: check, code: 4, text: "registries[0].verify: boolean belongs here, not number", hint: "config schema"},
	{name: "list in place of a text", config: strings.Replace(good, "{path: out/config.json}", "{path: [a, b]}", 1), args: check, code: 4, text: "targets[0].file.path: string belongs here, not array", hint: "write it as: ~/.docker/config.json"},
	{name: "duplicate target", config: good + "  - name: out\n    file: {path: x}\n", args: check, code: 4, text: `targets[1].name: target "out" is there already, as targets[0]`, hint: "give each target a name of its own"},
	{name: "duplicate registry in two spellings", config: strings.Replace(good, "targets:", "  - host: https://REGISTRY.invalid/v2/\n    source: {builtin: {}}\ntargets:", 1), args: up, code: 4, text: "registry registry.invalid is there already", hint: "put both into one entry"},
	{name: "Docker Hub in two spellings", config: strings.ReplaceAll(good, "registry.invalid", "docker.io") + "", setup: func(b *box) {
		b.write("regkeeper.yaml", strings.Replace(strings.ReplaceAll(good, "registry.invalid", "docker.io"), "targets:",
			"  - host: https://index.docker.io/v1/\n    source: {builtin: {}}\ntargets:", 1))
	}, args: check, code: 4, text: "registry docker.io is there already", hint: "put both into one entry"},
	{name: "key twice", config: good + "resync: 1m\nresync: 2m\n", args: check, code: 4, text: `mapping key "resync" already defined`, hint: "look at"},
	{name: "literal secret", config: strings.Replace(good, "{env: REGKEEPER_TEST_SECRET}", "$SECRET", 1), args: check, code: 4, text: "a secret stands in the document", hint: "say where it is, as {env: NAME}, {file: PATH}"},
	{name: "literal secret on a line of its own", config: strings.Replace(good, "password: {env: REGKEEPER_TEST_SECRET}}", "password:\n      $SECRET\n      }", 1), args: up, code: 4, text: "a secret stands in the document", hint: "say where it is"},
	{name: "literal secret in braces", config: strings.Replace(good, "{env: REGKEEPER_TEST_SECRET}", "{$SECRET}", 1), args: check, code: 4, text: "password: unknown key", hint: "say where it is"},
	{name: "literal secret beside a reference", config: strings.Replace(good, "{env: REGKEEPER_TEST_SECRET}", "{env: A, value: $SECRET}", 1), args: check, code: 4, text: "password: unknown key", hint: "say where it is"},
	{name: "literal secret in place of a Secret's key", config: strings.Replace(good, "password: {env: REGKEEPER_TEST_SECRET}}", "password: {\n      secret: $SECRET}}", 1), args: check, code: 4, text: "it is no key of a Secret, and may be a secret itself", hint: "config schema"},
	{name: "literal secret under a mistyped key", config: strings.Replace(good, "password: {env: REGKEEPER_TEST_SECRET}", "passwort: $SECRET", 1), args: check, code: 4, text: `unknown key "passwort"`, hint: `did you mean "password"?`},
	{name: "literal secret in broken YAML", config: strings.Replace(good, "{env: REGKEEPER_TEST_SECRET}", `"$SECRET`, 1), args: check, code: 4, text: ":3:", hint: "look at the indentation, quotes and colons there"},
	{name: "literal secret above broken YAML", config: "token: $SECRET\n  api: [$SECRET\n" + good, args: check, code: 4, text: ":1:", hint: "look at the indentation, quotes and colons there"},
	{name: "login in a URL", config: strings.Replace(good, "static: {username: me,", "gitea: {url: 'https://me:$SECRET@gitea.example.com', user: me,", 1), args: check, code: 4, text: "it is no URL, or has a login in it", hint: "leave the login out"},
	{name: "empty", config: "\n# nothing\n", args: check, code: 4, text: "the configuration is empty", hint: "start from the example in the README"},
	{name: "several documents", config: good + "---\n" + good, args: check, code: 4, text: "there is more than one document", hint: "take the others away"},
	{name: "no YAML", config: "registries: [", args: syncs, code: 4, text: "regkeeper.yaml:1:", hint: "look at"},
	{name: "binary", config: "\x00\x01\x02", args: check, code: 4, text: "in regkeeper.yaml", hint: "regkeeper config schema"},
	{name: "bad cron", config: strings.Replace(good, "verify: false", "rotate: {cron: '61 * * * *'}", 1), args: check, code: 4, text: `cron "61 * * * *" cannot be read`, hint: "write five fields"},
	{name: "bad duration", config: strings.Replace(good, "verify: false", "rotate: {every: fortnight}", 1), args: check, code: 4, text: `"fortnight" cannot be read`, hint: "write it as: 30d"},
	{name: "negative duration", config: strings.Replace(good, "verify: false", "rotate: {overlap: -1h}", 1), args: check, code: 4, text: `"-1h" cannot be read`, hint: "write it as: 30d"},
	{name: "endless duration", config: strings.Replace(good, "verify: false", "rotate: {every: 999999y}", 1), args: check, code: 4, text: `duration "999999y" cannot be read`, hint: "write it as 30d"},
	{name: "mode without quotes", config: strings.Replace(good, "config.json}", "config.json, mode: 0644}", 1), args: check, code: 4, text: "mode: string belongs here, not number", hint: "in quotes"},
	{name: "probe without a host", config: strings.Replace(good, "verify: false", "probe: team/app:latest", 1), args: check, code: 4, text: `probe "team/app:latest" has no registry in front`, hint: "write it as host/repository:tag"},
	{name: "probe at another registry", config: strings.Replace(good, "verify: false", "probe: docker.io/library/alpine", 1), args: check, code: 4, text: "at another registry, which must not see the login", hint: "name an image of registry.invalid"},
	{name: "target for an unknown registry", config: strings.Replace(good, "- name: out", "- name: out\n    registries: [nosuch.example.com]", 1), args: check, code: 4, text: "registry nosuch.example.com is not among the registries", hint: "add it to registries"},
	{name: "target without a kind", config: strings.Replace(good, "    file: {path: out/config.json}\n", "", 1), args: check, code: 4, text: `target "out" has no kind`, hint: "file: {path: ~/.docker/config.json}"},
	{name: "port out of range", config: good + "serve: {health: {listen: '127.0.0.1:70000'}}\n", args: check, code: 4, text: `"127.0.0.1:70000" has no valid port`, hint: "at most 65535"},

	// Where the document is.
	{name: "no configuration", args: syncs, code: 8, text: "no configuration was found", hint: "run regkeeper up without one"},
	{name: "named configuration is not there", args: []string{"sync", "--config", "nosuch.yaml"}, code: 8, text: "configuration nosuch.yaml does not exist", hint: "leave --config away"},
	{name: "configuration is a folder", setup: func(b *box) { b.write("regkeeper.yaml/x", "") }, args: syncs, code: 10, text: "regkeeper.yaml: is a directory", hint: "move the folder away"},
	{name: "data folder is a file", config: good, setup: func(b *box) { b.write("data", "mine") }, args: []string{"sync", "--data", "data"}, code: 10, text: "data", hint: "a file stands where a folder is needed"},
	{name: "data folder of up is a file", config: good, setup: func(b *box) { b.write("data", "mine") }, args: []string{"up", "--data", "data"}, code: 10, text: "data", hint: "a file stands where a folder is needed"},
	{name: "data folder of status is a file", config: good, setup: func(b *box) { b.write("data", "mine") }, args: []string{"status", "--data", "data"}, code: 10, text: "not a directory", hint: "folder"},

	// Secrets.
	{name: "secret variable is not set", config: strings.Replace(good, "REGKEEPER_TEST_SECRET", "REGKEEPER_TEST_NONE", 1), args: syncs, code: 4, text: "environment variable REGKEEPER_TEST_NONE is not set", hint: "set it in the environment", changes: []string{"regkeeper-data/state.json"}},
	{name: "secret variable is empty", config: good, setup: func(b *box) { b.Setenv("REGKEEPER_TEST_SECRET", "\n") }, args: syncs, code: 4, text: "environment variable REGKEEPER_TEST_SECRET is empty", hint: "put the secret there"},
	{name: "secret variable has two lines", config: good, setup: func(b *box) { b.Setenv("REGKEEPER_TEST_SECRET", marker+"\n"+marker) }, args: syncs, code: 4, text: "has more than one line", hint: "on one line"},
	{name: "secret file is not there", config: strings.Replace(good, "env: REGKEEPER_TEST_SECRET", "file: nosuch", 1), args: syncs, code: 10, text: "no such file", hint: "check the path"},
	{name: "secret file is a folder", config: strings.Replace(good, "env: REGKEEPER_TEST_SECRET", "file: folder", 1), setup: func(b *box) { b.write("folder/x", "") }, args: syncs, code: 10, text: "is a directory", hint: "move the folder away"},
	{name: "secret program fails", config: strings.Replace(good, "env: REGKEEPER_TEST_SECRET", "exec: [sh, -c, 'echo $SECRET; echo $SECRET >&2; exit 3']", 1), args: syncs, code: 4, text: "run secret program sh: exit code 3", hint: "run it by hand"},
	{name: "secret program is not there", config: strings.Replace(good, "env: REGKEEPER_TEST_SECRET", "exec: [regkeeper-nosuch-program]", 1), args: syncs, code: 4, text: "run secret program regkeeper-nosuch-program", hint: "run it by hand"},
	{name: "secret program prints nothing", config: strings.Replace(good, "env: REGKEEPER_TEST_SECRET", "exec: ['true']", 1), args: syncs, code: 4, text: "secret program true is empty", hint: "put the secret there"},

	// Registries.
	{name: "unreachable registry", config: strings.ReplaceAll(tried, "$HOST", "127.0.0.1:$PORT"), args: syncs, code: 6, text: "reach registry 127.0.0.1:", hint: "check that the registry is up"},
	{name: "wrong password", config: tried, args: syncs, code: 5, text: "login refused", hint: "is wrong, revoked or expired"},
	{name: "wrong password keeps what was delivered", config: tried, setup: func(b *box) {
		b.Setenv("REGKEEPER_TEST_SECRET", b.token(credential.Pull))
		b.pass("sync")
		b.Setenv("REGKEEPER_TEST_SECRET", marker)
	}, args: syncs, code: 5, text: "login refused", hint: "is wrong, revoked or expired", changes: []string{"regkeeper-data/state.json"}},
	{name: "token without the scope", config: strings.Replace(tried, "targets:", "    scopes: [pull, push]\ntargets:", 1), setup: func(b *box) {
		b.Setenv("REGKEEPER_TEST_SECRET", b.token(credential.Pull))
	}, args: syncs, code: 5, text: "push to", hint: "lacks a right among: pull,push"},
	{name: "token that expired", config: tried, setup: func(b *box) { b.Setenv("REGKEEPER_TEST_SECRET", b.token()) }, args: syncs, code: 5, text: "login refused", hint: "is wrong, revoked or expired"},

	// Disks and files.
	{name: "read-only target", config: good, setup: func(b *box) {
		b.write("out/config.json", foreignFile)
		b.hint = readOnlyFolder(b.T, "out")
	}, args: syncs, code: 10, text: "out/config.json", changes: []string{"regkeeper-data/state.json"}},
	{name: "read-only data folder", config: minted, setup: func(b *box) {
		b.pass("sync")
		b.hint = readOnlyFolder(b.T, "regkeeper-data")
	}, args: []string{"rotate"}, code: 10, text: "regkeeper-data"},
	{name: "read-only place for the data folder", config: good, setup: func(b *box) {
		b.write("here/x", "")
		b.hint = readOnlyFolder(b.T, "here")
	}, args: []string{"up", "--data", "here/data"}, code: 10, text: "make data folder"},
	{name: "full disk of a target", config: good, setup: func(b *box) {
		fill := smallDisk(b.T, "out")
		b.write("out/config.json", foreignFile)
		fill()
	}, args: syncs, code: 10, text: "no space left on device", hint: "free some space on that disk"},
	{name: "full disk of the data folder", config: minted, setup: func(b *box) {
		fill := smallDisk(b.T, "regkeeper-data")
		b.pass("sync")
		fill()
	}, args: []string{"rotate"}, code: 10, text: "no space left on device", hint: "free some space on that disk"},
	{name: "target folder is gone", config: good, setup: func(b *box) {
		b.pass("sync")
		if err := os.RemoveAll("out"); err != nil {
			b.Fatal(err)
		}
	}, args: syncs, code: 0, changes: []string{"regkeeper-data/state.json"}, after: func(b *box) {
		if info, err := os.Stat("out/config.json"); err != nil || info.Mode().Perm() != 0o600 {
			b.Errorf("the file was not made anew: %v", err)
		}
	}},
	{name: "target folder is a file", config: good, setup: func(b *box) { b.write("out", "mine") }, args: syncs, code: 10, text: "not a directory", hint: "a file stands where a folder is needed"},
	{name: "config.json is a folder", config: good, setup: func(b *box) { b.write("out/config.json/mine", "mine") }, args: syncs, code: 10, text: "is a directory", hint: "a folder stands where a file belongs"},
	{name: "symlink loop", config: good, setup: func(b *box) {
		b.write("out/x", "")
		if err := os.Symlink("config.json", "out/config.json"); err != nil {
			b.Fatal(err)
		}
	}, args: syncs, code: 10, text: "too many levels of symbolic links", hint: "the symbolic links lead in a circle"},
	{name: "broken config.json", config: good, setup: func(b *box) { b.write("out/config.json", `{"auths": {"a": `) }, args: syncs, code: 9, text: "out/config.json", hint: ""},
	{name: "credential helper answers", config: good, setup: func(b *box) { b.write("out/config.json", `{"credsStore": "desktop"}`) }, args: syncs, code: 4, text: `the credential helper "desktop" answers for registry.invalid`, hint: `remove "credsStore" there`, changes: []string{"out/config.json"}, after: func(b *box) {
		if text, err := os.ReadFile("out/config.json"); err != nil || !strings.Contains(string(text), `"credsStore": "desktop"`) {
			b.Errorf("the helper was lost: %s %v", text, err)
		}
	}},

	// State.
	{name: "state cut in half, sync", config: good, setup: halfState, args: syncs, code: 9, text: "state.json cannot be read", hint: "put a copy back"},
	{name: "state cut in half, up", config: good, setup: halfState, args: up, code: 9, text: "state.json cannot be read", hint: "put a copy back"},
	{name: "state cut in half, status", config: good, setup: halfState, args: []string{"status"}, code: 9, text: "state.json cannot be read", hint: "put a copy back"},
	{name: "state cut in half, plan", config: good, setup: halfState, args: []string{"plan"}, code: 9, text: "state.json cannot be read", hint: "put a copy back"},
	{name: "tokens cut in half, sync", config: minted, setup: halfTokens, args: syncs, code: 9, text: "tokens.json line", hint: "repair it or move it away"},
	{name: "tokens cut in half, up", config: minted, setup: halfTokens, args: up, code: 9, text: "tokens.json line", hint: "repair it or move it away"},
	{name: "tokens cut in half, token create", config: minted, setup: halfTokens, args: []string{"registry", "token", "create", "--name", "x"}, code: 9, text: "tokens.json line", hint: "repair it or move it away"},
	{name: "empty instance file", config: good, setup: func(b *box) { b.pass("sync"); b.write("regkeeper-data/instance", "") }, args: syncs, code: 9, text: "instance is empty", hint: "put a copy back"},
	{name: "clock jumped back", config: minted, setup: func(b *box) { b.pass("sync"); shiftState(b, 100*24*time.Hour) }, args: []string{"plan"}, code: 2},
	{name: "clock jumped back, sync", config: minted, setup: func(b *box) { b.pass("sync"); shiftState(b, 100*24*time.Hour) }, args: syncs, code: 0,
		changes: []string{"regkeeper-data/state.json", "regkeeper-data/tokens/tokens.json", "out/config.json"}, after: func(b *box) {
			b.pass("sync")
			if out, _, code := run(b.T, "plan"); code != 0 {
				b.Errorf("it does not settle: exit code %d\n%s", code, out)
			}
		}},
	{name: "clock jumped ahead", config: minted, setup: func(b *box) { b.pass("sync"); shiftState(b, -100*24*time.Hour) }, args: []string{"plan"}, code: 2},

	// Others.
	{name: "two daemons on one data folder", config: minted, setup: func(b *box) {
		daemon(b.T, "up")
		eventually(b.T, "its first pass has ended", func() bool {
			out, _, _ := run(b.T, "status", "-o", "json")
			return strings.Contains(out, `"ready": true`)
		})
	}, args: up, code: 7, text: "is in use by process", hint: "give this one a folder of its own with --data", changes: []string{"regkeeper-data/state.json"}},
	{name: "port of the registry is taken", config: good + "serve: {registry: {listen: '127.0.0.1:$PORT'}, health: {listen: '127.0.0.1:0'}}\n", setup: holdPort, args: up, code: 7, text: "embedded registry: listen tcp 127.0.0.1:", hint: "set serve.registry.listen to a free port"},
	{name: "port of the health endpoints is taken", config: good + "serve: {health: {listen: '127.0.0.1:$PORT'}}\n", setup: holdPort, args: up, code: 7, text: "health endpoints: listen tcp 127.0.0.1:", hint: "set serve.health.listen to a free port"},
	{name: "address of another machine", config: good + "serve: {health: {listen: '192.0.2.1:9470'}}\n", args: up, code: 4, text: "health endpoints: listen tcp 192.0.2.1:9470", hint: "name an address of this machine"},
	{name: "certificate is not there", config: good + "serve: {registry: {listen: '127.0.0.1:0', tls: {cert: nosuch.crt, key: nosuch.key}}}\n", args: up, code: 4, text: "nosuch.crt: no such file", hint: "check serve.registry.tls"},
	{name: "certificate is none", config: good + "serve: {registry: {listen: '127.0.0.1:0', tls: {cert: x.crt, key: x.key}}}\n", setup: func(b *box) { b.write("x.crt", "x"); b.write("x.key", "$SECRET") }, args: up, code: 4, text: "load certificate", hint: "check serve.registry.tls"},
	{name: "key in place of its file", config: good + "serve: {registry: {tls: {cert: x.crt, key: \"-----BEGIN\\n$SECRET\"}}}\n", args: check, code: 4, text: "serve.registry.tls.key: it cannot be read", hint: "write it as: /etc/regkeeper/tls.key"},
}

func halfState(b *box)  { b.pass("sync"); b.halve("regkeeper-data/state.json") }
func halfTokens(b *box) { b.pass("sync"); b.halve("regkeeper-data/tokens/tokens.json") }

func holdPort(b *box) {
	listener, err := net.Listen("tcp", "127.0.0.1:"+b.port)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = listener.Close() })
}

// shiftState moves the times in the state file, as if the clock had been moved
// the other way.
func shiftState(b *box, by time.Duration) {
	const path = "regkeeper-data/state.json"
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	day := time.Now().UTC()
	for _, was := range []time.Time{day.AddDate(0, 0, -1), day, day.AddDate(0, 0, 1)} {
		text = bytes.ReplaceAll(text, []byte(was.Format(time.DateOnly)), []byte(was.Add(by).Format(time.DateOnly)))
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
}

// TestBadInput runs the table of bad input.
func TestBadInput(t *testing.T) {
	for _, row := range badInput {
		t.Run(row.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("HOME", t.TempDir())
			t.Setenv("XDG_CONFIG_HOME", "")
			t.Setenv("REGKEEPER_TEST_SECRET", marker)
			b := &box{T: t, port: freePort()}
			if strings.Contains(row.config, "$HOST") {
				b.host, b.token = embedded(t)
			}
			if row.config != "" {
				b.write("regkeeper.yaml", row.config)
			}
			if row.setup != nil {
				row.setup(b)
			}
			before := snapshot(t)
			out, errs, code := run(t, row.args...)
			hint := row.hint
			if b.hint != "" {
				hint = b.hint
			}
			if code != row.code {
				t.Errorf("exit code is %d, want %d", code, row.code)
			}
			if !strings.Contains(errs, row.text) {
				t.Errorf("the error does not say %q", row.text)
			}
			if !strings.Contains(errs, hint) {
				t.Errorf("the hint does not say %q", hint)
			}
			if strings.Contains(out+errs, marker) {
				t.Error("the secret was printed")
			}
			if t.Failed() {
				t.Logf("standard output:\n%s\nstandard error:\n%s", out, errs)
			}
			for _, path := range row.changes {
				delete(before, path)
			}
			after := snapshot(t)
			for path, was := range before {
				if is, ok := after[path]; !ok || is != was {
					t.Errorf("%s was changed:\n%s\nto:\n%s", path, was, is)
				}
			}
			if row.after != nil {
				row.after(b)
			}
		})
	}
}

// snapshot is the mode and content of the files below the working folder. What
// only locks or counts is left out.
func snapshot(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Base(path) == "lock" || strings.HasSuffix(path, ".lock") || strings.HasSuffix(path, ".used") || strings.Contains(path, ".regkeeper-") || strings.Contains(path, ".tmp-") {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += "\n" + string(content)
		}
		files[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// embedded serves a registry with nothing in it.
func embedded(t *testing.T) (host string, token func(...credential.Scope) string) {
	t.Helper()
	folder := t.TempDir()
	clock := time.Now
	tokens, err := builtin.OpenTokens(filepath.Join(folder, "tokens", "tokens.json"), clock)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := builtin.New(builtin.Config{Dir: filepath.Join(folder, "registry"), Tokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry)
	t.Cleanup(func() { server.Close(); _ = registry.Close() })
	number := 0
	return server.Listener.Addr().String(), func(scopes ...credential.Scope) string {
		number++
		request := builtin.TokenRequest{
			User: "me", Name: "t" + strings.Repeat("x", number), Scopes: scopes, Repositories: []string{"*"},
		}
		if len(scopes) == 0 {
			// One that has expired by the time it is used.
			request.Scopes, request.Expires = credential.ScopesOf(credential.Pull), time.Now().Add(5*time.Millisecond)
		}
		_, secret, err := tokens.Create(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if wait := time.Until(request.Expires); wait > 0 {
			time.Sleep(wait)
		}
		return secret.Reveal()
	}
}
