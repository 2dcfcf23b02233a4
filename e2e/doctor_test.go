package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/explain"
	"github.com/regkeeper/regkeeper/problem"
)

// told is an explanation as the command prints it.
type told struct {
	Client, Place, Image string
	Outcomes             []struct {
		Logins []struct{ Username, Where string }
	}
	Diagnoses []explain.Diagnosis
}

func (d told) has(code explain.Code) bool {
	return slices.ContainsFunc(d.Diagnoses, func(d explain.Diagnosis) bool { return d.Code == code })
}

// A pod that waits for its image is explained, before it has a login and after;
// so is a client in a container. What regkeeper may do in the cluster is looked at
// as whoever asks.
func TestExplainAndDoctorInACluster(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	namespace := c.Namespace(t)
	n := newNodeRegistry(t, c.Gateway, "KUBECONFIG="+c.Kubeconfig())
	n.c = c
	c.AllowHTTP(t, n.host)
	ref := n.private("team/explained")
	n.keep(ref, "1s", fmt.Sprintf(`  - name: pulls
    secrets: {name: registry-login, namespaces: [%s], serviceAccounts: [default]}`, namespace))

	n.makes(namespace, "waits", "default", ref)
	n.refuses("what has no login", namespace, "")
	got := n.run("explain", "--pod", namespace+"/waits", "-o", "json")
	if got.code != problem.Denied.ExitCode() {
		t.Errorf("exit code %d for a pod without a login: %s", got.code, got.err)
	}
	if d := decode[[]told](t, got.out)[0]; d.Client != "kubelet" || d.Image != ref || !d.has("login-missing") {
		t.Errorf("a pod without a login: %+v", d)
	}

	n.must("sync")
	n.runs("a pod made after the login", namespace, "works", ref)
	d := decode[[]told](t, n.must("explain", "--pod", namespace+"/works", "-o", "json"))[0]
	if !d.has("login-works") || len(d.Outcomes) != 1 || d.Outcomes[0].Logins[0].Where != "Secret "+namespace+"/registry-login" {
		t.Errorf("a pod with a login: %+v", d)
	}
	if d := decode[[]told](t, n.must("explain", ref, "--target", "pulls", "-o", "json"))[0]; d.Client != "kubelet" || !d.has("login-works") {
		t.Errorf("the target: %+v", d)
	}

	// The runner in a pod has a file of its own, whose entry never matches.
	c.Run(t, kubernetes.Sleeper(namespace, "runner", busyboxImage))
	odd := fmt.Sprintf(`{"auths": {"%s/v2": {"auth": "Ym90Omh1bnRlcjI="}, "https://%s:1/": {"auth": "Ym90Omh1bnRlcjI="}}}`, "other.example.com", strings.Split(n.host, ":")[0])
	if _, said, err := c.Exec(t.Context(), namespace, "runner", "main", strings.NewReader(odd), "sh", "-c", `mkdir -p "$HOME/.docker" && cat >"$HOME/.docker/config.json"; sleep 0.2`); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	inside := n.run("explain", ref, "--as", "gitea-runner", "--pod", namespace+"/runner", "-o", "json")
	if inside.code != problem.Denied.ExitCode() {
		t.Errorf("exit code %d for a runner without a login: %s", inside.code, inside.err)
	}
	if d := decode[[]told](t, inside.out)[0]; d.Client != "gitea-runner" || !d.has("key-never-matches") || !d.has("login-missing") {
		t.Errorf("a runner's container: %s", inside.out)
	}
	if strings.Contains(inside.out, "hunter2") || strings.Contains(inside.out, "Ym90Omh1bnRlcjI=") {
		t.Errorf("a secret is told:\n%s", inside.out)
	}

	findings := decode[[]app.Finding](t, n.must("doctor", "-o", "json"))
	if !slices.ContainsFunc(findings, func(f app.Finding) bool { return f.Check == "rights" && f.Health == app.Well }) {
		t.Errorf("rights of an administrator: %+v", findings)
	}
	n.env = append(n.env, "KUBECONFIG="+c.KubeconfigFor(t, namespace, "default"))
	poor := n.run("doctor", "-o", "json")
	denied := 0
	for _, f := range decode[[]app.Finding](t, poor.out) {
		if f.Check == "rights" && f.Health == app.Ill && strings.Contains(f.Text, "we may not") {
			denied++
		}
	}
	if poor.code == 0 || denied < 3 {
		t.Errorf("exit code %d, %d rights denied to whoever has none:\n%s", poor.code, denied, poor.out)
	}
}
