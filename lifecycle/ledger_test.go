package lifecycle_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/problem"
)

// envHold has the test binary hold the ledger of the folder until its input ends.
const envHold = "TEST_HOLD_LEDGER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(envHold); folder != "" {
		_, err := lifecycle.FileLedger{Folder: folder}.Hold(context.Background(), repository("app"))
		fmt.Println(problem.KindOf(err))
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holder starts a process that holds the ledger, until it is killed.
func holder(t *testing.T, folder string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), envHold+"="+folder)
	if _, err := command.StdinPipe(); err != nil { // stays open while the test runs
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if kind, err := bufio.NewReader(out).ReadString('\n'); err != nil || kind != "\n" {
		t.Fatalf("the process holds nothing: %q %v", kind, err)
	}
	return command
}

// pruned fails unless just the newest image of two is left, whole.
func (k *kit) pruned(path string) {
	k.Helper()
	newest := k.inventory(path).Tags["b1"].Digest
	want := []string{"b1", image.ReferrersTag(newest) + ".sig"}
	if got := slices.Sorted(maps.Keys(k.inventory(path).Tags)); !slices.Equal(got, sorted(want)) {
		k.Errorf("left are %v, want %v", got, sorted(want))
	}
	for _, tag := range want {
		k.whole(path, tag)
	}
}

// busy fails unless the error says that somebody else deletes of the repository, and
// what to do.
func busy(t *testing.T, err error, path string) {
	t.Helper()
	if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), host+"/"+path) || problem.HintOf(err) == "" {
		t.Errorf("the error is %v (%s, hint %q)", err, problem.KindOf(err), problem.HintOf(err))
	}
}

// While a plan is carried out, no other is for the same repository.
func TestPruneIsAlone(t *testing.T) {
	t.Parallel()
	under, goOn := make(chan struct{}), make(chan struct{})
	var deletions atomic.Int64
	k := newKit(t, fakeregistry.Config{NoReferrers: true, Before: func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete && deletions.Add(1) == 1 {
			close(under)
			<-goOn
		}
		return false
	}})
	ledger := lifecycle.FileLedger{Folder: t.TempDir()}
	apply := func(path string, rule plan.Rule) (lifecycle.Pruned, error) {
		return lifecycle.Apply(t.Context(), k.Registry, k.decide(path, rule), lifecycle.Pruning{Limits: all, Ledger: ledger})
	}
	k.builds("app", 2)
	k.builds("other", 2)
	first := make(chan error, 1)
	p := k.decide("app", plan.Rule{Last: 1})
	go func() {
		_, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all, Ledger: ledger})
		first <- err
	}()
	<-under

	noted, err := ledger.Deleted(t.Context(), repository("app"))
	if err != nil || len(noted) == 0 {
		t.Fatalf("noted are %v: %v", noted, err)
	}
	result, err := apply("app", plan.Rule{Pattern: "none"}) // it would delete all
	busy(t, err, "app")
	if result.Deleted+len(result.Skipped)+len(result.Failed) > 0 || deletions.Load() != 1 {
		t.Errorf("the one that was refused did %+v, and %d deletions were sent", result, deletions.Load())
	}
	if still, err := ledger.Deleted(t.Context(), repository("app")); err != nil || !maps.Equal(still, noted) {
		t.Errorf("noted were %v, and then %v: %v", noted, still, err)
	}
	// Another repository is another matter.
	if _, err := apply("other", plan.Rule{Last: 1}); err != nil {
		t.Error(err)
	}
	k.pruned("other")

	close(goOn)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	k.pruned("app")
	k.builds("app", 3)
	if _, err := apply("app", plan.Rule{Pattern: "b1"}); err != nil {
		t.Errorf("after the end: %v", err)
	}
	k.pruned("app")
}

// A run that was cut off by an error keeps nobody from the next.
func TestPruneGivesUpTheLedgerAfterAnError(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	k := newKit(t, fakeregistry.Config{NoReferrers: true, Before: func(w http.ResponseWriter, _ *http.Request) bool {
		if broken.Load() {
			w.WriteHeader(http.StatusForbidden)
		}
		return broken.Load()
	}})
	k.builds("app", 2)
	p := k.decide("app", plan.Rule{Last: 1})
	how := lifecycle.Pruning{Limits: all, Ledger: lifecycle.FileLedger{Folder: t.TempDir()}}
	broken.Store(true)
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, how); err == nil || problem.KindOf(err) == problem.Busy {
		t.Fatalf("the error is %v", err)
	}
	broken.Store(false)
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, how); err != nil {
		t.Fatal(err)
	}
	k.pruned("app")
}

// Another process holds the ledger, until it is killed.
func TestPruneBesideAnotherProcess(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.builds("app", 2)
	p := k.decide("app", plan.Rule{Last: 1})
	ledger := lifecycle.FileLedger{Folder: t.TempDir()}
	other := holder(t, ledger.Folder)
	_, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all, Ledger: ledger})
	busy(t, err, "app")
	if got := k.fake.Count("DELETE"); got != 0 {
		t.Errorf("%d deletions were sent", got)
	}
	if noted, err := ledger.Deleted(t.Context(), repository("app")); err != nil || len(noted) > 0 {
		t.Errorf("noted are %v: %v", noted, err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait()
	if _, err := lifecycle.Apply(t.Context(), k.Registry, p, lifecycle.Pruning{Limits: all, Ledger: ledger}); err != nil {
		t.Fatal(err)
	}
	k.pruned("app")
}

// A ledger that cannot be held keeps everything.
func TestPruneWithoutItsLedger(t *testing.T) {
	t.Parallel()
	k := newKit(t, fakeregistry.Config{NoReferrers: true})
	k.builds("app", 2)
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := lifecycle.Apply(t.Context(), k.Registry, k.decide("app", plan.Rule{Last: 1}), lifecycle.Pruning{Limits: all, Ledger: lifecycle.FileLedger{Folder: file}})
	if problem.KindOf(err) != problem.Storage {
		t.Errorf("the error is %v", err)
	}
	if got := k.fake.Count("DELETE"); got != 0 {
		t.Errorf("%d deletions were sent", got)
	}
}
