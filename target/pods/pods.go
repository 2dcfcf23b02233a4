// Package pods is the target of config.json files in containers of running
// pods, read and written by exec.
//
// It refuses to change pods, and to hand a secret to anything but a program's
// standard input.
package pods

import (
	"context"
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
	"github.com/regkeeper/regkeeper/internal/shellfile"
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
	memos      map[credential.Place][]byte
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
	t := &Target{config: config, memos: map[credential.Place][]byte{}}
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
	file := t.file(at, p)
	a, err := file.Read(ctx)
	if err != nil {
		return nil, t.report(ctx, at, p, t.watching.Load(), err)
	}
	held, err := dockerconfig.Held(file.Where(a), a.Content, hosts)
	if err == nil {
		t.remember(at, a.Content)
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
	file := t.file(at, p)
	var guess *shellfile.Answer
	if content, ok := t.recall(at); ok {
		guess = &shellfile.Answer{Content: content}
	}
	a, changed, err := file.Update(ctx, guess, func(a shellfile.Answer) (after []byte, changed bool, err error) {
		return dockerconfig.Delivered(file.Where(a), a.Content, logins)
	})
	if err != nil {
		return nil, t.report(ctx, at, p, true, err)
	}
	held, err := dockerconfig.Held(file.Where(a), a.Content, hosts)
	if err != nil {
		return nil, t.report(ctx, at, p, true, err)
	}
	if changed {
		names := make([]string, 0, len(logins))
		for _, host := range slices.Sorted(maps.Keys(logins)) {
			names = append(names, string(host))
		}
		t.config.Cluster.Recorder.Event(reference(p), false, kube.Delivered, "login for %s written to %s of container %s in %s",
			strings.Join(names, ", "), a.Path, p.Value.name, time.Since(began).Round(time.Millisecond))
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

// maxContent bounds in bytes what is written to a file: what the script says of
// it must fit into its output.
const maxContent = kube.MaxStdout - 8<<10

// file is the place's file, which the script reads and writes.
func (t *Target) file(at credential.Place, p *pod) shellfile.File {
	return shellfile.File{
		Path: t.config.Path, Named: named(at), Limit: maxContent, Hints: hints(p),
		Shell: func(ctx context.Context, stdin []byte, arguments ...string) (shellfile.Output, error) {
			limited, cancel := context.WithTimeout(ctx, t.config.Timeout)
			defer cancel()
			key, _ := parts(at)
			output, err := t.config.Cluster.Executor.Exec(limited, kube.Command{
				Pod: key, Container: p.Value.name, Stdin: stdin,
				Argv: append([]string{"sh", "-c", shellfile.Script, kube.Manager}, arguments...),
			})
			if err != nil {
				return shellfile.Output{}, t.explain(ctx, at, p, err)
			}
			said := shellfile.Output{Stdout: output.Stdout, More: output.More}
			if output.Code != 0 {
				said.Silent = func() error {
					return t.explain(ctx, at, p, &exitError{code: output.Code, said: shellfile.Shown(string(output.Stderr))})
				}
			}
			return said, nil
		},
	}
}

// maxRemembered bounds in bytes what is remembered of all files.
const maxRemembered = 4 << 20

// remember keeps what a file holds, which spares the delivery that follows a
// look at it. A wrong memory does no harm: the script compares.
func (t *Target) remember(at credential.Place, text []byte) {
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
func (t *Target) recall(at credential.Place) (text []byte, ok bool) {
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
