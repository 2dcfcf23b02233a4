package consumer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/regkeeper/regkeeper/credential"
)

// authFilesHelper stands for the files among the helpers of registries.conf.
const authFilesHelper = "containers-auth.json"

// podmen are podman and what shares its way of finding logins.
func podmen() []Consumer {
	places := "$XDG_RUNTIME_DIR/containers/auth.json, $XDG_CONFIG_HOME/containers/auth.json, ~/.docker/config.json, ~/.dockercfg, and helpers of registries.conf"
	rules := []Rule{rulePodmanOrder, rulePodmanAuthOnly, rulePodmanGiven}
	return []Consumer{
		{
			Name: "podman", About: "podman and buildah", Rules: rules,
			Places: "$REGISTRY_AUTH_FILE alone if it is set, or else $DOCKER_CONFIG/config.json alone if that is; else " + places,
			decide: func(s *search) []Outcome {
				given := s.Env["REGISTRY_AUTH_FILE"]
				if given == "" && s.Env[configEnv] != "" {
					given = s.dockerFile()
				}
				return s.podman(given)
			},
		},
		{
			Name: "skopeo", About: "skopeo", Rules: rules,
			Places: "$REGISTRY_AUTH_FILE alone if it is set; else " + places + "; $DOCKER_CONFIG/config.json in place of ~/.docker/config.json",
			decide: func(s *search) []Outcome { return s.podman(s.Env["REGISTRY_AUTH_FILE"]) },
		},
	}
}

// podman is GetCredentialsForRef, with the file that is given as the only one, if
// one is.
func (s *search) podman(given string) []Outcome {
	if strings.HasPrefix(s.domain, "[") {
		return fails(rulePodmanAddress, errors.New("podman takes no image of a registry that is named by its IPv6 address"))
	}
	helpers, err := s.podmanHelpers()
	if err != nil {
		return fails(rulePodmanBroken, err)
	}
	return s.podmanAsk(helpers, s.podmanPlaces(given), Outcome{Rule: rulePodmanNone}, nil)
}

// podmanAsk asks one helper after the other. One that fails is no reason not to ask
// the next one; it counts when none has a login.
func (s *search) podmanAsk(helpers []string, files []podmanFile, last Outcome, faults []error) []Outcome {
	if len(helpers) == 0 {
		if len(faults) > 0 {
			return fails(rulePodmanBroken, joined(faults, "; "))
		}
		return []Outcome{last}
	}
	of := func() []Outcome { return s.podmanHelper(helpers[0], rulePodmanHelpers) }
	if helpers[0] == authFilesHelper {
		of = func() []Outcome { return s.podmanFiles(files) }
	}
	var all []Outcome
	for _, o := range of() {
		switch {
		case o.Err != nil:
			all = append(all, s.podmanAsk(helpers[1:], files, last, append(slices.Clip(faults), o.Err))...)
		case len(o.Tries) > 0 || o.Unknown:
			all = append(all, o)
		default:
			all = append(all, s.podmanAsk(helpers[1:], files, o, faults)...)
		}
	}
	return all
}

// podmanHelpers are the helpers of registries.conf. Files that add to it are not
// looked at.
func (s *search) podmanHelpers() ([]string, error) {
	for _, where := range []string{
		s.Env["CONTAINERS_REGISTRIES_CONF"], path.Join(s.Home, ".config/containers/registries.conf"), "/etc/containers/registries.conf",
	} {
		if where == "" {
			continue
		}
		text, err := s.ReadFile(where)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var file struct {
			Helpers []string `toml:"credential-helpers"`
		}
		if err == nil && toml.Unmarshal(text, &file) != nil {
			err = errors.New("it is no TOML, or has a value of a wrong kind")
		}
		if err != nil {
			s.look(where, "", Broken, rulePodmanBroken, "%v", err)
			return nil, fmt.Errorf("read %s: %w", where, err)
		}
		if len(file.Helpers) > 0 {
			return file.Helpers, nil
		}
		break
	}
	return []string{authFilesHelper}, nil
}

// podmanFile is one of the files, of the kind that has only entries.
type podmanFile struct {
	path   string
	legacy bool
}

// podmanPlaces is getAuthFilePaths.
func (s *search) podmanPlaces(given string) []podmanFile {
	if given != "" {
		return []podmanFile{{path: given}}
	}
	session := path.Join("/run/containers", strconv.Itoa(s.UID), "auth.json")
	if dir := s.Env["XDG_RUNTIME_DIR"]; dir != "" {
		session = path.Join(dir, "containers/auth.json")
	}
	config := s.Env["XDG_CONFIG_HOME"]
	if config == "" {
		config = path.Join(s.Home, ".config")
	}
	return []podmanFile{
		{path: session}, {path: path.Join(config, "containers/auth.json")},
		{path: s.dockerFile()}, {path: path.Join(s.Home, legacyName), legacy: true},
	}
}

func (s *search) podmanFiles(files []podmanFile) []Outcome {
	outcomes := nobody(rulePodmanNone)
	for _, file := range files {
		outcomes = then(outcomes, func() []Outcome { return s.podmanFile(file) })
	}
	return outcomes
}

// podmanEntry is a dockerAuthConfig.
type podmanEntry struct {
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// podmanFile is findCredentialsInFile.
func (s *search) podmanFile(file podmanFile) []Outcome {
	text, err := s.ReadFile(file.path)
	if errors.Is(err, fs.ErrNotExist) {
		s.look(file.path, "", Absent, rulePodmanOrder, "there is no such file")
		return nobody(rulePodmanNone)
	}
	var content struct {
		Auths   map[string]podmanEntry `json:"auths"`
		Helpers map[string]string      `json:"credHelpers"`
	}
	if err == nil {
		if file.legacy {
			err = json.Unmarshal(text, &content.Auths)
		} else {
			err = json.Unmarshal(text, &content)
		}
		if err != nil {
			err = withoutContent(err)
		}
	}
	if err != nil {
		s.look(file.path, "", Broken, rulePodmanBroken, "%v", err)
		return fails(rulePodmanBroken, fmt.Errorf("read %s: %w", file.path, err))
	}
	if helper, ok := content.Helpers[s.domain]; ok {
		return s.podmanHelper(helper, rulePodmanHelper)
	}
	for key := s.named.Name(); key != ""; key = parent(key) {
		if file.legacy {
			key = s.domain
		}
		if entry, ok := content.Auths[key]; ok {
			return s.podmanEntry(file.path, key, rulePodmanNamespaces, entry)
		}
		if file.legacy {
			break
		}
	}
	var outcomes []Outcome
	for _, key := range slices.Sorted(maps.Keys(content.Auths)) {
		if podmanKey(key, file.legacy) == podmanHost(s.domain) {
			outcomes = append(outcomes, s.podmanEntry(file.path, key, rulePodmanNormal, content.Auths[key])...)
		} else {
			s.near(file.path, key, s.domain, rulePodmanNormal)
		}
	}
	if len(outcomes) == 0 {
		return nobody(rulePodmanNone)
	}
	return outcomes
}

// podmanEntry is decodeDockerAuth.
func (s *search) podmanEntry(where, key string, rule Rule, entry podmanEntry) []Outcome {
	decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
	if err != nil {
		s.look(where, key, Broken, rulePodmanBroken, "its auth is not base64")
		return fails(rulePodmanBroken, fmt.Errorf("read %s: the auth of %s is not base64", where, key))
	}
	username, password, ok := strings.Cut(string(decoded), ":")
	if !ok {
		s.look(where, key, Passed, rulePodmanAuthOnly, "it has no auth of user:password")
		return nobody(rulePodmanAuthOnly)
	}
	login := Login{Username: username}
	if password = strings.Trim(password, "\x00"); password != "" {
		login.Password = credential.NewSecret(password)
	}
	if entry.IdentityToken != "" {
		login.IdentityToken = credential.NewSecret(entry.IdentityToken)
	}
	return []Outcome{takes(Found{Login: login, Where: where, Key: key, Rule: rule})}
}

// podmanHelper is getCredsFromCredHelper.
func (s *search) podmanHelper(helper string, rule Rule) []Outcome {
	where := program(helper)
	username, secret, err := s.Helpers.Get(helper, s.domain)
	switch {
	case errors.Is(err, ErrNotAsked):
		s.look(where, s.domain, Passed, rule, "helpers are not asked")
		return []Outcome{{Unknown: true, Rule: rule}}
	case errors.Is(err, ErrNoLogin):
		s.look(where, s.domain, Absent, rule, "it has no login for %s", s.domain)
		return nobody(rulePodmanNone)
	case err != nil:
		s.look(where, s.domain, Broken, rulePodmanBroken, "%v", err)
		return fails(rulePodmanBroken, fmt.Errorf("ask %s for %s: %w", where, s.domain, err))
	}
	login := Login{Username: username, Password: credential.NewSecret(secret)}
	if username == tokenUser {
		login = Login{IdentityToken: credential.NewSecret(secret)}
	}
	return []Outcome{takes(Found{Login: login, Where: where, Key: s.domain, Rule: rule})}
}

// podmanKey is normalizeAuthFileKey, podmanHost normalizeRegistry.
func podmanKey(key string, legacy bool) string {
	bare := strings.TrimPrefix(strings.TrimPrefix(key, "http://"), "https://")
	if legacy || bare != key {
		bare, _, _ = strings.Cut(bare, "/")
	}
	return podmanHost(bare)
}

func podmanHost(host string) string {
	if host == hubAPI || host == string(credential.DockerHub) {
		return hubIndex
	}
	return host
}
