package dockerconfig_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/problem"
)

func parsed(t testing.TB, text string) *dockerconfig.Document {
	t.Helper()
	doc, err := dockerconfig.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestSetHelper(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, before, after string
		host                credential.Host
	}{
		{"empty", ``, "{\n\t\"credHelpers\": {\n\t\t\"h.example.com\": \"regkeeper\"\n\t}\n}", "h.example.com"},
		{"one line", `{"auths":{}}`, `{"auths":{},"credHelpers":{"h.example.com":"regkeeper"}}`, "h.example.com"},
		{"beside others", `{ "credHelpers" : { "ecr" : "ecr-login" } , "x" : 1e2 }`, `{ "credHelpers" : { "ecr" : "ecr-login", "h.example.com": "regkeeper" } , "x" : 1e2 }`, "h.example.com"},
		{"another in its place", `{"credHelpers":{"h.example.com":"pass"}}`, `{"credHelpers":{"h.example.com":"regkeeper"}}`, "h.example.com"},
		{"there", `{"credHelpers":{"h.example.com":"regkeeper"}}`, ``, "h.example.com"},
		{"doubled", `{"credHelpers":{"h":"a","k":"b","h":"regkeeper"}}`, `{"credHelpers":{"k":"b","h":"regkeeper"}}`, "h"},
		{"other case", `{"credhelpers":{"k":"b"}}`, `{"credhelpers":{"k":"b","h":"regkeeper"}}`, "h"},
		{"null", `{"credHelpers":null}`, `{"credHelpers":{"h":"regkeeper"}}`, "h"},
		{"taken back", `{"credHelpers":{"h":"a"},"credHelpers":null}`, `{"credHelpers":{},"credHelpers":null,"credHelpers":{"h":"regkeeper"}}`, "h"},
		{"there after one taken back", `{"credHelpers":null,"credHelpers":{"h":"regkeeper"}}`, ``, "h"},
		{"value of another kind", `{"credHelpers":{"h":null}}`, `{"credHelpers":{"h":"regkeeper"}}`, "h"},
		{"Docker Hub", `{}`, "{\"credHelpers\": {\"https://index.docker.io/v1/\": \"regkeeper\", \"docker.io\": \"regkeeper\"}}", credential.DockerHub},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			doc := parsed(t, c.before)
			changed, err := doc.SetHelper(c.host, "regkeeper")
			if err != nil || changed != (c.after != "") {
				t.Fatalf("changed %v, %v", changed, err)
			}
			want := c.after
			if want == "" {
				want = c.before
			}
			if got := string(doc.Bytes()); c.name == "Docker Hub" && !json.Valid([]byte(got)) || c.name != "Docker Hub" && got != want {
				t.Errorf("document is %s, want %s", got, want)
			}
			if again, err := doc.SetHelper(c.host, "regkeeper"); again || err != nil {
				t.Errorf("again: changed %v, %v", again, err)
			}
			for _, key := range dockerconfig.HelperKeys(c.host) {
				if got := helperByDocker(t, doc, key); got != "regkeeper" {
					t.Errorf("the docker CLI asks %q for %s", got, key)
				}
			}
		})
	}
}

// helperByDocker is the helper that the docker CLI's own reader finds for a key.
func helperByDocker(t interface{ Fatalf(string, ...any) }, doc *dockerconfig.Document, key string) string {
	file := configfile.New("config.json")
	if err := file.LoadFromReader(strings.NewReader(string(doc.Bytes()))); err != nil {
		t.Fatalf("the docker CLI cannot read %s: %v", doc.Bytes(), err)
	}
	return file.CredentialHelpers[key]
}

func TestSetHelperRefusesWhatClientsCannotRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{"credHelpers":[]}`, `{"x":1,` + "\n" + `"credHelpers":"pass"}`} {
		doc := parsed(t, text)
		changed, err := doc.SetHelper("h", "regkeeper")
		if changed || problem.KindOf(err) != problem.Damaged || string(doc.Bytes()) != text {
			t.Errorf("%s: changed %v, error %v, now %s", text, changed, err, doc.Bytes())
		}
		if got := doc.RemoveHelper("regkeeper", func(string) bool { return true }); got != nil || string(doc.Bytes()) != text {
			t.Errorf("%s: removed %v, now %s", text, got, doc.Bytes())
		}
	}
}

func TestRemoveHelper(t *testing.T) {
	t.Parallel()
	all := func(string) bool { return true }
	for _, c := range []struct {
		name, before, after string
		of                  func(string) bool
		removed             []string
	}{
		{"ours alone", `{"credHelpers":{"b":"regkeeper","o":"pass","a":"regkeeper"},"x": 1}`, `{"credHelpers":{"o":"pass"},"x": 1}`, all, []string{"a", "b"}},
		{"asked for", `{"credHelpers":{"b":"regkeeper","a":"regkeeper"}}`, `{"credHelpers":{"b":"regkeeper"}}`, func(k string) bool { return k == "a" }, []string{"a"}},
		{"none", `{"credHelpers":{"o":"pass"}}`, `{"credHelpers":{"o":"pass"}}`, all, nil},
		{"the last", `{"auths":{}, "credHelpers":{"a":"regkeeper"}}`, `{"auths":{}}`, all, []string{"a"}},
		{"empty and not ours", `{"credHelpers":{}}`, `{"credHelpers":{}}`, all, nil},
		{"another kind", `{"credHelpers":{"a":1}}`, `{"credHelpers":{"a":1}}`, all, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			doc := parsed(t, c.before)
			if diff := cmp.Diff(c.removed, doc.RemoveHelper("regkeeper", c.of)); diff != "" {
				t.Error(diff)
			}
			if got := string(doc.Bytes()); got != c.after {
				t.Errorf("document is %s, want %s", got, c.after)
			}
		})
	}
}

// What is set and removed again leaves the document as it was, and only the keys
// asked for change in between: the docker CLI's own reader says so.
func TestHelperComesAndGoes(t *testing.T) {
	t.Parallel()
	key := rapid.SampledFrom([]string{"a.example.com", "b.example.com:5000", "docker.io", "https://index.docker.io/v1/", "é"})
	space := rapid.SampledFrom([]string{"", " ", "\n  ", "\r\n\t"})
	rapid.Check(t, func(t *rapid.T) {
		gap := space.Draw(t, "space")
		var members []string
		if rapid.Bool().Draw(t, "auths") {
			members = append(members, `"auths":`+gap+`{"z":{"auth":"dTpw"}}`)
		}
		before := map[string]string{}
		if rapid.Bool().Draw(t, "helpers") {
			var others []string
			for _, k := range rapid.SliceOfNDistinct(key, 1, 3, rapid.ID[string]).Draw(t, "keys") {
				before[k] = "pass"
				others = append(others, `"`+k+`":`+gap+`"pass"`)
			}
			members = append(members, `"credHelpers":{`+gap+strings.Join(others, ","+gap)+gap+`}`)
		}
		members = append(members, `"n": 1.50e1`)
		text := "{" + gap + strings.Join(members, ","+gap) + gap + "}"
		doc, err := dockerconfig.Parse([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		host := credential.Host(rapid.SampledFrom([]string{"a.example.com", "b.example.com:5000", "docker.io"}).Draw(t, "host"))
		if _, err := doc.SetHelper(host, "regkeeper"); err != nil {
			t.Fatal(err)
		}
		keys := dockerconfig.HelperKeys(host)
		want := map[string]string{}
		taken := false
		for k := range before {
			want[k] = "pass"
		}
		for _, k := range keys {
			taken = taken || want[k] != ""
			want[k] = "regkeeper"
		}
		file := configfile.New("config.json")
		if err := file.LoadFromReader(strings.NewReader(string(doc.Bytes()))); err != nil {
			t.Fatalf("the docker CLI cannot read %q: %v", doc.Bytes(), err)
		}
		if diff := cmp.Diff(want, file.CredentialHelpers); diff != "" {
			t.Fatal(diff)
		}
		removed := doc.RemoveHelper("regkeeper", func(string) bool { return true })
		if len(removed) != len(keys) {
			t.Fatalf("removed %v of %v", removed, keys)
		}
		if got := string(doc.Bytes()); !taken && got != text {
			t.Fatalf("afterwards %q, before %q", got, text)
		}
	})
}

// A helper that is set while another program writes the file is not lost, and
// neither is what that wrote.
func TestHelperIsRebased(t *testing.T) {
	t.Parallel()
	base := parsed(t, `{"auths":{"a":{"auth":"dTpw"}}}`)
	theirs := parsed(t, `{"auths":{"a":{"auth":"dTpw"},"b":{"auth":"dTpw"}},"credHelpers":{"o":"pass"}}`)
	ours := base.Clone()
	if _, err := ours.SetHelper("h", "regkeeper"); err != nil {
		t.Fatal(err)
	}
	got := dockerconfig.Rebase(base, theirs, ours)
	for key, want := range map[string]string{"h": "regkeeper", "o": "pass"} {
		if name := helperByDocker(t, got, key); name != want {
			t.Errorf("%s is asked for %s, want %s: %s", name, key, want, got.Bytes())
		}
	}
	if !got.Entry("b") || !got.Entry("a") || got.Entry("h") {
		t.Errorf("entries were lost: %s", got.Bytes())
	}
}

func TestHelpedBy(t *testing.T) {
	t.Parallel()
	const text = `{"credsStore":"desktop","credHelpers":{"b":"regkeeper","o":"pass","a":"regkeeper"}}`
	doc := parsed(t, text)
	if diff := cmp.Diff([]string{"a", "b"}, doc.HelpedBy("regkeeper")); diff != "" || string(doc.Bytes()) != text {
		t.Errorf("document is %s\n%s", doc.Bytes(), diff)
	}
	for text, want := range map[string]string{text: "desktop", `{}`: "", `{"credsStore":1}`: "", `{"credsstore":"pass"}`: "pass"} {
		if got := parsed(t, text).GlobalHelper(); got != want {
			t.Errorf("for all, %s names %q, want %q", text, got, want)
		}
	}
}

func FuzzSetHelper(f *testing.F) {
	for _, text := range []string{``, `{}`, `{"credHelpers":{"h":"a","h":"b"},"CREDHELPERS":null}`, `{"credHelpers":1}`, "{\"credHelpers\" : {\n}}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := dockerconfig.Parse(text)
		if err != nil {
			t.Skip()
		}
		var clients struct {
			CredHelpers map[string]string `json:"credHelpers"`
		}
		readable := json.Unmarshal(doc.Bytes(), &clients) == nil
		before := string(doc.Bytes())
		changed, err := doc.SetHelper("h", "regkeeper")
		if err != nil {
			var p *problem.Error
			if !errors.As(err, &p) || readable || string(doc.Bytes()) != before {
				t.Fatalf("error %v of %q", err, before)
			}
			return
		}
		if changed == (string(doc.Bytes()) == before) {
			t.Fatalf("changed is %v from %q to %q", changed, before, doc.Bytes())
		}
		want := clients.CredHelpers
		if want == nil {
			want = map[string]string{}
		}
		clients.CredHelpers = nil
		if err := json.Unmarshal(doc.Bytes(), &clients); (err == nil) != readable && readable {
			t.Fatalf("%q can no longer be read: %v", doc.Bytes(), err)
		}
		if want["h"] = "regkeeper"; readable && !cmp.Equal(want, clients.CredHelpers) {
			t.Fatalf("from %q to %q: %s", before, doc.Bytes(), cmp.Diff(want, clients.CredHelpers))
		}
	})
}
