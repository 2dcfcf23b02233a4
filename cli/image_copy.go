package cli

import (
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/problem"
)

func newImageCopy(e *env) *cobra.Command {
	var platforms []string
	var bare, force bool
	var parallel int
	c := &cobra.Command{
		Use:   "copy IMAGE TO...",
		Short: "Copy an image, with all that belongs to it, to one place or several",
		Long: `Copy brings an image to other repositories or registries: all its platforms, its
attestations, signatures, SBOMs and other referrers, each with the digest that it
has. The tag comes last at each place: who finds it finds everything.

TO is an image, or a repository, in which the image gets the tag it has. What is there
already is not sent again, so that a copy that was cut off goes on; blobs that another
repository of the same registry has are mounted from there. When the connection breaks
in a blob, the rest is read and sent, where the registry can go on.

A tag that leads to another image there is not moved, unless --force is given. With
--platform the copy is an index of these platforms alone: its digest is another, and
signatures of the whole do not come with it.`,
		Example: example(
			"regkeeper image copy gitea.example.com/admin/api:237c6b8 backup.example.com/admin/api",
			"regkeeper image copy docker.io/library/alpine:3.22 gitea.example.com/mirror/alpine --platform linux/amd64,linux/arm64"),
		Args: cobra.MinimumNArgs(2),
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
			var places []lifecycle.Place
			for _, to := range args[1:] {
				place, err := r.place(to, ref)
				if err != nil {
					return err
				}
				places = append(places, place)
			}
			bar := e.progress()
			how := lifecycle.Copying{Platforms: platforms, Bare: bare, Parallel: parallel, Cache: r.cache, Report: bar.far}
			if !force {
				how.Fixed = func(string) bool { return true }
			}
			copied, err := lifecycle.NewCopier(how).Copy(ctx, reader, ref, places...)
			bar.done()
			if e.json() {
				if copied == nil {
					copied = []lifecycle.Copied{}
				}
				if printErr := e.printJSON(copied); err == nil {
					err = printErr
				}
				return missing(err, ref)
			}
			for _, done := range copied {
				if done.Digest != "" {
					e.printf("%s %s: %d blobs sent (%s), %d mounted, %d parts were there\n", done.To, image.Short(done.Digest), done.Blobs, size(done.Bytes), done.Mounted, done.Present)
				}
			}
			return missing(err, ref)
		},
	}
	c.Flags().StringSliceVar(&platforms, "platform", nil, "copy these platforms alone, as os/architecture[/variant]")
	c.Flags().BoolVar(&bare, "bare", false, "leave out signatures, attestations and other referrers")
	c.Flags().BoolVar(&force, "force", false, "move tags that lead to another image")
	c.Flags().IntVar(&parallel, "parallel", 0, "blobs on their way at one time (default 4)")
	return c
}

// place is where an image goes: the name given, or its own tag in the repository
// given.
func (r *imageRun) place(text string, source image.Reference) (lifecycle.Place, error) {
	to, err := image.ParseReference(text)
	if err != nil {
		return lifecycle.Place{}, err
	}
	if to.Digest != "" {
		return lifecycle.Place{}, problem.New(problem.Usage, "give a tag, or a repository", "%s is a digest: an image keeps its own", text)
	}
	if _, err := image.ParseRepository(text); err == nil {
		to.Tag = source.Tag
	}
	registry, err := r.registries.Changer(to.Host)
	return lifecycle.Place{Registry: registry, Repository: to.Repository, Tag: to.Tag}, err
}
