package fakekube

import (
	"sync"
	"testing"

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
