package kubelet_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	credentialprovider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/kubelet"
	"github.com/regkeeper/regkeeper/problem"
)

// token is a JWT of a pod. Nobody can check its signature.
func token(payload string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"RS256","kid":"x","typ":"JWT"}`)) + "." + part([]byte(payload)) + "." + part([]byte("s3cret"))
}

func podToken(namespace, account string) string {
	return token(fmt.Sprintf(`{"aud":["regkeeper"],"exp":1,"kubernetes.io":{"namespace":%q,"pod":{"name":"p","uid":"u"},"serviceaccount":{"name":%q,"uid":"u"}},"sub":"x"}`, namespace, account))
}

// TestMatch has the cases of the kubelet's own test of URLsMatch
// (pkg/credentialprovider/keyring_test.go).
func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, image string
		want           bool
	}{
		{"*.kubernetes.io", "prefix.kubernetes.io", true},
		{"prefix.*.io", "prefix.kubernetes.io", true},
		{"prefix.kubernetes.*", "prefix.kubernetes.io", true},
		{"*-good.kubernetes.io", "prefix-good.kubernetes.io", true},
		{"*.kubernetes.io/blah", "prefix.kubernetes.io/blah", true},
		{"*.kubernetes.io/blah", "prefix.kubernetes.io/blah/more", true},
		{"prefix.*.io/foo", "prefix.kubernetes.io/foo/bar", true},
		{"*.kubernetes.io:1111/blah", "prefix.kubernetes.io:1111/blah", true},
		{"prefix.*.io:1111/foo", "prefix.kubernetes.io:1111/foo/bar", true},
		{"kubernetes.io", "kubernetes.com", false},
		{"k*", "kubernetes.io", false},
		{"*.kubernetes.io", "kubernetes.io", false},
		{"*.*.kubernetes.io", "prefix.kubernetes.io", false},
		{"*kubernetes.io", "a.b.kubernetes.io", false},
		{"*.kubernetes.io/foo", "prefix.kubernetes.io/blah", false},
		{"*.kubernetes.io:1111", "prefix.kubernetes.io:2222", false},
		{"*.kubernetes.io:1111", "prefix.kubernetes.io", false},
		{"*.kubernetes.io", "prefix.kubernetes.io:1111/x", false},
		{"h/team", "h/teams/app", true},
		{"[", "h", false},
		{"h", "[", false},
		{"h.%zz", "h.x", false},
		{"[a.h", "a.h", false},
	} {
		if got := consumer.KubeletMatches(c.pattern, c.image); got != c.want {
			t.Errorf("%q and %q: %v, want %v", c.pattern, c.image, got, c.want)
		}
	}
}

func TestAnswer(t *testing.T) {
	pair := func(word string) string { return base64.StdEncoding.EncodeToString([]byte(word + ":" + word)) }
	document := func(auths ...string) string {
		var entries []string
		for i := 0; i < len(auths); i += 2 {
			entries = append(entries, fmt.Sprintf("%q: {%q: %q}", auths[i], "auth", pair(auths[i+1])))
		}
		return `{"auths": {` + strings.Join(entries, ",") + "}}"
	}
	type want struct {
		auth  map[string]string
		cache credentialprovider.PluginCacheKeyType
	}
	for _, c := range []struct {
		name, text, image string
		want              want
	}{
		{"host", document("h.example", "a", "x.example", "b"), "h.example/team/app", want{map[string]string{"h.example": "a"}, "Registry"}},
		{"port", document("h:5000", "a", "h", "b"), "h:5000/app", want{map[string]string{"h:5000": "a"}, "Registry"}},
		{"other port", document("h:5000", "a"), "h:5001/app", want{nil, "Registry"}},
		{"scheme and version", document("https://h.example/v2/", "a"), "h.example/app", want{map[string]string{"h.example": "a"}, "Registry"}},
		{"two spellings", document("https://h.example", "a", "h.example", "b", "http://h.example/v1/", "c"), "h.example/app", want{map[string]string{"h.example": "b"}, "Registry"}},
		{"paths", document("h.example", "a", "h.example/team", "b", "h.example/other", "c"), "h.example/team/app", want{map[string]string{"h.example": "a", "h.example/team": "b"}, "Image"}},
		{"path of another image", document("h.example/team", "b"), "h.example/app", want{nil, "Image"}},
		{"pattern", document("*.example", "a", "h.*", "b", "*.other", "c"), "h.example/app", want{map[string]string{"*.example": "a", "h.*": "b"}, "Registry"}},
		{"pattern with a path", document("*.example/x", "a"), "h.example/app", want{nil, "Image"}},
		{"Docker Hub", document("https://index.docker.io/v1/", "a", "h", "b"), "docker.io/library/nginx", want{map[string]string{"docker.io": "a"}, "Registry"}},
		{"Docker Hub, two keys", document("https://index.docker.io/v1/", "a", "docker.io", "b"), "docker.io/library/nginx", want{map[string]string{"docker.io": "b"}, "Registry"}},
		{"Docker Hub, other name", document("https://index.docker.io/v1/", "a"), "index.docker.io/library/nginx", want{map[string]string{"index.docker.io": "a"}, "Registry"}},
		{"Docker Hub, short", document("https://index.docker.io/v1/", "a"), "library/nginx", want{map[string]string{"index.docker.io": "a"}, "Registry"}},
		{"no login", `{"auths": {"h": {"identitytoken": "x"}, "i": {}}}`, "h/app", want{nil, "Registry"}},
		{"broken key", document("h %zz", "a", "", "b", "h", "c"), "h/app", want{map[string]string{"h": "c"}, "Registry"}},
		{"nothing", "", "h/app", want{nil, "Registry"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc, err := dockerconfig.Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			text, err := kubelet.Answer(kubelet.Request{Image: c.image}, nil, doc, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			got := parseAnswer(t, text)
			if diff := cmp.Diff(c.want.auth, got.auth); diff != "" {
				t.Errorf("logins (-want +got):\n%s", diff)
			}
			if got.cacheKey != c.want.cache {
				t.Errorf("cached for the %s, want %s", got.cacheKey, c.want.cache)
			}
			cache := time.Minute
			if len(c.want.auth) == 0 {
				cache = 0
			}
			if got.cache != cache {
				t.Errorf("cached for %s, want %s", got.cache, cache)
			}
			// What is answered, the kubelet takes for the image.
			for key := range got.auth {
				if !consumer.KubeletMatches(key, c.image) && (key != "index.docker.io" || c.image != "library/nginx") {
					t.Errorf("%s does not match %s", key, c.image)
				}
			}
		})
	}
}

type answer struct {
	auth     map[string]string
	cacheKey credentialprovider.PluginCacheKeyType
	cache    time.Duration
}

func parseAnswer(t *testing.T, text []byte) answer {
	t.Helper()
	var response credentialprovider.CredentialProviderResponse
	if err := json.Unmarshal(text, &response); err != nil {
		t.Fatal(err)
	}
	if response.APIVersion != "credentialprovider.kubelet.k8s.io/v1" || response.Kind != "CredentialProviderResponse" || response.CacheDuration == nil {
		t.Errorf("answer is %s", text)
	}
	got := answer{cacheKey: response.CacheKeyType, cache: response.CacheDuration.Duration}
	for key, login := range response.Auth {
		if got.auth == nil {
			got.auth = map[string]string{}
		}
		got.auth[key] = login.Username
		if login.Username != login.Password {
			t.Errorf("login of %s is %s, %s", key, login.Username, login.Password)
		}
	}
	return got
}

func request(image, token string, annotations map[string]string) []byte {
	text, _ := json.Marshal(map[string]any{
		"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest", "image": image,
		"serviceAccountToken": token, "serviceAccountAnnotations": annotations,
	})
	return text
}

func TestWhoGetsLogins(t *testing.T) {
	doc, err := dockerconfig.Parse([]byte(`{"auths": {"h": {"auth": "YTph"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	excluded := map[string]string{kubelet.Exclude: "true"}
	for _, c := range []struct {
		name        string
		token       string
		annotations map[string]string
		allow       kubelet.Allow
		want        bool
	}{
		{"no token", "", nil, nil, true},
		{"token", podToken("team-a", "default"), nil, nil, true},
		{"excluded", podToken("team-a", "default"), excluded, nil, false},
		{"excluded without a token", "", excluded, nil, false},
		{"not excluded", podToken("team-a", "default"), map[string]string{kubelet.Exclude: "false"}, nil, true},
		{"allowed", podToken("team-a", "default"), nil, kubelet.Allow{"x/y", "team-*/default"}, true},
		{"allowed and excluded", podToken("team-a", "default"), excluded, kubelet.Allow{"*/*"}, false},
		{"other account", podToken("team-a", "robot"), nil, kubelet.Allow{"team-*/default"}, false},
		{"other namespace", podToken("kube-system", "default"), nil, kubelet.Allow{"team-*/default"}, false},
		{"allowed, and no token", "", nil, kubelet.Allow{"*/*"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := kubelet.ParseRequest(request("h/app", c.token, c.annotations))
			if err != nil {
				t.Fatal(err)
			}
			text, err := kubelet.Answer(r, c.allow, doc, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(parseAnswer(t, text).auth) > 0; got != c.want {
				t.Errorf("gets a login: %v, want %v", got, c.want)
			}
		})
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	good := string(request("h", "", nil))
	for _, c := range []struct{ name, text, says string }{
		{"nothing", " \n", "no request"},
		{"garbage", "s3cret", "no JSON object"},
		{"cut", good[:20], "no JSON object"},
		{"more behind", good + "s3cret", "no JSON object"},
		{"list", "[]", "no JSON object"},
		{"null", "null", "no CredentialProviderRequest"},
		{"other kind", strings.Replace(good, "CredentialProviderRequest", "s3cret", 1), "no CredentialProviderRequest"},
		{"other version", strings.Replace(good, "k8s.io/v1", "k8s.io/v1beta1", 1), "not of the API version credentialprovider.kubelet.k8s.io/v1"},
		{"no image", strings.Replace(good, `"h"`, `""`, 1), "no image"},
		{"image is a number", strings.Replace(good, `"h"`, `5`, 1), "no CredentialProviderRequest"},
		{"large", good + strings.Repeat(" ", kubelet.MaxRequest), "larger than"},
		{"token is none", string(request("h", "s3cret", nil)), "no JWT"},
		{"token without claims", string(request("h", token(`{}`), nil)), "does not name"},
		{"token of a user", string(request("h", podToken("ns", ""), nil)), "does not name"},
		{"token with a list", string(request("h", token(`{"kubernetes.io":[]}`), nil)), "no JWT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := kubelet.ParseRequest([]byte(c.text))
			if problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v of kind %s", err, problem.KindOf(err))
			}
			if err != nil && strings.Contains(err.Error()+problem.HintOf(err), "s3cret") {
				t.Errorf("the error quotes the request: %v", err)
			}
		})
	}
}

func TestAllowIsChecked(t *testing.T) {
	for pattern, ok := range map[string]bool{"a/b": true, "*/*": true, "team-?/[a-z]*": true, "a": false, "a/b/c": false, "[/b": false, "": false} {
		if err := (kubelet.Allow{pattern}).Check(); (err == nil) != ok || !ok && (problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "") {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}

// FuzzParseRequest feeds ParseRequest with anything: it never panics, and its
// errors are of one kind and quote nothing.
func FuzzParseRequest(f *testing.F) {
	f.Add(request("h/app", podToken("ns", "default"), map[string]string{"a": "b"}))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := kubelet.ParseRequest(text)
		if err != nil && problem.KindOf(err) != problem.Usage {
			t.Errorf("error is %v of kind %s", err, problem.KindOf(err))
		}
		if err == nil && r.Image == "" {
			t.Error("a request without an image is taken")
		}
	})
}
