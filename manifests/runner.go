package manifests

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/regkeeper/regkeeper/problem"
)

// Runner says what a Gitea runner is like.
type Runner struct {
	// Namespace and Name are those of the StatefulSet; gitea and act-runner if
	// empty.
	Namespace, Name string
	// Instance is the URL of the Gitea server.
	Instance string
	// TokenSecret is a Secret of the namespace with the registration token under
	// the key TokenKey; token if that is empty.
	TokenSecret, TokenKey string
	// Labels say which jobs it takes, and in what: NAME:docker://IMAGE or
	// NAME:host.
	Labels   []string
	Replicas int32
	// Image and DindImage are those of the runner and of the Docker daemon beside
	// it; the ones that were tried if empty.
	Image, DindImage string
	// Storage is the size of the volume on which a runner keeps its registration,
	// 1Gi if empty; StorageClass is the cluster's default if empty.
	Storage, StorageClass string
}

// The defaults of a runner.
const (
	RunnerImage     = "docker.io/gitea/runner:1.0.8"
	RunnerDindImage = "docker.io/library/docker:29.5.2-dind"
	RunnerLabel     = "ubuntu-latest:docker://docker.gitea.com/runner-images:ubuntu-latest"
	RunnerApp       = "actions-act-runner"
)

const (
	runnerContainer = "act-runner"
	runnerConfig    = "/root/.docker/config.json"
	certFolder      = "/certs"
	certClient      = "client"
)

func (r Runner) defaults() Runner {
	r.Namespace = cmp.Or(r.Namespace, "gitea")
	r.Name = cmp.Or(r.Name, "act-runner")
	r.TokenKey = cmp.Or(r.TokenKey, "token")
	r.Replicas = cmp.Or(r.Replicas, 1)
	r.Image = cmp.Or(r.Image, RunnerImage)
	r.DindImage = cmp.Or(r.DindImage, RunnerDindImage)
	r.Storage = cmp.Or(r.Storage, "1Gi")
	if len(r.Labels) == 0 {
		r.Labels = []string{RunnerLabel}
	}
	return r
}

func (r Runner) check() error {
	usage := func(hint, format string, args ...any) error { return problem.New(problem.Usage, hint, format, args...) }
	if u, err := url.Parse(r.Instance); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return usage("write it as https://gitea.example.com", "the instance is no URL, or has a login in it")
	}
	for what, name := range map[string]string{"namespace": r.Namespace, "name": r.Name} {
		if len(validation.IsDNS1123Label(name)) > 0 {
			return usage("write lower-case letters, digits and -", "%s %q is none", what, name)
		}
	}
	if len(validation.IsDNS1123Subdomain(r.TokenSecret)) > 0 {
		return usage("name the Secret that holds the registration token", "%q is no name of a Secret", r.TokenSecret)
	}
	if len(validation.IsConfigMapKey(r.TokenKey)) > 0 {
		return usage("name a key of that Secret", "%q is no key of a Secret", r.TokenKey)
	}
	for _, label := range r.Labels {
		name, how, _ := strings.Cut(label, ":")
		// The runner's own script splits them at spaces, the runner at commas.
		if name == "" || strings.ContainsAny(label, " ,\t\n") || how != "host" && (!strings.HasPrefix(how, "docker://") || how == "docker://") {
			return usage("write it as NAME:docker://IMAGE or NAME:host", "label %q is none", label)
		}
	}
	if r.Replicas < 1 {
		return usage("give 1 or more", "%d replicas do nothing", r.Replicas)
	}
	if size, err := resource.ParseQuantity(r.Storage); err != nil || size.Sign() <= 0 {
		return usage("write it as 1Gi", "storage %q is no size", r.Storage)
	}
	return nil
}

// GiteaRunner is a StatefulSet of Gitea runners, each with a Docker daemon of
// its own. The error is a problem of kind [problem.Usage].
func GiteaRunner(r Runner) (Set, error) {
	r = r.defaults()
	if err := r.check(); err != nil {
		return Set{}, err
	}
	set := Set{
		Objects: []runtime.Object{r.serviceAccount(), r.statefulSet()},
		Notes: []string{fmt.Sprintf("The runners register with the token in a Secret. Gitea shows one under Settings, Actions, Runners:\n"+
			"  kubectl -n %s create secret generic %s --from-file=%s=FILE", r.Namespace, r.TokenSecret, r.TokenKey)},
	}
	set.Notes = append(set.Notes, fmt.Sprintf("The Docker daemon is privileged: a namespace that enforces a Pod Security Standard must let it in:\n"+
		"  kubectl label namespace %s pod-security.kubernetes.io/enforce=privileged", r.Namespace))
	for _, label := range r.Labels {
		if name, ok := strings.CutSuffix(label, ":host"); ok {
			set.Notes = append(set.Notes, fmt.Sprintf("Jobs for label %s run in the container %s itself: give with --image one that has what they call, such as docker and node. They use the same login.", name, runnerContainer))
		}
	}
	return set, nil
}

// Target is the part of regkeeper's configuration that keeps the runners logged
// in.
func (r Runner) Target() string {
	r = r.defaults()
	return fmt.Sprintf(`targets:
  - name: runners
    pods:
      namespace: %s
      selector: %s=%s,%s=%s
      container: %s
      path: %s
`, r.Namespace, labelName, RunnerApp, labelInstance, r.Name, runnerContainer, runnerConfig)
}

// RunnerComment stands above the objects: how the runners come by their logins.
func (r Runner) RunnerComment() string {
	return "Gitea runners with a Docker daemon each, as `regkeeper install gitea-runner` prints them.\n\n" +
		"They log in to registries by the config.json that regkeeper keeps in the container\n" +
		runnerContainer + ", where the runner looks when it pulls the image of a job. Add to regkeeper's\n" +
		"configuration, and apply `regkeeper install kubernetes` again for the rights:\n\n" +
		r.Target() +
		"\nRunners of a Helm release stay as they are: a target with its labels, and\n" +
		"nothing else, keeps them logged in. No hook, mount or patch of the chart is needed.\n"
}

func (r Runner) labels() map[string]string {
	return map[string]string{labelName: RunnerApp, labelInstance: r.Name}
}

func (r Runner) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Name, Labels: r.labels()}
}

// serviceAccount is one without rights, and without a token in the pods: jobs
// are strangers.
func (r Runner) serviceAccount() *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: r.meta(), AutomountServiceAccountToken: new(false)}
}

func (r Runner) statefulSet() *appsv1.StatefulSet {
	volume := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	}
	claim := corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(r.Storage)},
			},
		},
	}
	if r.StorageClass != "" {
		claim.Spec.StorageClassName = new(r.StorageClass)
	}
	return &appsv1.StatefulSet{
		ObjectMeta: r.meta(),
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(r.Replicas), ServiceName: r.Name, Selector: &metav1.LabelSelector{MatchLabels: r.labels()},
			PodManagementPolicy: appsv1.ParallelPodManagement,
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: r.labels(), Annotations: map[string]string{"kubectl.kubernetes.io/default-container": runnerContainer}},
				Spec: corev1.PodSpec{
					ServiceAccountName: r.Name, AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false),
					InitContainers: []corev1.Container{r.dind()},
					Containers:     []corev1.Container{r.runner()},
					Volumes:        []corev1.Volume{volume("certs"), volume("docker")},
				},
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{claim},
		},
	}
}

// dind is the Docker daemon: a sidecar, which is up before the runner starts and
// until it has ended. It makes the certificates that its clients need.
func (r Runner) dind() corev1.Container {
	answers := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"docker", "info"}}}
	return corev1.Container{
		Name: "dind", Image: r.DindImage, RestartPolicy: new(corev1.ContainerRestartPolicyAlways),
		Env:             []corev1.EnvVar{{Name: "DOCKER_TLS_CERTDIR", Value: certFolder}},
		SecurityContext: &corev1.SecurityContext{Privileged: new(true)},
		StartupProbe:    &corev1.Probe{ProbeHandler: answers, PeriodSeconds: 2, TimeoutSeconds: 10, FailureThreshold: 60},
		LivenessProbe:   &corev1.Probe{ProbeHandler: answers, PeriodSeconds: 30, TimeoutSeconds: 30, FailureThreshold: 3},
		VolumeMounts:    []corev1.VolumeMount{{Name: "certs", MountPath: certFolder}, {Name: "docker", MountPath: "/var/lib/docker"}},
	}
}

// runner is the runner, which reads its environment in its image's own script
// (gitea/runner, scripts/run.sh).
func (r Runner) runner() corev1.Container {
	return corev1.Container{
		Name: runnerContainer, Image: r.Image,
		Env: []corev1.EnvVar{
			{Name: "GITEA_INSTANCE_URL", Value: r.Instance},
			{Name: "GITEA_RUNNER_REGISTRATION_TOKEN", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: r.TokenSecret}, Key: r.TokenKey,
			}}},
			{Name: "GITEA_RUNNER_LABELS", Value: strings.Join(r.Labels, ",")},
			// A name of the daemon's certificate.
			{Name: "DOCKER_HOST", Value: "tcp://localhost:2376"},
			{Name: "DOCKER_TLS_VERIFY", Value: "1"},
			{Name: "DOCKER_CERT_PATH", Value: certFolder + "/" + certClient},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "data", MountPath: "/data"},
			// The client's alone: not the key of the authority.
			{Name: "certs", MountPath: certFolder + "/" + certClient, SubPath: certClient, ReadOnly: true},
		},
	}
}
