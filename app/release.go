package app

import (
	"context"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/oci"
	"github.com/regkeeper/regkeeper/release"
	"github.com/regkeeper/regkeeper/release/build"
	"github.com/regkeeper/regkeeper/release/revision"
	"github.com/regkeeper/regkeeper/release/rollout"
)

// releasesName is the file of the data folder with what was released.
const releasesName = "releases.jsonl"

// ReleaseOptions are what the command line says about a release.
type ReleaseOptions struct {
	AllowDirty, Rebuild, Latest bool
	Progress                    func(release.Event)
}

// Releases is the journal of a data folder.
func Releases(folder string) release.File {
	return release.File{Path: filepath.Join(folder, releasesName)}
}

// Releaser wires a releaser for a configuration, and returns what an operator
// should know of its files of variables. It begins nothing.
func Releaser(ctx context.Context, c config.Config, data *Data, registries *Registries, options ReleaseOptions) (*release.Releaser, []string, error) {
	if c.Releases == nil {
		return nil, nil, problem.New(problem.Usage, "add releases: with an item for each image", "the configuration has no releases")
	}
	git := revision.Git{}
	env, err := release.ReadEnv(ctx, git.Tracked, c.Releases.Env...)
	if err != nil {
		return nil, nil, err
	}
	r := &releasing{config: c, data: data, registries: registries, env: env}
	items, err := r.items()
	if err != nil {
		return nil, nil, err
	}
	return release.New(release.Config{
		Items: items, Source: git, Builder: r.builder(items), Registry: r.registry, Login: r.login, Bases: c.Releases.Bases,
		Cluster: r.cluster, Journal: Releases(data.Folder),
		Latest: c.Releases.Latest || env.Latest || options.Latest, AllowDirty: options.AllowDirty, Rebuild: options.Rebuild,
		OneByOne: c.Releases.OneByOne, TakeOver: c.Releases.TakeOver,
		Rollout: rollout.Patience{Timeout: c.Releases.Timeout, Failing: c.Releases.Failing},
		By:      operator(), Progress: options.Progress, Now: time.Now,
	}), env.Notes, nil
}

// operator is who works here.
func operator() string {
	if who, err := user.Current(); err == nil {
		return who.Username
	}
	return ""
}

type releasing struct {
	config     config.Config
	data       *Data
	registries *Registries
	env        release.Env
}

func (r *releasing) items() ([]release.Item, error) {
	var items []release.Item
	for _, from := range r.config.Releases.Items {
		repository, err := r.repository(from.Repository)
		if err != nil {
			return nil, err
		}
		item := release.Item{
			Name: from.Name, Folder: from.Folder, Reproducible: from.Reproducible, Pin: from.Pin,
			Job: build.Job{
				Name: from.Name, Repository: repository, Context: from.Folder, Dockerfile: from.Dockerfile, Target: from.Target,
				Platforms: from.Platforms, Args: from.Args, Contexts: from.Contexts, Provenance: from.Provenance, SBOM: from.SBOM,
				Insecure: r.registries.insecure(repository.Host),
			},
		}
		for _, secret := range from.Secrets {
			item.Job.Secrets = append(item.Job.Secrets, build.Secret{ID: secret.ID, File: secret.File, Env: secret.Env})
		}
		for _, w := range from.Workloads {
			workload, err := rollout.Parse(w.Name, w.Namespace)
			if err != nil {
				return nil, err
			}
			item.Workloads = append(item.Workloads, release.Workload{Context: w.Context, Workload: workload, Container: w.Container})
		}
		items = append(items, item)
	}
	return items, nil
}

// repository is host/path, or a name that the files of variables complete.
func (r *releasing) repository(text string) (image.Repository, error) {
	if !strings.Contains(text, "/") {
		return r.env.Repository(text)
	}
	return image.ParseRepository(text)
}

func (r *releasing) builder(items []release.Item) release.Builder {
	from := r.config.Releases.Builder
	if from.Buildkit != "" {
		return build.NewBuildctl(build.BuildctlConfig{Address: from.Buildkit, TLS: from.TLS})
	}
	// A builder in a container reaches no registry on this machine's loopback in
	// plain HTTP unless it is told.
	plain := map[credential.Host]build.RegistryOptions{}
	for _, item := range items {
		if item.Job.Insecure {
			plain[item.Job.Repository.Host] = build.RegistryOptions{HTTP: true}
		}
	}
	return build.NewBuildx(build.BuildxConfig{Builder: from.Name, Driver: from.Driver, Endpoint: from.Endpoint, Registries: plain})
}

// registry is the way to a registry with the login of a push, or for reading.
func (r *releasing) registry(host credential.Host, login *credential.Login) (release.Registry, error) {
	if login == nil {
		own, ok := r.own(host)
		if !ok {
			return r.registries.Reader(host)
		}
		login = &own
	}
	return oci.New(oci.Config{
		Host: host, Transport: r.registries.client, Insecure: r.registries.insecure(host),
		Login: func(context.Context) (credential.Login, error) { return *login, nil },
	}), nil
}

// login borrows a login from the registry's source; without one it is that of the
// files of variables, or of the docker CLI.
func (r *releasing) login(ctx context.Context, host credential.Host, scopes credential.Scopes) (credential.Credential, func(context.Context) error, error) {
	none := func(context.Context) error { return nil }
	if configured := r.registries.registry(host); configured != nil {
		lender, err := r.registries.lender(*configured)
		if err != nil {
			return credential.Credential{}, none, err
		}
		return lender.Borrow(ctx, scopes)
	}
	if login, ok := r.own(host); ok {
		return credential.Credential{Host: host, Username: login.Username, Secret: login.Secret, Scopes: scopes}, none, nil
	}
	login, err := dockerLogin(host)
	return credential.Credential{Host: host, Username: login.Username, Secret: login.Secret, Scopes: scopes}, none, err
}

// own is the login of the files of variables; false for a registry that has a
// source.
func (r *releasing) own(host credential.Host) (credential.Login, bool) {
	login, ok := r.env.Login()
	return login, ok && r.env.Registry == host && r.registries.registry(host) == nil
}

func (r *releasing) cluster(context string) (release.Cluster, error) {
	opened, err := r.data.clusters.get(config.Cluster{Context: context})
	if err != nil {
		return nil, err
	}
	return rollout.New(rollout.Clients{Core: opened.Core, Apps: opened.Apps, Batch: opened.Batch}), nil
}
