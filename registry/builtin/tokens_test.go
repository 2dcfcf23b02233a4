package builtin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

func pullFor(user, name string) builtin.TokenRequest {
	return builtin.TokenRequest{User: user, Name: name, Scopes: credential.ScopesOf(credential.Pull), Repositories: []string{"*"}}
}

func openTokens(t *testing.T, path string, c *fake.Clock) *builtin.TokenStore {
	t.Helper()
	store, err := builtin.OpenTokens(path, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func create(t *testing.T, store *builtin.TokenStore, req builtin.TokenRequest) (builtin.Token, credential.Secret) {
	t.Helper()
	token, secret, err := store.Create(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return token, secret
}

func TestCreateChecksRequest(t *testing.T) {
	c := fake.NewClock()
	store := openTokens(t, filepath.Join(t.TempDir(), "tokens.json"), c)
	create(t, store, pullFor("ci", "taken"))
	for name, change := range map[string]func(*builtin.TokenRequest){
		"no user":             func(r *builtin.TokenRequest) { r.User = "" },
		"user with colon":     func(r *builtin.TokenRequest) { r.User = "a:b" },
		"user of docker":      func(r *builtin.TokenRequest) { r.User = "<token>" },
		"no name":             func(r *builtin.TokenRequest) { r.Name = "" },
		"name is a number":    func(r *builtin.TokenRequest) { r.Name = "42" },
		"name is a hex":       func(r *builtin.TokenRequest) { r.Name = "0x2a" },
		"name is a float":     func(r *builtin.TokenRequest) { r.Name = "1e9" },
		"name is taken":       func(r *builtin.TokenRequest) { r.Name = "taken" },
		"no scope":            func(r *builtin.TokenRequest) { r.Scopes = nil },
		"unknown scope":       func(r *builtin.TokenRequest) { r.Scopes = credential.Scopes{"admin"} },
		"no repository":       func(r *builtin.TokenRequest) { r.Repositories = nil },
		"pattern in a name":   func(r *builtin.TokenRequest) { r.Repositories = []string{"te*m"} },
		"pattern in front":    func(r *builtin.TokenRequest) { r.Repositories = []string{"*/app"} },
		"two stars":           func(r *builtin.TokenRequest) { r.Repositories = []string{"team/**"} },
		"empty pattern":       func(r *builtin.TokenRequest) { r.Repositories = []string{""} },
		"upper case":          func(r *builtin.TokenRequest) { r.Repositories = []string{"Team/*"} },
		"only a slash":        func(r *builtin.TokenRequest) { r.Repositories = []string{"/*"} },
		"expired before made": func(r *builtin.TokenRequest) { r.Expires = c.Now() },
	} {
		t.Run(name, func(t *testing.T) {
			req := pullFor("ci", "fresh")
			change(&req)
			_, _, err := store.Create(context.Background(), req)
			if problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "" {
				t.Errorf("Create = %v of kind %q, want a usage problem with a hint", err, problem.KindOf(err))
			}
		})
	}
}

func TestTokenLife(t *testing.T) {
	c := fake.NewClock()
	path := filepath.Join(t.TempDir(), "deep", "tokens.json")
	store := openTokens(t, path, c)
	if list, err := store.List(context.Background()); err != nil || len(list) != 0 {
		t.Fatalf("List of no file = %v, %v", list, err)
	}
	req := builtin.TokenRequest{User: "ci", Name: "build", Scopes: credential.Scopes{credential.Push, credential.Pull},
		Repositories: []string{"team/*"}, Expires: c.Now().Add(time.Hour)}
	token, secret := create(t, store, req)
	want := builtin.Token{ID: token.ID, User: "ci", Name: "build", Scopes: credential.ScopesOf(credential.Pull, credential.Push),
		Repositories: []string{"team/*"}, Created: c.Now(), Expires: req.Expires}
	if diff := cmp.Diff(want, token); diff != "" {
		t.Errorf("token (-want +got):\n%s", diff)
	}
	if text := secret.Reveal(); !strings.HasPrefix(text, "rkp_") || len(text) != 4+64 {
		t.Errorf("secret has %d characters", len(text))
	}
	if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), strings.TrimPrefix(secret.Reveal(), "rkp_")) {
		t.Errorf("token file holds the secret, or: %v", err)
	}
	for file, want := range map[string]os.FileMode{path: 0o600, path + ".lock": 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		if info, err := os.Stat(file); err != nil || info.Mode() != want {
			t.Errorf("mode of %s = %v (%v), want %v", filepath.Base(file), info.Mode(), err, want)
		}
	}

	got, err := store.Authenticate(secret)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Authenticate: %v (-want +got):\n%s", err, diff)
	}
	for name, secret := range map[string]credential.Secret{
		"other secret": credential.NewSecret("rkp_" + strings.Repeat("0", 64)),
		"no secret":    {},
		"hash":         credential.NewSecret(secret.Fingerprint()),
	} {
		if _, err := store.Authenticate(secret); !errors.Is(err, credential.ErrRefused) || problem.KindOf(err) != problem.Denied {
			t.Errorf("%s: Authenticate = %v, want refused", name, err)
		}
	}
	c.Advance(time.Hour)
	if _, err := store.Authenticate(secret); !errors.Is(err, credential.ErrRefused) {
		t.Errorf("Authenticate when expired = %v, want refused", err)
	}
	for range 2 {
		if err := store.Revoke(context.Background(), token.ID); err != nil {
			t.Errorf("Revoke = %v", err)
		}
	}
	if list, err := store.List(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("List after revoking = %v, %v", list, err)
	}
}

func TestAllows(t *testing.T) {
	for _, row := range []struct {
		pattern string
		yes, no []string
	}{
		{"*", []string{"app", "team/app", "team/app/web"}, nil},
		{"team/*", []string{"team/app", "team/app/web"}, []string{"team", "teams/app", "app/team/x", "team/"}},
		{"team/app", []string{"team/app"}, []string{"team/app/web", "team/application", "app", "team"}},
	} {
		token := builtin.Token{Scopes: credential.ScopesOf(credential.Pull), Repositories: []string{row.pattern}}
		for _, repository := range row.yes {
			if !token.Allows(repository, credential.Pull) {
				t.Errorf("%s does not allow %s", row.pattern, repository)
			}
			if token.Allows(repository, credential.Push) {
				t.Errorf("%s for pulling allows pushing to %s", row.pattern, repository)
			}
		}
		for _, repository := range row.no {
			if token.Allows(repository, credential.Pull) {
				t.Errorf("%s allows %s", row.pattern, repository)
			}
		}
	}
}

// Two stores on one file are two processes: nothing is shared but the file.
func TestProcessesShareTheFile(t *testing.T) {
	c := fake.NewClock()
	path := filepath.Join(t.TempDir(), "tokens.json")
	one, other := openTokens(t, path, c), openTokens(t, path, c)

	token, secret := create(t, one, pullFor("ci", "build"))
	for range 50 {
		if _, err := other.Authenticate(secret); err != nil {
			t.Fatalf("created elsewhere: %v", err)
		}
		if err := one.Revoke(context.Background(), token.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Authenticate(secret); !errors.Is(err, credential.ErrRefused) {
			t.Fatalf("revoked elsewhere: %v, want refused", err)
		}
		token, secret = create(t, one, pullFor("ci", "build"))
	}

	const each = 20
	var wg sync.WaitGroup
	for i, store := range []*builtin.TokenStore{one, other, one, other} {
		wg.Go(func() {
			for j := range each {
				token, secret, err := store.Create(context.Background(), pullFor("ci", fmt.Sprintf("t-%d-%d", i, j)))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := store.Authenticate(secret); err != nil {
					t.Errorf("token just made: %v", err)
				}
				if j%2 == 0 {
					if err := store.Revoke(context.Background(), token.ID); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for _, store := range []*builtin.TokenStore{one, other} {
		if list, err := store.List(context.Background()); err != nil || len(list) != 1+4*each/2 {
			t.Errorf("List = %d tokens, %v, want %d", len(list), err, 1+4*each/2)
		}
	}
	if left, _ := filepath.Glob(path + "*.new"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLockedFileIsBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	store := openTokens(t, path, fake.NewClock())
	lock := flock.New(path + ".lock")
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := store.Create(ctx, pullFor("ci", "build")); problem.KindOf(err) != problem.Busy {
		t.Errorf("Create while locked = %v, want busy", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := store.Create(cancelled, pullFor("ci", "build")); !errors.Is(err, context.Canceled) {
		t.Errorf("Create when cancelled = %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	create(t, store, pullFor("ci", "build"))
}

func TestDamagedFile(t *testing.T) {
	c := fake.NewClock()
	path := filepath.Join(t.TempDir(), "tokens.json")
	store := openTokens(t, path, c)
	token, secret := create(t, store, pullFor("ci", "build"))
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) string {
		t.Helper()
		if !strings.Contains(string(sound), old) {
			t.Fatalf("%q is not in the file", old)
		}
		return strings.Replace(string(sound), old, new, 1)
	}
	hash := between(t, string(sound), `"hash": "`, `"`)
	for name, row := range map[string]struct{ text, where string }{
		"torn":            {string(sound[:len(sound)/2]), "line "},
		"empty":           {"", "line 1 column 1"},
		"no JSON":         {"tokens:\n", "line 1 column 2"},
		"missing comma":   {"{\n  \"version\": 1\n  \"tokens\": []\n}", "line 3 column 3"},
		"wrong type":      {"{\n  \"version\": \"1\"}", "line 2 column "},
		"twice":           {string(sound) + "{}", "line "},
		"null":            {"null", ""},
		"later version":   {edit(`"version": 1`, `"version": 2`), ""},
		"unknown field":   {edit(`"user":`, `"network": "10.0.0.0/8", "user":`), ""},
		"short hash":      {edit(hash, hash[:20]), "line "},
		"long hash":       {edit(hash, hash+"00"), "line "},
		"other hash":      {edit("sha256:", "sha512:"), "line "},
		"unknown scope":   {edit(`"pull"`, `"everything"`), "line "},
		"no repositories": {edit(`"*"`, ``), "line "},
		"wild pattern":    {edit(`"*"`, `"te*"`), "line "},
		"no id":           {edit(token.ID, ""), "line "},
	} {
		t.Run(name, func(t *testing.T) {
			overwrite(t, path, row.text)
			check := func(verb string, err error) {
				t.Helper()
				if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" {
					t.Fatalf("%s = %v of kind %q, want damaged with a hint", verb, err, problem.KindOf(err))
				}
				if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), row.where) {
					t.Errorf("%s = %q, want the path and %q", verb, err, row.where)
				}
			}
			_, err := store.Authenticate(secret)
			check("Authenticate", err)
			_, err = builtin.OpenTokens(path, c.Now)
			check("OpenTokens", err)
			_, err = store.List(context.Background())
			check("List", err)
			_, _, err = store.Create(context.Background(), pullFor("ci", "another"))
			check("Create", err)
			check("Revoke", store.Revoke(context.Background(), token.ID))
			if data, err := os.ReadFile(path); err != nil || string(data) != row.text {
				t.Errorf("damaged file was written over: %v", err)
			}
			overwrite(t, path, string(sound))
			if _, err := store.Authenticate(secret); err != nil {
				t.Errorf("Authenticate after repair = %v", err)
			}
		})
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Authenticate(secret); !errors.Is(err, credential.ErrRefused) {
		t.Errorf("Authenticate without a file = %v, want refused", err)
	}
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func between(t *testing.T, text, before, after string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, before)
	found, _, ok2 := strings.Cut(rest, after)
	if !ok || !ok2 {
		t.Fatalf("%q is not in %q", before, text)
	}
	return found
}

func TestUseIsWrittenOnceAMinute(t *testing.T) {
	c := fake.NewClock()
	path := filepath.Join(t.TempDir(), "tokens.json")
	store := openTokens(t, path, c)
	token, secret := create(t, store, pullFor("ci", "build"))
	gone, goneSecret := create(t, store, pullFor("ci", "gone"))

	var writes int
	var seen os.FileInfo
	use := func(times int) {
		t.Helper()
		for range times {
			if _, err := store.Authenticate(secret); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path + ".used")
			if err == nil && (seen == nil || !os.SameFile(info, seen) || !info.ModTime().Equal(seen.ModTime())) {
				writes, seen = writes+1, info
			}
		}
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Authenticate(goneSecret); err != nil {
		t.Fatal(err)
	}
	use(200)
	if writes != 0 {
		t.Errorf("%d writes within the first minute, want none", writes)
	}
	for range 3 {
		c.Advance(time.Minute)
		use(200)
	}
	if writes != 3 {
		t.Errorf("%d writes in three minutes, want 3", writes)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("use has written the token file: %v", err)
	}

	c.Advance(time.Second)
	use(1)
	if err := store.Revoke(context.Background(), gone.ID); err != nil {
		t.Fatal(err)
	}
	if err := store.FlushUsed(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path + ".used")
	if err != nil {
		t.Fatal(err)
	}
	var times map[string]time.Time
	if err := json.Unmarshal(data, &times); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]time.Time{token.ID: c.Now()}, times); diff != "" {
		t.Errorf("times of use (-want +got):\n%s", diff)
	}
	list, err := openTokens(t, path, c).List(context.Background())
	if err != nil || len(list) != 1 || !list[0].Used.Equal(c.Now()) {
		t.Errorf("List in another process = %+v, %v", list, err)
	}
	overwrite(t, path+".used", "{")
	if _, err := openTokens(t, path, c).List(context.Background()); err != nil {
		t.Errorf("List with damaged times of use = %v", err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	store := openTokens(t, filepath.Join(t.TempDir(), "tokens.json"), fake.NewClock())
	token, secret := create(t, store, pullFor("ci", "build"))
	type both struct {
		Token  builtin.Token
		secret credential.Secret
	}
	for _, text := range []string{fmt.Sprintf("%+v %#v", both{token, secret}, both{token, secret}), fmt.Sprintf("%+v", store)} {
		if strings.Contains(text, strings.TrimPrefix(secret.Reveal(), "rkp_")) {
			t.Errorf("secret is printed: %s", text)
		}
	}
}

// Two versions of a file may have the same size and the same time, when both
// are written within one tick of the file system's clock.
func TestChangeWithinOneTickIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	store := openTokens(t, path, fake.NewClock())
	_, secret := create(t, store, pullFor("ci", "build"))
	if _, err := store.Authenticate(secret); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, strings.Replace(string(data), `"ci"`, `"xx"`, 1))
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if token, err := store.Authenticate(secret); err != nil || token.User != "xx" {
		t.Errorf("after a change within one tick the token is %s's (%v), want xx's", token.User, err)
	}
}
