package gitea

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
)

const (
	verbRegister = "register"
	verbRotate   = "rotate"
)

// DefaultLabels are those of the runner itself (gitea.com/gitea/runner,
// internal/app/cmd/register.go).
var DefaultLabels = []string{
	"ubuntu-latest:docker://docker.gitea.com/runner-images:ubuntu-latest",
	"ubuntu-24.04:docker://docker.gitea.com/runner-images:ubuntu-24.04",
	"ubuntu-22.04:docker://docker.gitea.com/runner-images:ubuntu-22.04",
}

// Request is a runner to register.
type Request struct {
	// URL is the server's root.
	URL string
	// Token is a registration token; empty has one made with the fleet's access
	// token.
	Token  credential.Secret
	Name   string
	Labels []string
	// Ephemeral has the server end the runner after its first job.
	Ephemeral bool
	// Login is where the login for private images goes; nil for none.
	Login *runner.Delivery
}

// Facts are what a decision follows from.
type Facts struct {
	// Path is the .runner file; There is what is registered there, nil for nothing.
	Path   string
	There  *runner.Info
	Health runner.Health
	Reason string
	// Pending is a change that was cut off; nil for none. PendingHealth is of the
	// runner that it made, if it is a registration whose answer the journal has.
	Pending       *runner.Entry
	PendingHealth runner.Health
	PendingReason string
	// Scope is whose jobs are taken; CanAsk says that there is an access token.
	Scope  Scope
	CanAsk bool

	there *registration
}

// Registration is what is done to register a runner.
type Registration struct {
	runner.Plan
	request Request
	facts   Facts
	// resume says that the journal's runner is used.
	resume bool
	// known is the file's runner as it was looked at; nil for none.
	known *registration
}

// hint goes with what is refused.
const hint = "see regkeeper runner register --help"

// Look gathers what a decision takes. It changes nothing.
func (f *Fleet) Look(ctx context.Context) (Facts, error) {
	facts := Facts{Path: f.config.File, Scope: f.config.Scope, CanAsk: !f.config.AccessToken.Empty()}
	reg, err := f.read()
	if err != nil {
		return facts, err
	}
	if facts.Pending, err = f.journal.Load(); err != nil {
		return facts, err
	}
	if reg != nil {
		info := f.info(reg)
		facts.There, facts.there = &info, reg
		if facts.Health, facts.Reason, err = f.look(ctx, reg); err != nil {
			return facts, err
		}
	}
	if entry := facts.Pending; entry != nil && entry.Verb == verbRegister && entry.Token != "" {
		facts.PendingHealth, facts.PendingReason = f.ask(ctx, made(entry))
	}
	return facts, ctx.Err()
}

// Decide says what is done, and what is refused. It asks nobody.
//
//	the file has         the server    done
//	nothing              -             registered
//	a runner of it       knows it      kept
//	a runner of it       does not      registered in its place
//	a runner of it       no answer     refused
//	one of another       -             refused
//
// A registration that was cut off, and whose token the journal has, takes the place
// of a new one if the server takes that token.
func Decide(r Request, facts Facts) *Registration {
	plan := &Registration{request: r, facts: facts, known: facts.there}
	if u, err := url.Parse(r.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		plan.Refuse("--url", "it must be the root of a Gitea or Forgejo server, for example https://gitea.example.com")
	}
	if r.Name == "" {
		plan.Refuse("--name", "the runner needs a name")
	}
	for _, label := range r.Labels {
		if name, rest, _ := strings.Cut(label, ":"); name == "" || rest != "" && rest != "host" && !strings.HasPrefix(rest, "host:") && !strings.HasPrefix(rest, "docker:") {
			plan.Refuse("--labels", "%q is none: write NAME, NAME:host or NAME:docker://IMAGE", label)
		}
	}
	if len(r.Labels) == 0 {
		plan.request.Labels = DefaultLabels
	}
	if r.Login != nil && r.Login.Way != runner.ConfigFile {
		plan.Refuse("--login-in", "these runners read a login from their config.json alone")
	}
	plan.decidePending()
	if there := facts.There; there != nil {
		switch {
		case there.URL != root(r.URL):
			plan.Refuse(there.Name, "%s has a runner of %s: unregister it first, or give another --runner-config", facts.Path, there.URL)
		case facts.Health == runner.Unknown:
			plan.Refuse(there.Name, "it is in %s already, and the server cannot be asked whether it is good: %s", facts.Path, facts.Reason)
		case facts.Health == runner.Alive && plan.resume && facts.Pending.NewID != there.ID:
			plan.Refuse(there.Name, "it is in %s, and %s has the token of runner %d, whose registration was cut off: delete one of the two at the server, and what has it here",
				facts.Path, runner.JournalFor(facts.Path).Path(), facts.Pending.NewID)
		case facts.Health == runner.Alive && len(plan.Refused) == 0:
			plan.resume = false
			plan.Add(runner.Keep, there.Name, "it is in %s already, and the server knows it", facts.Path)
			plan.deliver()
			return plan
		}
	}
	switch {
	case plan.resume || !r.Token.Empty():
	case !facts.CanAsk:
		plan.Refuse("--token", "no token is given: one for registration, or an access token that may make one")
	case facts.Scope.Kind == "":
		plan.Refuse("--scope", "it is not said whose jobs the runner takes")
	}
	if len(plan.Refused) > 0 {
		return plan
	}
	plan.deliver()
	switch {
	case plan.resume:
		plan.Add(runner.Keep, r.Name, "a registration that was cut off had got a token: it is used, and no second runner made")
	case r.Token.Empty():
		plan.Add(runner.Create, r.Name, "at %s for %s, with a registration token that the API tells", root(r.URL), facts.Scope)
	default:
		plan.Add(runner.Create, r.Name, "at %s, with the registration token", root(r.URL))
	}
	if facts.There != nil {
		plan.Add(runner.Replace, facts.Path, "in the place of runner %d, which the server does not know any more", facts.There.ID)
	} else {
		plan.Add(runner.Write, facts.Path, "the runner reads it when it starts")
	}
	return plan
}

// decidePending goes on with what was cut off.
func (p *Registration) decidePending() {
	r, facts := &p.request, &p.facts
	entry := facts.Pending
	switch {
	case entry == nil:
	case entry.Token == "":
		p.Warn("a change of %s at %s was cut off at %s before the answer arrived: the server may have a runner of that name that nobody uses",
			entry.Name, entry.URL, entry.Started.Format(time.RFC3339))
	case entry.Verb == verbRotate:
		p.Refuse(entry.Name, "a rotation was cut off: finish it first, by regkeeper runner rotate")
	case facts.PendingHealth == runner.Removed:
		p.Warn("the registration of %s at %s was cut off, and the server does not know that runner any more: it is forgotten", entry.Name, entry.URL)
	case entry.URL != root(r.URL) || entry.Name != r.Name:
		p.Refuse(entry.Name, "its registration at %s was cut off, and %s has its token: register it again first, with the same name", entry.URL, runner.JournalFor(facts.Path).Path())
	case facts.PendingHealth != runner.Alive:
		p.Refuse(entry.Name, "its registration was cut off, and the server cannot be asked whether the token in %s is good: %s", runner.JournalFor(facts.Path).Path(), facts.PendingReason)
	default:
		p.resume = true
		if len(r.Labels) > 0 && !slices.Equal(r.Labels, entry.Labels) || r.Ephemeral != entry.Ephemeral {
			p.Warn("runner %s was made with the labels %s when its registration was cut off: those stay", entry.Name, strings.Join(entry.Labels, ", "))
		}
	}
}

func (p *Registration) deliver() {
	if login := p.request.Login; login != nil {
		hosts := make([]string, len(login.Registries))
		for i, host := range login.Registries {
			hosts[i] = string(host)
		}
		p.Add(runner.Deliver, login.Path, "the login for %s: the runner reads it before each pull of a job or service image", strings.Join(hosts, ", "))
	}
}

// Apply carries a plan out. Logins go first, so that the first job finds them. It
// refuses a plan in which something is refused.
func (f *Fleet) Apply(ctx context.Context, plan *Registration, deliverer runner.Deliverer) (runner.Info, error) {
	if err := plan.Err(hint); err != nil {
		return runner.Info{}, err
	}
	r := &plan.request
	if r.Login != nil {
		if err := deliverer.Deliver(ctx, *r.Login); err != nil {
			return runner.Info{}, fmt.Errorf("deliver the login, before anything was registered: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(f.config.File), disk.PrivateFolder); err != nil {
		return runner.Info{}, disk.Problem(err, "make folder %s", filepath.Dir(f.config.File))
	}
	unlock, err := f.journal.Lock()
	if err != nil {
		return runner.Info{}, err
	}
	defer unlock()
	if err := f.unmoved(plan); err != nil {
		return runner.Info{}, err
	}
	if !plan.resume && plan.Does(runner.Keep) {
		if entry := plan.facts.Pending; entry != nil && entry.Verb == verbRegister && entry.Token != "" {
			return *plan.facts.There, f.journal.Clear() // the file has that runner, or the server does not
		}
		return *plan.facts.There, nil
	}
	reg, err := f.obtain(ctx, plan)
	if err != nil {
		return runner.Info{}, err
	}
	if err := f.write(ctx, plan.known, reg); err != nil {
		return runner.Info{}, problem.Wrap(err, problem.Storage, "its token is in "+f.journal.Path()+": mend what is wrong, and run the command again",
			"runner %s is registered at the server, and not in its file", r.Name)
	}
	return f.info(reg), f.journal.Clear()
}

// unmoved fails if the file or the journal is not what the plan follows from. The
// caller has the lock.
func (f *Fleet) unmoved(plan *Registration) error {
	now, err := f.file().Read()
	if err != nil {
		return err
	}
	entry, err := f.journal.Load()
	if err != nil {
		return err
	}
	if was := plan.facts.Pending; !now.same(plan.known) || (entry == nil) != (was == nil) || entry != nil && (entry.Token != was.Token || !entry.Started.Equal(was.Started)) {
		return f.errMoved()
	}
	return nil
}

func (f *Fleet) obtain(ctx context.Context, plan *Registration) (*registration, error) {
	r := &plan.request
	if plan.resume {
		return made(plan.facts.Pending), nil
	}
	token := r.Token
	if token.Empty() {
		var err error
		if token, err = f.registrationToken(ctx, r.URL); err != nil {
			return nil, err
		}
	}
	entry := runner.Entry{Verb: verbRegister, URL: root(r.URL), Name: r.Name, Scope: f.config.Scope.String(), Labels: r.Labels, Ephemeral: r.Ephemeral, Started: f.config.Now().UTC()}
	if err := f.journal.Save(entry); err != nil {
		return nil, err
	}
	reg, err := f.register(ctx, r.URL, token, r.Name, r.Labels, r.Ephemeral)
	if err != nil {
		if problem.KindOf(err) == problem.Denied {
			err = errors.Join(err, f.journal.Clear())
		}
		return nil, err
	}
	entry.NewID, entry.UUID, entry.Token, entry.Ephemeral = reg.ID, reg.UUID, reg.Token, reg.Ephemeral
	return reg, f.journal.Save(entry)
}
