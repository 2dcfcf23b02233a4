// Package scene gathers what a client finds around it: on this machine, in a
// container of a pod, and what a kubelet knows of a pod.
//
// It owns the looking. It refuses to change anything, and to say what a client
// makes of it: that is package consumer's.
package scene

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// Here is what a client of this process's user finds on this machine. Helpers are
// run when they are asked, unless offline.
func Here(ctx context.Context, offline bool) consumer.Surroundings {
	home, _ := os.UserHomeDir()
	dir, _ := os.Getwd()
	around := consumer.Surroundings{
		Env: Variables(os.Environ()), Home: home, UID: os.Getuid(), Dir: dir,
		ReadFile: os.ReadFile, DefaultStore: defaultStore(),
	}
	if !offline {
		around.Helpers = programs{ctx}
	}
	return around
}

// Variables are an environment as it is handed to programs, by name.
func Variables(environ []string) map[string]string {
	byName := map[string]string{}
	for _, line := range environ {
		if name, value, ok := strings.Cut(line, "="); ok {
			byName[name] = value
		}
	}
	return byName
}

// defaultStore is the helper that the docker CLI takes on Linux when no login is
// configured: cli/config/credentials.DetectDefaultStore.
func defaultStore() string {
	store := "secretservice"
	if _, err := exec.LookPath("pass"); err == nil {
		store = "pass"
	}
	if _, err := exec.LookPath("docker-credential-" + store); err != nil {
		return ""
	}
	return store
}

// WithJob adds the variables of a job: what GitLab or Actions hand to it. Within the
// job they are the environment of its clients too; the runner's own is another.
func WithJob(around consumer.Surroundings, variables map[string]string, within bool) consumer.Surroundings {
	if within {
		env := maps.Clone(around.Env)
		if env == nil {
			env = map[string]string{}
		}
		maps.Copy(env, variables)
		around.Env = env
		if home := variables["HOME"]; home != "" {
			around.Home = home
		}
	}
	around.Job.Variables, around.Job.Secrets = variables, variables
	if host := variables["CI_REGISTRY"]; host != "" {
		around.Job.Payload = append(around.Job.Payload, consumer.Payload{
			Type: "registry", URL: host, Username: variables["CI_REGISTRY_USER"],
			Password: credential.NewSecret(variables["CI_REGISTRY_PASSWORD"]),
		})
	}
	return around
}

// named is the beginning of a line that sets a variable.
var named = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// ParseJob reads what env prints, or env -0: the variables of a job. A line that sets
// none goes on with the value before it. Nothing is expanded. It says whether the text
// is that at all.
func ParseJob(text string) (variables map[string]string, ok bool) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if strings.Contains(text, "\x00") {
		lines = strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
	}
	variables = map[string]string{}
	last := ""
	for _, line := range lines {
		line = strings.TrimSuffix(line, "\r")
		switch {
		case named.MatchString(line):
			name, value, _ := strings.Cut(line, "=")
			last = name
			variables[name] = value
		case last != "":
			variables[last] += "\n" + line
		case line != "" && !strings.HasPrefix(line, "#"):
			return nil, false
		}
	}
	return variables, true
}

// patience is how long a helper may take.
const patience = 15 * time.Second

// programs are the helpers on PATH.
type programs struct{ ctx context.Context } //nolint:containedctx // the port has none

// program is one run of a helper.
type program struct {
	*exec.Cmd
	end context.CancelFunc
	err *error
}

func (p program) Input(in io.Reader) { p.Stdin = in }

func (p program) Output() ([]byte, error) {
	defer p.end()
	out, err := p.Cmd.Output()
	*p.err = err
	return out, err
}

// run makes the runs of a helper, and notes how the last one ended.
func (p programs) run(name string, ended *error) client.ProgramFunc {
	return func(args ...string) client.Program {
		ctx, end := context.WithTimeout(p.ctx, patience)
		cmd := exec.CommandContext(ctx, "docker-credential-"+name, args...)
		// Who holds its output open does not hold us up.
		cmd.WaitDelay = time.Second
		return program{cmd, end, ended}
	}
}

var errSilent = fmt.Errorf("it gave no answer in %s", patience)

func (p programs) Get(name, server string) (username, secret string, err error) {
	var ended error
	found, err := client.Get(p.run(name, &ended), server)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return "", "", consumer.ErrNoLogin
	case err != nil:
		return "", "", told(name, ended)
	}
	return found.Username, found.Secret, nil
}

func (p programs) List(name string) ([]string, error) {
	var ended error
	found, err := client.List(p.run(name, &ended))
	if err != nil {
		return nil, told(name, ended)
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// told is how a helper ended. What it said is not told: it says why it fails on
// standard output, where a login would be (docker-credential-helpers, client.Get).
func told(name string, ended error) error {
	if exit, ok := errors.AsType[*exec.ExitError](ended); ok && exit.ExitCode() >= 0 {
		return fmt.Errorf("docker-credential-%s ended with exit code %d; run by hand it says why", name, exit.ExitCode())
	}
	switch {
	case errors.Is(ended, exec.ErrNotFound):
		return fmt.Errorf("docker-credential-%s: %w", name, exec.ErrNotFound)
	case ended == nil:
		return fmt.Errorf("docker-credential-%s answered with something that is no login", name)
	}
	return fmt.Errorf("docker-credential-%s: %w", name, errSilent)
}

// missing is the exit code of the command that reads a file, for one that is not
// there.
const missing = 44

// readScript prints a file. It takes its name as an argument.
const readScript = `if [ -e "$1" ] || [ -L "$1" ]; then exec cat -- "$1"; else exit 44; fi`

// Container is what a client finds in a running container. Helpers are not asked.
func Container(ctx context.Context, cluster *kube.Cluster, pod types.NamespacedName, container string) (consumer.Surroundings, error) {
	run := func(argv ...string) (kube.Output, error) {
		out, err := cluster.Executor.Exec(ctx, kube.Command{Pod: pod, Container: container, Argv: argv})
		if err != nil {
			return out, kube.Problem(err, "look into the container of pod %s", pod)
		}
		return out, nil
	}
	out, err := run("env")
	if err != nil {
		return consumer.Surroundings{}, err
	}
	around := consumer.Surroundings{Env: Variables(strings.Split(string(out.Stdout), "\n")), Dir: "/"}
	if around.Home = around.Env["HOME"]; around.Home == "" {
		around.Home = "/root"
	}
	around.ReadFile = func(path string) ([]byte, error) {
		out, err := run("sh", "-c", readScript, "sh", path)
		switch {
		case err != nil:
			return nil, err
		case out.Code == missing:
			return nil, fmt.Errorf("read %s: %w", path, fs.ErrNotExist)
		case out.Code != 0:
			return nil, fmt.Errorf("read %s: %s", path, strings.TrimSpace(string(out.Stderr)))
		case out.More:
			return nil, fmt.Errorf("read %s: it is larger than %d bytes", path, kube.MaxStdout)
		}
		return out.Stdout, nil
	}
	return around, nil
}

// Pod is a pod as far as its images' logins go.
type Pod struct {
	consumer.Surroundings
	// Images are those of its containers, in order, each once.
	Images []string
	// PullPolicy is that of each image, Present those that the node has.
	PullPolicy map[string]string
	Present    map[string]bool
	// PullSecrets are the names under imagePullSecrets.
	PullSecrets []string
	// DockerHost is DOCKER_HOST of its containers, as far as the pod says.
	DockerHost string
}

// OfPod is what a kubelet knows of a pod: its pull Secrets. The node's own file and
// its plugins cannot be seen from here.
func OfPod(ctx context.Context, cluster *kube.Cluster, name types.NamespacedName) (Pod, error) {
	pod, err := cluster.Core.Pods(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Pod{}, problem.Wrap(err, problem.NotFound, "name it as namespace/name", "there is no pod %s", name)
	}
	if err != nil {
		return Pod{}, kube.Problem(err, "read pod %s", name)
	}
	found := Pod{PullPolicy: map[string]string{}, Present: map[string]bool{}}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if _, known := found.PullPolicy[c.Image]; !known {
			found.Images = append(found.Images, c.Image)
		}
		found.PullPolicy[c.Image] = string(c.ImagePullPolicy)
		for _, env := range c.Env {
			if env.Name == "DOCKER_HOST" && env.Value != "" {
				found.DockerHost = env.Value
			}
		}
	}
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if s.ImageID != "" {
			found.Present[s.Image] = true
		}
	}
	for _, ref := range pod.Spec.ImagePullSecrets {
		found.PullSecrets = append(found.PullSecrets, ref.Name)
		secret, err := pullSecret(ctx, cluster, types.NamespacedName{Namespace: name.Namespace, Name: ref.Name})
		if err != nil {
			return Pod{}, err
		}
		found.Pod.Secrets = append(found.Pod.Secrets, secret)
	}
	return found, nil
}

func pullSecret(ctx context.Context, cluster *kube.Cluster, name types.NamespacedName) (consumer.PullSecret, error) {
	read, err := cluster.Core.Secrets(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	found := consumer.PullSecret{Namespace: name.Namespace, Name: name.Name}
	switch {
	case apierrors.IsNotFound(err):
		found.Missing = true
	case err != nil:
		return found, kube.Problem(err, "read Secret %s", name)
	default:
		found.Type, found.Data = string(read.Type), read.Data
	}
	return found, nil
}

// OfSecret is what a kubelet knows of a pod that names one pull Secret.
func OfSecret(ctx context.Context, cluster *kube.Cluster, name types.NamespacedName) (consumer.Surroundings, error) {
	secret, err := pullSecret(ctx, cluster, name)
	if err != nil {
		return consumer.Surroundings{}, err
	}
	return consumer.Surroundings{Pod: consumer.Pod{Secrets: []consumer.PullSecret{secret}}}, nil
}

// ContainerOf is the container that is meant: the one that is named, the pod's
// default one, or its only one.
func ContainerOf(ctx context.Context, cluster *kube.Cluster, name types.NamespacedName, wanted string) (string, error) {
	pod, err := cluster.Core.Pods(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	if err != nil {
		return "", kube.Problem(err, "read pod %s", name)
	}
	if wanted == "" {
		wanted = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	names := make([]string, 0, len(pod.Spec.Containers))
	for _, c := range pod.Spec.Containers {
		if c.Name == wanted || wanted == "" && len(pod.Spec.Containers) == 1 {
			return c.Name, nil
		}
		names = append(names, c.Name)
	}
	return "", problem.New(problem.Usage, "name one with --container: "+strings.Join(names, ", "), "pod %s has several containers", name)
}
