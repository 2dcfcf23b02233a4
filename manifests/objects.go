package manifests

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/regkeeper/regkeeper/config"
)

// The labels of all objects: what they are, and of which regkeeper.
const (
	labelName     = "app.kubernetes.io/name"
	labelInstance = "app.kubernetes.io/instance"
)

func (o Options) labels() map[string]string {
	return map[string]string{labelName: Name, labelInstance: o.instance()}
}

func (o Options) meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: o.labels()}
}

// namespace lets in only pods that keep to the Pod Security Standard
// "restricted", as regkeeper's do.
func (o Options) namespace() *corev1.Namespace {
	meta := o.meta("", o.Namespace)
	meta.Labels["pod-security.kubernetes.io/enforce"] = "restricted"
	return &corev1.Namespace{ObjectMeta: meta}
}

func (o Options) serviceAccount() *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: o.meta(o.Namespace, Name), AutomountServiceAccountToken: new(false)}
}

func (o Options) configMap(text []byte) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: o.meta(o.Namespace, Name), Data: map[string]string{fileName: string(text)}}
}

// The ports.
const (
	healthPort = 9470
	dnsPort    = 53
	httpPort   = 80
	httpsPort  = 443
	// apiPort is where the API listens behind its Service: a policy sees the
	// connection as it arrives, or as it was sent, by the network that enforces it.
	apiPort = 6443
	sshPort = 22
)

// egress are the TCP ports that regkeeper connects to, besides that of DNS.
func (o Options) egress(c config.Config) []int32 {
	ports := slices.Concat([]int32{httpsPort, apiPort}, o.EgressPorts)
	for _, r := range c.Registries {
		if _, port, err := net.SplitHostPort(string(r.Host)); err == nil {
			ports = append(ports, number(port))
		} else if r.Insecure {
			ports = append(ports, httpPort)
		}
	}
	for _, address := range c.Servers() {
		if u, err := url.Parse(address); err == nil {
			switch {
			case u.Port() != "":
				ports = append(ports, number(u.Port()))
			case u.Scheme == "http":
				ports = append(ports, httpPort)
			}
		}
	}
	for _, t := range c.Targets {
		if t.SSH == nil {
			continue
		}
		for _, host := range t.SSH.Hosts {
			if _, port, err := net.SplitHostPort(host[strings.LastIndex(host, "@")+1:]); err == nil {
				ports = append(ports, number(port))
			} else {
				ports = append(ports, sshPort)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// number is a port that the configuration has checked.
func number(port string) int32 {
	n, _ := strconv.ParseUint(port, 10, 16)
	return int32(n)
}

// networkPolicy lets out what regkeeper connects to, and in who asks for metrics
// and health.
func (o Options) networkPolicy(c config.Config) *networkingv1.NetworkPolicy {
	port := func(protocol corev1.Protocol, number int32) networkingv1.NetworkPolicyPort {
		return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: new(intstr.FromInt32(number))}
	}
	out := []networkingv1.NetworkPolicyPort{port(corev1.ProtocolUDP, dnsPort), port(corev1.ProtocolTCP, dnsPort)}
	for _, number := range o.egress(c) {
		out = append(out, port(corev1.ProtocolTCP, number))
	}
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: o.meta(o.Namespace, Name),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: o.labels()},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{Ports: out}},
		},
	}
	if o.Mode == Deployment {
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, healthPort)}}}
	}
	return policy
}

// disruptionBudget keeps one pod while nodes are drained. It never holds up a
// drain for good: pods that are not ready may always be evicted.
func (o Options) disruptionBudget() *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: o.meta(o.Namespace, Name),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: new(intstr.FromInt32(1)), UnhealthyPodEvictionPolicy: new(policyv1.AlwaysAllow),
			Selector: &metav1.LabelSelector{MatchLabels: o.labels()},
		},
	}
}

// The bounds of a pod, and of what a CronJob keeps.
const (
	user        = 65532
	gracePeriod = 30 // seconds: a pass ends at once, and Events get 5
	jobLimit    = 30 * 60
	jobRetries  = 2
	jobKept     = 24 * 60 * 60
	jobsKept    = 3
)

func (o Options) deployment(text []byte) *appsv1.Deployment {
	pod := o.pod("up")
	container := &pod.Spec.Containers[0]
	container.Args = append(container.Args, "--health=:"+strconv.Itoa(healthPort))
	container.Ports = []corev1.ContainerPort{{Name: "health", ContainerPort: healthPort, Protocol: corev1.ProtocolTCP}}
	// Both probes ask whether passes are made, not whether all went well:
	// /readyz answers 503 while any place anywhere is not in order, and one
	// runner's trouble must neither end this pod nor hold up a rollout of the
	// version that remedies it.
	probe := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("health")}}
	container.LivenessProbe = &corev1.Probe{ProbeHandler: probe, InitialDelaySeconds: 10, PeriodSeconds: 20, TimeoutSeconds: 5, FailureThreshold: 3}
	container.ReadinessProbe = &corev1.Probe{ProbeHandler: probe, PeriodSeconds: 10, TimeoutSeconds: 5}
	pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: o.labels()},
	}}
	pod.Annotations = map[string]string{configPrint: fingerprint(text)}
	return &appsv1.Deployment{
		ObjectMeta: o.meta(o.Namespace, Name),
		Spec: appsv1.DeploymentSpec{
			Replicas: new(o.Replicas), Selector: &metav1.LabelSelector{MatchLabels: o.labels()}, Template: pod,
		},
	}
}

// configPrint is the annotation that has pods made anew for a new configuration.
const configPrint = "regkeeper.dev/config"

func fingerprint(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (o Options) cronJob(text []byte) *batchv1.CronJob {
	pod := o.pod("sync")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Annotations = map[string]string{configPrint: fingerprint(text)}
	return &batchv1.CronJob{
		ObjectMeta: o.meta(o.Namespace, Name),
		Spec: batchv1.CronJobSpec{
			Schedule: o.Schedule, ConcurrencyPolicy: batchv1.ForbidConcurrent,
			SuccessfulJobsHistoryLimit: new(int32(jobsKept)), FailedJobsHistoryLimit: new(int32(jobsKept)),
			JobTemplate: batchv1.JobTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: o.labels()},
				Spec: batchv1.JobSpec{
					// One that hangs would keep all others from starting.
					ActiveDeadlineSeconds: new(int64(jobLimit)),
					BackoffLimit:          new(int32(jobRetries)), TTLSecondsAfterFinished: new(int32(jobKept)), Template: pod,
				},
			},
		},
	}
}

// pod is regkeeper with one command: as the Pod Security Standard "restricted"
// has it, and with a root file system that cannot be written.
func (o Options) pod(command string) corev1.PodTemplateSpec {
	container := corev1.Container{
		Name: Name, Image: o.Image,
		// Secrets that the configuration names, proxies, and whatever else is given to
		// a program by its environment.
		EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: envSecret}, Optional: new(true),
		}}},
		Args: []string{command, "--config=" + Folder + "/" + fileName, "--data=" + dataFolder},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			// A limit of the CPU would only slow a delivery down.
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "config", MountPath: Folder, ReadOnly: true},
			{Name: "data", MountPath: dataFolder},
		},
	}
	volumes := []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: Name}}}},
		// The control socket, what is remembered of manifests, and nothing that must
		// outlive the pod.
		{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("256Mi"))}}},
	}
	if o.KubeconfigSecret != "" {
		container.Env = []corev1.EnvVar{{Name: "KUBECONFIG", Value: Kubeconfig}}
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: "kubeconfig", MountPath: kubeconfigFolder, ReadOnly: true})
		volumes = append(volumes, corev1.Volume{Name: "kubeconfig", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: o.KubeconfigSecret}}})
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: o.labels()},
		Spec: corev1.PodSpec{
			ServiceAccountName: Name, AutomountServiceAccountToken: new(true), EnableServiceLinks: new(false),
			TerminationGracePeriodSeconds: new(int64(gracePeriod)),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: new(int64(user)), RunAsGroup: new(int64(user)), FSGroup: new(int64(user)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{container}, Volumes: volumes,
		},
	}
}
