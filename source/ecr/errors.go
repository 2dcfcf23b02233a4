package ecr

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
)

// asking is what errors tell of the one who asked.
type asking struct {
	host credential.Host
	// profile is the one in use, if it has a name.
	profile string
	// login is the AWS CLI's command that logs the profile in; empty if it is
	// not logged in by one.
	login string
}

// learn notes how the profile in use is logged in.
func (a *asking) learn(loaded aws.Config) {
	for _, source := range loaded.ConfigSources {
		shared, ok := source.(config.SharedConfig)
		if !ok {
			continue
		}
		switch {
		case shared.SSOSession != nil || shared.SSOStartURL != "":
			a.login = "aws sso login"
		case shared.LoginSession != "":
			a.login = "aws login"
		default:
			continue
		}
		a.profile = shared.Profile
		if a.profile != "" {
			a.login += " --profile " + a.profile
		}
	}
}

const (
	findHint   = "give AWS credentials: a profile in ~/.aws, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the machine or the pod"
	keyHint    = "check the access key and its secret, and this machine's clock"
	endedHint  = "AWS credentials end after a while: get others, or give a profile that gets them by itself"
	rightsHint = "the identity needs the right ecr:GetAuthorizationToken on all resources, and sts:AssumeRole on a role that it is to take on"
	reachHint  = "check the network, the proxies and AWS's state; a network without a way out needs a VPC endpoint for ecr.api"
)

// hints are those for the codes with which AWS refuses an identity: the API
// Reference of ECR ("Common Errors") and of STS.
var hints = map[string]string{
	"AccessDenied":                         rightsHint,
	"AccessDeniedException":                rightsHint,
	"NotAuthorized":                        rightsHint,
	"BlockedByOrganizationPolicyException": "the account's organisation does not allow it",
	"OptInRequired":                        "the account is not signed up for ECR in this region",
	"UnrecognizedClientException":          keyHint,
	"InvalidClientTokenId":                 keyHint,
	"InvalidSignatureException":            keyHint,
	"SignatureDoesNotMatch":                keyHint,
	"IncompleteSignature":                  keyHint,
	"MissingAuthenticationToken":           keyHint,
	"MissingAuthenticationTokenException":  keyHint,
	"ExpiredToken":                         endedHint,
	"ExpiredTokenException":                endedHint,
	"RequestExpired":                       keyHint,
	"InvalidIdentityToken":                 "the web identity token is not taken: check the role's trust policy, and that the file is renewed",
	"IDPRejectedClaim":                     "the web identity token is not taken: check the role's trust policy, and that the file is renewed",
}

// unreadable makes a problem of files that the SDK cannot read, or a profile
// that is not in them.
func (a *asking) unreadable(err error) error {
	var missing config.SharedConfigProfileNotExistError
	if errors.As(err, &missing) {
		return problem.New(problem.Config, "check the profile's name; aws configure list-profiles lists them",
			"get a login for %s: there is no AWS profile %q", a.host, missing.Profile)
	}
	return a.problem(err, problem.Config, "check ~/.aws/config and ~/.aws/credentials, and the AWS_ variables", nil)
}

// unidentified makes a problem of an identity that the SDK did not get.
func (a *asking) unidentified(err error) error {
	var (
		operation *smithy.OperationError
		process   *processcreds.ProviderError
		expired   *ssocreds.InvalidTokenError
		api       smithy.APIError
	)
	loginHint := fmt.Sprintf("log in again: %s", a.login)
	switch {
	case errors.As(err, &process):
		// Its text has what the program printed.
		return a.problem(errors.New("the profile's credential_process gave none"), problem.Config, "run that program by hand to see what it says", nil)
	case errors.As(err, &operation) && operation.ServiceID == imds.ServiceID:
		// The machine's role is what the SDK tries last.
		return problem.New(problem.Config, findHint, "get a login for %s: no AWS credentials were found", a.host)
	case errors.Is(err, context.DeadlineExceeded):
		return a.problem(err, problem.Unreachable, findHint+"; on a machine that is not AWS's, AWS_EC2_METADATA_DISABLED=true says so", nil)
	case errors.As(err, &expired):
		return a.problem(err, problem.Denied, loginHint, credential.ErrRefused)
	case a.login != "" && !unsent(err) && (!errors.As(err, &api) || hints[api.ErrorCode()] != rightsHint):
		// A session that has ended has no type of error of its own.
		return a.problem(err, problem.Denied, loginHint, credential.ErrRefused)
	}
	return a.refused(err, aws.Credentials{})
}

// refused makes a problem of what AWS answered, or that it did not.
func (a *asking) refused(err error, identity aws.Credentials) error {
	// AWS tells what it made of a request whose signature is wrong: headers,
	// with the session's token among them.
	err = transport.Conceal(err, identity.AccessKeyID, identity.SecretAccessKey)
	err = transport.Conceal(err, identity.AccessKeyID, identity.SessionToken)
	var api smithy.APIError
	switch {
	case errors.Is(err, context.DeadlineExceeded), unsent(err):
		return a.problem(err, problem.Unreachable, reachHint, nil)
	case !errors.As(err, &api):
		return a.problem(err, problem.Config, findHint, nil)
	case hints[api.ErrorCode()] != "":
		return a.problem(err, problem.Denied, hints[api.ErrorCode()], credential.ErrRefused)
	}
	return a.problem(err, problem.Unreachable, "try again; if it stays, look up that error in AWS's documentation", nil)
}

// unsent says whether a request did not get through, or was not answered.
func unsent(err error) bool {
	var send *smithyhttp.RequestSendError
	return errors.As(err, &send)
}

// problem keeps the text of an error and drops the rest: it may hold what was
// sent.
func (a *asking) problem(err error, kind problem.Kind, hint string, sentinel error) error {
	cause := errors.New(err.Error())
	if sentinel != nil {
		cause = fmt.Errorf("%w: %w", sentinel, cause)
	}
	return problem.Wrap(cause, kind, hint, "get a login for %s", a.host)
}
