package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

func newImageRm(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Delete single tags",
		Long: `Rm deletes the tags that it is given, and no other tag of the same image. What nothing
leads to any more, the registry's own collection takes away, or image prune. It does
not look at rules or at what is deployed; see image prune for that.`,
		Example: example("regkeeper image rm gitea.example.com/admin/honeydue-api:237c6b8"),
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			ctx := c.Context()
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			var refs []image.Reference
			for _, arg := range args {
				ref, err := image.ParseReference(arg)
				if err != nil {
					return err
				}
				if ref.Digest != "" || !strings.HasSuffix(arg, ":"+ref.Tag) {
					return problem.New(problem.Usage, "write it as host/path:tag; a digest may have several tags", "%s names no tag to delete", arg)
				}
				refs = append(refs, ref)
			}
			deleted := []string{}
			for _, ref := range refs {
				registry, err := r.registries.Changer(ref.Host)
				if err != nil {
					return err
				}
				found, err := registry.Resolve(ctx, ref.Path, ref.Tag)
				if errors.Is(err, image.ErrMissing) {
					return missing(err, ref)
				}
				if err != nil {
					return err
				}
				if err := registry.DeleteTag(ctx, ref.Path, ref.Tag); err != nil {
					return err
				}
				deleted = append(deleted, ref.String())
				if !e.json() {
					e.printf("deleted %s (%s)\n", ref, image.Short(found.Digest))
				}
			}
			if e.json() {
				return e.printJSON(deleted)
			}
			return nil
		},
	}
}
