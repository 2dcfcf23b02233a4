package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/workload/cluster"
	"github.com/regkeeper/regkeeper/workload/file"
	"github.com/regkeeper/regkeeper/workload/git"
)

// Facts gathers what rules ask besides the registry: the clusters and files that
// use images, and the branches. What could not be found out is told in them, and
// keeps images.
func Facts(ctx context.Context, rules []plan.Rule, clusters []config.Cluster, files []string, data *Data) plan.Facts {
	facts := plan.Facts{Now: time.Now(), Histories: map[string]plan.History{}}
	for _, which := range clusters {
		opened, err := data.clusters.get(which)
		if err != nil {
			facts.UsesUnknown = append(facts.UsesUnknown, err.Error())
			continue
		}
		uses, unknown := cluster.New(cluster.Config{Cluster: opened, Name: called(which)}).Uses(ctx)
		if len(uses) == 0 && len(unknown) == 0 {
			unknown = []string{cmp.Or(called(which), "the current context's cluster") + " uses no image at all: it may be the wrong one"}
		}
		facts.Uses = append(facts.Uses, uses...)
		facts.UsesUnknown = append(facts.UsesUnknown, unknown...)
		facts.Notes = append(facts.Notes, fmt.Sprintf("asked %s: %d uses of images", cmp.Or(called(which), "the current context's cluster"), len(uses)))
	}
	for _, pattern := range files {
		inUse(pattern, &facts)
	}
	for _, rule := range rules {
		if rule.Branch == nil {
			continue
		}
		commits, err := git.New(git.Config{}).Commits(ctx, rule.Branch.Git, rule.Branch.Refs)
		history := plan.History{Commits: commits}
		if err != nil {
			history.Unknown = err.Error()
		}
		facts.Histories[rule.Branch.String()] = history
	}
	return facts
}

// Uses asks anew what is in use; nil if no rule asks.
func Uses(images config.Images, data *Data) func(ctx context.Context) ([]image.Use, []string) {
	if len(images.Clusters) == 0 && len(images.InUse) == 0 {
		return nil
	}
	return func(ctx context.Context) ([]image.Use, []string) {
		facts := Facts(ctx, nil, images.Clusters, images.InUse, data)
		return facts.Uses, facts.UsesUnknown
	}
}

// called is a cluster as people know it; empty for the usual one.
func called(which config.Cluster) string {
	if which.Context == "" {
		return ""
	}
	return "context " + which.Context
}

// inUse adds the images that files name. A pattern that no file matches may be
// written wrong: what it means is not known.
func inUse(pattern string, facts *plan.Facts) {
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		facts.UsesUnknown = append(facts.UsesUnknown, fmt.Sprintf("no file is %s", pattern))
		return
	}
	for _, path := range paths {
		found, err := file.New(file.Config{}).Read(path)
		if err != nil {
			facts.UsesUnknown = append(facts.UsesUnknown, err.Error())
			continue
		}
		facts.Uses = append(facts.Uses, found.Uses...)
		for _, open := range found.Open {
			facts.Uses = append(facts.Uses, image.Use{Reference: image.Reference{Repository: open.Repository}, Where: open.Where})
		}
		facts.UsesUnknown = append(facts.UsesUnknown, found.Unknown...)
		facts.Notes = append(facts.Notes, found.Notes...)
	}
}

// PlanPrune reads a repository and decides what of it goes.
func PlanPrune(ctx context.Context, registry image.Reader, repository image.Repository, policy plan.Policy, facts plan.Facts, ledger lifecycle.Ledger, how lifecycle.Reading) (*plan.Plan, error) {
	how.Dates = true
	for _, use := range facts.Uses {
		if use.Reference.Digest != "" && plan.SamePath(use.Reference.Repository, repository) {
			how.Also = append(how.Also, use.Reference.Digest)
		}
	}
	var err error
	if facts.Deleted, err = ledger.Deleted(ctx, repository); err != nil {
		return nil, err
	}
	// What was being deleted when a run was cut off may be there still.
	how.Also = slices.AppendSeq(how.Also, maps.Keys(facts.Deleted))
	inventory, err := lifecycle.Read(ctx, registry, repository, how)
	if err != nil {
		return nil, err
	}
	return plan.Decide(policy, inventory, facts), nil
}

// pruneJobs are the entries of the configuration that the daemon prunes by.
func pruneJobs(c config.Config, data *Data, log *slog.Logger) []daemon.Job {
	var jobs []daemon.Job
	for i, images := range c.Images {
		next := due(images.Prune)
		if next == nil {
			continue
		}
		name := fmt.Sprintf("prune images[%d]", i)
		jobs = append(jobs, daemon.Job{Name: name, Next: next, Run: func(ctx context.Context) error {
			run := &pruneRun{config: c, images: &c.Images[i], data: data, log: log.With("job", name), began: time.Now()}
			return errors.Join(run.run(ctx), run.report())
		}})
	}
	return jobs
}

// due is when a schedule has something done; nil for never.
func due(schedule config.Schedule) func(after time.Time) time.Time {
	switch {
	case schedule.Cron != nil:
		return func(after time.Time) time.Time { return schedule.Cron.Next(after.Local()) }
	case schedule.Every > 0:
		return daemon.Every(schedule.Every)
	}
	return nil
}

// pruneRun is one run of a job that prunes.
type pruneRun struct {
	config config.Config
	images *config.Images
	data   *Data
	log    *slog.Logger
	began  time.Time
	done   []Pruned
}

// Pruned is what a report has of one repository.
type Pruned struct {
	Plan   *plan.Plan       `json:"plan"`
	Result lifecycle.Pruned `json:"result"`
	Error  string           `json:"error,omitempty"`
}

func (r *pruneRun) run(ctx context.Context) (err error) {
	registries := OpenRegistries(r.config, r.data)
	defer func() { err = errors.Join(err, registries.Close(ctx)) }()
	cache := Cache(r.data.Folder)
	defer cache.Trim()
	facts := Facts(ctx, r.images.Policy.Rules, r.images.Clusters, r.images.InUse, r.data)
	var errs []error
	for _, host := range hostsOf(r.images.Matches) {
		reader, err := registries.Reader(host)
		if err != nil {
			return err
		}
		for repository, err := range lifecycle.Repositories(ctx, reader, host, r.images.Matches...) {
			if err != nil {
				errs = append(errs, err)
				break
			}
			if r.config.Covering(repository) != r.images {
				continue // an entry before it counts
			}
			errs = append(errs, r.repository(ctx, registries, repository, facts, lifecycle.Reading{Cache: cache}))
		}
	}
	return errors.Join(errs...)
}

// hostsOf are the registries of patterns, in their order.
func hostsOf(patterns []string) []credential.Host {
	var hosts []credential.Host
	for _, pattern := range patterns {
		if host, err := image.HostOf(pattern); err == nil && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

func (r *pruneRun) repository(ctx context.Context, registries *Registries, repository image.Repository, facts plan.Facts, how lifecycle.Reading) error {
	registry, err := registries.Changer(repository.Host)
	if err != nil {
		return err
	}
	ledger := Ledger(r.data.Folder)
	made, err := PlanPrune(ctx, registry, repository, r.images.Policy, facts, ledger, how)
	if err != nil {
		return err
	}
	for _, u := range made.Unread {
		r.log.Warn("not read; nothing of the repository goes", "repository", repository, "what", u.What, "why", u.Why)
	}
	result, err := lifecycle.Apply(ctx, registry, made, lifecycle.Pruning{
		Limits: lifecycle.Limits{Images: r.images.MaxDeletes, Share: r.images.MaxShare}, Rate: r.images.Rate, Ledger: ledger, Reading: how,
		Uses: Uses(*r.images, r.data),
	})
	all, gone := made.Tagged()
	r.log.Info("pruned", "repository", repository, "images", all, "gone", gone, "deleted", result.Deleted, "left", len(result.Skipped), "failed", len(result.Failed), "frees", made.Frees)
	if err == nil {
		err = result.Err("the next run tries again")
	}
	done := Pruned{Plan: made, Result: result}
	if err != nil {
		done.Error = err.Error()
	}
	r.done = append(r.done, done)
	return err
}

// The folder of reports, and how many are kept.
const (
	reportsName = "reports"
	mostReports = 30
)

// report writes what was done, and takes the oldest reports away.
func (r *pruneRun) report() error {
	if len(r.done) == 0 {
		return nil
	}
	folder := filepath.Join(r.data.Folder, reportsName)
	if err := os.MkdirAll(folder, disk.PrivateFolder); err != nil {
		return disk.Problem(err, "make folder %s", folder)
	}
	raw, err := json.MarshalIndent(r.done, "", "  ")
	if err != nil {
		return err
	}
	name := "prune-" + r.began.UTC().Format("20060102T150405.000000Z") + ".json"
	if err := disk.WriteFile(filepath.Join(folder, name), append(raw, '\n'), disk.PrivateFile); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(folder, "prune-*.json"))
	slices.Sort(old) // the names are by time
	for len(old) > mostReports {
		err = cmp.Or(err, os.Remove(old[0]))
		old = old[1:]
	}
	return err
}
