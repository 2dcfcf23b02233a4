package keeper

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

// Phase is how a registry or a place stands.
type Phase string

// The phases.
const (
	// OK: a login is in force, and a place holds it.
	OK Phase = "ok"
	// Pending: work is under way or has not begun.
	Pending Phase = "pending"
	// Failed: the last try failed; the problem says why.
	Failed Phase = "failed"
)

// Status is how everything stands. It holds no secret.
type Status struct {
	// Ready says whether every registry and every place is [OK].
	Ready      bool             `json:"ready"`
	Registries []RegistryStatus `json:"registries"`
	Targets    []PlaceStatus    `json:"targets"`
}

// RegistryStatus is how a registry's login stands.
type RegistryStatus struct {
	Host credential.Host `json:"host"`
	// Probe is the image that verification pulls; empty if it found none.
	Probe string `json:"probe"`
	// Credential is the id of the login in force.
	Credential string            `json:"credential"`
	Scopes     credential.Scopes `json:"scopes"`
	Issued     *time.Time        `json:"issued"`
	// Expires is null if the login does not end by itself.
	Expires *time.Time `json:"expires"`
	// NextRotation is null if none is scheduled.
	NextRotation *time.Time `json:"nextRotation"`
	Phase        Phase      `json:"phase"`
	// Unverified says that verification is off: nobody has tried the login.
	Unverified bool `json:"unverified,omitempty"`
	// Retired are the replaced logins that are accepted still.
	Retired []RetiredStatus `json:"retired,omitempty"`
	Problem string          `json:"problem,omitempty"`
	Hint    string          `json:"hint,omitempty"`
}

// RetiredStatus is why a replaced login is accepted still.
type RetiredStatus struct {
	Credential string    `json:"credential"`
	Reason     string    `json:"reason"`
	Until      time.Time `json:"until,omitzero"`
}

// PlaceStatus is how a place stands.
type PlaceStatus struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Path is the place: the delivered file where there is one.
	Path  string `json:"path"`
	Phase Phase  `json:"phase"`
	// Delivered is when regkeeper last wrote there, Verified when the place
	// was last read and held the logins in force.
	Delivered *time.Time `json:"delivered"`
	Verified  *time.Time `json:"verified"`
	Problem   string     `json:"problem"`
	Hint      string     `json:"hint"`
}

// Status reads the places as they are now and reports them with what the
// journal knows. It asks no registry and changes nothing.
func (k *Keeper) Status(ctx context.Context) (Status, error) {
	if err := k.load(ctx); err != nil {
		return Status{}, err
	}
	return k.report(k.observe(ctx, nil, look{})), ctx.Err()
}

// report is how everything stands by an observation and the journal as it is
// now.
func (k *Keeper) report(obs Observation) Status {
	for i := range obs.Registries {
		obs.Registries[i].Journal = k.entry(obs.Registries[i].Host)
	}
	status := Status{Ready: true, Registries: []RegistryStatus{}, Targets: []PlaceStatus{}}
	for _, view := range obs.Registries {
		row := k.registryStatus(view, obs)
		status.Ready = status.Ready && row.Phase == OK
		status.Registries = append(status.Registries, row)
	}
	for _, place := range obs.Places {
		row := k.placeStatus(place, obs)
		status.Ready = status.Ready && row.Phase == OK
		status.Targets = append(status.Targets, row)
	}
	for _, target := range k.config.Targets {
		if !slices.ContainsFunc(obs.Places, func(p PlaceView) bool { return p.Target == target.Name }) {
			status.Ready = false
			status.Targets = append(status.Targets, PlaceStatus{
				Name: target.Name, Kind: target.Kind, Phase: Pending,
				Problem: "the target has no place", Hint: "nothing matches its pattern yet; check the path",
			})
		}
	}
	return status
}

func (k *Keeper) registryStatus(view View, obs Observation) RegistryStatus {
	row := RegistryStatus{Host: view.Host, Scopes: view.Scopes, Unverified: k.registry(view.Host).Unverified, Probe: view.Journal.Proof.Image, Phase: Pending}
	if current := view.Journal.Current; current != nil {
		row.Credential, row.Scopes = current.ID, current.Scopes
		row.Issued, row.Expires = moment(current.Issued), moment(current.Expires)
		if view.Mints || !current.Expires.IsZero() {
			row.NextRotation = moment(view.Schedule.Next(current.Credential))
		}
		expired := !current.Expires.IsZero() && !current.Expires.After(obs.Now)
		if view.Journal.Intent == nil && view.Journal.Next == nil && !expired {
			row.Phase = OK
		}
	}
	for _, retired := range view.Journal.Retired {
		step := decideRetired(view, retired, obs)
		row.Retired = append(row.Retired, RetiredStatus{Credential: retired.ID, Reason: step.Reason, Until: step.Until})
	}
	k.mu.Lock()
	found := k.checks[view.Host]
	k.mu.Unlock()
	check := errors.Join(found.given, found.check)
	switch {
	case view.Journal.Trouble != nil:
		row.Phase, row.Problem, row.Hint = Failed, view.Journal.Trouble.Text, view.Journal.Trouble.Hint
	case check != nil:
		row.Phase, row.Problem, row.Hint = Failed, check.Error(), problem.HintOf(check)
	}
	return row
}

func (k *Keeper) placeStatus(place PlaceView, obs Observation) PlaceStatus {
	target := k.target(place.Target)
	row := PlaceStatus{Name: target.Name, Kind: target.Kind, Path: string(place.Place), Phase: OK}
	k.mu.Lock()
	known := state.Place{}
	if p := k.doc.Places[place.Target][place.Place]; p != nil {
		known = *p
	}
	k.mu.Unlock()
	row.Delivered, row.Verified = moment(known.Delivered), moment(known.Verified)
	if place.Err != nil {
		if !errors.Is(place.Err, credential.ErrGone) {
			row.Phase, row.Problem, row.Hint = Failed, place.Err.Error(), problem.HintOf(place.Err)
		}
		return row
	}
	for _, view := range obs.Registries {
		for _, host := range place.Hosts {
			if host == view.Host && holdingOf(view, place) != inForce {
				row.Phase = Pending
			}
		}
	}
	switch {
	case row.Phase == OK:
		row.Verified = moment(place.At)
	case known.Trouble != nil:
		row.Phase, row.Problem, row.Hint = Failed, known.Trouble.Text, known.Trouble.Hint
	}
	return row
}

// moment is a time for JSON: null where there is none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
