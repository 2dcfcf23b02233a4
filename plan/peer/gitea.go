package peer

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// giteaRule is a cleanup rule for container packages. Gitea has no API for them:
// an operator writes down what the web form shows (user or organization settings,
// Packages, Cleanup Rules), as YAML or JSON:
//
//	type: container
//	enabled: true
//	keep_count: 5            # Keep the most recent: versions per package
//	keep_pattern: v.+        # Keep versions matching
//	remove_days: 30          # Remove versions older than
//	remove_pattern: .*       # Remove versions matching
//	match_full_name: false   # Apply pattern to full package name
//
// or dumps the row of the table package_cleanup_rule as JSON, alone or in a list,
// which has the same names.
//
// Its meaning is that of services/packages/cleanup and
// services/packages/container/cleanup.go of Gitea 1.26.
type giteaRule struct {
	enabled      bool
	keepCount    int
	keep, remove *expression // nil for none
	removeDays   int
	fullName     bool
}

const giteaHint = "write the fields of the cleanup rule's web form as YAML: type: container, enabled, keep_count, keep_pattern, remove_days, remove_pattern, match_full_name"

func parseGitea(doc *document, raw []byte) Policy {
	value, ok := giteaValue(doc, raw)
	if !ok {
		return nil
	}
	if list, isList := value.([]any); isList {
		value, ok = giteaRow(doc, list)
		if !ok {
			return nil
		}
	}
	o := doc.object(value, "")
	// The table's names, the form's and Go's differ in case and underscores.
	fields := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(o.fields)) {
		plain := giteaName(key)
		if _, twice := fields[plain]; twice {
			o.fault(key, "take one of them away", "%q comes twice", plain)
		}
		fields[plain] = o.fields[key]
	}
	o.fields = fields
	if _, has := o.fields["type"]; has {
		o.oneOf("type", "container")
	}
	o.ignore("id", "owner_id", "created_unix", "updated_unix")
	r := &giteaRule{
		enabled: true, keepCount: o.count("keep_count", 0), removeDays: o.count("remove_days", 0), fullName: giteaFlag(o, "match_full_name"),
		keep: expressionOf(o, "keep_pattern", true), remove: expressionOf(o, "remove_pattern", true),
	}
	if o.has("enabled") {
		r.enabled = giteaFlag(o, "enabled")
	}
	o.done()
	// A document that names no condition is a mistake, not a rule that deletes all.
	if !o.has("keep_count") && !o.has("keep_pattern") && !o.has("remove_days") && !o.has("remove_pattern") {
		doc.fault("", giteaHint, "it names none of keep_count, keep_pattern, remove_days and remove_pattern")
	}
	return r
}

func giteaValue(doc *document, raw []byte) (any, bool) {
	if text := bytes.TrimSpace(raw); len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		return doc.json(raw, giteaHint)
	}
	if len(raw) > mostBytes {
		doc.fault("", giteaHint, "it is longer than %d bytes", mostBytes)
		return nil, false
	}
	var value any
	if err := yaml.Unmarshal(raw, &value); err != nil {
		doc.fault("", giteaHint, "it is no YAML: %v", err)
		return nil, false
	}
	return value, true
}

// giteaRow finds the one rule for containers in a list of rules.
func giteaRow(doc *document, list []any) (any, bool) {
	var rows []any
	for _, value := range list {
		fields, ok := value.(map[string]any)
		if !ok {
			continue
		}
		for key, of := range fields {
			if giteaName(key) == "type" && of == "container" {
				rows = append(rows, value)
			}
		}
	}
	if len(rows) != 1 {
		doc.fault("", "leave the row of the owner whose rule it is", "it lists %d rules of type container, and has to have one", len(rows))
		return nil, false
	}
	return rows[0], true
}

// giteaName is a field's name as the table has it: of KeepCount, keepCount and
// keep_count the last.
func giteaName(key string) string {
	plain := strings.ToLower(strings.ReplaceAll(key, "_", ""))
	for _, known := range []string{
		"id", "enabled", "owner_id", "type", "keep_count", "keep_pattern", "remove_days", "remove_pattern", "match_full_name", "created_unix", "updated_unix",
	} {
		if strings.ReplaceAll(known, "_", "") == plain {
			return known
		}
	}
	return key
}

// giteaFlag reads true or false, which SQLite and MySQL write as 1 and 0.
func giteaFlag(o *object, key string) bool {
	switch fmt.Sprint(o.get(key)) {
	case "1":
		return true
	case "0":
		return false
	}
	return o.flag(key)
}

// expressionOf reads a regular expression; nil if there is none.
func expressionOf(o *object, key string, fold bool) *expression {
	source := o.text(key)
	if source == "" {
		return nil
	}
	e, err := compile(source, fold)
	if err != nil {
		o.fault(key, "write it in RE2 syntax, for example v.+", "%q cannot be read: %v", source, err)
	}
	return e
}

// Kind implements [Policy].
func (r *giteaRule) Kind() Kind { return Gitea }

// Rules implements [Policy].
//
//	Gitea keeps versions that                    the rule
//	are among the newest keep_count              last keep_count, of images
//	are called latest                            pattern latest
//	match keep_pattern                           regex
//	are not older than remove_days               newerThan
//	do not match remove_pattern                  regex of the tags that do not
//	are named by an index that is still there    none: what an image needs stays
func (r *giteaRule) Rules(image.Repository) (plan.Policy, []string) {
	if !r.enabled {
		return plan.Policy{}, []string{"the rule is switched off: Gitea deletes nothing"}
	}
	policy := plan.Policy{Grace: leastGrace, Rules: []plan.Rule{{Pattern: "latest"}}}
	notes := []string{"Gitea counts, dates and deletes rows: each tag, each platform's manifest and each signature is one; the rules count images and keep what belongs to them"}
	add := func(rule plan.Rule) { policy.Rules = append(policy.Rules, rule) }
	if r.keepCount > 0 {
		add(plan.Rule{Last: r.keepCount})
		policy.Grace = forGood
		notes = append(notes, "images without a tag are not counted"+uncounted)
	}
	if r.removeDays > 0 {
		add(plan.Rule{NewerThan: days(r.removeDays)})
	}
	if r.fullName && (r.keep != nil || r.remove != nil) {
		add(plan.Rule{})
		return policy, append(notes, "the patterns are of the package's name and the version together, which rules cannot say: everything stays until they are written as patterns of tags")
	}
	if r.keep != nil {
		add(plan.Rule{Regex: r.keep.whole})
		notes = append(notes, r.keep.looseNote("keep_pattern")...)
		if r.keep.MatchString(someDigest) {
			policy.Grace = forGood
		}
	}
	if r.remove != nil {
		words, exact := r.remove.words()
		if rule, some := otherThan(words); some {
			add(rule)
		}
		if !exact {
			notes = append(notes, fmt.Sprintf("Gitea keeps what does not match %s, which no rule can say in full: more stays", r.remove.source))
		}
		notes = append(notes, r.remove.looseNote("remove_pattern")...)
		if !r.remove.MatchString(someDigest) {
			policy.Grace = forGood
		}
	}
	return policy, notes
}

// someDigest is how Gitea calls a manifest without a tag.
var someDigest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

// giteaVersion is a row of Gitea's table of versions.
type giteaVersion struct {
	name    string // a tag or a digest, in lower case
	tag     string
	digest  digest.Digest
	created time.Time
	order   int // of being pushed, in one second
}

// Outcome implements [Policy].
func (r *giteaRule) Outcome(inventory *image.Inventory, facts plan.Facts) Outcome {
	s := newShelf(inventory, facts)
	o := &Outcome{Peer: Gitea}
	if !r.enabled {
		o.Notes = append(o.Notes, "the rule is switched off: Gitea deletes nothing")
	}
	rows := s.giteaVersions()
	rowsOf := map[digest.Digest]int{}
	// references counts the rows, by the digest that they name.
	references := map[digest.Digest]int{}
	children := func(d digest.Digest, n int) {
		if m := inventory.Manifests.Get(d); m != nil {
			for _, c := range m.Children {
				references[c.Digest] += n
			}
		}
	}
	for _, row := range rows {
		rowsOf[row.digest]++
		children(row.digest, 1)
	}
	gone := map[digest.Digest]bool{}
	_, name, _ := strings.Cut(inventory.Repository.Path, "/")
	before := facts.Now.AddDate(0, 0, -min(r.removeDays, int(forGood/day)))
	for i, row := range rows {
		match := row.name
		if r.fullName {
			match = strings.ToLower(name) + "/" + row.name
		}
		why := ""
		switch {
		case !r.enabled:
			why = "the rule is switched off"
		case i < r.keepCount:
			why = fmt.Sprintf("version %d of the newest %d", i+1, r.keepCount)
		case row.name == "latest":
			why = "latest always stays"
		case row.tag == "" && references[row.digest] > 0:
			holder, _ := s.holds(row.digest, gone)
			why = "part of " + s.graph.Called(holder) + ", which is still there"
		case r.keep != nil && r.keep.MatchString(match):
			why = "matches " + r.keep.source
		case row.created.IsZero():
			why = "when it was pushed is not known"
		case row.created.After(before):
			why = fmt.Sprintf("not older than %d days", r.removeDays)
		case r.remove != nil && !r.remove.MatchString(match):
			why = "does not match " + r.remove.source
		}
		if why != "" {
			o.keep(row.tag, row.digest, "%s", why)
			continue
		}
		why = fmt.Sprintf("version %d, which nothing keeps", i+1)
		if subject, ok := s.graph.Subject(row.digest); ok {
			why += "; to Gitea it does not belong to " + s.graph.Called(subject)
		}
		o.delete(row.tag, row.digest, "%s", why)
		children(row.digest, -1)
		if rowsOf[row.digest]--; rowsOf[row.digest] == 0 {
			gone[row.digest] = true
		}
	}
	o.Notes = append(o.Notes, s.dates("they are taken for the newest, and stay")...)
	return o.settle(gone)
}

// giteaVersions are the rows, the newest first. Of rows of one second, Gitea has
// the one that was pushed later before: an index before its children, and a
// signature before what it signs.
func (s *shelf) giteaVersions() []giteaVersion {
	var rows []giteaVersion
	for name, tag := range s.Tags {
		row := giteaVersion{name: strings.ToLower(name), tag: name, digest: tag.Digest, created: s.pushed(name, tag.Digest), order: 1}
		if _, ok := s.graph.Subject(tag.Digest); ok {
			row.order = 2
		}
		rows = append(rows, row)
	}
	for _, d := range s.all() {
		if _, both := s.Untagged[d]; both || len(s.graph.Tags(d)) == 0 {
			row := giteaVersion{name: d.String(), digest: d, created: s.pushed("", d)}
			if m := s.Manifests.Get(d); m != nil && len(m.Children) > 0 {
				row.order = 1
			}
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b giteaVersion) int {
		return cmp.Or(newest(a.created, b.created), cmp.Compare(b.order, a.order), strings.Compare(b.name, a.name))
	})
	return rows
}
