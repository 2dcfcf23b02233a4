package pods_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/testkit/fakekube"
	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/pods"
)

const secret = "s3cr3t-of-the-login"

// failure is how a delivery must fail.
type failure struct {
	kind problem.Kind
	text string
	hint string
	gone bool
}

func (w *world) fails(want failure) {
	w.t.Helper()
	_, heldErr := w.DeliverConfirmed(w.t.Context(), at, logins{"h": login("u", secret)}, []credential.Host{"h"})
	w.failed(heldErr, want)
}

func (w *world) failed(err error, want failure) {
	w.t.Helper()
	switch text, hint := fmt.Sprint(err), problem.HintOf(err); {
	case err == nil:
		w.t.Error("it does not fail")
	case problem.KindOf(err) != want.kind || !strings.Contains(text, want.text) || !strings.Contains(hint, want.hint) || want.hint == "" && hint != "":
		w.t.Errorf("it fails with kind %s\n%s\nhint: %s\nwant kind %s\n%s\nhint: %s", problem.KindOf(err), text, hint, want.kind, want.text, want.hint)
	case errors.Is(err, credential.ErrGone) != want.gone:
		w.t.Errorf("that it is gone is %v: %v", !want.gone, err)
	case strings.Contains(text+hint, secret) || len(text) > 1000 || strings.ContainsAny(text+hint, "\n\t\x1b"):
		w.t.Errorf("this is not fit for people: %q", text)
	}
}

func forbidden() error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "pods/exec"}, "runner-0", errors.New(`User "x" cannot create resource "pods/exec"`))
}

// TestRuntimeSays is about what is said in place of running the script.
func TestRuntimeSays(t *testing.T) {
	t.Parallel()
	noShell := failure{problem.Config, "container act-runner of pod ci/runner-0 has no shell", "target kind secrets", false}
	broken := func(text string) failure {
		return failure{problem.Unreachable, text, "kubectl describe node node-7", false}
	}
	for name, c := range map[string]struct {
		faults fakekube.Faults
		want   failure
	}{
		"no shell, containerd": {fakekube.Faults{Error: errors.New(`error executing command in container: failed to exec in container: failed to start exec "f83e": OCI runtime exec failed: exec failed: unable to start container process: exec: "sh": executable file not found in $PATH: unknown`)}, noShell},
		"no shell, old runc":   {fakekube.Faults{Error: errors.New(`OCI runtime exec failed: exec failed: container_linux.go:380: starting container process caused: exec: "sh": stat sh: no such file or directory: unknown`)}, noShell},
		"no shell, crun":       {fakekube.Faults{Error: errors.New("executable file `sh` not found in $PATH: No such file or directory")}, noShell},
		"no shell, exit 126":   {fakekube.Faults{Output: &kube.Output{Code: 126, Stdout: []byte("OCI runtime exec failed")}}, noShell},
		"no shell, exit 127":   {fakekube.Faults{Output: &kube.Output{Code: 127}}, noShell},
		"forbidden":            {fakekube.Faults{Error: forbidden()}, failure{problem.Denied, `cannot create resource "pods/exec"`, "regkeeper install kubernetes", false}},
		"unauthorized":         {fakekube.Faults{Error: apierrors.NewUnauthorized("x")}, failure{problem.Denied, "exec in container act-runner", "renew", false}},
		"too many requests":    {fakekube.Faults{Error: apierrors.NewTooManyRequests("x", 1)}, failure{problem.Unreachable, "exec in container", "tried again", false}},
		"kubelet away": {fakekube.Faults{Error: apierrors.NewInternalError(errors.New("error dialing backend: dial tcp 10.0.0.7:10250: connect: no route to host"))},
			broken("no route to host")},
		"network":            {fakekube.Faults{Error: &net.OpError{Op: "read", Err: errors.New("reset")}}, broken("exec in container act-runner of pod ci/runner-0")},
		"API away":           {fakekube.Faults{Error: &net.OpError{Op: "dial", Err: errors.New("refused")}}, failure{problem.Unreachable, "exec in container act-runner of pod ci/runner-0: exec: dial: refused", "the cluster's API does not answer", false}},
		"kubelet, refused":   {fakekube.Faults{Error: apierrors.NewInternalError(&net.OpError{Op: "dial", Err: errors.New("refused")})}, broken("refused")},
		"upgrade refused":    {fakekube.Faults{Error: errors.New("unable to upgrade connection: x")}, broken("unable to upgrade connection")},
		"killed":             {fakekube.Faults{Output: &kube.Output{Code: 137, Stderr: []byte("Killed\x1b[2J\n")}}, broken("exit code 137: Killed?[2J")},
		"nothing":            {fakekube.Faults{Output: &kube.Output{}}, broken("no answer of the script")},
		"cut off":            {fakekube.Faults{Output: &kube.Output{Stdout: []byte("regkeeper-file 1\nresult read\n")}}, broken("cut off")},
		"always cut off":     {fakekube.Faults{CutStdout: 1}, broken("of the script")},
		"input always lost":  {fakekube.Faults{LoseStdin: 1}, broken("lost what was sent")},
		"hangs":              {fakekube.Faults{Hang: true}, failure{problem.Unreachable, "did not answer within 200ms", "kubectl exec -n ci runner-0 -c act-runner -- true", false}},
		"slow, but not over": {fakekube.Faults{Delay: 10 * time.Second}, failure{problem.Unreachable, "did not answer within 200ms", "look at its node", false}},
		"of another version": {fakekube.Faults{Output: &kube.Output{Stdout: []byte("regkeeper-file 1\nresult maybe\n\n\nregkeeper-end\n")}}, broken("cut off")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, home := one(t, func(config *pods.Config) {
				if c.faults.Hang || c.faults.Delay > 0 {
					config.Timeout = 200 * time.Millisecond
				}
			})
			w.executor.SetFaults(c.faults)
			w.fails(c.want)
			if _, err := os.Stat(file(home)); err == nil {
				t.Error("something was written")
			}
			w.executor.SetFaults(fakekube.Faults{})
			if c.faults.Hang || c.faults.Delay > 0 {
				return
			}
			must(t, w.Deliver(t.Context(), at, logins{"h": login("u", secret)}))
		})
	}
}

// TestAPIDoesNotAnswer: what is asked after an exec that failed tells whether the
// node is to blame, or the cluster's API.
func TestAPIDoesNotAnswer(t *testing.T) {
	t.Parallel()
	silent := failure{problem.Unreachable, "exec in container act-runner of pod ci/runner-0", "the cluster's API does not answer: it is tried again", false}
	hangs, reset := fakekube.Faults{Hang: true}, fakekube.Faults{Error: errors.New("websocket: close 1006 (abnormal closure): unexpected EOF")}
	for name, c := range map[string]struct {
		faults fakekube.Faults
		lost   error
		want   failure
	}{
		"refused":       {reset, &url.Error{Op: "Get", URL: "https://x", Err: &net.OpError{Op: "dial", Err: errors.New("refused")}}, silent},
		"hangs":         {hangs, &url.Error{Op: "Get", URL: "https://x", Err: context.DeadlineExceeded}, silent},
		"late":          {hangs, context.DeadlineExceeded, silent},
		"balancer":      {reset, apierrors.NewServiceUnavailable("x"), silent},
		"node hangs":    {hangs, nil, failure{problem.Unreachable, "did not answer within 200ms", "look at its node", false}},
		"node resets":   {reset, nil, failure{problem.Unreachable, "1006", "kubectl describe node node-7", false}},
		"may not look":  {reset, forbidden(), failure{problem.Unreachable, "1006", "kubectl describe node node-7", false}},
		"kubelet away":  {fakekube.Faults{Error: apierrors.NewInternalError(errors.New("error dialing backend"))}, context.DeadlineExceeded, failure{problem.Unreachable, "error dialing backend", "kubectl describe node node-7", false}},
		"may not exec":  {fakekube.Faults{Error: forbidden()}, context.DeadlineExceeded, failure{problem.Denied, "pods/exec", "regkeeper install kubernetes", false}},
		"node, unknown": {reset, apierrors.NewInternalError(errors.New("etcd")), failure{problem.Unreachable, "1006", "kubectl describe node node-7", false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _ := one(t, func(config *pods.Config) { config.Timeout = 200 * time.Millisecond })
			w.watched()
			w.executor.SetFaults(c.faults)
			w.api.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				return c.lost != nil, nil, c.lost
			})
			w.fails(c.want)
		})
	}
}

// TestTooLarge: what the container says of a file is bounded, and a file that is
// larger is left alone.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil)
	want := failure{problem.Damaged, file(home) + " of container act-runner of pod ci/runner-0 is too large: more than 1016 KiB", "move the file away", false}
	large := func(size int) string {
		const start, end = `{"auths":{},"x":"`, `"}`
		return start + strings.Repeat("x", size-len(start)-len(end)) + end
	}
	for _, size := range []int{kube.MaxStdout - 8<<10 - 10, kube.MaxStdout, kube.MaxStdout + 1, 3 * kube.MaxStdout} {
		text := large(size)
		write(t, file(home), text)
		before := w.executor.Count()
		w.fails(want)
		if got := w.executor.Count() - before; got != 1 {
			t.Errorf("%d bytes take %d execs", size, got)
		}
		if read(t, file(home)) != text {
			t.Errorf("a file of %d bytes was changed", size)
		}
	}
	_, err := w.Held(t.Context(), at, []credential.Host{"h"})
	w.failed(err, want)
	write(t, file(home), large(kube.MaxStdout-16<<10))
	must(t, w.Deliver(t.Context(), at, logins{"h": login("u", "p")}))
	holds(t, file(home), logins{"h": login("u", "p")})
	// A container that says anything else, without end, is no file.
	w.executor.SetFaults(fakekube.Faults{Output: &kube.Output{Stdout: []byte(strings.Repeat("y\n", kube.MaxStdout/2)), More: true}})
	w.fails(failure{problem.Unreachable, "no answer of the script", "look at the container runtime", false})
	// The head itself may be cut off.
	w.executor.SetFaults(fakekube.Faults{Output: &kube.Output{Stdout: []byte("regkeeper-file 1\nresult"), More: true}})
	w.fails(failure{problem.Damaged, "config.json of container act-runner of pod ci/runner-0 is too large", "move the file away", false})
}

// private runs what follows in a mount namespace of its own, once the commands
// are run there, with $H the home folder.
func private(t *testing.T, commands string) func(*fakekube.Container) {
	t.Helper()
	if err := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-c", "mount -t tmpfs x /mnt").Run(); err != nil {
		leaveout.Out(t, "mounts in containers", "needs the right to mount")
	}
	return func(c *fakekube.Container) {
		c.Prefix = []string{"unshare", "-m", "sh", "-c", strings.ReplaceAll(commands, "$H", c.Home) + `; exec "$@"`, "sh"}
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	readOnly := failure{problem.Storage, "ead-only file system", "mount an emptyDir at its folder", false}
	w, _ := one(t, nil, private(t, "mkdir $H/.docker; mount -t tmpfs -o ro x $H/.docker"))
	w.fails(readOnly)
	w, _ = one(t, nil, private(t, "mount -t tmpfs -o ro x $H"))
	w.fails(readOnly)
	// The content is there to be read.
	w, home := one(t, nil, private(t, "mount --bind $H/.docker $H/.docker; mount -o remount,ro,bind $H/.docker"))
	put(t, file(home), "h", login("u", "p"))
	held, err := w.Held(t.Context(), at, []credential.Host{"h"})
	if err != nil || !held["h"].Equal(login("u", "p")) {
		t.Errorf("what is mounted cannot be read: %v", err)
	}
	w.fails(readOnly)
}

func TestFileIsAMount(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil, private(t, "mount --bind $H/.docker/config.json $H/.docker/config.json"))
	put(t, file(home), "h", login("u", "p"))
	before := read(t, file(home))
	w.fails(failure{problem.Storage, "resource busy", "subPath", false})
	if after := read(t, file(home)); after != before {
		t.Errorf("the file is %s", after)
	}
	if left, _ := filepath.Glob(filepath.Dir(file(home)) + "/.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	w, _ := one(t, nil, private(t, `mkdir -p $H/.docker; mount -t tmpfs -o size=8k x $H/.docker; head -c 8192 /dev/zero >$H/.docker/big`))
	w.fails(failure{problem.Storage, "No space left", "free some space", false})
}

func TestPermissionDenied(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		leaveout.Out(t, "users of containers", "needs root")
	}
	w, _ := one(t, nil, func(c *fakekube.Container) { c.UID = 54321 })
	w.fails(failure{problem.Storage, "ermission denied", "runs as user 54321", false})
	// A file that others may not read, in a folder that they may enter.
	folder, err := os.MkdirTemp("", "") //nolint:usetesting // nobody else may enter what t.TempDir makes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	must(t, os.WriteFile(folder+"/config.json", nil, 0o600), os.Chmod(folder, 0o755))
	w, _ = one(t, func(config *pods.Config) { config.Path = folder + "/config.json" }, func(c *fakekube.Container) { c.UID = 54321 })
	w.fails(failure{problem.Storage, "ermission denied", "runs as user 54321", false})
}

func TestFileAndFolderMixedUp(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil)
	must(t, os.MkdirAll(file(home), 0o700))
	w.fails(failure{problem.Storage, "a folder stands there", "remove the folder", false})
	w, home = one(t, nil)
	must(t, os.WriteFile(filepath.Dir(file(home)), nil, 0o600))
	w.fails(failure{problem.Storage, ".docker/config.json of container act-runner of pod ci/runner-0: mkdir", "remove the file", false})
	w, home = one(t, nil)
	must(t, os.Mkdir(filepath.Dir(file(home)), 0o700), os.Symlink("config.json", file(home)))
	w.fails(failure{problem.Storage, "too many links", "ls -l", false})
}

func TestDamagedIsLeftAlone(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil)
	text := "{\n  \"auths\": {\"x\": {\"auth\": \"" + secret + "\"}},,\n}"
	write(t, file(home), text)
	want := failure{problem.Damaged, file(home) + " of container act-runner of pod ci/runner-0: broken JSON at line 2, column", "repair", false}
	w.fails(want)
	_, err := w.Held(t.Context(), at, []credential.Host{"h"})
	w.failed(err, want)
	if got := read(t, file(home)); got != text {
		t.Errorf("the file is now %s", got)
	}
}

func TestHelperInTheWay(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil)
	want := failure{problem.Config, `the credential helper "desktop" answers for h`, `"credHelpers": {"h": ""}`, false}
	write(t, file(home), `{"credsStore":"desktop"}`)
	w.fails(want)
	_, err := w.Held(t.Context(), at, []credential.Host{"h"})
	w.failed(err, want)
	if got := read(t, file(home)); got != `{"credsStore":"desktop"}` {
		t.Errorf("the file is now %s", got)
	}
	write(t, file(home), `{"credsStore":"desktop","credHelpers":{"h":""}}`)
	must(t, w.Deliver(t.Context(), at, logins{"h": login("u", "p")}))
}

// TestGone is about what goes, before an exec and during one.
func TestGone(t *testing.T) {
	t.Parallel()
	want := failure{problem.NotFound, "container act-runner of pod ci/runner-0: place is gone", "", true}
	api := func(w *world) interface {
		Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
		UpdateStatus(ctx context.Context, pod *corev1.Pod, options metav1.UpdateOptions) (*corev1.Pod, error)
	} {
		return w.api.CoreV1().Pods("ci")
	}
	for name, goes := range map[string]func(w *world){
		"pod":       func(w *world) { must(w.t, api(w).Delete(context.Background(), "runner-0", metav1.DeleteOptions{})) },
		"container": func(w *world) { w.update(state(ended("act-runner", 0)), policy(corev1.RestartPolicyNever)) },
		"ending":    func(w *world) { w.update(terminating) },
		"ended":     func(w *world) { w.update(phase(corev1.PodSucceeded)) },
		"left out":  func(w *world) { w.update(annotated(kube.Exclude, "true")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _ := one(t, nil)
			goes(w)
			w.fails(want)
			_, err := w.Held(t.Context(), at, nil)
			w.failed(err, want)
			if w.executor.Count() != 0 {
				t.Error("there was an exec in what is gone")
			}

			w, home := one(t, nil)
			w.executor.SetFaults(fakekube.Faults{During: func(kube.Command) {
				goes(w)
				w.executor.Remove(first, "act-runner")
			}})
			w.fails(want)
			if _, err := os.Stat(file(home)); err == nil {
				t.Error("the place is gone, and was written")
			}
		})
	}
	t.Run("another run", func(t *testing.T) {
		t.Parallel()
		w, _ := one(t, nil)
		w.executor.SetFaults(fakekube.Faults{During: func(kube.Command) {
			w.update(state(running("act-runner", "containerd://2")))
			w.executor.Remove(first, "act-runner")
		}})
		w.fails(failure{problem.Unreachable, "began to run anew", "tried again", false})
	})
	t.Run("never there", func(t *testing.T) {
		t.Parallel()
		w, _ := one(t, nil)
		for _, place := range []credential.Place{"ci/runner-1/act-runner", "ci/runner-0/dind", "ci/runner-0", "x", ""} {
			if _, err := w.Held(t.Context(), place, nil); !errors.Is(err, credential.ErrGone) {
				t.Errorf("%q: %v", place, err)
			}
		}
	})
}

// update changes the pod in the cluster.
func (w *world) update(changes ...func(*corev1.Pod)) {
	w.t.Helper()
	ctx := context.Background()
	pod, err := w.api.CoreV1().Pods("ci").Get(ctx, "runner-0", metav1.GetOptions{})
	must(w.t, err)
	_, err = w.api.CoreV1().Pods("ci").Update(ctx, with(pod, changes...), metav1.UpdateOptions{})
	must(w.t, err)
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	w, _ := one(t, nil)
	w.executor.SetFaults(fakekube.Faults{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	err := w.Deliver(ctx, at, logins{"h": login("u", secret)})
	if !errors.Is(err, context.Canceled) || time.Since(began) > 5*time.Second {
		t.Errorf("Deliver says %v after %s", err, time.Since(began))
	}
	if events := w.events(); len(events) > 0 {
		t.Errorf("events are made: %v", events)
	}
}

// TestNoSecretLeaves looks at all that is seen by others.
func TestNoSecretLeaves(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil)
	w.executor.Keep()
	put(t, file(home), "other.example", login("other", secret))
	for n, faults := range []fakekube.Faults{
		{}, {LoseStdin: 1}, {CutStdout: 1}, {Error: forbidden()}, {Output: &kube.Output{Code: 1}},
		{During: func(kube.Command) { put(t, file(home), "x.example", login(time.Now().String(), secret)) }},
	} {
		w.executor.SetFaults(faults)
		l := logins{"h": login("u", fmt.Sprint(secret, n))}
		if err := w.Deliver(t.Context(), at, l); strings.Contains(fmt.Sprintf("%v %+v %#v %s", err, err, err, problem.HintOf(err)), secret) {
			t.Errorf("an error tells the secret: %v", err)
		}
	}
	w.executor.SetFaults(fakekube.Faults{})
	write(t, file(home), `{"auths":`+secret)
	_, err := w.Held(t.Context(), at, nil)
	if strings.Contains(fmt.Sprint(err), secret) {
		t.Errorf("an error tells the secret: %v", err)
	}
	stdin := 0
	for _, command := range w.executor.Commands() {
		if argv := strings.Join(command.Argv, " "); strings.Contains(argv, secret) {
			t.Errorf("the arguments tell the secret: %s", argv)
		}
		if command.Stdin != nil {
			stdin++
		}
	}
	if stdin == 0 {
		t.Error("nothing was sent")
	}
	for _, event := range w.events() {
		if strings.Contains(event, secret) {
			t.Errorf("an event tells the secret: %s", event)
		}
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil)
	hosts := []credential.Host{"gitea.example.com"}
	want := logins{"gitea.example.com": login("u", secret)}
	for range 3 {
		if _, err := w.DeliverConfirmed(t.Context(), at, want, hosts); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Held(t.Context(), at, hosts); err != nil {
			t.Fatal(err)
		}
	}
	write(t, file(home), `{"credsStore":"desktop"}`)
	if _, err := w.Held(t.Context(), at, hosts); err == nil {
		t.Error("Held does not fail")
	}
	w.executor.SetFaults(fakekube.Faults{Error: forbidden()})
	if err := w.Deliver(t.Context(), at, want); err == nil {
		t.Error("Deliver does not fail")
	}
	events := w.events()
	if len(events) != 2 {
		t.Fatalf("events are %q", events)
	}
	prefix := "Normal LoginDelivered Pod runner-0 spec.containers{act-runner}: login for gitea.example.com written to " + file(home) + " of container act-runner in "
	if !strings.HasPrefix(events[0], prefix) || !strings.HasSuffix(events[0], "s") {
		t.Errorf("event is %q, want %q…", events[0], prefix)
	}
	if !strings.HasPrefix(events[1], "Warning LoginNotDelivered Pod runner-0 spec.containers{act-runner}: exec in container act-runner of pod ci/runner-0: ") {
		t.Errorf("event is %q", events[1])
	}
}

// TestEveryCutIsSeen cuts a true answer at each byte.
func TestEveryCutIsSeen(t *testing.T) {
	t.Parallel()
	w, _ := one(t, nil)
	must(t, w.Deliver(t.Context(), at, logins{"h": login("u", "p")}))
	w.executor.Keep()
	if _, err := w.Held(t.Context(), at, nil); err != nil {
		t.Fatal(err)
	}
	whole, err := w.executor.Exec(t.Context(), w.executor.Commands()[0])
	must(t, err)
	for n := range whole.Stdout {
		w.executor.SetFaults(fakekube.Faults{Output: &kube.Output{Stdout: whole.Stdout[:n]}})
		if _, err := w.Held(t.Context(), at, nil); problem.KindOf(err) != problem.Unreachable {
			t.Fatalf("an answer cut after %d bytes gives %v", n, err)
		}
		changed := append([]byte(nil), whole.Stdout...)
		changed[n] ^= 1
		w.executor.SetFaults(fakekube.Faults{Output: &kube.Output{Stdout: changed}})
		held, err := w.Held(t.Context(), at, []credential.Host{"h"})
		if err == nil && !held["h"].Equal(login("u", "p")) {
			t.Fatalf("an answer changed at byte %d gives another login", n)
		}
	}
	w.executor.SetFaults(fakekube.Faults{Output: &kube.Output{Stdout: append([]byte("a profile says hello\n"), whole.Stdout...)}})
	if held, err := w.Held(t.Context(), at, []credential.Host{"h"}); err != nil || !held["h"].Equal(login("u", "p")) {
		t.Errorf("words before an answer give %v", err)
	}
}

// FuzzAnswer has a container say anything.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"", "regkeeper-file 1\n", "regkeeper-file 1\nresult read\nfile none\n\n\nregkeeper-end\n",
		"regkeeper-file 1\nresult read\nuid 0\npath /x\nsum cksum\nfile 2 3956903203\nwhy \n\n{}\nregkeeper-end\n",
		"regkeeper-file 1\nresult written\nuid 0\npath /x\nsum sha256sum\nfile 2 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\nwhy \n\n{}\nregkeeper-end\n",
		"regkeeper-file 1\nresult changed\nfile none\n\n\nregkeeper-end\n", "regkeeper-file 1\nresult lost\nfile none\n\n\nregkeeper-end\n",
		"x\nregkeeper-file 1\nresult failed\nuid 7\npath /x\nwhy write sh: can't create /x: Read-only file system\n\n\nregkeeper-end\n",
	} {
		f.Add([]byte(text), 0)
		f.Add([]byte(text), 127)
	}
	w, _ := one(f, func(config *pods.Config) { config.Cluster.Recorder = nil })
	f.Fuzz(func(t *testing.T, stdout []byte, code int) {
		w.executor.SetFaults(fakekube.Faults{Output: &kube.Output{Stdout: stdout, Code: code}})
		_, err := w.Held(t.Context(), at, []credential.Host{"h"})
		if err == nil && (!strings.Contains(string(stdout), "regkeeper-file 1\n") || !strings.HasSuffix(string(stdout), "\nregkeeper-end\n")) {
			t.Errorf("%q is taken for an answer", stdout)
		}
		if strings.ContainsAny(fmt.Sprint(err, problem.HintOf(err)), "\n\x1b") {
			t.Errorf("%q puts control characters before people: %q", stdout, err)
		}
		if err := w.Deliver(t.Context(), at, logins{"h": login("u", secret)}); err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%q has an error tell the secret: %q", stdout, err)
		}
	})
}
