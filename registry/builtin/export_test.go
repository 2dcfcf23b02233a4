package builtin

// ParseScope reads one scope for the fuzz target of the grammar.
func ParseScope(text string) (kind, name string, actions []string, ok bool) {
	a, ok := parseScope(text)
	return a.Type, a.Name, a.Actions, ok
}

// ParseRepository returns the repository that a path is about, if it is a path
// of the registry at all.
func ParseRepository(method, path string) (string, bool) {
	to, err := parseRoute(method, path)
	return to.repository, err == nil
}
