package cli

import (
	"bufio"
	"context"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner/gitlab"
)

// asker asks on a terminal.
type asker struct {
	*env
	terminal *os.File
	lines    *bufio.Reader
}

// terminal is who asks; nil if there is nobody to be asked.
func (e *env) terminal() *asker {
	file, ok := e.In.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return &asker{env: e, terminal: file, lines: bufio.NewReader(file)}
}

// ask asks for one line, until there is one or a default.
func (a *asker) ask(ctx context.Context, into *string, question, otherwise string) error {
	if *into != "" {
		return nil
	}
	for *into == "" {
		if otherwise != "" {
			question = strings.TrimSuffix(question, ":") + " [" + otherwise + "]:"
		}
		if _, err := a.Err.Write([]byte(question + " ")); err != nil {
			return err
		}
		line, err := a.lines.ReadString('\n')
		if err != nil {
			return problem.Wrap(err, problem.Usage, "answer, or add --non-interactive and what is missing", "ask for what is missing")
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if *into = strings.TrimSpace(line); *into == "" {
			*into = otherwise
		}
	}
	return nil
}

// askSecret asks for a secret, which is not shown.
func (a *asker) askSecret(question string) (credential.Secret, error) {
	if _, err := a.Err.Write([]byte(question + " ")); err != nil {
		return credential.Secret{}, err
	}
	var text []byte
	var err error
	if a.lines.Buffered() > 0 { // typed ahead
		text, err = a.lines.ReadBytes('\n')
	} else {
		text, err = term.ReadPassword(int(a.terminal.Fd()))
	}
	_, _ = a.Err.Write([]byte("\n"))
	secret := credential.NewSecret(strings.TrimSpace(string(text)))
	return secret, problem.Wrap(err, problem.Usage, "give --token-file", "read the token")
}

// ask completes what was not given, on a terminal.
func (f *registerFlags) ask(ctx context.Context, e *env, s *secrets) error {
	a := e.terminal()
	if f.nonInteractive || a == nil {
		return nil
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	address, kind := "https://gitlab.com/", "runner authentication token (glrt-...) or registration token"
	if f.forge != forgeGitLab {
		address, kind = "https://gitea.example.com", "registration token"
	}
	if err := a.ask(ctx, &f.url, "The server's URL (for example "+address+"):", ""); err != nil {
		return err
	}
	if s.none() {
		token, err := a.askSecret("The " + kind + ":")
		if err != nil {
			return err
		}
		if s.token = token; f.forge == forgeGitLab && !gitlab.IsRunnerToken(token.Reveal()) {
			s.token, s.registration = credential.Secret{}, token
		}
	}
	if err := a.ask(ctx, &f.name, "A name for the runner:", host); err != nil || f.forge != forgeGitLab {
		return err
	}
	if !s.registration.Empty() && !gitlab.IsRunnerToken(s.registration.Reveal()) {
		for _, question := range []struct {
			flag, text string
			into       *string
		}{{"tag-list", "Tags, comma-separated (- for none):", &f.tagList}, {"maintenance-note", "A note for maintainers (- for none):", &f.maintenanceNote}} {
			if f.changed(question.flag) {
				continue
			}
			if err := a.ask(ctx, question.into, question.text, "-"); err != nil {
				return err
			}
			if *question.into == "-" {
				*question.into = ""
			}
		}
	}
	if f.template != "" {
		return nil // it may have the rest
	}
	if err := a.ask(ctx, &f.executor, "An executor ("+strings.Join(gitlab.Executors(), ", ")+"):", "docker"); err != nil {
		return err
	}
	if !strings.HasPrefix(f.executor, "docker") {
		return nil
	}
	image := "ruby:3.3"
	if f.executor == "docker-windows" {
		image = "mcr.microsoft.com/windows/servercore:1809"
	}
	return a.ask(ctx, &f.dockerImage, "The image of jobs that name none (for example "+image+"):", "")
}
