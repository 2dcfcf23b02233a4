package e2e_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/runner"
)

// The document's case: a Gitea runner whose jobs run in a private image, logged
// in by a file that regkeeper keeps.
func TestRunnerWithDeliveredFile(t *testing.T) {
	t.Parallel()
	server, daemon := gitea.Start(t), docker.Start(t)
	password := server.CreateUser(owner)
	_, token := server.CreateToken(owner, password, "pusher", "write:package")
	ref := server.Host + "/" + owner + "/private/job:latest"
	busybox.Push(t, ref, owner, token)

	file := filepath.Join(t.TempDir(), "config.json")
	registry := kept{host: server.Host, source: giteaSource(server, owner, "{env: GITEA_PASSWORD}"), overlap: "400ms", probe: ref}
	p := newProduct(t, configText([]kept{registry}, "", file), "GITEA_PASSWORD="+password)
	r := runner.Start(t, server, daemon, file)
	want := func(when string, passes bool) {
		t.Helper()
		result := r.Run(ref)
		if result.Passed() != passes || passes && !strings.Contains(result.Log, runner.Mark+"42") {
			t.Errorf("%s: job ended with %q:\n%s", when, result.Conclusion, result.Log)
		}
		if !passes && !strings.Contains(result.Log, "unauthorized") {
			t.Errorf("%s: job failed for another reason:\n%s", when, result.Log)
		}
	}

	want("before the first delivery", false)
	regkeeper := p.up()
	first := wantLogin(t, file, server.Host, ref)
	want("after the delivery", true)
	for _, when := range []string{"after a rotation", "after another"} {
		p.must("rotate")
		want(when, true)
	}
	eventually(t, 20*time.Second, "the first login to be revoked", func() error {
		if ok, err := accepted(t.Context(), ref, first, http.DefaultTransport); ok || err != nil {
			return errors.New("it is accepted still")
		}
		return nil
	})
	want("with the first login revoked", true)

	// The daemon heals what somebody takes away.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the file to be healed", func() error { _, err := loginIn(file, server.Host); return err })
	want("after the file was removed", true)
	regkeeper.Stop()
}
