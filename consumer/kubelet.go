package consumer

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
)

const (
	typeDockerConfigJSON = "kubernetes.io/dockerconfigjson"
	typeDockerConfig     = "kubernetes.io/dockercfg"
	dataDockerConfigJSON = ".dockerconfigjson"
	dataDockerConfig     = ".dockercfg"
	kubeletFolder        = "/var/lib/kubelet"
)

func kubelet() Consumer {
	return Consumer{
		Name: "kubelet", About: "a kubelet, for the images of pods",
		Places: "the pod's pull Secrets, then /var/lib/kubelet/config.json and its like, then credential provider plugins",
		Rules:  []Rule{ruleKubeletOrder, ruleKubeletFields, ruleKubeletPresent},
		decide: (*search).kubelet,
	}
}

// keyring is a BasicDockerKeyring.
type keyring struct {
	keys   []string
	logins map[string][]Found
}

// add puts a login in under the key that its entry stands for: BasicDockerKeyring's
// Add. Of the entries of one document with one key, which is tried first hangs on
// the order of a map; here it is that of their names.
func (k *keyring) add(where, entry string, login Login) {
	key, ok := KubeletKey(entry)
	if !ok {
		return
	}
	if k.logins == nil {
		k.logins = map[string][]Found{}
	}
	if _, ok := k.logins[key]; !ok {
		k.keys = append(k.keys, key)
	}
	login.IdentityToken, login.RegistryToken = credential.Secret{}, credential.Secret{}
	k.logins[key] = append(k.logins[key], Found{Login: login, Where: where, Key: entry, Rule: ruleKubeletMatch})
}

// KubeletKey is the key of an entry as a kubelet keeps it: without scheme, and
// without the /v1 or /v2 that clients put behind a host (kubernetes,
// pkg/credentialprovider/keyring.go, BasicDockerKeyring.Add).
func KubeletKey(entry string) (key string, ok bool) {
	if !strings.HasPrefix(entry, "https://") && !strings.HasPrefix(entry, "http://") {
		entry = "https://" + entry
	}
	u, err := url.Parse(entry)
	if err != nil {
		return "", false
	}
	p := u.Path
	if strings.HasPrefix(p, "/v2/") || strings.HasPrefix(p, "/v1/") {
		p = p[len("/v1"):]
	}
	if p == "/" {
		p = ""
	}
	return u.Host + p, true
}

// lookup is BasicDockerKeyring's Lookup.
func (k *keyring) lookup(image string) []Found {
	slices.Sort(k.keys)
	var found []Found
	for _, key := range slices.Backward(k.keys) {
		if KubeletMatches(key, image) {
			found = append(found, k.logins[key]...)
		}
	}
	if len(found) > 0 || !OnDockerHub(image) {
		return found
	}
	for _, f := range k.logins[hubIndex] {
		f.Rule = ruleKubeletHub
		found = append(found, f)
	}
	return found
}

// KubeletMatches says whether a kubelet takes an image for one that the pattern
// means (kubernetes, pkg/credentialprovider/keyring.go, URLsMatch): as many labels in
// the host, each matching as of [filepath.Match], the same port, and the path a
// prefix. A pattern that is none matches nothing.
func KubeletMatches(pattern, image string) bool {
	p, err := url.Parse("https://" + pattern)
	if err != nil {
		return false
	}
	target, err := url.Parse("https://" + image)
	if err != nil {
		return false
	}
	wanted, port := labels(p.Host)
	has, hasPort := labels(target.Host)
	if port != hasPort || len(wanted) != len(has) || !strings.HasPrefix(target.Path, p.Path) {
		return false
	}
	for i := range wanted {
		if ok, err := filepath.Match(wanted[i], has[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

func labels(hostport string) (labels []string, port string) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = hostport, ""
	}
	return strings.Split(host, "."), port
}

// OnDockerHub says whether an image's name leads to Docker Hub, for a kubelet
// (kubernetes, pkg/credentialprovider/keyring.go, isDefaultRegistryMatch).
func OnDockerHub(image string) bool {
	first, _, nested := strings.Cut(image, "/")
	switch {
	case first == "":
		return false
	case !nested || first == string(credential.DockerHub) || first == hubIndex:
		return true
	}
	return !strings.ContainsAny(first, ".:")
}

// kubelet is what makeLookupPullCredentialsFunc does.
func (s *search) kubelet() []Outcome {
	image := s.named.Name()
	secrets := &keyring{}
	for _, secret := range s.Pod.Secrets {
		if err := s.addSecret(secrets, secret); err != nil {
			return fails(ruleKubeletBroken, err)
		}
	}
	node := &keyring{}
	s.addNode(node)
	providers := &keyring{}
	for _, p := range s.Pod.Providers {
		s.addProvider(providers, p, image)
	}
	for _, ring := range []*keyring{secrets, node, providers} {
		s.unmatched(ring, image)
	}
	return s.tried(slices.Concat(secrets.lookup(image), node.lookup(image), providers.lookup(image)))
}

// tried is the outcome of trying all that was found. A kubelet tries an entry
// without a login too.
func (s *search) tried(found []Found) []Outcome {
	if len(found) == 0 {
		return nobody(ruleKubeletNone)
	}
	for _, f := range found {
		if f.Login.Empty() {
			s.look(f.Where, f.Key, Passed, ruleEmptyEntry, "it holds no login, and is tried all the same")
		}
	}
	return []Outcome{{Tries: found}}
}

// unmatched tells of the entries that do not match and look as if they should.
func (s *search) unmatched(ring *keyring, image string) {
	host, _, _ := strings.Cut(image, "/")
	for _, key := range slices.Sorted(maps.Keys(ring.logins)) {
		if KubeletMatches(key, image) || OnDockerHub(image) && key == hubIndex {
			continue
		}
		for _, f := range ring.logins[key] {
			if why := mistaken(key, host); why != "" {
				s.look(f.Where, f.Key, Passed, ruleKubeletMatch, "%s", why)
			}
		}
	}
}

// secretName names a Secret as kubectl does.
func secretName(secret PullSecret) string {
	return "Secret " + path.Join(secret.Namespace, secret.Name)
}

func (s *search) addSecret(ring *keyring, secret PullSecret) error {
	where := secretName(secret)
	if secret.Missing {
		s.look(where, "", Absent, ruleKubeletOrder, "the pod names it, and there is no such Secret in its namespace")
		return nil
	}
	var auths map[string]entry
	switch json, legacy := secret.Data[dataDockerConfigJSON], secret.Data[dataDockerConfig]; {
	case secret.Type == typeDockerConfigJSON && len(json) > 0:
		var err error
		if auths, err = kubeletEntries(json); err != nil {
			s.look(where, "", Broken, ruleKubeletBroken, "%v", err)
			return fmt.Errorf("read %s: %w", where, err)
		}
	case secret.Type == typeDockerConfig && len(legacy) > 0:
		var err error
		if auths, err = legacyEntries(legacy); err != nil {
			s.look(where, "", Broken, ruleKubeletBroken, "%v", err)
			return fmt.Errorf("read %s: %w", where, err)
		}
	default:
		s.look(where, "", Passed, ruleKubeletSecretType, "its type is %q, or it has no key of that type", secret.Type)
		return nil
	}
	s.addEntries(ring, where, auths)
	return nil
}

func (s *search) addEntries(ring *keyring, where string, auths map[string]entry) {
	for _, key := range slices.Sorted(maps.Keys(auths)) {
		ring.add(where, key, Login(auths[key]))
	}
}

// addNode reads the node's file: ReadDockerConfigFile.
func (s *search) addNode(ring *keyring) {
	read := func(folders []string, name string, parse func([]byte) (map[string]entry, error)) bool {
		for _, folder := range folders {
			where := path.Join(folder, name)
			text, err := s.ReadFile(where)
			if errors.Is(err, fs.ErrNotExist) {
				s.look(where, "", Absent, ruleKubeletNode, "there is no such file")
				continue
			}
			var auths map[string]entry
			if err == nil {
				auths, err = parse(text)
			}
			if err != nil {
				s.look(where, "", Broken, ruleKubeletNode, "%v", err)
				continue
			}
			s.addEntries(ring, where, auths)
			return true
		}
		return false
	}
	here := s.Dir
	if here == "" {
		here = "/"
	}
	if s.DockerConfig != "" {
		read([]string{path.Dir(s.DockerConfig)}, path.Base(s.DockerConfig), kubeletEntries)
		return
	}
	if !read([]string{kubeletFolder, here, path.Join(s.Home, ".docker"), "/.docker"}, configName, kubeletEntries) {
		read([]string{kubeletFolder, here, s.Home, "/"}, legacyName, legacyEntries)
	}
}

func (s *search) addProvider(ring *keyring, p Provider, image string) {
	where := "provider " + p.Name
	if !slices.ContainsFunc(p.MatchImages, func(pattern string) bool { return KubeletMatches(pattern, image) }) {
		s.look(where, "", Passed, ruleKubeletProvider, "none of its matchImages matches")
		return
	}
	if p.Err != nil {
		s.look(where, "", Broken, ruleKubeletProvider, "%v", p.Err)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(p.Answer)) {
		ring.add(where, key, p.Answer[key])
	}
}

// entry is a DockerConfigEntry.
type entry Login

// UnmarshalJSON is DockerConfigEntry's.
func (e *entry) UnmarshalJSON(text []byte) error {
	var fields struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Email    string `json:"email"`
		Auth     string `json:"auth"`
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	if fields.Auth != "" {
		encoding := base64.RawStdEncoding
		if strings.HasSuffix(strings.TrimSpace(fields.Auth), "=") {
			encoding = base64.StdEncoding
		}
		decoded, err := encoding.DecodeString(fields.Auth)
		if err != nil {
			return errNoLogin
		}
		var ok bool
		if fields.Username, fields.Password, ok = strings.Cut(string(decoded), ":"); !ok {
			return errNoLogin
		}
	}
	*e = entry{Username: fields.Username}
	if fields.Password != "" {
		e.Password = credential.NewSecret(fields.Password)
	}
	return nil
}

var errNoLogin = errors.New("the auth of an entry is not base64 of user:password")

func kubeletEntries(text []byte) (map[string]entry, error) {
	var file struct {
		Auths map[string]entry `json:"auths"`
		// HTTPHeaders must be of their kind, or the file counts for nothing.
		HTTPHeaders map[string]string `json:"HttpHeaders"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, kubeletFault(err)
	}
	return file.Auths, nil
}

func legacyEntries(text []byte) (auths map[string]entry, err error) {
	if err := json.Unmarshal(text, &auths); err != nil {
		return nil, kubeletFault(err)
	}
	return auths, nil
}

func kubeletFault(err error) error {
	if errors.Is(err, errNoLogin) {
		return errNoLogin
	}
	return withoutContent(err)
}
