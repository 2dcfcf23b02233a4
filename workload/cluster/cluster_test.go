package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/workload/cluster"
)

// hash is a digest of one digit.
func hash(digit string) string { return "sha256:" + strings.Repeat(digit, 64) }

func about(namespace, name string, controller ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name)}
	if len(controller) > 0 {
		is := true
		m.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: controller[0], Kind: controller[1], Name: controller[2], UID: types.UID(namespace + "/" + controller[2]), Controller: &is,
		}}
	}
	return m
}

func containers(images ...string) []corev1.Container {
	var list []corev1.Container
	for i, image := range images {
		list = append(list, corev1.Container{Name: fmt.Sprint("c", i), Image: image})
	}
	return list
}

func template(images ...string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: containers(images...)}}
}

func replicaSet(name, deployment, revision string, replicas int32, image string) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{ObjectMeta: about("team", name, "apps/v1", "Deployment", deployment), Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Template: template(image)}}
	set.Annotations = map[string]string{"deployment.kubernetes.io/revision": revision}
	return set
}

func pod(meta metav1.ObjectMeta, image, imageID string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: containers(image)}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c0", Image: image, ImageID: imageID}}
	return p
}

// told are uses as text: what, and where.
func told(t *testing.T, r *cluster.Reader) (uses, unknown []string) {
	t.Helper()
	found, unknown := r.Uses(t.Context())
	for _, use := range found {
		uses = append(uses, use.Reference.String()+" by "+use.Where)
	}
	return uses, unknown
}

func check(t *testing.T, s *server, want []string, change ...func(*cluster.Config)) {
	t.Helper()
	uses, unknown := told(t, s.reader(change...))
	if diff := cmp.Diff(want, uses); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
	if len(unknown) > 0 {
		t.Errorf("not known: %q", unknown)
	}
}

func TestWorkloads(t *testing.T) {
	t.Parallel()
	initial := template("r.example/team/api:1")
	initial.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "r.example/team/migrate:1"}}
	initial.Spec.Volumes = []corev1.Volume{{Name: "model", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "r.example/team/model:1"}}}}
	job := batchv1.JobSpec{Template: template("r.example/team/job:1@" + hash("a"))}
	bare := template("r.example/team/old")
	s := newServer(t,
		&appsv1.Deployment{ObjectMeta: about("team", "api"), Spec: appsv1.DeploymentSpec{Template: initial}},
		&appsv1.StatefulSet{ObjectMeta: about("team", "db"), Spec: appsv1.StatefulSetSpec{Template: template("postgres")}},
		&appsv1.DaemonSet{ObjectMeta: about("team", "agent"), Spec: appsv1.DaemonSetSpec{Template: template("r.example/team/agent@" + hash("b"))}},
		&batchv1.CronJob{ObjectMeta: about("team", "backup"), Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template("r.example/team/backup:2")}}}},
		&batchv1.Job{ObjectMeta: about("team", "backup-1", "batch/v1", "CronJob", "backup"), Spec: batchv1.JobSpec{Template: template("r.example/team/backup:1")}},
		&batchv1.Job{ObjectMeta: about("team", "once"), Spec: job},
		&corev1.ReplicationController{ObjectMeta: about("team", "old"), Spec: corev1.ReplicationControllerSpec{Template: &bare}},
		&corev1.ReplicationController{ObjectMeta: about("team", "none")},
		pod(about("team", "backup-1-x", "batch/v1", "Job", "backup-1"), "r.example/team/backup:1", "r.example/team/backup@"+hash("c")),
	)
	check(t, s, []string{
		"r.example/team/backup:1 by CronJob team/backup of context prod",
		"r.example/team/backup:2 by CronJob team/backup of context prod",
		"r.example/team/backup@" + hash("c") + " by CronJob team/backup of context prod",
		"r.example/team/agent@" + hash("b") + " by DaemonSet team/agent of context prod",
		"r.example/team/api:1 by Deployment team/api of context prod",
		"r.example/team/migrate:1 by Deployment team/api of context prod",
		"r.example/team/model:1 by Deployment team/api of context prod",
		"r.example/team/job:1@" + hash("a") + " by Job team/once of context prod",
		"r.example/team/old:latest by ReplicationController team/old of context prod",
		"docker.io/library/postgres:latest by StatefulSet team/db of context prod",
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.asked[len(s.asked)-1]; !strings.HasPrefix(last, "/api/v1/pods?") {
		t.Errorf("pods are read before what makes them: %q", s.asked)
	}
}

// TestRollback counts the revisions that are asked for, those that run, and
// those of which nobody knows how old they are.
func TestRollback(t *testing.T) {
	t.Parallel()
	data := func(image string) runtime.RawExtension {
		return runtime.RawExtension{Raw: fmt.Appendf(nil, `{"spec":{"template":{"$patch":"replace","spec":{"containers":[{"name":"c0","image":%q}]}}}}`, image)}
	}
	stateful := &appsv1.StatefulSet{ObjectMeta: about("team", "db"), Spec: appsv1.StatefulSetSpec{Template: template("r.example/db:3")}}
	stateful.Status.CurrentRevision, stateful.Status.UpdateRevision = "db-1", "db-3"
	objects := []runtime.Object{
		&appsv1.Deployment{ObjectMeta: about("team", "api"), Spec: appsv1.DeploymentSpec{Template: template("r.example/api:9")}},
		replicaSet("api-1", "api", "1", 0, "r.example/api:1"),
		replicaSet("api-2", "api", "2", 1, "r.example/api:2"),
		replicaSet("api-10", "api", "10", 3, "r.example/api:10"),
		replicaSet("api-9", "api", "9", 0, "r.example/api:9"),
		replicaSet("api-x", "api", "many", 0, "r.example/api:x"),
		&appsv1.ReplicaSet{ObjectMeta: about("team", "roll-1", "argoproj.io/v1alpha1", "Rollout", "roll"), Spec: appsv1.ReplicaSetSpec{Template: template("r.example/roll:1")}},
		&appsv1.ReplicaSet{ObjectMeta: about("team", "bare"), Spec: appsv1.ReplicaSetSpec{Template: template("r.example/bare:1")}},
		stateful,
		&appsv1.ControllerRevision{ObjectMeta: about("team", "db-1", "apps/v1", "StatefulSet", "db"), Revision: 1, Data: data("r.example/db:1")},
		&appsv1.ControllerRevision{ObjectMeta: about("team", "db-2", "apps/v1", "StatefulSet", "db"), Revision: 2, Data: data("r.example/db:2")},
		&appsv1.ControllerRevision{ObjectMeta: about("team", "db-3", "apps/v1", "StatefulSet", "db"), Revision: 3, Data: data("r.example/db:3")},
		&appsv1.ControllerRevision{ObjectMeta: about("team", "clone-1", "apps.kruise.io/v1alpha1", "CloneSet", "clone"), Revision: 1, Data: data("r.example/clone:1")},
		pod(about("team", "api-9-y", "apps/v1", "ReplicaSet", "api-9"), "r.example/api:9", ""),
	}
	all := []string{
		"r.example/clone:1 by CloneSet team/clone of context prod",
		"r.example/api:9 by Deployment team/api of context prod",
		"r.example/api:x by Deployment team/api of context prod",
		"r.example/api:1 by Deployment team/api of context prod, revision 1 of 10",
		"r.example/api:10 by Deployment team/api of context prod, revision 10 of 10",
		"r.example/api:2 by Deployment team/api of context prod, revision 2 of 10",
		"r.example/api:9 by Deployment team/api of context prod, revision 9 of 10",
		"r.example/bare:1 by ReplicaSet team/bare of context prod",
		"r.example/roll:1 by Rollout team/roll of context prod",
		"r.example/db:3 by StatefulSet team/db of context prod",
		"r.example/db:1 by StatefulSet team/db of context prod, revision 1 of 3",
		"r.example/db:2 by StatefulSet team/db of context prod, revision 2 of 3",
		"r.example/db:3 by StatefulSet team/db of context prod, revision 3 of 3",
	}
	without := func(images ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(use string) bool {
			image, _, _ := strings.Cut(use, " by ")
			return slices.Contains(images, image)
		})
	}
	check(t, newServer(t, objects...), all)
	check(t, newServer(t, objects...), without("r.example/api:1"), func(c *cluster.Config) { c.Revisions = 2 })
	check(t, newServer(t, objects...), without("r.example/api:1", "r.example/db:2"), func(c *cluster.Config) { c.Revisions = 1 })
}

// TestPods counts what nodes have in fact, however their runtime writes it.
func TestPods(t *testing.T) {
	t.Parallel()
	static := about("kube-system", "etcd-n1", "v1", "Node", "n1")
	ending := pod(about("team", "ending"), "r.example/api:1", "r.example/api@"+hash("1"))
	now := metav1.Now()
	ending.DeletionTimestamp, ending.Status.Phase = &now, corev1.PodSucceeded
	debugged := pod(about("team", "debugged"), "r.example/api:1", "")
	debugged.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "r.example/debug:1"}}}
	debugged.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "e", ImageID: hash("2")}}
	debugged.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "r.example/init:1@" + hash("3")}}
	debugged.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "i", ImageID: strings.Repeat("4", 64)}}
	mounts := pod(about("team", "mounts"), "r.example/api:1", "")
	mounts.Spec.Volumes = []corev1.Volume{
		{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "r.example/model:1"}}},
		{Name: "w", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	mounts.Status.ContainerStatuses[0].VolumeMounts = []corev1.VolumeMountStatus{
		{Name: "v", VolumeStatus: &corev1.VolumeStatus{Image: &corev1.ImageVolumeStatus{ImageRef: "r.example/model@" + hash("5")}}}, {Name: "w"},
	}
	s := newServer(t,
		pod(static, "registry.k8s.io/etcd:3", ""),
		ending, debugged, mounts,
		pod(about("team", "docker"), "r.example/api:1", "docker-pullable://r.example/api@"+hash("6")),
		pod(about("team", "id"), "r.example:5000/api", "docker://"+hash("7")),
		pod(about("team", "other"), "r.example/api:1", "docker.io/library/nginx@"+hash("8")),
		pod(about("team", "exact"), "r.example/api@"+hash("9"), "r.example/api@"+hash("9")),
	)
	var unsorted []string
	for name, images := range map[string][]string{
		"kube-system/etcd-n1": {"registry.k8s.io/etcd:3"},
		"team/ending":         {"r.example/api:1", "r.example/api@" + hash("1")},
		"team/debugged": {
			"r.example/api:1", "r.example/debug:1", "r.example/debug@" + hash("2"),
			"r.example/init:1@" + hash("3"), "r.example/init@" + hash("4"),
		},
		"team/mounts": {"r.example/api:1", "r.example/model:1", "r.example/model@" + hash("5")},
		"team/docker": {"r.example/api:1", "r.example/api@" + hash("6")},
		"team/id":     {"r.example:5000/api:latest", "r.example:5000/api@" + hash("7")},
		"team/other":  {"docker.io/library/nginx@" + hash("8"), "r.example/api:1", "r.example/api@" + hash("8")},
		"team/exact":  {"r.example/api@" + hash("9")},
	} {
		for _, image := range images {
			unsorted = append(unsorted, "Pod "+name+" of context prod\x00"+image)
		}
	}
	slices.Sort(unsorted)
	var want []string
	for _, line := range unsorted {
		where, image, _ := strings.Cut(line, "\x00")
		want = append(want, image+" by "+where)
	}
	check(t, s, want)
}

// TestNames tells what it cannot read in place of leaving it out.
func TestNames(t *testing.T) {
	t.Parallel()
	s := newServer(t,
		pod(about("team", "upper"), "r.example/API:1", ""),
		pod(about("team", "strange"), "r.example/api:1", "docker://what"),
		pod(about("team", "both"), "r.example/API:1", hash("1")),
		&appsv1.ControllerRevision{ObjectMeta: about("team", "db-1", "apps/v1", "StatefulSet", "db"), Revision: 1, Data: runtime.RawExtension{Raw: []byte(`{"spec":{}}`)}},
		&appsv1.ControllerRevision{ObjectMeta: about("team", "db-2", "apps/v1", "StatefulSet", "db"), Revision: 2, Data: runtime.RawExtension{Raw: []byte(`{"spec":{"template":7}}`)}},
	)
	uses, unknown := told(t, s.reader())
	if want := []string{"r.example/api:1 by Pod team/strange of context prod"}; !slices.Equal(uses, want) {
		t.Errorf("uses %q, want %q", uses, want)
	}
	for _, want := range []string{
		`Pod team/upper of context prod: image "r.example/API:1"`, `Pod team/strange of context prod: image ID "what" has no digest`,
		"Pod team/both of context prod: of image ID", "StatefulSet team/db of context prod: revision db-1 has no template",
		"StatefulSet team/db of context prod: parse revision db-2",
	} {
		if !slices.ContainsFunc(unknown, func(text string) bool { return strings.HasPrefix(text, want) }) {
			t.Errorf("%q is not told: %q", want, unknown)
		}
	}
}

// TestPages has more objects than a page, most of one image.
func TestPages(t *testing.T) {
	t.Parallel()
	objects := make([]runtime.Object, 0, 1201)
	for i := range 1200 {
		objects = append(objects, pod(about("team", fmt.Sprintf("web-%04d", i), "apps/v1", "StatefulSet", "web"), "r.example/web:1", "r.example/web@"+hash("1")))
	}
	objects = append(objects, pod(about("team", "zz"), "r.example/last:1", ""))
	want := []string{
		"r.example/last:1 by Pod team/zz of context prod",
		"r.example/web:1 by StatefulSet team/web of context prod",
		"r.example/web@" + hash("1") + " by StatefulSet team/web of context prod",
	}
	s := newServer(t, objects...)
	check(t, s, want)
	pages := 0
	for _, asked := range s.asked {
		if strings.HasPrefix(asked, "/api/v1/pods?") {
			pages++
		}
	}
	if pages != 3 {
		t.Errorf("pods came in %d pages: %q", pages, s.asked)
	}

	// The apiserver forgets the moment of the first page: the list is read anew.
	s = newServer(t, objects...)
	s.fault = func(resource string, page int) *apierrors.StatusError {
		if resource == "pods" && page == 3 {
			return apierrors.NewResourceExpired("too old")
		}
		return nil
	}
	check(t, s, want)
}

// TestListFails: what is not read to its end is not known, and what was read
// counts all the same.
func TestListFails(t *testing.T) {
	t.Parallel()
	objects := make([]runtime.Object, 0, 601)
	for i := range 600 {
		objects = append(objects, pod(about("team", fmt.Sprintf("web-%04d", i), "apps/v1", "StatefulSet", "web"), "r.example/web:1", ""))
	}
	objects = append(objects, replicaSet("api-1", "api", "1", 0, "r.example/api:1"))
	for name, c := range map[string]struct {
		fault func(resource string, page int) *apierrors.StatusError
		uses  int
		want  []string
	}{
		"page 2 is gone": {
			fault: func(resource string, page int) *apierrors.StatusError {
				if resource == "pods" && page == 2 {
					return apierrors.NewInternalError(errors.New("etcd is away"))
				}
				return nil
			},
			uses: 2, want: []string{"list pods in all namespaces of context prod", "etcd is away"},
		},
		"expires again and again": {
			fault: func(resource string, page int) *apierrors.StatusError {
				if resource == "pods" {
					return apierrors.NewResourceExpired("too old")
				}
				return nil
			},
			uses: 1, want: []string{"list pods in all namespaces of context prod", "too old"},
		},
		"forbidden": {
			fault: func(resource string, _ int) *apierrors.StatusError {
				if resource == "replicasets" {
					return apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "replicasets"}, "", errors.New("no"))
				}
				return nil
			},
			uses: 1, want: []string{"list replicasets.apps of context prod", `it takes the right "list" on replicasets.apps in all namespaces`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, objects...)
			s.fault = c.fault
			uses, unknown := told(t, s.reader())
			if len(uses) != c.uses || len(unknown) != 1 {
				t.Fatalf("uses %q, not known %q", uses, unknown)
			}
			for _, want := range c.want {
				if !strings.Contains(unknown[0], want) {
					t.Errorf("%q does not say %q", unknown[0], want)
				}
			}
		})
	}
}

// TestNoApiserver: an answer of something else is no empty cluster.
func TestNoApiserver(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{`{}`, `{"items": []}`, `{"kind": "Status", "apiVersion": "v1", "status": "Success"}`, `[]`, `<html>`} {
		s := newServer(t)
		s.answer = answer
		uses, unknown := told(t, s.reader(func(c *cluster.Config) {
			c.Resources = []schema.GroupVersionResource{{Group: "example.com", Version: "v1", Resource: "apps"}}
		}))
		if len(uses) != 0 || len(unknown) < 10 {
			t.Errorf("%s: uses %q, not known %q", answer, uses, unknown)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, unknown := newServer(t).reader().Uses(ctx); len(unknown) == 0 {
		t.Error("what was not asked is known")
	}
}

// TestSamePageForEver: a registry of objects that does not go on is left.
func TestSamePageForEver(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.answer = `{"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": "again"}, "items": []}`
	_, unknown := told(t, s.reader(func(c *cluster.Config) {
		c.Resources = []schema.GroupVersionResource{{Group: "example.com", Version: "v1", Resource: "apps"}}
	}))
	if len(unknown) == 0 || !strings.Contains(unknown[0], "same page") {
		t.Errorf("not known: %q", unknown)
	}
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	s := newServer(t,
		pod(about("a", "x"), "r.example/a:1", ""),
		pod(about("b", "x"), "r.example/b:1", ""),
		pod(about("c", "x"), "r.example/c:1", ""),
	)
	check(t, s, []string{"r.example/a:1 by Pod a/x of context prod", "r.example/c:1 by Pod c/x of context prod"},
		func(c *cluster.Config) { c.Namespaces = []string{"a", "c"} })
	uses, unknown := told(t, s.reader(func(c *cluster.Config) { c.Namespaces = []string{"mistyped", "a"} }))
	if len(uses) != 1 || len(unknown) != 1 || !strings.HasPrefix(unknown[0], "there is no namespace mistyped in context prod") {
		t.Errorf("uses %q, not known %q", uses, unknown)
	}
}

// TestResources reads kinds that are not known here.
func TestResources(t *testing.T) {
	t.Parallel()
	resource := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "databases"}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Database",
		"metadata": map[string]any{"namespace": "team", "name": "db", "annotations": map[string]any{"image": "NOT ONE"}},
		"spec": map[string]any{
			"image":    "r.example/db:1",
			"sidecars": []any{map[string]any{"image": map[string]any{"registry": "r.example", "repository": "side", "tag": "2", "digest": hash("1")}}},
			"schema":   map[string]any{"image": map[string]any{"type": "string"}},
		},
		"status": map[string]any{"image": "r.example/db@" + hash("2")},
	}}
	s := newServer(t, object)
	check(t, s, []string{
		"r.example/db:1 by Database team/db of context prod",
		"r.example/db@" + hash("2") + " by Database team/db of context prod",
		"r.example/side:2@" + hash("1") + " by Database team/db of context prod",
	}, func(c *cluster.Config) { c.Resources = []schema.GroupVersionResource{resource} })

	// One that is known as well is read as either.
	s.add(&appsv1.Deployment{ObjectMeta: about("team", "api"), Spec: appsv1.DeploymentSpec{Template: template("r.example/api:1")}})
	check(t, s, []string{"r.example/api:1 by Deployment team/api of context prod"}, func(c *cluster.Config) {
		c.Resources = []schema.GroupVersionResource{appsv1.SchemeGroupVersion.WithResource("deployments")}
	})

	resource.Resource = "nothings"
	_, unknown := told(t, s.reader(func(c *cluster.Config) { c.Resources = []schema.GroupVersionResource{resource} }))
	if len(unknown) != 1 || !strings.Contains(unknown[0], "nothings") || !strings.Contains(unknown[0], "kubectl api-resources") {
		t.Errorf("not known: %q", unknown)
	}
}

// TestRights: the rights are the requests that are sent, and no others.
func TestRights(t *testing.T) {
	t.Parallel()
	resources := []schema.GroupVersionResource{{Group: "example.com", Version: "v1", Resource: "databases"}}
	for _, namespaces := range [][]string{nil, {"a", "b"}} {
		s := newServer(t, pod(about("a", "x"), "r.example/a:1", ""), pod(about("b", "x"), "r.example/b:1", ""))
		told(t, s.reader(func(c *cluster.Config) { c.Namespaces, c.Resources = namespaces, resources }))
		var asked, allowed []string
		for _, request := range s.asked {
			path, _, _ := strings.Cut(request, "?")
			asked = append(asked, http.MethodGet+" "+path)
		}
		for _, right := range cluster.Rights(namespaces, resources) {
			path := "/apis/" + right.Group + "/v1"
			if right.Group == "" {
				path = "/api/v1"
			}
			switch verb := strings.Join(right.Verbs, " "); {
			case verb == "get":
				path += "/" + right.Resource + "/" + right.Names[0]
			case verb == "list" && right.Namespace != "":
				path += "/namespaces/" + right.Namespace + "/" + right.Resource
			case verb == "list":
				path += "/" + right.Resource
			}
			allowed = append(allowed, http.MethodGet+" "+path)
		}
		slices.Sort(asked)
		slices.Sort(allowed)
		if diff := cmp.Diff(allowed, asked); diff != "" {
			t.Errorf("requests (-allowed +asked):\n%s", diff)
		}
	}
}
