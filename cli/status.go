package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
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
			status, live, err := e.status(c.Context())
			if err != nil {
				return err
			}
			if e.json() {
				return e.printJSON(status)
			}
			return e.printStatus(status, live)
		},
	}
}

// answerTime is how long the daemon may take to say how things stand: it reads
// places, and asks nobody.
const answerTime = 10 * time.Second

// status asks the daemon that has the data folder, or looks. live says whether
// a daemon answered.
func (e *env) status(ctx context.Context) (status keeper.Status, live bool, err error) {
	_, inCluster, err := e.configMap()
	if err != nil {
		return status, false, err
	}
	var starting bool
	if !inCluster {
		_, folder, err := e.locate()
		if err != nil {
			return status, false, err
		}
		status, err = e.ask(ctx, folder)
		if err == nil {
			return status, true, nil
		}
		if errors.Is(err, context.DeadlineExceeded) {
			e.warn([]string{"the daemon does not answer; this is what its journal and the targets say"})
		}
		starting = errors.Is(err, errStarting)
	}
	cfg, folder, err := e.loadToLook(ctx)
	if err != nil {
		return status, false, err
	}
	status, err = app.Status(ctx, cfg, folder, e.options())
	// What is proven at a start is replaced before it ends.
	status.Ready = status.Ready && !starting
	return status, false, err
}

// errStarting says that the daemon is not at work yet.
var errStarting = errors.New("the daemon is starting")

// ask has the daemon say how things stand.
func (e *env) ask(ctx context.Context, folder string) (status keeper.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	response, err := call(ctx, folder, http.MethodGet, "/status")
	if err != nil {
		return status, err
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusOK:
	case problem.Busy.HTTPStatus():
		return status, errStarting
	default:
		return status, errors.New(response.Status)
	}
	return status, json.NewDecoder(response.Body).Decode(&status)
}

func (e *env) printStatus(status keeper.Status, live bool) error {
	var rows [][]string
	for _, r := range status.Registries {
		rows = append(rows, []string{
			string(r.Host), string(r.Phase), dash(r.Credential), r.Scopes.String(), ago(r.Issued), ago(r.Expires), ago(r.NextRotation), dash(r.Probe),
		})
	}
	if err := e.table("REGISTRY PHASE CREDENTIAL SCOPES ISSUED EXPIRES ROTATION PROBE", rows); err != nil {
		return err
	}
	if err := e.printTargets(status.Targets); err != nil {
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
	for _, r := range status.Registries {
		if r.Unverified {
			e.printf("\nregistry %s: verify is off: nobody has tried its login\n", r.Host)
		}
	}
	switch {
	case !status.Ready:
		e.printf("\nnot ready\n")
	case live:
		e.printf("\nready: every target holds the login in force\n")
	case e.fromCluster():
		e.printf("\nready when last looked at: every target holds the login in force; no registry was asked\n")
	default:
		e.printf("\nready when last looked at: every target holds the login in force; no daemon runs, and no registry was asked\n")
	}
	return nil
}

// printTargets prints a table for each target. The places of one follow each
// other.
func (e *env) printTargets(places []keeper.PlaceStatus) error {
	for len(places) > 0 {
		name, kind := places[0].Name, places[0].Kind
		end := slices.IndexFunc(places, func(p keeper.PlaceStatus) bool { return p.Name != name })
		if end < 0 {
			end = len(places)
		}
		var rows [][]string
		well := 0
		for _, p := range places[:end] {
			if p.Phase == keeper.OK {
				well++
			}
			rows = append(rows, []string{string(p.Phase), ago(p.Delivered), ago(p.Verified), dash(p.Path)})
		}
		e.printf("\ntarget %s (%s): %d of %d ok\n", name, kind, well, end)
		if err := e.table("PHASE DELIVERED VERIFIED PLACE", rows); err != nil {
			return err
		}
		places = places[end:]
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
