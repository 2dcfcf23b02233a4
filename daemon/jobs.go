package daemon

import (
	"context"
	"time"

	"github.com/regkeeper/regkeeper/problem"
)

// Job is work beside the passes, done at times of its own.
type Job struct {
	Name string
	// Next is when it is due first after a time; zero for never.
	Next func(after time.Time) time.Time
	// Asked says that it is due now; nil for never.
	Asked <-chan struct{}
	// Run does it. What it leaves undone when ctx ends, the next run does.
	Run func(ctx context.Context) error
}

// job runs a job whenever it is due, until ctx ends.
func (d *Daemon) job(ctx context.Context, job Job) error {
	for {
		var due <-chan time.Time
		if next := job.Next(time.Now()); !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-due:
		case <-job.Asked:
		}
		began := time.Now()
		err := job.Run(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		took := time.Since(began)
		d.config.Metrics.worked(job.Name, took, err)
		if err != nil {
			d.config.Log.Error("job failed", "job", job.Name, "error", err, "hint", problem.HintOf(err), "took", took.Round(time.Millisecond))
			continue
		}
		d.config.Log.Info("job done", "job", job.Name, "took", took.Round(time.Millisecond))
	}
}

// Every has a job due at each multiple of an interval since the beginning of time,
// so that restarts put nothing off.
func Every(interval time.Duration) func(after time.Time) time.Time {
	return func(after time.Time) time.Time { return after.UTC().Truncate(interval).Add(interval) }
}

// Never has a job due only when asked for.
func Never(time.Time) time.Time { return time.Time{} }
