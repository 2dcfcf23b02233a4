package cli

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/keeper"
)

func newStatus(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show each registry's login and what each target holds",
		Long: `Status reads the targets as they are and the journal of the data folder, and asks
a running daemon where there is one. It changes nothing and asks no registry.`,
		Example: example("regkeeper status", "regkeeper status -o json | jq .ready"),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			status, err := e.status(c.Context())
			if err != nil {
				return err
			}
			if e.json() {
				return e.printJSON(status)
			}
			return e.printStatus(status)
		},
	}
}

func (e *env) status(ctx context.Context) (keeper.Status, error) {
	cfg, folder, err := e.loadOrDefault()
	if err != nil {
		return keeper.Status{}, err
	}
	if response, err := call(ctx, folder, http.MethodGet, "/status"); err == nil {
		defer func() { _ = response.Body.Close() }()
		var status keeper.Status
		if response.StatusCode == http.StatusOK && json.NewDecoder(response.Body).Decode(&status) == nil {
			return status, nil
		}
	}
	return app.Status(ctx, cfg, folder)
}

func (e *env) printStatus(status keeper.Status) error {
	var rows [][]string
	for _, r := range status.Registries {
		rows = append(rows, []string{
			string(r.Host), string(r.Phase), dash(r.Credential), r.Scopes.String(), ago(r.Issued), ago(r.Expires), ago(r.NextRotation), dash(r.Probe),
		})
	}
	if err := e.table("REGISTRY PHASE CREDENTIAL SCOPES ISSUED EXPIRES ROTATION PROBE", rows); err != nil {
		return err
	}
	rows = nil
	for _, t := range status.Targets {
		rows = append(rows, []string{t.Name, t.Kind, string(t.Phase), ago(t.Delivered), ago(t.Verified), dash(t.Path)})
	}
	e.printf("\n")
	if err := e.table("TARGET KIND PHASE DELIVERED VERIFIED PATH", rows); err != nil {
		return err
	}
	for _, r := range status.Registries {
		for _, old := range r.Retired {
			e.printf("\nold login %s of %s: %s", old.Credential, r.Host, old.Reason)
			if !old.Until.IsZero() {
				e.printf(" (until %s)", old.Until.Local().Format("2006-01-02 15:04:05"))
			}
		}
		e.trouble("registry "+string(r.Host), r.Problem, r.Hint)
	}
	for _, t := range status.Targets {
		e.trouble("target "+t.Name+" "+t.Path, t.Problem, t.Hint)
	}
	if status.Ready {
		e.printf("\nready: every target holds a login that its registry accepts\n")
	} else {
		e.printf("\nnot ready\n")
	}
	return nil
}

func (e *env) trouble(where, text, hint string) {
	if text == "" {
		return
	}
	e.printf("\n%s: %s\n", where, text)
	if hint != "" {
		e.printf("  hint: %s\n", hint)
	}
}
