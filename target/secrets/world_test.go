package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	typedapps "k8s.io/client-go/kubernetes/typed/apps/v1"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/target/secrets"
)

type logins = map[credential.Host]credential.Login

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

const (
	instance = "this-one"
	name     = "regkeeper"

	host credential.Host = "registry.example"
)

// tracker has what client-go's fake lacks of an API server: versions and UIDs
// of objects, preconditions, and generations.
type tracker struct {
	clienttesting.ObjectTracker
	mu   sync.Mutex
	last int
}

// stamp gives an object its next version. The caller holds mu.
func (r *tracker) stamp(object runtime.Object) metav1.Object {
	m, err := meta.Accessor(object)
	if err != nil {
		panic(err)
	}
	r.last++
	m.SetResourceVersion(strconv.Itoa(1000 + r.last))
	if m.GetUID() == "" {
		m.SetUID(types.UID(fmt.Sprint("uid-", r.last)))
	}
	return m
}

// fits is a conflict where an object is not as the writer has read it.
func (r *tracker) fits(resource schema.GroupVersionResource, namespace, name, version string, uid types.UID) error {
	live, err := r.Get(resource, namespace, name)
	if apierrors.IsNotFound(err) && uid == "" {
		return nil
	}
	if err == nil {
		m, _ := meta.Accessor(live)
		if (version == "" || version == m.GetResourceVersion()) && (uid == "" || uid == m.GetUID()) {
			return nil
		}
	}
	return apierrors.NewConflict(resource.GroupResource(), name, errors.New("the object is another by now"))
}

func (r *tracker) Add(object runtime.Object) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamp(object)
	return r.ObjectTracker.Add(object)
}

func (r *tracker) Create(resource schema.GroupVersionResource, object runtime.Object, namespace string, options ...metav1.CreateOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamp(object)
	return r.ObjectTracker.Create(resource, object, namespace, options...)
}

func (r *tracker) Update(resource schema.GroupVersionResource, object runtime.Object, namespace string, options ...metav1.UpdateOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.roll(resource, object, namespace)
	r.stamp(object)
	return r.ObjectTracker.Update(resource, object, namespace, options...)
}

func (r *tracker) Patch(resource schema.GroupVersionResource, object runtime.Object, namespace string, options ...metav1.PatchOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, _ := meta.Accessor(object)
	if err := r.fits(resource, namespace, m.GetName(), m.GetResourceVersion(), m.GetUID()); err != nil {
		return err
	}
	r.roll(resource, object, namespace)
	r.stamp(object)
	return r.ObjectTracker.Patch(resource, object, namespace, options...)
}

func (r *tracker) Apply(resource schema.GroupVersionResource, object runtime.Object, namespace string, options ...metav1.PatchOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, _ := meta.Accessor(object)
	if err := r.fits(resource, namespace, m.GetName(), m.GetResourceVersion(), m.GetUID()); err != nil {
		return err
	}
	if live, err := r.Get(resource, namespace, m.GetName()); err == nil {
		now, _ := meta.Accessor(live)
		m.SetUID(now.GetUID())
	}
	r.stamp(object)
	return r.ObjectTracker.Apply(resource, object, namespace, options...)
}

func (r *tracker) Delete(resource schema.GroupVersionResource, namespace, name string, options ...metav1.DeleteOptions) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range options {
		if p := o.Preconditions; p != nil {
			version, uid := "", types.UID("")
			if p.ResourceVersion != nil {
				version = *p.ResourceVersion
			}
			if p.UID != nil {
				uid = *p.UID
			}
			if err := r.fits(resource, namespace, name, version, uid); err != nil {
				return err
			}
		}
	}
	return r.ObjectTracker.Delete(resource, namespace, name, options...)
}

// roll counts a deployment's generation up when its template changes.
func (r *tracker) roll(resource schema.GroupVersionResource, object runtime.Object, namespace string) {
	after, ok := object.(*appsv1.Deployment)
	if !ok {
		return
	}
	before, err := r.Get(resource, namespace, after.Name)
	if err == nil && !equality.Semantic.DeepEqual(before.(*appsv1.Deployment).Spec, after.Spec) {
		after.Generation++
	}
}

// api is the fake API.
type api struct {
	*fake.Clientset
	tracker *tracker
	// watched are the resources of which a watch has begun.
	watched sync.Map
}

// The fake cannot stream a list, and must say so.
type (
	core struct{ typedcore.CoreV1Interface }
	apps struct{ typedapps.AppsV1Interface }
)

func (core) IsWatchListSemanticsUnSupported() bool { return true }
func (apps) IsWatchListSemanticsUnSupported() bool { return true }

// converter takes a while to make.
var converter = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(scheme.Scheme) })

func newAPI(t testing.TB, objects ...runtime.Object) *api {
	t.Helper()
	objectTracker := &tracker{ObjectTracker: clienttesting.NewFieldManagedObjectTracker(
		scheme.Scheme, scheme.Codecs.UniversalDecoder(), converter())}
	for _, object := range objects {
		must(t, objectTracker.Add(object.DeepCopyObject()))
	}
	a := &api{Clientset: &fake.Clientset{}, tracker: objectTracker}
	a.AddReactor("*", "*", clienttesting.ObjectReaction(objectTracker))
	a.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		what := action.(clienttesting.WatchActionImpl)
		w, err := objectTracker.Watch(what.GetResource(), what.GetNamespace(), what.ListOptions)
		a.watched.Store(what.GetResource().Resource, true)
		return true, w, err
	})
	return a
}

// world is a target with all around it.
type world struct {
	*secrets.Target
	t        testing.TB
	api      *api
	recorder *kube.Recorder
}

func newWorld(t testing.TB, change func(*secrets.Config), objects ...runtime.Object) *world {
	t.Helper()
	w := &world{t: t, api: newAPI(t, objects...)}
	w.target(change)
	return w
}

// target makes the target anew, as another process does.
func (w *world) target(change func(*secrets.Config)) {
	w.recorder = kube.NewRecorder(w.api.CoreV1(), slog.New(slog.DiscardHandler))
	w.t.Cleanup(w.recorder.Close)
	config := secrets.Config{
		Cluster: &kube.Cluster{
			Core: core{w.api.CoreV1()}, Apps: apps{w.api.AppsV1()}, Policy: w.api.PolicyV1(), Recorder: w.recorder,
		},
		Instance: instance, Name: name,
		Namespaces: secrets.Namespaces{Names: []string{"team-*"}},
	}
	if change != nil {
		change(&config)
	}
	w.Target = secrets.New(config)
}

// watch watches until the test ends. What is told is sent to calls: the places,
// or "all".
func (w *world) watch() (calls chan string) {
	w.t.Helper()
	calls = make(chan string, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	target := w.Target
	go func() {
		done <- target.Watch(ctx, func(places ...credential.Place) {
			text := "all"
			if len(places) > 0 {
				text = strings.Trim(fmt.Sprint(places), "[]")
			}
			calls <- text
		})
	}()
	w.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("Watch ends with %v", err)
			}
		case <-time.After(30 * time.Second):
			w.t.Error("Watch does not end with its context")
		}
	})
	w.told(calls, "all")
	return calls
}

// begun waits until namespaces and Secrets are watched: the fake tells a watch
// nothing of what happened since the list before it.
func (w *world) begun() {
	w.t.Helper()
	eventually(w.t, "the watches to begin", func() bool {
		_, namespaces := w.api.watched.Load("namespaces")
		_, secrets := w.api.watched.Load("secrets")
		return namespaces && secrets
	})
}

// told waits for a call.
func (w *world) told(calls <-chan string, want string) {
	w.t.Helper()
	select {
	case got := <-calls:
		if got != want {
			w.t.Errorf("told of %s, want %s", got, want)
		}
	case <-time.After(30 * time.Second):
		w.t.Fatalf("not told of %s", want)
	}
}

func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !check(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in 30 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// events are the Events made so far, and the last that can be.
func (w *world) events() (list []string) {
	w.t.Helper()
	w.recorder.Close()
	found, err := w.api.CoreV1().Events("").List(context.Background(), metav1.ListOptions{})
	must(w.t, err)
	for _, event := range found.Items {
		list = append(list, event.Type+" "+event.Reason+" "+event.InvolvedObject.Kind+" "+event.InvolvedObject.Namespace+"/"+event.InvolvedObject.Name)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// writes lists the writes to a resource since the last call.
func (w *world) writes(resource string) (list []string) {
	for _, action := range w.api.Actions() {
		if verb := action.GetVerb(); verb != "get" && verb != "list" && verb != "watch" && action.GetResource().Resource == resource {
			list = append(list, verb+" "+action.GetNamespace())
		}
	}
	w.api.ClearActions()
	return list
}

func namespace(name string, changes ...func(*corev1.Namespace)) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}, Annotations: map[string]string{}}}
	for _, change := range changes {
		change(n)
	}
	return n
}

func account(namespace, name string, pullSecrets ...string) *corev1.ServiceAccount {
	a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{}}}
	for _, s := range pullSecrets {
		a.ImagePullSecrets = append(a.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	return a
}

// pullSecret is a Secret with one login.
func pullSecret(namespace string, host credential.Host, l credential.Login) *corev1.Secret {
	doc, _ := dockerconfig.Parse(nil)
	doc.Set(host, l)
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{}, Annotations: map[string]string{}},
		Type:       corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: doc.Bytes()},
	}
}

func owned(s *corev1.Secret, by string) *corev1.Secret {
	s.Labels[kube.Owner], s.Labels[kube.ManagedBy] = by, kube.Manager
	return s
}

// applied is a Secret that regkeeper applied once.
func applied(s *corev1.Secret) *corev1.Secret {
	s.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: kube.Manager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:type":{}}`),
	}}
	return s
}

// secret reads a Secret; nil if there is none.
func (w *world) secret(namespace string) *corev1.Secret {
	w.t.Helper()
	s, err := w.api.CoreV1().Secrets(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	must(w.t, err)
	return s
}

func (w *world) change(namespace string, change func(*corev1.Secret)) {
	w.t.Helper()
	s := w.secret(namespace)
	change(s)
	_, err := w.api.CoreV1().Secrets(namespace).Update(context.Background(), s, metav1.UpdateOptions{FieldManager: "kubectl-edit"})
	must(w.t, err)
}

// pullSecretsOf are those that a ServiceAccount names.
func (w *world) pullSecretsOf(namespace, name string) (list []string) {
	w.t.Helper()
	a, err := w.api.CoreV1().ServiceAccounts(namespace).Get(context.Background(), name, metav1.GetOptions{})
	must(w.t, err)
	for _, r := range a.ImagePullSecrets {
		list = append(list, r.Name)
	}
	return list
}

func (w *world) deliver(place credential.Place, l logins) {
	w.t.Helper()
	must(w.t, w.Deliver(context.Background(), place, l))
}

var ids = map[credential.Host]string{host: "id-1"}

// behind lists what lags, as "remedy what", with "…" if it waits.
func (w *world) behind(logins map[credential.Host]string, places ...credential.Place) (list []string, lags []credential.Lag) {
	w.t.Helper()
	lags, err := w.Behind(context.Background(), logins, places...)
	must(w.t, err)
	for _, lag := range lags {
		text := lag.Remedy + " " + lag.What
		if lag.Waits != "" {
			text += " …"
		}
		list = append(list, text)
	}
	return list, lags
}

// follow has all follow that need not wait.
func (w *world) follow(logins map[credential.Host]string, places ...credential.Place) {
	w.t.Helper()
	_, lags := w.behind(logins, places...)
	for _, lag := range lags {
		if lag.Waits == "" {
			must(w.t, w.Follow(context.Background(), lag, logins))
		}
	}
}
