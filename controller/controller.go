// Package controller decides which of several regkeepers works: one at a time
// holds a Lease, and lets go of everything when it loses it.
//
// It refuses to know what the work is.
package controller

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// The times of the election, as of cert-manager: a leader that is cut off stops
// before another begins.
const (
	LeaseDuration = 60 * time.Second
	RenewDeadline = 40 * time.Second
	RetryPeriod   = 15 * time.Second
)

// Config says which Lease, and who asks for it.
type Config struct {
	Cluster *kube.Cluster
	Lease   types.NamespacedName
	// Identity is unique to this process, such as the pod's name.
	Identity string
	Log      *slog.Logger
	// Patience is how long another's Lease is waited for; zero for ever.
	Patience time.Duration
	// LeaseDuration, RenewDeadline and RetryPeriod are as above if zero.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// lead is one wait for the Lease, and the work under it.
type lead struct {
	Config
	// ctx is the caller's, and release gives the Lease back, or ends the wait.
	ctx     context.Context //nolint:containedctx // the elector's callbacks have another
	release context.CancelFunc
	work    func(context.Context) error

	mu     sync.Mutex
	leader string
	began  bool
	ended  chan struct{}
	err    error
	lost   bool
}

// Lead waits for the Lease, runs the work while it is held, and gives it back
// when the work has ended, which it must when its context does. The error is
// the work's, or a problem of kind [problem.Busy] if the Lease was lost, or
// another has had it for longer than our patience.
func Lead(ctx context.Context, config Config, work func(context.Context) error) error {
	config.LeaseDuration = cmp.Or(config.LeaseDuration, LeaseDuration)
	config.RenewDeadline = cmp.Or(config.RenewDeadline, RenewDeadline)
	config.RetryPeriod = cmp.Or(config.RetryPeriod, RetryPeriod)
	// The Lease outlives ctx until the work has ended: nobody begins before.
	electing, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	l := &lead{Config: config, ctx: ctx, release: release, work: work, ended: make(chan struct{})}
	defer context.AfterFunc(ctx, l.giveUp)()
	if config.Patience > 0 {
		defer time.AfterFunc(config.Patience, l.giveUp).Stop()
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: kube.Manager,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: config.Lease.Namespace, Name: config.Lease.Name},
			Client:    config.Cluster.Coordination, LockConfig: resourcelock.ResourceLockConfig{Identity: config.Identity},
		},
		LeaseDuration: config.LeaseDuration, RenewDeadline: config.RenewDeadline, RetryPeriod: config.RetryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: l.started, OnStoppedLeading: func() {}, OnNewLeader: l.noticed,
		},
	})
	if err != nil {
		return problem.Wrap(err, problem.Internal, "", "lease %s", config.Lease)
	}
	elector.Run(electing)
	return l.result()
}

// giveUp ends the wait, if nothing has begun.
func (l *lead) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.began {
		l.began = true // too late for the work
		close(l.ended)
		l.release()
	}
}

func (l *lead) started(leading context.Context) {
	l.mu.Lock()
	if l.began {
		l.mu.Unlock()
		return
	}
	l.began, l.leader = true, l.Identity
	l.mu.Unlock()
	defer close(l.ended)
	defer l.release()
	l.Log.Info("leading", "lease", l.Lease.String(), "identity", l.Identity)
	working, stop := context.WithCancel(leading)
	defer stop()
	defer context.AfterFunc(l.ctx, stop)()
	l.err = l.work(working)
	l.lost = leading.Err() != nil
}

func (l *lead) noticed(identity string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leader = identity; identity != l.Identity && identity != "" {
		l.Log.Info("another leads; waiting", "lease", l.Lease.String(), "leader", identity)
	}
}

// result waits for the work: it has begun, or will not.
func (l *lead) result() error {
	<-l.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil && !l.lost:
		return l.err
	case l.ctx.Err() != nil:
		return l.ctx.Err()
	case l.lost:
		return problem.Wrap(l.err, problem.Busy, "see that the apiserver answers, and that no other regkeeper has the same state", "lease %s was lost", l.Lease)
	case l.leader != l.Identity:
		return problem.New(problem.Busy, "wait until the other has ended: one at a time works with the same state",
			"lease %s is held by %s", l.Lease, cmp.Or(l.leader, "nobody that answers"))
	}
	return nil
}
