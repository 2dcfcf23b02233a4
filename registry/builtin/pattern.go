package builtin

import (
	"strings"

	"github.com/regkeeper/regkeeper/problem"
)

// everything is the repository pattern that matches all.
const everything = "*"

// matchRepository says whether a pattern of [TokenRequest] matches.
//
//	pattern   app   team   team/app   team/app/web   teams/app
//	*         yes   yes    yes        yes            yes
//	team/*    no    no     yes        yes            no
//	team/app  no    no     yes        no             no
func matchRepository(pattern, repository string) bool {
	if pattern == everything {
		return true
	}
	if parent, ok := strings.CutSuffix(pattern, everything); ok {
		return strings.HasPrefix(repository, parent) && len(repository) > len(parent)
	}
	return pattern == repository
}

// checkRepositoryPattern refuses what matchRepository would read otherwise than
// its writer. The error is of kind [problem.Usage].
func checkRepositoryPattern(pattern string) error {
	name := strings.TrimSuffix(pattern, "/"+everything)
	if pattern == everything || validName(name) {
		return nil
	}
	return problem.New(problem.Usage, "write *, team/* or team/app, in lower case", "repository pattern %q is not valid", pattern)
}
