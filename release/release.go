// Package release takes a git clone to running pods: it names an image by the
// commit, has it built and pushed, gives it its tag, waits until the registry
// serves it, sets it in workloads, watches these roll out, goes back when they do
// not, and writes down what it did.
//
// It owns the order of these steps and what is refused: a tree that is not as
// committed, a tag that leads elsewhere already, a workload that is not as
// expected. Decide, then do: [Releaser.Plan] changes nothing and is data,
// [Releaser.Run] carries it out. How an image is built, how a registry is spoken
// to and how a cluster is, belongs to what it is given.
package release

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/release/build"
	"github.com/regkeeper/regkeeper/release/revision"
	"github.com/regkeeper/regkeeper/release/rollout"
)

// Source reads the commit of a folder. [revision.Git] is one.
type Source interface {
	Read(ctx context.Context, folder string) (revision.Revision, error)
}

// Registry is what is needed of a registry. A type that is an [image.Reader] and
// an [image.Writer] is one.
type Registry interface {
	// Resolve, Manifest: see [image.Reader].
	Resolve(ctx context.Context, repository, target string) (image.Descriptor, error)
	Manifest(ctx context.Context, repository string, d digest.Digest) (mediaType string, raw []byte, err error)
	// WriteManifest: see [image.Writer]. It is how a tag is set.
	WriteManifest(ctx context.Context, repository, tag, mediaType string, raw []byte) (digest.Digest, error)
}

// Builder builds and pushes images by digest, without a tag. [build.Buildx] and
// [build.Buildctl] are two.
type Builder interface {
	fmt.Stringer
	// Prepare has it ready.
	Prepare(ctx context.Context, progress func(line string)) error
	// Build builds and pushes one image, with the logins and no others.
	Build(ctx context.Context, job build.Job, logins build.Logins, progress func(line string)) (build.Result, error)
}

var (
	_ Builder = (*build.Buildx)(nil)
	_ Builder = (*build.Buildctl)(nil)
)

// Cluster sets images in one cluster. [rollout.Cluster] is one, whose methods say
// what the errors are.
type Cluster interface {
	Look(ctx context.Context, w rollout.Workload) (rollout.State, error)
	Set(ctx context.Context, change rollout.Change) (rollout.Applied, error)
	Watch(ctx context.Context, w rollout.Workload, expect map[string]string, patience rollout.Patience, progress func(text string)) error
	Free(ctx context.Context, w rollout.Workload, images map[string]string) error
}

var _ Cluster = (*rollout.Cluster)(nil)

// Journal keeps what was released. [File] is one.
type Journal interface {
	Append(ctx context.Context, record Record) error
	// Released is the last record of an item with the outcome [Released]; nil if
	// there is none.
	Released(ctx context.Context, item string) (*Record, error)
}

// Workload is a container of a workload that runs an item.
type Workload struct {
	// Context is the cluster, in the words of [Config.Cluster].
	Context string `json:"context,omitempty"`
	rollout.Workload
	// Container is its name. Empty is the only one, or the only one with an image
	// of the item's repository.
	Container string `json:"container,omitempty"`
}

// Item is one image and what runs it.
type Item struct {
	Name string
	// Folder is in the git work tree that the image is built of.
	Folder string
	// Job is what to build. Its name, its epoch, and the labels and annotations
	// that tell the commit are set by the release.
	Job build.Job
	// Reproducible gives the image, and all files in it, the time of the commit:
	// building it again then gives the same image.
	Reproducible bool
	// Workloads run it. None: it is only built and pushed.
	Workloads []Workload
	// Pin has workloads run it by tag and digest. Of a dirty tree it always is:
	// the tag of one may move, and a workload whose image is still called the
	// same would not roll.
	Pin bool
}

// Config says what is released, and by what means.
type Config struct {
	Items   []Item
	Source  Source
	Builder Builder
	// Registry makes the way to a registry: with the login of a push, or, where it
	// is nil, with what is at hand for reading.
	Registry func(host credential.Host, login *credential.Login) (Registry, error)
	// Login gets a login for one run, and what ends it. It is ended when the
	// images are served, whatever else has happened.
	Login func(ctx context.Context, host credential.Host, scopes credential.Scopes) (credential.Credential, func(context.Context) error, error)
	// Bases are more registries that a build pulls from with a login.
	Bases []credential.Host
	// Cluster makes the way to a cluster.
	Cluster func(context string) (Cluster, error)
	// Journal keeps the records; nil keeps none.
	Journal Journal

	// Latest has the tag latest follow each build of a clean tree
	// (PUSH_LATEST_TAG).
	Latest bool
	// AllowDirty releases a tree that is not as committed.
	AllowDirty bool
	// Rebuild builds what was built already, too.
	Rebuild bool
	// OneByOne rolls one workload after the other. Otherwise all roll at once.
	OneByOne bool
	// TakeOver sets images that another manager declares: see [rollout.Change].
	TakeOver bool
	// Serve bounds how long the registry may take to serve what was pushed; zero
	// means two minutes.
	Serve time.Duration
	// Rollout bounds the rollouts.
	Rollout rollout.Patience

	// By is who releases, for the records.
	By string
	// Progress is told of what is done, one event at a time; nil for nobody.
	Progress func(Event)
	// Now is the clock of the records.
	Now func() time.Time
}

// Step is a part of a release.
type Step string

// The steps, in their order.
const (
	// Build builds, pushes by digest, and sets the tag.
	Build Step = "build"
	// Wait waits until the registry serves the tag and all that it leads to.
	Wait Step = "wait"
	// Deploy sets the image in the workloads.
	Deploy Step = "deploy"
	// Watch waits until the workloads have rolled out. After Deploy, it goes back
	// when they do not.
	Watch Step = "watch"
	// Rollback is a step of [Releaser.Rollback], and of a run that failed.
	Rollback Step = "rollback"
)

// All are the steps of a whole release.
var All = []Step{Build, Wait, Deploy, Watch}

// Event tells of a release while it goes on.
type Event struct {
	// Item is the item's name; empty where it is about none alone.
	Item string `json:"item,omitempty"`
	Step Step   `json:"step"`
	Text string `json:"text"`
	// Output says that the text is a line of a program's output.
	Output bool `json:"output,omitempty"`
}

// Releaser releases.
type Releaser struct {
	config Config
	mu     sync.Mutex // one event at a time
}

const (
	serve = 2 * time.Minute
	// ending bounds how long a login may take to end.
	ending = 30 * time.Second
)

// New makes a releaser. It does nothing yet.
func New(config Config) *Releaser {
	if config.Serve <= 0 {
		config.Serve = serve
	}
	if config.Rollout.Timeout <= 0 {
		config.Rollout.Timeout = 5 * time.Minute
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Releaser{config: config}
}

func (r *Releaser) tell(event Event) {
	if r.config.Progress == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.config.Progress(event)
}

func (r *Releaser) say(item string, step Step, format string, args ...any) {
	r.tell(Event{Item: item, Step: step, Text: fmt.Sprintf(format, args...)})
}
