package kubelet

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

const (
	// Name is the provider's name, and that of the program in the kubelet's
	// folder of providers.
	Name = "regkeeper"
	// Command is the command that answers the kubelet.
	Command = "kubelet-provider"
	// DefaultFile is the config.json that the command answers from.
	DefaultFile = "/var/lib/regkeeper/kubelet/config.json"
	// DefaultAudience is whom the tokens of pods are meant for.
	DefaultAudience = "regkeeper"

	configKind = "CredentialProviderConfig"
)

// Provider is what a kubelet is told of regkeeper.
type Provider struct {
	// Hosts are the registries for whose images the kubelet asks.
	Hosts []credential.Host
	// File is the config.json that the command answers from.
	File string
	// Cache is how long an answer is used.
	Cache time.Duration
	// Allow are the ServiceAccounts that get logins; none means all.
	Allow Allow
	// Audience has the kubelet send a token of the pod, for that audience, and
	// the annotation [Exclude] of its ServiceAccount. Empty has it send none.
	Audience string
}

// entry is the provider as the kubelet reads it.
func (p Provider) entry() kubeletconfig.CredentialProvider {
	entry := kubeletconfig.CredentialProvider{
		Name:                 Name,
		DefaultCacheDuration: &metav1.Duration{Duration: p.Cache},
		APIVersion:           Version,
		Args:                 []string{Command, "--file=" + p.File, "--cache=" + p.Cache.String()},
	}
	for _, host := range p.Hosts {
		// Docker Hub's images reach the provider as docker.io/….
		entry.MatchImages = append(entry.MatchImages, string(host))
	}
	for _, pattern := range p.Allow {
		entry.Args = append(entry.Args, "--allow="+pattern)
	}
	if p.Audience != "" {
		optional := false
		entry.TokenAttributes = &kubeletconfig.ServiceAccountTokenAttributes{
			ServiceAccountTokenAudience: p.Audience,
			// The answer depends on the ServiceAccount alone.
			CacheType: kubeletconfig.ServiceAccountServiceAccountTokenCacheType,
			// Static pods have none, and pull too.
			RequireServiceAccount:                &optional,
			OptionalServiceAccountAnnotationKeys: []string{Exclude},
		}
	}
	return entry
}

// Config is a CredentialProviderConfig, held as the text that was read.
type Config struct{ text []byte }

var _ disk.Document = (*Config)(nil)

// Bytes is the document as text.
func (c *Config) Bytes() []byte { return c.text }

// ParseConfig reads a document of kubelet.config.k8s.io/v1, in YAML or JSON.
// Input without content is an empty document. The error is a [problem.Error] of
// kind [problem.Damaged].
func ParseConfig(text []byte) (*Config, error) {
	c := &Config{text: bytes.Clone(text)}
	_, _, err := c.read()
	return c, err
}

// read is the document with its comments, and the index of its providers.
func (c *Config) read() (document yaml.MapSlice, comments yaml.CommentMap, err error) {
	defer func() {
		if recover() != nil {
			err = damaged("the document is no YAML")
		}
	}()
	comments = yaml.CommentMap{}
	if err := yaml.UnmarshalWithOptions(c.text, &document, yaml.UseOrderedMap(), yaml.CommentToMap(comments)); err != nil {
		var detail yaml.Error
		if errors.As(err, &detail) && detail.GetToken() != nil && detail.GetToken().Position != nil {
			at := detail.GetToken().Position
			return nil, nil, damaged("broken YAML at line %d, column %d", at.Line, at.Column)
		}
		return nil, nil, damaged("the document is no YAML mapping")
	}
	if document == nil {
		return nil, comments, nil
	}
	if kind, _ := value(document, "kind").(string); kind != configKind {
		return nil, nil, damaged("the document is no %s", configKind)
	}
	if version, _ := value(document, "apiVersion").(string); version != kubeletconfig.SchemeGroupVersion.String() {
		return nil, nil, problem.New(problem.Damaged,
			"set its apiVersion to "+kubeletconfig.SchemeGroupVersion.String()+"; providers are written there as they are in earlier versions",
			"the document is not of %s", kubeletconfig.SchemeGroupVersion)
	}
	switch value(document, "providers").(type) {
	case nil, []any:
	default:
		return nil, nil, damaged("providers is no list")
	}
	return document, comments, nil
}

func damaged(format string, args ...any) error {
	return problem.New(problem.Damaged, disk.DamagedHint, format, args...)
}

func value(document yaml.MapSlice, key string) any {
	for _, item := range document {
		if item.Key == key {
			return item.Value
		}
	}
	return nil
}

// Set makes the provider the only one of its name, in the place of one that is
// there or behind the others, which stay as they are. It says whether that
// changed the document; if not, not even its layout is another.
func (c *Config) Set(p Provider) (changed bool, err error) {
	entry, err := ordered(p.entry())
	if err != nil {
		return false, err
	}
	document, comments, err := c.read()
	if err != nil {
		return false, err
	}
	if document == nil {
		document = yaml.MapSlice{
			{Key: "apiVersion", Value: kubeletconfig.SchemeGroupVersion.String()},
			{Key: "kind", Value: configKind},
		}
	}
	list, _ := value(document, "providers").([]any)
	var providers []any
	placed := false
	for _, other := range list {
		if of, ok := other.(yaml.MapSlice); !ok || value(of, "name") != Name {
			providers = append(providers, other)
		} else if !placed {
			providers, placed = append(providers, entry), true
		}
	}
	if !placed {
		providers = append(providers, entry)
	}
	if reflect.DeepEqual(plain(list), plain(providers)) {
		return false, nil
	}
	replaced := false
	for i := range document {
		if document[i].Key == "providers" {
			document[i].Value, replaced = providers, true
		}
	}
	if !replaced {
		document = append(document, yaml.MapItem{Key: "providers", Value: providers})
	}
	text, err := yaml.MarshalWithOptions(document, yaml.WithComment(comments), yaml.IndentSequence(true))
	if err != nil {
		return false, err
	}
	next, err := ParseConfig(text)
	if err != nil {
		return false, err
	}
	again, _, err := next.read()
	if err != nil || !reflect.DeepEqual(plain(value(again, "providers")), plain(providers)) {
		return false, problem.New(problem.Damaged, "put the provider into it by hand, as it is printed for a folder without one",
			"the document cannot be written anew without changing something else")
	}
	c.text = text
	return true, nil
}

// ordered is a value as a document has it, its keys in the order of its type.
func ordered(entry kubeletconfig.CredentialProvider) (document yaml.MapSlice, err error) {
	text, err := json.Marshal(entry)
	if err != nil {
		return nil, err
	}
	err = yaml.UnmarshalWithOptions(text, &document, yaml.UseOrderedMap())
	return document, err
}

// plain is a value without the order of keys, and with numbers of one type.
func plain(value any) any {
	switch v := value.(type) {
	case yaml.MapSlice:
		object := make(map[string]any, len(v))
		for _, item := range v {
			key, _ := item.Key.(string)
			object[key] = plain(item.Value)
		}
		return object
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = plain(item)
		}
		return list
	}
	return value
}

// Flags are what the kubelet is started with to read the document and to find
// the program.
func Flags(config, bin string) []string {
	return []string{"--image-credential-provider-config=" + config, "--image-credential-provider-bin-dir=" + bin}
}

// Target is the target of regkeeper's configuration that keeps the file.
func Target(file string, hosts []credential.Host) string {
	names := make([]string, len(hosts))
	for i, host := range hosts {
		names[i] = string(host)
	}
	text, err := yaml.MarshalWithOptions(map[string]any{"targets": []yaml.MapSlice{{
		{Key: "name", Value: "kubelet"},
		{Key: "registries", Value: names},
		{Key: "file", Value: yaml.MapSlice{{Key: "path", Value: file}}},
	}}}, yaml.IndentSequence(true))
	if err != nil {
		return "" // strings always have a text
	}
	return strings.TrimSuffix(string(text), "\n")
}
