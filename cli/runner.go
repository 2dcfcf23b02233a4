package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
	"github.com/regkeeper/regkeeper/runner/gitea"
	"github.com/regkeeper/regkeeper/runner/gitlab"
)

func newRunner(e *env) *cobra.Command {
	group := &cobra.Command{
		Use:   "runner",
		Short: "Register CI runners of GitLab, Gitea and Forgejo, and look after them",
		Long: `Runner registers the CI runners of this machine, in the files that the runners
themselves read: config.toml of GitLab Runner, .runner of Gitea's and Forgejo's.
What else is in a config.toml stays as it is, byte for byte.`,
	}
	group.AddCommand(newRunnerRegister(e), newRunnerList(e), newRunnerVerify(e), newRunnerRotate(e), newRunnerUnregister(e))
	return group
}

// The forges. Forgejo's runners are as Gitea's.
const (
	forgeGitLab  = "gitlab"
	forgeGitea   = "gitea"
	forgeForgejo = "forgejo"
)

// accessTokenEnv has an access token where no file is named.
const accessTokenEnv = "RUNNER_ACCESS_TOKEN"

// runnerFlags are what the commands have in common.
type runnerFlags struct {
	forge, file, accessTokenFile, scope string
	selection                           runner.Selection
}

func (f *runnerFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.forge, "forge", forgeGitLab, "whose runner it is: gitlab, gitea or forgejo")
	flags.StringVar(&f.file, "runner-config", "", "the runner's file (default config.toml where GitLab Runner looks for it, $CONFIG_FILE before that; .runner in this folder for the others)")
	flags.StringVar(&f.accessTokenFile, "access-token-file", "", "a file with an access token for the forge's API, - for standard input (default $"+accessTokenEnv+")")
	flags.StringVar(&f.scope, "scope", "", "whose jobs a Gitea or Forgejo runner takes: instance, user, org:NAME or repo:OWNER/NAME (default instance to register; rotate and unregister must be told)")
	_ = c.RegisterFlagCompletionFunc("forge", cobra.FixedCompletions([]string{forgeGitLab, forgeGitea, forgeForgejo}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *runnerFlags) addSelection(c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVar(&f.selection.Names, "name", nil, "the runner's name; may be given again (default the only one)")
	flags.BoolVar(&f.selection.All, "all", false, "all runners of the file")
}

// path is the runner's file.
func (f *runnerFlags) path() (path string, err error) {
	path = f.file
	switch f.forge {
	case forgeGitLab:
		if path == "" {
			path = os.Getenv("CONFIG_FILE")
		}
		if path == "" {
			if path, err = gitlab.DefaultPath(); err != nil {
				return "", err
			}
		}
	case forgeGitea, forgeForgejo:
		if path == "" {
			path = ".runner"
		}
	default:
		return "", problem.New(problem.Usage, "--forge takes gitlab, gitea or forgejo", "forge %q is not known", f.forge)
	}
	return filepath.Abs(path)
}

// gitea makes the fleet of a .runner file, without a scope if none is said: a wrong
// one would have a runner that is rotated take the jobs of others.
func (f *runnerFlags) gitea(path string, accessToken credential.Secret) (_ *gitea.Fleet, err error) {
	var scope gitea.Scope
	if f.scope != "" {
		if scope, err = gitea.ParseScope(f.scope); err != nil {
			return nil, err
		}
	}
	return app.GiteaRunners(path, scope, accessToken), nil
}

// fleet makes what the flags say.
func (f *runnerFlags) fleet(ctx context.Context, e *env) (runner.Fleet, error) {
	path, err := f.path()
	if err != nil {
		return nil, err
	}
	if f.forge == forgeGitLab {
		return app.GitLabRunners(path), nil
	}
	accessToken, err := e.secretFrom(ctx, f.accessTokenFile, accessTokenEnv)
	if err != nil {
		return nil, err
	}
	return f.gitea(path, accessToken)
}

// maxToken bounds in bytes what is read of standard input.
const maxToken = 64 << 10

// secretFrom reads a secret of a file, or of standard input for -, or of the
// environment; it is empty if none of them has one.
func (e *env) secretFrom(ctx context.Context, file, variable string) (credential.Secret, error) {
	ref := secretref.Ref{Env: variable}
	switch {
	case file == "-":
		text, err := io.ReadAll(io.LimitReader(e.In, maxToken))
		if err != nil {
			return credential.Secret{}, problem.Wrap(err, problem.Usage, "pipe the token in", "read the token from standard input")
		}
		token := strings.TrimSpace(string(text))
		if token == "" || strings.ContainsAny(token, "\r\n") {
			return credential.Secret{}, problem.New(problem.Usage, "pipe one line in, with nothing but the token", "standard input has no token")
		}
		return credential.NewSecret(token), nil
	case file != "":
		ref = secretref.Ref{File: file}
	case os.Getenv(variable) == "":
		return credential.Secret{}, nil
	}
	return ref.Resolve(ctx)
}

// steps prints what was done.
func (e *env) steps(steps []runner.Step) {
	for _, step := range steps {
		e.printf("%-10s  %s: %s\n", step.Action, step.What, step.Reason)
	}
}

// printSteps prints what a verb did, also when it ended with an error.
func (e *env) printSteps(steps []runner.Step, err error) error {
	if !e.json() {
		e.steps(steps)
		return err
	}
	if steps == nil {
		steps = []runner.Step{}
	}
	if jerr := e.printJSON(struct {
		Steps []runner.Step `json:"steps"`
	}{steps}); jerr != nil {
		return jerr
	}
	return err
}
