// Package gitlab registers GitLab runners on this machine: in the config.toml of
// GitLab Runner, which takes it up by itself, and at a GitLab server.
//
// It refuses to append a runner that is there already, and what the server keeps
// for itself when a runner authentication token is given.
package gitlab

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
	"github.com/regkeeper/regkeeper/runnerconfig"
)

// Config says which runners.
type Config struct {
	// Path is the absolute path of the config.toml.
	Path string
	// Owner is given a file made anew. Nil means the folder's owner.
	Owner *disk.Owner
	// Transport sends the requests.
	Transport http.RoundTripper
	// Trust is a transport that also trusts the certificates of a PEM file; nil
	// has Transport send everything. It is asked for a runner with certificates of
	// its own: under tls-ca-file, or in certs/HOST.crt beside the config.toml.
	Trust func(pem []byte) (http.RoundTripper, error)
	// Now is the clock.
	Now func() time.Time
	// Random is where a system ID comes from on a machine without an ID; nil is
	// the system's.
	Random io.Reader
}

// Fleet is the runners of one config.toml.
type Fleet struct {
	config  Config
	journal runner.Journal
}

var _ runner.Fleet = (*Fleet)(nil)

// New makes the fleet. It touches nothing yet.
func New(config Config) *Fleet {
	if config.Random == nil {
		config.Random = rand.Reader
	}
	return &Fleet{config: config, journal: runner.JournalFor(config.Path)}
}

// DefaultPath is where GitLab Runner looks for its config.toml: root in
// /etc/gitlab-runner, others in ~/.gitlab-runner, and on Windows in the current
// folder, which the documentation has be that of the program (gitlab-runner,
// commands/config_unix.go and config_windows.go).
func DefaultPath() (string, error) {
	const name = "config.toml"
	if runtime.GOOS == "windows" {
		folder, err := os.Getwd()
		return filepath.Join(folder, name), err
	}
	if os.Getuid() == 0 {
		return filepath.Join("/etc/gitlab-runner", name), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", problem.Wrap(err, problem.Usage, "give --runner-config FILE", "find the config.toml of GitLab Runner")
	}
	return filepath.Join(home, ".gitlab-runner", name), nil
}

func (f *Fleet) file() disk.File[*runnerconfig.Document] {
	return runnerconfig.File(f.config.Path, 0, f.config.Owner)
}

func (f *Fleet) info(r runnerconfig.Runner) runner.Info {
	info := runner.Info{Name: r.Name, URL: address(r), ID: r.ID, Executor: r.Executor, File: f.config.Path}
	if !r.Obtained.IsZero() {
		info.Obtained = &r.Obtained
	}
	if !r.Expires.IsZero() {
		info.Expires = &r.Expires
	}
	return info
}

// address is a runner's server as GitLab Runner takes it, and bearer its token: with
// the values of variables of the environment (gitlab-runner, common/config.go, loadConfig).
func address(r runnerconfig.Runner) string { return root(os.ExpandEnv(r.URL)) }

func bearer(r runnerconfig.Runner) string { return os.ExpandEnv(r.Token) }

// root is a server's URL without a slash at its end.
func root(url string) string { return strings.TrimRight(strings.TrimSpace(url), "/") }

// List reads the file; see [runner.Fleet].
func (f *Fleet) List(context.Context) ([]runner.Info, error) {
	doc, err := f.file().Read()
	if err != nil {
		return nil, err
	}
	infos := []runner.Info{}
	for _, r := range doc.Runners() {
		infos = append(infos, f.info(r))
	}
	return infos, nil
}

// pick is the runners that are meant.
func (f *Fleet) pick(ctx context.Context, of runner.Selection) ([]runnerconfig.Runner, error) {
	infos, err := f.List(ctx)
	if err != nil {
		return nil, err
	}
	picked, err := of.Pick(f.config.Path, infos)
	if err != nil {
		return nil, err
	}
	doc, err := f.file().Read()
	if err != nil {
		return nil, err
	}
	all := doc.Runners()
	var runners []runnerconfig.Runner
	for _, i := range picked {
		if i < len(all) {
			runners = append(runners, all[i])
		}
	}
	return runners, nil
}

// Verify asks POST /runners/verify of each; see [runner.Fleet].
func (f *Fleet) Verify(ctx context.Context, of runner.Selection) ([]runner.Verdict, error) {
	runners, err := f.pick(ctx, of)
	if err != nil {
		return nil, err
	}
	system, err := f.machineID()
	if err != nil {
		return nil, err
	}
	verdicts := make([]runner.Verdict, len(runners))
	for i, r := range runners {
		verdicts[i] = runner.Verdict{Info: f.info(r)}
		answer, health, reason := f.ask(ctx, r, system)
		verdicts[i].Health, verdicts[i].Reason = health, reason
		if health == runner.Alive && answer.Expires != nil {
			verdicts[i].Expires = answer.Expires
		}
	}
	return verdicts, ctx.Err()
}

// ask says how a runner is.
func (f *Fleet) ask(ctx context.Context, r runnerconfig.Runner, system string) (answer answer, health runner.Health, reason string) {
	if bearer(r) == "" {
		return answer, runner.Unknown, "it has no token here: one that is a variable of GitLab Runner's environment must be set in this one too"
	}
	answer, err := f.verify(ctx, server{address(r), r.CA}, bearer(r), system, r.Executor)
	switch {
	case err == nil:
		return answer, runner.Alive, "the server takes its token"
	case problem.KindOf(err) == problem.Denied:
		return answer, runner.Removed, "the server does not take its token: the runner was removed there, or the token was reset or has expired"
	}
	return answer, runner.Unknown, err.Error()
}

// Unregister takes runners away at the server: of a runner authentication token
// this machine's part (DELETE /runners/managers), else the runner (DELETE
// /runners). One that the server does not know any more is no error. A rotation that
// was cut off is finished first. See [runner.Fleet].
func (f *Fleet) Unregister(ctx context.Context, of runner.Selection) (steps []runner.Step, err error) {
	unlock, err := f.journal.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if steps, _, err = f.finish(ctx); err != nil {
		return steps, err
	}
	runners, err := f.pick(ctx, of)
	if err != nil {
		return nil, err
	}
	system, err := f.machineID()
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, r := range runners {
		reason := "the runner is gone at " + address(r)
		if IsRunnerToken(bearer(r)) {
			reason = "this machine is gone from the runner at " + address(r) + ", which stays for others that have its token"
		}
		err := f.remove(ctx, r, system)
		switch {
		case problem.KindOf(err) == problem.Denied, problem.KindOf(err) == problem.NotFound:
			reason = address(r) + " did not know it any more"
		case err != nil:
			faults = append(faults, fmt.Errorf("runner %s stays in the file: %w", r.Name, err))
			continue
		}
		steps = append(steps, runner.Step{Action: runner.Unregister, What: r.Name, Reason: reason})
		if _, err := f.file().Update(ctx, func(doc *runnerconfig.Document) (bool, error) {
			if i := find(doc, address(r), r.Token); i >= 0 {
				return true, doc.Remove(i)
			}
			return false, nil
		}); err != nil {
			faults = append(faults, err)
			continue
		}
		steps = append(steps, runner.Step{Action: runner.Delete, What: r.Name, Reason: "taken out of " + f.config.Path})
	}
	return steps, errors.Join(faults...)
}

// find is the place of the runner with that token; -1 for none.
func find(doc *runnerconfig.Document, url, token string) int {
	return slices.IndexFunc(doc.Runners(), func(r runnerconfig.Runner) bool {
		return address(r) == root(url) && (r.Token == token || bearer(r) == token)
	})
}

// Rotate resets tokens (POST /runners/reset_authentication_token), which ends the
// one before at once: also for other machines that have it. Each entry of the file
// with that token gets the other. The journal has the answer before the file does;
// who is killed in between finishes by calling it again. An answer that never arrived
// is lost: GitLab tells a token once. See [runner.Fleet].
func (f *Fleet) Rotate(ctx context.Context, of runner.Selection, within time.Duration) (steps []runner.Step, err error) {
	unlock, err := f.journal.Lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	steps, finished, err := f.finish(ctx)
	if err != nil {
		return steps, err
	}
	runners, err := f.pick(ctx, of)
	if err != nil {
		return steps, err
	}
	type secret struct{ url, token string }
	done := map[secret]bool{}
	if finished != nil {
		done[secret{finished.URL, finished.Token}] = true
	}
	for _, r := range runners {
		if done[secret{address(r), r.Token}] {
			continue
		}
		if reason, due := f.due(r, within); !due {
			steps = append(steps, runner.Step{Action: runner.Keep, What: r.Name, Reason: reason})
			continue
		}
		one, err := f.rotate(ctx, r)
		steps = append(steps, one...)
		if err != nil {
			return steps, err
		}
		done[secret{address(r), r.Token}] = true
	}
	return steps, nil
}

// due says whether a token is to be replaced.
func (f *Fleet) due(r runnerconfig.Runner, within time.Duration) (reason string, due bool) {
	if within == 0 {
		return "", true
	}
	if r.Expires.IsZero() {
		return "its token does not expire", false
	}
	if left := r.Expires.Sub(f.config.Now()); left > within {
		return fmt.Sprintf("its token is good until %s", r.Expires.UTC().Format(time.RFC3339)), false
	}
	return "", true
}

func (f *Fleet) rotate(ctx context.Context, r runnerconfig.Runner) ([]runner.Step, error) {
	entry := runner.Entry{Verb: verbRotate, URL: address(r), Name: r.Name, ID: r.ID, Before: runner.Fingerprint(r.Token), Started: f.config.Now().UTC()}
	// What would fail afterwards fails before anything is lost.
	probe := entry
	probe.Token, probe.Expires = "glrt-probe", &entry.Started
	if err := f.probe(ctx, func(doc *runnerconfig.Document) error {
		for _, have := range doc.Runners() {
			if bearer(have) == bearer(r) && address(have) == address(r) && have.Token != bearer(have) {
				return problem.New(problem.Refused, "reset it at the server, and change the variable", "the token of runner %s is a variable of GitLab Runner's environment", have.Name)
			}
		}
		_, err := f.switchIn(doc, probe)
		return err
	}); err != nil {
		return nil, err
	}
	if err := f.journal.Save(entry); err != nil {
		return nil, err
	}
	answer, err := f.reset(ctx, r)
	if err != nil {
		if problem.KindOf(err) == problem.Denied {
			return nil, errors.Join(err, f.journal.Clear())
		}
		return nil, err // the server may have done it: the journal stays
	}
	entry.Token, entry.Expires, entry.NewID = answer.Token, answer.Expires, cmp.Or(answer.ID, r.ID)
	// The file is tried even without a journal: it is what counts.
	saved := f.journal.Save(entry)
	names, err := f.switchToken(ctx, entry)
	switch {
	case err != nil && saved != nil:
		return nil, errors.Join(problem.Wrap(err, problem.Storage,
			"register the runner again with another token, which an owner of it gets at "+entry.URL+" (reset authentication token)",
			"runner %s has a new token that neither its file nor the journal could be given: it is lost", r.Name), saved)
	case err != nil:
		return nil, problem.Wrap(err, problem.Storage,
			"the new token is in "+f.journal.Path()+": mend what is wrong, and run rotate again", "runner %s has a new token that is not in its file", r.Name)
	}
	return []runner.Step{{Action: runner.Reset, What: names, Reason: "its token was replaced" + told(entry)}}, f.journal.Clear()
}

// told is what a token's owner should know of it.
func told(entry runner.Entry) string {
	text := "; the new one does not expire"
	if entry.Expires != nil && !entry.Expires.IsZero() {
		text = "; the new one ends at " + entry.Expires.UTC().Format(time.RFC3339)
	}
	if IsRunnerToken(entry.Token) {
		text += "; other machines with the runner need it too"
	}
	return text
}

// switchToken puts a new token in the place of the old one, and tells the runners
// that have it.
func (f *Fleet) switchToken(ctx context.Context, entry runner.Entry) (names string, err error) {
	_, err = f.file().Update(ctx, func(doc *runnerconfig.Document) (changed bool, err error) {
		if names, err = f.switchIn(doc, entry); err != nil {
			return false, err
		}
		return true, nil
	})
	return names, err
}

// switchIn changes each entry that has the token which the rotation ends, and no
// other: the token of another was put there by someone else.
func (f *Fleet) switchIn(doc *runnerconfig.Document, entry runner.Entry) (names string, err error) {
	var switched []string
	for i, r := range doc.Runners() {
		if !ends(entry, r) {
			continue
		}
		if _, err := f.setToken(doc, i, entry); err != nil {
			return "", err
		}
		switched = append(switched, r.Name)
	}
	if len(switched) == 0 {
		return "", problem.New(problem.NotFound, "", "%s has the runner no more", f.config.Path)
	}
	return strings.Join(switched, ", "), nil
}

// ends says whether a rotation ends the token of that entry of the file.
func ends(entry runner.Entry, r runnerconfig.Runner) bool {
	return address(r) == entry.URL && runner.Fingerprint(r.Token) == entry.Before
}

func (f *Fleet) setToken(doc *runnerconfig.Document, i int, entry runner.Entry) (changed bool, err error) {
	values := []struct {
		key   string
		value any
	}{
		{runnerconfig.KeyToken, entry.Token},
		{runnerconfig.KeyObtained, f.config.Now().UTC().Truncate(time.Second)},
		{runnerconfig.KeyExpires, moment(entry.Expires)},
	}
	for _, v := range values {
		one, err := doc.Set(i, v.key, v.value)
		if err != nil {
			return false, fmt.Errorf("%s: %w", f.config.Path, err)
		}
		changed = changed || one
	}
	return changed, nil
}

// moment is a time as the file has it; the zero time for never.
func moment(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second)
}

// finish carries out what a rotation left that was cut off, and tells its entry if
// it was finished.
//
//	journal      the file has     what is done
//	has a token  the old token    the new one takes its place
//	has a token  the new token    nothing: it was done
//	has a token  neither          refused while the server takes the new one, else forgotten
//	has none     the old token    forgotten if the server takes it; else the answer
//	                              was lost: said, and forgotten
//	has none     neither          forgotten
func (f *Fleet) finish(ctx context.Context) (steps []runner.Step, finished *runner.Entry, err error) {
	entry, err := f.journal.Load()
	if err != nil || entry == nil {
		return nil, nil, err
	}
	if entry.Verb != verbRotate {
		return nil, nil, entry.Unfinished(f.journal)
	}
	doc, err := f.file().Read()
	if err != nil {
		return nil, nil, err
	}
	at := slices.IndexFunc(doc.Runners(), func(r runnerconfig.Runner) bool { return ends(*entry, r) })
	if entry.Token == "" {
		if at < 0 {
			return nil, nil, f.journal.Clear()
		}
		return nil, nil, f.settle(ctx, entry, doc.Runners()[at])
	}
	names := entry.Name
	if at >= 0 {
		if names, err = f.switchToken(ctx, *entry); err != nil {
			return nil, nil, err
		}
	} else if find(doc, entry.URL, entry.Token) < 0 {
		return nil, nil, f.abandon(ctx, entry, doc)
	}
	return []runner.Step{{Action: runner.Reset, What: names, Reason: "a rotation that was cut off is finished" + told(*entry)}}, entry, f.journal.Clear()
}

// settle finds out whether a rotation took place whose answer nobody has.
func (f *Fleet) settle(ctx context.Context, entry *runner.Entry, r runnerconfig.Runner) error {
	system, err := f.machineID()
	if err != nil {
		return err
	}
	_, health, reason := f.ask(ctx, r, system)
	switch health {
	case runner.Alive:
		return f.journal.Clear()
	case runner.Removed:
		return errors.Join(problem.New(problem.Denied,
			"register the runner again with a new token, which an owner of it gets at "+entry.URL+" (reset authentication token)",
			"runner %s: a rotation was cut off before the server's answer arrived, and the token that it told is lost", r.Name), f.journal.Clear())
	}
	return problem.New(problem.Unreachable, "try again when the server answers", "runner %s: a rotation was cut off, and whether it took place is not known: %s", r.Name, reason)
}

// abandon forgets a token that the journal alone has, if the server does not take it:
// the runner was reset again since, or is gone.
func (f *Fleet) abandon(ctx context.Context, entry *runner.Entry, doc *runnerconfig.Document) error {
	system, err := f.machineID()
	if err != nil {
		return err
	}
	r := runnerconfig.Runner{Name: entry.Name, URL: entry.URL, ID: entry.ID, Token: entry.Token}
	for _, have := range doc.Runners() {
		if address(have) == entry.URL {
			r.CA = cmp.Or(r.CA, have.CA)
		}
	}
	if _, err := f.verify(ctx, server{r.URL, r.CA}, r.Token, system, ""); problem.KindOf(err) != problem.Denied {
		return entry.Astray(f.journal, f.config.Path)
	}
	return f.journal.Clear()
}

// probe tries an edit on what is read of the file, and then replaces the file by
// itself, as the edit will: through its links, and where it is mounted.
func (f *Fleet) probe(ctx context.Context, edit func(*runnerconfig.Document) error) error {
	doc, err := f.file().Read()
	if err != nil {
		return err
	}
	if err := edit(doc); err != nil {
		return err
	}
	if _, err := os.Stat(f.config.Path); errors.Is(err, fs.ErrNotExist) {
		return f.writable()
	}
	_, err = f.file().Update(ctx, func(*runnerconfig.Document) (bool, error) { return true, nil })
	return err
}

// writable fails if a file that is not there yet cannot be put there.
func (f *Fleet) writable() error {
	folder := filepath.Dir(f.config.Path)
	if to, err := os.Readlink(f.config.Path); err == nil {
		if folder = filepath.Dir(to); !filepath.IsAbs(to) {
			folder = filepath.Join(filepath.Dir(f.config.Path), folder)
		}
	}
	probe, err := os.CreateTemp(folder, ".regkeeper-probe-")
	if err != nil {
		return disk.Problem(err, "write beside %s", f.config.Path)
	}
	_ = probe.Close()
	return disk.Problem(os.Remove(probe.Name()), "write beside %s", f.config.Path)
}
