package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/lifecycle"
)

// printJSON prints a result as one indented JSON value.
func (e *env) printJSON(value any) error {
	encoder := json.NewEncoder(e.Out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// printLine prints a value as JSON in one line.
func (e *env) printLine(value any) {
	line, err := json.Marshal(value)
	if err == nil {
		e.printf("%s\n", line)
	}
}

// table prints rows under a heading, in columns.
func (e *env) table(heading string, rows [][]string) error {
	w := tabwriter.NewWriter(e.Out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(w, strings.ReplaceAll(heading, " ", "\t")); err != nil {
		return err
	}
	for _, row := range rows {
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}

func onTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// slow is how long a run is quiet before it shows that it is at work.
const slow = time.Second

// progress shows what is being done: on a terminal a line that is replaced,
// from the first second on; elsewhere nothing, since the result is printed as
// plain lines.
type progress struct {
	out   io.Writer
	timer *time.Timer

	mu    sync.Mutex // guards what follows
	bar   *progressbar.ProgressBar
	what  string
	steps int
	over  bool
}

func (e *env) progress() *progress {
	p := &progress{out: e.Err, what: "looking"}
	if onTerminal(e.Err) {
		p.timer = time.AfterFunc(slow, p.show)
	}
	return p
}

func (p *progress) show() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.bar = progressbar.NewOptions(-1, progressbar.OptionSetWriter(p.out), progressbar.OptionSetDescription(p.what),
		progressbar.OptionShowCount(), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
	_ = p.bar.Add(p.steps)
}

func (p *progress) step(event keeper.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps++
	p.what = fmt.Sprintf("%s %s", event.Step.Action, event.Step.Host)
	if p.bar != nil {
		p.bar.Describe(p.what)
		_ = p.bar.Add(1)
	}
}

// far shows how far a long work is.
func (p *progress) far(at lifecycle.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps, p.what = at.Done, at.What
	if p.bar != nil {
		p.bar.ChangeMax(max(at.Of, at.Done))
		p.bar.Describe(p.what)
		_ = p.bar.Set(at.Done)
	}
}

func (p *progress) done() {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

// ago is a time as people say it.
func ago(t *time.Time) string {
	if t == nil {
		return "-"
	}
	d := time.Since(*t)
	if d < 0 {
		return "in " + round(-d)
	}
	return round(d) + " ago"
}

func round(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d >= time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	case d >= time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
