package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/webhook"
)

const (
	secret = "hunter2-of-the-webhook"
	sum    = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

func receiver(t testing.TB, kind webhook.Kind) *webhook.Receiver {
	t.Helper()
	r, err := webhook.New(webhook.Config{Kind: kind, Secret: credential.NewSecret(secret)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// message is one as the kind sends it.
func message(kind webhook.Kind, body string) *http.Request {
	req := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(body))
	if kind != webhook.Gitea {
		req.Header.Set("Authorization", secret)
		return req
	}
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, body)
	req.Header.Set("X-Gitea-Event", "package")
	req.Header.Set("X-Gitea-Signature", hex.EncodeToString(mac.Sum(nil)))
	return req
}

func gitea(action, kind, version string) string {
	return fmt.Sprintf(`{"action":%q,"repository":null,"package":{"id":7,"owner":{"id":1,"login":"Admin","username":"Admin"},`+
		`"creator":{"login":"ci"},"type":%q,"name":"team/api","version":%q,"html_url":"https://gitea.example.com/x"},"sender":{"login":"ci"}}`, action, kind, version)
}

func harbor(kind, data string) string {
	return fmt.Sprintf(`{"type":%q,"occur_at":1700000000,"operator":"admin",%q:{"resources":[{"digest":%q,"tag":"v1","resource_url":"harbor.example.com/p/api:v1"},`+
		`{"digest":%q,"tag":%q}],"repository":{"name":"api","namespace":"p","repo_full_name":"p/api","repo_type":"private"}}}`, kind, data, sum, sum, sum)
}

func distribution(events ...string) string { return `{"events":[` + strings.Join(events, ",") + `]}` }

func event(action, mediaType, tag string) string {
	return fmt.Sprintf(`{"id":"1","timestamp":"2026-01-01T00:00:00Z","action":%q,"target":{"mediaType":%q,"size":1,"digest":%q,"length":1,"repository":"team/api","url":"http://x","tag":%q},"request":{"id":"2"},"actor":{},"source":{}}`, action, mediaType, sum, tag)
}

func TestChanges(t *testing.T) {
	const manifest = "application/vnd.oci.image.manifest.v1+json"
	for name, c := range map[string]struct {
		kind webhook.Kind
		body string
		want []webhook.Change
	}{
		"gitea tag":       {webhook.Gitea, gitea("created", "container", "v1"), []webhook.Change{{Repository: "admin/team/api", Tag: "v1", Action: webhook.Pushed}}},
		"gitea digest":    {webhook.Gitea, gitea("deleted", "container", sum), []webhook.Change{{Repository: "admin/team/api", Digest: sum, Action: webhook.Deleted}}},
		"gitea other":     {webhook.Gitea, gitea("created", "generic", "v1"), nil},
		"gitea unknown":   {webhook.Gitea, gitea("renamed", "container", "v1"), nil},
		"harbor push":     {webhook.Harbor, harbor("PUSH_ARTIFACT", "event_data"), []webhook.Change{{"p/api", "v1", sum, webhook.Pushed}, {"p/api", "", sum, webhook.Pushed}}},
		"harbor delete":   {webhook.Harbor, harbor("DELETE_ARTIFACT", "event_data"), []webhook.Change{{"p/api", "v1", sum, webhook.Deleted}, {"p/api", "", sum, webhook.Deleted}}},
		"harbor cloud":    {webhook.Harbor, harbor("harbor.artifact.pushed", "data"), []webhook.Change{{"p/api", "v1", sum, webhook.Pushed}, {"p/api", "", sum, webhook.Pushed}}},
		"harbor scan":     {webhook.Harbor, harbor("SCANNING_COMPLETED", "event_data"), nil},
		"distribution":    {webhook.Distribution, distribution(event("push", "application/octet-stream", ""), event("push", manifest, "v1"), event("push", manifest, "v1"), event("pull", manifest, "v1"), event("delete", "", "")), []webhook.Change{{"team/api", "v1", sum, webhook.Pushed}, {"team/api", "", sum, webhook.Deleted}}},
		"distribution no": {webhook.Distribution, distribution(), nil},
	} {
		got, err := receiver(t, c.kind).Changes(httptest.NewRecorder(), message(c.kind, c.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	push := message(webhook.Gitea, gitea("created", "container", "v1"))
	push.Header.Set("X-Gitea-Event", "push")
	if got, err := receiver(t, webhook.Gitea).Changes(httptest.NewRecorder(), push); err != nil || got != nil {
		t.Errorf("another event is %v, %v", got, err)
	}
}

func TestChangesAreRefused(t *testing.T) {
	kinds := []webhook.Kind{webhook.Gitea, webhook.Harbor, webhook.Distribution}
	check := func(name string, kind webhook.Kind, req *http.Request, want problem.Kind) {
		t.Helper()
		got, err := receiver(t, kind).Changes(httptest.NewRecorder(), req)
		if problem.KindOf(err) != want || problem.HintOf(err) == "" || got != nil {
			t.Errorf("%s of %s: %v, %v, want %s", name, kind, got, err, want)
		}
		if strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%s of %s: the error tells a secret: %v", name, kind, err)
		}
	}
	for _, kind := range kinds {
		for _, wrong := range []string{"", secret + "x", secret[1:], "Bearer " + secret, strings.Repeat("00", 32), "zz"} {
			req := message(kind, `{}`)
			for _, header := range []string{"Authorization", "X-Gitea-Signature"} {
				req.Header.Set(header, wrong)
			}
			check("wrong secret", kind, req, problem.Denied)
		}
		check("no JSON", kind, message(kind, `{"hunter2`), problem.Usage)
		check("long", kind, message(kind, strings.Repeat(" ", webhook.MaxBody+1)), problem.Usage)
		get := message(kind, `{}`)
		get.Method = http.MethodGet
		check("GET", kind, get, problem.Usage)
	}
	other := message(webhook.Gitea, gitea("created", "container", "v1"))
	other.Body = io.NopCloser(strings.NewReader(gitea("created", "container", "v2")))
	check("another body", webhook.Gitea, other, problem.Denied)
	for name, body := range map[string]string{
		"repository": strings.ReplaceAll(distribution(event("push", "x", "v1")), "team/api", "../api"),
		"long name":  strings.ReplaceAll(distribution(event("push", "x", "v1")), "team/api", strings.Repeat("a", 256)),
		"tag":        distribution(event("push", "x", "a b")),
		"digest":     strings.ReplaceAll(distribution(event("push", "x", "v1")), sum, "sha256:1"),
		"nothing":    strings.ReplaceAll(distribution(event("push", "x", "")), sum, ""),
	} {
		check(name, webhook.Distribution, message(webhook.Distribution, body), problem.Usage)
	}
	var many []string
	for i := range 1001 {
		many = append(many, event("push", "x", fmt.Sprint("v", i)))
	}
	check("many", webhook.Distribution, message(webhook.Distribution, distribution(many...)), problem.Usage)
}

func TestNewChecksConfig(t *testing.T) {
	for name, config := range map[string]webhook.Config{
		"kind":   {Kind: "quay", Secret: credential.NewSecret(secret)},
		"secret": {Kind: webhook.Gitea, Secret: credential.NewSecret("")},
		"none":   {Kind: webhook.Harbor},
	} {
		if _, err := webhook.New(config); problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
			t.Errorf("%s: New = %v", name, err)
		}
	}
}

// What comes of any message can be asked for at a registry.
func FuzzChanges(f *testing.F) {
	f.Add(gitea("created", "container", "v1"))
	f.Add(harbor("PUSH_ARTIFACT", "event_data"))
	f.Add(harbor("harbor.artifact.deleted", "data"))
	f.Add(distribution(event("push", "x", "v1"), event("delete", "", "")))
	f.Add(`{"events":null,"type":"PUSH_ARTIFACT"}`)
	f.Fuzz(func(t *testing.T, body string) {
		for _, kind := range []webhook.Kind{webhook.Gitea, webhook.Harbor, webhook.Distribution} {
			changes, err := receiver(t, kind).Changes(httptest.NewRecorder(), message(kind, body))
			if err != nil && problem.KindOf(err) != problem.Usage {
				t.Errorf("%s: error of kind %s", kind, problem.KindOf(err))
			}
			for _, c := range changes {
				if c.Repository == "" || strings.Contains(c.Repository, "..") || strings.ContainsAny(c.Repository+c.Tag, " \n?#%") ||
					c.Tag == "" && c.Digest == "" || c.Digest != "" && c.Digest.Validate() != nil || c.Action != webhook.Pushed && c.Action != webhook.Deleted {
					t.Errorf("%s: %+v", kind, c)
				}
			}
		}
	})
}
