// Package moa has the names of a module that GitLab Runner requires and that no
// module proxy serves. They are those that common/spec needs to compile; reading logins
// calls none of them, and each panics.
package moa

import "gitlab.com/gitlab-org/moa/ast"

// ParseTemplate is not there.
func ParseTemplate(string) (ast.Expr, error) { panic("moa is not there") }
