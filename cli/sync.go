package cli

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/controller"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

func newSync(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "sync",
		Short: "Make one pass: mint, verify, deliver and revoke what is due",
		Long: `Sync makes one pass and ends: for cron, and for looking at what happens. When a
daemon has the data folder, sync has it make the pass.`,
		Example: example("regkeeper sync", "regkeeper sync --config /etc/regkeeper/regkeeper.yaml -o json"),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.sync(c.Context(), keeper.Rotate{})
		},
	}
}

// sync makes a pass: in the daemon that has the data folder, or here. The
// daemon is asked first, since it may be at work by a configuration that was
// changed for the worse since.
func (e *env) sync(ctx context.Context, rotate keeper.Rotate) error {
	_, folder, err := e.locate()
	if err != nil {
		return err
	}
	if result, ok, err := order(ctx, folder, rotate); ok {
		return e.printResult(result, err, e.stepLog())
	}
	c, folder, err := e.loadOrDefault()
	if err != nil {
		return err
	}
	e.warn(c.Warnings)
	data, err := app.Open(ctx, c, folder, e.options())
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	lead := controller.Config{Identity: identity() + controller.Brief, Patience: syncPatience, RetryPeriod: syncRetry}
	return data.Lead(ctx, lead, func(ctx context.Context) error {
		return e.syncHere(ctx, c, data, rotate)
	})
}

const (
	// syncPatience is how long sync waits for another that has the same state
	// in a cluster: for as long as the Lease of one that was killed runs on.
	syncPatience = 90 * time.Second
	syncRetry    = 2 * time.Second
)

// identity names this process to others: in a pod, the host's name is the pod's.
// Hosts and process ids are not unique among containers.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "regkeeper"
	}
	return host + "_" + strings.ToLower(rand.Text()[:8])
}

func (e *env) syncHere(ctx context.Context, c config.Config, data *app.Data, rotate keeper.Rotate) error {
	bar := e.progress()
	log := e.stepLog()
	k, err := app.Keeper(c, data, func(event keeper.Event) {
		bar.step(event)
		log.step(event)
	})
	if err != nil {
		return err
	}
	hosts, err := k.Hosts(rotate)
	if err != nil {
		return err
	}
	result, err := k.Sync(ctx, keeper.Options{Rotate: hosts, Impatient: true})
	bar.done()
	if c.Embedded != nil && problem.KindOf(err) == problem.Unreachable {
		err = problem.Wrap(err, problem.Unreachable,
			"the embedded registry is served by regkeeper up: start that, then try again", "no daemon runs")
	}
	return e.printResult(result, err, log)
}

// stepLog prints steps as they end, with how long they took.
type stepLog struct {
	env *env

	mu      sync.Mutex
	printed bool
}

func (e *env) stepLog() *stepLog { return &stepLog{env: e} }

func (l *stepLog) step(event keeper.Event) {
	if l.env.json() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.printed = true
	took := event.Took.Round(time.Millisecond)
	if event.Err == nil {
		l.env.printf("done    %s (took %s)\n", event.Step, took)
		return
	}
	l.env.printf("failed  %s: %s (took %s)\n", event.Step, strings.ReplaceAll(event.Err.Error(), "\n", "\n        "), took)
	if hint := problem.HintOf(event.Err); hint != "" {
		l.env.printf("        hint: %s\n", hint)
	}
}

// printResult prints what a pass did; what the log has printed already is not
// repeated.
func (e *env) printResult(result keeper.Result, err error, log *stepLog) error {
	if e.json() {
		if result.Done == nil {
			result.Done = []keeper.Step{}
		}
		if result.Failed == nil {
			result.Failed = []keeper.Failure{}
		}
		if jerr := e.printJSON(result); jerr != nil {
			return jerr
		}
		return err
	}
	done, failed := result.Done, result.Failed
	if log.printed {
		done, failed = nil, nil
	}
	for _, step := range done {
		e.printf("done    %s\n", step)
	}
	for _, failure := range failed {
		e.printf("failed  %s: %s\n", failure.Step, strings.ReplaceAll(failure.Problem, "\n", "\n        "))
		if failure.Hint != "" {
			e.printf("        hint: %s\n", failure.Hint)
		}
	}
	for _, step := range result.Plan.Steps {
		if step.Action == keeper.Wait || !step.Until.IsZero() && step.Action == keeper.Keep {
			e.printf("later   %s\n", step)
		}
	}
	if len(result.Done)+len(result.Failed) == 0 && err == nil {
		e.printf("nothing to do: every target holds the login in force\n")
	}
	return err
}
