package giteasecret

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/regkeeper/regkeeper/credential"
)

// note is what the variable beside a secret says. Whoever may read variables
// learns of which registries the logins are, and when they change.
type note struct {
	// Regkeeper is the version of the note.
	Regkeeper int `json:"regkeeper"`
	// Stamp is of the last write, and is in the description of the secrets.
	Stamp string `json:"stamp"`
	// Listed is what the server told of the secrets after the write: if it tells
	// something else, somebody has written them since. Without it that goes unseen.
	Listed map[string]string `json:"listed,omitempty"`
	// Open says that the secrets may hold anything besides: what they held before
	// the write was not known.
	Open bool `json:"open,omitempty"`
	// Logins are the hashes of what the secrets may hold, for each host: one, or
	// several while they are written.
	Logins map[credential.Host][]string `json:"logins"`
}

const (
	noteVersion = 1
	// nothing stands for no login among the hashes.
	nothing = ""
)

// parseNote reads a note; nil if it is none.
func parseNote(text string) *note {
	var n note
	if json.Unmarshal([]byte(text), &n) != nil || n.Regkeeper != noteVersion || n.Logins == nil {
		return nil
	}
	return &n
}

func (n *note) text() string {
	text, _ := json.Marshal(n) // strings in maps have a form in JSON
	return string(text)
}

// settledAs says whether the secrets hold these logins, and no others.
func (n *note) settledAs(hashes map[credential.Host]string) bool {
	for host, hash := range hashes {
		if !slices.Equal(n.Logins[host], []string{hash}) {
			return false
		}
	}
	return len(n.Logins) == len(hashes)
}

// turning is the note while what it tells of is replaced.
func (n *note) turning(hashes map[credential.Host]string) *note {
	turning := &note{Regkeeper: noteVersion, Stamp: rand.Text(), Logins: map[credential.Host][]string{}}
	for host, before := range n.Logins {
		turning.Logins[host] = either(before, hashes[host])
	}
	for host, hash := range hashes {
		if _, known := n.Logins[host]; !known {
			turning.Logins[host] = either([]string{nothing}, hash)
		}
	}
	return turning
}

func either(before []string, after string) []string {
	both := append(slices.Clone(before), after)
	slices.Sort(both)
	return slices.Compact(both)
}

// settled is the note once the logins are written.
func (n *note) settled(hashes map[credential.Host]string) *note {
	settled := &note{Regkeeper: noteVersion, Stamp: n.Stamp, Logins: map[credential.Host][]string{}}
	for host := range maps.Keys(hashes) {
		settled.Logins[host] = []string{hashes[host]}
	}
	return settled
}

// descriptionOf is the description of a secret, for people, and for telling
// whether somebody else wrote it. Servers that know none drop it.
func descriptionOf(stamp string) string {
	return "kept by regkeeper, do not edit (" + stamp + ")"
}

// hashOf is the hash of a login in a place: an HMAC-SHA256 (RFC 2104), so that
// who reads it cannot try logins against it, nor tell whether two places hold the
// same.
func hashOf(key string, place credential.Place, host credential.Host, login credential.Login) string {
	h := hmac.New(sha256.New, []byte(key))
	for _, part := range []string{"regkeeper note 1", string(place), string(host), login.Username, login.Secret.Reveal()} {
		_, _ = fmt.Fprintf(h, "%d:%s,", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}
