// Package image names what a registry holds: references, digests, manifests and
// the graph that these form; and the ports through which a registry is read and
// changed.
//
// It refuses to do I/O, and to decide: what of an inventory stays is decided by
// package plan.
package image

import (
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// attachment matches the tags under which cosign keeps what belongs to a
// manifest (cosign's tag scheme, SIGNATURE_SPEC.md), and those of the referrers
// tag schema of the OCI distribution specification, section "Referrers Tag
// Schema".
var attachment = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64}|[0-9a-f]{128})(\.[a-z0-9]+)?$`)

// Attached returns what the tag is attached to, if its name says that it is: a
// signature, an attestation, an SBOM, or a list of referrers. Such a tag is no
// image of its own. The digest is empty where the name holds only a part of it.
func Attached(tag string) (digest.Digest, bool) {
	if !strings.HasPrefix(tag, "sha") { // as almost none does
		return "", false
	}
	m := attachment.FindStringSubmatch(tag)
	if m == nil {
		return "", false
	}
	d := digest.Digest(m[1] + ":" + m[2])
	if d.Validate() == nil {
		return d, true
	}
	return "", m[1] == "sha512" && len(m[2]) == encodedInTag
}

// encodedInTag is how much of a digest's encoded part a tag of the referrers tag
// schema holds: a tag has at most 128 characters.
const encodedInTag = 64

// ReferrersTag is the tag of the list of a manifest's referrers, where the
// registry does not keep one (OCI distribution specification, "Referrers Tag
// Schema").
func ReferrersTag(d digest.Digest) string {
	algorithm, encoded, _ := strings.Cut(d.String(), ":")
	return algorithm + "-" + encoded[:min(len(encoded), encodedInTag)]
}

// Use is a place that uses an image: a pod, a template of a workload, a line of
// a workflow file. A use by tag and a use by digest are both made of what is
// known.
type Use struct {
	Reference Reference `json:"reference"`
	// Where names the place for people: "Deployment team/api of context prod".
	Where string `json:"where"`
}
