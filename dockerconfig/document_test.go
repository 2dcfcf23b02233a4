package dockerconfig_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/problem"
)

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

func auth(username, secret string) string {
	return base64.StdEncoding.EncodeToString([]byte(username + ":" + secret))
}

func parse(t testing.TB, text string) *dockerconfig.Document {
	t.Helper()
	doc, err := dockerconfig.Parse([]byte(text))
	if err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
	return doc
}

// docker reads a document as the docker CLI does.
func docker(t testing.TB, text []byte) *configfile.ConfigFile {
	t.Helper()
	cli := configfile.New("config.json")
	if err := cli.LoadFromReader(bytes.NewReader(text)); err != nil {
		t.Fatalf("the docker CLI cannot read %q: %v", text, err)
	}
	return cli
}

// foreign are documents that nothing of may be lost.
var foreign = map[string]string{
	"minified":        `{"auths":{"a.example":{"auth":"dTpw"}},"credsStore":"","HttpHeaders":{"X-Meta":"1"}}`,
	"tabs":            "{\n\t\"auths\": {\n\t\t\"a.example\": {\n\t\t\t\"auth\": \"dTpw\"\n\t\t}\n\t},\n\t\"psFormat\": \"table {{.ID}}\\\\t{{.Image}}\"\n}",
	"spaces and tail": "  {\n    \"auths\" : { \"a.example\" : { \"auth\" : \"dTpw\" } } ,\n    \"x\" : [ ]\n  }\n\n",
	"CRLF":            "{\r\n  \"auths\": {\r\n    \"a.example\": {\r\n      \"auth\": \"dTpw\"\r\n    }\r\n  }\r\n}\r\n",
	"big numbers":     `{"auths":{"a.example":{"auth":"dTpw"}},"n":[1e400,-0,12345678901234567890,1.0,1E+2,0.10]}`,
	"escapes":         `{"auths":{"a.example":{"auth":"dTpw"}},"\u0061\/b":"\ud83d\ude00\u00e9é\u003c<"}`,
	"doubled keys":    `{"x":1,"auths":{"a.example":{"auth":"dTpw"}},"x":{"x":2,"x":3},"auths":{"b.example":{"auth":"dTpw"}}}`,
	"auths is null":   `{"auths":null,"x":1}`,
	"no auths":        "{\n  \"credHelpers\": {\n    \"gcr.io\": \"gcloud\"\n  },\n  \"currentContext\": \"remote\"\n}\n",
	"empty auths":     `{"auths":{},"x":1}`,
	"tokens and email": `{"auths":{"a.example":{"auth":"dTpw","email":"a@b.example"},` +
		`"b.example":{"auth":"MDAwOg==","identitytoken":"eyJ"},"c.example":null,"d.example":{"other":{"deep":[1,{}]}}}}`,
	"helpers, proxies and plugins": `{"credHelpers":{"gcr.io":"gcloud","x":""},"credsStore":"desktop","HttpHeaders":{"User-Agent":"x"},` +
		`"proxies":{"default":{"httpProxy":"http://p:1"}},"plugins":{"-x-cli-hints":{"enabled":"true"}},"aliases":{"builder":"buildx"},` +
		`"detachKeys":"ctrl-e,e","unknown":{"a":[true,false,null]},"auths":{"a.example":{"auth":"dTpw"}}}`,
	"empty object": `{}`,
	"deep":         `{"x":` + strings.Repeat("[", 5) + strings.Repeat("]", 5) + `,"auths":{}}`,
}

func TestParsePackIsByteForByte(t *testing.T) {
	for name, text := range foreign {
		t.Run(name, func(t *testing.T) {
			if got := parse(t, text).Bytes(); string(got) != text {
				t.Errorf("got %q, want %q", got, text)
			}
			if got := parse(t, text).Clone().Bytes(); string(got) != text {
				t.Errorf("clone is %q, want %q", got, text)
			}
		})
	}
}

func TestEmptyInputIsAnEmptyDocument(t *testing.T) {
	for _, text := range []string{"", " ", "\n", "\r\n\t "} {
		doc := parse(t, text)
		if _, ok := doc.Login("a.example"); ok {
			t.Errorf("%q holds a login", text)
		}
		doc.Set("a.example", login("u", "p"))
		want := "{\n\t\"auths\": {\n\t\t\"a.example\": {\n\t\t\t\"auth\": \"dTpw\"\n\t\t}\n\t}\n}"
		if diff := cmp.Diff(want, string(doc.Bytes())); diff != "" {
			t.Errorf("of %q (-want +got):\n%s", text, diff)
		}
	}
}

// TestWritesWhatDockerWrites holds a fresh document to the docker CLI's own
// layout, so that the two do not rewrite each other's white space.
func TestWritesWhatDockerWrites(t *testing.T) {
	cli := configfile.New("config.json")
	cli.AuthConfigs["a.example"] = types.AuthConfig{Username: "u", Password: "p"}
	cli.AuthConfigs["https://index.docker.io/v1/"] = types.AuthConfig{Username: "hub", Password: "q"}
	var want bytes.Buffer
	if err := cli.SaveToWriter(&want); err != nil {
		t.Fatal(err)
	}
	doc := parse(t, "")
	doc.Set("a.example", login("u", "p"))
	doc.Set(credential.DockerHub, login("hub", "q"))
	if diff := cmp.Diff(want.String(), string(doc.Bytes())); diff != "" {
		t.Errorf("document (-docker +regkeeper):\n%s", diff)
	}
}

func TestSetAddsNothingButTheEntry(t *testing.T) {
	for name, before := range foreign {
		t.Run(name, func(t *testing.T) {
			doc := parse(t, before)
			if !doc.Set("new.example:5000", login("robot", "s3cret")) {
				t.Error("Set says nothing changed")
			}
			after := string(doc.Bytes())
			checkInserted(t, before, after)
			checkEntry(t, doc, "new.example:5000", "robot", "s3cret")
			if doc.Set("new.example:5000", login("robot", "s3cret")) {
				t.Error("Set says that the second time changed something")
			}
			if got := string(doc.Bytes()); got != after {
				t.Errorf("second Set changed %q to %q", after, got)
			}
			if !doc.Remove("new.example:5000") {
				t.Error("Remove says there was none")
			}
			if doc.Remove("new.example:5000") {
				t.Error("second Remove says there was one")
			}
			checkInserted(t, string(doc.Bytes()), after)
			if diff := cmp.Diff(values(t, before), values(t, string(doc.Bytes()))); diff != "" && name != "auths is null" && name != "no auths" && name != "empty object" {
				t.Errorf("values after Set and Remove (-want +got):\n%s", diff)
			}
		})
	}
}

// checkInserted says whether after is before with one piece put in. In an
// object that was empty (or null) the white space may differ.
func checkInserted(t testing.TB, before, after string) {
	t.Helper()
	p := 0
	for p < len(before) && p < len(after) && before[p] == after[p] {
		p++
	}
	s := 0
	for s < len(before)-p && s < len(after)-p && before[len(before)-1-s] == after[len(after)-1-s] {
		s++
	}
	lost := strings.TrimSpace(before[p : len(before)-s])
	if lost != "" && lost != "null" {
		t.Errorf("%q was lost:\nbefore %q\nafter  %q", lost, before, after)
	}
}

func values(t testing.TB, text string) any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		t.Fatalf("document %q: %v", text, err)
	}
	return v
}

// checkEntry reads the login back by every parser at hand, and holds the entry
// to "auth" alone.
func checkEntry(t testing.TB, doc *dockerconfig.Document, host credential.Host, username, secret string) {
	t.Helper()
	got, ok := doc.Login(host)
	if !ok || !got.Equal(login(username, secret)) {
		t.Errorf("Login(%s) is %s:%s, %v; want %s:%s", host, got.Username, got.Secret.Reveal(), ok, username, secret)
	}
	again := parse(t, string(doc.Bytes()))
	if got, ok := again.Login(host); !ok || !got.Equal(login(username, secret)) {
		t.Errorf("parsed again, Login(%s) is %s:%s, %v", host, got.Username, got.Secret.Reveal(), ok)
	}
	var raw struct {
		Auths map[string]map[string]any `json:"auths"`
	}
	if err := json.Unmarshal(doc.Bytes(), &raw); err != nil {
		t.Fatalf("document %q: %v", doc.Bytes(), err)
	}
	if diff := cmp.Diff(map[string]any{"auth": auth(username, secret)}, raw.Auths[host.Key()]); diff != "" {
		t.Errorf("entry %s (-want +got):\n%s", host.Key(), diff)
	}
}

func TestSetReplacesTheEntryAndNothingElse(t *testing.T) {
	before, behind := `{"x":1.0, "auths" : {"a":{"auth":"dTpw" } , "h.example": `, ` , "z":{"email" : "e"}}, "y":[ 1e400 ]} `
	want := auth("robot", "s3cret")
	for name, entry := range map[string]string{
		"another login":       `{"auth":"` + auth("old", "pw") + `"}`,
		"identity token":      `{"auth":"MDAwOg==","identitytoken":"eyJ"}`,
		"registry token":      `{"registrytoken":"eyJ"}`,
		"username, password":  `{"username":"robot","password":"s3cret"}`,
		"email beside it":     `{"auth":"` + want + `","email":"a@b.example"}`,
		"doubled fields":      `{"auth":"` + want + `","auth":"` + auth("old", "pw") + `"}`,
		"password beside it":  `{"auth":"` + want + `","username":"other","password":"pw"}`,
		"null":                `null`,
		"empty":               `{}`,
		"base64 with a break": `{"auth":"` + want[:4] + `\n` + want[4:] + `"}`,
		"base64 with a NUL":   `{"auth":"` + auth("robot", "s3cret\x00") + `"}`,
		"no base64":           `{"auth":"***"}`,
		"number":              `{"auth":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			doc := parse(t, before+entry+behind)
			if !doc.Set("h.example", login("robot", "s3cret")) {
				t.Error("Set says nothing changed")
			}
			checkEntry(t, doc, "h.example", "robot", "s3cret")
			got := string(doc.Bytes())
			if !strings.HasPrefix(got, before) || !strings.HasSuffix(got, behind) {
				t.Errorf("more than the entry changed:\n%s", cmp.Diff(before+entry+behind, got))
			}
		})
	}
}

// TestSetMakesItTheOnlyOne doubles keys in every way that the clients' parser
// merges, by what it does: the docker CLI must read what was set.
func TestSetMakesItTheOnlyOne(t *testing.T) {
	const mine, other = `{"auth":"dTpw"}`, `{"auth":"b2xkOnB3"}`
	for name, text := range map[string]string{
		"twice in auths":        `{"auths":{"h.example":` + other + `,"b":` + mine + `,"h.example":` + mine + `}}`,
		"mine, then other":      `{"auths":{"h.example":` + mine + `,"h.example":` + other + `}}`,
		"auths twice":           `{"auths":{"h.example":` + mine + `},"auths":{"h.example":` + other + `}}`,
		"only in the first":     `{"auths":{"h.example":` + mine + `},"auths":{"b":` + other + `}}`,
		"null behind":           `{"auths":{"h.example":` + mine + `},"auths":null}`,
		"null before":           `{"auths":null,"auths":{"h.example":` + other + `}}`,
		"another case":          `{"Auths":{"h.example":` + other + `}}`,
		"another case behind":   `{"auths":{"h.example":` + mine + `},"AUTHS":{"h.example":` + other + `}}`,
		"another case, then it": `{"AUTHS":{"h.example":` + other + `},"auths":{"b":` + mine + `}}`,
		"escaped names":         `{"\u0061uths":{"h\u002eexample":` + other + `}}`,
		"long s":                `{"auth\u017f":{"h.example":` + other + `}}`,
		"field of another case": `{"auths":{"h.example":{"Auth":"b2xkOnB3"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			doc := parse(t, text)
			cli := docker(t, doc.Bytes()).AuthConfigs["h.example"]
			got, ok := doc.Login("h.example")
			if ok != (cli.Username != "") || got.Username != cli.Username || got.Secret.Reveal() != cli.Password {
				t.Errorf("Login is %s:%s, %v; the docker CLI reads %s:%s", got.Username, got.Secret.Reveal(), ok, cli.Username, cli.Password)
			}
			doc.Set("h.example", login("u", "p"))
			if got := docker(t, doc.Bytes()).AuthConfigs["h.example"]; got.Username != "u" || got.Password != "p" {
				t.Errorf("the docker CLI reads %s:%s in %s", got.Username, got.Password, doc.Bytes())
			}
			if n := strings.Count(strings.ReplaceAll(string(doc.Bytes()), `\u002e`, "."), "h.example"); n != 1 {
				t.Errorf("%d entries in %s", n, doc.Bytes())
			}
			checkEntry(t, doc, "h.example", "u", "p")
			doc.Remove("h.example")
			if got, ok := docker(t, doc.Bytes()).AuthConfigs["h.example"]; ok {
				t.Errorf("after Remove the docker CLI reads %s:%s", got.Username, got.Password)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	for _, c := range []struct{ name, before, want string }{
		{"first", `{"auths": {"h": {}, "b": {} }, "x":1}`, `{"auths": { "b": {} }, "x":1}`},
		{"middle", `{"auths":{"a":{},"h":{"auth":"x"},"b":{}}}`, `{"auths":{"a":{},"b":{}}}`},
		{"last", "{\"auths\":{\n \"a\":{},\n \"h\":{}\n}}", "{\"auths\":{\n \"a\":{}\n}}"},
		{"only", `{"auths":{"h":{}},"x":1}`, `{"auths":{},"x":1}`},
		{"twice", `{"auths":{"h":{},"a":{},"h":{}}}`, `{"auths":{"a":{}}}`},
		{"none", `{"auths":{"a":{}} }`, `{"auths":{"a":{}} }`},
		{"elsewhere", `{"h":1,"credHelpers":{"h":"x"},"auths":{"a":{"h":1}}}`, `{"h":1,"credHelpers":{"h":"x"},"auths":{"a":{"h":1}}}`},
		{"null", `{"auths":null}`, `{"auths":null}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := parse(t, c.before)
			if changed := doc.Remove("h"); changed != (c.before != c.want) {
				t.Errorf("Remove says %v", changed)
			}
			if diff := cmp.Diff(c.want, string(doc.Bytes())); diff != "" {
				t.Errorf("document (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	for _, c := range []struct {
		name, entry string
		username    string
		secret      string
		ok          bool
	}{
		{"auth", `{"auth":"dTpw"}`, "u", "p", true},
		{"colon in the password", `{"auth":"` + auth("u", "a:b:") + `"}`, "u", "a:b:", true},
		{"NUL behind, as docker drops it", `{"auth":"` + auth("u", "p\x00\x00") + `"}`, "u", "p", true},
		{"NUL before, as docker drops it", `{"auth":"` + auth("u", "\x00p") + `"}`, "u", "p", true},
		{"username, password", `{"username":"u","password":"p"}`, "u", "p", true},
		{"auth wins", `{"username":"x","password":"y","auth":"dTpw"}`, "u", "p", true},
		{"identity token", `{"auth":"dTpw","identitytoken":"t"}`, "", "", false},
		{"registry token", `{"auth":"dTpw","registrytoken":"t"}`, "", "", false},
		{"empty", `{}`, "", "", false},
		{"null", `null`, "", "", false},
		{"no base64", `{"auth":"%"}`, "", "", false},
		{"no colon", `{"auth":"dQ=="}`, "", "", false},
		{"no username", `{"auth":"OnA="}`, "", "", false},
		{"number", `{"auth":5}`, "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := parse(t, `{"auths":{"h":`+c.entry+`}}`).Login("h")
			if ok != c.ok || ok && (got.Username != c.username || got.Secret.Reveal() != c.secret) {
				t.Errorf("got %q:%q, %v", got.Username, got.Secret.Reveal(), ok)
			}
		})
	}
	if _, ok := parse(t, `{"auths":{"h:443":{"auth":"dTpw"}}}`).Login("h"); ok {
		t.Error("host and host:443 are one")
	}
}

func TestDockerHubKey(t *testing.T) {
	doc := parse(t, `{"auths":{"docker.io":{"auth":"b2xkOnB3"}}}`)
	if _, ok := doc.Login(credential.DockerHub); ok {
		t.Error(`the entry "docker.io", which the docker CLI does not read, counts`)
	}
	doc.Set(credential.DockerHub, login("u", "p"))
	want := `{"auths":{"docker.io":{"auth":"b2xkOnB3"},"https://index.docker.io/v1/":{"auth": "dTpw"}}}`
	if diff := cmp.Diff(values(t, want), values(t, string(doc.Bytes()))); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	got, err := docker(t, doc.Bytes()).GetAuthConfig("docker.io")
	if err != nil || got.Username != "u" || got.Password != "p" {
		t.Errorf("the docker CLI's login for docker.io is %+v, %v", got, err)
	}
}

// TestHelper asks the docker CLI which of its stores answers.
func TestHelper(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"credsStore":""}`, `{"credsStore":"desktop"}`, `{"credHelpers":{"h":"x"}}`, `{"credHelpers":{"b":"x"}}`,
		`{"credsStore":"desktop","credHelpers":{"h":""}}`, `{"credsStore":"desktop","credHelpers":{"b":""}}`,
		`{"credsStore":"desktop","credHelpers":{"h":"x"}}`, `{"CredsStore":"desktop"}`, `{"credHelpers":null}`,
		`{"credsStore":"a","credsStore":"b"}`,
		`{"credHelpers":{"https://index.docker.io/v1/":"hub"}}`, `{"credHelpers":{"docker.io":"hub"}}`,
	} {
		for _, host := range []credential.Host{"h", credential.DockerHub} {
			name, ok := parse(t, text).Helper(host)
			cli := docker(t, []byte(text))
			if want := strings.Contains(fmt.Sprintf("%T", cli.GetCredentialsStore(string(host))), "native"); ok != want {
				t.Errorf("%s: Helper(%s) is %q, %v; docker asks one: %v", text, host, name, ok, want)
			}
			if ok != (name != "") {
				t.Errorf("%s: Helper(%s) is %q, %v", text, host, name, ok)
			}
		}
	}
}

// TestDockerKeepsOurLogin has the docker CLI read what was set, log in
// elsewhere, and save.
func TestDockerKeepsOurLogin(t *testing.T) {
	for name, text := range foreign {
		t.Run(name, func(t *testing.T) {
			doc := parse(t, text)
			doc.Set("h.example:5000", login("robot", "a:b \"é\""))
			if name == "big numbers" || name == "helpers, proxies and plugins" {
				return // docker rewrites or refuses parts of these by itself
			}
			cli := docker(t, doc.Bytes())
			got := cli.AuthConfigs["h.example:5000"]
			if got.Username != "robot" || got.Password != "a:b \"é\"" {
				t.Errorf("the docker CLI reads %s:%s", got.Username, got.Password)
			}
			cli.AuthConfigs["else.example"] = types.AuthConfig{Username: "x", Password: "y"}
			var saved bytes.Buffer
			if err := cli.SaveToWriter(&saved); err != nil {
				t.Fatal(err)
			}
			again := parse(t, saved.String())
			checkEntry(t, again, "h.example:5000", "robot", "a:b \"é\"")
			if again.Set("h.example:5000", login("robot", "a:b \"é\"")) {
				t.Error("what docker saved counts as changed")
			}
		})
	}
}

const marker = "hunter2-SECRET-c2VjcmV0"

func TestBrokenDocuments(t *testing.T) {
	m := `"` + marker + `"`
	for _, c := range []struct {
		name, text   string
		line, column int
	}{
		{"truncated in a string", `{"auths":{"h":{"auth":"` + marker, 1, 24 + len(marker)},
		{"truncated behind a line", "{\"x\":" + m + ",\n", 2, 1},
		{"truncated object", "{\n  \"auths\": {\n    \"h\": {\"auth\": " + m + "}\n  }", 4, 4},
		{"only a brace", "{", 1, 2},
		{"trailing comma", "{\n  \"x\": " + m + ",\n}", 3, 1},
		{"trailing comma in an array", "{\"x\":[" + m + ",]}", 1, 8 + len(m)},
		{"line comment", "{\n// " + marker + "\n}", 2, 1},
		{"block comment", "{ /* " + marker + " */ }", 1, 3},
		{"byte order mark", "\ufeff{\"x\":" + m + "}", 1, 1},
		{"NUL", "{\"x\":" + m + "}\x00", 1, 7 + len(m)},
		{"only NULs", "\x00\x00\x00\x00", 1, 1},
		{"trailing word", "{\"x\":" + m + "}\n" + marker, 2, 1},
		{"second document", "{}\n\n {\"x\":" + m + "}", 3, 2},
		{"single quotes", "{'x':" + m + "}", 1, 2},
		{"no quotes", "{\n\t" + marker + ":1}", 2, 2},
		{"missing colon", "{\"x\" " + m + "}", 1, 6},
		{"missing comma", "{\"x\":" + m + "\n\"y\":1}", 2, 1},
		{"control character in a string", "{\"x\":\"" + marker + "\n\"}", 1, 7 + len(marker)},
		{"bad escape", "{\"x\":\"" + marker + "\\x\"}", 1, 8 + len(marker)},
		{"half a word", "{\"x\":" + m + ",\"y\":tru}", 1, 14 + len(m)},
		{"leading zero", "{\"y\":01}", 1, 7},
		{"CRLF", "{\r\n  \"x\": " + m + "\r\n  \"y\": 1\r\n}", 3, 3},
		{"characters, not bytes", "{\"é€😀\":" + m + ",}", 1, 9 + len(m)},
		{"array", "[" + m + "]", 1, 1},
		{"string", " " + m, 1, 2},
		{"null", "null", 1, 1},
		{"number", "\n 5", 2, 2},
		{"auths is an array", "{\n  \"auths\": [" + m + "]}", 2, 12},
		{"auths is a string", "{\"x\":1,\"auths\":" + m + "}", 1, 16},
		{"second auths is a number", "{\"auths\":{},\"x\":" + m + ",\n\"auths\": 1}", 2, 10},
		{"entry is a string", "{\"auths\":{\n\t\"h\": " + m + "}}", 2, 7},
		{"entry is an array", "{\"auths\":{\"a\":{},\"h\":[" + m + "]}}", 1, 22},
		{"entry is a bool", "{\"auths\":{\"h\":true}}", 1, 15},
		{"conflict marker", "<<<<<<< HEAD\n{}", 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := dockerconfig.Parse([]byte(c.text))
			checkDamaged(t, err)
			want := fmt.Sprintf("line %d, column %d", c.line, c.column)
			if err == nil || !strings.Contains(err.Error()+" ", want+" ") && !strings.Contains(err.Error(), want+":") {
				t.Errorf("error is %q, want it to name %s", err, want)
			}
		})
	}
}

// checkDamaged holds an error to kind and hint, and to silence about the
// document.
func checkDamaged(t testing.TB, err error) {
	t.Helper()
	if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" {
		t.Fatalf("error is %v of kind %s with hint %q, want a damaged document", err, problem.KindOf(err), problem.HintOf(err))
	}
	for e := err; e != nil; {
		if s := fmt.Sprintf("%v %+v", e, e); strings.Contains(s, marker) || strings.Contains(s, "hunter2") {
			t.Errorf("the error quotes the document: %s", s)
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			break
		}
		e = u.Unwrap()
	}
	if !strings.Contains(err.Error(), "line ") || !strings.Contains(err.Error(), "column ") {
		t.Errorf("error %q names no line and column", err)
	}
}

// genDocument draws documents as people and programs write them; odd ones have
// "auths" more than once, and in another case.
func genDocument(odd bool) *rapid.Generator[string] {
	space := rapid.SampledFrom([]string{"", "", " ", "\n", "\n\t", "\r\n  "})
	quoted := func(names ...string) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string { return `"` + rapid.SampledFrom(names).Draw(t, "name") + `"` })
	}
	entry := rapid.SampledFrom([]string{
		`{}`, `null`, `{"auth":"dTpw"}`, `{"auth":"dTpw","email":"e"}`, `{"username":"u","password":"p"}`, `{ "auth" : "dTpw" }`,
		`{"auth":"dTpw","identitytoken":"t"}`, `{"Auth":"eDp5"}`, `{"x":[1e400]}`, `{"auth":"eDp5AA=="}`,
	})
	object := func(name, value *rapid.Generator[string]) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			var b strings.Builder
			b.WriteString("{")
			for i := range rapid.IntRange(0, 4).Draw(t, "members") {
				if i > 0 {
					b.WriteString(",")
				}
				b.WriteString(space.Draw(t, "s") + name.Draw(t, "name") + space.Draw(t, "s") + ":" +
					space.Draw(t, "s") + value.Draw(t, "value") + space.Draw(t, "s"))
			}
			b.WriteString(space.Draw(t, "s") + "}")
			return b.String()
		})
	}
	auths := rapid.OneOf(object(quoted("h", "h", "a", "b", "https://index.docker.io/v1/", `\u0068`), entry), rapid.Just("null"))
	return rapid.Custom(func(t *rapid.T) string {
		var b strings.Builder
		b.WriteString(space.Draw(t, "s") + "{")
		seen := false
		for i := range rapid.IntRange(0, 4).Draw(t, "members") {
			if i > 0 {
				b.WriteString(",")
			}
			b.WriteString(space.Draw(t, "s"))
			if rapid.Bool().Draw(t, "auths") && (odd || !seen) {
				seen = true
				spellings := []string{"auths", "auths", `\u0061uths`}
				if odd {
					spellings = append(spellings, "Auths")
				}
				b.WriteString(quoted(spellings...).Draw(t, "name"))
				b.WriteString(space.Draw(t, "s") + ":" + space.Draw(t, "s") + auths.Draw(t, "value"))
			} else {
				name := rapid.SampledFrom([]string{"x", "y", "é", "z"}).Draw(t, "name")
				if !odd {
					name = []string{"x", "y", "é", "z"}[i]
				}
				b.WriteString(`"` + name + `"`)
				b.WriteString(":" + rapid.SampledFrom([]string{"1e400", "null", `"\u003c"`, "[ 1, {} ]", `{"h":{}}`}).Draw(t, "value"))
			}
			b.WriteString(space.Draw(t, "s"))
		}
		b.WriteString("}" + space.Draw(t, "s"))
		return b.String()
	})
}

func TestEditsAgreeWithDocker(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := genDocument(true).Draw(rt, "document")
		host := rapid.SampledFrom([]credential.Host{"h", "new.example", credential.DockerHub}).Draw(rt, "host")
		secret := rapid.StringN(1, 20, -1).Filter(func(s string) bool { return !strings.Contains(s, "\x00") }).Draw(rt, "secret")
		checkEdits(rt, text, host, login("robot", secret))
	})
}

// fataler is what both of testing and rapid have.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkEdits sets and removes a login, and compares what the docker CLI reads
// before and after.
func checkEdits(t fataler, text string, host credential.Host, l credential.Login) {
	t.Helper()
	read := func(text []byte) map[string]types.AuthConfig {
		cli := configfile.New("config.json")
		if err := cli.LoadFromReader(bytes.NewReader(text)); err != nil {
			return nil
		}
		if cli.AuthConfigs == nil {
			return map[string]types.AuthConfig{}
		}
		return cli.AuthConfigs
	}
	before := read([]byte(text))
	doc, err := dockerconfig.Parse([]byte(text))
	if err != nil || before == nil {
		return
	}
	if !bytes.Equal(doc.Bytes(), []byte(text)) && strings.TrimSpace(text) != "" {
		t.Fatalf("%q comes out as %q", text, doc.Bytes())
	}
	cli := before[host.Key()]
	held, ok := doc.Login(host)
	if cli.IdentityToken != "" || cli.RegistryToken != "" {
		cli = types.AuthConfig{}
	}
	if ok != (cli.Username != "") || ok && (held.Username != cli.Username || held.Secret.Reveal() != cli.Password) {
		t.Fatalf("Login of %q is %q:%q, %v; the docker CLI reads %q:%q", text, held.Username, held.Secret.Reveal(), ok, cli.Username, cli.Password)
	}

	changed := doc.Set(host, l)
	if changed == bytes.Equal(doc.Bytes(), []byte(text)) {
		t.Fatalf("Set of %q says changed=%v and gives %q", text, changed, doc.Bytes())
	}
	after := read(doc.Bytes())
	got := after[host.Key()]
	want := types.AuthConfig{Username: l.Username, Password: l.Secret.Reveal(), ServerAddress: host.Key()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("Set of %q gives %q, where the docker CLI reads (-want +got):\n%s", text, doc.Bytes(), diff)
	}
	if doc.Set(host, l) {
		t.Fatalf("second Set of %q changes it to %q", text, doc.Bytes())
	}
	delete(before, host.Key())
	delete(after, host.Key())
	if diff := cmp.Diff(before, after); diff != "" {
		t.Fatalf("Set of %q gives %q; the others (-want +got):\n%s", text, doc.Bytes(), diff)
	}
	doc.Remove(host)
	if diff := cmp.Diff(before, read(doc.Bytes())); diff != "" {
		t.Fatalf("Remove of %q gives %q; the others (-want +got):\n%s", text, doc.Bytes(), diff)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range foreign {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"auths":{"h":{"auth":"dTpw"}}`))
	f.Add([]byte("{\"a\xff\":\"\xed\xa0\x80\",\"\\ud800\":\"\\udc00\\uD800x\"}"))
	f.Add([]byte("{\"\u2028\":1}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := dockerconfig.Parse(text)
		if err != nil {
			checkDamaged(t, err)
			if json.Valid(text) && bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) && !strings.Contains(err.Error(), "is no object") {
				t.Fatalf("%q is JSON, and refused: %v", text, err)
			}
			return
		}
		if got := doc.Bytes(); !bytes.Equal(got, text) && len(bytes.TrimSpace(text)) != 0 {
			t.Fatalf("%q comes out as %q", text, got)
		}
		for _, host := range []credential.Host{"h", "a.example", credential.DockerHub} {
			doc.Helper(host)
			checkEdits(t, string(text), host, login("robot", "s3cret"))
		}
		empty, err := dockerconfig.Parse(nil)
		if err != nil {
			t.Fatal(err)
		}
		merged := dockerconfig.Rebase(empty, doc, empty).Bytes()
		if _, err := dockerconfig.Parse(merged); err != nil {
			t.Fatalf("rebased onto nothing, %q becomes %q: %v", text, merged, err)
		}
	})
}
