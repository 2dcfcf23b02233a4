package e2e_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/e2e/peers/runner"
)

// recorder is a fake registry, written from the distribution specification: it
// refuses everybody, and keeps the logins that it was shown.
type recorder struct {
	host string
	mu   sync.Mutex
	// asked says that somebody asked at all.
	asked  bool
	logins []string
}

func newRecorder(t testing.TB) *recorder {
	r := &recorder{}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.host = server.Listener.Addr().String()
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = true
	// podman and skopeo answer the challenge with an empty login when they have none.
	if user, password, ok := request.BasicAuth(); ok && user+password != "" {
		if shown := user + ":" + password; len(r.logins) == 0 || r.logins[len(r.logins)-1] != shown {
			r.logins = append(r.logins, shown)
		}
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("Www-Authenticate", `Basic realm="recorder"`)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	fmt.Fprint(w, `{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}`)
}

// seen is what it was shown so far.
func (r *recorder) seen() (logins []string, asked bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.logins), r.asked
}

// forget begins anew.
func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logins, r.asked = nil, false
}

// expected are the logins of each outcome, in order; of a client that gives up, or
// asks as nobody, none.
func expected(t testing.TB, client, image string, around consumer.Surroundings) (all [][]string, decision consumer.Decision) {
	t.Helper()
	c, err := consumer.Find(client)
	if err != nil {
		t.Fatal(err)
	}
	decision, err = c.Decide(image, around)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range decision.Outcomes {
		var logins []string
		for _, f := range o.Tries {
			logins = append(logins, f.Login.Username+":"+f.Login.Password.Reveal())
		}
		all = append(all, logins)
	}
	return all, decision
}

// arrived wants what the registry was shown to be one of the outcomes.
func arrived(t testing.TB, what string, r *recorder, client, image string, around consumer.Surroundings) {
	t.Helper()
	want, decision := expected(t, client, image, around)
	got, asked := r.seen()
	at := slices.IndexFunc(want, func(w []string) bool { return slices.Equal(w, got) })
	if at < 0 {
		t.Errorf("%s: the registry was shown %q, want one of %q", what, got, want)
		return
	}
	if o := decision.Outcomes[at]; o.Err == nil && !asked {
		t.Errorf("%s: nobody asked the registry", what)
	}
}

// entryOf is an entry of auths.
func entryOf(user string) string {
	return `{"auth": "` + base64.StdEncoding.EncodeToString([]byte(user+":secret-of-"+user)) + `"}`
}

// documents are config.jsons for a registry, by what they show.
func documents(host string) map[string]string {
	port := host[strings.LastIndex(host, ":")+1:]
	of := func(keys ...string) string {
		entries := make([]string, len(keys))
		for i, key := range keys {
			entries[i] = strconv.Quote(key) + ": " + entryOf("user"+strconv.Itoa(i))
		}
		return `{"auths": {` + strings.Join(entries, ", ") + `}}`
	}
	return map[string]string{
		"no login":                   `{}`,
		"its name":                   of(host),
		"a URL":                      of("https://" + host + "/v1/"),
		"a namespace":                of(host + "/team"),
		"a namespace and its name":   of(host, host+"/team"),
		"two namespaces":             of(host+"/other", host+"/team"),
		"its name without the port":  of("127.0.0.1"),
		"another port":               of("127.0.0.1:1"),
		"a pattern":                  of("127.*.0.1:" + port),
		"a version of the API":       of(host + "/v2"),
		"a helper":                   `{"auths": {` + strconv.Quote(host) + `: ` + entryOf("written") + `}, "credHelpers": {` + strconv.Quote(host) + `: "working"}}`,
		"a helper for all":           `{"auths": {` + strconv.Quote(host) + `: ` + entryOf("written") + `}, "credsStore": "working"}`,
		"a helper that fails":        `{"auths": {` + strconv.Quote(host) + `: ` + entryOf("written") + `}, "credHelpers": {` + strconv.Quote(host) + `: "failing"}}`,
		"a helper that is not there": `{"credsStore": "missing"}`,
		"plain fields":               `{"auths": {` + strconv.Quote(host) + `: {"username": "plain", "password": "secret-of-plain"}}}`,
		"a broken entry beside":      `{"auths": {` + strconv.Quote(host) + `: ` + entryOf("sound") + `, "other.example.com": {"auth": "!"}}}`,
		"no JSON":                    `{"auths": `,
	}
}

// scriptedHelpers are the helpers that scriptedPath writes, without their programs.
type scriptedHelpers struct{}

var _ consumer.Helpers = scriptedHelpers{}

func (scriptedHelpers) Get(name, _ string) (username, secret string, err error) {
	if name == "working" {
		return "helped", "secret-of-helped", nil
	}
	return "", "", errors.New("it fails")
}

func (scriptedHelpers) List(string) ([]string, error) { return nil, errors.New("it fails") }

// scriptedPath writes the helpers, and returns a PATH with them.
func scriptedPath(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"working": `echo '{"ServerURL": "x", "Username": "helped", "Secret": "secret-of-helped"}'`,
		"failing": "echo 'the keychain is locked'\nexit 1",
	} {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir + ":" + os.Getenv("PATH")
}

// variablesDocker says whether the docker client reads DOCKER_AUTH_CONFIG: it does
// from 28.3 on.
func variablesDocker(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, _ := strconv.Atoi(parts[0])
	minor, _ := strconv.Atoi(parts[1])
	return major > 28 || major == 28 && minor >= 3
}

// The login that arrives is the one that was told: docker, podman and skopeo.
func TestExplainedLoginArrives(t *testing.T) {
	t.Parallel()
	daemon := docker.Start(t)
	peers.Need(t, "podman")
	peers.Need(t, "skopeo")
	version, err := daemon.Docker(t.Context(), "", "version", "--format", "{{.Client.Version}}")
	if err != nil {
		t.Fatal(err)
	}
	dockerClient := "docker-28.2"
	if variablesDocker(strings.TrimSpace(version)) {
		dockerClient = "docker"
	}
	t.Logf("docker %s is %s", strings.TrimSpace(version), dockerClient)
	path, store := scriptedPath(t), t.TempDir()
	commands := map[string][]string{
		dockerClient: {"docker", "pull"},
		"podman": {
			"podman", "--root=" + filepath.Join(store, "root"), "--runroot=" + filepath.Join(store, "run"),
			"--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", "pull", "--tls-verify=false",
		},
		"skopeo": {"skopeo", "inspect", "--tls-verify=false"},
	}
	count := 0
	for what := range documents("127.0.0.1:0") {
		for _, variable := range []bool{false, true} {
			r := newRecorder(t)
			image := r.host + "/team/app:1"
			home := t.TempDir()
			if err := os.Mkdir(filepath.Join(home, ".docker"), 0o700); err != nil {
				t.Fatal(err)
			}
			writeText(t, filepath.Join(home, ".docker", "config.json"), documents(r.host)[what])
			env := map[string]string{"PATH": path, "HOME": home, "XDG_RUNTIME_DIR": home, "TMPDIR": home, "DOCKER_HOST": daemon.Host}
			if variable {
				env["DOCKER_AUTH_CONFIG"] = `{"auths": {` + strconv.Quote(r.host) + ": " + entryOf("variable") + "}}"
			}
			for client, command := range commands {
				of := image
				if client == "skopeo" {
					of = "docker://" + image
				}
				cmd := exec.Command(command[0], append(slices.Clone(command[1:]), of)...)
				for name, value := range env {
					cmd.Env = append(cmd.Env, name+"="+value)
				}
				r.forget()
				if out, err := process.Output(t.Context(), cmd); err == nil {
					t.Errorf("%s, %s: the registry refuses everybody, and it passed:\n%s", client, what, out)
				}
				arrived(t, fmt.Sprintf("%s, %s, variable %v", client, what, variable), r, client, image, consumer.Surroundings{
					Env: env, Home: home, UID: os.Getuid(), ReadFile: os.ReadFile, Helpers: scriptedHelpers{},
				})
				count++
			}
		}
	}
	t.Logf("%d pulls", count)
}

// The same of the runner of Gitea Actions, whose jobs run in an image of the
// registry.
func TestExplainedLoginArrivesFromRunner(t *testing.T) {
	t.Parallel()
	server, daemon := gitea.Start(t), docker.Start(t)
	file := filepath.Join(t.TempDir(), "config.json")
	writeText(t, file, "{}")
	actions := runner.Start(t, server, daemon, file)
	r := newRecorder(t)
	image := r.host + "/team/app:1"
	for _, what := range []string{"no login", "its name", "a URL", "its name without the port", "a helper that is not there"} {
		writeText(t, file, documents(r.host)[what])
		r.forget()
		if result := actions.Run(image); result.Passed() {
			t.Errorf("%s: the registry refuses everybody, and the job passed:\n%s", what, result.Log)
		}
		arrived(t, "gitea-runner, "+what, r, "gitea-runner", image, consumer.Surroundings{
			Env: map[string]string{"DOCKER_CONFIG": filepath.Dir(file)}, Home: "/nowhere", ReadFile: os.ReadFile, Helpers: scriptedHelpers{},
		})
	}
}

// The same of the kubelet, which tries one login after the other.
func TestExplainedLoginArrivesFromKubelet(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	namespace := c.Namespace(t)
	type pull struct {
		what, image string
		*recorder
		around consumer.Surroundings
	}
	var pulls []pull
	number := 0
	for what := range documents("127.0.0.1:0") {
		number++
		r := newRecorder(t)
		p := pull{what: what, image: r.host + "/team/app:1", recorder: r}
		p.around.ReadFile = func(string) ([]byte, error) { return nil, fs.ErrNotExist }
		pod := kubernetes.Sleeper(namespace, fmt.Sprintf("pod-%d", number), p.image)
		for i, text := range []string{documents(r.host)[what], `{"auths": {` + strconv.Quote(r.host) + ": " + entryOf("second") + "}}"} {
			secret := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("pull-%d-%d", number, i)},
				Type:       corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(text)},
			}
			if _, err := c.Client().CoreV1().Secrets(namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
				// The API server takes only what is JSON.
				if what != "no JSON" {
					t.Fatal(err)
				}
				continue
			}
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: secret.Name})
			p.around.Pod.Secrets = append(p.around.Pod.Secrets, consumer.PullSecret{
				Namespace: namespace, Name: secret.Name, Type: string(secret.Type), Data: secret.Data,
			})
		}
		if _, err := c.Client().CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		pulls = append(pulls, p)
	}
	for _, p := range pulls {
		want, decision := expected(t, "kubelet", p.image, p.around)
		if decision.Outcomes[0].Err != nil {
			eventually(t, time.Minute, p.what+" to fail", func() error {
				return waits(t, c, namespace, p.image)
			})
			if got, _ := p.seen(); len(got) > 0 {
				t.Errorf("kubelet, %s: the registry was shown %q, though the pull fails before", p.what, got)
			}
			continue
		}
		eventually(t, time.Minute, p.what+" to be tried", func() error {
			got, asked := p.seen()
			if !asked || len(got) < len(want[0]) {
				return fmt.Errorf("the registry was shown %q, want %q", got, want[0])
			}
			return nil
		})
		// A kubelet begins anew after a while.
		if got, _ := p.seen(); !slices.Equal(got[:len(want[0])], want[0]) {
			t.Errorf("kubelet, %s: the registry was shown %q, want %q", p.what, got, want[0])
		}
	}
	t.Logf("%d pods", len(pulls))
}

// waits wants the pod of an image to wait for it.
func waits(t *testing.T, c *kubernetes.Cluster, namespace, image string) error {
	pods, err := c.Client().CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		if pod.Spec.Containers[0].Image != image {
			continue
		}
		if statuses := pod.Status.ContainerStatuses; len(statuses) > 0 && statuses[0].State.Waiting != nil && statuses[0].State.Waiting.Reason != "ContainerCreating" {
			return nil
		}
		return errors.New("the kubelet has not come to it")
	}
	return errors.New("there is no such pod")
}
