package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// Name is the builder's where none is named.
const Name = "regkeeper"

// RegistryOptions are what a builder must know of a registry that is not
// reached by HTTPS with a certificate that everybody trusts.
type RegistryOptions struct {
	// HTTP has it spoken to in plain HTTP.
	HTTP bool
	// Insecure has any certificate taken.
	Insecure bool
	// CA is the path of a file with certificates to trust.
	CA string
	// Mirrors are asked first.
	Mirrors []string
}

// BuildxConfig says which builder, and how it is made.
type BuildxConfig struct {
	Tools
	// Builder is the builder's name; empty is [Name]. One that exists is taken as
	// it is.
	Builder string
	// Driver is docker-container, kubernetes or remote; empty is
	// docker-container. The driver docker cannot push by digest.
	Driver string
	// Endpoint is a docker context or socket, or the address of a BuildKit
	// (driver remote). Empty is docker's current one.
	Endpoint string
	// Options are the driver's.
	Options map[string]string
	// Registries are what the builder's BuildKit is told of registries. It is
	// told when the builder is made.
	Registries map[credential.Host]RegistryOptions
}

// Buildx builds by `docker buildx`, on one named builder that it makes where
// there is none: several jobs share its cache.
type Buildx struct{ config BuildxConfig }

// NewBuildx makes it. It runs nothing.
func NewBuildx(config BuildxConfig) *Buildx {
	if config.Program == "" {
		config.Program = "docker"
	}
	if config.Builder == "" {
		config.Builder = Name
	}
	if config.Driver == "" {
		config.Driver = "docker-container"
	}
	return &Buildx{config: config}
}

// String says what builds.
func (b *Buildx) String() string { return "docker buildx, builder " + b.config.Builder }

// Present says whether the builder exists, and by which driver.
func (b *Buildx) Present(ctx context.Context) (driver string, present bool, err error) {
	found, err := b.find(ctx)
	if err != nil || found == nil {
		return "", false, err
	}
	return found.Driver, true, nil
}

// builder is what buildx lists of one.
type builder struct {
	Name, Driver string
	Nodes        []struct{ Name string }
}

// find finds the builder; nil if there is none. One whose node is down is listed
// too.
func (b *Buildx) find(ctx context.Context) (*builder, error) {
	out, err := b.docker(ctx, nil, true, "buildx", "ls", "--format", "json")
	if err != nil {
		return nil, problem.Wrap(err, problem.Config, "install docker with the plugin buildx, 0.13 or later", "list the builders")
	}
	for text := range bytes.Lines(out) {
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		var found builder
		if err := json.Unmarshal(text, &found); err != nil {
			return nil, fmt.Errorf("read the list of builders: %w", err)
		}
		if found.Name == b.config.Builder {
			return &found, nil
		}
	}
	return nil, nil
}

// check refuses builders that would push otherwise than by digest.
func (b *builder) check() error {
	const hint = "name another builder: where there is none of the name, it is made with the driver docker-container"
	switch {
	case b.Driver == "docker":
		return problem.New(problem.Config, hint, "builder %s has the driver docker, which cannot push by digest", b.Name)
	case len(b.Nodes) > 1:
		// buildx merges what they make itself, and then pushes that as latest.
		return problem.New(problem.Config, hint, "builder %s has %d nodes: buildx would push a tag", b.Name, len(b.Nodes))
	}
	return nil
}

// Prepare has the builder run, and makes it where there is none. The user's
// choice of a current builder stays as it is.
func (b *Buildx) Prepare(ctx context.Context, progress func(line string)) error {
	found, err := b.find(ctx)
	if err != nil {
		return err
	}
	if found == nil {
		if err := b.create(ctx, progress); err != nil {
			// Another process may have made it at the same time.
			var again error
			if found, again = b.find(ctx); again != nil || found == nil {
				return err
			}
		}
	}
	if found != nil {
		if err := found.check(); err != nil {
			return err
		}
	}
	// What is inspected is its answer, of many lines, and no progress.
	if _, err := b.docker(ctx, progress, true, "buildx", "inspect", "--bootstrap", b.config.Builder); err != nil {
		return problem.Wrap(err, problem.Unreachable, "look at `docker buildx inspect "+b.config.Builder+"`; a builder that is broken goes by `docker buildx rm` and is made again", "start builder %s", b.config.Builder)
	}
	return nil
}

func (b *Buildx) create(ctx context.Context, progress func(string)) error {
	argv := []string{"buildx", "create", "--name", b.config.Builder, "--driver", b.config.Driver}
	argv = append(argv, repeat("--driver-opt", "", b.config.Options)...)
	if len(b.config.Registries) > 0 && b.config.Driver != "remote" {
		folder, err := os.MkdirTemp(b.config.Folder, "regkeeper-buildkitd-")
		if err != nil {
			return disk.Problem(err, "make a folder for the builder's configuration")
		}
		defer func() { _ = os.RemoveAll(folder) }()
		// buildx keeps the content with the builder.
		path := filepath.Join(folder, "buildkitd.toml")
		if err := os.WriteFile(path, BuildkitdConfig(b.config.Registries), disk.PrivateFile); err != nil {
			return disk.Problem(err, "write %s", path)
		}
		argv = append(argv, "--buildkitd-config", path)
	}
	if b.config.Endpoint != "" {
		argv = append(argv, b.config.Endpoint)
	}
	_, err := b.docker(ctx, progress, false, argv...)
	return problem.Wrap(err, problem.Config, "see that docker runs: `docker version`", "make builder %s", b.config.Builder)
}

// Remove removes the builder, with its cache. One that is not there is no error.
func (b *Buildx) Remove(ctx context.Context) error {
	_, present, err := b.Present(ctx)
	if err != nil || !present {
		return err
	}
	_, err = b.docker(ctx, nil, false, "buildx", "rm", b.config.Builder)
	return problem.Wrap(err, problem.Config, "", "remove builder %s", b.config.Builder)
}

// Build builds and pushes one image. The builder must be there.
func (b *Buildx) Build(ctx context.Context, job Job, logins Logins, progress func(line string)) (Result, error) {
	secrets, err := job.secrets()
	if err := errors.Join(err, job.check()); err != nil {
		return Result{}, err
	}
	return b.config.build(ctx, job, logins, progress, func(metadata string) []string {
		argv := []string{"buildx", "build", "--builder", b.config.Builder, "--progress", "plain", "--metadata-file", metadata, "--output", job.output(false), "--file", job.dockerfile()}
		if job.Target != "" {
			argv = append(argv, "--target", job.Target)
		}
		if len(job.Platforms) > 0 {
			argv = append(argv, "--platform", strings.Join(job.Platforms, ","))
		}
		if job.Pull {
			argv = append(argv, "--pull")
		}
		if job.NoCache {
			argv = append(argv, "--no-cache")
		}
		argv = append(argv, repeat("--build-arg", "", job.args())...)
		argv = append(argv, repeat("--build-context", "", job.Contexts)...)
		argv = append(argv, repeat("--label", "", job.Labels)...)
		where := "manifest:"
		if job.indexed() {
			where = "index,manifest:"
		}
		argv = append(argv, repeat("--annotation", where, job.Annotations)...)
		for _, s := range secrets {
			argv = append(argv, "--secret", s)
		}
		argv = append(argv, "--provenance="+orFalse(job.provenance(), job.provenance() != ""))
		scanner, wanted := job.sbom()
		if scanner == "" {
			scanner = "true"
		}
		return append(argv, "--sbom="+orFalse(scanner, wanted), job.Context)
	})
}

func orFalse(value string, wanted bool) string {
	if wanted {
		return value
	}
	return "false"
}

// docker runs docker as its user does: nothing is pushed by it.
func (b *Buildx) docker(ctx context.Context, progress func(string), answers bool, argv ...string) ([]byte, error) {
	p := program{path: b.config.Program, env: b.config.environment("DOCKER_CONFIG", "BUILDX_CONFIG"), progress: progress, answers: answers}
	return p.run(ctx, argv...)
}

// BuildkitdConfig is the part of a buildkitd.toml that tells of registries
// (BuildKit, docs/buildkitd.toml.md).
func BuildkitdConfig(registries map[credential.Host]RegistryOptions) []byte {
	var text bytes.Buffer
	// A string of JSON is one of TOML.
	quote := func(value any) string {
		raw, _ := json.Marshal(value) // of strings
		return string(raw)
	}
	for _, host := range slices.Sorted(maps.Keys(registries)) {
		o := registries[host]
		_, _ = fmt.Fprintf(&text, "[registry.%s]\n", quote(host))
		if o.HTTP {
			text.WriteString("  http = true\n")
		}
		if o.Insecure {
			text.WriteString("  insecure = true\n")
		}
		if o.CA != "" {
			_, _ = fmt.Fprintf(&text, "  ca = %s\n", quote([]string{o.CA}))
		}
		if len(o.Mirrors) > 0 {
			_, _ = fmt.Fprintf(&text, "  mirrors = %s\n", quote(o.Mirrors))
		}
	}
	return text.Bytes()
}
