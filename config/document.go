package config

import (
	"strings"

	"github.com/regkeeper/regkeeper/internal/secretref"
)

// The types of this file are the document as it is written. Its JSON Schema
// says what each key means; a test holds the two together.
type (
	document struct {
		Registries []registryText `yaml:"registries"`
		Targets    []targetText   `yaml:"targets"`
		Images     []imagesText   `yaml:"images"`
		Mirrors    []mirrorText   `yaml:"mirrors"`
		Releases   *releasesText  `yaml:"releases"`
		Serve      serveText      `yaml:"serve"`
		Resync     string         `yaml:"resync"`
		State      *stateText     `yaml:"state"`
	}
	stateText struct {
		Secret stateSecretText `yaml:"secret"`
	}
	stateSecretText struct {
		Namespace string `yaml:"namespace"`
		Name      string `yaml:"name"`
	}
	registryText struct {
		Host     string     `yaml:"host"`
		Source   sourceText `yaml:"source"`
		API      apiText    `yaml:"api"`
		Scopes   []string   `yaml:"scopes"`
		Rotate   rotateText `yaml:"rotate"`
		Probe    string     `yaml:"probe"`
		Verify   *bool      `yaml:"verify"`
		Insecure bool       `yaml:"insecure"`
	}
	apiText struct {
		Gitea  *addressText `yaml:"gitea"`
		Harbor *addressText `yaml:"harbor"`
		Gitlab *gitlabText  `yaml:"gitlab"`
	}
	addressText struct {
		URL string `yaml:"url"`
	}
	gitlabText struct {
		URL      string     `yaml:"url"`
		Password secretText `yaml:"password"`
	}
	sourceText struct {
		Static  *staticText       `yaml:"static"`
		Gitea   *giteaText        `yaml:"gitea"`
		GitLab  *gitlabSourceText `yaml:"gitlab"`
		Harbor  *harborText       `yaml:"harbor"`
		ECR     *ecrText          `yaml:"ecr"`
		Helper  *helperText       `yaml:"helper"`
		Builtin *builtinText      `yaml:"builtin"`
	}
	staticText struct {
		Username string     `yaml:"username"`
		Password secretText `yaml:"password"`
	}
	giteaText struct {
		URL      string     `yaml:"url"`
		User     string     `yaml:"user"`
		Password secretText `yaml:"password"`
	}
	builtinText struct {
		User         string   `yaml:"user"`
		Repositories []string `yaml:"repositories"`
	}
	secretText struct {
		Env    string   `yaml:"env"`
		File   string   `yaml:"file"`
		Secret string   `yaml:"secret"`
		Exec   []string `yaml:"exec"`
	}
	rotateText struct {
		Every    string `yaml:"every"`
		Cron     string `yaml:"cron"`
		Jitter   string `yaml:"jitter"`
		Overlap  string `yaml:"overlap"`
		Limit    string `yaml:"limit"`
		Lifetime string `yaml:"lifetime"`
	}
	targetText struct {
		Name       string       `yaml:"name"`
		Registries []string     `yaml:"registries"`
		Kubeconfig string       `yaml:"kubeconfig"`
		Contexts   []string     `yaml:"contexts"`
		Pods       *podsText    `yaml:"pods"`
		Secrets    *secretsText `yaml:"secrets"`
		File       *fileText    `yaml:"file"`

		GitLabVariable *gitlabVariableText `yaml:"gitlabVariable"`
		GiteaSecret    *giteaSecretText    `yaml:"giteaSecret"`
		RunnerConfig   *runnerConfigText   `yaml:"runnerConfig"`
		SSH            *sshText            `yaml:"ssh"`
	}
	podsText struct {
		Namespace  string   `yaml:"namespace"`
		Namespaces []string `yaml:"namespaces"`
		Selector   string   `yaml:"selector"`
		Container  string   `yaml:"container"`
		Path       string   `yaml:"path"`
		Timeout    string   `yaml:"timeout"`
		Resync     string   `yaml:"resync"`
	}
	secretsText struct {
		Name              string   `yaml:"name"`
		Namespaces        []string `yaml:"namespaces"`
		NamespaceSelector string   `yaml:"namespaceSelector"`
		ServiceAccounts   []string `yaml:"serviceAccounts"`
		Adopt             bool     `yaml:"adopt"`
		Restart           []string `yaml:"restart"`
		RestartAtOnce     int      `yaml:"restartAtOnce"`
		Evict             bool     `yaml:"evict"`
	}
	fileText struct {
		Path   string   `yaml:"path"`
		Paths  []string `yaml:"paths"`
		Format string   `yaml:"format"`
		Owner  string   `yaml:"owner"`
		Mode   string   `yaml:"mode"`
	}
	imagesText struct {
		Match      string       `yaml:"match"`
		Matches    []string     `yaml:"matches"`
		Keep       []ruleText   `yaml:"keep"`
		Grace      string       `yaml:"grace"`
		Kubeconfig string       `yaml:"kubeconfig"`
		Contexts   []string     `yaml:"contexts"`
		InUse      []string     `yaml:"inUse"`
		MaxDeletes *int         `yaml:"maxDeletes"`
		MaxShare   *int         `yaml:"maxShare"`
		Rate       *int         `yaml:"rate"`
		Prune      scheduleText `yaml:"prune"`
	}
	mirrorText struct {
		Name       string       `yaml:"name"`
		From       string       `yaml:"from"`
		To         []string     `yaml:"to"`
		Select     []ruleText   `yaml:"select"`
		Platforms  []string     `yaml:"platforms"`
		Bare       bool         `yaml:"bare"`
		Fixed      []string     `yaml:"fixed"`
		Kubeconfig string       `yaml:"kubeconfig"`
		Contexts   []string     `yaml:"contexts"`
		InUse      []string     `yaml:"inUse"`
		Run        scheduleText `yaml:"run"`
	}
	releasesText struct {
		Env      []string    `yaml:"env"`
		Builder  builderText `yaml:"builder"`
		Latest   bool        `yaml:"latest"`
		Bases    []string    `yaml:"bases"`
		Timeout  string      `yaml:"timeout"`
		Failing  string      `yaml:"failing"`
		OneByOne bool        `yaml:"oneByOne"`
		TakeOver bool        `yaml:"takeOver"`
		Items    []itemText  `yaml:"items"`
	}
	builderText struct {
		Name     string `yaml:"name"`
		Driver   string `yaml:"driver"`
		Endpoint string `yaml:"endpoint"`
		Buildkit string `yaml:"buildkit"`
		TLS      string `yaml:"tls"`
	}
	itemText struct {
		Name         string            `yaml:"name"`
		Repository   string            `yaml:"repository"`
		Folder       string            `yaml:"folder"`
		Dockerfile   string            `yaml:"dockerfile"`
		Target       string            `yaml:"target"`
		Platforms    []string          `yaml:"platforms"`
		Args         map[string]string `yaml:"args"`
		Contexts     map[string]string `yaml:"contexts"`
		Secrets      []buildSecretText `yaml:"secrets"`
		Provenance   string            `yaml:"provenance"`
		SBOM         string            `yaml:"sbom"`
		Reproducible bool              `yaml:"reproducible"`
		Pin          bool              `yaml:"pin"`
		Workloads    []workloadText    `yaml:"workloads"`
	}
	buildSecretText struct {
		ID   string `yaml:"id"`
		Env  string `yaml:"env"`
		File string `yaml:"file"`
	}
	workloadText struct {
		Context   string `yaml:"context"`
		Namespace string `yaml:"namespace"`
		Name      string `yaml:"name"`
		Container string `yaml:"container"`
	}
	ruleText struct {
		Last         int      `yaml:"last"`
		Pattern      string   `yaml:"pattern"`
		Regex        string   `yaml:"regex"`
		Semver       string   `yaml:"semver"`
		NewerThan    string   `yaml:"newerThan"`
		PulledWithin string   `yaml:"pulledWithin"`
		Deployed     bool     `yaml:"deployed"`
		Branch       string   `yaml:"branch"`
		Branches     []string `yaml:"branches"`
		Git          string   `yaml:"git"`
	}
	scheduleText struct {
		Every string `yaml:"every"`
		Cron  string `yaml:"cron"`
	}
	serveText struct {
		Registry *embeddedText `yaml:"registry"`
		Webhooks *webhooksText `yaml:"webhooks"`
		Health   healthText    `yaml:"health"`
	}
	embeddedText struct {
		Listen        string         `yaml:"listen"`
		URL           string         `yaml:"url"`
		TLS           *tlsText       `yaml:"tls"`
		ImmutableTags []string       `yaml:"immutableTags"`
		Upstreams     []upstreamText `yaml:"upstreams"`
	}
	upstreamText struct {
		Host   string   `yaml:"host"`
		Prefix string   `yaml:"prefix"`
		Names  []string `yaml:"names"`
		Fresh  string   `yaml:"fresh"`
		MaxAge string   `yaml:"maxAge"`
	}
	webhooksText struct {
		Listen string     `yaml:"listen"`
		Hooks  []hookText `yaml:"hooks"`
	}
	hookText struct {
		Host     string     `yaml:"host"`
		Kind     string     `yaml:"kind"`
		Password secretText `yaml:"password"`
	}
	tlsText struct {
		Cert string `yaml:"cert"`
		Key  string `yaml:"key"`
	}
	healthText struct {
		Listen string `yaml:"listen"`
	}
)

func (s secretText) ref(base string) secretref.Ref {
	ref := secretref.Ref{Env: s.Env, Exec: s.Exec}
	if s.File != "" {
		ref.File = resolvePath(base, s.File)
	}
	if parts := strings.SplitN(s.Secret, "/", 3); len(parts) == 3 {
		ref.Secret = secretref.ClusterKey{Namespace: parts[0], Name: parts[1], Key: parts[2]}
	}
	return ref
}
