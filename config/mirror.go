package config

import (
	"path"
	"strconv"
	"strings"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// Mirror is some repositories that other registries have copies of.
type Mirror struct {
	Name string
	// From is a pattern of repositories.
	From string
	// To are the places that stand for [Mirror.prefix] in the copies' names.
	To []image.Repository
	// Policy says which images are copied: those that stay by it.
	Policy    plan.Policy
	Platforms []string
	Bare      bool
	// Fixed are globs of tags that are not moved.
	Fixed []string
	// Clusters and InUse are what the rule deployed asks.
	Clusters []Cluster
	InUse    []string
	Run      Schedule
}

// prefix is the part of From that the copies' places stand for: what comes before
// its first wildcard, or all but the last part.
func (m Mirror) prefix() string {
	parts := strings.Split(m.From, "/")
	n := len(parts) - 1
	for i, part := range parts {
		if image.Wild(part) {
			n = i
			break
		}
	}
	return strings.Join(parts[:n], "/")
}

// Copies are the places of the copies of a repository.
func (m Mirror) Copies(of image.Repository) []image.Repository {
	rest := strings.TrimPrefix(strings.TrimPrefix(of.String(), m.prefix()), "/")
	var copies []image.Repository
	for _, to := range m.To {
		copies = append(copies, image.Repository{Host: to.Host, Path: path.Join(to.Path, rest)})
	}
	return copies
}

// IsFixed says whether a tag must not be moved at the copies.
func (m Mirror) IsFixed(tag string) bool {
	for _, pattern := range m.Fixed {
		if ok, err := path.Match(pattern, tag); err != nil || ok {
			return true
		}
	}
	return false
}

func (b builder) mirror(text mirrorText, at []string) Mirror {
	in := func(keys ...string) []string { return append(at[:len(at):len(at)], keys...) }
	mirror := Mirror{
		Name: text.Name, From: text.From, Platforms: text.Platforms, Bare: text.Bare, Fixed: text.Fixed,
		Policy: plan.Policy{Rules: b.rules(text.Select, in("select"))},
		Run:    Schedule{Every: b.duration(text.Run.Every, 0, in("run", "every")...), Cron: b.cron(text.Run.Cron, in("run", "cron"))},
	}
	b.repositories(text.From, in("from"), 0)
	for i, name := range text.To {
		to, err := image.ParseRepository(name)
		if err != nil {
			b.addErr(in("to", strconv.Itoa(i)), err)
			continue
		}
		mirror.To = append(mirror.To, to)
		if to.String() == mirror.prefix() {
			b.add("name another place", in("to", strconv.Itoa(i)), "%s would be copied onto itself", text.From)
		}
	}
	for i, pattern := range text.Fixed {
		if _, err := path.Match(pattern, ""); err != nil {
			b.add(`write it as "v*"`, in("fixed", strconv.Itoa(i)), "pattern %q cannot be read", pattern)
		}
	}
	mirror.Clusters, mirror.InUse = b.deployed(mirror.Policy.Rules, text.Kubeconfig, text.Contexts, text.InUse, at)
	return mirror
}
