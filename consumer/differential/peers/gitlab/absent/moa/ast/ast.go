// Package ast has names only: see package moa.
package ast

// Expr is not there.
type Expr interface {
	Walk(Visitor) (Expr, error)
}

// Visitor is not there.
type Visitor interface {
	Enter(Expr) (Visitor, error)
	Exit(Expr) (Expr, error)
}

// Template is not there.
type Template struct{ Expr }
