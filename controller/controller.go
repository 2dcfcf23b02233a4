// Package controller decides which of several regkeepers works: one at a time
// holds a Lease, and lets go of everything when it loses it.
//
// It refuses to know what the work is.
package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
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
	// Patience is how long another's Lease is waited for, unless that is seen to
	// work on; zero waits for ever.
	Patience time.Duration
	// LeaseDuration, RenewDeadline and RetryPeriod are as above if zero.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// lock is the Lease. The elector gives it back as soon as it stops leading, also
// where it could not renew it in time: by then the work has not been told, and
// the Lease may be another's.
type lock struct {
	*resourcelock.LeaseLock
	lead *lead
	// holder is who had the Lease when it was read last.
	holder string
}

var _ resourcelock.Interface = (*lock)(nil)

// Get reads the Lease.
func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, text, err := l.LeaseLock.Get(ctx)
	if err == nil {
		l.holder = record.HolderIdentity
		l.lead.saw(*record)
	}
	return record, text, err
}

// Create makes the Lease.
func (l *lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.LeaseLock.Create(ctx, record)
	l.lead.renewed(err)
	return err
}

// Update writes the Lease; giving it back waits for the work to end. A Lease
// that is not given back runs out.
func (l *lock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if record.HolderIdentity == "" {
		if l.holder != l.Identity() {
			return fmt.Errorf("lease is held by %q", l.holder)
		}
		l.lead.lose()
		select {
		case <-l.lead.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
		return l.LeaseLock.Update(ctx, record)
	}
	err := l.LeaseLock.Update(ctx, record)
	l.lead.renewed(err)
	return err
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
	// began says that the work has begun, or that it is too late for it.
	began  bool
	ended  chan struct{}
	worked bool
	// stop tells the work to end; nil if it is not under way.
	stop context.CancelFunc
	err  error
	lost bool
	// last is the Lease as it was seen last.
	last resourcelock.LeaderElectionRecord
	// late loses the Lease when it was not renewed for long.
	late *time.Timer
}

// Brief ends the identity of who holds the Lease for a moment only: others wait
// for it, also those who are told that somebody else works.
const Brief = "_brief"

// margin is the part of a Lease's duration before whose end the work is told to
// end if the Lease could not be renewed: it takes a while.
const margin = 6

// renewed notes a try to renew our Lease.
func (l *lead) renewed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return
	}
	if l.late != nil {
		l.late.Stop()
	}
	l.late = time.AfterFunc(l.LeaseDuration-l.LeaseDuration/margin, l.lose)
}

// saw looks at the Lease: where another has it, our work ends, and it is no use
// to wait for one who goes on working.
func (l *lead) saw(record resourcelock.LeaderElectionRecord) {
	holder := record.HolderIdentity
	other := holder != "" && holder != l.Identity
	l.mu.Lock()
	lost := other && l.stop != nil
	works := other && holder == l.last.HolderIdentity && !record.RenewTime.Equal(&l.last.RenewTime) && !strings.HasSuffix(holder, Brief)
	l.last = record
	l.mu.Unlock()
	if lost {
		l.lose()
	}
	if works && l.Patience > 0 {
		l.giveUp()
	}
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
		Lock: &lock{lead: l, LeaseLock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: config.Lease.Namespace, Name: config.Lease.Name},
			Client:    config.Cluster.Coordination, LockConfig: resourcelock.ResourceLockConfig{Identity: config.Identity},
		}},
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
	err = l.result()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.late != nil {
		l.late.Stop()
	}
	return err
}

// giveUp ends the wait, if nothing has begun.
func (l *lead) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.began {
		l.began = true
		close(l.ended)
		l.release()
	}
}

// lose tells the work, if it is under way, that the Lease is lost.
func (l *lead) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop != nil {
		l.lost = true
		l.stop()
	}
}

func (l *lead) started(leading context.Context) {
	working, stop := context.WithCancel(leading)
	defer stop()
	l.mu.Lock()
	if l.began {
		l.mu.Unlock()
		return
	}
	l.began, l.worked, l.stop = true, true, stop
	l.mu.Unlock()
	defer close(l.ended)
	defer l.release()
	l.Log.Info("leading", "lease", l.Lease.String(), "identity", l.Identity)
	defer context.AfterFunc(l.ctx, stop)()
	err := l.work(working)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.stop, l.lost = err, nil, l.lost || leading.Err() != nil
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
		const hint = "see that the apiserver answers, and that no other regkeeper has the same state"
		if l.err == nil {
			return problem.New(problem.Busy, hint, "lease %s was lost", l.Lease)
		}
		return problem.Wrap(l.err, problem.Busy, hint, "lease %s was lost", l.Lease)
	case !l.worked && (l.leader == "" || l.leader == l.Identity):
		return problem.New(problem.Busy, "see that the apiserver answers, and who has the Lease", "lease %s could not be had in %s", l.Lease, l.Patience)
	case !l.worked:
		return problem.New(problem.Busy, "wait until the other has ended: one at a time works with the same state",
			"lease %s is held by %s", l.Lease, l.leader)
	}
	return nil
}
