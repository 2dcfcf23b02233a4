package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/growth"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/problem"
)

func newImage(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "List, look into, copy and prune what registries hold",
		Long: `The image commands work with every registry of the configuration, with a login that
regkeeper keeps or borrows for the command, and with any other registry, with the
login that the docker CLI has for it.

REPOSITORY is host/path. In PATTERN, * stands for a part of the path or some of it,
and ** at the end for all below; without a pattern, those of the configuration's
images are meant.`,
		Example: example(
			"regkeeper image ls gitea.example.com/admin/*",
			"regkeeper image inspect gitea.example.com/admin/api:237c6b8",
			"regkeeper image prune                # what would go, and why everything else stays",
			"regkeeper image prune --apply"),
		Args: cobra.NoArgs,
	}
	c.AddCommand(newImageLs(e), newImageInspect(e), newImageSize(e), newImageDu(e), newImagePrune(e), newImageCopy(e), newImageCheck(e), newImageRm(e))
	return c
}

// imageRun is a run of a command that works with registries.
type imageRun struct {
	*env
	config     config.Config
	folder     string
	data       *app.Data
	registries *app.Registries
	cache      *imagecache.Cache
}

// openImages makes ready for work with registries. Without a configuration there
// are the logins of the docker CLI.
func (e *env) openImages(ctx context.Context) (*imageRun, error) {
	c, folder, err := e.loadOrDefault()
	if problem.KindOf(err) == problem.NotFound && e.configPath == "" {
		c, err = config.Config{}, nil
	}
	if err != nil {
		return nil, err
	}
	data, err := app.Look(ctx, c, folder, e.options())
	if err != nil {
		return nil, err
	}
	return &imageRun{env: e, config: c, folder: folder, data: data, registries: app.OpenRegistries(c, data), cache: app.Cache(folder)}, nil
}

// close ends what was borrowed.
func (r *imageRun) close(ctx context.Context, err *error) {
	r.cache.Trim()
	switch ended := r.registries.Close(ctx); {
	case ended == nil:
	case *err == nil:
		*err = ended
	default:
		r.warn([]string{ended.Error()})
	}
}

// patterns are the arguments, or those of the configuration.
func (r *imageRun) patterns(args []string) ([]string, error) {
	if len(args) == 0 {
		for _, images := range r.config.Images {
			args = append(args, images.Matches...)
		}
	}
	if len(args) == 0 {
		return nil, problem.New(problem.Usage, "name repositories, for example gitea.example.com/admin/*, or add images: to the configuration", "no repository is named")
	}
	return args, nil
}

// repositories lists what the patterns cover, with the way to each. Without a
// pattern for it no registry is asked for a list.
func (r *imageRun) repositories(ctx context.Context, patterns []string) iter.Seq2[image.Repository, error] {
	return func(yield func(image.Repository, error) bool) {
		var hosts []credential.Host
		for _, pattern := range patterns {
			host, err := image.HostOf(pattern)
			if err != nil {
				yield(image.Repository{}, err)
				return
			}
			if !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
		for _, host := range hosts {
			reader, err := r.registries.Reader(host)
			if err != nil {
				yield(image.Repository{}, err)
				return
			}
			found := 0
			for repository, err := range lifecycle.Repositories(ctx, reader, host, patterns...) {
				found++
				if !yield(repository, err) || err != nil {
					return
				}
			}
			if found == 0 {
				yield(image.Repository{}, problem.New(problem.NotFound, "see what is there with `regkeeper image ls "+string(host)+"/**`", "no repository of %s is covered by the pattern", host))
				return
			}
		}
	}
}

// read takes a repository's inventory, showing how far it is.
func (r *imageRun) read(ctx context.Context, repository image.Repository, how lifecycle.Reading) (*image.Inventory, error) {
	reader, err := r.registries.Reader(repository.Host)
	if err != nil {
		return nil, err
	}
	bar := r.progress()
	defer bar.done()
	how.Cache, how.Report = r.cache, bar.far
	return lifecycle.Read(ctx, reader, repository, how)
}

// reference reads the name of one image.
func (r *imageRun) reference(text string) (image.Reference, image.Reader, error) {
	ref, err := image.ParseReference(text)
	if err != nil {
		return ref, nil, err
	}
	reader, err := r.registries.Reader(ref.Host)
	return ref, reader, err
}

// unread warns of what is not known.
func (r *imageRun) unread(inventory *image.Inventory) {
	for _, u := range inventory.Unread {
		r.warn([]string{fmt.Sprintf("%s: %s could not be read: %s", inventory.Repository, u.What, u.Why)})
	}
}

func size(bytes int64) string { return growth.Bytes(bytes) }

// missing adds a hint to an image that is not there.
func missing(err error, ref image.Reference) error {
	if errors.Is(err, image.ErrMissing) {
		return problem.Wrap(err, problem.NotFound, "see what is there with `regkeeper image ls "+ref.Repository.String()+"`", "image %s", ref)
	}
	return err
}
