package k3sconfig_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	yaml "go.yaml.in/yaml/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/k3sconfig"
	"github.com/regkeeper/regkeeper/problem"
)

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

// k3s is the part of the document that K3s reads, by the parser that it reads
// it with (rancher/wharfie, pkg/registries).
type k3s struct {
	Mirrors map[string]any `yaml:"mirrors"`
	Configs map[string]struct {
		Auth *struct {
			Username      string `yaml:"username"`
			Password      string `yaml:"password"`
			Auth          string `yaml:"auth"`
			IdentityToken string `yaml:"identity_token"`
		} `yaml:"auth"`
		TLS map[string]any `yaml:"tls"`
	} `yaml:"configs"`
}

// asK3s is the login that K3s finds.
func asK3s(text []byte, host string) (username, password string, err error) {
	var doc k3s
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return "", "", err
	}
	if auth := doc.Configs[host].Auth; auth != nil {
		return auth.Username, auth.Password, nil
	}
	return "", "", nil
}

func parse(t testing.TB, text string) *k3sconfig.Document {
	t.Helper()
	doc, err := k3sconfig.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// documented is the example of K3s's documentation, with what people add.
const documented = `# ours
mirrors:
  docker.io:
    endpoint:
      - "https://registry.example.com:5000"   # the cache
    rewrite:
      "^rancher/(.*)": "mirrored/$1"


configs:
  # the cache
  "registry.example.com:5000":
    auth:
      username: xxxxxx # this is the registry username
      password: 'it''s'   # this is the registry password
    tls:
      ca_file: /etc/ssl/ca.pem

  other.example.com:
    tls: {insecure_skip_verify: true}

# the end
`

func TestSet(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
		host             credential.Host
	}{
		{"empty", "", "configs:\n  \"h\":\n    auth:\n      username: 'u'\n      password: 'p'\n", "h"},
		{"comments alone", "# mine\n", "# mine\nconfigs:\n  \"h\":\n    auth:\n      username: 'u'\n      password: 'p'\n", "h"},
		{"comment without a line break", "# mine", "# mine\nconfigs:\n  \"h\":\n    auth:\n      username: 'u'\n      password: 'p'\n", "h"},
		{"no configs", "mirrors:\n    a: {}\n\n# end\n", "mirrors:\n    a: {}\nconfigs:\n    \"h\":\n        auth:\n            username: 'u'\n            password: 'p'\n\n# end\n", ""},
		{"configs without a value", "configs: # none\nx: y\n", "configs: # none\n  \"h\":\n    auth:\n      username: 'u'\n      password: 'p'\nx: y\n", ""},
		{"configs null", "configs: ~ # none\n", "configs: {\"h\": {auth: {username: 'u', password: 'p'}}} # none\n", ""},
		{"configs empty", "configs: {}\n", "configs: {\"h\": {auth: {username: 'u', password: 'p'}}}\n", ""},
		{"brackets", `configs: {"x": {auth: {username: a, password: b}}} # c`, `configs: {"h": {auth: {username: 'u', password: 'p'}}, "x": {auth: {username: a, password: b}}} # c`, ""},
		{"brackets, replaced", `{configs: {h: {auth: {username: a, password: "b"}, tls: {}}}}`, `{configs: {h: {auth: {username: 'u', password: 'p'}, tls: {}}}}`, ""},
		{"brackets, no auth", `configs: {h: {tls: {}}}`, `configs: {h: {auth: {username: 'u', password: 'p'}, tls: {}}}`, ""},
		{"brackets, base64", `configs: {h: {auth: {auth: eDp5, note: it}, tls: {}}}`, `configs: {h: {auth: {username: 'u', password: 'p', note: it}, tls: {}}}`, ""},
		{"brackets over lines", "configs: {\n  h: {\n    auth: # c\n    }\n}\n", "configs: {\n  h: {\n    auth: {username: 'u', password: 'p'} # c\n    }\n}\n", ""},
		{"auth without a value", "configs:\n  h:\n    auth: # soon\n    tls: {}\n", "configs:\n  h:\n    auth: # soon\n      username: 'u'\n      password: 'p'\n    tls: {}\n", ""},
		{"host without a value", "configs:\n  h:\n  x: {}\n", "configs:\n  h:\n    auth:\n      username: 'u'\n      password: 'p'\n  x: {}\n", ""},
		{"host without auth", "configs:\n  h:\n    tls:\n      a: |\n        b\n        c\n  x: {}\n", "configs:\n  h:\n    tls:\n      a: |\n        b\n        c\n    auth:\n      username: 'u'\n      password: 'p'\n  x: {}\n", ""},
		{"base64", "configs:\n  h:\n    auth:\n      auth: eDp5 # c\n", "configs:\n  h:\n    auth:\n      username: 'u'\n      password: 'p' # c\n", ""},
		{"token and username", "configs:\n  h:\n    auth:\n      username: x # c\n      identity_token: abc\n      # about it\n      note: it\n", "configs:\n  h:\n    auth:\n      username: 'u' # c\n      password: 'p'\n      # about it\n      note: it\n", ""},
		{"token, username and password", "configs:\n  h:\n    auth:\n      username: x # c\n      identity_token: abc\n      password: z\n", "configs:\n  h:\n    auth:\n      username: 'u' # c\n      password: 'p'\n", ""},
		{"username alone", "configs:\n  h:\n    auth:\n      username: x", "configs:\n  h:\n    auth:\n      username: 'u'\n      password: 'p'", ""},
		{"password without a value", "configs:\n  h:\n    auth:\n      password:\n      username: x\n", "configs:\n  h:\n    auth:\n      password: 'p'\n      username: 'u'\n", ""},
		{"password over lines", "configs:\n  h:\n    auth:\n      password: >-\n        a\n        b\n\n      username: \"x\n       y\"\n# end\n", "configs:\n  h:\n    auth:\n      password: 'p'\n\n      username: 'u'\n# end\n", ""},
		{"auth is an alias", "x: &it {username: a, password: b}\nconfigs:\n  h:\n    auth: *it\n", "x: &it {username: a, password: b}\nconfigs:\n  h:\n    auth: {username: 'u', password: 'p'}\n", ""},
		{"auth is merged", "x: &it {auth: {username: a}}\nconfigs:\n  h:\n    <<: *it\n", "x: &it {auth: {username: a}}\nconfigs:\n  h:\n    <<: *it\n    auth:\n      username: 'u'\n      password: 'p'\n", ""},
		{"carriage returns", "mirrors: {}\r\nconfigs:\r\n  x: {}\r\n", "mirrors: {}\r\nconfigs:\r\n  x: {}\r\n  \"h\":\r\n    auth:\r\n      username: 'u'\r\n      password: 'p'\r\n", ""},
		{"marks of the document", "---\nmirrors: {}\n...\n", "---\nmirrors: {}\nconfigs:\n  \"h\":\n    auth:\n      username: 'u'\n      password: 'p'\n...\n", ""},
		{"Docker Hub", "configs:\n  docker.io: {}\n", "configs:\n  docker.io: {}\n  \"registry-1.docker.io\":\n    auth:\n      username: 'u'\n      password: 'p'\n", credential.DockerHub},
		{"escapes", "configs:\n  h: # \"c\"\n    auth:\n      username: \"\\x61\\\"\\u0062\" # c\n      password: \"a\\\n        b\"\nx: \"\\U0001F600\"\n", "configs:\n  h: # \"c\"\n    auth:\n      username: 'u' # c\n      password: 'p'\nx: \"\\U0001F600\"\n", ""},
		{"byte order mark", "\ufeffconfigs:\n  h: {}\n", "\ufeffconfigs:\n  h: {auth: {username: 'u', password: 'p'}}\n", ""},
		{"documented, replaced", documented, strings.NewReplacer("xxxxxx #", "'u' #", "'it''s'   #", "'p'   #").Replace(documented), "registry.example.com:5000"},
		{"documented, other", documented, strings.Replace(documented, "verify: true}\n", "verify: true}\n    auth:\n      username: 'u'\n      password: 'p'\n", 1), "other.example.com"},
		{"documented, another", documented, strings.Replace(documented, "verify: true}\n", "verify: true}\n  \"h\":\n    auth:\n      username: 'u'\n      password: 'p'\n", 1), "h"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.host == "" {
				c.host = "h"
			}
			doc := parse(t, c.text)
			if changed, err := doc.Set(c.host, login("u", "p")); err != nil || !changed {
				t.Fatalf("Set says %v, %v", changed, err)
			}
			if diff := cmp.Diff(c.want, string(doc.Bytes())); diff != "" {
				t.Errorf("document (-want +got):\n%s", diff)
			}
			if u, p, err := asK3s(doc.Bytes(), k3sconfig.Key(c.host)); err != nil || u != "u" || p != "p" {
				t.Errorf("K3s finds %q, %q, %v", u, p, err)
			}
			if changed, err := doc.Set(c.host, login("u", "p")); err != nil || changed {
				t.Errorf("Set of the same says %v, %v", changed, err)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	pair := base64.StdEncoding.EncodeToString([]byte("user:pass:word"))
	for _, c := range []struct {
		name, auth string
		want       credential.Login
		ok         bool
	}{
		{"username and password", "{username: u, password: p}", login("u", "p"), true},
		{"a number", "{username: u, password: 0123}", login("u", "0123"), true},
		{"quotes", `{username: 'it''s', password: "a\tb"}`, login("it's", "a\tb"), true},
		{"base64", "{auth: " + pair + "}", login("user", "pass:word"), true},
		{"identity token", "{identity_token: abc}", login("", "abc"), true},
		{"username before token before base64", "{auth: " + pair + ", identity_token: abc, username: u}", login("u", ""), true},
		{"token before base64", "{auth: " + pair + ", identity_token: abc}", login("", "abc"), true},
		{"no base64", "{auth: '%'}", credential.Login{}, false},
		{"nothing", "{}", credential.Login{}, false},
		{"null", "~", credential.Login{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parse(t, "configs: {h: {auth: "+c.auth+"}}").Login("h")
			if ok != c.ok || !got.Equal(c.want) {
				t.Errorf("holds %q, %q, %v", got.Username, got.Secret.Reveal(), ok)
			}
		})
	}
	for _, text := range []string{"", "configs:", "mirrors: {}", "configs: {x: {auth: {username: u, password: p}}}", "configs: {h: }"} {
		if _, ok := parse(t, text).Login("h"); ok {
			t.Errorf("%q holds a login", text)
		}
	}
}

// TestRefused are documents in which the login cannot be changed alone.
func TestRefused(t *testing.T) {
	for _, text := range []string{
		"configs:\n  x: &it\n    auth: &a\n      username: s3cret\n      password: b\n  h: *it\n",
		"configs:\n  h:\n    auth: &a\n      username: s3cret\n      password: b\n  x: {auth: *a}\n",
		"configs: &c {h: {auth: {username: s3cret, password: b}}}\nmore: *c\n",
		"&onfigs:\n 08:\n   G: >\n",
	} {
		doc := parse(t, text)
		changed, err := doc.Set("h", login("u", "p"))
		if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" || changed {
			t.Errorf("%q: Set says %v, %v; it has become %q", text, changed, err, doc.Bytes())
			continue
		}
		if strings.Contains(err.Error()+problem.HintOf(err), "s3cret") {
			t.Errorf("%q: the error quotes the document: %v", text, err)
		}
		if string(doc.Bytes()) != text {
			t.Errorf("%q has become %q", text, doc.Bytes())
		}
	}
	for _, l := range []credential.Login{login("u", "\xff"), login("\xff", "p"), login("", "p")} {
		doc := parse(t, "")
		if _, err := doc.Set("h", l); problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" || len(doc.Bytes()) > 0 {
			t.Errorf("a login that cannot be held gives %v, %q", err, doc.Bytes())
		}
	}
}

func TestBroken(t *testing.T) {
	for _, c := range []struct{ name, text, where string }{
		{"no mapping", "- s3cret\n", "line 1, column 1"},
		{"text", "s3cret", "line 1, column 1"},
		{"configs is a list", "x: y\nconfigs:\n  - s3cret\n", "line 3"},
		{"auth is text", "configs:\n  h:\n    auth: s3cret\n", "line 3"},
		{"bracket", "configs: {s3cret: {}\nx: y\n", "line "},
		{"indentation", "configs:\n  a:\n    auth: s3cret\n   b: c\n", "line "},
		{"tab", "configs:\n\ta: s3cret\n", "line 2"},
		{"quote", "configs:\n  a: \"s3cret\n", "line 2"},
		{"doubled key", "configs:\n  a: {}\n  a: s3cret\n", "line 3"},
		{"two documents", "a: b\n---\nc: s3cret\n", "line 2"},
		{"no UTF-8", "a: \xff", ""},
		{"unknown alias", "a: *s3cret\n", "line 1"},
		{"aliases that multiply", "a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 3"},
		{"deep", "a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "line 1"},
		{"deep dashes", strings.Repeat("- ", 5000) + "a", "line 1"},
		{"carriage return alone", "a: b\n~\r:", "line 2"},
		{"large", strings.Repeat("# x\n", 1<<18+1), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := k3sconfig.Parse([]byte(c.text))
			if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" {
				t.Fatalf("error is %v of kind %s", err, problem.KindOf(err))
			}
			if !strings.Contains(err.Error(), c.where) {
				t.Errorf("%v does not say %q", err, c.where)
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error quotes the document: %v", err)
			}
		})
	}
}

// FuzzParse feeds Parse with anything, and puts a login into what it takes:
// the login is then found, by K3s's parser too, and no comment is lost.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", documented, "configs: {h: {auth: {auth: eDp5}}} # c", "configs:\n  h:\n    auth:\n      identity_token: >\n        a\n", "a: &a {b: c}\nconfigs: {h: {<<: *a}}", "---\n# x\n...\n"} {
		f.Add([]byte(seed), "user", "pass")
	}
	f.Fuzz(func(t *testing.T, text []byte, username, secret string) {
		doc, err := k3sconfig.Parse(text)
		if err != nil {
			if problem.KindOf(err) != problem.Damaged {
				t.Errorf("error is %v of kind %s", err, problem.KindOf(err))
			}
			return
		}
		if string(doc.Bytes()) != string(text) {
			t.Errorf("%q comes out as %q", text, doc.Bytes())
		}
		_, _, before := asK3s(text, "h")
		want := login(username, secret)
		changed, err := doc.Set("h", want)
		if err != nil {
			if string(doc.Bytes()) != string(text) {
				t.Errorf("an error changes %q to %q", text, doc.Bytes())
			}
			return
		}
		if got, ok := doc.Login("h"); !ok || !got.Equal(want) {
			t.Errorf("%q holds another login", doc.Bytes())
		}
		if u, p, err := asK3s(doc.Bytes(), "h"); before == nil && utf8.ValidString(username+secret) && (err != nil || changed && (u != username || p != secret)) {
			t.Errorf("of %q, K3s finds %q, %q, %v, want %q, %q", doc.Bytes(), u, p, err, username, secret)
		}
		if again, err := doc.Set("h", want); again || err != nil {
			t.Errorf("Set of the same in %q says %v, %v", doc.Bytes(), again, err)
		}
	})
}
