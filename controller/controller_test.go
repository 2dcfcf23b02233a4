package controller_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcoordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/klog/v2"

	"github.com/regkeeper/regkeeper/controller"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/testkit/fakekube"
	"github.com/regkeeper/regkeeper/problem"
)

func TestMain(m *testing.M) {
	// The elector logs what happens to it.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	m.Run()
}

var lease = types.NamespacedName{Namespace: "regkeeper", Name: "regkeeper-state"}

// link is one process's way to the API, which can be cut.
type link struct {
	typedcoordination.CoordinationV1Interface
	// slow is how long it takes to make the Lease.
	slow time.Duration

	mu    sync.Mutex
	until time.Time
}

func (l *link) cut(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = until
}

func (l *link) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.until) {
		return errors.New("connection refused")
	}
	return nil
}

func (l *link) Leases(namespace string) typedcoordination.LeaseInterface {
	return leases{l.CoordinationV1Interface.Leases(namespace), l}
}

type leases struct {
	typedcoordination.LeaseInterface
	link *link
}

func (l leases) Get(ctx context.Context, name string, options metav1.GetOptions) (*coordinationv1.Lease, error) {
	if err := l.link.err(); err != nil {
		return nil, err
	}
	return l.LeaseInterface.Get(ctx, name, options)
}

func (l leases) Create(ctx context.Context, lease *coordinationv1.Lease, options metav1.CreateOptions) (*coordinationv1.Lease, error) {
	if err := l.link.err(); err != nil {
		return nil, err
	}
	time.Sleep(l.link.slow) // the API's own time
	return l.LeaseInterface.Create(ctx, lease, options)
}

func (l leases) Update(ctx context.Context, lease *coordinationv1.Lease, options metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	if err := l.link.err(); err != nil {
		return nil, err
	}
	return l.LeaseInterface.Update(ctx, lease, options)
}

// election is an API and the processes that share a Lease in it. Time is that
// of a bubble of synctest.
type election struct {
	*testing.T
	api *fakekube.API

	mu      sync.Mutex
	working []string
}

func newElection(t *testing.T) *election {
	t.Helper()
	api := fakekube.NewAPI(t)
	api.Conflicts("leases")
	return &election{T: t, api: api}
}

// process is one that asks for the Lease.
type process struct {
	controller.Config
	link   *link
	cancel context.CancelFunc
	// began is closed when the work begins, and finish ends it with an error.
	began  chan struct{}
	finish chan error
	// slow is how long the work takes to end when its context has.
	slow time.Duration
	// stopped is the work's result when its context ended.
	stopped error
	result  chan error
}

func (e *election) join(name string, change func(*process)) *process {
	e.Helper()
	p := &process{
		link: &link{CoordinationV1Interface: e.api.CoordinationV1()}, began: make(chan struct{}), finish: make(chan error),
		stopped: context.Canceled, result: make(chan error, 1),
	}
	p.Config = controller.Config{
		Cluster: &kube.Cluster{Coordination: p.link}, Lease: lease, Identity: name, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() {
		p.result <- controller.Lead(ctx, p.Config, func(ctx context.Context) error { return e.work(ctx, p) })
	}()
	synctest.Wait()
	return p
}

func (e *election) work(ctx context.Context, p *process) error {
	e.mu.Lock()
	e.working = append(e.working, p.Identity)
	if len(e.working) > 1 {
		e.Errorf("at work at the same time: %s", strings.Join(e.working, ", "))
	}
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.working = nil
	}()
	close(p.began)
	select {
	case err := <-p.finish:
		return err
	case <-ctx.Done():
		time.Sleep(p.slow) // the work's own time
		return p.stopped
	}
}

func (p *process) working() bool {
	select {
	case <-p.began:
		return true
	default:
		return false
	}
}

// holder is who the Lease names.
func (e *election) holder() string {
	e.Helper()
	found, err := e.api.CoordinationV1().Leases(lease.Namespace).Get(e.Context(), lease.Name, metav1.GetOptions{})
	if err != nil {
		e.Fatal(err)
	}
	if found.Spec.HolderIdentity == nil {
		return ""
	}
	return *found.Spec.HolderIdentity
}

// end ends a process, and waits.
func (p *process) end() error {
	p.cancel()
	return <-p.result
}

func quick(p *process) { p.RetryPeriod = 2 * time.Second }

func TestOneLeadsAndTheOtherTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", nil)
		two, three := e.join("two", quick), e.join("three", quick)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if !one.working() || two.working() || three.working() || e.holder() != "one" {
			t.Fatalf("after a while: %t %t %t, and the Lease is held by %q", one.working(), two.working(), three.working(), e.holder())
		}
		one.finish <- nil
		if err := <-one.result; err != nil {
			t.Errorf("the first: %v", err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if two.working() == three.working() {
			t.Errorf("when it was given back: %t %t", two.working(), three.working())
		}
		for _, p := range []*process{two, three} {
			if err := p.end(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, when it is told to end: %v", p.Identity, err)
			}
		}
		if two.working() == three.working() || e.holder() != "" {
			t.Errorf("at the end the Lease is held by %q", e.holder())
		}
	})
}

// TestLostLease cuts the leader off: its work is told to end before another
// begins, and that is an error, whatever the work makes of it.
func TestLostLease(t *testing.T) {
	t.Parallel()
	for name, stopped := range map[string]error{"the work fails": errors.New("cut short"), "the work ends in peace": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := newElection(t)
				one := e.join("one", func(p *process) { p.stopped = stopped })
				two := e.join("two", quick)
				began := time.Now()
				one.link.cut(began.Add(time.Hour))
				<-two.began
				if waited := time.Since(began); waited < controller.LeaseDuration || waited > controller.LeaseDuration+controller.RetryPeriod {
					t.Errorf("the other took over after %s", waited)
				}
				select {
				case err := <-one.result:
					if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "lease regkeeper/regkeeper-state was lost") || problem.HintOf(err) == "" {
						t.Errorf("the first: %v of kind %q", err, problem.KindOf(err))
					}
					if stopped != nil && !errors.Is(err, stopped) {
						t.Errorf("what the work said is not in %v", err)
					}
				default:
					t.Error("the first has not ended")
				}
				_ = two.end()
			})
		})
	}
}

// TestLostLeaseIsKeptUntilTheWorkHasEnded has the API come back just as the
// leader has given up, and its work take a while to end.
func TestLostLeaseIsKeptUntilTheWorkHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", func(p *process) { p.slow = 12 * time.Second; p.LeaseDuration = 5 * time.Minute })
		two := e.join("two", func(p *process) { quick(p); p.LeaseDuration = 5 * time.Minute })
		// The Lease is renewed next after a RetryPeriod, and then given up after a
		// RenewDeadline.
		one.link.cut(time.Now().Add(controller.RetryPeriod + controller.RenewDeadline - time.Millisecond))
		if err := <-one.result; problem.KindOf(err) != problem.Busy {
			t.Errorf("the first: %v", err)
		}
		if two.working() {
			t.Error("the other began before")
		}
		if holder := e.holder(); holder != "" {
			t.Errorf("it was not given back: it is held by %q", holder)
		}
		_ = two.end()
	})
}

// TestLostLeaseIsNotTakenFromAnother has the API come back when another leads.
func TestLostLeaseIsNotTakenFromAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", nil)
		one.link.cut(time.Now().Add(controller.RetryPeriod + controller.RenewDeadline - time.Millisecond))
		leases := e.api.CoordinationV1().Leases(lease.Namespace)
		taken, err := leases.Get(t.Context(), lease.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		another := "another"
		taken.Spec.HolderIdentity = &another
		if _, err := leases.Update(t.Context(), taken, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := <-one.result; problem.KindOf(err) != problem.Busy {
			t.Errorf("the first: %v", err)
		}
		if holder := e.holder(); holder != another {
			t.Errorf("the Lease is held by %q, though another leads", holder)
		}
	})
}

func TestGivenBackWhenTheWorkHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", func(p *process) { p.slow = 2 * time.Minute })
		two := e.join("two", quick)
		one.cancel()
		time.Sleep(time.Minute)
		synctest.Wait()
		if e.holder() != "one" || two.working() {
			t.Errorf("while the work ends, the Lease is held by %q", e.holder())
		}
		if err := <-one.result; !errors.Is(err, context.Canceled) {
			t.Errorf("the first: %v", err)
		}
		<-two.began
		_ = two.end()
	})
}

func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		const brief = "one" + controller.Brief
		one := e.join(brief, nil)
		began := time.Now()
		two := e.join("two", func(p *process) { quick(p); p.Patience = 90 * time.Second })
		err := <-two.result
		if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "is held by "+brief) || problem.HintOf(err) == "" {
			t.Errorf("the second: %v", err)
		}
		if waited := time.Since(began); waited != 90*time.Second || two.working() {
			t.Errorf("it ended after %s, working: %t", waited, two.working())
		}
		if e.holder() != brief {
			t.Errorf("the Lease is held by %q", e.holder())
		}
		// Patience is for waiting: the work may take longer.
		_ = one.end()
		three := e.join("three", func(p *process) { quick(p); p.Patience = time.Second })
		time.Sleep(time.Minute)
		three.finish <- nil
		if err := <-three.result; err != nil {
			t.Errorf("the third: %v", err)
		}
	})
}

// Who works on is not waited for: patience is for one that ends soon.
func TestWorkerIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", nil)
		began := time.Now()
		two := e.join("two", func(p *process) { quick(p); p.Patience = 90 * time.Second })
		err := <-two.result
		if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "is held by one") {
			t.Errorf("the second: %v", err)
		}
		if waited := time.Since(began); waited > 35*time.Second || two.working() {
			t.Errorf("it ended after %s, working: %t", waited, two.working())
		}
		_ = one.end()
	})
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", func(p *process) {
			quick(p)
			p.Patience = time.Minute
			p.link.cut(time.Now().Add(time.Hour))
		})
		if err := <-one.result; problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "could not be had in 1m0s") {
			t.Errorf("%v", err)
		}
	})
}

// TestPatienceEndsAsTheLeaseIsHad has both happen at once: what did not work
// says so, and gives the Lease back.
func TestPatienceEndsAsTheLeaseIsHad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", func(p *process) { p.link.slow, p.Patience = 2*time.Second, time.Second })
		if err := <-one.result; problem.KindOf(err) != problem.Busy || one.working() {
			t.Errorf("%v, working: %t", err, one.working())
		}
		if e.holder() != "" {
			t.Errorf("the Lease is held by %q", e.holder())
		}
	})
}

func TestWaitEndsWithTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", nil)
		two := e.join("two", nil)
		began := time.Now()
		if err := two.end(); !errors.Is(err, context.Canceled) || time.Since(began) != 0 || two.working() {
			t.Errorf("after %s: %v, working: %t", time.Since(began), err, two.working())
		}
		if e.holder() != "one" {
			t.Errorf("the Lease is held by %q", e.holder())
		}
		_ = one.end()
	})
}

func TestErrorOfTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newElection(t)
		one := e.join("one", nil)
		broken := problem.New(problem.Partial, "look there", "some were not done")
		one.finish <- broken
		if err := <-one.result; !errors.Is(err, broken) || problem.KindOf(err) != problem.Partial {
			t.Errorf("%v", err)
		}
		if e.holder() != "" {
			t.Errorf("the Lease is held by %q", e.holder())
		}
	})
}
