package trial

import (
	"slices"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
)

// Answer is what became of one login. It holds no secret.
type Answer struct {
	// Image is the reference in full, Host the registry that it names.
	Image string          `json:"image"`
	Host  credential.Host `json:"host"`
	// Time is when it was tried.
	Time time.Time `json:"time"`
	// Kind is what the login consists of, Username its user.
	Kind     Kind   `json:"kind"`
	Username string `json:"username,omitempty"`
	// Ends is when the login says that it ends; nil if it says nothing of that.
	Ends *time.Time `json:"ends,omitempty"`
	// Proxy is the host and port of the proxy on the way to the registry.
	Proxy string `json:"proxy,omitempty"`
	// Steps are what was done, in order. The last one decided.
	Steps []Step `json:"steps"`
}

// Kind is what a login consists of.
type Kind string

// The kinds.
const (
	Nobody        Kind = "nobody"
	Password      Kind = "password"
	IdentityToken Kind = "identity-token"
	RegistryToken Kind = "registry-token"
)

// Stage is a part of the way to a manifest.
type Stage string

// The stages.
const (
	// Name is the look-up of a host's addresses.
	Name Stage = "name"
	// Connect is the connection to one of them.
	Connect Stage = "connect"
	// TLS is the handshake.
	TLS Stage = "tls"
	// Root is GET /v2/ without a login: how does the registry want it?
	Root Stage = "root"
	// Token is the login shown to the token server.
	Token Stage = "token"
	// Known is GET /v2/ with the login, at registries that answer there whether
	// they know it at all, whatever it may do.
	Known Stage = "known"
	// Manifest is HEAD of the manifest.
	Manifest Stage = "manifest"
	// Reason is GET of a manifest whose HEAD was refused: an answer to HEAD has
	// no body, and the reason stands in it.
	Reason Stage = "reason"
)

// Step is one thing that was done, and what came back.
type Step struct {
	Stage Stage `json:"stage"`
	// Asked is what was asked for, such as "HEAD https://host/v2/app/manifests/v1".
	Asked string `json:"asked"`
	// As says how the login was shown: "nobody", "basic", "bearer" or "oauth2".
	As string `json:"as,omitempty"`
	// Got is what a step that is no request came to: addresses, a TLS version.
	Got string `json:"got,omitempty"`
	// Status is that of the answer, zero if there was none.
	Status int `json:"status,omitempty"`
	// Redirected is where the answer came from, if from elsewhere.
	Redirected string `json:"redirected,omitempty"`
	// Header are those of the answer's headers that tell something.
	Header map[string]string `json:"header,omitempty"`
	// Challenges are the ways to log in that the answer names.
	Challenges []Challenge `json:"challenges,omitempty"`
	// Errors are those of the OCI distribution specification in the body.
	Errors []RegistryError `json:"errors,omitempty"`
	// Body is the beginning of the body of an answer that is an error.
	Body string `json:"body,omitempty"`
	// Granted is what a token allows for the repository, as far as it can be
	// read: nil if it cannot, empty if nothing.
	Granted []string `json:"granted,omitzero"`
	// Certificate is the server's.
	Certificate *Certificate `json:"certificate,omitempty"`
	// Fault is why there is no answer.
	Fault *Fault `json:"fault,omitempty"`
}

// RegistryError is an error of a registry (OCI distribution specification,
// "Error Codes").
type RegistryError struct {
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
}

// Certificate is what a server shows of itself.
type Certificate struct {
	Subject string `json:"subject,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	// Names are the hosts and addresses that it is for.
	Names     []string  `json:"names,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Fault is why a request got no answer.
type Fault struct {
	Kind FaultKind `json:"kind"`
	// Host is who it is about: the registry, a token server, or the proxy.
	Host string `json:"host"`
	// Status is the answer of a proxy.
	Status int `json:"status,omitempty"`
	// Text is the error.
	Text string `json:"text"`
}

// FaultKind classes faults by their cause.
type FaultKind string

// The kinds of faults.
const (
	// NameUnknown is a host that DNS does not know.
	NameUnknown FaultKind = "name-unknown"
	// NameFailed is a look-up that failed: no server answered, or not in time.
	NameFailed FaultKind = "name-failed"
	// Refused is a port on which nothing listens.
	Refused FaultKind = "refused"
	// NoRoute is a network that is not to be reached.
	NoRoute FaultKind = "no-route"
	// Timeout is no connection or no answer in time.
	Timeout FaultKind = "timeout"
	// Broken is a connection that ended before the answer.
	Broken FaultKind = "broken"
	// UnknownAuthority is a certificate of nobody whom this machine trusts.
	UnknownAuthority FaultKind = "tls-unknown-authority"
	// WrongName is a certificate for another host.
	WrongName FaultKind = "tls-wrong-name"
	// Expired is a certificate whose time is over.
	Expired FaultKind = "tls-expired"
	// NotYet is a certificate whose time has not come.
	NotYet FaultKind = "tls-not-yet"
	// BadCertificate is a certificate that is bad in another way.
	BadCertificate FaultKind = "tls-bad-certificate"
	// Alert is a server that ended the handshake, for lack of a client's
	// certificate for instance.
	Alert FaultKind = "tls-alert"
	// PlainSpoken is a server that answers TLS in plain HTTP.
	PlainSpoken FaultKind = "plain-http-spoken"
	// TLSSpoken is a server that wants TLS and was spoken to in plain HTTP.
	TLSSpoken FaultKind = "tls-spoken"
	// ProxyUnreachable is a proxy that is not to be reached.
	ProxyUnreachable FaultKind = "proxy-unreachable"
	// ProxyLogin is a proxy that wants a login (407).
	ProxyLogin FaultKind = "proxy-login"
	// ProxyRefused is a proxy that does not let the connection through.
	ProxyRefused FaultKind = "proxy-refused"
	// PlainRealm is a token server that a login would go to in plain HTTP.
	PlainRealm FaultKind = "plain-realm"
	// BadRealm is a token server whose address cannot be read.
	BadRealm FaultKind = "bad-realm"
	// BadToken is an answer of a token server without a token.
	BadToken FaultKind = "bad-token"
	// Redirect is a redirect that is not followed: without end, or from HTTPS to
	// plain HTTP.
	Redirect FaultKind = "redirect"
	// Other is anything else.
	Other FaultKind = "other"
)

// At is the last step of a stage.
func (a Answer) At(stage Stage) (Step, bool) {
	for i := len(a.Steps) - 1; i >= 0; i-- {
		if a.Steps[i].Stage == stage {
			return a.Steps[i], true
		}
	}
	return Step{}, false
}

// Last is the step that decided.
func (a Answer) Last() Step {
	if len(a.Steps) == 0 {
		return Step{}
	}
	return a.Steps[len(a.Steps)-1]
}

// Fault is why there was no answer in the end; nil if there was one.
func (a Answer) Fault() *Fault { return a.Last().Fault }

// Pulls says whether the registry gives the image to the login.
func (a Answer) Pulls() bool {
	last := a.Last()
	return (last.Stage == Manifest || last.Stage == Reason) && last.Status == 200 && last.manifest()
}

// Refused says whether the registry or its token server refused the login.
func (a Answer) Refused() bool {
	last := a.Last()
	switch last.Stage {
	case Known:
		return true
	case Token, Manifest, Reason:
		return last.Status == 401 || last.Status == 403 || last.Stage == Token && last.Status == 400
	}
	return false
}

// Has says whether one of the codes is in the answer.
func (s Step) Has(codes ...string) bool {
	for _, e := range s.Errors {
		for _, code := range codes {
			if e.Code == code {
				return true
			}
		}
	}
	return false
}

// manifest says whether the answer is that of a registry that has the manifest: any
// web server may say 200 (OCI distribution specification, section Pulling manifests).
func (s Step) manifest() bool {
	kind, _, _ := strings.Cut(s.Header["Content-Type"], ";")
	return s.Header["Docker-Content-Digest"] != "" || slices.Contains(manifestTypes, strings.TrimSpace(kind)) || strings.HasPrefix(kind, schema1)
}

// schema1 begins the media types of manifests as Docker had them first.
const schema1 = "application/vnd.docker.distribution.manifest.v1+"
