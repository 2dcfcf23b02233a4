package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/state"
)

// The promise: at every moment each target holds a login that the registry
// accepts, also while regkeeper is killed at any step of its journal and at
// any moment besides; and after it has settled exactly the logins in force
// exist at the source.

const (
	crashOverlap = "500ms"
	// crashSettleEvery is after how many rounds the killing pauses until
	// everything has settled, and the second half of the promise is checked.
	crashSettleEvery = 50
)

func TestCrashEmbedded(t *testing.T) {
	t.Parallel()
	p := newProduct(t, "")
	served := serveEmbedded(t, p.data())
	ref := served.host + "/team/app:v1"
	pushSmall(t, ref, served.pusher)
	crashRounds(t, p, crashed{
		rounds: 520, ref: ref, pace: time.Millisecond,
		registry: kept{host: served.host, source: "builtin: {}", overlap: crashOverlap, probe: ref},
		owned:    func(mark credential.Mark) []string { return served.owned(t, mark) },
	})
}

func TestCrashGitea(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	a := newAccount(t, server, owner)
	p := newProduct(t, "", "GITEA_PASSWORD="+a.password)
	crashRounds(t, p, crashed{
		rounds: 60, ref: a.ref, pace: 10 * time.Millisecond,
		registry: kept{host: server.Host, source: giteaSource(server, owner, "{env: GITEA_PASSWORD}"), overlap: crashOverlap, probe: a.ref},
		owned:    a.owned,
	})
}

// crashed is what is killed over and over.
type crashed struct {
	rounds   int
	registry kept
	ref      string        // a private image, for the probers to ask for
	pace     time.Duration // between two questions of a prober
	owned    func(credential.Mark) []string
}

func crashRounds(t *testing.T, p *product, c crashed) {
	files := []string{filepath.Join(t.TempDir(), "config.json"), filepath.Join(t.TempDir(), "config.json")}
	p.configure(configText([]kept{c.registry}, "", files...))
	p.must("sync")

	watch := startProbers(t, c, files)
	points := crashPoints(t, p)
	t.Logf("%d points: %s", len(points), strings.Join(points, " "))

	began := time.Now()
	p.must("rotate")
	usual := time.Since(began)
	count := map[string]int{}
	killed, survived := 0, 0
	note := func(how string, dead bool) {
		if dead {
			killed++
			count[how]++
		} else {
			survived++
		}
		if watch.failed() {
			t.Fatalf("%s: the promise is broken", how)
		}
		if survived > c.rounds {
			t.Fatalf("%d rounds ended before they were killed, %d were killed", survived, killed)
		}
	}
	// Each point by itself: what it leaves is settled by passes that mint
	// nothing.
	for _, point := range points {
		note("point", runChild(t, p, point))
		c.checkSettled(t, p, files)
	}
	// Then one upon the other: the points in order, and after each a random
	// moment of one of the real commands.
	for round := 0; killed < c.rounds; round++ {
		if round%2 == 0 {
			note("point", runChild(t, p, points[round/2%len(points)]))
		} else {
			note(killAtRandom(t, p, usual))
		}
		if round%crashSettleEvery == crashSettleEvery-1 {
			c.checkSettled(t, p, files)
		}
	}
	c.checkSettled(t, p, files)
	c.checkSwept(t, p, files)
	probes, raced := watch.stop()
	t.Logf("%d rounds killed %v, %d more ended before that; %d probes, %d of them repeated because the file changed meanwhile, %d refused",
		killed, count, survived, probes, raced, watch.broken.Load())
}

// checkSettled makes passes until nothing is under way, and wants exactly the
// login in force at the source and in each file.
func (c crashed) checkSettled(t *testing.T, p *product, files []string) {
	t.Helper()
	doc := p.settled(time.Minute)
	current := doc.Registries[credential.Host(c.registry.host)].Current
	if diff := cmp.Diff([]string{current.ID}, c.owned(p.mark(c.registry.host))); diff != "" {
		t.Errorf("logins at the source (-want +got):\n%s", diff)
	}
	for _, file := range files {
		login, err := loginIn(file, c.registry.host)
		if err != nil {
			t.Error(err)
		} else if login.Password != current.Secret.Reveal() {
			t.Errorf("%s does not hold the login in force", file)
		}
	}
}

var madeAt = regexp.MustCompile(`-[0-9]{10}-`)

// checkSwept wants the next writers to have cleared away what killed ones left,
// once that is old enough to be nobody's work under way.
func (c crashed) checkSwept(t *testing.T, p *product, files []string) {
	t.Helper()
	folders := []string{p.data(), filepath.Join(p.data(), "tokens")}
	for _, file := range files {
		folders = append(folders, filepath.Dir(file))
	}
	left := func(age bool) (all []string) {
		for _, folder := range folders {
			entries, err := os.ReadDir(folder)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			for _, entry := range entries {
				name := entry.Name()
				if !strings.HasPrefix(name, ".") && !strings.HasSuffix(name, ".new") {
					continue
				}
				path := filepath.Join(folder, name)
				all = append(all, strings.TrimPrefix(path, p.dir))
				if !age {
					continue
				}
				// Some carry the second at which they were made in their names.
				long := time.Now().Add(-time.Hour)
				older := filepath.Join(folder, madeAt.ReplaceAllString(name, fmt.Sprintf("-%d-", long.Unix())))
				if err := errors.Join(os.Chtimes(path, long, long), os.Rename(path, older)); err != nil {
					t.Fatal(err)
				}
			}
		}
		return all
	}
	t.Logf("%d temporary files left by killed writers", len(left(true)))
	p.must("rotate")
	if still := left(false); len(still) > 0 {
		t.Errorf("%d temporary files are never cleared away: %q", len(still), still)
	}
}

// crashVar tells a child at which point to kill itself.
const crashVar = "REGKEEPER_E2E_CRASH"

// A point is "before:N" or "after:N" for the N-th time the journal is saved,
// or "step:N" for the N-th step that is reported, counted from 1.
const (
	beforeSave = "before:"
	afterSave  = "after:"
	atStep     = "step:"
	nowhere    = "nowhere"
)

// crashPoints counts how often a rotation saves its journal and reports a
// step, by one that is not killed, and lists all points. One more than was
// counted is listed, since a rotation that follows a crash has more to do.
func crashPoints(t *testing.T, p *product) (points []string) {
	t.Helper()
	// There is an older login whose overlap has passed, so that the rotation
	// has one to revoke.
	p.must("rotate")
	time.Sleep(600 * time.Millisecond)
	out, err := process.Output(t.Context(), child(p, nowhere))
	if err != nil {
		t.Fatal(err)
	}
	var saves, steps int
	if _, err := fmt.Sscanf(out[strings.LastIndex(out, "counted"):], "counted %d %d", &saves, &steps); err != nil {
		t.Fatalf("read %q: %v", out, err)
	}
	for n := 1; n <= saves+2; n++ {
		points = append(points, beforeSave+strconv.Itoa(n), afterSave+strconv.Itoa(n))
	}
	for n := 1; n <= steps+1; n++ {
		points = append(points, atStep+strconv.Itoa(n))
	}
	return points
}

// child is this program as one rotation that kills itself at a point.
func child(p *product, point string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], p.configPath(), p.data())
	cmd.Env = append(slices.Clone(p.env), crashVar+"="+point, "HOME="+p.home)
	return cmd
}

// runChild says whether the child was killed: a point can lie behind the
// rotation's end.
func runChild(t *testing.T, p *product, point string) (killed bool) {
	t.Helper()
	out, err := process.Output(t.Context(), child(p, point))
	if err == nil {
		return false
	}
	if !wasKilled(err) {
		t.Fatalf("child at %s: %v: %s", point, err, out)
	}
	return true
}

func wasKilled(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// startTime is what a process takes before it does anything.
const startTime = 15 * time.Millisecond

// killAtRandom starts one of the commands and kills it at a random moment of
// the time that a rotation usually takes, its start left out.
func killAtRandom(t *testing.T, p *product, usual time.Duration) (how string, killed bool) {
	t.Helper()
	how = []string{"rotate", "rotate", "sync", "up"}[rand.IntN(4)]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	timer := time.AfterFunc(startTime+rand.N(max(usual-startTime, startTime)), cancel)
	defer timer.Stop()
	_, err := process.Output(ctx, p.command(how))
	if err != nil && ctx.Err() == nil {
		t.Fatalf("regkeeper %s: %v", how, err)
	}
	return how, err != nil
}

// crash is the child's main function.
func crash(point, configPath, data string) {
	err := func() error {
		c, err := config.Load(configPath)
		if err != nil {
			return err
		}
		opened, err := app.Open(context.Background(), c, data, app.Options{})
		if err != nil {
			return err
		}
		trap := &trap{point: point, Store: opened.Store}
		opened.Store = trap
		k, err := app.Keeper(c, opened, func(keeper.Event) { trap.spring(atStep, int(trap.steps.Add(1))) })
		if err != nil {
			return err
		}
		_, err = k.Sync(context.Background(), keeper.Options{Rotate: k.Registries(), Impatient: true})
		fmt.Println("counted", trap.saves.Load(), trap.steps.Load())
		return err
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// trap is the journal, and kills this process at a point of it.
type trap struct {
	state.Store
	point        string
	saves, steps atomic.Int64
}

func (t *trap) Save(ctx context.Context, doc *state.Document) error {
	n := int(t.saves.Add(1))
	t.spring(beforeSave, n)
	err := t.Store.Save(ctx, doc)
	t.spring(afterSave, n)
	return err
}

func (t *trap) spring(kind string, n int) {
	if t.point == kind+strconv.Itoa(n) {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// probers read files and try what they find, all the time.
type probers struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	probes, raced, broken atomic.Int64
}

func startProbers(t *testing.T, c crashed, files []string) *probers {
	ctx, cancel := context.WithCancel(t.Context())
	p := &probers{cancel: cancel}
	base := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(base.CloseIdleConnections)
	t.Cleanup(func() { p.stop() })
	for _, file := range files {
		p.done.Go(func() {
			tick := time.NewTicker(c.pace)
			defer tick.Stop()
			for ctx.Err() == nil {
				if err := p.probe(ctx, c, file, base); err != nil && ctx.Err() == nil {
					p.broken.Add(1)
					t.Errorf("%s after %d probes: %v", file, p.probes.Load(), err)
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return p
}

// probe wants the login in a file to be accepted. One that is refused is no
// fault if the file holds another by then: a reader and a writer cannot be
// told apart in time. The other one is then tried in its place.
func (p *probers) probe(ctx context.Context, c crashed, file string, base http.RoundTripper) error {
	login, err := loginIn(file, c.registry.host)
	for {
		if err != nil {
			return err
		}
		ok, err := accepted(ctx, c.ref, login, base)
		if err != nil {
			return fmt.Errorf("ask the registry: %w", err)
		}
		p.probes.Add(1)
		if ok {
			return nil
		}
		again, err := loginIn(file, c.registry.host)
		if err != nil {
			return err
		}
		if *again == *login {
			return errors.New("the registry refuses the login that the file holds")
		}
		p.raced.Add(1)
		login = again
	}
}

func (p *probers) failed() bool { return p.broken.Load() > 0 }

func (p *probers) stop() (probes, raced int64) {
	p.cancel()
	p.done.Wait()
	return p.probes.Load(), p.raced.Load()
}
