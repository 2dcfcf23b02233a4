package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dockercli "github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/registry/builtin"
	"github.com/regkeeper/regkeeper/state"
)

// product is one regkeeper: a configuration, a data folder, an environment,
// and the real binary.
type product struct {
	t    testing.TB
	dir  string // working folder; regkeeper.yaml and regkeeper-data are in it
	home string
	env  []string
}

// newProduct makes a folder for a regkeeper, with a configuration unless the
// text is empty.
func newProduct(t testing.TB, config string, env ...string) *product {
	t.Helper()
	if _, err := binary(); err != nil {
		t.Fatal(err)
	}
	p := &product{t: t, dir: t.TempDir(), home: t.TempDir(), env: env}
	if config != "" {
		p.configure(config)
	}
	return p
}

func (p *product) configPath() string { return filepath.Join(p.dir, "regkeeper.yaml") }
func (p *product) data() string       { return filepath.Join(p.dir, "regkeeper-data") }

// configure replaces the configuration as an editor does, in one step.
func (p *product) configure(text string) {
	p.t.Helper()
	next := p.configPath() + ".next"
	writeText(p.t, next, text)
	if err := os.Rename(next, p.configPath()); err != nil {
		p.t.Fatal(err)
	}
}

func writeText(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command is regkeeper with nothing of the caller's home or configuration.
func (p *product) command(args ...string) *exec.Cmd {
	path, err := binary()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = p.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "XDG_CONFIG_HOME=" + filepath.Join(p.home, ".config")}, p.env...)
	return cmd
}

// outcome is how a command ended.
type outcome struct {
	code     int
	out, err string
}

func (p *product) run(args ...string) outcome {
	p.t.Helper()
	cmd := p.command(args...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := process.Run(p.t.Context(), cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("regkeeper %s: %v", strings.Join(args, " "), err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), diag.String()}
}

// must runs a command that is to succeed, and returns its standard output.
func (p *product) must(args ...string) string {
	p.t.Helper()
	got := p.run(args...)
	if got.code != 0 {
		p.t.Fatalf("regkeeper %s: exit code %d\n%s%s", strings.Join(args, " "), got.code, got.out, got.err)
	}
	return got.out
}

// fails runs a command that is to end with an exit code, and to say each of
// the words on standard error.
func (p *product) fails(code int, words []string, args ...string) outcome {
	p.t.Helper()
	got := p.run(args...)
	if got.code != code {
		p.t.Errorf("regkeeper %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got.code, code, got.out, got.err)
	}
	for _, word := range append([]string{"regkeeper: error: ", "regkeeper: hint: "}, words...) {
		if !strings.Contains(got.err, word) {
			p.t.Errorf("regkeeper %s does not say %q:\n%s", strings.Join(args, " "), word, got.err)
		}
	}
	return got
}

func (p *product) status() keeper.Status {
	p.t.Helper()
	return decode[keeper.Status](p.t, p.must("status", "-o", "json"))
}

func decode[T any](t testing.TB, text string) (value T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("decode %s: %v", text, err)
	}
	return value
}

// up starts the daemon and waits until its first pass has ended well.
func (p *product) up(args ...string) *process.Process {
	p.t.Helper()
	daemon := process.Start(p.t, p.command(append([]string{"up"}, args...)...))
	daemon.Until(p.t, time.Minute, "regkeeper is up", func() bool {
		return strings.Contains(daemon.Log(), "regkeeper is up")
	})
	daemon.Until(p.t, time.Minute, "ready", func() bool {
		got := p.run("status", "-o", "json")
		return got.code == 0 && decode[keeper.Status](p.t, got.out).Ready
	})
	return daemon
}

// settled makes passes until nothing is left of earlier logins: none is
// retired, none is under way. It returns the state then.
func (p *product) settled(limit time.Duration) *state.Document {
	p.t.Helper()
	var doc *state.Document
	eventually(p.t, limit, "the state to settle", func() error {
		if got := p.run("sync"); got.code != 0 {
			return fmt.Errorf("sync: exit code %d: %s", got.code, got.err)
		}
		var err error
		if doc, err = state.Read(p.data()); err != nil {
			return err
		}
		for host, r := range doc.Registries {
			if r.Current == nil || r.Intent != nil || r.Next != nil || len(r.Retired) > 0 {
				return fmt.Errorf("%s: in force %v, intent %v, next %v, %d retired", host, r.Current != nil, r.Intent, r.Next != nil, len(r.Retired))
			}
		}
		return nil
	})
	return doc
}

// mark is the mark of this regkeeper's logins at a registry.
func (p *product) mark(host string) credential.Mark {
	p.t.Helper()
	instance, err := state.Instance(p.data())
	if err != nil {
		p.t.Fatal(err)
	}
	return credential.MarkOf(instance, credential.Host(host))
}

// eventually ends the test unless check returns nil within the limit; the last
// error is told.
func eventually(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	if err := within(limit, check); err != nil {
		t.Fatalf("wait for %s: not within %v: %v", what, limit, err)
	}
}

// within polls, ever more slowly, until check returns nil or the time is up.
// It returns the last error.
func within(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for wait := 10 * time.Millisecond; ; wait = min(wait*3/2, 250*time.Millisecond) {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
}

// kept is one registry of a configuration.
type kept struct {
	host, source   string
	scopes         string // default pull
	every, overlap string // defaults 30d, 1h
	probe          string
}

// configText writes a configuration that delivers the logins to the files. The
// embedded registry is not started by it, unless serve says so.
func configText(registries []kept, serve string, files ...string) string {
	or := func(text, fallback string) string {
		if text == "" {
			return fallback
		}
		return text
	}
	var b strings.Builder
	b.WriteString("registries:\n")
	for _, r := range registries {
		fmt.Fprintf(&b, "  - host: %q\n    source: {%s}\n    scopes: [%s]\n    rotate: {every: %s, overlap: %s}\n",
			r.host, r.source, or(r.scopes, "pull"), or(r.every, "30d"), or(r.overlap, "1h"))
		if r.probe != "" {
			fmt.Fprintf(&b, "    probe: %q\n", r.probe)
		}
	}
	b.WriteString("targets:\n")
	for i, file := range files {
		fmt.Fprintf(&b, "  - name: file-%d\n    file: {path: %q}\n", i, file)
	}
	fmt.Fprintf(&b, "serve:\n  health: {listen: \"127.0.0.1:0\"}\n%s", serve)
	return b.String()
}

// embedded is the embedded registry, served by the test on the data folder of
// a regkeeper. It stays while that is killed.
type embedded struct {
	host   string // the first of hosts
	hosts  []string
	tokens *builtin.TokenStore
	pusher *authn.Basic // may pull and push everything
}

// serveEmbedded serves the registry on one free port each of the loopback
// addresses.
func serveEmbedded(t testing.TB, data string, addresses ...string) *embedded {
	t.Helper()
	tokens, err := app.OpenTokens(data)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := builtin.New(builtin.Config{Dir: filepath.Join(data, "registry"), Tokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	e := &embedded{tokens: tokens}
	for _, address := range append([]string{"127.0.0.1"}, addresses...) {
		listener, err := net.Listen("tcp", address+":0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: registry, ReadHeaderTimeout: 10 * time.Second}
		go server.Serve(listener)
		t.Cleanup(func() { server.Close() })
		e.hosts = append(e.hosts, listener.Addr().String())
	}
	e.host = e.hosts[0]
	token, secret, err := tokens.Create(t.Context(), builtin.TokenRequest{
		User: "pusher", Name: "pusher", Scopes: credential.ScopesOf(credential.Pull, credential.Push), Repositories: []string{"*"},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.pusher = &authn.Basic{Username: token.User, Password: secret.Reveal()}
	return e
}

// owned lists the ids of the tokens with a mark.
func (e *embedded) owned(t testing.TB, mark credential.Mark) (ids []string) {
	t.Helper()
	tokens, err := e.tokens.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		if mark.Owns(token.Name) {
			ids = append(ids, token.ID)
		}
	}
	return ids
}

// pushSmall pushes an image of two layers of a kilobyte.
func pushSmall(t testing.TB, ref string, login authn.Authenticator) {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(1<<10, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img, remote.WithAuth(login), remote.WithContext(t.Context())); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
}

// errNoLogin says that a file holds no login for a registry.
var errNoLogin = errors.New("no login in the file")

// loginIn reads a login from a config.json with the docker CLI's own reader.
func loginIn(path, host string) (*authn.Basic, error) {
	document, err := dockercli.Load(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	auth, ok := document.AuthConfigs[host]
	if !ok {
		return nil, fmt.Errorf("%s: %w for %s", path, errNoLogin, host)
	}
	return &authn.Basic{Username: auth.Username, Password: auth.Password}, nil
}

// pullAll pulls an image with the login that a config.json holds at that
// moment, every byte of it.
func pullAll(ctx context.Context, path, ref string, base http.RoundTripper) error {
	image, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	login, err := loginIn(path, image.Context().RegistryStr())
	if err != nil {
		return err
	}
	pulled, err := remote.Image(image, remote.WithContext(ctx), remote.WithAuth(login), remote.WithTransport(base))
	if err != nil {
		return err
	}
	layers, err := pulled.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		blob, err := layer.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, blob)
		if err := errors.Join(err, blob.Close()); err != nil {
			return err
		}
	}
	return nil
}

// accepted asks the registry for an image's manifest with a login, as the
// first half of a pull does. It returns false when the registry refuses the
// login, and an error when nobody can tell.
func accepted(ctx context.Context, ref string, login *authn.Basic, base http.RoundTripper) (bool, error) {
	image, err := name.ParseReference(ref)
	if err != nil {
		return false, err
	}
	_, err = remote.Head(image, remote.WithContext(ctx), remote.WithAuth(login), remote.WithTransport(base))
	var answer *transport.Error
	if errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden) {
		return false, nil
	}
	return err == nil, err
}
