// Package benchmarks_test measures regkeeper against named peers and limits,
// always in the same run, and reports ratios: the machines it runs on differ
// and are noisy. docs/BENCHMARKS.md says what each figure means.
package benchmarks_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/registry/builtin"
	"github.com/regkeeper/regkeeper/registry/oci"
	builtinsource "github.com/regkeeper/regkeeper/source/builtin"
	"github.com/regkeeper/regkeeper/state"
	"github.com/regkeeper/regkeeper/target/file"
)

// counted is a store that counts its writes.
type counted struct {
	state.Store
	saves atomic.Int64
}

func (c *counted) Save(ctx context.Context, doc *state.Document) error {
	c.saves.Add(1)
	return c.Store.Save(ctx, doc)
}

// lab is a keeper with the embedded registry and n files.
type lab struct {
	keeper   *keeper.Keeper
	host     credential.Host
	paths    []string
	requests atomic.Int64
	store    *counted
}

func newLab(b *testing.B, n int) *lab {
	b.Helper()
	folder := b.TempDir()
	l := &lab{}
	tokens, err := builtin.OpenTokens(filepath.Join(folder, "tokens", "tokens.json"), time.Now)
	check(b, err)
	registry, err := builtin.New(builtin.Config{Dir: filepath.Join(folder, "registry"), Tokens: tokens})
	check(b, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.requests.Add(1)
		registry.ServeHTTP(w, r)
	}))
	b.Cleanup(func() {
		server.Close()
		check(b, registry.Close())
	})
	l.host, err = credential.ParseHost(strings.TrimPrefix(server.URL, "http://"))
	check(b, err)
	for i := range n {
		l.paths = append(l.paths, filepath.Join(folder, "homes", strconv.Itoa(i), ".docker", "config.json"))
	}
	store, err := state.Open(filepath.Join(folder, "state"))
	check(b, err)
	b.Cleanup(func() { check(b, store.Close()) })
	l.store = &counted{Store: store}
	l.keeper = keeper.New(keeper.Config{
		Instance: "benchmark", Store: l.store, Verifier: &oci.Verifier{Transport: transport.New(transport.Config{})},
		Registries: []keeper.Registry{{
			Host: l.host, Origin: "builtin", Scopes: credential.ScopesOf(credential.Pull),
			Source: builtinsource.New(builtinsource.Config{Tokens: tokens, User: "bench", Repositories: []string{"*"}}),
		}},
		Targets: []keeper.Target{{Name: "homes", Kind: "file", Target: file.New(file.Config{Paths: l.paths})}},
	})
	_, err = l.keeper.Sync(b.Context(), keeper.Options{})
	check(b, err)
	return l
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDeliver1000 rotates a login into 1,000 files: mint, verify, deliver,
// read back, revoke. The limit is writing 1,000 such files durably, and
// nothing else, with as many writers.
func BenchmarkDeliver1000(b *testing.B) {
	const files = 1000
	l := newLab(b, files)
	limit := writeDurably(b, files)
	l.store.saves.Store(0)
	l.requests.Store(0)
	b.ResetTimer()
	for b.Loop() {
		_, err := l.keeper.Sync(b.Context(), keeper.Options{Rotate: []credential.Host{l.host}})
		check(b, err)
	}
	took := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(took.Seconds()/limit.Seconds(), "x-durable-writes")
	b.ReportMetric(float64(l.store.saves.Load())/float64(b.N), "journal-writes/op")
	b.ReportMetric(float64(l.requests.Load())/float64(b.N), "requests/op")
}

// writeDurably writes files as delivery must: temporary file, fsync, rename,
// fsync of the folder.
func writeDurably(b *testing.B, files int) time.Duration {
	b.Helper()
	folder := b.TempDir()
	content := bytes.Repeat([]byte("x"), 200)
	began := time.Now()
	var group errgroup.Group
	group.SetLimit(16)
	for i := range files {
		group.Go(func() error {
			home := filepath.Join(folder, strconv.Itoa(i))
			if err := os.Mkdir(home, 0o700); err != nil {
				return err
			}
			temp, err := os.CreateTemp(home, "t")
			if err != nil {
				return err
			}
			if _, err := temp.Write(content); err != nil {
				return err
			}
			if err := temp.Sync(); err != nil {
				return err
			}
			if err := temp.Close(); err != nil {
				return err
			}
			if err := os.Rename(temp.Name(), filepath.Join(home, "config.json")); err != nil {
				return err
			}
			dir, err := os.Open(home)
			if err != nil {
				return err
			}
			if err := dir.Sync(); err != nil {
				return err
			}
			return dir.Close()
		})
	}
	check(b, group.Wait())
	return time.Since(began)
}

// BenchmarkIdlePass is a pass in which nothing changed, over 1,000 files.
func BenchmarkIdlePass(b *testing.B) {
	l := newLab(b, 1000)
	l.store.saves.Store(0)
	l.requests.Store(0)
	b.ResetTimer()
	for b.Loop() {
		result, err := l.keeper.Sync(b.Context(), keeper.Options{})
		check(b, err)
		if len(result.Done) != 0 {
			b.Fatalf("an idle pass did %v", result.Done)
		}
	}
	b.ReportMetric(float64(l.store.saves.Load())/float64(b.N), "journal-writes/op")
	b.ReportMetric(float64(l.requests.Load())/float64(b.N), "requests/op")
}

// BenchmarkMerge1MB puts a login into a document of 1 MB. The peer is the
// docker CLI's own package doing the same, which keeps neither order nor
// unknown keys.
func BenchmarkMerge1MB(b *testing.B) {
	var text bytes.Buffer
	text.WriteString(`{"auths": {`)
	for i := 0; text.Len() < 1<<20; i++ {
		fmt.Fprintf(&text, "\n\t\t\"registry-%d.example.com\": {\"auth\": \"dXNlcjpwYXNzd29yZA==\"},", i)
	}
	text.WriteString(`"last.example.com": {"auth": "dXNlcjpwYXNzd29yZA=="}}, "credHelpers": {"x.example.com": "y"}}`)
	document := text.Bytes()
	login := credential.Login{Username: "user", Secret: credential.NewSecret("secret")}
	b.SetBytes(int64(len(document)))
	for b.Loop() {
		doc, err := dockerconfig.Parse(document)
		check(b, err)
		if !doc.Set("gitea.example.com", login) || len(doc.Bytes()) <= len(document) {
			b.Fatal("nothing was merged")
		}
	}
	took := b.Elapsed() / time.Duration(b.N)
	b.StopTimer()
	const peerRuns = 3
	began := time.Now()
	for range peerRuns {
		peer := configfile.New("")
		check(b, peer.LoadFromReader(bytes.NewReader(document)))
		peer.AuthConfigs["gitea.example.com"] = types.AuthConfig{Username: "user", Password: "secret"}
		check(b, peer.SaveToWriter(&bytes.Buffer{}))
	}
	b.ReportMetric(took.Seconds()/(time.Since(began).Seconds()/peerRuns), "x-docker-cli")
}

// program builds regkeeper once.
func program(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "regkeeper")
	build := exec.CommandContext(b.Context(), "go", "build", "-o", path, "github.com/regkeeper/regkeeper/cmd/regkeeper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// start runs up in an empty folder until it says that it is up.
func start(b *testing.B, program string) (running *exec.Cmd, took time.Duration) {
	b.Helper()
	running = exec.CommandContext(b.Context(), program, "up", "--data", filepath.Join(b.TempDir(), "data"), "--listen", "127.0.0.1:0")
	running.Dir = b.TempDir()
	out, err := running.StdoutPipe()
	check(b, err)
	began := time.Now()
	check(b, running.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "regkeeper is up") {
			return running, time.Since(began)
		}
	}
	b.Fatal("regkeeper up ended before it was up")
	return nil, 0
}

func stop(b *testing.B, running *exec.Cmd) {
	b.Helper()
	check(b, running.Process.Signal(os.Interrupt))
	check(b, running.Wait())
}

// BenchmarkFirstUp is the time from the start of the program in an empty
// folder to a proven rotation. The limit is what the same program takes to
// start and print its version.
func BenchmarkFirstUp(b *testing.B) {
	path := program(b)
	began := time.Now()
	check(b, exec.CommandContext(b.Context(), path, "version").Run())
	limit := time.Since(began)
	var total time.Duration
	for b.Loop() {
		running, took := start(b, path)
		total += took
		b.StopTimer()
		stop(b, running)
		b.StartTimer()
	}
	each := total / time.Duration(b.N)
	b.ReportMetric(float64(each.Milliseconds()), "ms-to-ready")
	b.ReportMetric(each.Seconds()/limit.Seconds(), "x-version")
}

// BenchmarkIdleMemory is the resident memory of an idle daemon with its
// registry. The limit is this test program, which links the same packages and
// has done less.
func BenchmarkIdleMemory(b *testing.B) {
	path := program(b)
	var total float64
	for b.Loop() {
		running, _ := start(b, path)
		total += resident(b, running.Process.Pid)
		stop(b, running)
	}
	each := total / float64(b.N)
	b.ReportMetric(each, "MiB-resident")
	b.ReportMetric(each/resident(b, os.Getpid()), "x-test-program")
}

// resident is VmRSS of proc_pid_status(5), in MiB.
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		leaveout.Out(b, "resident memory", "it is read from /proc: "+err.Error())
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			check(b, err)
			return kib / 1024
		}
	}
	b.Fatal("no VmRSS")
	return 0
}
