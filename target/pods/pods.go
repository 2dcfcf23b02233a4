// Package pods is the target of config.json files in containers of running
// pods, read and written by exec.
//
// It refuses to change pods, and to hand a secret to anything but a program's
// standard input.
package pods

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says which containers.
type Config struct {
	Cluster *kube.Cluster
	// Namespaces are looked at one by one, which takes rights in these alone;
	// none looks at all of the cluster.
	Namespaces []string
	// Selector is a label selector: which pods.
	Selector string
	// Container is the container's name, that of an init container which keeps
	// running included. Empty: the one that the annotation
	// kubectl.kubernetes.io/default-container names, or the pod's only one.
	Container string
	// Path is of the file in the container; ~/ is the home folder of its user.
	// Empty: $DOCKER_CONFIG/config.json, or ~/.docker/config.json.
	Path string
	// Timeout bounds each exec; zero means 10 s.
	Timeout time.Duration
}

// DefaultTimeout bounds an exec unless it is set.
const DefaultTimeout = 10 * time.Second

// Target delivers to containers. A place is namespace/pod/container.
type Target struct {
	config Config
	mirror *kube.Mirror[container]
	// watching says whether someone keeps at it, so that what fails is worth
	// an Event also where it was only read.
	watching atomic.Bool

	mu sync.Mutex
	// memos are what was read last, and remembered is their size in bytes.
	memos      map[credential.Place]content
	remembered int
}

var (
	_ credential.Watcher   = (*Target)(nil)
	_ credential.Confirmer = (*Target)(nil)
)

// New makes the target. It sends no request.
func New(config Config) *Target {
	if config.Timeout == 0 {
		config.Timeout = DefaultTimeout
	}
	t := &Target{config: config, memos: map[credential.Place]content{}}
	core := config.Cluster.Core
	t.mirror = kube.NewMirror(kube.APIOf("pods", &corev1.Pod{}, core, core.Pods),
		kube.Selection{Namespaces: config.Namespaces, Labels: config.Selector}, t.thin)
	return t
}

// Places lists the containers that run, or ran and will again, sorted. A pod of
// which there is no telling which container is meant is listed too: reading it
// says so.
func (t *Target) Places(ctx context.Context) ([]credential.Place, error) {
	pods, err := t.mirror.List(ctx)
	if err != nil {
		return nil, err
	}
	var places []credential.Place
	for _, p := range pods {
		if listed(p) {
			places = append(places, place(p))
		}
	}
	slices.Sort(places)
	return slices.Compact(places), nil
}

// Held reads the file, by one exec. It fails if a credential helper answers for
// one of the hosts: clients then never look at what is delivered.
func (t *Target) Held(ctx context.Context, at credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	p, err := t.find(ctx, at)
	if err != nil {
		return nil, t.report(ctx, at, p, t.watching.Load(), err)
	}
	a, err := t.read(ctx, at, p)
	if err != nil {
		return nil, t.report(ctx, at, p, t.watching.Load(), err)
	}
	held, err := a.held(at, hosts)
	if err == nil {
		t.remember(at, a.content)
	}
	return held, t.report(ctx, at, p, t.watching.Load(), err)
}

// Deliver merges the logins into the file. It fails, and writes nothing, if a
// credential helper answers for one of the hosts: a secret that nobody reads
// is better not there.
func (t *Target) Deliver(ctx context.Context, at credential.Place, logins map[credential.Host]credential.Login) error {
	_, err := t.DeliverConfirmed(ctx, at, logins, nil)
	return err
}

// DeliverConfirmed is Deliver, then Held. After a Held it takes one exec.
func (t *Target) DeliverConfirmed(ctx context.Context, at credential.Place, logins map[credential.Host]credential.Login, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	p, err := t.find(ctx, at)
	if err != nil {
		return nil, t.report(ctx, at, p, true, err)
	}
	began := time.Now()
	a, changed, err := t.merge(ctx, at, p, logins)
	if err != nil {
		return nil, t.report(ctx, at, p, true, err)
	}
	held, err := a.held(at, hosts)
	if err != nil {
		return nil, t.report(ctx, at, p, true, err)
	}
	if changed {
		names := make([]string, 0, len(logins))
		for _, host := range slices.Sorted(maps.Keys(logins)) {
			names = append(names, string(host))
		}
		t.config.Cluster.Recorder.Event(reference(p), false, kube.Delivered, "login for %s written to %s of container %s in %s",
			strings.Join(names, ", "), a.path, p.Value.name, time.Since(began).Round(time.Millisecond))
	}
	return held, nil
}

// report tells the pod's owner of an error, unless it is of no use to them.
func (t *Target) report(ctx context.Context, at credential.Place, p *pod, event bool, err error) error {
	if errors.Is(err, credential.ErrGone) {
		t.forget(at)
	}
	if event && err != nil && p != nil && ctx.Err() == nil && !errors.Is(err, credential.ErrGone) {
		t.config.Cluster.Recorder.Event(reference(p), true, kube.NotDelivered, "%s", withHint(err))
	}
	return err
}

func withHint(err error) string {
	if hint := problem.HintOf(err); hint != "" {
		return err.Error() + ": " + hint
	}
	return err.Error()
}

// find looks the place's pod up. The pod is nil where there is none, where it is
// not known, and where its owner need not be told of the error.
func (t *Target) find(ctx context.Context, at credential.Place) (*pod, error) {
	key, _ := parts(at)
	p, err := t.mirror.Get(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case p != nil && listed(p) && p.Value.choices != "" && place(p) == at:
		return p, p.Value.unclear(at)
	case p == nil || !listed(p) || place(p) != at:
		return nil, problem.Wrap(credential.ErrGone, problem.NotFound, "", "%s", named(at))
	case p.Value.waits != "":
		return nil, p.Value.waiting(at)
	}
	return p, nil
}

// rounds bounds how often an exec is tried again at once: because its input or
// its answer was lost on the way, or the file was changed meanwhile.
const rounds = 10

// read reads the file.
func (t *Target) read(ctx context.Context, at credential.Place, p *pod) (answer, error) {
	var err error
	for range rounds {
		var a answer
		if a, err = t.run(ctx, at, p, nil, "read", t.config.Path, ""); err == nil || !passing(err) {
			return a, err
		}
	}
	return answer{}, incomplete(at, p, err)
}

// merge writes the logins into the file, unless they are there. The answer is
// the last one: what the file holds.
func (t *Target) merge(ctx context.Context, at credential.Place, p *pod, logins map[credential.Host]credential.Login) (a answer, changed bool, err error) {
	hosts := slices.Sorted(maps.Keys(logins))
	before, guessed := t.recall(at)
	a.content = before
	var last error
	for range rounds {
		if !guessed && a.result == "" {
			if a, err = t.read(ctx, at, p); err != nil {
				return a, changed, err
			}
		}
		after, different, err := merged(a, at, hosts, logins)
		if err != nil && !guessed {
			return a, changed, err
		}
		if err != nil || !different {
			if guessed {
				// What is remembered may be past: only the file itself counts.
				guessed, a = false, answer{}
				continue
			}
			return a, changed, nil
		}
		guessed = false
		if len(after) > maxContent {
			return a, changed, tooLarge(a.where(at))
		}
		stdin := append([]byte(described(after, a.content)), after...)
		var next answer
		next, last = t.run(ctx, at, p, stdin, "write", t.config.Path, token())
		switch {
		case passing(last):
			// Whether it was written is not known: it is read again.
			a = answer{}
		case last != nil:
			return a, changed, last
		default:
			if a = next; next.result == resultWritten {
				changed = true
				if bytes.Equal(next.content, after) {
					return a, changed, nil
				}
			}
			if next.result == resultLost {
				last = errLost
			} else {
				last = errContested
			}
		}
	}
	if errors.Is(last, errContested) {
		return a, changed, problem.Wrap(last, problem.Busy, "find what writes the file in the container all the time", "%s", a.where(at))
	}
	return a, changed, incomplete(at, p, last)
}

var (
	errLost      = errors.New("the container runtime lost what was sent to the script")
	errContested = errors.New("another program changed the file each time that it was to be written")
)

// merged is the content with the logins in it.
func merged(a answer, at credential.Place, hosts []credential.Host, logins map[credential.Host]credential.Login) (after content, changed bool, err error) {
	doc, err := a.document(at)
	if err != nil {
		return nil, false, err
	}
	if err := doc.Hidden(a.where(at), hosts); err != nil {
		return nil, false, err
	}
	for _, host := range hosts {
		changed = doc.Set(host, logins[host]) || changed
	}
	return doc.Bytes(), changed, nil
}

// where is the file for people.
func (a answer) where(at credential.Place) string {
	if a.path == "" {
		return "config.json of " + named(at)
	}
	return a.path + " of " + named(at)
}

func (a answer) document(at credential.Place) (*dockerconfig.Document, error) {
	doc, err := dockerconfig.Parse(a.content)
	return doc, problem.Wrap(err, problem.KindOf(err), "", "%s", a.where(at))
}

// held is what the content holds for the hosts.
func (a answer) held(at credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	doc, err := a.document(at)
	if err != nil {
		return nil, err
	}
	if err := doc.Hidden(a.where(at), hosts); err != nil {
		return nil, err
	}
	held := map[credential.Host]credential.Login{}
	for _, host := range hosts {
		if login, ok := doc.Login(host); ok {
			held[host] = login
		}
	}
	return held, nil
}

// run runs the script once.
func (t *Target) run(ctx context.Context, at credential.Place, p *pod, stdin []byte, arguments ...string) (answer, error) {
	limited, cancel := context.WithTimeout(ctx, t.config.Timeout)
	defer cancel()
	key, _ := parts(at)
	output, err := t.config.Cluster.Executor.Exec(limited, kube.Command{
		Pod: key, Container: p.Value.name, Stdin: stdin,
		Argv: append([]string{"sh", "-c", script, kube.Manager}, arguments...),
	})
	if err != nil {
		return answer{}, t.explain(ctx, at, p, err)
	}
	a, err := parse(output.Stdout)
	switch {
	case output.More && !errors.Is(err, errNone):
		return answer{}, tooLarge(begun(output.Stdout).where(at))
	case errors.Is(err, errNone) && output.Code != 0:
		return answer{}, t.explain(ctx, at, p, &exitError{code: output.Code, said: shown(string(output.Stderr))})
	case err != nil:
		return answer{}, err
	case a.result == resultFailed:
		return a, a.failure(a.where(at))
	}
	return a, nil
}

// maxContent bounds in bytes what is written to a file: what the script says of
// it must fit into its output.
const maxContent = kube.MaxStdout - 8<<10

func tooLarge(where string) error {
	return problem.New(problem.Damaged, "a config.json takes a few KiB: look at what fills it, and move the file away; it is left as it is",
		"%s is too large: more than %d KiB", where, maxContent>>10)
}

// passing says whether an error may well be another one next time.
func passing(err error) bool {
	return errors.Is(err, errNone) || errors.Is(err, errCut) || errors.Is(err, errTorn)
}

// token tells apart the temporary files of containers that share a folder, and
// have processes of the same number.
func token() string { return strings.ToLower(rand.Text()[:8]) }

// maxRemembered bounds in bytes what is remembered of all files.
const maxRemembered = 4 << 20

// remember keeps what a file holds, which spares the delivery that follows a
// look at it. A wrong memory does no harm: the script compares.
func (t *Target) remember(at credential.Place, text content) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(at)
	size := len(at) + len(text)
	if t.remembered+size > maxRemembered {
		clear(t.memos)
		t.remembered = 0
	}
	if size <= maxRemembered {
		t.memos[at] = text
		t.remembered += size
	}
}

// recall is what is remembered of a place, which is forgotten with it.
func (t *Target) recall(at credential.Place) (text content, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text, ok = t.memos[at]
	t.drop(at)
	return text, ok
}

func (t *Target) forget(at credential.Place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(at)
}

// drop forgets a place. The caller holds mu.
func (t *Target) drop(at credential.Place) {
	if text, ok := t.memos[at]; ok {
		t.remembered -= len(at) + len(text)
		delete(t.memos, at)
	}
}

// ask looks a pod up in the cluster itself.
func (t *Target) ask(ctx context.Context, key types.NamespacedName) (*pod, error) {
	full, err := t.config.Cluster.Core.Pods(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return t.mirror.Thin(full)
}
