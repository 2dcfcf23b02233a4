package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
	"github.com/regkeeper/regkeeper/runner/gitea"
	"github.com/regkeeper/regkeeper/runner/gitlab"
	"github.com/regkeeper/regkeeper/runnerconfig"
)

// registerFlags are those of register.
type registerFlags struct {
	runnerFlags
	flags *pflag.FlagSet

	url, token, tokenFile, registrationToken, registrationTokenFile string
	name                                                            string
	nonInteractive, replace, planOnly                               bool

	// GitLab.
	runnerType                         string
	groupID, projectID, maximumTimeout int64
	maintenanceNote, tagList           string
	runUntagged, locked, paused        bool
	accessLevel                        string
	executor, dockerImage, template    string
	services, volumes, pullPolicy, env []string
	helperImage, shell, buildsDir      string
	cacheDir, cloneURL, caFile         string
	privileged, passProxies            bool
	limit, requestConcurrency          int64
	registries                         []string
	loginIn, dockerConfig              string
	noLogin                            bool

	// Gitea and Forgejo.
	labels    []string
	ephemeral bool
}

// registerVariables are what GitLab Runner takes of the environment where a flag
// is not given (gitlab-runner, commands/register.go).
var registerVariables = map[string]string{
	"url": "CI_SERVER_URL", "token": "CI_SERVER_TOKEN", "registration-token": "REGISTRATION_TOKEN", "description": "RUNNER_NAME",
	"executor": "RUNNER_EXECUTOR", "docker-image": "DOCKER_IMAGE", "tag-list": "RUNNER_TAG_LIST", "run-untagged": "REGISTER_RUN_UNTAGGED",
	"locked": "REGISTER_LOCKED", "access-level": "REGISTER_ACCESS_LEVEL", "maximum-timeout": "REGISTER_MAXIMUM_TIMEOUT", "paused": "REGISTER_PAUSED",
	"maintenance-note": "REGISTER_MAINTENANCE_NOTE", "tls-ca-file": "CI_SERVER_TLS_CA_FILE", "template-config": "TEMPLATE_CONFIG_FILE", "non-interactive": "REGISTER_NON_INTERACTIVE",
}

func newRunnerRegister(e *env) *cobra.Command {
	var f registerFlags
	c := &cobra.Command{
		Use:   "register",
		Short: "Register a runner, with the login for its private images",
		Long: `Register makes this machine a runner of a GitLab, Gitea or Forgejo server, and has
regkeeper keep the login for its job, service and helper images, so that the first
private job passes.

The token says how a GitLab runner comes to be:
  --access-token-file   an access token with the scope create_runner: the runner is
                        created at the server, with the settings given here
  --token               a runner's own (glrt-...), of one that was created at the
                        server: its settings are there, and refused here
  --registration-token  the way before those; GitLab 20.0 has it no more

For Gitea and Forgejo, --token is a registration token, or --access-token-file has an
access token with which one is got.

On a terminal, what is missing is asked for, tokens without being shown. A token on
the command line can be read by everyone on the machine while this runs: better, put
it into a file (- is standard input), or into $CI_SERVER_TOKEN, $REGISTRATION_TOKEN or
$RUNNER_ACCESS_TOKEN. HTTP_PROXY, HTTPS_PROXY and NO_PROXY are honoured (sudo -E).

A runner that is registered already is left as it is, or with --replace written anew:
nothing is ever appended twice. What was cut off is finished by the same command.

The login goes into the config.json that the runner reads before each pull, by a
target that is added to regkeeper.yaml if none delivers there yet.`,
		Example: example(
			"regkeeper runner register",
			"regkeeper runner register --non-interactive --url https://gitlab.com/ --token-file /run/secrets/runner \\",
			"    --executor docker --docker-image alpine:latest --description docker-runner",
			"regkeeper runner register --url https://gitlab.example.com --access-token-file /run/secrets/create-runner \\",
			"    --runner-type project_type --project-id 17 --executor docker --docker-image ruby:3.3 --tag-list docker,aws --run-untagged=true",
			"regkeeper runner register --forge gitea --url https://gitea.example.com --access-token-file - --scope org:acme \\",
			"    --name build-host --labels ubuntu:docker://gitea.example.com/acme/job:1"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.run(c.Context(), e)
		},
	}
	f.add(c)
	f.flags = c.Flags()
	f.flags.StringVarP(&f.url, "url", "u", "", "the server's root, for example https://gitlab.com")
	f.flags.StringVarP(&f.token, "token", "t", "", "the runner's token (glrt-...), or Gitea's registration token; better --token-file")
	f.flags.StringVar(&f.tokenFile, "token-file", "", "a file with that token, - for standard input")
	f.flags.StringVarP(&f.registrationToken, "registration-token", "r", "", "GitLab's registration token; better --registration-token-file")
	f.flags.StringVar(&f.registrationTokenFile, "registration-token-file", "", "a file with that token, - for standard input")
	f.flags.StringVar(&f.name, "description", "", "the runner's name here and at the server (default the host's)")
	f.flags.StringVar(&f.name, "name", "", "the same")
	f.flags.BoolVar(&f.nonInteractive, "non-interactive", false, "ask for nothing")
	f.flags.BoolVar(&f.replace, "replace", false, "write a GitLab runner that is there already anew")
	f.flags.BoolVar(&f.planOnly, "plan", false, "print what would be done, and do nothing")

	f.flags.StringVar(&f.runnerType, "runner-type", "", "whose jobs a created runner takes: instance_type, group_type or project_type (default by --group-id and --project-id)")
	f.flags.Int64Var(&f.groupID, "group-id", 0, "the group of a created runner")
	f.flags.Int64Var(&f.projectID, "project-id", 0, "the project of a created runner")
	f.flags.StringVar(&f.maintenanceNote, "maintenance-note", "", "a note for the runner's maintainers")
	f.flags.StringVar(&f.tagList, "tag-list", "", "the runner's tags, comma-separated")
	f.flags.BoolVar(&f.runUntagged, "run-untagged", false, "take jobs without tags (default true without --tag-list)")
	f.flags.BoolVar(&f.locked, "locked", true, "keep a project's runner from other projects")
	f.flags.StringVar(&f.accessLevel, "access-level", "", "not_protected, or ref_protected for jobs of protected branches and tags alone")
	f.flags.BoolVar(&f.paused, "paused", false, "take no jobs yet")
	f.flags.Int64Var(&f.maximumTimeout, "maximum-timeout", 0, "how long a job may take, in seconds")

	f.flags.StringVar(&f.executor, "executor", "", "how jobs are run: "+strings.Join(gitlab.Executors(), ", "))
	f.flags.StringVar(&f.dockerImage, "docker-image", "", "the image of jobs that name none")
	f.flags.StringArrayVar(&f.services, "docker-services", nil, "an image of a service beside each job; may be given again")
	f.flags.StringArrayVar(&f.volumes, "docker-volumes", nil, "a volume of each job; may be given again")
	f.flags.StringArrayVar(&f.pullPolicy, "docker-pull-policy", nil, "always, if-not-present or never; may be given again")
	f.flags.StringVar(&f.helperImage, "docker-helper-image", "", "the helper image")
	f.flags.BoolVar(&f.privileged, "docker-privileged", false, "give containers all rights, as Docker-in-Docker needs")
	f.flags.StringVar(&f.shell, "shell", "", "the shell: bash, sh or pwsh")
	f.flags.StringVar(&f.buildsDir, "builds-dir", "", "the folder of builds")
	f.flags.StringVar(&f.cacheDir, "cache-dir", "", "the folder of caches")
	f.flags.StringVar(&f.cloneURL, "clone-url", "", "the URL that jobs clone from, if it is another")
	f.flags.StringVar(&f.caFile, "tls-ca-file", "", "a file with certificates to trust for a GitLab server (default certs/HOST.crt beside config.toml, where it exists)")
	f.flags.Int64Var(&f.limit, "limit", 0, "how many jobs at once")
	f.flags.Int64Var(&f.requestConcurrency, "request-concurrency", 0, "how many jobs are asked for at once")
	f.flags.StringArrayVar(&f.env, "env", nil, "a variable of the jobs, NAME=VALUE; may be given again")
	f.flags.BoolVar(&f.passProxies, "pass-proxies", false, "give the jobs HTTP_PROXY, HTTPS_PROXY and NO_PROXY of this environment")
	f.flags.StringVar(&f.template, "template-config", "", "a config.toml with one [[runners]] that fills what is not given")

	f.flags.StringSliceVar(&f.labels, "labels", nil, "which jobs a Gitea or Forgejo runner takes: NAME:docker://IMAGE or NAME:host (default the runner's own)")
	f.flags.BoolVar(&f.ephemeral, "ephemeral", false, "have Gitea end the runner after its first job")

	f.flags.StringArrayVar(&f.registries, "registry", nil, "a registry of regkeeper.yaml whose login the runner gets; may be given again (default all)")
	f.flags.StringVar(&f.loginIn, "login-in", string(runner.ConfigFile), "where the login goes: config-file, or environment for DOCKER_AUTH_CONFIG in config.toml")
	f.flags.StringVar(&f.dockerConfig, "docker-config", "", "the config.json that the runner reads (default that of this user; for Gitea and Forgejo $DOCKER_CONFIG/config.json before that)")
	f.flags.BoolVar(&f.noLogin, "no-login", false, "leave logins alone")
	return c
}

func (f *registerFlags) changed(name string) bool { return f.flags.Changed(name) }

// registered is the result, as -o json prints it.
type registered struct {
	runner.Plan
	// Runner is nil if it was only planned.
	Runner *runner.Info `json:"runner"`
}

func (f *registerFlags) run(ctx context.Context, e *env) error {
	for _, flag := range []string{"token", "registration-token"} {
		if f.changed(flag) {
			e.warn([]string{"--" + flag + " shows the token to everyone on this machine while this runs: use --" + flag + "-file, or - there for standard input"})
		}
	}
	for flag, variable := range registerVariables {
		if value := os.Getenv(variable); value != "" && !f.changed(flag) {
			if flag == "token" && (f.tokenFile != "" || f.registrationToken != "" || f.registrationTokenFile != "") ||
				flag == "registration-token" && (f.registrationTokenFile != "" || f.token != "" || f.tokenFile != "") {
				continue // said on the command line
			}
			if err := f.flags.Set(flag, value); err != nil {
				return problem.Wrap(err, problem.Usage, "correct the variable, or unset it", "$%s", variable)
			}
		}
	}
	path, err := f.path()
	if err != nil {
		return err
	}
	secrets, err := f.secrets(ctx, e)
	if err != nil {
		return err
	}
	if err := f.ask(ctx, e, &secrets); err != nil {
		return err
	}
	if f.name == "" {
		if f.name, err = os.Hostname(); err != nil {
			return problem.Wrap(err, problem.Usage, "give --description", "name the runner")
		}
	}
	if f.caFile != "" {
		if f.caFile, err = filepath.Abs(f.caFile); err != nil {
			return err
		}
	}
	login, all, err := f.login(e, path)
	if err != nil {
		return err
	}
	deliverer := delivers{env: e, all: all}
	if f.forge == forgeGitLab {
		return f.gitlabRunner(ctx, e, path, secrets, login, deliverer)
	}
	return f.giteaRunner(ctx, e, path, secrets, login, deliverer)
}

// secrets are the tokens.
type secrets struct{ token, registration, access credential.Secret }

func (s secrets) none() bool { return s.token.Empty() && s.registration.Empty() && s.access.Empty() }

func (f *registerFlags) secrets(ctx context.Context, e *env) (s secrets, err error) {
	fromStdin := 0
	for _, file := range []string{f.tokenFile, f.registrationTokenFile, f.accessTokenFile} {
		if file == "-" {
			fromStdin++
		}
	}
	if fromStdin > 1 {
		return s, problem.New(problem.Usage, "put the others into files", "standard input has one token")
	}
	read := func(into *credential.Secret, text, file, variable string) {
		switch {
		case err != nil:
		case text != "":
			*into = credential.NewSecret(strings.TrimSpace(text))
		default:
			*into, err = e.secretFrom(ctx, file, variable)
		}
	}
	read(&s.token, f.token, f.tokenFile, "")
	read(&s.registration, f.registrationToken, f.registrationTokenFile, "")
	variable := accessTokenEnv
	if !s.none() && f.forge == forgeGitLab {
		variable = "" // one way is enough, and named
	}
	read(&s.access, "", f.accessTokenFile, variable)
	return s, err
}

// login is where the login goes; nil for nowhere. all says that no registry was
// named.
func (f *registerFlags) login(e *env, path string) (delivery *runner.Delivery, all bool, err error) {
	if f.noLogin {
		return nil, false, nil
	}
	way := runner.Way(f.loginIn)
	if way != runner.ConfigFile && way != runner.Environment {
		return nil, false, problem.New(problem.Usage, "--login-in takes config-file or environment", "place %q is not known", f.loginIn)
	}
	configPath, _, err := e.locate()
	if err != nil {
		return nil, false, err
	}
	if configPath == "" {
		if len(f.registries) == 0 {
			e.note("no regkeeper.yaml was found: no login for private images is set up")
			return nil, false, nil
		}
		return nil, false, problem.New(problem.NotFound, "write a regkeeper.yaml with the registry, as the README shows, or name one with --config",
			"no configuration says where the login for %s comes from", f.registries[0])
	}
	c, err := config.Load(configPath)
	if err != nil {
		return nil, false, err
	}
	delivery = &runner.Delivery{Way: way, Path: path, Runner: f.name}
	known := map[credential.Host]bool{}
	for _, r := range c.Registries {
		known[r.Host] = true
		if len(f.registries) == 0 {
			delivery.Registries = append(delivery.Registries, r.Host)
		}
	}
	for _, text := range f.registries {
		host, err := credential.ParseHost(text)
		if err != nil {
			return nil, false, err
		}
		if !known[host] {
			return nil, false, problem.New(problem.NotFound, "add it under registries there, with a source", "registry %s is not in %s", host, configPath)
		}
		delivery.Registries = append(delivery.Registries, host)
	}
	if len(delivery.Registries) == 0 {
		return nil, false, nil
	}
	if way == runner.ConfigFile {
		if delivery.Path, err = f.configJSON(e); err != nil {
			return nil, false, err
		}
		delivery.Runner = ""
	}
	return delivery, len(f.registries) == 0, nil
}

// configJSON is the config.json that the runner of this user reads. GitLab Runner
// does not look at $DOCKER_CONFIG.
func (f *registerFlags) configJSON(e *env) (string, error) {
	const name = "config.json"
	if f.dockerConfig != "" {
		return filepath.Abs(f.dockerConfig)
	}
	if folder := os.Getenv("DOCKER_CONFIG"); folder != "" && f.forge != forgeGitLab {
		return filepath.Abs(filepath.Join(folder, name))
	}
	home, err := runnerHome(os.Getuid())
	if err != nil {
		return "", problem.Wrap(err, problem.Usage, "give --docker-config FILE", "find the runner's config.json")
	}
	if has := os.Getenv("HOME"); os.Getuid() == 0 && has != "" && filepath.Clean(has) != filepath.Clean(home) {
		e.warn([]string{"the login goes to " + home + ", the home of the user that the runner runs as, and not to $HOME (" + has + "): --docker-config names another place"})
	}
	return filepath.Join(home, ".docker", name), nil
}

// runnerHome is the home of a runner that this user starts. That of root is root's
// own: with sudo -E, $HOME is of who called it, and no service looks there.
func runnerHome(uid int) (string, error) {
	if uid != 0 {
		return os.UserHomeDir()
	}
	root, err := user.LookupId("0")
	if err != nil {
		return "", err
	}
	return root.HomeDir, nil
}

func (f *registerFlags) gitlabRunner(ctx context.Context, e *env, path string, s secrets, login *runner.Delivery, deliverer runner.Deliverer) error {
	request := gitlab.Request{
		URL: f.url, Token: s.token, RegistrationToken: s.registration, AccessToken: s.access, Type: gitlab.Type(f.runnerType), GroupID: f.groupID,
		ProjectID: f.projectID, Name: f.name, AccessLevel: f.accessLevel, MaintenanceNote: f.maintenanceNote, MaximumTimeout: f.maximumTimeout,
		Executor: f.executor, Settings: f.settings(), Replace: f.replace, Login: login,
	}
	if f.runnerType == "" {
		switch {
		case f.groupID != 0:
			request.Type = gitlab.GroupType
		case f.projectID != 0:
			request.Type = gitlab.ProjectType
		default:
			request.Type = gitlab.InstanceType
		}
	}
	for _, tag := range strings.Split(f.tagList, ",") {
		if tag = strings.TrimSpace(tag); tag != "" {
			request.TagList = append(request.TagList, tag)
		}
	}
	for flag, setting := range map[string]struct {
		given bool
		into  **bool
	}{"run-untagged": {f.runUntagged, &request.RunUntagged}, "locked": {f.locked, &request.Locked}, "paused": {f.paused, &request.Paused}} {
		if f.changed(flag) {
			*setting.into = new(setting.given)
		}
	}
	if f.template != "" {
		text, err := os.ReadFile(f.template)
		if err != nil {
			return disk.Problem(err, "read template %s", f.template)
		}
		if request.Template, err = runnerconfig.Template(text); err != nil {
			return fmt.Errorf("template %s: %w", f.template, err)
		}
	}
	fleet := app.GitLabRunners(path)
	facts, err := fleet.Look(ctx)
	if err != nil {
		return err
	}
	if !f.planOnly {
		if facts, err = fleet.Ask(ctx, request, facts); err != nil {
			return err
		}
	}
	plan := gitlab.Decide(request, facts)
	return f.carryOut(e, &plan.Plan, func() (runner.Info, error) { return fleet.Apply(ctx, plan, deliverer) })
}

func (f *registerFlags) giteaRunner(ctx context.Context, e *env, path string, s secrets, login *runner.Delivery, deliverer runner.Deliverer) error {
	if f.scope == "" {
		f.scope = string(gitea.Instance)
	}
	fleet, err := f.gitea(path, s.access)
	if err != nil {
		return err
	}
	facts, err := fleet.Look(ctx)
	if err != nil {
		return err
	}
	token := s.token
	if token.Empty() {
		token = s.registration
	}
	plan := gitea.Decide(gitea.Request{URL: f.url, Token: token, Name: f.name, Labels: f.labels, Ephemeral: f.ephemeral, Login: login}, facts)
	return f.carryOut(e, &plan.Plan, func() (runner.Info, error) { return fleet.Apply(ctx, plan, deliverer) })
}

// carryOut prints a plan, and has it carried out.
func (f *registerFlags) carryOut(e *env, plan *runner.Plan, apply func() (runner.Info, error)) error {
	e.warn(plan.Warnings)
	if err := plan.Err("see regkeeper runner register --help"); err != nil {
		return err
	}
	result := registered{Plan: *plan}
	if !f.planOnly {
		info, err := apply()
		if err != nil {
			return err
		}
		result.Runner = &info
	}
	if e.json() {
		return e.printJSON(result)
	}
	e.steps(plan.Steps)
	if result.Runner != nil {
		e.printf("runner %s is registered at %s as number %d\n", result.Runner.Name, result.Runner.URL, result.Runner.ID)
	}
	return nil
}

// settings are the keys of the [[runners]] that flags give.
func (f *registerFlags) settings() runnerconfig.Section {
	list := func(of []string) (items []any) {
		for _, item := range of {
			items = append(items, item)
		}
		return items
	}
	environment := f.env
	if f.passProxies {
		for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
			if value := cmp.Or(os.Getenv(name), os.Getenv(strings.ToLower(name))); value != "" {
				environment = append(environment, name+"="+value, strings.ToLower(name)+"="+value)
			}
		}
	}
	var services []any
	for _, image := range f.services {
		services = append(services, map[string]any{"name": image})
	}
	section := runnerconfig.Section{}
	docker := map[string]any{}
	for _, key := range []struct {
		table map[string]any
		name  string
		value any
		given bool
	}{
		{section, "limit", f.limit, f.limit != 0},
		{section, "request_concurrency", f.requestConcurrency, f.requestConcurrency != 0},
		{section, "builds_dir", f.buildsDir, f.buildsDir != ""},
		{section, "cache_dir", f.cacheDir, f.cacheDir != ""},
		{section, "clone_url", f.cloneURL, f.cloneURL != ""},
		{section, "shell", f.shell, f.shell != ""},
		{section, runnerconfig.KeyCA, f.caFile, f.caFile != ""},
		{section, runnerconfig.KeyEnvironment, list(environment), len(environment) > 0},
		{docker, "image", f.dockerImage, f.dockerImage != ""},
		{docker, "helper_image", f.helperImage, f.helperImage != ""},
		{docker, "privileged", f.privileged, f.privileged},
		{docker, "pull_policy", list(f.pullPolicy), len(f.pullPolicy) > 0},
		{docker, "volumes", list(f.volumes), len(f.volumes) > 0},
		{docker, "services", services, len(services) > 0},
	} {
		if key.given {
			key.table[key.name] = key.value
		}
	}
	if len(docker) > 0 || strings.HasPrefix(f.executor, "docker") {
		section["docker"] = docker
	}
	return section
}
