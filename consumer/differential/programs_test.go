package differential_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/regkeeper/regkeeper/consumer/differential/peer"
)

// programs are the programs below peers/, with the tags that they are built with.
var programs = map[string]string{
	"docker": "", "docker28": "", "kubelet": "", "gitlab": "", "act": "", "gitea": "",
	"podman": "containers_image_openpgp exclude_graphdriver_btrfs",
}

// nobody is the user that the programs run as where the tests run as root: what is
// forbidden is not forbidden to root.
const nobody = 65534

func userID() int {
	if uid := os.Getuid(); uid != 0 {
		return uid
	}
	return nobody
}

var building sync.Mutex

// built is the path of a program. It is built once for what it is made of, and kept
// in $REGKEEPER_PEERS, or else in the user's cache folder.
func built(t testing.TB, name string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	folder := filepath.Join("peers", name)
	hash := sha256.New()
	for _, file := range []string{"go.mod", "go.sum", "main.go", "../../peer/peer.go"} {
		text, err := os.ReadFile(filepath.Join(folder, file))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(hash, "%s %d\n%s", file, len(text), text)
	}
	fmt.Fprint(hash, runtime.Version(), programs[name])
	cache := os.Getenv("REGKEEPER_PEERS")
	if cache == "" {
		of, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(of, "regkeeper", "peers")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(cache, fmt.Sprintf("differential-%s-%x", name, hash.Sum(nil)[:8]))
	if _, err := os.Stat(at); err == nil {
		return at
	}
	partly := fmt.Sprintf("%s.%d", at, os.Getpid())
	build := exec.CommandContext(context.Background(), "go", "build", "-C", folder, "-tags", programs[name], "-ldflags", "-s -w", "-o", partly, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	if err := os.Rename(partly, at); err != nil {
		t.Fatal(err)
	}
	return at
}

// program is one that runs, in a sandbox of its own.
type program struct {
	*sandbox
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	said    *tail
}

// start starts a program.
func start(t testing.TB, name string) *program {
	t.Helper()
	p := &program{sandbox: newSandbox(t), said: &tail{}}
	// Nobody may reach the cache folder of whoever runs the tests.
	own := filepath.Join(p.root, "program")
	at := built(t, name)
	// A file that is written to must not be open in a child that is about to begin.
	building.Lock()
	defer building.Unlock()
	if err := os.Link(at, own); err != nil {
		text, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(own, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	p.command = exec.CommandContext(context.Background(), own)
	p.command.Dir = p.root + workFolder
	p.command.Env = []string{"HOME=" + p.root + homeFolder, "PATH=" + p.path("")}
	p.command.Stderr = p.said
	if os.Getuid() == 0 {
		p.command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if p.in, err = p.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.in.Close()
		_ = p.command.Wait()
	})
	return p
}

// ask asks a question; the answers are those that differ.
func (p *program) ask(q peer.Question) ([]peer.Answer, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	if _, err := p.in.Write(append(text, '\n')); err != nil {
		return nil, fmt.Errorf("%w: %s", err, p.said)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, p.said)
	}
	var answers []peer.Answer
	if err := json.Unmarshal(line, &answers); err != nil {
		return nil, err
	}
	if len(answers) == 0 {
		return nil, errors.New("no answer")
	}
	return answers, nil
}

// tail keeps the end of what a program says.
type tail struct {
	mu   sync.Mutex
	text string
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text += string(p)
	t.text = t.text[max(0, len(t.text)-4000):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.text)
}
