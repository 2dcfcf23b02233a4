package cluster_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/workload/cluster"
)

// server is a fake apiserver: it has namespaces and lists, in pages, in protobuf
// where the client takes it, as of the Kubernetes documentation ("API Concepts",
// "Retrieving large results sets in chunks").
type server struct {
	t   testing.TB
	url string

	mu      sync.Mutex
	objects map[string][]runtime.Object // by the path of the list in all namespaces
	// fault may answer in place of the server; page counts from 1.
	fault func(resource string, page int) *apierrors.StatusError
	// answer is what is sent in place of every list.
	answer string
	asked  []string
}

func newServer(t testing.TB, objects ...runtime.Object) *server {
	s := &server{t: t, objects: map[string][]runtime.Object{}, fault: func(string, int) *apierrors.StatusError { return nil }}
	for _, object := range objects {
		s.add(object)
	}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	s.url = web.URL
	return s
}

// kindOf is what an object's type says where the object does not.
func kindOf(t testing.TB, object runtime.Object) schema.GroupVersionKind {
	if kind := object.GetObjectKind().GroupVersionKind(); !kind.Empty() {
		return kind
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(object)
	if err != nil {
		t.Fatal(err)
	}
	return kinds[0]
}

func pathOf(g schema.GroupVersionResource) string {
	if g.Group == "" {
		return "/api/" + g.Version + "/" + g.Resource
	}
	return "/apis/" + g.Group + "/" + g.Version + "/" + g.Resource
}

func (s *server) add(object runtime.Object) {
	resource, _ := meta.UnsafeGuessKindToResource(kindOf(s.t, object))
	s.objects[pathOf(resource)] = append(s.objects[pathOf(resource)], object)
}

// reader opens the cluster as the product does.
func (s *server) reader(change ...func(*cluster.Config)) *cluster.Reader {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "prod", "contexts": [{"name": "prod", "context": {"cluster": "x", "user": "x"}}],
		"users": [{"name": "x", "user": {}}], "clusters": [{"name": "x", "cluster": {"server": %q}}]}`, s.url)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	opened, err := kube.Open(kube.Config{Kubeconfig: path, Context: "prod"})
	if err != nil {
		s.t.Fatal(err)
	}
	config := cluster.Config{Cluster: opened}
	for _, c := range change {
		c(&config)
	}
	return cluster.New(config)
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.URL.Path+"?"+r.URL.RawQuery)
	path, namespace := r.URL.Path, ""
	if before, after, ok := strings.Cut(path, "/namespaces/"); ok {
		var rest string
		if namespace, rest, ok = strings.Cut(after, "/"); !ok {
			s.namespace(w, r, namespace)
			return
		}
		path = before + "/" + rest
	}
	resource := path[strings.LastIndex(path, "/")+1:]
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	page := 1
	if limit > 0 {
		page += from / limit
	}
	if err := s.fault(resource, page); err != nil {
		s.send(w, r, int(err.Status().Code), &err.ErrStatus)
		return
	}
	if s.answer != "" {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, s.answer)
		return
	}
	objects, served := s.objects[path]
	if !served && !slices.Contains([]string{"pods", "replicasets", "controllerrevisions", "jobs", "cronjobs", "deployments", "statefulsets", "daemonsets", "replicationcontrollers"}, resource) {
		s.send(w, r, http.StatusNotFound, &apierrors.NewNotFound(schema.GroupResource{}, resource).ErrStatus)
		return
	}
	objects = slices.DeleteFunc(slices.Clone(objects), func(object runtime.Object) bool {
		about, err := meta.Accessor(object)
		return err != nil || namespace != "" && about.GetNamespace() != namespace
	})
	about := metav1.ListMeta{ResourceVersion: "7"}
	objects = objects[min(from, len(objects)):]
	if limit > 0 && len(objects) > limit {
		objects, about.Continue = objects[:limit], strconv.Itoa(from+limit)
	}
	s.list(w, r, path, objects, about)
}

func (s *server) namespace(w http.ResponseWriter, r *http.Request, name string) {
	for _, objects := range s.objects {
		for _, object := range objects {
			if about, err := meta.Accessor(object); err == nil && about.GetNamespace() == name {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": %q}}`, name)
				return
			}
		}
	}
	s.send(w, r, http.StatusNotFound, &apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, name).ErrStatus)
}

func (s *server) list(w http.ResponseWriter, r *http.Request, path string, objects []runtime.Object, about metav1.ListMeta) {
	if len(objects) > 0 {
		if _, ok := objects[0].(*unstructured.Unstructured); ok {
			list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List"}}
			for _, object := range objects {
				list.Items = append(list.Items, *object.(*unstructured.Unstructured))
			}
			list.SetResourceVersion(about.ResourceVersion)
			list.SetContinue(about.Continue)
			text, err := list.MarshalJSON()
			if err != nil {
				s.t.Error(err)
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(text)
			return
		}
	}
	kinds := map[string]string{
		"pods": "Pod", "replicasets": "ReplicaSet", "controllerrevisions": "ControllerRevision", "jobs": "Job", "cronjobs": "CronJob",
		"deployments": "Deployment", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet", "replicationcontrollers": "ReplicationController",
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	version := schema.GroupVersion{Version: "v1"}
	if parts[0] == "apis" {
		version.Group = parts[1]
	}
	list, err := scheme.Scheme.New(version.WithKind(kinds[parts[len(parts)-1]] + "List"))
	if err != nil {
		s.t.Error(err)
		return
	}
	if err := meta.SetList(list, objects); err != nil {
		s.t.Error(err)
	}
	lists, err := meta.ListAccessor(list)
	if err != nil {
		s.t.Error(err)
		return
	}
	lists.SetResourceVersion(about.ResourceVersion)
	lists.SetContinue(about.Continue)
	s.send(w, r, http.StatusOK, list)
}

func (s *server) send(w http.ResponseWriter, r *http.Request, code int, object runtime.Object) {
	kind := runtime.ContentTypeJSON
	if strings.HasPrefix(r.Header.Get("Accept"), runtime.ContentTypeProtobuf) {
		kind = runtime.ContentTypeProtobuf
	}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), kind)
	gvk := kindOf(s.t, object)
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(code)
	if err := scheme.Codecs.EncoderForVersion(info.Serializer, gvk.GroupVersion()).Encode(object, w); err != nil {
		s.t.Error(err)
	}
}
