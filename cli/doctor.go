package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/manifests"
	"github.com/regkeeper/regkeeper/problem"
)

func newDoctor(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at the whole setup, and say what is wrong with it",
		Long: `Doctor looks at everything that the configuration names: whether each source answers and
takes our login there, whether each registry is reached, through which proxy, with which clock and
certificate; how the logins stand, and the places that they go to; whether clients take what is
delivered, or something else comes first; whether the helpers that a config.json names are there;
what we may do in each cluster; and how pods pull. Nothing is changed.

It ends with the exit code of the worst finding, and with 0 if there is no error. For a single
image, and one client, see regkeeper explain; for which way of handing over a login fits, see
regkeeper advise.`,
		Example: example("regkeeper doctor", "regkeeper doctor -o json"),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			conf, folder, err := e.loadOrDefault()
			if err != nil {
				return err
			}
			data, err := app.Look(ctx, conf, folder, e.options())
			if err != nil {
				return err
			}
			findings := []app.Finding{}
			err = app.Doctor(ctx, conf, data, accessOf(conf), func(f app.Finding) {
				findings = append(findings, f)
				if !e.json() {
					e.finding(f)
				}
			})
			if e.json() {
				if err := e.printJSON(findings); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
			return worst(findings)
		},
	}
}

func (e *env) finding(f app.Finding) {
	e.printf("%-8s %-9s %s: %s\n", f.Health, f.Check, dash(f.Subject), f.Text)
	if f.Hint != "" {
		e.printf("                   %s\n", f.Hint)
	}
}

// worst is the error of what is wrong.
func worst(findings []app.Finding) error {
	n, kind := 0, problem.Kind("")
	for _, f := range findings {
		if f.Health != app.Ill {
			continue
		}
		if n++; n == 1 {
			kind = f.Kind()
		} else if kind != f.Kind() {
			kind = problem.Partial
		}
	}
	if n == 0 {
		return nil
	}
	return problem.New(kind, "", "%d of %d findings are errors", n, len(findings))
}

// accessOf are the rights that the configuration takes, in each cluster: of what is
// in it alone, as if it were the one that regkeeper runs in.
func accessOf(c config.Config) map[config.Cluster][]app.Access {
	own := config.Cluster{}
	clusters := map[config.Cluster]bool{}
	for _, t := range c.Targets {
		for _, which := range t.Clusters {
			clusters[which] = true
		}
	}
	if c.State != nil || slices.ContainsFunc(c.Secrets(), func(r secretref.Ref) bool { return r.Secret != secretref.ClusterKey{} }) {
		clusters[own] = true
	}
	all := map[config.Cluster][]app.Access{}
	for which := range clusters {
		part := config.Config{}
		if which == own {
			part = c
		}
		part.Targets = nil
		for _, t := range c.Targets {
			if slices.Contains(t.Clusters, which) || which == own && len(t.Clusters) == 0 {
				if len(t.Clusters) > 0 {
					t.Clusters = []config.Cluster{own}
				}
				part.Targets = append(part.Targets, t)
			}
		}
		for _, right := range manifests.Rights(part, manifests.Options{}) {
			all[which] = append(all[which], accesses(right)...)
		}
	}
	return all
}

func accesses(right manifests.Right) (all []app.Access) {
	names := right.Names
	if len(names) == 0 {
		names = []string{""}
	}
	resource, sub, _ := strings.Cut(right.Resource, "/")
	for _, verb := range right.Verbs {
		for _, name := range names {
			all = append(all, app.Access{
				ResourceAttributes: authorizationv1.ResourceAttributes{
					Namespace: right.Namespace, Group: right.Group, Resource: resource, Subresource: sub, Verb: verb, Name: name,
				},
				Why: right.Why,
			})
		}
	}
	return all
}
