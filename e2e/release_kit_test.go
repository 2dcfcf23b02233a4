package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/buildx"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/release"
	"github.com/regkeeper/regkeeper/release/rollout"
)

// The programs of the application that is released, and the tag of what ran
// before the first release.
var programs = []string{"admin", "api", "worker"}

const formerTag = "237c6b8"

// usersDocker is the config.json of whoever releases.
const usersDocker = `{
	"auths": {"registry.example.test": {"auth": "bWU6bWluZQ=="}},
	"detachKeys": "ctrl-e,e"
}
`

// application is a git clone of an application with three programs, the
// regkeeper that releases it, and the Deployments that run it.
type application struct {
	*product
	c         *kubernetes.Cluster
	namespace string
	builds    string // settings of the builder
	// registry and owner are where its images are, login pulls and pushes there.
	registry, owner string
	login           *authn.Basic
	temp            string        // folder for temporary files
	cloning         time.Duration // what git took
}

// newApplication makes its namespace, and whoever releases: a home with docker
// and its plugin buildx.
func newApplication(t testing.TB, c *kubernetes.Cluster, namespace string, env ...string) *application {
	t.Helper()
	peers.Need(t, "git", "docker")
	temp := t.TempDir()
	a := &application{
		product: newProduct(t, "", append(env, "KUBECONFIG="+c.Kubeconfig(), "TMPDIR="+temp)...),
		c:       c, namespace: namespace, owner: "honeydue", temp: temp,
	}
	plugins := filepath.Join(a.home, ".docker", "cli-plugins")
	err := errors.Join(os.MkdirAll(plugins, 0o700), os.Symlink(build.Go(t, buildx.Tool).Path, filepath.Join(plugins, "docker-buildx")))
	if err != nil {
		t.Fatal(err)
	}
	writeText(t, a.dockerConfig(), usersDocker)

	namespaces := c.Client().CoreV1().Namespaces()
	if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespaces.Delete(context.Background(), namespace, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete namespace: %v", err)
		}
	})
	eventually(t, time.Minute, "default ServiceAccount", func() error {
		_, err := c.Client().CoreV1().ServiceAccounts(namespace).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return a
}

// byBuildx has it built by docker buildx, which makes a builder of that name.
func (a *application) byBuildx(builder *buildx.Builder) {
	a.builds = fmt.Sprintf("name: honeydue-builder, driver: remote, endpoint: %q", builder.Address)
}

// byBuildctl has it built by BuildKit's own command, without docker.
func (a *application) byBuildctl(builder *buildx.Builder) {
	a.t.Helper()
	programs := a.t.TempDir()
	if err := os.Symlink(build.Go(a.t, buildx.ClientTool).Path, filepath.Join(programs, "buildctl")); err != nil {
		a.t.Fatal(err)
	}
	a.env = append(a.env, "PATH="+programs+":"+os.Getenv("PATH"))
	a.builds = fmt.Sprintf("buildkit: %q", builder.Address)
}

func (a *application) dockerConfig() string { return filepath.Join(a.home, ".docker", "config.json") }

// repository is that of a program.
func (a *application) repository(program string) string {
	return a.registry + "/" + a.owner + "/honeydue-" + program
}

// at are the images of the programs with a tag.
func (a *application) at(tag string) map[string]string {
	images := map[string]string{}
	for _, program := range programs {
		images[program] = a.repository(program) + ":" + tag
	}
	return images
}

// releases is the part of a configuration that tells of the application. The
// settings are added to those of each item.
func (a *application) releases(settings ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `releases:
  env: [deploy/registry.env, deploy/cluster.env]
  builder: {%s}
  timeout: 2m
  failing: 3s
  items:
`, a.builds)
	for _, program := range programs {
		fmt.Fprintf(&b, "    - name: %s\n      repository: honeydue-%[1]s\n      target: %[1]s\n      sbom: \"false\"\n", program)
		for _, setting := range settings {
			fmt.Fprintf(&b, "      %s\n", setting)
		}
		fmt.Fprintf(&b, "      workloads: [{namespace: %s, name: deployment/%s}]\n", a.namespace, program)
	}
	return b.String()
}

// clone commits the files to a repository, and clones that to where regkeeper
// works. The files of variables are the clone's alone, but for those that
// anybody may see.
func (a *application) clone(files map[string]string, token string) {
	a.t.Helper()
	all := map[string]string{
		".gitignore":         "/regkeeper-data/\n",
		".dockerignore":      "/.git\n/regkeeper-data\n/deploy\n",
		"deploy/.gitignore":  "registry.env\n",
		"deploy/cluster.env": "PUSH_LATEST_TAG=false\n",
	}
	maps.Copy(all, files)
	origin := a.t.TempDir()
	writeAll(a.t, origin, all)
	gitIn(a.t, origin, "init", "--quiet", "--initial-branch=main")
	gitIn(a.t, origin, "add", "--all")
	gitIn(a.t, origin, "commit", "--quiet", "--message=first")
	began := time.Now()
	// git clones to no folder that anything is in, as an embedded registry may be.
	clone := filepath.Join(a.t.TempDir(), "clone")
	gitIn(a.t, a.dir, "clone", "--quiet", "--no-checkout", origin, clone)
	if err := os.Rename(filepath.Join(clone, ".git"), filepath.Join(a.dir, ".git")); err != nil {
		a.t.Fatal(err)
	}
	gitIn(a.t, a.dir, "checkout", "--quiet", "main")
	a.cloning = time.Since(began)
	writeText(a.t, filepath.Join(a.dir, "deploy", "registry.env"),
		fmt.Sprintf("REGISTRY=%s\nREGISTRY_NAMESPACE=%s\nREGISTRY_USERNAME=%[2]s\nREGISTRY_TOKEN=%[3]s\n", a.registry, a.owner, token))
}

// commit commits changes of files, and returns the tag of the commit.
func (a *application) commit(files map[string]string) string {
	a.t.Helper()
	writeAll(a.t, a.dir, files)
	gitIn(a.t, a.dir, "commit", "--quiet", "--all", "--message=change")
	return a.head()
}

func (a *application) head() string {
	a.t.Helper()
	return gitIn(a.t, a.dir, "rev-parse", "--short", "HEAD")
}

func writeAll(t testing.TB, folder string, files map[string]string) {
	t.Helper()
	for path, text := range files {
		path = filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		writeText(t, path, text)
	}
}

// gitIn runs git with nothing of the caller's configuration.
func gitIn(t testing.TB, folder string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=dev", "-c", "user.email=dev@example.test"}, args...)...)
	cmd.Dir = folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "GIT_CONFIG_NOSYSTEM=1"}
	out, err := process.Output(t.Context(), cmd)
	if err != nil {
		t.Fatalf("git %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

// push pushes an image as someone else would.
func (a *application) push(ref string, img v1.Image) {
	a.t.Helper()
	tag, err := name.NewTag(ref)
	if err == nil {
		err = remote.Write(tag, img, remote.WithAuth(a.login), remote.WithContext(a.t.Context()))
	}
	if err != nil {
		a.t.Fatalf("push %s: %v", ref, err)
	}
}

// runsFormer makes a Deployment of each program, which runs an image that was
// pushed by hand, and waits for their pods.
func (a *application) runsFormer(probe *corev1.Probe) {
	a.t.Helper()
	former := a.at(formerTag)
	for _, program := range programs {
		files := map[string]string{"ready": "#!/bin/sh\n"}
		a.push(former[program], busybox.New(a.t, busybox.Spec{Mark: former[program], Cmd: []string{"sleep", "2147483647"}, Programs: files}))
		labels := map[string]string{"app": program}
		grace := int64(1)
		_, err := a.c.Client().AppsV1().Deployments(a.namespace).Create(a.t.Context(), &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: program},
			Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{
						TerminationGracePeriodSeconds: &grace,
						Containers:                    []corev1.Container{{Name: program, Image: former[program], ReadinessProbe: probe}},
					},
				},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			a.t.Fatal(err)
		}
	}
	a.awaitRuns(former)
}

// set are the images that the Deployments are to have.
func (a *application) set() map[string]string {
	a.t.Helper()
	list, err := a.c.Client().AppsV1().Deployments(a.namespace).List(a.t.Context(), metav1.ListOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	images := map[string]string{}
	for _, d := range list.Items {
		images[d.Name] = d.Spec.Template.Spec.Containers[0].Image
	}
	return images
}

// notes are what releases have written on the Deployments.
func (a *application) notes() map[string]map[string]string {
	a.t.Helper()
	list, err := a.c.Client().AppsV1().Deployments(a.namespace).List(a.t.Context(), metav1.ListOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	all := map[string]map[string]string{}
	for _, d := range list.Items {
		all[d.Name] = map[string]string{}
		for _, key := range []string{rollout.Cause, rollout.Commit, rollout.Digest} {
			if value := d.Annotations[key]; value != "" {
				all[d.Name][key] = value
			}
		}
	}
	return all
}

// running is nil if each Deployment has one pod, with its image and ready, and
// no other.
func (a *application) running(images map[string]string) error {
	pods, err := a.c.Client().CoreV1().Pods(a.namespace).List(a.t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	got := map[string]string{}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp != nil {
			continue
		}
		program := pod.Labels["app"]
		if other := got[program]; other != "" {
			return fmt.Errorf("two pods of %s: %s and %s", program, other, pod.Name)
		}
		got[program] = pod.Spec.Containers[0].Image
		if len(pod.Status.ContainerStatuses) == 0 || !pod.Status.ContainerStatuses[0].Ready {
			return fmt.Errorf("pod %s is not ready: %+v", pod.Name, pod.Status.ContainerStatuses)
		}
	}
	if diff := cmp.Diff(images, got); diff != "" {
		return fmt.Errorf("images of the pods (-want +got):\n%s", diff)
	}
	return nil
}

func (a *application) awaitRuns(images map[string]string) {
	a.t.Helper()
	eventually(a.t, time.Minute, "pods to run", func() error { return a.running(images) })
}

// pod is the pod of a program.
func (a *application) pod(program string) corev1.Pod {
	a.t.Helper()
	pods, err := a.c.Client().CoreV1().Pods(a.namespace).List(a.t.Context(), metav1.ListOptions{LabelSelector: "app=" + program})
	if err != nil {
		a.t.Fatal(err)
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if len(pods.Items) != 1 {
		a.t.Fatalf("%d pods of %s", len(pods.Items), program)
	}
	return pods.Items[0]
}

// tags lists those of a program's repository.
func (a *application) tags(program string) []string {
	a.t.Helper()
	repository, err := name.NewRepository(a.repository(program))
	if err != nil {
		a.t.Fatal(err)
	}
	tags, err := remote.List(repository, remote.WithAuth(a.login), remote.WithContext(a.t.Context()))
	if err != nil {
		a.t.Fatal(err)
	}
	slices.Sort(tags)
	return tags
}

// digest asks where a tag leads.
func (a *application) digest(ref string) string {
	a.t.Helper()
	image, err := name.ParseReference(ref)
	if err != nil {
		a.t.Fatal(err)
	}
	found, err := remote.Head(image, remote.WithAuth(a.login), remote.WithContext(a.t.Context()))
	if err != nil {
		a.t.Fatal(err)
	}
	return found.Digest.String()
}

// leavesNothing wants the folder for temporary files to be empty, and the user's
// config.json to be as it was.
func (a *application) leavesNothing() {
	a.t.Helper()
	entries, err := os.ReadDir(a.temp)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, entry := range entries {
		a.t.Errorf("left among the temporary files: %s", entry.Name())
	}
	text, err := os.ReadFile(a.dockerConfig())
	if err != nil || string(text) != usersDocker {
		a.t.Errorf("config.json of the user is %s, %v", text, err)
	}
}

// records are those of the data folder, of the last items.
func (a *application) records(last int) []release.Record {
	a.t.Helper()
	all := decode[[]release.Record](a.t, a.must("release", "list", "-o", "json"))
	return all[max(0, len(all)-last):]
}

// timed releases all, and tells when each step began and how long the whole took.
func (a *application) timed(what string, args ...string) {
	a.t.Helper()
	steps := &stepTimes{began: time.Now()}
	cmd := a.command(append([]string{"release", "--all"}, args...)...)
	cmd.Stdout, cmd.Stderr = steps, steps
	if err := process.Run(a.t.Context(), cmd); err != nil {
		a.t.Fatalf("%s: %v\n%s", what, err, steps.text.String())
	}
	a.t.Logf("%s: git %v, %sended at %v", what, a.cloning.Round(time.Millisecond), steps.told.String(), time.Since(steps.began).Round(10*time.Millisecond))
}

// stepTimes notes when each step of a release, and each item of it, is first told
// of.
type stepTimes struct {
	began      time.Time
	text, told strings.Builder
	seen       []string
	part       string
}

func (s *stepTimes) Write(text []byte) (int, error) {
	s.text.Write(text)
	s.part += string(text)
	for {
		line, rest, ended := strings.Cut(s.part, "\n")
		if !ended {
			return len(text), nil
		}
		s.part = rest
		// Steps are told of as "build api: ...".
		step, _, ok := strings.Cut(line, ": ")
		if first, _, _ := strings.Cut(step, " "); !ok || !slices.Contains([]string{"build", "wait", "deploy", "watch"}, first) || slices.Contains(s.seen, step) {
			continue
		}
		s.seen = append(s.seen, step)
		fmt.Fprintf(&s.told, "%s at %v, ", step, time.Since(s.began).Round(10*time.Millisecond))
	}
}

// endings are "item outcome tag" of records, sorted.
func endings(records []release.Record) []string {
	list := []string{}
	for _, r := range records {
		list = append(list, fmt.Sprintf("%s %s %s", r.Item, r.Outcome, r.Reference.Tag))
	}
	slices.Sort(list)
	return list
}

// each is a line for each program.
func each(format string, args ...any) (list []string) {
	for _, program := range programs {
		list = append(list, program+" "+fmt.Sprintf(format, args...))
	}
	return list
}

// golang is an image to build with: busybox, and what of this machine's Go is
// needed to build the packages for the architectures.
func golang(t testing.TB, module string, architectures ...string) v1.Image {
	t.Helper()
	peers.Need(t, "go")
	env := func(names ...string) []string {
		cmd := exec.Command("go", append([]string{"env"}, names...)...)
		out, err := process.Output(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(out), "\n")
	}
	where := env("GOROOT", "GOTOOLDIR")
	root, tools := where[0], where[1]
	// The runtime's assembly includes files of the last, also without cgo.
	folders := map[string]bool{filepath.Join(root, "pkg", "include"): true, filepath.Join(root, "src", "runtime", "cgo"): true}
	for _, architecture := range architectures {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{if .Standard}}{{.Dir}}{{end}}", "./...")
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
		out, err := process.Output(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		for folder := range strings.Lines(out) {
			folders[strings.TrimSpace(folder)] = true
		}
	}
	paths := []string{filepath.Join(root, "VERSION"), filepath.Join(root, "go.env"), filepath.Join(root, "bin", "go"),
		filepath.Join(root, "src", "go.mod"), filepath.Join(root, "src", "go.sum"), filepath.Join(root, "src", "vendor", "modules.txt")}
	for _, tool := range []string{"compile", "asm", "link"} {
		paths = append(paths, filepath.Join(tools, tool))
	}
	for folder := range folders {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if entry.Type().IsRegular() && !strings.HasSuffix(entry.Name(), "_test.go") {
				paths = append(paths, filepath.Join(folder, entry.Name()))
			}
		}
	}
	layer, err := layerOf(root, "usr/local/go", paths)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(busybox.New(t, busybox.Spec{}), layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Env = []string{"PATH=/bin:/usr/local/go/bin", "GOROOT=/usr/local/go", "GOTOOLCHAIN=local", "GOFLAGS=-mod=mod", "CGO_ENABLED=0", "HOME=/root"}
	config.Architecture = runtime.GOARCH
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// layerOf is a layer with files of a folder.
func layerOf(root, to string, paths []string) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		inside, err := filepath.Rel(root, path)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		err = w.WriteHeader(&tar.Header{Name: filepath.Join(to, inside), Typeflag: tar.TypeReg, Mode: int64(info.Mode().Perm()), Size: int64(len(text))})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithCompressionLevel(gzip.BestSpeed))
}
