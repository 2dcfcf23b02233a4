package giteasecret

import (
	"regexp"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// kind is what places are.
type kind string

const (
	secrets   kind = "secrets"
	variables kind = "variables"
)

// own is where the account's own are.
const own = "user"

// spot is where secrets and variables are.
type spot struct {
	place credential.Place
	// where is the way there in the server's API.
	where string
	// organization is set for one, and owner and repository for a repository.
	organization, owner, repository string
}

// noteMark begins the names of notes.
const noteMark = "REGKEEPER_"

var (
	// allowed and refused are Gitea's rule for names (services/secrets,
	// ValidateName).
	allowed = regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)
	refused = regexp.MustCompile(`^(GIT(EA|HUB)_.*|CI)$`)
	// owners are names of accounts, organisations and repositories.
	owners = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
)

// everywhere are the names of secrets with which the Gitea runner, the Forgejo
// runner and act log in to whichever registry a job's image is of.
var everywhere = []string{"DOCKER_USERNAME", "DOCKER_PASSWORD"}

// names are those of the secrets or variables.
func (c Config) names() []string {
	if c.Prefix != "" {
		prefix := strings.ToUpper(c.Prefix)
		return []string{prefix + "_USERNAME", prefix + "_PASSWORD"}
	}
	return []string{strings.ToUpper(c.Name)}
}

// noteName is the name of the note: that of the secret which is written last.
func (c Config) noteName() string {
	names := c.names()
	return noteMark + names[len(names)-1]
}

// Check says what is wrong with the configuration. The error is a
// [problem.Error] of the kind [problem.Config].
func (c Config) Check() error {
	fault := func(hint, format string, args ...any) error {
		return problem.New(problem.Config, hint, format, args...)
	}
	switch {
	case (c.Name == "") == (c.Prefix == ""):
		return fault("set name: for one that holds a config.json, or prefix: for a username and a password", "either a name or a prefix is needed")
	case c.Prefix != "" && c.Host == "":
		return fault("give the target one registry", "%s and %s hold the login of one registry: of which is not said", c.names()[0], c.names()[1])
	case len(c.Repositories) == 0 && len(c.Organizations) == 0 && !c.Own:
		return fault("set repositories:, organizations: or own: true", "no repository, organisation or account to deliver to")
	}
	for _, name := range c.names() {
		if !allowed.MatchString(name) || refused.MatchString(name) {
			return fault("use letters, digits and underscores; names that begin with GITEA_ or GITHUB_ are the server's own", "the server takes no secret or variable with the name %s", name)
		}
		if slices.Contains(everywhere, name) && (!c.AnyRegistry || c.Prefix == "") {
			return fault("choose another prefix, or set anyRegistry: true if the jobs pull from no other registry",
				"runners log in to every registry with the secrets DOCKER_USERNAME and DOCKER_PASSWORD, and with nothing else then: images of other registries, public ones too, fail, and these get to see the login")
		}
	}
	seen := map[string]bool{}
	for _, repository := range c.Repositories {
		owner, name, _ := strings.Cut(repository, "/")
		if !owners.MatchString(owner) || !owners.MatchString(name) || name == "." || name == ".." {
			return fault("write it as owner/name", "repository %q", repository)
		}
	}
	for _, organization := range c.Organizations {
		if !owners.MatchString(organization) || organization == "." || organization == ".." {
			return fault("write its short name, as in the address", "organisation %q", organization)
		}
	}
	for _, at := range c.spots() {
		if seen[strings.ToLower(at.where)] {
			return fault("name it once", "%s is named twice", at.where)
		}
		seen[strings.ToLower(at.where)] = true
	}
	return nil
}

// spots lists where the secrets or variables are.
func (c Config) spots() []spot {
	var spots []spot
	for _, full := range c.Repositories {
		owner, name, _ := strings.Cut(full, "/")
		spots = append(spots, spot{where: "repos/" + full, owner: owner, repository: name})
	}
	for _, name := range c.Organizations {
		spots = append(spots, spot{where: "orgs/" + name, organization: name})
	}
	if c.Own {
		spots = append(spots, spot{where: own})
	}
	return spots
}

// at is the place of a kind in a spot.
func (c Config) at(s spot, kind kind) credential.Place {
	name := strings.ToUpper(c.Name)
	if c.Prefix != "" {
		name = strings.ToUpper(c.Prefix) + "_*"
	}
	return credential.Place(s.where + "/" + string(kind) + "/" + name)
}

func (c Config) places(kind kind) []credential.Place {
	var places []credential.Place
	for _, s := range c.spots() {
		places = append(places, c.at(s, kind))
	}
	slices.Sort(places)
	return places
}

// otherHost is the error of a login that a pair does not take.
func (c Config) otherHost(place credential.Place, host credential.Host) error {
	return problem.New(problem.Config, "give the target this registry alone, or use name: in place of prefix:",
		"%s holds the login of %s, and none of %s", place, c.Host, host)
}
