package fakekube

import (
	"errors"
	"strconv"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	clienttesting "k8s.io/client-go/testing"
)

// API is client-go's fake clientset. It ignores field selectors.
type API struct {
	*fake.Clientset
	// Core is its core client.
	Core typedcore.CoreV1Interface

	mu       sync.Mutex
	watching map[string]int
	begun    *sync.Cond
}

// NewAPI makes an API that has the objects.
func NewAPI(t testing.TB, objects ...runtime.Object) *API {
	t.Helper()
	api := &API{Clientset: fake.NewClientset(objects...), watching: map[string]int{}}
	api.begun = sync.NewCond(&api.mu)
	api.Core = core{api.CoreV1()}
	api.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		what := action.(clienttesting.WatchActionImpl)
		w, err := api.Tracker().Watch(what.GetResource(), what.GetNamespace(), what.ListOptions)
		api.mu.Lock()
		api.watching[what.GetResource().Resource]++
		api.begun.Broadcast()
		api.mu.Unlock()
		return true, w, err
	})
	return api
}

// Conflicts has the resource's objects get versions when they are written from
// now on, and updates refused as an apiserver refuses them: where the object
// has changed since the writer read it. The clientset alone takes any.
func (a *API) Conflicts(resource string) {
	version := 0
	stamp := func(object runtime.Object) metav1.Object {
		stamped, err := meta.Accessor(object)
		if err != nil {
			panic(err) // the clientset has no such objects
		}
		version++
		stamped.SetResourceVersion(strconv.Itoa(version))
		return stamped
	}
	a.PrependReactor("create", resource, func(action clienttesting.Action) (bool, runtime.Object, error) {
		create := action.(clienttesting.CreateAction)
		object := create.GetObject().DeepCopyObject()
		stamp(object)
		return true, object, a.Tracker().Create(create.GetResource(), object, create.GetNamespace())
	})
	a.PrependReactor("update", resource, func(action clienttesting.Action) (bool, runtime.Object, error) {
		update := action.(clienttesting.UpdateAction)
		what, namespace, object := update.GetResource(), update.GetNamespace(), update.GetObject().DeepCopyObject()
		wanted, err := meta.Accessor(object)
		if err != nil {
			return true, nil, err
		}
		read := wanted.GetResourceVersion()
		live, err := a.Tracker().Get(what, namespace, wanted.GetName())
		if err != nil {
			return true, nil, err
		}
		if is, err := meta.Accessor(live); err != nil || read != "" && read != is.GetResourceVersion() {
			return true, nil, apierrors.NewConflict(what.GroupResource(), wanted.GetName(), errors.New("the object has been modified"))
		}
		stamp(object)
		return true, object, a.Tracker().Update(what, object, namespace)
	})
}

// Watched waits until watches of the resource have begun, n in all: what comes
// before that is not told to them.
func (a *API) Watched(resource string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.watching[resource] < n {
		a.begun.Wait()
	}
}

// core says what the clientset says: that it cannot stream a list.
type core struct{ typedcore.CoreV1Interface }

func (core) IsWatchListSemanticsUnSupported() bool { return true }
