package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
)

func newRunnerVerify(e *env) *cobra.Command {
	var f runnerFlags
	c := &cobra.Command{
		Use:   "verify",
		Short: "Ask the servers whether they take the runners' tokens",
		Long: `Verify asks the server of each runner whether it takes the runner's token. It
changes nothing in the file: a server that is down never takes a runner out. It ends with code 5 if a runner is not known any more, and with 6 if a
server does not answer.

Without --name, all runners of the file are asked of.`,
		Example: example("regkeeper runner verify", "regkeeper runner verify --name docker-runner -o json", "regkeeper runner verify --forge gitea"),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fleet, err := f.fleet(c.Context(), e)
			if err != nil {
				return err
			}
			f.selection.All = f.selection.All || len(f.selection.Names) == 0
			verdicts, err := fleet.Verify(c.Context(), f.selection)
			if err != nil {
				return err
			}
			if e.json() {
				err = e.printJSON(struct {
					Runners []runner.Verdict `json:"runners"`
				}{verdicts})
			} else {
				var rows [][]string
				for _, v := range verdicts {
					rows = append(rows, []string{v.Name, fmt.Sprint(v.ID), v.URL, string(v.Health), ago(v.Expires), v.Reason})
				}
				err = e.table("NAME ID URL HEALTH EXPIRES WHY", rows)
			}
			if err != nil {
				return err
			}
			return outcome(verdicts)
		},
	}
	f.add(c)
	f.addSelection(c)
	return c
}

// outcome is an error if a runner is not alive.
func outcome(verdicts []runner.Verdict) error {
	count := map[runner.Health]int{}
	for _, v := range verdicts {
		count[v.Health]++
	}
	switch {
	case count[runner.Removed] > 0:
		return problem.New(problem.Denied, "register it again, or take it out: regkeeper runner unregister", "%d of %d runners are not known to their server", count[runner.Removed], len(verdicts))
	case count[runner.Unknown] > 0:
		return problem.New(problem.Unreachable, "check that the server is up", "%d of %d runners could not be asked of", count[runner.Unknown], len(verdicts))
	}
	return nil
}
