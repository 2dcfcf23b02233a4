package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/webhook"
)

// Mirror is one run of a mirror of the configuration.
type Mirror struct {
	Mirror     config.Mirror
	Data       *Data
	Registries *Registries
	Cache      *imagecache.Cache
	// Planned is called with each plan; it says whether to carry it out.
	Planned func(*lifecycle.MirrorPlan) bool
	// Done is called after each image, and Far with bytes; nil for none.
	Done func(*lifecycle.MirrorPlan, lifecycle.MirrorStep, lifecycle.Copied, error)
	Far  func(lifecycle.Progress)
}

// Run plans what the copies lack, and has them get it. What fails keeps nothing
// else from being copied: the error joins all.
func (m *Mirror) Run(ctx context.Context) error {
	host, err := image.HostOf(m.Mirror.From)
	if err != nil {
		return err
	}
	from, err := m.Registries.Reader(host)
	if err != nil {
		return err
	}
	copier := lifecycle.NewCopier(lifecycle.Copying{
		Platforms: m.Mirror.Platforms, Bare: m.Mirror.Bare, Fixed: m.Mirror.IsFixed, Cache: m.Cache, Report: m.Far,
	})
	facts := Facts(ctx, m.Mirror.Policy.Rules, m.Mirror.Clusters, m.Mirror.InUse, m.Data)
	var errs []error
	for repository, err := range lifecycle.Repositories(ctx, from, host, m.Mirror.From) {
		if err != nil {
			errs = append(errs, err)
			break
		}
		errs = append(errs, m.repository(ctx, from, repository, copier, facts))
	}
	return errors.Join(errs...)
}

func (m *Mirror) repository(ctx context.Context, from image.Reader, repository image.Repository, copier *lifecycle.Copier, facts plan.Facts) error {
	source, err := lifecycle.Read(ctx, from, repository, lifecycle.Reading{Cache: m.Cache, Dates: true, Bare: m.Mirror.Bare})
	if err != nil {
		return err
	}
	wanted := plan.Decide(m.Mirror.Policy, source, facts)
	var errs []error
	for _, u := range source.Unread {
		errs = append(errs, fmt.Errorf("%s of %s could not be read: %s", u.What, repository, u.Why))
	}
	for _, copied := range m.Mirror.Copies(repository) {
		errs = append(errs, m.copies(ctx, from, source, wanted, copied, copier))
	}
	return errors.Join(errs...)
}

func (m *Mirror) copies(ctx context.Context, from image.Reader, source *image.Inventory, wanted *plan.Plan, to image.Repository, copier *lifecycle.Copier) error {
	registry, err := m.Registries.Changer(to.Host)
	if err != nil {
		return err
	}
	there, err := lifecycle.ReadTags(ctx, registry, to)
	if err != nil {
		return err
	}
	p := lifecycle.DecideMirror(wanted, source, to, there, m.Mirror.IsFixed)
	if !m.Planned(p) {
		return nil
	}
	var done func(lifecycle.MirrorStep, lifecycle.Copied, error)
	if m.Done != nil {
		done = func(step lifecycle.MirrorStep, copied lifecycle.Copied, err error) { m.Done(p, step, copied, err) }
	}
	return copier.Mirror(ctx, p, from, source, lifecycle.Place{Registry: registry, Repository: to}, done)
}

// pushes has the mirrors run that a push concerns.
type pushes struct {
	mu       sync.Mutex
	mirrors  []waiting
	builtins []credential.Host
}

type waiting struct {
	from  string
	asked chan struct{}
}

// set takes up the mirrors of a configuration.
func (p *pushes) set(c config.Config) []waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mirrors, p.builtins = nil, nil
	for _, mirror := range c.Mirrors {
		p.mirrors = append(p.mirrors, waiting{from: mirror.From, asked: make(chan struct{}, 1)})
	}
	for _, r := range c.Registries {
		if r.Source.Builtin != nil {
			p.builtins = append(p.builtins, r.Host)
		}
	}
	return p.mirrors
}

// pushed tells of a push.
func (p *pushes) pushed(repository image.Repository) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, mirror := range p.mirrors {
		if !repository.Matches(mirror.from) {
			continue
		}
		select {
		case mirror.asked <- struct{}{}:
		default: // it will run anyway
		}
	}
}

// embedded tells of a push to the embedded registry, by all its names.
func (p *pushes) embedded(path string) {
	p.mu.Lock()
	hosts := p.builtins
	p.mu.Unlock()
	for _, host := range hosts {
		p.pushed(image.Repository{Host: host, Path: path})
	}
}

// Webhooks answers the registries that tell of pushes. What they say is not
// believed: it has mirrors look.
func Webhooks(ctx context.Context, c config.Config, data *Data) (http.Handler, error) {
	mux := http.NewServeMux()
	reader := OpenRegistries(c, data).reader
	for _, hook := range c.Webhooks.Hooks {
		ref, err := reader.reach(hook.Secret)
		if err != nil {
			return nil, err
		}
		secret, err := ref.Resolve(ctx)
		if err != nil {
			return nil, err
		}
		receiver, err := webhook.New(webhook.Config{Kind: webhook.Kind(hook.Kind), Secret: secret})
		if err != nil {
			return nil, err
		}
		mux.HandleFunc("POST /webhooks/"+string(hook.Host), func(w http.ResponseWriter, r *http.Request) {
			changes, err := receiver.Changes(w, r)
			if err != nil {
				http.Error(w, err.Error(), problem.KindOf(err).HTTPStatus())
				return
			}
			for _, change := range changes {
				if change.Action == webhook.Pushed {
					data.pushes.pushed(image.Repository{Host: hook.Host, Path: change.Repository})
				}
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	return mux, nil
}

// mirrorJobs are the mirrors as the daemon runs them: at their times, and when
// something was pushed to what they copy.
func mirrorJobs(c config.Config, data *Data, log *slog.Logger) []daemon.Job {
	var jobs []daemon.Job
	waiting := data.pushes.set(c)
	for i, mirror := range c.Mirrors {
		next := due(mirror.Run)
		if next == nil {
			next = daemon.Never
		}
		name := "mirror " + mirror.Name
		jobs = append(jobs, daemon.Job{Name: name, Next: next, Asked: waiting[i].asked, Run: func(ctx context.Context) (err error) {
			registries := OpenRegistries(c, data)
			defer func() { err = errors.Join(err, registries.Close(ctx)) }()
			cache := Cache(data.Folder)
			defer cache.Trim()
			run := &Mirror{
				Mirror: mirror, Data: data, Registries: registries, Cache: cache,
				Planned: func(*lifecycle.MirrorPlan) bool { return true },
				Done: func(p *lifecycle.MirrorPlan, step lifecycle.MirrorStep, copied lifecycle.Copied, err error) {
					if err == nil {
						log.Info("copied", "job", name, "from", p.From, "to", p.To, "tag", step.Tag, "digest", step.Digest, "bytes", copied.Bytes)
					}
				},
			}
			return run.Run(ctx)
		}})
	}
	return jobs
}
