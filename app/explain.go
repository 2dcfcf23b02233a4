package app

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/explain"
	"github.com/regkeeper/regkeeper/explain/place"
	"github.com/regkeeper/regkeeper/explain/scene"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/trial"
	"github.com/regkeeper/regkeeper/runner/gitlab"
	"github.com/regkeeper/regkeeper/runnerconfig"
)

// The clients that are meant when none is named.
const (
	clientHere      = "docker"
	clientKubelet   = "kubelet"
	clientK3s       = "k3s"
	clientContainer = "gitea-runner"
	clientGitLab    = "gitlab-runner"
)

// Question is what is to be explained.
type Question struct {
	// Image may be empty with Pod: the pod's own.
	Image string
	// As are the clients; none for the one that the place is for. All means all
	// that the place can be asked about.
	As  []string
	All bool
	// DockerConfig is a file that is read in place of the client's own.
	DockerConfig string
	// Target is a target of the configuration, Pod a pod, Container one of its
	// containers.
	Target    string
	Pod       types.NamespacedName
	Container string
	// Job are the variables of a CI job; nil for none.
	Job map[string]string
	// Offline asks no registry and no helper.
	Offline bool
	// Insecure allows plain HTTP.
	Insecure bool
}

// Explanation is one client's way with an image in one place.
type Explanation struct {
	Client consumer.Consumer
	// Place is where the client runs, as people know it.
	Place    string
	Decision consumer.Decision
	Trials   []trial.Trial
	// Diagnoses are what follows, the worst first.
	Diagnoses []explain.Diagnosis
	// Notes say what could not be seen.
	Notes []string
}

// spot is a place to explain.
type spot struct {
	place  string
	client string
	// clients are those that it can be asked about; none for all.
	clients []string
	images  []string
	// elsewhere says that the place is not on this machine, from which the registry
	// is asked.
	elsewhere bool
	around    consumer.Surroundings
	facts     func(image string, d consumer.Decision) explain.Facts
	notes     []string
}

// Explain says which login clients take for an image, tries it, and says what
// follows. Nothing is changed anywhere.
func Explain(ctx context.Context, c config.Config, data *Data, q Question) ([]Explanation, error) {
	for _, name := range q.As {
		if _, err := consumer.Find(name); err != nil {
			return nil, err
		}
	}
	spots, err := spots(ctx, c, data, q)
	if err != nil {
		return nil, err
	}
	for _, name := range q.As {
		if !slices.ContainsFunc(spots, func(s spot) bool { return s.able(name) }) {
			return nil, problem.New(problem.Usage, "clients there: "+strings.Join(spots[0].clients, ", "), "%s does not look at %s", name, spots[0].place)
		}
	}
	tries := map[string]*trial.Trier{}
	var all []Explanation
	for _, s := range spots {
		if q.Image != "" {
			s.images = []string{q.Image}
		}
		if len(s.images) == 0 {
			return nil, problem.New(problem.Usage, "regkeeper explain IMAGE", "which image is meant is not said")
		}
		for _, client := range s.chosen(q) {
			for _, image := range s.images {
				e, err := explained(ctx, c, q, s, client, image, tries)
				if err != nil {
					return nil, err
				}
				all = append(all, e)
			}
		}
	}
	return all, nil
}

// able says whether the place can be asked about a client.
func (s spot) able(name string) bool { return s.clients == nil || slices.Contains(s.clients, name) }

// chosen are the clients that are meant there.
func (s spot) chosen(q Question) (chosen []consumer.Consumer) {
	names := q.As
	if len(names) == 0 {
		names = []string{s.client}
	}
	for _, client := range consumer.All() {
		if s.able(client.Name) && (q.All || slices.Contains(names, client.Name)) {
			chosen = append(chosen, client)
		}
	}
	return chosen
}

// inJob are the clients that run in jobs and on build hosts, with a config.json.
func inJob() (names []string) {
	for _, client := range consumer.All() {
		if client.InJob {
			names = append(names, client.Name)
		}
	}
	return names
}

// trust is how the registry of an image is spoken to on this machine: with the
// authorities that Docker was told of for it, and by plain HTTP where it was told so
// (docker docs: engine/security/certificates, daemon.json).
func trust(host credential.Host) (config trial.Config, insecure bool) {
	found, _ := filepath.Glob(filepath.Join(dockerFolder, "certs.d", string(host), "*.crt"))
	if len(found) > 0 {
		var files [][]byte
		for _, path := range found {
			if text, err := os.ReadFile(path); err == nil {
				files = append(files, text)
			}
		}
		config.TLS, _ = trustingTLS(files...) // without a certificate, the system's count
	}
	var daemon struct {
		Insecure []string `json:"insecure-registries"`
	}
	if text, err := os.ReadFile(filepath.Join(dockerFolder, "daemon.json")); err == nil && json.Unmarshal(text, &daemon) == nil {
		insecure = slices.Contains(daemon.Insecure, string(host))
	}
	return config, insecure
}

// dockerFolder is where Docker's daemon is told of registries.
const dockerFolder = "/etc/docker"

func explained(ctx context.Context, c config.Config, q Question, s spot, client consumer.Consumer, image string, tries map[string]*trial.Trier) (Explanation, error) {
	around := s.around
	if q.Job != nil {
		around = scene.WithJob(around, q.Job, client.InJob)
	}
	decision, err := client.Decide(image, around)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Client: client, Place: s.place, Decision: decision, Notes: s.notes}
	facts := s.facts(image, decision)
	if !q.Offline {
		trusting, insecure := trust(decision.Host)
		insecure = insecure || q.Insecure
		for _, r := range c.Registries {
			insecure = insecure || r.Host == decision.Host && r.Insecure
		}
		trier := tries[string(decision.Host)]
		if trier == nil {
			trier = trial.New(trusting)
			tries[string(decision.Host)] = trier
		}
		if facts.Trials, err = trier.TryAll(ctx, decision, trial.Options{Insecure: insecure}); err != nil {
			return Explanation{}, err
		}
		e.Trials = facts.Trials
		if s.elsewhere {
			e.Notes = append(slices.Clone(e.Notes), "the registry was asked from this machine: names, proxies and certificates may be others there")
		}
	}
	e.Diagnoses = explain.Diagnose(decision, facts)
	return e, nil
}

// spots are the places that the question is about.
func spots(ctx context.Context, c config.Config, data *Data, q Question) ([]spot, error) {
	switch {
	case q.Target != "":
		return targetSpots(ctx, c, data, q)
	case q.Pod.Name != "":
		cluster, err := data.clusters.own()
		if err != nil {
			return nil, err
		}
		return podSpots(ctx, cluster, q)
	}
	return []spot{hereSpot(ctx, q, "this machine", clientHere, q.DockerConfig)}, nil
}

func hereSpot(ctx context.Context, q Question, where, client, file string) spot {
	around := scene.Here(ctx, q.Offline)
	around.DockerConfig = file
	path := around.Env["CONFIG_FILE"]
	if path == "" {
		path, _ = gitlab.DefaultPath()
	}
	notes := ofRunners(&around, path)
	return spot{place: where, client: client, around: around, notes: notes, facts: func(_ string, d consumer.Decision) explain.Facts {
		return explain.Facts{DockerHost: around.Env["DOCKER_HOST"], Places: place.Of(d)}
	}}
}

// gitlabFile is where GitLab Runner has its configuration in containers.
const gitlabFile = "/etc/gitlab-runner/config.toml"

// ofRunners adds what a config.toml of GitLab Runner hands to jobs, if there is one.
// Of several runners it is that of the first which has it.
func ofRunners(around *consumer.Surroundings, path string) (notes []string) {
	text, err := around.ReadFile(path)
	if err != nil {
		return nil
	}
	doc, err := runnerconfig.Parse(text)
	if err != nil {
		return []string{path + " is left out: " + err.Error()}
	}
	found := ""
	for _, r := range doc.Runners() {
		value, ok := r.Variable(credential.AuthVariable)
		switch {
		case !ok || around.Job.Environment[credential.AuthVariable] == value:
		case found == "":
			found, around.Job.Environment = r.Name, map[string]string{credential.AuthVariable: value}
		default:
			notes = append(notes, "runner "+r.Name+" of "+path+" has another "+credential.AuthVariable+" than "+found+", which is the one looked at")
		}
	}
	return notes
}

// podSpots are a pod as its kubelet sees it, and as clients in its container do.
func podSpots(ctx context.Context, cluster *kube.Cluster, q Question) ([]spot, error) {
	pod, err := scene.OfPod(ctx, cluster, q.Pod)
	if err != nil {
		return nil, err
	}
	var spots []spot
	if q.All || len(q.As) == 0 || slices.Contains(q.As, clientKubelet) {
		s := spot{
			place: "pod " + q.Pod.String(), client: clientKubelet, clients: []string{clientKubelet}, images: pod.Images, around: pod.Surroundings, elsewhere: true,
			notes: []string{"the node's own config.json and its credential provider plugins cannot be seen from here"},
		}
		s.facts = func(image string, _ consumer.Decision) explain.Facts {
			return explain.Facts{Present: pod.Present[image], PullPolicy: pod.PullPolicy[image]}
		}
		spots = append(spots, s)
	}
	others := slices.DeleteFunc(slices.Clone(q.As), func(name string) bool { return name == clientKubelet })
	if len(others) == 0 && (!q.All || q.Image == "") {
		return spots, nil
	}
	s, err := containerSpot(ctx, cluster, pod, q)
	return append(spots, s), err
}

// containerSpot is what clients in a pod's container find.
func containerSpot(ctx context.Context, cluster *kube.Cluster, pod scene.Pod, q Question) (spot, error) {
	container, err := scene.ContainerOf(ctx, cluster, q.Pod, q.Container)
	if err != nil {
		return spot{}, err
	}
	s := spot{
		place: "pod " + q.Pod.String() + " container " + container, client: clientContainer, elsewhere: true,
		clients: append(inJob(), "gitea-runner", "forgejo-runner", "act", clientGitLab),
		notes:   []string{"credential helpers in the container are not asked"},
	}
	if s.around, err = scene.Container(ctx, cluster, q.Pod, container); err != nil {
		return spot{}, err
	}
	s.around.DockerConfig = q.DockerConfig
	s.notes = append(s.notes, ofRunners(&s.around, gitlabFile)...)
	facts := explain.Facts{DockerHost: s.around.Env["DOCKER_HOST"], PullSecrets: pod.PullSecrets}
	s.facts = func(string, consumer.Decision) explain.Facts { return facts }
	return s, nil
}

// targetSpots are the places of a target.
func targetSpots(ctx context.Context, c config.Config, data *Data, q Question) ([]spot, error) {
	var names []string
	for _, t := range c.Targets {
		names = append(names, t.Name)
		if t.Name != q.Target {
			continue
		}
		reader := newSecretReader(data.clusters)
		made, _, err := targets(t, data, transport.New(transport.Config{Retries: httpRetries}), reader)
		if err != nil {
			return nil, err
		}
		hosts := targetHosts(c, t)
		var spots []spot
		for _, n := range made {
			n.hosts = hosts
			places, err := n.Places(ctx)
			if err != nil {
				return nil, err
			}
			for _, place := range places {
				s, err := placeSpot(ctx, t, n, data, place, q)
				if err != nil {
					return nil, err
				}
				spots = append(spots, s)
			}
		}
		if len(spots) == 0 {
			return nil, problem.New(problem.NotFound, "see regkeeper status", "target %s has no place now", q.Target)
		}
		return spots, nil
	}
	return nil, problem.New(problem.NotFound, "targets: "+strings.Join(names, ", "), "there is no target %q", q.Target)
}

// targetHosts are the registries whose logins go to a target.
func targetHosts(c config.Config, t config.Target) []credential.Host {
	if len(t.Registries) > 0 {
		return t.Registries
	}
	hosts := make([]credential.Host, len(c.Registries))
	for i, r := range c.Registries {
		hosts[i] = r.Host
	}
	return hosts
}

func placeSpot(ctx context.Context, t config.Target, n named, data *Data, at credential.Place, q Question) (spot, error) {
	where := "target " + n.name + " " + string(at)
	switch {
	case t.File != nil && t.File.Format == config.FormatK3s:
		s := hereSpot(ctx, q, where, clientK3s, string(at))
		s.clients = []string{clientK3s}
		return s, nil
	case t.File != nil:
		s := hereSpot(ctx, q, where, clientHere, string(at))
		s.clients = append(inJob(), "gitea-runner", "forgejo-runner", "act", clientGitLab, "gitlab-runner-kubernetes", clientKubelet)
		return s, nil
	case t.Secrets != nil:
		cluster, err := clusterOf(t, n, data)
		if err != nil {
			return spot{}, err
		}
		around, err := scene.OfSecret(ctx, cluster, types.NamespacedName{Namespace: string(at), Name: t.Secrets.Name})
		return spot{
			place: where, client: clientKubelet, clients: []string{clientKubelet}, elsewhere: true, around: around, facts: func(string, consumer.Decision) explain.Facts { return explain.Facts{} },
			notes: []string{"other pull Secrets that a pod names, the node's config.json and its plugins are not looked at"},
		}, err
	case t.Pods != nil:
		cluster, err := clusterOf(t, n, data)
		if err != nil {
			return spot{}, err
		}
		parts := strings.SplitN(string(at), "/", 3)
		if len(parts) < 3 {
			return spot{}, problem.New(problem.NotFound, "see regkeeper status", "place %s is no container", at)
		}
		inside := q
		inside.Pod = types.NamespacedName{Namespace: parts[0], Name: parts[1]}
		inside.Container, _, _ = strings.Cut(parts[2], ":")
		if inside.DockerConfig == "" && filepath.IsAbs(t.Pods.Path) {
			inside.DockerConfig = t.Pods.Path
		}
		pod, err := scene.OfPod(ctx, cluster, inside.Pod)
		if err != nil {
			return spot{}, err
		}
		s, err := containerSpot(ctx, cluster, pod, inside)
		s.place = where
		return s, err
	}
	return heldSpot(ctx, t, n, at, where)
}

// heldSpot is a place of which only the logins are known: what a client finds
// there is made of them.
func heldSpot(ctx context.Context, t config.Target, n named, at credential.Place, where string) (spot, error) {
	if _, ok := n.Target.(credential.Recognizer); ok {
		return spot{}, problem.New(problem.Usage, "explain a place that can be read", "what target %s holds cannot be read back", t.Name)
	}
	held, err := n.Held(ctx, at, n.hosts)
	if err != nil {
		return spot{}, err
	}
	doc, err := dockerconfig.Parse(nil)
	if err != nil {
		return spot{}, err
	}
	for host, login := range held {
		doc.Set(host, login)
	}
	const file = "/config.json"
	s := spot{
		place: where, client: clientHere, clients: inJob(), elsewhere: true,
		facts: func(string, consumer.Decision) explain.Facts { return explain.Facts{} },
		notes: []string{"of what is there, only the logins for the registries of the configuration are looked at"},
	}
	given := map[string]string{credential.AuthVariable: string(doc.Bytes())}
	switch {
	case t.GitLabVariable != nil:
		s.client, s.clients = clientGitLab, append(s.clients, clientGitLab, "gitlab-runner-kubernetes")
		s.around.Job.Variables, s.around.Env = given, given
	case t.RunnerConfig != nil:
		// The variable is set within the jobs too.
		s.client, s.clients = clientGitLab, append(s.clients, clientGitLab, "gitlab-runner-kubernetes")
		s.around.Job.Environment, s.around.Env, s.elsewhere = given, given, false
	case t.GiteaSecret != nil:
		s.around.Env = given
	default:
		s.around.DockerConfig = file
		s.around.ReadFile = func(name string) ([]byte, error) {
			if name != file {
				return nil, fs.ErrNotExist
			}
			return doc.Bytes(), nil
		}
	}
	return s, nil
}

// clusterOf is the cluster of one of a target's parts.
func clusterOf(t config.Target, n named, data *Data) (*kube.Cluster, error) {
	_, context, _ := strings.Cut(n.name, "@")
	for _, which := range t.Clusters {
		if which.Context == context {
			return data.clusters.get(which)
		}
	}
	return data.clusters.own()
}
