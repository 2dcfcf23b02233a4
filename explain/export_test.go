package explain

import "slices"

// RuleIDs are the IDs of package consumer's rules that the tables name.
func RuleIDs() []string {
	ids := slices.Concat(helperRules, []string{"anonymous-retry", "runner-pulls-itself", "one-of-several", "docker-secrets"})
	for _, s := range sights {
		ids = slices.Concat(ids, s.rules, s.by)
	}
	return ids
}
