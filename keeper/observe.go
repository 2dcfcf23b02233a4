package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

// look says how closely an observation looks.
type look struct {
	// ask asks the registries and the sources.
	ask bool
	// fresh looks into places also where what was found before would do.
	fresh bool
}

// observe reads everything that a plan is made from: one request to each
// registry whose login is in force, and a look at each place. Failures are
// part of what is found.
func (k *Keeper) observe(ctx context.Context, rotate []credential.Host, how look) Observation {
	obs := Observation{Now: k.config.Now(), Registries: make([]View, len(k.config.Registries))}
	var group errgroup.Group
	group.SetLimit(k.config.Parallel)
	for i, registry := range k.config.Registries {
		group.Go(func() error {
			obs.Registries[i] = k.look(ctx, registry, how.ask)
			return nil
		})
	}
	_ = group.Wait()
	for i := range obs.Registries {
		for _, host := range rotate {
			obs.Registries[i].Asked = obs.Registries[i].Asked || obs.Registries[i].Host == host
		}
	}
	obs.Places = k.readPlaces(ctx, how.fresh)
	obs.Lags = k.lags(ctx, "")
	obs.Unkept = k.unkept()
	return obs
}

// lags asks what has not followed the logins in force: of one target what
// depends on the places, or, without a name, of all targets everything.
func (k *Keeper) lags(ctx context.Context, name string, places ...credential.Place) []LagView {
	var views []LagView
	for _, target := range k.config.Targets {
		follower, ok := target.Target.(credential.Follower)
		if !ok || name != "" && target.Name != name {
			continue
		}
		hosts := k.hosts(target)
		found, err := follower.Behind(ctx, k.ids(hosts), places...)
		if err != nil {
			views = append(views, LagView{Target: target.Name, Hosts: hosts, Err: fmt.Errorf("list what depends on its places: %w", err)})
		}
		for _, lag := range found {
			views = append(views, LagView{Target: target.Name, Hosts: hosts, Lag: lag, Retry: k.retryAt(lagKey(target.Name, lag))})
		}
	}
	return views
}

// ids are the ids of the logins in force.
func (k *Keeper) ids(hosts []credential.Host) map[credential.Host]string {
	ids := map[credential.Host]string{}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, host := range hosts {
		if r, ok := k.doc.Registries[host]; ok && r.Current != nil {
			ids[host] = r.Current.ID
		}
	}
	return ids
}

// unkept are the journals of registries that are not configured any more.
func (k *Keeper) unkept() map[credential.Host]*state.Registry {
	k.mu.Lock()
	defer k.mu.Unlock()
	unkept := map[credential.Host]*state.Registry{}
	for host, journal := range k.doc.Registries {
		if !slices.Contains(k.Registries(), host) {
			unkept[host] = journal.Clone()
		}
	}
	return unkept
}

func (k *Keeper) look(ctx context.Context, registry Registry, ask bool) View {
	mints := registry.mints()
	view := View{
		Host: registry.Host, Origin: registry.Origin, Terms: registry.Terms, Scopes: registry.Scopes, Schedule: registry.Schedule,
		Mints: mints, Journal: k.entry(registry.Host), Retry: k.retryAt(sourceKey(registry.Host)),
	}
	if !ask {
		// A login that was refused is not good again for not being tried.
		k.mu.Lock()
		if last := k.checks[registry.Host].check; errors.Is(last, credential.ErrRefused) {
			view.Check = last
		}
		k.mu.Unlock()
		return view
	}
	var overdue error
	if !mints {
		given, err := registry.Source.Issue(ctx, credential.Request{Host: registry.Host, Scopes: registry.Scopes})
		if err != nil {
			view.GivenErr = err
		} else {
			view.Given = &state.Credential{Credential: given, Origin: registry.Origin, Terms: registry.Terms}
		}
		if renewer, ok := registry.Source.(credential.Renewer); ok {
			overdue = renewer.Overdue(registry.Host)
		}
	}
	if current := view.Journal.Current; current != nil && !registry.Unverified {
		view.Check = k.config.Verifier.Check(ctx, current.Credential, view.Journal.Proof)
	}
	k.mu.Lock()
	k.checks[registry.Host] = finding{cmp.Or(view.GivenErr, overdue), view.Check}
	k.mu.Unlock()
	return view
}

// readPlaces lists all places of all targets and reads what they hold. Where a
// look takes a request, what was found a while ago will do unless it is to be
// fresh, and what failed is not looked at before its next try.
func (k *Keeper) readPlaces(ctx context.Context, fresh bool) []PlaceView {
	listed := make([][]PlaceView, len(k.config.Targets))
	var group errgroup.Group
	group.SetLimit(k.config.Parallel)
	for i, target := range k.config.Targets {
		group.Go(func() error {
			hosts := k.hosts(target)
			places, err := target.Places(ctx)
			if err != nil {
				listed[i] = []PlaceView{{Target: target.Name, Hosts: hosts, Err: fmt.Errorf("list places: %w", err)}}
				return nil
			}
			for _, place := range places {
				listed[i] = append(listed[i], PlaceView{Target: target.Name, Place: place, Hosts: hosts})
			}
			return nil
		})
	}
	_ = group.Wait()
	var views []PlaceView
	var targets []Target
	for i, places := range listed {
		views = append(views, places...)
		for range places {
			targets = append(targets, k.config.Targets[i])
		}
	}
	for i := range views {
		view, target := &views[i], targets[i]
		if view.Err != nil {
			continue
		}
		if target.Reread > 0 {
			key := placeKey(view.Target, view.Place)
			if err := k.putOff(key); err != nil {
				view.Err, view.Retry = err, k.retryAt(key)
				continue
			}
			if before, ok := k.sight(key); ok && !fresh && k.config.Now().Sub(before.At) < target.Reread {
				*view = before
				continue
			}
		}
		group.Go(func() error {
			k.read(ctx, target, view)
			return nil
		})
	}
	_ = group.Wait()
	k.forget(views)
	return views
}

// read looks into a place.
func (k *Keeper) read(ctx context.Context, target Target, view *PlaceView) {
	view.At = k.config.Now()
	view.Held, view.Unknown, view.Err = k.held(ctx, target, view.Place, view.Hosts)
	key := placeKey(view.Target, view.Place)
	if view.Err == nil {
		k.readable(key)
	}
	view.Retry = k.retryAt(key)
	k.saw(target, *view)
}

// held is what a place holds for the hosts, and those of which it holds a login
// that cannot be told.
func (k *Keeper) held(ctx context.Context, target Target, place credential.Place, hosts []credential.Host) (
	held map[credential.Host]credential.Login, unknown []credential.Host, err error,
) {
	recognizer, ok := target.Target.(credential.Recognizer)
	if !ok {
		held, err = target.Held(ctx, place, hosts)
		return held, nil, err
	}
	ours := map[credential.Host][]credential.Login{}
	for _, host := range hosts {
		journal := k.entry(host)
		ours[host] = nil
		if journal.Current != nil {
			ours[host] = append(ours[host], journal.Current.Login())
		}
		for _, retired := range journal.Retired {
			if !retired.Secret.Empty() {
				ours[host] = append(ours[host], retired.Login())
			}
		}
	}
	return recognizer.Recognize(ctx, place, ours)
}

// saw keeps what was found in a place, for as long as it counts.
func (k *Keeper) saw(target Target, view PlaceView) {
	if target.Reread == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := placeKey(view.Target, view.Place)
	if view.Err != nil {
		delete(k.seen, key)
		return
	}
	view.Retry = time.Time{}
	// Who began earlier may end later.
	if before, ok := k.seen[key]; !ok || !before.At.After(view.At) {
		k.seen[key] = view
	}
}

func (k *Keeper) sight(key string) (PlaceView, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	view, ok := k.seen[key]
	return view, ok
}

// forget drops what is known of places that are not listed any more.
func (k *Keeper) forget(views []PlaceView) {
	listed := map[string]bool{}
	for _, view := range views {
		listed[placeKey(view.Target, view.Place)] = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.seen, func(key string, _ PlaceView) bool { return !listed[key] })
	maps.DeleteFunc(k.healed, func(key string, _ []time.Time) bool { return !listed[key] })
}

// putOff is the failure for which a try is put off; nil if it may be made.
func (k *Keeper) putOff(key string) error {
	if !k.retryAt(key).After(k.config.Now()) {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := k.retries[key]; ok {
		return r.err
	}
	return nil
}

// trouble is a failure that stands at the end of a pass.
type trouble struct {
	host   credential.Host
	target string
	place  credential.Place
	where  string
	err    error
}

// troubles lists what is wrong at the end of a pass, each thing once: what
// failed in it, and what was found wrong and could not be changed.
func (k *Keeper) troubles(result Result) []trouble {
	var list []trouble
	seen := map[string]bool{}
	add := func(t trouble) {
		if !seen[t.where] {
			seen[t.where] = true
			list = append(list, t)
		}
	}
	for _, failure := range result.Failed {
		s := failure.Step
		if s.Target != "" {
			add(trouble{target: s.Target, place: s.Place, where: fmt.Sprintf("target %s %s", s.Target, s.Place), err: failure.err})
			continue
		}
		add(trouble{host: s.Host, where: "registry " + string(s.Host), err: failure.err})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, registry := range k.config.Registries {
		found := k.checks[registry.Host]
		if err := errors.Join(found.given, found.check); err != nil {
			add(trouble{host: registry.Host, where: "registry " + string(registry.Host), err: err})
		}
	}
	for _, s := range result.Plan.Steps {
		if s.Action == Wait && s.Until.IsZero() {
			add(trouble{target: s.Target, place: s.Place, where: "target " + s.Target, err: errors.New(s.Reason)})
		}
	}
	return list
}

// recordTroubles keeps the troubles where status finds them, and drops what is
// known of places that are gone. It writes only if something changed. What
// waits for its next try keeps the trouble it has.
func (k *Keeper) recordTroubles(ctx context.Context, obs Observation, result Result) error {
	now := k.config.Now()
	failed := map[string]error{}
	for _, t := range k.troubles(result) {
		failed[troubleKey(t.host, t.target, t.place)] = t.err
	}
	waiting := map[string]bool{}
	for _, s := range result.Plan.Steps {
		if s.Action == Wait {
			host := s.Host
			if s.Target != "" {
				host = ""
			}
			waiting[troubleKey(host, s.Target, s.Place)] = true
		}
	}
	// change makes the document tell of the troubles.
	change := func(doc *state.Document) (changed bool) {
		set := func(have **state.Trouble, key string) {
			err := failed[key]
			switch {
			case err != nil && (*have == nil || !sameTrouble((*have).Text, err.Error())):
				*have = &state.Trouble{Text: err.Error(), Hint: problem.HintOf(err), Since: now}
				changed = true
			case err == nil && *have != nil && !waiting[key] && !(*have).Since.After(obs.Now):
				*have = nil
				changed = true
			}
		}
		for _, registry := range k.config.Registries {
			changed = changed || doc.Registries[registry.Host] == nil
			set(&doc.Registry(registry.Host).Trouble, troubleKey(registry.Host, "", ""))
		}
		listed := map[string]map[credential.Place]bool{}
		unlisted := map[string]bool{}
		for _, view := range obs.Places {
			if view.Place == "" {
				unlisted[view.Target] = true
				continue
			}
			if listed[view.Target] == nil {
				listed[view.Target] = map[credential.Place]bool{}
			}
			listed[view.Target][view.Place] = true
			changed = changed || doc.Places[view.Target][view.Place] == nil
			set(&doc.Place(view.Target, view.Place).Trouble, troubleKey("", view.Target, view.Place))
		}
		for target, places := range doc.Places {
			for place, p := range places {
				// What was served since the places were listed is known too.
				if unlisted[target] || listed[target][place] || p.Delivered.After(obs.Now) {
					continue
				}
				delete(places, place)
				changed = true
			}
			if len(places) == 0 {
				delete(doc.Places, target)
			}
		}
		return changed
	}
	k.mu.Lock()
	probe, unsaved := k.doc.Clone(), k.unsaved
	k.mu.Unlock()
	if !change(probe) && !unsaved {
		return nil
	}
	return k.journal(ctx, func(d *state.Document) { change(d) })
}

// sameTrouble says whether two errors are one, but for numbers: ports and times
// change from try to try.
func sameTrouble(a, b string) bool {
	return numbers.ReplaceAllString(a, "") == numbers.ReplaceAllString(b, "")
}

var numbers = regexp.MustCompile(`[0-9]+`)

func troubleKey(host credential.Host, target string, place credential.Place) string {
	return strings.Join([]string{string(host), target, string(place)}, "\x00")
}
