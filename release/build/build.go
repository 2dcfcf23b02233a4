// Package build has images built by the programs that people build with:
// `docker buildx`, or BuildKit's own `buildctl`. What is built is pushed by
// digest, under no tag: which tag leads to it is decided by who asked.
//
// A program is given its logins in a folder of its own, which is gone when the
// program has ended: the user's config.json is neither changed nor shown to it.
// Secrets of a build are named, never given: no argument and no variable holds
// one. The package refuses to build by itself.
package build

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

// Logins are what a build may log in with, by registry.
type Logins = map[credential.Host]credential.Login

// Secret is a secret that a Dockerfile mounts (RUN --mount=type=secret,id=ID).
// One of File and Env is set.
type Secret struct {
	ID string
	// File is the path of a file that holds it.
	File string
	// Env is the name of a variable of regkeeper's environment that holds it.
	Env string
}

// Job is one image to build.
type Job struct {
	// Name is for people.
	Name string
	// Repository is where the image is pushed to, by digest.
	Repository image.Repository
	// Context is the folder that the build sees.
	Context string
	// Dockerfile is its path, from Context if it is not absolute. Empty is
	// Dockerfile.
	Dockerfile string
	// Target is the stage to build; empty is the last.
	Target string
	// Platforms are as linux/amd64; none is the builder's own.
	Platforms []string
	// Args are build arguments. They can be read in the image and in the list of
	// processes: a secret is none.
	Args map[string]string
	// Contexts are more contexts, by name: folders, or what BuildKit takes
	// beside them (docker-image://, https://, oci-layout://).
	Contexts map[string]string
	Secrets  []Secret
	Labels   map[string]string
	// Annotations are set on every image manifest, and on the index where there
	// is one.
	Annotations map[string]string
	// Provenance is the attestation of how it was built, in BuildKit's words:
	// empty is mode=min, "false" is none. With mode=max it holds all arguments.
	Provenance string
	// SBOM is the attestation of what is in it: empty or "true" is BuildKit's own
	// scanner, "generator=IMAGE" another, "false" none.
	SBOM string
	// Epoch is the time that all files of the image get, and the image itself
	// (https://reproducible-builds.org/specs/source-date-epoch/). The zero time
	// leaves them.
	Epoch time.Time
	// Insecure has the push go in plain HTTP, or past a certificate nobody knows.
	Insecure bool
	// Pull looks for newer base images; NoCache builds all stages again.
	Pull, NoCache bool
}

// Result is what was built and pushed.
type Result struct {
	// Digest is of the manifest or index that was pushed.
	Digest digest.Digest
}

func (j Job) dockerfile() string {
	name := j.Dockerfile
	if name == "" {
		name = "Dockerfile"
	}
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(j.Context, name)
}

func (j Job) provenance() string {
	switch j.Provenance {
	case "", "true":
		return "mode=min"
	case "false":
		return ""
	}
	return j.Provenance
}

// sbom is the scanner asked for, if one is.
func (j Job) sbom() (scanner string, wanted bool) {
	switch j.SBOM {
	case "", "true":
		return "", true
	case "false":
		return "", false
	}
	return j.SBOM, true
}

// indexed says whether the build makes an index: only then may that be
// annotated.
func (j Job) indexed() bool {
	_, sbom := j.sbom()
	provenance := j.provenance()
	// What is inline only makes none (BuildKit, exporter/containerimage).
	return len(j.Platforms) > 1 || sbom || provenance != "" && !strings.Contains(provenance, "inline-only=true")
}

func (j Job) args() map[string]string {
	args := maps.Clone(j.Args)
	if args == nil {
		args = map[string]string{}
	}
	if !j.Epoch.IsZero() {
		args["SOURCE_DATE_EPOCH"] = strconv.FormatInt(j.Epoch.Unix(), 10)
	}
	return args
}

// output is the exporter's line: fields separated by commas, as CSV (BuildKit,
// README, "Image/Registry").
func (j Job) output(annotations bool) string {
	fields := []string{"type=image", "name=" + j.Repository.String(), "push-by-digest=true", "name-canonical=true", "push=true"}
	if j.Insecure {
		fields = append(fields, "registry.insecure=true")
	}
	if !j.Epoch.IsZero() {
		fields = append(fields, "rewrite-timestamp=true")
	}
	if annotations {
		for _, key := range slices.Sorted(maps.Keys(j.Annotations)) {
			fields = append(fields, "annotation."+key+"="+j.Annotations[key])
			if j.indexed() {
				fields = append(fields, "annotation-index."+key+"="+j.Annotations[key])
			}
		}
	}
	return line(fields)
}

// line is one record of CSV.
func line(fields []string) string {
	var text strings.Builder
	w := csv.NewWriter(&text)
	_ = w.Write(fields) // to memory
	w.Flush()
	return strings.TrimSuffix(text.String(), "\n")
}

// secrets are the values of the flags --secret.
func (j Job) secrets() (values []string, err error) {
	for _, s := range j.Secrets {
		switch {
		case s.ID == "" || (s.File == "") == (s.Env == ""):
			return nil, problem.New(problem.Config, "give each an id, and one of file and env", "secret %q of %s", s.ID, j.Name)
		case s.File != "":
			values = append(values, line([]string{"id=" + s.ID, "src=" + s.File}))
		default:
			if _, ok := os.LookupEnv(s.Env); !ok {
				return nil, problem.New(problem.Config, "set it in the environment regkeeper is started with", "secret %s of %s: variable %s is not set", s.ID, j.Name, s.Env)
			}
			values = append(values, line([]string{"id=" + s.ID, "env=" + s.Env}))
		}
	}
	return values, nil
}

// check looks at what would only fail in the program.
func (j Job) check() error {
	if info, err := os.Stat(j.Context); err != nil || !info.IsDir() {
		return problem.New(problem.Config, "name the folder that the build sees", "context %s of %s is no folder", j.Context, j.Name)
	}
	if _, err := os.Stat(j.dockerfile()); err != nil {
		return problem.Wrap(err, problem.Config, "name the Dockerfile from the context", "Dockerfile of %s", j.Name)
	}
	return nil
}

// env are the variables that the secrets are in.
func (j Job) env() (names []string) {
	for _, s := range j.Secrets {
		if s.Env != "" {
			names = append(names, s.Env)
		}
	}
	return names
}

// repeat is a flag for each entry, sorted.
func repeat(flag, prefix string, entries map[string]string) (argv []string) {
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		argv = append(argv, flag, prefix+key+"="+entries[key])
	}
	return argv
}

// result reads what the program tells of the image (--metadata-file).
func result(path string) (Result, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Result{}, fmt.Errorf("read what was built: %w", err)
	}
	var doc struct {
		Digest digest.Digest `json:"containerimage.digest"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return Result{}, fmt.Errorf("read what was built: %w", err)
	}
	if err := doc.Digest.Validate(); err != nil {
		return Result{}, fmt.Errorf("read what was built: digest %q: %w", doc.Digest, err)
	}
	return Result{Digest: doc.Digest}, nil
}

// Tools are what both builders need.
type Tools struct {
	// Program is the path of docker, or of buildctl; empty is that of PATH.
	Program string
	// Folder is where the folders with logins are made for a while; empty is the
	// system's for temporary files. One in memory is best.
	Folder string
	// Env are names of further variables of regkeeper's environment that the
	// program gets. Others than those that docker and BuildKit know it does not:
	// a token may be among them.
	Env []string
}

// known are the variables that are passed on: where programs and sockets are,
// and what docker, buildx, BuildKit and their HTTP read.
var known = []string{
	"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TERM", "NO_COLOR", "TMPDIR", "TMP", "TEMP", "SYSTEMROOT", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES",
	"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "SSH_AUTH_SOCK",
	"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION", "DOCKER_DEFAULT_PLATFORM",
	"BUILDX_BUILDER", "BUILDX_GIT_INFO", "BUILDX_NO_DEFAULT_ATTESTATIONS", "BUILDX_METADATA_PROVENANCE",
	"BUILDKIT_HOST", "BUILDKIT_TLS_DIR", "BUILDKIT_COLORS", "KUBECONFIG",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

// environment is what a program gets of regkeeper's own.
func (t Tools) environment(more ...string) (env []string) {
	for _, name := range slices.Concat(known, t.Env, more) {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// build runs the program, with the logins in a folder for as long as it runs.
// argv makes its arguments of the path for what it tells of the image.
func (t Tools) build(ctx context.Context, job Job, logins Logins, progress func(string), argv func(metadata string) []string) (_ Result, err error) {
	s, err := t.begin(logins)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		if ended := s.end(); ended != nil && err == nil {
			err = ended
		}
	}()
	metadata := filepath.Join(s.folder, "metadata.json")
	p := program{path: t.Program, env: append(t.environment(job.env()...), s.env()...), logins: logins, progress: progress}
	if _, err := p.run(ctx, argv(metadata)...); err != nil {
		return Result{}, problem.Wrap(err, problem.Config, "the lines above are the program's own; a push needs a login with the right to push", "build %s", job.Name)
	}
	built, err := result(metadata)
	if err != nil {
		return Result{}, fmt.Errorf("build %s: %w", job.Name, err)
	}
	return built, nil
}
