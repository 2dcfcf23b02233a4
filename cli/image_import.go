package cli

import (
	"context"
	"os"
	"strings"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/plan/peer"
	"github.com/regkeeper/regkeeper/problem"
)

// compared is what another registry's policy and our rules come to in one
// repository.
type compared struct {
	Repository image.Repository `json:"repository"`
	// Rules are ours, and Notes what of the policy they cannot say.
	Rules []string        `json:"rules"`
	Notes []string        `json:"notes"`
	Peer  peer.Outcome    `json:"peer"`
	Plan  *plan.Plan      `json:"plan"`
	Where peer.Difference `json:"difference"`
}

// importPolicy reads KIND=FILE.
func importPolicy(argument string) (peer.Policy, error) {
	kind, path, ok := strings.Cut(argument, "=")
	if !ok {
		return nil, problem.New(problem.Usage, "write it as gitea=rule.yaml; the kinds are gitea, harbor, ecr and gitlab", "--import %q names no kind and file", argument)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, disk.Problem(err, "read policy %s", path)
	}
	return peer.Parse(peer.Kind(kind), raw)
}

// compare shows where another registry's policy differs from our rules: those of
// the flags or the configuration, or else the nearest to the policy.
func (p *pruneRun) compare(ctx context.Context, args []string) error {
	if p.apply || p.from != "" {
		return problem.New(problem.Usage, "put the rules that it prints into the configuration first", "--import compares, and deletes nothing")
	}
	policy, err := importPolicy(p.imported)
	if err != nil {
		return err
	}
	patterns, err := p.imageRun.patterns(args)
	if err != nil {
		return err
	}
	all := []compared{}
	for repository, err := range p.repositories(ctx, patterns) {
		if err != nil {
			return err
		}
		result, err := p.compareOne(ctx, repository, policy)
		if err != nil {
			return err
		}
		all = append(all, result)
		if !p.json() {
			p.comparedText(result, policy.Kind())
		}
	}
	if p.json() {
		return p.printJSON(all)
	}
	return nil
}

func (p *pruneRun) compareOne(ctx context.Context, repository image.Repository, policy peer.Policy) (compared, error) {
	result := compared{Repository: repository, Notes: []string{}}
	images, err := p.rules()
	if err != nil {
		return result, err
	}
	if images == nil {
		images = p.config.Covering(repository)
	}
	if images == nil {
		rules, notes := policy.Rules(repository)
		images = &config.Images{Policy: rules}
		result.Notes = append(result.Notes, notes...)
	}
	inventory, err := p.imageRun.read(ctx, repository, lifecycle.Reading{Dates: true})
	if err != nil {
		return result, err
	}
	facts := app.Facts(ctx, images.Policy.Rules, images.Clusters, images.InUse, p.data)
	result.Plan = plan.Decide(images.Policy, inventory, facts)
	result.Rules = result.Plan.Rules
	result.Peer = policy.Outcome(inventory, facts)
	result.Where = peer.Compare(inventory, facts, result.Peer, result.Plan)
	return result, nil
}

func (p *pruneRun) comparedText(result compared, kind peer.Kind) {
	p.printf("%s: %s deletes %d of %d tags; keep: %s\n", result.Repository, kind, len(result.Peer.Deletes),
		len(result.Peer.Deletes)+len(result.Peer.Keeps), dash(strings.Join(result.Rules, " | ")))
	for _, broken := range result.Where.Breaks {
		p.printf("  breaks: %s\n", broken)
	}
	for _, different := range result.Where.Images {
		p.printf("  differs: %s\n", different)
	}
	for _, note := range append(result.Notes, result.Peer.Notes...) {
		p.printf("  note: %s\n", note)
	}
}
