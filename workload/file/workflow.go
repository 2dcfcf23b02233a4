package file

import "strings"

// scheme is what stands before an image where an action could stand.
const scheme = "docker://"

// workflow takes the images of a workflow, or of an action.
func (c *collector) workflow(root *node) {
	for _, job := range root.get("jobs").entries() {
		values := matrix(job.value.get("strategy").get("matrix"))
		c.container(job.value.get("container"), values)
		for _, service := range job.value.get("services").entries() {
			c.container(service.value, values)
		}
		c.takeSteps(job.value.get("steps"), values)
		if n := job.value.get("uses"); n != nil {
			c.note(n.line, "the workflow that job "+job.key+" calls is not read: name it too")
		}
		runsOn := job.value.get("runs-on")
		for _, label := range append(runsOn.elements(), runsOn) {
			// Labels of Gitea's and Forgejo's runners may name the image.
			if _, named, ok := strings.Cut(label.text(), scheme); ok {
				c.take(named, label.line, values)
			}
		}
	}
	runs := root.get("runs")
	if n := runs.get("image"); strings.HasPrefix(n.text(), scheme) {
		c.take(strings.TrimPrefix(n.text(), scheme), n.line, nil)
	} else if n != nil {
		c.note(n.line, "the action is built from "+n.text()+": name it too")
	}
	c.takeSteps(runs.get("steps"), nil)
}

func (c *collector) container(n *node, values lookup) {
	if n.isMapping() {
		named := n.get("image")
		if named == nil {
			c.unknown(n.line, "the container has no image")
			return
		}
		n = named
	}
	if n != nil {
		c.take(strings.TrimPrefix(n.text(), scheme), n.line, values)
	}
}

func (c *collector) takeSteps(steps *node, values lookup) {
	for _, step := range steps.elements() {
		if n := step.get("uses"); strings.HasPrefix(n.text(), scheme) {
			c.take(strings.TrimPrefix(n.text(), scheme), n.line, values)
		}
	}
}

// matrix is the values of "matrix.NAME"; none if an expression makes them.
func matrix(n *node) lookup {
	return func(name string) []string {
		key, ok := strings.CutPrefix(name, "matrix.")
		include := n.get("include")
		if !ok || !n.isMapping() || include != nil && !include.isList() {
			return nil
		}
		var all []string
		axis := n.get(key)
		if axis != nil && !axis.isList() {
			return nil
		}
		for _, v := range axis.elements() {
			if v == nil || v.isMapping() || v.isList() {
				return nil
			}
			all = append(all, v.text())
		}
		for _, row := range include.elements() {
			if !row.isMapping() {
				return nil
			}
			if v := row.get(key); v != nil {
				all = append(all, v.text())
			}
		}
		return all
	}
}
