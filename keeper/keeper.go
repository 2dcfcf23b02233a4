// Package keeper owns the first flow: logins are issued, verified, delivered
// to their targets, and the ones they replace are revoked. It keeps the
// rotation promise: at every moment each place holds a login that the registry
// accepts, and when all has settled exactly the logins in force exist at their
// sources.
//
// Decide is pure: an observation goes in, a plan with reasons comes out. Keeper
// observes, lets Decide plan, and carries the plan out, journaling each step
// before and after it. It refuses to know any adapter, and to decide when to
// run: drivers do.
package keeper

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

// Registry is a registry whose logins are kept.
type Registry struct {
	Host   credential.Host
	Source credential.Source
	// Origin names the source and the account it issues logins for. When it
	// changes, so does the login. It holds no secret.
	Origin string
	// Terms are what the source was told of the logins besides their scopes.
	// When they change, so does the login.
	Terms    string
	Scopes   credential.Scopes
	Schedule Schedule
	// Probe is an image that verification pulls; empty to have one found.
	Probe string
	// Unverified leaves out verification: a login is delivered without anyone
	// having tried it.
	Unverified bool
}

// mints says whether the source makes logins of its own.
func (r Registry) mints() bool {
	_, ok := r.Source.(credential.Minter)
	return ok
}

// Target is a target with its name, and the registries whose logins go there.
type Target struct {
	credential.Target
	Name string
	Kind string
	// Hosts are the registries; none means all.
	Hosts []credential.Host
	// Tended says that places which failed are tried again by [Keeper.Tend], and
	// no pass is due for that.
	Tended bool
	// Reread is how long what was found in a place counts, where a look takes a
	// request, and may hang: a place that failed is not looked at before its
	// next try then. Zero has each pass look at each place.
	Reread time.Duration
}

// Event is something that was done, or that could not be.
type Event struct {
	Step Step
	Took time.Duration
	// Err is why the step failed; nil if it did not.
	Err error
}

// Config is what a Keeper works with.
type Config struct {
	// Instance is the id by which the logins that were minted are known.
	Instance   string
	Registries []Registry
	Targets    []Target
	Store      state.Store
	Verifier   credential.Verifier
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Parallel bounds how many places or registries are worked on at once;
	// zero means 16.
	Parallel int
	// Report is told of each step as it ends, from several goroutines; it may
	// be nil.
	Report func(Event)
}

// Keeper keeps the logins of some registries in some targets.
type Keeper struct {
	config Config
	// running makes passes single: one at a time.
	running sync.Mutex
	// saving makes writes of the document single. It is taken before mu, which
	// nobody holds while the store is at work.
	saving sync.Mutex

	mu     sync.Mutex // guards what follows
	doc    *state.Document
	checks map[credential.Host]finding
	// stale says that someone else has changed the document in the store.
	stale bool
	// unsaved says that doc has more than the store, of what may be lost: when
	// places were served, and what is wrong with them.
	unsaved bool
	retries map[string]*retry
	next    time.Time
	// seen is what was found in the places that are not looked at each time.
	seen map[string]PlaceView
	// locks has a lock for each place that is being served.
	locks map[string]*placeLock
	// meanwhile are changes to doc that were noted while it was being saved.
	meanwhile []func(*state.Document)
	// healed has when a place was last served for having changed.
	healed map[string][]time.Time
}

// finding is what a registry and its source said last.
type finding struct {
	// given is why the source has no login, check what the registry says to
	// the one in force.
	given, check error
}

// retry is when something that failed is tried again.
type retry struct {
	backoff backoff.ExponentialBackOff
	at      time.Time
	// err is the last failure.
	err error
	// target and place are set for a place.
	target string
	place  credential.Place
	// unread says that a place could not be read when it failed: the failure is
	// over when it can.
	unread bool
}

const (
	defaultParallel = 16
	firstRetry      = 2 * time.Second
	lastRetry       = time.Hour
	// maxRounds bounds the rounds of one pass: minting and delivering is one,
	// releasing another, revoking a third.
	maxRounds = 5
)

// New makes a keeper. It does nothing until it is told to.
func New(config Config) *Keeper {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Parallel <= 0 {
		config.Parallel = defaultParallel
	}
	if config.Report == nil {
		config.Report = func(Event) {}
	}
	return &Keeper{
		config: config, checks: map[credential.Host]finding{}, retries: map[string]*retry{},
		locks: map[string]*placeLock{}, healed: map[string][]time.Time{},
		seen: map[string]PlaceView{},
	}
}

// Options are what one pass does besides what is due.
type Options struct {
	// Rotate are registries to rotate now.
	Rotate []credential.Host
	// Impatient tries again at once what failed a short while ago.
	Impatient bool
	// Places looks at the places alone: nothing is asked of a registry or a
	// source, unless something is due there.
	Places bool
}

// Result is what a pass did.
type Result struct {
	// Done and Failed are the steps that changed something, and those that
	// should have.
	Done   []Step    `json:"done"`
	Failed []Failure `json:"failed"`
	// Plan is what is left: the last plan made.
	Plan Plan `json:"plan"`
	// Status is how things stood when that plan was made.
	Status Status `json:"-"`
}

// Failure is a step that failed, as people are told of it.
type Failure struct {
	Step    Step   `json:"step"`
	Problem string `json:"problem"`
	Hint    string `json:"hint,omitempty"`

	err error
}

// Sync makes one pass: it observes, plans and applies until nothing is left to
// change or nothing more can be. Passes do not overlap. A pass that is
// cancelled or killed leaves a journal from which the next one goes on.
//
// The error is a problem: of the kind that all failures have in common, or of
// kind [problem.Partial].
func (k *Keeper) Sync(ctx context.Context, options Options) (Result, error) {
	k.running.Lock()
	defer k.running.Unlock()
	if err := k.renew(ctx); err != nil {
		return Result{}, err
	}
	if holder, ok := k.config.Store.(state.Holder); ok {
		if err := holder.Held(ctx); err != nil {
			return Result{}, err
		}
	}
	if options.Impatient || len(options.Rotate) > 0 {
		k.forgive()
	}
	var result Result
	var obs Observation
	rotate := options.Rotate
	look := look{ask: !options.Places, fresh: options.Impatient || len(rotate) > 0}
	for range maxRounds {
		obs = k.observe(ctx, rotate, look)
		if err := ctx.Err(); err != nil {
			return result, err
		}
		k.distrust(&obs, result.Done)
		result.Plan = Decide(obs)
		if len(result.Plan.Changes()) == 0 {
			break
		}
		done, failed, err := k.apply(ctx, obs, result.Plan)
		result.Done = append(result.Done, done...)
		result.Failed = append(result.Failed, failed...)
		if err != nil {
			return result, err
		}
		// A rotation that was asked for has been tried: it is not to be
		// repeated for having failed.
		rotate = nil
		look.fresh = false
		if len(done) == 0 {
			break
		}
	}
	k.mu.Lock()
	k.dropRetries(obs)
	k.next = k.soonest(result.Plan)
	k.mu.Unlock()
	if err := k.recordTroubles(ctx, obs, result); err != nil {
		return result, err
	}
	result.Status = k.report(obs)
	return result, k.summarize(result)
}

// dropRetries forgets the tries of what does not lag any more. The caller holds
// mu.
func (k *Keeper) dropRetries(obs Observation) {
	keep := map[string]bool{}
	for _, lag := range obs.Lags {
		if lag.Err != nil {
			return
		}
		keep[lagKey(lag.Target, lag.Lag)] = true
	}
	maps.DeleteFunc(k.retries, func(key string, _ *retry) bool { return strings.HasPrefix(key, lagPrefix) && !keep[key] })
}

// distrust puts off minting where the registry refuses a login that was just
// verified and put in force: another would fare no better, and each pass would
// make one.
func (k *Keeper) distrust(obs *Observation, done []Step) {
	for i := range obs.Registries {
		view := &obs.Registries[i]
		key := acceptKey(view.Host)
		switch renewed := slices.ContainsFunc(done, func(s Step) bool {
			return s.Host == view.Host && (s.Action == Mint || s.Action == Verify)
		}); {
		case renewed && errors.Is(view.Check, credential.ErrRefused):
			k.settle(key, view.Check)
		case renewed && view.Check == nil:
			k.settle(key, nil)
		}
		if at := k.retryAt(key); at.After(view.Retry) {
			view.Retry = at
		}
	}
}

// Plan is what Sync would do first, with reasons. It changes nothing.
func (k *Keeper) Plan(ctx context.Context, options Options) (Plan, error) {
	k.running.Lock()
	defer k.running.Unlock()
	if err := k.renew(ctx); err != nil {
		return Plan{}, err
	}
	obs := k.observe(ctx, options.Rotate, look{ask: true, fresh: true})
	return Decide(obs), ctx.Err()
}

// Next is when the next pass is due by what the last one found; zero if
// nothing is scheduled.
func (k *Keeper) Next() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.next
}

// soonest is when a pass is due. What [Keeper.Tend] tries again is not its.
func (k *Keeper) soonest(plan Plan) time.Time {
	tended := map[string]bool{}
	for _, t := range k.config.Targets {
		tended[t.Name] = t.Tended
	}
	next := Plan{slices.DeleteFunc(slices.Clone(plan.Steps), func(s Step) bool {
		return s.Action == Wait && s.Place != "" && tended[s.Target]
	})}.Next()
	now := k.config.Now()
	for _, r := range k.retries {
		if r.at.After(now) && !tended[r.target] && (next.IsZero() || r.at.Before(next)) {
			next = r.at
		}
	}
	return next
}

// Rotate is what is to be rotated: the hosts, or all whose logins regkeeper
// makes.
type Rotate struct {
	All   bool
	Hosts []credential.Host
}

// Hosts lists what an order to rotate comes to. The error is a problem of kind
// NotFound for a registry that is not kept, and of kind Usage for a login that
// regkeeper does not make.
func (k *Keeper) Hosts(rotate Rotate) ([]credential.Host, error) {
	hosts := slices.Clone(rotate.Hosts)
	for _, host := range hosts {
		i := slices.IndexFunc(k.config.Registries, func(r Registry) bool { return r.Host == host })
		if i < 0 {
			return nil, problem.New(problem.NotFound, "regkeeper status lists the registries", "registry %s is not in the configuration", host)
		}
		if !k.config.Registries[i].mints() {
			return nil, problem.New(problem.Usage, "change it where it is kept; it is delivered at the next pass",
				"the login for %s is not made by regkeeper", host)
		}
	}
	if rotate.All {
		for _, r := range k.config.Registries {
			if r.mints() {
				hosts = append(hosts, r.Host)
			}
		}
		if len(hosts) == 0 {
			return nil, problem.New(problem.Usage, "change the secrets where they are kept; they are delivered at the next pass",
				"there is no login that regkeeper makes")
		}
	}
	return hosts, nil
}

// Registries lists the hosts that are kept.
func (k *Keeper) Registries() []credential.Host {
	hosts := make([]credential.Host, len(k.config.Registries))
	for i, r := range k.config.Registries {
		hosts[i] = r.Host
	}
	return hosts
}

// load reads the document, if nobody has yet.
func (k *Keeper) load(ctx context.Context) error {
	k.mu.Lock()
	loaded := k.doc != nil
	k.mu.Unlock()
	if loaded {
		return nil
	}
	return k.reload(ctx)
}

// renew reads the document anew if someone else has changed it. Only between
// passes: in one, its steps would be of another document.
func (k *Keeper) renew(ctx context.Context) error {
	k.mu.Lock()
	good := k.doc != nil && !k.stale
	k.mu.Unlock()
	if good {
		return nil
	}
	return k.reload(ctx)
}

func (k *Keeper) reload(ctx context.Context) error {
	k.saving.Lock()
	defer k.saving.Unlock()
	doc, err := k.config.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("load state: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doc, k.stale, k.unsaved = doc, false, false
	return nil
}

// saveTime bounds one write of the document: a pass that was told to end waits
// for it.
const saveTime = 30 * time.Second

// journal changes the document, and returns when the change is safe. On an
// error the document is as it was.
func (k *Keeper) journal(ctx context.Context, change func(*state.Document)) error {
	k.saving.Lock()
	defer k.saving.Unlock()
	k.mu.Lock()
	changed := k.doc.Clone()
	k.meanwhile = nil
	k.mu.Unlock()
	change(changed)
	// A step that was begun is journaled also when the pass is cancelled.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer cancel()
	err := k.config.Store.Save(ctx, changed)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.stale = k.stale || errors.Is(err, state.ErrChanged)
		return fmt.Errorf("journal: %w", err)
	}
	for _, noted := range k.meanwhile {
		noted(changed)
	}
	k.doc, k.unsaved = changed, len(k.meanwhile) > 0
	k.meanwhile = nil
	return nil
}

// entry is a copy of a registry's journal.
func (k *Keeper) entry(host credential.Host) *state.Registry {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := k.doc.Registries[host]; ok {
		return r.Clone()
	}
	return &state.Registry{}
}

func (k *Keeper) retryAt(key string) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	// A try that is further off than any is put off was set by a clock that has
	// been set back since.
	if r, ok := k.retries[key]; ok && r.at.Before(k.config.Now().Add(2*lastRetry)) {
		return r.at
	}
	return time.Time{}
}

// settle notes how a try ended: a failure puts the next try off, longer each
// time, from seconds to an hour.
func (k *Keeper) settle(key string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		delete(k.retries, key)
		return
	}
	r, ok := k.retries[key]
	if !ok {
		r = &retry{backoff: backoff.ExponentialBackOff{
			InitialInterval: firstRetry, MaxInterval: lastRetry, Multiplier: 2, RandomizationFactor: 0.5,
		}}
		r.backoff.Reset()
		k.retries[key] = r
	}
	r.at, r.err = k.config.Now().Add(r.backoff.NextBackOff()), err
}

// settlePlace is settle for a place.
func (k *Keeper) settlePlace(target string, place credential.Place, err error) {
	key := placeKey(target, place)
	k.settle(key, err)
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := k.retries[key]; ok {
		r.target, r.place = target, place
	}
}

// unread notes that a place that failed could not be read, and readable that it
// can: what failed for not being readable is then tried at once.
func (k *Keeper) unread(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := k.retries[key]; ok {
		r.unread = true
	}
}

func (k *Keeper) readable(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := k.retries[key]; ok && r.unread {
		delete(k.retries, key)
	}
}

func (k *Keeper) forgive() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.retries {
		r.at = time.Time{}
	}
}

func acceptKey(host credential.Host) string { return "accept " + string(host) }

func sourceKey(host credential.Host) string { return "source " + string(host) }

func placeKey(target string, place credential.Place) string {
	return "place " + target + " " + string(place)
}

// hosts are the registries whose logins go to the target.
func (k *Keeper) hosts(t Target) []credential.Host {
	if len(t.Hosts) > 0 {
		return t.Hosts
	}
	return k.Registries()
}

func (k *Keeper) registry(host credential.Host) Registry {
	i := slices.IndexFunc(k.config.Registries, func(r Registry) bool { return r.Host == host })
	return k.config.Registries[i]
}

// newName names a login that is about to be asked for. Names sort by time.
func (k *Keeper) newName(host credential.Host) string {
	serial := k.config.Now().UTC().Format("20060102t150405") + "-" + strings.ToLower(rand.Text()[:8])
	return credential.MarkOf(k.config.Instance, host).Name(serial)
}

// summarize makes one error of what failed.
func (k *Keeper) summarize(result Result) error {
	troubles := k.troubles(result)
	if len(troubles) == 0 {
		return nil
	}
	first := troubles[0].err
	kind, hint := problem.KindOf(first), problem.HintOf(first)
	for _, t := range troubles[1:] {
		if problem.KindOf(t.err) != kind {
			kind = problem.Partial
		}
	}
	if len(troubles) == 1 {
		return problem.Wrap(first, kind, hint, "%s", troubles[0].where)
	}
	lines := make([]error, len(troubles))
	for i, t := range troubles {
		lines[i] = fmt.Errorf("%s: %w", t.where, t.err)
	}
	return problem.Wrap(errors.Join(lines...), kind, hint, "%d problems", len(troubles))
}
