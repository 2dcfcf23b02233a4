package keeper_test

import (
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/internal/testkit/fakekube"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
	"github.com/regkeeper/regkeeper/state/secret"
)

// TestTwoKeepersOnOneStore has a second keeper work on what it read before the
// first wrote, as one that was cut off from its Lease does: it is stopped by the
// store before it does anything, reads anew, and goes on from there.
func TestTwoKeepersOnOneStore(t *testing.T) {
	t.Parallel()
	api := fakekube.NewAPI(t)
	api.Conflicts("secrets")
	target := newSlow("one", "two")
	clock := fake.NewClock()
	source := &fake.Source{Clock: clock, Host: hostA, User: "bot"}
	verifier := &fake.Verifier{Accepts: map[credential.Host]func(credential.Login) (credential.Scopes, bool){hostA: source.Accepts}}
	start := func() *keeper.Keeper {
		store := secret.Open(&kube.Cluster{Core: api.Core}, types.NamespacedName{Namespace: "regkeeper", Name: "regkeeper-state"})
		return keeper.New(keeper.Config{
			Instance: instance, Store: store, Verifier: verifier, Now: clock.Now,
			Registries: []keeper.Registry{{
				Host: hostA, Source: source, Origin: "fake", Scopes: credential.ScopesOf(credential.Pull),
				Schedule: keeper.Schedule{Every: 720 * time.Hour, Overlap: time.Hour},
			}},
			Targets: []keeper.Target{{Target: target, Name: "pods", Kind: "fake", Tended: true}},
		})
	}
	one, two := start(), start()
	if _, err := two.Status(t.Context()); err != nil { // it has read that there is nothing
		t.Fatal(err)
	}
	if _, err := one.Sync(t.Context(), keeper.Options{}); err != nil {
		t.Fatal(err)
	}
	first, issued := source.Last(), source.Count(fake.Issue)

	if _, err := two.Sync(t.Context(), keeper.Options{}); !errors.Is(err, state.ErrChanged) || problem.KindOf(err) != problem.Busy {
		t.Errorf("the second's pass on what it had read: %v", err)
	}
	if n := source.Count(fake.Issue) - issued; n != 0 || len(source.Live()) != 1 {
		t.Errorf("it minted %d logins, and %d are there", n, len(source.Live()))
	}
	for range 2 {
		result, err := two.Sync(t.Context(), keeper.Options{})
		if err != nil || len(result.Done) != 0 {
			t.Errorf("its next pass: %v, %v", err, result.Done)
		}
	}
	status, err := two.Status(t.Context())
	if err != nil || !status.Ready || status.Registries[0].Credential != first.ID {
		t.Errorf("it says: %+v, %v; the login is %s", status, err, first.ID)
	}
	if n := source.Count(fake.Issue) - issued; n != 0 || len(source.Live()) != 1 {
		t.Errorf("it minted %d logins, and %d are there", n, len(source.Live()))
	}

	// And back: the second rotates, and the first, stopped once, neither revokes
	// what is new nor brings back what is old.
	if _, err := two.Sync(t.Context(), keeper.Options{Rotate: []credential.Host{hostA}}); err != nil {
		t.Fatal(err)
	}
	second := source.Last()
	target.Remove("one")
	target.Add("one")
	if err := one.Tend(t.Context(), "pods", "one"); err != nil {
		t.Fatal(err)
	}
	if err := one.Flush(t.Context()); !errors.Is(err, state.ErrChanged) {
		t.Errorf("saving what the first did in the meantime: %v", err)
	}
	clock.Advance(30 * time.Minute)
	if _, err := one.Sync(t.Context(), keeper.Options{}); err != nil {
		t.Errorf("the first's next pass: %v", err)
	}
	for _, place := range target.All() {
		if login, ok := target.Look(place, hostA); !ok || !login.Secret.Equal(second.Secret) {
			t.Errorf("%s does not hold the second login", place)
		}
	}
	clock.Advance(2 * time.Hour)
	if _, err := one.Sync(t.Context(), keeper.Options{}); err != nil {
		t.Error(err)
	}
	if live := source.Live(); len(live) != 1 || live[0].ID != second.ID {
		t.Errorf("at the end there is %+v, want %s alone", live, second.ID)
	}
}
