package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// Deed is what is done about a tag at a destination.
type Deed string

// The deeds.
const (
	Keep  Deed = "keep"  // it is there
	Bring Deed = "copy"  // it is not
	Move  Deed = "move"  // it leads to another image
	Leave Deed = "leave" // the same, and it must not be moved
)

// MirrorPlan is what a destination lacks of a repository.
type MirrorPlan struct {
	From  image.Repository `json:"from"`
	To    image.Repository `json:"to"`
	Steps []MirrorStep     `json:"steps"`
}

// MirrorStep is what is done about one tag.
type MirrorStep struct {
	Tag    string        `json:"tag"`
	Digest digest.Digest `json:"digest"`
	Deed   Deed          `json:"deed"`
	Reason string        `json:"reason"`
}

// Changes counts the steps that change something.
func (p *MirrorPlan) Changes() int {
	n := 0
	for _, s := range p.Steps {
		if s.Deed == Bring || s.Deed == Move {
			n++
		}
	}
	return n
}

// DecideMirror plans what a destination needs to have the images that stay by a
// retention plan: those, and nothing else, are mirrored.
//
//	tag at the destination     what belongs to it        then
//	missing                    -                         copy
//	the same                   all there, as tags tell   keep
//	the same                   not all known to be       copy
//	another, free to move      -                         move
//	another, fixed             -                         leave
func DecideMirror(wanted *plan.Plan, source *image.Inventory, to image.Repository, there map[string]image.Tag, fixed func(tag string) bool) *MirrorPlan {
	p := &MirrorPlan{From: source.Repository, To: to, Steps: []MirrorStep{}}
	graph := source.Graph()
	for _, v := range wanted.Images {
		if !v.Keep {
			continue
		}
		for _, tag := range v.Tags {
			step := MirrorStep{Tag: tag, Digest: v.Digest}
			switch has, ok := there[tag]; {
			case !ok:
				step.Deed, step.Reason = Bring, "not there"
			case has.Digest == v.Digest:
				step.Deed, step.Reason = Keep, "there"
				if lacks := lacking(graph, v.Digest, there); lacks != "" {
					step.Deed, step.Reason = Bring, lacks
				}
			case fixed != nil && fixed(tag):
				step.Deed, step.Reason = Leave, "leads to "+image.Short(has.Digest)+" there, and must not be moved"
			default:
				step.Deed, step.Reason = Move, "leads to "+image.Short(has.Digest)+" there"
			}
			p.Steps = append(p.Steps, step)
		}
	}
	slices.SortFunc(p.Steps, func(a, b MirrorStep) int { return cmp.Compare(a.Tag, b.Tag) })
	return p
}

// lacking says what of an image's attachments is not known to be at the
// destination.
func lacking(graph *image.Graph, root digest.Digest, there map[string]image.Tag) string {
	for _, d := range slices.Sorted(graph.Closure(root).All()) {
		if d == root || len(graph.Parents(d)) > 0 {
			continue
		}
		tags := graph.Tags(d)
		if len(tags) == 0 {
			return "what refers to it may not be there"
		}
		for _, tag := range tags {
			if _, attached := image.Attached(tag); attached && there[tag].Digest != d {
				return tag + " is not there, or another"
			}
		}
	}
	return ""
}

// ReadTags finds out where the tags of a repository lead. A repository that does
// not exist has none.
func ReadTags(ctx context.Context, reader image.Reader, repository image.Repository) (map[string]image.Tag, error) {
	inventory, err := Read(ctx, reader, repository, Reading{Flat: true, Bare: true})
	if errors.Is(err, image.ErrMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(inventory.Unread) > 0 {
		return nil, fmt.Errorf("%s of %s: %s", inventory.Unread[0].What, repository, inventory.Unread[0].Why)
	}
	return inventory.Tags, nil
}

// mostImages is how many images are copied at one time.
const mostImages = 4

// Mirror carries out a plan with the copier. What fails keeps nothing else from
// being copied: the error joins all.
func (c *Copier) Mirror(ctx context.Context, p *MirrorPlan, from image.Reader, source *image.Inventory, to Place, report func(MirrorStep, Copied, error)) error {
	graph := source.Graph()
	errs := make([]error, len(p.Steps))
	var group errgroup.Group
	group.SetLimit(mostImages)
	for i, step := range p.Steps {
		if step.Deed != Bring && step.Deed != Move {
			continue
		}
		group.Go(func() error {
			place := to
			place.Tag = step.Tag
			copied, err := c.copy(ctx, from, image.Reference{Repository: source.Repository, Tag: step.Tag}, source, graph, step.Digest, []Place{place})
			errs[i] = err
			if report != nil {
				report(step, copied[0], err)
			}
			return nil
		})
	}
	_ = group.Wait() // each error has its step
	return errors.Join(errs...)
}
