package builtin_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/registry/builtin"
)

func FuzzParseScope(f *testing.F) {
	for _, seed := range []string{"repository:team/app:pull,push", "registry:catalog:*", "repository:host:5000/app:pull", "a:b:", "::", ":::,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		kind, name, actions, ok := builtin.ParseScope(text)
		if !ok {
			return
		}
		if kind == "" || name == "" || len(actions) == 0 || strings.Contains(kind, ":") {
			t.Fatalf("%q gives %q %q %q", text, kind, name, actions)
		}
		kind2, name2, actions2, ok := builtin.ParseScope(kind + ":" + name + ":" + strings.Join(actions, ","))
		if !ok || kind2 != kind || name2 != name || strings.Join(actions2, ",") != strings.Join(actions, ",") {
			t.Fatalf("%q is not read back as written: %q %q %q", text, kind2, name2, actions2)
		}
	})
}

// Whatever the path, a caller neither reads nor changes a repository without a
// right on it, and the registry and its storage never differ about which one a
// path is about: that would be answered 500.
func FuzzPath(f *testing.F) {
	fx := start(f)
	admin := fx.admin()
	image, _ := fx.pushImage(admin.basic(), "theirs/app", "v1", "secret")
	fx.pushImage(admin.basic(), "mine/app", "v1", "own")
	mine := fx.login("ci", "pull,push,delete", "mine/*")
	theirs := filepath.Join(fx.config.Dir, "theirs")
	before := fingerprint(f, theirs)

	for _, method := range []string{"GET", "PUT", "POST", "DELETE"} {
		for _, seed := range []string{
			"mine/app/manifests/v1", "theirs/app/manifests/v1", "mine/../theirs/app/manifests/v1", "mine/%2e%2e/theirs/app/manifests/" + image,
			"mine%2f..%2ftheirs/app/blobs/" + image, "mine//app/tags/list?n=-1", "mine/app/blobs/uploads/", "mine/app/blobs/uploads/?mount=" + image + "&from=theirs/app",
			"mine/app/manifests/../../../theirs/app/manifests/v1", "_catalog?n=0", "token?scope=repository:theirs/app:pull", "mine/app/referrers/" + image + "?cache=" + image + "&page=1",
			"mine/app/blobs/uploads/blobs/x", "mine/tags/list/tags/list", "mine/app/blobs/uploads/x?digest=&state=", "mine/app/manifests/v1?digest=sha512:0&tag=a",
		} {
			f.Add(method, seed)
		}
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI("/v2/" + target)
		if err != nil || !strings.HasPrefix(u.Path, "/v2/") || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader("{}"))
		r.Method, r.URL = method, u
		r.Header.Set("Authorization", mine.basic())
		w := httptest.NewRecorder()
		fx.registry.ServeHTTP(w, r)

		repository, ok := builtin.ParseRepository(method, u.Path)
		if ok && repository != "" && !strings.HasPrefix(repository, "mine/") && w.Code != http.StatusForbidden {
			t.Errorf("%s %s is about %s and answered %d", method, u, repository, w.Code)
		}
		if w.Code == 0 || w.Code >= http.StatusInternalServerError {
			t.Errorf("%s %s is answered %d: %s", method, u, w.Code, w.Body)
		}
		if strings.Contains(w.Body.String(), digestOf([]byte("layer secret"))) {
			t.Errorf("%s %s reads a repository of others: %s", method, u, w.Body)
		}
		if after := fingerprint(t, theirs); after != before {
			t.Errorf("%s %s changes a repository of others: %s, was %s", method, u, after, before)
		}
	})
}

// fingerprint names all files below a folder, with their times.
func fingerprint(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			b.WriteString(path + info.ModTime().String() + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
