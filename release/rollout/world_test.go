package rollout_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/regkeeper/regkeeper/release/rollout"
)

const namespace = "honeydue"

// tracker is client-go's fake, which keeps managed fields as an apiserver does,
// with what it lacks of one here: versions and UIDs of objects, the
// preconditions of an apply, and generations. Every apply counts as a change of
// the spec.
type tracker struct {
	clienttesting.ObjectTracker
	mu   sync.Mutex
	last int
}

func (r *tracker) stamp(object runtime.Object) metav1.Object {
	m, err := meta.Accessor(object)
	if err != nil {
		panic(err)
	}
	r.last++
	m.SetResourceVersion(strconv.Itoa(r.last))
	if m.GetUID() == "" {
		m.SetUID(types.UID("uid-" + strconv.Itoa(r.last)))
	}
	return m
}

func (r *tracker) Create(resource schema.GroupVersionResource, object runtime.Object, namespace string, options ...metav1.CreateOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamp(object).SetGeneration(1)
	return r.ObjectTracker.Create(resource, object, namespace, options...)
}

func (r *tracker) Update(resource schema.GroupVersionResource, object runtime.Object, namespace string, options ...metav1.UpdateOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamp(object)
	return r.ObjectTracker.Update(resource, object, namespace, options...)
}

func (r *tracker) Apply(resource schema.GroupVersionResource, object runtime.Object, namespace string, options ...metav1.PatchOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	live, err := r.Get(resource, namespace, m.GetName())
	if err != nil {
		return err
	}
	now, err := meta.Accessor(live)
	if err != nil {
		return err
	}
	if v := m.GetResourceVersion(); v != "" && v != now.GetResourceVersion() || m.GetUID() != "" && m.GetUID() != now.GetUID() {
		return apierrors.NewConflict(resource.GroupResource(), m.GetName(), errors.New("the object is another by now"))
	}
	m.SetUID(now.GetUID())
	r.stamp(object).SetGeneration(now.GetGeneration() + 1)
	return r.ObjectTracker.Apply(resource, object, namespace, options...)
}

// converter takes a while to make.
var converter = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(scheme.Scheme) })

// world is a fake cluster.
type world struct {
	*rollout.Cluster
	t       testing.TB
	api     *fake.Clientset
	objects *tracker
}

func newWorld(t testing.TB) *world {
	t.Helper()
	objects := &tracker{ObjectTracker: clienttesting.NewFieldManagedObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder(), converter())}
	api := &fake.Clientset{}
	api.AddReactor("*", "*", clienttesting.ObjectReaction(objects))
	return &world{t: t, api: api, objects: objects, Cluster: rollout.New(rollout.Clients{Core: api.CoreV1(), Apps: api.AppsV1(), Batch: api.BatchV1()})}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func template(images ...string) corev1.PodTemplateSpec {
	spec := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "api"}}}
	for i := 0; i < len(images); i += 2 {
		spec.Spec.Containers = append(spec.Spec.Containers, corev1.Container{Name: images[i], Image: images[i+1]})
	}
	return spec
}

var (
	selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "api"}}
	itself   = metav1.ObjectMeta{Namespace: namespace, Name: "api"}
)

// create makes a workload named api, as a manager's.
func (w *world) create(kind rollout.Kind, manager string, pods corev1.PodTemplateSpec) rollout.Workload {
	w.t.Helper()
	ctx, options := context.Background(), metav1.CreateOptions{FieldManager: manager}
	var err error
	switch kind {
	case rollout.Deployment:
		_, err = w.api.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: itself, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](2), Selector: selector, Template: pods}}, options)
	case rollout.StatefulSet:
		_, err = w.api.AppsV1().StatefulSets(namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: itself, Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](2), Selector: selector, Template: pods}}, options)
	case rollout.DaemonSet:
		_, err = w.api.AppsV1().DaemonSets(namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: itself, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: pods}}, options)
	case rollout.CronJob:
		_, err = w.api.BatchV1().CronJobs(namespace).Create(ctx, &batchv1.CronJob{ObjectMeta: itself, Spec: batchv1.CronJobSpec{Schedule: "@daily", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pods}}}}, options)
	}
	must(w.t, err)
	return rollout.Workload{Kind: kind, Namespace: namespace, Name: "api"}
}

func (w *world) deployment() *appsv1.Deployment {
	w.t.Helper()
	d, err := w.api.AppsV1().Deployments(namespace).Get(context.Background(), "api", metav1.GetOptions{})
	must(w.t, err)
	return d
}

var deployments = appsv1.SchemeGroupVersion.WithResource("deployments")

// change changes the deployment as another does, past the client: also while a
// request of ours is under way.
func (w *world) change(manager string, change func(*appsv1.Deployment)) {
	w.t.Helper()
	live, err := w.objects.Get(deployments, namespace, "api")
	must(w.t, err)
	d := live.(*appsv1.Deployment).DeepCopy()
	change(d)
	must(w.t, w.objects.Update(deployments, d, namespace, metav1.UpdateOptions{FieldManager: manager}))
}

// images lists the containers' images.
func (w *world) images(workload rollout.Workload) map[string]string {
	w.t.Helper()
	state, err := w.Look(context.Background(), workload)
	must(w.t, err)
	images := map[string]string{}
	for _, c := range state.Containers {
		images[c.Name] = c.Image
	}
	return images
}

// writes counts the patches.
func (w *world) writes() (n int) {
	for _, action := range w.api.Actions() {
		if action.GetVerb() == "patch" {
			n++
		}
	}
	return n
}
