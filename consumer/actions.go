package consumer

import (
	"errors"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
)

const (
	jobContainer = "credentials of the workflow"
	jobSecrets   = "secrets DOCKER_USERNAME and DOCKER_PASSWORD" //nolint:gosec // the names of them
)

// actions are the runners of Actions, which all came from nektos/act.
func actions() []Consumer {
	rules := []Rule{ruleServicesTakeOver, ruleAnonymousRetry, ruleOwnPulls, rulePresent}
	places := "credentials of the workflow, then the secrets DOCKER_USERNAME and DOCKER_PASSWORD, then $DOCKER_AUTH_CONFIG and config.json of the runner's user and its helpers"
	// The library detects the platform's helper in act and in what Forgejo made of
	// it; Gitea's runner leaves that out.
	return []Consumer{
		{
			Name: "gitea-runner", About: "the runner of Gitea Actions (act_runner)", Places: places, Rules: rules,
			decide: func(s *search) []Outcome {
				return s.actions(dockerRules{variable: true, strict: true, undetected: true, older: true})
			},
		},
		{
			Name: "forgejo-runner", About: "the runner of Forgejo Actions", Places: places, Rules: rules,
			decide: func(s *search) []Outcome { return s.actions(dockerRules{variable: true, strict: true, older: true}) },
		},
		{
			Name: "act", About: "nektos/act", Places: places, Rules: append(slices.Clip(rules), ruleActHub),
			decide: func(s *search) []Outcome {
				return s.actions(dockerRules{variable: true, strict: true, older: true, key: actKey(s.image)})
			},
		},
	}
}

// actKey is the key that act looks for: that of LoadDockerAuthConfig, which the
// docker/cli that act is built with takes as it is.
func actKey(image string) string {
	host, _, nested := strings.Cut(image, "/")
	if nested && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return hubIndex
}

// actions is what such a runner does for the image of a job or service.
func (s *search) actions(rules dockerRules) []Outcome {
	pair := Login{Username: s.Job.Secrets["DOCKER_USERNAME"]}
	if password := s.Job.Secrets["DOCKER_PASSWORD"]; password != "" {
		pair.Password = credential.NewSecret(password)
	}
	where, rule := jobSecrets, ruleJobSecrets
	if s.Job.Service {
		// The secrets are not for services.
		pair = Login{}
	}
	if given := s.Job.Credentials; given != nil {
		if len(given) != 2 || given["username"] == "" || given["password"] == "" {
			s.look(jobContainer, "", Broken, ruleJobCredentialsBroken, "a username and a password are needed, and nothing else")
			return fails(ruleJobCredentialsBroken, errors.New("credentials of the workflow are not a username and a password"))
		}
		if !pair.Empty() {
			s.look(jobSecrets, "", Hidden, ruleJobCredentials, "the workflow has credentials of its own")
		}
		pair = Login{Username: given["username"], Password: credential.NewSecret(given["password"])}
		where, rule = jobContainer, ruleJobCredentials
	}
	if pair.Username != "" && !pair.Password.Empty() {
		return []Outcome{takes(Found{Login: pair, Where: where, Rule: rule})}
	}
	if !pair.Empty() {
		s.look(where, "", Passed, rule, "one of the two is empty")
	}
	outcomes := s.docker(rules)
	for i, o := range outcomes {
		login := o.Login()
		if login.Username == "" && login.Password.Empty() && len(o.Tries) > 0 {
			s.look(o.Tries[0].Where, o.Tries[0].Key, Passed, ruleUserOnly, "it holds a token in place of a user and a password")
			outcomes[i] = Outcome{Rule: ruleUserOnly}
		}
	}
	return outcomes
}
