package trial_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/recorded"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/trial"
)

const secret = "s3cret-of-the-bot/+="

func bot() consumer.Login {
	return consumer.Login{Username: "bot", Password: credential.NewSecret(secret)}
}

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// direct is a Trier that no proxy of the environment gets in the way of.
func direct() *trial.Trier { return trial.New(trial.Config{Proxy: noProxy}) }

func try(t *testing.T, trier *trial.Trier, q trial.Question) trial.Answer {
	t.Helper()
	answer, err := trier.Try(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// brief is an answer in short: its stages with status or fault.
func brief(a trial.Answer) (steps []string) {
	for _, s := range a.Steps {
		switch {
		case s.Fault != nil:
			steps = append(steps, fmt.Sprintf("%s: %s", s.Stage, s.Fault.Kind))
		case s.Status != 0:
			steps = append(steps, fmt.Sprintf("%s: %d %s", s.Stage, s.Status, s.As))
		}
	}
	// A registry on loopback is asked by TLS first.
	if len(steps) > 1 && steps[0] == "tls: plain-http-spoken" {
		return steps[1:]
	}
	return steps
}

func TestWhatIsAsked(t *testing.T) {
	t.Parallel()
	noRight := recorded.Harbor()
	noRight.Manifest, noRight.Grants = recorded.HarborDenied, []string{}
	wrongPAT, noScope, noTag := recorded.Gitea(), recorded.Gitea(), recorded.Gitea()
	wrongPAT.Token, wrongPAT.Known = recorded.GiteaAsks, recorded.GiteaAsks
	noScope.Token = recorded.GiteaAsks
	noTag.Manifest = recorded.GiteaNoManifest
	limited := recorded.Hub()
	limited.Manifest = recorded.HubLimited
	openRoot := recorded.Hub()
	openRoot.Root, openRoot.NobodyManifest = recorded.GiteaKnows, recorded.HubDenied
	login := bot()
	identity := consumer.Login{IdentityToken: credential.NewSecret(secret)}
	registry := consumer.Login{RegistryToken: credential.NewSecret(secret)}
	for _, c := range []struct {
		name           string
		recording      recorded.Recording
		login          consumer.Login
		steps, request []string
		pulls, refused bool
	}{
		{
			"bearer", recorded.Gitea(), login,
			[]string{"root: 401 nobody", "token: 200 basic", "manifest: 200 bearer"},
			[]string{"GET /v2/  nobody", "GET /v2/token basic login", "HEAD /v2/team/app/manifests/v1 bearer login"}, true, false,
		},
		{
			"basic", recorded.Distribution(), login,
			[]string{"root: 401 nobody", "manifest: 200 basic"},
			[]string{"GET /v2/  nobody", "HEAD /v2/team/app/manifests/v1 basic login"}, true, false,
		},
		{
			"nobody, bearer", recorded.Hub(), consumer.Login{},
			[]string{"root: 401 nobody", "token: 200 nobody", "manifest: 200 bearer"},
			[]string{"GET /v2/  nobody", "GET /token  nobody", "HEAD /v2/team/app/manifests/v1 bearer nobody"}, true, false,
		},
		{
			"nobody, basic", recorded.Distribution(), consumer.Login{},
			[]string{"root: 401 nobody", "manifest: 401 nobody", "reason: 401 nobody"},
			[]string{"GET /v2/  nobody", "HEAD /v2/team/app/manifests/v1  nobody", "GET /v2/team/app/manifests/v1  nobody"}, false, true,
		},
		{
			"identity token", recorded.Harbor(), identity,
			[]string{"root: 401 nobody", "token: 200 oauth2", "manifest: 200 bearer"},
			[]string{"GET /v2/  nobody", "POST /service/token  login", "HEAD /v2/team/app/manifests/v1 bearer login"}, true, false,
		},
		{
			"registry token", recorded.Gitea(), registry,
			[]string{"root: 401 nobody", "manifest: 200 bearer"},
			[]string{"GET /v2/  nobody", "HEAD /v2/team/app/manifests/v1 bearer login"}, true, false,
		},
		{
			"no right", noRight, login,
			[]string{"root: 401 nobody", "token: 200 basic", "manifest: 401 bearer", "reason: 401 bearer"},
			[]string{
				"GET /v2/  nobody", "GET /service/token basic login", "HEAD /v2/team/app/manifests/v1 bearer login",
				"GET /v2/team/app/manifests/v1 bearer login",
			}, false, true,
		},
		{
			"Gitea does not know it", wrongPAT, login,
			[]string{"root: 401 nobody", "token: 401 basic", "known: 401 basic"},
			[]string{"GET /v2/  nobody", "GET /v2/token basic login", "GET /v2/ basic login"}, false, true,
		},
		{
			"Gitea knows it", noScope, login,
			[]string{"root: 401 nobody", "token: 401 basic", "known: 200 basic"},
			[]string{"GET /v2/  nobody", "GET /v2/token basic login", "GET /v2/ basic login"}, false, true,
		},
		{
			"no tag", noTag, login,
			[]string{"root: 401 nobody", "token: 200 basic", "manifest: 404 bearer", "reason: 404 bearer"},
			[]string{
				"GET /v2/  nobody", "GET /v2/token basic login", "HEAD /v2/team/app/manifests/v1 bearer login",
				"GET /v2/team/app/manifests/v1 bearer login",
			}, false, false,
		},
		{
			"a limit is not asked for its reason", limited, login,
			[]string{"root: 401 nobody", "token: 200 basic", "manifest: 429 bearer"},
			[]string{"GET /v2/  nobody", "GET /token basic login", "HEAD /v2/team/app/manifests/v1 bearer login"}, false, false,
		},
		{
			"open root", openRoot, login,
			[]string{"root: 200 nobody", "manifest: 401 nobody", "token: 200 basic", "manifest: 200 bearer"},
			[]string{
				"GET /v2/  nobody", "HEAD /v2/team/app/manifests/v1  nobody", "GET /token basic login",
				"HEAD /v2/team/app/manifests/v1 bearer login",
			}, true, false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := recorded.Start(t, c.recording)
			answer := try(t, direct(), trial.Question{Image: server.Host() + "/team/app:v1", Login: c.login})
			if diff := cmp.Diff(c.steps, brief(answer)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.request, server.Requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if answer.Pulls() != c.pulls || answer.Refused() != c.refused {
				t.Errorf("pulls %v, refused %v", answer.Pulls(), answer.Refused())
			}
		})
	}
}

func TestReason(t *testing.T) {
	t.Parallel()
	recording := recorded.Harbor()
	recording.Manifest, recording.Grants = recorded.HarborDenied, []string{}
	server := recorded.Start(t, recording)
	answer := try(t, direct(), trial.Question{Image: server.Host() + "/team/app:v1", Login: bot()})
	last := answer.Last()
	if last.Stage != trial.Reason || !last.Has("UNAUTHORIZED") || !strings.Contains(last.Body, "action: pull") {
		t.Errorf("the reason is lost: %+v", last)
	}
	token, _ := answer.At(trial.Token)
	if token.Granted == nil || len(token.Granted) != 0 {
		t.Errorf("the token grants %v, want nothing", token.Granted)
	}
	if diff := cmp.Diff([]trial.Challenge{{Scheme: "basic", Realm: "harbor"}}, last.Challenges); diff != "" {
		t.Errorf("challenges (-want +got):\n%s", diff)
	}
	if answer.Username != "bot" || answer.Kind != trial.Password || answer.Image != server.Host()+"/team/app:v1" {
		t.Errorf("answer: %+v", answer)
	}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		give []string
		want []string
	}{{"pull", []string{"pull"}, []string{"pull"}}, {"nothing", []string{}, []string{}}, {"not said", nil, nil}} {
		recording := recorded.Hub()
		recording.Grants = c.give
		server := recorded.Start(t, recording)
		answer := try(t, direct(), trial.Question{Image: server.Host() + "/team/app:v1", Login: bot()})
		token, _ := answer.At(trial.Token)
		if diff := cmp.Diff(c.want, token.Granted); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// A server that sends back all that it is sent learns nothing to tell others.
func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	var bearer string
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got := r.Header.Get("Authorization")
		if _, password, ok := r.BasicAuth(); ok {
			got += " " + password + " " + url.QueryEscape(password)
		}
		got += " " + r.PostForm.Get("refresh_token")
		quoted, _ := json.Marshal(got)
		if r.URL.Path == "/token" && r.URL.Query().Has("service") {
			bearer = "bearer-token-of-the-registry"
			_, _ = fmt.Fprintf(w, `{"token":%q}`, bearer)
			return
		}
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token?service=x&key=abcdef",service=%q,error="%s"`, r.Host, "x", got))
		w.Header().Set("Server", got)
		w.Header().Set("Retry-After", got)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":%s}],"raw":%s}`, quoted, quoted)
	}))
	t.Cleanup(echo.Close)
	image := strings.TrimPrefix(echo.URL, "http://") + "/team/app:v1"
	for name, login := range map[string]consumer.Login{
		"password": bot(), "identity token": {IdentityToken: credential.NewSecret(secret)}, "registry token": {RegistryToken: credential.NewSecret(secret)},
	} {
		answer := try(t, direct(), trial.Question{Image: image, Login: login})
		text, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		if last := answer.Last(); last.Status != http.StatusUnauthorized || last.Body == "" {
			t.Errorf("%s: the server was not asked: %+v", name, last)
		}
		for _, leak := range []string{
			secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte("bot:" + secret)), "bearer-token-of-the-registry", "abcdef",
		} {
			if strings.Contains(string(text), leak) || strings.Contains(fmt.Sprintf("%+v", answer), leak) {
				t.Errorf("%s: %q is in the answer: %s", name, leak, text)
			}
		}
	}
	if bearer == "" {
		t.Error("no token was handed out")
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	server := recorded.Start(t, recorded.ECR())
	end := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{ExpiresAt: jwt.NewNumericDate(end)}).SignedString([]byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	ecr := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{"payload":"x","datakey":"y","version":"2","type":"DATA_KEY","expiration":%d}`, end.Unix()))
	for name, c := range map[string]struct {
		login consumer.Login
		want  *time.Time
	}{
		"ECR":            {consumer.Login{Username: "AWS", Password: credential.NewSecret(ecr)}, &end},
		"JWT":            {consumer.Login{Username: "bot", Password: credential.NewSecret(token)}, &end},
		"registry token": {consumer.Login{RegistryToken: credential.NewSecret(token)}, &end},
		"password":       {bot(), nil},
		"nobody":         {consumer.Login{}, nil},
	} {
		answer := try(t, direct(), trial.Question{Image: server.Host() + "/team/app:v1", Login: c.login})
		if diff := cmp.Diff(c.want, answer.Ends); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A login goes to the registry and its token server, and nowhere else.
func TestRedirectsGetNoLogin(t *testing.T) {
	t.Parallel()
	var seen []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		seen = append(seen, r.Header.Get("Authorization")+r.PostForm.Get("refresh_token"))
	}))
	t.Cleanup(other.Close)
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			w.Header().Set("Www-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		// Another name of loopback: another host.
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(registry.Close)
	image := strings.TrimPrefix(registry.URL, "http://") + "/team/app:v1"
	try(t, direct(), trial.Question{Image: image, Login: bot()})
	if diff := cmp.Diff([]string{""}, seen); diff != "" {
		t.Errorf("what the other host was shown (-want +got):\n%s", diff)
	}
	answer := try(t, direct(), trial.Question{Image: image, Login: consumer.Login{IdentityToken: credential.NewSecret(secret)}})
	if fault := answer.Fault(); fault == nil || fault.Kind != trial.Redirect || len(seen) != 1 {
		t.Errorf("an identity token was redirected: %+v, %q", answer.Last(), seen)
	}
}

func TestBadQuestions(t *testing.T) {
	t.Parallel()
	for _, image := range []string{"", "host/UPPER", "a b", "host/app:tag:tag"} {
		if _, err := direct().Try(t.Context(), trial.Question{Image: image}); problem.KindOf(err) != problem.Config {
			t.Errorf("%q: %v", image, err)
		}
	}
	server := recorded.Start(t, recorded.Hub())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := direct().Try(ctx, trial.Question{Image: server.Host() + "/team/app:v1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func found(login consumer.Login) consumer.Found {
	return consumer.Found{Login: login, Where: "/config.json", Key: "host"}
}

func TestTryAll(t *testing.T) {
	t.Parallel()
	other := consumer.Login{Username: "other", Password: credential.NewSecret("other")}
	refusing, public, gone := recorded.Gitea(), recorded.Hub(), recorded.Gitea()
	refusing.Token, refusing.Known = recorded.GiteaAsks, recorded.GiteaAsks
	public.Token = recorded.HubWrong
	gone.Root = recorded.Reply{Status: http.StatusServiceUnavailable}
	for _, c := range []struct {
		name      string
		recording recorded.Recording
		outcomes  []consumer.Outcome
		want      []string
	}{
		{"accepted", recorded.Gitea(), []consumer.Outcome{{Tries: []consumer.Found{found(bot()), found(other)}}}, []string{"0/0 bot pulls"}},
		{"refused", refusing, []consumer.Outcome{{Tries: []consumer.Found{found(bot()), found(other)}}}, []string{
			"0/0 bot refused", "0/1 other refused", "-1/-1 nobody refused extra",
		}},
		{"refused and public", public, []consumer.Outcome{{Tries: []consumer.Found{found(bot())}}}, []string{"0/0 bot refused", "-1/-1 nobody pulls extra"}},
		{"the same login twice", recorded.Gitea(), []consumer.Outcome{{Tries: []consumer.Found{found(bot())}}, {Tries: []consumer.Found{found(bot())}}}, []string{
			"0/0 bot pulls",
		}},
		{"by chance", recorded.Gitea(), []consumer.Outcome{{Tries: []consumer.Found{found(bot())}}, {Tries: []consumer.Found{found(other)}}}, []string{
			"0/0 bot pulls", "1/0 other pulls",
		}},
		{"nobody", recorded.Gitea(), []consumer.Outcome{{}}, []string{"0/-1 nobody refused"}},
		{"gives up", recorded.Hub(), []consumer.Outcome{{Err: errors.New("helper")}}, []string{"-1/-1 nobody pulls extra"}},
		{"unknown", recorded.Hub(), []consumer.Outcome{{Unknown: true}}, []string{"-1/-1 nobody pulls extra"}},
		{"down", gone, []consumer.Outcome{{Tries: []consumer.Found{found(bot()), found(other)}}, {}}, []string{"0/0 bot"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := recorded.Start(t, c.recording)
			trials, err := direct().TryAll(t.Context(), consumer.Decision{Image: server.Host() + "/team/app:v1", Outcomes: c.outcomes}, trial.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, one := range trials {
				who := one.Answer.Username
				if who == "" {
					who = string(one.Answer.Kind)
				}
				text := fmt.Sprintf("%d/%d %s", one.Outcome, one.Try, who)
				for word, so := range map[string]bool{"pulls": one.Answer.Pulls(), "refused": one.Answer.Refused()} {
					if so {
						text += " " + word
					}
				}
				if one.Extra {
					text += " extra"
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("trials (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseChallenges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header []string
		want   []trial.Challenge
	}{
		{nil, nil},
		{[]string{""}, nil},
		{[]string{`Basic realm="registry"`}, []trial.Challenge{{Scheme: "basic", Realm: "registry"}}},
		{[]string{`Bearer realm="https://auth/token",service="a b",scope="x:y:pull,push"`}, []trial.Challenge{
			{Scheme: "bearer", Realm: "https://auth/token", Service: "a b", Scope: "x:y:pull,push"},
		}},
		{[]string{`Bearer realm="r", Basic realm="b"`, `Negotiate`}, []trial.Challenge{
			{Scheme: "bearer", Realm: "r"}, {Scheme: "basic", Realm: "b"}, {Scheme: "negotiate"},
		}},
		{[]string{`BASIC REALM=r , Bearer error=insufficient_scope`}, []trial.Challenge{{Scheme: "basic", Realm: "r"}, {Scheme: "bearer", Error: "insufficient_scope"}}},
		{[]string{`Bearer realm="a\"b\\c"`}, []trial.Challenge{{Scheme: "bearer", Realm: `a"b\c`}}},
		{[]string{`Bearer realm="open`}, []trial.Challenge{{Scheme: "bearer", Realm: "open"}}},
		{[]string{`realm="x"`}, nil},
		{[]string{`"quoted"`}, nil},
	} {
		if diff := cmp.Diff(c.want, trial.ParseChallenges(http.Header{"Www-Authenticate": c.header})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.header, diff)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	for _, text := range []string{`Bearer realm="r",service=s`, `Basic`, `a b=c, d e="f\"`, `,,=`, "Basic realm=\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range trial.ParseChallenges(http.Header{"Www-Authenticate": {text}}) {
			if c.Scheme == "" || c.Scheme != strings.ToLower(c.Scheme) {
				t.Errorf("%q has the scheme %q", text, c.Scheme)
			}
			if slices.ContainsFunc([]string{c.Realm, c.Service, c.Scope, c.Error}, func(s string) bool { return len(s) > len(text) }) {
				t.Errorf("%q became more: %+v", text, c)
			}
		}
	})
}

func marshal(t *testing.T, answer trial.Answer) []byte {
	t.Helper()
	text, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
