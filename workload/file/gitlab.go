package file

import (
	"slices"
	"strings"
)

// notJobs are the keys at the top of a pipeline that are no jobs (GitLab
// documentation, "CI/CD YAML syntax reference", global keywords).
var notJobs = []string{"default", "include", "stages", "types", "variables", "workflow", "cache", "spec", "image", "services", "before_script", "after_script"}

// maxExtends is how deep GitLab lets jobs extend jobs.
const maxExtends = 11

// pipeline is one document.
type pipeline struct {
	*collector
	root *node
	// taken are the images and services that some job has.
	taken map[*node]bool
}

// gitlab takes the images of a pipeline: those of each job with the variables of
// that job, and then those that no job of this file has.
func (c *collector) gitlab(root *node) {
	p := &pipeline{c, root, map[*node]bool{}}
	p.includes(root.get("include"))
	var templates []entry
	for _, job := range root.entries() {
		switch {
		case !job.value.isMapping() || slices.Contains(notJobs, job.key):
		case strings.HasPrefix(job.key, "."):
			templates = append(templates, job)
		default:
			p.includes(job.value.get("trigger").get("include"))
			p.job(job)
		}
	}
	for _, job := range templates {
		for _, key := range []string{"image", "services"} {
			if n := job.value.get(key); n != nil && !p.taken[n] {
				p.images(n, p.values(p.chain(job)))
			}
		}
	}
	for _, from := range []*node{root.get("default"), root} {
		for _, key := range []string{"image", "services"} {
			if n := from.get(key); n != nil && !p.taken[n] {
				p.images(n, p.values(nil))
			}
		}
	}
}

func (p *pipeline) includes(n *node) {
	if n != nil {
		p.note(n.line, "files that it includes are not read: name them too")
	}
}

// job takes what a job has by itself, by the jobs that it extends, or by
// default.
func (p *pipeline) job(job entry) {
	chain := p.chain(job)
	values := p.values(chain)
	for _, key := range []string{"image", "services"} {
		for _, from := range append(slices.Clone(chain), p.root.get("default"), p.root) {
			if n := from.get(key); n != nil {
				p.taken[n] = true
				p.images(n, values)
				break
			}
		}
	}
}

// chain is a job and those that it extends, what counts first before the other.
func (p *pipeline) chain(job entry) []*node {
	var chain []*node
	var follow func(n *node, depth int)
	follow = func(n *node, depth int) {
		if p.steps++; depth > maxExtends || p.steps > maxSteps || slices.Contains(chain, n) {
			return
		}
		chain = append(chain, n)
		extends := n.get("extends")
		parents := extends.elements()
		if extends != nil && !extends.isList() {
			parents = []*node{extends}
		}
		for _, parent := range slices.Backward(parents) { // the last counts first
			if found := p.root.get(parent.text()); found.isMapping() {
				follow(found, depth+1)
			} else {
				p.note(extends.line, "job "+job.key+" extends "+parent.text()+", which is not in this file: name the file that it is in too")
			}
		}
	}
	follow(job.value, 0)
	return chain
}

// values are those of the variables of a job: what it sets, what its rules or
// its matrix may set, and what is set for all jobs. Of the first two, all that
// they may be.
func (p *pipeline) values(chain []*node) lookup {
	return func(name string) []string {
		var all []string
		for _, n := range chain {
			if v := n.get("variables").get(name); v != nil {
				all = append(all, setTo(v)...)
				break
			}
		}
		if all == nil {
			all = append(all, setTo(p.root.get("variables").get(name))...)
		}
		for _, n := range append(slices.Clone(chain), p.root.get("workflow")) {
			for _, rule := range n.get("rules").elements() {
				all = append(all, setTo(rule.get("variables").get(name))...)
			}
		}
		for _, n := range chain {
			for _, row := range n.get("parallel").get("matrix").elements() {
				v := row.get(name)
				all = append(all, setTo(v)...)
				for _, item := range v.elements() {
					all = append(all, setTo(item)...)
				}
			}
		}
		return all
	}
}

// setTo is all that a variable may be: it may be one of several, for whoever
// starts the pipeline to choose.
func setTo(v *node) []string {
	switch {
	case v == nil:
		return nil
	case v.isMapping():
		var all []string
		for _, n := range append([]*node{v.get("value")}, v.get("options").elements()...) {
			if n != nil {
				all = append(all, n.text())
			}
		}
		return all
	case v.isList():
		return nil
	}
	return []string{v.text()}
}

// images takes an image, or a list of services.
func (p *pipeline) images(n *node, values lookup) {
	if p.steps++; p.steps > maxSteps || n == nil {
		return
	}
	switch {
	case n.tag == "!reference":
		if found := p.reference(n); found != nil {
			p.taken[found] = true
			p.images(found, values)
		} else {
			p.unknown(n.line, "what !reference names is not in this file")
		}
	case n.isList():
		for _, item := range n.items {
			p.images(item, values)
		}
	case n.isMapping():
		name := n.get("name")
		if name.text() == "" {
			p.unknown(n.line, "the image has no name")
			return
		}
		p.take(name.text(), name.line, values)
	default:
		p.take(n.text(), n.line, values)
	}
}

// reference is what "!reference [job, key]" names. One that leads to another
// is not followed.
func (p *pipeline) reference(n *node) *node {
	found := p.root
	for _, key := range n.elements() {
		found = found.get(key.text())
	}
	if found == nil || found.tag == "!reference" || found == p.root {
		return nil
	}
	return found
}
