package release_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release"
	"github.com/regkeeper/regkeeper/release/rollout"
)

// text is a plan's item as lines.
func text(p release.Planned) string {
	lines := []string{p.Name + " " + p.Reference.Tag}
	for _, a := range p.Actions {
		lines = append(lines, a.String())
	}
	for _, s := range p.Sets {
		line := fmt.Sprintf("set %s/%s %s -> %s", s.Name, s.Container, short(s.From), short(s.To))
		if s.Pinned {
			line += " pinned"
		}
		lines = append(lines, line)
	}
	for _, why := range p.Refused {
		lines = append(lines, "refused: "+why)
	}
	for _, note := range p.Notes {
		lines = append(lines, "note: "+note)
	}
	return strings.Join(lines, "\n")
}

func TestPlans(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(w *world)
		steps  []release.Step
		want   string
	}{
		{name: "a commit nobody has built", steps: release.All, want: `
api 237c6b8
build: tag 237c6b8 is not in the registry
wait: until the registry serves 237c6b8 and all its parts
deploy: 1 of 1 workloads have another image
watch: back to the images before if they do not roll out in 5m0s
set api/api 0000000 -> 237c6b8
note: built by a fake builder`},
		{name: "built already", steps: release.All, change: func(w *world) { w.tagged("api", "237c6b8", "", commit) }, want: `
api 237c6b8
no build: already built of this commit
wait: until the registry serves 237c6b8 and all its parts
deploy: 1 of 1 workloads have another image
watch: back to the images before if they do not roll out in 5m0s
set api/api 0000000 -> 237c6b8`},
		{name: "built and deployed already", steps: release.All, change: func(w *world) {
			w.tagged("api", "237c6b8", "", commit)
			w.cluster.states[workload("api")].Container("api").Image = repository("api").String() + ":237c6b8"
		}, want: `
api 237c6b8
no build: already built of this commit
wait: until the registry serves 237c6b8 and all its parts
no deploy: the workloads have the image
watch: as they roll
set api/api 237c6b8 -> 237c6b8`},
		{name: "built already, again", steps: []release.Step{release.Build}, change: func(w *world) {
			w.tagged("api", "237c6b8", "", commit)
			w.config.Rebuild, w.config.Latest = true, true
		}, want: `
api 237c6b8
build: asked to build again: the tag stays if that gives the same image
no wait: not asked for
no deploy: not asked for
no watch: not asked for
note: built by a fake builder
note: tag latest follows`},
		{name: "the tag tells no commit", steps: []release.Step{release.Build}, change: func(w *world) { w.tagged("api", "237c6b8", "", "") }, want: `
api 237c6b8
build: tag 237c6b8 does not tell its commit: it stays if the build gives the same image
no wait: not asked for
no deploy: not asked for
no watch: not asked for
note: built by a fake builder`},
		{name: "the tag is of another commit", steps: []release.Step{release.Build}, change: func(w *world) { w.tagged("api", "237c6b8", "", other) }, want: `
api 237c6b8
no build: tag 237c6b8 is taken
no wait: not asked for
no deploy: not asked for
no watch: not asked for
refused: tag 237c6b8 is of commit ` + other + `, not of ` + commit + `: a tag does not move`},
		{name: "the tag lacks a platform", steps: []release.Step{release.Build}, change: func(w *world) {
			w.tagged("api", "237c6b8", "", commit)
			w.config.Items[0].Job.Platforms = []string{"linux/amd64", "linux/arm64/v8", "linux/arm/v7"}
		}, want: `
api 237c6b8
no build: tag 237c6b8 is taken
no wait: not asked for
no deploy: not asked for
no watch: not asked for
refused: tag 237c6b8 is built already, without linux/arm/v7: a tag does not move; commit the change of platforms`},
		{name: "a dirty tree", steps: []release.Step{release.Build}, change: func(w *world) {
			w.source.revision.Dirty, w.source.revision.Content = []string{"main.go", "new.txt"}, "0a1b2c3d"
		}, want: `
api 237c6b8-dirty-0a1b2c3d
build: the tree is not as committed
no wait: not asked for
no deploy: not asked for
no watch: not asked for
refused: the tree is not as committed: main.go, new.txt (commit, ignore or stash them, or allow a dirty release)
note: built by a fake builder`},
		{name: "a dirty tree that is allowed", steps: release.All, change: func(w *world) {
			w.source.revision.Dirty, w.source.revision.Content = []string{"main.go"}, "0a1b2c3d"
			w.config.AllowDirty, w.config.Latest = true, true
			w.tagged("api", "237c6b8-dirty-0a1b2c3d", "", "")
		}, want: `
api 237c6b8-dirty-0a1b2c3d
build: the tree is not as committed
wait: until the registry serves 237c6b8-dirty-0a1b2c3d and all its parts
deploy: 1 of 1 workloads have another image
watch: back to the images before if they do not roll out in 5m0s
set api/api 0000000 -> 237c6b8-dirty-0a1b2c3d pinned
note: the tree is not as committed in 1 files: the tag tells, and workloads run it by digest
note: built by a fake builder`},
		{name: "deploy alone", steps: []release.Step{release.Deploy}, change: func(w *world) {
			w.tagged("api", "237c6b8", "", commit)
			w.config.Items[0].Pin = true
		}, want: `
api 237c6b8
no build: not asked for
no wait: not asked for
deploy: 1 of 1 workloads have another image
no watch: not asked for
set api/api 0000000 -> 237c6b8@digest pinned`},
		{name: "deploy what is not there", steps: []release.Step{release.Deploy}, want: `
api 237c6b8
no build: not asked for
no wait: not asked for
deploy: 1 of 1 workloads have another image
no watch: not asked for
set api/api 0000000 -> 237c6b8
refused: gitea.example.com/admin/honeydue-api:237c6b8 is not in the registry: build it first`},
		{name: "workloads that cannot take it", steps: []release.Step{release.Build, release.Deploy}, change: func(w *world) {
			api := w.cluster.states[workload("api")]
			api.Paused, api.Replicas, api.Manual = true, 0, true
			w.cluster.states[workload("batch")] = &rollout.State{Containers: []rollout.Container{{Name: "a", Image: "x"}, {Name: "b", Image: "y"}}}
			w.config.Items[0].Workloads = append(w.config.Items[0].Workloads,
				release.Workload{Workload: workload("gone")}, release.Workload{Workload: workload("worker"), Container: "apl"}, release.Workload{Workload: workload("batch")})
		}, want: `
api 237c6b8
build: tag 237c6b8 is not in the registry
no wait: not asked for
deploy: 1 of 4 workloads have another image
no watch: not asked for
set api/api 0000000 -> 237c6b8
refused: deployment/api in namespace honeydue is paused: kubectl -n honeydue rollout resume deployment/api
refused: deployment/gone in namespace honeydue is not there
refused: deployment/worker in namespace honeydue has no container apl: it has worker, sidecar
refused: deployment/batch in namespace honeydue has 0 containers of gitea.example.com/admin/honeydue-api: name the one (a, b)
note: built by a fake builder
note: pods of deployment/api in namespace honeydue take the image when somebody deletes them (OnDelete)
note: deployment/api in namespace honeydue has no pods: nothing shows that the image runs`},
		{name: "the tag alone", change: func(w *world) { w.registry.err = errors.New("not asked") }, want: `
api 237c6b8`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if c.change != nil {
				c.change(w)
			}
			plan := w.plan(c.steps, "api")
			got := text(plan.Items[0])
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			changes := strings.Contains("\n"+c.want, "\nbuild: ") || strings.Contains("\n"+c.want, "\ndeploy: ")
			if (plan.Pending() > 0) != changes {
				t.Errorf("%d steps are pending", plan.Pending())
			}
			if refused := strings.Contains(c.want, "refused:"); (plan.Err() != nil) != refused {
				t.Errorf("refused: %v", plan.Err())
			}
			if w.lent != 0 || len(w.registry.writes) != 0 || len(w.cluster.log) != 0 || len(w.builder.jobs) != 0 {
				t.Errorf("a plan changes things: %d logins, %v, %v", w.lent, w.registry.writes, w.cluster.log)
			}
			if plan.Err() == nil {
				return
			}
			if _, err := release.New(w.config).Run(t.Context(), plan); problem.KindOf(err) != problem.Refused || len(w.builder.jobs)+len(w.cluster.log)+w.lent != 0 {
				t.Errorf("what is refused was run: %v", err)
			}
		})
	}
}

func TestConfigurationsThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*release.Config)
		names  []string
		steps  []release.Step
		kind   problem.Kind
	}{
		"no such item":   {names: []string{"apl"}, kind: problem.NotFound},
		"no item":        {change: func(c *release.Config) { c.Items = nil }, kind: problem.Config},
		"two of a name":  {change: func(c *release.Config) { c.Items[1].Name = "api" }, kind: problem.Config},
		"one repository": {change: func(c *release.Config) { c.Items[1].Job.Repository = c.Items[0].Job.Repository }, kind: problem.Config},
		"one workload":   {change: func(c *release.Config) { c.Items[1].Workloads = c.Items[0].Workloads }, kind: problem.Config},
		"no such step":   {steps: []release.Step{"push"}, kind: problem.Usage},
	} {
		w := newWorld(t)
		if c.change != nil {
			c.change(&w.config)
		}
		if _, err := release.New(w.config).Plan(t.Context(), c.steps, c.names...); problem.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlanFailsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.registry.err = errors.New("bad gateway")
	if _, err := release.New(w.config).Plan(t.Context(), release.All); err == nil || !strings.Contains(err.Error(), "bad gateway") {
		t.Errorf("planned past a registry that does not answer: %v", err)
	}
}
