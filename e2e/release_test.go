package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/e2e/peers/buildx"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/release"
	"github.com/regkeeper/regkeeper/release/rollout"
)

// stages is a Dockerfile of several stages: one compiles two of the programs,
// for whatever architecture is asked for, and one the third.
const stages = `ARG GOLANG=scratch
FROM --platform=$BUILDPLATFORM $GOLANG AS builder
ARG TARGETARCH
WORKDIR /src
COPY go.mod ./
COPY cmd ./cmd
RUN --mount=type=cache,target=/root/.cache GOARCH=$TARGETARCH go build -trimpath -o /out/ ./cmd/api ./cmd/worker

FROM --platform=$BUILDPLATFORM $GOLANG AS admin-builder
ARG TARGETARCH
WORKDIR /src
COPY go.mod ./
COPY cmd/admin ./cmd/admin
RUN --mount=type=cache,target=/root/.cache GOARCH=$TARGETARCH go build -trimpath -o /out/ ./cmd/admin

FROM scratch AS api
COPY --from=builder /out/api /
ENTRYPOINT ["/api"]

FROM scratch AS worker
COPY --from=builder /out/worker /
ENTRYPOINT ["/worker"]

FROM scratch AS admin
COPY --from=admin-builder /out/admin /
ENTRYPOINT ["/admin"]
`

// goProgram says what it is, and waits. It needs little to be compiled of what
// comes with Go.
func goProgram(name, says string) string {
	return fmt.Sprintf(`package main

import (
	"runtime"
	"time"
)

func main() {
	println(%q, %q, runtime.GOARCH)
	time.Sleep(time.Hour)
}
`, name, says)
}

// TestRelease takes a clone to running pods as the operator of a small cluster
// does, with docker buildx, Gitea and the kubelet, while a daemon keeps the
// cluster's login.
func TestRelease(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	server := gitea.StartAt(t, c.Gateway)
	c.AllowHTTP(t, server.Host)
	user := newAccount(t, server, "honeydue")
	a := newApplication(t, c, "honeydue", "GITEA_PASSWORD="+user.password)
	_, token := server.CreateToken(user.name, user.password, "by-hand", "write:package")
	a.registry, a.login = server.Host, basic(user.name, token)
	a.byBuildx(buildx.Start(t, server.Host))

	files := map[string]string{"go.mod": "module honeydue\n\ngo 1.24\n", "Dockerfile": stages}
	for _, program := range programs {
		files["cmd/"+program+"/main.go"] = goProgram(program, "first")
	}
	module := t.TempDir()
	writeAll(t, module, files)
	base := a.registry + "/honeydue/golang:1"
	a.push(base, golang(t, module, "amd64", "arm64"))
	files["regkeeper.yaml"] = fmt.Sprintf(`registries:
  - host: %q
    source: {%s}
    insecure: true
targets:
  - name: cluster
    secrets: {name: gitea-credentials, namespaces: [honeydue], serviceAccounts: [default]}
serve: {health: {listen: "127.0.0.1:0"}}
`, server.Host, giteaSource(server, user.name, "{env: GITEA_PASSWORD}")) +
		a.releases("platforms: [linux/amd64, linux/arm64]", fmt.Sprintf("args: {GOLANG: %q}", base))
	a.clone(files, "")
	daemon := a.up()
	defer daemon.Stop()
	a.runsFormer(nil)
	tokens := user.names()

	// What would be done, and nothing is.
	first := a.head()
	plan := a.run("release", "--all", "--plan")
	if plan.code != 2 || !strings.Contains(plan.out, a.repository("api")+":"+formerTag+" -> "+a.repository("api")+":"+first) {
		t.Errorf("plan: exit code %d\n%s%s", plan.code, plan.out, plan.err)
	}
	if diff := cmp.Diff([]string{formerTag}, a.tags("api")); diff != "" {
		t.Errorf("tags after the plan (-want +got):\n%s", diff)
	}

	a.timed("from git clone to running pods")
	if err := a.running(a.at(first)); err != nil {
		t.Errorf("when the release has ended: %v", err)
	}
	a.leavesNothing()
	if diff := cmp.Diff(tokens, user.names()); diff != "" {
		t.Errorf("tokens at Gitea (-before +after):\n%s", diff)
	}
	commit := gitIn(t, a.dir, "rev-parse", "HEAD")
	for _, r := range a.records(3) {
		a.holds(r, first, commit)
	}
	if diff := cmp.Diff(each("released %s", first), endings(a.records(9))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}

	// There is nothing to do.
	if plan := a.run("release", "--all", "--plan"); plan.code != 0 {
		t.Errorf("plan of what is released: exit code %d\n%s%s", plan.code, plan.out, plan.err)
	}
	again := decode[[]release.Record](t, a.must("release", "--all", "-o", "json"))
	if diff := cmp.Diff(each("unchanged %s", first), endings(again)); diff != "" {
		t.Errorf("released again (-want +got):\n%s", diff)
	}
	if len(a.records(9)) != 3 {
		t.Errorf("records of what was not done: %v", endings(a.records(9)))
	}

	// A tree that is not as committed.
	writeAll(t, a.dir, map[string]string{"cmd/api/main.go": goProgram("api", "dirty"), "notes.txt": ""})
	a.fails(12, []string{"cmd/api/main.go", "notes.txt"}, "release", "--all")
	a.fails(12, []string{"cmd/api/main.go", "notes.txt"}, "release", "--all", "--plan")
	gitIn(t, a.dir, "clean", "--force", "--quiet")
	gitIn(t, a.dir, "checkout", "--quiet", "--", ".")

	// A tag that is taken: one that tells no commit, and one of another commit.
	taken := a.commit(map[string]string{"cmd/api/main.go": goProgram("api", "taken")})
	for ref, of := range map[string]string{a.repository("worker") + ":" + taken: "", a.repository("api") + ":" + taken: strings.Repeat("0", 40)} {
		a.takes(ref, of)
		before := a.digest(ref)
		item := map[bool]string{true: "worker", false: "api"}[of == ""]
		a.fails(12, []string{taken}, "release", item)
		if after := a.digest(ref); after != before {
			t.Errorf("%s led to %s, and leads to %s", ref, before, after)
		}
	}
	if diff := cmp.Diff(a.at(first), a.set()); diff != "" {
		t.Errorf("images of the workloads (-want +got):\n%s", diff)
	}
	a.leavesNothing()

	// A commit that changes one program, built first and deployed later. What is
	// cached makes it quick.
	second := a.commit(map[string]string{"cmd/api/main.go": goProgram("api", "second")})
	a.timed("a second commit, built", "--step", "build")
	if diff := cmp.Diff(a.at(first), a.set()); diff != "" {
		t.Errorf("images of the workloads after --step build (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(each("built %s", second), endings(a.records(3))); diff != "" {
		t.Errorf("records of --step build (-want +got):\n%s", diff)
	}
	a.timed("what was built, deployed")
	if err := a.running(a.at(second)); err != nil {
		t.Errorf("when what was built is deployed: %v", err)
	}
	for program, want := range map[string]string{"api": "api second", "worker": "worker first", "admin": "admin first"} {
		want += " " + runtime.GOARCH
		if got := strings.TrimSpace(c.Kubectl(t, "--namespace=honeydue", "logs", "deployment/"+program)); got != want {
			t.Errorf("%s says %q, want %q", program, got, want)
		}
	}
	for _, program := range programs {
		if tags := a.tags(program); slices.Contains(tags, "latest") {
			t.Errorf("tags of %s: %v", program, tags)
		}
	}
	if diff := cmp.Diff(tokens, user.names()); diff != "" {
		t.Errorf("tokens at Gitea in the end (-before +after):\n%s", diff)
	}
	a.leavesNothing()
}

// names are those of all tokens, sorted.
func (a account) names() (names []string) {
	a.t.Helper()
	for _, token := range a.ListTokens(a.name, a.password) {
		names = append(names, token.Name)
	}
	slices.Sort(names)
	return names
}

// holds wants a record to tell what runs: an image for two architectures that
// nobody pulls without a login, and that the kubelet pulled with the Secret.
func (a *application) holds(r release.Record, tag, commit string) {
	a.t.Helper()
	ref := a.repository(r.Item) + ":" + tag
	d := a.digest(ref)
	if r.Reference.Digest.String() != d || r.Commit != commit || r.Reference.Tag != tag || len(r.Workloads) != 1 || r.Workloads[0].From != a.at(formerTag)[r.Item] || r.Workloads[0].To != ref {
		a.t.Errorf("record %+v, want digest %s and commit %s", r, d, commit)
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		a.t.Fatal(err)
	}
	if ok, err := accepted(a.t.Context(), ref, basic("", ""), http.DefaultTransport); err != nil || ok {
		a.t.Errorf("%s is had without a login: %v, %v", ref, ok, err)
	}
	index, err := remote.Index(parsed, remote.WithAuth(a.login), remote.WithContext(a.t.Context()))
	if err != nil {
		a.t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		a.t.Fatal(err)
	}
	var platforms []string
	for _, child := range manifest.Manifests {
		platforms = append(platforms, child.Platform.String())
	}
	slices.Sort(platforms)
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"}, platforms); diff != "" {
		a.t.Errorf("platforms of %s (-want +got):\n%s", ref, diff)
	}
	if manifest.Annotations["org.opencontainers.image.revision"] != commit {
		a.t.Errorf("annotations of %s: %v", ref, manifest.Annotations)
	}
	pod := a.pod(r.Item)
	if got := pod.Status.ContainerStatuses[0].ImageID; got != a.repository(r.Item)+"@"+d {
		a.t.Errorf("the pod of %s runs %s, want %s", r.Item, got, d)
	}
	if diff := cmp.Diff([]corev1.LocalObjectReference{{Name: "gitea-credentials"}}, pod.Spec.ImagePullSecrets); diff != "" {
		a.t.Errorf("secrets that the pod of %s pulls with (-want +got):\n%s", r.Item, diff)
	}
	// The kubelet tells of it when it comes to it.
	eventually(a.t, time.Minute, "how the kubelet came by the image of "+r.Item, func() error {
		events, err := a.c.Client().CoreV1().Events(a.namespace).List(a.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod.Name + ",reason=Pulled"})
		if err == nil && (len(events.Items) != 1 || !strings.Contains(events.Items[0].Message, "Successfully pulled image \""+ref+"\"")) {
			err = fmt.Errorf("its events are %v", events.Items)
		}
		return err
	})
}

// takes has someone else push another image to a tag, of a commit or of none that
// is told.
func (a *application) takes(ref, commit string) {
	a.t.Helper()
	img := busybox.New(a.t, busybox.Spec{Mark: ref})
	if commit != "" {
		img = mutate.Annotations(img, map[string]string{"org.opencontainers.image.revision": commit}).(v1.Image)
	}
	a.push(ref, img)
}

// scripts is a Dockerfile whose programs are scripts, on a base of the same
// registry. What a program does is in its script, and whether it is ready.
const scripts = `ARG BASE=scratch
FROM $BASE AS base
COPY prepare /prepare
RUN sh /prepare

FROM base AS admin
COPY --chmod=755 admin/run admin/ready /
CMD ["/run"]

FROM base AS api
COPY --chmod=755 api/run api/ready /
CMD ["/run"]

FROM base AS worker
COPY --chmod=755 worker/run worker/ready /
CMD ["/run"]
`

// scriptFiles are the application of scripts.
func scriptFiles() map[string]string {
	files := map[string]string{"Dockerfile": scripts, "prepare": "true\n"}
	for _, program := range programs {
		files[program+"/run"] = "#!/bin/sh\necho " + program + "\nexec sleep 2147483647\n"
		files[program+"/ready"] = "#!/bin/sh\ntrue\n"
	}
	return files
}

// probe asks a pod's own script whether it is ready.
func probe() *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "/ready"}}},
		PeriodSeconds: 1,
	}
}

// ofScripts makes it an application of scripts at an embedded registry. The pods
// pull with a Secret made by hand.
func (a *application) ofScripts(served *embedded, config, token string) {
	a.t.Helper()
	a.registry, a.login = served.host, served.pusher
	base := a.registry + "/honeydue/base:1"
	a.push(base, busybox.New(a.t, busybox.Spec{Mark: base}))
	files := scriptFiles()
	files["regkeeper.yaml"] = config + a.releases(fmt.Sprintf("args: {BASE: %q}", base))
	a.clone(files, token)
	a.pullSecret()
	a.c.Kubectl(a.t, "--namespace="+a.namespace, "patch", "serviceaccount", "default", `--patch={"imagePullSecrets": [{"name": "gitea-credentials"}]}`)
	a.runsFormer(probe())
}

// pullSecret makes the Secret by hand.
func (a *application) pullSecret() {
	a.t.Helper()
	a.c.Kubectl(a.t, "--namespace="+a.namespace, "create", "secret", "docker-registry", "gitea-credentials",
		"--docker-server="+a.registry, "--docker-username="+a.login.Username, "--docker-password="+a.login.Password)
}

// TestReleaseRollsBack is a release of commits that do not run, by buildctl, with
// a login that no source of regkeeper issues: the token in the operator's
// registry.env.
func TestReleaseRollsBack(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	a := newApplication(t, c, "honeydue-back")
	a.byBuildctl(buildx.Start(t))
	served := serveEmbedded(t, t.TempDir())
	a.ofScripts(served, `registries:
  - host: registry.example.test
    source: {static: {username: robot, password: {env: NOT_SET}}}
`, served.pusher.Password)
	former := a.at(formerTag)

	// A program that ends with an error.
	bad := a.commit(map[string]string{"admin/run": "#!/bin/sh\necho no database >&2\nexit 1\n"})
	began := time.Now()
	got := a.fails(11, []string{"deployment/admin", "container admin", "exit code 1", "the workloads run the images that they had before"}, "release", "--all")
	t.Logf("taken back %v after the release began:\n%s", time.Since(began).Round(10*time.Millisecond), got.err)
	a.awaitRuns(former)
	if diff := cmp.Diff(each("rolled-back %s", bad), endings(a.records(9))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	for name, found := range a.notes() {
		if len(found) > 0 {
			t.Errorf("deployment %s tells of the release that failed: %v", name, found)
		}
	}
	for _, r := range a.records(3) {
		if !strings.Contains(r.Error, "exit code 1") || len(r.Workloads) != 1 || r.Workloads[0].From != former[r.Item] {
			t.Errorf("record %+v", r)
		}
	}
	a.leavesNothing()

	// An image that cannot be pulled: the login of the cluster is gone.
	good := a.commit(map[string]string{"admin/run": scriptFiles()["admin/run"]})
	c.Kubectl(t, "--namespace="+a.namespace, "delete", "secret", "gitea-credentials")
	a.fails(11, []string{"container ", "401 Unauthorized", "the workloads run the images that they had before"}, "release", "--all")
	if diff := cmp.Diff(former, a.set()); diff != "" {
		t.Errorf("images of the workloads (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(each("rolled-back %s", good), endings(a.records(3))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	a.fails(8, []string{"no release of api is known"}, "release", "rollback", "api")

	// A good one, and taken back on demand: one of three, then the others.
	a.pullSecret()
	a.must("release", "--all")
	if err := a.running(a.at(good)); err != nil {
		t.Errorf("when the release has ended: %v", err)
	}
	for name, found := range a.notes() {
		if found[rollout.Commit] == "" || found[rollout.Digest] != a.digest(a.at(good)[name]) {
			t.Errorf("annotations of deployment %s: %v", name, found)
		}
	}
	a.must("release", "rollback", "api")
	mixed := a.at(good)
	mixed["api"] = former["api"]
	if err := a.running(mixed); err != nil {
		t.Errorf("when the rollback has ended: %v", err)
	}
	a.fails(7, []string{"api", "nothing was changed"}, "release", "rollback", "api")
	records := decode[[]release.Record](t, a.must("release", "rollback", "admin", "worker", "-o", "json"))
	if diff := cmp.Diff([]string{"admin rolled-back " + good, "worker rolled-back " + good}, endings(records)); diff != "" {
		t.Errorf("records of the rollback (-want +got):\n%s", diff)
	}
	if err := a.running(former); err != nil {
		t.Errorf("when all is rolled back: %v", err)
	}
	a.leavesNothing()
}

// TestReleaseInterrupted sends SIGINT in the midst of a build and of a rollout:
// to regkeeper alone, as a supervisor does, and to docker and buildx too, as a
// terminal does.
func TestReleaseInterrupted(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	a := newApplication(t, c, "honeydue-interrupted")
	a.byBuildx(buildx.Start(t))
	served := serveEmbedded(t, a.data())
	a.ofScripts(served, fmt.Sprintf(`registries:
  - host: %q
    source: {builtin: {}}
targets:
  - name: file
    file: {path: %q}
`, served.host, filepath.Join(t.TempDir(), "config.json")), "")
	former := a.at(formerTag)
	tokens := served.names(t)

	for _, at := range []struct {
		name, words string
		files       map[string]string
		group       bool
		outcome     string
	}{
		{"build, one", "RUN sh /prepare", map[string]string{"prepare": "sleep 1001\n"}, false, "failed"},
		{"build, all", "RUN sh /prepare", map[string]string{"prepare": "sleep 1002\n"}, true, "failed"},
		{"rollout, one", "watch admin: deployment/admin in namespace honeydue-interrupted: 1 pods are updated and available", map[string]string{"prepare": "true\n", "worker/ready": "#!/bin/sh\nexit 1\n"}, false, "rolled-back"},
		{"rollout, all", "watch admin: deployment/admin in namespace honeydue-interrupted: 1 pods are updated and available", map[string]string{"worker/ready": "#!/bin/sh\nexit 2\n"}, true, "rolled-back"},
	} {
		tag := a.commit(at.files)
		cmd := a.command("release", "--all")
		p := process.Start(t, cmd)
		p.Until(t, 2*time.Minute, at.words, func() bool { return strings.Contains(p.Log(), at.words) })
		if at.outcome == "failed" {
			// What is to be gone afterwards is there.
			if lent := len(served.names(t)) - len(tokens); lent < 1 {
				t.Errorf("%s: %d logins are borrowed during the build", at.name, lent)
			}
			if entries, err := os.ReadDir(a.temp); err != nil || len(entries) == 0 {
				t.Errorf("%s: the build has no folder of its own: %v", at.name, err)
			}
		}
		to := p.PID()
		if at.group {
			to = -to
		}
		began := time.Now()
		if err := syscall.Kill(to, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
			t.Logf("%s: ended %v after SIGINT:\n%s", at.name, time.Since(began).Round(10*time.Millisecond), p.Tail(6))
		case <-time.After(time.Minute):
			t.Fatalf("%s: goes on a minute after SIGINT:\n%s", at.name, p.Log())
		}
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("%s: exit code %d", at.name, code)
		}
		if diff := cmp.Diff(former, a.set()); diff != "" {
			t.Errorf("%s: images of the workloads (-want +got):\n%s", at.name, diff)
		}
		if diff := cmp.Diff(tokens, served.names(t)); diff != "" {
			t.Errorf("%s: tokens of the registry (-before +after):\n%s", at.name, diff)
		}
		if diff := cmp.Diff(each("%s %s", at.outcome, tag), endings(a.records(3))); diff != "" {
			t.Errorf("%s: records (-want +got):\n%s", at.name, diff)
		}
		a.leavesNothing()
		a.awaitRuns(former)
	}

	// What was interrupted is released by a later run.
	good := a.commit(map[string]string{"worker/ready": "#!/bin/sh\ntrue\n"})
	a.must("release", "--all")
	if err := a.running(a.at(good)); err != nil {
		t.Errorf("when the release has ended: %v", err)
	}
	if diff := cmp.Diff(tokens, served.names(t)); diff != "" {
		t.Errorf("tokens of the registry in the end (-before +after):\n%s", diff)
	}
	a.leavesNothing()
}

// names are those of all tokens, sorted.
func (e *embedded) names(t testing.TB) (names []string) {
	t.Helper()
	tokens, err := e.tokens.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		names = append(names, token.Name)
	}
	slices.Sort(names)
	return names
}
