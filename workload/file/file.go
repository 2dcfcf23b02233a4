// Package file owns which images a file names: workflow files of GitLab, Gitea,
// Forgejo and GitHub, Compose files, manifests of Kubernetes, Dockerfiles, and
// plain lists.
//
// It refuses to guess: a name that depends on what the file does not say is told
// as such. It opens no file but the one it is told to: what that includes is
// noted. It does not look into scripts that a file has run.
package file

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

// Kind is what a file is.
type Kind string

// The kinds.
const (
	// GitLab is a pipeline (GitLab documentation, "CI/CD YAML syntax reference").
	GitLab Kind = "gitlab"
	// Workflow is one of Gitea, Forgejo or GitHub, or an action (GitHub
	// documentation, "Workflow syntax", "Metadata syntax").
	Workflow Kind = "workflow"
	// Compose is a Compose file (the Compose Specification).
	Compose Kind = "compose"
	// Kubernetes is manifests, rendered, in one or several documents.
	Kubernetes Kind = "kubernetes"
	// Dockerfile is one (Docker documentation, "Dockerfile reference").
	Dockerfile Kind = "dockerfile"
	// List is references, one a line; "#" begins a comment.
	List Kind = "list"
)

var kinds = []Kind{GitLab, Workflow, Compose, Kubernetes, Dockerfile, List}

// Open is a use of an image of which only the repository is known: every tag of
// it may be meant.
type Open struct {
	Repository image.Repository `json:"repository"`
	// Where names the place for people: "ci/.gitlab-ci.yml:12".
	Where string `json:"where"`
}

// Found is what a file says.
type Found struct {
	Uses []image.Use
	// Open are uses that keep a whole repository.
	Open []Open
	// Unknown says, for people, of which uses not even the repository is known,
	// and where they are. As long as there is any, nothing may be taken for unused.
	Unknown []string
	// Notes are what an operator should know besides: files that are included,
	// and were not read.
	Notes []string
}

// Config says what is known besides the files.
type Config struct {
	// Variables are values by the name that files know them by: "CI_REGISTRY_IMAGE",
	// "vars.REGISTRY". Where a file sets a variable too, both count.
	Variables map[string]string
}

// Reader reads files. It may be used at the same time.
type Reader struct{ config Config }

// New makes a reader.
func New(config Config) *Reader { return &Reader{config} }

// maxSize bounds in bytes what is held in memory; a rendered chart is far below.
const maxSize = 16 << 20

// Read reads a file, named by its path, or by its kind and path where the path
// does not tell the kind: "gitlab=ci/build.yml".
//
// The error is a problem of kind [problem.NotFound] or [problem.Storage] if there
// is no such file, or it cannot be read, and otherwise as of [Reader.Parse].
func (r *Reader) Read(argument string) (Found, error) {
	kind, path := Kind(""), argument
	if before, after, ok := strings.Cut(argument, "="); ok && slices.Contains(kinds, Kind(before)) {
		kind, path = Kind(before), after
	}
	text, err := read(path)
	if err != nil {
		return Found{}, err
	}
	return r.Parse(kind, path, text)
}

func read(path string) (text []byte, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.Wrap(err, problem.NotFound, "check the path", "read images in use")
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Storage, "", "read images in use")
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, problem.New(problem.Usage, "name the files in it", "%s is a folder", path)
	}
	text, err = io.ReadAll(io.LimitReader(f, maxSize+1))
	return text, problem.Wrap(err, problem.Storage, "", "read images in use")
}

// Parse reads a text. Without a kind, its name and what it says tell it.
//
// The error is a problem of kind [problem.Usage] if the kind cannot be told, or
// the text is a template; and of kind [problem.Damaged], with the line, if the
// text cannot be read.
func (r *Reader) Parse(kind Kind, name string, text []byte) (found Found, err error) {
	defer func() {
		// A text that a parser was not made for must not end the program.
		if recover() != nil {
			found, err = Found{}, damaged(name, 0, "it cannot be read")
		}
	}()
	if len(text) > maxSize {
		return Found{}, damaged(name, 0, "it is larger than "+strconv.Itoa(maxSize>>20)+" MiB")
	}
	plain := strings.ReplaceAll(strings.TrimPrefix(string(text), "\ufeff"), "\r\n", "\n")
	if kind == "" {
		kind = byName(name)
	}
	c := &collector{name: name, config: r.config, seen: map[string]bool{}}
	switch kind {
	case Dockerfile:
		c.dockerfile(plain)
		return c.found, nil
	case List:
		c.list(plain)
		return c.found, nil
	case "", GitLab, Workflow, Compose, Kubernetes:
	default:
		return Found{}, problem.New(problem.Usage, hint(), "%s: there is no kind of file %q", name, kind)
	}
	switch filepath.Ext(name) {
	case ".yml", ".yaml", ".json":
	default:
		if kind == "" {
			return Found{}, notKnown(name)
		}
	}
	if at := template.FindStringIndex(plain); at != nil && (kind == "" || kind == Kubernetes) {
		return Found{}, problem.New(problem.Usage, "render it first: helm template", "%s:%d: the file is a template", name, 1+strings.Count(plain[:at[0]], "\n"))
	}
	for doc, err := range parse(name, plain) {
		if err != nil {
			return Found{}, err
		}
		if kind == "" {
			// The first document that has something to say tells it.
			if kind = byContent(doc); kind == "" {
				return Found{}, notKnown(name)
			}
		}
		switch kind {
		case GitLab:
			c.gitlab(doc)
		case Workflow:
			c.workflow(doc)
		case Compose:
			c.compose(doc)
		case Kubernetes:
			c.kubernetes(doc)
		}
	}
	if kind == "" {
		return Found{}, notKnown(name)
	}
	if c.steps > maxSteps {
		return Found{}, damaged(name, 0, "its aliases repeat too much")
	}
	return c.found, nil
}

// template is what charts have before they are rendered: as YAML it is a mapping
// that says nothing.
var template = regexp.MustCompile(`(?m)^[ \t-]*(?:\{\{-?[ \t]*(?:if|range|with|include|define|end|template)\b|[A-Za-z]+:[ \t]*\{\{)`)

func hint() string {
	var list []string
	for _, k := range kinds {
		list = append(list, string(k))
	}
	return "say what it is as KIND=PATH, where KIND is one of " + strings.Join(list, ", ")
}

func notKnown(name string) error {
	return problem.New(problem.Usage, hint(), "%s: what kind of file it is cannot be told", name)
}

func damaged(name string, line int, what string) error {
	if line > 0 {
		name += ":" + strconv.Itoa(line)
	}
	return problem.New(problem.Damaged, "correct the file", "%s: %s", name, what)
}

var (
	composeName    = regexp.MustCompile(`^(docker-)?compose([.-].*)?\.ya?ml$`)
	dockerfileName = regexp.MustCompile(`^(docker|container)file([.-].*)?$|\.(docker|container)file$`)
	gitlabName     = regexp.MustCompile(`\.gitlab-ci\.ya?ml$`)
	workflowName   = regexp.MustCompile(`/\.(gitea|forgejo|github)/workflows/[^/]+\.ya?ml$|/action\.ya?ml$`)
	listName       = regexp.MustCompile(`\.(txt|list|images)$`)
)

// byName is the kind by the path; empty if that does not tell it.
func byName(name string) Kind {
	slashed := "/" + filepath.ToSlash(name)
	base := strings.ToLower(slashed[strings.LastIndexByte(slashed, '/')+1:])
	switch {
	case gitlabName.MatchString(base):
		return GitLab
	case workflowName.MatchString(slashed):
		return Workflow
	case composeName.MatchString(base):
		return Compose
	case listName.MatchString(base):
		return List
	case dockerfileName.MatchString(base) && !strings.HasSuffix(base, ".yml") && !strings.HasSuffix(base, ".yaml"):
		return Dockerfile
	}
	return ""
}

// byContent is the kind by what a document says; empty if it does not tell it.
func byContent(doc *node) Kind {
	switch {
	case doc.get("kind").text() != "" && doc.get("apiVersion").text() != "":
		return Kubernetes
	case doc.get("jobs").isMapping() && doc.get("on") != nil, doc.get("runs").get("using") != nil:
		return Workflow
	case doc.get("stages") != nil, doc.get("workflow") != nil, doc.get("spec").get("inputs") != nil,
		doc.get("include") != nil && doc.get("services") == nil:
		return GitLab
	}
	for _, e := range doc.entries() {
		if e.value.get("script") != nil || e.value.get("trigger") != nil || e.value.get("extends") != nil {
			return GitLab
		}
	}
	services := doc.get("services").entries()
	if len(services) > 0 && !slices.ContainsFunc(services, func(e entry) bool {
		return e.value.get("image") == nil && e.value.get("build") == nil && e.value.get("extends") == nil
	}) {
		return Compose
	}
	return ""
}

// collector takes what a file says, each thing once.
type collector struct {
	name   string
	config Config
	found  Found
	seen   map[string]bool
	// steps counts what was walked.
	steps int
}

// where names a line.
func (c *collector) where(line int) string { return c.name + ":" + strconv.Itoa(line) }

func (c *collector) once(text string) bool {
	if c.seen[text] {
		return false
	}
	c.seen[text] = true
	return true
}

func (c *collector) unknown(line int, text string) {
	if text = c.where(line) + ": " + text; c.once("unknown " + text) {
		c.found.Unknown = append(c.found.Unknown, text)
	}
}

func (c *collector) note(line int, text string) {
	if text = c.where(line) + ": " + text; c.once("note " + text) {
		c.found.Notes = append(c.found.Notes, text)
	}
}

// take takes a name as it is written; an empty one is none.
func (c *collector) take(text string, line int, values lookup) {
	for _, meant := range newExpander(c.known(values)).expand(text) {
		c.resolved(text, meant, line)
	}
}

// known adds what is known besides the file.
func (c *collector) known(values lookup) lookup {
	return func(name string) []string {
		var all []string
		if values != nil {
			all = values(name)
		}
		if value, ok := c.config.Variables[name]; ok {
			all = append(slices.Clone(all), value)
		}
		return all
	}
}

// resolved takes a name in which holes are where nobody knows what stands there.
//
//	holes                      what is known
//	none                       the reference
//	behind the tag's colon     the repository
//	anywhere else              nothing
func (c *collector) resolved(written, meant string, line int) {
	meant = strings.TrimSpace(meant)
	if meant == "" {
		return
	}
	if !strings.Contains(meant, hole) {
		ref, err := image.ParseReference(meant)
		switch {
		case err != nil:
			c.unknown(line, err.Error())
		case c.once("use " + c.where(line) + " " + ref.String()):
			c.found.Uses = append(c.found.Uses, image.Use{Reference: ref, Where: c.where(line)})
		}
		return
	}
	repository, ok := literal(meant)
	switch {
	case !ok:
		c.unknown(line, "the repository of image "+strconv.Quote(written)+" depends on a variable")
	case c.once("open " + c.where(line) + " " + repository.String()):
		c.found.Open = append(c.found.Open, Open{repository, c.where(line)})
	}
}

// literal is the repository of a name whose first hole is in its tag or digest.
func literal(text string) (image.Repository, bool) {
	if i := strings.Index(text, "://"); i >= 0 && !strings.Contains(text[:i], hole) {
		text = text[i+len("://"):]
	}
	before, _, _ := strings.Cut(text, hole)
	end := strings.IndexByte(before, '@')
	if end < 0 {
		end = len(before)
	}
	slash := strings.LastIndexByte(before[:end], '/')
	colon := strings.LastIndexByte(before[:end], ':')
	switch {
	case colon > slash:
		end = colon
	case end == len(before):
		return image.Repository{}, false
	}
	// What is no tag is a port, and what follows it a path.
	if strings.Contains(text[end:], "/") {
		return image.Repository{}, false
	}
	// What looks like a host alone may be followed by both.
	if slash < 0 && colon > 0 && (strings.Contains(before[:end], ".") || before[:end] == "localhost") {
		return image.Repository{}, false
	}
	repository, err := image.ParseRepository(before[:end])
	return repository, err == nil
}

// list takes references, one a line.
func (c *collector) list(text string) {
	for i, line := range strings.Split(text, "\n") {
		if at := comment.FindStringIndex(line); at != nil {
			line = line[:at[0]]
		}
		c.take(strings.TrimSpace(line), i+1, nil)
	}
}

var comment = regexp.MustCompile(`(^|\s)#`)
