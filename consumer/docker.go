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
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"

	"github.com/regkeeper/regkeeper/credential"
)

const (
	hubKey      = "https://index.docker.io/v1/"
	hubIndex    = "index.docker.io"
	hubAPI      = "registry-1.docker.io"
	configEnv   = "DOCKER_CONFIG"
	configName  = "config.json"
	legacyName  = ".dockercfg"
	tokenUser   = "<token>"
	variableTag = "$" + credential.AuthVariable
)

// dockers are the docker CLI and what shares its way of finding logins.
func dockers() []Consumer {
	return []Consumer{
		{
			Name: "docker", About: "the docker CLI from 28.3 on, and docker compose",
			Places: "$DOCKER_AUTH_CONFIG, then $DOCKER_CONFIG/config.json or ~/.docker/config.json and its helpers",
			decide: func(s *search) []Outcome { return s.docker(dockerRules{variable: true}) },
		},
		{
			Name: "docker-28.2", About: "the docker CLI before 28.3",
			Places: "$DOCKER_CONFIG/config.json or ~/.docker/config.json and its helpers",
			decide: func(s *search) []Outcome { return s.docker(dockerRules{silent: true, older: true}) },
		},
		{
			Name: "buildkit", About: "docker buildx and buildctl, whose client lends the logins to BuildKit",
			Places: "$DOCKER_AUTH_CONFIG, then $DOCKER_CONFIG/config.json or ~/.docker/config.json and its helpers, of the client",
			Rules:  []Rule{ruleBuildkitHub},
			decide: func(s *search) []Outcome {
				if s.domain == hubAPI {
					s.domain = string(credential.DockerHub)
				}
				return s.docker(dockerRules{variable: true})
			},
		},
	}
}

// dockerRules are how the readers of config.json differ.
type dockerRules struct {
	// variable has DOCKER_AUTH_CONFIG read.
	variable bool
	// silent goes on as nobody when a helper fails.
	silent bool
	// strict gives up when the file is broken.
	strict bool
	// undetected leaves out the platform's helper.
	undetected bool
	// older reads keys as docker/cli did before 29.7: see hostnameOf.
	older bool
	// key is the key to look for, where it is not dockerKey's.
	key string
}

// dockerFile is where the docker CLI has its configuration: cli/config.Dir.
func (s *search) dockerFile() string {
	if s.DockerConfig != "" {
		return s.DockerConfig
	}
	if dir := s.Env[configEnv]; dir != "" {
		return path.Join(dir, configName)
	}
	return path.Join(s.Home, ".docker", configName)
}

// docker is what the docker CLI does: cli/command.RetrieveAuthTokenFromImage.
func (s *search) docker(rules dockerRules) []Outcome {
	file := s.readDocker(s.dockerFile(), rules)
	if file.err != nil && rules.strict {
		return fails(ruleBrokenFails, file.err)
	}
	if !file.ContainsAuth() && !rules.undetected && s.DefaultStore != "" {
		file.CredentialsStore, file.detected = s.DefaultStore, true
	}
	key := rules.key
	if key == "" {
		key = dockerKey(s.domain)
	}
	return s.fromDocker(file, key, rules)
}

// dockerKey is the key of a registry: configfile.getAuthConfigKey.
func dockerKey(domain string) string {
	if domain == string(credential.DockerHub) || domain == hubIndex {
		return hubKey
	}
	return domain
}

// document is a config.json as docker/cli has it in memory.
type document struct {
	*configfile.ConfigFile
	where string
	// decoded are the entries whose login is known for sure, raw those that the
	// reader may have left as they are written.
	decoded, raw map[string]types.AuthConfig
	// detected says that CredentialsStore is none of the file's.
	detected bool
	// older has its keys read in the older way.
	older bool
	err   error
}

// readDocker reads a config.json as docker/cli's LoadFromReader does.
func (s *search) readDocker(where string, rules dockerRules) document {
	d := document{ConfigFile: configfile.New(where), where: where, older: rules.older}
	text, err := s.ReadFile(where)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.look(where, "", Absent, Rule{}, "there is no such file")
		return d
	case err != nil:
		d.err = fmt.Errorf("read %s: %w", where, err)
		s.look(where, "", Broken, ruleBrokenFile, "%v", err)
		return d
	}
	d.parse(text)
	if d.err != nil {
		rule := ruleBrokenEntry
		switch {
		case rules.strict:
			rule = ruleBrokenFails
		case d.decoded == nil:
			rule = ruleBrokenFile
		}
		s.look(where, "", Broken, rule, "%v", d.err)
	}
	return d
}

// parse reads the text.
func (d *document) parse(text []byte) {
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(d.ConfigFile); err != nil && !errors.Is(err, io.EOF) {
		// What was read before the fault stays, undecoded.
		d.err = fmt.Errorf("parse %s: %w", d.where, withoutContent(err))
		d.raw = d.AuthConfigs
		return
	}
	var broken []string
	d.decoded = map[string]types.AuthConfig{}
	for key, entry := range d.AuthConfigs {
		if entry.Auth != "" {
			var err error
			if entry.Username, entry.Password, err = decodeAuth(entry.Auth); err != nil {
				broken = append(broken, key)
				continue
			}
		}
		entry.Auth = ""
		d.decoded[key] = entry
	}
	if len(broken) > 0 {
		slices.Sort(broken)
		d.err = fmt.Errorf("parse %s: the auth of %s is not base64 of user:password", d.where, strings.Join(broken, " and of "))
		d.raw = d.AuthConfigs
	}
}

// withoutContent is an error of reading JSON that shows nothing of the document.
func withoutContent(err error) error {
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("a value of a wrong kind under %q at byte %d", kind.Field, kind.Offset)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("no JSON at byte %d", syntax.Offset)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.ErrUnexpectedEOF
	}
	return errors.New("it cannot be read")
}

// decodeAuth is configfile.decodeAuth.
func decodeAuth(auth string) (username, password string, err error) {
	text, err := base64.StdEncoding.DecodeString(auth)
	if err != nil {
		return "", "", errors.New("not base64")
	}
	username, password, ok := strings.Cut(string(text), ":")
	if !ok || username == "" {
		return "", "", errors.New("not user:password")
	}
	return username, strings.Trim(password, "\x00"), nil
}

// loginOf is the login that an entry holds.
func loginOf(entry types.AuthConfig) Login {
	login := Login{Username: entry.Username}
	for _, of := range []struct {
		from string
		to   *credential.Secret
	}{{entry.Password, &login.Password}, {entry.IdentityToken, &login.IdentityToken}, {entry.RegistryToken, &login.RegistryToken}} {
		if of.from != "" {
			*of.to = credential.NewSecret(of.from)
		}
	}
	return login
}

// fromDocker is configfile.GetAuthConfig for a key.
func (s *search) fromDocker(d document, key string, rules dockerRules) []Outcome {
	if found, ok := s.fromVariable(key, rules); ok {
		s.hidden(d, key)
		return []Outcome{found}
	}
	helper, rule := d.CredentialHelpers[key], ruleHelperOfHost
	if _, ok := d.CredentialHelpers[key]; !ok {
		helper, rule = d.CredentialsStore, ruleHelperOfAll
	}
	if d.detected {
		rule = ruleDetectedStore
	}
	entries := s.entries(d, key)
	if helper == "" {
		return entries
	}
	s.hidden(d, key)
	return s.fromHelper(helper, key, rule, rules, entries)
}

// entries is file_store.go's Get: the entry of the very key, or one of those whose
// key has that host.
func (s *search) entries(d document, key string) []Outcome {
	keys := []string{key}
	rule := ruleExact
	if key == hubKey {
		rule = ruleHubKey
	}
	if _, ok := d.AuthConfigs[key]; !ok {
		keys, rule = nil, ruleHostname
		for _, k := range slices.Sorted(maps.Keys(d.AuthConfigs)) {
			if hostnameOf(k, d.older) == key {
				keys = append(keys, k)
			} else {
				s.near(d.where, k, key, ruleHostname)
			}
		}
		if len(keys) > 1 {
			rule = ruleChance
		}
	} else {
		for _, k := range slices.Sorted(maps.Keys(d.AuthConfigs)) {
			if k != key && hostnameOf(k, d.older) == key {
				s.look(d.where, k, Hidden, ruleExact, "the key %s comes first", key)
			} else if k != key {
				s.near(d.where, k, key, ruleHostname)
			}
		}
	}
	if len(keys) == 0 {
		return nobody(ruleNoEntry)
	}
	var outcomes []Outcome
	for _, k := range keys {
		for _, from := range []map[string]types.AuthConfig{d.decoded, d.raw} {
			if entry, ok := from[k]; ok {
				found := Found{Login: loginOf(entry), Where: d.where, Key: k, Rule: rule}
				if found.Login.Empty() {
					s.look(d.where, k, Passed, ruleEmptyEntry, "it holds no login")
				}
				outcomes = append(outcomes, takes(found))
			}
		}
	}
	return outcomes
}

// fromHelper is native_store.go's Get. Of the entry under auths a registry token
// is kept.
func (s *search) fromHelper(helper, key string, rule Rule, rules dockerRules, entries []Outcome) []Outcome {
	where := program(helper)
	username, secret, err := s.Helpers.Get(helper, key)
	var login Login
	end := rule
	switch {
	case errors.Is(err, ErrNotAsked):
		s.look(where, key, Passed, rule, "helpers are not asked")
		return []Outcome{{Unknown: true, Rule: rule}}
	case errors.Is(err, ErrNoLogin):
		s.look(where, key, Absent, ruleHelperHasNone, "it has no login for %s", key)
		end = ruleHelperHasNone
	case err != nil && rules.silent:
		s.look(where, key, Broken, ruleHelperFailsSilently, "%v", err)
		end = ruleHelperFailsSilently
	case err != nil:
		s.look(where, key, Broken, ruleHelperFails, "%v", err)
		return fails(ruleHelperFails, fmt.Errorf("ask %s for %s: %w", where, key, err))
	case username == tokenUser:
		login.IdentityToken = credential.NewSecret(secret)
	default:
		login.Username, login.Password = username, credential.NewSecret(secret)
	}
	var outcomes []Outcome
	for _, entry := range entries {
		found := Found{Login: login, Where: where, Key: key, Rule: end}
		if err == nil || !rules.silent || errors.Is(err, ErrNoLogin) {
			found.Login.RegistryToken = entry.Login().RegistryToken
		} else {
			found.Login = entry.Login()
			if len(entry.Tries) > 0 {
				found.Where, found.Key = entry.Tries[0].Where, entry.Tries[0].Key
			}
		}
		if found.Login.Empty() {
			outcomes = append(outcomes, Outcome{Rule: end})
		} else {
			outcomes = append(outcomes, Outcome{Tries: []Found{found}})
		}
	}
	return outcomes
}

// program is the program of a helper.
func program(helper string) string { return "docker-credential-" + helper }

// fromVariable looks into DOCKER_AUTH_CONFIG: configfile.parseEnvConfig and
// memorystore's Get.
func (s *search) fromVariable(key string, rules dockerRules) (Outcome, bool) {
	text := s.Env[credential.AuthVariable]
	if text == "" {
		return Outcome{}, false
	}
	if !rules.variable {
		s.look(variableTag, "", Passed, ruleVariableUnread, "it is set, and not read")
		return Outcome{}, false
	}
	logins, err := ParseVariable(text)
	if err != nil {
		s.look(variableTag, "", Broken, ruleVariableStrict, "%v", err)
		return Outcome{}, false
	}
	login, ok := logins[key]
	for _, k := range slices.Sorted(maps.Keys(logins)) {
		if k != key {
			s.near(variableTag, k, key, ruleVariable)
		}
	}
	if !ok {
		return Outcome{}, false
	}
	return takes(Found{Login: login, Where: variableTag, Key: key, Rule: ruleVariable}), true
}

// ParseVariable reads the value of DOCKER_AUTH_CONFIG as the docker CLI does from
// 28.3 on: {"auths": {"host": {"auth": "..."}}}, with no other field anywhere
// (docker/cli, cli/config/configfile/file.go, parseEnvConfig). Its errors show
// nothing of the value.
func ParseVariable(text string) (map[string]Login, error) {
	var value struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&value); err != nil && !errors.Is(err, io.EOF) {
		if errors.As(err, new(*json.SyntaxError)) || errors.As(err, new(*json.UnmarshalTypeError)) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, withoutContent(err)
		}
		return nil, errors.New(`a field other than "auths" and "auth" in it`)
	}
	if decoder.More() {
		return nil, errors.New("more than one JSON object in it")
	}
	logins := map[string]Login{}
	for key, entry := range value.Auths {
		if entry.Auth == "" {
			return nil, fmt.Errorf("the entry of %s has no auth", key)
		}
		username, password, err := decodeAuth(entry.Auth)
		if err != nil {
			return nil, fmt.Errorf("the auth of %s is not base64 of user:password", key)
		}
		logins[key] = loginOf(types.AuthConfig{Username: username, Password: password})
	}
	return logins, nil
}

// hidden tells of the entries that something else comes before.
func (s *search) hidden(d document, key string) {
	for _, k := range slices.Sorted(maps.Keys(d.AuthConfigs)) {
		if k == key || hostnameOf(k, d.older) == key {
			if slices.ContainsFunc(s.looks, func(l Look) bool { return l.Where == d.where && l.Key == k }) {
				continue
			}
			s.look(d.where, k, Hidden, ruleExact, "it is not asked: something else comes first")
		}
	}
}

// hostnameOf is docker/cli's credentials.ConvertToHostname. From 29.7 on it finds a
// host in URLs too that net/url takes for none.
func hostnameOf(key string, older bool) string {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		if u, err := url.Parse(key); err == nil && u.Hostname() != "" {
			if u.Port() == "" {
				return u.Hostname()
			}
			return net.JoinHostPort(u.Hostname(), u.Port())
		}
		if host, _, _ := strings.Cut(rest, "/"); host != "" && !older {
			return bracketed(host)
		}
	}
	host, _, _ := strings.Cut(key, "/")
	return host
}

// bracketed is an address of IPv6 with a port as URLs have it, though it was
// written without brackets; anything else is left alone.
func bracketed(host string) string {
	if strings.Count(host, ":") < 2 || strings.HasPrefix(host, "[") {
		return host
	}
	at := strings.LastIndexByte(host, ':')
	if at == 0 || at == len(host)-1 || strings.Trim(host[at+1:], "0123456789") != "" {
		return host
	}
	return net.JoinHostPort(host[:at], host[at+1:])
}
