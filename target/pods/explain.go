package pods

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/shellfile"
	"github.com/regkeeper/regkeeper/problem"
)

// exitError is of a script that ended without an answer.
type exitError struct {
	code int
	said string
}

var _ error = (*exitError)(nil)

func (e *exitError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return fmt.Sprintf("exit code %d: %s", e.code, e.said)
}

// The exit codes of a shell for a program that cannot be run (POSIX, Shell
// Command Language, 2.8.2), which some container runtimes give for the shell
// itself.
const (
	codeNotRun   = 126
	codeNotFound = 127
)

// patience is how long it may take to see what became of a pod.
const patience = 5 * time.Second

// explain says what an exec that failed means. ctx is the caller's, which
// bounds more than the exec.
func (t *Target) explain(ctx context.Context, at credential.Place, p *pod, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	key, _ := parts(at)
	asking, cancel := context.WithTimeout(ctx, patience)
	now, lost := t.ask(asking, key)
	cancel()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case apierrors.IsNotFound(lost), lost == nil && !listed(now):
		return problem.Wrap(credential.ErrGone, problem.NotFound, "", "%s", named(at))
	case lost == nil && now.Value.waits != "":
		return now.Value.waiting(at)
	case unanswered(err, lost):
		return problem.Wrap(err, problem.Unreachable,
			"the cluster's API does not answer: it is tried again; `kubectl get --raw /readyz` says how the apiserver is", "exec in %s", named(at))
	case lost == nil && run(now) != run(p):
		// What holds the file may be a volume that outlives the container: the
		// place is not gone.
		return problem.Wrap(err, problem.Unreachable, "it is tried again", "%s began to run anew meanwhile", named(at))
	case shellless(err):
		return problem.New(problem.Config, withoutExec+"; or run regkeeper beside it with the target kind file, in a folder that both mount",
			"%s has no shell to write config.json with", named(at))
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.Unreachable,
			"see whether an exec ends: kubectl exec -n "+key.Namespace+" "+key.Name+" -c "+p.Value.name+" -- true; if not, look at "+node(p),
			"%s did not answer within %s", named(at), t.config.Timeout)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err), apierrors.IsTooManyRequests(err), apierrors.IsBadRequest(err):
		return kube.Problem(err, "exec in %s", named(at))
	}
	return problem.Wrap(err, problem.Unreachable, "it is tried again; look at "+node(p), "exec in %s", named(at))
}

// unanswered says whether the cluster's API itself did not answer. An exec may
// have waited in vain for either it or the node: what was asked after it, with
// the error lost, tells.
func unanswered(err, lost error) bool {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return false
	}
	if errors.As(lost, &status) {
		// These are said by what stands in front of an apiserver.
		return apierrors.IsServiceUnavailable(lost) || apierrors.IsTimeout(lost)
	}
	var network *net.OpError
	return lost != nil || errors.As(err, &network) && network.Op == "dial"
}

func node(p *pod) string {
	if p.Value.node == "" {
		return "the pod's node: kubectl get pod -o wide"
	}
	return "its node: kubectl describe node " + p.Value.node
}

const (
	needs       = "the container needs sh, cat, wc, mv, rm, mkdir, chmod, and sha256sum or cksum, as busybox and coreutils have them"
	withoutExec = "give the pod a Secret of the target kind secrets as a volume at the folder of config.json: docs/targets/pods.md"
)

// hints say what to do about a file of a container that fails.
func hints(p *pod) shellfile.Hints {
	return shellfile.Hints{
		Subject:  "the container",
		Home:     "set path: of the target, and DOCKER_CONFIG of the container to its folder",
		Tools:    "use an image that has it: " + needs + "; or " + withoutExec,
		ReadOnly: "the file is mounted read-only, for example from a Secret or ConfigMap, or all of the root file system is: mount an emptyDir at its folder, or set path: and DOCKER_CONFIG to a writable folder",
		Mounted:  "the file is a mount of its own (subPath), which nothing can replace: mount an emptyDir at its folder instead, or set path: and DOCKER_CONFIG to another folder",
		Denied: func(uid string) string {
			return "the container runs as user " + uid + ": set path: to a file in a folder of that user, and DOCKER_CONFIG to the folder; or mount an emptyDir there, with fsGroup in the pod's securityContext"
		},
		Space: "free some space in that volume; the former content is still there",
		Lost:  "it is tried again; look at the container runtime of " + node(p),
	}
}

// shellless says whether there was no shell to run. Container runtimes tell so
// in words, which the kubelet passes on as they are, or by an exit code.
func shellless(err error) bool {
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code == codeNotRun || exit.code == codeNotFound
	}
	for _, words := range []string{
		"executable file not found",                       // runc: looked up in PATH
		"not found in $PATH",                              // crun, gVisor
		"exec: \"sh\": stat",                              // runc
		"starting container process caused: exec: \"sh\"", // runc before 1.1
	} {
		if strings.Contains(err.Error(), words) {
			return true
		}
	}
	return false
}
