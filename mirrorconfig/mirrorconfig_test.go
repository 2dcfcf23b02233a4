package mirrorconfig_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	yaml "go.yaml.in/yaml/v2"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/mirrorconfig"
	"github.com/regkeeper/regkeeper/problem"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	login = &credential.Login{Username: "node", Secret: credential.NewSecret("hunter2")}
	plain = mirrorconfig.Mirror{Host: "gitea.example.com", URL: "https://registry.example.com"}
	full  = mirrorconfig.Mirror{Host: "gitea.example.com", URL: "https://registry.example.com:5000/", Prefix: "mirror/gitea", Login: login}
	hub   = mirrorconfig.Mirror{Host: credential.DockerHub, URL: "http://hub.registry.example.com:5000"}
)

const foreignHosts = `# by hand
server = "https://gitea.example.com"
ca = "/etc/ssl/gitea.pem"

# the old one
[host."https://old.example.com"]
  capabilities = ["pull"] # no resolve
  client = [
    ["/a.crt", "/a.key"],
    ["/b.crt", "/b.key"]
  ]

  [host."https://old.example.com".header]
    X-Who = ["a", "b"]
`

const foreignK3s = `# by hand
mirrors:
  docker.io:
    endpoint:
      - "https://old.example.com"   # the old one
configs:
  old.example.com:
    tls:
      insecure_skip_verify: true
`

const foreignDaemon = `{
    "log-driver": "json-file",
    "registry-mirrors": ["https://old.example.com"],
    "features": {"buildkit": true}
}
`

type change func([]byte, mirrorconfig.Mirror) ([]byte, error)

// cases are documents before and after, of which the goldens are the latter. Each
// is changed twice, and then back.
var cases = []struct {
	golden       string
	text         string
	mirror       mirrorconfig.Mirror
	set, remove  change
	keeps        string // what removal leaves, if not the text
	parses       func(text []byte) error
	mustBeFirst  string
	mustComeNext string
}{
	{"containerd-new.toml", "", plain, mirrorconfig.Containerd, mirrorconfig.RemoveContainerd, "", asTOML, `host."https://registry.example.com"`, ""},
	{"containerd-full.toml", "", full, mirrorconfig.Containerd, mirrorconfig.RemoveContainerd, "", asTOML, `host."https://registry.example.com:5000/v2/mirror/gitea"`, ""},
	{"containerd-hub.toml", "", hub, mirrorconfig.Containerd, mirrorconfig.RemoveContainerd, "", asTOML, "registry-1.docker.io", "host."},
	{"containerd-merged.toml", foreignHosts, full, mirrorconfig.Containerd, mirrorconfig.RemoveContainerd, "", asTOML, `host."https://registry.example.com:5000/v2/mirror/gitea"`, `host."https://old.example.com"`},
	{"k3s-new.yaml", "", plain, mirrorconfig.K3s, mirrorconfig.RemoveK3s, "", asYAML, "gitea.example.com", ""},
	{"k3s-merged.yaml", foreignK3s, mirrorconfig.Mirror{Host: "docker.io", URL: "https://registry.example.com"}, mirrorconfig.K3s, mirrorconfig.RemoveK3s, "", asYAML, "registry.example.com", "old.example.com"},
	{"k3s-full.yaml", foreignK3s, full, mirrorconfig.K3s, mirrorconfig.RemoveK3s, "login stays", asYAML, "", ""},
	{"docker-new.json", "", hub, mirrorconfig.Docker, mirrorconfig.RemoveDocker, "{\n}\n", asJSON, "", ""},
	{"docker-merged.json", foreignDaemon, hub, mirrorconfig.Docker, mirrorconfig.RemoveDocker, "", asJSON, "hub.registry", "old.example.com"},
}

func asTOML(text []byte) error { return toml.Unmarshal(text, &map[string]any{}) }
func asYAML(text []byte) error { return yaml.UnmarshalStrict(text, &map[string]any{}) }
func asJSON(text []byte) error { return json.Unmarshal(text, &map[string]any{}) }

func TestDocuments(t *testing.T) {
	for _, c := range cases {
		t.Run(c.golden, func(t *testing.T) {
			got, err := c.set([]byte(c.text), c.mirror)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", c.golden)
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if err := c.parses(got); err != nil {
				t.Error(err)
			}
			first, next := strings.Index(string(got), c.mustBeFirst), strings.Index(string(got), c.mustComeNext)
			if first < 0 || c.mustComeNext != "" && next < first {
				t.Errorf("%s is at %d, %s at %d", c.mustBeFirst, first, c.mustComeNext, next)
			}
			again, err := c.set(got, c.mirror)
			if err != nil || string(again) != string(got) {
				t.Errorf("the second time: %v\n%s", err, cmp.Diff(string(got), string(again)))
			}
			back, err := c.remove(got, c.mirror)
			if err != nil {
				t.Fatal(err)
			}
			if c.keeps == "login stays" {
				if text := string(back); strings.Contains(text, `"mirror/gitea`) || !strings.Contains(text, "hunter2") || !strings.Contains(text, "the old one") {
					t.Errorf("after removal:\n%s", back)
				}
				return
			}
			left := c.text
			if c.keeps != "" {
				left = c.keeps
			}
			if diff := cmp.Diff(left, string(back)); diff != "" {
				t.Errorf("after removal (-want +got):\n%s", diff)
			}
			if same, err := c.remove(back, c.mirror); err != nil || string(same) != string(back) {
				t.Errorf("the second removal: %v, %s", err, same)
			}
		})
	}
}

// A login is replaced, and what people added to our table stays.
func TestContainerdLoginChanges(t *testing.T) {
	text, err := mirrorconfig.Containerd([]byte(foreignHosts), full)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.Replace(string(text), "override_path = true\n", "override_path = true\n  ca = \"/ours.pem\"\n", 1))
	changed := full
	changed.Login = &credential.Login{Username: "node", Secret: credential.NewSecret("another")}
	got, err := mirrorconfig.Containerd(text, changed)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(got), "Authorization"); n != 1 || !strings.Contains(string(got), "/ours.pem") || !strings.Contains(string(got), "X-Who") {
		t.Errorf("%d headers in\n%s", n, got)
	}
	if strings.Contains(string(got), "bm9kZTpodW50ZXIy") {
		t.Error("the old login is there still")
	}
	without := changed
	without.Login = nil
	if same, err := mirrorconfig.Containerd(got, without); err != nil || string(same) != string(got) {
		t.Errorf("without a login: %v\n%s", err, cmp.Diff(string(got), string(same)))
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		do     change
		text   string
		mirror mirrorconfig.Mirror
		want   problem.Kind
	}{
		"no URL":              {mirrorconfig.Containerd, "", mirrorconfig.Mirror{Host: "a.example.com"}, problem.Config},
		"path":                {mirrorconfig.K3s, "", mirrorconfig.Mirror{Host: "a.example.com", URL: "https://b/c"}, problem.Config},
		"password":            {mirrorconfig.K3s, "", mirrorconfig.Mirror{Host: "a.example.com", URL: "https://u:hunter2@b"}, problem.Config},
		"broken password":     {mirrorconfig.K3s, "", mirrorconfig.Mirror{Host: "a.example.com", URL: "https://u:hunter2@b b"}, problem.Config},
		"no host":             {mirrorconfig.K3s, "", mirrorconfig.Mirror{URL: "https://b"}, problem.Config},
		"prefix":              {mirrorconfig.Containerd, "", mirrorconfig.Mirror{Host: "a.example.com", URL: "https://b", Prefix: "../x"}, problem.Config},
		"no TOML":             {mirrorconfig.Containerd, "hunter2 =", full, problem.Damaged},
		"a host in brackets":  {mirrorconfig.Containerd, `host = {"https://registry.example.com" = {capabilities = ["push"]}}`, plain, problem.Damaged},
		"lines":               {mirrorconfig.Containerd, "a = \"\"\"\n[host.\"b\"]\n\"\"\"\n", plain, problem.Damaged},
		"header of others":    {mirrorconfig.Containerd, "[host.\"https://registry.example.com\".header]\nX = \"hunter2\"\n", plain, problem.Damaged},
		"no YAML":             {mirrorconfig.K3s, "a: [", plain, problem.Damaged},
		"no JSON":             {mirrorconfig.Docker, "{", hub, problem.Damaged},
		"JSON with comments":  {mirrorconfig.Docker, "{} // hunter2", hub, problem.Damaged},
		"a list":              {mirrorconfig.Docker, "[]", hub, problem.Damaged},
		"mirrors of another":  {mirrorconfig.Docker, `{"registry-mirrors": "hunter2"}`, hub, problem.Damaged},
		"not Docker Hub":      {mirrorconfig.Docker, "", plain, problem.Usage},
		"prefix for dockerd":  {mirrorconfig.Docker, "", mirrorconfig.Mirror{Host: credential.DockerHub, URL: "https://b", Prefix: "x"}, problem.Usage},
		"login for dockerd":   {mirrorconfig.Docker, "", mirrorconfig.Mirror{Host: credential.DockerHub, URL: "https://b", Login: login}, problem.Usage},
		"removal, not a host": {mirrorconfig.RemoveDocker, "", plain, problem.Usage},
	} {
		got, err := c.do([]byte(c.text), c.mirror)
		if problem.KindOf(err) != c.want || problem.HintOf(err) == "" || got != nil || strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got := mirrorconfig.ContainerdPath("gitea.example.com:3000"); got != "gitea.example.com:3000/hosts.toml" {
		t.Errorf("path is %s", got)
	}
}

// Of any document that has mirrors, ours comes first and nothing is lost.
func TestContainerdLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		if rapid.Bool().Draw(t, "server") {
			text.WriteString("server = 'https://other.example.com'\n")
		}
		quotes := rapid.SampledFrom([]string{`"`, `'`})
		for i := range rapid.IntRange(0, 3).Draw(t, "hosts") {
			q := quotes.Draw(t, "quote")
			fmt.Fprintf(&text, "%s[ host.%shttps://h%d.example.com%s ]%s\n", rapid.SampledFrom([]string{"", "  ", "# c\n"}).Draw(t, "before"), q, i, q,
				rapid.SampledFrom([]string{"", " # c"}).Draw(t, "after"))
			text.WriteString(rapid.SampledFrom([]string{"", "capabilities = [\n \"pull\",\n]\n", "skip_verify = true\n\n", "client = [\n[\"a\", \"b\"]\n]\n"}).Draw(t, "body"))
		}
		text.WriteString(rapid.SampledFrom([]string{"", "\n", "# end"}).Draw(t, "end"))
		mirror := rapid.SampledFrom([]mirrorconfig.Mirror{plain, full}).Draw(t, "mirror")
		got, err := mirrorconfig.Containerd([]byte(text.String()), mirror)
		if err != nil {
			t.Fatalf("%v of\n%s", err, text.String())
		}
		first := strings.Index(string(got), "registry.example.com")
		if other := strings.Index(string(got), "https://h"); other >= 0 && other < first {
			t.Errorf("ours is not first:\n%s", got)
		}
		back, err := mirrorconfig.RemoveContainerd(got, mirror)
		if err != nil {
			t.Fatal(err)
		}
		var was, is map[string]any
		if err := toml.Unmarshal([]byte(text.String()), &was); err != nil {
			t.Fatal(err)
		}
		if err := toml.Unmarshal(back, &is); err != nil {
			t.Fatal(err)
		}
		if len(was) > 0 && was["server"] == nil {
			was["server"] = "https://gitea.example.com"
		}
		if diff := cmp.Diff(was, is); diff != "" && len(was)+len(is) > 0 {
			t.Errorf("-was +is:\n%s\n%s", diff, got)
		}
	})
}
