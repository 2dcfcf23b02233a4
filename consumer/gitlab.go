package consumer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"

	"github.com/regkeeper/regkeeper/credential"
)

const jobPayload = "the logins of the job"

func gitlabRunner() Consumer {
	return Consumer{
		Name: "gitlab-runner", About: "GitLab Runner with the Docker executor",
		Places: "$DOCKER_AUTH_CONFIG of the job, or else of config.toml's environment; ~/.docker/config.json or ~/.dockercfg of the runner's user and its helpers; the logins that GitLab sends with the job",
		Rules:  []Rule{ruleGitlabOrder, ruleGitlabIgnores, ruleGitlabOnce, ruleGitlabPresent},
		decide: (*search).gitlab,
	}
}

func gitlabRunnerKubernetes() Consumer {
	return Consumer{
		Name: "gitlab-runner-kubernetes", About: "GitLab Runner with the Kubernetes executor",
		Places: "as gitlab-runner, written into a Secret of the build's pod; before it the Secrets under image_pull_secrets",
		Rules:  []Rule{ruleGitlabOrder, ruleGitlabIgnores, ruleGitlabPullSecrets, ruleKubeletPresent},
		decide: (*search).gitlabPod,
	}
}

// registration is a login by the path that GitLab Runner knows it by.
type registration struct {
	Found
	path string
}

// gitlab is auth.Resolver.ConfigForImage.
func (s *search) gitlab() []Outcome {
	known, outcomes := s.gitlabSources()
	if known == nil {
		return outcomes
	}
	image := gitlabImage(s.image)
	for p := image; p != ""; p = parent(p) {
		for _, r := range known {
			if r.path == p {
				s.shadowed(known, image, r)
				return append(outcomes, takes(r.Found))
			}
		}
	}
	host, _, _ := strings.Cut(image, "/")
	for _, r := range known {
		why := mistaken(r.Key, host)
		if r.path != host && r.Key == r.path && why == "" && r.path == hubAPI && host == string(credential.DockerHub) {
			why = "Docker Hub is docker.io here"
		}
		if why != "" {
			s.look(r.Where, r.Key, Passed, ruleGitlabKey, "%s", why)
		}
	}
	return append(outcomes, nobody(ruleGitlabNone)...)
}

// shadowed tells of the logins that would have served too.
func (s *search) shadowed(known []registration, image string, by registration) {
	for _, r := range known {
		if r.path == by.path && (r.Where != by.Where || r.Key != by.Key) || r.path != by.path && strings.HasPrefix(image+"/", r.path+"/") {
			s.look(r.Where, r.Key, Hidden, ruleGitlabLongest, "%s of %s comes first", by.Key, by.Where)
		}
	}
}

// gitlabSources are the logins of all sources, the first for a path alone, and the
// outcomes in which the job fails before it comes to them. The logins are nil if it
// always does.
func (s *search) gitlabSources() ([]registration, []Outcome) {
	all := []registration{}
	var outcomes []Outcome
	add := func(where string, entries []types.AuthConfig) {
		for _, entry := range entries {
			p := gitlabPath(entry.ServerAddress)
			found := Found{Login: loginOf(entry), Where: where, Key: entry.ServerAddress, Rule: ruleGitlabLongest}
			if at := slices.IndexFunc(all, func(r registration) bool { return r.path == p }); at >= 0 {
				if !strings.HasPrefix(gitlabImage(s.image)+"/", p+"/") {
					continue
				}
				s.look(where, entry.ServerAddress, Hidden, ruleGitlabOrder, "%s of %s comes first", all[at].Key, all[at].Where)
				continue
			}
			all = append(all, registration{found, p})
		}
	}
	variable, where := s.Job.Variables[credential.AuthVariable], "$DOCKER_AUTH_CONFIG of the job"
	if of, ok := s.Job.Environment[credential.AuthVariable]; ok {
		if _, both := s.Job.Variables[credential.AuthVariable]; both {
			s.look("$DOCKER_AUTH_CONFIG of config.toml", "", Hidden, ruleGitlabJobVariable, "the job has a variable of that name")
		} else {
			variable, where = of, "$DOCKER_AUTH_CONFIG of config.toml"
		}
	}
	if variable == "" {
		s.look("$DOCKER_AUTH_CONFIG", "", Absent, ruleGitlabOrder, "no such variable is set for the job")
	} else {
		entries, err := s.gitlabRead([]byte(variable))
		if !s.gitlabFault(where, err, &outcomes) {
			return nil, outcomes
		}
		add(where, entries)
	}
	file := path.Join(s.Home, ".docker", configName)
	if s.DockerConfig != "" {
		file = s.DockerConfig
	}
	for _, name := range []string{file, path.Join(s.Home, legacyName)} {
		text, err := s.ReadFile(name)
		if errors.Is(err, syscall.EISDIR) {
			// A folder can be opened, so that no other file is looked at.
			s.look(name, "", Broken, ruleGitlabBroken, "%v", err)
			break
		}
		if err != nil {
			verdict := Broken
			if errors.Is(err, fs.ErrNotExist) {
				verdict = Absent
			}
			s.look(name, "", verdict, ruleGitlabOrder, "%v", err)
			continue
		}
		entries, err := s.gitlabRead(text)
		if !s.gitlabFault(name, err, &outcomes) {
			return nil, outcomes
		}
		add(name, entries)
		break
	}
	var payload []types.AuthConfig
	for _, p := range s.Job.Payload {
		if p.Type == "registry" {
			payload = append(payload, types.AuthConfig{Username: p.Username, Password: p.Password.Reveal(), ServerAddress: p.URL})
		}
	}
	add(jobPayload, payload)
	return all, outcomes
}

// gitlabFault says whether the job goes on after a source that was read with an
// error. Which of two faulty helpers is met first hangs on the order of a map: then
// it may end here, and may not.
func (s *search) gitlabFault(where string, err error, outcomes *[]Outcome) bool {
	if err == nil {
		return true
	}
	if errors.Is(err, ErrNotAsked) {
		s.look(where, "", Passed, ruleGitlabOrder, "helpers are not asked")
		*outcomes = append(*outcomes, Outcome{Unknown: true, Rule: ruleGitlabOrder})
		return false
	}
	rule := ruleGitlabBroken
	if errors.Is(err, errHelperPath) {
		rule = ruleGitlabTraversal
		*outcomes = append(*outcomes, fails(rule, fmt.Errorf("read %s: %w", where, err))...)
	}
	s.look(where, "", Broken, rule, "%v", err)
	return !errors.Is(err, errHelperPath) || errors.Is(err, errHelperFails)
}

var (
	errHelperPath  = errors.New("a helper's name must not be empty or have a path")
	errHelperFails = errors.New("a helper fails")
)

// gitlabRead is readConfigsFromReader: the logins of one document, those of its
// helpers over its own.
func (s *search) gitlabRead(text []byte) ([]types.AuthConfig, error) {
	file := &configfile.ConfigFile{}
	if err := file.LoadFromReader(bytes.NewReader(text)); err != nil {
		return nil, withoutContent(err)
	}
	if !file.ContainsAuth() {
		return nil, nil
	}
	entries := file.GetAuthConfigs()
	if store := file.CredentialsStore; store != "" {
		if store != path.Base(store) {
			return nil, errHelperPath
		}
		servers, err := s.Helpers.List(store)
		if err != nil {
			return nil, fmt.Errorf("ask %s what it has: %w", program(store), err)
		}
		for _, server := range servers {
			entry, err := s.gitlabHelper(entries[server], store, server)
			if err != nil {
				return nil, err
			}
			// The address of an entry that the file has too stays.
			if address := entries[server].ServerAddress; address != "" {
				entry.ServerAddress = address
			}
			entries[server] = entry
		}
	}
	written := maps.Clone(entries)
	var faults []error
	for _, server := range slices.Sorted(maps.Keys(file.CredentialHelpers)) {
		helper := file.CredentialHelpers[server]
		if helper != path.Base(helper) {
			faults = append(faults, errHelperPath)
			continue
		}
		entry, err := s.gitlabHelper(fileEntry(written, server), helper, server)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		entries[server] = entry
	}
	if len(faults) > 0 {
		return nil, joined(faults, ", or ")
	}
	sorted := make([]types.AuthConfig, 0, len(entries))
	for _, server := range slices.Sorted(maps.Keys(entries)) {
		sorted = append(sorted, entries[server])
	}
	return sorted, nil
}

// fileEntry is the entry that docker/cli's store for helpers takes what the helper
// does not tell from.
func fileEntry(entries map[string]types.AuthConfig, server string) types.AuthConfig {
	if entry, ok := entries[server]; ok {
		return entry
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if hostnameOf(key, false) == server {
			return entries[key]
		}
	}
	return types.AuthConfig{}
}

// gitlabHelper puts the login that a helper has for a server over the entry.
func (s *search) gitlabHelper(entry types.AuthConfig, helper, server string) (types.AuthConfig, error) {
	username, secret, err := s.Helpers.Get(helper, server)
	if err != nil && !errors.Is(err, ErrNoLogin) {
		return entry, fmt.Errorf("%w: ask %s for %s: %w", errHelperFails, program(helper), server, err)
	}
	entry.Username, entry.Password, entry.IdentityToken, entry.ServerAddress = username, secret, "", server
	switch {
	case err != nil:
		entry.ServerAddress = ""
	case username == tokenUser:
		entry.Username, entry.Password, entry.IdentityToken = "", "", secret
	}
	return entry, nil
}

// gitlabImage is normalizeImageRef: the path of an image, without its tag.
func gitlabImage(image string) string {
	dir, last := path.Split(image)
	last, _, _ = strings.Cut(last, ":")
	whole := path.Join(dir, last)
	first, _, nested := strings.Cut(whole, "/")
	switch {
	case !nested || !strings.ContainsAny(first, ".:") && !strings.EqualFold(first, "localhost"):
		whole = path.Join(string(credential.DockerHub), whole)
	case strings.EqualFold(first, hubIndex):
		_, whole, _ = strings.Cut(whole, ".")
	}
	return lowerHost(whole)
}

// gitlabPath is convertToRegistryPath: the path that a key stands for.
func gitlabPath(key string) string {
	for _, scheme := range []string{"https://", "http://"} {
		if len(key) >= len(scheme) && strings.EqualFold(key[:len(scheme)], scheme) {
			host, _, _ := strings.Cut(key[len(scheme):], "/")
			if host = strings.ToLower(host); host == hubIndex {
				return string(credential.DockerHub)
			}
			return host
		}
	}
	p := strings.TrimSuffix(key, "/")
	if tag, slash := strings.LastIndex(p, ":"), strings.LastIndex(p, "/"); slash >= 0 && tag > slash {
		p = p[:tag]
	}
	return lowerHost(p)
}

func lowerHost(p string) string {
	host, rest, nested := strings.Cut(p, "/")
	if !nested {
		return strings.ToLower(host)
	}
	return strings.ToLower(host) + "/" + rest
}

func parent(p string) string {
	if at := strings.LastIndex(p, "/"); at >= 0 {
		return p[:at]
	}
	return ""
}

// gitlabPod is what becomes of it in a cluster: the runner's logins go into a
// Secret, and the kubelet takes them by its own rules.
func (s *search) gitlabPod() []Outcome {
	known, outcomes := s.gitlabSources()
	if known == nil {
		return outcomes
	}
	keyring := &keyring{}
	for _, secret := range s.Pod.Secrets {
		if !slices.Contains(s.Job.PullSecrets, secret.Name) {
			continue
		}
		if err := s.addSecret(keyring, secret); err != nil {
			return fails(ruleKubeletBroken, err)
		}
	}
	for _, r := range known {
		keyring.add(r.Where, r.Key, r.Login)
	}
	return append(outcomes, s.tried(keyring.lookup(s.named.Name()))...)
}
