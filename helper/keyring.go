package helper

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

// Entry is what is known of the login of one registry that is kept.
type Entry struct {
	// Login is the one in force; the zero Login where there is none.
	Login credential.Login
	// Expires is when the registry stops accepting it; zero for not by itself.
	Expires time.Time
	// Trouble is why the last step for the registry failed; empty if it did not.
	// It holds no secret.
	Trouble string
}

// has says whether there is a login.
func (e Entry) has() bool { return e.Login.Username != "" || !e.Login.Secret.Empty() }

// Entries are the registries that a state keeps. One of which it has nothing but
// logins that were replaced is not kept any more.
func Entries(doc *state.Document) map[credential.Host]Entry {
	kept := map[credential.Host]Entry{}
	for host, r := range doc.Registries {
		if r.Current == nil && r.Next == nil && r.Intent == nil && r.Trouble == nil {
			continue
		}
		entry := Entry{}
		if r.Current != nil {
			entry.Login, entry.Expires = r.Current.Login(), r.Current.Expires
		}
		if r.Trouble != nil {
			entry.Trouble = r.Trouble.Text
		}
		kept[host] = entry
	}
	return kept
}

// entries reads the keyring of a data folder. What is at rest there counts, whether
// a daemon runs or not: a login is written before anybody is given it. Where the
// state is kept in a cluster, the folder has none of it, and the daemon is asked:
// for the login of that host, or, with an empty one, for everything but secrets.
func entries(ctx context.Context, folder string, host credential.Host) (map[credential.Host]Entry, error) {
	doc, err := state.Read(folder)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, foreign(err, folder)
	case err != nil:
		return nil, err
	case len(doc.Registries) > 0:
		return Entries(doc), nil
	}
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New(problem.NotFound, "start regkeeper, or name its data folder anew: regkeeper install helper --write",
			"data folder %s does not exist", folder)
	} else if err != nil {
		return nil, disk.Problem(err, "inspect data folder %s", folder)
	}
	return ask(ctx, folder, host)
}

// foreign is the error of a keyring that this user may not read.
func foreign(err error, folder string) error {
	return problem.Wrap(errors.Unwrap(err), problem.Storage,
		"run the client as the user whom regkeeper runs as, or have a file target deliver the logins to this user",
		"the logins in %s are not this user's to read", folder)
}
