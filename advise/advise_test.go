package advise_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/advise"
	"github.com/regkeeper/regkeeper/problem"
)

var update = flag.Bool("update", false, "write the golden advice")

func TestFor(t *testing.T) {
	for name, c := range map[string]advise.Case{
		"gitea-dind-on-kubernetes": {Runner: advise.Gitea, Executor: advise.Kubernetes, DinD: true, HostAccess: true},
		"gitlab-docker-own-host":   {Runner: advise.GitLab, Executor: advise.Docker, HostAccess: true},
		"gitlab-shared-runner":     {Runner: advise.GitLab, Executor: advise.Docker, PerProject: true},
		"gitlab-ecr":               {Runner: advise.GitLab, Executor: advise.Docker, HostAccess: true, Cloud: true, ShortLived: true, Pulls: []advise.Pull{advise.JobImage}},
		"gitlab-dind-old-client":   {Runner: advise.GitLab, Executor: advise.Docker, DinD: true, OldClient: true, Pulls: []advise.Pull{advise.InJob}},
		"forgejo-no-access":        {Runner: advise.Forgejo, Executor: advise.Docker},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.Check(); err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			for _, a := range advise.For(c) {
				_, _ = fmt.Fprintf(&text, "%s: %s\n", a.Method, a.Fit)
				for _, why := range a.Why {
					_, _ = fmt.Fprintf(&text, "  because %s\n", why)
				}
				if a.How != "" {
					_, _ = fmt.Fprintf(&text, "  by %s\n", a.How)
				}
			}
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), text.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAdviceIsSound checks what must hold in any case.
func TestAdviceIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := advise.Case{
			Runner:     rapid.SampledFrom([]advise.Runner{advise.GitLab, advise.Gitea, advise.Forgejo}).Draw(t, "runner"),
			Executor:   rapid.SampledFrom([]advise.Executor{advise.Docker, advise.Kubernetes, advise.Shell}).Draw(t, "executor"),
			Pulls:      rapid.SampledFrom([][]advise.Pull{nil, {advise.JobImage}, {advise.InJob}}).Draw(t, "pulls"),
			DinD:       rapid.Bool().Draw(t, "dind"),
			HostAccess: rapid.Bool().Draw(t, "access"),
			ShortLived: rapid.Bool().Draw(t, "short"),
			Cloud:      rapid.Bool().Draw(t, "cloud"),
			PerProject: rapid.Bool().Draw(t, "project"),
			OldClient:  rapid.Bool().Draw(t, "old"),
		}
		all := advise.For(c)
		some := false
		for i, a := range all {
			some = some || a.Fit != advise.Fails
			if a.Fit != advise.Fits && len(a.Why) == 0 {
				t.Errorf("%s: %s, without a reason", a.Method, a.Fit)
			}
			if i > 0 && all[i-1].Fit == advise.Fails && a.Fit != advise.Fails {
				t.Errorf("%s comes after one that does not work", a.Method)
			}
			if !c.HostAccess && (a.Method == advise.Delivery || a.Method == advise.MountedFile) && a.Fit != advise.Fails {
				t.Errorf("%s without access to the host: %s", a.Method, a.Fit)
			}
			if a.Method == advise.BeforeScript && len(c.Pulls) == 1 && c.Pulls[0] == advise.JobImage && a.Fit != advise.Fails {
				t.Errorf("a script is to log in for the image that it runs in: %s", a.Fit)
			}
		}
		if !some {
			t.Errorf("no method works for %+v", c)
		}
	})
}

func TestCheck(t *testing.T) {
	for _, c := range []advise.Case{
		{Runner: "jenkins", Executor: advise.Docker}, {Runner: advise.GitLab, Executor: "vm"},
		{Runner: advise.GitLab, Executor: advise.Docker, Pulls: []advise.Pull{"nobody"}},
	} {
		if kind := problem.KindOf(c.Check()); kind != problem.Usage {
			t.Errorf("%+v: %v", c, kind)
		}
	}
}
