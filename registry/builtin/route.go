package builtin

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
)

// endpoint is one of the endpoints of the OCI distribution specification 1.1,
// section Endpoints, and the two that Docker added.
type endpoint int

const (
	outside   endpoint = iota // not below /v2/
	unknown                   // below /v2/, and nothing
	base                      // /v2/
	tokens                    // /v2/token
	catalog                   // /v2/_catalog
	manifests                 // /v2/<name>/manifests/<reference>
	blobs                     // /v2/<name>/blobs/<digest>
	uploads                   // /v2/<name>/blobs/uploads/
	session                   // /v2/<name>/blobs/uploads/<session>
	tags                      // /v2/<name>/tags/list
	referrers                 // /v2/<name>/referrers/<digest>
	extension                 // /v2/<name>/_regkeeper/<listing>/list
)

// The scopes under names that cannot be taken for an endpoint's.
const (
	pulling  = credential.Pull
	pushing  = credential.Push
	deleting = credential.Delete
)

// rights is the table of what each request needs. A method that is not in it
// does not exist. An empty right means that any login will do.
//
// Cancelling an upload takes nothing away from the repository: who may begin
// one may end it.
var rights = map[endpoint]map[string]credential.Scope{
	base:      {http.MethodGet: "", http.MethodHead: ""},
	tokens:    {http.MethodGet: "", http.MethodPost: ""},
	catalog:   {http.MethodGet: "", http.MethodHead: ""},
	manifests: {http.MethodGet: pulling, http.MethodHead: pulling, http.MethodPut: pushing, http.MethodDelete: deleting},
	blobs:     {http.MethodGet: pulling, http.MethodHead: pulling, http.MethodDelete: deleting},
	uploads:   {http.MethodPost: pushing},
	session:   {http.MethodGet: pushing, http.MethodPatch: pushing, http.MethodPut: pushing, http.MethodDelete: pushing},
	tags:      {http.MethodGet: pulling, http.MethodHead: pulling},
	referrers: {http.MethodGet: pulling, http.MethodHead: pulling},
	extension: {http.MethodGet: pulling, http.MethodHead: pulling},
}

// The names of this registry's own endpoints, in the form that section Extensions
// of the OCI distribution specification 1.1 asks for: see [DatedTags].
const (
	extensionName   = "_regkeeper"
	listingTags     = "tags"
	listingUntagged = "untagged"
)

// route is what a request asks for.
type route struct {
	endpoint   endpoint
	path       string
	repository string
	// reference is a tag, a digest, an upload session or a listing.
	reference string
	scope     credential.Scope
}

const component = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`

var (
	nameForm    = regexp.MustCompile(`^` + component + `(?:/` + component + `)*$`)
	tagForm     = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestForm  = regexp.MustCompile(`^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)
	sessionForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

// maxName is the longest repository name, OCI distribution specification 1.1,
// section Pulling manifests.
const maxName = 255

// validName says whether a repository can have that name. Besides the
// specification's grammar, a component must not be the name of a file of an
// image layout, which is where repositories are stored.
func validName(name string) bool {
	if len(name) > maxName || !nameForm.MatchString(name) {
		return false
	}
	return !slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool {
		return part == blobsFolder || part == indexFile || part == layoutFile
	})
}

// parseRoute reads a request from its method and its unescaped path. The
// answer depends on nothing else, so a refusal tells nothing about what is
// stored.
//
// A path that cleaning would change is no route: two readers that clean in two
// ways must never see two repositories in one path.
func parseRoute(method, path string) (route, error) {
	to := route{endpoint: unknown, path: path}
	if path == "/v2" || path == "/v2/" {
		to.endpoint = base
		return to.withMethod(method)
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		to.endpoint = outside
		return to, errNoRoute
	}
	open := strings.HasSuffix(rest, "/")
	parts := strings.Split(strings.TrimSuffix(rest, "/"), "/")
	if slices.Contains(parts, "") || slices.Contains(parts, ".") || slices.Contains(parts, "..") {
		return to, errNoRoute
	}
	last := func(n int) string {
		if n > len(parts) {
			return ""
		}
		return parts[len(parts)-n]
	}
	tail := 2
	switch {
	case rest == "token":
		// Only what asks for a token is let in without a login.
		if method != http.MethodGet && method != http.MethodPost {
			return to, errNoRoute
		}
		to.endpoint = tokens
		return to.withMethod(method)
	case rest == "_catalog":
		to.endpoint = catalog
		return to.withMethod(method)
	case last(3) == extensionName && last(1) == "list" && (last(2) == listingTags || last(2) == listingUntagged):
		to.endpoint = extension
		tail = 3
	case last(2) == "manifests":
		to.endpoint = manifests
	case last(2) == "blobs" && last(1) == "uploads":
		to.endpoint = uploads
	case last(2) == "blobs":
		to.endpoint = blobs
	case last(2) == "referrers":
		to.endpoint = referrers
	case last(2) == "tags" && last(1) == "list":
		to.endpoint = tags
	case last(3) == "blobs" && last(2) == "uploads":
		to.endpoint = session
		tail = 3
	default:
		return to, errNoRoute
	}
	if open && to.endpoint != uploads || len(parts) == tail {
		to.endpoint = unknown
		return to, errNoRoute
	}
	to.repository = strings.Join(parts[:len(parts)-tail], "/")
	to.reference = last(1)
	if to.endpoint == extension {
		to.reference = last(2)
	}
	if !validName(to.repository) {
		to.endpoint, to.repository = unknown, ""
		return to, &refusal{status: http.StatusBadRequest, code: codeNameInvalid, message: "repository name is not valid"}
	}
	to, err := to.withMethod(method)
	if err != nil {
		return to, err
	}
	return to, to.checkReference(method)
}

func (to route) withMethod(method string) (route, error) {
	scope, ok := rights[to.endpoint][method]
	if !ok {
		return to, &refusal{status: http.StatusMethodNotAllowed, code: codeUnsupported, message: "method is not allowed here", allow: to.methods()}
	}
	to.scope = scope
	return to, nil
}

func (to route) methods() string {
	var methods []string
	for method := range rights[to.endpoint] {
		methods = append(methods, method)
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}

func (to route) checkReference(method string) error {
	switch to.endpoint {
	case blobs, referrers:
		if !digestForm.MatchString(to.reference) {
			return &refusal{status: http.StatusBadRequest, code: codeDigestInvalid, message: "digest is not valid"}
		}
	case session:
		if !sessionForm.MatchString(to.reference) {
			return errNoUpload
		}
	case manifests:
		switch {
		case tagForm.MatchString(to.reference), digestForm.MatchString(to.reference):
		case method == http.MethodPut:
			return &refusal{status: http.StatusBadRequest, code: codeManifestInvalid, message: "reference is neither a tag nor a digest"}
		default:
			return errNoManifest
		}
	}
	return nil
}

// scopes is how a client writes the rights that the request needs when it asks
// for a token. Docker's clients look before they push, so pushing asks for
// pulling too.
func (to route) scopes() string {
	switch {
	case to.endpoint == catalog:
		return "registry:catalog:*"
	case to.repository == "" || to.scope == "":
		return ""
	case to.scope == pushing:
		return "repository:" + to.repository + ":pull,push"
	}
	return "repository:" + to.repository + ":" + string(to.scope)
}
