package builtin

import (
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
)

// access is one resource and what may be done with it, as the claim "access" of
// a bearer token has it: distribution's docs/spec/auth/jwt.md.
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// allScopes are the scopes that the action * stands for.
var allScopes = credential.ScopesOf(pulling, pushing, deleting)

// The resource whose listing needs no right but a login.
const (
	typeRepository = "repository"
	typeRegistry   = "registry"
	nameCatalog    = "catalog"
)

// parseScopes reads the scope parameters of a token request, by the grammar of
// distribution's docs/spec/auth/scope.md:
//
//	repository:team/app:pull,push registry:catalog:*
//
// What is not of that form asks for nothing, as it does at other registries:
// a client must not fail for a word that only another registry understands.
// Resources that are named twice are returned once, in the order first named.
func parseScopes(params []string) []access {
	var asked []access
	for _, param := range params {
		for _, text := range strings.Fields(param) {
			one, ok := parseScope(text)
			if !ok {
				continue
			}
			at := slices.IndexFunc(asked, func(a access) bool { return a.Type == one.Type && a.Name == one.Name })
			if at < 0 {
				asked = append(asked, one)
				continue
			}
			asked[at].Actions = compactActions(append(asked[at].Actions, one.Actions...))
		}
	}
	return asked
}

// parseScope reads one scope. A name may hold colons, in a host's port; the
// type and the actions may not.
func parseScope(text string) (access, bool) {
	kind, rest, ok := strings.Cut(text, ":")
	end := strings.LastIndexByte(rest, ':')
	if !ok || kind == "" || end <= 0 {
		return access{}, false
	}
	actions := slices.DeleteFunc(strings.Split(rest[end+1:], ","), func(action string) bool { return action == "" })
	if len(actions) == 0 {
		return access{}, false
	}
	return access{Type: kind, Name: rest[:end], Actions: compactActions(actions)}, true
}

func compactActions(actions []string) []string {
	slices.Sort(actions)
	return slices.Compact(actions)
}

// grant is the part of what is asked for that the token may do.
func grant(token Token, asked []access) []access {
	granted := []access{}
	for _, one := range asked {
		var actions []string
		switch {
		case one.Type == typeRegistry && one.Name == nameCatalog:
			if slices.Contains(one.Actions, "*") {
				actions = []string{"*"}
			}
		case one.Type == typeRepository && validName(one.Name):
			for _, scope := range allScopes {
				wanted := slices.Contains(one.Actions, "*") || slices.Contains(one.Actions, string(scope))
				if wanted && token.Allows(one.Name, scope) {
					actions = append(actions, string(scope))
				}
			}
		}
		if len(actions) > 0 {
			granted = append(granted, access{Type: one.Type, Name: one.Name, Actions: actions})
		}
	}
	return granted
}

// covers says whether one of the grants has the action on the resource.
func covers(granted []access, kind, name, action string) bool {
	return slices.ContainsFunc(granted, func(a access) bool {
		return a.Type == kind && a.Name == name && slices.Contains(a.Actions, action)
	})
}

// formatScopes writes grants as the scopes they came from.
func formatScopes(granted []access) string {
	words := make([]string, len(granted))
	for i, a := range granted {
		words[i] = a.Type + ":" + a.Name + ":" + strings.Join(a.Actions, ",")
	}
	return strings.Join(words, " ")
}
