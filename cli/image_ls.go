package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/lifecycle"
)

// listed is an image as ls prints it.
type listed struct {
	Repository image.Repository `json:"repository"`
	Digest     digest.Digest    `json:"digest"`
	Tags       []string         `json:"tags"`
	MediaType  string           `json:"mediaType,omitempty"`
	Platforms  []string         `json:"platforms"`
	Pushed     time.Time        `json:"pushed,omitzero"`
	Built      time.Time        `json:"built,omitzero"`
	Size       int64            `json:"size"` // in bytes, with what belongs to it
	Attached   int              `json:"attached"`
}

func newImageLs(e *env) *cobra.Command {
	var names, repositories bool
	c := &cobra.Command{
		Use:   "ls [PATTERN...]",
		Short: "List images, newest first",
		Long: `Ls lists the images of repositories, newest first: what a tag leads to, with all
platforms. Signatures and what else belongs to an image are counted with it and not
listed. Times are when an image was pushed where the registry tells, or else built.

--names and --repositories ask the registry for lists only.`,
		Example: example(
			"regkeeper image ls gitea.example.com/admin/api",
			"regkeeper image ls gitea.example.com/admin/* -o json | jq '.[] | select(.size > 5e8)'",
			"regkeeper image ls --repositories gitea.example.com/**"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			ctx := c.Context()
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			patterns, err := r.patterns(args)
			if err != nil {
				return err
			}
			all := []listed{}
			refs := []string{}
			for repository, err := range r.repositories(ctx, patterns) {
				switch {
				case err != nil:
					return err
				case repositories:
					refs = append(refs, repository.String())
				case names:
					reader, err := r.registries.Reader(repository.Host)
					if err != nil {
						return err
					}
					for tag, err := range reader.Tags(ctx, repository.Path) {
						if err != nil {
							return err
						}
						if _, attached := image.Attached(tag.Name); !attached {
							refs = append(refs, image.Reference{Repository: repository, Tag: tag.Name}.String())
						}
					}
				default:
					inventory, err := r.read(ctx, repository, lifecycle.Reading{Dates: true})
					if err != nil {
						return err
					}
					r.unread(inventory)
					all = append(all, list(inventory)...)
				}
			}
			switch {
			case (names || repositories) && e.json():
				return e.printJSON(refs)
			case names || repositories:
				for _, ref := range refs {
					e.printf("%s\n", ref)
				}
				return nil
			case e.json():
				return e.printJSON(all)
			}
			rows := [][]string{}
			for _, i := range all {
				rows = append(rows, []string{
					i.Repository.String(), dash(strings.Join(i.Tags, ",")), image.Short(i.Digest), since(i), size(i.Size), dash(strings.Join(i.Platforms, ",")),
				})
			}
			return e.table("REPOSITORY TAG DIGEST AGE SIZE PLATFORMS", rows)
		},
	}
	c.Flags().BoolVar(&names, "names", false, "print names of images, and nothing that takes a request for each")
	c.Flags().BoolVar(&repositories, "repositories", false, "print names of repositories")
	c.MarkFlagsMutuallyExclusive("names", "repositories")
	return c
}

func since(i listed) string {
	at := i.Pushed
	if at.IsZero() {
		at = i.Built
	}
	if at.IsZero() {
		return "-"
	}
	return ago(&at)
}

// list is what an inventory has, newest first.
func list(inventory *image.Inventory) []listed {
	graph := inventory.Graph()
	var all []listed
	for _, i := range inventory.Images() {
		if _, attached := graph.Subject(i.Digest); attached {
			continue
		}
		all = append(all, describe(inventory, graph, i))
	}
	slices.SortStableFunc(all, func(a, b listed) int {
		if byPush := b.Pushed.Compare(a.Pushed); byPush != 0 {
			return byPush
		}
		return b.Built.Compare(a.Built)
	})
	return all
}

func describe(inventory *image.Inventory, graph *image.Graph, i image.Image) listed {
	closure := graph.Closure(i.Digest)
	l := listed{
		Repository: inventory.Repository, Digest: i.Digest, Tags: i.Tags, Platforms: []string{},
		Built: inventory.Built(i.Digest), Size: closure.Size(),
	}
	for _, name := range i.Tags {
		if at := inventory.Tags[name].Pushed; at.After(l.Pushed) {
			l.Pushed = at
		}
	}
	for d := range closure.All() {
		if d != i.Digest && len(graph.Parents(d)) == 0 {
			l.Attached++
		}
	}
	if m := inventory.Manifests.Get(i.Digest); m != nil {
		l.MediaType = m.MediaType
		for _, child := range m.Children {
			if child.Platform != "" && child.Platform != "unknown/unknown" {
				l.Platforms = append(l.Platforms, child.Platform)
			}
		}
		if m.Platform != "" {
			l.Platforms = append(l.Platforms, m.Platform)
		}
	}
	return l
}
