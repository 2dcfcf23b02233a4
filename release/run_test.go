package release_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release"
	"github.com/regkeeper/regkeeper/release/rollout"
)

const (
	before  = "api 0000000, worker 0000000"
	shipped = "api 237c6b8, worker 237c6b8"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFromCommitToPods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Items[0].Reproducible = true
	w.config.Bases = []credential.Host{"bases.example"}
	records, err := w.run(t.Context(), release.All)
	must(t, err)
	if got := w.images(); got != shipped {
		t.Errorf("workloads run %s", got)
	}
	for _, name := range []string{"api", "worker"} {
		if c := w.cluster.states[workload(name)].Container("sidecar"); c.Image != "envoy:1" {
			t.Errorf("the sidecar of %s is %s", name, c.Image)
		}
	}
	if diff := cmp.Diff([]string{"admin/honeydue-api:237c6b8", "admin/honeydue-worker:237c6b8"}, w.registry.writes); diff != "" {
		t.Errorf("tags set (-want +got):\n%s", diff)
	}
	if outcomes(records) != "api released, worker released" {
		t.Errorf("outcomes: %s", outcomes(records))
	}
	d := w.registry.tags["admin/honeydue-api:237c6b8"]
	at := time.Unix(1800000000, 0).UTC()
	want := release.Record{
		Item: "api", Outcome: release.Released, Commit: commit, Began: at, Ended: at, By: "ci@host",
		Reference: image.Reference{Repository: repository("api"), Tag: "237c6b8", Digest: d},
		Workloads: []release.Rolled{{Workload: release.Workload{Workload: workload("api"), Container: "api"}, From: repository("api").String() + ":0000000", To: repository("api").String() + ":237c6b8"}},
	}
	if diff := cmp.Diff(want, records[0], cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	var kept []release.Record
	for record, err := range w.journal.Records() {
		must(t, err)
		kept = append(kept, record)
	}
	if diff := cmp.Diff(records, kept, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("journal (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{
		rollout.Cause: "regkeeper release " + repository("api").String() + ":237c6b8", rollout.Commit: commit, rollout.Digest: d.String(),
	}, w.cluster.states[workload("api")].Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}

	job := w.builder.jobs[0]
	if job.Name != "api" || job.Target != "api" || job.Labels[ocispec.AnnotationRevision] != commit || job.Annotations[ocispec.AnnotationRevision] != commit || !job.Epoch.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("job %+v", job)
	}
	if !w.builder.jobs[1].Epoch.IsZero() {
		t.Error("an image that need not be reproducible has the commit's time")
	}
	if login := w.builder.logins[0][host]; login.Username != "pull,push" || w.builder.logins[0]["bases.example"].Username != "pull" || len(w.builder.logins[0]) != 2 {
		t.Errorf("logins of the build: %v", w.builder.logins[0])
	}
	if w.lent != 2 || w.ended != 2 {
		t.Errorf("%d logins were lent, %d ended", w.lent, w.ended)
	}
	if !slices.Contains(w.events, "api build #1 building") || !slices.Contains(w.events, "worker watch deployment/worker in namespace honeydue: rolling") {
		t.Errorf("events:\n%s", strings.Join(w.events, "\n"))
	}

	// Once more: nothing is left to do, and nothing is written down.
	records, err = w.run(t.Context(), release.All)
	must(t, err)
	if outcomes(records) != "api unchanged, worker unchanged" || len(w.builder.jobs) != 2 || w.lent != 2 {
		t.Errorf("again: %s, %d builds, %d logins", outcomes(records), len(w.builder.jobs), w.lent)
	}
}

func TestATagDoesNotMove(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, there, revision string
		dirty, moves, fails   bool
	}{
		{name: "the same image, other attestations", there: ""},
		{name: "another image", there: "other", fails: true},
		{name: "another image of the same commit", there: "other", revision: commit, fails: true},
		{name: "another image of a dirty tree", there: "other", dirty: true, moves: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.config.Latest, w.config.AllowDirty, w.config.Rebuild = true, true, true
			tag := "237c6b8"
			if c.dirty {
				w.source.revision.Dirty, w.source.revision.Content = []string{"x"}, "0a1b2c3d"
				tag += "-dirty-0a1b2c3d"
			}
			was := w.tagged("api", tag, c.there, c.revision)
			records, err := w.run(t.Context(), release.All, "api")
			if (err != nil) != c.fails {
				t.Fatalf("run: %v", err)
			}
			if moved := w.registry.tags["admin/honeydue-api:"+tag] != was; moved != c.moves {
				t.Errorf("the tag has moved: %v", moved)
			}
			latest := w.registry.tags["admin/honeydue-api:latest"]
			switch {
			case c.fails:
				if !errors.Is(err, image.ErrMoved) || problem.KindOf(err) != problem.Refused || outcomes(records) != "api failed" || w.images() != before || latest != "" {
					t.Errorf("%v, %s, %s, latest %q", err, outcomes(records), w.images(), latest)
				}
			case c.dirty:
				if latest != "" || w.images() != "api "+tag+"@digest, worker 0000000" {
					t.Errorf("latest %q, workloads run %s", latest, w.images())
				}
			default:
				if latest != was || records[0].Reference.Digest != was {
					t.Errorf("latest %q, released %s", latest, records[0].Reference)
				}
			}
			if w.lent != w.ended {
				t.Errorf("%d logins were lent, %d ended", w.lent, w.ended)
			}
		})
	}
}

func TestStepsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		steps    []release.Step
		outcomes string
		images   string
		watched  int
	}{
		{[]release.Step{release.Build}, "api built, worker built", before, 0},
		{[]release.Step{release.Wait}, "api unchanged, worker unchanged", before, 0},
		{[]release.Step{release.Deploy}, "api released, worker released", shipped, 0},
		{[]release.Step{release.Watch}, "api unchanged, worker unchanged", shipped, 2},
	} {
		records, err := w.run(t.Context(), c.steps)
		must(t, err)
		if outcomes(records) != c.outcomes || w.images() != c.images || len(w.cluster.watched) != c.watched {
			t.Errorf("%v: %s, %s, %v", c.steps, outcomes(records), w.images(), w.cluster.watched)
		}
	}
}

func TestWaitsUntilAllIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.tagged("api", "237c6b8", "", commit)
		plan := w.plan([]release.Step{release.Wait}, "api")
		for d := range w.registry.manifests {
			w.registry.hidden[d] = 3
		}
		r := release.New(w.config)
		began := time.Now()
		_, err := r.Run(t.Context(), plan)
		must(t, err)
		if took := time.Since(began); took == 0 || took > time.Minute {
			t.Errorf("it took %s", took)
		}
		for d := range w.registry.manifests {
			w.registry.hidden[d] = 1 << 30
		}
		began = time.Now()
		if _, err = r.Run(t.Context(), plan); problem.KindOf(err) != problem.Unreachable || !errors.Is(err, image.ErrMissing) {
			t.Errorf("waited for ever: %v", err)
		}
		if took := time.Since(began); took > 3*time.Minute {
			t.Errorf("it took %s", took)
		}
		w.registry.err = credential.ErrRefused
		began = time.Now()
		if _, err = r.Run(t.Context(), plan); !errors.Is(err, credential.ErrRefused) || time.Since(began) > 0 {
			t.Errorf("waited %s for a login that is refused: %v", time.Since(began), err)
		}
	})
}

func TestAllOrNone(t *testing.T) {
	t.Parallel()
	broken := repository("worker").String() + ":237c6b8"
	for _, c := range []struct {
		name     string
		change   func(w *world)
		log      []string
		outcomes string
		images   string
		text     string
	}{
		{name: "one does not start", change: func(w *world) { w.cluster.breaks[broken] = true }, images: before, outcomes: "api rolled-back, worker rolled-back", text: "CrashLoopBackOff",
			log: []string{"set api/api 237c6b8", "set worker/worker 237c6b8", "set worker/worker 0000000", "free worker", "set api/api 0000000", "free api"}},
		{name: "one by one", change: func(w *world) { w.cluster.breaks[broken], w.config.OneByOne = true, true }, images: before, outcomes: "api rolled-back, worker rolled-back", text: "CrashLoopBackOff",
			log: []string{"set api/api 237c6b8", "set worker/worker 237c6b8", "set worker/worker 0000000", "free worker", "set api/api 0000000", "free api"}},
		{name: "one by one, the first", change: func(w *world) {
			w.cluster.breaks[repository("api").String()+":237c6b8"], w.config.OneByOne = true, true
		}, images: before, outcomes: "api rolled-back, worker failed", text: "CrashLoopBackOff", log: []string{"set api/api 237c6b8", "set api/api 0000000", "free api"}},
		{name: "a write is lost on its way back", change: func(w *world) { w.cluster.lost[workload("worker")] = true }, images: before, outcomes: "api rolled-back, worker failed", text: "the connection was lost",
			log: []string{"set api/api 237c6b8", "set worker/worker 237c6b8", "set worker/worker 0000000", "set api/api 0000000", "free api"}},
		{name: "the way back fails too", change: func(w *world) {
			w.cluster.breaks[broken] = true
			w.cluster.breaks[repository("api").String()+":0000000"] = true
		}, images: before, outcomes: "api failed, worker failed", text: "so did the way back",
			log: []string{"set api/api 237c6b8", "set worker/worker 237c6b8", "set worker/worker 0000000", "free worker", "set api/api 0000000", "free api"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.cluster.states[workload("worker")].Annotations = map[string]string{rollout.Commit: "older"}
			c.change(w)
			records, err := w.run(t.Context(), release.All)
			if problem.KindOf(err) != problem.Partial || !strings.Contains(err.Error(), c.text) {
				t.Errorf("run: %v", err)
			}
			if c.name != "a write is lost on its way back" {
				if !errors.Is(err, rollout.ErrStuck) {
					t.Errorf("run: %v", err)
				}
				if got := outcomes(records); got != c.outcomes {
					t.Errorf("outcomes: %s", got)
				}
			}
			if got := w.images(); got != c.images {
				t.Errorf("workloads run %s", got)
			}
			if diff := cmp.Diff(c.log, w.cluster.log); diff != "" {
				t.Errorf("what was done (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]string{rollout.Commit: "older"}, w.cluster.states[workload("worker")].Annotations); diff != "" {
				t.Errorf("annotations (-want +got):\n%s", diff)
			}
			if last, err := w.journal.Released(t.Context(), "api"); last != nil || err != nil {
				t.Errorf("the journal has it released: %+v, %v", last, err)
			}
		})
	}
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.builder.err = errors.New("exit code 1")
	w.endsWith = errors.New("the source is away")
	records, err := w.run(t.Context(), release.All)
	if !errors.Is(err, w.builder.err) || !errors.Is(err, w.endsWith) || w.lent != 1 || w.ended != 1 || w.images() != before || outcomes(records) != "api failed, worker failed" {
		t.Errorf("%v, %d logins, %d ended, %s, %s", err, w.lent, w.ended, w.images(), outcomes(records))
	}
}

// slow is a journal that takes as long as it is given.
type slow struct{ release.File }

func (s slow) Append(ctx context.Context, record release.Record) error {
	return errors.Join(ctx.Err(), s.File.Append(ctx, record))
}

func TestInterruptedAmidstABuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.builder.during, w.builder.err = cancel, errors.New("interrupted")
	w.config.Journal = slow{w.journal}
	var ends error
	w.config.Login = func(context.Context, credential.Host, credential.Scopes) (credential.Credential, func(context.Context) error, error) {
		return credential.Credential{}, func(ctx context.Context) error {
			w.ended++
			ends = ctx.Err()
			return nil
		}, nil
	}
	_, err := w.run(ctx, release.All)
	if !errors.Is(err, w.builder.err) || errors.Is(err, context.Canceled) || w.ended != 1 || ends != nil {
		t.Errorf("%v; %d logins ended, in a context that is %v", err, w.ended, ends)
	}
	for record, err := range w.journal.Records() {
		if err != nil || record.Outcome != release.Failed {
			t.Errorf("journal: %+v, %v", record, err)
		}
	}
}

func TestALoginThatDoesNotEndIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endsWith = errors.New("the source is away")
	records, err := w.run(t.Context(), release.All)
	if !errors.Is(err, w.endsWith) || w.images() != shipped || outcomes(records) != "api released, worker released" {
		t.Errorf("%v, %s, %s", err, w.images(), outcomes(records))
	}
}

func TestInterruptedAmidstARollout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.hangs[repository("api").String()+":237c6b8"] = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		records, err := w.run(ctx, release.All)
		if !errors.Is(err, context.DeadlineExceeded) || w.images() != before || outcomes(records) != "api rolled-back, worker rolled-back" {
			t.Errorf("%v, %s, %s", err, w.images(), outcomes(records))
		}
		// Two rollouts were watched, and none of the way back.
		if len(w.cluster.watched) != 2 || w.lent != w.ended {
			t.Errorf("watched %v; %d logins, %d ended", w.cluster.watched, w.lent, w.ended)
		}
	})
}

func TestSomebodyElseDeploysMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.hangs[repository("api").String()+":237c6b8"] = true
		w.config.Rollout.Timeout = time.Minute
		go func() {
			time.Sleep(30 * time.Second)
			w.cluster.mu.Lock()
			defer w.cluster.mu.Unlock()
			w.cluster.states[workload("worker")].Container("worker").Image = repository("worker").String() + ":hotfix"
		}()
		_, err := w.run(t.Context(), release.All)
		if !errors.Is(err, rollout.ErrStuck) || !errors.Is(err, rollout.ErrMoved) || w.images() != "api 0000000, worker hotfix" {
			t.Errorf("%v; workloads run %s", err, w.images())
		}
	})
}

func TestRollback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := release.New(w.config)
	if _, err := r.Rollback(t.Context(), "api"); problem.KindOf(err) != problem.NotFound {
		t.Errorf("back from nothing: %v", err)
	}
	_, err := w.run(t.Context(), release.All)
	must(t, err)
	records, err := r.Rollback(t.Context())
	must(t, err)
	if w.images() != before || outcomes(records) != "api rolled-back, worker rolled-back" || len(w.cluster.watched) != 4 {
		t.Errorf("%s, %s, %v", w.images(), outcomes(records), w.cluster.watched)
	}
	if annotations := w.cluster.states[workload("api")].Annotations; len(annotations) > 0 {
		t.Errorf("annotations %v", annotations)
	}
	// What has moved since is not taken back, and neither is anything beside it.
	_, err = w.run(t.Context(), release.All, "api")
	must(t, err)
	now := w.images()
	if _, err := r.Rollback(t.Context()); !errors.Is(err, rollout.ErrMoved) || w.images() != now {
		t.Errorf("%v; workloads run %s", err, w.images())
	}
	_, err = r.Rollback(t.Context(), "api")
	must(t, err)
	if w.images() != before {
		t.Errorf("workloads run %s", w.images())
	}
}

func TestJournalAfterACrash(t *testing.T) {
	t.Parallel()
	file := release.File{Path: filepath.Join(t.TempDir(), "data", "releases.jsonl")}
	for record, err := range file.Records() {
		t.Errorf("a journal without a file has %v, %v", record, err)
	}
	must(t, file.Append(t.Context(), release.Record{Item: "api", Outcome: release.Released, Commit: "one", Reference: image.Reference{Repository: repository("api"), Tag: "one"}}))
	raw, err := os.ReadFile(file.Path)
	must(t, err)
	must(t, os.WriteFile(file.Path, append(raw, raw[:len(raw)/2]...), 0o600))
	must(t, file.Append(t.Context(), release.Record{Item: "api", Outcome: release.Failed, Commit: "two", Reference: image.Reference{Repository: repository("api"), Tag: "two"}}))
	var commits []string
	for record, err := range file.Records() {
		must(t, err)
		commits = append(commits, record.Commit)
	}
	if diff := cmp.Diff([]string{"one", "two"}, commits); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	last, err := file.Released(t.Context(), "api")
	if err != nil || last == nil || last.Commit != "one" {
		t.Errorf("released last: %+v, %v", last, err)
	}
	info, err := os.Stat(file.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
