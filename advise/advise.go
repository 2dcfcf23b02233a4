// Package advise says which way of handing a registry's login to CI jobs fits a
// case, and why: login in before_script, a mounted config.json, DOCKER_AUTH_CONFIG,
// a credential helper, or delivery by regkeeper into the file that the runner reads.
//
// It is pure. It refuses to look anything up: a case is given.
package advise

import (
	"cmp"
	"slices"

	"github.com/regkeeper/regkeeper/problem"
)

// Runner is what runs the jobs.
type Runner string

// The runners.
const (
	GitLab  Runner = "gitlab"
	Gitea   Runner = "gitea"
	Forgejo Runner = "forgejo"
)

// Executor is how a runner runs jobs.
type Executor string

// The executors. Docker stands for a job in a container of the host's daemon.
const (
	Docker     Executor = "docker"
	Kubernetes Executor = "kubernetes"
	Shell      Executor = "shell"
)

// Pull is who pulls with the login.
type Pull string

// Who pulls.
const (
	// JobImage is the runner, for the image that the job runs in and its services.
	JobImage Pull = "job-image"
	// InJob is a docker command within the job.
	InJob Pull = "in-job"
)

// Case is what is to be advised about.
type Case struct {
	Runner   Runner
	Executor Executor
	// Pulls are who pulls; both if empty.
	Pulls []Pull
	// DinD says that jobs have a Docker daemon of their own, as docker:dind.
	DinD bool
	// HostAccess says that files can be put on the runner's host, or in its pod.
	HostAccess bool
	// ShortLived says that the login ends within a job's time or a day: ECR, or a
	// rotation of hours.
	ShortLived bool
	// Cloud says that the registry's cloud has a credential helper of its own.
	Cloud bool
	// PerProject says that projects must not use each other's logins.
	PerProject bool
	// OldClient says that the docker CLI in jobs is older than 28.3.
	OldClient bool
}

// Method is a way of handing the login over.
type Method string

// The methods: four are those of GitLab's documentation.
const (
	BeforeScript Method = "before_script"
	MountedFile  Method = "mounted config.json"
	Variable     Method = "DOCKER_AUTH_CONFIG"
	Helper       Method = "credential helper"
	Delivery     Method = "delivery to the runner"
)

// Fit is how well a method fits.
type Fit string

// How well, the best first.
const (
	Fits  Fit = "fits"
	Works Fit = "works"
	Fails Fit = "does not work"
)

// Advice is what is said of one method.
type Advice struct {
	Method Method `json:"method"`
	Fit    Fit    `json:"fit"`
	// Why are the reasons, those against it first.
	Why []string `json:"why"`
	// How is what to do with regkeeper to have it; empty if it cannot help.
	How string `json:"how,omitempty"`
}

// Check says what is not known in a case.
//
// The error is a [problem.Error] of kind [problem.Usage].
func (c Case) Check() error {
	if !slices.Contains([]Runner{GitLab, Gitea, Forgejo}, c.Runner) {
		return problem.New(problem.Usage, "runners: gitlab, gitea, forgejo", "runner %q is not known", c.Runner)
	}
	if !slices.Contains([]Executor{Docker, Kubernetes, Shell}, c.Executor) {
		return problem.New(problem.Usage, "executors: docker, kubernetes, shell", "executor %q is not known", c.Executor)
	}
	for _, p := range c.Pulls {
		if p != JobImage && p != InJob {
			return problem.New(problem.Usage, "who pulls: job-image, in-job", "puller %q is not known", p)
		}
	}
	return nil
}

// ways are the methods with what judges them.
var ways = []struct {
	method Method
	judge  func(c Case, a *Advice)
}{
	{Delivery, delivery}, {Helper, helper}, {Variable, variable}, {MountedFile, mounted}, {BeforeScript, beforeScript},
}

// For judges all methods for a case, the best first.
func For(c Case) []Advice {
	if len(c.Pulls) == 0 {
		c.Pulls = []Pull{JobImage, InJob}
	}
	all := make([]Advice, 0, len(ways))
	for _, w := range ways {
		a := Advice{Method: w.method, Fit: Fits, Why: []string{}}
		w.judge(c, &a)
		all = append(all, a)
	}
	order := map[Fit]int{Fits: 0, Works: 1, Fails: 2}
	slices.SortStableFunc(all, func(a, b Advice) int { return cmp.Compare(order[a.Fit], order[b.Fit]) })
	return all
}

func (a *Advice) fails(why string) { a.Fit, a.Why = Fails, append([]string{why}, a.Why...) }

func (a *Advice) works(why string) {
	if a.Fit == Fits {
		a.Fit = Works
	}
	a.Why = append(a.Why, why)
}

func (a *Advice) good(why string) { a.Why = append(a.Why, why) }

func (c Case) pulls(p Pull) bool { return slices.Contains(c.Pulls, p) }

// actions says that the runner is one of Actions.
func (c Case) actions() bool { return c.Runner != GitLab }

func delivery(c Case, a *Advice) {
	if !c.HostAccess {
		a.fails("it takes access to the runner's host or pod")
		return
	}
	a.good("the runner reads its config.json again at each pull: a rotation takes no restart and fails no job")
	a.good("the login is minted for this, and verified before and after it is delivered")
	switch {
	case c.Runner == GitLab:
		a.How = "target: file, with path ~/.docker/config.json of the runner's user; or runnerConfig, for single runners of one config.toml"
	case c.Executor == Kubernetes:
		a.How = "target: pods, with the runner's container: the login is there within a second of a pod's start"
	default:
		a.How = "target: file, with path ~/.docker/config.json of the runner's user"
	}
	if c.pulls(InJob) {
		a.works("docker commands within a job read the job's own config.json, not the runner's: mount it, or see DOCKER_AUTH_CONFIG")
	}
	if c.PerProject {
		a.works("every job of the runner can use the login: give projects runners of their own, or logins by variable")
	}
}

func helper(c Case, a *Advice) {
	if !c.HostAccess {
		a.fails("the helper's program must be on the runner's PATH, and that takes access to its host")
		return
	}
	a.good("the login is asked for at each pull: nothing lies in a file that could be stale")
	a.How = "regkeeper install helper, which writes credHelpers for each registry"
	if c.ShortLived {
		a.good("a login of hours is never delivered late")
	}
	if c.Cloud {
		a.good("the cloud's own helper needs no stored secret: it uses the machine's role")
		a.How = "credHelpers with the cloud's helper; or source: ecr, and any target"
	}
	if c.actions() {
		a.works("a helper that fails fails all pulls of this runner, those of public images too: only credHelpers for the registry, never a credsStore for all")
	} else {
		a.works("one helper that fails drops all logins of the same file, silently: only credHelpers for the registry, never a credsStore for all")
	}
	if c.pulls(InJob) {
		a.works("within a job the helper is there only if the job's image has it")
	}
}

func variable(c Case, a *Advice) {
	if c.Runner == GitLab {
		a.good("it takes no access to the runner, and each project or group can have its own")
		a.How = "target: gitlabVariable"
	} else {
		a.How = "target: giteaSecret, and env: DOCKER_AUTH_CONFIG: ${{ secrets.DOCKER_AUTH_CONFIG }} in the workflow's steps"
		if c.pulls(JobImage) {
			a.works("the runner does not take it from a workflow for the job's own image: it counts in the runner's environment alone")
		}
	}
	if c.pulls(InJob) {
		if c.OldClient {
			a.fails("the docker CLI reads it from 28.3 on; older ones in jobs do not")
			return
		}
		a.works("the docker CLI from 28.3 on lets it come before `docker login`, and passes it over as a whole if it has more than auths with auth in them")
	}
	if c.ShortLived {
		a.works("jobs that are queued hold the value of when they began: a login of minutes ends before them")
	}
	if !c.PerProject && c.HostAccess {
		a.works("whoever may write the project's pipeline can print it")
	}
}

func mounted(c Case, a *Advice) {
	if !c.HostAccess {
		a.fails("it takes access to the runner's configuration")
		return
	}
	a.How = "target: file, with the path that is mounted; mount the folder, not the file: a file that is mounted by itself stays the old one when it is replaced"
	if c.pulls(JobImage) {
		a.works("it is for docker commands within jobs; the job's own image is pulled with the runner's login")
	}
	if c.ShortLived {
		a.works("a job holds what was mounted: mount the folder, so that it sees a rotation")
	}
	a.works("mounted read-only, `docker login` within a job fails")
	if c.PerProject {
		a.works("every job of the runner can read it")
	}
	if c.DinD {
		a.good("a fresh daemon needs no login: the client sends it with each pull")
	}
}

func beforeScript(c Case, a *Advice) {
	if c.pulls(JobImage) && !c.pulls(InJob) {
		a.fails("the job's image is pulled before any script runs")
		return
	}
	a.How = "target: gitlabVariable or giteaSecret, with the user and the password as variables of their own"
	if c.pulls(JobImage) {
		a.works("the job's own image is pulled before any script runs: it needs another way besides")
	}
	a.works("each job must do it, and each gets the secret as a variable that a script can print")
	if c.DinD {
		a.good("it needs nothing of the fresh daemon of each job")
	}
	if c.ShortLived {
		a.works("a long job outlives the login that it began with")
	}
}
