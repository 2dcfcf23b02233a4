// Package cluster owns which images a Kubernetes cluster uses: what runs, what
// would run, and what a rollback would bring back.
//
// It refuses to guess. A list that could not be read to its end, and a name
// that it cannot read, are told as not known, so that the caller keeps
// everything. It reads only, and watches nothing.
package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says which cluster, and what of it counts.
type Config struct {
	// Cluster is the way to it; its Core client is what is used.
	Cluster *kube.Cluster
	// Name is what people call it; empty for "context NAME", or "the cluster"
	// where it has no context.
	Name string
	// Namespaces are the only ones that are read; none means all. What is used in
	// others is not seen.
	Namespaces []string
	// Revisions is how many of the latest revisions of a Deployment, a StatefulSet
	// or a DaemonSet count, the one in force among them. Zero or less means all
	// that exist. A revision that has pods, or that a StatefulSet names as in
	// force, counts in any case.
	Revisions int
	// Resources are further ones to read, of any kind: each field that is called
	// "image" counts. Pods and ReplicaSets that other controllers make are read
	// without being listed here.
	Resources []schema.GroupVersionResource
}

// Reader reads one cluster. It may be used at the same time.
type Reader struct {
	config Config
	client rest.Interface
}

// New makes a reader. It sends no request.
func New(config Config) *Reader {
	if config.Name == "" {
		config.Name = "the cluster"
		if config.Cluster.Context != "" {
			config.Name = "context " + config.Cluster.Context
		}
	}
	return &Reader{config: config, client: config.Cluster.Core.RESTClient()}
}

const (
	// pageSize is how many objects are asked for at a time: as kubectl does.
	pageSize = 500
	// pagePatience bounds how long one page may take to arrive.
	pagePatience = time.Minute
)

// listing is one resource to read.
type listing struct {
	schema.GroupVersionResource
	// empty makes a list to read into; nil for a resource of an unknown kind.
	empty func() runtime.Object
	// why is what the right to list it is for.
	why string
}

// listings come in this order for a reason: each before what its controller
// makes of it. What comes to be while they are read is seen further down.
func listings(extra []schema.GroupVersionResource) []listing {
	core, apps, batch := corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion, batchv1.SchemeGroupVersion
	var all []listing
	for _, resource := range extra {
		all = append(all, listing{resource, nil, "find images that its objects name"})
	}
	const templates = "find images that its pods would have"
	return append(all,
		listing{batch.WithResource("cronjobs"), func() runtime.Object { return &batchv1.CronJobList{} }, templates},
		listing{apps.WithResource("deployments"), func() runtime.Object { return &appsv1.DeploymentList{} }, templates},
		listing{apps.WithResource("statefulsets"), func() runtime.Object { return &appsv1.StatefulSetList{} }, templates},
		listing{apps.WithResource("daemonsets"), func() runtime.Object { return &appsv1.DaemonSetList{} }, templates},
		listing{core.WithResource("replicationcontrollers"), func() runtime.Object { return &corev1.ReplicationControllerList{} }, templates},
		listing{batch.WithResource("jobs"), func() runtime.Object { return &batchv1.JobList{} }, templates},
		listing{apps.WithResource("replicasets"), func() runtime.Object { return &appsv1.ReplicaSetList{} }, "find images that a Deployment can be rolled back to"},
		listing{apps.WithResource("controllerrevisions"), func() runtime.Object { return &appsv1.ControllerRevisionList{} }, "find images that a StatefulSet or DaemonSet can be rolled back to"},
		listing{core.WithResource("pods"), func() runtime.Object { return &corev1.PodList{} }, "find images that run, by tag and by digest"},
	)
}

// Right is one thing that reading asks of a cluster's API.
type Right struct {
	// Namespace is where; empty for the whole cluster.
	Namespace       string
	Group, Resource string
	Verbs           []string
	// Names are the only objects that it is for; none means any.
	Names []string
	// Why is what is done with it.
	Why string
}

// Rights are all that [Reader.Uses] takes, for the same namespaces and further
// resources as in [Config].
func Rights(namespaces []string, resources []schema.GroupVersionResource) []Right {
	var rights []Right
	for _, namespace := range orAll(namespaces) {
		if namespace != metav1.NamespaceAll {
			rights = append(rights, Right{namespace, corev1.GroupName, "namespaces", []string{"get"}, []string{namespace}, "see that the namespace exists"})
		}
		for _, l := range listings(resources) {
			rights = append(rights, Right{namespace, l.Group, l.Resource, []string{"list"}, nil, l.why})
		}
	}
	return rights
}

func orAll(namespaces []string) []string {
	if len(namespaces) == 0 {
		return []string{metav1.NamespaceAll}
	}
	return namespaces
}

// Uses lists what the cluster uses, each image once for each place, sorted by
// place. A pod counts whatever its phase, and one that is about to end too.
//
// What could not be found out is told in unknown, for people: as long as there
// is any, the uses are some of all, and nothing may be taken for unused.
func (r *Reader) Uses(ctx context.Context) (uses []image.Use, unknown []string) {
	s := newSurvey(r.config)
	for _, namespace := range orAll(r.config.Namespaces) {
		if !r.survey(ctx, namespace, s) {
			break
		}
	}
	uses = make([]image.Use, 0, len(s.uses))
	for use := range s.uses {
		uses = append(uses, use)
	}
	slices.SortFunc(uses, func(a, b image.Use) int {
		return cmp.Or(cmp.Compare(a.Where, b.Where), cmp.Compare(a.Reference.String(), b.Reference.String()))
	})
	return uses, s.unknown
}

// survey reads a namespace. It says whether the cluster answers: one that does
// not would be waited for with each list.
func (r *Reader) survey(ctx context.Context, namespace string, s *survey) bool {
	if namespace != metav1.NamespaceAll {
		if err := r.exists(ctx, namespace); err != nil {
			s.notKnown(said(err))
			return problem.KindOf(err) != problem.Unreachable
		}
	}
	for _, l := range listings(r.config.Resources) {
		err := r.list(ctx, namespace, l, s.read)
		if err != nil {
			s.notKnown(said(err))
		}
		// What owns pods must be known before they are read.
		switch l.Resource {
		case "replicasets", "controllerrevisions":
			s.history()
		}
		if problem.KindOf(err) == problem.Unreachable || ctx.Err() != nil {
			return false
		}
	}
	return true
}

// said is an error with its hint, in one line.
func said(err error) string {
	text := err.Error()
	if hint := problem.HintOf(err); hint != "" {
		text += " (" + hint + ")"
	}
	return strings.Join(strings.Fields(text), " ")
}

// exists asks for a namespace: a list in one that does not exist is empty, and
// no error.
func (r *Reader) exists(ctx context.Context, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, pagePatience)
	defer cancel()
	err := r.client.Get().AbsPath("/api/v1/namespaces", namespace).Do(ctx).Into(&corev1.Namespace{})
	if apierrors.IsNotFound(err) {
		return problem.New(problem.NotFound, "correct its name", "there is no namespace %s in %s", namespace, r.config.Name)
	}
	if apierrors.IsForbidden(err) {
		return problem.Wrap(err, problem.Denied, `it takes the right "get" on this one namespace`, "read namespace %s of %s", namespace, r.config.Name)
	}
	return kube.Problem(err, "read namespace %s of %s", namespace, r.config.Name)
}

// list reads a resource page by page. A page that cannot be read is an error,
// whatever was read before it.
func (r *Reader) list(ctx context.Context, namespace string, l listing, read func(l listing, object any)) error {
	options := metav1.ListOptions{Limit: pageSize}
	var err error
	for anew := true; ; {
		var next string
		next, err = r.page(ctx, namespace, l, options, read)
		switch {
		case err == nil && next == "":
			return nil
		case err == nil && next == options.Continue:
			err = errors.New("it answers with the same page again and again")
		case err == nil:
			options.Continue = next
			continue
		case apierrors.IsResourceExpired(err) && options.Continue != "" && anew:
			// The apiserver has forgotten the moment that the first page is of
			// (Kubernetes documentation, "API Concepts", 410 Gone).
			options, anew = metav1.ListOptions{}, false
			continue
		}
		break
	}
	where := "all namespaces"
	if namespace != metav1.NamespaceAll {
		where = "namespace " + namespace
	}
	what := l.GroupResource().String()
	switch {
	case apierrors.IsForbidden(err):
		return problem.Wrap(err, problem.Denied, fmt.Sprintf("it takes the right %q on %s in %s", "list", what, where), "list %s of %s", what, r.config.Name)
	case apierrors.IsNotFound(err):
		return problem.Wrap(err, problem.NotFound, "check its group, version and name: `kubectl api-resources` lists them", "list %s of %s", l.GroupVersionResource.String(), r.config.Name)
	}
	return kube.Problem(err, "list %s in %s of %s", what, where, r.config.Name)
}

// page reads one page, and says where the next begins; empty if it is the last.
func (r *Reader) page(ctx context.Context, namespace string, l listing, options metav1.ListOptions, read func(l listing, object any)) (next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, pagePatience)
	defer cancel()
	segments := []string{"/apis", l.Group, l.Version, l.Resource}
	if namespace != metav1.NamespaceAll {
		segments = []string{"/apis", l.Group, l.Version, "namespaces", namespace, l.Resource}
	}
	if l.Group == corev1.GroupName {
		segments[0] = "/api"
	}
	request := r.client.Get().AbsPath(path.Join(segments...)).VersionedParams(&options, scheme.ParameterCodec)
	if l.empty == nil {
		return foreign(ctx, request, l, read)
	}
	list := l.empty()
	if err := request.Do(ctx).Into(list); err != nil {
		return "", err
	}
	about, err := meta.ListAccessor(list)
	if err != nil {
		return "", err
	}
	if about.GetResourceVersion() == "" {
		return "", errNoList
	}
	err = meta.EachListItem(list, func(object runtime.Object) error {
		read(l, object)
		return nil
	})
	return about.GetContinue(), err
}

// errNoList is the answer of something that is no apiserver: an object without
// fields decodes as an empty list.
var errNoList = errors.New("the answer is no list")

// foreign reads a page of objects whose kind is not known here.
func foreign(ctx context.Context, request *rest.Request, l listing, read func(l listing, object any)) (next string, err error) {
	raw, err := request.SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return "", err
	}
	var list struct {
		Kind     string
		Metadata metav1.ListMeta
		Items    []json.RawMessage
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return "", fmt.Errorf("parse the answer: %w", err)
	}
	if list.Metadata.ResourceVersion == "" {
		return "", errNoList
	}
	for _, item := range list.Items {
		object := map[string]any{}
		if err := json.Unmarshal(item, &object); err != nil || object == nil {
			return "", errors.Join(errNoList, err)
		}
		if kind, ok := object["kind"]; !ok || kind == "" {
			object["kind"] = strings.TrimSuffix(list.Kind, "List") // of kinds that are built in, each item has none
		}
		read(l, object)
	}
	return list.Metadata.Continue, nil
}
