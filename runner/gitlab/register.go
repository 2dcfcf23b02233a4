package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
	"github.com/regkeeper/regkeeper/runnerconfig"
)

// Type is whose jobs a runner takes (GitLab's documentation, "Users API").
type Type string

// The types.
const (
	InstanceType Type = "instance_type"
	GroupType    Type = "group_type"
	ProjectType  Type = "project_type"
)

// Access levels: whether a runner takes jobs of protected branches and tags alone.
const (
	NotProtected = "not_protected"
	RefProtected = "ref_protected"
)

const (
	verbRegister = "register"
	verbRotate   = "rotate"
)

// Request is a runner to register. One of the tokens says how.
type Request struct {
	// URL is the server's root.
	URL string
	// Token is a runner's own; RegistrationToken the way before those; with
	// AccessToken, one of a user's with the scope create_runner, a runner is created.
	Token, RegistrationToken, AccessToken credential.Secret

	// Type, GroupID and ProjectID are of a runner that is created.
	Type               Type
	GroupID, ProjectID int64

	// Name is the runner's name here, and its description at the server.
	Name string

	// What follows is the server's, and can be given with a runner that is
	// created or registered alone. Nil is the server's default.
	TagList                      []string
	RunUntagged, Locked, Paused  *bool
	AccessLevel, MaintenanceNote string
	// MaximumTimeout is in seconds.
	MaximumTimeout int64

	// Executor and Settings are this machine's. Settings are further keys of the
	// [[runners]].
	Executor string
	Settings runnerconfig.Section
	// Template fills what is not given; nil for none.
	Template runnerconfig.Section

	// Replace has a runner that is there already be written anew.
	Replace bool
	// Login is where the login for private images goes; nil for none.
	Login *runner.Delivery
}

// untagged is GitLab Runner's rule: jobs without tags are taken where no tags are
// given, unless told otherwise.
func (r *Request) untagged() bool {
	if r.RunUntagged != nil && *r.RunUntagged {
		return true
	}
	return len(r.TagList) == 0
}

// server is where the request goes: with the certificates of the settings, or else of
// the template.
func (r *Request) server() server {
	for _, section := range []runnerconfig.Section{r.Settings, r.Template} {
		if ca, _ := section[runnerconfig.KeyCA].(string); ca != "" {
			return server{r.URL, ca}
		}
	}
	return server{r.URL, ""}
}

// tables are the tables of the executors: an executor's own stay, the others go
// (gitlab-runner, commands/register.go, askExecutorOptions).
var tables = map[string][]string{
	"custom": {"custom"}, "docker": {"docker"}, "docker-windows": {"docker"}, "docker-autoscaler": {"docker"}, "docker+machine": {"machine", "docker"},
	"instance": nil, "kubernetes": {"kubernetes"}, "parallels": {"ssh", "parallels"}, "shell": nil, "ssh": {"ssh"}, "virtualbox": {"ssh", "virtualbox"},
}

// needed are values without which an executor does nothing.
var needed = map[string][2]string{
	"docker": {"docker", "image"}, "docker-windows": {"docker", "image"}, "docker-autoscaler": {"docker", "image"}, "docker+machine": {"docker", "image"},
	"ssh": {"ssh", "host"}, "parallels": {"parallels", "base_name"}, "virtualbox": {"virtualbox", "base_name"},
}

// Executors lists the executors there are.
func Executors() []string {
	var names []string
	for name := range tables {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Facts are what a decision follows from.
type Facts struct {
	// Path is the config.toml, and Runners what it has.
	Path    string
	Runners []runnerconfig.Runner
	// Health is of the runner that is there already, if one is; empty while nobody has
	// asked.
	Health runner.Health
	Reason string
	// SystemID is this machine's; Stored says that its file has it.
	SystemID string
	Stored   bool
	// Pending is a registration that was cut off; nil for none.
	Pending *runner.Entry
}

// Registration is what is done to register a runner.
type Registration struct {
	runner.Plan
	request Request
	facts   Facts
	section runnerconfig.Section
	// there is the runner in the file that this one is; -1 for none.
	there  int
	resume bool
}

// hint goes with what is refused.
const hint = "see regkeeper runner register --help"

// there is the runner in the file that a request is about: the one with its token,
// or, where none is given, the one with its name at the same server.
func there(r *Request, runners []runnerconfig.Runner) int {
	return slices.IndexFunc(runners, func(have runnerconfig.Runner) bool {
		if address(have) != root(r.URL) {
			return false
		}
		if given := r.given(); given != "" {
			return bearer(have) == given
		}
		return have.Name == r.Name
	})
}

// given is the runner's own token, if the request has it: also where one for
// registration is asked for, as GitLab Runner takes it.
func (r *Request) given() string {
	if token := r.Token.Reveal(); token != "" {
		return token
	}
	if token := r.RegistrationToken.Reveal(); IsRunnerToken(token) {
		return token
	}
	return ""
}

// Look gathers what a decision takes. It changes nothing, and asks nobody: the server
// takes a question for a machine that has the runner.
func (f *Fleet) Look(context.Context) (Facts, error) {
	facts := Facts{Path: f.config.Path}
	doc, err := f.file().Read()
	if err != nil {
		return facts, err
	}
	facts.Runners = doc.Runners()
	if facts.SystemID, facts.Stored, err = f.systemID(); err != nil {
		return facts, err
	}
	facts.Pending, err = f.journal.Load()
	return facts, err
}

// Ask completes the facts by what the server says of a runner that is there already.
// It asks in the name of this machine, whose ID is stored first if it was made at
// random: another one each time would be another machine each time.
func (f *Fleet) Ask(ctx context.Context, r Request, facts Facts) (Facts, error) {
	i := there(&r, facts.Runners)
	if i < 0 {
		return facts, nil
	}
	if !facts.Stored && strings.HasPrefix(facts.SystemID, "r_") {
		if err := f.storeSystemID(facts.SystemID); err != nil {
			return facts, err
		}
		facts.Stored = true
	}
	_, facts.Health, facts.Reason = f.ask(ctx, facts.Runners[i], facts.SystemID)
	return facts, ctx.Err()
}

// Decide says what is done, and what is refused. It asks nobody.
//
//	the runner is      its token is   with --replace  without
//	not there          -              added           added
//	there              taken          written anew    kept
//	there, own token   refused        refused         refused
//	there, by name     refused        made anew in its place
//	there, by name     not known      refused         refused
//	there              not asked yet  verified        verified
//
// A registration that was cut off, and whose token the journal has, is another runner
// than one of its name with another token.
func Decide(r Request, facts Facts) *Registration {
	plan := &Registration{request: r, facts: facts, there: there(&r, facts.Runners)}
	plan.check(&r)
	plan.section = plan.fill(&r)
	given := r.given()
	if plan.decidePending(&r, given); len(plan.Refused) > 0 {
		return plan
	}
	if i := plan.there; i >= 0 && plan.resume && facts.Health == runner.Alive && bearer(facts.Runners[i]) != facts.Pending.Token {
		plan.there = slices.IndexFunc(facts.Runners, func(have runnerconfig.Runner) bool {
			return address(have) == root(r.URL) && bearer(have) == facts.Pending.Token
		})
	}
	if plan.there >= 0 {
		have := facts.Runners[plan.there]
		switch {
		case facts.Health == "":
			plan.Add(runner.Verify, have.Name, "it is in %s already: what is done follows from whether the server takes its token, and it is not asked before", facts.Path)
			return plan
		case facts.Health == runner.Unknown:
			plan.Refuse(have.Name, "it is in %s already, and the server cannot be asked whether it is good: %s", facts.Path, facts.Reason)
		case facts.Health == runner.Removed && given != "":
			plan.Refuse("--token", "it is in %s already, and %s", facts.Path, facts.Reason)
		case facts.Health == runner.Alive && !r.Replace:
			plan.Add(runner.Keep, have.Name, "it is in %s already, and the server takes its token: a second entry would have this machine ask twice for its jobs", facts.Path)
			plan.deliver(&r, have.Name)
			return plan
		}
		if len(plan.Refused) > 0 {
			return plan
		}
	}
	if r.Login != nil && r.Login.Way == runner.ConfigFile {
		plan.deliver(&r, r.Name)
	}
	if !facts.Stored {
		plan.Add(runner.Write, systemName, "by %s the server tells this machine from others with the same runner", facts.SystemID)
	}
	switch {
	case plan.resume:
		plan.Add(runner.Verify, r.Name, "a registration that was cut off had got a token: it is used, and no second runner made")
	case given != "":
		plan.Add(runner.Verify, r.Name, "the server must take the token, and tells the runner's number")
	case plan.there >= 0 && facts.Health == runner.Alive:
		plan.Add(runner.Verify, r.Name, "it is registered: its token stays")
	case !r.AccessToken.Empty():
		plan.Add(runner.Create, r.Name, "at %s, as %s; %s", root(r.URL), r.Type, tagged(&r))
	default:
		plan.Add(runner.Create, r.Name, "at %s, with a registration token; %s", root(r.URL), tagged(&r))
		plan.Warn("registration tokens are deprecated, and GitLab 20.0 has none: create the runner with an access token of the scope create_runner, or at the server")
	}
	if plan.there >= 0 {
		plan.Add(runner.Replace, r.Name, "in %s, in the place of what is there", facts.Path)
	} else {
		plan.Add(runner.Write, r.Name, "to %s; a GitLab Runner that is running reads it by itself", facts.Path)
	}
	if r.Login != nil && r.Login.Way == runner.Environment {
		plan.deliver(&r, r.Name)
	}
	return plan
}

func tagged(r *Request) string {
	switch {
	case len(r.TagList) == 0:
		return "it takes jobs without tags, since it has none"
	case r.untagged():
		return "it takes jobs with its tags " + strings.Join(r.TagList, ",") + ", and jobs without any"
	}
	return "it takes jobs with its tags " + strings.Join(r.TagList, ",") + " alone"
}

func (p *Registration) deliver(r *Request, name string) {
	if r.Login == nil {
		return
	}
	hosts := make([]string, len(r.Login.Registries))
	for i, host := range r.Login.Registries {
		hosts[i] = string(host)
	}
	where, why := r.Login.Path, "the runner reads it before each pull of a job, service or helper image"
	if r.Login.Way == runner.Environment {
		where, why = "environment of "+name+" in "+r.Login.Path, "the runner looks there first; the jobs have it in their environment too"
	}
	p.Add(runner.Deliver, where, "the login for %s: %s", strings.Join(hosts, ", "), why)
}

// check refuses what is wrong in itself.
func (p *Registration) check(r *Request) {
	if u, err := url.Parse(r.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		p.Refuse("--url", "it must be the root of a GitLab server, for example https://gitlab.example.com")
	} else if u.User != nil {
		p.Refuse("--url", "a login does not belong there")
	}
	ways := 0
	for _, secret := range []credential.Secret{r.Token, r.RegistrationToken, r.AccessToken} {
		if !secret.Empty() {
			ways++
		}
	}
	switch {
	case ways == 0:
		p.Refuse("--token", "no token is given: a runner's own (glrt-...), one for registration, or an access token that may create runners")
	case ways > 1:
		p.Refuse("--token", "give one of a runner's token, a registration token and an access token")
	}
	if r.Name == "" {
		p.Refuse("--description", "the runner needs a name")
	}
	if r.AccessLevel != "" && r.AccessLevel != NotProtected && r.AccessLevel != RefProtected {
		p.Refuse("--access-level", "it is %s or %s", NotProtected, RefProtected)
	}
	if r.MaximumTimeout < 0 {
		p.Refuse("--maximum-timeout", "it is a number of seconds")
	}
	p.checkServer(r)
	if r.given() == "" && r.RunUntagged != nil && !*r.RunUntagged && len(r.TagList) == 0 {
		p.Refuse("--run-untagged", "a runner without tags that takes no jobs without tags takes none")
	}
	if r.AccessToken.Empty() {
		return
	}
	switch {
	case r.Type == InstanceType && r.GroupID == 0 && r.ProjectID == 0:
	case r.Type == GroupType && r.GroupID != 0 && r.ProjectID == 0:
	case r.Type == ProjectType && r.ProjectID != 0 && r.GroupID == 0:
	case r.Type != InstanceType && r.Type != GroupType && r.Type != ProjectType:
		p.Refuse("--runner-type", "it is %s, %s or %s", InstanceType, GroupType, ProjectType)
	default:
		p.Refuse("--runner-type", "%s takes --group-id, %s --project-id, and %s neither", GroupType, ProjectType, InstanceType)
	}
}

// checkServer refuses what the server has the say over (gitlab-runner,
// commands/register.go, ensureServerConfigArgsEmpty).
func (p *Registration) checkServer(r *Request) {
	if r.given() == "" {
		return
	}
	for _, setting := range []struct {
		flag  string
		given bool
	}{
		{"--tag-list", len(r.TagList) > 0},
		{"--run-untagged", r.RunUntagged != nil},
		{"--locked", r.Locked != nil && !*r.Locked},
		{"--access-level", r.AccessLevel != ""},
		{"--maximum-timeout", r.MaximumTimeout != 0},
		{"--paused", r.Paused != nil && *r.Paused},
		{"--maintenance-note", r.MaintenanceNote != ""},
	} {
		switch {
		case !setting.given:
		case r.Token.Empty():
			p.Warn("%s is ignored: the registration token is a runner's own (glrt-...), whose settings are at the server", setting.flag)
		default:
			p.Refuse(setting.flag, "the runner of this token was created at the server, and has this setting there: change it there")
		}
	}
}

// decidePending goes on with what was cut off.
func (p *Registration) decidePending(r *Request, given string) {
	entry := p.facts.Pending
	switch {
	case entry == nil:
	case entry.Verb == verbRotate:
		p.Refuse(entry.Name, "a rotation of its token was cut off: finish it first, by regkeeper runner rotate")
	case entry.URL == root(r.URL) && entry.Name == r.Name && given == "" && entry.Token != "":
		p.resume = true
	case entry.Token != "":
		p.Refuse(entry.Name, "its registration at %s was cut off, and %s has its token: register it again first, with the same name", entry.URL, runner.JournalFor(p.facts.Path).Path())
	default:
		p.Warn("a registration of %s at %s was cut off at %s before the answer arrived: the server may have a runner of that name that nobody uses",
			entry.Name, entry.URL, entry.Started.Format(time.RFC3339))
	}
}

// fill is the [[runners]] as it is written, but for what the server tells.
func (p *Registration) fill(r *Request) runnerconfig.Section {
	section := runnerconfig.Section{}
	section.Fill(r.Settings)
	section[runnerconfig.KeyName], section[runnerconfig.KeyURL] = r.Name, r.URL
	if r.Executor != "" {
		section[runnerconfig.KeyExecutor] = r.Executor
	}
	if r.Template != nil {
		if has, _ := section[runnerconfig.KeyEnvironment].([]any); len(has) > 0 && variable(r.Template, "DOCKER_AUTH_CONFIG") {
			p.Warn("the template's environment counts for nothing beside --env, and with it its DOCKER_AUTH_CONFIG")
		}
		section.Fill(r.Template)
	}
	executor, _ := section[runnerconfig.KeyExecutor].(string)
	own, ok := tables[executor]
	if !ok {
		p.Refuse("--executor", "it is one of %s", strings.Join(Executors(), ", "))
		return section
	}
	for _, all := range tables {
		for _, table := range all {
			if !slices.Contains(own, table) {
				delete(section, table)
			}
		}
	}
	if need, ok := needed[executor]; ok {
		table, _ := section[need[0]].(map[string]any)
		if value, _ := table[need[1]].(string); value == "" {
			flag := "--template-config"
			if need[1] == "image" {
				flag = "--docker-image"
			}
			p.Refuse(flag, "the executor %s needs %s under [runners.%s]", executor, need[1], need[0])
		}
	}
	cache(section, executor)
	if shell, _ := section["shell"].(string); shell == "" && (executor == "docker-windows" || executor == "shell" && runtime.GOOS == "windows") {
		section["shell"] = "pwsh"
	}
	return section
}

// cache gives containers the volume for caches that GitLab Runner gives them.
func cache(section runnerconfig.Section, executor string) {
	docker, ok := section["docker"].(map[string]any)
	if !ok || executor == "kubernetes" {
		return
	}
	volumes, _ := docker["volumes"].([]any)
	folder, is := "/cache", func(volume string) bool { return volume[strings.LastIndex(volume, ":")+1:] == "/cache" }
	if executor == "docker-windows" {
		folder, is = `c:\cache`, func(volume string) bool { return strings.Contains(volume, `c:\cache`) }
	} else if off, _ := docker["disable_cache"].(bool); off {
		return
	}
	if !slices.ContainsFunc(volumes, func(v any) bool { text, _ := v.(string); return is(text) }) {
		docker["volumes"] = append(slices.Clone(volumes), folder)
	}
}

func variable(section runnerconfig.Section, name string) bool {
	list, _ := section[runnerconfig.KeyEnvironment].([]any)
	return slices.ContainsFunc(list, func(v any) bool { text, _ := v.(string); return strings.HasPrefix(text, name+"=") })
}

// Apply carries a plan out. Logins go first where they can, so that the first job
// finds them. It refuses a plan in which something is refused.
//
// What the server has made and the file does not have is in the journal: the same
// request goes on from there.
func (f *Fleet) Apply(ctx context.Context, plan *Registration, deliverer runner.Deliverer) (runner.Info, error) {
	if err := plan.Err(hint); err != nil {
		return runner.Info{}, err
	}
	r := &plan.request
	if r.Login != nil && r.Login.Way == runner.ConfigFile {
		if err := deliverer.Deliver(ctx, *r.Login); err != nil {
			return runner.Info{}, fmt.Errorf("deliver the login, before anything was registered: %w", err)
		}
	}
	info, err := f.apply(ctx, plan)
	if err != nil || r.Login == nil || r.Login.Way != runner.Environment {
		return info, err
	}
	delivery := *r.Login
	delivery.Runner = info.Name
	if err := deliverer.Deliver(ctx, delivery); err != nil {
		return info, problem.Wrap(err, problem.Partial, "the runner is registered: run the command again for the login alone", "deliver the login")
	}
	return info, nil
}

func (f *Fleet) apply(ctx context.Context, plan *Registration) (runner.Info, error) {
	r := &plan.request
	folder := filepath.Dir(f.config.Path)
	if err := os.MkdirAll(folder, disk.PrivateFolder); err != nil {
		return runner.Info{}, disk.Problem(err, "make folder %s", folder)
	}
	unlock, err := f.journal.Lock()
	if err != nil {
		return runner.Info{}, err
	}
	defer unlock()
	if err := f.unmoved(plan); err != nil {
		return runner.Info{}, err
	}
	if plan.Does(runner.Keep) {
		info := f.info(plan.facts.Runners[plan.there])
		if plan.resume {
			return info, f.journal.Clear() // the file has the token
		}
		return info, nil
	}
	if !plan.facts.Stored {
		if err := f.storeSystemID(plan.facts.SystemID); err != nil {
			return runner.Info{}, err
		}
	}
	// What would fail afterwards fails before the server makes anything.
	if err := f.probe(ctx, func(doc *runnerconfig.Document) error {
		section := maps.Clone(plan.section)
		section[runnerconfig.KeyToken] = "glrt-probe"
		_, err := f.edit(doc, plan, section, answer{Token: "glrt-probe"})
		return err
	}); err != nil {
		return runner.Info{}, err
	}
	got, journaled, err := f.obtain(ctx, plan)
	if err != nil {
		return runner.Info{}, err
	}
	section := plan.section
	section[runnerconfig.KeyID], section[runnerconfig.KeyToken] = got.ID, got.Token
	section[runnerconfig.KeyObtained] = f.config.Now().UTC().Truncate(time.Second)
	section[runnerconfig.KeyExpires] = moment(got.Expires)
	if plan.there >= 0 && bearer(plan.facts.Runners[plan.there]) == got.Token {
		section[runnerconfig.KeyObtained] = plan.facts.Runners[plan.there].Obtained
		section[runnerconfig.KeyToken] = plan.facts.Runners[plan.there].Token
	}
	if err := f.write(ctx, plan, section, got); err != nil {
		if journaled {
			return runner.Info{}, problem.Wrap(err, problem.Storage,
				"its token is in "+f.journal.Path()+": mend what is wrong, and run the command again", "runner %s is registered at the server, and not in its file", r.Name)
		}
		return runner.Info{}, err
	}
	if err := f.journal.Clear(); err != nil {
		return runner.Info{}, err
	}
	doc, err := f.file().Read()
	if err != nil {
		return runner.Info{}, err
	}
	if i := find(doc, r.URL, got.Token); i >= 0 {
		return f.info(doc.Runners()[i]), nil
	}
	return runner.Info{}, problem.New(problem.Busy, "find the program that rewrites "+f.config.Path, "runner %s was taken out of its file again", r.Name)
}

// unmoved fails if the file or the journal is not what the plan follows from, or if
// nobody was asked for it. The caller has the lock.
func (f *Fleet) unmoved(plan *Registration) error {
	if plan.there >= 0 && plan.facts.Health == "" {
		return problem.New(problem.Usage, hint, "the plan was made without asking the server of what is in %s already", f.config.Path)
	}
	doc, err := f.file().Read()
	if err != nil {
		return err
	}
	entry, err := f.journal.Load()
	if err != nil {
		return err
	}
	same := slices.EqualFunc(doc.Runners(), plan.facts.Runners, func(a, b runnerconfig.Runner) bool {
		return a.Name == b.Name && a.URL == b.URL && a.ID == b.ID && a.Token == b.Token
	})
	if was := plan.facts.Pending; !same || (entry == nil) != (was == nil) || entry != nil && (entry.Token != was.Token || !entry.Started.Equal(was.Started)) {
		return problem.New(problem.Busy, "run the command again", "the runners of %s are others than a moment ago", f.config.Path)
	}
	return nil
}

// write puts the section in its place.
func (f *Fleet) write(ctx context.Context, plan *Registration, section runnerconfig.Section, got answer) error {
	_, err := f.file().Update(ctx, func(doc *runnerconfig.Document) (bool, error) { return f.edit(doc, plan, section, got) })
	return err
}

// edit puts the section in its place: that of the runner it was, of the same runner
// by its number, or the last.
func (f *Fleet) edit(doc *runnerconfig.Document, plan *Registration, section runnerconfig.Section, got answer) (changed bool, err error) {
	r := &plan.request
	i := find(doc, r.URL, got.Token)
	if i < 0 && plan.there >= 0 {
		i = find(doc, root(r.URL), plan.facts.Runners[plan.there].Token)
	}
	if i >= 0 {
		return true, doc.Replace(i, section)
	}
	i = slices.IndexFunc(doc.Runners(), func(have runnerconfig.Runner) bool {
		return address(have) == root(r.URL) && have.ID != 0 && have.ID == got.ID
	})
	if i >= 0 && !r.Replace {
		return f.setToken(doc, i, runner.Entry{Token: got.Token, Expires: got.Expires})
	}
	if i >= 0 {
		return true, doc.Replace(i, section)
	}
	return true, doc.Add(section)
}

// obtain is the runner's number and token; journaled says that the journal has
// them.
func (f *Fleet) obtain(ctx context.Context, plan *Registration) (got answer, journaled bool, err error) {
	r := &plan.request
	entry := runner.Entry{Verb: verbRegister, URL: root(r.URL), Name: r.Name, Started: f.config.Now().UTC()}
	token := r.given()
	if plan.resume {
		token = plan.facts.Pending.Token
	} else if plan.there >= 0 && plan.facts.Health == runner.Alive {
		token = bearer(plan.facts.Runners[plan.there])
	}
	if token != "" {
		got, err := f.verify(ctx, r.server(), token, plan.facts.SystemID, r.Executor)
		if problem.KindOf(err) == problem.Denied && plan.resume {
			err = errors.Join(err, f.journal.Clear())
		}
		got.Token = token
		if got.ID == 0 && plan.resume {
			got.ID = plan.facts.Pending.NewID
		}
		return got, plan.resume, err
	}
	if err := f.journal.Save(entry); err != nil {
		return answer{}, false, err
	}
	if r.AccessToken.Empty() {
		got, err = f.register(ctx, r)
	} else {
		got, err = f.create(ctx, r)
	}
	if err != nil {
		// A server that says no has made nothing.
		switch problem.KindOf(err) {
		case problem.Denied, problem.Config, problem.NotFound, problem.Refused:
			err = errors.Join(err, f.journal.Clear())
		}
		return answer{}, false, err
	}
	entry.Token, entry.NewID, entry.Expires = got.Token, got.ID, got.Expires
	return got, true, f.journal.Save(entry)
}

// Executor is the executor that a registration ends up with.
func (p *Registration) Executor() string {
	executor, _ := p.section[runnerconfig.KeyExecutor].(string)
	return cmp.Or(executor, p.request.Executor)
}
