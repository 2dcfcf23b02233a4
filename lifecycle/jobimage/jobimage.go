// Package jobimage says whether a CI job can run in an image: whether the image
// has sh, grep and whatever else a job needs in the folders of its PATH, and a shell
// where GitLab Runner looks for one.
//
// It reads as little of the image as decides that: the newest layer first, each as
// a stream, to where nothing more can come of it. It refuses to unpack anything to
// disk, to run anything, and to fetch layers from anywhere but the registry.
package jobimage

import (
	"cmp"
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
)

// Verdict is what a check comes to.
type Verdict string

// The verdicts.
const (
	Fits    Verdict = "fits"
	Unfit   Verdict = "unfit"   // something is missing
	Unknown Verdict = "unknown" // something that decides it cannot be read
)

// State is what is known of a need.
type State string

// The states.
const (
	Present State = "found"
	Missing State = "missing"
	Untold  State = "unknown" // it may be in what cannot be read
	Open    State = ""        // not looked at yet; no result has it
)

// The limits of a [Config] that names none.
const (
	// DefaultMaxUnpacked is in bytes.
	DefaultMaxUnpacked = 64 << 30
	DefaultMaxEntries  = 1 << 20
	// DefaultMaxMemory is in bytes.
	DefaultMaxMemory = 256 << 20
)

// All is the platform that stands for every one that an image has.
const All = "all"

// Config is how images are checked.
type Config struct {
	Reader image.Reader
	// Cache keeps what was learned of layers; nil keeps nothing.
	Cache *imagecache.Cache
	// Needs are programs that jobs need besides sh, a shell and grep: names, which
	// are looked for in PATH, or absolute paths.
	Needs []string
	// Platforms are those to check, as os/architecture[/variant], or [All]; none is
	// Default if the image has it, and else all.
	Platforms []string
	// Default is the platform of the runner, as os/architecture.
	Default string
	// Whole has each layer that is read be read to its end. A layer has one entry
	// for each path, by the specification; of one that breaks this rule only the
	// end tells which entry counts. What was read to its end is known to have its
	// digest.
	Whole bool
	// MaxUnpacked bounds what a layer unpacks to, in bytes; 0 is
	// [DefaultMaxUnpacked].
	MaxUnpacked int64
	// MaxEntries bounds what a layer holds; 0 is [DefaultMaxEntries].
	MaxEntries int
	// MaxMemory bounds what is kept in memory of the layers of an image, in bytes,
	// by estimate; 0 is [DefaultMaxMemory].
	MaxMemory int64
	// Report is called as layers come in; nil for none.
	Report func(Progress)
}

// Progress is how far the reading of a layer has come.
type Progress struct {
	What     string // the platform and the layer
	Done, Of int64  // in bytes
}

// Link is a symbolic link that a path leads through.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
	// Layer is the number of the layer that it is in; the base is 1.
	Layer int `json:"layer"`
}

// Found is where a program is.
type Found struct {
	// Path is where PATH leads to, File where that leads to through Links.
	Path  string `json:"path"`
	Links []Link `json:"links,omitempty"`
	File  string `json:"file"`
	// Layer is the number of the layer that the file is in; the base is 1.
	Layer  int           `json:"layer"`
	Digest digest.Digest `json:"digest"`
}

// Need is something that a job needs, and whether it is there.
type Need struct {
	Name string `json:"name"`
	// AnyOf are the programs of which one is enough, the preferred one first: names
	// or absolute paths.
	AnyOf []string `json:"anyOf"`
	State State    `json:"state"`
	// Program is the one that was found. Where more than one is in the image, or
	// in more than one folder, it is what came first, newest layer first: what
	// would take more reading is not looked for.
	Program string `json:"program,omitempty"`
	*Found
	// Why says more of what is missing or not known; it may be empty.
	Why string `json:"why,omitempty"`
}

// Reading is how much of a layer was read for a check.
type Reading string

// The readings.
const (
	Whole      Reading = "whole"      // to its end
	Part       Reading = "part"       // its beginning
	Remembered Reading = "remembered" // by the cache
	Unread     Reading = "unread"     // it was not needed
	Unreadable Reading = "unreadable" // it was needed, and could not be read
)

// Layer is one layer of an image.
type Layer struct {
	Number  int           `json:"number"` // from the base, which is 1
	Digest  digest.Digest `json:"digest"`
	Size    int64         `json:"size"` // in bytes, as the registry has it
	Reading Reading       `json:"reading"`
	Fetched int64         `json:"fetched"` // in bytes
}

// Result is what a check of one platform of an image came to.
type Result struct {
	Platform string        `json:"platform"`
	Digest   digest.Digest `json:"digest"` // of its manifest
	Verdict  Verdict       `json:"verdict"`
	Needs    []Need        `json:"needs"`
	// Folders are those of PATH.
	Folders []string `json:"folders"`
	Layers  []Layer  `json:"layers"`
	// Size is what a pull of the platform takes, in bytes: its manifest, its config
	// and its layers. Fetched is what the check took of that, in Requests.
	Size     int64    `json:"size"`
	Fetched  int64    `json:"fetched"`
	Requests int      `json:"requests"`
	Notes    []string `json:"notes,omitempty"`
}

// Report is what a check of an image came to.
type Report struct {
	Image  image.Reference `json:"image"`
	Digest digest.Digest   `json:"digest"`
	// Verdict is that of all platforms that were checked.
	Verdict   Verdict  `json:"verdict"`
	Platforms []Result `json:"platforms"`
	// Requests are those for manifests and blobs, of all platforms and of what
	// leads to them; those for logins are not counted. Fetched is in bytes.
	Requests int   `json:"requests"`
	Fetched  int64 `json:"fetched"`
}

// Checker checks images. Its methods may be called at the same time if Report may.
type Checker struct {
	config Config
	// rest is what is read on to the end of a layer although nothing depends on it,
	// in bytes: the whole layer is then known, and known to have its digest.
	rest int64
}

const defaultRest = 256 << 10

// New makes a checker. It begins nothing.
func New(config Config) *Checker {
	config.MaxUnpacked = cmp.Or(config.MaxUnpacked, DefaultMaxUnpacked)
	config.MaxEntries = cmp.Or(config.MaxEntries, DefaultMaxEntries)
	config.MaxMemory = cmp.Or(config.MaxMemory, DefaultMaxMemory)
	return &Checker{config: config, rest: defaultRest}
}

// Check checks one image. What is missing is no error, and neither is a layer that
// cannot be read: see [Result.Verdict]. In the chain of the error are
// [image.ErrMissing] where the registry does not have the image, or a
// [problem.Error]: of kind [problem.Usage] for what is no image, of
// [problem.NotFound] for a platform that it does not have, of [problem.Damaged]
// for what is no archive, or has another size or digest, of [problem.Refused] for a
// layer beyond the limits.
func (c *Checker) Check(ctx context.Context, ref image.Reference) (Report, error) {
	r := &run{Config: c.config, rest: c.rest, repository: ref.Repository, trees: map[string]*node{}, memory: &memory{left: c.config.MaxMemory}, spent: map[digest.Digest]spending{}}
	r.Image = ref
	if err := r.check(ctx); err != nil {
		return Report{}, fmt.Errorf("check image %s: %w", ref, err)
	}
	return r.Report, nil
}
