package dockerconfig_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/problem"
)

// The test binary runs itself as other processes; these variables say as what.
const (
	envWriter = "REGKEEPER_TEST_WRITER"
	envUpdate = "REGKEEPER_TEST_UPDATE"
	envPath   = "REGKEEPER_TEST_PATH"
)

func TestMain(m *testing.M) {
	// Under the race detector a program sleeps for a second as it ends.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	path := os.Getenv(envPath)
	switch {
	case os.Getenv(envWriter) != "":
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		exit(keepLogins(ctx, path, os.Getenv(envWriter)))
	case os.Getenv(envUpdate) != "":
		_, err := dockerconfig.File{Path: path}.Update(context.Background(), func(doc *dockerconfig.Document) bool {
			return doc.Set("h", login("robot", strings.Repeat("s", 9000)))
		})
		if err != nil {
			err = fmt.Errorf("%s|%s|%w", problem.KindOf(err), problem.HintOf(err), err)
		}
		exit(err)
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// self is the test binary in another role.
func self(t testing.TB, env ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), env...)
	return command
}

// keepLogins is a regkeeper with three registries whose secrets rotate, until
// ctx ends; it then delivers once more.
func keepLogins(ctx context.Context, path, name string) error {
	file := dockerconfig.File{Path: path}
	for i := 0; ctx.Err() == nil; i++ {
		_, err := file.Update(ctx, func(doc *dockerconfig.Document) bool {
			return doc.Set(ownHost(name, i%3), login(name, fmt.Sprint("secret-", i)))
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return nil
}

func ownHost(name string, i int) credential.Host {
	return credential.Host(fmt.Sprintf("%s-%d.regkeeper.example", name, i))
}

// slowDocker is one run of the docker CLI, which asks the registry between
// reading the file and saving it. It reads while no regkeeper holds the
// folder's lock: one that reads between the two steps of an exchange can write
// back what it read, as Update's documentation says. It saves at any time.
func slowDocker(t testing.TB, path string, change func(map[string]types.AuthConfig)) {
	t.Helper()
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = folder.Close() }()
	if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	err = dockerChange(path, func(m map[string]types.AuthConfig) {
		change(m)
		if err := syscall.Flock(int(folder.Fd()), syscall.LOCK_UN); err != nil {
			t.Error(err)
		}
		time.Sleep(rand.N(2 * time.Millisecond)) // the registry's answer
	})
	if err != nil {
		t.Error(err)
	}
}

// TestConcurrentWriters holds Update to its promise that what other programs
// write in the meantime is kept, and that readers find whole documents.
func TestConcurrentWriters(t *testing.T) {
	const goroutines, processes, dockers = 2, 2, 36
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, "{\n\t\"auths\": {},\n\t\"currentContext\": \"remote\"\n}")
	var names []string

	var writers sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range goroutines {
		name := fmt.Sprint("goroutine-", i)
		names = append(names, name)
		writers.Go(func() {
			if err := keepLogins(ctx, path, name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	for i := range processes {
		name := fmt.Sprint("process-", i)
		names = append(names, name)
		command := self(t, envWriter+"="+name, envPath+"="+path)
		stdin, err := command.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		command.Stdout = &out
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		writers.Go(func() {
			<-ctx.Done()
			_ = stdin.Close()
			if err := command.Wait(); err != nil {
				t.Errorf("%s: %v: %s", name, err, out.String())
			}
		})
	}
	reads := 0
	writers.Go(func() {
		for ; ctx.Err() == nil; reads++ {
			text, err := os.ReadFile(path)
			if err != nil || len(text) == 0 {
				t.Errorf("a reader finds %d bytes, %v", len(text), err)
				return
			}
			if err := configfile.New(path).LoadFromReader(bytes.NewReader(text)); err != nil {
				t.Errorf("a reader finds a broken document: %v", err)
				return
			}
		}
	})

	want := map[string]bool{}
	for i := range dockers {
		host := fmt.Sprintf("docker-%d.example", i)
		slowDocker(t, path, func(m map[string]types.AuthConfig) { m[host] = types.AuthConfig{Username: "docker", Password: host} })
		want[host] = true
		if i%3 == 2 {
			gone := fmt.Sprintf("docker-%d.example", i-1)
			slowDocker(t, path, func(m map[string]types.AuthConfig) { delete(m, gone) })
			delete(want, gone)
		}
	}
	stop()
	writers.Wait()

	for _, name := range names {
		for i := range 3 {
			host := ownHost(name, i)
			_, err := dockerconfig.File{Path: path}.Update(t.Context(), func(doc *dockerconfig.Document) bool {
				return doc.Set(host, login(name, "final"))
			})
			if err != nil {
				t.Error(err)
			}
			want[string(host)] = true
		}
	}
	if diff := cmp.Diff(want, hosts(t, path)); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
	doc, err := dockerconfig.File{Path: path}.Read()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc.Bytes()), `"currentContext": "remote"`) {
		t.Errorf("a foreign key is lost in %s", doc.Bytes())
	}
	noTemps(t, filepath.Dir(path), "config.json")
	if reads == 0 {
		t.Error("the reader never read")
	}
}

// TestConcurrentTruncatingWriter runs beside a program that rewrites the file
// in place, in two parts, as editors and shells do.
func TestConcurrentTruncatingWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, `{"auths":{}}`)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var keeper sync.WaitGroup
	keeper.Go(func() {
		if err := keepLogins(ctx, path, "keeper"); err != nil {
			t.Error(err)
		}
	})
	for i := range 15 {
		doc, err := dockerconfig.File{Path: path}.Read()
		if err != nil {
			t.Fatal(err)
		}
		doc.Set(credential.Host(fmt.Sprintf("shell-%d.example", i)), login("u", "p"))
		text := doc.Bytes()
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err1 := file.Write(text[:len(text)/2])
		time.Sleep(time.Duration(i%4) * time.Millisecond) // the writer's own slowness
		_, err2 := file.Write(text[len(text)/2:])
		if err := errors.Join(err1, err2, file.Close()); err != nil {
			t.Fatal(err)
		}
		// The next edit is of what is there when this one has been seen.
		waitFor(t, func() bool { return hosts(t, path)[fmt.Sprintf("shell-%d.example", i)] })
	}
	stop()
	keeper.Wait()
	got := hosts(t, path)
	for i := range 15 {
		if name := fmt.Sprintf("shell-%d.example", i); !got[name] {
			t.Errorf("%s is lost", name)
		}
	}
}

// waitFor polls for what another goroutine is about to do.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
		time.Sleep(time.Millisecond)
	}
}
