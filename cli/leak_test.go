package cli_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// spy knows the secrets of a run, and finds them in what must not have them.
type spy struct {
	*testing.T
	// secrets are by what they are; users are those they belong to.
	secrets map[string]string
	users   []string
}

// forms are the ways in which a secret could be written.
func (s *spy) forms(secret string) map[string]string {
	forms := map[string]string{
		"as it is":      secret,
		"in hex":        hex.EncodeToString([]byte(secret)),
		"in a query":    url.QueryEscape(secret),
		"in a path":     url.PathEscape(secret),
		"quoted":        strings.Trim(fmt.Sprintf("%q", secret), `"`),
		"in JSON":       strings.Trim(jsonText(secret), `"`),
		"in base64":     strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "="),
		"in base64 URL": strings.TrimRight(base64.URLEncoding.EncodeToString([]byte(secret)), "="),
	}
	for _, user := range s.users {
		forms["in base64 with "+user] = strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(user+":"+secret)), "=")
	}
	return forms
}

func jsonText(value string) string {
	text, _ := json.Marshal(value)
	return string(text)
}

// clean looks for the secrets in a text, those left out that belong there.
func (s *spy) clean(where, text string, but ...string) {
	s.Helper()
	for name, secret := range s.secrets {
		for form, word := range s.forms(secret) {
			if strings.Contains(text, word) && !strings.Contains(strings.Join(but, " "), name) {
				s.Errorf("%s has the secret of %s, %s", where, name, form)
			}
		}
	}
}

// leaky has a login of each kind, of which some cannot be got, verified or
// delivered.
const leaky = `registries:
  - host: 127.0.0.1:$PORT
    source: {builtin: {user: minted}}
  - host: $HOST
    source: {static: {username: me, password: {env: REGKEEPER_TEST_SECRET}}}
  - host: 127.0.0.1:1
    source: {static: {username: me, password: {file: secret}}}
  - host: registry.invalid
    source: {static: {username: me, password: {exec: [./program]}}}
    verify: false
  - host: failing.invalid
    source: {static: {username: me, password: {exec: [./failing]}}}
  - host: gitea.invalid
    source: {gitea: {url: "$GITEA", user: me, password: {file: secret}}}
targets:
  - name: good
    file: {path: good/config.json}
  - name: folder
    file: {path: folder/config.json}
serve:
  registry: {listen: "127.0.0.1:$PORT"}
  health: {listen: "127.0.0.1:$HEALTH"}
`

// TestLeak runs all that fails and all that does not, and looks for the secrets
// in all that comes out.
func TestLeak(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("HOME", t.TempDir())
			s := &spy{T: t, users: []string{"me", "minted", "regkeeper"}, secrets: map[string]string{
				"env":     "leak env/+%&é-1f6d",
				"file":    "leak file/+%&é-2c8b",
				"exec":    "leak exec/+%&é-3a9e",
				"failing": "leak failing/+%&é-4b0f",
				"literal": "leak-literal-5d17",
			}}
			t.Setenv("REGKEEPER_TEST_SECRET", s.secrets["env"])
			b := &box{T: t, port: freePort()}
			b.host, b.token = embedded(t)
			gitea := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, `{"message": "invalid username, password or token"}`)
			}))
			t.Cleanup(gitea.Close)
			health := freePort()
			document := strings.NewReplacer("$GITEA", gitea.URL, "$HEALTH", health).Replace(leaky)
			b.write("regkeeper.yaml", document)
			b.write("secret", s.secrets["file"]+"\n")
			b.write("folder/config.json/x", "")
			program := "#!/bin/sh\ncat /proc/$$/cmdline /proc/$PPID/cmdline >>cmdline\ncat /proc/$$/environ >>environ\necho '%[1]s' >&2\necho '%[1]s'\n%[2]s\n"
			b.write("program", fmt.Sprintf(program, s.secrets["exec"], ""))
			b.write("failing", fmt.Sprintf(program, s.secrets["failing"], "exit 1"))
			for _, path := range []string{"program", "failing"} {
				if err := os.Chmod(path, 0o700); err != nil {
					t.Fatal(err)
				}
			}

			d := daemon(t, "up", "-v", "--log-format", format)
			eventually(t, "the good place is delivered to", func() bool {
				_, err := os.Stat("good/config.json")
				return err == nil && strings.Contains(d.errs.String(), "step failed")
			})
			get := func(path string) string {
				t.Helper()
				response, err := http.Get("http://127.0.0.1:" + health + path)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = response.Body.Close() }()
				text, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			commands := func() {
				t.Helper()
				for _, args := range [][]string{
					{"status"}, {"status", "-o", "json"}, {"plan", "-v"}, {"plan", "-o", "json"}, {"sync", "-v"}, {"sync", "-o", "json"},
					{"rotate", "127.0.0.1:" + b.port}, {"rotate", "-o", "json", "127.0.0.1:" + b.port}, {"rotate", b.host},
					{"config", "check", "-o", "json"}, {"registry", "token", "list"}, {"registry", "token", "list", "-o", "json"},
				} {
					out, errs, _ := run(t, args...)
					s.minted("regkeeper-data/state.json")
					s.clean(strings.Join(args, " "), out+errs)
				}
			}
			commands()
			for _, path := range []string{"/metrics", "/readyz", "/healthz"} {
				s.clean(path, get(path))
			}
			if text := get("/readyz"); !strings.Contains(text, "login refused") || !strings.Contains(text, "is a directory") {
				t.Errorf("the failures this is about did not happen: %s", text)
			}

			// A secret written into the document, on purpose and by a slip.
			for _, slip := range []string{s.secrets["literal"], `"` + s.secrets["literal"]} {
				b.write("regkeeper.yaml", strings.Replace(document, "{env: REGKEEPER_TEST_SECRET}", slip, 1))
				if _, errs, code := run(t, "config", "check"); code != 4 {
					t.Errorf("config check: exit code %d: %s", code, errs)
				}
				d.hangup <- os.Interrupt // any signal on that channel stands for SIGHUP
				reloads := strings.Count(d.errs.String(), "not taken up")
				eventually(t, "the broken document was seen", func() bool { return strings.Count(d.errs.String(), "not taken up") > reloads })
			}
			b.write("regkeeper.yaml", document)
			if code := d.stop(); code != 0 {
				t.Errorf("up: exit code %d", code)
			}
			s.clean("up's standard output", d.out.String())
			s.clean("up's standard error", d.errs.String())
			commands()

			// A child is given no secret in its arguments, and none in its
			// environment that regkeeper's own did not have.
			s.clean("command lines", read(t, "cmdline"))
			s.clean("environments", read(t, "environ"), "env")
			for _, path := range []string{"cmdline", "environ"} {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			s.files()
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var stored = regexp.MustCompile(`"secret": "(rkp_\w+)"`)

// minted takes up the secrets of the embedded registry's tokens in a state file.
func (s *spy) minted(path string) {
	s.Helper()
	for _, found := range stored.FindAllStringSubmatch(read(s.T, path), -1) {
		s.secrets["minted "+hex.EncodeToString([]byte(found[1][4:10]))] = found[1]
	}
}

// files looks through all files: secrets are in those meant for them alone,
// and nobody else can read those.
func (s *spy) files() {
	s.Helper()
	if len(s.secrets) < 7 {
		s.Errorf("only %d secrets are known: no login was minted and rotated", len(s.secrets))
	}
	meant := map[string]fs.FileMode{
		"regkeeper-data/state.json": 0o600, "good/config.json": 0o600, "secret": 0o600, "program": 0o700, "failing": 0o700,
	}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode, ok := meant[path]
		if !ok {
			s.clean(path, read(s.T, path))
		} else if info.Mode().Perm() != mode {
			s.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		delete(meant, path)
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	for path := range meant {
		s.Errorf("%s is not there", path)
	}
}
