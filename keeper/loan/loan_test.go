package loan_test

import (
	"context"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/keeper/loan"
)

const host credential.Host = "a.example"

func lender() (*loan.Lender, *fake.Source) {
	source := &fake.Source{Clock: fake.NewClock(), Host: host, User: "bot"}
	return &loan.Lender{Host: host, Source: source, Instance: "one", Life: time.Hour, Now: source.Clock.Now}, source
}

func names(t *testing.T, source *fake.Source) (names []string) {
	t.Helper()
	for _, mark := range []credential.Mark{credential.LoanMarkOf("one", host), credential.MarkOf("one", host)} {
		for issued, err := range source.Issued(t.Context(), mark) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, issued.Name)
		}
	}
	return names
}

func TestEndedAfterUse(t *testing.T) {
	t.Parallel()
	l, source := lender()
	login, end, err := l.Borrow(t.Context(), credential.ScopesOf(credential.Pull, credential.Push))
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, source); len(got) != 1 || got[0] != login.Name {
		t.Fatalf("the source has %v, want %s", got, login.Name)
	}
	// What ends the work must not keep the login alive.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := end(ctx); err != nil {
		t.Fatal(err)
	}
	if got := names(t, source); len(got) != 0 {
		t.Errorf("after the work the source has %v", got)
	}
}

func TestLeftOversEndWithTheirTime(t *testing.T) {
	t.Parallel()
	l, source := lender()
	killed, _, err := l.Borrow(t.Context(), credential.ScopesOf(credential.Pull))
	if err != nil {
		t.Fatal(err)
	}
	source.Clock.Advance(59 * time.Minute)
	running, _, err := l.Borrow(t.Context(), credential.ScopesOf(credential.Pull))
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, source); len(got) != 2 {
		t.Fatalf("within its time a login was ended: the source has %v", got)
	}
	source.Clock.Advance(62 * time.Minute)
	if err := l.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, source); len(got) != 1 || got[0] != running.Name {
		t.Errorf("the source has %v, want %s without %s", got, running.Name, killed.Name)
	}
}

// The keyring's logins are never taken for borrowed ones, nor the other way round.
func TestKeyringIsNotTouched(t *testing.T) {
	t.Parallel()
	l, source := lender()
	kept, err := source.Issue(t.Context(), credential.Request{Host: host, Name: credential.MarkOf("one", host).Name("t1-abc")})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, source); len(got) != 1 || got[0] != kept.Name {
		t.Errorf("the source has %v, want %s", got, kept.Name)
	}
	if credential.MarkOf("one", host).Owns(credential.LoanMarkOf("one", host).Name("t1-abc")) {
		t.Error("the keyring's mark owns a borrowed login")
	}
}
