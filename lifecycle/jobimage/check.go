package jobimage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

// run is the check of one image.
type run struct {
	Config
	Report
	repository image.Repository
	rest       int64
	// trees are those of layers that were read to their ends, by their keys.
	trees map[string]*node
	// memory is what is left of it for trees.
	memory *memory
	// spent is what was asked for and came, by the manifest that it was for.
	spent map[digest.Digest]spending
}

type spending struct {
	requests int
	fetched  int64
}

// spend counts what was spent for a manifest.
func (r *run) spend(d digest.Digest, requests int, fetched int64) {
	s := r.spent[d]
	r.spent[d] = spending{s.requests + requests, s.fetched + fetched}
	r.Requests += requests
	r.Fetched += fetched
}

func (r *run) check(ctx context.Context) error {
	for _, wanted := range r.Config.Platforms {
		if n := strings.Count(wanted, "/"); wanted != All && (n < 1 || n > 2) {
			return problem.New(problem.Usage, "write it as linux/arm64, or all", "platform %q is none", wanted)
		}
	}
	for _, name := range r.Config.Needs {
		if name == "" || strings.ContainsAny(name, `/\`) && !strings.HasPrefix(name, "/") && !windowsAbsolute(name) {
			return problem.New(problem.Usage, "name programs, such as git, or absolute paths", "%q is no program", name)
		}
	}
	r.Report.Digest = r.Image.Digest
	if r.Image.Digest == "" {
		r.Requests++
		found, err := r.Reader.Resolve(ctx, r.repository.Path, r.Image.Target())
		if err != nil {
			return err
		}
		r.Report.Digest = found.Digest
	}
	root, err := r.manifest(ctx, r.Report.Digest)
	if err != nil {
		return err
	}
	if !root.IsIndex() && !root.IsImage() {
		return noImage(root)
	}
	platforms, err := r.platforms(ctx, root, 0)
	if err != nil {
		return err
	}
	chosen, err := r.choose(platforms)
	if err != nil {
		return err
	}
	for _, p := range chosen {
		result, err := r.platform(ctx, p)
		if err != nil {
			return err
		}
		r.Report.Platforms = append(r.Report.Platforms, result)
	}
	r.Verdict = worst(r.Report.Platforms, func(p Result) Verdict { return p.Verdict })
	return nil
}

// worst is the verdict of all: one that does not fit is enough.
func worst[T any](all []T, of func(T) Verdict) Verdict {
	verdict := Fits
	for _, each := range all {
		switch of(each) {
		case Unfit:
			return Unfit
		case Unknown:
			verdict = Unknown
		}
	}
	return verdict
}

func noImage(m *image.Manifest) error {
	what := m.ArtifactType
	if what == "" && m.Config != nil {
		what = m.Config.MediaType
	}
	return problem.New(problem.Usage, "name an image that containers are made of: Helm charts, signatures and other artifacts are none", "%s is no image but %q", image.Short(m.Digest), what)
}

// manifest reads one, counting what came.
func (r *run) manifest(ctx context.Context, d digest.Digest) (*image.Manifest, error) {
	mediaType, raw, err := r.Cache.Manifest(d, func() (string, []byte, error) {
		mediaType, raw, err := r.Reader.Manifest(ctx, r.repository.Path, d)
		r.spend(d, 1, int64(len(raw)))
		return mediaType, raw, err
	})
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(d, mediaType, raw)
	return m, problem.Wrap(err, problem.Usage, "name an image of the OCI, or of Docker's second schema", "%s is no image that can be looked into", image.Short(d))
}

// candidate is a platform of an image.
type candidate struct {
	digest   digest.Digest
	platform string
	// What follows is nil until it was read.
	manifest *image.Manifest
	config   *config
}

// config is what a check takes of an image's config (OCI image specification,
// "config.md").
type config struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	Config       struct {
		Env []string `json:"Env"`
	} `json:"config"`
}

// mostNested is how deep indexes may lie in each other, mostConfig how large a
// config may be, in bytes.
const (
	mostNested = 4
	mostConfig = 4 << 20
)

// platforms lists what an image has, without reading more than it takes to tell
// platforms apart.
func (r *run) platforms(ctx context.Context, m *image.Manifest, depth int) ([]*candidate, error) {
	if !m.IsIndex() {
		if !m.IsImage() {
			return nil, nil
		}
		only := &candidate{digest: m.Digest, manifest: m}
		return []*candidate{only}, r.fill(ctx, only)
	}
	if depth == mostNested {
		return nil, problem.New(problem.Usage, "", "it has indexes in indexes, more than %d deep", mostNested)
	}
	var all []*candidate
	for _, child := range m.Children {
		if child.Attests != "" || child.Platform == "unknown/unknown" {
			continue
		}
		if child.Platform != "" && !(&image.Manifest{MediaType: child.MediaType}).IsIndex() {
			all = append(all, &candidate{digest: child.Digest, platform: child.Platform})
			continue
		}
		below, err := r.manifest(ctx, child.Digest)
		if err != nil {
			return nil, err
		}
		more, err := r.platforms(ctx, below, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// fill reads a candidate's manifest and config.
func (r *run) fill(ctx context.Context, c *candidate) (err error) {
	if c.manifest == nil {
		if c.manifest, err = r.manifest(ctx, c.digest); err != nil {
			return err
		}
	}
	if !c.manifest.IsImage() {
		return noImage(c.manifest)
	}
	d := c.manifest.Config.Digest
	raw, err := r.Cache.Config(d, func() ([]byte, error) { return r.blob(ctx, c.digest, d) })
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	c.config = &config{}
	if err := json.Unmarshal(raw, c.config); err != nil {
		return problem.Wrap(err, problem.Damaged, "build the image anew", "config %s", image.Short(d))
	}
	if c.config.OS != "" && c.config.Architecture != "" {
		c.platform = strings.TrimSuffix(c.config.OS+"/"+c.config.Architecture+"/"+c.config.Variant, "/")
	}
	return nil
}

// blob reads a small blob of a manifest.
func (r *run) blob(ctx context.Context, of, d digest.Digest) ([]byte, error) {
	r.spend(of, 1, 0)
	body, err := r.Reader.Blob(ctx, r.repository.Path, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(body, mostConfig+1))
	r.spend(of, 0, int64(len(raw)))
	if err == nil && len(raw) > mostConfig {
		err = problem.New(problem.Refused, "", "it has more than %d bytes", mostConfig)
	}
	return raw, err
}

// choose are the platforms to check.
func (r *run) choose(all []*candidate) ([]*candidate, error) {
	names := func() string {
		var names []string
		for _, c := range all {
			names = append(names, strings.Trim(strconv.Quote(cmp.Or(c.platform, "one without a name")), `"`))
		}
		slices.Sort(names)
		return strings.Join(slices.Compact(names), ", ")
	}
	if len(all) == 0 {
		return nil, problem.New(problem.Usage, "name an image that containers are made of", "the index leads to no image")
	}
	wanted := r.Config.Platforms
	if len(wanted) == 0 {
		if some := matching(all, r.Default); r.Default != "" && len(some) > 0 {
			return some, nil
		}
		return all, nil
	}
	if slices.Contains(wanted, All) {
		return all, nil
	}
	var chosen []*candidate
	for _, platform := range wanted {
		some := matching(all, platform)
		if len(some) == 0 {
			return nil, problem.New(problem.NotFound, "it has "+names(), "the image is not there for %s", platform)
		}
		for _, c := range some {
			if !slices.Contains(chosen, c) {
				chosen = append(chosen, c)
			}
		}
	}
	return chosen, nil
}

// matching are those of a platform. Without a variant all variants are meant; v8 is
// what arm64 is without one (containerd's platforms package).
func matching(all []*candidate, wanted string) (some []*candidate) {
	bare := func(platform string) string {
		if before, ok := strings.CutSuffix(platform, "/arm64/v8"); ok {
			return before + "/arm64"
		}
		return platform
	}
	for _, c := range all {
		if bare(c.platform) == bare(wanted) || strings.HasPrefix(c.platform, wanted+"/") {
			some = append(some, c)
		}
	}
	return some
}

// defaultPath is PATH where an image sets none, as Docker and containerd have it
// (moby's oci.DefaultPathEnv, containerd's oci.WithDefaultPathEnv).
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// windowsFolders are those of PATH in Microsoft's base images, where an image sets
// none: there it stands in the registry of Windows.
var windowsFolders = []string{
	"/windows/system32", "/windows", "/windows/system32/wbem", "/windows/system32/windowspowershell/v1.0",
	"/program files/powershell", "/program files/powershell/7", "/program files/powershell/latest",
}

// folders are those of PATH, and what is to be said of it.
func (c *config) folders() (folders, notes []string) {
	windows := c.OS == "windows"
	value, set := defaultPath, false
	for _, variable := range c.Config.Env { // of several the last counts
		name, text, _ := strings.Cut(variable, "=")
		if name == "PATH" || windows && strings.EqualFold(name, "PATH") {
			value, set = text, true
		}
	}
	if windows && !set {
		return windowsFolders, nil
	}
	separator := ":"
	if windows {
		separator = ";"
	}
	for _, folder := range strings.Split(value, separator) {
		if windows && folder != "" {
			folder = strings.ToLower(folder)
			for _, root := range []string{"%systemroot%", "%windir%"} {
				folder = strings.ReplaceAll(folder, root, `c:\windows`)
			}
			if windowsAbsolute(folder) {
				folder = path.Clean("/" + windowsPath(folder))
			}
		}
		switch {
		case folder == "" && value == "":
		case !strings.HasPrefix(folder, "/"):
			notes = append(notes, fmt.Sprintf("PATH has %q in it, which depends on where a command is run: nothing is looked for there", folder))
		case !slices.Contains(folders, folder):
			folders = append(folders, folder)
		}
	}
	if len(folders) == 0 {
		notes = append(notes, "PATH is empty: no program is found by its name")
	}
	return folders, notes
}

// shells are the places at which GitLab Runner looks for a shell, in this order (its
// shells/bash.go). It does not look in PATH.
var shells = []string{"/usr/local/bin/bash", "/usr/bin/bash", "/bin/bash", "/usr/local/bin/sh", "/usr/bin/sh", "/bin/sh", "/busybox/sh"}

// needs are what a job needs, not looked at yet.
func (r *run) needs(windows bool) []Need {
	// GitLab Runner begins a script in a container with `sh -c`, goes on in one of
	// shells, and asks `set -o | grep pipefail` first (its shells/bash.go). For
	// Windows it writes scripts for PowerShell alone.
	needs := []Need{{Name: "sh", AnyOf: []string{"sh"}}, {Name: "shell", AnyOf: slices.Clone(shells)}, {Name: "grep", AnyOf: []string{"grep"}}}
	if windows {
		needs = []Need{{Name: "shell", AnyOf: []string{"pwsh", "powershell"}}}
	}
	for _, name := range r.Config.Needs {
		if !slices.ContainsFunc(needs, func(n Need) bool { return n.Name == name }) {
			needs = append(needs, Need{Name: name, AnyOf: []string{name}})
		}
	}
	return needs
}

// platform checks one platform.
func (r *run) platform(ctx context.Context, c *candidate) (Result, error) {
	if c.config == nil {
		err := r.fill(ctx, c)
		if errors.Is(err, image.ErrMissing) {
			return Result{
				Platform: c.platform, Digest: c.digest, Verdict: Unknown, Needs: []Need{}, Folders: []string{}, Layers: []Layer{},
				Requests: r.spent[c.digest].requests, Fetched: r.spent[c.digest].fetched, Notes: []string{"the registry does not have the manifest or the config of this platform: it does not pull"},
			}, nil
		}
		if err != nil {
			return Result{}, err
		}
	}
	r.memory.left = r.MaxMemory
	for _, tree := range r.trees {
		r.memory.left -= tree.cost()
	}
	windows := c.config.OS == "windows"
	folders, notes := c.config.folders()
	v := &view{windows: windows}
	result := Result{Platform: c.platform, Digest: c.digest, Needs: r.needs(windows), Folders: append([]string{}, folders...), Notes: notes, Layers: []Layer{}}
	result.Size = c.manifest.Size + c.manifest.Config.Size
	counted := map[digest.Digest]bool{}
	for i, blob := range c.manifest.Layers {
		result.Layers = append(result.Layers, Layer{Number: i + 1, Digest: blob.Digest, Size: blob.Size, Reading: Unread})
		if !counted[blob.Digest] {
			counted[blob.Digest] = true
			result.Size += blob.Size
		}
		v.layers = append(v.layers, layer{blob: blob, number: i + 1})
	}
	slices.Reverse(v.layers)
	for next := 0; !v.decide(result.Needs, folders) && next < len(v.layers); next++ {
		told := &result.Layers[v.layers[next].number-1]
		before := r.Fetched
		settled, err := r.load(ctx, v, next, told, result, folders)
		told.Fetched = r.Fetched - before
		if err != nil {
			return Result{}, fmt.Errorf("layer %d (%s): %w", told.Number, image.Short(told.Digest), err)
		}
		if settled != nil {
			result.Needs = settled
		}
	}
	result.Verdict = worst(result.Needs, func(n Need) Verdict {
		return map[State]Verdict{Present: Fits, Missing: Unfit, Untold: Unknown}[n.State]
	})
	result.Notes = append(result.Notes, v.notes(result.Needs, folders)...)
	result.Fetched, result.Requests = r.spent[c.digest].fetched, r.spent[c.digest].requests
	return result, nil
}

// notes say more of the shell.
func (v *view) notes(needs []Need, folders []string) []string {
	v.waiting = map[string]bool{}
	if v.windows {
		if at, where, _ := v.search("cmd", folders); at == found && needs[0].State != Present {
			return []string{where.Path + " is there: GitLab Runner has no use for it, it writes scripts for PowerShell alone"}
		}
		return nil
	}
	switch sh, shell := needs[0], needs[1]; {
	case sh.State == Missing && shell.State == Present:
		return []string{fmt.Sprintf("there is %s and no sh in PATH: GitLab Runner begins with `sh -c`, and fails before it comes to that", shell.Program)}
	case sh.State == Present && shell.State == Missing:
		return []string{fmt.Sprintf("there is %s, and no shell where GitLab Runner looks for one: %s", sh.Path, strings.Join(shells, ", "))}
	}
	return nil
}

// load reads the layer that is next, as much of it as is needed. It returns the
// needs if a part of it settled all of them.
func (r *run) load(ctx context.Context, v *view, next int, told *Layer, result Result, folders []string) ([]Need, error) {
	l := &v.layers[next]
	key := "layer "
	if v.windows {
		key = "layer of windows "
	}
	key += l.blob.Digest.String()
	part := key + " in " + r.repository.String()
	if l.tree = r.trees[key]; l.tree == nil {
		l.tree = cachedTree(r.Cache, key)
	}
	if l.tree != nil {
		if r.trees[key] == nil {
			if err := r.memory.take(l.tree.cost()); err != nil {
				return nil, r.tooMuch(err)
			}
		}
		r.trees[key], told.Reading = l.tree, Remembered
		return nil, nil
	}
	if l.closed = unreadable(l); l.closed != "" {
		told.Reading = Unreadable
		return nil, nil
	}
	if tree := cachedTree(r.Cache, part); tree != nil && !r.Whole {
		l.tree, l.part = tree, true
		if settled := slices.Clone(result.Needs); v.decide(settled, folders) {
			told.Reading = Remembered
			return settled, nil
		}
	}
	s := &stream{run: r, view: v, layer: l, needs: result.Needs, folders: folders, what: fmt.Sprintf("%s layer %d", result.Platform, told.Number), owner: result.Digest}
	settled, err := s.read(ctx)
	switch {
	case errors.Is(err, image.ErrMissing):
		l.tree, l.part, told.Reading = nil, false, Unreadable
		l.closed = fmt.Sprintf("layer %d is not in the registry", l.number)
		if elsewhere(l.blob) {
			l.closed = fmt.Sprintf("layer %d is kept elsewhere, and is not in the registry", l.number)
		}
		return nil, nil
	case err != nil:
		return nil, err
	case settled != nil:
		told.Reading = Part
		cacheTree(r.Cache, part, l.tree)
	default:
		told.Reading = Whole
		r.trees[key] = l.tree
		cacheTree(r.Cache, key, l.tree)
	}
	return settled, nil
}

// elsewhere says whether registries need not have a layer (OCI image
// specification, "layer.md", "Non-Distributable Layers").
func elsewhere(blob image.Blob) bool {
	return len(blob.URLs) > 0 || strings.Contains(blob.MediaType, "nondistributable") || strings.Contains(blob.MediaType, ".foreign.")
}

// unreadable says why a layer cannot be looked into; "" if it can.
func unreadable(l *layer) string {
	switch {
	case strings.HasSuffix(l.blob.MediaType, "+encrypted"):
		return fmt.Sprintf("layer %d is encrypted", l.number)
	case !strings.Contains(l.blob.MediaType, "tar"):
		return fmt.Sprintf("layer %d is no archive but %q", l.number, l.blob.MediaType)
	}
	return ""
}
