package k3sconfig_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	yaml "go.yaml.in/yaml/v2"

	"github.com/regkeeper/regkeeper/k3sconfig"
	"github.com/regkeeper/regkeeper/problem"
)

const ours = "https://registry.example.com"

func TestSetMirror(t *testing.T) {
	for name, c := range map[string]struct{ text, prefix, want string }{
		"empty": {"", "", "mirrors:\n  \"gitea.example.com\":\n    endpoint:\n      - \"https://registry.example.com\"\n"},
		"prefix": {"# ours\n", "mirror/gitea", "# ours\nmirrors:\n  \"gitea.example.com\":\n    endpoint:\n      - \"https://registry.example.com\"\n" +
			"    rewrite:\n      \"^(.*)$\": \"mirror/gitea/$1\"\n"},
		"others":     {documented, "", strings.Replace(documented, "mirrored/$1\"\n", "mirrored/$1\"\n  \"gitea.example.com\":\n    endpoint:\n      - \"https://registry.example.com\"\n", 1)},
		"no mirrors": {"configs:\n    a:\n        tls: {}\n", "", "configs:\n    a:\n        tls: {}\nmirrors:\n    \"gitea.example.com\":\n        endpoint:\n            - \"https://registry.example.com\"\n"},
		"null":       {"mirrors:\nconfigs: {}\n", "", "mirrors:\n  \"gitea.example.com\":\n    endpoint:\n      - \"https://registry.example.com\"\nconfigs: {}\n"},
		"another first": {"mirrors:\n  gitea.example.com:\n    endpoint:\n    # old\n    - http://old:5000\n", "",
			"mirrors:\n  gitea.example.com:\n    endpoint:\n    # old\n    - \"https://registry.example.com\"\n    - http://old:5000\n"},
		"list in brackets": {"mirrors:\n  gitea.example.com:\n    endpoint: [http://old:5000]\n", "",
			"mirrors:\n  gitea.example.com:\n    endpoint: [\"https://registry.example.com\", http://old:5000]\n"},
		"no endpoint": {"mirrors:\n  gitea.example.com:\n    other: 1\n", "", "mirrors:\n  gitea.example.com:\n    other: 1\n    endpoint:\n      - \"https://registry.example.com\"\n"},
		"there":       {"mirrors:\n  gitea.example.com:\n    endpoint: [a, https://registry.example.com]\n", "", "mirrors:\n  gitea.example.com:\n    endpoint: [a, https://registry.example.com]\n"},
	} {
		doc := parse(t, c.text)
		m := k3sconfig.Mirror{Endpoint: ours, Prefix: c.prefix}
		for range 2 {
			if _, err := doc.SetMirror("gitea.example.com", m); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if diff := cmp.Diff(c.want, string(doc.Bytes())); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		var read struct {
			Mirrors map[string]struct{ Endpoint []string }
		}
		if err := yaml.Unmarshal(doc.Bytes(), &read); err != nil || !strings.Contains(strings.Join(read.Mirrors["gitea.example.com"].Endpoint, " "), ours) {
			t.Errorf("%s: K3s reads %v, %v", name, read, err)
		}
		if changed, err := doc.RemoveMirror("gitea.example.com", m); name != "list in brackets" && name != "there" && (!changed || err != nil) {
			t.Errorf("%s: RemoveMirror = %v, %v", name, changed, err)
		}
		want := c.text
		switch name {
		case "null":
			want = "configs: {}\n"
		case "list in brackets", "there":
			continue
		}
		if diff := cmp.Diff(want, string(doc.Bytes())); diff != "" {
			t.Errorf("%s: after removal (-want +got):\n%s", name, diff)
		}
	}
}

func TestSetMirrorRefuses(t *testing.T) {
	for text, want := range map[string]problem.Kind{
		"mirrors: {b: {}}":                                problem.Damaged,
		"a: &a {}\nmirrors: *a":                           problem.Damaged,
		"mirrors:\n  gitea.example.com:\n    endpoint: a": problem.Damaged,
	} {
		doc := parse(t, text)
		changed, err := doc.SetMirror("gitea.example.com", k3sconfig.Mirror{Endpoint: ours})
		if problem.KindOf(err) != want || problem.HintOf(err) == "" || changed || string(doc.Bytes()) != text {
			t.Errorf("%q: %v, %v, now %q", text, changed, err, doc.Bytes())
		}
	}
	doc := parse(t, "mirrors:\n  gitea.example.com:\n    endpoint:\n      - http://old\n")
	if _, err := doc.SetMirror("gitea.example.com", k3sconfig.Mirror{Endpoint: ours, Prefix: "p"}); problem.KindOf(err) != problem.Config {
		t.Errorf("a prefix beside another endpoint: %v", err)
	}
	if changed, err := doc.RemoveMirror("gitea.example.com", k3sconfig.Mirror{Endpoint: ours}); changed || err != nil {
		t.Errorf("removal of what is not there: %v, %v", changed, err)
	}
}
