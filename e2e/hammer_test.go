package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dockercli "github.com/docker/cli/cli/config"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
)

const (
	hammerTime = 25 * time.Second
	// healTime is how long an entry of ours may be away after docker, which
	// read the file before it and replaced it after, took it out.
	healTime = 10 * time.Second
)

// Eight writers of one config.json: four run docker login and docker logout,
// two are regkeeper daemons that rotate several times a second, and two write
// through package dockerconfig and watch over what they wrote.
//
// The docker command reads the file, changes it and replaces it, with no lock:
// of two at the same time one can lose the other's entry, without any
// regkeeper (see TestDockerAlone). So one docker runs at a time here, and ours
// run at any time.
func TestHammer(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.json")
	writeText(t, file, `{"HttpHeaders": {"X-Team": "acme"}, "psFormat": "table {{.ID}}"}`)
	daemon := docker.Start(t)
	writers := newDockers(t, daemon, file)

	var keepers []*product
	var served []*embedded
	for range 2 {
		p := newProduct(t, "")
		s := serveEmbedded(t, p.data(), "127.0.0.20", "127.0.0.21")
		var registries []kept
		for _, host := range s.hosts {
			registries = append(registries, kept{host: host, source: "builtin: {}", every: "300ms", overlap: "500ms"})
		}
		p.configure(configText(registries, "", file))
		keepers, served = append(keepers, p), append(served, s)
	}

	ctx, cancel := context.WithTimeout(t.Context(), hammerTime)
	defer cancel()
	var group sync.WaitGroup
	one := make(chan struct{}, 1)
	for i := range 4 {
		group.Go(func() { writers.run(ctx, i, one) })
	}
	ours := []*ownWriter{newOwnWriter(t, file, 0), newOwnWriter(t, file, 1)}
	for _, w := range ours {
		group.Go(func() { w.run(ctx) })
	}
	for _, p := range keepers {
		p.up()
	}
	group.Wait()

	// Docker's last words stand.
	final, err := dockercli.Load(filepath.Dir(file))
	if err != nil {
		t.Fatal(err)
	}
	in, out := 0, 0
	for host, user := range writers.want {
		entry, ok := final.AuthConfigs[host]
		switch {
		case user == "" && ok:
			t.Errorf("%s was logged out and has an entry", host)
		case user != "" && (!ok || entry.Username != user):
			t.Errorf("the login of %s as %s is lost: %v, user %q", host, user, ok, entry.Username)
		case user == "":
			out++
		default:
			in++
		}
	}
	// Ours are healed by who watches over them.
	for _, w := range ours {
		w.heal()
		w.check()
	}
	healed := 0
	for _, s := range served {
		for _, host := range s.hosts {
			eventually(t, healTime, "the entry of "+host, func() error {
				login, err := loginIn(file, host)
				if err != nil {
					return err
				}
				_, err = s.tokens.Authenticate(credential.NewSecret(login.Password))
				return err
			})
			healed++
		}
	}
	var document map[string]json.RawMessage
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(document["HttpHeaders"]), "acme") || !strings.Contains(string(document["psFormat"]), "table") {
		t.Errorf("foreign keys are lost: %s", document)
	}
	t.Logf("docker: %d logins, %d logouts, at the end %d entries and %d logged out, 0 lost, %d seen late; "+
		"ours: %d writes, docker took out %d entries, %d entries of two daemons and %d others in place at the end",
		writers.logins.Load(), writers.logouts.Load(), in, out, writers.late.Load(),
		ours[0].writes+ours[1].writes, ours[0].lost+ours[1].lost, healed, len(ours[0].want)+len(ours[1].want))
}

// The control: how many entries docker loses by itself when four run at the
// same time. It has no bound; the number is for comparison.
func TestDockerAlone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.json")
	writeText(t, file, "{}")
	writers := newDockers(t, docker.Start(t), file)
	var group sync.WaitGroup
	lost, total := 0, 0
	for range 15 {
		for i := range 4 {
			group.Go(func() { writers.login(t.Context(), writers.hosts[i]) })
		}
		group.Wait()
		final, err := dockercli.Load(filepath.Dir(file))
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range writers.hosts[:4] {
			total++
			if entry, ok := final.AuthConfigs[host]; !ok || entry.Username != writers.want[host] {
				lost++
			}
		}
	}
	t.Logf("4 dockers at the same time, without regkeeper: %d of %d logins lost", lost, total)
}

// dockers run docker login and docker logout for two hosts each.
type dockers struct {
	t      *testing.T
	daemon *docker.Daemon
	file   string
	hosts  []string
	secret string

	mu   sync.Mutex
	want map[string]string // the user that is logged in, empty after a logout

	logins, logouts, late atomic.Int64
}

func newDockers(t *testing.T, daemon *docker.Daemon, file string) *dockers {
	var addresses []string
	for i := range 7 {
		addresses = append(addresses, fmt.Sprintf("127.0.0.%d", 10+i))
	}
	served := serveEmbedded(t, t.TempDir(), addresses...)
	// A registry has another entry for each spelling of it.
	_, port, _ := strings.Cut(served.hosts[0], ":")
	served.hosts[0] = "localhost:" + port
	return &dockers{t: t, daemon: daemon, file: file, hosts: served.hosts, secret: served.pusher.Password, want: map[string]string{}}
}

// run logs in and out of the i-th two hosts until ctx is done. Before each
// change it looks whether the one before is still there. Who holds one may
// run docker.
func (d *dockers) run(ctx context.Context, i int, one chan struct{}) {
	for ctx.Err() == nil {
		host := d.hosts[2*i+rand.IntN(2)]
		d.still(host)
		one <- struct{}{}
		if rand.IntN(3) == 0 {
			d.logout(d.t.Context(), host)
		} else {
			d.login(d.t.Context(), host)
		}
		<-one
	}
}

func (d *dockers) login(ctx context.Context, host string) {
	user := fmt.Sprintf("user%d", d.logins.Add(1))
	// The registry takes a token under any user's name.
	if _, err := d.daemon.Docker(ctx, filepath.Dir(d.file), "login", "--username", user, "--password", d.secret, host); err != nil {
		d.t.Errorf("docker login %s: %v", host, err)
		return
	}
	d.note(host, user)
}

func (d *dockers) logout(ctx context.Context, host string) {
	d.logouts.Add(1)
	if _, err := d.daemon.Docker(ctx, filepath.Dir(d.file), "logout", host); err != nil {
		d.t.Errorf("docker logout %s: %v", host, err)
		return
	}
	d.note(host, "")
}

func (d *dockers) note(host, user string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want[host] = user
}

// still wants what was last done to a host to be in the file. While a writer
// of ours and docker change places it may be away for an instant.
func (d *dockers) still(host string) {
	d.mu.Lock()
	user, known := d.want[host]
	d.mu.Unlock()
	if !known {
		return
	}
	first := true
	err := within(healTime, func() error {
		document, err := dockercli.Load(filepath.Dir(d.file))
		if err != nil {
			return err
		}
		if got := document.AuthConfigs[host].Username; got != user {
			if first {
				d.late.Add(1)
				first = false
			}
			return fmt.Errorf("user %q, want %q", got, user)
		}
		return nil
	})
	if err != nil {
		d.t.Errorf("docker's entry for %s: %v", host, err)
	}
}

// ownWriter sets and removes entries through package dockerconfig.
type ownWriter struct {
	t            *testing.T
	file         dockerconfig.File
	want         map[credential.Host]credential.Login
	hosts        []credential.Host
	writes, lost int
}

func newOwnWriter(t *testing.T, path string, n int) *ownWriter {
	w := &ownWriter{t: t, file: dockerconfig.File{Path: path}, want: map[credential.Host]credential.Login{}}
	for i := range 3 {
		w.hosts = append(w.hosts, credential.Host(fmt.Sprintf("own-%d-%d.example.test", n, i)))
	}
	return w
}

func (w *ownWriter) run(ctx context.Context) {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		w.heal()
		host := w.hosts[rand.IntN(len(w.hosts))]
		w.want[host] = credential.Login{Username: fmt.Sprintf("own%d", n), Secret: credential.NewSecret("secret")}
		w.update()
		<-pause.C
	}
}

// heal counts what is not as it was written, and writes it again.
func (w *ownWriter) heal() {
	document, err := w.file.Read()
	if err != nil {
		w.t.Errorf("read: %v", err)
		return
	}
	for host, login := range w.want {
		if got, ok := document.Login(host); !ok || !got.Equal(login) {
			w.lost++
		}
	}
	w.update()
}

func (w *ownWriter) update() {
	w.writes++
	_, err := w.file.Update(w.t.Context(), func(document *dockerconfig.Document) (changed bool) {
		for host, login := range w.want {
			changed = document.Set(host, login) || changed
		}
		return changed
	})
	if err != nil {
		w.t.Errorf("update: %v", err)
	}
}

func (w *ownWriter) check() {
	document, err := w.file.Read()
	if err != nil {
		w.t.Fatal(err)
	}
	for host, login := range w.want {
		if got, ok := document.Login(host); !ok || !got.Equal(login) {
			w.t.Errorf("our entry of %s is lost", host)
		}
	}
}
