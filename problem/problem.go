// Package problem holds errors meant for people: what went wrong, of which
// kind it is, and what to do about it.
//
// It owns the one table from kind to exit code and HTTP status. It refuses to
// print: the command line and the HTTP servers each print a problem once, at
// their top.
package problem

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind classes an error by what the caller can do about it.
type Kind string

// The kinds. Their exit codes are a public contract: see [Kind.ExitCode].
const (
	// Internal is an error nobody foresaw: a defect, or a broken machine.
	Internal Kind = "internal"
	// Pending is not a failure: changes wait to be made.
	Pending Kind = "pending"
	// Usage is a command line that cannot be run as written.
	Usage Kind = "usage"
	// Config is a configuration document with faults in it.
	Config Kind = "config"
	// Denied is a login that was refused, or that lacks a right.
	Denied Kind = "denied"
	// Unreachable is a registry, a source or a place that does not answer.
	Unreachable Kind = "unreachable"
	// Busy is a resource that someone else holds: a data folder, a port.
	Busy Kind = "busy"
	// NotFound is a named thing that is not there.
	NotFound Kind = "not-found"
	// Damaged is a document that cannot be read and is not overwritten.
	Damaged Kind = "damaged"
	// Storage is a disk or folder that cannot be read or written.
	Storage Kind = "storage"
	// Partial is a run in which some parts were done and some were not.
	Partial Kind = "partial"
	// Refused is what a safeguard keeps from being done until it is lifted on
	// purpose: a limit, a tag that must not move.
	Refused Kind = "refused"
)

// kinds is the one table of exit codes and HTTP statuses.
var kinds = map[Kind]struct{ exit, status int }{
	Internal:    {1, http.StatusInternalServerError},
	Pending:     {2, http.StatusConflict},
	Usage:       {3, http.StatusBadRequest},
	Config:      {4, http.StatusUnprocessableEntity},
	Denied:      {5, http.StatusForbidden},
	Unreachable: {6, http.StatusBadGateway},
	Busy:        {7, http.StatusConflict},
	NotFound:    {8, http.StatusNotFound},
	Damaged:     {9, http.StatusInternalServerError},
	Storage:     {10, http.StatusInsufficientStorage},
	Partial:     {11, http.StatusMultiStatus},
	Refused:     {12, http.StatusConflict},
}

// ExitCode is the process exit code that stands for the kind. An unknown kind
// counts as [Internal].
func (k Kind) ExitCode() int {
	if row, ok := kinds[k]; ok {
		return row.exit
	}
	return kinds[Internal].exit
}

// HTTPStatus is the HTTP status that stands for the kind. An unknown kind
// counts as [Internal].
func (k Kind) HTTPStatus() int {
	if row, ok := kinds[k]; ok {
		return row.status
	}
	return kinds[Internal].status
}

// Error is a problem for people. Neither Text nor Hint may hold a secret.
type Error struct {
	Kind Kind
	// Text says what is wrong and where, in one line, without a full stop.
	Text string
	// Hint says what to do about it. It may be empty.
	Hint string
	// Err is the cause, if there is one; its text is shown behind Text.
	Err error
}

var _ error = (*Error)(nil)

// New makes a problem without a cause.
func New(kind Kind, hint, format string, args ...any) *Error {
	return &Error{Kind: kind, Hint: hint, Text: fmt.Sprintf(format, args...)}
}

// Wrap makes a problem of a cause. It returns nil if the cause is nil.
func Wrap(err error, kind Kind, hint, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Hint: hint, Text: fmt.Sprintf(format, args...), Err: err}
}

// Error is the text with the cause behind it.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the outermost problem in the chain of err. It is
// [Internal] for an error that has none, and empty for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var p *Error
	if errors.As(err, &p) {
		return p.Kind
	}
	return Internal
}

// HintOf is the outermost hint in the chain of err that is not empty. Of errors
// that were joined, the first with a hint counts.
func HintOf(err error) string {
	if p, ok := err.(*Error); ok && p.Hint != "" { //nolint:errorlint // each link is looked at
		return p.Hint
	}
	switch e := err.(type) { //nolint:errorlint // each link is looked at
	case interface{ Unwrap() error }:
		return HintOf(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, joined := range e.Unwrap() {
			if hint := HintOf(joined); hint != "" {
				return hint
			}
		}
	}
	return ""
}
