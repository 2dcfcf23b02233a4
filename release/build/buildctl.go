package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/regkeeper/regkeeper/problem"
)

// BuildctlConfig says where BuildKit is.
type BuildctlConfig struct {
	Tools
	// Address is that of a buildkitd: unix:///run/buildkit/buildkitd.sock,
	// tcp://host:1234, kube-pod://name.
	Address string
	// TLS is a folder with ca.pem, cert.pem and key.pem, or ca.crt, tls.crt and
	// tls.key; empty for none.
	TLS string
}

// Buildctl builds by `buildctl` on a buildkitd, without docker. What that
// buildkitd is told of registries is its own.
type Buildctl struct{ config BuildctlConfig }

// NewBuildctl makes it. It runs nothing.
func NewBuildctl(config BuildctlConfig) *Buildctl {
	if config.Program == "" {
		config.Program = "buildctl"
	}
	return &Buildctl{config: config}
}

// String says what builds.
func (b *Buildctl) String() string { return "buildctl at " + b.config.Address }

func (b *Buildctl) global() []string {
	argv := []string{"--addr", b.config.Address}
	if b.config.TLS != "" {
		argv = append(argv, "--tlsdir", b.config.TLS)
	}
	return argv
}

// Prepare asks whether the buildkitd answers.
func (b *Buildctl) Prepare(ctx context.Context, progress func(line string)) error {
	p := program{path: b.config.Program, env: b.config.environment(), progress: progress}
	_, err := p.run(ctx, append(b.global(), "debug", "workers")...)
	return problem.Wrap(err, problem.Unreachable, "see that the buildkitd runs, and that its address is right", "ask BuildKit at %s", b.config.Address)
}

// Build builds and pushes one image.
func (b *Buildctl) Build(ctx context.Context, job Job, logins Logins, progress func(line string)) (Result, error) {
	secrets, err := job.secrets()
	if err := errors.Join(err, job.check()); err != nil {
		return Result{}, err
	}
	return b.config.build(ctx, job, logins, progress, func(metadata string) []string {
		dockerfile := job.dockerfile()
		argv := append(b.global(), "build", "--progress", "plain", "--metadata-file", metadata, "--output", job.output(true),
			"--frontend", "dockerfile.v0", "--local", "context="+job.Context,
			"--local", "dockerfile="+filepath.Dir(dockerfile), "--opt", "filename="+filepath.Base(dockerfile))
		if job.Target != "" {
			argv = append(argv, "--opt", "target="+job.Target)
		}
		if len(job.Platforms) > 0 {
			argv = append(argv, "--opt", "platform="+strings.Join(job.Platforms, ","))
		}
		if job.Pull {
			argv = append(argv, "--opt", "image-resolve-mode=pull")
		}
		if job.NoCache {
			argv = append(argv, "--no-cache")
		}
		argv = append(argv, repeat("--opt", "build-arg:", job.args())...)
		folders, others := split(job.Contexts)
		argv = append(argv, repeat("--local", "", folders)...)
		argv = append(argv, repeat("--opt", "context:", others)...)
		argv = append(argv, repeat("--opt", "label:", job.Labels)...)
		for _, s := range secrets {
			argv = append(argv, "--secret", s)
		}
		if provenance := job.provenance(); provenance != "" {
			argv = append(argv, "--opt", "attest:provenance="+provenance)
		}
		if scanner, wanted := job.sbom(); wanted {
			argv = append(argv, "--opt", "attest:sbom="+scanner)
		}
		return argv
	})
}

// split tells the contexts that are folders: those are given by name, under a
// name that the context itself and the Dockerfile do not have.
func split(contexts map[string]string) (folders, all map[string]string) {
	folders, all = map[string]string{}, map[string]string{}
	for name, value := range contexts {
		all[name] = value
		if info, err := os.Stat(value); err == nil && info.IsDir() {
			folders["named-"+name] = value
			all[name] = "local:named-" + name
		}
	}
	return folders, all
}
