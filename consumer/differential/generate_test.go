package differential_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

// world is what a client finds around it.
type world struct {
	image string
	// files are by their path in the sandbox. In env, $ROOT stands for the sandbox.
	files map[string]content
	env   map[string]string
	// store is the platform's helper whose program is on PATH.
	store string
	// variables and environment are DOCKER_AUTH_CONFIG of a job of GitLab's and of
	// config.toml; nil if there is none.
	variables, environment *string
	payload                []peer.Payload
	secrets, credentials   map[string]string
	service                bool
	pulls                  []peer.PullSecret
}

func (w world) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "image %s\n", w.image)
	for _, name := range slices.Sorted(maps.Keys(w.files)) {
		fmt.Fprintf(&b, "file %s: %s\n", name, w.files[name])
	}
	for _, name := range slices.Sorted(maps.Keys(w.env)) {
		fmt.Fprintf(&b, "%s=%s\n", name, w.env[name])
	}
	if w.store != "" {
		fmt.Fprintf(&b, "on PATH: docker-credential-%s\n", w.store)
	}
	if w.variables != nil {
		fmt.Fprintf(&b, "job variable: %s\n", *w.variables)
	}
	if w.environment != nil {
		fmt.Fprintf(&b, "config.toml environment: %s\n", *w.environment)
	}
	if w.payload != nil {
		fmt.Fprintf(&b, "job payload: %+v\n", w.payload)
	}
	if w.secrets != nil || w.credentials != nil || w.service {
		fmt.Fprintf(&b, "secrets %v, credentials %v, service %v\n", w.secrets, w.credentials, w.service)
	}
	for _, s := range w.pulls {
		fmt.Fprintf(&b, "pull Secret %s %s:", s.Name, s.Type)
		for _, key := range slices.Sorted(maps.Keys(s.Data)) {
			fmt.Fprintf(&b, " %s: %s", key, s.Data[key])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// draws draws what a world is made of. The first of a choice is the simplest.
type draws struct {
	*rapid.T
	entries int
	// keys are those drawn so far, which are drawn again.
	host, path string
}

func pick[T any](d *draws, label string, from []T) T { return from[d.number(label, len(from))] }

// often is true in k of n cases; rapid makes it false where it can.
func (d *draws) often(label string, k, n int) bool { return d.number(label, n) >= n-k }

// bits are drawn evenly, which rapid's own numbers are not: it prefers small ones.
var bits = rapid.SliceOfN(rapid.Bool(), 10, 10)

// number is from 0 to n-1, each as likely.
func (d *draws) number(label string, n int) int {
	of := 0
	for _, bit := range bits.Draw(d.T, label) {
		of *= 2
		if bit {
			of++
		}
	}
	return of * n >> 10
}

var hosts = []string{
	"reg.example.com", "reg.example.com:5000", "docker.io", "localhost:5000", "localhost", "a.reg.example.com",
	"127.0.0.1:5000", "[2001:db8::1]:5000", "REG.example.com", "index.docker.io", "registry-1.docker.io", "reg.example.com:443", "com",
}

var paths = []string{"app", "team/app", "team/sub/app", "library/ubuntu", "v1/app", "v2/team/app"}

const digest = "@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// draw draws a world for a client.
func draw(t *rapid.T, client string) world {
	d := &draws{T: t}
	d.host, d.path = pick(d, "host", hosts), pick(d, "path", paths)
	w := world{files: map[string]content{}, env: map[string]string{}}
	w.image = d.host + "/" + d.path
	if d.host == "docker.io" || !strings.ContainsAny(d.host, ".:") && d.host != "localhost" {
		d.host = "docker.io"
		w.image = pick(d, "hub", []string{d.path, "docker.io/" + d.path, "ubuntu"})
		if w.image == "ubuntu" {
			d.path = "library/ubuntu"
		}
	}
	w.image += pick(d, "tag", []string{"", ":1.2", digest, ":1.2" + digest})

	likely := places[client]
	if client == "skopeo" {
		likely = places["podman"]
	}
	for _, p := range []string{
		"/home/user/.docker/config.json", "/docker/config.json", "/home/user/.dockercfg", "/auth.json", "/session/containers/auth.json",
		"/home/user/.config/containers/auth.json", "/config/containers/auth.json", fmt.Sprintf("/run/containers/%d/auth.json", userID()),
		"/var/lib/kubelet/config.json", "/var/lib/kubelet/.dockercfg", "/work/config.json", "/work/.dockercfg", "/kaniko/.docker/config.json",
	} {
		k := 1
		if slices.Contains(likely, p) {
			k = 16
		}
		if d.often(p, k, 24) {
			w.files[p] = d.content(p)
		}
	}
	for _, of := range [][2]string{
		{"DOCKER_CONFIG", "$ROOT/docker"}, {"REGISTRY_AUTH_FILE", "$ROOT/auth.json"}, {"XDG_RUNTIME_DIR", "$ROOT/session"}, {"XDG_CONFIG_HOME", "$ROOT/config"},
	} {
		if d.often(of[0], 1, 4) {
			w.env[of[0]] = of[1]
		}
	}
	if d.often("DOCKER_AUTH_CONFIG", 1, 4) {
		w.env["DOCKER_AUTH_CONFIG"] = d.variable()
	}
	w.store = pick(d, "store", []string{"", "", "", secretService, pass})
	if (client == "podman" || client == "skopeo") && d.often("registries.conf", 1, 6) {
		w.files["/etc/containers/registries.conf"] = content{text: d.registries()}
	}
	switch client {
	case "gitlab-runner", "gitlab-runner-kubernetes":
		if d.often("variables", 2, 3) {
			text := d.document(false)
			w.variables = &text
		}
		if d.often("environment", 1, 4) {
			text := d.document(false)
			w.environment = &text
		}
		for range d.number("payload", 3) {
			w.payload = append(w.payload, peer.Payload{
				Type: pick(d, "payload type", []string{"registry", "registry", "registry", "other"}), URL: d.key(), Username: d.name("job"), Password: d.name("password"),
			})
		}
	case "act", "gitea-runner":
		if d.often("secrets", 1, 3) {
			w.secrets = map[string]string{"OTHER": "x"}
			for _, name := range []string{"DOCKER_USERNAME", "DOCKER_PASSWORD"} {
				if d.often(name, 3, 4) {
					w.secrets[name] = d.name(strings.ToLower(name))
				}
			}
		}
		if d.often("credentials", 1, 4) {
			w.credentials = map[string]string{}
			for _, name := range []string{"username", "password", "other"} {
				if d.often(name, 5, 6) == (name != "other") {
					w.credentials[name] = pick(d, name+" value", []string{d.name(name), d.name(name), ""})
				}
			}
		}
		w.service = d.often("service", 1, 4)
	}
	if client == "kubelet" || client == "gitlab-runner-kubernetes" {
		for range d.number("pulls", 4) {
			w.pulls = append(w.pulls, d.pullSecret(len(w.pulls)))
		}
	}
	return w
}

// places are where the clients look.
var places = map[string][]string{
	"docker":                   {"/home/user/.docker/config.json", "/docker/config.json"},
	"docker-28.2":              {"/home/user/.docker/config.json", "/docker/config.json"},
	"buildkit":                 {"/home/user/.docker/config.json", "/docker/config.json"},
	"act":                      {"/home/user/.docker/config.json", "/docker/config.json"},
	"gitea-runner":             {"/home/user/.docker/config.json", "/docker/config.json"},
	"oras":                     {"/home/user/.docker/config.json", "/docker/config.json"},
	"gitlab-runner":            {"/home/user/.docker/config.json", "/home/user/.dockercfg"},
	"gitlab-runner-kubernetes": {"/home/user/.docker/config.json", "/home/user/.dockercfg"},
	"go-containerregistry":     {"/home/user/.docker/config.json", "/docker/config.json", "/auth.json", "/session/containers/auth.json", "/home/user/.config/containers/auth.json", "/config/containers/auth.json"},
	"kaniko":                   {"/home/user/.docker/config.json", "/docker/config.json", "/auth.json", "/session/containers/auth.json", "/kaniko/.docker/config.json"},
	"podman":                   {"/home/user/.docker/config.json", "/docker/config.json", "/auth.json", "/session/containers/auth.json", "/home/user/.config/containers/auth.json", "/config/containers/auth.json", fmt.Sprintf("/run/containers/%d/auth.json", userID()), "/home/user/.dockercfg"},
	"kubelet":                  {"/home/user/.docker/config.json", "/home/user/.dockercfg", "/var/lib/kubelet/config.json", "/var/lib/kubelet/.dockercfg", "/work/config.json", "/work/.dockercfg"},
}

// content draws what is at a path.
func (d *draws) content(at string) content {
	switch {
	case d.often("folder", 1, 30):
		return content{folder: true}
	case d.often("forbidden", 1, 30):
		return content{forbidden: true}
	}
	return content{text: d.document(strings.HasSuffix(at, ".dockercfg"))}
}

// name draws a text that no other place has, so that logins tell where they are from.
func (d *draws) name(of string) string {
	d.entries++
	return fmt.Sprintf("%s-%d", of, d.entries)
}

// quoted is a text in JSON.
func quoted(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// document draws a config.json, or a .dockercfg, which is but its entries.
func (d *draws) document(legacy bool) string {
	if d.often("no document", 1, 16) {
		return pick(d, "none", []string{
			"", " \n", "{}", "null", "[]", `"text"`, "12", "{", `{"auths"`, "not json", "\ufeff{}", `{"auths": {"reg.example.com": {"auth": "`, "{} trailing", "nul",
		})
	}
	entries := make([]string, d.number("entries", 6))
	for i := range entries {
		entries[i] = quoted(d.key()) + ": " + d.entry()
	}
	auths := "{" + strings.Join(entries, ", ") + "}"
	if legacy && !d.often("new form", 1, 10) {
		return auths + d.trailing()
	}
	var fields []string
	add := func(label string, k, n int, name string, value func() string) {
		if d.often(label, k, n) {
			fields = append(fields, quoted(name)+": "+value())
		}
	}
	text := func(t string) func() string { return func() string { return t } }
	name := pick(d, "auths field", []string{"auths", "auths", "auths", "auths", "auths", "auths", "auths", "auths", "Auths", "AUTHS", "auth", "auths "})
	if len(entries) > 0 || d.often("auths", 1, 2) {
		fields = append(fields, quoted(name)+": "+auths)
	}
	add("wrong auths", 1, 40, "auths", func() string {
		return pick(d, "value", []string{"null", "[]", `"x"`, "{}", `{"reg.example.com": "x"}`})
	})
	add("again", 1, 16, "auths", func() string {
		return "{" + quoted(d.key()) + ": " + d.entry() + "}"
	})
	add("credsStore", 1, 8, pick(d, "credsStore field", []string{"credsStore", "credsStore", "credsStore", "credsstore", "credStore"}), func() string {
		return pick(d, "credsStore", append(names(), `""`, "null", "1", `"../bin/full"`))
	})
	add("credHelpers", 1, 5, pick(d, "credHelpers field", []string{"credHelpers", "credHelpers", "credHelpers", "credhelpers", "CredHelpers"}), func() string {
		if d.often("wrong helpers", 1, 20) {
			return pick(d, "helpers", []string{"null", "[]", `{"reg.example.com": 1}`, "{}", `{"reg.example.com": null}`})
		}
		all := make([]string, 1+d.number("helpers", 3))
		for i := range all {
			all[i] = quoted(d.key()) + ": " + pick(d, "helper", append(names(), `""`, `"../bin/full"`))
		}
		return "{" + strings.Join(all, ", ") + "}"
	})
	add("HttpHeaders", 1, 20, pick(d, "headers field", []string{"HttpHeaders", "httpHeaders"}), func() string { return pick(d, "headers", []string{`{"a": "b"}`, "[]", `{"a": 1}`}) })
	add("psFormat", 1, 20, "psFormat", func() string { return pick(d, "psFormat", []string{`"table"`, "1"}) })
	add("proxies", 1, 20, "proxies", func() string { return pick(d, "proxies", []string{`{"default": {"httpProxy": "http://proxy"}}`, "[]"}) })
	add("unknown", 1, 10, "somethingElse", text(`{"a": [1, 2]}`))
	// The order matters where a name is there twice, or a value is wrong.
	if d.often("reversed", 1, 3) {
		slices.Reverse(fields)
	}
	return "{" + strings.Join(fields, ", ") + "}" + d.trailing()
}

func (d *draws) trailing() string {
	if !d.often("trailing", 1, 16) {
		return ""
	}
	return pick(d, "trail", []string{"\n", " ", "x", "}", `{"auths": {}}`, ",", "\x00"})
}

// names are the helpers' names in JSON, and one of a helper that is not there.
func names() []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(helpers)) {
		all = append(all, quoted(name))
	}
	return append(all, `"full"`, `"some"`, `"missing"`)
}

// variable draws a DOCKER_AUTH_CONFIG: one that the docker CLI takes, or nearly so,
// or any document.
func (d *draws) variable() string {
	if d.often("any document", 1, 3) {
		return d.document(false)
	}
	entries := make([]string, 1+d.number("variable entries", 3))
	for i := range entries {
		entries[i] = quoted(d.key()) + `: {"auth": ` + quoted(d.auth(11)) + "}"
	}
	return `{"auths": {` + strings.Join(entries, ", ") + "}}" + d.trailing()
}

// auth draws the value of auth; sound says in how many of 12 cases it is sound.
func (d *draws) auth(sound int) string {
	user, password := d.name("user"), d.name("password")
	encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if !d.often("odd auth", 12-sound, 12) {
		return encoded
	}
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	return pick(d, "auth", []string{
		"", encode(user + ":"), encode(":" + password), encode(":"), encode(user), encode(user + ":" + password + ":more"),
		encode(user + ":" + password + "\x00\x00"), encode(user + ":\x00"), encode("\x00" + user + ":" + password), base64.RawStdEncoding.EncodeToString([]byte(user + ":longer" + password)),
		base64.URLEncoding.EncodeToString([]byte("\xfb\xff:" + password)), encode("\xfb\xff:" + password), encoded[:8] + "\n" + encoded[8:], encoded + "\n", " " + encoded, encoded + "==", "!!!!", "====", "dXNlcg",
	})
}

// entry draws an entry of auths.
func (d *draws) entry() string {
	if d.often("odd entry", 1, 12) {
		return pick(d, "entry", []string{"{}", "null", `"text"`, "[]", `{"auth": null}`, `{"auth": 1}`, `{"username": 1}`, `{"email": "a@b.c"}`, "1", `{"auth": {}}`})
	}
	var fields []string
	add := func(k int, name string, value func() string) {
		if d.often(name, k, 12) {
			fields = append(fields, quoted(name)+": "+quoted(value()))
		}
	}
	of := func(name string) func() string { return func() string { return d.name(name) } }
	if !d.often("no auth", 3, 12) {
		name := pick(d, "auth field", []string{"auth", "auth", "auth", "auth", "auth", "auth", "auth", "Auth", "AUTH"})
		fields = append(fields, quoted(name)+": "+quoted(d.auth(10)))
	}
	few := 1
	if len(fields) == 0 {
		few = 7
	}
	add(few, "username", of("plain-user"))
	add(few, "password", of("plain-password"))
	add(2, "identitytoken", of("identity"))
	add(1, "registrytoken", of("bearer"))
	add(1, "email", of("email"))
	add(1, "serveraddress", of("server"))
	if d.often("auth again", 1, 24) {
		fields = append(fields, `"auth": `+quoted(d.auth(10)))
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// key draws a key: of the image's registry in one of its forms, of Docker Hub, or of
// another registry.
func (d *draws) key() string {
	h, p := d.host, d.path
	if d.often("hub", 1, 5) != (h == "docker.io" && d.often("hub again", 5, 6)) {
		return pick(d, "hub key", []string{
			hubKey, "docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1", "https://index.docker.io", "index.docker.io/v1/",
			"https://docker.io", "https://registry-1.docker.io/v2/", "registry.hub.docker.com", "docker.io/library", "docker.io/" + p, "http://index.docker.io/v1/", "index.docker.io/" + p, "https://index.docker.io/v2/", "Docker.io", "hub.docker.com",
		})
	}
	name, port := h, ""
	if i := strings.LastIndex(h, ":"); i > strings.LastIndex(h, "]") {
		name, port = h[:i], h[i:]
	}
	labels := strings.Split(name, ".")
	glob := func(at int) string {
		l := slices.Clone(labels)
		l[min(at, len(l)-1)] = "*"
		return strings.Join(l, ".") + port
	}
	parent, _, _ := strings.Cut(p, "/")
	bare := strings.Trim(name, "[]")
	return pick(d, "key", []string{
		h, h, h, h, "https://" + h, "https://" + h + "/", "http://" + h, "https://" + h + "/v1/", "https://" + h + "/v2/", h + "/", h + "/v1/", h + "/v1", h + "/v2/", h + "/v2",
		h + "/" + p, h + "/" + parent, h + "/" + p + "/", "https://" + h + "/" + p, h + "/" + p + ":1.2", h + "/" + p[:len(p)-1], h + "/v2/" + p, "http://" + h + "/" + parent,
		name, name + ":443", name + ":80", name + ":5000", "https://" + name + ":443", "https://" + name + ":443/v1/", "https://" + name,
		strings.ToUpper(h), strings.ToLower(h), "https://" + strings.ToUpper(h) + "/v1/", h + ".", name + "." + port, "." + h, " " + h, h + " ",
		glob(0), glob(1), glob(2), "*." + h, "*", "*" + port, "https://" + glob(0), "https://" + glob(0) + "/" + parent, "reg.[a-z]*.com" + port, "reg.[.com", "r?g.example.com" + port,
		h + "?q", h + "#f", "user@" + h, "https://user:pw@" + h, "ftp://" + h, "//" + h, "HTTPS://" + h, "https://https://" + h, "http://https://" + h, "https:" + h, "://" + h, "https://", "", "/", "%zz", h + "%zz", "https://%zz/" + h,
		bare, bare + port, "https://" + bare + port + "/v1/", "https://[" + bare + "]" + port, "http://" + bare + ":", h + ":", "https://" + h + ":x",
		"other.example.com", "reg.example.com", "reg.example.com:5000", "https://reg.example.com", "localhost", "localhost:5000", "team/app", "library",
	})
}

// registries draws a registries.conf.
func (d *draws) registries() string {
	if d.often("broken", 1, 8) {
		return pick(d, "registries", []string{"", "not toml", "credential-helpers = 1", "unqualified-search-registries = [\"docker.io\"]"})
	}
	all := make([]string, d.number("credential-helpers", 4))
	for i := range all {
		all[i] = pick(d, "credential-helper", append(names(), `"containers-auth.json"`, `"containers-auth.json"`, `"containers-auth.json"`, `"containers-auth.json"`))
	}
	return "credential-helpers = [" + strings.Join(all, ", ") + "]\n"
}

// pullSecret draws a pull Secret of a pod.
func (d *draws) pullSecret(number int) peer.PullSecret {
	s := peer.PullSecret{
		Name: fmt.Sprintf("pull-%d", number), Data: map[string][]byte{},
		Type: pick(d, "secret type", []string{"kubernetes.io/dockerconfigjson", "kubernetes.io/dockerconfigjson", "kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg", "Opaque"}),
	}
	if d.often(".dockerconfigjson", 9, 10) {
		s.Data[".dockerconfigjson"] = []byte(d.document(false))
	}
	if s.Type != "kubernetes.io/dockerconfigjson" || d.often(".dockercfg", 1, 10) {
		s.Data[".dockercfg"] = []byte(d.document(true))
	}
	return s
}
