package config

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/robfig/cron/v3"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// Images is how some repositories are kept in order.
type Images struct {
	// Matches are patterns of repositories. See [image.Repository.Matches].
	Matches []string
	Policy  plan.Policy
	// Clusters are asked what is deployed; none if no rule asks.
	Clusters []Cluster
	// InUse are files, or patterns of files, that name images in use.
	InUse []string
	// MaxDeletes is how many images of a repository one run may delete, MaxShare
	// how much of them, from 0 to 1.
	MaxDeletes int
	MaxShare   float64
	// Rate is how many deletions there may be per second; 0 for no limit.
	Rate float64
	// Prune is when the daemon prunes.
	Prune Schedule
}

// Schedule is when something is done again and again; zero for never.
type Schedule struct {
	Every time.Duration
	Cron  cron.Schedule
}

// Defaults of images. The schema names them too.
const (
	DefaultGrace      = 24 * time.Hour
	DefaultMaxDeletes = 100
	DefaultMaxShare   = 50 // percent
	DefaultRate       = 20
)

// Covering returns the first entry that covers a repository; nil if none does.
func (c Config) Covering(repository image.Repository) *Images {
	for i, images := range c.Images {
		for _, pattern := range images.Matches {
			if repository.Matches(pattern) {
				return &c.Images[i]
			}
		}
	}
	return nil
}

func (b builder) images(text imagesText, at []string) Images {
	in := func(keys ...string) []string { return append(at[:len(at):len(at)], keys...) }
	images := Images{
		Matches:    text.Matches,
		MaxDeletes: orValue(text.MaxDeletes, DefaultMaxDeletes),
		MaxShare:   float64(orValue(text.MaxShare, DefaultMaxShare)) / 100,
		Rate:       float64(orValue(text.Rate, DefaultRate)),
		Policy:     plan.Policy{Grace: b.duration(text.Grace, DefaultGrace, in("grace")...)},
		Prune:      Schedule{Every: b.duration(text.Prune.Every, 0, in("prune", "every")...), Cron: b.cron(text.Prune.Cron, in("prune", "cron"))},
	}
	if text.Match != "" {
		images.Matches = append([]string{text.Match}, images.Matches...)
	}
	if len(images.Matches) == 0 {
		b.add("add match: gitea.example.com/admin/*", at, "the entry covers no repository")
	}
	for i, pattern := range images.Matches {
		b.repositories(pattern, in("match"), i)
	}
	images.Policy.Rules = b.rules(text.Keep, in("keep"))
	images.Clusters, images.InUse = b.deployed(images.Policy.Rules, text.Kubeconfig, text.Contexts, text.InUse, at)
	return images
}

func (b builder) rules(texts []ruleText, at []string) []plan.Rule {
	var rules []plan.Rule
	for i, text := range texts {
		rules = append(rules, b.rule(text, append(at[:len(at):len(at)], strconv.Itoa(i))))
	}
	return rules
}

// deployed is what the rule deployed asks: clusters, and files.
func (b builder) deployed(rules []plan.Rule, kubeconfig string, contexts, files []string, at []string) ([]Cluster, []string) {
	in := func(keys ...string) []string { return append(at[:len(at):len(at)], keys...) }
	var paths []string
	for i, file := range files {
		paths = append(paths, resolvePath(b.base, file))
		if _, err := path.Match(paths[i], ""); err != nil {
			b.add(`write it as "deploy/*.yaml"`, in("inUse", strconv.Itoa(i)), "pattern %q cannot be read", file)
		}
	}
	if slices.ContainsFunc(rules, func(rule plan.Rule) bool { return rule.Deployed }) {
		return b.clusters(kubeconfig, contexts), paths
	}
	if kubeconfig != "" || len(contexts) > 0 || len(files) > 0 {
		b.add("add {deployed: true} to the rules", at, "clusters or files in use are named, and no rule asks what is deployed")
	}
	return nil, paths
}

// repositories refuses a pattern that covers nothing because of how it is written.
func (b builder) repositories(pattern string, at []string, i int) {
	if i > 0 {
		at = append(at[:len(at)-1:len(at)-1], "matches", strconv.Itoa(i))
	}
	if _, err := path.Match(strings.ReplaceAll(pattern, "**", "*"), ""); err != nil {
		b.add(`write it as "gitea.example.com/admin/*"`, at, "pattern %q cannot be read", pattern)
	}
	if !image.Wild(pattern) {
		if _, err := image.ParseRepository(pattern); err != nil {
			b.addErr(at, err)
		}
	}
}

func (b builder) rule(text ruleText, at []string) plan.Rule {
	in := func(key string) []string { return append(at[:len(at):len(at)], key) }
	rule := plan.Rule{
		Last: text.Last, Pattern: text.Pattern, Deployed: text.Deployed,
		NewerThan:    b.duration(text.NewerThan, 0, in("newerThan")...),
		PulledWithin: b.duration(text.PulledWithin, 0, in("pulledWithin")...),
	}
	if _, err := path.Match(text.Pattern, ""); err != nil {
		b.add(`write it as "v*"`, in("pattern"), "pattern %q cannot be read", text.Pattern)
	}
	var err error
	if text.Regex != "" {
		if rule.Regex, err = regexp.Compile(text.Regex); err != nil {
			b.add(`write it as "release-[0-9]+" (RE2)`, in("regex"), "regular expression %q cannot be read: %v", text.Regex, err)
		}
	}
	if text.Semver != "" {
		if rule.Semver, err = semver.NewConstraint(text.Semver); err != nil {
			b.add(`write it as ">=1.2 <3"`, in("semver"), "range %q cannot be read: %v", text.Semver, err)
		}
	}
	refs := text.Branches
	if text.Branch != "" {
		refs = append([]string{text.Branch}, refs...)
	}
	switch {
	case len(refs) > 0:
		rule.Branch = &plan.Branch{Git: resolvePath(b.base, or(text.Git, ".")), Refs: refs}
	case text.Git != "":
		b.add("add branch: main", in("git"), "a git repository is named, and no branch")
	}
	if rule.Last > 0 && rule.Deployed {
		b.add("make two rules of it: {last: 30} and {deployed: true}", at, "the rule would let go of what is deployed and not among the last %d", rule.Last)
	}
	if rule.String() == (plan.Rule{}).String() {
		b.add("name a condition, for example {last: 30}", at, "the rule has no condition, and would keep everything")
	}
	return rule
}

func orValue(value *int, fallback int) int {
	if value == nil {
		return fallback
	}
	return *value
}
