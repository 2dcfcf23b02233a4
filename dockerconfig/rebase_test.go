package dockerconfig_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/dockerconfig"
)

func TestRebase(t *testing.T) {
	for _, c := range []struct{ name, base, theirs, ours, want string }{
		{"added", `{}`, `{"x":1}`, `{"y":2}`, `{"y":2,"x":1}`},
		{"taken away", `{"x":1,"y":2}`, `{"y":2}`, `{"x":1,"y":2,"z":3}`, `{"y":2,"z":3}`},
		{"changed", `{"x":1}`, `{"x":2}`, `{"x":1,"y":2}`, `{"x":2,"y":2}`},
		{"changed by both", `{"x":1}`, `{"x":2}`, `{"x":3}`, `{"x":2}`},
		{"changed by us", `{"x":1}`, `{"x":1}`, `{"x":3}`, `{"x":3}`},
		{"added by both", `{}`, `{"x":1}`, `{"x":2}`, `{"x":1}`},
		{"taken away by us", `{"x":1,"y":2}`, `{"x":1,"y":3}`, `{"y":2}`, `{"y":3}`},
		{"login added", `{"auths":{"a":{}}}`, `{"auths":{"a":{},"b":{"auth":"x"}}}`, `{"auths":{"a":{},"h":{}}}`, `{"auths":{"a":{},"h":{},"b":{"auth":"x"}}}`},
		{"login taken away", `{"auths":{"a":{}}}`, `{"auths":{}}`, `{"auths":{"a":{},"h":{}}}`, `{"auths":{"h":{}}}`},
		{"login changed", `{"auths":{"a":{"auth":"x"}}}`, `{"auths":{"a":{"auth":"y"}}}`, `{"auths":{"a":{"auth":"x"},"h":{}}}`, `{"auths":{"a":{"auth":"y"},"h":{}}}`},
		{"entries are whole", `{"auths":{"a":{"p":1}}}`, `{"auths":{"a":{"p":1,"q":2}}}`, `{"auths":{"a":{"r":3}}}`, `{"auths":{"a":{"p":1,"q":2}}}`},
		{"auths added by both", `{}`, `{"auths":{"a":{}}}`, `{"auths":{"h":{}}}`, `{"auths":{"h":{},"a":{}}}`},
		{"auths was null", `{"auths":null}`, `{"auths":{"a":{}}}`, `{"auths":{"h":{}}}`, `{"auths":{"h":{},"a":{}}}`},
		{"auths became null", `{"auths":{"a":{}}}`, `{"auths":null}`, `{"auths":{"a":{},"h":{}}}`, `{"auths":{"h":{}}}`},
		{"auths taken away", `{"auths":{"a":{}},"x":1}`, `{"x":1}`, `{"auths":{"a":{},"h":{}},"x":1}`, `{"auths":{"h":{}},"x":1}`},
		{"all of auths taken away", `{"auths":{"a":{}},"x":1}`, `{"x":1}`, `{"auths":{"a":{}},"x":2}`, `{"x":2}`},
		{"everything taken away", `{"auths":{"a":{}},"x":1}`, `{}`, `{"auths":{"a":{},"h":{}},"x":1}`, `{"auths":{"h":{}}}`},
		{"helper added", `{"credHelpers":{"a":"x"}}`, `{"credHelpers":{"a":"x","b":"y"}}`, `{"credHelpers":{"a":"x"},"auths":{"h":{}}}`, `{"credHelpers":{"a":"x","b":"y"},"auths":{"h":{}}}`},
		{"object became a word", `{"x":{"a":1}}`, `{"x":"w"}`, `{"x":{"a":1},"y":1}`, `{"x":"w","y":1}`},
		{"word became an object", `{"x":"w"}`, `{"x":{"a":1}}`, `{"x":"w","y":1}`, `{"x":{"a":1},"y":1}`},
		{"only white space", `{"x":{"a":1}}`, `{ "x" : { "a" : 1 } }`, `{"x":{"a":2}}`, `{"x":{"a":2}}`},
		{"order only", `{"x":1,"y":2}`, `{"y":2,"x":1}`, `{"x":3,"y":2}`, `{"x":3,"y":2}`},
		{"numbers by the digit", `{"x":1}`, `{"x":1.0}`, `{"x":1}`, `{"x":1.0}`},
		{"auths doubled, login added", `{"auths":{"a":{}},"auths":{"b":{}}}`, `{"auths":{"a":{},"c":{}},"auths":{"b":{}}}`,
			`{"auths":{"a":{}},"auths":{"b":{},"h":{}}}`, `{"auths":{"a":{}},"auths":{"b":{},"h":{},"c":{}}}`},
		{"auths doubled, then not", `{"auths":{"a":{}},"auths":{"b":{}}}`, `{"auths":{"b":{}}}`,
			`{"auths":{"a":{}},"auths":{"b":{},"h":{}}}`, `{"auths":{},"auths":{"b":{},"h":{}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, theirs, ours := parse(t, c.base), parse(t, c.theirs), parse(t, c.ours)
			got := dockerconfig.Rebase(base, theirs, ours)
			if diff := cmp.Diff(compacted(t, c.want), compacted(t, string(got.Bytes()))); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			for _, in := range []struct {
				doc  *dockerconfig.Document
				text string
			}{{base, c.base}, {theirs, c.theirs}, {ours, c.ours}} {
				if string(in.doc.Bytes()) != in.text {
					t.Errorf("Rebase changed its input %s to %s", in.text, in.doc.Bytes())
				}
			}
		})
	}
}

func compacted(t testing.TB, text string) string {
	t.Helper()
	var v json.RawMessage
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestRebaseKeepsBoth compares with the table in Rebase's documentation,
// member by member, in the outer object and below it.
func TestRebaseKeepsBoth(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		texts := [3]string{}
		docs := [3]*dockerconfig.Document{}
		maps := [4]map[string]json.RawMessage{}
		for i, name := range []string{"base", "theirs", "ours"} {
			texts[i] = genDocument(false).Draw(rt, name)
			doc, err := dockerconfig.Parse([]byte(texts[i]))
			if err != nil {
				rt.Fatalf("parse %q: %v", texts[i], err)
			}
			docs[i] = doc
			maps[i] = decode(rt, doc.Bytes())
		}
		result := dockerconfig.Rebase(docs[0], docs[1], docs[2]).Bytes()
		if _, err := dockerconfig.Parse(result); err != nil {
			rt.Fatalf("result %q: %v", result, err)
		}
		maps[3] = decode(rt, result)
		checkTable(rt, "", maps, 0)
	})
}

func decode(t fataler, text []byte) map[string]json.RawMessage {
	t.Helper()
	// Values of doubled names are merged as the clients do.
	var auths struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	outer := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &outer); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if err := json.Unmarshal(text, &auths); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	delete(outer, "auths")
	delete(outer, "Auths")
	for name, entry := range auths.Auths {
		outer["auths/"+name] = entry
	}
	return outer
}

func checkTable(t fataler, path string, maps [4]map[string]json.RawMessage, depth int) {
	t.Helper()
	all := map[string]bool{}
	for _, m := range maps {
		for name := range m {
			all[name] = true
		}
	}
	for name := range all {
		var v [4]string
		for i, m := range maps {
			v[i] = flat(m[name])
		}
		var objects [4]map[string]json.RawMessage
		var isObject [4]bool // or null, which is an empty one beside objects
		for i, m := range maps {
			isObject[i] = m[name] != nil && json.Unmarshal(m[name], &objects[i]) == nil
		}
		nested := depth == 0 && (isObject[1] || maps[1][name] == nil && isObject[0])
		if nested && objects[2] != nil && !strings.HasPrefix(name, "auths/") {
			checkTable(t, path+name+"/", objects, depth+1)
			continue
		}
		want := v[1]
		if v[0] == v[1] {
			want = v[2]
		}
		if v[3] != want {
			t.Fatalf("%s%s: base %s, theirs %s, ours %s; result has %s, want %s", path, name, v[0], v[1], v[2], v[3], want)
		}
	}
}

func flat(raw json.RawMessage) string {
	if raw == nil {
		return "-"
	}
	var v any = raw
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) == nil && object != nil {
		v = object // names once
	}
	out, err := json.Marshal(v)
	if err != nil {
		return string(raw)
	}
	return string(out)
}
