package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

// herd is a target whose places are tended. Its places can be made to hang, and
// what changes is told by hand.
type herd struct {
	*fake.Target
	told chan []credential.Place

	mu     sync.Mutex
	gate   map[credential.Place]chan struct{}
	looked map[credential.Place]int
}

var _ credential.Watcher = (*herd)(nil)

func newHerd(places ...credential.Place) *herd {
	return &herd{
		Target: fake.NewTarget(places...), told: make(chan []credential.Place),
		gate: map[credential.Place]chan struct{}{}, looked: map[credential.Place]int{},
	}
}

func (h *herd) Watch(ctx context.Context, changed func(...credential.Place)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case places := <-h.told:
			changed(places...)
		}
	}
}

func (h *herd) Held(ctx context.Context, place credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	h.mu.Lock()
	h.looked[place]++
	h.mu.Unlock()
	return h.Target.Held(ctx, place, hosts)
}

func (h *herd) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	h.mu.Lock()
	gate := h.gate[place]
	h.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h.Target.Deliver(ctx, place, logins)
}

// hang has deliveries to the places wait until they are let go.
func (h *herd) hang(places ...credential.Place) (letGo func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gate := make(chan struct{})
	for _, place := range places {
		h.gate[place] = gate
	}
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		clear(h.gate)
		close(gate)
	})
}

// empty has the places begin anew, holding nothing, as containers do that were
// restarted.
func (h *herd) empty(places ...credential.Place) {
	for _, place := range places {
		h.Remove(place)
		h.Add(place)
	}
}

func (h *herd) looks(place credential.Place) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.looked[place]
}

func (h *herd) holds(places ...credential.Place) bool {
	for _, place := range places {
		if _, ok := h.Look(place, host); !ok {
			return false
		}
	}
	return true
}

// field is a daemon with a herd, in a bubble of synctest: time is the bubble's.
type field struct {
	*world
	herd    *herd
	origins map[string]func(context.Context, func()) error
	err     chan error
	cancel  context.CancelFunc
}

func newField(t *testing.T, places ...credential.Place) *field {
	t.Helper()
	f := &field{herd: newHerd(places...), err: make(chan error, 1)}
	f.world = &world{
		T: t, origin: &origin{issued: map[string]credential.Issued{}}, resync: time.Hour, store: &fake.Store{},
		metrics: daemon.NewMetrics("test"),
	}
	f.d = daemon.New(daemon.Config{
		Load: func() (daemon.Setup, error) { return f.wireHerd(), nil },
		Log:  slog.New(slog.NewTextHandler(&f.log, nil)), Metrics: f.metrics,
	})
	return f
}

func (f *field) wireHerd() daemon.Setup {
	return daemon.Setup{
		Keeper: keeper.New(keeper.Config{
			Instance: "test", Store: f.store, Verifier: f.origin,
			Registries: []keeper.Registry{{
				Host: host, Source: f.origin, Origin: "test", Scopes: credential.ScopesOf(credential.Pull),
				Schedule: keeper.Schedule{Overlap: time.Hour},
			}},
			Targets: []keeper.Target{{Target: f.herd, Name: "runners", Kind: "pods", Tended: true, Reread: time.Hour}},
			Report:  daemon.Report(slog.New(slog.NewTextHandler(&f.log, nil)), f.metrics),
		}),
		Watchers: map[string]credential.Watcher{"runners": f.herd},
		Origins:  f.origins,
		Resync:   f.resync,
	}
}

// run begins the daemon, and waits for its first pass. The daemon ends with the
// test.
func (f *field) run() {
	f.Helper()
	ctx, cancel := context.WithCancel(f.Context())
	f.cancel = cancel
	go func() { f.err <- f.d.Run(ctx) }()
	synctest.Wait()
}

func (f *field) end() {
	f.Helper()
	f.cancel()
	if err := <-f.err; err != nil {
		f.Errorf("run: %v", err)
	}
}

// tell has the watcher name places, and waits for what comes of it.
func (f *field) tell(places ...credential.Place) {
	f.herd.told <- places
	synctest.Wait()
}

func names(n int) []credential.Place {
	list := make([]credential.Place, n)
	for i := range list {
		list[i] = credential.Place(fmt.Sprintf("pod-%04d", i))
	}
	return list
}

func TestNamedPlacesAloneAreTended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, "one", "two")
		f.run()
		defer f.end()
		if !f.ready() || !f.herd.holds("one", "two") {
			t.Fatalf("the first pass left it so:\n%s", f.log.String())
		}
		passes, asked, listed, looks := f.passes(), f.origin.asked.Load(), f.herd.Count(fake.Places), f.herd.looks("two")

		f.herd.empty("one", "two")
		f.tell("one")
		if !f.herd.holds("one") || f.herd.holds("two") || f.herd.looks("two") != looks {
			t.Errorf("one holds: %t, two: %t, looks at two: %d", f.herd.holds("one"), f.herd.holds("two"), f.herd.looks("two")-looks)
		}
		if f.passes() != passes || f.origin.asked.Load() != asked || f.herd.Count(fake.Places) != listed {
			t.Errorf("tending made %v passes, asked %d times, listed the places %d times",
				f.passes()-passes, f.origin.asked.Load()-asked, f.herd.Count(fake.Places)-listed)
		}

		// Any place may have changed: a pass looks at what there is, and asks nobody.
		f.herd.Add("three")
		f.tell()
		if !f.herd.holds("three") || f.passes() != passes+1 || f.origin.asked.Load() != asked {
			t.Errorf("three holds: %t, after %v passes that asked %d times", f.herd.holds("three"), f.passes()-passes, f.origin.asked.Load()-asked)
		}
	})
}

func TestFailingPlaceIsRetriedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, "bad", "good")
		f.herd.Unreachable("bad", true)
		f.run()
		defer f.end()
		passes, asked, good, bad := f.passes(), f.origin.asked.Load(), f.herd.looks("good"), f.herd.looks("bad")

		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := f.herd.looks("bad") - bad; n < 5 || n > 20 {
			t.Errorf("it was tried %d times in 10 minutes, want later and later", n)
		}
		f.herd.Unreachable("bad", false)
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if !f.herd.holds("bad") || !f.ready() {
			t.Errorf("it is not served once it can be:\n%s", f.log.String())
		}
		if f.passes() != passes || f.origin.asked.Load() != asked || f.herd.looks("good") != good {
			t.Errorf("for one place, %v passes were made, the registry and source asked %d times, the other looked at %d times",
				f.passes()-passes, f.origin.asked.Load()-asked, f.herd.looks("good")-good)
		}
	})
}

func TestHangingPlacesHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := names(50)
		f := newField(t, append(hanging, "other")...)
		f.run()
		defer f.end()
		letGo := f.herd.hang(hanging...)
		f.herd.empty(append(hanging, "other")...)
		f.tell(append(hanging, "other")...)
		if !f.herd.holds("other") {
			t.Error("a place waits for those that hang")
		}
		// And again, while they hang still.
		f.herd.empty("other")
		f.tell("other")
		if !f.herd.holds("other") {
			t.Error("it waits the second time")
		}

		// A reload waits for what is under way, and no longer.
		f.d.Reload()
		letGo()
		synctest.Wait()
		if n := f.metric(`regkeeper_config_reload_total{result="success"}`); n != 2 {
			t.Errorf("%v setups were taken up, want 2", n)
		}
		if !f.herd.holds(hanging...) || !f.ready() {
			t.Errorf("what hung is not served:\n%s", f.log.String())
		}
		f.herd.empty("other")
		f.tell("other")
		if !f.herd.holds("other") {
			t.Error("the new setup tends nothing")
		}
	})
}

func TestQueuedWorkEndsWithTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := names(1000)
		f := newField(t, places...)
		f.run()
		defer f.herd.hang(places...)()
		f.herd.empty(places...)
		f.tell(places...)
		looks := 0
		for _, place := range places {
			looks += f.herd.looks(place)
		}
		began := time.Now()
		f.end()
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %s", took)
		}
		for _, place := range places {
			looks -= f.herd.looks(place)
		}
		if looks != 0 {
			t.Errorf("%d looks were taken at places after the end", -looks)
		}
	})
}

func TestHealthFollowsTendedPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, "one", "two")
		f.run()
		defer f.end()
		passes := f.passes()
		condition := func() (c daemon.Condition, found bool) {
			_, got := f.conditions("/readyz")
			for _, c := range got.Conditions {
				if c.On == "runners one" {
					return c, true
				}
			}
			return c, false
		}

		f.herd.Unreachable("one", true)
		f.tell("one")
		status, got := f.conditions("/readyz")
		if c, _ := condition(); status != http.StatusServiceUnavailable || got.OK || c.OK || !strings.Contains(c.Text, "does not answer") {
			t.Errorf("when it fails: %d %+v", status, got)
		}
		if status, _ := f.get("/healthz"); status != http.StatusOK {
			t.Errorf("/healthz: %d", status)
		}

		f.herd.Unreachable("one", false)
		f.herd.empty("one")
		f.tell("one")
		want := conditions{OK: true, Conditions: []daemon.Condition{
			{Code: "pass", OK: true}, {Code: "registry", On: string(host), OK: true},
			{Code: "target", On: "runners one", OK: true}, {Code: "target", On: "runners two", OK: true},
		}}
		if _, got = f.conditions("/readyz"); !cmp.Equal(want, got) {
			t.Errorf("when it is healed (-want +got):\n%s", cmp.Diff(want, got))
		}

		// One that is new is known at once, and one that fails and is gone is no
		// trouble any more.
		f.herd.Add("three")
		f.tell("three")
		if _, got = f.conditions("/readyz"); !got.OK || len(got.Conditions) != 5 {
			t.Errorf("with one more: %+v", got)
		}
		f.herd.Unreachable("one", true)
		f.tell("one")
		if f.ready() {
			t.Error("it is ready, though a place fails")
		}
		f.herd.Remove("one")
		f.tell("one")
		if c, found := condition(); found || !f.ready() {
			t.Errorf("of one that is gone it says %+v; ready: %t", c, f.ready())
		}
		if f.passes() != passes {
			t.Errorf("%v passes were made", f.passes()-passes)
		}
	})
}

// A pass that could not begin says nothing of the registries: that a place was
// served since does not make all well.
func TestTendedPlaceDoesNotHideAFailedPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, "one")
		store := &fake.Store{}
		f.store = store
		f.run()
		defer f.end()
		// One more to serve, so that the pass that follows the order fails too.
		f.herd.Add("two")
		store.FailBefore(fake.Save, -1)
		if _, err := f.d.Sync(t.Context(), keeper.Rotate{All: true}); err == nil {
			t.Fatal("the pass did not fail")
		}
		f.herd.empty("one")
		f.tell("one")
		status, got := f.conditions("/readyz")
		if status != http.StatusServiceUnavailable || got.OK || got.Conditions[0].OK {
			t.Errorf("%d %+v", status, got)
		}
		store.Heal()
		if _, err := f.d.Sync(t.Context(), keeper.Rotate{}); err != nil || !f.ready() {
			t.Errorf("when the state can be written again: %v, ready: %t", err, f.ready())
		}
	})
}

func TestChangedOriginMakesAWholePass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, "one")
		changes := make(chan struct{})
		f.origins = map[string]func(context.Context, func()) error{"secret team/login": func(ctx context.Context, changed func()) error {
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-changes:
					changed()
				}
			}
		}}
		f.run()
		defer f.end()
		passes, asked := f.passes(), f.origin.asked.Load()
		changes <- struct{}{}
		synctest.Wait()
		if f.passes() != passes+1 || f.origin.asked.Load() == asked {
			t.Errorf("%v passes were made, and %d questions asked", f.passes()-passes, f.origin.asked.Load()-asked)
		}
	})
}

// TestWatchThatEnds is begun again, after a while.
func TestWatchThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, "one")
		begun := 0
		f.origins = map[string]func(context.Context, func()) error{"secret team/login": func(ctx context.Context, _ func()) error {
			if begun++; begun == 1 {
				return errors.New("the apiserver went away")
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		f.run()
		defer f.end()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if begun != 2 || !strings.Contains(f.log.String(), "the apiserver went away") {
			t.Errorf("it was begun %d times; log:\n%s", begun, f.log.String())
		}
	})
}

func TestStandBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, "one")
		f.d.StandBy()
		status, got := f.conditions("/readyz")
		if len(got.Conditions) != 1 || status != http.StatusOK || !got.OK || got.Conditions[0].Code != "lease" || !got.Conditions[0].OK {
			t.Errorf("/readyz: %d %+v", status, got)
		}
		if status, _ := f.get("/healthz"); status != http.StatusOK {
			t.Errorf("/healthz: %d", status)
		}
		_, syncErr := f.d.Sync(t.Context(), keeper.Rotate{})
		_, statusErr := f.d.Status(t.Context())
		for order, err := range map[string]error{"sync": syncErr, "status": statusErr} {
			if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "another regkeeper leads") || problem.HintOf(err) == "" {
				t.Errorf("%s: %v", order, err)
			}
		}
		if f.origin.asked.Load() != 0 || f.herd.Count(fake.Places) != 0 {
			t.Error("it did something")
		}

		f.run()
		defer f.end()
		if _, got := f.conditions("/readyz"); !got.OK || got.Conditions[0].Code != "pass" {
			t.Errorf("/readyz, when it leads: %+v", got)
		}
	})
}

func TestPlacesMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField(t, names(5)...)
		f.herd.Unreachable("pod-0003", true)
		f.run()
		defer f.end()
		ok, failed := f.metric(`regkeeper_places{phase="ok",target="runners"}`), f.metric(`regkeeper_places{phase="failed",target="runners"}`)
		if ok != 4 || failed != 1 {
			t.Errorf("%v places are ok and %v failed, want 4 and 1", ok, failed)
		}
		if _, text := f.get("/metrics"); strings.Contains(text, "pod-000") {
			t.Errorf("there is a series for each place:\n%s", text)
		}
	})
}
