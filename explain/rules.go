package explain

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/registry/trial"
)

// rules are all that is looked for. Answers are read one by one, what was looked
// at as well; the last one looks at the surroundings.
func rules() []func(*inquiry) []finding {
	return []func(*inquiry) []finding{answers, beside, looks, chance, surroundings}
}

// verdict is a row of the table of answers.
type verdict struct {
	code Code
	// when says whether the row is about an answer.
	when func(*inquiry, trial.Trial) bool
	// with are words for its texts.
	with func(*inquiry, trial.Trial) words
}

// verdicts is the table of answers: the first row that is about one counts. Rows
// about one product stand before those about all, and the last is about any.
var verdicts = []verdict{
	{code: "rate-limited", when: last(http.StatusTooManyRequests), with: limits},
	{code: "gitea-token-outlives-revocation", when: all(pulls, kind(trial.RegistryToken), gitea), with: ends},
	{code: "rate-limit-reached", when: all(pulls, noneLeft), with: limits},
	{code: "image-public", when: all(pulls, kind(trial.Nobody))},
	{code: "login-works", when: pulls},
	{code: "not-a-registry", when: all(last(http.StatusOK), either(at(trial.Manifest), at(trial.Reason))), with: status},
	{code: "registry-error", when: failed, with: status},

	{code: "gitea-token-without-scope", when: known(http.StatusOK)},
	{code: "gitea-token-wrong", when: all(gitea, refusedAt(trial.Token, trial.Known))},
	{code: "gitea-login-missing", when: all(kind(trial.Nobody), packageAccess)},
	{code: "gitea-owner-private", when: packageAccess},
	{code: "gitea-owner-unknown", when: all(gitea, ended(trial.Reason, http.StatusNotFound), uncoded)},

	{code: "ecr-token-expired", when: all(ecr, refused, either(over, saysExpired)), with: ends},
	{code: "ecr-denied", when: all(ecr, refused, ended(trial.Reason, http.StatusForbidden))},

	{code: "login-missing", when: all(kind(trial.Nobody), refused)},
	{code: "login-expired", when: all(refused, over), with: ends},
	{code: "identity-token-refused", when: all(kind(trial.IdentityToken), at(trial.Token))},
	{code: "access-or-unknown", when: ended(trial.Token, http.StatusForbidden)},
	{code: "login-wrong", when: refusedAt(trial.Token)},
	{code: "login-wrong", when: all(refused, kind(trial.RegistryToken))},
	{code: "login-wrong", when: all(ended(trial.Reason, http.StatusUnauthorized), shownBy("basic"))},
	{code: "access-or-unknown", when: refused},

	{code: "repository-unknown", when: coded("NAME_UNKNOWN")},
	{code: "tag-missing", when: coded("MANIFEST_UNKNOWN", "NOT_FOUND")},
	{code: "not-a-registry", when: at(trial.Root), with: status},
	{code: "not-a-registry", when: ended(trial.Reason, http.StatusNotFound), with: status},
	{code: "unclear", when: func(*inquiry, trial.Trial) bool { return true }},
}

// faults is what is said of each kind of fault.
var faults = map[trial.FaultKind]Code{
	trial.NameUnknown: "dns-unknown-host", trial.NameFailed: "dns-failed",
	trial.Refused: "connection-refused", trial.NoRoute: "unreachable", trial.Timeout: "unreachable", trial.Broken: "connection-broken",
	trial.UnknownAuthority: "tls-unknown-authority", trial.WrongName: "tls-wrong-name", trial.Expired: "tls-expired", trial.NotYet: "tls-not-yet",
	trial.BadCertificate: "tls-bad-certificate", trial.Alert: "tls-refused-by-server",
	trial.PlainSpoken: "registry-speaks-plain-http", trial.TLSSpoken: "registry-speaks-tls",
	trial.ProxyUnreachable: "proxy-unreachable", trial.ProxyLogin: "proxy-login", trial.ProxyRefused: "proxy-refused",
	trial.PlainRealm: "token-server-plain-http", trial.BadRealm: "token-server-broken", trial.BadToken: "token-server-broken",
	trial.Redirect: "redirect-refused", trial.Other: "unclear",
}

// answers reads the registry's answers. Those that the client itself would not
// get are read only where they stand for a way that is not there at all.
func answers(c *inquiry) (found []finding) {
	for _, t := range c.Trials {
		fault := t.Answer.Fault()
		if t.Extra && fault == nil {
			continue
		}
		if fault != nil {
			code, ok := faults[fault.Kind]
			if !ok {
				code = "unclear"
			}
			found = append(found, finding{code: code, evidence: faultEvidence(t.Answer), words: faultWords(t)})
			continue
		}
		at := slices.IndexFunc(verdicts, func(v verdict) bool { return v.when(c, t) })
		v := verdicts[at]
		w := words{"login": of(t)}
		if v.with != nil {
			for name, word := range v.with(c, t) {
				w[name] = word
			}
		}
		found = append(found, finding{code: v.code, evidence: answerEvidence(t.Answer), words: w, spared: c.spared(t)})
	}
	return found
}

// spared says whether the client gets the image though a login was refused: by a
// later one, or as nobody.
func (c *inquiry) spared(t trial.Trial) bool {
	if t.Try < 0 {
		return false
	}
	later := func(other trial.Trial) bool {
		return other.Outcome == t.Outcome && other.Try > t.Try && other.Answer.Pulls()
	}
	return slices.ContainsFunc(c.Trials, later) || c.says("anonymous-retry") && t.Answer.Refused() && c.publicly()
}

// beside compares the answers to a login with those to nobody.
func beside(c *inquiry) (found []finding) {
	if c.nobody == nil {
		return nil
	}
	for _, t := range c.Trials {
		if !t.Answer.Refused() || t.Answer.Kind == trial.Nobody {
			continue
		}
		w := words{"login": of(t)}
		evidence := []string{step(t.Answer.Last()), "as nobody: " + step(c.nobody.Last())}
		switch {
		case c.says("anonymous-retry") && c.publicly():
			w["retry"] = "and gets the image, which is public: nobody sees that the login is stale until a private image is asked for."
			found = append(found, finding{code: "anonymous-retry", evidence: evidence, words: w})
		case c.says("anonymous-retry"):
			w["retry"] = "and what it reports in the end is the refusal of nobody, not that of the login."
			found = append(found, finding{code: "anonymous-retry", evidence: evidence, words: w})
		case c.publicly():
			found = append(found, finding{code: "stale-login-public-image", evidence: evidence, words: w})
		}
	}
	for _, o := range c.Outcomes {
		if o.Err != nil && c.publicly() && slices.Contains(helperRules, o.Rule.ID) {
			found = append(found, finding{code: "helper-fails-public-image", evidence: []string{o.Err.Error(), "as nobody: " + step(c.nobody.Last())}, words: nil})
		}
	}
	return found
}

// helperRules are the rules by which a client gives up because of a helper.
var helperRules = []string{"helper-fails", "podman-broken", "gitlab-helper-path"}

// sight is a row of the table of what was looked at. An empty field is any.
type sight struct {
	rules   []string
	verdict consumer.Verdict
	// entry says that it must be an entry, and not a place as a whole; helper that
	// it must be a helper's program.
	entry, helper bool
	// by are the rules of what comes before it.
	by   []string
	code Code
}

// sights is the table of what was looked at: the first row that is about it
// counts. What no row is about is said by the decision itself.
var sights = []sight{
	{rules: []string{"helper-fails-silently"}, verdict: consumer.Broken, code: "helper-fails-silently"},
	{verdict: consumer.Broken, helper: true, code: "helper-failed"},
	{rules: []string{"kubelet-provider"}, verdict: consumer.Broken, code: "helper-failed"},
	{rules: []string{"gitlab-source-dropped"}, verdict: consumer.Broken, code: "source-dropped"},
	{rules: []string{"variable-is-strict"}, verdict: consumer.Broken, code: "docker-auth-config-ignored"},
	{rules: []string{"kubelet-broken-secret"}, verdict: consumer.Broken, code: "pull-secret-unusable"},
	{verdict: consumer.Broken, code: "config-broken"},

	{rules: []string{"kubelet-order"}, verdict: consumer.Absent, code: "pull-secret-unusable"},
	{rules: []string{"kubelet-secret-type"}, verdict: consumer.Passed, code: "pull-secret-unusable"},

	{rules: []string{"variable-not-read", "gitlab-ignores-docker-config", "ggcr-no-file"}, verdict: consumer.Passed, code: "docker-auth-config-ignored"},
	{rules: []string{"user-and-password-only", "kubelet-fields", "podman-auth-only"}, verdict: consumer.Passed, code: "identity-token-ignored"},
	{rules: []string{"empty-entry"}, verdict: consumer.Passed, code: "entry-empty"},
	{rules: []string{"containerd-hosts"}, verdict: consumer.Passed, code: "containerd-login-ignored"},
	{rules: []string{
		"hostname-of-key", "docker-hub-key", "variable-first", "gitlab-key", "kubelet-match", "kubelet-docker-hub", "podman-namespaces",
		"podman-host-of-key", "ggcr-repository-first", "oras-entry", "oras-docker-hub", "buildkit-docker-hub", "containerd-configs", "k3s-configs",
	}, verdict: consumer.Passed, entry: true, code: "key-never-matches"},

	{verdict: consumer.Hidden, entry: true, by: []string{"variable-first"}, code: "docker-auth-config-shadows"},
	{verdict: consumer.Hidden, entry: true, by: []string{"credential-helper", "credentials-store", "detected-store"}, code: "helper-hides-entries"},
	{verdict: consumer.Hidden, code: "login-hidden"},
}

// looks reads what was looked at.
func looks(c *inquiry) (found []finding) {
	for _, l := range c.Looked {
		used, by := c.used()
		at := slices.IndexFunc(sights, func(s sight) bool {
			return (s.rules == nil || slices.Contains(s.rules, l.Rule.ID)) && s.verdict == l.Verdict &&
				(!s.entry || l.Key != "") && (!s.helper || isHelper(l)) && (s.by == nil || slices.Contains(s.by, by))
		})
		if at < 0 {
			continue
		}
		found = append(found, finding{code: sights[at].code, evidence: []string{look(l)}, words: words{
			"where": l.Where, "entry": l.Key, "why": strings.TrimRight(l.Why, " :."), "used": used, "login": "the login",
		}})
	}
	for _, o := range c.Outcomes {
		if o.Err != nil && !slices.ContainsFunc(c.Looked, func(l consumer.Look) bool { return l.Verdict == consumer.Broken && isHelper(l) }) {
			found = append(found, finding{code: "client-gives-up", evidence: []string{o.Err.Error()}, words: words{"why": o.Err.Error(), "rule": o.Rule.Text}})
		}
		for _, t := range o.Tries {
			if t.Rule.ID == "docker-secrets" {
				found = append(found, finding{code: "docker-secrets-everywhere", evidence: []string{t.Where + ": " + t.Rule.Text}, words: nil})
			}
		}
	}
	return found
}

// isHelper says whether a helper was looked at, by the name of its program
// (docker-credential-helpers).
func isHelper(l consumer.Look) bool { return strings.HasPrefix(l.Where, "docker-credential-") }

// used is where the client's login comes from, and by which rule.
func (c *inquiry) used() (where, rule string) {
	for _, o := range c.Outcomes {
		if len(o.Tries) > 0 {
			return o.Tries[0].Where, o.Tries[0].Rule.ID
		}
		if o.Rule.ID != "" {
			rule = o.Rule.ID
		}
	}
	return "another", rule
}

// chance finds clients that let a map decide.
func chance(c *inquiry) []finding {
	var keys, evidence []string
	for _, o := range c.Outcomes {
		if len(o.Tries) == 0 || o.Tries[0].Rule.ID != "one-of-several" {
			continue
		}
		first := o.Tries[0]
		if !slices.Contains(keys, first.Key) {
			keys = append(keys, first.Key)
			evidence = append(evidence, first.Where+", "+first.Key+": the login "+first.Login.Username)
		}
	}
	if len(keys) < 2 {
		return nil
	}
	return []finding{{code: "login-by-chance", evidence: evidence, words: words{"entries": strings.Join(keys, ", ")}}}
}

// surroundings finds what lies around the client.
func surroundings(c *inquiry) (found []finding) {
	for _, p := range c.Places {
		how := ""
		switch {
		case p.ReadOnly:
			how = "is mounted to be read only"
		case p.Mounted:
			how = "is a mount of its own, and so cannot be replaced by another file, which is how a login is saved"
		default:
			continue
		}
		found = append(found, finding{code: "config-read-only", evidence: []string{p.Path + " " + how}, words: words{"where": p.Path, "how": how}})
	}
	if len(c.PullSecrets) > 0 && c.says("runner-pulls-itself") {
		list := strings.Join(c.PullSecrets, ", ")
		found = append(found, finding{code: "pull-secrets-unused", evidence: []string{"imagePullSecrets: " + list}, words: words{"secrets": list}})
	}
	if c.DockerHost != "" && !slices.Contains(usualDaemon, c.DockerHost) {
		found = append(found, finding{code: "daemon-elsewhere", evidence: []string{"DOCKER_HOST: " + c.DockerHost}, words: words{"daemon": c.DockerHost}})
	}
	if c.DaemonLogin != "" {
		found = append(found, finding{code: "login-beside-daemon", evidence: []string{c.DaemonLogin}, words: words{"daemon login": c.DaemonLogin}})
	}
	if c.Present && !strings.EqualFold(c.PullPolicy, "always") && c.failing() {
		found = append(found, finding{code: "image-present", evidence: []string{c.Image + " is there"}, words: nil})
	}
	return found
}

// usualDaemon is where clients look for a daemon without being told.
var usualDaemon = []string{"unix:///var/run/docker.sock", "unix:///run/docker.sock"}

// failing says whether a login was refused, and none accepted, in one of the ways
// in which the client can act.
func (c *inquiry) failing() bool {
	return slices.ContainsFunc(c.Trials, func(t trial.Trial) bool { return !t.Extra && t.Answer.Refused() })
}

func faultEvidence(a trial.Answer) []string {
	s := a.Last()
	evidence := []string{step(s)}
	if a.Proxy != "" {
		evidence = append(evidence, "through the proxy "+a.Proxy)
	}
	if s.Certificate != nil {
		evidence = append(evidence, "certificate of "+s.Certificate.Subject+", issued by "+s.Certificate.Issuer+", until "+day(s.Certificate.NotAfter))
	}
	return evidence
}

func faultWords(t trial.Trial) words {
	s := t.Answer.Last()
	w := words{"peer": s.Fault.Host, "login": of(t), "status": http.StatusText(s.Fault.Status)}
	if c := s.Certificate; c != nil {
		w["issuer"], w["from"], w["until"] = c.Issuer, day(c.NotBefore), day(c.NotAfter)
		w["names"] = "no name at all"
		if len(c.Names) > 0 {
			w["names"] = strings.Join(c.Names, ", ")
		}
	} else {
		w["issuer"], w["names"], w["from"], w["until"] = "somebody", "another name", "a later time", "an earlier time"
	}
	return w
}

// answerEvidence are the steps that were answered, after the root.
func answerEvidence(a trial.Answer) (evidence []string) {
	for _, s := range a.Steps {
		switch s.Stage {
		case trial.Token, trial.Known, trial.Reason:
		case trial.Root:
			if a.Last().Stage != trial.Root {
				continue
			}
		case trial.Manifest:
			if a.Last().Stage == trial.Reason {
				continue
			}
		default:
			continue
		}
		evidence = append(evidence, step(s))
		evidence = append(evidence, shown(s, "Www-Authenticate", "Ratelimit-Limit", "Ratelimit-Remaining", "Docker-Ratelimit-Source", "Retry-After")...)
		if s.Granted != nil {
			evidence = append(evidence, "the token allows: "+strings.Join(append(s.Granted, ""), " "))
		}
	}
	return evidence
}

// Conditions of the table of answers.

type condition = func(*inquiry, trial.Trial) bool

func all(conditions ...condition) condition {
	return func(c *inquiry, t trial.Trial) bool {
		return !slices.ContainsFunc(conditions, func(one condition) bool { return !one(c, t) })
	}
}

func either(one, other condition) condition {
	return func(c *inquiry, t trial.Trial) bool { return one(c, t) || other(c, t) }
}

func kind(k trial.Kind) condition {
	return func(_ *inquiry, t trial.Trial) bool { return t.Answer.Kind == k }
}

func pulls(_ *inquiry, t trial.Trial) bool { return t.Answer.Pulls() }

func refused(_ *inquiry, t trial.Trial) bool { return t.Answer.Refused() }

// last is an answer that ended with the status.
func last(status int) condition {
	return func(_ *inquiry, t trial.Trial) bool { return t.Answer.Last().Status == status }
}

// at is an answer that ended at the stage.
func at(stage trial.Stage) condition {
	return func(_ *inquiry, t trial.Trial) bool { return t.Answer.Last().Stage == stage }
}

func ended(stage trial.Stage, status int) condition { return all(at(stage), last(status)) }

func refusedAt(stages ...trial.Stage) condition {
	return func(_ *inquiry, t trial.Trial) bool {
		return t.Answer.Refused() && slices.Contains(stages, t.Answer.Last().Stage) && t.Answer.Kind != trial.Nobody
	}
}

func failed(_ *inquiry, t trial.Trial) bool {
	return t.Answer.Last().Status >= http.StatusInternalServerError
}

func known(status int) condition { return ended(trial.Known, status) }

func shownBy(as string) condition {
	return func(_ *inquiry, t trial.Trial) bool { return t.Answer.Last().As == as }
}

func coded(codes ...string) condition {
	return func(_ *inquiry, t trial.Trial) bool { return t.Answer.Last().Has(codes...) }
}

func uncoded(_ *inquiry, t trial.Trial) bool { return len(t.Answer.Last().Errors) == 0 }

// gitea is a registry whose token server is that of Gitea or Forgejo
// (routers/api/packages/container, APIUnauthorizedError).
func gitea(_ *inquiry, t trial.Trial) bool {
	root, _ := t.Answer.At(trial.Root)
	return slices.ContainsFunc(root.Challenges, func(c trial.Challenge) bool {
		return c.Service == "container_registry" && strings.HasSuffix(c.Realm, "/v2/token")
	})
}

// packageAccess is Gitea's and Forgejo's refusal of a right in an owner's packages
// (routers/api/packages, reqPackageAccess).
func packageAccess(_ *inquiry, t trial.Trial) bool {
	s := t.Answer.Last()
	return s.Status == http.StatusUnauthorized && slices.ContainsFunc(s.Challenges, func(c trial.Challenge) bool {
		return c.Scheme == "basic" && strings.HasSuffix(c.Realm, " Package API")
	})
}

// ecr is Amazon ECR, by its challenge.
func ecr(_ *inquiry, t trial.Trial) bool {
	root, _ := t.Answer.At(trial.Root)
	return slices.ContainsFunc(root.Challenges, func(c trial.Challenge) bool { return c.Service == "ecr.amazonaws.com" })
}

// over is a login that says that it has ended.
func over(c *inquiry, t trial.Trial) bool {
	now := c.Now
	if now.IsZero() {
		now = t.Answer.Time
	}
	return t.Answer.Ends != nil && t.Answer.Ends.Before(now)
}

// saysExpired is for Amazon ECR alone: it has one code for a token that has ended
// and for one without rights, and tells them apart by the message.
func saysExpired(_ *inquiry, t trial.Trial) bool {
	return slices.ContainsFunc(t.Answer.Last().Errors, func(e trial.RegistryError) bool {
		return e.Code == "DENIED" && strings.Contains(e.Message, "token has expired")
	})
}

// noneLeft is an answer that says that no pull is left: the form is that of
// Docker Hub, "0;w=21600".
func noneLeft(_ *inquiry, t trial.Trial) bool {
	left, _, _ := strings.Cut(t.Answer.Last().Header["Ratelimit-Remaining"], ";")
	return strings.TrimSpace(left) == "0"
}

// Words of the table of answers.

func status(_ *inquiry, t trial.Trial) words {
	code := t.Answer.Last().Status
	return words{"status": strings.TrimSpace(http.StatusText(code))}
}

func ends(_ *inquiry, t trial.Trial) words {
	if t.Answer.Ends == nil {
		return words{"ends": "an unknown time", "ended": ""}
	}
	return words{"ends": day(*t.Answer.Ends), "ended": ", and it ended at " + day(*t.Answer.Ends)}
}

func limits(_ *inquiry, t trial.Trial) words {
	s := t.Answer.Last()
	w := words{"limit": "", "wait": ""}
	if limit, window, ok := strings.Cut(s.Header["Ratelimit-Limit"], ";w="); ok {
		w["limit"] = ": " + limit + " pulls in " + window + " seconds"
		if source := s.Header["Docker-Ratelimit-Source"]; source != "" {
			w["limit"] += ", counted for " + source
			if net.ParseIP(source) != nil {
				w["limit"] += " (an address: nobody's login was counted)"
			}
		}
	}
	if wait := s.Header["Retry-After"]; wait != "" {
		w["wait"] = " (Retry-After: " + wait + ")"
	}
	return w
}
