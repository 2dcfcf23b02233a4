package app

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	dockercli "github.com/docker/cli/cli/config"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/keeper/loan"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/registry/gitea"
	"github.com/regkeeper/regkeeper/registry/gitlab"
	"github.com/regkeeper/regkeeper/registry/harbor"
	"github.com/regkeeper/regkeeper/registry/oci"
)

// The data folder's contents that the second flow uses.
const (
	cacheName  = "cache"
	ledgerName = "deleting"
)

// loanLife is how long a piece of work on images may take.
const loanLife = 6 * time.Hour

// ImageRegistry is a registry whose images are read and changed.
type ImageRegistry interface {
	image.Reader
	image.Deleter
	image.Writer
}

// Registries are the ways to the registries of a run. Close ends the logins that
// were borrowed for it.
type Registries struct {
	config config.Config
	data   *Data
	client http.RoundTripper
	reader *secretReader

	mu    sync.Mutex
	open  map[opened]ImageRegistry
	loans map[opened]*borrowed
}

type opened struct {
	host    credential.Host
	changes bool
}

type borrowed struct {
	login credential.Login
	since time.Time
	end   func(context.Context) error
}

// OpenRegistries makes the ways to registries: those of the configuration, with
// logins of their sources, and others, with the logins of the docker CLI. It sends
// nothing.
func OpenRegistries(c config.Config, data *Data) *Registries {
	return &Registries{
		config: c, data: data, client: transport.New(transport.Config{Retries: httpRetries}),
		reader: newSecretReader(data.clusters),
		open:   map[opened]ImageRegistry{}, loans: map[opened]*borrowed{},
	}
}

// Reader is the way to a registry for reading: with the login in force, if there
// is one.
func (r *Registries) Reader(host credential.Host) (ImageRegistry, error) { return r.get(host, false) }

// Changer is the way to a registry for changing what it holds, with a login that
// ends with the run.
func (r *Registries) Changer(host credential.Host) (ImageRegistry, error) { return r.get(host, true) }

func (r *Registries) get(host credential.Host, changes bool) (ImageRegistry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := opened{host, changes}
	if registry, ok := r.open[key]; ok {
		return registry, nil
	}
	configured := r.registry(host)
	wiring := oci.Config{Host: host, Transport: r.client, Insecure: configured != nil && configured.Insecure}
	if configured == nil {
		wiring.Login = func(context.Context) (credential.Login, error) { return dockerLogin(host) }
	} else {
		lender, err := r.lender(*configured)
		if err != nil {
			return nil, err
		}
		wiring.Login = func(ctx context.Context) (credential.Login, error) { return r.login(ctx, lender, changes) }
	}
	registry := r.native(configured, oci.New(wiring), wiring.Login)
	r.open[key] = registry
	return registry, nil
}

// native puts the way of a registry's own API, where the configuration names one,
// before that of the specification.
func (r *Registries) native(configured *config.Registry, registry ImageRegistry, login func(context.Context) (credential.Login, error)) ImageRegistry {
	if configured == nil {
		return registry
	}
	switch api := configured.API; {
	case api.Gitea != "":
		return gitea.New(gitea.Config{OCI: registry, URL: api.Gitea, Transport: r.client, Login: login, Now: time.Now})
	case api.Harbor != "":
		return harbor.New(harbor.Config{OCI: registry, URL: api.Harbor, Transport: r.client, Login: login})
	case api.GitLab != "":
		return gitlab.New(gitlab.Config{OCI: registry, URL: api.GitLab, Transport: r.client, Token: func(ctx context.Context) (credential.Secret, error) {
			token, err := r.reader.reach(api.Token)
			if err != nil {
				return credential.Secret{}, err
			}
			return token.Resolve(ctx)
		}})
	}
	return registry
}

// insecure says whether a registry may be spoken to in plain HTTP.
func (r *Registries) insecure(host credential.Host) bool {
	configured := r.registry(host)
	return host.Loopback() || configured != nil && configured.Insecure
}

func (r *Registries) registry(host credential.Host) *config.Registry {
	for i := range r.config.Registries {
		if r.config.Registries[i].Host == host {
			return &r.config.Registries[i]
		}
	}
	return nil
}

// login is the login in force, or one that was borrowed for this run.
func (r *Registries) login(ctx context.Context, lender *loan.Lender, changes bool) (credential.Login, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !changes {
		doc, err := r.data.Store.Load(ctx)
		if err != nil {
			return credential.Login{}, err
		}
		if entry := doc.Registries[lender.Host]; entry != nil && entry.Current != nil && entry.Current.Scopes.Has(credential.Pull) {
			return entry.Current.Login(), nil
		}
	}
	key := opened{lender.Host, changes}
	known := r.loans[key]
	if known != nil && time.Since(known.since) < loanLife/2 {
		return known.login, nil
	}
	scopes := credential.ScopesOf(credential.Pull)
	if changes {
		scopes = credential.ScopesOf(credential.Pull, credential.Push, credential.Delete)
	}
	login, end, err := lender.Borrow(ctx, scopes)
	if err != nil {
		return credential.Login{}, err
	}
	r.loans[key] = &borrowed{login: login.Login(), since: time.Now(), end: end}
	if known != nil {
		return login.Login(), known.end(ctx)
	}
	return login.Login(), nil
}

// dockerLogin is the login that the docker CLI would use.
func dockerLogin(host credential.Host) (credential.Login, error) {
	file, err := dockercli.Load(dockercli.Dir())
	if err != nil {
		return credential.Login{}, err
	}
	found, err := file.GetAuthConfig(host.Key())
	if err != nil {
		return credential.Login{}, err
	}
	return credential.Login{Username: found.Username, Secret: credential.NewSecret(found.Password)}, nil
}

// Close ends the borrowed logins, also when ctx has ended.
func (r *Registries) Close(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for key, loan := range r.loans {
		errs = append(errs, loan.end(ctx))
		delete(r.loans, key)
	}
	return errors.Join(errs...)
}

// sweepEvery is how often the daemon looks for borrowed logins that a killed
// process left.
const sweepEvery = 6 * time.Hour

// sweepJob ends borrowed logins whose time is over.
func sweepJob(c config.Config, data *Data) daemon.Job {
	return daemon.Job{Name: "borrowed logins", Next: daemon.Every(sweepEvery), Run: func(ctx context.Context) error {
		registries := OpenRegistries(c, data)
		var errs []error
		for _, r := range c.Registries {
			lender, err := registries.lender(r)
			if err == nil {
				err = lender.Sweep(ctx)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}}
}

// lender lends logins of a registry's source.
func (r *Registries) lender(configured config.Registry) (*loan.Lender, error) {
	source, _, _, err := source(configured, r.data, r.client, r.reader)
	return &loan.Lender{Host: configured.Host, Source: source, Instance: r.data.Instance, Life: loanLife, Now: time.Now}, err
}

// Cache is where it is remembered what images have: in the data folder if there is
// one, or else in the user's cache; nil where neither can be had.
func Cache(folder string) *imagecache.Cache {
	path := filepath.Join(folder, cacheName)
	if _, err := os.Stat(folder); err != nil {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil
		}
		path = filepath.Join(user, "regkeeper")
	}
	cache, err := imagecache.Open(path)
	if err != nil {
		return nil // it costs requests, no more
	}
	return cache
}

// Ledger remembers what is being deleted, in the data folder.
func Ledger(folder string) lifecycle.FileLedger {
	return lifecycle.FileLedger{Folder: filepath.Join(folder, ledgerName)}
}
