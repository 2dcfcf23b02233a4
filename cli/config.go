package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/problem"
)

func newConfig(e *env) *cobra.Command {
	group := &cobra.Command{Use: "config", Short: "Check the configuration, or print its schema"}
	group.AddCommand(
		&cobra.Command{
			Use:   "check",
			Short: "Report every fault in the configuration at once",
			Long: `Check reads the configuration and reports every fault with line and excerpt. It
opens no connection and reads no secret.`,
			Example: example("regkeeper config check", "regkeeper config check --config /etc/regkeeper/regkeeper.yaml"),
			Args:    cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				return e.checkConfig()
			},
		},
		&cobra.Command{
			Use:     "schema",
			Short:   "Print the configuration's JSON Schema",
			Example: example("regkeeper config schema > regkeeper.schema.json"),
			Args:    cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				e.printf("%s", config.Schema)
				return nil
			},
		},
	)
	return group
}

func (e *env) checkConfig() error {
	path, _, err := e.locate()
	if err != nil {
		return err
	}
	if path == "" {
		return problem.New(problem.NotFound, "name one with --config", "no configuration was found")
	}
	c, err := config.Load(path)
	if e.json() {
		check := struct {
			Path     string         `json:"path"`
			OK       bool           `json:"ok"`
			Faults   []config.Fault `json:"faults"`
			Warnings []string       `json:"warnings"`
		}{Path: path, OK: err == nil, Faults: []config.Fault{}, Warnings: append([]string{}, c.Warnings...)}
		var faults *config.Error
		if errors.As(err, &faults) {
			check.Faults = faults.Faults
		}
		if jerr := e.printJSON(check); jerr != nil {
			return jerr
		}
		return err
	}
	if err != nil {
		return err
	}
	e.warn(c.Warnings)
	e.printf("%s: no fault found (%d registries, %d targets)\n", path, len(c.Registries), len(c.Targets))
	return nil
}
