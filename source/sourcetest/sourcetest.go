// Package sourcetest is the conformance suite of the ports [credential.Source]
// and [credential.Minter]. Every adapter runs it, against the real thing or a
// fake of it.
package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Fixture is a source, and what a test needs of the world around it. What an
// adapter cannot offer is nil, and is then not tested.
type Fixture struct {
	Source credential.Source
	Host   credential.Host
	// Asked are scopes that the source can give; pull alone if empty.
	Asked credential.Scopes
	// Many is how many logins are listed at once: more than a page of the
	// source. Zero means 60.
	Many int
	// Remote says that the source is reached over a network, so that nothing
	// works when the context has ended.
	Remote bool
	// Secrets are the source's own: none is ever part of an error.
	Secrets []string

	// Foreign makes a login of that name for the same account, as somebody
	// else would.
	Foreign func(t testing.TB, name string)
	// Names are the names of all logins of the account.
	Names func(t testing.TB) []string
	// Accepts tries a login at the registry, and says for what it is good.
	Accepts func(t testing.TB, login credential.Credential) (credential.Scopes, bool)
	// Refused is the source with a wrong login of its own.
	Refused credential.Source
	// Down is the source when it cannot be reached.
	Down credential.Source
	// Change changes, at its origin, the login of a source that does not mint.
	Change func(t testing.TB)
}

const (
	defaultMany = 60
	instance    = "conformance"
	other       = "another-instance"
)

// Run runs the suite. open is called for each test, for a source of its own or
// one that tests share.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		run  func(*suite)
	}{
		{"a login is what was asked for", (*suite).issue},
		{"errors hold no secret", (*suite).errorsHoldNoSecret},
		{"a refused source says so", (*suite).refused},
		{"a source that is down says so", (*suite).down},
		{"a context that ended ends the call", (*suite).cancelled},
	}
	minting := []struct {
		name string
		run  func(*suite)
	}{
		{"logins are listed by their mark", (*suite).listed},
		{"logins of others are left alone", (*suite).foreign},
		{"a login is revoked, and no other", (*suite).revoke},
		{"revoking what is gone is no error", (*suite).revokeGone},
		{"more logins than a page are listed", (*suite).paging},
		{"a listing can be left early", (*suite).leaveEarly},
		{"scopes are never widened", (*suite).scopes},
		{"two logins of one name are not made", (*suite).sameName},
	}
	fixed := []struct {
		name string
		run  func(*suite)
	}{
		{"the login is the same until it is changed", (*suite).same},
	}
	_, mints := open(t).Source.(credential.Minter)
	if mints {
		tests = append(tests, minting...)
	} else {
		tests = append(tests, fixed...)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, Fixture: open(t)}
			if len(s.Asked) == 0 {
				s.Asked = credential.ScopesOf(credential.Pull)
			}
			if s.Many == 0 {
				s.Many = defaultMany
			}
			if mints {
				s.minter = s.Source.(credential.Minter)
				s.mark = credential.MarkOf(instance, s.Host)
				s.clean()
				t.Cleanup(s.clean)
			}
			test.run(s)
		})
	}
}

type suite struct {
	*testing.T
	Fixture
	minter credential.Minter
	mark   credential.Mark
	serial int
}

// clean ends what earlier tests left at a source that they share. It outlives
// the test's context.
func (s *suite) clean() {
	ctx := context.Background()
	for _, mark := range []credential.Mark{s.mark, credential.MarkOf(other, s.Host)} {
		for _, issued := range s.list(ctx, mark) {
			if err := s.minter.Revoke(ctx, issued.ID); err != nil {
				s.Errorf("clean up: %v", err)
			}
		}
	}
}

func (s *suite) request(mark credential.Mark) credential.Request {
	s.serial++
	return credential.Request{
		Host: s.Host, Name: mark.Name(fmt.Sprintf("20310301t120000-%04d", s.serial)), Scopes: s.Asked,
	}
}

func (s *suite) make(mark credential.Mark) credential.Credential {
	s.Helper()
	login, err := s.Source.Issue(s.Context(), s.request(mark))
	if err != nil {
		s.Fatalf("issue: %v", err)
	}
	return login
}

func (s *suite) list(ctx context.Context, mark credential.Mark) []credential.Issued {
	s.Helper()
	var list []credential.Issued
	for issued, err := range s.minter.Issued(ctx, mark) {
		if err != nil {
			s.Fatalf("list: %v", err)
		}
		list = append(list, issued)
	}
	return list
}

func (s *suite) ids(mark credential.Mark) []string {
	s.Helper()
	ids := []string{}
	for _, issued := range s.list(s.Context(), mark) {
		ids = append(ids, issued.ID)
	}
	slices.Sort(ids)
	return ids
}

func (s *suite) issue() {
	req := s.request(s.mark)
	login, err := s.Source.Issue(s.Context(), req)
	if err != nil {
		s.Fatal(err)
	}
	switch {
	case login.ID == "":
		s.Error("the login has no ID")
	case login.Username == "":
		s.Error("the login has no username")
	case login.Secret.Empty():
		s.Error("the login has no secret")
	case login.Host != req.Host:
		s.Errorf("the login is for %q, asked for %q", login.Host, req.Host)
	case !login.Scopes.Equal(req.Scopes):
		s.Errorf("the login has scopes %s, asked for %s", login.Scopes, req.Scopes)
	case s.minter != nil && login.Name != req.Name:
		s.Errorf("the login is called %q, asked for %q", login.Name, req.Name)
	case s.minter != nil && login.Issued.IsZero():
		s.Error("the login does not say when it was made")
	case !login.Expires.IsZero():
		s.Errorf("the login expires at %s, and none was asked for", login.Expires)
	case strings.Contains(login.ID, login.Secret.Reveal()), strings.Contains(login.Name, login.Secret.Reveal()):
		s.Error("the secret is part of the ID or the name")
	}
	if s.Accepts != nil {
		if _, ok := s.Accepts(s, login); !ok {
			s.Error("the login is not accepted")
		}
	}
	text := fmt.Sprintf("%v %+v %#v %s", login, login, login, login.ID)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("login", "login", login)
	if strings.Contains(text+log.String(), login.Secret.Reveal()) {
		s.Error("the login prints its secret")
	}
}

func (s *suite) listed() {
	if got := s.ids(s.mark); len(got) > 0 {
		s.Fatalf("listed before anything was made: %v", got)
	}
	began := time.Now().Add(-time.Hour)
	login := s.make(s.mark)
	list := s.list(s.Context(), s.mark)
	if len(list) != 1 || list[0].ID != login.ID || list[0].Name != login.Name {
		s.Fatalf("listed %+v, made %s (%s)", list, login.ID, login.Name)
	}
	// Fixed clocks lie in the future, broken ones in the past.
	if created := list[0].Created; !created.IsZero() && created.Before(began) {
		s.Errorf("listed as made at %s, before the test", created)
	}
	if text := fmt.Sprintf("%+v", list); strings.Contains(text, login.Secret.Reveal()) {
		s.Error("the secret is told again in a listing")
	}
}

func (s *suite) foreign() {
	mine := s.make(s.mark)
	theirs := s.make(credential.MarkOf(other, s.Host))
	if got := s.ids(s.mark); !slices.Equal(got, []string{mine.ID}) {
		s.Errorf("listed %v for our mark, want %s", got, mine.ID)
	}
	if got := s.ids(credential.MarkOf(other, s.Host)); !slices.Equal(got, []string{theirs.ID}) {
		s.Errorf("listed %v for the other mark, want %s", got, theirs.ID)
	}
	if got := s.ids(""); len(got) > 0 {
		s.Errorf("listed %v for no mark", got)
	}
	if s.Foreign == nil || s.Names == nil {
		return
	}
	foreign := []string{"laptop", string(s.mark), string(s.mark) + "x-1", "x" + s.mark.Name("1")}
	for _, name := range foreign {
		s.Foreign(s, name)
	}
	if got := s.ids(s.mark); !slices.Equal(got, []string{mine.ID}) {
		s.Errorf("listed %v for our mark, want %s", got, mine.ID)
	}
	if err := s.minter.Revoke(s.Context(), mine.ID); err != nil {
		s.Fatal(err)
	}
	names := s.Names(s)
	for _, name := range foreign {
		if !slices.Contains(names, name) {
			s.Errorf("somebody else's login %q is gone", name)
		}
	}
}

func (s *suite) revoke() {
	var made []credential.Credential
	for range 3 {
		made = append(made, s.make(s.mark))
	}
	if err := s.minter.Revoke(s.Context(), made[1].ID); err != nil {
		s.Fatal(err)
	}
	want := []string{made[0].ID, made[2].ID}
	slices.Sort(want)
	if got := s.ids(s.mark); !slices.Equal(got, want) {
		s.Errorf("listed %v, want %v", got, want)
	}
	if s.Accepts != nil {
		for i, login := range made {
			if _, ok := s.Accepts(s, login); ok != (i != 1) {
				s.Errorf("login %d of 3 is accepted: %t; the second was revoked", i+1, ok)
			}
		}
	}
	for i, a := range made {
		for _, b := range made[i+1:] {
			if a.ID == b.ID || a.Secret.Equal(b.Secret) {
				s.Errorf("%s and %s share an ID or a secret", a.Name, b.Name)
			}
		}
	}
}

func (s *suite) revokeGone() {
	kept, gone := s.make(s.mark), s.make(s.mark)
	for range 2 {
		if err := s.minter.Revoke(s.Context(), gone.ID); err != nil {
			s.Fatal(err)
		}
	}
	if got := s.ids(s.mark); !slices.Equal(got, []string{kept.ID}) {
		s.Errorf("listed %v, want %s", got, kept.ID)
	}
}

func (s *suite) paging() {
	want := []string{}
	for range s.Many {
		want = append(want, s.make(s.mark).ID)
	}
	slices.Sort(want)
	if got := s.ids(s.mark); !slices.Equal(got, want) {
		s.Errorf("listed %d logins, made %d", len(got), len(want))
	}
}

func (s *suite) leaveEarly() {
	for range 3 {
		s.make(s.mark)
	}
	n := 0
	for _, err := range s.minter.Issued(s.Context(), s.mark) {
		if err != nil {
			s.Fatal(err)
		}
		n++
		break
	}
	if n != 1 {
		s.Errorf("got %d logins", n)
	}
}

func (s *suite) scopes() {
	if s.Accepts == nil {
		s.Skip("the registry cannot be asked")
	}
	req := s.request(s.mark)
	req.Scopes = credential.ScopesOf(credential.Pull)
	login, err := s.Source.Issue(s.Context(), req)
	if errors.Is(err, credential.ErrUnsupported) {
		return
	}
	if err != nil {
		s.Fatal(err)
	}
	if has, _ := s.Accepts(s, login); !has.Equal(req.Scopes) {
		s.Errorf("asked for %s, the registry grants %s", req.Scopes, has)
	}
}

func (s *suite) sameName() {
	req := s.request(s.mark)
	if _, err := s.Source.Issue(s.Context(), req); err != nil {
		s.Fatal(err)
	}
	// A source may refuse, or make a second; it must not lose the first.
	_, err := s.Source.Issue(s.Context(), req)
	want := 2
	if err != nil {
		want = 1
	}
	if got := s.ids(s.mark); len(got) != want {
		s.Errorf("listed %v after a second login of one name (error %v)", got, err)
	}
}

func (s *suite) same() {
	first, second := s.make(""), s.make("")
	if first.ID != second.ID || !first.Login().Equal(second.Login()) {
		s.Error("two looks at one login differ")
	}
	if s.Change == nil {
		return
	}
	s.Change(s)
	third := s.make("")
	if third.ID == first.ID || third.Login().Equal(first.Login()) {
		s.Error("the login was changed, and looks the same")
	}
	for _, id := range []string{first.ID, third.ID} {
		for _, login := range []credential.Credential{first, third} {
			if strings.Contains(id, login.Secret.Reveal()) {
				s.Error("the ID gives the secret away")
			}
		}
	}
}

// failures are the errors of every method of a source.
func (s *suite) failures(ctx context.Context, source credential.Source) map[string]error {
	_, err := source.Issue(ctx, s.request(s.mark))
	all := map[string]error{"issue": err}
	if minter, ok := source.(credential.Minter); ok {
		all["list"] = firstError(minter.Issued(ctx, s.mark))
		all["revoke"] = minter.Revoke(ctx, s.mark.Name("nothing"))
	}
	return all
}

func firstError(list iter.Seq2[credential.Issued, error]) (first error) {
	calls := 0
	for _, err := range list {
		if calls++; calls > 1 && first != nil {
			return fmt.Errorf("the listing went on after: %w", first)
		}
		if err != nil {
			first = err
		}
	}
	return first
}

func (s *suite) refused() {
	if s.Refused == nil {
		s.Skip("the source has no login of its own")
	}
	for what, err := range s.failures(s.Context(), s.Refused) {
		if !errors.Is(err, credential.ErrRefused) || problem.KindOf(err) != problem.Denied || problem.HintOf(err) == "" {
			s.Errorf("%s: want a refusal of kind %s with a hint, got %s: %v", what, problem.Denied, problem.KindOf(err), err)
		}
		s.secretless(what, err)
	}
}

func (s *suite) down() {
	if s.Down == nil {
		s.Skip("the source cannot be down")
	}
	for what, err := range s.failures(s.Context(), s.Down) {
		if err == nil || errors.Is(err, credential.ErrRefused) {
			s.Errorf("%s: a source that is down says %v", what, err)
		}
		if s.Remote && problem.KindOf(err) != problem.Unreachable {
			s.Errorf("%s: want kind %s, got %s: %v", what, problem.Unreachable, problem.KindOf(err), err)
		}
		s.secretless(what, err)
	}
}

func (s *suite) cancelled() {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	for what, err := range s.failures(ctx, s.Source) {
		switch {
		case err == nil && s.Remote:
			s.Errorf("%s: no error, though the context had ended", what)
		case err != nil && !errors.Is(err, context.Canceled):
			s.Errorf("%s: want the context's error in the chain: %v", what, err)
		}
		if errors.Is(err, credential.ErrRefused) {
			s.Errorf("%s: a context that ended is no refusal: %v", what, err)
		}
		s.secretless(what, err)
	}
	if s.minter != nil && s.Remote {
		if got := s.ids(s.mark); len(got) > 0 {
			s.Errorf("made %v after the context had ended", got)
		}
	}
}

func (s *suite) errorsHoldNoSecret() {
	for _, source := range []credential.Source{s.Refused, s.Down} {
		if source == nil {
			continue
		}
		for what, err := range s.failures(s.Context(), source) {
			s.secretless(what, err)
		}
	}
}

func (s *suite) secretless(what string, err error) {
	s.Helper()
	if err == nil {
		return
	}
	text := fmt.Sprintf("%v %+v %s", err, err, problem.HintOf(err))
	for e := err; e != nil; e = errors.Unwrap(e) {
		text += fmt.Sprintf(" %v %#v", e, e)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(io.MultiWriter(&log), nil)).Error("failed", "error", err)
	for _, secret := range s.Secrets {
		if secret != "" && strings.Contains(text+log.String(), secret) {
			s.Errorf("%s: the error holds a secret: %s", what, strings.ReplaceAll(text, secret, "<<SECRET>>"))
		}
	}
}
