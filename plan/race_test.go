//go:build race

package plan_test

// The race detector makes a plan ten times as slow; deciding is one goroutine's
// work. The whole count is checked without it.
func init() { *count = 10_000 }
