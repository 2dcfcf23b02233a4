package differential_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/regkeeper/regkeeper/consumer"
)

const (
	homeFolder = "/home/user"
	workFolder = "/work"
)

// content is what is at a path: a file's text, or what keeps a file from being read.
type content struct {
	text      string
	folder    bool // there is a folder
	forbidden bool // there is a file, for root alone
}

func (c content) String() string {
	switch {
	case c.folder:
		return "a folder"
	case c.forbidden:
		return "a file for root alone"
	}
	return c.text
}

// sandbox is a folder in which a client finds what it looks for. Its paths are those
// below the folder.
type sandbox struct {
	root    string
	written []string
}

func newSandbox(t testing.TB) *sandbox {
	t.Helper()
	root, err := os.MkdirTemp("", "regkeeper-differential-") //nolint:usetesting // a folder of t.TempDir is closed to nobody
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	s := &sandbox{root: root}
	for _, folder := range []string{"", homeFolder, workFolder, "/bin/" + secretService, "/bin/" + pass} {
		if err := os.MkdirAll(root+folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	building.Lock()
	defer building.Unlock()
	script := func(folder, name, text string) {
		if err := os.WriteFile(filepath.Join(root, "bin", folder, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, h := range helpers {
		script("", "docker-credential-"+name, h.script())
	}
	for _, store := range []string{secretService, pass} {
		script(store, "docker-credential-"+store, helpers["some"].script())
	}
	script(pass, pass, "#!/bin/sh\n")
	return s
}

// path is the value of PATH that has all helpers, and those of the platform's
// default one.
func (s *sandbox) path(store string) string {
	all := s.root + "/bin"
	if store != "" {
		all += ":" + s.root + "/bin/" + store
	}
	return all
}

// write puts the files there, and takes away those that were there.
func (s *sandbox) write(files map[string]content) error {
	for _, name := range slices.Backward(s.written) {
		if err := os.RemoveAll(s.root + name); err != nil {
			return err
		}
	}
	s.written = nil
	for name, c := range files {
		at := s.root + name
		s.written = append(s.written, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if c.folder {
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
			continue
		}
		mode := fs.FileMode(0o644)
		if c.forbidden {
			mode = 0
		}
		if err := os.WriteFile(at, []byte(c.text), mode); err != nil {
			return err
		}
	}
	return nil
}

// readFile is what the decision reads: the same, as nobody would.
func (s *sandbox) readFile(files map[string]content) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		in := path.Clean(strings.TrimPrefix(name, s.root))
		c, ok := files[in]
		if !ok {
			for below := range files {
				if strings.HasPrefix(below, in+"/") {
					c, ok = content{folder: true}, true
				}
				if strings.HasPrefix(in, below+"/") && !files[below].folder {
					return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOTDIR}
				}
			}
		}
		switch {
		case !ok:
			return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
		case c.folder:
			return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
		case c.forbidden:
			return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
		}
		return []byte(c.text), nil
	}
}

const (
	secretService = "secretservice"
	pass          = "pass"
	tokenUser     = "<token>"
	hubKey        = "https://index.docker.io/v1/"
)

// helper is a credential helper: what it says for the servers that it knows.
type helper struct {
	user string
	// knows are the servers with a login of their own; others have one in common if
	// all is set.
	knows []string
	all   bool
	// lists are the servers that it lists.
	lists []string
	// says is what it prints to every question, with that exit code.
	says  string
	exits int
	// unlisted has it fail when asked what it knows.
	unlisted bool
}

const notFound = "credentials not found in native keychain"

// known are servers that helpers know.
var known = []string{"reg.example.com", "reg.example.com:5000", "localhost:5000", "localhost", hubKey, "docker.io", "index.docker.io", "registry-1.docker.io", "https://reg.example.com", "reg.example.com/team/app"}

var helpers = map[string]helper{
	"full":     {user: "full", knows: known, all: true, lists: []string{"reg.example.com", hubKey, "https://reg.example.com:5000/v2/"}},
	"some":     {user: "some", knows: []string{"reg.example.com", hubKey}, lists: []string{"reg.example.com", hubKey}},
	"token":    {user: tokenUser, knows: known, all: true, lists: []string{"reg.example.com"}},
	"none":     {user: "none"},
	"empty":    {says: `{"ServerURL": "x", "Username": "", "Secret": ""}`},
	"userless": {says: `{"Username": "", "Secret": "userless-secret"}`},
	"broken":   {says: "cannot reach the keychain", exits: 1},
	"garbage":  {says: "this is no JSON"},
	"liar":     {user: "liar", knows: []string{"localhost:5000"}, lists: []string{"reg.example.com", "localhost:5000"}},
	"unlisted": {user: "unlisted", knows: known, all: true, unlisted: true},
}

// script is the helper as a program.
func (h helper) script() string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\nIFS= read -r server\n")
	if h.says != "" {
		fmt.Fprintf(&b, "echo '%s'\nexit %d\n", h.says, h.exits)
		return b.String()
	}
	b.WriteString("if [ \"$1\" = list ]; then\n")
	if h.unlisted {
		b.WriteString("echo 'no list'\nexit 1\n")
	}
	listed := make([]string, len(h.lists))
	for i, server := range h.lists {
		listed[i] = fmt.Sprintf("%q: %q", server, h.user)
	}
	fmt.Fprintf(&b, "echo '{%s}'\nexit 0\nfi\ncase \"$server\" in\n", strings.Join(listed, ", "))
	for _, server := range h.knows {
		fmt.Fprintf(&b, "'%s') echo '{\"ServerURL\": %q, \"Username\": %q, \"Secret\": %q}';;\n", server, server, h.user, h.secret(server))
	}
	if h.all {
		fmt.Fprintf(&b, "*) echo '{\"Username\": %q, \"Secret\": %q}';;\nesac\n", h.user, h.secret("any"))
	} else {
		fmt.Fprintf(&b, "*) echo '%s'; exit 1;;\nesac\n", notFound)
	}
	return b.String()
}

func (h helper) secret(server string) string { return h.user + "-secret-for-" + server }

// fakeHelpers are the helpers without their programs. Each store of the platform is
// "some".
type fakeHelpers struct{ store string }

var _ consumer.Helpers = fakeHelpers{}

func (f fakeHelpers) find(name string) (helper, error) {
	if name == f.store && name != "" {
		name = "some"
	}
	h, ok := helpers[name]
	if !ok {
		return h, fmt.Errorf("docker-credential-%s is not on PATH", name)
	}
	return h, nil
}

func (f fakeHelpers) Get(name, server string) (username, secret string, err error) {
	server, _, _ = strings.Cut(server, "\n")
	h, err := f.find(name)
	switch {
	case err != nil:
		return "", "", err
	case name == "empty":
		return "", "", nil
	case name == "userless":
		return "", "userless-secret", nil
	case h.says != "":
		return "", "", fmt.Errorf("it says %q", h.says)
	case slices.Contains(h.knows, server):
		return h.user, h.secret(server), nil
	case h.all:
		return h.user, h.secret("any"), nil
	}
	return "", "", consumer.ErrNoLogin
}

func (f fakeHelpers) List(name string) ([]string, error) {
	h, err := f.find(name)
	switch {
	case err != nil:
		return nil, err
	case name == "empty":
		return []string{"ServerURL", "Username", "Secret"}, nil
	case name == "userless":
		return []string{"Username", "Secret"}, nil
	case h.says != "" || h.unlisted:
		return nil, fmt.Errorf("it says %q", h.says)
	}
	return h.lists, nil
}
