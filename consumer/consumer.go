// Package consumer owns the rules by which clients choose a login for an image:
// where each of them looks, which entries it takes for a match, and what it does
// when something on the way is broken.
//
// The rules are those of the clients' own code, which each rule names. Some let the
// order of a map decide; then a decision has more than one outcome.
//
// It refuses I/O: what a client finds around it is given, as [Surroundings], and
// nothing is asked of a registry.
package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// ErrNoLogin is in the chain of an error of [Helpers] when a helper works and has
// no login for the server.
var ErrNoLogin = errors.New("the helper has no login for it")

// ErrNotAsked is in the chain of an error of [Helpers] when a helper was not to be
// asked.
var ErrNotAsked = errors.New("the helper was not asked")

// Login is what a client sends to a registry or its token server.
type Login struct {
	Username string
	Password credential.Secret
	// IdentityToken is an OAuth 2 refresh token, RegistryToken a bearer token
	// for the registry itself (docker/cli, config/types.AuthConfig).
	IdentityToken, RegistryToken credential.Secret
}

// Empty says whether the login says nothing: the client asks as nobody.
func (l Login) Empty() bool {
	return l.Username == "" && l.Password.Empty() && l.IdentityToken.Empty() && l.RegistryToken.Empty()
}

// Equal says whether two logins are the same.
func (l Login) Equal(other Login) bool {
	return l.Username == other.Username && l.Password.Equal(other.Password) &&
		l.IdentityToken.Equal(other.IdentityToken) && l.RegistryToken.Equal(other.RegistryToken)
}

// Helpers are the credential helpers that a client would run, by the protocol of
// docker-credential-helpers. A name has no docker-credential- before it.
type Helpers interface {
	// Get asks for the login for a server. ErrNoLogin and ErrNotAsked may be in
	// the chain of its error.
	Get(name, server string) (username, secret string, err error)
	// List asks for the servers that there are logins for.
	List(name string) (servers []string, err error)
}

// Surroundings are what a client finds where it runs.
type Surroundings struct {
	// Env is its environment.
	Env map[string]string
	// Home is the home folder of its user, and UID the user's number.
	Home string
	UID  int
	// Dir is the folder it runs in, which only the kubelet looks into.
	Dir string
	// DockerConfig is a file that is read in place of the config.json that the
	// client would find, or of K3s's registries.yaml; empty for that one.
	DockerConfig string
	// ReadFile reads a file; fs.ErrNotExist is in the chain of its error if there
	// is none.
	ReadFile func(path string) ([]byte, error)
	// Helpers are asked when a client would.
	Helpers Helpers
	// DefaultStore is the helper that the docker CLI takes when no login is
	// configured at all: "pass" or "secretservice" on Linux, if its program is on
	// PATH. Empty for none.
	DefaultStore string
	// Job is what CI hands to a job.
	Job Job
	// Pod is what Kubernetes hands to a kubelet for a pod.
	Pod Pod
}

// Job is what CI hands to the runner for one job.
type Job struct {
	// Variables are those of GitLab: of the project, the group, the instance and
	// the job's own.
	Variables map[string]string
	// Environment is GitLab Runner's "environment" of config.toml.
	Environment map[string]string
	// Payload are the logins that GitLab sends with the job.
	Payload []Payload
	// PullSecrets are the names under image_pull_secrets of GitLab Runner's
	// Kubernetes executor.
	PullSecrets []string
	// Secrets are those of Gitea, Forgejo and GitHub Actions.
	Secrets map[string]string
	// Credentials are those that the workflow gives the container or service,
	// with secrets filled in; nil if it says nothing of them.
	Credentials map[string]string
	// Service says that the image is that of a service.
	Service bool
}

// Payload is a login that GitLab sends with a job: common/spec.Credentials of
// GitLab Runner.
type Payload struct {
	Type, URL, Username string
	Password            credential.Secret
}

// Pod is what a kubelet knows of a pod.
type Pod struct {
	// Secrets are its pull Secrets, in the order of the pod's imagePullSecrets.
	Secrets []PullSecret
	// Providers are the kubelet's credential provider plugins and their answers.
	Providers []Provider
}

// PullSecret is a Secret that a pod names under imagePullSecrets.
type PullSecret struct {
	Namespace, Name string
	// Type is the Secret's type. Missing says that there is no such Secret.
	Type    string
	Missing bool
	// Data is its content by key.
	Data map[string][]byte
}

// Provider is one of the kubelet's credential provider plugins.
type Provider struct {
	Name string
	// MatchImages are the patterns of its configuration.
	MatchImages []string
	// Answer are the logins it gives, by pattern; Err is why it gives none.
	Answer map[string]Login
	Err    error
}

// Rule is a client's rule.
type Rule struct {
	// ID is stable and names the rule in texts and tests.
	ID string `json:"id"`
	// Text says what the rule is, in a sentence without a subject's name.
	Text string `json:"text"`
	// Source is where the rule is written: a project's file, or a specification.
	Source string `json:"source"`
}

// Found is a login that a client takes, and why.
type Found struct {
	Login Login
	// Where is the file, variable, Secret or program that it comes from.
	Where string
	// Key is the entry that matched, as it is written; empty where there is none.
	Key  string
	Rule Rule
}

// Outcome is one way in which a client can act.
type Outcome struct {
	// Tries are the logins that it tries, in order, until one is accepted. With
	// none it asks as nobody.
	Tries []Found
	// Err is why the client gives up before it asks the registry; nil if it does
	// not.
	Err error
	// Rule says what made the client give up, or ask as nobody.
	Rule Rule
	// Unknown says that it hangs on a helper that was not asked.
	Unknown bool
}

// Login is the login tried first, empty for none.
func (o Outcome) Login() Login {
	if len(o.Tries) == 0 {
		return Login{}
	}
	return o.Tries[0].Login
}

// Look is one place or entry that the client looks at, or would.
type Look struct {
	Where string `json:"where"`
	// Key is the entry; empty for the place as a whole.
	Key     string  `json:"key,omitempty"`
	Verdict Verdict `json:"verdict"`
	// Why says why, in a sentence.
	Why  string `json:"why,omitempty"`
	Rule Rule   `json:"rule,omitzero"`
}

// Verdict is what became of a place or entry.
type Verdict string

// The verdicts.
const (
	// Used is where the login comes from.
	Used Verdict = "used"
	// Passed was not taken, though it may look as if it should.
	Passed Verdict = "passed over"
	// Absent is not there.
	Absent Verdict = "absent"
	// Broken cannot be read.
	Broken Verdict = "broken"
	// Hidden would have been taken if another had not come first.
	Hidden Verdict = "hidden"
)

// Decision is what a client does about the login for an image.
type Decision struct {
	Consumer string
	// Image is the reference in full; Host is the registry that it names.
	Image string
	Host  credential.Host
	// Outcomes are what can happen: one, unless the client lets chance decide.
	Outcomes []Outcome
	// Looked is what it looked at, in order.
	Looked []Look
	// Rules are those about the client that matter besides, such as what it does
	// when the registry refuses the login.
	Rules []Rule
}

// Consumer is a client.
type Consumer struct {
	// Name is how it is named on the command line.
	Name string
	// About says which programs it stands for.
	About string
	// Rules are what matters besides where it looks.
	Rules []Rule
	// InJob says that it runs within a job, where a job's variables are its
	// environment.
	InJob bool
	// Places says where it looks, for people.
	Places string

	decide func(*search) []Outcome
}

// All are the clients whose rules are known, in the order in which they are listed.
func All() []Consumer {
	all := slices.Concat(dockers(), actions(), []Consumer{gitlabRunner(), gitlabRunnerKubernetes(), kubelet()}, others())
	for i := range all {
		all[i].InJob = !slices.Contains(outside, all[i].Name)
	}
	return all
}

// outside are the clients that pull before a job runs, or have nothing to do with
// one.
var outside = []string{
	"gitea-runner", "forgejo-runner", "act", "gitlab-runner", "gitlab-runner-kubernetes", "kubelet", "containerd", "k3s",
}

// Find finds a client by its name.
//
// The error is a [problem.Error] of kind [problem.Usage].
func Find(name string) (Consumer, error) {
	all := All()
	for _, c := range all {
		if c.Name == name {
			return c, nil
		}
	}
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.Name
	}
	return Consumer{}, problem.New(problem.Usage, "clients: "+strings.Join(names, ", "), "there are no rules for a client %q", name)
}

// Decide says which login the client takes for an image.
//
// The error is a [problem.Error] of kind [problem.Config] if the reference is none.
func (c Consumer) Decide(image string, around Surroundings) (Decision, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return Decision{}, problem.New(problem.Config, "write it as registry/repository:tag", "%q is no image reference: %v", image, err)
	}
	if around.ReadFile == nil {
		around.ReadFile = noFile
	}
	if around.Helpers == nil {
		around.Helpers = unasked{}
	}
	s := &search{Surroundings: around, image: image, named: named, domain: reference.Domain(named)}
	outcomes := distinct(c.decide(s))
	host, err := credential.ParseHost(s.domain)
	if err != nil {
		return Decision{}, err
	}
	return Decision{
		Consumer: c.Name, Image: reference.TagNameOnly(named).String(), Host: host,
		Outcomes: outcomes, Looked: s.settled(outcomes), Rules: c.Rules,
	}, nil
}

// search is one decision in the making.
type search struct {
	Surroundings
	// image is the reference as it was written, named as it is understood, and
	// domain the registry's part of that.
	image  string
	named  reference.Named
	domain string
	looks  []Look
}

func (s *search) look(where, key string, verdict Verdict, rule Rule, why string, args ...any) {
	// What was last said of a place or entry stands.
	s.looks = slices.DeleteFunc(s.looks, func(l Look) bool { return l.Where == where && l.Key == key })
	s.looks = append(s.looks, Look{Where: where, Key: key, Verdict: verdict, Why: fmt.Sprintf(why, args...), Rule: rule})
}

// settled has what was looked at say what became of it in the end.
func (s *search) settled(outcomes []Outcome) []Look {
	for _, outcome := range outcomes {
		for _, found := range outcome.Tries {
			used := Look{Where: found.Where, Key: found.Key, Verdict: Used, Rule: found.Rule}
			at := slices.IndexFunc(s.looks, func(l Look) bool { return l.Where == found.Where && l.Key == found.Key })
			if at < 0 {
				s.looks = append(s.looks, used)
			} else {
				s.looks[at] = used
			}
		}
	}
	return s.looks
}

// distinct leaves out outcomes that are the same as one before.
func distinct(outcomes []Outcome) []Outcome {
	var kept []Outcome
	for _, o := range outcomes {
		if !slices.ContainsFunc(kept, func(k Outcome) bool { return same(k, o) }) {
			kept = append(kept, o)
		}
	}
	return kept
}

func same(a, b Outcome) bool {
	return (a.Err == nil) == (b.Err == nil) && a.Unknown == b.Unknown &&
		slices.EqualFunc(a.Tries, b.Tries, func(x, y Found) bool {
			return x.Where == y.Where && x.Key == y.Key && x.Login.Equal(y.Login)
		})
}

// nobody is the outcome of asking without a login.
func nobody(rule Rule) []Outcome { return []Outcome{{Rule: rule}} }

// fails is the outcome of giving up.
func fails(rule Rule, err error) []Outcome { return []Outcome{{Err: err, Rule: rule}} }

// takes is the outcome of trying one login; one that says nothing is none.
func takes(found Found) Outcome {
	if found.Login.Empty() {
		return Outcome{Rule: ruleEmptyEntry}
	}
	return Outcome{Tries: []Found{found}}
}

// then goes on from the outcomes in which nothing was found.
func then(outcomes []Outcome, next func() []Outcome) []Outcome {
	var all []Outcome
	for _, o := range outcomes {
		if len(o.Tries) == 0 && o.Err == nil && !o.Unknown {
			all = append(all, next()...)
		} else {
			all = append(all, o)
		}
	}
	return all
}

// unasked are helpers that are not asked.
type unasked struct{}

func (unasked) Get(string, string) (string, string, error) { return "", "", ErrNotAsked }
func (unasked) List(string) ([]string, error)              { return nil, ErrNotAsked }
