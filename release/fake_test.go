package release_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release"
	"github.com/regkeeper/regkeeper/release/build"
	"github.com/regkeeper/regkeeper/release/revision"
	"github.com/regkeeper/regkeeper/release/rollout"
)

const host credential.Host = "gitea.example.com"

const (
	commit = "237c6b8aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	other  = "1111111aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

// registry is a fake registry: manifests by digest and tags, in memory. Manifests
// that are hidden are not served yet.
type registry struct {
	mu        sync.Mutex
	manifests map[digest.Digest][]byte
	tags      map[string]digest.Digest
	hidden    map[digest.Digest]int // how many more times
	writes    []string
	err       error
}

var _ release.Registry = (*registry)(nil)

func (r *registry) Resolve(_ context.Context, repository, target string) (image.Descriptor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return image.Descriptor{}, r.err
	}
	d := digest.Digest(target)
	if tagged, ok := r.tags[repository+":"+target]; ok {
		d = tagged
	}
	if r.hidden[d] > 0 {
		r.hidden[d]--
		return image.Descriptor{}, fmt.Errorf("head %s: %w", target, image.ErrMissing)
	}
	raw, ok := r.manifests[d]
	if !ok {
		return image.Descriptor{}, fmt.Errorf("head %s: %w", target, image.ErrMissing)
	}
	return image.Descriptor{Digest: d, Size: int64(len(raw))}, nil
}

func (r *registry) Manifest(_ context.Context, _ string, d digest.Digest) (string, []byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	raw, ok := r.manifests[d]
	if !ok {
		return "", nil, fmt.Errorf("get %s: %w", d, image.ErrMissing)
	}
	var doc struct{ MediaType string }
	err := json.Unmarshal(raw, &doc)
	return doc.MediaType, raw, err
}

func (r *registry) WriteManifest(_ context.Context, repository, tag, _ string, raw []byte) (digest.Digest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(raw)
	r.manifests[d] = raw
	r.tags[repository+":"+tag] = d
	r.writes = append(r.writes, repository+":"+tag)
	return d, nil
}

// push puts an image of two platforms into the registry, by digest: with an
// index, and an attestation that makes each push another.
func (r *registry) push(content, revision, attestation string) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	put := func(doc any) ocispec.Descriptor {
		raw, err := json.Marshal(doc)
		if err != nil {
			panic(err)
		}
		d := digest.FromBytes(raw)
		r.manifests[d] = raw
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(raw))}
	}
	empty := ocispec.DescriptorEmptyJSON
	var annotations map[string]string
	if revision != "" {
		annotations = map[string]string{ocispec.AnnotationRevision: revision}
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Annotations: annotations}
	index.SchemaVersion = 2
	for _, architecture := range []string{"amd64", "arm64"} {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: empty, Layers: []ocispec.Descriptor{}, Annotations: map[string]string{"content": content + architecture}}
		m.SchemaVersion = 2
		d := put(m)
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
		index.Manifests = append(index.Manifests, d)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: empty, Layers: []ocispec.Descriptor{}, Annotations: map[string]string{"attestation": attestation}}
	m.SchemaVersion = 2
	d := put(m)
	d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": index.Manifests[0].Digest.String()}
	index.Manifests = append(index.Manifests, d)
	return put(index).Digest
}

// builder is a fake builder: it pushes an image that its test names.
type builder struct {
	registry *registry
	content  map[string]string // by the job's name
	count    int
	jobs     []build.Job
	logins   []build.Logins
	err      error
	during   func()
}

func (b *builder) String() string { return "a fake builder" }

func (b *builder) Prepare(context.Context, func(string)) error { return nil }

func (b *builder) Build(_ context.Context, job build.Job, logins build.Logins, progress func(string)) (build.Result, error) {
	b.jobs, b.logins = append(b.jobs, job), append(b.logins, logins)
	progress("#1 building")
	if b.during != nil {
		b.during()
	}
	if b.err != nil {
		return build.Result{}, b.err
	}
	b.count++
	return build.Result{Digest: b.registry.push(job.Name+b.content[job.Name], job.Annotations[ocispec.AnnotationRevision], fmt.Sprint(b.count))}, nil
}

// cluster is a fake cluster: workloads with containers. It sets images as package
// rollout says it does, without an API.
type cluster struct {
	mu      sync.Mutex
	states  map[rollout.Workload]*rollout.State
	breaks  map[string]bool // images that do not start
	hangs   map[string]bool // images that take for ever
	lost    map[rollout.Workload]bool
	log     []string
	watched []string
}

var _ release.Cluster = (*cluster)(nil)

func (c *cluster) Look(_ context.Context, w rollout.Workload) (rollout.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look(w)
}

func (c *cluster) look(w rollout.Workload) (rollout.State, error) {
	s, ok := c.states[w]
	if !ok {
		return rollout.State{}, problem.New(problem.NotFound, "", "%s is not there", w)
	}
	copied := *s
	copied.Workload = w
	copied.Containers, copied.Annotations = slices.Clone(s.Containers), maps.Clone(s.Annotations)
	return copied, nil
}

func (c *cluster) Set(_ context.Context, change rollout.Change) (rollout.Applied, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err := c.look(change.Workload)
	if err != nil {
		return rollout.Applied{}, err
	}
	applied := rollout.Applied{Before: before}
	s := c.states[change.Workload]
	for name, want := range change.Expect {
		if s.Container(name).Image != want {
			return applied, problem.Wrap(rollout.ErrMoved, problem.Busy, "", "%s", change.Workload)
		}
	}
	for name, to := range change.Images {
		if container := s.Container(name); container.Image != to {
			container.Image = to
			applied.Changed = true
		}
	}
	if !applied.Changed {
		return applied, nil
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	for key, value := range change.Annotations {
		if s.Annotations[key] = value; value == "" {
			delete(s.Annotations, key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(change.Images)) {
		c.log = append(c.log, "set "+change.Name+"/"+name+" "+short(change.Images[name]))
	}
	if c.lost[change.Workload] {
		return applied, errors.New("the connection was lost")
	}
	return applied, nil
}

func (c *cluster) Watch(ctx context.Context, w rollout.Workload, expect map[string]string, patience rollout.Patience, progress func(string)) error {
	s, err := c.Look(ctx, w)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.watched = append(c.watched, w.Name)
	c.mu.Unlock()
	progress("rolling")
	timeout := time.After(patience.Timeout)
	for _, container := range s.Containers {
		if want, ok := expect[container.Name]; ok && want != container.Image {
			return problem.Wrap(rollout.ErrMoved, problem.Busy, "", "%s", w)
		}
		if c.breaks[container.Image] {
			return problem.Wrap(rollout.ErrStuck, problem.Partial, "look at its pods", "%s: CrashLoopBackOff", w)
		}
		if c.hangs[container.Image] {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timeout:
				return problem.Wrap(rollout.ErrStuck, problem.Partial, "look at its pods", "%s: not done", w)
			}
		}
	}
	return nil
}

func (c *cluster) Free(_ context.Context, w rollout.Workload, _ map[string]string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, "free "+w.Name)
	return nil
}

// short is an image without its repository and most of its digest.
func short(text string) string {
	ref, err := image.ParseReference(text)
	if err != nil {
		return text
	}
	if ref.Digest != "" {
		return ref.Tag + "@digest"
	}
	return ref.Tag
}

// source is a work tree of which the test says how it is.
type source struct{ revision revision.Revision }

func (s *source) Read(context.Context, string) (revision.Revision, error) { return s.revision, nil }

// world is a release of api and worker, with all around it.
type world struct {
	t        *testing.T
	source   *source
	registry *registry
	builder  *builder
	cluster  *cluster
	journal  release.File
	config   release.Config
	events   []string
	// lent and ended count logins; logged are the logins that the registry was
	// spoken to with.
	lent, ended int
	endsWith    error
	logged      []string
}

func workload(name string) rollout.Workload {
	return rollout.Workload{Kind: rollout.Deployment, Namespace: "honeydue", Name: name}
}

func repository(name string) image.Repository {
	return image.Repository{Host: host, Path: "admin/honeydue-" + name}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t:        t,
		source:   &source{revision.Revision{Root: "/src", Commit: commit, Short: commit[:7], Committed: time.Unix(1700000000, 0)}},
		registry: &registry{manifests: map[digest.Digest][]byte{}, tags: map[string]digest.Digest{}, hidden: map[digest.Digest]int{}},
		cluster:  &cluster{states: map[rollout.Workload]*rollout.State{}, breaks: map[string]bool{}, hangs: map[string]bool{}, lost: map[rollout.Workload]bool{}},
		journal:  release.File{Path: t.TempDir() + "/data/releases.jsonl"},
	}
	w.builder = &builder{registry: w.registry, content: map[string]string{}}
	w.config = release.Config{
		Source: w.source, Builder: w.builder, Journal: w.journal, By: "ci@host",
		Registry: func(h credential.Host, login *credential.Login) (release.Registry, error) {
			who := "reader"
			if login != nil {
				who = login.Username
			}
			w.logged = append(w.logged, who)
			return w.registry, nil
		},
		Login: func(_ context.Context, h credential.Host, scopes credential.Scopes) (credential.Credential, func(context.Context) error, error) {
			w.lent++
			return credential.Credential{Host: h, Username: scopes.String(), Secret: credential.NewSecret("s")}, func(ctx context.Context) error {
				w.ended++
				return errors.Join(ctx.Err(), w.endsWith)
			}, nil
		},
		Cluster:  func(string) (release.Cluster, error) { return w.cluster, nil },
		Progress: func(e release.Event) { w.events = append(w.events, e.Item+" "+string(e.Step)+" "+e.Text) },
		Now:      func() time.Time { return time.Unix(1800000000, 0).UTC() },
	}
	for _, name := range []string{"api", "worker"} {
		w.config.Items = append(w.config.Items, release.Item{
			Name: name, Folder: "/src",
			Job:       build.Job{Repository: repository(name), Context: "/src", Target: name, Platforms: []string{"linux/amd64"}},
			Workloads: []release.Workload{{Workload: workload(name)}},
		})
		w.cluster.states[workload(name)] = &rollout.State{Replicas: 2, Containers: []rollout.Container{
			{Name: name, Image: repository(name).String() + ":0000000"}, {Name: "sidecar", Image: "envoy:1"},
		}}
	}
	return w
}

// tagged puts an image under a tag of the item, as pushed earlier.
func (w *world) tagged(name, tag, content, revision string) digest.Digest {
	d := w.registry.push(name+content, revision, "earlier")
	w.registry.tags[repository(name).Path+":"+tag] = d
	return d
}

func (w *world) plan(steps []release.Step, names ...string) *release.Plan {
	w.t.Helper()
	plan, err := release.New(w.config).Plan(w.t.Context(), steps, names...)
	if err != nil {
		w.t.Fatal(err)
	}
	return plan
}

// run plans and runs.
func (w *world) run(ctx context.Context, steps []release.Step, names ...string) ([]release.Record, error) {
	w.t.Helper()
	r := release.New(w.config)
	plan, err := r.Plan(ctx, steps, names...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Run(ctx, plan)
}

// images lists what the workloads run, the sidecars excepted.
func (w *world) images() string {
	var list []string
	for _, name := range []string{"api", "worker"} {
		list = append(list, name+" "+short(w.cluster.states[workload(name)].Container(name).Image))
	}
	return strings.Join(list, ", ")
}

func outcomes(records []release.Record) string {
	var list []string
	for _, r := range records {
		list = append(list, r.Item+" "+string(r.Outcome))
	}
	return strings.Join(list, ", ")
}
