package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

// wantIdle sees what a pass costs in which nothing has changed.
func wantIdle(t *testing.T, w *world, doing string) {
	t.Helper()
	w.resetCounts()
	result, err := w.sync()
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Done)+len(result.Failed) > 0 {
		t.Errorf("%s: done %v, failed %v", doing, result.Done, result.Failed)
	}
	if diff := cmp.Diff(map[string]int{fake.Check: len(w.hosts)}, w.verifier.Counts()); diff != "" {
		t.Errorf("%s: asked of the registries (-want +got):\n%s", doing, diff)
	}
	for host, source := range w.sources {
		if diff := cmp.Diff(map[string]int{}, source.Counts()); diff != "" {
			t.Errorf("%s: asked of %s (-want +got):\n%s", doing, host, diff)
		}
	}
	if n := w.store.Count(fake.Save); n != 0 {
		t.Errorf("%s: saved %d times", doing, n)
	}
	for name, target := range w.targets {
		want := map[string]int{fake.Places: 1, fake.Held: len(target.All())}
		if diff := cmp.Diff(want, target.Counts()); diff != "" {
			t.Errorf("%s: asked of %s (-want +got):\n%s", doing, name, diff)
		}
	}
}

func TestIdlePassCosts(t *testing.T) {
	w := newWorld(with(hostA, hostB, hostC), aimed("files", fake.NewTarget("one", "two")), aimed("pods", fake.NewTarget("pod")))
	w.settle(t)
	wantIdle(t, w, "at once")
	w.clock.Advance(time.Hour)
	wantIdle(t, w, "later")
	w.restart()
	wantIdle(t, w, "after a restart")
	if n := w.fixed.Count(fake.Issue); n != 1 {
		t.Errorf("the given login was looked up %d times", n)
	}
	// A place that is listed and gone is not looked at again and again.
	w.targets["pods"].Gone("pod")
	_, _ = w.sync()
	wantIdle(t, w, "with a place that is gone")
}

// TestIdlePassWhileRetired sees that nothing is written while an overlap runs.
func TestIdlePassWhileRetired(t *testing.T) {
	w := newWorld()
	w.settle(t)
	if _, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA}}); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(time.Minute)
	wantIdle(t, w, "in the overlap")
	if want := w.clock.Now().Add(59 * time.Minute); !w.keeper.Next().Equal(want) {
		t.Errorf("next pass at %s, want the overlap's end %s", w.keeper.Next(), want)
	}
}

// TestPlacesPassCosts sees that a look at the places asks nobody else.
func TestPlacesPassCosts(t *testing.T) {
	w := newWorld(with(hostA, hostC))
	w.settle(t)
	w.targets["hosts"].Add("three")
	w.resetCounts()
	if _, err := w.sync(keeper.Options{Places: true}); err != nil {
		t.Fatal(err)
	}
	for who, counts := range map[string]map[string]int{
		"registries": w.verifier.Counts(), "a source": w.sources[hostA].Counts(), "the given login": w.fixed.Counts(),
	} {
		if len(counts) > 0 {
			t.Errorf("asked of %s: %v", who, counts)
		}
	}
	if diff := cmp.Diff("", w.unsettled()); diff != "" {
		t.Error(diff)
	}
}

// TestPlanChangesNothing sees that a plan of all there is to do does none of it.
func TestPlanChangesNothing(t *testing.T) {
	w := newWorld(with(hostA, hostC))
	for range 2 {
		w.resetCounts()
		plan, err := w.keeper.Plan(context.Background(), keeper.Options{Rotate: []credential.Host{hostA}})
		if err != nil || len(plan.Changes()) == 0 {
			t.Fatalf("plan has no changes: %v, %v", plan, err)
		}
		if n := w.sources[hostA].Count(fake.Issue) + w.store.Count(fake.Save) + w.targets["hosts"].Count(fake.Deliver); n != 0 {
			t.Errorf("planning changed something: %v", plan)
		}
		w.settle(t)
	}
}

// TestManyPlaces delivers three registries' logins to 1,000 places: one write
// to each place, and none where nothing changed.
func TestManyPlaces(t *testing.T) {
	target := fake.NewTarget()
	for i := range 1000 {
		target.Add(credential.Place(fmt.Sprintf("place-%03d", i)))
	}
	w := newWorld(with(hostA, hostB, hostC), aimed("many", target))
	w.parallel = 7
	w.restart()
	check := func(doing string, want int) {
		t.Helper()
		target.Reset()
		if _, err := w.sync(); err != nil {
			t.Fatalf("%s: %v", doing, err)
		}
		if got := target.Count(fake.Deliver); got != want {
			t.Errorf("%s: %d deliveries, want %d", doing, got, want)
		}
		if why := w.unsettled(); why != "" {
			t.Errorf("%s: %s", doing, why)
		}
	}
	check("first pass", 1000)
	for place, n := range target.Writes() {
		if n != 1 {
			t.Errorf("%s was written %d times", place, n)
		}
	}
	check("nothing changed", 0)
	for _, host := range w.hosts {
		target.Put("place-007", host, credential.Login{Username: "x"})
	}
	target.Put("place-500", hostB, credential.Login{Username: "x"})
	check("two places changed", 2)
	if most := target.Most(); most > 7 {
		t.Errorf("%d places were worked on at once, want at most 7", most)
	}
}

// TestParallelBound holds reads until as many are under way as are allowed, and
// sees that no more are.
func TestParallelBound(t *testing.T) {
	const bound = 3
	target := &gated{Target: fake.NewTarget(), release: make(chan struct{})}
	for i := range 20 {
		target.Add(credential.Place(fmt.Sprintf("place-%d", i)))
	}
	target.full.Add(bound)
	k := keeper.New(keeper.Config{
		Instance: instance, Store: &fake.Store{}, Verifier: &fake.Verifier{}, Parallel: bound, Now: fake.NewClock().Now,
		Registries: []keeper.Registry{{Host: hostC, Source: &fake.Fixed{}, Unverified: true}},
		Targets:    []keeper.Target{{Target: target, Name: "gated"}},
	})
	done := make(chan error)
	go func() {
		_, err := k.Sync(context.Background(), keeper.Options{})
		done <- err
	}()
	target.full.Wait()
	close(target.release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if most := target.most(); most != bound {
		t.Errorf("%d reads at once, want %d", most, bound)
	}
}

// gated is a target whose first reads wait for each other.
type gated struct {
	*fake.Target
	full    sync.WaitGroup
	release chan struct{}

	mu              sync.Mutex
	begun, now, top int
}

func (g *gated) most() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.top
}

func (g *gated) Held(ctx context.Context, at credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	g.mu.Lock()
	g.begun++
	g.now++
	g.top = max(g.top, g.now)
	early := g.begun <= 3
	g.mu.Unlock()
	if early {
		g.full.Done()
	}
	<-g.release
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now--
	}()
	return g.Target.Held(ctx, at, hosts)
}

// TestSingleFlight makes many passes at once: none mints but those asked to.
func TestSingleFlight(t *testing.T) {
	w := newWorld(with(hostA, hostB))
	w.parallel = 4
	w.restart()
	run := func(n int, options keeper.Options) {
		var group sync.WaitGroup
		for range n {
			group.Go(func() {
				if _, err := w.sync(options); err != nil {
					t.Error(err)
				}
				if _, err := w.keeper.Status(context.Background()); err != nil {
					t.Error(err)
				}
				_ = w.keeper.Next()
			})
		}
		group.Wait()
	}
	run(10, keeper.Options{})
	if a, b := w.sources[hostA].Count(fake.Issue), w.sources[hostB].Count(fake.Issue); a != 1 || b != 1 {
		t.Errorf("ten first passes minted %d and %d logins, want 1 and 1", a, b)
	}
	run(10, keeper.Options{Rotate: []credential.Host{hostA}})
	if a, b := w.sources[hostA].Count(fake.Issue), w.sources[hostB].Count(fake.Issue); a != 11 || b != 1 {
		t.Errorf("after ten rotations %d and %d logins were minted, want 11 and 1", a, b)
	}
	w.checkPromise(t, "rotated")
	w.clock.Advance(2 * time.Hour)
	w.settle(t)
}

// TestBackOffGrows sees that a source which lists logins and refuses to issue
// is asked less and less.
func TestBackOffGrows(t *testing.T) {
	for name, fails := range map[string]func(*world){
		"issue fails":            func(w *world) { w.sources[hostA].FailBefore(fake.Issue, -1) },
		"issue's answer is lost": func(w *world) { w.sources[hostA].FailAfter(fake.Issue, -1) },
		"list fails":             func(w *world) { w.sources[hostA].FailBefore(fake.Issued, -1) },
		"verification fails":     func(w *world) { w.verifier.FailBefore(fake.Verify, -1) },
		"source locked":          func(w *world) { w.sources[hostA].Locked = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			fails(w)
			end := w.clock.Now().Add(24 * time.Hour)
			passes := 0
			for ; w.clock.Now().Before(end) && passes < 1000; passes++ {
				_, err := w.sync()
				if err == nil && passes == 0 {
					t.Fatal("the pass did not fail")
				}
				next := w.keeper.Next()
				if !next.After(w.clock.Now()) {
					t.Fatalf("pass %d: next at %s, now is %s", passes, next, w.clock.Now())
				}
				w.clock.Advance(next.Sub(w.clock.Now()))
			}
			if passes > 60 {
				t.Errorf("%d passes in a day", passes)
			}
			if n := len(w.sources[hostA].Live()); n > 2 {
				t.Errorf("%d logins were left behind", n-1)
			}
			w.heal()
			w.clock.Advance(2 * time.Hour)
			w.settle(t)
		})
	}
}

// TestRepairedPlace sees that a place which could not be read is served as soon
// as it can be, however long it was left alone for.
func TestRepairedPlace(t *testing.T) {
	w := newWorld()
	w.targets["hosts"].FailBefore(fake.Held, -1)
	for range 12 {
		if _, err := w.sync(); err == nil {
			t.Fatal("the pass did not fail")
		}
		w.clock.Advance(w.keeper.Next().Sub(w.clock.Now()))
	}
	if _, err := w.sync(); err == nil {
		t.Fatal("the pass did not fail")
	}
	w.heal()
	if _, err := w.sync(); err != nil {
		t.Fatal(err)
	}
	if why := w.unsettled(); why != "" {
		t.Error(why)
	}
}

// TestRefusedAfterVerification has a registry that refuses what it accepted when
// it was verified: logins are minted less and less often, not in every pass.
func TestRefusedAfterVerification(t *testing.T) {
	w := newWorld()
	w.verifier.FailBefore(fake.Check, -1)
	w.verifier.FailWith(credential.ErrRefused)
	end := w.clock.Now().Add(24 * time.Hour)
	for passes := 0; w.clock.Now().Before(end) && passes < 1000; passes++ {
		if _, err := w.sync(); !errors.Is(err, credential.ErrRefused) {
			t.Fatalf("pass %d: %v", passes, err)
		}
		w.clock.Advance(time.Minute)
	}
	if n := w.sources[hostA].Count(fake.Issue); n > 60 {
		t.Errorf("%d logins were minted in a day", n)
	}
	w.verifier.Heal()
	w.clock.Advance(2 * time.Hour)
	w.settle(t)
}

// TestClockSetBack sees that a try put off by a clock that was ahead is made.
func TestClockSetBack(t *testing.T) {
	w := newWorld()
	w.clock.Advance(87600 * time.Hour)
	w.sources[hostA].FailBefore(fake.Issue, 1)
	if _, err := w.sync(); err == nil {
		t.Fatal("the pass did not fail")
	}
	w.clock.Advance(-87600 * time.Hour)
	if _, err := w.sync(); err != nil {
		t.Fatal(err)
	}
	if why := w.unsettled(); why != "" {
		t.Fatal(why)
	}
}

// TestForeignClock mints at a source whose clock is ahead, or that does not
// tell the time: one login, not one for each pass.
func TestForeignClock(t *testing.T) {
	for name, issued := range map[string]time.Time{"ahead": noon.Add(87600 * time.Hour), "silent": {}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			inner := w.sources[hostA]
			k := keeper.New(keeper.Config{
				Instance: instance, Store: w.store, Verifier: w.verifier, Now: w.clock.Now,
				Registries: []keeper.Registry{{
					Host: hostA, Source: &dated{inner, issued}, Scopes: credential.ScopesOf(credential.Pull), Schedule: w.schedule,
				}},
				Targets: []keeper.Target{{Target: w.targets["hosts"], Name: "hosts"}},
			})
			for range 3 {
				if _, err := k.Sync(context.Background(), keeper.Options{}); err != nil {
					t.Fatal(err)
				}
			}
			if n := inner.Count(fake.Issue); n != 1 {
				t.Errorf("%d logins were minted", n)
			}
		})
	}
}

// dated is a source with a clock of its own.
type dated struct {
	credential.Minter
	issued time.Time
}

func (d *dated) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	login, err := d.Minter.Issue(ctx, req)
	login.Issued = d.issued
	return login, err
}

// TestCameBackAtTheLastMoment has a stale writer bring a login back between the
// plan that revokes it and its revocation.
func TestCameBackAtTheLastMoment(t *testing.T) {
	w := newWorld()
	w.settle(t)
	old, _ := w.look(slot{"hosts", "one", hostA})
	if _, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA}}); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(2 * time.Hour)
	id := w.sources[hostA].Live()[1].ID
	late := &late{Target: w.targets["hosts"], after: 2, write: func() { w.targets["hosts"].Put("one", hostA, old) }}
	k := keeper.New(keeper.Config{
		Instance: instance, Store: w.store, Verifier: w.verifier, Now: w.clock.Now,
		Registries: []keeper.Registry{{
			Host: hostA, Source: w.sources[hostA], Origin: "fake", Scopes: credential.ScopesOf(credential.Pull), Schedule: w.schedule,
		}},
		Targets: []keeper.Target{{Target: late, Name: "hosts"}},
	})
	if _, err := k.Sync(context.Background(), keeper.Options{}); err != nil {
		t.Fatal(err)
	}
	w.checkPromise(t, "written back")
	if !slices.Contains(names(w.sources[hostA].Live()), id) {
		t.Fatal("the login that came back was revoked")
	}
	w.settle(t)
}

// late is a target in which another program writes before a listing.
type late struct {
	*fake.Target
	after int
	write func()
}

func (l *late) Places(ctx context.Context) ([]credential.Place, error) {
	l.after--
	if l.after == 0 {
		l.write()
	}
	return l.Target.Places(ctx)
}

// TestErrorsHaveOneKind sees what a pass says of what failed.
func TestErrorsHaveOneKind(t *testing.T) {
	w := newWorld(with(hostA, hostB))
	w.settle(t)
	w.sources[hostA].Locked = true
	result, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA, hostB}})
	wantKind(t, err, problem.Denied)
	if problem.HintOf(err) == "" || !errors.Is(err, credential.ErrRefused) {
		t.Errorf("the refusal is lost: %v", err)
	}
	if len(result.Failed) != 1 || result.Failed[0].Step.Host != hostA {
		t.Errorf("failed: %v", result.Failed)
	}
	w.targets["hosts"].Unreachable("two", true)
	_, err = w.sync(keeper.Options{Rotate: []credential.Host{hostA, hostB}})
	wantKind(t, err, problem.Partial)
	status, serr := w.keeper.Status(context.Background())
	if serr != nil || status.Ready {
		t.Errorf("status %+v, %v: want not ready", status, serr)
	}
	w.heal()
	w.clock.Advance(2 * time.Hour)
	w.settle(t)
	status, serr = w.keeper.Status(context.Background())
	if serr != nil || !status.Ready {
		t.Errorf("status %+v, %v: want ready", status, serr)
	}
}

// TestCancelled sees that a pass that was cancelled counts as no failure: the
// next one goes on at once.
func TestCancelled(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithCancel(context.Background())
	w.report = func(keeper.Event) {}
	k := keeper.New(keeper.Config{
		Instance: instance, Store: w.store, Verifier: w.verifier, Now: w.clock.Now,
		Registries: []keeper.Registry{{
			Host: hostA, Source: &cancelling{w.sources[hostA], cancel}, Origin: "fake",
			Scopes: credential.ScopesOf(credential.Pull), Schedule: w.schedule,
		}},
		Targets: []keeper.Target{{Target: w.targets["hosts"], Name: "hosts"}},
	})
	if _, err := k.Sync(ctx, keeper.Options{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled pass ended with %v", err)
	}
	w.checkPromise(t, "cancelled")
	if _, err := k.Sync(context.Background(), keeper.Options{}); err != nil {
		t.Fatal(err)
	}
	if why := w.unsettled(); why != "" {
		t.Fatal(why)
	}
}

// cancelling ends the pass while a login is made.
type cancelling struct {
	credential.Minter
	cancel context.CancelFunc
}

func (c *cancelling) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	login, err := c.Minter.Issue(ctx, req)
	c.cancel()
	return login, err
}
