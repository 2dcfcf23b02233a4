package credential

import (
	"context"
	"errors"
	"iter"
	"time"
)

// ErrRefused is in the chain of an error when a registry or a source refused a
// login: it is wrong, revoked, expired, or lacks a right. Asking again with the
// same login gives the same answer.
var ErrRefused = errors.New("login refused")

// ErrUnsupported is in the chain of an error when a source cannot give what
// was asked of it, and never will as it is configured.
var ErrUnsupported = errors.New("not supported by this source")

// Source gives logins for a registry.
//
// A source that is not also a [Minter] is told its login by someone else:
// Issue then returns the login as it is now, the same one until it is changed
// at its origin.
type Source interface {
	// Issue returns a login with the scopes asked for. Its errors may have
	// ErrRefused (the source's own login was refused) or ErrUnsupported in
	// their chain.
	Issue(ctx context.Context, req Request) (Credential, error)
}

// Minter is a source that makes logins of its own, and can end them.
type Minter interface {
	Source
	// Issued lists the logins at the source whose names carry the mark. It
	// stops after the first error. ErrRefused may be in its chain.
	Issued(ctx context.Context, mark Mark) iter.Seq2[Issued, error]
	// Revoke ends a login by its [Credential.ID]. A login that is gone is no
	// error. ErrRefused may be in the error's chain.
	Revoke(ctx context.Context, id string) error
}

// Renewer is a source whose logins end by themselves, and that renews them ahead of
// their end. While it cannot, Issue gives the one that is still good.
type Renewer interface {
	Source
	// Overdue is why the login for a registry was not renewed when it was to be;
	// nil if nothing is wrong with it.
	Overdue(host Host) error
}

// Issued is what a source tells of a login later on. The secret is told only
// once, by [Source.Issue].
type Issued struct {
	ID   string
	Name string
	// Created is when the login was made; zero where the source does not say.
	Created time.Time
}

// Place is one spot in which a consumer looks for logins: the path of a file,
// a container of a pod, a variable of a project. It is unique in its target
// and stable for as long as the spot exists.
type Place string

// ErrGone is in the chain of an error when a place does not exist any more. A
// place that is gone holds no login.
var ErrGone = errors.New("place is gone")

// Target is a set of places that logins are delivered to.
//
// A target changes only the entries of the hosts it is told to, and keeps all
// else that a place holds. Its methods may be called at the same time for
// different places.
type Target interface {
	// Places lists the places as they are now, in a stable order. A place may
	// be listed before it exists, when delivering would create it.
	Places(ctx context.Context) ([]Place, error)
	// Held reads what a place holds for the hosts, those it has no login for
	// left out. A place that does not exist yet holds nothing. ErrGone may be
	// in the error's chain.
	Held(ctx context.Context, place Place, hosts []Host) (map[Host]Login, error)
	// Deliver writes the logins into the place. Afterwards Held returns them,
	// and whoever reads the place finds either the old or the new content,
	// never part of one. ErrGone may be in the error's chain.
	Deliver(ctx context.Context, place Place, logins map[Host]Login) error
}

// Watcher is a target that can tell when its places may have changed.
type Watcher interface {
	Target
	// Watch calls changed after a change in one of the places, with the places
	// concerned, or with none when any may have changed. It returns when ctx
	// ends, or with an error when it cannot watch any longer.
	Watch(ctx context.Context, changed func(places ...Place)) error
}

// Confirmer is a target whose deliveries tell what the place holds then: reading
// back takes no further look.
type Confirmer interface {
	Target
	// DeliverConfirmed is Deliver, followed by Held for the hosts.
	DeliverConfirmed(ctx context.Context, place Place, logins map[Host]Login, hosts []Host) (map[Host]Login, error)
}

// Recognizer is a target whose places cannot be read by anyone but their
// consumers: they tell only whether a login is one that was delivered before. Held
// of such a target, which would have to tell the login, finds none.
type Recognizer interface {
	Target
	// Recognize says which of the logins a place holds, of each host at most one. A
	// host is in unknown whose login in the place is none of them. A place that does
	// not exist yet holds nothing. ErrGone may be in the error's chain.
	Recognize(ctx context.Context, place Place, logins map[Host][]Login) (held map[Host]Login, unknown []Host, err error)
}

// Refresher is a target that answers from what it was told of. Before a login is
// ended, it is asked anew.
type Refresher interface {
	Target
	// Refresh asks what there is: Places and Held answer by that then.
	Refresh(ctx context.Context) error
}

// Lag is something about a target that has not followed its logins yet: a
// workload that read a login that was replaced, say.
type Lag struct {
	// What is the thing that lags, as people know it, unique with Remedy in its
	// target: a workload, a pod.
	What string
	// Remedy is what Follow does about it, in one word.
	Remedy string
	// Reason says why it lags.
	Reason string
	// After is the place that must hold the logins in force first; empty for
	// none.
	After Place
	// Waits says why it must not follow yet; empty if it may.
	Waits string
	// Holds says that what lags may hold a login that was replaced.
	Holds bool
}

// ErrNotYet is in the chain of an error of [Follower.Follow] when it must wait;
// nothing failed.
var ErrNotYet = errors.New("not yet")

// Follower is a target of which more depends than its places: once these hold
// the logins in force, other things must follow.
type Follower interface {
	Target
	// Behind lists what has not followed the logins, which are given by their
	// ids, in a stable order. Of places it looks at what depends on these alone,
	// unless none is given. What it found before an error is returned with it.
	Behind(ctx context.Context, logins map[Host]string, places ...Place) ([]Lag, error)
	// Follow does what the remedy of a lag is. ErrGone and ErrNotYet may be in the
	// error's chain. What has followed already is no error.
	Follow(ctx context.Context, lag Lag, logins map[Host]string) error
}

// Proof is how a login was shown to be good, and what it takes to ask again by
// one request.
type Proof struct {
	// Image is the image that was pulled; empty if there was none to pull.
	Image string
	// Scheme and Service are of the registry's authentication challenge
	// (RFC 7235 section 4.1 and distribution's token specification). Realm is
	// the URL at which the login was shown: that of the token server, or the
	// root of the registry's API.
	Scheme, Realm, Service string
}

// Verifier tries logins at their registries.
type Verifier interface {
	// Verify tries a login for all its scopes, and leaves nothing behind at the
	// registry. The probe is the image to pull; if it is empty one is looked
	// for. ErrRefused is in the error's chain if the registry refused.
	Verify(ctx context.Context, login Credential, probe string) (Proof, error)
	// Check asks, by one request, whether a login that was verified before is
	// still accepted. Its errors are as those of Verify.
	Check(ctx context.Context, login Credential, proof Proof) error
}
