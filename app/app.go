// Package app wires regkeeper together. It is the only package that knows every
// adapter: a source or target is added in source or target, in one line.
package app

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/dockerconfig"
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
	controlName  = "control.sock"
)

// httpRetries is how often a request that may be repeated is.
const httpRetries = 2

// Data is a data folder in use.
type Data struct {
	Folder   string
	Instance string
	Store    state.Store
	Tokens   *builtin.TokenStore

	close func() error
}

// Open takes a data folder for this process. The error is a problem of kind
// [problem.Busy] if another process has it, and [problem.Damaged] if the state
// in it cannot be read.
func Open(folder string) (*Data, error) {
	store, err := state.Open(folder)
	if err != nil {
		return nil, err
	}
	if _, err := store.Load(context.Background()); err != nil {
		_ = store.Close()
		return nil, err
	}
	instance, err := state.Instance(folder)
	if err != nil {
		_ = store.Close()
		return nil, err
	}
	data, err := open(folder, instance, store)
	if err != nil {
		_ = store.Close()
		return nil, err
	}
	data.close = store.Close
	return data, nil
}

// Look opens a data folder that another process may be using, for looking
// only: whatever would change the state fails.
func Look(folder string) (*Data, error) {
	instance, err := state.KnownInstance(folder)
	if err != nil {
		return nil, err
	}
	return open(folder, instance, state.ReadOnly(folder))
}

func open(folder, instance string, store state.Store) (*Data, error) {
	tokens, err := OpenTokens(folder)
	if err != nil {
		return nil, err
	}
	return &Data{Folder: folder, Instance: instance, Store: store, Tokens: tokens, close: func() error { return nil }}, nil
}

// OpenTokens opens the embedded registry's tokens in a data folder, which
// several processes may do at once.
func OpenTokens(folder string) (*builtin.TokenStore, error) {
	return builtin.OpenTokens(filepath.Join(folder, tokensName), time.Now)
}

// Close gives the folder up.
func (d *Data) Close() error { return d.close() }

// Control is the path of the socket on which the daemon takes orders.
func Control(folder string) string { return filepath.Join(folder, controlName) }

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
	for _, r := range c.Registries {
		source, origin, terms, err := source(r, data, client)
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
		target, kind, err := target(t)
		if err != nil {
			return setup, err
		}
		if watcher, ok := target.(credential.Watcher); ok {
			setup.Watchers[t.Name] = watcher
		}
		wiring.Targets = append(wiring.Targets, keeper.Target{Target: target, Name: t.Name, Kind: kind, Hosts: t.Registries})
	}
	setup.Keeper = keeper.New(wiring)
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
func source(r config.Registry, data *Data, client http.RoundTripper) (source credential.Source, origin, terms string, err error) {
	switch s := r.Source; {
	case s.Static != nil:
		return static.New(static.Config{Username: s.Static.Username, Password: s.Static.Password, Salt: data.Instance}), "static " + s.Static.Username, "", nil
	case s.Gitea != nil:
		source := gitea.New(gitea.Config{
			URL: s.Gitea.URL, User: s.Gitea.User, Password: s.Gitea.Password, Transport: client, Now: time.Now,
		})
		return source, "gitea " + s.Gitea.User + " at " + s.Gitea.URL, "", nil
	case s.Builtin != nil:
		source := builtinsource.New(builtinsource.Config{
			Tokens: data.Tokens, User: s.Builtin.User, Repositories: s.Builtin.Repositories,
		})
		return source, "builtin " + s.Builtin.User, "repositories " + strings.Join(s.Builtin.Repositories, " "), nil
	}
	return nil, "", "", problem.New(problem.Config, "", "registry %s has no source", r.Host)
}

// target makes a target, and names its kind.
func target(t config.Target) (target credential.Target, kind string, err error) {
	if t.File != nil {
		files := file.Config{Paths: t.File.Paths, Literal: t.File.Literal, Mode: t.File.Mode}
		if t.File.UID >= 0 {
			files.Owner = &dockerconfig.Owner{UID: t.File.UID, GID: t.File.GID}
		}
		return file.New(files), "file", nil
	}
	return nil, "", problem.New(problem.Config, "", "target %s has no kind", t.Name)
}

// Registry makes the embedded registry for a configuration.
func Registry(e config.Embedded, data *Data, log *slog.Logger) (*builtin.Registry, error) {
	return builtin.New(builtin.Config{
		Dir: filepath.Join(data.Folder, registryName), Tokens: data.Tokens, URL: e.URL, Immutable: e.ImmutableTags, Log: log,
	})
}

// Status reports how everything stands, without taking the data folder.
func Status(ctx context.Context, c config.Config, folder string) (keeper.Status, error) {
	data, err := Look(folder)
	if err != nil {
		return keeper.Status{}, err
	}
	k, err := Keeper(c, data, nil)
	if err != nil {
		return keeper.Status{}, err
	}
	return k.Status(ctx)
}
