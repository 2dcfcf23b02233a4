// Package state owns what regkeeper must remember between runs: the journal of
// each registry's rotation, the keyring, and what is known of each place. One
// document holds it all, so that one write is one step.
//
// It refuses to decide anything: package keeper does. What is written here
// holds secrets; nothing else of regkeeper's own does.
package state

import (
	"context"
	"errors"
	"time"

	"github.com/regkeeper/regkeeper/credential"
)

// Document is everything that is remembered.
type Document struct {
	Registries map[credential.Host]*Registry
	// Places is by target name.
	Places map[string]map[credential.Place]*Place
}

// Registry is the journal and the keyring of one registry. Its fields are in
// the order in which a rotation fills them.
type Registry struct {
	// Intent is a login that may exist at the source and is not in the
	// keyring: it was asked for, and the answer was not journaled.
	Intent *Intent
	// Next has been issued and not been verified yet. No place holds it.
	Next *Credential
	// Current is the login in force: verified, and delivered to each place.
	Current *Credential
	// Retired were in force before, and are to be revoked.
	Retired []*Retired
	// Verified is when Current passed its verification.
	Verified time.Time
	// Proof is how Current was verified.
	Proof credential.Proof
	// Trouble is why the last step failed; nil if it did not.
	Trouble *Trouble
}

// Intent is a login about to be asked for.
type Intent struct {
	Name string
	At   time.Time
	// Origin says which source was asked.
	Origin string
}

// Credential is a login of the keyring.
type Credential struct {
	credential.Credential
	// Origin says which source issued it. Another source can neither tell
	// about the login nor revoke it.
	Origin string
	// Terms are what the source was told besides the scopes.
	Terms string
}

// Retired is a login that was replaced.
type Retired struct {
	Credential
	// Since is when it was replaced.
	Since time.Time
	// Left is when the last place was seen to have left it. Zero: a place
	// may hold it still.
	Left time.Time
}

// Place is what is known of a place that logins are delivered to.
type Place struct {
	Delivered time.Time
	// Verified is when the place was last read back and held the login that
	// had been delivered.
	Verified time.Time
	Trouble  *Trouble
}

// Trouble is a failure as people are shown it. It holds no secret.
type Trouble struct {
	Text  string
	Hint  string
	Since time.Time
}

// ErrChanged is in the chain of an error of [Store.Save] when someone else has
// changed the document since it was loaded: it is to be loaded anew.
var ErrChanged = errors.New("the state was changed by another regkeeper")

// Store keeps the document. Only one Store of a document is open at a time.
type Store interface {
	// Load returns the document as last saved; an empty one, with its maps
	// made, if none was. The error is a problem of kind Damaged if there is
	// one that cannot be read.
	Load(ctx context.Context) (*Document, error)
	// Save replaces the document. When it returns nil the document has
	// survived a crash; when it returns an error either the old or the new
	// document has. ErrChanged may be in its chain.
	Save(ctx context.Context, doc *Document) error
}

// Holder is a store that can tell whether it is still the only one open.
type Holder interface {
	Store
	// Held is a problem of kind Busy if another may have taken the document.
	Held(ctx context.Context) error
}

// New is an empty document.
func New() *Document {
	return &Document{
		Registries: map[credential.Host]*Registry{},
		Places:     map[string]map[credential.Place]*Place{},
	}
}

// Registry is the entry for a host, made if there is none.
func (d *Document) Registry(host credential.Host) *Registry {
	entry, ok := d.Registries[host]
	if !ok {
		entry = &Registry{}
		d.Registries[host] = entry
	}
	return entry
}

// Clone is a copy that shares no part that changes.
func (r *Registry) Clone() *Registry {
	c := *r
	c.Retired = make([]*Retired, len(r.Retired))
	for i, retired := range r.Retired {
		login := *retired
		c.Retired[i] = &login
	}
	return &c
}

// Clone is a copy that shares no part that changes.
func (d *Document) Clone() *Document {
	c := New()
	for host, r := range d.Registries {
		c.Registries[host] = r.Clone()
	}
	for target, places := range d.Places {
		for place, p := range places {
			*c.Place(target, place) = *p
		}
	}
	return c
}

// Place is the entry for a place, made if there is none.
func (d *Document) Place(target string, place credential.Place) *Place {
	places := d.Places[target]
	if places == nil {
		places = map[credential.Place]*Place{}
		d.Places[target] = places
	}
	entry, ok := places[place]
	if !ok {
		entry = &Place{}
		places[place] = entry
	}
	return entry
}
