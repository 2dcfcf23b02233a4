package cli

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/lifecycle/jobimage"
	"github.com/regkeeper/regkeeper/problem"
)

func newImageCheck(e *env) *cobra.Command {
	var needs, platforms []string
	var whole bool
	c := &cobra.Command{
		Use:   "check IMAGE...",
		Short: "Show whether a CI job can run in an image",
		Long: `Check looks for what a CI runner needs in a job's image: sh and grep, and programs that
are named with --needs, in the folders of the image's PATH; and a shell (bash, or else sh)
where GitLab Runner looks for one: in /usr/local/bin, /usr/bin or /bin, or at /busybox/sh.
Of a Windows image it is PowerShell. It tells in which layer each is, and through which
links; layers count from the base, which is 1.

It takes no container runtime, and downloads as little as it can: the newest layer first,
each to where the rest cannot change the answer. What was learned of layers is kept, so
that the next image on the same base takes less.

A verdict is fits, unfit (exit code 12) or unknown (exit code 11), where a layer that
counts is encrypted or not in the registry.`,
		Example: example(
			"regkeeper image check gitea.example.com/admin/ci:237c6b8",
			"regkeeper image check docker.io/library/alpine:3.22 --needs git,curl",
			"regkeeper image check gitea.example.com/admin/ci:237c6b8 --platform all -o json"),
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			ctx := c.Context()
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			bar := e.progress()
			how := jobimage.Config{
				Cache: r.cache, Needs: needs, Platforms: platforms, Whole: whole,
				// As a runner on this machine would pull it.
				Default: "linux/" + runtime.GOARCH,
				Report: func(at jobimage.Progress) {
					bar.far(lifecycle.Progress{What: at.What + " (KiB)", Done: int(at.Done >> 10), Of: int(at.Of >> 10)})
				},
			}
			reports := []jobimage.Report{}
			var errs []error
			for _, text := range args {
				report, err := r.check(ctx, text, how)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				reports = append(reports, report)
			}
			bar.done()
			for _, report := range reports {
				if !e.json() {
					e.checkText(report)
				}
				if err := jobVerdict(report); err != nil {
					errs = append(errs, err)
				}
			}
			if e.json() {
				if err := e.printJSON(reports); err != nil {
					return err
				}
			}
			return joined(errs)
		},
	}
	flags := c.Flags()
	flags.StringSliceVar(&needs, "needs", nil, "programs that jobs need besides, such as git,curl; or absolute paths")
	flags.StringSliceVar(&platforms, "platform", nil, "check these platforms, as os/architecture[/variant], or all (default linux on this machine's architecture, or all where the image has no such)")
	flags.BoolVar(&whole, "whole", false, "read each layer that counts to its end, so that its digest is checked")
	return c
}

// check checks one image.
func (r *imageRun) check(ctx context.Context, text string, how jobimage.Config) (jobimage.Report, error) {
	ref, reader, err := r.reference(text)
	if err != nil {
		return jobimage.Report{}, err
	}
	how.Reader = reader
	report, err := jobimage.New(how).Check(ctx, ref)
	return report, missing(err, ref)
}

// jobVerdict is an error for an image that jobs cannot run in, or may not.
func jobVerdict(report jobimage.Report) error {
	var lacks []string
	for _, p := range report.Platforms {
		for _, n := range p.Needs {
			if n.State == jobimage.Missing {
				lacks = append(lacks, fmt.Sprintf("%s for %s", printable(n.Name), printable(p.Platform)))
			}
		}
	}
	switch report.Verdict {
	case jobimage.Unfit:
		return problem.New(problem.Refused, "install what is missing in the image's Dockerfile, or choose an image that has it: of many there is a tag with a shell, such as debug or alpine",
			"jobs cannot run in %s: there is no %s", report.Image, strings.Join(lacks, ", no "))
	case jobimage.Unknown:
		return problem.New(problem.Partial, "check a copy of the image of which all layers are in its registry, and not encrypted", "whether jobs can run in %s cannot be told", report.Image)
	}
	return nil
}

// checkText prints a check for people.
func (e *env) checkText(report jobimage.Report) {
	e.printf("%s %s: %s\n", report.Image, image.Short(report.Digest), report.Verdict)
	for _, p := range report.Platforms {
		e.printf("  %s: %s\n", cmp.Or(printable(p.Platform), "a platform without a name"), p.Verdict)
		for _, n := range p.Needs {
			e.printf("    %s: %s\n", printable(n.Name), needText(n))
		}
		for _, note := range p.Notes {
			e.printf("    note: %s\n", printable(note))
		}
		read := 0
		for _, l := range p.Layers {
			if l.Fetched > 0 {
				read++
			}
		}
		e.printf("    downloaded %s of %s, of %d of %d layers, in %d requests\n", size(p.Fetched), size(p.Size), read, len(p.Layers), p.Requests)
	}
}

// needText says where a need is. Names are those of the image: on a terminal they
// must be no more than that.
func needText(n jobimage.Need) string {
	if n.Found == nil {
		text := string(n.State)
		if n.Why != "" {
			text += ": " + printable(n.Why)
		}
		return text
	}
	text := printable(n.Path)
	if n.Program != n.Path {
		text = printable(n.Program) + " at " + text
	}
	if n.File != n.Path {
		text += " is " + printable(n.File)
	}
	text += fmt.Sprintf(" of layer %d (%s)", n.Layer, image.Short(n.Digest))
	for i, l := range n.Links {
		text += fmt.Sprintf("%s %s -> %s of layer %d", []string{", by", ","}[min(i, 1)], printable(l.Path), printable(l.Target), l.Layer)
	}
	return text
}

// printable quotes what a terminal might take for an order.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}
