package credential_test

import (
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

func TestParseHost(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"gitea.example.com", "gitea.example.com"},
		{"Gitea.Example.COM", "gitea.example.com"},
		{" gitea.example.com\n", "gitea.example.com"},
		{"https://gitea.example.com", "gitea.example.com"},
		{"http://gitea.example.com/", "gitea.example.com"},
		{"HTTPS://gitea.example.com/v2/", "gitea.example.com"},
		{"https://gitea.example.com/v1/", "gitea.example.com"},
		{"gitea.example.com/v2", "gitea.example.com"},
		{"gitea.example.com:5000", "gitea.example.com:5000"},
		{"gitea.example.com:443", "gitea.example.com:443"},
		{"https://gitea.example.com:443/v2/", "gitea.example.com:443"},
		{"localhost", "localhost"},
		{"localhost:5000", "localhost:5000"},
		{"registry_1:5000", "registry_1:5000"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"10.0.0.1", "10.0.0.1"},
		{"10.0.0.1:65535", "10.0.0.1:65535"},
		{"[::1]", "[::1]"},
		{"[::1]:5000", "[::1]:5000"},
		{"https://[2001:DB8::1]:5000/v2/", "[2001:db8::1]:5000"},

		{"docker.io", "docker.io"},
		{"Docker.io", "docker.io"},
		{"index.docker.io", "docker.io"},
		{"https://index.docker.io/v1/", "docker.io"},
		{"https://index.docker.io/v1", "docker.io"},
		{"registry-1.docker.io", "docker.io"},
		{"https://registry-1.docker.io/v2/", "docker.io"},
		{"registry.hub.docker.com", "docker.io"},
		// Another port is another registry to every client.
		{"docker.io:443", "docker.io:443"},
		{"mirror.docker.io", "mirror.docker.io"},
		{"evil-docker.io", "evil-docker.io"},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := credential.ParseHost(c.text)
			if err != nil || string(got) != c.want {
				t.Errorf("ParseHost(%q) is %q, %v; want %q", c.text, got, err, c.want)
			}
		})
	}
}

func TestParseHostRefuses(t *testing.T) {
	for _, text := range []string{
		"", " ", "/", "https://", "https:///", "http:///v2/", "/v2", ":5000", "[]", "[]:5000",
		"gitea.example.com/admin", "gitea.example.com/v2/admin", "gitea.example.com//", "gitea.example.com/v2/x/",
		"gitea.example.com:", "gitea.example.com:0", "gitea.example.com:65536", "gitea.example.com:http", "gitea.example.com:-1",
		"gitea.example.com:+1", "a:b:c", "a:1:2", "::1", "::1:5000", "[::1", "::1]", "[::1]5000", "[::1]:", "[::1]:x", "[::1]]", "[[::1]]",
		"[gitea.example.com]", "[10.0.0.1]", "[g::1]", "x[::1]", "a]", "a]:5000", "a[b",
		"gitea example.com", "gitea.example.com?x", "gitea.example.com#x", "*.example.com", "gitea\\example", "gitea\x00.example",
		"gitea\t.example", "gitea,example", "gitea\"example", "gitea%2eexample", "a&b", "a=b", "a;b", "<a>", "a'b", "$HOME", "${HOST}", "~",
		"ftp://gitea.example.com", "oci://gitea.example.com", "https://https://a", "user@gitea.example.com",
		"bücher.example", "doc\u212aer.io", "d\u043ecker.io", "gitea\u2024example", "\xff", "gitea\u200b.example",
	} {
		t.Run(text, func(t *testing.T) {
			got, err := credential.ParseHost(text)
			if err == nil || got != "" {
				t.Fatalf("ParseHost(%q) is %q, want an error", text, got)
			}
			if problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
				t.Errorf("error %v has kind %s and hint %q", err, problem.KindOf(err), problem.HintOf(err))
			}
		})
	}
}

func TestParseHostKeepsPasswordsToItself(t *testing.T) {
	for _, text := range []string{
		"https://ci-bot:hunter2@gitea.example.com", "hunter2@gitea.example.com", "https://u:hunter2@gitea.example.com/x@y",
		"u:hunter2@é", "https://hunter2:@:",
	} {
		_, err := credential.ParseHost(text)
		if err == nil {
			t.Fatalf("%q is accepted", text)
		}
		if strings.Contains(err.Error()+problem.HintOf(err), "hunter2") {
			t.Errorf("error quotes the password: %v", err)
		}
	}
}

func TestHost(t *testing.T) {
	for _, c := range []struct {
		host     credential.Host
		key, api string
		loopback bool
	}{
		{credential.DockerHub, "https://index.docker.io/v1/", "registry-1.docker.io", false},
		{"gitea.example.com:5000", "gitea.example.com:5000", "gitea.example.com:5000", false},
		{"localhost", "localhost", "localhost", true},
		{"localhost:5000", "localhost:5000", "localhost:5000", true},
		{"registry.localhost", "registry.localhost", "registry.localhost", true},
		{"127.0.0.1:5000", "127.0.0.1:5000", "127.0.0.1:5000", true},
		{"127.8.9.10", "127.8.9.10", "127.8.9.10", true},
		{"[::1]:5000", "[::1]:5000", "[::1]:5000", true},
		{"[::1]", "[::1]", "[::1]", true},
		{"[2001:db8::1]", "[2001:db8::1]", "[2001:db8::1]", false},
		{"localhost.example", "localhost.example", "localhost.example", false},
		{"notlocalhost", "notlocalhost", "notlocalhost", false},
		{"10.0.0.1", "10.0.0.1", "10.0.0.1", false},
	} {
		if got := c.host.Key(); got != c.key {
			t.Errorf("%s: key %q, want %q", c.host, got, c.key)
		}
		if got := c.host.API(); got != c.api {
			t.Errorf("%s: API %q, want %q", c.host, got, c.api)
		}
		if got := c.host.Loopback(); got != c.loopback {
			t.Errorf("%s: loopback %v, want %v", c.host, got, c.loopback)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, text := range []string{"a", "A:1", "https://index.docker.io/v1/", "[::1]:5000", "http://http://a", "a/v1/v2", "a/v2/v1/", "a]", "\u212a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, err := credential.ParseHost(text)
		if err != nil {
			if problem.KindOf(err) != problem.Config {
				t.Fatalf("ParseHost(%q): kind %s", text, problem.KindOf(err))
			}
			return
		}
		for _, spelling := range []string{
			string(host), host.Key(), host.API(), "https://" + string(host), "http://" + string(host) + "/", "https://" + string(host) + "/v2/",
			string(host) + "/v1", strings.ToUpper(string(host)), " " + string(host) + " ",
		} {
			if again, err := credential.ParseHost(spelling); err != nil || again != host {
				t.Fatalf("ParseHost(%q) is %q, and of %q %q, %v", text, host, spelling, again, err)
			}
		}
		if host == "" || strings.ToLower(string(host)) != string(host) || strings.ContainsAny(string(host), "/@ \x00\"'\n\\") {
			t.Fatalf("ParseHost(%q) is %q", text, host)
		}
		host.Loopback()
	})
}
