// Package credential has the words of the first flow: what a login is, where
// it comes from and where it goes.
//
// It owns Credential and Secret, the normal form of a registry's host, the
// mark by which regkeeper knows its own logins, and the ports Source and
// Target. It refuses I/O.
package credential

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// Scope is a right at a registry.
type Scope string

// The scopes that regkeeper can ask a source for. Delete is a right of its own
// because most forges fold it into push and the embedded registry does not.
const (
	Pull   Scope = "pull"
	Push   Scope = "push"
	Delete Scope = "delete"
)

// Scopes is a set of scopes, sorted, without doubles.
type Scopes []Scope

// ScopesOf makes the set.
func ScopesOf(scopes ...Scope) Scopes {
	set := slices.Clone(scopes)
	slices.Sort(set)
	return slices.Compact(set)
}

// Has says whether the scope is in the set.
func (s Scopes) Has(scope Scope) bool { return slices.Contains(s, scope) }

// Equal says whether two sets are the same.
func (s Scopes) Equal(other Scopes) bool {
	return slices.Equal(ScopesOf(s...), ScopesOf(other...))
}

// String lists the set, comma-separated.
func (s Scopes) String() string {
	words := make([]string, len(s))
	for i, scope := range s {
		words[i] = string(scope)
	}
	return strings.Join(words, ",")
}

// Credential is a login that one registry accepts.
type Credential struct {
	// ID names the login at its source. It is not secret.
	ID string
	// Name is what the source shows to people. A minted login's name carries
	// a [Mark].
	Name     string
	Host     Host
	Username string
	Secret   Secret
	Scopes   Scopes
	Issued   time.Time
	// Expires is when the registry stops accepting the login. Zero means that
	// it does not by itself.
	Expires time.Time
}

// Login is what a consumer finds in a place: the part of a [Credential] that
// goes over the wire.
type Login struct {
	Username string
	Secret   Secret
}

// Login is the part of the credential that goes into a place.
func (c Credential) Login() Login { return Login{Username: c.Username, Secret: c.Secret} }

// Equal says whether two logins are the same.
func (l Login) Equal(other Login) bool {
	return l.Username == other.Username && l.Secret.Equal(other.Secret)
}

// Request asks a source for a login.
type Request struct {
	// Host is the registry the login is for.
	Host Host
	// Name is given to the login at the source; [Mark.Name] makes it.
	Name string
	// Scopes are the rights asked for. They are never widened.
	Scopes Scopes
	// Expires is when the login may end by itself; zero asks for none. A
	// source that cannot limit a login ignores it.
	Expires time.Time
}

// Mark is the beginning of the names of all logins that one regkeeper minted
// for one registry. It has a fixed length and no special characters, so that
// no mark is the beginning of another, every source takes it as a name, and it
// never reads as a number: Gitea takes a token name that parses as a number
// for an ID.
type Mark string

// MarkOf is the mark of the regkeeper with that instance id for the registry.
func MarkOf(instance string, host Host) Mark { return markOf("regkeeper-", instance, host) }

// LoanMarkOf is the mark of logins that are minted for one piece of work. It
// owns none that [MarkOf] does.
func LoanMarkOf(instance string, host Host) Mark { return markOf("regkeeper-loan-", instance, host) }

func markOf(prefix, instance string, host Host) Mark {
	digest := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:4])
	}
	return Mark(prefix + digest(instance) + "-" + digest(string(host)))
}

// Name is the name of a login with that mark. The serial tells it from the
// others with the same mark.
func (m Mark) Name(serial string) string { return string(m) + "-" + serial }

// Owns says whether a name carries the mark. The empty mark owns nothing.
func (m Mark) Owns(name string) bool {
	return m != "" && strings.HasPrefix(name, string(m)+"-")
}
