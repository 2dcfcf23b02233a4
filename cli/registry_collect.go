package cli

import (
	"encoding/json"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

// collected is what collect prints, and what the daemon answers for it.
type collected struct {
	Freed        int64           `json:"freed"` // bytes of files deleted now
	Repositories []builtin.Usage `json:"repositories"`
	Problem      string          `json:"problem,omitempty"`
}

func newRegistryCollect(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "collect",
		Short: "Have the embedded registry collect its garbage now, and show what is left",
		Long: `Collect has the daemon delete what nothing of the embedded registry needs any more and
nobody has touched for a day, and prints how many bytes of files that freed, and what each
repository takes. The daemon does the same by itself; requests go on meanwhile.`,
		Example: example("regkeeper registry collect", "regkeeper registry collect -o json | jq .freed"),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, folder, err := e.locate()
			if err != nil {
				return err
			}
			response, err := call(c.Context(), folder, http.MethodPost, collectPath)
			if err != nil {
				return problem.Wrap(err, problem.Unreachable, "start it with `regkeeper up`", "no daemon has the data folder %s", folder)
			}
			defer func() { _ = response.Body.Close() }()
			if response.StatusCode == http.StatusNotFound {
				return problem.New(problem.Config, "add serve.registry to the configuration", "the daemon has no embedded registry")
			}
			var result collected
			if err := json.NewDecoder(response.Body).Decode(&result); err != nil {
				return err
			}
			if e.json() {
				err = e.printJSON(result)
			} else {
				err = e.collectedText(result)
			}
			if result.Problem != "" {
				return problem.New(problem.Partial, "what could not be read is kept; see the daemon's log", "%s", result.Problem)
			}
			return err
		},
	}
}

func (e *env) collectedText(result collected) error {
	e.printf("freed %s\n", size(result.Freed))
	rows := [][]string{}
	for _, usage := range result.Repositories {
		rows = append(rows, []string{usage.Repository, size(usage.Bytes)})
	}
	return e.table("REPOSITORY SIZE", rows)
}

// collectPath is where the control socket takes the order.
const collectPath = "/collect"

// collects adds the order to those of the control socket.
func collects(control http.Handler, registry *builtin.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", control)
	mux.HandleFunc("POST "+collectPath, func(w http.ResponseWriter, r *http.Request) {
		if registry == nil {
			http.NotFound(w, r)
			return
		}
		var result collected
		var err error
		if result.Freed, err = registry.Collect(r.Context()); err == nil {
			result.Repositories, err = registry.Usage(r.Context())
		}
		if err != nil {
			result.Problem = err.Error()
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(result) // who hung up wants no answer
	})
	return mux
}
