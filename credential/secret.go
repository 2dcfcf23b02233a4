package credential

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
)

// redacted is what a secret prints as, wherever it is printed.
const redacted = "[redacted]"

// Secret is a password or token that cannot be printed by accident.
//
// The string lives behind a pointer. The methods below are not enough: package
// fmt does not call methods of a value in an unexported field, and would print
// a plain string found there. Of a pointer it prints the address.
//
// The zero Secret is empty. Secrets are compared with [Secret.Equal]; == would
// compare addresses.
type Secret struct{ value *string }

var (
	_ fmt.Formatter  = Secret{}
	_ slog.LogValuer = Secret{}
)

// NewSecret wraps a secret string.
func NewSecret(value string) Secret { return Secret{value: &value} }

// Reveal returns the secret itself. Every call is a place where a secret can
// leak: it goes to a request body, an authentication header, or a document
// that is meant to hold it, and nowhere else.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Empty says whether there is no secret.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// Equal compares two secrets in constant time.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// Fingerprint is a name for the secret that does not give it away: the first
// eight hex digits of its SHA-256. With 32 bits it tells secrets apart and
// cannot confirm a guess of a strong one.
func (s Secret) Fingerprint() string {
	sum := sha256.Sum256([]byte(s.Reveal()))
	return hex.EncodeToString(sum[:4])
}

// String prints a placeholder.
func (Secret) String() string { return redacted }

// Format prints a placeholder for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue logs a placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText writes a placeholder, so that JSON and YAML hold one too. What
// must store a secret says so with [Secret.Reveal].
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
