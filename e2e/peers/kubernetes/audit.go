package kubernetes

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Request is one request that the API server has answered or has begun to
// answer.
type Request struct {
	Verb        string // get, list, watch, create, ...
	Resource    string // plural and with the subresource: pods, pods/exec; or a path
	Namespace   string
	Name        string
	User        string
	UserAgent   string
	Code        int // HTTP status
	ReceivedAt  time.Time
	Annotations map[string]string // such as authorization.k8s.io/decision
}

// Mark is a moment in the record of requests.
type Mark int

// audit keeps the record: who asked for what, without any content. Long
// requests are recorded at their beginning and again at their end.
func (c *Cluster) audit() []string {
	c.t.Helper()
	policy := c.write("audit.yaml", `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
`)
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + c.auditLog(), "--audit-log-maxsize=4096"}
}

func (c *Cluster) auditLog() string { return filepath.Join(c.dir, "audit.log") }

// Mark returns this moment.
func (c *Cluster) Mark(t testing.TB) Mark {
	t.Helper()
	return Mark(len(c.readAudit(t)))
}

// Requests returns the requests since a mark, in the order in which the API
// server began to answer them. The record may be a moment behind.
func (c *Cluster) Requests(t testing.TB, since Mark) []Request {
	t.Helper()
	all := c.readAudit(t)
	return all[min(int(since), len(all)):]
}

// Count counts the requests that fit. A zero field of the pattern fits
// everything; its user agent and user are beginnings.
func Count(requests []Request, pattern Request) (n int) {
	fits := func(want, got string) bool { return want == "" || want == got }
	for _, r := range requests {
		if fits(pattern.Verb, r.Verb) && fits(pattern.Resource, r.Resource) &&
			fits(pattern.Namespace, r.Namespace) && fits(pattern.Name, r.Name) &&
			strings.HasPrefix(r.User, pattern.User) && strings.HasPrefix(r.UserAgent, pattern.UserAgent) &&
			(pattern.Code == 0 || pattern.Code == r.Code) {
			n++
		}
	}
	return n
}

func (c *Cluster) readAudit(t testing.TB) (all []Request) {
	t.Helper()
	if !c.o.Audit {
		t.Fatal("read audit log: the cluster was started without Audit")
	}
	text, err := os.ReadFile(c.auditLog())
	if err != nil {
		t.Fatalf("read audit log: %v", err)
	}
	// A line that is being written has no end yet.
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	seen := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			AuditID, Verb, UserAgent, RequestURI string
			User                                 struct{ Username string }
			ObjectRef                            *struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus                       struct{ Code int }
			RequestReceivedTimestamp             time.Time
			Annotations                          map[string]string
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("read audit log: %v", err)
		}
		if seen[e.AuditID] {
			continue
		}
		seen[e.AuditID] = true
		r := Request{Verb: e.Verb, User: e.User.Username, UserAgent: e.UserAgent, Code: e.ResponseStatus.Code,
			ReceivedAt: e.RequestReceivedTimestamp, Annotations: e.Annotations}
		if o := e.ObjectRef; o != nil {
			r.Resource, r.Namespace, r.Name = o.Resource, o.Namespace, o.Name
			if o.Subresource != "" {
				r.Resource += "/" + o.Subresource
			}
		} else {
			r.Resource, _, _ = strings.Cut(e.RequestURI, "?")
		}
		all = append(all, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("read audit log: %v", err)
	}
	return all
}
