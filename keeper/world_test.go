package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

const (
	hostA credential.Host = "a.example"
	hostB credential.Host = "b.example"
	// hostC has a login that somebody else made.
	hostC credential.Host = "c.example"
)

const instance = "the-instance"

// sealed is the name of a target whose places cannot be read.
const sealed = "secrets"

// reporter is what testing.T and rapid.T have in common.
type reporter interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is everything outside a keeper, and the keeper in it.
type world struct {
	clock    *fake.Clock
	sources  map[credential.Host]*fake.Source
	fixed    *fake.Fixed
	verifier *fake.Verifier
	targets  map[string]*fake.Target
	store    *fake.Store
	schedule keeper.Schedule
	hosts    []credential.Host
	parallel int
	report   func(keeper.Event)

	process *fake.Process
	keeper  *keeper.Keeper

	// served are the logins that places have had; broken those that the world
	// broke, until they are good again.
	served, broken map[slot]bool
	// ended are logins that the world ended, by secret.
	ended      map[string]bool
	violations []string
}

// slot is where one registry's login lies in one place.
type slot struct {
	target string
	place  credential.Place
	host   credential.Host
}

type option func(*world)

func with(hosts ...credential.Host) option { return func(w *world) { w.hosts = hosts } }

func scheduled(s keeper.Schedule) option { return func(w *world) { w.schedule = s } }

func aimed(name string, target *fake.Target) option {
	return func(w *world) { w.targets[name] = target }
}

func newWorld(options ...option) *world {
	w := &world{
		clock: fake.NewClock(), fixed: &fake.Fixed{}, store: &fake.Store{},
		sources: map[credential.Host]*fake.Source{}, targets: map[string]*fake.Target{},
		verifier: &fake.Verifier{Accepts: map[credential.Host]func(credential.Login) (credential.Scopes, bool){}},
		schedule: keeper.Schedule{Every: 720 * time.Hour, Overlap: time.Hour},
		hosts:    []credential.Host{hostA}, parallel: 1,
		served: map[slot]bool{}, broken: map[slot]bool{}, ended: map[string]bool{},
	}
	for _, o := range options {
		o(w)
	}
	if len(w.targets) == 0 {
		w.targets["hosts"] = fake.NewTarget("one", "two")
	}
	for _, host := range w.hosts {
		s := &fake.Source{Clock: w.clock, Host: host, User: "bot", Lifetimes: true}
		s.OnRevoke = func(token fake.Token) { w.watchRevoke(host, token) }
		// Whoever else uses the account is left alone.
		s.Add("somebody-elses", credential.Pull)
		w.sources[host] = s
		w.verifier.Accepts[host] = s.Accepts
	}
	if slices.Contains(w.hosts, hostC) {
		w.changeFixed()
	}
	w.start(&fake.Process{})
	return w
}

// changeFixed changes the login that somebody else made, and returns the one
// before.
func (w *world) changeFixed() {
	token := w.sources[hostC].Add("given-"+fmt.Sprint(len(w.sources[hostC].Live())), credential.Pull)
	w.fixed.Set(credential.Login{Username: token.Username, Secret: token.Secret})
}

// start begins a process on what the one before left.
func (w *world) start(p *fake.Process) {
	w.process = p
	config := keeper.Config{
		Instance: instance, Store: p.Store(w.store), Verifier: p.Verifier(w.verifier), Now: w.clock.Now,
		Parallel: w.parallel, Report: w.report,
	}
	for _, host := range w.hosts {
		registry := keeper.Registry{
			Host: host, Source: p.Minter(w.sources[host]), Origin: "fake", Scopes: credential.ScopesOf(credential.Pull),
			Schedule: w.schedule,
		}
		if host == hostC {
			registry.Source, registry.Origin = p.Source(w.fixed), "fixed"
		}
		config.Registries = append(config.Registries, registry)
	}
	for _, name := range slices.Sorted(maps.Keys(w.targets)) {
		reached := p.Target(w.targets[name])
		if name == sealed {
			reached = p.Sealed(w.targets[name])
		}
		config.Targets = append(config.Targets, keeper.Target{Target: reached, Name: name, Kind: "fake"})
	}
	w.keeper = keeper.New(config)
}

func (w *world) restart() { w.start(&fake.Process{}) }

func (w *world) sync(options ...keeper.Options) (keeper.Result, error) {
	var o keeper.Options
	if len(options) > 0 {
		o = options[0]
	}
	return w.keeper.Sync(context.Background(), o)
}

func (w *world) slots(host credential.Host) []slot {
	var list []slot
	for name, target := range w.targets {
		for _, place := range target.All() {
			list = append(list, slot{name, place, host})
		}
	}
	return list
}

func (w *world) look(s slot) (credential.Login, bool) {
	return w.targets[s.target].Look(s.place, s.host)
}

func (w *world) good(s slot) bool {
	login, ok := w.look(s)
	if !ok {
		return false
	}
	_, ok = w.sources[s.host].Accepts(login)
	return ok
}

// watchRevoke sees that no login ends that a place holds, reachable or not,
// but for the limit.
func (w *world) watchRevoke(host credential.Host, token fake.Token) {
	if !credential.MarkOf(instance, host).Owns(token.Name) {
		w.violations = append(w.violations, "revoked a login that is not ours: "+token.Name)
	}
	doc, err := w.store.Document()
	if err != nil {
		w.violations = append(w.violations, err.Error())
		return
	}
	for _, retired := range doc.Registry(host).Retired {
		if retired.ID == token.ID && w.schedule.Limit > 0 && !retired.Since.Add(w.schedule.Limit).After(w.clock.Now()) {
			w.breakHolders(host, token)
			return
		}
	}
	if !token.Expires.IsZero() && !w.clock.Now().Before(token.Expires) {
		return
	}
	for _, s := range w.slots(host) {
		login, _ := w.look(s)
		if login.Secret.Equal(token.Secret) {
			w.violations = append(w.violations, fmt.Sprintf("revoked %s while %s %s holds it", token.ID, s.target, s.place))
		}
	}
}

// breakHolders excuses the places that hold a login which the world ends.
func (w *world) breakHolders(host credential.Host, token fake.Token) {
	w.ended[token.Secret.Reveal()] = true
	for _, s := range w.slots(host) {
		if login, ok := w.look(s); ok && login.Secret.Equal(token.Secret) {
			w.broken[s] = true
		}
	}
}

// excuseEnded excuses the places that were given, by a pass that asks no
// registry, a login that the world had ended since the last one that does.
func (w *world) excuseEnded() {
	for _, host := range w.hosts {
		for _, s := range w.slots(host) {
			if login, ok := w.look(s); ok && w.ended[login.Secret.Reveal()] {
				w.broken[s] = true
			}
		}
	}
}

// expired excuses the places whose login ended by itself.
func (w *world) expired() {
	for host, source := range w.sources {
		for _, token := range source.Live() {
			if !token.Expires.IsZero() && !w.clock.Now().Before(token.Expires) {
				w.breakHolders(host, token)
			}
		}
	}
}

// checkPromise is the promise as it holds at every moment.
func (w *world) checkPromise(t reporter, doing string) {
	t.Helper()
	for _, violation := range w.violations {
		t.Fatalf("%s: %s", doing, violation)
	}
	for _, host := range w.hosts {
		for _, s := range w.slots(host) {
			switch {
			case w.good(s):
				w.served[s] = true
				delete(w.broken, s)
			case w.served[s] && !w.broken[s]:
				login, _ := w.look(s)
				t.Fatalf("%s: %s %s held a good login for %s, and now holds %q, which is refused; live: %v",
					doing, s.target, s.place, host, login.Secret.Reveal(), names(w.sources[host].Live()))
			}
		}
	}
	for host, source := range w.sources {
		if !slices.ContainsFunc(source.Live(), func(t fake.Token) bool { return t.Name == "somebody-elses" }) {
			t.Fatalf("%s: somebody else's login at %s is gone", doing, host)
		}
	}
}

func names(tokens []fake.Token) []string {
	var list []string
	for _, t := range tokens {
		list = append(list, t.ID)
	}
	return list
}

// settled says why the world is not at rest: exactly the logins in force
// exist, every place holds them, and the journal is closed. Empty means it is.
func (w *world) unsettled() string {
	doc, err := w.store.Document()
	if err != nil {
		return err.Error()
	}
	for _, host := range w.hosts {
		r := doc.Registry(host)
		switch {
		case r.Current == nil:
			return fmt.Sprintf("%s has no login in force", host)
		case r.Intent != nil:
			return fmt.Sprintf("%s has an open intent %s", host, r.Intent.Name)
		case r.Next != nil:
			return fmt.Sprintf("%s has a next login %s", host, r.Next.ID)
		case len(r.Retired) > 0:
			return fmt.Sprintf("%s has a retired login %s", host, r.Retired[0].ID)
		}
		if _, ok := w.sources[host].Accepts(r.Current.Login()); !ok {
			return fmt.Sprintf("%s refuses the login in force", host)
		}
		for _, token := range w.sources[host].Live() {
			if credential.MarkOf(instance, host).Owns(token.Name) && token.ID != r.Current.ID {
				return fmt.Sprintf("%s has an orphan %s", host, token.ID)
			}
		}
		for _, s := range w.slots(host) {
			if login, ok := w.look(s); !ok || !login.Equal(r.Current.Login()) {
				return fmt.Sprintf("%s %s does not hold the login in force for %s", s.target, s.place, host)
			}
		}
	}
	return ""
}

// settle lets a healthy world come to rest, and fails if it does not.
func (w *world) settle(t reporter) {
	t.Helper()
	const rounds = 12
	why := ""
	for i := range rounds {
		_, err := w.sync()
		w.checkPromise(t, fmt.Sprintf("settling %d", i))
		why = w.unsettled()
		if why == "" && err == nil {
			break
		}
		if why == "" {
			why = err.Error()
		}
		w.clock.Advance(w.schedule.Overlap + 2*time.Hour)
		w.expired()
	}
	if why != "" {
		t.Fatalf("does not settle: %s", why)
	}
}

func (w *world) heal() {
	for _, s := range w.sources {
		s.Heal()
		s.Locked = false
	}
	w.fixed.Heal()
	w.verifier.Heal()
	w.store.Heal()
	for _, target := range w.targets {
		target.Heal()
		for _, place := range target.All() {
			target.Unreachable(place, false)
			target.Lossy(place, false)
		}
	}
}

func (w *world) document(t testing.TB) *state.Document {
	t.Helper()
	doc, err := w.store.Document()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func (w *world) resetCounts() {
	for _, s := range w.sources {
		s.Reset()
	}
	w.fixed.Reset()
	w.verifier.Reset()
	w.store.Reset()
	for _, target := range w.targets {
		target.Reset()
	}
}

func wantKind(t *testing.T, err error, want problem.Kind) {
	t.Helper()
	if got := problem.KindOf(err); got != want {
		t.Fatalf("error is of kind %q, want %q: %v", got, want, err)
	}
}

var errOdd = errors.New("odd")
