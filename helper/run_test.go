package helper_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/helper"
	"github.com/regkeeper/regkeeper/problem"
)

// answered is the body of the daemon's answer to a query.
func answered(t *testing.T, handler http.Handler, query string) []byte {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, helper.Path+query, nil))
	if recorder.Code != http.StatusOK || recorder.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%q is answered %d, %v", query, recorder.Code, recorder.Header())
	}
	return recorder.Body.Bytes()
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// main runs the program in this process.
func main(folder, in string, args ...string) (out string, code int) {
	var b strings.Builder
	run := helper.Run{
		In: strings.NewReader(in), Out: &b, Getenv: environment(helper.FolderVariable, folder),
		Now: func() time.Time { return now }, Version: "v1.2.3",
	}
	code = run.Main(args...)
	return b.String(), code
}

// The protocol to the byte: answers and errors go to standard output, an error in
// one line with exit code 1.
func TestProtocol(t *testing.T) {
	t.Parallel()
	folder := written(t, keyring())
	for _, c := range []struct {
		name, in string
		args     []string
		out      string
		code     int
	}{
		{"get", "h.example.com", []string{"get"}, `{"ServerURL":"h.example.com","Username":"robot","Secret":"hunter2-\u003cin-force\u003e\u0026\""}` + "\n", 0},
		{"get, the URL as it was sent", "https://h.example.com:5000/v2/\n", []string{"get"}, `{"ServerURL":"https://h.example.com:5000/v2/","Username":"other","Secret":"port-secret"}` + "\n", 0},
		{"get nothing", "\n", []string{"get"}, "no credentials server URL\n", 1},
		{"get what is not kept", "other.example.com", []string{"get"}, "credentials not found in native keychain\n", 1},
		{"get what is no registry", "%%%", []string{"get"}, "credentials not found in native keychain\n", 1},
		{"get what has failed", "failed.example.com", []string{"get"}, "regkeeper: there is no login for failed.example.com yet: the token lacks read:package (see regkeeper status)\n", 1},
		{"store", `{"ServerURL":"h.example.com","Username":"me","Secret":"typed"}`, []string{"store"}, "regkeeper: regkeeper keeps the login for h.example.com, and rotates it: nothing was stored (change the registry's source in regkeeper's configuration, or have clients read their file again: regkeeper install helper --remove --write)\n", 1},
		{"store for others", `{"ServerURL":"o.example.com","Username":"me","Secret":"typed"}`, []string{"store"}, "regkeeper: regkeeper is no keychain, and does not keep o.example.com: nothing was stored (under \"credHelpers\", name regkeeper for the registries it keeps alone, and nowhere as \"credsStore\")\n", 1},
		{"store no user", `{"ServerURL":"h.example.com"}`, []string{"store"}, "no credentials username\n", 1},
		{"store no server", `{"Username":"me"}`, []string{"store"}, "no credentials server URL\n", 1},
		{"erase", "h.example.com", []string{"erase"}, "regkeeper: regkeeper keeps the login for h.example.com: nothing was erased (to have clients read their file again: regkeeper install helper --remove --write)\n", 1},
		{"erase what is not kept", "other.example.com", []string{"erase"}, "credentials not found in native keychain\n", 1},
		{"list", "unused", []string{"list"}, `{"expired.example.com":"robot","h.example.com":"robot","h.example.com:5000":"other","https://index.docker.io/v1/":"acme","raw.example.com":"robot"}` + "\n", 0},
		{"version", "", []string{"version"}, "docker-credential-regkeeper (github.com/regkeeper/regkeeper) v1.2.3\n", 0},
	} {
		out, code := main(folder, c.in, c.args...)
		if diff := cmp.Diff(c.out, out); diff != "" || code != c.code {
			t.Errorf("%s: exit code %d, want %d\n%s", c.name, code, c.code, diff)
		}
	}
	for _, args := range [][]string{nil, {"get", "h.example.com"}} {
		if out, code := main(folder, "h.example.com", args...); code != 1 || !strings.HasPrefix(out, "Usage: ") {
			t.Errorf("%q: exit code %d\n%s", args, code, out)
		}
	}
	if out, code := main(folder, "", "--help"); code != 0 || !strings.HasPrefix(out, "Usage: ") {
		t.Errorf("--help: exit code %d\n%s", code, out)
	}
	for _, args := range []string{"GET", "", "delete"} {
		if out, code := main(folder, "h.example.com", args); code != 1 || !strings.Contains(out, "unknown action") {
			t.Errorf("%q: exit code %d\n%s", args, code, out)
		}
	}
	if out, code := main(folder, "not json hunter2", "store"); code != 1 || strings.Contains(out, "hunter2") {
		t.Errorf("store of no JSON: exit code %d\n%s", code, out)
	}
	if out, code := main(folder, strings.Repeat("h.example.com", 1<<20), "get"); code != 1 || strings.Count(out, "\n") != 1 {
		t.Errorf("a long question: exit code %d\n%.200s", code, out)
	}
}

func TestEmptyListIsAnObject(t *testing.T) {
	t.Parallel()
	if out, code := main(serve(t, loads(keyring())), "other.example.com", "get"); code != 1 || out != "credentials not found in native keychain\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
	doc := keyring()
	clear(doc.Registries)
	if out, code := main(serve(t, loads(doc)), "", "list"); code != 0 || out != "{}\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func TestFolders(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	env := environment("HOME", home)
	if got, err := helper.Folders(environment(helper.FolderVariable, "/data", "HOME", home)); err != nil || !cmp.Equal(got, []string{"/data"}) {
		t.Errorf("by the variable: %v, %v", got, err)
	}
	if _, err := helper.Folders(environment(helper.FolderVariable, "data", "HOME", home)); problem.KindOf(err) != problem.Usage {
		t.Errorf("by the variable, of the working folder: %v", err)
	}
	usual := filepath.Join(home, ".local", "state", "regkeeper")
	if err := os.MkdirAll(usual, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := helper.Folders(env); err != nil || len(got) == 0 || got[0] != usual {
		t.Errorf("the usual: %v, %v", got, err)
	}
	note := helper.Note(env)
	if want := filepath.Join(home, ".config", "regkeeper", "helper.json"); note != want {
		t.Errorf("the note is %s, want %s", note, want)
	}
	if err := helper.WriteNote(note, []string{"/b", "/a"}); err != nil {
		t.Fatal(err)
	}
	if got, err := helper.Folders(env); err != nil || !cmp.Equal(got, []string{"/b", "/a"}) {
		t.Errorf("as written down: %v, %v", got, err)
	}
	if info, err := os.Stat(note); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the note: %v, %v", info.Mode(), err)
	}
	for _, text := range []string{"", "{", `{"data":"/a"}`, `{"data":["a"]}`, `{"data":["/a"],"x":1}`} {
		if err := os.WriteFile(note, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := helper.Folders(env); problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), note) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if got := helper.Note(environment("HOME", "relative", "XDG_CONFIG_HOME", "relative")); got != "" {
		t.Errorf("without a home the note is %q", got)
	}
	if got := helper.Note(environment("XDG_CONFIG_HOME", "/x")); got != "/x/regkeeper/helper.json" {
		t.Errorf("the note is %q", got)
	}
}

// What is read of a note is what was written, or a problem that names the file.
func FuzzNote(f *testing.F) {
	for _, text := range []string{`{"data":["/a"]}`, `{"data":["a"]}`, `{}`, `{"data":null}`, `[]`, `{"data":["/a"]} x`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		folders, err := helper.ParseNote("helper.json", text)
		if err != nil {
			if problem.KindOf(err) != problem.Damaged || folders != nil {
				t.Fatalf("%q: %v, %v", text, folders, err)
			}
			return
		}
		for _, folder := range folders {
			if !filepath.IsAbs(folder) {
				t.Fatalf("%q names %q", text, folder)
			}
		}
	})
}
