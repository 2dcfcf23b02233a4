package cli

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/growth"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/problem"
)

// used is what du prints.
type used struct {
	growth.Report
	Forecast growth.Forecast `json:"forecast"`
	// Rules is what the configuration's rules come to; nil where there are none.
	Rules *growth.Outcome `json:"rules,omitempty"`
}

func newImageDu(e *env) *cobra.Command {
	var capacity, others, window, svg string
	var chart bool
	c := &cobra.Command{
		Use:   "du [PATTERN...]",
		Short: "Show what repositories take, how they grow, and when the disk is full",
		Long: `Du adds up what repositories take: each layer and manifest once for a registry,
however many images share it. OWN is what no other of the repositories has.

The pace is the median growth within the last 90 days (--window), by the dates at which
the images that are there were pushed, or else built; images that were deleted do not
count. With --capacity it says when a disk of that size is full. Where the configuration
has rules for the repositories, they are tried on the past: what would have stayed.`,
		Example: example(
			"regkeeper image du gitea.example.com/admin/*",
			"regkeeper image du --capacity 80GB --others 12GB --chart",
			"regkeeper image du --svg growth.svg"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			ctx := c.Context()
			question, err := question(capacity, others, window)
			if err != nil {
				return err
			}
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			history, result, err := r.usage(ctx, args, question)
			if err != nil {
				return err
			}
			drawing := growth.Chart{Title: "what the repositories take", History: history, Forecast: result.Forecast}
			if svg != "" {
				if err := writeSVG(svg, drawing); err != nil {
					return err
				}
			}
			if e.json() {
				return e.printJSON(result)
			}
			if err := e.usageText(result); err != nil {
				return err
			}
			if !chart {
				return nil
			}
			drawing.Width = 80
			if file, ok := e.Out.(*os.File); ok {
				if width, _, err := term.GetSize(int(file.Fd())); err == nil {
					drawing.Width = width
				}
			}
			return drawing.Text(e.Out)
		},
	}
	flags := c.Flags()
	flags.StringVar(&capacity, "capacity", "", "what the registry's disk holds, such as 80GB")
	flags.StringVar(&others, "others", "", "what is on that disk besides, such as 12GB")
	flags.StringVar(&window, "window", "90d", "how far back the pace is taken")
	flags.BoolVar(&chart, "chart", false, "draw a chart")
	flags.StringVar(&svg, "svg", "", "write a chart to this file, as SVG")
	return c
}

func question(capacity, others, window string) (q growth.Question, err error) {
	for _, flag := range []struct {
		name, text string
		into       *int64
	}{{"--capacity", capacity, &q.Capacity}, {"--others", others, &q.Others}} {
		if flag.text == "" {
			continue
		}
		bytes, err := humanize.ParseBytes(flag.text)
		if err != nil || bytes > 1<<62 {
			return q, problem.New(problem.Usage, "write it as 80GB, or 75GiB", "%s %q is no size", flag.name, flag.text)
		}
		*flag.into = int64(bytes)
	}
	back, err := model.ParseDuration(window)
	if err != nil || time.Duration(back) < 24*time.Hour {
		return q, problem.New(problem.Usage, "write it as 90d", "--window %q is not a day or more", window)
	}
	q.Days = int(time.Duration(back).Hours() / 24)
	return q, nil
}

// usage reads the repositories, and holds one inventory at a time.
func (r *imageRun) usage(ctx context.Context, args []string, q growth.Question) (growth.History, used, error) {
	var result used
	var history growth.History
	usage := growth.NewUsage()
	rehearsal := usage.Rehearse(time.Now(), q.Days)
	facts := map[*config.Images]plan.Facts{}
	patterns, err := r.patterns(args)
	if err != nil {
		return history, result, err
	}
	for repository, err := range r.repositories(ctx, patterns) {
		if err != nil {
			return history, result, err
		}
		inventory, err := r.read(ctx, repository, lifecycle.Reading{Dates: true})
		if err != nil {
			return history, result, err
		}
		r.unread(inventory)
		if err := usage.Add(inventory); err != nil {
			return history, result, err
		}
		images := r.config.Covering(repository)
		if images == nil {
			continue
		}
		if _, ok := facts[images]; !ok {
			facts[images] = app.Facts(ctx, images.Policy.Rules, images.Clusters, images.InUse, r.data)
		}
		err = rehearsal.Add(inventory, func(inventory *image.Inventory, at time.Time) []digest.Digest {
			then := facts[images]
			then.Now = at
			return plan.Decide(images.Policy, inventory, then).Digests()
		})
		if err != nil {
			return history, result, err
		}
	}
	history = usage.History(time.Now())
	result.Report, result.Forecast = usage.Report(), history.Forecast(q)
	if len(facts) > 0 {
		outcome := rehearsal.Outcome(q)
		result.Rules = &outcome
	}
	return history, result, nil
}

func (e *env) usageText(result used) error {
	rows := [][]string{}
	for _, repository := range result.Repositories {
		rows = append(rows, []string{
			repository.Repository.String(), strconv.Itoa(repository.Images), strconv.Itoa(repository.Tags), size(repository.Bytes), size(repository.Own),
		})
	}
	if len(rows) > 1 {
		rows = append(rows, []string{"total", strconv.Itoa(result.Total.Images), strconv.Itoa(result.Total.Tags), size(result.Total.Bytes), ""})
	}
	if err := e.table("REPOSITORY IMAGES TAGS SIZE OWN", rows); err != nil {
		return err
	}
	e.printf("growth: %s\n", result.Forecast)
	if result.Rules != nil {
		e.printf("rules: %s\n", result.Rules)
	}
	return nil
}

func writeSVG(path string, chart growth.Chart) error {
	var text strings.Builder
	if err := chart.SVG(&text); err != nil {
		return err
	}
	return disk.WriteFile(path, []byte(text.String()), 0o644)
}

func newImageSize(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "size IMAGE|REPOSITORY...",
		Short: "Show what images take, layer by layer, and what they share",
		Long: `Size shows what each image of a repository takes with all its platforms, what only it
has, which deleting it would free, and what it shares with others. Given an image, it
shows the image's layers, and which other images have them.`,
		Example: example("regkeeper image size gitea.example.com/admin/api", "regkeeper image size gitea.example.com/admin/api:237c6b8"),
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			ctx := c.Context()
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			images, details := []growth.Image{}, []growth.Detail{}
			for _, arg := range args {
				if err := r.sizes(ctx, arg, &images, &details); err != nil {
					return err
				}
			}
			if e.json() {
				return e.printJSON(struct {
					Images  []growth.Image  `json:"images"`
					Details []growth.Detail `json:"details"`
				}{images, details})
			}
			return e.sizesText(images, details)
		},
	}
}

func (r *imageRun) sizes(ctx context.Context, arg string, images *[]growth.Image, details *[]growth.Detail) error {
	ref, err := image.ParseReference(arg)
	if err != nil {
		return err
	}
	_, plain := image.ParseRepository(arg)
	inventory, err := r.read(ctx, ref.Repository, lifecycle.Reading{Dates: true})
	if err != nil {
		return err
	}
	r.unread(inventory)
	usage := growth.NewUsage()
	if err := usage.Add(inventory); err != nil {
		return err
	}
	if plain == nil {
		*images = append(*images, usage.Images(ref.Repository)...)
		return nil
	}
	d := ref.Digest
	if d == "" {
		d = inventory.Tags[ref.Tag].Digest
	}
	detail, ok := usage.Detail(inventory, d)
	if !ok {
		return missing(image.ErrMissing, ref)
	}
	*details = append(*details, detail)
	return nil
}

func (e *env) sizesText(images []growth.Image, details []growth.Detail) error {
	rows := [][]string{}
	for _, i := range images {
		rows = append(rows, []string{i.Repository.String(), dash(strings.Join(i.Tags, ",")), size(i.Bytes), size(i.Own), size(i.Shared)})
	}
	if len(rows) > 0 {
		if err := e.table("REPOSITORY TAG SIZE OWN SHARED", rows); err != nil {
			return err
		}
	}
	for _, d := range details {
		e.printf("%s: %s, of that only its own %s\n", strings.Join(d.Tags, ","), size(d.Bytes), size(d.Own))
		rows := [][]string{}
		for _, l := range d.Layers {
			rows = append(rows, []string{image.Short(l.Digest), size(l.Bytes), strings.Join(l.Of, ","), strconv.Itoa(l.Images), dash(strings.Join(l.With, ","))})
		}
		rows = append(rows, []string{"manifests", size(d.Manifests), "", "", ""})
		if err := e.table("LAYER SIZE OF IMAGES WITH", rows); err != nil {
			return err
		}
	}
	return nil
}
