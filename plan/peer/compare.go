package peer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// Side is who deletes what the other keeps.
type Side string

// The sides.
const (
	// PeerDeletes is an image that the peer deletes and the plan keeps.
	PeerDeletes Side = "peer-deletes"
	// PlanDeletes is an image that the plan deletes and the peer keeps.
	PlanDeletes Side = "plan-deletes"
	// PeerUntags is an image that both keep, and that the peer takes tags from.
	PeerUntags Side = "peer-untags"
)

// ImageDifference is an image of which peer and plan decide differently.
type ImageDifference struct {
	Side   Side          `json:"side"`
	Digest digest.Digest `json:"digest"`
	Tags   []string      `json:"tags"`
	// Lost are the tags that the peer takes from an image that it keeps.
	Lost []string `json:"lost,omitempty"`
	// Peer is why the peer does so, Plan why the plan does not.
	Peer []string `json:"peer"`
	Plan []string `json:"plan"`
}

// String is the difference in one line.
func (d ImageDifference) String() string {
	name := named(d.Tags, d.Digest)
	peer, plan := strings.Join(d.Peer, ", "), strings.Join(d.Plan, ", ")
	switch d.Side {
	case PeerDeletes:
		return fmt.Sprintf("%s: the peer deletes it (%s), the plan keeps it (%s)", name, peer, plan)
	case PlanDeletes:
		return fmt.Sprintf("%s: the plan deletes it (%s), the peer keeps it (%s)", name, plan, peer)
	}
	return fmt.Sprintf("%s: the peer takes %s from it (%s), the plan keeps all its tags (%s)", name, strings.Join(d.Lost, ", "), peer, plan)
}

// Damage is what kind of thing a peer breaks.
type Damage string

// The damages.
const (
	// LosesChild is an image that stays and loses a manifest that it needs.
	LosesChild Damage = "loses-child"
	// LosesAttachment is an image that stays and loses a signature, attestation,
	// SBOM, or something else that refers to it.
	LosesAttachment Damage = "loses-attachment"
	// Deployed is an image that is used and goes, or a part of it.
	Deployed Damage = "deployed"
	// SharedDigest is a tag that goes because another of the same image was meant,
	// of an image that the plan keeps.
	SharedDigest Damage = "shared-digest"
)

// Break is something that the peer breaks.
type Break struct {
	Damage Damage `json:"damage"`
	// Image is the image that is broken, Tags its tags.
	Image digest.Digest `json:"image"`
	Tags  []string      `json:"tags"`
	// Lost is the manifest that goes, What what it is: a platform, a signature, a
	// tag.
	Lost digest.Digest `json:"lost"`
	What string        `json:"what,omitempty"`
	// Where are the places that use it.
	Where []string `json:"where,omitempty"`
}

// String is the break in one line.
func (b Break) String() string {
	name := named(b.Tags, b.Image)
	switch b.Damage {
	case LosesChild:
		return fmt.Sprintf("%s stays and loses %s (%s)", name, cmp.Or(b.What, "a part of it"), image.Short(b.Lost))
	case LosesAttachment:
		return fmt.Sprintf("%s stays and loses its %s (%s)", name, cmp.Or(b.What, "referrer"), image.Short(b.Lost))
	case Deployed:
		return fmt.Sprintf("%s is deleted and in use: %s", cmp.Or(b.What, name), strings.Join(b.Where, ", "))
	}
	return fmt.Sprintf("%s: tag %s goes because another tag of the same digest was meant", name, b.What)
}

// named is an image as people know it.
func named(tags []string, d digest.Digest) string {
	if len(tags) == 0 {
		return image.Short(d)
	}
	return strings.Join(tags, ", ")
}

// Difference is where a peer and a plan differ, and what the peer breaks.
type Difference struct {
	Peer Kind `json:"peer"`
	// Images come in the order of the plan.
	Images []ImageDifference `json:"images"`
	Breaks []Break           `json:"breaks"`
}

// Empty says whether both do the same, and nothing breaks.
func (d Difference) Empty() bool { return len(d.Images) == 0 && len(d.Breaks) == 0 }

// comparison is what a peer leaves of an inventory.
type comparison struct {
	inventory *image.Inventory
	graph     *image.Graph
	gone      map[digest.Digest]bool // manifests
	lost      map[string]Entry       // tags
	kept      map[string]Entry
	untagged  map[digest.Digest]Entry // what becomes of manifests without a tag
}

// Compare holds the outcome of a peer against a plan. All four are of the same
// repository at the same time.
//
//	of an image        the peer keeps a tag      the peer keeps none
//	the plan keeps     PeerUntags, if it         PeerDeletes
//	                   deletes one
//	the plan deletes   PlanDeletes               no difference
//
// Of an image without a tag it is the manifest that counts.
func Compare(inventory *image.Inventory, facts plan.Facts, outcome Outcome, p *plan.Plan) Difference {
	c := &comparison{
		inventory: inventory, graph: inventory.Graph(),
		gone: map[digest.Digest]bool{}, lost: map[string]Entry{}, kept: map[string]Entry{}, untagged: map[digest.Digest]Entry{},
	}
	for _, d := range outcome.Manifests {
		c.gone[d] = true
	}
	for _, list := range []struct {
		entries []Entry
		tags    map[string]Entry
	}{{outcome.Keeps, c.kept}, {outcome.Deletes, c.lost}} {
		for _, e := range list.entries {
			if e.Tag != "" {
				list.tags[e.Tag] = e
			} else {
				c.untagged[e.Digest] = e
			}
		}
	}
	d := Difference{Peer: outcome.Peer, Images: []ImageDifference{}, Breaks: []Break{}}
	var left []digest.Digest
	planned := map[digest.Digest]bool{} // what the plan keeps
	for _, v := range p.Images {
		planned[v.Digest] = v.Keep
		if i, stays := c.image(v); i.Side != "" {
			d.Images = append(d.Images, i)
			if stays {
				left = append(left, v.Digest)
			}
		} else if stays {
			left = append(left, v.Digest)
		}
	}
	for _, root := range left {
		d.Breaks = append(d.Breaks, c.losses(root)...)
	}
	d.Breaks = append(d.Breaks, c.deployed(facts.Uses)...)
	for _, e := range outcome.Deletes {
		if e.Shares != "" && planned[e.Digest] {
			d.Breaks = append(d.Breaks, Break{Damage: SharedDigest, Image: e.Digest, Tags: c.tags(e.Digest), Lost: e.Digest, What: e.Tag})
		}
	}
	slices.SortStableFunc(d.Breaks, func(a, b Break) int {
		return cmp.Or(cmp.Compare(order(a.Damage), order(b.Damage)), slices.Compare(a.Tags, b.Tags), cmp.Compare(a.Lost, b.Lost), cmp.Compare(a.What, b.What))
	})
	return d
}

// order puts the worse first.
func order(d Damage) int {
	return slices.Index([]Damage{Deployed, LosesChild, LosesAttachment, SharedDigest}, d)
}

// tags are the names of an image, without those of what is attached to others.
func (c *comparison) tags(d digest.Digest) []string {
	tags := []string{}
	for _, tag := range c.graph.Tags(d) {
		if _, attached := image.Attached(tag); !attached {
			tags = append(tags, tag)
		}
	}
	return tags
}

// image compares what becomes of an image, and says whether the peer keeps it.
func (c *comparison) image(v plan.Verdict) (d ImageDifference, stays bool) {
	d = ImageDifference{Digest: v.Digest, Tags: v.Tags, Plan: v.Reasons}
	var keeps, deletes []string
	for _, tag := range v.Tags {
		if e, ok := c.lost[tag]; ok {
			d.Lost = append(d.Lost, tag)
			deletes = append(deletes, e.Reason)
		} else {
			stays = true
			keeps = append(keeps, c.kept[tag].Reason)
		}
	}
	if len(v.Tags) == 0 {
		stays = !c.gone[v.Digest]
		e := c.untagged[v.Digest]
		keeps, deletes = []string{e.Reason}, []string{e.Reason}
	}
	switch {
	case v.Keep && !stays:
		d.Side, d.Peer, d.Lost = PeerDeletes, deletes, nil
	case v.Keep && len(d.Lost) > 0:
		d.Side, d.Peer = PeerUntags, deletes
	case !v.Keep && stays:
		d.Side, d.Peer, d.Lost = PlanDeletes, keeps, nil
	}
	slices.Sort(d.Peer)
	d.Peer = slices.Compact(d.Peer)
	return d, stays
}

// losses are what an image that stays loses: of what it needs, and of what
// belongs to any of that.
func (c *comparison) losses(root digest.Digest) []Break {
	var breaks []Break
	lose := func(damage Damage, d digest.Digest, what string) {
		breaks = append(breaks, Break{Damage: damage, Image: root, Tags: c.tags(root), Lost: d, What: what})
	}
	seen := map[digest.Digest]bool{root: true}
	queue := []digest.Digest{root}
	for len(queue) > 0 {
		d := queue[0]
		queue = queue[1:]
		if m := c.inventory.Manifests.Get(d); m != nil {
			for _, child := range m.Children {
				if seen[child.Digest] {
					continue
				}
				seen[child.Digest] = true
				if c.gone[child.Digest] {
					what := child.Platform
					if child.Attests != "" {
						what = "an attestation"
					}
					lose(LosesChild, child.Digest, what)
				} else {
					queue = append(queue, child.Digest)
				}
			}
		}
		for _, a := range c.graph.Attached(d) {
			if seen[a] {
				continue
			}
			seen[a] = true
			if c.gone[a] || c.nameless(a, d) {
				lose(LosesAttachment, a, c.attachment(a))
			} else {
				queue = append(queue, a)
			}
		}
	}
	return breaks
}

// nameless says whether the tag is lost by which a manifest belongs to another.
func (c *comparison) nameless(a, to digest.Digest) bool {
	if c.inventory.Manifests.Subject(a) == to || slices.Contains(c.inventory.Referrers[to], a) {
		return false
	}
	for _, tag := range c.graph.Tags(a) {
		if of, attached := image.Attached(tag); attached && (of == to || of == "") {
			if _, lost := c.lost[tag]; !lost {
				return false
			}
		}
	}
	return true
}

// attachment is what an attached manifest is.
func (c *comparison) attachment(d digest.Digest) string {
	for _, tag := range c.graph.Tags(d) {
		if _, attached := image.Attached(tag); attached {
			switch _, suffix, _ := strings.Cut(tag, "."); suffix {
			case "sig":
				return "signature"
			case "att":
				return "attestation"
			case "sbom":
				return "SBOM"
			case "":
				return "list of referrers"
			}
		}
	}
	if m := c.inventory.Manifests.Get(d); m != nil {
		return m.ArtifactType
	}
	return ""
}

// deployed are the uses that find nothing any more.
func (c *comparison) deployed(uses []image.Use) []Break {
	where := map[digest.Digest][]string{}
	what := map[digest.Digest]string{}
	note := func(d digest.Digest, use image.Use, name string) {
		where[d] = append(where[d], use.Where)
		what[d] = cmp.Or(what[d], name)
	}
	// Some runtimes know an image by the digest of its config.
	configs := map[digest.Digest][]digest.Digest{}
	for d := range c.gone {
		if m := c.inventory.Manifests.Get(d); m != nil && m.Config != nil {
			configs[m.Config.Digest] = append(configs[m.Config.Digest], d)
		}
	}
	for _, use := range uses {
		ref := use.Reference
		if ref.Repository != c.inventory.Repository {
			continue
		}
		if ref.Digest != "" {
			if c.gone[ref.Digest] {
				note(ref.Digest, use, "")
			}
			for _, d := range configs[ref.Digest] {
				note(d, use, "")
			}
			continue
		}
		for _, tag := range []string{ref.Tag, strings.ToLower(ref.Tag)} {
			if e, lost := c.lost[tag]; lost {
				note(e.Digest, use, "tag "+tag)
				break
			}
		}
	}
	var breaks []Break
	for d, list := range where {
		slices.Sort(list)
		breaks = append(breaks, Break{Damage: Deployed, Image: d, Tags: c.tags(d), Lost: d, What: what[d], Where: slices.Compact(list)})
	}
	return breaks
}
