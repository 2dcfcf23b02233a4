package keeper

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

// Tend looks at some places of a target alone, and serves them the logins that
// are in force. It asks no registry and no source, and ends no login. It may
// run beside a pass and beside itself: a place that hangs holds up nobody else.
//
// The places were told of as changed, or their next try is due: they are tried
// also where a try was put off. Failures are reported as steps; the error is
// that of the store, with [state.ErrChanged] in its chain if a pass must come
// first.
func (k *Keeper) Tend(ctx context.Context, target string, places ...credential.Place) error {
	if err := k.load(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	stale := k.stale
	k.mu.Unlock()
	if stale {
		return state.ErrChanged
	}
	ledger := &ledger{report: k.config.Report}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(k.config.Parallel)
	for _, place := range places {
		group.Go(func() error {
			unlock, err := k.lockPlace(ctx, target, place)
			if err != nil {
				return err
			}
			defer unlock()
			k.tend(ctx, target, place, ledger)
			return ctx.Err()
		})
	}
	return group.Wait()
}

func (k *Keeper) tend(ctx context.Context, name string, place credential.Place, ledger *ledger) {
	target := k.target(name)
	obs := Observation{Now: k.config.Now()}
	for _, registry := range k.config.Registries {
		obs.Registries = append(obs.Registries, k.look(ctx, registry, false))
	}
	view := PlaceView{Target: name, Place: place, Hosts: k.hosts(target)}
	k.read(ctx, target, &view)
	view.Retry = time.Time{}
	if errors.Is(view.Err, credential.ErrGone) {
		k.settlePlace(name, place, nil)
		k.served(name, place, true, nil)
		return
	}
	obs.Places = []PlaceView{view}
	var todo []Step
	for _, registry := range obs.Registries {
		if slices.Contains(view.Hosts, registry.Host) {
			todo = append(todo, decidePlace(registry, view, obs.Now, nil)...)
		}
	}
	todo = slices.DeleteFunc(todo, func(s Step) bool { return s.Action != Deliver })
	if len(todo) > 0 {
		if err := k.contested(name, place); err != nil {
			k.settlePlace(name, place, err)
			k.served(name, place, false, err)
			for _, step := range todo {
				ledger.add(step, time.Now(), err)
			}
			return
		}
		k.servePlace(ctx, &obs.Places[0], todo, obs.refused(), ledger)
	} else if view.Err == nil {
		k.settlePlace(name, place, nil)
	}
	obs.Lags = k.lags(ctx, name, place)
	places := obs.places()
	for _, lag := range obs.Lags {
		if step := decideLag(lag, obs, places, nil); step.Action == Follow {
			k.follow(ctx, lag, step, ledger)
		}
	}
}

const (
	// healTries is how often a place is served within healSpan because it
	// changed: more often, and another program is at work that undoes it.
	healTries = 10
	healSpan  = time.Minute
)

// contested is an error if a place was served too often of late.
func (k *Keeper) contested(target string, place credential.Place) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, key := k.config.Now(), placeKey(target, place)
	recent := slices.DeleteFunc(k.healed[key], func(at time.Time) bool { return now.Sub(at) > healSpan || at.After(now) })
	if len(recent) >= healTries {
		k.healed[key] = recent
		return problem.New(problem.Busy, "find the program that writes there too",
			"the login was taken out %d times within %s", healTries, healSpan)
	}
	k.healed[key] = append(recent, now)
	return nil
}

// Retry is a place that is to be tended again.
type Retry struct {
	Target string
	Place  credential.Place
	At     time.Time
}

// Retries lists the places of tended targets whose last try failed, and when
// [Keeper.Tend] should try them again.
func (k *Keeper) Retries() []Retry {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []Retry
	for _, t := range k.config.Targets {
		for _, r := range k.retries {
			if t.Tended && r.target == t.Name {
				list = append(list, Retry{Target: r.target, Place: r.place, At: r.at})
			}
		}
	}
	return list
}

// RetryAt is when a place whose last try failed should be tended again; zero
// if it did not fail.
func (k *Keeper) RetryAt(target string, place credential.Place) time.Time {
	return k.retryAt(placeKey(target, place))
}

// Known is how a place stood when it was last served; known is false if it
// never was, or is gone.
func (k *Keeper) Known(target string, place credential.Place) (status PlaceStatus, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.doc == nil || k.doc.Places[target][place] == nil {
		return PlaceStatus{}, false
	}
	p := k.doc.Places[target][place]
	t := k.target(target)
	status = PlaceStatus{Name: t.Name, Kind: t.Kind, Path: string(place), Phase: OK, Delivered: moment(p.Delivered), Verified: moment(p.Verified)}
	if p.Trouble != nil {
		status.Phase, status.Problem, status.Hint = Failed, p.Trouble.Text, p.Trouble.Hint
	}
	return status, true
}

// Flush saves what Tend has noted and not saved: it is as if lost until then.
func (k *Keeper) Flush(ctx context.Context) error {
	k.mu.Lock()
	unsaved := k.unsaved
	k.mu.Unlock()
	if !unsaved {
		return nil
	}
	return k.journal(ctx, func(*state.Document) {})
}

// placeLock is held by whoever serves a place: of two logins, the one that came
// in force later is then also written later.
type placeLock struct {
	held    chan struct{}
	waiting int
}

// lockPlace waits for a place; the error is that of the context.
func (k *Keeper) lockPlace(ctx context.Context, target string, place credential.Place) (unlock func(), err error) {
	key := placeKey(target, place)
	k.mu.Lock()
	lock, ok := k.locks[key]
	if !ok {
		lock = &placeLock{held: make(chan struct{}, 1)}
		k.locks[key] = lock
	}
	lock.waiting++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if lock.waiting--; lock.waiting == 0 {
			delete(k.locks, key)
		}
	}
	select {
	case lock.held <- struct{}{}:
		return func() {
			<-lock.held
			leave()
		}, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

const lagPrefix = "lag "

func lagKey(target string, lag credential.Lag) string {
	return lagPrefix + target + " " + lag.Remedy + " " + lag.What
}
