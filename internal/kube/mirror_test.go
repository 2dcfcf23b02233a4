package kube_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/internal/kube"
)

// server is an API server's part that a mirror sees: lists and watches, with
// versions. Its watches can be held up, and broken.
type server struct {
	mu       sync.Mutex
	version  int
	objects  map[types.NamespacedName]*corev1.Secret
	history  []change
	watchers map[*watcher]bool
	held     bool
	// forgotten is the version before which nothing can be watched from.
	forgotten int
	lists     int
}

type change struct {
	kind   watch.EventType
	object *corev1.Secret
}

// watcher is one watch. It has been told the history up to next.
type watcher struct {
	*watch.FakeWatcher
	namespace string
	next      int
}

func newServer() *server {
	return &server{version: 10, objects: map[types.NamespacedName]*corev1.Secret{}, watchers: map[*watcher]bool{}}
}

// IsWatchListSemanticsUnSupported says that it cannot stream a list.
func (s *server) IsWatchListSemanticsUnSupported() bool { return true }

func (s *server) api() kube.API {
	return kube.API{
		Kind: "secrets", Example: &corev1.Secret{}, Client: s,
		List: func(_ context.Context, namespace string, options metav1.ListOptions) (runtime.Object, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lists++
			list := &corev1.SecretList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}}
			for key, o := range s.objects {
				if (namespace == "" || key.Namespace == namespace) && (options.FieldSelector == "" || options.FieldSelector == "metadata.name="+key.Name) {
					list.Items = append(list.Items, *o.DeepCopy())
				}
			}
			return list, nil
		},
		Watch: func(_ context.Context, namespace string, options metav1.ListOptions) (watch.Interface, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			from, _ := strconv.Atoi(options.ResourceVersion)
			if from < s.forgotten {
				return nil, apierrors.NewResourceExpired("too old resource version")
			}
			w := &watcher{FakeWatcher: watch.NewFakeWithChanSize(10_000, false), namespace: namespace}
			for w.next < len(s.history) {
				if v, _ := strconv.Atoi(s.history[w.next].object.ResourceVersion); v > from {
					break
				}
				w.next++
			}
			s.watchers[w] = true
			s.flush()
			return w, nil
		},
	}
}

// flush tells the watches what they have not been told. The caller holds mu.
func (s *server) flush() {
	for w := range s.watchers {
		for !s.held && w.next < len(s.history) {
			c := s.history[w.next]
			w.next++
			if w.namespace == "" || w.namespace == c.object.Namespace {
				w.Action(c.kind, c.object.DeepCopy())
			}
		}
	}
}

// hold holds the watches up, or lets them go on.
func (s *server) hold(held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
	s.flush()
}

// sever ends the watches, and forgets what they missed.
func (s *server) sever() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.Error(&metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired, Message: "too old resource version"})
	}
	clear(s.watchers)
	s.version++
	s.forgotten = s.version
}

// put makes or changes an object.
func (s *server) put(key types.NamespacedName, value string) *corev1.Secret {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	kind := watch.Modified
	o, ok := s.objects[key]
	if !ok {
		kind = watch.Added
		o = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: types.UID(fmt.Sprint("uid-", s.version))}}
	}
	o = o.DeepCopy()
	o.ResourceVersion, o.StringData = strconv.Itoa(s.version), map[string]string{"value": value}
	s.objects[key] = o
	s.history = append(s.history, change{kind, o})
	s.flush()
	return o.DeepCopy()
}

// remove deletes an object. The event has the version of the deletion.
func (s *server) remove(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		return
	}
	s.version++
	delete(s.objects, key)
	o = o.DeepCopy()
	o.ResourceVersion = strconv.Itoa(s.version)
	s.history = append(s.history, change{watch.Deleted, o})
	s.flush()
}

// content is what the server has, of the objects selected.
func (s *server) content(selection kube.Selection) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	content := map[string]string{}
	for key, o := range s.objects {
		if (selection.Name == "" || selection.Name == key.Name) && (len(selection.Namespaces) == 0 || slices.Contains(selection.Namespaces, key.Namespace)) {
			content[key.String()] = o.ResourceVersion + " " + o.StringData["value"]
		}
	}
	return content
}

type mirror = kube.Mirror[string]

func newMirror(s *server, selection kube.Selection) *mirror {
	return kube.NewMirror(s.api(), selection, func(o runtime.Object) (string, error) { return o.(*corev1.Secret).StringData["value"], nil })
}

// run watches until stop.
func run(t rapid.TB, m *mirror, changed func(before, after *kube.Object[string])) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	known, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx, func(before, after *kube.Object[string]) {
			if before == nil && after == nil {
				close(known)
			} else if changed != nil {
				changed(before, after)
			}
		}); err != nil {
			t.Errorf("Run ends with %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	select {
	case <-known:
	case <-time.After(30 * time.Second):
		t.Fatal("the mirror does not come to know all")
	}
	return stop
}

func plain(objects ...*kube.Object[string]) map[string]string {
	content := map[string]string{}
	for _, o := range objects {
		if o != nil {
			content[o.Key().String()] = o.ResourceVersion + " " + o.Value
		}
	}
	return content
}

// seen is what each way to read finds.
func seen(t rapid.TB, m *mirror, keys []types.NamespacedName) map[string]map[string]string {
	ctx := context.Background()
	list, err := m.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(list, func(a, b *kube.Object[string]) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	}) {
		t.Error("the list is not sorted")
	}
	if content := plain(list...); len(content) != len(list) {
		t.Errorf("an object is listed twice: %d of %d", len(content), len(list))
	}
	ways := map[string]map[string]string{"List": plain(list...), "In": {}, "Get": {}}
	for _, key := range keys {
		one, err := m.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(ways["Get"], plain(one))
		in, err := m.In(ctx, key.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(ways["In"], plain(in...))
	}
	return ways
}

func fresh(t rapid.TB, m *mirror, keys []types.NamespacedName) map[string]string {
	content := map[string]string{}
	for _, key := range keys {
		one, err := m.Fresh(context.Background(), key)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(content, plain(one))
	}
	return content
}

func eventually(t rapid.TB, what string, check func() error) {
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-time.After(200 * time.Microsecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("not in 30 s: %s: %v", what, err)
}

// TestMirrorAgrees: whatever we and others do, watched or not, readers see what
// we wrote or what came after it, at once, and what the cluster has in the end.
func TestMirrorAgrees(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		names := []string{"pull", "other"}
		places := []string{"a", "b", "c"}
		selection := kube.Selection{}
		if rapid.Bool().Draw(t, "one name") {
			selection.Name = "pull"
		}
		switch rapid.IntRange(0, 2).Draw(t, "namespaces") {
		case 1:
			selection.Namespaces = []string{"b", "a", "b"}
		case 2:
			selection.Namespaces = []string{"c"}
		}
		var keys []types.NamespacedName // those that are selected
		var every []types.NamespacedName
		for _, place := range places {
			for _, name := range names {
				key := types.NamespacedName{Namespace: place, Name: name}
				every = append(every, key)
				if (selection.Name == "" || selection.Name == name) && (len(selection.Namespaces) == 0 || slices.Contains(selection.Namespaces, place)) {
					keys = append(keys, key)
				}
			}
		}
		s := newServer()
		for _, key := range rapid.SliceOfN(rapid.SampledFrom(every), 0, 4).Draw(t, "before") {
			s.put(key, "before")
		}
		m := newMirror(s, selection)
		var stop func()
		watched := rapid.Bool().Draw(t, "watched")
		told := make(chan struct{}, 10_000)
		if watched {
			stop = run(t, m, func(_, _ *kube.Object[string]) { told <- struct{}{} })
			defer func() { stop() }()
		} else if _, err := m.List(ctx); err != nil {
			t.Fatal(err)
		}
		// least is the version from which on an object must be seen.
		least := map[types.NamespacedName]int{}
		steps := rapid.IntRange(1, 12).Draw(t, "steps")
		for i := range steps {
			key := rapid.SampledFrom(every).Draw(t, "key")
			value := fmt.Sprint("v", i)
			switch rapid.SampledFrom([]string{"put", "remove", "write", "delete", "reversed", "hold", "go on", "late", "list"}).Draw(t, "step") {
			case "put":
				s.put(key, value)
			case "remove":
				s.remove(key)
				delete(least, key)
			case "write":
				o := s.put(key, value)
				if _, err := m.Wrote(o); err != nil {
					t.Fatal(err)
				}
				least[key], _ = strconv.Atoi(o.ResourceVersion)
			case "late": // others are at it between our write and its answer
				o := s.put(key, value)
				if rapid.Bool().Draw(t, "removed") {
					s.remove(key)
					delete(least, key)
				} else {
					s.put(key, value+"+")
				}
				if _, err := m.Wrote(o); err != nil {
					t.Fatal(err)
				}
			case "reversed": // two writes, whose answers come in the other order
				first := s.put(key, value)
				second := s.put(key, value+"+")
				for _, o := range []*corev1.Secret{second, first} {
					if _, err := m.Wrote(o); err != nil {
						t.Fatal(err)
					}
				}
				least[key], _ = strconv.Atoi(second.ResourceVersion)
			case "delete":
				if now, err := m.Fresh(ctx, key); err == nil && now != nil {
					s.remove(key)
					m.Deleted(now)
					if got, err := m.Get(ctx, key); err == nil && got != nil && got.UID == now.UID && slices.Contains(keys, key) {
						t.Fatalf("%s is seen after its deletion", key)
					}
					delete(least, key)
				}
			case "hold":
				s.hold(true)
			case "go on":
				s.hold(false)
			case "list":
				if _, err := m.List(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for key, version := range least {
				if !slices.Contains(keys, key) {
					continue
				}
				got, err := m.Get(ctx, key)
				if err != nil {
					t.Fatal(err)
				}
				if got == nil {
					if _, there := s.content(selection)[key.String()]; there {
						t.Fatalf("our write of %s is not seen", key)
					}
					continue
				}
				if v, _ := strconv.Atoi(got.ResourceVersion); v < version {
					t.Fatalf("%s is seen as of version %d, and we wrote %d", key, v, version)
				}
			}
		}
		s.hold(false)
		if !watched {
			if _, err := m.List(ctx); err != nil {
				t.Fatal(err)
			}
		}
		want := s.content(selection)
		eventually(t, "all ways agree", func() error {
			for way, got := range seen(t, m, keys) {
				if diff := cmp.Diff(want, got); diff != "" {
					return fmt.Errorf("%s (-cluster +mirror):\n%s", way, diff)
				}
			}
			return nil
		})
		if diff := cmp.Diff(want, fresh(t, m, keys)); diff != "" {
			t.Fatalf("Fresh (-cluster +mirror):\n%s", diff)
		}
		if watched {
			before := s.lists
			for range 3 {
				seen(t, m, keys)
			}
			if s.lists != before {
				t.Fatalf("reading cost %d requests", s.lists-before)
			}
			stop()
			// It answers from the cluster again.
			if diff := cmp.Diff(want, seen(t, m, keys)["List"]); diff != "" {
				t.Fatalf("afterwards (-cluster +mirror):\n%s", diff)
			}
		}
	})
}

func key(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func get(t testing.TB, m *mirror, key types.NamespacedName) string {
	t.Helper()
	o, err := m.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	if o == nil {
		return ""
	}
	return o.Value
}

// TestMirrorTells of what others did, and not again of what we did.
func TestMirrorTells(t *testing.T) {
	t.Parallel()
	s := newServer()
	s.put(key("a", "pull"), "first")
	m := newMirror(s, kube.Selection{Name: "pull"})
	told := make(chan string, 100)
	stop := run(t, m, func(before, after *kube.Object[string]) {
		text := "nothing"
		if before != nil {
			text = before.Value
		}
		if after != nil {
			told <- text + " -> " + after.Namespace + " " + after.Value
			return
		}
		told <- text + " -> nothing"
	})
	t.Cleanup(stop)
	wants := func(want string) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("not told %q", want)
		}
	}
	wants("nothing -> a first")
	// The watch is late: readers see our write all the same.
	s.hold(true)
	o := s.put(key("a", "pull"), "ours")
	if _, err := m.Wrote(o); err != nil {
		t.Fatal(err)
	}
	if got := get(t, m, key("a", "pull")); got != "ours" {
		t.Errorf("after our write: %q", got)
	}
	s.put(key("b", "other"), "not selected")
	s.put(key("b", "pull"), "theirs")
	s.hold(false)
	wants("nothing -> b theirs")
	s.remove(key("a", "pull"))
	wants("ours -> nothing")
	if got := get(t, m, key("a", "pull")); got != "" {
		t.Errorf("after its deletion: %q", got)
	}
	// Our own deletion is told: whoever reads then finds nothing.
	now, err := m.Get(t.Context(), key("b", "pull"))
	if err != nil {
		t.Fatal(err)
	}
	m.Deleted(now)
	s.remove(key("b", "pull"))
	wants("theirs -> nothing")
	// Another of the name, right after.
	s.put(key("b", "pull"), "anew")
	wants("nothing -> b anew")
	if got := get(t, m, key("b", "pull")); got != "anew" {
		t.Errorf("made anew: %q", got)
	}
}

// TestMirrorLateAnswer: the watch has told of our write, and that someone undid
// it, before the write's answer is here. It must not come back.
func TestMirrorLateAnswer(t *testing.T) {
	t.Parallel()
	for what, undo := range map[string]func(*server){
		"deleted": func(s *server) { s.remove(key("a", "pull")) },
		"changed": func(s *server) { s.put(key("a", "pull"), "theirs") },
		"anew":    func(s *server) { s.remove(key("a", "pull")); s.put(key("a", "pull"), "theirs") },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newServer()
			m := newMirror(s, kube.Selection{Name: "pull"})
			t.Cleanup(run(t, m, nil))
			o := s.put(key("a", "pull"), "ours")
			undo(s)
			s.put(key("z", "pull"), "last")
			eventually(t, "the watch", func() error {
				if get(t, m, key("z", "pull")) != "last" {
					return fmt.Errorf("it has not told yet")
				}
				return nil
			})
			if _, err := m.Wrote(o); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"deleted": "", "changed": "theirs", "anew": "theirs"}[what]
			for _, ways := range []map[string]string{
				{"Get": get(t, m, key("a", "pull"))},
				{"List": seen(t, m, nil)["List"]["a/pull"]},
			} {
				for way, got := range ways {
					if !strings.HasSuffix(got, want) || want == "" && got != "" {
						t.Errorf("%s: %q, want %q", way, got, want)
					}
				}
			}
		})
	}
}

// TestMirrorLostWatch: a watch that expired is taken up again by a new look at
// everything, also at what we wrote and someone deleted meanwhile.
func TestMirrorLostWatch(t *testing.T) {
	t.Parallel()
	s := newServer()
	s.put(key("a", "pull"), "first")
	s.put(key("b", "pull"), "first")
	m := newMirror(s, kube.Selection{Name: "pull"})
	told := make(chan string, 100)
	t.Cleanup(run(t, m, func(before, after *kube.Object[string]) {
		if after == nil {
			told <- before.Namespace + " gone"
			return
		}
		told <- after.Namespace + " " + after.Value
	}))
	s.hold(true)
	made := s.put(key("c", "pull"), "ours")
	if _, err := m.Wrote(made); err != nil {
		t.Fatal(err)
	}
	if got := get(t, m, key("c", "pull")); got != "ours" {
		t.Fatalf("after our write: %q", got)
	}
	s.remove(key("c", "pull"))
	s.remove(key("b", "pull"))
	s.put(key("a", "pull"), "changed")
	s.sever()
	s.hold(false)
	want := s.content(kube.Selection{})
	eventually(t, "the mirror is in step again", func() error {
		for way, got := range seen(t, m, []types.NamespacedName{key("a", "pull"), key("b", "pull"), key("c", "pull")}) {
			if diff := cmp.Diff(want, got); diff != "" {
				return fmt.Errorf("%s (-cluster +mirror):\n%s", way, diff)
			}
		}
		return nil
	})
	var all []string
	eventually(t, "all is told", func() error {
		select {
		case one := <-told:
			all = append(all, one)
		default:
		}
		if !slices.Contains(all, "a changed") || !slices.Contains(all, "b gone") {
			return fmt.Errorf("told %v", all)
		}
		return nil
	})
}

// TestMirrorListIsNoOlderThanAWrite that was answered while the list was asked
// for.
func TestMirrorListIsNoOlderThanAWrite(t *testing.T) {
	t.Parallel()
	s := newServer()
	s.put(key("a", "pull"), "first")
	api := s.api()
	list, between := api.List, func() {}
	api.List = func(ctx context.Context, namespace string, options metav1.ListOptions) (runtime.Object, error) {
		found, err := list(ctx, namespace, options)
		between()
		return found, err
	}
	m := kube.NewMirror(api, kube.Selection{Name: "pull"}, func(o runtime.Object) (string, error) { return o.(*corev1.Secret).StringData["value"], nil })
	if _, err := m.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	between = func() {
		if _, err := m.Wrote(s.put(key("a", "pull"), "ours")); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, m, key("a", "pull")); got != "ours" {
		t.Errorf("after our write: %q", got)
	}
}

// TestMirrorKeepsLittle of an object: no more than it is for.
func TestMirrorKeepsLittle(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100_000)
	full := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: "pull", UID: "uid", ResourceVersion: "7", Generation: 3,
			Labels: map[string]string{kube.Owner: "me", "theirs": "kept"},
			Annotations: map[string]string{
				kube.Exclude: "true", kube.Adopt: "true", kube.Login: "l", "kubectl.kubernetes.io/last-applied-configuration": long,
			},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: long}},
			OwnerReferences: []metav1.OwnerReference{{Name: long}}, Finalizers: []string{long},
		},
		StringData: map[string]string{"value": "v", "other": long},
	}
	got, err := newMirror(newServer(), kube.Selection{}).Thin(full)
	if err != nil {
		t.Fatal(err)
	}
	want := &kube.Object[string]{
		Namespace: "a", Name: "pull", UID: "uid", ResourceVersion: "7",
		Labels:      map[string]string{kube.Owner: "me"},
		Annotations: map[string]string{kube.Exclude: "true", kube.Adopt: "true", kube.Login: "l"},
		Value:       "v",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if !got.Excluded() || got.Key() != key("a", "pull") {
		t.Errorf("the object is %v", got)
	}
}

// TestMirrorErrors say what could not be read, and of where.
func TestMirrorErrors(t *testing.T) {
	t.Parallel()
	api := newServer().api()
	api.List = func(context.Context, string, metav1.ListOptions) (runtime.Object, error) {
		return nil, apierrors.NewForbidden(corev1.Resource("secrets"), "", fmt.Errorf("no"))
	}
	m := kube.NewMirror(api, kube.Selection{}, func(runtime.Object) (string, error) { return "", nil })
	_, listed := m.List(t.Context())
	_, got := m.Get(t.Context(), key("a", "x"))
	_, in := m.In(t.Context(), "a")
	for err, says := range map[error]string{listed: "list secrets of the cluster", got: "list secrets of namespace a", in: "list secrets of namespace a"} {
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}

// TestMirrorTellsNotesApart, whatever someone writes into an annotation.
func TestMirrorTellsNotesApart(t *testing.T) {
	t.Parallel()
	m := newMirror(newServer(), kube.Selection{})
	for _, annotations := range []map[string]string{
		{kube.Adopt: "true " + kube.Exclude + ":true"}, {kube.Adopt: "true", kube.Exclude: "true"},
		{kube.Adopt: "", kube.Exclude: ""}, {kube.Adopt: `" "`}, {kube.Exclude: "true"}, {},
	} {
		got, err := m.Thin(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}})
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(annotations, got.Annotations) || got.Excluded() != (annotations[kube.Exclude] == "true") {
			t.Errorf("%q is seen as %q", annotations, got.Annotations)
		}
	}
}

// TestMirrorListIsSorted by namespace and then by name, also where a namespace's
// name begins with another's.
func TestMirrorListIsSorted(t *testing.T) {
	t.Parallel()
	s := newServer()
	for _, k := range []types.NamespacedName{key("a-b", "x"), key("a", "z"), key("a", "y-1"), key("a", "y"), key("a.b", "w"), key("a0", "v")} {
		s.put(k, "value")
	}
	m := newMirror(s, kube.Selection{})
	check := func(mode string) {
		t.Helper()
		objects, err := m.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range objects {
			got = append(got, o.Key().String())
		}
		if diff := cmp.Diff([]string{"a/y", "a/y-1", "a/z", "a-b/x", "a.b/w", "a0/v"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", mode, diff)
		}
	}
	check("unwatched")
	stop := run(t, m, func(_, _ *kube.Object[string]) {})
	defer stop()
	check("watched")
}
