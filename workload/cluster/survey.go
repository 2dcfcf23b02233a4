package cluster

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/image"
)

// revisionOf is the annotation with the revision of a Deployment, and that of
// its ReplicaSets (Kubernetes, pkg/controller/deployment/util).
const revisionOf = "deployment.kubernetes.io/revision"

// survey collects what is used. Of the objects themselves it keeps nothing but
// revisions, until all of these were read.
type survey struct {
	name  string
	depth int

	uses    map[image.Use]struct{}
	unknown []string
	parsed  map[string]parsed
	// places are those of objects that own others, by the owner's UID.
	places map[types.UID]string
	// latest are the highest revisions, by the UID of the object that has them.
	latest map[types.UID]int64
	// inForce are names of ControllerRevisions, by the UID of the StatefulSet.
	inForce map[types.UID][]string
	// revisions are those that were read, by the owner's UID.
	revisions map[types.UID]map[types.UID]revision
}

type parsed struct {
	ref image.Reference
	err error
}

// revision is one state that a workload can be rolled back to.
type revision struct {
	number int64 // zero if it is not known
	uid    types.UID
	owner  string // its place
	images []string
	// needed says that it counts however old it is.
	needed bool
}

func newSurvey(config Config) *survey {
	return &survey{
		name: config.Name, depth: config.Revisions,
		uses: map[image.Use]struct{}{}, parsed: map[string]parsed{}, places: map[types.UID]string{}, latest: map[types.UID]int64{},
		inForce: map[types.UID][]string{}, revisions: map[types.UID]map[types.UID]revision{},
	}
}

func (s *survey) notKnown(text string) {
	if !slices.Contains(s.unknown, text) {
		s.unknown = append(s.unknown, text)
	}
}

// place is an object as people know it.
func (s *survey) place(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return kind + " " + name + " of " + s.name
}

// read takes what an object says.
func (s *survey) read(l listing, object any) {
	switch o := object.(type) {
	case *batchv1.CronJob:
		s.template(o.Spec.JobTemplate.Spec.Template.Spec, s.place("CronJob", o.Namespace, o.Name))
	case *appsv1.Deployment:
		s.latest[o.UID] = number(o.Annotations[revisionOf])
		s.template(o.Spec.Template.Spec, s.place("Deployment", o.Namespace, o.Name))
	case *appsv1.StatefulSet:
		s.inForce[o.UID] = []string{o.Status.CurrentRevision, o.Status.UpdateRevision}
		s.template(o.Spec.Template.Spec, s.place("StatefulSet", o.Namespace, o.Name))
	case *appsv1.DaemonSet:
		s.template(o.Spec.Template.Spec, s.place("DaemonSet", o.Namespace, o.Name))
	case *corev1.ReplicationController:
		where := s.owner(o, "ReplicationController")
		s.places[o.UID] = where
		if o.Spec.Template != nil {
			s.template(o.Spec.Template.Spec, where)
		}
	case *batchv1.Job:
		where := s.owner(o, "Job")
		s.places[o.UID] = where
		s.template(o.Spec.Template.Spec, where)
	case *appsv1.ReplicaSet:
		s.replicaSet(o)
	case *appsv1.ControllerRevision:
		s.controllerRevision(o)
	case *corev1.Pod:
		s.pod(o)
	case map[string]any:
		s.foreign(l, o)
	}
}

// owner is the place of an object's controller, or its own where it has none.
// Static pods are their node's, which says less than their own name.
func (s *survey) owner(object metav1.Object, kind string) string {
	c := metav1.GetControllerOfNoCopy(object)
	if c == nil || c.Kind == "Node" {
		return s.place(kind, object.GetNamespace(), object.GetName())
	}
	if where, ok := s.places[c.UID]; ok {
		return where
	}
	return s.place(c.Kind, object.GetNamespace(), c.Name)
}

// use notes that something uses an image; an empty name is none.
func (s *survey) use(text, where string) {
	if text == "" {
		return
	}
	if ref, err := s.parse(text); err != nil {
		s.notKnown(where + ": " + err.Error())
	} else {
		s.uses[image.Use{Reference: ref, Where: where}] = struct{}{}
	}
}

func (s *survey) parse(text string) (image.Reference, error) {
	p, ok := s.parsed[text]
	if !ok {
		p.ref, p.err = image.ParseReference(text)
		s.parsed[text] = p
	}
	return p.ref, p.err
}

func (s *survey) template(spec corev1.PodSpec, where string) {
	for _, text := range imagesOf(spec) {
		s.use(text, where)
	}
}

// imagesOf are the images that a pod asks for, as it writes them.
func imagesOf(spec corev1.PodSpec) []string {
	var list []string
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for _, c := range containers {
			list = append(list, c.Image)
		}
	}
	for _, c := range spec.EphemeralContainers {
		list = append(list, c.Image)
	}
	for _, v := range spec.Volumes {
		if v.Image != nil {
			list = append(list, v.Image.Reference)
		}
	}
	return list
}

// number is a revision as an annotation has it; zero if it is none.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (s *survey) replicaSet(o *appsv1.ReplicaSet) {
	images := imagesOf(o.Spec.Template.Spec)
	controller := metav1.GetControllerOfNoCopy(o)
	if controller == nil || controller.Kind != "Deployment" {
		where := s.owner(o, "ReplicaSet")
		s.places[o.UID] = where
		for _, text := range images {
			s.use(text, where)
		}
		return
	}
	s.revise(controller.UID, revision{
		number: number(o.Annotations[revisionOf]), uid: o.UID, owner: s.owner(o, ""), images: images,
		needed: o.Status.Replicas > 0 || o.Spec.Replicas == nil || *o.Spec.Replicas > 0,
	})
}

func (s *survey) controllerRevision(o *appsv1.ControllerRevision) {
	where := s.owner(o, "ControllerRevision")
	controller := metav1.GetControllerOfNoCopy(o)
	if controller == nil || !strings.HasPrefix(controller.APIVersion, appsv1.GroupName+"/") {
		// Other controllers keep what they like in it.
		var data any
		if len(o.Data.Raw) > 0 {
			if err := json.Unmarshal(o.Data.Raw, &data); err != nil {
				s.notKnown(where + ": parse revision " + o.Name + ": " + err.Error())
			}
		}
		s.walk(data, where)
		return
	}
	// The data is a patch of the workload (Kubernetes, pkg/controller/statefulset,
	// getPatch; pkg/controller/daemon, getPatch).
	var data struct {
		Spec *struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(o.Data.Raw, &data); err != nil {
		s.notKnown(where + ": parse revision " + o.Name + ": " + err.Error())
		return
	}
	if data.Spec == nil || data.Spec.Template == nil {
		s.notKnown(where + ": revision " + o.Name + " has no template")
		return
	}
	s.revise(controller.UID, revision{
		number: o.Revision, uid: o.UID, owner: where, images: imagesOf(data.Spec.Template.Spec),
		needed: slices.Contains(s.inForce[controller.UID], o.Name),
	})
}

func (s *survey) revise(owner types.UID, r revision) {
	if s.revisions[owner] == nil {
		s.revisions[owner] = map[types.UID]revision{}
	}
	s.revisions[owner][r.uid] = r
	s.latest[owner] = max(s.latest[owner], r.number)
}

// history takes the revisions that count, and forgets them all.
func (s *survey) history() {
	for owner, revisions := range s.revisions {
		newest := slices.SortedFunc(maps.Values(revisions), func(a, b revision) int {
			return cmp.Or(cmp.Compare(b.number, a.number), cmp.Compare(a.uid, b.uid))
		})
		for i, r := range newest {
			where := r.owner
			if r.number > 0 {
				where += ", revision " + strconv.FormatInt(r.number, 10) + " of " + strconv.FormatInt(s.latest[owner], 10)
			}
			s.places[r.uid] = where
			if s.depth > 0 && i >= s.depth && r.number > 0 && !r.needed {
				continue
			}
			for _, text := range r.images {
				s.use(text, where)
			}
		}
	}
	clear(s.revisions)
}

func (s *survey) pod(o *corev1.Pod) {
	where := s.owner(o, "Pod")
	s.template(o.Spec, where)
	asked := map[string]string{}
	for _, containers := range [][]corev1.Container{o.Spec.InitContainers, o.Spec.Containers} {
		for _, c := range containers {
			asked[c.Name] = c.Image
		}
	}
	for _, c := range o.Spec.EphemeralContainers {
		asked[c.Name] = c.Image
	}
	volumes := map[string]string{}
	for _, v := range o.Spec.Volumes {
		if v.Image != nil {
			volumes[v.Name] = v.Image.Reference
		}
	}
	for _, statuses := range [][]corev1.ContainerStatus{o.Status.InitContainerStatuses, o.Status.ContainerStatuses, o.Status.EphemeralContainerStatuses} {
		for _, status := range statuses {
			s.pulled(status.ImageID, cmp.Or(asked[status.Name], status.Image), where)
			for _, m := range status.VolumeMounts {
				if m.VolumeStatus != nil && m.VolumeStatus.Image != nil {
					s.pulled(m.VolumeStatus.Image.ImageRef, volumes[m.Name], where)
				}
			}
		}
	}
}

// identity is an image's ID as container runtimes write it, without what stands
// before it.
var identity = regexp.MustCompile(`^[0-9a-f]{64}$`)

// pulled notes what a node has in fact, by its digest.
//
// A kubelet names any of the repositories under which the node knows the image,
// so that the digest counts for the repository that was asked for as well. Some
// runtimes tell the image's own ID instead, which is the digest of its config.
func (s *survey) pulled(id, asked, where string) {
	if id == "" {
		return // not pulled yet
	}
	if i := strings.Index(id, "://"); i >= 0 {
		id = id[i+len("://"):]
	}
	var found digest.Digest
	switch ref, err := s.parse(id); {
	case identity.MatchString(id):
		found = digest.NewDigestFromEncoded(digest.SHA256, id)
	case digest.Digest(id).Validate() == nil:
		found = digest.Digest(id)
	case err == nil && ref.Digest != "":
		found = ref.Digest
		ref.Tag = ""
		s.uses[image.Use{Reference: ref, Where: where}] = struct{}{}
	default:
		s.notKnown(where + ": image ID " + strconv.Quote(id) + " has no digest")
		return
	}
	ref, err := s.parse(asked)
	if err != nil {
		s.notKnown(where + ": of image ID " + strconv.Quote(id) + " the repository is not known")
		return
	}
	ref = image.Reference{Repository: ref.Repository, Digest: found}
	s.uses[image.Use{Reference: ref, Where: where}] = struct{}{}
}

// foreign takes what an object of an unknown kind says.
func (s *survey) foreign(l listing, object map[string]any) {
	kind, _ := object["kind"].(string)
	about, _ := object["metadata"].(map[string]any)
	namespace, _ := about["namespace"].(string)
	name, _ := about["name"].(string)
	where := s.place(cmp.Or(kind, l.Resource), namespace, name)
	for key, value := range object {
		if key != "metadata" {
			s.walk(map[string]any{key: value}, where)
		}
	}
}

// walk takes each field that is called "image": a name, or an object with the
// parts of one.
func (s *survey) walk(value any, where string) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			s.walk(item, where)
		}
	case map[string]any:
		for key, field := range v {
			if key == "image" {
				switch named := field.(type) {
				case string:
					s.use(named, where)
				case map[string]any:
					s.use(assemble(named), where)
				}
			}
			s.walk(field, where)
		}
	}
}

// assemble makes a name of its parts, as they are called in most charts and in
// image volumes; empty if these are none.
func assemble(parts map[string]any) string {
	part := func(names ...string) string {
		for _, name := range names {
			if text, ok := parts[name].(string); ok && text != "" {
				return text
			}
		}
		return ""
	}
	text := part("reference", "repository", "name")
	if text == "" {
		return ""
	}
	if host := part("registry"); host != "" {
		text = host + "/" + text
	}
	if tag := part("tag"); tag != "" {
		text += ":" + tag
	}
	if d := part("digest"); d != "" {
		text += "@" + d
	}
	return text
}
