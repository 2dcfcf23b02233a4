package config

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
)

// Releases is how images are built, pushed and rolled out.
type Releases struct {
	// Env are files of variables.
	Env     []string
	Builder Builder
	Latest  bool
	Bases   []credential.Host
	// Timeout bounds a rollout, Failing how long a pod may fail in it.
	Timeout, Failing   time.Duration
	OneByOne, TakeOver bool
	Items              []Item
}

// Builder is what builds: a builder of docker buildx, or a BuildKit.
type Builder struct {
	Name, Driver, Endpoint string
	// Buildkit is the address of a BuildKit; empty to build by docker buildx. TLS
	// is the folder with its certificates.
	Buildkit, TLS string
}

// Item is one image, and what runs it.
type Item struct {
	Name string
	// Repository is host/path, or a name that the env files complete.
	Repository         string
	Folder, Dockerfile string
	Target             string
	Platforms          []string
	Args, Contexts     map[string]string
	Secrets            []BuildSecret
	Provenance, SBOM   string
	Reproducible, Pin  bool
	Workloads          []ItemWorkload
}

// BuildSecret is where a secret of a build is.
type BuildSecret struct{ ID, Env, File string }

// ItemWorkload is a container that runs an item. Name is kind/name.
type ItemWorkload struct{ Context, Namespace, Name, Container string }

// Defaults of releases. The schema names them too.
const (
	defaultBuilder    = "regkeeper"
	defaultDriver     = "docker-container"
	defaultDockerfile = "Dockerfile"
	defaultRollout    = 5 * time.Minute
	defaultFailing    = 30 * time.Second
)

func (b builder) releases(text releasesText, at []string) *Releases {
	in := func(keys ...string) []string { return append(at[:len(at):len(at)], keys...) }
	releases := &Releases{
		Builder: Builder{
			Name: or(text.Builder.Name, defaultBuilder), Driver: or(text.Builder.Driver, defaultDriver),
			Endpoint: text.Builder.Endpoint, Buildkit: text.Builder.Buildkit,
		},
		Latest: text.Latest, OneByOne: text.OneByOne, TakeOver: text.TakeOver,
		Timeout: b.duration(text.Timeout, defaultRollout, in("timeout")...),
		Failing: b.duration(text.Failing, defaultFailing, in("failing")...),
	}
	for _, file := range text.Env {
		releases.Env = append(releases.Env, resolvePath(b.base, file))
	}
	if text.Builder.TLS != "" {
		releases.Builder.TLS = resolvePath(b.base, text.Builder.TLS)
	}
	if text.Builder.Buildkit != "" && (text.Builder.Name != "" || text.Builder.Driver != "" || text.Builder.Endpoint != "") {
		b.add("leave name, driver and endpoint away, or buildkit", in("builder"), "a builder of docker buildx and a BuildKit are named")
	}
	for i, base := range text.Bases {
		host, err := credential.ParseHost(base)
		if err != nil {
			b.addErr(in("bases", strconv.Itoa(i)), err)
		}
		releases.Bases = append(releases.Bases, host)
	}
	names := map[string]int{}
	for i, item := range text.Items {
		where := in("items", strconv.Itoa(i))
		if first, ok := names[item.Name]; ok {
			b.add("give each item a name of its own", append(where, "name"), "item %q is there already, as items[%d]", item.Name, first)
		}
		names[item.Name] = i
		releases.Items = append(releases.Items, b.item(item, where))
	}
	return releases
}

func (b builder) item(text itemText, at []string) Item {
	item := Item{
		Name: text.Name, Repository: text.Repository, Folder: resolvePath(b.base, or(text.Folder, ".")),
		Dockerfile: or(text.Dockerfile, defaultDockerfile), Target: text.Target, Platforms: text.Platforms,
		Args: text.Args, Contexts: maps.Clone(text.Contexts), Provenance: text.Provenance, SBOM: text.SBOM,
		Reproducible: text.Reproducible, Pin: text.Pin,
	}
	for name, context := range text.Contexts {
		// What is no folder says what it is: docker-image://, https://.
		if !strings.Contains(context, "://") {
			item.Contexts[name] = resolvePath(b.base, context)
		}
	}
	for i, secret := range text.Secrets {
		if (secret.Env == "") == (secret.File == "") {
			b.add("write {id: npm, env: NPM_TOKEN}, or file:", append(at[:len(at):len(at)], "secrets", strconv.Itoa(i)), "secret %q is neither in a variable nor in a file, or in both", secret.ID)
		}
		if secret.File != "" {
			secret.File = resolvePath(b.base, secret.File)
		}
		item.Secrets = append(item.Secrets, BuildSecret(secret))
	}
	for _, workload := range text.Workloads {
		workload.Namespace = or(workload.Namespace, "default")
		item.Workloads = append(item.Workloads, ItemWorkload(workload))
	}
	return item
}
