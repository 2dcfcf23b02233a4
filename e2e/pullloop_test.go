package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/clients"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
)

// rotations is how many rotations the pull loops run through.
const rotations = 100

// The main job: a login that rotates without one failed pull.
func TestPullLoopEmbedded(t *testing.T) {
	t.Parallel()
	p := newProduct(t, "")
	served := serveEmbedded(t, p.data())
	ref := served.host + "/team/app:v1"
	pushSmall(t, ref, served.pusher)
	pullLoop(t, p, kept{host: served.host, source: "builtin: {}", overlap: "1s"}, ref,
		func(mark credential.Mark) []string { return served.owned(t, mark) })
}

func TestPullLoopGitea(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	a := newAccount(t, server, owner)
	p := newProduct(t, "", "GITEA_PASSWORD="+a.password)
	registry := kept{host: server.Host, source: giteaSource(server, owner, "{env: GITEA_PASSWORD}"), overlap: "1s", probe: a.ref}
	pullLoop(t, p, registry, a.ref, a.owned)
}

// pullLoop has a daemon rotate a login while images are pulled with the file
// that it delivers, all the time and every byte of them: by
// go-containerregistry with the docker CLI's reader, and by the real crane.
func pullLoop(t *testing.T, p *product, registry kept, ref string, owned func(credential.Mark) []string) {
	file := filepath.Join(t.TempDir(), "config.json")
	crane := clients.Crane(t)
	p.configure(configText([]kept{registry}, "", file))
	daemon := p.up()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	base := http.DefaultTransport.(*http.Transport).Clone()
	defer base.CloseIdleConnections()
	var pulls, cranes, failures atomic.Int64
	var loops sync.WaitGroup
	var mu sync.Mutex
	var slowest time.Duration
	loop := func(count *atomic.Int64, pull func() error) {
		loops.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				err := pull()
				if ctx.Err() != nil {
					return
				}
				count.Add(1)
				mu.Lock()
				slowest = max(slowest, time.Since(began))
				mu.Unlock()
				if err != nil {
					failures.Add(1)
					t.Errorf("pull %d: %v", count.Load(), err)
				}
			}
		})
	}
	loop(&pulls, func() error { return pullAll(ctx, file, ref, base) })
	loop(&cranes, func() error { return crane.Pull(ctx, ref, file) })

	seen := map[string]bool{}
	began := time.Now()
	for n := range rotations {
		before := pulls.Load()
		p.must("rotate")
		login, err := loginIn(file, registry.host)
		if err != nil {
			t.Fatal(err)
		}
		if seen[login.Password] {
			t.Fatalf("rotation %d delivered a login of an earlier one", n)
		}
		seen[login.Password] = true
		// At least one pull begins with each login.
		eventually(t, 30*time.Second, "a pull", func() error {
			if pulls.Load() < before+2 && failures.Load() == 0 {
				return fmt.Errorf("%d pulls", pulls.Load())
			}
			return nil
		})
	}
	took := time.Since(began)
	current := p.status().Registries[0].Credential
	eventually(t, 30*time.Second, "one login at the source", func() error {
		if diff := cmp.Diff([]string{current}, owned(p.mark(registry.host))); diff != "" {
			return fmt.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	})
	cancel()
	loops.Wait()
	daemon.Stop()
	t.Logf("%d rotations in %v; %d pulls by go-containerregistry and %d by crane, the slowest in %v; %d failed",
		rotations, took.Round(time.Millisecond), pulls.Load(), cranes.Load(), slowest.Round(time.Millisecond), failures.Load())
}
