package file

import "strings"

// compose takes the images of a Compose file.
func (c *collector) compose(root *node) {
	if n := root.get("include"); n != nil {
		c.note(n.line, "files that it includes are not read: name them too")
	}
	for _, service := range root.get("services").entries() {
		if n := service.value.get("image"); n != nil {
			c.take(n.text(), n.line, nil)
		}
		if n := service.value.get("extends").get("file"); n != nil {
			c.note(n.line, "service "+service.key+" extends one of "+n.text()+": name that file too")
		}
		if build := service.value.get("build"); build != nil {
			c.note(build.line, "service "+service.key+" is built: name its Dockerfile too")
			contexts := build.get("additional_contexts")
			for _, e := range contexts.entries() {
				c.context(e.value.text(), e.line)
			}
			for _, n := range contexts.elements() {
				if _, value, ok := strings.Cut(n.text(), "="); ok {
					c.context(value, n.line)
				}
			}
		}
		for _, volume := range service.value.get("volumes").elements() {
			if volume.get("type").text() == "image" {
				n := volume.get("source")
				if n == nil {
					c.unknown(volume.line, "the image volume has no source")
					continue
				}
				c.take(n.text(), n.line, nil)
			}
		}
	}
}

// context takes a context of a build that is an image.
func (c *collector) context(text string, line int) {
	if named, ok := strings.CutPrefix(text, "docker-image://"); ok {
		c.take(named, line, nil)
	}
}
