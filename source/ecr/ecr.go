// Package ecr is the source of logins for Amazon's Elastic Container Registry,
// which AWS gives to whoever has the right ecr:GetAuthorizationToken. A login
// lasts for 12 hours; the same one is given until it is renewed, well before it
// ends. AWS lets nobody list or revoke them, so that the source is no minter.
//
// It refuses public.ecr.aws, whose logins come from another API, and to find out
// about AWS by itself: profiles, single sign-on, roles, instance metadata and
// endpoints are the AWS SDK's, by its files and environment variables.
package ecr

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"golang.org/x/sync/singleflight"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says as whom AWS is asked. Its zero value, with a clock, asks as the
// AWS SDK finds it: environment, files, and the machine's or the pod's role.
type Config struct {
	// Profile is one of ~/.aws/config; empty stands for AWS_PROFILE, else the
	// default one.
	Profile string
	// Role is the ARN of a role to take on, in the session called regkeeper;
	// empty for none but the profile's.
	Role string
	// Region is that of a registry whose name does not tell it, such as one's
	// own name for ECR; empty stands for AWS_REGION, else the profile's.
	Region string
	// Endpoint is the URL of ECR's API; empty stands for AWS_ENDPOINT_URL_ECR,
	// else the region's.
	Endpoint string
	// RenewAhead is how long before its end a login is renewed; zero stands for
	// a third of its life.
	RenewAhead time.Duration
	// Timeout bounds all that is asked for one login; zero stands for 30
	// seconds.
	Timeout time.Duration
	// Transport sends the requests to ECR and for the role; nil stands for the
	// SDK's own, which keeps to AWS_CA_BUNDLE.
	Transport http.RoundTripper
	// Now is the clock.
	Now func() time.Time
}

// Source gives the login of one identity at AWS. Its methods may be called at
// the same time.
type Source struct {
	config Config
	flight singleflight.Group

	mu   sync.Mutex
	held map[credential.Host]held
}

var _ credential.Renewer = (*Source)(nil)

// held is the last login for a registry, and how it went since.
type held struct {
	login credential.Credential
	// tried is when AWS was asked last, and err what came of it.
	tried time.Time
	err   error
}

const (
	defaultTimeout = 30 * time.Second
	// life is how long a login lasts (ECR API, "AuthorizationData") where AWS
	// does not say.
	life = 12 * time.Hour
	// share is the part of its life, counted from its end, in which a login is
	// renewed.
	share = 3
	// pause is how long AWS is not asked again after a renewal that failed.
	pause   = time.Minute
	session = "regkeeper"
)

// New makes the source. It reads and sends nothing yet.
func New(config Config) *Source {
	config.Timeout = cmp.Or(config.Timeout, defaultTimeout)
	return &Source{config: config, held: map[credential.Host]held{}}
}

// Issue returns the login as it is now; see [credential.Source]. It expires
// whether that was asked for or not. One that could not be renewed is given for
// as long as it lasts; [Source.Overdue] tells. Which scopes it has is for
// verification to find out. Callers who ask at once cause one request.
func (s *Source) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	place, err := placeOf(req.Host)
	if err != nil {
		return credential.Credential{}, err
	}
	if err := ctx.Err(); err != nil {
		return credential.Credential{}, fmt.Errorf("get a login for %s: %w", req.Host, err)
	}
	login, ok := s.kept(req.Host)
	if !ok {
		// Who asked first may leave while others wait.
		done := s.flight.DoChan(string(req.Host), func() (any, error) { return s.renew(context.WithoutCancel(ctx), req.Host, place) })
		select {
		case <-ctx.Done():
			return credential.Credential{}, fmt.Errorf("get a login for %s: %w", req.Host, ctx.Err())
		case result := <-done:
			if result.Err != nil {
				return credential.Credential{}, result.Err
			}
			login, _ = result.Val.(credential.Credential)
		}
	}
	login.Scopes = req.Scopes
	return login, nil
}

// Overdue is why the login that is given for a registry was not renewed when it
// was to be; nil if nothing is wrong with it.
func (s *Source) Overdue(host credential.Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[host].err
}

// kept is the login that will do.
func (s *Source) kept(host credential.Host) (credential.Credential, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have, now := s.held[host], s.config.Now()
	ends := have.login.Expires
	ahead := cmp.Or(s.config.RenewAhead, ends.Sub(have.login.Issued)/share)
	due := !ends.Add(-ahead).After(now)
	return have.login, ends.After(now) && (!due || have.tried.Add(pause).After(now))
}

// renew asks for a login, unless another caller just did. If that fails, the one
// before it will do until it ends.
func (s *Source) renew(ctx context.Context, host credential.Host, place place) (credential.Credential, error) {
	if login, ok := s.kept(host); ok {
		return login, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	login, err := s.fetch(ctx, host, place)
	now := s.config.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.held[host].login
	switch {
	case err == nil:
		s.held[host] = held{login: login, tried: now}
	case before.Expires.After(now):
		s.held[host] = held{login: before, tried: now, err: err}
		return before, nil
	default:
		delete(s.held, host)
	}
	return login, err
}

// fetch asks AWS for a login.
func (s *Source) fetch(ctx context.Context, host credential.Host, place place) (credential.Credential, error) {
	ask := asking{host: host, profile: s.config.Profile}
	loaded, err := config.LoadDefaultConfig(ctx, s.options(place)...)
	if err != nil {
		return credential.Credential{}, ask.unreadable(err)
	}
	ask.learn(loaded)
	if loaded.Region == "" {
		return credential.Credential{}, problem.New(problem.Config,
			"give a region, in the configuration, AWS_REGION or ~/.aws/config", "get a login for %s: its name tells no region", host)
	}
	if s.config.Role != "" {
		client := sts.NewFromConfig(loaded, func(o *sts.Options) {
			if s.config.Transport != nil {
				o.HTTPClient = &http.Client{Transport: s.config.Transport}
			}
		})
		provider := stscreds.NewAssumeRoleProvider(client, s.config.Role, func(o *stscreds.AssumeRoleOptions) { o.RoleSessionName = session })
		loaded.Credentials = aws.NewCredentialsCache(provider)
	}
	identity, err := loaded.Credentials.Retrieve(ctx)
	if err != nil {
		return credential.Credential{}, ask.unidentified(err)
	}
	client := ecr.NewFromConfig(loaded, func(o *ecr.Options) {
		if s.config.Transport != nil {
			o.HTTPClient = &http.Client{Transport: s.config.Transport}
		}
		if s.config.Endpoint != "" {
			o.BaseEndpoint = &s.config.Endpoint
		}
	})
	answer, err := client.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return credential.Credential{}, ask.refused(err, identity)
	}
	return s.read(answer, host)
}

// options are what the SDK is told beside its files and variables.
func (s *Source) options(place place) []func(*config.LoadOptions) error {
	options := []func(*config.LoadOptions) error{config.WithAppID(session)}
	if region := cmp.Or(place.region, s.config.Region); region != "" {
		options = append(options, config.WithRegion(region))
	}
	if s.config.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(s.config.Profile))
	}
	if s.config.Endpoint != "" {
		return options
	}
	if place.fips {
		options = append(options, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	if place.dual {
		options = append(options, config.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled))
	}
	return options
}

// read makes a login of AWS's answer: its token is a user and a password as in
// Basic authentication (ECR API, "AuthorizationData").
func (s *Source) read(answer *ecr.GetAuthorizationTokenOutput, host credential.Host) (credential.Credential, error) {
	bad := func(what string) (credential.Credential, error) {
		return credential.Credential{}, problem.New(problem.Unreachable,
			"the answer is not ECR's: check the endpoint, and proxies before it", "get a login for %s: the answer has %s", host, what)
	}
	if len(answer.AuthorizationData) == 0 {
		return bad("no token")
	}
	data := answer.AuthorizationData[0]
	token, err := base64.StdEncoding.DecodeString(aws.ToString(data.AuthorizationToken))
	username, password, ok := strings.Cut(string(token), ":")
	if err != nil || !ok || username == "" || password == "" {
		return bad("a token that is no login")
	}
	now := s.config.Now()
	expires := now.Add(life)
	if data.ExpiresAt != nil {
		expires = data.ExpiresAt.UTC()
	}
	if !expires.After(now) {
		return credential.Credential{}, problem.New(problem.Unreachable, "check this machine's clock",
			"get a login for %s: it ended at %s, and it is %s", host, expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	secret := credential.NewSecret(password)
	id := "ecr-" + secret.Fingerprint()
	return credential.Credential{
		ID: id, Name: id, Host: host, Username: username, Secret: secret, Issued: now, Expires: expires,
	}, nil
}

// place is what a registry's name tells.
type place struct {
	// region is empty if it is not told.
	region string
	// fips and dual say which of the region's endpoints it stands for.
	fips, dual bool
}

// privateHost is the form of the names of private registries: the account, the
// region, and the domain of its partition (Amazon ECR User Guide, "Private
// registries").
var privateHost = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\.([a-z0-9.-]+)$`)

// placeOf reads a registry's name. One that is not Amazon's tells nothing.
func placeOf(host credential.Host) (place, error) {
	name, _, _ := strings.Cut(string(host), ":")
	if name == "public.ecr.aws" || name == "ecr-public.aws.com" {
		return place{}, problem.Wrap(credential.ErrUnsupported, problem.Config,
			"its images need no login; where anonymous pulls are too few, use the source helper with ecr-login", "get a login for %s", host)
	}
	match := privateHost.FindStringSubmatch(name)
	if match == nil {
		return place{}, nil
	}
	return place{region: match[2], fips: match[1] != "", dual: strings.HasPrefix(match[3], "on.")}, nil
}
