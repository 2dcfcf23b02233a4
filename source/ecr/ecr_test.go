package ecr_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeecr"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/source/ecr"
	"github.com/regkeeper/regkeeper/source/sourcetest"
)

const (
	account                   = "123456789012"
	keyID                     = "AKIAFAKEFAKEFAKEFAKE"
	secretKey                 = "hunter2-secret-access-key"
	host      credential.Host = account + ".dkr.ecr.eu-central-1.amazonaws.com"
)

var noon = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

// isolate keeps the SDK from the AWS settings of this machine, and gives it a
// key.
func isolate(t *testing.T) (folder string) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
			_ = os.Unsetenv(name)
		}
	}
	folder = t.TempDir()
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": filepath.Join(folder, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(folder, "credentials"),
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1",
		"AWS_ACCESS_KEY_ID": keyID, "AWS_SECRET_ACCESS_KEY": secretKey,
	} {
		t.Setenv(name, value)
	}
	return folder
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// world is a fake service, with a clock that a test moves.
type world struct {
	*fakeecr.Server
	url    string
	folder string
	// answer, if it is set, answers in place of the service.
	answer atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	now    atomic.Pointer[time.Time]
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{folder: isolate(t)}
	w.at(noon)
	w.Server = fakeecr.New(fakeecr.Config{
		Account: account, KeyID: keyID, Now: w.clock,
		Before: func(rw http.ResponseWriter, r *http.Request) bool {
			answer := w.answer.Load()
			return answer != nil && (*answer)(rw, r)
		},
	})
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func (w *world) at(now time.Time) { w.now.Store(&now) }

func (w *world) clock() time.Time { return *w.now.Load() }

// fail makes the service answer with an error from now on; with none as before.
func (w *world) fail(status int, code string) {
	if code == "" {
		w.answer.Store(nil)
		return
	}
	answer := func(rw http.ResponseWriter, _ *http.Request) bool {
		fakeecr.Fail(rw, status, code, "not this time")
		return true
	}
	w.answer.Store(&answer)
}

func (w *world) source() *ecr.Source { return ecr.New(ecr.Config{Endpoint: w.url, Now: w.clock}) }

func issue(t testing.TB, source *ecr.Source, host credential.Host) (credential.Credential, error) {
	t.Helper()
	return source.Issue(t.Context(), credential.Request{Host: host, Scopes: credential.ScopesOf(credential.Pull)})
}

// unlimited hides from the suite that the logins expire: it holds sources to
// what was asked for, and AWS does not ask.
type unlimited struct {
	t *testing.T
	*ecr.Source
}

func (u unlimited) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	login, err := u.Source.Issue(ctx, req)
	if err == nil && login.Expires.IsZero() {
		u.t.Error("the login does not say when it expires")
	}
	login.Expires = time.Time{}
	return login, err
}

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
		w := start(t)
		gone := httptest.NewServer(http.NotFoundHandler())
		gone.Close()
		write(t, filepath.Join(w.folder, "credentials"), "[wrong]\naws_access_key_id=AKIAWRONG\naws_secret_access_key=hunter2-wrong\n")
		source := w.source()
		return sourcetest.Fixture{
			Source: unlimited{t, source}, Host: host, Remote: true, Secrets: []string{"hunter2", "fakeecr-"},
			Refused: ecr.New(ecr.Config{Endpoint: w.url, Profile: "wrong", Now: w.clock}),
			Down:    ecr.New(ecr.Config{Endpoint: gone.URL, Now: w.clock}),
			Accepts: func(_ testing.TB, login credential.Credential) (credential.Scopes, bool) {
				return login.Scopes, w.Accepts(login.Username, login.Secret.Reveal())
			},
			Change: func(testing.TB) { w.at(w.clock().Add(9 * time.Hour)) },
		}
	})
}

// TestRenewal sees that one login is given until a third of its life is left,
// and a good one at every moment.
func TestRenewal(t *testing.T) {
	for name, test := range map[string]struct {
		ahead time.Duration
		until time.Duration
	}{
		"a third of its life": {0, 8 * time.Hour},
		"as set":              {time.Hour, 11 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			source := ecr.New(ecr.Config{Endpoint: w.url, Now: w.clock, RenewAhead: test.ahead})
			var first credential.Credential
			for after := time.Duration(0); after < 36*time.Hour; after += 30 * time.Minute {
				w.at(noon.Add(after))
				login, err := issue(t, source, host)
				if err != nil {
					t.Fatal(err)
				}
				if after == 0 {
					first = login
					if !login.Issued.Equal(noon) || !login.Expires.Equal(noon.Add(12*time.Hour)) {
						t.Errorf("issued %s, expires %s", login.Issued, login.Expires)
					}
				}
				if same := login.ID == first.ID; same != (after < test.until) || same != login.Login().Equal(first.Login()) {
					t.Errorf("after %s the login is the first one: %t", after, same)
				}
				if !w.Accepts(login.Username, login.Secret.Reveal()) {
					t.Errorf("after %s the login is not good", after)
				}
			}
			if want := int(36*time.Hour/test.until) + 1; len(w.Requests()) != want && len(w.Requests()) != want-1 {
				t.Errorf("%d logins were asked for, want about %d", len(w.Requests()), want)
			}
		})
	}
}

// TestRenewalFails sees that a login which cannot be renewed is given for as
// long as it is good, with a reason, and not after.
func TestRenewalFails(t *testing.T) {
	w := start(t)
	source := w.source()
	first, err := issue(t, source, host)
	if err != nil || source.Overdue(host) != nil {
		t.Fatal(err, source.Overdue(host))
	}
	w.fail(http.StatusBadRequest, "AccessDeniedException")
	for _, after := range []time.Duration{8 * time.Hour, 8*time.Hour + time.Second, 12*time.Hour - time.Second} {
		w.at(noon.Add(after))
		login, err := issue(t, source, host)
		if err != nil || !login.Login().Equal(first.Login()) {
			t.Errorf("after %s: want the login as before, got %s (%v)", after, login.ID, err)
		}
		if why := source.Overdue(host); problem.KindOf(why) != problem.Denied || !errors.Is(why, credential.ErrRefused) {
			t.Errorf("after %s it is overdue because: %v", after, why)
		}
	}
	w.at(noon.Add(12 * time.Hour))
	if login, err := issue(t, source, host); !errors.Is(err, credential.ErrRefused) {
		t.Errorf("after its end: want a refusal, got %s (%v)", login.ID, err)
	}
	w.fail(0, "")
	login, err := issue(t, source, host)
	if err != nil || !w.Accepts(login.Username, login.Secret.Reveal()) || source.Overdue(host) != nil {
		t.Errorf("when AWS gives again: %v (overdue: %v)", err, source.Overdue(host))
	}
}

// TestRenewalIsNotHurried sees that a renewal which fails is not tried at every
// look, and is after a while.
func TestRenewalIsNotHurried(t *testing.T) {
	w := start(t)
	source := w.source()
	if _, err := issue(t, source, host); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	answer := func(rw http.ResponseWriter, _ *http.Request) bool {
		asked.Add(1)
		fakeecr.Fail(rw, http.StatusBadRequest, "AccessDeniedException", "no")
		return true
	}
	w.answer.Store(&answer)
	for second := range 180 {
		w.at(noon.Add(8*time.Hour + time.Duration(second)*time.Second))
		if _, err := issue(t, source, host); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times in three minutes", asked.Load())
	}
}

// TestAtOnce sees that callers who ask at once get one login, and that one who
// leaves takes it from nobody.
func TestAtOnce(t *testing.T) {
	w := start(t)
	reached, release := make(chan struct{}, 20), make(chan struct{})
	answer := func(http.ResponseWriter, *http.Request) bool {
		reached <- struct{}{}
		<-release
		return false
	}
	w.answer.Store(&answer)
	source := w.source()
	ctx, leave := context.WithCancel(t.Context())
	var group sync.WaitGroup
	left := make(chan error, 1)
	go func() {
		_, err := source.Issue(ctx, credential.Request{Host: host})
		left <- err
	}()
	<-reached
	ids := make([]string, 10)
	for i := range ids {
		group.Go(func() {
			login, err := issue(t, source, host)
			if err != nil {
				t.Error(err)
			}
			ids[i] = login.ID
		})
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(release)
	group.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("the logins are %v", ids)
		}
	}
	if got := len(w.Requests()); got != 1 {
		t.Errorf("asked %d times", got)
	}
}

// capture answers as a region's endpoint, and keeps where it was asked.
type capture struct {
	w     *world
	hosts []string
}

func (c *capture) RoundTrip(r *http.Request) (*http.Response, error) {
	c.hosts = append(c.hosts, r.URL.Host)
	recorded := httptest.NewRecorder()
	c.w.ServeHTTP(recorded, r)
	return recorded.Result(), nil
}

// TestEndpoints sees which region's endpoint is asked for which registry.
func TestEndpoints(t *testing.T) {
	for _, test := range []struct{ host, region, endpoint string }{
		{account + ".dkr.ecr.eu-central-1.amazonaws.com", "eu-central-1", "api.ecr.eu-central-1.amazonaws.com"},
		{account + ".dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1", "api.ecr.cn-north-1.amazonaws.com.cn"},
		{account + ".dkr.ecr-fips.us-east-1.amazonaws.com", "us-east-1", "api.ecr-fips.us-east-1.amazonaws.com"},
		{account + ".dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1", "api.ecr-fips.us-gov-west-1.amazonaws.com"},
		{account + ".dkr-ecr.eu-west-1.on.aws", "eu-west-1", "ecr.eu-west-1.api.aws"},
		{"images.example.com", "ap-south-1", "api.ecr.ap-south-1.amazonaws.com"},
	} {
		t.Run(test.host, func(t *testing.T) {
			w := start(t)
			asked := &capture{w: w}
			source := ecr.New(ecr.Config{Region: "ap-south-1", Now: w.clock, Transport: asked})
			login, err := issue(t, source, credential.Host(test.host))
			if err != nil {
				t.Fatal(err)
			}
			if login.Host != credential.Host(test.host) || login.Username != fakeecr.Username {
				t.Errorf("the login is %+v", login)
			}
			if diff := cmp.Diff([]string{test.endpoint}, asked.hosts); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			want := []fakeecr.Request{{Region: test.region, Service: "ecr", KeyID: keyID}}
			if diff := cmp.Diff(want, w.Requests()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSettings sees that the SDK's files and variables count: region, profile
// and endpoint.
func TestSettings(t *testing.T) {
	const files = "[default]\nregion=eu-north-1\n[profile build]\nregion=sa-east-1\naws_access_key_id=" + keyID + "\naws_secret_access_key=hunter2\n"
	for _, test := range []struct {
		name   string
		env    map[string]string
		config ecr.Config
		host   credential.Host
		want   string
	}{
		{"the default profile", nil, ecr.Config{}, "images.example.com", "eu-north-1"},
		{"a profile", nil, ecr.Config{Profile: "build"}, "images.example.com", "sa-east-1"},
		{"AWS_PROFILE", map[string]string{"AWS_PROFILE": "build"}, ecr.Config{}, "images.example.com", "sa-east-1"},
		{"AWS_REGION", map[string]string{"AWS_REGION": "us-west-2"}, ecr.Config{}, "images.example.com", "us-west-2"},
		{"the configuration", map[string]string{"AWS_REGION": "us-west-2"}, ecr.Config{Region: "us-west-1"}, "images.example.com", "us-west-1"},
		{"the registry's name", map[string]string{"AWS_REGION": "us-west-2"}, ecr.Config{Region: "us-west-1"}, host, "eu-central-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t)
			write(t, filepath.Join(w.folder, "config"), files)
			t.Setenv("AWS_ENDPOINT_URL_ECR", w.url)
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			test.config.Now = w.clock
			if _, err := issue(t, ecr.New(test.config), test.host); err != nil {
				t.Fatal(err)
			}
			if got := w.Requests(); len(got) != 1 || got[0].Region != test.want {
				t.Errorf("asked %+v, want %s", got, test.want)
			}
		})
	}
}

// TestHome sees that ~/.aws/config is found. The SDK looks for it when a program
// starts, so this one starts again.
func TestHome(t *testing.T) {
	if url := os.Getenv("ECR_TEST_URL"); url != "" {
		login, err := issue(t, ecr.New(ecr.Config{Endpoint: url, Now: func() time.Time { return noon }}), "images.example.com")
		if err != nil || login.Username != fakeecr.Username {
			t.Fatal(login, err)
		}
		return
	}
	w := start(t)
	if err := os.Mkdir(filepath.Join(w.folder, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(w.folder, ".aws", "config"), "[default]\nregion=eu-north-1\n")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self, "-test.run=^TestHome$")
	command.Env = []string{
		"HOME=" + w.folder, "USERPROFILE=" + w.folder, "ECR_TEST_URL=" + w.url, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID=" + keyID, "AWS_SECRET_ACCESS_KEY=" + secretKey, "GORACE=atexit_sleep_ms=0",
	}
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if got := w.Requests(); len(got) != 1 || got[0].Region != "eu-north-1" {
		t.Errorf("asked %+v", got)
	}
}

// TestRole sees that a role is taken on before ECR is asked.
func TestRole(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/pull"
	w := start(t)
	t.Setenv("AWS_ENDPOINT_URL_STS", w.url)
	if _, err := issue(t, ecr.New(ecr.Config{Endpoint: w.url, Role: role, Now: w.clock}), host); err != nil {
		t.Fatal(err)
	}
	got := w.Requests()
	if len(got) != 2 || got[0].Service != "sts" || got[0].KeyID != keyID || got[1].Service != "ecr" || got[1].Role != role {
		t.Errorf("asked %+v", got)
	}
	answer := func(rw http.ResponseWriter, _ *http.Request) bool {
		fakeecr.FailQuery(rw, http.StatusForbidden, "AccessDenied", "not this role")
		return true
	}
	w.answer.Store(&answer)
	_, err := issue(t, ecr.New(ecr.Config{Endpoint: w.url, Role: role, Now: w.clock}), host)
	if !errors.Is(err, credential.ErrRefused) || !strings.Contains(problem.HintOf(err), "sts:AssumeRole") {
		t.Errorf("a role that is not given: %v (hint: %s)", err, problem.HintOf(err))
	}
}

// TestNames sees which registries are refused, and for which a region must be
// set.
func TestNames(t *testing.T) {
	w := start(t)
	for _, name := range []credential.Host{"public.ecr.aws", "ecr-public.aws.com"} {
		if _, err := issue(t, w.source(), name); !errors.Is(err, credential.ErrUnsupported) || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []credential.Host{"images.example.com", "12.dkr.ecr.eu-central-1.amazonaws.com", "dkr.ecr.eu-central-1.amazonaws.com"} {
		if _, err := issue(t, w.source(), name); problem.KindOf(err) != problem.Config || !strings.Contains(problem.HintOf(err), "region") {
			t.Errorf("%s: %v (hint: %s)", name, err, problem.HintOf(err))
		}
	}
	if got := w.Requests(); len(got) > 0 {
		t.Errorf("asked %+v", got)
	}
}

// TestNoIdentity sees what is told where AWS credentials are missing or have
// ended, without any secret.
func TestNoIdentity(t *testing.T) {
	const sso = "[profile dev]\nregion=eu-north-1\nsso_session=corp\nsso_account_id=123456789012\nsso_role_name=dev\n[sso-session corp]\nsso_region=eu-north-1\nsso_start_url=https://corp.example.com/start\n"
	for _, test := range []struct {
		name, files, profile string
		want                 problem.Kind
		refused              bool
		hint                 string
	}{
		{"none", "", "", problem.Config, false, "AWS_ACCESS_KEY_ID"},
		{"no such profile", "", "other", problem.Config, false, "list-profiles"},
		{"a session that has ended", sso, "dev", problem.Denied, true, "aws sso login --profile dev"},
		{"half a key", "[profile half]\naws_access_key_id=AKIA\n", "half", problem.Config, false, "~/.aws"},
		{"a file that is none", "hunter2\n", "", problem.Config, false, "~/.aws"},
		{"a program that prints a secret", "[profile p]\ncredential_process=echo hunter2-from-a-program\n", "p", problem.Config, false, "by hand"},
		{"a program that fails", "[profile p]\ncredential_process=false\n", "p", problem.Config, false, "by hand"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t)
			t.Setenv("HOME", w.folder)
			write(t, filepath.Join(w.folder, "config"), test.files)
			_ = os.Unsetenv("AWS_ACCESS_KEY_ID")
			_ = os.Unsetenv("AWS_SECRET_ACCESS_KEY")
			_, err := issue(t, ecr.New(ecr.Config{Endpoint: w.url, Profile: test.profile, Now: w.clock}), host)
			if problem.KindOf(err) != test.want || errors.Is(err, credential.ErrRefused) != test.refused || !strings.Contains(problem.HintOf(err), test.hint) {
				t.Errorf("want kind %s, refused %t and hint %q, got %s: %v (hint: %s)", test.want, test.refused, test.hint, problem.KindOf(err), err, problem.HintOf(err))
			}
			secretless(t, err)
		})
	}
}

func secretless(t *testing.T, err error) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		if text := fmt.Sprintf("%v %+v %#v %s", e, e, e, problem.HintOf(e)); strings.Contains(text, "hunter2") {
			t.Errorf("the error holds a secret: %s", text)
		}
	}
}

// TestNoMachine sees what is told on a machine without a role, and that instance
// metadata which does not answer is waited for only so long.
func TestNoMachine(t *testing.T) {
	stop := make(chan struct{})
	mute := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	t.Cleanup(mute.Close)
	t.Cleanup(func() { close(stop) })
	roleless := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(roleless.Close)
	for _, test := range []struct {
		name, url string
		timeout   time.Duration
		want      problem.Kind
	}{
		{"no role", roleless.URL, 0, problem.Config},
		{"mute", mute.URL, 100 * time.Millisecond, problem.Unreachable},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t)
			t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", test.url)
			_ = os.Unsetenv("AWS_ACCESS_KEY_ID")
			_ = os.Unsetenv("AWS_SECRET_ACCESS_KEY")
			began := time.Now()
			_, err := issue(t, ecr.New(ecr.Config{Endpoint: w.url, Timeout: test.timeout, Now: w.clock}), host)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			if problem.KindOf(err) != test.want || !strings.Contains(problem.HintOf(err), "AWS_ACCESS_KEY_ID") {
				t.Errorf("want kind %s, got %s: %v (hint: %s)", test.want, problem.KindOf(err), err, problem.HintOf(err))
			}
		})
	}
}

// TestRefusals sees what is told when AWS refuses, or answers with anything
// else.
func TestRefusals(t *testing.T) {
	code := func(status int, code string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			fakeecr.Fail(w, status, code, "no")
			return true
		}
	}
	body := func(text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			_, _ = w.Write([]byte(text))
			return true
		}
	}
	for _, test := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		want   problem.Kind
		hint   string
	}{
		{"no right", code(http.StatusBadRequest, "AccessDeniedException"), problem.Denied, "ecr:GetAuthorizationToken"},
		{"an unknown key", code(http.StatusBadRequest, "UnrecognizedClientException"), problem.Denied, "access key"},
		{"a session that has ended", code(http.StatusBadRequest, "ExpiredTokenException"), problem.Denied, "get others"},
		{"a wrong signature", code(http.StatusBadRequest, "InvalidSignatureException"), problem.Denied, "clock"},
		{"too many", code(http.StatusBadRequest, "ThrottlingException"), problem.Unreachable, "try again"},
		{"a failure", code(http.StatusInternalServerError, "ServerException"), problem.Unreachable, "try again"},
		{"no token", body(`{"authorizationData":[]}`), problem.Unreachable, "endpoint"},
		{"an empty token", body(`{"authorizationData":[{"authorizationToken":""}]}`), problem.Unreachable, "endpoint"},
		{"a token without a password", body(`{"authorizationData":[{"authorizationToken":"QVdTOg=="}]}`), problem.Unreachable, "endpoint"},
		{"a token that is none", body(`{"authorizationData":[{"authorizationToken":"hunter2"}]}`), problem.Unreachable, "endpoint"},
		{"a token that has ended", body(`{"authorizationData":[{"authorizationToken":"QVdTOmh1bnRlcjI=","expiresAt":1000000000}]}`), problem.Unreachable, "clock"},
		{"what was sent", func(w http.ResponseWriter, r *http.Request) bool {
			fakeecr.Fail(w, http.StatusBadRequest, "InvalidSignatureException", "the headers were x-amz-security-token:"+r.Header.Get("X-Amz-Security-Token"))
			return true
		}, problem.Denied, "clock"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t)
			t.Setenv("AWS_SESSION_TOKEN", "hunter2-session")
			w.answer.Store(&test.answer)
			_, err := issue(t, w.source(), host)
			if problem.KindOf(err) != test.want || errors.Is(err, credential.ErrRefused) != (test.want == problem.Denied) || !strings.Contains(problem.HintOf(err), test.hint) {
				t.Errorf("want kind %s and hint %q, got %s: %v (hint: %s)", test.want, test.hint, problem.KindOf(err), err, problem.HintOf(err))
			}
			secretless(t, err)
		})
	}
}

// TestNoExpiry sees that a login of which AWS does not say when it ends is taken
// to last as documented.
func TestNoExpiry(t *testing.T) {
	w := start(t)
	answer := func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_, _ = rw.Write([]byte(`{"authorizationData":[{"authorizationToken":"QVdTOmh1bnRlcjI="}]}`))
		return true
	}
	w.answer.Store(&answer)
	login, err := issue(t, w.source(), host)
	if err != nil || login.Username != "AWS" || login.Secret.Reveal() != "hunter2" || !login.Expires.Equal(noon.Add(fakeecr.Life)) {
		t.Errorf("got %s until %s (%v)", login.Username, login.Expires, err)
	}
}
