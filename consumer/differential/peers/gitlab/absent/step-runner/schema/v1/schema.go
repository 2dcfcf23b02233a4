// Package schema has names only: see package moa beside it.
package schema

// Step is not there.
type Step struct{}
