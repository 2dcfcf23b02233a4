package e2e_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	apis "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// fleet is a control plane with many namespaces that are served.
type fleet struct {
	*kubernetes.Cluster
	t      testing.TB
	client apis.Interface
	names  []string
	// source is the namespace of the Secret with the login.
	source string
	p      *product
	daemon *process.Process
	// arrived is told of each delivered Secret, as the cluster's watch is.
	mu      sync.Mutex
	arrived map[string]arrival
}

// arrival is what a delivered Secret holds, and since when.
type arrival struct {
	at   time.Time
	auth string
	uid  types.UID
}

const (
	fleetHost   = "registry.example.com"
	fleetSecret = "regkeeper-pull"
)

// free is a client without a limit of its own.
func free(t testing.TB, c *kubernetes.Cluster) apis.Interface {
	t.Helper()
	access := rest.CopyConfig(c.Config())
	access.QPS, access.UserAgent = -1, "bench"
	client, err := apis.NewForConfig(access)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func newFleet(t testing.TB, n int, targets string) *fleet {
	t.Helper()
	c := kubernetes.Start(t, kubernetes.Options{Audit: true})
	f := &fleet{Cluster: c, t: t, client: free(t, c), source: "source", arrived: map[string]arrival{}}
	f.namespace("source", nil)
	f.login("first")
	f.each(n, 64, func(i int) error {
		f.namespace(fmt.Sprintf("team-%04d", i), nil)
		return nil
	})
	for i := range n {
		f.names = append(f.names, fmt.Sprintf("team-%04d", i))
	}
	f.watch()
	if targets == "" {
		targets = fmt.Sprintf("  - name: cluster\n    secrets: {name: %s, namespaces: [\"team-*\"], serviceAccounts: [default]}\n", fleetSecret)
	}
	f.p = newProduct(t, fmt.Sprintf(`
registries:
  - host: %s
    source: {static: {username: bot, password: {secret: source/login/password}}}
    verify: false
targets:
%sserve: {health: {listen: "127.0.0.1:0"}}
state: {secret: {namespace: source}}
`, fleetHost, targets), "KUBECONFIG="+c.Kubeconfig())
	return f
}

// each does something n times, so many at once.
func (f *fleet) each(n, atOnce int, do func(i int) error) {
	f.t.Helper()
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	if err := group.Wait(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) namespace(name string, labels map[string]string) {
	f.t.Helper()
	if _, err := f.client.CoreV1().Namespaces().Create(f.t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		f.t.Error(err)
	}
}

// login changes the login at its origin.
func (f *fleet) login(password string) {
	f.t.Helper()
	_, err := f.client.CoreV1().Secrets(f.source).Apply(f.t.Context(),
		applycore.Secret("login", f.source).WithStringData(map[string]string{"password": password}), metav1.ApplyOptions{FieldManager: "test"})
	if err != nil {
		f.t.Fatal(err)
	}
}

func auth(password string) string {
	return base64.StdEncoding.EncodeToString([]byte("bot:" + password))
}

// watch notes when the delivered Secrets arrive.
func (f *fleet) watch() {
	f.t.Helper()
	secrets := f.client.CoreV1().Secrets("")
	options := func(o metav1.ListOptions) metav1.ListOptions {
		o.FieldSelector = "metadata.name=" + fleetSecret
		return o
	}
	note := func(object any, gone bool) {
		secret, ok := object.(*corev1.Secret)
		if !ok {
			return
		}
		a := arrival{at: time.Now(), uid: secret.UID}
		if _, text, ok := strings.Cut(string(secret.Data[corev1.DockerConfigJsonKey]), `"auth":`); ok && !gone {
			a.auth = strings.SplitN(strings.TrimSpace(text), `"`, 3)[1]
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.arrived[secret.Namespace] = a
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return secrets.List(ctx, options(o))
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return secrets.Watch(ctx, options(o))
			},
		},
		ObjectType: &corev1.Secret{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(after any) { note(after, false) },
			UpdateFunc: func(_, after any) { note(after, false) },
			DeleteFunc: func(before any) { note(before, true) },
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	go informer.RunWithContext(ctx)
}

// last waits until all the namespaces hold a login, and says when the last did.
func (f *fleet) last(password string, names ...string) (at time.Time) {
	f.t.Helper()
	eventually(f.t, 3*time.Minute, "the login "+password, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		at = time.Time{}
		for _, name := range names {
			a := f.arrived[name]
			if a.auth != auth(password) {
				return fmt.Errorf("%s holds %q", name, a.auth)
			}
			if a.at.After(at) {
				at = a.at
			}
		}
		return nil
	})
	return at
}

func (f *fleet) uids() map[string]types.UID {
	f.mu.Lock()
	defer f.mu.Unlock()
	uids := map[string]types.UID{}
	for name, a := range f.arrived {
		uids[name] = a.uid
	}
	return uids
}

// memory is a line of the daemon's /proc/PID/status, in MiB.
func (f *fleet) memory(line string) float64 {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(f.daemon.PID()), "status"))
	if err != nil {
		f.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), line+":")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		f.t.Fatal(err)
	}
	return kib / 1024
}

// cpu is how long the daemon has computed.
func (f *fleet) cpu() time.Duration {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(f.daemon.PID()), "stat"))
	if err != nil {
		f.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var ticks int
	for _, i := range []int{11, 12} { // utime and stime (proc_pid_stat(5)), which tick 100 times a second
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			f.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// ceiling is how long bare client-go takes for the patches of a rotation, with
// 16 workers and nothing else to do.
func (f *fleet) ceiling(password string) time.Duration {
	f.t.Helper()
	data := []byte(`{"auths":{"` + fleetHost + `":{"auth":"` + auth(password) + `"}}}`)
	began := time.Now()
	f.each(len(f.names), 16, func(i int) error {
		_, err := f.client.CoreV1().Secrets(f.names[i]).Apply(f.t.Context(), applycore.Secret("bare", f.names[i]).
			WithType(corev1.SecretTypeDockerConfigJson).WithData(map[string][]byte{corev1.DockerConfigJsonKey: data}),
			metav1.ApplyOptions{FieldManager: "bench", Force: true})
		return err
	})
	return time.Since(began)
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

// BenchmarkFanOut rotates one login into so many namespaces, their default
// ServiceAccounts attached, against the same patches by bare client-go.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{200, 1000, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			f := newFleet(b, n, "")
			f.ceiling("made") // the Secrets are made; what follows patches them
			f.daemon = process.Start(b, f.p.command("up"))
			began := time.Now()
			cold := f.last("first", f.names...).Sub(began)
			f.daemon.Until(b, time.Minute, "ready", func() bool { return f.p.status().Ready })
			uids := f.uids()
			var ratios []float64
			var took, ceilings []time.Duration
			var writes, requests int
			cpu := f.cpu()
			for i := range 3 {
				ceiling := f.ceiling(fmt.Sprint("bare-", i))
				mark := f.Mark(b)
				password := fmt.Sprint("rotated-", i)
				began := time.Now()
				f.login(password)
				last := f.last(password, f.names...).Sub(began)
				took, ceilings = append(took, last), append(ceilings, ceiling)
				ratios = append(ratios, float64(last)/float64(ceiling))
				eventually(b, 10*time.Second, "the record", func() error {
					all := f.Requests(b, mark)
					writes = kubernetes.Count(all, kubernetes.Request{UserAgent: "regkeeper", Verb: "patch", Resource: "secrets"})
					requests = kubernetes.Count(all, kubernetes.Request{UserAgent: "regkeeper"})
					if writes < n {
						return fmt.Errorf("%d writes", writes)
					}
					return nil
				})
				if deletes := kubernetes.Count(f.Requests(b, mark), kubernetes.Request{UserAgent: "regkeeper", Verb: "delete"}); deletes != 0 || writes != n {
					b.Errorf("%d writes and %d deletes for %d Secrets", writes, deletes, n)
				}
			}
			for name, uid := range f.uids() {
				if uids[name] != uid {
					b.Errorf("%s was made anew", name)
				}
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[1], "x-ceiling")
			b.ReportMetric(median(took).Seconds()*1000, "ms-last")
			b.ReportMetric(median(ceilings).Seconds()*1000, "ms-ceiling")
			b.ReportMetric(cold.Seconds()*1000, "ms-cold")
			b.ReportMetric(float64(requests)/float64(n), "requests/secret")
			b.ReportMetric((f.cpu()-cpu).Seconds()*1000/3, "ms-cpu/rotation")
			b.ReportMetric(f.memory("VmHWM"), "MiB-peak")
			b.ReportMetric(f.memory("VmRSS"), "MiB-after")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkHealing measures how soon what changed is served: a namespace that
// comes, a Secret that is edited, one that is deleted.
func BenchmarkHealing(b *testing.B) {
	f := newFleet(b, 50, "")
	f.daemon = process.Start(b, f.p.command("up"))
	f.last("first", f.names...)
	f.daemon.Until(b, time.Minute, "ready", func() bool { return f.p.status().Ready })
	measure := func(what string, do func(i int) (name string)) {
		var took []time.Duration
		for i := range 21 {
			began := time.Now()
			name := do(i)
			took = append(took, f.last("first", name).Sub(began))
		}
		b.ReportMetric(median(took).Seconds()*1000, "ms-"+what)
		b.ReportMetric(took[len(took)-1].Seconds()*1000, "ms-"+what+"-worst")
	}
	measure("namespace", func(i int) string {
		name := fmt.Sprintf("team-late-%d", i)
		f.namespace(name, nil)
		return name
	})
	measure("edited", func(i int) string {
		name := f.names[i]
		f.forget(name)
		_, err := f.client.CoreV1().Secrets(name).Patch(b.Context(), fleetSecret, types.MergePatchType,
			[]byte(`{"data":{".dockerconfigjson":"e30="}}`), metav1.PatchOptions{FieldManager: "someone"})
		if err != nil {
			b.Fatal(err)
		}
		return name
	})
	measure("deleted", func(i int) string {
		name := f.names[i+21]
		f.forget(name)
		if err := f.client.CoreV1().Secrets(name).Delete(b.Context(), fleetSecret, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		return name
	})
	b.ReportMetric(0, "ns/op")
}

// forget forgets what a namespace holds, so that the next arrival counts.
func (f *fleet) forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.arrived, name)
}

// BenchmarkClusterMemory measures what the daemon holds resident in clusters
// that have much which is not its own, and in clusters in which much is.
func BenchmarkClusterMemory(b *testing.B) {
	b.Run("3000Foreign", func(b *testing.B) {
		f := newFleet(b, 10, "")
		large := map[string][]byte{"large": []byte(strings.Repeat("x", 20<<10))}
		f.each(3000, 16, func(i int) error {
			_, err := f.client.CoreV1().Secrets(f.names[i%10]).Create(b.Context(), &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("large-%d", i)}, Data: large,
			}, metav1.CreateOptions{})
			return err
		})
		f.daemon = process.Start(b, f.p.command("up"))
		f.last("first", f.names...)
		f.daemon.Until(b, time.Minute, "ready", func() bool { return f.p.status().Ready })
		f.rests()
		f.report()
	})
	b.Run("5000SecretsAndPods", func(b *testing.B) {
		f := newFleet(b, 5000, fmt.Sprintf(`  - name: cluster
    secrets: {name: %s, namespaces: ["team-*"], serviceAccounts: [default], evict: true}
  - name: runners
    pods: {selector: app=runner}
`, fleetSecret))
		f.each(5000, 16, func(i int) error {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: "runner", Labels: map[string]string{"app": "runner"}},
				Spec: corev1.PodSpec{
					NodeSelector: map[string]string{"no": "node"},
					Containers:   []corev1.Container{{Name: "runner", Image: fleetHost + "/team/app:1"}},
				},
			}
			// Its ServiceAccount may not have been made yet.
			return within(time.Minute, func() error {
				_, err := f.client.CoreV1().Pods(f.names[i]).Create(b.Context(), pod, metav1.CreateOptions{})
				return err
			})
		})
		f.daemon = process.Start(b, f.p.command("up"))
		f.last("first", f.names...)
		f.login("second")
		f.last("second", f.names...)
		// With pods that no node runs, the target of pods has no place, and the
		// daemon is never ready: it is at rest when it computes no more.
		f.rests()
		f.report()
	})
}

// rests waits until the daemon has computed nothing for a while, and has given
// memory back that it does not use.
func (f *fleet) rests() {
	f.t.Helper()
	cpu, since := f.cpu(), time.Now()
	eventually(f.t, 3*time.Minute, "the daemon at rest", func() error {
		if now := f.cpu(); now > cpu+20*time.Millisecond {
			cpu, since = now, time.Now()
		}
		if rest := time.Since(since); rest < 5*time.Second {
			return fmt.Errorf("it has computed %v ago", rest)
		}
		return nil
	})
}

func (f *fleet) report() {
	f.t.Helper()
	b := f.t.(*testing.B)
	b.ReportMetric(f.memory("VmRSS"), "MiB")
	b.ReportMetric(f.memory("RssAnon"), "MiB-own")
	b.ReportMetric(f.memory("RssFile"), "MiB-program")
	b.ReportMetric(f.memory("VmHWM"), "MiB-peak")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRunnerPods logs so many runner pods in: a whole run of regkeeper,
// its start included, against the script of the hourly CronJob that people use
// today, which runs `kubectl exec` once for each pod and writes the login by
// echo.
func BenchmarkRunnerPods(b *testing.B) {
	const n = 20
	c := kubernetes.Start(b, kubernetes.Options{Node: true})
	c.Load(b, busyboxImage, busybox.Image(b))
	ns := c.Namespace(b)
	var names []string
	for i := range n {
		pod := kubernetes.Sleeper(ns, fmt.Sprintf("runner-%d", i), busyboxImage)
		pod.Labels = map[string]string{"app": "runner"}
		c.Run(b, pod)
		names = append(names, pod.Name)
	}
	p := newProduct(b, fmt.Sprintf(`
registries:
  - host: %s
    source: {static: {username: bot, password: {env: PASSWORD}}}
    verify: false
targets:
  - name: runners
    pods: {namespace: %s, selector: app=runner, path: /root/.docker/config.json}
`, fleetHost, ns), "KUBECONFIG="+c.Kubeconfig(), "PASSWORD=one")
	script := func() time.Duration {
		began := time.Now()
		found := c.Kubectl(b, "get", "pods", "-n", ns, "-l", "app=runner", "-o", "jsonpath={.items[*].metadata.name}")
		for _, pod := range strings.Fields(found) {
			c.Kubectl(b, "exec", "-n", ns, pod, "--", "sh", "-c",
				`mkdir -p /root/.docker && echo '{"auths":{"`+fleetHost+`":{"auth":"`+auth("one")+`"}}}' > /root/.docker/config.json`)
		}
		return time.Since(began)
	}
	pass := func() time.Duration {
		began := time.Now()
		p.must("sync")
		return time.Since(began)
	}
	wipe := func() {
		for _, pod := range names {
			if _, diag, err := c.Exec(b.Context(), ns, pod, "main", nil, "rm", "-rf", "/root/.docker"); err != nil {
				b.Fatal(err, diag)
			}
		}
	}
	var first, idle, theirs []time.Duration
	for range 3 {
		wipe()
		theirs = append(theirs, script())
		wipe()
		first = append(first, pass())
		idle = append(idle, pass())
	}
	b.ReportMetric(float64(median(first))/float64(median(theirs)), "x-script")
	b.ReportMetric(float64(median(idle))/float64(median(theirs)), "x-script-unchanged")
	b.ReportMetric(median(first).Seconds()*1000, "ms-pass")
	b.ReportMetric(median(idle).Seconds()*1000, "ms-unchanged")
	b.ReportMetric(median(theirs).Seconds()*1000, "ms-script")
	b.ReportMetric(0, "ns/op")
}
