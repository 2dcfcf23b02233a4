package helper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

// Socket is the path of the socket on which the daemon of a data folder takes
// orders. It is its owner's alone, as the keyring at rest is.
func Socket(folder string) string { return filepath.Join(folder, "control.sock") }

// patience is how long a daemon may take to answer. It may have to ask a cluster.
const patience = 10 * time.Second

// Path is where the control socket answers questions for logins: GET with
// ?host=HOST for one, with its secret, and without for all, without secrets.
const Path = "/login"

// entryText is an Entry on the wire.
type entryText struct {
	Username string    `json:"username,omitempty"`
	Secret   []byte    `json:"secret,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	Trouble  string    `json:"trouble,omitempty"`
}

// answerText is what the daemon answers. Problem, Hint and Kind are those of an
// order that failed, as other orders have them.
type answerText struct {
	Kept    map[credential.Host]entryText `json:"kept,omitempty"`
	Problem string                        `json:"problem,omitempty"`
	Hint    string                        `json:"hint,omitempty"`
	Kind    problem.Kind                  `json:"kind,omitempty"`
}

// Handler answers questions for logins from a state. It belongs on a socket that
// only the daemon's user can open.
func Handler(load func(context.Context) (*state.Document, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, r *http.Request) {
		answer, status := answerText{Kept: map[credential.Host]entryText{}}, http.StatusOK
		doc, err := load(r.Context())
		if err != nil {
			answer.Problem, answer.Hint, answer.Kind = err.Error(), problem.HintOf(err), problem.KindOf(err)
			status = answer.Kind.HTTPStatus()
		} else {
			asked := credential.Host(r.URL.Query().Get("host"))
			for host, entry := range Entries(doc) {
				text := entryText{Username: entry.Login.Username, Expires: entry.Expires, Trouble: entry.Trouble}
				if host == asked {
					text.Secret = []byte(entry.Login.Secret.Reveal())
				}
				if asked == "" || host == asked {
					answer.Kept[host] = text
				}
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer) // who hung up wants no answer
	})
	return mux
}

// ask has the daemon of a folder tell of a host's login, or of all but secrets.
func ask(ctx context.Context, folder string, host credential.Host) (map[credential.Host]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", Socket(folder))
		},
		DisableKeepAlives: true,
	}}
	target := "http://regkeeper" + Path
	if host != "" {
		target += "?" + url.Values{"host": {string(host)}}.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, problem.New(problem.Storage,
			"run the client as the user whom regkeeper runs as, or have a file target deliver the logins to this user",
			"the daemon of %s does not take questions of this user: permission denied", folder)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, problem.New(problem.NotFound, "start regkeeper with this data folder, or name another: regkeeper install helper --write",
			"data folder %s has no logins yet, and no daemon runs on it", folder)
	case err != nil:
		return nil, problem.Wrap(err, problem.Unreachable, "look at the daemon: regkeeper status", "ask the daemon of %s", folder)
	}
	defer func() { _ = response.Body.Close() }()
	var answer answerText
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, problem.New(problem.Unreachable, "the daemon and the helper are of different versions: restart the daemon",
			"ask the daemon of %s: it answered %s, which is no answer to the question", folder, response.Status)
	}
	if answer.Problem != "" {
		return nil, problem.New(answer.Kind, answer.Hint, "%s", answer.Problem)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the daemon of %s: it answered %s", folder, response.Status)
	}
	kept := map[credential.Host]Entry{}
	for host, text := range answer.Kept {
		kept[host] = Entry{
			Login:   credential.Login{Username: text.Username, Secret: credential.NewSecret(string(text.Secret))},
			Expires: text.Expires, Trouble: text.Trouble,
		}
	}
	return kept, nil
}
