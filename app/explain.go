package app

import (
	"context"
	"io/fs"
	"path/filepath"
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
	// As are the clients; none for the one that the place is for.
	As []string
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
	images []string
	around consumer.Surroundings
	facts  func(image string, d consumer.Decision) explain.Facts
	notes  []string
}

// Explain says which login clients take for an image, tries it, and says what
// follows. Nothing is changed anywhere.
func Explain(ctx context.Context, c config.Config, data *Data, q Question) ([]Explanation, error) {
	spots, err := spots(ctx, c, data, q)
	if err != nil {
		return nil, err
	}
	var all []Explanation
	for _, s := range spots {
		clients := q.As
		if len(clients) == 0 {
			clients = []string{s.client}
		}
		if q.Image != "" {
			s.images = []string{q.Image}
		}
		if len(s.images) == 0 {
			return nil, problem.New(problem.Usage, "regkeeper explain IMAGE", "which image is meant is not said")
		}
		for _, name := range clients {
			client, err := consumer.Find(name)
			if err != nil {
				return nil, err
			}
			for _, image := range s.images {
				e, err := explained(ctx, c, q, s, client, image)
				if err != nil {
					return nil, err
				}
				all = append(all, e)
			}
		}
	}
	return all, nil
}

func explained(ctx context.Context, c config.Config, q Question, s spot, client consumer.Consumer, image string) (Explanation, error) {
	decision, err := client.Decide(image, s.around)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Client: client, Place: s.place, Decision: decision, Notes: s.notes}
	facts := s.facts(image, decision)
	if !q.Offline {
		insecure := q.Insecure
		for _, r := range c.Registries {
			insecure = insecure || r.Host == decision.Host && r.Insecure
		}
		if facts.Trials, err = trial.New(trial.Config{}).TryAll(ctx, decision, trial.Options{Insecure: insecure}); err != nil {
			return Explanation{}, err
		}
		e.Trials = facts.Trials
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
		s, err := podSpot(ctx, cluster, q)
		return []spot{s}, err
	}
	return []spot{hereSpot(q, "this machine", clientHere, q.DockerConfig)}, nil
}

func hereSpot(q Question, where, client, file string) spot {
	around := scene.Here(q.Offline)
	around.DockerConfig = file
	if q.Job != nil {
		around = scene.WithJob(around, q.Job)
	}
	return spot{place: where, client: client, around: around, facts: func(_ string, d consumer.Decision) explain.Facts {
		return explain.Facts{DockerHost: around.Env["DOCKER_HOST"], Places: place.Of(d)}
	}}
}

// podSpot is a pod: as its kubelet sees it, or as a client in its container does.
func podSpot(ctx context.Context, cluster *kube.Cluster, q Question) (spot, error) {
	pod, err := scene.OfPod(ctx, cluster, q.Pod)
	if err != nil {
		return spot{}, err
	}
	s := spot{place: "pod " + q.Pod.String(), client: clientKubelet, images: pod.Images, around: pod.Surroundings}
	s.facts = func(image string, _ consumer.Decision) explain.Facts {
		return explain.Facts{Present: pod.Present[image], PullPolicy: pod.PullPolicy[image]}
	}
	inside := len(q.As) > 0
	for _, as := range q.As {
		inside = inside && as != clientKubelet
	}
	if !inside {
		s.notes = []string{"the node's own config.json and its credential provider plugins cannot be seen from here"}
		return s, nil
	}
	container, err := scene.ContainerOf(ctx, cluster, q.Pod, q.Container)
	if err != nil {
		return spot{}, err
	}
	if s.around, err = scene.Container(ctx, cluster, q.Pod, container); err != nil {
		return spot{}, err
	}
	s.place += " container " + container
	s.around.DockerConfig = q.DockerConfig
	if q.Job != nil {
		s.around = scene.WithJob(s.around, q.Job)
	}
	s.facts = func(string, consumer.Decision) explain.Facts {
		return explain.Facts{DockerHost: s.around.Env["DOCKER_HOST"], PullSecrets: pod.PullSecrets}
	}
	s.images = nil
	s.notes = []string{"credential helpers in the container are not asked"}
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
		reader := &secretReader{clusters: data.clusters, mirrors: map[types.NamespacedName]*kube.Mirror[map[string][]byte]{}}
		made, _, err := targets(t, data, transport.New(transport.Config{Retries: httpRetries}), reader)
		if err != nil {
			return nil, err
		}
		hosts := t.Registries
		if len(hosts) == 0 {
			for _, r := range c.Registries {
				hosts = append(hosts, r.Host)
			}
		}
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

func placeSpot(ctx context.Context, t config.Target, n named, data *Data, at credential.Place, q Question) (spot, error) {
	where := "target " + n.name + " " + string(at)
	switch {
	case t.File != nil && t.File.Format == config.FormatK3s:
		s := hereSpot(q, where, clientK3s, "")
		s.around = consumer.Elsewhere(s.around, consumer.K3sFile, string(at))
		return s, nil
	case t.File != nil:
		return hereSpot(q, where, clientHere, string(at)), nil
	case t.Secrets != nil:
		cluster, err := clusterOf(t, n, data)
		if err != nil {
			return spot{}, err
		}
		around, err := scene.OfSecret(ctx, cluster, types.NamespacedName{Namespace: string(at), Name: t.Secrets.Name})
		return spot{
			place: where, client: clientKubelet, around: around, facts: func(string, consumer.Decision) explain.Facts { return explain.Facts{} },
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
		if len(inside.As) == 0 {
			inside.As = []string{clientContainer}
		}
		if inside.DockerConfig == "" && filepath.IsAbs(t.Pods.Path) {
			inside.DockerConfig = t.Pods.Path
		}
		s, err := podSpot(ctx, cluster, inside)
		s.place, s.client = where, clientContainer
		return s, err
	}
	return heldSpot(ctx, t, n, at, q, where)
}

// heldSpot is a place of which only the logins are known: what a client finds
// there is made of them.
func heldSpot(ctx context.Context, t config.Target, n named, at credential.Place, q Question, where string) (spot, error) {
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
		place: where, client: clientHere, facts: func(string, consumer.Decision) explain.Facts { return explain.Facts{} },
		notes: []string{"of what is there, only the logins for the registries of the configuration are looked at"},
	}
	given := map[string]string{consumer.Variable: string(doc.Bytes())}
	switch {
	case t.GitLabVariable != nil:
		s.client, s.around.Job.Variables = clientGitLab, given
	case t.RunnerConfig != nil:
		s.client, s.around.Job.Environment = clientGitLab, given
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
	if q.Job != nil {
		s.around = scene.WithJob(s.around, q.Job)
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
