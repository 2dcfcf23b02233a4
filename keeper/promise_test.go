package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

// TestPromiseHolds does anything to a keeper and its world, in any order, and
// checks the rotation promise after each. Then the world is healed, and must
// come to rest.
func TestPromiseHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(
			with(hostA, hostB, hostC),
			aimed("files", fake.NewTarget("one", "two")), aimed("pods", fake.NewTarget("pod")), aimed(sealed, fake.NewTarget("three")),
			scheduled(keeper.Schedule{
				Every:    720 * time.Hour,
				Jitter:   72 * time.Hour,
				Overlap:  rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "overlap"),
				Limit:    rapid.SampledFrom([]time.Duration{0, 24 * time.Hour}).Draw(t, "limit"),
				Lifetime: rapid.SampledFrom([]time.Duration{0, 2000 * time.Hour}).Draw(t, "lifetime"),
			}),
		)
		w.parallel = rapid.SampledFrom([]int{1, 4}).Draw(t, "parallel")
		w.restart()
		m := &machine{w: w, pods: 1}
		t.Repeat(m.actions())
		w.heal()
		w.restart()
		w.settle(t)
	})
}

// machine is what can happen.
type machine struct {
	w    *world
	pods int
	// old are logins that were in force once.
	old map[credential.Host][]credential.Login
}

func (m *machine) actions() map[string]func(*rapid.T) {
	w := m.w
	return map[string]func(*rapid.T){
		"":                func(t *rapid.T) { w.checkPromise(t, "then") },
		"pass":            func(*rapid.T) { m.pass(keeper.Options{}) },
		"pass for places": func(*rapid.T) { m.pass(keeper.Options{Places: true}) },
		"tend": func(t *rapid.T) {
			if s, ok := m.slot(t); ok {
				m.tend(s)
			}
		},
		"pass impatiently": func(*rapid.T) { m.pass(keeper.Options{Impatient: true}) },
		"rotate": func(t *rapid.T) {
			m.pass(keeper.Options{Rotate: []credential.Host{m.host(t)}})
		},
		"killed at a save":    func(t *rapid.T) { m.kill(t, 14, map[string]bool{fake.Save: true}) },
		"killed anywhere":     func(t *rapid.T) { m.kill(t, 60, nil) },
		"restart":             func(*rapid.T) { w.restart() },
		"state lost":          func(*rapid.T) { w.store.Lose(); w.restart() },
		"save fails":          func(t *rapid.T) { m.fail(t, &w.store.Calls, fake.Save) },
		"source fails":        func(t *rapid.T) { m.fail(t, &w.sources[m.host(t)].Calls, fake.Issue, fake.Issued, fake.Revoke) },
		"source locked":       func(t *rapid.T) { s := w.sources[m.host(t)]; s.Locked = !s.Locked },
		"given login fails":   func(t *rapid.T) { m.fail(t, &w.fixed.Calls, fake.Issue) },
		"given login changes": func(*rapid.T) { w.changeFixed() },
		"registry fails":      func(t *rapid.T) { m.fail(t, &w.verifier.Calls, fake.Verify, fake.Check) },
		"target fails":        func(t *rapid.T) { m.fail(t, &m.target(t).Calls, fake.Places, fake.Held, fake.Deliver) },
		"place unreachable": func(t *rapid.T) {
			if s, ok := m.slot(t); ok {
				w.targets[s.target].Unreachable(s.place, rapid.Bool().Draw(t, "unreachable"))
			}
		},
		"place lossy": func(t *rapid.T) {
			if s, ok := m.slot(t); ok {
				w.targets[s.target].Lossy(s.place, rapid.Bool().Draw(t, "lossy"))
			}
		},
		"place appears": func(*rapid.T) {
			w.targets["pods"].Add(credential.Place(fmt.Sprintf("pod-%d", m.pods)))
			m.pods++
		},
		"place disappears": func(t *rapid.T) {
			s, ok := m.slot(t)
			if !ok || s.target != "pods" {
				return
			}
			w.targets[s.target].Remove(s.place)
			for _, host := range w.hosts {
				s.host = host
				delete(w.served, s)
				delete(w.broken, s)
			}
		},
		"stale writer": func(t *rapid.T) {
			s, ok := m.slot(t)
			if !ok || len(m.old[s.host]) == 0 {
				return
			}
			login := rapid.SampledFrom(m.old[s.host]).Draw(t, "old login")
			w.targets[s.target].Put(s.place, s.host, login)
			if !w.good(s) {
				w.broken[s] = true
			}
		},
		"foreign writer": func(t *rapid.T) {
			if s, ok := m.slot(t); ok {
				w.targets[s.target].Put(s.place, s.host, credential.Login{Username: "x", Secret: credential.NewSecret("garbage")})
				w.broken[s] = true
			}
		},
		"token deleted": func(t *rapid.T) {
			host := m.host(t)
			for _, token := range w.sources[host].Live() {
				if credential.MarkOf(instance, host).Owns(token.Name) && rapid.Bool().Draw(t, "deleted") {
					w.breakHolders(host, token)
					w.sources[host].Delete(token.ID)
				}
			}
		},
		"clock steps": func(t *rapid.T) {
			w.clock.Advance(rapid.SampledFrom([]time.Duration{
				time.Second, time.Minute, 30 * time.Minute, 2 * time.Hour, 25 * time.Hour, 721 * time.Hour, 3000 * time.Hour,
				-time.Minute, -2 * time.Hour, -1000 * time.Hour,
			}).Draw(t, "by"))
			w.expired()
		},
		"healed": func(*rapid.T) { w.heal() },
	}
}

// pass makes a pass. One that asks the registries nothing, or is not answered,
// cannot know which logins the world ended.
func (m *machine) pass(options keeper.Options) {
	blind := options.Places || m.w.verifier.Failing(fake.Check)
	_, _ = m.w.sync(options)
	if blind {
		m.w.excuseEnded()
	}
	doc, err := m.w.store.Document()
	if err != nil {
		return
	}
	// Stale writers have what was in force.
	if m.old == nil {
		m.old = map[credential.Host][]credential.Login{}
	}
	for host, r := range doc.Registries {
		if r.Current == nil {
			continue
		}
		login := r.Current.Login()
		if !slices.ContainsFunc(m.old[host], login.Equal) {
			m.old[host] = append(m.old[host], login)
		}
	}
}

// tend tends one place, as after a change there.
func (m *machine) tend(s slot) {
	// What fails is reported as a step; the promise is what counts.
	_ = m.w.keeper.Tend(context.Background(), s.target, s.place)
	// It asks no registry, so that it cannot know which logins the world ended.
	m.w.excuseEnded()
}

func (m *machine) host(t *rapid.T) credential.Host {
	return rapid.SampledFrom([]credential.Host{hostA, hostB}).Draw(t, "host")
}

func (m *machine) target(t *rapid.T) *fake.Target {
	return m.w.targets[rapid.SampledFrom(slices.Sorted(maps.Keys(m.w.targets))).Draw(t, "target")]
}

func (m *machine) slot(t *rapid.T) (slot, bool) {
	var all []slot
	for _, host := range m.w.hosts {
		all = append(all, m.w.slots(host)...)
	}
	if len(all) == 0 {
		return slot{}, false
	}
	slices.SortFunc(all, func(a, b slot) int { return compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return rapid.SampledFrom(all).Draw(t, "slot"), true
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// fail lets a call fail once, twice, or from now on.
func (m *machine) fail(t *rapid.T, calls *fake.Calls, names ...string) {
	name := rapid.SampledFrom(names).Draw(t, "call")
	n := rapid.SampledFrom([]int{1, 2, -1, 0}).Draw(t, "times")
	if rapid.Bool().Draw(t, "after the effect") {
		calls.FailAfter(name, n)
		return
	}
	calls.FailBefore(name, n)
}

// kill starts a process that ends in the middle of a rotation, and another
// after it.
func (m *machine) kill(t *rapid.T, most int, only map[string]bool) {
	w := m.w
	w.start(&fake.Process{
		KillAt: rapid.IntRange(1, most).Draw(t, "call"), After: rapid.Bool().Draw(t, "after the effect"), Only: only,
	})
	m.pass(keeper.Options{Rotate: []credential.Host{m.host(t)}})
	w.checkPromise(t, "killed")
	w.restart()
}

// TestKilledAnywhere kills a rotation at each of its calls in turn, before and
// after the call's effect.
func TestKilledAnywhere(t *testing.T) {
	prepare := func() *world {
		w := newWorld(with(hostA, hostB), aimed("files", fake.NewTarget("one")), aimed("pods", fake.NewTarget("pod")), aimed(sealed, fake.NewTarget("two")))
		if _, err := w.sync(); err != nil {
			t.Fatal(err)
		}
		w.checkPromise(t, "prepared")
		return w
	}
	// script rotates one registry and waits for the old login's end.
	script := func(w *world) error {
		if _, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA}}); err != nil {
			return err
		}
		w.clock.Advance(w.schedule.Overlap + time.Second)
		_, err := w.sync()
		return err
	}
	whole := prepare()
	whole.start(&fake.Process{})
	if err := script(whole); err != nil {
		t.Fatal(err)
	}
	if why := whole.unsettled(); why != "" {
		t.Fatalf("the script does not settle: %s", why)
	}
	calls := whole.process.Calls()
	for _, step := range []string{fake.Issue, fake.Issued, fake.Revoke, fake.Verify, fake.Check, fake.Places, fake.Held, fake.Deliver, fake.Save, fake.Load} {
		if !slices.Contains(calls, step) {
			t.Fatalf("the script has no %s: %v", step, calls)
		}
	}
	if len(calls) < 30 {
		t.Fatalf("the script has %d calls only", len(calls))
	}
	for i := range calls {
		for _, after := range []bool{false, true} {
			name := fmt.Sprintf("call %d (%s), effect %t", i+1, calls[i], after)
			w := prepare()
			w.start(&fake.Process{KillAt: i + 1, After: after})
			if err := script(w); !errors.Is(err, fake.ErrKilled) && !w.process.Dead() {
				t.Fatalf("%s: the process was not killed: %v", name, err)
			}
			w.checkPromise(t, name)
			w.restart()
			if _, err := w.sync(); err != nil {
				t.Fatalf("%s: the pass after it: %v", name, err)
			}
			w.checkPromise(t, name+", the pass after it")
			w.settle(t)
			if n := len(w.sources[hostA].Live()); n != 2 {
				t.Fatalf("%s: %d logins are left", name, n)
			}
		}
	}
}

// TestFirstRunKilledAnywhere kills the very first pass at each of its calls.
func TestFirstRunKilledAnywhere(t *testing.T) {
	whole := newWorld(with(hostA, hostC))
	if _, err := whole.sync(); err != nil {
		t.Fatal(err)
	}
	for i, call := range whole.process.Calls() {
		for _, after := range []bool{false, true} {
			w := newWorld(with(hostA, hostC))
			w.start(&fake.Process{KillAt: i + 1, After: after})
			_, _ = w.sync()
			name := fmt.Sprintf("call %d (%s), effect %t", i+1, call, after)
			if !w.process.Dead() {
				t.Fatalf("%s: the process was not killed", name)
			}
			w.checkPromise(t, name)
			w.restart()
			w.settle(t)
		}
	}
}

// TestStateLostAnywhere loses the state at each save of a rotation.
func TestStateLostAnywhere(t *testing.T) {
	for i := 1; ; i++ {
		w := newWorld(with(hostA))
		w.settle(t)
		w.start(&fake.Process{KillAt: i, After: true, Only: map[string]bool{fake.Save: true}})
		_, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA}})
		if err == nil {
			if i < 4 {
				t.Fatalf("the rotation has %d saves only", i)
			}
			return
		}
		w.store.Lose()
		w.restart()
		_, _ = w.sync()
		w.checkPromise(t, fmt.Sprintf("state lost after save %d", i))
		w.settle(t)
	}
}

// TestAnswerLost has a source make a token and lose the answer: the token is
// ended, and another takes its place.
func TestAnswerLost(t *testing.T) {
	w := newWorld()
	w.settle(t)
	w.sources[hostA].FailAfter(fake.Issue, 1)
	if _, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA}}); !errors.Is(err, fake.ErrFake) {
		t.Fatalf("the lost answer is not reported: %v", err)
	}
	lost := w.sources[hostA].Last()
	w.checkPromise(t, "answer lost")
	w.clock.Advance(time.Hour)
	w.settle(t)
	if slices.Contains(names(w.sources[hostA].Live()), lost.ID) {
		t.Fatal("the login whose answer was lost is still there")
	}
}

// TestSettingsComeBack changes what is asked for while a login waits for its
// verification, and changes it back: the login that waited is not left over.
func TestSettingsComeBack(t *testing.T) {
	w := newWorld()
	w.settle(t)
	w.verifier.FailBefore(fake.Verify, -1)
	if _, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA}}); err == nil {
		t.Fatal("a login was put in force unverified")
	}
	doc := w.document(t)
	if doc.Registry(hostA).Next == nil {
		t.Fatal("no login waits for its verification")
	}
	// As if it had been issued for other terms.
	doc.Registry(hostA).Next.Terms = "other"
	if err := w.store.Save(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
	w.heal()
	w.restart()
	w.settle(t)
}

// TestMovedToAnotherSource replaces the source while a login waits for its
// verification: what the source before issued is kept track of.
func TestMovedToAnotherSource(t *testing.T) {
	w := newWorld(with(hostC))
	w.settle(t)
	doc := w.document(t)
	before := credential.Credential{ID: "old1", Name: "old", Host: hostC, Username: "u", Secret: credential.NewSecret("s")}
	doc.Registry(hostC).Next = &state.Credential{Credential: before, Origin: "minter before"}
	if err := w.store.Save(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.changeFixed()
	if _, err := w.sync(); err != nil {
		t.Fatal(err)
	}
	r := w.document(t).Registry(hostC)
	if r.Next != nil || len(r.Retired) != 1 || r.Retired[0].ID != "old1" {
		t.Fatalf("the login of the source before is lost track of: next %v, retired %v", r.Next, r.Retired)
	}
}

// TestLimit ends a login that an unreachable place may hold, but only when the
// limit has passed.
func TestLimit(t *testing.T) {
	w := newWorld(scheduled(keeper.Schedule{Overlap: time.Minute, Limit: 24 * time.Hour}))
	w.settle(t)
	old := w.sources[hostA].Last()
	w.targets["hosts"].Unreachable("two", true)
	_, _ = w.sync(keeper.Options{Rotate: []credential.Host{hostA}})
	for range 23 {
		w.clock.Advance(time.Hour)
		_, _ = w.sync()
		if !slices.Contains(names(w.sources[hostA].Live()), old.ID) {
			t.Fatal("a login ended that an unreachable place holds, before the limit")
		}
	}
	w.checkPromise(t, "before the limit")
	w.clock.Advance(2 * time.Hour)
	_, _ = w.sync()
	if slices.Contains(names(w.sources[hostA].Live()), old.ID) {
		t.Fatal("the limit has passed, and the login is still there")
	}
	w.heal()
	w.clock.Advance(2 * time.Hour)
	w.settle(t)
}

// TestRefusedLoginIsNotDelivered deletes the login in force behind our back,
// while a stale writer has brought back the one before, which is accepted still:
// a place is not given what is known to be refused.
func TestRefusedLoginIsNotDelivered(t *testing.T) {
	for _, impatient := range []bool{false, true} {
		w := newWorld()
		w.settle(t)
		old, _ := w.look(slot{"hosts", "one", hostA})
		if _, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA}}); err != nil {
			t.Fatal(err)
		}
		last := w.sources[hostA].Last()
		w.breakHolders(hostA, last)
		w.sources[hostA].Delete(last.ID)
		w.targets["hosts"].Put("one", hostA, old)
		w.sources[hostA].Locked = true
		w.checkPromise(t, "written back")
		for range 3 {
			_, err := w.sync(keeper.Options{Impatient: impatient})
			wantKind(t, err, problem.Denied)
			w.checkPromise(t, "refused")
		}
		w.heal()
		w.clock.Advance(2 * time.Hour)
		w.settle(t)
	}
}

// TestLossyPlace sees that what is written is read back, and that the old login
// stays while a place loses the new one.
func TestLossyPlace(t *testing.T) {
	w := newWorld()
	w.settle(t)
	w.targets["hosts"].Lossy("two", true)
	_, err := w.sync(keeper.Options{Rotate: []credential.Host{hostA}})
	wantKind(t, err, problem.Busy)
	for range 5 {
		w.clock.Advance(2 * time.Hour)
		_, _ = w.sync()
		w.checkPromise(t, "lossy")
	}
	w.heal()
	w.clock.Advance(2 * time.Hour)
	w.settle(t)
}
