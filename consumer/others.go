package consumer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/pelletier/go-toml/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/k3sconfig"
)

const (
	kanikoFolder    = "/kaniko/.docker"
	containerdFile  = "/etc/containerd/config.toml"
	k3sFile         = "/etc/rancher/k3s/registries.yaml"
	containerdPlug2 = "io.containerd.grpc.v1.cri"
	containerdPlug3 = "io.containerd.cri.v1.images"
)

// others are the clients that are no runner, and read no Docker CLI's way.
func others() []Consumer {
	return append(podmen(), []Consumer{
		{
			Name: "kaniko", About: "kaniko's executor",
			Places: "/kaniko/.docker/config.json, or $DOCKER_CONFIG/config.json where that is set; then what clouds have for the machine",
			Rules:  []Rule{ruleKanikoFolder, ruleKanikoClouds, ruleGgcrRepository},
			decide: (*search).kaniko,
		},
		{
			Name: "go-containerregistry", About: "crane, ko, cosign and others on go-containerregistry",
			Places: "~/.docker/config.json or $DOCKER_CONFIG/config.json, else $REGISTRY_AUTH_FILE, else auth.json of podman; $DOCKER_AUTH_CONFIG before a file that is there",
			Rules:  []Rule{ruleGgcrFile, ruleGgcrRepository},
			decide: (*search).ggcr,
		},
		{
			Name: "oras", About: "the oras CLI and others on oras-go",
			Places: "$DOCKER_CONFIG/config.json or ~/.docker/config.json and its helpers",
			Rules:  []Rule{ruleOrasEntry},
			decide: (*search).oras,
		},
		{
			Name: "containerd", About: "containerd's CRI plugin, when the kubelet brings no login",
			Places: containerdFile + ", registry.configs",
			Rules:  []Rule{ruleContainerdHosts},
			decide: (*search).containerd,
		},
		{
			Name: "k3s", About: "K3s, when the pod brings no login",
			Places: k3sFile + ", configs",
			Rules:  []Rule{ruleK3sConfigs},
			decide: (*search).k3s,
		},
	}...)
}

func (s *search) kaniko() []Outcome {
	if s.Env[configEnv] == "" {
		s.Env = maps.Clone(s.Env)
		if s.Env == nil {
			s.Env = map[string]string{}
		}
		s.Env[configEnv] = kanikoFolder
	}
	return s.ggcr()
}

// exists says whether there is such a file, as authn's fileExists does: a folder is
// none, and one that may not be read is.
func (s *search) exists(where string) bool {
	_, err := s.ReadFile(where)
	return err == nil || errors.Is(err, fs.ErrPermission)
}

// ggcr is authn's defaultKeychain.
func (s *search) ggcr() []Outcome {
	rules := dockerRules{variable: true, strict: true, undetected: true}
	found := s.DockerConfig != "" || s.Home != "" && s.exists(path.Join(s.Home, ".docker", configName)) ||
		s.Env[configEnv] != "" && s.exists(path.Join(s.Env[configEnv], configName))
	config := s.Env["XDG_CONFIG_HOME"]
	if config == "" && s.Home != "" {
		config = path.Join(s.Home, ".config")
	}
	session := path.Join(s.Env["XDG_RUNTIME_DIR"], "containers/auth.json")
	if (s.Env["XDG_RUNTIME_DIR"] == "" || !s.exists(session)) && config != "" {
		session = path.Join(config, "containers/auth.json")
	}
	where := ""
	switch given := s.Env["REGISTRY_AUTH_FILE"]; {
	case found:
		where = s.dockerFile()
	case given != "" && s.exists(given):
		where = given
	case s.exists(session):
		where = session
	default:
		if s.Env[credential.AuthVariable] != "" {
			s.look(variableTag, "", Passed, ruleGgcrNoFile, "it is set, and read only beside a file")
		}
		s.look(s.dockerFile(), "", Absent, ruleGgcrNoFile, "there is no such file")
		return nobody(ruleGgcrNoFile)
	}
	file := s.readDocker(where, rules)
	if file.err != nil {
		return fails(ruleBrokenFails, file.err)
	}
	host, repository := s.domain, s.named.Name()
	if host == string(credential.DockerHub) {
		host, repository = hubIndex, hubIndex+strings.TrimPrefix(repository, host)
	}
	outcomes := s.fromDocker(file, repository, rules)
	return then(outcomes, func() []Outcome { return s.fromDocker(file, dockerKey(host), rules) })
}

// oras is DynamicStore's Get.
func (s *search) oras() []Outcome {
	where := s.dockerFile()
	text, err := s.ReadFile(where)
	if errors.Is(err, fs.ErrNotExist) {
		s.look(where, "", Absent, ruleNoEntry, "there is no such file")
		return nobody(ruleNoEntry)
	}
	auths, file, err := orasFile(text, err)
	if err != nil {
		s.look(where, "", Broken, ruleBrokenFails, "%v", err)
		return fails(ruleBrokenFails, fmt.Errorf("read %s: %w", where, err))
	}
	key := s.domain
	if key == hubAPI || key == string(credential.DockerHub) {
		key = hubKey
	}
	d := document{ConfigFile: file, where: where}
	for k := range auths {
		d.AuthConfigs[k] = types.AuthConfig{}
	}
	helper, rule := file.CredentialHelpers[key], ruleHelperOfHost
	if helper == "" {
		helper, rule = file.CredentialsStore, ruleHelperOfAll
	}
	if helper != "" {
		s.hidden(d, key)
		return s.fromHelper(helper, key, rule, dockerRules{}, nobody(rule))
	}
	keys, rule := []string{key}, ruleExact
	if _, ok := auths[key]; !ok {
		keys, rule = nil, ruleHostname
		for _, k := range slices.Sorted(maps.Keys(auths)) {
			if orasHost(k) == key {
				keys = append(keys, k)
			} else {
				s.near(where, k, key, ruleHostname)
			}
		}
		if len(keys) > 1 {
			rule = ruleChance
		}
	} else if key == hubKey {
		rule = ruleOrasHub
	}
	if len(keys) == 0 {
		return nobody(ruleNoEntry)
	}
	var outcomes []Outcome
	for _, k := range keys {
		login, err := orasEntry(auths[k])
		if err != nil {
			s.look(where, k, Broken, ruleOrasEntry, "%v", err)
			outcomes = append(outcomes, fails(ruleOrasEntry, fmt.Errorf("read the entry of %s in %s: %w", k, where, err))...)
			continue
		}
		outcomes = append(outcomes, takes(Found{Login: login, Where: where, Key: k, Rule: rule}))
	}
	return outcomes
}

// orasFile is oras-go's config.Load: names of fields are taken letter for letter.
func orasFile(text []byte, err error) (auths map[string]json.RawMessage, file *configfile.ConfigFile, _ error) {
	file = configfile.New("")
	if err != nil {
		return nil, nil, err
	}
	content := map[string]json.RawMessage{}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&content); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, withoutContent(err)
	}
	for name, into := range map[string]any{"auths": &auths, "credsStore": &file.CredentialsStore, "credHelpers": &file.CredentialHelpers} {
		if value, ok := content[name]; ok {
			if err := json.Unmarshal(value, into); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, withoutContent(err))
			}
		}
	}
	return auths, file, nil
}

// orasEntry is the login of an entry: oras-go's AuthConfig.Credential.
func orasEntry(text json.RawMessage) (Login, error) {
	var entry types.AuthConfig
	if err := json.Unmarshal(text, &entry); err != nil {
		return Login{}, withoutContent(err)
	}
	if entry.Auth != "" {
		decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
		if err != nil {
			return Login{}, errors.New("its auth is not base64")
		}
		var ok bool
		if entry.Username, entry.Password, ok = strings.Cut(string(decoded), ":"); !ok {
			return Login{}, errors.New("its auth is not user:password")
		}
	}
	return loginOf(entry), nil
}

// orasHost is oras-go's ToHostname.
func orasHost(key string) string {
	bare := strings.TrimPrefix(strings.TrimPrefix(key, "http://"), "https://")
	host, _, _ := strings.Cut(bare, "/")
	return host
}

// containerd is CRIImageService.registryHosts.
func (s *search) containerd() []Outcome {
	text, err := s.ReadFile(containerdFile)
	if errors.Is(err, fs.ErrNotExist) {
		s.look(containerdFile, "", Absent, ruleContainerdConfigs, "there is no such file")
		return nobody(ruleContainerdConfigs)
	}
	type auth struct {
		Username, Password, Auth, IdentityToken string
	}
	type registry struct {
		ConfigPath string `toml:"config_path"`
		Configs    map[string]struct {
			Auth *auth `toml:"auth"`
		} `toml:"configs"`
	}
	var file struct {
		Plugins map[string]struct {
			Registry registry `toml:"registry"`
		} `toml:"plugins"`
	}
	if err == nil {
		if err = toml.Unmarshal(text, &file); err != nil {
			err = errors.New("it is not TOML, or has a value of a wrong kind")
		}
	}
	if err != nil {
		s.look(containerdFile, "", Broken, ruleContainerdConfigs, "%v", err)
		return fails(ruleContainerdConfigs, fmt.Errorf("read %s: %w", containerdFile, err))
	}
	host := s.domain
	if host == string(credential.DockerHub) {
		host = hubAPI
	}
	for _, plug := range []string{containerdPlug3, containerdPlug2} {
		of := file.Plugins[plug].Registry
		for _, key := range slices.Sorted(maps.Keys(of.Configs)) {
			a := of.Configs[key].Auth
			switch {
			case a == nil:
			case key != host:
				s.near(containerdFile, key, host, ruleContainerdConfigs)
			case of.ConfigPath != "":
				s.look(containerdFile, key, Passed, ruleContainerdHosts, "config_path is set")
			default:
				login, err := criLogin(a.Username, a.Password, a.IdentityToken, a.Auth)
				if err != nil {
					return fails(ruleFields, fmt.Errorf("read the login of %s in %s: %w", key, containerdFile, err))
				}
				return []Outcome{takes(Found{Login: login, Where: containerdFile, Key: key, Rule: ruleContainerdConfigs})}
			}
		}
	}
	return nobody(ruleContainerdConfigs)
}

// criLogin is containerd's ParseAuth.
func criLogin(username, password, identity, auth string) (Login, error) {
	switch {
	case username != "":
		return loginOf(types.AuthConfig{Username: username, Password: password}), nil
	case identity != "":
		return loginOf(types.AuthConfig{IdentityToken: identity}), nil
	case auth != "":
		text, err := base64.StdEncoding.DecodeString(auth)
		if err != nil {
			return Login{}, errors.New("its auth is not base64")
		}
		username, password, ok := strings.Cut(string(text), ":")
		if !ok {
			return Login{}, errors.New("its auth is not user:password")
		}
		return loginOf(types.AuthConfig{Username: username, Password: strings.Trim(password, "\x00")}), nil
	}
	return Login{}, nil
}

// k3s is what K3s makes of registries.yaml.
func (s *search) k3s() []Outcome {
	where := k3sFile
	if s.DockerConfig != "" {
		where = s.DockerConfig
	}
	text, err := s.ReadFile(where)
	if errors.Is(err, fs.ErrNotExist) {
		s.look(where, "", Absent, ruleK3sConfigs, "there is no such file")
		return nobody(ruleK3sConfigs)
	}
	var doc *k3sconfig.Document
	if err == nil {
		doc, err = k3sconfig.Parse(text)
	}
	if err != nil {
		s.look(where, "", Broken, ruleK3sConfigs, "%v", err)
		return fails(ruleK3sConfigs, fmt.Errorf("read %s: %w", where, err))
	}
	host, err := credential.ParseHost(s.domain)
	if err != nil {
		return fails(ruleK3sConfigs, err)
	}
	login, ok := doc.Login(host)
	if !ok {
		return nobody(ruleK3sConfigs)
	}
	found := Login{Username: login.Username, Password: login.Secret}
	if login.Username == "" {
		found = Login{IdentityToken: login.Secret}
	}
	return []Outcome{takes(Found{Login: found, Where: where, Key: k3sconfig.Key(host), Rule: ruleK3sConfigs})}
}
