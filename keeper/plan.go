package keeper

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/state"
)

// Action is what a step does.
type Action string

// The actions, in the order in which a rotation takes them.
const (
	// Abandon revokes a login that was asked for and never journaled.
	Abandon Action = "abandon"
	// Mint makes a login at the source, verifies it and puts it in force.
	Mint Action = "mint"
	// Adopt verifies a login that the source was given, and puts it in force.
	Adopt Action = "adopt"
	// Verify verifies a login that was minted before, and puts it in force.
	Verify Action = "verify"
	// Deliver writes the login in force into a place.
	Deliver Action = "deliver"
	// Follow has something that depends on a place follow its logins.
	Follow Action = "follow"
	// Release starts the overlap of a login that every place has left.
	Release Action = "release"
	// Hold ends the overlap of a login that came back into a place.
	Hold Action = "hold"
	// Revoke ends a replaced login at its source.
	Revoke Action = "revoke"
	// Forget drops a login that ended by itself from the keyring.
	Forget Action = "forget"
	// Keep leaves something as it is.
	Keep Action = "keep"
	// Wait puts off what would be done.
	Wait Action = "wait"
)

// changes says whether carrying out the action changes anything.
func (a Action) changes() bool { return a != Keep && a != Wait }

// Step is one thing to do, or to leave, with the reason for it.
type Step struct {
	Action Action `json:"action"`
	// Host is empty for what follows several registries' logins.
	Host credential.Host `json:"host"`
	// Target and Place are set for a place, and for what depends on one.
	Target string           `json:"target,omitempty"`
	Place  credential.Place `json:"place,omitempty"`
	// Remedy is what a Follow does.
	Remedy string `json:"remedy,omitempty"`
	// Credential is the id of the login concerned, if it has one yet.
	Credential string `json:"credential,omitempty"`
	Reason     string `json:"reason"`
	// Until is when a Wait or a Keep will be looked at again; zero if only
	// something from outside can change it.
	Until time.Time `json:"until,omitzero"`
}

// String is the step in one line.
func (s Step) String() string {
	var b strings.Builder
	verb := string(s.Action)
	if s.Action == Follow {
		verb = s.Remedy
	}
	fmt.Fprintf(&b, "%-8s", verb)
	if s.Host != "" {
		fmt.Fprintf(&b, " %s", s.Host)
	}
	if s.Target != "" {
		fmt.Fprintf(&b, " -> %s", s.Target)
		if s.Place != "" {
			fmt.Fprintf(&b, " %s", s.Place)
		}
	}
	if s.Credential != "" {
		fmt.Fprintf(&b, " [%s]", s.Credential)
	}
	fmt.Fprintf(&b, ": %s", s.Reason)
	if !s.Until.IsZero() {
		fmt.Fprintf(&b, " (until %s)", s.Until.UTC().Format(time.RFC3339))
	}
	return b.String()
}

// Plan is what there is to do, complete and in order: what is kept is listed
// too.
type Plan struct {
	Steps []Step `json:"steps"`
}

// Changes lists the steps that change something.
func (p Plan) Changes() []Step {
	return slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return !s.Action.changes() })
}

// Next is the earliest time at which a step will be due; zero for none.
func (p Plan) Next() time.Time {
	var next time.Time
	for _, s := range p.Steps {
		if !s.Until.IsZero() && (next.IsZero() || s.Until.Before(next)) {
			next = s.Until
		}
	}
	return next
}

// View is what was found of a registry.
type View struct {
	Host     credential.Host
	Origin   string
	Terms    string
	Scopes   credential.Scopes
	Schedule Schedule
	// Mints says whether the source makes logins of its own.
	Mints bool
	// Journal is the registry's journal and keyring.
	Journal *state.Registry
	// Given is the login that a source which does not mint has now, and
	// GivenErr why it has none.
	Given    *state.Credential
	GivenErr error
	// Check is what the registry says to the login in force: nil if it is
	// accepted or was not tried.
	Check error
	// Asked says that a rotation was asked for.
	Asked bool
	// Retry is when the source may be asked again after a failure.
	Retry time.Time
}

// PlaceView is what was found of a place.
type PlaceView struct {
	Target string
	Place  credential.Place
	// Hosts are the registries whose logins belong there.
	Hosts []credential.Host
	Held  map[credential.Host]credential.Login
	// Unknown are hosts of which the place holds a login that cannot be told: it
	// may be any.
	Unknown []credential.Host
	// At is when it was looked at.
	At time.Time
	// Err is why the place cannot be read; it may then hold anything. For a
	// target that could not list its places, Place is empty.
	Err error
	// Retry is when the place may be tried again after a failure.
	Retry time.Time
}

// LagView is what was found to depend on a place, and not to have followed it.
type LagView struct {
	Target string
	Hosts  []credential.Host
	credential.Lag
	// Err is why a target could not tell; What is empty then.
	Err error
	// Retry is when it may be tried again after a failure.
	Retry time.Time
}

// Observation is all that a plan is made from.
type Observation struct {
	Now        time.Time
	Registries []View
	Places     []PlaceView
	Lags       []LagView
	// Unkept are the journals of registries that are not configured any more.
	Unkept map[credential.Host]*state.Registry
}

// places finds the places that something depends on.
func (o Observation) places() map[string]PlaceView {
	if len(o.Lags) == 0 {
		return nil
	}
	places := make(map[string]PlaceView, len(o.Places))
	for _, place := range o.Places {
		places[placeKey(place.Target, place.Place)] = place
	}
	return places
}

// refused are the ids of the logins in force that their registries refuse.
func (o Observation) refused() map[credential.Host]string {
	refused := map[credential.Host]string{}
	for _, view := range o.Registries {
		if view.Journal.Current != nil && errors.Is(view.Check, credential.ErrRefused) {
			refused[view.Host] = view.Journal.Current.ID
		}
	}
	return refused
}

// clockSlack is by how much a journaled time may lie in the future before the
// clock counts as having jumped.
const clockSlack = time.Hour

// Decide makes the plan. It is a function of the observation alone.
func Decide(obs Observation) Plan {
	var plan Plan
	renewed := map[credential.Host]string{}
	for _, view := range obs.Registries {
		step := decideLogin(view, obs.Now)
		plan.Steps = append(plan.Steps, decideUnfinished(view, obs.Now)...)
		plan.Steps = append(plan.Steps, step)
		if step.Action == Mint || step.Action == Adopt || step.Action == Verify {
			renewed[view.Host] = step.Reason
		}
	}
	for _, place := range obs.Places {
		for _, view := range obs.Registries {
			if slices.Contains(place.Hosts, view.Host) {
				plan.Steps = append(plan.Steps, decidePlace(view, place, obs.Now, renewed)...)
			}
		}
	}
	places := obs.places()
	for _, lag := range obs.Lags {
		plan.Steps = append(plan.Steps, decideLag(lag, obs, places, renewed))
	}
	for _, view := range obs.Registries {
		for _, retired := range view.Journal.Retired {
			plan.Steps = append(plan.Steps, decideRetired(view, retired, obs))
		}
	}
	for _, host := range slices.Sorted(maps.Keys(obs.Unkept)) {
		plan.Steps = append(plan.Steps, decideUnkept(host, obs.Unkept[host])...)
	}
	return plan
}

// decideUnkept leaves the logins of a registry that is not configured any more:
// its source is not known, so nothing can be revoked, and clients may use them.
func decideUnkept(host credential.Host, journal *state.Registry) []Step {
	var steps []Step
	keep := func(c *state.Credential) {
		if c != nil {
			steps = append(steps, Step{
				Action: Keep, Host: host, Credential: c.ID,
				Reason: fmt.Sprintf("the registry is not configured any more, and the login %s stays good: end it at its source (%s), or put the registry back", c.Name, c.Origin),
			})
		}
	}
	keep(journal.Next)
	keep(journal.Current)
	for _, retired := range journal.Retired {
		keep(&retired.Credential)
	}
	return steps
}

// decideUnfinished decides about logins that a rotation began with and that
// will not be put in force.
func decideUnfinished(view View, now time.Time) []Step {
	var steps []Step
	abandon := func(login, reason string) {
		step := Step{Action: Abandon, Host: view.Host, Credential: login, Reason: reason}
		if view.Retry.After(now) {
			step.Action, step.Until = Wait, view.Retry
			step.Reason += "; the last try failed"
		}
		steps = append(steps, step)
	}
	switch intent := view.Journal.Intent; {
	case intent == nil:
	case intent.Origin != view.Origin:
		abandon(intent.Name, fmt.Sprintf("asked of another source (%s), and the answer was never journaled: if it exists there, revoke it by hand", intent.Origin))
	default:
		abandon(intent.Name, "asked for, and the answer was never journaled: it may exist at the source")
	}
	if next := view.Journal.Next; next != nil && !view.wants(next) {
		abandon(next.ID, "issued for settings that have changed since, and never delivered")
	}
	return steps
}

// wants says whether a login that was issued and not verified yet is what is
// asked for still.
func (v View) wants(next *state.Credential) bool {
	return v.Mints && next.Origin == v.Origin && next.Terms == v.Terms && next.Scopes.Equal(v.Scopes)
}

// decideLogin decides about the login in force.
//
//	in force   registry says   source says        schedule   then
//	none       -               -                  -          mint or adopt
//	any        -               another login      -          adopt
//	any        -               changed scopes     -          adopt
//	any        refused         -                  -          mint
//	any        -               changed settings   -          mint
//	any        accepted        -                  due        mint
//	any        accepted        same               not due    keep
//	any        no answer       -                  not due    keep
//
// A login that was issued and not verified yet comes before all of these.
func decideLogin(view View, now time.Time) Step {
	step := Step{Host: view.Host}
	current, next := view.Journal.Current, view.Journal.Next
	if current != nil {
		step.Credential = current.ID
	}
	do := func(action Action, format string, args ...any) Step {
		step.Action, step.Reason = action, fmt.Sprintf(format, args...)
		if action.changes() {
			step.Until = time.Time{}
		}
		if view.Retry.After(now) && action.changes() {
			step.Action, step.Until = Wait, view.Retry
			step.Reason += "; the last try failed"
		}
		return step
	}
	if !view.Mints {
		step.Until = view.again(current, now)
		switch {
		case view.GivenErr != nil:
			return do(Keep, "its source has no login to give: %v", view.GivenErr)
		case view.Given == nil:
			return do(Keep, "its source was not asked")
		case current == nil:
			step.Credential = view.Given.ID
			return do(Adopt, "no login is in force")
		case !current.Scopes.Equal(view.Scopes):
			step.Credential = view.Given.ID
			return do(Adopt, "the scopes changed from %s to %s", current.Scopes, view.Scopes)
		case !view.Given.Login().Equal(current.Login()) && view.lasts(current, now):
			return do(Keep, "in force until %s; its source has another, which is not needed yet", current.Expires.UTC().Format(time.RFC3339))
		case !view.Given.Login().Equal(current.Login()):
			step.Credential = view.Given.ID
			return do(Adopt, "the login was changed at its source")
		case errors.Is(view.Check, credential.ErrRefused):
			return do(Keep, "refused by the registry, and its source has no other: %v", view.Check)
		}
		if view.Check != nil {
			return do(Keep, "the login in force is the one at its source; whether it is accepted is not known: %v", view.Check)
		}
		return do(Keep, "the login in force is the one at its source")
	}
	if next != nil && view.wants(next) {
		step.Credential = next.ID
		return do(Verify, "issued, and not verified yet")
	}
	if current == nil {
		return do(Mint, "no login is in force")
	}
	due := view.Schedule.Next(current.Credential)
	switch {
	case view.Asked:
		return do(Mint, "a rotation was asked for")
	case errors.Is(view.Check, credential.ErrRefused):
		return do(Mint, "the registry refuses the login in force")
	case current.Origin != view.Origin:
		return do(Mint, "the source changed")
	case !current.Scopes.Equal(view.Scopes):
		return do(Mint, "the scopes changed from %s to %s", current.Scopes, view.Scopes)
	case current.Terms != view.Terms:
		return do(Mint, "the terms changed from %s to %s", current.Terms, view.Terms)
	case current.Issued.After(now.Add(clockSlack)):
		return do(Mint, "issued in the future (%s): the clock jumped", current.Issued.UTC().Format(time.RFC3339))
	case !due.IsZero() && !due.After(now):
		return do(Mint, "due since %s", due.UTC().Format(time.RFC3339))
	}
	step.Until = due
	silence := ""
	if view.Check != nil {
		silence = "; whether it is accepted is not known: " + view.Check.Error()
	}
	if due.IsZero() {
		return do(Keep, "in force; no rotation is scheduled%s", silence)
	}
	return do(Keep, "in force until its rotation%s", silence)
}

// lasts says whether a login that a source gave ends by itself, and is good for
// a while: a source that gives another one at every start changes nothing then.
func (v View) lasts(current *state.Credential, now time.Time) bool {
	return !current.Expires.IsZero() && current.Origin == v.Origin && !errors.Is(v.Check, credential.ErrRefused) &&
		v.Schedule.Next(current.Credential).After(now)
}

// again is when a login that a source gave, and that ends by itself, is to be
// looked at again: when it is due, and from then on in the middle of what is
// left of it. Zero if it does not end, or has.
func (v View) again(current *state.Credential, now time.Time) time.Time {
	if current == nil || !current.Expires.After(now) {
		return time.Time{}
	}
	if due := v.Schedule.Next(current.Credential); due.After(now) {
		return due
	}
	return now.Add(current.Expires.Sub(now) / 2)
}

// decidePlace decides about one registry's login in one place.
func decidePlace(view View, place PlaceView, now time.Time, renewed map[credential.Host]string) []Step {
	step := Step{Action: Deliver, Host: view.Host, Target: place.Target, Place: place.Place}
	reason, renew := renewed[view.Host]
	if view.Journal.Current == nil && !renew {
		return nil
	}
	if !renew {
		step.Credential = view.Journal.Current.ID
	}
	switch {
	case place.Err != nil && place.Place == "":
		step.Action, step.Reason = Wait, "its places cannot be listed: "+place.Err.Error()
	case errors.Is(place.Err, credential.ErrGone):
		step.Action, step.Reason = Keep, "is gone"
	case place.Err != nil:
		step.Reason = "cannot be read: " + place.Err.Error()
	case renew:
		step.Reason = "the login in force will change: " + reason
	default:
		held := holdingOf(view, place)
		if held == inForce {
			step.Action = Keep
		}
		step.Reason = string(held)
	}
	if step.Action == Deliver && !renew && errors.Is(view.Check, credential.ErrRefused) {
		step.Action = Keep
		step.Reason += "; the login in force is refused, and not delivered"
	}
	if current := view.Journal.Current; step.Action == Deliver && !renew && !current.Expires.IsZero() && !current.Expires.After(now) {
		step.Action = Keep
		step.Reason += "; the login in force has expired, and is not delivered"
	}
	if step.Action == Deliver && place.Retry.After(now) {
		step.Action, step.Until = Wait, place.Retry
		step.Reason += "; the last try failed"
	}
	return []Step{step}
}

// decideLag decides about something that has not followed a place: it waits
// until the place holds logins that are in force, stay so, and are good.
func decideLag(lag LagView, obs Observation, places map[string]PlaceView, renewed map[credential.Host]string) Step {
	step := Step{Action: Follow, Target: lag.Target, Place: credential.Place(lag.What), Remedy: lag.Remedy, Reason: lag.Reason}
	if lag.Err != nil {
		step.Action, step.Reason = Wait, lag.Err.Error()
		return step
	}
	if lag.After != "" && !slices.ContainsFunc(obs.Registries, func(v View) bool {
		return v.Journal.Current != nil && slices.Contains(lag.Hosts, v.Host)
	}) {
		step.Action = Keep
		step.Reason += "; no login is in force"
		return step
	}
	for _, view := range obs.Registries {
		if !slices.Contains(lag.Hosts, view.Host) {
			continue
		}
		if _, renew := renewed[view.Host]; renew {
			step.Action = Keep
			step.Reason += fmt.Sprintf("; the login for %s changes first", view.Host)
			return step
		}
		if errors.Is(view.Check, credential.ErrRefused) {
			step.Action = Keep
			step.Reason += fmt.Sprintf("; the login for %s is refused", view.Host)
			return step
		}
		if lag.After == "" || view.Journal.Current == nil {
			continue
		}
		place, known := places[placeKey(lag.Target, lag.After)]
		if !known || place.Err != nil || holdingOf(view, place) != inForce {
			step.Action = Keep
			step.Reason += fmt.Sprintf("; %s must hold the login for %s first", lag.After, view.Host)
			return step
		}
	}
	if lag.Waits != "" {
		step.Action = Keep
		step.Reason += "; " + lag.Waits
		return step
	}
	if lag.Retry.After(obs.Now) {
		step.Action, step.Until = Wait, lag.Retry
		step.Reason += "; the last try failed"
	}
	return step
}

// holding is what a place holds for a registry, as people are told it.
type holding string

const (
	nothing  holding = "holds no login"
	inForce  holding = "holds the login in force"
	replaced holding = "holds a login that was replaced"
	foreign  holding = "holds a login that is not ours"
	untold   holding = "holds a login that cannot be told"
)

func holdingOf(view View, place PlaceView) holding {
	if slices.Contains(place.Unknown, view.Host) {
		return untold
	}
	login, ok := place.Held[view.Host]
	if !ok {
		return nothing
	}
	if current := view.Journal.Current; current != nil && login.Equal(current.Login()) {
		return inForce
	}
	for _, retired := range view.Journal.Retired {
		if login.Equal(retired.Login()) {
			return replaced
		}
	}
	return foreign
}

// decideRetired decides about a login that was replaced.
//
// One that has expired is no use to anybody and goes. Of the others:
//
//	a place may hold it   overlap      limit    then
//	yes                   -            passed   revoke
//	yes                   running      -        hold
//	yes                   -            -        keep
//	no                    not begun    -        release
//	no                    running      -        keep
//	no                    passed       -        revoke
func decideRetired(view View, retired *state.Retired, obs Observation) Step {
	step := Step{Host: view.Host, Credential: retired.ID}
	do := func(action Action, format string, args ...any) Step {
		step.Action, step.Reason = action, fmt.Sprintf(format, args...)
		if view.Retry.After(obs.Now) && action == Revoke {
			step.Action, step.Until = Wait, view.Retry
			step.Reason += "; the last try failed"
		}
		return step
	}
	expired := !retired.Expires.IsZero() && retired.Expires.Before(obs.Now)
	if !view.Mints || retired.Origin != view.Origin {
		if expired {
			return do(Forget, "it expired at %s", retired.Expires.UTC().Format(time.RFC3339))
		}
		return do(Keep, "another source issued it (%s): revoke it there by hand", retired.Origin)
	}
	if expired {
		return do(Revoke, "it expired at %s", retired.Expires.UTC().Format(time.RFC3339))
	}
	holders := Holders(view, retired, obs)
	overlap := view.Schedule.Overlap
	switch {
	case len(holders) > 0:
		limit := retired.Since.Add(view.Schedule.Limit)
		if view.Schedule.Limit > 0 && !limit.After(obs.Now) {
			return do(Revoke, "the limit of %s has passed, though %s", view.Schedule.Limit, summary(holders))
		}
		if view.Schedule.Limit > 0 {
			step.Until = limit
		}
		if !retired.Left.IsZero() {
			return do(Hold, "it came back: %s", summary(holders))
		}
		return do(Keep, "%s", summary(holders))
	case retired.Left.IsZero(), retired.Left.After(obs.Now.Add(clockSlack)):
		return do(Release, "every place has left it; the overlap of %s begins", overlap)
	case retired.Left.Add(overlap).After(obs.Now):
		step.Until = retired.Left.Add(overlap)
		return do(Keep, "overlap")
	}
	return do(Revoke, "every place left it at %s, and the overlap of %s has passed", retired.Left.UTC().Format(time.RFC3339), overlap)
}

// Holders lists why a replaced login may be in use still: a line for each
// place that holds it or cannot be read, and for what is to be taken away and
// may hold it. A login whose secret is not known was found at the source alone;
// any login that is not ours may be it.
func Holders(view View, retired *state.Retired, obs Observation) []string {
	var holders []string
	for _, lag := range obs.Lags {
		switch {
		case !slices.Contains(lag.Hosts, view.Host):
		case lag.Err != nil:
			holders = append(holders, lag.Target+" cannot tell what else may hold it")
		case lag.Holds:
			holders = append(holders, fmt.Sprintf("%s %s may hold it until it is gone", lag.Target, lag.What))
		}
	}
	for _, place := range obs.Places {
		if !slices.Contains(place.Hosts, view.Host) {
			continue
		}
		where := strings.TrimSpace(place.Target + " " + string(place.Place))
		if place.Err != nil {
			if !errors.Is(place.Err, credential.ErrGone) {
				holders = append(holders, where+" cannot be read and may hold it")
			}
			continue
		}
		switch login, ok := place.Held[view.Host]; {
		case ok && login.Equal(retired.Login()):
			holders = append(holders, where+" holds it")
		case slices.Contains(place.Unknown, view.Host):
			holders = append(holders, where+" holds a login that cannot be told and may be it")
		case retired.Secret.Empty() && holdingOf(view, place) == foreign:
			holders = append(holders, where+" holds an unknown login that may be it")
		}
	}
	return holders
}

func summary(lines []string) string {
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%s, and %d more", lines[0], len(lines)-1)
}
