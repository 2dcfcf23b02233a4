// Package rollout sets the images of workloads in a cluster, and watches them
// roll out.
//
// An image is set as `kubectl set image` does, by server-side apply with a field
// manager of its own: of a workload, regkeeper then owns the images that it set
// and a few annotations, and nothing else. What the object was is checked by the
// same write, so that a container which is not there is never made. The package
// refuses to create workloads, and to decide when to go back.
package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applyapps "k8s.io/client-go/applyconfigurations/apps/v1"
	applybatch "k8s.io/client-go/applyconfigurations/batch/v1"
	typedapps "k8s.io/client-go/kubernetes/typed/apps/v1"
	typedbatch "k8s.io/client-go/kubernetes/typed/batch/v1"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/ptr"

	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// Manager is the field manager under which images are set. It is not that of the
// targets: what one part of regkeeper applies, the other does not take back.
const Manager = "regkeeper-release"

// The annotations that a release leaves on a workload. None is on its pods, so
// that they alone never roll it.
const (
	// Cause is shown by `kubectl rollout history`.
	Cause  = "kubernetes.io/change-cause"
	Commit = "regkeeper.dev/commit"
	Digest = "regkeeper.dev/digest"
)

// ErrMoved is in the chain of an error when a workload does not have the image
// that it was expected to: somebody else has set another.
var ErrMoved = errors.New("somebody else has set another image")

// Kind is a kind of workload.
type Kind string

// The kinds.
const (
	Deployment  Kind = "deployment"
	StatefulSet Kind = "statefulset"
	DaemonSet   Kind = "daemonset"
	CronJob     Kind = "cronjob"
)

// names are what people call the kinds, as kubectl understands them.
var names = map[string]Kind{
	"deployment": Deployment, "deployments": Deployment, "deploy": Deployment,
	"statefulset": StatefulSet, "statefulsets": StatefulSet, "sts": StatefulSet,
	"daemonset": DaemonSet, "daemonsets": DaemonSet, "ds": DaemonSet,
	"cronjob": CronJob, "cronjobs": CronJob, "cj": CronJob,
}

// Workload is a workload of a cluster.
type Workload struct {
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Parse reads kind/name, as in `kubectl set image deployment/api`. The error is
// a [problem.Error] of kind [problem.Config].
func Parse(text, namespace string) (Workload, error) {
	kind, name, ok := strings.Cut(text, "/")
	w := Workload{Kind: names[strings.ToLower(kind)], Namespace: namespace, Name: name}
	if !ok || w.Kind == "" || name == "" || strings.Contains(name, "/") {
		return Workload{}, problem.New(problem.Config, "write it as kind/name: deployment, statefulset, daemonset or cronjob, for example deployment/api", "workload %q", text)
	}
	return w, nil
}

// String is the workload as kubectl would be told of it.
func (w Workload) String() string {
	return fmt.Sprintf("%s/%s in namespace %s", w.Kind, w.Name, w.Namespace)
}

// Clients are what the package needs of a cluster. Without Batch there are no
// cron jobs.
type Clients struct {
	Core  typedcore.CoreV1Interface
	Apps  typedapps.AppsV1Interface
	Batch typedbatch.BatchV1Interface
}

// Cluster is a cluster with workloads in it.
type Cluster struct{ clients Clients }

// New makes it. It sends no request.
func New(clients Clients) *Cluster { return &Cluster{clients: clients} }

// Container is a container of a workload's pods.
type Container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	// Init says that it runs before the others.
	Init bool `json:"init,omitempty"`
}

// State is a workload as it is.
type State struct {
	Workload
	Containers []Container
	// Annotations are those that a release leaves, as far as they are set.
	Annotations map[string]string
	// Paused: a change of a paused Deployment waits until somebody resumes it.
	Paused bool
	// Manual: pods are replaced when somebody deletes them (strategy OnDelete).
	Manual bool
	// Replicas is how many pods are wanted; -1 where the number is not its own.
	Replicas int32
}

// Container finds a container by its name; nil for none.
func (s State) Container(name string) *Container {
	for i := range s.Containers {
		if s.Containers[i].Name == name {
			return &s.Containers[i]
		}
	}
	return nil
}

// Names are those of the containers.
func (s State) Names() []string {
	list := make([]string, len(s.Containers))
	for i, c := range s.Containers {
		list[i] = c.Name
	}
	return list
}

// object is a workload as it was read.
type object struct {
	meta     *metav1.ObjectMeta
	template *corev1.PodTemplateSpec
	// path leads to the pod's template.
	path     []string
	selector *metav1.LabelSelector
	state    State
	// extract is what we have applied of it.
	extract func() (any, error)
	patch   func(ctx context.Context, data []byte, options metav1.PatchOptions) error
	// status is how far its rollout is.
	status func() status
}

var templatePath = []string{"spec", "template"}

func (c *Cluster) get(ctx context.Context, w Workload) (*object, error) {
	o, err := c.read(ctx, w)
	if err != nil {
		return nil, kube.Problem(err, "read %s", w)
	}
	o.state.Workload = w
	o.state.Annotations = map[string]string{}
	for _, key := range []string{Cause, Commit, Digest} {
		if value, ok := o.meta.Annotations[key]; ok {
			o.state.Annotations[key] = value
		}
	}
	for _, container := range o.template.Spec.InitContainers {
		o.state.Containers = append(o.state.Containers, Container{Name: container.Name, Image: container.Image, Init: true})
	}
	for _, container := range o.template.Spec.Containers {
		o.state.Containers = append(o.state.Containers, Container{Name: container.Name, Image: container.Image})
	}
	return o, nil
}

func (c *Cluster) read(ctx context.Context, w Workload) (*object, error) {
	var none metav1.GetOptions
	switch w.Kind {
	case Deployment:
		client := c.clients.Apps.Deployments(w.Namespace)
		d, err := client.Get(ctx, w.Name, none)
		if err != nil {
			return nil, err
		}
		return &object{
			meta: &d.ObjectMeta, template: &d.Spec.Template, path: templatePath, selector: d.Spec.Selector,
			state:   State{Paused: d.Spec.Paused, Replicas: ptr.Deref(d.Spec.Replicas, 1)},
			extract: func() (any, error) { return applyapps.ExtractDeployment(d, Manager) },
			patch:   applier(client.Patch, w.Name),
			status:  func() status { return deploymentStatus(d) },
		}, nil
	case StatefulSet:
		client := c.clients.Apps.StatefulSets(w.Namespace)
		s, err := client.Get(ctx, w.Name, none)
		if err != nil {
			return nil, err
		}
		return &object{
			meta: &s.ObjectMeta, template: &s.Spec.Template, path: templatePath, selector: s.Spec.Selector,
			state:   State{Manual: s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType, Replicas: ptr.Deref(s.Spec.Replicas, 1)},
			extract: func() (any, error) { return applyapps.ExtractStatefulSet(s, Manager) },
			patch:   applier(client.Patch, w.Name),
			status:  func() status { return statefulSetStatus(s) },
		}, nil
	case DaemonSet:
		client := c.clients.Apps.DaemonSets(w.Namespace)
		d, err := client.Get(ctx, w.Name, none)
		if err != nil {
			return nil, err
		}
		return &object{
			meta: &d.ObjectMeta, template: &d.Spec.Template, path: templatePath, selector: d.Spec.Selector,
			state:   State{Manual: d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType, Replicas: -1},
			extract: func() (any, error) { return applyapps.ExtractDaemonSet(d, Manager) },
			patch:   applier(client.Patch, w.Name),
			status:  func() status { return daemonSetStatus(d) },
		}, nil
	case CronJob:
		if c.clients.Batch == nil {
			return nil, errors.New("cron jobs are not read here")
		}
		client := c.clients.Batch.CronJobs(w.Namespace)
		j, err := client.Get(ctx, w.Name, none)
		if err != nil {
			return nil, err
		}
		return &object{
			meta: &j.ObjectMeta, template: &j.Spec.JobTemplate.Spec.Template, path: []string{"spec", "jobTemplate", "spec", "template"},
			state:   State{Replicas: -1},
			extract: func() (any, error) { return applybatch.ExtractCronJob(j, Manager) },
			patch:   applier(client.Patch, w.Name),
			status:  func() status { return cronJobStatus(j) },
		}, nil
	}
	return nil, fmt.Errorf("kind %q is no workload", w.Kind)
}

// applier is the server-side apply of the object with the name, by its client's Patch.
func applier[T any](patch func(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (T, error), name string) func(context.Context, []byte, metav1.PatchOptions) error {
	return func(ctx context.Context, data []byte, options metav1.PatchOptions) error {
		_, err := patch(ctx, name, types.ApplyPatchType, data, options)
		return err
	}
}

// Look reads a workload. The error is a [problem.Error], of kind
// [problem.NotFound] if there is none.
func (c *Cluster) Look(ctx context.Context, w Workload) (State, error) {
	o, err := c.get(ctx, w)
	if err != nil {
		return State{}, err
	}
	return o.state, nil
}

// Change is what is to be set of a workload.
type Change struct {
	Workload
	// Images are the images to set, by container.
	Images map[string]string
	// Annotations are set too; an empty value takes an annotation of ours away.
	Annotations map[string]string
	// Expect are images, by container, that it must have still.
	Expect map[string]string
	// TakeOver sets images that another manager declares, by server-side apply:
	// it will set them back, unless it is told.
	TakeOver bool
}

// Applied is what was set.
type Applied struct {
	// Before is the workload as it was.
	Before State
	// Changed says whether anything was written: a workload that has the images
	// is left as it is.
	Changed bool
	// From are the managers that had set an image which is regkeeper's by now.
	From []string
}

// applyTries bounds how often a workload is read anew that others change at the
// same time: while it rolls out its status does, several times a second.
const applyTries = 10

// Set sets images. Nothing is written unless all the containers are there. The
// error is a [problem.Error]; [ErrMoved] may be in its chain.
func (c *Cluster) Set(ctx context.Context, change Change) (Applied, error) {
	for try := 1; ; try++ {
		o, err := c.get(ctx, change.Workload)
		if err != nil {
			return Applied{}, err
		}
		applied, err := c.set(ctx, o, change)
		if apierrors.IsConflict(err) && try < applyTries {
			continue
		}
		var explained *problem.Error
		if err != nil && !errors.As(err, &explained) {
			err = kube.Problem(err, "set the image of %s", change.Workload)
		}
		return applied, err
	}
}

func (c *Cluster) set(ctx context.Context, o *object, change Change) (Applied, error) {
	applied := Applied{Before: o.state}
	same := true
	for _, name := range slices.Sorted(maps.Keys(change.Images)) {
		container := o.state.Container(name)
		if container == nil {
			return applied, NoContainer(o.state, name)
		}
		if want, ok := change.Expect[name]; ok && container.Image != want {
			return applied, problem.Wrap(ErrMoved, problem.Busy, "it is left as it is: see who else deploys there", "container %s of %s has image %s, not %s", name, o.state.Workload, container.Image, want)
		}
		if container.Image != change.Images[name] {
			same = false
		}
	}
	if same {
		return applied, nil
	}
	owners := o.owners(slices.Collect(maps.Keys(change.Images)))
	for _, owner := range owners {
		if owner.declares && !change.TakeOver {
			return applied, problem.New(problem.Busy, "change the image where that manager takes it from; or let regkeeper take it over, and have that manager leave the field alone",
				"the image of %s is declared by field manager %s, which would set it back", o.state.Workload, owner.name)
		}
		applied.From = append(applied.From, owner.name)
	}
	patch, err := o.patchOf(change)
	if err != nil {
		return applied, err
	}
	// By force: who owns the images is decided above, and that nobody else has come
	// to own them since is what the resource version in the patch is for.
	if err := o.patch(ctx, patch, metav1.PatchOptions{FieldManager: Manager, Force: ptr.To(true)}); err != nil {
		return applied, err
	}
	applied.Changed = true
	return applied, nil
}

// NoContainer is the error of a workload without a container of that name.
func NoContainer(s State, name string) error {
	return problem.New(problem.NotFound, "it has: "+strings.Join(s.Names(), ", "), "%s has no container %q", s.Workload, name)
}

// patchOf is the configuration to apply: what we have applied before, since what
// is left out of an apply is given up, and the change.
func (o *object) patchOf(change Change) ([]byte, error) {
	mine, err := o.extract()
	if err != nil {
		return nil, fmt.Errorf("read what was applied before: %w", err)
	}
	raw, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	meta := child(doc, "metadata")
	meta["uid"], meta["resourceVersion"] = string(o.meta.UID), o.meta.ResourceVersion
	annotations := child(meta, "annotations")
	for key, value := range change.Annotations {
		if value == "" {
			delete(annotations, key)
		} else {
			annotations[key] = value
		}
	}
	spec := doc
	for _, name := range append(slices.Clone(o.path), "spec") {
		spec = child(spec, name)
	}
	for _, name := range slices.Sorted(maps.Keys(change.Images)) {
		list := "containers"
		if o.state.Container(name).Init {
			list = "initContainers"
		}
		setImage(spec, list, name, change.Images[name])
	}
	return json.Marshal(doc)
}

func child(doc map[string]any, name string) map[string]any {
	inner, ok := doc[name].(map[string]any)
	if !ok {
		inner = map[string]any{}
		doc[name] = inner
	}
	return inner
}

func setImage(spec map[string]any, list, name, image string) {
	containers, _ := spec[list].([]any)
	for _, one := range containers {
		if container, ok := one.(map[string]any); ok && container["name"] == name {
			container["image"] = image
			return
		}
	}
	spec[list] = append(containers, map[string]any{"name": name, "image": image})
}

// owner is a field manager that has set an image.
type owner struct {
	name string
	// declares says that it applies the field on the server again and again, as a
	// deployer out of a repository does. kubectl does so when a person tells it.
	declares bool
}

// owners are the managers, we excepted, of the images of the containers.
func (o *object) owners(containers []string) (list []owner) {
	for _, entry := range o.meta.ManagedFields {
		if entry.Manager == Manager && entry.Operation == metav1.ManagedFieldsOperationApply || entry.FieldsV1 == nil {
			continue
		}
		if !slices.ContainsFunc(containers, func(name string) bool { return o.owns(entry.FieldsV1, name) }) {
			continue
		}
		found := owner{name: entry.Manager, declares: entry.Operation == metav1.ManagedFieldsOperationApply && !strings.HasPrefix(entry.Manager, "kubectl")}
		if !slices.Contains(list, found) {
			list = append(list, found)
		}
	}
	return list
}

// owns says whether a set of fields has a container's image (Kubernetes
// documentation, "Server-Side Apply", field management: FieldsV1).
func (o *object) owns(fields *metav1.FieldsV1, container string) bool {
	var node any
	if json.Unmarshal(fields.GetRawBytes(), &node) != nil {
		return true // nobody knows
	}
	list := "f:containers"
	if c := o.state.Container(container); c != nil && c.Init {
		list = "f:initContainers"
	}
	key, err := json.Marshal(map[string]string{"name": container})
	if err != nil {
		return true
	}
	var path []string
	for _, name := range append(slices.Clone(o.path), "spec") {
		path = append(path, "f:"+name)
	}
	for _, step := range append(path, list, "k:"+string(key), "f:image") {
		inner, ok := node.(map[string]any)
		if !ok {
			return false
		}
		if node, ok = inner[step]; !ok {
			return false
		}
	}
	return true
}
