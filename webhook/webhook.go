// Package webhook reads what registries send when their content changes: it
// checks that the sender knows the secret, and tells which repositories, tags and
// manifests have changed.
//
// It refuses to act on a change, and to believe it: a change says where to look.
// So a message that comes twice, or late, does no harm.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// MaxBody is the longest message in bytes.
const MaxBody = 1 << 20

// maxChanges bounds what one message makes people do.
const maxChanges = 1000

// Kind is what sends.
type Kind string

// The kinds.
const (
	// Gitea is Gitea or Forgejo: an event "package", signed by HMAC-SHA256 with
	// the webhook's secret in the header X-Gitea-Signature (Gitea's
	// modules/structs/hook.go, services/webhook/deliver.go).
	Gitea Kind = "gitea"
	// Harbor has the secret as its "Auth Header", which it sends as
	// Authorization, in either of its payload formats (Harbor's
	// docs/working-with-projects/project-configuration/configure-webhooks).
	Harbor Kind = "harbor"
	// Distribution is distribution, and the embedded registry: the secret is the
	// value of the header Authorization, "Bearer ..." included if it is sent so
	// (distribution's docs/about/notifications.md).
	Distribution Kind = "distribution"
)

// Action is what happened.
type Action string

// The actions.
const (
	Pushed  Action = "pushed"
	Deleted Action = "deleted"
)

// Change is what is said to have changed. There is a tag, a digest, or both.
type Change struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	Action     Action        `json:"action"`
}

// Config says whom a [Receiver] listens to.
type Config struct {
	Kind Kind
	// Secret is what the sender knows; see the kinds.
	Secret credential.Secret
}

// Receiver reads the messages of one webhook.
type Receiver struct {
	config Config
	parse  func(header http.Header, body []byte) ([]Change, error)
}

// New makes a receiver. The error is of kind [problem.Config].
func New(config Config) (*Receiver, error) {
	r := &Receiver{config: config}
	switch config.Kind {
	case Gitea:
		r.parse = parseGitea
	case Harbor:
		r.parse = parseHarbor
	case Distribution:
		r.parse = parseDistribution
	default:
		return nil, problem.New(problem.Config, "write gitea, harbor or distribution", "webhook kind %q is not known", config.Kind)
	}
	if config.Secret.Empty() {
		return nil, problem.New(problem.Config, "give the webhook a secret there, and name it here", "the webhook of %s has no secret", config.Kind)
	}
	return r, nil
}

// Changes reads one message. There are none in a message about something else. The
// error is of kind [problem.Denied] if the sender does not know the secret, and of
// kind [problem.Usage] if the message cannot be read or is too long; it repeats
// neither.
func (r *Receiver) Changes(w http.ResponseWriter, req *http.Request) ([]Change, error) {
	const hint = "send it as POST with a JSON body"
	if req.Method != http.MethodPost {
		return nil, problem.New(problem.Usage, hint, "a webhook's message comes by POST")
	}
	// Of whom can be told by the header, no body is read.
	if r.config.Kind != Gitea && !same([]byte(req.Header.Get("Authorization")), []byte(r.config.Secret.Reveal())) {
		return nil, r.denied()
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, MaxBody))
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return nil, problem.New(problem.Usage, hint, "the message is longer than %d bytes", long.Limit)
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Usage, hint, "read message")
	}
	if r.config.Kind == Gitea && !r.signed(req.Header.Get("X-Gitea-Signature"), body) {
		return nil, r.denied()
	}
	changes, err := r.parse(req.Header, body)
	if err != nil {
		// The parser's words quote the message.
		return nil, problem.New(problem.Usage, "look at the webhook's format there", "the message is none of %s", r.config.Kind)
	}
	return compact(changes)
}

func (r *Receiver) denied() error {
	return problem.New(problem.Denied, "give the webhook there the same secret as here", "the message was not sent by a %s that knows the secret", r.config.Kind)
}

// same compares without telling by the time it takes where the two differ, or how
// long the secret is.
func same(got, want []byte) bool {
	a, b := sha256.Sum256(got), sha256.Sum256(want)
	return hmac.Equal(a[:], b[:])
}

func (r *Receiver) signed(signature string, body []byte) bool {
	got, err := hex.DecodeString(signature)
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, []byte(r.config.Secret.Reveal()))
	mac.Write(body)
	return hmac.Equal(got, mac.Sum(nil))
}

// parseGitea reads a PackagePayload. A version of a container is a tag or, of a
// manifest without one, its digest.
func parseGitea(header http.Header, body []byte) ([]Change, error) {
	if header.Get("X-Gitea-Event") != "package" {
		return nil, nil
	}
	var doc struct {
		Action  string `json:"action"`
		Package struct {
			Owner struct {
				Login string `json:"login"`
			} `json:"owner"`
			Type    string `json:"type"`
			Name    string `json:"name"`
			Version string `json:"version"`
		} `json:"package"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, err
	}
	actions := map[string]Action{"created": Pushed, "deleted": Deleted}
	action, ok := actions[doc.Action]
	if !ok || doc.Package.Type != "container" {
		return nil, nil
	}
	c := Change{Repository: strings.ToLower(doc.Package.Owner.Login + "/" + doc.Package.Name), Action: action}
	if strings.Contains(doc.Package.Version, ":") {
		c.Digest = digest.Digest(doc.Package.Version)
	} else {
		c.Tag = doc.Package.Version
	}
	return []Change{c}, nil
}

// parseHarbor reads both of Harbor's formats: its own, and CloudEvents.
func parseHarbor(_ http.Header, body []byte) ([]Change, error) {
	type event struct {
		Resources []struct {
			Digest string `json:"digest"`
			Tag    string `json:"tag"`
		} `json:"resources"`
		Repository struct {
			FullName string `json:"repo_full_name"`
		} `json:"repository"`
	}
	var doc struct {
		Type  string `json:"type"`
		Own   event  `json:"event_data"`
		Cloud event  `json:"data"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, err
	}
	var action Action
	data := doc.Own
	switch doc.Type {
	case "PUSH_ARTIFACT":
		action = Pushed
	case "DELETE_ARTIFACT":
		action = Deleted
	case "harbor.artifact.pushed":
		action, data = Pushed, doc.Cloud
	case "harbor.artifact.deleted":
		action, data = Deleted, doc.Cloud
	default:
		return nil, nil
	}
	var changes []Change
	for _, res := range data.Resources {
		c := Change{Repository: data.Repository.FullName, Tag: res.Tag, Digest: digest.Digest(res.Digest), Action: action}
		if c.Tag == res.Digest {
			c.Tag = "" // so Harbor calls what has none
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// parseDistribution reads an envelope. Events of blobs are told apart from those
// of manifests by their media type.
func parseDistribution(_ http.Header, body []byte) ([]Change, error) {
	var doc struct {
		Events []struct {
			Action string `json:"action"`
			Target struct {
				MediaType  string `json:"mediaType"`
				Digest     string `json:"digest"`
				Repository string `json:"repository"`
				Tag        string `json:"tag"`
			} `json:"target"`
		} `json:"events"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, err
	}
	actions := map[string]Action{"push": Pushed, "delete": Deleted}
	var changes []Change
	for _, e := range doc.Events {
		action, ok := actions[e.Action]
		if !ok || e.Target.MediaType == "application/octet-stream" {
			continue
		}
		changes = append(changes, Change{Repository: e.Target.Repository, Tag: e.Target.Tag, Digest: digest.Digest(e.Target.Digest), Action: action})
	}
	return changes, nil
}

// The forms of names and tags: OCI distribution specification 1.1, section Pulling
// manifests.
var (
	nameForm = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// compact checks the changes and drops those that say the same as one before.
func compact(changes []Change) ([]Change, error) {
	const hint = "look at what the webhook sends there"
	seen := map[Change]bool{}
	var all []Change
	for _, c := range changes {
		switch {
		case len(c.Repository) > 255 || !nameForm.MatchString(c.Repository):
			return nil, problem.New(problem.Usage, hint, "the message names a repository that can be none")
		case c.Tag != "" && !tagForm.MatchString(c.Tag):
			return nil, problem.New(problem.Usage, hint, "the message names a tag that can be none")
		case c.Digest != "" && c.Digest.Validate() != nil:
			return nil, problem.New(problem.Usage, hint, "the message names a digest that is none")
		case c.Tag == "" && c.Digest == "":
			return nil, problem.New(problem.Usage, hint, "the message names neither a tag nor a digest")
		case seen[c]:
			continue
		}
		if len(all) == maxChanges {
			return nil, problem.New(problem.Usage, hint, "the message tells of more than %d changes", maxChanges)
		}
		seen[c] = true
		all = append(all, c)
	}
	return all, nil
}
