package keeper_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/state"
)

// expiring makes the source one that gives logins of twelve hours.
func (s *scene) expiring(id string, age time.Duration, given string, givenAge time.Duration) {
	s.given(given)
	begin := func(c *state.Credential, age time.Duration) {
		c.Issued, c.Expires = noon.Add(-age), noon.Add(12*time.Hour-age)
	}
	s.view.Journal.Current = login(id, noon)
	s.view.Journal.Current.Origin = "fixed"
	begin(s.view.Journal.Current, age)
	begin(s.view.Given, givenAge)
	s.Observation = keeper.Observation{Now: noon, Registries: []keeper.View{*s.view}, Places: []keeper.PlaceView{*s.place}}
}

func TestGivenLoginThatExpiresIsLookedAtInTime(t *testing.T) {
	for age := time.Duration(0); age < 12*time.Hour; age += 10 * time.Minute {
		s := newScene()
		s.expiring("a2", age, "a2", age)
		next, ends := keeper.Decide(s.Observation).Next(), noon.Add(12*time.Hour-age)
		if next.IsZero() || !next.After(noon) || !next.Before(ends) {
			t.Errorf("%s before its end the next look is at %v", ends.Sub(noon), next)
			break
		}
	}
}

func TestFreshGivenLoginIsNotReplacedByAnother(t *testing.T) {
	s := newScene()
	s.expiring("a2", time.Hour, "a3", 0)
	if changes := keeper.Decide(s.Observation).Changes(); len(changes) > 0 {
		t.Errorf("changes: %v", changes)
	}
}

func TestExpiredGivenLoginIsNotDelivered(t *testing.T) {
	s := newScene()
	s.expiring("a2", 13*time.Hour, "a2", 13*time.Hour)
	s.view.Given, s.view.GivenErr = nil, errRefused
	s.Registries[0].Given, s.Registries[0].GivenErr = nil, errRefused
	s.Places[0].Held = nil
	for _, step := range keeper.Decide(s.Observation).Changes() {
		t.Errorf("an expired login: %s", step)
	}
}

// unrenewed is a source whose login is good still, and could not be renewed.
type unrenewed struct{ credential.Source }

func (unrenewed) Overdue(credential.Host) error { return errOverdue }

var errOverdue = errors.New("the renewal failed")

func TestStatusTellsOfALoginThatIsNotRenewed(t *testing.T) {
	target := fake.NewTarget("one")
	fixed := &fake.Fixed{}
	fixed.Set(credential.Login{Username: "AWS", Secret: credential.NewSecret("SECRET-1")})
	k := keeper.New(keeper.Config{
		Instance: instance, Store: &fake.Store{}, Now: fake.NewClock().Now,
		Registries: []keeper.Registry{{Host: hostC, Source: unrenewed{fixed}, Origin: "fixed", Scopes: credential.ScopesOf(credential.Pull), Unverified: true}},
		Targets:    []keeper.Target{{Target: target, Name: "files", Kind: "fake"}},
	})
	if _, err := k.Sync(t.Context(), keeper.Options{}); err != nil && !errors.Is(err, errOverdue) {
		t.Fatal(err)
	}
	status, err := k.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r := status.Registries[0]; r.Phase == keeper.OK || r.Problem != errOverdue.Error() {
		t.Errorf("status %+v", r)
	}
	held, err := target.Held(t.Context(), "one", []credential.Host{hostC})
	if err != nil || len(held) != 1 {
		t.Errorf("the login that is good still was not delivered: %v", err)
	}
}

// untold is a target whose places cannot tell at times.
type untold struct {
	fake.Sealed
	cannot bool
}

func (u *untold) Recognize(ctx context.Context, at credential.Place, logins map[credential.Host][]credential.Login) (
	held map[credential.Host]credential.Login, unknown []credential.Host, err error,
) {
	if u.cannot {
		u.cannot = false
		return nil, slices.Collect(maps.Keys(logins)), nil
	}
	return u.Sealed.Recognize(ctx, at, logins)
}

// A place that could not tell what it held may have held a login that was replaced:
// who read it then has the whole overlap from the moment that it was written anew.
func TestWhatCannotBeToldIsHeldAgain(t *testing.T) {
	w := newWorld()
	target := &untold{Sealed: fake.Sealed{Target: w.targets["hosts"]}}
	k := keeper.New(keeper.Config{
		Instance: instance, Store: w.store, Verifier: w.verifier, Now: w.clock.Now,
		Registries: []keeper.Registry{{
			Host: hostA, Source: w.sources[hostA], Origin: "fake", Scopes: credential.ScopesOf(credential.Pull), Schedule: w.schedule,
		}},
		Targets: []keeper.Target{{Target: target, Name: "hosts", Tended: true}},
	})
	pass := func(options keeper.Options) {
		t.Helper()
		if _, err := k.Sync(t.Context(), options); err != nil {
			t.Fatal(err)
		}
	}
	pass(keeper.Options{})
	before := w.sources[hostA].Live()[1].ID
	pass(keeper.Options{Rotate: []credential.Host{hostA}})
	pass(keeper.Options{})
	w.clock.Advance(w.schedule.Overlap - time.Second)
	target.cannot = true
	if err := k.Tend(t.Context(), "hosts", "one"); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(2 * time.Second)
	pass(keeper.Options{})
	if !slices.Contains(names(w.sources[hostA].Live()), before) {
		t.Fatal("a login was revoked that a place may have held a moment before")
	}
	w.clock.Advance(w.schedule.Overlap + time.Second)
	pass(keeper.Options{})
	pass(keeper.Options{})
	if slices.Contains(names(w.sources[hostA].Live()), before) {
		t.Error("the replaced login was never revoked")
	}
}
