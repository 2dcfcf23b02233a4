// Package fakeecr is a fake of the one call of Amazon ECR's API that gives
// logins, GetAuthorizationToken, and of the one of STS's that takes on a role,
// AssumeRole, written from the published APIs: ECR speaks AWS JSON 1.1 (a target
// in a header, errors named by __type), STS the query protocol in XML.
//
// It checks that a request is signed (Signature Version 4: the header's form,
// the key, the service and the region), and refuses to check the signature.
package fakeecr

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"time"
)

// Target is the call that it answers.
const Target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"

// Username is that of all logins.
const Username = "AWS"

// Life is how long a login lasts.
const Life = 12 * time.Hour

// Config is what a fake is like.
type Config struct {
	// Account is the number of the one account.
	Account string
	// KeyID is the access key that it knows.
	KeyID string
	// Now is the clock.
	Now func() time.Time
	// Before may answer in place of the service; it returns whether it did.
	Before func(http.ResponseWriter, *http.Request) bool
}

// Request is what was asked.
type Request struct {
	// Region and Service are those it was signed for, Role the session's.
	Region, Service, KeyID, Role string
}

// Server is a fake service. Its methods may be called at the same time.
type Server struct {
	config Config

	mu       sync.Mutex
	requests []Request
	tokens   map[string]time.Time // until when they are good
	roles    map[string]string    // by the key of the session
}

var _ http.Handler = (*Server)(nil)

// New makes a fake.
func New(config Config) *Server {
	return &Server{config: config, tokens: map[string]time.Time{}, roles: map[string]string{}}
}

// Requests are those that were signed by a key it knows, in their order.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Accepts says whether the registry would take a login now.
func (s *Server) Accepts(username, password string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return username == Username && s.tokens[password].After(s.config.Now())
}

// signed is the header of Signature Version 4.
var signed = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([A-Z0-9]+)/[0-9]{8}/([a-z0-9-]+)/([a-z]+)/aws4_request, ?SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*, ?Signature=[0-9a-f]{64}$`)

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.config.Before != nil && s.config.Before(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	match := signed.FindStringSubmatch(r.Header.Get("Authorization"))
	if match == nil {
		Fail(w, http.StatusBadRequest, "MissingAuthenticationTokenException", "Missing Authentication Token")
		return
	}
	request := Request{KeyID: match[1], Region: match[2], Service: match[3], Role: s.roles[match[1]]}
	if request.KeyID != s.config.KeyID && request.Role == "" {
		Fail(w, http.StatusBadRequest, "UnrecognizedClientException", "The security token included in the request is invalid.")
		return
	}
	s.requests = append(s.requests, request)
	switch {
	case request.Service == "sts" && r.PostFormValue("Action") == "AssumeRole":
		s.assume(w, r)
	case request.Service == "ecr" && r.Method == http.MethodPost && r.Header.Get("X-Amz-Target") == Target && r.Header.Get("Content-Type") == "application/x-amz-json-1.1":
		s.token(w, request.Region)
	default:
		Fail(w, http.StatusBadRequest, "UnknownOperationException", "no such call")
	}
}

func (s *Server) token(w http.ResponseWriter, region string) {
	now := s.config.Now()
	password := "fakeecr-" + rand.Text()
	s.tokens[password] = now.Add(Life)
	answer(w, http.StatusOK, map[string]any{"authorizationData": []map[string]any{{
		"authorizationToken": base64.StdEncoding.EncodeToString([]byte(Username + ":" + password)),
		"expiresAt":          float64(now.Add(Life).UnixMilli()) / 1000,
		"proxyEndpoint":      fmt.Sprintf("https://%s.dkr.ecr.%s.amazonaws.com", s.config.Account, region),
	}}})
}

// assume serves AssumeRole of STS.
func (s *Server) assume(w http.ResponseWriter, r *http.Request) {
	key := "ASIA" + rand.Text()[:16]
	s.roles[key] = r.PostFormValue("RoleArn")
	var body struct {
		XMLName     xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleResponse"`
		Arn         string   `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
		ID          string   `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
		Credentials struct {
			AccessKeyID     string `xml:"AccessKeyId"`
			SecretAccessKey string
			SessionToken    string
			Expiration      string
		} `xml:"AssumeRoleResult>Credentials"`
	}
	body.Arn, body.ID = s.roles[key]+"/"+r.PostFormValue("RoleSessionName"), "AROA:"+r.PostFormValue("RoleSessionName")
	body.Credentials.AccessKeyID, body.Credentials.SecretAccessKey, body.Credentials.SessionToken = key, "fakesecret", "fakesession"
	body.Credentials.Expiration = time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	w.Header().Set("Content-Type", "text/xml")
	_ = xml.NewEncoder(w).Encode(body)
}

// FailQuery answers as STS does when it refuses.
func FailQuery(w http.ResponseWriter, status int, code, text string) {
	var body struct {
		XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
		Code    string   `xml:"Error>Code"`
		Message string   `xml:"Error>Message"`
	}
	body.Code, body.Message = code, text
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(body)
}

// Fail answers as ECR does when it refuses.
func Fail(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("X-Amzn-ErrorType", code)
	answer(w, status, map[string]string{"__type": code, "message": text})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
