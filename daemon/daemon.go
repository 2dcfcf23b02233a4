// Package daemon decides when: it has a keeper make a pass when something is
// due, when a place changed, when it is asked to, and now and then to be sure.
// It serves health, metrics and a control socket, and takes up a changed
// configuration.
//
// It refuses to know what a pass does, and where a configuration comes from.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/workqueue"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

// Setup is what one configuration comes to.
type Setup struct {
	Keeper *keeper.Keeper
	// Watchers tell when a place may have changed, by target name.
	Watchers map[string]credential.Watcher
	// Origins tell, by name, when a login may have been changed where it comes
	// from. They return as [credential.Watcher] does.
	Origins map[string]func(ctx context.Context, changed func()) error
	// Jobs are done beside the passes.
	Jobs []Job
	// Resync is how often everything is looked at, besides what is noticed.
	Resync time.Duration
	// Warnings are logged.
	Warnings []string
}

// Config is what a Daemon works with.
type Config struct {
	// Load reads the configuration and wires a setup of it. It is called once
	// at the start and at each reload; a setup that it returns has not begun
	// anything.
	Load func() (Setup, error)
	// Log gets what happens.
	Log *slog.Logger
	// Metrics are told of passes; nil for none.
	Metrics *Metrics
	// Watched are files whose change reloads the configuration.
	Watched []string
}

// Daemon runs a keeper.
type Daemon struct {
	config Config
	// wake asks for a pass that looks at the places, check for a whole one.
	wake, check chan struct{}
	reload      chan struct{}

	// passing is held for reading during a pass, and for writing to swap
	// setups between passes.
	passing sync.RWMutex
	mu      sync.Mutex // guards what follows
	setup   *setup
	// standby says that another works; Run has not been called yet.
	standby bool
}

type setup struct {
	Setup
	cancel context.CancelFunc
	// done is closed when nothing of it is under way any more but passes.
	done   chan struct{}
	queue  queue
	told   sync.Map // of spots: told of, and not only to be tried again
	health health
}

const (
	// shortest is the least time between passes that nobody asked for.
	shortest = 100 * time.Millisecond
	// watchAgain is how long a watcher that failed is left alone.
	watchAgain = time.Minute
)

// New makes a daemon. It does nothing until Run.
func New(config Config) *Daemon {
	done := make(chan struct{})
	close(done)
	return &Daemon{
		config: config,
		setup:  &setup{cancel: func() {}, done: done},
		wake:   make(chan struct{}, 1), check: make(chan struct{}, 1), reload: make(chan struct{}, 1),
	}
}

// StandBy has the daemon say that it is well, and waits for its turn, until Run.
func (d *Daemon) StandBy() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.standby = true
}

// standing says whether the daemon waits for its turn.
func (d *Daemon) standing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.standby
}

// Run makes passes until ctx ends. The error is that of the first Load; later
// ones are logged, and the setup before stays.
func (d *Daemon) Run(ctx context.Context) error {
	d.mu.Lock()
	d.standby = false
	d.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	// From before the first Load on, so that no change falls between.
	watch, stop := d.watchConfig()
	defer stop()
	if err := d.swap(ctx, group); err != nil {
		return err
	}
	if watch != nil {
		group.Go(func() error { return watch(ctx) })
	}
	group.Go(func() error { return d.loop(ctx, group) })
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Reload takes up the configuration as it is now.
func (d *Daemon) Reload() { notify(d.reload) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// swap builds the setup of the configuration as it is now, and only then lets
// the one before go.
func (d *Daemon) swap(ctx context.Context, group *errgroup.Group) error {
	next, err := d.config.Load()
	if err != nil {
		return err
	}
	for _, warning := range next.Warnings {
		d.config.Log.Warn("configuration", "warning", warning)
	}
	watching, cancel := context.WithCancel(ctx)
	s := &setup{Setup: next, cancel: cancel, done: make(chan struct{}), queue: workqueue.NewTypedDelayingQueue[spot]()}
	s.health.began = time.Now()
	// What the one before has under way ends before the next begins: they write
	// the same state.
	before := d.current()
	before.cancel()
	<-before.done
	d.passing.Lock()
	d.mu.Lock()
	d.setup = s
	d.mu.Unlock()
	d.passing.Unlock()
	context.AfterFunc(watching, s.queue.ShutDown)
	var working sync.WaitGroup
	working.Add(1 + len(next.Jobs))
	group.Go(func() error {
		working.Wait()
		close(s.done)
		return nil
	})
	group.Go(func() error {
		defer working.Done()
		d.tend(watching, s)
		return nil
	})
	for name, watcher := range next.Watchers {
		group.Go(func() error {
			return d.watch(watching, "target "+name, func(ctx context.Context) error {
				return watcher.Watch(ctx, func(places ...credential.Place) {
					if len(places) == 0 {
						notify(d.wake)
					}
					for _, place := range places {
						s.told.Store(spot{name, place}, true)
						s.queue.Add(spot{name, place})
					}
				})
			})
		})
	}
	for name, watch := range next.Origins {
		group.Go(func() error {
			return d.watch(watching, name, func(ctx context.Context) error {
				return watch(ctx, func() { notify(d.check) })
			})
		})
	}
	for _, job := range next.Jobs {
		group.Go(func() error {
			defer working.Done()
			return d.job(watching, job)
		})
	}
	d.config.Metrics.reloaded(true)
	return nil
}

// current is the setup in force.
func (d *Daemon) current() *setup {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.setup
}

func (d *Daemon) watch(ctx context.Context, name string, watch func(context.Context) error) error {
	for {
		err := watch(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the watch was told to end
		}
		d.config.Log.Warn("watch ended", "of", name, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

func (d *Daemon) loop(ctx context.Context, group *errgroup.Group) error {
	options := keeper.Options{}
	var whole time.Time
	for {
		// Places that keep changing must not put off a whole pass.
		if options.Places && time.Since(whole) >= d.current().Resync {
			options = keeper.Options{}
		}
		if !options.Places {
			whole = time.Now()
		}
		_, _ = d.pass(ctx, options)
		due := time.NewTimer(d.wait(whole))
		select {
		case <-ctx.Done():
			due.Stop()
			return nil
		case <-due.C:
			options = keeper.Options{}
		case <-d.check:
			options = keeper.Options{}
		case <-d.wake:
			options = keeper.Options{Places: true}
		case <-d.reload:
			options = keeper.Options{}
			if err := d.swap(ctx, group); err != nil {
				d.config.Metrics.reloaded(false)
				d.config.Log.Error("configuration not taken up; the one before stays in force",
					"error", err, "hint", problem.HintOf(err))
			} else {
				d.config.Log.Info("configuration taken up")
			}
		}
		due.Stop()
	}
}

// wait is how long nothing is due, after a whole pass at that time.
func (d *Daemon) wait(whole time.Time) time.Duration {
	s := d.current()
	wait := s.Resync - time.Since(whole)
	if next := s.Keeper.Next(); !next.IsZero() {
		wait = min(wait, time.Until(next))
	}
	return max(wait, shortest)
}

// pass makes one pass, and notes how it went.
func (d *Daemon) pass(ctx context.Context, options keeper.Options) (keeper.Result, error) {
	d.passing.RLock()
	defer d.passing.RUnlock()
	s := d.current()
	began := time.Now()
	result, err := s.Keeper.Sync(ctx, options)
	if ctx.Err() != nil {
		return result, err
	}
	s.requeue()
	d.config.Metrics.passed(time.Since(began), err)
	d.config.Metrics.status(result.Status)
	if news := s.health.note(result.Status, err, time.Now()); news && len(result.Failed) == 0 {
		// Steps that fail are reported one by one; this is of no step.
		d.config.Log.Error("pass failed", "error", err, "hint", problem.HintOf(err))
	}
	return result, err
}

// Sync makes a pass now, whatever failed before, and rotates what is asked for.
func (d *Daemon) Sync(ctx context.Context, rotate keeper.Rotate) (keeper.Result, error) {
	s := d.current()
	if s.Keeper == nil {
		return keeper.Result{}, d.notYet()
	}
	hosts, err := s.Keeper.Hosts(rotate)
	if err != nil {
		return keeper.Result{}, err
	}
	result, err := d.pass(ctx, keeper.Options{Rotate: hosts, Impatient: true})
	// What is due next may have changed.
	notify(d.wake)
	return result, err
}

// Status reports how everything stands.
func (d *Daemon) Status(ctx context.Context) (keeper.Status, error) {
	s := d.current()
	if s.Keeper == nil {
		return keeper.Status{}, d.notYet()
	}
	return s.Keeper.Status(ctx)
}

// notYet is why there is no keeper.
func (d *Daemon) notYet() error {
	if d.standing() {
		return problem.New(problem.Busy, "ask the one that leads: the Lease beside the state names it", "another regkeeper leads, and this one stands by")
	}
	return errStarting()
}

func errStarting() error {
	return problem.New(problem.Busy, "try again in a moment", "the daemon is starting")
}

// Report logs a step and counts it. It is for [keeper.Config].Report.
func Report(log *slog.Logger, metrics *Metrics) func(keeper.Event) {
	return func(event keeper.Event) {
		metrics.step(event)
		attrs := []any{"action", event.Step.Action, "registry", event.Step.Host, "reason", event.Step.Reason, "took", event.Took.Round(time.Millisecond)}
		if event.Step.Credential != "" {
			attrs = append(attrs, "credential", event.Step.Credential)
		}
		if event.Step.Target != "" {
			attrs = append(attrs, "target", event.Step.Target, "place", event.Step.Place)
		}
		if event.Err != nil {
			log.Error("step failed", append(attrs, "error", event.Err, "hint", problem.HintOf(event.Err))...)
			return
		}
		log.Info("step done", attrs...)
	}
}
