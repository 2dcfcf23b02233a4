package file

import (
	"cmp"
	"slices"
)

// noWorkloads are kinds in which a field called "image" is anything.
var noWorkloads = []string{"ConfigMap", "Secret", "CustomResourceDefinition"}

// kubernetes takes each field that is called "image": the kinds of workloads are
// many, and not all are known here.
func (c *collector) kubernetes(n *node) {
	if c.steps++; c.steps > maxSteps || n == nil {
		return
	}
	for _, item := range n.items {
		c.kubernetes(item)
	}
	if n.get("apiVersion") != nil {
		kind := n.get("kind").text()
		if slices.Contains(noWorkloads, kind) {
			return
		}
		if kind == "Kustomization" {
			c.kustomization(n)
			return
		}
	}
	for _, e := range n.fields {
		switch {
		case e.key == "metadata" && n.get("kind") != nil:
			continue
		case e.key == "rbd": // its image is a disk
			continue
		case e.key == "image" && e.value.isMapping():
			c.assembled(e.value)
		case e.key == "image" && !e.value.isList():
			c.take(e.value.text(), e.line, nil)
		}
		c.kubernetes(e.value)
	}
}

// assembled takes a name that is written in parts.
func (c *collector) assembled(n *node) {
	text := cmp.Or(n.get("reference").text(), n.get("repository").text(), n.get("name").text())
	if text == "" {
		return
	}
	if host := n.get("registry").text(); host != "" {
		text = host + "/" + text
	}
	c.take(text+tagged(n.get("tag"), n.get("digest")), n.line, nil)
}

func tagged(tag, digest *node) (text string) {
	if tag.text() != "" {
		text = ":" + tag.text()
	}
	if digest.text() != "" {
		text += "@" + digest.text()
	}
	return text
}

// kustomization takes the images that it puts in place of others (Kustomize
// documentation, "images"). Which tag one has that it does not say is written
// in the manifests.
func (c *collector) kustomization(n *node) {
	for _, key := range []string{"resources", "bases", "components", "helmCharts"} {
		if list := n.get(key); list != nil {
			c.note(list.line, "files that it includes are not read: name what `kustomize build` prints")
		}
	}
	for _, i := range n.get("images").elements() {
		name := cmp.Or(i.get("newName").text(), i.get("name").text())
		suffix := tagged(i.get("newTag"), i.get("digest"))
		if suffix == "" {
			suffix = ":" + hole
		}
		if name != "" {
			c.take(name+suffix, i.line, nil)
		}
	}
}
