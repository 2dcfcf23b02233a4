package runnerconfig_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runnerconfig"
)

const full = `# fleet of the build host
concurrent = 4   # of 8 cores
check_interval = 0
future = {unknown = [1, 2], x = "[[runners]]"}

[session_server]
  session_timeout = 1800

# the fast one
[[runners]]
  name = "fast" # note
  url = "https://gitlab.example.com/"
  id = 17
  token = "glrt-one"
  token_obtained_at = 2026-01-02T03:04:05Z
  token_expires_at = 0001-01-01T00:00:00Z
  executor = "docker"
  environment = [
    # ours
    "A=1", # first
    'B=two words',
  ]
  [runners.docker]
    image = "alpine:3"
    volumes = ["/cache"]
    [[runners.docker.services]]
      name = "postgres:latest"

[[runners]]
  name = 'slow'
  url = "https://gitlab.example.com"
  token = """glrt-two"""
  executor = "shell"

# the end
`

func parse(t testing.TB, text string) *runnerconfig.Document {
	t.Helper()
	d, err := runnerconfig.Parse([]byte(text))
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return d
}

func TestRunners(t *testing.T) {
	t.Parallel()
	want := []runnerconfig.Runner{
		{
			Name: "fast", URL: "https://gitlab.example.com/", ID: 17, Token: "glrt-one", Executor: "docker",
			Obtained: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Environment: []string{"A=1", "B=two words"},
		},
		{Name: "slow", URL: "https://gitlab.example.com", Token: "glrt-two", Executor: "shell"},
	}
	d := parse(t, full)
	if diff := cmp.Diff(want, d.Runners()); diff != "" {
		t.Errorf("runners (-want +got):\n%s", diff)
	}
	if string(d.Bytes()) != full {
		t.Error("the text was changed by reading")
	}
	for _, text := range []string{"", " \n", "# nothing\n", "concurrent = 1\n"} {
		if got := parse(t, text).Runners(); len(got) != 0 {
			t.Errorf("%q has runners %v", text, got)
		}
	}
	cases := parse(t, "[[Runners]]\nName = \"x\"\nTOKEN = \"y\"\n").Runners()
	if len(cases) != 1 || cases[0].Name != "x" || cases[0].Token != "y" {
		t.Errorf("keys in other cases, which the runner takes, are read as %v", cases)
	}
}

func TestVariable(t *testing.T) {
	t.Parallel()
	r := runnerconfig.Runner{Environment: []string{"A=1", "AB=2", "A=3=4", "odd"}}
	for name, want := range map[string]string{"A": "3=4", "AB": "2"} {
		if got, ok := r.Variable(name); !ok || got != want {
			t.Errorf("%s is %q, %v", name, got, ok)
		}
	}
	if got, ok := r.Variable("odd"); ok {
		t.Errorf("odd is %q", got)
	}
}

func TestBrokenDocuments(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a = \n": "broken TOML at line 1, column 5",
		"concurrent = 1\n[[runners]\nname = \"x\"":  "broken TOML at line 2",
		"[[runners]]\n  token = \"s3cret\n":         "broken TOML at line 2",
		"a = 1\na = 2\n":                            "broken TOML",
		"runners = 3\n":                             "no list of sections",
		"[runners]\nname = \"x\"\n":                 "no list of sections",
		"[[runners]]\nid = \"s3cret\"\n":            `"id" of runner 1`,
		"[[runners]]\nenvironment = \"s3cret\"\n":   `"environment" of runner 1`,
		"[[runners]]\nenvironment = [1]\n":          `"environment" of runner 1`,
		"[[runners]]\nname = \"a\"\nName = \"b\"\n": "two spellings",
		"a = \"\xff\"":                              "no UTF-8",
		strings.Repeat("#", 2<<20):                  "larger than",
		"a = " + strings.Repeat("[", 20_000):        "nests too deep at line 1",
	} {
		_, err := runnerconfig.Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" {
			t.Errorf("%.40q: error %v, want %q of kind damaged with a hint", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%.40q: the error quotes the document: %v", text, err)
		}
	}
}

func TestSet(t *testing.T) {
	t.Parallel()
	d := parse(t, full)
	changed, err := d.Set(1, runnerconfig.KeyToken, "glrt-\"new\"")
	if err != nil || !changed {
		t.Fatalf("Set: %v, %v", changed, err)
	}
	if changed, err = d.Set(1, runnerconfig.KeyExpires, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil || !changed {
		t.Fatalf("Set: %v, %v", changed, err)
	}
	want := strings.Replace(full, `"""glrt-two"""`, `'glrt-"new"'`, 1)
	want = strings.Replace(want, "executor = \"shell\"\n", "executor = \"shell\"\n  token_expires_at = 2027-01-01T00:00:00Z\n", 1)
	if diff := cmp.Diff(want, string(d.Bytes())); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	if changed, err := d.Set(1, runnerconfig.KeyToken, `glrt-"new"`); err != nil || changed {
		t.Errorf("the same again: %v, %v", changed, err)
	}
	for _, runner := range []int{-1, 2} {
		if _, err := d.Set(runner, "name", "x"); problem.KindOf(err) != problem.Damaged {
			t.Errorf("runner %d: %v", runner, err)
		}
	}
}

func TestSetVariable(t *testing.T) {
	t.Parallel()
	const value = `{"auths":{}}`
	for _, c := range []struct{ name, from, to string }{
		{"no list", "[[runners]]\n\tname = 'x'\n", "[[runners]]\n\tname = 'x'\n\tenvironment = ['V={\"auths\":{}}']\n"},
		{"no line break at the end", "[[runners]]", "[[runners]]\n  environment = ['V={\"auths\":{}}']"},
		{"before a table", "[[runners]]\r\n[runners.docker]\r\n", "[[runners]]\r\n  environment = ['V={\"auths\":{}}']\r\n[runners.docker]\r\n"},
		{"empty list", "[[runners]]\nenvironment=[ ] # c\n", "[[runners]]\nenvironment=['V={\"auths\":{}}' ] # c\n"},
		{"one line", "[[runners]]\nenvironment = [\"A=1\", \"B=2\"]\n", "[[runners]]\nenvironment = ['V={\"auths\":{}}', \"A=1\", \"B=2\"]\n"},
		{
			"many lines", "[[runners]]\nenvironment = [ # c\n  # d\n  \"A=1\", # e\n]\n",
			"[[runners]]\nenvironment = [ # c\n  # d\n  'V={\"auths\":{}}',\n  \"A=1\", # e\n]\n",
		},
		{"replaced", "[[runners]]\nenvironment = [\"V=1\", \"VV=2\"]\n", "[[runners]]\nenvironment = ['V={\"auths\":{}}', \"VV=2\"]\n"},
		{"doubled", "[[runners]]\nenvironment = [\"V=1\", 'V=2',]\n", "[[runners]]\nenvironment = ['V={\"auths\":{}}', 'V={\"auths\":{}}',]\n"},
		{"other case", "[[runners]]\nEnvironment = ['V=1']\n", "[[runners]]\nEnvironment = ['V={\"auths\":{}}']\n"},
	} {
		d := parse(t, c.from)
		changed, err := d.SetVariable(0, "V", value)
		if err != nil || !changed {
			t.Errorf("%s: %v, %v", c.name, changed, err)
		}
		if diff := cmp.Diff(c.to, string(d.Bytes())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if changed, err := d.SetVariable(0, "V", value); err != nil || changed {
			t.Errorf("%s: the same again: %v, %v", c.name, changed, err)
		}
		if got, ok := d.Runners()[0].Variable("V"); !ok || got != value {
			t.Errorf("%s: variable is %q", c.name, got)
		}
	}
	for _, text := range []string{"runners = [{name = 'x'}]\n", "[[runners]]\n[runners.environment]\n"} {
		d, err := runnerconfig.Parse([]byte(text))
		if err != nil {
			continue
		}
		if _, err := d.SetVariable(0, "V", value); problem.KindOf(err) != problem.Damaged || string(d.Bytes()) != text {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAddReplaceRemove(t *testing.T) {
	t.Parallel()
	section := runnerconfig.Section{
		"name": "third", "url": "https://gitlab.example.com", "id": int64(3), "token": "glrt-three", "executor": "docker",
		"docker": map[string]any{
			"image": "ruby:3.3", "privileged": false, "services": []any{map[string]any{"name": "mysql:latest"}},
			"sysctls": map[string]any{"net.core.somaxconn": "1024"},
		},
	}
	const text = `[[runners]]
  name = "third"
  url = "https://gitlab.example.com"
  id = 3
  token = "glrt-three"
  executor = "docker"
  [runners.docker]
    image = "ruby:3.3"
    privileged = false
    [[runners.docker.services]]
      name = "mysql:latest"
    [runners.docker.sysctls]
      "net.core.somaxconn" = "1024"
`
	d := parse(t, "")
	if err := d.Add(section); err != nil {
		t.Fatal(err)
	}
	const fresh = "concurrent = 1\ncheck_interval = 0\nshutdown_timeout = 0\n\n[session_server]\n  session_timeout = 1800\n\n"
	if diff := cmp.Diff(fresh+text, string(d.Bytes())); diff != "" {
		t.Errorf("document made anew (-want +got):\n%s", diff)
	}
	d = parse(t, full)
	if err := d.Add(section); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full+"\n"+text, string(d.Bytes())); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	if err := d.Remove(2); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full+"\n", string(d.Bytes())); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	start, end := strings.Index(full, "[[runners]]\n  name = \"fast\""), strings.Index(full, "\n[[runners]]\n  name = 'slow'")
	d = parse(t, full)
	if err := d.Remove(0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full[:start]+full[end:], string(d.Bytes())); diff != "" {
		t.Errorf("first removed (-want +got):\n%s", diff)
	}
	d = parse(t, full)
	if err := d.Replace(0, section); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full[:start]+text+full[end:], string(d.Bytes())); diff != "" {
		t.Errorf("first replaced (-want +got):\n%s", diff)
	}
	// A section in two parts, with something between.
	d = parse(t, "[[runners]]\nname = 'a'\n[feature]\nx = 1\n[runners.docker]\nimage = 'i'\n[other]\n")
	if err := d.Remove(0); err != nil {
		t.Fatal(err)
	}
	if got, want := string(d.Bytes()), "[feature]\nx = 1\n[other]\n"; got != want {
		t.Errorf("what is left is %q, want %q", got, want)
	}
	d = parse(t, "runners = [{name = 'x'}]\n")
	for name, err := range map[string]error{"Add": d.Add(section), "Replace": d.Replace(0, section), "Remove": d.Remove(0)} {
		if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" {
			t.Errorf("%s beside inline runners: %v", name, err)
		}
	}
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	template, err := runnerconfig.Template([]byte(`concurrent = 9
[[runners]]
  name = "template"
  token = "ignored"
  limit = 3
  environment = ["DOCKER_AUTH_CONFIG={}"]
  [runners.docker]
    image = "template"
    privileged = true
    volumes = ["/template"]
    [[runners.docker.services]]
      name = "postgres:latest"
    [[runners.docker.services]]
      name = "mysql:latest"
`))
	if err != nil {
		t.Fatal(err)
	}
	s := runnerconfig.Section{
		"name": "mine", "token": "", "environment": []any{"A=1"},
		"docker": map[string]any{"image": "ruby:3.3", "privileged": false},
	}
	s.Fill(template)
	want := runnerconfig.Section{
		"name": "mine", "token": "", "limit": int64(3), "environment": []any{"A=1"},
		"docker": map[string]any{
			"image": "ruby:3.3", "privileged": true, "volumes": []any{"/template"},
			"services": []any{map[string]any{"name": "postgres:latest"}, map[string]any{"name": "mysql:latest"}},
		},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("filled (-want +got):\n%s", diff)
	}
	for text, kind := range map[string]problem.Kind{
		"": problem.Config, "[[runners]]\n[[runners]]\n": problem.Config, "[[runners]": problem.Damaged,
	} {
		if _, err := runnerconfig.Template([]byte(text)); problem.KindOf(err) != kind {
			t.Errorf("%q: %v, want kind %s", text, err, kind)
		}
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gitlab-runner", "config.toml")
	file := runnerconfig.File(path, 0, nil)
	if _, err := file.Update(t.Context(), func(d *runnerconfig.Document) (bool, error) {
		return true, d.Add(runnerconfig.Section{"name": "x", "token": "y"})
	}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("[[broken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = file.Update(t.Context(), func(d *runnerconfig.Document) (bool, error) { return true, d.Add(nil) })
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "line 1") || !strings.Contains(err.Error(), path) {
		t.Errorf("a broken file: %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "[[broken\n" {
		t.Errorf("a broken file became %q, %v", text, err)
	}
}

// documents generates config.toml in the ways people write them.
func documents() *rapid.Generator[string] {
	word := rapid.StringMatching(`[a-z]{1,6}`)
	value := rapid.OneOf(
		rapid.Map(word, func(s string) string { return `"` + s + `"` }),
		rapid.Map(word, func(s string) string { return `'` + s + `#]'` }),
		rapid.Just(`"esc \" \\ [[runners]]"`), rapid.Just("'''many\n[[runners]]\nlines'''"), rapid.Just("\"\"\"\nx = 1 # no\n\"\"\""),
		rapid.SampledFrom([]string{"1", "true", "-3.5", "1979-05-27 07:32:00Z", "1979-05-27", "[]", "[1, 2,\n # c ]\n 3]", "{ a = 1, b.c = [ 'x' ] }", "[{a=']'}]"}),
	)
	line := rapid.Custom(func(t *rapid.T) string {
		key := word.Draw(t, "key") + word.Draw(t, "more") + rapid.StringMatching(`[0-9]{4}`).Draw(t, "unique")
		text := rapid.SampledFrom([]string{"", "  ", "\t"}).Draw(t, "indent") + key +
			rapid.SampledFrom([]string{" = ", "=", "\t= "}).Draw(t, "sep") + value.Draw(t, "value")
		return text + rapid.SampledFrom([]string{"", " # comment", "  "}).Draw(t, "end")
	})
	filler := rapid.SampledFrom([]string{"", "# comment [[runners]]", "   ", "#"})
	return rapid.Custom(func(t *rapid.T) string {
		var lines []string
		some := func(g *rapid.Generator[string], label string) {
			lines = append(lines, rapid.SliceOfN(g, 0, 3).Draw(t, label)...)
		}
		some(rapid.OneOf(line, filler), "root")
		for range rapid.IntRange(0, 3).Draw(t, "runners") {
			lines = append(lines, rapid.SampledFrom([]string{"[[runners]]", "  [[ runners ]] # c", "[[\"runners\"]]"}).Draw(t, "header"))
			some(rapid.OneOf(line, filler), "keys")
			if rapid.Bool().Draw(t, "environment") {
				lines = append(lines, rapid.SampledFrom([]string{
					"environment = []", "environment = ['A=1']", " environment=[ # c\n 'A=1', # d\n \"V=old\",\n]", "environment = ['V=1', \"V=2\"] # e",
				}).Draw(t, "list"))
				some(rapid.OneOf(line, filler), "more keys")
			}
			if rapid.Bool().Draw(t, "docker") {
				lines = append(lines, "[runners.docker]")
				some(rapid.OneOf(line, filler), "docker keys")
			}
			if rapid.Bool().Draw(t, "between") {
				lines = append(lines, "["+word.Draw(t, "table")+rapid.StringMatching(`[0-9]{6}`).Draw(t, "unique")+"]")
				some(rapid.OneOf(line, filler), "table keys")
			}
		}
		eol := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "eol")
		text := strings.ReplaceAll(strings.Join(lines, "\n"), "\n", eol)
		return text + rapid.SampledFrom([]string{"", eol, eol + eol}).Draw(t, "end")
	})
}

// TestChangesTouchNothingElse holds every change to what it promises: taken out
// of the text again, it leaves the text as it was.
func TestChangesTouchNothingElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		text := documents().Draw(rt, "document")
		d, err := runnerconfig.Parse([]byte(text))
		if err != nil {
			rt.Skip(err) // a key that is there twice
		}
		n := len(d.Runners())
		section := runnerconfig.Section{"name": "added", "token": "t", "docker": map[string]any{"image": "i"}}
		if err := d.Add(section); err != nil {
			rt.Fatalf("Add: %v", err)
		}
		if strings.TrimSpace(text) != "" && !strings.HasPrefix(string(d.Bytes()), text) {
			rt.Fatalf("Add changed what was there:\n%s", d.Bytes())
		}
		if got := d.Runners(); len(got) != n+1 || got[n].Name != "added" {
			rt.Fatalf("runners are %v", got)
		}
		if n == 0 {
			return
		}
		runner := rapid.IntRange(0, n-1).Draw(rt, "runner")

		d, _ = runnerconfig.Parse([]byte(text))
		const value = "{\"auths\":{\"h\":{\"auth\":\"eA==\"}}}"
		changed, err := d.SetVariable(runner, "V", value)
		if err != nil || !changed {
			rt.Fatalf("SetVariable: %v, %v", changed, err)
		}
		same(rt, text, string(d.Bytes()), 2*len(value)+40)
		if got, ok := d.Runners()[runner].Variable("V"); !ok || got != value {
			rt.Fatalf("variable is %q", got)
		}

		d, _ = runnerconfig.Parse([]byte(text))
		if _, err := d.Set(runner, "token", "glrt-new"); err != nil {
			rt.Fatalf("Set: %v", err)
		}
		same(rt, text, string(d.Bytes()), 40)

		d, _ = runnerconfig.Parse([]byte(text))
		if err := d.Replace(runner, section); err != nil {
			rt.Fatalf("Replace: %v", err)
		}
		replaced := d.Runners()
		if len(replaced) != n || replaced[runner].Name != "added" {
			rt.Fatalf("runners are %v", replaced)
		}
		d, _ = runnerconfig.Parse([]byte(text))
		if err := d.Remove(runner); err != nil {
			rt.Fatalf("Remove: %v", err)
		}
		if len(d.Runners()) != n-1 || !subsequence(string(d.Bytes()), text) {
			rt.Fatalf("Remove left:\n%s", d.Bytes())
		}
	})
}

// same fails if more than the middle of a text was changed, by more than limit
// bytes.
func same(t *rapid.T, before, after string, limit int) {
	t.Helper()
	start := 0
	for start < len(before) && start < len(after) && before[start] == after[start] {
		start++
	}
	end := 0
	for end < len(before)-start && end < len(after)-start && before[len(before)-1-end] == after[len(after)-1-end] {
		end++
	}
	if len(after)-start-end > limit {
		t.Fatalf("more was changed than a value:\n%q\nbecame\n%q", before[start:len(before)-end], after[start:len(after)-end])
	}
	lines := func(s string) int { return strings.Count(s, "\n") }
	if lines(after) < lines(before) {
		t.Fatalf("lines were lost:\n%s", after)
	}
}

// subsequence says whether part is whole with whole lines left out.
func subsequence(part, whole string) bool {
	lines := strings.SplitAfter(whole, "\n")
	for _, line := range strings.SplitAfter(part, "\n") {
		for len(lines) > 0 && lines[0] != line {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return line == ""
		}
		lines = lines[1:]
	}
	return true
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		full, "", "[[runners]]", "[[runners]]\nenvironment=[\"\"\"V=1\"\"\",'''V=2''']", "runners = [{name='x'}]", "[[runners]]\r\n[runners.docker]\r\n",
		"[ [runners ] ]", "[[runners]]\nx=2020-01-01 10:00:00\ny={a=[1,{b=2}]}", "[[runners]]\n\"na\\u006de\"=\"x\"", "a=[[[[[[1]]]]]]", "[runners.docker]\n[[runners]]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := runnerconfig.Parse(text)
		if err != nil {
			if problem.KindOf(err) != problem.Damaged {
				t.Fatalf("error is %v", err)
			}
			return
		}
		if !bytes.Equal(d.Bytes(), text) {
			t.Fatal("reading changed the text")
		}
		for i, r := range d.Runners() {
			d, _ := runnerconfig.Parse(text)
			before := d.Bytes()
			changed, err := d.SetVariable(i, "DOCKER_AUTH_CONFIG", `{"auths":{}}`)
			if err != nil {
				if !bytes.Equal(d.Bytes(), before) {
					t.Fatal("a change that failed changed the text")
				}
				continue
			}
			if changed == bytes.Equal(d.Bytes(), before) {
				t.Fatalf("changed is %v", changed)
			}
			if err := toml.Unmarshal(d.Bytes(), &map[string]any{}); err != nil {
				t.Fatalf("what came out is no TOML: %v", err)
			}
			after := d.Runners()[i]
			if got, _ := after.Variable("DOCKER_AUTH_CONFIG"); got != `{"auths":{}}` {
				t.Fatalf("variable is %q", got)
			}
			after.Environment, r.Environment = nil, nil
			if diff := cmp.Diff(r, after); diff != "" {
				t.Fatalf("something else changed (-before +after):\n%s", diff)
			}
		}
		_ = d.Add(runnerconfig.Section{"name": "x"})
		if n := len(d.Runners()); n > 0 {
			_ = d.Remove(n - 1)
		}
		if _, err := runnerconfig.Parse(d.Bytes()); err != nil {
			t.Fatalf("what came out cannot be read: %v", err)
		}
	})
}
