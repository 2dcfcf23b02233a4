// Package cli is regkeeper's command line: one file a command. It owns flags,
// help, what is printed and the exit code.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/manifests"
	"github.com/regkeeper/regkeeper/problem"
)

// exitInterrupted is the exit code after a signal, as shells have it for
// SIGINT.
const exitInterrupted = 130

// Streams are the standard streams of a run.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Run runs one command line, without the program's name, and returns the exit
// code. It stops early, and cleanly, when ctx ends. Hangup asks a daemon to
// reload; it may be nil.
func Run(ctx context.Context, streams Streams, hangup <-chan os.Signal, args ...string) int {
	root := newRoot(&env{Streams: streams, hangup: hangup, plugin: isPlugin(os.Args[0])})
	root.SetArgs(args)
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		_, _ = fmt.Fprintln(streams.Err, "regkeeper: interrupted")
		return exitInterrupted
	}
	kind := problem.KindOf(err)
	if kind == problem.Pending {
		return kind.ExitCode()
	}
	_, _ = fmt.Fprintf(streams.Err, "regkeeper: error: %v\n", err)
	if hint := problem.HintOf(err); hint != "" {
		_, _ = fmt.Fprintf(streams.Err, "regkeeper: hint: %s\n", hint)
	}
	return kind.ExitCode()
}

// env is what the commands share.
type env struct {
	Streams
	hangup <-chan os.Signal

	configPath, dataPath string
	output               string
	verbose              bool
	logFormat            string
	kubeconfig, context  string
	namespace            string
	// plugin says that kubectl runs us.
	plugin bool
}

const exitCodes = `Exit codes:
  0 done   1 internal error   2 changes pending (plan)   3 usage   4 configuration
  5 login refused   6 not reachable   7 busy   8 not found   9 damaged document
  10 disk   11 partly done   12 refused by a limit   130 interrupted`

// Command is the tree of commands, for documentation.
func Command() *cobra.Command { return newRoot(&env{}) }

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "regkeeper",
		Short: "Keeps CI runners and build hosts logged in to a container registry",
		Long: `regkeeper mints registry logins, verifies them, delivers them to the places where
clients look for them, rotates them, and revokes the old ones when no place
holds them any more.

` + exitCodes,
		Example: `  regkeeper up                         # try it: embedded registry, minted login, proven pull
  regkeeper up --config regkeeper.yaml # the same for registries of yours, and stay
  regkeeper plan                       # what sync would do, and why
  regkeeper status`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if e.output != "text" && e.output != "json" {
				return problem.New(problem.Usage, "-o takes text or json", "output %q is not known", e.output)
			}
			if e.logFormat != "text" && e.logFormat != "json" {
				return problem.New(problem.Usage, "--log-format takes text or json", "log format %q is not known", e.logFormat)
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&e.configPath, "config", "", "the configuration (default ./regkeeper.yaml, then the user's and the system's folder); configmap:NAMESPACE/NAME is one in a cluster, for plan and status")
	flags.StringVar(&e.dataPath, "data", "", "the data folder (default ./regkeeper-data, or the state folder that goes with the configuration's place)")
	flags.StringVarP(&e.output, "output", "o", "text", "how results are printed: text or json")
	flags.BoolVarP(&e.verbose, "verbose", "v", false, "log more")
	flags.StringVar(&e.logFormat, "log-format", "text", "how logs are written: text or json")
	flags.StringVar(&e.kubeconfig, "kubeconfig", "", "the kubeconfig, where the configuration names none (default $KUBECONFIG, then ~/.kube/config, then the cluster this runs in)")
	flags.StringVar(&e.context, "context", "", "the kubeconfig's context (default the current one)")
	flags.StringVarP(&e.namespace, "namespace", "n", manifests.Name, "the namespace of the ConfigMap regkeeper, where kubectl regkeeper finds the configuration if there is no file")
	complete := func(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	}
	_ = root.RegisterFlagCompletionFunc("output", complete("text", "json"))
	_ = root.RegisterFlagCompletionFunc("log-format", complete("text", "json"))
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return problem.Wrap(err, problem.Usage, "see "+c.CommandPath()+" --help", "command line")
	})
	root.AddCommand(
		newUp(e), newSync(e), newPlan(e), newStatus(e), newRotate(e), newImage(e), newMirror(e), newRelease(e), newConfig(e), newRegistry(e),
		newRunner(e), newExplain(e), newDoctor(e), newAdvise(e), newInstall(e), newKubeletProvider(e), newVersion(e),
	)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			exampleOfEachShell(c)
		case "help":
			c.Example = example("regkeeper help up", "regkeeper help registry token create")
			c.Run, c.RunE = nil, helpFor
		}
	}
	strict(root)
	if e.plugin {
		asPlugin(root)
	}
	return root
}

// exampleOfEachShell gives cobra's completion commands their examples.
func exampleOfEachShell(completion *cobra.Command) {
	for _, c := range completion.Commands() {
		switch c.Name() {
		case "bash":
			c.Example = example("source <(regkeeper completion bash)", "regkeeper completion bash > /etc/bash_completion.d/regkeeper")
		case "zsh":
			c.Example = example(`regkeeper completion zsh > "${fpath[1]}/_regkeeper"`)
		case "fish":
			c.Example = example("regkeeper completion fish > ~/.config/fish/completions/regkeeper.fish")
		case "powershell":
			c.Example = example("regkeeper completion powershell | Out-String | Invoke-Expression")
		}
	}
}

// helpFor prints a command's help. Cobra's own calls an unknown command a
// success.
func helpFor(c *cobra.Command, args []string) error {
	about, rest, err := c.Root().Find(args)
	if err != nil || about == nil {
		return problem.Wrap(err, problem.Usage, "see "+c.Root().CommandPath()+" --help", "help")
	}
	if len(rest) > 0 && about.HasSubCommands() {
		return unknownCommand(about, rest[0])
	}
	about.InitDefaultHelpFlag()
	return about.Help()
}

func unknownCommand(c *cobra.Command, word string) error {
	hint := "see " + c.CommandPath() + " --help"
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(word); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "? " + hint
	}
	return problem.New(problem.Usage, hint, "unknown command %q for %q", word, c.CommandPath())
}

// strict makes wrong arguments a usage problem, and a group without a command
// an error rather than a success.
func strict(c *cobra.Command) {
	check := c.Args
	c.Args = func(cmd *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		return problem.Wrap(check(cmd, args), problem.Usage, "see "+cmd.CommandPath()+" --help", "command line")
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		}
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

func (e *env) logger() *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if e.verbose {
		options.Level = slog.LevelDebug
	}
	if e.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(e.Err, options))
	}
	return slog.New(slog.NewTextHandler(e.Err, options))
}

// locate is the configuration's path, empty if there is none, and the data
// folder.
func (e *env) locate() (path, data string, err error) {
	if strings.HasPrefix(e.configPath, configMapPrefix) {
		return "", "", problem.New(problem.Usage, "give it the file", "a configuration in a cluster is for plan and status")
	}
	path, data, err = config.Find(e.configPath)
	if err != nil && !errors.Is(err, config.ErrNone) {
		return "", "", err
	}
	if e.dataPath != "" {
		data = e.dataPath
	}
	data, absErr := filepath.Abs(data)
	return path, data, absErr
}

// load reads the configuration.
func (e *env) load() (c config.Config, data string, err error) {
	path, data, err := e.locate()
	if err != nil {
		return c, data, err
	}
	if path == "" {
		return c, data, problem.New(problem.NotFound,
			"write a regkeeper.yaml as the README shows, name one with --config, or run regkeeper up without one",
			"no configuration was found")
	}
	c, err = config.Load(path)
	return c, data, err
}

// loadOrDefault is as load; where there is no configuration and the data
// folder was made by up without one, it is up's own.
func (e *env) loadOrDefault() (c config.Config, data string, err error) {
	path, data, err := e.locate()
	if err != nil || path != "" {
		if err == nil {
			c, err = config.Load(path)
		}
		return c, data, err
	}
	address, ok := rememberedAddress(data)
	if !ok {
		return e.load()
	}
	return defaultConfig(data, address), data, nil
}

// klogTaken is done when klog's output goes to the log.
var klogTaken sync.Once

// options are what commands that work with clusters have in common.
func (e *env) options() app.Options {
	log := e.logger()
	// client-go logs by klog, which is one for the process, past everyone.
	klogTaken.Do(func() { klog.SetSlogLogger(slog.New(quieter{log.Handler()})) })
	return app.Options{Kubeconfig: e.kubeconfig, Context: e.context, Version: version().Version, Log: log}
}

// quieter passes on what went wrong, and the rest with --verbose only.
type quieter struct{ slog.Handler }

// Handle logs what client-go informs of as details.
func (q quieter) Handle(ctx context.Context, record slog.Record) error {
	if record.Level < slog.LevelWarn {
		record.Level = slog.LevelDebug
	}
	if !q.Enabled(ctx, record.Level) {
		return nil
	}
	return q.Handler.Handle(ctx, record)
}

// WithAttrs and WithGroup stay quiet.
func (q quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quieter{q.Handler.WithAttrs(attrs)}
}

// WithGroup is as [slog.Handler] says.
func (q quieter) WithGroup(name string) slog.Handler { return quieter{q.Handler.WithGroup(name)} }

func (e *env) json() bool { return e.output == "json" }

func (e *env) printf(format string, args ...any) {
	// Who closes standard output wants no more of it.
	_, _ = fmt.Fprintf(e.Out, format, args...)
}

func (e *env) warn(warnings []string) {
	for _, warning := range warnings {
		_, _ = fmt.Fprintf(e.Err, "regkeeper: warning: %s\n", warning)
	}
}

func example(lines ...string) string { return "  " + strings.Join(lines, "\n  ") }
