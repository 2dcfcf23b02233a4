// Package app wires regkeeper together. It is the only package that knows every
// adapter: a source or target is added in source or target, in one line.
package app

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/helper"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
	"github.com/regkeeper/regkeeper/registry/oci"
	builtinsource "github.com/regkeeper/regkeeper/source/builtin"
	"github.com/regkeeper/regkeeper/source/gitea"
	"github.com/regkeeper/regkeeper/source/static"
	"github.com/regkeeper/regkeeper/state"
	"github.com/regkeeper/regkeeper/target/file"
)

// The data folder's contents. Package state has its own in it.
const (
	tokensName   = "tokens/tokens.json" //nolint:gosec // a file's name
	registryName = "registry"
)

// httpRetries is how often a request that may be repeated is.
const httpRetries = 2

// Data is what regkeeper remembers, in use: a data folder, and the state, in it
// or in a cluster.
type Data struct {
	Folder   string
	Instance string
	Store    state.Store
	Tokens   *builtin.TokenStore

	clusters *clusters
	log      *slog.Logger
	pushes   pushes
	// state is the Secret with the state; nil where the folder has it.
	state *config.StateSecret
	close func() error
}

// Open takes a data folder for this process. The error is a problem of kind
// [problem.Busy] if another process has it, and [problem.Damaged] if the state
// in it cannot be read.
func Open(ctx context.Context, c config.Config, folder string, options Options) (*Data, error) {
	data := &Data{Folder: folder, clusters: newClusters(options), log: options.Log, state: c.State, close: func() error { return nil }}
	if err := data.openState(ctx); err != nil {
		return nil, err
	}
	if _, err := data.Store.Load(ctx); err != nil {
		_ = data.Close()
		return nil, err
	}
	var err error
	if data.Tokens, err = OpenTokens(folder); err != nil {
		_ = data.Close()
		return nil, err
	}
	return data, nil
}

func (d *Data) openState(ctx context.Context) error {
	var err error
	if d.state != nil {
		// The folder has the control socket still.
		if err := os.MkdirAll(d.Folder, disk.PrivateFolder); err != nil {
			return disk.Problem(err, "make data folder %s", d.Folder)
		}
		d.Store, d.Instance, err = d.clusters.openState(ctx, *d.state, false)
		return err
	}
	store, err := state.Open(d.Folder)
	if err != nil {
		return err
	}
	d.Store, d.close = store, store.Close
	if d.Instance, err = state.Instance(d.Folder); err != nil {
		_ = store.Close()
	}
	return err
}

// Look opens a data folder that another process may be using, for looking
// only: whatever would change the state fails.
func Look(ctx context.Context, c config.Config, folder string, options Options) (*Data, error) {
	options.Quiet = true
	data := &Data{Folder: folder, clusters: newClusters(options), log: options.Log, state: c.State, close: func() error { return nil }}
	var err error
	if c.State != nil {
		data.Store, data.Instance, err = data.clusters.openState(ctx, *c.State, true)
	} else {
		data.Store = state.ReadOnly(folder)
		data.Instance, err = state.KnownInstance(folder)
	}
	if err != nil {
		return nil, err
	}
	data.Tokens, err = OpenTokens(folder)
	return data, err
}

// OpenTokens opens the embedded registry's tokens in a data folder, which
// several processes may do at once.
func OpenTokens(folder string) (*builtin.TokenStore, error) {
	return builtin.OpenTokens(filepath.Join(folder, tokensName), time.Now)
}

// Close gives the folder up.
func (d *Data) Close() error {
	d.clusters.close()
	return d.close()
}

// Control is the path of the socket on which the daemon takes orders.
func Control(folder string) string { return helper.Socket(folder) }

// Keeper wires a keeper for a configuration. It begins nothing.
func Keeper(c config.Config, data *Data, report func(keeper.Event)) (*keeper.Keeper, error) {
	setup, err := Setup(c, data, report)
	return setup.Keeper, err
}

// Setup wires what a daemon runs for a configuration. It begins nothing.
func Setup(c config.Config, data *Data, report func(keeper.Event)) (daemon.Setup, error) {
	setup := daemon.Setup{Watchers: map[string]credential.Watcher{}, Resync: c.Resync, Warnings: c.Warnings}
	client := transport.New(transport.Config{Retries: httpRetries})
	insecure := map[credential.Host]bool{}
	scratch := map[credential.Host]string{}
	wiring := keeper.Config{
		Instance: data.Instance,
		Store:    data.Store,
		Verifier: &oci.Verifier{Transport: client, Insecure: insecure, Scratch: scratch},
		Report:   report,
	}
	reader := newSecretReader(data.clusters)
	for _, r := range c.Registries {
		source, origin, terms, err := source(r, data, client, reader)
		if err != nil {
			return setup, err
		}
		insecure[r.Host] = r.Insecure
		if s := r.Source.Builtin; s != nil {
			scratch[r.Host] = scratchRepository(s.Repositories)
		}
		wiring.Registries = append(wiring.Registries, keeper.Registry{
			Host: r.Host, Source: source, Origin: origin, Terms: terms, Scopes: r.Scopes, Probe: r.Probe, Unverified: r.Unverified,
			Schedule: keeper.Schedule(r.Rotate),
		})
	}
	for _, t := range c.Targets {
		targets, warnings, err := targets(t, data, client, reader)
		if err != nil {
			return setup, err
		}
		setup.Warnings = append(setup.Warnings[:len(setup.Warnings):len(setup.Warnings)], warnings...)
		for _, n := range targets {
			if watcher, ok := n.Target.(credential.Watcher); ok {
				setup.Watchers[n.name] = watcher
			}
			wiring.Targets = append(wiring.Targets, keeper.Target{
				Target: n.Target, Name: n.name, Kind: n.kind, Hosts: t.Registries, Tended: n.kind != "file", Reread: n.reread,
			})
		}
	}
	setup.Keeper, setup.Origins = keeper.New(wiring), reader.origins()
	setup.Jobs = slices.Concat([]daemon.Job{sweepJob(c, data)}, pruneJobs(c, data, data.log), mirrorJobs(c, data, data.log))
	return setup, nil
}

// scratchRepository is a repository that one of the patterns covers; empty if
// any will do.
func scratchRepository(patterns []string) string {
	for _, pattern := range patterns {
		if pattern == "*" {
			return ""
		}
	}
	return strings.ReplaceAll(patterns[0], "*", "regkeeper-probe")
}

// source makes a registry's source, and names its origin and terms.
func source(r config.Registry, data *Data, client http.RoundTripper, reader *secretReader) (source credential.Source, origin, terms string, err error) {
	// known has a reference to a Secret read from the cluster.
	known := func(ref secretref.Ref) secretref.Ref {
		ref, err = reader.reach(ref)
		return ref
	}
	switch s := r.Source; {
	case s.Static != nil:
		source := static.New(static.Config{Username: s.Static.Username, Password: known(s.Static.Password), Salt: data.Instance})
		return source, "static " + s.Static.Username, "", err
	case s.Gitea != nil:
		source := gitea.New(gitea.Config{
			URL: s.Gitea.URL, User: s.Gitea.User, Password: known(s.Gitea.Password), Transport: client, Now: time.Now,
		})
		return source, "gitea " + s.Gitea.User + " at " + s.Gitea.URL, "", err
	case s.Builtin != nil:
		source := builtinsource.New(builtinsource.Config{
			Tokens: data.Tokens, User: s.Builtin.User, Repositories: s.Builtin.Repositories,
		})
		return source, "builtin " + s.Builtin.User, "repositories " + strings.Join(s.Builtin.Repositories, " "), nil
	}
	if source, origin, terms = forgeSource(r, data.Instance, client, known); source == nil {
		err = problem.New(problem.Config, "", "registry %s has no source", r.Host)
	}
	return source, origin, terms, err
}

// named is a target with its name and kind.
type named struct {
	credential.Target
	name, kind string
	reread     time.Duration
	// hosts are the registries whose logins go there, where that is asked for.
	hosts []credential.Host
}

// targets makes the targets of one entry of the configuration.
func targets(t config.Target, data *Data, client http.RoundTripper, reader *secretReader) (made []named, warnings []string, err error) {
	switch {
	case t.File != nil:
		files := file.Config{Paths: t.File.Paths, Literal: t.File.Literal, Mode: t.File.Mode}
		if t.File.UID >= 0 {
			files.Owner = &disk.Owner{UID: t.File.UID, GID: t.File.GID}
		}
		if t.File.Format == config.FormatK3s {
			files.Format = file.K3s
		}
		return []named{{Target: file.New(files), name: t.Name, kind: "file"}}, nil, nil
	case t.Pods != nil, t.Secrets != nil:
		made, err = clusterTargets(t, data)
		return made, nil, err
	}
	known := func(ref secretref.Ref) secretref.Ref {
		ref, err = reader.reach(ref)
		return ref
	}
	n, warnings, refused := forgeTarget(t, client, known)
	switch {
	case err != nil:
		return nil, nil, err
	case refused != nil:
		return nil, nil, refused
	case n == nil:
		return nil, nil, problem.New(problem.Config, "", "target %s has no kind", t.Name)
	}
	return []named{*n}, warnings, nil
}

// Registry makes the embedded registry of a configuration that has one.
func Registry(c config.Config, data *Data, log *slog.Logger) (*builtin.Registry, error) {
	e := c.Embedded
	wiring := builtin.Config{
		Dir: filepath.Join(data.Folder, registryName), Tokens: data.Tokens, URL: e.URL, Immutable: e.ImmutableTags, Log: log,
		Events: func(event builtin.Event) {
			if event.Action == builtin.ActionPush {
				data.pushes.embedded(event.Target.Repository)
			}
		},
	}
	registries := OpenRegistries(c, data)
	for _, u := range e.Upstreams {
		reader, err := registries.Reader(u.Host)
		if err != nil {
			return nil, err
		}
		wiring.Upstreams = append(wiring.Upstreams, builtin.Upstream{
			Host: u.Host, Prefix: u.Prefix, Names: u.Names, Reader: reader, Fresh: u.Fresh, MaxAge: u.MaxAge,
		})
	}
	return builtin.New(wiring)
}

// Status reports how everything stands, without taking the data folder.
func Status(ctx context.Context, c config.Config, folder string, options Options) (keeper.Status, error) {
	data, err := Look(ctx, c, folder, options)
	if err != nil {
		return keeper.Status{}, err
	}
	return statusOf(ctx, c, data)
}

func statusOf(ctx context.Context, c config.Config, data *Data) (keeper.Status, error) {
	k, err := Keeper(c, data, nil)
	if err != nil {
		return keeper.Status{}, err
	}
	return k.Status(ctx)
}
