package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

// ledger collects how steps ended.
type ledger struct {
	report func(Event)

	mu     sync.Mutex
	done   []Step
	failed []Failure
}

func (l *ledger) add(step Step, began time.Time, err error) {
	event := Event{Step: step, Took: time.Since(began), Err: err}
	l.mu.Lock()
	if err != nil {
		l.failed = append(l.failed, Failure{Step: step, Problem: err.Error(), Hint: problem.HintOf(err), err: err})
	} else {
		l.done = append(l.done, step)
	}
	l.mu.Unlock()
	l.report(event)
}

// apply carries a plan out: first the logins, then the places, then what ends
// replaced logins. A step that fails does not hold up the others. The error is
// the pass's end: the context is done, or the journal cannot be written.
func (k *Keeper) apply(ctx context.Context, obs Observation, plan Plan) (done []Step, failed []Failure, err error) {
	ledger := &ledger{report: k.config.Report}
	byHost := map[credential.Host][]Step{}
	byPlace := map[string][]Step{}
	for _, step := range plan.Changes() {
		switch step.Action {
		case Deliver:
			key := placeKey(step.Target, step.Place)
			byPlace[key] = append(byPlace[key], step)
		case Follow:
		default:
			byHost[step.Host] = append(byHost[step.Host], step)
		}
	}
	if err := k.applyLogins(ctx, obs, byHost, ledger); err != nil {
		return ledger.done, ledger.failed, err
	}
	if err := k.applyPlaces(ctx, obs, byPlace, ledger); err != nil {
		return ledger.done, ledger.failed, err
	}
	if err := k.applyFollows(ctx, obs, plan, ledger); err != nil {
		return ledger.done, ledger.failed, err
	}
	err = k.applyEnds(ctx, obs, byHost, ledger)
	return ledger.done, ledger.failed, err
}

// errJournal marks an error of the journal: nothing may go on without it.
var errJournal = errors.New("the journal cannot be written")

// fatal says whether an error ends the pass.
func fatal(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || errors.Is(err, errJournal))
}

func (k *Keeper) applyLogins(ctx context.Context, obs Observation, steps map[credential.Host][]Step, ledger *ledger) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(k.config.Parallel)
	for _, view := range obs.Registries {
		group.Go(func() error {
			for _, step := range steps[view.Host] {
				var act func(context.Context, View) (string, error)
				switch step.Action {
				case Abandon:
					act = k.abandon
				case Mint:
					act = k.mint
				case Verify:
					act = k.verifyNext
				case Adopt:
					act = k.adopt
				default:
					continue
				}
				began := time.Now()
				id, err := act(ctx, view)
				if id != "" {
					step.Credential = id
				}
				// A try ends with what it was for: a source that lists, and
				// refuses to issue, is not asked more often for that.
				if (err != nil || step.Action != Abandon) && ctx.Err() == nil {
					k.settle(sourceKey(view.Host), err)
				}
				ledger.add(step, began, err)
				if fatal(ctx, err) {
					return err
				}
				if err != nil {
					return nil //nolint:nilerr // it is in the ledger; the other registries go on
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// abandon revokes the login of an open intent, if it came to be, and takes one
// that is not wanted any more for replaced.
func (k *Keeper) abandon(ctx context.Context, view View) (string, error) {
	if intent := view.Journal.Intent; intent != nil && intent.Origin == view.Origin {
		issued, err := k.ours(ctx, view.Host)
		if err != nil {
			return "", err
		}
		for _, login := range issued {
			if login.Name != intent.Name {
				continue
			}
			if err := k.registry(view.Host).Source.(credential.Minter).Revoke(ctx, login.ID); err != nil {
				return "", fmt.Errorf("revoke %s: %w", login.Name, err)
			}
		}
	}
	return "", k.note(ctx, view.Host, func(r *state.Registry) {
		r.Intent = nil
		if r.Next != nil && !view.wants(r.Next) {
			r.Retired = append(r.Retired, &state.Retired{Credential: *r.Next, Since: k.config.Now()})
			r.Next = nil
		}
	})
}

// ours lists the logins with our mark at a registry's source; none for a source
// that does not mint.
func (k *Keeper) ours(ctx context.Context, host credential.Host) ([]credential.Issued, error) {
	minter, ok := k.registry(host).Source.(credential.Minter)
	if !ok {
		return nil, nil
	}
	var list []credential.Issued
	for issued, err := range minter.Issued(ctx, credential.MarkOf(k.config.Instance, host)) {
		if err != nil {
			return nil, fmt.Errorf("list logins: %w", err)
		}
		list = append(list, issued)
	}
	return list, nil
}

// note changes a registry's journal.
func (k *Keeper) note(ctx context.Context, host credential.Host, change func(*state.Registry)) error {
	err := k.journal(ctx, func(d *state.Document) { change(d.Registry(host)) })
	if err != nil {
		return fmt.Errorf("%w: %w", errJournal, err)
	}
	return nil
}

// mint makes a login and puts it in force: intent, issue, journal, verify.
func (k *Keeper) mint(ctx context.Context, view View) (string, error) {
	registry := k.registry(view.Host)
	if err := k.findStrays(ctx, view); err != nil {
		return "", err
	}
	now := k.config.Now()
	request := credential.Request{Host: view.Host, Name: k.newName(view.Host), Scopes: registry.Scopes}
	if life := registry.Schedule.Lifetime; life > 0 {
		request.Expires = now.Add(life)
	}
	err := k.note(ctx, view.Host, func(r *state.Registry) {
		r.Intent = &state.Intent{Name: request.Name, At: now, Origin: registry.Origin}
	})
	if err != nil {
		return "", err
	}
	issued, err := registry.Source.Issue(ctx, request)
	if err != nil {
		return "", fmt.Errorf("mint: %w", err)
	}
	// The schedule counts by our clock: by one that is ahead, the login would
	// look as if our clock had jumped.
	if issued.Issued.IsZero() || issued.Issued.After(k.config.Now()) {
		issued.Issued = k.config.Now()
	}
	next := &state.Credential{Credential: issued, Origin: registry.Origin, Terms: registry.Terms}
	err = k.note(ctx, view.Host, func(r *state.Registry) { r.Intent, r.Next = nil, next })
	if err != nil {
		return issued.ID, err
	}
	return k.verifyNext(ctx, view)
}

// findStrays takes logins with our mark that the keyring does not know, left
// by a lost state, for replaced: they are revoked when no place holds them.
func (k *Keeper) findStrays(ctx context.Context, view View) error {
	listed, err := k.ours(ctx, view.Host)
	if err != nil {
		return err
	}
	entry := k.entry(view.Host)
	known := map[string]bool{}
	for _, c := range []*state.Credential{entry.Current, entry.Next} {
		if c != nil {
			known[c.ID] = true
		}
	}
	for _, retired := range entry.Retired {
		known[retired.ID] = true
	}
	var strays []*state.Retired
	for _, issued := range listed {
		if known[issued.ID] {
			continue
		}
		strays = append(strays, &state.Retired{
			Credential: state.Credential{
				Credential: credential.Credential{ID: issued.ID, Name: issued.Name, Host: view.Host, Issued: issued.Created},
				Origin:     view.Origin,
			},
			Since: k.config.Now(),
		})
	}
	if len(strays) == 0 {
		return nil
	}
	return k.note(ctx, view.Host, func(r *state.Registry) {
		r.Retired = append(r.Retired, strays...)
	})
}

// verifyNext verifies the login that was issued and puts it in force. One that
// the registry refuses is revoked: it will not become any better.
func (k *Keeper) verifyNext(ctx context.Context, view View) (string, error) {
	registry := k.registry(view.Host)
	next := k.entry(view.Host).Next
	if next == nil {
		return "", fmt.Errorf("%w: the login to verify is gone from it", errJournal)
	}
	proof, err := k.verify(ctx, registry, next.Credential)
	if errors.Is(err, credential.ErrRefused) {
		if rerr := registry.Source.(credential.Minter).Revoke(ctx, next.ID); rerr != nil {
			return next.ID, errors.Join(err, fmt.Errorf("revoke %s: %w", next.Name, rerr))
		}
		if nerr := k.note(ctx, view.Host, func(r *state.Registry) { r.Next = nil }); nerr != nil {
			return next.ID, nerr
		}
	}
	if err != nil {
		return next.ID, err
	}
	return next.ID, k.promote(ctx, view.Host, next, proof)
}

func (k *Keeper) verify(ctx context.Context, registry Registry, login credential.Credential) (proof credential.Proof, err error) {
	if registry.Unverified {
		return proof, nil
	}
	proof, err = k.config.Verifier.Verify(ctx, login, registry.Probe)
	if err != nil {
		return proof, fmt.Errorf("verify: %w", err)
	}
	return proof, nil
}

// adopt puts in force the login that the source has now, if it is good.
func (k *Keeper) adopt(ctx context.Context, view View) (string, error) {
	proof, err := k.verify(ctx, k.registry(view.Host), view.Given.Credential)
	if err != nil {
		return view.Given.ID, err
	}
	given := *view.Given
	if given.Issued.IsZero() {
		given.Issued = k.config.Now()
	}
	return given.ID, k.promote(ctx, view.Host, &given, proof)
}

// promote puts a login in force. The one before it stays accepted until no
// place holds it; one that was given and not minted is not ours to end.
func (k *Keeper) promote(ctx context.Context, host credential.Host, login *state.Credential, proof credential.Proof) error {
	now := k.config.Now()
	err := k.note(ctx, host, func(r *state.Registry) {
		mark := credential.MarkOf(k.config.Instance, host)
		if r.Current != nil && mark.Owns(r.Current.Name) {
			r.Retired = append(r.Retired, &state.Retired{Credential: *r.Current, Since: now})
		}
		r.Current, r.Next, r.Verified, r.Proof = login, nil, now, proof
	})
	if err == nil {
		k.mu.Lock()
		delete(k.checks, host)
		k.mu.Unlock()
	}
	return err
}

// applyPlaces delivers, each place once for all its registries, and reads back
// what arrived. The places' views are those of after.
func (k *Keeper) applyPlaces(ctx context.Context, obs Observation, steps map[string][]Step, ledger *ledger) error {
	if len(steps) == 0 {
		return nil
	}
	refused := obs.refused()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(k.config.Parallel)
	served := false
	for i := range obs.Places {
		view := &obs.Places[i]
		todo := steps[placeKey(view.Target, view.Place)]
		if len(todo) == 0 {
			continue
		}
		served = true
		group.Go(func() error {
			unlock, err := k.lockPlace(gctx, view.Target, view.Place)
			if err != nil {
				return err
			}
			defer unlock()
			// It may have been tended, in vain, since it was looked at.
			if k.target(view.Target).Tended && k.retryAt(placeKey(view.Target, view.Place)).After(k.config.Now()) {
				return nil
			}
			k.servePlace(gctx, view, todo, refused, ledger)
			return gctx.Err()
		})
	}
	// What was delivered is noted also when the pass is cut short.
	waitErr := group.Wait()
	if served {
		if err := k.Flush(ctx); err != nil {
			return fmt.Errorf("%w: %w", errJournal, err)
		}
	}
	return waitErr
}

// servePlace carries out the steps of one place, whose lock the caller holds.
// The view is then that of after.
func (k *Keeper) servePlace(ctx context.Context, view *PlaceView, todo []Step, refused map[credential.Host]string, ledger *ledger) {
	logins := map[credential.Host]credential.Login{}
	var steps []Step
	for _, step := range todo {
		current := k.entry(step.Host).Current
		// The login that was to be replaced may be in force still, and refused.
		if current == nil || refused[step.Host] == current.ID {
			continue
		}
		if held, ok := view.Held[step.Host]; view.Err == nil && ok && held.Equal(current.Login()) {
			continue
		}
		logins[step.Host] = current.Login()
		step.Credential = current.ID
		steps = append(steps, step)
	}
	if len(steps) == 0 {
		return
	}
	began := time.Now()
	held, unknown, err := k.serve(ctx, *view, logins)
	gone := errors.Is(err, credential.ErrGone)
	switch {
	case gone:
		view.Held, view.Unknown, view.Err, err = nil, nil, err, nil
	case err == nil:
		view.Held, view.Unknown, view.Err, view.At = held, unknown, nil, k.config.Now()
	}
	k.saw(k.target(view.Target), *view)
	if ctx.Err() == nil {
		unread := err != nil && view.Err != nil
		k.settlePlace(view.Target, view.Place, err)
		if unread {
			k.unread(placeKey(view.Target, view.Place))
		}
		k.served(view.Target, view.Place, gone, err)
	}
	for _, step := range steps {
		ledger.add(step, began, err)
	}
}

// serve delivers to a place. Where a look takes a request, one that could not be
// read is not written either: it would fail the same way, after as long.
func (k *Keeper) serve(ctx context.Context, view PlaceView, logins map[credential.Host]credential.Login) (
	held map[credential.Host]credential.Login, unknown []credential.Host, err error,
) {
	if view.Err != nil && k.target(view.Target).Reread > 0 {
		return nil, nil, view.Err
	}
	if err := k.holdAgain(ctx, view); err != nil {
		return nil, nil, err
	}
	return k.deliver(ctx, view, logins)
}

// holdAgain has the overlap of a replaced login begin anew that came back into a
// place and is about to leave it: a build may have read it in between.
func (k *Keeper) holdAgain(ctx context.Context, view PlaceView) error {
	for _, host := range view.Unknown { // it may be any of them
		for _, retired := range k.entry(host).Retired {
			if retired.Left.IsZero() {
				continue
			}
			if err := k.note(ctx, host, onRetired(retired.ID, func(r *state.Retired) { r.Left = time.Time{} })); err != nil {
				return err
			}
		}
	}
	for host, held := range view.Held {
		for _, retired := range k.entry(host).Retired {
			if retired.Left.IsZero() || !held.Equal(retired.Login()) {
				continue
			}
			if err := k.note(ctx, host, onRetired(retired.ID, func(r *state.Retired) { r.Left = time.Time{} })); err != nil {
				return err
			}
		}
	}
	return nil
}

// served notes how serving a place ended. It may be lost: nothing depends on it.
func (k *Keeper) served(target string, place credential.Place, gone bool, err error) {
	now := k.config.Now()
	note := func(doc *state.Document) {
		switch {
		case gone:
			delete(doc.Places[target], place)
		case err == nil:
			*doc.Place(target, place) = state.Place{Delivered: now, Verified: now}
		default:
			doc.Place(target, place).Trouble = &state.Trouble{Text: err.Error(), Hint: problem.HintOf(err), Since: now}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.doc.Places[target][place]
	if gone && known == nil || err != nil && known != nil && known.Trouble != nil && sameTrouble(known.Trouble.Text, err.Error()) {
		return
	}
	note(k.doc)
	k.meanwhile = append(k.meanwhile, note)
	k.unsaved = true
}

// deliverTries is how often a delivery is made anew when another program took
// it out before it was read back, as docker login does.
const deliverTries = 5

// deliver writes logins into a place and reads them back.
func (k *Keeper) deliver(ctx context.Context, view PlaceView, logins map[credential.Host]credential.Login) (
	held map[credential.Host]credential.Login, unknown []credential.Host, err error,
) {
	target := k.target(view.Target)
	var missing credential.Host
	for range deliverTries {
		held, unknown, err = k.deliverOnce(ctx, target, view, logins)
		if err != nil {
			return nil, nil, err
		}
		missing = ""
		for host, login := range logins {
			if got, ok := held[host]; !ok || !got.Equal(login) {
				missing = host
			}
		}
		if missing == "" {
			return held, unknown, nil
		}
	}
	return nil, nil, problem.New(problem.Busy, "find the program that writes there too",
		"the login for %s was gone when it was read back, %d times", missing, deliverTries)
}

func (k *Keeper) deliverOnce(ctx context.Context, target Target, view PlaceView, logins map[credential.Host]credential.Login) (
	held map[credential.Host]credential.Login, unknown []credential.Host, err error,
) {
	if confirmer, ok := target.Target.(credential.Confirmer); ok {
		held, err = confirmer.DeliverConfirmed(ctx, view.Place, logins, view.Hosts)
		return held, nil, err
	}
	if err := target.Deliver(ctx, view.Place, logins); err != nil {
		return nil, nil, err
	}
	if held, unknown, err = k.held(ctx, target, view.Place, view.Hosts); err != nil {
		return nil, nil, fmt.Errorf("read back: %w", err)
	}
	return held, unknown, nil
}

// applyFollows has what depends on places follow.
func (k *Keeper) applyFollows(ctx context.Context, obs Observation, plan Plan, ledger *ledger) error {
	lags := map[string]LagView{}
	for _, lag := range obs.Lags {
		lags[lagKey(lag.Target, lag.Lag)] = lag
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(k.config.Parallel)
	for _, step := range plan.Changes() {
		if step.Action != Follow {
			continue
		}
		lag := lags[lagKey(step.Target, credential.Lag{What: string(step.Place), Remedy: step.Remedy})]
		group.Go(func() error {
			k.follow(ctx, lag, step, ledger)
			return ctx.Err()
		})
	}
	return group.Wait()
}

func (k *Keeper) follow(ctx context.Context, lag LagView, step Step, ledger *ledger) {
	began := time.Now()
	follower, _ := k.target(lag.Target).Target.(credential.Follower)
	err := follower.Follow(ctx, lag.Lag, k.ids(lag.Hosts))
	if errors.Is(err, credential.ErrGone) || errors.Is(err, credential.ErrNotYet) {
		return
	}
	if ctx.Err() == nil {
		k.settle(lagKey(lag.Target, lag.Lag), err)
	}
	ledger.add(step, began, err)
}

func (k *Keeper) target(name string) Target {
	i := slices.IndexFunc(k.config.Targets, func(t Target) bool { return t.Name == name })
	return k.config.Targets[i]
}

// applyEnds releases, holds, revokes and forgets replaced logins.
func (k *Keeper) applyEnds(ctx context.Context, obs Observation, steps map[credential.Host][]Step, ledger *ledger) error {
	var revokes []Step
	for _, view := range obs.Registries {
		for _, step := range steps[view.Host] {
			began := time.Now()
			var change func(*state.Registry)
			switch step.Action {
			case Release:
				change = onRetired(step.Credential, func(r *state.Retired) { r.Left = k.config.Now() })
			case Hold:
				change = onRetired(step.Credential, func(r *state.Retired) { r.Left = time.Time{} })
			case Forget:
				change = dropRetired(step.Credential)
			case Revoke:
				revokes = append(revokes, step)
				continue
			default:
				continue
			}
			err := k.note(ctx, view.Host, change)
			ledger.add(step, began, err)
			if err != nil {
				return err
			}
		}
	}
	if len(revokes) == 0 {
		return nil
	}
	// A writer that read a place before the delivery and replaced it after has
	// brought the old login back: look again at the last moment.
	obs.Places, obs.Lags = k.lookAgain(ctx)
	for _, step := range revokes {
		if err := ctx.Err(); err != nil {
			return err
		}
		began := time.Now()
		err := k.revoke(ctx, step, obs)
		if errors.Is(err, errChanged) {
			continue
		}
		if ctx.Err() == nil {
			k.settle(sourceKey(step.Host), err)
		}
		ledger.add(step, began, err)
		if fatal(ctx, err) {
			return err
		}
	}
	return nil
}

// lookAgain looks at everything that may hold a login, at the last moment. A
// target that cannot be asked may hold anything.
func (k *Keeper) lookAgain(ctx context.Context) ([]PlaceView, []LagView) {
	var unasked []PlaceView
	for _, target := range k.config.Targets {
		refresher, ok := target.Target.(credential.Refresher)
		if !ok {
			continue
		}
		if err := refresher.Refresh(ctx); err != nil {
			unasked = append(unasked, PlaceView{Target: target.Name, Hosts: k.hosts(target), Err: fmt.Errorf("ask what there is: %w", err)})
		}
	}
	return append(k.readPlaces(ctx, true), unasked...), k.lags(ctx, "")
}

// errChanged says that a login is not to be revoked any more, by what was found
// at the last moment. Nothing failed: the next plan has what to do instead.
var errChanged = errors.New("not revoked after all")

func (k *Keeper) revoke(ctx context.Context, step Step, obs Observation) error {
	i := slices.IndexFunc(obs.Registries, func(v View) bool { return v.Host == step.Host })
	view := obs.Registries[i]
	view.Journal = k.entry(step.Host)
	j := slices.IndexFunc(view.Journal.Retired, func(r *state.Retired) bool { return r.ID == step.Credential })
	obs.Now = k.config.Now()
	if j < 0 {
		return errChanged
	}
	again := decideRetired(view, view.Journal.Retired[j], obs)
	if again.Action != Revoke {
		return errChanged
	}
	if err := k.registry(step.Host).Source.(credential.Minter).Revoke(ctx, step.Credential); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	return k.note(ctx, step.Host, dropRetired(step.Credential))
}

func onRetired(id string, change func(*state.Retired)) func(*state.Registry) {
	return func(r *state.Registry) {
		for _, retired := range r.Retired {
			if retired.ID == id {
				change(retired)
			}
		}
	}
}

func dropRetired(id string) func(*state.Registry) {
	return func(r *state.Registry) {
		r.Retired = slices.DeleteFunc(r.Retired, func(retired *state.Retired) bool { return retired.ID == id })
	}
}
