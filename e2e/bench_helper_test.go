package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/credhelpers"
	"github.com/regkeeper/regkeeper/state"
)

// asked is a question to a helper, run as clients run it: a process for each.
type asked struct {
	name, path string
	env        []string
	server     string
	// want is the secret; empty for "not found".
	want string
	took []time.Duration
}

func (a *asked) ask(b *testing.B) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), a.path, "get")
	cmd.Env, cmd.Stdin = a.env, strings.NewReader(a.server)
	began := time.Now()
	out, err := cmd.Output()
	a.took = append(a.took, time.Since(began))
	if a.want == "" {
		if err == nil || strings.TrimSpace(string(out)) != "credentials not found in native keychain" {
			b.Fatalf("%s: %v, %s", a.name, err, out)
		}
		return
	}
	var login struct{ Secret string }
	if err != nil || json.Unmarshal(out, &login) != nil || login.Secret != a.want {
		b.Fatalf("%s: %v, %s", a.name, err, out)
	}
}

// questions is how often each helper is asked; the medians count.
const questions = 41

// BenchmarkHelperGet asks credential helpers for a login, a whole process each time.
func BenchmarkHelperGet(b *testing.B) {
	own, err := helperBinary()
	if err != nil {
		b.Fatal(err)
	}
	const host, secret = "gitea.example.com", "a secret of the usual length: 0123456789abcdef"
	write := func(registries, places int) []string {
		doc := state.New()
		for i := range registries {
			host := credential.Host(host)
			if i > 0 {
				host = credential.Host(fmt.Sprintf("registry-%d.example.com", i))
			}
			doc.Registry(host).Current = &state.Credential{Credential: credential.Credential{
				ID: "id", Host: host, Username: "robot", Secret: credential.NewSecret(secret), Issued: time.Now(),
			}}
		}
		for i := range places {
			doc.Place("secrets", credential.Place(fmt.Sprintf("namespace-%d/gitea-credentials", i))).Delivered = time.Now()
		}
		folder := b.TempDir()
		text, err := state.Encode(doc)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "state.json"), text, 0o600); err != nil {
			b.Fatal(err)
		}
		return []string{"REGKEEPER_DATA=" + folder, "PATH=" + os.Getenv("PATH")}
	}
	small, large := write(1, 1), write(20, 5000)
	pass := credhelpers.Pass(b, host, "robot", secret)
	ecr := credhelpers.ECR(b, secret)
	all := []*asked{
		{name: "docker-credential-regkeeper", path: own, env: small, server: host, want: secret},
		{name: "docker-credential-regkeeper, 20 registries and 5,000 places", path: own, env: large, server: host, want: secret},
		{name: "docker-credential-regkeeper, not found", path: own, env: small, server: "other.example.com"},
		{name: "docker-credential-pass " + pass.Version, path: pass.Path, env: pass.Env, server: pass.Server, want: secret},
		{name: "docker-credential-pass, not found", path: pass.Path, env: pass.Env, server: "other.example.com"},
		{name: "docker-credential-ecr-login " + ecr.Version + ", from its cache", path: ecr.Path, env: ecr.Env, server: ecr.Server, want: secret},
		{name: "docker-credential-ecr-login, not found", path: ecr.Path, env: ecr.Env, server: "other.example.com"},
	}
	for b.Loop() {
		for i := range questions {
			for j := range all {
				all[(i+j)%len(all)].ask(b)
			}
		}
	}
	base := median(all[0].took)
	table := benchTable{{"helper", "one get, ms", "ratio"}}
	for _, a := range all {
		table.row(a.name, fmt.Sprintf("%.1f", float64(median(a.took))/float64(time.Millisecond)), fmt.Sprintf("%.1f", float64(median(a.took))/float64(base)))
	}
	fmt.Fprintf(os.Stderr, "\nload of the machine %.1f\n%s", machineLoad(b), table.String())
	b.ReportMetric(float64(base)/float64(time.Millisecond), "ms/get")
	b.ReportMetric(float64(median(all[3].took))/float64(base), "pass/ours")
	b.ReportMetric(float64(median(all[5].took))/float64(base), "ecr/ours")
}
