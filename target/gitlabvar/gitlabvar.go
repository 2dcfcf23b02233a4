// Package gitlabvar is the target of GitLab's CI/CD variables, of projects, groups
// and the server itself: DOCKER_AUTH_CONFIG, in which GitLab Runner and the docker
// CLI look for logins.
//
// It keeps entries of others, and writes what the docker CLI from 28.3 on accepts
// and nothing else (see [Strict]). A value that the CLI does not accept is left as it
// is, since it cannot be made acceptable without losing what somebody wrote. It
// refuses hidden variables: what cannot be read cannot be kept.
//
// GitLab has no way to change a variable on the condition that nobody else has: what
// another program writes between our reading and our writing is lost. These are one
// request apart.
package gitlabvar

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/transport/gitlabapi"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says which variables.
type Config struct {
	// URL is the server's root, for example https://gitlab.example.com.
	URL string
	// Projects and Groups have the variable, by number or path. Instance is the
	// server itself. In a job, a project's variable replaces that of its group, the
	// nearest group's that of those above, and any that of the server, as a whole.
	Projects, Groups []string
	Instance         bool
	// Key is the variable's name; [credential.AuthVariable] if empty.
	Key string
	// Scope is the environment scope, for example production or review/*; * if empty.
	// Groups have others with GitLab Premium alone, the server has none.
	Scope string
	// Unmasked leaves the value readable in the logs of jobs. A variable that
	// somebody masked stays so.
	Unmasked bool
	// Protected gives the variable to jobs of protected branches and tags alone. One
	// that somebody protected stays so.
	Protected bool
	// Token is what the API is asked with: an access token with the scope api, of a
	// Maintainer of each project, an Owner of each group, and for the server's
	// variables an administrator.
	Token secretref.Ref
	// Transport sends the requests.
	Transport http.RoundTripper
}

// Target delivers to variables. A place is a variable's place in GitLab's API.
type Target struct{ config Config }

var _ credential.Confirmer = (*Target)(nil)

// tries is how often a variable is read and written anew that came or went in
// between.
const tries = 3

// New makes the target. It sends nothing yet.
func New(config Config) *Target {
	if config.Key == "" {
		config.Key = credential.AuthVariable
	}
	if config.Scope == "" {
		config.Scope = anyScope
	}
	return &Target{config: config}
}

// Warnings say what is different from other targets for who uses such variables, in
// sentences for people.
func Warnings(config Config) []string {
	var all []string
	if config.Key == "" || config.Key == credential.AuthVariable {
		all = append(all, "the docker CLI from 28.3 on reads "+credential.AuthVariable+" by itself: for the registries in it, jobs cannot replace the login by docker login, "+
			"not even for a push that it has no right to; a job that needs another one unsets the variable first")
	}
	if config.Unmasked {
		all = append(all, "the value is shown in the log of a job that prints its environment: it is not masked")
	} else {
		all = append(all, "masking hides the value as a whole: a job that prints a part of it, or decodes it, shows a login")
	}
	if config.Protected {
		all = append(all, "jobs of branches and tags that are not protected do not get the variable, and pull without a login")
	}
	return all
}

// Places lists the variables, also those that do not exist yet.
func (t *Target) Places(context.Context) ([]credential.Place, error) {
	var places []credential.Place
	for _, s := range t.spots() {
		places = append(places, s.place())
	}
	switch {
	case len(places) == 0:
		return nil, problem.New(problem.Config, "give projects, groups, or instance: true", "no variable of %s is named", t.config.URL)
	case t.config.Instance && t.config.Scope != anyScope:
		return nil, problem.New(problem.Config, "leave the environment out, or instance", "variables of %s itself have no environment scope", t.config.URL)
	case strings.Trim(t.config.Key, keyCharacters) != "":
		return nil, problem.New(problem.Config, "use letters, digits and _", "variable %q cannot be named so", t.config.Key)
	}
	return places, nil
}

const keyCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

func (t *Target) spots() []spot {
	var all []spot
	seen := map[spot]bool{}
	add := func(s spot) {
		if !seen[s] {
			seen[s] = true
			all = append(all, s)
		}
	}
	for _, path := range t.config.Projects {
		add(spot{projects, path, t.config.Key, t.config.Scope})
	}
	for _, path := range t.config.Groups {
		add(spot{groups, path, t.config.Key, t.config.Scope})
	}
	if t.config.Instance {
		add(spot{instance, "", t.config.Key, anyScope})
	}
	return all
}

// open finds a place, and makes a client for it.
func (t *Target) open(ctx context.Context, place credential.Place) (spot, *gitlabapi.Client, error) {
	for _, s := range t.spots() {
		if s.place() != place {
			continue
		}
		token, err := t.config.Token.Resolve(ctx)
		if err != nil {
			return spot{}, nil, fmt.Errorf("get the token for %s: %w", t.config.URL, err)
		}
		client, err := gitlabapi.New(t.config.URL, token, t.config.Transport)
		return s, client, err
	}
	// It may well be there, and hold a login: it is not gone.
	return spot{}, nil, problem.New(problem.NotFound, "name it in the configuration, or empty it by hand", "%s is no place of this target", place)
}

// Held reads a variable. It fails if the docker CLI would not accept its value: the
// logins in it are then not those that jobs use.
func (t *Target) Held(ctx context.Context, place credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	s, client, err := t.open(ctx, place)
	if err != nil {
		return nil, err
	}
	found, exists, err := s.read(ctx, client)
	if err != nil || !exists {
		return map[credential.Host]credential.Login{}, err
	}
	return held(place, found, hosts)
}

func held(place credential.Place, v variable, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	doc, err := v.document(place)
	if err != nil {
		return nil, err
	}
	if err := v.strict(place); err != nil {
		return nil, err
	}
	if v.file {
		if err := doc.Hidden(string(place), hosts); err != nil {
			return nil, err
		}
	}
	return doc.LoginsFor(hosts), nil
}

// Deliver merges the logins into a variable. It fails, and writes nothing, if the
// value could not be masked, or would not be accepted by those who read it.
func (t *Target) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	_, err := t.deliver(ctx, place, logins)
	return err
}

// DeliverConfirmed is Deliver. What the variable holds is what GitLab answers the
// write with.
func (t *Target) DeliverConfirmed(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	found, err := t.deliver(ctx, place, logins)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return map[credential.Host]credential.Login{}, nil
	}
	return held(place, *found, hosts)
}

// deliver returns the variable as it is then, nil if there is none.
func (t *Target) deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) (*variable, error) {
	s, client, err := t.open(ctx, place)
	if err != nil {
		return nil, err
	}
	for range tries {
		found, exists, err := s.read(ctx, client)
		if err != nil {
			return nil, err
		}
		var was *variable
		if exists {
			was = &found
		}
		next, err := t.decide(s, was, logins)
		if err != nil || next == nil {
			return was, err
		}
		var now variable
		var done bool
		if exists {
			now, done, err = s.update(ctx, client, *next)
		} else {
			now, done, err = s.create(ctx, client, *next)
		}
		if err != nil {
			return nil, err
		}
		if !done {
			continue
		}
		if now.value != next.value || next.masked && !now.masked || next.protected && !now.protected {
			return nil, problem.New(problem.Unreachable, "look at the variable in GitLab, and at proxies before it", "%s at %s: the server keeps another variable than it was sent", place, t.config.URL)
		}
		return &now, nil
	}
	return nil, problem.New(problem.Busy, "try again when no other program writes it", "%s at %s: the variable came and went as it was written, %d times", place, t.config.URL, tries)
}

// decide returns the variable as it is to be, nil if it may stay as it is.
//
//	           value          masked             protected          expanded
//	is absent  ours alone     unless Unmasked    if Protected       no
//	exists     ours merged    too, or as it was  too, or as it was  if others' entries need it
func (t *Target) decide(s spot, was *variable, logins map[credential.Host]credential.Login) (*variable, error) {
	place := s.place()
	next := variable{}
	if was != nil {
		next = *was
	}
	doc, err := next.document(place)
	if err != nil {
		return nil, err
	}
	changed := doc.Merge(logins)
	next.value = compact(doc)
	if next.file {
		err = doc.Hidden(string(place), slices.Sorted(maps.Keys(logins)))
	} else {
		err = next.strict(place)
	}
	if err != nil || !changed {
		return nil, err
	}
	next.masked = next.masked || !t.config.Unmasked
	next.protected = next.protected || t.config.Protected
	next.raw = next.raw || !strings.Contains(next.value, "$")
	if err := next.check(s); err != nil {
		return nil, err
	}
	return &next, nil
}
