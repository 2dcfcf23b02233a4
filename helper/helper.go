// Package helper is regkeeper as a credential helper: the program that Docker's
// clients run to be told a registry's login, in place of reading it in a file
// (docker/docker-credential-helpers, package credentials). A rotated login is thus
// told from the next question on, and no file is written.
//
// It owns the answers to get, store, erase and list, and finding the data folder. It
// refuses to be a keychain: nothing is stored, nothing is erased, and a registry that
// regkeeper does not keep is "not found", on which clients go on without a login. It
// links little and starts nothing, since a process is made for each question.
package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/docker/docker-credential-helpers/credentials"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Config is what a Helper answers from.
type Config struct {
	// Folders are data folders of regkeepers. The first that keeps a registry
	// answers for it.
	Folders []string
	// Now is the clock by which a login has expired.
	Now func() time.Time
}

// Helper answers clients. Its errors are for people, in the words that clients show
// behind their own, and hold no secret; but that for a registry which is not kept is
// the one that all clients know for "not found".
type Helper struct{ config Config }

var _ credentials.Helper = (*Helper)(nil)

// New makes a helper. It reads nothing until it is asked.
func New(config Config) *Helper { return &Helper{config: config} }

// kept finds the entry of a server's registry. The error is that for "not found" if
// all folders could be read and none keeps it.
func (h *Helper) kept(serverURL string) (host credential.Host, found Entry, err error) {
	host, ok := ParseServer(serverURL)
	if !ok {
		return "", Entry{}, credentials.NewErrCredentialsNotFound()
	}
	var unread error
	for _, folder := range h.config.Folders {
		all, err := entries(context.Background(), folder, host)
		if entry, ok := all[host]; ok {
			return host, entry, nil
		}
		if unread == nil {
			unread = err
		}
	}
	if unread != nil {
		// It may be kept there: "not found" would send the client on without a login,
		// to an error that says nothing of the cause.
		return host, Entry{}, unread
	}
	return host, Entry{}, credentials.NewErrCredentialsNotFound()
}

// Get is the login in force for a server.
func (h *Helper) Get(serverURL string) (username, secret string, err error) {
	host, entry, err := h.kept(serverURL)
	if err != nil {
		return "", "", err
	}
	switch {
	case !entry.has() && entry.Trouble != "":
		return "", "", problem.New(problem.NotFound, "see regkeeper status", "there is no login for %s yet: %s", host, entry.Trouble)
	case !entry.has():
		return "", "", problem.New(problem.NotFound, "start regkeeper, or see regkeeper status", "there is no login for %s yet", host)
	case !entry.Expires.IsZero() && !h.config.Now().Before(entry.Expires):
		why := ""
		if entry.Trouble != "" {
			why = ": " + entry.Trouble
		}
		return "", "", problem.New(problem.Denied, "regkeeper renews logins ahead of that while it runs: see regkeeper status",
			"the login for %s expired at %s%s", host, entry.Expires.UTC().Format(time.RFC3339), why)
	}
	username, secret = entry.Login.Username, entry.Login.Secret.Reveal()
	if !utf8.ValidString(username) || !utf8.ValidString(secret) {
		return "", "", problem.New(problem.Config, "have a file target deliver it, or give the registry another login",
			"the login for %s is no UTF-8, and helpers answer in JSON", host)
	}
	return username, secret, nil
}

// Add refuses to store a login: docker login stores what was typed, and the login of
// a registry that regkeeper keeps comes from its source, or would be lost at the next
// rotation. The login in force itself is taken as stored: docker login without a
// password asks for it, tries it, and stores it.
func (h *Helper) Add(login *credentials.Credentials) error {
	host, entry, err := h.kept(login.ServerURL)
	if credentials.IsErrCredentialsNotFound(err) {
		return problem.New(problem.Refused, `under "credHelpers", name regkeeper for the registries it keeps alone, and nowhere as "credsStore"`,
			"regkeeper is no keychain, and does not keep %s: nothing was stored", display(login.ServerURL))
	}
	if err != nil {
		return err
	}
	if entry.has() && entry.Login.Equal(credential.Login{Username: login.Username, Secret: credential.NewSecret(login.Secret)}) {
		return nil
	}
	return problem.New(problem.Refused, "change the registry's source in regkeeper's configuration, or have clients read their file again: regkeeper install helper --remove --write",
		"regkeeper keeps the login for %s, and rotates it: nothing was stored", host)
}

// Delete refuses to erase a login that is kept.
func (h *Helper) Delete(serverURL string) error {
	host, _, err := h.kept(serverURL)
	if err != nil {
		return err
	}
	return problem.New(problem.Refused, "to have clients read their file again: regkeeper install helper --remove --write",
		"regkeeper keeps the login for %s: nothing was erased", host)
}

// List is the user of each registry that has a login, by the key under which clients
// look for it.
func (h *Helper) List() (map[string]string, error) {
	users := map[string]string{}
	for _, folder := range h.config.Folders {
		all, err := entries(context.Background(), folder, "")
		if err != nil {
			return nil, err
		}
		for host, entry := range all {
			if _, ok := users[host.Key()]; !ok && entry.has() {
				users[host.Key()] = entry.Login.Username
			}
		}
	}
	return users, nil
}

// display is a server URL for people. It may have a password in it, and be long.
func display(url string) string {
	if host, ok := ParseServer(url); ok {
		return string(host)
	}
	return "that server"
}

// maxInput bounds in bytes what a client may ask.
const maxInput = 1 << 20

const usage = `Usage: ` + Program + ` get|store|erase|list|version

Docker's clients run this to be told the logins that regkeeper keeps. Have them do so
with: regkeeper install helper --write
The data folder is $` + FolderVariable + `, or what that command wrote down, or
~/.local/state/regkeeper, or /var/lib/regkeeper.
`

// Run is one run of the program.
type Run struct {
	In  io.Reader
	Out io.Writer
	// Getenv reads the environment.
	Getenv func(string) string
	Now    func() time.Time
	// Version is what the program says of itself.
	Version string
}

// Main answers one command line, without the program's name, and returns the exit
// code: 0, or 1 for any error, which is told on standard output, as the protocol has
// it (docker-credential-helpers, credentials.Serve).
func (r Run) Main(args ...string) int {
	if len(args) != 1 {
		_, _ = io.WriteString(r.Out, usage)
		return 1
	}
	switch args[0] {
	case "--help", "-h":
		_, _ = io.WriteString(r.Out, usage)
		return 0
	case "version", "--version", "-v":
		_, _ = fmt.Fprintf(r.Out, "%s (github.com/regkeeper/regkeeper) %s\n", Program, r.Version)
		return 0
	}
	folders, err := Folders(r.Getenv)
	if err == nil {
		answers := New(Config{Folders: folders, Now: r.Now})
		err = credentials.HandleCommand(answers, args[0], io.LimitReader(r.In, maxInput), r.Out)
	}
	if err != nil {
		_, _ = fmt.Fprintln(r.Out, line(err))
		return 1
	}
	return 0
}

// line is an error in one line: clients show it behind their own words.
func line(err error) string {
	text := err.Error()
	var p *problem.Error
	if errors.As(err, &p) {
		text = "regkeeper: " + text
		if hint := problem.HintOf(err); hint != "" {
			text += " (" + hint + ")"
		}
	}
	return strings.Join(strings.Fields(text), " ")
}
