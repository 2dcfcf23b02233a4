// Package config owns regkeeper.yaml: it turns the document into values that
// the rest of the program can use as they are, or reports every fault in it at
// once, with line and excerpt.
//
// It refuses to read secrets, to open connections and to know adapters: what a
// document means is said in plain data.
package config

import (
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/robfig/cron/v3"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
)

// Config is what a document says, defaults filled in, paths absolute.
type Config struct {
	Registries []Registry
	Targets    []Target
	// Images are how repositories are kept in order. For a repository the first
	// that covers it counts.
	Images []Images
	// Mirrors are the repositories that other registries have copies of.
	Mirrors []Mirror
	// Releases is how images are built and rolled out; nil if that is not said.
	Releases *Releases
	// Embedded is the registry that the daemon serves; nil for none.
	Embedded *Embedded
	// Webhooks are where registries tell of pushes; nil for nowhere.
	Webhooks *Webhooks
	// Health is the address of the health and metrics endpoints.
	Health string
	// Resync is how often the daemon looks at everything.
	Resync time.Duration
	// State is the Secret that the state is kept in; nil for the data folder.
	State *StateSecret
	// Warnings are things that work and that the operator should know of.
	Warnings []string
}

// StateSecret is a Secret of the cluster that regkeeper runs in, or of the
// current context.
type StateSecret struct {
	// Namespace is empty for the one that regkeeper runs in, or the context's.
	Namespace, Name string
}

// Registry is a registry whose logins are kept.
type Registry struct {
	Host   credential.Host
	Source Source
	// API is the registry's own API.
	API    API
	Scopes credential.Scopes
	Rotate Rotate
	// Probe is the image that verification pulls; empty to look for one.
	Probe string
	// Unverified leaves out trying the logins.
	Unverified bool
	// Insecure allows plain HTTP.
	Insecure bool
}

// Source is who issues a registry's logins. Exactly one field is set.
type Source struct {
	Static  *Static
	Gitea   *Gitea
	GitLab  *GitLab
	Harbor  *Harbor
	ECR     *ECR
	Helper  *Helper
	Builtin *Builtin
}

// Told says that the logins are made by someone else: they cannot be minted or
// revoked.
func (s Source) Told() bool { return s.Static != nil || s.ECR != nil || s.Helper != nil }

// API is a registry's own API, by kind: at most one is set, an address.
type API struct {
	Gitea, Harbor, GitLab string
	// Token is GitLab's.
	Token secretref.Ref
}

// Static is a login that someone else made.
type Static struct {
	Username string
	Password secretref.Ref
}

// Gitea is an account at a Gitea or Forgejo server.
type Gitea struct {
	URL, User string
	Password  secretref.Ref
}

// Builtin is a user of the embedded registry.
type Builtin struct {
	User         string
	Repositories []string
}

// Rotate is when a login is replaced.
type Rotate struct {
	// Every is zero for no limit of age.
	Every time.Duration
	// Cron is nil for no such times.
	Cron                             cron.Schedule
	Jitter, Overlap, Limit, Lifetime time.Duration
}

// Target is a place that logins are delivered to. Exactly one of the kinds is
// set.
type Target struct {
	Name string
	// Registries are the hosts whose logins go there; none means all.
	Registries []credential.Host
	// Clusters are where the pods or Secrets are; at least one for these kinds.
	Clusters []Cluster
	Pods     *Pods
	Secrets  *Secrets
	File     *File
	// These are of forges, runners and other hosts.
	GitLabVariable *GitLabVariable
	GiteaSecret    *GiteaSecret
	RunnerConfig   *RunnerConfig
	SSH            *SSH
}

// Cluster is a Kubernetes cluster.
type Cluster struct {
	// Kubeconfig is empty for the usual ones, or the cluster that regkeeper runs
	// in, Context for the current one.
	Kubeconfig, Context string
}

// Pods are config.json files inside running containers.
type Pods struct {
	// Namespaces are names; none means all.
	Namespaces []string
	Selector   string
	// Container is empty for the pod's only one, or its default.
	Container string
	// Path is empty for the file that the Docker client of the container's user
	// reads.
	Path string
	// Timeout bounds one exec, Resync how long nothing is looked at that nothing
	// was noticed of.
	Timeout, Resync time.Duration
}

// Secrets are image pull Secrets in namespaces of a cluster.
type Secrets struct {
	Name string
	// Namespaces are names or patterns, Selector a label selector; nil for none.
	Namespaces []string
	Selector   labels.Selector
	// SelectorText is the selector as it is written.
	SelectorText    string
	ServiceAccounts []string
	Adopt           bool
	Restart         []Workload
	RestartAtOnce   int
	Evict           bool
}

// Workload is a workload that is restarted after a rotation.
type Workload struct {
	// Kind is deployment, statefulset or daemonset; Name may be "*".
	Kind, Name string
}

// The formats of files.
const (
	// FormatDocker is config.json of the Docker clients.
	FormatDocker = "docker"
	// FormatK3s is registries.yaml of K3s and RKE2.
	FormatK3s = "k3s"
)

// File are files on this machine.
type File struct {
	Paths []string
	// Format is one of the formats.
	Format string
	// Literal says that the paths hold no patterns, whatever they look like.
	Literal bool
	// UID and GID own what is made; both -1 to follow the folder.
	UID, GID int
	// Mode is zero for 0600.
	Mode fs.FileMode
}

// Embedded is the embedded registry.
type Embedded struct {
	Listen string
	// URL is empty if clients connect to Listen.
	URL           string
	Cert, Key     string
	ImmutableTags []string
	Upstreams     []Upstream
}

// Upstream is a registry of which the embedded one keeps copies.
type Upstream struct {
	Host credential.Host
	// Prefix is empty for the host.
	Prefix string
	Names  []string
	// Fresh is how long a tag is served unasked, MaxAge how long a copy stays that
	// nobody pulls; zero for good.
	Fresh, MaxAge time.Duration
}

// Webhooks are where registries tell of pushes.
type Webhooks struct {
	Listen string
	Hooks  []Hook
}

// Hook is a registry that tells of pushes.
type Hook struct {
	Host credential.Host
	// Kind is gitea, harbor or distribution.
	Kind   string
	Secret secretref.Ref
}

// Defaults. The schema names them too; a test holds them together.
const (
	defaultListen  = "127.0.0.1:5000"
	defaultHealth  = "127.0.0.1:9470"
	defaultResync  = time.Minute
	defaultUser    = "regkeeper"
	defaultEvery   = 30 * 24 * time.Hour
	defaultOverlap = time.Hour
	defaultLimit   = 7 * 24 * time.Hour
	defaultState   = "regkeeper-state"
	defaultTimeout = 10 * time.Second
	defaultReread  = time.Hour
	defaultAtOnce  = 5
	defaultFresh   = time.Minute
	// jitterShare is the part of Every that is the default jitter.
	jitterShare = 10
	// buildxMemory is how long buildx uses a login that it has read
	// (docker/buildx, util/imagetools and session auth provider).
	buildxMemory = 10 * time.Minute
)

// Parse reads a document. base is the folder that relative paths start from,
// name what the document is called in errors. The error is a [problem.Error]
// of kind [problem.Config] that lists every fault.
func Parse(name, base string, text []byte) (Config, error) {
	faults := &faults{name: name, text: text}
	doc, ok := faults.decode()
	if !ok {
		return Config{}, faults.err()
	}
	faults.shaped = true
	b := builder{faults: faults, base: base}
	config := b.build(doc)
	return config, faults.err()
}

// builder turns the document into a Config. Its methods note faults and go on.
type builder struct {
	*faults
	base string
}

func (b builder) build(doc document) Config {
	config := Config{
		Health: or(doc.Serve.Health.Listen, defaultHealth),
		Resync: b.duration(doc.Resync, defaultResync, "resync"),
	}
	if config.Resync <= 0 {
		b.add("give a time such as 1m", []string{"resync"}, "resync must be longer than 0")
	}
	b.port(config.Health, "serve", "health", "listen")
	if len(doc.Registries) == 0 && doc.Releases == nil {
		b.add("say which registries' logins are kept, as the README shows", nil, "missing: registries")
	}
	hosts := map[credential.Host]int{}
	for i, text := range doc.Registries {
		at := []string{"registries", strconv.Itoa(i)}
		registry := b.registry(text, at)
		if first, ok := hosts[registry.Host]; ok && registry.Host != "" {
			b.add("put both into one entry, or take one away", append(at, "host"),
				"registry %s is there already, as registries[%d]", registry.Host, first)
		}
		hosts[registry.Host] = i
		config.Registries = append(config.Registries, registry)
	}
	names := map[string]int{}
	for i, text := range doc.Targets {
		at := []string{"targets", strconv.Itoa(i)}
		if first, ok := names[text.Name]; ok {
			b.add("give each target a name of its own", append(at, "name"), "target %q is there already, as targets[%d]", text.Name, first)
		}
		names[text.Name] = i
		config.Targets = append(config.Targets, b.target(text, at, hosts))
	}
	for i, text := range doc.Images {
		config.Images = append(config.Images, b.images(text, []string{"images", strconv.Itoa(i)}))
	}
	mirrors := map[string]int{}
	for i, text := range doc.Mirrors {
		at := []string{"mirrors", strconv.Itoa(i)}
		if first, ok := mirrors[text.Name]; ok {
			b.add("give each mirror a name of its own", append(at, "name"), "mirror %q is there already, as mirrors[%d]", text.Name, first)
		}
		mirrors[text.Name] = i
		config.Mirrors = append(config.Mirrors, b.mirror(text, at))
	}
	if doc.Releases != nil {
		config.Releases = b.releases(*doc.Releases, []string{"releases"})
	}
	if e := doc.Serve.Registry; e != nil {
		embedded := Embedded{Listen: or(e.Listen, defaultListen), URL: e.URL, ImmutableTags: e.ImmutableTags}
		b.port(embedded.Listen, "serve", "registry", "listen")
		b.address(e.URL, []string{"serve", "registry", "url"})
		if e.TLS != nil {
			embedded.Cert, embedded.Key = resolvePath(b.base, e.TLS.Cert), resolvePath(b.base, e.TLS.Key)
		}
		embedded.Upstreams = b.upstreams(e.Upstreams, []string{"serve", "registry", "upstreams"})
		config.Embedded = &embedded
	}
	if doc.Serve.Webhooks != nil {
		config.Webhooks = b.webhooks(*doc.Serve.Webhooks, []string{"serve", "webhooks"})
	}
	if doc.State != nil {
		config.State = &StateSecret{Namespace: doc.State.Secret.Namespace, Name: or(doc.State.Secret.Name, defaultState)}
	}
	config.Warnings = warnings(config)
	return config
}

func (b builder) upstreams(texts []upstreamText, at []string) []Upstream {
	var upstreams []Upstream
	seen := map[credential.Host]bool{}
	for i, text := range texts {
		in := func(key string) []string { return append(at[:len(at):len(at)], strconv.Itoa(i), key) }
		host, err := credential.ParseHost(text.Host)
		if err != nil {
			b.addErr(in("host"), err)
		}
		if seen[host] {
			b.add("put both into one entry", in("host"), "upstream %s is there already", host)
		}
		seen[host] = true
		upstreams = append(upstreams, Upstream{
			Host: host, Prefix: text.Prefix, Names: text.Names,
			Fresh: b.duration(text.Fresh, defaultFresh, in("fresh")...), MaxAge: b.duration(text.MaxAge, 0, in("maxAge")...),
		})
	}
	return upstreams
}

func (b builder) webhooks(text webhooksText, at []string) *Webhooks {
	b.port(text.Listen, append(at, "listen")...)
	webhooks := &Webhooks{Listen: text.Listen}
	seen := map[credential.Host]bool{}
	for i, hook := range text.Hooks {
		host, err := credential.ParseHost(hook.Host)
		if err != nil {
			b.addErr(append(at[:len(at):len(at)], "hooks", strconv.Itoa(i), "host"), err)
		}
		if seen[host] {
			b.add("put both into one entry", append(at[:len(at):len(at)], "hooks", strconv.Itoa(i), "host"), "a webhook of %s is there already", host)
		}
		seen[host] = true
		webhooks.Hooks = append(webhooks.Hooks, Hook{Host: host, Kind: hook.Kind, Secret: hook.Password.ref(b.base)})
	}
	return webhooks
}

func (b builder) registry(text registryText, at []string) Registry {
	host, err := credential.ParseHost(text.Host)
	if err != nil {
		b.addErr(append(at, "host"), err)
	}
	registry := Registry{
		Host: host, Probe: text.Probe, Unverified: text.Verify != nil && !*text.Verify, Insecure: text.Insecure,
		Scopes: credential.ScopesOf(credential.Pull),
		Rotate: b.rotate(text.Rotate, append(at, "rotate")),
	}
	if len(text.Scopes) > 0 {
		registry.Scopes = nil
		for _, scope := range text.Scopes {
			registry.Scopes = append(registry.Scopes, credential.Scope(scope))
		}
		registry.Scopes = credential.ScopesOf(registry.Scopes...)
	}
	if registry.Probe != "" {
		b.probe(registry, append(at, "probe"))
	}
	switch s := text.Source; {
	case s.Static != nil:
		registry.Source.Static = &Static{Username: s.Static.Username, Password: s.Static.Password.ref(b.base)}
	case s.Gitea != nil:
		b.address(s.Gitea.URL, append(at, "source", "gitea", "url"))
		registry.Source.Gitea = &Gitea{
			URL: strings.TrimSuffix(s.Gitea.URL, "/"), User: s.Gitea.User, Password: s.Gitea.Password.ref(b.base),
		}
		registry.API.Gitea = registry.Source.Gitea.URL
	case s.GitLab != nil:
		registry.Source.GitLab = b.gitlabSource(*s.GitLab, append(at, "source", "gitlab"))
	case s.Harbor != nil:
		registry.Source.Harbor = b.harbor(*s.Harbor, append(at, "source", "harbor"))
		registry.API.Harbor = registry.Source.Harbor.URL
	case s.ECR != nil:
		registry.Source.ECR = b.ecr(*s.ECR, host, append(at, "source", "ecr"))
	case s.Helper != nil:
		registry.Source.Helper = b.helper(*s.Helper, append(at, "source", "helper"))
	case s.Builtin != nil:
		registry.Source.Builtin = &Builtin{User: or(s.Builtin.User, defaultUser), Repositories: s.Builtin.Repositories}
		if len(s.Builtin.Repositories) == 0 {
			registry.Source.Builtin.Repositories = []string{"*"}
		}
	}
	b.api(text.API, &registry.API, append(at, "api"))
	return registry
}

func (b builder) api(text apiText, api *API, at []string) {
	address := func(kind, url string, into *string) {
		b.address(url, append(at[:len(at):len(at)], kind, "url"))
		*into = strings.TrimSuffix(url, "/")
	}
	switch {
	case text.Gitea != nil:
		address("gitea", text.Gitea.URL, &api.Gitea)
	case text.Harbor != nil:
		address("harbor", text.Harbor.URL, &api.Harbor)
	case text.Gitlab != nil:
		address("gitlab", text.Gitlab.URL, &api.GitLab)
		api.Token = text.Gitlab.Password.ref(b.base)
	}
}

// probe refuses an image of another registry: the login would be sent there.
func (b builder) probe(registry Registry, at []string) {
	first, rest, _ := strings.Cut(registry.Probe, "/")
	host, err := credential.ParseHost(first)
	if err != nil || rest == "" || !strings.ContainsAny(first, ".:") && first != "localhost" {
		b.add("write it as host/repository:tag", at, "probe %q has no registry in front", registry.Probe)
		return
	}
	if host != registry.Host && registry.Host != "" {
		b.add(fmt.Sprintf("name an image of %s", registry.Host), at, "probe %q is at another registry, which must not see the login", registry.Probe)
	}
}

// address refuses a URL with a login in it.
func (b builder) address(text string, at []string) {
	if u, err := url.Parse(text); text != "" && (err != nil || u.User != nil) {
		b.add("leave the login out; user and password have keys of their own", at, "it is no URL, or has a login in it")
	}
}

// port refuses what the schema's pattern lets through.
func (b builder) port(address string, at ...string) {
	if _, port, err := net.SplitHostPort(address); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			b.add("a port is at most 65535", at, "%q has no valid port", address)
		}
	}
}

func (b builder) rotate(text rotateText, at []string) Rotate {
	in := func(value string, fallback time.Duration, key string) time.Duration {
		return b.duration(value, fallback, append(at[:len(at):len(at)], key)...)
	}
	every := defaultEvery
	if text.Cron != "" {
		every = 0
	}
	rotate := Rotate{
		Every:    in(text.Every, every, "every"),
		Overlap:  in(text.Overlap, defaultOverlap, "overlap"),
		Limit:    in(text.Limit, defaultLimit, "limit"),
		Lifetime: in(text.Lifetime, 0, "lifetime"),
	}
	rotate.Jitter = in(text.Jitter, rotate.Every/jitterShare, "jitter")
	rotate.Cron = b.cron(text.Cron, append(at, "cron"))
	if rotate.Lifetime > 0 && rotate.Lifetime <= rotate.Overlap {
		b.add("make lifetime longer or overlap shorter", append(at, "lifetime"),
			"a lifetime of %s ends within the overlap of %s", rotate.Lifetime, rotate.Overlap)
	}
	if rotate.Limit > 0 && rotate.Limit < rotate.Overlap {
		b.add("make limit longer or overlap shorter", append(at, "limit"),
			"a limit of %s ends before the overlap of %s", rotate.Limit, rotate.Overlap)
	}
	return rotate
}

// cron reads the five fields; none is no schedule.
func (b builder) cron(text string, at []string) cron.Schedule {
	if text == "" {
		return nil
	}
	schedule, err := cron.ParseStandard(text)
	if err != nil {
		b.add(`write five fields: minute, hour, day of month, month, day of week, for example "0 3 * * 0"`,
			at, "cron %q cannot be read: %v", text, err)
	}
	return schedule
}

func (b builder) target(text targetText, at []string, hosts map[credential.Host]int) Target {
	target := Target{Name: text.Name}
	for i, name := range text.Registries {
		where := append(at[:len(at):len(at)], "registries", strconv.Itoa(i))
		host, err := credential.ParseHost(name)
		if err != nil {
			b.addErr(where, err)
			continue
		}
		if _, ok := hosts[host]; !ok {
			b.add("add it to registries, or correct the name", where, "registry %s is not among the registries", host)
		}
		target.Registries = append(target.Registries, host)
	}
	var kinds []string
	for kind, given := range map[string]bool{
		"pods": text.Pods != nil, "secrets": text.Secrets != nil, "file": text.File != nil,
		"gitlabVariable": text.GitLabVariable != nil, "giteaSecret": text.GiteaSecret != nil,
		"runnerConfig": text.RunnerConfig != nil, "ssh": text.SSH != nil,
	} {
		if given {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	if len(kinds) != 1 {
		b.kinds(text.Name, kinds, at)
		return target
	}
	at = append(at[:len(at):len(at)], kinds[0])
	switch {
	case text.Pods != nil:
		target.Pods = b.pods(*text.Pods, at)
	case text.Secrets != nil:
		target.Secrets = b.secrets(*text.Secrets, at)
	case text.File != nil:
		target.File = b.file(*text.File, text.Name, at)
	case text.GitLabVariable != nil:
		target.GitLabVariable = b.gitlabVariable(*text.GitLabVariable, at)
	case text.GiteaSecret != nil:
		target.GiteaSecret = b.giteaSecret(*text.GiteaSecret, target, at, hosts)
	case text.RunnerConfig != nil:
		target.RunnerConfig = b.runnerConfig(*text.RunnerConfig, at)
	case text.SSH != nil:
		target.SSH = b.ssh(*text.SSH, at)
	}
	if text.Pods != nil || text.Secrets != nil {
		target.Clusters = b.clusters(text.Kubeconfig, text.Contexts)
	} else if text.Kubeconfig != "" || len(text.Contexts) > 0 {
		b.add("take kubeconfig and contexts away", at, "target %q has no cluster", text.Name)
	}
	return target
}

func (b builder) kinds(name string, kinds []string, at []string) {
	if len(kinds) == 0 {
		b.add("say what kind of target it is, for example file: {path: ~/.docker/config.json}", at, "target %q has no kind", name)
		return
	}
	b.add("make a target of each", append(at, kinds[1]), "target %q is of %d kinds: %s", name, len(kinds), strings.Join(kinds, ", "))
}

func (b builder) clusters(kubeconfig string, contexts []string) []Cluster {
	var cluster Cluster
	if kubeconfig != "" {
		cluster.Kubeconfig = resolvePath(b.base, kubeconfig)
	}
	if len(contexts) == 0 {
		return []Cluster{cluster}
	}
	var clusters []Cluster
	for _, context := range contexts {
		cluster.Context = context
		clusters = append(clusters, cluster)
	}
	return clusters
}

func (b builder) pods(text podsText, at []string) *Pods {
	in := func(key string) []string { return append(at[:len(at):len(at)], key) }
	pods := &Pods{
		Namespaces: text.Namespaces, Selector: text.Selector, Container: text.Container, Path: text.Path,
		Timeout: b.duration(text.Timeout, defaultTimeout, in("timeout")...),
		Resync:  b.duration(text.Resync, defaultReread, in("resync")...),
	}
	if text.Namespace != "" {
		pods.Namespaces = append([]string{text.Namespace}, pods.Namespaces...)
	}
	if pods.Timeout <= 0 {
		b.add("give a time such as 10s", in("timeout"), "timeout must be longer than 0")
	}
	if pods.Resync <= 0 {
		b.add("give a time such as 1h", in("resync"), "resync must be longer than 0")
	}
	b.selector(text.Selector, in("selector"))
	return pods
}

func (b builder) selector(text string, at []string) labels.Selector {
	if text == "" {
		return nil
	}
	selector, err := labels.Parse(text)
	if err != nil {
		b.add(`write it as "app=runner" or "app in (runner, builder), !legacy"`, at, "selector %q cannot be read: %v", text, err)
		return nil
	}
	return selector
}

func (b builder) secrets(text secretsText, at []string) *Secrets {
	in := func(keys ...string) []string { return append(at[:len(at):len(at)], keys...) }
	secrets := &Secrets{
		Name: text.Name, Namespaces: text.Namespaces, Selector: b.selector(text.NamespaceSelector, in("namespaceSelector")),
		SelectorText: text.NamespaceSelector, ServiceAccounts: text.ServiceAccounts, Adopt: text.Adopt,
		RestartAtOnce: text.RestartAtOnce, Evict: text.Evict,
	}
	if secrets.RestartAtOnce == 0 {
		secrets.RestartAtOnce = defaultAtOnce
	}
	for i, pattern := range text.Namespaces {
		if _, err := path.Match(pattern, ""); err != nil {
			b.add(`write it as "team-*"`, in("namespaces", strconv.Itoa(i)), "pattern %q cannot be read", pattern)
		}
	}
	for _, name := range text.Restart {
		kind, name, _ := strings.Cut(name, "/")
		secrets.Restart = append(secrets.Restart, Workload{Kind: kind, Name: name})
	}
	if secrets.Evict && len(secrets.ServiceAccounts) == 0 {
		b.add("name serviceAccounts, or leave evict out", in("evict"), "evict does nothing without serviceAccounts: a pod made again would wait again")
	}
	return secrets
}

func (b builder) file(text fileText, name string, at []string) *File {
	file := &File{Format: or(text.Format, FormatDocker)}
	paths := text.Paths
	if text.Path != "" {
		paths = append([]string{text.Path}, paths...)
	}
	if len(paths) == 0 {
		b.add("add path: or paths:", at, "target %q has no path", name)
	}
	for _, path := range paths {
		file.Paths = append(file.Paths, resolvePath(b.base, path))
	}
	file.UID, file.GID, file.Mode = b.owned(text.Owner, text.Mode, at)
	return file
}

// owned reads whose a file that is made is, -1 for nobody, and its permission bits,
// zero for the usual ones.
func (b builder) owned(owner, mode string, at []string) (uid, gid int, bits fs.FileMode) {
	uid, gid = -1, -1
	if owner != "" {
		if _, err := fmt.Sscanf(owner, "%d:%d", &uid, &gid); err != nil {
			b.add(`write "user:group" as numbers`, append(at[:len(at):len(at)], "owner"), "owner %q cannot be read", owner)
		}
	}
	if mode != "" {
		number, err := strconv.ParseUint(mode, 8, 9)
		if err != nil {
			b.add(`write it as "0600"`, append(at[:len(at):len(at)], "mode"), "mode %q cannot be read", mode)
		}
		bits = fs.FileMode(number)
	}
	return uid, gid, bits
}

func (b builder) duration(text string, fallback time.Duration, at ...string) time.Duration {
	if text == "" {
		return fallback
	}
	d, err := model.ParseDuration(text)
	if err != nil {
		b.add("write it as 30d, 12h or 1h30m", at, "duration %q cannot be read", text)
	}
	return time.Duration(d)
}

func warnings(config Config) []string {
	var list []string
	for _, r := range config.Registries {
		if r.Unverified {
			list = append(list, fmt.Sprintf("registry %s: verify is off: logins are delivered that nobody has tried", r.Host))
		}
		if !r.Source.Told() && r.Rotate.Overlap < buildxMemory {
			list = append(list, fmt.Sprintf("registry %s: an overlap of %s is shorter than the %s for which buildx uses a login it has read: builds can fail at a rotation",
				r.Host, r.Rotate.Overlap, buildxMemory))
		}
		if r.Source.Builtin != nil && config.Embedded == nil {
			list = append(list, fmt.Sprintf("registry %s: its source is the embedded registry, which serve.registry does not start", r.Host))
		}
	}
	for _, t := range config.Targets {
		if t.File == nil || t.File.Format != FormatK3s {
			continue
		}
		for _, r := range config.Registries {
			if !r.Source.Told() && (len(t.Registries) == 0 || slices.Contains(t.Registries, r.Host)) {
				list = append(list, fmt.Sprintf("target %s: K3s reads registries.yaml only when it starts: restart it within the overlap of %s after each rotation of %s, or use the kubelet's credential provider",
					t.Name, r.Rotate.Overlap, r.Host))
			}
		}
	}
	if len(config.Targets) == 0 {
		list = append(list, "there are no targets: logins are minted and go nowhere")
	}
	return list
}

func or(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}

// resolvePath makes a path absolute. ~ is the home folder of the user.
func resolvePath(base, path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, strings.TrimPrefix(path, "~"))
		}
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(base, path)
}
