package keeper_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

// slow is a target whose places can be made to hang.
type slow struct {
	*fake.Target
	mu     sync.Mutex
	gates  map[credential.Place]chan struct{}
	looked map[credential.Place]int
}

func newSlow(places ...credential.Place) *slow {
	return &slow{Target: fake.NewTarget(places...), gates: map[credential.Place]chan struct{}{}, looked: map[credential.Place]int{}}
}

// hang has the place's writes wait until it is let go.
func (s *slow) hang(place credential.Place) (letGo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.gates[place] = gate
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.gates, place)
		close(gate)
	})
}

func (s *slow) Held(ctx context.Context, place credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	s.mu.Lock()
	s.looked[place]++
	s.mu.Unlock()
	return s.Target.Held(ctx, place, hosts)
}

func (s *slow) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	s.mu.Lock()
	gate := s.gates[place]
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return s.Target.Deliver(ctx, place, logins)
}

// looks is how often each place was looked at since the last call.
func (s *slow) looks() map[credential.Place]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	looked := s.looked
	s.looked = map[credential.Place]int{}
	return looked
}

// tended is a keeper with one registry and one target of a cluster's kind.
type tended struct {
	*keeper.Keeper
	clock    *fake.Clock
	source   *fake.Source
	verifier *fake.Verifier
	store    *fake.Store
	failures []error
}

func newTended(target credential.Target, reread time.Duration) *tended {
	k := &tended{
		clock: fake.NewClock(), store: &fake.Store{},
		verifier: &fake.Verifier{Accepts: map[credential.Host]func(credential.Login) (credential.Scopes, bool){}},
	}
	k.source = &fake.Source{Clock: k.clock, Host: hostA, User: "bot"}
	k.verifier.Accepts[hostA] = k.source.Accepts
	var mu sync.Mutex
	k.Keeper = keeper.New(keeper.Config{
		Instance: instance, Store: k.store, Verifier: k.verifier, Now: k.clock.Now,
		Registries: []keeper.Registry{{
			Host: hostA, Source: k.source, Origin: "fake", Scopes: credential.ScopesOf(credential.Pull),
			Schedule: keeper.Schedule{Every: 720 * time.Hour, Overlap: time.Hour},
		}},
		Targets: []keeper.Target{{Target: target, Name: "pods", Kind: "fake", Tended: true, Reread: reread}},
		Report: func(event keeper.Event) {
			mu.Lock()
			defer mu.Unlock()
			if event.Err != nil {
				k.failures = append(k.failures, event.Err)
			}
		},
	})
	return k
}

func (k *tended) sync(t *testing.T, options keeper.Options) keeper.Result {
	t.Helper()
	result, err := k.Sync(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func (k *tended) tend(t *testing.T, places ...credential.Place) {
	t.Helper()
	if err := k.Tend(t.Context(), "pods", places...); err != nil {
		t.Fatal(err)
	}
}

func good(t *testing.T, k *tended, target interface {
	Look(at credential.Place, host credential.Host) (credential.Login, bool)
}, place credential.Place) bool {
	t.Helper()
	login, ok := target.Look(place, hostA)
	if !ok {
		return false
	}
	_, accepted := k.source.Accepts(login)
	return accepted
}

func TestTendServesThePlaceAlone(t *testing.T) {
	t.Parallel()
	target := newSlow("one", "two")
	k := newTended(target, time.Hour)
	k.sync(t, keeper.Options{})
	target.Remove("one")
	target.Add("one") // as a container that was restarted
	target.looks()
	asked := k.verifier.Count(fake.Check) + k.verifier.Count(fake.Verify)
	listed := target.Count(fake.Places)

	k.tend(t, "one")
	if !good(t, k, target, "one") {
		t.Error("the place has no login that is good")
	}
	if diff := cmp.Diff(map[credential.Place]int{"one": 2}, target.looks()); diff != "" {
		t.Errorf("looks, one before and one after (-want +got):\n%s", diff)
	}
	if now := k.verifier.Count(fake.Check) + k.verifier.Count(fake.Verify); now != asked || target.Count(fake.Places) != listed {
		t.Errorf("tending asked the registry %d times and listed the places %d times", now-asked, target.Count(fake.Places)-listed)
	}
	saves := k.store.Count(fake.Save)
	if err := k.Flush(t.Context()); err != nil || k.store.Count(fake.Save) != saves+1 {
		t.Errorf("flush: %v, %d writes", err, k.store.Count(fake.Save)-saves)
	}
	k.tend(t, "one")
	if err := k.Flush(t.Context()); err != nil || k.store.Count(fake.Save) != saves+1 {
		t.Errorf("with nothing to note: %v, %d writes in all", err, k.store.Count(fake.Save)-saves)
	}
}

func TestHangingPlaceHoldsUpNobody(t *testing.T) {
	t.Parallel()
	target := newSlow("hangs", "other")
	k := newTended(target, time.Hour)
	k.sync(t, keeper.Options{})
	for _, place := range []credential.Place{"hangs", "other"} {
		target.Remove(place)
		target.Add(place)
	}
	letGo := target.hang("hangs")
	defer letGo()
	hanging := make(chan error, 1)
	go func() { hanging <- k.Tend(context.Background(), "pods", "hangs") }()
	k.tend(t, "other")
	if !good(t, k, target, "other") {
		t.Error("the other place is not served")
	}
	letGo()
	if err := <-hanging; err != nil || !good(t, k, target, "hangs") {
		t.Errorf("the place that hung is served in the end: %v", err)
	}
}

// A place that is tended while a rotation goes on ends with the login that came
// in force last.
func TestTendNeverWritesTheOlderLoginLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		target := newSlow("one")
		k := newTended(target, time.Hour)
		k.sync(t, keeper.Options{})
		target.Remove("one")
		target.Add("one")
		letGo := target.hang("one")
		tending := make(chan error, 1)
		go func() { tending <- k.Tend(context.Background(), "pods", "one") }()
		synctest.Wait() // it is about to write the first login
		rotating := make(chan error, 1)
		go func() {
			_, err := k.Sync(context.Background(), keeper.Options{Rotate: []credential.Host{hostA}})
			rotating <- err
		}()
		synctest.Wait() // the second login is in force, and waits for the place
		letGo()
		if err := errors.Join(<-tending, <-rotating); err != nil {
			t.Fatal(err)
		}
		k.clock.Advance(2 * time.Hour)
		k.sync(t, keeper.Options{})
		if !good(t, k, target, "one") {
			t.Error("the place holds a login that was revoked")
		}
		if live := k.source.Live(); len(live) != 1 {
			t.Errorf("%d logins are left, want 1", len(live))
		}
	})
}

func TestPlaceThatFailsIsTriedLaterAndLater(t *testing.T) {
	t.Parallel()
	target := newSlow("bad", "good")
	target.Unreachable("bad", true)
	k := newTended(target, time.Hour)
	if _, err := k.Sync(t.Context(), keeper.Options{}); problem.KindOf(err) != problem.Unreachable {
		t.Fatalf("first pass: %v", err)
	}
	var before time.Duration
	for range 6 {
		retries := k.Retries()
		if len(retries) != 1 || retries[0].Place != "bad" {
			t.Fatalf("retries: %+v", retries)
		}
		wait := retries[0].At.Sub(k.clock.Now())
		if wait <= 0 || wait < before/2 {
			t.Errorf("the next try is after %s, the one before was after %s", wait, before)
		}
		if next := k.Next(); !next.IsZero() && next.Before(retries[0].At.Add(time.Hour)) {
			t.Errorf("a whole pass is due at %s for a place that is tended", next)
		}
		target.looks()
		k.sync2(keeper.Options{})
		if n := target.looks()["bad"]; n != 0 {
			t.Errorf("a pass looked %d times at a place whose try is put off", n)
		}
		before = wait
		k.clock.Advance(wait)
		k.tend(t, "bad")
	}
	target.Unreachable("bad", false)
	k.tend(t, "bad")
	if !good(t, k, target, "bad") || len(k.Retries()) != 0 {
		t.Errorf("after it came back: good %t, retries %+v", good(t, k, target, "bad"), k.Retries())
	}
}

// sync2 makes a pass whose failure is known.
func (k *tended) sync2(options keeper.Options) { _, _ = k.Sync(context.Background(), options) }

func TestWhatWasFoundCountsForAWhile(t *testing.T) {
	t.Parallel()
	target := newSlow("one", "two")
	k := newTended(target, time.Hour)
	pass := func(what string, options keeper.Options, want int) {
		t.Helper()
		target.looks()
		k.sync(t, options)
		if got := target.looks()["one"]; got != want {
			t.Errorf("%s: %d looks, want %d", what, got, want)
		}
	}
	pass("first", keeper.Options{}, 2) // before and after the delivery
	pass("soon after", keeper.Options{}, 0)
	pass("asked for", keeper.Options{Impatient: true}, 1)
	k.clock.Advance(time.Hour)
	pass("an hour later", keeper.Options{}, 1)

	// Before a login ends, every place is looked at.
	pass("rotation", keeper.Options{Rotate: []credential.Host{hostA}}, 2)
	old := slices.MinFunc(k.source.Live(), func(a, b fake.Token) int { return a.Created.Compare(b.Created) })
	target.Put("one", hostA, credential.Login{Username: old.Username, Secret: old.Secret}) // nothing told of it
	k.clock.Advance(59 * time.Minute)
	k.sync(t, keeper.Options{})
	k.clock.Advance(2 * time.Minute)
	k.sync(t, keeper.Options{})
	if len(k.source.Live()) != 2 && !good(t, k, target, "one") {
		t.Error("a login was revoked that a place holds")
	}
}

func TestContestedPlace(t *testing.T) {
	t.Parallel()
	target := newSlow("one")
	k := newTended(target, time.Hour)
	k.sync(t, keeper.Options{})
	writes := target.Writes()["one"]
	for range 50 { // another program undoes each delivery at once
		target.Put("one", hostA, credential.Login{Username: "x", Secret: credential.NewSecret("other")})
		k.tend(t, "one")
	}
	if n := target.Writes()["one"] - writes; n > 10 {
		t.Errorf("%d writes within a moment", n)
	}
	if len(k.failures) == 0 || problem.KindOf(k.failures[len(k.failures)-1]) != problem.Busy || len(k.Retries()) != 1 {
		t.Errorf("failures %v, retries %+v", k.failures, k.Retries())
	}
	k.clock.Advance(2 * time.Minute)
	k.tend(t, "one")
	if !good(t, k, target, "one") {
		t.Error("it is not healed when the other has stopped")
	}
}

func TestTendedPlaceIsGone(t *testing.T) {
	t.Parallel()
	target := newSlow("one", "two")
	k := newTended(target, time.Hour)
	k.sync(t, keeper.Options{})
	target.Gone("one")
	k.tend(t, "one")
	if _, known := k.Known("pods", "one"); known || len(k.failures) != 0 || len(k.Retries()) != 0 {
		t.Errorf("known %t, failures %v, retries %v", known, k.failures, k.Retries())
	}
	if row, known := k.Known("pods", "two"); !known || row.Phase != keeper.OK || row.Path != "two" {
		t.Errorf("the other: %+v", row)
	}
}

// mirrored is a target that answers from what it was told, which is late.
type mirrored struct {
	*fake.Target
	told map[credential.Place]map[credential.Host]credential.Login
	dead error
}

func (m *mirrored) Held(_ context.Context, place credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	return m.told[place], nil
}

func (m *mirrored) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	m.told[place] = logins
	return m.Target.Deliver(ctx, place, logins)
}

func (m *mirrored) Refresh(ctx context.Context) error {
	if m.dead != nil {
		return m.dead
	}
	for _, place := range m.All() {
		held, err := m.Target.Held(ctx, place, []credential.Host{hostA})
		if err != nil {
			return err
		}
		m.told[place] = held
	}
	return nil
}

// A login is not ended on the word of a target that was told of nothing for
// want of an answer: it is asked anew.
func TestLoginEndsAfterAskingAnew(t *testing.T) {
	t.Parallel()
	target := &mirrored{Target: fake.NewTarget("one"), told: map[credential.Place]map[credential.Host]credential.Login{}}
	k := newTended(target, 0)
	k.sync(t, keeper.Options{})
	old, _ := target.Look("one", hostA)
	k.sync(t, keeper.Options{Rotate: []credential.Host{hostA}})
	target.Put("one", hostA, old) // put back, and the target is not told
	k.clock.Advance(2 * time.Hour)
	k.sync(t, keeper.Options{})
	if login, _ := target.Look("one", hostA); len(k.source.Live()) != 2 && login.Equal(old) {
		t.Error("the login was revoked that the place holds")
	}

	target.dead = errors.New("no answer")
	k.clock.Advance(4 * time.Hour)
	k.sync2(keeper.Options{})
	if len(k.source.Live()) != 2 {
		t.Error("a login was revoked though the target could not be asked")
	}
	target.dead = nil
	for range 4 {
		k.clock.Advance(2 * time.Hour)
		k.sync2(keeper.Options{})
	}
	if live := k.source.Live(); len(live) != 1 || !good(t, k, target, "one") {
		t.Errorf("in the end: %d logins", len(live))
	}
}
