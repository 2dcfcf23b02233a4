package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/explain"
	"github.com/regkeeper/regkeeper/explain/scene"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/trial"
)

// allClients stands for every client under --as.
const allClients = "all"

func newExplain(e *env) *cobra.Command {
	var q app.Question
	var pod, jobEnv string
	command := &cobra.Command{
		Use:   "explain [IMAGE]",
		Short: "Say which login a client uses for an image, and why a pull fails",
		Long: `Explain says which login a client would use for an image: from which file, variable,
Secret or helper, by which of the client's own rules, and what it passes over and why. Then it
tries that login at the registry, as a pull does, and says what follows: the cause, and what to
do about it. Nothing is changed, neither here nor at the registry.

Without --as the client is docker; for a pod it is the kubelet, for a target the one that
the target is for. --as all compares all clients. The clients:

` + clientList(),
		Example: example(
			"regkeeper explain gitea.example.com/admin/api:1.0",
			"regkeeper explain gitea.example.com/admin/api:1.0 --as gitea-runner --target runners",
			"regkeeper explain registry.example.com/app --as gitlab-runner --job-env job.env",
			"regkeeper explain --pod web/api-7d9f",
			"regkeeper explain alpine --as all --offline",
		),
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.Image = args[0]
			}
			if slices.Contains(q.As, allClients) {
				q.As, q.All = nil, true
			}
			if err := parsePod(pod, &q.Pod); err != nil {
				return err
			}
			if q.Target != "" && (pod != "" || q.DockerConfig != "") {
				return problem.New(problem.Usage, "name one of them", "--target says itself which pod and file are meant")
			}
			if jobEnv != "" {
				text, err := os.ReadFile(jobEnv)
				if err != nil {
					return problem.Wrap(err, problem.Config, "name the file that `env` was written to", "read the job's variables")
				}
				var ok bool
				if q.Job, ok = scene.ParseJob(string(text)); !ok {
					return problem.New(problem.Config, "write NAME=value lines, as `env` or `env -0` prints them", "read %s: its first line is not NAME=value", jobEnv)
				}
			}
			return e.explain(c, q)
		},
	}
	flags := command.Flags()
	flags.StringSliceVar(&q.As, "as", nil, "the client, or all; see above (may be given more than once)")
	flags.StringVar(&q.DockerConfig, "docker-config", "", "read this config.json in place of the client's own")
	flags.StringVar(&q.Target, "target", "", "look at the places of this target of the configuration")
	flags.StringVar(&pod, "pod", "", "look at this pod, NAMESPACE/NAME")
	flags.StringVar(&q.Container, "container", "", "which container of the pod")
	flags.StringVar(&jobEnv, "job-env", "", "a file with the variables of a CI job, NAME=value each line")
	flags.BoolVar(&q.Offline, "offline", false, "ask no registry and no helper: the rules alone")
	flags.BoolVar(&q.Insecure, "insecure", false, "allow plain HTTP")
	mustComplete(command, "as", func() []string {
		names := []string{allClients}
		for _, client := range consumer.All() {
			names = append(names, client.Name)
		}
		return names
	})
	return command
}

// mustComplete has a flag's values offered by the shell.
func mustComplete(command *cobra.Command, flag string, values func() []string) {
	if err := command.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values(), cobra.ShellCompDirectiveNoFileComp
	}); err != nil {
		panic(err) // the flag is this command's own
	}
}

func clientList() string {
	var b strings.Builder
	for _, client := range consumer.All() {
		_, _ = fmt.Fprintf(&b, "  %-25s %s\n", client.Name, client.About)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func parsePod(text string, name *types.NamespacedName) error {
	if text == "" {
		return nil
	}
	namespace, pod, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || pod == "" {
		return problem.New(problem.Usage, "write --pod NAMESPACE/NAME", "%q is no pod", text)
	}
	*name = types.NamespacedName{Namespace: namespace, Name: pod}
	return nil
}

func (e *env) explain(c *cobra.Command, q app.Question) error {
	conf, folder, err := e.loadOrDefault()
	if err != nil && e.configPath == "" && q.Target == "" {
		// What is wrong with a configuration that is not asked for stops nothing.
		if problem.KindOf(err) != problem.NotFound {
			e.warn([]string{"the configuration is left out: " + err.Error()})
		}
		conf, err = config.Config{}, nil
	}
	if err != nil {
		return err
	}
	data, err := app.Look(c.Context(), conf, folder, e.options())
	if err != nil {
		return err
	}
	all, err := app.Explain(c.Context(), conf, data, q)
	if err != nil {
		return err
	}
	if e.json() {
		shown := make([]explained, len(all))
		for i, one := range all {
			shown[i] = explainedOf(one)
		}
		if err := e.printJSON(shown); err != nil {
			return err
		}
	} else if err := e.explainText(all); err != nil {
		return err
	}
	return notServed(all)
}

// notServed is the error of a client that does not get its image: of its worst
// diagnosis.
func notServed(all []app.Explanation) error {
	for _, one := range all {
		for _, d := range one.Diagnoses {
			if d.Severity == explain.Error {
				return problem.New(kindOfFailure(one, d.Code), "", "%s does not get %s: %s", one.Client.Name, one.Decision.Image, d.Title)
			}
		}
	}
	return nil
}

// kindOfFailure is what a pull that fails is, for the exit code.
func kindOfFailure(one app.Explanation, code explain.Code) problem.Kind {
	if code == "tag-missing" || code == "repository-unknown" {
		return problem.NotFound
	}
	for _, t := range one.Trials {
		if t.Answer.Last().Fault != nil {
			return problem.Unreachable
		}
	}
	return problem.Denied
}

// explained is an explanation as it is printed. It holds no secret.
type explained struct {
	Client    string              `json:"client"`
	Place     string              `json:"place"`
	Image     string              `json:"image"`
	Host      string              `json:"host"`
	Outcomes  []explainedOutcome  `json:"outcomes"`
	Looked    []consumer.Look     `json:"looked"`
	Rules     []consumer.Rule     `json:"rules,omitempty"`
	Tried     []trial.Trial       `json:"tried,omitempty"`
	Diagnoses []explain.Diagnosis `json:"diagnoses"`
	Notes     []string            `json:"notes,omitempty"`
}

type explainedOutcome struct {
	Logins  []explainedLogin `json:"logins"`
	Fails   string           `json:"fails,omitempty"`
	Unknown bool             `json:"unknown,omitempty"`
	Rule    *consumer.Rule   `json:"rule,omitempty"`
}

type explainedLogin struct {
	Username string        `json:"username,omitempty"`
	Kind     string        `json:"kind"`
	Where    string        `json:"where"`
	Key      string        `json:"key,omitempty"`
	Rule     consumer.Rule `json:"rule"`
}

func explainedOf(one app.Explanation) explained {
	d := one.Decision
	shown := explained{
		Client: one.Client.Name, Place: one.Place, Image: d.Image, Host: string(d.Host), Looked: d.Looked, Rules: d.Rules,
		Tried: one.Trials, Diagnoses: one.Diagnoses, Notes: one.Notes, Outcomes: []explainedOutcome{},
	}
	if shown.Looked == nil {
		shown.Looked = []consumer.Look{}
	}
	if shown.Diagnoses == nil {
		shown.Diagnoses = []explain.Diagnosis{}
	}
	for _, o := range d.Outcomes {
		next := explainedOutcome{Logins: []explainedLogin{}, Unknown: o.Unknown}
		if o.Err != nil {
			next.Fails = o.Err.Error()
		}
		if o.Rule.ID != "" {
			next.Rule = &o.Rule
		}
		for _, f := range o.Tries {
			next.Logins = append(next.Logins, explainedLogin{
				Username: f.Login.Username, Kind: kindOf(f.Login), Where: f.Where, Key: f.Key, Rule: f.Rule,
			})
		}
		shown.Outcomes = append(shown.Outcomes, next)
	}
	return shown
}

// kindOf says what a login consists of.
func kindOf(l consumer.Login) string {
	switch {
	case !l.RegistryToken.Empty():
		return "registry token"
	case !l.IdentityToken.Empty():
		return "identity token"
	case l.Empty():
		return "nothing"
	}
	return "password"
}

func (e *env) explainText(all []app.Explanation) error {
	if len(all) > 1 {
		rows := make([][]string, 0, len(all))
		for _, one := range all {
			rows = append(rows, []string{one.Client.Name, one.Place, one.Decision.Image, summaryOf(one), codesOf(one)})
		}
		return e.table("CLIENT PLACE IMAGE LOGIN DIAGNOSIS", rows)
	}
	for _, one := range all {
		e.printf("image   %s\nclient  %s: %s\nplace   %s\n", one.Decision.Image, one.Client.Name, one.Client.About, one.Place)
		e.outcomesText(one.Decision)
		if err := e.lookedText(one.Decision.Looked); err != nil {
			return err
		}
		e.trialsText(one.Trials)
		for _, d := range one.Diagnoses {
			e.printf("\n%s  %s: %s\n", d.Severity, d.Code, d.Cause)
			for _, line := range d.Evidence {
				e.printf("  seen  %s\n", line)
			}
			if d.Cure != "" {
				e.printf("  do    %s\n", d.Cure)
			}
			e.printf("  more  %s\n", d.Doc)
		}
		for _, note := range one.Notes {
			e.printf("\nnote    %s\n", note)
		}
	}
	return nil
}

func (e *env) outcomesText(d consumer.Decision) {
	if len(d.Outcomes) > 1 {
		e.printf("login   one of %d, by chance:\n", len(d.Outcomes))
	}
	for _, o := range d.Outcomes {
		switch {
		case o.Err != nil:
			e.printf("login   none: it gives up: %v\nrule    %s: %s (%s)\n", o.Err, o.Rule.ID, o.Rule.Text, o.Rule.Source)
		case o.Unknown:
			e.printf("login   not known: a helper would be asked\nrule    %s: %s (%s)\n", o.Rule.ID, o.Rule.Text, o.Rule.Source)
		case len(o.Tries) == 0:
			e.printf("login   none: it asks as nobody\nrule    %s: %s (%s)\n", o.Rule.ID, o.Rule.Text, o.Rule.Source)
		}
		for i, f := range o.Tries {
			label := "login"
			if i > 0 {
				label = "then "
			}
			e.printf("%s   %s\nrule    %s: %s (%s)\n", label, foundText(f), f.Rule.ID, f.Rule.Text, f.Rule.Source)
		}
	}
}

func foundText(f consumer.Found) string {
	who := f.Login.Username
	if kind := kindOf(f.Login); kind != "password" {
		who = strings.TrimSpace(who + " by " + kind)
	}
	text := who + ", from " + f.Where
	if f.Key != "" {
		text += ", entry " + f.Key
	}
	return text
}

func (e *env) lookedText(looked []consumer.Look) error {
	if len(looked) == 0 {
		return nil
	}
	e.printf("\n")
	rows := make([][]string, 0, len(looked))
	for _, l := range looked {
		rows = append(rows, []string{l.Where, dash(l.Key), string(l.Verdict), dash(l.Why)})
	}
	return e.table("LOOKED-AT ENTRY VERDICT WHY", rows)
}

func (e *env) trialsText(trials []trial.Trial) {
	for _, t := range trials {
		who := t.Answer.Username
		if t.Try < 0 {
			who = "nobody"
		}
		e.printf("\nasked %s as %s\n", t.Answer.Host, who)
		for _, s := range t.Answer.Steps {
			said := fmt.Sprint(s.Status)
			switch {
			case s.Fault != nil:
				said = s.Fault.Text
			case s.Status == 0:
				said = "ok"
			}
			asked := s.Asked
			if asked == "" {
				asked = string(s.Stage)
			}
			e.printf("  %-9s %s: %s\n", s.Stage, asked, said)
		}
	}
}

// summaryOf is the login in a few words.
func summaryOf(one app.Explanation) string {
	var texts []string
	for _, o := range one.Decision.Outcomes {
		switch {
		case o.Err != nil:
			texts = append(texts, "gives up")
		case o.Unknown:
			texts = append(texts, "not known")
		case len(o.Tries) == 0:
			texts = append(texts, "nobody")
		default:
			texts = append(texts, foundText(o.Tries[0]))
		}
	}
	return strings.Join(texts, " or ")
}

func codesOf(one app.Explanation) string {
	var codes []string
	for _, d := range one.Diagnoses {
		if d.Severity != explain.Info {
			codes = append(codes, string(d.Code))
		}
	}
	return dash(strings.Join(codes, " "))
}
