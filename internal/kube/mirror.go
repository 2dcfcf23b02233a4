package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
)

// Object is what a [Mirror] keeps of an object of the cluster. There may be tens
// of thousands: it is as small as it can be.
type Object[T any] struct {
	Namespace, Name string
	UID             types.UID
	ResourceVersion string
	// Labels and Annotations are those that regkeeper knows, or all labels where
	// the selection keeps them. Objects may share them: they are not to be
	// changed.
	Labels, Annotations map[string]string
	// Deleting says that the object is about to go.
	Deleting bool
	Value    T
}

// GetObjectMeta is what client-go's caches ask of an object. The answer is made
// each time.
func (o *Object[T]) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion}
}

// Key is the object's namespace and name.
func (o *Object[T]) Key() types.NamespacedName {
	return types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
}

// Compare orders objects by namespace, then by name.
func Compare[T any](a, b *Object[T]) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// Excluded says whether the object's owner opted out.
func (o *Object[T]) Excluded() bool { return o.Annotations[Exclude] == "true" }

// Selection is which objects are mirrored.
type Selection struct {
	// Namespaces are looked at one by one, which takes rights in these alone;
	// none looks at all of the cluster.
	Namespaces []string
	// Name is the only name looked at; empty for any.
	Name string
	// Labels is a label selector; empty for any.
	Labels string
	// KeepLabels keeps all labels of an object, and not only regkeeper's own.
	KeepLabels bool
	// ByNamespace makes [Mirror.In] fast where no name is given.
	ByNamespace bool
}

func (s Selection) options(options metav1.ListOptions) metav1.ListOptions {
	options.LabelSelector = s.Labels
	if s.Name != "" {
		options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.Name).String()
	}
	return options
}

// API is how a kind of object is listed and watched; an empty namespace is all
// of them. The generated clients have these methods.
type API struct {
	// Kind is for error messages: "pods".
	Kind  string
	List  func(ctx context.Context, namespace string, options metav1.ListOptions) (runtime.Object, error)
	Watch func(ctx context.Context, namespace string, options metav1.ListOptions) (watch.Interface, error)
	// Client is the generated client, which may know of abilities it lacks.
	Client any
	// Example is an empty object of the kind.
	Example runtime.Object
}

// Lister is a generated client of one kind of object.
type Lister[L runtime.Object] interface {
	List(ctx context.Context, options metav1.ListOptions) (L, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// APIOf is the API of a kind by its generated client: the one of the group, and
// that of a namespace.
func APIOf[C Lister[L], L runtime.Object](kind string, example runtime.Object, client any, in func(namespace string) C) API {
	return API{
		Kind: kind, Example: example, Client: client,
		List: func(ctx context.Context, namespace string, options metav1.ListOptions) (runtime.Object, error) {
			return in(namespace).List(ctx, options)
		},
		Watch: func(ctx context.Context, namespace string, options metav1.ListOptions) (watch.Interface, error) {
			return in(namespace).Watch(ctx, options)
		},
	}
}

// Mirror is a copy of a part of a cluster: of the objects selected, what the
// thin function keeps. While Run watches, reading costs no request. Without,
// List asks the cluster, and Get answers from what List found last.
type Mirror[T any] struct {
	api       API
	selection Selection
	thin      func(runtime.Object) (T, error)
	notes     notes

	mu      sync.Mutex
	stores  map[string]cache.Indexer // by namespace
	synced  []cache.DoneChecker
	written map[types.NamespacedName]*own[T]
	// writes counts what was told to Wrote and Deleted.
	writes int
	// listed is what List found last while nothing watched; nil for nothing.
	listed map[types.NamespacedName]*Object[T]
	// mute is why List failed last after having waited for it; nil if it did not.
	mute   error
	muteAt time.Time
}

const (
	// longWait is how long List waits at most without that being remembered.
	longWait = time.Second
	// muteFor is how long List does not wait again, while Run watches: that
	// tells when the cluster answers.
	muteFor = 30 * time.Second
)

// own is what the cluster answered to a write, until the watch tells it too.
type own[T any] struct {
	object *Object[T]
	// deleted is the UID of an object that was deleted.
	deleted types.UID
	// turn is the count of writes that this one was.
	turn int
	// looked says that it is no write of ours: a look found it.
	looked bool
}

// NewMirror makes a mirror. It sends no request.
func NewMirror[T any](api API, selection Selection, thin func(runtime.Object) (T, error)) *Mirror[T] {
	selection.Namespaces = slices.Compact(slices.Sorted(slices.Values(selection.Namespaces)))
	return &Mirror[T]{api: api, selection: selection, thin: thin, written: map[types.NamespacedName]*own[T]{}}
}

// thinned keeps of an object what the mirror is for.
func (m *Mirror[T]) thinned(object any) (any, error) {
	switch o := object.(type) {
	case *Object[T]:
		return o, nil
	case cache.DeletedFinalStateUnknown:
		return o, nil
	}
	full, ok := object.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%s: unexpected %T", m.api.Kind, object)
	}
	return m.Thin(full)
}

// Thin is what the mirror keeps of an object.
func (m *Mirror[T]) Thin(full runtime.Object) (*Object[T], error) {
	meta, ok := full.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%s: unexpected %T", m.api.Kind, full)
	}
	value, err := m.thin(full)
	if err != nil {
		return nil, err
	}
	known := labelsKnown
	if m.selection.KeepLabels {
		known = nil
	}
	return &Object[T]{
		Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: meta.GetUID(), ResourceVersion: meta.GetResourceVersion(),
		Labels: m.notes.keep(meta.GetLabels(), known), Annotations: m.notes.keep(meta.GetAnnotations(), annotationsKnown),
		Deleting: meta.GetDeletionTimestamp() != nil, Value: value,
	}, nil
}

var (
	labelsKnown      = []string{ManagedBy, Owner}
	annotationsKnown = []string{Exclude, Adopt, NotMade, Login}
)

// notes are labels and annotations, each set of them kept once.
type notes struct {
	mu   sync.Mutex
	sets map[string]map[string]string
}

// maxNotes bounds how many sets are shared.
const maxNotes = 1000

// keep is what is known of a set, or all of it; nil for nothing.
func (n *notes) keep(set map[string]string, known []string) map[string]string {
	kept := set
	if known != nil {
		kept = map[string]string{}
		for _, name := range known {
			if value, ok := set[name]; ok {
				kept[name] = value
			}
		}
	}
	if len(kept) == 0 {
		return nil
	}
	// In order of the names, and quoted: no value reads like two.
	key := fmt.Sprintf("%q", kept)
	n.mu.Lock()
	defer n.mu.Unlock()
	if shared, ok := n.sets[key]; ok {
		return shared
	}
	if n.sets == nil || len(n.sets) >= maxNotes {
		n.sets = map[string]map[string]string{}
	}
	n.sets[key] = kept
	return kept
}

func (m *Mirror[T]) namespaces() []string {
	if len(m.selection.Namespaces) == 0 {
		return []string{metav1.NamespaceAll}
	}
	return m.selection.Namespaces
}

// Run watches until ctx ends. It calls changed, from one goroutine for each
// namespace, after an object came (before is nil), changed, or went (after is
// nil), and once with neither when all is known. What was told to Wrote before
// is not told again. Lost watches are taken up again for as long as it takes.
func (m *Mirror[T]) Run(ctx context.Context, changed func(before, after *Object[T])) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	stores := map[string]cache.Indexer{}
	var synced []cache.DoneChecker
	for _, namespace := range m.namespaces() {
		store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
			ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
				ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
					return m.api.List(ctx, namespace, m.selection.options(options))
				},
				WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
					return m.api.Watch(ctx, namespace, m.selection.options(options))
				},
			}, m.api.Client),
			ObjectType: m.api.Example,
			Transform:  m.thinned,
			Indexers:   m.indexers(),
			Handler: cache.ResourceEventHandlerFuncs{
				AddFunc:    func(after any) { m.tell(changed, nil, after) },
				UpdateFunc: func(before, after any) { m.tell(changed, before, after) },
				DeleteFunc: func(before any) { m.tell(changed, before, nil) },
			},
		})
		stores[namespace] = store.(cache.Indexer) //nolint:forcetypeassert // it is one where there are indexers
		synced = append(synced, informer.HasSyncedChecker())
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	m.mu.Lock()
	m.stores, m.synced = stores, synced
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.stores, m.synced = nil, nil
		clear(m.written)
		m.mu.Unlock()
	}()
	if cache.WaitFor(ctx, "", synced...) {
		m.mu.Lock()
		m.listed = nil
		m.mu.Unlock()
		changed(nil, nil)
	}
	<-ctx.Done()
	return nil
}

// indexers find what is in a namespace, where that takes more than a name.
func (m *Mirror[T]) indexers() cache.Indexers {
	indexers := cache.Indexers{}
	if m.selection.ByNamespace && m.selection.Name == "" {
		indexers[cache.NamespaceIndex] = cache.MetaNamespaceIndexFunc
	}
	return indexers
}

func (m *Mirror[T]) tell(changed func(before, after *Object[T]), before, after any) {
	b, a := m.object(before), m.object(after)
	if b == nil && a == nil || !m.selects(b) && !m.selects(a) {
		return
	}
	m.mu.Lock()
	key := firstOf(a, b).Key()
	mine := m.written[key]
	echo := mine != nil && !mine.looked && mine.object != nil && a != nil && a.ResourceVersion == mine.object.ResourceVersion
	if mine != nil && mine.outdatedBy(b, a) {
		delete(m.written, key)
	}
	m.mu.Unlock()
	if !echo {
		changed(b, a)
	}
}

func firstOf[T any](a, b *Object[T]) *Object[T] {
	if a != nil {
		return a
	}
	return b
}

// outdatedBy says whether the watch has come as far as our own write.
func (w *own[T]) outdatedBy(before, after *Object[T]) bool {
	if w.object == nil {
		return after == nil || after.UID != w.deleted
	}
	if after == nil {
		return before.UID == w.object.UID
	}
	return !newer(w.object, after)
}

// newer says whether a is a later version than b. Versions of one kind of
// object compare as numbers (KEP-5504).
func newer[T any](a, b *Object[T]) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order > 0
}

func (m *Mirror[T]) object(object any) *Object[T] {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	o, _ := object.(*Object[T])
	return o
}

func (m *Mirror[T]) selects(o *Object[T]) bool {
	return o != nil && (m.selection.Name == "" || o.Name == m.selection.Name) &&
		(len(m.selection.Namespaces) == 0 || slices.Contains(m.selection.Namespaces, o.Namespace))
}

// Wrote has readers see the cluster's answer to a write at once, before the
// watch tells of it. Of an object that is not selected they see nothing.
func (m *Mirror[T]) Wrote(full runtime.Object) (*Object[T], error) {
	object, err := m.Thin(full)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Answers may come in another order than the writes they are to.
	if before := m.written[object.Key()]; before == nil || before.object == nil || newer(object, before.object) {
		m.wrote(object, &own[T]{object: object})
	}
	return object, nil
}

// wrote notes a write of ours. The caller holds mu.
func (m *Mirror[T]) wrote(object *Object[T], mine *own[T]) {
	if m.selects(object) && (m.stores != nil || m.listed != nil) {
		m.writes++
		mine.turn = m.writes
		m.written[object.Key()] = mine
	}
}

// Deleted has readers see at once that an object was deleted.
func (m *Mirror[T]) Deleted(object *Object[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wrote(object, &own[T]{deleted: object.UID})
}

// inStep says whether the mirror knows all there is. The caller holds mu.
func (m *Mirror[T]) inStep() bool {
	return m.stores != nil && !slices.ContainsFunc(m.synced, func(synced cache.DoneChecker) bool { return !cache.IsDone(synced) })
}

// Get reads one object; nil if there is none.
func (m *Mirror[T]) Get(ctx context.Context, key types.NamespacedName) (*Object[T], error) {
	m.mu.Lock()
	if m.inStep() {
		defer m.mu.Unlock()
		return m.known(key), nil
	}
	if m.listed != nil {
		defer m.mu.Unlock()
		return m.latest(key, m.listed[key], ""), nil
	}
	m.mu.Unlock()
	return m.Fresh(ctx, key)
}

// Fresh asks the cluster for one object; nil if there is none.
func (m *Mirror[T]) Fresh(ctx context.Context, key types.NamespacedName) (*Object[T], error) {
	one := m.selection
	one.Name = key.Name
	objects, err := m.ask(ctx, key.Namespace, one)
	if err != nil || len(objects) == 0 {
		return nil, err
	}
	return objects[0], nil
}

// store is where a namespace is mirrored. The caller holds mu.
func (m *Mirror[T]) store(namespace string) cache.Indexer {
	if store, ok := m.stores[namespace]; ok {
		return store
	}
	return m.stores[metav1.NamespaceAll]
}

// known is an object as the mirror has it. The caller holds mu.
func (m *Mirror[T]) known(key types.NamespacedName) *Object[T] {
	store := m.store(key.Namespace)
	if store == nil {
		return nil
	}
	name := key.Name
	if key.Namespace != "" {
		name = key.Namespace + "/" + key.Name
	}
	// Read before the object: what was told meanwhile only makes it later.
	version := store.LastStoreSyncResourceVersion()
	var object *Object[T]
	if found, ok, _ := store.GetByKey(name); ok {
		if object = m.object(found); !m.selects(object) {
			object = nil
		}
	}
	return m.latest(key, object, version)
}

// latest is the later one of what the cluster told, up to the version if that is
// known, and what we wrote. The caller holds mu.
//
// The watch may be as far as our write before its answer is here, and then have
// the object gone again: nothing would tell of that any more.
func (m *Mirror[T]) latest(key types.NamespacedName, told *Object[T], version string) *Object[T] {
	mine := m.written[key]
	switch {
	case mine == nil:
		return told
	case mine.object == nil && told != nil && told.UID == mine.deleted:
		return nil
	case mine.object == nil || reaches(version, mine.object.ResourceVersion):
		return told
	case told == nil || newer(mine.object, told):
		return mine.object
	}
	return told
}

// reaches says whether a version is known, and at least as late as another.
func reaches(version, other string) bool {
	order, err := resourceversion.CompareResourceVersion(version, other)
	return err == nil && order >= 0
}

// List reads all objects, sorted by namespace and name. Of a cluster that does
// not answer it says so at once for a while, rather than wait each time.
func (m *Mirror[T]) List(ctx context.Context) ([]*Object[T], error) {
	objects, ok := m.mirrored(metav1.NamespaceAll)
	if !ok {
		m.mu.Lock()
		before, mute := m.writes, m.mute
		if m.stores == nil || time.Since(m.muteAt) > muteFor {
			mute = nil
		}
		m.mu.Unlock()
		if mute != nil {
			return nil, mute
		}
		began := time.Now()
		for _, namespace := range m.namespaces() {
			found, err := m.ask(ctx, namespace, m.selection)
			if err != nil {
				m.failed(ctx, err, began)
				return nil, err
			}
			objects = append(objects, found...)
		}
		listed := make(map[types.NamespacedName]*Object[T], len(objects))
		for _, o := range objects {
			listed[o.Key()] = o
		}
		m.mu.Lock()
		if !m.inStep() {
			m.listed = listed
			// What was written since the cluster was asked is not in its answer.
			maps.DeleteFunc(m.written, func(_ types.NamespacedName, mine *own[T]) bool { return mine.turn <= before })
		}
		m.mu.Unlock()
	}
	slices.SortFunc(objects, Compare[T])
	return objects, nil
}

// failed remembers that List waited long, and in vain.
func (m *Mirror[T]) failed(ctx context.Context, err error, began time.Time) {
	if ctx.Err() != nil || time.Since(began) < longWait {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mute, m.muteAt = err, time.Now()
}

// In reads the objects of one namespace, in no order.
func (m *Mirror[T]) In(ctx context.Context, namespace string) ([]*Object[T], error) {
	if m.selection.Name != "" {
		object, err := m.Get(ctx, types.NamespacedName{Namespace: namespace, Name: m.selection.Name})
		if err != nil || object == nil {
			return nil, err
		}
		return []*Object[T]{object}, nil
	}
	if objects, ok := m.mirrored(namespace); ok {
		return objects, nil
	}
	return m.ask(ctx, namespace, m.selection)
}

// mirrored are the objects of a namespace, or of all, as the mirror has them; ok
// is false if it does not know.
func (m *Mirror[T]) mirrored(namespace string) (objects []*Object[T], ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.inStep() {
		return nil, false
	}
	seen := map[types.NamespacedName]bool{}
	for where, store := range m.stores {
		if namespace != metav1.NamespaceAll && store != m.store(namespace) {
			continue
		}
		version := store.LastStoreSyncResourceVersion()
		for _, found := range m.stored(store, namespace) {
			o := m.object(found)
			if !m.selects(o) {
				continue
			}
			seen[o.Key()] = true
			if o = m.latest(o.Key(), o, version); o != nil {
				objects = append(objects, o)
			}
		}
		for key, mine := range m.written {
			if mine.object == nil || seen[key] || namespace != metav1.NamespaceAll && key.Namespace != namespace ||
				where != metav1.NamespaceAll && key.Namespace != where {
				continue
			}
			if o := m.latest(key, nil, version); o != nil {
				objects = append(objects, o)
			}
		}
	}
	return objects, true
}

// stored lists a store's objects of a namespace, or all.
func (m *Mirror[T]) stored(store cache.Indexer, namespace string) []any {
	if namespace == metav1.NamespaceAll {
		return store.List()
	}
	found, err := store.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil { // there is no such index
		found = slices.DeleteFunc(store.List(), func(one any) bool { return m.object(one).Namespace != namespace })
	}
	return found
}

// ask lists from the cluster, a page at a time.
func (m *Mirror[T]) ask(ctx context.Context, namespace string, selection Selection) ([]*Object[T], error) {
	var objects []*Object[T]
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return m.api.List(ctx, namespace, options)
	})
	err := pages.EachListItem(ctx, selection.options(metav1.ListOptions{}), func(full runtime.Object) error {
		object, err := m.Thin(full)
		if err == nil && (selection.Name == "" || object.Name == selection.Name) {
			objects = append(objects, object)
		}
		return err
	})
	if errors.Is(err, context.Canceled) {
		return nil, err
	}
	where := "the cluster"
	if namespace != "" {
		where = "namespace " + namespace
	}
	return objects, Problem(err, "list %s of %s", m.api.Kind, where)
}
