package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
	"github.com/regkeeper/regkeeper/state"
	"github.com/regkeeper/regkeeper/target/file"
	"github.com/regkeeper/regkeeper/target/runnerconfig"
)

// delivers has the keeper deliver logins to a runner, now and from then on: by a
// target in regkeeper's own configuration, which it adds where there is none.
type delivers struct {
	*env
	// all says that no registry was named: the target gets the logins of all that
	// the configuration has, or will have.
	all bool
}

var _ runner.Deliverer = delivers{}

const (
	// deliverPatience is how long a daemon is given to take up a target that was
	// added, and to deliver.
	deliverPatience  = 30 * time.Second
	deliverPause     = 100 * time.Millisecond
	deliverPauseMost = 2 * time.Second
)

// Deliver adds the target, has one pass made, and returns when the place holds the
// logins in force; see [runner.Deliverer].
func (d delivers) Deliver(ctx context.Context, delivery runner.Delivery) error {
	path, folder, err := d.locate()
	if err != nil {
		return err
	}
	c, err := config.Load(path)
	if err != nil {
		return err
	}
	if !covered(c, delivery) {
		name, err := d.addTarget(ctx, path, c, delivery)
		if err != nil {
			return err
		}
		d.note("added target %s to %s: it keeps the login there from now on", name, path)
	}
	result, hadDaemon, err := d.pass(ctx, folder)
	if starting := hadDaemon && problem.KindOf(err) == problem.Busy; err != nil && !starting && concerns(result, delivery) {
		return err
	}
	deadline, pause := time.Now().Add(deliverPatience), deliverPause
	for {
		missing, why, lookErr := d.lacks(ctx, folder, delivery)
		switch {
		case lookErr != nil:
			return lookErr
		case missing == "":
			return nil // what else a pass could not do, status tells
		case !hadDaemon || time.Now().After(deadline):
			// A daemon takes the new target up a moment after the file changed.
			return cmp.Or(err, error(problem.New(problem.Partial, "see regkeeper status", "%s has no login for %s that is in force%s", delivery.Path, missing, why)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			pause = min(2*pause, deliverPauseMost)
		}
	}
}

// pass has one pass made, by the daemon that has the folder or here. The result of
// the command is the runner: what the pass does is told beside.
func (d delivers) pass(ctx context.Context, folder string) (result keeper.Result, hadDaemon bool, err error) {
	if result, hadDaemon, err = order(ctx, folder, keeper.Rotate{}); hadDaemon {
		return result, true, err
	}
	var told bytes.Buffer
	here, beside := *d.env, *d.env
	here.Out, here.output = &told, "json"
	err = here.sync(ctx, keeper.Rotate{})
	if told.Len() == 0 {
		return result, false, err
	}
	if jerr := json.Unmarshal(told.Bytes(), &result); jerr != nil {
		return result, false, errors.Join(err, jerr)
	}
	beside.Out, beside.output = d.Err, "text"
	_ = beside.printResult(result, nil, beside.stepLog())
	return result, false, err
}

// concerns says whether what went wrong in a pass concerns a delivery: the login of
// one of its registries, or its place; all that no step tells.
func concerns(result keeper.Result, delivery runner.Delivery) bool {
	return len(result.Failed) == 0 || slices.ContainsFunc(result.Failed, func(f keeper.Failure) bool {
		if f.Step.Host != "" && !slices.Contains(delivery.Registries, f.Step.Host) {
			return false
		}
		return f.Step.Place == "" || strings.HasPrefix(string(f.Step.Place), delivery.Path)
	})
}

// lacks is the first registry whose login in force is not where it should be, and
// why if the journal knows; empty for none.
func (d delivers) lacks(ctx context.Context, folder string, delivery runner.Delivery) (missing credential.Host, why string, err error) {
	var target credential.Target = file.New(file.Config{Paths: []string{delivery.Path}, Literal: true})
	if delivery.Way == runner.Environment {
		target = runnerconfig.New(runnerconfig.Config{Path: delivery.Path, Runners: []string{delivery.Runner}})
	}
	_, inCluster, err := d.configMap()
	if err != nil {
		return "", "", err
	}
	journal := state.New()
	if !inCluster {
		if journal, err = state.Read(folder); err != nil {
			return "", "", err
		}
	}
	places, err := target.Places(ctx)
	if err != nil {
		return "", "", err
	}
	for _, place := range places {
		held, err := target.Held(ctx, place, delivery.Registries)
		if err != nil {
			return "", "", err
		}
		for _, host := range delivery.Registries {
			login, ok := held[host]
			known := journal.Registries[host]
			switch {
			case !ok || !inCluster && (known == nil || known.Current == nil):
				return host, "", nil
			case inCluster:
			case known.Trouble != nil:
				return host, ": " + known.Trouble.Text, nil
			case !login.Equal(known.Current.Login()):
				return host, ": another one is there", nil
			}
		}
	}
	return "", "", nil
}

// covered says whether a target of the configuration delivers there already.
func covered(c config.Config, delivery runner.Delivery) bool {
	return slices.ContainsFunc(c.Targets, func(t config.Target) bool {
		for _, host := range delivery.Registries {
			if len(t.Registries) > 0 && !slices.Contains(t.Registries, host) {
				return false
			}
		}
		if delivery.Way == runner.Environment {
			r := t.RunnerConfig
			return r != nil && r.Path == delivery.Path && (len(r.Runners) == 0 || slices.Contains(r.Runners, delivery.Runner))
		}
		return t.File != nil && t.File.Format == config.FormatDocker && slices.Contains(t.File.Paths, delivery.Path)
	})
}

// addTarget writes a target into the configuration, and changes nothing else in
// it.
func (d delivers) addTarget(ctx context.Context, path string, c config.Config, delivery runner.Delivery) (name string, err error) {
	name = "runner"
	for n := 2; slices.ContainsFunc(c.Targets, func(t config.Target) bool { return t.Name == name }); n++ {
		name = fmt.Sprintf("runner-%d", n)
	}
	lines := []string{"name: " + name}
	if !d.all {
		hosts := make([]string, len(delivery.Registries))
		for i, host := range delivery.Registries {
			hosts[i] = strconv.Quote(string(host))
		}
		lines = append(lines, "registries: ["+strings.Join(hosts, ", ")+"]")
	}
	if delivery.Way == runner.Environment {
		lines = append(lines, fmt.Sprintf("runnerConfig: {path: %q, runners: [%q]}", delivery.Path, delivery.Runner))
	} else {
		lines = append(lines, fmt.Sprintf("file: {path: %q}", delivery.Path))
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", disk.Problem(err, "inspect %s", path)
	}
	document := disk.File[*plainText]{Path: path, Mode: info.Mode().Perm(), Format: disk.Format[*plainText]{
		Parse: func(text []byte) (*plainText, error) { return &plainText{bytes.Clone(text)}, nil },
	}}
	_, err = document.Update(ctx, func(doc *plainText) (bool, error) {
		byHand := problem.New(problem.Config, "add it under targets: - "+strings.Join(lines, "; "), "%s cannot be given a target by itself", path)
		text, ok := withTarget(string(doc.text), lines)
		if !ok {
			return false, byHand
		}
		before, err := config.Parse(path, base, doc.text)
		if err != nil {
			return false, err
		}
		after, err := config.Parse(path, base, []byte(text))
		if err != nil || len(after.Targets) != len(before.Targets)+1 || !covered(after, delivery) {
			return false, byHand
		}
		after.Targets = slices.DeleteFunc(slices.Clone(after.Targets), func(t config.Target) bool { return t.Name == name })
		if len(before.Targets) > 0 && !reflect.DeepEqual(before.Targets, after.Targets) {
			return false, byHand
		}
		doc.text = []byte(text)
		return true, nil
	})
	return name, err
}

// plainText is a document that is not taken apart.
type plainText struct{ text []byte }

// Bytes implements [disk.Document].
func (p *plainText) Bytes() []byte { return p.text }

// withTarget puts a target in front of the others, laid out as they are, or, where
// there are none, at the document's end.
func withTarget(text string, target []string) (string, bool) {
	lines := strings.SplitAfter(text, "\n")
	entry := func(indent string) string {
		return indent + "- " + strings.Join(target, "\n"+indent+"  ") + "\n"
	}
	for i, line := range lines {
		rest, ok := strings.CutPrefix(line, "targets:")
		if !ok {
			continue
		}
		if rest = strings.TrimSpace(rest); rest != "" && !strings.HasPrefix(rest, "#") {
			return "", false // on one line, or with an anchor
		}
		for _, below := range lines[i+1:] {
			bare := strings.TrimSpace(below)
			if bare == "" || strings.HasPrefix(bare, "#") {
				continue
			}
			indent := below[:len(below)-len(strings.TrimLeft(below, " "))]
			if !strings.HasPrefix(bare, "- ") {
				return "", false
			}
			return strings.Join(lines[:i+1], "") + entry(indent) + strings.Join(lines[i+1:], ""), true
		}
		return "", false
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + "targets:\n" + entry("  "), true
}
