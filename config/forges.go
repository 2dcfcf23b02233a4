package config

import (
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
)

// GitLab is a project or group of a GitLab server.
type GitLab struct {
	URL string
	// Project or Group is set, by number or path.
	Project, Group string
	// Kind is deploy-token or access-token.
	Kind string
	// AccessLevel is the role of access tokens; zero for the least that will do.
	AccessLevel int
	// Password is a token for the API.
	Password secretref.Ref
}

// Harbor is a project of a Harbor server.
type Harbor struct {
	URL, Project, User string
	Password           secretref.Ref
}

// ECR is a registry of Amazon's, by what the AWS CLI is configured with.
type ECR struct {
	Profile, Role, Region, Endpoint string
	RenewAhead                      time.Duration
}

// Helper is a credential helper.
type Helper struct {
	Program, Server string
	Timeout         time.Duration
}

// GitLabVariable is a CI/CD variable of projects, groups or the server.
type GitLabVariable struct {
	URL              string
	Projects, Groups []string
	Instance         bool
	// Name is the variable's, Scope its environment scope.
	Name, Scope         string
	Unmasked, Protected bool
	Password            secretref.Ref
}

// GiteaSecret is a secret, or a variable, of Actions.
type GiteaSecret struct {
	URL, User                   string
	Password                    secretref.Ref
	Repositories, Organizations []string
	Own                         bool
	// Name is of one that holds a config.json. Prefix begins the names of two, for
	// Host.
	Name, Prefix string
	Host         credential.Host
	AnyRegistry  bool
	Adopt        bool
	// Readable makes it a variable.
	Readable bool
}

// RunnerConfig is the config.toml of a GitLab Runner.
type RunnerConfig struct {
	Path string
	// Runners are names; none means all.
	Runners []string
	// UID and GID own what is made; both -1 to follow the folder.
	UID, GID int
	Mode     fs.FileMode
}

// SSH are files on other hosts.
type SSH struct {
	// Hosts are [user@]host[:port].
	Hosts []string
	Path  string
	// Identity, KnownHosts and File are paths for ssh; empty for its own.
	Identity, KnownHosts, File string
	Jump                       string
	Timeout                    time.Duration
}

type (
	gitlabSourceText struct {
		URL         string     `yaml:"url"`
		Project     string     `yaml:"project"`
		Group       string     `yaml:"group"`
		Kind        string     `yaml:"kind"`
		AccessLevel int        `yaml:"accessLevel"`
		Password    secretText `yaml:"password"`
	}
	harborText struct {
		URL      string     `yaml:"url"`
		Project  string     `yaml:"project"`
		User     string     `yaml:"user"`
		Password secretText `yaml:"password"`
	}
	ecrText struct {
		Profile    string `yaml:"profile"`
		Role       string `yaml:"role"`
		Region     string `yaml:"region"`
		Endpoint   string `yaml:"endpoint"`
		RenewAhead string `yaml:"renewAhead"`
	}
	helperText struct {
		Program string `yaml:"program"`
		Server  string `yaml:"server"`
		Timeout string `yaml:"timeout"`
	}
	gitlabVariableText struct {
		URL         string     `yaml:"url"`
		Projects    []string   `yaml:"projects"`
		Groups      []string   `yaml:"groups"`
		Instance    bool       `yaml:"instance"`
		Name        string     `yaml:"name"`
		Environment string     `yaml:"environment"`
		Unmasked    bool       `yaml:"unmasked"`
		Protected   bool       `yaml:"protected"`
		Password    secretText `yaml:"password"`
	}
	giteaSecretText struct {
		URL           string     `yaml:"url"`
		User          string     `yaml:"user"`
		Password      secretText `yaml:"password"`
		Repositories  []string   `yaml:"repositories"`
		Organizations []string   `yaml:"organizations"`
		Own           bool       `yaml:"own"`
		Name          string     `yaml:"name"`
		Prefix        string     `yaml:"prefix"`
		AnyRegistry   bool       `yaml:"anyRegistry"`
		Adopt         bool       `yaml:"adopt"`
		Readable      bool       `yaml:"readable"`
	}
	runnerConfigText struct {
		Path    string   `yaml:"path"`
		Runners []string `yaml:"runners"`
		Owner   string   `yaml:"owner"`
		Mode    string   `yaml:"mode"`
	}
	sshText struct {
		Hosts      []string `yaml:"hosts"`
		Path       string   `yaml:"path"`
		Identity   string   `yaml:"identity"`
		KnownHosts string   `yaml:"knownHosts"`
		Config     string   `yaml:"config"`
		Jump       string   `yaml:"jump"`
		Timeout    string   `yaml:"timeout"`
	}
)

const (
	defaultTokenKind = "deploy-token"
	defaultScope     = "*"
	defaultRun       = 30 * time.Second
	// ecrLife is how long a login of ECR lasts.
	ecrLife       = 12 * time.Hour
	defaultRunner = "/etc/gitlab-runner/config.toml"
)

// ecrHost is a registry's name at Amazon that tells its region.
var ecrHost = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(-fips)?\.`)

func (b builder) gitlabSource(text gitlabSourceText, at []string) *GitLab {
	in := func(key string) []string { return append(at[:len(at):len(at)], key) }
	b.address(text.URL, in("url"))
	source := &GitLab{
		URL: strings.TrimSuffix(text.URL, "/"), Project: text.Project, Group: text.Group,
		Kind: or(text.Kind, defaultTokenKind), AccessLevel: text.AccessLevel, Password: text.Password.ref(b.base),
	}
	if (text.Project == "") == (text.Group == "") {
		b.add("say project: or group:, one of them", at, "whose tokens they are is not said, or said twice")
	}
	if text.AccessLevel != 0 && source.Kind == defaultTokenKind {
		b.add("leave accessLevel out, or say kind: access-token", in("accessLevel"), "deploy tokens have no role")
	}
	return source
}

func (b builder) harbor(text harborText, at []string) *Harbor {
	b.address(text.URL, append(at[:len(at):len(at)], "url"))
	return &Harbor{URL: strings.TrimSuffix(text.URL, "/"), Project: text.Project, User: text.User, Password: text.Password.ref(b.base)}
}

func (b builder) ecr(text ecrText, host credential.Host, at []string) *ECR {
	in := func(key string) []string { return append(at[:len(at):len(at)], key) }
	if text.Region == "" && !ecrHost.MatchString(string(host)) && host != "" {
		b.add("add region:, or correct the host", at, "%s is no name of a registry of ECR, which would tell its region", host)
	}
	b.address(text.Endpoint, in("endpoint"))
	ecr := &ECR{
		Profile: text.Profile, Role: text.Role, Region: text.Region, Endpoint: text.Endpoint,
		RenewAhead: b.duration(text.RenewAhead, 0, in("renewAhead")...),
	}
	if ecr.RenewAhead >= ecrLife {
		b.add("give less than 12h", in("renewAhead"), "logins of ECR last for 12 hours: renewed %s ahead they would be renewed all the time", ecr.RenewAhead)
	}
	return ecr
}

func (b builder) helper(text helperText, at []string) *Helper {
	return &Helper{
		Program: text.Program, Server: text.Server,
		Timeout: b.duration(text.Timeout, defaultRun, append(at[:len(at):len(at)], "timeout")...),
	}
}

func (b builder) gitlabVariable(text gitlabVariableText, at []string) *GitLabVariable {
	b.address(text.URL, append(at[:len(at):len(at)], "url"))
	if len(text.Projects) == 0 && len(text.Groups) == 0 && !text.Instance {
		b.add("name projects: or groups:, or say instance: true", at, "it has no project, group or server")
	}
	return &GitLabVariable{
		URL: strings.TrimSuffix(text.URL, "/"), Projects: text.Projects, Groups: text.Groups, Instance: text.Instance,
		Name: or(text.Name, credential.AuthVariable), Scope: or(text.Environment, defaultScope),
		Unmasked: text.Unmasked, Protected: text.Protected, Password: text.Password.ref(b.base),
	}
}

func (b builder) giteaSecret(text giteaSecretText, target Target, at []string, hosts map[credential.Host]int) *GiteaSecret {
	in := func(key string) []string { return append(at[:len(at):len(at)], key) }
	b.address(text.URL, in("url"))
	secret := &GiteaSecret{
		URL: strings.TrimSuffix(text.URL, "/"), User: text.User, Password: text.Password.ref(b.base),
		Repositories: text.Repositories, Organizations: text.Organizations, Own: text.Own,
		Name: text.Name, Prefix: text.Prefix, AnyRegistry: text.AnyRegistry, Adopt: text.Adopt, Readable: text.Readable,
	}
	if len(text.Repositories) == 0 && len(text.Organizations) == 0 && !text.Own {
		b.add("name repositories: or organizations:, or say own: true", at, "it has no repository or organization")
	}
	if text.Name != "" && text.Prefix != "" {
		b.add("keep one", in("prefix"), "name is for one secret with a config.json, prefix for two with a user and a password")
	}
	if secret.Name == "" && secret.Prefix == "" {
		secret.Name = credential.AuthVariable
	}
	for key, name := range map[string]string{"name": text.Name, "prefix": text.Prefix} {
		upper := strings.ToUpper(name)
		if strings.HasPrefix(upper, "GITEA_") || strings.HasPrefix(upper, "GITHUB_") {
			b.add("choose another name", in(key), "the server refuses names that begin with GITEA_ or GITHUB_")
		}
	}
	if strings.EqualFold(secret.Prefix, "DOCKER") && !secret.AnyRegistry && !secret.Readable {
		b.add("choose another prefix, or say anyRegistry: true", in("prefix"), "the runner uses the secrets DOCKER_USERNAME and DOCKER_PASSWORD for any registry at all")
	}
	if secret.Prefix != "" {
		switch {
		case len(target.Registries) == 1:
			secret.Host = target.Registries[0]
		case len(target.Registries) == 0 && len(hosts) == 1:
			for host := range hosts {
				secret.Host = host
			}
		default:
			b.add("name one registry under registries:", in("prefix"), "a user and a password are of one registry, and the target is for several")
		}
	}
	return secret
}

func (b builder) runnerConfig(text runnerConfigText, at []string) *RunnerConfig {
	config := &RunnerConfig{Path: resolvePath(b.base, or(text.Path, defaultRunner)), Runners: text.Runners}
	config.UID, config.GID, config.Mode = b.owned(text.Owner, text.Mode, at)
	return config
}

func (b builder) ssh(text sshText, at []string) *SSH {
	in := func(key string) []string { return append(at[:len(at):len(at)], key) }
	for i, host := range text.Hosts {
		if slices.Index(text.Hosts, host) < i {
			b.add("name it once", append(in("hosts"), strconv.Itoa(i)), "host %s is there already", host)
		}
		b.port(host[strings.LastIndex(host, "@")+1:], append(in("hosts"), strconv.Itoa(i))...)
	}
	local := func(path string) string {
		if path == "" {
			return ""
		}
		return resolvePath(b.base, path)
	}
	ssh := &SSH{
		Hosts: text.Hosts, Path: text.Path, Jump: text.Jump,
		Identity: local(text.Identity), KnownHosts: local(text.KnownHosts), File: local(text.Config),
		Timeout: b.duration(text.Timeout, defaultRun, in("timeout")...),
	}
	if ssh.Timeout <= 0 {
		b.add("give a time such as 30s", in("timeout"), "timeout must be longer than 0")
	}
	return ssh
}

// Secrets are where the secrets are that the configuration names.
func (c Config) Secrets() []secretref.Ref {
	var refs []secretref.Ref
	add := func(all ...secretref.Ref) {
		for _, ref := range all {
			if given := ref.Env != "" || ref.File != "" || len(ref.Exec) > 0 || ref.Secret != (secretref.ClusterKey{}); given {
				refs = append(refs, ref)
			}
		}
	}
	for _, r := range c.Registries {
		switch s := r.Source; {
		case s.Static != nil:
			add(s.Static.Password)
		case s.Gitea != nil:
			add(s.Gitea.Password)
		case s.GitLab != nil:
			add(s.GitLab.Password)
		case s.Harbor != nil:
			add(s.Harbor.Password)
		}
		add(r.API.Token)
	}
	for _, t := range c.Targets {
		switch {
		case t.GitLabVariable != nil:
			add(t.GitLabVariable.Password)
		case t.GiteaSecret != nil:
			add(t.GiteaSecret.Password)
		}
	}
	if c.Webhooks != nil {
		for _, hook := range c.Webhooks.Hooks {
			add(hook.Secret)
		}
	}
	return refs
}

// Servers are the URLs of the servers that are asked beside the registries.
func (c Config) Servers() []string {
	var urls []string
	add := func(all ...string) {
		for _, url := range all {
			if url != "" {
				urls = append(urls, url)
			}
		}
	}
	for _, r := range c.Registries {
		switch s := r.Source; {
		case s.Gitea != nil:
			add(s.Gitea.URL)
		case s.GitLab != nil:
			add(s.GitLab.URL)
		case s.Harbor != nil:
			add(s.Harbor.URL)
		case s.ECR != nil:
			add(s.ECR.Endpoint)
		}
		add(r.API.Gitea, r.API.Harbor, r.API.GitLab)
	}
	for _, t := range c.Targets {
		switch {
		case t.GitLabVariable != nil:
			add(t.GitLabVariable.URL)
		case t.GiteaSecret != nil:
			add(t.GiteaSecret.URL)
		}
	}
	return urls
}
