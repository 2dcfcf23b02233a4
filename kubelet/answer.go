// Package kubelet speaks with the kubelet: it answers what a kubelet asks a
// credential provider, and writes the document that has it ask.
//
// It owns the kubelet's rules for which login is for which image. It refuses
// I/O, and to keep logins: they are in a config.json.
package kubelet

import (
	"bytes"
	"encoding/json"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	credentialprovider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/problem"
)

const (
	// DefaultCache is how long a kubelet uses an answer unless told otherwise.
	DefaultCache = 5 * time.Minute
	// MaxCache bounds that: a login that was replaced reaches the next pull
	// well before the usual overlap of an hour ends it.
	MaxCache = 30 * time.Minute
	// Exclude is the annotation of a ServiceAccount that gets no login, with
	// the value "true".
	Exclude = "regkeeper.dev/exclude"

	// MaxRequest bounds in bytes what is read of a request. A token and the
	// annotations are far below.
	MaxRequest = 1 << 20

	requestKind  = "CredentialProviderRequest"
	responseKind = "CredentialProviderResponse"
	requestHint  = "the kubelet starts this command and writes the request; to try it by hand, see regkeeper kubelet-provider --help"
)

// Version is the version of the API that requests and answers are of.
var Version = credentialprovider.SchemeGroupVersion.String()

// Request is what the kubelet asks.
type Request struct {
	// Image is what is pulled, without tag and digest.
	Image string
	// Namespace and ServiceAccount are of the pod that pulls; empty if the
	// kubelet sent no token.
	Namespace, ServiceAccount string
	// Excluded says that the ServiceAccount has the annotation [Exclude].
	Excluded bool
}

// ParseRequest reads a request of the API version v1. The error is a
// [problem.Error] of kind [problem.Usage]. It never quotes the request, which
// may hold a token.
//
// Who the pod is, is read from the token's claims (KEP-1205) without checking
// its signature: the kubelet made the request, hands the logins to nobody but
// itself, and could read them from disk.
func ParseRequest(text []byte) (Request, error) {
	bad := func(format string, args ...any) (Request, error) {
		return Request{}, problem.New(problem.Usage, requestHint, format, args...)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return bad("there is no request on standard input")
	}
	if len(text) > MaxRequest {
		return bad("the request is larger than %d KiB", MaxRequest>>10)
	}
	var meta metav1.TypeMeta
	if err := json.Unmarshal(text, &meta); err != nil {
		return bad("the request is no JSON object")
	}
	if meta.Kind != requestKind {
		return bad("the request is no %s", requestKind)
	}
	if meta.APIVersion != Version {
		return Request{}, problem.New(problem.Usage, "set apiVersion: "+Version+" for the provider in the kubelet's CredentialProviderConfig",
			"the request is not of the API version %s", Version)
	}
	var request credentialprovider.CredentialProviderRequest
	if err := json.Unmarshal(text, &request); err != nil {
		return bad("the request is no %s", requestKind)
	}
	if request.Image == "" {
		return bad("the request has no image")
	}
	result := Request{Image: request.Image, Excluded: request.ServiceAccountAnnotations[Exclude] == "true"}
	if request.ServiceAccountToken == "" {
		return result, nil
	}
	var claims claims
	if _, _, err := jwt.NewParser().ParseUnverified(request.ServiceAccountToken, &claims); err != nil {
		return bad("the request's token is no JWT")
	}
	result.Namespace, result.ServiceAccount = claims.Kubernetes.Namespace, claims.Kubernetes.ServiceAccount.Name
	if result.Namespace == "" || result.ServiceAccount == "" {
		return bad("the request's token does not name a namespace and a ServiceAccount")
	}
	return result, nil
}

// claims are those of a token that is bound to a pod.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		ServiceAccount struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

// Allow are patterns for the ServiceAccounts that get logins: namespace/name,
// each as of [path.Match]. None allows all.
type Allow []string

// Check reports a pattern that cannot match, as a problem of kind
// [problem.Usage].
func (a Allow) Check() error {
	for _, pattern := range a {
		if _, err := path.Match(pattern, "x/y"); err != nil || strings.Count(pattern, "/") != 1 {
			return problem.New(problem.Usage, `write it as namespace/name, for example "team-*/default"`, "--allow %q cannot be read", pattern)
		}
	}
	return nil
}

// allows says whether the pod gets logins. A pod that is not known, since the
// kubelet sent no token, is allowed only where all are.
func (a Allow) allows(r Request) bool {
	if len(a) == 0 {
		return true
	}
	return r.ServiceAccount != "" && slices.ContainsFunc(a, func(pattern string) bool {
		ok, err := path.Match(pattern, r.Namespace+"/"+r.ServiceAccount)
		return ok && err == nil
	})
}

// Answer is the text of the answer to a request: the logins of the document
// that the kubelet would take for the image, under keys that it matches again.
//
//	request                                  answer
//	ServiceAccount has the annotation        none, not cached
//	--allow is given, and does not name it   none, not cached
//	no login for the image                   none, not cached: one may come
//	logins                                   they, for as long as cache says
//
// It is cached for all images of the registry, unless a key of the registry has
// a path: then what is right for one image need not be for another.
func Answer(r Request, allow Allow, doc *dockerconfig.Document, cache time.Duration) ([]byte, error) {
	response := credentialprovider.CredentialProviderResponse{
		TypeMeta:      metav1.TypeMeta{APIVersion: Version, Kind: responseKind},
		CacheKeyType:  credentialprovider.RegistryPluginCacheKeyType,
		CacheDuration: &metav1.Duration{},
	}
	if !r.Excluded && allow.allows(r) {
		auth, paths := logins(doc, r.Image)
		if len(auth) > 0 {
			response.Auth = auth
			response.CacheDuration.Duration = cache
		}
		if paths {
			response.CacheKeyType = credentialprovider.ImagePluginCacheKeyType
		}
	}
	text, err := json.Marshal(response)
	return append(text, '\n'), err
}

// defaultRegistry is Docker Hub's key, and its name in images (kubelet,
// pkg/credentialprovider/keyring.go).
const defaultRegistry = "index.docker.io"

// logins are those for the image. paths says whether one for the image's
// registry has a path in its key.
func logins(doc *dockerconfig.Document, image string) (auth map[string]credentialprovider.AuthConfig, paths bool) {
	auth = map[string]credentialprovider.AuthConfig{}
	hub := map[string]credentialprovider.AuthConfig{}
	registry, _, _ := strings.Cut(image, "/")
	put := func(into map[string]credentialprovider.AuthConfig, key, as string, login credential.Login) {
		// Of two spellings of one key, the one that regkeeper writes counts.
		if _, ok := into[as]; !ok || key == as || key == credential.DockerHub.Key() {
			into[as] = credentialprovider.AuthConfig{Username: login.Username, Password: login.Secret.Reveal()}
		}
	}
	for key, login := range doc.Logins() {
		normal, ok := consumer.KubeletKey(key)
		host, rest, _ := strings.Cut(normal, "/")
		if !ok || host == "" {
			continue
		}
		paths = paths || rest != "" && consumer.KubeletMatches(host, registry)
		switch {
		case consumer.KubeletMatches(normal, image):
			put(auth, key, normal, login)
		case normal == defaultRegistry && consumer.OnDockerHub(image):
			as := defaultRegistry
			if registry == string(credential.DockerHub) {
				as = registry
			}
			put(hub, key, as, login)
		}
	}
	if len(auth) == 0 {
		return hub, paths
	}
	return auth, paths
}
