package helper_test

import (
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/helper"
)

func TestParseServer(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]credential.Host{
		"https://index.docker.io/v1/":               "docker.io",
		"https://index.docker.io/v1":                "docker.io",
		"https://index.docker.io/v2/":               "docker.io",
		"index.docker.io":                           "docker.io",
		"docker.io":                                 "docker.io",
		"docker.io/library/busybox":                 "docker.io",
		"registry-1.docker.io":                      "docker.io",
		"h.example.com":                             "h.example.com",
		"  h.example.com\n":                         "h.example.com",
		"H.Example.COM":                             "h.example.com",
		"h.example.com:5000":                        "h.example.com:5000",
		"h.example.com:443":                         "h.example.com:443",
		"https://h.example.com":                     "h.example.com",
		"HTTPS://h.example.com/":                    "h.example.com",
		"http://h.example.com:80/v2/":               "h.example.com:80",
		"https://h.example.com/v1/":                 "h.example.com",
		"h.example.com/v2":                          "h.example.com",
		"https://h.example.com/v2/team/app/tags":    "h.example.com",
		"h.example.com/team/app":                    "h.example.com",
		"[::1]:5000":                                "[::1]:5000",
		"localhost":                                 "localhost",
		"https://h.example.com/v1/access-token":     "h.example.com",
		"https://index.docker.io/v1/access-token":   "",
		"https://index.docker.io/v1/refresh-token/": "",
		"":                                       "",
		"https://":                               "",
		"https:///v1/":                           "",
		"https://https://h.example.com":          "",
		"user@h.example.com":                     "",
		"https://h.example.com@evil.example.org": "",
		"https://h.example.com#.evil.example.org":      "",
		"https://h.example.com?x=.evil.example.org":    "",
		`https://h.example.com\evil.example.org`:       "",
		"https://evil.example.org\\@h.example.com":     "",
		"h.example.com:0":                              "",
		"h.example.com:99999":                          "",
		"h.example.com evil.example.org":               "",
		"ftp://h.example.com":                          "",
		"<token>":                                      "",
		"h\u2024example.com":                           "",
		"\u212aeeper.example.com" /* a Kelvin sign */ : "",
	} {
		host, ok := helper.ParseServer(text)
		if host != want || ok != (want != "") {
			t.Errorf("%q is %q, %v; want %q", text, host, ok, want)
		}
	}
}

// A host that is found is one of regkeeper's own form, stands in the URL before any
// path, and is found again in each form that clients send.
func FuzzParseServer(f *testing.F) {
	for _, text := range []string{"https://index.docker.io/v1/", "h:5000", "http://[::1]:5/v2/", "h@e", "https://a//b", "HTTPS://A/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, ok := helper.ParseServer(text)
		if !ok {
			if host != "" {
				t.Fatalf("%q is none, and %q", text, host)
			}
			return
		}
		if again, err := credential.ParseHost(string(host)); err != nil || again != host {
			t.Fatalf("%q is %q, which is %q, %v", text, host, again, err)
		}
		if host != credential.DockerHub && !strings.Contains(strings.ToLower(text), string(host)) {
			t.Fatalf("%q is %q", text, host)
		}
		for _, form := range []string{"", "https://", "http://"} {
			for _, path := range []string{"", "/", "/v1/", "/v2/", "/team/app"} {
				if again, ok := helper.ParseServer(form + string(host) + path); !ok || again != host {
					t.Fatalf("%q is %q, %v", form+string(host)+path, again, ok)
				}
			}
		}
		if again, ok := helper.ParseServer(host.Key()); !ok || again != host {
			t.Fatalf("the key %q is %q, %v", host.Key(), again, ok)
		}
	})
}
