package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/keeper"
)

// A job runs at its times and when asked for, one run at a time, also after one
// that failed; and ends with the daemon.
func TestJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan struct{}, 1)
		var runs []time.Time
		began := time.Now()
		job := daemon.Job{Name: "prune", Next: daemon.Every(6 * time.Hour), Asked: asked, Run: func(ctx context.Context) error {
			runs = append(runs, time.Now())
			if len(runs) == 1 {
				return errors.New("the registry is down")
			}
			return ctx.Err()
		}}
		d := daemon.New(daemon.Config{Log: slog.New(slog.DiscardHandler), Load: func() (daemon.Setup, error) {
			return daemon.Setup{Keeper: keeper.New(keeper.Config{Instance: "test", Store: &fake.Store{}, Verifier: &origin{}}), Resync: time.Hour, Jobs: []daemon.Job{job}}, nil
		}})
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		time.Sleep(13 * time.Hour)
		synctest.Wait()
		if len(runs) != 2 {
			t.Fatalf("in 13 hours it ran %d times, want 2: %v", len(runs), runs)
		}
		if first := daemon.Every(6 * time.Hour)(began); !runs[0].Equal(first) {
			t.Errorf("it ran first at %v, want %v", runs[0], first)
		}
		asked <- struct{}{}
		synctest.Wait()
		if len(runs) != 3 {
			t.Errorf("asked for, it did not run")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A job that is ending when the configuration is taken up anew ends before it runs
// by the new one.
func TestJobsEndBeforeTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan struct{}, 2)
		running, most := 0, 0
		job := daemon.Job{Name: "prune", Next: daemon.Never, Asked: asked, Run: func(ctx context.Context) error {
			running++
			most = max(most, running)
			<-ctx.Done()
			time.Sleep(20 * time.Second) // it ends a login, and writes a report
			running--
			return nil
		}}
		d := daemon.New(daemon.Config{Log: slog.New(slog.DiscardHandler), Load: func() (daemon.Setup, error) {
			return daemon.Setup{
				Keeper: keeper.New(keeper.Config{Instance: "test", Store: &fake.Store{}, Verifier: &origin{}}), Resync: time.Hour, Jobs: []daemon.Job{job},
			}, nil
		}})
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		asked <- struct{}{}
		synctest.Wait()
		d.Reload()
		time.Sleep(time.Second)
		asked <- struct{}{}
		synctest.Wait()
		if most > 1 {
			t.Errorf("%d runs of one job at one time", most)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
