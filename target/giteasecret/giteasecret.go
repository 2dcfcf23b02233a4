// Package giteasecret is the target of secrets and variables of Gitea Actions
// (and Forgejo Actions): of repositories, of organisations, of the account itself.
//
// A secret cannot be read back. Beside each stands a variable, the note, that
// tells by a keyed hash which logins the secret holds.
//
// It refuses to take over a secret that it has no note of, since what else the
// secret holds would be lost, and the names by which the runner logs in to every
// registry.
package giteasecret

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says which secrets or variables, at which server.
//
// They have one of two shapes: with Name, one that holds a whole config.json in
// the form that all readers of DOCKER_AUTH_CONFIG take, {"auths":{…}}; with
// Prefix, two that hold the username and the password of one registry.
type Config struct {
	// URL is the server's root, for example https://gitea.example.com.
	URL string
	// User is the account. Empty: Password is a token, sent as one.
	User string
	// Password is the account's password or a token of it, with the scopes
	// write:repository, write:organization or write:user, for what is used. The
	// hashes of the notes are keyed with it: after a change all logins are
	// delivered anew.
	Password secretref.Ref
	// Repositories are owner/name; the account must own them, or be an owner of the
	// organisation that does. Organizations are names; the account must be an owner.
	Repositories, Organizations []string
	// Own are the secrets or variables of the account itself, which the jobs of all
	// its repositories see. The server does not list such secrets: the first
	// delivery takes Adopt, and that one was deleted goes unseen.
	Own bool
	// Name is of a secret or variable that holds a config.json. Capitals do not
	// count.
	Name string
	// Prefix begins the names of two: PREFIX_USERNAME and PREFIX_PASSWORD.
	Prefix string
	// Host is the registry of the two.
	Host credential.Host
	// AnyRegistry allows for the prefix DOCKER.
	AnyRegistry bool
	// Adopt overwrites secrets that there is no note of, and what they hold.
	Adopt bool
	// Transport sends the requests.
	Transport http.RoundTripper
}

// Target delivers to secrets. A place is the path of a secret in the server's
// API, as repos/acme/app/secrets/NAME. Nobody else may write the secrets: of two
// writers, the later one wins.
type Target struct {
	config Config

	mu sync.Mutex
	// known are the logins that places are known to hold: the secret of which one
	// login changes is written as a whole.
	known map[credential.Place]map[credential.Host]credential.Login
}

var _ credential.Recognizer = (*Target)(nil)

// New makes the target of secrets. It sends nothing yet.
func New(config Config) *Target {
	return &Target{config: config, known: map[credential.Place]map[credential.Host]credential.Login{}}
}

// Places lists the secrets as they are configured, sorted. It asks no server.
func (t *Target) Places(context.Context) ([]credential.Place, error) {
	if err := t.config.Check(); err != nil {
		return nil, err
	}
	return t.config.places(secrets), nil
}

// Held finds nothing: secrets cannot be read.
func (t *Target) Held(context.Context, credential.Place, []credential.Host) (map[credential.Host]credential.Login, error) {
	return map[credential.Host]credential.Login{}, nil
}

// sight is what can be seen of a place.
type sight struct {
	// listed are the secrets of the place that are there, each with what the server
	// tells of it.
	listed map[string]string
	// blind says that the server does not list.
	blind bool
	// note is the note; nil if there is none that can be read. noted says that its
	// variable is there.
	note  *note
	noted bool
}

// absent says that the place does not exist.
func (s sight) absent() bool { return !s.blind && len(s.listed) == 0 }

// sound says that the note tells of what the secrets hold: all of them are
// there, and nobody has written them since.
func (s sight) sound(names []string) bool {
	if s.note == nil || s.note.Open {
		return false
	}
	if s.blind {
		return true
	}
	for _, name := range names {
		told, ok := s.listed[name]
		if !ok || len(s.note.Listed) > 0 && s.note.Listed[name] != told {
			return false
		}
	}
	return true
}

// look sees to a place, by two requests, one more for each full page of secrets,
// and one more if there is no note.
func (t *Target) look(c *client, at spot) (s sight, err error) {
	if s.blind = at.where == own; !s.blind {
		if s.listed, err = c.list(at, t.config.names()); err != nil {
			return sight{}, err
		}
	}
	text, noted, err := c.variable(at, t.config.noteName())
	if err != nil {
		return sight{}, err
	}
	s.note, s.noted = parseNote(text), noted
	return s, nil
}

// Recognize says which logins a secret holds, by its note; see
// [credential.Recognizer].
//
//	secret   note                     the place holds
//	absent   any                      nothing
//	there    none                     unknown logins
//	there    of another content       unknown logins
//	there    open: a write was cut off, over another content   unknown logins
//	there    without the host         nothing for the host
//	there    one hash, of a login     that login
//	there    one hash, of none        an unknown login
//	there    several: a write was cut off   an unknown login
func (t *Target) Recognize(ctx context.Context, place credential.Place, logins map[credential.Host][]credential.Login) (held map[credential.Host]credential.Login, unknown []credential.Host, err error) {
	at, c, err := t.open(ctx, place)
	if err != nil {
		return nil, nil, err
	}
	s, err := t.look(c, at)
	if err != nil {
		return nil, nil, err
	}
	held = map[credential.Host]credential.Login{}
	if s.absent() {
		return held, nil, nil
	}
	sound := s.sound(t.config.names())
	for _, host := range slices.Sorted(maps.Keys(logins)) {
		if t.config.Prefix != "" && host != t.config.Host {
			continue
		}
		if !sound {
			unknown = append(unknown, host)
			continue
		}
		hashes := s.note.Logins[host]
		if len(hashes) == 0 {
			continue
		}
		i := -1
		if len(hashes) == 1 {
			i = slices.IndexFunc(logins[host], func(l credential.Login) bool { return c.hash(place, host, l) == hashes[0] })
		}
		if i < 0 {
			unknown = append(unknown, host)
			continue
		}
		held[host] = logins[host][i]
	}
	t.remember(place, held)
	return held, unknown, nil
}

// Deliver writes the logins into the secret, with those that it is known to hold
// for other hosts. It fails, and writes nothing, if there is more in the secret
// than it knows.
//
// The note says first what the secret may hold soon, and last what it holds: if
// the work is cut off, the hosts that changed have unknown logins.
func (t *Target) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	at, c, err := t.open(ctx, place)
	if err != nil || len(logins) == 0 {
		return err
	}
	for host, login := range logins {
		if t.config.Prefix != "" && host != t.config.Host {
			return t.config.otherHost(place, host)
		}
		c.conceal = append(c.conceal, login)
	}
	s, err := t.look(c, at)
	if err != nil {
		return err
	}
	if err := t.mayWrite(place, s); err != nil {
		return err
	}
	sound := s.sound(t.config.names())
	all, err := t.merged(c, place, s, sound, logins)
	if err != nil {
		return err
	}
	before := &note{}
	if sound {
		before = s.note
	}
	hashes := map[credential.Host]string{}
	for host, login := range all {
		hashes[host] = c.hash(place, host, login)
	}
	if sound && before.settledAs(hashes) {
		return nil
	}
	intent := before.turning(hashes)
	intent.Open = !sound && !s.absent()
	if err := c.setVariable(at, t.config.noteName(), intent.text(), s.noted); err != nil {
		return err
	}
	t.forget(place, logins)
	for _, secret := range t.config.contents(all) {
		if err := c.setSecret(at, secret.name, secret.text, descriptionOf(intent.Stamp)); err != nil {
			return err
		}
	}
	done := intent.settled(hashes)
	if !s.blind {
		if done.Listed, err = c.list(at, t.config.names()); err != nil {
			return err
		}
	}
	if err := c.setVariable(at, t.config.noteName(), done.text(), true); err != nil {
		return err
	}
	t.remember(place, all)
	return nil
}

// mayWrite fails unless the secret is ours to write.
func (t *Target) mayWrite(place credential.Place, s sight) error {
	switch {
	case t.config.Adopt || s.note != nil || s.absent():
		return nil
	case s.blind:
		return problem.New(problem.Refused, "if there is none of the name, or it may be overwritten, set adopt: true of the target",
			"%s: the server does not tell whether an account has a secret, and there is no note of regkeeper's for it", place)
	}
	return problem.New(problem.Refused, "a secret cannot be read, so what it holds beside our logins would be lost: choose another name, or set adopt: true of the target to overwrite it",
		"%s is there already, and there is no note of regkeeper's for it", place)
}

// merged are the logins with those that the secret is known to hold for others.
func (t *Target) merged(c *client, place credential.Place, s sight, sound bool, logins map[credential.Host]credential.Login) (map[credential.Host]credential.Login, error) {
	all := maps.Clone(logins)
	if s.note == nil || t.config.Prefix != "" {
		return all, nil
	}
	t.mu.Lock()
	known := maps.Clone(t.known[place])
	t.mu.Unlock()
	for _, host := range slices.Sorted(maps.Keys(s.note.Logins)) {
		if _, given := all[host]; given {
			continue
		}
		login, ok := known[host]
		switch {
		case ok && slices.Equal(s.note.Logins[host], []string{c.hash(place, host, login)}):
			all[host] = login
			c.conceal = append(c.conceal, login)
		case sound && !t.config.Adopt:
			return nil, problem.New(problem.Refused,
				"keep the registry in the configuration, with the target among its targets; or set adopt: true of the target to have the secret without it",
				"%s holds a login for %s that is not known any more, and cannot be read to be kept", place, host)
		}
	}
	return all, nil
}

// remember notes what a place is known to hold.
func (t *Target) remember(place credential.Place, logins map[credential.Host]credential.Login) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known[place] == nil {
		t.known[place] = map[credential.Host]credential.Login{}
	}
	maps.Copy(t.known[place], logins)
}

// forget drops what is about to change.
func (t *Target) forget(place credential.Place, logins map[credential.Host]credential.Login) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for host := range logins {
		delete(t.known[place], host)
	}
}

func (t *Target) open(ctx context.Context, place credential.Place) (spot, *client, error) {
	return t.config.open(ctx, secrets, place)
}

// content is a secret or variable, and what goes into it.
type content struct{ name, text string }

// contents are what is to be written for the logins.
func (c Config) contents(logins map[credential.Host]credential.Login) []content {
	names := c.names()
	if c.Prefix != "" {
		login := logins[c.Host]
		return []content{{names[0], login.Username}, {names[1], login.Secret.Reveal()}}
	}
	doc, _ := dockerconfig.Parse(nil) // an empty document has no faults
	doc.Merge(logins)
	return []content{{names[0], string(doc.Bytes())}}
}
