package config_test

import (
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/problem"
)

// FuzzParse feeds Parse with anything: it never panics, and its errors are of
// kind Config and name the document.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		least, "", "a", "[", "{}", "registries: []", "registries: [5]", "registries:\n  - &x {host: a}\n  - *x\n", "? a\n: b",
		"<<: {registries: []}", "a: &a [*a]", "--- \n---\n", "!!binary x", "registries: !x [y]", "\t", "\xff\xfe", "host: 'a", "a: |\n b\nc",
		"registries:\n- host: a.b\n  source: {builtin: {}}\n  rotate: {cron: '* * * * *', every: 0}\n",
		"targets: [{name: x, file: {path: y, owner: '1:2', mode: '0600'}}]\nregistries: [{host: a, source: {builtin: {}}}]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := config.Parse("the document", "/base", text)
		if err == nil {
			return
		}
		if problem.KindOf(err) != problem.Config {
			t.Errorf("error is of kind %q", problem.KindOf(err))
		}
		if !strings.Contains(err.Error(), "the document") {
			t.Errorf("error does not name the document: %v", err)
		}
	})
}

// FuzzParseSecret puts a secret under a key that secrets go under, in several
// styles, with anything around it: no error quotes it.
func FuzzParseSecret(f *testing.F) {
	const secret = "hunter2hunter2"
	keys := []string{"password", "token", "secret", "passwd", "pass", "apiKey", "auth"}
	styles := []func(key string) string{
		func(key string) string { return key + ": " + secret },
		func(key string) string { return key + ": \"" + secret + "\"" },
		func(key string) string { return key + ": '" + secret },
		func(key string) string { return key + ":\n    " + secret },
		func(key string) string { return key + ": |\n    " + secret },
		func(key string) string { return key + ":\n    - " + secret },
		func(key string) string { return key + ": [" + secret + "]" },
		func(key string) string { return `"` + key + `": "` + secret + `"` },
		func(key string) string { return "- " + key + ": " + secret },
		func(key string) string { return "{" + key + ": " + secret + "}" },
		func(key string) string { return key + ": {env: A, value: " + secret + "}" },
		func(key string) string { return key + ": {env: A}, token: " + secret },
		func(key string) string { return key + ": {secret: " + secret + "}" },
		func(key string) string { return key + ":\n          secret: " + secret },
		func(key string) string { return "? " + key + "\n: " + secret },
	}
	for style := range styles {
		for key := range keys {
			f.Add(byte(style), byte(key), "registries:\n  - host: a.example.com\n    source:\n      static:\n        ", "\n        username: x\n")
		}
		f.Add(byte(style), byte(0), "", "")
		f.Add(byte(style), byte(0), "a: b: ", "\n\t[")
		f.Add(byte(style), byte(1), "registries: [{host: a, source: {static: {username: a, ", "}}}]")
		f.Add(byte(style), byte(0), "registries: [{host: a, source: {static: {username: \"", "}}}]")
	}
	f.Fuzz(func(t *testing.T, style, key byte, before, after string) {
		if strings.Contains(before+after, "hunter2") {
			t.Skip("the secret stands elsewhere too")
		}
		if line, _, _ := strings.Cut(strings.TrimLeft(after, " \t\r\n\"'}]"), "\n"); strings.Contains(line, ":") {
			t.Skip("the secret is part of a key, and unknown keys are named")
		}
		line := styles[int(style)%len(styles)](keys[int(key)%len(keys)])
		_, err := config.Parse("the document", "/base", []byte(before+line+after))
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the secret is quoted:\n%v\nin:\n%s", err, before+line+after)
		}
	})
}
