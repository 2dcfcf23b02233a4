// Package value has names only: see package moa.
package value

import (
	"errors"
	"iter"
)

// Kind is not there.
type Kind string

// The kinds.
const (
	StringKind Kind = "string"
	NumberKind Kind = "number"
	BoolKind   Kind = "bool"
	ArrayKind  Kind = "array"
	ObjectKind Kind = "object"
	NullKind   Kind = "null"
)

// The errors.
var (
	ErrAttributeNotFound = errors.New("moa is not there")
	ErrInvalidKey        = errors.New("moa is not there")
)

// Value is not there.
type Value struct{}

// Kind is not there.
func (Value) Kind() Kind { panic("moa is not there") }

// String is not there.
func (Value) String() string { panic("moa is not there") }

// WithMarks is not there.
func (Value) WithMarks(uint16) Value { panic("moa is not there") }

// HasMarks is not there.
func (Value) HasMarks(uint16) bool { panic("moa is not there") }

// Mapper is not there.
type Mapper interface {
	All() iter.Seq2[Value, Value]
	Attr(string) (Value, error)
	Get(Value) (Value, error)
	Keys() iter.Seq[Value]
	Len() int
	Values() iter.Seq[Value]
	WithMarks(uint16) Mapper
}

// String is not there.
func String(string) Value { panic("moa is not there") }

// Null is not there.
func Null() Value { panic("moa is not there") }

// Object is not there.
func Object(Mapper) Value { panic("moa is not there") }
