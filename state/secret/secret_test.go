package secret_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/testkit/fakekube"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
	"github.com/regkeeper/regkeeper/state/secret"
	"github.com/regkeeper/regkeeper/state/statetest"
)

var key = types.NamespacedName{Namespace: "regkeeper", Name: "regkeeper-state"}

// dataKey is where the document is in the Secret: a contract between versions.
const dataKey = "state.json.gz"

// world is an API with the store's Secret in it.
type world struct {
	*testing.T
	api     *fakekube.API
	cluster *kube.Cluster
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	api := fakekube.NewAPI(t, objects...)
	api.Conflicts("secrets")
	return &world{T: t, api: api, cluster: &kube.Cluster{Core: api.Core}}
}

func (w *world) get() *corev1.Secret {
	w.Helper()
	found, err := w.api.Core.Secrets(key.Namespace).Get(w.Context(), key.Name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return found
}

// writes are the requests that change something.
func (w *world) writes() (verbs []string) {
	for _, action := range w.api.Actions() {
		if verb := action.GetVerb(); verb != "get" && verb != "list" && verb != "watch" {
			verbs = append(verbs, verb)
		}
	}
	return verbs
}

// open is a store that has loaded.
func (w *world) open() (*secret.Store, *state.Document) {
	w.Helper()
	store := secret.Open(w.cluster, key)
	doc, err := store.Load(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return store, doc
}

func (w *world) save(store *secret.Store, doc *state.Document) {
	w.Helper()
	if err := store.Save(w.Context(), doc); err != nil {
		w.Fatal(err)
	}
}

// named is a document that can be told from others.
func named(id string) *state.Document {
	doc := state.New()
	doc.Registry("h").Current = &state.Credential{Credential: credential.Credential{ID: id, Secret: credential.NewSecret(statetest.Marker + id)}}
	return doc
}

func TestConformance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	statetest.Run(t, func(*testing.T) state.Store { return secret.Open(w.cluster, key) })
	found := w.get()
	if found.Labels[kube.ManagedBy] != kube.Manager || found.Type != "regkeeper.dev/state" || len(found.Data) != 1 || found.Data[dataKey] == nil {
		t.Errorf("the Secret is %+v", found)
	}
}

func TestOneOfTwoWritersIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, _ := w.open()
	two, _ := w.open()
	refused := func(store *secret.Store, what string) {
		t.Helper()
		before := w.get()
		err := store.Save(t.Context(), named("refused"))
		if !errors.Is(err, state.ErrChanged) || problem.KindOf(err) != problem.Busy || problem.HintOf(err) == "" || strings.Contains(fmt.Sprint(err), statetest.Marker) {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(before, w.get()); diff != "" {
			t.Errorf("%s: it wrote all the same (-was +is):\n%s", what, diff)
		}
	}
	w.save(one, named("one"))
	refused(two, "both have seen none")
	refused(two, "and again, since it has not loaded")
	doc, err := two.Load(t.Context())
	if err != nil || doc.Registries["h"].Current.ID != "one" {
		t.Fatalf("loaded anew: %v, %v", doc, err)
	}
	w.save(two, named("two"))
	refused(one, "the other wrote later")
}

// TestLostAnswer has a write take effect and its answer get lost: the writer
// learns by the next write that it does not know what is written.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store, _ := w.open()
	w.save(store, named("one"))
	lost := false
	w.api.PrependReactor("update", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if lost {
			return false, nil, nil
		}
		lost = true
		update := action.(clienttesting.UpdateAction)
		update.GetObject().(*corev1.Secret).ResourceVersion = "unknown"
		if err := w.api.Tracker().Update(update.GetResource(), update.GetObject(), update.GetNamespace()); err != nil {
			t.Error(err)
		}
		return true, nil, apierrors.NewTimeoutError("etcd took too long", 1)
	})
	if err := store.Save(t.Context(), named("two")); problem.KindOf(err) != problem.Unreachable || errors.Is(err, state.ErrChanged) {
		t.Errorf("the write whose answer is lost: %v", err)
	}
	if err := store.Save(t.Context(), named("three")); !errors.Is(err, state.ErrChanged) {
		t.Errorf("the write after: %v", err)
	}
	if doc, err := store.Load(t.Context()); err != nil || doc.Registries["h"].Current.ID != "two" {
		t.Errorf("loaded: %v, %v", doc, err)
	}
	w.save(store, named("three"))
}

func TestDeletedSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store, _ := w.open()
	w.save(store, named("one"))
	if err := w.api.Core.Secrets(key.Namespace).Delete(t.Context(), key.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := store.Save(t.Context(), named("two")); !errors.Is(err, state.ErrChanged) {
		t.Errorf("a write to one that is gone: %v", err)
	}
	doc, err := store.Load(t.Context())
	if err != nil || len(doc.Registries) != 0 || doc.Places == nil {
		t.Errorf("loaded: %v, %v", doc, err)
	}
	w.save(store, named("three"))
	if _, doc := w.open(); doc.Registries["h"].Current.ID != "three" {
		t.Errorf("it holds %v", doc)
	}
}

func packed(t *testing.T, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := gzip.NewWriter(&out)
	_, err := writer.Write(text)
	if err := errors.Join(err, writer.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestNotOurs looks at Secrets that cannot be used: each is said to be what it
// is, and left alone.
func TestNotOurs(t *testing.T) {
	t.Parallel()
	text, err := state.Encode(statetest.Full())
	if err != nil {
		t.Fatal(err)
	}
	whole := packed(t, text)
	w := newWorld(t)
	for name, row := range map[string]struct {
		kind corev1.SecretType
		data map[string][]byte
		want problem.Kind
		text string
	}{
		"somebody else's":           {corev1.SecretTypeOpaque, map[string][]byte{"password": []byte(statetest.Marker)}, problem.Config, "is of type Opaque"},
		"somebody else's like ours": {corev1.SecretTypeOpaque, map[string][]byte{dataKey: whole}, problem.Config, "is of type Opaque"},
		"a delivered one":           {corev1.SecretTypeDockerConfigJson, map[string][]byte{".dockerconfigjson": []byte("{}")}, problem.Config, "is of type kubernetes.io/dockerconfigjson"},
		"without data":              {"regkeeper.dev/state", nil, problem.Damaged, "state Secret regkeeper/without-data"},
		"not packed":                {"regkeeper.dev/state", map[string][]byte{dataKey: text}, problem.Damaged, "gzip"},
		"cut":                       {"regkeeper.dev/state", map[string][]byte{dataKey: whole[:len(whole)/2]}, problem.Damaged, "EOF"},
		"one byte is another":       {"regkeeper.dev/state", map[string][]byte{dataKey: append(bytes.Clone(whole[:len(whole)-6]), append([]byte{whole[len(whole)-6] ^ 1}, whole[len(whole)-5:]...)...)}, problem.Damaged, "checksum"},
		"no document":               {"regkeeper.dev/state", map[string][]byte{dataKey: packed(t, []byte("{}"))}, problem.Damaged, "state Secret"},
		"half a document":           {"regkeeper.dev/state", map[string][]byte{dataKey: packed(t, text[:len(text)/2])}, problem.Damaged, "state Secret"},
		"endless":                   {"regkeeper.dev/state", map[string][]byte{dataKey: packed(t, make([]byte, 65<<20))}, problem.Damaged, "state Secret"},
	} {
		t.Run(name, func(t *testing.T) {
			key := types.NamespacedName{Namespace: key.Namespace, Name: strings.ReplaceAll(name, " ", "-")}
			before := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Type: row.kind, Data: row.data}
			before, err := w.api.Core.Secrets(key.Namespace).Create(t.Context(), before, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			store := secret.Open(w.cluster, key)
			_, err = store.Load(t.Context())
			if problem.KindOf(err) != row.want || !strings.Contains(fmt.Sprint(err), row.text) || problem.HintOf(err) == "" {
				t.Errorf("load: %v of kind %q, hint %q", err, problem.KindOf(err), problem.HintOf(err))
			}
			if strings.Contains(fmt.Sprint(err, problem.HintOf(err)), statetest.Marker) {
				t.Errorf("the error holds a secret: %v", err)
			}
			if err := store.Save(t.Context(), named("x")); !errors.Is(err, state.ErrChanged) {
				t.Errorf("a write all the same: %v", err)
			}
			after, err := w.api.Core.Secrets(key.Namespace).Get(t.Context(), key.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("it was changed (-was +is):\n%s", diff)
			}
		})
	}
}

// TestDamagedLater has the Secret be damaged when the store knows it already.
func TestDamagedLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store, _ := w.open()
	w.save(store, named("one"))
	damaged := w.get()
	damaged.Data[dataKey] = []byte("x")
	if _, err := w.api.Core.Secrets(key.Namespace).Update(t.Context(), damaged, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := w.get()
	for range 2 {
		if err := store.Save(t.Context(), named("two")); !errors.Is(err, state.ErrChanged) {
			t.Errorf("save: %v", err)
		}
		if _, err := store.Load(t.Context()); problem.KindOf(err) != problem.Damaged {
			t.Errorf("load: %v", err)
		}
	}
	if diff := cmp.Diff(before, w.get()); diff != "" {
		t.Errorf("it was changed (-was +is):\n%s", diff)
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	writer, _ := w.open()
	w.save(writer, statetest.Full())
	before := len(w.writes())
	store := secret.ReadOnly(w.cluster, key)
	doc, err := store.Load(t.Context())
	if diff := cmp.Diff(statetest.Full(), doc, cmpopts.EquateEmpty()); err != nil || diff != "" {
		t.Errorf("load: %v (-want +got):\n%s", err, diff)
	}
	if err := store.Save(t.Context(), named("x")); problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "" {
		t.Errorf("save: %v", err)
	}
	if n := len(w.writes()) - before; n != 0 {
		t.Errorf("%d writes", n)
	}
}

func TestRefusedByTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, key.Name, errors.New("no"))
	w.api.PrependReactor("*", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, forbidden })
	store := secret.Open(w.cluster, key)
	_, loadErr := store.Load(t.Context())
	saveErr := store.Save(t.Context(), named("x"))
	for _, err := range []error{loadErr, saveErr} {
		if problem.KindOf(err) != problem.Denied || !strings.Contains(err.Error(), "state Secret regkeeper/regkeeper-state") || problem.HintOf(err) == "" {
			t.Errorf("%v of kind %q", err, problem.KindOf(err))
		}
	}
}

// maxSecret is how many bytes of data an apiserver takes in a Secret
// (k8s.io/kubernetes, core.MaxSecretSize).
const maxSecret = 1 << 20

// TestThousandsOfPlacesFit counts the bytes of 5,000 places, half of which fail.
func TestThousandsOfPlacesFit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	random := rand.New(rand.NewPCG(1, 2))
	word := func(n int) string {
		letters := make([]byte, n)
		for i := range letters {
			letters[i] = "bcdfghjklmnpqrstvwxz2456789"[random.IntN(27)]
		}
		return string(letters)
	}
	doc := statetest.Full()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 5000 {
		pod := "namespace-" + word(8) + "/runner-" + word(10) + "-" + word(5)
		at = at.Add(time.Duration(random.Int64N(int64(time.Minute))))
		place := doc.Place("runners@production", credential.Place(pod+"/act-runner"))
		place.Delivered, place.Verified = at, at.Add(time.Duration(random.Int64N(int64(time.Hour))))
		if i%2 == 0 {
			place.Trouble = &state.Trouble{
				Text: "write /root/.docker/config.json in pod " + pod + ": command terminated with exit code 1: sh: can't create /root/.docker/config.json: Read-only file system",
				Hint: "mount a volume there that can be written, or name another path: path: /home/runner/.docker/config.json", Since: at,
			}
		}
	}
	store, _ := w.open()
	w.save(store, doc)
	size := len(w.get().Data[dataKey])
	text, err := state.Encode(doc)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("5,000 places take %d bytes of %d, unpacked %d", size, maxSecret, len(text))
	if size > maxSecret/2 {
		t.Errorf("they take %d bytes, want at most half of what a Secret holds", size)
	}
	_, loaded := w.open()
	if again, err := state.Encode(loaded); err != nil || !bytes.Equal(text, again) {
		t.Errorf("what is loaded differs: %v", err)
	}
}

func TestInstance(t *testing.T) {
	t.Parallel()
	namespace := func(name, uid string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid)}}
	}
	id := func(w *world, key types.NamespacedName) string {
		t.Helper()
		id, err := secret.Instance(t.Context(), w.cluster, key)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	w := newWorld(t, namespace("regkeeper", "u1"), namespace("other", "u2"))
	first := id(w, key)
	folder, err := state.Instance(t.TempDir())
	if err != nil || len(first) != len(folder) {
		t.Errorf("the id is %q, that of a folder %q, %v", first, folder, err)
	}
	store, _ := w.open()
	w.save(store, statetest.Full())
	if again := id(w, key); again != first {
		t.Errorf("with a state it is %q, without %q", again, first)
	}
	if elsewhere := id(newWorld(t, namespace("regkeeper", "u1")), key); elsewhere != first {
		t.Errorf("of the same namespace it is %q and %q", elsewhere, first)
	}
	for what, other := range map[string]string{
		"another namespace":                id(w, types.NamespacedName{Namespace: "other", Name: key.Name}),
		"another name":                     id(w, types.NamespacedName{Namespace: key.Namespace, Name: "other"}),
		"the namespace, made anew":         id(newWorld(t, namespace("regkeeper", "u3")), key),
		"the same name in another cluster": id(newWorld(t, namespace("regkeeper", "u4")), key),
	} {
		if other == first {
			t.Errorf("%s has the same id", what)
		}
	}
	if _, err := secret.Instance(t.Context(), newWorld(t).cluster, key); problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), "namespace regkeeper") {
		t.Errorf("of no namespace: %v", err)
	}
}
