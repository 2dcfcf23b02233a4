package cli

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/lifecycle"
)

// inspected is a manifest with what it leads to and what belongs to it.
type inspected struct {
	*image.Manifest
	Missing  bool          `json:"missing,omitempty"`
	Tags     []string      `json:"tags,omitempty"`
	Kind     string        `json:"kind"`
	Attests  digest.Digest `json:"attests,omitempty"`
	Parts    []inspected   `json:"parts,omitempty"`
	Attached []inspected   `json:"attached,omitempty"`
}

func newImageInspect(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show what an image is made of, and what belongs to it",
		Long: `Inspect shows the tree below an image: its platforms, their layers, attestations, and
the signatures, SBOMs and other referrers of each of them.`,
		Example: example("regkeeper image inspect gitea.example.com/admin/api:237c6b8", "regkeeper image inspect docker.io/library/alpine@sha256:... -o json"),
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			ctx := c.Context()
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			ref, reader, err := r.reference(args[0])
			if err != nil {
				return err
			}
			inventory, root, err := lifecycle.ReadImage(ctx, reader, ref, lifecycle.Reading{Cache: r.cache, Dates: true, Configs: true})
			if err != nil {
				return missing(err, ref)
			}
			r.unread(inventory)
			tree := inspect(inventory, inventory.Graph(), root, map[digest.Digest]bool{})
			if e.json() {
				return e.printJSON(tree)
			}
			e.printf("%s\n", ref)
			rows := [][]string{}
			tree.rows(&rows, "", "")
			return e.table("PART DIGEST SIZE BUILT", rows)
		},
	}
}

// inspect is the tree of a manifest. What stands in it several times has its parts
// at the first: an index can name one so often that all would have no end.
func inspect(inventory *image.Inventory, graph *image.Graph, d digest.Digest, seen map[digest.Digest]bool) inspected {
	i := inspected{Manifest: inventory.Manifests.Get(d), Tags: graph.Tags(d)}
	if i.Manifest == nil {
		i.Manifest, i.Missing = &image.Manifest{Digest: d}, inventory.Missing[d]
	}
	i.Kind = kind(i.Manifest)
	if seen[d] {
		return i
	}
	seen[d] = true
	for _, child := range i.Children {
		part := inspect(inventory, graph, child.Digest, seen)
		part.Attests = child.Attests
		if child.Platform != "" {
			part.Platform = child.Platform
		}
		if child.Attests != "" {
			part.Kind = "attestation"
		}
		i.Parts = append(i.Parts, part)
	}
	for _, attached := range graph.Attached(d) {
		if !seen[attached] {
			i.Attached = append(i.Attached, inspect(inventory, graph, attached, seen))
		}
	}
	return i
}

// kind is a manifest as people know it.
func kind(m *image.Manifest) string {
	switch {
	case m.IsIndex():
		return "index"
	case m.IsImage() && m.Subject == "":
		return "image"
	case m.ArtifactType != "":
		return m.ArtifactType
	case m.Config != nil && m.Config.MediaType != "":
		return m.Config.MediaType
	}
	return m.MediaType
}

// title is what a row of the tree is called.
func (i inspected) title() string {
	title := i.Kind
	for _, tag := range i.Tags {
		if _, attached := image.Attached(tag); attached {
			title = strings.TrimPrefix(path.Ext(tag), ".") + " " + title
		}
	}
	switch {
	case i.Missing:
		title = "missing"
	case i.Kind == "attestation":
		title += " of " + image.Short(i.Attests)
	case i.Platform != "" && i.Kind == "image":
		title = i.Platform
	}
	if tags := slices.DeleteFunc(slices.Clone(i.Tags), func(tag string) bool { _, attached := image.Attached(tag); return attached }); len(tags) > 0 {
		title += " (" + strings.Join(tags, ", ") + ")"
	}
	return title
}

func (i inspected) rows(rows *[][]string, indent, verb string) {
	built := "-"
	if at := i.Built(); !at.IsZero() {
		built = at.UTC().Format(time.RFC3339)
	}
	var bytes int64
	for _, b := range i.Blobs() {
		bytes += b.Size
	}
	*rows = append(*rows, []string{indent + verb + i.title(), i.Digest.String(), size(bytes + i.Size), built})
	indent += "  "
	for n, layer := range i.Layers {
		if len(i.Parts) == 0 && i.IsImage() {
			*rows = append(*rows, []string{fmt.Sprintf("%slayer %d", indent, n+1), layer.Digest.String(), size(layer.Size), "-"})
		}
	}
	for _, part := range i.Parts {
		part.rows(rows, indent, "")
	}
	for _, attached := range i.Attached {
		attached.rows(rows, indent, "attached: ")
	}
}
