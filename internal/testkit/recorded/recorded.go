// Package recorded plays the answers of registries that say no, as they were
// recorded at real servers or stand in their published code and documents; each
// says which.
//
// It refuses to be a registry: a recording answers every question of its kind the
// same, and knows two kinds of clients, those with a login and nobody.
package recorded

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Reply is one answer. {server} in it is the address of the server, {token} a
// bearer token for who asks.
type Reply struct {
	Status int
	Header map[string]string
	Body   string
}

// Recording is what a registry answers.
type Recording struct {
	// Root answers GET /v2/ without a login, Known with one.
	Root, Known Reply
	// Token and Manifest answer a login, the others nobody.
	Token, Manifest             Reply
	NobodyToken, NobodyManifest Reply
	// Grants are the rights in the tokens for the repository; nil for tokens that
	// do not say them.
	Grants []string
}

// Server plays a recording.
type Server struct {
	*httptest.Server
	recording Recording

	mu       sync.Mutex
	requests []string
}

// Start starts a server of plain HTTP that ends with the test.
func Start(t testing.TB, r Recording) *Server {
	s := &Server{recording: r}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// Host is its host and port.
func (s *Server) Host() string { _, host, _ := strings.Cut(s.URL, "://"); return host }

// Requests are those that came, such as "HEAD /v2/app/manifests/v1 bearer login".
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// ServeHTTP answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	scheme = strings.ToLower(scheme)
	who := "nobody"
	switch {
	case scheme == "bearer":
		claims := jwt.RegisteredClaims{}
		if _, _, err := jwt.NewParser().ParseUnverified(credentials, &claims); err != nil || claims.Subject != "" {
			who = "login"
		}
	case scheme == "basic", r.Method == http.MethodPost:
		who = "login"
	}
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+scheme+" "+who))
	s.mu.Unlock()
	pick := func(login, nobody Reply) Reply {
		if who == "login" {
			return login
		}
		return nobody
	}
	reply := pick(s.recording.Manifest, s.recording.NobodyManifest)
	switch {
	case r.URL.Path == "/v2/":
		reply = pick(s.recording.Known, s.recording.Root)
	case strings.HasSuffix(r.URL.Path, "/token"), strings.HasSuffix(r.URL.Path, "/auth"):
		reply = pick(s.recording.Token, s.recording.NobodyToken)
	}
	fill := strings.NewReplacer("{server}", s.URL, "{token}", s.token(who, strings.TrimSuffix(strings.TrimPrefix(r.URL.Query().Get("scope"), "repository:"), ":pull")))
	for name, value := range reply.Header {
		w.Header().Set(name, fill.Replace(value))
	}
	if reply.Status == 0 {
		reply.Status = http.StatusNotImplemented
	}
	w.WriteHeader(reply.Status)
	_, _ = w.Write([]byte(fill.Replace(reply.Body)))
}

func (s *Server) token(who, repository string) string {
	claims := jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()}
	if who == "login" {
		claims["sub"] = who
	}
	if s.recording.Grants != nil {
		claims["access"] = []any{map[string]any{"type": "repository", "name": repository, "actions": s.recording.Grants}}
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("a key of the test"))
	if err != nil {
		panic(err)
	}
	return text
}

const (
	api      = "Docker-Distribution-Api-Version"
	asks     = "Www-Authenticate"
	kind     = "Content-Type"
	manifest = "application/vnd.oci.image.manifest.v1+json"
)

// Image is the answer to HEAD of a manifest that is there.
var Image = Reply{200, map[string]string{kind: manifest, api: "registry/2.0", "Docker-Content-Digest": "sha256:" + strings.Repeat("a", 64)}, ""}

// Token is a token server that hands out a token.
var Token = Reply{200, map[string]string{kind: "application/json"}, `{"token":"{token}"}`}

// Of Gitea 1.26.4, recorded at a real server.
var (
	GiteaAsks = Reply{401, map[string]string{
		kind: "application/json", api: "registry/2.0", asks: `Bearer realm="{server}/v2/token",service="container_registry",scope="*"`,
	}, `{"errors":[{"code":"UNAUTHORIZED","message":""}]}` + "\n"}
	GiteaKnows         = Reply{200, map[string]string{api: "registry/2.0"}, ""}
	GiteaPackageAccess = Reply{401, map[string]string{kind: "text/plain; charset=utf-8", asks: `Basic realm="Gitea Package API"`}, "reqPackageAccess\n"}
	GiteaNoManifest    = Reply{404, map[string]string{kind: "application/json", api: "registry/2.0"}, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":""}]}` + "\n"}
	GiteaNoOwner       = Reply{404, map[string]string{kind: "text/plain;charset=utf-8"}, "Not found.\n"}
)

// Gitea is one that takes the login and gives the image, to the login alone.
func Gitea() Recording {
	return Recording{
		Root: GiteaAsks, Known: GiteaKnows, Token: Token, NobodyToken: Token, Manifest: Image, NobodyManifest: GiteaPackageAccess,
	}
}

// Of distribution 2.8.2 and 3.1.2 with htpasswd, recorded at real servers.
var (
	DistributionAsks = Reply{401, map[string]string{kind: "application/json; charset=utf-8", api: "registry/2.0", asks: `Basic realm="registry"`},
		`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[{"Type":"repository","Class":"","Name":"team/app","Action":"pull"}]}]}` + "\n"}
	DistributionNoManifest = Reply{404, map[string]string{kind: "application/json; charset=utf-8", api: "registry/2.0"},
		`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"v1"}}]}` + "\n"}
)

// Distribution is one that takes the login and gives the image.
func Distribution() Recording {
	return Recording{Root: DistributionAsks, Known: Reply{200, map[string]string{api: "registry/2.0"}, "{}"}, Manifest: Image, NobodyManifest: DistributionAsks}
}

// Of Docker Hub, from its documents (docs.docker.com, "Docker Hub pull usage and
// limits") and distribution's token specification.
var (
	HubAsks = Reply{401, map[string]string{
		kind: "application/json", api: "registry/2.0", asks: `Bearer realm="{server}/token",service="registry.docker.io"`,
	}, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}` + "\n"}
	HubWrong  = Reply{401, map[string]string{kind: "application/json"}, `{"details":"incorrect username or password"}` + "\n"}
	HubDenied = Reply{401, map[string]string{
		kind: "application/json", api: "registry/2.0",
		asks: `Bearer realm="{server}/token",service="registry.docker.io",scope="repository:team/app:pull",error="insufficient_scope"`,
	}, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[{"Type":"repository","Class":"","Name":"team/app","Action":"pull"}]}]}` + "\n"}
	HubLimited = Reply{429, map[string]string{
		kind: "application/json", "Ratelimit-Limit": "100;w=21600", "Ratelimit-Remaining": "0;w=21600",
		"Docker-Ratelimit-Source": "203.0.113.7", "Retry-After": "60",
	}, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}` + "\n"}
	HubLastImage = Reply{200, map[string]string{
		kind: manifest, "Ratelimit-Limit": "100;w=21600", "Ratelimit-Remaining": "0;w=21600", "Docker-Ratelimit-Source": "203.0.113.7",
	}, ""}
)

// Hub is Docker Hub with a public image.
func Hub() Recording {
	return Recording{
		Root: HubAsks, Token: Token, NobodyToken: Token, Manifest: Image, NobodyManifest: Image, Grants: []string{"pull"},
	}
}

// Of Amazon ECR, from its documents (Amazon ECR User Guide, "Troubleshooting
// Docker commands and issues when using Amazon ECR", and "Private registry
// authentication" for the challenge).
var (
	ECRAsks    = Reply{401, map[string]string{kind: "text/plain; charset=utf-8", api: "registry/2.0", asks: `Basic realm="{server}/",service="ecr.amazonaws.com"`}, "Not Authorized\n"}
	ECRExpired = Reply{403, map[string]string{kind: "application/json; charset=utf-8"},
		`{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}` + "\n"}
	ECRDenied = Reply{403, map[string]string{kind: "application/json; charset=utf-8"},
		`{"errors":[{"code":"DENIED","message":"User: arn:aws:sts::123456789012:assumed-role/runner/i-0 is not authorized to perform: ecr:BatchGetImage on resource: arn:aws:ecr:eu-west-1:123456789012:repository/team/app because no identity-based policy allows the ecr:BatchGetImage action"}]}` + "\n"}
	ECRNoRepository = Reply{404, map[string]string{kind: "application/json; charset=utf-8"},
		`{"errors":[{"code":"NAME_UNKNOWN","message":"The repository with name 'team/app' does not exist in the registry with id '123456789012'"}]}` + "\n"}
)

// ECR is Amazon ECR that takes the login and gives the image.
func ECR() Recording {
	return Recording{Root: ECRAsks, Known: Reply{200, nil, "{}"}, Manifest: Image, NobodyManifest: ECRAsks}
}

// Of Harbor, from its code (src/server/middleware/v2auth, src/core/service/token).
var (
	HarborAsks = Reply{401, map[string]string{
		kind: "application/json; charset=utf-8", asks: `Bearer realm="{server}/service/token",service="harbor-registry"`,
	}, `{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized: unauthorized"}]}` + "\n"}
	HarborWrong  = Reply{401, map[string]string{kind: "text/plain; charset=utf-8"}, ""}
	HarborDenied = Reply{401, map[string]string{kind: "application/json; charset=utf-8", asks: `Basic realm="harbor"`},
		`{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized to access repository: team/app, action: pull: unauthorized to access repository: team/app, action: pull"}]}` + "\n"}
	HarborNoArtifact = Reply{404, map[string]string{kind: "application/json; charset=utf-8"},
		`{"errors":[{"code":"NOT_FOUND","message":"artifact team/app:v1 not found"}]}` + "\n"}
)

// Harbor is Harbor that takes the login and gives the image.
func Harbor() Recording {
	return Recording{Root: HarborAsks, Token: Token, NobodyToken: Token, Manifest: Image, NobodyManifest: HarborDenied, Grants: []string{"pull"}}
}

// Of GitLab, from its code (app/controllers/jwt_controller.rb,
// app/services/auth/container_registry_authentication_service.rb).
var (
	GitLabAsks = Reply{401, map[string]string{
		kind: "application/json", api: "registry/2.0", asks: `Bearer realm="{server}/jwt/auth",service="container_registry"`,
	}, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}` + "\n"}
	GitLabWrong = Reply{401, map[string]string{kind: "application/json; charset=utf-8"},
		`{"errors":[{"code":"UNAUTHORIZED","message":"HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect or you're required to use a token instead of a password."}]}` + "\n"}
	GitLabDenied = Reply{403, map[string]string{kind: "application/json; charset=utf-8"}, `{"errors":[{"code":"DENIED","message":"access forbidden"}]}` + "\n"}
)

// GitLab is GitLab that takes the login and gives the image.
func GitLab() Recording {
	return Recording{Root: GitLabAsks, Token: Token, NobodyToken: GitLabDenied, Manifest: Image, NobodyManifest: GitLabAsks, Grants: []string{"pull"}}
}
